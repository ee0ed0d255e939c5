"""In one block of a table, vectors, nulls and errors are in the right rows."""

from typing import Any

import numpy as np
import pytest
from langchain_core.embeddings import Embeddings

from langchain_batch_embed import (
    BatchEmbeddings,
    InputError,
    OptionError,
    PartialEmbeddingsError,
    Report,
)

pa = pytest.importorskip("pyarrow", reason="not installed: pyarrow")
block = pytest.importorskip("langchain_batch_embed.ray.block", reason="not installed: ray")


class Lengths(Embeddings):
    """Embeddings whose vector is the text's length and 1; texts with "bad" are refused."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the vectors of the texts."""
        if any("bad" in text for text in texts):
            raise ValueError("refused")
        return [[float(len(text)), 1.0] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of the text."""
        return self.embed_documents([text])[0]


def make(**options: Any) -> Any:
    """Return an embedder of blocks."""
    made = {"text_column": "text", "vector_column": "v", "error_column": "e", **options}
    made.setdefault("count", lambda _: None)
    return block.Embedder(
        embeddings=BatchEmbeddings(
            Lengths(), model="m", max_retries=0, long_inputs="error", max_tokens_per_input=20
        ),
        **made,
    )


def table(*texts: str | None) -> Any:
    """Return a table of these texts, numbered."""
    return pa.table({"text": pa.array(texts, pa.string()), "n": list(range(len(texts)))})


def test_vectors_are_fixed_size_float32_in_the_same_rows() -> None:
    """Vectors are fixed-size lists of float32 in their rows, and other columns stay."""
    done = make()(table("a", "bbb", "cc"))
    assert done.schema.field("v").type == pa.list_(pa.float32(), 2)
    assert done.column("v").to_pylist() == [[1, 1], [3, 1], [2, 1]]
    assert done.column("n").to_pylist() == [0, 1, 2]
    assert done.column("e").to_pylist() == [None, None, None]


@pytest.mark.parametrize("name", ["text", "v", "e"])
def test_a_wrong_column_is_noticed_before_anything_is_sent(name: str) -> None:
    """A missing column of texts, or a new column that exists, is an error before any call."""
    counted: list[Report] = []
    given = table("a")
    given = (
        given.rename_columns(["other", "n"]) if name == "text" else given.append_column(name, [[1]])
    )
    with pytest.raises(OptionError, match="text_column=" if name == "text" else "already"):
        make(count=counted.append)(given)
    assert not counted


def test_a_failed_row_is_null_and_names_the_error() -> None:
    """A failed row has a null vector and the error's name.

    A null text and one that is too long fail too.
    """
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
    """Without an error column a failure is raised."""
    embedder = make(error_column=None)
    assert embedder(table("a")).column_names == ["text", "n", "v"]
    with pytest.raises(PartialEmbeddingsError):
        embedder(table("a", "bad"))
    with pytest.raises(InputError):
        embedder(table("a", None))


def test_nulls_are_no_answer_where_everything_fails() -> None:
    """If every row fails, as with a wrong key, an error is raised instead of nulls.

    A single bad row in a block may still be null.
    """
    with pytest.raises(PartialEmbeddingsError):
        make()(table("bad", "also bad"))
    done = make()(table("bad"))
    assert done.column("v").to_pylist() == [None]
    assert done.column("e").to_pylist() == ["ValueError"]


def test_a_block_without_any_vector_has_the_width_of_the_others() -> None:
    """A block without any vector has the same width as earlier ones, as blocks share a schema."""
    embedder = make()
    embedder(table("a"))
    done = embedder(table(None))
    assert done.schema.field("v").type == pa.list_(pa.float32(), 2)
    assert embedder(table()).schema.field("v").type == pa.list_(pa.float32(), 2)


def test_each_call_is_counted() -> None:
    """Each call is counted, including one in which texts failed."""
    counted: list[Report] = []
    embedder = make(count=counted.append)
    embedder(table("a", "bb"))
    embedder(table("a", "bad"))
    assert [report.texts for report in counted] == [2, 2]
    assert [report.failures for report in counted] == [0, 1]


def test_an_array_is_not_copied_into_lists() -> None:
    """The vectors of a full block are stored as float32."""
    done = make()(table("a", "bb"))
    values = done.column("v").combine_chunks().flatten().to_numpy()
    assert values.dtype == np.float32
