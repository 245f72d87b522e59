"""A kernel provisioner: the kernel of a notebook, of whatever language, as the first process of a container.

The container has no network, so the kernel's five sockets are Unix sockets in a directory of this process's, which the
container has at /run/kernel. Everything else of it is as ``%%container`` makes it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from traitlets import Dict, Unicode

from nbcontainer.engine.local import LocalEngine, open_local
from nbcontainer.errors import HostError, SpecError
from nbcontainer.jupyter.contained import KernelContainer
from nbcontainer.jupyter.lastwords import Iopub
from nbcontainer.jupyter.surroundings import volumes_of_program
from nbcontainer.mounts import Mount
from nbcontainer.spec import ContainerSpec
from nbcontainer.validate import make_spec

INSIDE = "/run/kernel"
CONNECTION_FILE = "connection.json"
SOCKETS = "k"
LONGEST_SOCKET_PATH = 107
"""sun_path holds 108 bytes, with a zero at the end."""
POLL_SECONDS = 0.05
INTERVAL_SECONDS = 1.0
"""A kernel lives for hours: one reading of its counters a second is enough."""
REFUSED = {
    "name": "a kernel's container is named after the kernel",
    "user": "the kernel is root of its container, who is nobody outside",
    "max_output": "a kernel's output goes to the notebook",
}
"""Options that a kernel's container does not have, and why."""


def kernel_spec(options: dict[str, Any], program: list[str], name: str, base: str, environment: list[str]) -> ContainerSpec:
    """The container of a kernel. Raises SpecError."""
    for key, why in REFUSED.items():
        if key in options:
            raise SpecError(f"--{key.replace('_', '-')}: not for a kernel: {why}")
    given = {"interval": INTERVAL_SECONDS, **options}
    engine = given.pop("engine", "local")
    if engine == "vm":
        raise SpecError("--engine: a kernel runs in a container on this host; in its cells, %%container --engine vm is there")
    given["env"] = [*environment, *given.get("env", ())]
    spec = make_spec(given, program=program, name=name, base=base)
    if "mnt" not in spec.namespaces or spec.root.kind == "none" or spec.bare or spec.root.writable:
        raise SpecError("--root, --unshare: a kernel needs a root of its own, for its sockets at /run/kernel")
    # Defaults of a project or a machine are about cells: a kernel ends after a time only where it was installed so.
    return spec.replace(once=True, timeout_seconds=spec.timeout_seconds if "timeout" in options else None)


class ContainerProvisioner(LocalProvisioner):
    """See the module. ``options`` are those of ``%%container``, by their long names."""

    options = Dict(help="Options of %%container by their long names with _ for -, such as {'mem': '512M', 'cpus': '1'}.").tag(config=True)

    base = Unicode("python3", help="The kernelspec whose kernel this is; for messages.").tag(config=True)

    _container: KernelContainer | None = None
    _directory = ""

    @property
    def _manager(self) -> Any:
        """The KernelManager."""
        return self.parent

    # ---- starting

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        manager = self._manager
        if not self.kernel_spec.argv:
            raise SpecError(f"the kernelspec {manager.kernel_name} has no argv: there is nothing to run in the container")
        self._directory = await asyncio.to_thread(self._make_directory)
        ip = f"{self._directory}/{SOCKETS}"
        if (manager.transport, manager.ip) != ("ipc", ip):
            manager.cleanup_connection_file()
            manager.transport, manager.ip, manager.cache_ports = "ipc", ip, False
        try:
            kwargs = await super().pre_launch(**kwargs)
        except BaseException:
            await self.cleanup()  # see launch_kernel
            raise
        outside = os.path.realpath(manager.connection_file)
        kwargs["cmd"] = [word.replace(outside, f"{INSIDE}/{CONNECTION_FILE}") for word in kwargs["cmd"]]
        return kwargs

    def _make_directory(self) -> str:
        """An empty one, for this kernel's sockets. Raises HostError."""
        directory = _engine().state.sockets(str(self.kernel_id)[:8])
        for name in os.listdir(directory):
            os.unlink(f"{directory}/{name}")
        longest = f"{directory}/{SOCKETS}-9"  # jupyter_client numbers Unix sockets from 1 on
        if len(os.fsencode(longest)) > LONGEST_SOCKET_PATH:
            raise HostError(
                f"{longest} is longer than the {LONGEST_SOCKET_PATH} bytes that a Unix socket's path may have",
                "export XDG_RUNTIME_DIR=/run/user/$(id -u), or another short directory of yours, before Jupyter starts",
            )
        return directory

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Raises SpecError, HostError, SetupError and InternalError."""
        base = str(kwargs.get("cwd") or os.getcwd())
        # ipykernel takes this for its parent, and 1 for one that need not be watched: no other is to be seen from inside.
        environment = ["JPY_PARENT_PID=1", *(f"{key}={kwargs['env'][key]}" for key in self.kernel_spec.env)]
        try:
            self._container = await asyncio.to_thread(self._launch, cmd, base, environment)
        except BaseException:
            await self.cleanup()  # nobody else does it for a kernel that never was
            raise
        self.pid = self.pgid = self._container.pid
        return self.connection_info

    def _launch(self, program: list[str], base: str, environment: list[str]) -> KernelContainer:
        name = f"kernel-{str(self.kernel_id)[:8]}"
        self._write_connection_file()
        spec = kernel_spec(dict(self.options), program, name, base, environment)
        taken = {mount.target for mount in spec.mounts}
        own = [Mount(INSIDE, self._directory)]
        own += [Mount(path, path, read_only=True) for path in volumes_of_program(program, self.kernel_spec.resource_dir) if path not in taken]
        for note in spec.notes:
            self.log.warning("%s: %s", name, note)
        install = f"--kernelspec {self.base} --name NAME"
        return KernelContainer(_engine(), spec.replace(mounts=(*spec.mounts, *own)), self._iopub(), install, self.log)

    def _write_connection_file(self) -> None:
        """What the kernel reads: the same sockets, where it sees them."""
        with open(self._manager.connection_file, encoding="utf-8") as file:
            content = json.load(file)
        content["ip"] = f"{INSIDE}/{SOCKETS}"
        Path(self._directory, CONNECTION_FILE).write_text(json.dumps(content), encoding="utf-8")

    def _iopub(self) -> Iopub:
        manager = self._manager
        return Iopub(
            f"{self._directory}/{SOCKETS}-{manager.iopub_port}",
            manager.session.key,
            manager.session.signature_scheme,
            getattr(manager, "curve_publickey", None),
            getattr(manager, "curve_secretkey", None),
        )

    # ---- while it runs

    @property
    def has_process(self) -> bool:
        return self._container is not None

    async def poll(self) -> int | None:
        return 0 if self._container is None else self._container.exit_code

    async def wait(self) -> int | None:
        while (status := await self.poll()) is None:
            await asyncio.sleep(POLL_SECONDS)
        self._container = None
        return status

    async def send_signal(self, signum: int) -> None:
        if self._container is not None:
            self._container.signal(signum)  # not in a thread: at the end of a process there are no new ones

    async def kill(self, restart: bool = False) -> None:
        if self._container is not None:
            self._container.kill()

    async def terminate(self, restart: bool = False) -> None:
        # The first process of a pid namespace ignores SIGTERM unless it has a handler: what has one may still end by itself.
        await self.send_signal(signal.SIGTERM)

    async def shutdown_requested(self, restart: bool = False) -> None:
        if self._container is not None:
            self._container.expect_end()

    async def cleanup(self, restart: bool = False) -> None:
        if not restart and self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)

    def resolve_path(self, path_str: str) -> str | None:
        """Nothing: paths of the kernel are the container's."""
        return None


def _engine() -> LocalEngine:
    """This process's. Raises HostError that says what a whole kernel in a container needs."""
    try:
        return open_local()
    except HostError as error:
        raise HostError(f"a kernel in a container needs containers on this host, and {error.message}", error.remedy) from None


