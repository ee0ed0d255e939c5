"""Splits the documents of one batch into parts that fit into one call to the store.

Pure bookkeeping: no clock, thread or I/O.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from langchain_batch_embed.stores.documents import Item
from langchain_batch_embed.stores.troubles import Trouble
from langchain_batch_embed.stores.write_size import WriteSize

__all__ = ["Halved", "Part", "Parts"]

_OF_SIZE = frozenset({Trouble.TIMED_OUT, Trouble.TOO_LARGE})
"""After these troubles a smaller call helps."""


@dataclass(slots=True)
class Halved:
    """A failed call that is written again in parts.

    Attributes:
        size: number of documents in the call.
        whole: the halved call that this one was a part of, or `None`.
        counted: whether the size of calls is reduced already, because the error was about it.
        open: parts that are not settled yet.
        lost: whether one of its documents is lost; if none is, the call was too large.
    """

    size: int
    whole: "Halved | None"
    counted: bool = False
    open: int = 2
    lost: bool = False


@dataclass(slots=True)
class Part:
    """The documents of one call.

    Attributes:
        items: the documents.
        tries: failed calls with exactly these documents.
        trouble: why the last call that held these documents failed; `None` if none has.
        whole: the halved call that this is a part of, or `None`.
    """

    items: Sequence[Item]
    tries: int = 0
    trouble: Trouble | None = None
    whole: Halved | None = None


class Parts:
    """The parts of one batch that are still to be written, in order.

    Args:
        size: how many documents the store takes in one call.
    """

    def __init__(self, size: WriteSize) -> None:
        self._size = size
        self._left: deque[Part] = deque()

    def begin(self, items: Sequence[Item]) -> None:
        """Start with the documents of a new batch."""
        self._left = deque([Part(items)])

    def __iter__(self) -> Iterator[Part]:
        return iter(self._left)

    def next(self) -> Part | None:
        """Return the next part, small enough for one call, or `None` if none is left."""
        while self._left:
            part = self._left.popleft()
            if len(part.items) <= self._size.limit:
                return part
            self._cut(part, self._size.limit)
        return None

    def put_back(self, part: Part) -> None:
        """Put a part back at the front, to be written once more."""
        self._left.appendleft(part)

    def halve(self, part: Part) -> None:
        """Split a part into two halves, and put them at the front.

        If the error was about the size of the call, the size of calls is reduced.
        """
        middle = (len(part.items) + 1) // 2
        is_about_size = part.trouble in _OF_SIZE
        if is_about_size:
            self._size.refused(len(part.items))
        halved = Halved(len(part.items), part.whole, counted=is_about_size)
        for items in (part.items[middle:], part.items[:middle]):
            self._left.appendleft(Part(items, trouble=part.trouble, whole=halved))

    def close(self, part: Part, *, lost: bool) -> None:
        """Record that a part is settled.

        When all parts of a halved call are settled and none of its documents is lost, the call was
        too large, so the size of calls is reduced, once for each call.

        Args:
            part: the part.
            lost: whether one of its documents is lost.
        """
        halved = part.whole
        while halved is not None:
            halved.open -= 1
            halved.lost |= lost
            if halved.open:
                return
            if not halved.lost and not halved.counted:
                self._size.refused(halved.size)
            lost, halved = halved.lost, halved.whole

    def _cut(self, part: Part, size: int) -> None:
        starts = range(0, len(part.items), size)
        if part.whole is not None:
            part.whole.open += len(starts) - 1
        self._left.extendleft(
            Part(part.items[start : start + size], trouble=part.trouble, whole=part.whole)
            for start in reversed(starts)
        )
