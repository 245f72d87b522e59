"""Tab completion of what stands behind ``--format`` and ``--filter``."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from nbcontainer.verbs import connecting, listing, storage
from nbcontainer.verbs.lists import Listing

_LISTINGS: dict[str, Listing] = {one.verb: one for one in (listing.PS, listing.STATS, storage.LS, connecting.LS)}
_OF_INSPECT = {
    "inspect": "State.Status State.OOMKilled State.Outcome State.ExitCode State.Pid Name Id Config.Cmd Config.Env HostConfig.Memory HostConfig.NanoCpus "
    "HostConfig.NetworkMode NetworkSettings.Networks NetworkSettings.Ports Mounts Namespaces Cgroups",
    "volume inspect": "Name Mountpoint CreatedAt SizeBytes InUse",
    "network inspect": "Name Internal EnableIPv6 IPAM.Config Containers WayOut",
}
"""What is asked for most."""


def of_template(verb: str, text: str, last: str) -> list[str]:
    """``text``: what of the template is there; ``last``: its last word, which is to be completed."""
    names = [field.name for field in _LISTINGS[verb].fields] if verb in _LISTINGS else _OF_INSPECT.get(verb, "").split()
    if "{{" not in text:
        words = [*(("json", "table") if verb in _LISTINGS else ("json",)), *(f"'{{{{.{name}}}}}'" for name in names), "'{{json .}}'"]
        return [word for word in words if word.startswith(last)]
    head, brace, name = last.rpartition("{{.")
    if not brace or "}" in name:
        return []
    return [f"{head}{brace}{known}}}}}" for known in names if known.startswith(name)]


def of_filter(verb: str, text: str, names_for: Callable[[str], Iterable[str]]) -> list[str]:
    key, equals, value = text.partition("=")
    filters = _LISTINGS[verb].filters
    if not equals:
        return [f"{name}=" for name in filters if name.startswith(key)]
    if key in ("before", "since", "name"):
        values: Iterable[str] = names_for(verb.replace(" ls", " inspect"))
    else:
        values = filters.get(key, ())
    return [f"{key}={one}" for one in values if one.startswith(value)]
