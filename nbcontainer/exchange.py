"""What a caller and a cell exchange besides output: variables in and out, and lines that the cell asks for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nbcontainer.data import inward
from nbcontainer.data.inward import Inward
from nbcontainer.engine import Run
from nbcontainer.engine.transfer import Transfer
from nbcontainer.errors import HostError, SpecError
from nbcontainer.events import InputRequest
from nbcontainer.spec import ContainerSpec
from nbcontainer.units import format_size

END_OF_INPUT = "EOF"
NOBODY = "nobody can type here: nbcontainer.run() needs on_input for that"


def prepare(spec: ContainerSpec, given: Mapping[str, Any] | Inward | None, output: str | Sequence[str]) -> tuple[ContainerSpec, Transfer | None]:
    """The spec, and the transfer to start with it; None where there is nothing to transfer. Raises SpecError, HostError."""
    outputs = inward.split_names([output] if isinstance(output, str) else output, "-o") if output else ()
    if spec.program:
        return _for_program(spec, given, outputs), None
    if not given and not outputs:
        return spec, None
    transfer = Transfer(outputs, lenient=isinstance(given, Inward) and given.lenient)
    if given:
        ready = given if isinstance(given, Inward) else inward.gather(_checked(given))
        try:
            transfer.put(ready.blob)
        except OSError as error:
            transfer.close()
            remedy = "end some programs, or name only the variables that the cell needs"
            raise HostError(f"-i: there is no memory for {format_size(ready.blob.size_bytes)} of variables: {error.strerror}", remedy) from None
    return spec, transfer


def _checked(given: Any) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise SpecError('input: is not a dict of names and values, such as {"x": 1}')
    inward.split_names(given, "input")
    return given


def _for_program(spec: ContainerSpec, given: Mapping[str, Any] | Inward | None, outputs: Sequence[str]) -> ContainerSpec:
    if outputs:
        raise SpecError(f"-o {outputs[0]}: comes out of Python cells only; what a program writes is kept by --out NAME")
    if not given:
        return spec
    if isinstance(given, Inward):
        raise SpecError("-i: variables for a program go into its environment")
    environment = inward.as_environment(_checked(given))
    return spec.replace(environment=(*environment.items(), *spec.environment))


def closing(transfer: Transfer | None) -> contextlib.AbstractContextManager[object]:
    return contextlib.nullcontext() if transfer is None else contextlib.closing(transfer)


def read_back(transfer: Transfer | None) -> tuple[dict[str, Any], dict[str, str]]:
    """(values, missing) of a cell that has ended."""
    if transfer is None or not transfer.outputs:
        return {}, {}
    from nbcontainer.data.outward import read_values

    return read_values(transfer.take(), transfer.outputs)


def answer(run: Run, request: InputRequest, on_input: Callable[[InputRequest], str | None] | None) -> None:
    """Ask the caller for a line, and pass it on. None is no answer: the cell is about to end."""
    if on_input is None:
        run.answer_input(None, NOBODY)
        return
    try:
        line = on_input(request)
    except EOFError:
        run.answer_input(None, END_OF_INPUT)
    except NotImplementedError as error:
        run.answer_input(None, str(error))
    else:
        if line is not None:
            run.answer_input(line)
