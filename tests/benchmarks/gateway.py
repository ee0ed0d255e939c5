"""Where the time goes when the server is next door: `python -m tests.benchmarks.gateway`.

Each step is run alone, one after another in one thread, on what the whole run has: 19,207 sections
and their vectors of 1,536 numbers. So the steps add up to what one thread would take. Threads win
the time in which the server works, and lose some of it to each other.

Two more tables show by what a near server is told from a far one: the share of a processor core
that this process used while the first requests were in flight (`nearness.BUSY`), and the share that
requests take together when only a few are in flight (`nearness.WAITING`), also while something else
keeps a core busy.
"""

import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from hashlib import sha256
from itertools import product
from statistics import median

from langchain_batch_embed.nearness import FIRST_ANSWERS, LAST_ANSWERS, NEAR_USEFUL, Nearness
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

from langchain_batch_embed import BatchEmbeddings
from langchain_batch_embed.commands.corpus import sections, standard_library
from langchain_batch_embed.providers.decoding import read_answer, to_lists
from langchain_batch_embed.simulator import Scenario, Simulator
from langchain_batch_embed.texts.inputs import prepare

SECTIONS = 19_207
ROUNDS = 3
FIRST_CALLS = 10
SERVERS = {"next door": 0.0, "far": 1.0}  # and the simulator's latency


def measure(name: str, step: Callable[[], object]) -> None:
    """Print the medians of wall and processor seconds of a step."""
    walls, processors = [], []
    for _ in range(ROUNDS):
        gc.collect()
        wall, processor = time.perf_counter(), time.process_time()
        result = step()
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
        del result
    print(f"| {name} | {median(walls):.2f} | {median(processors):.2f} |", flush=True)


def main() -> None:
    """Print the table."""
    texts = [section.text for section in sections(standard_library()[1], SECTIONS)]
    with Simulator(Scenario(latency=0, vector_cache=True)) as simulator:
        _embeddings(simulator).embed_numpy(texts)  # the server has computed all vectors then
        embeddings = _embeddings(simulator)
        vectors = embeddings.embed_numpy(texts)
        report = embeddings.last_report
        assert report is not None
        pipeline = embeddings._pipeline
        size = -(-len(texts) // report.requests)
        batches = [texts[start : start + size] for start in range(0, len(texts), size)]
        bodies = [_body(pipeline.provider, batch) for batch in batches]

        print(f"{len(texts):,} texts, {report.requests} requests, medians of {ROUNDS} rounds\n")
        print("| step | wall s | processor s |")
        print("|---|--:|--:|")
        measure(
            "find and count what is sent",
            lambda: prepare(
                texts,
                counter=pipeline.counter,
                limits=embeddings.limits,
                long_inputs="average",
            ),
        )
        measure(
            "the SDK's work on as many requests of one word",
            lambda: [pipeline.provider.send(["a"], timeout=60) for _ in batches],
        )
        measure(
            "send the batches and read the answers' bytes",
            lambda: [len(_body(pipeline.provider, batch)) for batch in batches],
        )
        measure(
            "decode and check the answers",
            lambda: [
                read_answer(body, expected=len(batch))
                for body, batch in zip(bodies, batches, strict=True)
            ],
        )
        measure("make lists of floats", lambda: to_lists(vectors))
        measure("**all of `embed_numpy`**", lambda: embeddings.embed_numpy(texts))
        measure("**all of `embed_documents`**", lambda: embeddings.embed_documents(texts))


def show_shares() -> None:
    """Print how busy this process, and its requests alone, are at a near and at a far server."""
    texts = [section.text for section in sections(standard_library()[1], SECTIONS)]
    with Simulator(Scenario(latency=0, vector_cache=True)) as simulator:
        _embeddings(simulator).embed_numpy(texts)  # the server has computed all vectors then
        print(f"\n{FIRST_CALLS} new instances each, share of a core during the first answers\n")
        print("| server | least | median | most |")
        print("|---|--:|--:|--:|")
        for server, latency in SERVERS.items():
            shares = []
            for seed in range(FIRST_CALLS):
                simulator.configure(Scenario(latency=latency, vector_cache=True, seed=seed))
                shares.append(median(_call(simulator, texts, near=False).processes[:FIRST_ANSWERS]))
            print(f"| {server} | {_spread(shares)} |", flush=True)
        print(f"\nRequests alone, {NEAR_USEFUL} in flight, medians of {LAST_ANSWERS} answers\n")
        print("| server | wanted | a core is busy | least | median | most |")
        print("|---|---|---|--:|--:|--:|")
        for (server, latency), lists, busy in product(
            SERVERS.items(), (False, True), (False, True)
        ):
            simulator.configure(Scenario(latency=latency, vector_cache=True))
            with _busy_core() if busy else nullcontext():
                own = _call(simulator, texts, near=True, lists=lists).requests
            medians = [median(own[i : i + LAST_ANSWERS]) for i in range(len(own) - LAST_ANSWERS)]
            wanted = "lists" if lists else "array"
            print(f"| {server} | {wanted} | {busy} | {_spread(medians)} |", flush=True)


class _Recorder(Nearness):
    """Notes what it is told, and where the server is does not change."""

    def __init__(self, *, near: bool) -> None:
        super().__init__()
        self.is_near = near
        self.processes: list[float] = []
        self.requests: list[float] = []

    def answered(self, *, process: float, requests: float, sent: float, now: float) -> None:
        """Take note of it."""
        del sent, now
        self.processes.append(process)
        self.requests.append(requests)


def _call(simulator: Simulator, texts: list[str], *, near: bool, lists: bool = False) -> _Recorder:
    """Embed with a new instance that takes the server for near or far."""
    embeddings = _embeddings(simulator)
    recorder = embeddings._pipeline.dispatcher.pacer.window.nearness = _Recorder(near=near)
    embed = embeddings.embed_documents if lists else embeddings.embed_numpy
    embed(texts)
    return recorder


def _embeddings(simulator: Simulator) -> BatchEmbeddings:
    return BatchEmbeddings(
        OpenAIEmbeddings(
            base_url=simulator.url, api_key=SecretStr("any"), model="text-embedding-3-small"
        )
    )


def _spread(values: Sequence[float]) -> str:
    return f"{min(values):.2f} | {median(values):.2f} | {max(values):.2f}"


@contextmanager
def _busy_core() -> Iterator[None]:
    """Keep a processor core busy without the interpreter's lock."""
    ended = threading.Event()

    def hash_on() -> None:
        while not ended.is_set():
            sha256(bytes(1 << 20))

    thread = threading.Thread(target=hash_on)
    thread.start()
    yield
    ended.set()
    thread.join()


def _body(provider: object, texts: Sequence[str]) -> bytes:
    """Return the bytes of an answer, as the provider reads them, undecoded."""
    create, options = provider._create, provider._options  # type: ignore[attr-defined]
    extra = {"input": texts}
    with create(input=[], encoding_format="base64", extra_body=extra, **options) as response:
        return b"".join(response.iter_bytes())


if __name__ == "__main__":
    main()
    show_shares()
