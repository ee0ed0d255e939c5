"""The demo: the same sections of real text, embedded in three ways and timed.

One request a section, `OpenAIEmbeddings` alone, and `BatchEmbeddings` as the embeddings of a
vector store. Against the simulator, or with `live=True` against the real endpoint.
"""

import os
import sqlite3
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import openai
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from langchain_openai import OpenAIEmbeddings
from tqdm.auto import tqdm

from langchain_batch_embed import corpus
from langchain_batch_embed.corpus import Section
from langchain_batch_embed.embeddings import BatchEmbeddings
from langchain_batch_embed.offline import use_offline_tiktoken
from langchain_batch_embed.report import dollars
from langchain_batch_embed.simulator import Scenario, Simulator
from langchain_batch_embed.tokens import counter_for

__all__ = ["LIVE_SECTIONS", "SECTIONS", "Way", "run", "table"]

SECTIONS = 19_207
"""Sections that the demo takes from the standard library, about ten full requests."""

LIVE_SECTIONS = 500
"""The same with `live=True`: enough to see the difference, for less than a cent."""

MODEL = "text-embedding-3-small"

_SAMPLE = 20  # sections that are sent one by one
_HITS = 3
_COLUMNS = 80
_LIBRARY_QUERY = "read a compressed gzip file"

say = partial(print, flush=True)  # a reader that waits wants each line at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to embed all sections, and what it took.

    Attributes:
        name: what the table calls it.
        requests: requests sent.
        tokens: tokens billed.
        seconds: from the first request to the last vector.
    """

    name: str
    requests: int
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What is embedded: sections, with their files' common folder, and a query."""

    folder: Path
    sections: Sequence[Section]
    query: str

    @property
    def texts(self) -> list[str]:
        return [section.text for section in self.sections]

    @property
    def sample(self) -> list[Section]:
        """Some sections, taken evenly."""
        count = len(self.sections)
        few = min(_SAMPLE, count)
        return [self.sections[i * count // few] for i in range(few)]

    def file(self, section: Section) -> str:
        return section.path.relative_to(self.folder).as_posix()


class _Wire:
    """Counts the requests that pass, and shows them on a bar."""

    def __init__(self) -> None:
        self.requests = 0
        self.bar: tqdm[Any] | None = None

    def __call__(self, _: object) -> None:
        self.requests += 1
        if self.bar is not None:
            self.bar.update()


def run(
    *,
    sections: int | None = None,
    path: Path | None = None,
    query: str | None = None,
    live: bool = False,
    yes: bool = False,
    scenario: Scenario | None = None,
) -> None:
    """Run the demo and print what it finds.

    Args:
        sections: how many at most; `None`: `SECTIONS`, or `LIVE_SECTIONS`.
        path: a file or a folder to take them from; `None`: Python's standard library.
        query: what to search for in the end.
        live: ask the real endpoint, with the key in OPENAI_API_KEY.
        yes: do not ask before money is spent.
        scenario: of the simulator; `None`: OpenAI's latency and limits, without a quota.

    Raises:
        SystemExit: it cannot run; the message says what to do.
        ImportError: what the simulator needs is not installed.
    """
    if live and not os.environ.get("OPENAI_API_KEY"):
        raise SystemExit("--live needs your key: set OPENAI_API_KEY, or leave --live out.")
    simulator = None if live else Simulator(scenario)
    job = _read(sections or (LIVE_SECTIONS if live else SECTIONS), path, query)
    if live and not _agreed(job, yes=yes):
        say("Nothing was sent.")
        return
    use_offline_tiktoken()
    if simulator is None:
        with closing(openai.DefaultHttpxClient(proxy=os.environ.get("OPENAI_PROXY"))) as client:
            _compare(job, OpenAIEmbeddings(model=MODEL, http_client=client, openai_proxy=""))
        return
    with simulator, closing(openai.DefaultHttpxClient(trust_env=False)) as client:
        say(f"OpenAI's endpoint, simulated on this machine at {simulator.url}")
        simulated = {"base_url": simulator.url, "api_key": "any", "openai_api_type": None}
        alone = OpenAIEmbeddings(model=MODEL, http_client=client, openai_proxy="", **simulated)
        _compare(job, alone)
        at_once = simulator.stats()["max_in_flight"]
        say(f"{at_once} requests were in flight at once at most.")


def table(ways: Sequence[Way]) -> str:
    """Return the ways as a table of 80 columns, each compared with the first."""
    lines = [f"{'way':24}{'requests':>10}{'tokens':>14}{'seconds':>14}{'times faster':>18}"]
    lines += [
        f"{way.name:24}{way.requests:>10,}{way.tokens:>14,}{way.seconds:>14,.1f}"
        f"{ways[0].seconds / way.seconds:>18,.1f}"
        for way in ways
    ]
    return "\n".join(lines)
