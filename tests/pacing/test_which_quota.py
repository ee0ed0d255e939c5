"""Which quota it is that nobody tells."""

import math

from langchain_batch_embed.pacing.which_quota import DOUBT, LEAST_QUOTA, PATIENCE, WhichQuota


def measured() -> WhichQuota:
    """Return one whose quota was used up at 0 s, with 10 requests of 1,000 tokens a second."""
    which = WhichQuota()
    which.measured(10_000.0, 10.0, now=0.0)
    return which


def test_a_refusal_of_few_tokens_is_not_about_tokens() -> None:
    """Where as large a request has passed: any quota of tokens lets the longest text through."""
    which = WhichQuota()
    assert which.excludes_tokens(LEAST_QUOTA)
    assert not which.excludes_tokens(LEAST_QUOTA + 1)
    which.passed(500, sent=0.0, now=0.1)
    which.exclude_tokens(600)
    assert (which.kind, which.most) == ("requests", math.inf)


def test_nothing_is_excluded_while_nothing_passes() -> None:
    """A quota of 300 tokens refuses all that is larger, however little was sent."""
    which = WhichQuota()
    which.exclude_tokens(600)
    assert which.kind is None


def test_a_dry_time_is_three_pauses_or_a_long_one() -> None:
    """Then batches hold several times what has passed, as requests may be what is counted."""
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
    """Far more tokens flow than the quota of tokens that was measured."""
    which, now = measured(), 0.0
    for _ in range(3):
        now += 0.15
        which.passed(16_000, sent=now, now=now)
    assert which.kind == "requests"


def test_usual_batches_prove_nothing() -> None:
    """Both quotas let them through as often."""
    which, now = measured(), 0.0
    for _ in range(100):
        now += 0.01
        which.passed(1000, sent=now, now=now)
    assert which.kind is None


def test_a_large_batch_that_is_refused_was_too_large() -> None:
    """Batches then hold what has passed, and after some answers it is tried again."""
    which = measured()
    assert which.refused(16_000, in_a_row=1, is_lone=False)
    assert (which.kind, which.most) == ("tokens", LEAST_QUOTA)
    for i in range(DOUBT):
        which.passed(1000, sent=i + 1.0, now=i + 1.0)
    assert which.kind is None
    assert which.refused(16_000, in_a_row=1, is_lone=False)
    for i in range(2 * DOUBT):
        which.passed(1000, sent=i + 1.0, now=i + 1.0)
    assert which.kind == "tokens"


def test_a_large_batch_that_is_refused_after_a_pause_tells_nothing() -> None:
    """The pause may have been too short."""
    which = measured()
    assert not which.refused(16_000, in_a_row=2, is_lone=True)
    assert which.kind is None


def test_even_what_was_certain_ends() -> None:
    """A batch that is refused for more than a minute is too large, whatever was concluded."""
    which = WhichQuota()
    which.passed(500, sent=0.0, now=0.1)
    which.exclude_tokens(500)
    for i in range(1, PATIENCE + 1):
        which.refused(100_000, in_a_row=i, is_lone=True)
    assert which.kind == "tokens"
