"""The public Python API: run code in a container, and start containers that go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from nbcontainer import exchange
from nbcontainer.conduct import OnInput, OnStart, conduct, starting
from nbcontainer.data.inward import Inward
from nbcontainer.engine import Run, open_engine
from nbcontainer.errors import SpecError
from nbcontainer.languages import program_of
from nbcontainer.result import OnEvent, Result
from nbcontainer.units import check_text
from nbcontainer.validate import make_spec
from nbcontainer.volumes import VolumesInUse

if TYPE_CHECKING:
    from nbcontainer.containers import Container


def run(
    code: str | bytes = "",
    *,
    program: str | Sequence[str] = (),
    on_event: OnEvent | None = None,
    on_start: OnStart | None = None,
    on_input: OnInput | None = None,
    input: Mapping[str, Any] | Inward | None = None,
    output: str | Sequence[str] = (),
    engine: str | None = None,
    cell_number: int = 0,
    **options: Any,
) -> Result:
    """Run ``code`` in a new container and wait for its end.

    Without ``program``, ``code`` is Python, unless it begins with ``#!`` and a program; with it (``["bash"]``), ``code`` is its standard
    input, and may be bytes. ``options`` are the
    long option names of the magic with ``_`` for ``-`` (``mem="128M"``, ``cpus=0.5``, ``volumes=["./data:/data:ro"]``).
    ``on_start`` gets the :class:`~nbcontainer.engine.Run` with the first event: its controls may be used from any thread
    while the cell runs. ``on_event`` is called with each event as it happens. ``on_input`` returns the line that the cell asks for
    by ``input()`` or ``getpass()``, or raises EOFError; without it, asking is an error in the cell. ``input`` are variables for the
    cell, by name (for a program: texts and numbers, as its environment); those that ``output`` names come back in ``Result.values``.
    ``cell_number`` stands in tracebacks: ``Cell In[5]``.
    What the code does is in the result; raises only SpecError, HostError, SetupError and InternalError.
    """
    text = read_code(code, bool(program))
    chosen = program if program else program_of(text, (), bare=bool(options.get("bare")))
    spec = starting(lambda: make_spec(options, program=chosen))
    spec = spec.replace(program=program_of(text, spec.program), cell_number=cell_number)
    spec, transfer = exchange.prepare(spec, input, output)

    def begin() -> Run:
        return open_engine(engine).start(spec, text, transfer)

    from nbcontainer.containers import CONTAINERS

    with exchange.closing(transfer), CONTAINERS.claim(spec.name), closing(VolumesInUse(mount.source for mount in spec.mounts)):
        quoted = "" if spec.program else text
        return conduct(begin, on_event, on_start, quoted, transfer=transfer, on_input=on_input, observed=CONTAINERS.of_cell)


def read_code(code: str | bytes, for_program: bool) -> str:
    """As text; bytes that are not UTF-8 become surrogates. Raises SpecError."""
    if isinstance(code, bytes) and for_program:
        return code.decode("utf-8", "surrogateescape")
    if isinstance(code, str):
        return check_text(code, "code")
    raise SpecError(f"code: {type(code).__name__} is not a str{'' if for_program else ' (bytes are for a program)'}")


def start(
    code: str | bytes | None = None,
    *,
    program: str | Sequence[str] = (),
    keep: bool = False,
    on_event: OnEvent | None = None,
    on_start: OnStart | None = None,
    engine: str | None = None,
    cell_number: int = 0,
    **options: Any,
) -> Container:
    """Start a container that runs in the background, and return when it does.

    Without ``code`` and ``program``: a Python session, whose state stays from one :meth:`Container.run` to the next. Else it runs
    ``code`` or ``program`` as :func:`run` does. ``keep``: it stays with its log and its layer when it has ended, until it is removed.
    ``on_event`` is called in another thread, ``on_start`` with the Run when its code has begun. Use it as a context manager, and it
    is removed at the end; all containers end with this process. Raises what :func:`run` raises.
    """
    from nbcontainer.containers import background, open_container

    session = code is None and not program
    text = read_code(code if code is not None else "", bool(program))
    spec = background(starting(lambda: make_spec(options, program=program)), session=session, keep=keep).replace(cell_number=cell_number)
    return open_container(lambda: starting(lambda: open_engine(engine).start(spec, text)), spec, on_event, on_start, "" if program else text)


def explain(*, program: str | Sequence[str] = (), engine: str | None = None, **options: Any) -> str:
    """The plan of a run as text, a line for each system call and cgroup write; nothing is started."""
    spec = make_spec(options, program=program)
    return "\n".join(open_engine(engine).explain(spec))
