"""A server that is away gets one probe at a time, and when it returns, all calls go on."""

import logging
import socket
import threading
from collections import Counter
from collections.abc import Callable

import numpy as np
import openai
import pytest
from langchain_openai import OpenAIEmbeddings

from langchain_batch_embed import BatchEmbeddings, PartialEmbeddingsError
from langchain_batch_embed.clock import SYSTEM_CLOCK
from langchain_batch_embed.errors import NotSentError
from tests.support import FakeClock, LocalServer, assert_right
from tests.survival.conftest import Serve
from tests.survival.support import (
    DIMENSIONS,
    HANG,
    PAGE,
    RESET,
    Asked,
    Endpoint,
    FastClock,
    Reply,
    embed,
    finish,
    kinds,
)

Batch = Callable[..., BatchEmbeddings]
Wrapped = Callable[[Endpoint], OpenAIEmbeddings]

TEXTS = [f"section {i}" for i in range(4000)]
AWAY = Reply(status=503, body=PAGE.format("503 Service Temporarily Unavailable"))
BAD_GATEWAY = Reply(status=502, body=PAGE.format("502 Bad Gateway"))
KINDS = [
    ("reset", RESET, (10, 60)),
    ("503", AWAY, (25, 300)),
    ("502", BAD_GATEWAY, (25,)),
    ("hang", HANG, (25,)),
]


class Outage:
    """A server that goes away at one of its requests, for this many seconds of a clock.

    Args:
        clock: the test's clock.
        reply: its answer while it is away.
        after: requests that are answered before.
        seconds: length of an outage.
        every: number of further requests until the next outage, or 0 for a single outage.

    Attributes:
        begins: beginning of the last outage, or `None` before the first one.
        times: times of the requests that came while it was away.
    """

    def __init__(
        self, clock: FakeClock, reply: Reply, *, after: int, seconds: float, every: int = 0
    ) -> None:
        self._clock = clock
        self._reply = reply
        self._next = after
        self._every = every
        self._seconds = seconds
        self._lock = threading.Lock()
        self.begins: float | None = None
        self.times: list[float] = []
        self.count = 0

    def __call__(self, asked: Asked) -> Reply | None:
        """Return the answer to a request, or `None` for vectors."""
        with self._lock:
            if asked.number >= self._next:
                self.begins, self.count = asked.time, self.count + 1
                self._next = asked.number + self._every if self._every else 10**9
            is_away = self.begins is not None and asked.time < self.begins + self._seconds
            if is_away:
                self.times.append(asked.time)
        return self._reply if is_away else None


class TestInTheMiddle:
    """The server goes away after it has answered, for seconds or minutes."""

    @pytest.mark.parametrize(
        ("reply", "seconds"),
        [
            pytest.param(reply, seconds, id=f"{name} {seconds}")
            for name, reply, times in KINDS
            for seconds in times
        ],
    )
    def test_nothing_is_lost_and_all_go_on_soon_after_it_is_back(
        self,
        batch: Batch,
        serve: Serve,
        wrapped: Wrapped,
        clock: FakeClock,
        reply: Reply,
        seconds: float,
    ) -> None:
        """After an outage of any kind, every text has its vector within 10 s of the return."""
        outage = Outage(clock, reply, after=10, seconds=seconds)
        embeddings = batch(wrapped(serve(outage)), max_batch_size=50, timeout=0.3)
        failed = embed(embeddings, TEXTS)
        assert failed == {}, kinds(failed)
        assert clock.time < seconds + 10
        # Beyond the requests that the outage overtook there is one probe at a time, five seconds
        # apart in the end. (Where the last of those requests fail, the first probe may come at the
        # same moment of this clock.)
        probes = Counter(time for time in outage.times if time > 1)
        assert sum(probes.values()) <= len(probes) + 1
        assert len(outage.times) < 80 + seconds / 2

    def test_the_user_learns_of_it(
        self,
        batch: Batch,
        serve: Serve,
        wrapped: Wrapped,
        clock: FakeClock,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """The log has a warning when the server is away and another when it is back."""
        caplog.set_level(logging.INFO, logger="langchain_batch_embed")
        outage = Outage(clock, AWAY, after=10, seconds=25)
        assert embed(batch(wrapped(serve(outage)), max_batch_size=50), TEXTS) == {}
        warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        assert 2 <= len(warnings) <= 4
        assert "again" in warnings[-1]

    def test_a_server_that_restarts_again_and_again_loses_nothing(
        self, batch: Batch, serve: Serve, wrapped: Wrapped, clock: FakeClock
    ) -> None:
        """A server that goes away for four seconds again and again loses no text."""
        outage = Outage(clock, RESET, after=10, seconds=4, every=20)
        failed = embed(batch(wrapped(serve(outage)), max_batch_size=25, max_workers=8), TEXTS)
        assert failed == {}, kinds(failed)
        assert outage.count >= 3
        assert clock.time < outage.count * 14

    def test_two_calls_and_a_query_survive_an_outage_together(
        self, batch: Batch, serve: Serve, wrapped: Wrapped, clock: FakeClock
    ) -> None:
        """Two calls and a query of one object wait for the same probe and get all their vectors."""
        outage = Outage(clock, AWAY, after=10, seconds=25)
        embeddings = batch(wrapped(serve(outage)), max_batch_size=50)
        got: dict[str, object] = {}
        parts = {"a": TEXTS[:2000], "b": TEXTS[2000:]}

        def call(name: str) -> None:
            got[name] = embeddings.embed_numpy(parts[name])

        threads = [threading.Thread(target=call, args=(name,), daemon=True) for name in parts]
        for thread in threads:
            thread.start()
        query = finish(lambda: embeddings.embed_query("a question"))
        for thread in threads:
            thread.join(20)
        assert_right(np.array([query]), ["a question"])
        for name, texts in parts.items():
            assert_right(got[name], texts)  # type: ignore[arg-type]
        probes = Counter(time for time in outage.times if time > 1)
        assert sum(probes.values()) <= len(probes) + 1

    def test_an_outage_at_the_last_request_is_waited_out_too(
        self, batch: Batch, serve: Serve, wrapped: Wrapped, clock: FakeClock
    ) -> None:
        """An outage at the last request is waited out, though no other request shows it."""
        outage = Outage(clock, AWAY, after=1, seconds=45)
        embeddings = batch(wrapped(serve(outage)))
        assert_right(np.array([embeddings.embed_query("first")]), ["first"])
        assert embed(embeddings, TEXTS[:300]) == {}
        assert clock.time < 55

    @pytest.mark.parametrize("reply", [RESET, AWAY], ids=["reset", "503"])
    def test_an_outage_that_does_not_end_is_given_up(
        self, batch: Batch, serve: Serve, wrapped: Wrapped, clock: FakeClock, reply: Reply
    ) -> None:
        """An outage without an end is given up after `max_outage`.

        Texts that were never sent get a `NotSentError`.
        """
        outage = Outage(clock, reply, after=10, seconds=1e9)
        embeddings = batch(wrapped(serve(outage)), max_batch_size=50, max_outage=60)
        failed = embed(embeddings, TEXTS)
        assert 0 < len(failed) < len(TEXTS)
        assert 60 <= clock.time < 75
        assert {type(error) for error in failed.values()} <= {
            openai.APIConnectionError,
            openai.InternalServerError,
            NotSentError,
        }

    @pytest.mark.parametrize("kind", ["reset", "503", "hang"])
    def test_the_simulated_server_is_away_and_back(
        self, batch: Batch, server: LocalServer, kind: str
    ) -> None:
        """An outage of the simulated server from 0.3 s to 1.5 s loses no text, in real time.

        Except for the server that hangs, the client's clock runs five times as fast.
        """
        server.configure(
            dimensions=DIMENSIONS,
            latency=0.02,
            workers=4,
            seconds_per_text=0.0015,
            outages=((0.3, 1.2),),
            outage=kind,
        )
        fast = SYSTEM_CLOCK if kind == "hang" else FastClock(5)
        failed = embed(batch(_clock=fast, max_batch_size=20, timeout=0.5), TEXTS[:1500])
        assert failed == {}, kinds(failed)
        assert server.stats()["inputs_computed"] < 1.6 * 1500


class TestFromTheFirstRequestOn:
    """A server that was never reached is given up soon, because its address may be wrong."""

    @staticmethod
    def _nobody() -> str:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        return f"http://127.0.0.1:{port}/v1"

    def test_a_wrong_port_ends_the_call_soon_and_names_the_address(
        self,
        batch: Batch,
        openai_embeddings: Callable[..., OpenAIEmbeddings],
        clock: FakeClock,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """A call to a wrong port ends after some 20 s and names the address.

        The address is in the error or in the log.
        """
        url = self._nobody()
        embeddings = batch(openai_embeddings(base_url=url))
        with pytest.raises(PartialEmbeddingsError) as caught:
            finish(lambda: embeddings.embed_documents(TEXTS))
        assert 10 <= clock.time < 30
        assert len(caught.value.failures) == len(TEXTS)
        told = [str(caught.value), str(caught.value.__cause__), caplog.text]
        told += [str(failure.error) for failure in caught.value.failures[:3]]
        assert any(url.removesuffix("/v1") in text for text in told)

    def test_a_query_to_a_wrong_port_ends_soon_too(
        self,
        batch: Batch,
        openai_embeddings: Callable[..., OpenAIEmbeddings],
        clock: FakeClock,
    ) -> None:
        """A query to a wrong port ends as soon, although its only batch could be retried."""
        embeddings = batch(openai_embeddings(base_url=self._nobody()))
        with pytest.raises(openai.APIConnectionError):
            finish(lambda: embeddings.embed_query("a"))
        assert 10 <= clock.time < 30

    def test_a_server_that_starts_late_is_waited_for(
        self, batch: Batch, serve: Serve, wrapped: Wrapped, clock: FakeClock
    ) -> None:
        """A server that resets connections for ten seconds is waited for.

        A container that is starting behaves like that.
        """
        outage = Outage(clock, RESET, after=0, seconds=10)
        assert embed(batch(wrapped(serve(outage))), TEXTS) == {}
        assert clock.time < 20

    def test_a_server_that_loads_its_model_is_waited_for(
        self, batch: Batch, serve: Serve, wrapped: Wrapped, clock: FakeClock
    ) -> None:
        """A server that answers 503 for two minutes while it loads its model is waited for."""
        outage = Outage(clock, AWAY, after=0, seconds=120)
        assert embed(batch(wrapped(serve(outage))), TEXTS) == {}
        assert clock.time < 130
        assert len(outage.times) < 60
