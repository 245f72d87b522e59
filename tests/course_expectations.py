"""What each experiment of the course must show: assertions, by notebook and by the cell that they come after.

They run in the notebook's own kernel, on its variables, so that they hold for both languages. What only a machine of its
own guarantees (how long something takes) is not asserted: only what Linux counts, refuses or hides.
"""

from __future__ import annotations

EXPECTED: dict[str, dict[str, str]] = {
    "00-start-here": {
        "ready": "assert report.checks",
        "first": "assert first.stdout.splitlines()[0].split()[-1] == '1' and \"['1']\" in first.stdout and \"['lo']\" in first.stdout",
        "measure": "assert len(plain) == len(contained) == 20 and min(contained) > 0",
    },
    "01-what-is-a-container": {
        "no-lock": "lines = bare.stdout.splitlines(); assert int(lines[0].split()[-1]) > 1 and int(lines[1].split()[-1]) > 1",
        "pid-outside": "assert [line.split()[-1] for line in locked.stdout.splitlines()] == ['1', '0'] and locked.pid != 1",
        "uts-outside": "assert 'my-first-container' in named.stdout and socket.gethostname() != 'my-first-container'",
        "root-lock": (
            "lines = three.stdout.splitlines()\n"
            "assert lines[0] == '/hello.txt /secret.txt /sh' and lines[1] == 'hello.txt secret.txt'\n"
            "assert lines[2] == (directory / 'hello.txt').read_text(encoding='utf-8').strip() and lines[3].endswith('hello.txt secret.txt sh')"
        ),
        "write-outside": "assert wrote.stdout.count('True') == 2 and '[]' in wrote.stdout and not pathlib.Path('mine').exists()",
        "oom-outcome": "assert full.outcome == 'oom' and full.signal == 9 and 120 << 20 <= full.usage.memory_peak_bytes <= 128 << 20 and ' 64 MiB' in full.stdout",
        "cpu-outcome": "assert 0.1 <= slow.usage.cpu_seconds <= 0.5 and slow.usage.throttled_seconds > 0",
        "all": (
            "import os, re\n"
            "assert re.search(r\"pid: +1\\n.*all pids: \\['1'\\]\", locks.stdout) and re.search(r\"network: +\\['lo'\\]\", locks.stdout)\n"
            "assert re.search(r'home: +\\[\\]', locks.stdout) and 'container' in locks.stdout\n"
            "assert os.geteuid() or int(locks.stdout.splitlines()[5].split()[-1]) >= 65536 or nbc_engine == 'vm'"
        ),
    },
    "02-from-chroot-to-pivot-root": {
        "chroot": "assert inside.ok and inside.stdout.count('busybox') == 2",
        "escape": "assert escaped.ok and (base / 'treasure.txt').read_text(encoding='utf-8').strip() in escaped.stdout and \"'usr'\" in escaped.stdout",
        "plan": "assert 'pivot_root' in plan and 'chroot(' not in plan",
        "mounts": "assert first_mount == '/' and bare.stdout.split() == ['busybox', 'one.txt', 'two.txt']",
        "escape-again": "assert held.stdout.split().count('True') == 1 and held.stdout.strip().endswith('False') and (base / 'treasure.txt').exists()",
    },
    "03-namespaces-one-by-one": {
        "compare": "assert nbc_engine == 'vm' or (different == 7 and mine['time'] == theirs['time'])",
        "pid": "assert pid.ok and pid.stdout.splitlines()[0].count('1') >= 1 and pid.stdout.strip().endswith('True') and pid.pid != 1",
        "uts": "assert uts.stdout.strip() == 'somewhere-else'",
        "ipc": "assert private.stdout.strip() == 'False' and (shared.stdout.strip() == 'True' or nbc_engine == 'vm')",
        "mnt-outside": "assert mnt.stdout.strip().endswith('True') and '/scratch' in mnt.stdout and not os.path.exists('/scratch')",
        "net": "assert 'refused' in with_none.stdout and (with_host.stdout.strip() == 'hello' or nbc_engine == 'vm')",
        "user": "lines = user.stdout.splitlines(); assert lines[0].startswith('uid 0') and all(os.strerror(n) in user.stdout for n in (1, 2)), user.stdout",
        "cgroup": "assert nbc.run(LOOK, mem='64M').stdout.strip() == '/'",
    },
    "04-memory": {
        "reserve-outcome": "assert reserved.ok and reserved.usage.memory_peak_bytes < 32 * MIB",
        "climb": "assert climbed.outcome == 'oom' and climbed.signal == 9 and 60 * MIB <= climbed.usage.memory_peak_bytes <= 64 * MIB",
        "child": "assert family.ok and family.usage.oom_kills == 1 and '-9' in family.stdout",
        "kinds": "assert reading.ok and '100 MiB' in reading.stdout and writing.outcome == 'oom'",
        "sweep": "outcomes = [run.outcome for run in runs]; assert outcomes[0] == 'oom' and outcomes[-1] == 'exited' and outcomes == sorted(outcomes, reverse=True)",
    },
    "05-cpu": {
        "quota": "assert all(run.ok and 0.25 <= run.usage.cpu_seconds <= 0.6 for run in runs) and runs[2].usage.throttled_seconds > 0.1",
        "gaps": "assert len(gaps) >= 3",
        "update": "assert changed.limits.cpus == 0.8 and changed.spec.limits.cpus == 0.2",
        "weight": "assert heavy.usage.cpu_seconds > 1.5 * light.usage.cpu_seconds",
        "workers": "assert all(run.ok for run in crowd.values())",
    },
    "07-union-file-systems": {
        "overlay": (
            "lines = [line.strip() for line in stack.stdout.splitlines()]\n"
            "assert lines[:3] == ['merged: a, n', 'lower:  a, b, dir', 'upper:  a, b, dir, n']\n"
            "assert 'upper/b: character special file' in lines and 'upper/a: regular file' in lines"
        ),
        "byte-outcome": "assert before <= 1 and 50 <= after <= 52",
        "ten": "assert all(run.ok for run in ten) and all(MIB <= upper < 2 * MIB for upper in uppers)",
        "rm": (
            "assert safe and len(os.listdir('/usr/bin')) == programs_before > 50\n"
            "assert os.geteuid() or nbc_engine == 'vm' or 'after: 0' in destroyed.stdout and 'gone' in destroyed.stdout, destroyed.stdout"
        ),
    },
}
