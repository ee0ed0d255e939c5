"""Chooses the deployment for the next request by health, room and speed. Pure decisions.

Work goes to every deployment that has room, the fastest first. A pacer whose quota or concurrency
is used up has none. So the sum of all quotas is used without dividing the work in advance. What
remains is to keep a slow deployment from taking, at the end of a call, work that the others would
finish long before it.
"""

import math
from collections.abc import Collection, Sequence

from langchain_batch_embed.pacing.status import flows_into
from langchain_batch_embed.sending.deployment import Deployment

__all__ = ["GRACE", "Choice"]

GRACE = 1.0
"""Seconds after the first answer to a probe text for which the end of a call waits for the answers
of the other deployments, so that vectors of different models are noticed."""

SILENT = 4.0
"""A deployment that answers nothing for this many of its longest recent round trips has stopped.
What it has in flight is sent to others as well."""

LEAST_SILENT = 2.0
"""Least seconds before it counts as stopped, as a single answer may take that long by chance."""

FOR_GOOD = 3.0
"""A silence this many times as long is taken to be permanent."""

TOO_LATE = 2.0
"""At the end of a call a slow deployment gets nothing more if one of its answers takes this many
times as long as the faster ones need for all that is left."""


class Choice:
    """Chooses among the deployments of one object.

    Args:
        deployments: in the user's order.

    Attributes:
        is_open: whether calls may end, as the vectors of all answering deployments were compared.
    """

    def __init__(self, deployments: Sequence[Deployment]) -> None:
        self.deployments = tuple(deployments)
        self.is_open = False
        self._proven_at = math.inf

    def begin(self) -> None:
        """Begin a call. If all deployments have been left out, ask each of them again."""
        if all(each.left_out for each in self.deployments):
            for each in self.deployments:
                each.take_back()

    def reset(self) -> None:
        """Make all prove again that their vectors are of one model, which they were not."""
        self.is_open, self._proven_at = False, math.inf
        for each in self.deployments:
            each.is_proven, each.is_canary_due, each.canary_from = False, True, -math.inf

    def open(self, now: float) -> float:
        """Let calls end once vectors are compared; return the seconds until that is decided."""
        if self.is_open or not any(each.is_proven for each in self.deployments):
            return math.inf
        self._proven_at = min(self._proven_at, now)
        left = self._proven_at + GRACE - now
        if left > 0 and any(_is_awaited(each) for each in self.deployments):
            return left
        self.is_open = True
        return math.inf

    def order(self, left: float, now: float) -> Sequence[Deployment]:
        """Return the deployments that may take texts, the fastest first.

        While the user's first deployment may still answer its probe, the others wait: a journal
        keeps vectors under the first one's name.

        Args:
            left: tokens that have not been sent yet.
            now: the time.
        """
        for each in self.deployments:
            if each.is_proven and each.is_answering and not self.stops_in(each.number, now):
                each.is_silent = each.is_canary_due = True
        able = self.able()
        if not self.is_open and _is_awaited(self.deployments[0]):
            return []
        for each in able:
            each.is_late = _is_too_late(each, able, left, now)
        return able

    def able(self) -> list[Deployment]:
        """Return the deployments that can be expected to answer, the fastest first."""
        able = [
            each
            for each in self.deployments
            if each.is_proven and each.is_answering and not each.is_canary_due
        ]
        return sorted(able, key=_load)

    def for_copy(
        self, charge: int, now: float, *, left: float = 0.0, but: Collection[int] = ()
    ) -> tuple[Deployment | None, float]:
        """Return the deployment for a copy, or `None` if none has room, and the seconds until then.

        Args:
            charge: tokens of the copy.
            now: the time.
            left: tokens of all copies to be sent.
            but: numbers of the deployments to avoid, unless one is the fastest.
        """
        if len(self.deployments) == 1:
            here = self.deployments[0]
            delay = here.pacer.delay(charge, now, is_copy=True)
            return here if here.pacer.has_room() else None, delay
        able = self.able()
        longest = min((TOO_LATE * each.speed.trip for each in able), default=0.0)
        able = [each for each in able if each.number not in but or each.speed.trip < longest]
        able = [each for each in able if not each.pacer.has_line()]
        useful = (each for each in able if not _is_too_late(each, able, left, now))
        delays = {each: each.pacer.delay(charge, now, is_copy=True) for each in useful}
        best = min(delays, key=lambda each: delays[each], default=None)
        return best, math.inf if best is None else delays[best]

    def stops_in(self, number: int, now: float, *, for_good: bool = False) -> float:
        """Return the seconds until a silent deployment counts as stopped; 0 if it does already.

        Args:
            number: the number of the deployment.
            now: the time.
            for_good: whether to wait until others get its requests before anything else.
        """
        here = self.deployments[number]
        if not (here.is_answering or for_good):
            return 0.0
        tickets = here.pacer.in_flight.values()  # they are in order of sending
        oldest = next((ticket for ticket in tickets if not ticket.is_held), None)
        heard = max(now if oldest is None else oldest.sent, here.pacer.health.answered_at)
        patience = max(LEAST_SILENT, SILENT * here.speed.longest) * (FOR_GOOD if for_good else 1.0)
        return max(0.0, heard + patience - now)

    def ends(self, now: float) -> bool:
        """Return whether no deployment can be expected to answer any more."""
        return all(each.gives_up(now) for each in self.deployments)


def _is_awaited(each: Deployment) -> bool:
    """Return whether the first answer of a deployment may come any moment."""
    pacer = each.pacer
    return not (each.is_proven or each.left_out or pacer.health.failures or pacer.throttle.in_a_row)


def _load(each: Deployment) -> tuple[float, float]:
    """Return the sorting key: the rough round trip, and the share of the room in use."""
    trip = round(math.log2(max(1e-3, each.speed.trip)))
    return trip, len(each.pacer.in_flight) / each.pacer.concurrency.limit()


def _is_too_late(here: Deployment, able: Sequence[Deployment], left: float, now: float) -> bool:
    """Return whether the faster ones will have answered everything before this one can."""
    faster = [each for each in able if each.speed.trip < here.speed.trip]
    per_second = sum(each.speed.per_second(now) for each in faster)
    if not per_second:
        return False
    quota = flows_into([each.pacer.tokens for each in faster], left, now)
    seconds = max(left / per_second, quota or 0.0)
    seconds += min(_pause(each, now) for each in faster)
    return here.speed.trip > TOO_LATE * seconds + max(each.speed.trip for each in faster)


def _pause(here: Deployment, now: float) -> float:
    """Return the seconds for which the quota delays the next request of the usual size."""
    pacer = here.pacer
    return max(pacer.throttle.delay(now), pacer.tokens.delay(pacer.usual_charge(), now))
