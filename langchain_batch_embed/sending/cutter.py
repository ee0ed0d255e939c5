"""Cuts the unsent inputs of a call into batches. Pure decisions.

A batch is cut only when it is due to start, so its size uses everything learnt until that moment:
quotas, the server's limits, how many requests share the work, how fast answers come. The `Line`
holds the inputs and the planned cuts. The cutter decides when to plan again, and how much a batch
for a given deployment may hold.
"""

import math
from collections.abc import Mapping, Sequence

from langchain_batch_embed.pacing.concurrency import FIRST_WORK
from langchain_batch_embed.sending.deployment import Deployment
from langchain_batch_embed.sending.line import Line
from langchain_batch_embed.sending.work import Batch, Rows, Work
from langchain_batch_embed.texts.packing import WAVE_LEAST

__all__ = ["Cutter", "parts_of", "still_fits"]

MERGED = 1024
"""Most texts in a batch for a saturated server. Twice as many are no faster to read, and take twice
the memory."""

FIRST_TIMEOUT = 15.0
"""With a time-out shorter than this many seconds the first requests hold less. A single processor
that takes 40 ms for a short text answers the last of 8 times 26 texts after 8 s."""

HARMLESS_TIMEOUT = 60.0
"""With a time-out of this many seconds, `WAVE_LEAST` tokens in the first request are harmless. At
40 ms for a text of about 70 tokens they take 9 s."""

_Most = tuple[float, float, float]
"""Most inputs and most tokens in a batch, and spare requests, at one deployment."""


class Cutter:
    """Cuts the line of one call.

    Args:
        line: the unsent inputs, which only the cutter changes.
        work: what the call has to send.
        deployments: the state of each server.
    """

    def __init__(self, line: Line, work: Work, deployments: Sequence[Deployment]) -> None:
        self._line = line
        self._work = work
        self._deployments = deployments
        self._planned_for: tuple[object, ...] = ()
        # The next batch of each deployment, cut but not taken, and whether it retests a limit.
        self._cuts: dict[int, tuple[Batch, bool]] = {}

    def next(self, at: Deployment) -> Batch:
        """Return the next batch for a deployment; the line must not be empty.

        Further calls return the same batch until something new is learnt.
        """
        items, tokens, spare = most = self._most(at)
        self._plan({at.number: most})
        limits = at.limits
        budget = self._work.budget
        affordable = math.inf if budget is None else budget.left
        cut, is_test = self._cuts.get(at.number, (None, False))
        if cut is None or cut.tokens > affordable or not (is_test or self._keeps(cut, at)):
            rows = self._line.next(
                items=items,
                tokens=min(tokens, affordable),
                octets=limits.octets,
                work=self._most_work(at),
                # The plan is for all deployments; where requests are scarce, ignore it.
                is_planned=len(self._deployments) == 1 or not self._are_scarce(at, spare),
            )
            cut, is_test = self._work.batch(rows), limits.is_retesting
            self._cuts[at.number] = cut, is_test
            if is_test:
                limits.retest_with(cut)
        return cut

    def take(self, batch: Batch, at: Deployment) -> bool:
        """Take a batch off the line if it is what `next` returned; return whether it is."""
        if batch is not self._cuts.get(at.number, (None,))[0]:
            return False
        self._line.take(len(batch.rows))
        self._cuts.clear()
        return True

    def put_back(self, rows: Sequence[Rows]) -> None:
        """Put inputs back to the front of the line, to be cut again."""
        self._line.put_back(rows)
        self._planned_for = ()
        self._cuts.clear()

    def clear(self) -> Rows:
        """Return what is left, and leave nothing."""
        self._cuts.clear()
        return self._line.clear()

    def _plan(self, known: Mapping[int, _Most]) -> None:
        """Plan the cuts for all deployments that share the rest, if anything has changed.

        Args:
            known: results of `_most`, by the number of the deployment.
        """
        sharing: Sequence[Deployment] = self._deployments
        if len(sharing) > 1:
            sharing = [each for each in sharing if each.is_answering] or sharing
        most = [known.get(each.number) or self._most(each) for each in sharing]
        items = int(max(items for items, _, _ in most))
        tokens = max(tokens for _, tokens, _ in most)
        spare = sum(spare for _, _, spare in most)
        workers = sum(each.pacer.concurrency.useful for each in sharing)
        planned_for = (items, _coarse(tokens), workers, _coarse(spare))
        if planned_for == self._planned_for:
            return
        self._planned_for = planned_for
        self._cuts.clear()
        self._line.plan(
            items=items,
            tokens=tokens,
            workers=workers,
            spare_requests=spare,
            # Until the quota is known, the next batch waits for the first answers.
            smallest_first=any(each.pacer.concurrency.is_opening for each in sharing),
        )

    def _are_scarce(self, at: Deployment, spare: float) -> bool:
        """Return whether a quota of requests binds one of several deployments."""
        pacer = at.pacer
        if not (pacer.requests.is_known or pacer.batch_sizes.are_for_requests):
            return False  # measured together with the tokens, it need not be real
        return self._line.planned[0] // len(self._deployments) > spare

    def _keeps(self, cut: Batch, at: Deployment) -> bool:
        """Return whether a cut batch still keeps the limits of one of several deployments."""
        return len(self._deployments) == 1 or still_fits(cut, at)

    def _most(self, at: Deployment) -> _Most:
        """Return the limits of a batch for a deployment, and its spare requests."""
        concurrency = at.pacer.concurrency
        items = min(self._work.max_items, at.limits.items)
        if concurrency.is_saturated and concurrency.most > 1:
            items = min(items, MERGED)
        largest, spare = at.pacer.batch_sizes.bounds()
        return items, min(self._work.max_tokens, at.limits.tokens, largest), spare

    def _most_work(self, at: Deployment) -> float:
        """Return the most work, in tokens, of a batch that is answered in time."""
        most = at.limits.work
        concurrency = at.pacer.concurrency
        # A hidden quota of requests says nothing about the speed of the server.
        if concurrency.is_known or concurrency.most == 1 or at.pacer.requests.is_known:
            return most
        if concurrency.is_starting:
            harmless = WAVE_LEAST * min(1.0, at.timeout / HARMLESS_TIMEOUT)
            first = FIRST_WORK * min(1.0, at.timeout / FIRST_TIMEOUT)
            if (in_time := at.limits.in_time(at.timeout)) < math.inf:
                first = min(FIRST_WORK, max(first, in_time))
            return min(most, first) if self._line.work > harmless else most
        number = concurrency.limit() if concurrency.is_saturated else None
        return min(most, at.limits.in_time(at.timeout, number))


def still_fits(batch: Batch, at: Deployment) -> bool:
    """Return whether a batch keeps what was learnt about a deployment since it was cut."""
    return at.limits.fits(batch) and _is_within_quota(batch, at)


def parts_of(batch: Batch, at: Deployment) -> int:
    """Return the number of parts into which to cut a batch that no longer fits."""
    parts = at.limits.parts(batch)
    if not _is_within_quota(batch, at):
        parts = max(parts, math.ceil(batch.charge / max(1.0, at.pacer.batch_sizes.largest())))
    return parts


def _is_within_quota(batch: Batch, at: Deployment) -> bool:
    return len(batch.rows) == 1 or batch.charge <= at.pacer.batch_sizes.largest()


def _coarse(number: float) -> float:
    """Return a number that changes only when the given one changes by about a fifth."""
    return number if number in (0, math.inf) else round(math.log(number) * 5)
