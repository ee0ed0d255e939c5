"""Batches that expire, fail or are answered in part: answers are kept, the rest is sent again."""

from typing import Any

import pytest

from langchain_batch_embed import JobError, PartialEmbeddingsError
from tests.batch_api.support import (
    POISONED,
    Half,
    assert_all_there,
    assert_one_batch_an_intent,
    assert_paid_once,
    configure,
    poisoned,
    texts_of,
)
from tests.support import LocalServer

TEXTS = texts_of(6000)


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
        texts = poisoned(TEXTS)
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
        texts = poisoned(TEXTS)
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
