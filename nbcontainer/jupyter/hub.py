"""JupyterHub: a cgroup for each single-user server, so that its limits hold and its user's cells run in containers.

    c.JupyterHub.spawner_class = "nbcontainer"
    c.Spawner.mem_limit = "2G"

``nbcontainer.jupyter.examples`` has complete configurations, also for systemd and for Kubernetes.
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from jupyterhub.spawner import LocalProcessSpawner
from jupyterhub.utils import random_port
from traitlets import HasTraits, Integer, Unicode

from nbcontainer.cgroups import Driver, delegate, open_driver
from nbcontainer.errors import HostError, NbcontainerError, SetupError
from nbcontainer.jupyter import rundir
from nbcontainer.jupyter.steward import EXIT_NOTHING, server_cgroup
from nbcontainer.spec import Limits

CALL_SECONDS = 60.0
DEFAULT_PLACE = "/jupyterhub"
SYSTEMD_DELEGATE = {"Delegate": "cpu cpuset io memory pids"}
"""For ``c.SystemdSpawner.unit_extra_properties``: systemd makes the cgroup, and gives it to the user."""


def _of_unit(name: str, spawner: Any) -> str:
    return rundir.environment(f"/run/{spawner.unit_name}")[name]


SYSTEMD_ENVIRONMENT = {name: partial(_of_unit, name) for name in rundir.environment("/run")}
"""For ``c.SystemdSpawner.environment``: the directory of the user's in /run that systemd makes for SystemdSpawner, and removes with the server."""

_lock = threading.Lock()
_drivers: dict[str, Driver] = {}


def user_cgroups(place: str) -> Driver:
    """Where the servers' cgroups are; at first use in a process, those that a crashed hub left empty are removed, with their users' directories.

    Raises HostError where they cannot be made, SetupError where they cannot be removed.
    """
    with _lock:
        driver = _drivers.get(place)
        if driver is None:
            parent, _, name = place.strip("/").rpartition("/")
            driver = open_driver(name, parent=f"/{parent}")
            delegate.remove_empty(driver)
            rundir.RuntimeDirectories(place).keep_only(partial(delegate.owners, driver))
            _drivers[place] = driver
        return driver


class DelegatedCgroup(HasTraits):
    """Mixin for spawners that start processes on the hub's own machine as root; see DelegatingSpawner.

    ``mem_limit``, ``cpu_limit`` and ``pids_limit`` hold for the server, its kernels and their containers together. With them
    ends whatever the user has started: nothing of a stopped server is left. Its environment leads to the user's directory in memory
    (see nbcontainer.jupyter.rundir), unless ``environment`` says otherwise.
    """

    pids_limit = Integer(1024, min=16, help="Processes and threads of one server and everything that it starts.").tag(config=True)
    cgroup_place = Unicode(
        DEFAULT_PLACE, help="Where the servers' cgroups are made: a path below the root of each cgroup hierarchy."
    ).tag(config=True)

    _entrances: tuple[str, ...] = ()
    _runtime_directory = ""

    def cgroup_name(self: Any) -> str:
        """Of this server: the user's name, and the server's where it has one."""
        return server_cgroup(self.user.name, self.name)

    def limits(self: Any) -> Limits:
        """``cpu_limit`` above the number of CPUs is no limit."""
        return Limits(memory_bytes=self.mem_limit or None, cpus=self.cpu_limit or None, pids=self.pids_limit)

    def make_cgroup(self: Any) -> None:
        """Blocks. Raises HostError, SetupError."""
        try:
            entry = pwd.getpwnam(self.user.name)
        except KeyError:
            raise HostError(f"there is no user {self.user.name!r} on this machine", f"sudo useradd -m {self.user.name}") from None
        driver = user_cgroups(self.cgroup_place)
        self._entrances = delegate.delegate(driver, self.cgroup_name(), self.limits(), entry.pw_uid, entry.pw_gid)
        try:
            self._runtime_directory = rundir.RuntimeDirectories(self.cgroup_place).make(entry.pw_uid, entry.pw_gid)
        except SetupError:
            self.remove_cgroup()
            raise

    def remove_cgroup(self: Any) -> None:
        """Blocks until everything of the server has ended. Raises HostError, SetupError."""
        driver = user_cgroups(self.cgroup_place)
        delegate.remove(driver, self.cgroup_name())
        self._entrances, self._runtime_directory = (), ""
        rundir.RuntimeDirectories(self.cgroup_place).keep_only(partial(delegate.owners, driver))
        delegate.remove_place(driver)

    def get_env(self) -> dict[str, str]:
        environment: dict[str, str] = super().get_env()  # type: ignore[misc] # the spawner's
        return rundir.environment(self._runtime_directory) | environment


async def _after(hook: Any, clean_up: Callable[[], Awaitable[Any]]) -> None:
    """``clean_up`` after the user's hook, where there is one, whatever it did."""
    try:
        if hasattr(hook, "__await__"):
            await hook
    finally:
        await clean_up()


class DelegatingSpawner(DelegatedCgroup, LocalProcessSpawner):
    """LocalProcessSpawner with a cgroup for each server. The hub runs as root."""

    cmd: Any
    shell_cmd: Any

    def make_preexec_fn(self, name: str) -> None:
        """Nothing runs between fork and exec in the hub, which has threads: nbcontainer.jupyter.join becomes the user."""

    async def start(self) -> Any:
        try:
            await asyncio.to_thread(self.make_cgroup)
        except NbcontainerError as error:
            error.jupyterhub_message = f"Your server was not started: {error}"  # type: ignore[attr-defined] # what JupyterHub shows
            raise
        command, shell_command = list(self.cmd), list(self.shell_cmd)
        try:
            # Before the shell, too: as root, nothing of the user's may run.
            if shell_command:
                self.shell_cmd = [*self._join_command(), *shell_command]
            else:
                self.cmd = [*self._join_command(), *command]
            return await super().start()
        except BaseException:
            await asyncio.to_thread(self.remove_cgroup)
            raise
        finally:
            self.cmd, self.shell_cmd = command, shell_command

    def _join_command(self) -> list[str]:
        words = [word for directory in self._entrances for word in ("--cgroup", directory)]
        return [sys.executable, "-I", "-m", "nbcontainer.jupyter.join", *words, "--user", self.user.name, "--"]

    async def poll(self) -> int | None:
        status: int | None = await super().poll()
        if status is None and self.proc is None:
            # Taken over from the hub before this one, by its pid alone, which may be another process's by now.
            pids = await asyncio.to_thread(delegate.processes, user_cgroups(self.cgroup_place), self.cgroup_name())
            if self.pid not in pids:
                self.clear_state()
                return 0
        return status

    def run_post_stop_hook(self) -> Any:
        """JupyterHub calls it after each end of a server, however it came."""
        return _after(super().run_post_stop_hook(), partial(asyncio.to_thread, self.remove_cgroup))


def check_host(place: str = DEFAULT_PLACE) -> None:
    """For jupyterhub_config.py: raises HostError with what to type, instead of at the first user's login."""
    driver = user_cgroups(place)
    missing = {"memory", "pids", "cpu"} - driver.controllers
    if missing:
        raise HostError(f"no {', '.join(sorted(missing))} controller for servers' cgroups in {driver.place}", "see: nbcontainer doctor")


def steward_command(group: str, place: str) -> list[str]:
    """What the line of sudoers allows, with more words after it."""
    return ["sudo", "-n", sys.executable, "-I", "-m", "nbcontainer.jupyter.steward", "--group", group, "--place", place]


class SudoSpawner(LocalProcessSpawner):
    """For a hub that is not root, which sudo allows one command: see nbcontainer/jupyter/examples/sudo_config.py.

    ``mem_limit``, ``cpu_limit`` and ``pids_limit`` hold for a server, its kernels and their containers together; with it ends
    whatever its user has started.
    """

    group = Unicode(help="Unix group of those who may have servers, as in the line of sudoers.").tag(config=True)
    cgroup_place = Unicode(DEFAULT_PLACE, help="Where the servers' cgroups are made, as in the line of sudoers.").tag(config=True)
    pids_limit = Integer(1024, min=16, help="Processes and threads of one server and everything that it starts.").tag(config=True)

    cmd: Any
    shell_cmd: Any
    port: Any
    popen_kwargs: Any

    def _words(self, verb: str, *words: str) -> list[str]:
        return [*steward_command(self.group, self.cgroup_place), verb, self.user.name, self.name, *words]

    async def ask(self, verb: str, *words: str) -> int:
        """Exit code. Raises HostError with what the steward or sudo says."""
        command = self._words(verb, *words)
        done = await asyncio.to_thread(subprocess.run, command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CALL_SECONDS, check=False)
        if done.returncode == 1 and done.stderr.startswith("sudo:"):
            raise HostError(f"sudo does not allow the hub's user to run {' '.join(command[2:10])} ({done.stderr.strip()})", "see nbcontainer/jupyter/examples/sudo_config.py")
        if done.returncode not in (0, EXIT_NOTHING):
            raise HostError(*_said(done.stderr))
        return done.returncode

    def make_preexec_fn(self, name: str) -> None:
        """The steward becomes the user."""

    async def start(self) -> Any:
        try:
            await self.ask("limit", str(self.mem_limit or 0), str(self.cpu_limit or 0), str(self.pids_limit))
        except HostError as error:
            error.jupyterhub_message = f"Your server was not started: {error}"  # type: ignore[attr-defined] # what JupyterHub shows
            raise
        self.port = self.port or random_port()  # it is part of the environment
        command, shell_command, settings = list(self.cmd), list(self.shell_cmd), dict(self.popen_kwargs)
        # Not in sudo's own environment: that would be root's, and sudo rightly drops it.
        environment = os.memfd_create("environment")
        try:
            os.write(environment, json.dumps(self.get_env()).encode())
            os.lseek(environment, 0, os.SEEK_SET)
            self.popen_kwargs = {**settings, "stdin": environment}
            if shell_command:
                self.shell_cmd = self._words("run", *shell_command)
            else:
                self.cmd = self._words("run", *command)
            return await super().start()
        except BaseException:
            await self.ask("remove")
            raise
        finally:
            os.close(environment)
            self.cmd, self.shell_cmd, self.popen_kwargs = command, shell_command, settings

    async def _signal(self, sig: int) -> bool:
        """The process is root's sudo: what it runs is asked instead."""
        return await self.ask("alive") == 0

    async def stop(self, now: bool = False) -> None:
        if not now and await self.poll() is None:
            await self.ask("end")
            await self.wait_for_death(self.term_timeout)
        await self.ask("remove")
        await self.wait_for_death(self.kill_timeout)

    def run_post_stop_hook(self) -> Any:
        """JupyterHub calls it after each end of a server, however it came."""
        return _after(super().run_post_stop_hook(), partial(self.ask, "remove"))


def _said(text: str) -> tuple[str, str]:
    """(message, remedy) of what the steward's HostError was."""
    message, _, remedy = text.strip().partition(". Remedy: ")
    return message or "the steward said nothing", remedy
