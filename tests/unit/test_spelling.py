"""What is misspelt in a line is named with the nearest word that is right."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbcontainer import volumes
from nbcontainer.engine import open_engine
from nbcontainer.errors import SpecError
from nbcontainer.running import signal_number
from nbcontainer.spelling import hint, nearest
from nbcontainer.validate import make_spec


@pytest.mark.parametrize(
    ("option", "value", "near"),
    [
        ("unshare", "pid,nte", "net"),
        ("unshare", "PID,net", "pid"),
        ("unshare", "pid,utss", "uts"),
        ("share", "usr", "user"),
        ("security", "unconfind", "unconfined"),
        ("security", "Default", "default"),
        ("cap_add", "NET_RWA", "NET_RAW"),
        ("cap_add", "cap_sys_prace", "SYS_PTRACE"),
        ("cap_drop", "AL", "ALL"),
    ],
)
def test_values_of_options(option: str, value: str, near: str) -> None:
    with pytest.raises(SpecError) as caught:
        make_spec({option: value})
    message = str(caught.value)
    assert message.startswith(f"--{option.replace('_', '-')}: ") and message.endswith(f"did you mean {near}?") and "\n" not in message


@pytest.mark.parametrize(("option", "value", "allowed"), [("unshare", "xyzzy", "pid, net"), ("security", "zz", "default, unconfined"), ("cap_add", "xyzzy", "such as NET_RAW")])
def test_where_nothing_is_near_all_is_named(option: str, value: str, allowed: str) -> None:
    with pytest.raises(SpecError, match=allowed):
        make_spec({option: value})


def test_engines_and_signals() -> None:
    with pytest.raises(SpecError, match=r"^--engine: 'locla' is not an engine; did you mean local\?$"):
        open_engine("locla")
    with pytest.raises(SpecError, match="there are auto, local, vm"):
        open_engine("docker")
    with pytest.raises(SpecError, match=r"'SIGTREM' is not a signal; did you mean TERM\?"):
        signal_number("SIGTREM")


def test_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "directory", lambda: tmp_path)
    volumes.create("dataset")
    with pytest.raises(SpecError, match=r"there is no volume datsaet; did you mean dataset\?"):
        volumes.remove("datsaet")


def test_nearest() -> None:
    assert nearest("NAMES", ["Names", "ID"]) == "Names" and nearest("tra", ["rat", "tree"]) == "rat" and nearest("zzz", ["Names"]) is None
    assert hint("zzz", []) == "there are none"
