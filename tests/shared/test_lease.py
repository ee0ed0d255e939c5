"""One process's view of a shared quota, without I/O, with the model as the ledger."""

import logging
import math

import pytest
import redis

from langchain_batch_embed.shared.lease import FAILURES, OPENING, Lease
from langchain_batch_embed.shared.terms import PATIENCE

from .model import Ledger

NOTHING = {"tokens": 0.0, "requests": 0.0}
LIMIT = 6000.0  # tokens a minute, which is 100 a second


class Process:
    """A process whose lease talks to a ledger without delay."""

    def __init__(self, ledger: Ledger, name: str = "a", *, limit: float | None = LIMIT) -> None:
        self.ledger = ledger
        self.lease = Lease(name, draw=lambda: 0.0, tokens_per_minute=limit)
        self.exchanges = 0

    def talk(self, now: float, *, in_flight: float = 0.0, leaves: bool = False) -> None:
        """Make all exchanges that are due."""
        for _ in range(5):
            if self.lease.delay(now) > 0 and not leaves:
                return
            flights = {"tokens": in_flight, "requests": float(in_flight > 0)}
            exchange = self.lease.begin(now, in_flight=flights, leaves=leaves)
            self.lease.accept(self.ledger.exchange(exchange, 1000 + now), now)
            self.exchanges += 1
            if leaves:
                self.lease.left()
                return
        raise AssertionError("it does not stop talking")

    def fail(self, now: float) -> None:
        """Make a due exchange fail."""
        if self.lease.delay(now) <= 0:
            self.lease.begin(now, in_flight=NOTHING)
            self.lease.failed(ConnectionError("redis://:secret@host"), now)

    def use(self, amount: float, now: float) -> float:
        """Take an amount as soon as it is available, and return the time."""
        for _ in range(100):
            delay = self.lease.tokens.delay(amount, now)
            if delay <= 0:
                self.lease.tokens.take(amount, now)
                return now
            if self.lease.delay(now) <= 0:
                self.talk(now)
            else:
                now += delay
        raise AssertionError("it never gets it")


@pytest.fixture
def ledger() -> Ledger:
    """Return a ledger without any state."""
    return Ledger(epoch=1000.0)


def empty(ledger: Ledger) -> Process:
    """Return a process that has used up the whole bucket."""
    process = Process(ledger)
    assert process.use(LIMIT, 0.0) == 0.0
    return process


def test_one_exchange_is_paid_for_many_requests(ledger: Ledger) -> None:
    """One exchange pays for many requests, because a lease holds a quarter of a second's quota."""
    process = empty(ledger)
    before = process.exchanges
    now = 1.0
    for _ in range(100):
        now = process.use(1.0, now)
    assert now == pytest.approx(1.0, abs=0.1)  # 100 tokens had flowed in
    assert process.exchanges - before <= 5


def test_it_waits_exactly_until_its_place_has_come(ledger: Ledger) -> None:
    """A process waits exactly until its place has come, not in steps."""
    process = empty(ledger)
    assert process.use(300.0, 0.0) == pytest.approx(3.0)


def test_places_are_kept_in_order(ledger: Ledger) -> None:
    """Places are served in order, even if a later one needs less."""
    first, second = empty(ledger), Process(ledger, "b")
    second.talk(0.0)
    assert first.lease.tokens.delay(200.0, 0.0) > 0
    first.talk(0.0)
    assert second.use(1.0, 0.0) > 2.0


def test_nothing_is_sent_before_the_ledger_has_answered(ledger: Ledger) -> None:
    """A new process sends nothing before the ledger has answered.

    So it does not use a quota that others have used up.
    """
    process = Process(ledger)
    assert 0 < process.lease.tokens.delay(1.0, 0.0) <= PATIENCE
    process.talk(0.0)
    process.talk(0.0)
    assert process.lease.tokens.delay(1.0, 0.0) > 0  # the process has only reported what it needs
    process.talk(0.0)
    assert process.lease.tokens.delay(1.0, 0.0) == 0


def test_an_unused_lease_goes_back(ledger: Ledger) -> None:
    """An unused lease is returned after two seconds, or with the last call."""
    process = empty(ledger)
    process.use(1.0, 1.0)
    held = process.lease.tokens.balance
    assert held == pytest.approx(24)
    process.talk(3.2)
    assert process.lease.tokens.balance == 0
    assert ledger.lines["tokens"].held == 0

    process.use(1.0, 4.0)
    level = ledger.lines["tokens"].flowed - ledger.lines["tokens"].reserved
    process.talk(4.0, leaves=True)
    after = ledger.lines["tokens"].flowed - ledger.lines["tokens"].reserved
    assert after - level == pytest.approx(24)


def test_the_time_that_is_left_is_that_of_its_part(ledger: Ledger) -> None:
    """The time left assumes half of the quota for each of two workers.

    It starts after what the process holds and what it waits for.
    """
    process, other = empty(ledger), Process(ledger, "b")
    other.talk(0.0)
    process.talk(0.6)
    process.use(1.0, 1.0)
    tokens = process.lease.tokens
    assert tokens.balance == pytest.approx(11.5)
    assert tokens.flows_in(10.0, 1.0) == 0
    assert tokens.flows_in(511.5, 1.0) == pytest.approx(10.0)
    assert tokens.flows_in(511.5, 1.0, pause=3.0) == pytest.approx(13.0)
    assert tokens.held(1.0) == pytest.approx(11.5)
    assert tokens.usable_rate == pytest.approx(50.0)
    assert tokens.delay(300.0, 1.0) > 0  # recorded
    process.talk(1.0)
    due = tokens.delay(300.0, 1.0)
    assert tokens.flows_in(300.0, 1.0) == pytest.approx(due)
    assert tokens.flows_in(400.0, 1.0) == pytest.approx(due + 2.0)


def test_what_was_never_sent_is_there_again(ledger: Ledger) -> None:
    """An amount whose request was never sent is available again."""
    process = empty(ledger)
    process.use(20.0, 1.0)
    process.lease.tokens.give_back(20.0)
    assert process.lease.tokens.delay(20.0, 1.0) == 0


def test_what_was_never_sent_while_cut_off_is_not_there_twice(ledger: Ledger) -> None:
    """Cut off before it knows a quota, a request that was never sent leaves no trace."""
    process = Process(ledger, limit=None)
    tokens = process.lease.tokens
    tokens.delay(500.0, 0.0)
    later = PATIENCE + 1
    tokens.take(500.0, later)
    tokens.give_back(500.0)
    assert tokens.balance == 0
    assert process.lease.begin(later, in_flight=NOTHING).claims["tokens"].spent == 0


def test_cut_off_it_goes_on_with_its_part_and_says_so_once(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the ledger a process uses 95 % of its part, and logs the outage once.

    The message contains nothing of the URL.
    """
    process, other = empty(ledger), Process(ledger, "b")
    other.talk(0.0)
    process.talk(0.6)
    with caplog.at_level(logging.WARNING):
        now = 1.0
        for _ in range(FAILURES):
            process.fail(now + 1)
        used, now = 0.0, 2.0
        while now < 12.0:
            now = alone(process, 10.0, now)
            used += 10.0
            process.fail(now)
    assert used == pytest.approx(0.95 * 100 / 2 * 10, rel=0.05)
    (record,) = caplog.records
    assert "goes on with 1/2 of the last known quota" in record.message
    assert "secret" not in record.message

    caplog.clear()
    process.talk(13.0)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "answers again" in caplog.text
    before = ledger.lines["tokens"].reserved
    process.use(30.0, 13.0)
    assert ledger.lines["tokens"].reserved > before


def alone(process: Process, amount: float, now: float) -> float:
    """Take an amount without a ledger, and return the time."""
    for _ in range(20):
        delay = process.lease.tokens.delay(amount, now)
        if delay <= 0:
            process.lease.tokens.take(amount, now)
            return now
        assert delay < 60
        now += delay
    raise AssertionError("it hangs")


@pytest.mark.parametrize(
    "error", [redis.AuthenticationError(), redis.ReadOnlyError(), TypeError("bogus=1")]
)
def test_a_wrong_configuration_is_not_called_silence(
    ledger: Ledger, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """A server that refuses this process is not said to be silent; the advice fits."""
    process = Process(ledger)
    for now in range(FAILURES):
        process.lease.begin(10.0 * now, in_flight=NOTHING)
        process.lease.failed(error, 10.0 * now)
    (record,) = caplog.records
    assert "does not accept this process" in record.message
    assert "check the URL, the password and the permissions" in record.message
    assert "bogus" not in record.message


def test_a_lease_is_still_there_after_a_time_without_a_ledger(ledger: Ledger) -> None:
    """A lease survives a time without the ledger, and is returned if it stays unused."""
    process = empty(ledger)
    process.use(1.0, 1.0)
    for _ in range(FAILURES):
        process.fail(1.6)
    assert alone(process, 5.0, 1.6) > 1.6  # taken from its own part, which starts empty
    process.talk(2.2)
    assert process.lease.tokens.balance == pytest.approx(24)
    assert process.lease.tokens.delay(20.0, 2.2) == 0
    process.talk(4.9)
    assert ledger.lines["tokens"].held == 0


def test_a_place_in_a_lost_ledger_is_taken_again(ledger: Ledger) -> None:
    """A place in a lost ledger is requested again from the new one.

    The old place would be far behind what the new ledger admits, and the wait would not end.
    """
    process = empty(ledger)
    assert process.lease.tokens.delay(300.0, 0.0) > 0
    process.talk(0.0)
    process.ledger = Ledger(epoch=1000.5)
    process.talk(0.6)
    assert process.lease.tokens.pending == 0
    assert process.use(300.0, 0.6) == pytest.approx(0.6 + 3.0)


def test_a_kind_that_nobody_limits_needs_no_lease(ledger: Ledger) -> None:
    """Once only tokens are limited, requests need no lease and no wait."""
    process = Process(ledger, limit=None)
    process.talk(0.0)
    process.lease.tokens.learn(
        limit=LIMIT, remaining=100.0, reset=None, unseen=0.0, sent=0.0, now=0.0
    )
    exchange = process.lease.begin(0.0, in_flight=NOTHING)
    process.lease.requests.delay(1.0, 0.0)  # recorded while nothing is known
    process.lease.accept(ledger.exchange(exchange, 1000.0), 0.0)
    process.talk(0.0)
    before = process.exchanges
    assert process.lease.requests.delay(1.0, 0.0) == 0
    process.lease.requests.take(1.0, 0.0)
    process.talk(0.1)
    assert process.exchanges == before


def test_an_exchange_that_never_ends_is_not_waited_for(ledger: Ledger) -> None:
    """A process does not wait for an exchange that never ends, such as a hanging DNS look-up."""
    process = empty(ledger)
    process.talk(1.0)
    process.lease.begin(1.6, in_flight=NOTHING)
    assert alone(process, 5.0, 1.6) == pytest.approx(1.6 + PATIENCE + 5 / 95, abs=0.01)
    assert process.lease.delay(60.0) == math.inf


def test_an_amount_above_its_part_is_waited_for_while_cut_off(ledger: Ledger) -> None:
    """Without the ledger, a request larger than the process's part waits in proportion."""
    process = empty(ledger)
    for _ in range(FAILURES):
        process.fail(2.0)
    first = alone(process, 950.0, 2.0)
    assert alone(process, 95.0, first) == pytest.approx(first + 10.0)


def test_a_refusal_pauses_the_others(ledger: Ledger) -> None:
    """A refusal is reported at once, and the other processes pause as long as the server said."""
    refused, other = empty(ledger), Process(ledger, "b")
    other.talk(0.0)
    refused.talk(0.6)
    other.talk(0.6)
    refused.lease.throttle.refused(0.9, 1.0, 5.0)
    assert refused.lease.delay(1.0) == 0
    refused.talk(1.0)
    assert other.lease.throttle.delay(1.0) == 0
    other.talk(1.2)
    assert other.lease.throttle.delay(1.2) == pytest.approx(4.8)
    assert other.lease.throttle.in_a_row == 0


def test_a_long_pause_of_another_is_looked_at_each_minute(ledger: Ledger) -> None:
    """A long pause that another process reported is checked each minute.

    What a server asked for an hour ago may no longer be true.
    """
    refused, other = empty(ledger), Process(ledger, "b")
    other.talk(0.0)
    refused.lease.throttle.refused(0.9, 1.0, 3600.0)
    refused.talk(1.0)
    other.talk(1.2)
    assert other.lease.throttle.delay_of_probe(1.2) == pytest.approx(60.0)
    other.talk(31.2)
    assert other.lease.throttle.delay_of_probe(31.2) == pytest.approx(30.0)


def test_a_limit_of_one_at_a_time_pauses_nobody_else(ledger: Ledger) -> None:
    """A refusal for concurrent requests, whose pause is cancelled, does not pause the others."""
    process = empty(ledger)
    process.lease.throttle.refused(0.9, 1.0, 5.0)
    process.lease.throttle.cancel()
    process.talk(1.0)
    assert ledger.pause == 0


def test_the_quota_that_a_header_tells_is_known_before_more_is_sent(ledger: Ledger) -> None:
    """Between the first header with a quota and the ledger's answer, nothing is sent."""
    process = Process(ledger, limit=None)
    process.use(10.0, 0.0)
    tokens = process.lease.tokens
    tokens.learn(limit=LIMIT, remaining=100.0, reset=None, unseen=0.0, sent=0.0, now=0.5)
    assert tokens.delay(1.0, 0.5) > 0
    process.talk(0.5)
    assert tokens.rate == 100
    assert process.use(200.0, 0.5) == pytest.approx(0.5 + 1.0, abs=0.2)


def test_all_together_begin_as_slowly_as_one(ledger: Ledger) -> None:
    """Before anything is known, eight requests are in flight over all processes together."""
    processes = [Process(ledger, str(number), limit=None) for number in range(20)]
    sent = 0
    for process in processes:
        process.talk(0.0)
        for bucket in (process.lease.tokens, process.lease.requests):
            bucket.delay(1.0, 0.0)
        process.talk(0.0)
        sent += process.lease.requests.delay(1.0, 0.0) == 0
    assert sent == 8
    # The others ask again soon, before the next heartbeat.
    assert processes[-1].lease.delay(0.0) == pytest.approx(OPENING)


def test_a_failed_exchange_loses_no_report(ledger: Ledger) -> None:
    """What it was to report (answers, a refusal, a quota) is in the next one."""
    process = Process(ledger, limit=None)
    process.talk(0.0)
    lease = process.lease
    lease.tokens.learn(limit=6000, remaining=None, reset=None, unseen=0, sent=0.5, now=1.0)
    lease.throttle.answered(0.5)
    lease.throttle.refused(1.0, 2.0, 3.0)
    lost = lease.begin(2.0, in_flight=NOTHING)
    lease.failed(ConnectionError(), 2.1)
    again = lease.begin(2.2, in_flight=NOTHING)
    assert (again.passed, again.claims["tokens"].told is None) == (lost.passed, False)
    assert lost.refused_ago == 1.0
    assert again.refused_ago == pytest.approx(1.2)
    lease.accept(ledger.exchange(again, 1002.2), 2.2)
    rest = lease.begin(2.3, in_flight=NOTHING)
    assert (rest.passed, rest.refused_ago, rest.claims["tokens"].told) == (0, None, None)
