"""What the vm engine costs: ``python tests/benchmarks/vm.py [--smoke]``. Uses a snapshot of its own, which it makes first."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time

import psutil

MIB = 1 << 20


def seconds(action: object) -> float:
    began = time.monotonic()
    action()  # type: ignore[operator]
    return time.monotonic() - began


def main() -> None:
    import nbcontainer as nbc
    from nbcontainer.engine import vm
    from nbcontainer.engine.vm import setup
    from nbcontainer.spec import make_spec

    starts, runs = (1, 3) if "--smoke" in sys.argv else (5, 30)
    with tempfile.TemporaryDirectory() as directory:
        os.environ["NBCONTAINER_VM_CACHE"] = directory

        def run() -> None:
            assert nbc.run("print(1)", engine="vm", mem="64M", workspace="none").stdout == "1\n"

        set_up = seconds(lambda: setup.set_up(None, False, lambda text: None))
        vm.shutdown()
        template = vm.make_template()
        cold = seconds(lambda: template.boot(()).close())
        first, idle, later, used = [], [], [], []
        for _ in range(starts):
            engine = vm.open_vm()
            began = time.monotonic()
            guest, _ = engine._guest_for(make_spec(workspace="none"))
            idle.append(psutil.Process(guest.process.pid).memory_info().rss)
            run()
            first.append(time.monotonic() - began)
            later += [seconds(run) for _ in range(runs)]
            used.append(psutil.Process(guest.process.pid).memory_info().rss)
            vm.shutdown()
    rows = [
        ("vm setup, without downloads", f"{set_up:.1f} s"),
        ("cold boot to a warm guest", f"{cold:.1f} s"),
        ("restore to first finished cell", f"{statistics.median(first):.2f} s ({statistics.median(first) / cold:.2f} of a cold boot)"),
        ("a later cell", f"{statistics.median(later) * 1000:.0f} ms"),
        ("QEMU's resident memory after the restore", f"{statistics.median(idle) / MIB:.0f} MiB"),
        ("QEMU's resident memory after these cells", f"{statistics.median(used) / MIB:.0f} MiB"),
    ]
    for name, value in rows:
        print(f"{name:<45} {value}")


if __name__ == "__main__":
    main()
