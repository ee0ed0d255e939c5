"""Calls that end early, at a deadline or by an interrupt, stop their requests and keep the rest."""

import asyncio
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_mock import MockerFixture

from langchain_batch_embed import BatchEmbeddings, DeadlineError, PartialEmbeddingsError
from tests.support import FakeClock, LocalServer, assert_right, treat_as_known, wait_until

Batch = Callable[..., BatchEmbeddings]

TEXTS = [f"section {i}" for i in range(2000)]


class TestDeadlines:
    """Time limits hold whatever the server does, and finished vectors are handed over."""

    @pytest.mark.parametrize("fault", ["hang", "drip"])
    def test_a_server_that_does_not_end_is_left_at_the_deadline(
        self, batch: Batch, server: LocalServer, clock: FakeClock, fault: str
    ) -> None:
        """A hung or dripping request is abandoned at the deadline.

        The error carries the vectors of the other requests.
        """
        server.configure(script=("ok", "ok", fault, "ok"), drip_seconds=0.05)
        embeddings = treat_as_known(
            batch(max_workers=2, max_batch_size=100, deadline=2.5, timeout=60)
        )
        in_flight = embeddings._pipeline.dispatcher.sender.pacers[0].in_flight
        clock.watched = [  # no time passes before the others are answered
            lambda: len(in_flight) > 1 or server.stats()["by_status"].get("200", 0) < 3
        ]
        clock.longest_patience = 60
        with pytest.raises(PartialEmbeddingsError) as caught:
            embeddings.embed_numpy(TEXTS[:400])
        cause = caught.value.__cause__
        assert isinstance(cause, DeadlineError)
        assert cause.deadline == 2.5  # as given by the user, not the remaining time
        assert len(caught.value.failures) == 100
        assert clock.time == 2.5

    @pytest.mark.parametrize("fault", ["hang", "drip"])
    def test_the_time_out_of_a_request_makes_it_be_sent_again(
        self, batch: Batch, server: LocalServer, fault: str
    ) -> None:
        """A request without an answer in `timeout` seconds is abandoned and repeated."""
        server.configure(script=(fault, "ok"), drip_seconds=0.05)
        embeddings = batch(timeout=1.5)
        assert_right(embeddings.embed_numpy(["a"]), ["a"])
        assert server.stats()["requests"] == 2

    def test_a_wait_beyond_the_deadline_is_not_waited_for(
        self, batch: Batch, server: LocalServer, clock: FakeClock
    ) -> None:
        """A `retry-after: 3600` with a deadline of 60 s ends the call at the deadline."""
        server.configure(script=("ok", "429"), retry_after=3600)
        embeddings = batch(deadline=60, max_workers=1, max_batch_size=100)
        in_flight = embeddings._pipeline.dispatcher.sender.pacers[0].in_flight
        clock.watched = [  # no time passes before the refusal has arrived
            lambda: bool(in_flight) or server.stats()["by_status"] != {"200": 1, "429": 1}
        ]
        clock.longest_patience = 60
        with pytest.raises(PartialEmbeddingsError) as caught:
            embeddings.embed_numpy(TEXTS[:300])
        assert len(caught.value.failures) == 200
        assert isinstance(caught.value.__cause__, DeadlineError)
        assert clock.time == 60


class TestInterrupts:
    """Whatever stops a call also stops its requests, and keeps what is finished."""

    def test_ctrl_c_keeps_what_is_finished(
        self, batch: Batch, server: LocalServer, mocker: MockerFixture
    ) -> None:
        """After a KeyboardInterrupt the same instance continues without paying twice."""
        embeddings = batch(max_workers=1, max_batch_size=100)
        calls = iter([None] * 3)

        def interrupt(*_: Any) -> None:
            try:
                next(calls)
            except StopIteration:
                raise KeyboardInterrupt from None

        mocker.patch("langchain_batch_embed.calls.results.Results.settle", side_effect=interrupt)
        others = _workers()  # of earlier tests, still timing out
        with pytest.raises(KeyboardInterrupt) as caught:
            embeddings.embed_documents(TEXTS[:2000])
        (note,) = caught.value.__notes__
        assert re.fullmatch(r"\d+ of 2,000 texts have a vector, which this object keeps: .*", note)
        wait_until(lambda: not _workers() - others)
        paid = server.stats()["inputs_billed"]
        assert paid < 2000
        wait_until(lambda: embeddings._pipeline.recovery.memory.stats().vectors == paid)
        mocker.stopall()
        assert_right(embeddings.embed_documents(TEXTS[:2000]), TEXTS[:2000])
        assert server.stats()["inputs_billed"] == 2000

    def test_ctrl_c_names_the_journal_that_has_the_rest(
        self, batch: Batch, mocker: MockerFixture, tmp_path: Path
    ) -> None:
        """With a journal, the note of a KeyboardInterrupt says that the program continues."""
        with batch(max_batch_size=100, journal=tmp_path / "vectors.db") as embeddings:
            mocker.patch(
                "langchain_batch_embed.calls.results.Results.settle", side_effect=KeyboardInterrupt
            )
            with pytest.raises(KeyboardInterrupt) as caught:
                embeddings.embed_documents(TEXTS[:200])
        (note,) = caught.value.__notes__
        assert note.endswith(
            "of 200 texts have a vector in the journal; the same program continues from there"
        )

    def test_a_cancelled_task_stops_the_work(self, batch: Batch, server: LocalServer) -> None:
        """A cancelled task starts no further request and keeps the vectors that are paid for."""
        server.configure(latency=0.3)
        embeddings = batch(max_workers=2, max_batch_size=20)

        async def cancel_early() -> None:
            task = asyncio.create_task(embeddings.aembed_documents(TEXTS[:2000]))
            while server.stats()["inputs_billed"] < 100:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        others = _workers()  # of earlier tests, still timing out
        asyncio.run(cancel_early())
        wait_until(lambda: not _workers() - others)
        paid = server.stats()["inputs_billed"]
        assert paid < 1000
        wait_until(lambda: embeddings._pipeline.recovery.memory.stats().vectors == paid)
        assert not [t for t in threading.enumerate() if "async" in t.name and t.is_alive()]


def _workers() -> set[threading.Thread]:
    """Return the threads that still send or receive."""
    return {t for t in threading.enumerate() if t.name.startswith("batch-embed_")}
