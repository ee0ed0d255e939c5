"""Rows are written once and reported truthfully, whatever the store does."""

import random
import re
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from pytest_mock import MockerFixture

from langchain_batch_embed import BatchEmbeddings, IngestError, IngestReport, NotKeptError
from tests.stores.fakes import CountingEmbeddings, NoIdsStore, TableStore, batching, documents
from tests.support import FakeClock, has_requests_in_flight, wait_until


class HttpError(Exception):
    """An error with an HTTP status."""

    def __init__(self, status: int, message: str = "") -> None:
        super().__init__(message)
        self.status_code = status


def raised(call: Callable[[], object]) -> IngestError:
    """Return the `IngestError` that a call raises."""
    with pytest.raises(IngestError) as caught:
        call()
    return caught.value


class TestAway:
    """An ingest waits for a store that is away or busy, and halves a call that is too large."""

    @pytest.mark.parametrize("seconds", [1, 20, 500])
    @pytest.mark.parametrize(
        "error",
        [
            ConnectionError("refused"),
            sqlite3.OperationalError("database is locked"),
            HttpError(503),
            TimeoutError("timed out"),
        ],
    )
    def test_nothing_is_lost(self, seconds: float, error: Exception) -> None:
        """No document is lost while a store is away, for however long and with whatever error."""
        clock = FakeClock()

        def look(texts: list[str]) -> None:
            del texts
            if len(store.rows) >= 300 and len(gone) < 3 and not gone:
                gone.append(clock.time)
            if gone and clock.time < gone[0] + seconds:
                raise error

        gone: list[float] = []
        embeddings = batching(clock=clock)
        store = TableStore(embeddings, look)
        report = embeddings.ingest(store, documents(2000))
        assert (report.stored, report.failures, report.unknown) == (2000, (), ())
        assert sorted(store.rows.values()) == sorted(d.page_content for d in documents(2000))
        assert clock.time < seconds + 40

    def test_time_outs_of_any_size_leave_calls_large(self) -> None:
        """If every twentieth call times out whatever its size, few calls write all documents."""
        calls = 0

        def look(texts: list[str]) -> None:
            nonlocal calls
            del texts
            calls += 1
            (prefetch,) = embeddings._pipeline.prefetches.opened
            wait_until(lambda: not prefetch.running)  # calls are small only if embedding is slower
            if calls % 20 == 0:
                raise TimeoutError("timed out")

        embeddings = batching(clock=FakeClock())
        store = TableStore(embeddings, look)
        report = embeddings.ingest(store, documents(6000), batch_size=128)
        assert (report.stored, report.failures) == (6000, ())
        assert report.retries > 0
        assert calls <= 100  # 47 of 128 documents each would be the fewest

    def test_after_max_outage_it_ends(self) -> None:
        """After `max_outage` the ingest ends and reports which documents may be stored."""
        clock = FakeClock()

        def look(texts: list[str]) -> None:
            if "section 500" in texts:
                raise ConnectionError("gone")

        embeddings = batching(clock=clock, max_outage=100)
        store = TableStore(embeddings, look)
        error = raised(lambda: embeddings.ingest(store, documents(2000), batch_size=100))
        assert 100 <= clock.time < 120
        report = error.report
        assert report.stored == len(store.rows) == 500
        assert report.unknown == tuple(range(500, report.tried))
        assert "did not answer" in str(error)

    def test_a_limit_is_learnt(self) -> None:
        """A statement timeout above 200 rows costs a few calls, not every second one."""
        refused = []

        def look(texts: list[str]) -> None:
            if len(texts) > 200:
                refused.append(len(texts))
                raise RuntimeError("canceling statement due to statement timeout")

        embeddings = batching()
        store = TableStore(embeddings, look)
        report = embeddings.ingest(store, documents(20_000))
        assert report.stored == len(store.rows) == 20_000
        assert len(refused) <= 8
        assert len(store.calls) <= 300  # 100 at best; threads decide how texts are grouped

    @pytest.mark.parametrize(
        "message",
        [
            "Batch size of 500 is greater than max batch size of 166",
            "no word that anybody knows",
        ],
    )
    def test_a_limit_in_any_words_is_learnt(self, message: str) -> None:
        """A limit is learnt even from an unknown message, because a halved call succeeds."""
        refused = []

        def look(texts: list[str]) -> None:
            if len(texts) > 166:
                refused.append(len(texts))
                raise ValueError(message)

        embeddings = batching()
        store = TableStore(embeddings, look)
        report = embeddings.ingest(store, documents(10_000))
        assert report.stored == len(store.rows) == 10_000
        assert len(refused) <= 8

    @pytest.mark.parametrize(
        ("sizes", "most"),
        [({"chunk_size": 50}, 50), ({"bulk_size": 70}, 70), ({"chunk_size": 9, "bulk_size": 8}, 8)],
    )
    def test_a_size_that_the_store_names_is_kept_to(self, sizes: dict[str, int], most: int) -> None:
        """No call exceeds the size that a store announces, in `chunk_size` or in `bulk_size`.

        Supabase has the first; OpenSearch has the second and refuses more.
        """
        embeddings = batching()
        store = TableStore(embeddings)
        vars(store).update(sizes)
        embeddings.ingest(store, documents(400))
        assert max(store.calls) == most


class TestBadDocuments:
    """Exactly the bad documents fail, however many there are and wherever they are."""

    @pytest.mark.parametrize("batch_size", [20, 64, 1024])
    @pytest.mark.parametrize("where", ["scattered", "at the start", "in a row", "at the end"])
    @pytest.mark.parametrize("by", ["store", "provider", "both"])
    @pytest.mark.parametrize("error", [ValueError("NUL (0x00)"), RuntimeError("no")])
    def test_two_hundred(self, batch_size: int, where: str, by: str, error: Exception) -> None:
        """Exactly 200 bad documents fail, refused by the provider, the store, or half by each."""
        bad = {
            "scattered": set(random.Random(1).sample(range(2000), 200)),
            "at the start": set(range(200)),
            "in a row": set(range(700, 900)),
            "at the end": set(range(1800, 2000)),
        }[where]
        by_provider = {"store": set(), "provider": bad, "both": {i for i in bad if i % 2}}[by]

        def refuse(numbers: set[int], wrong: Exception) -> Callable[[list[str]], None]:
            names = {f"section {number}" for number in numbers}

            def look(texts: list[str]) -> None:
                if not names.isdisjoint(texts):
                    raise wrong

            return look

        embeddings = batching(CountingEmbeddings(before=refuse(by_provider, HttpError(400, "bad"))))
        store = TableStore(embeddings, refuse(bad - by_provider, error))
        report = embeddings.ingest(store, documents(2000), batch_size=batch_size)
        assert {failure.index for failure in report.failures} == bad
        assert {f.index for f in report.failures if f.stage == "embedding"} == by_provider
        assert report.stored == len(store.rows) == 1800

    def test_a_store_that_refuses_everything_ends_it(self) -> None:
        """A store that refuses everything ends the ingest after at most 500 texts are embedded."""

        def look(texts: list[str]) -> None:
            raise RuntimeError(f"no, never, {len(texts)}")

        wrapped = CountingEmbeddings()
        embeddings = batching(wrapped)
        store = TableStore(embeddings, look)
        error = raised(lambda: embeddings.ingest(store, documents(10_000)))
        assert wrapped.sent <= 500
        assert len(store.calls) <= 3000
        assert error.report.stored == 0
        assert "whole batches failed" in str(error)

    @pytest.mark.parametrize(
        "error",
        [
            ValueError("expected 8 dimensions, not 16"),
            HttpError(401, "Unauthorized"),
            HttpError(404, "no such collection"),
            sqlite3.OperationalError("no such table: documents"),
        ],
    )
    def test_a_wrong_table_costs_one_small_batch(self, error: Exception) -> None:
        """A wrong table or wrong rights end the ingest after at most 100 texts and 12 calls."""

        def look(texts: list[str]) -> None:
            del texts
            raise error

        wrapped = CountingEmbeddings()
        embeddings = batching(wrapped)
        store = TableStore(embeddings, look)
        caught = raised(lambda: embeddings.ingest(store, documents(10_000)))
        assert caught.__cause__ is error
        assert wrapped.sent <= 100
        assert len(store.calls) <= 12

    def test_rights_that_end_half_way_end_it(self) -> None:
        """A token that expires during an ingest ends it after 8 documents and few calls."""

        def look(texts: list[str]) -> None:
            del texts
            if len(store.rows) >= 1000:
                raise HttpError(401, "token expired")

        embeddings = batching()
        store = TableStore(embeddings, look)
        report = raised(lambda: embeddings.ingest(store, documents(10_000))).report
        assert report.stored == len(store.rows) >= 1000
        assert len(report.failures) == 8
        assert len(store.calls) <= 60

    def test_a_policy_about_single_rows_ends_nothing(self) -> None:
        """A policy that refuses single rows does not end the ingest; the other rows are stored."""

        def look(texts: list[str]) -> None:
            if any(text in texts for text in ("section 0", "section 50", "section 51")):
                raise HttpError(403, "new row violates row-level security policy")

        embeddings = batching()
        store = TableStore(embeddings, look)
        report = embeddings.ingest(store, documents(1000))
        assert [failure.index for failure in report.failures] == [0, 50, 51]
        assert report.stored == 997


class TestIds:
    """A row that is written again replaces the first one."""

    def test_a_second_run_replaces_rows(self) -> None:
        """A second run replaces all rows, with and without ids, and keeps equal documents apart."""
        embeddings = batching()
        store = TableStore(embeddings)
        given = [*documents(300), *documents(10), *documents(5, ids=True)]
        for _ in "ab":
            report = embeddings.ingest(store, given)
            assert report.stored == len(store.rows) == 315
            assert report.keeps_ids
            assert sorted(report.ids) == sorted(store.rows)

    def test_ids_of_the_content_make_equal_documents_one_row(self) -> None:
        """With content ids, equal documents become one row, even if they have ids of their own."""
        embeddings = batching()
        store = TableStore(embeddings)
        given = [*documents(30), *documents(10), *documents(30, ids=True)]
        report = embeddings.ingest(store, given, ids="content")
        assert len(store.rows) == report.stored == 30
        assert report.replaced == 40
        assert report.tried == report.documents == 70

    @pytest.mark.parametrize("batch_size", [7, 1024])
    def test_of_an_id_that_comes_twice_the_last_one_counts(self, batch_size: int) -> None:
        """Of an id that occurs twice the last document counts, and no call contains the id twice.

        PostgreSQL and Chroma refuse such a call.
        """

        class Strict(TableStore):
            def add_texts(self, *args: Any, **kwargs: Any) -> list[str]:
                assert len(set(kwargs["ids"])) == len(kwargs["ids"])
                return super().add_texts(*args, **kwargs)

        given = documents(1000, ids=True)
        for i in range(50, 1000, 100):
            given[i] = Document(f"later {i}", id=given[i - 1].id)
        embeddings = batching()
        store = Strict(embeddings)
        report = embeddings.ingest(store, given, batch_size=batch_size)
        assert store.rows == {document.id: document.page_content for document in given}
        assert (report.stored, report.replaced) == (990, 10)
        assert report.retries == 0

    def test_where_the_last_one_fails_the_one_before_counts(self) -> None:
        """If the last document of an id fails, the one before it is stored."""

        def look(texts: list[str]) -> None:
            if "bad" in texts:
                raise ValueError("bad")

        given = documents(50, ids=True)
        given += [
            Document("good", id="id 7"),
            Document("bad", id="id 7"),
            Document("bad", id="id 8"),
        ]
        embeddings = batching()
        store = TableStore(embeddings, look)
        report = embeddings.ingest(store, given)
        assert (store.rows["id 7"], store.rows["id 8"]) == ("good", "section 8")
        assert [failure.index for failure in report.failures] == [51, 52]
        assert (report.stored, report.replaced) == (50, 1)

    def test_a_table_whose_ids_are_numbers_is_filled_without(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A table with numeric ids is filled without ids, and a warning says a rerun adds rows."""

        class Numbers(TableStore):
            def add_texts(self, *args: Any, **kwargs: Any) -> list[str]:
                if kwargs.get("ids"):
                    raise ValueError("invalid input syntax for type bigint")
                return super().add_texts(*args, **kwargs)

        embeddings = batching()
        store = Numbers(embeddings)
        report = embeddings.ingest(store, documents(500))
        assert len(store.rows) == report.stored == 500
        assert not report.keeps_ids
        assert "adds them again" in caplog.text

    def test_a_store_that_returns_other_ids_does_not_keep_those_it_is_given(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A store that returns other ids is taken to keep none, so no failed call is repeated."""

        class Own(TableStore):
            def add_texts(self, *args: Any, **kwargs: Any) -> list[str]:
                kwargs.pop("ids", None)
                return super().add_texts(*args, **kwargs)

        def look(texts: list[str]) -> None:
            if "section 450" in texts:
                raise RuntimeError("half of it is written")

        embeddings = batching()
        store = Own(embeddings, look)
        report = raised(lambda: embeddings.ingest(store, documents(500), batch_size=100)).report
        assert not report.keeps_ids
        assert "other ids" in caplog.text
        assert report.stored == 400
        assert report.unknown[0] == 400
        assert len(set(store.rows.values())) == len(store.rows)

    def test_a_call_without_ids_that_cannot_be_undone_ends_the_ingest(
        self, mocker: MockerFixture
    ) -> None:
        """If the store can undo neither try, an `IngestError` with the report is raised."""

        class Broken(TableStore):
            def add_texts(self, *_: Any, **kwargs: Any) -> list[str]:
                if not kwargs.get("ids"):
                    mocker.patch(
                        "langchain_batch_embed.stores.rows.roll_back", side_effect=OSError("locked")
                    )
                raise ValueError("invalid input syntax for type bigint")

        embeddings = batching()
        store = Broken(embeddings)
        error = raised(lambda: embeddings.ingest(store, documents(3)))
        assert "could not undo" in str(error)
        assert error.report.stored == 0

    @pytest.mark.parametrize("prefix", ["doc:index:", ""])
    def test_ids_may_be_returned_in_another_form(self, prefix: str) -> None:
        """Ids may come back in another form, such as Redis keys or UUIDs without hyphens."""

        class Keys(TableStore):
            def add_texts(self, *args: Any, **kwargs: Any) -> list[str]:
                names = super().add_texts(*args, **kwargs)
                return [prefix + name.replace("-", "") for name in names]

        embeddings = batching()
        assert embeddings.ingest(Keys(embeddings), documents(300)).keeps_ids

    def test_documents_that_the_store_drops_are_failures(self) -> None:
        """Documents for which the store returns no id, but raises no error, are failures."""

        class Dropping(TableStore):
            def add_texts(self, texts: Any, *_: Any, **kwargs: Any) -> list[str]:
                kept = [i for i, text in enumerate(texts) if not text.endswith("0")]
                kwargs["ids"] = [kwargs["ids"][i] for i in kept]
                return super().add_texts([texts[i] for i in kept], **kwargs)

        embeddings = batching()
        store = Dropping(embeddings)
        report = embeddings.ingest(store, documents(300))
        assert report.stored == len(store.rows) == 270
        assert [failure.index for failure in report.failures] == list(range(0, 300, 10))
        assert all(isinstance(failure.error, NotKeptError) for failure in report.failures)

    def test_of_a_store_without_ids_it_is_counted_right(self) -> None:
        """If a store without ids drops rows, the count is right and its documents are unknown."""

        class Dropping(NoIdsStore):
            def add_texts(self, texts: Any, *args: Any, **kwargs: Any) -> list[str]:
                return super().add_texts(list(texts)[::2], *args, **kwargs)

        embeddings = batching()
        store = Dropping(embeddings)
        report = embeddings.ingest(store, documents(60))
        assert report.stored == len(store.rows) == 30
        assert report.unknown == tuple(range(60))

    def test_what_a_store_without_ids_may_have_written_is_not_written_again(self) -> None:
        """A store without ids is not written to again after an error that may have stored rows.

        The ingest stops, and the error says for which documents the outcome is unknown.
        """

        def look(texts: list[str]) -> None:
            if "section 450" in texts:
                store.rows["half"] = "section 400"
                raise RuntimeError("half of it is written")

        wrapped = CountingEmbeddings()
        embeddings = batching(wrapped)
        store = NoIdsStore(embeddings, look)
        error = raised(lambda: embeddings.ingest(store, documents(500), batch_size=100))
        report = error.report
        assert (report.stored, report.tried) == (400, report.unknown[-1] + 1)
        assert report.unknown[0] == 400
        assert list(store.rows.values()).count("section 400") == 1
        assert re.search(
            r"takes no ids.*look in the store for .* documents that may be", str(error)
        )


class TestSaid:
    """A failure is always reported; silence never means success."""

    @pytest.mark.parametrize("count", [1, 3, 7, 40])
    @pytest.mark.parametrize("by", ["store", "provider", "key"])
    def test_nothing_stored_is_an_error(self, count: int, by: str) -> None:
        """If nothing is stored, `ingest` raises an error, even for one document."""

        def fail(error: Exception) -> Callable[[list[str]], None]:
            def look(texts: list[str]) -> None:
                del texts
                raise error

            return look

        def nothing(texts: list[str]) -> None:
            del texts

        wrong = {"provider": HttpError(400, "no"), "key": HttpError(401, "wrong key")}.get(by)
        embeddings = batching(CountingEmbeddings(before=fail(wrong) if wrong else nothing))
        store = TableStore(embeddings, fail(RuntimeError("no")) if by == "store" else nothing)
        error = raised(lambda: embeddings.ingest(store, documents(count)))
        said = "the first document is not stored" if count == 1 else "none is stored"
        assert said in str(error)
        assert len(error.report.failures) == count
        assert "section" not in str(error)

    @pytest.mark.parametrize("status", [401, 403, 404])
    def test_a_wrong_key_ends_it_at_once(self, status: int) -> None:
        """A wrong key ends the ingest after little more than the first request's texts."""
        sent: set[str] = set()

        def refuse(texts: list[str]) -> None:
            sent.update(texts)
            raise HttpError(status, "no")

        embeddings = batching(CountingEmbeddings(before=refuse))
        error = raised(lambda: embeddings.ingest(TableStore(embeddings), documents(10_000)))
        assert isinstance(error.__cause__, HttpError)
        assert len(sent) <= 200

    def test_a_partial_failure_is_one_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        """A partial failure logs one warning with counts, stages and error types, but no text."""

        def refuse(texts: list[str]) -> None:
            if "section 7" in texts:
                raise ValueError("section 7 is bad")

        def fail(texts: list[str]) -> None:
            if {"section 8", "section 9"} & set(texts):
                raise HttpError(400, "section 8 is bad")

        embeddings = batching(CountingEmbeddings(before=fail))
        embeddings.ingest(TableStore(embeddings, refuse), documents(52))
        (said,) = [record for record in caplog.records if record.levelname == "WARNING"]
        assert said.getMessage() == (
            "3 of 52 documents are not in the store (embedding: HttpError, writing: ValueError); "
            "see report.failures"
        )

    def test_a_report_prints_in_a_line_and_in_a_notebook(self) -> None:
        """A report prints as one line and as an HTML table, without the many ids."""
        embeddings = batching()
        report = embeddings.ingest(TableStore(embeddings), documents(1234))
        assert str(report).startswith("1,234 documents (1,234 stored) in ")
        assert "another ingest" not in str(report)
        assert "<table><caption>IngestReport</caption>" in report._repr_html_()
        assert "1,234" in report._repr_html_()
        without = embeddings.ingest(NoIdsStore(embeddings), documents(5))
        assert "another ingest adds rows again" in str(without)
        assert "adds rows again" in without._repr_html_()
        lost = IngestReport(
            documents=9,
            tried=9,
            stored=2,
            replaced=1,
            failures=(),
            unknown=(4, 5),
            ids=(),
            retries=3,
            seconds=2.5,
            waited=1.25,
        )
        assert str(lost) == (
            "9 documents (2 stored, 1 replaced by a later one, 2 unknown) in 2.50 s, 1.25 s of "
            "them waiting for vectors, 3 retries"
        )


class TestPaid:
    """Vectors that were paid for are kept."""

    @pytest.mark.parametrize("error", [RuntimeError("no"), PermissionError("no")])
    def test_vectors_of_a_run_that_stops_are_kept(self, error: Exception) -> None:
        """Even without a journal, the vectors of a stopped ingest are kept for the next call."""

        def look(texts: list[str]) -> None:
            del texts
            if len(store.rows) >= 400:
                raise error

        wrapped = CountingEmbeddings()
        embeddings = batching(wrapped)
        store = TableStore(embeddings, look)
        report = raised(lambda: embeddings.ingest(store, documents(5000), batch_size=100)).report
        wait_until(lambda: not has_requests_in_flight(embeddings))
        rest = documents(5000)[report.tried :]
        second = TableStore(embeddings)
        assert embeddings.ingest(second, rest).stored == len(rest)
        assert wrapped.sent == 5000

    def test_those_of_documents_that_the_store_refuses_are_kept_too(self) -> None:
        """Vectors of documents that the store refused are kept for a second try."""

        def look(texts: list[str]) -> None:
            if not store.mended and any(text.endswith("7") for text in texts):
                raise ValueError("no")

        class Mended(TableStore):
            mended = False

        wrapped = CountingEmbeddings()
        embeddings = batching(wrapped)
        store = Mended(embeddings, look)
        report = embeddings.ingest(store, documents(500))
        store.mended = True
        again = [documents(500)[failure.index] for failure in report.failures]
        assert embeddings.ingest(store, again).stored == 50
        assert wrapped.sent == 500

    def test_also_where_the_documents_raise(self) -> None:
        """Vectors are kept after Ctrl-C too."""
        wrapped = CountingEmbeddings()
        embeddings = batching(wrapped)

        def stop(texts: list[str]) -> None:
            if "section 300" in texts:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            embeddings.ingest(TableStore(embeddings, stop), documents(500), batch_size=100)
        wait_until(lambda: not has_requests_in_flight(embeddings))
        embeddings.ingest(TableStore(embeddings), documents(500)[300:])
        assert wrapped.sent == 500


class TestFaissLike:
    """LangChain's own store can be read, so the outcome of a failed call can be checked."""

    def test_a_document_that_is_there_is_never_reported_as_failed(self) -> None:
        """A stored document is not reported as failed, even if every call raises after it wrote."""
        embeddings: BatchEmbeddings = batching()
        store = InMemoryVectorStore(embeddings)
        add = store.add_documents

        def lose(documents: list[Document], **options: Any) -> list[str]:
            add(documents, **options)
            raise RuntimeError("the answer is lost")

        vars(store)["add_documents"] = lose
        report = embeddings.ingest(store, documents(20))
        assert (report.stored, report.failures) == (20, ())
        assert len(store.store) == 20
