"""Cuts a sequence of inputs into batches by their token counts.

Pure arithmetic: no clock, thread or I/O. Every batch is a run of neighbouring inputs, so the order
is kept. Batches are cut in one of two ways.

- **spread** (the usual one): guided sizes. Each batch takes one worker's share of the remaining
  work, so the first batches are large and the last ones small, and a slow answer near the end
  delays less work. A small amount of work goes out in one wave of equal batches instead.
- **fewest**: as few requests as the limits allow, of equal work, for when the quota is short of
  requests.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["INPUT_WORK", "WAVE_LEAST", "Sizes", "pack"]

INPUT_WORK = 20
"""Cost of an input besides its tokens, in tokens: an 8 KB vector has to be sent and read."""

GUIDED_LEAST = 14_000
"""Smallest work of a guided batch, in tokens. Smaller batches do not pay off.

Public recordings of OpenAI's endpoint show about 7 ms per thousand tokens, so this work takes
hardly more than the fixed 80 ms of a request. Besides, all other requests wait while this process
sends one or reads its answer.
"""

WAVE_MOST = 1_000_000
"""Up to this much work, in tokens, goes out in one wave of equal batches. It ends so soon that
smaller batches towards the end would not help."""

WAVE_LEAST = 16_000
"""Smallest work of a batch in such a wave, in tokens, so that a few thousand texts do not make a
hundred requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The cost of each input, one entry per row.

    Attributes:
        tokens: tokens by the stricter count, for the limit of a request, shape (rows,).
        charges: tokens that the limiter charges, shape (rows,).
        octets: UTF-8 bytes, shape (rows,).
        input_work: cost of an input besides its tokens, in tokens.
    """

    tokens: NDArray[np.int64]
    charges: NDArray[np.int64]
    octets: NDArray[np.int64]
    input_work: int = INPUT_WORK


def pack(
    weights: NDArray[np.int64] | Sequence[int],
    *,
    max_items: int,
    max_tokens: int | None,
    workers: int,
    spare_requests: float = math.inf,
) -> list[range]:
    """Cut inputs into batches that respect every limit.

    Args:
        weights: tokens of each input, shape (n,).
        max_items: largest number of inputs in one batch.
        max_tokens: largest number of tokens in one batch; an input above it gets its own batch.
        workers: how many batches can be in flight at once.
        spare_requests: how many requests the quota allows without a wait that matters. If spreading
            would need more, the inputs are cut into the fewest batches.

    Returns:
        The batches as consecutive ranges of positions, which cover 0 to n.
    """
    line = _Line(np.asarray(weights, dtype=np.int64), max_items=max_items, max_tokens=max_tokens)
    spread = line.spread(workers)
    if len(spread) > spare_requests:
        return line.equal(line.fewest())
    return spread


class _Line:
    """A sequence of inputs, which is cut by binary search in their running sums."""

    def __init__(
        self, tokens: NDArray[np.int64], *, max_items: int, max_tokens: int | None
    ) -> None:
        self._tokens = np.concatenate(([0], np.cumsum(tokens)))
        self._work = np.concatenate(([0], np.cumsum(tokens + INPUT_WORK)))
        self._max_items = max_items
        self._max_tokens = max_tokens

    def spread(self, workers: int) -> list[range]:
        """Cut so that the last batch ends early: in guided sizes, or equally for little work."""
        total = int(self._work[-1])
        if workers == 1:  # nothing to share, so each further request only costs time
            return self.equal(self.fewest())
        # Above twice that size, batches take so long that a late one would matter.
        if total <= min(WAVE_MOST, 2 * workers * WAVE_LEAST):
            wave = min(workers, -(-total // WAVE_LEAST))
            return self.equal(max(wave, self.fewest()))
        return self._cut(lambda left: max(GUIDED_LEAST, -(-left // workers)))

    def fewest(self) -> int:
        """Return the smallest number of batches that the limits allow."""
        return len(self._cut(lambda left: left))

    def equal(self, batches: int) -> list[range]:
        """Cut into at most this many batches, with the largest one as small as possible."""
        low, high = 1, max(1, int(self._work[-1]))
        while low < high:  # find the smallest target that is enough
            target = (low + high) // 2
            if len(self._cut(lambda _: target, at_most=batches)) <= batches:  # noqa: B023
                high = target
            else:
                low = target + 1
        return self._cut(lambda _: high)

    def _cut(self, target: Callable[[int], int], *, at_most: int | None = None) -> list[range]:
        """Cut from the left; `target` returns the work of a batch, given the remaining work.

        Stop early after more than `at_most` batches.
        """
        end = len(self._work) - 1
        batches: list[range] = []
        begin = 0
        while begin < end and (at_most is None or len(batches) <= at_most):
            done = self._work[begin]
            stop = _last_within(self._work, done + target(int(self._work[-1] - done)))
            stop = min(stop, begin + self._max_items)
            if self._max_tokens is not None:
                stop = min(stop, _last_within(self._tokens, self._tokens[begin] + self._max_tokens))
            stop = max(stop, begin + 1)
            batches.append(range(begin, stop))
            begin = stop
        return batches


def _last_within(sums: NDArray[np.int64], bound: int) -> int:
    """Return the last position whose running sum does not exceed the bound."""
    return int(sums.searchsorted(bound, side="right")) - 1
