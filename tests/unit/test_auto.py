"""--engine auto: which engine runs, what is said about it, and what is said when none can."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from nbcontainer.engine import announce, auto
from nbcontainer.errors import HostError, InternalError, SetupError, SpecError
from nbcontainer.spec import ContainerSpec
from nbcontainer.validate import make_spec


class Started(str):
    """Stands for a run: the engine's name."""

    def events(self) -> Iterator[object]:
        yield from ()


class Engine:
    """Starts what it is given, or raises."""

    def __init__(self, name: str, error: Exception | None = None, can_nothing: bool = True) -> None:
        """``can_nothing``: the error is that of every container, and not only of one with a --memory-high."""
        self.name, self.error, self.can_nothing = name, error, can_nothing
        self.started: list[ContainerSpec] = []
        self.names: list[str] = []
        self.networks = SimpleNamespace(names=lambda: tuple(self.names))

    def start(self, spec: ContainerSpec, code: str, transfer: object = None) -> Started:
        if self.error is not None and (self.can_nothing or spec.limits.memory_high_bytes is not None):
            raise self.error
        self.started.append(spec)
        return Started(self.name)

    def explain(self, spec: ContainerSpec) -> list[str]:
        if self.error is not None:
            raise self.error
        return [self.name]


@pytest.fixture
def spec() -> ContainerSpec:
    return make_spec(mem="64M", workspace="none")


def opened(monkeypatch: pytest.MonkeyPatch, local: Engine | Exception, vm: Engine | Exception) -> auto.AutoEngine:
    def opener(engine: Engine | Exception) -> object:
        def open_it() -> Engine:
            if isinstance(engine, Exception):
                raise engine
            return engine

        return open_it

    import nbcontainer.engine.vm.engine

    monkeypatch.setattr(auto, "_open_local", opener(local))
    monkeypatch.setattr(nbcontainer.engine.vm.engine, "open_vm", opener(vm))
    return auto.AutoEngine()


def test_this_host_where_it_can(monkeypatch: pytest.MonkeyPatch, spec: ContainerSpec) -> None:
    local, vm = Engine("local"), Engine("vm")
    engine = opened(monkeypatch, local, vm)
    assert engine.start(spec, "") == "local" and local.started == [spec] and vm.started == []
    assert engine.explain(spec) == ["local"]


def test_a_host_that_cannot_is_asked_once_and_the_reason_is_told_once(monkeypatch: pytest.MonkeyPatch, spec: ContainerSpec) -> None:
    vm = Engine("vm")
    engine = opened(monkeypatch, HostError("no cgroups here", "delegate some"), vm)
    assert [engine.start(spec, ""), engine.start(spec, "")] == ["vm", "vm"]
    assert "no cgroups here" in vm.started[0].notes[-1]
    assert vm.started[1].notes == ()
    assert engine.explain(spec) == ["vm"]


def test_who_waits_is_told_before_it_is_waited_for(monkeypatch: pytest.MonkeyPatch, spec: ContainerSpec) -> None:
    vm, said = Engine("vm"), []
    engine = opened(monkeypatch, HostError("no cgroups here", "delegate some"), vm)

    def say(line: str) -> None:
        assert vm.started == []
        said.append(line)

    with announce.announced_to(say):
        engine.start(spec, "")
        engine.start(spec, "")
    assert said == list(vm.started[0].notes) and "no cgroups here" in said[0] and vm.started[1].notes == ()
    announce.announce("nobody hears this")
    assert len(said) == 1


def test_nothing_is_said_of_a_virtual_machine_that_refuses(monkeypatch: pytest.MonkeyPatch, spec: ContainerSpec) -> None:
    said: list[str] = []
    engine = opened(monkeypatch, HostError("no cgroups here", "delegate some"), Engine("vm", HostError("--mem: too much", "less")))
    with announce.announced_to(said.append), pytest.raises(HostError, match="too much"):
        engine.start(spec, "")
    assert said == []


def test_a_fault_of_ours_while_the_host_is_tried_does_not_hide_what_was_said_first(monkeypatch: pytest.MonkeyPatch, spec: ContainerSpec) -> None:
    local, vm = Engine("local", HostError("no --memory-high here", "cgroup v2"), can_nothing=False), Engine("vm")
    engine = opened(monkeypatch, local, vm)
    much = make_spec(mem="64M", memory_high="32M", workspace="none")

    def broken(self: Started) -> Iterator[object]:
        raise InternalError("the zygote ended")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(Started, "events", broken)
        assert engine.start(much, "") == "vm" and "no --memory-high here" in vm.started[0].notes[-1]
    assert engine.start(spec, "") == "local", "nothing was concluded from it"


def test_one_cell_that_this_host_cannot_run_does_not_change_the_others(monkeypatch: pytest.MonkeyPatch, spec: ContainerSpec) -> None:
    local, vm = Engine("local"), Engine("vm")
    engine = opened(monkeypatch, local, vm)
    engine.start(spec, "")
    local.error = HostError("no --memory-high here", "cgroup v2")
    assert engine.start(spec, "") == "vm"
    local.error = None
    assert engine.start(spec, "") == "local"


def test_also_where_it_is_the_first(monkeypatch: pytest.MonkeyPatch, spec: ContainerSpec) -> None:
    """What it asks for is its own; that the host can run containers is found out."""
    local, vm = Engine("local", HostError("no --memory-high here", "cgroup v2"), can_nothing=False), Engine("vm")
    engine = opened(monkeypatch, local, vm)
    much = make_spec(mem="64M", memory_high="32M", workspace="none")
    assert engine.start(much, "") == "vm" and "no --memory-high here" in vm.started[0].notes[-1]
    assert engine.start(spec, "") == "local" and local.started[-1] == spec
    assert engine.start(much, "") == "vm" and vm.started[1].notes == ()
    local.error = HostError("no room for it", "")
    engine.start(much, "")
    assert "no room for it" in vm.started[2].notes[-1], "another reason is told too"


def test_a_first_step_that_fails_is_its_own_where_others_do_not(monkeypatch: pytest.MonkeyPatch, spec: ContainerSpec) -> None:
    local, vm = Engine("local", SetupError("limit memory", 16), can_nothing=False), Engine("vm")
    engine = opened(monkeypatch, local, vm)
    with pytest.raises(SetupError):
        engine.start(make_spec(mem="64M", memory_high="32M", workspace="none"), "")
    assert engine.start(spec, "") == "local" and vm.started == []


def test_neither_can(monkeypatch: pytest.MonkeyPatch, spec: ContainerSpec) -> None:
    engine = opened(monkeypatch, HostError("no cgroups", "delegate"), HostError("no QEMU", "install it"))
    with pytest.raises(HostError) as refused:
        engine.start(spec, "")
    assert str(refused.value) == "no cgroups (and no QEMU). Remedy: delegate; or, for a virtual machine: install it"


def test_a_step_that_fails_is_the_host_s_fault_only_before_anything_has_run(monkeypatch: pytest.MonkeyPatch, spec: ContainerSpec) -> None:
    failure = SetupError("clone", 1)
    local, vm = Engine("local", failure), Engine("vm")
    engine = opened(monkeypatch, local, vm)
    assert engine.start(spec, "") == "vm"
    local, vm = Engine("local"), Engine("vm")
    engine = opened(monkeypatch, local, vm)
    engine.start(spec, "")
    local.error = failure
    with pytest.raises(SetupError):
        engine.start(spec, "")
    engine = opened(monkeypatch, Engine("local", failure), HostError("no QEMU", "install it"))
    with pytest.raises(SetupError):
        engine.start(spec, "")


def test_the_user_s_mistakes_stay_the_user_s(monkeypatch: pytest.MonkeyPatch, spec: ContainerSpec) -> None:
    engine = opened(monkeypatch, Engine("local", SpecError("--user: nobody knows him")), Engine("vm"))
    with pytest.raises(SpecError):
        engine.start(spec, "")


def test_a_cell_stays_where_its_networks_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default network is always there: it counts when something has been on it."""
    refused = HostError("--net-delay: this Linux has no queue of the kind netem", "sudo modprobe sch_netem")
    local, vm = Engine("local"), Engine("vm")
    local.names = ["bridge", "lab"]
    engine = opened(monkeypatch, local, vm)
    lab, bridge = make_spec(mem="64M", net="lab", workspace="none"), make_spec(mem="64M", net="bridge", workspace="none")
    assert engine.start(make_spec(mem="64M", workspace="none"), "") == "local"
    local.error = refused
    with pytest.raises(HostError) as raised:
        engine.start(lab, "")
    assert raised.value is refused and vm.started == []
    assert engine.start(bridge, "") == "vm"
    local.error = None
    assert engine.start(bridge, "") == "local"
    local.error = refused
    with pytest.raises(HostError):
        engine.start(bridge, "")
