"""Requests that fail: throttling, faults of every kind, and limits learnt from them."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import openai
import pytest
from langchain_openai import OpenAIEmbeddings

from langchain_batch_embed import BatchEmbeddings, PartialEmbeddingsError
from langchain_batch_embed.clock import SYSTEM_CLOCK
from langchain_batch_embed.limits import OPENAI
from tests.support import FakeClock, LocalServer, assert_right, prose, treat_as_known, wait_until
from tests.survival.support import Asked, Endpoint

Batch = Callable[..., BatchEmbeddings]
Wrapped = Callable[..., OpenAIEmbeddings]

TEXTS = [f"section {i}" for i in range(3000)]


class TestSilence:
    """The log reports a server that does not answer while requests are retried."""

    @pytest.mark.parametrize(
        ("script", "warnings"),
        [
            (("500", "500", "reset"), 2),
            (("ok", "500"), 0),
            (("429", "429"), 0),
        ],
    )
    def test_no_answer_at_all_is_a_warning(
        self,
        batch: Batch,
        server: LocalServer,
        caplog: pytest.LogCaptureFixture,
        script: tuple[str, ...],
        warnings: int,
    ) -> None:
        """A warning is logged when the server counts as away, and another when it answers again.

        Users need not wonder for minutes.
        """
        server.configure(script=script)
        batch(max_workers=1, max_batch_size=1).embed_numpy(["a", "b"])
        found = [record for record in caplog.records if record.levelname == "WARNING"]
        assert [record.name for record in found] == [
            "langchain_batch_embed.sending.server_log"
        ] * warnings


class TestRateLimitHandling:
    """A 429 is waited out with exponential backoff, unless waiting cannot help."""

    def test_waits_as_long_as_the_server_says(
        self, batch: Batch, server: LocalServer, clock: FakeClock
    ) -> None:
        """With a `retry-after` of 7 s the batch is sent again 7 s later, and not before."""
        server.configure(script=("429",), retry_after=7)
        embeddings = batch()
        assert_right(embeddings.embed_numpy(["a"]), ["a"])
        assert 7 <= clock.time <= 8
        assert embeddings.last_report is not None
        assert embeddings.last_report.throttled == 1

    def test_backs_off_exponentially_where_the_server_says_nothing(
        self, batch: Batch, server: LocalServer, clock: FakeClock
    ) -> None:
        """After bare 429s the waits double, drawn here at the top of their range."""
        server.configure(script=("429_bare",) * 4)
        assert_right(batch(_draw=lambda: 1.0).embed_numpy(["a"]), ["a"])
        assert [w for w in clock.waits if w > 0.01] == pytest.approx([0.5, 1.0, 2.0, 4.0])

    def test_reads_the_delay_in_azures_text(
        self, batch: Batch, server: LocalServer, clock: FakeClock
    ) -> None:
        """`Please retry after 46 seconds` in Azure's message makes the next request wait 46 s."""
        server.configure(script=("429_azure",), retry_after=46, refusal_hint="text")
        assert_right(batch().embed_numpy(["a"]), ["a"])
        assert 46 <= clock.time <= 47

    def test_a_throttle_holds_everybody_once(
        self, batch: Batch, server: LocalServer, clock: FakeClock
    ) -> None:
        """No worker sends anything during the pause after one refusal."""
        server.configure(script=("429",), retry_after=30)
        embeddings = treat_as_known(batch(max_batch_size=100))
        assert_right(embeddings.embed_numpy(TEXTS), TEXTS)
        assert server.stats()["by_status"] == {"200": 30, "429": 1}
        assert 30 <= clock.time <= 31

    def test_money_that_is_spent_is_not_waited_for(
        self, batch: Batch, server: LocalServer, clock: FakeClock
    ) -> None:
        """`insufficient_quota` ends the call at once, without a single retry."""
        server.configure(faults={"insufficient_quota": 1.0})
        with pytest.raises(PartialEmbeddingsError) as caught:
            batch(max_workers=4, max_batch_size=10).embed_documents(TEXTS)
        assert isinstance(caught.value.__cause__, openai.RateLimitError)
        assert server.stats()["requests"] <= 4
        assert clock.time == 0

    def test_gives_up_a_server_that_throttles_for_ever(
        self, batch: Batch, server: LocalServer, clock: FakeClock
    ) -> None:
        """A server that only throttles is given up after `max_outage`, with its own error.

        `max_retries` does not count for this.
        """
        server.configure(faults={"429_bare": 1.0})
        with pytest.raises(openai.RateLimitError):
            batch(max_retries=0, max_outage=60).embed_query("a")
        assert 50 <= clock.time <= 80
        assert 5 <= server.stats()["requests"] <= 25

    @pytest.mark.parametrize(("bucket_seconds", "refused"), [(4, 2), (1, OPENAI.first_requests)])
    def test_keeps_a_quota_it_reads_in_the_headers(
        self, batch: Batch, server: LocalServer, bucket_seconds: float, refused: int
    ) -> None:
        """Once a header has announced 3.6M tokens a minute, that quota is not exceeded again.

        A bucket of a second holds less than the requests that are sent before the first header.
        """
        server.configure(tokens_per_minute=3_600_000, bucket_seconds=bucket_seconds)
        embeddings = batch(max_batch_size=20, _clock=SYSTEM_CLOCK)
        texts = [prose(100, i) for i in range(1500)]
        assert_right(embeddings.embed_numpy(texts), texts)
        assert embeddings.last_report is not None
        assert embeddings.last_report.throttled <= refused


class TestFaults:
    """Whatever the network and the server do, each text gets its own vector."""

    def test_all_vectors_are_right_under_many_faults(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """With 8 % 429, 6 % 5xx, 3 % resets and 2 % truncated answers, every vector is right."""
        server.configure(
            faults={"429": 0.08, "500": 0.03, "503": 0.03, "reset": 0.03, "truncated": 0.02}
        )
        assert_right(batch(max_batch_size=20).embed_numpy(TEXTS), TEXTS)
        assert server.stats()["by_status"]["200"] >= 150

    @pytest.mark.parametrize(
        "fault",
        ["500", "502_html", "503", "408", "409", "reset", "truncated", "html", "error_200"],
    )
    def test_a_passing_fault_is_retried(
        self, batch: Batch, server: LocalServer, fault: str
    ) -> None:
        """A request with a temporary fault is sent again."""
        server.configure(script=(fault, fault, "ok"))
        assert_right(batch().embed_numpy(["a"]), ["a"])
        assert server.stats()["requests"] == 3

    @pytest.mark.parametrize(
        "fault", ["short", "doubled", "shuffled", "no_index", "empty_data", "nulls", "nan"]
    )
    def test_an_answer_is_checked_before_it_is_believed(
        self, batch: Batch, server: LocalServer, fault: str
    ) -> None:
        """An answer that is not one sound vector for each text never reaches the result."""
        server.configure(faults={fault: 0.2})
        assert_right(batch(max_batch_size=50).embed_numpy(TEXTS[:500]), TEXTS[:500])

    def test_a_vector_of_another_width_is_never_taken(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Once the width of vectors is known, an answer of another width is requested again."""
        server.configure(script=("ok", "wrong_width", "wrong_width"))
        embeddings = batch()
        embeddings.embed_query("a")
        assert_right(embeddings.embed_numpy(["b"]), ["b"])

    def test_floats_are_as_good_as_base64(self, batch: Batch, server: LocalServer) -> None:
        """Lists of floats are read too, from servers that ignore `encoding_format`."""
        server.configure(base64=False)
        assert_right(batch().embed_numpy(TEXTS[:100]), TEXTS[:100])

    def test_sends_strings_and_never_token_arrays(self, batch: Batch, server: LocalServer) -> None:
        """Over-long texts are sent as strings: most compatible servers refuse token arrays."""
        server.configure(token_arrays=False)
        assert len(batch().embed_documents([prose(9000), "short"])) == 2

    def test_a_split_teaches_the_limit(self, batch: Batch, server: LocalServer) -> None:
        """A server's limit of 16 texts costs one refusal, and one more to test it again."""
        server.configure(max_inputs=16)
        embeddings = batch(max_workers=1)
        assert_right(embeddings.embed_numpy(TEXTS[:200]), TEXTS[:200])
        assert server.stats()["by_status"] == {"200": 13, "400": 1}
        assert_right(embeddings.embed_numpy(TEXTS[200:300]), TEXTS[200:300])
        assert server.stats()["by_status"]["400"] <= 2

    @pytest.mark.parametrize(
        "limit", [{"max_tokens_per_request": 5000}, {"max_body_bytes": 20_000}]
    )
    def test_a_refused_request_is_halved_until_it_fits(
        self, batch: Batch, server: LocalServer, limit: dict[str, int]
    ) -> None:
        """An unexpected limit of tokens or bytes costs a few splits, and the call succeeds."""
        server.configure(**limit)
        texts = [prose(100, i) for i in range(200)]
        embeddings = batch(max_workers=1)
        assert_right(embeddings.embed_numpy(texts), texts)
        assert 1 <= embeddings.last_report.splits <= 8  # type: ignore[union-attr]

    def test_a_request_above_the_whole_quota_is_split(
        self, batch: Batch, server: LocalServer, clock: FakeClock
    ) -> None:
        """`Request too large` makes the request smaller at once, since waiting cannot help."""
        server.configure(script=("too_large_for_quota",))
        assert_right(batch().embed_numpy(TEXTS), TEXTS)
        assert clock.time == 0

    def test_no_text_and_no_key_in_what_is_logged(
        self, batch: Batch, server: LocalServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Log lines and error messages name texts by index and quote neither texts nor keys."""
        caplog.set_level("DEBUG", logger="langchain_batch_embed")
        server.configure(faults={"500": 1.0})
        with pytest.raises(PartialEmbeddingsError) as caught:
            batch(max_retries=1).embed_documents(["a secret text"])
        assert "again" in caplog.text
        assert "secret" not in caplog.text + str(caught.value)
        assert "sk-test" not in caplog.text + str(caught.value)


FOUR_AT_ONCE = {"max_workers": 4, "max_batch_size": 75, "timeout": 60, "_clock": SYSTEM_CLOCK}
"""Options under which 3,000 texts make 40 requests, and none is given up for its time."""


class TestHedging:
    """A late request is sent again only if the user allows it, and only for a small share.

    `sending/test_sender.py` tests the bounds in simulated time.
    """

    def test_a_straggler_is_sent_again(self, batch: Batch, openai_embeddings: Wrapped) -> None:
        """With `hedge=True` a late request is sent again; here only its copy gets it answered."""
        with straggling(20) as endpoint:
            wrapped = openai_embeddings(base_url=endpoint.url)
            embeddings = treat_as_known(batch(wrapped, hedge=True, **FOUR_AT_ONCE))
            assert_right(embeddings.embed_numpy(TEXTS), TEXTS)
        report = embeddings.last_report
        assert report is not None
        assert report.retries + report.splits == 0
        # 5 % of forty are two, so another one of the last requests may have seemed late too.
        assert 1 <= report.hedged <= 2
        assert len(endpoint.asked) == 40 + report.hedged

    def test_a_straggler_is_waited_for_if_told(
        self, batch: Batch, openai_embeddings: Wrapped
    ) -> None:
        """With `hedge=False` a late request is sent once, even if all others are answered."""

        def decide(asked: Asked) -> None:
            if asked.number == 20:
                wait_until(lambda: len(endpoint.statuses) == 39)

        with Endpoint(decide) as endpoint:
            wrapped = openai_embeddings(base_url=endpoint.url)
            embeddings = treat_as_known(batch(wrapped, hedge=False, **FOUR_AT_ONCE))
            assert_right(embeddings.embed_numpy(TEXTS), TEXTS)
        assert len(endpoint.asked) == 40

    def test_a_straggler_of_a_prefetch_is_sent_again_too(
        self, batch: Batch, openai_embeddings: Wrapped
    ) -> None:
        """A late request of a prefetch is sent again, even if its run is small.

        A batch costs more than the share that one of these small runs may spend.
        """
        with straggling(30) as endpoint:
            wrapped = openai_embeddings(base_url=endpoint.url)
            embeddings = treat_as_known(batch(wrapped, hedge=True, **FOUR_AT_ONCE))
            with embeddings.prefetch(TEXTS, max_buffered=3000):
                assert_right(embeddings.embed_numpy(TEXTS), TEXTS)
        report = embeddings.last_report
        assert report is not None
        assert report.retries == 0
        assert 1 <= report.hedged <= 2


@contextmanager
def straggling(number: int) -> Iterator[Endpoint]:
    """Serve requests, one of which is answered only after its texts arrive a second time."""
    is_copied = threading.Event()
    late: list[Sequence[str]] = []

    def decide(asked: Asked) -> None:
        if asked.number == number:
            late.append(asked.texts)
            is_copied.wait(60)
        elif asked.texts in late:
            is_copied.set()

    with Endpoint(decide) as endpoint:
        yield endpoint
