"""Threads that Python does not wait for when it exits, and the work that it still waits for."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from langchain_batch_embed.sending import threads
from langchain_batch_embed.sending.threads import finishing, in_daemon, submit

LEFT = """
import threading
from concurrent.futures import ThreadPoolExecutor
from langchain_batch_embed.sending.threads import in_daemon, submit_daemon

executor = ThreadPoolExecutor(2)
started = threading.Event()

def hang():
    started.set()
    threading.Event().wait()

in_daemon(lambda: submit_daemon(executor, hang))
started.wait()
print("end", flush=True)
"""

WRITES = """
import threading
from langchain_batch_embed.sending.threads import finishing

started = threading.Event()

def write():
    with finishing():
        started.set()
        threading.main_thread().join()  # the program is at its end
        print("written", flush=True)

threading.Thread(target=write, daemon=True).start()
started.wait()
"""


EMBEDS = """
import asyncio, atexit, concurrent.futures.thread, sys, threading
from concurrent.futures import ThreadPoolExecutor
from langchain_core.embeddings import Embeddings
from langchain_batch_embed import BatchEmbeddings

class Ones(Embeddings):
    def embed_documents(self, texts):
        return [[1.0] for _ in texts]
    def embed_query(self, text):
        return [1.0]

embeddings = BatchEmbeddings(Ones(), max_batch_size=10, max_workers=4)
if sys.argv[2:] == ["warm"]:
    embeddings.embed_documents(["earlier"])

def embed():
    return embeddings.embed_documents([f"text {i}" for i in range(500)])

def prefetch():
    texts = [f"text {i}" for i in range(50)]
    with embeddings.prefetch(texts):
        return embeddings.embed_documents(texts[:25]) + embeddings.embed_documents(texts[25:])

def run_async():
    return asyncio.run(embeddings.aembed_documents([f"text {i}" for i in range(500)]))

def late(work):
    while not concurrent.futures.thread._shutdown:  # until the main thread is at its end
        pass
    print(len(work()), flush=True)

class Late:
    def __del__(self):
        try:
            embed()
        except Exception as error:
            print(type(error).__name__, error, flush=True)

if sys.argv[1] == "atexit":
    atexit.register(lambda: print(len(embed()), flush=True))
elif sys.argv[1] == "pool":
    pool = ThreadPoolExecutor(1)
    pool.submit(late, embed)
    pool.submit(late, embed)
elif sys.argv[1] == "del":
    kept = Late()
else:
    threading.Thread(target=late, args=[globals()[sys.argv[1]]]).start()
"""


def output_of(program: str, *arguments: str) -> str:
    """Return what a program prints, and fail if it does not end."""
    done = subprocess.run(  # noqa: S603  # our own
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


def test_a_thread_that_hangs_does_not_hold_up_the_end() -> None:
    """A thread that hangs, for example at a server, does not keep the program from ending."""
    assert output_of(LEFT) == "end\n"


def test_what_is_being_written_is_waited_for() -> None:
    """The program does not end before an answer, which is paid for, has been written."""
    assert output_of(WRITES) == "written\n"


def test_a_thread_that_is_started_within_is_a_daemon() -> None:
    """A thread started within `in_daemon` is a daemon, and the result comes back to the caller."""
    executor = ThreadPoolExecutor(1)
    future = in_daemon(lambda: executor.submit(threading.current_thread))
    assert future.result(10).daemon
    executor.shutdown()


def test_an_error_of_the_start_comes_back() -> None:
    """An error while starting, as where no thread can be started, comes back to the caller."""
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule"):
        in_daemon(lambda: executor.submit(print))


def test_an_error_within_is_the_end_of_what_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error within `finishing` ends the wait, or the exit would take `LAST_WRITES` seconds."""
    monkeypatch.setattr(threads, "_writes", threads._Writes())  # not those of other tests
    monkeypatch.setattr(threads, "LAST_WRITES", 60.0)
    with pytest.raises(ZeroDivisionError), finishing():
        raise ZeroDivisionError
    begun = time.monotonic()
    threads._wait()  # called at the exit
    assert time.monotonic() - begun < 30


LATE_THREADS = pytest.mark.skipif(
    (3, 12) <= sys.version_info < (3, 12, 2), reason="Python 3.12.1 refuses all late threads"
)


@LATE_THREADS
@pytest.mark.parametrize(
    ("how", "printed"),
    [
        ("embed", "500\n"),
        ("pool", "500\n500\n"),
        ("prefetch", "50\n"),
        ("run_async", "500\n"),
    ],
)
@pytest.mark.parametrize("before", [(), ("warm",)], ids=["new", "warm"])
def test_calls_go_on_after_the_main_thread_has_ended(
    how: str, printed: str, before: tuple[str, ...]
) -> None:
    """A thread still embeds after the main thread's end, although every executor refuses work."""
    assert output_of(EMBEDS, how, *before) == printed


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="Python may start no thread in atexit then")
@pytest.mark.parametrize("before", [(), ("warm",)], ids=["new", "warm"])
def test_a_function_registered_with_atexit_may_embed(before: tuple[str, ...]) -> None:
    """A function that `atexit` calls can embed, for example the rest of a buffer."""
    assert output_of(EMBEDS, "atexit", *before) == "500\n"


def test_an_error_at_once_where_no_thread_runs_any_more() -> None:
    """A call in a late `__del__` is an error at once, as no thread could ever answer it.

    From Python 3.12 on, the error may be that of an import.
    """
    assert output_of(EMBEDS, "del").startswith(("BatchEmbeddingsError Python is", "ImportError"))


def test_work_that_an_executor_has_queued_is_not_run_twice() -> None:
    """An error of an executor that may have queued the work is raised, not answered by a thread."""
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule"):
        submit(executor, print)
