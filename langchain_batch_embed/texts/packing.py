"""Cuts a sequence of inputs into batches: pure arithmetic on token counts.

Every batch is a run of neighbours, so the order is kept, and there are two shapes:

- **spread** (the usual one): guided sizes. Each batch takes a share of the work that is left
  for all workers together, so the first batches are large and the last ones small, and a slow
  answer near the end holds up less. Little work goes out in one wave of equal batches instead.
- **fewest**: as few requests as the limits allow, of equal work, for when requests are what
  the quota is short of.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["INPUT_WORK", "WAVE_LEAST", "Sizes", "pack"]

INPUT_WORK = 20
"""What an input costs beside its tokens, in tokens: an 8 KB vector has to be sent and read."""

GUIDED_LEAST = 14_000
"""Work below which a further cut does not pay, in tokens.

At about 7 ms for a thousand tokens, in public recordings of OpenAI's endpoint, this takes hardly
more than the fixed 80 ms of a request. Besides, all other requests wait while this process sends
one or reads its answer.
"""

WAVE_MOST = 1_000_000
"""Up to so much work, in tokens, goes out in one wave of equal batches: there is no end to speak of
for which smaller ones should be kept."""

WAVE_LEAST = 16_000
"""What each batch of such a wave holds at least, in tokens, so that a few thousand texts do not
make a hundred requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What each input costs, an entry a row.

    Attributes:
        tokens: by the stricter count, for the limit of a request, shape (rows,).
        charges: tokens that the limiter charges, shape (rows,).
        octets: UTF-8 bytes, shape (rows,).
        input_work: what an input costs beside its tokens, in tokens.
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
    """Cut inputs into batches that keep every limit.

    Args:
        weights: tokens of each input, shape (n,).
        max_items: inputs in one batch, at most.
        max_tokens: tokens in one batch, at most, except that an input above it stands alone.
        workers: how many batches can be in flight at once.
        spare_requests: how many requests the quota gives without a wait that matters; where there
            would be more, they are the fewest.

    Returns:
        The batches as ranges of positions that follow one another and cover 0 to n.
    """
    line = _Line(np.asarray(weights, dtype=np.int64), max_items=max_items, max_tokens=max_tokens)
    spread = line.spread(workers)
    if len(spread) > spare_requests:
        return line.equal(line.fewest())
    return spread


class _Line:
    """The inputs in a line, cut by bisection in their running sums."""

    def __init__(
        self, tokens: NDArray[np.int64], *, max_items: int, max_tokens: int | None
    ) -> None:
        self._tokens = np.concatenate(([0], np.cumsum(tokens)))
        self._work = np.concatenate(([0], np.cumsum(tokens + INPUT_WORK)))
        self._max_items = max_items
        self._max_tokens = max_tokens

    def spread(self, workers: int) -> list[range]:
        """Cut for the finish line: guided sizes, or one wave of equal ones for little work."""
        total = int(self._work[-1])
        if workers == 1:  # nobody to share with: each further request only costs time
            return self.equal(self.fewest())
        # Beyond twice that size batches are so long that a late one would be felt.
        if total <= min(WAVE_MOST, 2 * workers * WAVE_LEAST):
            wave = min(workers, -(-total // WAVE_LEAST))
            return self.equal(max(wave, self.fewest()))
        return self._cut(lambda left: max(GUIDED_LEAST, -(-left // workers)))

    def fewest(self) -> int:
        """Return the smallest number of batches that the limits allow."""
        return len(self._cut(lambda left: left))

    def equal(self, batches: int) -> list[range]:
        """Cut into at most this many batches, the largest one as small as possible."""
        low, high = 1, max(1, int(self._work[-1]))
        while low < high:  # the smallest target that is enough
            target = (low + high) // 2
            if len(self._cut(lambda _: target, at_most=batches)) <= batches:  # noqa: B023
                high = target
            else:
                low = target + 1
        return self._cut(lambda _: high)

    def _cut(self, target: Callable[[int], int], *, at_most: int | None = None) -> list[range]:
        """Cut from the left; `target` says how much work a batch gets, given what is left.

        Stops early when it has made more than `at_most` batches.
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
    """Return the last position whose running sum is not over the bound."""
    return int(sums.searchsorted(bound, side="right")) - 1
