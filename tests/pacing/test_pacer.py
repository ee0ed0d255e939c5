"""When the next request may start, given quota, pauses, concurrency and health."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_batch_embed.pacing.diagnosis import Quota
from langchain_batch_embed.pacing.pacer import Pacer
from langchain_batch_embed.pacing.throttle import LOOK_AGAIN
from langchain_batch_embed.pacing.ticket import Ticket

HEADERS = {
    "x-ratelimit-limit-tokens": "60000",
    "x-ratelimit-remaining-tokens": "50000",
    "x-ratelimit-reset-tokens": "10s",
}


def known(max_workers: int = 8, **options: Any) -> Pacer:
    """Return the pacer of a known provider, whose random numbers are all 1."""
    return Pacer(
        max_workers=max_workers,
        first_requests=max_workers,
        is_known=True,
        draw=lambda: 1.0,
        **options,
    )


class TestQuota:
    """The buckets of requests and tokens both apply, whatever else allows a request."""

    def test_requests_and_tokens_a_minute_are_kept(self) -> None:
        """The delay is the longer one of those for requests and for tokens."""
        pacer = known(requests_per_minute=60, tokens_per_minute=6000)
        assert pacer.delay(6000, now=0) == 0
        pacer.answered(pacer.start(6000, now=0), {}, now=0)
        assert pacer.delay(100, now=0) == pytest.approx(1)
        for _ in range(59):
            pacer.answered(pacer.start(0, now=0), {}, now=0)
        assert pacer.delay(0, now=0) == pytest.approx(1)

    def test_a_quota_in_headers_binds_all_requests_in_flight(self) -> None:
        """A quota in headers applies to all requests in flight.

        Tokens sent since the server counted are subtracted from those that remain.
        """
        pacer = known()
        first, _ = pacer.start(10_000, now=0), pacer.start(45_000, now=0)
        pacer.answered(first, HEADERS, now=0.1)
        assert pacer.delay(5000, now=0.1) == 0
        assert pacer.delay(6000, now=0.1) > 0

    def test_a_request_that_could_not_be_submitted_costs_nothing(self) -> None:
        """A request that could not be submitted uses neither quota nor a place."""
        pacer = known(max_workers=1, requests_per_minute=1, tokens_per_minute=100)
        pacer.undo(pacer.start(100, now=0))
        assert pacer.delay(100, now=0) == 0
        assert pacer.in_flight == {}

    def test_refused_requests_are_no_debt_in_tokens(self) -> None:
        """Large batches refused for a quota of requests do not stop what comes after them."""
        pacer = known()
        pacer.tokens.guess(5000.0, now=0)
        pacer.requests.guess(20.0, now=0)
        now = 0.0
        for _ in range(12):
            now += pacer.throttle.delay(now) + 0.01
            pacer.throttled(pacer.start(90_000, now=now), now, after=None, headers={})
        pacer.throttle.cancel()
        assert pacer.tokens.delay(5000, now) < 15

    def test_forgotten_rates_leave_nothing_known_of_the_quota(self) -> None:
        """Refusals that were about the size of a batch do not show what the quota counts."""
        pacer = known()
        pacer.tokens.guess(5000.0, now=0)
        pacer._which.passed(5000.0, sent=0.0, now=0.1)
        pacer._which.exclude_tokens(5000.0)
        assert pacer._which.is_certain
        pacer.forget_rates()
        assert pacer.tokens.rate is None
        assert not pacer._which.is_certain

    def test_a_quota_named_in_a_refusal_is_used(self) -> None:
        """A quota named in the text of a refusal is used if there are no headers (OpenAI)."""
        pacer = known()
        ticket = pacer.start(1000, now=0)
        pacer.throttled(
            ticket, now=1, after=0.1, headers={}, quota=Quota(kind="tokens", limit=60_000)
        )
        assert pacer.tokens.is_known
        assert pacer.tokens.rate == pytest.approx(1000)
        assert pacer.batch_sizes.explains(1000)
        assert not pacer.batch_sizes.explains(10**9)

    def test_a_quota_that_the_facts_contradict_is_not_believed(self) -> None:
        """A quota in a refusal is not believed if far more has just passed.

        A gateway's text says 1,000 a minute here, but 100,000 have just passed.
        """
        pacer = known()
        for i in range(100):
            pacer.answered(pacer.start(1000, now=i / 100), {}, now=i / 100)
        for _ in range(16):
            ticket = pacer.start(1000, now=1)
            pacer.throttled(
                ticket, now=1, after=0.1, headers={}, quota=Quota(kind="tokens", limit=1000)
            )
        assert not pacer.tokens.is_known

    @pytest.mark.parametrize("start", [0.0, 1000.0])
    def test_a_quota_that_refills_while_they_pass_is_believed(self, start: float) -> None:
        """A quota in a refusal is believed if it explains what passed over a minute.

        Of 60,000 a minute, 100,000 may pass within a minute, because a full bucket comes on top.
        """
        pacer = known()
        for i in range(100):
            now = start + 0.6 * i
            pacer.answered(pacer.start(1000, now=now), {}, now=now)
        ticket = pacer.start(1000, now=start + 60)
        pacer.throttled(
            ticket, now=start + 60, after=0.1, headers={}, quota=Quota(kind="tokens", limit=60_000)
        )
        assert pacer.tokens.is_known


class TestPauses:
    """All workers pause once after a rate-limit refusal."""

    def test_nothing_starts_until_the_pause_is_over(self) -> None:
        """After a refusal with a delay of 5 s nothing starts for 5 s."""
        pacer = known()
        tickets = [pacer.start(10, now=0) for _ in range(3)]
        assert pacer.throttled(tickets[0], now=1, after=5, headers={})
        assert not pacer.throttled(tickets[1], now=1.1, after=5, headers={})
        assert pacer.delay(10, now=2) == pytest.approx(4.1)
        assert pacer.delay(10, now=6.2) == 0

    def test_a_long_pause_is_looked_at_by_one_request_a_minute(self) -> None:
        """During a pause of an hour one request a minute checks whether it is still needed."""
        pacer = known()
        pacer.throttled(pacer.start(10, now=0), now=0, after=3600, headers={})
        assert pacer.delay(10, now=0) == LOOK_AGAIN
        pacer.start(10, now=LOOK_AGAIN)
        assert pacer.delay(10, now=LOOK_AGAIN) > LOOK_AGAIN

    def test_a_known_quota_explains_a_refusal(self) -> None:
        """A known quota explains a refusal: the number in flight stays, and no quota is guessed."""
        pacer = known(tokens_per_minute=60_000)
        tickets = [pacer.start(100, now=0) for _ in range(8)]
        for ticket in tickets:
            pacer.throttled(ticket, now=1, after=1, headers={})
        assert pacer.concurrency.limit() == 8
        assert pacer.requests.rate is None


class TestPlaces:
    """How many requests are in flight."""

    def test_with_all_places_taken_there_is_an_answer_to_wait_for(self) -> None:
        """With all places taken the delay is infinite, since an answer has to come first."""
        pacer = known(max_workers=1)
        ticket = pacer.start(10, now=0)
        assert pacer.delay(10, now=0) == math.inf
        pacer.passed(ticket, now=1)
        assert pacer.delay(10, now=1) == 0

    def test_a_server_that_is_away_is_asked_by_one_probe_at_a_time(self) -> None:
        """A server that is away gets one probe at a time, however many old requests hang."""
        pacer = known()
        for ticket in [pacer.start(10, now=0) for _ in range(8)][:3]:
            pacer.failed(ticket, now=1)
        delay = pacer.delay(10, now=1)
        assert 0 < delay < math.inf
        probe = pacer.start(10, now=1 + delay)
        assert pacer.delay(10, now=100) == math.inf
        assert pacer.answered(probe, {}, now=101)
        assert pacer.delay(10, now=101) == 0

    @pytest.mark.parametrize(("timed_out", "limit"), [(True, 4), (False, 7)])
    def test_an_overloaded_server_gets_fewer_at_a_time(self, timed_out: bool, limit: int) -> None:
        """A time-out halves the number in flight.

        A 503 lowers it to the requests that the server was working on.
        """
        pacer = known()
        tickets = [pacer.start(10, now=0) for _ in range(8)]
        pacer.failed(tickets[7], now=1, timed_out=timed_out, overloaded=not timed_out)
        assert pacer.concurrency.limit() == limit

    def test_a_probe_that_times_out_lowers_nothing(self) -> None:
        """A hanging server's probes are alone, so after the outage as many are in flight again."""
        pacer = known()
        for ticket in [pacer.start(10, now=0) for _ in range(8)]:
            pacer.failed(ticket, now=1)
        now = 1.0
        for _ in range(5):
            now += pacer.delay(10, now=now)
            pacer.failed(pacer.start(10, now=now), now=now + 30, timed_out=True)
            now += 30
        now += pacer.delay(10, now=now)
        pacer.answered(pacer.start(10, now=now), {}, now=now + 1)
        assert pacer.concurrency.limit() >= 4
        for _ in range(8):
            pacer.answered(pacer.start(10, now=now + 1), {}, now=now + 2)
        assert pacer.concurrency.limit() == 8

    def test_copies_are_sent_only_where_they_do_no_harm(self) -> None:
        """No copies are sent after a failure or a refusal, until the server has answered."""
        pacer = known()
        assert pacer.has_room()
        ticket, other = pacer.start(10, now=0), pacer.start(10, now=0)
        pacer.failed(ticket, now=1)
        assert not pacer.has_room()
        pacer.answered(other, {}, now=2)
        assert pacer.has_room()
        pacer.throttled(pacer.start(10, now=3), now=4, after=1, headers={})
        assert not pacer.has_room()


@given(
    max_workers=st.integers(1, 20),
    is_known=st.booleans(),
    tokens_per_minute=st.one_of(st.none(), st.floats(100, 1e7)),
    events=st.lists(
        st.tuples(
            st.sampled_from(
                ["answered", "headers", "throttled", "hint", "named", "failed", "503", "late"]
            ),
            st.floats(0, 20),
        ),
        max_size=100,
    ),
)
def test_something_may_always_start_in_the_end(
    max_workers: int,
    is_known: bool,
    tokens_per_minute: float | None,
    events: list[tuple[str, float]],
) -> None:
    """With nothing in flight the delay is finite, and after it a request may start."""
    pacer = Pacer(
        max_workers=max_workers,
        is_known=is_known,
        tokens_per_minute=tokens_per_minute,
        draw=lambda: 0.5,
    )
    now, flying = 0.0, list[Ticket]()

    def end(name: str, ticket: Ticket) -> None:
        match name:
            case "answered":
                pacer.answered(ticket, {}, now)
            case "headers":
                pacer.answered(ticket, HEADERS, now)
            case "throttled":
                pacer.throttled(ticket, now, after=None, headers={})
            case "hint":
                pacer.throttled(ticket, now, after=90.0, headers={})
            case "named":
                pacer.throttled(
                    ticket, now, after=None, headers={}, quota=Quota(kind="requests", limit=60)
                )
            case _:
                pacer.failed(ticket, now, timed_out=name == "late", overloaded=name == "503")

    for name, step in events:
        while len(flying) < 5 and pacer.delay(50, now) <= 0:
            flying.append(pacer.start(50, now))
        assert len(pacer.in_flight) == len(flying) <= max_workers + 1
        now += step
        if flying:
            end(name, flying.pop(0))
    while flying:
        end("failed", flying.pop())
    for _ in range(3):  # rounding may leave a rest of a delay
        delay = pacer.delay(50, now)
        assert delay < math.inf
        now += delay
    assert pacer.delay(50, now) < 1e-6
