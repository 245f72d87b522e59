"""The line of a cell: options, PROGRAM, and one-line messages."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbcontainer.errors import SpecError
from nbcontainer.notebook.completion import complete
from nbcontainer.options import OPTIONS, command_help_text, help_text, parse_options
from nbcontainer.validate import OPTION_NAMES


def test_options_end_at_program() -> None:
    parsed = parse_options(["--mem", "64M", "bash", "-e", "--mem", "1"])
    assert parsed.container == {"mem": "64M"}
    assert parsed.program == ("bash", "-e", "--mem", "1")


def test_double_dash_ends_options() -> None:
    assert parse_options(["--pids=5", "--", "-x"]).program == ("-x",)


def test_repeated_options_become_lists() -> None:
    parsed = parse_options(["-v", "./a:/a", "--volume", "./b:/b:ro", "-e", "A=1"])
    assert parsed.container == {"volume": ["./a:/a", "./b:/b:ro"], "env": ["A=1"]}


@pytest.mark.parametrize("spelling", ["-m", "--mem", "--memory"])
def test_spellings_of_mem(spelling: str) -> None:
    assert parse_options([spelling, "1G"]).container == {"mem": "1G"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-m64M"], {"mem": "64M"}),
        (["-m=64M"], {"mem": "64M"}),
        (["-eA=1", "-e=B=2", "-e", "C=3"], {"env": ["A=1", "B=2", "C=3"]}),
        (["-v./a:/a", "-w/x"], {"volume": ["./a:/a"], "workdir": "/x"}),
    ],
)
def test_values_may_be_attached_to_short_options(words: list[str], expected: dict[str, object]) -> None:
    assert parse_options(words).container == expected


def test_the_command_has_docker_s_interactive() -> None:
    for word in ("-i", "--interactive"):
        assert parse_options([word, "cat"], command=True).front == {"interactive": True}
        assert word in command_help_text()
    with pytest.raises(SpecError, match="-it: containers have no terminals; leave -it out"):
        parse_options(["-it", "cat"], command=True)
    with pytest.raises(SpecError, match="--interactive: there is no such option"):
        parse_options(["--interactive", "cat"])


def test_the_front_end_s_options_are_kept_apart() -> None:
    parsed = parse_options(["--quiet", "--result", "r", "--init"])
    assert parsed.front == {"quiet": True, "result": "r"}
    assert parsed.container == {"init": True}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--meem", "1"], "did you mean --mem"),
        (["--me", "1"], "no such option"),
        (["--bogus", "1"], "no such option; --help"),
        (["--volumes", "1"], "did you mean --volume"),
        (["-x1"], "-x1: there is no such option; --help"),
        (["--mem"], "a value is missing"),
        (["--init=1"], "takes no value"),
        (["--mem", "1M", "--mem", "2M"], "given twice"),
        (["--image", "x"], "not available yet"),
        (["--result", "a-b"], "not a name"),
    ],
)
def test_refusals_are_one_line(words: list[str], message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        parse_options(words)
    assert "\n" not in str(caught.value)
    assert words[-2 if len(words) > 1 else 0].partition("=")[0] in str(caught.value)


@given(st.lists(st.text(max_size=12), max_size=6))
def test_any_words_parse_or_are_refused(words: list[str]) -> None:
    try:
        parsed = parse_options(words)
    except SpecError:
        return
    assert not words or parsed.program == tuple(words[len(words) - len(parsed.program) :])


def test_every_container_option_is_known_to_the_spec() -> None:
    front = {"quiet", "explain", "dry_run", "no_raise_error", "out", "err", "result", "help", "engine", "live", "no_live", "trust_output", "input", "output"}
    front |= {"detach", "keep", "exec", "rm"}
    for option in OPTIONS:
        assert option.later or option.key in OPTION_NAMES | front, option.key


def test_help_has_every_option_that_works() -> None:
    text = help_text()
    for option in OPTIONS:
        assert (option.names[0] + " " in text or option.names[0] + "," in text) != option.later, option.names[0]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("%%container --me", ["--mem", "--memory-high"]),
        ("%%container --root h", ["host"]),
        ("%%container --unshare pid,n", ["pid,net"]),
        ("%container d", ["diff", "doctor"]),
        ("print --me", []),
        ("%container network ", ["create", "ls", "inspect", "rm", "prune"]),
        ("%container network i", ["inspect"]),
        ("%container network inspect ", ["bridge"]),
        ("%container network rm ", []),
        ("%container network create --", ["--engine", "--help", "--internal", "--subnet"]),
        ("%container network rm --e", ["--engine"]),
        ("%container network ls --engine l", ["local"]),
        ("%%container --net ", ["none", "host", "bridge"]),
        ("%%container --net=b", ["--net=bridge"]),
        ("%%container --net lab,", ["lab,bridge"]),
        ("%container run --net bridge,", []),
        ("%%container --exec lab --m", ["--max-output"]),
        ("%container exec --m", ["--max-output"]),
        ("%container exec lab --m", []),
        ("%container start lab --me", ["--mem", "--memory-high"]),
        ("%container start ", []),
        ("%container kill -s U", ["USR1", "USR2"]),
        ("%container kill --signal US", ["USR1", "USR2"]),
        ("%container kill USR", []),
        ("%container attach --sig-proxy ", ["true", "false"]),
        ("%container logs --t", ["--tail", "--timestamps"]),
        ("%container logs --tail ", []),
        ("%container volume ", ["create", "ls", "inspect", "rm", "prune"]),
        ("%container volume ls ", []),
        ("%container volume ls --f", ["--filter", "--format"]),
        ("%container ps --filter st", ["status="]),
        ("%container ps --filter status=p", ["status=paused"]),
        ("%container ps -f status=e", ["status=exited"]),
        ("%container ps --filter=stat", ["--filter=status="]),
        ("%container volume ls -f d", ["dangling=", "driver="]),
        ("%container ps --format j", ["json"]),
        ("%container ps --format '{{.Na", ["'{{.Names}}"]),
        ("%container ps --format '{{.Names}}\\t{{.Sta", ["'{{.Names}}\\t{{.Status}}", "'{{.Names}}\\t{{.State}}"]),
        ("%container ps --format 'table {{.Ne", ["{{.Networks}}"]),
        ("%container ps --format '{{.Names}} {{.Status}}' --no", ["--no-trunc"]),
        ("%container stats --format '{{.CPU", ["'{{.CPUPerc}}"]),
        ("%container inspect -f '{{.State.O", ["'{{.State.OOMKilled}}", "'{{.State.Outcome}}"]),
        ("%%container --unshare pid,", [f"pid,{name}" for name in ("net", "mnt", "ipc", "uts", "user", "cgroup", "time")]),
        ("%%container --unshare all,", [f"all,{name}" for name in ("pid", "net", "mnt", "ipc", "uts", "user", "cgroup", "time")]),
        ("%%container --share pid,net,p", []),
        ("%%container --cap-add NET_", ["NET_ADMIN", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_RAW"]),
        ("%%container --cap-drop A", ["ALL", "AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE"]),
        ("%%container --cap-drop cap_sys_p", ["CAP_SYS_PACCT", "CAP_SYS_PTRACE"]),
        ("%container update --mem 1", ["128M", "1G"]),
        ("%container nosuch --", []),
        ("%container doctor ", []),
    ],
)
def test_completion(line: str, expected: list[str]) -> None:
    assert complete(line) == expected


@pytest.mark.parametrize("words", ["logs {}", "logs -f {}", "stop -t 5 {}", "update --mem 64M {}", "exec {}", "exec -d --env A=B {}"])
def test_names_are_completed_after_options_and_their_values(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    monkeypatch.setattr("nbcontainer.notebook.completion.container_names", lambda: ["db", "web"])
    assert complete(f"%container {words.format('')}") == ["db", "web"]
    assert complete(f"%container {words.format('w')}") == ["web"]


def test_names_that_are_there_already_are_not_offered_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbcontainer.notebook.completion.container_names", lambda: ["db", "web"])
    assert complete("%container stop web ") == ["db"] and complete("%container logs web ") == []
    monkeypatch.setattr("nbcontainer.notebook.completion.volume_names", lambda: ["data", "logs"])
    assert complete("%container volume rm data ") == ["logs"] and complete("%%container -v d") == ["data:"] and complete("%%container -v data:") == []
    assert complete("%%container -v ") == ["data:", "logs:", ".:", "./", "../", "~/"]


def test_paths_of_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbcontainer.notebook.completion.volume_names", lambda: ["data"])
    for name in ("deep/inner", "docs", ".git"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "dump.csv").touch()
    monkeypatch.chdir(tmp_path)
    assert complete("%%container -v ./d") == ["./deep/", "./docs/", "./dump.csv:"]
    assert complete("%%container -v ./deep/") == ["./deep:", "./deep/inner/"]
    assert complete("%%container -v ./.g") == ["./.git/"]
    assert complete(f"%%container -v {tmp_path}/do") == [f"{tmp_path}/docs/"]
    assert complete("%%container -v ./docs:/docs:") == ["./docs:/docs:ro", "./docs:/docs:rw"]
    assert complete("%%container -v ./nosuch/") == [] and complete("%%container -v ./docs:/d") == []
