"""Ctrl-C in a program of its own."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from langchain_batch_embed.simulator import Scenario, Simulator

PROGRAM = """
import sys
from langchain_openai import OpenAIEmbeddings
from langchain_batch_embed import BatchEmbeddings

wrapped = OpenAIEmbeddings(model="text-embedding-3-small", api_key="any", base_url=sys.argv[1])
embeddings = BatchEmbeddings(wrapped, journal=sys.argv[2])
embeddings.embed_documents([f"text {i}" for i in range(100)])
print("ready", flush=True)
embeddings.embed_documents([f"another text {i}" for i in range(100)])
"""


def test_ctrl_c_ends_a_program_whose_server_hangs(tmp_path: Path) -> None:
    """It does not wait for the answers, whose time-out is two minutes."""
    journal = tmp_path / "journal"
    with Simulator(Scenario(latency=0, script=("ok",), faults={"hang": 1.0})) as server:
        program = subprocess.Popen(  # noqa: S603  # our own
            [sys.executable, "-c", PROGRAM, server.url, str(journal)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert program.stdout is not None
        try:
            assert program.stdout.readline() == b"ready\n"
            end = time.monotonic() + 10
            while server.stats()["in_flight"] == 0:
                assert time.monotonic() < end
                time.sleep(0.05)
            program.send_signal(signal.SIGINT)
            _, errors = program.communicate(timeout=20)  # far less than the time-out of 120 s
        finally:
            program.kill()
    assert b"KeyboardInterrupt" in errors
    assert journal.exists()
