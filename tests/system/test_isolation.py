"""Namespaces, roots and mounts: what a container sees, one lock at a time."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from facilities import one_id, only_as_root, require, rootless

import nbcontainer as nbc
from nbcontainer import volumes
from nbcontainer.container import explain
from nbcontainer.engine import local
from nbcontainer.errors import SpecError
from nbcontainer.linux import capabilities

NAMES = ("pid", "net", "mnt", "ipc", "uts", "user", "cgroup")
LINKS = "import os; print({n: os.readlink(f'/proc/self/ns/{n}') for n in 'pid net mnt ipc uts user cgroup time'.split()})"


def _links(**options: object) -> dict[str, str]:
    result = nbc.run(LINKS, **options)
    assert result.ok, result.describe() + result.stderr
    links = eval(result.stdout)
    assert isinstance(links, dict)
    return links


def _own() -> dict[str, str]:
    return {name: os.readlink(f"/proc/self/ns/{name}") for name in (*NAMES, "time")}


@pytest.mark.essential
def test_all_seven_namespaces_by_default() -> None:
    inside, outside = _links(), _own()
    assert [name for name in NAMES if inside[name] == outside[name]] == []
    assert inside["time"] == outside["time"]


@pytest.mark.essential
@pytest.mark.parametrize("name", [*NAMES, "time"])
def test_each_namespace_alone(name: str) -> None:
    inside, outside = _links(unshare=name, root="none"), _own()
    assert {other for other in inside if inside[other] != outside[other]} == {name} | ({"user"} if rootless() else set())


def test_share_keeps_the_host_s() -> None:
    assert _links(share="net")["net"] == _own()["net"]


@pytest.mark.essential
def test_just_a_limited_process() -> None:
    assert _links(unshare="", root="none") == _own()
    result = nbc.run("x = bytearray(200_000_000)", unshare="", root="none", mem="64M")
    assert result.outcome == "oom"


def test_only_pid_pid_1_inside_and_another_pid_outside() -> None:
    result = nbc.run("import os; print(os.getpid())", root="none", unshare="pid")
    assert result.stdout == "1\n"
    assert result.pid != 1


def test_own_proc_shows_own_processes() -> None:
    result = nbc.run("ls -d /proc/[0-9]* | wc -l", program=["sh"])
    assert int(result.stdout) < 6


def test_hostname(tmp_path: Path) -> None:
    before = socket.gethostname()
    code = "import socket; print(socket.gethostname()); print(open('/etc/hostname').read().strip())"
    assert nbc.run(code, hostname="lab").stdout == "lab\nlab\n"
    assert socket.gethostname() == before


def test_network_is_loopback_only() -> None:
    code = (
        "import os, socket\nprint(sorted(os.listdir('/sys/class/net')))\ns = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()\n"
        "socket.create_connection(s.getsockname()); print('ok')"
    )
    assert nbc.run(code).stdout.split("\n")[:2] == ["['lo']", "ok"]


def test_a_host_that_is_deleted_inside_is_untouched_outside(tmp_path: Path) -> None:
    probe = nbc.run("touch /etc/nbcontainer-probe && ls /etc/nbcontainer-probe", program=["sh"])
    assert probe.ok
    assert not os.path.exists("/etc/nbcontainer-probe"), "writes reach the host: nothing destructive is tried"
    before = sorted(os.listdir("/etc"))
    result = nbc.run("rm -rf /etc/* 2>/dev/null; ls /etc | wc -l", program=["sh"])
    # An ordinary user cannot write to what root owns, not even to a copy: Linux knows no id for it in there.
    assert int(result.stdout) <= 3 or rootless()
    assert sorted(os.listdir("/etc")) == before


@pytest.mark.essential
def test_workspace_is_copy_on_write(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("old")
    code = "print(open('data.txt').read()); open('data.txt', 'w').write('new'); open('more', 'w').close()"
    assert nbc.run(code, base=str(tmp_path)).stdout == "old\n"
    assert (tmp_path / "data.txt").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["data.txt"]
    empty = nbc.run("import os; print(os.getcwd(), os.listdir())", base=str(tmp_path), workspace="none")
    assert empty.stdout == "/workspace []\n"


@pytest.mark.essential
def test_volumes(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_text("text")
    volumes = ["./in:/data", "./in:/only:ro"]
    code = "cat /only/file; echo new > /data/made; echo x > /only/made2 || echo refused"
    result = nbc.run(code, program=["sh"], base=str(tmp_path), volumes=volumes)
    assert result.stdout == "textrefused\n", result.stderr
    made = tmp_path / "in" / "made"
    assert made.read_text() == "new\n"
    assert made.stat().st_uid == os.getuid()
    assert sorted(os.listdir(tmp_path / "in")) == ["file", "made"]


def test_volume_of_one_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("one file")
    assert nbc.run("print(open('/etc/f.conf').read())", volumes=[f"{tmp_path}/f:/etc/f.conf:ro"]).stdout == "one file\n"


def test_tmpfs_and_disk_have_sizes() -> None:
    code = "dd if=/dev/zero of={} bs=1M count=20 2>/dev/null && echo fits || echo full"
    assert nbc.run(code.format("/cache/x"), program=["sh"], tmpfs=["/cache:size=4M"], mem="256M").stdout == "full\n"
    assert nbc.run(code.format("/tmp/x"), program=["sh"], disk="4M", mem="256M").stdout == "full\n"
    assert nbc.run(code.format("/tmp/x"), program=["sh"], disk="64M", mem="256M").stdout == "fits\n"


def test_shared_memory_has_a_size() -> None:
    code = (
        "from multiprocessing import shared_memory\nimport os\n"
        "block = shared_memory.SharedMemory(create=True, size={})\n"
        "os.posix_fallocate(block._fd, 0, block.size); print(block.size >> 20); block.close(); block.unlink()"
    )
    assert nbc.run(code.format(100 << 20), mem="256M", shm_size="128M").stdout == "100\n"
    refused = nbc.run(code.format(100 << 20), mem="256M").error
    assert refused is not None
    assert "No space left on device" in refused.evalue
    memory = nbc.run(code.format(100 << 20), mem="64M", shm_size="128M")
    assert memory.outcome == "oom", "its pages are the container's memory"


def test_read_only() -> None:
    result = nbc.run("touch /etc/x || touch /usr/x || touch x || echo all refused", program=["sh"], read_only=True)
    assert result.stdout == "all refused\n"


@pytest.mark.essential
def test_system_root_shows_nobody_s_data() -> None:
    """But for the way to the directories that Python itself runs from."""
    python = {path for path in (os.path.realpath(sys.prefix), os.path.realpath(sys.base_prefix))}
    code = "import os\nfor d in ('/home', '/srv', '/var/lib', '/run', '/tmp', '/var/log', '/mnt', '/media', '/root'):\n"
    code += "    for n in os.listdir(d): print(os.path.join(d, n))"
    seen = nbc.run(code, workspace="none").stdout.split()
    assert [path for path in seen if not any(f"{directory}/".startswith(f"{path}/") for directory in python)] == []


@pytest.mark.parametrize("root", ["system", "host"])
def test_what_others_may_not_read_is_hidden(root: str) -> None:
    secret = [
        os.path.join(directory, name)
        for directory, _, names in os.walk("/etc")
        for name in names
        if not os.path.islink(os.path.join(directory, name)) and not os.stat(os.path.join(directory, name)).st_mode & 0o004
    ]
    assert "/etc/shadow" in secret
    assert nbc.run(f"import os; print([path for path in {secret!r} if os.path.lexists(path)])", root=root).stdout == "[]\n"


@pytest.mark.parametrize("root", ["system", "host"])
def test_directories_of_keys_are_empty(root: str) -> None:
    only_as_root("a file in /etc/ssl/private")
    require(os.path.isdir("/etc/ssl/private"), "/etc/ssl/private: apt-get install ssl-cert")
    key = Path(f"/etc/ssl/private/nbcontainer-{os.getpid()}.key")
    key.touch(0o644)
    try:
        # Readable for everybody, but in a directory that is not: only whoever hides all of it hides this.
        assert nbc.run("ls -A /etc/ssl/private; ls /etc/ssl/certs | wc -l", program=["sh"], root=root).stdout.splitlines()[0].isdigit()
    finally:
        key.unlink()


UNREADABLE = r"""
places=$(awk '$0 ~ / - overlay / {print $5}' /proc/self/mountinfo)
find $places -xdev \( -type d \( ! -perm -o+r -o ! -perm -o+x \) ! -empty -print -prune \) -o \( ! -type d ! -type l ! -perm -o+r -print \)
find $places -xdev -name shadow -o -xdev -name private -path /etc/ssl/private ! -empty
echo end of $places
"""


@pytest.mark.parametrize("root", ["system", "host"])
def test_no_file_of_a_root_is_one_that_others_may_not_read(root: str) -> None:
    """Looked for inside, by a root whom modes do not stop: whatever is there is found."""
    assert not os.stat("/etc/shadow").st_mode & 0o004
    local.shutdown()  # what was made since the last look is only hidden within a minute
    began = time.time()
    result = nbc.run(UNREADABLE, program=["sh"], root=root, workspace="none", mem="512M")
    found = result.stdout.splitlines()
    assert found[-1].startswith("end of /"), result.stderr
    assert [path for path in found[:-1] if _was_so_before(path, began)] == []


def _was_so_before(path: str, unix_seconds: float) -> bool:
    """Other programs of this machine may make something at this very moment."""
    try:
        return os.lstat(path).st_ctime < unix_seconds
    except FileNotFoundError:
        return False


def test_a_session_keyring_of_its_own() -> None:
    """Without a filter, so that keyctl can say which it is."""
    code = "import ctypes, os; print(ctypes.CDLL(None, use_errno=True).syscall({'x86_64': 250, 'aarch64': 219}[os.uname().machine], 0, -3, 0, 0, 0))"
    serials = [int(nbc.run(code, security="unconfined", share=share).stdout) for share in ("", "", "pid,ipc,net")]
    own = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert min(serials) > 0
    assert len({*serials, int(own)}) == 4


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"cap_drop": ["ALL"]}, ()),
        ({"cap_drop": ["all"], "cap_add": ["CHOWN", "cap_kill"]}, ("CHOWN", "KILL")),
        ({"cap_add": ["ALL"], "cap_drop": ["SYS_ADMIN", "NET_ADMIN"]}, tuple(set(capabilities.CAPABILITIES) - {"SYS_ADMIN", "NET_ADMIN"})),
        ({"cap_add": ["CHOWN"], "cap_drop": ["CHOWN"]}, tuple(set(capabilities.DEFAULT_CAPABILITIES) - {"CHOWN"})),
        ({"cap_add": ["ALL"], "user": "1000"}, ()),
    ],
)
def test_capabilities_are_added_and_dropped_as_in_docker(options: dict[str, list[str]], expected: tuple[str, ...]) -> None:
    if "user" in options and one_id():
        pytest.skip("only with several user ids")
    code = "grep -E 'CapEff|CapPrm|CapInh|CapAmb' /proc/self/status"
    lines = dict(line.split(":\t") for line in nbc.run(code, program=["sh"], **options).stdout.splitlines())
    known = (1 << capabilities.last_capability() + 1) - 1
    assert int(lines["CapEff"], 16) == int(lines["CapPrm"], 16) == capabilities.mask(expected) & known
    assert int(lines["CapInh"], 16) == int(lines["CapAmb"], 16) == 0


@pytest.mark.essential
def test_kernel_file_systems() -> None:
    code = (
        "import os\nprint(sorted(os.listdir('/dev')))\n"
        "for path in ('/proc/sys/kernel/hostname', '/sys/fs/cgroup/probe', '/proc/sysrq-trigger'):\n"
        "    try: os.close(os.open(path, os.O_WRONLY | os.O_CREAT)); print(path, 'opened')\n"
        "    except OSError as error: print(type(error).__name__)\n"
        "print(open('/dev/null').read() == '')"
    )
    lines = nbc.run(code).stdout.splitlines()
    assert lines[0] == str(
        ["fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"]
    )
    assert "opened" not in " ".join(lines)
    assert lines[-1] == "True"


@pytest.mark.essential
def test_own_cgroup_files() -> None:
    code = (
        "import os\nfor p in ('/sys/fs/cgroup/memory/memory.limit_in_bytes', '/sys/fs/cgroup/memory.max'):\n"
        "    if os.path.exists(p): print(open(p).read().strip())\n"
        "print(all(l.strip().endswith(':/') for l in open('/proc/self/cgroup') if 'systemd' not in l and 'cpuset' not in l and 'devices' not in l))"
    )
    assert nbc.run(code, mem="64M").stdout == f"{64 << 20}\nTrue\n"


@pytest.mark.essential
def test_ids_are_not_the_host_s() -> None:
    result = nbc.run("import time; print(open('/proc/self/uid_map').readline().split()); time.sleep(0)")
    inside, outside, count = map(int, eval(result.stdout))
    if rootless():
        assert (inside, outside, count) == (0, os.geteuid(), 1)
    else:
        assert (inside, count) == (0, 65536)
        assert outside >= 0x70000000


@pytest.mark.essential
def test_capabilities_and_no_new_privileges() -> None:
    code = "grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status"
    lines = dict(line.split(":\t") for line in nbc.run(code, program=["sh"]).stdout.splitlines())
    assert lines == {"CapEff": "00000000800405fb", "CapBnd": "00000000800405fb", "NoNewPrivs": "1"}
    added = dict(line.split(":\t") for line in nbc.run(code, program=["sh"], cap_add=["NET_RAW"], cap_drop=["CHOWN"]).stdout.splitlines())
    assert int(added["CapEff"], 16) == int(lines["CapEff"], 16) - 1 + (1 << 13)
    if one_id():
        return
    nobody = dict(line.split(":\t") for line in nbc.run(code, program=["sh"], user="nobody").stdout.splitlines())
    assert int(nobody["CapEff"], 16) == 0


def test_other_users() -> None:
    if one_id():
        with pytest.raises(nbc.HostError, match="--user"):
            nbc.run("", program=["id"], user="1000:1001")
        return
    assert nbc.run("", program=["id", "-u"], user="1000:1001").stdout == "1000\n"
    assert nbc.run("import os; print(os.getuid())", user="nobody").stdout == "65534\n"


def test_users_are_those_of_the_container_and_none_of_its_code_looks_them_up(chroot: Path) -> None:
    """The C library would load what /etc/nsswitch.conf names, before the cell has given up its capabilities."""
    if one_id():
        pytest.skip("only with several user ids")
    chroot.chmod(0o755)
    (chroot / "etc").mkdir()
    (chroot / "etc" / "passwd").write_text("# none\njoe:x:1234:1235:Joe:/home/joe:/bin/sh\nbroken:x:1\nbad:x:a:b::/:\n")
    (chroot / "etc" / "group").write_text("wheel:x:99:ann,joe\nstaff:x:98:joey\nown:x:1235:joe\n")
    (chroot / "etc" / "nsswitch.conf").write_text("passwd: evil\ngroup: evil\n")
    (chroot / "lib").mkdir()
    (chroot / "lib" / "libnss_evil.so.2").write_bytes(b"not a library")
    code = "while read a b; do case $a in Uid:|Gid:|Groups:) echo $a $b;; esac; done < /proc/self/status; echo $HOME"
    for user, expected in {
        "joe": ("1234 1234 1234 1234", "1235 1235 1235 1235", "99 1235", "/home/joe"),
        "1234": ("1234 1234 1234 1234", "1235 1235 1235 1235", "99 1235", "/home/joe"),
        "joe:98": ("1234 1234 1234 1234", "98 98 98 98", "98", "/home/joe"),
        "77": ("77 77 77 77", "77 77 77 77", "77", "/"),
    }.items():
        result = nbc.run(code, program=["sh"], root=str(chroot), user=user)
        uids, gids, groups, home = expected
        assert result.stdout == f"Uid: {uids}\nGid: {gids}\nGroups: {groups}\n{home}\n", (user, result.stderr)
    for user in ("broken", "nobody"):
        with pytest.raises(nbc.NbcontainerError, match="--user"):
            nbc.run(code, program=["sh"], root=str(chroot), user=user)


@pytest.fixture
def chroot(tmp_path: Path) -> Path:
    """A directory with three files and a static shell."""
    busybox = "/bin/busybox"
    require(os.path.exists(busybox), "busybox-static: apt-get install busybox-static")
    (tmp_path / "bin").mkdir()
    shutil.copy(busybox, tmp_path / "bin" / "sh")
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(f"{name}\n")
    return tmp_path


def test_chroot_s_experiment_shows_exactly_the_directory(chroot: Path) -> None:
    result = nbc.run("echo /*; read x < /a; echo $x; echo changed > /a; read x < /a; echo $x", program=["sh"], root=str(chroot), bare=True, unshare="mnt")
    assert result.stdout == "/a /b /bin /c\na\nchanged\n", result.stderr
    assert (chroot / "a").read_text() == "a\n"


def test_directory_root_with_its_file_systems(chroot: Path) -> None:
    result = nbc.run("echo $$; ls /proc/1/root/ >/dev/null && echo /dev/n*; echo /*", program=["sh"], root=str(chroot))
    assert result.stdout.splitlines()[:2] == ["1", "/dev/null"], result.stderr
    assert sorted(os.listdir(chroot)) == ["a", "b", "bin", "c"]


def test_a_program_without_its_loader_or_interpreter_says_so(chroot: Path) -> None:
    """The classic mistake: a dynamic program copied into an empty root."""
    shutil.copy("/bin/bash", chroot / "bin" / "bash")
    (chroot / "bin" / "script").write_text("#!/usr/bin/env python3\n")
    (chroot / "bin" / "script").chmod(0o755)
    for program in ("/bin/bash", "bash", "/bin/script"):
        with pytest.raises(nbc.SpecError, match=r"'/bin/(bash|script)' is in the container, but the loader .* is not; try a static program"):
            nbc.run("", program=[program], root=str(chroot), bare=True)
    for program in ("/bin/nothing", "nothing"):
        with pytest.raises(nbc.SpecError, match="is not in the container"):
            nbc.run("", program=[program], root=str(chroot), bare=True)


@pytest.mark.essential
def test_writable_directory_root(chroot: Path) -> None:
    result = nbc.run("echo changed > /a", program=["sh"], root=f"{chroot}:rw", bare=True)
    assert result.ok, result.stderr
    assert (chroot / "a").read_text() == "changed\n"
    with pytest.raises(nbc.SpecError, match="--bare"):
        nbc.run("true", program=["sh"], root=f"{chroot}:rw")


def test_host_files_stay_hidden_through_proc(tmp_path: Path) -> None:
    """With the host's processes in sight, their roots are not."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    process = f"/proc/{os.getpid()}"
    assert Path(f"{process}/root{secret}").read_text() == "secret"  # it is there, for whom may look
    code = f"test -d {process} && echo seen; cat {process}/root{secret} {process}/cwd/pyproject.toml || echo hidden"
    assert nbc.run(code, program=["sh"], share="pid").stdout == "seen\nhidden\n"


@pytest.mark.essential
def test_the_oom_score_stays_where_root_has_put_it() -> None:
    """Without CAP_SYS_RESOURCE on the host, Linux lets every process go back to what its ancestors had."""
    code = "echo 500 > /proc/self/oom_score_adj; cat /proc/self/oom_score_adj; echo 0 > /proc/self/oom_score_adj; cat /proc/self/oom_score_adj"
    seen = nbc.run(code, program=["sh"]).stdout.split()
    pinned = not rootless() and capabilities.has("SYS_RESOURCE")
    assert seen == (["500", "500"] if pinned else ["500", "0"])


def test_no_nested_user_namespaces() -> None:
    with open("/proc/sys/user/max_user_namespaces") as file:
        before = file.read()
    assert nbc.run("unshare --user true || echo refused", program=["sh"]).stdout == "refused\n"
    with open("/proc/sys/user/max_user_namespaces") as file:
        assert file.read() == before


def test_volumes_inside_the_workspace_make_nothing_in_the_notebook_s_directory(tmp_path: Path) -> None:
    notebook, data = tmp_path / "notebook", tmp_path / "data"
    notebook.mkdir()
    data.mkdir()
    (data / "file").write_text("text")
    volumes = ["../data:/workspace/data:ro", "../data/file:/workspace/one:ro"]
    result = nbc.run("cat data/file one", program=["sh"], base=str(notebook), volumes=volumes)
    assert result.stdout == "texttext", result.stderr
    assert os.listdir(notebook) == []


@pytest.mark.parametrize("replace", ["rename", "remove"])
def test_a_volume_that_was_replaced_since_the_last_cell_is_the_new_one(tmp_path: Path, replace: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    options = {"volumes": ["./out:/out"], "base": str(tmp_path), "mem": "64M"}
    assert nbc.run("open('/out/first', 'w').close()", **options).ok
    _wait_for_spare()
    if replace == "rename":
        out.rename(tmp_path / "old")
    else:
        shutil.rmtree(out)
    out.mkdir()
    assert nbc.run("open('/out/second', 'w').close()", **options).ok
    assert os.listdir(out) == ["second"]


def test_a_file_and_a_notebook_directory_that_were_replaced_are_the_new_ones(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "f").write_text("old")
    options = {"volumes": [f"{tmp_path}/f:/f:ro"], "base": str(tmp_path / "w"), "mem": "64M"}
    code = "import os; print(open('/f').read(), os.listdir())"
    assert nbc.run(code, **options).stdout == "old []\n"
    _wait_for_spare()
    (tmp_path / "g").write_text("new")
    os.replace(tmp_path / "g", tmp_path / "f")
    shutil.rmtree(tmp_path / "w")
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "here").touch()
    assert nbc.run(code, **options).stdout == "new ['here']\n"


def _wait_for_spare() -> None:
    from nbcontainer.engine.local import open_local

    engine = open_local()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with engine._lock:
            if engine._spares:
                return
        time.sleep(0.001)
    raise AssertionError("no box was made in advance")


def test_what_becomes_unreadable_later_is_hidden_too(monkeypatch: pytest.MonkeyPatch) -> None:
    if rootless():
        return  # what root makes unreadable, an ordinary user's container cannot read either
    local.shutdown()
    monkeypatch.setattr(local.LocalEngine, "look_again_seconds", (0.0, 0.0))
    secret = Path(f"/usr/local/share/nbcontainer-test-{os.getpid()}")
    code = f"import os; print(os.path.exists({str(secret)!r}))"
    try:
        secret.write_text("secret")
        assert nbc.run(code).stdout == "True\n"
        secret.chmod(0o600)
        local.open_local().drop_spares()
        assert nbc.run(code).stdout == "False\n"
    finally:
        secret.unlink()
        local.shutdown()
        monkeypatch.undo()
        nbc.run("pass")


def test_a_virtual_environment_behind_a_link(tmp_path: Path) -> None:
    link = tmp_path / "venv"
    link.symlink_to(sys.prefix)
    cell = "import sys, psutil; print(sys.prefix, psutil.__file__)"
    code = f"import nbcontainer as nbc; print(nbc.run({cell!r}, mem='128M').stdout)"
    done = subprocess.run([link / "bin" / "python", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == [str(link), psutil.__file__.replace(sys.prefix, str(link))], done.stderr


def test_a_python_of_the_user_s_own_cannot_be_changed_through_proc(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--copies", "--without-pip", tmp_path / "venv"], check=True)
    packages = tmp_path / "venv" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    (packages / "these.pth").write_text("\n".join(path for path in [*sys.path, str(Path(nbc.__file__).parent.parent)] if path))
    os.chmod(tmp_path, 0o755)
    before = python.stat()
    cell = "import os, sys\ntry: os.chmod('/proc/self/exe', 0o700)\nexcept OSError: pass\nprint(sys.prefix)"
    code = f"import nbcontainer as nbc; print(nbc.run({cell!r}, mem='128M').stdout)"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(tmp_path / "venv"), done.stderr
    after = python.stat()
    assert (after.st_mode, after.st_ctime_ns) == (before.st_mode, before.st_ctime_ns)


@pytest.fixture
def nodes(tmp_path: Path) -> Path:
    """A directory with a device node that everybody may open, and one that only root may; and busybox. The device is /dev/zero's."""
    only_as_root("it makes device nodes")
    require(os.path.exists("/bin/busybox"), "busybox-static: apt-get install busybox-static")
    for name in ("dev/pts", "dev/shm", "proc", "sys"):
        (tmp_path / name).mkdir(parents=True)
    for path, mode in (("mine", 0o600), ("all", 0o666), ("dev/null", 0o666), ("dev/mine", 0o600)):
        os.mknod(tmp_path / path, 0o020000 | mode, os.makedev(1, 3 if path == "dev/null" else 5))
        (tmp_path / path).chmod(mode)
    shutil.copy("/bin/busybox", tmp_path / "busybox")
    tmp_path.chmod(0o755)
    return tmp_path


@pytest.mark.essential
@pytest.mark.parametrize(
    ("place", "options"),
    [
        ("/v", {"volume": ["{}:/v"]}),
        ("/v", {"volume": ["{}:/v:ro"]}),
        ("/workspace", {"base": "{}"}),
        ("", {"root": "{}"}),
        ("", {"root": "{}:rw"}),
        ("", {"root": "{}", "bare": True}),
    ],
)
def test_a_device_node_that_a_directory_of_the_host_has_opens_nothing(nodes: Path, place: str, options: dict[str, object]) -> None:
    """Its number is the host's, and may be a disk's: it lies in a backup, say, or in another root."""
    filled: dict[str, object] = {
        key: [text.format(nodes) for text in value] if isinstance(value, list) else value.format(nodes) if isinstance(value, str) else value
        for key, value in options.items()
    }
    paths = [f"{place}/{name}" for name in ("mine", "all", "dev/mine" if place or options.get("bare") or options["root"] == "{}:rw" else "mine")]
    busybox = f"{place}/busybox" if "root" in options else "busybox"
    result = nbc.run(f"for path in {' '.join(paths)}; do {busybox} head -c1 $path; done", program=[busybox, "sh"], mem="64M", **filled)
    assert result.stdout == "" and result.stderr.count("Permission denied") == 3, result.stderr


@pytest.mark.parametrize("root", ["system", "host", "{}", "{}:rw"])
def test_the_devices_of_a_container(nodes: Path, root: str) -> None:
    (nodes / "dev" / "urandom").touch()
    busybox = "/busybox" if "{}" in root else "busybox"
    code = f"echo lost >/dev/null && {busybox} head -c8 /dev/urandom | {busybox} wc -c; {busybox} head -c1 /proc/kcore | {busybox} wc -c"
    result = nbc.run(code, program=[busybox, "sh"], mem="64M", root=root.format(nodes), workspace="none")
    assert result.stdout.split() == ["8", "0"], (result.stdout, result.stderr)


def test_the_keys_of_jupyter_s_kernels_are_not_in_the_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data.csv").touch()
    for variable, name in (("JUPYTER_RUNTIME_DIR", "runtime"), ("JUPYTER_DATA_DIR", "data")):
        directory = tmp_path / "deep" / name
        place = directory / "runtime" if variable == "JUPYTER_DATA_DIR" else directory
        place.mkdir(parents=True)
        (place / "kernel-1.json").write_text('{"key": "secret"}')
        (place / "kernel-1.json").chmod(0o600)
        monkeypatch.setenv(variable, str(directory))
    tmp_path.chmod(0o755)
    code = "import os\nprint(sorted(name for _, _, names in os.walk('/workspace') for name in names))"
    for options in ({}, {"init": True}, {"root": "host"}):
        assert nbc.run(code, mem="64M", base=str(tmp_path), **options).stdout == "['data.csv']\n"
    assert (tmp_path / "deep" / "runtime" / "kernel-1.json").exists()


@pytest.mark.essential
@pytest.mark.parametrize("user", ["1000", "1000:50", "nobody", "1", "65535"])
def test_what_a_user_writes_to_a_volume_is_the_notebook_s_user_s(tmp_path: Path, user: str) -> None:
    """Even where nobody else may go in; with :ro, ids are the file system's."""
    only_as_root("an ordinary user's container has that user's ids, or subordinate ones")
    tmp_path.chmod(0o700)
    (tmp_path / "theirs").touch()
    os.chown(tmp_path / "theirs", 7, 8)
    code = "umask 077; echo x >/v/its; cat /v/its; stat -c %u:%g /v /v/its; id -u; stat -c %u:%g /v/theirs"
    result = nbc.run(code, program=["sh"], user=user, volume=[f"{tmp_path}:/v"], mem="64M")
    seen = {"nobody": "65534:65534", "1000": "1000:1000", "1": "1:1", "65535": "65535:65535"}.get(user, user)
    assert result.stdout.split() == ["x", seen, seen, seen.split(":")[0], "7:8"], result.stderr
    status = (tmp_path / "its").stat()
    assert (status.st_uid, status.st_gid) == (0, 0)
    result = nbc.run("ls /v || id -u", program=["sh"], user=user, volume=[f"{tmp_path}:/v:ro"], mem="64M")
    assert "denied" in result.stderr and result.stdout.split() == [seen.split(":")[0]]


def test_a_named_volume_is_the_same_for_every_user() -> None:
    only_as_root("an ordinary user's container has that user's ids, or subordinate ones")
    name = f"test-{os.getpid()}"
    try:
        for number, user in enumerate(("1000", "root", "nobody")):
            result = nbc.run(f"umask 077; echo {number} >/v/{number}; cat /v/*", program=["sh"], user=user, volume=[f"{name}:/v"], mem="64M")
            assert result.stdout.split() == [str(count) for count in range(number + 1)], result.stderr
    finally:
        volumes.remove(name)


def test_a_user_of_the_root_s_own_files_owns_a_volume(tmp_path: Path) -> None:
    """Its ids are read on the host, by files that a cell may have made: links, pipes and large ones lead nowhere."""
    only_as_root("an ordinary user's container has that user's ids, or subordinate ones")
    root, volume = tmp_path / "root", tmp_path / "volume"
    (root / "etc").mkdir(parents=True)
    (root / "bin").mkdir()
    shutil.copy("/bin/busybox", root / "bin" / "sh")
    volume.mkdir(mode=0o700)
    passwd = root / "etc" / "passwd"

    def owner() -> tuple[str, int]:
        (volume / "its").unlink(missing_ok=True)
        options = {"root": str(root), "volume": [f"{volume}:/v"], "mem": "64M"}
        result = nbc.run("echo >/v/its", program=["sh"], user="joe", **options)
        return result.stderr, (volume / "its").stat().st_uid if (volume / "its").exists() else -1

    passwd.write_text("joe:x:1234:1235:Joe:/:/bin/sh\n")
    assert owner() == ("", 0)
    passwd.rename(root / "etc" / "accounts")
    passwd.symlink_to("/etc/accounts")
    assert owner() == ("", 0)
    passwd.unlink()
    os.mkfifo(passwd)
    with pytest.raises(SpecError, match="joe"):
        owner()
    plan = explain(program=["sh"], user="1000", volume=[f"{volume}:/v"])
    assert f"open_tree({volume}, CLONE) read-write, NODEV, the host's root is 1000:1000" in plan


def test_what_is_gone_from_the_host_is_gone_from_an_ordinary_user_s_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are put together from what was there when the kernel looked: a removed file or directory costs no later container."""
    if not rootless():
        pytest.skip("only as an ordinary user: root's roots have the host's as one layer")
    engine = local.open_local()
    around, top = engine.around, engine.around.top_level
    assert top is not None
    stays, goes, directory = tmp_path / "stays", tmp_path / "goes", tmp_path / "directory"
    for path in (stays, goes):
        path.write_text(path.name)
    directory.mkdir()
    above = next(branch for branch in top.branches if str(tmp_path).startswith(branch.path + "/"))
    branches = (*(branch for branch in top.branches if branch != above), replace(above, path=str(directory)))
    changed = replace(top, branches=branches, files=(*top.files, str(stays), str(goes)))
    monkeypatch.setattr(engine, "around", replace(around, top_level=changed, branches=branches))
    code = f"cat {tmp_path}/*; test -d {directory}; echo $?"
    options = {"program": ["sh"], "root": "host", "mem": "64M", "workspace": "none"}
    assert nbc.run(code, **options).stdout == "goesstays0\n"
    goes.unlink()
    directory.rmdir()
    engine.drop_spares()
    assert nbc.run(code, **options).stdout == "stays1\n"
    (tmp_path / "stays").unlink()
    engine.drop_spares()
    assert nbc.run("echo on", **options).stdout == "on\n"


def test_files_of_other_users_in_a_volume(tmp_path: Path) -> None:
    """As SECURITY.md says: the container's users are, in a volume of root's kernel, those of the host; outside of it they are nobody."""
    only_as_root("an ordinary user's container has that user's ids, or subordinate ones")
    os.chown(tmp_path, 1000, 1000)
    result = nbc.run("touch /v/its; id -u", program=["sh"], user="1000", volume=[f"{tmp_path}:/v"], mem="64M")
    assert result.stdout == "1000\n" and (tmp_path / "its").stat().st_uid == 1000
    os.chown(tmp_path, 0, 0)
    assert nbc.run("import os; os.mknod('/v/root'); os.chown('/v/root', 7, 8)", volume=[f"{tmp_path}:/v"], mem="64M").ok
    status = (tmp_path / "root").stat()
    assert (status.st_uid, status.st_gid) == (7, 8)
