"""An ordinary user's way out: pasta (of passt), which makes the host's connections for what a namespace sends.

It is started from the host's namespaces, ends with its kernel (by the parent-death signal, which is the signal of a *thread*'s
end: so one thread is there for nothing else), and is ended with its router.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import IO

LINK = "pasta0"
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
READY_SECONDS = 5.0
POLL_SECONDS = 0.005


class Pasta:
    """``why_not``: where it gives no way out, the reason; else "", and the router has a link of the name LINK with a default route."""

    def __init__(self, router_pid: int) -> None:
        self.why_not = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as it lives)
        programs = [shutil.which(name, path=PATH) for name in ("pasta", "setpriv")]
        if not programs[0] or not programs[1]:
            self.why_not = "pasta is not installed; type: sudo apt install passt"
            self.close()
            return
        namespaces = f"/proc/{router_pid}/ns"
        # No port of the host's leads in (-t, -u), none of the namespace out to the host's loopback (-T, -U, --no-map-gw).
        nothing = "-t none -u none -T none -U none --no-map-gw".split()
        words = [
            programs[1], "--pdeathsig", "KILL", programs[0], "--foreground", "--quiet", "--config-net", *nothing, "--ns-ifname", LINK,
            "--userns", f"{namespaces}/user", "--netns", f"{namespaces}/net",
        ]  # fmt: skip
        started = threading.Event()
        threading.Thread(target=self._run, args=(words, started), name="nbcontainer-pasta", daemon=True).start()
        started.wait()
        self._wait(Path(f"/proc/{router_pid}/net/route"))

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def _run(self, words: list[str], started: threading.Event) -> None:
        try:
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, env={"PATH": PATH}, cwd="/", start_new_session=True
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


def _has_route(routes: Path) -> bool:
    try:
        lines = routes.read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return False
    return any(line.split()[:2] == [LINK, "00000000"] for line in lines)
