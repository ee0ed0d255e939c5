"""Habits that users bring along: names, other packages' options, `repr`, `with`, `help`."""

import inspect
import math
import pydoc
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.rate_limiters import BaseRateLimiter, InMemoryRateLimiter
from langchain_core.stores import InMemoryByteStore
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import OpenAIEmbeddings
from pytest_mock import MockerFixture

from langchain_batch_embed import (
    BatchEmbeddings,
    FixedOptionError,
    MemoryJournal,
    OptionError,
    UnknownOptionError,
)
from langchain_batch_embed.options import _ELSEWHERE, _MEANT, OPTIONS
from tests.support import FakeClock, LocalServer, assert_right, wait_until

Batch = Callable[..., BatchEmbeddings]


def make(**options: Any) -> BatchEmbeddings:
    """Return the object around embeddings that need no network."""
    return BatchEmbeddings(DeterministicFakeEmbedding(size=3), **options)


KEY = "sk-secret"
NOBODY = "does not know provider 'nobody', only .*cohere.*'openai:nobody:"


class TestNames:
    """A name in place of an object, as `init_embeddings` accepts it."""

    def test_a_name_with_its_provider_is_enough(
        self, server: LocalServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A name with its provider makes the class, which finds its key in the environment.

        OpenAI's class needs no LangChain.
        """
        monkeypatch.setitem(sys.modules, "langchain", None)
        monkeypatch.setitem(sys.modules, "langchain_classic", None)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        monkeypatch.setenv("OPENAI_API_BASE", server.url)
        embeddings = BatchEmbeddings("openai:text-embedding-3-large", max_workers=3)
        assert isinstance(embeddings.embeddings, OpenAIEmbeddings)
        assert (embeddings.model, embeddings.max_workers) == ("text-embedding-3-large", 3)
        assert_right(embeddings.embed_numpy(["a"]), ["a"])

    @pytest.mark.parametrize(
        ("name", "raised", "said"),
        [
            ("nobody:m", ValueError("Provider 'nobody' is not supported.\n  - cohere: x"), NOBODY),
            ("cohere:m", ImportError("Please install it with `pip install a-cohere`"), "a-cohere$"),
            ("cohere:m", ModuleNotFoundError(name="tokenizers"), "pip install tokenizers"),
            ("cohere:m", ValueError(f"set COHERE_API_KEY, not {KEY}"), "is COHERE_API_KEY set"),
            ("cohere:m", TypeError(f"{KEY} is wrong"), "TypeError.: make the object yourself"),
            ("cohere:m", None, "makes no Embeddings object for provider 'cohere'"),
        ],
        ids=["unknown", "package", "module", "key", "other", "runnable"],
    )
    def test_a_name_that_langchain_cannot_make_says_what_to_do(
        self, mocker: MockerFixture, name: str, raised: Exception | None, said: str
    ) -> None:
        """An error about a name says what to do, with LangChain's reason as cause and no key."""
        langchain = SimpleNamespace(init_embeddings=mocker.Mock(side_effect=raised))
        mocker.patch("importlib.import_module", return_value=langchain)
        with pytest.raises(OptionError, match=said) as caught:
            BatchEmbeddings(name)
        assert caught.value.__cause__ is raised
        assert KEY not in str(caught.value)

    def test_an_unknown_provider_is_told_by_the_real_one(self) -> None:
        """LangChain's message for an unknown provider is recognised in its present wording."""
        pytest.importorskip("langchain_classic")
        with pytest.raises(OptionError, match=NOBODY):
            BatchEmbeddings("nobody:m")

    def test_a_missing_key_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The error about a missing key names the environment variable."""
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        with pytest.raises(OptionError, match=r"is .*OPENAI_API_KEY.* set"):
            BatchEmbeddings("openai:text-embedding-3-small")

    def test_a_name_without_a_model_is_an_error(self) -> None:
        """A name with a provider but no model is an error."""
        with pytest.raises(OptionError, match="'openai:' has no model"):
            BatchEmbeddings("openai:")

    def test_without_langchain_the_error_says_what_to_install(self, mocker: MockerFixture) -> None:
        """Without LangChain, a name is an error that says what to install.

        Nothing else in this package needs LangChain.
        """
        mocker.patch("importlib.import_module", side_effect=ModuleNotFoundError)
        with pytest.raises(OptionError, match="pip install langchain"):
            BatchEmbeddings("cohere:embed-v4.0")

    def test_a_name_without_its_provider_is_an_error(self) -> None:
        """A name without its provider is an error, because the provider cannot be guessed."""
        with pytest.raises(OptionError, match="'openai:text-embedding-3-small'"):
            BatchEmbeddings("text-embedding-3-small")


MEANT = {
    "chunk_size": "max_batch_size",
    "batch_size": "max_batch_size",
    "embed_batch_size": "max_batch_size",
    "concurrency": "max_workers",
    "max_concurrency": "max_workers",
    "workers": "max_workers",
    "n_jobs": "max_workers",
    "rpm": "requests_per_minute",
    "RPM": "requests_per_minute",
    "tpm": "tokens_per_minute",
    "ratelimiter": "rate_limiter",
    "cache": "journal",
    "document_embedding_cache": "journal",
    "checkpoint": "journal",
    "progress": "show_progress",
    "show_progress_bar": "show_progress",
    "num_retries": "max_retries",
    "request_timeout": "timeout",
    "max_tokens": "max_tokens_per_input",
    "model_name": "model",
    "skip_empty": "empty",
    "concurency": "max_workers",
}
ELSEWHERE = {
    "dimensions": "OpenAIEmbeddings(dimensions=",
    "api_key": "OpenAIEmbeddings(api_key=",
    "base_url": "OpenAIEmbeddings(base_url=",
    "openai_api_key": "OpenAIEmbeddings(openai_api_key=",
    "dimension": "OpenAIEmbeddings(dimensions=",
    "tier": "plan(texts, tier=1)",
    "verbose": "show_progress=True",
    "callbacks": "last_report",
    "ids": "ingest(store, documents)",
    "price": "plan(texts)",
    "requests_per_second": "requests_per_minute",
}


class TestSynonyms:
    """An option by the name that it has in another package."""

    @pytest.mark.parametrize(("name", "meant"), MEANT.items())
    def test_the_right_name_is_offered(self, name: str, meant: str) -> None:
        """The error for another package's option offers the right name."""
        with pytest.raises(UnknownOptionError) as caught:
            make(**{name: 3})
        expected = f"BatchEmbeddings has no option {name!r}; did you mean {meant!r}?"
        assert str(caught.value) == expected
        assert meant in OPTIONS

    @pytest.mark.parametrize(("name", "place"), ELSEWHERE.items())
    def test_the_right_place_is_named(self, name: str, place: str) -> None:
        """The error for a setting that is no option here names the right place for it."""
        with pytest.raises(UnknownOptionError) as caught:
            make(**{name: "sk-secret"})
        assert place in str(caught.value)
        assert "sk-secret" not in str(caught.value)

    def test_the_table_hides_no_option_and_names_none_that_is_not_there(self) -> None:
        """The table of other names contains no option, and offers only options that exist."""
        assert not {*_MEANT, *_ELSEWHERE} & set(OPTIONS)
        assert set(_MEANT.values()) <= set(OPTIONS)


class TestReading:
    """Options as attributes: all can be read, and setting one is an error."""

    @pytest.mark.parametrize("name", OPTIONS)
    def test_every_option_can_be_read(self, name: str) -> None:
        """Every option can be read by the name under which it was given."""
        getattr(make(), name)

    def test_what_is_read_is_what_holds(self, tmp_path: Path) -> None:
        """An option that was not given reads as the provider's default, not as `None`."""
        wrapped = OpenAIEmbeddings(api_key="k", timeout=7)  # type: ignore[arg-type]
        embeddings = BatchEmbeddings(wrapped, max_workers=5, journal=tmp_path / "j.db")
        assert embeddings.model == "text-embedding-ada-002"
        assert (embeddings.max_workers, embeddings.max_batch_size) == (5, 2048)
        assert (embeddings.timeout, embeddings.hedge, embeddings.show_progress) == (7, True, False)
        assert embeddings.max_retries == 8
        assert embeddings.journal.persistent

    @pytest.mark.parametrize("name", OPTIONS)
    def test_setting_one_is_an_error_that_says_what_to_do(self, name: str) -> None:
        """Setting an option is an error that says what to do, as options are read only once."""
        embeddings = make()
        before = repr(getattr(embeddings, name))
        with pytest.raises(FixedOptionError, match=rf"BatchEmbeddings\(wrapped, {name}=") as caught:
            setattr(embeddings, name, 1)
        assert isinstance(caught.value, OptionError)
        assert isinstance(caught.value, AttributeError)
        assert repr(getattr(embeddings, name)) == before

    def test_a_subclass_has_attributes_of_its_own(self) -> None:
        """Attributes that a subclass adds can be set as usual."""

        class Mine(BatchEmbeddings):
            prefix = ""

        mine = Mine(DeterministicFakeEmbedding(size=3))
        mine.prefix = "passage: "
        assert mine.prefix == "passage: "


class TestRepr:
    """The `repr` shows no address in memory and no key."""

    def test_class_model_limits_and_journal_are_shown(self, tmp_path: Path) -> None:
        """The `repr` shows class, model, limits and journal, and no key from any place."""
        wrapped = OpenAIEmbeddings(
            api_key="sk-secret",  # type: ignore[arg-type]
            base_url="http://user:sk-secret@host:8080/v1?key=sk-secret",
            default_headers={"x-key": "sk-secret"},
        )
        shown = repr(BatchEmbeddings(wrapped, journal=tmp_path / "vectors.db"))
        assert shown == (
            "BatchEmbeddings(OpenAIEmbeddings, model='text-embedding-ada-002', "
            "server='http://host:8080/v1/', max_batch_size=2048, max_tokens_per_request=300000, "
            f"max_workers=128, journal='{tmp_path / 'vectors.db'}')"
        )

    @pytest.mark.parametrize(
        ("journal", "shown"), [(None, "None"), (InMemoryByteStore(), "'InMemoryByteStore'")]
    )
    def test_a_journal_that_is_no_file_is_shown_too(self, journal: Any, shown: str) -> None:
        """A journal that is no file is shown by its class."""
        assert repr(make(journal=journal, model="m")).endswith(f"journal={shown})")


class TestClosing:
    """Closing an object closes its files."""

    def test_a_with_block_closes_the_journal(self, tmp_path: Path) -> None:
        """A `with` block closes the journal, and a later call opens it again with its vectors."""
        with make(journal=tmp_path / "j.db", model="m") as embeddings:
            first = embeddings.embed_documents(["a", "b"])
        journal: Any = embeddings.journal
        assert journal._connection is None
        assert embeddings.embed_documents(["a", "b"]) == first
        assert embeddings.last_report is not None
        assert embeddings.last_report.from_journal == 2
        embeddings.close()
        embeddings.close()

    def test_a_journal_of_the_users_own_stays_open(self, mocker: MockerFixture) -> None:
        """A journal that the user passes in stays open, because others may use it."""
        journal = MemoryJournal()
        close = mocker.patch.object(journal, "close")
        make(journal=journal).close()
        close.assert_not_called()

    def test_open_prefetches_end(self) -> None:
        """Closing an object ends its open prefetches."""
        embeddings = make()
        embeddings.prefetch(["a"])
        embeddings.close()
        assert embeddings._pipeline.prefetches.opened == ()


class TestHelp:
    """The signature and help show nothing private."""

    def test_the_signature_shows_options_alone(self) -> None:
        """The signature shows only the options, as `inspect`, notebooks and editors display it."""
        parameters = inspect.signature(BatchEmbeddings).parameters
        assert list(parameters) == ["embeddings", *OPTIONS]
        assert all(
            each.kind is each.KEYWORD_ONLY for name, each in parameters.items() if name in OPTIONS
        )

    def test_help_shows_no_address_and_no_private_name(self) -> None:
        """The help shows no address and no private name of a default or argument."""
        text = pydoc.plain(pydoc.render_doc(BatchEmbeddings))
        assert "_clock" not in text
        assert "_draw" not in text
        assert " at 0x" not in text
        assert "max_workers: " in text


class Counting(BaseRateLimiter):
    """A rate limiter that counts its calls and lets every request through at once."""

    def __init__(self) -> None:
        self.asked = 0
        self._lock = threading.Lock()

    def acquire(self, *, blocking: bool = True) -> bool:
        """Count the call and let the request through."""
        assert blocking
        with self._lock:
            self.asked += 1
        return True

    async def aacquire(self, *, blocking: bool = True) -> bool:
        """Count the call and let the request through."""
        return self.acquire(blocking=blocking)


class TestRateLimiter:
    """LangChain's own rate limiter, which chat models accept and embeddings do not."""

    def test_it_is_asked_before_each_request(self, batch: Batch, server: LocalServer) -> None:
        """The rate limiter is called before each request, for documents, queries and retries."""
        limiter = Counting()
        server.configure(script=("503",))
        embeddings = batch(rate_limiter=limiter, max_batch_size=10)
        texts = [f"text {i}" for i in range(100)]
        assert_right(embeddings.embed_numpy(texts), texts)
        embeddings.embed_query("a question")
        assert limiter.asked == server.stats()["requests"] >= 12

    def test_its_rate_is_the_quota_of_requests(self, batch: Batch, server: LocalServer) -> None:
        """The limiter's rate becomes the quota of requests, so few requests are made."""
        limiter = InMemoryRateLimiter(requests_per_second=1, max_bucket_size=100)
        limiter.available_tokens = 100.0  # it begins with none, and would sleep for each request
        embeddings = batch(rate_limiter=limiter)
        assert embeddings.requests_per_minute == 60
        texts = [f"text {i}" for i in range(2000)]
        assert_right(embeddings.embed_numpy(texts), texts)
        assert server.stats()["requests"] <= 3

    def test_a_quota_that_is_set_beside_it_counts(self) -> None:
        """A quota that is set beside the limiter takes precedence."""
        limiter = InMemoryRateLimiter(requests_per_second=1)
        assert make(rate_limiter=limiter, requests_per_minute=30).requests_per_minute == 30

    def test_a_request_that_waits_for_it_is_no_straggler(self) -> None:
        """With a rate limiter, hedging is off unless the user sets it.

        A request that waits for the limiter is not late.
        """
        wrapped = OpenAIEmbeddings(api_key="k")  # type: ignore[arg-type]
        assert BatchEmbeddings(wrapped).hedge
        assert not BatchEmbeddings(wrapped, rate_limiter=Counting()).hedge
        assert BatchEmbeddings(wrapped, rate_limiter=Counting(), hedge=True).hedge

    def test_the_wait_is_no_part_of_the_round_trip(self) -> None:
        """The wait for the limiter is not part of the round trip.

        Otherwise the server would seem slow and get fewer requests.
        """
        clock = FakeClock()

        class Slow(Counting):
            def acquire(self, *, blocking: bool = True) -> bool:
                clock.time += 50.0
                return super().acquire(blocking=blocking)

        embeddings = make(rate_limiter=Slow(), max_workers=1, _clock=clock)
        embeddings.embed_documents(["a"])
        assert clock.time >= 50
        assert embeddings._pipeline.dispatcher.sender.deployments[0].limits.times.usual < 1

    def test_after_the_end_of_a_call_what_still_waits_is_not_sent(self) -> None:
        """A request that still waits for the limiter at the end of its call is not sent."""
        go_on, sent = threading.Event(), list[int]()

        class Closed(Counting):
            def acquire(self, *, blocking: bool = True) -> bool:
                return go_on.wait(20) and super().acquire(blocking=blocking)

        class Wrapped(DeterministicFakeEmbedding):
            def embed_documents(self, texts: list[str]) -> list[list[float]]:
                sent.append(len(texts))
                return super().embed_documents(texts)

        limiter = Closed()
        embeddings = BatchEmbeddings(Wrapped(size=3), rate_limiter=limiter, deadline=0.2)
        with pytest.raises(TimeoutError):
            embeddings.embed_documents(["a"])
        go_on.set()
        wait_until(
            lambda: not embeddings._pipeline.dispatcher.sender.deployments[0].pacer.in_flight
        )
        assert sent == []

    @pytest.mark.parametrize(
        "value", [5, "5/s", SimpleNamespace(acquire=print), InMemoryRateLimiter]
    )
    def test_anything_else_is_an_error(self, value: object) -> None:
        """A value that is no rate limiter is an error whose message names the class."""
        with pytest.raises(OptionError, match="BaseRateLimiter"):
            make(rate_limiter=value)


def test_a_store_of_langchains_takes_it_as_any_embeddings() -> None:
    """A LangChain store accepts the object like any other embeddings."""
    embeddings = make()
    store = InMemoryVectorStore(embeddings)
    store.add_documents([Document(page_content="a")])
    assert isinstance(embeddings, Embeddings)
    assert store.similarity_search("a", k=1)[0].page_content == "a"
    assert math.isfinite(embeddings.timeout)
