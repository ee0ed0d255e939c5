"""Makes a store's calls fail: before they write, half way through, or after they have written."""

import random
from collections.abc import Callable, Sequence
from typing import Any, Literal

from langchain_core.documents import Document

__all__ = ["Faults", "Where"]

Where = Literal["before", "half way", "after"]


class Faults:
    """Lets calls of a store's `add_documents` fail.

    Args:
        store: whose method is replaced on the object.
        draw: tells for each call where it fails; `None`: nowhere.
        error: makes the exception.

    Attributes:
        calls: how many documents each call had.
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
        """Let all later calls go through."""
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
    """Return a source of faults, for a share of all calls."""
    numbers = random.Random(seed)
    return lambda: numbers.choice(places) if numbers.random() < share else None
