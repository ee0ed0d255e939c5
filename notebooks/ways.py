# ruff: noqa: INP001 - a neighbour of the notebooks, and no package
"""Measures several ways to embed the same texts, each in a process of its own."""

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

__all__ = ["NAMES", "Result", "measure", "table"]

ROOT = Path(__file__).parents[1]
"""The checkout: the contenders' code is in its tests."""

SAMPLED = "one-by-one"
"""The way that is measured on a few texts, as all of them would take minutes."""

SAMPLE = 8

_NEEDS = {
    "one-by-one": ("one request a text", "langchain_openai"),
    "openai-embeddings": ("OpenAIEmbeddings alone", "langchain_openai"),
    "llama-index": ("LlamaIndex OpenAIEmbedding", "llama_index"),
    "async-openai": ("AsyncOpenAI with a semaphore", "aiohttp"),
    "rust": ("baseten-performance-client (Rust)", "baseten_performance_client"),
    "ours": ("BatchEmbeddings (ours)", "langchain_batch_embed"),
    "ours-numpy": ("the same, as an array (ours)", "langchain_batch_embed"),
}

NAMES = {way: name for way, (name, needs) in _NEEDS.items() if importlib.util.find_spec(needs)}
"""The ways whose packages are installed, and their names in the pictures."""

PROGRAM = """
import json, sys, time, urllib.request
from tests.benchmarks.contenders import CONTENDERS
from tests.memory import peak_bytes

way, url, file, count, rounds = json.loads(sys.argv[1])
texts = json.load(open(file))[:count]
settings = CONTENDERS[way].settings("far")
CONTENDERS[way].make(url, **settings)  # imports, clients and vocabularies: not what is measured
print("ready", flush=True)
sys.stdin.readline()
runs, kept = [], []
for seed in range(rounds):
    control = url.replace("/v1", "/simulator/scenario")
    urllib.request.urlopen(control, json.dumps({"tier": 5, "seed": seed}).encode()).close()
    embed = CONTENDERS[way].make(url, **settings)
    before, processor, started = peak_bytes(), time.process_time(), time.perf_counter()
    vectors = embed(texts)
    runs.append({
        "seconds": time.perf_counter() - started,
        "processor": time.process_time() - processor,
        "memory": (peak_bytes() - before) / 1e6,
    })
    kept.append(embed)  # some clients complain where they are closed in another event loop
    del vectors
print(json.dumps(runs))
"""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one way took for all texts.

    Attributes:
        seconds: from the call to its end, the mean of all rounds.
        processor: processor seconds of all threads, the mean of all rounds.
        memory: MB above what was there before, in the first round.
        requests: that were sent.
    """

    seconds: float
    processor: float
    memory: float
    requests: int


def measure(texts: Sequence[str], simulator: Any) -> dict[str, Result]:
    """Let each way embed the texts, one after the other.

    All processes load everything at first, so that nobody's imports disturb another's turn.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.json"
        file.write_text(json.dumps(texts))
        processes = {}
        for way in NAMES:
            count = SAMPLE if way == SAMPLED else len(texts)
            rounds = 1 if way in (SAMPLED, "openai-embeddings") else 2
            job = [way, simulator.url, str(file), count, rounds]
            processes[way] = _start(job), count
        for process, _ in processes.values():
            process.stdout.readline()  # "ready"
        return {
            way: _take_turn(process, simulator, count, len(texts))
            for way, (process, count) in processes.items()
        }


def table(results: Mapping[str, Result]) -> str:
    """Return the results as lines of text."""
    lines = [f"{'':36}{'seconds':>8}{'processor s':>13}{'MB more':>9}{'requests':>10}"]
    for way, result in results.items():
        name = NAMES[way] + "*" * (way == SAMPLED)
        memory = "" if way == SAMPLED else round(result.memory)
        lines.append(
            f"{name:36}{result.seconds:>8.1f}{result.processor:>13.1f}{memory:>9}"
            f"{result.requests:>10,}"
        )
    return "\n".join([*lines, f"\n* measured on {SAMPLE} texts, and extrapolated"])


def _start(job: Sequence[object]) -> Any:
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, "-c", PROGRAM, json.dumps(job)]
    return subprocess.Popen(command, cwd=ROOT, text=True, **pipes)


def _take_turn(process: Any, simulator: Any, count: int, total: int) -> Result:
    """Let a process embed this many texts; scale the times up to all texts."""
    output, errors = process.communicate("your turn\n")
    if process.returncode:
        raise RuntimeError(errors)
    runs, scale = json.loads(output), total / count
    return Result(
        seconds=mean(run["seconds"] for run in runs) * scale,
        processor=mean(run["processor"] for run in runs) * scale,
        memory=runs[0]["memory"],  # later rounds find it allocated already
        requests=simulator.stats()["requests"] if scale == 1 else total,
    )
