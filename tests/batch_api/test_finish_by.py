"""With `finish_by`, ordinary requests take over the late part of a job."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from langchain_batch_embed import JournalError, SQLiteJournal
from langchain_batch_embed.batch_api.store import JobStore
from tests.batch_api.support import (
    FACTOR,
    START,
    Half,
    JumpingCalendar,
    assert_all_there,
    configure,
    make,
    start,
    texts_of,
)
from tests.support import LocalServer

TEXTS = texts_of(3000)


@pytest.fixture
def half(server: LocalServer, tmp_path: Path) -> Half:
    """Return a maker of embeddings whose calendar only waits move, with a journal."""
    calendar = JumpingCalendar()
    return lambda **options: make(
        server.url, tmp_path / "vectors.db", **{"_calendar": calendar, **options}
    )


@pytest.mark.parametrize("fate", ["stuck", "stuck_validating", "stuck_for_good"])
def test_a_batch_that_is_stuck_is_taken_over_in_time(
    server: LocalServer, half: Half, fate: str
) -> None:
    """Ordinary requests finish a stuck batch in time, and the report has both prices."""
    configure(server, fates=(fate,), cancelling=0.0)
    embeddings = half()
    job = embeddings.submit(TEXTS, finish_by=10)
    assert len(server.stats()["batches"]) == 1  # the Batch API gets its chance
    report = job.wait(show_progress=False)
    stats = server.stats()
    assert report.seconds < 10
    assert report.failures == ()
    assert report.half_price_tokens == 0
    assert report.full_price_tokens == stats["tokens_billed"]
    assert report.half_price_dollars == 0
    assert report.full_price_dollars == pytest.approx(stats["tokens_billed"] * 0.02e-6)
    assert report.dollars == report.full_price_dollars
    assert report.requests == stats["requests"]
    assert stats["inputs_billed"] == len(TEXTS)
    assert report.overtaken == (len(TEXTS) if fate == "stuck_for_good" else 0)
    assert stats["files"]["kept"] == 0
    assert_all_there(embeddings, TEXTS, server)


def test_what_is_in_time_stays_at_half_price(server: LocalServer, half: Half) -> None:
    """A batch that is in time stays at half price, and no ordinary request is sent."""
    configure(server)
    report = half().submit(TEXTS, finish_by=100_000).wait(show_progress=False)
    assert (report.requests, report.full_price_tokens) == (0, 0)
    assert report.half_price_tokens == server.stats()["batch_tokens_billed"]


def test_half_of_a_batch_is_kept_and_the_rest_is_taken_over(
    server: LocalServer, half: Half
) -> None:
    """Half of a late batch is kept and the rest taken over, after the batch was cancelled.

    So nothing is paid for twice.
    """
    configure(server, running=30.0, cancelling=0.0)
    texts = texts_of(30_000)
    embeddings = half()
    job = embeddings.submit(texts, finish_by=3600)
    while not server.stats()["batch_inputs_billed"]:
        time.sleep(0.05)
    report = job.wait(show_progress=False)
    stats = server.stats()
    assert stats["batches"][0]["status"] == "cancelled"
    assert stats["inputs_billed"] == stats["texts_billed_distinct"] == len(texts)
    assert report.half_price_tokens == stats["batch_tokens_billed"] > 0
    assert report.full_price_tokens == stats["tokens_billed"] > 0
    assert report.overtaken == 0
    assert report.seconds < 3600
    assert_all_there(embeddings, texts, server)


def test_what_waits_for_the_queue_is_taken_over_first(server: LocalServer, half: Half) -> None:
    """Parts that wait for the queue are taken over first, while others keep their batch."""
    configure(server, max_enqueued_tokens=60_000, fates=("ok", "stuck"), cancelling=0.0)
    texts = texts_of(20_000)  # at least 120,000 tokens
    embeddings = half()
    report = embeddings.submit(texts, finish_by=3600).wait(show_progress=False)
    stats = server.stats()
    first, second = stats["batches"]
    assert (first["status"], second["status"]) == ("failed", "cancelled")
    assert report.full_price_tokens == stats["tokens_billed"]
    assert stats["inputs_billed"] == stats["texts_billed_distinct"] == len(texts)
    assert report.overtaken == 0
    assert_all_there(embeddings, texts, server)


def test_a_moment_that_is_too_near_is_for_ordinary_requests(
    server: LocalServer, half: Half
) -> None:
    """If `finish_by` leaves no time for a batch, ordinary requests do everything."""
    configure(server)
    embeddings = half()
    report = embeddings.submit(TEXTS, finish_by=0.5).wait(show_progress=False)
    assert report.batches == 0
    assert report.full_price_tokens == server.stats()["tokens_billed"]
    assert server.stats()["inputs_billed"] == len(TEXTS)
    assert server.stats()["files"]["kept"] == 0


@pytest.mark.parametrize("kind", [timedelta, datetime])
def test_a_time_and_a_moment_are_understood(
    server: LocalServer, half: Half, kind: type[Any]
) -> None:
    """`finish_by` may be a timedelta or a datetime."""
    configure(server, fates=("stuck",), cancelling=0.0)
    span = timedelta(seconds=300)
    now = datetime.fromtimestamp(START, UTC)
    finish_by = span if kind is timedelta else now + span
    report = half().submit(TEXTS[:100], finish_by=finish_by).wait(show_progress=False)
    assert report.requests > 0
    assert 100 < report.seconds < 300


def test_a_second_submit_can_press_a_job(server: LocalServer, half: Half, tmp_path: Path) -> None:
    """A second submit of the same texts can give the job a deadline."""
    configure(server, fates=("stuck",), cancelling=0.0)
    embeddings = half()
    first = embeddings.submit(TEXTS)
    second = embeddings.submit(TEXTS, finish_by=300)
    assert first.id == second.id
    record = JobStore(SQLiteJournal(tmp_path / "vectors.db")).job(second.id)
    assert record.seconds > 0  # the time that ordinary requests will take is now known
    second.wait(show_progress=False)
    assert server.stats()["inputs_billed"] == len(TEXTS)


def test_a_job_with_only_some_of_its_texts_can_be_hastened_and_not_postponed(
    server: LocalServer, half: Half, tmp_path: Path
) -> None:
    """A submit of some texts of a job may bring its deadline forward, and never puts it off.

    Nor does it change what the whole job may cost.
    """
    configure(server, fates=("stuck",), cancelling=0.0)
    embeddings = half()
    job = embeddings.submit(TEXTS, finish_by=300, max_dollars=1)
    store = JobStore(SQLiteJournal(tmp_path / "vectors.db"))
    due = store.job(job.id).finish_by
    assert embeddings.submit(TEXTS[:50], finish_by=3000, max_dollars=0.5).id == job.id
    assert (store.job(job.id).finish_by, store.job(job.id).max_dollars) == (due, 1)
    embeddings.submit(TEXTS[:50], finish_by=100)
    assert due is not None
    assert (store.job(job.id).finish_by or due) < due - 100
    job.cancel()


def test_an_ordinary_request_that_succeeds_ends_a_row_of_failures(
    server: LocalServer, half: Half, tmp_path: Path
) -> None:
    """Nine attempts without an answer count no more once ordinary requests are answered."""
    configure(server, fates=("stuck",), cancelling=0.0)
    job = half().submit(TEXTS, finish_by=10)
    store = JobStore(SQLiteJournal(tmp_path / "vectors.db"))
    store.change_job(job.id, barren=9)
    job.wait(show_progress=False)
    assert store.job(job.id).barren == 0


def test_a_job_with_more_texts_presses_the_one_that_it_waits_for(
    server: LocalServer, half: Half
) -> None:
    """A later job with a deadline also speeds up the earlier job that has some of its texts."""
    configure(server, fates=("stuck",), cancelling=0.0)
    embeddings = half()
    embeddings.submit(TEXTS[:2000])
    job = embeddings.submit(TEXTS, finish_by=300)
    assert job.wait(show_progress=False).seconds < 300
    assert server.stats()["inputs_billed"] == len(TEXTS)


def test_max_dollars_forbids_ordinary_requests(
    server: LocalServer, half: Half, caplog: pytest.LogCaptureFixture
) -> None:
    """`max_dollars` may forbid ordinary requests; the batch is then late, and the log says why."""
    configure(server, fates=("expires",), day=2.0, expired_share=0.5)
    embeddings = half()
    plan = embeddings.plan(TEXTS)
    assert plan.dollars is not None
    job = embeddings.submit(TEXTS, finish_by=10, max_dollars=plan.dollars * 0.6)
    report = job.wait(show_progress=False)
    assert report.full_price_tokens == 0
    assert report.dollars is not None
    assert report.dollars <= plan.dollars * 0.6
    assert "max_dollars" in caplog.text
    assert_all_there(embeddings, TEXTS, server)


def test_texts_that_are_refused_end_as_failures(server: LocalServer, half: Half) -> None:
    """Texts that ordinary requests refuse end as failures without their words."""
    configure(server, fates=("stuck",), refuse_marker="section 17 ", cancelling=0.0)
    report = half().submit(TEXTS, finish_by=300).wait(show_progress=False)
    assert [failure.index for failure in report.failures] == [17]
    assert "section" not in str(report.failures[0].error)


def test_a_job_is_taken_over_a_little_at_a_time(
    server: LocalServer, half: Half, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job is taken over bit by bit, and its remaining part gets no batch of the whole file."""
    monkeypatch.setattr("langchain_batch_embed.batch_api.takeover._PORTION_SECONDS", 0.0)
    configure(server, fates=("stuck",), cancelling=0.0)
    embeddings = half()
    job = embeddings.submit(TEXTS, finish_by=300)
    while not job.refresh().finished:
        embeddings._options.calendar.sleep(10)
    assert 0 < job.status.finished < len(TEXTS)
    (part,) = job._store.parts(job.id)
    assert (part.state, part.texts) == ("packed", len(TEXTS) - job.status.finished)
    job.wait(show_progress=False)
    assert server.stats()["inputs_billed"] == len(TEXTS)
    assert len(server.stats()["batches"]) == 1


def test_what_the_journal_could_not_take_is_not_done(
    server: LocalServer, half: Half, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vectors that the journal could not store, on a full disk, are not marked as done."""
    configure(server, fates=("stuck",), cancelling=0.0)
    embeddings = half()
    job = embeddings.submit(TEXTS, finish_by=300)
    put, calls = SQLiteJournal.put, []

    def fail_first(self: SQLiteJournal, *args: Any, **options: Any) -> None:
        calls.append(args)
        if len(calls) == 1:
            raise JournalError("the disk is full")
        put(self, *args, **options)

    monkeypatch.setattr(SQLiteJournal, "put", fail_first)
    report = job.wait(show_progress=False)
    assert report.failures == ()
    assert_all_there(half(), TEXTS, server)


@pytest.mark.parametrize("point", ["before take over", "after take over"])
def test_a_crash_while_it_takes_over(server: LocalServer, tmp_path: Path, point: str) -> None:
    """After a crash during the takeover, texts that are in the journal are not sent again."""
    configure(server, fates=("stuck",))
    program = start(
        server.url,
        tmp_path / "vectors.db",
        texts=len(TEXTS),
        point=point,
        submitted={"finish_by": 6 * FACTOR},
    )
    program.communicate(timeout=60)
    assert program.returncode == -9
    (job,) = make(server.url, tmp_path / "vectors.db").jobs()
    job.wait(show_progress=False)
    stats = server.stats()
    assert stats["inputs_billed"] == stats["texts_billed_distinct"] == len(TEXTS)
