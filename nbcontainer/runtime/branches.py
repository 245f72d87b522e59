"""The directories that containers see of the host: looking for what is to be hidden in them, and making them ready."""

from __future__ import annotations

from collections.abc import Sequence

from nbcontainer.runtime import skeleton
from nbcontainer.runtime.search import MOST_PROCESSES, Hidden, Search
from nbcontainer.runtime.skeleton import Branch


def build(stage: str, branches: Sequence[Branch], hidden: Hidden, *, in_system: bool, rootless: bool) -> None:
    """Those that are part of a ``system`` root, or those that are not. Raises OSError."""
    paths = [branch.path for branch in branches]
    for branch in branches:
        if branch.in_system == in_system:
            skeleton.build_branch(f"{stage}/base/{branch.key}", branch.path, hidden, paths, rootless=rootless)


def search_system(branches: Sequence[Branch], processes: int = MOST_PROCESSES) -> Search:
    """Below everything that a ``system`` root shows."""
    shown = [branch.path for branch in branches if branch.in_system and branch.searched]
    others = {branch.path for branch in branches if not branch.searched}
    return Search([*(f"/{name}" for name in skeleton.SHOWN if f"/{name}" not in others), *shown], processes)


def search_host(branches: Sequence[Branch], processes: int = MOST_PROCESSES) -> Search:
    return Search(["/", *(branch.path for branch in branches if branch.searched)], processes)
