"""A call's error names status, code, address and remedy, and is caught as its cause's class."""

import copy
import math
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
    """Return embeddings for this address that wait on a fake clock."""
    made = OpenAIEmbeddings(base_url=url, api_key=SecretStr(KEY), **(wrapped or {}))
    return BatchEmbeddings(made, **{"_clock": FakeClock(), "hedge": False, **own})


def raised(call: Callable[[], object]) -> PartialEmbeddingsError:
    """Return the error of a call, after checking that it contains no key and no text."""
    with pytest.raises(PartialEmbeddingsError) as caught:
        call()
    said = f"{caught.value} {caught.value!r} {caught.value.why}"
    assert KEY not in said
    assert "confidential" not in said
    return caught.value


def ask(embeddings: BatchEmbeddings, *, query: bool) -> None:
    """Embed one query, or all documents."""
    if query:
        embeddings.embed_query(TEXTS[0])
    else:
        embeddings.embed_documents(TEXTS)


WRONG_KEY = error(401, f"Incorrect API key provided: {KEY}", code="invalid_api_key")
NO_MODEL = error(404, "The model `m` does not exist or ...", code="model_not_found")
SPENT = error(429, "You exceeded your current quota", code="insufficient_quota")
NO_PATH = Reply(status=404, body={"detail": "Not Found"})


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_key_that_works_is_not_called_wrong(status: int) -> None:
    """If others are answered with the same key, the error of a refused text does not blame it."""

    def decide(request: Kept) -> Reply | None:
        return error(status, "no") if TEXTS[7] in request.texts else None

    with Keeping(decide) as endpoint:
        embeddings = embeddings_at(endpoint.url, {"model": "m"}, max_batch_size=10)
        caught = raised(lambda: ask(embeddings, query=False))
    assert [failure.index for failure in caught.failures] == [7]
    assert "other texts were answered with the same key and address" in str(caught)


@pytest.mark.parametrize("query", [False, True], ids=["documents", "query"])
class TestWords:
    """An error names its cause in words.

    It once gave only the name of its class.
    """

    @pytest.mark.parametrize(
        ("reply", "kind", "said"),
        [
            (WRONG_KEY, openai.AuthenticationError, "401 invalid_api_key at {}: the key is wrong"),
            (NO_MODEL, openai.NotFoundError, "404 model_not_found at {}: the model 'm' does not"),
            (NO_PATH, openai.NotFoundError, "404 at {}: there is nothing at this address"),
            (SPENT, openai.RateLimitError, "429 insufficient_quota at {}: the credit or the quota"),
            (error(403, "no"), openai.PermissionDeniedError, "403 at {}: access is denied"),
            (
                error(403, "no", code="unsupported_country_region_territory"),
                openai.PermissionDeniedError,
                "403 unsupported_country_region_territory at {}: the provider does not serve this",
            ),
            (error(405, "no"), openai.APIStatusError, "405 at {}: this address does not serve"),
            (
                error(400, "not supported", param="dimensions"),
                openai.BadRequestError,
                "400 at {}: the server refuses an option",
            ),
        ],
        ids=["key", "model", "path", "spent", "access", "country", "method", "option"],
    )
    def test_status_code_and_address_are_named_and_told_apart(
        self, query: bool, reply: Reply, kind: type[Exception], said: str
    ) -> None:
        """The error names status, code, address and remedy, and the SDK's class catches it."""
        with Keeping(lambda _: reply) as endpoint:
            embeddings = embeddings_at(endpoint.url, {"model": "m"})
            caught = raised(lambda: ask(embeddings, query=query))
            assert said.format(f"{endpoint.url}/embeddings") in str(caught)
        assert isinstance(caught, kind)
        assert vars(caught)["status_code"] == reply.status
        assert isinstance(caught.__cause__, kind)

    def test_an_address_without_v1_is_asked_about(self, query: bool) -> None:
        """A 404 for an address without /v1, a common mistake, asks whether /v1 is missing."""
        with Keeping(lambda _: NO_PATH) as endpoint:
            embeddings = embeddings_at(endpoint.host)
            caught = raised(lambda: ask(embeddings, query=query))
            assert f"404 at {endpoint.host}/embeddings: is /v1 missing?" in str(caught)

    def test_keys_in_an_address_are_not_named(self, query: bool) -> None:
        """The error shows neither a password in the address nor its query parameters."""
        with Keeping(lambda _: NO_PATH) as endpoint:
            url = endpoint.url.replace("http://", f"http://user:{KEY}@")
            embeddings = embeddings_at(url, {"default_query": {"key": KEY}})
            caught = raised(lambda: ask(embeddings, query=query))
            assert f"{endpoint.url}/embeddings: " in str(caught)
            assert KEY not in repr(embeddings)

    def test_a_server_that_is_not_there_is_named(self, query: bool) -> None:
        """The error for a server that cannot be reached names the address and says so."""
        embeddings = embeddings_at("http://127.0.0.1:9/v1")
        caught = raised(lambda: ask(embeddings, query=query))
        assert "at http://127.0.0.1:9/v1/embeddings: no connection" in str(caught)
        assert isinstance(caught, openai.APIConnectionError)

    @pytest.mark.parametrize(
        ("wrapped", "said"),
        [
            ({"api_key": SecretStr(f"{KEY}\n")}, "a header is not valid; look for spaces, line"),
            ({"api_key": SecretStr(" ")}, "a header is not valid"),
            ({"api_key": SecretStr(f"“{KEY}”")}, "a header is not valid"),
            ({"default_headers": {"x": "a\nb"}}, "a header is not valid"),
            ({"base_url": "127.0.0.1:9/v1"}, "the address is not valid; base_url must begin with"),
            ({"base_url": "ftp://127.0.0.1/v1"}, "the address is not valid"),
        ],
        ids=["line feed", "space", "quotes", "other header", "no scheme", "scheme"],
    )
    def test_what_can_never_be_sent_ends_at_once(
        self, query: bool, wrapped: dict[str, Any], said: str
    ) -> None:
        """A request that can never be sent ends the call at once.

        An example is a key with a line feed in it.
        """
        clock = FakeClock()
        with Keeping(lambda _: None) as endpoint:
            given = {"base_url": endpoint.url, "api_key": SecretStr(KEY), **wrapped}
            embeddings = BatchEmbeddings(OpenAIEmbeddings(**given), hedge=False, _clock=clock)
            caught = raised(lambda: ask(embeddings, query=query))
            assert said in str(caught)
            assert not endpoint.kept
        assert clock.now() < 5

    def test_an_error_under_status_200_is_named(self, query: bool) -> None:
        """An error in a body under a success status is reported with the code in the body."""
        reply = Reply(status=299, body=dict(WRONG_KEY.body))  # type: ignore[arg-type]
        with Keeping(lambda _: reply) as endpoint:
            embeddings = embeddings_at(endpoint.url)
            caught = raised(lambda: ask(embeddings, query=query))
            assert "under status 200 (401 invalid_api_key), at http://" in str(caught)
            assert len(endpoint.kept) <= 5


class Overloaded(Exception):  # noqa: N818  # an SDK's name
    """An exception like those of many SDKs, whose constructor has its own arguments."""

    def __init__(self, *, code: int) -> None:
        super().__init__("overloaded")
        self.status_code = code


class Meta(type):
    """A metaclass like that of Google's exceptions."""


class WithMeta(Exception, metaclass=Meta):  # noqa: N818
    """An exception with that metaclass."""

    status_code = 401


class Failing(Embeddings):
    """Embeddings that raise the error they are given."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.base_url = f"http://user:{KEY}@host:11434/x?key={KEY}"

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Raise the error."""
        del texts
        raise self.error

    def embed_query(self, text: str) -> list[float]:
        """Raise the error."""
        del text
        raise self.error


class TestClasses:
    """An `except` for the cause's class catches a call's error.

    An `except` for an SDK's error once caught nothing.
    """

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
        """The class of the only cause catches the error, whatever its constructor takes."""
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
        """A cause whose class cannot be a base is only chained.

        A `StopIteration` could otherwise end a loop.
        """
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
        """The error survives copying and pickling as a `PartialEmbeddingsError`."""
        with Keeping(lambda _: WRONG_KEY) as endpoint:
            caught = raised(lambda: embeddings_at(endpoint.url).embed_documents(TEXTS))
        other = again(caught)
        assert isinstance(other, PartialEmbeddingsError)
        assert str(other) == str(caught)
        assert len(other.failures) == len(TEXTS)

    def test_what_ends_a_call_half_way_is_the_class_of_it(self) -> None:
        """An error in the middle of a call is of its cause's class and has the vectors so far."""

        def decide(_: Kept) -> Reply | None:
            return None if len(endpoint.kept) < 4 else SPENT

        with Keeping(decide) as endpoint:
            embeddings = embeddings_at(endpoint.url, max_batch_size=10, max_workers=2)
            caught = raised(lambda: embeddings.embed_documents(TEXTS))
        assert isinstance(caught, openai.RateLimitError)
        assert 0 < sum(vector is not None for vector in caught.embeddings) < len(TEXTS)

    def test_a_cause_that_comes_after_refused_texts_is_the_cause(self) -> None:
        """The cause that ended the call gives the class, not an earlier refusal of one text."""

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
        """Texts refused individually raise an error of this package alone, not of a failed call."""
        with Keeping(lambda kept: error(400, "no") if "bad" in kept.texts else None) as endpoint:
            caught = raised(lambda: embeddings_at(endpoint.url).embed_documents(["a", "bad", "c"]))
            assert f"400 at {endpoint.url}/embeddings: the server refuses the text" in str(caught)
        assert type(caught) is PartialEmbeddingsError


class Broken(Embeddings):
    """A class with a bug in both methods."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self.answer = answer

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return or raise what the test gives."""
        del texts
        given: list[list[float]] = self.answer()
        return given

    def embed_query(self, text: str) -> list[float]:
        """Return or raise what the test gives."""
        del text
        given: list[float] = self.answer()
        return given


def throw(error: BaseException) -> Callable[[], Any]:
    """Return a function that raises the error."""

    def raise_it() -> Any:
        raise error

    return raise_it


class TestBugs:
    """An error that no server sent is not called the server's."""

    @pytest.mark.parametrize("query", [False, True], ids=["documents", "query"])
    @pytest.mark.parametrize(
        "error",
        [KeyError(KEY), AttributeError(KEY), AssertionError(KEY), MemoryError(), RuntimeError(KEY)],
        ids=lambda error: type(error).__name__,
    )
    def test_an_exception_of_the_class_names_the_method(
        self, error: Exception, query: bool
    ) -> None:
        """An exception without a status names the method that raised it, and no server."""
        embeddings = BatchEmbeddings(Broken(throw(error)), _clock=FakeClock())
        caught = raised(lambda: ask(embeddings, query=query))
        method = f"Broken.embed_{'query' if query else 'documents'}"
        assert f"{method} raised {type(error).__name__}; the traceback" in str(caught)
        assert "server" not in str(caught)
        assert caught.__cause__ is error

    @pytest.mark.parametrize("query", [False, True], ids=["documents", "query"])
    def test_a_method_that_returns_nothing_is_named(self, query: bool) -> None:
        """A method that returns `None` is named, and what it should return."""
        clock = FakeClock()
        embeddings = BatchEmbeddings(Broken(lambda: None), _clock=clock)
        caught = raised(lambda: ask(embeddings, query=query))
        method = f"Broken.embed_{'query' if query else 'documents'}"
        assert f"{method} returned NoneType, not a list" in str(caught)
        assert clock.time < 10

    def test_a_class_that_sends_to_a_server_is_named_with_its_address(self) -> None:
        """For a class that has an address, the message gives the address too, without a key."""
        caught = raised(
            lambda: BatchEmbeddings(Failing(KeyError("x")), _clock=FakeClock()).embed_documents(
                TEXTS
            )
        )
        assert "Failing.embed_documents raised KeyError for http://host:11434/x;" in str(caught)

    def test_an_ingest_names_the_method_too(self) -> None:
        """An ingest's error names the method that raised an exception."""
        embeddings = BatchEmbeddings(Broken(throw(KeyError(KEY))), _clock=FakeClock())
        documents = [Document(page_content=text) for text in TEXTS]
        with pytest.raises(IngestError, match=r"Broken\.embed_documents raised KeyError"):
            embeddings.ingest(InMemoryVectorStore(embeddings), documents)

    def test_the_log_says_what_is_wrong_with_answers_that_come(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A class whose vectors are not finite is not said to give no answer."""
        embeddings = BatchEmbeddings(
            Broken(lambda: [[1.0, math.nan]]), _clock=FakeClock(), max_outage=2, max_batch_size=1
        )
        raised(lambda: embeddings.embed_documents(TEXTS))
        assert "gives no usable answer (a vector holds numbers that are not finite): " in (
            caplog.text
        )
        assert "does not answer" not in caplog.text


class TestWebPages:
    """A web page instead of vectors means that the address is wrong."""

    PAGE = Reply(status=299, body="<!doctype html><html><body>Sign in</body></html>")

    def test_an_address_of_a_web_page_is_given_up_soon(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A call to the address of a web page ends within 30 s, and says to check `base_url`."""
        clock = FakeClock()
        with Keeping(lambda _: self.PAGE) as endpoint:
            embeddings = embeddings_at(endpoint.url, _clock=clock)
            caught = raised(lambda: embeddings.embed_documents(TEXTS))
        assert "the answer is not JSON (48 bytes), at http://" in str(caught)
        assert "base_url" in str(caught)
        assert clock.time < 30
        assert "gives no usable answer (the answer is not JSON (48 bytes)): " in caplog.text

    @pytest.mark.parametrize(
        "first", [None, error(503, "starting"), Reply(status=299, body={"data": []})]
    )
    def test_after_another_answer_a_page_is_an_outage(self, first: Reply | None) -> None:
        """If the server ever answered in another way, its pages are waited out as an outage is."""
        clock = FakeClock()

        def decide(_: Kept) -> Reply | None:
            return first if len(endpoint.kept) == 1 else self.PAGE if clock.time < 60 else None

        with Keeping(decide) as endpoint:
            embeddings = embeddings_at(endpoint.url, _clock=clock, max_workers=1, max_batch_size=50)
            assert len(embeddings.embed_documents(TEXTS)) == len(TEXTS)
        assert clock.time >= 60

    def test_an_answer_that_was_cut_off_is_no_page(self) -> None:
        """The beginning of a JSON document shows that the address is right."""
        clock = FakeClock()
        cut = Reply(status=299, body='{"object": "list", "da')
        with Keeping(lambda _: cut if clock.time < 60 else None) as endpoint:
            embeddings = embeddings_at(endpoint.url, _clock=clock)
            assert len(embeddings.embed_documents(TEXTS)) == len(TEXTS)
        assert clock.time >= 60


class TestIngest:
    """An ingest's error names its cause.

    It once named only a class.
    """

    @pytest.mark.parametrize(
        ("reply", "kind", "said"),
        [
            (WRONG_KEY, openai.AuthenticationError, "401 invalid_api_key at {}: the key is wrong"),
            (NO_MODEL, openai.NotFoundError, "404 model_not_found at {}: the model 'm' does not"),
            (SPENT, openai.RateLimitError, "429 insufficient_quota at {}: the credit or the quota"),
            (error(400, "no"), openai.BadRequestError, "400 at {}: the server refuses the text"),
        ],
        ids=["key", "model", "spent", "texts"],
    )
    @pytest.mark.parametrize("count", [1, 2, 300])
    def test_the_one_cause_is_named_and_catches_it(
        self, reply: Reply, kind: type[Exception], said: str, count: int
    ) -> None:
        """An ingest's error names its only cause and is caught as the cause's class."""
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
        """A store's error is caught by its class, but its message is not repeated.

        The message may contain a piece of a document.
        """

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
    """A deadline's error says what the time was spent on.

    It once did not.
    """

    THROTTLED = error(429, "Rate limit reached. Try again in 60 seconds", code="rate_limited")

    @pytest.mark.parametrize("reply", [THROTTLED, error(503, "overloaded")])
    def test_the_last_error_is_chained_and_named(self, reply: Reply) -> None:
        """A deadline's error chains the last error and names its status and address."""
        with Keeping(lambda _: reply) as endpoint:
            caught = raised(lambda: embeddings_at(endpoint.url, deadline=5).embed_documents(TEXTS))
            assert f"The last error: {reply.status} " in str(caught)
            assert endpoint.url in str(caught)
        assert isinstance(caught, DeadlineError)
        assert isinstance(caught, TimeoutError)
        assert isinstance(caught.__cause__, DeadlineError)
        assert isinstance(caught.__cause__.__cause__, openai.APIStatusError)

    def test_it_has_waited_as_long_as_it_says(self) -> None:
        """A deadline's error comes no sooner than it says, by the call's own clock."""
        clock = FakeClock()
        with Keeping(lambda _: self.THROTTLED) as endpoint:
            embeddings = embeddings_at(endpoint.url, deadline=5, _clock=clock)
            caught = raised(lambda: embeddings.embed_documents(TEXTS))
        assert "the deadline of 5 s passed" in str(caught)
        assert clock.time >= 5
        assert caught.report.seconds >= 5

    def test_a_query_says_it_too(self) -> None:
        """A query's deadline error names the last error in the same words."""
        with Keeping(lambda _: self.THROTTLED) as endpoint:
            embeddings = embeddings_at(endpoint.url, deadline=5)
            caught = raised(lambda: embeddings.embed_query(TEXTS[0]))
        assert isinstance(caught, DeadlineError)
        assert "The last error: 429 rate_limited" in str(caught)


class TestAddresses:
    """An address is shown without secrets, even if it contains a key."""

    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("https://api.openai.com/v1", "https://api.openai.com/v1"),
            (f"http://user:{KEY}@host:80/v1?key={KEY}#{KEY}", "http://host:80/v1"),
            (f"http://{KEY}@[::1]:8080/", "http://[::1]:8080/"),
            ("http://host:no/v1", "the server"),
            ("", "the server"),  # a variable that is set to an empty string
        ],
    )
    def test_nothing_secret_is_shown(self, url: str, expected: str) -> None:
        """Of an address only scheme, host, port and path are shown."""
        assert shown(url) == expected

    def test_any_classs_own_address_is_shown(self) -> None:
        """The address of any class is shown; a class without one is named itself."""
        assert address_of(Failing(ValueError())) == "http://host:11434/x"
        assert address_of(BatchEmbeddings(Failing(ValueError()))) == (
            "the server of BatchEmbeddings"
        )


def test_every_error_of_a_call_can_be_caught_as_ours() -> None:
    """An error of documents, queries or arrays can be caught as `BatchEmbeddingsError`."""
    decide: Decide = lambda _: WRONG_KEY  # noqa: E731
    with Keeping(decide) as endpoint:
        embeddings = embeddings_at(endpoint.url)
        with pytest.raises(BatchEmbeddingsError):
            embeddings.embed_query("a")
        with pytest.raises(BatchEmbeddingsError):
            embeddings.embed_numpy(["a"])
