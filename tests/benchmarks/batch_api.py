"""The cost of a Batch API job for this machine: seconds to submit and collect, and memory.

`python -m tests.benchmarks.batch_api [TEXTS] [DIMENSIONS]` (default: 50,000 of 1,536). The server
is the simulator, which answers at once, so the seconds are those of packing, uploading, reading and
writing, on both sides.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from langchain_batch_embed.simulator import BatchApi, Scenario, Simulator

PROGRAM = """
import json, sys, time
from langchain_openai import OpenAIEmbeddings
from langchain_batch_embed import BatchEmbeddings
from tests.memory import peak_bytes

url, journal, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
wrapped = OpenAIEmbeddings(model="text-embedding-3-small", base_url=url, api_key="any")
embeddings = BatchEmbeddings(wrapped, journal=journal)
texts = [f"text number {i}, which has as many words as a short sentence has" for i in range(count)]
before = peak_bytes()
started = time.perf_counter()
job = embeddings.submit(texts)
submitted = time.perf_counter()
job.wait(show_progress=False)
collected = time.perf_counter()
peak = peak_bytes()
print(json.dumps([submitted - started, collected - submitted, before / 1e6, peak / 1e6]))
"""


def main(texts: int, dimensions: int) -> None:
    """Measure once and print the result."""
    api = BatchApi(validating=0.0, running=0.0, finalizing=0.0)
    scenario = Scenario(dimensions=dimensions, batch_api=api)
    with tempfile.TemporaryDirectory() as folder, Simulator(scenario) as simulator:
        journal = str(Path(folder) / "vectors.db")
        done = subprocess.run(  # noqa: S603  # our own code
            [sys.executable, "-c", PROGRAM, simulator.url, journal, str(texts)],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        submit, collect, before, peak = json.loads(done.stdout)
        batches = simulator.stats()["batches"]
    print(f"{texts:,} texts of {dimensions:,} dimensions in {len(batches)} batches")
    print(f"submit {submit:.1f} s, wait {collect:.1f} s (polls every 2 s)")
    print(f"memory {before:.0f} MB before, {peak:.0f} MB at most")


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    main(*(given + [50_000, 1_536][len(given) :]))
