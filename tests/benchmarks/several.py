"""Several deployments as one, over real HTTP: `python -m tests.benchmarks.several`.

There are three servers with a quota of 5M tokens a minute each. One is dead after a second, one is
ten times slower, and one answers 429 without a header or a hint. The ideal is what the quotas then
allow: the buckets are full at the start, and refill until everything is let in.
"""

import argparse
import time
from contextlib import ExitStack

from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

from langchain_batch_embed import BatchEmbeddings, Report
from langchain_batch_embed.simulator import Scenario, Simulator

QUOTA = 5_000_000
"""Tokens a minute of each server, and the capacity of its bucket."""

WORDS = 400
"""Words of a text, each of one token and six bytes, which the limiter charges as 600 tokens."""

CHARGE = 600

DEAD = Scenario(tokens_per_minute=QUOTA, dimensions=64, outages=((1.0, 1e6),))
HANGS = Scenario(tokens_per_minute=QUOTA, dimensions=64, outages=((1.0, 1e6),), outage="hang")
SLOW = Scenario(tokens_per_minute=QUOTA, dimensions=64, latency=10.0)
BARE = Scenario(
    tokens_per_minute=QUOTA,
    dimensions=64,
    rate_limit_headers=False,
    refusal_hint="none",
    error_details=False,
)
WELL = Scenario(tokens_per_minute=QUOTA, dimensions=64)


def main() -> None:
    """Print the time of each run and the report of each deployment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=50_000, help=f"of {CHARGE} tokens each")
    count = parser.parse_args().texts
    texts = [f"{number:08} " + "words " * WORDS for number in range(count)]
    for name, scenarios in (
        ("one dead after a second, one slow, one with bare 429s", (DEAD, SLOW, BARE)),
        ("the same, but the dead one hangs", (HANGS, SLOW, BARE)),
        ("two that are well", (WELL, WELL)),
    ):
        run(name, scenarios, texts)


def run(name: str, scenarios: tuple[Scenario, ...], texts: list[str]) -> None:
    """Embed the texts with these servers, and print the time beside the ideal."""
    with ExitStack() as stack:
        servers = [stack.enter_context(Simulator(scenario)) for scenario in scenarios]
        embeddings = BatchEmbeddings(
            [
                OpenAIEmbeddings(
                    base_url=server.url, api_key=SecretStr("any"), model="text-embedding-3-small"
                )
                for server in servers
            ]
        )
        began = time.perf_counter()
        vectors = embeddings.embed_numpy(texts)
        seconds = time.perf_counter() - began
    report = embeddings.last_report
    assert report is not None
    assert len(vectors) == len(texts)
    ideal = ideal_seconds(scenarios, report, len(texts) * CHARGE)
    print(f"{name}: {seconds:.1f} s, ideal {ideal:.1f} s, {seconds / ideal:.2f} times; {report}")
    for part in report.deployments:
        print(f"    {part}")
    print(flush=True)


def ideal_seconds(scenarios: tuple[Scenario, ...], report: Report, tokens: int) -> float:
    """Return when the quotas of the live servers have let in what the dead ones have not done."""
    alive = sum(not scenario.outages for scenario in scenarios)
    dead = sum(
        part.texts * CHARGE
        for part, scenario in zip(report.deployments, scenarios, strict=False)
        if scenario.outages
    )
    return (tokens - dead - alive * QUOTA) / (alive * QUOTA / 60)


if __name__ == "__main__":
    main()
