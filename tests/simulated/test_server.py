"""The simulated servers behave as their cells say, and ideal runs take the computed time."""

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from langchain_batch_embed.pacing.quota import seconds

from .exchange import Reply, Request
from .grid import DIMENSIONS, Cell, Outage, Says, bad_luck_at, cells, pairwise, sample
from .ideal import ideal, ideal_seconds, staged, texts_for
from .limiter import Bucket
from .refusals import StatusError
from .server import SimulatedServer, phase

TIMEOUT = 600.0


def request(number: int, sent: float, **values: Any) -> Request:
    """Return a request of ten texts and 1,000 tokens, unless `values` replace these."""
    options = {"rows": np.arange(10), "tokens": 1000, "charge": 1000, "timeout": TIMEOUT}
    return Request(number=number, sent=sent, **{**options, **values})


def flood(server: SimulatedServer, times: Iterable[float], **values: Any) -> list[Reply]:
    """Send one request at each of the times."""
    return [server.receive(request(i, at, **values)) for i, at in enumerate(times)]


def status(reply: Reply) -> int | None:
    """Return the status of a reply's error."""
    return reply.error.status_code if isinstance(reply.error, StatusError) else None


def refusal(says: Says, **fields: Any) -> Reply:
    """Return the first refusal by a full bucket of 10 seconds, half a second into the run."""
    cell = Cell(tokens_per_minute=60_000, limiter_seconds=10.0, says=says, latency=1e-9, **fields)
    server = SimulatedServer(cell)
    flood(server, [0.0] * 10)
    return server.receive(request(10, 0.5))


# The limiter.


@pytest.mark.parametrize("capacity_seconds", [0.5, 1.0, 3.0, 10.0, 60.0])
def test_bucket_conserves_tokens(capacity_seconds: float) -> None:
    """No period lets more through than the bucket holds plus what flows in."""
    cell = Cell(
        tokens_per_minute=1_000_000, limiter_seconds=capacity_seconds, refused_share=0.0, latency=2
    )
    server = SimulatedServer(cell, 3)
    let: list[tuple[float, int]] = []
    dice = np.random.default_rng(0)
    for i, at in enumerate(np.arange(0, 60, 0.02)):
        charge = int(dice.integers(100, 4000))
        reply = server.receive(request(i, float(at), charge=charge, tokens=0))
        if reply.error is None:
            # With no tokens all latency is lognormal, a fifth of it in the network; a stalled
            # request has another split.
            arrival = float(at) + 0.1 * 2 * server._luck[i][0]
            let.append((arrival, charge))
    let.sort()
    rate, holds = 1_000_000 / 60, 1_000_000 / 60 * capacity_seconds
    level, last = 0.0, 0.0
    for arrival, charge in let:
        level = max(0.0, level - (arrival - last) * rate) + charge
        last = arrival
        assert level <= holds + 0.01
    total = sum(charge for _, charge in let)
    assert total == server.counts.tokens_let_through
    assert total > 0.9 * (holds + 55 * rate)


def test_an_overtaking_request_does_not_take_what_is_promised() -> None:
    """A request that arrives before one with a verdict may take only what that one leaves."""
    bucket = Bucket(rate=1.0, capacity=10.0)
    bucket.charge(8.0, 5.0)
    assert bucket.delay(2.0, 4.0) == 0.0
    assert bucket.delay(4.0, 4.0) > 0.0
    assert bucket.delay(4.0, 1.0) == 0.0  # it flows back before 5.0
    assert bucket.delay(4.0, 4.0) == pytest.approx(3.0)  # 2 are free after the other one
    bucket.charge(1.0, 20.0)
    assert bucket.delay(4.0, 4.0) == pytest.approx(3.0)  # the gap before the next one is enough


def test_fixed_windows_let_the_same_through_in_each() -> None:
    """Each window lets through exactly its capacity, from a phase that depends on the seed."""
    cell = Cell(requests_per_minute=60, limiter="windows", limiter_seconds=60.0, latency=1e-9)
    phases = [phase(cell, seed) for seed in range(5)]
    assert len(set(phases)) == 5
    for seed, gone in enumerate(phases):
        replies = flood(SimulatedServer(cell, seed), np.arange(0, 180 - gone, 0.25))
        windows = Counter(
            (i * 0.25 + gone) // 60 for i, reply in enumerate(replies) if reply.error is None
        )
        assert windows[1] == windows[2] == 60
        assert windows[0] == min(60, math.ceil((60 - gone) / 0.25))


@pytest.mark.parametrize(("share", "answered"), [(0.0, 20), (1.0, 10)])
def test_refused_requests_are_charged_their_share(share: float, answered: int) -> None:
    """Where refusals are charged, a storm of retries blocks itself."""
    cell = Cell(tokens_per_minute=60_000, limiter_seconds=10.0, refused_share=share, latency=1e-9)
    server = SimulatedServer(cell)
    flood(server, np.arange(0, 10.05, 0.1))
    assert server.counts.answered == pytest.approx(answered, abs=1)


@pytest.mark.parametrize("says", ["all", "hint", "used"])
@pytest.mark.parametrize("limiter", ["bucket", "windows"])
def test_who_obeys_is_let_in(says: Says, limiter: str) -> None:
    """The delay in a refusal is exact: the request is let in then, and not 10 ms earlier."""
    for early, wanted in ((0.0, None), (0.01, 429)):
        cell = Cell(
            tokens_per_minute=60_000,
            limiter=limiter,  # type: ignore[arg-type]
            limiter_seconds=10.0,
            refused_share=0.0,
            says=says,
            latency=1e-9,
        )
        server = SimulatedServer(cell)
        reply = flood(server, [0.0] * 11)[-1]
        assert isinstance(reply.error, StatusError)
        if says == "used":
            delay = seconds(reply.error.message.split("try again in ")[1].split(". ")[0])
        elif says == "hint":
            delay = float(reply.headers["retry-after"])
        else:
            delay = float(reply.headers["retry-after-ms"]) / 1000
        assert delay
        assert status(server.receive(request(11, delay - early))) == wanted


# What a refusal says.


def test_all_headers_parse() -> None:
    """OpenAI's headers come with 200 and 429, and agree with the text of the refusal."""
    cell = Cell(tokens_per_minute=60_000, requests_per_minute=600, latency=1e-9)
    reply = SimulatedServer(cell).receive(request(0, 0.0))
    assert dict(reply.headers) == {
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-remaining-requests": "599",
        "x-ratelimit-reset-requests": "100ms",
        "x-ratelimit-limit-tokens": "60000",
        "x-ratelimit-remaining-tokens": "59000",
        "x-ratelimit-reset-tokens": "1s",
    }
    refused = refusal("all", refused_share=0.0)
    assert isinstance(refused.error, StatusError)
    assert refused.error.response.headers == refused.headers
    assert refused.headers["retry-after-ms"] == "500"
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["x-ratelimit-remaining-tokens"] == "500"
    assert "Limit 60000, Used 59500, Requested 1000. Please try again in 500ms" in str(
        refused.error
    )


@pytest.mark.parametrize(
    ("says", "headers", "text"),
    [
        ("hint", {"retry-after": "0.500"}, "Too many requests"),
        ("used", {}, "Limit 60000, Used 9500, Requested 1000. Please try again in 500ms."),
        ("nothing", {}, "Too many requests"),
        ("zero", {"retry-after": "0"}, "Too many requests"),
    ],
)
def test_other_refusals(says: Says, headers: dict[str, str], text: str) -> None:
    """Each kind of refusal contains its own information and nothing more."""
    reply = refusal(says, refused_share=0.0)
    assert dict(reply.headers) == headers
    assert isinstance(reply.error, StatusError)
    assert text in reply.error.body["message"]
    assert reply.error.status_code == reply.error.response.status_code == 429


@pytest.mark.parametrize(
    ("says", "text"),
    [
        ("all", "Request too large"),
        ("used", "Limit 10000, Requested 20000."),
        ("hint", "Too many requests"),
        ("nothing", "Too many requests"),
        ("zero", "Too many requests"),
    ],
)
def test_a_request_above_the_bucket_is_never_let_in(says: Says, text: str) -> None:
    """A request above the bucket's capacity always gets a 429, and costs nothing."""
    cell = Cell(tokens_per_minute=60_000, limiter_seconds=10.0, says=says)
    server = SimulatedServer(cell)
    for reply in flood(server, [0.0, 1000.0, 2000.0], charge=20_000):
        assert text in str(reply.error)
        assert "retry-after" not in reply.headers
    assert server.receive(request(3, 2000.0, charge=10_000)).error is None


# Latency and concurrency.


def test_latency_is_as_fitted() -> None:
    """Latencies are lognormal, with a median of the scale plus 7 ms a kilotoken."""
    after = np.array([reply.after for reply in flood(SimulatedServer(Cell()), range(20_000))])
    assert np.median(after) == pytest.approx(0.307, rel=0.03)
    assert np.log(after).std() == pytest.approx(0.85, rel=0.05)


def test_the_seed_alone_decides() -> None:
    """The same seed gives the same replies, and another seed gives others."""
    cell = Cell(tokens_per_minute=1_000_000, limiter="windows", limiter_seconds=1.0)

    def run(seed: int) -> list[tuple[float, str]]:
        replies = flood(SimulatedServer(cell, seed), np.arange(0, 30, 0.05))
        return [(reply.after, str(reply.error)) for reply in replies]

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_one_at_once_serves_first_come_first_served() -> None:
    """One worker answers in order of arrival and is never idle."""
    server = SimulatedServer(Cell(computed_at_once=1, seconds_per_text=0.1, latency=1e-9))
    ends = [reply.after for reply in flood(server, [0.0] * 5)]
    assert ends == pytest.approx([1, 2, 3, 4, 5], abs=1e-6)


def test_four_at_once_compute_four_at_once() -> None:
    """With four workers a fifth request waits for the first free one."""
    server = SimulatedServer(Cell(computed_at_once=4, seconds_per_text=0.1, latency=1e-9))
    ends = [reply.after for reply in flood(server, [0.0] * 9)]
    assert ends == pytest.approx([1] * 4 + [2] * 4 + [3], abs=1e-6)


@pytest.mark.parametrize(("notices", "computed"), [(True, 30), (False, 100)])
def test_who_has_gone_may_still_cost(notices: bool, computed: int) -> None:
    """Only a server that notices saves the work for clients that gave up before their turn."""
    cell = Cell(computed_at_once=1, seconds_per_text=0.1, latency=1e-9, notices_gone=notices)
    server = SimulatedServer(cell)
    replies = flood(server, [0.0] * 10, timeout=2.5)
    assert server.counts.answered == 2
    assert server.counts.texts_computed == computed
    assert all(reply.after > 2.5 for reply in replies[2:])


@pytest.mark.parametrize("with_status", [429, 503])
def test_more_at_once_are_refused(with_status: int) -> None:
    """Requests above the limit are refused at once, until another one has left."""
    cell = Cell(refuses_above=4, refuses_with=with_status, latency=0.05)  # type: ignore[arg-type]
    server = SimulatedServer(cell)
    replies = flood(server, [0.0] * 10 + [60.0])
    assert [status(reply) for reply in replies] == [None] * 4 + [with_status] * 6 + [None]
    assert server.counts.refused == (6 if with_status == 429 else 0)
    assert server.counts.most_in_flight == 10


# Bad luck.


def test_a_reset_breaks_what_is_in_flight() -> None:
    """A reset breaks requests in flight at its start and refuses new ones until its end."""
    outage = Outage(start=5.0, length=5.0)
    cell = Cell(outages=(outage,), computed_at_once=1, seconds_per_text=0.4, latency=1e-9)
    server = SimulatedServer(cell)
    early, cut, during, after = flood(server, [0.0, 3.0, 7.0, 10.0])
    assert early.error is None
    assert isinstance(cut.error, ConnectionResetError)
    assert cut.after == pytest.approx(2.0)
    assert isinstance(during.error, ConnectionRefusedError)
    assert after.error is None
    assert after.after == pytest.approx(4.0)  # the queue is gone
    assert server.counts.texts_computed == 20


def test_an_outage_of_503_lets_the_rest_finish() -> None:
    """In an outage of 503s requests in flight are answered, and new ones get a free 503."""
    outage = Outage(start=5.0, length=5.0, kind="503")
    cell = Cell(outages=(outage,), seconds_per_text=0.4, latency=1e-9, tokens_per_minute=60_000)
    server = SimulatedServer(cell)
    replies = flood(server, [3.0, 7.0, 10.0])
    assert [status(reply) for reply in replies] == [None, 503, None]
    assert server.counts.tokens_let_through == 2000


def test_a_slow_minute_takes_longer() -> None:
    """In the slow period everything takes eight times as long."""
    slow, plain = (
        [reply.after for reply in flood(SimulatedServer(cell, 1), [0.0, 5.0, 64.0, 66.0])]
        for cell in (Cell(slow=(4.9, 64.9)), Cell())
    )
    assert np.divide(slow, plain) == pytest.approx([1, 8, 8, 1])


def test_a_slow_minute_counts_from_the_start_of_the_computing() -> None:
    """A request that waits in the queue until the slow period begins is computed slowly."""
    cell = Cell(computed_at_once=1, seconds_per_text=0.1, latency=1e-9, slow=(1.5, 60.0))
    ends = [reply.after for reply in flood(SimulatedServer(cell), [0.0] * 3)]
    assert ends == pytest.approx([1, 2, 10], abs=1e-6)


def test_texts_that_are_refused_or_fail() -> None:
    """One bad text makes its whole request a 400 or a 500."""
    cell = Cell(refused_rows=frozenset({3}), failing_rows=frozenset({500}))
    server = SimulatedServer(cell)
    rows = [np.arange(10), np.arange(495, 505), np.arange(4, 500), np.arange(10_000, 10_010)]
    replies = [server.receive(request(i, float(i), rows=part)) for i, part in enumerate(rows)]
    assert [status(reply) for reply in replies] == [400, 500, None, None]
    assert server.counts.texts_answered == 506


def test_limits_of_a_request() -> None:
    """Too many texts are a 400 and too many bytes a 413, and too many texts cost no tokens."""
    server = SimulatedServer(Cell(max_texts=9, tokens_per_minute=60_000))
    reply = server.receive(request(0, 0.0))
    assert status(reply) == 400
    assert "should not be larger than 9" in str(reply.error)
    assert status(SimulatedServer(Cell(max_bytes=3999)).receive(request(0, 0.0))) == 413
    assert SimulatedServer(Cell(max_bytes=4000)).receive(request(0, 0.0)).error is None
    assert server.counts.tokens_let_through == 0


# The grid.


def test_pairwise_holds_every_pair_that_can_meet() -> None:
    """The pairwise sample holds every pair of values that occurs in 5,000 random cells."""
    chosen = pairwise()
    assert len(chosen) == 150
    assert len({cell.name for cell in chosen}) == 150

    def pairs(some: Iterable[Cell]) -> set[tuple[str, str]]:
        return {pair for cell in some for pair in itertools.combinations(cell.name.split(", "), 2)}

    assert pairs(sample(5000, seed=1)) <= pairs(chosen)
    assert [cell.name for cell in pairwise()] == [cell.name for cell in chosen]
    assert [cell.name for cell in pairwise(1)] != [cell.name for cell in chosen]


def test_cells_are_different_servers() -> None:
    """No two of the first 20,000 cells are equal, and values without effect are left out."""
    some = list(itertools.islice(cells(), 0, 20_000))
    assert len(set(some)) == len(some)
    assert all(cell.says == "all" for cell in some if "no quota" in cell.name)
    assert set(DIMENSIONS) >= {"quota", "limiter", "says", "latency", "concurrency", "luck"}


def test_bad_luck_can_be_moved() -> None:
    """Moved outages keep their distances, and a moved slow period keeps its length."""
    outages = (Outage(start=5.0, length=1.0), Outage(start=15.0, length=1.0))
    moved = bad_luck_at(Cell(outages=outages, slow=(1.0, 61.0)), 100.0)
    assert [outage.start for outage in moved.outages] == [100.0, 110.0]
    assert moved.slow == (100.0, 160.0)


# The ideal.


def omniscient(cell: Cell, per_request: int, requests: int, *, in_flight: int) -> float:
    """Run a client that sends as much as the server lets in, and no more."""
    server = SimulatedServer(cell)
    ends: list[float] = []
    now, number = 0.0, 0
    while number < requests:
        while len(ends) >= in_flight:
            now = max(now, heapq.heappop(ends))
        if any(o.start <= now < o.start + o.length for o in cell.outages):
            now += 0.01
            continue
        delays = [
            limiter.delay(per_request if kind == "tokens" else 1, now)
            for kind, limiter in server._limiters.items()
        ]
        if (delay := max(delays, default=0.0)) > 0:
            now += delay
            continue
        rows = np.arange(10)
        number_sent = server.counts.requests
        reply = server.receive(
            request(number_sent, now, rows=rows, tokens=per_request, charge=per_request)
        )
        if reply.error is None:
            number += 1
        heapq.heappush(ends, now + reply.after)
    return max(now, *ends)


@pytest.mark.parametrize(
    ("cell", "within"),
    [
        (Cell(tokens_per_minute=1_000_000, latency=0.005), 0.01),
        (Cell(tokens_per_minute=5_000_000, limiter_seconds=1.0, latency=0.005), 0.01),
        (Cell(tokens_per_minute=1_000_000, limiter="windows", latency=0.005), 0.01),
        (
            Cell(
                tokens_per_minute=1_000_000, limiter="windows", limiter_seconds=1.0, latency=0.005
            ),
            0.2,  # a window holds 16.7 requests, 16 of them whole
        ),
        (
            Cell(
                tokens_per_minute=1_000_000,
                limiter_seconds=1.0,
                latency=0.005,
                outages=(Outage(start=30.0, length=60.0, kind="503"),),
            ),
            0.02,
        ),
        (Cell(computed_at_once=4, max_texts=10, latency=0.3), 0.15),
        (Cell(computed_at_once=1, max_texts=10, seconds_per_text=0.04, notices_gone=False), 0.1),
        (Cell(max_texts=10, latency=2.0), 0.25),
    ],
)
def test_the_ideal_can_be_reached(cell: Cell, within: float) -> None:
    """A client that looks into the server takes about the ideal time."""
    took = omniscient(cell, 1000, 3000, in_flight=16)
    best = ideal_seconds(cell, np.full(30_000, 100), 16)
    assert best * 0.9 <= took <= best * (1 + within)


def test_scarce_requests_are_filled() -> None:
    """With 60 requests a minute the ideal client sends as few requests as the limits allow."""
    cell = Cell(requests_per_minute=60, limiter_seconds=1.0)
    assert ideal(cell, np.full(20_480, 100)).requests == 10
    assert ideal(cell, np.full(20_480, 1000)).requests == math.ceil(20_480 / 300)
    assert ideal(cell, np.full(20_480, 100)).quota == pytest.approx(9.0)
    assert ideal_seconds(Cell(tokens_per_minute=60, limiter_seconds=1.0), [2.0]) == math.inf


def test_bad_luck_costs_time() -> None:
    """An outage during the run adds its length, less what the bucket saves up.

    An outage after the run adds nothing.
    """
    charges = np.full(10_000, 200)
    calm = Cell(tokens_per_minute=1_000_000, limiter_seconds=10.0)
    plain = ideal_seconds(calm, charges)
    for start, more in ((20.0, 50.0), (1000.0, 0.0)):
        cell = Cell(
            tokens_per_minute=1_000_000,
            limiter_seconds=10.0,
            outages=(Outage(start=start, length=60.0),),
        )
        assert ideal_seconds(cell, charges) == pytest.approx(plain + more)


def test_a_run_of_the_wanted_length() -> None:
    """The number of texts fits the wanted time, and the bad luck falls into the run."""
    cell = Cell(tokens_per_minute=1_000_000, outages=(Outage(start=5.0, length=5.0),))
    texts = texts_for(cell, 200, 120.0)
    assert texts == pytest.approx(3 * 1_000_000 / 200, rel=0.02)
    assert staged(cell, np.full(texts, 200)).outages[0].start == pytest.approx(36.0, rel=0.02)


def test_every_cell_has_an_ideal() -> None:
    """Every ideal is positive and below a day, and refused texts make it approximate."""
    charges = np.full(5000, 200)
    for cell in pairwise():
        result = ideal(staged(cell, charges), charges)
        assert 0 < result.seconds < 24 * 3600, cell.name
        assert result.tail >= 0
        if cell.refused_rows:
            assert "bad texts" in result.approximate
