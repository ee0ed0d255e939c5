"""Batches keep every limit and contain every input once, in order and in an efficient shape."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from langchain_batch_embed.texts.packing import (
    GUIDED_LEAST,
    INPUT_WORK,
    WAVE_LEAST,
    WAVE_MOST,
    _Line,
    pack,
)
from tests.support import examples

# Short texts as usual, and a few that exceed every limit.
WEIGHTS = st.lists(st.integers(0, 2_000) | st.integers(0, 400_000), max_size=80)
# More work than one wave of eight workers takes.
MUCH_WORK = st.lists(st.integers(8_000, 400_000), min_size=40, max_size=80)
FEW_WEIGHTS = st.lists(st.integers(0, 8_191), max_size=80)
MAX_ITEMS = st.integers(1, 100)
MAX_TOKENS = st.none() | st.integers(1, 300_000)
WORKERS = st.integers(1, 64)
SPARE = st.just(math.inf) | st.floats(0, 2_500)


def fewest_by_filling_up(
    weights: Sequence[int], *, max_items: int, max_tokens: int | None
) -> list[range]:
    """Fill each batch as full as the limits permit, input by input."""
    batches: list[range] = []
    for i, weight in enumerate(weights):
        last = batches[-1] if batches else range(0)
        tokens = sum(weights[j] for j in last) + weight
        if last and len(last) < max_items and (max_tokens is None or tokens <= max_tokens):
            batches[-1] = range(last.start, i + 1)
        else:
            batches.append(range(i, i + 1))
    return batches


def work(weights: Sequence[int], batch: range) -> int:
    """Return the work of a batch, its tokens and an amount for each input."""
    return sum(weights[i] + INPUT_WORK for i in batch)


def smallest_largest(
    weights: Sequence[int], batches: int, *, max_items: int, max_tokens: int | None
) -> int:
    """Return the smallest possible largest work, by trying every way to cut into these batches."""
    n = len(weights)
    best = {n: 0}  # the best way to cut what begins here, with one batch more each round
    for _ in range(batches):
        longer = dict(best)
        for begin in range(n):
            for end in range(begin + 1, min(n, begin + max_items) + 1):
                fits = max_tokens is None or sum(weights[begin:end]) <= max_tokens
                if (fits or end == begin + 1) and end in best:
                    largest = max(work(weights, range(begin, end)), best[end])
                    longer[begin] = min(longer.get(begin, largest), largest)
        best = longer
    return best[0]


@given(WEIGHTS, MAX_ITEMS, MAX_TOKENS, WORKERS, SPARE)
def test_every_input_is_in_one_batch_and_in_order(
    weights: list[int],
    max_items: int,
    max_tokens: int | None,
    workers: int,
    spare: float,
) -> None:
    """The batches contain the positions 0 to n in order, whatever the limits are."""
    batches = pack(
        weights,
        max_items=max_items,
        max_tokens=max_tokens,
        workers=workers,
        spare_requests=spare,
    )
    assert [i for batch in batches for i in batch] == list(range(len(weights)))
    assert all(batches)


@given(WEIGHTS, MAX_ITEMS, MAX_TOKENS, WORKERS, SPARE)
def test_no_batch_is_over_a_limit(
    weights: list[int],
    max_items: int,
    max_tokens: int | None,
    workers: int,
    spare: float,
) -> None:
    """No batch has too many inputs, and no batch of several inputs has too many tokens."""
    batches = pack(
        weights,
        max_items=max_items,
        max_tokens=max_tokens,
        workers=workers,
        spare_requests=spare,
    )
    assert max(map(len, batches), default=0) <= max_items
    if max_tokens is not None:
        several = [sum(weights[i] for i in batch) for batch in batches if len(batch) > 1]
        assert max(several, default=0) <= max_tokens


@given(WEIGHTS, MAX_ITEMS, st.integers(1, 5_000), WORKERS, SPARE)
def test_an_input_above_the_token_limit_stands_alone(
    weights: list[int], max_items: int, max_tokens: int, workers: int, spare: float
) -> None:
    """An input above the token limit gets a batch of its own, so no other input fails with it."""
    batches = pack(
        weights,
        max_items=max_items,
        max_tokens=max_tokens,
        workers=workers,
        spare_requests=spare,
    )
    too_heavy = {i for i, weight in enumerate(weights) if weight > max_tokens}
    assert too_heavy <= {batch.start for batch in batches if len(batch) == 1}


@given(WEIGHTS, MAX_ITEMS, MAX_TOKENS, WORKERS)
def test_scarce_requests_make_as_few_batches_as_can_be(
    weights: list[int], max_items: int, max_tokens: int | None, workers: int
) -> None:
    """If requests are scarce, no other way to cut makes fewer batches."""
    batches = pack(
        weights,
        max_items=max_items,
        max_tokens=max_tokens,
        workers=workers,
        spare_requests=0,
    )
    fewest = fewest_by_filling_up(weights, max_items=max_items, max_tokens=max_tokens)
    assert len(batches) == len(fewest)


@given(WEIGHTS, MAX_ITEMS, MAX_TOKENS, st.integers(0, 100))
def test_equal_never_makes_more_batches_than_asked_for(
    weights: list[int], max_items: int, max_tokens: int | None, more: int
) -> None:
    """Cutting equally makes at most the requested number of batches, if the limits permit it."""
    line = _Line(np.array(weights, dtype=np.int64), max_items=max_items, max_tokens=max_tokens)
    asked = line.fewest() + more
    assert len(line.equal(asked)) <= asked


@examples(60)
@given(
    st.lists(st.integers(0, 500), min_size=1, max_size=9),
    st.integers(1, 9),
    st.none() | st.integers(1, 1_500),
    st.integers(0, 3),
)
def test_equal_makes_the_largest_batch_as_small_as_possible(
    weights: list[int], max_items: int, max_tokens: int | None, more: int
) -> None:
    """No other way to cut into as many batches has a smaller largest batch."""
    line = _Line(np.array(weights, dtype=np.int64), max_items=max_items, max_tokens=max_tokens)
    asked = line.fewest() + more
    largest = max(work(weights, batch) for batch in line.equal(asked))
    best = smallest_largest(weights, asked, max_items=max_items, max_tokens=max_tokens)
    assert largest == best


@given(st.integers(0, 1_000), st.integers(1, 8_191), MAX_ITEMS, st.integers(2, 64))
def test_guided_sizes_fall_towards_the_end(
    inputs: int, weight: int, max_items: int, workers: int
) -> None:
    """With equal inputs, no batch has more of them than the one before it."""
    sizes = [
        len(batch)
        for batch in pack(
            [weight] * inputs, max_items=max_items, max_tokens=300_000, workers=workers
        )
    ]
    assert sizes == sorted(sizes, reverse=True)


@given(MUCH_WORK, MAX_ITEMS, MAX_TOKENS, st.integers(2, 8))
def test_no_batch_takes_more_than_its_share_of_the_work_left(
    weights: list[int], max_items: int, max_tokens: int | None, workers: int
) -> None:
    """No batch takes more than its share of the remaining work, unless it is small."""
    left = work(weights, range(len(weights)))
    for batch in pack(weights, max_items=max_items, max_tokens=max_tokens, workers=workers):
        share = max(GUIDED_LEAST, -(-left // workers))
        assert len(batch) == 1 or work(weights, batch) <= share
        left -= work(weights, batch)


@given(FEW_WEIGHTS, MAX_ITEMS, MAX_TOKENS, WORKERS)
def test_little_work_goes_out_in_one_wave(
    weights: list[int], max_items: int, max_tokens: int | None, workers: int
) -> None:
    """Little work makes no more batches than workers, unless the limits require it."""
    total = work(weights, range(len(weights)))
    assume(total <= min(WAVE_MOST, 2 * workers * WAVE_LEAST))
    batches = pack(weights, max_items=max_items, max_tokens=max_tokens, workers=workers)
    fewest = fewest_by_filling_up(weights, max_items=max_items, max_tokens=max_tokens)
    assert len(batches) <= max(len(fewest), min(workers, -(-total // WAVE_LEAST)))


def test_large_work_starts_large_and_ends_small() -> None:
    """A long list of texts ends with batches far smaller than its first ones."""
    batches = pack([125] * 19_207, max_items=2048, max_tokens=300_000, workers=8)
    assert len(batches[0]) > 4 * len(batches[-2])


def test_few_short_texts_are_one_request() -> None:
    """A few short texts are one request, because cutting them would cost more than it saves."""
    assert pack([10] * 20, max_items=2048, max_tokens=300_000, workers=32) == [range(20)]


def test_one_worker_gets_full_batches() -> None:
    """A single worker gets full batches, as few as possible."""
    batches = pack([100] * 5000, max_items=2048, max_tokens=300_000, workers=1)
    assert [len(batch) for batch in batches] == [1667, 1667, 1666]


def test_batches_of_scarce_requests_are_of_equal_work() -> None:
    """The fewest possible batches have equal work, rather than a small last one."""
    batches = pack([100] * 2100, max_items=2048, max_tokens=300_000, workers=32, spare_requests=0)
    assert batches == [range(1050), range(1050, 2100)]


def test_nothing_to_pack_makes_no_batch() -> None:
    """An empty list of texts makes no batch, in either shape."""
    limits = {"max_items": 2048, "max_tokens": 300_000, "workers": 32}
    assert pack([], **limits) == []
    assert pack([], **limits, spare_requests=0) == []


@pytest.mark.parametrize("spare", [math.inf, 250_000.0])
def test_an_ample_or_unknown_quota_of_requests_spreads_the_work(spare: float) -> None:
    """If requests are not scarce, every worker gets work."""
    batches = pack(
        [125] * 19_207, max_items=2048, max_tokens=300_000, workers=32, spare_requests=spare
    )
    assert len(batches) >= 32


def test_a_low_quota_of_requests_chooses_the_fewest() -> None:
    """If the quota has no requests to spare, the same work makes the fewest requests."""
    batches = pack(
        [125] * 19_207, max_items=2048, max_tokens=300_000, workers=32, spare_requests=25
    )
    assert len(batches) == 10
