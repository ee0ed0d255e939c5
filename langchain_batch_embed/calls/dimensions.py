"""Whether vectors that go together agree on their dimensions and their model.

Vectors with other dimensions, or of another model, must never get mixed with the rest.
"""

import threading
from typing import Generic, Literal, TypeVar

from langchain_batch_embed.errors import DimensionsError, ModelError, ResponseError

__all__ = ["Dimensions", "same_model"]

_TOLERATED = 2
"""Answers in a row that may disagree with those before them. They may be spoilt, and are asked for
again. The next one proves that the model has changed."""

_MOST_TOLERATED = 15
"""The same where at least this many answers agreed before: in a long call that is chance."""

_T = TypeVar("_T")


class _Agreement(Generic[_T]):
    """A value on which the answers agree, and how many of them agree and disagree.

    Args:
        known: the value of earlier vectors; `None`: the first answer sets it.

    Attributes:
        value: the value; `None` while it is not known.
        is_confirmed: whether vectors with this value have come.
    """

    def __init__(self, known: _T | None) -> None:
        self.value = known
        self.is_confirmed = False
        self._agreed = 0  # answers
        self._disagreed = 0  # answers since the last one that agreed
        self._is_contradicted = False  # by kept vectors, before any answer agreed

    @property
    def in_doubt(self) -> bool:
        """Whether the last vectors disagreed."""
        return self._disagreed > 0

    @property
    def is_refuted(self) -> bool:
        """Whether more answers disagree with the value than agree."""
        return self._is_contradicted or self._disagreed > max(self._agreed, _TOLERATED)

    def count(self, value: _T, *, fits: bool, answer: bool) -> Literal["fits", "odd", "changed"]:
        """Count vectors: they agree, they may be spoilt, or the value has changed for certain."""
        if fits:
            self.value = value if self.value is None else self.value
            self.is_confirmed = True
            if answer:
                self._agreed += 1
                self._disagreed = 0
            return "fits"
        self._disagreed += 1
        self._is_contradicted |= not answer and not self._agreed
        tolerated = max(_TOLERATED, min(self._agreed, _MOST_TOLERATED))
        return "odd" if answer and self._disagreed <= tolerated else "changed"


class Dimensions:
    """The dimensions and the model of the vectors of one call, or of one prefetch.

    Many threads may use it. Models that answers name are compared with one another, and not with
    the model in the request. One model has different names at different deployments, and
    `openai/text-embedding-3-small` is `text-embedding-3-small`.

    Args:
        known: the dimensions of earlier vectors; `None`: the first vectors set them.
    """

    def __init__(self, known: int | None = None) -> None:
        self._lock = threading.Lock()  # guards both
        self._number = _Agreement(known)
        self._model = _Agreement[str](None)

    @property
    def number(self) -> int | None:
        """How many dimensions the vectors have; `None` while it is not known."""
        return self._number.value

    @property
    def model(self) -> str | None:
        """The model; `None` while no answer has named it."""
        return self._model.value

    @property
    def is_confirmed(self) -> bool:
        """Whether vectors with these dimensions have come."""
        return self._number.is_confirmed

    @property
    def in_doubt(self) -> bool:
        """Whether the last vectors had other dimensions, so that nobody knows which are right."""
        return self._number.in_doubt

    def model_after(self, earlier: str | None) -> str | None:
        """Return the model that is known after an earlier one; `None` while it is in doubt."""
        return None if self._model.in_doubt else self._model.value or earlier

    @property
    def is_refuted(self) -> bool:
        """Whether more answers disagree with the dimensions, or with the model, than agree."""
        return self._number.is_refuted or self._model.is_refuted

    def expect_model(self, model: str | None) -> None:
        """Hold the vectors to the model of earlier ones, unless a model is known already."""
        with self._lock:
            if self._model.value is None:
                self._model.value = model

    def check(self, number: int, *, answer: bool, model: str | None = None) -> None:
        """Check vectors before anything is done with them.

        Args:
            number: how many dimensions they have.
            answer: they come from the server and may be spoilt; else from a journal or a prefetch.
            model: the model that the answer names; `None`: it names none.

        Raises:
            ResponseError: an answer disagrees with earlier vectors, and may be spoilt.
            DimensionsError: several answers in a row, or kept vectors, have other dimensions.
            ModelError: several answers in a row, or kept vectors, are of another model.
        """
        with self._lock:
            self._check_number(number, answer=answer)
            if model is not None:
                self._check_model(model, answer=answer)

    def _check_number(self, number: int, *, answer: bool) -> None:
        fits = self._number.value in (None, number)
        verdict = self._number.count(number, fits=fits, answer=answer)
        expected = self._number.value or 0
        if verdict == "odd":
            raise ResponseError(
                f"vectors of {number} numbers came, and {expected} before: either is spoilt, "
                "or the model has changed"
            )
        if verdict == "changed":
            raise DimensionsError(expected=expected, received=number, asked=False)

    def _check_model(self, model: str, *, answer: bool) -> None:
        expected = self._model.value or model
        fits = same_model(model, expected)
        verdict = self._model.count(model, fits=fits, answer=answer)
        if verdict == "odd":
            raise ResponseError("the answer names another model than those before")
        if verdict == "changed":
            raise ModelError(expected=expected, received=model)


def same_model(one: str, other: str) -> bool:
    """Tell whether two names differ only in capitals or in a provider's name before a slash."""
    one, other = one.casefold(), other.casefold()
    return one == other or one.endswith(f"/{other}") or other.endswith(f"/{one}")
