"""Implements `submit` and `jobs`, which accept texts as jobs and find jobs again."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.batch_api.faults import passes
from langchain_batch_embed.batch_api.files import octets_of
from langchain_batch_embed.batch_api.job import Job, not_answering
from langchain_batch_embed.batch_api.lock import jobs_lock
from langchain_batch_embed.batch_api.packing import group, lines_of, new_part
from langchain_batch_embed.batch_api.records import JobRecord, Line, Part
from langchain_batch_embed.batch_api.service import BatchService
from langchain_batch_embed.batch_api.store import JobStore
from langchain_batch_embed.batch_api.tools import EmbedNow, Tools, known, new_id
from langchain_batch_embed.batch_api.worker import Worker
from langchain_batch_embed.clock import Calendar
from langchain_batch_embed.errors import JournalError, OptionError
from langchain_batch_embed.journal import Journal, SQLiteJournal, content_keys
from langchain_batch_embed.limits import AZURE, Limits, plain
from langchain_batch_embed.options import amount
from langchain_batch_embed.pacing.diagnosis import diagnose
from langchain_batch_embed.providers import Provider
from langchain_batch_embed.providers.openai import OpenAIProvider
from langchain_batch_embed.report import (
    BATCH_API_SHARE,
    DOLLARS_PER_MILLION_TOKENS,
    Usage,
    dollars,
    plural,
)
from langchain_batch_embed.texts.inputs import Inputs, check_texts

__all__ = ["Desk", "FinishBy"]

logger = logging.getLogger(__name__)

FinishBy = float | timedelta | datetime
"""Seconds from now, a `timedelta` from now, or a point in time."""

_BUSY = 0.5
"""Seconds between two attempts to get the lock of the jobs."""

_TOLD = 60.0
"""Seconds between two log lines that report the wait for the lock."""

_LONGEST_BUSY = 3600.0
"""Seconds after which the wait for the lock gives up; one round of a job takes minutes."""

_ROUNDS = 5
"""Most rounds of work in one `submit`; a round may cut files, which the next one uploads."""

_FIRST_PAUSE, _LAST_PAUSE = 1.0, 64.0
"""First and last pause in seconds between attempts to reach the server; the pause doubles."""

_UNREACHED_PAUSE = 8.0
"""The last pause if there is not even a connection, as the address may be wrong."""


@dataclass(frozen=True, kw_only=True)
class Desk:
    """Accepts the jobs of one `BatchEmbeddings`, and finds them again.

    Attributes:
        journal: the object's journal.
        provider: sends the object's requests.
        limits: the limits of a request.
        prepare: turns the caller's texts into the inputs to send.
        embed_now: embeds texts by ordinary requests, into the journal.
        seconds: returns how many seconds ordinary requests would take for some rows of the inputs.
        agree: raises if vectors of these dimensions and this model differ from earlier ones.
        expect_model: sets the model that earlier answers named.
        on_usage: called for each billed line of a batch.
        max_dollars: the most that a job may cost if `submit` sets no limit.
        calendar: gives the time, and sleeps.
    """

    journal: Journal
    provider: Provider
    limits: Limits
    prepare: Callable[[Sequence[str]], Inputs]
    embed_now: EmbedNow
    seconds: Callable[[Inputs, NDArray[np.intp]], float]
    agree: Callable[[int, str | None], None]
    expect_model: Callable[[str | None], None]
    on_usage: Callable[[Usage], object] | None
    max_dollars: float | None
    calendar: Calendar

    def submit(
        self,
        texts: Iterable[str],
        *,
        finish_by: FinishBy | None = None,
        max_dollars: float | None = None,
    ) -> Job:
        """Accept texts as a job; see `BatchEmbeddings.submit`."""
        journal = self._journal()
        tools = self._tools(journal)
        store = tools.store
        deadline = _moment(finish_by, self.calendar.time())
        max_dollars = amount("max_dollars", max_dollars)
        given = check_texts(texts)
        inputs = self.prepare(given)
        keys = content_keys(inputs.texts, tools.space)
        # Report a wrong key or server now, before anything is written or uploaded.
        self._patiently(tools.service.newest, is_enough=lambda: False)
        store.prepare()
        with self._locked(journal):
            done = known(journal, keys)
            missing = inputs.missing(done)
            pending = store.pending(tools.space.digest)
            # A job that has all its vectors also counts until its end is recorded.
            jobs = dict.fromkeys(pending[key][0] for key in keys if key in pending)
            fresh = np.array(
                [row for row in missing.tolist() if not pending.get(keys[row], ("", False))[1]],
                np.intp,
            )
            is_whole = False  # whether these are all the texts that one job has left
            if len(jobs) == 1 and not fresh.size:
                job_id = next(iter(jobs))
                is_whole = {key for key in pending if pending[key][0] == job_id} <= set(keys)
                if max_dollars is not None and is_whole:
                    store.change_job(job_id, max_dollars=max_dollars)
            else:
                record = self._record(
                    given, inputs, fresh, deadline, max_dollars, recalled=inputs.settled(done)
                )
                record = replace(record, shared=missing.size - fresh.size, waits_for=tuple(jobs))
                limit = store.limit(tools.space.digest, now=self.calendar.time())
                job_id = record.id
                store.add(record, self._parts(record.id, inputs, keys, fresh, limit))
            # These jobs have some of the texts, which are late if the jobs are.
            late = [
                job
                for job in map(store.job, jobs)
                if deadline is not None and (is_whole or (job.finish_by or math.inf) > deadline)
            ]
            if late:
                rate = self._seconds_per_token(inputs, missing)
                for job in late:
                    store.change_job(job.id, finish_by=deadline, seconds=rate * job.tokens)
            texts_by_key = {keys[row]: inputs.texts[row] for row in missing.tolist()}
            self._begin(Worker(tools, texts_by_key), store, job_id)
        return self._job(store.job(job_id), store)

    def jobs(self) -> list[Job]:
        """Return the jobs in the journal; see `BatchEmbeddings.jobs`."""
        store = JobStore(self._journal())
        return [self._job(record, store) for record in store.jobs()] if store.exists() else []

    def _begin(self, worker: Worker, store: JobStore, job_id: str) -> None:
        """Upload a job's files and create its first batches."""

        def upload() -> None:
            for _ in range(_ROUNDS):
                due = worker.round(job_id, takes_over=False)
                if due > 0 or self._are_uploaded(store, job_id):
                    break

        # Once all files are uploaded, `wait` does the rest.
        self._patiently(upload, is_enough=lambda: self._are_uploaded(store, job_id))

    def _patiently(self, call: Callable[[], object], *, is_enough: Callable[[], bool]) -> None:
        """Repeat a call until it succeeds or has done enough.

        That takes about two minutes at most, and 15 s if there is not even a connection.
        """
        pause = _FIRST_PAUSE
        while True:
            try:
                call()
            except Exception as error:
                if not passes(error):
                    raise
                if is_enough():
                    return
                if pause > (_LAST_PAUSE if diagnose(error).reached else _UNREACHED_PAUSE):
                    error.add_note(f"the server at {self.provider.address} does not answer")
                    raise
                logger.warning("%s", not_answering(self.provider.address, error, pause))
            else:
                return
            self.calendar.sleep(pause)
            pause *= 2

    @staticmethod
    def _are_uploaded(store: JobStore, job_id: str) -> bool:
        return all(part.state not in ("packed", "uploading") for part in store.parts(job_id))

    def _record(
        self,
        given: Sequence[str],
        inputs: Inputs,
        fresh: NDArray[np.intp],
        deadline: float | None,
        max_dollars: float | None,
        *,
        recalled: int,
    ) -> JobRecord:
        """Return the record of a new job.

        Raises:
            OptionError: the job would cost more than `max_dollars`.
        """
        model = self.provider.model or ""
        price = DOLLARS_PER_MILLION_TOKENS.get(model)
        if max_dollars is None:
            max_dollars = self.max_dollars
        if max_dollars is not None:
            _check_price(model, price, int(inputs.tokens[fresh].sum()), max_dollars)
        now = self.calendar.time()
        return JobRecord(
            id=new_id(),
            space=self.provider.space.digest,
            model=model,
            created=now,
            finish_by=deadline,
            max_dollars=max_dollars,
            price=price,
            texts=len(given),
            unique=inputs.unique,
            recalled=recalled,
            inputs=fresh.size,
            tokens=int(inputs.sizes.tokens[fresh].sum()),
            seconds=0.0 if deadline is None or not fresh.size else self.seconds(inputs, fresh),
            ended=None,
        )

    def _seconds_per_token(self, inputs: Inputs, rows: NDArray[np.intp]) -> float:
        """Return the expected seconds of ordinary requests per token of these inputs; 0 for none.

        The rate stands for all inputs of a job that gets a deadline after it was submitted.
        """
        if not rows.size:
            return 0.0
        return self.seconds(inputs, rows) / max(1, int(inputs.sizes.tokens[rows].sum()))

    def _parts(
        self,
        job_id: str,
        inputs: Inputs,
        keys: Sequence[bytes],
        rows: NDArray[np.intp],
        limit: float,
    ) -> list[tuple[Part, Sequence[Line]]]:
        """Cut the inputs of these rows into lines, and group the lines into files."""
        most = self.limits.max_tokens_per_request
        lines = lines_of(
            [keys[row] for row in rows.tolist()],
            _places(inputs)[rows],
            inputs.sizes.tokens[rows].astype(np.int32),
            max_items=self.limits.max_batch_size,
            max_tokens=int(min(limit, most)) if most is not None else None,
            name=new_id,
        )
        octets = dict(
            zip(
                (keys[row] for row in rows.tolist()),
                octets_of([inputs.texts[row] for row in rows.tolist()]),
                strict=True,
            )
        )
        files = group(
            lines,
            max_tokens=limit,
            octets=lambda line: sum(octets[key] for key in line.keys),
        )
        return [
            (new_part(file, job=job_id, number=number, name=new_id), file)
            for number, file in enumerate(files)
        ]

    def _job(self, record: JobRecord, store: JobStore) -> Job:
        journal = self._journal()
        return Job(
            record,
            journal=journal,
            store=store,
            worker=lambda: Worker(self._tools(journal)),
            space=self.provider.space.digest,
            address=self.provider.address,
            calendar=self.calendar,
        )

    def _journal(self) -> SQLiteJournal:
        if not isinstance(self.journal, SQLiteJournal):
            raise OptionError(
                "the Batch API answers hours later, so it needs a journal in a file: pass "
                'journal="vectors.db" to BatchEmbeddings'
            )
        return self.journal

    def _tools(self, journal: SQLiteJournal) -> Tools:
        """Return what a worker needs.

        Raises:
            OptionError: the wrapped object has no Batch API for embeddings.
        """
        provider = self.provider
        if not isinstance(provider, OpenAIProvider):
            raise OptionError(
                "the Batch API exists only at OpenAI: wrap an OpenAIEmbeddings, or a subclass "
                "that does not override embed_documents. Without the Batch API, embed_documents "
                "works with any class"
            )
        if self.limits.provider == AZURE.provider or ".azure.com" in provider.address:
            raise OptionError(
                "Azure's Batch API does not support embeddings, according to its documentation; "
                "nothing was uploaded. Use embed_documents"
            )
        return Tools(
            store=JobStore(journal),
            service=BatchService(provider.client, provider.address),
            journal=journal,
            space=provider.space,
            dimensions=provider.dimensions,
            body=provider.request_body(),
            empty=provider.empty_in_batches,
            agree=self.agree,
            expect_model=self.expect_model,
            embed_now=self.embed_now,
            note_usage=self._note_usage,
            calendar=self.calendar,
        )

    def _note_usage(self, model: str | None, texts: int, tokens: int) -> None:
        if self.on_usage is not None:
            full = dollars(self.provider.model, tokens)
            price = None if full is None else BATCH_API_SHARE * full
            self.on_usage(
                Usage(model=model or self.provider.model, texts=texts, tokens=tokens, dollars=price)
            )

    @contextmanager
    def _locked(self, journal: SQLiteJournal) -> Iterator[None]:
        """Hold the lock of the journal's jobs, after waiting for a process that holds it.

        Raises:
            JournalError: another process has held the lock for an hour.
        """
        began, told = self.calendar.time(), -math.inf
        while (now := self.calendar.time()) < began + _LONGEST_BUSY:
            with jobs_lock(journal.path) as is_held:
                if is_held:
                    yield
                    return
            if now >= told + _TOLD:
                told = now
                logger.warning(
                    "waiting for another process that works on the jobs of %s", journal.path
                )
            self.calendar.sleep(_BUSY)
        raise JournalError(
            f"another process has worked on the jobs of {journal.path} for an hour; nothing was "
            "uploaded. Try again when it has ended"
        )


def _places(inputs: Inputs) -> NDArray[np.int32]:
    """Return for each row the index of the first of the caller's texts that needs the row."""
    places = np.zeros(len(inputs.texts), np.int32)
    count = len(inputs.row_of)
    places[inputs.row_of[::-1]] = np.arange(count - 1, -1, -1, dtype=np.int32)
    for row, (windows, _) in inputs.windows.items():
        for window in windows:
            if window >= inputs.unique:
                places[window] = places[row]
    return places


def _moment(finish_by: FinishBy | None, now: float) -> float | None:
    """Return the deadline in seconds since 1970.

    Raises:
        OptionError: `finish_by` is not a time, is not in the future, or has no time zone.
    """
    if finish_by is None:
        return None
    if isinstance(finish_by, datetime):
        if finish_by.tzinfo is None:
            raise OptionError("finish_by needs a time zone, as in datetime.now().astimezone()")
        if (moment := finish_by.timestamp()) <= now:
            raise OptionError(f"finish_by must be in the future, not {finish_by.isoformat()}")
        return moment
    seconds = finish_by.total_seconds() if isinstance(finish_by, timedelta) else plain(finish_by)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise OptionError(
            "finish_by must be seconds from now, a timedelta or a datetime, not "
            f"{type(finish_by).__name__}"
        )
    if not 0 < seconds < math.inf:
        raise OptionError(f"finish_by must be more than 0 seconds from now, not {seconds:g}")
    return now + seconds


def _check_price(model: str, price: float | None, tokens: int, most: float) -> None:
    if price is None:
        raise OptionError(
            f"max_dollars cannot be applied, because the price of {model} is not known; leave it "
            "out"
        )
    cost = BATCH_API_SHARE * tokens * price / 1e6
    if cost > most:
        raise OptionError(
            f"{plural(tokens, 'token')} cost about ${cost:.4g} at half price, which is more than "
            f"max_dollars (${most:.4g}); nothing was uploaded. Submit fewer texts or raise "
            "max_dollars"
        )
