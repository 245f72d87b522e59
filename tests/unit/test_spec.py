"""The spec refuses what is wrong with one line that names the option and the value, and starts nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbcontainer.errors import SpecError
from nbcontainer.linux.meminfo import host_memory_bytes
from nbcontainer.mounts import Mount, Root
from nbcontainer.spec import DEFAULT_MAX_OUTPUT_BYTES, DEFAULT_PIDS, NAMESPACES, ContainerSpec, Limits, Ulimit
from nbcontainer.units import GIB, KIB, MIB, format_size, parse_cpu_list, parse_number, parse_size
from nbcontainer.validate import OPTION_NAMES, make_spec
from nbcontainer.values import parse_namespaces

FACTORS = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": 1 << 40}


def refusal(**options: Any) -> str:
    """The message that make_spec refuses ``options`` with; it is one line."""
    with pytest.raises(SpecError) as caught:
        make_spec(options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- sizes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("4096", 4096),
        ("7b", 7),
        ("7B", 7),
        ("64K", 64 * KIB),
        ("64k", 64 * KIB),
        ("64kb", 64 * KIB),
        ("64KiB", 64 * KIB),
        ("128M", 128 * MIB),
        ("128 M", 128 * MIB),
        ("  128M\t", 128 * MIB),
        ("1.5G", 3 * GIB // 2),
        (".5G", GIB // 2),
        ("2.T", 2 << 40),
        (4096, 4096),
        (1.5, 1),
    ],
)
def test_sizes(text: str | float, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "M", "ib", "1ib", "128Q", "128MM", "-1", "+1", "1e6", "0x10", "1,5G", "12 8M", "1.5.5G", "M128", "128M\n1"),
        *("inf", "nan", True, False),
    ],
)
def test_what_is_no_size_is_refused_by_name(text: Any) -> None:
    with pytest.raises(SpecError) as caught:
        parse_size(text, "--mem")
    assert "--mem" in str(caught.value)
    assert repr(text) in str(caught.value)
    assert "128M" in str(caught.value)  # what is allowed


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), [1], b"1M", None, {}, 1j, "٣M", "1٠"])
def test_what_python_could_not_compare_is_no_size_either(value: Any) -> None:
    with pytest.raises(SpecError, match=r"--mem: .* is not a size such as"):
        parse_size(value, "--mem")


@pytest.mark.parametrize("text", ["0", "0M", 0, -1, -1.5, "0.0001K"])
def test_sizes_below_the_minimum_are_refused(text: Any) -> None:
    with pytest.raises(SpecError, match=r"--mem: .* too small"):
        parse_size(text, "--mem")


def test_zero_is_a_size_where_it_is_allowed() -> None:
    assert parse_size("0", "--swap", minimum=0) == 0


@pytest.mark.parametrize("text", ["9" * 30, "9" * 400, "9" * 5000, "99999999T", 1 << 63])
def test_sizes_that_linux_cannot_count_are_refused(text: Any) -> None:
    with pytest.raises(SpecError, match="--mem"):
        parse_size(text, "--mem")


@given(
    st.integers(1, 4095),
    st.sampled_from(sorted(FACTORS)),
    st.sampled_from(["", "b", "B", "ib", "iB"]),
    st.booleans(),
    st.sampled_from(["", " "]),
)
def test_any_spelling_of_a_size(number: int, unit: str, suffix: str, lower: bool, space: str) -> None:
    if not unit and "i" in suffix:
        suffix = ""
    text = f"{number}{space}{unit.lower() if lower else unit}{suffix}"
    assert parse_size(text) == number * FACTORS[unit]


@given(st.text(max_size=12))
def test_any_text_is_a_size_or_a_spec_error(text: str) -> None:
    try:
        assert 1 <= parse_size(text, "--mem") <= 1 << 62
    except SpecError as error:
        assert "--mem" in str(error)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_finite_float_is_a_size_or_a_spec_error(value: float) -> None:
    try:
        assert 1 <= parse_size(value, "--mem") <= 1 << 62
    except SpecError:
        pass


ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.binary(max_size=4), st.text(max_size=8), st.complex_numbers(),
    st.lists(st.one_of(st.integers(), st.text(max_size=8), st.binary(max_size=4)), max_size=3),
    st.dictionaries(st.text(max_size=4), st.one_of(st.none(), st.integers(), st.text(max_size=4)), max_size=2),
)  # fmt: skip


@given(ANYTHING)
def test_anything_is_a_size_and_a_number_or_a_spec_error(value: Any) -> None:
    try:
        assert 1 <= parse_size(value, "--mem") <= 1 << 62
    except SpecError as error:
        assert "\n" not in str(error)
    try:
        assert 0 <= parse_number(value, "--cpus", minimum=0, maximum=64) <= 64
    except SpecError as error:
        assert "\n" not in str(error)


@given(st.integers(0, 1 << 50))
def test_formatted_sizes_read_back_within_their_precision(size: int) -> None:
    text = format_size(size)
    if text.endswith(" B"):
        assert int(text.removesuffix(" B")) == size
    else:
        assert abs(parse_size(text) - size) <= size * 0.051


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1 << 10, "1 KiB"), (134217728, "128 MiB"), (3 * GIB // 2, "1.5 GiB")])
def test_formatted_sizes(size: int, text: str) -> None:
    assert format_size(size) == text


# ---- numbers and lists


@given(st.floats(-1e6, 1e6), st.floats(0, 100), st.floats(0, 100))
def test_numbers_hold_their_bounds(value: float, low: float, width: float) -> None:
    high = low + width
    if low <= value <= high:
        assert parse_number(value, "--cpus", minimum=low, maximum=high) == value
        assert parse_number(repr(value), "--cpus", minimum=low, maximum=high) == value
    else:
        with pytest.raises(SpecError, match="--cpus"):
            parse_number(value, "--cpus", minimum=low, maximum=high)


@pytest.mark.parametrize("value", ["", "one", "1;2", "nan", "inf", "-inf", float("nan"), None, [], "0x1", True, "1_0", "٣", b"1"])
def test_what_is_no_number_is_refused_by_name(value: Any) -> None:
    with pytest.raises(SpecError) as caught:
        parse_number(value, "--cpus", minimum=0, maximum=8)
    assert "--cpus" in str(caught.value)
    assert repr(value) in str(caught.value)
    assert "from 0 to 8" in str(caught.value)


@pytest.mark.parametrize("value", ["1.5", 2.000001, "1e-3"])
def test_whole_numbers_are_whole(value: Any) -> None:
    with pytest.raises(SpecError, match="a whole number"):
        parse_number(value, "--pids", minimum=0, maximum=10, whole=True)


def test_whole_numbers_may_be_written_with_a_point() -> None:
    assert parse_number("2.0", "--pids", minimum=0, maximum=10, whole=True) == 2


@pytest.mark.parametrize("text", ["0", "0-1", "0,2", "0-1,3", "10-12,14-15", " 1 "])
def test_cpu_lists(text: str) -> None:
    assert parse_cpu_list(text) == text.strip()


@pytest.mark.parametrize("text", ["", "a", "0-", "-1", "0,,1", "0-1-2", "0;1", "0 1", "0-1\n"[:-1] + ",\n", "1-0", "0,3-2", "٠-١", "9" * 5000])
def test_what_is_no_cpu_list_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="--cpuset"):
        parse_cpu_list(text)


# ---- ulimits


@pytest.mark.parametrize(
    ("text", "soft", "hard"), [("nofile=64", 64, 64), ("nofile=64:128", 64, 128), ("core=0", 0, 0), ("stack=-1", -1, -1), ("nproc=5:-1", 5, -1)]
)
def test_ulimits(text: str, soft: int, hard: int) -> None:
    limit = Ulimit.parse(text)
    assert (limit.name, limit.soft, limit.hard) == (text.partition("=")[0], soft, hard)


@pytest.mark.parametrize(
    "text", ["", "nofile", "nofile=", "=64", "nofiles=64", "nofile=64:", "nofile=:64", "nofile=1:2:3", "nofile=a", "nofile=1.5", "nofile=-2"]
)
def test_what_is_no_ulimit_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="--ulimit"):
        Ulimit.parse(text)


@pytest.mark.parametrize("text", ["nofile=0", "nofile=15", "nofile=3:64"])
def test_the_runtime_needs_some_descriptors(text: str) -> None:
    with pytest.raises(SpecError, match="nofile=16 or more"):
        Ulimit.parse(text)
    assert Ulimit.parse("nofile=16").soft == 16


# ---- mounts


def test_volumes(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    absolute = Mount.parse_volume(f"{tmp_path}/data:/data", "/")
    assert absolute == Mount("/data", str((tmp_path / "data").resolve()))
    assert Mount.parse_volume("./data:/data", str(tmp_path)) == absolute
    assert Mount.parse_volume("./data:/data:ro", str(tmp_path)).read_only
    assert not Mount.parse_volume("./data:/data:rw", str(tmp_path)).read_only
    assert Mount.parse_volume(".:/workspace", str(tmp_path)).source == str(tmp_path.resolve())
    assert Mount.parse_volume("./data:/a//b/../c/", str(tmp_path)).target == "/a/c"


def test_a_target_with_more_slashes_is_the_same_target(tmp_path: Path) -> None:
    assert Mount.parse_volume(f"{tmp_path}://data", "/").target == "/data"
    assert "two mounts at /a" in refusal(volume=[f"{tmp_path}:/a", "/usr://a"])
    assert make_spec(workdir="//a").workdir == "/a"


@given(st.text(alphabet="/.ab", max_size=8))
def test_any_target_is_absolute_and_plain_or_refused(text: str) -> None:
    try:
        target = Mount.parse_tmpfs("/" + text).target
    except SpecError:
        return
    assert target.startswith("/")
    assert not {"", ".", ".."} & set(target[1:].split("/"))


def test_linux_s_own_file_systems_are_no_volumes() -> None:
    assert "every container has a /proc of its own" in refusal(volume=["/proc:/x"])
    assert make_spec(volume=["/dev/shm:/x"]).mounts[0].source == "/dev/shm"


def test_a_volume_follows_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert Mount.parse_volume("./link:/data", str(tmp_path)).source == str((tmp_path / "real").resolve())


def test_a_volume_in_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Mount.parse_volume("~:/data", "/").source == str(tmp_path.resolve())


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "/tmp", "/tmp:", ":/data", "/tmp:/data:", "/tmp:/data:rx", "/tmp:/data:ro:rw", "/tmp:data", "/tmp:/", "/tmp:/.."),
        *("/tmp:./data", "/tmp:/proc/x", "/tmp:/sys", "/tmp:/dev/../dev/x", "/tmp:/da\nta", "/tm\0p:/data", "/does/not/exist:/data"),
        *("vol$ume:/data", "/tmp://proc", "/tmp:///sys/x", "/tmp://", "/proc:/x", "/sys/kernel:/x", "/dev:/x", "/tmp:/da\udcffta"),
    ],
)
def test_volumes_that_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match="--volume") as caught:
        Mount.parse_volume(text, "/")
    assert "\n" not in str(caught.value)


def test_a_missing_volume_source_is_named() -> None:
    with pytest.raises(SpecError, match="/does/not/exist does not exist"):
        Mount.parse_volume("/does/not/exist:/data", "/")


def test_tmpfs() -> None:
    assert Mount.parse_tmpfs("/scratch") == Mount("/scratch", "", "tmpfs", False, None)
    assert Mount.parse_tmpfs("/scratch:size=64M").size_bytes == 64 * MIB


@pytest.mark.parametrize("text", ["", "scratch", "/", "/proc/x", "/scratch:64M", "/scratch:mode=1777", "/scratch:size=", "/scratch:size=0", "/a\x7f"])
def test_tmpfs_that_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="--tmpfs"):
        Mount.parse_tmpfs(text)


# ---- roots


@pytest.mark.parametrize("kind", ["system", "host", "none"])
def test_named_roots(kind: str) -> None:
    assert Root.parse(kind) == Root(kind)
    assert str(Root.parse(kind)) == kind


def test_a_directory_as_root(tmp_path: Path) -> None:
    real = str(tmp_path.resolve())
    assert Root.parse(str(tmp_path)) == Root("dir", real, False)
    assert Root.parse(f"{tmp_path}:ro") == Root("dir", real, False)
    assert Root.parse(f"{tmp_path}:rw") == Root("dir", real, True)
    assert str(Root.parse(f"{tmp_path}:rw")) == f"{real}:rw"


def test_a_colon_in_a_directory_name(tmp_path: Path) -> None:
    directory = tmp_path / "a:b"
    directory.mkdir()
    assert Root.parse(str(directory)).path == str(directory.resolve())
    assert Root.parse(f"{directory}:rw").writable


def test_the_whole_tree_as_a_directory_is_the_host() -> None:
    assert Root.parse("/") == Root("host")
    assert Root.parse("/:rw") == Root("none")


@pytest.mark.parametrize("text", ["", "hots", "root", "./relative", "../x", "/does/not/exist", "/etc/passwd", "/et\nc", ":rw"])
def test_roots_that_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match="--root") as caught:
        Root.parse(text)
    assert "\n" not in str(caught.value)


def test_a_relative_root_says_what_to_write() -> None:
    with pytest.raises(SpecError, match=f"write {os.getcwd()}/lab"):
        Root.parse("./lab")


# ---- namespaces


def test_namespaces() -> None:
    assert parse_namespaces(None, None) == frozenset(NAMESPACES)
    assert parse_namespaces("pid", None) == {"pid"}
    assert parse_namespaces("", None) == frozenset()
    assert parse_namespaces("pid, uts", None) == {"pid", "uts"}
    assert parse_namespaces(["pid"], None) == {"pid"}
    assert parse_namespaces("all,time", None) == {*NAMESPACES, "time"}
    assert parse_namespaces(None, "net,user") == frozenset(NAMESPACES) - {"net", "user"}
    assert parse_namespaces("pid,net", "net") == {"pid"}
    assert parse_namespaces(None, "all") == frozenset()


@pytest.mark.parametrize("option", ["unshare", "share"])
def test_an_unknown_namespace_is_named(option: str) -> None:
    message = refusal(**{option: "pid,mount"})
    assert f"--{option}" in message
    assert "'mount'" in message
    assert "mnt" in message


# ---- the whole spec


def test_defaults() -> None:
    spec = make_spec()
    total, _ = host_memory_bytes()
    assert spec.limits.memory_bytes is not None
    assert 64 * MIB <= spec.limits.memory_bytes <= total
    assert spec.limits.swap_bytes == 0
    assert spec.limits.pids == DEFAULT_PIDS
    assert spec.limits.cpus is None
    assert spec.namespaces == frozenset(NAMESPACES)
    assert spec.root == Root("system")
    assert spec.network == "none"
    assert spec.max_output_bytes == DEFAULT_MAX_OUTPUT_BYTES
    assert spec.disk_bytes == min(GIB, spec.limits.memory_bytes // 2)
    assert spec.program == ()


def test_none_stands_for_the_default() -> None:
    # With --mem given: its default follows the memory that is available at the moment.
    assert make_spec(dict.fromkeys(OPTION_NAMES - {"mem"}), mem="64M") == make_spec(mem="64M")


def test_strings_and_python_types_mean_the_same() -> None:
    words = make_spec(mem="64M", cpus="0.5", pids="32", cpu_weight="200", timeout="1.5", io_read="1M/s", env=["A=1", "B="], interval="0.1")
    types = make_spec(
        mem=64 * MIB, cpus=0.5, pids=32, cpu_weight=200, timeout=1.5, io_read=MIB, env={"A": "1", "B": ""}, interval=0.1
    )
    assert words == types
    assert words.limits == Limits(
        memory_bytes=64 * MIB, cpus=0.5, pids=32, cpu_weight=200, io_read_bytes_per_second=MIB
    )
    assert words.environment == (("A", "1"), ("B", ""))


def test_a_program_may_be_a_word_or_a_list() -> None:
    assert make_spec(program="bash").program == ("bash",)
    assert make_spec(program=["bash", "-e"]).program == ("bash", "-e")


def test_the_writable_layer_follows_the_memory() -> None:
    assert make_spec(mem="64M").disk_bytes == 32 * MIB
    assert make_spec(mem="64M", disk="8M").disk_bytes == 8 * MIB


def test_shared_memory_is_docker_s_unless_chosen() -> None:
    assert make_spec(mem="1G").shm_bytes == 64 * MIB
    assert make_spec(mem="64M").shm_bytes == 32 * MIB, "no more than may be written"
    assert make_spec(mem="64M", shm_size="1G").shm_bytes == 1 << 30
    assert make_spec(root="host", shm_size="1M").shm_bytes == MIB
    with pytest.raises(SpecError, match=r"^--shm-size: with --root none the container has no /dev/shm of its own$"):
        make_spec(shm_size="1M", share="mnt")
    with pytest.raises(SpecError, match=r"^--shm-size: with --bare "):
        make_spec(shm_size="1M", root="/tmp", bare=True, program=["sh"])


def test_a_shared_mount_namespace_means_the_host_tree() -> None:
    assert make_spec(unshare="pid").root == Root("none")
    assert make_spec(share="mnt").root == Root("none")


def test_a_shared_network_namespace_means_the_host_network() -> None:
    assert make_spec(share="net").network == "host"


def test_the_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_spec(base=str(tmp_path)).workspace == str(tmp_path.resolve())
    assert make_spec(base=str(tmp_path), workspace="none").workspace is None
    assert make_spec(base=str(tmp_path), root="none").workspace is None
    monkeypatch.setenv("HOME", str(tmp_path))
    at_home = make_spec(base=str(tmp_path))
    assert at_home.workspace is None
    assert "home" in at_home.notes[0]


@pytest.mark.parametrize("base", ["/", "/etc", "/etc/ssl", "/var", "/usr", "/home", "//etc/", "/proc/self"])
def test_a_directory_of_the_system_is_no_workspace(base: str) -> None:
    spec = make_spec(base=base)
    assert spec.workspace is None
    assert "/workspace is empty" in spec.notes[0]


def test_a_directory_above_the_home_is_no_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "homes" / "me"))
    (tmp_path / "homes" / "me" / "work").mkdir(parents=True)
    assert make_spec(base=str(tmp_path / "homes")).workspace is None
    assert make_spec(base=str(tmp_path / "homes" / "me" / "work")).workspace is not None


def test_a_base_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is not a directory" in refusal(base=str(tmp_path / "no"))
    assert "base" in refusal(base=5j)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "the current directory does not exist any more" in refusal()
    assert "the current directory does not exist any more" in refusal(base=".")
    assert make_spec(base=str(tmp_path)).workspace == str(tmp_path.resolve())


@pytest.mark.parametrize("key", sorted(OPTION_NAMES))
@given(value=ANYTHING)
def test_anything_as_a_value_is_a_spec_or_a_one_line_spec_error(key: str, value: Any) -> None:
    try:
        assert isinstance(make_spec({key: value}), ContainerSpec)
    except SpecError as error:
        assert "\n" not in str(error)
        assert key in str(error) or key.replace("_", "-") in str(error) or key in ("volumes", "program", "mem"), str(error)


def test_users() -> None:
    for user in ("nobody", "1000", "1000:1001", "nobody:5", "root", "0", "0:0", "65535:65535"):
        assert make_spec(user=user).user == user
    assert make_spec(user=1000).user == "1000"
    assert make_spec(user="70000", share="user").user == "70000"


BAD_OPTIONS = [
    ("volumes", 5, "--volume"),
    ("env", 5, "--env"),
    ("program", 5, "PROGRAM"),
    ("program", [b"sh"], "PROGRAM"),
    ("unshare", 5, "--unshare"),
    ("cap_add", 5, "--cap-add"),
    ("ulimit", 5, "--ulimit"),
    ("read_only", "no", "--read-only"),
    ("init", 1, "--init"),
    ("bare", "x", "--bare"),
    ("env", ["A"], "--env"),
    ("env", {"A": None}, "--env"),
    ("env", {"A\nB": 1}, "--env"),
    ("env", {"A": "\ud800"}, "--env"),
    ("user", "root:5", "--user"),
    ("user", "0:5", "--user"),
    ("user", ":5", "--user"),
    ("user", "", "--user"),
    ("user", "1:2:3", "--user"),
    ("user", "nobody:nogroup", "--user"),
    ("user", "65536", "--user"),
    ("user", "1:65536", "--user"),
    ("user", "9" * 30, "--user"),
    ("user", "\udcff", "--user"),
    ("workdir", "/\udcff", "--workdir"),
    ("program", ["sh", "\udcff"], "PROGRAM"),
    ("cpuset", "1-0", "--cpuset"),
    ("ulimit", "nofile=3", "--ulimit"),
    ("mem", "lots", "--mem"),
    ("mem", "0", "--mem"),
    ("mem", "-1", "--mem"),
    ("mem", "1024T", "--mem"),
    ("memory_high", "x", "--memory-high"),
    ("swap", "-1M", "--swap"),
    ("cpus", "0", "--cpus"),
    ("cpus", "-1", "--cpus"),
    ("cpus", "100000", "--cpus"),
    ("cpus", "half", "--cpus"),
    ("cpu_weight", "0", "--cpu-weight"),
    ("cpu_weight", "10001", "--cpu-weight"),
    ("cpu_weight", "1.5", "--cpu-weight"),
    ("cpuset", "x", "--cpuset"),
    ("cpuset", "0-99999", "--cpuset"),
    ("pids", "0", "--pids"),
    ("pids", "-5", "--pids"),
    ("pids", "many", "--pids"),
    ("io_read", "fast", "--io-read"),
    ("io_write", "0", "--io-write"),
    ("disk", "0", "--disk"),
    ("shm_size", "many", "--shm-size"),
    ("timeout", "0", "--timeout"),
    ("timeout", "soon", "--timeout"),
    ("max_output", "0", "--max-output"),
    ("ulimit", "files=3", "--ulimit"),
    ("unshare", "disk", "--unshare"),
    ("share", "disk", "--share"),
    ("root", "./lab", "--root"),
    ("root", "/does/not/exist", "--root"),
    ("net", "a bridge", "--net"),
    ("hostname", "-x", "--hostname"),
    ("hostname", "a b", "--hostname"),
    ("hostname", "a" * 65, "--hostname"),
    ("hostname", "x\n", "--hostname"),
    ("volume", "/does/not/exist:/data", "--volume"),
    ("tmpfs", "scratch", "--tmpfs"),
    ("user", "ro\x00ot", "--user"),
    ("cap_add", "EVERYTHING", "--cap-add"),
    ("cap_drop", "NOTHING", "--cap-drop"),
    ("env", "1A=x", "--env"),
    ("env", "A=\0", "--env"),
    ("workdir", "here", "--workdir"),
    ("workdir", "/a\x1bb", "--workdir"),
    ("workspace", "some", "--workspace"),
    ("name", "-x", "--name"),
    ("name", "a/b", "--name"),
    ("name", "a\n", "--name"),
    ("name", "a" * 64, "--name"),
    ("program", "", "PROGRAM"),
    ("program", ["sh", "\0"], "PROGRAM"),
    ("interval", "0", "--interval"),
]


@pytest.mark.parametrize(("key", "value", "option"), BAD_OPTIONS)
def test_a_bad_value_is_refused_by_option_and_value(key: str, value: Any, option: str) -> None:
    message = refusal(**{key: value})
    assert option in message
    if not isinstance(value, str | list):
        return  # what it shows of other types is Python's
    shown = value if isinstance(value, str) else str(value[-1])
    parts = (shown, repr(shown)[1:-1], shown.partition(":")[0], shown.partition("=")[0], shown.rpartition("-")[2])
    assert any(part in message for part in parts), message


def test_an_unknown_option_is_named_and_the_known_ones_are_listed() -> None:
    message = refusal(memory="1G")
    assert "'memory'" in message
    assert "mem," in message and "did you mean" in message and "or mem?" in message
    assert "did you mean timeout?" in refusal(timeot=3)


COMBINATIONS = [
    ({"init": True, "pids": 1}, "--pids 2"),
    ({"bare": True}, "--bare"),
    ({"root": "none", "read_only": True}, "--read-only"),
    ({"unshare": "pid", "root": "system"}, "--root"),
    ({"unshare": "pid", "volume": ["/usr:/data"]}, "--volume"),
    ({"share": "uts", "hostname": "lab"}, "--hostname"),
    ({"share": "net", "net": "none"}, "--net"),
    ({"mem": "64M", "memory_high": "65M"}, "--memory-high"),
    ({"volume": ["/usr:/data", "/etc:/data"]}, "two mounts at /data"),
    ({"volume": ["/usr:/data"], "tmpfs": ["/data"]}, "two mounts at /data"),
]


@pytest.mark.parametrize(("options", "expected"), COMBINATIONS)
def test_combinations_that_would_do_nothing_or_harm(options: dict[str, Any], expected: str) -> None:
    assert expected in refusal(**options)


def test_a_python_cell_needs_python_in_its_root(tmp_path: Path) -> None:
    message = refusal(root=str(tmp_path))
    assert "no Python" in message
    assert " sh" in message
    assert make_spec(root=str(tmp_path), program="sh").root.kind == "dir"


def test_a_bare_root_has_no_mounts(tmp_path: Path) -> None:
    assert "--bare" in refusal(root=str(tmp_path), bare=True, program="sh", tmpfs=["/x"])


@given(st.dictionaries(st.sampled_from(sorted(OPTION_NAMES - {"base", "root", "volume", "volumes"})), st.text(max_size=8), max_size=3))
def test_any_words_are_a_spec_or_a_spec_error(options: dict[str, str]) -> None:
    try:
        spec = make_spec(options)
    except SpecError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(spec, ContainerSpec)
        assert hash(spec) == hash(spec.replace())
