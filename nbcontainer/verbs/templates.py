"""Docker's templates for ``--format``: of Go's text/template what lists and ``inspect`` use.

``{{.Name}}``, ``{{.State.OOMKilled}}``, ``{{json .}}``, ``{{upper .Name | json}}``, ``{{index .Config.Cmd 0}}``, ``{{range .Mounts}}...{{end}}`` with
``{{else}}`` and ``$key, $value :=``, ``if``, ``with``, and ``{{-`` and ``-}}``. Values are those of JSON. No call leads out of this module.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nbcontainer.errors import SpecError
from nbcontainer.spelling import hint

_ACTION = re.compile(r'\{\{(-\s)?((?:"(?:\\.|[^"\\])*"|`[^`]*`|(?!\}\}).)*?)(\s-)?\}\}', re.DOTALL)
_TOKEN = re.compile(r"""\s*(?:(?P<text>"(?:\\.|[^"\\])*"|`[^`]*`)|(?P<number>-?\d+)|(?P<path>(?:\$\w*|(?=\.))(?:\.\w+)+|\$\w*|\.)|(?P<word>\w+)|(?P<mark>:=|[|(),]))""")
_ESCAPES = {"\\t": "\t", "\\n": "\n"}
MOST_CHARACTERS = 10_000
_MOST_DEPTH = 20
_BLOCKS = ("range", "if", "with")


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def as_text(value: Any) -> str:
    """As Go prints it."""
    match value:
        case None:
            return "<no value>"
        case bool():
            return str(value).lower()
        case list() | tuple():
            return f"[{' '.join(map(as_text, value))}]"
        case dict():
            return f"map[{' '.join(f'{key}:{as_text(value[key])}' for key in sorted(value))}]"
        case _:
            return str(value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list | tuple | str) and type(key) is int:
            if not 0 <= key < len(value):
                raise SpecError(f"index {key} is not there: it has {len(value)}")
            value = value[key]
        else:
            raise SpecError(f"index: {as_json(value)[:60]} has nothing called {as_json(key)}")
    return value


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": as_json,
    "index": _index,
    "len": len,
    "upper": str.upper,
    "lower": str.lower,
    "title": str.title,
    "join": lambda values, by: str(by).join(map(as_text, values)),
    "split": lambda text, by: text.split(by),
    "truncate": lambda text, most: text[:most],
    "print": lambda *values: " ".join(map(as_text, values)),
    "println": lambda *values: " ".join(map(as_text, values)) + "\n",
    "eq": lambda value, *others: value in others,
    "ne": lambda value, other: value != other,
    "not": lambda value: not value,
    "and": lambda *values: next((value for value in values if not value), values[-1]),
    "or": lambda *values: next((value for value in values if value), values[-1]),
}
_PIECE = Callable[[dict[str, Any]], str]
"""Takes the variables by name (``""`` is the dot, ``$`` the whole)."""
_VALUE = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class Template:
    _pieces: tuple[_PIECE, ...]

    def render(self, value: Any) -> str:
        """Raises SpecError for what ``value`` has not."""
        return _rendered(self._pieces, {"": value, "$": value})


def parse(text: str) -> Template:
    """``\\t`` and ``\\n`` in it may be written out. Raises SpecError of one line."""
    if len(text) > MOST_CHARACTERS:
        raise SpecError(f"the template is longer than {MOST_CHARACTERS} characters")
    words = _Words(_taken_apart(text))
    pieces, closing = words.block(0)
    if closing is not None:
        raise SpecError(f"{{{{{closing}}}}} closes nothing")
    return Template(pieces)


def _rendered(pieces: tuple[_PIECE, ...], names: dict[str, Any]) -> str:
    return "".join(piece(names) for piece in pieces)


def _taken_apart(text: str) -> Iterator[tuple[bool, str]]:
    """(is an action, text), in order."""
    position, trim = 0, False
    for match in _ACTION.finditer(text):
        yield False, _plain(text[position : match.start()], trim, match[1] is not None)
        yield True, match[2].strip()
        position, trim = match.end(), match[3] is not None
    rest = text[position:]
    if "{{" in rest:
        raise SpecError(f"{rest[rest.index('{{') :][:40]!r} has no end; write {{{{.Name}}}}")
    yield False, _plain(rest, trim, False)


def _plain(text: str, trim_left: bool, trim_right: bool) -> str:
    for written, meant in _ESCAPES.items():
        text = text.replace(written, meant)
    text = text.lstrip() if trim_left else text
    return text.rstrip() if trim_right else text


class _Words:
    """The template's pieces, read once from the left."""

    def __init__(self, pieces: Iterator[tuple[bool, str]]) -> None:
        self._pieces = pieces

    def block(self, depth: int) -> tuple[tuple[_PIECE, ...], str | None]:
        """(what it prints, the word that closed it: ``end``, ``else`` and what follows it; None at the end of the template)."""
        if depth > _MOST_DEPTH:
            raise SpecError(f"blocks lie deeper than {_MOST_DEPTH}")
        found: list[_PIECE] = []
        for is_action, text in self._pieces:
            word = text.split(None, 1)[0] if text.split() else ""
            if not is_action:
                found.append(lambda names, text=text: text)  # type: ignore[misc]
            elif word in ("end", "else"):
                return tuple(found), text
            elif word in _BLOCKS:
                found.append(self._block_of(word, text[len(word) :], depth))
            elif not text.startswith("/*"):
                found.append(_printing(_Pipeline(text).value()))
        return tuple(found), None

    def _block_of(self, word: str, text: str, depth: int) -> _PIECE:
        pipeline = _Pipeline(text)
        variables = pipeline.variables() if word == "range" else ()
        value = pipeline.value()
        inner, closing = self.block(depth + 1)
        other: tuple[_PIECE, ...] = ()
        if closing is not None and closing.startswith("else"):
            further = closing.removeprefix("else").strip()
            if further.startswith("if "):
                other, closing = (self._block_of("if", further[2:], depth + 1),), "end"
            else:
                other, closing = self.block(depth + 1)
        if closing != "end":
            raise SpecError(f"{{{{{word}}}}} has no {{{{end}}}}")
        if word == "range":
            return lambda names: _repeated(value(names), variables, inner, names) or _rendered(other, names)

        def chosen(names: dict[str, Any]) -> str:
            found = value(names)
            return _rendered(inner, {**names, "": found} if word == "with" else names) if found else _rendered(other, names)

        return chosen


def _repeated(values: Any, variables: tuple[str, ...], inner: tuple[_PIECE, ...], names: dict[str, Any]) -> str:
    if values is not None and not isinstance(values, dict | list | tuple):
        raise SpecError(f"range: {as_json(values)[:60]} is not a list")
    items = [(key, values[key]) for key in sorted(values)] if isinstance(values, dict) else list(enumerate(values or ()))
    # One variable takes the values, of two the first takes the keys.
    return "".join(
        _rendered(inner, {**names, **dict(zip(variables, (key, value)[-len(variables) :] if variables else (), strict=True)), "": value}) for key, value in items
    )


def _printing(value: _VALUE) -> _PIECE:
    return lambda names: as_text(value(names))


class _Pipeline:
    """What stands in one pair of braces: operands, functions and ``|``."""

    def __init__(self, text: str) -> None:
        self._text = text.strip()
        self._tokens: list[tuple[str, str]] = []
        position = 0
        while position < len(self._text):
            match = _TOKEN.match(self._text, position)
            if match is None:
                raise SpecError(f"{{{{{self._text}}}}} is not understood at {self._text[position:].strip()[:20]!r}")
            self._tokens.append((str(match.lastgroup), match[str(match.lastgroup)]))
            position = match.end()

    def variables(self) -> tuple[str, ...]:
        """``$key, $value :=`` at the beginning."""
        if ("mark", ":=") not in self._tokens:
            return ()
        place = self._tokens.index(("mark", ":="))
        names = tuple(token for kind, token in self._tokens[:place] if kind == "path" and token.startswith("$"))
        if not 1 <= len(names) <= 2 or place != 2 * len(names) - 1:
            raise SpecError(f"{{{{{self._text}}}}} is not understood; write {{{{range $key, $value := .Name}}}}")
        del self._tokens[: place + 1]
        return names

    def value(self) -> _VALUE:
        found = self._piped(0)
        if self._tokens:
            raise SpecError(f"{{{{{self._text}}}}} is not understood at {self._tokens[0][1]!r}")
        return found

    def _piped(self, depth: int) -> _VALUE:
        found = self._command(None, depth)
        while self._tokens[:1] == [("mark", "|")]:
            del self._tokens[0]
            found = self._command(found, depth)
        return found

    def _command(self, last: _VALUE | None, depth: int) -> _VALUE:
        """A value, or a function with its operands, of which the last is what comes through the pipe."""
        if depth > _MOST_DEPTH:
            raise SpecError(f"parentheses lie deeper than {_MOST_DEPTH}")
        name = self._tokens[0][1] if self._tokens and self._tokens[0][0] == "word" and self._tokens[0][1] not in ("true", "false", "nil") else None
        if name is None:
            if last is not None or not self._tokens:
                raise SpecError(f"{{{{{self._text}}}}} is not understood; write {{{{.Name}}}}")
            return self._operand(depth)
        if name not in FUNCTIONS:
            raise SpecError(f"{{{{{self._text}}}}}: " + (f"there is no function {name}; {hint(name, FUNCTIONS)}" if len(self._tokens) > 1 or last else f"a field begins with a dot, {{{{.{name}}}}}"))
        del self._tokens[0]
        operands: list[_VALUE] = []
        while self._tokens and self._tokens[0] not in (("mark", "|"), ("mark", ")")):
            operands.append(self._operand(depth))
        return _calling(name, [*operands, *([last] if last is not None else [])])

    def _operand(self, depth: int) -> _VALUE:
        kind, token = self._tokens.pop(0)
        if kind == "mark" and token == "(":
            inner = self._piped(depth + 1)
            if self._tokens[:1] != [("mark", ")")]:
                raise SpecError(f"{{{{{self._text}}}}}: a ) is missing")
            del self._tokens[0]
            following = self._tokens[0][1] if self._tokens and self._tokens[0][0] == "path" and self._tokens[0][1].startswith(".") else ""
            if len(following) > 1:
                del self._tokens[0]
                return lambda names: _walk(inner(names), following.split(".")[1:])
            return inner
        if kind == "path":
            start, *path = token.split(".")
            return lambda names: _walk(_variable(names, start), [part for part in path if part])
        if kind == "mark" or (kind == "word" and token not in ("true", "false", "nil")):
            raise SpecError(f"{{{{{self._text}}}}} is not understood at {token!r}")
        constant = json.loads(token) if kind == "number" or token in ("true", "false") else None if token == "nil" else _quoted(token)
        return lambda names: constant


def _quoted(token: str) -> str:
    if token.startswith("`"):
        return token[1:-1]
    try:
        return str(json.loads(token))
    except ValueError:
        raise SpecError(f"{token} is not a text") from None


def _variable(names: dict[str, Any], name: str) -> Any:
    if name not in names:
        raise SpecError(f"there is no variable {name}")
    return names[name]


def _walk(value: Any, path: list[str]) -> Any:
    for place, name in enumerate(path):
        whole = "." + ".".join(path[: place + 1])
        if not isinstance(value, Mapping):
            raise SpecError(f"there is no field {whole}: {'.' + '.'.join(path[:place]) if place else 'the dot'} is {as_json(value)[:60]}")
        if name not in value:
            raise SpecError(f"there is no field {whole}; {hint(whole, [whole[: -len(name)] + key for key in value])}")
        value = value[name]
    return value


def _calling(name: str, operands: list[_VALUE]) -> _VALUE:
    def call(names: dict[str, Any]) -> Any:
        values = [operand(names) for operand in operands]
        try:
            return FUNCTIONS[name](*values)
        except (TypeError, AttributeError, IndexError):
            raise SpecError(f"{name}: cannot take {' '.join(as_json(value)[:40] for value in values) or 'nothing'}") from None

    return call
