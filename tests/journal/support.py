"""Keys, vectors, processes and files that several tests of journals use."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.journal import (
    Space,
    content_keys,
)

SPACE = Space(provider="openai", model="text-embedding-3-small", dimensions=8)


PERSISTENT = ["sqlite", "files"]


ALL = [*PERSISTENT, "memory", "bytestore"]


CHILD_SECONDS = 30


CHILD = """
import sys
import numpy as np
from langchain_batch_embed.journal import SQLiteJournal, Space, content_keys

path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
space = Space(provider="openai", model="text-embedding-3-small", dimensions=8)
journal = SQLiteJournal(path)
print("ready", flush=True)
sys.stdin.readline()
for number in range(1, count + 1):
    texts = [f"{name} {number} {i}" for i in range(20)]
    journal.put(content_keys(texts, space), np.full((20, 8), number, np.float32), space=space)
    print(number, flush=True)
"""


class Clock:
    """A clock that advances only when the test changes it."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def keys(*texts: str, space: Space = SPACE) -> list[bytes]:
    """Return the keys of texts."""
    return content_keys(texts, space)


def vectors(count: int, width: int = 8, seed: int = 0) -> NDArray[np.float32]:
    """Return random vectors that all differ."""
    return np.random.default_rng(seed).standard_normal((count, width), dtype=np.float32)


def numbers(positions: NDArray[np.intp]) -> list[int]:
    """Return positions as a list, so that they can be compared."""
    return [int(position) for position in positions]


def spawn(path: Path, name: str, count: int) -> "subprocess.Popen[str]":
    """Start a process that writes batches once it receives a line."""
    command = [sys.executable, "-c", CHILD, str(path), name, str(count)]
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(  # noqa: S603 - our own program
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return the content of every file in a folder."""
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def make_foreign(path: Path, *, application_id: int = 0, version: int = 0) -> None:
    """Write another program's SQLite database, in WAL mode as many are."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE theirs (value TEXT)")
    connection.execute("INSERT INTO theirs VALUES ('precious')")
    connection.execute(f"PRAGMA application_id = {application_id}")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
