"""Runs a Python cell in the container: IPython's shell, built and warmed in the zygote, with hooks that write frames.

The shell object is made once per kernel and inherited by every container through fork, so that a cell starts in the
time of a fork, not of an import.
"""

from __future__ import annotations

import ast
import atexit
import base64
import builtins
import faulthandler
import io
import json
import re
import sys
import threading
import traceback
import warnings
from types import CodeType, TracebackType
from typing import Any

from IPython.core import interactiveshell
from IPython.core.autocall import IPyAutocall
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from nbcontainer.data import small
from nbcontainer.runtime import bars, questions, transfer
from nbcontainer.runtime.channel import CHANNEL, flush
from nbcontainer.runtime.protocol import (
    LINE_FD,
    LINE_SIGNAL,
    MAX_MESSAGE_CHARACTERS,
    MAX_TRACEBACK_CHARACTERS,
    Go,
    cut,
    is_json,
)

MAX_DISPLAY_BYTES = 32 << 20
FIGURE = "matplotlib.figure", "Figure"


def _send_display(kind: str, data: dict[str, Any], metadata: dict[str, Any] | None, display_id: str | None, value: str = "") -> None:
    message = {"t": "display", "kind": kind, "id": display_id}
    size, name = max(((len(value), name) for name, value in data.items() if isinstance(value, str | bytes)), default=(0, ""))
    if size > MAX_DISPLAY_BYTES:  # before it is encoded, which takes as much memory again
        limit = MAX_DISPLAY_BYTES >> 20
        data = {"text/plain": f"[{name} of {size >> 20} MiB is not shown: a display has at most {limit} MiB; write it to a file in a volume (-v)]"}
    try:
        parts = {f"data {name}": _portable(name, value) for name, value in data.items()}
        parts["metadata"] = json.dumps(metadata or {})
        parts.update({"value": value} if value else {})
    except (TypeError, ValueError) as error:
        parts = {"data text/plain": f"[not shown: {error}]"}
    CHANNEL.send(message, parts)


def _portable(name: str, value: Any) -> str:
    """A value of a MIME bundle as text: bytes (PNG) in base64, as Jupyter messages carry them, JSON types as JSON."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value if isinstance(value, str) and not is_json(name) else json.dumps(value)


class FramePublisher(DisplayPublisher):
    """``display()``, ``update_display()`` and ``clear_output()`` as frames."""

    def publish(  # type: ignore[override]
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        *,
        transient: dict[str, Any] | None = None,
        update: bool = False,
        **unused: Any,
    ) -> None:
        kind = "update" if update else "display"
        _send_display(kind, data, metadata, (transient or {}).get("display_id"))

    def clear_output(self, wait: bool = False) -> None:
        _send_display("clear", {}, {"wait": wait}, None)


class FrameDisplayHook(DisplayHook):
    """The value of the last expression as a frame."""

    _bundle: tuple[dict[str, Any], dict[str, Any]] | None = None
    _value: Any = None

    cell = ""

    @property
    def prompt_count(self) -> int:
        """Of this cell. While a cell runs, the shell's count is its own in some versions of IPython, and the next one's in others."""
        shell: Any = self.shell
        return int(shell.execution_count)

    def quiet(self) -> bool:
        """A semicolon at the end hides the value; IPython's own looks into the history, which is off here."""
        expression: Any = self.semicolon_at_end_of_expression
        return bool(expression(self.cell))

    def write_output_prompt(self) -> None:
        pass

    def write_format_data(self, format_dict: dict[str, Any], md_dict: dict[str, Any] | None = None) -> None:
        self._bundle = (format_dict, md_dict or {})

    def update_user_ns(self, result: Any) -> None:
        self._value = result
        update: Any = super().update_user_ns
        update(result)

    def finish_displayhook(self) -> None:
        value, self._value = self._value, None
        if self._bundle is not None:
            data, metadata = self._bundle
            self._bundle = None
            _send_display("result", data, metadata, None, small.encode(value))


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # an exception of the cell's own class may do anything
        return "<its text cannot be had>"


_FRAMES_OF_OURS = (__file__, interactiveshell.__file__)
_OUR_DIRECTORY = __file__.removesuffix("cell.py")


def _end_before_ours(frames: TracebackType | None) -> None:
    """A traceback ends where the cell called what is ours, such as ``input``."""
    while frames is not None and frames.tb_next is not None:
        if frames.tb_next.tb_frame.f_code.co_filename.startswith(_OUR_DIRECTORY):
            frames.tb_next = None
        frames = frames.tb_next


class CellShell(InteractiveShell):
    """IPython without a terminal and without history."""

    def _showtraceback(self, etype: type[BaseException], evalue: BaseException, stb: list[str] | str) -> None:
        if issubclass(etype, SystemExit):
            return
        lines = cut(stb if isinstance(stb, str) else "\n".join(stb), MAX_TRACEBACK_CHARACTERS)
        try:
            name, text = (cut(said, MAX_MESSAGE_CHARACTERS) for said in (etype.__name__, _text_of(evalue)))
            CHANNEL.send({"t": "error"}, {"ename": name, "evalue": text, "traceback": lines})
        except OSError:
            print(lines, file=sys.stderr)  # the cell closed the channel; its error must not get lost with it

    def showtraceback(self, exc_tuple: Any = None, *arguments: Any, **options: Any) -> None:
        """Groups too come as an error of the cell; IPython's own way prints them, with the frames that ran the cell."""
        kind, error, frames = exc_tuple or sys.exc_info()
        _end_before_ours(frames)
        if isinstance(error, BaseExceptionGroup):
            while frames is not None and frames.tb_frame.f_code.co_filename in _FRAMES_OF_OURS:
                frames = frames.tb_next
            self._showtraceback(type(error), error, "".join(traceback.format_exception(kind, error, frames)).rstrip())
            return
        shown: Any = super().showtraceback
        shown(exc_tuple, *arguments, **options)

    def ask_exit(self) -> None:
        raise SystemExit(0)

    def init_history(self) -> None:
        self.history_manager = None
        initialise: Any = super().init_history
        initialise()

    def enable_gui(self, gui: str | None = None) -> None:
        pass


def build_shell(ipython_directory: str) -> CellShell:
    """The warm shell of the zygote; a first ``run_cell`` has happened, so that later ones are fast."""
    config = Config()
    config.HistoryManager.enabled = False
    config.HistoryManager.hist_file = ":memory:"
    # IPython's classes are partly untyped, and which part differs between its versions.
    untyped: Any = CellShell
    shell: CellShell = untyped(
        config=config, ipython_dir=ipython_directory, display_pub_class=FramePublisher, displayhook_class=FrameDisplayHook
    )
    untyped._instance = shell
    singleton: Any = InteractiveShell
    singleton._instance = shell
    warnings.filterwarnings("ignore", message="To exit: use")
    questions.install()
    bars.install()
    untyped_shell: Any = shell
    untyped_shell.display_formatter.formatters["image/png"].for_type_by_name(*FIGURE, _figure_png)
    untyped_shell.run_cell("0", store_history=False)
    _warm_traceback(shell)
    warm(shell)
    # Inherited by every container. In the zygote, which nobody asks, the descriptor is something else.
    faulthandler.register(LINE_SIGNAL, file=LINE_FD, all_threads=False)
    return shell


def _figure_png(figure: Any) -> bytes:
    """Of a Figure that was made without pyplot, which would tell IPython itself."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    return buffer.getvalue()


def warm(shell: CellShell) -> None:
    """Run a cell that leaves no trace.

    In the zygote it fills caches. In a box made in advance it makes the process its own copy of the memory pages that
    the user's cell will write to: about 600 page faults, which that cell then does not have to wait for.
    """
    _run_cell(shell, "print(end='')")
    shell.user_ns["_oh"].clear()
    for name in ("_", "__", "___"):
        shell.user_ns[name] = shell.user_ns_hidden[name] = ""
        setattr(shell.displayhook, name, "")
    shell.user_ns.pop(f"_{shell.displayhook.prompt_count}", None)


_FIRST_WORD = re.compile(r"[^\W\d]\w*")


def _is_ipython_s(shell: Any, code: str) -> bool:
    """One line that would be valid Python, and may mean something else: ``exit``, ``pwd``, ``ls -l``."""
    text = code.strip()
    found = None if "\n" in text else _FIRST_WORD.match(text)
    if found is None:
        return False
    value = shell.user_ns.get(found[0], getattr(builtins, found[0], None))
    return isinstance(value, IPyAutocall) or (value is None and shell.find_line_magic(found[0]) is not None)


def _warm_traceback(shell: Any) -> None:
    """Show an error to nobody: what that takes to import is 50 ms of each cell that fails, and a second in a virtual machine."""
    _run_cell(shell, "0/0")
    shell.InteractiveTB.tb = None
    for name in ("last_type", "last_value", "last_traceback", "last_exc"):
        vars(sys).pop(name, None)


def _run_cell(shell: Any, code: str) -> BaseException | None:
    """What ended the cell; it has been shown.

    Plain Python without top-level await takes a short way that gives what ``run_cell`` gives: IPython's transformations
    change only what is not valid Python, but for single lines that begin with a magic's name. It touches 300 memory pages fewer, each a page fault in a forked process.
    """
    name = shell.compile.cache(code, shell.execution_count, raw_code=code)
    codes = None if _is_ipython_s(shell, code) else _compiled(code, name)
    if codes is not None:
        return _execute(shell, codes)
    result = shell.run_cell(code, store_history=False)
    error: BaseException | None = result.error_before_exec or result.error_in_exec
    return error


def _compiled(code: str, name: str) -> list[CodeType] | None:
    """The statements, and an expression at the end; None where it is no plain Python."""
    try:
        tree = ast.parse(code, name)
        body, last = tree.body, None
        if body and isinstance(body[-1], ast.Expr):
            last = compile(ast.Interactive([body.pop()]), name, "single", dont_inherit=True)
        first = compile(tree, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    return [code for code in (first, last) if code is not None]


def _execute(shell: Any, codes: list[CodeType]) -> BaseException | None:
    sys.displayhook = shell.displayhook
    shell.events.trigger("pre_execute")
    try:
        for code in codes:
            exec(code, shell.user_global_ns, shell.user_ns)
    except SystemExit as error:
        return error
    except BaseException as error:
        frames = error.__traceback__
        # Without this function's own frame.
        shell.showtraceback((type(error), error, frames and frames.tb_next), running_compiled_code=True)
        return error
    finally:
        shell.events.trigger("post_execute")
    return None


def run_python(shell: CellShell, go: Go, channel_fd: int) -> int:
    """Run one cell as a program would run: its exit code, after threads and atexit functions are done.

    In a session there may be another one: its threads go on.
    """
    if CHANNEL.fd != channel_fd:
        CHANNEL.fd = channel_fd
        atexit._clear()
        sys.path.insert(0, "")
        sys.argv = [""]
    code = run_code(shell, go)
    if not go.session:
        return finish(code)
    flush()
    return code


def run_code(shell: Any, go: Go) -> int:
    """One cell, with the variables that go in and come out: its exit code."""
    shell.displayhook.cell = go.code
    shell.execution_count = go.cell_number or shell.execution_count
    if go.has_input and not transfer.take_in(shell, go):
        return 1
    code = _exit_code(_run_cell(shell, go.code))
    return transfer.give_out(shell, go.outputs, code) if go.outputs else code


def _exit_code(error: BaseException | None) -> int:
    if error is None:
        return 0
    if isinstance(error, SystemExit):
        if error.code is None:
            return 0
        if isinstance(error.code, int):
            return error.code & 0xFF
        print(error.code, file=sys.stderr)
    return 1


def finish(code: int) -> int:
    """What Python does before it exits: wait for threads, call atexit functions, flush."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
        code = code or 1
    flush()
    return code
