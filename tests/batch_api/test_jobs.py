"""Jobs at a local server, with their status, waiting, cancelling and interruptions."""

import logging
import pickle
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import openai
import pytest
from pytest_mock import MockerFixture

from langchain_batch_embed import JobError, JobTimeoutError, JournalError, OptionError
from langchain_batch_embed.batch_api import JobReport
from langchain_batch_embed.batch_api.lock import jobs_lock
from tests.batch_api.support import (
    BULKY,
    START,
    Half,
    JumpingCalendar,
    assert_all_there,
    assert_paid_once,
    configure,
    make,
    poisoned,
    texts_of,
)
from tests.support import LocalServer

TEXTS = texts_of(6000)

KEY = "sk-secret"


class TestJobs:
    """A user's operations on a job."""

    def test_a_job_tells_how_far_it_is(self, server: LocalServer, half: Half) -> None:
        """A job shows its progress in one line and in counts of texts."""
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
        """A report is one sentence that omits what did not happen and uses the right number."""
        report = JobReport(
            texts=2, unique=2, from_journal=0, batches=1, requests=0, half_price_tokens=9,
            full_price_tokens=0, half_price_dollars=0.01, full_price_dollars=None, overtaken=0,
            seconds=3.0,
        )  # fmt: skip
        assert str(replace(report, **changes)) == said

    def test_refresh_does_what_can_be_done_and_does_not_wait(
        self, server: LocalServer, half: Half
    ) -> None:
        """A loop around `refresh`, which does not wait, completes a job too."""
        configure(server)
        embeddings = half()
        job = embeddings.submit(TEXTS)
        while not job.refresh().has_ended:
            pass
        assert_all_there(embeddings, TEXTS, server)

    def test_a_bar_counts_texts(
        self, server: LocalServer, half: Half, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The progress bar counts texts and shows their states."""
        configure(server)
        half().submit(TEXTS).wait()
        shown = capsys.readouterr().err
        assert "6000/6000" in shown
        assert "6,000 finished" in shown

    def test_a_bar_is_drawn_each_second(
        self, server: LocalServer, half: Half, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The bar is drawn each second, although the server is polled once a minute.

        Otherwise it would seem to hang.
        """
        configure(server, fates=("stuck",))
        job = half(_calendar=JumpingCalendar()).submit(TEXTS[:3])
        with pytest.raises(JobTimeoutError):
            job.wait(timeout=100)
        assert 100 <= capsys.readouterr().err.count("\r") < 200

    def test_a_wait_that_is_over_says_so(self, server: LocalServer, half: Half) -> None:
        """A wait that times out raises `JobTimeoutError`, and the job goes on."""
        configure(server, fates=("stuck",))
        embeddings = half()
        job = embeddings.submit(TEXTS)
        with pytest.raises(JobTimeoutError, match="6,000 running") as caught:
            job.wait(timeout=5, show_progress=False)
        assert isinstance(caught.value, TimeoutError)
        copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301  # our own bytes
        assert (str(copy), copy.job) == (str(caught.value), job.id)
        assert job.refresh().running == len(TEXTS)

    @pytest.mark.parametrize("timeout", ["x", True, -1, float("nan"), float("inf")])
    def test_a_timeout_that_is_no_time_is_an_error_at_once(
        self, server: LocalServer, half: Half, timeout: Any
    ) -> None:
        """`wait` refuses a time-out that is not a number of seconds, before it looks at the job."""
        configure(server)
        job = half().submit(TEXTS[:3])
        with pytest.raises(OptionError, match="timeout must be"):
            job.wait(timeout)
        assert job.wait(timedelta(hours=1), show_progress=False).failures == ()

    @pytest.mark.parametrize("fate", ["ok", "stuck"])
    def test_a_cancelled_job_keeps_what_it_has(
        self, server: LocalServer, half: Half, fate: str
    ) -> None:
        """A cancelled job keeps its answers and sends no more, so a later call sends the rest."""
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
        report = job.report
        assert report.cancelled == len(report.failures) == status.cancelled
        assert f"{status.cancelled:,} cancelled" in str(report)
        assert bool(status.finished) == (fate == "ok")
        assert len(server.stats()["batches"]) == 1
        job.cancel()  # a job that has ended is not affected
        left = texts[:100]
        embeddings.embed_documents(left)
        if fate == "stuck":
            assert_paid_once(server.stats(), len(left))

    def test_a_job_that_waits_for_the_queue_is_cancelled(
        self, server: LocalServer, half: Half
    ) -> None:
        """Cancelling a job that waits for the queue deletes its files and creates no batch."""
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
        """Jobs are listed with open ones first, and then the newest first."""
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
        """A second submit of the same texts is the same job.

        A submit with other texts too waits for the common ones and sends only the others.
        """
        configure(server, running=0.5)
        calendar = JumpingCalendar()  # so that no submit has the time to poll a batch
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
        """A third job whose texts are in two others sends nothing and waits for both."""
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
        """No file of the journal contains a text or the key, either during a job or after it."""
        configure(server, running=0.5, refuse_marker="poison")
        embeddings = half()
        job = embeddings.submit(poisoned(TEXTS))
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
        """A job of another model is listed, but waiting for it or cancelling it is an error.

        Its vectors would go under other keys.
        """
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
        """A wait survives an outage of the server, of up to a day."""
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
        """An outage is shown on the bar, and logged once as a warning, later at INFO."""
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
        """A submit without a connection logs each wait, and gives up after 15 s.

        The address may be wrong, so the error names it. It shows no bar.
        """
        calendar = JumpingCalendar()
        embeddings = make("http://127.0.0.1:9/v1", journal, _calendar=calendar)
        with pytest.raises(openai.APIConnectionError) as caught:
            embeddings.submit(["a"])
        assert caught.value.__notes__ == ["the server at http://127.0.0.1:9/v1/ does not answer"]
        said = [each.getMessage() for each in caplog.records]
        waits = [1, 2, 4, 8]
        assert said == [
            "the server at http://127.0.0.1:9/v1/ does not answer (APIConnectionError), "
            f"next try in {wait} s"
            for wait in waits
        ]
        assert calendar.time() == START + sum(waits)

    def test_a_submit_says_that_it_waits_for_another_process_and_ends(
        self,
        server: LocalServer,
        half: Half,
        journal: Path,
        mocker: MockerFixture,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """A submit that waits for another process logs each minute and ends with an error.

        A round of the other process cannot take that long.
        """
        mocker.patch("langchain_batch_embed.batch_api.desk._LONGEST_BUSY", 150.0)
        configure(server)
        embeddings = half(_calendar=JumpingCalendar())
        with jobs_lock(journal) as is_held:
            assert is_held
            with pytest.raises(JournalError, match="another process has worked on the jobs"):
                embeddings.submit(TEXTS[:3])
        said = [each.getMessage() for each in caplog.records]
        assert said == [f"waiting for another process that works on the jobs of {journal}"] * 3
        assert server.stats()["files"]["kept"] == 0
        assert embeddings.submit(TEXTS[:3]).wait(show_progress=False).failures == ()

    @pytest.mark.parametrize("faults", [{"lost": 0.25}, {"reset": 0.15, "503": 0.15}])
    def test_many_calls_fail(
        self, server: LocalServer, half: Half, faults: dict[str, float]
    ) -> None:
        """Calls that fail after the server executed them are not executed twice."""
        configure(server, call_faults=faults, fates=("expires",), day=0.5)
        embeddings = half(factor=200)
        texts = texts_of(20_000)
        embeddings.submit(texts).wait(show_progress=False)
        assert_paid_once(server.stats(), len(texts))
        assert_all_there(embeddings, texts, server)

    def test_a_wrong_key_ends_a_wait_at_once(self, server: LocalServer, half: Half) -> None:
        """A wrong key ends a submit at once, because waiting does not help."""
        configure(server, api_key="another")
        with pytest.raises(openai.AuthenticationError):
            half().submit(TEXTS)
        assert server.stats()["files"]["uploaded"] == 0

    def test_texts_that_were_never_uploaded_are_asked_for(
        self, server: LocalServer, half: Half, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If a process ended before the upload, waiting asks for a new submit of the texts."""
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
        again = embeddings.submit(TEXTS[:2500])  # a part of the texts
        assert again.id == job.id
        with pytest.raises(JobError, match="3,500 texts"):
            job.wait(show_progress=False)
        assert_all_there(embeddings, TEXTS[:2500], server)
        embeddings.submit(TEXTS).wait(show_progress=False)
        assert_paid_once(server.stats(), len(TEXTS))

    def test_an_output_that_is_gone_is_made_again(
        self, server: LocalServer, half: Half, caplog: pytest.LogCaptureFixture
    ) -> None:
        """If the output is gone, as it is after thirty days, its texts are embedded again."""
        configure(server)
        embeddings = half()
        job = embeddings.submit(TEXTS)
        client = embeddings._pipeline.provider.client  # type: ignore[attr-defined]
        while client.batches.list().data[0].status != "completed":
            pass
        client.files.delete(client.batches.list().data[0].output_file_id)
        with caplog.at_level(logging.WARNING):
            job.wait(show_progress=False)
        assert "no longer has a batch's output" in caplog.text
        assert_all_there(embeddings, TEXTS, server)


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt
