"""Options: one that cannot work is an error when the object is made, and says what to do."""

from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings

from langchain_batch_embed import (
    BatchEmbeddings,
    BatchEmbeddingsError,
    FixedOptionError,
    Limits,
    OptionError,
    SharedQuota,
    UnknownOptionError,
)


class OpenAIEmbeddings(DeterministicFakeEmbedding):
    """Embeddings that are recognised as OpenAI's by the class name alone."""


def make(**options: Any) -> BatchEmbeddings:
    """Return the object around embeddings that need no network."""
    return BatchEmbeddings(DeterministicFakeEmbedding(size=3), **options)


LIMITS = ["max_batch_size", "max_tokens_per_request", "max_tokens_per_input", "max_workers"]
AMOUNTS = ["requests_per_minute", "tokens_per_minute", "timeout", "deadline"]


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "must be at least 1, not 0"),
        (-3, "must be at least 1, not -3"),
        (2.0, "must be a whole number, not float"),
        ("5", "must be a whole number, not str"),
        (True, "must be a whole number, not bool"),
    ],
)
def test_a_limit_that_cannot_work_is_an_error(name: str, value: object, message: str) -> None:
    """A limit that is no whole number of at least 1 is an error that names the option."""
    with pytest.raises(OptionError) as caught:
        make(**{name: value})
    assert str(caught.value) == f"{name} {message}"


@pytest.mark.parametrize("name", AMOUNTS)
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "must be more than 0, not 0; leave it out for the default"),
        (-1.5, "must be more than 0, not -1.5; leave it out for the default"),
        (float("inf"), "must be a finite number above 0, not inf; leave it out for the default"),
        (float("nan"), "must be a finite number above 0, not nan; leave it out for the default"),
    ],
)
def test_an_amount_that_cannot_work_is_an_error(name: str, value: object, message: str) -> None:
    """A quota or time that is no finite number above 0 is an error that names the option."""
    with pytest.raises(OptionError) as caught:
        make(**{name: value})
    assert str(caught.value) == f"{name} {message}"


@pytest.mark.parametrize("value", ["60", True, timedelta(seconds=60)])
def test_an_amount_of_a_wrong_type_is_an_error_with_the_unit(value: object) -> None:
    """A quota or time of a wrong type is an error, which for a time says that it is in seconds."""
    for name in AMOUNTS:
        unit = "" if name.endswith("_per_minute") else " of seconds"
        with pytest.raises(OptionError) as caught:
            make(**{name: value})
        expected = f"{name} must be a number{unit}, not {type(value).__name__}"
        assert str(caught.value) == expected


@pytest.mark.parametrize("value", [-1, 1.5, "3", None, True])
def test_retries_that_cannot_work_are_an_error(value: object) -> None:
    """`max_retries` must be a whole number of at least 0."""
    with pytest.raises(
        OptionError, match="max_retries must be a whole number of at least 0"
    ) as caught:
        make(max_retries=value)
    assert str(caught.value).endswith(f", not {value!r}")


@pytest.mark.parametrize("value", ["cut", "Average", None, ["average"], True])
def test_a_wrong_way_with_long_inputs_is_an_error(value: object) -> None:
    """An unknown value of `long_inputs` is an error that lists the valid ones."""
    with pytest.raises(
        OptionError, match="long_inputs must be one of 'average', 'truncate', 'error', not "
    ) as caught:
        make(long_inputs=value)
    assert str(caught.value).endswith(repr(value))


@pytest.mark.parametrize("path", ["", "vectors\0.db"])
def test_a_path_that_names_no_file_is_an_error(path: str) -> None:
    """An empty path, or one with a zero byte, is refused when the object is made."""
    with pytest.raises(OptionError, match="journal must be the path of a file"):
        make(journal=path)


@pytest.mark.parametrize("value", [{}, "OpenAI", Limits])
def test_limits_that_are_no_limits_are_an_error(value: object) -> None:
    """A value of `limits` that is no `Limits` is an error that says what to pass."""
    with pytest.raises(OptionError, match=r"limits=Limits\(provider="):
        make(limits=value)


def test_a_journal_that_is_none_is_an_error() -> None:
    """A journal of a wrong type is an error that says what `journal` accepts."""
    with pytest.raises(BatchEmbeddingsError, match="journal= takes a path"):
        make(journal=5)


@pytest.mark.parametrize("address", ["redis://:secret@host:6379", "sqlite:///secret.db"])
def test_an_address_is_no_journal(address: str) -> None:
    """An address as a journal is an error that shows `RedisStore`, and quotes no password."""
    with pytest.raises(OptionError, match=r"not an address; .*RedisStore\(") as caught:
        make(journal=address)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", [None, "text-embedding-3-small"])
def test_what_is_wrapped_must_be_embeddings(value: object) -> None:
    """Wrapping a model's name instead of an object is an error that shows the right call."""
    with pytest.raises(OptionError, match=r"wraps an Embeddings object.*OpenAIEmbeddings\("):
        BatchEmbeddings(value)  # type: ignore[arg-type]


def test_a_class_is_not_what_is_wrapped() -> None:
    """Wrapping a class instead of an object is an error that says to instantiate it."""
    with pytest.raises(OptionError, match=r"make one, DeterministicFakeEmbedding\(\.\.\.\)"):
        BatchEmbeddings(DeterministicFakeEmbedding)  # type: ignore[arg-type]


def test_what_is_wrapped_already_is_not_wrapped_again() -> None:
    """Wrapping a `BatchEmbeddings` is an error that says what to wrap instead.

    The provider would not be recognised, and each text would be batched twice.
    """
    inner = make()
    with pytest.raises(OptionError, match=r"would batch twice; use .* wrap its \.embeddings"):
        BatchEmbeddings(inner)
    assert BatchEmbeddings(inner.embeddings).limits == inner.limits


def test_nor_by_a_subclass_with_a_constructor_of_its_own() -> None:
    """A subclass of `BatchEmbeddings` with its own constructor is not wrapped again either."""

    class Mine(BatchEmbeddings):
        """A user's own subclass."""

        def __init__(self, wrapped: Embeddings) -> None:
            super().__init__(wrapped)

    with pytest.raises(OptionError, match="would batch twice"):
        BatchEmbeddings(Mine(DeterministicFakeEmbedding(size=3)))
    with pytest.raises(OptionError, match="would batch twice"):
        Mine(make())


def test_a_models_name_is_a_string() -> None:
    """`model` must be a string, since it separates the vectors of models in a journal."""
    with pytest.raises(OptionError, match="model must be a name, not int"):
        make(model=3)


def test_a_models_name_is_not_empty() -> None:
    """An empty `model`, as from an unset variable, is an error, as it names no model."""
    with pytest.raises(OptionError, match="model must be a name, not an empty string"):
        make(model="")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("batch_size", "max_batch_size"),
        ("max_batchsize", "max_batch_size"),
        ("max_worker", "max_workers"),
        ("workers", "max_workers"),
        ("max_retry", "max_retries"),
        ("request_per_minute", "requests_per_minute"),
        ("show_progress_bar", "show_progress"),
        ("long_input", "long_inputs"),
        ("time_out", "timeout"),
        ("request_timeout", "timeout"),
        ("jornal", "journal"),
        ("max_texts_per_request", "max_batch_size"),
        ("retry", "max_retries"),
        ("sqlite", "journal"),
    ],
)
def test_a_misspelt_option_gets_a_suggestion(name: str, meant: str) -> None:
    """A misspelt option is never ignored: the error suggests the right name."""
    with pytest.raises(UnknownOptionError) as caught:
        make(**{name: 3})
    assert str(caught.value) == f"BatchEmbeddings has no option {name!r}; did you mean {meant!r}?"


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("dims", "OpenAIEmbeddings(dimensions=...)"),
        ("tokenizer", "set it on the wrapped object"),
        ("on_error", "PartialEmbeddingsError holds the vectors of all others"),
        ("backoff", "max_outage and deadline limit them"),
        ("tokens_per_second", "use tokens_per_minute, with 60 times the value"),
    ],
)
def test_an_option_that_lies_elsewhere_gets_its_place(name: str, place: str) -> None:
    """An option of another package that has no counterpart gets a hint where it is decided."""
    with pytest.raises(UnknownOptionError) as caught:
        make(**{name: 3})
    assert place in str(caught.value)


@pytest.mark.parametrize("name", ["region", "revision", "url"])
def test_a_short_word_is_no_misspelling(name: str) -> None:
    """A word that merely shares letters with an option gets the list, not a wrong suggestion."""
    with pytest.raises(UnknownOptionError, match="the options are"):
        make(**{name: 3})


def test_an_option_that_resembles_none_gets_the_list() -> None:
    """An option that resembles no other gets a list of all public options."""
    with pytest.raises(UnknownOptionError) as caught:
        make(zzz=3)
    _, _, listed = str(caught.value).partition("the options are ")
    assert {"max_batch_size", "journal", "show_progress"} < set(listed.split(", "))
    assert not {"self", "unknown", "_clock", "_draw"} & set(listed.split(", "))


def test_options_are_taken_by_name_only() -> None:
    """A second positional argument is refused, because its meaning could only be guessed."""
    with pytest.raises(TypeError, match="positional argument"):
        BatchEmbeddings(DeterministicFakeEmbedding(size=3), 2048)  # type: ignore[call-arg]


def test_a_batch_larger_than_openai_takes_is_an_error() -> None:
    """A batch size above OpenAI's limit is an error when the object is made.

    The provider would refuse every request.
    """
    with pytest.raises(
        OptionError, match="max_batch_size=5,000 is more than OpenAI accepts; use 2,0"
    ):
        BatchEmbeddings(OpenAIEmbeddings(size=3), max_batch_size=5000)


def test_wrong_options_can_be_caught_as_usual() -> None:
    """A wrong value can be caught as `ValueError`, and a wrong name as `TypeError`."""
    with pytest.raises(ValueError, match="max_workers"):
        make(max_workers=0)
    with pytest.raises(TypeError, match="max_worker"):
        make(max_worker=3)


def test_a_wrong_option_is_named_before_a_wrong_value() -> None:
    """A misspelt name is reported before a wrong value, as the value may belong to that name."""
    with pytest.raises(UnknownOptionError, match="max_worker"):
        make(max_worker=3, max_workers=0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict.fromkeys(LIMITS, 1),
        dict.fromkeys(AMOUNTS, 0.5),
        {"max_retries": 0, "long_inputs": "truncate", "show_progress": True},
        {"limits": Limits(provider="mine", max_batch_size=7), "model": "mine"},
    ],
)
def test_options_that_can_work_are_taken(options: dict[str, Any]) -> None:
    """The smallest sensible values of all options are accepted."""
    assert make(**options).embeddings == DeterministicFakeEmbedding(size=3)


def test_numpys_numbers_are_taken_as_plain_ones() -> None:
    """Numbers of NumPy are accepted wherever plain numbers are, and become plain ones."""
    embeddings = make(
        max_batch_size=np.int64(5),
        timeout=np.float32(2.5),
        max_retries=np.int32(3),
        requests_per_minute=np.int64(60),
        show_progress=np.bool_(False),
    )
    assert type(embeddings.max_batch_size) is type(embeddings.max_retries) is int
    assert (embeddings.timeout, embeddings.requests_per_minute) == (2.5, 60)
    count: Any = np.int64(10)
    assert embeddings.plan(count=count, tokens_each=np.float64(5)).texts == 10
    assert type(SharedQuota("redis://host", workers=count).workers) is int


def test_the_wrapped_object_cannot_be_exchanged() -> None:
    """Setting another wrapped object is an error, as its options are read only once."""
    with pytest.raises(FixedOptionError, match=r"make a new one: BatchEmbeddings\(other\)"):
        make().embeddings = DeterministicFakeEmbedding(size=4)  # type: ignore[assignment]
