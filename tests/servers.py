"""JupyterLab and the classic notebook as servers on the loopback address, for the browser tests."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import nbformat
from nbformat import v4

LISTEN_SECONDS = 30


class Lab:
    """A server with a root directory of its own."""

    def __init__(self, directory: Path, *, classic: bool = False, dark: bool = False, without: tuple[str, ...] = ()) -> None:
        self.directory = directory / "notebooks"
        self.directory.mkdir()
        self._token = secrets.token_hex(16)
        settings = directory / "settings" / "@jupyterlab"
        (settings / "apputils-extension").mkdir(parents=True)
        theme = {"theme": "JupyterLab Dark" if dark else "JupyterLab Light"}
        (settings / "apputils-extension" / "themes.jupyterlab-settings").write_text(json.dumps(theme))
        (settings / "apputils-extension" / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
        (directory / "config" / "labconfig").mkdir(parents=True)
        disabled = {"disabledExtensions": dict.fromkeys(without, True)}
        (directory / "config" / "labconfig" / "page_config.json").write_text(json.dumps(disabled))
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
        self._wait_until_it_listens()
        self._drainer = threading.Thread(target=self._drain, daemon=True)
        self._drainer.start()  # a full pipe would stop the server

    def _read_port(self) -> int:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._log.append(line)
            if match := re.search(r"http://127\.0\.0\.1:(\d+)/", line):
                return int(match[1])
        raise RuntimeError("the server ended:\n" + "".join(self._log))

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + LISTEN_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port)).close()
                return
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)  # the server says its address before it listens there, and nothing afterwards

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

    def end_sessions(self) -> None:
        """End all kernels, so that each test begins with none."""
        headers = {"Authorization": f"token {self._token}"}
        address = f"http://127.0.0.1:{self._port}/api/sessions"
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as response:
            sessions = json.load(response)
        for session in sessions:
            request = urllib.request.Request(f"{address}/{session['id']}", headers=headers, method="DELETE")
            urllib.request.urlopen(request).close()

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        finally:
            # Kernels that the server left behind are in its session: no one else is.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._drainer.join()
            assert self._process.stderr is not None
            self._process.stderr.close()
