"""One senseless answer costs nothing, because the request is sent again, whole or in parts."""

import logging
import math
from collections.abc import Callable, Mapping

import pytest
from langchain_openai import OpenAIEmbeddings

from langchain_batch_embed import BatchEmbeddings
from tests.support import FakeClock, LocalServer
from tests.survival.conftest import Serve
from tests.survival.support import (
    DIMENSIONS,
    PAGE,
    Asked,
    Endpoint,
    Reply,
    embed,
    kinds,
)

Batch = Callable[..., BatchEmbeddings]
Wrapped = Callable[[Endpoint], OpenAIEmbeddings]

TEXTS = [f"section {i}" for i in range(1000)]

STRAY = [400, 401, 403, 404, 405, 406, 407, 409, 410, 413, 418, 421, 423, 424, 428, 451, 499, 501]
STRAY += [504, 520]


class TestOnce:
    """One replica of many, or one moment of many, answers with an odd status."""

    @pytest.mark.parametrize("status", STRAY)
    def test_a_stray_status_loses_nothing(
        self, batch: Batch, server: LocalServer, clock: FakeClock, status: int
    ) -> None:
        """One request with an odd status loses no text, whatever the status."""
        server.configure(dimensions=DIMENSIONS, script=(*["ok"] * 10, f"status_{status}"))
        failed = embed(batch(max_batch_size=32, max_workers=4), TEXTS)
        assert failed == {}, kinds(failed)
        assert server.stats()["requests"] < 72
        assert clock.time < 5

    @pytest.mark.parametrize("status", [400, 413, 499])
    def test_a_stray_refusal_teaches_no_limit(
        self, batch: Batch, server: LocalServer, status: int
    ) -> None:
        """One odd refusal sets no limit, so later requests hold as many texts as before."""
        server.configure(dimensions=DIMENSIONS, script=(*["ok"] * 10, f"status_{status}"))
        embeddings = batch(max_batch_size=32, max_workers=4)
        assert embed(embeddings, TEXTS) == {}
        server.configure(dimensions=DIMENSIONS)
        later = [f"later {i}" for i in range(1000)]
        assert embed(embeddings, later) == {}
        assert server.stats()["requests"] <= 48

    @pytest.mark.parametrize("fault", ["401", "403_html", "404", "html"])
    def test_a_stray_answer_in_the_providers_own_words_loses_nothing(
        self, batch: Batch, server: LocalServer, clock: FakeClock, fault: str
    ) -> None:
        """One answer of an old key, a missing model or a firewall's page loses no text."""
        server.configure(dimensions=DIMENSIONS, script=(*["ok"] * 10, fault, *["ok"] * 3, fault))
        failed = embed(batch(max_batch_size=32, max_workers=4), TEXTS)
        assert failed == {}, kinds(failed)
        assert clock.time < 5

    @pytest.mark.parametrize("status", [406, 421, 424, 451])
    def test_a_stray_status_of_the_very_first_request_loses_nothing(
        self, batch: Batch, server: LocalServer, status: int
    ) -> None:
        """An odd status of the very first request loses no text.

        No answer has shown yet that the server is well.
        """
        server.configure(dimensions=DIMENSIONS, script=(f"status_{status}",))
        failed = embed(batch(), TEXTS)
        assert failed == {}, kinds(failed)

    @pytest.mark.parametrize("fault", ["401", "404", "status_424"])
    def test_one_replica_of_eight_that_refuses_everything_loses_nothing(
        self, batch: Batch, server: LocalServer, fault: str
    ) -> None:
        """If an eighth of all requests is refused at random, at most 5 of 1,000 texts fail."""
        server.configure(dimensions=DIMENSIONS, faults={fault: 0.125}, script=("ok",) * 3)
        failed = embed(batch(max_batch_size=32), TEXTS)
        # Only a text that is refused alone and in each batch before is lost: an eighth each time.
        assert len(failed) <= 5, kinds(failed)


class SetUpAnew:
    """A gateway that refuses everything for some seconds, from its eleventh request on."""

    def __init__(self, reply: Reply, seconds: float) -> None:
        self._reply = reply
        self._seconds = seconds
        self.ends = math.inf

    def __call__(self, asked: Asked) -> Reply | None:
        """Return the refusal while it lasts, else `None` for vectors."""
        if asked.number < 10:
            return None
        self.ends = min(self.ends, asked.time + self._seconds)
        return None if asked.time >= self.ends else self._reply


class TestForSeconds:
    """A gateway that is being reconfigured refuses everything for some seconds during a call."""

    @pytest.mark.parametrize("options", [{"max_batch_size": 32}, {"max_batch_size": 1}], ids=str)
    @pytest.mark.parametrize("workers", [1, 32])
    @pytest.mark.parametrize("seconds", [0.5, 2, 5, 8])
    @pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
    def test_nothing_is_lost_when_it_ends(
        self,
        batch: Batch,
        serve: Serve,
        wrapped: Wrapped,
        clock: FakeClock,
        status: int,
        seconds: float,
        workers: int,
        options: Mapping[str, int],
    ) -> None:
        """A gateway that refuses everything for seconds loses no text, and the call soon ends.

        With 400, 413 and 422 each refusal looks like that of a single text.
        """
        is_page = status in (401, 403, 404)
        reply = Reply(status=status, body=PAGE.format(status)) if is_page else Reply(status=status)
        gateway = SetUpAnew(reply, seconds)
        embeddings = batch(wrapped(serve(gateway)), max_workers=workers, **options)
        failed = embed(embeddings, TEXTS[:400])
        assert failed == {}, kinds(failed)
        assert gateway.ends <= clock.time < gateway.ends + 5

    def test_the_log_says_when_it_begins_and_when_it_ends(
        self, batch: Batch, serve: Serve, wrapped: Wrapped, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The log has one line when the refusals begin and one when they end."""
        gateway = SetUpAnew(Reply(status=403, body=PAGE.format(403)), 5)
        with caplog.at_level(logging.WARNING):
            assert embed(batch(wrapped(serve(gateway)), max_batch_size=32), TEXTS[:400]) == {}
        begins, ends = [record.getMessage() for record in caplog.records]
        assert "refuses every request (403" in begins
        assert ends.endswith("answers again")


class TestAlways:
    """A refusal of everything ends the call, at once before any answer and in seconds after one."""

    @pytest.mark.parametrize("fault", ["401", "403", "404"])
    def test_a_wrong_key_or_model_ends_the_call_at_once(
        self, batch: Batch, server: LocalServer, clock: FakeClock, fault: str
    ) -> None:
        """A wrong key or model ends the call after at most 12 requests, without a wait."""
        server.configure(dimensions=DIMENSIONS, faults={fault: 1.0})
        failed = embed(batch(), TEXTS)
        assert len(failed) == len(TEXTS)
        assert server.stats()["requests"] <= 12
        assert clock.time < 2

    def test_a_key_that_is_revoked_in_mid_call_ends_it_soon(
        self, batch: Batch, server: LocalServer, clock: FakeClock
    ) -> None:
        """A key that is revoked during a call ends it after ten seconds of 401s."""
        server.configure(dimensions=DIMENSIONS, faults={"401": 1.0}, script=("ok",) * 10)
        failed = embed(batch(max_batch_size=10), TEXTS)
        assert 0 < len(failed) < len(TEXTS)
        assert server.stats()["requests"] <= 60
        assert 9 < clock.time < 15

    def test_a_page_for_every_request_ends_the_call(
        self, batch: Batch, serve: Serve, wrapped: Wrapped, clock: FakeClock
    ) -> None:
        """An address of a web site, which answers everything with a 404 page, ends the call."""
        endpoint = serve(lambda _: Reply(status=404, body=PAGE.format("404 Not Found")))
        failed = embed(batch(wrapped(endpoint)), TEXTS)
        assert len(failed) == len(TEXTS)
        assert len(endpoint.asked) <= 12
        assert clock.time < 2
