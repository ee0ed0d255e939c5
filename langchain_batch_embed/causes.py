"""How an exception is tied to its cause: the chain, a class that is of both, and pickling."""

import contextlib
import pickle
import types
from collections.abc import Iterator
from typing import Any, TypeVar

__all__ = ["because_of", "causes", "picklable"]

_Error = TypeVar("_Error", bound=Exception)


LONGEST = 20
"""Most exceptions of a chain that are read. openai's has 4, from `APIConnectionError` down to the
socket's `OSError`. Retries that chain each failure to the one before make chains of hundreds."""


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and then its causes, at most `LONGEST`, even if the chain is circular."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen and len(seen) < LONGEST:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def because_of(
    ours: type[_Error], cause: BaseException | None, arguments: tuple[Any, ...]
) -> _Error:
    """Return an error of one of our classes that is also of its cause's class, if possible.

    Args:
        ours: the class of the error.
        cause: the exception whose attributes the error gets as well; `None` if there is none.
        arguments: what `ours` is made from.
    """
    if isinstance(cause, Exception) and not isinstance(cause, ours):
        # Deriving from a foreign class can raise anything; then return an error of ours alone.
        with contextlib.suppress(Exception):
            error = _both(ours, type(cause))(*arguments)
            for name, value in vars(cause).items():
                if name not in vars(error):
                    vars(error)[name] = value
            return error
    return ours(*arguments)


def _both(ours: type[_Error], theirs: type[Exception]) -> type[_Error]:
    """Return a class that derives from one of our exceptions and from another exception.

    Raises:
        TypeError: the other exception would end the caller's loop, or the two cannot be combined.
    """
    if issubclass(theirs, StopIteration | StopAsyncIteration):
        raise TypeError(f"{theirs.__name__} would end the caller's loop")
    # Our class comes first, so it decides how the error is made, printed and pickled. `new_class`
    # finds a metaclass that suits both.
    return types.new_class(
        ours.__name__,
        (ours, theirs),
        exec_body=lambda names: names.update(__module__=ours.__module__),
    )


def picklable(error: BaseException, *, stand_in: type[Exception]) -> BaseException:
    """Return the error, or a `stand_in` with its class's name if pickle cannot restore the error.

    The exceptions of SDKs often cannot be pickled, and the vectors would be lost with them.
    """
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  # dumped on this line
    except Exception:  # noqa: BLE001  # constructors of exceptions raise anything
        status = getattr(error, "status_code", None)
        return stand_in(
            type(error).__name__ if status is None else f"{type(error).__name__} (status {status})"
        )
    return error
