"""The ``nbcontainer`` command: run, doctor, ps, prune, demo, lab, vm, kernel."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from nbcontainer import __version__
from nbcontainer.errors import NbcontainerError, SpecError
from nbcontainer.options import command_help_text, parse_exec, parse_options, verb_help_text

if TYPE_CHECKING:
    from nbcontainer.events import Event
    from nbcontainer.result import Result

EXIT_USAGE = 2
EXIT_HOST = 3
EXIT_TERMINATED = 128 + signal.SIGTERM
EXIT_CODES = {"oom": 137, "killed": 137, "timeout": 124, "interrupted": 130, "output-limit": 122}
COURSE = "nbcontainer-course"
USAGE = """usage: nbcontainer COMMAND

  run [OPTIONS] [--] PROGRAM [ARG...]   run a program in a container (run --help lists the options)
  doctor [--json]                       what this host can do, and what to type where it cannot
  ps [-aq] [--filter K=V] [--format F]   containers, as docker ps lists them
  stats [--no-stream] [NAME...]         what they use
  logs [-f] NAME, top, port, inspect, diff, attach, wait, pause, resume, update, stop, kill, rm
                                        look at containers of your notebooks, change and end them (each has --help)
  exec [-d] [-i] [OPTIONS] NAME PROGRAM run a program in a container of a notebook's
  volume create|ls|inspect|rm|prune     named volumes
  prune                                 remove what killed kernels left behind
  demo [--output FILE.png]              a cell that runs out of memory at 128 MiB, with its chart
  lab [ARG...]                          open JupyterLab on the course
  vm setup [--kernel PATH] [--force]    make the virtual machine of --engine vm ready
  kernel install --name NAME [OPTIONS]  a Jupyter kernel that runs in a container (kernel --help; kernel ls, kernel rm NAME)
  --version, --help"""

DEMO_CELL = """\
import os, socket, time
print("I am pid", os.getpid(), "on", socket.gethostname(), flush=True)
data = []
while True:
    data.append(bytearray(16 << 20))
    print("holding", 16 * len(data), "MiB", flush=True)
    time.sleep(0.06)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    command, rest = (words[0], words[1:]) if words else ("--help", [])
    if command in ("--help", "-h", "help"):
        print(USAGE)
        return 0
    if command == "--version":
        print(f"nbcontainer {__version__}")
        return 0
    try:
        if command not in _COMMANDS:
            raise SpecError(f"{command}: there is no such command; there are {', '.join(_COMMANDS)}")
        if command not in ("run", "exec", "kernel", *_VERBS) and rest in (["--help"], ["-h"]):
            print(USAGE)
            return 0
        return _COMMANDS[command](rest)
    except SpecError as error:
        print(f"nbcontainer: {error}", file=sys.stderr)
        return EXIT_USAGE
    except NbcontainerError as error:
        print(f"nbcontainer: {error}", file=sys.stderr)
        return EXIT_HOST
    except KeyboardInterrupt:
        return EXIT_CODES["interrupted"]
    except BrokenPipeError:
        # The reader of our output has had enough; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141


class _Termination:
    """SIGTERM is a SIGINT with another exit code: the container ends, and everything of it goes. Afterwards nobody waits for
    it any more, and it is ignored."""

    def __init__(self) -> None:
        self.came = False

    def __enter__(self) -> _Termination:
        signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, *unused: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if kind is KeyboardInterrupt and self.came:
            raise SystemExit(EXIT_TERMINATED)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        if not callable(signal.getsignal(signal.SIGINT)):  # ignored, as in what a shell's script has put into the background
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)


def _print_event(event: Event) -> None:
    from nbcontainer.events import Output

    if isinstance(event, Output):
        _write(event.stream, event.text)


def _write(stream: str, text: str) -> None:
    file = sys.stdout if stream == "stdout" else sys.stderr
    file.write(text)
    file.flush()


def _run(words: list[str]) -> int:
    parsed = parse_options(words, command=True)
    if parsed.front.get("help"):
        print(command_help_text())
        return 0
    for key in ("input", "output"):
        if key in parsed.front:
            raise SpecError(f"--{key}: variables are a notebook's; use files and -v")
    for key in ("detach", "keep", "exec"):
        if key in parsed.front:
            raise SpecError(f"--{key}: is for notebooks, whose kernel keeps the container; a command's ends with it (use the shell's &)")
    for key in ("result", "out", "err", "trust_output"):
        if key in parsed.front:
            raise SpecError(f"--{key.replace('_', '-')}: is for notebooks; redirect the output instead")
    if not parsed.program:
        raise SpecError("run: a PROGRAM is missing, such as: nbcontainer run --mem 64M -- ls /")
    from nbcontainer import container
    from nbcontainer.engine import local

    options = dict(parsed.container)
    engine = options.pop("engine", None)
    if parsed.front.get("explain") or parsed.front.get("dry_run"):
        print(container.explain(program=parsed.program, engine=engine, **options), flush=True)
    if parsed.front.get("dry_run"):
        return 0
    try:
        with _Termination() as termination:
            # As with docker run: without -i nothing is read, as whoever holds the other end may never close it.
            body = sys.stdin.buffer.read() if parsed.front.get("interactive") and sys.stdin is not None else b""
            result = container.run(body, program=parsed.program, on_event=_print_event, engine=engine, **options)
    finally:
        local.shutdown()
    if termination.came:
        return EXIT_TERMINATED
    if not parsed.front.get("quiet") and (result.outcome != "exited" or result.note):
        print(f"nbcontainer: {result.describe()}", file=sys.stderr)
    return exit_code(result)


def _exec(words: list[str]) -> int:
    from nbcontainer import elsewhere
    from nbcontainer.containers import CONTAINERS

    if words[:1] in (["--help"], ["-h"]):
        print(verb_help_text("exec").replace("usage: %container", "usage: nbcontainer", 1))
        return 0
    parsed = parse_exec(words, command=True)
    name = parsed.front.pop("exec")
    for key in parsed.front.keys() - {"interactive", "detach", "quiet"}:
        raise SpecError(f"--{key.replace('_', '-')}: is for notebooks")
    place = elsewhere.place_of(name)
    if place is None:
        CONTAINERS.find(name, "exec")  # says why not
    assert place is not None
    body = sys.stdin.read() if parsed.front.get("interactive") and sys.stdin is not None else ""
    if "detach" in parsed.front:
        elsewhere.execute_detached(place, name, parsed.program, body, **parsed.container)
        return 0
    result = elsewhere.execute(place, name, parsed.program, body, on_event=_print_event, **parsed.container)
    if not parsed.front.get("quiet") and (result.outcome != "exited" or result.note):
        print(f"nbcontainer: {result.describe()}", file=sys.stderr)
    return exit_code(result)


def exit_code(result: Result) -> int:
    """As shells do: the program's own code, 128 plus a signal's number, 137 out of memory, 124 timeout."""
    if result.outcome in EXIT_CODES:
        return EXIT_CODES[result.outcome]
    return 128 + result.signal if result.signal else result.exit_code or 0


def _no_arguments(command: str, words: list[str]) -> None:
    if words:
        raise SpecError(f"{command}: {words[0]!r} is not understood; it takes no arguments")


def _doctor(words: list[str]) -> int:
    from nbcontainer.host import examine_host

    if words not in ([], ["--json"]):
        raise SpecError(f"doctor: {' '.join(words)!r} is not understood; there is --json")
    report = examine_host()
    print(report.to_json() if words else report.as_text())
    return 0 if report.ready else 1


def _verb(name: str, words: list[str]) -> int:
    """A verb of the notebook's that is not about one kernel's containers."""
    from nbcontainer import verbs

    answer = verbs.answer(name, words)
    if name == "stats" and sys.stdout.isatty() and not any(word.startswith("-") for word in words):
        while not isinstance(answer, str | Iterator):  # until Ctrl-C
            print(f"\x1b[H\x1b[J{answer}", flush=True)
            time.sleep(1)
            answer = verbs.answer(name, words)
    if isinstance(answer, Iterator):
        for record in answer:
            _write(record.stream, record.text)
        return 0
    text = str(answer)
    if text:
        print(text.replace("%container ", "nbcontainer ") if "--help" in words else text)
    return 0


def _prune(words: list[str]) -> int:
    from nbcontainer.state import prune

    _no_arguments("prune", words)
    removed = prune()
    for what in removed:
        print(f"removed {what}")
    print(f"{len(removed)} removed")
    return 0


def _demo(words: list[str]) -> int:
    from nbcontainer.container import run
    from nbcontainer.host import examine_host

    if words and (words[0] != "--output" or len(words) != 2):
        raise SpecError(f"demo: {' '.join(words)!r} is not understood; there is --output FILE.png")
    path = Path(words[1] if words else "nbcontainer-demo.png")
    if path.suffix.lower() != ".png":
        raise SpecError(f"--output: {str(path)!r} is not a FILE.png")
    if not path.parent.is_dir():
        raise SpecError(f"--output: {path.parent} is not a directory")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise SpecError(f"--output: {path} cannot be written")
    print("What this host can do:\n")
    print(examine_host().as_text())
    print("\nA cell in a container, with --mem 128M --cpus 1:\n")
    print("    " + DEMO_CELL.replace("\n", "\n    ").rstrip())
    print(flush=True)
    result = run(DEMO_CELL, mem="128M", cpus=1, workspace="none", on_event=_print_event)
    print(f"\n{result.describe()}")
    result.plot().savefig(path, dpi=120)
    print(f"The chart is in {path}.")
    return 0 if result.outcome == "oom" else 1


def _lab(words: list[str]) -> int:
    if importlib.util.find_spec("jupyterlab") is None:
        raise SpecError("lab: JupyterLab is not installed here; type: pip install 'nbcontainer[lab]'")
    package = Path(__file__).resolve().parent
    source = next((path for path in (package / "_course", package.parent / "notebooks") if path.is_dir()), None)
    if source is None:
        raise SpecError("lab: the course is not in this installation; reinstall nbcontainer")
    target = Path(COURSE)
    if target.exists():
        print(f"./{target} is there already: opening it as it is")
    else:
        try:
            shutil.copytree(source, target)
        except OSError as error:
            raise SpecError(f"lab: the course cannot be copied to ./{target}: {error.strerror or error}") from None
    if os.geteuid() == 0:
        words = ["--allow-root", *words]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", *words, str(target)])


def _vm(words: list[str]) -> int:
    from nbcontainer.engine.vm.setup import set_up

    if not words or words[0] != "setup":
        raise SpecError("vm: there is setup, such as: nbcontainer vm setup")
    kernel, force, rest = None, False, words[1:]
    while rest:
        word = rest.pop(0)
        if word == "--force":
            force = True
        elif word == "--kernel" and rest:
            kernel = rest.pop(0)
        else:
            raise SpecError(f"vm setup: {word!r} is not understood; there are --kernel PATH and --force")
    set_up(kernel, force, lambda text: print(text, flush=True))
    return 0


def _kernel(words: list[str]) -> int:
    from nbcontainer.jupyter.kernelspec import main

    return main(words)


_VERBS = ("ps", "stats", "volume", *"top port logs attach inspect diff pause resume update stop kill wait rm".split())
_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": _run,
    "doctor": _doctor,
    "exec": _exec,
    **{verb: partial(_verb, verb) for verb in _VERBS},
    "prune": _prune,
    "demo": _demo,
    "lab": _lab,
    "vm": _vm,
    "kernel": _kernel,
}

if __name__ == "__main__":
    sys.exit(main())
