"""One block of a table: vectors in the right rows, nulls and errors where they belong."""

from typing import Any

import numpy as np
import pytest
from langchain_core.embeddings import Embeddings

from langchain_batch_embed import BatchEmbeddings, InputError, PartialEmbeddingsError, Report

pa = pytest.importorskip("pyarrow", reason="not installed: pyarrow")
block = pytest.importorskip("langchain_batch_embed.ray.block", reason="not installed: ray")


class Lengths(Embeddings):
    """A text's vector is its length, twice; some texts are refused."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the vectors."""
        if any("bad" in text for text in texts):
            raise ValueError("refused")
        return [[float(len(text)), 1.0] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """Return the vector."""
        return self.embed_documents([text])[0]


def make(**options: Any) -> Any:
    """Return an embedder."""
    made = {"text_column": "text", "vector_column": "v", "error_column": "e", **options}
    made.setdefault("count", lambda _: None)
    return block.Embedder(
        embeddings=BatchEmbeddings(
            Lengths(), model="m", max_retries=0, long_inputs="error", max_tokens_per_input=20
        ),
        **made,
    )


def table(*texts: str | None) -> Any:
    """Return a table of these texts, with a number each."""
    return pa.table({"text": pa.array(texts, pa.string()), "n": list(range(len(texts)))})


def test_vectors_are_fixed_size_float32_in_the_same_rows() -> None:
    """And the other columns stay."""
    done = make()(table("a", "bbb", "cc"))
    assert done.schema.field("v").type == pa.list_(pa.float32(), 2)
    assert done.column("v").to_pylist() == [[1, 1], [3, 1], [2, 1]]
    assert done.column("n").to_pylist() == [0, 1, 2]
    assert done.column("e").to_pylist() == [None, None, None]


def test_a_failed_row_is_null_and_names_the_error() -> None:
    """A null text is one of them, and one that is too long to be sent."""
    done = make()(table("a", "bad", None, "dddd", 50 * "word "))
    assert done.column("v").to_pylist() == [[1, 1], None, None, [4, 1], None]
    assert done.column("e").to_pylist() == [
        None,
        "ValueError",
        "InputTypeError",
        None,
        "InputError",
    ]


def test_a_failure_is_raised_where_that_is_asked_for() -> None:
    """There is no column of errors then."""
    embedder = make(error_column=None)
    assert embedder(table("a")).column_names == ["text", "n", "v"]
    with pytest.raises(PartialEmbeddingsError):
        embedder(table("a", "bad"))
    with pytest.raises(InputError):
        embedder(table("a", None))


def test_nulls_are_no_answer_where_everything_fails() -> None:
    """A wrong key must not fill a data set with nulls; one bad row alone may be null."""
    with pytest.raises(PartialEmbeddingsError):
        make()(table("bad", "also bad"))
    done = make()(table("bad"))
    assert done.column("v").to_pylist() == [None]
    assert done.column("e").to_pylist() == ["ValueError"]


def test_a_block_without_any_vector_has_the_width_of_the_others() -> None:
    """Blocks must have one schema."""
    embedder = make()
    embedder(table("a"))
    done = embedder(table(None))
    assert done.schema.field("v").type == pa.list_(pa.float32(), 2)
    assert embedder(table()).schema.field("v").type == pa.list_(pa.float32(), 2)


def test_each_call_is_counted() -> None:
    """Also one in which texts failed."""
    counted: list[Report] = []
    embedder = make(count=counted.append)
    embedder(table("a", "bb"))
    embedder(table("a", "bad"))
    assert [report.texts for report in counted] == [2, 2]
    assert [report.failures for report in counted] == [0, 1]


def test_an_array_is_not_copied_into_lists() -> None:
    """The numbers of a full block are those of the matrix."""
    done = make()(table("a", "bb"))
    values = done.column("v").combine_chunks().flatten().to_numpy()
    assert values.dtype == np.float32
