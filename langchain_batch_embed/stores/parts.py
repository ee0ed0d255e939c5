"""The documents of one batch, in parts that a call of the store can take. Pure."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from langchain_batch_embed.stores.documents import Item
from langchain_batch_embed.stores.troubles import Trouble
from langchain_batch_embed.stores.write_size import WriteSize

__all__ = ["Halved", "Part", "Parts"]


@dataclass(slots=True)
class Halved:
    """A call that failed and is written in parts.

    Attributes:
        size: documents in it.
        whole: the call that this is a part of.
        open: parts that are not settled.
        lost: whether a document of it is lost; if none is, the call was too large.
    """

    size: int
    whole: "Halved | None"
    open: int = 2
    lost: bool = False


@dataclass(slots=True)
class Part:
    """Documents of one call.

    Attributes:
        items: the documents.
        tries: calls with just these documents that have failed.
        trouble: why the last call with these documents has failed; `None`: there was none.
        whole: the call that this is a part of.
    """

    items: Sequence[Item]
    tries: int = 0
    trouble: Trouble | None = None
    whole: Halved | None = None


class Parts:
    """What is left to write of one batch, in order.

    Args:
        size: how many documents the store takes in one call.
    """

    def __init__(self, size: WriteSize) -> None:
        self._size = size
        self._left: deque[Part] = deque()

    def begin(self, items: Sequence[Item]) -> None:
        """Begin with the documents of a batch."""
        self._left = deque([Part(items)])

    def __iter__(self) -> Iterator[Part]:
        return iter(self._left)

    def next(self) -> Part | None:
        """Return the next part that is small enough for a call; `None`: there is none."""
        while self._left:
            part = self._left.popleft()
            if len(part.items) <= self._size.limit:
                return part
            self._cut(part, self._size.limit)
        return None

    def put_back(self, part: Part) -> None:
        """Write a part once more, as the next one."""
        self._left.appendleft(part)

    def halve(self, part: Part) -> None:
        """Write a part in two calls, as the next ones."""
        middle = (len(part.items) + 1) // 2
        halved = Halved(len(part.items), part.whole)
        for items in (part.items[middle:], part.items[:middle]):
            self._left.appendleft(Part(items, trouble=part.trouble, whole=halved))

    def close(self, part: Part, *, lost: bool) -> None:
        """Note that a part is settled; a halved call that lost nothing was too large.

        Args:
            part: the part.
            lost: whether a document of it is lost.
        """
        halved = part.whole
        while halved is not None:
            halved.open -= 1
            halved.lost |= lost
            if halved.open:
                return
            if not halved.lost:
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
