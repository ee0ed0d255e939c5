"""What an `IngestReport` says."""

import pytest

from langchain_batch_embed.report import IngestFailure, IngestReport


def report(documents: int, failed: int) -> IngestReport:
    """Return the report of an ingest in which the last documents failed."""
    return IngestReport(
        documents=documents,
        tried=documents,
        stored=documents - failed,
        failures=tuple(
            IngestFailure(index=index, id=None, stage="writing", error=ValueError())
            for index in range(documents - failed, documents)
        ),
        ids=(),
        seconds=1.0,
        waited=0.5,
    )


@pytest.mark.parametrize(
    ("documents", "failed", "said"),
    [
        (1, 1, "1 of 1 document is not in the store (writing: ValueError)"),
        (2, 1, "1 of 2 documents is not in the store (writing: ValueError)"),
        (2000, 1500, "1,500 of 2,000 documents are not in the store (writing: ValueError)"),
    ],
)
def test_the_verb_agrees_with_what_is_counted(documents: int, failed: int, said: str) -> None:
    """The message counts the documents that are not in the store in correct English."""
    assert report(documents, failed).missing() == said


def test_one_document_is_counted_in_the_singular() -> None:
    """The line for a log names one document, not one documents."""
    assert str(report(1, 0)).startswith("1 document (1 stored) in 1.00 s")
