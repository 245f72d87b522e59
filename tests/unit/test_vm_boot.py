"""What makes the guest's start short: dataclasses that were compiled here, a lean router, memory that is copied without its holes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nbcontainer.engine.vm import hidden, qemu, template
from nbcontainer.errors import HostError
from nbcontainer.runtime.search import Hidden

ROOT = Path(__file__).resolve().parents[2]
CLASS = "@dataclasses.dataclass(frozen=True, slots=True)\nclass Point:\n    x: int\n    y: int = 2\n"


def _python(code: str, *arguments: str) -> str:
    begin = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
    done = subprocess.run([sys.executable, "-P", "-c", begin + code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_dataclasses_are_what_they_are_and_compile_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "bundle")
    first = "import dataclasses\nfrom nbcontainer.runtime import bundle\nbundle.record()\n" + CLASS
    _python(first + "bundle.write(open(sys.argv[1], 'wb'), [], bundle.recorded())", path)
    use = (
        "import builtins, dataclasses\nfrom nbcontainer.runtime import bundle\nbundle.use(sys.argv[1])\ncompiled = []\n"
        "bundle.compile = lambda *arguments, **options: compiled.append(arguments[0]) or builtins.compile(*arguments, **options)\n"
    )
    ask = "print(Point(1), Point(1) == Point(1, 2), hash(Point(1)) == hash(Point(1, 2)), len(compiled))\n"
    other = CLASS.replace("y: int = 2", "z: int = 3")
    last = "bundle.remove()\nprint(hasattr(dataclasses, 'exec'), bundle._generated)\n"
    lines = _python(use + CLASS + ask + other + "print(Point(1), len(compiled) > 0)\n" + last, path).splitlines()
    assert lines == ["Point(x=1, y=2) True True 0", "Point(x=1, z=3) True", "False {}"]


def test_regular_expressions_are_what_they_are_and_none_is_compiled(tmp_path: Path) -> None:
    path = str(tmp_path / "bundle")
    expressions = (
        "import enum, re\n"
        "found = [re.compile(r'(?P<year>\\d+)-(a|[b-d]+)?', re.I | re.X), re.compile(b'[\\x80-\\xff]+$', re.M), re.compile('(?i:x)\u00e4'), re.compile('x')]\n"
        "asked = [found[0].fullmatch('12-Bc').groupdict(), found[0].groupindex, found[1].search(b'a\\xff').span(), bool(found[2].match('X\u00e4')), found[3].flags, repr(found[0])]\n"
    )
    first = "from nbcontainer.runtime import bundle\nbundle.record()\n" + expressions
    said = _python(first + "bundle.write(open(sys.argv[1], 'wb'), [], bundle.recorded())\nprint(asked)", path)
    use = (
        "from nbcontainer.runtime import bundle\nbundle.use(sys.argv[1])\nreal, compiled = bundle._compiler_compile, []\n"
        "bundle._compiler_compile = lambda *arguments: compiled.append(arguments) or real(*arguments)\n"
    )
    last = "print(asked)\nprint(compiled)\nre.compile('new')\nprint(len(compiled))\nbundle._compiler_compile = real\nbundle.remove()\nprint(re._compiler.compile is real, bundle._expressions)\n"
    lines = _python(use + expressions + last, path).splitlines()
    assert lines == [said.strip(), "[]", "1", "True {}"]
    assert _python(expressions + "print(asked)") == said, "and without any bundle"


def test_bundled_modules_are_what_they_are_and_nobody_looks_for_them(tmp_path: Path) -> None:
    """Also packages and what is in them; a traceback shows their source, and after the end all is found as ever."""
    path, package = str(tmp_path / "bundle"), tmp_path / "fruit"
    package.mkdir()
    (package / "__init__.py").write_text("COLOUR = 'green'\n")
    (package / "pear.py").write_text("from fruit import COLOUR\ndef peel():\n    raise ValueError(COLOUR)\n")
    pack = (
        "import marshal\nfrom nbcontainer.runtime import bundle\n"
        f"sources = {{'fruit': ({str(package / '__init__.py')!r}, True), 'fruit.pear': ({str(package / 'pear.py')!r}, False)}}\n"
        "modules = [(name, file, is_package, marshal.dumps(compile(open(file).read(), file, 'exec'))) for name, (file, is_package) in sources.items()]\n"
        "bundle.write(open(sys.argv[1], 'wb'), modules, bundle.recorded())"
    )
    _python(pack, path)
    use = (
        "import traceback\nfrom nbcontainer.runtime import bundle\nbundle.use(sys.argv[1])\n"
        "from fruit import pear\nprint(pear.COLOUR, pear.__spec__.parent, pear.__file__ == pear.__spec__.origin, pear.__package__)\n"
        "try: pear.peel()\nexcept ValueError: print('raise ValueError(COLOUR)' in traceback.format_exc())\n"
        "bundle.remove()\nbundle.remove()\nprint([name for name in sys.meta_path if 'bundle' in str(name)])\ndel sys.modules['fruit.pear']\n"
        "try: import fruit.apple\nexcept ModuleNotFoundError as error: print(error)\nimport fruit.pear as again\nprint(again is not pear, again.COLOUR)"
    )
    assert _python(use, path).splitlines() == ["green fruit True fruit", "True", "[]", "No module named 'fruit.apple'", "True green"]


def test_the_router_imports_a_part_of_pyroute2_and_of_asyncio() -> None:
    code = (
        "from nbcontainer.network import lean\nrouter = lean.import_router()\n"
        "print(callable(router.main), 'pyroute2.netlink.rtnl.ifinfmsg' in sys.modules, [name for name in ('pyroute2.ndb', 'pyroute2.iproute', '_ssl') if name in sys.modules])\n"
        "lean.undo()\nimport pyroute2, ssl\nprint(hasattr(pyroute2, 'IPRoute'))"
    )
    assert _python(code).splitlines() == ["True True []", "True"]


def test_memory_is_copied_without_its_holes(tmp_path: Path) -> None:
    size, at = 64 << 20, 17 << 20
    source = os.memfd_create("test")
    try:
        os.ftruncate(source, size)
        os.pwrite(source, b"begin" * 4096, 0)
        os.pwrite(source, b"middle" * 4096, at + 5)
        template._copy_sparse(source, tmp_path / "copy")
        with open(tmp_path / "copy", "rb") as copy:
            assert os.fstat(copy.fileno()).st_blocks * 512 < 1 << 20
            assert copy.read() == os.pread(source, size, 0)
    finally:
        os.close(source)


def test_memory_that_was_never_written_to_is_copied_too(tmp_path: Path) -> None:
    source = os.memfd_create("test")
    try:
        os.ftruncate(source, 1 << 20)
        template._copy_sparse(source, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == bytes(1 << 20)
    finally:
        os.close(source)


@pytest.mark.parametrize("writable", [True, False])
def test_a_snapshot_that_cannot_be_written_to_is_copied_and_qemu_writes_to_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writable: bool) -> None:
    content = b"begin".ljust(1 << 20, b"\0") * 2
    (tmp_path / "memory-1").write_bytes(content)
    found = object.__new__(template.Template)
    found.directory = tmp_path
    found.machine = qemu.Machine(qemu.Qemu("qemu", "7.2"), tmp_path / "linux", tmp_path / "initramfs", 2, 1)
    monkeypatch.setattr(os, "access", lambda path, mode: writable)
    fds = len(os.listdir("/proc/self/fd"))
    with found._memory(template.Snapshot("memory-1", "device-1", 0, 0, "")) as (backend, inherited):
        path = backend.partition("mem-path=")[2].partition(",")[0]
        if writable:
            assert (path, inherited) == (str(tmp_path / "memory-1"), ()) and backend.endswith("share=off")
        else:
            assert path == f"/proc/self/fd/{inherited[0]}" and backend.endswith("share=on")
            assert Path(path).read_bytes() == content
    assert len(os.listdir("/proc/self/fd")) == fds


def test_what_is_hidden_of_several_directories_is_found_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "secret").touch(mode=0o600)
        (tmp_path / name / "private").mkdir(mode=0o700)
    monkeypatch.setattr(hidden, "base_directories", lambda: (str(tmp_path / "a"), str(tmp_path / "b")))
    files = hidden.HiddenFiles()
    found = files.result()
    assert found == Hidden(tuple(f"{tmp_path}/{name}/secret" for name in "ab"), tuple(f"{tmp_path}/{name}/private" for name in "ab"))
    assert files.result() is found


def test_a_search_that_fails_hides_nothing_by_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/1/2", "b/3/4"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(hidden, "base_directories", lambda: (str(tmp_path / "a"), str(tmp_path / "b")))
    files = hidden.HiddenFiles()
    files.look()
    assert files._search is not None
    failing, *others = files._search._finds
    failing._process.kill()
    failing._process.wait()
    failing._process.returncode = -9  # it may have been done before
    with pytest.raises(HostError, match="could not be listed"):
        files.result()
    assert all(other.done for other in others)
    assert files.result() == Hidden((), ())
