"""Stores jobs in the journal's SQLite file."""

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from langchain_batch_embed.batch_api import tables
from langchain_batch_embed.batch_api.records import JobRecord, Line, Part
from langchain_batch_embed.batch_api.tables import JOB_COLUMNS, LINE_COLUMNS, PART_COLUMNS
from langchain_batch_embed.errors import JournalError
from langchain_batch_embed.journal import SQLiteJournal

__all__ = ["JobStore"]

_LIMIT_HOLDS = 86_400.0
"""Seconds for which to trust the limit of enqueued tokens that a refusal gave."""


class JobStore:
    """Reads and writes the tables of the jobs; each method is one transaction.

    Args:
        journal: the journal whose file holds the tables; `prepare` makes them.
    """

    def __init__(self, journal: SQLiteJournal) -> None:
        self._journal = journal

    def prepare(self) -> None:
        """Make the tables if they are missing, and check their version."""
        with self._transaction() as connection:
            for statement in tables.SCHEMA:
                connection.execute(statement)
            connection.execute("INSERT OR IGNORE INTO job_version VALUES (?)", (tables.VERSION,))
        self._check()

    def exists(self) -> bool:
        """Return whether the tables exist; without them there are no jobs."""
        with self._journal.reading() as connection:
            found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'job_version'")
            is_there = found.fetchone() is not None
        if is_there:
            self._check()
        return is_there

    def add(self, job: JobRecord, parts: Sequence[tuple[Part, Sequence[Line]]]) -> None:
        """Add a job with its parts and their lines."""
        with self._transaction() as connection:
            tables.insert_job(connection, job)
            for part, lines in parts:
                tables.add_part(connection, part, lines)

    def jobs(self) -> list[JobRecord]:
        """Return all jobs, unfinished ones before ended ones, and each group newest first."""
        with self._journal.reading() as connection:
            rows = connection.execute(
                f"SELECT {JOB_COLUMNS} FROM job "  # noqa: S608  # our own names
                "ORDER BY ended IS NOT NULL, created DESC"
            )
            return [tables.job_from(row) for row in rows]

    def job(self, job_id: str) -> JobRecord:
        """Return one job."""
        with self._journal.reading() as connection:
            row = connection.execute(
                f"SELECT {JOB_COLUMNS} FROM job WHERE id = ?",  # noqa: S608
                (job_id,),
            ).fetchone()
        if row is None:
            raise JournalError(f"the journal has no job {job_id!r}; jobs() lists those it has")
        return tables.job_from(row)

    def change_job(self, job_id: str, **values: Any) -> None:
        """Set some columns of a job."""
        with self._transaction() as connection:
            tables.update(connection, "job", job_id, **values)

    def add_to_job(self, job_id: str, **amounts: int) -> None:
        """Add amounts to some of a job's counts."""
        with self._transaction() as connection:
            tables.add_to_job(connection, job_id, amounts)

    def parts(self, job_id: str) -> list[Part]:
        """Return the parts of a job that are not closed, in order."""
        with self._journal.reading() as connection:
            rows = connection.execute(
                f"SELECT {PART_COLUMNS} FROM job_part "  # noqa: S608
                "WHERE job = ? AND state != 'closed' ORDER BY number, id",
                (job_id,),
            )
            return [tables.part_from(row) for row in rows]

    def part(self, part_id: str) -> Part:
        """Return one part."""
        with self._journal.reading() as connection:
            row = connection.execute(
                f"SELECT {PART_COLUMNS} FROM job_part WHERE id = ?",  # noqa: S608
                (part_id,),
            ).fetchone()
        return tables.part_from(row)

    def save_part(self, part: Part) -> Part:
        """Write a part to its row, and return the part."""
        with self._transaction() as connection:
            tables.update_part(connection, part)
        return part

    def lines(self, part_id: str, *, only_open: bool = True) -> list[Line]:
        """Return a part's lines, in order."""
        states = "AND state = 'open'" if only_open else ""
        with self._journal.reading() as connection:
            rows = connection.execute(
                f"SELECT {LINE_COLUMNS} FROM job_line "  # noqa: S608
                f"WHERE part = ? {states} ORDER BY number",
                (part_id,),
            )
            return [tables.line_from(row) for row in rows]

    def finish_lines(
        self, job_id: str, done: Sequence[str], *, answered_by: str | None = None, **amounts: int
    ) -> None:
        """Record that the vectors of some lines are in the journal, and what they cost."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE job_line SET state = 'done' WHERE id = ? AND state = 'open'",
                [(line_id,) for line_id in done],
            )
            tables.add_to_job(connection, job_id, amounts)
            if answered_by is not None:
                tables.update(connection, "job", job_id, answered_by=answered_by)

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
        """Close a part, and replace its open lines by lines in new parts or by lost lines.

        Args:
            part: the part.
            successors: the new parts, each with its lines.
            lost: lines that are not sent again, because they have failed or are cancelled.
            unneeded: files at the server to delete; `None` entries are ignored.
            space: the digest of the job's space.
            barren: the job's new count of batches without an answer; `None` to leave it.
            half_tokens: tokens billed for answers that cannot be used.
        """
        with self._transaction() as connection:
            connection.execute("DELETE FROM job_line WHERE part = ? AND state = 'open'", (part.id,))
            for new, lines in successors:
                tables.add_part(connection, new, lines)
            tables.add_lines(connection, part.id, lost)
            tables.update(connection, "job_part", part.id, state="closed")
            tables.discard_files(connection, unneeded, space)
            if barren is not None:
                tables.update(connection, "job", part.job, barren=barren)
            tables.add_to_job(connection, part.job, {"half_tokens": half_tokens})

    def take_over(
        self,
        part: Part,
        done: Sequence[str],
        pieces: Sequence[Line],
        successor: tuple[Part, Sequence[Line]] | None,
        **amounts: int,
    ) -> None:
        """Close a part after ordinary requests have embedded some of its texts.

        The remaining lines move into a new part at once. A batch of the old part's file would pay
        again for the texts that are already embedded.

        Args:
            part: the part.
            done: ids of the lines whose texts all have their vectors.
            pieces: lines that replace open ones, and are done or have failed.
            successor: a new part with all remaining lines; `None` if none remain.
            amounts: amounts to add to the job's counts.
        """
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE job_line SET state = 'done' WHERE id = ?",
                [(line_id,) for line_id in done],
            )
            connection.execute("DELETE FROM job_line WHERE part = ? AND state = 'open'", (part.id,))
            tables.add_lines(connection, part.id, pieces)
            if successor is not None:
                tables.add_part(connection, *successor)
            tables.update(connection, "job_part", part.id, state="closed")
            tables.add_to_job(connection, part.job, amounts)

    def release_files(self, space: bytes) -> None:
        """Mark the files of closed parts for deletion, unless another part needs their texts."""
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
        """Return the ids of the files at the server that are to be deleted."""
        with self._journal.reading() as connection:
            rows = connection.execute("SELECT id FROM job_file WHERE space = ?", (space,))
            return [file_id for (file_id,) in rows]

    def forget_file(self, file_id: str) -> None:
        """Record that a file at the server is deleted."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM job_file WHERE id = ?", (file_id,))

    def counts(self, job_id: str) -> dict[tuple[str, str, str | None], int]:
        """Return how many texts are in each state, by the states of their line and their part.

        Returns:
            (state of the line, state of the part, id of the part if it is running) -> texts.
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

    def lost(self, job_id: str) -> list[Line]:
        """Return the lines of a job that have failed or are cancelled."""
        with self._journal.reading() as connection:
            rows = connection.execute(
                f"SELECT {LINE_COLUMNS} FROM job_line "  # noqa: S608
                "JOIN job_part ON job_part.id = job_line.part "
                "WHERE job_part.job = ? AND job_line.state IN ('failed', 'cancelled')",
                (job_id,),
            )
            return [tables.line_from(row) for row in rows]

    def pending(self, space: bytes) -> dict[bytes, tuple[str, bool]]:
        """Return the keys of the texts of all jobs that have not ended and are not cancelled.

        Returns:
            The key -> the id of its job, and whether its vector is still to come.
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
                found.update(dict.fromkeys(tables.keys_from(keys), (job_id, bool(is_open))))
        return found

    def unfinished(self, space: bytes) -> list[str]:
        """Return the ids of the jobs that have not ended and are not cancelled."""
        with self._journal.reading() as connection:
            rows = connection.execute(
                "SELECT id FROM job WHERE space = ? AND ended IS NULL AND cancelled IS NULL",
                (space,),
            )
            return [job_id for (job_id,) in rows]

    def open_keys(self, job_id: str) -> bytes:
        """Return the keys of a job's texts whose vectors are still to come, one after the other."""
        with self._journal.reading() as connection:
            rows = connection.execute(
                "SELECT job_line.keys FROM job_line "
                "JOIN job_part ON job_part.id = job_line.part "
                "WHERE job_part.job = ? AND job_line.state = 'open'",
                (job_id,),
            )
            return b"".join(keys for (keys,) in rows)

    def enqueued(self, space: bytes) -> int:
        """Return the tokens of all batches that may still be in the queue."""
        with self._journal.reading() as connection:
            (tokens,) = connection.execute(
                "SELECT coalesce(sum(job_part.tokens), 0) FROM job_part "
                "JOIN job ON job.id = job_part.job "
                "WHERE job.space = ? AND job_part.state IN ('asked', 'running')",
                (space,),
            ).fetchone()
        return int(tokens)

    def let_queue_move(self, space: bytes) -> None:
        """Let parts that wait for room in the queue try again now, because a batch has ended."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE job_part SET not_before = 0 WHERE trouble = 'queue' AND job IN "
                "(SELECT id FROM job WHERE space = ?)",
                (space,),
            )

    def limit(self, space: bytes, *, now: float) -> float:
        """Return the limit of enqueued tokens that a refusal of the last day gave, or infinity."""
        with self._journal.reading() as connection:
            row = connection.execute(
                "SELECT tokens FROM job_limit WHERE space = ? AND learnt >= ?",
                (space, now - _LIMIT_HOLDS),
            ).fetchone()
        return float("inf") if row is None else float(row[0])

    def learn_limit(self, space: bytes, tokens: int, now: float) -> None:
        """Record the limit of enqueued tokens that a refusal gave."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO job_limit (space, tokens, learnt) VALUES (?, ?, ?)",
                (space, tokens, now),
            )

    def end(self, job_id: str, now: float) -> None:
        """Record that a job has ended, and delete the keys of the texts that have their vectors."""
        with self._transaction() as connection:
            tables.update(connection, "job", job_id, ended=now)
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
        if version != tables.VERSION:
            raise JournalError(
                f"the jobs in the journal {self._journal.path} have version {version}, and this "
                f"release of langchain-batch-embed knows version {tables.VERSION}; finish the "
                "jobs with the release that wrote them, or use another journal",
                path=str(self._journal.path),
            )
