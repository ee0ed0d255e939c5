"""Writes documents into a store so that none is lost and none is stored twice.

A failed call is repeated only if that cannot duplicate a row: either the store replaces rows by id,
or its rows can be read back. The writer waits for a store that is away or busy. It halves a call
that is too large, or that holds a document which the store refuses.
"""

import logging
from collections.abc import Sequence
from typing import Any

from langchain_batch_embed.errors import NotKeptError
from langchain_batch_embed.stores.calls import StoreCalls
from langchain_batch_embed.stores.documents import Item
from langchain_batch_embed.stores.given_ids import GivenIds
from langchain_batch_embed.stores.parts import Part, Parts
from langchain_batch_embed.stores.patience import Patience
from langchain_batch_embed.stores.rows import Rows
from langchain_batch_embed.stores.streak import Stop
from langchain_batch_embed.stores.troubles import Trouble, read_trouble
from langchain_batch_embed.stores.write_size import WriteSize
from langchain_batch_embed.stores.written import Written

__all__ = ["Writer"]

logger = logging.getLogger(__name__)

TRIES = 4
"""Attempts to write a single document when the errors do not show what is wrong."""

PATIENT_TRIES = 8
"""The same for an unreliable store, where such an error has gone away by itself before."""

_UNSURE = frozenset({Trouble.PASSING, Trouble.TIMED_OUT, Trouble.UNKNOWN})
"""After these troubles, the store may hold none, some or all of the call's documents."""


class Writer:
    """Writes into one store.

    Args:
        calls: makes the calls to the store.
        rows: finds out which documents are stored.
        ids: the ids to pass to the store.
        batch_size: largest number of documents in one call.
        patience: how long to wait for a store that is away.

    Attributes:
        written: what happened to the documents.
        size: how many documents the store takes in one call.
        ids: the ids to pass to the store, and whether it keeps them.
    """

    def __init__(
        self, calls: StoreCalls, rows: Rows, ids: GivenIds, *, batch_size: int, patience: Patience
    ) -> None:
        self.written = Written()
        self.size = WriteSize(batch_size)
        self.ids = ids
        self._calls = calls
        self._rows = rows
        self._patience = patience
        self._is_unreliable = False
        self._parts = Parts(self.size)

    def write(self, items: Sequence[Item]) -> None:
        """Write documents.

        Raises:
            Stop: the store is away for too long or refuses everything, or it may have written some
                of the documents and cannot show which.
        """
        items, older = self.ids.last_of_each(items)
        failed_before = len(self.written.failures)
        self._write_all(items)
        if older:
            # If the last document with an id failed, write the one before it instead.
            failed = {failure.index for failure in self.written.failures[failed_before:]}
            winners = {item.id: item.index for item in items}
            again = [item for item in older if winners[item.id] in failed]
            self.written.replace([item for item in older if winners[item.id] not in failed])
            if again:
                self.write(again)

    def _write_all(self, items: Sequence[Item]) -> None:
        self._parts.begin(items)
        try:
            while (part := self._parts.next()) is not None:
                self._write_part(part)
        except Stop:
            # A failed call that was split may have written some of the remaining parts.
            for part in self._parts:
                if part.trouble in _UNSURE:
                    self._note_unsure(part.items)
            raise

    def _write_part(self, part: Part) -> None:
        try:
            self._rows.before(part.items, again=part.trouble is not None)
            returned = self._add(part.items)
        except Exception as error:  # noqa: BLE001  # a store can raise anything
            self._tidy(error)
            self._settle(part, error)
        except BaseException:
            self._rows.tidy()  # after Ctrl-C, the next call would commit half of this one
            raise
        else:
            self._note_stored(part, returned)

    def _add(self, items: Sequence[Item], *, made: bool = True) -> Any:
        return self._calls.add([item.document for item in items], self.ids.of(items, made=made))

    def _tidy(self, error: Exception) -> None:
        try:
            self._rows.tidy()
        except Exception as failure:
            raise Stop("the store could not undo a call that failed half way", error) from failure

    # Handling of a call that failed.

    def _settle(self, part: Part, error: Exception) -> None:
        trouble = read_trouble(error, _quotable(part.items))
        logger.info(
            "writing %d documents: %s (%s)", len(part.items), type(error).__name__, trouble.value
        )
        if self._rows.exact:
            part = self._without_stored(part, error)
            if not part.items:
                return
        elif not self.ids.are_kept and not self._wrote_nothing(part, trouble):
            self._note_unsure(part.items, look=False)
            raise Stop(
                "a call failed, and because this store takes no ids, it is not known whether "
                "the documents of the call are stored; writing them again could duplicate them",
                error,
            )
        part.trouble = trouble
        self.written.retries += 1
        is_one = len(part.items) == 1
        if trouble is Trouble.PASSING or (trouble is Trouble.TIMED_OUT and is_one):
            self._try_later(part, error)
        elif not is_one:
            self._halve(part, error, trouble)
        elif trouble is not Trouble.REFUSED or not self._try_without_id(part):
            self._try_once_more(part, error, trouble)

    def _wrote_nothing(self, part: Part, trouble: Trouble) -> bool:
        """Return whether a refusal means that no document of the call is stored."""
        if trouble is Trouble.FATAL:
            return not self.written.stored
        return trouble is Trouble.REFUSED and len(part.items) == 1

    def _try_later(self, part: Part, error: Exception) -> None:
        self._wait_or_stop(part, error)
        part.tries += 1
        self._parts.put_back(part)

    def _wait_or_stop(self, part: Part, error: Exception) -> None:
        away = self._patience.is_over(error)
        if away is not None:
            self._note_unsure(part.items)
            raise Stop(f"the store did not answer for {away:,.0f} s", error)
        self._patience.wait()

    def _halve(self, part: Part, error: Exception, trouble: Trouble) -> None:
        if trouble is Trouble.TIMED_OUT and part.whole is not None:
            # A smaller call has timed out too, so the store may be busy.
            self._wait_or_stop(part, error)
        self._parts.halve(part)

    def _try_without_id(self, part: Part) -> bool:
        """Write a document without its generated id; return whether that succeeded.

        The table may use numbers as ids. Try this only while nothing is stored, because a later
        refusal is not about ids.
        """
        (item,) = part.items
        if self.written.stored or not self.ids.may_be_refused(item):
            return False
        try:
            returned = self._add(part.items, made=False)
        except Exception as error:  # noqa: BLE001  # the error of the call with the id counts
            self._tidy(error)
            return False
        self.ids.are_refused()
        self._note_stored(part, returned)
        return True

    def _try_once_more(self, part: Part, error: Exception, trouble: Trouble) -> None:
        part.tries += 1
        if trouble is Trouble.UNKNOWN and part.tries < (
            PATIENT_TRIES if self._is_unreliable else TRIES
        ):
            if part.tries >= TRIES:
                self._patience.wait_after(part.tries - TRIES)
            self._parts.put_back(part)
            return
        part = self._without_stored(part, error)
        if not part.items:
            return
        self.written.streak.failed(fatal=trouble is Trouble.FATAL)
        self.written.lose(part.items[0], "writing", error)
        self._parts.close(part, lost=True)
        if self.written.streak.is_hopeless:
            raise Stop(
                "several documents in a row were refused, with none stored in between", error
            )

    def _without_stored(self, part: Part, error: Exception) -> Part:
        """Count the documents of a failed call that were stored after all; return the others."""
        stored = self._rows.stored(part.items)
        while self._rows.exact and None in stored:  # for example, because it is locked
            self._wait_or_stop(part, error)
            stored = self._rows.stored(part.items)
        there = [item for item, is_there in zip(part.items, stored, strict=True) if is_there]
        if not there:
            return part
        self.written.store(there, [item.id for item in there if item.id is not None])
        rest = [item for item, is_there in zip(part.items, stored, strict=True) if not is_there]
        if not rest:
            self._parts.close(part, lost=False)
        return Part(rest, part.tries, part.trouble, part.whole)

    def _note_unsure(self, items: Sequence[Item], *, look: bool = True) -> None:
        """Record what is known about documents whose last call failed."""
        stored = self._rows.stored(items) if look and items else [None] * len(items)
        there = [item for item, is_there in zip(items, stored, strict=True) if is_there]
        self.written.store(there, [item.id for item in there if item.id is not None])
        self.written.doubt(
            [item for item, is_there in zip(items, stored, strict=True) if is_there is None]
        )

    # Handling of a call that succeeded.

    def _note_stored(self, part: Part, returned: Any) -> None:
        self._patience.answered()
        self._is_unreliable |= part.tries > 0 and part.trouble is Trouble.UNKNOWN
        self.size.accepted(len(part.items))
        names = None if returned is None else list(returned)
        stored = part.items
        lacks_some = names is not None and len(names) < len(stored)
        if names is not None:
            self.ids.compare(part.items, names)
            if lacks_some:
                stored = self._note_dropped(part.items, names)
        self.written.store(stored, self.ids.names(part.items, names))
        self._parts.close(part, lost=lacks_some)

    def _note_dropped(self, items: Sequence[Item], names: Sequence[Any]) -> Sequence[Item]:
        """Record which documents of a call got no id; return those that count as stored."""
        logger.warning("the store returned %d ids for %d documents", len(names), len(items))
        missing = self.ids.missing(items, names)
        if missing is None:  # no way to find out which
            self.written.doubt(items)
            return items[: len(names)]
        there = self._rows.stored(missing)
        lost = [item for item, is_there in zip(missing, there, strict=True) if not is_there]
        for item in lost:
            self.written.streak.failed()
            self.written.lose(item, "writing", NotKeptError())
        lost_at = {item.index for item in lost}
        return [item for item in items if item.index not in lost_at]


def _quotable(items: Sequence[Item]) -> list[str]:
    """Return the texts and metadata of documents, which an error may quote."""
    texts = [item.document.page_content for item in items]
    texts += [str(value) for item in items for value in item.document.metadata.values()]
    return texts
