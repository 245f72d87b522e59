"""Containers that end in all sorts of ways, several at a time: what the soak test and the load benchmark run."""

from __future__ import annotations

import queue
import threading
from typing import Any

import psutil

import nbcontainer as nbc
from nbcontainer.engine import local

AT_ONCE = 8
KINDS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("print('fine')", {}, "exited"),
    ("import sys; sys.exit(3)", {}, "exited"),
    ("1 / 0", {}, "exited"),
    ("from IPython.display import HTML, display; display(HTML('<b>x</b>')); 6 * 7", {}, "exited"),
    ("x = bytearray(200 << 20)", {"mem": "48M"}, "oom"),
    ("import time; time.sleep(60)", {"timeout": 0.05}, "timeout"),
    ("kill -TERM $$; sleep 60", {"program": ["bash"], "init": True}, "signalled"),
    ("head -c 300000 /dev/zero", {"program": ["bash"], "max_output": "64K"}, "exited"),
    ("import os\nfor _ in range(3):\n    if os.fork() == 0: os._exit(0)", {"pids": 8}, "exited"),
)


def run_many(numbers: range) -> list[str]:
    """The containers of these numbers, AT_ONCE at a time; a line for each that did not end as it should, after which no more begin."""
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    wrong: list[str] = []
    for number in numbers:
        waiting.put(number)

    def work() -> None:
        while not wrong:
            try:
                number = waiting.get_nowait()
            except queue.Empty:
                return
            code, options, outcome = KINDS[number % len(KINDS)]
            result = nbc.run(code, **{"mem": "96M", **options})
            if result.outcome != outcome:
                wrong.append(f"{code!r}: {result.outcome} {result.exit_code} {result.stderr[-300:]}")

    threads = [threading.Thread(target=work) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


def resident_bytes() -> tuple[int, int]:
    """Of the kernel (this process) and the zygote."""
    return psutil.Process().memory_info().rss, psutil.Process(local.open_local()._client.pid).memory_info().rss
