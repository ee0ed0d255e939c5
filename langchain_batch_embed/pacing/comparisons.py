"""Compares rounds of round trips with different numbers of requests in flight. Pure arithmetic.

Only a difference well above its standard error counts, because the round trips of a hosted API vary
tenfold without any queue.
"""

import math

from langchain_batch_embed.pacing.round_trips import Round

__all__ = ["has_grown", "is_better_with_fewer", "is_better_with_more", "is_near", "slowdown"]

GROWN = 0.7
"""Round trips have grown if they grew by this power of the growth in flight, number times work."""

ERRORS = 2.5
"""Round trips have grown or shrunk only by more than this many standard errors."""

NEAR = 0.08
"""If the first round trips take less than this many seconds, fewer requests are tried at once. That
costs next to no time. With a server on the same machine, this process is the bottleneck."""

NEXT_DOOR = 0.025
"""If they take less than this many seconds, the server is on the same machine or network. This
process is then the bottleneck, whose other work makes round trips vary."""

VARIED = 0.2
"""If the standard error of a first round is above this, and the server is not next door, round
trips vary as at a hosted API. Then more requests are tried instead: four times as many show a queue
more clearly than half as many."""

EVEN = 0.15
"""If the standard errors of both first rounds together are below this, fewer requests only have to
get the same work done per second."""

EVEN_NEXT_DOOR = 0.3
"""The same for a server next door."""


def is_near(ended: Round) -> bool:
    """Return whether round trips are so short that fewer requests are worth a try."""
    return ended.middle < math.log(NEXT_DOOR if ended.error > VARIED else NEAR)


def slowdown(ended: Round, first: Round) -> float:
    """Return by how much round trips take longer than the first ones, as a logarithm.

    Without any queue, larger requests may take longer, at most in proportion to their work.
    """
    return ended.middle - first.middle - max(0.0, ended.work - first.work)


def has_grown(ended: Round, last: Round) -> bool:
    """Return whether round trips have grown with the number in flight."""
    expected = math.log(ended.number / last.number) + max(0.0, ended.work - last.work)
    noise = math.hypot(ended.error, last.error)
    return expected > 0 and ended.middle - last.middle > max(GROWN * expected, ERRORS * noise)


def is_better_with_more(ended: Round, last: Round) -> bool:
    """Return whether a round with more requests in flight got more work done per second.

    Less work because requests have become smaller does not count against it: a wrong step up only
    lets some of them queue.
    """
    return _gain(ended, last) * math.exp(max(0.0, last.work - ended.work)) >= _enough(ended, last)


def is_better_with_fewer(ended: Round, last: Round, *, at_start: bool) -> bool:
    """Return whether a round with fewer requests in flight got as much work done per second.

    A wrong step down costs more than a wrong step up. So a difference that a change of the sizes
    may explain counts against it, and round trips must have become shorter, as in a shorter queue.

    Args:
        ended: the round with fewer requests.
        last: the round before it.
        at_start: whether these are the first rounds. Where this process is the bottleneck, round
            trips need not become shorter, but then they vary little.
    """
    grown = ended.work - last.work
    if _gain(ended, last) * math.exp(-max(0.0, grown)) < _enough(ended, last):
        return False
    noise = math.hypot(ended.error, last.error)
    if at_start:
        is_next_door = ended.middle < math.log(NEXT_DOOR)
        if noise < (EVEN_NEXT_DOOR if is_next_door else EVEN):
            return True
        noise = 0.0 if is_next_door else noise
    shrunk = last.middle - ended.middle + min(0.0, grown)
    return shrunk > max(-math.log(_enough(ended, last)), ERRORS * noise)


def _gain(ended: Round, last: Round) -> float:
    """Return the work done per second relative to that of the round before."""
    return ended.rate / last.rate if last.rate < math.inf else 1.0


def _enough(ended: Round, last: Round) -> float:
    """Return half of the way from "as much work as before" to "in proportion to the number"."""
    return math.sqrt(ended.number / last.number)
