"""``--filter`` of ``ps``, as Docker has it; and Docker's words that are not here."""

from __future__ import annotations

import re

import pytest

from nbcontainer import dockers, verbs
from nbcontainer.errors import SpecError
from nbcontainer.options import OPTIONS, parse_options
from nbcontainer.state import ContainerRecord
from nbcontainer.verbs import listing

PORTS = {"web": "127.0.0.1:8080->80/tcp, 127.0.0.1:8443->443/tcp", "names": "0.0.0.0:5353->53/udp", "six": "[::1]:9000->90/tcp", "closed": ""}


@pytest.fixture
def some(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        ContainerRecord(1, f"{number:012x}", name, 2, "running", float(number), "python", None, "system", ports=ports, networks="none", mounts="data,/tmp")
        for number, (name, ports) in enumerate(PORTS.items())
    ]
    monkeypatch.setattr(listing, "records", lambda: found)


@pytest.mark.usefixtures("some")
@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ("publish=8080", "web"),
        ("publish=8080/tcp", "web"),
        ("publish=8080/udp", ""),
        ("publish=80", ""),
        ("publish=8000-9000", "six web"),
        ("publish=5353/udp", "names"),
        ("expose=80", "web"),
        ("expose=80-443", "six web"),
        ("expose=53", ""),
        ("publish=9000 publish=8443", "six web"),
        ("publish=8000-9000 name=^w", "web"),
        ("publish=8080 expose=90", ""),
        ("status=dead", ""),
        ("status=dead status=running volume=data", "closed names six web"),
    ],
)
def test_ports_and_states(filters: str, names: str) -> None:
    words = [word for one in filters.split() for word in ("--filter", one)]
    answer = verbs.find("ps").answer([*words, "--format", "{{.Names}}"])
    assert isinstance(answer, str) and " ".join(sorted(answer.split())) == names


@pytest.mark.usefixtures("some")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("publish=web", "ps: --filter publish=web: 'web' is not a port such as 80, 8000-8009 or 53/udp"),
        ("publish=0", "'0' is not a port"),
        ("expose=9-8", "'9-8' is not a port"),
        ("expose=70000", "'70000' is not a port"),
        ("publish=80/sctp", "is not a port"),
        ("label=a", "ps: --filter label: there is no such filter; containers have no labels"),
        ("health=healthy", "there is no such filter; nothing checks a container's health"),
        ("is-task=true", "a swarm"),
        ("statsu=x", "did you mean status"),
    ],
)
def test_wrong_filters_are_one_line(given: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        verbs.find("ps").answer(["--filter", given])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_docker_s_spellings_are_taken() -> None:
    words = "--network bridge --pids-limit 9 --cpuset-cpus 0 --memory 64M --rm".split()
    assert parse_options(words).container == {"net": ["bridge"], "pids": "9", "cpuset": "0", "mem": "64M"}
    assert parse_options(["--rm", "ls"]).program == ("ls",)


@pytest.mark.parametrize("name", sorted(dockers.OPTIONS))
def test_docker_s_other_options_say_what_to_write(name: str) -> None:
    with pytest.raises(SpecError, match=re.escape(f"{name}: there is no such option; {dockers.OPTIONS[name]}")):
        parse_options([name, "1"])
    assert name not in {known for option in OPTIONS for known in option.names}


def test_what_is_proposed_is_there() -> None:
    known = {name for option in OPTIONS for name in option.names}
    for table in (dockers.OPTIONS, dockers.VERBS):
        for text in table.values():
            assert set(re.findall(r"(?<![\w-])--[a-z-]+", text)) <= known | {"--version"}, text
    assert not set(dockers.VERBS) & {verb.name for verb in verbs.VERBS}
    assert not set(dockers.FILTERS) & set(listing.PS.filters)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["update", "--cpu-shares", "5", "x"], "update: there is no option --cpu-shares; write --cpu-weight N"),
        (["--mem", "64M", "bash"], "--mem: a verb comes first, such as: %container run --mem"),
        (["system", "prune"], "system: there is no such verb; prune removes"),
        (["image", "ls"], "image: is not available yet; it comes with images"),
    ],
)
def test_verbs_of_docker_s(words: list[str], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        verbs.answer(words[0], words[1:])
    assert str(caught.value).startswith(message)
