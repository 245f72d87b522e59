"""``--engine auto``: this host where it can do what a spec asks for, else a virtual machine, else one clear error."""

from __future__ import annotations

import contextlib
import os
import threading

from nbcontainer.engine import Engine, Networks, Run, announce
from nbcontainer.engine.networks import DEFAULT_NETWORK
from nbcontainer.engine.transfer import Transfer
from nbcontainer.errors import HostError, InternalError, SetupError
from nbcontainer.spec import ContainerSpec, Limits
from nbcontainer.units import MIB


class AutoEngine:
    """Chooses for each run. What this host cannot do at all is found out once, by trying."""

    name = "auto"

    def __init__(self) -> None:
        self._local_worked = self._networks_worked = False
        self._local_error: HostError | SetupError | None = None
        """Why nothing runs on this host."""
        self._told: set[str] = set()

    def start(self, spec: ContainerSpec, code: str, transfer: Transfer | None = None) -> Run:
        error = self._local_error
        if error is None:
            try:
                run = _open_local().start(spec, code, transfer)
            except (HostError, SetupError) as refused:
                if not self._local_worked:
                    self._find_out()
                # Where containers can run, a step that fails is about this one.
                if isinstance(refused, SetupError) and self._local_worked:
                    raise
                error = refused
            else:
                self._local_worked, self._networks_worked = True, self._networks_worked or bool(spec.networks)
                return run
        return self._start_in_vm(spec, code, transfer, error)

    def _find_out(self) -> None:
        """Whether this host can run a container that asks for nothing: the one that was refused may have asked for much."""
        try:
            with contextlib.closing(_open_local().start(ContainerSpec(Limits(memory_bytes=64 * MIB), once=True), "").events()) as events:
                for _ in events:
                    pass
        except (HostError, SetupError) as refused:
            self._local_error = refused
        except InternalError:
            pass  # it says nothing about this host, and must not hide what was said first; the next refusal asks again
        else:
            self._local_worked = True

    def _has_here(self, names: tuple[str, ...]) -> bool:
        """Whether one of these networks has been made on this host. The default one, which is always there, counts when it has been used."""
        if not names:
            return False
        try:
            here = set(_open_local().networks.names())
        except (HostError, SetupError):
            return False
        return not here.isdisjoint(names if self._networks_worked else set(names) - {DEFAULT_NETWORK})

    def _start_in_vm(self, spec: ContainerSpec, code: str, transfer: Transfer | None, error: HostError | SetupError) -> Run:
        if self._has_here(spec.networks):
            raise error  # a virtual machine has networks of its own: what is on those of this host would not be there
        vm = _open_vm_after(error)
        note = f"This runs in a virtual machine (--engine vm), because on this host: {error.message if isinstance(error, HostError) else error}."
        if note not in self._told:
            if announce.listening():
                vm.explain(spec)  # it raises what a start would, before anything is said
                announce.announce(note)
            spec = spec.replace(notes=(*spec.notes, note))
        run = vm.start(spec, code, transfer)
        # Only now: had the virtual machine refused too, the cell's own request would be at fault.
        self._told.add(note)
        return run

    @property
    def networks(self) -> Networks:
        """Of where containers run: this host where it can."""
        if self._local_error is not None:
            return _open_vm_after(self._local_error).networks
        try:
            return _open_local().networks
        except HostError as error:
            return _open_vm_after(error).networks

    def explain(self, spec: ContainerSpec) -> list[str]:
        if self._local_error is not None:
            return _open_vm_after(self._local_error).explain(spec)
        try:
            return _open_local().explain(spec)
        except HostError as error:
            return _open_vm_after(error).explain(spec)


def _open_local() -> Engine:
    from nbcontainer.engine.local import open_local

    return open_local()


def _open_vm_after(error: HostError | SetupError) -> Engine:
    """The vm engine; where there is none, an error that says why neither can run. Raises HostError, SetupError."""
    from nbcontainer.engine.vm.engine import open_vm

    try:
        return open_vm()
    except HostError as missing:
        if isinstance(error, SetupError):
            raise error from None  # it may be about this cell only, such as too small a --disk
        remedy = f"{error.remedy}; or, for a virtual machine: {missing.remedy}"
        raise HostError(f"{error.message} (and {missing.message})", remedy) from None


_auto: AutoEngine | None = None
_owner_pid = -1
_lock = threading.Lock()


def open_auto() -> AutoEngine:
    """The one of this process: what was found out about the host is kept."""
    global _auto, _owner_pid
    with _lock:
        if _auto is None or _owner_pid != os.getpid():
            _auto, _owner_pid = AutoEngine(), os.getpid()
        return _auto
