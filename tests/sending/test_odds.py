"""How likely it is that a request failed by chance."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_batch_embed.sending.odds import ASSUMED, LEAST, NO_ANSWER, Odds, Place, evidence


def odds_after(events: str) -> Odds:
    """Return odds after requests that were answered (`.`), failed (`F`) or are in flight (` `)."""
    odds = Odds()
    for event in events:
        place = odds.sent()
        if event == "F":
            place.failed()
        elif event == ".":
            place.answered()
    return odds


def weight(odds: Odds, at: int, *, unknown: float = 0.0, is_error: bool = False) -> float:
    """Return the weight of the failure of request number `at`, counted from 1."""
    (found,) = evidence([Place(odds, at - 1)], unknown=unknown, is_error=is_error)
    return found


class TestEvidence:
    """A failure says more about the texts if fewer of the requests around it fail."""

    def test_among_answers_it_counts_in_full(self) -> None:
        """A failure among answers counts in full.

        A server that fails no other request fails one by chance once in 100 times.
        """
        odds = odds_after("." * 300 + "F" + "." * 8)
        assert weight(odds, 301) == pytest.approx(-math.log10(LEAST))

    def test_in_an_outage_it_says_nothing(self) -> None:
        """A failure in an outage, with no answers around it, counts only `NO_ANSWER`."""
        odds = odds_after("." * 50 + "F" * 20 + "." * 50)
        assert weight(odds, 60) == NO_ANSWER

    def test_the_first_failure_of_an_outage_says_little(self) -> None:
        """The first failure of an outage loses its weight once the failures after it are known."""
        odds = odds_after("." * 50 + "F")
        before = weight(odds, 51)
        for _ in range(8):
            odds.sent().failed()
        assert weight(odds, 51) < 0.1 < before

    @pytest.mark.parametrize("every", [2, 3, 10])
    def test_it_counts_for_as_much_as_chance_explains(self, every: int) -> None:
        """A failure counts for about the logarithm of the share that the server fails at random."""
        odds = odds_after("".join("F" if i % every == 0 else "." for i in range(400)))
        assert weight(odds, 211) == pytest.approx(math.log10(every), rel=0.2)

    def test_answers_to_what_was_sent_before_an_outage_are_none_in_it(self) -> None:
        """Answers to requests sent before an outage do not raise the weight of a failure within it.

        A server that refuses new requests still answers those in its line.
        """
        odds = odds_after("." * 50 + " " * 100 + "F" * 20)
        for place in range(50, 150):
            Place(odds, place).answered()
        assert weight(odds, 160) == NO_ANSWER

    def test_with_nobody_around_it_counts_for_what_the_caller_says(self) -> None:
        """A failure with no other request around it counts for `unknown`, as the caller says.

        Its own failure is no sign of the server's state.
        """
        odds = odds_after("F")
        assert weight(odds, 1, unknown=0.7) == 0.7

    def test_at_a_new_server_it_is_not_sure(self) -> None:
        """At a new server a failure counts less than in full.

        One answer does not show that the server fails only one request in 100.
        """
        assert weight(odds_after(".F."), 2) < -math.log10(1 / (ASSUMED + 3)) + 1e-9

    def test_a_failure_that_was_a_texts_own_is_none_of_the_servers(self) -> None:
        """A failure explained by its text no longer counts as a failure of the server.

        It is taken back when the text is given up.
        """
        odds = odds_after("." * 20 + "F" + "." * 4 + "F" + "." * 20)
        before = weight(odds, 26)
        Place(odds, 20).explained()
        assert weight(odds, 26) > before

    def test_errors_that_do_not_pass_are_no_chance(self) -> None:
        """Failures count over three times as much if no failed request recovers on a retry.

        Half of the requests fail, so without retries these failures could be chance.
        """
        odds = odds_after(".F" * 20)
        before = weight(odds, 20, is_error=True)
        for _ in range(20):
            odds.retried(recovered=False)
        assert weight(odds, 20, is_error=True) > 3 * before
        assert weight(odds, 20, is_error=False) == before

    def test_errors_that_pass_are_chance(self) -> None:
        """Failures still count as chance if half of them recover when they are retried.

        Half of all requests are answered as well.
        """
        odds = odds_after(".F" * 20)
        before = weight(odds, 20, is_error=True)
        for turn in range(40):
            odds.retried(recovered=turn % 2 == 0)
        assert weight(odds, 20, is_error=True) == pytest.approx(before, abs=0.05)

    @given(events=st.text(alphabet=".F", min_size=1, max_size=60), data=st.data())
    def test_it_is_never_negative_and_never_above_the_most(
        self, events: str, data: st.DataObject
    ) -> None:
        """The weight of a failure is always above 0 and at most `-log10(LEAST)`."""
        odds = odds_after(events)
        at = data.draw(st.integers(1, len(events)))
        assert 0 < weight(odds, at, unknown=NO_ANSWER) <= -math.log10(LEAST)
