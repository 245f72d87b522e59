"""What is hidden of the host's directories."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from nbcontainer.runtime.search import Hidden
from nbcontainer.runtime.skeleton import SkeletonBuilder


def test_what_is_in_a_directory_that_is_hidden_as_a_whole_needs_no_hiding(tmp_path: Path) -> None:
    """As /etc/sudoers.d of an ordinary user's root, with a file in it that only root may read."""
    lower, base = tmp_path / "etc", tmp_path / "base"
    (lower / "sudoers.d" / "more").mkdir(parents=True)
    builder = SkeletonBuilder(str(base), str(lower), rootless=True)
    builder.whiteout("sudoers.d")
    builder.hide(Hidden((f"{lower}/sudoers.d/README", f"{lower}/sudoers.d/more/x", f"{lower}/other"), (f"{lower}/sudoers.d/more", f"{lower}/private")))
    assert sorted(os.listdir(base)) == ["other", "private", "sudoers.d"]
    for name in os.listdir(base):
        status = os.stat(base / name)
        assert stat.S_ISCHR(status.st_mode) and status.st_rdev == 0, name
