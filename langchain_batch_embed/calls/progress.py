"""Shows the progress of a call or an ingest, by a bar each second and by lines in the log.

A separate thread updates the bar each second, for two reasons. The caller's thread waits for
answers, and a terminal that blocks its writer must not delay requests.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from tqdm.auto import tqdm

from langchain_batch_embed.calls.time_left import Pace, TimeLeft
from langchain_batch_embed.pacing.status import Status
from langchain_batch_embed.report import Tally, amount, duration, money, plural
from langchain_batch_embed.sending.threads import start

__all__ = ["Progress", "View"]

logger = logging.getLogger(__name__)

BAR_EVERY = 1.0
"""Seconds after which the bar is redrawn even if no answer has arrived."""

DRAWN_EVERY = 0.1
"""Minimum seconds between two drawings of the bar, the default of tqdm."""

LOG_EVERY = 30.0
"""Seconds between two log lines of a long call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The progress at one moment.

    Attributes:
        done: texts or documents that are done.
        tally: what was sent for them.
        dollars: price of what was sent; `None` if it is not known.
        left: tokens without an answer, as the limiter charges them; `None` if they are not known.
        unwritten: documents that a store has yet to write; `None` if it is not known, or if there
            is no store.
        status: the server's status.
    """

    done: int
    tally: Tally
    dollars: float | None
    left: float | None
    status: Status
    unwritten: int | None = None


class Progress:
    """The progress bar and the log lines of one call.

    Args:
        look: returns the current progress.
        now: returns the time in seconds.
        total: number of texts or documents; `None` if it is not known.
        unit: what is counted, `"text"` or `"document"`.
        shown: draw a bar.
        logged: write log lines while the call runs.
    """

    def __init__(
        self,
        look: Callable[[], View],
        *,
        now: Callable[[], float],
        total: int | None,
        unit: str,
        shown: bool,
        logged: bool,
    ) -> None:
        self._look = look
        self._now = now
        self._total = total
        self._unit = unit
        self._logs = logged and logger.isEnabledFor(logging.INFO)
        self._started = self._drawn = self._logged = now()
        self._time_left = TimeLeft()
        self._writing = Pace()
        self._drawing = threading.Lock()
        self._ended = threading.Event()
        self._bar: Any = None
        if shown:
            self._bar = tqdm(total=total, unit=f" {unit}s", bar_format=_format(total, unit, ""))

    def __enter__(self) -> Self:
        """Start the thread that updates the bar and the log."""
        if self._bar is not None or self._logs:
            start(threading.Thread(target=self._watch, name="batch-embed-progress", daemon=True))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the bar when the call ends."""
        self.close()

    def close(self) -> None:
        """Draw the bar one last time and close it."""
        self._ended.set()
        if self._bar is not None:
            with self._drawing:
                self._draw(self._now())
                self._bar.close()

    def update(self) -> None:
        """Redraw the bar after progress, unless the last drawing is under `DRAWN_EVERY` old."""
        if self._bar is not None and self._now() >= self._drawn + DRAWN_EVERY:
            self.refresh()

    def refresh(self) -> None:
        """Draw the bar, and write a log line if one is due."""
        if not self._drawing.acquire(blocking=False):
            return  # another thread is drawing
        try:
            if self._ended.is_set():
                return
            now = self._now()
            view, seconds = self._draw(now)
            if self._logs and now >= self._logged + LOG_EVERY:
                self._logged = now
                logger.info("%s", _line(view, seconds, self._total, self._unit))
        finally:
            self._drawing.release()

    def _draw(self, now: float) -> tuple[View, float | None]:
        view = self._look()
        seconds = self._seconds(now, view)
        self._drawn = now
        if self._bar is not None:
            text = _beside(view, now - self._started, seconds)
            self._bar.bar_format = _format(self._total, self._unit, text)
            self._bar.n = view.done
            self._bar.refresh()
        return view, seconds

    def _seconds(self, now: float, view: View) -> float | None:
        """Return the seconds left until all is embedded and written; `None` if not known."""
        if view.left is None:
            return None
        seconds = self._time_left.seconds(now, view.left, view.status)
        if seconds is None or view.unwritten is None:
            return seconds
        # While embedding goes on, writing may be waiting for it, so its pace does not count.
        status = view.status
        is_embedding = status.in_flight > 0 or status.is_held_back
        pace = self._writing.measure(now, view.unwritten, is_held_back=is_embedding)
        return seconds if pace is None else max(seconds, view.unwritten / pace)

    def _watch(self) -> None:
        while not self._ended.wait(LOG_EVERY if self._bar is None else BAR_EVERY):
            self.refresh()


def _format(total: int | None, unit: str, text: str) -> str:
    """Return the tqdm format of a bar with a text beside it."""
    text = text.replace("{", "{{").replace("}", "}}")
    if total is None:
        return f"{{n_fmt}} {unit}s {text}"
    return f"{{percentage:3.0f}}%|{{bar}}| {{n_fmt}}/{{total_fmt}} {unit}s {text}"


def _beside(view: View, elapsed: float, seconds: float | None) -> str:
    """Return the text beside the bar, most important first, as a narrow terminal cuts the end."""
    left = "?" if seconds is None else _clock(seconds)
    parts = [waiting(view.status), *_costs(view), *_quota(view.status)]
    return f"[{_clock(elapsed)}<{left}] {', '.join(part for part in parts if part)}"


def _line(view: View, seconds: float | None, total: int | None, unit: str) -> str:
    of = "" if total is None else f" of {total:,}"
    left = "" if seconds is None else f"about {duration(seconds)} left"
    parts = [*_costs(view), left, waiting(view.status), *_quota(view.status)]
    return f"{view.done:,}{of} {unit}s: {', '.join(part for part in parts if part)}"


def waiting(status: Status) -> str:
    """Return what the call waits for, and for how long; empty if the wait is not worth showing."""
    seconds = f"{max(1.0, status.delay):.0f} s"
    if status.waits_for == "quota":
        refusal = f" ({status.refused_with})" if status.refused_with else ""
        return f"waiting {seconds} for quota{refusal}"
    if status.waits_for == "server":
        again = f"next try in {seconds}" if status.delay else "trying again"
        return f"server not answering, {again}"
    if status.waits_for == "answers":
        return f"waiting for {plural(status.in_flight, 'answer')}, {seconds} so far"
    return ""


def _costs(view: View) -> list[str]:
    tally = view.tally
    cost = "" if view.dollars is None else money(view.dollars)
    retries = plural(tally.retries, "retry", "retries") if tally.retries else ""
    return [f"{amount(tally.tokens)} tokens", cost, retries]


def _quota(status: Status) -> list[str]:
    told = (status.requests_per_minute, "requests"), (status.tokens_per_minute, "tokens")
    limits = [f"{amount(limit)} {kind}" for limit, kind in told if limit is not None]
    return [f"quota {' and '.join(limits)} a minute"] if limits else []


def _clock(seconds: float) -> str:
    """Return a time in clock format, such as `0:34`, `12:05` or `1:02:03`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
