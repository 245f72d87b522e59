"""What the vm engine costs: ``python tests/benchmarks/vm.py [--smoke]``. Uses a snapshot of its own, which it makes first."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time

import psutil

MIB = 1 << 20
PYTHON = """
import subprocess, sys, time
taken = []
for _ in range(12):
    began = time.monotonic()
    subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], check=True)
    taken.append(time.monotonic() - began)
print(sorted(taken)[6])
"""


def seconds(action: object) -> float:
    began = time.monotonic()
    action()  # type: ignore[operator]
    return time.monotonic() - began


def main() -> None:
    import nbcontainer as nbc
    from nbcontainer.engine.vm import engine as vm
    from nbcontainer.engine.vm import setup
    from nbcontainer.engine.vm.hidden import HiddenFiles
    from nbcontainer.validate import make_spec

    starts, runs = (1, 3) if "--smoke" in sys.argv else (5, 30)
    with tempfile.TemporaryDirectory() as directory:
        os.environ["NBCONTAINER_VM_CACHE"] = directory

        def run(**options: str) -> None:
            assert nbc.run("print(1)", engine="vm", mem="64M", workspace="none", **options).stdout == "1\n"

        set_up = seconds(lambda: setup.set_up(None, False, lambda text: None))
        vm.shutdown()
        template = vm.make_template()
        memory = f"memory-backend-ram,id=ram,size={template.machine.memory_mib}M"
        serves = seconds(lambda: template._boot(memory, ()).close())
        cold = seconds(lambda: template.boot((), HiddenFiles().result).close())
        first, idle, later, used, python, net = [], [], [], [], [], []
        for _ in range(starts):
            engine = vm.open_vm()
            began = time.monotonic()
            guest, _ = engine._guest_for(make_spec(workspace="none"))
            idle.append(psutil.Process(guest.process.pid).memory_info().rss)
            run()
            first.append(time.monotonic() - began)
            later += [seconds(run) for _ in range(runs)]
            used.append(psutil.Process(guest.process.pid).memory_info().rss)
            python.append(float(nbc.run(PYTHON, engine="vm", mem="64M", workspace="none").stdout))
            net.append(seconds(lambda: run(net="bridge")))
            vm.shutdown()
    rows = [
        ("vm setup, without downloads", f"{set_up:.1f} s"),
        ("cold boot until the agent serves", f"{serves:.1f} s"),
        ("cold boot until cells can run", f"{cold:.1f} s"),
        ("restore to first finished cell", f"{statistics.median(first):.2f} s ({statistics.median(first) / cold:.2f} of a cold boot, {statistics.median(first) / serves:.2f} until the agent serves)"),
        ("a later cell", f"{statistics.median(later) * 1000:.0f} ms ({statistics.median(later) / statistics.median(python):.2f} of python -I -S -c pass there)"),
        ("the first cell with --net", f"{statistics.median(net):.2f} s"),
        ("python -I -S -c pass in a container", f"{statistics.median(python) * 1000:.0f} ms"),
        ("QEMU's resident memory after the restore", f"{statistics.median(idle) / MIB:.0f} MiB"),
        ("QEMU's resident memory after these cells", f"{statistics.median(used) / MIB:.0f} MiB"),
    ]
    for name, value in rows:
        print(f"{name:<45} {value}")


if __name__ == "__main__":
    main()
