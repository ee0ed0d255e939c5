"""Makes a store's calls fail before they write, halfway through, or after they have written."""

import random
from collections.abc import Callable, Sequence
from typing import Any, Literal

from langchain_core.documents import Document

__all__ = ["Faults", "Where"]

Where = Literal["before", "half way", "after"]


class Faults:
    """Makes calls of a store's `add_documents` fail.

    Args:
        store: the object whose method is replaced.
        draw: returns for each call where it fails, or `None` if it succeeds.
        error: makes the exception.

    Attributes:
        calls: number of documents in each call.
        raised: where calls have failed.
    """

    def __init__(
        self,
        store: Any,
        draw: Callable[[], Where | None],
        error: Callable[[], Exception] = lambda: RuntimeError("an error that tells nothing"),
    ) -> None:
        self.calls: list[int] = []
        self.raised: list[Where] = []
        self._add = store.add_documents
        self._draw = draw
        self._error = error
        store.add_documents = self._add_documents

    def end(self) -> None:
        """Let all later calls succeed."""
        self._draw = lambda: None

    def _add_documents(self, documents: list[Document], **options: Any) -> Any:
        self.calls.append(len(documents))
        where = self._draw()
        if where is None:
            return self._add(documents, **options)
        self.raised.append(where)
        count = {"before": 0, "half way": len(documents) // 2, "after": len(documents)}[where]
        if count:
            if options.get("ids") is not None:
                options["ids"] = options["ids"][:count]
            self._add(documents[:count], **options)
        raise self._error()


def at_random(seed: int, places: Sequence[Where], share: float) -> Callable[[], Where | None]:
    """Return a function that decides at random where a call fails, for a share of all calls."""
    numbers = random.Random(seed)
    return lambda: numbers.choice(places) if numbers.random() < share else None
