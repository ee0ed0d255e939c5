"""What a far API allows at best: `python -m tests.benchmarks.floor`.

The rounds of `compare --scenario far` in simulated time, for clients that cost nothing: they count,
send, read and make lists in no time at all. What is left is how long the answers themselves take,
so a client that sends the same requests cannot be faster. The n-th request has the same luck here
as in the same round there, and a new connection costs the same.

Ours are the package's own batches, pacer and hedges: they find out about the quota first, and have
no more in flight than `max_workers`. The others know the quota and send everything at once.
"""

import argparse
import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
from langchain_batch_embed.hedging import Hedges
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

from langchain_batch_embed import BatchEmbeddings
from langchain_batch_embed.commands.corpus import sections, standard_library
from langchain_batch_embed.pacing import Pacer, Ticket
from langchain_batch_embed.simulator import Scenario
from langchain_batch_embed.simulator.run import Run as Luck
from tests.benchmarks.compare import SCENARIOS, SECTIONS

__all__ = ["FreeClient", "Request"]

AT_ONCE = (100, 300, 1000)


@dataclass(eq=False, kw_only=True)
class Request:
    """A batch of so many tokens; `charge` is what the limiter counts for it."""

    tokens: int
    charge: int
    sent: float = 0.0
    copies: int = 0
    is_answered: bool = False


class FreeClient:
    """Sends requests in simulated time, and costs nothing.

    Args:
        scenario: the server's latency, luck and quota.
        pacer: says when the next request may start.
        hedges: say which are sent a second time; `None`: none are.
    """

    def __init__(self, scenario: Scenario, pacer: Pacer, hedges: Hedges | None = None) -> None:
        self._luck = Luck(scenario)
        self._pacer = pacer
        self._hedges = hedges
        self._answers: list[tuple[float, int, Request, Ticket]] = []  # a heap by time
        self._number = itertools.count()  # keeps the heap from comparing requests
        self._unused = 0  # open connections without a request

    def run(self, requests: Sequence[Request]) -> float:
        """Send all of them, in this order; return the seconds until each has its answer.

        Raises:
            RuntimeError: one was refused, which this client does not provide for.
        """
        if self._hedges:
            self._hedges.allow(sum(request.charge for request in requests))
        ready = list(reversed(requests))
        left = len(requests)
        now = 0.0
        while left:
            while ready and self._pacer.wait(ready[-1].charge, now) <= 0:
                self._send(ready.pop(), now)
            wait = self._pacer.wait(ready[-1].charge, now) if ready else self._hedge(now)
            if not self._answers or now + wait < self._answers[0][0]:
                now += wait
                continue
            now, _, request, ticket = heapq.heappop(self._answers)
            self._unused += 1
            self._pacer.succeeded(ticket, self._luck.quota.headers(now), now)
            if self._hedges:
                self._hedges.answered(now - ticket.sent)
            left -= not request.is_answered
            request.is_answered = True
        return now

    def _send(self, request: Request, now: float) -> None:
        cold = not self._unused
        self._unused -= not cold
        call = self._luck.arrive(on_new_connection=cold, is_cold=cold)
        call.tokens = request.tokens
        if self._luck.quota.admit(request.charge, now):
            raise RuntimeError("the scenario's quota is too small for a floor")
        request.sent, request.copies = now, request.copies + 1
        answered = now + call.network_seconds + call.server_seconds()
        ticket = self._pacer.start(request.charge, now)
        heapq.heappush(self._answers, (answered, next(self._number), request, ticket))

    def _hedge(self, now: float) -> float:
        """Send stragglers again, as `run.Run` does; return the seconds until the next one."""
        if self._hedges is None:
            return math.inf
        # Each once, whether or not it has a copy on its way.
        in_flight = dict.fromkeys(each for _, _, each, _ in self._answers if not each.is_answered)
        patience = self._hedges.patience(sum(request.charge for request in in_flight))
        wait = math.inf
        for request in in_flight:
            left = request.sent + patience - now
            if request.copies > 1 or not self._hedges.affords(request.charge):
                continue
            if left <= 0 and self._pacer.wait(request.charge, now) <= 0:
                self._hedges.spend(request.charge)
                self._send(request, now)
            elif left > 0:
                wait = min(wait, left)
        return wait


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; `arguments` are the command line's."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.floor")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sections", type=int, default=SECTIONS, help="how many texts")
    options = parser.parse_args(arguments)
    texts = [section.text for section in sections(standard_library()[1], options.sections)]
    embeddings = BatchEmbeddings(
        OpenAIEmbeddings(model="text-embedding-3-small", api_key=SecretStr("any"))
    )
    pipeline, limits = embeddings._pipeline, embeddings.limits
    inputs = pipeline.prepare(texts)
    batches = pipeline.batches(inputs, np.arange(len(inputs.texts)))
    tokens, charge = int(inputs.weights.sum()), int(inputs.charges.sum())

    def ours() -> list[Request]:
        return [
            Request(tokens=int(inputs.weights[rows].sum()), charge=int(inputs.charges[rows].sum()))
            for rows in batches
        ]

    def equal(count: int) -> list[Request]:
        return [Request(tokens=tokens // count, charge=charge // count) for _ in range(count)]

    def finding_out() -> Pacer:
        return Pacer(max_workers=limits.max_workers, first_requests=limits.first_requests)

    far = [replace(SCENARIOS["far"], seed=seed) for seed in range(options.rounds)]
    print(f"{len(texts):,} texts, medians of {options.rounds} rounds\n")
    print("| a client that costs nothing | seconds |\n|---|--:|")
    for count in AT_ONCE:
        walls = [
            FreeClient(scenario, Pacer(max_workers=count, first_requests=count)).run(equal(count))
            for scenario in far
        ]
        print(f"| {count:,} equal requests, all at once | {median(walls):.2f} |")
    for label, hedge in (("`BatchEmbeddings`", False), ("`BatchEmbeddings(hedge=True)`", True)):
        walls = [
            FreeClient(scenario, finding_out(), Hedges() if hedge else None).run(ours())
            for scenario in far
        ]
        print(f"| {len(batches):,} requests of {label} | {median(walls):.2f} |")


if __name__ == "__main__":
    main()
