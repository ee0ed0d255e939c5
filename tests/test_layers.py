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

# From the bottom to the top. A room imports only from lines below its own, so rooms on one line
# never import one another: each can be understood, and replaced, alone.
LAYERS = [
    {"clock", "errors", "report"},
    {"limits"},
    {"journal", "pacing", "texts"},
    {"options", "providers"},
    {"sending"},
    {"calls"},
    {"stores"},
    {"embeddings"},
    {"__init__"},
    {"commands"},
    {"__main__"},
]
HEIGHT = {room: height for height, layer in enumerate(LAYERS) for room in layer}

# A room is a file, or a folder of files.
FOLDERS = ("calls", "commands", "journal", "pacing", "providers", "sending", "stores", "texts")
FILES = {path.stem: [path] for path in FOLDER.glob("*.py")} | {
    name: sorted((FOLDER / name).glob("*.py")) for name in FOLDERS
}
MODULES = sorted(FILES)

# The files of a room of more than one, from the bottom to the top.
INSIDE = {
    "calls": [{"dimensions"}, {"prefetch", "results"}, {"recovery"}, {"pipeline"}, {"plan"}],
    "commands": [{"corpus", "offline"}, {"demo"}],
    "pacing": [
        {"backoff", "error_wording", "hedging", "quotation", "quota", "token_bucket"},
        {"concurrency", "error_reading", "health", "throttle"},
        {"diagnosis", "pacer"},
    ],
    "providers": [{"decoding", "socket_deadline", "wrapped_object"}, {"provider"}],
    "sending": [
        {"work"},
        {"size_limits"},
        {"queue"},
        {"turns"},
        {"sender"},
        {"dispatcher", "rehearsal"},
    ],
    "stores": [{"sqlite"}, {"ingest"}],
    "texts": [{"packing", "tokens"}, {"inputs"}],
}

# They only calculate: time, waiting and randomness are handed in.
PURE = [
    *("errors.py", "limits.py", "options.py", "report.py"),
    *(f"pacing/{path.name}" for path in FILES["pacing"]),
    *(f"texts/{path.name}" for path in FILES["texts"]),
    *(f"sending/{name}.py" for layer in INSIDE["sending"][:-1] for name in sorted(layer)),
    "sending/rehearsal.py",
]
WAITING = {"asyncio", "concurrent", "random", "socket", "threading", "time"}
DEFAULTS = {
    "pacing/diagnosis.py": {"time"},
    "pacing/pacer.py": {"random"},
    "sending/sender.py": {"random"},
}
"""What is handed in where nobody hands in anything else."""

COMMANDS = {"__main__", "commands"}


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


@pytest.mark.parametrize("room", INSIDE)
def test_imports_inside_a_room_point_downwards(room: str) -> None:
    """No file imports one of its own line or of a line above it."""
    height = {name: i for i, layer in enumerate(INSIDE[room]) for name in layer}
    files = {path.stem: path for path in FILES[room] if path.stem != "__init__"}
    assert files.keys() == height.keys()
    for name, path in files.items():
        inside = f"{PACKAGE}.{room}."
        found = {
            imported_name.removeprefix(inside).partition(".")[0]
            for imported_name in imported(path)
            if imported_name.startswith(inside)
        }
        assert {other for other in found & height.keys() if height[other] >= height[name]} == set()


def test_the_inside_of_the_journal_is_its_own() -> None:
    """Of the journal's files, others import only what its `__init__` shows."""
    inside = f"{PACKAGE}.journal."
    shown = {inside + name for name in langchain_batch_embed.journal.__all__}
    users = set(MODULES) - {"journal"}
    found = {name for module in users for name in names(module) if name.startswith(inside)}
    assert found
    assert found <= shown


def test_only_the_dispatcher_starts_threads_to_send() -> None:
    """Everything else that has to do with sending decides, and waits for nothing."""
    users = {path.name for path in FILES["sending"] if "threading" in imported(path)}
    assert users == {"dispatcher.py"}


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
        ("langchain_community", {"commands"}),
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


@pytest.mark.parametrize("file", PURE)
def test_what_only_calculates_imports_nothing_that_waits(file: str) -> None:
    """Clocks, threads and random numbers stay with the modules that send and keep."""
    libraries = {name.partition(".")[0] for name in imported(FOLDER / file)}
    assert libraries & WAITING == DEFAULTS.get(file, set())


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
