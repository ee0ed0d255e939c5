"""Objects can be copied within a process and pickled for another one."""

import copy
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from langchain_core.embeddings import Embeddings
from langchain_openai import OpenAIEmbeddings

from langchain_batch_embed import BatchEmbeddings
from langchain_batch_embed.clock import SYSTEM_CLOCK
from tests.support import assert_right

Batch = Callable[..., BatchEmbeddings]


class Prefixing(BatchEmbeddings):
    """A user's subclass with its own constructor."""

    def __init__(self, prefix: str, wrapped: Embeddings) -> None:
        super().__init__(wrapped)
        self.prefix = prefix

    def embed_documents(
        self, texts: Iterable[str], chunk_size: int | None = None
    ) -> list[list[float]]:
        """Embed the texts with the prefix before each."""
        del chunk_size
        return super().embed_documents([self.prefix + text for text in texts])


def pickled(embeddings: Prefixing) -> Prefixing:
    """Return the copy that another process would receive."""
    other: Prefixing = pickle.loads(pickle.dumps(embeddings))  # noqa: S301  # our own bytes
    return other


class TestCopies:
    """Copies work as the original object does."""

    def test_an_instance_can_be_pickled(self, batch: Batch, tmp_path: Path) -> None:
        """A pickled copy works with its own threads and the same journal."""
        embeddings = batch(journal=tmp_path / "j", _clock=SYSTEM_CLOCK)
        expected = embeddings.embed_documents(["a"])
        other = pickle.loads(pickle.dumps(embeddings))  # noqa: S301
        assert other.embed_documents(["a"]) == expected
        assert other.last_report.from_journal == 1

    @pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickled])
    def test_a_copy_of_a_subclass_keeps_what_that_added(
        self, batch: Batch, again: Callable[[Prefixing], Prefixing]
    ) -> None:
        """A copy keeps the attributes of a subclass without calling its `__init__`."""
        other = again(Prefixing("passage: ", batch().embeddings))
        assert_right(other.embed_documents(["a"]), ["passage: a"])
        assert isinstance(other.embeddings, OpenAIEmbeddings)
