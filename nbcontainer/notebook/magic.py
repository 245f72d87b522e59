"""``%%container`` and ``%container``: a line becomes options, events become output, an outcome becomes an error."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from IPython.core.error import UsageError
from IPython.core.magic import line_cell_magic, magics_class, no_var_expand

from nbcontainer.errors import SpecError
from nbcontainer.events import Event
from nbcontainer.languages import program_of
from nbcontainer.notebook import explain
from nbcontainer.notebook.configured import ConfiguredMagics, with_configuration
from nbcontainer.notebook.failure import ContainerFailed, render
from nbcontainer.notebook.screen import Screen
from nbcontainer.notebook.variables import Reader, bring_in
from nbcontainer.options import ParsedLine, help_text, parse_exec, parse_options, verb_help_text

_VARIABLE = re.compile(r"(?<!\$)\{([A-Za-z_]\w*)\}")


def _display_module() -> Any:
    """IPython.display, whose functions are untyped."""
    import IPython.display

    return IPython.display


@magics_class
class ContainerMagics(ConfiguredMagics):  # type: ignore[misc]
    """The magics; everything heavy is imported when a cell first runs."""

    @no_var_expand
    @line_cell_magic
    def container(self, line: str, cell: str | None = None) -> None:
        """Run this cell in a container: ``%%container [OPTIONS] [PROGRAM [ARG...]]``.

        ``{name}`` in the line becomes the value of the notebook's variable; ``$name`` and ``${name}`` are left to the shell of the
        program. As a line magic, ``%container VERB`` runs, lists and ends containers.
        """
        try:
            words = self._expand_all(shlex.split(line), verb=cell is None)
        except ValueError as error:
            raise UsageError(f"{error}: {line}") from None
        try:
            if cell is None:
                self._verb(words)
            else:
                parsed = parse_options(words)
                self._run(replace(parsed, program=program_of(cell, parsed.program, bare="bare" in parsed.container)), cell)
        except SpecError as error:
            raise UsageError(str(error)) from None

    def _expand_all(self, words: list[str], *, verb: bool) -> list[str]:
        """But for the templates of a verb: the ``end`` of ``{{end}}`` is no variable."""
        templates = verb and words[:1] not in (["run"], ["start"], ["exec"])
        return [word if templates and "{{" in word else self._expand(word) for word in words]

    def _expand(self, word: str) -> str:
        """``{name}`` becomes the variable's value, also one with spaces in it; ``$`` is left to the shells it is for."""
        shell: Any = self.shell
        return _VARIABLE.sub(lambda match: str(shell.user_ns.get(match[1], match[0])), word)

    def _verb(self, words: list[str]) -> None:
        from nbcontainer import verbs

        if words[:1] == ["help"]:
            words = [*words[1:], "--help"]
        if not words or words[0] in ("--help", "-h"):
            print(verbs.help_text())
            return
        verb, rest = words[0], words[1:]
        if verb in verbs.OF_CELLS and rest and rest[0] in ("--help", "-h"):
            print(verb_help_text(verb))
        elif verb == "run":
            parsed = parse_options(rest)
            if not parsed.program and not parsed.front.get("help"):
                raise SpecError("run: a PROGRAM is missing, such as: %container run --mem 64M ls /")
            self._run(parsed, "")
        elif verb == "start":
            self._detach(starting(rest), None)
        elif verb == "exec":
            self._run(parse_exec(rest), "", verb="exec")
        else:
            from nbcontainer.notebook.verbs import act

            act(self.shell, verb, rest)

    def _run(self, parsed: ParsedLine, cell: str, verb: str = "--exec") -> None:
        from nbcontainer import container

        if "exec" not in parsed.front:
            parsed = with_configuration(parsed, self)
        front = parsed.front
        if front.get("help"):
            print(help_text())
            return
        if "detach" in front and not front.get("dry_run"):
            (self._detach if "exec" not in front else self._detach_within)(parsed, cell)
            return
        if "keep" in front:
            raise SpecError("--keep: is for containers in the background; add -d")
        if "exec" in front and ("explain" in front or "dry_run" in front):
            raise SpecError(f"--{'explain' if 'explain' in front else 'dry-run'}: shows the plan of a new container, and this one is there already")
        options = dict(parsed.container)
        engine = options.pop("engine", None)
        quiet = bool(front.get("quiet"))
        if front.get("explain") or front.get("dry_run"):
            explain.show(self.shell, container.explain(program=parsed.program, engine=engine, **options), opened="dry_run" in front)
        if front.get("dry_run"):
            return
        hidden = frozenset(name for name, option in (("stdout", "out"), ("stderr", "err")) if option in front)
        screen = Screen(self.shell, hidden, trusted="trust_output" in front)
        reader = Reader(self.shell)
        runs = partial(container.run, engine=engine) if "exec" not in front else runner_in(front["exec"], parsed.program, engine, verb)
        shell: Any = self.shell
        options |= {"on_input": reader, "output": front.get("output", ()), "cell_number": shell.displayhook.prompt_count}
        options["input"] = bring_in(front.get("input", []), self.shell, cell, program=bool(parsed.program))
        if quiet or (isinstance(runs, partial) and runs.func is run_elsewhere):
            result = runs(cell, program=parsed.program, on_event=screen.show, on_start=reader.on_start, **options)
        else:
            result = self._run_live(partial(runs, cell, program=parsed.program, **options), parsed, cell, screen, reader)
        self._keep(front, result)
        if not result.ok:
            if not front.get("no_raise_error"):
                raise ContainerFailed(result)
            print("\n".join(render(result)), file=sys.stderr)

    def _keep(self, front: dict[str, Any], result: Any) -> None:
        """Variables that were asked for, also when the cell failed."""
        shell: Any = self.shell
        if "result" in front:
            shell.user_ns[front["result"]] = result
        if "out" in front:
            shell.user_ns[front["out"]] = result.stdout
        if "err" in front:
            shell.user_ns[front["err"]] = result.stderr
        shell.user_ns.update(result.values)

    def _detach(self, parsed: ParsedLine, cell: str | None) -> None:
        """Run in the background; without ``cell`` and PROGRAM, a session."""
        from nbcontainer import container
        from nbcontainer.engine.announce import announced_to
        from nbcontainer.notebook.detached import DetachedScreen, DetachedView
        from nbcontainer.notebook.live import is_kernel
        from nbcontainer.result import describe_end

        if parsed.front.get("help"):
            print(help_text())
            return
        parsed = with_configuration(parsed, self)
        refuse_what_waits(parsed)
        session = cell is None and not parsed.program
        live = live_choice(parsed.front)
        if live and (session or not is_kernel(self.shell)):
            raise SpecError(f"--live: {'a session has no view of its own; its cells have' if session else 'in the background, only in a Jupyter notebook'}")
        if cell is not None and not cell.strip() and not parsed.program:
            raise SpecError("-d: the cell is empty; %container start NAME starts a session")
        if "explain" in parsed.front:
            explain.show(self.shell, container.explain(program=parsed.program, **parsed.container), opened=False)
        screen = DetachedScreen(self.shell, trusted="trust_output" in parsed.front)
        view = DetachedView(self.shell, screen) if live else None
        runs: list[Any] = []

        def on_event(event: Event) -> None:
            # What a session says is shown by its cells.
            if not session:
                screen.show(event)
            if view is not None:
                view.take(event)
            said = describe_end(event, quiet=bool(parsed.front.get("quiet")))
            if said:
                screen.say(f"{started[0] if started else 'The container'}: {said}")

        started: list[str] = []
        options = {**parsed.container, "keep": bool(parsed.front.get("keep"))}
        code = cell if cell is not None else "" if parsed.program else None
        shell: Any = self.shell
        said: list[str] = []
        with announced_to(partial(tell, said)):
            running = container.start(code, program=parsed.program, on_event=on_event, on_start=runs.append, cell_number=shell.displayhook.prompt_count, **options)
        started.append(running.name)
        print(running.name, flush=True)  # above the view, which does not go through standard output
        for note in running.spec.notes:
            if note not in said:
                tell(said, note)
        if view is not None:
            view.begin(runs[0], running, lambda result: self._explain_memory(result, cell or ""))

    def _detach_within(self, parsed: ParsedLine, cell: str) -> None:
        """``exec -d``: a program in a container that is there."""
        from nbcontainer.containers import CONTAINERS
        from nbcontainer.notebook.detached import DetachedScreen
        from nbcontainer.result import describe_end

        refuse_what_waits(parsed, "live")
        name = parsed.front["exec"]
        if not parsed.program:
            raise SpecError(
                f"-d: in a container that is there, only programs run in the background; leave -d out, or write %%container -d --exec {name} python3 - "
                "for this cell as a process of its own, without a session's variables"
            )
        place = None if CONTAINERS.knows(name) else place_elsewhere(name, parsed.program)
        if place is not None:
            from nbcontainer import elsewhere

            elsewhere.execute_detached(place, name, parsed.program, cell, **parsed.container)
            return
        there = CONTAINERS.find(name, "exec")
        screen = DetachedScreen(self.shell, trusted="trust_output" in parsed.front)

        def on_event(event: Event) -> None:
            screen.show(event)
            said = describe_end(event, quiet=bool(parsed.front.get("quiet")))
            if said:
                screen.say(f"{parsed.program[0]} in {there.name}: {said}")

        there.exec_detached(parsed.program, cell, on_event=on_event, **parsed.container)

    def _run_live(self, run_it: Callable[..., Any], parsed: ParsedLine, cell: str, screen: Screen, reader: Reader) -> Any:
        """Run with a live view where it takes long enough for one; then notes, and the figure and card that stay."""
        from nbcontainer.notebook.live import SHOW_AFTER_SECONDS, Live

        live = Live(self.shell, live_choice(parsed.front))

        def on_event(event: Event) -> None:
            live.make_room(event)
            screen.show(event)
            live.fold(event)

        def on_start(run: Any) -> None:
            reader.on_start(run)
            live.on_start(run)

        from nbcontainer.engine.announce import announced_to

        result, said = None, list[str]()
        try:
            with announced_to(partial(tell, said)):
                result = run_it(on_event=on_event, on_start=on_start)
        finally:
            long_enough = result is not None and result.usage.wall_seconds > SHOW_AFTER_SECONDS
            card = None if result is None else self._explain_memory(result, cell)
            live.close(result, long_enough or (result is not None and result.outcome == "oom"), card)
        for note in (*result.spec.notes, result.note):
            if note and note not in said and (note is not result.note or result.ok):
                tell(said, note)
        return result

    def _explain_memory(self, result: Any, cell: str) -> dict[str, str] | None:
        """The out-of-memory card as a MIME bundle, where there is one to show."""
        from nbcontainer.notebook.card import PEAKS, card
        from nbcontainer.notebook.live import is_kernel

        program = result.spec.program
        wanted = result.outcome == "oom" and is_kernel(self.shell)
        shown = card(result, PEAKS.of(cell, program)) if wanted else None
        PEAKS.note(cell, program, result)
        return shown


def tell(said: list[str], line: str) -> None:
    """A line below the cell, now; ``said``: all of them."""
    said.append(line)
    print(f"\x1b[2m{line}\x1b[0m", file=sys.stderr, flush=True)


def refuse_what_waits(parsed: ParsedLine, *more: str) -> None:
    """Options for cells that wait for their container. Raises SpecError."""
    for key in ("input", "output", "result", "out", "err", *more):
        if key in parsed.front:
            raise SpecError(f"--{key}: is not for what runs in the background, which this cell does not wait for")


def place_elsewhere(name: str, program: tuple[str, ...]) -> str | None:
    """Another kernel, in one of whose containers a program can be run; a cell's variables would be that kernel's."""
    from nbcontainer import elsewhere

    return elsewhere.place_of(name) if program else None


def run_elsewhere(place: str, name: str, cell: str, *, program: tuple[str, ...], input: Any, output: Any, **options: Any) -> Any:
    """A program in another kernel's container. There is no live view of it."""
    from nbcontainer import elsewhere
    from nbcontainer.data.inward import as_environment

    if output:
        raise SpecError(f"-o {output[0]}: comes out of Python cells only; what a program writes is kept by --out NAME")
    del options["on_input"], options["on_start"], options["cell_number"]
    env = [f"{key}={value}" for key, value in as_environment(input or {}).items()] + options.pop("env", [])
    return elsewhere.execute(place, name, program, cell, **({"env": env} if env else {}), **options)


def runner_in(name: str, program: tuple[str, ...], engine: str | None, verb: str) -> Callable[..., Any]:
    """What runs a cell or a program in the container of this name. Raises SpecError."""
    from nbcontainer.containers import CONTAINERS

    if engine is not None:
        raise SpecError("--engine: belongs to the container, which is there already")
    place = None if CONTAINERS.knows(name) else place_elsewhere(name, program)
    if place is not None:
        return partial(run_elsewhere, place, name)
    there = CONTAINERS.find(name, verb)

    def run_it(cell: str, *, program: tuple[str, ...], on_input: Any, output: Any, cell_number: int, **options: Any) -> Any:
        if not program:
            return there.run(cell, on_input=on_input, output=output, cell_number=cell_number, **options)
        if output:
            raise SpecError(f"-o {output[0]}: comes out of Python cells only; what a program writes is kept by --out NAME")
        return there.exec(program, cell, **options)

    return run_it


def starting(words: list[str]) -> ParsedLine:
    """``start [OPTIONS] NAME [OPTIONS] [PROGRAM [ARG...]]``, as a line of ``-d``. Raises SpecError."""
    name = words[0] if words and not words[0].startswith("-") else None
    parsed = parse_options(words if name is None else words[1:])
    container, front, program = dict(parsed.container), dict(parsed.front), parsed.program
    if name is None and program:
        name, further = program[0], parse_options(program[1:])
        container, front, program = {**container, **further.container}, {**front, **further.front}, further.program
    if name is not None and container.setdefault("name", name) != name:
        raise SpecError(f"start: is it {name} or --name {container['name']}?")
    return ParsedLine(container, front, program)


def live_choice(front: dict[str, Any]) -> bool | None:
    """``--live``, ``--no-live`` or neither. Raises SpecError."""
    if front.get("live") and front.get("no_live"):
        raise SpecError("--live: contradicts --no-live")
    return True if front.get("live") else False if front.get("no_live") else None


_documented: Any = ContainerMagics.container
_documented.__doc__ = f"{_documented.__doc__.rstrip()}\n\n{help_text()}\n"
