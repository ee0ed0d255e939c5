"""The tables of the jobs, in the journal's SQLite file."""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from typing import Any

import numpy as np

from langchain_batch_embed.batch_api.records import KEY_BYTES, JobRecord, Line, Part
from langchain_batch_embed.errors import JournalError
from langchain_batch_embed.journal import SQLiteJournal

__all__ = ["JobStore"]

_VERSION = 1

# Ids are random, so that the tables of two files can be put together. The names begin with `job`,
# by which the journal knows what to carry over.
_SCHEMA = (
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
        not_before REAL NOT NULL, trouble TEXT, is_cancelling INTEGER NOT NULL
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
    # Files that nobody needs any more.
    "CREATE TABLE IF NOT EXISTS job_file (id TEXT PRIMARY KEY, space BLOB NOT NULL)",
    # What a refusal says may be enqueued.
    "CREATE TABLE IF NOT EXISTS job_limit (space BLOB PRIMARY KEY, tokens INTEGER, learnt REAL)",
)

_JOB_COLUMNS = tuple(field.name for field in fields(JobRecord))
_PART_COLUMNS = tuple(field.name for field in fields(Part))
_LINE_COLUMNS = "id, keys, places, tokens, sent, state, error"
_INT32 = np.dtype("<i4")


class JobStore:
    """Reads and writes the tables; each method is one transaction.

    Args:
        journal: whose file has them; they are made when the first job is added.
    """

    def __init__(self, journal: SQLiteJournal) -> None:
        self._journal = journal

    def prepare(self) -> None:
        """Make the tables."""
        with self._transaction() as connection:
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute("INSERT OR IGNORE INTO job_version VALUES (?)", (_VERSION,))
        self._check()

    def exists(self) -> bool:
        """Tell whether there are tables, and so perhaps jobs."""
        with self._journal.reading() as connection:
            found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'job_version'")
            is_there = found.fetchone() is not None
        if is_there:
            self._check()
        return is_there

    def add(self, job: JobRecord, parts: Sequence[tuple[Part, Sequence[Line]]]) -> None:
        """Add a job with its parts and their lines."""
        with self._transaction() as connection:
            _insert(connection, "job", _JOB_COLUMNS, _job_row(job))
            for part, lines in parts:
                _add_part(connection, part, lines)

    def jobs(self) -> list[JobRecord]:
        """Return all jobs: first those that have not ended, then the newest first."""
        with self._journal.reading() as connection:
            rows = connection.execute(
                f"SELECT {_columns(_JOB_COLUMNS)} FROM job "  # noqa: S608  # our own names
                "ORDER BY ended IS NOT NULL, created DESC"
            )
            return [_job(row) for row in rows]

    def job(self, job_id: str) -> JobRecord:
        """Return one job."""
        with self._journal.reading() as connection:
            row = connection.execute(
                f"SELECT {_columns(_JOB_COLUMNS)} FROM job WHERE id = ?",  # noqa: S608
                (job_id,),
            ).fetchone()
        if row is None:
            raise JournalError(f"the journal has no job {job_id!r}; jobs() lists those it has")
        return _job(row)

    def change_job(self, job_id: str, **values: Any) -> None:
        """Set some of a job's values."""
        with self._transaction() as connection:
            _update(connection, "job", job_id, values)

    def add_to_job(self, job_id: str, **amounts: int) -> None:
        """Add to some of a job's counts."""
        with self._transaction() as connection:
            _add_to(connection, job_id, amounts)

    def parts(self, job_id: str) -> list[Part]:
        """Return the parts of a job that are not closed, in order."""
        with self._journal.reading() as connection:
            rows = connection.execute(
                f"SELECT {_columns(_PART_COLUMNS)} FROM job_part "  # noqa: S608
                "WHERE job = ? AND state != 'closed' ORDER BY number, id",
                (job_id,),
            )
            return [_part(row) for row in rows]

    def part(self, part_id: str) -> Part:
        """Return one part."""
        with self._journal.reading() as connection:
            row = connection.execute(
                f"SELECT {_columns(_PART_COLUMNS)} FROM job_part WHERE id = ?",  # noqa: S608
                (part_id,),
            ).fetchone()
        return _part(row)

    def save_part(self, part: Part) -> Part:
        """Write what has changed about a part, and return it."""
        values = dict(zip(_PART_COLUMNS, _row(part, _PART_COLUMNS), strict=True))
        del values["id"]
        with self._transaction() as connection:
            _update(connection, "job_part", part.id, values)
        return part

    def lines(self, part_id: str, *, only_open: bool = True) -> list[Line]:
        """Return a part's lines, in order."""
        states = "AND state = 'open'" if only_open else ""
        with self._journal.reading() as connection:
            rows = connection.execute(
                f"SELECT {_LINE_COLUMNS} FROM job_line "  # noqa: S608
                f"WHERE part = ? {states} ORDER BY number",
                (part_id,),
            )
            return [_line(row) for row in rows]

    def finish_lines(
        self, job_id: str, done: Sequence[str], *, answered_by: str | None = None, **amounts: int
    ) -> None:
        """Note that the vectors of some lines are in the journal, and what they cost."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE job_line SET state = 'done' WHERE id = ? AND state = 'open'",
                [(line_id,) for line_id in done],
            )
            _add_to(connection, job_id, amounts)
            if answered_by is not None:
                _update(connection, "job", job_id, {"answered_by": answered_by})

    def replace_lines(
        self,
        part: Part,
        successors: Sequence[tuple[Part, Sequence[Line]]],
        lost: Sequence[Line] = (),
        *,
        unneeded: Iterable[str | None] = (),
        space: bytes,
        barren: int | None = None,
        half_tokens: int = 0,
    ) -> None:
        """Close a part: what is left of it goes into other parts, or is lost.

        Args:
            part: the part.
            successors: new parts, with the lines in them.
            lost: lines that are not sent again, which have failed or are cancelled.
            unneeded: files of the part that nobody needs any more.
            space: the job's.
            barren: batches in a row that ended without an answer; `None`: as before.
            half_tokens: billed for answers that are of no use.
        """
        with self._transaction() as connection:
            connection.execute("DELETE FROM job_line WHERE part = ? AND state = 'open'", (part.id,))
            for new, lines in successors:
                _add_part(connection, new, lines)
            _add_lines(connection, part.id, lost)
            _update(connection, "job_part", part.id, {"state": "closed"})
            _discard(connection, unneeded, space)
            if barren is not None:
                _update(connection, "job", part.job, {"barren": barren})
            _add_to(connection, part.job, {"half_tokens": half_tokens})

    def overtake(
        self,
        part: Part,
        done: Sequence[str],
        pieces: Sequence[Line],
        successor: tuple[Part, Sequence[Line]] | None,
        **amounts: int,
    ) -> None:
        """Close a part of which ordinary requests have brought something.

        What is left goes into another part at once: the file of this one has more in it, and a
        batch of it would be paid for twice.

        Args:
            part: the part.
            done: lines of which each text has its vector.
            pieces: lines in place of others, which are done in part, or have failed.
            successor: a part with all lines that are left; `None`: none are.
            amounts: to be added to the job's counts.
        """
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE job_line SET state = 'done' WHERE id = ?",
                [(line_id,) for line_id in done],
            )
            connection.execute("DELETE FROM job_line WHERE part = ? AND state = 'open'", (part.id,))
            _add_lines(connection, part.id, pieces)
            if successor is not None:
                _add_part(connection, *successor)
            _update(connection, "job_part", part.id, {"state": "closed"})
            _add_to(connection, part.job, amounts)

    def release_files(self, space: bytes) -> None:
        """Note that files of closed parts are not needed, unless others have their texts there."""
        with self._transaction() as connection:
            unneeded = (
                "state = 'closed' AND file_id IS NOT NULL "
                "AND job IN (SELECT id FROM job WHERE space = ?) AND id NOT IN "
                "(SELECT source FROM job_part WHERE source IS NOT NULL "
                "AND state IN ('packed', 'uploading'))"
            )
            connection.execute(
                "INSERT OR IGNORE INTO job_file (id, space) "  # noqa: S608
                f"SELECT file_id, ? FROM job_part WHERE {unneeded}",
                (space, space),
            )
            connection.execute(
                f"UPDATE job_part SET file_id = NULL WHERE {unneeded}",  # noqa: S608
                (space,),
            )

    def unneeded(self, space: bytes) -> list[str]:
        """Return the files at the server that nobody needs any more."""
        with self._journal.reading() as connection:
            rows = connection.execute("SELECT id FROM job_file WHERE space = ?", (space,))
            return [file_id for (file_id,) in rows]

    def forget_file(self, file_id: str) -> None:
        """Note that a file is deleted."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM job_file WHERE id = ?", (file_id,))

    def counts(self, job_id: str) -> dict[tuple[str, str, str | None], int]:
        """Return how many texts are in lines of each state, in parts of each state.

        Returns:
            (state of the line, state of the part, the part if it is running) -> texts.
        """
        with self._journal.reading() as connection:
            rows = connection.execute(
                "SELECT job_line.state, job_part.state, "
                "CASE WHEN job_part.state = 'running' THEN job_part.id END, sum(job_line.texts) "
                "FROM job_line JOIN job_part ON job_part.id = job_line.part "
                "WHERE job_part.job = ? GROUP BY 1, 2, 3",
                (job_id,),
            )
            return {(line, part, running): texts for line, part, running, texts in rows}

    def failed(self, job_id: str) -> list[Line]:
        """Return the lines of a job that have failed."""
        with self._journal.reading() as connection:
            rows = connection.execute(
                "SELECT job_line.id, job_line.keys, places, job_line.tokens, sent, job_line.state, "
                "error FROM job_line JOIN job_part ON job_part.id = job_line.part "
                "WHERE job_part.job = ? AND job_line.state = 'failed'",
                (job_id,),
            )
            return [_line(row) for row in rows]

    def pending(self, space: bytes) -> dict[bytes, tuple[str, bool]]:
        """Return the keys of the texts of all jobs that go on.

        Returns:
            The key -> its job, and whether the job has yet to bring its vector.
        """
        found: dict[bytes, tuple[str, bool]] = {}
        with self._journal.reading() as connection:
            rows = connection.execute(
                "SELECT job.id, job_line.state = 'open', job_line.keys FROM job_line "
                "JOIN job_part ON job_part.id = job_line.part JOIN job ON job.id = job_part.job "
                "WHERE job.space = ? AND job.ended IS NULL AND job.cancelled IS NULL "
                "AND job_line.state IN ('open', 'done') ORDER BY 2",
                (space,),
            )
            for job_id, is_open, keys in rows:
                found.update(dict.fromkeys(_keys(keys), (job_id, bool(is_open))))
        return found

    def enqueued(self, space: bytes) -> int:
        """Return the tokens of all batches that have not ended, as far as is known."""
        with self._journal.reading() as connection:
            (tokens,) = connection.execute(
                "SELECT coalesce(sum(job_part.tokens), 0) FROM job_part "
                "JOIN job ON job.id = job_part.job "
                "WHERE job.space = ? AND job_part.state IN ('asked', 'running')",
                (space,),
            ).fetchone()
        return int(tokens)

    def let_queue_move(self, space: bytes) -> None:
        """Let parts that wait for the queue try again, as a batch has ended."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE job_part SET not_before = 0 WHERE trouble = 'queue' AND job IN "
                "(SELECT id FROM job WHERE space = ?)",
                (space,),
            )

    def limit(self, space: bytes, *, since: float) -> float:
        """Return how many tokens may be enqueued, as far as was learnt since a time."""
        with self._journal.reading() as connection:
            row = connection.execute(
                "SELECT tokens FROM job_limit WHERE space = ? AND learnt >= ?", (space, since)
            ).fetchone()
        return float("inf") if row is None else float(row[0])

    def learn_limit(self, space: bytes, tokens: int, now: float) -> None:
        """Remember how many tokens may be enqueued."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO job_limit (space, tokens, learnt) VALUES (?, ?, ?)",
                (space, tokens, now),
            )

    def end(self, job_id: str, now: float) -> None:
        """Note that nothing is left to do, and forget the keys of what is done."""
        with self._transaction() as connection:
            _update(connection, "job", job_id, {"ended": now})
            connection.execute(
                "UPDATE job_line SET keys = x'', tokens = x'' WHERE state = 'done' AND part IN "
                "(SELECT id FROM job_part WHERE job = ?)",
                (job_id,),
            )

    def _transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        return self._journal.transaction()

    def _check(self) -> None:
        with self._journal.reading() as connection:
            (version,) = connection.execute("SELECT max(version) FROM job_version").fetchone()
        if version != _VERSION:
            raise JournalError(
                f"the jobs in the journal {self._journal.path} have version {version}, and this "
                f"release of langchain-batch-embed knows version {_VERSION}; finish them with the "
                "release that wrote them, or name another journal",
                path=str(self._journal.path),
            )


def _add_part(connection: sqlite3.Connection, part: Part, lines: Sequence[Line]) -> None:
    _insert(connection, "job_part", _PART_COLUMNS, _row(part, _PART_COLUMNS))
    _add_lines(connection, part.id, lines)


def _add_lines(connection: sqlite3.Connection, part_id: str, lines: Sequence[Line]) -> None:
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


def _discard(connection: sqlite3.Connection, files: Iterable[str | None], space: bytes) -> None:
    connection.executemany(
        "INSERT OR IGNORE INTO job_file (id, space) VALUES (?, ?)",
        [(file_id, space) for file_id in files if file_id],
    )


def _insert(
    connection: sqlite3.Connection, table: str, columns: Sequence[str], row: Sequence[Any]
) -> None:
    marks = ", ".join("?" * len(columns))
    connection.execute(
        f"INSERT INTO {table} ({_columns(columns)}) VALUES ({marks})",  # noqa: S608
        row,
    )


def _update(
    connection: sqlite3.Connection, table: str, row_id: str, values: dict[str, Any]
) -> None:
    sets = ", ".join(f'"{name}" = ?' for name in values)
    connection.execute(
        f"UPDATE {table} SET {sets} WHERE id = ?",  # noqa: S608
        (*values.values(), row_id),
    )


def _add_to(connection: sqlite3.Connection, job_id: str, amounts: dict[str, int]) -> None:
    sets = ", ".join(f'"{name}" = "{name}" + ?' for name in amounts)
    if sets:
        connection.execute(
            f"UPDATE job SET {sets} WHERE id = ?",  # noqa: S608
            (*amounts.values(), job_id),
        )


def _columns(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _row(record: Part | JobRecord, columns: Sequence[str]) -> list[Any]:
    return [getattr(record, name) for name in columns]


def _job_row(job: JobRecord) -> list[Any]:
    row = dict(zip(_JOB_COLUMNS, _row(job, _JOB_COLUMNS), strict=True))
    row["waits_for"] = json.dumps(job.waits_for)
    return list(row.values())


def _job(row: Sequence[Any]) -> JobRecord:
    job = JobRecord(**dict(zip(_JOB_COLUMNS, row, strict=True)))
    return replace(job, waits_for=tuple(json.loads(str(job.waits_for))))


def _part(row: Sequence[Any]) -> Part:
    part = Part(**dict(zip(_PART_COLUMNS, row, strict=True)))
    return replace(part, is_cancelling=bool(part.is_cancelling))


def _line(row: Sequence[Any]) -> Line:
    line_id, keys, places, tokens, sent, state, error = row
    return Line(
        id=line_id,
        keys=_keys(keys),
        places=np.frombuffer(places, dtype=_INT32),
        tokens=np.frombuffer(tokens, dtype=_INT32),
        sent=sent,
        state=state,
        error=error,
    )


def _keys(blob: bytes) -> tuple[bytes, ...]:
    return tuple(blob[start : start + KEY_BYTES] for start in range(0, len(blob), KEY_BYTES))
