"""Checks that vectors that belong together agree on their dimensions and their model.

Vectors with other dimensions, or from another model, must never be mixed with the rest.
"""

import threading
from typing import Generic, Literal, TypeVar

from langchain_batch_embed.errors import DimensionsError, ModelError, ResponseError

__all__ = ["Dimensions", "same_model"]

_TOLERATED = 2
"""This many answers in a row may disagree with the earlier ones. They may be corrupt, so they are
requested again. One more in a row proves that the model has changed."""

_MOST_TOLERATED = 15
"""Upper bound of the tolerance in a long call. As many answers in a row may disagree as agreed
before, up to this number, because some corrupt answers are to be expected among many."""

_T = TypeVar("_T")


class _Agreement(Generic[_T]):
    """A value on which all answers should agree, with counts of those that do and do not.

    Args:
        known: the value of earlier vectors; if `None`, the first answer sets it.

    Attributes:
        value: the value; `None` while it is unknown.
        is_confirmed: whether vectors with this value have arrived.
    """

    def __init__(self, known: _T | None) -> None:
        self.value = known
        self.is_confirmed = False
        self._agreed = 0  # answers
        self._disagreed = 0  # answers since the last one that agreed
        self._is_contradicted = False  # by kept vectors, before any answer agreed

    @property
    def in_doubt(self) -> bool:
        """Whether the latest vectors disagreed with the value."""
        return self._disagreed > 0

    @property
    def is_refuted(self) -> bool:
        """Whether more answers disagree with the value than agree."""
        return self._is_contradicted or self._disagreed > max(self._agreed, _TOLERATED)

    def count(self, value: _T, *, fits: bool, answer: bool) -> Literal["fits", "odd", "changed"]:
        """Count some vectors and return the verdict on them.

        Args:
            value: their value.
            fits: they agree with the known value.
            answer: they come from the server; otherwise from a journal or a prefetch.

        Returns:
            `"fits"` if they agree, `"odd"` if they may be corrupt, `"changed"` if the value has
            certainly changed.
        """
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

    Safe for use by many threads. The models that answers name are compared with one another, not
    with the model in the request, because one model has different names at different deployments.
    `openai/text-embedding-3-small` counts as `text-embedding-3-small`.

    Args:
        known: the dimensions of earlier vectors; if `None`, the first vectors set them.
    """

    def __init__(self, known: int | None = None) -> None:
        self._lock = threading.Lock()  # guards both agreements
        self._number = _Agreement(known)
        self._model = _Agreement[str](None)

    @property
    def number(self) -> int | None:
        """The number of dimensions of the vectors; `None` while it is unknown."""
        return self._number.value

    @property
    def model(self) -> str | None:
        """The model that answers name; `None` while no answer has named one."""
        return self._model.value

    @property
    def is_confirmed(self) -> bool:
        """Whether vectors with these dimensions have arrived."""
        return self._number.is_confirmed

    @property
    def in_doubt(self) -> bool:
        """Whether the latest vectors had other dimensions, so it is unclear which are right."""
        return self._number.in_doubt

    def model_after(self, earlier: str | None) -> str | None:
        """Return the model to expect from now on.

        Args:
            earlier: the model expected so far; returned if no answer has named one.

        Returns:
            The model; `None` while the latest answers disagree about it.
        """
        return None if self._model.in_doubt else self._model.value or earlier

    @property
    def is_refuted(self) -> bool:
        """Whether more answers disagree with the dimensions, or with the model, than agree."""
        return self._number.is_refuted or self._model.is_refuted

    def expect_model(self, model: str | None) -> None:
        """Expect the model of earlier vectors, unless a model is known already."""
        with self._lock:
            if self._model.value is None:
                self._model.value = model

    def check(self, number: int, *, answer: bool, model: str | None = None) -> None:
        """Check vectors before they are used.

        Args:
            number: their number of dimensions.
            answer: they come from the server and may be corrupt; otherwise they come from a journal
                or a prefetch.
            model: the model that the answer names; `None` if it names none.

        Raises:
            ResponseError: an answer disagrees with earlier vectors, and may be corrupt.
            DimensionsError: several answers in a row, or kept vectors, have other dimensions.
            ModelError: several answers in a row, or kept vectors, are from another model.
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
                f"the server sent vectors with {number} dimensions, but earlier ones have "
                f"{expected}: one of the answers is corrupt, or the model has changed"
            )
        if verdict == "changed":
            raise DimensionsError(expected=expected, received=number, asked=False)

    def _check_model(self, model: str, *, answer: bool) -> None:
        expected = self._model.value or model
        fits = same_model(model, expected)
        verdict = self._model.count(model, fits=fits, answer=answer)
        if verdict == "odd":
            raise ResponseError("the answer names another model than earlier answers do")
        if verdict == "changed":
            raise ModelError(expected=expected, received=model)


def same_model(one: str, other: str) -> bool:
    """Return whether two model names are equal except for case or a provider prefix and slash."""
    one, other = one.casefold(), other.casefold()
    return one == other or one.endswith(f"/{other}") or other.endswith(f"/{one}")
