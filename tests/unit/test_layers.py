"""Holds the code to its layers: which part may import what, and how long a module may be.

Every import counts, also one inside a function: a layer is about what code knows, not about when it is loaded. The
exceptions are listed here, each with its reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "nbcontainer"
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if "_course" not in path.parts)
LONGEST = 400

JUPYTER = ("IPython", "ipykernel", "ipywidgets", "jupyter_client", "jupyter_core", "jupyterhub", "traitlets", "comm", "anywidget")

ONLY_IN = {
    "ctypes": ("linux/syscalls.py",),
    "pyroute2": ("network/",),
    "matplotlib": ("notebook/", "runtime/cell.py"),
    **{name: ("notebook/", "jupyter/") for name in JUPYTER},
}
"""A top-level package, and the modules and directories that may import it."""

EXCEPTIONS = {
    ("runtime/cell.py", "IPython"): "the cell itself is run by an InteractiveShell",
    ("runtime/questions.py", "IPython"): "input() that nobody can answer raises what IPython's users know",
    ("runtime/cell.py", "traitlets"): "an InteractiveShell is configured by a traitlets Config",
    ("isolation.py", "matplotlib"): "names the Figure type of Comparison.plot(), for type checkers only",
    ("experiment.py", "matplotlib"): "names the Figure type of compare(), for type checkers only",
    ("trials.py", "matplotlib"): "names the Figure type of Sweep.plot(), for type checkers only",
    ("result.py", "matplotlib"): "names the Figure type of Result.plot(), for type checkers only",
}

LINUX_MAY_IMPORT = ("nbcontainer.errors", "nbcontainer.linux")

RUNTIME_MAY_NOT_IMPORT = ("nbcontainer.notebook", "nbcontainer.jupyter", "nbcontainer.engine", "nbcontainer.container", "nbcontainer.cli")

LONG_MODULES = {
    "linux/syscalls.py": "all of ctypes in one file, so that one file is to be audited",
}
"""Modules that may be longer than LONGEST lines, and why."""


def _tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE / module).read_text(encoding="utf-8"), module)


def _absolute(module: str, node: ast.ImportFrom) -> str:
    """The full name that a relative import means."""
    if not node.level:
        return node.module or ""
    package = ["nbcontainer", *module.split("/")[:-1]]
    package = package[: len(package) - node.level + 1]
    return ".".join([*package, *([node.module] if node.module else [])])


def imports(module: str) -> Iterator[tuple[str, int]]:
    """(full dotted name, line) of everything that a module imports; of ``from a import b``, both ``a`` and ``a.b``."""
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            name = _absolute(module, node)
            yield name, node.lineno
            for alias in node.names:
                yield f"{name}.{alias.name}", node.lineno


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def test_there_are_modules() -> None:
    assert {"spec.py", "errors.py", "events.py", "linux/syscalls.py"} <= set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_outside_packages_stay_in_their_layer(module: str) -> None:
    wrong = []
    for name, line in imports(module):
        top = name.partition(".")[0]
        allowed = ONLY_IN.get(top)
        if allowed is None or any(module == place or (place.endswith("/") and module.startswith(place)) for place in allowed):
            continue
        if (module, top) not in EXCEPTIONS:
            wrong.append(f"{module}:{line} imports {name}, which is for {', '.join(allowed)}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("linux/")])
def test_linux_knows_nothing_of_the_rest(module: str) -> None:
    wrong = [
        f"{module}:{line} imports {name}"
        for name, line in imports(module)
        if _within(name, "nbcontainer") and name != "nbcontainer" and not any(_within(name, part) for part in LINUX_MAY_IMPORT)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("runtime/")])
def test_runtime_knows_nothing_of_its_callers(module: str) -> None:
    wrong = [
        f"{module}:{line} imports {name}" for name, line in imports(module) if any(_within(name, part) for part in RUNTIME_MAY_NOT_IMPORT)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_package_itself_imports_lazily() -> None:
    """`import nbcontainer` loads the errors and nothing else at module level."""
    loaded = []
    for node in _tree("__init__.py").body:
        if isinstance(node, ast.Import):
            loaded += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            loaded.append(_absolute("__init__.py", node))
    assert set(loaded) <= {"__future__", "typing", "nbcontainer.errors"}


@pytest.mark.parametrize("module", MODULES)
def test_modules_are_short_enough_to_read(module: str) -> None:
    length = len((PACKAGE / module).read_text(encoding="utf-8").splitlines())
    assert length <= LONGEST or module in LONG_MODULES, f"{module} has {length} lines; split it"


def test_exceptions_are_still_needed() -> None:
    unneeded = [f"{module} imports {top}" for module, top in EXCEPTIONS if module in MODULES and not _imports_top(module, top)]
    assert not unneeded, f"take these out of EXCEPTIONS: {unneeded}"


def _imports_top(module: str, top: str) -> bool:
    return any(name.partition(".")[0] == top for name, _ in imports(module))


FORKS = {
    "runtime/": "the zygote and the containers' processes have one thread",
    "engine/vm/guestinit.py": "process 1 of the guest, which has one thread",
    "engine/vm/guesthelpers.py": "the guest's agent before it has threads",
    "linux/probe.py": "a program of its own that has one thread; nothing imports it",
}


@pytest.mark.parametrize("module", MODULES)
def test_nothing_forks_outside_the_zygote(module: str) -> None:
    """The kernel process has threads: a fork there can hang. So no preexec_fn, and os.fork only in FORKS."""
    wrong = []
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Attribute) and node.attr in ("fork", "forkpty") and not module.startswith(tuple(FORKS)):
            wrong.append(f"{module}:{node.lineno} forks")
        if isinstance(node, ast.keyword) and node.arg == "preexec_fn":
            wrong.append(f"{module}:{node.value.lineno} uses preexec_fn")
    assert not wrong, "\n".join(wrong)


UNPICKLES = {
    "runtime/zygote.py": "reads the configuration and the requests that the kernel wrote; a cell has no end of that socket",
    "runtime/init.py": "reads in the container what the kernel wrote, before there is user code in it",
    "runtime/bundle.py": "reads in the guest, before it has containers, what was packed into its initramfs",
    "runtime/variables.py": "rebuilds in the container the variables that the kernel sent in",
}


@pytest.mark.parametrize("module", MODULES)
def test_the_kernel_never_unpickles(module: str) -> None:
    """What a container sends may be made by anyone; unpickling it would run code in the kernel."""
    if module in UNPICKLES:
        return
    wrong = [
        f"{module}:{node.lineno} {ast.unparse(node)}"
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.Attribute)
        and node.attr in ("loads", "load", "Unpickler")
        and isinstance(node.value, ast.Name)
        and node.value.id in ("pickle", "marshal", "cloudpickle", "dill", "shelve")
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_imports_the_probe() -> None:
    importers = [module for module in MODULES if any(_within(name, "nbcontainer.linux.probe") for name, _ in imports(module))]
    assert importers == []
