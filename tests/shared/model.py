"""The ledger's script in Python, for simulated time and for checking the script."""

import math
from dataclasses import dataclass, field, replace

from langchain_batch_embed.shared.exchange import Balance, Claim, Exchange, Reply

__all__ = ["Ledger"]

DEAD, SILENT, GRACE = 2.0, 1.0, 5.0
EASE, RECOVER, LEAST = 0.03, 0.004, 0.8
KINDS = ("tokens", "requests")


@dataclass(kw_only=True)
class Line:
    """The state of one kind of quota."""

    rate: float = 0.0
    capacity: float = 0.0
    flowed: float = 0.0
    reserved: float = 0.0
    ended: float = 0.0
    held: float = 0.0
    seen: bool = False
    most: float = 0.0

    def cap(self) -> None:
        """Limit the level to the bucket's capacity."""
        self.flowed = min(self.reserved + self.capacity, self.flowed)


@dataclass(kw_only=True)
class Ledger:
    """The ledger's state and each worker's last report, with times in seconds of its clock."""

    epoch: float
    updated: float = 0.0
    share: float = 1.0
    refused: float = 0.0
    pause: float = 0.0
    resumed: float = 0.0
    lines: dict[str, Line] = field(default_factory=lambda: {kind: Line() for kind in KINDS})
    heard: dict[str, float] = field(default_factory=dict)
    reports: dict[str, dict[str, Claim]] = field(default_factory=dict)

    def exchange(self, asked: Exchange, now: float) -> Reply:
        """Make one exchange as the script does."""
        self._pass(now)
        self.share = min(1, self.share + RECOVER * asked.passed)
        horizon = now - DEAD if now - self.resumed > GRACE else 0.0
        self._bury(asked.worker, horizon)
        is_same = asked.epoch == self.epoch
        before = self.reports.get(asked.worker)
        claims = {
            kind: self._report(kind, asked.claims[kind], before, is_same=is_same) for kind in KINDS
        }
        for kind in KINDS:
            self._learn(self.lines[kind], claims[kind])
        self._refuse(asked, now)
        delay, is_unknown = 0.0, not any(line.rate for line in self.lines.values())
        for kind in KINDS:
            line, claim = self.lines[kind], claims[kind]
            place = claim.place
            if claim.ask > 0:
                line.reserved += claim.ask
                line.held += claim.ask
                place = line.reserved
            if place is not None and line.rate > 0:
                delay = max(delay, (place - line.flowed) / (line.rate * self.share))
            claims[kind] = Claim(
                held=claim.held + claim.ask,
                in_flight=claim.in_flight,
                place=place,
                spent=claim.spent,
                back=claim.back,
                ended=claim.ended,
            )
        begun = asked.opening + 2 * self.lines["requests"].ended
        if is_unknown and (claims["requests"].place or 0.0) > begun:
            delay = -1.0
        self.reports[asked.worker] = claims
        self.heard[asked.worker] = 0.0 if asked.leaves else now
        workers = sum(at >= max(1.0, horizon) for at in self.heard.values())
        return Reply(
            epoch=self.epoch,
            now=now,
            workers=max(1, workers),
            share=self.share,
            pause=max(0.0, self.pause - now),
            delay=delay,
            balances={kind: self._balance(kind, claims[kind]) for kind in KINDS},
        )

    def _pass(self, now: float) -> None:
        elapsed = max(0.0, now - self.updated) if self.updated else 0.0
        if elapsed > SILENT and any(at >= 1 for at in self.heard.values()):
            elapsed, self.resumed = SILENT, now
        self.updated = now
        for line in self.lines.values():
            if line.rate > 0:
                line.flowed += elapsed * line.rate * self.share
                line.cap()

    def _bury(self, worker: str, horizon: float) -> None:
        late = sorted((at, other) for other, at in self.heard.items() if at <= horizon)
        for _, other in late[:4]:
            if other == worker or other not in self.reports:
                continue
            report = self.reports[other]
            if all(
                line.rate == 0 or (report[kind].place or 0.0) <= line.flowed
                for kind, line in self.lines.items()
            ):
                for kind, line in self.lines.items():
                    held = report[kind].held
                    line.flowed += held
                    line.cap()
                    line.held -= held
                    line.ended = line.ended + held + report[kind].in_flight
                del self.reports[other], self.heard[other]

    def _report(
        self, kind: str, claim: Claim, reports: dict[str, Claim] | None, *, is_same: bool
    ) -> Claim:
        line = self.lines[kind]
        before = reports[kind] if reports is not None else None
        if not is_same:
            if before is None:
                line.reserved += claim.in_flight
                line.flowed += claim.in_flight
            told = claim.told and replace(claim.told, ended_then=None)
            return replace(claim, held=0.0, place=None, told=told)
        if before is not None:
            spent, back = claim.spent - before.spent, claim.back - before.back
            line.reserved += spent
            line.flowed = line.flowed + spent + back
            line.ended = line.ended + back + claim.ended - before.ended
            line.held = line.held + claim.held - before.held
        else:
            line.reserved += claim.held
            line.held += claim.held
            line.ended -= claim.in_flight
        return claim

    @staticmethod
    def _learn(line: Line, claim: Claim) -> None:  # noqa: PLR0912  # the script's branches
        if claim.most is not None and (line.most == 0 or claim.most < line.most):
            line.most = claim.most
        most = line.most or math.inf
        if line.rate == 0 and claim.known is not None:
            line.rate = min(claim.known, most) / 60
            line.capacity, line.flowed = claim.capacity or 0.0, line.reserved
        elif line.rate == 0 and line.most:
            line.rate, line.capacity = most / 60, most
            line.flowed = line.reserved + most
        told = claim.told
        if told is not None:
            limit, remaining = min(told.limit, most), told.remaining
            is_new, is_first = line.rate == 0, not line.seen
            line.rate = limit / 60
            level = line.flowed - line.reserved
            if remaining is None:
                level = limit if is_new else level
                line.capacity = limit
            elif remaining < 0:
                line.capacity = limit if is_new else min(line.capacity, limit)
                level = 0.0 if is_new else min(level, 0.0)
            else:
                if told.reset is not None:
                    full = max(remaining, remaining + told.reset * line.rate)
                    line.capacity = min(limit, full)
                elif is_first:
                    line.capacity = limit
                highest = remaining - line.held + told.age * line.rate
                lowest = -math.inf
                if told.ended_then is not None:
                    lowest = remaining - (line.reserved - told.ended_then)
                if not is_first:
                    level = min(max(level, lowest), highest)
                elif told.ended_then is not None:
                    level = lowest
                else:
                    level = min(0.0, remaining - line.held)
                line.seen = True
            line.flowed = line.reserved + level
        if line.rate * 60 > most:
            line.rate = most / 60
        line.capacity = min(line.capacity, most)
        if line.rate > 0:
            line.cap()

    def _refuse(self, asked: Exchange, now: float) -> None:
        if asked.refused_ago is None:
            return
        if now - asked.refused_ago > self.refused:
            self.refused, self.share = now, max(LEAST, self.share - EASE)
            for line in self.lines.values():
                if line.rate > 0 and not line.seen:
                    line.flowed = min(line.flowed, line.reserved)
        self.pause = max(self.pause, now + asked.pause)

    def _balance(self, kind: str, claim: Claim) -> Balance:
        line = self.lines[kind]
        return Balance(
            rate=line.rate or None,
            capacity=line.capacity,
            level=line.flowed - line.reserved,
            ended=line.ended,
            place=claim.place or 0.0,
        )
