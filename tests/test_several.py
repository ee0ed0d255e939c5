"""`BatchEmbeddings([a, b, c])`: several deployments of one model as one object."""

import asyncio
import logging
import math
import multiprocessing
import pickle
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from langchain_core.embeddings import Embeddings
from langchain_openai import AzureOpenAIEmbeddings, OpenAIEmbeddings
from pydantic import SecretStr

from langchain_batch_embed import (
    BatchEmbeddings,
    DeploymentReport,
    OptionError,
    PartialEmbeddingsError,
    SharedQuota,
    SpaceError,
)
from langchain_batch_embed.calls.same_space import TOLERANCE
from langchain_batch_embed.clock import SYSTEM_CLOCK
from langchain_batch_embed.limits import AZURE, OPENAI, common
from langchain_batch_embed.sending.flight import PROBE
from tests.support import LocalServer

MODEL = "text-embedding-3-small"
TEXTS = [f"text {number}" for number in range(1000)]


class Region(Embeddings):
    """A deployment whose vectors depend on the text and may be rotated a little.

    Args:
        model: name of the model.
        width: width of the vectors.
        turned: angle by which vectors are turned away from those of other regions, in radians.
        error: raised instead of an answer.

    Attributes:
        sent: all texts that were embedded.
    """

    def __init__(
        self,
        model: str = "one",
        *,
        width: int = 8,
        turned: float = 0.0,
        error: Exception | None = None,
    ) -> None:
        self.model = model
        self.sent: list[str] = []
        self._width = width
        self._turned = turned
        self._error = error

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector a text."""
        if self._error is not None:
            raise self._error
        self.sent += texts
        return [self._vector(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """Return the same vector as for a document."""
        return self.embed_documents([text])[0]

    def _vector(self, text: str) -> list[float]:
        values = np.random.default_rng(list(text.encode())).normal(size=self._width)
        values /= np.linalg.norm(values)
        across = np.zeros(self._width)
        across[:2] = -values[1], values[0]  # at a right angle
        across /= np.linalg.norm(across)
        turned = math.cos(self._turned) * values + math.sin(self._turned) * across
        return [float(value) for value in turned]


class SlowClock:
    """Real time at a twentieth of its pace, so that even a busy machine answers within a second."""

    def now(self) -> float:
        """Return the time in seconds."""
        return SYSTEM_CLOCK.now() / 20

    def worked(self) -> float:
        """Return no processor seconds."""
        return 0.0

    worked_here = worked

    def wait(self, condition: threading.Condition, timeout: float) -> None:
        """Wait until notified, or for `timeout` seconds of this clock."""
        SYSTEM_CLOCK.wait(condition, 20 * timeout)


def of(*regions: Embeddings, **options: Any) -> BatchEmbeddings:
    """Return several deployments as one object."""
    made = {"max_batch_size": 10, "max_workers": 4, "_clock": SlowClock(), **options}
    return BatchEmbeddings(regions, **made)


class TestOneObject:
    """A caller need not know that there are several deployments."""

    def test_every_text_has_its_vector(self) -> None:
        """Two deployments share the work, and the vectors keep the caller's order."""
        one, other = Region(), Region()
        embeddings = of(one, other)
        expected = Region().embed_documents(TEXTS)
        assert np.allclose(embeddings.embed_documents(TEXTS), expected)
        assert sorted(set(one.sent) | set(other.sent)) == sorted({*TEXTS, PROBE})
        assert one.sent[0] == other.sent[0] == PROBE

    def test_the_report_tells_each_ones_part(self) -> None:
        """The report lists each deployment's part in order, and the parts add up to the whole."""
        embeddings = of(Region(), Region(), Region())
        embeddings.embed_documents(TEXTS)
        report = embeddings.last_report
        assert report is not None
        assert [type(part) for part in report.deployments] == [DeploymentReport] * 3
        assert sum(part.texts for part in report.deployments) == len(TEXTS)
        assert sum(part.requests for part in report.deployments) == report.requests
        assert sum(part.tokens for part in report.deployments) == report.tokens
        assert "by 3 deployments (" in str(report)
        assert "deployment 3" in report._repr_html_()

    def test_queries_and_coroutines_work_too(self) -> None:
        """Queries and the async methods return the same vectors as a single deployment."""
        embeddings = of(Region(), Region())
        expected = Region().embed_query("a question")
        assert np.allclose(embeddings.embed_query("a question"), expected)
        assert np.allclose(asyncio.run(embeddings.aembed_query("a question")), expected)
        vectors = asyncio.run(embeddings.aembed_documents(TEXTS[:50]))
        assert np.allclose(vectors, Region().embed_documents(TEXTS[:50]))

    def test_a_prefetch_is_answered_by_all(self) -> None:
        """A prefetch uses all deployments, and its report adds up the parts of all its runs."""
        embeddings = of(Region(), Region())
        with embeddings.prefetch(TEXTS):
            assert len(embeddings.embed_documents(TEXTS[:500])) == 500
            assert len(embeddings.embed_documents(TEXTS[500:])) == 500
        report = embeddings.last_report
        assert report is not None
        assert sum(part.texts for part in report.deployments) == len(TEXTS)

    def test_it_can_be_pickled_and_named(self) -> None:
        """A pickled copy has all deployments and works, and the `repr` shows no key."""
        embeddings = of(Region(), Region())
        copy = pickle.loads(pickle.dumps(embeddings))  # noqa: S301
        assert repr(copy) == repr(embeddings)
        assert repr(copy).startswith("BatchEmbeddings([Region, Region], model='one', server=[")
        assert len(copy.deployments) == 2
        assert copy.embeddings is copy.deployments[0]
        assert len(copy.embed_documents(TEXTS[:5])) == 5

    @pytest.mark.skipif(not hasattr(multiprocessing, "get_context"), reason="no fork")
    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    def test_it_works_in_a_forked_process(self) -> None:
        """The object works in a forked process, which has none of the parent's threads."""
        if "fork" not in multiprocessing.get_all_start_methods():
            pytest.skip("there is no fork here")
        embeddings = of(Region(), Region())
        embeddings.embed_documents(TEXTS[:20])
        receive, send = multiprocessing.Pipe(duplex=False)
        child = multiprocessing.get_context("fork").Process(
            target=lambda: send.send(len(embeddings.embed_documents(TEXTS[:30])))
        )
        child.start()
        assert receive.recv() == 30
        child.join()

    @pytest.mark.parametrize("wrap", [tuple, list, iter])
    def test_one_in_a_list_is_one_alone(self, wrap: Callable[[Sequence[Embeddings]], Any]) -> None:
        """A list of one deployment behaves like that deployment alone, without a probe or parts."""
        region = Region()
        embeddings = BatchEmbeddings(wrap([region]))
        embeddings.embed_documents(TEXTS[:5])
        assert embeddings.embeddings is region
        assert region.sent == TEXTS[:5]
        assert embeddings.last_report is not None
        assert embeddings.last_report.deployments == ()
        assert repr(embeddings) == repr(BatchEmbeddings(region))

    def test_the_users_quota_is_that_of_all(self) -> None:
        """The user's quota is split equally between deployments, and a plan uses the sum."""
        embeddings = of(Region(), Region(), tokens_per_minute=6_000_000, requests_per_minute=600)
        pacers = [each.pacer for each in embeddings._pipeline.dispatcher.sender.deployments]
        assert [pacer.tokens.rate for pacer in pacers] == [50_000, 50_000]
        assert [pacer.requests.rate for pacer in pacers] == [5, 5]
        assert embeddings.plan(TEXTS).quota.tokens_per_minute == 6_000_000
        fleet = embeddings.plan(count=1_000_000, tokens_each=100)
        assert fleet.quota.tokens_per_minute == 6_000_000
        assert embeddings.tokens_per_minute == 6_000_000

    def test_the_quota_that_is_seen_is_the_sum(self, server: LocalServer) -> None:
        """The quota in the status and in a plan is the sum of what the servers announce."""
        server.configure(tokens_per_minute=5_000_000, requests_per_minute=3_000)
        embeddings = BatchEmbeddings(
            [
                OpenAIEmbeddings(base_url=server.url, api_key=SecretStr(key), model=MODEL)
                for key in ("one", "two")
            ]
        )
        embeddings.embed_documents(TEXTS)
        status = embeddings._pipeline.dispatcher.status(0.0)
        assert status.tokens_per_minute == 10_000_000
        assert status.requests_per_minute == 6_000
        assert status.quota_seconds == 0
        later = embeddings._pipeline.dispatcher.status(30_000_000.0)
        assert later.quota_seconds == pytest.approx(120, rel=0.05)
        assert embeddings.plan(TEXTS).quota.tokens_per_minute == 10_000_000

    def test_the_batch_api_is_that_of_the_first_openai(self, tmp_path: Path) -> None:
        """The Batch API of the first OpenAI deployment is used, and without one it is an error."""
        path = tmp_path / "journal.db"
        key = SecretStr("sk-test")
        azure = AzureOpenAIEmbeddings(
            azure_endpoint="https://a.openai.azure.com", api_key=key, api_version="2024-02-01"
        )
        with BatchEmbeddings([azure, OpenAIEmbeddings(api_key=key)], journal=path) as embeddings:
            desk = embeddings._desk()
            assert desk.provider.address == "https://api.openai.com/v1/"
            assert desk.limits.provider == OPENAI.provider
            assert desk.provider.space == embeddings._pipeline.provider.space
        with of(Region(), Region(), journal=path) as embeddings, pytest.raises(OptionError):
            embeddings.submit(["text"])

    def test_each_account_shares_its_own_quota(self) -> None:
        """With a named account, deployments at one server share a ledger and other servers do not.

        Keys of one account share the quota of a server.
        """
        pytest.importorskip("redis")
        embeddings = BatchEmbeddings(
            [
                OpenAIEmbeddings(base_url=f"http://127.0.0.1:9/{name}", api_key=SecretStr(key))
                for name, key in (("a", "1"), ("b", "1"), ("b", "2"))
            ],
            quota=SharedQuota("redis://127.0.0.1:9/0", account="us"),
        )
        leasers = embeddings._pipeline.dispatcher._leasers
        hashes = [leaser._ledger._keys[0] for leaser in leasers]  # type: ignore[attr-defined]
        assert len(hashes) == 3
        assert hashes[1] == hashes[2] != hashes[0]


class TestList:
    """A list that does not hold deployments of one model is refused at once."""

    @pytest.mark.parametrize(
        ("wrapped", "says"),
        [
            ([], "the list is empty"),
            ([Region(), BatchEmbeddings(Region())], "batch twice"),
            ([Region(), Region], "not a class"),
            ([Region(), 1], "not int"),
            ({"a": Region()}, "not dict"),
            ([Region("one"), Region("another")], "pass the model's name as model="),
        ],
    )
    def test_a_mistake_is_an_error(self, wrapped: Any, says: str) -> None:
        """A mistake in the list is an error that says what is wrong."""
        with pytest.raises(OptionError, match=says):
            BatchEmbeddings(wrapped)

    def test_names_of_deployments_need_the_models(self) -> None:
        """With `model=` the deployments' names may differ, and prices are those of that model."""
        embeddings = of(Region("east"), Region("west"), model="text-embedding-3-small")
        embeddings.embed_documents(TEXTS[:30])
        assert embeddings.last_report is not None
        assert embeddings.last_report.dollars is not None

    def test_the_address_of_an_endpoint_is_no_name_of_a_model(self) -> None:
        """The address of an endpoint, which some classes take as `model`, is no model's name."""
        assert len(of(Region("http://east"), Region("http://west")).deployments) == 2

    def test_the_same_dimensions_have_to_be_asked_for(self) -> None:
        """Deployments that request different `dimensions` are refused."""
        with pytest.raises(OptionError, match="dimensions=64"):
            BatchEmbeddings(
                [
                    OpenAIEmbeddings(api_key=SecretStr(key), dimensions=width)
                    for key, width in (("a", 64), ("b", 32))
                ]
            )

    @pytest.mark.parametrize("widths", [(None, 64), (64, None), (64, 32)])
    def test_one_account_makes_vectors_of_one_width(self, widths: tuple[int | None, ...]) -> None:
        """Two deployments of one account with other `dimensions` are refused, not just left out."""
        made = [OpenAIEmbeddings(api_key=SecretStr("a"), dimensions=width) for width in widths]
        with pytest.raises(OptionError, match="give both the same"):
            BatchEmbeddings(made)

    def test_an_account_counts_once(self, caplog: pytest.LogCaptureFixture) -> None:
        """Two deployments with the same server, model and key count as one account.

        Another key is another account.
        """
        a, b, again = (
            OpenAIEmbeddings(base_url="http://127.0.0.1:9/v1", api_key=SecretStr(key))
            for key in ("a", "b", "a")
        )
        with caplog.at_level(logging.WARNING):
            embeddings = BatchEmbeddings([a, b, again, b])
        assert embeddings.deployments == (a, b)
        assert "2 of 4 deployments are left out, because they have the server" in caplog.text
        with caplog.at_level(logging.WARNING):
            BatchEmbeddings([a, again])
        assert "1 of 2 deployments is left out, because it has the server" in caplog.text

    def test_another_organisation_is_another_account(self) -> None:
        """Another organisation is another account, even with the same key."""
        made = [
            OpenAIEmbeddings(api_key=SecretStr("a"), organization=name) for name in ("one", "two")
        ]
        assert len(BatchEmbeddings(made).deployments) == 2

    def test_a_request_keeps_the_limits_of_all(self) -> None:
        """A request keeps the limits of all deployments, whichever one receives it."""
        small = Region()
        limits = common([OPENAI, AZURE])
        assert limits.max_batch_size == OPENAI.max_batch_size
        assert BatchEmbeddings([small, Region()]).max_batch_size == 100


class TestSpaces:
    """Vectors of different spaces are refused."""

    @pytest.mark.parametrize(
        "other", [Region(width=9), Region(turned=0.1), Region(turned=math.pi / 2)]
    )
    @pytest.mark.parametrize("turn", [1, -1])
    def test_other_vectors_end_the_call(self, other: Region, turn: int) -> None:
        """Vectors of another space end this call and the next, with one text or many.

        The order of the deployments makes no difference.
        """
        embeddings = of(*[Region(), other][::turn])
        for texts in (TEXTS[:1], TEXTS):
            with pytest.raises(SpaceError, match="list deployments of one model only"):
                embeddings.embed_documents(texts)

    def test_rounding_is_no_difference(self) -> None:
        """Vectors whose cosine is within `TOLERANCE` of 1 count as equal."""
        turned = math.acos(1 - 0.9 * TOLERANCE)
        assert len(of(Region(), Region(turned=turned)).embed_documents(TEXTS)) == len(TEXTS)

    def test_the_error_survives_pickling(self) -> None:
        """A pickled `SpaceError` keeps its message and attributes."""
        error = SpaceError("http://a", "http://b", what="vectors of 2 and 3 numbers")
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301
        assert (str(copy), copy.one, copy.what) == (str(error), error.one, error.what)

    def test_a_journal_holds_later_processes_to_it(self, tmp_path: Path) -> None:
        """A journal holds later processes to its space, even with entirely new deployments."""
        path = tmp_path / "journal.db"
        with of(Region(), Region(), journal=path) as embeddings:
            embeddings.embed_documents(TEXTS[:20])
        changed = Region(turned=0.1), Region(turned=0.1)
        with of(*changed, journal=path) as embeddings:
            assert len(embeddings.embed_documents(TEXTS[:20])) == 20  # all from the journal
            with pytest.raises(SpaceError, match="the journal and"):
                embeddings.embed_documents(TEXTS[:21])


class TestJournal:
    """A vector is kept once, whichever deployment it is from."""

    def test_any_order_finds_the_vectors(self, server: LocalServer, tmp_path: Path) -> None:
        """The journal's vectors are found for any order of the deployments, and for one alone."""
        path = tmp_path / "journal.db"
        made = {
            name: OpenAIEmbeddings(base_url=url, api_key=SecretStr(name))
            for name, url in (
                ("a", server.url),
                ("b", server.url.replace("127.0.0.1", "localhost")),
            )
        }
        for names in ("ab", "ba", "a"):
            with BatchEmbeddings([made[name] for name in names], journal=path) as embeddings:
                embeddings.embed_documents(TEXTS)
                report = embeddings.last_report
            assert report is not None
            assert report.from_journal == (0 if names == "ab" else len(TEXTS)), names


class TestFailures:
    """A call goes on as long as one deployment answers."""

    def test_a_wrong_key_of_one_ends_no_call(
        self, server: LocalServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A deployment with a wrong key is left out, and the log says so without the key."""
        server.configure(api_key="sk-right")
        wrong, right = (
            OpenAIEmbeddings(base_url=server.url, api_key=SecretStr(key))
            for key in ("sk-wrong", "sk-right")
        )
        embeddings = BatchEmbeddings([wrong, right])
        assert len(embeddings.embed_documents(TEXTS)) == len(TEXTS)
        assert embeddings.last_report is not None
        assert [part.texts for part in embeddings.last_report.deployments] == [0, len(TEXTS)]
        assert "is left out (401" in caplog.text
        assert "sk-wrong" not in caplog.text

    def test_wrong_keys_of_all_end_it(self, server: LocalServer) -> None:
        """Wrong keys everywhere end the call with the SDK's error, which names each deployment."""
        server.configure(api_key="sk-right")
        made = [
            OpenAIEmbeddings(base_url=server.url, api_key=SecretStr(key)) for key in ("one", "two")
        ]
        with pytest.raises(openai.AuthenticationError) as caught:
            BatchEmbeddings(made).embed_documents(TEXTS)
        assert isinstance(caught.value, PartialEmbeddingsError)
        assert "none of the 2 deployments can be used" in str(caught.value)
        assert str(caught.value).count("401 invalid_api_key") == 2

    def test_one_that_cannot_be_reached_is_done_without(self, server: LocalServer) -> None:
        """A deployment that cannot be reached, even the first in the list, fails no text."""
        gone = OpenAIEmbeddings(base_url="http://127.0.0.1:9/v1", api_key=SecretStr("a"))
        here = OpenAIEmbeddings(base_url=server.url, api_key=SecretStr("b"))
        assert len(BatchEmbeddings([gone, here]).embed_documents(TEXTS)) == len(TEXTS)
