"""How much one request may hold, learnt from what gets through."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_batch_embed.pacing.diagnosis import Diagnosis, Kind
from langchain_batch_embed.pacing.which_quota import LEAST_QUOTA
from langchain_batch_embed.sending.rehearsal import Request
from langchain_batch_embed.sending.size_limits import (
    IN_TIME,
    LONGEST,
    PARTS,
    RETEST,
    TOO_EARLY,
    SizeLimits,
)
from langchain_batch_embed.sending.work import Batch
from tests.sending.calls import FakeServer, Rehearsal, done, lost, make_sender, make_work, refusal
from tests.support import seeds

LARGE = Diagnosis(kind=Kind.TOO_LARGE, status=413, signature="413", measure="bytes")
REFUSED = Diagnosis(kind=Kind.REFUSED, status=400, signature="400")


def batch(count: int, *, begin: int = 0, tokens: int = 10) -> Batch:
    """Return a batch of this many texts."""
    work = make_work(count, begin=begin, tokens=tokens)
    return work.batch(work.rows)


class TestNamedLimits:
    """A refusal that names its limit is believed."""

    def test_a_limit_of_texts(self) -> None:
        """A refusal that names a limit of 16 texts cuts a batch of 100 into seven parts.

        From then on no batch holds more than 16 texts.
        """
        limits = SizeLimits()
        told = Diagnosis(kind=Kind.TOO_LARGE, signature="400", max_items=16)
        assert limits.refused(batch(100), told) == (7, False)
        assert limits.fits(batch(16))
        assert not limits.fits(batch(17))

    def test_one_refusal_does_not_teach_a_limit_of_texts_for_good(self) -> None:
        """A limit of texts is tested again after one refusal names it, and kept after two.

        The words of a single refusal may be quoted from a text.
        """
        told = Diagnosis(kind=Kind.TOO_LARGE, signature="400", max_items=1, measure="items")
        once, twice = SizeLimits(), SizeLimits()
        once.refused(batch(20), told)
        for _ in range(2):
            twice.refused(batch(20), told)
        for limits in (once, twice):
            for _ in range(RETEST):
                limits.answered(batch(1), 0.1, 60)
        assert (once.items, twice.items) == (2, 1)
        once.answered(batch(2), 0.1, 60)
        assert once.fits(batch(20))

    def test_a_limit_of_texts_is_taken_back_where_one_text_is_refused_for_it(self) -> None:
        """A limit of texts is dropped if a single text is refused for it.

        No such limit refuses a single text, so the words come from the text itself.
        """
        limits = SizeLimits()
        told = Diagnosis(kind=Kind.TOO_LARGE, signature="400", max_items=1, measure="items")
        for _ in range(2):
            limits.refused(batch(20), told)
        limits.ended_at_one(batch(1), told)
        assert limits.fits(batch(1000))

    def test_a_share_of_the_tokens(self) -> None:
        """If half of the tokens would have been let through, the limit is slightly below that."""
        limits = SizeLimits()
        told = Diagnosis(kind=Kind.TOO_LARGE, signature="400", share=0.5)
        assert limits.refused(batch(100), told) == (3, False)
        assert 400 <= limits.tokens <= 500

    def test_one_text_always_fits(self) -> None:
        """A single text always fits, because it cannot be cut and the server decides about it."""
        limits = SizeLimits()
        limits.refused(batch(2), Diagnosis(kind=Kind.TOO_LARGE, signature="400", share=0.01))
        assert limits.fits(batch(1, tokens=10_000))

    def test_no_limit_is_below_one(self) -> None:
        """A named limit of 0 texts counts as 1, or nothing could be sent."""
        limits = SizeLimits()
        told = Diagnosis(kind=Kind.TOO_LARGE, signature="400", max_items=0)
        limits.refused(batch(10), told)
        assert limits.items == 1


class TestTrials:
    """If a refusal names no limit, the fate of the parts shows what it was about."""

    def test_where_all_parts_get_through_it_was_the_size(self) -> None:
        """If all parts get through, the largest part sets the size limit."""
        limits, whole = SizeLimits(), batch(100)
        assert limits.refused(whole, LARGE) == (2, False)
        parts = [batch(50), batch(50, begin=50)]
        limits.inherit(whole, parts)
        for part in parts:
            limits.answered(part, 0.1, 60)
        assert limits.octets == parts[0].octets
        assert not limits.fits(batch(51))

    def test_where_it_ends_at_one_text_nothing_is_learnt(self) -> None:
        """If the search ends at one refused text, that text was the cause: no limit is learnt."""
        limits, whole = SizeLimits(), batch(2)
        limits.refused(whole, REFUSED)
        good, bad = parts = [batch(1), batch(1, begin=1)]
        limits.inherit(whole, parts)
        limits.answered(good, 0.1, 60)
        limits.ended_at_one(bad, REFUSED)
        assert limits.fits(batch(1000))

    def test_others_refused_in_the_same_way_wait_for_what_is_found(self) -> None:
        """Other batches refused in the same way wait until the search ends, and none is forgotten.

        A hundred batches above a limit therefore cost few refusals.
        """
        limits, first, second = SizeLimits(), batch(100), batch(100, begin=100)
        assert limits.refused(first, LARGE) == (2, False)
        limits.inherit(first, [part := batch(50), other := batch(50, begin=50)])
        assert limits.refused(second, LARGE) == (0, True)
        released = limits.answered(part, 0.1, 60) + limits.answered(other, 0.1, 60)
        assert released == [second]
        assert not limits.fits(second)

    @pytest.mark.parametrize(("bad", "most"), [([700], 24), ([3, 4, 5, 900], 90)])
    def test_a_bad_text_is_found_by_quarters(self, bad: list[int], most: int) -> None:
        """Bad texts are found by quarters, in half as many rounds as by halves.

        The number of requests is the same.
        """

        def error(request: Request) -> Exception | None:
            return refusal(400) if np.isin(bad, request.rows).any() else None

        sender = make_sender(max_workers=64)
        others = {5, 300, 600, 1000}
        first = Rehearsal(
            sender, FakeServer(error=lambda each: refusal(400) if others & {*each.rows} else None)
        )
        first.add(make_work(1024))
        first.run()  # from here on the sender knows that the texts are the cause, not the size
        server = FakeServer(error=error, seconds=1.0)
        second = Rehearsal(sender, server)
        second.add(make_work(1024, max_items=1024))
        assert second.run() <= 1 + 5
        assert list(lost(second.outcomes)) == bad
        assert len(server.requests) <= 64 + most

    def test_a_refusal_of_what_got_through_before_is_about_a_text(self) -> None:
        """A refusal of a batch no larger than an answered one is about a text, not the size."""
        limits, refused = SizeLimits(), batch(10)
        limits.answered(batch(100), 0.1, 60)
        assert limits.refused(refused, REFUSED) == (PARTS, False)
        assert refused.trial is None

    @settings(deadline=None)
    @given(limit=st.integers(1, 300), count=st.integers(1, 1000))
    def test_an_unnamed_limit_of_texts_is_found(self, limit: int, count: int) -> None:
        """Whatever an unnamed limit of texts is, all texts get through with few refusals."""
        server = FakeServer(
            error=lambda request: refusal(413) if len(request.rows) > limit else None
        )
        rehearsal = Rehearsal(make_sender(), server)
        rehearsal.add(make_work(count))
        rehearsal.run()
        assert done(rehearsal.outcomes) == list(range(count))
        assert len(server.requests) <= 8 * math.ceil(count / limit) + 40

    @pytest.mark.parametrize(
        ("status", "message", "refusals"),
        [
            (400, "batch size is invalid, it should not be larger than 40.", 0),
            (413, "Request Entity Too Large", 20),
        ],
    )
    def test_a_limit_is_learnt_for_all_calls(
        self, status: int, message: str, refusals: int
    ) -> None:
        """A later call keeps a named limit without a refusal, and tests a deduced one rarely."""

        def error(request: Request) -> Exception | None:
            return refusal(status, message) if len(request.rows) > 40 else None

        server = FakeServer(error=error)
        sender = make_sender()
        for _ in range(2):
            server.requests.clear()
            rehearsal = Rehearsal(sender, server)
            rehearsal.add(make_work(1000))
            rehearsal.run()
        assert sum(len(request.rows) > 40 for request in server.requests) <= refusals
        assert done(rehearsal.outcomes) == list(range(1000))


class TestRefusedForQuota:
    """A batch that is refused alone again and again may be above the whole quota."""

    def test_what_gets_through_at_once_is_the_limit(self) -> None:
        """If the half of a refused batch gets through at once, that half is the limit."""
        limits = SizeLimits()
        limits.refused_for_quota(batch(1000, tokens=20))
        limits.answered(batch(500, tokens=20), 1.0, 100.0)
        assert limits.tokens == 10_000

    def test_what_gets_through_after_several_refusals_was_too_early(self) -> None:
        """If the half gets through only after several refusals, no limit is learnt.

        The half came too early, and so may the whole batch have done.
        """
        limits = SizeLimits()
        limits.refused_for_quota(batch(1000, tokens=20))
        late = batch(500, tokens=20)
        late.refusals = TOO_EARLY
        limits.answered(late, 1.0, 100.0)
        assert limits.tokens == math.inf

    def test_a_large_one_does_not_lower_it_below_any_quota(self) -> None:
        """Where only six texts had passed, a refused batch of 1,000 does not make six the limit.

        Any token quota lets the longest text through at once.
        """
        limits = SizeLimits()
        limits.answered(batch(6, tokens=20), 1.0, 100.0)
        limits.refused_for_quota(batch(1000, tokens=20))
        assert limits.tokens == LEAST_QUOTA

    def test_the_first_small_one_teaches_nothing(self) -> None:
        """The first refusal of a small batch sets no limit; the second one does.

        Any token quota lets the longest text through at once.
        """
        limits = SizeLimits()
        small = batch(100, tokens=LEAST_QUOTA // 100)
        limits.refused_for_quota(small)
        assert limits.tokens == math.inf
        limits.refused_for_quota(small)
        assert limits.tokens < small.tokens


class TestAccounts:
    """A trial ends when its last part has an outcome, however often parts are cut again."""

    def test_a_limit_is_not_raised_to_a_size_that_was_refused(self) -> None:
        """If 6 of 12 texts passed, and then 7, the limit is 7; once 12 pass, it is far higher."""
        limits, whole = SizeLimits(), batch(12)
        limits.refused(whole, REFUSED)
        parts = [batch(6), batch(6)]
        limits.inherit(whole, parts)
        for part in parts:
            limits.answered(part, 0.1, 60)
        assert limits.items == 6
        limits.answered(batch(7), 0.1, 60)
        assert limits.items == 7
        limits.answered(batch(12), 0.1, 60)
        assert limits.items > 12

    @pytest.mark.parametrize("count", [4, 9, 40])
    @pytest.mark.parametrize("every", [1, 2, 5])
    @pytest.mark.parametrize("workers", [1, 3, 16])
    def test_a_call_ends_when_many_texts_fail(self, count: int, every: int, workers: int) -> None:
        """Texts that break connections are given up, and no batch waits for their parts forever."""
        bad = set(range(0, count, every))
        failing = FakeServer(
            error=lambda request: ConnectionResetError() if bad & {*request.rows.tolist()} else None
        )
        for seed in seeds(3):
            rehearsal = Rehearsal(
                make_sender(max_workers=workers, max_retries=8, seed=seed), failing
            )
            rehearsal.add(make_work(count, tokens=500))
            rehearsal.run()
            assert sorted(lost(rehearsal.outcomes)) == sorted(bad)


class TestInTime:
    """Batches are cut so that they are answered well within the time-out."""

    def test_before_the_first_answer_nothing_is_known(self) -> None:
        """Before the first answer no batch is cut to be in time."""
        assert SizeLimits().in_time(60) == math.inf

    @pytest.mark.parametrize("timeout", [6.0, 60.0, 600.0])
    def test_a_slow_server_is_sent_what_it_answers_in_a_share_of_the_timeout(
        self, timeout: float
    ) -> None:
        """At a slow server a batch may take `IN_TIME` of the time-out, at most `LONGEST` (10 s).

        A batch that takes longer makes the end of a call long.
        """
        limits, small = SizeLimits(), batch(10)
        limits.answered(small, 1.0, timeout)
        allowed = min(timeout * IN_TIME, LONGEST)
        assert limits.in_time(timeout) == pytest.approx(allowed * small.work)

    def test_a_batch_that_was_late_makes_the_next_ones_smaller(self) -> None:
        """After a late batch the next ones are half its size, and its size is tried again rarely.

        A fast answer to a smaller batch does not show that the late size would be answered.
        """
        limits = SizeLimits()
        limits.timed_out(batch(100))
        for _ in range(RETEST - 1):
            assert limits.work == batch(50).work
            limits.answered(batch(50), 0.1, 60)
        limits.answered(batch(50), 0.1, 60)
        assert limits.work == batch(100).work
        limits.timed_out(batch(100))
        for _ in range(RETEST * RETEST - 1):
            limits.answered(batch(50), 0.1, 60)
            assert limits.work == batch(50).work
        limits.answered(batch(50), 0.1, 60)
        assert limits.work == batch(100).work

    def test_a_far_server_does_not_keep_batches_small(self) -> None:
        """With a round trip longer than `IN_TIME` of the time-out, batches still grow again."""
        limits = SizeLimits()
        limits.timed_out(batch(2))
        limits.timed_out(batch(1))
        small = limits.work
        for tokens in (5, 100) * RETEST:
            limits.answered(batch(1, tokens=tokens), 2.0, 10)
        assert limits.work > small

    def test_it_never_falls_to_nothing(self) -> None:
        """However many batches are late, one text can always be sent."""
        limits, one = SizeLimits(), batch(1)
        for _ in range(100):
            one.work //= 2
            limits.timed_out(one)
        assert limits.work >= 1
