"""What vectors that go together have in common, their width and model, and how certain that is.

Vectors of two widths, or of two models, must never get mixed.
"""

import threading
from typing import Generic, Literal, TypeVar

from langchain_batch_embed.errors import DimensionsError, ModelError, ResponseError

__all__ = ["Width", "same_model"]

_TOLERATED = 2
"""Answers in a row that may be of another width or model, and are asked for again: they may be
spoilt. With the next one it is certain that the model has changed."""

_MOST_TOLERATED = 15
"""So many where as many were right before: in a long call that is chance."""

_T = TypeVar("_T")


class _Agreement(Generic[_T]):
    """What the answers so far agree on, and how many of them spoke for and against it.

    Args:
        known: what earlier vectors had; `None`: the first that come tell it.

    Attributes:
        value: what is agreed on; `None` as long as it is not known.
        is_confirmed: whether vectors that have it have come.
    """

    def __init__(self, known: _T | None) -> None:
        self.value = known
        self.is_confirmed = False
        self._fits = 0  # answers that agreed
        self._misfits = 0  # that did not, since the last one that did
        self._contradicted = False  # by vectors that were kept, before any answer spoke for it

    @property
    def in_doubt(self) -> bool:
        """Whether the last that came did not agree."""
        return self._misfits > 0

    @property
    def is_refuted(self) -> bool:
        """Whether more speaks against the value than for it."""
        return self._contradicted or self._misfits > max(self._fits, _TOLERATED)

    def take(self, value: _T, *, fits: bool, answer: bool) -> Literal["fits", "odd", "changed"]:
        """Count what came: it agrees, it may be spoilt, or it is certain to have changed."""
        if fits:
            self.value = value if self.value is None else self.value
            self.is_confirmed = True
            if answer:
                self._fits += 1
                self._misfits = 0
            return "fits"
        self._misfits += 1
        self._contradicted |= not answer and not self._fits
        tolerated = max(_TOLERATED, min(self._fits, _MOST_TOLERATED))
        return "odd" if answer and self._misfits <= tolerated else "changed"


class Width:
    """The width and the model of vectors that go together, in a call or in a prefetch.

    May be used by many threads. The models that answers name are compared with each other, and
    not with what was asked for: the same model has other names from one deployment to the next,
    and `openai/text-embedding-3-small` is `text-embedding-3-small`.

    Args:
        known: the width of earlier vectors; `None`: the first that come tell it.
    """

    def __init__(self, known: int | None = None) -> None:
        self._lock = threading.Lock()  # guards all of it
        self._numbers = _Agreement(known)
        self._model = _Agreement[str](None)

    @property
    def numbers(self) -> int | None:
        """The width; `None` as long as it is not known."""
        return self._numbers.value

    @property
    def model(self) -> str | None:
        """The model; `None` as long as no answer has named it."""
        return self._model.value

    @property
    def model_in_doubt(self) -> bool:
        """Whether the last that came was of another model: nobody knows which is right."""
        return self._model.in_doubt

    @property
    def is_confirmed(self) -> bool:
        """Whether vectors of that width have come."""
        return self._numbers.is_confirmed

    @property
    def in_doubt(self) -> bool:
        """Whether the last that came was of another width: nobody knows which is right."""
        return self._numbers.in_doubt

    @property
    def is_refuted(self) -> bool:
        """Whether more speaks against the width, or against the model, than for it."""
        return self._numbers.is_refuted or self._model.is_refuted

    def expect_model(self, model: str | None) -> None:
        """Hold what comes to the model of earlier vectors, unless one is known already."""
        with self._lock:
            if self._model.value is None:
                self._model.value = model

    def check(self, width: int, *, answer: bool, model: str | None = None) -> None:
        """Take note of the width and the model of vectors that came.

        Args:
            width: theirs.
            answer: they come from the server, and so may be spoilt; not from what is kept.
            model: the model that the answer names; `None`: it names none, which says nothing.

        Raises:
            ResponseError: an answer is not as wide, or not of the model, as what came before.
            DimensionsError: several in a row were not as wide, or it is not an answer.
            ModelError: several in a row were of another model, or it is not an answer.
        """
        with self._lock:
            self._check_width(width, answer=answer)
            if model is not None:
                self._check_model(model, answer=answer)

    def _check_width(self, width: int, *, answer: bool) -> None:
        fits = self._numbers.value in (None, width)
        verdict = self._numbers.take(width, fits=fits, answer=answer)
        expected = self._numbers.value or 0
        if verdict == "odd":
            raise ResponseError(
                f"vectors of {width} numbers came, and {expected} before: either is spoilt, "
                "or the model has changed"
            )
        if verdict == "changed":
            raise DimensionsError(expected=expected, received=width, asked=False)

    def _check_model(self, model: str, *, answer: bool) -> None:
        expected = self._model.value or model
        verdict = self._model.take(model, fits=same_model(model, expected), answer=answer)
        if verdict == "odd":
            raise ResponseError("the answer names another model than those before")
        if verdict == "changed":
            raise ModelError(expected=expected, received=model)


def same_model(one: str, other: str) -> bool:
    """Tell whether two names are one model's, but for capitals and a provider put before it."""
    one, other = one.casefold(), other.casefold()
    return one == other or one.endswith(f"/{other}") or other.endswith(f"/{one}")
