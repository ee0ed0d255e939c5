"""Every exception that this package raises.

    BatchEmbeddingsError
     ├─ OptionError (ValueError)            an option has a value that cannot work
     │   ├─ UnknownOptionError (TypeError)  an option does not exist
     │   └─ FixedOptionError (AttributeError)  an option was set on a finished object
     ├─ InputError (ValueError)             a text can never be embedded; nothing was sent
     │   └─ InputTypeError (TypeError)      the input is not a list of strings
     ├─ ResponseError                       an answer is malformed (retried)
     ├─ DimensionsError                     vectors have other dimensions than requested or before
     ├─ ModelError                          vectors come from another model than earlier ones
     ├─ SpaceError                          several deployments do not make the same vectors
     ├─ NotSentError                        the call ended before the text was sent
     ├─ DeadlineError (TimeoutError)        the call's deadline passed
     ├─ BudgetError                         the call would cost more than max_dollars
     ├─ JournalError                        the journal cannot be read or written
     ├─ JobError                            a job of the Batch API cannot continue
     │   └─ JobTimeoutError (TimeoutError)  a job did not end within the time-out of a wait
     ├─ IngestError                         an ingest stopped, or stored nothing
     ├─ NotKeptError                        a store silently dropped a document
     └─ PartialEmbeddingsError              some texts have no vector; it holds all other vectors

If a single cause ends a whole call, the `PartialEmbeddingsError` is also of the cause's class, so
`except openai.AuthenticationError` or `except TimeoutError` catches it.

The exceptions of this package contain no document text and no key. They name texts by their index.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.causes import because_of, picklable
from langchain_batch_embed.report import IngestReport, Report, name_indices

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

_NAME_SHOWN = 100
"""A message quotes at most this many characters of a model's name; an attribute has all of it."""


class BatchEmbeddingsError(Exception):
    """The base class of all exceptions of this package."""


class OptionError(BatchEmbeddingsError, ValueError):
    """An option or argument has a value that cannot work; options are checked at construction."""


class UnknownOptionError(OptionError, TypeError):
    """An option does not exist, and may be misspelt; raised when the object is made."""


class FixedOptionError(OptionError, AttributeError):
    """An option was set on an existing object, which reads its options only when it is made."""


class InputError(BatchEmbeddingsError, ValueError):
    """Some texts can never be embedded; raised before anything is sent or paid for.

    Attributes:
        indices: positions of these texts in the caller's list, from 0; empty if the list itself is
            the problem.
    """

    def __init__(self, message: str, *, indices: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.indices = tuple(indices)


class InputTypeError(InputError, TypeError):
    """The input is not a list of strings; raised before anything is sent or paid for."""


class ResponseError(BatchEmbeddingsError):
    """A server's answer does not contain exactly one valid vector for each text.

    The answer is discarded and its texts are sent again. If they still fail after `max_retries`,
    this error is the cause of their failure.

    Attributes:
        body: the JSON of an answer that reports an error under status 200; otherwise `None`.
        expected: how many vectors were requested, if a different number came; otherwise `None`.
        received: how many vectors came in that case, 0 if the answer has no list of vectors;
            otherwise `None`.
        is_final: whether every answer of this server would be wrong in the same way, so that
            nothing is sent again.
        is_page: whether the answer is not JSON, such as a web page; the address may be wrong.
    """

    def __init__(
        self,
        message: str,
        *,
        body: Mapping[str, object] | None = None,
        expected: int | None = None,
        received: int | None = None,
        is_final: bool = False,
        is_page: bool = False,
    ) -> None:
        super().__init__(message)
        self.body = body
        self.expected = expected
        self.received = received
        self.is_final = is_final
        self.is_page = is_page


class DimensionsError(BatchEmbeddingsError):
    """Vectors have the wrong number of dimensions, in several answers in a row.

    Attributes:
        expected: the number of dimensions that the request asked for, or that earlier vectors have.
        received: the number of dimensions of the new vectors.
        asked: whether `expected` is the `dimensions` of the request. Otherwise it is that of
            earlier vectors of the same model, from this call, an earlier call of this object, or
            the journal.
    """

    def __init__(self, *, expected: int, received: int, asked: bool = True) -> None:
        super().__init__(
            f"dimensions={expected} was requested, but the server ignored it and sent vectors "
            f"with {received} dimensions; leave dimensions out, or use a model that supports it"
            if asked
            else f"the server sent vectors with {received} dimensions, but earlier ones of the "
            f"same model have {expected}, and a store cannot mix them. The model has "
            "changed: embed everything again, and use a new journal if there is one"
        )
        self.expected = expected
        self.received = received
        self.asked = asked

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the arguments; unpickling makes the message from them again."""
        return partial(
            type(self), expected=self.expected, received=self.received, asked=self.asked
        ), ()


class ModelError(BatchEmbeddingsError):
    """The server's answers name another model than before, several in a row.

    The vectors of two models cannot be compared, even if they have the same dimensions.

    Attributes:
        expected: the model that earlier answers named.
        received: the model that the latest answers named.
    """

    def __init__(self, *, expected: str, received: str) -> None:
        super().__init__(
            f"the answers now name the model {_shown(received)}, and earlier ones named "
            f"{_shown(expected)}; a store cannot mix their vectors. If the model has changed, "
            "embed everything again with the new one, and use a new journal if there is one; if "
            "a gateway routes requests to several models, request one of them by name"
        )
        self.expected = expected
        self.received = received

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the arguments; unpickling makes the message from them again."""
        return partial(type(self), expected=self.expected, received=self.received), ()


class SpaceError(BatchEmbeddingsError):
    """Several deployments do not make the same vectors, so they cannot be used as one.

    Attributes:
        one: the address of a deployment, or `"the journal"` if the vector was kept there.
        other: the address of another deployment, whose vector of the same text is different.
        what: how the two differ: in dimensions, in direction or in the model's name.
    """

    def __init__(self, one: str, other: str, *, what: str) -> None:
        super().__init__(
            f"for the same text {one} and {other} give {what}, and a store cannot mix them; list "
            "deployments of one model only, with the same dimensions and settings, and if the "
            "deployments are right but the journal's vectors are older, use a new journal"
            if one == "the journal"
            else f"for the same text {one} and {other} give {what}, and a store cannot mix them; "
            "list deployments of one model only, with the same dimensions and settings"
        )
        self.one = one
        self.other = other
        self.what = what

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the arguments; unpickling makes the message from them again."""
        return partial(type(self), self.one, self.other, what=self.what), ()


class DeadlineError(BatchEmbeddingsError, TimeoutError):
    """The deadline of the whole call passed before the text was embedded.

    It is chained (`__cause__`) from the last error of the text, if there was one.

    Attributes:
        deadline: the time allowed for the call, in seconds.
    """

    def __init__(self, deadline: float, cause: BaseException | None = None) -> None:
        super().__init__(
            f"the deadline of {deadline:g} s passed before the text was embedded; call again to "
            "continue from here, or allow more time with deadline="
        )
        self.deadline = deadline
        self.__cause__ = cause

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the argument without the cause; unpickling makes the message again."""
        return type(self), (self.deadline,)


class BudgetError(BatchEmbeddingsError):
    """The text was not sent, because the whole call would have cost more than `max_dollars`.

    Attributes:
        max_dollars: the most that the call was allowed to cost, in dollars.
    """

    def __init__(self, max_dollars: float) -> None:
        super().__init__(
            "the text was not sent: with it the call would cost more than "
            f"max_dollars={max_dollars:g}; call again to continue from here, or raise max_dollars"
        )
        self.max_dollars = max_dollars

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the argument; unpickling makes the message from it again."""
        return type(self), (self.max_dollars,)


class NotSentError(BatchEmbeddingsError):
    """The call ended before the text was sent.

    It is chained (`__cause__`) from the error that ended the call.
    """

    def __init__(self, cause: BaseException | None = None) -> None:
        name = "an error" if cause is None else type(cause).__name__
        super().__init__(
            f"the text was not sent, because {name} ended the call; fix that and call again"
        )
        self.__cause__ = cause

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle without the cause, which may not be picklable."""
        return type(self), ()


class JournalError(BatchEmbeddingsError):
    """The journal cannot be read or written; its contents are unchanged.

    Attributes:
        path: the journal's file, or `None` if the journal is not a file.
    """

    def __init__(self, message: str, *, path: str | None = None) -> None:
        super().__init__(message)
        self.path = path


class JobError(BatchEmbeddingsError):
    """A job of the Batch API cannot continue; the vectors that it has made are in the journal.

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
    """A job did not end within the time-out of a `wait`; it continues at the server."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One text that has no vector.

    Attributes:
        index: the text's position in the caller's list, from 0.
        error: why it has no vector; the provider's own exception if there is one.
    """

    index: int
    error: BaseException

    def __repr__(self) -> str:
        """Return the position and the error's class; the error's message may quote the text."""
        return f"{type(self).__name__}(index={self.index}, error={type(self.error).__name__})"


class PartialEmbeddingsError(BatchEmbeddingsError):
    """Some texts could not be embedded; the error holds all vectors that were finished.

    It is chained (`__cause__`) from the exception that explains the failures. If that exception
    ended the whole call, this error is also of its class and has its attributes, such as
    `status_code`.

    Attributes:
        embeddings: one entry for each text, in order: the text's vector, or `None` if it failed. A
            vector is a list of d floats, or a float32 array of shape (d,) from `embed_numpy`.
        failures: one `Failure` for each `None`, in order of index.
        report: what the call did and cost, as in `last_report`.
        why: what went wrong, where, and what to do; empty if that is not known.
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
        # Not `super()`: the other base class may be an SDK's, which takes other arguments.
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
        """Return the error of a call; it is also of the class of `cause` if there is one."""
        return because_of(cls, cause, (embeddings, failures, report, why))

    def __str__(self) -> str:
        """Return the message, even if the class of the cause formats errors differently."""
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
                f"{which} ({kinds}); fix the cause, which .failures and the error above show, "
                "and call again"
            )
        if self.why:
            kinds = f"{kinds}; first {self.why}" if "," in kinds else self.why
        index = "index" if len(self.failures) == 1 else "indices"
        return (
            f"{len(self.failures):,} of {len(self.embeddings):,} texts could not be embedded "
            f"({kinds}; {index} {name_indices([f.index for f in self.failures])}). "
            "The other vectors are in .embeddings and are kept: calling again with the same "
            "object or journal pays only for the failed ones. .failures gives each one's cause"
        )

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the arguments, so that worker processes can pass the error to their parent.

        The class of the cause may not be picklable, so the unpickled error is of this class alone.
        """
        failures = [
            Failure(
                index=failure.index, error=picklable(failure.error, stand_in=BatchEmbeddingsError)
            )
            for failure in self.failures
        ]
        return PartialEmbeddingsError, (self.embeddings, failures, self.report, self.why)


class IngestError(BatchEmbeddingsError):
    """An `ingest` stopped, or stored nothing.

    It is chained (`__cause__`) from the exception that is the cause, and is also of that class.

    Attributes:
        report: which documents were stored, which failed, and for which that is not known.
        ended_by: what ended the ingest.
        why: what went wrong, where, and what to do; empty if that is not known.
    """

    def __init__(
        self,
        report: IngestReport,
        ended_by: str = "several documents in a row failed",
        why: str = "",
    ) -> None:
        self.report = report
        self.ended_by = ended_by
        self.why = why
        # Not `super()`: the other base class may be an SDK's, which takes other arguments.
        Exception.__init__(self, self._message())

    @classmethod
    def because_of(
        cls, cause: BaseException | None, report: IngestReport, ended_by: str, why: str = ""
    ) -> "IngestError":
        """Return the error of an ingest; it is also of the class of `cause` if there is one."""
        return because_of(cls, cause, (report, ended_by, why))

    def __str__(self) -> str:
        """Return the message, even if the class of the cause formats errors differently."""
        return self._message()

    def _message(self) -> str:
        report = self.report
        kinds = ", ".join(sorted({type(failure.error).__name__ for failure in report.failures}))
        cause = self.why or kinds
        if not report.tried:
            which = "no document is stored"
        elif report.tried == 1:
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
            f"{which}: {self.ended_by}{f' ({cause})' if cause else ''}; {look}fix the cause, then "
            f"ingest {', and '.join(left)}"
        )

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the arguments, with stand-ins for causes that cannot be pickled.

        See `picklable`. The unpickled error is of this class alone.
        """
        failures = (
            replace(failure, error=picklable(failure.error, stand_in=BatchEmbeddingsError))
            for failure in self.report.failures
        )
        report = replace(self.report, failures=tuple(failures))
        return IngestError, (report, self.ended_by, self.why)


class NotKeptError(BatchEmbeddingsError):
    """The store reported no error for a call, but returned no id for this document."""

    def __init__(self) -> None:
        super().__init__(
            "the store returned no id for this document, so the document is not stored; check "
            "the store's log"
        )

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle without arguments."""
        return type(self), ()


def _shown(model: str) -> str:
    """Return a model name from a server in quotes, shortened if it is too long."""
    return repr(model if len(model) <= _NAME_SHOWN else f"{model[:_NAME_SHOWN]}…")


def root_of(errors: Sequence[BaseException]) -> BaseException:
    """Return the error that explains the others: that of the first text that was really sent."""
    sent = next((error for error in errors if not isinstance(error, NotSentError)), None)
    return sent or errors[0].__cause__ or errors[0]
