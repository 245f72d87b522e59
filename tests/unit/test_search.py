"""What "other" may not read is found by one process and by several alike, each thing once."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbcontainer.runtime import search
from nbcontainer.runtime.search import Hidden, Search

MODES = st.sampled_from((0o755, 0o700, 0o711, 0o744, 0o644, 0o600))
PATHS = st.lists(st.sampled_from("abc"), min_size=1, max_size=5).map("/".join)


def sorted_(hidden: Hidden) -> tuple[list[str], list[str]]:
    return sorted(hidden.files), sorted(hidden.directories)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(PATHS, st.tuples(st.booleans(), MODES), min_size=1, max_size=12))
def test_several_processes_find_what_one_finds(tree: dict[str, tuple[bool, int]]) -> None:
    with tempfile.TemporaryDirectory() as base:
        os.chmod(base, 0o755)
        made = []
        for path, (is_directory, mode) in sorted(tree.items()):
            full = Path(base, path)
            if any(os.path.isfile(Path(base, above)) for above in map(str, Path(path).parents)) or full.exists():
                continue
            full.parent.mkdir(parents=True, exist_ok=True)
            if is_directory:
                full.mkdir()
            else:
                full.touch()
            made.append((full, mode))
        for full, mode in made:
            full.chmod(mode)
        one = Search([base], 1).result()
        several = Search([base], search.MOST_PROCESSES).result()
        for full, _ in made:
            full.chmod(0o755)
    assert sorted_(several) == sorted_(one)
    assert len(set(several.files)) == len(several.files) and len(set(several.directories)) == len(several.directories)


def test_directories_that_are_not_there_and_links_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "secret").touch(mode=0o600)
    (tmp_path / "link").symlink_to("real")
    found = Search([str(tmp_path / "link"), str(tmp_path / "gone"), str(tmp_path / "real")]).result()
    assert found == Hidden((f"{tmp_path}/real/secret",), ())
    assert Search([str(tmp_path / "gone")]).result() == Hidden((), ())


def test_no_find_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setenv("PATH", str(tmp_path))
    for processes in (1, search.MOST_PROCESSES):
        with pytest.raises(OSError, match="find"):
            Search([str(tmp_path)], processes)
    assert len(os.listdir("/proc/self/fd")) == before
