"""What a call raises: status, code, address and what to do, and whatever catches its cause."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import openai
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

from langchain_batch_embed import (
    BatchEmbeddings,
    BatchEmbeddingsError,
    DeadlineError,
    DimensionsError,
    IngestError,
    PartialEmbeddingsError,
)
from langchain_batch_embed.providers.urls import address_of, shown
from tests.providers.endpoint import Decide, Keeping, Kept, error
from tests.support import FakeClock
from tests.survival.support import Reply

KEY = "sk-secret"
TEXTS = [f"a confidential text {i}" for i in range(100)]


def embeddings_at(url: str, wrapped: dict[str, Any] | None = None, **own: Any) -> BatchEmbeddings:
    """Return embeddings at an address that wait on a fake clock."""
    made = OpenAIEmbeddings(base_url=url, api_key=SecretStr(KEY), **(wrapped or {}))
    return BatchEmbeddings(made, **{"_clock": FakeClock(), "hedge": False, **own})


def raised(call: Callable[[], object]) -> PartialEmbeddingsError:
    """Return what a call raises, after a look at what it must not hold."""
    with pytest.raises(PartialEmbeddingsError) as caught:
        call()
    said = f"{caught.value} {caught.value!r} {caught.value.why}"
    assert KEY not in said
    assert "confidential" not in said
    return caught.value


def ask(embeddings: BatchEmbeddings, *, query: bool) -> None:
    """Embed a query, or documents."""
    if query:
        embeddings.embed_query(TEXTS[0])
    else:
        embeddings.embed_documents(TEXTS)


WRONG_KEY = error(401, f"Incorrect API key provided: {KEY}", code="invalid_api_key")
NO_MODEL = error(404, "The model `m` does not exist or ...", code="model_not_found")
SPENT = error(429, "You exceeded your current quota", code="insufficient_quota")
NO_PATH = Reply(status=404, body={"detail": "Not Found"})


@pytest.mark.parametrize("query", [False, True], ids=["documents", "query"])
class TestWords:
    """Kind: an error that said no more than the name of its class."""

    @pytest.mark.parametrize(
        ("reply", "kind", "said"),
        [
            (WRONG_KEY, openai.AuthenticationError, "401 invalid_api_key at {}: the key is wrong"),
            (NO_MODEL, openai.NotFoundError, "404 model_not_found at {}: the model 'm' does not"),
            (NO_PATH, openai.NotFoundError, "404 at {}: there is nothing at this address"),
            (SPENT, openai.RateLimitError, "429 insufficient_quota at {}: the money or the quota"),
            (error(403, "no"), openai.PermissionDeniedError, "403 at {}: access is denied"),
            (error(405, "no"), openai.APIStatusError, "405 at {}: no embeddings are made at this"),
            (
                error(400, "not supported", param="dimensions"),
                openai.BadRequestError,
                "400 at {}: the server refuses an option",
            ),
        ],
        ids=["key", "model", "path", "spent", "access", "method", "option"],
    )
    def test_status_code_and_address_are_named_and_told_apart(
        self, query: bool, reply: Reply, kind: type[Exception], said: str
    ) -> None:
        """With what to do, and the SDK's own class catches it."""
        with Keeping(lambda _: reply) as endpoint:
            embeddings = embeddings_at(endpoint.url, {"model": "m"})
            caught = raised(lambda: ask(embeddings, query=query))
            assert said.format(f"{endpoint.url}/embeddings") in str(caught)
        assert isinstance(caught, kind)
        assert vars(caught)["status_code"] == reply.status
        assert isinstance(caught.__cause__, kind)

    def test_an_address_without_v1_is_asked_about(self, query: bool) -> None:
        """The most common mistake with a server of one's own."""
        with Keeping(lambda _: NO_PATH) as endpoint:
            embeddings = embeddings_at(endpoint.host)
            caught = raised(lambda: ask(embeddings, query=query))
            assert f"404 at {endpoint.host}/embeddings: is /v1 missing?" in str(caught)

    def test_keys_in_an_address_are_not_named(self, query: bool) -> None:
        """Neither a password before the host nor what stands behind a question mark."""
        with Keeping(lambda _: NO_PATH) as endpoint:
            url = endpoint.url.replace("http://", f"http://user:{KEY}@")
            embeddings = embeddings_at(url, {"default_query": {"key": KEY}})
            caught = raised(lambda: ask(embeddings, query=query))
            assert f"{endpoint.url}/embeddings: " in str(caught)
            assert KEY not in repr(embeddings)

    def test_a_server_that_is_not_there_is_named(self, query: bool) -> None:
        """Its address, and that nothing answered."""
        embeddings = embeddings_at("http://127.0.0.1:9/v1")
        caught = raised(lambda: ask(embeddings, query=query))
        assert "at http://127.0.0.1:9/v1/embeddings: no connection" in str(caught)
        assert isinstance(caught, openai.APIConnectionError)

    @pytest.mark.parametrize(
        ("wrapped", "said"),
        [
            ({"api_key": SecretStr(f"{KEY}\n")}, "a header cannot be sent; look for spaces, line"),
            ({"api_key": SecretStr(" ")}, "a header cannot be sent"),
            ({"api_key": SecretStr(f"“{KEY}”")}, "a header cannot be sent"),
            ({"default_headers": {"x": "a\nb"}}, "a header cannot be sent"),
            ({"base_url": "127.0.0.1:9/v1"}, "this is no address; base_url begins with http://"),
            ({"base_url": "ftp://127.0.0.1/v1"}, "this is no address"),
        ],
        ids=["line feed", "space", "quotes", "other header", "no scheme", "scheme"],
    )
    def test_what_can_never_be_sent_ends_at_once(
        self, query: bool, wrapped: dict[str, Any], said: str
    ) -> None:
        """A key that was copied with its line's end, say: the server has no part in it."""
        clock = FakeClock()
        with Keeping(lambda _: None) as endpoint:
            given = {"base_url": endpoint.url, "api_key": SecretStr(KEY), **wrapped}
            embeddings = BatchEmbeddings(OpenAIEmbeddings(**given), hedge=False, _clock=clock)
            caught = raised(lambda: ask(embeddings, query=query))
            assert said in str(caught)
            assert not endpoint.kept
        assert clock.now() < 5

    def test_an_error_under_status_200_is_named(self, query: bool) -> None:
        """By the code that it has."""
        reply = Reply(status=299, body=dict(WRONG_KEY.body))  # type: ignore[arg-type]
        with Keeping(lambda _: reply) as endpoint:
            embeddings = embeddings_at(endpoint.url)
            caught = raised(lambda: ask(embeddings, query=query))
            assert "under status 200 (401 invalid_api_key), at http://" in str(caught)
            assert len(endpoint.kept) <= 5


class Overloaded(Exception):  # noqa: N818  # an SDK's
    """An exception of any SDK, made with arguments of its own."""

    def __init__(self, *, code: int) -> None:
        super().__init__("overloaded")
        self.status_code = code


class Meta(type):
    """Google's exceptions have a metaclass."""


class WithMeta(Exception, metaclass=Meta):  # noqa: N818
    """One of these."""

    status_code = 401


class Failing(Embeddings):
    """Raises what it is given."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.base_url = f"http://user:{KEY}@host:11434/x?key={KEY}"

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Raise."""
        del texts
        raise self.error

    def embed_query(self, text: str) -> list[float]:
        """Raise."""
        del text
        raise self.error


class TestClasses:
    """Kind: `except` of an SDK's error, which caught nothing any more."""

    @pytest.mark.parametrize(
        "cause",
        [
            Overloaded(code=401),
            WithMeta(),
            PermissionError(13, "denied"),
            UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
            KeyError("x"),
            DimensionsError(expected=1, received=2),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_the_class_of_the_one_cause_catches_it(self, cause: Exception) -> None:
        """Of any SDK, of Python or of this package, whatever its constructor takes."""
        embeddings = BatchEmbeddings(Failing(cause), _clock=FakeClock(), max_outage=1)
        with pytest.raises(type(cause)) as caught:
            embeddings.embed_documents(["a", "b"])
        assert isinstance(caught.value, PartialEmbeddingsError)
        assert caught.value.embeddings == [None, None]
        assert caught.value.__cause__ is cause
        assert "could be embedded" in str(caught.value)
        assert KEY not in str(caught.value)
        assert vars(cause).items() <= vars(caught.value).items()

    @pytest.mark.parametrize(
        "cause",
        [StopIteration(), ExceptionGroup("two", [ValueError()])],
        ids=lambda error: type(error).__name__,
    )
    def test_a_class_that_cannot_be_joined_is_the_cause_alone(self, cause: Exception) -> None:
        """A `StopIteration` would end somebody's loop."""
        embeddings = BatchEmbeddings(Failing(cause), _clock=FakeClock(), max_outage=1)
        with pytest.raises(PartialEmbeddingsError) as caught:
            embeddings.embed_documents(["a", "b"])
        assert not isinstance(caught.value, type(cause))
        assert caught.value.__cause__ is cause

    @pytest.mark.parametrize(
        "again",
        [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))],  # noqa: S301
        ids=["copy", "deepcopy", "pickle"],
    )
    def test_it_can_be_sent_around(self, again: Callable[[Exception], Exception]) -> None:
        """As the error of this package that it is."""
        with Keeping(lambda _: WRONG_KEY) as endpoint:
            caught = raised(lambda: embeddings_at(endpoint.url).embed_documents(TEXTS))
        other = again(caught)
        assert isinstance(other, PartialEmbeddingsError)
        assert str(other) == str(caught)
        assert len(other.failures) == len(TEXTS)

    def test_what_ends_a_call_half_way_is_the_class_of_it(self) -> None:
        """The vectors that came before are there."""

        def decide(_: Kept) -> Reply | None:
            return None if len(endpoint.kept) < 4 else SPENT

        with Keeping(decide) as endpoint:
            embeddings = embeddings_at(endpoint.url, max_batch_size=10, max_workers=2)
            caught = raised(lambda: embeddings.embed_documents(TEXTS))
        assert isinstance(caught, openai.RateLimitError)
        assert 0 < sum(vector is not None for vector in caught.embeddings) < len(TEXTS)

    def test_a_cause_that_comes_after_refused_texts_is_the_cause(self) -> None:
        """One text was refused before the quota was spent: the quota ended the call."""

        def decide(kept: Kept) -> Reply | None:
            if "bad" in kept.texts:
                return error(400, "no")
            return None if len(endpoint.kept) < 8 else SPENT

        with Keeping(decide) as endpoint:
            embeddings = embeddings_at(endpoint.url, max_batch_size=2, max_workers=1)
            caught = raised(lambda: embeddings.embed_documents(["bad", *TEXTS]))
        assert isinstance(caught, openai.RateLimitError)
        assert isinstance(caught.failures[0].error, openai.BadRequestError)
        assert "insufficient_quota" in str(caught)

    def test_texts_that_are_refused_each_for_itself_end_nothing(self) -> None:
        """The error is of this package alone, so that nobody takes it for a failed call."""
        with Keeping(lambda kept: error(400, "no") if "bad" in kept.texts else None) as endpoint:
            caught = raised(lambda: embeddings_at(endpoint.url).embed_documents(["a", "bad", "c"]))
            assert f"400 at {endpoint.url}/embeddings: the server refuses the text" in str(caught)
        assert type(caught) is PartialEmbeddingsError


class TestIngest:
    """Kind: an ingest whose error named no more than a class."""

    @pytest.mark.parametrize(
        ("reply", "kind", "said"),
        [
            (WRONG_KEY, openai.AuthenticationError, "401 invalid_api_key at {}: the key is wrong"),
            (NO_MODEL, openai.NotFoundError, "404 model_not_found at {}: the model 'm' does not"),
            (SPENT, openai.RateLimitError, "429 insufficient_quota at {}: the money or the quota"),
            (error(400, "no"), openai.BadRequestError, "400 at {}: the server refuses the text"),
        ],
        ids=["key", "model", "spent", "texts"],
    )
    @pytest.mark.parametrize("count", [1, 2, 300])
    def test_the_one_cause_is_named_and_catches_it(
        self, reply: Reply, kind: type[Exception], said: str, count: int
    ) -> None:
        """As that of a call, however many documents there are."""
        documents = [Document(page_content=f"a confidential text {i}") for i in range(count)]
        with Keeping(lambda _: reply) as endpoint:
            embeddings = embeddings_at(endpoint.url, {"model": "m"})
            with pytest.raises(kind) as caught:
                embeddings.ingest(InMemoryVectorStore(embeddings), documents)
            assert said.format(f"{endpoint.url}/embeddings") in str(caught.value)
        assert isinstance(caught.value, IngestError)
        assert isinstance(caught.value.__cause__, kind)
        assert KEY not in str(caught.value)
        assert "confidential" not in str(caught.value)
        first = "the first document is not stored" if count == 1 else "of the first "
        assert str(caught.value).startswith(first)
        again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301  # our own bytes
        assert str(again) == str(caught.value)

    def test_a_stores_own_error_catches_it_and_is_not_repeated(self) -> None:
        """It may hold a piece of a document."""

        class Full(InMemoryVectorStore):
            def add_documents(self, documents: Any, ids: Any = None, **kwargs: Any) -> Any:
                del ids, kwargs
                raise PermissionError(f"no room for {documents[0].page_content}")

        embeddings = BatchEmbeddings(DeterministicFakeEmbedding(size=2), _clock=FakeClock())
        documents = [Document(page_content=f"a confidential text {i}") for i in range(3)]
        with pytest.raises(PermissionError) as caught:
            embeddings.ingest(Full(embeddings), documents)
        assert isinstance(caught.value, IngestError)
        assert "(PermissionError)" in str(caught.value)
        assert "confidential" not in str(caught.value)


class TestDeadline:
    """Kind: a deadline's error that did not say what the time was spent on."""

    THROTTLED = error(429, "Rate limit reached. Try again in 60 seconds", code="rate_limited")

    @pytest.mark.parametrize("reply", [THROTTLED, error(503, "overloaded")])
    def test_the_last_error_is_chained_and_named(self, reply: Reply) -> None:
        """With its status and address."""
        with Keeping(lambda _: reply) as endpoint:
            caught = raised(lambda: embeddings_at(endpoint.url, deadline=5).embed_documents(TEXTS))
            assert f"The last error: {reply.status} " in str(caught)
            assert endpoint.url in str(caught)
        assert isinstance(caught, DeadlineError)
        assert isinstance(caught, TimeoutError)
        assert isinstance(caught.__cause__, DeadlineError)
        assert isinstance(caught.__cause__.__cause__, openai.APIStatusError)

    def test_it_has_waited_as_long_as_it_says(self) -> None:
        """Not a second less, by the call's own clock."""
        clock = FakeClock()
        with Keeping(lambda _: self.THROTTLED) as endpoint:
            embeddings = embeddings_at(endpoint.url, deadline=5, _clock=clock)
            caught = raised(lambda: embeddings.embed_documents(TEXTS))
        assert "the deadline of 5 s passed" in str(caught)
        assert clock.time >= 5
        assert caught.report.seconds >= 5

    def test_a_query_says_it_too(self) -> None:
        """In the same words."""
        with Keeping(lambda _: self.THROTTLED) as endpoint:
            embeddings = embeddings_at(endpoint.url, deadline=5)
            caught = raised(lambda: embeddings.embed_query(TEXTS[0]))
        assert isinstance(caught, DeadlineError)
        assert "The last error: 429 rate_limited" in str(caught)


class TestAddresses:
    """Kind: an address that holds a key."""

    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("https://api.openai.com/v1", "https://api.openai.com/v1"),
            (f"http://user:{KEY}@host:80/v1?key={KEY}#{KEY}", "http://host:80/v1"),
            (f"http://{KEY}@[::1]:8080/", "http://[::1]:8080/"),
            ("http://host:no/v1", "the server"),
            ("", "the server"),  # a variable that is set to nothing
        ],
    )
    def test_nothing_secret_is_shown(self, url: str, expected: str) -> None:
        """Scheme, host, port and path are."""
        assert shown(url) == expected

    def test_any_classs_own_address_is_shown(self) -> None:
        """And where it has none, whose server it is."""
        assert address_of(Failing(ValueError())) == "http://host:11434/x"
        assert address_of(BatchEmbeddings(Failing(ValueError()))) == (
            "the server of BatchEmbeddings"
        )


def test_every_error_of_a_call_can_be_caught_as_ours() -> None:
    """Documents and queries alike."""
    decide: Decide = lambda _: WRONG_KEY  # noqa: E731
    with Keeping(decide) as endpoint:
        embeddings = embeddings_at(endpoint.url)
        with pytest.raises(BatchEmbeddingsError):
            embeddings.embed_query("a")
        with pytest.raises(BatchEmbeddingsError):
            embeddings.embed_numpy(["a"])
