"""The package's promises, tested with random texts, limits, workers and faults."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_openai import OpenAIEmbeddings
from numpy.typing import NDArray

from langchain_batch_embed import BatchEmbeddings, InputError, PartialEmbeddingsError
from langchain_batch_embed.simulator import vectors
from langchain_batch_embed.texts.tokens import ToktokCounter, weighted_mean, windows
from tests.support import FakeClock, LocalServer

COUNTER = ToktokCounter("cl100k_base")
DIMENSIONS = 16
POISON = "poison"

TEXTS = st.lists(
    st.one_of(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=30),
        st.sampled_from(
            ["same", "again", "日本語のテキスト", "🧠 and 🦊", f"{POISON} one", POISON]
        ),
        st.integers(60, 300).map(lambda n: "over-long text " * n),
    ),
    max_size=60,
)
FAULTS = st.dictionaries(
    st.sampled_from(
        [
            # "doubled" is left out: two such answers with differing order end a call.
            *("429", "429_bare", "500", "503", "reset", "truncated", "short"),
            *("shuffled", "html", "nan", "nulls", "error_200", "no_index"),
        ]
    ),
    st.floats(0.05, 0.25),
    max_size=3,
)


def expected(text: str, longest: int) -> NDArray[np.float32]:
    """Return the vector that the text must get: its own, or the mean of its windows'."""
    if COUNTER.count([text])[0] <= longest:
        return vectors([text], DIMENSIONS).ravel()
    parts = list(windows(text, longest, COUNTER))
    return weighted_mean(
        vectors([part.text for part in parts], DIMENSIONS), [part.tokens for part in parts]
    )


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    texts=TEXTS,
    max_batch_size=st.integers(1, 40),
    max_tokens=st.integers(100, 2000),
    max_workers=st.integers(1, 8),
    faults=FAULTS,
    seed=st.integers(0, 1000),
    lists=st.booleans(),
)
def test_every_promise_holds(
    server: LocalServer,
    openai_embeddings: Callable[..., OpenAIEmbeddings],
    texts: list[str],
    max_batch_size: int,
    max_tokens: int,
    max_workers: int,
    faults: dict[str, float],
    seed: int,
    lists: bool,
) -> None:
    """Each text gets its vector or an error, limits are kept, and nothing is paid for twice."""
    longest = 100
    server.configure(
        faults=faults,
        seed=seed,
        refuse_marker=POISON,
        max_inputs=max_batch_size,
        max_tokens_per_input=longest,
        max_tokens_per_request=max_tokens,
    )
    wrapped = openai_embeddings(model="text-embedding-3-small", dimensions=DIMENSIONS)
    with tempfile.TemporaryDirectory() as folder:
        embeddings = BatchEmbeddings(
            wrapped,
            max_batch_size=max_batch_size,
            max_tokens_per_request=max_tokens,
            max_tokens_per_input=longest,
            max_workers=max_workers,
            max_retries=50,  # enough for any random series of faults
            journal=Path(folder) / "journal",
            hedge=False,
            _clock=FakeClock(),
        )
        failed = {i for i, text in enumerate(texts) if POISON in text}
        try:
            got = list((embeddings.embed_documents if lists else embeddings.embed_numpy)(texts))
        except PartialEmbeddingsError as error:
            assert {failure.index for failure in error.failures} == failed != set()
            got = error.embeddings
        else:
            assert not failed

        # 1. One right vector a text, in order. 3. A failing text costs only itself.
        assert len(got) == len(texts)
        for i, (text, vector) in enumerate(zip(texts, got, strict=True)):
            if i in failed:
                assert vector is None
            else:
                assert np.allclose(vector, expected(text, longest), atol=1e-6)

        # 2. No request exceeds a limit: only poison and faults are refused.
        stats = server.stats()
        assert stats["max_inputs_seen"] <= max_batch_size
        assert stats["max_tokens_seen"] <= max_tokens
        assert stats["max_in_flight"] <= max_workers
        if not failed:
            assert "400" not in stats["by_status"]

        # 6. Identical texts are sent once.
        if not faults:
            assert stats["inputs_billed"] == stats["texts_billed_distinct"]

        # 4. A rerun with the same journal pays for nothing again.
        server.configure(refuse_marker=POISON)
        if failed:
            with pytest.raises(PartialEmbeddingsError):
                embeddings.embed_documents(texts)
        else:
            embeddings.embed_documents(texts)
        assert server.stats()["inputs_billed"] == 0
        embeddings.journal.close()


@settings(
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(texts=TEXTS, places=st.sets(st.integers(0, 60), min_size=1, max_size=5))
def test_empty_texts_are_named_before_anything_is_sent(
    server: LocalServer,
    openai_embeddings: Callable[..., OpenAIEmbeddings],
    texts: list[str],
    places: set[int],
) -> None:
    """Empty texts in any place are named in an error before anything is sent."""
    mixed = list(texts)
    for place in places:
        mixed.insert(place, "")
    server.configure()
    with pytest.raises(InputError) as refused:
        BatchEmbeddings(openai_embeddings()).embed_documents(mixed)
    assert refused.value.indices == tuple(i for i, text in enumerate(mixed) if not text)
    assert server.stats()["requests"] == 0
