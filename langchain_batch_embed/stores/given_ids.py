"""Decides which ids to pass to a store, and finds out whether it keeps them.

Pure bookkeeping: no clock, thread or I/O.
"""

import logging
from collections.abc import Sequence

from langchain_batch_embed.stores.documents import Item

__all__ = ["GivenIds"]

logger = logging.getLogger(__name__)


class GivenIds:
    """The ids that are passed to a store.

    Args:
        takes: whether the store replaces rows by id, judging by its class.
        passes: whether the user gave ids, which are always passed.

    Attributes:
        are_kept: whether the store keeps the ids that it is given.
    """

    def __init__(self, *, takes: bool, passes: bool) -> None:
        self.are_kept = takes
        self._takes_made = takes
        self._passes = passes

    def of(self, items: Sequence[Item], *, made: bool = True) -> list[str | None] | None:
        """Return the ids to pass in a call; with `None` the store sees only the documents' own ids.

        Args:
            items: the documents.
            made: whether to pass ids that this package generated, if the store takes any.
        """
        passes = self._passes or (self._takes_made and made)
        return [item.id for item in items] if passes else None

    def last_of_each(self, items: Sequence[Item]) -> tuple[Sequence[Item], list[Item]]:
        """Separate the documents whose ids occur again later from the others.

        Returns:
            The documents to write, and those that a later one replaces.
        """
        if not self.are_kept:
            return items, []
        last = {item.id: item.index for item in items if item.id is not None}
        kept = [item for item in items if item.id is None or last[item.id] == item.index]
        if len(kept) == len(items):
            return items, []
        indices = {item.index for item in kept}
        return kept, [item for item in items if item.index not in indices]

    def may_be_refused(self, item: Item) -> bool:
        """Return whether the store may have refused a document because of its generated id."""
        return item.made and self._takes_made and not self._passes

    def are_refused(self) -> None:
        """Record that the store refuses generated ids, because its table uses numbers as ids."""
        self.are_kept = self._takes_made = False
        logger.warning(
            "the store refuses ids that are UUIDs, so rows are added without ids, and a second "
            "ingest adds them again"
        )

    def names(self, items: Sequence[Item], returned: Sequence[str] | None) -> list[str]:
        """Return the ids of the rows that a call has stored, if they are known.

        Args:
            items: the documents of the call.
            returned: the ids that the store returned; `None` if it returned nothing.
        """
        if returned is not None:
            return list(returned[: len(items)])
        return [item.id for item in items if item.id is not None] if self._takes_made else []

    def compare(self, items: Sequence[Item], returned: Sequence[str]) -> None:
        """Find out from the ids that the store returned whether it keeps the ids it receives."""
        given = {_plain(item.id) for item in items if item.id is not None}
        names = [_plain(name) for name in returned]
        if not self.are_kept or len(given) < len(items) or not names:
            return
        # Redis puts the name of its index in front of each id.
        if given.isdisjoint(names) and not names[0].endswith(tuple(given)):
            self.are_kept = self._takes_made = False
            logger.warning(
                "the store returned other ids than it was given, so it does not keep them, and "
                "a second ingest adds the rows again"
            )

    def missing(self, items: Sequence[Item], returned: Sequence[str]) -> list[Item] | None:
        """Return the documents whose ids the store did not return; `None` if that is not known."""
        if not self.are_kept or any(item.id is None for item in items):
            return None
        kept = {_plain(name) for name in returned}
        return [item for item in items if _plain(item.id) not in kept]


def _plain(name: object) -> str:
    return str(name).replace("-", "").lower()
