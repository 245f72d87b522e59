"""A line of a cell's code: as it is quoted, and whether the cell can have left it again."""

from __future__ import annotations

import ast
import re

MOST_OF_A_LINE = 100
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


def quote_line(code: str, number: int | None) -> str:
    """``"3: data = []"``; "" where there is no such line."""
    lines = re.split(r"\r\n|[\r\n]", code)  # what Python counts; splitlines() knows more ends
    if number is None or not 1 <= number <= len(lines):
        return ""
    text = "".join(character if character.isprintable() else " " for character in lines[number - 1].strip())
    return f"{number}: {text[:MOST_OF_A_LINE]}{'…' if len(text) > MOST_OF_A_LINE else ''}"


def nothing_follows(code: str, number: int | None) -> bool:
    """Whether code that has come to this line cannot come to another one of its own, whatever it does there.

    Nobody can ask a process at the moment when Linux kills it: an answer is older, by some milliseconds, in which a loop has gone
    on. So the line is certain where it is all of the last statement, and nothing of the cell can be called from there.
    """
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False  # IPython's own syntax, too
    if not tree.body or any(isinstance(node, _FUNCTIONS) for node in ast.walk(tree)):
        return False
    return _lines(tree.body[-1]) == {number}


def _lines(statement: ast.stmt) -> set[int]:
    if isinstance(statement, ast.While) and isinstance(statement.test, ast.Constant) and not statement.orelse:
        return {line for inner in statement.body for line in _lines(inner)}  # nothing is computed in its first line
    return set(range(statement.lineno, (statement.end_lineno or statement.lineno) + 1))
