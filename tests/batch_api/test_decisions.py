"""The next step for a part, for each of its states and each error of the server."""

from dataclasses import replace
from typing import Any

import pytest

from langchain_batch_embed.batch_api.decisions import (
    SETTLED,
    BatchView,
    Step,
    Waiting,
    failed,
    hopeless,
    next_step,
    observed,
    unseen,
)
from langchain_batch_embed.batch_api.faults import Fault
from langchain_batch_embed.batch_api.records import Part, PartState
from tests.batch_api.parts import FILE, INF, QUEUE, fault, part_in


@pytest.mark.parametrize(
    ("state", "step"),
    [
        ("packed", Step.SUPPLY),
        ("uploading", Step.SUPPLY),
        ("ready", Step.CREATE),
        ("asked", Step.LOOK),
        ("running", Step.POLL),
        ("ended", Step.COLLECT),
    ],
)
def test_each_state_has_its_step(state: PartState, step: Step) -> None:
    """Each state of a part has its next step, unless the part has to wait."""
    assert next_step(part_in(state), now=10, room=INF).step is step
    rest = next_step(part_in(state, not_before=20), now=10, room=INF)
    assert (rest.step, rest.until) == (Step.REST, 20)


def test_a_batch_needs_room() -> None:
    """A batch is created only if its tokens fit into the account's queue."""
    assert next_step(part_in("ready"), now=0, room=999).step is Step.REST
    assert next_step(part_in("ready"), now=0, room=1000).step is Step.CREATE
    assert next_step(part_in("running"), now=0, room=-5).step is Step.POLL


@pytest.mark.parametrize("state", ["packed", "uploading", "ready"])
def test_what_is_cancelled_is_not_sent(state: PartState) -> None:
    """Cancelled parts are not sent, but one that may have a batch is still looked up and read."""
    assert next_step(part_in(state), now=0, room=INF, is_cancelled=True).step is Step.COLLECT
    for other in ("asked", "running", "ended"):
        cancelled = next_step(part_in(other), now=0, room=INF, is_cancelled=True)
        assert cancelled == next_step(part_in(other), now=0, room=INF)


def test_what_is_late_gets_no_batch() -> None:
    """A late part gets no batch, but is written to a file while this process has its texts."""
    assert next_step(part_in("ready"), now=0, room=INF, is_late=True).step is Step.REST
    assert next_step(part_in("packed"), now=0, room=INF, is_late=True).step is Step.SUPPLY
    with_source = part_in("packed", source="other")
    assert next_step(with_source, now=0, room=INF, is_late=True).step is Step.REST


def test_a_batch_is_looked_for_until_it_cannot_exist() -> None:
    """A batch of unknown outcome is looked for until it cannot exist, and then created again."""
    part = part_in("asked", asked=1.0)
    now = 100.0  # the request may have been on its way until this time
    looks = 0
    while part.state == "asked":
        part = unseen(part, now=now)
        looks += 1
        assert looks < 20
        if part.state == "asked":
            assert part.not_before > now
            now = part.not_before
    assert now >= 100.0 + SETTLED
    assert part.state == "ready"
    assert looks >= 4


@pytest.mark.parametrize(
    ("status", "state"),
    [
        *((status, "running") for status in ("validating", "in_progress", "finalizing")),
        ("cancelling", "running"),
        *((status, "ended") for status in ("completed", "expired", "cancelled")),
        ("a new state", "running"),
    ],
)
def test_a_batch_ends_in_three_states(status: str, state: str) -> None:
    """Completed, expired and cancelled batches have ended; a failed one is handled elsewhere."""
    part = observed(part_in("running"), BatchView(id="b", status=status), now=0)
    assert (part.state, part.status, part.batch_id) == (state, status, "b")


def test_empty_ids_are_none() -> None:
    """An empty file id means none, because some servers send "" for it."""
    view = BatchView(id="b", status="completed", output_id="", error_id="e")
    part = observed(part_in("running"), view, now=0)
    assert (part.output_id, part.error_id) == (None, "e")


def test_answers_without_an_output_are_not_believed_at_once() -> None:
    """A completed batch with answers but no output is polled again, a bounded number of times.

    Otherwise all answers would be paid for again.
    """
    view = BatchView(id="b", status="completed", completed=5)
    part = part_in("running")
    looks = 0
    while part.state == "running":
        part = observed(part, view, now=0)
        looks += 1
        assert looks < 50
    assert looks > 5
    whole = replace(view, output_id="f")
    assert observed(part_in("running"), whole, now=0).state == "ended"


def test_full_queues_do_not_shorten_the_wait_for_an_output() -> None:
    """Earlier waits for a full queue do not shorten the wait for an output."""
    view = BatchView(id="b", status="completed", completed=5)
    part = part_in("running", tries=40, trouble="queue", alike=40)
    assert observed(part, view, now=0).state == "running"


def test_a_batch_under_validation_keeps_the_count_of_refusals() -> None:
    """A batch under validation keeps the count of refusals, and one that runs resets it.

    Validation may still refuse it for the same reason.
    """
    part = part_in("running", tries=2, trouble="queue", alike=2)
    part = observed(part, BatchView(id="b", status="validating"), now=0)
    assert (part.tries, part.trouble, part.alike) == (2, "queue", 2)
    part = observed(part, BatchView(id="b", status="in_progress"), now=0)
    assert (part.tries, part.trouble, part.alike) == (0, None, 0)


def test_polls_are_polite() -> None:
    """The pauses between polls grow from seconds to a minute."""
    ages = (0.0, 60.0, 600.0, 86_400.0)
    view = BatchView(id="b", status="in_progress")
    pauses = [
        observed(part_in("running", asked=0.0), view, now=age).not_before - age for age in ages
    ]
    assert pauses == [2.0, 6.0, 60.0, 60.0]


class TestFailed:
    """The next state of a part whose batch has failed."""

    def after(self, what: Fault, part: Part, **values: Any) -> Waiting:
        """Return the decision for a part after this fault."""
        given = {"now": 100.0, "limit": INF, "in_queue": False, **values}
        return failed(part, [what], **given)

    def test_the_queue_is_waited_for(self) -> None:
        """A full queue is waited for, longer each time, up to half an hour."""
        part = part_in("running", batch_id="b", texts=1)
        pauses = []
        for _ in range(10):
            part = self.after(fault(QUEUE), part).part
            assert (part.state, part.batch_id) == ("ready", None)
            pauses.append(part.not_before - 100)
        assert pauses == [30, 60, 120, 240, 480, 960, *[1800] * 4]

    def test_a_file_over_the_limit_is_cut(self) -> None:
        """A file above the limit of the queue is cut, because it would never fit."""
        waiting = self.after(fault(QUEUE), part_in("running"), limit=300)
        assert waiting.repack == 300

    def test_smaller_files_are_tried_where_the_queue_is_full_of_others(self) -> None:
        """If other jobs fill the queue, smaller files are tried, which may fit into a gap."""
        part = part_in("running", tries=2, trouble="queue", alike=2)
        assert self.after(fault(QUEUE), part).repack == 500
        assert self.after(fault(QUEUE), part, in_queue=True).repack is None
        assert self.after(fault(QUEUE), replace(part, texts=1)).repack is None

    def test_a_file_that_cannot_be_found_is_uploaded_again_at_last(self) -> None:
        """A file that cannot be found is uploaded again every sixth time."""
        part = part_in("running")
        again = []
        for _ in range(12):
            waiting = self.after(fault(FILE), part)
            part = waiting.part
            again.append(waiting.again)
        assert again == ([False] * 5 + [True]) * 2

    @pytest.mark.parametrize("words", [QUEUE, FILE, ""])
    def test_it_ends(self, words: str) -> None:
        """Repeated failures end the part after a bounded number."""
        waiting = self.after(fault(words), part_in("running", texts=1))
        count = 1
        while waiting.fatal is None and count < 1000:
            waiting = self.after(fault(words), waiting.part)
            count += 1
        assert count == (3 if not words else 301)

    def test_failures_for_other_reasons_do_not_count(self) -> None:
        """Failures for another reason do not count.

        After an hour of full queues, one failure without a reason is the first of its kind.
        """
        part = part_in("running", texts=1)
        for _ in range(20):
            part = self.after(fault(QUEUE), part).part
        odd = self.after(fault(""), part)
        assert (odd.fatal, odd.part.not_before) == (None, 105.0)
        missing = self.after(fault(FILE), odd.part)
        assert (missing.again, missing.part.not_before) == (False, 101.0)

    def test_reasons_in_turn_end_too(self) -> None:
        """Alternating reasons end the part after the same bound."""
        waiting, count = self.after(fault(QUEUE), part_in("running", texts=1)), 1
        while waiting.fatal is None and count < 1000:
            count += 1
            waiting = self.after(fault(QUEUE if count % 2 else FILE), waiting.part)
        assert count == 301

    def test_what_cannot_succeed_ends_at_once(self) -> None:
        """A failure that cannot succeed ends the part at once with its code, not its words."""
        waiting = self.after(fault("my words", "model_not_found"), part_in("running"))
        assert waiting.fatal is not None
        assert "model_not_found" in waiting.fatal
        assert "my words" not in waiting.fatal

    def test_too_many_inputs_are_halved(self) -> None:
        """A batch with too many inputs is halved, as the limit is unknown."""
        assert self.after(fault("", "too_many_tasks"), part_in("running")).repack == 500


def test_a_job_is_given_up_after_ten_barren_batches() -> None:
    """A job is given up after ten batches without an answer.

    The collector resets the count after an answer.
    """
    assert hopeless(9, "batches") is None
    assert hopeless(10, "batches") == "10 batches in a row brought no answer"
