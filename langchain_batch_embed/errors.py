"""Every exception that this package raises.

    BatchEmbeddingsError
     ├─ OptionError (ValueError)            an option has a value that cannot work
     │   ├─ UnknownOptionError (TypeError)  an option does not exist
     │   └─ FixedOptionError (AttributeError)  an option was set on a finished object
     ├─ InputError (ValueError)             a text can never be embedded; nothing was sent
     │   └─ InputTypeError (TypeError)      the input is not a list of strings
     ├─ ResponseError                       an answer is not sound (retried)
     ├─ DimensionsError                     vectors have other dimensions than requested or before
     ├─ ModelError                          vectors are of another model than those before
     ├─ SpaceError                          several deployments do not make the same vectors
     ├─ NotSentError                        the call ended before the text was sent
     ├─ DeadlineError (TimeoutError)        the call's deadline passed
     ├─ BudgetError                         max_dollars is used up
     ├─ JournalError                        the journal cannot be read or written
     ├─ JobError                            a job of the Batch API cannot go on
     │   └─ JobTimeoutError (TimeoutError)  it has not ended within the time of a wait
     ├─ IngestError                         an ingest stopped, or stored nothing
     ├─ NotKeptError                        a store has silently dropped a document
     └─ PartialEmbeddingsError              some texts have no vector; it holds the others

Where one cause ends a whole call, the `PartialEmbeddingsError` is also of the cause's class:
`except openai.AuthenticationError`, or `except TimeoutError`, catches it.

No exception holds document text or a key. Texts are named by their index.
"""

import contextlib
import pickle
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.report import IngestReport, Report

__all__ = [
    "BatchEmbeddingsError",
    "BudgetError",
    "DeadlineError",
    "DimensionsError",
    "Failure",
    "FixedOptionError",
    "IngestError",
    "InputError",
    "InputTypeError",
    "JobError",
    "JobTimeoutError",
    "JournalError",
    "ModelError",
    "NotKeptError",
    "NotSentError",
    "OptionError",
    "PartialEmbeddingsError",
    "ResponseError",
    "SpaceError",
    "UnknownOptionError",
]

_INDICES_SHOWN = 10
"""A message lists this many indices; all of them are in an attribute."""

_NAME_SHOWN = 100
"""A message quotes this many characters of a model's name; all of it is in an attribute."""


class BatchEmbeddingsError(Exception):
    """Base of every exception of this package."""


class OptionError(BatchEmbeddingsError, ValueError):
    """An option has a value that cannot work; raised when the object is made."""


class UnknownOptionError(OptionError, TypeError):
    """An option does not exist and is perhaps misspelt; raised when the object is made."""


class FixedOptionError(OptionError, AttributeError):
    """An option was set on a finished object, which reads its options once, when it is made."""


class InputError(BatchEmbeddingsError, ValueError):
    """Some texts can never be embedded; raised before anything is sent or paid.

    Attributes:
        indices: positions of these texts in the list that was given.
    """

    def __init__(self, message: str, *, indices: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.indices = tuple(indices)


class InputTypeError(InputError, TypeError):
    """The input is not a list of strings; raised before anything is sent or paid."""


class ResponseError(BatchEmbeddingsError):
    """A server's answer does not hold one sound vector a text.

    The answer is thrown away and its texts are sent again. After `max_retries` it is the cause of a
    failure.

    Attributes:
        body: the error object of an answer that was an error under status 200, else `None`.
        expected: how many vectors the request asked for, if another number came; else `None`.
        received: how many came in that case; 0 where the answer holds no list of vectors.
        is_final: whether all answers of the server are so, and none is asked for again.
    """

    def __init__(
        self,
        message: str,
        *,
        body: Mapping[str, object] | None = None,
        expected: int | None = None,
        received: int | None = None,
        is_final: bool = False,
    ) -> None:
        super().__init__(message)
        self.body = body
        self.expected = expected
        self.received = received
        self.is_final = is_final


class DimensionsError(BatchEmbeddingsError):
    """The server sends vectors with the wrong number of dimensions; no retry can help.

    Attributes:
        expected: the number that the request asks for, or that earlier vectors have.
        received: the number that the new vectors have.
        asked: whether the request asks for it, as `dimensions`. Otherwise earlier vectors of the
            same model have it: of this call, of an earlier call of this object, or of the journal.
    """

    def __init__(self, *, expected: int, received: int, asked: bool = True) -> None:
        super().__init__(
            f"dimensions={expected} was asked for, but the server sent vectors of {received}: it "
            "ignores the option; leave dimensions out, or use a model that supports it"
            if asked
            else f"vectors of {received} numbers came, but earlier ones of the same model have "
            f"{expected}, and a store cannot mix them: the model has changed, so embed everything "
            "again, and if there is a journal name another one"
        )
        self.expected = expected
        self.received = received
        self.asked = asked

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the arguments, from which the message is made again."""
        return partial(
            type(self), expected=self.expected, received=self.received, asked=self.asked
        ), ()


class ModelError(BatchEmbeddingsError):
    """The server answers with another model than before; no retry can help.

    Vectors of two models cannot be compared, even where they have the same dimensions.

    Attributes:
        expected: the model that earlier answers named.
        received: the model that the last answers named.
    """

    def __init__(self, *, expected: str, received: str) -> None:
        super().__init__(
            f"the answers now name the model {_shown(received)}, and earlier ones named "
            f"{_shown(expected)}; a store cannot mix their vectors. If the model has changed, "
            "embed everything again with the new one, and name another journal if there is one; "
            "if a gateway sends to several models, name one of them"
        )
        self.expected = expected
        self.received = received

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the arguments, from which the message is made again."""
        return partial(type(self), expected=self.expected, received=self.received), ()


class SpaceError(BatchEmbeddingsError):
    """Several deployments do not make the same vectors, so that they cannot be used as one.

    Attributes:
        one: the address of one of them, or that the journal has its vector.
        other: the address of another, whose vector of the same text is different.
        what: how they differ.
    """

    def __init__(self, one: str, other: str, *, what: str) -> None:
        super().__init__(
            f"for the same text {one} and {other} give {what}, and a store cannot mix them; list "
            "deployments of one model only, with the same dimensions and settings, and if they are "
            "right but the journal's vectors are older, name another journal"
            if one == "the journal"
            else f"for the same text {one} and {other} give {what}, and a store cannot mix them; "
            "list deployments of one model only, with the same dimensions and settings"
        )
        self.one = one
        self.other = other
        self.what = what

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the arguments, from which the message is made again."""
        return partial(type(self), self.one, self.other, what=self.what), ()


class DeadlineError(BatchEmbeddingsError, TimeoutError):
    """The time allowed for the whole call is over; chained (`__cause__`) from the last error.

    Attributes:
        deadline: the time that was allowed, in seconds.
    """

    def __init__(self, deadline: float, cause: BaseException | None = None) -> None:
        super().__init__(
            f"the deadline of {deadline:g} s passed before the text was embedded; call again "
            "to go on from here, or allow more time with deadline="
        )
        self.deadline = deadline
        self.__cause__ = cause

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the argument, from which the message is made again, without the cause."""
        return type(self), (self.deadline,)


class BudgetError(BatchEmbeddingsError):
    """The dollars allowed for the whole call are used up.

    Attributes:
        max_dollars: what was allowed.
    """

    def __init__(self, max_dollars: float) -> None:
        super().__init__(
            f"the text was not sent: with it the call would cost more than "
            f"max_dollars={max_dollars:g}; call again to go on from here, or allow more"
        )
        self.max_dollars = max_dollars

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the argument, from which the message is made again."""
        return type(self), (self.max_dollars,)


class NotSentError(BatchEmbeddingsError):
    """The call ended before the text was sent; chained (`__cause__`) from what ended it."""

    def __init__(self, cause: BaseException | None = None) -> None:
        name = "an error" if cause is None else type(cause).__name__
        super().__init__(
            f"the text was not sent, because {name} ended the call; fix that and call again"
        )
        self.__cause__ = cause

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle without the cause, which may be unable to."""
        return type(self), ()


class JournalError(BatchEmbeddingsError):
    """The journal cannot be read or written; its contents are unchanged.

    Attributes:
        path: the journal's file, or `None` where it is not a file.
    """

    def __init__(self, message: str, *, path: str | None = None) -> None:
        super().__init__(message)
        self.path = path


class JobError(BatchEmbeddingsError):
    """A job of the Batch API cannot go on; what it has brought is in the journal.

    Attributes:
        job: the job's id.
    """

    def __init__(self, message: str, *, job: str) -> None:
        super().__init__(message)
        self.job = job

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the arguments."""
        return partial(type(self), str(self), job=self.job), ()


class JobTimeoutError(JobError, TimeoutError):
    """A job has not ended within the time of a `wait`; it goes on at the server."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One text that has no vector.

    Attributes:
        index: its position in the list that was given.
        error: why; the provider's own exception where there is one.
    """

    index: int
    error: BaseException


class PartialEmbeddingsError(BatchEmbeddingsError):
    """Some texts could not be embedded; the error holds all vectors that were finished.

    It is chained (`__cause__`) from the exception that explains the others. Where that one ends the
    whole call, it is of that one's class too, and has its attributes, such as `status_code`.

    Attributes:
        embeddings: one entry a text, in order: its vector, or `None` where it failed. A
            vector is a list of floats, or float32 of shape (d,) from `embed_numpy`.
        failures: one `Failure` for each `None`, in order of index.
        report: what the call did and cost, as `last_report`.
        why: what went wrong, where, and what to do; empty where that is not known.
    """

    def __init__(
        self,
        embeddings: Sequence[list[float] | NDArray[np.float32] | None],
        failures: Sequence[Failure],
        report: Report,
        why: str = "",
    ) -> None:
        self.embeddings = list(embeddings)
        self.failures = tuple(failures)
        self.report = report
        self.why = why
        # Not `super()`: beside this class there may be an SDK's, which takes other arguments.
        Exception.__init__(self, self._message())

    @classmethod
    def because_of(
        cls,
        cause: BaseException | None,
        embeddings: Sequence[list[float] | NDArray[np.float32] | None],
        failures: Sequence[Failure],
        report: Report,
        why: str = "",
    ) -> "PartialEmbeddingsError":
        """Return the error of a call that one cause has ended, or none (`None`)."""
        return _because_of(cls, cause, (embeddings, failures, report, why))

    def __str__(self) -> str:
        """Return the message, whatever else the error is."""
        return self._message()

    def _message(self) -> str:
        kinds = ", ".join(sorted({type(failure.error).__name__ for failure in self.failures}))
        if len(self.failures) == len(self.embeddings):
            which = (
                "the text could not be embedded"
                if len(self.failures) == 1
                else f"none of {len(self.embeddings):,} texts could be embedded"
            )
            if self.why:
                return f"{which}: {self.why}"
            return (
                f"{which} ({kinds}); fix the cause, which .failures and the error above name, and "
                "call again"
            )
        if self.why:
            kinds = f"{kinds}; first {self.why}" if "," in kinds else self.why
        return (
            f"{len(self.failures):,} of {len(self.embeddings):,} texts could not be embedded "
            f"({kinds}; indices {name_indices([f.index for f in self.failures])}). "
            "The other vectors are in .embeddings and are kept: calling again with the same "
            "object or journal pays only for the failed ones. .failures gives each one's cause"
        )

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the parts, so that worker processes can hand the error back.

        The SDK's class may be unable to, so what is read back is of this class alone.
        """
        failures = [
            Failure(index=failure.index, error=_picklable(failure.error))
            for failure in self.failures
        ]
        return PartialEmbeddingsError, (self.embeddings, failures, self.report, self.why)


_Error = TypeVar("_Error", bound=BatchEmbeddingsError)


def _because_of(
    ours: type[_Error], cause: BaseException | None, arguments: tuple[Any, ...]
) -> _Error:
    """Return an error of ours that is caught as its cause's class too, where there is one."""
    if isinstance(cause, Exception) and not isinstance(cause, ours):
        # Whatever a foreign class does when it is derived from: then it is not.
        with contextlib.suppress(Exception):
            error = _both(ours, type(cause))(*arguments)
            for name, value in vars(cause).items():
                if name not in vars(error):
                    vars(error)[name] = value
            return error
    return ours(*arguments)


def _both(ours: type[_Error], theirs: type[Exception]) -> type[_Error]:
    """Return a class that is caught as one of ours and as another one."""
    if issubclass(theirs, StopIteration | StopAsyncIteration):
        raise TypeError(f"{theirs.__name__} would end a loop of somebody's")
    # As the first class, ours decides how it is made, printed and pickled. `new_class` finds the
    # metaclass that both have in common.
    return types.new_class(
        ours.__name__,
        (ours, theirs),
        exec_body=lambda names: names.update(__module__=__name__),
    )


class IngestError(BatchEmbeddingsError):
    """An `ingest` stopped, or stored nothing; chained from the cause, and of its class too.

    Attributes:
        report: what was stored before, what failed, and of which documents it is not known.
        why: why nothing more is written.
        said: what went wrong, where, and what to do; empty where that is not known.
    """

    def __init__(
        self, report: IngestReport, why: str = "several in a row failed", said: str = ""
    ) -> None:
        self.report = report
        self.why = why
        self.said = said
        # Not `super()`: beside this class there may be an SDK's, which takes other arguments.
        Exception.__init__(self, self._message())

    @classmethod
    def because_of(
        cls, cause: BaseException | None, report: IngestReport, why: str, said: str = ""
    ) -> "IngestError":
        """Return the error of an ingest that one cause has ended."""
        return _because_of(cls, cause, (report, why, said))

    def __str__(self) -> str:
        """Return the message, whatever else the error is."""
        return self._message()

    def _message(self) -> str:
        report = self.report
        kinds = ", ".join(sorted({type(failure.error).__name__ for failure in report.failures}))
        cause = self.said or kinds
        if report.tried == 1:
            which = f"the first document is {'' if report.stored else 'not '}stored"
        else:
            stored = f"{report.stored:,} are" if report.stored else "none is"
            which = f"of the first {report.tried:,} documents {stored} stored"
        named = ["failures"] * bool(report.failures)
        look = ""
        if report.unknown and report.keeps_ids:
            named.append("unknown")
        elif report.unknown:
            look = (
                f"look in the store for {len(report.unknown):,} documents that may be there "
                f"(numbers {name_indices(report.unknown)}), "
            )
        left = [f"those in .report.{' and .report.'.join(named)}"] if named else []
        if report.tried < report.documents or not left:
            left.append(f"all from number {report.tried:,} on")
        return (
            f"{which}: {self.why}{f' ({cause})' if cause else ''}; {look}fix the cause, then "
            f"ingest {', and '.join(left)}"
        )

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the arguments, from which the message is made again; see `_picklable`."""
        failures = (
            replace(failure, error=_picklable(failure.error)) for failure in self.report.failures
        )
        report = replace(self.report, failures=tuple(failures))
        return IngestError, (report, self.why, self.said)


class NotKeptError(BatchEmbeddingsError):
    """The store took a call without an error, but returned no id for this document."""

    def __init__(self) -> None:
        super().__init__(
            "the store returned no id for this document, so it is not there: look into its log"
        )

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle without arguments."""
        return type(self), ()


def _picklable(error: BaseException) -> BaseException:
    """Return an error, or a stand-in of its name where it cannot be pickled and read again.

    Exceptions of SDKs often cannot, and then the vectors would be lost with them.
    """
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  # what was dumped just now
    except Exception:  # noqa: BLE001  # whatever their constructors raise
        status = getattr(error, "status_code", None)
        return BatchEmbeddingsError(
            type(error).__name__ if status is None else f"{type(error).__name__} (status {status})"
        )
    return error


def _shown(model: str) -> str:
    """Quote a model name that a server sent, shortened if it is too long for a name."""
    return repr(model if len(model) <= _NAME_SHOWN else f"{model[:_NAME_SHOWN]}…")


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and its causes, each once, as a chain of causes may be circular."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def root_of(errors: Sequence[BaseException]) -> BaseException:
    """Return the error that explains the others: the first of a text that was really sent."""
    sent = next((error for error in errors if not isinstance(error, NotSentError)), None)
    return sent or errors[0].__cause__ or errors[0]


def name_indices(indices: Sequence[int]) -> str:
    """Write the first indices for a message, and how many more there are."""
    shown = ", ".join(map(str, indices[:_INDICES_SHOWN]))
    more = len(indices) - _INDICES_SHOWN
    return f"{shown} and {more:,} more" if more > 0 else shown
