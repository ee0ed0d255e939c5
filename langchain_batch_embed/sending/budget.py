"""What a call may spend, or all runs of a prefetch together: pure arithmetic on tokens."""

from langchain_batch_embed.errors import BudgetError

__all__ = ["Budget"]


class Budget:
    """Tokens that may be paid for.

    A request is counted by its estimate, which is never below what is billed, until it has ended.

    Args:
        dollars: that may be spent.
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
        """Whether nothing is in flight, so that no answer can leave more than is left now."""
        return not self._in_flight

    def error(self) -> BudgetError:
        """Return what ends a call that can afford no more."""
        return BudgetError(self._dollars)

    def sent(self, tokens: int) -> None:
        """Note a request."""
        self._in_flight += tokens

    def ended(self, tokens: int) -> None:
        """Note that a request was answered, failed, or was never submitted."""
        self._in_flight -= tokens

    def billed(self, tokens: int) -> None:
        """Note what an answer has cost."""
        self._billed += tokens
