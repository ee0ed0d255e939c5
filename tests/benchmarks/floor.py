"""The best time that a far API allows: `python -m tests.benchmarks.floor`.

The rounds of `compare --scenario far` in simulated time, for clients that cost nothing: they count,
send, read and make lists in no time at all. Only the time of the answers themselves remains, so a
client that sends the same requests cannot be faster. The n-th request has the same luck here as in
the same round there, and a new connection costs the same.

For ours, the package's own queue, pacer and hedges run: they find out about the quota first, and
have no more in flight than `max_workers`. The others know the quota and send everything at once.
"""

import argparse
import heapq
import random
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import numpy as np
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

from langchain_batch_embed import BatchEmbeddings
from langchain_batch_embed.calls.results import Results
from langchain_batch_embed.commands.corpus import sections, standard_library
from langchain_batch_embed.pacing.hedging import Hedges
from langchain_batch_embed.pacing.pacer import Pacer
from langchain_batch_embed.providers import Answer
from langchain_batch_embed.report import Tally
from langchain_batch_embed.sending.deployment import Deployment
from langchain_batch_embed.sending.rehearsal import Reply, Request, rehearse
from langchain_batch_embed.sending.sender import Sender
from langchain_batch_embed.sending.work import Rows, Work
from langchain_batch_embed.simulator import Scenario
from langchain_batch_embed.simulator.run import Run as Luck
from langchain_batch_embed.texts.packing import Sizes
from tests.benchmarks.compare import SCENARIOS, SECTIONS

__all__ = ["FreeServer", "equal_requests", "run"]

AT_ONCE = (100, 300, 1000)


class FreeServer:
    """The simulator in simulated time.

    Args:
        scenario: its latency, luck and quota.
    """

    def __init__(self, scenario: Scenario) -> None:
        self._luck = Luck(scenario)
        self._open: list[float] = []  # a heap of the times at which each connection is free again

    def receive(self, request: Request) -> Reply:
        """Answer a request; calls must be in order of `sent`.

        Raises:
            RuntimeError: the request exceeds the quota, which would make the figure meaningless.
        """
        cold = not self._open or self._open[0] > request.sent
        if not cold:
            heapq.heappop(self._open)
        call = self._luck.arrive(on_new_connection=cold, is_cold=cold)
        call.tokens = request.tokens
        if self._luck.quota.admit(request.charge, request.sent):
            raise RuntimeError("the scenario's quota is too small for a floor")
        after = call.network_seconds + call.server_seconds()
        heapq.heappush(self._open, request.sent + after)
        return Reply(after=after, headers=self._luck.quota.headers(request.sent))


def equal_requests(count: int, *, tokens: int, charge: int) -> Work:
    """Return work of this many requests of this many tokens each; it is never really sent."""
    return Work(
        rows=np.arange(count),
        sizes=Sizes(
            tokens=np.full(count, tokens),
            charges=np.full(count, charge),
            octets=np.full(count, 4 * charge),
        ),
        max_items=1,
        max_tokens=tokens,
        texts=[""] * count,
        sends=(_send_nothing,),
        keep=_keep_nothing,
    )


def run(
    scenario: Scenario, work: Work, *, max_workers: int, first_requests: int, hedge: bool = False
) -> tuple[float, Tally]:
    """Send work in simulated time at no cost, and return the seconds and the counts.

    Args:
        scenario: the server's scenario.
        work: what to send.
        max_workers: most requests in flight.
        first_requests: requests that are sent before anything is known about the quota.
        hedge: whether to send late requests a second time.
    """
    draw = random.Random(scenario.seed).random
    pacer = Pacer(max_workers=max_workers, first_requests=first_requests, is_known=True, draw=draw)
    sender = Sender([Deployment(pacer, max_retries=8, timeout=600.0, draw=draw)], hedge=hedge)
    queue = sender.queue(work, tally := Tally(), Hedges())
    sender.add(queue, 0.0)
    return rehearse(sender, [queue], FreeServer(scenario)), tally


def _send_nothing(texts: Sequence[str], *, timeout: float) -> Answer:
    raise NotImplementedError


def _keep_nothing(rows: Rows, answer: Answer) -> None:
    """Accept the answers, which do not occur in a rehearsal."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; `arguments` are those of the command line."""
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
    ours = pipeline.fetcher.work(inputs, Results(inputs), keep=_keep_nothing)
    tokens, charge = int(ours.sizes.tokens.sum()), int(ours.sizes.charges.sum())

    far = [replace(SCENARIOS["far"], seed=seed) for seed in range(options.rounds)]
    print(f"{len(texts):,} texts, medians of {options.rounds} rounds\n")
    print("| a client that costs nothing | seconds |\n|---|--:|")
    for count in AT_ONCE:
        work = equal_requests(count, tokens=tokens // count, charge=charge // count)
        walls = [
            run(scenario, work, max_workers=count, first_requests=count)[0] for scenario in far
        ]
        print(f"| {count:,} equal requests, all at once | {median(walls):.2f} |")
    for label, hedge in (("`BatchEmbeddings`", True), ("`BatchEmbeddings(hedge=False)`", False)):
        runs = [
            run(
                scenario,
                ours,
                max_workers=limits.max_workers,
                first_requests=limits.first_requests,
                hedge=hedge,
            )
            for scenario in far
        ]
        sent = median(tally.requests for _, tally in runs)
        print(f"| {sent:,.0f} requests of {label} | {median(wall for wall, _ in runs):.2f} |")


if __name__ == "__main__":
    main()
