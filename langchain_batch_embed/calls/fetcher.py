"""Fetches the vectors of prepared texts: what a call and a run of a prefetch have in common.

missing inputs -> the journal -> batches -> paced, concurrent requests -> checked vectors, kept
"""

import asyncio
import contextlib
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from langchain_batch_embed.calls.dimensions import Dimensions
from langchain_batch_embed.calls.recovery import CallRecovery, Recovery
from langchain_batch_embed.calls.results import Results
from langchain_batch_embed.calls.usage import told
from langchain_batch_embed.errors import Failure
from langchain_batch_embed.limits import Limits
from langchain_batch_embed.pacing.hedging import Hedges
from langchain_batch_embed.providers import Answer, Provider
from langchain_batch_embed.report import DOLLARS_PER_MILLION_TOKENS, Report, Tally, Usage
from langchain_batch_embed.sending.budget import Budget
from langchain_batch_embed.sending.dispatcher import Dispatcher
from langchain_batch_embed.sending.work import Rows, Work
from langchain_batch_embed.texts.inputs import Inputs, LongInputs, prepare
from langchain_batch_embed.texts.tokens import TokenCounter

__all__ = ["Fetch", "Fetcher"]


def _ignore(work: Work) -> None:
    """Take no interest in what is to be sent."""


@dataclass(slots=True, kw_only=True)
class Fetch:
    """The inputs whose vectors are to be fetched, and what has come of them.

    Attributes:
        inputs: what is sent.
        results: where the vectors are gathered.
        recovery: looks them up and keeps them.
        tally: counts what they cost.
        budget: what they may cost; `None`: anything.
        query: the text is a query: not kept, and sent as the provider sends queries.
    """

    inputs: Inputs
    results: Results
    recovery: CallRecovery
    tally: Tally = field(default_factory=Tally)
    budget: Budget | None = None
    query: bool = False

    def charge_left(self) -> int:
        """Return the tokens, as the limiter charges them, that are still to be answered."""
        rows = self.inputs.missing(self.results.done)
        return int(self.inputs.charges[rows[~self.results.lost[rows]]].sum())


class Fetcher:
    """Fetches for all calls of one object.

    Attributes:
        known_dimensions: of the vectors that have come, unless they are in doubt.
        last_report: of the call or the prefetch that ended last.
    """

    def __init__(
        self,
        *,
        limits: Limits,
        provider: Provider,
        counter: TokenCounter,
        dispatcher: Dispatcher,
        recovery: Recovery,
        long_inputs: LongInputs,
        on_usage: Callable[[Usage], object] | None = None,
        max_dollars: float | None = None,
    ) -> None:
        self.limits = limits
        self.provider = provider
        self.counter = counter
        self.dispatcher = dispatcher
        self.recovery = recovery
        self._long_inputs: LongInputs = long_inputs
        model = provider.model
        self._send = told(provider.send, on_usage, model=model, counter=counter)
        self._send_query = told(provider.send_query, on_usage, model=model, counter=counter)
        self._max_dollars = max_dollars
        self.known_dimensions: int | None = None
        self.last_report: Report | None = None

    def prepare(self, texts: Sequence[str], counter: TokenCounter | None = None) -> Inputs:
        """Find what has to be sent for the texts.

        Args:
            texts: what the caller gave.
            counter: counts their tokens; `None`: the provider's own.

        Raises:
            InputError: a text can never be embedded.
        """
        return prepare(
            texts,
            counter=counter or self.counter,
            limits=self.limits,
            long_inputs=self._long_inputs,
            server=self.provider.name,
        )

    def begin(
        self, inputs: Inputs, dimensions: Dimensions, *, lists: bool, query: bool = False
    ) -> Fetch:
        """Return the fetch of prepared texts, of which nothing has come yet."""
        results = Results(inputs, dimensions=dimensions, lists=lists)
        recovery = self.recovery.for_call(inputs, results, query=query)
        return Fetch(
            inputs=inputs, results=results, recovery=recovery, query=query, budget=self.budget()
        )

    def budget(self) -> Budget | None:
        """Return what one call may spend; `None`: anything."""
        price = DOLLARS_PER_MILLION_TOKENS.get(self.provider.model or "")
        if self._max_dollars is None or price is None:
            return None
        return Budget(self._max_dollars, price=price)

    def run(
        self,
        fetch: Fetch,
        hedges: Hedges | None = None,
        *,
        deadline: float | None = None,
        since: float | None = None,
        cancelled: threading.Event | None = None,
        begun: Callable[[Work], object] = _ignore,
        progress: Callable[[], object],
    ) -> list[Failure]:
        """Fetch the vectors that are missing, from the journal or by requests.

        Args:
            fetch: what to fetch.
            hedges: what may be spent on stragglers, by this and others; `None`: by this alone.
            deadline: seconds until the rest is given up; `None`: any time.
            since: the clock's time from which they count; `None`: from now on.
            cancelled: set, with a `wake`, to stop from another thread.
            begun: called with what is to be sent, once the journal was read.
            progress: called each time that some vectors have come.

        Returns:
            The texts that have no vector, and why.
        """
        work = self._left_to_send(fetch)
        begun(work)
        progress()
        if len(work.rows):  # else neither a lock nor a thread is needed
            for outcome in self.dispatcher.run(
                work, fetch.tally, hedges, deadline=deadline, since=since, cancelled=cancelled
            ):
                fetch.results.settle(outcome)
                progress()
        if cancelled is not None and cancelled.is_set():
            raise asyncio.CancelledError
        failures = fetch.results.finish()
        progress()  # over-long texts are averaged at the end
        return failures

    async def arun(
        self,
        fetch: Fetch,
        *,
        deadline: float | None,
        since: float,
        begun: Callable[[Work], object] = _ignore,
    ) -> list[Failure]:
        """Do the same in an event loop, without a thread that waits."""
        work = self._left_to_send(fetch)
        begun(work)
        if len(work.rows):
            outcomes = self.dispatcher.arun(work, fetch.tally, deadline=deadline, since=since)
            async with contextlib.aclosing(outcomes):
                async for outcome in outcomes:
                    fetch.results.settle(outcome)
        return fetch.results.finish()

    def work(
        self,
        inputs: Inputs,
        results: Results,
        *,
        keep: Callable[[Rows, Answer], None],
        query: bool = False,
        budget: Budget | None = None,
    ) -> Work:
        """Return what has to be sent for the vectors that are missing."""
        limit = self.limits.max_tokens_per_request
        return Work(
            rows=inputs.missing(results.done),
            sizes=inputs.sizes,
            max_items=self.limits.max_batch_size,
            max_tokens=math.inf if limit is None else limit,
            texts=inputs.texts,
            send=self._send_query if query else self._send,
            keep=keep,
            makes_lists=results.as_lists,
            budget=budget,
        )

    def learn_dimensions(self, dimensions: Dimensions) -> None:
        """Hold later calls to the dimensions of vectors that came, unless they are in doubt."""
        if dimensions.in_doubt:
            self.known_dimensions = None
        elif dimensions.is_confirmed:
            self.known_dimensions = dimensions.number

    def _left_to_send(self, fetch: Fetch) -> Work:
        """Fill in what is kept from before; return the rest."""
        fetch.tally.recalled += fetch.recovery.recall()
        fetch.tally.remembered += fetch.recovery.from_memory
        keep = fetch.recovery.keep
        return self.work(
            fetch.inputs, fetch.results, keep=keep, query=fetch.query, budget=fetch.budget
        )
