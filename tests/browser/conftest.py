"""A real JupyterLab on the loopback address, seen through Debian's Chromium."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from facilities import require
from nbformat import v4

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
).split()
WAIT_MILLISECONDS = 60_000
ARTEFACTS = os.environ.get("NBCONTAINER_SCREENSHOTS")
"""A directory for screenshots; without it, none are kept."""


class Lab:
    """A server with a root directory of its own."""

    def __init__(self, directory: Path, *, classic: bool = False, dark: bool = False) -> None:
        self.directory = directory / "notebooks"
        self.directory.mkdir()
        self._token = secrets.token_hex(16)
        settings = directory / "settings" / "@jupyterlab"
        (settings / "apputils-extension").mkdir(parents=True)
        theme = {"theme": "JupyterLab Dark" if dark else "JupyterLab Light"}
        (settings / "apputils-extension" / "themes.jupyterlab-settings").write_text(json.dumps(theme))
        (settings / "apputils-extension" / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
        environment = {
            **os.environ,
            "JUPYTERLAB_SETTINGS_DIR": str(directory / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(directory / "workspaces"),
            **{f"JUPYTER_{name}_DIR": str(directory / name.lower()) for name in ("CONFIG", "RUNTIME")},
        }
        program = "nbclassic" if classic else "lab"
        command = [sys.executable, "-m", "jupyter", program, "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0"]
        command += [f"--IdentityProvider.token={self._token}", f"--ServerApp.root_dir={self.directory}"]
        self._process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
        self._log: list[str] = []
        self._port = self._read_port()
        threading.Thread(target=self._drain, daemon=True).start()  # a full pipe would stop the server

    def _read_port(self) -> int:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._log.append(line)
            if match := re.search(r"http://127\.0\.0\.1:(\d+)/", line):
                return int(match[1])
        raise RuntimeError("the server ended:\n" + "".join(self._log))

    def _drain(self) -> None:
        assert self._process.stderr is not None
        self._log.extend(self._process.stderr)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._port}/{path}?token={self._token}"

    def write(self, name: str, *cells: str) -> Path:
        notebook = v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        path = self.directory / name
        nbformat.write(notebook, path)
        return path

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        finally:
            # Kernels that the server left behind are in its session: no one else is.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def browser_context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    require(os.geteuid() == 0, "the local engine needs root: sudo tests/run --lane browser")
    require(Path(CHROMIUM).exists(), "the browser tests need Chromium: apt install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    profile = tmp_path_factory.mktemp("profile")
    with sync_api.sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(profile), executable_path=CHROMIUM, headless=True, args=FLAGS, viewport={"width": 1000, "height": 1150}
        )
        context.set_default_timeout(WAIT_MILLISECONDS)
        yield context
        context.close()
    shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    server = Lab(tmp_path_factory.mktemp("lab"))
    yield server
    server.close()


@pytest.fixture
def page(browser_context: Any) -> Iterator[Any]:
    page = browser_context.new_page()
    yield page
    page.close()


@pytest.fixture
def keep(page: Any) -> Callable[[str], None]:
    """``keep("name")`` keeps a screenshot, where NBCONTAINER_SCREENSHOTS says."""

    def take(name: str) -> None:
        if ARTEFACTS:
            Path(ARTEFACTS).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=f"{ARTEFACTS}/{name}.png")

    return take
