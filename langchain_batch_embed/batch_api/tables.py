"""The tables of the jobs: their columns, and the conversion between records and rows."""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from langchain_batch_embed.batch_api.records import KEY_BYTES, JobRecord, Line, Part

__all__ = [
    "JOB_COLUMNS",
    "LINE_COLUMNS",
    "PART_COLUMNS",
    "SCHEMA",
    "VERSION",
    "add_lines",
    "add_part",
    "add_to_job",
    "discard_files",
    "insert_job",
    "job_from",
    "keys_from",
    "line_from",
    "part_from",
    "update",
    "update_part",
]

VERSION = 1
"""Version of the tables' layout."""

# Ids are random, so that the tables of two files can be merged. Every table's name begins with
# `job`, which is how the journal finds the tables to copy into a new file.
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS job_version (version INTEGER PRIMARY KEY)",
    """
    CREATE TABLE IF NOT EXISTS job (
        id TEXT PRIMARY KEY, space BLOB NOT NULL, model TEXT NOT NULL, created REAL NOT NULL,
        finish_by REAL, max_dollars REAL, price REAL, texts INTEGER NOT NULL,
        "unique" INTEGER NOT NULL, recalled INTEGER NOT NULL, inputs INTEGER NOT NULL,
        shared INTEGER NOT NULL, waits_for TEXT NOT NULL, tokens INTEGER NOT NULL,
        seconds REAL NOT NULL, cancelled REAL, ended REAL, half_tokens INTEGER NOT NULL,
        full_tokens INTEGER NOT NULL, requests INTEGER NOT NULL, batches INTEGER NOT NULL,
        overtaken INTEGER NOT NULL, barren INTEGER NOT NULL, fatal TEXT, answered_by TEXT
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS job_part (
        id TEXT PRIMARY KEY, job TEXT NOT NULL REFERENCES job, number INTEGER NOT NULL,
        state TEXT NOT NULL, source TEXT, file_id TEXT, texts INTEGER NOT NULL,
        tokens INTEGER NOT NULL, octets INTEGER NOT NULL, attempt INTEGER NOT NULL, anchor TEXT,
        asked REAL NOT NULL, doubted REAL NOT NULL, batch_id TEXT, status TEXT,
        answered REAL NOT NULL, output_id TEXT, error_id TEXT, tries INTEGER NOT NULL,
        not_before REAL NOT NULL, trouble TEXT, alike INTEGER NOT NULL,
        is_cancelling INTEGER NOT NULL
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS job_line (
        id TEXT PRIMARY KEY, part TEXT NOT NULL REFERENCES job_part, number INTEGER NOT NULL,
        texts INTEGER NOT NULL, "keys" BLOB NOT NULL, places BLOB NOT NULL, tokens BLOB NOT NULL,
        sent INTEGER NOT NULL, state TEXT NOT NULL, error TEXT
    )
    """,
    "CREATE INDEX IF NOT EXISTS job_line_by_part ON job_line (part, state)",
    "CREATE INDEX IF NOT EXISTS job_part_by_job ON job_part (job, state)",
    # Files at the server that are to be deleted.
    "CREATE TABLE IF NOT EXISTS job_file (id TEXT PRIMARY KEY, space BLOB NOT NULL)",
    # The limit of enqueued tokens that a refusal gave, and when.
    "CREATE TABLE IF NOT EXISTS job_limit (space BLOB PRIMARY KEY, tokens INTEGER, learnt REAL)",
)

_JOB_NAMES = tuple(field.name for field in fields(JobRecord))
_PART_NAMES = tuple(field.name for field in fields(Part))
JOB_COLUMNS = ", ".join(f'"{name}"' for name in _JOB_NAMES)
PART_COLUMNS = ", ".join(f'"{name}"' for name in _PART_NAMES)
LINE_COLUMNS = "job_line.id, job_line.keys, places, job_line.tokens, sent, job_line.state, error"
"""The columns of each table, in the order that `job_from`, `part_from` and `line_from` expect."""

_INT32 = np.dtype("<i4")


def insert_job(connection: sqlite3.Connection, job: JobRecord) -> None:
    """Add a job."""
    row = dict(_values(job, _JOB_NAMES), waits_for=json.dumps(job.waits_for))
    _insert(connection, "job", row)


def add_part(connection: sqlite3.Connection, part: Part, lines: Sequence[Line]) -> None:
    """Add a part with its lines."""
    _insert(connection, "job_part", _values(part, _PART_NAMES))
    add_lines(connection, part.id, lines)


def add_lines(connection: sqlite3.Connection, part_id: str, lines: Sequence[Line]) -> None:
    """Add lines to a part."""
    connection.executemany(
        "INSERT INTO job_line (id, part, number, texts, keys, places, tokens, sent, state, error) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                line.id,
                part_id,
                number,
                len(line.keys),
                b"".join(line.keys),
                line.places.astype(_INT32).tobytes(),
                line.tokens.astype(_INT32).tobytes(),
                line.sent,
                line.state,
                line.error,
            )
            for number, line in enumerate(lines)
        ],
    )


def update(connection: sqlite3.Connection, table: str, row_id: str, **values: Any) -> None:
    """Set the given columns of one row."""
    sets = ", ".join(f'"{name}" = ?' for name in values)
    connection.execute(
        f"UPDATE {table} SET {sets} WHERE id = ?",  # noqa: S608  # our own names
        (*values.values(), row_id),
    )


def update_part(connection: sqlite3.Connection, part: Part) -> None:
    """Write all columns of a part."""
    values = _values(part, _PART_NAMES)
    del values["id"]
    update(connection, "job_part", part.id, **values)


def add_to_job(connection: sqlite3.Connection, job_id: str, amounts: Mapping[str, int]) -> None:
    """Add amounts to some of a job's counts."""
    sets = ", ".join(f'"{name}" = "{name}" + ?' for name in amounts)
    if sets:
        connection.execute(
            f"UPDATE job SET {sets} WHERE id = ?",  # noqa: S608  # our own names
            (*amounts.values(), job_id),
        )


def discard_files(
    connection: sqlite3.Connection, files: Iterable[str | None], space: bytes
) -> None:
    """Record files at the server that are no longer needed, to be deleted later."""
    connection.executemany(
        "INSERT OR IGNORE INTO job_file (id, space) VALUES (?, ?)",
        [(file_id, space) for file_id in files if file_id],
    )


def job_from(row: Sequence[Any]) -> JobRecord:
    """Return the job that a row holds."""
    job = JobRecord(**dict(zip(_JOB_NAMES, row, strict=True)))
    return replace(job, waits_for=tuple(json.loads(str(job.waits_for))))


def part_from(row: Sequence[Any]) -> Part:
    """Return the part that a row holds."""
    part = Part(**dict(zip(_PART_NAMES, row, strict=True)))
    return replace(part, is_cancelling=bool(part.is_cancelling))


def line_from(row: Sequence[Any]) -> Line:
    """Return the line that a row holds."""
    line_id, keys, places, tokens, sent, state, error = row
    return Line(
        id=line_id,
        keys=keys_from(keys),
        places=np.frombuffer(places, dtype=_INT32),
        tokens=np.frombuffer(tokens, dtype=_INT32),
        sent=sent,
        state=state,
        error=error,
    )


def keys_from(blob: bytes) -> tuple[bytes, ...]:
    """Return the keys of a line's texts, which are stored one after the other."""
    return tuple(blob[start : start + KEY_BYTES] for start in range(0, len(blob), KEY_BYTES))


def _insert(connection: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> None:
    names = ", ".join(f'"{name}"' for name in row)
    marks = ", ".join("?" * len(row))
    connection.execute(
        f"INSERT INTO {table} ({names}) VALUES ({marks})",  # noqa: S608  # our own names
        tuple(row.values()),
    )


def _values(record: Part | JobRecord, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(record, name) for name in names}
