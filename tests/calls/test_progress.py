"""What a terminal and the log show of a call, in simulated time."""

import logging
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest

from langchain_batch_embed import BatchEmbeddings
from langchain_batch_embed.calls import progress as progress_module
from langchain_batch_embed.calls.estimate import AccountQuota, QuotaServer
from langchain_batch_embed.calls.plan import TIERS
from langchain_batch_embed.calls.progress import Progress, View
from langchain_batch_embed.calls.time_left import Pace, TimeLeft
from langchain_batch_embed.report import Tally
from langchain_batch_embed.sending.rehearsal import Reply, Request
from langchain_batch_embed.sending.work import Work
from tests.sending.calls import FakeServer, make_sender, make_work, refusal
from tests.simulated.grid import Cell
from tests.simulated.refusals import StatusError
from tests.simulated.screens import Terminal, watch
from tests.simulated.server import SimulatedServer
from tests.support import wait_until

PACKAGE = "langchain_batch_embed"
TEXTS = 19_207


def corpus(count: int = TEXTS) -> Work:
    """Return texts as long as the sections of the demo, 125 tokens in the middle."""
    tokens = np.random.default_rng(1).lognormal(4.7, 0.6, count).astype(np.int64) + 1
    return make_work(count, tokens=tokens.tolist(), max_tokens=300_000)


class Throttling:
    """A server that answers 429 with a Retry-After for 45 seconds.

    Args:
        quota: of the account behind it.
        at: when it begins, in seconds.
    """

    def __init__(self, quota: AccountQuota, at: float) -> None:
        self._server = QuotaServer(quota, 0)
        self._at = at

    def receive(self, request: Request) -> Reply:
        """Answer a request, or refuse it."""
        left = self._at + 45 - request.sent
        if 0 < left <= 45:
            error = refusal(429, "slow down", headers={"retry-after": f"{left:.1f}"})
            return Reply(after=0.1, error=error)
        return self._server.receive(request)


class TestTierOne:
    """A million tokens a minute: the first of them at once, the rest as they flow."""

    def test_the_time_left_is_right_from_the_fifth_second_on(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Within a fifth, and within a second at the end."""
        screens = watch(monkeypatch, corpus(), QuotaServer(TIERS[1], 0))
        assert 85 < screens.end < 95
        assert {s: e for s, e in screens.errors().items() if s < screens.end - 5 and e > 0.2} == {}

    def test_the_screen_shows_all_that_a_user_asks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Texts, times, tokens, dollars and the quota at 1, 10 and 60 s."""
        screens = watch(monkeypatch, corpus(), QuotaServer(TIERS[1], 0))
        for second, elapsed in ((1, "0:01"), (10, "0:10"), (60, "1:00")):
            line = screens.lines[second]
            assert re.search(rf"\d% *\|.*\| \d+/{TEXTS} texts \[{elapsed}<\d+:\d\d\] ", line), line
            assert re.search(r"\] \S+ tokens, \$0\.0\d+, quota 3,000 requests and 1\.0M t", line)

    @pytest.mark.parametrize("tier", [2, 3])
    def test_other_tiers_are_right_too(self, monkeypatch: pytest.MonkeyPatch, tier: int) -> None:
        """Whatever the numbers are: what the answers tell counts."""
        quota = TIERS[tier]
        screens = watch(monkeypatch, corpus(40_000), QuotaServer(quota, 0))
        assert {s: e for s, e in screens.errors().items() if s < screens.end - 5 and e > 0.2} == {}

    def test_requests_are_counted_where_they_are_scarce(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Three requests a minute: what is planned counts, not the small ones of the start."""
        quota = AccountQuota(requests_per_minute=3, tokens_per_minute=150_000)
        screens = watch(monkeypatch, corpus(), QuotaServer(quota, 0))
        assert screens.end > 600
        assert {s: e for s, e in screens.errors().items() if s < screens.end - 60 and e > 0.2} == {}


class TestLearntFromRefusals:
    """A server without headers, where nobody tells what the quota is."""

    @pytest.mark.parametrize(
        ("cell", "count", "share"),
        [
            (Cell(tokens_per_minute=1_000_000, says="used"), TEXTS, 0.9),
            (Cell(tokens_per_minute=5_000_000, says="zero", limiter_seconds=10.0), 60_000, 0.75),
        ],
        ids=["text", "nothing"],
    )
    def test_the_time_left_is_right_as_far_as_it_can_be_known(
        self, monkeypatch: pytest.MonkeyPatch, cell: Cell, count: int, share: float
    ) -> None:
        """By a refusal's text, or by what got through, as the rate of the moment is but tried."""
        shares = []
        for seed in range(8):
            screens = watch(monkeypatch, corpus(count), SimulatedServer(cell, seed))
            errors = [e for s, e in screens.errors().items() if s < screens.end - 5]
            assert len(errors) > 60
            shares.append(sum(e <= 0.2 for e in errors) / len(errors))
        assert fmean(shares) >= share

    def test_a_rate_that_is_tried_out_is_corrected_by_what_came(self) -> None:
        """The more, the longer that has been; a rate that a server tells counts as it is."""
        learnt = replace(make_sender().status(0.0, left=0), quota_seconds=100.0, is_held_back=True)
        told = replace(learnt, tokens_per_minute=1e6)
        for status, expected in ((learnt, [100.0, 150.0, 150.0]), (told, [100.0] * 3)):
            left = TimeLeft()
            # Half of what the rate of the moment says gets through: 5 a second of 1,000.
            found = [left.seconds(*each, status) for each in ((0, 2000), (100, 1500), (200, 1000))]
            assert found == pytest.approx(expected, abs=0.1)


class TestThrottle:
    """45 seconds of 429."""

    @pytest.mark.parametrize("at", [0.5, 10.0])
    def test_the_bar_counts_down(self, monkeypatch: pytest.MonkeyPatch, at: float) -> None:
        """Each second it says for how long, and why."""
        screens = watch(monkeypatch, corpus(), Throttling(TIERS[1], at))
        said = {
            second: int(found[1])
            for second, line in screens.lines.items()
            if (found := re.search(r"\] waiting (\d+) s for quota \(429\), ", line))
        }
        assert len(said) >= 40
        assert all(abs(at + 45 - second - seconds) <= 1.5 for second, seconds in said.items())

    @pytest.mark.parametrize("at", [0.5, 10.0])
    def test_the_time_left_knows_of_it(self, monkeypatch: pytest.MonkeyPatch, at: float) -> None:
        """And of what flows into the bucket during the pause."""
        screens = watch(monkeypatch, corpus(), Throttling(TIERS[1], at))
        assert {s: e for s, e in screens.errors().items() if s < screens.end - 5 and e > 0.2} == {}

    @pytest.mark.parametrize("count", [TEXTS, 60_000])
    @pytest.mark.parametrize("is_known", [True, False])
    def test_the_time_left_knows_that_the_start_after_it_is_slow(
        self, monkeypatch: pytest.MonkeyPatch, count: int, is_known: bool
    ) -> None:
        """Where no quota binds, two or three seconds remain: one request, then two, then four."""
        screens = watch(monkeypatch, corpus(count), Throttling(TIERS[5], 0.5), is_known=is_known)
        assert 46 < screens.end < 50
        assert {s: e for s, e in screens.errors().items() if s < 45.5 and e > 0.2} == {}

    def test_the_time_left_includes_it_where_no_quota_is_known(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The pause, and the rest as fast as before it."""
        slow = FakeServer(
            error=lambda request: (
                refusal(429, headers={"retry-after": f"{75 - request.sent:.1f}"})
                if 30 <= request.sent < 75
                else None
            ),
            seconds=1.0,
        )
        work = make_work(4_000, tokens=100, max_items=10)
        screens = watch(monkeypatch, work, slow, max_workers=4)
        errors = screens.errors(since=32)
        assert screens.end > 120
        assert {s: e for s, e in errors.items() if s < 75 and e > 0.2} == {}

    def test_one_line_in_the_log_for_all_that_were_in_flight(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Thirty requests are refused together, and then now and then one."""
        caplog.set_level(logging.INFO, logger=PACKAGE)
        watch(monkeypatch, corpus(), Throttling(TIERS[1], 0.2))
        told = [r.getMessage() for r in caplog.records if "Throttled" in r.getMessage()]
        assert len(told) == 1
        assert re.fullmatch(r"Throttled \(429 StatusError\): waiting 4\d(\.\d)? s", told[0])

    def test_a_server_that_refuses_now_and_then_has_a_line_each_half_minute(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """One request in ten is refused, for two minutes."""
        caplog.set_level(logging.DEBUG, logger=PACKAGE)
        server = FakeServer(
            error=lambda request: refusal(429) if request.number % 10 == 9 else None, seconds=1.0
        )
        work = make_work(4_000, tokens=100, max_items=10)
        screens = watch(monkeypatch, work, server, max_workers=4)
        told = [r.levelname for r in caplog.records if "Throttled" in r.getMessage()]
        assert len(told) > 20
        assert 1 <= told.count("INFO") <= screens.end / 30 + 1


class TestOutage:
    """A server that is away."""

    def outage(self, request: Request) -> StatusError | None:
        """Fail from second 3 to second 40."""
        return refusal(502) if 3 <= request.sent < 40 else None

    def test_the_bar_says_when_it_tries_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """And knows no time left."""
        server = FakeServer(error=self.outage, seconds=1.0)
        work = make_work(4_000, tokens=100, max_items=10)
        screens = watch(monkeypatch, work, server, max_workers=4)
        for second in range(10, 40):
            line = screens.lines[second]
            found = re.search(r"<\?\] server not answering, (trying again|next try in \d s),", line)
            assert found, line
        assert "server" not in screens.lines[50]

    def test_the_log_tells_of_it_twice(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """That it is away, and that it is back, and not of each request."""
        caplog.set_level(logging.INFO, logger=PACKAGE)
        server = FakeServer(error=self.outage, seconds=1.0)
        watch(monkeypatch, make_work(4_000, tokens=100, max_items=10), server, max_workers=4)
        told = [r.getMessage() for r in caplog.records if r.name.endswith("deployment")]
        assert len(told) == 2
        assert "does not answer (502 StatusError)" in told[0]
        assert "answers again" in told[1]

    def test_answers_that_take_long_are_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """How many, and for how long already."""
        work = make_work(200, tokens=100, max_items=10)
        screens = watch(monkeypatch, work, FakeServer(seconds=25.0), max_workers=4)
        assert "] waiting for 4 answers, 12 s so far, 0 tokens" in screens.lines[12]
        assert "waiting" not in screens.lines[26]


class TestLog:
    """What a program without a terminal has."""

    def test_a_long_call_has_a_line_each_half_minute(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """With what the bar has."""
        caplog.set_level(logging.INFO, logger=PACKAGE)
        screens = watch(monkeypatch, corpus(), QuotaServer(TIERS[1], 0))
        lines = [r.getMessage() for r in caplog.records if r.name.endswith("progress")]
        assert len(lines) == int(screens.end // 30)
        assert re.fullmatch(
            r"\d+,\d+ of 19,207 texts: 1\.\dM tokens, \$0\.0\d+, about \d+ s left, "
            r"quota 3,000 requests and 1\.0M tokens a minute",
            lines[0],
        )

    def test_a_call_has_a_line_at_its_start_and_one_at_its_end(
        self, batch: Callable[..., BatchEmbeddings], caplog: pytest.LogCaptureFixture
    ) -> None:
        """What will be sent, and what was; the second call knows the quota, a query says nothing.

        A call that needs no request has the line of its end alone.
        """
        caplog.set_level(logging.INFO, logger=PACKAGE)
        embeddings = batch(requests_per_minute=3_000, tokens_per_minute=1_000_000)
        embeddings.embed_documents([f"text {n}" for n in range(300)])
        embeddings.embed_query("a question")
        start, end = [r.getMessage() for r in caplog.records]
        assert re.fullmatch(
            r"Embedding 300 texts: about \d+ requests?, [\d,]+ tokens, <\$0\.0001, "
            r"3,000 requests and 1,000,000 tokens a minute, about [\d.]+ s",
            start,
        )
        assert end == str(embeddings.last_report) or end.startswith("300 texts (300 unique) in")

    def test_the_line_at_the_start_has_the_price_that_is_paid(
        self, batch: Callable[..., BatchEmbeddings], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Not that of the bytes, by which requests are packed: long words have few tokens."""
        caplog.set_level(logging.INFO, logger=PACKAGE)
        embeddings = batch()
        plan = embeddings.plan(["internationalization " * 300])
        embeddings.embed_documents(["internationalization " * 300])
        assert embeddings.last_report is not None
        said = re.search(r" ([\d,]+) tokens, ", caplog.records[0].getMessage())
        assert said is not None
        assert said[1] == f"{plan.tokens:,}" == f"{embeddings.last_report.tokens:,}"

    def test_requests_are_for_debug(
        self, batch: Callable[..., BatchEmbeddings], caplog: pytest.LogCaptureFixture
    ) -> None:
        """When it is sent and when it is answered, without its texts."""
        caplog.set_level(logging.DEBUG, logger=PACKAGE)
        batch().embed_documents(["secret text"])
        told = [r.getMessage() for r in caplog.records if r.name.endswith("dispatcher")]
        assert told[0] == "Sending 1 texts, 3 tokens"
        assert re.fullmatch(r"Answered after [\d.e-]+ s: 1 texts, 2 tokens", told[1])
        assert "secret" not in caplog.text

    def test_a_plan_leaves_the_log_alone(
        self, batch: Callable[..., BatchEmbeddings], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Its rehearsal is throttled too, but nobody else is."""
        caplog.set_level(logging.DEBUG, logger=PACKAGE)
        batch().plan([f"text {n} " * 500 for n in range(300)], tokens_per_minute=20_000)
        assert caplog.records == []

    def test_an_ingest_and_a_prefetch_are_told_as_one(
        self, batch: Callable[..., BatchEmbeddings], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Their many small calls are for DEBUG."""
        caplog.set_level(logging.INFO, logger=PACKAGE)
        embeddings = batch()
        texts = [f"text {n}" for n in range(300)]
        with embeddings.prefetch(texts):
            for begin in range(0, 300, 10):
                embeddings.embed_documents(texts[begin : begin + 10])
        told = [r.getMessage() for r in caplog.records]
        assert told[0] == "Embedding 300 texts in the background: quota not known yet"
        assert told[1:] == [str(embeddings.last_report)]


class TestBar:
    """The bar itself."""

    def view(self, done: int = 3) -> View:
        """Return what is done of five texts."""
        status = make_sender().status(0.0, left=0)
        return View(done=done, tally=Tally(), dollars=None, left=0, status=status)

    def test_it_is_drawn_again_though_nothing_came(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """By a thread of its own, each second; here each thousandth of one."""
        monkeypatch.setattr(progress_module, "BAR_EVERY", 0.001)
        terminal, looks = Terminal(), threading.Semaphore(0)
        monkeypatch.setattr("sys.stderr", terminal)

        def look() -> View:
            looks.release()
            return self.view()

        with Progress(look, now=lambda: 0.0, total=5, unit="text", shown=True, logged=False):
            for _ in range(3):
                assert looks.acquire(timeout=10)
            wait_until(lambda: "3/5 texts" in terminal.line())

    def test_it_stays_as_it_was_at_the_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The last line is the last state, with a line feed."""
        terminal = Terminal()
        monkeypatch.setattr("sys.stderr", terminal)
        done = 0
        bar = Progress(
            lambda: self.view(done), now=lambda: 0.0, total=5, unit="text", shown=True, logged=False
        )
        with bar:
            done = 5
        assert "5/5 texts [0:00<0:00] 0 tokens" in terminal.line()
        assert terminal.getvalue().endswith("\n")
        bar.refresh()
        assert terminal.getvalue().endswith("\n")

    def test_nothing_is_shown_where_nobody_asks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No bar, no thread, no line."""
        terminal = Terminal()
        monkeypatch.setattr("sys.stderr", terminal)
        before = threading.active_count()
        with Progress(
            self.view, now=lambda: 0.0, total=5, unit="text", shown=False, logged=False
        ) as bar:
            bar.update()
            assert threading.active_count() == before
        assert terminal.getvalue() == ""

    def test_braces_in_a_status_are_no_format(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What a server calls itself is shown as it is."""
        monkeypatch.setattr(progress_module, "waiting", lambda _: "{0} {x}")
        terminal = Terminal()
        monkeypatch.setattr("sys.stderr", terminal)
        with Progress(self.view, now=lambda: 0.0, total=5, unit="text", shown=True, logged=False):
            pass
        assert "{0} {x}" in terminal.line()


class TestWriting:
    """Documents that a store writes while others are embedded."""

    def left(self, monkeypatch: pytest.MonkeyPatch, *, in_flight: int) -> str:
        """Return the time left after 20 s in which a store wrote 10 of 1,000 documents a second.

        The rest of the embedding would take 40 s.
        """
        terminal = Terminal()
        monkeypatch.setattr("sys.stderr", terminal)
        now = 0.0
        idle = make_sender().status(0.0, left=0)
        status = replace(idle, in_flight=in_flight, quota_seconds=40.0)

        def look() -> View:
            written = int(10 * now)
            return View(
                done=written,
                tally=Tally(),
                dollars=None,
                left=5_000,
                unwritten=1_000 - written,
                status=status,
            )

        bar = Progress(
            look, now=lambda: now, total=1_000, unit="document", shown=True, logged=False
        )
        for second in range(21):
            now = float(second)
            bar.refresh()
        line = terminal.line()
        bar.close()
        return line

    def test_a_slow_store_sets_the_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """800 documents are left, at 10 a second."""
        assert "[0:20<1:20]" in self.left(monkeypatch, in_flight=0)

    def test_a_store_that_waits_for_vectors_does_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It writes as fast as they come, so they set the time."""
        assert "[0:20<0:40]" in self.left(monkeypatch, in_flight=3)


class TestPace:
    """How fast something goes on."""

    def test_the_last_seconds_count(self) -> None:
        """After ten slow seconds and twenty fast ones, the fast ones."""
        pace, left = Pace(), 10_000.0
        for second in range(31):
            measured = pace.measure(float(second), left)
            left -= 10 if second < 10 else 100
        assert measured == pytest.approx(100, rel=0.05)

    def test_time_in_which_nothing_can_go_on_does_not_count(self) -> None:
        """A pause makes nobody slower."""
        pace = Pace()
        for second in range(10):
            before = pace.measure(float(second), 1000.0 - 10 * second)
        for second in range(10, 55):
            during = pace.measure(float(second), 900.0, is_held_back=True)
        assert before == pytest.approx(10)
        assert during == pytest.approx(10, rel=0.2)

    def test_without_any_progress_nothing_is_known(self) -> None:
        """Not that it takes for ever."""
        pace = Pace()
        assert [pace.measure(float(second), 10.0) for second in range(5)] == [None] * 5
