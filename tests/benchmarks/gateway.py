"""Where the time goes when the server is next door: `python -m tests.benchmarks.gateway`.

Each step is run alone, one after another in one thread, on what the whole run has: 19,207 sections
and their vectors of 1,536 numbers. So the steps add up to what one thread would take. Threads win
the time in which the server works, and lose some of it to each other.

A second table shows by what a near server is told from a far one: the share of a processor core
that this process used while the first requests were in flight (`window.BUSY`).
"""

import gc
import time
from collections.abc import Callable, Sequence
from statistics import median

from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

from langchain_batch_embed import BatchEmbeddings
from langchain_batch_embed.corpus import sections, standard_library
from langchain_batch_embed.inputs import prepare
from langchain_batch_embed.simulator import Scenario, Simulator
from langchain_batch_embed.vectors import read_answer, to_lists

SECTIONS = 19_207
ROUNDS = 3
FIRST_CALLS = 10


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
        wrapped = OpenAIEmbeddings(
            base_url=simulator.url, api_key=SecretStr("any"), model="text-embedding-3-small"
        )
        BatchEmbeddings(wrapped).embed_numpy(texts)  # the server has computed all vectors then
        embeddings = BatchEmbeddings(wrapped)
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
    """Print how busy this process is with the first answers of new instances, near and far."""
    texts = [section.text for section in sections(standard_library()[1], SECTIONS)]
    print(f"\n{FIRST_CALLS} new instances each, share of a core during the first answers\n")
    print("| server | least | median | most |")
    print("|---|--:|--:|--:|")
    with Simulator(Scenario(latency=0, vector_cache=True)) as simulator:
        _first_share(simulator, texts)  # the server has computed all vectors then
        for name, latency in (("next door", 0.0), ("far", 1.0)):
            shares = []
            for seed in range(FIRST_CALLS):
                simulator.configure(Scenario(latency=latency, vector_cache=True, seed=seed))
                shares.append(_first_share(simulator, texts))
            print(f"| {name} | {min(shares):.2f} | {median(shares):.2f} | {max(shares):.2f} |")


def _first_share(simulator: Simulator, texts: list[str]) -> float:
    wrapped = OpenAIEmbeddings(
        base_url=simulator.url, api_key=SecretStr("any"), model="text-embedding-3-small"
    )
    embeddings = BatchEmbeddings(wrapped)
    embeddings.embed_numpy(texts)
    return median(embeddings._pipeline.dispatcher.pacer.window._first_shares)


def _body(provider: object, texts: Sequence[str]) -> bytes:
    """Return the bytes of an answer, as the provider reads them, undecoded."""
    create, options = provider._create, provider._options  # type: ignore[attr-defined]
    extra = {"input": texts}
    with create(input=[], encoding_format="base64", extra_body=extra, **options) as response:
        return b"".join(response.iter_bytes())


if __name__ == "__main__":
    main()
    show_shares()
