"""The engine in a guest: the local one, in a machine of its own whose snapshot others go on from."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import replace

from nbcontainer.engine.box import Box
from nbcontainer.engine.local import LocalEngine
from nbcontainer.engine.networks import LocalNetworks
from nbcontainer.engine.vm.guesthelpers import ForkedRouter, ForkedZygote
from nbcontainer.runtime import rootfs, skeleton
from nbcontainer.runtime.plan import IdMap
from nbcontainer.runtime.search import Hidden
from nbcontainer.runtime.skeleton import Branch
from nbcontainer.spec import ContainerSpec
from nbcontainer.validate import make_spec

REAPED_SECONDS = 0.002
ALL_IDS = IdMap(0, 0xFFFFFFFF)
"""9p has no idmapped mounts, so container ids are the guest's: it is the guest that keeps them from the host's files."""


class GuestEngine(LocalEngine):
    """The local engine, in a machine of its own."""

    look_again_seconds = (float("inf"), float("inf"))
    """The host's side looks at the host's files; over 9p it would take minutes."""

    def __init__(self, branches: Sequence[str], zygote: ForkedZygote, router: ForkedRouter) -> None:
        self._shared, self._router = branches, router
        self._resumed = False
        super().__init__(zygote.start)
        self.networks = LocalNetworks(self.state.place, None, self.drop_spares, router.start)
        self.state.listens = False

    def _look_around(self) -> rootfs.Surroundings:
        """Shared directories are part of every root; they are mounted after the snapshot, and empty until then."""
        found = tuple(Branch(path, f"share-{index}", "shared by the host", True, searched=False) for index, path in enumerate(sorted(self._shared)))
        return replace(super()._look_around(), branches=found)

    def _take_ids(self) -> IdMap:
        return ALL_IDS

    def _owned(self, spec: ContainerSpec) -> ContainerSpec:
        """The host's side refuses what 9p cannot do."""
        return spec

    def _make_box(self, shape: ContainerSpec) -> Box:
        if not self._client.alive:
            # A new one would not know what to hide; the host starts a new guest.
            os.write(2, b"the zygote ended\n")
            os._exit(1)
        return super()._make_box(shape)

    def wait(self) -> None:
        """Until the zygote has read all that it needs from the initramfs. Raises NbcontainerError."""
        self._client.wait()

    def hide(self, hidden: Hidden) -> None:
        """In all containers to come: what "other" may not read in the shares, which are mounted by now. Raises OSError."""
        base = f"/proc/{self._client.pid}/root{self._config.stage}/base"
        for branch in self._config.branches:
            if not branch.searched:
                skeleton.SkeletonBuilder(f"{base}/{branch.key}", branch.path, exists=True).hide(hidden)

    def _give_back_ids(self, id_map: IdMap | None) -> None:
        pass

    def make_spares(self, shape: ContainerSpec, count: int) -> None:
        """None before the guest is resumed: all guests of a snapshot would have the same, or go on making it."""
        if self._resumed:
            super().make_spares(shape, count)

    def resumed(self) -> None:
        """This guest is one of a kind from now on."""
        self._resumed = True

    def settle(self) -> None:
        """Run once what every cell runs, and import what networks need, so that it is in memory; returns when nothing of the cells is left."""
        self._router.prepare()
        for options in ({"mem": "64M"}, {"mem": "64M", "user": "nobody"}):
            with contextlib.closing(self.start(make_spec(options, workspace="none"), "print(1)").events()) as events:
                for _ in events:
                    pass
        zygote = self._client.pid
        while True:
            with open(f"/proc/{zygote}/task/{zygote}/children", encoding="ascii") as file:
                if not file.read():
                    return
            time.sleep(REAPED_SECONDS)  # it collects what has ended, and says nothing
