"""Documents are read when they are needed, and each has the same id in every run."""

import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from langchain_core.documents import Document

from langchain_batch_embed import InputTypeError, OptionError
from langchain_batch_embed.stores.documents import Reader, check_ids, content_id, take_from


def ids_of(documents: list[Document], **options: Any) -> list[str | None]:
    """Return the ids that a reader gives to these documents."""
    made = {"ids": None, "make_ids": True, "place": "", **options}
    reader = Reader(take_from(documents), **made)
    items = reader.next(len(documents) + 1)
    if reader.broken is not None:
        raise reader.broken
    return [item.id for item in items]


def test_an_id_of_the_content_is_a_uuid_of_text_metadata_and_place() -> None:
    """A content id is a UUID that depends on text, metadata and place, and on nothing else."""
    document = Document("text", metadata={"a": 1, "b": [2]})
    same = Document("text", metadata={"b": [2], "a": 1}, id="an id of its own")
    others = [
        content_id(Document("text 2", metadata=document.metadata), ""),
        content_id(Document("text", metadata={"a": 2, "b": [2]}), ""),
        content_id(Document("text"), ""),
        content_id(document, "another collection"),
    ]
    assert content_id(document, "") == content_id(same, "")
    assert len({content_id(document, ""), *others}) == 5
    assert str(uuid.UUID(content_id(document, ""))) == content_id(document, "")


@pytest.mark.parametrize(
    "metadata",
    [
        {"at": datetime(2026, 1, 1, tzinfo=UTC)},
        {1: "a", "b": 2},
        {"half": "a \ud83d"},
        {"nested": {"set": {1}}},
    ],
)
def test_any_metadata_will_do(metadata: dict[Any, Any]) -> None:
    """Metadata that JSON cannot represent still gives a stable id."""
    first, second = (
        Document.model_construct(page_content="t \udc00", metadata=metadata) for _ in "ab"
    )
    assert content_id(first, "") == content_id(second, "")


def test_equal_documents_have_ids_of_their_own_that_stay() -> None:
    """Equal documents get different ids that stay the same, except with `ids="content"`."""
    given = [Document("a"), Document("b"), Document("a"), Document("a")]
    first = ids_of(given)
    assert len(set(first)) == 4
    assert ids_of(given) == first
    content = ids_of(given, ids="content")
    assert content[0] == content[2] == content[3] == first[0]
    assert content[1] == first[1]


def test_ids_that_there_are_come_first() -> None:
    """Given ids come first, then the documents' own; others are made if the store takes ids."""
    given = [Document("a", id="own"), Document("b")]
    assert ids_of(given, ids=["x", "y"]) == ["x", "y"]
    assert ids_of(given, ids=[None, "y"]) == ["own", "y"]
    assert ids_of(given)[0] == "own"
    assert ids_of(given)[1] is not None
    assert ids_of(given, make_ids=False) == ["own", None]


@pytest.mark.parametrize(("documents", "ids"), [(3000, 2999), (2, 3), (0, 1), (1, 0)])
def test_ids_of_another_length_are_refused_where_both_have_one(documents: int, ids: int) -> None:
    """A list of ids with another length than the documents is refused at once."""
    with pytest.raises(OptionError, match=f"only {min(documents, ids):,} "):
        check_ids([Document("")] * documents, [str(i) for i in range(ids)])


def test_a_word_is_not_an_iterable_of_ids() -> None:
    """A string in place of ids is refused, except "content", which says how to make them."""
    check_ids([], "content")
    with pytest.raises(OptionError, match="'content'"):
        check_ids([], "contents")


@pytest.mark.parametrize("count", [9, 11])
def test_ids_from_a_generator_are_counted_at_the_end(count: int) -> None:
    """Ids from a generator are counted at the end, after the documents before it were read."""
    reader = Reader(take_from([Document("")] * 10), map(str, range(count)), make_ids=True, place="")
    assert len(reader.next(20)) == min(count, 10)
    assert isinstance(reader.broken, OptionError)
    assert reader.next(5) == []


def test_what_came_before_an_error_is_read() -> None:
    """Documents before an error are read, whether the iterable raises or yields a non-document."""

    def generate(wrong: Callable[[], object]) -> Iterator[object]:
        yield Document("a")
        yield wrong()
        yield Document("b")

    def fail() -> object:
        raise OSError("cannot read")

    for wrong, kind in ((fail, OSError), (lambda: "a text", InputTypeError)):
        reader = Reader(take_from(generate(wrong)), None, make_ids=False, place="")
        assert [item.index for item in reader.next(5)] == [0]
        assert isinstance(reader.broken, kind)
        assert reader.count == 1


@pytest.mark.parametrize("one", [Document("secret"), "secret"])
def test_one_document_in_place_of_an_iterable_is_refused(one: object) -> None:
    """One document, or one text, is refused at once, as its parts would be read as documents."""
    with pytest.raises(
        InputTypeError, match=r"an iterable of documents, .* \[document\]"
    ) as caught:
        take_from(one)  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


def test_something_that_is_not_iterable_is_refused() -> None:
    """An object that is not iterable raises an error that names its type."""
    with pytest.raises(InputTypeError, match="not a int"):
        take_from(3)  # type: ignore[arg-type]
