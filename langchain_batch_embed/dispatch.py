"""Sends batches in parallel, and lets all calls of one object share what its quota allows.

One `Dispatcher` belongs to one `BatchEmbeddings`. Each call is a `Run`. Two kinds of threads work
on a run:

- the workers of its `ThreadPoolExecutor` send requests. When one ends, its worker settles the
  outcome (done, retry, split, lost) and starts whatever may start now, of any run;
- the caller's thread takes the outcomes, and wakes up when a wait is over.

All decisions are made elsewhere, by pure code: when to start in `pacing`, what to do about an
error in `retry`, about a late answer in `hedging`. One condition of the dispatcher guards all
that is shared.
"""

import math
import random
import threading
from collections.abc import Callable, Iterator, Sequence

from langchain_batch_embed.clock import SYSTEM_CLOCK, Clock
from langchain_batch_embed.hedging import Hedges
from langchain_batch_embed.pacing import Pacer
from langchain_batch_embed.report import Tally
from langchain_batch_embed.retry import Backoff, Split
from langchain_batch_embed.run import Run
from langchain_batch_embed.work import SAFETY, Batch, Outcome, Work

__all__ = ["Dispatcher"]


class Dispatcher:
    """What all calls of one instance share: quota, learnt limits and their guard."""

    def __init__(
        self,
        pacer: Pacer,
        *,
        max_workers: int,
        max_retries: int,
        timeout: float,
        hedge: bool = False,
        backoff: Backoff | None = None,
        clock: Clock = SYSTEM_CLOCK,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.pacer = pacer
        self.max_workers = max_workers
        self.max_retries = max_retries
        self.timeout = timeout
        self.hedge = hedge
        self.backoff = backoff or Backoff()
        self.clock = clock
        self.draw = draw
        # Guards the pacer, the learnt limits, and the state of every run.
        self.changed = threading.Condition()
        self._runs: list[Run] = []  # under way, the oldest first
        self._turn = 0  # requests started in their turn
        self._overtaken = 0  # tokens that were let past the one whose turn it is
        self.learnt_items = math.inf
        self.learnt_tokens = math.inf

    def run(
        self,
        work: Work,
        tally: Tally,
        hedges: Hedges | None = None,
        *,
        deadline: float | None = None,
        since: float | None = None,
        cancelled: threading.Event | None = None,
    ) -> Iterator[Outcome]:
        """Send everything; yield each outcome as it comes, or soon after (`Run._hands_over`).

        Closing the iterator stops the run: nothing new is sent, and what is in flight is still
        given to `work.keep` when it arrives.

        Args:
            work: what to send.
            tally: where requests, retries and tokens are counted.
            hedges: what may be spent on stragglers besides, by this run and others; `None`: by
                this one alone.
            deadline: seconds after which all that is not done is lost.
            since: the clock's time from which they count; `None`: from now on.
            cancelled: set, with a `wake`, to stop the run from another thread.
        """
        hedges = hedges or Hedges()
        run = Run(self, work, tally, hedges, deadline=deadline, since=since, cancelled=cancelled)
        with self.changed:
            hedges.allow(run.charge)
            self._runs.append(run)
        try:
            yield from run.outcomes()
        finally:
            run.stop()
            with self.changed:
                self._runs.remove(run)
                self.changed.notify_all()  # it may have been its turn

    def wake(self) -> None:
        """Make every waiting call look again at what it waits for."""
        with self.changed:
            self.changed.notify_all()

    def start(self, now: float) -> float:
        """Start what may start now, of all runs; return the seconds until the next one in turn may.

        Called with `changed` held. Turns alternate between the run with the fewest batches left
        and the oldest: so a query need not wait for the end of a corpus, nor a corpus for that of
        the queries. While a batch waits for quota in its turn, others may overtake it, by no more
        tokens than it has itself.
        """
        while waiting := [run for run in self._runs if run.has_next(now)]:
            oldest = waiting[0]
            waiting.sort(key=Run.left)
            turn = oldest if self._turn % 2 else waiting[0]
            wait = turn.start_next(now)
            if wait <= 0:
                self._turn += 1
                self._overtaken = 0
            elif not self._overtake(turn, waiting, now):
                return wait
        return math.inf

    def _overtake(self, turn: Run, waiting: Sequence[Run], now: float) -> bool:
        for run in waiting:
            charge = run.next_charge()
            if run is turn or self._overtaken + charge > turn.next_charge():
                continue
            if run.start_next(now) <= 0:
                self._overtaken += charge
                return True
        return False

    def fits(self, batch: Batch) -> bool:
        """Tell whether a batch keeps the limits that were learnt since it was packed."""
        return len(batch.rows) == 1 or (
            len(batch.rows) <= self.learnt_items
            and batch.weight <= self.learnt_tokens
            and batch.charge <= self.pacer.largest()
        )

    def learn(self, batch: Batch, split: Split) -> None:
        """Keep the limit that a refusal taught."""
        if split.max_items is not None:
            self.learnt_items = min(self.learnt_items, split.max_items)
        elif split.learn:
            share = 0.5 if split.shrink is None else split.shrink * SAFETY
            self.learnt_tokens = min(self.learnt_tokens, max(1, int(batch.weight * share)))
