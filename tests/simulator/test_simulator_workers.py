"""A server that computes few requests at a time, as a timetable and with whole requests."""

import asyncio
import math
import socket
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_batch_embed.simulator import Simulator
from langchain_batch_embed.simulator.workers import Job, Workers

from .simulated import Reply, Server, simulate
from .test_simulator_process import eventually

Configure = Callable[..., None]
RawRequest = Callable[..., socket.socket]

# Seconds since the request before, the number of texts, and whether the one before has left.
ARRIVALS = st.lists(
    st.tuples(st.floats(0, 5), st.integers(1, 10), st.booleans()), min_size=1, max_size=30
)


def running(jobs: list[Job], moment: float) -> int:
    """Return how many jobs are being computed at a moment."""
    return sum(job.start <= moment < job.end for job in jobs)


class TestTimetable:
    """The timetable of requests, with a clock that the test controls."""

    def test_requests_take_their_turns(self) -> None:
        """With two workers, the third request waits for the one that is free first."""
        workers = Workers(2, seconds_per_request=1.0, seconds_per_text=0.5)
        jobs = [workers.enter(texts, now) for texts, now in [(4, 0.0), (2, 0.5), (1, 0.5), (1, 9)]]

        assert [(job.start, job.end) for job in jobs] == [(0, 3), (0.5, 2.5), (2.5, 4), (9, 10.5)]

    def test_without_a_number_nobody_waits(self) -> None:
        """Without a number of workers, no request waits."""
        workers = Workers(None, seconds_per_request=1.0)

        assert [workers.enter(9, 0.0).end for _ in range(3)] == [1.0, 1.0, 1.0]

    def test_those_behind_one_that_leaves_move_up(self) -> None:
        """Requests behind one that leaves move up, and its started work is lost."""
        workers = Workers(1, seconds_per_request=2.0)
        first, second, third, fourth = (workers.enter(1, 0.0) for _ in range(4))
        assert [job.start for job in (first, second, third, fourth)] == [0, 2, 4, 6]
        assert not first.is_queued(1.0)
        assert second.is_queued(1.0)

        workers.remove(second, 1.0)
        assert (third.start, fourth.start) == (2, 4)
        workers.remove(first, 1.5)
        assert (third.start, third.end, fourth.start) == (1.5, 3.5, 3.5)

    @given(st.integers(1, 4), ARRIVALS)
    def test_workers_are_never_too_many_nor_idle(
        self, count: int, arrivals: list[tuple[float, int, bool]]
    ) -> None:
        """Requests start in order, and one waits only if every worker is busy."""
        workers = Workers(count, seconds_per_request=0.5, seconds_per_text=0.3)
        jobs: list[Job] = []
        now = 0.0
        for pause, texts, leaves in arrivals:
            now += pause
            if jobs and leaves and jobs[-1].is_queued(now):
                workers.remove(jobs.pop(), now)
            jobs.append(workers.enter(texts, now))

        starts = [job.start for job in jobs]
        assert starts == sorted(starts)
        assert all(job.entered <= job.start < math.inf for job in jobs)
        assert all(job.end == job.start + job.seconds for job in jobs)
        assert all(running(jobs, start) <= count for start in starts)
        assert all(
            running(jobs, (job.entered + job.start) / 2) == count
            for job in jobs
            if job.start > job.entered + 1e-6
        )


class TestQueue:
    """The queue of workers for whole requests, in simulated time."""

    def test_requests_are_computed_one_after_another(self) -> None:
        """With one worker, the n-th of equal requests waits for all those before it."""
        replies = simulate(
            lambda: Server(
                workers=1, seconds_per_request=0.05, seconds_per_text=0.025
            ).ask_together(4)
        )

        assert {reply.headers["openai-processing-ms"] for reply in replies} == {"75"}
        assert [reply.end for reply in replies] == pytest.approx([0.075, 0.15, 0.225, 0.3])

    @pytest.mark.parametrize(("workers", "ends"), [(2, [2, 2, 4, 4]), (None, [2, 2, 2, 2])])
    def test_workers_compute_at_the_same_time(self, workers: int | None, ends: list[float]) -> None:
        """Four requests take two rounds with two workers, and one round without a limit."""
        replies = simulate(lambda: Server(workers=workers, seconds_per_request=2).ask_together(4))

        assert [reply.end for reply in replies] == ends

    @pytest.mark.parametrize("notices", [True, False])
    def test_a_client_that_leaves_the_queue(self, *, notices: bool) -> None:
        """A client that leaves the queue is skipped if the server notices it.

        Otherwise its request is computed all the same.
        """

        async def clients() -> tuple[list[Reply], dict[str, Any]]:
            server = Server(workers=1, seconds_per_request=2, notices_leaving=notices)
            leaving = [server.ask(leaves_after=1) for _ in range(3)]
            replies = await asyncio.gather(server.ask(), *leaving, server.ask())
            return [replies[0], replies[-1]], server.stats()

        (stays, last), stats = simulate(clients)
        assert (stays.end, last.end) == (2, 4 if notices else 10)
        assert stats["inputs_computed"] == stats["inputs_billed"] == (2 if notices else 5)
        assert stats["by_status"] == ({"200": 2, "0": 3} if notices else {"200": 5})

    def test_what_a_worker_has_begun_it_ends(self) -> None:
        """A request that a worker has begun is completed, even if its client leaves."""

        async def clients() -> dict[str, Any]:
            server = Server(workers=1, seconds_per_request=2, notices_leaving=True)
            await server.ask(leaves_after=1)
            return server.stats()

        assert simulate(clients)["inputs_computed"] == 1

    def test_a_client_that_leaves_is_noticed_over_a_socket(
        self, simulator: Simulator, configure: Configure, raw_request: RawRequest
    ) -> None:
        """A client that leaves a socket is noticed while another request is being computed."""
        configure(workers=1, seconds_per_request=3600, notices_leaving=True)
        with raw_request():
            eventually(simulator, "in_flight", 1)
            leaving = [raw_request() for _ in range(3)]
            eventually(simulator, "in_flight", 4)
            for client in leaving:
                client.close()
            assert eventually(simulator, "in_flight", 1)["by_status"] == {"0": 3}


class TestMaxInFlight:
    """A proxy limits the requests in flight."""

    @pytest.mark.parametrize(
        ("options", "status", "title"),
        [
            ({}, 503, b"503 Service Temporarily Unavailable"),
            ({"busy_status": 429}, 429, b"429 Too Many Requests"),
        ],
    )
    def test_one_too_many_is_refused_at_once(
        self, options: dict[str, Any], status: int, title: bytes
    ) -> None:
        """One request too many is refused at once with a page, and the others are not affected."""

        async def clients() -> tuple[list[Reply], Reply, dict[str, Any]]:
            server = Server(max_in_flight=2, workers=1, seconds_per_request=3, tier=1, **options)
            replies = await server.ask_together(3)
            return replies, await server.ask(), server.stats()

        (first, second, refused), later, stats = simulate(clients)
        assert (refused.status, refused.end) == (status, 0)
        assert refused.headers["content-type"].startswith("text/html")
        assert title in refused.body
        told = ("retry", "x-ratelimit", "x-request-id")
        assert not [name for name in refused.headers if name.startswith(told)]
        assert [reply.end for reply in (first, second, later)] == [3, 6, 9]
        assert stats["by_status"] == {"200": 3, str(status): 1}

    def test_a_client_that_goes_gives_its_place_back(self) -> None:
        """A client that leaves frees its place, even while its request is still computed."""

        async def clients() -> tuple[list[Reply], dict[str, Any]]:
            server = Server(max_in_flight=1, seconds_per_request=5)

            async def ask_after(seconds: float) -> Reply:
                await asyncio.sleep(seconds)
                return await server.ask()

            _, *others = await asyncio.gather(
                server.ask(leaves_after=2), ask_after(1), ask_after(3)
            )
            return others, server.stats()

        (refused, let_in), stats = simulate(clients)
        assert (refused.status, let_in.status) == (503, 200)
        assert stats["max_in_flight"] == 2
