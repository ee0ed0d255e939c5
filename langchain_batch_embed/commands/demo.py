"""The demo, which embeds the same sections of real text in three ways and times each.

The three ways are one request per section, `OpenAIEmbeddings` alone, and `BatchEmbeddings` as the
embeddings of a vector store. They run against the simulator or, with `live=True`, against the real
endpoint.
"""

import math
import os
import platform
import sqlite3
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr
from tqdm.auto import tqdm

from langchain_batch_embed.commands import corpus
from langchain_batch_embed.commands.corpus import Section
from langchain_batch_embed.commands.messages import say
from langchain_batch_embed.commands.offline import use_offline_tiktoken
from langchain_batch_embed.embeddings import BatchEmbeddings
from langchain_batch_embed.report import Report, dollars, plural
from langchain_batch_embed.simulator import Scenario, Simulator
from langchain_batch_embed.texts.tokens import counter_for

__all__ = ["LIVE_SECTIONS", "SECTIONS", "Way", "run", "table"]

SECTIONS = 19_207
"""Default number of sections; their tokens would fill about eight requests."""

LIVE_SECTIONS = 500
"""Default number of sections at the real endpoint; the comparison then costs less than a cent."""

_MODEL = "text-embedding-3-small"
_SAMPLE = 20  # number of sections that are sent one by one
_HITS = 3
# The lowest tier whose quota none of the three ways reaches, so the demo shows the effect of
# batches and not of waiting.
_SCENARIO = Scenario(tier=3)

_COLUMNS = 80
_ROUND_FROM = 100
_QUERY = "the median of numeric data"  # something that the standard library contains


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to embed all sections, and its cost.

    Attributes:
        name: its name in the table.
        requests: the number of requests sent.
        tokens: the number of tokens billed.
        seconds: how long it took.
    """

    name: str
    requests: int
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """The sections to embed and the query; `tokens` has the token count of each section."""

    folder: Path
    sections: Sequence[Section]
    tokens: Sequence[int]
    query: str

    @property
    def texts(self) -> list[str]:
        return [section.text for section in self.sections]

    @property
    def sample(self) -> list[str]:
        return corpus.evenly(self.texts, _SAMPLE)

    @property
    def origins(self) -> list[dict[str, Any]]:
        """The file and line of each section, as metadata for the vector store."""
        return [
            {"file": section.path.relative_to(self.folder).as_posix(), "line": section.line}
            for section in self.sections
        ]


class _Wire:
    """Counts the requests that an HTTP client sends, and shows them on a bar if there is one."""

    def __init__(self) -> None:
        self.requests = 0
        self.bar: Any = None

    @property
    def hooks(self) -> dict[str, list[Callable[..., Any]]]:
        """The event hooks with which an HTTP client reports its requests here."""
        return {"request": [self._count]}

    def _count(self, _: object) -> None:
        self.requests += 1
        if self.bar is not None:
            self.bar.update()

    @contextmanager
    def shown(self, total: int) -> Iterator[None]:
        with tqdm(total=total, unit=" requests", leave=False, disable=None) as self.bar:
            yield
        self.bar = None


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
    job = _read(sections or (LIVE_SECTIONS if live else SECTIONS), path, query)
    say(f"{len(job.sections):,} sections, {sum(job.tokens):,} tokens")
    use_offline_tiktoken()
    if simulator is not None:
        with simulator:
            _run_simulated(job, simulator)
    elif _agreed(job, yes=yes):
        _run_live(job)
    else:
        say("Nothing was sent, nothing was spent.")


def _run_simulated(job: _Job, simulator: Simulator) -> None:
    say(f"OpenAI's endpoint is simulated on this machine: {simulator.url}")
    wire = _Wire()
    # The user's environment variables for a real endpoint must not interfere.
    with closing(openai.DefaultHttpxClient(trust_env=False, event_hooks=wire.hooks)) as client:
        alone = OpenAIEmbeddings(
            model=_MODEL,
            base_url=simulator.url,
            api_key=SecretStr("any"),
            http_client=client,
            openai_api_type=None,
            openai_proxy="",
        )
        _compare(job, alone, wire)
    say()
    say(f"Most requests that the server saw at once: {simulator.stats()['max_in_flight']}")


def _run_live(job: _Job) -> None:
    wire = _Wire()
    # OpenAIEmbeddings accepts a client or a proxy, not both. The client counts requests, so it gets
    # the proxy.
    proxy = os.environ.get("OPENAI_PROXY")
    with closing(openai.DefaultHttpxClient(proxy=proxy, event_hooks=wire.hooks)) as client:
        alone = OpenAIEmbeddings(model=_MODEL, http_client=client, openai_proxy="")
        _compare(job, alone, wire)


def table(ways: Sequence[Way]) -> str:
    """Return a table of at most 80 columns that compares each way with the first."""
    lines = [f"{'way':<26}{'requests':>10}{'tokens':>14}{'seconds':>12}{'times faster':>16}"]
    for way in ways:
        faster = ways[0].seconds / way.seconds
        lines.append(
            f"{way.name:<26}{way.requests:>10,}{way.tokens:>14,}"
            f"{_short(way.seconds):>12}{_short(faster):>16}"
        )
    return "\n".join(lines)


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= _ROUND_FROM else f"{number:.2f}"


def _read(count: int, path: Path | None, query: str | None) -> _Job:
    """Cut the files into sections and count their tokens."""
    if path is None:
        folder, files = corpus.standard_library()
    elif path.is_file():
        folder, files = path.parent, [path]
    else:
        folder, files = path, corpus.text_files(path)
    sections = corpus.sections(files, count)
    if not sections:
        suffixes = " ".join(sorted(corpus.SUFFIXES))
        found = f"no text found in {path or folder}"
        raise SystemExit(f"{found}; --path takes a text file, or a folder of {suffixes} files")
    # Nothing is known about the user's files, but a line of one of them is sure to be found.
    default = _QUERY if path is None else _first_line(sections[len(sections) // 2].text)
    tokens = counter_for(_MODEL).count([section.text for section in sections])
    return _Job(folder=folder, sections=sections, tokens=tokens.tolist(), query=query or default)


def _agreed(job: _Job, *, yes: bool) -> bool:
    """Print the price of a live run, and return whether the user agrees to it."""
    # The query is sent once to open the connection and once to search, and the store sends one more
    # text.
    single = counter_for(_MODEL).count([*job.sample, *[job.query] * 3])
    tokens = 2 * sum(job.tokens) + int(single.sum())
    cost = dollars(_MODEL, tokens) or 0.0
    say(f"They will be embedded twice by {_MODEL}, {len(job.sample)} of them a third time:")
    say(f"{tokens:,} tokens, which cost ${cost:,.4f} at OpenAI's list price.")
    if yes:
        return True
    try:
        return input("Go on? [y/N] ").strip().lower() in {"y", "yes"}
    except EOFError:  # there is no user to ask
        return False


def _compare(job: _Job, alone: OpenAIEmbeddings, wire: _Wire) -> None:
    """Embed the sections in three ways, print the comparison, and search."""
    one_by_one, vectors = _one_by_one(job, alone)
    in_turn = _in_turn(job, alone, wire)

    # This is the only line that users add to their code.
    embeddings = BatchEmbeddings(alone, show_progress=sys.stderr.isatty())
    with _store(embeddings) as store:
        into = type(store).__name__
        say(f"3 of 3: BatchEmbeddings, through {into}.add_texts")
        started = time.perf_counter()
        store.add_texts(job.texts, metadatas=job.origins)
        seconds = time.perf_counter() - started
        batched = _batched(embeddings)

        say()
        say(table([one_by_one, in_turn, batched]))
        say()
        if len(job.sample) < len(job.sections):
            say(f"* measured on {len(job.sample)} sections and extrapolated to all")
        faster = _short(in_turn.seconds / batched.seconds)
        say(f"Writing the vectors into {into} took {_short(seconds - batched.seconds)} s more.")
        say(f"BatchEmbeddings was {faster} times faster than OpenAIEmbeddings alone.")
        say(f"It sends up to {embeddings.limits.max_workers} requests at once.")
        if sent_twice := _sent_twice(embeddings.last_report):
            say(sent_twice)
        _search(job, store, vectors)


def _one_by_one(job: _Job, alone: OpenAIEmbeddings) -> tuple[Way, list[list[float]]]:
    """Embed the sample with one request per section.

    Returns:
        The cost, extrapolated from the sample to all sections, and the vectors of the sample.
    """
    sample, count = job.sample, len(job.sections)
    say(f"1 of 3: one request a section, on a sample of {len(sample)}")
    # Opening the connection takes longer than a request, and must not be extrapolated.
    alone.embed_query(job.query)
    started = time.perf_counter()
    bar = tqdm(sample, unit=" requests", leave=False, disable=None)
    vectors = [alone.embed_query(text) for text in bar]
    seconds = (time.perf_counter() - started) * count / len(sample)
    name = "one request a section" + ("*" if len(sample) < count else "")
    return Way(name=name, requests=count, tokens=sum(job.tokens), seconds=seconds), vectors


def _in_turn(job: _Job, alone: OpenAIEmbeddings, wire: _Wire) -> Way:
    """Embed all sections with `OpenAIEmbeddings` alone, one request after another."""
    say("2 of 3: OpenAIEmbeddings alone")
    before = wire.requests
    started = time.perf_counter()
    with wire.shown(math.ceil(len(job.sections) / alone.chunk_size)):
        alone.embed_documents(job.texts)
    return Way(
        name="OpenAIEmbeddings alone",
        requests=wire.requests - before,
        tokens=sum(job.tokens),  # OpenAIEmbeddings does not report what was billed
        seconds=time.perf_counter() - started,
    )


def _batched(embeddings: BatchEmbeddings) -> Way:
    """Return the cost of the last call of `BatchEmbeddings`."""
    report = embeddings.last_report
    if report is None:
        raise RuntimeError("the store embedded nothing")
    return Way(
        name="BatchEmbeddings",
        requests=report.requests,
        tokens=report.tokens,
        seconds=report.seconds,
    )


def _sent_twice(report: Report | None) -> str | None:
    """Return a sentence about the requests that were sent twice, or `None` if none was."""
    if report is None or not report.hedged:
        return None
    share = report.hedged_tokens / max(1, report.tokens)
    return (
        f"Because answers were late, it sent {plural(report.hedged, 'request')} twice "
        f"({share:.1%} of the\ntokens); hedge=False turns that off."
    )


def _search(job: _Job, store: VectorStore, vectors: Sequence[list[float]]) -> None:
    """Check that the store finds each section of the sample by its vector, and run the query."""
    # The sample was embedded one by one, so its vectors are certain to belong to its texts.
    found = [store.similarity_search_by_vector(vector, k=1)[0] for vector in vectors]
    right = sum(hit.page_content == text for hit, text in zip(found, job.sample, strict=True))
    say(f"{right} of {len(vectors)} sections of the sample are found by their own vectors.")
    say()
    say(f'Search: "{job.query}"'[:_COLUMNS])
    for rank, hit in enumerate(store.similarity_search(job.query, k=_HITS), 1):
        where = f"{hit.metadata['file']}:{hit.metadata['line']}"
        say(f"{rank}. {where}  {_first_line(hit.page_content)}"[:_COLUMNS])


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0].rstrip()


@contextmanager
def _store(embeddings: Embeddings) -> Iterator[VectorStore]:
    """Open an empty SQLiteVec in a temporary file, or an InMemoryVectorStore if that fails."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            connection = _connect(Path(folder) / "sections.db")
            with warnings.catch_warnings():
                # On import the package warns of its end of life, which would only distract here.
                warnings.simplefilter("ignore", DeprecationWarning)
                from langchain_community.vectorstores import SQLiteVec  # noqa: PLC0415
        except (ImportError, AttributeError, sqlite3.Error) as error:
            say(f"SQLiteVec is not available ({error}): using InMemoryVectorStore.")
            yield InMemoryVectorStore(embeddings)
            return
        with closing(connection):
            yield SQLiteVec("sections", connection, embeddings)


def _connect(file: Path) -> Any:
    """Open a database with sqlite-vec loaded.

    Raises:
        ImportError: sqlite-vec or a sqlite3 that loads extensions is missing.
        sqlite3.Error: the extension cannot be loaded.
    """
    import sqlite_vec  # noqa: PLC0415

    driver: Any = sqlite3
    if not hasattr(sqlite3.Connection, "enable_load_extension"):
        import pysqlite3  # noqa: PLC0415

        driver = pysqlite3
    connection = driver.connect(file)
    connection.row_factory = driver.Row  # SQLiteVec reads columns by name
    connection.enable_load_extension(True)
    sqlite_vec.load(connection)
    connection.enable_load_extension(False)
    return connection
