"""``%%container`` and ``%container``: a line becomes options, events become output, an outcome becomes an error."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import replace
from typing import Any

from IPython.core.error import UsageError
from IPython.core.magic import line_cell_magic, magics_class, no_var_expand

from nbcontainer.errors import SpecError
from nbcontainer.events import Event
from nbcontainer.languages import program_of
from nbcontainer.notebook import explain
from nbcontainer.notebook.completion import VERBS
from nbcontainer.notebook.configured import ConfiguredMagics, with_configuration
from nbcontainer.notebook.failure import ContainerFailed, render
from nbcontainer.notebook.screen import Screen, pace_of
from nbcontainer.notebook.variables import Reader, bring_in
from nbcontainer.options import ParsedLine, help_text, parse_options

_VARIABLE = re.compile(r"\{([A-Za-z_]\w*)\}")


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
            words = [self._expand(word) for word in shlex.split(line)]
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

    def _expand(self, word: str) -> str:
        """``{name}`` becomes the variable's value, also one with spaces in it; ``$`` is left to the shells it is for."""
        shell: Any = self.shell
        return _VARIABLE.sub(lambda match: str(shell.user_ns.get(match[1], match[0])), word)

    def _verb(self, words: list[str]) -> None:
        if not words or words[0] in ("--help", "-h"):
            print(f"usage: %container VERB, with VERB one of {', '.join(VERBS)}; %%container --help is about cells")
            return
        verb, rest = words[0], words[1:]
        if verb == "run":
            parsed = parse_options(rest)
            if not parsed.program and not parsed.front.get("help"):
                raise SpecError("run: a PROGRAM is missing, such as: %container run --mem 64M ls /")
            self._run(parsed, "")
        elif verb not in VERBS:
            raise SpecError(f"{verb}: there is no such verb yet; there are {', '.join(VERBS)}")
        elif verb == "network":
            from nbcontainer.notebook import networks

            networks.run(rest)
        elif verb == "stats":
            self._stats(rest)
        elif rest:
            raise SpecError(f"{verb}: takes no arguments")
        else:
            getattr(self, f"_{verb}")()

    def _doctor(self) -> None:
        from nbcontainer.host import examine_host

        _display_module().display(examine_host())

    def _ps(self) -> None:
        from nbcontainer.state import format_containers, list_containers

        print(format_containers(list_containers()))

    def _stats(self, words: list[str]) -> None:
        """A live table, as ``docker stats``; in a terminal, or with ``--no-stream``, one that is printed once."""
        from nbcontainer.notebook.live import is_kernel

        if words not in ([], ["--no-stream"]):
            raise SpecError(f"stats: {' '.join(words)!r} is not --no-stream")
        if words or not is_kernel(self.shell):
            from nbcontainer.notebook.crowd import look_twice

            print(look_twice())
            return
        from nbcontainer.notebook.dashboard import dashboard

        _display_module().display(dashboard())

    def _prune(self) -> None:
        from nbcontainer.state import prune

        removed = prune()
        for what in removed:
            print(f"removed {what}")
        print(f"{len(removed)} removed")

    def _run(self, parsed: ParsedLine, cell: str) -> None:
        from nbcontainer import container

        parsed = with_configuration(parsed, self)
        front = parsed.front
        if front.get("help"):
            print(help_text())
            return
        options = dict(parsed.container)
        engine = options.pop("engine", None)
        quiet = bool(front.get("quiet"))
        if front.get("explain") or front.get("dry_run"):
            explain.show(self.shell, container.explain(program=parsed.program, engine=engine, **options), opened="dry_run" in front)
        if front.get("dry_run"):
            return
        hidden = frozenset(name for name, option in (("stdout", "out"), ("stderr", "err")) if option in front)
        screen = Screen(hidden, pace_of(self.shell), trusted="trust_output" in front)
        reader = Reader(self.shell)
        options |= {"engine": engine, "on_input": reader, "output": front.get("output", ())}
        options["input"] = bring_in(front.get("input", []), self.shell, cell, program=bool(parsed.program))
        if quiet:
            result = container.run(cell, program=parsed.program, on_event=screen.show, on_start=reader.on_start, **options)
        else:
            result = self._run_live(parsed, cell, screen, reader, options)
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

    def _run_live(self, parsed: ParsedLine, cell: str, screen: Screen, reader: Reader, options: dict[str, Any]) -> Any:
        """Run with a live view where it takes long enough for one; then notes, and the figure and card that stay."""
        from nbcontainer import container
        from nbcontainer.notebook.live import SHOW_AFTER_SECONDS, Live

        live = Live(self.shell, live_choice(parsed.front))

        def on_event(event: Event) -> None:
            live.make_room(event)
            screen.show(event)
            live.fold(event)

        def on_start(run: Any) -> None:
            reader.on_start(run)
            live.on_start(run)

        result = None
        try:
            result = container.run(cell, program=parsed.program, on_event=on_event, on_start=on_start, **options)
        finally:
            long_enough = result is not None and result.usage.wall_seconds > SHOW_AFTER_SECONDS
            live.close(result, long_enough or (result is not None and result.outcome == "oom"))
        self._explain_memory(result, cell)
        for note in (*result.spec.notes, result.note):
            if note and (note is not result.note or result.ok):
                print(f"\x1b[2m{note}\x1b[0m", file=sys.stderr)
        return result

    def _explain_memory(self, result: Any, cell: str) -> None:
        from nbcontainer.notebook.card import PEAKS, card
        from nbcontainer.notebook.live import is_kernel, show

        program = result.spec.program
        if result.outcome == "oom" and is_kernel(self.shell):
            show(card(result, PEAKS.of(cell, program)))
        PEAKS.note(cell, program, result)


def live_choice(front: dict[str, Any]) -> bool | None:
    """``--live``, ``--no-live`` or neither. Raises SpecError."""
    if front.get("live") and front.get("no_live"):
        raise SpecError("--live: contradicts --no-live")
    return True if front.get("live") else False if front.get("no_live") else None


_documented: Any = ContainerMagics.container
_documented.__doc__ = f"{_documented.__doc__.rstrip()}\n\n{help_text()}\n"
