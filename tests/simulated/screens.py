"""The progress bar of a call in simulated time, as a terminal shows it at each second."""

import io
import math
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from langchain_batch_embed.calls.progress import Progress, View
from langchain_batch_embed.pacing.hedging import Hedges
from langchain_batch_embed.pacing.pacer import Pacer
from langchain_batch_embed.report import Tally, dollars
from langchain_batch_embed.sending.deployment import Deployment
from langchain_batch_embed.sending.flight import Flight
from langchain_batch_embed.sending.rehearsal import Server, rehearse
from langchain_batch_embed.sending.sender import Sender
from langchain_batch_embed.sending.work import Done, Outcome, Work

__all__ = ["Screens", "Terminal", "watch"]


class Terminal(io.StringIO):
    """A stream that tqdm takes for a terminal."""

    def isatty(self) -> bool:
        """Return `True`, as a terminal does."""
        return True

    def line(self) -> str:
        """Return the line that is visible."""
        return self.getvalue().replace("\n", "\r").rstrip("\r").rsplit("\r", 1)[-1].rstrip()


@dataclass(kw_only=True)
class Screens:
    """The lines that a terminal showed.

    Attributes:
        lines: by whole second.
        end: time at which the call ended, in seconds.
    """

    lines: dict[float, str] = field(default_factory=dict)
    end: float = math.nan

    def left(self, second: float) -> float | None:
        """Return the remaining seconds that were shown at a second, or `None` if none were."""
        found = re.search(r"<([\d:]+)\]", self.lines[second])
        if found is None:
            return None
        seconds = 0.0
        for part in found[1].split(":"):
            seconds = 60 * seconds + int(part)
        return seconds

    def errors(self, since: float = 5.0) -> dict[float, float]:
        """Return the relative error of the estimates, by second.

        Args:
            since: the first second that counts.
        """
        right = {s: self.end - s for s in self.lines if since <= s < self.end}
        return {
            second: abs((self.left(second) or 0.0) - true) / true for second, true in right.items()
        }


class _Watched(Sender):
    """A sender that calls `look` at each whole second before it learns what happened then."""

    look: Callable[[float], object]
    seen = 0

    def _pass(self, now: float) -> None:
        while self.seen + 1 <= now:
            self.seen += 1
            self.look(float(self.seen))

    def next(self, now: float) -> Flight | float:
        """Return what to send next."""
        self._pass(now)
        return super().next(now)

    def answered(
        self,
        flight: Flight,
        now: float,
        *,
        headers: Mapping[str, str],
        errors: Mapping[int, BaseException] | None = None,
    ) -> None:
        """Record an answer."""
        self._pass(now)
        for queue, batch in flight.parts:
            queue.tally.answered(None, batch.charge)
        super().answered(flight, now, headers=headers, errors=errors)

    def failed(self, flight: Flight, error: BaseException, now: float) -> None:
        """Record a failure."""
        self._pass(now)
        super().failed(flight, error, now)


def watch(
    monkeypatch: pytest.MonkeyPatch,
    work: Work,
    server: Server,
    *,
    max_workers: int = 128,
    is_known: bool = True,
    **options: Any,
) -> Screens:
    """Send work to a server in simulated time, with a progress bar on a terminal.

    Args:
        monkeypatch: installs the terminal.
        work: one row for each text.
        server: answers the requests.
        max_workers: most requests in flight.
        is_known: whether the provider is known to accept any number.
        options: options of the pacer.
    """
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    draw = random.Random(0).random
    pacer = Pacer(max_workers=max_workers, is_known=is_known, draw=draw, **options)
    sender = _Watched([Deployment(pacer, max_retries=8, timeout=120.0, draw=draw)])
    time, tally, done = 0.0, Tally(), np.zeros(len(work.texts), dtype=np.bool_)

    def look() -> View:
        left = int(work.sizes.charges[work.rows[~done[work.rows]]].sum())
        return View(
            done=int(done.sum()),
            tally=tally,
            dollars=dollars("text-embedding-3-small", tally.tokens),
            left=left,
            status=sender.status(time, left=left),
        )

    def take(outcome: Outcome) -> None:
        done[outcome.rows] = isinstance(outcome, Done)

    progress = Progress(
        look, now=lambda: time, total=len(work.rows), unit="text", shown=True, logged=True
    )
    screens = Screens()

    def note(second: float) -> None:
        nonlocal time
        time = second
        progress.refresh()
        screens.lines[second] = terminal.line()

    sender.look = note
    queue = sender.queue(work, tally, Hedges())
    sender.add(queue, 0.0)
    screens.end = rehearse(sender, [queue], server, take=take)
    progress.close()
    return screens
