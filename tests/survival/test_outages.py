"""A server that is away is waited for with one probe at a time; when it is back, all go on."""

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
    """A server that is away from one of its requests on, for so many seconds of a clock.

    Args:
        clock: the test's.
        reply: what it does while it is away.
        after: requests that are answered before.
        seconds: for how long it is away.
        every: 0: once; else it is away again after as many further requests.

    Attributes:
        begins: when it went away last; `None`: not yet.
        times: of the requests that came while it was away.
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
        """Say what is answered."""
        with self._lock:
            if asked.number >= self._next:
                self.begins, self.count = asked.time, self.count + 1
                self._next = asked.number + self._every if self._every else 10**9
            is_away = self.begins is not None and asked.time < self.begins + self._seconds
            if is_away:
                self.times.append(asked.time)
        return self._reply if is_away else None


class TestInTheMiddle:
    """It is away after it has answered, for seconds or minutes."""

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
        """Every text has its vector, within ten seconds of the server's return."""
        outage = Outage(clock, reply, after=10, seconds=seconds)
        embeddings = batch(wrapped(serve(outage)), max_batch_size=50, timeout=0.3)
        failed = embed(embeddings, TEXTS)
        assert failed == {}, kinds(failed)
        assert clock.time < seconds + 10
        # Beside those that it overtook: one probe at a time, five seconds apart in the end. (Where
        # the last of those fail, the first probe may come in the same moment of this clock.)
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
        """A warning when the server is away, and one when it is back."""
        caplog.set_level(logging.INFO, logger="langchain_batch_embed")
        outage = Outage(clock, AWAY, after=10, seconds=25)
        assert embed(batch(wrapped(serve(outage)), max_batch_size=50), TEXTS) == {}
        warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        assert 2 <= len(warnings) <= 4
        assert "again" in warnings[-1]

    def test_a_server_that_restarts_again_and_again_loses_nothing(
        self, batch: Batch, serve: Serve, wrapped: Wrapped, clock: FakeClock
    ) -> None:
        """Five outages of four seconds each."""
        outage = Outage(clock, RESET, after=10, seconds=4, every=20)
        failed = embed(batch(wrapped(serve(outage)), max_batch_size=25, max_workers=8), TEXTS)
        assert failed == {}, kinds(failed)
        assert outage.count >= 3
        assert clock.time < outage.count * 14

    def test_two_calls_and_a_query_survive_an_outage_together(
        self, batch: Batch, serve: Serve, wrapped: Wrapped, clock: FakeClock
    ) -> None:
        """All of one object's calls wait for the same probe."""
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
        """Nothing else is in flight, so nothing else tells that it is the server."""
        outage = Outage(clock, AWAY, after=1, seconds=45)
        embeddings = batch(wrapped(serve(outage)))
        assert_right(np.array([embeddings.embed_query("first")]), ["first"])
        assert embed(embeddings, TEXTS[:300]) == {}
        assert clock.time < 55

    @pytest.mark.parametrize("reply", [RESET, AWAY], ids=["reset", "503"])
    def test_an_outage_that_does_not_end_is_given_up(
        self, batch: Batch, serve: Serve, wrapped: Wrapped, clock: FakeClock, reply: Reply
    ) -> None:
        """After `max_outage` seconds; what was never sent says so."""
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
        """In real time: away after 0.3 s for 1.2 s, seen through a clock five times as fast."""
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
    """A server that was never there is given up soon: the address may be wrong."""

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
        """Connection refused: some 20 s, and the address is in the error or in the log."""
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
        """One text, and so one batch that fails again and again."""
        embeddings = batch(openai_embeddings(base_url=self._nobody()))
        with pytest.raises(openai.APIConnectionError):
            finish(lambda: embeddings.embed_query("a"))
        assert 10 <= clock.time < 30

    def test_a_server_that_starts_late_is_waited_for(
        self, batch: Batch, serve: Serve, wrapped: Wrapped, clock: FakeClock
    ) -> None:
        """It resets connections for ten seconds, as a container does that starts."""
        outage = Outage(clock, RESET, after=0, seconds=10)
        assert embed(batch(wrapped(serve(outage))), TEXTS) == {}
        assert clock.time < 20

    def test_a_server_that_loads_its_model_is_waited_for(
        self, batch: Batch, serve: Serve, wrapped: Wrapped, clock: FakeClock
    ) -> None:
        """A 503 for two minutes from the first request on."""
        outage = Outage(clock, AWAY, after=0, seconds=120)
        assert embed(batch(wrapped(serve(outage))), TEXTS) == {}
        assert clock.time < 130
        assert len(outage.times) < 60
