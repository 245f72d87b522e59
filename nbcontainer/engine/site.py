"""Where containers are made: a zygote, and the cgroup that they nest in."""

from __future__ import annotations

import os

from nbcontainer.cgroups import Driver, open_driver, scope
from nbcontainer.cgroups.own import PARENT_VARIABLE
from nbcontainer.errors import HostError, SetupError
from nbcontainer.runtime.client import Starter, ZygoteClient
from nbcontainer.runtime.zygote import ZygoteConfig
from nbcontainer.state import KernelState


class Site:
    """One engine's. An ordinary user without a cgroup of its own gets a scope of the user's systemd manager around each zygote."""

    def __init__(self, state: KernelState, config: ZygoteConfig, start: Starter) -> None:
        self._state, self._config, self._start = state, config, start
        self._scopes = 0
        try:
            self.driver: Driver = open_driver(state.place)
        except HostError as error:
            if not may_have_scope(config.rootless):
                raise
            self.client = ZygoteClient(config, start)
            self._enter_scope(error)
        else:
            state.nests_in(self.driver.directories)
            self.client = ZygoteClient(config, start)

    def _enter_scope(self, without: HostError | None) -> None:
        """Around the zygote that was just started. Raises HostError."""
        self._scopes += 1
        try:
            file = scope.enter(self.client.pid, f"{self._state.place}-{self._scopes}.scope")
            self.driver = open_driver(self._state.place, proc_self_cgroup=file)
        except HostError as error:
            self.client.close()
            if without is None:
                raise
            raise HostError(f"{without.message}, and {error.message}", f"{without.remedy}; or: {error.remedy}") from None
        self._state.nests_in(self.driver.directories)

    def renew(self) -> None:
        """A zygote in place of one that has died; with it went its scope, if it had one."""
        self.client.close()
        self.client = ZygoteClient(self._config, self._start)
        if self._scopes:
            self._enter_scope(None)

    def close(self) -> None:
        self.client.close()

    def remove_place(self) -> None:
        """When all containers are gone. Raises SetupError."""
        try:
            self.driver.remove_place()
        except SetupError:
            # systemd removes a scope that is empty, and all that is in it.
            if not self._scopes:
                raise


def may_have_scope(rootless: bool) -> bool:
    """Whether it is worth trying: not where the user has said where cgroups are to be made."""
    return rootless and not os.environ.get(PARENT_VARIABLE) and scope.find_bus() is not None
