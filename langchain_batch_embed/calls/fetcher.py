"""Fetches the vectors of prepared texts, both for a call and for a run of a prefetch.

missing inputs -> the journal -> batches -> paced, concurrent requests -> checked vectors, kept
"""

import asyncio
import contextlib
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from langchain_batch_embed.calls.dimensions import Dimensions
from langchain_batch_embed.calls.recovery import CallRecovery, Recovery
from langchain_batch_embed.calls.results import Results
from langchain_batch_embed.calls.same_space import SameSpace
from langchain_batch_embed.calls.usage import one_at_a_time, told
from langchain_batch_embed.errors import Failure
from langchain_batch_embed.limits import Limits
from langchain_batch_embed.pacing.hedging import Hedges
from langchain_batch_embed.providers import Answer, Provider
from langchain_batch_embed.report import DOLLARS_PER_MILLION_TOKENS, Report, Tally, Usage
from langchain_batch_embed.sending.budget import Budget
from langchain_batch_embed.sending.dispatcher import Dispatcher
from langchain_batch_embed.sending.work import Rows, Send, Work
from langchain_batch_embed.texts.inputs import Inputs, LongInputs, prepare
from langchain_batch_embed.texts.tokens import TokenCounter

__all__ = ["Fetch", "Fetcher"]


def _ignore(work: Work) -> None:
    """Ignore the work: the default `begun` callback."""


@dataclass(slots=True, kw_only=True)
class Fetch:
    """The inputs whose vectors are to be fetched, and the results so far.

    Attributes:
        inputs: the inputs to send.
        results: collects the vectors.
        recovery: looks up kept vectors, and keeps new ones.
        tally: counts requests and tokens.
        budget: the most that may be spent; `None` if there is no limit.
        query: the text is a query, which is not kept and is sent as the provider sends queries.
    """

    inputs: Inputs
    results: Results
    recovery: CallRecovery
    tally: Tally = field(default_factory=Tally)
    budget: Budget | None = None
    query: bool = False

    def charge_left(self) -> int:
        """Return the tokens, as the limiter charges them, that have no answer yet."""
        rows = self.inputs.missing(self.results.done)
        return int(self.inputs.charges[rows[~self.results.lost[rows]]].sum())


class Fetcher:
    """Fetches vectors for all calls of one `BatchEmbeddings`.

    Attributes:
        provider: the provider of the first deployment; all deployments use its space.
        batch_number: the number of the first deployment on OpenAI's own server, which has a Batch
            API; 0 if there is none.
        on_usage: reports each paid answer to the user; `None` if the user passed no `on_usage`.
        known_dimensions: the dimensions of the vectors received so far; `None` if they are unknown
            or in doubt.
        last_report: the report of the last call or prefetch that ended.
    """

    def __init__(
        self,
        *,
        limits: Limits,
        providers: Sequence[Provider],
        counter: TokenCounter,
        dispatcher: Dispatcher,
        recovery: Recovery,
        long_inputs: LongInputs,
        same_space: SameSpace | None = None,
        on_usage: Callable[[Usage], object] | None = None,
        max_dollars: float | None = None,
    ) -> None:
        self.limits = limits
        self.provider = providers[0]
        for each in providers:
            each.space = self.provider.space  # one journal key, whichever made the vector
        self.providers = tuple(providers)
        has_batches = (
            number
            for number, each in enumerate(providers)
            if each.is_known and ".azure." not in each.address
        )
        self.batch_number = next(has_batches, 0)
        self.counter = counter
        self.dispatcher = dispatcher
        self.recovery = recovery
        self._long_inputs: LongInputs = long_inputs
        self.on_usage = one_at_a_time(on_usage)
        tell = partial(told, on_usage=self.on_usage, model=self.provider.model, counter=counter)
        sends: list[Send] = [each.send for each in providers]
        query_sends: list[Send] = [each.send_query for each in providers]
        if same_space is not None:
            sends = [same_space.renamed(*each) for each in enumerate(sends)]
            query_sends = [same_space.renamed(*each) for each in enumerate(query_sends)]
        self._sends, self._query_sends = tuple(map(tell, sends)), tuple(map(tell, query_sends))
        self._shares_queries = all(each.shares_queries for each in providers)
        self._max_dollars = max_dollars
        self.known_dimensions: int | None = None
        self.last_report: Report | None = None

    def prepare(self, texts: Sequence[str], counter: TokenCounter | None = None) -> Inputs:
        """Return the inputs to send for some texts.

        Args:
            texts: the caller's texts.
            counter: counts their tokens; `None` for the provider's own counter.

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
        """Return a new `Fetch` of prepared texts, which has no vectors yet."""
        results = Results(inputs, dimensions=dimensions, lists=lists)
        recovery = self.recovery.for_call(inputs, results, query=query)
        return Fetch(
            inputs=inputs, results=results, recovery=recovery, query=query, budget=self.budget()
        )

    def budget(self) -> Budget | None:
        """Return a new budget for one call, or `None` if there is no limit."""
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
        """Fetch the missing vectors from the journal or by requests.

        Args:
            fetch: what to fetch.
            hedges: the allowance for second copies of late requests, shared with other fetches;
                `None` if this fetch has its own.
            deadline: seconds after which the rest is given up; `None` for no deadline.
            since: the clock's time at which the deadline starts to count; `None` for now.
            cancelled: set it and call `wake` to stop from another thread.
            begun: called with the work to send, once the journal has been read.
            progress: called each time some vectors have arrived.

        Returns:
            The texts that have no vector, with their errors.

        Raises:
            asyncio.CancelledError: `cancelled` was set.
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
        progress()  # `finish` has added the vectors of over-long texts
        return failures

    async def arun(
        self,
        fetch: Fetch,
        *,
        deadline: float | None,
        since: float,
        begun: Callable[[Work], object] = _ignore,
    ) -> list[Failure]:
        """Fetch as `run` does, but in the event loop, without a waiting thread."""
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
        """Return the work to send for the missing vectors.

        Args:
            inputs: the inputs of the texts.
            results: knows which vectors are missing.
            keep: checks and keeps the vectors of an answer.
            query: send as the provider sends queries.
            budget: the most that may be spent; `None` if there is no limit.
        """
        limit = self.limits.max_tokens_per_request
        return Work(
            rows=inputs.missing(results.done),
            sizes=inputs.sizes,
            max_items=1 if query and not self._shares_queries else self.limits.max_batch_size,
            max_tokens=math.inf if limit is None else limit,
            texts=inputs.texts,
            sends=self._query_sends if query else self._sends,
            canaries=self._sends if len(self._sends) > 1 else (),
            keep=keep,
            makes_lists=results.as_lists,
            budget=budget,
        )

    def learn_dimensions(self, dimensions: Dimensions) -> None:
        """Make later calls expect the dimensions of these vectors, unless they are in doubt."""
        if dimensions.in_doubt:
            self.known_dimensions = None
        elif dimensions.is_confirmed:
            self.known_dimensions = dimensions.number

    def _left_to_send(self, fetch: Fetch) -> Work:
        """Fill in the vectors that are kept from before; return the work for the rest."""
        fetch.tally.recalled += fetch.recovery.recall()
        fetch.tally.remembered += fetch.recovery.from_memory
        keep = fetch.recovery.keep
        return self.work(
            fetch.inputs, fetch.results, keep=keep, query=fetch.query, budget=fetch.budget
        )
