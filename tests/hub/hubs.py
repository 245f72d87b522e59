"""A real JupyterHub with its proxy and real Unix users, and students who talk to their servers as a browser does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import secrets
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from nbcontainer.cgroups import Driver, delegate
from nbcontainer.jupyter.rundir import RuntimeDirectories

PLACE = "/nbcontainer-hubtest"
PREFIX = "nbcstudent"
NO_ACCOUNT = "nbcnoaccount"
"""Known to the hub, and not to Linux."""
START_SECONDS = 90
LAST_WORDS_SECONDS = 15.0
ANSWER_SECONDS = 120
CLOSE_SECONDS = 10.0
CONFIGURATION = """
c = get_config()
c.JupyterHub.spawner_class = "nbcontainer.jupyter.hub.DelegatingSpawner"
c.DelegatingSpawner.cgroup_place = {place!r}
c.DelegatingSpawner.pids_limit = 300
c.Spawner.mem_limit = "640M"
c.Spawner.environment = {{"JUPYTERHUB_SINGLEUSER_APP": "jupyter_server.serverapp.ServerApp"}}
c.Spawner.start_timeout = c.Spawner.http_timeout = {seconds}
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = {token!r}
c.Authenticator.allowed_users = {users!r}
c.JupyterHub.bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{hub_port}"
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy_port}"
c.ConfigurableHTTPProxy.command = [{proxy!r}]
c.ConfigurableHTTPProxy.auth_token = {token!r}
c.JupyterHub.services = [{{"name": "test", "api_token": {token!r}}}]
c.JupyterHub.load_roles = [{{"name": "test", "services": ["test"], "scopes": ["admin:users", "admin:servers", "access:servers"]}}]
c.JupyterHub.cleanup_servers = False
c.JupyterHub.cleanup_proxy = True
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def unix_users(count: int, homes: Path, prefix: str = PREFIX) -> Iterator[list[str]]:
    """Accounts with home directories, for as long as this lasts. Raises CalledProcessError where one is there already."""
    names = [f"{prefix}{number:02d}" for number in range(count)]
    homes.mkdir(parents=True, exist_ok=True)
    homes.chmod(0o755)
    made = []
    try:
        for name in names:
            subprocess.run(["/usr/sbin/useradd", "-m", "-d", str(homes / name), "-s", "/bin/sh", name], check=True, stderr=subprocess.PIPE)
            made.append(name)
            (homes / name).chmod(0o700)
            (homes / name / "work").mkdir()
            subprocess.run(["chown", "-R", f"{name}:", str(homes / name)], check=True)
        yield names
    finally:
        for name in made:
            for process in processes_of(name):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            subprocess.run(["/usr/sbin/userdel", "-r", name], check=False, stderr=subprocess.DEVNULL)


@contextlib.contextmanager
def small_disk(directory: Path, mebibytes: int) -> Iterator[None]:
    """A disk with a file system of its own at ``directory``, which can be filled without harm to the machine. Raises CalledProcessError."""
    image = directory.with_suffix(".img")
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        image.unlink()
    with image.open("wb") as file:
        file.truncate(mebibytes << 20)
    subprocess.run(["/sbin/mke2fs", "-q", "-F", "-t", "ext4", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(directory)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)
        image.unlink()


def free_bytes(directory: Path) -> int:
    """For ordinary users."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def processes_of(name: str) -> list[psutil.Process]:
    """By their real user id, also in containers: there, root is the user."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess):
            # A zombie is an exit status that its parent has not read yet.
            if process.username() == name and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def container_pids(name: str) -> list[int]:
    """Of the processes in a user's containers, as the host sees them."""
    found = set()
    for directory in cgroups_of(name):
        for path in Path(directory).rglob("nbc-*/*/cgroup.procs"):
            with contextlib.suppress(OSError):
                found.update(map(int, path.read_text().split()))
    return sorted(found)


def cgroups_of(name: str, place: str = PLACE) -> list[str]:
    """Directories of a server's cgroup, in all hierarchies."""
    return [str(path) for root in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()) if (path := Path(f"{root}{place}/{name}")).is_dir()]


def runtime_directory(name: str, place: str = PLACE) -> str:
    """In memory, of a user who has a server; "" where there is none."""
    return RuntimeDirectories(place).of(pwd.getpwnam(name).pw_uid)


def remove_servers(driver: Driver, place: str = PLACE) -> None:
    """What a hub that was killed has left."""
    for name in driver.names():
        delegate.remove(driver, name)
    RuntimeDirectories(place).keep_only(list)
    delegate.remove_place(driver)


def end_proxy(directory: Path) -> None:
    """That of the hub whose working directory this is; a hub that ends need not do it."""
    with contextlib.suppress(FileNotFoundError, ValueError, psutil.NoSuchProcess):
        proxy = psutil.Process(int((directory / "jupyterhub-proxy.pid").read_text()))
        if "configurable-http-proxy" in " ".join(proxy.cmdline()):
            proxy.terminate()
            proxy.wait(10)


class Hub:
    """Started, stopped and crashed by the tests; its database and its ports stay the same."""

    def __init__(self, directory: Path, home: Path, users: list[str], *, more: str = "", runs_as: str | None = None) -> None:
        """``home``: has a venv/ with JupyterHub and a proxy/ with configurable-http-proxy, for every user to read.

        ``more``: lines of configuration; ``runs_as``: the hub's own user, instead of the tests'.
        """
        self._directory, self._home, self._runs_as = directory, home, runs_as
        self.token = secrets.token_hex(16)
        self.port = free_port()
        self.users = users
        proxy = str(home / "proxy/node_modules/.bin/configurable-http-proxy")
        ports = {"port": self.port, "hub_port": free_port(), "proxy_port": free_port()}
        text = CONFIGURATION.format(place=PLACE, seconds=START_SECONDS, token=self.token, users={*users, NO_ACCOUNT}, proxy=proxy, **ports)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "jupyterhub_config.py").write_text(text + more)
        self.log = directory / "hub.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        python = self._home / "venv/bin/python"
        environment = {"PATH": f"{python.parent}:/usr/bin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(python), "-m", "jupyterhub", "-f", "jupyterhub_config.py"],
                cwd=self._directory, env=environment, stdout=log, stderr=log, start_new_session=True,
                user=self._runs_as, group=self._runs_as, extra_groups=[] if self._runs_as else None,
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.call("GET", "users")
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("JupyterHub does not answer:\n" + self.log.read_text()[-4000:]) from None
                time.sleep(0.1)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """With SIGKILL, it crashes; the servers go on in either case."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(START_SECONDS)
            self._process = None

    def end_proxy(self) -> None:
        """A crashed hub's."""
        end_proxy(self._directory)

    def memory_mib(self) -> float:
        """PSS of the hub and its proxy."""
        assert self._process is not None
        hub = psutil.Process(self._process.pid)
        own = [hub, *(child for child in hub.children(recursive=True) if child.username() == hub.username())]
        return float(sum(process.memory_full_info().pss for process in own)) / (1 << 20)

    def call(self, method: str, path: str, body: object = None) -> Any:
        return self._request(method, f"hub/api/{path}", body)

    def _request(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"token {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=START_SECONDS) as response:
            text = response.read()
        return json.loads(text) if text else None

    def start_server(self, name: str) -> None:
        self.call("POST", f"users/{name}/server", {})
        self._wait(lambda: self.server(name).get("ready"), f"{name}'s server")

    def ensure_server(self, name: str) -> int:
        """Started, unless it runs; returns its process id."""
        if not self.server(name).get("ready"):
            self.start_server(name)
        return int(self.server(name)["state"]["pid"])

    def stop_server(self, name: str) -> None:
        self.call("DELETE", f"users/{name}/server")
        self._wait(lambda: not self.server(name), f"the end of {name}'s server")

    def server(self, name: str) -> dict[str, Any]:
        servers: dict[str, dict[str, Any]] = self.call("GET", f"users/{name}").get("servers") or {}
        return servers.get("", {})

    def _wait(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what} did not come:\n" + self.log.read_text()[-4000:])
            time.sleep(0.1)

    def of_server(self, name: str, method: str, path: str, body: object = None) -> Any:
        return self._request(method, f"user/{name}/{path}", body)


@dataclass
class Reply:
    """What came of a cell: its reply's status, what it printed, the widgets that it opened, and the pictures that it showed."""

    status: str = ""
    text: str = ""
    widgets: int = 0
    pictures: int = 0
    seconds: float = 0.0
    errors: list[str] = field(default_factory=list)


class Student:
    """One kernel in a notebook's directory, and the web socket to it."""

    def __init__(self, hub: Hub, name: str, kernel: str = "python3") -> None:
        self.hub, self.name, self._kernel = hub, name, kernel
        self._socket: WebSocketClientConnection | None = None

    async def open(self) -> None:
        await asyncio.to_thread(self.hub.ensure_server, self.name)
        session = await asyncio.to_thread(
            self.hub.of_server, self.name, "POST", "api/sessions",
            {"name": "n", "path": f"work/{uuid.uuid4().hex}.ipynb", "type": "notebook", "kernel": {"name": self._kernel}},
        )  # fmt: skip
        self.kernel_id = session["kernel"]["id"]
        await self.connect()

    async def connect(self) -> None:
        """To the kernel that there is, as a page does that is loaded again."""
        address = f"ws://127.0.0.1:{self.hub.port}/user/{self.name}/api/kernels/{self.kernel_id}/channels"
        headers = {"Authorization": f"token {self.hub.token}"}
        # The server answers when the kernel does; ten of them begin at the same time.
        self._socket = await websocket_connect(HTTPRequest(address, headers=headers, connect_timeout=START_SECONDS, request_timeout=START_SECONDS))

    async def run(self, code: str) -> Reply:
        """Raises TimeoutError."""
        async with asyncio.timeout(ANSWER_SECONDS):
            return await self._run(code)

    async def _run(self, code: str) -> Reply:
        assert self._socket is not None
        name = uuid.uuid4().hex
        header = {"msg_id": name, "username": self.name, "session": "s", "msg_type": "execute_request", "version": "5.3", "date": ""}
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False, "stop_on_error": True}
        started = time.monotonic()
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell", "buffers": []}
        await self._socket.write_message(json.dumps(message))
        reply, idle = Reply(), False
        while not (reply.status and idle):
            answer = await self._read()
            if answer["parent_header"].get("msg_id") != name:
                if answer["msg_type"] == "status" and answer["content"]["execution_state"] in ("restarting", "dead"):
                    await self._hear_last_words(name, reply)
                    reply.status, idle = "dead", True
                continue
            idle |= self._take(answer, reply)
        reply.seconds = time.monotonic() - started
        return reply

    async def _read(self) -> dict[str, Any]:
        assert self._socket is not None
        data = await self._socket.read_message()
        if data is None:
            raise ConnectionError("the server closed the web socket")
        if isinstance(data, bytes):
            # A message with buffers: their number plus one, where each part begins, and the JSON as the first part.
            begin, end = int.from_bytes(data[4:8]), int.from_bytes(data[8:12])
            data = data[begin:end]
        answer: dict[str, Any] = json.loads(data)
        return answer

    async def _hear_last_words(self, name: str, reply: Reply) -> None:
        """They come by another way than the server's own news of the end, and may come after it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_SECONDS):
                while not reply.errors:
                    answer = await self._read()
                    if answer["parent_header"].get("msg_id") == name:
                        self._take(answer, reply)

    @staticmethod
    def _take(answer: dict[str, Any], reply: Reply) -> bool:
        content = answer["content"]
        match answer["msg_type"]:
            case "execute_reply":
                reply.status = content["status"]
            case "stream":
                reply.text += content["text"]
            case "error":
                reply.errors.append(f"{content['ename']}: {content['evalue']}" + "\n".join(content["traceback"]))
            case "comm_open":
                reply.widgets += 1
            case "display_data" | "update_display_data":
                reply.pictures += "image/png" in content["data"]
            case "status":
                return bool(content["execution_state"] == "idle")
        return False

    async def end(self) -> None:
        """The kernel, too."""
        await self.close()
        await asyncio.to_thread(self.hub.of_server, self.name, "DELETE", f"api/kernels/{self.kernel_id}")

    async def close(self) -> None:
        """Until the other end has closed it too."""
        if self._socket is not None:
            self._socket.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    while await self._socket.read_message() is not None:
                        pass
