"""What the host has found and compiled, for a guest where that takes seconds: modules, methods that dataclasses writes, regular expressions.

One file holds all of it. It imports only what every Python has loaded when it begins: anything else would still be found the slow way.
"""

from __future__ import annotations

import builtins
import marshal
import os
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import SourceFileLoader

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself is one of the modules that should come from here
    from collections.abc import Iterable, Sequence
    from types import CodeType, ModuleType
    from typing import IO, Any

_generated: dict[str, bytes] = {}
"""Source: its marshalled code."""
_expressions: dict[tuple[str | bytes, int], tuple[Any, ...]] = {}
"""(pattern, flags): what the compiler of expressions, which is written in Python, gives to the matcher, which is not."""
_places: dict[str, tuple[str, bool, int, int]] = {}
"""Module name: (its file, whether it is a package, offset and size of its code)."""
_fd = -1


class _Loader(SourceFileLoader):
    """Of a module whose source file is where it says, for tracebacks, and whose code comes from here."""

    def get_code(self, fullname: str) -> CodeType | None:
        if fullname not in _places:
            return super().get_code(fullname)
        _, _, offset, size = _places[fullname]
        code: CodeType = marshal.loads(os.pread(_fd, size, offset))
        return code


class _Finder:
    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in _places:
            return None
        file, is_package, _, _ = _places[name]
        spec = ModuleSpec(name, _Loader(name, file), origin=file, is_package=is_package)
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [file.rpartition("/")[0]]
        return spec


def _execute(source: str, *namespaces: Any) -> None:
    """In place of ``exec`` in dataclasses. What is not known is compiled."""
    code = _generated.get(source)
    if code is None:
        code = _generated[source] = marshal.dumps(compile(source, "<string>", "exec", dont_inherit=True))
    builtins.exec(marshal.loads(code), *namespaces)


class _Matcher:
    """In place of ``_sre`` in re's compiler: it remembers what it was asked for."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def compile(self, pattern: str | bytes | None, flags: int, code: list[int], *groups: Any) -> Any:
        self.asked = (pattern, int(flags), [int(word) for word in code], *groups)  # some are of classes that are not marshalled
        return self._real.compile(*self.asked)


def _compile_expression(pattern: Any, flags: int = 0) -> Any:
    """In place of ``compile`` in re's compiler. What is not known is compiled."""
    compiler: Any = sys.modules["re._compiler"]
    if type(pattern) not in (str, bytes):
        return _compiler_compile(pattern, flags)
    key = (pattern, int(flags))
    known = _expressions.get(key)
    if known is not None:
        return compiler._sre.compile(*known)
    real, matcher = compiler._sre, _Matcher(compiler._sre)
    compiler._sre = matcher
    try:
        compiled = _compiler_compile(pattern, flags)
    finally:
        compiler._sre = real
    _expressions[key] = matcher.asked
    return compiled


_compiler_compile: Any = None


def record() -> None:
    """From now on, what dataclasses and re compile is remembered."""
    global _compiler_compile
    import dataclasses
    from re import _compiler  # type: ignore[attr-defined]

    vars(dataclasses)["exec"] = _execute
    _compiler_compile = _compiler.compile
    _compiler.compile = _compile_expression


def recorded() -> bytes:
    """What dataclasses and re have compiled since :func:`record`, for :func:`write`."""
    return marshal.dumps((_generated, _expressions))


def write(file: IO[bytes], modules: Iterable[tuple[str, str, bool, bytes]], generated: bytes) -> None:
    """``modules``: (name, its file in the guest, whether it is a package, marshalled code). Raises OSError."""
    places, codes, offset = {}, [], 0
    for name, path, is_package, code in modules:
        places[name] = (path, is_package, offset, len(code))
        codes.append(code)
        offset += len(code)
    index = marshal.dumps((places, generated))
    file.write(len(index).to_bytes(8, "little") + index)
    file.writelines(codes)


def use(path: str) -> None:
    """From now on, imports, dataclasses and re take what :func:`write` gave. Raises OSError."""
    global _fd
    _fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    size = int.from_bytes(os.read(_fd, 8), "little")
    places, generated = marshal.loads(os.read(_fd, size))
    _places.update({name: (file, is_package, 8 + size + offset, length) for name, (file, is_package, offset, length) in places.items()})
    sources, expressions = marshal.loads(generated)
    _generated.update(sources)
    _expressions.update(expressions)
    sys.meta_path.insert(0, _Finder)
    record()


def remove() -> None:
    """In this process, all goes Python's own way again, and the memory is free. Safe to call twice."""
    global _compiler_compile, _fd
    if _Finder in sys.meta_path:
        sys.meta_path.remove(_Finder)
    if "dataclasses" in sys.modules:
        vars(sys.modules["dataclasses"]).pop("exec", None)
    if _compiler_compile is not None:
        vars(sys.modules["re._compiler"])["compile"] = _compiler_compile
        _compiler_compile = None
    _generated.clear()
    _expressions.clear()
    _places.clear()
    if _fd >= 0:
        os.close(_fd)
        _fd = -1
