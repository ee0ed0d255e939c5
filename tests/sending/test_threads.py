"""Threads that Python does not wait for at its end, and what it waits for all the same."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from langchain_batch_embed.sending.threads import finishing, in_daemon, leave_behind

LEFT = """
import threading
from concurrent.futures import ThreadPoolExecutor
from langchain_batch_embed.sending.threads import in_daemon, leave_behind

executor = ThreadPoolExecutor(2)
started = threading.Event()
in_daemon(lambda: executor.submit(lambda: (started.set(), threading.Event().wait())))
leave_behind(executor)
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


def output_of(program: str) -> str:
    """Return what a program prints; it has to end."""
    done = subprocess.run(  # noqa: S603  # our own
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def test_a_thread_that_hangs_does_not_hold_up_the_end() -> None:
    """It waits for a server, say, and nobody waits for it."""
    assert output_of(LEFT) == "end\n"


def test_what_is_being_written_is_waited_for() -> None:
    """An answer that has come is paid for."""
    assert output_of(WRITES) == "written\n"


def test_a_thread_that_is_started_within_is_a_daemon() -> None:
    """Whoever asks; the result comes back."""
    executor = ThreadPoolExecutor(1)
    future = in_daemon(lambda: executor.submit(threading.current_thread))
    leave_behind(executor)
    assert future.result(10).daemon
    executor.shutdown()


def test_an_error_of_the_start_comes_back() -> None:
    """As where no thread can be started."""
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule"):
        in_daemon(lambda: executor.submit(print))


def test_an_error_within_is_the_end_of_what_is_waited_for() -> None:
    """Else the end of the program would wait in vain."""
    with pytest.raises(ZeroDivisionError), finishing():
        raise ZeroDivisionError
    assert output_of("from tests.sending import test_threads") == ""
