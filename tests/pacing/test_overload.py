"""Whether a refusal for overload is about the request rate."""

from langchain_batch_embed.pacing.overload import AWAY, BATCH, FEW, Overload


def after(history: str) -> Overload:
    """Return the state after answers (`a`) and refusals (`r`)."""
    overload, answers = Overload(), 0
    for event in history:
        if event == "a":
            answers += 1
        else:
            overload.refused(answers)
    return overload


def is_rate(history: str, *, pauses: int = 0, refusals: int = 0) -> bool:
    """Return whether the refusals count as being about the rate after this history."""
    return after(history).is_rate(pauses=pauses, refusals=refusals)


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
    assert is_rate("ar" * 5, pauses=AWAY - 1)
    assert not is_rate("ar" * 5, pauses=AWAY)


def test_a_batch_that_is_refused_again_and_again_may_be_the_cause() -> None:
    """If one batch is refused again and again, the rate is no longer taken for the cause.

    The bad text is then searched for, so that nothing is sent without end.
    """
    assert is_rate("ar" * 5, refusals=BATCH - 1)
    assert not is_rate("ar" * 5, refusals=BATCH)
