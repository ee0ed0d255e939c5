"""The reason of a failed batch is read from its errors."""

import pytest

from langchain_batch_embed.batch_api.faults import Fault, Reason, reason_of, told_limit
from tests.batch_api.parts import FILE, QUEUE, REQUESTS, fault


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (fault(QUEUE, "token_limit_exceeded"), Reason.QUEUE),
        (fault(QUEUE), Reason.QUEUE),
        (fault(REQUESTS), Reason.QUEUE),
        (fault("", "token_limit_exceeded"), Reason.QUEUE),
        (
            fault("The number of enqueued tokens has surpassed the configured limit of 30K"),
            Reason.QUEUE,
        ),
        (fault(FILE, "invalid_request", param="file_id"), Reason.UNSEEN),
        (fault(FILE), Reason.UNSEEN),
        (fault("", "invalid_request", param="file_id"), Reason.UNSEEN),
        (fault("Input file not found"), Reason.UNSEEN),
        (
            fault("This line is not parseable as valid JSON.", "invalid_json_line", line=3),
            Reason.LINES,
        ),
        (fault("not valid", "invalid_request", line=1), Reason.LINES),
        (fault("", "too_many_tasks"), Reason.TOO_MANY),
        (fault("", "model_not_found"), Reason.FATAL),
        (fault("", "mismatched_model"), Reason.FATAL),
        (fault("", "url_mismatch", line=1), Reason.FATAL),
        (fault("", "empty_file"), Reason.FATAL),
        (fault("Something went wrong.", "internal_error"), Reason.ODD),
        (fault(), Reason.ODD),
    ],
)
def test_each_failure_has_its_reason(fault: Fault, reason: Reason) -> None:
    """Each failure is classified by its code, its words or the parameter that it names."""
    assert reason_of([fault]) is reason


def test_a_failure_may_say_nothing() -> None:
    """A failure without any error is classified as odd."""
    assert reason_of([]) is Reason.ODD


@pytest.mark.parametrize(
    ("words", "limit"),
    [(QUEUE, 3_000_000), (REQUESTS, None), ("limit of 30K for", 30_000), ("", None)],
)
def test_the_limit_of_the_queue_is_learnt(words: str, limit: int | None) -> None:
    """The limit of the queue is learnt if it is one of tokens."""
    assert told_limit([fault(words)]) == limit
