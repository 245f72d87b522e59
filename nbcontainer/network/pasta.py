"""The way out for an ordinary user, and on a host that does not forward: pasta (of passt), which makes the host's connections for
what a namespace sends.

It is started from the host's namespaces, ends with its kernel (by the parent-death signal, which is the signal of a *thread*'s
end: so one thread is there for nothing else), and is ended with its router.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO

from nbcontainer.network import tun

LINK = "pasta0"
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
READY_SECONDS = 15.0
_RIGHTS = "+sys_admin,+net_admin"
_AS_NOBODY = [
    *"--reuid 65534 --regid 65534 --clear-groups --no-new-privs".split(),
    *("--inh-caps", _RIGHTS, "--ambient-caps", _RIGHTS, "--bounding-set", f"-all,{_RIGHTS}"),
]
"""For root. It would become nobody itself, and then lacks the right to enter a namespace of root's; of these two it keeps the first."""
_WITH_TUN = "import sys; sys.path.append({parent!r}); from nbcontainer.network.tun import main; main()"
POLL_SECONDS = 0.005


class Pasta:
    """``why_not``: where it gives no way out, the reason; else "", and the router has a link of the name LINK with a default route."""

    def __init__(self, router_pid: int, *, rootless: bool) -> None:
        self.why_not = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as it lives)
        programs = [shutil.which(name, path=PATH) for name in ("pasta", "setpriv")]
        if not programs[0] or not programs[1]:
            self.why_not = "pasta is not installed; type: sudo apt install passt"
            self.close()
            return
        if not any(_has_default(Path("/proc/net") / name) for name in ("route", "ipv6_route")):
            self.why_not = "this host has no default route"
            self.close()
            return
        if why_not := tun.why_not():
            self.why_not = f"for pasta, {why_not}"
            self.close()
            return
        # No port of the host's leads in (-t, -u), none of the namespace out to the host's loopback (-T, -U, --no-map-gw).
        nothing = "-t none -u none -T none -U none --no-map-gw".split()
        place = f"/proc/{router_pid}/ns"
        # Of root's, by a descriptor: to look at a process of root's, it would need more rights than it is left with.
        namespaces = ["--userns", f"{place}/user", "--netns", f"{place}/net"] if rootless else ["--netns", "/proc/self/fd/0"]
        words = [
            programs[1], *([] if rootless else _AS_NOBODY), "--pdeathsig", "KILL",
            programs[0], "--foreground", "--quiet", "--config-net", *nothing, "--ns-ifname", LINK, *namespaces,
        ]  # fmt: skip
        if not rootless and not tun.everybody_may_open_it():
            words = [sys.executable, "-IS", "-c", _WITH_TUN.format(parent=str(Path(__file__).resolve().parents[2])), *words]
        started = threading.Event()
        with open(f"{place}/net", "rb") as namespace:
            threading.Thread(target=self._run, args=(words, namespace, started), name="nbcontainer-pasta", daemon=True).start()
            started.wait()
        self._wait(Path(f"/proc/{router_pid}/net/route"))

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def died(self) -> bool:
        """It gave a way out, and does not any more."""
        return not self.why_not and self._process is not None and self._process.poll() is not None

    def _run(self, words: list[str], namespace: IO[bytes], started: threading.Event) -> None:
        try:
            self._process = subprocess.Popen(
                words, stdin=namespace, stdout=self._log, stderr=self._log, env={"PATH": PATH}, cwd="/", start_new_session=True
            )
        except OSError as error:
            self.why_not = f"pasta could not be started: {error.strerror}"
        finally:
            started.set()
        if self._process is not None:
            self._process.wait()

    def _wait(self, routes: Path) -> None:
        """Until it has made its link and route, has failed, or takes too long."""
        deadline = time.monotonic() + READY_SECONDS
        while not self.why_not and not _has_route(routes):
            if self._process is None or self._process.poll() is not None:
                self.why_not = f"pasta ended: {self._last_words()}"
            elif time.monotonic() > deadline:
                self.why_not = "pasta was not ready in time"
            else:
                time.sleep(POLL_SECONDS)  # it tells nobody when it is ready
        if self.why_not:
            self.close()

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read()[-4000:].decode("utf-8", "replace").splitlines()]
        return next((line for line in reversed(lines) if line and "syslog" not in line), "it did not say why")

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._log.close()


def _has_default(routes: Path) -> bool:
    """Whether /proc/net/route or /proc/net/ipv6_route has a default route by anything but a loopback."""
    try:
        lines = [line.split() for line in routes.read_text(encoding="ascii").splitlines()]
    except OSError:
        return False
    if routes.name == "route":
        return any(words[1:2] == ["00000000"] and words[7:8] == ["00000000"] for words in lines)
    return any(words[:2] == ["0" * 32, "00"] and words[-1] != "lo" for words in lines)


def _has_route(routes: Path) -> bool:
    try:
        lines = routes.read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return False
    return any(line.split()[:2] == [LINK, "00000000"] for line in lines)
