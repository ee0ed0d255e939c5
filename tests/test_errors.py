"""Exceptions: their hierarchy, what their messages contain and leave out, and pickling."""

import copy
import importlib
import importlib.util
import pickle
import pkgutil
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import openai
import pytest

import langchain_batch_embed
from langchain_batch_embed import errors
from langchain_batch_embed.errors import (
    BatchEmbeddingsError,
    DeadlineError,
    DimensionsError,
    Failure,
    IngestError,
    InputError,
    InputTypeError,
    JournalError,
    ModelError,
    NotKeptError,
    OptionError,
    PartialEmbeddingsError,
    ResponseError,
    UnknownOptionError,
)
from langchain_batch_embed.report import IngestFailure, IngestReport, Report

ErrorT = TypeVar("ErrorT", bound=Exception)

REPORT = Report(
    texts=3,
    unique=3,
    from_journal=0,
    requests=2,
    retries=0,
    throttled=0,
    splits=0,
    hedged=0,
    hedged_tokens=0,
    tokens=9,
    dollars=None,
    seconds=1.0,
    failures=1,
)

INGEST_REPORT = IngestReport(
    documents=3, tried=2, stored=1, failures=(), ids=("a",), seconds=1.0, waited=0.5
)


def partial(error: BaseException) -> PartialEmbeddingsError:
    """Return the error of a call that lost the second of three texts."""
    vector = np.array([0.5, 0.25], dtype=np.float32)
    return PartialEmbeddingsError(
        [[0.5, 0.25], None, vector], [Failure(index=1, error=error)], REPORT
    )


def bad_request() -> openai.BadRequestError:
    """Return the error that the SDK raises for a text that is refused."""
    http: Any = importlib.import_module(
        openai.DefaultHttpxClient.__mro__[1].__module__.split(".")[0]
    )
    request = http.Request("POST", "http://127.0.0.1:9/v1/embeddings")
    response = http.Response(400, json={"error": {"message": "no"}}, request=request)
    return openai.BadRequestError("no", response=response, body={"message": "no"})


EXAMPLES: list[Any] = [
    OptionError("max_workers must be at least 1, not 0"),
    UnknownOptionError("no option"),
    InputError("2 texts are empty", indices=[1, 3]),
    InputTypeError("not a list", indices=[0]),
    ResponseError("not JSON", body={"error": "no"}),
    JournalError("cannot be read", path="vectors.db"),
    DimensionsError(expected=256, received=1536),
    DimensionsError(expected=256, received=1536, asked=False),
    IngestError(INGEST_REPORT, "the store refuses all"),
    NotKeptError(),
    DeadlineError(2.5),
    ResponseError("short", expected=3, received=1),
    ModelError(expected="a", received="b"),
]


class TestTree:
    """Catching an exception class catches the errors that belong to it."""

    @pytest.mark.parametrize(
        ("kind", "bases"),
        [
            (BatchEmbeddingsError, (Exception,)),
            (OptionError, (BatchEmbeddingsError, ValueError)),
            (UnknownOptionError, (OptionError, TypeError)),
            (InputError, (BatchEmbeddingsError, ValueError)),
            (InputTypeError, (InputError, TypeError)),
            (ResponseError, (BatchEmbeddingsError,)),
            (DimensionsError, (BatchEmbeddingsError,)),
            (ModelError, (BatchEmbeddingsError,)),
            (DeadlineError, (BatchEmbeddingsError, TimeoutError)),
            (JournalError, (BatchEmbeddingsError,)),
            (IngestError, (BatchEmbeddingsError,)),
            (PartialEmbeddingsError, (BatchEmbeddingsError,)),
        ],
    )
    def test_each_error_has_its_place(
        self, kind: type[Exception], bases: tuple[type[Exception], ...]
    ) -> None:
        """Each error has a base class of this package, and a built-in one if one fits."""
        assert kind.__bases__ == bases

    def test_the_docstring_draws_the_tree(self) -> None:
        """The module's docstring shows every exception with its second base, and no other."""
        drawn = re.findall(
            r"^ +[│├└─ ]*(\w+Error)(?: \((\w+)\))?", errors.__doc__ or "", re.MULTILINE
        )
        kinds = {
            kind
            for kind in vars(errors).values()
            if isinstance(kind, type) and issubclass(kind, BatchEmbeddingsError)
        }
        second = {kind.__name__: [base.__name__ for base in kind.__bases__[1:]] for kind in kinds}
        assert {name: [base] if base else [] for name, base in drawn} == second

    def test_every_error_can_be_imported_from_the_package(self) -> None:
        """Every exception can be imported from the package without a module's name."""
        for name in errors.__all__:
            assert getattr(langchain_batch_embed, name) is getattr(errors, name)
        assert set(errors.__all__) < set(langchain_batch_embed.__all__)


def modules() -> list[str]:
    """Return the names of all modules that can be imported without side effects."""
    found = pkgutil.walk_packages(langchain_batch_embed.__path__, "langchain_batch_embed.")
    return ["langchain_batch_embed", *(m.name for m in found if not m.name.endswith("__main__"))]


@pytest.mark.parametrize("name", modules())
def test_exported_names_are_sorted_and_exist(name: str) -> None:
    """`__all__` of a module lists existing names, each once, in order."""
    if name.startswith("langchain_batch_embed.ray"):
        pytest.importorskip("ray.data", reason="not installed: ray[data]")
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", [])
    capitals = [name for name in exported if name.isupper()]
    classes = [name for name in exported if not name.isupper() and name[0].isupper()]
    others = [name for name in exported if name not in {*capitals, *classes}]
    # ruff's order: constants, classes, the rest.
    assert exported == sorted(capitals) + sorted(classes) + sorted(others)
    assert [name for name in exported if not hasattr(module, name)] == []
    assert len(set(exported)) == len(exported)


def pickled(error: ErrorT) -> ErrorT:
    """Return the error as another process would receive it."""
    other: ErrorT = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes
    return other


class TestPickle:
    """Errors can be sent between processes, as worker processes need."""

    @pytest.mark.parametrize("again", [pickled, copy.deepcopy])
    @pytest.mark.parametrize("error", EXAMPLES)
    def test_an_error_survives(
        self, error: BatchEmbeddingsError, again: Callable[[Exception], Exception]
    ) -> None:
        """An error has the same type, message and attributes after pickling or copying."""
        other = again(error)
        assert type(other) is type(error)
        assert str(other) == str(error)
        assert vars(other) == vars(error)

    def test_partial_results_survive(self) -> None:
        """A pickled `PartialEmbeddingsError` keeps its vectors, failures, report and message."""
        error = partial(InputError("too long", indices=[0]))
        other = pickled(error)
        assert str(other) == str(error)
        assert other.embeddings[:2] == [[0.5, 0.25], None]
        array = other.embeddings[2]
        assert isinstance(array, np.ndarray)
        assert array.dtype == np.float32
        assert array.tolist() == [0.5, 0.25]
        [failure] = other.failures
        assert (failure.index, type(failure.error), str(failure.error)) == (
            1,
            InputError,
            "too long",
        )
        assert other.report == REPORT

    def test_partial_results_survive_with_the_providers_exception(self) -> None:
        """A `PartialEmbeddingsError` can be pickled with the SDK's own exception as the cause."""
        other = pickled(partial(bad_request()))
        assert other.embeddings[0] == [0.5, 0.25]
        assert other.failures[0].index == 1


class TestMessages:
    """What messages contain."""

    def test_an_ingest_that_tried_nothing_says_that_nothing_is_stored(self) -> None:
        """The message of an ingest that stopped before its first batch counts no documents."""
        nothing = replace(INGEST_REPORT, tried=0, stored=0, ids=())
        assert str(IngestError(nothing, "the store is away")).startswith(
            "no document is stored: the store is away; "
        )

    def test_partial_results_say_what_is_lost_and_how_to_go_on(self) -> None:
        """The message of a partial result counts the lost texts and says where the others are."""
        assert str(partial(ValueError("secret"))) == (
            "1 of 3 texts could not be embedded (ValueError; index 1). The other vectors are in "
            ".embeddings and are kept: calling again with the same object or journal pays only "
            "for the failed ones. .failures gives each one's cause"
        )

    def test_where_nothing_was_embedded_nothing_is_said_to_be_kept(self) -> None:
        """If no text was embedded, as with a wrong key, the message claims no kept vectors."""
        failures = [Failure(index=i, error=KeyError()) for i in range(2000)]
        assert str(PartialEmbeddingsError([None] * 2000, failures, REPORT)) == (
            "none of 2,000 texts could be embedded (KeyError); fix the cause, which .failures and "
            "the error above show, and call again"
        )

    def test_partial_results_hold_no_document_text(self) -> None:
        """The message and `repr` of an error quote no text and no key, even if its cause does."""
        error = partial(ValueError("secret sk-key"))
        assert "secret" not in f"{error} {error!r}"
        assert "sk-key" not in f"{error} {error!r}"

    def test_many_failures_make_a_short_message(self) -> None:
        """A message about many failures names ten indices and each kind of error once."""
        failures = [Failure(index=i, error=[ValueError, KeyError][i % 2]()) for i in range(12_345)]
        message = str(PartialEmbeddingsError([None] * 20_000, failures, REPORT))
        assert message.startswith("12,345 of 20,000 texts could not be embedded (KeyError, ValueE")
        assert "indices 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 12,335 more)" in message
        assert len(message) < 400

    def test_an_unwanted_width_is_named_with_the_way_out(self) -> None:
        """`DimensionsError` names both widths and a way out in its message and attributes."""
        error = DimensionsError(expected=256, received=1536)
        assert (error.expected, error.received) == (256, 1536)
        assert str(error) == (
            "dimensions=256 was requested, but the server ignored it and sent vectors with 1536 "
            "dimensions; leave dimensions out, or use a model that supports it"
        )

    def test_a_changed_model_is_named_with_the_way_out(self) -> None:
        """`ModelError` names both models whole in attributes, and shortened in its message."""
        error = ModelError(expected="a", received="b" * 1000)
        assert (error.expected, error.received) == ("a", "b" * 1000)
        assert str(error) == (
            f"the answers now name the model '{'b' * 100}…', and earlier ones named 'a'; a store "
            "cannot mix their vectors. If the model has changed, embed everything again with the "
            "new one, and use a new journal if there is one; if a gateway routes requests to "
            "several models, request one of them by name"
        )

    def test_a_passed_deadline_is_named_with_the_way_out(self) -> None:
        """`DeadlineError` names the allowed time in its message and in an attribute."""
        error = DeadlineError(2.5)
        assert error.deadline == 2.5
        assert str(error) == (
            "the deadline of 2.5 s passed before the text was embedded; call again to continue "
            "from here, or allow more time with deadline="
        )

    def test_a_failure_does_not_quote_its_error(self) -> None:
        """The repr of a failure names only the error's class, as an SDK's message may quote a text.

        That of an ingest's report, which lists its failures, quotes none either.
        """
        secret = ValueError("the text 'secret' is too long")
        failure = Failure(index=3, error=secret)
        assert repr(failure) == "Failure(index=3, error=ValueError)"
        lost = IngestFailure(index=3, id="a", stage="embedding", error=secret)
        assert repr(lost) == "IngestFailure(index=3, id='a', stage='embedding', error=ValueError)"
        report = replace(INGEST_REPORT, failures=(lost,))
        assert "ValueError" in repr(report)
        error = partial(secret)
        assert all("secret" not in f"{each!r} {each}" for each in (report, error, error.failures))

    def test_a_failure_cannot_be_changed(self) -> None:
        """A `Failure` cannot be changed."""
        with pytest.raises(AttributeError):
            Failure(index=1, error=ValueError()).index = 2  # type: ignore[misc]
