"""Batches that expire or fail keep their answers, and the rest is sent again."""

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
    """Batches that expire or fail keep their answers, and the rest is sent again."""

    @pytest.mark.parametrize("share", [0.5, 0.0001])
    def test_expiry_three_times_in_a_row(
        self, server: LocalServer, half: Half, share: float
    ) -> None:
        """Batches that expire three times are completed in the end, and each text is paid once."""
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
        """A tenth of the lines has an error or an invalid answer, and is sent again."""
        configure(server, line_faults={fault: 0.1})
        embeddings = half()
        texts = texts_of(40_000)
        report = embeddings.submit(texts).wait(show_progress=False)
        assert report.failures == ()
        assert_one_batch_an_intent(server.stats())
        assert_all_there(embeddings, texts, server)

    @pytest.mark.parametrize("empty", ["null", "empty", "file"])
    def test_every_line_is_bad(self, server: LocalServer, half: Half, empty: str) -> None:
        """If every text is refused there is no output, whose id is null, "" or an empty file's."""
        configure(server, refuse_marker="section", empty_ids=empty)
        job = half().submit(TEXTS[:5])
        report = job.wait(show_progress=False)
        assert [failure.index for failure in report.failures] == [0, 1, 2, 3, 4]
        assert job.status.failed == 5
        assert server.stats()["inputs_billed"] == 0

    def test_three_refused_texts_cost_only_themselves(
        self, server: LocalServer, half: Half
    ) -> None:
        """Three refused texts are found, and all others have their vectors."""
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
        """A text that causes an unclear error, of a firewall or the server, is found too."""
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
        """A batch that fails for a temporary reason is created again, with the same file."""
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
        """A creation that is refused for a temporary reason is repeated."""
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
        """A creation whose answer was lost is looked up before another batch is created.

        The account's list is read for a minute.
        """
        configure(server, creations=(call,), listed_after=0.7)
        half(factor=10).submit(TEXTS).wait(show_progress=False)
        stats = server.stats()
        assert len(stats["batches"]) == 1
        assert_paid_once(stats, len(TEXTS))

    def test_a_file_that_is_not_visible_for_a_while(self, server: LocalServer, half: Half) -> None:
        """While a file is not visible the batch is tried again, and in the end all is there."""
        configure(server, visible_after=1.0)
        embeddings = half()
        embeddings.submit(TEXTS).wait(show_progress=False)
        assert_paid_once(server.stats(), len(TEXTS))
        assert_all_there(embeddings, TEXTS, server)

    def test_a_file_that_stays_invisible_is_uploaded_again(
        self, server: LocalServer, half: Half
    ) -> None:
        """A file that stays invisible is uploaded again after some tries."""
        configure(server, fates=("unseen_file",) * 7)
        half(factor=300).submit(TEXTS).wait(show_progress=False)
        stats = server.stats()
        assert stats["files"] == {"uploaded": 2, "deleted": 3, "kept": 0}
        assert_paid_once(stats, len(TEXTS))

    def test_a_line_that_validation_refuses(self, server: LocalServer, half: Half) -> None:
        """A line that fails validation is sent again in smaller lines."""
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
        """A job that cannot succeed ends with an error that names the code."""
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
        """After ten batches without any answer the job is given up."""
        configure(server, fates=("expires",) * 20, day=0.1, validating=0.01, expired_share=0.0001)
        job = half().submit(TEXTS)
        with pytest.raises(JobError, match="in a row brought no answer"):
            job.wait(show_progress=False)
        assert len(server.stats()["batches"]) == 10
