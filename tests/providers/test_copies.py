"""Copies, pickles and forks embed like the original, over connections of their own."""

import copy
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable
from typing import Any

import openai
import pytest
from langchain_openai import OpenAIEmbeddings
from pydantic import PrivateAttr, SecretStr
from pytest_mock import MockerFixture

from langchain_batch_embed import (
    BatchEmbeddings,
    BatchEmbeddingsError,
    OptionError,
)
from langchain_batch_embed.clock import SYSTEM_CLOCK
from tests.providers.fakes import Prefixed
from tests.support import LocalServer, assert_right, wait_until
from tests.survival.support import Asked, Endpoint

Batch = Callable[..., BatchEmbeddings]


class TestCopies:
    """A copy, or an object unpickled in another process, embeds like the original."""

    class Private(OpenAIEmbeddings):
        """An `OpenAIEmbeddings` that keeps its prefix in a private attribute."""

        _prefix: str = PrivateAttr("")
        _calls: int = PrivateAttr(0)
        _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)

        def embed_documents(
            self, texts: list[str], chunk_size: int | None = None, **options: Any
        ) -> list[list[float]]:
            """Embed the texts with the prefix before each."""
            with self._lock:
                self._calls += 1
            texts = [self._prefix + text for text in texts]
            return super().embed_documents(texts, chunk_size, **options)

    @pytest.fixture
    def make(self, server: LocalServer) -> Callable[[str], OpenAIEmbeddings]:
        """Return a function that makes such an object with a prefix."""

        def make(prefix: str) -> OpenAIEmbeddings:
            wrapped = self.Private(
                base_url=server.url, api_key=SecretStr("k"), check_embedding_ctx_length=False
            )
            wrapped._prefix = prefix
            return wrapped

        return make

    @pytest.mark.parametrize(
        "again",
        [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))],  # noqa: S301
    )
    def test_private_attributes_are_copied(
        self,
        make: Callable[[str], OpenAIEmbeddings],
        again: Callable[[BatchEmbeddings], BatchEmbeddings],
    ) -> None:
        """Private attributes are copied, because without the prefix a copy makes wrong vectors."""
        other = again(BatchEmbeddings(make("p: ")))
        assert_right(other.embed_numpy(["a"]), ["p: a"])
        assert isinstance(other.embeddings, OpenAIEmbeddings)

    def test_private_attributes_tell_vectors_apart(
        self, make: Callable[[str], OpenAIEmbeddings]
    ) -> None:
        """Objects with different private attributes have different vectors in a journal."""
        one, other = make("p: "), make("q: ")
        spaces = [BatchEmbeddings(each)._pipeline.provider.space for each in (one, other)]
        assert spaces[0] != spaces[1]
        one.embed_documents(["counts its calls"])
        assert BatchEmbeddings(one)._pipeline.provider.space == spaces[0]

    def test_a_client_of_the_users_own_cannot_be_copied(self, server: LocalServer) -> None:
        """An object with the user's own client cannot be copied.

        The copy would send the texts to another server.
        """
        own = openai.OpenAI(base_url=server.url, api_key="k")
        embeddings = BatchEmbeddings(
            OpenAIEmbeddings(client=own.embeddings, api_key=SecretStr("k"))
        )
        assert_right(embeddings.embed_numpy(["a"]), ["a"])
        with pytest.raises(OptionError, match="base_url= rather than"):
            copy.copy(embeddings)
        own.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
class TestForks:
    """A child process neither reads its parent's answers nor waits for its threads."""

    def fork(self, embeddings: BatchEmbeddings, expected: str = "child") -> None:
        """Embed a text in a child process and wait for its end."""

        def child() -> None:
            assert_right(embeddings.embed_numpy(["child"]), [expected])

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(60)
        assert process.exitcode == 0

    def test_each_process_has_connections_of_its_own(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """After a fork, parent and child each get their own vectors over their own connections."""
        embeddings = batch()
        embeddings.embed_documents(["before"])
        self.fork(embeddings)
        assert_right(embeddings.embed_numpy(["parent"]), ["parent"])
        assert server.stats()["connections"] == 2

    def test_a_child_that_was_forked_from_a_child_has_too(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """A grandchild has its own connection, even if the child between sent nothing.

        Another object had used the same client.
        """
        used = batch()
        used.embed_documents(["before"])
        embeddings = batch(used.embeddings)

        def child() -> None:
            assert embeddings.last_report is None
            self.fork(embeddings)

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(30)
        assert process.exitcode == 0
        assert_right(used.embed_numpy(["parent"]), ["parent"])
        assert server.stats()["connections"] == 2

    def test_a_subclass_that_is_asked_itself_has_too(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """A subclass that sends through its own methods has its own connections after a fork."""
        wrapped = Prefixed(
            base_url=server.url, api_key=SecretStr("k"), check_embedding_ctx_length=False
        )
        embeddings = batch(wrapped)
        embeddings.embed_documents(["before"])
        self.fork(embeddings, "passage: child")
        assert_right(embeddings.embed_numpy(["parent"]), ["passage: parent"])
        assert server.stats()["connections"] == 2

    def test_what_is_under_way_in_the_parent_is_not_waited_for(
        self, batch: Batch, openai_embeddings: Callable[..., OpenAIEmbeddings]
    ) -> None:
        """A child waits neither for requests nor for prefetches of its parent.

        The threads that would complete them are not in the child.
        """
        child_has_ended = threading.Event()

        def decide(asked: Asked) -> None:
            if asked.number == 0:
                child_has_ended.wait(60)

        with Endpoint(decide) as endpoint:
            wrapped = openai_embeddings(base_url=endpoint.url)
            embeddings = batch(wrapped, max_workers=1, _clock=SYSTEM_CLOCK)
            with embeddings.prefetch(["child"]) as prefetch:
                prefetch.go_ahead()
                wait_until(lambda: bool(endpoint.asked))
                self.fork(embeddings)
                assert prefetch.running
                child_has_ended.set()
                assert_right(embeddings.embed_numpy(["child"]), ["child"])
        assert len(endpoint.asked) == 2

    def test_a_users_own_http_client_is_not_shared(
        self,
        batch: Batch,
        openai_embeddings: Callable[..., OpenAIEmbeddings],
        mocker: MockerFixture,
    ) -> None:
        """A user's own HTTP client is not shared after a fork, and the error says what to do.

        The client may use a proxy, so another one cannot replace it.
        """
        own = openai.DefaultHttpxClient()
        used, unused = (batch(openai_embeddings(http_client=own)) for _ in range(2))
        used.embed_documents(["before"])
        mocker.patch("os.getpid", return_value=os.getpid() + 1)
        with pytest.raises(BatchEmbeddingsError, match="BatchEmbeddings in each process"):
            used.embed_query("after")
        assert_right([unused.embed_query("after")], ["after"])
