"""Embeddings without a model: words are hashed, so that texts with common words lie close together.

A text has some eighty words, so all but some eighty numbers of its vector would be zero. A real
vector has no zeros, takes five times as many characters as JSON, and its floats need all their
digits. A final rotation makes the vectors look like that and keeps every angle between them.

The computation uses only integers and single additions, divisions and square roots, in a fixed
order. IEEE 754 rounds these the same way everywhere. A text therefore has the same vector, bit for
bit, on every machine, in every process, and whatever other texts are in its batch.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# A word's weight is its length in bytes, up to this many. Long words are rare, and a rare word says
# more about a text than "the". The length stands in for document frequencies, which a server that
# sees one text at a time cannot know.
_LONGEST_WEIGHT = 12

# The weights of words are multiples of this even number. The fingerprint is an odd number of odd
# weights below it. So the fingerprint is small next to the words, and a row never cancels to zero.
_WORD_UNIT = 64
_FINGERPRINT_SIZE = 7

# An odd multiplier has an inverse modulo 2**64, so every byte of a long word affects its hash.
_BASE = np.uint64(0x9E3779B97F4A7C15)

# Rows rotated at a time. At 1,536 dimensions they take 800 KB and fit the processor's cache.
_ROTATED_ROWS = 128

_IS_WORD = np.zeros(256, dtype=np.bool_)
_IS_WORD[[*b"abcdefghijklmnopqrstuvwxyz0123456789"]] = True
_IS_WORD[128:] = True  # in UTF-8, every character outside ASCII consists of such bytes


def vectors(texts: Sequence[str], dimensions: int) -> NDArray[np.float32]:
    """Embed texts by the words that they contain.

    Each lower-case word is hashed to a dimension and a sign, and counts by the square root of how
    often it occurs. A small fingerprint of the whole text is added, so that texts with the same
    words in another order, case or punctuation still differ.

    Args:
        texts: any strings; they may be empty.
        dimensions: the width of a vector, at least 1.

    Returns:
        Vectors as float32 of shape (len(texts), dimensions). Every row has unit length and no NaN.
    """
    count = len(texts)
    sums = np.zeros(count * dimensions, dtype=np.int64)
    if count:
        _add_words(sums, texts, dimensions)
        _add_fingerprints(sums, texts, dimensions)

    # Few of the sums are nonzero, so work on those alone.
    places = np.flatnonzero(sums)
    found = sums[places]
    weights = np.abs(found)
    rows = places // dimensions
    # Row sums of integers below 2**53 are exact in any order.
    totals = np.bincount(rows, weights=weights, minlength=count)
    result = np.zeros(count * dimensions, dtype=np.float32)
    result[places] = np.copysign(np.sqrt(weights / totals[rows]), found)
    rotated = result.reshape(count, dimensions)
    _rotate(rotated)
    return rotated


def _add_words(sums: NDArray[np.int64], texts: Sequence[str], dimensions: int) -> None:
    """Add every word of every text to its row and column of `sums`."""
    lowered = [text.lower().encode("utf-8", "surrogatepass") for text in texts]
    # A space before each text, so that no word spans two texts and none starts at byte 0.
    data = np.frombuffer(b" " + b" ".join(lowered) + b" ", dtype=np.uint8)
    is_word = _IS_WORD[data]
    edges = np.flatnonzero(is_word[1:] != is_word[:-1]) + 1
    starts, ends = edges[0::2], edges[1::2]
    if not starts.size:
        return
    lengths = ends - starts

    # The polynomial hash of a word is the sum of byte * BASE**position modulo 2**64, where
    # positions start at 1.
    inside = np.flatnonzero(is_word)
    first = np.cumsum(lengths) - lengths  # where each word starts among the word bytes
    position = np.arange(inside.size) - np.repeat(first, lengths)
    powers = np.cumprod(np.full(int(lengths.max()), _BASE, dtype=np.uint64))
    hashes = np.add.reduceat(data[inside] * powers[position], first)
    hashes = _mix(hashes)

    text_ends = np.cumsum([len(text) + 1 for text in lowered])
    rows = np.searchsorted(text_ends, starts, side="left")
    columns = (hashes >> np.uint64(1)) % np.uint64(dimensions)
    signs = np.where(hashes & np.uint64(1), 1, -1)
    weights = _WORD_UNIT * np.minimum(lengths, _LONGEST_WEIGHT)
    np.add.at(sums, rows * dimensions + columns.astype(np.int64), signs * weights)


def _add_fingerprints(sums: NDArray[np.int64], texts: Sequence[str], dimensions: int) -> None:
    """Add the fingerprint of each text to its row: odd weights from a digest of its bytes."""
    size = 8 * _FINGERPRINT_SIZE
    digests = b"".join(
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).digest()
        for text in texts
    )
    bits = np.frombuffer(digests, dtype="<u8").reshape(len(texts), _FINGERPRINT_SIZE)
    signs = np.where(bits & np.uint64(1), 1, -1)
    weights = 1 + 2 * ((bits >> np.uint64(1)) & np.uint64(7)).astype(np.int64)
    columns = ((bits >> np.uint64(4)) % np.uint64(dimensions)).astype(np.int64)
    rows = np.arange(len(texts))[:, np.newaxis]
    np.add.at(sums, (rows * dimensions + columns).ravel(), (signs * weights).ravel())


def _rotate(matrix: NDArray[np.float32]) -> None:
    """Rotate every row in place by Walsh-Hadamard transforms.

    A transform needs a power of two of columns, so other widths are cut into powers of two, such
    as 1,536 into 1,024 and 512.
    """
    count, dimensions = matrix.shape
    sizes = [1 << bit for bit in reversed(range(dimensions.bit_length())) if dimensions >> bit & 1]
    for row in range(0, count, _ROTATED_ROWS):
        columns = np.ascontiguousarray(matrix[row : row + _ROTATED_ROWS].T)
        start = 0
        for size in sizes:
            _transform(columns[start : start + size])
            start += size
        matrix[row : row + _ROTATED_ROWS] = columns.T


def _transform(columns: NDArray[np.float32]) -> None:
    """Apply the orthonormal Walsh-Hadamard transform along the first axis, in place."""
    size = len(columns)
    half = 1
    while half < size:
        pairs = columns.reshape(size // (2 * half), 2, -1)
        upper, lower = pairs[:, 0], pairs[:, 1]
        difference = upper - lower
        upper += lower
        lower[...] = difference
        half *= 2
    columns *= np.float32(math.sqrt(1 / size))


def _mix(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread the hashes over all 64 bits, with the finaliser of SplitMix64."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))
