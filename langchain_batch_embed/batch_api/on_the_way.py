"""Warns before a call pays again for texts that a job of the Batch API is embedding already."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.batch_api.lock import lock_file
from langchain_batch_embed.batch_api.records import KEY_BYTES
from langchain_batch_embed.batch_api.store import JobStore
from langchain_batch_embed.errors import JournalError
from langchain_batch_embed.journal import Journal, Space, SQLiteJournal

__all__ = ["OnTheWay"]

logger = logging.getLogger(__name__)


class OnTheWay:
    """Finds texts that are on their way in a job, and logs one warning for each job.

    A journal without jobs costs a call the look for one file. A journal with unfinished jobs costs
    it a small query, and the first call also reads the keys of their texts.

    Args:
        journal: returns the journal of the calls.
    """

    def __init__(self, journal: Callable[[], Journal]) -> None:
        self._journal = journal
        self._marks: dict[str, NDArray[np.uint64]] = {}  # of each job's texts
        self._told: set[str] = set()
        self._silent = threading.local()

    def note(self, keys: Sequence[bytes], space: Space) -> None:
        """Warn if some of the texts that a call is about to send are on their way in a job.

        Args:
            keys: the journal keys of the texts.
            space: the space of the keys.
        """
        journal = self._journal()
        if (
            not isinstance(journal, SQLiteJournal)
            or getattr(self._silent, "is_on", False)
            or not lock_file(journal.path).exists()
        ):
            return
        with contextlib.suppress(JournalError):  # the call itself can do without the jobs
            self._look(JobStore(journal), keys, space)

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """Log nothing about calls of this thread, because a job makes them for its own texts."""
        self._silent.is_on = True
        try:
            yield
        finally:
            self._silent.is_on = False

    def _look(self, store: JobStore, keys: Sequence[bytes], space: Space) -> None:
        jobs = store.unfinished(space.digest) if store.exists() else []
        jobs = [job_id for job_id in jobs if job_id not in self._told]
        self._marks = {
            job_id: self._marks[job_id]
            if job_id in self._marks
            else _marks_of(store.open_keys(job_id))
            for job_id in jobs
        }
        wanted = _marks_of(b"".join(keys) if jobs else b"")
        for job_id in jobs:
            count = int(np.isin(wanted, self._marks[job_id]).sum())
            if count:
                self._told.add(job_id)
                logger.warning(
                    "%s of these texts are on their way in job %s of the Batch API, and this call "
                    "pays for them again; job.wait() is half the price",
                    f"{count:,}",
                    job_id,
                )


def _marks_of(keys: bytes) -> NDArray[np.uint64]:
    """Return the first 8 bytes of each key: 2**64 values are enough for a count in a warning."""
    table = np.frombuffer(keys, dtype=np.uint8).reshape(-1, KEY_BYTES)
    return np.ascontiguousarray(table[:, :8]).view(np.uint64).ravel()
