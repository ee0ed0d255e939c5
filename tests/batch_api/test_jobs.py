"""Jobs at a local server: everything arrives, and each text is paid for once."""

import json
import logging
import pickle
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.stores import InMemoryByteStore
from langchain_openai import AzureOpenAIEmbeddings
from pydantic import SecretStr
from pytest_mock import MockerFixture

from langchain_batch_embed import (
    BatchEmbeddings,
    JobError,
    JobTimeoutError,
    JournalError,
    OptionError,
    PartialEmbeddingsError,
    SQLiteJournal,
    Usage,
)
from langchain_batch_embed.batch_api import JobReport
from langchain_batch_embed.batch_api.lock import jobs_lock
from langchain_batch_embed.batch_api.store import JobStore
from langchain_batch_embed.commands.corpus import sections, standard_library
from tests.batch_api.support import (
    ROOT,
    START,
    FastCalendar,
    JumpingCalendar,
    assert_all_there,
    assert_one_batch_an_intent,
    assert_paid_once,
    configure,
    make,
    texts_of,
)
from tests.support import LocalServer, assert_right, prose

TEXTS = texts_of(6000)
POISONED = (17, 2048, 5999)
BULKY = [prose(150, i) for i in range(2000)]
"""Some 300,000 tokens, so that a queue of a quarter is a matter of 75,000."""


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A file for the vectors."""
    return tmp_path / "vectors.db"


@pytest.fixture
def half(server: LocalServer, journal: Path) -> Callable[..., BatchEmbeddings]:
    """Make embeddings on the local server, with the journal."""
    return lambda **options: make(server.url, journal, **options)


Half = Callable[..., BatchEmbeddings]


def poisoned() -> list[str]:
    """Return the texts with three that the server refuses."""
    return [f"poison {i}" if i in POISONED else text for i, text in enumerate(TEXTS)]


class TestPacking:
    """What is uploaded."""

    def test_a_whole_corpus_takes_one_batch_of_at_most_twelve_lines(
        self, server: LocalServer, half: Half
    ) -> None:
        """19,207 sections, bit for bit; a store then needs no request."""
        configure(server, dimensions=64)
        corpus = [s.text for s in sections(standard_library()[1], 19_207)]
        embeddings = half()
        job = embeddings.submit(corpus)
        report = job.wait(show_progress=False)
        (batch,) = server.stats()["batches"]
        assert batch["lines"] <= 12
        assert batch["inputs"] == len(corpus)
        assert_paid_once(server.stats(), len(corpus))
        assert report.half_price_tokens == server.stats()["batch_tokens_billed"]
        assert report.full_price_tokens == 0
        assert_all_there(embeddings, corpus, server)

    def test_a_line_has_as_many_texts_as_a_request(self, server: LocalServer, half: Half) -> None:
        """And a batch at most 50,000 over all lines."""
        configure(server)
        texts = [f"t{i}" for i in range(60_000)]
        half().submit(texts).wait(show_progress=False)
        stats = server.stats()
        assert_paid_once(stats, len(texts))
        assert len(stats["batches"]) == 2
        assert max(batch["inputs"] for batch in stats["batches"]) <= 50_000
        assert max(batch["largest_line"] for batch in stats["batches"]) <= 2048

    def test_what_is_known_is_not_sent(self, server: LocalServer, half: Half) -> None:
        """Identical texts once, and what the journal has not at all."""
        configure(server)
        embeddings = half()
        embeddings.embed_documents(TEXTS[:100])
        job = embeddings.submit([*TEXTS[:300], *TEXTS[:300]])
        report = job.wait(show_progress=False)
        assert server.stats()["batch_inputs_billed"] == 200
        assert (report.texts, report.unique, report.from_journal) == (600, 300, 100)
        assert job.status.texts == job.status.finished == 200

    def test_an_over_long_text_goes_as_windows(self, server: LocalServer, half: Half) -> None:
        """And has the vector that ordinary requests give it."""
        configure(server)
        texts = [prose(9000), "short", "short \u2028 with \x85 odd \u2029 ends\n", "\ud800"]
        embeddings = half()
        embeddings.submit(texts).wait(show_progress=False)
        before = server.stats()["requests"]
        got = embeddings.embed_numpy(texts)
        assert server.stats()["requests"] == before
        ordinary = BatchEmbeddings(embeddings.embeddings).embed_numpy(texts)
        np.testing.assert_array_equal(got, ordinary)

    def test_options_of_the_wrapped_object_are_sent(self, server: LocalServer, half: Half) -> None:
        """Its dimensions, as in any request."""
        configure(server, dimensions=64)
        embeddings = half(wrapped={"dimensions": 8})
        embeddings.submit(["a", "b"]).wait(show_progress=False)
        assert embeddings.embed_numpy(["a", "b"]).shape == (2, 8)
        assert server.stats()["requests"] == 0

    def test_floats_are_read_too(self, server: LocalServer, half: Half) -> None:
        """A server that ignores base64 sends numbers."""
        configure(server, base64=False)
        embeddings = half()
        embeddings.submit(TEXTS[:100]).wait(show_progress=False)
        assert_all_there(embeddings, TEXTS[:100], server)

    def test_nothing_to_do_is_done_at_once(self, server: LocalServer, half: Half) -> None:
        """No text, or none that is missing: no file and no batch."""
        configure(server)
        embeddings = half()
        embeddings.embed_documents(["a"])
        for texts in ([], ["a"]):
            job = embeddings.submit(texts)
            assert job.status.has_ended
            assert job.wait(show_progress=False).failures == ()
        assert server.stats()["files"]["uploaded"] == 0


class TestBadBatches:
    """Everything that was finished is kept, and the rest is sent again."""

    @pytest.mark.parametrize("share", [0.5, 0.0001])
    def test_expiry_three_times_in_a_row(
        self, server: LocalServer, half: Half, share: float
    ) -> None:
        """Half of the lines, or none, are answered each time."""
        configure(server, fates=("expires",) * 3, day=0.5, expired_share=share)
        embeddings = half()
        texts = texts_of(20_000)
        report = embeddings.submit(texts).wait(show_progress=False)
        stats = server.stats()
        assert [batch["status"] for batch in stats["batches"]] == ["expired"] * 3 + ["completed"]
        assert report.batches == 4
        assert_paid_once(stats, len(texts))
        assert stats["files"]["kept"] == 0
        assert_all_there(embeddings, texts, server)

    @pytest.mark.parametrize(
        "fault",
        [
            *("status_500", "status_429", "status_0", "missing", "twice", "nan", "short", "nulls"),
            *(
                "doubled",
                "zeros",
                "wrong_width",
                "wrong_model",
                "error_200",
                "shuffled",
                "no_index",
            ),
        ],
    )
    def test_some_lines_are_bad(self, server: LocalServer, half: Half, fault: str) -> None:
        """A tenth of the lines has an error, or an answer that is not sound."""
        configure(server, line_faults={fault: 0.1})
        embeddings = half()
        texts = texts_of(40_000)
        report = embeddings.submit(texts).wait(show_progress=False)
        assert report.failures == ()
        assert_one_batch_an_intent(server.stats())
        assert_all_there(embeddings, texts, server)

    @pytest.mark.parametrize("empty", ["null", "empty", "file"])
    def test_every_line_is_bad(self, server: LocalServer, half: Half, empty: str) -> None:
        """There is no output then, and its id is null, or "", or of a file without a line."""
        configure(server, refuse_marker="section", empty_ids=empty)
        job = half().submit(TEXTS[:5])
        report = job.wait(show_progress=False)
        assert [failure.index for failure in report.failures] == [0, 1, 2, 3, 4]
        assert job.status.failed == 5
        assert server.stats()["inputs_billed"] == 0

    def test_three_refused_texts_cost_only_themselves(
        self, server: LocalServer, half: Half
    ) -> None:
        """They are found, and all others have their vectors."""
        configure(server, refuse_marker="poison")
        embeddings = half()
        texts = poisoned()
        job = embeddings.submit(texts)
        report = job.wait(show_progress=False)
        assert [failure.index for failure in report.failures] == list(POISONED)
        assert all("poison" not in str(failure.error) for failure in report.failures)
        assert job.status.failed == 3
        assert_paid_once(server.stats(), len(texts) - 3)
        with pytest.raises(PartialEmbeddingsError) as caught:
            embeddings.embed_documents(texts)
        assert [failure.index for failure in caught.value.failures] == list(POISONED)

    @pytest.mark.parametrize("options", [{"firewall_marker": "poison"}, {"marker_status": 500}])
    def test_a_text_that_a_firewall_or_the_server_cannot_bear(
        self, server: LocalServer, half: Half, options: dict[str, Any]
    ) -> None:
        """It is found too, although the error does not say that it is the text."""
        configure(
            server, refuse_marker=None if "firewall_marker" in options else "poison", **options
        )
        texts = poisoned()
        report = half().submit(texts).wait(show_progress=False)
        assert [failure.index for failure in report.failures] == list(POISONED)
        assert_paid_once(server.stats(), len(texts) - 3)

    @pytest.mark.parametrize("fate", ["token_limit", "request_limit", "unseen_file"])
    def test_a_batch_that_fails_for_now_is_created_again(
        self, server: LocalServer, half: Half, fate: str
    ) -> None:
        """With the same file, after a pause."""
        configure(server, fates=(fate, fate))
        embeddings = half(factor=200)
        embeddings.submit(TEXTS).wait(show_progress=False)
        stats = server.stats()
        assert len(stats["batches"]) == 3
        assert stats["files"]["uploaded"] == 1
        assert_paid_once(stats, len(TEXTS))

    @pytest.mark.parametrize("call", ["token_limit", "unseen_file", "500", "503", "reset"])
    def test_a_creation_that_fails_for_now_is_asked_again(
        self, server: LocalServer, half: Half, call: str
    ) -> None:
        """Also where it is refused at once."""
        configure(server, creations=(call, call))
        embeddings = half(factor=200)
        embeddings.submit(TEXTS).wait(show_progress=False)
        stats = server.stats()
        assert len(stats["batches"]) == 1
        assert_paid_once(stats, len(TEXTS))

    @pytest.mark.parametrize("call", ["lost", "late"])
    def test_a_batch_whose_creation_was_not_confirmed_is_found(
        self, server: LocalServer, half: Half, call: str
    ) -> None:
        """The account's list is asked, for a minute, before one is created again."""
        configure(server, creations=(call,), listed_after=0.7)
        half(factor=10).submit(TEXTS).wait(show_progress=False)
        stats = server.stats()
        assert len(stats["batches"]) == 1
        assert_paid_once(stats, len(TEXTS))

    def test_a_file_that_is_not_visible_for_a_while(self, server: LocalServer, half: Half) -> None:
        """It is tried again, and in the end everything is there."""
        configure(server, visible_after=1.0)
        embeddings = half()
        embeddings.submit(TEXTS).wait(show_progress=False)
        assert_paid_once(server.stats(), len(TEXTS))
        assert_all_there(embeddings, TEXTS, server)

    def test_a_file_that_stays_invisible_is_uploaded_again(
        self, server: LocalServer, half: Half
    ) -> None:
        """After some tries."""
        configure(server, fates=("unseen_file",) * 7)
        half(factor=300).submit(TEXTS).wait(show_progress=False)
        stats = server.stats()
        assert stats["files"] == {"uploaded": 2, "deleted": 3, "kept": 0}
        assert_paid_once(stats, len(TEXTS))

    def test_a_line_that_validation_refuses(self, server: LocalServer, half: Half) -> None:
        """It is sent in smaller ones, and so are those beside it."""
        configure(server, fates=("bad_line",))
        embeddings = half()
        embeddings.submit(TEXTS).wait(show_progress=False)
        assert_paid_once(server.stats(), len(TEXTS))
        assert_all_there(embeddings, TEXTS, server)

    @pytest.mark.parametrize(
        ("fates", "word"),
        [(("bad_model",), "model_not_found"), (("unknown_failure",) * 9, "internal")],
    )
    def test_a_job_that_cannot_go_on(
        self, server: LocalServer, half: Half, fates: tuple[str, ...], word: str
    ) -> None:
        """It ends, and says why."""
        configure(server, fates=fates)
        embeddings = half()
        job = embeddings.submit(TEXTS)
        with pytest.raises(JobError, match=word):
            job.wait(show_progress=False)
        assert job.status.failed == len(TEXTS)
        assert len(server.stats()["batches"]) <= 3
        with pytest.raises(JobError):
            job.wait(show_progress=False)

    def test_batches_that_never_bring_anything_end(self, server: LocalServer, half: Half) -> None:
        """After ten of them the job is given up."""
        configure(server, fates=("expires",) * 20, day=0.1, validating=0.01, expired_share=0.0001)
        job = half().submit(TEXTS)
        with pytest.raises(JobError, match="10 times in a row"):
            job.wait(show_progress=False)
        assert len(server.stats()["batches"]) == 10


class TestQueue:
    """Never more is enqueued than the account may have."""

    def test_a_limit_of_a_quarter_of_the_work(self, server: LocalServer, half: Half) -> None:
        """It is learnt from the refusal; the file is cut, and the pieces go one after another."""
        configure(server, max_enqueued_tokens=80_000)
        embeddings = half()
        embeddings.submit(BULKY).wait(show_progress=False)
        stats = server.stats()
        failed = [batch for batch in stats["batches"] if batch["status"] == "failed"]
        assert len(failed) == 1
        assert max(b["tokens"] for b in stats["batches"] if b not in failed) <= 80_000
        assert_paid_once(stats, len(BULKY))
        assert_all_there(embeddings, BULKY, server)

    def test_a_limit_is_learnt_from_a_creation_that_is_refused(
        self, server: LocalServer, half: Half
    ) -> None:
        """Some clients saw it there, and not in a batch that had failed."""
        configure(server, max_enqueued_tokens=80_000, creations=("token_limit",))
        embeddings = half(factor=200)
        embeddings.submit(BULKY).wait(show_progress=False)
        stats = server.stats()
        assert [b["status"] for b in stats["batches"]] == ["completed"] * len(stats["batches"])
        assert_paid_once(stats, len(BULKY))

    def test_a_limit_below_what_is_packed_cuts_it_when_its_turn_comes(
        self, server: LocalServer, half: Half
    ) -> None:
        """It was learnt after the files were made, and nothing waits in vain."""
        configure(server, max_enqueued_tokens=80_000, creations=("503",))
        embeddings = half(factor=200)
        job = embeddings.submit(BULKY)
        store = JobStore(SQLiteJournal(embeddings.journal.path))  # type: ignore[attr-defined]
        store.learn_limit(
            embeddings._pipeline.provider.space.digest, 80_000, FastCalendar(200).time()
        )
        job.wait(show_progress=False)
        assert_paid_once(server.stats(), len(BULKY))

    def test_a_limit_that_is_known_is_kept_to(self, server: LocalServer, half: Half) -> None:
        """The next job does not run into it."""
        configure(server, max_enqueued_tokens=80_000)
        embeddings = half()
        embeddings.submit(BULKY[:700]).wait(show_progress=False)
        embeddings.submit(BULKY).wait(show_progress=False)
        failed = [b for b in server.stats()["batches"] if b["status"] == "failed"]
        assert len(failed) == 1

    def test_two_jobs_share_the_queue(self, server: LocalServer, half: Half) -> None:
        """What one has enqueued counts for the other."""
        configure(server, max_enqueued_tokens=200_000)
        embeddings = half()
        first = embeddings.submit(BULKY[:1000])
        second = embeddings.submit(BULKY[1000:])
        for job in (second, first):
            job.wait(show_progress=False)
        assert_paid_once(server.stats(), len(BULKY))


KEY = "sk-secret"


class TestJobs:
    """What users do with a job."""

    def test_a_job_tells_how_far_it_is(self, server: LocalServer, half: Half) -> None:
        """In one line, and in counts of texts."""
        configure(server, running=0.5)
        job = half().submit(TEXTS)
        assert job.status.running == len(TEXTS)
        assert "6,000 running" in str(job)
        assert repr(job) == str(job)
        assert "6,000" in job._repr_html_()
        job.wait(show_progress=False)
        assert job.status.finished == len(TEXTS)
        assert "6,000 finished" in str(job)
        assert "half price" in str(job.report)
        assert "half price" in job.report._repr_html_()

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({}, "2 texts (2 unique) in 3.0 s: 1 batch with 9 tokens at half price ($0.0100)"),
            ({"batches": 2, "requests": 1, "full_price_tokens": 1},
             "2 texts (2 unique) in 3.0 s: 2 batches with 9 tokens at half price ($0.0100) and "
             "1 request with 1 token at full price"),
            ({"batches": 0, "from_journal": 2}, "2 texts (2 unique, 2 kept from before) in 3.0 s: "
             "nothing sent"),
        ],
    )  # fmt: skip
    def test_a_report_is_a_sentence(self, changes: dict[str, Any], said: str) -> None:
        """Without what did not happen, and in the right number."""
        report = JobReport(
            texts=2, unique=2, from_journal=0, batches=1, requests=0, half_price_tokens=9,
            full_price_tokens=0, half_price_dollars=0.01, full_price_dollars=None, overtaken=0,
            seconds=3.0,
        )  # fmt: skip
        assert str(replace(report, **changes)) == said

    def test_refresh_does_what_can_be_done_and_does_not_wait(
        self, server: LocalServer, half: Half
    ) -> None:
        """A loop of one's own gets everything too."""
        configure(server)
        embeddings = half()
        job = embeddings.submit(TEXTS)
        while not job.refresh().has_ended:
            pass
        assert_all_there(embeddings, TEXTS, server)

    def test_a_bar_counts_texts(
        self, server: LocalServer, half: Half, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """And shows the states."""
        configure(server)
        half().submit(TEXTS).wait()
        shown = capsys.readouterr().err
        assert "6000/6000" in shown
        assert "6,000 finished" in shown

    def test_a_wait_that_is_over_says_so(self, server: LocalServer, half: Half) -> None:
        """Nothing is lost, and the job goes on."""
        configure(server, fates=("stuck",))
        embeddings = half()
        job = embeddings.submit(TEXTS)
        with pytest.raises(JobTimeoutError, match="6,000 running") as caught:
            job.wait(timeout=5, show_progress=False)
        assert isinstance(caught.value, TimeoutError)
        copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301  # our own bytes
        assert (str(copy), copy.job) == (str(caught.value), job.id)
        assert job.refresh().running == len(TEXTS)

    @pytest.mark.parametrize("fate", ["ok", "stuck"])
    def test_a_cancelled_job_keeps_what_it_has(
        self, server: LocalServer, half: Half, fate: str
    ) -> None:
        """The rest is not sent, and a later job sends only that."""
        configure(server, fates=(fate,), running=20.0)
        texts = texts_of(20_000)
        embeddings = half()
        job = embeddings.submit(texts)
        while fate == "ok" and not job.refresh().answered:
            pass
        job.cancel()
        job.wait(show_progress=False)
        status = job.status
        assert status.finished + status.cancelled == len(texts)
        assert status.cancelled
        assert bool(status.finished) == (fate == "ok")
        assert len(server.stats()["batches"]) == 1
        job.cancel()  # of a job that has ended: nothing
        left = texts[:100]
        embeddings.embed_documents(left)
        if fate == "stuck":
            assert_paid_once(server.stats(), len(left))

    def test_a_job_that_waits_for_the_queue_is_cancelled(
        self, server: LocalServer, half: Half
    ) -> None:
        """Its files are deleted, and no batch is created."""
        configure(server, max_enqueued_tokens=80_000, fates=("ok", "stuck"))
        job = half().submit(BULKY)
        while len(server.stats()["batches"]) < 2:
            job.refresh()
        job.cancel()
        job.wait(show_progress=False)
        stats = server.stats()
        assert len(stats["batches"]) == 2
        assert stats["files"]["kept"] == 0

    def test_jobs_are_listed_with_the_open_ones_first(
        self, server: LocalServer, half: Half
    ) -> None:
        """Then the newest first."""
        configure(server, fates=("stuck",))
        embeddings = half()
        assert embeddings.jobs() == []
        jobs = [embeddings.submit(TEXTS[start : start + 10]) for start in (0, 10, 20)]
        for job in jobs[1:]:
            job.wait(show_progress=False)
        found = [job.id for job in half().jobs()]
        assert found == [jobs[0].id, jobs[2].id, jobs[1].id]

    def test_a_second_submit_of_the_same_texts_is_the_same_job(
        self, server: LocalServer, half: Half
    ) -> None:
        """And of some of the same texts waits for them, and sends the others."""
        configure(server, running=0.5)
        calendar = JumpingCalendar()  # so that no submit has the time to look at a batch
        embeddings = half(_calendar=calendar)
        first = embeddings.submit(TEXTS[:4000])
        assert embeddings.submit(TEXTS[:4000]).id == first.id
        assert half(_calendar=calendar).submit(TEXTS[1000:2000]).id == first.id
        second = embeddings.submit(TEXTS[2000:])
        assert second.id != first.id
        assert second.status.texts == 4000
        second.wait(show_progress=False)
        assert second.status.finished == 4000
        assert_paid_once(server.stats(), len(TEXTS))
        assert_all_there(embeddings, TEXTS[2000:], server)

    def test_three_jobs_that_overlap(self, server: LocalServer, half: Half) -> None:
        """The third one sends nothing, and waits for both others."""
        configure(server, running=0.5)
        embeddings = half()
        embeddings.submit(TEXTS[:3000])
        embeddings.submit(TEXTS[3000:])
        third = embeddings.submit(TEXTS)
        third.wait(show_progress=False)
        assert third.status.finished == len(TEXTS)
        assert_paid_once(server.stats(), len(TEXTS))

    def test_the_journal_holds_no_text_and_no_key(
        self, server: LocalServer, half: Half, journal: Path
    ) -> None:
        """Neither while a job runs nor at its end, in none of its files."""
        configure(server, running=0.5, refuse_marker="poison")
        embeddings = half()
        job = embeddings.submit(poisoned())
        for _ in range(2):
            for file in journal.parent.iterdir():
                content = file.read_bytes()
                assert b"of the book" not in content
                assert b"poison" not in content
                assert b"sk-test" not in content
                assert file.stat().st_mode & 0o077 == 0
            job.wait(show_progress=False)

    def test_a_job_of_another_model_is_listed_and_left_alone(
        self, server: LocalServer, half: Half
    ) -> None:
        """Its vectors would go under other keys."""
        configure(server)
        job = half().submit(TEXTS[:10])
        (other,) = half(wrapped={"dimensions": 8}).jobs()
        assert other.id == job.id
        with pytest.raises(OptionError, match="text-embedding-3-small with other options"):
            other.wait(show_progress=False)
        with pytest.raises(OptionError, match="other options"):
            other.cancel()

    def test_a_server_that_cannot_be_reached_is_waited_for(
        self, server: LocalServer, half: Half
    ) -> None:
        """For as long as it takes, up to a day."""
        configure(server, outages=((0.3, 1.5),), running=0.2)
        embeddings = half(factor=400)
        job = embeddings.submit(TEXTS)
        job.wait(show_progress=False)
        assert_paid_once(server.stats(), len(TEXTS))

    def test_a_wait_says_that_the_server_is_away(
        self,
        server: LocalServer,
        half: Half,
        mocker: MockerFixture,
        capsys: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """On the bar each time, and in the log once an outage, and more of it for INFO."""
        configure(server)
        job = half(_calendar=JumpingCalendar()).submit(TEXTS[:3])
        caplog.set_level(logging.INFO, logger="langchain_batch_embed.batch_api")
        away = iter([ConnectionError(KEY), ConnectionError(KEY)])
        work = job._round

        def work_if_it_is_there() -> float:
            for error in away:
                raise error
            return work()

        mocker.patch.object(job, "_round", side_effect=work_if_it_is_there)
        job.wait()
        said = f"the server at {server.url}/ does not answer (ConnectionError), next try in "
        assert f"{said}2 s" in capsys.readouterr().err
        logged = [(each.levelname, each.getMessage()) for each in caplog.records]
        assert logged == [("WARNING", f"{said}1 s"), ("INFO", f"{said}2 s")]

    def test_a_submit_says_what_it_waits_for(
        self, journal: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """There is no bar; after two minutes it gives up."""
        calendar = JumpingCalendar()
        embeddings = make("http://127.0.0.1:9/v1", journal, _calendar=calendar)
        with pytest.raises(openai.APIConnectionError):
            embeddings.submit(["a"])
        said = [each.getMessage() for each in caplog.records]
        waits = [2**n for n in range(7)]
        assert said == [
            "the server at http://127.0.0.1:9/v1/ does not answer (APIConnectionError), "
            f"next try in {wait} s"
            for wait in waits
        ]
        assert calendar.time() == START + sum(waits)

    @pytest.mark.parametrize("faults", [{"lost": 0.25}, {"reset": 0.15, "503": 0.15}])
    def test_many_calls_fail(
        self, server: LocalServer, half: Half, faults: dict[str, float]
    ) -> None:
        """Those that were carried out all the same are not carried out twice."""
        configure(server, call_faults=faults, fates=("expires",), day=0.5)
        embeddings = half(factor=200)
        texts = texts_of(20_000)
        embeddings.submit(texts).wait(show_progress=False)
        assert_paid_once(server.stats(), len(texts))
        assert_all_there(embeddings, texts, server)

    def test_a_wrong_key_ends_a_wait_at_once(self, server: LocalServer, half: Half) -> None:
        """No waiting helps."""
        configure(server, api_key="another")
        with pytest.raises(openai.AuthenticationError):
            half().submit(TEXTS)
        assert server.stats()["files"]["uploaded"] == 0

    def test_texts_that_were_never_uploaded_are_asked_for(
        self, server: LocalServer, half: Half, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The process ended before; whoever has the texts submits them again."""
        configure(server)
        embeddings = half()
        with monkeypatch.context() as patch:
            patch.setattr(
                "langchain_batch_embed.batch_api.service.BatchService.upload", _interrupted
            )
            with pytest.raises(KeyboardInterrupt):
                embeddings.submit(TEXTS)
        (job,) = half().jobs()
        with pytest.raises(JobError, match=r"6,000 texts .* submit\(\) with them again"):
            job.wait(show_progress=False)
        again = embeddings.submit(TEXTS[:2500])  # some of them
        assert again.id == job.id
        with pytest.raises(JobError, match="3,500 texts"):
            job.wait(show_progress=False)
        assert_all_there(embeddings, TEXTS[:2500], server)
        embeddings.submit(TEXTS).wait(show_progress=False)
        assert_paid_once(server.stats(), len(TEXTS))

    def test_an_output_that_is_gone_is_made_again(
        self, server: LocalServer, half: Half, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is deleted after thirty days; then there is no other way."""
        configure(server)
        embeddings = half()
        job = embeddings.submit(TEXTS)
        client = embeddings._pipeline.provider.client  # type: ignore[attr-defined]
        while client.batches.list().data[0].status != "completed":
            pass
        client.files.delete(client.batches.list().data[0].output_file_id)
        with caplog.at_level(logging.WARNING):
            job.wait(show_progress=False)
        assert "not at the server any more" in caplog.text
        assert_all_there(embeddings, TEXTS, server)


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


class TestRefusals:
    """What cannot work is refused before anything is uploaded."""

    @pytest.mark.parametrize("kept", [None, InMemoryByteStore()])
    def test_a_journal_in_a_file_is_needed(self, server: LocalServer, kept: Any) -> None:
        """The answers come when this process may be gone."""
        configure(server)
        embeddings = make(server.url, kept)
        for call in (lambda: embeddings.submit(TEXTS), embeddings.jobs):
            with pytest.raises(OptionError, match=r'journal="vectors\.db"'):
                call()

    def test_azure_takes_no_embeddings(self, server: LocalServer, journal: Path) -> None:
        """As its documentation says."""
        wrapped = AzureOpenAIEmbeddings(
            azure_endpoint=server.azure_endpoint,
            api_key=SecretStr("k"),
            api_version="2024-10-21",
            azure_deployment="text-embedding-3-small",
        )
        with pytest.raises(OptionError, match="Azure's Batch API takes no embeddings"):
            BatchEmbeddings(wrapped, journal=journal).submit(TEXTS)

    def test_other_classes_have_none(self, journal: Path) -> None:
        """It is OpenAI's."""
        embeddings = BatchEmbeddings(
            DeterministicFakeEmbedding(size=4), journal=journal, model="fake"
        )
        with pytest.raises(OptionError, match="wrap an OpenAIEmbeddings"):
            embeddings.submit(TEXTS)

    def test_a_server_without_a_batch_api(self, server: LocalServer, half: Half) -> None:
        """It only speaks the same protocol."""
        configure(server, exists=False)
        with pytest.raises(OptionError, match=r"http://127\.0\.0\.1:\d+/v1/? has no Batch API"):
            half().submit(TEXTS)
        assert half().jobs() == []

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"max_dollars": 0.0001}, "nothing was uploaded"),
            ({"max_dollars": 0}, "more than 0"),
            ({"max_dollars": "1"}, "must be a number"),
            ({"finish_by": 0}, "more than 0 seconds"),
            ({"finish_by": "tomorrow"}, "a timedelta or a datetime"),
            ({"finish_by": datetime(2030, 1, 1)}, "time zone"),  # noqa: DTZ001
        ],
    )
    def test_options_that_cannot_work(
        self, server: LocalServer, half: Half, options: dict[str, Any], message: str
    ) -> None:
        """Each says what is wrong."""
        configure(server)
        with pytest.raises(OptionError, match=message):
            half().submit(TEXTS, **options)
        assert server.stats()["files"]["uploaded"] == 0

    def test_headers_of_ones_own_are_not_dropped_silently(
        self, server: LocalServer, half: Half
    ) -> None:
        """A line of a batch has none."""
        configure(server)
        embeddings = half(wrapped={"model_kwargs": {"extra_headers": {"a": "b"}}})
        with pytest.raises(OptionError, match="extra_headers"):
            embeddings.submit(TEXTS)

    def test_an_empty_text(self, server: LocalServer, half: Half) -> None:
        """OpenAI refuses it, here as everywhere."""
        configure(server)
        with pytest.raises(ValueError, match="empty"):
            half().submit(["a", ""])

    def test_an_empty_text_that_is_to_have_a_vector(self, server: LocalServer, half: Half) -> None:
        """It has that of a space, also when it is sent again from a file."""
        configure(server, fates=("expires",), day=0.5, expired_share=0.01)
        embeddings = half(empty="skip-vector")
        report = embeddings.submit(["a", ""]).wait(show_progress=False)
        assert report.failures == ()
        assert server.stats()["requests"] == 0
        assert_all_there(embeddings, ["a"], server)
        assert_right(embeddings.embed_numpy([""]), [" "])
        assert server.stats()["requests"] == 0

    def test_the_dollars_of_the_object_are_kept_to(self, server: LocalServer, half: Half) -> None:
        """Unless `submit` names others."""
        configure(server)
        embeddings = half(max_dollars=1e-9)
        with pytest.raises(OptionError, match="nothing was uploaded"):
            embeddings.submit(TEXTS[:9])
        assert server.stats()["files"]["uploaded"] == 0
        report = embeddings.submit(TEXTS[:9], max_dollars=1).wait(show_progress=False)
        assert report.failures == ()

    def test_on_usage_is_told_what_is_billed(self, server: LocalServer, half: Half) -> None:
        """At half the price, and also for answers that are of no use."""
        configure(server, line_faults={"nan": 0.5})
        told: list[Usage] = []
        report = half(on_usage=told.append, max_batch_size=5).submit(TEXTS[:100])
        done = report.wait(show_progress=False)
        assert sum(usage.tokens for usage in told) == done.half_price_tokens
        assert sum(usage.dollars or 0 for usage in told) == pytest.approx(done.dollars)
        assert sum(usage.texts for usage in told) > 100


class TestFile:
    """The journal's file, with jobs in it."""

    def test_a_journal_of_the_version_before_gets_jobs(
        self, server: LocalServer, half: Half, journal: Path
    ) -> None:
        """Its vectors stay, and the version before can still open it."""
        configure(server)
        half().embed_documents(TEXTS[:10])
        tables = "SELECT name FROM sqlite_master WHERE name LIKE 'job%'"
        with sqlite3.connect(journal) as connection:
            assert connection.execute(tables).fetchall() == []
            (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.close()
        embeddings = half()
        embeddings.submit(TEXTS[:20]).wait(show_progress=False)
        assert server.stats()["batch_inputs_billed"] == 10
        with sqlite3.connect(journal) as connection:
            assert len(connection.execute(tables).fetchall()) >= 6
            assert connection.execute("PRAGMA user_version").fetchone() == (version,)
        connection.close()
        assert SQLiteJournal(journal).stats().vectors == 20

    def test_jobs_of_a_later_version_are_left_alone(
        self, server: LocalServer, half: Half, journal: Path
    ) -> None:
        """The vectors can be read all the same."""
        configure(server)
        embeddings = half()
        embeddings.submit(TEXTS[:20]).wait(show_progress=False)
        with sqlite3.connect(journal) as connection:
            connection.execute("INSERT INTO job_version VALUES (2)")
        connection.close()
        for call in (embeddings.jobs, lambda: embeddings.submit(TEXTS)):
            with pytest.raises(JournalError, match="version 2"):
                call()
        assert_all_there(embeddings, TEXTS[:20], server)

    def test_jobs_move_with_a_journal_that_was_replaced(
        self, server: LocalServer, half: Half, journal: Path
    ) -> None:
        """As its vectors do."""
        configure(server)
        embeddings = half()
        job = embeddings.submit(TEXTS[:20])
        journal.unlink()
        job.wait(show_progress=False)
        (found,) = half().jobs()
        assert found.status.finished == 20
        assert_paid_once(server.stats(), 20)

    def test_the_lock_is_one_process_s_at_a_time(self, journal: Path) -> None:
        """And one thread's."""
        held = []
        with jobs_lock(journal) as is_held:
            assert is_held

            def try_it() -> None:
                with jobs_lock(journal) as is_held_too:
                    held.append(is_held_too)

            thread = threading.Thread(target=try_it)
            thread.start()
            thread.join()
        with jobs_lock(journal) as is_held:
            held.append(is_held)
        assert held == [False, True]


MEMORY = """
import json, resource, sys
from pathlib import Path
from tests.batch_api.support import make
url, journal, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
job = make(url, journal, factor=40).submit(f"text number {i}" for i in range(count))
job.wait(show_progress=False)
print(json.dumps([job.status.finished, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss differs")
def test_the_output_of_300_000_texts_takes_little_memory(
    server: LocalServer, journal: Path
) -> None:
    """It is read line by line into the journal: with 512 dimensions 614 MB of vectors."""
    configure(server, dimensions=512, running=1.0)
    done = subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-c", MEMORY, server.url, str(journal), "300000"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    finished, kilobytes = json.loads(done.stdout)
    assert finished == 300_000
    assert kilobytes < 600_000
    assert_one_batch_an_intent(server.stats())
