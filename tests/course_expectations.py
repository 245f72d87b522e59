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
        "cpu-outcome": "assert 0.05 <= slow.usage.cpu_seconds <= 0.4 and slow.usage.wall_seconds >= 1",
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
        "plan": "assert ('pivot_root' in plan or nbc_engine == 'vm') and 'chroot(' not in plan",
        "mounts": "assert topmost == '/' and bare.stdout.split() == ['busybox', 'one.txt', 'two.txt']",
        "climb": (
            "assert climbs['one chroot'] == ['/lab/jail'] * 5 and climbs['pivot_root'] == ['/'] * 5\n"
            "assert climbs['two, without chdir'] == ['/lab/jail', '/lab', '/', '/', '/'], climbs"
        ),
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
        "time": "assert clock.ok and clock.stdout.split()[0] != mine['time']",
        "time-year": (
            "before, after = (float(line.split()[0]) for line in year.stdout.splitlines())\n"
            "assert 365 <= round(after - before, 2) <= 365.1, year.stdout"
        ),
        # Ordinary users get a user namespace besides. Numbers of the guest's own namespaces mean nothing beside the host's.
        "picture": (
            "counts = dict(zip(numbers, map(sum, own)))\n"
            "assert counts['this notebook'] == 0 and list(counts) == ['this notebook', *WAYS]\n"
            "assert nbc_engine == 'vm' or list(counts.values())[1:] == [7, 6, 1 + bool(os.geteuid()), 8], counts\n"
            "assert nbc_engine == 'vm' or not own[2][KINDS.index('net')] and own[3][KINDS.index('pid')] and own[4][KINDS.index('time')]"
        ),
    },
    "04-memory": {
        "reserve-outcome": "assert reserved.ok and reserved.usage.memory_peak_bytes < 32 * MIB",
        "climb": "assert climbed.outcome == 'oom' and climbed.signal == 9 and 60 * MIB <= climbed.usage.memory_peak_bytes <= 64 * MIB",
        "child": "assert family.ok and family.usage.oom_kills == 1 and '-9' in family.stdout",
        "kinds": "assert reading.ok and '100 MiB' in reading.stdout and writing.outcome == 'oom'",
        "sweep": "outcomes = [trial.outcome for trial in runs]; assert outcomes[0] == 'oom' and outcomes[-1] == 'exited' and outcomes == sorted(outcomes, reverse=True)",
    },
    "05-cpu": {
        # A guest counts what other programs of its host take from it as its own.
        "quota": (
            "assert all(run.ok and 0.25 <= run.usage.cpu_seconds and (nbc_engine == 'vm' or run.usage.cpu_seconds <= 0.6) for run in runs)\n"
            "assert runs[2].usage.cpu_seconds < 0.4 * runs[2].usage.wall_seconds and runs[2].usage.throttled_seconds > 0"
        ),
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
        "diff": "assert changed.status == 'exited'",
        "rm": (
            "assert safe and len(os.listdir('/usr/bin')) == programs_before > 50\n"
            "assert os.geteuid() or nbc_engine == 'vm' or 'after: 0' in destroyed.stdout and 'gone' in destroyed.stdout, destroyed.stdout"
        ),
    },
    "11-container-or-virtual-machine": {
        "compare-outcome": (
            "both = not container.why_not and not machine.why_not; assert both or os.geteuid(), comparison\n"
            "assert not both or container.linux_inside == os.uname().release != machine.linux_inside\n"
            "assert not both or machine.later_seconds > container.later_seconds and machine.memory_bytes > 5 * container.memory_bytes\n"
            "assert not both or container.pid_inside == machine.pid_inside == container.processes_seen == 1"
        ),
        "load": "import os",
        "look": "assert not both or seen['local'][0] == os.uname().release and int(seen['vm'][2]) < 1024 and seen['vm'][0] != seen['local'][0]",
        "visible": "assert not both or seen_on_the_host('local') == ['sleep'] and seen_on_the_host('vm') == []",
        "density": "assert not both or len(fits) == 2 and fits[0] > 5 * fits[1]",
    },
    "12-is-a-container-slower": {
        "measure": (
            "assert all(set(works) == {'compute', 'getppid', 'stat', 'switch', 'files', 'fork'} for works in measured.values())\n"
            "assert all(0 < seconds < 5 for works in measured.values() for seconds in works.values())"
        ),
        "services": "assert all(run.ok for run in ten) and one.ok and memory_ten > 3 * memory_one",
        "calls": "assert message > 3 * call",
    },
    "13-what-is-a-container-runtime": {
        "have": "assert ready or os.geteuid()",
        "same": (
            "assert os.geteuid() or len(outputs) == 2 and outputs['runc'] == outputs['crun'], outputs\n"
            "assert os.geteuid() or 'I am pid 1 on box' in outputs['runc'] and 'processes: 1' in outputs['runc'], outputs"
        ),
        "third": "assert third.ok and 'I am pid 1 on box\\nprocesses: 1\\n' in third.stdout",
    },
    "14-how-safe-is-it": {
        "status": "assert 'NoNewPrivs:\\t1' in status.stdout and 'Seccomp:\\t2' in status.stdout",
        "capabilities": "assert len(has) == 11 and 'SYS_ADMIN' not in has",
        "attempts": "assert len(default) == 10 and 'YES' not in default.values(), default",
        "layers": (
            "assert table['all caps']['mount'] == 'YES' and table['share pid']['outsider'] == 'YES' and table['no seccomp']['mount'] != 'YES'\n"
            "names = ('disk', 'memory', 'restart', 'core', 'clock')\n"
            "assert not any(row[name] == 'YES' for way, row in table.items() for name in names if (nbc_engine, way) != ('vm', 'root none')), table"
        ),
        "owner": "assert owner == os.geteuid()",
    },
    "15-your-own-container-in-60-lines": {
        "write": "assert lines <= 60",
        "run": "assert 'I am pid 1\\nmy host is sixty-lines\\nprocesses: 1\\nfiles: /bin /proc\\n' in text and code == 0, text",
        "limit": "assert limited and code == 247, text",
        "watch": "assert len(points) > 10 and points[0][1] < 16 < 24 < max(mebibytes for _, mebibytes in points) <= 32, points",
    },
    "06-pids-io-network-noisy-neighbours": {
        "bomb-outcome": "assert bomb.ok and '29' in bomb.stdout and bomb.usage.pids_peak == 30",
        "real-bomb": "assert real.outcome == 'timeout' and real.usage.pids_peak <= 30",
        "cpu": (
            "assert all(run.ok for run in victims.values())\n"
            "assert victims['noisy'].usage.cpu_seconds > 0.2 * victims['alone'].usage.cpu_seconds, 'shared by groups, not by processes'"
        ),
        "dashboard": "assert nbc.dashboard('noisy', 'quiet')._repr_mimebundle_()[0]['text/plain'].count('%') >= 2",
        "dashboard-limit": "assert noisy.spec.limits.cpus is None and limits.cpus == 0.2",
        "dashboard-end": "assert noisy.status == quiet.status == 'exited' and noisy.result.usage.throttled_seconds > 0",
        "memory": "assert alone.ok and beside.ok and set(kills) == {'oom'}",
        "io": "assert nbc_engine == 'vm' or os.geteuid() or len(written) == 2 and all(run.ok for run in written.values())",
        "load": "import os",
        "network": "assert nbc_engine == 'vm' or os.geteuid() or len(fetched) == 3",
    },
    "08-data": {
        "host": "assert look.stdout.strip() == \"['/data']\" and (base / 'note.txt').exists() and not pathlib.Path('note.txt').exists()",
        "session": "assert second.stdout.strip() == 'day 1 · 2' and after.stdout.strip() == 'False'",
        "readonly": "assert guarded.stdout.splitlines() == [os.strerror(30)] * 2",
        "load": "import os",
        "named": "assert named == ['day 1', 'day 1 day 2', 'day 1 day 2 day 3'] or nbc_engine == 'vm', named",
        "shared": "seen = eval(reader.stdout); assert seen == sorted(seen) and seen[-1] == 10",
        "variables-outside": "assert squares[-1] == 81 and total == 285",
    },
    "10-networks": {
        "load": "import os",
        "cable": "assert works and 'eth0' in looked.stdout or os.geteuid() or nbc_engine == 'vm'",
        "web": "assert not works or answers['bridge'] == 'hello from web, pid 1' and all(answers[who].startswith('NO') for who in ('none', 'notebook')), answers",
        "twice": "assert not works or twice == ['hello from one, pid 1', 'hello from two, pid 1']",
        "nginx": "assert not works or not NGINX or [page.partition(':')[0] for page in pages.values()] == ['page of first', 'page of second', 'NO'], pages",
        "lab": "assert not works or apart['lab'] == 'hello from web, pid 1' and apart['bridge'].startswith('NO'), apart",
        "publish": "assert not works or published == 'hello from web, pid 1'",
    },
}
