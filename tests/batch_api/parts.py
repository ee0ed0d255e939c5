"""Parts and faults for the tests of the pure modules."""

from typing import Any

from langchain_batch_embed.batch_api.faults import Fault
from langchain_batch_embed.batch_api.records import Part, PartState

INF = float("inf")
QUEUE = (
    "Enqueued token limit reached for text-embedding-3-small in organization org-x. Limit: "
    "3,000,000 enqueued tokens. Please try again once some in_progress batches have been completed."
)
REQUESTS = (
    "Enqueued request limit reached for text-embedding-3-small in organization org-x. Limit: "
    "1,000,000 enqueued requests. Please try again once some in_progress batches have been "
    "completed."
)
FILE = "Cannot find file file-X, or organization org-X does not have access to it."


def part_in(state: PartState, **values: Any) -> Part:
    """Return a part in this state."""
    made = {"id": "p", "job": "j", "number": 0, "texts": 100, "tokens": 1000, **values}
    return Part(state=state, **made)


def fault(words: str = "", code: str | None = None, **values: Any) -> Fault:
    """Return one error of a failed batch."""
    return Fault(code=code, words=words, line=values.pop("line", None), **values)
