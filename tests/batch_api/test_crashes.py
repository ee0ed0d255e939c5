"""A process may be killed at any moment, and no text is paid for twice or lost."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.batch_api.support import (
    assert_all_there,
    assert_one_batch_an_intent,
    assert_paid_once,
    configure,
    make,
    start,
    texts_of,
)
from tests.support import LocalServer

TEXTS = 6000

SEEDS = int(os.environ.get("CRASH_SEEDS", "5"))
"""Pairs of random moments at which a process is killed."""

POINTS = [
    *("before add", "after add", "before upload", "after upload", "before create", "after create"),
    *("before retrieve", "before download", "before write", "after write", "half way"),
    *("before close", "after close", "before delete", "after delete", "before end", "after end"),
]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")


def finish(program: "subprocess.Popen[str]", *, killed: bool = False) -> str:
    """Wait for a program and return its output."""
    out, errors = program.communicate(timeout=90)
    assert program.returncode == (-9 if killed else 0), errors[-3000:]
    return out


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_at_any_step_pays_nothing_twice(
    server: LocalServer, tmp_path: Path, point: str
) -> None:
    """After a crash at any step, the same program has one batch and pays for each text once."""
    configure(server)
    journal = tmp_path / "vectors.db"
    finish(start(server.url, journal, texts=TEXTS, point=point), killed=True)
    embeddings = make(server.url, journal)
    job = embeddings.submit(texts_of(TEXTS))
    job.wait(show_progress=False)
    stats = server.stats()
    assert_paid_once(stats, TEXTS)
    assert len(stats["batches"]) == 1
    assert stats["files"]["kept"] <= 1  # if an upload was not recorded, its file stays
    assert_all_there(embeddings, texts_of(TEXTS), server)


@pytest.mark.parametrize("point", ["after upload", "before create", "after create", "half way"])
def test_another_process_goes_on_without_the_texts(
    server: LocalServer, tmp_path: Path, point: str
) -> None:
    """Another process completes a job without the texts, which it finds on the server."""
    configure(server, fates=("expires",), day=1.0)
    journal = tmp_path / "vectors.db"
    finish(start(server.url, journal, texts=TEXTS, point=point), killed=True)
    embeddings = make(server.url, journal)
    (job,) = embeddings.jobs()
    job.wait(show_progress=False)
    stats = server.stats()
    assert_paid_once(stats, TEXTS)
    assert stats["files"]["kept"] == 0
    assert_all_there(embeddings, texts_of(TEXTS), server)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_job_that_is_killed_twice_pays_nothing_twice(
    server: LocalServer, tmp_path: Path, seed: int
) -> None:
    """SIGKILL at random times pays for no text twice.

    This holds even if answers are lost and batches expire.
    """
    configure(
        server,
        fates=("expires",),
        creations=("lost", "ok", "lost"),
        line_faults={"status_500": 0.1},
        call_faults={"lost": 0.05, "reset": 0.05},
        day=1.5,
        running=0.8,
    )
    journal = tmp_path / "vectors.db"
    dice = random.Random(seed)
    for _ in range(2):
        program = start(server.url, journal, texts=TEXTS)
        assert program.stdout is not None
        assert program.stdout.readline() == "made\n"
        time.sleep(dice.uniform(0.0, 1.2))
        program.kill()
        program.communicate()
    finish(start(server.url, journal, texts=TEXTS))
    stats = server.stats()
    assert_paid_once(stats, TEXTS)
    assert_all_there(make(server.url, journal), texts_of(TEXTS), server)


def test_two_processes_wait_for_one_job(server: LocalServer, tmp_path: Path) -> None:
    """If two processes wait for one job, one works, both end, and each text is paid for once."""
    configure(server, fates=("expires", "expires"), day=1.0)
    journal = tmp_path / "vectors.db"
    embeddings = make(server.url, journal)
    embeddings.submit(texts_of(TEXTS))
    waiting = [start(server.url, journal, texts=TEXTS, submits=False) for _ in range(2)]
    assert [finish(program) for program in waiting] == ["made\nsubmitted\ndone\n"] * 2
    assert_paid_once(server.stats(), TEXTS)
    assert_all_there(embeddings, texts_of(TEXTS), server)


def test_two_processes_submit_the_same_texts(server: LocalServer, tmp_path: Path) -> None:
    """If two processes submit the same texts, the second one waits for the first one's batch."""
    configure(server)
    journal = tmp_path / "vectors.db"
    both = [start(server.url, journal, texts=TEXTS) for _ in range(2)]
    assert [finish(program) for program in both] == ["made\nsubmitted\ndone\n"] * 2
    stats = server.stats()
    assert_paid_once(stats, TEXTS)
    assert len(stats["batches"]) == 1


def test_the_one_that_works_is_killed_and_the_other_goes_on(
    server: LocalServer, tmp_path: Path
) -> None:
    """If the working process is killed, its lock ends with it, and the other one goes on."""
    configure(server, running=0.6)
    journal = tmp_path / "vectors.db"
    make(server.url, journal).submit(texts_of(TEXTS))
    killed = start(server.url, journal, texts=TEXTS, submits=False, point="half way")
    other = start(server.url, journal, texts=TEXTS, submits=False)
    killed.communicate(timeout=60)
    finish(other)
    stats = server.stats()
    assert_paid_once(stats, TEXTS)
    assert_one_batch_an_intent(stats)
