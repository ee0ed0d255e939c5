"""A fast calendar, and programs that are killed, for the tests of the Batch API."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

from langchain_batch_embed import BatchEmbeddings
from langchain_batch_embed.simulator import BatchApi
from tests.support import LocalServer, assert_right, prose

Half = Callable[..., BatchEmbeddings]
"""Makes embeddings for the local server."""

START = 1_700_000_000.0
FACTOR = 40.0
"""How many times faster the calendar runs.

A minute between two polls takes 1.5 s, and the first pauses a twentieth of a second.
"""

ROOT = Path(__file__).parents[2]

BULKY = [prose(150, i) for i in range(2000)]
"""Some 300,000 tokens, so that a queue of a quarter is about 75,000."""

POISONED = (17, 2048, 5999)
"""Positions of the texts that `poisoned` makes the server refuse."""


class FastCalendar:
    """A calendar that is faster than the real one and agrees in every process."""

    def __init__(self, factor: float = FACTOR) -> None:
        self._factor = factor

    def time(self) -> float:
        """Return this calendar's seconds since 1970."""
        return START + (time.time() - START) * self._factor

    def sleep(self, seconds: float) -> None:
        """Wait for this many of the calendar's seconds."""
        time.sleep(seconds / self._factor)


class JumpingCalendar:
    """A calendar that only `sleep` moves."""

    def __init__(self) -> None:
        self._now = START

    def time(self) -> float:
        """Return this calendar's seconds since 1970."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Jump ahead, and give the server a moment."""
        self._now += seconds
        time.sleep(0.005)


def make(url: str, journal: Path, *, factor: float = FACTOR, **options: Any) -> BatchEmbeddings:
    """Return embeddings for the local server."""
    wrapped = OpenAIEmbeddings(
        base_url=url,
        api_key=SecretStr("sk-test"),
        model="text-embedding-3-small",
        **options.pop("wrapped", {}),
    )
    made = {"hedge": False, "_calendar": FastCalendar(factor), **options}  # a hedge is billed too
    return BatchEmbeddings(wrapped, journal=journal, **made)


def configure(server: LocalServer, *, dimensions: int = 16, **batch: Any) -> None:
    """Give the server a scenario with these options of its Batch API."""
    others = {
        name: batch.pop(name)
        for name in ("refuse_marker", "marker_status", "firewall_marker", "base64", "tier",
                     "api_key", "usage", "outages", "outage", "requests_per_minute")
        if name in batch
    }  # fmt: skip
    server.configure(dimensions=dimensions, batch_api=BatchApi(**batch), **others)


def texts_of(count: int, start: int = 0) -> list[str]:
    """Return texts that all differ."""
    return [f"section {i} of the book" for i in range(start, start + count)]


def poisoned(texts: Sequence[str]) -> list[str]:
    """Return the texts, three of which a server refuses for the word `poison`."""
    return [f"poison {i}" if i in POISONED else text for i, text in enumerate(texts)]


def assert_all_there(embeddings: BatchEmbeddings, texts: list[str], server: LocalServer) -> None:
    """Check that the journal has every vector, bit for bit, so that no request is sent."""
    before = server.stats()["requests"]
    assert_right(embeddings.embed_numpy(texts), texts)
    assert server.stats()["requests"] == before


def assert_paid_once(stats: dict[str, Any], texts: int) -> None:
    """Check that each text was computed once, and that no intent has two batches."""
    assert (stats["inputs_billed"], stats["texts_billed_distinct"]) == (texts, texts)
    assert_one_batch_an_intent(stats)


def assert_one_batch_an_intent(stats: dict[str, Any]) -> None:
    """Check that no intent has two batches."""
    intents = Counter(batch["metadata"]["langchain_batch_embed"] for batch in stats["batches"])
    assert set(intents.values()) <= {1}


PROGRAM = """
import sys, json
from pathlib import Path
from tests.batch_api.support import make, texts_of, kill_at
options = json.loads(sys.argv[1])
kill_at(options["point"])
embeddings = make(options["url"], Path(options["journal"]), **options["made"])
print("made", flush=True)
if options["submits"]:
    job = embeddings.submit(texts_of(options["texts"]), **options["submitted"])
else:
    job = embeddings.jobs()[0]
print("submitted", flush=True)
job.wait(show_progress=False)
print("done", flush=True)
"""


def start(
    url: str,
    journal: Path,
    *,
    texts: int,
    point: str = "",
    submits: bool = True,
    submitted: dict[str, Any] | None = None,
    **made: Any,
) -> "subprocess.Popen[str]":
    """Start a program that submits texts and waits, or waits for the journal's first job.

    Args:
        url: of the server.
        journal: path of the file.
        texts: number of texts.
        point: where the program kills itself, see `kill_at`.
        submits: whether it submits.
        submitted: options of `submit`.
        made: options of `make`.
    """
    options = {
        "url": url,
        "journal": str(journal),
        "texts": texts,
        "point": point,
        "submits": submits,
        "submitted": submitted or {},
        "made": made,
    }
    return subprocess.Popen(  # noqa: S603  # our own code
        [sys.executable, "-c", PROGRAM, json.dumps(options)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_at(point: str) -> None:
    """Make this process kill itself before or after a step, such as "after create".

    "half way" is in the middle of the output, when some of its lines are in the journal and one has
    been read but not recorded yet.
    """
    if not point:
        return
    from langchain_batch_embed.batch_api import collect, service, store  # noqa: PLC0415

    when, _, name = point.partition(" ")
    owners: dict[str, tuple[type, str]] = {
        "upload": (service.BatchService, "upload"),
        "create": (service.BatchService, "create"),
        "retrieve": (service.BatchService, "retrieve"),
        "download": (collect.Collector, "collect"),
        "write": (store.JobStore, "finish_lines"),
        "close": (store.JobStore, "replace_lines"),
        "delete": (service.BatchService, "delete"),
        "add": (store.JobStore, "add"),
        "end": (store.JobStore, "end"),
        "take over": (store.JobStore, "take_over"),
    }
    nth = 1
    if name == "way":
        when, name, nth = "before", "write", 3
        collect.WRITTEN_AT_ONCE = 1
    owner, method = owners[name]
    original: Callable[..., Any] = getattr(owner, method)
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if when == "before" and calls == nth:
            os.kill(os.getpid(), 9)
        result = original(*args, **kwargs)
        if when == "after" and calls == nth:
            os.kill(os.getpid(), 9)
        return result

    setattr(owner, method, wrapped)
