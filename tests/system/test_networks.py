"""Networks: real traffic between containers, names, published ports, the way out, and nothing left whatever dies."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hostnet
import pytest
from facilities import full_run, in_guest, only_as_root, require, rootless

import nbcontainer as nbc
from nbcontainer import verbs
from nbcontainer.engine import local
from nbcontainer.errors import InternalError, SpecError
from nbcontainer.events import Event, Output
from nbcontainer.state import list_containers, prune

REPOSITORY = Path(__file__).resolve().parents[2]
SECONDS = 60.0
"""For what happens at once on a machine that has nothing else to do."""
NEVER_SECONDS = 2
"""For what does not happen at all."""
SECRETS = ("169.254.169.254", "100.100.100.200", "168.63.129.16", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "fd00:42::42")
"""Where clouds answer."""
SERVE = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write({text!r} + self.client_address[0].encode())
    def log_message(self, *unused): pass
server = http.server.ThreadingHTTPServer(("", {port}), Handler)
print("serving", flush=True)
server.serve_forever()
"""


@pytest.fixture(autouse=True, scope="module")
def networks_of_our_own() -> Iterator[None]:
    """A fresh engine, whose router sees the tests' host; at the end the host is as it was."""
    require(_has_pyroute2(), "pyroute2 is missing: pip install pyroute2")
    before = _without_us()
    nbc.run("pass", net="bridge")
    yield
    local.shutdown()
    assert _settled(before) == before
    nbc.run("pass", mem="128M")  # the tests that follow find an engine


def _has_pyroute2() -> bool:
    try:
        import pyroute2  # noqa: F401
    except ImportError:
        return False
    return True


def _settled(wanted: hostnet.State) -> hostnet.State:
    """The state of the host, when it is as ``wanted`` or has had the time for it."""
    deadline = time.monotonic() + SECONDS
    while (now := hostnet.state()) != wanted and time.monotonic() < deadline:
        time.sleep(0.05)  # Linux takes links and rules down when it gets round to it
    return now


def _without_us() -> hostnet.State:
    """The state of the host when nothing of an earlier test is left there: Linux takes its time for that."""
    local.shutdown()
    deadline = time.monotonic() + SECONDS
    while True:
        now = hostnet.state()
        if time.monotonic() > deadline or not any(line.split()[1].startswith("nbc") for line in now["links"]):
            return now
        time.sleep(0.05)


def networks() -> Any:
    return local.open_local().networks


@contextlib.contextmanager
def network(name: str, **options: Any) -> Iterator[Any]:
    made = networks().create(name, **options)
    try:
        yield made
    finally:
        networks().remove(name)


@contextlib.contextmanager
def running(code: str, until: str = "serving", **options: Any) -> Iterator[Any]:
    """A container that runs meanwhile, from when it printed ``until``; gives its run."""
    said: queue.SimpleQueue[Any] = queue.SimpleQueue()
    printed = ""

    def on_event(event: Event) -> None:
        nonlocal printed
        if isinstance(event, Output):
            printed += event.text
            if until in printed:
                said.put(None)

    def work() -> None:
        try:
            results.append(nbc.run(code, on_start=runs.append, on_event=on_event, **options))
        except BaseException as error:
            said.put(error)
        else:
            said.put(AssertionError(f"it ended: {results[0].describe()} {printed}"))

    runs: list[Any] = []
    results: list[nbc.Result] = []
    thread = threading.Thread(target=work)
    thread.start()
    try:
        error = said.get(timeout=SECONDS)
        if error is not None:
            raise error
        yield runs[0]
    finally:
        if runs:
            runs[0].kill()
        thread.join()


def serve(text: str, port: int = 80) -> str:
    return SERVE.format(text=text.encode(), port=port)


def fetch(url: str, seconds: float = SECONDS, **options: Any) -> nbc.Result:
    """What a container prints that asks for ``url``."""
    code = f"import urllib.request; print(urllib.request.urlopen({url!r}, timeout={seconds}).read().decode())"
    return nbc.run(code, **{"net": "bridge", **options})


def ask(address: str, port: int, timeout: float = SECONDS) -> bytes:
    """What a web server answers to this process."""
    with socket.create_connection((address, port), timeout=timeout) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        data = b""
        while piece := sock.recv(65536):
            data += piece
    return data


@pytest.mark.essential
def test_containers_reach_each_other_by_name_and_no_others() -> None:
    with network("apart"), running(serve("hello "), net="bridge", name="web") as web:
        (port_address,) = [address for item in networks().list() for container, address in item.containers.items() if container == web.container_id]
        for host in ("web", "WEB", web.container_id, port_address):
            answer = fetch(f"http://{host}/")
            assert answer.stdout.startswith("hello 1"), answer.stderr
        for host in ("web", port_address):
            other = fetch(f"http://{host}/", NEVER_SECONDS, net="apart")
            assert other.error is not None and other.error.ename == "URLError", other.stdout
    gone = fetch("http://web/")
    assert gone.error is not None and "Name or service not known" in gone.error.evalue + gone.stderr


def test_one_container_cannot_keep_all_others_from_asking_for_names() -> None:
    """It wants as many connections to the resolver as it can get, and sends nonsense besides."""
    hostile = (
        "import os, socket\nheld, alive = [], 0\nresolver = open('/etc/resolv.conf').read().split('nameserver')[1].split()[0]\n"
        "udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.connect((resolver, 53))\n"
        "for number in range(200):\n"
        "    try: held.append(socket.create_connection((resolver, 53), timeout=0.2))\n"
        "    except TimeoutError: pass\n"
        "    for data in (b'', os.urandom(20), b'\\0' * 11, os.urandom(2) + b'\\x01\\0\\0\\1' + b'\\0' * 6 + b'\\x3fx'):\n"
        "        try: udp.send(data)\n"
        "        except OSError: pass\n"
        "for connection in held:\n"
        "    try: alive += connection.recv(1) != b''\n"
        "    except TimeoutError: alive += 1\n"
        "    except OSError: pass\n"
        "print(alive, socket.gethostbyname('web') != '')"
    )
    with running(serve("hello "), net="bridge", name="web"):
        result = nbc.run(hostile, net="bridge", mem="64M")
        assert result.ok, result.describe()
        alive, answered = result.stdout.split()
        assert (0 < int(alive) <= 32, answered) == (True, "True"), result.stderr


def test_both_families_work_and_a_container_knows_its_own_name() -> None:
    with running(serve("six ").replace('HTTPServer((""', 'HTTPServer(("::"').replace("server =", "http.server.ThreadingHTTPServer.address_family = 10\nserver ="), net="bridge", name="six", hostname="box"):
        code = """
        import socket
        for name in ("six", "box"):
            found = {item[0].name: item[4][0] for item in socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)}
            with socket.create_connection((found["AF_INET6"], 80), timeout=60) as sock:
                sock.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
                assert b"six fd" in sock.makefile("rb").read()
        assert socket.gethostbyaddr(found["AF_INET"])[0] in ("six", "box")
        own = socket.gethostbyname(socket.gethostname())
        assert own.split(".")[:2] == found["AF_INET"].split(".")[:2] and own != found["AF_INET"], own
        """
        result = nbc.run(textwrap.dedent(code), net="bridge")
        assert result.ok, result.error


def test_several_networks_of_one_container() -> None:
    with network("left"), network("right"), running(serve("both "), net="left,right", name="middle"):
        for name in ("left", "right"):
            assert fetch("http://middle/", net=name).stdout.startswith("both ")
        with running(serve("left "), net="left", name="alone"):
            assert fetch("http://alone/", net=["left", "right"]).stdout.startswith("left ")
            assert fetch("http://alone/", net="right").error is not None
        both = nbc.run("import os; print(sorted(os.listdir('/sys/class/net')))", net=["left", "right"])
        assert both.stdout == "['eth0', 'eth1', 'lo']\n"


def test_the_default_route_is_by_a_network_that_leads_somewhere() -> None:
    code = """
    for line in open("/proc/net/route"):
        words = line.split()
        if words[1] == "00000000":
            print(words[0])
    """
    with network("lab"), network("db", internal=True), network("dc", internal=True):
        for names, way in (("db,lab", "eth1"), ("lab,db", "eth0"), ("db,dc", "eth0"), ("db,dc,lab", "eth2")):
            assert nbc.run(textwrap.dedent(code), net=names).stdout == f"{way}\n", names


@pytest.mark.essential
def test_published_ports_are_on_loopback_and_the_same_port_of_two_containers_is_no_conflict() -> None:
    with (
        running(serve("one "), publish=["18080:80"]),  # without --net: it is bridge
        running(serve("two "), net="bridge", publish="18081:80"),
    ):
        assert b"one " in ask("127.0.0.1", 18080)
        assert b"two " in ask("127.0.0.1", 18081)
        with pytest.raises(OSError):
            ask("127.0.0.2", 18080, 1)
    with pytest.raises(ConnectionRefusedError):
        ask("127.0.0.1", 18080)


def test_a_free_port_is_chosen_and_said() -> None:
    with running(serve("free "), publish=["80"]) as run:
        (port,) = run.spec.ports
        assert port.host_port > 1023 and any(str(port) in note for note in run.spec.notes)
        deadline = time.monotonic() + SECONDS
        while not (listed := [record.ports for record in list_containers() if record.id == run.container_id]) and time.monotonic() < deadline:
            time.sleep(0.02)  # it is listed when it has lived for a moment
        assert listed == [str(port)]
        assert b"free " in ask("127.0.0.1", port.host_port)


def test_datagrams_and_large_streams_pass_published_ports() -> None:
    code = """
    import socket, threading
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); sock.bind(("", 53))
    def datagrams():
        while True:
            data, peer = sock.recvfrom(65535); sock.sendto(data[::-1], peer)
    threading.Thread(target=datagrams, daemon=True).start()
    server = socket.create_server(("", 9000))
    print("serving", flush=True)
    while True:
        client, _ = server.accept()
        total = 0
        while data := client.recv(65536): total += len(data)
        client.sendall(str(total).encode()); client.close()
    """
    with running(textwrap.dedent(code), publish=["127.0.0.1:18053:53/udp", "19000:9000"]):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(SECONDS)
            for text in (b"abc", b"x" * 1200 + b"y"):
                sock.sendto(text, ("127.0.0.1", 18053))
                assert sock.recv(65535) == text[::-1]
        with socket.create_connection(("127.0.0.1", 19000), timeout=SECONDS) as stream:
            stream.sendall(bytes(8 << 20))
            stream.shutdown(socket.SHUT_WR)
            assert stream.recv(100) == str(8 << 20).encode()


def test_what_a_container_sent_before_its_end_arrives() -> None:
    code = """
    import socket
    server = socket.create_server(("", 9000))
    print("serving", flush=True)
    client, _ = server.accept()
    client.sendall(bytes({size}))
    """
    size = 2 << 20
    publish = ["19000:9000"]
    with running(textwrap.dedent(code).format(size=size), publish=publish) as run, socket.create_connection(("127.0.0.1", 19000), timeout=SECONDS) as stream:
        deadline = time.monotonic() + SECONDS
        while any(record.id == run.container_id for record in list_containers()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        received = 0
        while data := stream.recv(1 << 16):
            received += len(data)
        assert received == size


def test_ports_that_cannot_be_had_are_refused_before_anything_runs() -> None:
    with socket.create_server(("127.0.0.1", 18090)), pytest.raises(SpecError, match=r"port 18090/tcp of 127.0.0.1 is in use"):
        nbc.run("raise SystemExit(3)", publish=["18090:80"])
    with pytest.raises(SpecError, match="is not an address of this host"):
        nbc.run("", publish=["192.0.2.77:18090:80"])
    with running(serve("x"), publish=["18091:80"]), pytest.raises(SpecError, match="in use"):
        nbc.run("", publish=["18092:80", "18091:80"])
    socket.create_server(("127.0.0.1", 18092)).close()  # was given back
    if rootless() and int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) > 80:
        with pytest.raises(SpecError, match="for root only"):
            nbc.run("", publish=["80:80"])


def test_networks_that_cannot_be_had_are_refused() -> None:
    with pytest.raises(SpecError, match="there is no network 'nowhere'; there are bridge"):
        nbc.run("", net="nowhere")
    with pytest.raises(SpecError, match="there is no network 'nowhere'"):
        networks().remove("nowhere")
    with network("once", subnet="10.77.0.0/24") as once:
        assert once.subnet == "10.77.0.0/24" and once.gateway == "10.77.0.1"
        with pytest.raises(SpecError, match="there is a network 'once' already"):
            networks().create("once")
        with pytest.raises(SpecError, match=r"10\.77\.0\.0/25 collides with 10\.77\.0\.0/24"):
            networks().create("twice", subnet="10.77.0.0/25")
        with running(serve("x"), net="once", name="user"), pytest.raises(SpecError, match="in use by user"):
            networks().remove("once")
    with pytest.raises(SpecError, match="not a private network"):
        networks().create("public", subnet="8.8.8.0/24")


def test_usage_counts_what_passed_the_interfaces() -> None:
    payload = 3 << 20
    with running(serve("x" * payload), net="bridge", name="big"):
        result = fetch("http://big/")
    assert payload <= result.usage.net_rx_bytes < 1.2 * payload
    assert 0 < result.usage.net_tx_bytes < payload
    assert nbc.run("pass").usage.net_rx_bytes == 0


def test_fifty_containers_at_once_on_one_bridge() -> None:
    """Each reaches one other by name."""
    count = 12 if rootless() and not full_run() else 20 if in_guest() else 50
    barrier = threading.Barrier(count)
    code = """
    import socket, threading
    server = socket.create_server(("", 7000))
    server.settimeout(120)
    def answer():
        client, _ = server.accept(); client.sendall(b"hello"); client.close()
    thread = threading.Thread(target=answer, daemon=True); thread.start()
    input_name = {other!r}
    import time
    deadline = time.monotonic() + 60
    while True:
        try:
            with socket.create_connection((input_name, 7000), timeout=60) as sock:
                assert sock.recv(10) == b"hello"
            break
        except OSError:
            if time.monotonic() > deadline: raise
            time.sleep(0.05)
    thread.join(60)
    """

    def one(number: int) -> nbc.Result:
        barrier.wait(SECONDS)
        return nbc.run(textwrap.dedent(code).format(other=f"n{(number + 1) % count}"), net="bridge", name=f"n{number}", mem="64M", pids=32)

    with ThreadPoolExecutor(count) as pool:
        results = list(pool.map(one, range(count)))
    assert [result.describe() for result in results if not result.ok] == []


def test_many_runs_leave_the_network_as_it_was() -> None:
    nbc.run("pass", net="bridge")
    local.open_local().drop_spares()
    before = hostnet.state(), _router_links()
    for _ in range(500 if full_run() else 40):
        assert nbc.run("pass", net="bridge").ok
    local.open_local().drop_spares()
    assert _settled(before[0]) == before[0]
    deadline = time.monotonic() + SECONDS
    while _router_links() != before[1] and time.monotonic() < deadline:
        time.sleep(0.05)  # Linux takes them down after their namespaces
    assert _router_links() == before[1]


def _router_links() -> list[str]:
    pid = networks()._router.pid
    return sorted(line.split(":")[0].strip() for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:] if "veth" not in line)


KERNEL = """
import sys
sys.path.insert(0, {repository!r})
import nbcontainer as nbc
from nbcontainer import verbs
nbc.run("import time; print('up', flush=True); time.sleep(60)", net="bridge", publish=["18095:80"], on_event=lambda event: print(event, flush=True))
"""


@pytest.mark.essential
def test_a_killed_kernel_leaves_nothing_of_its_networks() -> None:
    before = hostnet.state()
    kernel = subprocess.Popen([sys.executable, "-c", KERNEL.format(repository=str(REPOSITORY))], stdout=subprocess.PIPE)
    try:
        assert kernel.stdout is not None
        while line := kernel.stdout.readline():
            if b"up" in line:
                break
        assert line, "it ended"
        assert rootless() or hostnet.state() != before
    finally:
        kernel.send_signal(signal.SIGKILL)
        kernel.wait()
        kernel.stdout.close()
    assert _settled(before) == before
    _await_free(18095)
    prune()  # its cgroup


def _await_free(port: int) -> None:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            socket.create_server(("127.0.0.1", port)).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)  # its process is ending


def test_a_killed_router_takes_its_networks_with_it_and_another_takes_its_place() -> None:
    networks().create("lost")
    before = None
    with running(serve("x"), net="bridge", publish=["18096:80"]) as run:
        before = networks()._router.pid
        os.kill(before, signal.SIGKILL)
        with pytest.raises(OSError):
            deadline = time.monotonic() + SECONDS
            while time.monotonic() < deadline:
                ask("127.0.0.1", 18096, 1)
        assert run.container_id
    with pytest.raises((SpecError, InternalError)):
        nbc.run("", net="lost")
    assert fetch("http://nobody/").error is not None
    assert networks()._router.pid != before
    with running(serve("again "), net="bridge", name="web"):
        assert fetch("http://web/").stdout.startswith("again ")


def test_an_interface_that_vanishes_is_no_trouble() -> None:
    """A container with CAP_NET_ADMIN takes its own interface away."""
    code = """
    import socket, struct
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    index = socket.if_nametoindex("eth0")
    sock.send(struct.pack("=IHHII BBHiII", 32, 17, 5, 1, 0, 0, 0, 0, index, 0, 0))
    assert struct.unpack_from("=i", sock.recv(4096), 16)[0] == 0
    print(socket.if_nameindex())
    """
    result = nbc.run(textwrap.dedent(code), net="bridge", cap_add=["NET_ADMIN"])
    assert result.ok and result.stdout == "[(1, 'lo')]\n", result.error
    assert fetch("http://nobody/").error is not None


def test_interfaces_that_somebody_removes_are_named() -> None:
    only_as_root("the uplink is there for root")
    before = _without_us()
    from pyroute2 import IPRoute

    try:
        nbc.run("pass", net="bridge")
        with IPRoute() as route:
            (link,) = [item for item in route.get_links() if str(item.get_attr("IFLA_IFNAME")).startswith("nbc")]
            route.link("del", index=link["index"])
        with pytest.raises(nbc.HostError, match=f"network late: its interface {link.get_attr('IFLA_IFNAME')} has been removed"):
            networks().create("late")
        assert [item.name for item in networks().list()] == ["bridge"]
        assert nbc.run("print(1)", net="bridge").stdout == "1\n", "containers still reach each other"
        local.open_local().drop_spares()
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        inner = os.open(f"/proc/{networks()._router.pid}/ns/net", os.O_RDONLY)
        from nbcontainer.linux import syscalls

        syscalls.setns(inner, syscalls.CLONE_NEWNET)
        try:
            with IPRoute() as route:
                route.link("del", index=route.link_lookup(ifname="nbc0")[0])
        finally:
            syscalls.setns(own, syscalls.CLONE_NEWNET)
            os.close(own)
            os.close(inner)
        local.open_local().drop_spares()  # the thread that makes them may have made one since
        with pytest.raises(nbc.HostError, match="network bridge: its interface nbc0 has been removed"):
            nbc.run("pass", net="bridge")
    finally:
        local.shutdown()
    assert _settled(before) == before
    nbc.run("pass", net="bridge")


def test_subnets_that_the_host_has_are_not_taken() -> None:
    only_as_root("it gives the host addresses")
    from pyroute2 import IPRoute

    before = _without_us()
    with IPRoute() as route:
        for address, length in (("10.192.0.1", 12), ("10.77.5.1", 24)):
            route.addr("add", index=1, address=address, prefixlen=length)
        try:
            with pytest.raises(SpecError, match=r"10\.77\.5\.0/25 collides with 10\.77\.5\.\d+/\d+, which is in use here"):
                networks().create("mine", subnet="10.77.5.0/25")
            assert [item.subnet for item in networks().list()] == ["172.16.4.0/22"], "the first of the next pool; its link to the host has 172.16.0.0/22"
        finally:
            local.shutdown()
            for address, length in (("10.192.0.1", 12), ("10.77.5.1", 24)):
                route.addr("del", index=1, address=address, prefixlen=length)
    assert _settled(before) == before
    nbc.run("pass", net="bridge")


def test_the_address_pool_used_up_and_a_subnet_that_the_host_has() -> None:
    code = """
    import sys
    sys.path.insert(0, {repository!r})
    import nbcontainer as nbc
    from nbcontainer.engine import local
    try:
        nbc.run("pass", net="bridge", engine="local")
        networks = local.open_local().networks
        for number in range(9):
            print("made", networks.create("n%d" % number).subnet, flush=True)
    except nbc.HostError as error:
        print("HostError", error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code).format(repository=str(REPOSITORY))],
        env={**os.environ, "NBCONTAINER_NETWORK_POOL": "10.99.0.0/20"}, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert "HostError no subnet is free" in lines[-1] and "10.99.0.0/20" in lines[-1], done
    assert len(lines) == (4 if rootless() else 3), "four /22 are in a /20; root's link to the host has one of them"


_NFTABLES = ("tables", "nft chains", "nft rules")


def test_the_way_out_and_what_it_does_not_lead_to() -> None:
    """The host forwards, and beyond it is another machine: both are namespaces of this test. Somebody else has rules there, too."""
    only_as_root("it makes a machine beyond the host")
    before = _without_us()
    try:
        with hostnet.foreign_rules(), _outside(forwards=True) as (outside, host_side):
            with_foreign = hostnet.state()
            assert len(with_foreign["nft rules"]) == len(before["nft rules"]) + 1
            result = nbc.run(_ASK.format(address=outside, port=9100, seconds=SECONDS), net="bridge")
            assert result.ok and result.stdout.strip() == host_side, (result.error, "masqueraded: it sees the host")
            with running(serve("x"), net="bridge", name="web"):
                _assert_path_is_drawn(nbc.networks.inspect(), "uplink")
            assert nbc.run(_ASK.format(address="2001:db8:1::2", port=9100, seconds=SECONDS), net="bridge").stdout.strip() == "2001:db8:1::1"
            for address, port in ((host_side, 9101), *((secret, 9100) for secret in SECRETS)):
                refused = nbc.run(_ASK.format(address=address, port=port, seconds=NEVER_SECONDS), net="bridge")
                assert refused.error is not None and refused.error.ename == "TimeoutError", (address, refused.stdout)
            with network("inner", internal=True):
                assert not nbc.run(_ASK.format(address=outside, port=9100, seconds=NEVER_SECONDS), net="inner").ok
                for both in ("inner,bridge", "bridge,inner"):
                    assert nbc.run(_ASK.format(address=outside, port=9100, seconds=SECONDS), net=both).stdout.strip() == host_side, both
            with running(serve("direct "), net="bridge") as run:
                address = next(iter(item.containers[run.container_id] for item in networks().list() if run.container_id in item.containers))
                assert b"direct " in ask(address, 80), "the host reaches a container by its address"
            assert len(hostnet.state()["nft rules"]) > len(with_foreign["nft rules"]), "ours are beside them"
            local.shutdown()
            after = hostnet.state()
            assert [after[kind] for kind in _NFTABLES] == [with_foreign[kind] for kind in _NFTABLES]
    finally:
        local.shutdown()
    assert _settled(before) == before
    nbc.run("pass", net="bridge")  # so that the next test finds what this one found


def test_root_gets_out_by_pasta_where_the_host_does_not_forward() -> None:
    only_as_root("it makes a machine beyond the host")
    require(shutil.which("pasta"), "pasta is missing: apt install passt")
    before = _without_us()
    try:
        with _outside(forwards=False) as (outside, host_side):
            result = nbc.run(_ASK.format(address=outside, port=9100, seconds=SECONDS), net="bridge")
            assert result.ok and result.stdout.strip() == host_side, (result.error, result.spec.notes)
            assert nbc.networks.ls()[0].way_out == "pasta"
            with running(serve("x"), net="bridge", name="web"):
                _assert_path_is_drawn(nbc.networks.inspect(), "pasta0")
            pasta = networks()._pasta.pid
            status = Path(f"/proc/{pasta}/status").read_text()
            assert "Uid:\t65534\t65534\t65534\t65534" in status and "CapBnd:\t0000000000201000" in status, "it is nobody, with the right to enter a namespace"
            os.kill(pasta, signal.SIGKILL)
            deadline = time.monotonic() + SECONDS
            while not networks()._pasta.died:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert nbc.run(_ASK.format(address=outside, port=9100, seconds=SECONDS), net="bridge").ok, "another one took its place"
            pasta = networks()._pasta.pid
            with _another_address("10.55.0.1"):  # pasta's connections to it would be the host's own
                for address in (host_side, "10.55.0.1", "169.254.169.254"):
                    assert not nbc.run(_ASK.format(address=address, port=9101, seconds=NEVER_SECONDS), net="bridge").ok, address
            with nbc.start(net="bridge") as session, _another_address("10.55.0.2"), socket.create_server(("10.55.0.2", 9102)):
                late = session.run(_ASK.format(address="10.55.0.2", port=9102, seconds=NEVER_SECONDS))
                assert late.error is not None and late.error.ename == "TimeoutError", "nothing was begun since the host has it"
            with running(serve("direct "), net="bridge") as run:
                (address,) = [item.containers[run.container_id] for item in networks().list() if run.container_id in item.containers]
                assert b"direct " in ask(address, 80), "the host reaches a container by its address"
            local.shutdown()
            assert not Path(f"/proc/{pasta}").exists()
            assert _pasta_of_a_killed_kernel()
    finally:
        local.shutdown()
    assert _settled(before) == before
    nbc.run("pass", net="bridge")


def _pasta_of_a_killed_kernel() -> int:
    """Its process id; it has ended with its kernel."""
    code = """
    import sys, time
    sys.path.insert(0, {repository!r})
    import nbcontainer as nbc
    from nbcontainer.engine import local
    nbc.run("pass", net="bridge")
    print(local.open_local().networks._pasta.pid, flush=True)
    time.sleep(60)
    """
    kernel = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code).format(repository=str(REPOSITORY))], stdout=subprocess.PIPE)
    try:
        assert kernel.stdout is not None
        pasta = int(kernel.stdout.readline())
    finally:
        kernel.send_signal(signal.SIGKILL)
        kernel.wait()
        kernel.stdout.close()
    deadline = time.monotonic() + SECONDS
    while Path(f"/proc/{pasta}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)  # it is ending
    prune()
    return pasta


@contextlib.contextmanager
def _another_address(address: str) -> Iterator[None]:
    """The host has it too, for a while."""
    from pyroute2 import IPRoute

    with IPRoute() as route:
        (index,) = route.link_lookup(ifname="out0")
        route.addr("add", index=index, address=address, prefixlen=24)
        try:
            yield
        finally:
            route.addr("del", index=index, address=address, prefixlen=24)


def test_an_ordinary_user_gets_out_by_pasta() -> None:
    """tests/own_network.py has made the machine beyond the host."""
    outside = os.environ.get("NBCONTAINER_TEST_OUTSIDE")
    if not rootless() or outside is None:
        pytest.skip("for the rootless lane of tests/run, which is on a host of its own")
    require(shutil.which("pasta"), "pasta is missing: apt install passt")
    result = nbc.run(_ASK.format(address=outside, port=9100, seconds=SECONDS), net="bridge")
    assert result.ok and result.stdout.strip() == "203.0.113.1", (result.error, "it sees the host")
    with socket.create_server(("0.0.0.0", 9102)), network("inner", internal=True):
        for address, net in (("203.0.113.1", "bridge"), (outside, "inner")):
            port = 9102 if address == "203.0.113.1" else 9100
            assert not nbc.run(_ASK.format(address=address, port=port, seconds=NEVER_SECONDS), net=net).ok, (address, net)
    assert nbc.networks.ls()[0].way_out == "pasta"


_ASK = """
import socket
with socket.create_connection(({address!r}, {port}), timeout={seconds}) as sock:
    print(sock.recv(100).decode())
"""


@contextlib.contextmanager
def _outside(*, forwards: bool) -> Iterator[tuple[str, str]]:
    """A machine that the host has a link and its default route to, and that tells who asks at port 9100; the host listens at 9101, at all
    its addresses. ``forwards``: the host does. Gives both addresses."""
    from pyroute2 import IPRoute

    outside, host_side = "203.0.113.2", "203.0.113.1"
    others = ["2001:db8:1::2", *SECRETS]
    listeners = []
    with contextlib.ExitStack() as stack:
        with hostnet.in_another_namespace() as fd:
            fd = os.dup(fd)
            listeners.append(socket.socket(socket.AF_INET6))
        stack.callback(os.close, fd)
        with IPRoute() as route:
            route.link("add", ifname="out0", kind="veth", peer={"ifname": "in0", "net_ns_fd": fd})
            (index,) = route.link_lookup(ifname="out0")
            stack.callback(_delete_link, index)
            route.addr("add", index=index, address=host_side, prefixlen=24)
            route.link("set", index=index, state="up")
            route.addr("add", index=index, address="2001:db8:1::1", prefixlen=64, flags=2)
            route.route("add", dst="default", gateway=outside)
            route.route("add", family=socket.AF_INET6, dst="default", gateway="2001:db8:1::2")
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        from nbcontainer.linux import syscalls

        syscalls.setns(fd, syscalls.CLONE_NEWNET)
        try:
            with IPRoute() as route:
                (inner,) = route.link_lookup(ifname="in0")
                route.addr("add", index=inner, address=outside, prefixlen=24)
                for other in others:
                    route.addr("add", index=inner, address=other, prefixlen=64 if other == others[0] else 128 if ":" in other else 32, flags=2 if ":" in other else 0)
                route.link("set", index=inner, state="up")
        finally:
            syscalls.setns(own, syscalls.CLONE_NEWNET)
            os.close(own)
        listeners.append(socket.socket())
        for listener, address, port in zip(listeners, ("::", "0.0.0.0"), (9100, 9101), strict=True):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
            listener.listen()
            thread = threading.Thread(target=_tell, args=(listener,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
        Path("/proc/sys/net/ipv4/ip_forward").write_text(str(int(forwards)))
        stack.callback(Path("/proc/sys/net/ipv4/ip_forward").write_text, "0")
        Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text(str(int(forwards)))
        stack.callback(Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text, "0")
        yield outside, host_side
    for listener in listeners:
        listener.close()


def _delete_link(index: int) -> None:
    from pyroute2 import IPRoute

    with IPRoute() as route:
        route.link("del", index=index)


def _tell(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, peer = listener.accept()
            with client:
                client.sendall(peer[0].removeprefix("::ffff:").encode())


def test_net_rate_holds_in_both_directions() -> None:
    """A bucket lets its burst through at once, and from then on no more than the rate: that nothing is faster is certain on any machine."""
    rate, payload = 1 << 20, 2 << 20
    code = f"""
    import socket, time
    server = socket.create_server(("", 9000))
    print("serving", flush=True)
    while True:
        client, _ = server.accept()
        client.sendall(bytes({payload})); client.shutdown(socket.SHUT_WR)
        while client.recv(65536): pass
        client.close()
    """
    ask_both = f"""
    import socket, time
    with socket.create_connection(("slow", 9000)) as sock:
        begin, total = time.monotonic(), 0
        while data := sock.recv(65536): total += len(data)
        middle = time.monotonic()
        sock.sendall(bytes({payload})); sock.shutdown(socket.SHUT_WR)
        assert not sock.recv(1)
    print(total, middle - begin, time.monotonic() - middle)
    """
    least = 0.8 * (payload - (rate // 4 + (64 << 10))) / rate
    for limited, other in (({}, {"net_rate": "1M"}), ({"net_rate": "1M"}, {})):
        with running(textwrap.dedent(code), net="bridge", name="slow", **limited) as run:
            result = nbc.run(textwrap.dedent(ask_both), net="bridge", **other)
            total, received, sent = result.stdout.split()
            assert int(total) == payload and float(received) > least and float(sent) > 1.0 * least - 0.4, result.stdout
            if limited:
                assert run.update(net_rate="100M").net_bytes_per_second == 100 << 20
                assert nbc.run(textwrap.dedent(ask_both), net="bridge").ok


def test_net_delay_is_in_force_or_the_cell_does_not_run() -> None:
    try:
        with running(serve("late "), net="bridge", name="late", net_delay="150ms"):
            code = """
            import socket, time
            begin = time.monotonic()
            socket.create_connection(("late", 80)).close()
            print(time.monotonic() - begin)
            """
            assert float(nbc.run(textwrap.dedent(code), net="bridge").stdout) > 0.29, "there and back"
    except nbc.HostError as error:
        assert "netem" in error.message and "modprobe sch_netem" in error.remedy


def test_ports_and_addresses_of_a_container_are_told() -> None:
    with running(serve("x"), net="bridge", name="web", publish=["18097:80", "[::1]:18098:53/udp"]) as run:
        port, inspect = verbs.find("port"), verbs.find("inspect")
        assert port.answer(["web"]) == "80/tcp -> 127.0.0.1:18097\n53/udp -> [::1]:18098"
        assert port.answer(["web", "80"]) == "127.0.0.1:18097"
        with pytest.raises(SpecError, match="port: 53/tcp of web is not published"):
            port.answer(["web", "53"])
        settings = inspect.answer(["web"]).content[0]["NetworkSettings"]  # type: ignore[union-attr]
        assert settings["Ports"]["80/tcp"] == [{"HostIp": "127.0.0.1", "HostPort": "18097"}]
        (bridge,) = [network for network in networks().list() if network.name == "bridge"]
        assert settings["Networks"] == {"bridge": {"IPAddress": bridge.containers[run.container_id], "Gateway": bridge.gateway}}


def test_inspect_shows_what_is_there() -> None:
    with running(serve("x"), net="bridge", name="web", publish=["18097:80"]), running(serve("y"), net="bridge", name="client", net_rate="1M"):
        picture = nbc.networks.inspect()
        titles = [container.title for container in picture.containers]
        assert sorted(titles) == ["container client", "container web"]
        by_title = dict(zip(titles, picture.containers, strict=True))
        web = by_title["container web"]
        (inner,) = [link for link in web.links if link.name == "eth0"]
        (outer,) = [link for link in picture.router.links if link.index == inner.peer]
        (bridge,) = [link for link in picture.router.links if link.name == picture.network.bridge]
        assert outer.peer == inner.index and outer.master == bridge.index and bridge.kind == "bridge"
        assert picture.network.gateway + "/22" in bridge.addresses
        assert any(route.via == picture.network.gateway and route.destination == "default" for route in web.routes)
        assert web.published == ("127.0.0.1:18097->80/tcp",)
        assert any("tbf 1 MiB/s" in link.queues for link in by_title["container client"].links)
        inodes = {web.inode, by_title["container client"].inode, picture.router.inode, picture.host.inode}
        assert len(inodes) == 4 and os.stat("/proc/self/ns/net").st_ino == picture.host.inode
        assert f"net:[{web.inode}]" in picture._repr_svg_() and f"network namespace {web.inode}" in str(picture)


def _assert_path_is_drawn(picture: Any, way_out: str) -> None:
    """What the packet's way names in the router is in its box, and in the SVG; ``way_out``: a link that it must name."""
    from nbcontainer.network.picture import packet_path

    path = " ".join(packet_path(picture))
    assert way_out in path
    named = [link.title for space in (picture.host, picture.router, *picture.containers) for link in space.links if link.title in path]
    titles = re.findall(r"\d+: [\w-]+(?:@if\d+)?", path)
    assert sorted(set(titles)) == sorted(set(named))
    (router_route,) = re.findall(r"the router forwards it \((.*?)\)", path)
    assert router_route.endswith(f" dev {way_out}")
    assert router_route in [str(route) for route in picture.router.routes]
    svg = picture._repr_svg_()
    assert way_out in [link.name for link in picture.router.links] and all(title in svg for title in (*titles, router_route))
    (up,) = [link for link in picture.router.links if link.name == "uplink"] or [None]
    if way_out == "uplink":
        (host_end,) = [link for link in picture.host.links if link.index == up.peer]
        assert f"it comes out at {host_end.title}" in path
    assert "169.254.77.53/32" in [text for link in picture.router.links for text in link.addresses], "the resolver's"


def test_the_python_functions_for_networks() -> None:
    nbc.networks.create("mine", internal=True)
    assert "mine" in nbc.networks.as_table(nbc.networks.ls())
    assert nbc.networks.prune() == ("mine",)
    for wrong in ("bridge", "host", "a b", ""):
        with pytest.raises(SpecError, match="network create"):
            nbc.networks.create(wrong)
    with pytest.raises(SpecError, match="always there"):
        nbc.networks.rm("bridge")


def test_a_real_nginx_serves_one_network_and_no_other() -> None:
    """Debian's package, as it is on this host, in the system root: twice on one host, on the same port."""
    require(os.path.exists("/usr/sbin/nginx"), "nginx is missing: apt install nginx-light")
    settings = """
    mkdir -p /tmp/www /tmp/nginx
    echo "page of $NAME" >/tmp/www/index.html
    cat >/tmp/nginx.conf <<END
    daemon off; pid /tmp/nginx/pid; error_log stderr; user root;
    events { worker_connections 64; }
    http {
        access_log off; root /tmp/www;
        client_body_temp_path /tmp/nginx/a; proxy_temp_path /tmp/nginx/b; fastcgi_temp_path /tmp/nginx/c; uwsgi_temp_path /tmp/nginx/d; scgi_temp_path /tmp/nginx/e;
        server { listen 80; }
    }
    END
    echo serving
    exec /usr/sbin/nginx -c /tmp/nginx.conf
    """
    body = textwrap.dedent(settings)
    page = "bash -c 'exec 3<>/dev/tcp/one/80; printf \"GET / HTTP/1.0\\r\\n\\r\\n\" >&3; cat <&3'"
    with (
        network("apart"),
        running(body, program="sh", net="bridge", name="one", env=["NAME=one"], publish="18100:80"),
        running(body, program="sh", net="bridge", name="two", env=["NAME=two"], publish="18101:80"),
    ):
        for port, name in ((18100, b"one"), (18101, b"two")):
            deadline = time.monotonic() + SECONDS
            answer = b""
            while b"page of" not in answer and time.monotonic() < deadline:
                with contextlib.suppress(OSError):
                    answer = ask("127.0.0.1", port)
            assert b"page of " + name in answer and b"Server: nginx" in answer, answer
        neighbour = nbc.run(page, program="sh", net="bridge")
        assert "page of one" in neighbour.stdout, neighbour.stderr
        stranger = nbc.run(page, program="sh", net="apart")
        assert stranger.exit_code and "page of" not in stranger.stdout


def test_an_answer_that_came_too_late_is_not_taken_for_the_next_one() -> None:
    """As after an interrupt in the middle of a question."""
    nbc.run("pass", net="bridge")
    networks = local.open_local().networks
    router = networks._router
    assert router is not None
    os.kill(router.pid, signal.SIGSTOP)
    router._socket.settimeout(0.05)
    try:
        with pytest.raises(InternalError, match="did not answer"):
            networks.list()
    finally:
        router._socket.settimeout(60)
        os.kill(router.pid, signal.SIGCONT)
    assert networks.create("late", internal=True).name == "late"
    assert [network.name for network in networks.list()] == ["bridge", "late"]
    networks.remove("late")
