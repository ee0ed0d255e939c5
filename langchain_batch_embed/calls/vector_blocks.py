"""The buffer in which a prefetch keeps the vectors that have arrived."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["VectorBlocks"]

_BLOCK = 1024
"""Vectors in one block of memory: 6 MB at 1,536 dimensions."""


class VectorBlocks:
    """Vectors by text, in memory blocks that stay allocated while vectors come and go.

    A separate array for each vector would fragment the memory: later, large arrays would not fit
    into the small holes.
    """

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._free: list[int] = []
        self._blocks: list[NDArray[np.float32]] = []

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, text: str) -> bool:
        return text in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def put(self, text: str, vector: NDArray[np.float32]) -> None:
        """Keep a copy of the vector of a text."""
        place = self._places.get(text)
        if place is None:
            if not self._free:
                first = len(self._blocks) * _BLOCK
                self._blocks.append(np.empty((_BLOCK, len(vector)), dtype=np.float32))
                self._free.extend(reversed(range(first, first + _BLOCK)))
            place = self._free.pop()
        self._row(place)[:] = vector
        self._places[text] = place  # last, so that every place listed holds its vector

    def drop(self, text: str) -> bool:
        """Drop the vector of a text; return whether there was one."""
        place = self._places.pop(text, None)
        if place is not None:
            self._free.append(place)
        return place is not None

    def stack(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return a copy of the vectors of some texts, (k, d)."""
        return np.array([self._row(self._places[text]) for text in texts], dtype=np.float32)

    def _row(self, place: int) -> NDArray[np.float32]:
        block, row = divmod(place, _BLOCK)
        vector: NDArray[np.float32] = self._blocks[block][row]
        return vector
