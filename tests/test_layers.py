"""The rooms: imports point downwards only, and importing the package stays light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import langchain_batch_embed
import langchain_batch_embed.journal
from tests.conftest import SLOW, TESTS

PACKAGE = "langchain_batch_embed"
FOLDER = Path(langchain_batch_embed.__file__).parent

ROOMS = [
    {"causes", "clock", "report"},
    {"errors"},
    {"limits", "journal"},
    {"texts", "pacing", "providers"},
    {"shared"},
    {"options", "sending"},
    {"calls", "batch_api"},
    {"stores"},
    {"embeddings"},
    {"__init__", "commands", "ray"},
    {"__main__"},
]
"""The rooms from the ground up.

A room imports only from lines below its own, even for types, so rooms on one line never import one
another.
"""

MOST_FILES = 8
"""Most files at the top of the package; with more, doors and rooms are hard to tell apart."""

HEIGHT = {room: height for height, line in enumerate(ROOMS) for room in line}

# A room is a file, or a folder of files.
FOLDERS = sorted(room for room in HEIGHT if (FOLDER / room).is_dir())
FILES = {path.stem: [path] for path in FOLDER.glob("*.py")} | {
    name: sorted((FOLDER / name).glob("*.py")) for name in FOLDERS
}

STARTERS = {"dispatcher.py", "threads.py"}
"""Files of `sending` that deal with threads."""

PURE = [
    *("causes.py", "errors.py", "limits.py", "options.py"),
    *(f"report/{path.name}" for path in FILES["report"]),
    *(f"pacing/{path.name}" for path in FILES["pacing"]),
    *(f"texts/{path.name}" for path in FILES["texts"]),
    *(
        f"batch_api/{name}.py"
        for name in (
            *("answers", "decisions", "faults", "files", "packing", "records", "status"),
            "takeover",
        )
    ),
    *(f"stores/{name}.py" for name in ("given_ids", "parts", "patience", "streak")),
    *(f"stores/{name}.py" for name in ("troubles", "write_size", "written")),
    *(f"shared/{name}.py" for name in ("bucket", "exchange", "lease", "terms", "throttle")),
    *(f"sending/{path.name}" for path in FILES["sending"] if path.name not in STARTERS),
    *("calls/announced.py", "calls/look_ahead.py"),
]
"""Files that only calculate: time, waiting and randomness are passed in."""

WAITING = {"asyncio", "concurrent", "random", "socket", "threading", "time"}
DEFAULTS = {
    "options.py": {"random"},
    "pacing/diagnosis.py": {"time"},
    "pacing/pacer.py": {"random"},
    "sending/deployment.py": {"random"},
}
"""Modules that supply a default where the caller passes nothing in."""

COMMANDS = {"__main__", "commands"}


@cache
def imported(path: Path, *, types: bool = True) -> list[str]:
    """Return the full names of everything that a file imports, with `types` also for types only."""
    return list(imports(path, types=types))


def imports(path: Path, *, types: bool) -> Iterator[str]:
    """Yield the full names of everything that a file imports."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in for_types and not types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = path.relative_to(FOLDER.parent).parent.parts
            base = ".".join(above[: len(above) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def own(path: Path) -> set[str]:
    """Return the rooms of the package that a file imports; the package itself is `__init__`."""
    found = set()
    for name in imported(path):
        first, _, rest = name.partition(".")
        if first == PACKAGE:
            room = rest.partition(".")[0]
            known = (FOLDER / f"{room}.py").exists() or (FOLDER / room / "__init__.py").exists()
            found.add(room if room and known else "__init__")
    return found


def neighbours(path: Path) -> set[str]:
    """Return the files of its own room that a file imports; the room itself is `__init__`."""
    room = f"{PACKAGE}.{path.parent.name}"
    found = set()
    for name in imported(path):
        if name.startswith(f"{room}."):
            file = name.removeprefix(f"{room}.").partition(".")[0]
            found.add(file if (path.parent / f"{file}.py").exists() else "__init__")
    return found


def names(room: str) -> set[str]:
    """Return the full names of everything that a room imports at run time."""
    return {name for path in FILES[room] for name in imported(path, types=False)}


def others(room: str) -> set[str]:
    """Return the other rooms of the package that a room imports."""
    return {other for path in FILES[room] for other in own(path)} - {room}


def test_every_room_has_a_place() -> None:
    """Every file and folder at the top of the package has a line in `ROOMS`."""
    folders = {path.parent.name for path in FOLDER.glob("*/__init__.py")} - {"simulator"}
    assert folders | {path.stem for path in FOLDER.glob("*.py")} == set(HEIGHT)


def test_every_folder_has_tests_of_its_name() -> None:
    """Every room has a folder of tests of the same name."""
    folders = {path.parent.name for path in TESTS.glob("*/test_*.py")}
    assert {*FOLDERS, "simulator"} <= folders
    assert folders - {*FOLDERS, "simulator"} == {"benchmarks", "simulated", "survival"}


def test_what_is_called_slow_is_there() -> None:
    """Every path in `SLOW` exists; a file moved without its entry would slow the fast loop."""
    assert {path for path in SLOW if not (TESTS / path).exists()} == set()


def test_the_top_of_the_package_is_short() -> None:
    """The top of the package has few files, so that a reader sees the public face first."""
    assert len(list(FOLDER.glob("*.py"))) <= MOST_FILES


@pytest.mark.parametrize("room", sorted(FILES))
def test_a_room_imports_only_rooms_below(room: str) -> None:
    """No room imports from its own line or a line above it, not even for a type."""
    below = others(room) - {"simulator"}
    assert {other for other in below if HEIGHT[other] >= HEIGHT[room]} == set()


@pytest.mark.parametrize("room", FOLDERS)
def test_no_circle_inside_a_room(room: str) -> None:
    """The imports between the files of a room form no cycle, even those for types only."""
    TopologicalSorter({path.stem: neighbours(path) for path in FILES[room]}).prepare()


def test_the_inside_of_the_journal_is_its_own() -> None:
    """Other rooms import only the names that the journal's `__init__` exports."""
    inside = f"{PACKAGE}.journal."
    shown = {inside + name for name in langchain_batch_embed.journal.__all__}
    users = set(FILES) - {"journal"}
    found = {name for room in users for name in names(room) if name.startswith(inside)}
    assert found
    assert found <= shown


def test_only_the_dispatcher_starts_threads_to_send() -> None:
    """In `sending`, only `dispatcher.py` and `threads.py` import `threading`.

    Everything else in it makes decisions and waits for nothing.
    """
    users = {path.name for path in FILES["sending"] if "threading" in imported(path)}
    assert users == STARTERS


def test_the_simulator_stands_alone() -> None:
    """The simulator imports nothing else of the package, so that it cannot share its mistakes."""
    files = list((FOLDER / "simulator").glob("*.py"))
    assert {room for path in files for room in own(path)} <= {"simulator"}


def test_only_the_commands_import_the_simulator() -> None:
    """Only the commands import the simulator, because embedding texts needs no server of ours."""
    users = {room for room in FILES if "simulator" in others(room)}
    assert users <= COMMANDS


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("ray", {"ray"}),
        ("redis", {"journal", "shared"}),
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
    """Optional packages and SDKs are imported only by the rooms that need them."""
    users = {room for room in FILES for name in names(room) if name.partition(".")[0] == library}
    assert users <= allowed


@pytest.mark.parametrize("file", PURE)
def test_what_only_calculates_imports_nothing_that_waits(file: str) -> None:
    """Files that only calculate import no clock, no thread and no random numbers."""
    libraries = {name.partition(".")[0] for name in imported(FOLDER / file, types=False)}
    assert libraries & WAITING == DEFAULTS.get(file, set())


def test_importing_the_package_imports_no_provider_and_no_server() -> None:
    """Importing the package imports no provider, no server and no optional package."""
    heavy = "starlette uvicorn langchain_openai langchain_community openai pandas redis ray"
    code = (
        f"import sys, {PACKAGE}\n"
        f"print([name for name in {heavy.split()} if name in sys.modules])\n"
        f"print([name for name in sys.modules if name.startswith('{PACKAGE}.simulator')])"
    )
    done = subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=FOLDER.parent
    )
    assert done.stdout.split() == ["[]", "[]"]
