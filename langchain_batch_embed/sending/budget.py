"""What a call may spend, or all runs of a prefetch together: pure arithmetic on tokens."""

from langchain_batch_embed.errors import BudgetError

__all__ = ["Budget"]


class Budget:
    """The tokens that a call may pay for.

    Until a request has ended it counts with its estimate, which is never below what is billed.

    Args:
        dollars: the most to spend.
        price: dollars for a million tokens.
    """

    def __init__(self, dollars: float, *, price: float) -> None:
        self._dollars = dollars
        self._tokens = 1_000_000 * dollars / price
        self._billed = 0
        self._in_flight = 0

    @property
    def left(self) -> float:
        """Tokens that may still be sent."""
        return self._tokens - self._billed - self._in_flight

    @property
    def is_settled(self) -> bool:
        """Whether nothing is in flight, so that no answer can free tokens any more."""
        return not self._in_flight

    def error(self) -> BudgetError:
        """Return the error of a call that can afford no more."""
        return BudgetError(self._dollars)

    def sent(self, tokens: int) -> None:
        """Record a request."""
        self._in_flight += tokens

    def ended(self, tokens: int) -> None:
        """Record that a request was answered, failed, or was never submitted."""
        self._in_flight -= tokens

    def billed(self, tokens: int) -> None:
        """Record the tokens billed for an answer."""
        self._billed += tokens
