"""Texts that break the server do not slow down the rest of a call by much."""

import math
import random

import pytest

from langchain_batch_embed.sending.rehearsal import Request
from tests.sending.calls import FakeServer, Rehearsal, lost, make_sender, make_work, refusal

TEXTS = 5_000
TIMEOUT = 60.0


def run(bad: set[int], *, hangs: bool, workers: int = 128) -> float:
    """Return the seconds of a call in which just these texts fail."""
    server = FakeServer(
        error=lambda request: refusal(503) if bad & {*request.rows.tolist()} else None, seconds=0.1
    )
    if hangs:
        server = FakeServer(
            seconds=lambda request: math.inf if bad & {*request.rows.tolist()} else 0.1
        )
    sender = make_sender(max_workers=workers, is_known=False, timeout=TIMEOUT, max_retries=8)
    rehearsal = Rehearsal(sender, server)
    rehearsal.add(make_work(TEXTS, tokens=100, max_tokens=300_000))
    seconds = rehearsal.run()
    assert {*lost(rehearsal.outcomes)} == bad
    return seconds


@pytest.mark.parametrize("count", [5, 20])
def test_texts_that_never_get_an_answer_are_found_side_by_side(count: int) -> None:
    """Late parts of a batch that was late before do not lower the number in flight.

    Each text needs several time-outs in a row until it is certain; they overlap.
    """
    bad = set(range(TEXTS // count // 2, TEXTS, TEXTS // count))
    assert run(bad, hangs=True) <= 20 * TIMEOUT


def test_texts_that_get_a_503_are_no_rate_limit() -> None:
    """Once a text was given up for its 503, resent parts with a 503 say nothing about a rate."""
    assert run(set(range(125, TEXTS, 250)), hangs=False) <= 900


@pytest.mark.parametrize(
    ("bad", "seconds"),
    [
        pytest.param({2_200}, 120, id="a single one"),
        pytest.param(set(range(2_200, 2_210)), 400, id="a row"),
        pytest.param(set(range(40)), 1_500, id="a row at the beginning"),
    ],
)
def test_texts_that_get_a_503_are_found_in_time(bad: set[int], seconds: float) -> None:
    """A text with a 503 gets no more tries because others are answered after its pauses.

    The pauses are our own, so such answers are no sign of a rate limit.
    """
    assert run(bad, hangs=False, workers=32) <= seconds


def refuse_for_a_while(*, workers: int, max_items: int, bad: set[int], seed: int) -> set[int]:
    """Return the texts that fail if a server also refuses everything for up to four seconds."""
    draw = random.Random(seed)
    begins = draw.uniform(0.5, 4.0)
    ends = begins + draw.uniform(0.2, 4.0)

    def error(request: Request) -> Exception | None:
        is_refused = begins <= request.sent < ends or bad & {*request.rows.tolist()}
        return refusal(400) if is_refused else None

    server = FakeServer(error=error, seconds=0.1)
    rehearsal = Rehearsal(make_sender(max_workers=workers, is_known=False), server)
    rehearsal.add(make_work(1_000, tokens=100, max_tokens=300_000, max_items=max_items))
    rehearsal.run()
    return {*lost(rehearsal.outcomes)}


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("max_items", [1, 9, 64])
@pytest.mark.parametrize("workers", [1, 4, 16])
def test_no_text_is_lost_where_everything_is_refused_for_a_while(
    workers: int, max_items: int, seed: int
) -> None:
    """A 400 for everything loses no text: each is sent again before it is given up."""
    assert not refuse_for_a_while(workers=workers, max_items=max_items, bad=set(), seed=seed)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("max_items", [9, 2_048])
@pytest.mark.parametrize("workers", [1, 16, 128])
def test_hardly_a_text_is_lost_where_bad_texts_look_the_same(
    workers: int, max_items: int, seed: int
) -> None:
    """If the same 400 also stands for bad texts, a few good ones may be taken for bad ones."""
    draw = random.Random(seed)
    begin = draw.randrange(980)
    bad = {*draw.sample(range(1_000), 20), *range(begin, begin + 20)}
    failed = refuse_for_a_while(workers=workers, max_items=max_items, bad=bad, seed=seed)
    assert failed >= bad
    assert len(failed - bad) <= 20


@pytest.mark.parametrize("workers", [1, 16])
def test_a_text_that_is_all_of_a_call_is_refused_at_once(workers: int) -> None:
    """A refused text that is all of its call costs one request, even if it is the second call."""
    server = FakeServer(error=lambda request: refusal(400) if 7 in request.rows else None)
    rehearsal = Rehearsal(make_sender(max_workers=workers), server)
    rehearsal.add(make_work(7))
    rehearsal.run()
    rehearsal.queues.clear()
    count = len(server.requests)
    rehearsal.add(make_work(1, begin=7))
    rehearsal.run()
    assert list(lost(rehearsal.outcomes)) == [7]
    assert len(server.requests) == count + 1


def test_late_answers_to_earlier_requests_end_no_refusal_of_everything(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log says once that everything is refused, even if earlier requests are answered late."""
    server = FakeServer(
        error=lambda request: refusal(403) if 1.0 <= request.sent < 4.0 else None,
        seconds=lambda request: 2.5 if request.number % 5 == 0 else 0.1,
    )
    rehearsal = Rehearsal(make_sender(max_workers=16), server)
    rehearsal.add(make_work(2_000, max_items=4))
    rehearsal.run()
    assert lost(rehearsal.outcomes) == {}
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == [
        "the server refuses every request",
        "the server answers again",
    ]
