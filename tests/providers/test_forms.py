"""The form of a request follows the user's options, and then what the server accepts."""

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
    """Return an `OpenAIEmbeddings` for an endpoint."""
    return OpenAIEmbeddings(base_url=endpoint.url, api_key=SecretStr("k"), **options)


def batch(endpoint: Keeping, options: dict[str, Any] | None = None, **own: Any) -> BatchEmbeddings:
    """Return embeddings for an endpoint that wait on a fake clock."""
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
    """The user's own format is kept; it was once overridden, so some servers did not work."""

    @pytest.mark.parametrize(
        "kwargs",
        [{"encoding_format": "float"}, {"extra_body": {"encoding_format": "float"}}],
        ids=["model_kwargs", "extra_body"],
    )
    def test_the_users_own_format_is_asked_for(self, kwargs: dict[str, Any]) -> None:
        """A format in `model_kwargs` is used in every request."""
        with Keeping() as endpoint:
            embeddings = batch(endpoint, {"model_kwargs": kwargs}, max_batch_size=1)
            assert_right(embeddings.embed_numpy(["a", "b"]), ["a", "b"])
            assert [kept.body["encoding_format"] for kept in endpoint.kept] == ["float", "float"]

    @pytest.mark.parametrize("refusal", NO_BASE64)
    def test_where_base64_is_refused_floats_are_asked_for(self, refusal: Reply) -> None:
        """If a server refuses base64, floats are requested from then on, after one refusal."""
        with Keeping(
            lambda kept: None if kept.body["encoding_format"] == "float" else refusal
        ) as endpoint:
            embeddings = batch(endpoint, max_workers=1)
            assert_right(embeddings.embed_numpy(["a", "b"]), ["a", "b"])
            assert_right([embeddings.embed_query("c")], ["c"])
            formats = [kept.body["encoding_format"] for kept in endpoint.kept]
            assert formats == ["base64", "float", "float"]

    @pytest.mark.parametrize("refusal", NO_BASE64)
    @pytest.mark.parametrize("failure", [None, error(429, "slow down"), error(503, "busy")])
    def test_requests_in_parallel_all_learn_it(self, refusal: Reply, failure: Reply | None) -> None:
        """Of many first requests one tries floats, even if that fails once for another reason."""
        failures = [failure] * (failure is not None)

        def reply(kept: Kept) -> Reply | None:
            if kept.body["encoding_format"] != "float":
                return refusal
            return failures.pop() if failures else None

        texts = [f"text {i}" for i in range(64)]
        with Keeping(reply) as endpoint:
            embeddings = batch(endpoint, max_batch_size=4, max_workers=16)
            assert_right(embeddings.embed_numpy(texts), texts)
            formats = [kept.body["encoding_format"] for kept in endpoint.kept]
        # Sixteen are refused, then one asks for floats, and after a failure it is sent again.
        assert formats.count("base64") <= 32
        assert formats.count("float") <= 16 + 2

    def test_the_users_own_format_is_never_changed(self) -> None:
        """A format set by the user is never changed, so its refusal is an error."""
        refusal = error(400, "encoding_format base64 is not supported")
        with Keeping(lambda _: refusal) as endpoint:
            embeddings = batch(endpoint, {"model_kwargs": {"encoding_format": "base64"}})
            with pytest.raises(openai.BadRequestError):
                embeddings.embed_query("a")
            assert {kept.body["encoding_format"] for kept in endpoint.kept} == {"base64"}

    def test_a_server_that_has_answered_is_not_asked_in_another_format(self) -> None:
        """After an answer in one format, a refusal does not change the format.

        It then concerns the texts, whatever words it contains.
        """
        refusal = error(400, "invalid encoding of the input")
        with Keeping(lambda kept: refusal if "bad" in kept.texts else None) as endpoint:
            embeddings = batch(endpoint)
            embeddings.embed_query("a")
            with pytest.raises(PartialEmbeddingsError):
                embeddings.embed_documents(["bad", "good"])
            assert {kept.body["encoding_format"] for kept in endpoint.kept} == {"base64"}

    def test_a_server_that_refuses_everything_is_asked_a_few_times_more_at_most(self) -> None:
        """If a server refuses everything, few requests try another format.

        The error is that of the first format.
        """
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
    """An empty page among documents is refused or skipped, as the user chooses."""

    def test_it_is_an_error_before_anything_is_sent(self) -> None:
        """By default an empty text is an error before anything is sent, which names the option."""
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
        """A skipped empty text gets the same vector as from OpenAI's class alone.

        That is the server's own vector of an empty text.
        """
        use_offline_tiktoken()
        with Keeping() as endpoint:
            got = batch(endpoint, wrapped, **own).embed_numpy(TEXTS)
            assert_right(got, TEXTS)
            # OpenAI's class alone sends token numbers, so only the empty text can be compared.
            alone = wrap(endpoint, **wrapped).embed_documents(TEXTS)
        assert np.array_equal(np.asarray(alone[1], dtype=np.float32), got[1])

    def test_where_the_server_refuses_it_a_space_takes_its_place(self) -> None:
        """After one refusal of an empty text a space is sent instead, and no text is lost."""
        with Keeping(no_empty) as endpoint:
            embeddings = batch(endpoint, empty="skip-vector", max_workers=1)
            assert_right(embeddings.embed_numpy(TEXTS), ["a", " ", "b", "c"])
            assert_right([embeddings.embed_query("")], [" "])
            assert [("" in kept.texts) for kept in endpoint.kept] == [True, False, False]

    def test_the_option_wins_over_the_wrapped_object(self) -> None:
        """`empty="error"` refuses texts that the wrapped object's `skip_empty` would skip."""
        with Keeping() as endpoint, pytest.raises(InputError):
            batch(endpoint, {"skip_empty": True}, empty="error").embed_documents(TEXTS)

    @pytest.mark.parametrize("value", ["skip", True, ""])
    def test_no_other_habit_exists(self, value: object) -> None:
        """The error for another value of `empty` lists the valid ones."""
        with (
            Keeping() as endpoint,
            pytest.raises(OptionError, match="empty must be one of 'error', 'skip-vector'"),
        ):
            batch(endpoint, empty=value)


class TestTraces:
    """A package that traces the SDK's calls sees the texts, not an empty list as it once did."""

    @pytest.fixture
    def seen(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """Return the texts of every call of `create`, which tracing packages watch."""
        seen: list[Any] = []
        kind = openai.resources.embeddings.Embeddings
        real = kind.create

        def create(self: Any, **options: Any) -> Any:
            seen.append(options["input"])
            return real(self, **options)

        monkeypatch.setattr(kind, "create", create)
        return seen

    def test_they_show_the_texts(self, seen: list[Any]) -> None:
        """A traced call of `create` has the texts, and the request has them once."""
        with Keeping() as endpoint:
            assert_right(batch(endpoint).embed_numpy(["a", "b"]), ["a", "b"])
            assert [kept.texts for kept in endpoint.kept] == [["a", "b"]]
        assert seen == [["a", "b"]]


class TestOrder:
    """Shifted index numbers and strings are understood, and meaningless ones are refused."""

    @staticmethod
    def numbered(kept: Kept, indices: list[Any]) -> Reply:
        """Return the right vectors for a request with other index numbers."""
        answer = json.loads(json.dumps(right(kept).body))
        for item, index in zip(answer["data"], indices, strict=True):
            item["index"] = index
        return Reply(status=200, body=answer)

    @pytest.mark.parametrize(
        "number", [lambda i: i + 1, lambda i: i + 4000, str, lambda i: str(i + 1)]
    )
    def test_ascending_numbers_are_taken(self, number: Any) -> None:
        """Consecutive index numbers are accepted from any start, and as strings."""
        texts = [f"text {i}" for i in range(20)]
        with Keeping(lambda kept: self.numbered(kept, [*map(number, range(20))])) as endpoint:
            embeddings = batch(endpoint, {"model_kwargs": {"encoding_format": "float"}})
            assert_right(embeddings.embed_numpy(texts), texts)

    @pytest.mark.parametrize(
        "numbers", [[0] * 20, [1] * 20, [*range(20, 0, -1)], [*range(0, 60, 3)], [7] * 19 + [8]]
    )
    def test_numbers_without_a_meaning_end_the_call_at_once(self, numbers: list[int]) -> None:
        """Meaningless numbers end the call after the second answer, and the message helps."""
        clock = FakeClock()
        with Keeping(lambda kept: self.numbered(kept, numbers)) as endpoint:
            wrapped = wrap(endpoint, model_kwargs={"encoding_format": "float"})
            embeddings = BatchEmbeddings(wrapped, max_workers=1, hedge=False, _clock=clock)
            with pytest.raises(PartialEmbeddingsError, match="max_batch_size=1"):
                embeddings.embed_documents([f"text {i}" for i in range(20)])
            assert len(endpoint.kept) == 2
        assert clock.time < 5

    def test_one_spoilt_answer_is_asked_for_again(self) -> None:
        """A single answer with wrong index numbers is requested again."""
        texts = [f"text {i}" for i in range(20)]
        with Keeping(
            lambda kept: self.numbered(kept, [0] * 20) if len(endpoint.kept) == 1 else None
        ) as endpoint:
            embeddings = batch(endpoint, {"model_kwargs": {"encoding_format": "float"}})
            assert_right(embeddings.embed_numpy(texts), texts)


def test_the_helper_answers_in_the_format_that_is_asked_for() -> None:
    """The helper answers in the requested format, or the tests above would prove nothing."""
    with Keeping() as endpoint:
        client = openai.OpenAI(base_url=endpoint.url, api_key="k", max_retries=0)
        answer = client.embeddings.create(model="m", input=["a"], encoding_format="float")
        expected = vectors(["a"], DIMENSIONS)[0].tolist()
        assert answer.data[0].embedding == pytest.approx(expected)
        client.close()
