"""Learns how much one request may hold from the sizes that pass. Pure arithmetic.

A refusal that names its limit is believed. Any other refusal of a batch may be about its size or
about one of its texts, and only its parts show which. If all of them pass, it was the size. If a
single text is refused in the end, it was that text, and no limit is learnt.
"""

import math
from collections.abc import Sequence

from langchain_batch_embed.pacing.diagnosis import Diagnosis
from langchain_batch_embed.pacing.which_quota import LEAST_QUOTA
from langchain_batch_embed.sending.answer_times import AnswerTimes
from langchain_batch_embed.sending.work import Batch, Trial

__all__ = ["PARTS", "SizeLimits"]

SAFETY = 0.95
"""Use this share of a limit that was computed from a refusal, as it rests on an estimate."""

IN_TIME = 1 / 6
"""Batches are cut so that they are probably answered in this share of the time-out."""

LONGEST = 10.0
"""They are also cut to be answered in this many seconds, as a longer batch delays the end."""

GROWTH = 16
"""A deduced limit is raised to this many times a larger size that passes all the same, but only to
that size if a larger one was refused."""

RETEST = 8
"""A deduced limit is retested after this many answers, then after 8 times as many each time."""

TOO_EARLY = 3
"""A batch that passes after this many refusals alone was not too large but too early, and so were
the larger batches before it."""

PARTS = 4
"""A batch with a bad text is cut into this many parts. One round of 4 requests narrows it down to a
quarter. Halves need two rounds of 2: as many requests and more tokens, in twice the time."""

_MEASURES = ("items", "tokens", "octets")


class SizeLimits:
    """The limits of one request at this server, beside those of its provider.

    Attributes:
        items: most texts.
        tokens: most tokens, by the stricter count.
        octets: most UTF-8 bytes of the texts.
        work: most work that is answered in time, in tokens.
        times: the prediction of answer times.
        is_retesting: whether the next batch may be twice as large as a deduced limit.
    """

    def __init__(self) -> None:
        self.items = self.tokens = self.octets = self.work = math.inf
        self._named = dict.fromkeys(_MEASURES, math.inf)  # named by several refusals
        self._told_items: int | None = None  # the last limit of texts that was named
        self._found = dict.fromkeys(_MEASURES, math.inf)  # deduced from sizes that pass
        self._refused = dict.fromkeys(_MEASURES, math.inf)  # smallest size refused for its size
        self._answered = dict.fromkeys(_MEASURES, 0.0)  # the largest sizes that passed
        self._largest_work = 0
        self._late = math.inf  # work of the smallest batch that timed out, until it is retested
        self._late_rest = 1  # answers until then
        self._since_late = 0  # answers since it timed out
        self.times = AnswerTimes()
        self.is_retesting = False
        self._retest_after = RETEST
        self._answers = 0  # since a limit was deduced
        self._before_quota: float | None = None  # the limit of tokens before rate-limit refusals
        self._was_small_refused = False
        self._trials: dict[str, Trial] = {}  # running trials, by signature
        self._about_texts: set[str] = set()  # signatures of refusals that a text caused

    def owns(self, trial: Trial) -> bool:
        """Return whether a trial is about a limit of this server."""
        return self._trials.get(trial.signature) is trial

    def fits(self, batch: Batch) -> bool:
        """Return whether a batch keeps the learnt limits; a single text always does."""
        return len(batch.rows) == 1 or (
            len(batch.rows) <= self.items
            and batch.tokens <= self.tokens
            and batch.octets <= self.octets
        )

    def parts(self, batch: Batch) -> int:
        """Return the number of parts into which to cut a batch to keep the limits, at least 2."""
        shares = (
            len(batch.rows) / self.items,
            batch.tokens / self.tokens,
            batch.octets / self.octets,
        )
        return max(2, min(len(batch.rows), math.ceil(max(shares))))

    def answered(self, batch: Batch, seconds: float, timeout: float) -> list[Batch]:
        """Record that a batch passed; return the parked batches that waited for it."""
        for measure, size in _sizes(batch).items():
            self._answered[measure] = max(self._answered[measure], size)
            if size > self._found[measure]:  # it was wrong, or is so no more
                self._found[measure] = self._raised(measure, size)
                self._apply()
        if self._before_quota is not None:
            if batch.refusals >= TOO_EARLY:
                self._found["tokens"] = self._before_quota
                self._apply()
            self._before_quota = None
        self.times.note(batch.work, seconds, batch.number)
        self._largest_work = max(self._largest_work, batch.work)
        self._raise_work(batch, seconds, timeout)
        self._retest()
        trial = batch.trial
        if trial is None:
            return []
        trial.open -= 1
        size = _sizes(batch)[trial.measure]
        if not trial.is_content and (math.isinf(trial.found) or size > trial.found):
            trial.found = size
            self._apply()
        return self._end(trial)

    def _raised(self, measure: str, size: float) -> float:
        """Return the new deduced limit after a larger size has passed."""
        if size >= self._refused[measure]:
            self._refused[measure] = math.inf  # it was refused for another reason
        if self._refused[measure] == math.inf:
            return GROWTH * size
        self._answers, self._retest_after = 0, RETEST  # one batch soon tests more
        return size

    def _raise_work(self, batch: Batch, seconds: float, timeout: float) -> None:
        """Allow more work again after an answer in good time, but rarely as much as was late."""
        self._since_late += 1
        is_soon = seconds < timeout * IN_TIME or batch.work < self.in_time(timeout)
        if self.work == math.inf or not is_soon:
            return
        most = 2.0 * batch.work
        if self._since_late < self._late_rest:
            most = min(most, max(self._largest_work, self._late / 2))
        else:
            self._late = math.inf
        self.work = max(self.work, most)

    def refused(self, batch: Batch, diagnosis: Diagnosis) -> tuple[int, bool]:
        """Record that a batch of several texts was refused, perhaps for its size.

        Returns:
            The number of parts to cut it into, and whether to park it instead until the parts of
            another batch have shown the cause.
        """
        count = len(batch.rows)
        if diagnosis.max_items is not None and diagnosis.max_items < count:
            self._tell_items(max(1, diagnosis.max_items))
            return self.parts(batch), False
        if diagnosis.share is not None and diagnosis.share < 1:
            self._keep("tokens", max(1, int(batch.tokens * diagnosis.share * SAFETY)))
            return self.parts(batch), False
        trial = batch.trial
        if trial is not None:
            return (PARTS if trial.is_content else 2), False
        signature = diagnosis.signature
        if not self.fits(batch):  # another batch has shown a limit since
            return self.parts(batch), False
        measure = self._suspect(batch, diagnosis)
        if measure is None:
            return PARTS, False
        if (known := self._trials.get(signature)) is not None and math.isinf(known.found):
            known.parked.append(batch)
            return 0, True
        if known is None:
            size = _sizes(batch)[measure]
            batch.trial = self._trials[signature] = Trial(signature, measure, size)
        return 2, False

    def _tell_items(self, limit: int) -> None:
        """Record that a refusal names a limit of texts.

        The words may come from a text that was sent. So a limit named by only one refusal is
        retested now and then like a deduced one, until another refusal names the same.
        """
        if limit == self._told_items:
            self._named["items"] = min(self._named["items"], limit)
        self._told_items = limit
        self._keep("items", limit)

    def inherit(self, batch: Batch, parts: Sequence[Batch]) -> None:
        """Let the parts of a batch continue its trial."""
        trial = batch.trial
        if trial is not None:
            trial.open += len(parts) - 1  # the parts replace the batch
            for part in parts:
                part.trial = trial

    def ended_at_one(self, batch: Batch, diagnosis: Diagnosis) -> list[Batch]:
        """Record that a single text was refused; return the parked batches that waited for it."""
        if diagnosis.measure == "items":  # no limit of texts refuses one: the text says so itself
            self._named["items"] = self._found["items"] = math.inf
            self._told_items = None
            self._apply()
        if batch.signature:
            self._about_texts.add(batch.signature)
        trial = batch.trial
        if trial is None:
            return []
        trial.open -= 1
        trial.is_content = True
        self._about_texts.add(trial.signature)
        return self._end(trial)

    def forget_refusals(self, signature: str) -> None:
        """Forget what refusals taught: those with this signature do not depend on the size.

        Any limit deduced so far may come from them. If it is real, it is deduced again.
        """
        self._about_texts.add(signature)
        if (trial := self._trials.get(signature)) is not None:
            trial.is_content = True  # so that it ends with its next part
        self._found = dict.fromkeys(_MEASURES, math.inf)
        self._refused = dict.fromkeys(_MEASURES, math.inf)
        self._apply()

    @property
    def is_trying(self) -> bool:
        """Whether the parts of a batch are being sent to find the cause of a refusal."""
        return bool(self._trials)

    def parks(self, batch: Batch) -> bool:
        """Park a failed batch until the parts of another one show the cause; return whether it is.

        Only a batch that failed in the same way, and may be too large as well, has to wait.
        """
        trial = self._trials.get(batch.signature)
        if (
            trial is None
            or batch.trial is not None
            or len(batch.rows) == 1
            or math.isfinite(trial.found)
            or not self.fits(batch)
            or self.has_passed_in_size(batch)
        ):
            return False
        trial.parked.append(batch)
        return True

    def is_not_the_size(self, batch: Batch) -> list[Batch]:
        """Record that size is not the cause if as much passed; return the batches that waited."""
        if batch.trial is None or not self.has_passed_in_size(batch):
            return []
        batch.trial.is_content = True
        return self.dropped(batch)

    def dropped(self, batch: Batch) -> list[Batch]:
        """Record that a batch ended in another way; return the batches that waited for it."""
        trial, batch.trial = batch.trial, None
        if trial is None:
            return []
        trial.open -= 1
        return self._end(trial)

    def timed_out(self, batch: Batch) -> None:
        """Record that a batch timed out, so that later ones are smaller.

        If as much work was answered before, the cause is a queue at the server, not the batch.
        """
        if batch.work > self._largest_work:
            if self._late == math.inf:
                self._late_rest *= RETEST
            self._late, self._since_late = min(self._late, batch.work), 0
            self.work = min(self.work, max(1.0, batch.work / 2))

    def has_passed(self, batch: Batch, share: float = 1.0) -> bool:
        """Return whether one request with this share of the batch's tokens has passed before."""
        return share * batch.tokens <= self._answered["tokens"]

    def has_passed_in_size(self, batch: Batch) -> bool:
        """Return whether as many texts, tokens and bytes have passed in one request before."""
        return all(size <= self._answered[name] for name, size in _sizes(batch).items())

    def refused_for_quota(self, batch: Batch) -> None:
        """Record that a batch is refused however long it waits: it exceeds the whole quota.

        A batch that any quota accepts may have been too early each time. It is cut all the same,
        but the first such batch teaches no limit.
        """
        if batch.tokens <= LEAST_QUOTA and not self._was_small_refused:
            self._was_small_refused = True
            return
        if self._before_quota is None:
            self._before_quota = self._found["tokens"]
        self._shrink(batch, "tokens", least=LEAST_QUOTA)

    def refused_for_long(self, batch: Batch) -> None:
        """Record that nothing was accepted for longer than the period of any quota.

        So the cause is the size, in texts or in tokens. Both limits are lowered, and retested
        later.
        """
        self._shrink(batch, "items", "tokens")

    def in_time(self, timeout: float, number: int | None = None) -> float:
        """Return the most work, in tokens, that is likely to be answered well within the time-out.

        `inf` before the first answer.

        Args:
            timeout: seconds for one request.
            number: requests that queue at the server; `None` if they do not queue.
        """
        return self.times.work_within(min(timeout * IN_TIME, LONGEST), number)

    def _retest(self) -> None:
        """Allow a batch twice as large now and then, as a stray refusal may teach a wrong limit."""
        if all(found == math.inf for found in self._found.values()):
            return
        self._answers += 1
        if self._answers >= self._retest_after and not self.is_retesting:
            self._answers, self._retest_after = 0, RETEST * self._retest_after
            self.is_retesting = True
            self._apply()

    def retest_with(self, batch: Batch) -> None:
        """Record that a batch was cut to test whether a deduced limit still holds."""
        if any(size > self._found[name] for name, size in _sizes(batch).items()):
            self.is_retesting = False
            self._apply()

    def _suspect(self, batch: Batch, diagnosis: Diagnosis) -> str | None:
        """Return what the limit would count; `None` if size cannot be the cause."""
        measure = {"bytes": "octets"}.get(diagnosis.measure or "", diagnosis.measure)
        if measure is not None:
            return measure
        if diagnosis.signature in self._about_texts:
            return None
        sizes = _sizes(batch)
        return next((name for name in _MEASURES if sizes[name] > self._answered[name]), None)

    def _end(self, trial: Trial) -> list[Batch]:
        """Return the parked batches once the size or the text is found."""
        if trial.open <= 0 or trial.is_content:
            if self._trials.get(trial.signature) is trial:
                del self._trials[trial.signature]
                if not trial.is_content:
                    self._found[trial.measure] = min(self._found[trial.measure], trial.found)
                    self._refused[trial.measure] = min(self._refused[trial.measure], trial.size)
            self._apply()
        elif math.isinf(trial.found):
            return []
        parked, trial.parked = trial.parked, []
        return parked

    def _shrink(self, batch: Batch, *measures: str, least: float = 0.0) -> None:
        """Limit requests to the size that passed, or to half of a batch that did not.

        Args:
            batch: the batch that did not pass.
            measures: what is limited.
            least: the smallest limit for a batch above this size.
        """
        self._retest_after = max(self._retest_after, RETEST * RETEST)
        self._answers = 0
        sizes = _sizes(batch)
        for measure in measures:
            size, passed = sizes[measure], self._answered[measure]
            found = passed if 0 < passed < size else max(1, size // 2)
            self._keep(measure, max(found, least) if least < size else found)

    def _keep(self, measure: str, size: float) -> None:
        self._found[measure] = min(self._found[measure], size)
        self._apply()

    def _apply(self) -> None:
        """Apply the limits found so far, those of running trials included."""
        factor = 2 if self.is_retesting else 1
        limits = {name: min(self._named[name], factor * self._found[name]) for name in _MEASURES}
        for trial in self._trials.values():
            if not trial.is_content:
                limits[trial.measure] = min(limits[trial.measure], trial.found)
        self.items, self.tokens, self.octets = (limits[name] for name in _MEASURES)


def _sizes(batch: Batch) -> dict[str, float]:
    return {"items": len(batch.rows), "tokens": batch.tokens, "octets": batch.octets}
