"""How a request is written: the user's own format, and what a server takes in place of ours."""

import json
from typing import Any

import numpy as np
import openai
import openai.resources.embeddings
import pytest
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

from langchain_batch_embed import BatchEmbeddings, InputError, OptionError, PartialEmbeddingsError
from langchain_batch_embed.commands.offline import use_offline_tiktoken
from langchain_batch_embed.simulator import vectors
from tests.providers.endpoint import Keeping, Kept, error, right
from tests.support import FakeClock, assert_right
from tests.survival.support import DIMENSIONS, Reply


def wrap(endpoint: Keeping, **options: Any) -> OpenAIEmbeddings:
    """Return an `OpenAIEmbeddings` that asks an endpoint."""
    return OpenAIEmbeddings(base_url=endpoint.url, api_key=SecretStr("k"), **options)


def batch(endpoint: Keeping, options: dict[str, Any] | None = None, **own: Any) -> BatchEmbeddings:
    """Return embeddings on an endpoint that wait on a fake clock."""
    return BatchEmbeddings(
        wrap(endpoint, **(options or {})), _clock=FakeClock(), hedge=False, **own
    )


NO_BASE64 = [
    error(400, "encoding_format base64 is not supported", param="encoding_format"),
    Reply(status=400, body={"error": "Only float encoding is supported"}),
    Reply(status=400, body={"message": "bad value"}),
    Reply(
        status=422,
        body={"detail": [{"loc": ["body", "encoding_format"], "msg": "Input should be 'float'"}]},
    ),
    error(500, "base64 encoding is not implemented"),
    error(501, "not implemented"),
]


class TestFormat:
    """Kind: an option of the wrapped object that was overridden, so a server could not be used."""

    @pytest.mark.parametrize(
        "kwargs",
        [{"encoding_format": "float"}, {"extra_body": {"encoding_format": "float"}}],
        ids=["model_kwargs", "extra_body"],
    )
    def test_the_users_own_format_is_asked_for(self, kwargs: dict[str, Any]) -> None:
        """What `model_kwargs` says wins, in every request."""
        with Keeping() as endpoint:
            embeddings = batch(endpoint, {"model_kwargs": kwargs}, max_batch_size=1)
            assert_right(embeddings.embed_numpy(["a", "b"]), ["a", "b"])
            assert [kept.body["encoding_format"] for kept in endpoint.kept] == ["float", "float"]

    @pytest.mark.parametrize("refusal", NO_BASE64)
    def test_where_base64_is_refused_floats_are_asked_for(self, refusal: Reply) -> None:
        """Once, and from then on only floats."""
        with Keeping(
            lambda kept: None if kept.body["encoding_format"] == "float" else refusal
        ) as endpoint:
            embeddings = batch(endpoint, max_workers=1)
            assert_right(embeddings.embed_numpy(["a", "b"]), ["a", "b"])
            assert_right([embeddings.embed_query("c")], ["c"])
            formats = [kept.body["encoding_format"] for kept in endpoint.kept]
            assert formats == ["base64", "float", "float"]

    def test_the_users_own_format_is_never_changed(self) -> None:
        """A refusal of it is an error: another format may be what the user avoids."""
        refusal = error(400, "encoding_format base64 is not supported")
        with Keeping(lambda _: refusal) as endpoint:
            embeddings = batch(endpoint, {"model_kwargs": {"encoding_format": "base64"}})
            with pytest.raises(openai.BadRequestError):
                embeddings.embed_query("a")
            assert {kept.body["encoding_format"] for kept in endpoint.kept} == {"base64"}

    def test_a_server_that_has_answered_is_not_asked_in_another_format(self) -> None:
        """Its refusals are about texts, whatever words they hold."""
        refusal = error(400, "invalid encoding of the input")
        with Keeping(lambda kept: refusal if "bad" in kept.texts else None) as endpoint:
            embeddings = batch(endpoint)
            embeddings.embed_query("a")
            with pytest.raises(PartialEmbeddingsError):
                embeddings.embed_documents(["bad", "good"])
            assert {kept.body["encoding_format"] for kept in endpoint.kept} == {"base64"}

    def test_a_server_that_refuses_everything_is_asked_a_few_times_more_at_most(self) -> None:
        """The search for another format ends, and the error is that of the first one."""
        refusal = error(400, "encoding: no")
        with Keeping(lambda _: refusal) as endpoint:
            with pytest.raises(openai.BadRequestError):
                batch(endpoint, max_batch_size=1).embed_documents([f"text {i}" for i in range(30)])
            formats = [kept.body["encoding_format"] for kept in endpoint.kept]
        assert 1 <= formats.count("float") <= 3 < len(formats)


def no_empty(kept: Kept) -> Reply | None:
    """Refuse a request with an empty text, as OpenAI does."""
    if "" not in kept.texts:
        return None
    at = kept.texts.index("")
    return error(
        400, f"Invalid 'input[{at}]': input cannot be an empty string.", param=f"input[{at}]"
    )


TEXTS = ["a", "", "b", "c"]


class TestEmptyTexts:
    """Kind: an empty page among documents, which one habit skips and another one refuses."""

    def test_it_is_an_error_before_anything_is_sent(self) -> None:
        """By default, and the message says what else there is."""
        with Keeping(no_empty) as endpoint:
            with pytest.raises(InputError, match='empty="skip-vector"'):
                batch(endpoint).embed_documents(TEXTS)
            assert endpoint.kept == []

    @pytest.mark.parametrize(
        ("wrapped", "own"),
        [({"skip_empty": True}, {}), ({}, {"empty": "skip-vector"})],
        ids=["the wrapped object's skip_empty", "the option"],
    )
    def test_it_gets_the_vector_that_openais_class_alone_would_give_it(
        self, wrapped: dict[str, Any], own: dict[str, Any]
    ) -> None:
        """That is the server's own vector of an empty text."""
        use_offline_tiktoken()
        with Keeping() as endpoint:
            got = batch(endpoint, wrapped, **own).embed_numpy(TEXTS)
            assert_right(got, TEXTS)
            # Alone it sends numbers of tokens, so only the empty text can be compared.
            alone = wrap(endpoint, **wrapped).embed_documents(TEXTS)
        assert np.array_equal(np.asarray(alone[1], dtype=np.float32), got[1])

    def test_where_the_server_refuses_it_a_space_takes_its_place(self) -> None:
        """One refusal, no text lost, and no empty text is sent again."""
        with Keeping(no_empty) as endpoint:
            embeddings = batch(endpoint, empty="skip-vector", max_workers=1)
            assert_right(embeddings.embed_numpy(TEXTS), ["a", " ", "b", "c"])
            assert_right([embeddings.embed_query("")], [" "])
            assert [("" in kept.texts) for kept in endpoint.kept] == [True, False, False]

    def test_the_option_wins_over_the_wrapped_object(self) -> None:
        """`empty="error"` refuses what `skip_empty` would skip."""
        with Keeping() as endpoint, pytest.raises(InputError):
            batch(endpoint, {"skip_empty": True}, empty="error").embed_documents(TEXTS)

    @pytest.mark.parametrize("value", ["skip", True, ""])
    def test_no_other_habit_exists(self, value: object) -> None:
        """The message lists those that do."""
        with (
            Keeping() as endpoint,
            pytest.raises(OptionError, match="empty must be one of 'error', 'skip-vector'"),
        ):
            batch(endpoint, empty=value)


class TestTraces:
    """Kind: a package that traces the SDK's calls and was shown an empty list of texts."""

    @pytest.fixture
    def seen(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """Return the texts of every call of `create`, which a tracing package watches."""
        seen: list[Any] = []
        kind = openai.resources.embeddings.Embeddings
        real = kind.create

        def create(self: Any, **options: Any) -> Any:
            seen.append(options["input"])
            return real(self, **options)

        monkeypatch.setattr(kind, "create", create)
        return seen

    def test_they_show_the_texts(self, seen: list[Any]) -> None:
        """The call has them, and the request has them once."""
        with Keeping() as endpoint:
            assert_right(batch(endpoint).embed_numpy(["a", "b"]), ["a", "b"])
            assert [kept.texts for kept in endpoint.kept] == [["a", "b"]]
        assert seen == [["a", "b"]]


class TestOrder:
    """Kind: index numbers that are shifted, strings, or without a meaning."""

    @staticmethod
    def numbered(kept: Kept, indices: list[Any]) -> Reply:
        """Return the vectors of a request with other numbers."""
        answer = json.loads(json.dumps(right(kept).body))
        for item, index in zip(answer["data"], indices, strict=True):
            item["index"] = index
        return Reply(status=200, body=answer)

    @pytest.mark.parametrize(
        "number", [lambda i: i + 1, lambda i: i + 4000, str, lambda i: str(i + 1)]
    )
    def test_ascending_numbers_are_taken(self, number: Any) -> None:
        """Wherever they start, and as strings."""
        texts = [f"text {i}" for i in range(20)]
        with Keeping(lambda kept: self.numbered(kept, [*map(number, range(20))])) as endpoint:
            embeddings = batch(endpoint, {"model_kwargs": {"encoding_format": "float"}})
            assert_right(embeddings.embed_numpy(texts), texts)

    @pytest.mark.parametrize(
        "numbers", [[0] * 20, [1] * 20, [*range(20, 0, -1)], [*range(0, 60, 3)], [7] * 19 + [8]]
    )
    def test_numbers_without_a_meaning_end_the_call_at_once(self, numbers: list[int]) -> None:
        """After the second such answer, without a wait, and the message says what helps."""
        clock = FakeClock()
        with Keeping(lambda kept: self.numbered(kept, numbers)) as endpoint:
            wrapped = wrap(endpoint, model_kwargs={"encoding_format": "float"})
            embeddings = BatchEmbeddings(wrapped, max_workers=1, hedge=False, _clock=clock)
            with pytest.raises(PartialEmbeddingsError, match="max_batch_size=1"):
                embeddings.embed_documents([f"text {i}" for i in range(20)])
            assert len(endpoint.kept) == 2
        assert clock.time < 5

    def test_one_spoilt_answer_is_asked_for_again(self) -> None:
        """It may be a gateway's hiccup."""
        texts = [f"text {i}" for i in range(20)]
        with Keeping(
            lambda kept: self.numbered(kept, [0] * 20) if len(endpoint.kept) == 1 else None
        ) as endpoint:
            embeddings = batch(endpoint, {"model_kwargs": {"encoding_format": "float"}})
            assert_right(embeddings.embed_numpy(texts), texts)


def test_the_helper_answers_in_the_format_that_is_asked_for() -> None:
    """Else the tests above would compare nothing."""
    with Keeping() as endpoint:
        client = openai.OpenAI(base_url=endpoint.url, api_key="k", max_retries=0)
        answer = client.embeddings.create(model="m", input=["a"], encoding_format="float")
        expected = vectors(["a"], DIMENSIONS)[0].tolist()
        assert answer.data[0].embedding == pytest.approx(expected)
        client.close()
