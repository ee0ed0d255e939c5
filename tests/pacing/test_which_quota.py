"""Which quota a server enforces if it does not announce one."""

import math

from langchain_batch_embed.pacing.small_batches import DOUBT, LEAST_SMALL, SMALL, SMALLER
from langchain_batch_embed.pacing.which_quota import (
    ENOUGH,
    LEAST_QUOTA,
    PATIENCE,
    SHORT,
    WhichQuota,
)


def measured() -> WhichQuota:
    """Return the state after a measurement of 10 requests of 1,000 tokens a second, at 0 s."""
    which = WhichQuota()
    which.measured(10_000.0, 10.0, now=0.0)
    return which


def test_a_refusal_of_few_tokens_is_not_about_tokens() -> None:
    """A refusal of few tokens means a quota of requests, if as large a request has passed.

    Any quota of tokens lets the longest text through.
    """
    which = WhichQuota()
    assert which.excludes_tokens(LEAST_QUOTA)
    assert not which.excludes_tokens(LEAST_QUOTA + 1)
    which.passed(500, sent=0.0, now=0.1)
    which.exclude_tokens(600)
    assert (which.kind, which.most) == ("requests", math.inf)


def test_nothing_is_excluded_while_nothing_passes() -> None:
    """While nothing passes, a refusal of few tokens excludes no quota.

    A quota of 300 tokens refuses every larger request, however little was sent.
    """
    which = WhichQuota()
    which.exclude_tokens(600)
    assert which.kind is None


def test_a_dry_time_is_three_pauses_or_a_long_one() -> None:
    """Three pauses in a row or one of 30 s are a dry time, in which batches are large.

    They hold five times what has passed, because the quota may count requests.
    """
    which = WhichQuota()
    which.passed(3_000, sent=0.0, now=0.1)
    which.paused(2, None)
    which.paused(1, 1.0)
    assert not which.is_dry
    for in_a_row, after in ((3, None), (1, 30.0)):
        dry = WhichQuota()
        dry.passed(20_000, sent=0.0, now=0.1)
        dry.paused(in_a_row, after)
        assert dry.is_dry
        assert dry.most_when_dry == 100_000
    assert which.most_when_dry == 5 * LEAST_QUOTA


def test_large_batches_that_pass_as_often_prove_the_requests() -> None:
    """Large batches that pass as often as usual ones prove a quota of requests.

    Far more tokens pass than the measured token quota would allow.
    """
    which, now = measured(), 0.0
    for _ in range(3):
        now += 0.15
        which.passed(16_000, sent=now, now=now)
    assert which.kind == "requests"


def test_usual_batches_prove_nothing() -> None:
    """Batches of the usual size prove nothing, since both quotas let them pass as often."""
    which, now = measured(), 0.0
    for _ in range(100):
        now += 0.01
        which.passed(1000, sent=now, now=now)
    assert which.kind is None


def test_a_large_batch_that_is_refused_after_many_others_was_not_too_large() -> None:
    """A large batch refused after many others of its size passed was not too large.

    The measurement was wrong, so the rate is measured again.
    """
    which = measured()
    for i in range(1, ENOUGH + 1):
        assert which.kind is None
        which.passed(8_200, sent=i, now=i)  # 8,200 tokens a second, fewer than were measured
    assert not which.refused(8_200, sent=0.0, in_a_row=1, is_lone=False)
    assert which.kind is None
    which.measured(8_200.0, 1.0, now=10.0)
    assert which.most == 5 * 8_200
    assert which.refused(41_000, sent=0.0, in_a_row=1, is_lone=False)  # counts again


def test_a_batch_larger_than_all_others_is_a_test_until_it_is_certain() -> None:
    """A batch larger than all others is decisive until the quota is certain.

    Its refusal would show that the quota does not count requests, so it waits until these allow it.
    """
    which = WhichQuota()
    which.kind = "requests"
    assert not which.is_decisive(LEAST_QUOTA)
    assert which.is_decisive(LEAST_QUOTA + 1)
    which.exclude_tokens(600)
    which.passed(500, sent=0.0, now=0.1)
    which.exclude_tokens(600)
    assert not which.is_decisive(LEAST_QUOTA + 1)


def said_to_be_tokens(*, seconds: float = 0.1) -> WhichQuota:
    """Return the state after a large batch was refused and usual ones passed at this interval."""
    which = measured()
    assert which.refused(16_000, sent=0.0, in_a_row=1, is_lone=False)
    for i in range(DOUBT):
        assert (which.kind, which.most) == ("tokens", SHORT * 10_000)
        which.passed(1000, sent=(i + 1) * seconds, now=(i + 1) * seconds)
    return which


def test_batches_for_tokens_are_as_large_as_what_passed() -> None:
    """With a quota of tokens, batches hold what has passed, or what flows in a quarter of a second.

    A larger one may exceed the bucket, and takes as much of the quota as smaller ones.
    """
    which = measured()
    assert which.refused(16_000, sent=0.0, in_a_row=1, is_lone=False)
    assert which.most == 2_500
    which.passed(4_000, sent=0.0, now=0.1)
    assert which.most == 4_000


def pass_small(which: WhichQuota, *, seconds: float) -> None:
    """Let all small batches of a trial pass, this many seconds apart."""
    for i in range(1, SMALL + 1):
        assert (which.kind, which.most) == ("tokens", 1000 / SMALLER)
        which.passed(200, sent=1 + i * seconds, now=1 + i * seconds)


def test_many_small_batches_that_pass_show_that_it_is_the_tokens() -> None:
    """If many small batches pass, the quota counts tokens.

    Small batches are tried after some answers, and again after four times as many.
    """
    which = said_to_be_tokens()
    pass_small(which, seconds=0.02)  # 50 a second, where 10 requests were measured
    for i in range(4 * DOUBT):
        assert (which.kind, which.most) == ("tokens", SHORT * 10_000)
        which.passed(1000, sent=2 + i / 10, now=2 + i / 10)
    assert which.most == 1000 / SMALLER


def test_few_small_batches_that_pass_show_nothing() -> None:
    """If few small batches pass, nothing is shown, and large ones are tried again.

    A quota of requests would have let them through as well.
    """
    which = said_to_be_tokens()
    pass_small(which, seconds=0.1)
    assert (which.kind, which.most) == (None, 2 * LEAST_QUOTA)


def test_a_small_batch_that_is_refused_may_be_one_request_too_many() -> None:
    """After a small batch is refused, large ones are tried and both rates are measured again.

    The refusal may be about one request too many.
    """
    which = said_to_be_tokens()
    assert which.is_trying_small
    assert not which.refused(200, sent=1.0, in_a_row=1, is_lone=False)
    assert (which.kind, which.most) == (None, 2 * LEAST_QUOTA)
    assert which.refused(16_000, sent=2.0, in_a_row=1, is_lone=False)
    for i in range(4 * DOUBT):  # the next small batches are tried later
        assert not which.is_trying_small
        which.passed(1000, sent=3 + i / 10, now=3 + i / 10)
    assert which.is_trying_small


def test_a_refusal_of_what_was_sent_before_small_batches_says_nothing() -> None:
    """A refusal of a request sent before the small batches says nothing about them.

    It was of the usual size.
    """
    which = said_to_be_tokens()
    assert not which.refused(1000, sent=0.7, in_a_row=1, is_lone=False)
    assert which.is_trying_small


def test_queries_do_not_make_small_batches_tiny() -> None:
    """Small batches stay at `LEAST_SMALL` tokens, even if the caller lately sent short queries.

    The measured rate counts as well as what was sent lately.
    """
    which = WhichQuota()
    which.measured(1000.0, 10.0, now=0.0)
    assert which.refused(16_000, sent=0.0, in_a_row=1, is_lone=False)
    for i in range(1, DOUBT + 1):
        which.passed(3, sent=i / 10, now=i / 10)
    assert (which.is_trying_small, which.most) == (True, LEAST_SMALL)


def test_what_was_in_flight_before_small_batches_does_not_count_among_them() -> None:
    """Requests in flight before the small batches do not count among them.

    They were sent as fast as batches of the usual size are.
    """
    which = said_to_be_tokens()
    for _ in range(SMALL):
        which.passed(1000, sent=0.7, now=0.9)
    pass_small(which, seconds=0.02)
    assert (which.kind, which.most) == ("tokens", SHORT * 10_000)


def test_long_texts_are_not_held_back_for_ever() -> None:
    """A trial of small batches ends without a result if single texts are as large as usual batches.

    Long texts would otherwise be held back forever.
    """
    which = said_to_be_tokens()
    for i in range(SMALL):
        which.passed(1000, sent=1 + i / 10, now=1 + i / 10)
    assert which.kind is None


def test_small_batches_are_not_tried_where_few_of_them_would_be_sent() -> None:
    """If batches pass every 30 s, large ones are tried at once instead of small ones.

    A trial of small batches would take minutes.
    """
    assert said_to_be_tokens(seconds=30.0).kind is None


def test_rates_that_are_known_only_later_count_from_the_refusal_on() -> None:
    """Rates that become known later count from the refusal on.

    A first refusal measures something only when the requests in flight have been answered.
    """
    which = WhichQuota()
    which.measured_since(10_000.0, 10.0)  # nothing has been refused so far
    which.measured(None, None, now=0.0)
    assert not which.is_trial(16_000)
    which.measured_since(10_000.0, 10.0)
    which.measured_since(90_000.0, 10.0)  # the first rates are kept
    assert which.is_trial(16_000)
    for i in range(3):
        which.passed(16_000, sent=0.15 * i + 0.15, now=0.15 * i + 0.15)
    assert which.kind == "requests"


def test_a_large_batch_that_is_refused_after_a_pause_tells_nothing() -> None:
    """A refusal of a large batch after a pause, which may be too short, says nothing."""
    which = measured()
    assert not which.refused(16_000, sent=0.0, in_a_row=2, is_lone=True)
    assert which.kind is None


def test_even_what_was_certain_ends() -> None:
    """Even a certain conclusion is dropped if a batch is refused for more than a minute.

    That batch is too large.
    """
    which = WhichQuota()
    which.passed(500, sent=0.0, now=0.1)
    which.exclude_tokens(500)
    for i in range(1, PATIENCE + 1):
        which.refused(100_000, sent=0.0, in_a_row=i, is_lone=True)
    assert which.kind == "tokens"
