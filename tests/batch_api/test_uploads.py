"""A job uploads each missing text once, in as few lines and batches as the limits permit."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from langchain_batch_embed import BatchEmbeddings
from langchain_batch_embed.commands.corpus import sections, standard_library
from tests.batch_api.support import (
    ROOT,
    Half,
    assert_all_there,
    assert_one_batch_an_intent,
    assert_paid_once,
    configure,
    texts_of,
)
from tests.support import LocalServer, prose

TEXTS = texts_of(6000)


class TestPacking:
    """A job uploads each missing text once, in full lines."""

    def test_a_whole_corpus_takes_one_batch_of_at_most_twelve_lines(
        self, server: LocalServer, half: Half
    ) -> None:
        """The demo's 19,207 sections take one batch of at most twelve lines, bit for bit.

        A store then needs no request.
        """
        configure(server, dimensions=64)
        corpus = [s.text for s in sections(standard_library()[1], 19_207)]
        embeddings = half()
        job = embeddings.submit(corpus)
        report = job.wait(show_progress=False)
        (batch,) = server.stats()["batches"]
        assert batch["lines"] <= 12
        assert batch["inputs"] == len(corpus)
        assert_paid_once(server.stats(), len(corpus))
        assert report.half_price_tokens == server.stats()["batch_tokens_billed"]
        assert report.full_price_tokens == 0
        assert_all_there(embeddings, corpus, server)

    def test_a_line_has_as_many_texts_as_a_request(self, server: LocalServer, half: Half) -> None:
        """A line has at most 2,048 texts and a batch at most 50,000, in all its lines."""
        configure(server)
        texts = [f"t{i}" for i in range(60_000)]
        half().submit(texts).wait(show_progress=False)
        stats = server.stats()
        assert_paid_once(stats, len(texts))
        assert len(stats["batches"]) == 2
        assert max(batch["inputs"] for batch in stats["batches"]) <= 50_000
        assert max(batch["largest_line"] for batch in stats["batches"]) <= 2048

    def test_what_is_known_is_not_sent(self, server: LocalServer, half: Half) -> None:
        """Identical texts are sent once, and texts in the journal are not sent."""
        configure(server)
        embeddings = half()
        embeddings.embed_documents(TEXTS[:100])
        job = embeddings.submit([*TEXTS[:300], *TEXTS[:300]])
        report = job.wait(show_progress=False)
        assert server.stats()["batch_inputs_billed"] == 200
        assert (report.texts, report.unique, report.from_journal) == (600, 300, 100)
        assert job.status.texts == job.status.finished == 200

    def test_an_over_long_text_goes_as_windows(self, server: LocalServer, half: Half) -> None:
        """An over-long text is sent as windows, and gets the vector of ordinary requests."""
        configure(server)
        texts = [prose(9000), "short", "short \u2028 with \x85 odd \u2029 ends\n", "\ud800"]
        embeddings = half()
        embeddings.submit(texts).wait(show_progress=False)
        before = server.stats()["requests"]
        got = embeddings.embed_numpy(texts)
        assert server.stats()["requests"] == before
        ordinary = BatchEmbeddings(embeddings.embeddings).embed_numpy(texts)
        np.testing.assert_array_equal(got, ordinary)

    def test_options_of_the_wrapped_object_are_sent(self, server: LocalServer, half: Half) -> None:
        """Options of the wrapped object, here `dimensions`, are sent with the batch."""
        configure(server, dimensions=64)
        embeddings = half(wrapped={"dimensions": 8})
        embeddings.submit(["a", "b"]).wait(show_progress=False)
        assert embeddings.embed_numpy(["a", "b"]).shape == (2, 8)
        assert server.stats()["requests"] == 0

    def test_floats_are_read_too(self, server: LocalServer, half: Half) -> None:
        """Vectors that a server sends as numbers, ignoring base64, are read."""
        configure(server, base64=False)
        embeddings = half()
        embeddings.submit(TEXTS[:100]).wait(show_progress=False)
        assert_all_there(embeddings, TEXTS[:100], server)

    def test_nothing_to_do_is_done_at_once(self, server: LocalServer, half: Half) -> None:
        """A job without missing texts ends at once, with no file and no batch."""
        configure(server)
        embeddings = half()
        embeddings.embed_documents(["a"])
        for texts in ([], ["a"]):
            job = embeddings.submit(texts)
            assert job.status.has_ended
            assert job.wait(show_progress=False).failures == ()
        assert server.stats()["files"]["uploaded"] == 0


MEMORY = """
import json, sys
from pathlib import Path
from tests.batch_api.support import make
from tests.memory import peak_bytes
url, journal, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
job = make(url, journal, factor=40).submit(f"text number {i}" for i in range(count))
job.wait(show_progress=False)
print(json.dumps([job.status.finished, peak_bytes()]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="nothing there tells the peak of memory")
def test_the_output_of_300_000_texts_takes_little_memory(
    server: LocalServer, journal: Path
) -> None:
    """The output is read line by line, so 614 MB of vectors take little memory."""
    configure(server, dimensions=512, running=1.0)
    done = subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-c", MEMORY, server.url, str(journal), "300000"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    finished, peak = json.loads(done.stdout)
    assert finished == 300_000
    assert peak < 600e6
    assert_one_batch_an_intent(server.stats())
