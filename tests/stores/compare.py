"""Time the same caller with `OpenAIEmbeddings` and with `BatchEmbeddings`.

    python -m tests.stores.compare --texts 2000

For each store, print the seconds that each class takes, the requests that each sends, and whether
rows and search results are the same. The local server has the latency that was measured at
OpenAI's API.
"""
# ruff: noqa: T201 - a command prints

import argparse
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

from langchain_batch_embed import BatchEmbeddings
from langchain_batch_embed.commands.offline import use_offline_tiktoken
from langchain_batch_embed.simulator import Scenario, Simulator
from tests.stores.callers import CALLERS
from tests.stores.corpus import corpus
from tests.stores.places import Places, missing_packages
from tests.stores.reading import Row, close, results_of, rows_of


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of one caller.

    Attributes:
        seconds: from receiving the documents to the filled store.
        requests: sent to the embeddings server during the run.
        rows: what the store held after the run.
        results: what a few searches found.
    """

    seconds: float
    requests: int
    rows: list[Row]
    results: list[tuple[str, str]]


def run(
    name: str,
    documents: list[Document],
    embeddings: Embeddings,
    *,
    places: Places,
    simulator: Simulator,
) -> Run:
    """Run the caller of this name in a fresh place."""
    os.environ.update(places.fresh(name))
    simulator.reset()
    started = time.perf_counter()
    store = CALLERS[name](documents, embeddings)
    seconds = time.perf_counter() - started
    requests = simulator.stats()["requests"]
    result = Run(
        seconds=seconds,
        requests=requests,
        rows=rows_of(name, store),
        results=results_of(store),
    )
    close(name, store)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table with a line for each store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=2000)
    texts: int = parser.parse_args(arguments).texts
    documents = corpus(copies=-(-texts // len(corpus())))[:texts]
    use_offline_tiktoken()
    key = SecretStr("any")
    print(f"{texts:,} texts     OpenAIEmbeddings    BatchEmbeddings    same rows and results")
    with Simulator(Scenario()) as simulator, Places() as places:
        for name in CALLERS:
            if missing := missing_packages(name):
                print(f"{name:12} NOT RUN: {' and '.join(missing)} missing")
                continue
            # A first run that is not counted, so that neither class pays for the store's imports.
            fake = DeterministicFakeEmbedding(size=1536)
            run(name, documents[:9], fake, places=places, simulator=simulator)
            # Fresh objects, so that each class pays for its own connections.
            plain = OpenAIEmbeddings(base_url=simulator.url, api_key=key)
            batching = BatchEmbeddings(OpenAIEmbeddings(base_url=simulator.url, api_key=key))
            before, after = (
                run(name, documents, embeddings, places=places, simulator=simulator)
                for embeddings in (plain, batching)
            )
            same = (before.rows, before.results) == (after.rows, after.results)
            print(
                f"{name:12} {before.seconds:7.2f} s {before.requests:4} req."
                f" {after.seconds:7.2f} s {after.requests:4} req.    {'yes' if same else 'NO'}"
            )


if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)  # of the stores' packages
    main()
