"""Where the time goes with a nearby server: `python -m tests.benchmarks.gateway`.

Each step runs alone, one after another in one thread, on the data of the whole run: 19,207 sections
and their vectors of 1,536 numbers. The steps therefore add up to the time of one thread. Threads
gain the time in which the server works, and lose some of it to one another.
"""

import gc
import time
from collections.abc import Callable, Sequence
from statistics import median

from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

from langchain_batch_embed import BatchEmbeddings
from langchain_batch_embed.commands.corpus import sections, standard_library
from langchain_batch_embed.providers.decoding import read_answer, to_lists
from langchain_batch_embed.simulator import Scenario, Simulator

SECTIONS = 19_207
ROUNDS = 3


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
        _embeddings(simulator).embed_numpy(texts)  # the server has computed all vectors afterwards
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
            lambda: pipeline.prepare(texts),
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


def _embeddings(simulator: Simulator) -> BatchEmbeddings:
    return BatchEmbeddings(
        OpenAIEmbeddings(
            base_url=simulator.url, api_key=SecretStr("any"), model="text-embedding-3-small"
        )
    )


def _body(provider: object, texts: Sequence[str]) -> bytes:
    """Return the bytes of an answer as the provider reads them, not decoded."""
    create, options = provider._create, provider._options  # type: ignore[attr-defined]
    extra = {"input": texts}
    with create(input=[], encoding_format="base64", extra_body=extra, **options) as response:
        return b"".join(response.iter_bytes())


if __name__ == "__main__":
    main()
