"""The live panel on the wire: a raw Jupyter client clicks while the cell blocks the kernel, on several ipykernels."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from facilities import require
from jupyter_client.manager import KernelManager

from nbcontainer.notebook.live import WIDGET_VIEW
from nbcontainer.notebook.view import ROW_FORMAT

OTHERS = Path(__file__).resolve().parents[2] / ".venv" / "ipykernels"
WAIT_SECONDS = 60
MIB = 1 << 20
BUSY = "while True: pass"


class Client:
    """Executes cells and answers what comes, as a front end would."""

    def __init__(self, version: str) -> None:
        environment = dict(os.environ)
        if version != "installed":
            environment["PYTHONPATH"] = str(OTHERS / version)
        self._manager = KernelManager(kernel_name="python3")
        self._manager.start_kernel(env=environment)
        self._client = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(WAIT_SECONDS)
        self.panel = ""
        self.rows: list[tuple[float, ...]] = []
        self.markers: list[Any] = []
        self.said: list[dict[str, Any]] = []
        self.outputs: list[dict[str, Any]] = []

    def execute(self, code: str) -> str:
        return str(self._client.execute(code))

    def send(self, **content: Any) -> None:
        """To the panel, on the shell channel, as the browser does."""
        data = {"comm_id": self.panel, "data": {"method": "custom", "content": content}}
        self._client.shell_channel.send(self._client.session.msg("comm_msg", data))

    def printed(self, *message_ids: str) -> str:
        """What these cells have printed: a text may come in several messages."""
        return "".join(output["text"] for output in self.outputs if output["type"] == "stream" and output["parent"] in message_ids)

    def figure(self) -> dict[str, Any]:
        return next(output for output in reversed(self.outputs) if "image/png" in output.get("data", {}))

    def request(self, kind: str) -> str:
        message = self._client.session.msg(kind, {})
        self._client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def question(self) -> tuple[str, bool]:
        """What a cell asks next: (prompt, password)."""
        content = self._client.get_stdin_msg(timeout=WAIT_SECONDS)["content"]
        return content["prompt"], content["password"]

    def answer(self, line: str) -> None:
        self._client.input(line)

    def interrupt(self) -> None:
        self._manager.interrupt_kernel()

    def read_until_idle(self, message_id: str, on_message: Callable[[dict[str, Any]], object] = lambda content: None) -> None:
        """``on_message`` gets each of the panel's own messages, and ``{"k": "open"}`` for its beginning."""
        while True:
            message = self._client.get_iopub_msg(timeout=WAIT_SECONDS)
            content = message["content"]
            if message["msg_type"] == "comm_open" and content["data"]["state"].get("_model_module") == "anywidget":
                self.panel = content["comm_id"]
                on_message({"k": "open"})
            elif message["msg_type"] == "comm_msg" and content["comm_id"] == self.panel and content["data"]["method"] == "custom":
                self._take(content["data"]["content"], message["buffers"])
                on_message(content["data"]["content"])
            elif message["msg_type"] in ("display_data", "update_display_data", "stream", "error"):
                self.outputs.append({"type": message["msg_type"], "parent": message["parent_header"].get("msg_id"), **content})
            elif message["parent_header"].get("msg_id") == message_id and content.get("execution_state") == "idle":
                return

    def _take(self, content: dict[str, Any], buffers: list[Any]) -> None:
        if content["k"] == "said":
            self.said.append(content)
            return
        if content["k"] == "all":
            self.rows, self.markers = [], []
        self.markers += content.get("m", [])
        for buffer in buffers:
            self.rows += struct.iter_unpack(ROW_FORMAT, buffer)

    def shell_replies(self, *message_ids: str) -> list[dict[str, Any]]:
        """The replies to these requests, in the order in which they come; others are left out."""
        replies: list[dict[str, Any]] = []
        while len(replies) < len(message_ids):
            reply = self._client.get_shell_msg(timeout=WAIT_SECONDS)
            if reply["parent_header"]["msg_id"] in message_ids:
                replies.append(reply)
        return replies

    def forget(self) -> None:
        self.panel, self.rows, self.markers, self.said, self.outputs = "", [], [], [], []

    def close(self) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel()


@pytest.fixture(scope="module", params=["installed", "6.31.0", "7.3.0"])
def kernel(request: pytest.FixtureRequest) -> Iterator[Client]:
    require(os.geteuid() == 0, "the local engine needs root: sudo tests/run --lane notebook")
    require(request.param == "installed" or (OTHERS / request.param).is_dir(), f"ipykernel {request.param}: tests/run installs it")
    client = Client(request.param)
    client.read_until_idle(client.execute("import ipykernel; print(ipykernel.__version__)\n%load_ext nbcontainer"))
    version = "".join(output["text"] for output in client.outputs if output["type"] == "stream").strip()
    assert request.param in ("installed", version)
    yield client
    client.close()


@pytest.fixture
def client(kernel: Client) -> Client:
    kernel.forget()
    return kernel


def test_clicks_are_heard_while_the_cell_runs(client: Client) -> None:
    script = [
        ({"k": "pause"}, True, "frozen"),
        ({"k": "resume"}, True, "run again"),
        ({"k": "update", "set": {"cpus": 0.3}}, True, "cpus none → 0.3"),
        ({"k": "update", "set": {"mem": 200 * MIB}}, True, "mem 128 MiB → 200 MiB"),
        ({"k": "update", "set": {"mem": 9 * MIB}}, False, "in use"),
        ({"k": "update", "set": {"cpus": -1}}, False, "is not a number from"),
        ({"k": "update", "set": {"mem": 1 << 60}}, False, "more than this host's"),
        ({"k": "update", "set": {"cpus": 100_000}}, False, "is not a number from"),
        ({"k": "update", "set": {"hostname": 1}}, False, "cannot be changed"),
        ({"k": "update", "set": "nonsense"}, True, "Nothing was changed"),
        ({"k": "kill"}, True, "Killed"),
    ]
    steps = iter(script)

    def on_message(content: dict[str, Any]) -> None:
        if content["k"] == "open":
            client.send(k="hello")
        elif content["k"] in ("all", "said") and (step := next(steps, None)):
            client.send(**step[0])

    client.read_until_idle(client.execute(f"%%container --mem 128M --no-raise-error\ndata = bytearray(40_000_000)\n{BUSY}"), on_message)
    assert [said["ok"] for said in client.said] == [ok for _, ok, _ in script]
    for said, (_, _, text) in zip(client.said, script, strict=True):
        assert text in said["text"]
    assert [kind for _, kind, _ in client.markers] == ["start", "pause", "resume", "limits", "limits", "end"]
    seconds = [row[0] for row in client.rows]
    assert seconds == sorted(set(seconds)) and max(row[1] for row in client.rows) > 40_000_000
    last = client.figure()
    assert last["type"] == "update_display_data" and "killed on request" in last["metadata"]["image/png"]["alt"]
    caption = client.outputs[client.outputs.index(last) + 1]
    assert caption["data"]["text/plain"] == last["data"]["text/plain"], "the same in words, below it"
    assert WIDGET_VIEW not in last["data"]


def test_a_question_that_waits_stops_neither_the_view_nor_the_clicks(client: Client) -> None:
    steps = iter([{"k": "pause"}, {"k": "resume"}])

    def on_message(content: dict[str, Any]) -> None:
        if content["k"] == "open":
            client.send(k="hello")
        elif content["k"] == "d" and client.rows and client.rows[-1][0] > 1.5 and not asked:
            asked.append(client.question())
            client.send(**next(steps))
        elif content["k"] == "said" and (step := next(steps, None)):
            client.send(**step)
        elif content["k"] == "said":
            client.answer("Ada")
            asked.append(client.question())
            client.answer("word")

    asked: list[tuple[str, bool]] = []
    cell = client.execute("%%container --no-raise-error\nimport getpass\nprint('hello', input('name? '), getpass.getpass('word? '))")
    client.read_until_idle(cell, on_message)
    assert asked == [("name? ", False), ("word? ", True)] and client.printed(cell) == "hello Ada word\n"
    assert [said["ok"] for said in client.said] == [True, True]


def test_a_question_that_nobody_answers_ends_with_a_click(client: Client) -> None:
    def on_message(content: dict[str, Any]) -> None:
        if content["k"] == "open":
            client.question()
            client.send(k="kill")

    client.read_until_idle(client.execute("%%container --live --no-raise-error\nimport time; time.sleep(0.5); input('name? ')"), on_message)
    assert "killed on request" in client.figure()["metadata"]["image/png"]["alt"]
    client.answer("too late")
    cell = client.execute("%%container --live\ntry: input('again? ')\nexcept EOFError: print('ended')")
    client.read_until_idle(cell, lambda content: content["k"] == "open" and (client.question(), client.answer("\x04")))
    assert client.printed(cell) == "ended\n", "what was typed too late is not taken for an answer to this"


def test_queued_cells_are_neither_lost_nor_reordered(client: Client) -> None:
    def on_message(content: dict[str, Any]) -> None:
        if content["k"] == "open":
            queued.extend(client.execute(f"print('cell {number}')") for number in range(3))
            client.send(k="hello")
        elif content["k"] == "all" and len(queued) == 3:
            queued.extend(client.execute(f"print('cell {number}')") for number in range(3, 6))
            client.send(k="kill")

    queued: list[str] = []
    client.read_until_idle(client.execute(f"%%container --live --no-raise-error\n{BUSY}"), on_message)
    client.read_until_idle(queued[-1])
    assert client.printed(*queued) == "".join(f"cell {number}\n" for number in range(6))
    assert [reply["parent_header"]["msg_id"] for reply in client.shell_replies(*queued)] == queued


def test_queued_cells_are_aborted_after_a_failure_as_ever(client: Client) -> None:
    def on_message(content: dict[str, Any]) -> None:
        if content["k"] == "open":
            queued.extend(client.execute(f"print('cell {number}')") for number in range(2))
            client.send(k="hello")
        elif content["k"] == "all":
            client.send(k="kill")

    queued: list[str] = []
    client.read_until_idle(client.execute(f"%%container --live\n{BUSY}"), on_message)
    client.read_until_idle(queued[-1])
    assert [reply["content"]["status"] for reply in client.shell_replies(*queued)] == ["aborted", "aborted"]
    alive = client.execute("print('alive')")
    client.read_until_idle(alive)
    assert client.printed(alive) == "alive\n"


def test_what_arrives_while_a_reply_is_sent_is_read(client: Client) -> None:
    """ipykernel 7.0 to 7.3 by themselves never read it."""
    code = (
        "import time\ndef answer():\n    time.sleep(1); manager._send_on_shell_channel([b'nobody', b''])\n"
        "thread = getattr(get_ipython().kernel, 'shell_channel_thread', None)\n"
        "if thread:\n    manager = thread.manager\n    thread.io_loop.call_later(0.5, answer)"
    )
    client.read_until_idle(client.execute(code))
    time.sleep(1)
    late = client.execute("print('read')")
    client.read_until_idle(late)
    assert client.printed(late) == "read\n"


def test_a_front_end_that_comes_back_gets_the_history(client: Client) -> None:
    seen: list[int] = []

    def on_message(content: dict[str, Any]) -> None:
        if content["k"] == "d" and len(client.rows) >= 8 and not seen:
            questions.extend([client.request("kernel_info_request"), client.request("comm_info_request")])
            seen.append(len(client.rows))
            client.send(k="hello")
        elif content["k"] == "all":
            seen.append(len(client.rows))
            replies.extend(client.shell_replies(*questions))
            client.send(k="stop")

    replies: list[dict[str, Any]] = []
    questions: list[str] = []
    client.read_until_idle(client.execute("%%container --live --no-raise-error\nimport time; time.sleep(60)"), on_message)
    assert seen[1] >= seen[0]
    assert [reply["msg_type"] for reply in replies] == ["kernel_info_reply", "comm_info_reply"]
    assert client.panel in replies[1]["content"]["comms"]
    assert "interrupted" in client.figure()["metadata"]["image/png"]["alt"]


def test_the_kernels_interrupt_works_too_and_widgets_do_after_it(client: Client) -> None:
    def on_message(content: dict[str, Any]) -> None:
        if content["k"] == "open":
            client.interrupt()

    client.read_until_idle(client.execute("%%container --live --no-raise-error\nimport time; time.sleep(60)"), on_message)
    code = "import ipywidgets\nbox = ipywidgets.IntText()\nprint(box.model_id)"
    made = client.execute(code)
    client.read_until_idle(made)
    model = client.printed(made).strip()
    data = {"comm_id": model, "data": {"method": "update", "state": {"value": 7}, "buffer_paths": []}}
    client._client.shell_channel.send(client._client.session.msg("comm_msg", data))
    asked = client.execute("print(box.value)")
    client.read_until_idle(asked)
    assert client.printed(asked) == "7\n"


def test_an_interrupt_while_messages_wait_loses_none_of_them(client: Client) -> None:
    def on_message(content: dict[str, Any]) -> None:
        if content["k"] == "open":
            queued.extend(client.execute(f"print('cell {number}')") for number in range(3))
            client.send(k="pause")
            client.interrupt()
            client.send(k="resume")
            queued.append(client.execute("print('cell 3')"))

    queued: list[str] = []
    client.read_until_idle(client.execute("%%container --live --no-raise-error\nimport time; time.sleep(60)"), on_message)
    client.read_until_idle(queued[-1])
    assert client.printed(*queued) == "".join(f"cell {number}\n" for number in range(4))
    assert "interrupted" in client.figure()["metadata"]["image/png"]["alt"]


def test_a_kernel_without_the_private_names_degrades_to_interrupts(client: Client) -> None:
    code = (
        "import nbcontainer.notebook.pump as pump\nkept = pump.open_pump\n"
        "def refuse(kernel): raise pump.PumpUnavailable('gone')\npump.open_pump = refuse"
    )
    client.read_until_idle(client.execute(code))
    histories: list[int] = []

    def on_message(content: dict[str, Any]) -> None:
        if content["k"] == "all":
            histories.append(len(client.rows))
            if len(histories) == 2:
                client.interrupt()

    client.read_until_idle(client.execute("%%container --live --no-raise-error\nimport time; time.sleep(60)"), on_message)
    assert histories[1] > histories[0], "nobody can ask for it, so it comes by itself"
    client.read_until_idle(client.execute("pump.open_pump = kept"))


def test_a_cleared_output_keeps_the_panel(client: Client) -> None:
    def on_message(content: dict[str, Any]) -> None:
        if content["k"] == "d" and client.rows and client.rows[-1][0] > 1.5:
            client.send(k="kill")

    code = "import time\nfrom IPython.display import clear_output\ntime.sleep(1)\nclear_output()\ntime.sleep(60)"
    client.read_until_idle(client.execute(f"%%container --live --no-raise-error\n{code}"), on_message)
    shown = [output for output in client.outputs if output["type"] == "display_data"]
    panel, caption, *again = [output["transient"]["display_id"] for output in shown]
    assert again == [panel, caption] and panel != caption


@pytest.mark.parametrize("option", ["--no-live", "--quiet"])
def test_no_panel_where_none_is_wanted(client: Client, option: str) -> None:
    message_id = client.execute(f"%%container {option} --no-raise-error\nimport time; time.sleep(0.8)")
    client.read_until_idle(message_id)
    assert client.panel == ""
    shown = [list(output.get("data", output)) for output in client.outputs if output["parent"] == message_id]
    assert shown == ([["image/png", "text/plain"], ["text/html", "text/plain"]] if option == "--no-live" else [])


def test_a_container_in_the_background_has_its_view_below_the_cell_that_started_it(client: Client) -> None:
    first = client.execute("%%container -d --live --name seen --mem 64M --cpus 0.5\nwhile True: pass")
    client.read_until_idle(first)
    assert client.panel and not any("image/png" in output.get("data", {}) for output in client.outputs)
    client.send(k="hello")
    client.read_until_idle(client.execute("before = 1"))
    before = len(client.rows)
    client.read_until_idle(client.execute("import time; time.sleep(1)"))
    assert len(client.rows) >= before + 5, "it is drawn while another cell runs"
    client.send(k="update", set={"cpus": 0.25})
    client.read_until_idle(client.execute("%%container --no-live --mem 64M\nimport time; time.sleep(1)"))
    client.send(k="kill")
    deadline = time.monotonic() + WAIT_SECONDS
    seen: list[dict[str, Any]] = []
    while not seen and time.monotonic() < deadline:
        client.read_until_idle(client.execute("time.sleep(0.1)"))
        seen = [output for output in client.outputs if "image/png" in output.get("data", {}) and output["parent"] == first]
    (figure,) = seen
    assert figure["type"] == "update_display_data" and "killed on request" in figure["data"]["text/plain"]
    shown = next(output for output in client.outputs if WIDGET_VIEW in output.get("data", {}))
    assert shown["parent"] == first and shown["transient"] == figure["transient"], "where the view was"
    assert any("cpus 0.5 → 0.25" in marker[2] for marker in client.markers)


def test_a_background_container_has_an_image_where_no_panel_is_drawn(client: Client) -> None:
    """Who says nothing while the kernel listens has no anywidget; while a cell keeps it busy, nobody can be heard."""

    def shown() -> list[Any]:
        views = (output.get("data", {}).get(WIDGET_VIEW) for output in client.outputs if output["parent"] == first)
        return [view["model_id"] for view in views if view]

    first = client.execute("%%container -d --live --name shy --mem 64M\nimport time; time.sleep(600)")
    client.read_until_idle(first)
    client.read_until_idle(client.execute("import time; time.sleep(4)"))
    assert shown() == [client.panel]
    deadline = time.monotonic() + WAIT_SECONDS
    while len(set(shown())) == 1:
        assert time.monotonic() < deadline
        time.sleep(1)
        client.read_until_idle(client.execute("1"))
    assert len(set(shown())) == 2 and shown()[-1] != client.panel
    client.send(k="hello")
    while shown()[-1] != client.panel:
        assert time.monotonic() < deadline, "it was only slow, and has its panel again"
        client.read_until_idle(client.execute("time.sleep(0.1)"))
    client.read_until_idle(client.execute("%container kill shy"))


def test_a_page_that_comes_after_the_end_gets_what_stays(client: Client) -> None:
    said: list[dict[str, Any]] = []
    client.read_until_idle(client.execute("%%container --live --mem 48M --no-raise-error\nimport time; time.sleep(0.3)\ndata = bytearray(100_000_000)"))
    assert "out of memory" in client.figure()["metadata"]["image/png"]["alt"]
    client.send(k="kill")  # a click after the end
    client.send(k="hello")
    client.read_until_idle(client.execute("1"), said.append)
    (end,) = (message for message in said if message["k"] == "end")
    figure, caption, card = end["outputs"]
    assert figure == {key: client.figure()[key] for key in ("data", "metadata")} and end["id"] == client.panel
    assert caption["data"]["text/plain"] == figure["data"]["text/plain"] and "Out of memory" in card["data"]["text/plain"]
    last = client.panel
    client.read_until_idle(client.execute("import ipywidgets\nbefore = set(ipywidgets.Widget.widgets)" if False else "from nbcontainer.notebook.panel import LEFT_OPEN, _LEFT_OPEN"))
    client.read_until_idle(client.execute("for _ in range(LEFT_OPEN + 1): get_ipython().run_cell_magic('container', '--live --no-raise-error', 'import time; time.sleep(0.1)')"))
    counted = client.execute(f"print(len(_LEFT_OPEN) == LEFT_OPEN, any(w.model_id == '{last}' for w in _LEFT_OPEN))")
    client.read_until_idle(counted)
    assert client.printed(counted) == "True False\n", "of all runs, the last few"


def test_a_background_container_that_is_out_of_memory_has_its_card_there(client: Client) -> None:
    first = client.execute("%%container -d --live --mem 48M\nimport time; time.sleep(0.5)\ndata = bytearray(100_000_000)")
    client.read_until_idle(first)
    deadline = time.monotonic() + WAIT_SECONDS
    while not (cards := [output for output in client.outputs if "Out of memory" in output.get("data", {}).get("text/plain", "")]):
        assert time.monotonic() < deadline
        client.read_until_idle(client.execute("import time; time.sleep(0.1)"))
    assert [card["parent"] for card in cards] == [first] and client.figure()["parent"] == first


def test_a_background_container_that_cannot_start_leaves_no_view(client: Client) -> None:
    client.read_until_idle(client.execute("%%container -d --live nosuchprogram\n"))
    assert not client.panel and any(output["type"] == "error" or "nosuchprogram" in output.get("text", "") for output in client.outputs)
