"""Writes documents into a store so that none is lost and none is there twice.

A call that fails is written again only where that cannot double a row: where the store replaces
rows by id, or where it can be seen which rows are there. A store that is away or busy is waited
for. A call that is too large, or holds a document that the store refuses, is halved.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from langchain_batch_embed.errors import NotKeptError, causes
from langchain_batch_embed.pacing.backoff import Backoff
from langchain_batch_embed.report import IngestFailure
from langchain_batch_embed.stores.calls import StoreCalls
from langchain_batch_embed.stores.documents import Item
from langchain_batch_embed.stores.rows import Rows
from langchain_batch_embed.stores.streak import Streak
from langchain_batch_embed.stores.troubles import Trouble, read_trouble
from langchain_batch_embed.stores.write_size import WriteSize

__all__ = ["Stop", "Writer"]

logger = logging.getLogger(__name__)

BACKOFF = Backoff(first=0.25, longest=15.0)
"""Delays before a call is made again. With the longest, writing goes on within 15 s of the store's
return."""

TRIES = 4
"""Calls with one document, of which each fails with an error that does not tell what is wrong."""

PATIENT_TRIES = 8
"""The same, where such an error has gone away by itself before: the store is not reliable."""


_UNSURE = frozenset({Trouble.PASSING, Trouble.TIMED_OUT, Trouble.UNKNOWN})
"""After these, a call may have written some of its documents, or all."""


class Stop(Exception):  # noqa: N818  # not an error: how the ingest ends
    """Nothing more can be written.

    Args:
        why: for the message of the error.
        cause: the error of the store.
    """

    def __init__(self, why: str, cause: BaseException) -> None:
        super().__init__(why)
        self.why = why
        self.cause = cause


@dataclass(slots=True)
class _Halved:
    """A call that was refused and is written in parts; without a loss, it was too large."""

    size: int
    parent: "_Halved | None"
    open: int = 2
    lost: bool = False


@dataclass(slots=True)
class _Part:
    """Documents of one call.

    Attributes:
        items: the documents.
        tries: calls with just these documents that have failed.
        trouble: why a call with these documents has failed last; `None`: there was none.
        of: the call that this is a half of.
    """

    items: Sequence[Item]
    tries: int = 0
    trouble: Trouble | None = None
    of: _Halved | None = None


@dataclass(slots=True)
class Written:
    """What was written.

    Attributes:
        stored: documents that are in the store.
        replaced: documents with an id that a later one of the same call has too.
        ids: what the store returned.
        failures: documents that are not in the store.
        unknown: positions of documents that may be in the store or not.
        retries: calls made again, or in parts.
    """

    stored: int = 0
    replaced: int = 0
    ids: list[str] = field(default_factory=list)
    failures: list[IngestFailure] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)
    retries: int = 0


class Writer:
    """Writes into one store.

    Args:
        calls: calls the store.
        rows: what can be seen of its rows.
        takes_ids: whether it replaces rows by id, as its signatures have it.
        passes_ids: whether the user gave ids, which are passed in any case.
        batch_size: documents in one call, at most.
        patience: seconds for which a store that is away is waited for.
        now: returns the time in seconds.
        pause: waits for some seconds, or until it is cancelled.
        draw: a source of random numbers, uniform in 0 to 1.

    Attributes:
        written: what was written.
        streak: failures in a row, those of embedding included.
        size: how many documents the store takes in one call.
        keeps_ids: whether the store keeps the ids that it is given.
        settled: positions of documents of which it is noted what has become of them.
    """

    def __init__(
        self,
        calls: StoreCalls,
        rows: Rows,
        *,
        takes_ids: bool,
        passes_ids: bool,
        batch_size: int,
        patience: float,
        now: Callable[[], float],
        pause: Callable[[float], object],
        draw: Callable[[], float],
    ) -> None:
        self.written = Written()
        self.streak = Streak()
        self.size = WriteSize(batch_size)
        self.keeps_ids = takes_ids
        self.settled: set[int] = set()
        self._calls = calls
        self._rows = rows
        self._passes_ids = passes_ids
        self._takes_made_ids = takes_ids
        self._patience = patience
        self._now = now
        self._pause = pause
        self._draw = draw
        self._is_unreliable = False
        self._failing_since: float | None = None
        self._failures_in_a_row = 0  # of calls
        self._parts: deque[_Part] = deque()

    def write(self, items: Sequence[Item]) -> None:
        """Write documents.

        Raises:
            Stop: the store is away for too long, refuses everything, or may have written some of
                the documents and cannot tell.
        """
        items, older = self._last_of_each_id(items)
        failed_before = len(self.written.failures)
        self._write_all(items)
        if older:
            # Where the last document of an id has failed, the one before it counts.
            failed = {failure.index for failure in self.written.failures[failed_before:]}
            winners = {item.id: item.index for item in items}
            again = [item for item in older if winners[item.id] in failed]
            self.written.replaced += len(older) - len(again)
            if again:
                self.write(again)

    def _last_of_each_id(self, items: Sequence[Item]) -> tuple[Sequence[Item], list[Item]]:
        """Part the documents whose ids come again later from the others."""
        if not self.keeps_ids:
            return items, []
        last = {item.id: item.index for item in items if item.id is not None}
        kept = [item for item in items if item.id is None or last[item.id] == item.index]
        if len(kept) == len(items):
            return items, []
        indices = {item.index for item in kept}
        return kept, [item for item in items if item.index not in indices]

    def _write_all(self, items: Sequence[Item]) -> None:
        self._parts = deque([_Part(items)])
        try:
            while self._parts:
                part = self._parts.popleft()
                if len(part.items) > self.size.limit:
                    self._cut(part, self.size.limit)
                else:
                    self._write_part(part)
        except Stop:
            # A half of what follows may have been written in a call that failed.
            for part in self._parts:
                if part.trouble in _UNSURE:
                    self._note_unsure(part.items)
            raise

    def _cut(self, part: _Part, size: int) -> None:
        starts = range(0, len(part.items), size)
        if part.of is not None:
            part.of.open += len(starts) - 1
        self._parts.extendleft(
            _Part(part.items[start : start + size], trouble=part.trouble, of=part.of)
            for start in reversed(starts)
        )

    def _write_part(self, part: _Part) -> None:
        try:
            self._rows.before(part.items, again=part.trouble is not None)
            returned = self._add(part.items)
        except Exception as error:  # noqa: BLE001  # stores raise what they like
            self._tidy(error)
            self._settle(part, error)
        except BaseException:
            self._rows.tidy()  # Ctrl-C: the next call would commit the half of this one
            raise
        else:
            self._note_stored(part, returned)

    def _add(self, items: Sequence[Item], *, made: bool = True) -> Any:
        # Without, `add_documents` passes the documents' own ids, if they have any.
        passes = self._passes_ids or (self._takes_made_ids and made)
        ids = [item.id for item in items] if passes else None
        return self._calls.add([item.document for item in items], ids)

    def _tidy(self, error: Exception) -> None:
        try:
            self._rows.tidy()
        except Exception as failure:
            raise Stop("the store could not undo a call that failed half way", error) from failure

    # What is done about a call that failed.

    def _settle(self, part: _Part, error: Exception) -> None:
        trouble = read_trouble(error, _quotable(part.items))
        logger.info(
            "writing %d documents: %s (%s)", len(part.items), type(error).__name__, trouble.value
        )
        if self._rows.exact:
            part = self._without_stored(part, error)
            if not part.items:
                return
        elif not self.keeps_ids and not self._wrote_nothing(part, trouble):
            self._note_unsure(part.items, look=False)
            raise Stop(
                "a call failed, and this store takes no ids, so nothing tells whether its "
                "documents are stored, and writing them again could double them",
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

    def _wrote_nothing(self, part: _Part, trouble: Trouble) -> bool:
        """Tell whether a refusal says that no document of a call is stored."""
        if trouble is Trouble.FATAL:
            return not self.written.stored
        return trouble is Trouble.REFUSED and len(part.items) == 1

    def _try_later(self, part: _Part, error: Exception) -> None:
        self._wait_or_stop([part], error)
        part.tries += 1
        self._parts.appendleft(part)

    def _wait_or_stop(self, parts: Sequence[_Part], error: Exception) -> None:
        now = self._now()
        if self._failing_since is None:
            self._failing_since = now
            logger.warning(
                "the store is away or busy (%s): trying again for up to %.0f s",
                type(error).__name__,
                self._patience,
            )
        if now - self._failing_since >= self._patience:
            for part in parts:
                self._note_unsure(part.items)
            away = now - self._failing_since
            raise Stop(f"the store did not answer for {away:,.0f} s", error)
        self._pause(BACKOFF.delay(self._failures_in_a_row, self._draw))
        self._failures_in_a_row += 1

    def _halve(self, part: _Part, error: Exception, trouble: Trouble) -> None:
        middle = (len(part.items) + 1) // 2
        halved = _Halved(len(part.items), part.of)
        halves = [
            _Part(items, trouble=trouble, of=halved)
            for items in (part.items[:middle], part.items[middle:])
        ]
        if trouble is Trouble.TIMED_OUT:
            self.size.refused(len(part.items))
            if part.of is not None:  # not for the first time: the store may be busy, too
                self._wait_or_stop([part], error)
        elif trouble is Trouble.TOO_LARGE:
            self.size.refused(len(part.items))
        self._parts.extendleft(reversed(halves))

    def _try_without_id(self, part: _Part) -> bool:
        """Write a document without the id that was made for it; return whether that went through.

        The ids of the table may be numbers. Only as long as nothing is stored: later, a refusal is
        not about ids.
        """
        (item,) = part.items
        if self.written.stored or not (item.made and self._takes_made_ids) or self._passes_ids:
            return False
        try:
            returned = self._add(part.items, made=False)
        except Exception:  # noqa: BLE001  # what counts is the error of the call with the id
            self._rows.tidy()
            return False
        logger.warning(
            "the store refuses ids that are UUIDs, so rows are added without: "
            "a second ingest adds them again"
        )
        self.keeps_ids = self._takes_made_ids = False
        self._note_stored(part, returned)
        return True

    def _try_once_more(self, part: _Part, error: Exception, trouble: Trouble) -> None:
        part.tries += 1
        if trouble is Trouble.UNKNOWN and part.tries < (
            PATIENT_TRIES if self._is_unreliable else TRIES
        ):
            if part.tries >= TRIES:
                self._pause(BACKOFF.delay(part.tries - TRIES, self._draw))
            self._parts.appendleft(part)
            return
        part = self._without_stored(part, error)
        if not part.items:
            return
        self.streak.failed(fatal=trouble is Trouble.FATAL)
        self.lose(part.items[0], "writing", error)
        self._close(part, lost=True)
        if self.streak.is_hopeless:
            raise Stop("several in a row were refused and none between them was stored", error)

    def _without_stored(self, part: _Part, error: Exception) -> _Part:
        """Count the documents of a failed call that are stored all the same; return the others."""
        stored = self._rows.stored(part.items)
        while self._rows.exact and None in stored:  # it is locked, say
            self._wait_or_stop([part], error)
            stored = self._rows.stored(part.items)
        there = [item for item, is_there in zip(part.items, stored, strict=True) if is_there]
        if not there:
            return part
        self._note_written(there, [item.id for item in there if item.id is not None])
        rest = [item for item, is_there in zip(part.items, stored, strict=True) if not is_there]
        if not rest:
            self._close(part, lost=False)
        return _Part(rest, part.tries, part.trouble, part.of)

    def _note_unsure(self, items: Sequence[Item], *, look: bool = True) -> None:
        """Note what is known of documents whose last call failed."""
        stored = self._rows.stored(items) if look and items else [None] * len(items)
        there = [item for item, is_there in zip(items, stored, strict=True) if is_there]
        self._note_written(there, [item.id for item in there if item.id is not None])
        unknown = [item for item, is_there in zip(items, stored, strict=True) if is_there is None]
        self._note_unknown(unknown)

    def _note_unknown(self, items: Sequence[Item]) -> None:
        indices = [item.index for item in items]
        self.written.unknown += indices
        self.settled.update(indices)

    # What is done about a call that went through.

    def _note_stored(self, part: _Part, returned: Any) -> None:
        self._failing_since, self._failures_in_a_row = None, 0
        self._is_unreliable |= part.tries > 0 and part.trouble is Trouble.UNKNOWN
        self.size.accepted(len(part.items))
        names = None if returned is None else list(returned)
        if names is not None:
            self._compare_ids(part.items, names)
        items = part.items
        few = 0 if names is None else len(items) - len(names)
        if few > 0:
            items = self._note_dropped(items, names or ())
        elif names is None and self._takes_made_ids:
            names = [item.id for item in items]
        self._note_written(items, (names or [])[: len(part.items)])
        self._close(part, lost=few > 0)

    def _compare_ids(self, items: Sequence[Item], names: Sequence[Any]) -> None:
        """Find out from the ids that a store returns whether it keeps those that it is given."""
        given = {_plain(item.id) for item in items if item.id is not None}
        returned = [_plain(name) for name in names]
        if not self.keeps_ids or len(given) < len(items) or not returned:
            return
        # Redis puts the name of its index before them.
        if given.isdisjoint(returned) and not returned[0].endswith(tuple(given)):
            self.keeps_ids = self._takes_made_ids = False
            logger.warning(
                "the store returns other ids than it was given: it does not keep them, so a second "
                "ingest adds its rows again"
            )

    def _note_dropped(self, items: Sequence[Item], names: Sequence[Any]) -> Sequence[Item]:
        """Note which documents of a call got no id; return those that did."""
        kept = {_plain(name) for name in names}
        logger.warning("the store returned %d ids for %d documents", len(names), len(items))
        if not self.keeps_ids or any(item.id is None for item in items):
            self.written.unknown += [item.index for item in items]  # nothing tells which
            self.settled.update(item.index for item in items)
            return items[: len(names)]
        missing = [item for item in items if _plain(item.id) not in kept]
        there = self._rows.stored(missing)
        lost = [item for item, is_there in zip(missing, there, strict=True) if not is_there]
        for item in lost:
            self.streak.failed()
            self.lose(item, "writing", NotKeptError())
        return [item for item in items if item not in lost]

    def lose(
        self, item: Item, stage: Literal["embedding", "writing"], error: BaseException
    ) -> None:
        """Note a document that is not in the store."""
        for link in causes(error):
            link.__traceback__ = None  # its frames would keep whole batches in memory
        self.settled.add(item.index)
        own = None if item.made else item.id
        self.written.failures.append(
            IngestFailure(index=item.index, id=own, stage=stage, error=error)
        )

    def _note_written(self, items: Sequence[Item], names: Sequence[Any]) -> None:
        if items:
            self.streak.stored()
            self.settled.update(item.index for item in items)
            self.written.stored += len(items)
            self.written.ids += names

    def _close(self, part: _Part, *, lost: bool) -> None:
        """Note that a part is done with; a halved call that lost nothing was too large."""
        halved = part.of
        while halved is not None:
            halved.open -= 1
            halved.lost |= lost
            if halved.open:
                return
            if not halved.lost:
                self.size.refused(halved.size)
            lost, halved = halved.lost, halved.parent


def _quotable(items: Sequence[Item]) -> list[str]:
    """Return what an error may quote of documents."""
    texts = [item.document.page_content for item in items]
    texts += [str(value) for item in items for value in item.document.metadata.values()]
    return texts


def _plain(name: object) -> str:
    return str(name).replace("-", "").lower()
