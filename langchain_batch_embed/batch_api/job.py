"""`Job`: the work of one `submit` call, made in this process or read from the journal."""

import logging
import time
from collections.abc import Callable
from datetime import timedelta

from tqdm.auto import tqdm

from langchain_batch_embed.batch_api.faults import passes
from langchain_batch_embed.batch_api.lock import jobs_lock
from langchain_batch_embed.batch_api.records import JobRecord, Line
from langchain_batch_embed.batch_api.status import JobReport, JobStatus
from langchain_batch_embed.batch_api.store import JobStore
from langchain_batch_embed.batch_api.worker import Worker
from langchain_batch_embed.clock import Calendar
from langchain_batch_embed.errors import (
    BatchEmbeddingsError,
    Failure,
    JobError,
    JobTimeoutError,
    OptionError,
)
from langchain_batch_embed.journal import SQLiteJournal
from langchain_batch_embed.options import amount
from langchain_batch_embed.report import BATCH_API_SHARE, html_table

__all__ = ["Job", "not_answering"]

logger = logging.getLogger(__name__)

_OTHERS = 1.0
"""Seconds between two looks at a job while another process works on it."""

_FIRST_PAUSE, _LAST_PAUSE = 1.0, 60.0
"""First and longest pause in seconds while the server cannot be reached; the pause doubles."""

_DRAWN_EVERY = 1.0
"""Seconds between two redraws of the progress bar."""

_MOST_SILENCE = 86_400.0
"""Seconds without an answer from the server after which `Job.wait` gives up."""


class Job:
    """A set of texts being embedded by the Batch API, at half the price.

    `BatchEmbeddings.submit` makes a job, and `BatchEmbeddings.jobs` finds it again, also in another
    process. The job's vectors go into the journal, where every later call finds them. The journal
    also holds the whole state of the job, except for its texts. Those stay in files at the provider
    until their vectors have arrived, so that any process can send the unfinished ones again.

    Attributes:
        id: the job's name.
        model: the model that makes the vectors.
        created: when the job was submitted, in seconds since 1970.
    """

    def __init__(
        self,
        record: JobRecord,
        *,
        journal: SQLiteJournal,
        store: JobStore,
        worker: Callable[[], Worker],
        space: bytes,
        address: str,
        calendar: Calendar,
    ) -> None:
        self.id = record.id
        self.model = record.model
        self.created = record.created
        self._space = record.space
        self._journal = journal
        self._store = store
        self._make_worker = worker
        self._own_space = space
        self._address = address
        self._calendar = calendar
        self._stranded = 0

    @property
    def status(self) -> JobStatus:
        """The job's progress as recorded in the journal; `refresh` asks the server."""
        job = self._store.job(self.id)
        counts = self._store.counts(self.id)
        running = {part.id: part.answered for part in self._store.parts(self.id)}
        waiting = in_batches = 0
        answered = 0.0
        by_state = dict.fromkeys(("done", "failed", "cancelled"), 0)
        for (state, part_state, part), texts in counts.items():
            if state != "open":
                by_state[state] += texts
            elif part_state in ("running", "ended"):
                in_batches += texts
                answered += texts * (running.get(part or "", 0.0) if part else 1.0)
            else:
                waiting += texts
        shared = job.shared
        is_there = all(self._store.job(other).ended is not None for other in job.waits_for)
        return JobStatus(
            texts=job.inputs + shared,
            waiting=waiting,
            running=in_batches + (0 if is_there else shared),
            answered=int(answered),
            finished=by_state["done"] + (shared if is_there else 0),
            failed=by_state["failed"],
            cancelled=by_state["cancelled"],
            has_ended=job.ended is not None,
        )

    @property
    def report(self) -> JobReport:
        """What the job has done and cost so far."""
        job = self._store.job(self.id)
        end = self._calendar.time() if job.ended is None else job.ended
        price = None if job.price is None else job.price / 1e6
        lost = self._store.lost(self.id)
        failures = {
            place: Failure(index=place, error=_error(line))
            for line in lost
            for place in line.places.tolist()
        }
        cancelled = {
            place for line in lost if line.state == "cancelled" for place in line.places.tolist()
        }
        return JobReport(
            texts=job.texts,
            unique=job.unique,
            from_journal=job.recalled,
            batches=job.batches,
            requests=job.requests,
            half_price_tokens=job.half_tokens,
            full_price_tokens=job.full_tokens,
            half_price_dollars=None if price is None else BATCH_API_SHARE * job.half_tokens * price,
            full_price_dollars=None if price is None else job.full_tokens * price,
            overtaken=job.overtaken,
            seconds=max(0.0, end - job.created),
            cancelled=len(cancelled),
            failures=tuple(failures[place] for place in sorted(failures)),
        )

    def refresh(self) -> JobStatus:
        """Do everything that can be done now, and return the job's progress.

        Poll the server, read new answers into the journal, and send unanswered texts again if the
        queue has room. While another process works on the job, only read its progress from the
        journal.

        Raises:
            Exception: whatever the SDK raises. Nothing is lost, and the next call continues.
        """
        self._round()
        return self.status

    def wait(
        self, timeout: float | timedelta | None = None, *, show_progress: bool = True
    ) -> JobReport:
        """Wait until every text has its vector in the journal, or has failed.

        The server is polled every few seconds at first and every minute later. If a batch expires,
        fails or is only partly answered, its unanswered texts are read back from its file at the
        provider and sent again. If the server cannot be reached, the wait goes on for up to a day.
        Several processes may wait for one job. One of them works on it, and the others watch.

        Args:
            timeout: seconds to wait, or a `timedelta`; `None` to wait as long as it takes.
            show_progress: show a `tqdm.auto` bar that counts texts.

        Returns:
            What the job did and cost; its `failures` are the texts without a vector.

        Raises:
            JobTimeoutError: the job has not ended in time. It continues at the server.
            JobError: the job cannot continue.
            OptionError: the job belongs to another model or server than this object's, or
                `timeout` is not a number of seconds.
            JournalError: the journal cannot be read or written.
            DimensionsError, ModelError: the vectors do not match earlier ones.
        """
        timeout = _seconds(timeout)
        started = heard = self._calendar.time()
        pause = _FIRST_PAUSE
        with tqdm(total=self.status.texts, unit=" texts", disable=not show_progress) as bar:
            while True:
                trouble = ""
                try:
                    delay = self._round()
                    heard, pause = self._calendar.time(), _FIRST_PAUSE
                except Exception as error:
                    if not passes(error) or self._calendar.time() - heard > _MOST_SILENCE:
                        raise
                    trouble = not_answering(self._address, error, pause)
                    logger.log(
                        logging.WARNING if pause == _FIRST_PAUSE else logging.INFO, "%s", trouble
                    )
                    delay, pause = pause, min(_LAST_PAUSE, 2 * pause)
                status = self.status
                _show(bar, status, trouble)
                if status.has_ended:
                    break
                if self._stranded and self._stranded >= status.waiting + status.running:
                    raise JobError(
                        f"{self._stranded:,} texts of job {self.id} were not uploaded before the "
                        "process that submitted them ended; call submit() with them again",
                        job=self.id,
                    )
                left = float("inf") if timeout is None else started + timeout
                left -= self._calendar.time()
                if left <= 0:
                    raise JobTimeoutError(
                        f"job {self.id} has not ended after {timeout:g} s ({status}); it "
                        "continues at the server; call wait() again to continue waiting",
                        job=self.id,
                    )
                self._pause(max(0.0, min(delay, left, _LAST_PAUSE)), bar)
        self._check()
        return self.report

    def cancel(self) -> None:
        """Ask the server to cancel the job's batches, and send nothing more.

        Answers that already exist are paid for, and `wait` reads them into the journal.
        """
        self._belongs()
        self._store.prepare()
        if self._store.job(self.id).ended is None:
            self._store.change_job(self.id, cancelled=self._calendar.time())
            self._round()

    def __str__(self) -> str:
        """Return one line for a log or a print."""
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.created))
        return f"job {self.id[:8]} of {day}, {self.model}: {self.status}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return a small table, for notebooks."""
        status = self.status
        rows = {
            "model": self.model,
            "texts": f"{status.texts:,}",
            "waiting": f"{status.waiting:,}",
            "running": f"{status.running:,} ({status.answered:,} answered)",
            "finished": f"{status.finished:,}",
            "failed": f"{status.failed:,}",
            "cancelled": f"{status.cancelled:,}",
        }
        return html_table(f"Job {self.id[:8]}", rows)

    def _round(self) -> float:
        """Work on the job unless another process does; return the seconds until the next round."""
        if self._store.job(self.id).ended is not None:
            return float("inf")
        self._belongs()
        with jobs_lock(self._journal.path) as is_held:
            if not is_held:
                return _OTHERS
            worker = self._make_worker()
            try:
                return worker.round(self.id)
            finally:
                self._stranded = worker.stranded

    def _pause(self, seconds: float, bar: "tqdm[object]") -> None:
        """Wait, and keep the clock of the progress bar running."""
        end = self._calendar.time() + seconds
        while not bar.disable and end - self._calendar.time() > _DRAWN_EVERY:
            self._calendar.sleep(_DRAWN_EVERY)
            bar.refresh()
        self._calendar.sleep(max(0.0, end - self._calendar.time()))

    def _belongs(self) -> None:
        if self._space != self._own_space:
            raise OptionError(
                f"job {self.id} belongs to {self.model} with other options, or to another "
                "server; wrap an object with the same model, options and server as the one that "
                "submitted it"
            )

    def _check(self) -> None:
        fatal = self._store.job(self.id).fatal
        if fatal is not None:
            raise JobError(
                f"job {self.id} cannot continue: {fatal}. Its finished vectors are in the "
                "journal; embed_documents sends the other texts, as does submit() once the "
                "cause is fixed",
                job=self.id,
            )


def _seconds(timeout: float | timedelta | None) -> float | None:
    """Return a time-out in seconds, which may be 0.

    Raises:
        OptionError: it is no number of seconds, or below 0.
    """
    if isinstance(timeout, timedelta):
        timeout = timeout.total_seconds()
    is_zero = timeout == 0 and not isinstance(timeout, bool)
    return 0.0 if is_zero else amount("timeout", timeout)


def not_answering(address: str, error: BaseException, pause: float) -> str:
    """Return a log line about a silent server, without its message, which may hold a key."""
    status = getattr(error, "status_code", None)
    what = f"{status} {type(error).__name__}" if isinstance(status, int) else type(error).__name__
    return f"the server at {address} does not answer ({what}), next try in {pause:g} s"


def _show(bar: "tqdm[object]", status: JobStatus, trouble: str) -> None:
    done = status.finished + status.failed + status.cancelled + status.answered
    bar.update(min(status.texts, done) - bar.n)
    bar.set_postfix_str(trouble or str(status).partition(": ")[2])


def _error(line: Line) -> BatchEmbeddingsError:
    if line.state == "cancelled":
        return BatchEmbeddingsError("the text has no vector: its job was cancelled")
    return BatchEmbeddingsError(f"the text has no vector: {line.error or 'refused'}")
