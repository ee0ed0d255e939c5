"""The code of all contenders for the same job, and a run of one of them in its own process.

    python -m tests.benchmarks.contenders '{"contender": "ours", ...}'

embeds the texts of a file with one contender and prints a `Measures` as JSON. With a fresh process
for each run, the peak memory and the processor seconds are the contender's own. What a process does
once (imports, clients, vocabularies) is done before the clock starts, but its connections are not.

Every contender has the settings that were best for it in each scenario, found by
`python -m tests.benchmarks.compare --tune`, which tries the whole grid of each. Only ours is
measured with its defaults (and its grid shows where one of them comes from). All others retry up to
50 times (the Rust client allows six at most), because with their defaults they would fail where
requests are refused.

Each contender imports its library in its own function, so that no process pays for another's.
"""
# ruff: noqa: PLC0415

import asyncio
import gc
import itertools
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.memory import peak_bytes

__all__ = ["CONTENDERS", "Contender", "Job", "Measures", "run"]

MODEL = "text-embedding-3-small"
KEY = "sk-benchmark"
RETRIES = 50
MAX_TOKENS = 300_000
FLOAT_BYTES = 24 + 8 + 8
"""A Python float takes 24 bytes, rounded up to 32 by CPython, plus 8 for the list's reference."""

Vectors = list[list[float]] | NDArray[np.float32]
Embed = Callable[[list[str]], Vectors]
Settings = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to embed many texts.

    Attributes:
        label: its name in the table.
        make: prepares everything, given the server's URL and settings, and returns the function
            that is timed.
        grid: each setting and the values that `--tune` tries.
        best: the best settings for each scenario; "" is for those not named.
        sample: number of texts to embed, from which the figures are extrapolated, or `None` for
            all.
        sends: returns the text as the contender sends it.
    """

    label: str
    make: Callable[..., Embed]
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    best: Mapping[str, Settings] = field(default_factory=dict)
    sample: int | None = None
    sends: Callable[[str], str] = str

    def settings(self, scenario: str) -> Settings:
        """Return the best settings for a scenario."""
        return self.best.get(scenario, self.best.get("", {}))

    def all_settings(self) -> list[Settings]:
        """Return every combination of the grid."""
        combinations = itertools.product(*self.grid.values())
        return [dict(zip(self.grid, values, strict=True)) for values in combinations]


@dataclass(frozen=True, kw_only=True)
class Job:
    """The job of one process.

    Attributes:
        contender: a key of `CONTENDERS`.
        settings: its keyword arguments.
        url: the server's base URL.
        texts: a file with a JSON list of strings.
    """

    contender: str
    settings: Settings
    url: str
    texts: str


@dataclass(frozen=True, kw_only=True)
class Measures:
    """The measurements of one run.

    Attributes:
        wall: seconds.
        processor: seconds of user and system time of the process, all threads.
        before_mb: peak memory before the run, in 10**6 bytes: Python, libraries and texts.
        peak_mb: peak memory while the result is still held.
        result_mb: size of the result itself.
        wrong: vectors that are not, bit for bit, those that the server made for the texts.
        error: the class of the exception that ended the run; the other fields are empty then.
    """

    wall: float = 0.0
    processor: float = 0.0
    before_mb: float = 0.0
    peak_mb: float = 0.0
    result_mb: float = 0.0
    wrong: int = 0
    error: str | None = None


# ---- the contenders ----


def one_by_one(url: str) -> Embed:
    """Send one request for each text, like a loop over `embed_query`."""
    _load_tiktoken()
    embeddings = _openai_embeddings(url)

    def embed(texts: list[str]) -> Vectors:
        return [embeddings.embed_query(text) for text in texts]

    embeddings.embed_query("the connection, which would be extrapolated too")
    return embed


def openai_embeddings(url: str, *, chunk_size: int) -> Embed:
    """Use `OpenAIEmbeddings`, which sends one request after another."""
    _load_tiktoken()
    embeddings = _openai_embeddings(url, chunk_size=chunk_size)
    return embeddings.embed_documents  # type: ignore[no-any-return]


def llama_index(url: str, *, batch: int, workers: int) -> Embed:
    """Use LlamaIndex's `OpenAIEmbedding` with `num_workers`, which only its async form heeds."""
    from llama_index.embeddings.openai import OpenAIEmbedding

    embeddings = OpenAIEmbedding(
        model=MODEL,
        api_base=url,
        api_key=KEY,
        embed_batch_size=batch,
        num_workers=workers,
        max_retries=RETRIES,
        timeout=600,
    )

    def embed(texts: list[str]) -> Vectors:
        return asyncio.run(embeddings.aget_text_embedding_batch(texts))  # type: ignore[no-any-return, unused-ignore]

    return embed


def async_openai(url: str, *, batch: int, at_once: int, http: str) -> Embed:
    """Use `AsyncOpenAI` like an expert: batches within both limits, a semaphore and `gather`."""
    import toktok
    from openai import AsyncOpenAI, DefaultAioHttpClient, DefaultAsyncHttpxClient

    toktok.batch_count(["loads the vocabulary"], "cl100k_base")

    async def embed(texts: list[str]) -> Vectors:
        slots = asyncio.Semaphore(at_once)
        http_client = DefaultAioHttpClient() if http == "aiohttp" else DefaultAsyncHttpxClient()
        async with AsyncOpenAI(
            base_url=url, api_key=KEY, max_retries=RETRIES, http_client=http_client
        ) as client:

            async def send(part: list[str]) -> list[list[float]]:
                async with slots:
                    answer = await client.embeddings.create(model=MODEL, input=part)
                return [item.embedding for item in answer.data]

            parts = _cut(texts, toktok.batch_count(texts, "cl100k_base"), batch)
            answers = await asyncio.gather(*map(send, parts))
        return [vector for answer in answers for vector in answer]

    return lambda texts: asyncio.run(embed(texts))


def rust_client(url: str, **settings: Any) -> Embed:
    """Use baseten-performance-client with the lists that it makes itself."""
    ask = _rust_client(url, encoding="float", **settings)
    return lambda texts: [item.embedding for item in ask(texts).data]


def rust_client_base64(url: str, **settings: Any) -> Embed:
    """Use baseten-performance-client with base64, which it leaves to the caller to decode."""
    import pybase64

    ask = _rust_client(url, encoding="base64", **settings)

    def embed(texts: list[str]) -> Vectors:
        data = ask(texts).data
        return [np.frombuffer(pybase64.b64decode(item.embedding), "<f4").tolist() for item in data]

    return embed


def rust_client_numpy(url: str, **settings: Any) -> Embed:
    """Use baseten-performance-client with the array that it makes itself."""
    ask = _rust_client(url, encoding="float", **settings)
    return lambda texts: ask(texts).numpy()


def rust_client_base64_numpy(url: str, **settings: Any) -> Embed:
    """Use baseten-performance-client with base64, from which an expert makes an array."""
    import pybase64

    ask = _rust_client(url, encoding="base64", **settings)

    def embed(texts: list[str]) -> Vectors:
        raw = b"".join(pybase64.b64decode(item.embedding) for item in ask(texts).data)
        return np.frombuffer(raw, dtype="<f4").reshape(len(texts), -1)

    return embed


def ours(url: str) -> Embed:
    """Use `BatchEmbeddings` with lists as the result."""
    return _batch_embeddings(url).embed_documents  # type: ignore[no-any-return]


def ours_numpy(url: str, **options: Any) -> Embed:
    """Use `BatchEmbeddings` with an array as the result."""
    return _batch_embeddings(url, **options).embed_numpy  # type: ignore[no-any-return]


def ours_unhedged(url: str) -> Embed:
    """Use `BatchEmbeddings` with `hedge=False` and lists as the result."""
    return _batch_embeddings(url, hedge=False).embed_documents  # type: ignore[no-any-return]


def _load_tiktoken() -> None:
    from langchain_batch_embed.commands.offline import use_offline_tiktoken

    use_offline_tiktoken()


def _openai_embeddings(url: str, **options: Any) -> Any:
    from langchain_openai import OpenAIEmbeddings

    options |= {"model": MODEL, "base_url": url, "api_key": KEY, "max_retries": RETRIES}
    return OpenAIEmbeddings(**options)


def _batch_embeddings(url: str, **options: Any) -> Any:
    from langchain_batch_embed import BatchEmbeddings
    from langchain_batch_embed.texts.tokens import counter_for

    counter_for(MODEL).count(["loads the vocabulary"])
    return BatchEmbeddings(_openai_embeddings(url), **options)


def _rust_client(
    url: str,
    *,
    encoding: str,
    batch: int,
    at_once: int,
    backoff_ms: int = 125,
    hedge_delay: float | None = None,
    hedge_budget: float = 1.0,
) -> Callable[[list[str]], Any]:
    """Return a function that calls the Rust client, which limits characters but not tokens."""
    from baseten_performance_client import PerformanceClient, RequestProcessingPreference

    client = PerformanceClient(base_url=url.removesuffix("/v1"), api_key=KEY)
    preference = RequestProcessingPreference(
        batch_size=batch,
        max_concurrent_requests=at_once,
        # Python code has 3.3 to 4.5 characters a token, so this stays under 300,000 tokens.
        max_chars_per_request=900_000,
        max_retries=6,  # the most that it takes
        initial_backoff_ms=backoff_ms,
        retry_budget_pct=1.0,
        # Seconds after which a request is sent a second time, and the share of them allowed to be.
        hedge_delay=hedge_delay,
        hedge_budget_pct=hedge_budget,
    )
    return lambda texts: client.embed(
        texts, model=MODEL, encoding_format=encoding, preference=preference
    )


def _cut(texts: list[str], tokens: Sequence[int], batch: int) -> list[list[str]]:
    """Cut texts into runs of neighbours with at most `batch` texts and 300,000 tokens."""
    parts: list[list[str]] = [[]]
    total = 0
    for text, count in zip(texts, tokens, strict=True):
        if len(parts[-1]) == batch or total + count > MAX_TOKENS:
            parts.append([])
            total = 0
        parts[-1].append(text)
        total += count
    return parts


def _on_one_line(text: str) -> str:
    return text.replace("\n", " ")


_SIZES = (64, 128, 256, 512, 1024, 2048)  # the Rust client allows 1,024 at most
_AT_ONCE = (4, 16, 64, 256)

# Found with `compare --tune` at 19,207 texts. Of two equally good settings, the one with fewer
# requests at once. A quota favours settings that happen to keep just below it: 128 texts, 16 at
# once.
_LLAMA: Mapping[str, Settings] = {
    "": {"batch": 128, "workers": 64},
    "next-door": {"batch": 1024, "workers": 16},
    "quota": {"batch": 128, "workers": 16},
    "quota-no-headers": {"batch": 128, "workers": 16},
    "faults": {"batch": 512, "workers": 64},
}
_ASYNC: Mapping[str, Settings] = {
    "": {"batch": 64, "at_once": 256, "http": "aiohttp"},
    "next-door": {"batch": 256, "at_once": 4, "http": "aiohttp"},
    "quota": {"batch": 128, "at_once": 16, "http": "aiohttp"},
    "quota-no-headers": {"batch": 128, "at_once": 16, "http": "aiohttp"},
    "faults": {"batch": 512, "at_once": 16, "http": "aiohttp"},
}
_RUST: Mapping[str, Settings] = {
    "": {"batch": 64, "at_once": 256},
    "next-door": {"batch": 1024, "at_once": 4},
    "quota": {"batch": 64, "at_once": 16},
    "quota-no-headers": {"batch": 64, "at_once": 16},
    # Two in a hundred are late, so any request that takes longer than this is sent a second time.
    "far-heavy-tail": {"batch": 64, "at_once": 256, "hedge_delay": 0.5},
    "far-heavy-tail-headers": {"batch": 64, "at_once": 256, "hedge_delay": 0.5},
}
_RUST_GRID: Mapping[str, Sequence[Any]] = {
    "batch": _SIZES[:-1],
    "at_once": _AT_ONCE,
    "backoff_ms": (125, 1000),
}

CONTENDERS: Mapping[str, Contender] = {
    "one-by-one": Contender(label="one request a text", make=one_by_one, sample=40),
    "openai-embeddings": Contender(
        label="`OpenAIEmbeddings`",
        make=openai_embeddings,
        grid={"chunk_size": (1000, 2048)},
        best={"": {"chunk_size": 2048}},
    ),
    "llama-index": Contender(
        label="LlamaIndex `OpenAIEmbedding`",
        make=llama_index,
        grid={"batch": _SIZES, "workers": _AT_ONCE},
        best=_LLAMA,
        sends=_on_one_line,
    ),
    "async-openai": Contender(
        label="`AsyncOpenAI`, semaphore",
        make=async_openai,
        grid={"batch": _SIZES, "at_once": _AT_ONCE, "http": ("httpx", "aiohttp")},
        best=_ASYNC,
    ),
    "async-openai-16": Contender(
        label="`AsyncOpenAI`, 16 at once",
        make=async_openai,
        best={"": {"batch": 256, "at_once": 16, "http": "aiohttp"}},
    ),
    "async-openai-128": Contender(
        label="`AsyncOpenAI`, 128 at once",
        make=async_openai,
        best={"": {"batch": 128, "at_once": 128, "http": "aiohttp"}},
    ),
    "rust": Contender(label="Rust client, lists", make=rust_client, grid=_RUST_GRID, best=_RUST),
    "rust-unhedged": Contender(
        label="Rust client, lists, unhedged",
        make=rust_client,
        best={"": _RUST[""]},
    ),
    "rust-own-budget": Contender(
        label="Rust client, lists, a tenth hedged (its default)",
        make=rust_client,
        best={"": {**_RUST["far-heavy-tail"], "hedge_budget": 0.1}},
    ),
    "rust-base64": Contender(
        label="Rust client, base64 to lists by hand",
        make=rust_client_base64,
        grid=_RUST_GRID,
        best=_RUST,
    ),
    "rust-numpy": Contender(
        label="Rust client, `.numpy()`", make=rust_client_numpy, grid=_RUST_GRID, best=_RUST
    ),
    "rust-base64-numpy": Contender(
        label="Rust client, base64 to array by hand",
        make=rust_client_base64_numpy,
        grid=_RUST_GRID,
        best=_RUST,
    ),
    "ours": Contender(label="**`BatchEmbeddings`**", make=ours),
    "ours-unhedged": Contender(label="**`BatchEmbeddings(hedge=False)`**", make=ours_unhedged),
    "ours-numpy": Contender(
        label="**`BatchEmbeddings.embed_numpy`**",
        make=ours_numpy,
        grid={"max_workers": (16, 32, 64, 128, 192)},
    ),
}


# ---- one run ----


def run(job: Job) -> Measures:
    """Embed once, measure, and check the vectors afterwards."""
    contender = CONTENDERS[job.contender]
    texts: list[str] = json.loads(Path(job.texts).read_text())
    if contender.sample:
        texts = texts[:: max(1, len(texts) // contender.sample)][: contender.sample]
    embed = contender.make(job.url, **job.settings)
    gc.collect()
    before_mb = peak_bytes() / 1e6
    processor, wall = time.process_time(), time.perf_counter()
    try:
        vectors = embed(texts)
    except Exception as error:  # noqa: BLE001 - a result too: this way failed
        sys.stderr.write(f"{type(error).__name__}: {str(error)[:500]}\n")
        return Measures(error=type(error).__name__)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return Measures(
        wall=wall,
        processor=processor,
        before_mb=before_mb,
        peak_mb=peak_bytes() / 1e6,
        result_mb=_size(vectors) / 1e6,
        wrong=_wrong(vectors, [contender.sends(text) for text in texts]),
    )


def _size(vectors: Vectors) -> int:
    if isinstance(vectors, np.ndarray):
        return vectors.nbytes
    return sys.getsizeof(vectors) + sum(
        sys.getsizeof([]) + FLOAT_BYTES * len(vector) for vector in vectors
    )


def _wrong(vectors: Vectors, texts: list[str]) -> int:
    """Return how many vectors are missing or are not, bit for bit, those of their texts."""
    from langchain_batch_embed.simulator import vectors as right

    wrong = abs(len(texts) - len(vectors))
    for start in range(0, min(len(texts), len(vectors)), 1024):
        got = np.asarray(vectors[start : start + 1024], dtype=np.float32)
        expected = right(texts[start : start + 1024], got.shape[1])
        wrong += int((got != expected[: len(got)]).any(axis=1).sum())
    return wrong


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(run(Job(**json.loads(sys.argv[1]))))))
