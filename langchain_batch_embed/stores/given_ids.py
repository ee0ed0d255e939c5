"""Which ids a store is given, and whether it keeps them. Pure."""

import logging
from collections.abc import Sequence

from langchain_batch_embed.stores.documents import Item

__all__ = ["GivenIds"]

logger = logging.getLogger(__name__)


class GivenIds:
    """The ids of documents, as far as the store takes them.

    Args:
        takes: whether the store replaces rows by id, as its signatures have it.
        passes: whether the user gave ids, which are passed in any case.

    Attributes:
        are_kept: whether the store keeps the ids that it is given.
    """

    def __init__(self, *, takes: bool, passes: bool) -> None:
        self.are_kept = takes
        self._takes_made = takes
        self._passes = passes

    def of(self, items: Sequence[Item], *, made: bool = True) -> list[str | None] | None:
        """Return the ids for a call; `None`: the documents' own ids, if they have any.

        Args:
            items: the documents.
            made: pass ids that were made here, if the store takes any.
        """
        passes = self._passes or (self._takes_made and made)
        return [item.id for item in items] if passes else None

    def last_of_each(self, items: Sequence[Item]) -> tuple[Sequence[Item], list[Item]]:
        """Part the documents whose ids come again later from the others.

        Returns:
            The documents that stay, and those that a later one replaces.
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
        """Tell whether the id that was made for a document may be why it is refused."""
        return item.made and self._takes_made and not self._passes

    def are_refused(self) -> None:
        """Note that the store takes no ids that are made here: those of its table are numbers."""
        self.are_kept = self._takes_made = False
        logger.warning(
            "the store refuses ids that are UUIDs, so rows are added without: "
            "a second ingest adds them again"
        )

    def names(self, items: Sequence[Item], returned: Sequence[str] | None) -> list[str]:
        """Return the names of rows that a call has stored.

        Args:
            items: the documents of the call.
            returned: what the store returned; `None`: nothing.
        """
        if returned is not None:
            return list(returned[: len(items)])
        return [item.id for item in items if item.id is not None] if self._takes_made else []

    def compare(self, items: Sequence[Item], returned: Sequence[str]) -> None:
        """Find out from the ids that a store returns whether it keeps those that it is given."""
        given = {_plain(item.id) for item in items if item.id is not None}
        names = [_plain(name) for name in returned]
        if not self.are_kept or len(given) < len(items) or not names:
            return
        # Redis puts the name of its index before them.
        if given.isdisjoint(names) and not names[0].endswith(tuple(given)):
            self.are_kept = self._takes_made = False
            logger.warning(
                "the store returns other ids than it was given: it does not keep them, so a second "
                "ingest adds its rows again"
            )

    def missing(self, items: Sequence[Item], returned: Sequence[str]) -> list[Item] | None:
        """Return the documents whose ids a store does not return; `None`: nothing tells which."""
        if not self.are_kept or any(item.id is None for item in items):
            return None
        kept = {_plain(name) for name in returned}
        return [item for item in items if _plain(item.id) not in kept]


def _plain(name: object) -> str:
    return str(name).replace("-", "").lower()
