"""What live panels cost a real kernel: CPU time, and bytes on the wire as a front end receives them."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from typing import Any

import zmq
from jupyter_client.manager import KernelManager

WAIT_SECONDS = 120

_SETUP = """
import json, resource, threading, time
import nbcontainer
from IPython import get_ipython
from nbcontainer.notebook.live import Live

shell = get_ipython()

def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime

def run_live(seconds, live):
    def on_event(event):
        view.fold(event)
    view = Live(shell, live)
    result = nbcontainer.run(f'import time; time.sleep({seconds})', mem='64M', interval=0.1, on_event=on_event, on_start=view.on_start)
    view.close(result, False)
    assert result.ok, result.describe()
    return view, result
"""

_FRAMES = """
from nbcontainer.events import Readings, Sample, Started
from nbcontainer.notebook.panel import PanelLink
from nbcontainer.notebook.surroundings import SURROUNDINGS
from nbcontainer.notebook.view import View
from nbcontainer.spec import Limits

view = View(Limits(memory_bytes=1 << 27, cpus=0.5))
view.fold(Started('id', 'name', 1, 0.0))
link = PanelLink(view, None, 'benchmark', controls=True)
link.tick()
time.sleep(0.5)
begin = cpu_seconds()
for index in range({count}):
    now = index / 10
    view.fold(Sample(now, index << 16, index << 16, index << 16, now / 2, now / 3, now / 6, now / 9, 3, 0, index, index))
    view.look_around(SURROUNDINGS.host(), Readings(now, {{'cpu': now / 5, 'memory': 0.0, 'io': 0.0}}))
    link.tick()
    time.sleep(0.002)  # let the thread that sends it wake up for each
time.sleep(0.5)
print(json.dumps(1000 * (cpu_seconds() - begin) / {count}))
link.widget.close()
"""

_SHARE = """
def measure(count, live):
    threads = [threading.Thread(target=run_live, args=({seconds} + 4, live)) for _ in range(count)]
    for thread in threads: thread.start()
    time.sleep(3)
    begin, wall = cpu_seconds(), time.monotonic()
    time.sleep({seconds})
    share = (cpu_seconds() - begin) / (time.monotonic() - wall)
    for thread in threads: thread.join()
    return share
print(json.dumps([measure(1, True), measure({crowd}, True), measure({crowd}, False)]))
"""

_FIGURE = """
from nbcontainer.notebook.figure import png
_, result = run_live(1.5, False)
times = []
for _ in range({count} + 1):
    begin = time.perf_counter()
    png(result)
    times.append(1000 * (time.perf_counter() - begin))
print(json.dumps([times[0], sorted(times[1:])[{count} // 2]]))
"""


@dataclass(frozen=True)
class PanelCost:
    frame_cpu_ms: float
    """Of the kernel, for one new sample: folded, packed, sent."""
    push_bytes: float
    """Of one message as it arrives, all of its frames."""
    one_share: float
    """CPU seconds per second of the kernel with one panel at 10 Hz, sampling included."""
    crowd_share: float
    crowd_without_share: float
    """The same containers without panels."""
    crowd: int
    first_figure_ms: float
    figure_ms: float


class Kernel:
    """A kernel, and a listener that counts the bytes of comm messages."""

    def __init__(self) -> None:
        self._manager = KernelManager(kernel_name="python3")
        self._manager.start_kernel()
        self._client = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(WAIT_SECONDS)
        info = self._manager.get_connection_info()
        self._socket = zmq.Context.instance().socket(zmq.SUB)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._socket.connect(f"tcp://{info['ip']}:{info['iopub_port']}")
        self.sizes: list[int] = []
        self._stopped = threading.Event()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        while not self._stopped.is_set():
            if not self._socket.poll(100):
                continue
            frames = self._socket.recv_multipart()
            begin = frames.index(b"<IDS|MSG>")
            if json.loads(frames[begin + 2])["msg_type"] == "comm_msg":
                self.sizes.append(sum(map(len, frames)))

    def run(self, code: str) -> Any:
        """Execute; the value that the code prints as JSON, or None."""
        outputs: list[str] = []

        def keep(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "error":
                raise RuntimeError("\n".join(content["traceback"]))
            if message["msg_type"] == "stream" and content["name"] == "stdout":
                outputs.append(content["text"])

        self._client.execute_interactive(code, timeout=WAIT_SECONDS, output_hook=keep)
        return json.loads("".join(outputs)) if outputs else None

    def close(self) -> None:
        self._stopped.set()
        self._listener.join()
        self._socket.close(linger=0)
        self._client.stop_channels()
        self._manager.shutdown_kernel()


def measure(smoke: bool) -> PanelCost:
    kernel = Kernel()
    crowd = 3 if smoke else 20
    try:
        kernel.run(_SETUP)
        frame = kernel.run(_FRAMES.format(count=20 if smoke else 500))
        pushes = sorted(kernel.sizes)
        one, many, without = kernel.run(_SHARE.format(seconds=1 if smoke else 10, crowd=crowd))
        first, figure = kernel.run(_FIGURE.format(count=1 if smoke else 9))
    finally:
        kernel.close()
    return PanelCost(frame, pushes[len(pushes) // 2], one, many, without, crowd, first, figure)
