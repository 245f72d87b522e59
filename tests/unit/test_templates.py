"""Docker's templates, and the lists and filters that have them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbcontainer import verbs
from nbcontainer.errors import SpecError
from nbcontainer.logs import Log
from nbcontainer.state import ContainerRecord
from nbcontainer.units import parse_moment
from nbcontainer.verbs import listing, output
from nbcontainer.verbs.shown import Document, Table
from nbcontainer.verbs.templates import parse

WHOLE: dict[str, Any] = {
    "Name": "lab",
    "State": {"OOMKilled": False, "Pid": 3},
    "Cmd": ["sleep", "60"],
    "Ports": {"80/tcp": [{"HostPort": "8080"}]},
    "Limit": None,
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.Name}}", "lab"),
        (r"{{ .Name }}\t{{.State.OOMKilled}}", "lab\tfalse"),
        ("{{json .State}}", '{"OOMKilled":false,"Pid":3}'),
        ("{{upper .Name | json}}", '"LAB"'),
        ("{{index .Cmd 1}}", "60"),
        ('{{(index .Ports "80/tcp" 0).HostPort}}', "8080"),
        ("{{range .Cmd}}{{.}},{{end}}", "sleep,60,"),
        ("{{range $port, $to := .Ports}}{{$port}} -> {{(index $to 0).HostPort}} of {{$.Name}}{{end}}", "80/tcp -> 8080 of lab"),
        ("{{range .Limit}}x{{else}}none{{end}}", "none"),
        ("{{with .State}}{{.Pid}}{{end}}", "3"),
        ("{{if eq .State.Pid 3}}three{{else if .Name}}named{{end}}", "three"),
        ("{{if .Limit}}limited{{else if .Name}}named{{else}}neither{{end}}", "named"),
        ('{{join .Cmd " "}}', "sleep 60"),
        ("{{.Cmd}} {{.State}} {{.Limit}}", "[sleep 60] map[OOMKilled:false Pid:3] <no value>"),
        ("a {{- .Name -}} b{{/* nothing */}}", "alabb"),
        ('{{"}}"}}', "}}"),
    ],
)
def test_what_a_template_prints(template: str, text: str) -> None:
    assert parse(template).render(WHOLE) == text


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{{.name}}", "there is no field .name; did you mean .Name?"),
        ("{{.State.OOMkiled}}", "there is no field .State.OOMkiled; did you mean .State.OOMKilled?"),
        ("{{.Name.First}}", 'there is no field .Name.First: .Name is "lab"'),
        ("{{Name}}", "a field begins with a dot, {{.Name}}"),
        ("{{jsno .}}", "there is no function jsno; did you mean json?"),
        ("{{.Name", "has no end"),
        ("{{range .Cmd}}", "{{range}} has no {{end}}"),
        ("{{end}}", "closes nothing"),
        ("{{len 3}}", "len: cannot take 3"),
        ("{{index .Cmd 9}}", "index 9 is not there: it has 2"),
        ("{{.Name | .Name}}", "is not understood"),
        ("{{.Name +}}", "is not understood at '+'"),
        ("{{$x}}", "there is no variable $x"),
        ("{{}}", "is not understood"),
        ("{{(.Name}}", "a ) is missing"),
        ("(" * 5 + "{{" + "(" * 500 + ".Name" + ")" * 500 + "}}", "parentheses lie deeper than"),
        ("{{if .Name}}" * 500, "blocks lie deeper than"),
        ("x" * 20_000, "longer than"),
    ],
)
def test_what_is_no_template_is_refused_in_one_line(template: str, complaint: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(template).render(WHOLE)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


@given(st.text(st.sampled_from('{}.|()$:="` -\\ta0Namejsonrangeif/*'), max_size=60))
def test_any_text_is_printed_or_refused(text: str) -> None:
    try:
        parse(text).render(WHOLE)
    except SpecError:
        return


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    records = [
        ContainerRecord(1, "aaaa", "lab", 11, "running", now - 300, "python", 64 << 20, "system", networks="bridge,db", mounts="data,/srv"),
        ContainerRecord(1, "bbbb", "web", 12, "paused", now - 30, "a program\twith a long, long command line", None, "host", networks="none"),
    ]
    monkeypatch.setattr(listing, "list_containers", lambda: records)


def say(*words: str) -> str:
    return str(verbs.answer(words[0], words[1:]))


def test_formats_of_ps(two: None) -> None:
    assert say("ps", "--format", "{{.Names}}").splitlines() == ["web", "lab"]
    assert say("ps", "--format", r"{{.ID}}\t{{upper .State}}") == "bbbb\tPAUSED\naaaa\tRUNNING"
    table = verbs.answer("ps", ["--format", r"table {{.Names}}\t{{.Status}}\t{{.Command}}"])
    assert isinstance(table, Table) and table.columns == ("NAMES", "STATUS", "COMMAND") and len(table.rows) == 2
    assert table.rows[0][:2] == ("web", "Up 30 seconds (Paused)") and "\\t" in table.rows[0][2]
    assert say("ps", "--format", "table") == say("ps")
    lines = [json.loads(line) for line in say("ps", "--format", "json").splitlines()]
    assert [line["Names"] for line in lines] == ["web", "lab"] and lines[1]["Networks"] == "bridge,db"
    assert json.loads(say("ps", "--format", "{{json .}}").splitlines()[1])["MemLimit"] == "64 MiB"
    assert say("ps", "-q") == "bbbb\naaaa" and say("ps", "-q", "--format", "{{.Names}}") == "web\nlab"
    assert say("ps", "-l", "--format", "{{.Names}}") == "web" and say("ps", "-n", "1", "-q") == "bbbb"


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        (["name=^l"], "lab"),
        (["name=a", "name=w"], "web lab"),
        (["name=a", "status=paused"], ""),
        (["status=paused"], "web"),
        (["id=aa"], "lab"),
        (["network=db"], "lab"),
        (["volume=data"], "lab"),
        (["volume=/srv/"], "lab"),
        (["ancestor=host"], "web"),
        (["before=web"], "lab"),
        (["since=lab"], "web"),
        (["status=exited"], ""),
    ],
)
def test_filters_of_ps(two: None, filters: list[str], names: str) -> None:
    words = [word for text in filters for word in ("--filter", text)]
    assert say("ps", *words, "--format", "{{.Names}}").split() == names.split()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("ps", "--format", "{{.Name}}"), "there is no field .Name; did you mean .Names?"),
        (("ps", "--format", "{name}"), "names no column; write '{{.Names}}'"),
        (("ps", "--format", "nonsense"), "names no column"),
        (("ps", "--filter", "nmae=x"), "there is no filter nmae; did you mean name?"),
        (("ps", "--filter", "status=runing"), "did you mean running?"),
        (("ps", "--filter", "status"), "a value is missing; write --filter status=running"),
        (("ps", "--filter", "name=("), "--filter name=("),
        (("ps", "--filter", "exited=x"), "is not a whole number"),
        (("ps", "--filter", "before=nosuch"), "there is no container nosuch"),
        (("ps", "--fromat", "json"), "there is no option --fromat; did you mean --format?"),
        (("ps", "--format"), "--format: a value is missing"),
        (("stats", "--no-stream", "--format", "{{.Cpu}}"), "did you mean .CPUPerc?"),
        (("volume", "ls", "--format", "{{.Nam}}"), "did you mean .Name?"),
        (("volume", "lss"), "did you mean ls?"),
        (("volume", "ls", "-f", "dangling=yes"), "there are true, false"),
        (("network", "inpsect"), "did you mean inspect?"),
    ],
)
def test_mistakes_name_the_nearest_spelling(two: None, words: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(SpecError) as caught:
        say(*words)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


def test_inspect_takes_templates(monkeypatch: pytest.MonkeyPatch) -> None:
    from nbcontainer.verbs import looking

    monkeypatch.setattr(looking, "_described", lambda name: {**WHOLE, "Name": name})
    monkeypatch.setattr(looking.CONTAINERS, "find", lambda name, verb: name)

    def inspect(*words: str) -> Any:
        return verbs.find("inspect").act(verbs.find("inspect").parser().parse_args(list(words)))

    assert inspect("-f", "{{.Name}} {{.State.OOMKilled}}", "a", "b") == "a false\nb false"
    assert isinstance(inspect("a"), Document) and isinstance(inspect("--format=json", "a"), Document)
    for wrong in ("{{.State.Oomkilled}}", "State"):
        with pytest.raises(SpecError, match="inspect: --format"):
            inspect("-f", wrong, "a")


class _Written:
    """A container of which only the log is asked for."""

    def __init__(self) -> None:
        self.log = Log(on_disk=False)

    def write(self, monkeypatch: pytest.MonkeyPatch, *times: float) -> None:
        for seconds in times:
            monkeypatch.setattr("nbcontainer.logs.time.time", lambda seconds=seconds: seconds)
            self.log.append("stdout", f"{seconds:g}\n")

    def follow(self, until: float | None = None) -> Iterator[Any]:
        return self.log.follow(until)


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        ([], "10 20 30 40"),
        (["--since", "20"], "20 30 40"),
        (["--until", "25"], "10 20"),
        (["--since", "1970-01-01T00:00:15Z", "--until", "35.5"], "20 30"),
        (["--until", "35", "-n", "2"], "20 30"),
        (["--since", "15s"], "30 40"),
        (["--tail", "-1"], "10 20 30 40"),
        (["-n", "0"], ""),
        (["-f", "--until", "20"], "10 20"),
    ],
)
def test_logs_between_two_times(monkeypatch: pytest.MonkeyPatch, words: list[str], lines: str) -> None:
    written = _Written()
    written.write(monkeypatch, 10, 20, 30, 40)
    monkeypatch.setattr(output.CONTAINERS, "find", lambda name, verb: written)
    given = verbs.find("logs").parser().parse_args([*words, "x"])
    assert "".join(record.text for record in output.logs(given)).split() == lines.split()


def test_following_ends_at_its_time_though_nothing_comes() -> None:
    log = Log(on_disk=False)
    log.append("stdout", "before\n")
    begun = time.monotonic()
    assert list(log.follow(time.time() + 0.2)) == []
    assert 0.15 < time.monotonic() - begun < 10


def test_moments() -> None:
    assert parse_moment("1136073600.5", "--since") == 1136073600.5
    assert parse_moment("2006-01-01T00:00:00Z", "--since") == 1136073600
    assert abs(time.time() - parse_moment("1h30m10.5s", "--since") - 5410.5) < 5
    for wrong in ("yesterday", "", "-5", "1x", "99999-01-01"):
        with pytest.raises(SpecError, match=r"--since: .* is not a time such as"):
            parse_moment(wrong, "--since")
