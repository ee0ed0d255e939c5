"""Nothing that was paid for is lost: failed texts, journals, deadlines and interrupts."""

import asyncio
import copy
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.stores import InMemoryByteStore
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr
from pytest_mock import MockerFixture

from langchain_batch_embed import (
    BatchEmbeddings,
    DeadlineError,
    JournalError,
    OptionError,
    PartialEmbeddingsError,
)
from langchain_batch_embed.calls import recovery
from langchain_batch_embed.calls.pipeline import Pipeline
from langchain_batch_embed.clock import SYSTEM_CLOCK
from langchain_batch_embed.journal import SQLiteJournal
from tests.support import FakeClock, LocalServer, SpoiltFirst, assert_right, treat_as_known

Batch = Callable[..., BatchEmbeddings]

TEXTS = [f"section {i}" for i in range(5000)]
POISONED = (17, 2048, 4999)


class Prefixing(BatchEmbeddings):
    """A user's subclass, with a constructor of its own."""

    def __init__(self, prefix: str, wrapped: Embeddings) -> None:
        super().__init__(wrapped)
        self.prefix = prefix

    def embed_documents(
        self, texts: Iterable[str], chunk_size: int | None = None
    ) -> list[list[float]]:
        """Put the prefix before each text."""
        del chunk_size
        return super().embed_documents([self.prefix + text for text in texts])


def pickled(embeddings: Prefixing) -> Prefixing:
    """Return what another process would get."""
    other: Prefixing = pickle.loads(pickle.dumps(embeddings))  # noqa: S301  # our own bytes
    return other


def poisoned() -> list[str]:
    """Return the texts with three that the server refuses."""
    return [f"poison {i}" if i in POISONED else text for i, text in enumerate(TEXTS)]


class TestPartialResults:
    """A failing text costs only itself."""

    def test_three_refused_texts_cost_only_themselves(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Of 5,000 texts exactly the three refused ones fail, and next to nothing is paid twice."""
        server.configure(refuse_marker="poison")
        embeddings = batch()
        with pytest.raises(PartialEmbeddingsError) as caught:
            embeddings.embed_documents(poisoned())
        error = caught.value
        assert [failure.index for failure in error.failures] == list(POISONED)
        assert [i for i, vector in enumerate(error.embeddings) if vector is None] == list(POISONED)
        good = [vector for vector in error.embeddings if vector is not None]
        assert_right(good, [text for i, text in enumerate(TEXTS) if i not in POISONED])
        assert isinstance(error.__cause__, openai.BadRequestError)
        assert error.report.failures == 3
        stats = server.stats()
        assert stats["inputs_billed"] <= 1.02 * 4997
        # About 2 log2(n) requests for each bad text, not n.
        assert stats["by_status"]["400"] <= 3 * 13

    def test_the_same_instance_then_pays_for_the_three_alone(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """After the cause is mended, calling again sends the three texts and no other."""
        server.configure(refuse_marker="poison")
        embeddings = batch()
        with pytest.raises(PartialEmbeddingsError):
            embeddings.embed_documents(poisoned())
        server.configure()
        assert_right(embeddings.embed_documents(poisoned()), poisoned())
        assert server.stats()["inputs_billed"] == 3
        # Then they are no longer needed, and a third call starts from nothing.
        embeddings.embed_documents(poisoned()[:100])
        assert server.stats()["inputs_billed"] == 103

    def test_the_message_says_how_many_and_how_to_go_on(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """It counts, names indices, and holds no text."""
        server.configure(refuse_marker="poison")
        with pytest.raises(PartialEmbeddingsError) as caught:
            batch().embed_numpy(poisoned())
        message = str(caught.value)
        assert "3 of 5,000 texts" in message
        assert "17, 2048, 4999" in message
        assert "calling again" in message
        assert "poison " not in message

    def test_the_error_has_the_report_of_its_own_call(
        self, batch: Batch, server: LocalServer, mocker: MockerFixture
    ) -> None:
        """Another thread's call may end just then, so that `last_report` is of that one."""
        embeddings = batch()
        embeddings.embed_query("another call")
        other = embeddings.last_report
        always_other = mocker.PropertyMock(return_value=other)
        mocker.patch.object(Pipeline, "last_report", always_other, create=True)
        server.configure(refuse_marker="poison")
        with pytest.raises(PartialEmbeddingsError) as caught:
            embeddings.embed_documents(["a", "poison"])
        assert (caught.value.report.texts, caught.value.report.failures) == (2, 1)

    def test_numpy_callers_get_rows_not_lists(self, batch: Batch, server: LocalServer) -> None:
        """`embed_numpy` hands over float32 rows in the exception."""
        server.configure(refuse_marker="poison")
        with pytest.raises(PartialEmbeddingsError) as caught:
            batch().embed_numpy(["a", "poison", "b"])
        first, second, third = caught.value.embeddings
        assert second is None
        assert_right(np.array([first, third]), ["a", "b"])

    def test_nothing_stays_in_memory_after_a_success(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Neither the windows of over-long texts nor their means."""
        long = " ".join(f"word{i}" for i in range(9000))
        embeddings = batch()
        for number in range(3):
            server.configure(refuse_marker="poison")
            with pytest.raises(PartialEmbeddingsError):
                embeddings.embed_numpy([f"{number} {long}", "poison"])
            server.configure()
            embeddings.embed_numpy([f"{number} {long}", "poison"])
        assert embeddings.journal.stats().vectors == 0

    def test_a_querys_error_keeps_its_own_causes(self, batch: Batch, server: LocalServer) -> None:
        """It is the provider's exception as it was raised, and not chained in a circle."""
        server.configure(faults={"reset": 1.0})
        with pytest.raises(openai.APIConnectionError) as caught:
            batch(max_retries=0).embed_query("a")
        assert caught.value.__cause__ is not None
        assert "PartialEmbeddingsError" not in repr(caught.value.__context__)

    def test_many_bad_texts_among_good_ones_do_not_end_the_call(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Only failures in a row tell that it is not the texts."""
        server.configure(refuse_marker="poison")
        bad = set(range(5, 600, 30))
        texts = [f"poison {i}" if i in bad else f"section {i}" for i in range(600)]
        with pytest.raises(PartialEmbeddingsError) as caught:
            batch(max_workers=1, max_batch_size=30).embed_numpy(texts)
        assert {failure.index for failure in caught.value.failures} == bad
        assert len(bad) == 20

    def test_an_index_in_the_refusal_is_used(self, batch: Batch, server: LocalServer) -> None:
        """A refusal that names the input costs four requests, not a bisection."""
        server.configure(max_tokens_per_input=100)
        texts = [*TEXTS[:60], "word " * 200, *TEXTS[60:100]]
        with pytest.raises(PartialEmbeddingsError) as caught:
            batch().embed_documents(texts)
        assert [failure.index for failure in caught.value.failures] == [60]
        assert server.stats()["requests"] == 4

    @pytest.mark.parametrize(
        ("fault", "kind"),
        [
            ("401", openai.AuthenticationError),
            ("404", openai.NotFoundError),
            ("403", openai.PermissionDeniedError),
            ("insufficient_quota", openai.RateLimitError),
        ],
    )
    def test_an_error_of_the_account_ends_everything_at_once(
        self, batch: Batch, server: LocalServer, fault: str, kind: type[Exception]
    ) -> None:
        """A wrong key is not bisected: what is done is handed over, next to nothing more is sent.

        Eight refusals in a row, and one of a single word, tell it from a firewall or a bad replica.
        """
        server.configure(script=("ok", "ok"), faults={fault: 1.0})
        with pytest.raises(PartialEmbeddingsError) as caught:
            batch(max_workers=1, max_batch_size=100).embed_documents(TEXTS)
        assert isinstance(caught.value.__cause__, kind)
        assert sum(vector is not None for vector in caught.value.embeddings) == 200
        assert server.stats()["requests"] <= 2 + 8 + 1

    def test_a_wrong_option_is_not_bisected(self, batch: Batch, server: LocalServer) -> None:
        """A refusal of another parameter than the input concerns every request."""
        wrapped = OpenAIEmbeddings(
            model="text-embedding-ada-002",
            dimensions=99,
            base_url=server.url,
            api_key=SecretStr("x"),
        )
        with pytest.raises(PartialEmbeddingsError):
            batch(wrapped, max_workers=1).embed_documents(TEXTS)
        assert server.stats()["requests"] == 1
        wrapped.client._client.close()

    def test_a_refusal_of_everything_is_not_bisected_to_the_end(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """A server that refuses even a single harmless word is believed after a few requests."""
        server.configure(faults={"status_400": 1.0})
        with pytest.raises(PartialEmbeddingsError):
            batch(max_workers=1).embed_documents(TEXTS)
        assert server.stats()["requests"] < 40

    def test_a_text_that_the_server_stumbles_over_costs_only_itself(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """A text whose vector is never sound does not take its batch down with it."""

        class Stumbling(Embeddings):
            def embed_documents(self, texts: list[str]) -> list[list[float]]:
                return [[float("nan") if text == "bad" else 1.0] for text in texts]

            def embed_query(self, text: str) -> list[float]:
                return self.embed_documents([text])[0]

        embeddings = batch(Stumbling(), max_batch_size=10, max_retries=2)
        with pytest.raises(PartialEmbeddingsError) as caught:
            embeddings.embed_documents([*TEXTS[:25], "bad", *TEXTS[25:60]])
        assert [failure.index for failure in caught.value.failures] == [25]
        assert server.stats()["requests"] == 0

    def test_a_server_that_is_gone_is_not_bisected(self, batch: Batch, server: LocalServer) -> None:
        """When nobody gets an answer any more, everything is given up after `max_outage`."""
        server.configure(script=("ok",) * 2, faults={"500": 1.0})
        with pytest.raises(PartialEmbeddingsError):
            batch(max_workers=1, max_batch_size=500, max_outage=60).embed_documents(TEXTS)
        assert server.stats()["requests"] <= 40

    def test_the_error_can_be_pickled(self, batch: Batch, server: LocalServer) -> None:
        """A worker process can hand the partial result back to its parent."""
        server.configure(faults={"401": 1.0})
        with pytest.raises(PartialEmbeddingsError) as caught:
            batch().embed_documents(["a"])
        error = PartialEmbeddingsError([[1.0], None], [], caught.value.report)
        assert pickle.loads(pickle.dumps(error)).embeddings == [[1.0], None]  # noqa: S301


class TestJournal:
    """With a journal, a rerun pays only for what is missing."""

    def test_a_second_run_sends_nothing_and_gives_the_same_bits(
        self, batch: Batch, server: LocalServer, tmp_path: Path
    ) -> None:
        """A full journal answers everything, bit for bit, also in another instance."""
        first = batch(journal=tmp_path / "journal.sqlite").embed_numpy(TEXTS)
        server.configure()
        embeddings = batch(journal=tmp_path / "journal.sqlite")
        again = embeddings.embed_numpy(TEXTS)
        assert server.stats()["requests"] == 0
        assert again.tobytes() == first.tobytes()
        assert embeddings.last_report is not None
        assert embeddings.last_report.from_journal == 5000

    def test_any_byte_store_can_be_the_journal(self, batch: Batch, server: LocalServer) -> None:
        """A LangChain `ByteStore` serves as well as a file."""
        store = InMemoryByteStore()
        batch(journal=store).embed_numpy(TEXTS[:50])
        server.configure()
        assert_right(batch(journal=store).embed_numpy(TEXTS[:60]), TEXTS[:60])
        assert server.stats()["inputs_billed"] == 10

    def test_windows_of_an_over_long_text_are_kept_one_by_one(
        self, batch: Batch, server: LocalServer, tmp_path: Path
    ) -> None:
        """The parts of a long text come from the journal too."""
        text = " ".join(f"word{i}" for i in range(8000))
        first = batch(journal=tmp_path / "j").embed_numpy([text])
        server.configure()
        embeddings = batch(journal=tmp_path / "j")
        assert embeddings.embed_numpy([text]).tobytes() == first.tobytes()
        assert server.stats()["requests"] == 0
        assert embeddings.last_report is not None
        assert embeddings.last_report.from_journal == 1  # text, of several windows

    def test_another_model_or_width_is_told_apart(
        self,
        batch: Batch,
        server: LocalServer,
        openai_embeddings: Callable[..., OpenAIEmbeddings],
        tmp_path: Path,
    ) -> None:
        """A vector of another model, or of other dimensions, is never taken for this one."""
        small, large = "text-embedding-3-small", "text-embedding-3-large"
        for options in ({"model": small}, {"model": large}, {"model": small, "dimensions": 64}):
            server.configure()
            embeddings = batch(openai_embeddings(**options), journal=tmp_path / "j")
            assert_right(embeddings.embed_numpy(["a"]), ["a"])
            assert server.stats()["requests"] == 1

    def test_a_journal_needs_to_know_the_model(self, tmp_path: Path) -> None:
        """Without a name two models would share a journal, so it has to be given."""
        with pytest.raises(OptionError, match="model="):
            BatchEmbeddings(Nameless(), journal=tmp_path / "j")
        BatchEmbeddings(Nameless(), journal=tmp_path / "j", model="mine").embed_documents(["a"])

    def test_a_damaged_vector_is_paid_for_again_and_replaced(
        self, batch: Batch, server: LocalServer, tmp_path: Path
    ) -> None:
        """It alone; the journal is right again afterwards."""
        path = tmp_path / "j"
        batch(journal=path).embed_numpy(TEXTS[:50])
        connection = sqlite3.connect(path)
        with connection:
            connection.execute("UPDATE vector SET value = zeroblob(length(value)) WHERE id = 7")
        connection.close()
        server.configure()
        for _ in range(2):
            assert_right(batch(journal=path).embed_numpy(TEXTS[:50]), TEXTS[:50])
            assert server.stats()["inputs_billed"] == 1

    @pytest.mark.skipif(sys.platform == "win32", reason="there, open files cannot be deleted")
    def test_a_journal_that_is_deleted_in_mid_call_loses_nothing(
        self, batch: Batch, server: LocalServer, tmp_path: Path
    ) -> None:
        """Its file is there again, with what was paid for before and after."""
        path = tmp_path / "j"
        embeddings = batch(journal=path, max_workers=1, max_batch_size=10)
        embeddings.embed_numpy(TEXTS[:50])
        path.unlink()
        embeddings.embed_numpy(TEXTS[50:100])
        server.configure()
        assert_right(batch(journal=path).embed_numpy(TEXTS[:100]), TEXTS[:100])
        assert server.stats()["requests"] == 0

    def test_another_file_in_the_journals_place_keeps_vectors_in_memory(
        self, batch: Batch, server: LocalServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The problem is logged once, the file is left alone, and the call goes on."""
        path = tmp_path / "j"
        embeddings = batch(journal=path, max_workers=1, max_batch_size=10)
        embeddings.embed_numpy(TEXTS[:10])
        (tmp_path / "notes").write_text("my notes")
        (tmp_path / "notes").replace(path)
        assert_right(embeddings.embed_numpy(TEXTS[:50]), TEXTS[:50])
        assert caplog.text.count("it is not a journal") == 1
        assert path.read_text() == "my notes"
        path.unlink()
        embeddings.embed_numpy(TEXTS[:60])
        server.configure()
        assert_right(batch(journal=path).embed_numpy(TEXTS[:60]), TEXTS[:60])
        assert server.stats()["requests"] == 0

    def test_a_full_disk_does_not_lose_what_is_in_memory(
        self,
        batch: Batch,
        server: LocalServer,
        tmp_path: Path,
        mocker: MockerFixture,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """The call succeeds, the problem is logged once, and the vectors are used again."""
        embeddings = batch(journal=tmp_path / "j", max_batch_size=10)
        put = mocker.patch.object(
            SQLiteJournal, "put", side_effect=JournalError("the disk is full")
        )
        assert_right(embeddings.embed_numpy(TEXTS[:50]), TEXTS[:50])
        assert put.call_count == 5
        assert caplog.text.count("the disk is full") == 1
        server.configure()
        embeddings.embed_numpy(TEXTS[:50])
        assert server.stats()["requests"] == 0

    def test_a_journal_that_can_be_written_again_gets_what_it_missed(
        self,
        batch: Batch,
        server: LocalServer,
        tmp_path: Path,
        mocker: MockerFixture,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """With the next answer that it takes; then a second object finds everything in it."""
        embeddings = batch(journal=tmp_path / "j", max_workers=1, max_batch_size=10)
        memory = embeddings._pipeline.recovery.memory
        # Two answers are missed, and two attempts at mending fail.
        sometimes_full(mocker, [True, True, True, False, True])
        embeddings.embed_numpy(TEXTS[:20])
        assert memory.stats().vectors == 20
        embeddings.embed_numpy(TEXTS[20:50])
        assert memory.stats().vectors == 0
        assert caplog.text.count("the disk is full") == 1
        assert caplog.text.count("can be written again") == 1
        server.configure()
        assert_right(batch(journal=tmp_path / "j").embed_numpy(TEXTS[:50]), TEXTS[:50])
        assert server.stats()["requests"] == 0

    def test_a_mended_journal_needs_no_new_answer(
        self, batch: Batch, server: LocalServer, tmp_path: Path, mocker: MockerFixture
    ) -> None:
        """Calling again with the same texts is what people do once there is room on the disk."""
        embeddings = batch(journal=tmp_path / "j", max_workers=1, max_batch_size=10)
        memory = embeddings._pipeline.recovery.memory
        mocker.patch.object(recovery, "WRITTEN_AT_ONCE", 7)
        sometimes_full(mocker, [True, True, False, True, False])
        for kept in (20, 13, 0):
            assert_right(embeddings.embed_numpy(TEXTS[:20]), TEXTS[:20])
            assert memory.stats().vectors == kept
        assert server.stats()["inputs_billed"] == 20
        assert_right(batch(journal=tmp_path / "j").embed_numpy(TEXTS[:20]), TEXTS[:20])
        assert server.stats()["inputs_billed"] == 20

    def test_a_changed_model_is_not_remembered_beside_the_old_one(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Vectors that are kept of failed calls are of one width, the newest one's."""
        embeddings = batch(max_batch_size=1, max_workers=1)
        for width in (1536, 64):
            server.configure(refuse_marker="poison", dimensions=width)
            embeddings._pipeline.fetcher.known_dimensions = None
            with pytest.raises(PartialEmbeddingsError):
                embeddings.embed_numpy([f"of {width}", "poison"])
        server.configure(dimensions=64)
        texts = ["of 1536", "of 64", "poison"]
        assert_right(embeddings.embed_numpy(texts), texts)
        assert server.stats()["inputs_billed"] == 2

    def test_one_spoilt_answer_does_not_cost_what_is_kept(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """A call that fails again, after an answer of another width, keeps what it recalled."""
        server.configure(refuse_marker="poison", dimensions=64)
        embeddings = batch(max_retries=0)
        with pytest.raises(PartialEmbeddingsError):
            embeddings.embed_numpy([*TEXTS[:50], "poison"])
        server.configure(dimensions=32)  # for one answer
        with pytest.raises(PartialEmbeddingsError):
            embeddings.embed_numpy([*TEXTS[:50], "poison"])
        server.configure(dimensions=64)
        texts = [*TEXTS[:50], "poison"]
        assert_right(embeddings.embed_numpy(texts), texts)
        assert server.stats()["inputs_billed"] == 1

    def test_an_answer_that_the_journal_refuses_is_dropped_with_the_next_that_it_takes(
        self, batch: Batch, tmp_path: Path
    ) -> None:
        """A spoilt first answer is of another width than the journal's vectors."""
        batch(SpoiltFirst(), journal=tmp_path / "j", model="m").embed_numpy(["first"])
        embeddings = batch(SpoiltFirst(3), journal=tmp_path / "j", model="m")
        embeddings.embed_numpy(["spoilt"])
        embeddings._pipeline.fetcher.known_dimensions = None
        embeddings.embed_numpy(["good"])
        texts = ["first", "spoilt", "good"]
        assert embeddings.embed_numpy(texts).shape == (3, 4)
        assert embeddings._pipeline.recovery.memory.stats().vectors == 0

    def test_a_spoilt_first_answer_is_not_held_against_the_next_call(self, batch: Batch) -> None:
        """It is not remembered: all later ones contradict it."""
        embeddings = batch(SpoiltFirst(3), max_batch_size=1, max_workers=1, max_retries=1)
        with pytest.raises(PartialEmbeddingsError):
            embeddings.embed_numpy(TEXTS[:5])
        assert embeddings.embed_numpy(TEXTS[:5]).shape == (5, 4)

    def test_queries_are_not_journalled(self, batch: Batch, tmp_path: Path) -> None:
        """What users search for stays out of the file."""
        embeddings = batch(journal=tmp_path / "j")
        embeddings.embed_query("a question")
        assert embeddings.journal.stats().vectors == 0

    @pytest.mark.parametrize("processes", [1, 2])
    def test_after_sigkill_only_what_was_in_flight_is_paid_twice(
        self, server: LocalServer, tmp_path: Path, processes: int
    ) -> None:
        """Killed half way and run again: by the server's count, at most the requests in flight."""
        server.configure(latency=0.5)
        path = tmp_path / "journal.sqlite"
        workers, size = 4, 25
        command = [sys.executable, "-c", _WORKER, server.url, str(path), str(workers), str(size)]
        running = [subprocess.Popen([*command, str(n)]) for n in range(processes)]  # noqa: S603
        while server.stats()["inputs_billed"] < 1000:
            time.sleep(0.01)
        for process in running:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        server.configure(latency=0)
        # A new scenario forgets the counters, so what was billed before is what the journal has,
        # and at most what was in flight beside it.
        before = SQLiteJournal(path).stats().vectors
        for n in range(processes):
            subprocess.run([*command, str(n)], check=True)  # noqa: S603
        billed = server.stats()["inputs_billed"]
        assert billed == processes * 2500 - before
        assert before >= 1000 - processes * workers * size
        assert SQLiteJournal(path).stats().vectors == processes * 2500


_WORKER = """
import sys
from langchain_openai import OpenAIEmbeddings
from langchain_batch_embed import BatchEmbeddings
url, path, workers, size, n = sys.argv[1:]
embeddings = BatchEmbeddings(
    OpenAIEmbeddings(base_url=url, api_key="x"),
    journal=path, max_workers=int(workers), max_batch_size=int(size), hedge=False,
)
embeddings.embed_numpy([f"process {n} section {i}" for i in range(2500)])
"""


def sometimes_full(mocker: MockerFixture, full: list[bool]) -> None:
    """Let SQLite journals find the disk full at some of the next writes."""
    put, left = SQLiteJournal.put, list(full)

    def sometimes(journal: SQLiteJournal, *args: Any, **options: Any) -> None:
        if left and left.pop(0):
            raise JournalError("the disk is full")
        put(journal, *args, **options)

    mocker.patch.object(SQLiteJournal, "put", sometimes)


class TestDeadlines:
    """Time limits hold, whatever the server does, and what is finished is handed over."""

    @pytest.mark.parametrize("fault", ["hang", "drip"])
    def test_a_server_that_does_not_end_is_left_at_the_deadline(
        self, batch: Batch, server: LocalServer, fault: str
    ) -> None:
        """Hung, or dripping a byte at a time: the finished part comes with the exception."""
        server.configure(script=("ok", "ok", fault, "ok"), drip_seconds=0.05)
        embeddings = treat_as_known(
            batch(max_workers=2, max_batch_size=100, deadline=0.6, timeout=30, _clock=SYSTEM_CLOCK)
        )
        with pytest.raises(PartialEmbeddingsError) as caught:
            embeddings.embed_numpy(TEXTS[:400])
        cause = caught.value.__cause__
        assert isinstance(cause, DeadlineError)
        assert cause.deadline == 0.6  # as it was given, not what was left of it
        assert len(caught.value.failures) == 100
        assert 0.5 < caught.value.report.seconds < 2

    @pytest.mark.parametrize("fault", ["hang", "drip"])
    def test_the_time_out_of_a_request_makes_it_be_sent_again(
        self, batch: Batch, server: LocalServer, fault: str
    ) -> None:
        """A request without an answer in `timeout` seconds is given up and repeated."""
        server.configure(script=(fault, "ok"), drip_seconds=0.05)
        embeddings = batch(timeout=0.3)
        assert_right(embeddings.embed_numpy(["a"]), ["a"])
        assert server.stats()["requests"] == 2

    def test_a_wait_beyond_the_deadline_is_not_waited_for(
        self, batch: Batch, server: LocalServer, clock: FakeClock
    ) -> None:
        """`retry-after: 3600` with a deadline of 60 s ends at the deadline."""
        server.configure(script=("ok", "429"), retry_after=3600)
        clock.patience = 10  # a slow machine must not make the clock jump to the deadline
        embeddings = batch(deadline=60, max_workers=1, max_batch_size=100)
        with pytest.raises(PartialEmbeddingsError) as caught:
            embeddings.embed_numpy(TEXTS[:300])
        assert len(caught.value.failures) == 200
        assert isinstance(caught.value.__cause__, DeadlineError)
        assert clock.time <= 60


class TestInterrupts:
    """What stops a call stops its requests, and keeps what is finished."""

    def test_ctrl_c_keeps_what_is_finished(
        self, batch: Batch, server: LocalServer, mocker: MockerFixture
    ) -> None:
        """After a KeyboardInterrupt the same instance goes on from there."""
        embeddings = batch(max_workers=1, max_batch_size=100)
        calls = iter([None] * 3)

        def interrupt(*_: Any) -> None:
            try:
                next(calls)
            except StopIteration:
                raise KeyboardInterrupt from None

        mocker.patch("langchain_batch_embed.calls.results.Results.settle", side_effect=interrupt)
        others = _workers()  # of earlier tests, still timing out
        with pytest.raises(KeyboardInterrupt):
            embeddings.embed_documents(TEXTS[:2000])
        _wait_until(lambda: not _workers() - others)
        paid = server.stats()["inputs_billed"]
        assert paid < 2000
        _wait_until(lambda: embeddings._pipeline.recovery.memory.stats().vectors == paid)
        mocker.stopall()
        assert_right(embeddings.embed_documents(TEXTS[:2000]), TEXTS[:2000])
        assert server.stats()["inputs_billed"] == 2000

    def test_a_cancelled_task_stops_the_work(self, batch: Batch, server: LocalServer) -> None:
        """No further request starts, and what is paid for is not paid again."""
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
        _wait_until(lambda: not _workers() - others)
        paid = server.stats()["inputs_billed"]
        assert paid < 1000
        _wait_until(lambda: embeddings._pipeline.recovery.memory.stats().vectors == paid)
        assert not [t for t in threading.enumerate() if "async" in t.name and t.is_alive()]

    def test_an_instance_can_be_pickled(self, batch: Batch, tmp_path: Path) -> None:
        """A copy works in another process, with its own threads and the same journal."""
        embeddings = batch(journal=tmp_path / "j", _clock=SYSTEM_CLOCK)
        expected = embeddings.embed_documents(["a"])
        other = pickle.loads(pickle.dumps(embeddings))  # noqa: S301
        assert other.embed_documents(["a"]) == expected
        assert other.last_report.from_journal == 1
        other.embeddings.client._client.close()

    @pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickled])
    def test_a_copy_of_a_subclass_keeps_what_that_added(
        self, batch: Batch, again: Callable[[Prefixing], Prefixing]
    ) -> None:
        """Its own `__init__`, which may take other arguments, is not called without them."""
        other = again(Prefixing("passage: ", batch().embeddings))
        assert_right(other.embed_documents(["a"]), ["passage: a"])
        assert isinstance(other.embeddings, OpenAIEmbeddings)
        other.embeddings.client._client.close()


class Nameless(Embeddings):
    """An `Embeddings` that does not say which model it is."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the texts' lengths."""
        return [[float(len(text))] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """Return the text's length."""
        return [float(len(text))]


def _workers() -> set[threading.Thread]:
    """Return the threads that still send or receive."""
    return {t for t in threading.enumerate() if t.name.startswith("batch-embed_")}


def _wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what other threads are about to do; five seconds at most."""
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_call_that_needs_nothing_sent_touches_no_dispatcher(
    batch: Batch, tmp_path: Path, mocker: MockerFixture
) -> None:
    """Neither its lock nor a thread: it is answered while others wait for the server."""
    journal = tmp_path / "journal"
    batch(journal=journal).embed_documents(["a", "b"])
    embeddings = batch(journal=journal)
    lock = mocker.MagicMock()
    lock.__enter__.side_effect = AssertionError("the call takes the dispatcher's lock")
    mocker.patch.object(embeddings._pipeline.dispatcher, "lock", lock)
    before = threading.active_count()
    assert_right(embeddings.embed_documents(["a", "b"]), ["a", "b"])
    assert embeddings.embed_documents([]) == []
    assert threading.active_count() == before
