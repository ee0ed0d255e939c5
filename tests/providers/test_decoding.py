"""Vectors: what a server sent arrives bit for bit, or is not believed at all."""

import gc
import json
import random
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

# Every finite float32: zeros of both signs, subnormal ones and the largest.
MATRICES: st.SearchStrategy[Matrix] = st_numpy.arrays(
    np.float32,
    st.tuples(st.integers(1, 8), st.integers(1, 6)),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


def _without_zeros(matrix: Matrix) -> Matrix:
    matrix[~matrix.any(axis=1), 0] = 1
    return matrix


# What may be believed of them: no vector is all zeros.
SOUND = MATRICES.map(_without_zeros)


def bits(matrix: Matrix) -> tuple[tuple[int, ...], bytes]:
    """Return what makes two arrays the same bit for bit, so that -0.0 is not 0.0."""
    return matrix.shape, np.ascontiguousarray(matrix, dtype="<f4").tobytes()


def in_base64(vector: Matrix) -> str:
    """Write a vector as OpenAI does: base64 of little-endian float32."""
    return pybase64.b64encode(vector.astype("<f4").tobytes()).decode()


def items(matrix: Matrix, *, base64: bool = True) -> list[dict[str, Any]]:
    """Return the `data` of a right answer."""
    return [
        {"index": i, "embedding": in_base64(vector) if base64 else vector.tolist()}
        for i, vector in enumerate(matrix)
    ]


def answer(data: object, **more: object) -> bytes:
    """Return a body with these `data`."""
    return json.dumps({"object": "list", "data": data, **more}).encode()


def unit_vectors(n: int, dimensions: int = 256) -> Matrix:
    """Return vectors as models make them: of length 1."""
    matrix = np.random.default_rng(0).standard_normal((n, dimensions))
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix.astype(np.float32)


class TestReadAnswer:
    """An answer of an OpenAI-compatible server."""

    @given(SOUND, st.booleans())
    def test_vectors_arrive_bit_for_bit(self, matrix: Matrix, base64: bool) -> None:
        """Whether they are sent as base64 or as lists of numbers, they are the same float32."""
        read, _, _ = read_answer(answer(items(matrix, base64=base64)), expected=len(matrix))
        assert read.dtype == np.float32
        assert bits(read) == bits(matrix)

    @given(SOUND, st.booleans(), st.randoms(use_true_random=False))
    def test_shuffled_vectors_are_put_in_order(
        self, matrix: Matrix, base64: bool, shuffle: random.Random
    ) -> None:
        """Where each vector has its index, their order in the answer does not matter."""
        data = items(matrix, base64=base64)
        shuffle.shuffle(data)
        read, _, _ = read_answer(answer(data), expected=len(matrix))
        assert bits(read) == bits(matrix)

    @given(SOUND, st.booleans())
    def test_without_any_index_the_order_of_the_answer_counts(
        self, matrix: Matrix, null: bool
    ) -> None:
        """Some servers send no index, or null: there is only one order to believe."""
        index = {"index": None} if null else {}
        data = [{"embedding": item["embedding"], **index} for item in items(matrix)]
        read, _, _ = read_answer(answer(data), expected=len(matrix))
        assert bits(read) == bits(matrix)

    @given(SOUND.filter(lambda m: len(m) > 1), st.data())
    def test_a_wrong_index_is_not_believed(self, matrix: Matrix, data: st.DataObject) -> None:
        """One index missing, doubled, beyond the end, negative or no number spoils the answer."""
        changed = items(matrix)
        place = data.draw(st.integers(0, len(matrix) - 1))
        others = st.integers(-5, len(matrix) + 5).filter(lambda index: index != place)
        changed[place]["index"] = data.draw(st.none() | others | st.sampled_from(["0", 0.5, [0]]))
        with pytest.raises(ResponseError, match="not each text once"):
            read_answer(answer(changed), expected=len(matrix))

    @given(SOUND, st.integers(-3, 10_000), st.booleans())
    def test_a_rising_run_of_index_numbers_is_understood(
        self, matrix: Matrix, first: int, digits: bool
    ) -> None:
        """Some servers count from 1, or from the first text of an earlier part, or in strings."""
        digits = digits and first >= 0
        data = items(matrix)
        for i, item in enumerate(data, first):
            item["index"] = str(i) if digits else i
        read, _, _ = read_answer(answer(data), expected=len(matrix))
        assert bits(read) == bits(matrix)

    def test_digits_put_shuffled_vectors_in_order(self) -> None:
        """An index from 0 on says which text it is for, as a string too."""
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
        """All the same, falling from above 0, with gaps, of several kinds, or no numbers."""
        data = items(unit_vectors(3))
        for item, index in zip(data, indices, strict=True):
            item["index"] = index
        with pytest.raises(ResponseError, match="not each text once"):
            read_answer(answer(data), expected=3)

    @given(SOUND, st.integers(-8, 8).filter(bool))
    def test_an_answer_with_too_few_or_too_many_vectors_is_not_believed(
        self, matrix: Matrix, more: int
    ) -> None:
        """As many vectors as texts, or none of them counts."""
        expected = max(0, len(matrix) + more)
        with pytest.raises(
            ResponseError, match=rf"{expected} texts were sent, but {len(matrix)} "
        ) as caught:
            read_answer(answer(items(matrix)), expected=expected)
        assert (caught.value.expected, caught.value.received) == (expected, len(matrix))

    @pytest.mark.parametrize("data", [None, {"0": 1}, []])
    def test_an_answer_without_vectors_says_that_none_came(self, data: object) -> None:
        """The engine can tell it from an answer that is short by some."""
        with pytest.raises(ResponseError) as caught:
            read_answer(answer(data), expected=3)
        assert (caught.value.expected, caught.value.received) == (3, 0)

    def test_an_answer_that_is_wrong_otherwise_does_not_say_how_many_came(self) -> None:
        """Only a number that is not the texts' is told."""
        with pytest.raises(ResponseError) as caught:
            read_answer(answer(items(np.full((2, 3), np.nan, np.float32))), expected=2)
        assert (caught.value.expected, caught.value.received) == (None, None)

    @pytest.mark.parametrize("base64", [True, False])
    @pytest.mark.parametrize("zero", [0.0, -0.0])
    def test_a_vector_of_zeros_is_not_believed(self, base64: bool, zero: float) -> None:
        """It points nowhere: servers send it for what they failed to embed."""
        matrix = unit_vectors(20)
        matrix[:, 0] = 0  # of itself no sign of anything
        read, _, _ = read_answer(answer(items(matrix, base64=base64)), expected=20)
        assert bits(read) == bits(matrix)
        matrix[13] = zero
        with pytest.raises(ResponseError, match="a vector is all zeros"):
            read_answer(answer(items(matrix, base64=base64)), expected=20)

    @pytest.mark.parametrize("base64", [True, False])
    def test_vectors_of_different_widths_are_not_believed(self, base64: bool) -> None:
        """All vectors of an answer are of one width."""
        data = items(unit_vectors(2, 4), base64=base64)
        data += items(unit_vectors(1, 3), base64=base64)
        data[2]["index"] = 2
        with pytest.raises(ResponseError, match=r"differ in dimensions|cannot be read"):
            read_answer(answer(data), expected=3)

    @pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("base64", [True, False])
    def test_a_number_that_is_not_finite_is_not_believed(self, number: float, base64: bool) -> None:
        """A single NaN or infinity among thousands of numbers is found."""
        matrix = unit_vectors(20)
        matrix[13, 77] = number
        with pytest.raises(ResponseError, match="not finite"):
            read_answer(answer(items(matrix, base64=base64)), expected=20)

    @pytest.mark.parametrize("number", ["1e39", "-1e39", "1e999", "1" + "0" * 400])
    def test_a_number_too_large_for_float32_is_not_believed(self, number: str) -> None:
        """It would become infinite; that is neither a warning nor another exception."""
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
        """Null, nested, empty, no numbers, no base64: each is thrown away, and not quoted."""
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
            (b"{}", "1 texts were sent, but 0 vectors"),
            (b'{"data": null}', "1 texts were sent, but 0 vectors"),
            (b'{"data": {"0": 1}}', "1 texts were sent, but 0 vectors"),
            (b'{"data": []}', "1 texts were sent, but 0 vectors"),
            (b'{"data": [null]}', "does not hold objects"),
            (b'{"data": ["secret"]}', "does not hold objects"),
            (b'{"data": [[0.5, 0.5]]}', "does not hold objects"),
            (b'{"data": [{}]}', "an array of shape"),
        ],
    )
    def test_what_is_no_answer_is_not_believed(self, body: bytes, message: str) -> None:
        """HTML, a body cut short, other JSON: the message says what came, without quoting it."""
        with pytest.raises(ResponseError, match=message) as caught:
            read_answer(body, expected=1)
        assert "secret" not in f"{caught.value} {caught.value.__cause__}"

    @given(
        st.binary(max_size=30) | st.text('{}[]",:dataembing01.eE-nul ', max_size=40).map(str.encode)
    )
    def test_no_body_ends_in_another_exception(self, body: bytes) -> None:
        """Whatever a server sends is a `ResponseError`, so that it is retried."""
        with pytest.raises(ResponseError):
            read_answer(body, expected=1)

    @pytest.mark.parametrize("error", [{"message": "no", "code": 429}, "no", True])
    def test_an_error_under_status_200_is_an_error(self, error: object) -> None:
        """Its body is kept for whoever decides what to do, and is not in the message."""
        with pytest.raises(ResponseError) as caught:
            read_answer(answer(items(unit_vectors(1)), error=error), expected=1)
        assert str(caught.value) == "the server sent an error under status 200"
        assert caught.value.body is not None
        assert caught.value.body["error"] == error

    @pytest.mark.parametrize("error", [None, {}, "", False])
    def test_an_empty_error_is_none(self, error: object) -> None:
        """Some servers always write the key."""
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
        """A server that does not count, or counts what cannot be, does no harm."""
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
        """A server that does not name it, or not as a name, says nothing."""
        assert read_answer(answer(items(unit_vectors(1)), **more), expected=1)[2] == model


class TestArrays:
    """What another `Embeddings` class returned."""

    @given(MATRICES)
    def test_lists_of_floats_become_the_same_float32(self, matrix: Matrix) -> None:
        """Nothing is lost on the way through Python floats."""
        assert bits(as_array(matrix.tolist())) == bits(matrix)

    def test_rows_of_an_array_are_taken_too(self) -> None:
        """Local models often return numpy arrays, of any precision."""
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
        """Rows of different widths and anything but numbers are refused, and not quoted."""
        with pytest.raises(ResponseError, match="cannot be read") as caught:
            as_array(embeddings)
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("shape", [(), (2,), (3, 4), (2, 0), (2, 4, 1)])
    def test_an_array_of_another_shape_is_not_believed(self, shape: tuple[int, ...]) -> None:
        """Two texts have two vectors of at least one number."""
        with pytest.raises(
            ResponseError, match="2 texts were sent, but an array of shape"
        ) as caught:
            check(np.zeros(shape, dtype=np.float32), expected=2)
        assert caught.value.received == {(): None, (3, 4): 3}.get(shape)

    def test_a_right_array_is_returned_as_it_is(self) -> None:
        """Checking copies nothing."""
        matrix = unit_vectors(2)
        assert check(matrix, expected=2) is matrix


@pytest.fixture
def collecting() -> Iterator[None]:
    """Leave cyclic garbage collection on, whatever the test did."""
    gc.enable()
    yield
    gc.enable()


class TestToLists:
    """Plain lists of Python floats."""

    @given(MATRICES)
    def test_each_float_converts_back_to_the_very_same_float32(self, matrix: Matrix) -> None:
        """Rounding shortens what is printed and never changes the float32, -0.0 included."""
        lists = to_lists(matrix)
        assert bits(np.array(lists, dtype=np.float32)) == bits(matrix)

    def test_they_are_lists_of_python_floats(self) -> None:
        """Whoever wants JSON or a database gets what they can write."""
        lists = to_lists(unit_vectors(3, 2))
        assert [type(vector) for vector in lists] == [list] * 3
        assert {type(number) for vector in lists for number in vector} == {float}

    def test_they_are_short_in_json(self) -> None:
        """A vector of length 1 is written with ten decimals, a third less than without rounding."""
        matrix = unit_vectors(100, 1536)
        plain, short = json.dumps(matrix.tolist()), json.dumps(to_lists(matrix))
        assert len(short) < 0.67 * len(plain)
        rounded = [number == round(number, 10) for vector in to_lists(matrix) for number in vector]
        assert sum(rounded) > 0.95 * len(rounded)

    @pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 200])
    def test_every_vector_is_there_and_in_order(self, n: int) -> None:
        """The steps in which they are made leave nothing out, at no length."""
        matrix = unit_vectors(n, 3) if n else np.empty((0, 3), dtype=np.float32)
        lists = to_lists(matrix)
        assert len(lists) == n
        assert bits(np.array(lists, dtype=np.float32).reshape(n, 3)) == bits(matrix)

    @pytest.mark.usefixtures("collecting")
    def test_garbage_collection_is_on_again_afterwards(self, mocker: MockerFixture) -> None:
        """It is off while the floats are made, and on when they are there."""
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
        """Running out of memory does not leave the process without garbage collection."""
        mocker.patch("numpy.round", side_effect=MemoryError)
        with pytest.raises(MemoryError):
            to_lists(unit_vectors(1))
        assert gc.isenabled()

    @pytest.mark.usefixtures("collecting")
    def test_garbage_collection_stays_off_where_it_was_off(self) -> None:
        """A program that does without it is not surprised."""
        gc.disable()
        to_lists(unit_vectors(1))
        assert not gc.isenabled()
