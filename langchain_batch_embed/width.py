"""How wide vectors are, and how certain that is: vectors of two widths must never get mixed."""

import threading

from langchain_batch_embed.errors import DimensionsError, ResponseError

__all__ = ["Width"]

_TOLERATED = 2
"""Answers in a row that may be of another width, and are asked for again: they may be spoilt. With
the next one it is certain that the model has changed."""

_MOST_TOLERATED = 15
"""So many where as many were of the right width before: in a long call that is chance."""


class Width:
    """The width of vectors that go together, of a call or of a prefetch; for many threads.

    Args:
        known: the width of earlier vectors; `None`: the first that come tell it.

    Attributes:
        numbers: the width; `None` as long as it is not known.
        is_confirmed: whether vectors of that width have come.
    """

    def __init__(self, known: int | None = None) -> None:
        self.numbers = known
        self.is_confirmed = False
        self._lock = threading.Lock()  # guards all of it
        self._fits = 0  # answers of the right width
        self._misfits = 0  # of another width, since the last answer of the right one
        self._contradicted = False  # by vectors that were kept, before any answer spoke for it

    @property
    def in_doubt(self) -> bool:
        """Whether the last that came was of another width: nobody knows which is right."""
        return self._misfits > 0

    @property
    def is_refuted(self) -> bool:
        """Whether more speaks against the width than for it."""
        return self._contradicted or self._misfits > max(self._fits, _TOLERATED)

    def check(self, width: int, *, answer: bool) -> None:
        """Take note of the width of vectors that came.

        Args:
            width: theirs.
            answer: they come from the server, and so may be spoilt; not from what is kept.

        Raises:
            ResponseError: an answer is not as wide as what came before.
            DimensionsError: several in a row were not, or it is not an answer.
        """
        with self._lock:
            if self.numbers in (None, width):
                self.numbers = width
                self.is_confirmed = True
                if answer:
                    self._fits += 1
                    self._misfits = 0
                return
            expected = self.numbers or 0
            self._misfits += 1
            self._contradicted |= not answer and not self._fits
            if answer and self._misfits <= max(_TOLERATED, min(self._fits, _MOST_TOLERATED)):
                raise ResponseError(
                    f"vectors of {width} numbers came, and {expected} before: either is spoilt, "
                    "or the model has changed"
                )
            raise DimensionsError(expected=expected, received=width, asked=False)
