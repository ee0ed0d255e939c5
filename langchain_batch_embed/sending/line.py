"""The unsent inputs of a call, and the positions at which to cut them into batches."""

import math
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.sending.work import Rows
from langchain_batch_embed.texts.packing import Sizes, pack

__all__ = ["Line"]


class Line:
    """Inputs in the order of sending, cut where the `Cutter` decides.

    Args:
        rows: the rows of the inputs, shape (n,).
        sizes: the sizes of all inputs, an entry a row.

    Attributes:
        count: inputs that are left.
        work: work of all inputs, in tokens, including those already cut.
    """

    def __init__(self, rows: Rows, sizes: Sizes) -> None:
        self.count = len(rows)
        self._sizes = sizes
        self._rows = rows
        self._begin = 0  # everything before it has been cut
        self._stops: deque[int] = deque()  # where to cut the rest
        self._sums = self._sum()

    @property
    def work_left(self) -> int:
        """Work that is left, in tokens."""
        return int(self._sums["work"][-1] - self._sums["work"][self._begin])

    @property
    def charge(self) -> int:
        """Tokens that the limiter charges for all inputs, including those already cut."""
        return int(self._sums["charges"][-1])

    @property
    def planned(self) -> tuple[int, int]:
        """The planned number of batches for the rest, and what the limiter charges for them."""
        charges = self._sums["charges"]
        return len(self._stops), int(charges[-1] - charges[self._begin])

    def plan(
        self,
        *,
        items: int,
        tokens: float,
        workers: int,
        spare_requests: float,
        smallest_first: bool,
    ) -> None:
        """Plan where to cut the rest.

        Args:
            items: most inputs in one batch.
            tokens: most tokens in one batch.
            workers: how many requests share the work.
            spare_requests: how many requests the quota has to spare.
            smallest_first: whether to send the smallest batches first.
        """
        packed = pack(
            np.diff(self._sums["tokens"][self._begin :]),
            max_items=items,
            max_tokens=None if tokens == math.inf else max(1, int(tokens)),
            workers=workers,
            spare_requests=spare_requests,
        )
        counts = [len(batch) for batch in packed]
        if smallest_first:  # they are at the end
            counts.reverse()
        self._stops = deque((self._begin + np.cumsum(counts)).tolist())

    def next(
        self, *, items: float, tokens: float, octets: float, work: float, is_planned: bool = True
    ) -> Rows:
        """Return the rows of the next batch within these limits, but at least one row.

        Args:
            items: most inputs.
            tokens: most tokens.
            octets: most UTF-8 bytes.
            work: most work, in tokens.
            is_planned: whether to cut where planned, if that is within the limits.
        """
        begin = self._begin
        stop = min(
            self._stops[0] if is_planned else len(self._rows),
            int(min(begin + items, len(self._rows))),
            self._within("tokens", tokens),
            self._within("octets", octets),
        )
        whole = self._sums["work"][stop] - self._sums["work"][begin]
        if whole > work:  # in equal parts, as a small rest would need a request of its own
            stop = min(stop, self._within("work", whole / math.ceil(whole / max(1.0, work))))
        return self._rows[begin : max(stop, begin + 1)]

    def take(self, count: int) -> None:
        """Take this many inputs from the front."""
        self._begin += count
        self.count -= count
        while self._stops and self._stops[0] <= self._begin:
            self._stops.popleft()

    def put_back(self, rows: Sequence[Rows]) -> None:
        """Put inputs back to the front, in order, to be cut again."""
        self._rows = np.concatenate((np.sort(np.concatenate(rows)), self._rows[self._begin :]))
        self._begin = 0
        self.count = len(self._rows)
        self._sums = self._sum()

    def clear(self) -> Rows:
        """Return what is left, and leave nothing."""
        rest = self._rows[self._begin :]
        self._begin, self.count = len(self._rows), 0
        return rest

    def _sum(self) -> dict[str, NDArray[np.int64]]:
        """Return the running sums of the sizes."""
        sizes, rows = self._sizes, self._rows
        sums = {
            name: np.concatenate(([0], np.cumsum(each[rows])))
            for name, each in (
                ("tokens", sizes.tokens),
                ("octets", sizes.octets),
                ("charges", sizes.charges),
            )
        }
        sums["work"] = sums["tokens"] + sizes.input_work * np.arange(len(rows) + 1)
        self.work = int(sums["work"][-1])
        return sums

    def _within(self, name: str, most: float) -> int:
        """Return where the next batch must end to hold no more than this."""
        sums = self._sums[name]
        if most >= sums[-1]:
            return len(sums) - 1
        return int(sums.searchsorted(sums[self._begin] + most, side="right")) - 1
