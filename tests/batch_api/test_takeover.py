"""Which parts ordinary requests take over, when, and which lines remain."""

from typing import Any

import numpy as np
import openai
import pytest

from langchain_batch_embed.batch_api.records import JobRecord, Line
from langchain_batch_embed.batch_api.takeover import may_take_over, portion, sorted_out, take_over
from langchain_batch_embed.errors import BudgetError, NotSentError, ResponseError
from tests.batch_api.parts import INF, part_in


def job(**values: Any) -> JobRecord:
    """Return a job of 1,000 tokens with 1,000 s, of which ordinary requests need 100 s."""
    made = {"finish_by": 1000.0, "tokens": 1000, "seconds": 100.0, "created": 0.0, **values}
    return JobRecord(id="j", space=b"", model="m", **made)


class TestTakeOver:
    """`take_over` decides which parts are taken over or cancelled, and when."""

    # Of 1,000 s, 30 s are in reserve, 200 s are for a batch to end, and 150 s are for ordinary
    # requests.

    def test_without_a_moment_nothing_is_late(self) -> None:
        """Without `finish_by` nothing is ever late."""
        plan = take_over(job(finish_by=None), [part_in("running")], now=1e9)
        assert (plan.take, plan.cancel, plan.until) == ((), (), INF)

    def test_a_batch_is_cancelled_in_time(self) -> None:
        """A batch is cancelled early enough for it to end and for its rest to be sent."""
        running = [part_in("running")]
        early = take_over(job(), running, now=600)
        assert (early.cancel, early.take) == ((), ())
        assert early.until == pytest.approx(620)
        assert take_over(job(), running, now=621).cancel == ("p",)
        cancelling = [part_in("running", is_cancelling=True)]
        later = take_over(job(), cancelling, now=700)
        assert (later.cancel, later.take) == ((), ())
        assert later.until == pytest.approx(820)

    def test_at_the_last_moment_it_is_taken_all_the_same(self) -> None:
        """At the last moment a part is taken over, even if its batch has not ended."""
        cancelling = [part_in("running", is_cancelling=True)]
        assert take_over(job(), cancelling, now=821).take == ("p",)

    def test_what_has_no_batch_goes_first(self) -> None:
        """Parts without a batch are taken over first, starting with the last one."""
        parts = [
            part_in("running", id="a", tokens=400),
            part_in("ready", id="b", tokens=300),
            part_in("packed", id="c", tokens=300),
        ]
        plan = take_over(job(), parts, now=640)
        assert (plan.cancel, plan.take) == ((), ("c", "b"))

    def test_what_has_ended_is_not_taken(self) -> None:
        """A part whose batch has ended is not taken over, because its answers will be read."""
        assert take_over(job(), [part_in("ended")], now=999).take == ()

    def test_a_moment_that_has_passed(self) -> None:
        """After `finish_by` has passed, everything is taken over at once."""
        plan = take_over(job(), [part_in("running"), part_in("ready", id="q")], now=5000)
        assert plan.take == ("q", "p")

    @pytest.mark.parametrize(
        ("dollars", "allowed"), [(None, True), (0.0009, False), (0.0011, True)]
    )
    def test_it_costs_no_more_than_it_may(self, dollars: float | None, *, allowed: bool) -> None:
        """A takeover is permitted only if its cost, with what was paid, is within `max_dollars`."""
        record = job(price=1.0, max_dollars=dollars, half_tokens=100, full_tokens=50)
        assert may_take_over(record, [part_in("ready")]) == allowed


def line_of(*tokens: int) -> Line:
    """Return a line whose texts have these tokens."""
    count = len(tokens)
    return Line(
        id=f"line of {count}",
        keys=tuple(bytes([i]) * 20 for i in range(count)),
        places=np.arange(count, dtype=np.int32),
        tokens=np.array(tokens, dtype=np.int32),
    )


class TestPortion:
    """`portion` limits the lines that are sent between two polls of the batches."""

    def test_it_takes_20_seconds_at_most(self) -> None:
        """A portion takes at most 20 seconds, so batches that end are noticed soon."""
        lines = [line_of(100)] * 10
        assert portion(lines, 0.1) == 2
        assert portion(lines, 0.01) == 10

    def test_it_is_one_line_at_least(self) -> None:
        """A portion has at least one line, or nothing would ever be sent."""
        assert portion([line_of(100)] * 10, 1e9) == 1


class TestSortedOut:
    """`sorted_out` settles lines that were sent by ordinary requests."""

    def sort(self, *there: bool, **lost: BaseException) -> tuple[list[str], list[Line], list[Line]]:
        """Sort out a line of two texts and one of three, of which `lost` names `t0` to `t4`."""
        errors = {int(name[1:]): error for name, error in lost.items()}
        lines = [line_of(1, 2), line_of(3, 4, 5)]
        return sorted_out(lines, np.array(there), errors, name=lambda: "new")

    def test_a_line_with_all_its_vectors_is_done(self) -> None:
        """A line with all its vectors is done as a whole."""
        assert self.sort(*[True] * 5) == (["line of 2", "line of 3"], [], [])

    def test_a_refused_text_has_failed_and_the_others_are_done(self) -> None:
        """A refused text has failed and the others are done.

        The reason is the error's status and class, without the server's words.
        """
        done, settled, still_open = self.sort(
            True, True, True, False, True, t3=ValueError("my secret text")
        )
        assert done == ["line of 2"]
        assert [(p.state, p.tokens.tolist()) for p in settled] == [
            ("done", [3]),
            ("failed", [4]),
            ("done", [5]),
        ]
        assert "secret" not in str(settled[1].error)
        assert still_open == []

    @pytest.mark.parametrize(
        "error",
        [
            TimeoutError(),
            openai.APIConnectionError(request=None),  # type: ignore[arg-type]
            ResponseError("spoilt"),
            NotSentError(),
            BudgetError(1.0),
            None,
        ],
    )
    def test_what_may_yet_come_stays_open(self, error: Any) -> None:
        """Texts that may still get a vector stay open.

        Without an error, the journal could not be written.
        """
        lost = {} if error is None else {"t0": error}
        done, settled, still_open = self.sort(False, True, True, True, True, **lost)
        assert done == ["line of 3"]
        assert [piece.state for piece in settled] == ["done"]
        assert [(p.state, p.tokens.tolist()) for p in still_open] == [("open", [1])]
