"""Ctrl-C in a separate program."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from langchain_batch_embed import SQLiteJournal
from langchain_batch_embed.simulator import Scenario, Simulator

PROGRAM = """
import sys, threading
from langchain_core.embeddings import Embeddings
from langchain_openai import OpenAIEmbeddings
from langchain_batch_embed import BatchEmbeddings

class Hanging(Embeddings):
    # A class whose own client never gives up.
    def embed_documents(self, texts):
        if "text 0" in texts:
            return [[1.0, 2.0] for _ in texts]
        print("ready", flush=True)
        threading.Event().wait()
    def embed_query(self, text):
        return self.embed_documents([text])[0]

def ready_soon():  # once the call below waits
    threading.Timer(0.5, print, ["ready"], {"flush": True}).start()

way, url, journal = sys.argv[1:]
wrapped = OpenAIEmbeddings(model="text-embedding-3-small", api_key="any", base_url=url)
if way == "class":
    wrapped = Hanging()
embeddings = BatchEmbeddings(wrapped, journal=journal, model="m")
embeddings.embed_documents([f"text {i}" for i in range(100)])
others = [f"another text {i}" for i in range(100)]
if way == "prefetch":  # left open
    prefetch = embeddings.prefetch(others)
if way != "class":
    ready_soon()
if way == "query":
    embeddings.embed_query("a question")
elif way == "async":
    import asyncio
    asyncio.run(embeddings.aembed_documents(others))
else:
    embeddings.embed_documents(others)
"""

WAYS = ["documents", "query", "async", "prefetch", "class"]


@pytest.mark.parametrize("way", WAYS)
def test_ctrl_c_ends_a_program_whose_server_hangs(way: str, tmp_path: Path) -> None:
    """Ctrl-C ends a program whose server hangs, and the journal keeps what was finished.

    The program does not wait for an answer, whose time-out is two minutes.
    """
    path = tmp_path / "journal"
    with Simulator(Scenario(latency=0, script=("ok",), faults={"hang": 1.0})) as server:
        program = subprocess.Popen(  # noqa: S603  # our own
            [sys.executable, "-c", PROGRAM, way, server.url, str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert program.stdout is not None
        try:
            assert program.stdout.readline() == b"ready\n"
            program.send_signal(signal.SIGINT)
            _, errors = program.communicate(timeout=30)  # far less than the time-out of 120 s
        finally:
            program.kill()
    assert b"KeyboardInterrupt" in errors
    journal = SQLiteJournal(path)
    assert journal.stats().vectors == 100
    journal.close()
