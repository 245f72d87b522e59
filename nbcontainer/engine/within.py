"""What a further process, or a cell of a session, passes on to the container that it is in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbcontainer.engine.changes import Change
from nbcontainer.engine.transfer import Transfer
from nbcontainer.events import Readings
from nbcontainer.spec import ContainerSpec, Limits

if TYPE_CHECKING:
    from nbcontainer.engine import Run
    from nbcontainer.engine.localrun import LocalRun


class Within:
    """See :class:`nbcontainer.engine.Run`."""

    _container: LocalRun

    def within(self, spec: ContainerSpec, code: str, transfer: Transfer | None = None) -> Run:
        return self._container.within(spec, code, transfer)

    def processes(self) -> list[int]:
        return self._container.processes()

    def changes(self) -> list[Change]:
        return self._container.changes()

    def forget(self) -> None:
        """It keeps nothing of its own."""

    def pause(self) -> None:
        self._container.pause()

    def resume(self) -> None:
        self._container.resume()

    def update(self, **changes: Any) -> Limits:
        return self._container.update(**changes)

    def readings(self) -> Readings:
        return self._container.readings()
