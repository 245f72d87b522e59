"""A scope of the user's systemd manager must not lead around limits that hold for the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbcontainer.cgroups import scope
from nbcontainer.errors import HostError

SCOPE = "/user.slice/user@1000.service/app.slice/nbc-1.scope"


def tree(base: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(text + "\n")
    return str(base)


@pytest.mark.parametrize(
    ("name", "value"), [("session-1.scope/memory.max", "1000000"), ("session-1.scope/memory.high", "5"), ("session-1.scope/cpu.max", "50000 100000"), ("a/memory.max", "0")]
)
def test_limits_of_the_kernel_s_own_cgroups_are_refused(tmp_path: Path, name: str, value: str) -> None:
    own = "/user.slice/a/b" if name.startswith("a/") else "/user.slice/session-1.scope"
    with pytest.raises(HostError, match=f"{name} limits this process to .*Delegate=yes"):
        scope._refuse_limits_around(own, SCOPE, tree(tmp_path, {f"user.slice/{name}": value}))


def test_no_limits_and_limits_of_both_are_none(tmp_path: Path) -> None:
    files = {"user.slice/memory.max": "1000000", "user.slice/session-1.scope/memory.max": "max", "user.slice/session-1.scope/cpu.max": "max 100000"}
    scope._refuse_limits_around("/user.slice/session-1.scope", SCOPE, tree(tmp_path, files))
    scope._refuse_limits_around("/", SCOPE, str(tmp_path))


def test_without_a_manager_it_is_a_host_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert scope.find_bus() is None
    with pytest.raises(HostError, match="no systemd manager"):
        scope.enter(1, "x.scope")
