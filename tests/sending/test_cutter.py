"""How the inputs of a call that were never sent are cut into batches."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from langchain_batch_embed.limits import FIRST_REQUESTS
from langchain_batch_embed.pacing.concurrency import FIRST_WORK
from langchain_batch_embed.sending.budget import Budget
from langchain_batch_embed.sending.cutter import MERGED, Cutter, parts_of, still_fits
from langchain_batch_embed.sending.line import Line
from langchain_batch_embed.sending.sender import Sender
from langchain_batch_embed.sending.work import Batch, Work
from tests.sending.calls import make_sender, make_work


class Cutting:
    """The line and the cutter of one call, for a server about which nothing else is known."""

    def __init__(self, work: Work, sender: Sender | None = None) -> None:
        self.at = (sender or make_sender()).deployments[0]
        self.work = work
        self.line = Line(work.rows, work.sizes)
        self.cutter = Cutter(self.line, work, [self.at])

    def next(self) -> Batch:
        """Return the next batch."""
        return self.cutter.next(self.at)

    def take(self) -> Batch:
        """Take the next batch."""
        batch = self.next()
        assert self.cutter.take(batch, self.at)
        return batch

    def take_all(self) -> list[Batch]:
        """Take all batches that are left."""
        batches = []
        while self.line.count:
            batches.append(self.take())
        return batches


class TestNext:
    """Batches are cut from the line when they are due to be sent."""

    @given(
        tokens=st.lists(st.integers(1, 2000), min_size=1, max_size=300),
        max_items=st.integers(1, 50),
        max_tokens=st.integers(2000, 20_000),
        max_workers=st.integers(1, 20),
        is_known=st.booleans(),
    )
    def test_every_batch_keeps_the_limits_and_every_row_is_in_one(
        self,
        tokens: list[int],
        max_items: int,
        max_tokens: int,
        max_workers: int,
        is_known: bool,
    ) -> None:
        """Every batch keeps the limits, and the batches together hold all rows in their order."""
        work = make_work(len(tokens), tokens=tokens, max_items=max_items, max_tokens=max_tokens)
        sender = make_sender(max_workers=max_workers, is_known=is_known)
        batches = Cutting(work, sender).take_all()
        assert [row for batch in batches for row in batch.rows.tolist()] == work.rows.tolist()
        for batch in batches:
            assert len(batch.rows) <= max_items
            assert batch.tokens <= max_tokens
            assert batch.tokens == sum(tokens[row] for row in batch.rows)

    def test_the_first_requests_to_an_unknown_server_are_small(self) -> None:
        """The first requests to an unknown server stay below `FIRST_WORK`.

        A small machine answers them soon and so shows how fast it is.
        """
        cutting = Cutting(make_work(1000, tokens=100), make_sender(is_known=False))
        first = [batch.work for batch in cutting.take_all()[:FIRST_REQUESTS]]
        assert max(first) <= FIRST_WORK

    def test_little_work_goes_to_an_unknown_server_in_one_request(self) -> None:
        """A call of 50 texts goes to an unknown server as one request.

        Cutting it would cost more than it reveals.
        """
        assert len(Cutting(make_work(50), make_sender(is_known=False)).take_all()) == 1

    def test_a_batch_that_is_due_is_not_cut_before(self) -> None:
        """A limit learnt while a batch is in flight applies to the texts not yet cut."""
        cutting = Cutting(make_work(10_000))
        cutting.take()
        cutting.at.limits.items = 10
        assert max(len(batch.rows) for batch in cutting.take_all()) == 10

    def test_what_is_learnt_before_it_is_taken_cuts_it_again(self) -> None:
        """A limit learnt between cutting a batch and taking it applies to that batch as well."""
        cutting = Cutting(make_work(10_000))
        assert len(cutting.next().rows) > 10
        cutting.at.limits.items = 10
        assert len(cutting.next().rows) == 10

    def test_asked_again_it_returns_the_same_batch(self) -> None:
        """Asking twice for the next batch returns the same batch and takes nothing off the line."""
        cutting = Cutting(make_work(100, max_items=10))
        assert cutting.next() is cutting.next()
        assert cutting.line.count == 100

    def test_a_batch_is_no_larger_than_the_whole_quota(self) -> None:
        """A batch is no larger than the whole quota, or the bucket would never let it through."""
        cutting = Cutting(make_work(1000, tokens=100), make_sender(tokens_per_minute=500))
        assert max(batch.charge for batch in cutting.take_all()) <= 500

    def test_a_batch_costs_no_more_than_is_left_of_the_budget(self) -> None:
        """A batch costs no more than the rest of the budget.

        This holds even if other calls have spent some of it since the batch was cut.
        """
        budget = Budget(1.0, price=1000.0)  # enough for 1,000 tokens
        cutting = Cutting(replace(make_work(200, tokens=10), budget=budget), make_sender())
        assert cutting.next().tokens > 100
        budget.sent(900)
        assert cutting.next().tokens == 100

    def test_a_saturated_server_is_sent_fewer_and_larger_requests(self) -> None:
        """A saturated server receives fewer and larger requests, of at most `MERGED` texts.

        The useful number of requests share the work, and no answer takes too much memory.
        """
        sender = make_sender(max_workers=128)
        many = Cutting(make_work(20_000, tokens=100), sender).take_all()
        concurrency = sender.deployments[0].pacer.concurrency
        concurrency.estimate, concurrency.is_saturated = 4.0, True
        few = Cutting(make_work(20_000, tokens=100), sender).take_all()
        assert len(few) <= len(many) / 4
        assert max(len(batch.rows) for batch in few) == MERGED


class TestTake:
    """`take` removes from the line only what `next` returned."""

    def test_a_batch_that_is_not_from_the_line_changes_nothing(self) -> None:
        """Taking a batch that was sent before, or a part of one, leaves the line unchanged."""
        cutting = Cutting(make_work(100, max_items=10))
        first = cutting.take()
        cutting.next()
        assert not cutting.cutter.take(first, cutting.at)
        assert cutting.line.count == 90

    def test_what_is_put_back_is_planned_again_with_the_rest(self) -> None:
        """Batches that are put back are cut again exactly as they were at first."""
        work = make_work(1000, tokens=100)
        cutting = Cutting(work)
        first = [batch.rows for batch in (cutting.take(), cutting.take())]
        cutting.cutter.put_back(first)
        batches = [batch.rows.tolist() for batch in cutting.take_all()]
        assert batches == [batch.rows.tolist() for batch in Cutting(work).take_all()]
        assert len(batches) >= 8

    def test_nothing_is_left_after_it_is_cleared(self) -> None:
        """`clear` empties the line and returns the rows that were never sent, for the report."""
        cutting = Cutting(make_work(100, max_items=10))
        cutting.take()
        assert cutting.cutter.clear().tolist() == list(range(10, 100))
        assert cutting.line.count == 0


class TestLearntSince:
    """A batch that was cut some time ago may exceed a limit learnt since."""

    def test_a_batch_above_a_limit_of_texts_is_cut_to_keep_it(self) -> None:
        """A batch of 100 texts is cut into four parts once the limit is 30 texts."""
        cutting = Cutting(make_work(100))
        batch = cutting.work.batch(cutting.work.rows)
        assert still_fits(batch, cutting.at)
        cutting.at.limits.items = 30
        assert not still_fits(batch, cutting.at)
        assert parts_of(batch, cutting.at) == 4

    def test_a_batch_above_the_whole_quota_is_cut_to_keep_it(self) -> None:
        """A batch above the whole quota is cut, because it would never be let through."""
        cutting = Cutting(make_work(100, tokens=10), make_sender(tokens_per_minute=250))
        batch = cutting.work.batch(cutting.work.rows)
        assert not still_fits(batch, cutting.at)
        assert parts_of(batch, cutting.at) == 4

    def test_one_text_is_not_cut(self) -> None:
        """A single text always fits, because it cannot be cut and the server decides about it."""
        cutting = Cutting(make_work(1, tokens=1000), make_sender(tokens_per_minute=250))
        assert still_fits(cutting.work.batch(cutting.work.rows), cutting.at)


def test_what_is_put_back_is_in_order_again() -> None:
    """Rows that come back in the order of their refusals are sent in the caller's order."""
    line = Line(np.arange(6), make_work(6).sizes)
    line.take(4)
    line.put_back([np.array([2, 3]), np.array([0, 1])])
    assert line.clear().tolist() == [0, 1, 2, 3, 4, 5]
