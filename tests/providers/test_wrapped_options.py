"""Options of the wrapped object are honoured, or one warning names those that are not."""

import asyncio
import copy
import logging
import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import openai
import pytest
from langchain_core.embeddings import Embeddings
from langchain_openai import AzureOpenAIEmbeddings, OpenAIEmbeddings
from pydantic import BaseModel, ConfigDict

from langchain_batch_embed import BatchEmbeddings, OptionError, PartialEmbeddingsError
from langchain_batch_embed.limits import OPENAI, limits_of
from langchain_batch_embed.providers.openai import timeout_of
from tests.providers.endpoint import Keeping, error
from tests.providers.test_forms import batch, wrap
from tests.support import FakeClock, assert_right, prose

TEXTS = [f"section {i}" for i in range(100)]


class Counting(Embeddings):
    """An `Embeddings` that records the sizes of its calls."""

    def __init__(self, **options: Any) -> None:
        vars(self).update(options)
        self.calls: list[int] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector for each text."""
        self.calls.append(len(texts))
        return [[1.0, float(len(text))] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of the text."""
        return self.embed_documents([text])[0]


class HuggingFaceEmbeddings(Counting):
    """A stand-in for langchain-huggingface's class of the same name and options."""


class FastEmbedEmbeddings(Counting):
    """A stand-in for langchain-community's class of the same name and options."""


class TestOwnWorkers:
    """A class that shares a call among its own workers gets the whole call, not slices."""

    @pytest.mark.parametrize(
        "wrapped",
        [
            HuggingFaceEmbeddings(multi_process=True, model_name="m"),
            FastEmbedEmbeddings(parallel=4),
            FastEmbedEmbeddings(parallel=0),
            Counting(num_workers=8),
            Counting(n_jobs=-1),
        ],
        ids=lambda wrapped: f"{type(wrapped).__name__} {next(iter(vars(wrapped)))}",
    )
    def test_it_gets_the_whole_call(self, wrapped: Counting) -> None:
        """A class with its own workers gets 20,000 texts in one call, to start one pool."""
        wrapped.calls.clear()
        texts = [f"section {i}" for i in range(20_000)]
        assert BatchEmbeddings(wrapped).embed_numpy(texts).shape == (20_000, 2)
        assert wrapped.calls == [20_000]

    def test_a_size_that_the_user_sets_is_kept(self) -> None:
        """A batch size that the user sets is kept, even for a class with its own workers."""
        wrapped = HuggingFaceEmbeddings(multi_process=True)
        BatchEmbeddings(wrapped, max_batch_size=60).embed_numpy(TEXTS)
        assert max(wrapped.calls) <= 60

    @pytest.mark.parametrize(
        "wrapped",
        [HuggingFaceEmbeddings(multi_process=False), FastEmbedEmbeddings(parallel=None)],
    )
    def test_without_workers_of_its_own_it_is_cut_as_before(self, wrapped: Counting) -> None:
        """A class without its own workers still gets slices, which a progress bar can count."""
        assert limits_of(wrapped).max_batch_size <= 1024


class TestWholeTexts:
    """A flag that means "send texts as they are" is honoured, so long texts are not averaged."""

    LONG = prose(27_000)

    def test_a_long_text_is_sent_whole(self) -> None:
        """With the flag, the vector of a long text is the server's own, not a mean."""
        with Keeping() as endpoint:
            embeddings = batch(endpoint, {"check_embedding_ctx_length": False})
            assert_right(embeddings.embed_numpy([self.LONG, "a"]), [self.LONG, "a"])
            assert embeddings.max_tokens_per_input is None

    def test_a_refusal_is_that_texts_own(self) -> None:
        """The server's refusal of a long text affects that text alone."""
        refusal = error(
            400,
            "This model's maximum context length is 8192 tokens, however you requested 27000.",
            code="context_length_exceeded",
        )
        with Keeping(lambda kept: refusal if self.LONG in kept.texts else None) as endpoint:
            embeddings = batch(endpoint, {"check_embedding_ctx_length": False})
            with pytest.raises(PartialEmbeddingsError) as caught:
                embeddings.embed_numpy(["a", self.LONG, "b"])
        assert [failure.index for failure in caught.value.failures] == [1]

    def test_a_limit_that_the_user_sets_here_is_kept(self) -> None:
        """A token limit that the user sets on `BatchEmbeddings` still cuts long texts."""
        with Keeping() as endpoint:
            options = {"check_embedding_ctx_length": False}
            embeddings = batch(endpoint, options, max_tokens_per_input=8_000)
            embeddings.embed_numpy([self.LONG])
            assert sum(len(kept.texts) for kept in endpoint.kept) > 1


class TestChunkSize:
    """A request size that the user set on the wrapped object is honoured."""

    def test_a_smaller_one_is_the_limit_of_a_request(self) -> None:
        """A smaller `chunk_size` limits the texts of a request."""
        with Keeping() as endpoint:
            assert_right(batch(endpoint, {"chunk_size": 16}).embed_numpy(TEXTS), TEXTS)
            assert max(len(kept.texts) for kept in endpoint.kept) <= 16

    def test_the_default_is_none(self) -> None:
        """The default `chunk_size` of 1,000 sets no limit, because the user did not choose it."""
        with Keeping() as endpoint:
            assert batch(endpoint).max_batch_size == OPENAI.max_batch_size
            assert batch(endpoint, {"chunk_size": 1000}).max_batch_size == OPENAI.max_batch_size

    def test_our_own_option_wins(self) -> None:
        """The option `max_batch_size` takes precedence over `chunk_size`."""
        with Keeping() as endpoint:
            assert batch(endpoint, {"chunk_size": 16}, max_batch_size=64).max_batch_size == 64

    def test_one_given_with_a_call_fails_no_call(self) -> None:
        """A `chunk_size` argument of a call is accepted, as callers of OpenAI's class pass it."""
        with Keeping() as endpoint:
            embeddings = batch(endpoint)
            assert_right(embeddings.embed_documents(TEXTS, chunk_size=10), TEXTS)
            got = asyncio.run(embeddings.aembed_documents(TEXTS, chunk_size=10))
            assert_right(got, TEXTS)


class TestLimitsOfOtherServers:
    """OpenAI's limits apply to OpenAI alone, not to every server of its protocol."""

    def test_another_server_may_be_sent_more(self) -> None:
        """A larger batch size is permitted for other servers, whose limits show in refusals."""
        with Keeping() as endpoint:
            assert batch(endpoint, max_batch_size=5_000).max_batch_size == 5_000

    def test_openai_itself_may_not(self) -> None:
        """A larger batch size is refused for OpenAI, whose limits are known."""
        wrapped = OpenAIEmbeddings(api_key="k")  # type: ignore[arg-type]
        with pytest.raises(OptionError, match="more than OpenAI accepts"):
            BatchEmbeddings(wrapped, max_batch_size=5_000)

    def test_messages_name_that_server(self) -> None:
        """A message names the server's address and not OpenAI."""
        with Keeping() as endpoint:
            embeddings = batch(endpoint)
            with pytest.raises(ValueError, match="empty") as caught:
                embeddings.embed_documents([""])
            assert "OpenAI" not in str(caught.value)
            assert endpoint.url in str(caught.value)


@pytest.fixture
def proxied() -> Iterator[tuple[Keeping, BatchEmbeddings]]:
    """Yield an endpoint, and an object that uses the endpoint itself as its proxy."""
    with Keeping() as endpoint:
        wrapped = OpenAIEmbeddings(
            base_url="http://nowhere.test/v1",
            api_key="k",  # type: ignore[arg-type]
            openai_proxy=endpoint.host,
        )
        yield endpoint, BatchEmbeddings(wrapped, hedge=False)


class TestProxy:
    """Clients that the class makes for a proxy are not mistaken for the user's own."""

    @pytest.mark.parametrize(
        "again",
        [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))],  # noqa: S301
        ids=["copy", "deepcopy", "pickle"],
    )
    def test_a_copy_goes_through_it_too(
        self, proxied: Any, again: Callable[[BatchEmbeddings], BatchEmbeddings]
    ) -> None:
        """A copy uses the proxy too, because its clients are made again from the options."""
        _, embeddings = proxied
        assert_right(embeddings.embed_numpy(["a"]), ["a"])
        assert_right(again(embeddings).embed_numpy(["b"]), ["b"])

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
    def test_a_forked_process_has_connections_of_its_own(self, proxied: Any) -> None:
        """A forked process has its own connections through the proxy."""
        _, embeddings = proxied
        embeddings.embed_numpy(["before"])

        def child() -> None:
            assert_right(embeddings.embed_numpy(["child"]), ["child"])

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(30)
        assert process.exitcode == 0
        assert_right(embeddings.embed_numpy(["parent"]), ["parent"])


class TestTimeout:
    """All parts of a time-out are kept, not only one."""

    @pytest.mark.parametrize(
        ("given", "seconds", "expected"),
        [
            (openai.Timeout(60, connect=5), 60.0, (5, 60, 60, 60)),
            (openai.Timeout(60, connect=5, pool=7), 30.0, (5, 30, 30, 7)),
            (openai.Timeout(60, connect=None), 60.0, (60, 60, 60, 60)),
            ((5.0, 60.0), 60.0, (5, 60, 60, 60)),
            ((5.0, 60.0, 3.0, None), 60.0, (5, 60, 3, 60)),
            (openai.Timeout(60, connect=5), 2.0, (2, 2, 2, 2)),
        ],
    )
    def test_its_parts_are_kept(
        self, given: Any, seconds: float, expected: tuple[float, ...]
    ) -> None:
        """Each part of a time-out is kept, up to the limit of the request."""
        got = timeout_of(given, seconds)
        assert (got.connect, got.read, got.write, got.pool) == expected

    @pytest.mark.parametrize("given", [None, 60, 2.5])
    def test_a_number_is_for_everything(self, given: float | None) -> None:
        """A time-out that is one number, or none, applies to all operations."""
        assert timeout_of(given, 30.0) == 30.0

    def test_requests_are_sent_with_it(self) -> None:
        """The parts of the time-out reach the transport."""
        http = sys.modules[openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0]]
        seen: list[dict[str, Any]] = []

        class Transport(http.HTTPTransport):  # type: ignore[misc,name-defined]
            def handle_request(self, request: Any) -> Any:
                seen.append(request.extensions["timeout"])
                return super().handle_request(request)

        with Keeping() as endpoint, http.Client(transport=Transport()) as client:
            options = {"timeout": http.Timeout(60, connect=5), "http_client": client}
            assert_right(batch(endpoint, options).embed_numpy(["a"]), ["a"])
        assert seen == [{"connect": 5, "read": 60, "write": 60, "pool": 60}]


async def token() -> str:
    """Return a token as a sign-in service would."""
    await asyncio.sleep(0)
    return "fresh"


@pytest.mark.skipif(
    openai.__version__.startswith("1."),
    reason="the lowest langchain-openai takes no key or token that is a coroutine",
)
class TestAsyncOnly:
    """An object with only asynchronous parts works, although threads send the requests."""

    def test_azures_async_token_provider_is_run(self) -> None:
        """Azure's asynchronous token provider is run for each request, without another option."""
        with Keeping() as endpoint:
            wrapped = AzureOpenAIEmbeddings(
                azure_endpoint=endpoint.host,
                azure_deployment="d",
                api_version="2024-10-21",
                azure_ad_async_token_provider=token,
            )
            embeddings = BatchEmbeddings(wrapped, hedge=False)
            assert_right(embeddings.embed_numpy(TEXTS), TEXTS)
            assert_right(copy.copy(embeddings).embed_numpy(["a"]), ["a"])
            assert {kept.headers["authorization"] for kept in endpoint.kept} == {"Bearer fresh"}
            assert {kept.path.partition("?")[0] for kept in endpoint.kept} == {
                "/openai/deployments/d/embeddings"
            }

    def test_openais_async_key_is_run(self) -> None:
        """An asynchronous API key of OpenAI's class is run for the request."""
        with Keeping() as endpoint:
            wrapped = OpenAIEmbeddings(base_url=endpoint.url, api_key=token)
            assert_right(BatchEmbeddings(wrapped).embed_numpy(["a"]), ["a"])
            assert endpoint.kept[0].headers["authorization"] == "Bearer fresh"

    def test_within_a_running_event_loop_too(self) -> None:
        """Asynchronous keys work within a running event loop, as in a notebook."""

        async def main() -> None:
            with Keeping() as endpoint:
                wrapped = OpenAIEmbeddings(base_url=endpoint.url, api_key=token)
                embeddings = BatchEmbeddings(wrapped)
                assert_right(embeddings.embed_numpy(["a"]), ["a"])
                assert_right(await embeddings.aembed_documents(["b"]), ["b"])

        asyncio.run(main())

    def test_a_token_that_cannot_be_had_is_that_error(self) -> None:
        """An error of the user's token function is raised as it is."""

        async def fails() -> str:
            raise PermissionError("not signed in")

        with Keeping() as endpoint:
            wrapped = OpenAIEmbeddings(base_url=endpoint.url, api_key=fails)
            embeddings = BatchEmbeddings(wrapped, _clock=FakeClock(), max_outage=1)
            with pytest.raises(PermissionError):
                embeddings.embed_query("a")

    @pytest.mark.parametrize(
        ("kind", "options", "named"),
        [
            (
                AzureOpenAIEmbeddings,
                {"azure_endpoint": "http://127.0.0.1:9"},
                "azure_ad_token_prov",
            ),
            (OpenAIEmbeddings, {}, "api_key="),
        ],
    )
    def test_without_any_way_the_right_option_is_named(
        self, kind: type[OpenAIEmbeddings], options: dict[str, Any], named: str
    ) -> None:
        """Without any credentials the error names the class's own option."""
        wrapped = kind.model_construct(model="m", client=None, **options)
        with pytest.raises(OptionError, match=named):
            BatchEmbeddings(wrapped)

    def test_a_class_with_async_methods_alone_is_used(self) -> None:
        """A class with only asynchronous methods is used through them."""

        class Async(Embeddings):
            def embed_documents(self, texts: list[str]) -> list[list[float]]:
                raise NotImplementedError

            def embed_query(self, text: str) -> list[float]:
                raise NotImplementedError

            async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
                return [[1.0, float(len(text))] for text in texts]

            async def aembed_query(self, text: str) -> list[float]:
                return [2.0, float(len(text))]

        embeddings = BatchEmbeddings(Async())
        assert embeddings.embed_documents(["a", "bb"]) == [[1.0, 1.0], [1.0, 2.0]]
        assert embeddings.embed_query("ccc") == [2.0, 3.0]


class FakeClient:
    """A stand-in for a client, as tests and tracing packages use."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def create(self, *, input: list[str], **_: Any) -> dict[str, Any]:  # noqa: A002  # the SDK's
        """Return a vector for each text."""
        self.texts += input
        return {"data": [{"index": i, "embedding": [1.0, len(t)]} for i, t in enumerate(input)]}


class TestNothingIsAssumed:
    """The wrapped object need not have any particular attribute."""

    def test_a_client_that_is_not_the_sdks_is_asked_through_the_class(self) -> None:
        """A client that is not the SDK's is used through the class.

        Its `create` may trace, count or fake.
        """
        client = FakeClient()
        wrapped = OpenAIEmbeddings(
            api_key="k",  # type: ignore[arg-type]
            client=client,
            async_client=client,
            check_embedding_ctx_length=False,
        )
        got = BatchEmbeddings(wrapped).embed_documents(["a", "bb"])
        assert got == [[1.0, 1.0], [1.0, 2.0]]
        assert sorted(client.texts) == ["a", "bb"]

    def test_a_patched_method_of_the_sdks_client_is_called(self) -> None:
        """A tracing package that replaces `create` on one client sees every call."""
        with Keeping() as endpoint:
            wrapped = wrap(endpoint, check_embedding_ctx_length=False)
            real, seen = wrapped.client.create, []

            def create(**options: Any) -> Any:
                seen.append(options["input"])
                return real(**options)

            wrapped.client.create = create
            assert_right(BatchEmbeddings(wrapped).embed_numpy(["a", "b"]), ["a", "b"])
        assert seen == [["a", "b"]]

    @pytest.mark.parametrize(
        "name",
        [
            "tiktoken_model_name",
            "request_timeout",
            "model_kwargs",
            "dimensions",
            "embedding_ctx_length",
            "check_embedding_ctx_length",
            "skip_empty",
            "openai_proxy",
        ],
    )
    def test_another_version_of_the_class_may_lack_an_option(self, name: str) -> None:
        """A version of the class that lacks an option still embeds."""
        with Keeping() as endpoint:
            wrapped = wrap(endpoint)
            del vars(wrapped)[name]
            assert_right(BatchEmbeddings(wrapped).embed_numpy(["a"]), ["a"])

    def test_attributes_may_raise_anything(self) -> None:
        """An object whose attributes raise errors still embeds."""

        class Odd(Embeddings):
            def __getattr__(self, name: str) -> Any:
                raise RuntimeError(name)

            def embed_documents(self, texts: list[str]) -> list[list[float]]:
                return [[1.0] for _ in texts]

            def embed_query(self, text: str) -> list[float]:
                return [float(len(text))]

        embeddings = BatchEmbeddings(Odd())
        assert embeddings.embed_documents(["a"]) == [[1.0]]
        assert "Odd" in repr(embeddings)

    @pytest.mark.parametrize("form", [iter, tuple, lambda it: np.array(it, dtype=np.float16), list])
    def test_vectors_may_come_in_any_form(self, form: Callable[[Any], Any]) -> None:
        """Vectors may come as a generator, as tuples or as arrays of any float type."""

        class Own(Counting):
            def embed_documents(self, texts: list[str]) -> Any:
                return form(super().embed_documents(texts))

        assert BatchEmbeddings(Own()).embed_documents(["a", "b"]) == [[1.0, 1.0], [1.0, 1.0]]


class CohereEmbeddings(BaseModel, Embeddings):
    """A pydantic class with langchain-cohere's name and an option that is replaced."""

    model_config = ConfigDict(frozen=True)
    max_retries: int = 3

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector for each text."""
        return [[1.0] for _ in texts]

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of the text."""
        return [float(len(text))]


class TestWarnings:
    """A warning names each option of the wrapped object that no longer has its effect."""

    @pytest.fixture
    def warned(self, caplog: pytest.LogCaptureFixture) -> Callable[[Embeddings], list[str]]:
        """Return a function that wraps an object and returns the warnings that this logs."""

        def of(wrapped: Embeddings) -> list[str]:
            caplog.clear()
            with caplog.at_level(logging.WARNING, "langchain_batch_embed"):
                BatchEmbeddings(wrapped)
            return [record.getMessage() for record in caplog.records]

        return of

    def test_one_warning_names_them_all(self, warned: Callable[[Embeddings], list[str]]) -> None:
        """One warning names all options that have no effect."""
        wrapped = OpenAIEmbeddings(
            api_key="k",  # type: ignore[arg-type]
            chunk_size=500,
            max_retries=6,
            retry_max_seconds=60,
            disallowed_special="all",
        )
        [message] = warned(wrapped)
        for named in ("chunk_size=500", "max_retries=6", "retry_max_seconds=60", "disallowed_spec"):
            assert named in message
        assert message.startswith("OpenAIEmbeddings: ")

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"max_retries": 2, "chunk_size": 1000},
            {"dimensions": 256, "skip_empty": True, "show_progress_bar": True, "timeout": 3},
            {"openai_proxy": "http://127.0.0.1:9"},
        ],
    )
    def test_nothing_is_said_of_defaults_and_of_what_is_honoured(
        self, warned: Callable[[Embeddings], list[str]], options: dict[str, Any]
    ) -> None:
        """Defaults and options that are honoured cause no warning."""
        assert warned(OpenAIEmbeddings(**{"api_key": "k", **options})) == []

    def test_another_class_may_have_a_proxy(
        self, warned: Callable[[Embeddings], list[str]]
    ) -> None:
        """An `openai_proxy` on another class, as in langchain-community, causes no warning."""
        wrapped = CohereEmbeddings()
        vars(wrapped)["openai_proxy"] = "http://127.0.0.1:9"
        assert warned(wrapped) == []

    def test_other_classes_are_named_too(self, warned: Callable[[Embeddings], list[str]]) -> None:
        """Options of other classes cause a warning too, if pydantic knows they were set."""
        assert warned(CohereEmbeddings()) == []
        [message] = warned(CohereEmbeddings(max_retries=7))
        assert "max_retries=7" in message


class TestProgress:
    """A progress bar that the wrapped object's option asks for is shown."""

    @pytest.mark.parametrize(
        ("theirs", "ours", "shown"),
        [(True, None, True), (False, None, False), (True, False, False), (False, True, True)],
    )
    def test_the_wrapped_objects_wish_counts_unless_there_is_one_here(
        self, capsys: pytest.CaptureFixture[str], theirs: bool, ours: bool | None, shown: bool
    ) -> None:
        """The wrapped object's setting applies unless `show_progress` is set here."""
        with Keeping() as endpoint:
            embeddings = batch(endpoint, {"show_progress_bar": theirs}, show_progress=ours)
            embeddings.embed_documents(TEXTS)
            assert embeddings.show_progress is shown
        assert bool(capsys.readouterr().err) is shown

    def test_the_classes_own_bars_are_turned_off(self) -> None:
        """The class's own bars are turned off in a copy, as they would break up ours."""
        wrapped = HuggingFaceEmbeddings(show_progress=True)
        embeddings = BatchEmbeddings(wrapped)
        assert embeddings.show_progress
        provider: Any = embeddings._pipeline.provider
        assert (provider._embeddings.show_progress, vars(wrapped)["show_progress"]) == (False, True)
