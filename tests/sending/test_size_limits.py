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

LARGE = Diagnosis(kind=Kind.TOO_LARGE, status=413, signature="413", measure="bytes")
REFUSED = Diagnosis(kind=Kind.REFUSED, status=400, signature="400")


def batch(count: int, *, begin: int = 0, tokens: int = 10) -> Batch:
    """Return a batch of this many texts."""
    work = make_work(count, begin=begin, tokens=tokens)
    return work.batch(work.rows)


class TestNamedLimits:
    """A refusal that names its limit is believed."""

    def test_a_limit_of_texts(self) -> None:
        """At most 16 texts: a hundred are cut into seven parts, and no batch holds more."""
        limits = SizeLimits()
        told = Diagnosis(kind=Kind.TOO_LARGE, signature="400", max_items=16)
        assert limits.refused(batch(100), told) == (7, False)
        assert limits.fits(batch(16))
        assert not limits.fits(batch(17))

    def test_one_refusal_does_not_teach_a_limit_of_texts_for_good(self) -> None:
        """Its words may be those of a text: larger batches are tried again until two name it."""
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
        """No such limit refuses a single text, so the words are its own."""
        limits = SizeLimits()
        told = Diagnosis(kind=Kind.TOO_LARGE, signature="400", max_items=1, measure="items")
        for _ in range(2):
            limits.refused(batch(20), told)
        limits.ended_at_one(batch(1), told)
        assert limits.fits(batch(1000))

    def test_a_share_of_the_tokens(self) -> None:
        """Half of them would have been let through, so a little less is sent."""
        limits = SizeLimits()
        told = Diagnosis(kind=Kind.TOO_LARGE, signature="400", share=0.5)
        assert limits.refused(batch(100), told) == (3, False)
        assert 400 <= limits.tokens <= 500

    def test_one_text_always_fits(self) -> None:
        """It cannot be cut, so the server has the last word."""
        limits = SizeLimits()
        limits.refused(batch(2), Diagnosis(kind=Kind.TOO_LARGE, signature="400", share=0.01))
        assert limits.fits(batch(1, tokens=10_000))

    def test_no_limit_is_below_one(self) -> None:
        """Or nothing could be sent."""
        limits = SizeLimits()
        told = Diagnosis(kind=Kind.TOO_LARGE, signature="400", max_items=0)
        limits.refused(batch(10), told)
        assert limits.items == 1


class TestTrials:
    """Of any other refusal only the parts tell what it was about."""

    def test_where_all_parts_get_through_it_was_the_size(self) -> None:
        """The largest part that did is the limit from then on."""
        limits, whole = SizeLimits(), batch(100)
        assert limits.refused(whole, LARGE) == (2, False)
        parts = [batch(50), batch(50, begin=50)]
        limits.inherit(whole, parts)
        for part in parts:
            limits.answered(part, 0.1, 60)
        assert limits.octets == parts[0].octets
        assert not limits.fits(batch(51))

    def test_where_it_ends_at_one_text_nothing_is_learnt(self) -> None:
        """It was that text."""
        limits, whole = SizeLimits(), batch(2)
        limits.refused(whole, REFUSED)
        good, bad = parts = [batch(1), batch(1, begin=1)]
        limits.inherit(whole, parts)
        limits.answered(good, 0.1, 60)
        limits.ended_at_one(bad, REFUSED)
        assert limits.fits(batch(1000))

    def test_others_refused_in_the_same_way_wait_for_what_is_found(self) -> None:
        """A hundred batches above a limit cost few refusals, and none is forgotten."""
        limits, first, second = SizeLimits(), batch(100), batch(100, begin=100)
        assert limits.refused(first, LARGE) == (2, False)
        limits.inherit(first, [part := batch(50), other := batch(50, begin=50)])
        assert limits.refused(second, LARGE) == (0, True)
        released = limits.answered(part, 0.1, 60) + limits.answered(other, 0.1, 60)
        assert released == [second]
        assert not limits.fits(second)

    @pytest.mark.parametrize(("bad", "most"), [([700], 24), ([3, 4, 5, 900], 90)])
    def test_a_bad_text_is_found_by_quarters(self, bad: list[int], most: int) -> None:
        """As many requests as by halves, and half as many rounds of them."""

        def error(request: Request) -> Exception | None:
            return refusal(400) if np.isin(bad, request.rows).any() else None

        sender = make_sender(max_workers=64)
        first = Rehearsal(sender, FakeServer(error=error, seconds=1.0))
        first.add(make_work(1024))
        first.run()  # that it is the texts, and not the size, is known from here on
        server = FakeServer(error=error, seconds=1.0)
        second = Rehearsal(sender, server)
        second.add(make_work(1024, max_items=1024))
        assert second.run() <= 1 + 5
        assert list(lost(second.outcomes)) == bad
        assert len(server.requests) <= 64 + most

    def test_a_refusal_of_what_got_through_before_is_about_a_text(self) -> None:
        """A batch no larger than an answered one is not refused for its size."""
        limits, refused = SizeLimits(), batch(10)
        limits.answered(batch(100), 0.1, 60)
        assert limits.refused(refused, REFUSED) == (PARTS, False)
        assert refused.trial is None

    @settings(deadline=None)
    @given(limit=st.integers(1, 300), count=st.integers(1, 1000))
    def test_an_unnamed_limit_of_texts_is_found(self, limit: int, count: int) -> None:
        """Whatever it is, all texts get through, with few refusals."""
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
        """The second call keeps a named limit, and tests one that was deduced now and then."""

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
        """The half of it needed no time, but only to be smaller."""
        limits = SizeLimits()
        limits.refused_for_quota(batch(1000, tokens=20))
        limits.answered(batch(500, tokens=20), 1.0, 100.0)
        assert limits.tokens == 10_000

    def test_what_gets_through_after_several_refusals_was_too_early(self) -> None:
        """So was the larger one: nothing is learnt."""
        limits = SizeLimits()
        limits.refused_for_quota(batch(1000, tokens=20))
        late = batch(500, tokens=20)
        late.refusals = TOO_EARLY
        limits.answered(late, 1.0, 100.0)
        assert limits.tokens == math.inf

    def test_the_first_small_one_teaches_nothing(self) -> None:
        """Any quota of tokens lets the longest text through at once."""
        limits = SizeLimits()
        small = batch(100, tokens=LEAST_QUOTA // 100)
        limits.refused_for_quota(small)
        assert limits.tokens == math.inf
        limits.refused_for_quota(small)
        assert limits.tokens < small.tokens


class TestInTime:
    """Batches are cut so that they are answered well within the time-out."""

    def test_before_the_first_answer_nothing_is_known(self) -> None:
        """So nothing is cut for it."""
        assert SizeLimits().in_time(60) == math.inf

    @pytest.mark.parametrize("timeout", [6.0, 60.0, 600.0])
    def test_a_slow_server_is_sent_what_it_answers_in_a_share_of_the_timeout(
        self, timeout: float
    ) -> None:
        """And in 10 s at most: a batch that takes longer makes the end of a call long."""
        limits, small = SizeLimits(), batch(10)
        limits.answered(small, 1.0, timeout)
        allowed = min(timeout * IN_TIME, LONGEST)
        assert limits.in_time(timeout) == pytest.approx(allowed * small.work)

    def test_a_batch_that_was_late_makes_the_next_ones_smaller(self) -> None:
        """Half of it, until larger ones are answered soon."""
        limits = SizeLimits()
        limits.timed_out(batch(100))
        assert limits.work == batch(50).work
        limits.answered(batch(50), 0.1, 60)
        assert limits.work == batch(100).work

    def test_it_never_falls_to_nothing(self) -> None:
        """One text can always be sent."""
        limits, one = SizeLimits(), batch(1)
        for _ in range(100):
            one.work //= 2
            limits.timed_out(one)
        assert limits.work >= 1
