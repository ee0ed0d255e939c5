"""Vectors arrive from a server bit for bit, or the answer is refused."""

import gc
import json
import os
import random
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pybase64
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.typing import NDArray
from pytest_mock import MockerFixture

from langchain_batch_embed import ResponseError
from langchain_batch_embed.providers.decoding import as_array, check, read_answer, to_lists

Matrix = NDArray[np.float32]

# Every finite float32, including zeros of both signs, subnormal numbers and the largest.
MATRICES: st.SearchStrategy[Matrix] = st_numpy.arrays(
    np.float32,
    st.tuples(st.integers(1, 8), st.integers(1, 6)),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


def _without_zeros(matrix: Matrix) -> Matrix:
    matrix[~matrix.any(axis=1), 0] = 1
    return matrix


# The subset that a server may send, in which no vector is all zeros.
SOUND = MATRICES.map(_without_zeros)


def bits(matrix: Matrix) -> tuple[tuple[int, ...], bytes]:
    """Return an array's shape and bytes, by which -0.0 differs from 0.0."""
    return matrix.shape, np.ascontiguousarray(matrix, dtype="<f4").tobytes()


def in_base64(vector: Matrix) -> str:
    """Encode a vector as OpenAI does, in base64 of little-endian float32."""
    return pybase64.b64encode(vector.astype("<f4").tobytes()).decode()


def items(matrix: Matrix, *, base64: bool = True) -> list[dict[str, Any]]:
    """Return the `data` of a correct answer."""
    return [
        {"index": i, "embedding": in_base64(vector) if base64 else vector.tolist()}
        for i, vector in enumerate(matrix)
    ]


def answer(data: object, **more: object) -> bytes:
    """Return a body with this `data`."""
    return json.dumps({"object": "list", "data": data, **more}).encode()


def unit_vectors(n: int, dimensions: int = 256) -> Matrix:
    """Return vectors of length 1, as models make them."""
    matrix = np.random.default_rng(0).standard_normal((n, dimensions))
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix.astype(np.float32)


class TestReadAnswer:
    """`read_answer` reads an answer of an OpenAI-compatible server."""

    @given(SOUND, st.booleans())
    def test_vectors_arrive_bit_for_bit(self, matrix: Matrix, base64: bool) -> None:
        """Vectors sent as base64 or as lists of numbers arrive as the same float32."""
        read, _, _ = read_answer(answer(items(matrix, base64=base64)), expected=len(matrix))
        assert read.dtype == np.float32
        assert bits(read) == bits(matrix)

    @given(SOUND, st.booleans(), st.randoms(use_true_random=False))
    def test_shuffled_vectors_are_put_in_order(
        self, matrix: Matrix, base64: bool, shuffle: random.Random
    ) -> None:
        """If each vector has its index, their order in the answer does not matter."""
        data = items(matrix, base64=base64)
        shuffle.shuffle(data)
        read, _, _ = read_answer(answer(data), expected=len(matrix))
        assert bits(read) == bits(matrix)

    @given(SOUND, st.booleans())
    def test_without_any_index_the_order_of_the_answer_counts(
        self, matrix: Matrix, null: bool
    ) -> None:
        """If no vector has an index, or each has null, the order of the answer is used."""
        index = {"index": None} if null else {}
        data = [{"embedding": item["embedding"], **index} for item in items(matrix)]
        read, _, _ = read_answer(answer(data), expected=len(matrix))
        assert bits(read) == bits(matrix)

    @given(SOUND.filter(lambda m: len(m) > 1), st.data())
    def test_a_wrong_index_is_not_believed(self, matrix: Matrix, data: st.DataObject) -> None:
        """An answer is refused if one index is missing, repeated, out of range or no number."""
        changed = items(matrix)
        place = data.draw(st.integers(0, len(matrix) - 1))
        others = st.integers(-5, len(matrix) + 5).filter(lambda index: index != place)
        changed[place]["index"] = data.draw(st.none() | others | st.sampled_from(["0", 0.5, [0]]))
        with pytest.raises(ResponseError, match="do not name each text once"):
            read_answer(answer(changed), expected=len(matrix))

    @given(SOUND, st.integers(-3, 10_000), st.booleans())
    def test_a_rising_run_of_index_numbers_is_understood(
        self, matrix: Matrix, first: int, digits: bool
    ) -> None:
        """Consecutive index numbers are accepted from any start, and as strings.

        Some servers count from 1 or from the first text of an earlier part.
        """
        digits = digits and first >= 0
        data = items(matrix)
        for i, item in enumerate(data, first):
            item["index"] = str(i) if digits else i
        read, _, _ = read_answer(answer(data), expected=len(matrix))
        assert bits(read) == bits(matrix)

    def test_digits_put_shuffled_vectors_in_order(self) -> None:
        """Shuffled vectors whose indices are strings from "0" on are put in order."""
        matrix = unit_vectors(12)
        data = [{**item, "index": str(item["index"])} for item in items(matrix)]
        read, _, _ = read_answer(answer(data[::-1]), expected=12)
        assert bits(read) == bits(matrix)

    @pytest.mark.parametrize(
        "indices",
        [
            [0, 0, 0],
            [1, 1, 1],
            [3, 2, 1],
            [2, 4, 6],
            [0, 1, 0],
            ["0", 1, 2],
            ["-1", "0", "1"],
            ["", "1", "2"],
            ["a", "b", "c"],
            ["²", "³", "⁴"],
            ["0", "1", "9" * 5_000],
            [False, True, 2],
            [0.0, 1.0, 2.0],
            [None, 1, 2],
        ],
    )
    def test_index_numbers_without_a_meaning_are_not_believed(self, indices: list[object]) -> None:
        """Indices that are constant, falling, gapped, of mixed types or no numbers are refused."""
        data = items(unit_vectors(3))
        for item, index in zip(data, indices, strict=True):
            item["index"] = index
        with pytest.raises(ResponseError, match="do not name each text once"):
            read_answer(answer(data), expected=3)

    @given(SOUND, st.integers(-8, 8).filter(bool))
    def test_an_answer_with_too_few_or_too_many_vectors_is_not_believed(
        self, matrix: Matrix, more: int
    ) -> None:
        """An answer with more or fewer vectors than texts is refused as a whole."""
        expected = max(0, len(matrix) + more)
        with pytest.raises(
            ResponseError, match=rf"{expected} texts? (was|were) sent, but {len(matrix)} "
        ) as caught:
            read_answer(answer(items(matrix)), expected=expected)
        assert (caught.value.expected, caught.value.received) == (expected, len(matrix))

    @pytest.mark.parametrize("data", [None, {"0": 1}, []])
    def test_an_answer_without_vectors_says_that_none_came(self, data: object) -> None:
        """The error for an answer without vectors says that none came, unlike one with too few."""
        with pytest.raises(ResponseError) as caught:
            read_answer(answer(data), expected=3)
        assert (caught.value.expected, caught.value.received) == (3, 0)

    def test_an_answer_that_is_wrong_otherwise_does_not_say_how_many_came(self) -> None:
        """An error about the content of vectors does not report how many came."""
        with pytest.raises(ResponseError) as caught:
            read_answer(answer(items(np.full((2, 3), np.nan, np.float32))), expected=2)
        assert (caught.value.expected, caught.value.received) == (None, None)

    @pytest.mark.parametrize("base64", [True, False])
    @pytest.mark.parametrize("zero", [0.0, -0.0])
    def test_a_vector_of_zeros_is_not_believed(self, base64: bool, zero: float) -> None:
        """A vector of zeros is refused, as servers send it for texts that they failed to embed."""
        matrix = unit_vectors(20)
        matrix[:, 0] = 0  # a zero in every vector is no reason for refusal
        read, _, _ = read_answer(answer(items(matrix, base64=base64)), expected=20)
        assert bits(read) == bits(matrix)
        matrix[13] = zero
        with pytest.raises(ResponseError, match="a vector is all zeros"):
            read_answer(answer(items(matrix, base64=base64)), expected=20)

    @pytest.mark.parametrize("base64", [True, False])
    def test_vectors_of_different_widths_are_not_believed(self, base64: bool) -> None:
        """An answer with vectors of different widths is refused."""
        data = items(unit_vectors(2, 4), base64=base64)
        data += items(unit_vectors(1, 3), base64=base64)
        data[2]["index"] = 2
        with pytest.raises(ResponseError, match=r"differ in dimensions|cannot be read"):
            read_answer(answer(data), expected=3)

    @pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("base64", [True, False])
    def test_a_number_that_is_not_finite_is_not_believed(self, number: float, base64: bool) -> None:
        """A single NaN or infinity among thousands of numbers is found and refused."""
        matrix = unit_vectors(20)
        matrix[13, 77] = number
        with pytest.raises(ResponseError, match="not finite"):
            read_answer(answer(items(matrix, base64=base64)), expected=20)

    @pytest.mark.parametrize("number", ["1e39", "-1e39", "1e999", "1" + "0" * 400])
    def test_a_number_too_large_for_float32_is_not_believed(self, number: str) -> None:
        """A number too large for float32 is refused, without a warning or another exception."""
        body = f'{{"data": [{{"embedding": [0.5, {number}], "index": 0}}]}}'.encode()
        with pytest.raises(ResponseError, match=r"not finite|cannot be read"):
            read_answer(body, expected=1)

    @pytest.mark.parametrize(
        "embedding",
        [
            None,
            [None, 0.5],
            [[0.5, 0.5]],
            [],
            "",
            0.5,
            {"0": 0.5},
            ["secret", 0.5],
            [{"a": 1}, 0.5],
            "secret!",
            "sécret",
            "AAA=",
            "AAAAAAA=",
        ],
    )
    @pytest.mark.parametrize("alone", [True, False])
    def test_what_is_no_vector_is_not_believed(self, embedding: object, alone: bool) -> None:
        """Null, nested, empty or non-numeric vectors are refused and not quoted."""
        data: list[dict[str, Any]] = [{"index": 0, "embedding": embedding}]
        if not alone:
            data.append({"index": 1, "embedding": [0.5, 0.5]})
        with pytest.raises(ResponseError) as caught:
            read_answer(answer(data), expected=len(data))
        assert "cret" not in f"{caught.value} {caught.value.__cause__}"

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b"", r"not JSON \(0 bytes\)"),
            (b"<html>502 secret</html>", r"not JSON \(23 bytes\)"),
            (b'{"data": [{"embedding": [0.5', "not JSON"),
            (b"\xff\xfe\x00", "not JSON"),
            (b"[" * 10_000, "not JSON"),
            (b"[]", "a JSON list, not an object"),
            (b"null", "a JSON NoneType, not an object"),
            (b'"secret"', "a JSON str, not an object"),
            (b"{}", "1 text was sent, but 0 vectors"),
            (b'{"data": null}', "1 text was sent, but 0 vectors"),
            (b'{"data": {"0": 1}}', "1 text was sent, but 0 vectors"),
            (b'{"data": []}', "1 text was sent, but 0 vectors"),
            (b'{"data": [null]}', "does not hold JSON objects"),
            (b'{"data": ["secret"]}', "does not hold JSON objects"),
            (b'{"data": [[0.5, 0.5]]}', "does not hold JSON objects"),
            (b'{"data": [{}]}', "an array of shape"),
        ],
    )
    def test_what_is_no_answer_is_not_believed(self, body: bytes, message: str) -> None:
        """HTML, a truncated body or other JSON is refused with a message that does not quote it."""
        with pytest.raises(ResponseError, match=message) as caught:
            read_answer(body, expected=1)
        assert "secret" not in f"{caught.value} {caught.value.__cause__}"

    @given(
        st.binary(max_size=30) | st.text('{}[]",:dataembing01.eE-nul ', max_size=40).map(str.encode)
    )
    def test_no_body_ends_in_another_exception(self, body: bytes) -> None:
        """Any invalid body raises a `ResponseError`, so that the request is repeated."""
        with pytest.raises(ResponseError):
            read_answer(body, expected=1)

    @pytest.mark.parametrize("error", [{"message": "no", "code": 429}, "no", True])
    def test_an_error_under_status_200_is_an_error(self, error: object) -> None:
        """An error under status 200 is raised with its body, which the message does not contain."""
        with pytest.raises(ResponseError) as caught:
            read_answer(answer(items(unit_vectors(1)), error=error), expected=1)
        assert str(caught.value) == "the server sent an error under status 200"
        assert caught.value.body is not None
        assert caught.value.body["error"] == error

    @pytest.mark.parametrize("error", [None, {}, "", False])
    def test_an_empty_error_is_none(self, error: object) -> None:
        """An empty error is ignored, because some servers always send the key."""
        read, _, _ = read_answer(answer(items(unit_vectors(1)), error=error), expected=1)
        assert bits(read) == bits(unit_vectors(1))

    @pytest.mark.parametrize(
        ("usage", "tokens"),
        [
            ({"usage": {"prompt_tokens": 5, "total_tokens": 5}}, 5),
            ({"usage": {"prompt_tokens": 0}}, 0),
            ({"usage": {"prompt_tokens": None}}, None),
            ({"usage": {"prompt_tokens": "5"}}, None),
            ({"usage": {"prompt_tokens": 5.0}}, None),
            ({"usage": {"prompt_tokens": True}}, None),
            ({"usage": {"prompt_tokens": -1}}, None),
            ({"usage": {"prompt_tokens": 104}}, 104),
            ({"usage": {"prompt_tokens": 105}}, None),
            ({"usage": {"prompt_tokens": 10**30}}, None),
            ({"usage": {}}, None),
            ({"usage": None}, None),
            ({"usage": [5]}, None),
            ({}, None),
        ],
    )
    def test_the_tokens_billed_are_read_where_they_are_told(
        self, usage: dict[str, object], tokens: int | None
    ) -> None:
        """A missing or impossible number of billed tokens is read as unknown."""
        body = answer(items(unit_vectors(1)), **usage)
        assert read_answer(body, expected=1, most_tokens=104)[1] == tokens

    @pytest.mark.parametrize(
        ("more", "model"),
        [
            ({"model": "text-embedding-3-small"}, "text-embedding-3-small"),
            ({"model": " padded "}, "padded"),
            ({"model": " "}, None),
            ({"model": ""}, None),
            ({"model": None}, None),
            ({"model": 3}, None),
            ({"model": ["m"]}, None),
            ({}, None),
        ],
    )
    def test_the_model_is_read_where_it_is_named(
        self, more: dict[str, object], model: str | None
    ) -> None:
        """The model is read if the answer names it, and is otherwise unknown."""
        assert read_answer(answer(items(unit_vectors(1)), **more), expected=1)[2] == model


class TestArrays:
    """`as_array` and `check` handle what another `Embeddings` class returned."""

    @given(MATRICES)
    def test_lists_of_floats_become_the_same_float32(self, matrix: Matrix) -> None:
        """Lists of Python floats become the same float32 again."""
        assert bits(as_array(matrix.tolist())) == bits(matrix)

    def test_rows_of_an_array_are_taken_too(self) -> None:
        """Numpy arrays of any precision are accepted, because local models return them."""
        matrix = unit_vectors(3)
        for given_rows in (matrix, list(matrix), matrix.astype(np.float64)):
            assert bits(as_array(given_rows)) == bits(matrix)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "embeddings",
        [
            [[0.5], [0.5, 0.5]],
            [["secret"]],
            [{"a": 1}],
            [[10**400]],
            [None, [0.5]],
        ],
    )
    def test_what_is_no_array_of_numbers_is_not_believed(
        self, embeddings: Sequence[Sequence[float]]
    ) -> None:
        """Rows of different widths, and values that are no numbers, are refused and not quoted."""
        with pytest.raises(ResponseError, match="cannot be read") as caught:
            as_array(embeddings)
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("shape", [(), (2,), (3, 4), (2, 0), (2, 4, 1)])
    def test_an_array_of_another_shape_is_not_believed(self, shape: tuple[int, ...]) -> None:
        """An array whose shape does not match the number of texts is refused."""
        with pytest.raises(
            ResponseError, match="2 texts were sent, but an array of shape"
        ) as caught:
            check(np.zeros(shape, dtype=np.float32), expected=2)
        assert caught.value.received == {(): None, (3, 4): 3}.get(shape)

    def test_a_right_array_is_returned_as_it_is(self) -> None:
        """A valid array is returned without a copy."""
        matrix = unit_vectors(2)
        assert check(matrix, expected=2) is matrix


@pytest.fixture
def collecting() -> Iterator[None]:
    """Turn cyclic garbage collection on again, whatever the test did."""
    gc.enable()
    yield
    gc.enable()


class TestToLists:
    """`to_lists` returns plain lists of Python floats."""

    @given(MATRICES)
    def test_each_float_converts_back_to_the_very_same_float32(self, matrix: Matrix) -> None:
        """Rounding shortens the numbers but never changes the float32, including -0.0."""
        lists = to_lists(matrix)
        assert bits(np.array(lists, dtype=np.float32)) == bits(matrix)

    def test_they_are_lists_of_python_floats(self) -> None:
        """The numbers are Python floats, so JSON and databases can write them."""
        lists = to_lists(unit_vectors(3, 2))
        assert [type(vector) for vector in lists] == [list] * 3
        assert {type(number) for vector in lists for number in vector} == {float}

    def test_they_are_short_in_json(self) -> None:
        """A vector of length 1 has ten decimals, which saves a third of the JSON."""
        matrix = unit_vectors(100, 1536)
        plain, short = json.dumps(matrix.tolist()), json.dumps(to_lists(matrix))
        assert len(short) < 0.67 * len(plain)
        rounded = [number == round(number, 10) for vector in to_lists(matrix) for number in vector]
        assert sum(rounded) > 0.95 * len(rounded)

    @pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 200])
    def test_every_vector_is_there_and_in_order(self, n: int) -> None:
        """Every vector is converted, in order, whatever their number."""
        matrix = unit_vectors(n, 3) if n else np.empty((0, 3), dtype=np.float32)
        lists = to_lists(matrix)
        assert len(lists) == n
        assert bits(np.array(lists, dtype=np.float32).reshape(n, 3)) == bits(matrix)

    @pytest.mark.usefixtures("collecting")
    def test_garbage_collection_is_on_again_afterwards(self, mocker: MockerFixture) -> None:
        """Garbage collection is off while the floats are made and on again afterwards."""
        states = []

        def rounded(numbers: NDArray[np.float64], _: int) -> NDArray[np.float64]:
            states.append(gc.isenabled())
            return numbers.copy()

        mocker.patch("numpy.round", rounded)
        to_lists(unit_vectors(1))
        assert states == [False]
        assert gc.isenabled()

    @pytest.mark.usefixtures("collecting")
    def test_garbage_collection_is_on_again_after_an_error(self, mocker: MockerFixture) -> None:
        """Garbage collection is on again after an error, such as a lack of memory."""
        mocker.patch("numpy.round", side_effect=MemoryError)
        with pytest.raises(MemoryError):
            to_lists(unit_vectors(1))
        assert gc.isenabled()

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
    @pytest.mark.usefixtures("collecting")
    def test_garbage_collection_is_on_in_a_child(self, mocker: MockerFixture) -> None:
        """A process that is forked while floats are made collects garbage."""
        codes = []

        def rounded(numbers: NDArray[np.float64], _: int) -> NDArray[np.float64]:
            with warnings.catch_warnings(action="ignore"):  # pytest-xdist has threads
                child = os.fork()
            if not child:
                os._exit(not gc.isenabled())
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            return numbers.copy()

        mocker.patch("numpy.round", rounded)
        to_lists(unit_vectors(1))
        assert codes == [0]

    @pytest.mark.usefixtures("collecting")
    def test_garbage_collection_stays_off_where_it_was_off(self) -> None:
        """Garbage collection stays off if the program had turned it off."""
        gc.disable()
        to_lists(unit_vectors(1))
        assert not gc.isenabled()
