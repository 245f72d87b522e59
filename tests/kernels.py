"""Real Jupyter kernels, run cell by cell: what a front end would show, in order, and lines typed when a cell asks."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq
from facilities import require
from jupyter_client.manager import KernelManager
from jupyter_core.utils import ensure_event_loop

OTHERS = Path(__file__).resolve().parents[1] / ".venv" / "ipykernels"
VERSIONS = ("installed", "6.31.0", "7.3.0")
WAIT_SECONDS = 120


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


class Cell:
    """What came of one cell: messages as a front end folds them (clear_output, update_display, texts joined)."""

    def __init__(self) -> None:
        self.outputs: list[dict[str, Any]] = []
        self.status = ""
        self._clear = False

    def take(self, kind: str, content: dict[str, Any]) -> None:
        if kind == "clear_output":
            self._clear = True
            if not content["wait"]:
                self.outputs, self._clear = [], False
            return
        if kind not in ("stream", "display_data", "update_display_data", "execute_result", "error"):
            return
        if self._clear:
            self.outputs, self._clear = [], False
        if kind == "update_display_data":
            for output in self.outputs:
                if output.get("transient", {}).get("display_id") == content["transient"]["display_id"]:
                    output["data"] = content["data"]
        elif kind == "stream" and self.outputs and self.outputs[-1].get("name") == content["name"]:
            self.outputs[-1]["text"] += content["text"]
        else:
            self.outputs.append({"kind": kind, **content})

    @property
    def text(self) -> str:
        """All of it as a reader of text sees it, without colours."""
        return plain("\n".join(map(_text_of, self.outputs)))

    @property
    def data(self) -> list[dict[str, Any]]:
        """The MIME bundles, in order."""
        return [output["data"] for output in self.outputs if "data" in output]


def _text_of(output: dict[str, Any]) -> str:
    if output["kind"] == "stream":
        return str(output["text"])
    if output["kind"] == "error":
        return "\n".join(output["traceback"])
    return str(output["data"].get("text/plain", ""))


class Kernel:
    """One kernel with the extension loaded."""

    def __init__(self, version: str, directory: Path) -> None:
        environment = dict(os.environ)
        if version != "installed":
            environment["PYTHONPATH"] = str(OTHERS / version)
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(env=environment, cwd=str(directory))
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(WAIT_SECONDS)
        assert self.run("%load_ext nbcontainer").outputs == []

    def run(self, code: str, typed: Callable[[dict[str, Any]], str | None] | None = None) -> Cell:
        """``typed`` gets the question and returns a line (None: nobody answers); without it the front end allows no input."""
        cell = Cell()
        client = self.client
        request = client.execute(code, allow_stdin=typed is not None)
        poller = zmq.Poller()
        for channel in (client.iopub_channel, client.stdin_channel):
            poller.register(channel.socket, zmq.POLLIN)
        while True:
            ready = dict(poller.poll(WAIT_SECONDS * 1000))
            assert ready, f"no answer in {WAIT_SECONDS} s to: {code}"
            if client.stdin_channel.socket in ready:
                content = client.get_stdin_msg(timeout=WAIT_SECONDS)["content"]
                line = typed(content) if typed is not None else None
                if line is not None:
                    client.input(line)
                continue
            message = client.get_iopub_msg(timeout=WAIT_SECONDS)
            if message["parent_header"].get("msg_id") != request:
                continue
            cell.take(message["msg_type"], message["content"])
            if message["content"].get("execution_state") == "idle":
                break
        while True:
            reply = client.get_shell_msg(timeout=WAIT_SECONDS)
            if reply["parent_header"]["msg_id"] == request:
                cell.status = reply["content"]["status"]
                return cell

    def complete(self, code: str) -> list[str]:
        """What the front end offers when Tab is pressed at the end of ``code``: the whole code with each completion."""
        request = self.client.complete(code, len(code))
        while True:
            reply = self.client.get_shell_msg(timeout=WAIT_SECONDS)
            if reply["parent_header"]["msg_id"] == request:
                content = reply["content"]
                return [code[: content["cursor_start"]] + match for match in content["matches"]]

    def interrupt(self) -> None:
        """The stop button; from any thread."""
        os.kill(self.manager.provisioner.pid, signal.SIGINT)  # type: ignore[union-attr]

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel()
        ensure_event_loop().close()  # jupyter_client's own; the next kernel makes another


@contextmanager
def kernel(version: str, directory: Path, *, engine: str = "local") -> Iterator[Kernel]:
    """``engine``: what its cells will run on; the virtual machine is for every user."""
    require(engine == "vm" or os.geteuid() == 0, "the local engine needs root: sudo tests/run --lane notebook")
    require(version == "installed" or (OTHERS / version).is_dir(), f"ipykernel {version}: tests/run installs it")
    started = Kernel(version, directory)
    try:
        yield started
    finally:
        started.close()
