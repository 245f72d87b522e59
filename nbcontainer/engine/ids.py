"""Which ids of the host a container gets: a range that means nothing there, or those that an ordinary user has."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

from nbcontainer.errors import HostError
from nbcontainer.linux import subordinate
from nbcontainer.linux.subordinate import SubordinateIds
from nbcontainer.runtime.plan import IdMap
from nbcontainer.state import ID_RANGE_COUNT, ID_RANGE_START, ID_RANGES, SharedNumbers


class Ids(Protocol):
    """One engine's. Distinct ranges are distinct on the whole host."""

    def take(self) -> IdMap:
        """Raises HostError where all are in use."""

    def give_back(self, id_map: IdMap) -> None: ...

    def example(self) -> IdMap:
        """For ``--explain``."""

    def close(self) -> None: ...


class ShiftedIds:
    """Root's: each container has 65,536 ids that nobody else has."""

    def __init__(self) -> None:
        self._ranges = SharedNumbers("ids")

    def take(self) -> IdMap:
        return _shifted(_take(self._ranges, ID_RANGES))

    def give_back(self, id_map: IdMap) -> None:
        self._ranges.give_back((id_map.base - ID_RANGE_START) // ID_RANGE_COUNT)

    def example(self) -> IdMap:
        return _shifted(0)

    def close(self) -> None:
        self._ranges.close()


def _take(ranges: SharedNumbers, count: int) -> int:
    number = ranges.take(range(count))
    if number is None:
        raise HostError(f"all {count} ranges of user ids are in use by containers", "nbcontainer ps, and end some")
    return number


def _shifted(number: int) -> IdMap:
    return IdMap(ID_RANGE_START + number * ID_RANGE_COUNT, ID_RANGE_COUNT)


class UserIds:
    """An ordinary user's: root of a container is that user. Further ids are subordinate ones, where there are any: a range
    for each container where there are many, else one that all containers of the user share."""

    def __init__(self) -> None:
        self.found: SubordinateIds | None = None
        self.why_not: HostError | None = None
        try:
            self.found = subordinate.find()
        except HostError as error:
            self.why_not = error
        self._ranges = SharedNumbers("ids") if self.found is not None and self.found.ranges > 1 else None

    def confirm(self, worked: Callable[[], bool]) -> None:
        """Do without subordinate ids where ``worked`` (which waits for the zygote) says that they cannot be had."""
        if self.found is not None and not worked():
            self.why_not = HostError(
                f"{self.found.newuidmap} or newgidmap was refused, which Linux's security modules and outer containers can do",
                f"see why: unshare --user sleep 9 & sleep 1; newuidmap $! 0 {os.geteuid()} 1 1 {self.found.first_uid} 9",
            )
            self.found = None

    def take(self) -> IdMap:
        if self.found is None:
            return IdMap(os.geteuid(), 1)
        return self._of(0 if self._ranges is None else _take(self._ranges, self.found.ranges))

    def _of(self, number: int) -> IdMap:
        assert self.found is not None
        return IdMap(os.geteuid(), 1, self.found.range(number))

    def give_back(self, id_map: IdMap) -> None:
        if self._ranges is not None and self.found is not None and id_map.subordinate is not None:
            self._ranges.give_back((id_map.subordinate[0] - self.found.first_uid) // subordinate.IDS_OF_A_CONTAINER)

    def example(self) -> IdMap:
        return IdMap(os.geteuid(), 1) if self.found is None else self._of(0)

    def close(self) -> None:
        if self._ranges is not None:
            self._ranges.close()
