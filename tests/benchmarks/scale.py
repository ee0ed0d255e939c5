"""Cost per text from 1,000 to 1,000,000 texts: `python -m tests.benchmarks.scale [--plot FILE]`.

The server answers at once and has 256 dimensions, so that a million vectors are one gigabyte and
only the client's own work is measured, in processor seconds of this process.
"""

import argparse
import time
from pathlib import Path
from typing import NamedTuple

from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

from langchain_batch_embed import BatchEmbeddings
from langchain_batch_embed.simulator import Scenario, Simulator
from tests.memory import peak_bytes

SIZES = (1_000, 10_000, 100_000, 1_000_000)
DIMENSIONS = 256


class Point(NamedTuple):
    """The cost of one size."""

    texts: int
    wall: float
    processor: float
    peak: float


def measure(simulator: Simulator, texts: int) -> Point:
    """Embed this many short texts as a float32 array; return the seconds and the peak in MB."""
    given = [f"document {i} of {texts}, which has a handful of words" for i in range(texts)]
    wrapped = OpenAIEmbeddings(
        base_url=simulator.url,
        api_key=SecretStr("any"),
        model="text-embedding-3-small",
        dimensions=DIMENSIONS,
    )
    embeddings = BatchEmbeddings(wrapped)
    embeddings.embed_query("opens the connection, loads the vocabulary")
    wall, processor = time.perf_counter(), time.process_time()
    embeddings.embed_numpy(given)
    point = Point(
        texts,
        time.perf_counter() - wall,
        time.process_time() - processor,
        peak_bytes() / 1e6,
    )
    wrapped.client._client.close()
    return point


def plot(points: list[Point], file: Path) -> None:
    """Draw microseconds a text over the number of texts; needs matplotlib."""
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    x = [point.texts for point in points]
    for name in ("processor", "wall"):
        y = [getattr(point, name) / point.texts * 1e6 for point in points]
        axes.plot(x, y, marker="o")
        axes.annotate(f" {name} time", (x[-1], y[-1]), va="center")
    axes.set(xscale="log", xlabel="texts in one call", ylabel="microseconds a text", ylim=(0, None))
    axes.set_title("BatchEmbeddings: cost per text is flat")
    axes.set_xlim(800, 8_000_000)
    figure.savefig(file, dpi=150)


def main() -> None:
    """Measure every size, print a table, and draw it if a file is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    points = []
    print("| texts | wall s | processor s | processor µs a text | peak MB |")
    print("|--:|--:|--:|--:|--:|")
    with Simulator(Scenario(latency=0)) as simulator:
        measure(simulator, SIZES[0])  # a warm-up
        for size in SIZES:
            point = measure(simulator, size)
            points.append(point)
            print(
                f"| {size:,} | {point.wall:.2f} | {point.processor:.2f} "
                f"| {point.processor / size * 1e6:.0f} | {point.peak:,.0f} |",
                flush=True,
            )
    if arguments.plot:
        plot(points, arguments.plot)


if __name__ == "__main__":
    main()
