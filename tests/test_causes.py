"""How an exception is tied to its cause: the chain, a class that is of both, and pickling."""

import pytest

from langchain_batch_embed.causes import because_of, causes, picklable


class OurError(Exception):
    """An error of the caller's, made from a count."""

    def __init__(self, count: int) -> None:
        self.count = count
        Exception.__init__(self, f"{count} failed")


class ForeignError(Exception):
    """An error of another package, which is made from an answer and which pickle cannot restore."""

    def __init__(self, *, status_code: int) -> None:
        super().__init__("a text that nobody may quote")
        self.status_code = status_code


class TestChain:
    """`causes` yields an exception and what is behind it."""

    def test_each_cause_is_yielded_once(self) -> None:
        """A circular chain ends."""
        first, second = ValueError(), KeyError()
        first.__cause__, second.__cause__ = second, first
        assert list(causes(first)) == [first, second]

    def test_an_explicit_cause_goes_before_the_context(self) -> None:
        """Python's context is followed only where no cause is set."""
        first, second, third = ValueError(), KeyError(), OSError()
        first.__cause__, first.__context__ = second, OSError()
        second.__context__ = third
        assert list(causes(first)) == [first, second, third]


class TestClass:
    """`because_of` makes an error that two `except` clauses catch."""

    def test_it_is_of_both_classes_and_has_the_attributes_of_both(self) -> None:
        """The caller's class decides name, module and message; the cause adds its attributes."""
        error = because_of(OurError, ForeignError(status_code=401), (3,))
        assert isinstance(error, ForeignError)
        assert vars(error) == {"count": 3, "status_code": 401}
        assert str(error) == "3 failed"
        assert (type(error).__name__, type(error).__module__) == ("OurError", __name__)

    @pytest.mark.parametrize(
        "cause",
        [None, KeyboardInterrupt(), StopIteration(), ExceptionGroup("", [OSError()]), OurError(1)],
        ids=lambda cause: type(cause).__name__,
    )
    def test_it_is_of_the_callers_class_alone_otherwise(self, cause: BaseException | None) -> None:
        """Nothing is derived from what is no `Exception`, would end a loop or cannot be joined."""
        assert type(because_of(OurError, cause, (3,))) is OurError


class TestPickle:
    """`picklable` keeps what pickle can restore."""

    def test_an_error_that_can_be_restored_is_kept(self) -> None:
        """It is returned itself."""
        error = ValueError("no")
        assert picklable(error, stand_in=OSError) is error

    def test_another_error_is_named_by_a_stand_in(self) -> None:
        """The stand-in names the class and the status, and quotes no message."""
        other = picklable(ForeignError(status_code=400), stand_in=RuntimeError)
        assert repr(other) == "RuntimeError('ForeignError (status 400)')"
