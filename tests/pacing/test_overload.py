"""Whether a refusal for overload is about the request rate."""

import math

from langchain_batch_embed.pacing.overload import AWAY, BATCH, FEW, LONGER, SLOWEST, Overload


def is_rate(history: str, *, pauses: int = 0, refusals: int = 0, seconds: float = 1.0) -> bool:
    """Return whether the refusals count as being about the rate after this history.

    Args:
        history: answers (`a`) and refusals (`r`), each `seconds` after the one before.
        pauses: pauses since the last answer.
        refusals: refusals of the batch that was refused last.
        seconds: see above.
    """
    overload, answers, answered_sent, now = Overload(), 0, -math.inf, 0.0
    for event in history:
        now += seconds
        if event == "a":
            answers, answered_sent = answers + 1, now
        else:
            overload.refused(now, answers=answers, answered_sent=answered_sent)
    return overload.is_rate(now, pauses=pauses, refusals=refusals)


def test_refusals_after_one_or_two_answers_each_are_for_the_rate() -> None:
    """Refusals after one or two answers each count as being about the rate.

    A server that lets one request through a second behaves like that.
    """
    assert is_rate("ar" * 2)
    assert is_rate(("a" * FEW + "r") * 2)


def test_once_says_nothing() -> None:
    """A single refusal, or refusals with many answers in between, say nothing about the rate.

    They may be chance or a short peak of load.
    """
    assert not is_rate("ar")
    assert not is_rate(("a" * (FEW + 1) + "r") * 5)


def test_an_outage_is_none() -> None:
    """An outage, in which everything is refused without an answer, is not about the rate."""
    assert not is_rate("a" + "r" * 20)
    assert not is_rate("r" * 20)


def test_a_server_that_stops_to_answer_is_away() -> None:
    """A server that stops answering is away, even if it has kept to a rate before."""
    assert is_rate("ar" * 5 + "r" * (AWAY - 1), pauses=AWAY - 1)
    assert not is_rate("ar" * 5 + "r" * AWAY, pauses=AWAY)


def test_a_batch_that_is_refused_again_and_again_may_be_the_cause() -> None:
    """If one batch is refused again and again, the rate is no longer taken for the cause.

    The bad text is then searched for, so that nothing is sent without end.
    """
    assert is_rate("ar" * 5, refusals=BATCH - 1)
    assert not is_rate("ar" * 5, refusals=BATCH)


def test_a_slow_rate_has_longer_waits() -> None:
    """Where an answer came after six refusals, the next one may take twice as long.

    At one request in ten seconds, a second batch is not to blame for its sixth refusal either.
    """
    slow = "arr" + "a" + "r" * 6
    assert is_rate(slow + "a" + "r" * 6, pauses=6, refusals=6)
    assert not is_rate(slow + "a" + "r" * 6, pauses=6, refusals=int(LONGER * 6))
    assert not is_rate(slow + "a" + "r" * 20, pauses=20, refusals=6)


def test_an_outage_does_not_lengthen_the_wait() -> None:
    """After an outage of minutes within a rate limit, the next outage is recognized as one."""
    outage = "ararr" + "r" * 20 + "a"
    seconds = SLOWEST / 10
    assert not is_rate(outage + "r" * AWAY, pauses=AWAY, seconds=seconds)
    assert not is_rate(outage + "r" * 2, refusals=BATCH, seconds=seconds)
