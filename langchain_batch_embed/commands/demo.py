"""The demo, which embeds the same sections of real text in three ways and times each.

The three ways are one request per section, `OpenAIEmbeddings` alone, and `BatchEmbeddings` as the
embeddings of a vector store. They run against the simulator or, with `live=True`, against the real
endpoint.
"""

import os
import platform
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import openai
from langchain_core.vectorstores import VectorStore
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

from langchain_batch_embed.commands.demo_store import empty_store
from langchain_batch_embed.commands.demo_table import rounded, table
from langchain_batch_embed.commands.demo_ways import (
    RequestCounter,
    in_turn,
    one_by_one,
    through_store,
)
from langchain_batch_embed.commands.demo_workload import Workload, first_line, read_workload
from langchain_batch_embed.commands.messages import say
from langchain_batch_embed.commands.offline import use_offline_tiktoken
from langchain_batch_embed.embeddings import BatchEmbeddings
from langchain_batch_embed.report import Report, dollars, plural
from langchain_batch_embed.simulator import Scenario, Simulator
from langchain_batch_embed.texts.tokens import counter_for

__all__ = ["LIVE_SECTIONS", "SECTIONS", "run"]

SECTIONS = 19_207
"""Default number of sections; their tokens would fill about eight requests."""

LIVE_SECTIONS = 500
"""Default number of sections at the real endpoint; the comparison then costs less than a cent."""

_MODEL = "text-embedding-3-small"
_HITS = 3
# The lowest tier whose quota none of the three ways reaches, so the demo shows the effect of
# batches and not of waiting.
_SCENARIO = Scenario(tier=3)

_COLUMNS = 80


def run(
    *,
    sections: int | None = None,
    path: Path | None = None,
    query: str | None = None,
    live: bool = False,
    yes: bool = False,
    scenario: Scenario | None = None,
) -> None:
    """Run the demo and print its results.

    Args:
        sections: the most sections to embed. `None`: `SECTIONS`, or `LIVE_SECTIONS` if `live`.
        path: the file or folder that the sections come from. `None`: Python's standard library.
        query: what to search for at the end. `None`: words that the sections contain.
        live: whether to use the real endpoint, with the key in OPENAI_API_KEY.
        yes: whether to spend money without asking first.
        scenario: what the simulator simulates. `None`: OpenAI's latency and limits, and the quota
            of tier 3.

    Raises:
        SystemExit: the demo cannot run; the message says what to do.
        ImportError: a package that the simulator needs is not installed.
        openai.OpenAIError: a request to the endpoint failed.
        PartialEmbeddingsError: `BatchEmbeddings` could not embed some sections.
    """
    if live and not os.environ.get("OPENAI_API_KEY"):
        raise SystemExit("--live needs your key: set OPENAI_API_KEY, or leave --live out")
    simulator = None if live else Simulator(scenario or _SCENARIO)
    source = path or f"Python {platform.python_version()}'s standard library"
    say(f"Cutting {source} into sections")
    count = sections or (LIVE_SECTIONS if live else SECTIONS)
    workload = read_workload(count, path, query, model=_MODEL)
    say(f"{len(workload.sections):,} sections, {sum(workload.tokens):,} tokens")
    use_offline_tiktoken()
    if simulator is not None:
        with simulator:
            _run_simulated(workload, simulator)
    elif _agreed(workload, yes=yes):
        _run_live(workload)
    else:
        say("Nothing was sent, nothing was spent.")


def _run_simulated(workload: Workload, simulator: Simulator) -> None:
    say(f"OpenAI's endpoint is simulated on this machine: {simulator.url}")
    counter = RequestCounter()
    # The user's environment variables for a real endpoint must not interfere.
    with closing(openai.DefaultHttpxClient(trust_env=False, event_hooks=counter.hooks)) as client:
        alone = OpenAIEmbeddings(
            model=_MODEL,
            base_url=simulator.url,
            api_key=SecretStr("any"),
            http_client=client,
            openai_api_type=None,
            openai_proxy="",
        )
        _compare(workload, alone, counter)
    say()
    say(f"Most requests that the server saw at once: {simulator.stats()['max_in_flight']}")


def _run_live(workload: Workload) -> None:
    counter = RequestCounter()
    # OpenAIEmbeddings accepts a client or a proxy, not both. The client counts requests, so it gets
    # the proxy.
    proxy = os.environ.get("OPENAI_PROXY")
    with closing(openai.DefaultHttpxClient(proxy=proxy, event_hooks=counter.hooks)) as client:
        alone = OpenAIEmbeddings(model=_MODEL, http_client=client, openai_proxy="")
        _compare(workload, alone, counter)


def _agreed(workload: Workload, *, yes: bool) -> bool:
    """Print the price of a live run, and return whether the user agrees to it."""
    # The query is sent once to open the connection and once to search, and the store sends one more
    # text.
    single = counter_for(_MODEL).count([*workload.sample, *[workload.query] * 3])
    tokens = 2 * sum(workload.tokens) + int(single.sum())
    cost = dollars(_MODEL, tokens) or 0.0
    say(f"They will be embedded twice by {_MODEL}, {len(workload.sample)} of them a third time:")
    say(f"{tokens:,} tokens, which cost ${cost:,.4f} at OpenAI's list price.")
    if yes:
        return True
    try:
        return input("Go on? [y/N] ").strip().lower() in {"y", "yes"}
    except EOFError:  # there is no user to ask
        return False


def _compare(workload: Workload, alone: OpenAIEmbeddings, counter: RequestCounter) -> None:
    """Embed the sections in three ways, print the comparison, and search."""
    single, vectors = one_by_one(workload, alone)
    serial = in_turn(workload, alone, counter)

    # This is the only line that users add to their code.
    embeddings = BatchEmbeddings(alone, show_progress=sys.stderr.isatty())
    with empty_store(embeddings) as store:
        concurrent, writing = through_store(workload, embeddings, store)

        say()
        say(table([single, serial, concurrent]))
        say()
        if len(workload.sample) < len(workload.sections):
            say(f"* measured on {len(workload.sample)} sections and extrapolated to all")
        faster = rounded(serial.seconds / concurrent.seconds)
        say(f"Writing the vectors into {type(store).__name__} took {rounded(writing)} s more.")
        say(f"BatchEmbeddings was {faster} times faster than OpenAIEmbeddings alone.")
        say(f"It sends up to {embeddings.limits.max_workers} requests at once.")
        if sent_twice := _sent_twice(embeddings.last_report):
            say(sent_twice)
        _search(workload, store, vectors)


def _sent_twice(report: Report | None) -> str | None:
    """Return a sentence about the requests that were sent twice, or `None` if none was."""
    if report is None or not report.hedged:
        return None
    share = report.hedged_tokens / max(1, report.tokens)
    return (
        f"Because answers were late, it sent {plural(report.hedged, 'request')} twice "
        f"({share:.1%} of the\ntokens); hedge=False turns that off."
    )


def _search(workload: Workload, store: VectorStore, vectors: Sequence[list[float]]) -> None:
    """Check that the store finds each section of the sample by its vector, and run the query."""
    # The sample was embedded one by one, so its vectors are certain to belong to its texts.
    found = [store.similarity_search_by_vector(vector, k=1)[0] for vector in vectors]
    right = sum(hit.page_content == text for hit, text in zip(found, workload.sample, strict=True))
    say(f"{right} of {len(vectors)} sections of the sample are found by their own vectors.")
    say()
    say(f'Search: "{workload.query}"'[:_COLUMNS])
    for rank, hit in enumerate(store.similarity_search(workload.query, k=_HITS), 1):
        where = f"{hit.metadata['file']}:{hit.metadata['line']}"
        say(f"{rank}. {where}  {first_line(hit.page_content)}"[:_COLUMNS])
