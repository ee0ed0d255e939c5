"""A plan predicts what the local server then counts and how long a simulated run takes."""

import heapq
import math
import pickle
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_openai import AzureOpenAIEmbeddings, OpenAIEmbeddings
from pydantic import SecretStr

from langchain_batch_embed import BatchEmbeddings, InputError, OptionError
from langchain_batch_embed.calls.estimate import RUNS, AccountQuota, known_quota, rehearse_quota
from langchain_batch_embed.calls.plan import BATCH_QUEUES, TIERS
from langchain_batch_embed.calls.results import Results
from langchain_batch_embed.commands.corpus import sections, standard_library
from langchain_batch_embed.commands.main import main
from langchain_batch_embed.pacing.hedging import Hedges
from langchain_batch_embed.pacing.pacer import Pacer
from langchain_batch_embed.report import Report, Tally
from langchain_batch_embed.sending.deployment import Deployment
from langchain_batch_embed.sending.rehearsal import Reply, Request, rehearse
from langchain_batch_embed.sending.sender import Sender
from langchain_batch_embed.sending.work import Work
from langchain_batch_embed.simulator import TIERS as SERVERS_TIERS
from langchain_batch_embed.simulator.batch_scenario import QUEUES
from langchain_batch_embed.simulator.quota import Quota as ServerQuota
from langchain_batch_embed.texts.tokens import ByteCounter
from tests.sending.calls import make_work
from tests.simulated.refusals import over_quota
from tests.support import LocalServer, prose, treat_as_known

Batch = Callable[..., BatchEmbeddings]
OpenAI = Callable[..., OpenAIEmbeddings]

SECTIONS = 19_207
NO_QUOTA = AccountQuota()


@pytest.fixture(scope="module")
def library() -> list[str]:
    """Return sections of Python's standard library."""
    return [section.text for section in sections(standard_library()[1], SECTIONS)]


def work_of(embeddings: BatchEmbeddings, texts: list[str]) -> Work:
    """Return the requests that a call would send, computed by the pipeline's own steps."""
    pipeline = embeddings._pipeline
    inputs = pipeline.prepare(texts)
    return pipeline.fetcher.work(inputs, Results(inputs), keep=lambda rows, answer: None)  # noqa: ARG005


class QuotaServer:
    """A server with the simulator's own quota, OpenAI's latency and 300 ms for a new connection."""

    def __init__(self, quota: ServerQuota, seed: int) -> None:
        self._quota = quota
        self._dice = random.Random(seed)
        self._open: list[float] = []  # a heap of the times when each connection is free again

    def receive(self, request: Request) -> Reply:
        """Accept a request or refuse it."""
        dice, now = self._dice, request.sent
        after = dice.uniform(0.06, 0.22)
        if self._open and self._open[0] <= now:
            heapq.heappop(self._open)
        else:
            after += 0.3
        error = None
        if over := self._quota.admit(request.charge, now):
            error = over_quota(
                over.kind,
                limit=over.limit,
                used=over.used,
                requested=over.requested,
                delay=over.wait,
                headers=self._quota.headers(now),
            )
        else:
            after += (0.08 + 7e-6 * request.charge) * dice.lognormvariate(0, 0.85)
        heapq.heappush(self._open, now + after)
        return Reply(after=after, headers=self._quota.headers(now), error=error)


class TestPlan:
    """A plan predicts requests, tokens and time."""

    def test_is_what_the_server_then_bills(
        self, batch: Batch, server: LocalServer, library: list[str]
    ) -> None:
        """A plan predicts the exact requests, and the tokens within 2 %.

        The texts include repeated ones and ones that need several windows.
        """
        texts = [*library[:4000], *library[:100], prose(20_000, seed=1), prose(9_000, seed=2)]
        embeddings = treat_as_known(batch())

        plan = embeddings.plan(texts)
        embeddings.embed_numpy(texts)

        stats = server.stats()
        assert plan.requests == stats["requests"]
        assert plan.tokens == pytest.approx(stats["tokens_billed"], rel=0.02)
        assert (plan.texts, plan.unique, plan.from_journal) == (4102, 4002, 0)

    def test_is_right_for_all_sections_of_the_demo(
        self, batch: Batch, server: LocalServer, library: list[str]
    ) -> None:
        """A plan predicts requests and tokens for all 19,207 sections of the demo."""
        embeddings = treat_as_known(batch())

        plan = embeddings.plan(library)
        embeddings.embed_numpy(library)

        stats = server.stats()
        assert plan.requests == stats["requests"]
        assert plan.tokens == pytest.approx(stats["tokens_billed"], rel=0.02)

    def test_is_right_where_requests_are_scarce(
        self, batch: Batch, server: LocalServer, library: list[str]
    ) -> None:
        """With few requests a minute, plan and call both use fewer and larger requests."""
        embeddings = batch(requests_per_minute=30)

        plan = embeddings.plan(library[:4000])
        embeddings.embed_numpy(library[:4000])

        assert plan.requests == server.stats()["requests"] == 2

    @pytest.mark.parametrize("tier", [1, 3, 5])
    @pytest.mark.parametrize("count", [3_000, SECTIONS])
    def test_seconds_are_those_of_a_run_in_simulated_time(
        self, batch: Batch, library: list[str], count: int, tier: int
    ) -> None:
        """The planned time is within 20 % of the pacer's run against the simulator's own quota."""
        embeddings = batch()
        work = work_of(embeddings, library[:count])

        def seconds(seed: int) -> float:
            limits, draw = embeddings.limits, random.Random(seed).random
            pacer = Pacer(
                max_workers=limits.max_workers,
                first_requests=limits.first_requests,
                is_known=True,
                draw=draw,
            )
            sender = Sender([Deployment(pacer, max_retries=8, timeout=math.inf, draw=draw)])
            queue = sender.queue(work, Tally(), Hedges())
            sender.add(queue, 0.0)
            server = QuotaServer(ServerQuota(*SERVERS_TIERS[tier]), seed)
            return rehearse(sender, [queue], server)

        plan = embeddings.plan(library[:count], tier=tier)

        assert plan.seconds == pytest.approx(median(map(seconds, range(RUNS))), rel=0.2)

    def test_sends_nothing(self, batch: Batch, server: LocalServer) -> None:
        """A plan sends no request and leaves the last report as it was."""
        embeddings = batch()

        embeddings.plan(["a text", "another"])

        assert server.stats()["requests"] == 0
        assert embeddings.last_report is None

    def test_takes_an_iterator(self, batch: Batch) -> None:
        """A plan accepts any iterable of strings, as embedding does."""
        assert batch().plan(f"text {number}" for number in range(7)).texts == 7

    def test_is_always_the_same(self, batch: Batch) -> None:
        """The plan's randomness is seeded, so equal arguments give equal plans."""
        texts = [prose(500, seed) for seed in range(200)]
        assert batch().plan(texts, tier=1) == batch().plan(texts, tier=1)

    def test_nothing_costs_nothing(self, batch: Batch) -> None:
        """A plan for an empty list costs nothing."""
        plan = batch().plan([])
        assert (plan.requests, plan.tokens, plan.dollars, plan.seconds) == (0, 0, 0, 0)

    def test_a_text_that_cannot_be_embedded_is_refused(self, batch: Batch) -> None:
        """A text that the call would refuse is refused by the plan, at no cost."""
        with pytest.raises(InputError, match="index 1"):
            batch().plan(["good", ""])

    def test_can_be_pickled(self, batch: Batch) -> None:
        """A plan can be pickled, because it is a plain value."""
        plan = batch().plan(["a text"])
        assert pickle.loads(pickle.dumps(plan)) == plan  # noqa: S301


class TestJournal:
    """A plan takes account of the journal."""

    def test_kept_texts_are_free(self, batch: Batch, server: LocalServer, tmp_path: Path) -> None:
        """Texts in the journal are free, so only the others are planned and sent."""
        texts = [prose(100, seed) for seed in range(50)]
        batch(journal=tmp_path / "vectors.db").embed_documents(texts[:20])
        embeddings = batch(journal=tmp_path / "vectors.db")

        plan = embeddings.plan(texts)
        server.configure()
        embeddings.embed_documents(texts)

        assert plan.from_journal == 20
        assert (plan.requests, plan.tokens) == (
            server.stats()["requests"],
            server.stats()["tokens_billed"],
        )

    def test_everything_kept_needs_no_request(self, batch: Batch, tmp_path: Path) -> None:
        """If the journal has every text, the plan has no request and no cost."""
        embeddings = batch(journal=tmp_path / "vectors.db")
        embeddings.embed_documents(["a text", "another"])

        plan = embeddings.plan(["a text", "another"])

        assert (plan.from_journal, plan.requests, plan.dollars) == (2, 0, 0)


class TestQuota:
    """Where a plan's quota comes from."""

    def test_tiers_are_those_of_the_simulator(self) -> None:
        """The tiers equal the simulator's copy of OpenAI's table, which stands alone on purpose."""
        here = {
            tier: (quota.requests_per_minute, quota.tokens_per_minute)
            for tier, quota in TIERS.items()
        }
        assert here == SERVERS_TIERS

    def test_every_tier_is_told_where_nothing_is_known(self, batch: Batch) -> None:
        """Without a known quota the plan gives a time for every tier.

        The 3 million tokens here take 2 minutes at tier 1.
        """
        plan = batch().plan([prose(1000, seed) for seed in range(3000)])

        assert plan.quota == NO_QUOTA
        assert list(plan.seconds_by_tier) == list(TIERS)
        assert plan.seconds_by_tier[1] > 100 > plan.seconds_by_tier[5]

    def test_a_guessed_rate_is_no_known_quota(self) -> None:
        """A rate that was only measured from refusals is not said to be announced."""
        pacer = Pacer(max_workers=8)
        for bucket in (pacer.tokens, pacer.requests):
            bucket.refused(100, 0.0)
            bucket.passed(1_000, sent=0.5, now=0.6)
            bucket.refused(100, 10.0)
            assert bucket.is_measured
        assert known_quota([pacer]) == NO_QUOTA

    def test_a_tier_is_used(self, batch: Batch) -> None:
        """If a tier is given, the plan uses it and lists no other tiers."""
        plan = batch().plan(["a text"], tier=4)
        assert (plan.quota, plan.seconds_by_tier) == (TIERS[4], {})

    def test_numbers_go_before_the_tier(self, batch: Batch) -> None:
        """A given number replaces one of the tier's limits, and the tier supplies the other."""
        plan = batch().plan(["a text"], tier=1, tokens_per_minute=7)
        assert plan.quota == AccountQuota(requests_per_minute=3000, tokens_per_minute=7)

    def test_options_are_used(self, batch: Batch) -> None:
        """The quota in the object's options is used for a plan."""
        plan = batch(requests_per_minute=600, tokens_per_minute=9000).plan(["a text"])
        assert plan.quota == AccountQuota(requests_per_minute=600, tokens_per_minute=9000)

    def test_what_earlier_answers_said_is_used(self, batch: Batch, server: LocalServer) -> None:
        """The quota that earlier answers' headers announced is used for a plan."""
        server.configure(tier=3)
        embeddings = batch()
        embeddings.embed_documents(["a text"])

        assert embeddings.plan(["another"]).quota == TIERS[3]

    def test_a_quota_smaller_than_a_batch_cuts_it(self, batch: Batch) -> None:
        """A quota smaller than a batch leads to more, smaller requests, as in the call."""
        texts = [prose(1000, seed) for seed in range(300)]
        embeddings = batch(max_workers=1)

        plan = embeddings.plan(texts, tokens_per_minute=100_000)

        charge = work_of(embeddings, texts).sizes.charges.sum()
        assert plan.requests >= charge / 100_000 > embeddings.plan(texts).requests
        assert plan.seconds is not None
        assert plan.seconds >= (charge - 100_000) / 100_000 * 60

    def test_a_text_larger_than_the_quota_is_not_waited_for(self) -> None:
        """A text larger than the whole quota is neither counted nor waited for.

        It cannot be sent at all.
        """
        requests, seconds = rehearse_quota(
            make_work(3, tokens=[10, 500, 10]),
            quota=AccountQuota(tokens_per_minute=100),
            max_workers=2,
        )
        assert requests == 2
        assert seconds < 60


class TestPrice:
    """A plan gives the price in dollars."""

    def test_is_openais_unless_given(self, batch: Batch, openai_embeddings: OpenAI) -> None:
        """The price is OpenAI's list price, here 13 cents a million tokens."""
        texts = [prose(1000, seed) for seed in range(10)]
        plan = batch(openai_embeddings(model="text-embedding-3-large")).plan(texts)
        assert plan.dollars == pytest.approx(plan.tokens * 0.13e-6)
        assert "November 2026" in plan.price_from

    def test_can_be_given(self, batch: Batch) -> None:
        """A given price, such as a negotiated one, replaces the list price."""
        plan = batch().plan(["a text"], price=1_000_000)
        assert (plan.dollars, plan.price, plan.price_from) == (plan.tokens, 1e6, "as given")

    def test_of_an_unknown_model_is_unknown(self, batch: Batch, openai_embeddings: OpenAI) -> None:
        """A model without a known price has no planned cost, rather than a guess."""
        plan = batch(openai_embeddings(model="my-model")).plan(["a text"])
        assert (plan.dollars, plan.price) == (None, None)
        assert "price not known" in str(plan)

    def test_of_the_batch_api_is_half(self, batch: Batch, openai_embeddings: OpenAI) -> None:
        """The Batch API costs half, and a queue smaller than the work is filled several times."""
        embeddings = batch(openai_embeddings(model="text-embedding-3-small"))
        texts = [prose(8000, seed) for seed in range(400)]
        plan = embeddings.plan(texts, tier=1)
        assert plan.dollars is not None
        assert plan.batch_dollars == pytest.approx(plan.dollars / 2)
        assert plan.batch_rounds == 2
        assert "in 2 rounds because of the account's queue limit, usually within 2.0 h" in str(plan)
        assert embeddings.plan(texts, tier=2).batch_rounds == 1
        assert embeddings.plan(texts[:1]).batch_rounds is None
        assert "by submit()" in plan._repr_html_()

    def test_of_the_batch_api_is_told_where_there_is_one(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """The plan omits the Batch API for Azure and for a given price.

        Azure's takes no embeddings, and a given price is not halved.
        """
        azure = AzureOpenAIEmbeddings(
            azure_endpoint=server.azure_endpoint,
            api_key=SecretStr("k"),
            api_version="2024-10-21",
            azure_deployment="text-embedding-3-small",
            model="text-embedding-3-small",
        )
        for plan in (BatchEmbeddings(azure).plan(["a"]), batch().plan(["a"], price=1.0)):
            assert plan.dollars is not None
            assert plan.batch_dollars is None
            assert "Batch API" not in str(plan)

    def test_the_queues_are_those_of_the_simulator(self) -> None:
        """The Batch API's queues equal the simulator's copy, which stands alone on purpose."""
        assert dict(BATCH_QUEUES) == dict(QUEUES)


class TestOptions:
    """Options that a plan cannot use raise an error."""

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"tier": 6}, "tier must be one of 1, 2, 3, 4, 5"),
            ({"requests_per_minute": 0}, "requests_per_minute must be more than 0"),
            ({"tokens_per_minute": float("nan")}, "tokens_per_minute must be more than 0"),
            ({"tokens_per_minute": True}, "tokens_per_minute must be a number, not bool"),
            ({"price": -1}, "price must be more than 0"),
            ({"price": "2 cents"}, "price must be a number, not str"),
        ],
    )
    def test_a_wrong_value_is_explained(
        self, batch: Batch, options: dict[str, float], message: str
    ) -> None:
        """The error for a wrong value names the option and what would be right."""
        with pytest.raises(OptionError, match=message):
            batch().plan(["a text"], **options)  # type: ignore[call-overload]

    def test_a_tier_is_for_openai_alone(self) -> None:
        """A tier for a provider other than OpenAI raises an error that asks for the numbers."""
        embeddings = BatchEmbeddings(DeterministicFakeEmbedding(size=8))
        with pytest.raises(OptionError, match="pass requests_per_minute= and tokens_per_minute="):
            embeddings.plan(["a text"], tier=1)


class TestOtherProviders:
    """For other providers a plan reports less, because less is known."""

    def test_tokens_are_an_estimate_and_seconds_are_not_told(self) -> None:
        """For an unknown provider tokens are estimated and no time is given, and the plan says so.

        Its tokenizer and its speed are unknown.
        """
        plan = BatchEmbeddings(DeterministicFakeEmbedding(size=8)).plan(["a text", "more"])
        assert (plan.requests, plan.tokens, plan.is_exact) == (1, 3, False)
        assert (plan.dollars, plan.seconds) == (None, None)
        assert "about 3 tokens" in str(plan)
        assert "time not known" in str(plan)

    def test_bytes_are_an_estimate_too(self, batch: Batch) -> None:
        """If bytes stand in for tokens, for want of a vocabulary, the plan is inexact."""
        embeddings = batch()
        embeddings._pipeline.fetcher.counter = ByteCounter()
        plan = embeddings.plan(["more"])
        assert (plan.tokens, plan.is_exact) == (4, False)


class TestShown:
    """A plan prints as text and as a table."""

    def test_three_lines_say_it(self, batch: Batch, openai_embeddings: OpenAI) -> None:
        """A plan prints three lines: the requests and their cost, the time, and the batch price."""
        embeddings = batch(openai_embeddings(model="text-embedding-3-small"))
        plan = embeddings.plan([prose(1000, seed) for seed in range(1000)], tier=1)
        assert f"{plan:}".count("\n") == 2
        assert f"1,000 texts (1,000 unique): {plan.requests} requests, 1,0" in str(plan)
        assert "$0.0200 ($0.02 a million, OpenAI's list price of November 2026)\n" in str(plan)
        assert str(plan).endswith(
            "\nby submit(): $0.0100 through the Batch API, usually within 60 min, at most 24 h"
        )
        assert "with 3,000 requests and 1,000,000 tokens a minute" in str(plan)

    @pytest.mark.parametrize(
        ("seconds", "said"),
        [
            ((2.2, 2.2, 2.1, 2.1, 2.3), "about 2.2 s in every tier"),
            (
                (89.2, 89.4, 2.1, 2.2, 2.1),
                "about 2.2 s if no quota binds (as in tier 3 to 5); tier 1 and 2: 89 s",
            ),
            (
                (900, 600, 100, 100, 50),
                "about 2.2 s if no quota binds; tier 1: 15 min, tier 2: 10 min, "
                "tier 3 and 4: 100 s, tier 5: 50 s",
            ),
            (
                (40, 40, 40, 2.2, 2.2),
                "about 2.2 s if no quota binds (as in tier 4 and 5); tier 1 to 3: 40 s",
            ),
        ],
    )
    def test_equal_tiers_are_told_together(
        self, batch: Batch, seconds: Sequence[float], said: str
    ) -> None:
        """Tiers with equal times are listed together, and tiers that do not bind are not listed."""
        plan = replace(
            batch().plan(["a text"]), seconds=2.2, seconds_by_tier=dict(enumerate(seconds, 1))
        )
        assert said in str(plan).splitlines()

    def test_one_is_no_plural(self, batch: Batch) -> None:
        """Plans and reports use the singular for one text, request or token."""
        embeddings = batch()
        assert str(embeddings.plan(["text"])).startswith("1 text (1 unique): 1 request, 1 token, ")
        embeddings.embed_documents(["text"])
        said = str(embeddings.last_report)
        assert said.startswith("1 text (1 unique) in ")
        assert ": 1 request, 0 retries (0 throttled), 1 token, <$0.0001" in said

    def test_a_notebook_shows_a_table(self, batch: Batch) -> None:
        """A notebook shows one row for each value, with HTML escaped."""
        table = batch().plan(["a text", "a text"])._repr_html_()
        assert table.startswith("<table>")
        assert '>unique</th><td style="text-align: left">1<' in table
        assert "OpenAI&#x27;s list price" in table
        assert "in every tier" in table

    def test_a_report_is_a_table_too(self) -> None:
        """A report is shown as a table too."""
        report = Report(
            texts=1_000,
            unique=900,
            from_journal=0,
            requests=12,
            retries=3,
            throttled=2,
            splits=0,
            hedged=0,
            hedged_tokens=0,
            tokens=123_456,
            dollars=None,
            seconds=3.21,
            failures=0,
        )
        table = report._repr_html_()
        assert ">3 (2 throttled)<" in table
        assert ">123,456<" in table
        assert ">price not known<" in table


class TestCommand:
    """The command `python -m langchain_batch_embed plan`."""

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Return a folder with two texts, an empty one and a picture, and remove the API key."""
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        (tmp_path / "one.md").write_text("\n\n".join([prose(100, seed) for seed in range(9)]))
        (tmp_path / "two.txt").write_text("short")
        (tmp_path / "empty.txt").write_text("\n")
        (tmp_path / "picture.png").write_bytes(b"\x89PNG")
        return tmp_path

    def test_sections_of_a_folder_are_planned(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The command plans all text files of a folder, cut into sections as in the demo.

        It gives one time for every tier.
        """
        main(["plan", str(folder)])
        head, sent, took, half = capsys.readouterr().out.splitlines()
        assert head == "3 files, cut into sections, for text-embedding-3-small"
        assert sent.startswith("10 texts (10 unique): 1 request, ")
        assert took == "about 0.5 s in every tier"
        assert half.startswith("by submit(): <$0.0001 through the Batch API, ")

    def test_whole_files_and_a_tier(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """With `--whole` each file is one text, and files can be named individually."""
        files = [str(folder / "one.md"), str(folder / "two.txt")]
        model = "text-embedding-3-large"
        main(["plan", *files, "--whole", "--tier", "1", "--model", model])
        head, sent, took, half = capsys.readouterr().out.splitlines()
        assert head == f"2 files, for {model}"
        assert sent.startswith("2 texts (2 unique): 1 request, ")
        assert "$0.13 a million" in sent
        assert took.endswith("with 3,000 requests and 1,000,000 tokens a minute")
        assert half.endswith("usually within 60 min, at most 24 h")

    def test_a_price_can_be_given(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A price can be given for a model whose price is not known."""
        main(["plan", str(folder), "--model", "mine", "--price", "7.5"])
        assert "($7.5 a million, as given)" in capsys.readouterr().out

    def test_no_text_is_explained(self, folder: Path) -> None:
        """If there is no text, the error lists the kinds of files that the command accepts."""
        with pytest.raises(SystemExit, match=r"folders of .*\.md.* files"):
            main(["plan", str(folder / "empty.txt")])

    def test_a_missing_file_is_explained(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A missing file is reported as a wrong argument."""
        with pytest.raises(SystemExit, match="2"):
            main(["plan", "nowhere.md"])
        assert "nowhere.md does not exist" in capsys.readouterr().err
