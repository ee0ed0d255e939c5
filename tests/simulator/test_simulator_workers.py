"""A server that computes few requests at a time: its timetable, then over HTTP."""

import math
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_batch_embed.simulator import Simulator
from langchain_batch_embed.simulator.workers import Job, Workers

from .test_simulator_process import eventually

Ask = Callable[..., httpx.Response]
Configure = Callable[..., None]
RawRequest = Callable[..., socket.socket]

# Seconds since the request before, its texts, and whether the one before it leaves by then.
ARRIVALS = st.lists(
    st.tuples(st.floats(0, 5), st.integers(1, 10), st.booleans()), min_size=1, max_size=30
)


def running(jobs: list[Job], moment: float) -> int:
    """Return how many jobs are computed at a moment."""
    return sum(job.start <= moment < job.end for job in jobs)


class TestTimetable:
    """When each request is computed, with a clock handed in."""

    def test_requests_take_their_turns(self) -> None:
        """Two workers; the third request waits for the one that is free first."""
        workers = Workers(2, seconds_per_request=1.0, seconds_per_text=0.5)
        jobs = [workers.enter(texts, now) for texts, now in [(4, 0.0), (2, 0.5), (1, 0.5), (1, 9)]]

        assert [(job.start, job.end) for job in jobs] == [(0, 3), (0.5, 2.5), (2.5, 4), (9, 10.5)]

    def test_without_a_number_nobody_waits(self) -> None:
        """Every request has a worker."""
        workers = Workers(None, seconds_per_request=1.0)

        assert [workers.enter(9, 0.0).end for _ in range(3)] == [1.0, 1.0, 1.0]

    def test_those_behind_one_that_leaves_move_up(self) -> None:
        """Whether it was in the queue or on a worker; what it had of a worker is lost."""
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
        """Requests start in order; one that waits finds every worker at work."""
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
    """The same over HTTP."""

    def test_requests_are_computed_one_after_another(
        self, simulator: Simulator, ask: Ask, configure: Configure
    ) -> None:
        """One worker: the n-th of equal requests waits for all those before it."""
        configure(workers=1, seconds_per_request=0.05, seconds_per_text=0.025)

        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(ask, [["a", "b"]] * 4))

        log = simulator.stats()["log"]
        assert {answer.headers["openai-processing-ms"] for answer in answers} == {"100"}
        ends = [row[1] for row in log]
        assert all(end >= 0.1 * n - 0.001 for n, end in enumerate(ends, start=1))
        assert log[-1][1] - log[-1][0] > 0.3

    @pytest.mark.parametrize(("workers", "at_least"), [(2, 0.4), (None, 0.2)])
    def test_workers_compute_at_the_same_time(
        self, simulator: Simulator, ask: Ask, configure: Configure, workers: int, at_least: float
    ) -> None:
        """Four requests take two rounds of two workers, and one round without a number."""
        configure(workers=workers, seconds_per_request=0.2)

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(ask, "abcd"))

        last = max(row[1] for row in simulator.stats()["log"])
        assert at_least <= last < at_least + 0.2

    @pytest.mark.parametrize("notices", [True, False])
    def test_a_client_that_leaves_the_queue(
        self, simulator: Simulator, configure: Configure, raw_request: RawRequest, *, notices: bool
    ) -> None:
        """It is skipped where the server notices; where not, its answer is for nobody."""
        configure(workers=1, seconds_per_request=0.2, notices_leaving=notices)
        with raw_request() as stays:
            eventually(simulator, "in_flight", 1)
            clients = [raw_request() for _ in range(3)]
            eventually(simulator, "in_flight", 4)
            with raw_request() as last:
                for client in clients:
                    client.close()
                assert last.recv(15) == b"HTTP/1.1 200 OK"
            assert stays.recv(15) == b"HTTP/1.1 200 OK"

        stats = simulator.stats()
        assert stats["inputs_computed"] == stats["inputs_billed"] == (2 if notices else 5)
        assert stats["by_status"] == ({"200": 2, "0": 3} if notices else {"200": 5})
        assert (stats["log"][-1][1] < 0.8) == notices

    def test_what_a_worker_has_begun_it_ends(
        self, simulator: Simulator, configure: Configure, raw_request: RawRequest
    ) -> None:
        """Also a server that notices does not stop in the middle."""
        configure(workers=1, seconds_per_request=0.2, notices_leaving=True)
        leaves = raw_request()
        eventually(simulator, "in_flight", 1)
        leaves.close()

        assert eventually(simulator, "in_flight", 0)["inputs_computed"] == 1


class TestMaxInFlight:
    """A proxy that lets only so many requests through at a time."""

    @pytest.mark.parametrize(
        ("options", "status", "title"),
        [
            ({}, 503, "503 Service Temporarily Unavailable"),
            ({"busy_status": 429}, 429, "429 Too Many Requests"),
        ],
    )
    def test_one_too_many_is_refused_at_once(
        self,
        simulator: Simulator,
        ask: Ask,
        configure: Configure,
        raw_request: RawRequest,
        options: dict[str, Any],
        status: int,
        title: str,
    ) -> None:
        """The page says nothing of when to come back; others are not touched."""
        configure(max_in_flight=2, workers=1, seconds_per_request=0.3, tier=1, **options)
        with raw_request() as first, raw_request() as second:
            eventually(simulator, "in_flight", 2)

            refused = ask("x")

            assert refused.status_code == status
            assert refused.headers["content-type"].startswith("text/html")
            assert title in refused.text
            told = ("retry", "x-ratelimit", "x-request-id")
            assert not [name for name in refused.headers if name.startswith(told)]
            assert first.recv(15) == second.recv(15) == b"HTTP/1.1 200 OK"
        assert ask("x").status_code == 200
        assert simulator.stats()["by_status"] == {"200": 3, str(status): 1}

    def test_a_client_that_goes_gives_its_place_back(
        self, simulator: Simulator, ask: Ask, configure: Configure, raw_request: RawRequest
    ) -> None:
        """Also while the server, which does not notice, goes on computing."""
        configure(max_in_flight=1, seconds_per_request=0.5)
        leaves = raw_request()
        eventually(simulator, "in_flight", 1)
        refused = ask("x").status_code
        leaves.close()
        give_up = time.monotonic() + 0.4
        while (status := ask("x").status_code) != 200 and time.monotonic() < give_up:
            pass

        assert (refused, status) == (503, 200)
        assert simulator.stats()["max_in_flight"] == 2
