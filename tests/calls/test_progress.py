"""What the terminal and the log show of a call, in simulated time."""

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
    """Return texts as long as the demo's sections, each of around 125 tokens."""
    tokens = np.random.default_rng(1).lognormal(4.7, 0.6, count).astype(np.int64) + 1
    return make_work(count, tokens=tokens.tolist(), max_tokens=300_000)


class Throttling:
    """A server that answers 429 with a Retry-After for 45 seconds.

    Args:
        quota: of the account behind it.
        at: when the refusals begin, in seconds.
    """

    def __init__(self, quota: AccountQuota, at: float) -> None:
        self._server = QuotaServer(quota, 0)
        self._at = at

    def receive(self, request: Request) -> Reply:
        """Answer a request or refuse it."""
        left = self._at + 45 - request.sent
        if 0 < left <= 45:
            error = refusal(429, "slow down", headers={"retry-after": f"{left:.1f}"})
            return Reply(after=0.1, error=error)
        return self._server.receive(request)


class TestTierOne:
    """At tier 1, the first million tokens go out at once and the rest as the quota refills."""

    def test_the_time_left_is_right_from_the_fifth_second_on(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The time left is within 20 % of the truth, except in the last five seconds."""
        screens = watch(monkeypatch, corpus(), QuotaServer(TIERS[1], 0))
        assert 85 < screens.end < 95
        assert {s: e for s, e in screens.errors().items() if s < screens.end - 5 and e > 0.2} == {}

    def test_the_screen_shows_all_that_a_user_asks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """At 1, 10 and 60 s the bar shows texts, times, tokens, dollars and the quota."""
        screens = watch(monkeypatch, corpus(), QuotaServer(TIERS[1], 0))
        for second, elapsed in ((1, "0:01"), (10, "0:10"), (60, "1:00")):
            line = screens.lines[second]
            assert re.search(rf"\d% *\|.*\| \d+/{TEXTS} texts \[{elapsed}<\d+:\d\d\] ", line), line
            assert re.search(r"\] \S+ tokens, \$0\.0\d+, quota 3,000 requests and 1\.0M t", line)

    @pytest.mark.parametrize("tier", [2, 3])
    def test_other_tiers_are_right_too(self, monkeypatch: pytest.MonkeyPatch, tier: int) -> None:
        """The time left is right in other tiers too, from the quota that the answers announce."""
        quota = TIERS[tier]
        screens = watch(monkeypatch, corpus(40_000), QuotaServer(quota, 0))
        assert {s: e for s, e in screens.errors().items() if s < screens.end - 5 and e > 0.2} == {}

    def test_requests_are_counted_where_they_are_scarce(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At three requests a minute, the time left uses the planned requests.

        The small requests of the start do not count.
        """
        quota = AccountQuota(requests_per_minute=3, tokens_per_minute=150_000)
        screens = watch(monkeypatch, corpus(), QuotaServer(quota, 0))
        assert screens.end > 600
        assert {s: e for s, e in screens.errors().items() if s < screens.end - 60 and e > 0.2} == {}


class TestLearntFromRefusals:
    """The time left for a server without headers and with a hidden quota."""

    @pytest.mark.parametrize(
        ("cell", "count", "share"),
        [
            pytest.param(Cell(tokens_per_minute=1_000_000, says="used"), TEXTS, 0.9, id="text"),
            pytest.param(
                Cell(tokens_per_minute=5_000_000, says="zero", limiter_seconds=10.0),
                60_000,
                0.75,
                id="nothing",
                marks=pytest.mark.slow,  # of 4 s
            ),
        ],
    )
    def test_the_time_left_is_right_as_far_as_it_can_be_known(
        self, monkeypatch: pytest.MonkeyPatch, cell: Cell, count: int, share: float
    ) -> None:
        """The time left is mostly right if a refusal's text or the throughput is known.

        Until then, the current rate is only a guess.
        """
        shares = []
        for seed in range(8):
            screens = watch(monkeypatch, corpus(count), SimulatedServer(cell, seed))
            errors = [e for s, e in screens.errors().items() if s < screens.end - 5]
            assert len(errors) > 60
            shares.append(sum(e <= 0.2 for e in errors) / len(errors))
        assert fmean(shares) >= share

    def test_a_rate_that_is_tried_out_is_corrected_by_what_came(self) -> None:
        """A guessed rate is corrected by the throughput, while an announced rate is used as it is.

        The longer the throughput has been measured, the more it counts.
        """
        learnt = replace(make_sender().status(0.0, left=0), quota_seconds=100.0, is_held_back=True)
        told = replace(learnt, tokens_per_minute=1e6)
        for status, expected in ((learnt, [100.0, 150.0, 150.0]), (told, [100.0] * 3)):
            left = TimeLeft()
            # Half of the current rate is achieved, which is 5 texts a second of 1,000.
            found = [left.seconds(*each, status) for each in ((0, 2000), (100, 1500), (200, 1000))]
            assert found == pytest.approx(expected, abs=0.1)


class TestThrottle:
    """The server answers 429 for 45 seconds."""

    @pytest.mark.parametrize("at", [0.5, 10.0])
    def test_the_bar_counts_down(self, monkeypatch: pytest.MonkeyPatch, at: float) -> None:
        """During a pause the bar shows each second how long it lasts, and why."""
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
        """The time left includes the pause, and the quota that refills during it."""
        screens = watch(monkeypatch, corpus(), Throttling(TIERS[1], at))
        assert {s: e for s, e in screens.errors().items() if s < screens.end - 5 and e > 0.2} == {}

    @pytest.mark.parametrize("count", [TEXTS, 60_000])
    @pytest.mark.parametrize("is_known", [True, False])
    def test_the_time_left_knows_that_the_start_after_it_is_slow(
        self, monkeypatch: pytest.MonkeyPatch, count: int, is_known: bool
    ) -> None:
        """If no quota binds, the time left includes the slow start after a pause.

        That takes two or three seconds: one request, then two, then four.
        """
        screens = watch(monkeypatch, corpus(count), Throttling(TIERS[5], 0.5), is_known=is_known)
        assert 46 < screens.end < 50
        assert {s: e for s, e in screens.errors().items() if s < 45.5 and e > 0.2} == {}

    def test_the_time_left_includes_it_where_no_quota_is_known(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If no quota is known, the time left includes the pause, and the earlier speed."""
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
        """Refusals that come together, and later single ones, give one line in the log."""
        caplog.set_level(logging.INFO, logger=PACKAGE)
        watch(monkeypatch, corpus(), Throttling(TIERS[1], 0.2))
        told = [r.getMessage() for r in caplog.records if "Throttled" in r.getMessage()]
        assert len(told) == 1
        assert re.fullmatch(r"Throttled \(429 StatusError\): waiting 4\d(\.\d)? s", told[0])

    def test_a_server_that_refuses_now_and_then_has_a_line_each_half_minute(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Frequent refusals of one request in ten are logged at INFO once each half minute."""
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
    """The server does not answer for a while."""

    def outage(self, request: Request) -> StatusError | None:
        """Fail from second 3 to second 40."""
        return refusal(502) if 3 <= request.sent < 40 else None

    def test_the_bar_says_when_it_tries_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """During an outage the bar shows the next try and no time left."""
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
        """The log reports the start and the end of an outage, not each request."""
        caplog.set_level(logging.INFO, logger=PACKAGE)
        server = FakeServer(error=self.outage, seconds=1.0)
        watch(monkeypatch, make_work(4_000, tokens=100, max_items=10), server, max_workers=4)
        told = [r.getMessage() for r in caplog.records if r.name.endswith("server_log")]
        assert len(told) == 2
        assert "does not answer (502 StatusError)" in told[0]
        assert "answers again" in told[1]

    def test_answers_that_take_long_are_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """During slow answers the bar shows how many are awaited, and for how long."""
        work = make_work(200, tokens=100, max_items=10)
        screens = watch(monkeypatch, work, FakeServer(seconds=25.0), max_workers=4)
        assert "] waiting for 4 answers, 12 s so far, 0 tokens" in screens.lines[12]
        assert "waiting" not in screens.lines[26]


class TestLog:
    """The log, for programs without a terminal."""

    def test_a_long_call_has_a_line_each_half_minute(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A long call logs a line each half minute with the same figures as the bar."""
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
        """A call logs one line at its start and one at its end, and a query logs none."""
        caplog.set_level(logging.INFO, logger=PACKAGE)
        embeddings = batch(requests_per_minute=3_000, tokens_per_minute=1_000_000)
        embeddings.embed_documents([f"text {n}" for n in range(300)])
        report = embeddings.last_report
        embeddings.embed_query("a question")
        start, end = [r.getMessage() for r in caplog.records]
        assert re.fullmatch(
            r"Embedding 300 texts: about \d+ requests?, [\d,]+ tokens, <\$0\.0001, "
            r"3,000 requests and 1,000,000 tokens a minute, about [\d.]+ s",
            start,
        )
        assert end == str(report)
        assert end.startswith("300 texts (300 unique) in")

    def test_the_line_at_the_start_has_the_price_that_is_paid(
        self, batch: Callable[..., BatchEmbeddings], caplog: pytest.LogCaptureFixture
    ) -> None:
        """The first line has the tokens that are paid for, not the bytes of the packing.

        Long words have few tokens.
        """
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
        """Sending and answering a request are logged at DEBUG, without its texts."""
        caplog.set_level(logging.DEBUG, logger=PACKAGE)
        batch().embed_documents(["secret text"])
        told = [r.getMessage() for r in caplog.records if r.name.endswith("dispatcher")]
        assert told[0] == "Sending 1 texts, 3 tokens"
        assert re.fullmatch(r"Answered after [\d.e-]+ s: 1 texts, 2 tokens", told[1])
        assert "secret" not in caplog.text

    def test_a_plan_leaves_the_log_alone(
        self, batch: Callable[..., BatchEmbeddings], caplog: pytest.LogCaptureFixture
    ) -> None:
        """A plan logs nothing, although its rehearsal is throttled."""
        caplog.set_level(logging.DEBUG, logger=PACKAGE)
        batch().plan([f"text {n} " * 500 for n in range(300)], tokens_per_minute=20_000)
        assert caplog.records == []

    def test_an_ingest_and_a_prefetch_are_told_as_one(
        self, batch: Callable[..., BatchEmbeddings], caplog: pytest.LogCaptureFixture
    ) -> None:
        """A prefetch logs one start and one end, and its many small calls nothing at INFO."""
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
    """The progress bar itself."""

    def view(self, done: int = 3) -> View:
        """Return a view with this many of five texts done."""
        status = make_sender().status(0.0, left=0)
        return View(done=done, tally=Tally(), dollars=None, left=0, status=status)

    def test_it_is_drawn_again_though_nothing_came(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A thread redraws the bar each second, here each millisecond, even if nothing changed."""
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
        """The last line shows the final state, and ends with a line feed."""
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
        """Without a request to show it, there is no bar and no thread."""
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
        """Braces in a status are shown as they are, not as a format."""
        monkeypatch.setattr(progress_module, "waiting", lambda _: "{0} {x}")
        terminal = Terminal()
        monkeypatch.setattr("sys.stderr", terminal)
        with Progress(self.view, now=lambda: 0.0, total=5, unit="text", shown=True, logged=False):
            pass
        assert "{0} {x}" in terminal.line()


class TestWriting:
    """A store writes documents while others are embedded."""

    def left(self, monkeypatch: pytest.MonkeyPatch, *, in_flight: int) -> str:
        """Return the bar after 20 s in which a store wrote 10 of 1,000 documents a second.

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
        """If the store is slower, it sets the time left: 800 documents at 10 a second."""
        assert "[0:20<1:20]" in self.left(monkeypatch, in_flight=0)

    def test_a_store_that_waits_for_vectors_does_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A store that waits for vectors writes as fast as they come, so they set the time left."""
        assert "[0:20<0:40]" in self.left(monkeypatch, in_flight=3)


class TestPace:
    """`Pace` measures how fast something progresses."""

    def test_the_last_seconds_count(self) -> None:
        """After ten slow and twenty fast seconds, the pace is the fast one."""
        pace, left = Pace(), 10_000.0
        for second in range(31):
            measured = pace.measure(float(second), left)
            left -= 10 if second < 10 else 100
        assert measured == pytest.approx(100, rel=0.05)

    def test_time_in_which_nothing_can_go_on_does_not_count(self) -> None:
        """A pause does not lower the pace."""
        pace = Pace()
        for second in range(10):
            before = pace.measure(float(second), 1000.0 - 10 * second)
        for second in range(10, 55):
            during = pace.measure(float(second), 900.0, is_held_back=True)
        assert before == pytest.approx(10)
        assert during == pytest.approx(10, rel=0.2)

    def test_without_any_progress_nothing_is_known(self) -> None:
        """Without any progress there is no pace, rather than a pace of zero."""
        pace = Pace()
        assert [pace.measure(float(second), 10.0) for second in range(5)] == [None] * 5
