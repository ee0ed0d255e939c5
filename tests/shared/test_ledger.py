"""The ledger's script on a real server agrees with the model, and the model is right."""

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langchain_batch_embed.shared.exchange import Claim, Exchange, Reply, Told
from langchain_batch_embed.shared.redis_ledger import RedisLedger
from tests.valkey_server import Server, needs_server

from .model import KINDS, Ledger

accounts = itertools.count()

amounts = st.floats(0, 1e6, allow_nan=False) | st.just(0.0)
limits = st.floats(1, 1e8, allow_nan=False)
told = st.builds(
    Told,
    limit=limits,
    remaining=st.none() | st.just(-1.0) | amounts,
    reset=st.none() | st.floats(0, 100),
    age=st.floats(0, 10),
    ended_then=st.none() | amounts,
)
claims = st.builds(
    Claim,
    ask=amounts,
    back=amounts,
    spent=amounts,
    held=amounts,
    in_flight=amounts,
    ended=amounts,
    place=st.none() | amounts,
    most=st.none() | limits,
    known=st.none() | limits,
    capacity=limits,
    told=st.none() | told,
)
exchanges = st.builds(
    Exchange,
    worker=st.sampled_from("abc"),
    leaves=st.booleans(),
    passed=st.integers(0, 100),
    refused_ago=st.none() | st.floats(0, 10),
    pause=st.floats(0, 60),
    opening=st.integers(1, 100),
    claims=st.fixed_dictionaries({"tokens": claims, "requests": claims}),
)


def with_epoch(exchange: Exchange, epoch: float | None) -> Exchange:
    """Return the exchange of a worker that knows the ledger of this epoch."""
    names = [name for name in Exchange.__slots__ if name != "epoch"]
    return Exchange(epoch=epoch, **{name: getattr(exchange, name) for name in names})


def numbers(reply: Reply) -> list[float]:
    """Return all numbers of a reply."""
    found = [reply.workers, reply.share, reply.pause, reply.delay]
    for kind in KINDS:
        balance = reply.balances[kind]
        found += [balance.rate or 0.0, balance.capacity, balance.level, balance.ended]
        found.append(balance.place)
    return found


@needs_server
@given(steps=st.lists(st.tuples(exchanges, st.booleans()), min_size=1, max_size=12))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_script_computes_what_the_model_computes(
    valkey: Server, steps: list[tuple[Exchange, bool]]
) -> None:
    """A real server answers as the model does, whatever workers report and in any order."""
    ledger = RedisLedger(valkey.url, f"model-{next(accounts)}")
    model: Ledger | None = None
    for asked, knows_it in steps:
        exchange = with_epoch(asked, model.epoch if model and knows_it else None)
        reply = ledger.exchange(exchange)
        model = model or Ledger(epoch=reply.epoch)
        expected = model.exchange(exchange, reply.now)
        assert reply.epoch == model.epoch
        assert numbers(reply) == pytest.approx(numbers(expected), rel=1e-9, abs=1e-5)
    ledger.close()


def claim(**tokens: Any) -> Mapping[str, Claim]:
    """Return the claims of a worker that needs only tokens."""
    return {"tokens": Claim(**tokens), "requests": Claim()}


class Office:
    """A ledger whose 60 tokens a minute are used up, with workers that know it."""

    def __init__(self) -> None:
        self.ledger = Ledger(epoch=100.0)
        self.say("first", 100.0, told=seen(remaining=None, ended_then=None), ask=60.0)
        self.say("first", 100.0, ended=60.0)

    def say(self, worker: str, now: float, **tokens: Any) -> Reply:
        """Make one exchange about tokens."""
        more = {name: tokens.pop(name) for name in list(tokens) if name in Exchange.__slots__}
        options = {"epoch": 100.0, **more}
        return self.ledger.exchange(Exchange(worker=worker, claims=claim(**tokens), **options), now)

    def level(self) -> float:
        """Return the amount that is not reserved."""
        line = self.ledger.lines["tokens"]
        return line.flowed - line.reserved


def test_reservations_stand_in_order() -> None:
    """Each reservation waits for those before it, large or small."""
    office = Office()
    delays = [
        office.say(name, 100.0, ask=ask).delay for name, ask in zip("abc", (5, 50, 1), strict=True)
    ]
    assert delays == pytest.approx([5, 55, 56])


def test_an_amount_above_the_whole_bucket_gets_its_turn() -> None:
    """An amount above the whole bucket waits as long as it takes to flow in, and no longer."""
    assert Office().say("a", 100.0, ask=600.0).delay == pytest.approx(600)


def test_a_place_moves_with_the_rate() -> None:
    """A header with twice the quota halves the wait of those in line."""
    office = Office()
    first = office.say("a", 100.0, ask=30.0)
    office.say("b", 100.0, told=seen(limit=120.0, remaining=None, ended_then=None))
    again = office.say("a", 100.0, held=30.0, place=first.balances["tokens"].place)
    assert [first.delay, again.delay] == pytest.approx([30, 15])


def test_what_a_dead_worker_held_is_given_back_when_its_place_has_come() -> None:
    """A dead worker's amount is returned only when its place has come.

    Those before it in line must not use what has not flowed in yet.
    """
    office = Office()
    office.say("dead", 100.0, ask=10.0)
    for tenth in range(1001, 1300):  # another worker reports all the time
        now = tenth / 10
        office.say("alive", now)
        expected = now - 100 - (10 if now < 110 else 0)
        assert office.level() == pytest.approx(expected, abs=0.15)


def test_a_worker_that_was_given_up_too_early_is_charged_again() -> None:
    """A worker that was given up too early is charged again for what it holds.

    So a pause of its process does not give the amount to it and to others.
    """
    office = Office()
    held = office.say("late", 100.0, ask=4.0).balances["tokens"].place - 60
    for tenth in range(1001, 1200):
        office.say("alive", tenth / 10)
    assert office.level() == pytest.approx(19.9)
    office.say("late", 119.9, held=held)
    assert office.level() == pytest.approx(15.9)


def test_time_without_a_ledger_is_not_credited_to_workers_that_went_on() -> None:
    """Time without a ledger counts only if all workers had left.

    Workers that continued used the quota by themselves.
    """
    office, left = Office(), Office()
    left.say("first", 100.5, ended=60.0, leaves=True)
    for each in (office, left):
        each.say("first", 120.0, ended=60.0)
    assert [office.level(), left.level()] == pytest.approx([1, 20])


def test_nobody_is_given_up_while_a_ledger_comes_back() -> None:
    """Nobody is given up while a ledger comes back, as all were silent during its outage."""
    office = Office()
    office.say("other", 100.0, ask=0.5)
    assert office.say("first", 110.0, ended=60.0).workers == 2
    assert office.ledger.lines["tokens"].held == 0.5


def test_a_report_that_arrives_twice_changes_nothing() -> None:
    """A report that arrives twice, because its answer was lost, changes nothing."""
    office = Office()
    report = {"held": 2.0, "back": 3.0, "spent": 4.0, "ended": 66.0}
    office.say("first", 100.0, **report)
    once = (office.level(), office.ledger.lines["tokens"].ended)
    office.say("first", 100.0, **report)
    assert (office.level(), office.ledger.lines["tokens"].ended) == once


def test_headers_correct_the_level_in_both_directions() -> None:
    """Headers correct the level upwards and downwards, to what the server must have left."""
    office = Office()
    office.say("first", 100.0, ended=60.0, told=seen(remaining=30.0, ended_then=60.0))
    assert office.level() == 30
    office.say("first", 100.0, ended=60.0, told=seen(remaining=5.0, ended_then=60.0))
    assert office.level() == 5
    office.say("first", 100.0, ended=60.0, told=seen(remaining=12.0, ended_then=60.0))
    assert office.level() == 12


def test_headers_do_not_count_what_others_hold_or_have_under_way() -> None:
    """Amounts that others hold or have in flight are not counted as free.

    The server has not seen what they hold, and perhaps not what is in flight.
    """
    office = Office()
    office.say("first", 100.0, ended=60.0, told=seen(remaining=60.0, ended_then=60.0))
    office.say("other", 100.0, ask=20.0)  # holds 20, which are still in the server's bucket
    office.say("first", 100.0, ended=60.0, told=seen(remaining=60.0, ended_then=60.0))
    assert office.level() == 40
    office.say("other", 100.0, in_flight=20.0)  # in flight, so the server may have seen them or not
    office.say("first", 100.0, ended=60.0, told=seen(remaining=60.0, ended_then=60.0))
    assert office.level() == 40
    office.say("other", 100.0, ended=20.0)
    office.say("first", 100.0, ended=60.0, told=seen(remaining=60.0, ended_then=80.0))
    assert office.level() == 60


def test_refusals_of_one_moment_are_one_pause() -> None:
    """Refusals of requests that were in flight together lower the rate once."""
    office = Office()
    for worker in "abc":
        reply = office.say(worker, 101.0, refused_ago=0.5, pause=2.0)
    assert [reply.share, reply.pause] == pytest.approx([0.97, 2.0])
    reply = office.say("d", 104.0, refused_ago=0.5, pause=1.0)
    assert [reply.share, reply.pause] == pytest.approx([0.94, 1.0])


def test_the_smallest_limit_that_a_user_set_holds_for_all() -> None:
    """The smallest limit that a user set holds for all, whatever headers or other options say."""
    office = Office()
    office.say("a", 100.0, most=30.0)
    reply = office.say(
        "b", 100.0, most=90.0, told=seen(limit=600, remaining=500.0, ended_then=None)
    )
    assert reply.balances["tokens"].rate == 0.5
    assert reply.balances["tokens"].capacity == 30


def test_a_lost_ledger_begins_with_an_empty_bucket() -> None:
    """A new ledger after a loss begins with an empty bucket, because the quota was in use.

    The headers then correct it.
    """
    ledger = Ledger(epoch=200.0)
    exchange = Exchange(worker="a", epoch=100.0, claims=claim(known=60.0, capacity=60.0, ask=0.0))
    balance = ledger.exchange(exchange, 200.0).balances["tokens"]
    assert (balance.rate, balance.level) == (1.0, 0.0)


def seen(**options: Any) -> Told:
    """Return what an answer's headers announced just now."""
    made = {"limit": 60.0, "reset": None, "age": 0.0, **options}
    return Told(**made)


def test_nothing_is_limited_before_anything_is_known() -> None:
    """Before anything is known, nothing is limited: there is no rate, no wait and no pause."""
    reply = Ledger(epoch=1.0).exchange(Exchange(worker="a", claims=claim(ask=1e9)), 1.0)
    assert (reply.delay, reply.pause, reply.share) == (0, 0, 1)
    assert [reply.balances[kind].rate for kind in KINDS] == [None, None]
