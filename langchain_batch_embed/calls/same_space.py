"""Checks that several deployments make the same vectors.

Vectors from different models must never be mixed. So each deployment embeds a probe text before it
is sent any other text, and again after it was left out or unavailable. Its vector must match the
other deployments' vector of the probe. A journal keeps the vector, so that a later process with
other deployments is checked against it too.
"""

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.calls.dimensions import same_model
from langchain_batch_embed.errors import JournalError, SpaceError
from langchain_batch_embed.journal import Journal, Space, content_keys
from langchain_batch_embed.providers import Answer
from langchain_batch_embed.sending.flight import PROBE
from langchain_batch_embed.sending.work import Send

__all__ = ["TOLERANCE", "SameSpace"]

TOLERANCE = 1e-3
"""How far the cosine of one text's vectors from two deployments of one model may be below 1.
Rounding on different hardware accounts for about 1e-5. Two models differ by 0.3 or more."""


class SameSpace:
    """Compares the deployments' vectors of the probe text.

    Safe for use by many threads.

    Args:
        journal: keeps the vector, if the journal is persistent.
        spaces: the space of each deployment by itself; all deployments use the first one's.
        servers: the names of the deployments in messages.
        is_model_told: the user passed `model=`, so all deployments serve one model, whatever name
            the answers give.
    """

    def __init__(
        self,
        journal: Journal,
        spaces: Sequence[Space],
        servers: Sequence[str],
        *,
        is_model_told: bool,
    ) -> None:
        self._journal = journal
        self._spaces = spaces
        self._servers = servers
        self._is_model_told = is_model_told
        self._lock = threading.Lock()  # guards everything below
        self._vector: NDArray[np.float32] | None = None
        self._from = ""
        self._model: str | None = None
        self._others: list[Space] | None = None
        self._names: dict[int, str] = {}  # other names of the model, by deployment

    def check(self, number: int, answer: Answer) -> None:
        """Compare a deployment's vector of the probe text with the vector of the others.

        Args:
            number: the number of the deployment.
            answer: its answer to the probe text alone.

        Raises:
            SpaceError: the vector differs, or the answer names another model.
        """
        vector, model, server = answer.vectors[0], answer.model, self._servers[number]
        with self._lock:
            if self._vector is None:
                self._recall()
            if self._vector is None:
                self._vector, self._from = vector, server
                self._keep(0)
            elif self._vector.shape != vector.shape:
                numbers = f"vectors of {len(self._vector)} and {len(vector)} numbers"
                raise SpaceError(self._from, server, what=numbers)
            elif (cosine := _cosine(self._vector, vector)) < 1 - TOLERANCE:
                raise SpaceError(self._from, server, what=f"vectors with a cosine of {cosine:.3f}")
            self._compare_models(number, model)
            self._keep(number)

    def spaces(self) -> list[Space]:
        """Return the other deployments' spaces in which the journal may also have vectors.

        An object with the same deployments in another order writes under another of these spaces.
        A space counts if the journal has a matching vector of the probe text in it.
        """
        with self._lock:
            if self._others is None:
                own = self._kept(0) if self._journal.persistent else None
                self._others = [
                    space
                    for number, space in enumerate(self._spaces)
                    if space != self._spaces[0]
                    and own is not None
                    and (kept := self._kept(number)) is not None
                    and own.shape == kept.shape
                    and _cosine(own, kept) >= 1 - TOLERANCE
                ]
            return self._others

    def _compare_models(self, number: int, model: str | None) -> None:
        if model is None:
            return
        if self._model is None:
            self._model = model
        elif not same_model(self._model, model):
            if not self._is_model_told:
                what = "answers that name different models"
                raise SpaceError(self._from, self._servers[number], what=what)
            self._names[number] = model

    def renamed(self, number: int, send: Send) -> Send:
        """Return a `Send` whose answers name the model as the other deployments' answers do.

        Args:
            number: the number of the deployment.
            send: sends to the deployment.
        """
        if not self._is_model_told:
            return send

        def send_and_rename(texts: Sequence[str], *, timeout: float) -> Answer:
            answer = send(texts, timeout=timeout)
            name = self._names.get(number)
            if name is not None and answer.model is not None and same_model(answer.model, name):
                answer = replace(answer, model=self._model)
            return answer

        return send_and_rename

    def _recall(self) -> None:
        """Take the vector that earlier processes used for the comparison, if the journal has it."""
        if self._journal.persistent:
            self._vector, self._from = self._kept(0), "the journal"

    def _kept(self, number: int) -> NDArray[np.float32] | None:
        with contextlib.suppress(JournalError):  # reading the texts' vectors will raise it
            keys = content_keys([PROBE], self._spaces[number])
            found, vectors = self._journal.get(keys)
            return vectors[0] if len(found) else None
        return None

    def _keep(self, number: int) -> None:
        if self._journal.persistent and self._vector is not None:
            with contextlib.suppress(JournalError):
                space = self._spaces[number]
                keys = content_keys([PROBE], space)
                self._journal.put(keys, self._vector[np.newaxis], space=space)


def _cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the cosine of two vectors, or 0 if one of them is the zero vector."""
    lengths = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
    return float(one @ other) / lengths if lengths else 0.0
