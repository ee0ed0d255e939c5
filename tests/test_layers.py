"""The modules' layers: imports point downwards only, and importing the package stays light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import langchain_batch_embed
import langchain_batch_embed.journal

PACKAGE = "langchain_batch_embed"
FOLDER = Path(langchain_batch_embed.__file__).parent

# From the bottom to the top. A module imports only from layers below its own.
LAYERS = [
    {"clock", "errors", "offline", "corpus", "quota", "socket_deadline", "sqlite_stores"},
    {"budget", "hedging", "limits", "nearness"},
    {"window"},
    {"journal", "packing", "pacing", "retry", "tokens", "width"},
    {"inputs", "report", "vectors", "wrapped"},
    {"options", "providers"},
    {"work"},
    {"run"},
    {"dispatch"},
    {"results"},
    {"prefetch", "recovery"},
    {"pipeline", "ingest"},
    {"plan"},
    {"embeddings"},
    {"__init__"},
    {"demo"},
    {"__main__"},
]
HEIGHT = {module: height for height, layer in enumerate(LAYERS) for module in layer}
# A module is a file, or a folder of files that only its `__init__` shows to the others.
FILES = {path.stem: [path] for path in FOLDER.glob("*.py")} | {
    "journal": list((FOLDER / "journal").glob("*.py"))
}
MODULES = sorted(FILES)

# They count, pack, pace, decide and keep: each can be understood, and replaced, alone.
INDEPENDENT = {"hedging", "journal", "nearness", "packing", "pacing", "retry", "tokens", "width"}

# They only calculate: time, waiting and randomness are handed in.
PURE = [
    *("budget", "errors", "hedging", "inputs", "limits", "nearness", "options", "packing"),
    *("pacing", "report", "retry", "tokens", "window", "work"),
]
WAITING = {"asyncio", "concurrent", "random", "threading", "time"}

COMMANDS = {"__main__", "demo"}


@cache
def imported(path: Path) -> list[str]:
    """Return the full name of everything that a file imports, except for types alone."""
    return list(imports(path))


def imports(path: Path) -> Iterator[str]:
    """Yield the full name of everything that a file imports, except for types alone."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = path.relative_to(FOLDER.parent).parent.parts
            base = ".".join(above[: len(above) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def own(path: Path) -> set[str]:
    """Return which of the package's modules a file imports; the package is `__init__`."""
    found = set()
    for name in imported(path):
        first, _, rest = name.partition(".")
        if first == PACKAGE:
            module = rest.partition(".")[0]
            known = (FOLDER / f"{module}.py").exists() or (FOLDER / module / "__init__.py").exists()
            found.add(module if module and known else "__init__")
    return found


def names(module: str) -> set[str]:
    """Return the full name of everything that a module imports."""
    return {name for path in FILES[module] for name in imported(path)}


def others(module: str) -> set[str]:
    """Return which other modules of the package a module imports."""
    return {other for path in FILES[module] for other in own(path)} - {module}


def test_every_module_has_a_layer() -> None:
    """A new module is given its place in `LAYERS`."""
    assert set(MODULES) <= set(HEIGHT)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downwards(module: str) -> None:
    """No module imports from its own layer or from one above it."""
    below = others(module) - {"simulator"}
    assert {other for other in below if HEIGHT[other] >= HEIGHT[module]} == set()


def test_the_inside_of_a_folder_is_its_own() -> None:
    """Of the journal's files, others import only what its `__init__` shows."""
    inside = f"{PACKAGE}.journal."
    shown = {inside + name for name in langchain_batch_embed.journal.__all__}
    users = set(MODULES) - {"journal"}
    found = {name for module in users for name in names(module) if name.startswith(inside)}
    assert found
    assert found <= shown


def test_the_deciders_never_import_one_another() -> None:
    """Counting, packing, pacing, retrying and keeping know nothing of each other."""
    pairs = {(module, other) for module in INDEPENDENT for other in others(module) & INDEPENDENT}
    assert pairs == set()


def test_the_simulator_stands_alone() -> None:
    """The local server imports nothing of the package, so that it cannot share its mistakes."""
    files = list((FOLDER / "simulator").glob("*.py"))
    assert {module for path in files for module in own(path)} <= {"simulator"}


def test_only_the_commands_import_the_simulator() -> None:
    """Embedding texts needs no server of ours."""
    users = {module for module in MODULES if "simulator" in others(module)}
    assert users <= COMMANDS


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("langchain_community", {"demo"}),
        ("starlette", set()),
        ("uvicorn", set()),
        ("httpx", set()),
        ("httpx2", set()),
        ("openai", COMMANDS),
        ("langchain_openai", COMMANDS),
    ],
)
def test_a_library_is_imported_only_where_it_belongs(library: str, allowed: set[str]) -> None:
    """Optional packages and the SDKs stay out of the core."""
    users = {
        module for module in MODULES for name in names(module) if name.partition(".")[0] == library
    }
    assert users <= allowed


@pytest.mark.parametrize("module", PURE)
def test_what_only_calculates_imports_nothing_that_waits(module: str) -> None:
    """Clocks, threads and random numbers stay with the modules that send and keep."""
    libraries = {name.partition(".")[0] for name in names(module)}
    assert libraries & WAITING == set()


def test_importing_the_package_imports_no_provider_and_no_server() -> None:
    """`import langchain_batch_embed` is quick, and works without the optional packages."""
    heavy = "starlette uvicorn langchain_openai langchain_community openai pandas"
    code = (
        f"import sys, {PACKAGE}\n"
        f"print([name for name in {heavy.split()} if name in sys.modules])\n"
        f"print([name for name in sys.modules if name.startswith('{PACKAGE}.simulator')])"
    )
    done = subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=FOLDER.parent
    )
    assert done.stdout.split() == ["[]", "[]"]
