"""Drawing a network: host, router and containers as boxes, veth pairs as the lines between them, and the way of one packet."""

from __future__ import annotations

from html import escape

from nbcontainer.network.described import Link, NamespaceDescription, NetworkPicture
from nbcontainer.units import format_size

MOST_CONTAINERS = 12
_WIDTH, _GAP, _MARGIN = 350, 76, 14
_LINE, _HEAD, _PAD, _LINK = 16, 40, 10, 22
_STYLE = """
text{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;fill:#24292f}
.title{font-weight:600}.small{font-size:11px;fill:#57606a}.box{fill:#f6f8fa;stroke:#8c959f}.router{fill:#eef6ff;stroke:#4493f8}
.container{fill:#f0fff4;stroke:#2da44e}.link{fill:#fff;stroke:#57606a}.bridge{fill:#fff8e6;stroke:#bf8700}.down{stroke-dasharray:3 3}
.pair{stroke:#57606a;stroke-width:2;fill:none}.process{stroke:#4493f8;stroke-width:2;stroke-dasharray:6 4;fill:none}
.port{stroke:#bf8700;stroke-width:2;fill:none}
"""


def packet_path(picture: NetworkPicture) -> list[str]:
    """The way of one packet, a step each: between two containers where there are two, else to the outside."""
    pairs = [(container, link, outer) for container in _shown(picture) for link, outer in _pairs(picture, container)]
    bridge = _bridge(picture)
    if not pairs or bridge is None:
        return ["No container is on this network now: start one with --net " + picture.network.name + "."]
    first, link, outer = pairs[0]
    start = [f"{first.title} sends by {link.title}: {_why(first, link, len(pairs) > 1)}", f"it comes out at the other end of the pair, {outer.title}, in the router"]
    if len(pairs) > 1:
        second, other, port = pairs[1]
        return [
            *start,
            f"{outer.name} and {port.name} are ports of the bridge {bridge.title}, which knows {other.mac or 'the address'} behind {port.name}",
            f"it goes into {port.title} and comes out at {other.title}, in {second.title}",
        ]
    start.append(f"{outer.name} is a port of the bridge {bridge.title}, whose own address {picture.network.gateway} the packet was for")
    return start + _outwards(picture)


def _why(container: NamespaceDescription, link: Link, near: bool) -> str:
    route = next((route for route in container.routes if route.link == link.name and (route.destination == "default") != near), None)
    return f"its route says {route}" if route is not None else "its routes say so"


def _outwards(picture: NetworkPicture) -> list[str]:
    if not picture.network.way_out:
        return [f"the router has no way out for it ({picture.network.why_no_way_out or 'none is set up'}) and drops it"]
    route = next((route for route in picture.router.routes if route.destination == "default"), None)
    leaves = f"the router forwards it ({route}) and writes its own address into it (masquerade)" if route is not None else "the router forwards it"
    if picture.network.way_out != "host":
        link = _way_out(picture)
        takes = f"takes it from {link.title} and " if link is not None else ""
        return [leaves, f"{picture.network.way_out}, a process of the host's, {takes}makes the connection for it, as the host's own"]
    up = _uplink(picture)
    host = next((link for link in picture.host.links if up is not None and link.index == up.peer), None)
    return [leaves, f"it comes out at {host.title if host else 'the host'}, in the host, which forwards it with its own address (masquerade)"]


def as_text(picture: NetworkPicture) -> str:
    network = picture.network
    lines = [f"network {network.name}: {network.subnet}" + (f", {network.subnet_v6}" if network.subnet_v6 else "") + (", internal" if network.internal else "")]
    lines += [f"way out: {network.way_out}" if network.way_out else f"no way out: {network.why_no_way_out}"]
    for namespace in (picture.host, picture.router, *picture.containers):
        lines += ["", f"{namespace.title} (network namespace {namespace.inode})"]
        for link in namespace.links:
            lines.append("  " + _line(link, namespace))
        lines += [f"  route {route}" for route in namespace.routes]
        lines += [f"  published {port}" for port in namespace.published]
    lines += ["", "The way of one packet:", *(f"  {number}. {step}" for number, step in enumerate(packet_path(picture), 1))]
    return "\n".join(lines)


def _line(link: Link, namespace: NamespaceDescription) -> str:
    master = next((other.name for other in namespace.links if other.index == link.master), None)
    words = [link.title, link.kind, f"port of {master}" if master else "", " ".join(link.addresses), "" if link.up else "DOWN", *link.queues]
    return "  ".join([*filter(None, words), f"in {format_size(link.received_bytes)}, out {format_size(link.sent_bytes)}"])


def _shown(picture: NetworkPicture) -> tuple[NamespaceDescription, ...]:
    return picture.containers[:MOST_CONTAINERS]


def _bridge(picture: NetworkPicture) -> Link | None:
    return next((link for link in picture.router.links if link.name == picture.network.bridge), None)


def _uplink(picture: NetworkPicture) -> Link | None:
    """The router's end of its link to the host."""
    return next((link for link in picture.router.links if link.kind == "veth" and link.master is None), None)


def _way_out(picture: NetworkPicture) -> Link | None:
    """What the router's default route is by."""
    names = [route.link for route in picture.router.routes if route.destination == "default"]
    return next((link for link in picture.router.links if link.name in names), None)


def _pairs(picture: NetworkPicture, container: NamespaceDescription) -> list[tuple[Link, Link]]:
    """(inner end, outer end) of the container's veth pairs on this network."""
    bridge = _bridge(picture)
    ports = {link.index: link for link in picture.router.links if bridge is not None and link.master == bridge.index}
    return [(link, ports[link.peer]) for link in container.links if link.peer in ports and ports[link.peer].peer == link.index]


class _Svg:
    """Shapes, collected; y grows downwards."""

    def __init__(self) -> None:
        self.shapes: list[str] = []

    def text(self, x: float, y: float, text: str, kind: str = "", *, room: int = 49) -> None:
        shown = text if len(text) <= room else text[: room - 1] + "…"
        tip = f"<title>{escape(text)}</title>" if shown != text else ""
        self.shapes.append(f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(shown)}{tip}</text>')

    def box(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        self.shapes.append(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" class="{kind}"/>')

    def line(self, begin: tuple[float, float], end: tuple[float, float], kind: str) -> None:
        middle = (begin[0] + end[0]) / 2
        self.shapes.insert(0, f'<path d="M{begin[0]:g} {begin[1]:g} C{middle:g} {begin[1]:g} {middle:g} {end[1]:g} {end[0]:g} {end[1]:g}" class="{kind}"/>')


def _height(namespace: NamespaceDescription) -> float:
    links = sum(_link_height(link) for link in namespace.links)
    return _HEAD + links + _LINE * (len(namespace.routes) + len(namespace.published)) + _PAD


def _link_height(link: Link) -> float:
    return _LINK + _LINE * (len(link.addresses) + len(link.queues)) + 6


def _draw(svg: _Svg, namespace: NamespaceDescription, x: float, y: float, kind: str) -> dict[int, float]:
    """One box; returns the height of the middle of each link's title, by index."""
    svg.box(x, y, _WIDTH, _height(namespace), f"box {kind}")
    svg.text(x + _PAD, y + 17, namespace.title, "title", room=38)
    svg.text(x + _PAD, y + 32, f"net:[{namespace.inode}]", "small")
    below = y + _HEAD
    middles: dict[int, float] = {}
    for link in namespace.links:
        height = _link_height(link) - 6
        shape = "bridge" if link.kind == "bridge" else "link"
        svg.box(x + _PAD, below, _WIDTH - 2 * _PAD, height, shape if link.up else f"{shape} down")
        svg.text(x + 2 * _PAD, below + 15, f"{link.title}  {link.kind}")
        middles[link.index] = below + 11
        for number, text in enumerate((*link.addresses, *link.queues), 1):
            svg.text(x + 2 * _PAD, below + 15 + _LINE * number, text, "small")
        below += height + 6
    for text in (*(f"route {route}" for route in namespace.routes), *(f"published {port}" for port in namespace.published)):
        below += _LINE
        svg.text(x + _PAD, below - 4, text, "small")
    return middles


def as_svg(picture: NetworkPicture) -> str:
    svg = _Svg()
    shown = _shown(picture)
    columns = [_MARGIN + number * (_WIDTH + _GAP) for number in range(3)]
    top = _MARGIN + 22
    title = f"network {picture.network.name}  {picture.network.subnet}"
    svg.text(_MARGIN, _MARGIN + 10, title, "title", room=120)
    host = _draw(svg, picture.host, columns[0], top, "")
    router = _draw(svg, picture.router, columns[1], top, "router")
    bottom = max(top + _height(picture.host), top + _height(picture.router))
    up, out = _uplink(picture), _way_out(picture)
    if up is not None and up.peer in host:
        svg.line((columns[0] + _WIDTH - _PAD, host[up.peer]), (columns[1] + _PAD, router[up.index]), "pair")
    if out is not None and out is not up:
        end, middle = columns[1] + _PAD, (columns[0] + _WIDTH, top + 17)
        svg.line(middle, (end, router[out.index]), "process")
        svg.text(middle[0] + 8, middle[1] - 6, picture.network.way_out, "small")
    below = float(top)
    for container in shown:
        inner = _draw(svg, container, columns[2], below, "container")
        for link, outer in _pairs(picture, container):
            svg.line((columns[1] + _WIDTH - _PAD, router[outer.index]), (columns[2] + _PAD, inner[link.index]), "pair")
        below += _height(container) + _PAD
    if len(picture.containers) > len(shown):
        svg.text(columns[2], below + 12, f"and {len(picture.containers) - len(shown)} more")
        below += _LINE
    _ports(svg, picture, router, columns[1])
    bottom = max(bottom, below) + _LINE
    svg.text(_MARGIN, bottom, "The way of one packet", "title")
    for number, step in enumerate(packet_path(picture), 1):
        svg.text(_MARGIN, bottom + _LINE * number + 2, f"{number}. {step}", "", room=150)
        height = bottom + _LINE * (number + 1)
    width = columns[2] + _WIDTH + _MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}" style="max-width:100%;height:auto" role="img" '
        f'aria-label="{escape(title, quote=True)}"><style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>{"".join(svg.shapes)}</svg>'
    )


def _ports(svg: _Svg, picture: NetworkPicture, middles: dict[int, float], x: float) -> None:
    """A line along the router's left side from the bridge to its ports."""
    bridge = _bridge(picture)
    if bridge is None:
        return
    for link in picture.router.links:
        if link.master == bridge.index:
            side = x + _PAD
            path = f"M{side:g} {middles[bridge.index]:g} h-5 V{middles[link.index]:g} h5"
            svg.shapes.append(f'<path d="{path}" class="port"/>')
