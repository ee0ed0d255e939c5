"""Parses one embeddings request, measures it, checks it against the limits and answers it."""

import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Self

import jiter
import numpy as np
import orjson
import toktok
from numpy.typing import NDArray

from . import errors
from .scenario import Scenario
from .vectors import vectors

_ENCODING: Final = "cl100k_base"  # used by every OpenAI embedding model so far
_NO_DIMENSIONS: Final = "text-embedding-ada-002"

# The items of an answer before they are joined: (index or `None`, JSON of the embedding).
Items = list[tuple[int | None, bytes]]
Row = NDArray[np.float32]


class Cache:
    """Tokens and embeddings computed so far, for scenarios with `vector_cache`."""

    def __init__(self) -> None:
        self.tokens: dict[str, int] = {}
        self.embeddings: dict[tuple[int, bool], dict[str, bytes]] = {}


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a request asks for, and how large it is.

    Attributes:
        model: the model's or deployment's name.
        texts: one text per input; token arrays are decoded.
        tokens: true tokens of each input.
        charge: what the limiter charges, UTF-8 bytes / 4, rounded up.
        dimensions: width of the vectors.
        base64: whether the vectors are sent as base64 rather than as numbers.

    """

    model: str
    texts: Sequence[str]
    tokens: Sequence[int]
    charge: int
    dimensions: int
    base64: bool

    @classmethod
    def parse(
        cls, body: bytes, scenario: Scenario, cache: Cache | None, *, deployment: str | None
    ) -> Self:
        """Parse a request's JSON and count its tokens, without checking the limits.

        Raises:
            Refusal: the request is malformed, or asks for something this server does not support.

        """
        try:
            options: Any = jiter.from_json(body)
        except ValueError:
            options = None
        if not isinstance(options, dict):
            raise errors.invalid(
                "We could not parse the JSON body of your request.", param=None
            ) from None
        model = deployment or options.get("model")
        if not isinstance(model, str):
            raise errors.invalid("you must provide a model parameter", param=None)
        if scenario.models and model not in scenario.models:
            raise errors.unknown_model(model, azure=deployment is not None)
        encoding = options.get("encoding_format") or "float"
        if encoding not in ("float", "base64"):
            raise errors.invalid(
                f"Invalid value: '{encoding}'. Supported values are: 'float' and 'base64'.",
                "encoding_format",
                "invalid_value",
            )
        texts, tokens = _read_input(options.get("input"), scenario, cache)
        return cls(
            model=model,
            texts=texts,
            tokens=tokens,
            charge=-(-sum(len(text.encode()) for text in texts) // 4),
            dimensions=_read_dimensions(options.get("dimensions"), model, scenario),
            base64=scenario.base64 and encoding == "base64",
        )

    def check(self, scenario: Scenario, *, azure: bool) -> None:
        """Check the request against the limits.

        Raises:
            Refusal: the request exceeds a limit, has an empty text, or has a text with a marker.

        """
        if self._contains(scenario.firewall_marker):
            raise errors.firewalled()
        if len(self.texts) > scenario.max_inputs:
            raise errors.too_many_inputs(scenario, azure=azure)
        if "" in self.texts:
            raise errors.empty_input(self.texts.index(""))
        if max(self.tokens) > scenario.max_tokens_per_input:
            limit = scenario.max_tokens_per_input
            index = next(i for i, count in enumerate(self.tokens) if count > limit)
            raise errors.input_too_long(index, limit)
        total = self.charge if scenario.request_tokens_by == "bytes" else sum(self.tokens)
        if total > scenario.max_tokens_per_request:
            raise errors.request_too_long(total, scenario.max_tokens_per_request)
        if self._contains(scenario.refuse_marker):
            if scenario.marker_status == HTTPStatus.BAD_REQUEST:
                raise errors.flagged_content()
            raise errors.plain(scenario.marker_status)

    def _contains(self, marker: str | None) -> bool:
        return marker is not None and any(marker in text for text in self.texts)

    def items(self, cache: Cache | None) -> Items:
        """Compute the embeddings, and write each as JSON: a base64 string or an array."""
        if cache is None:
            return list(enumerate(_embeddings(self.texts, self.dimensions, base64=self.base64)))
        kept = cache.embeddings.setdefault((self.dimensions, self.base64), {})
        new = list({text: None for text in self.texts if text not in kept})
        kept.update(zip(new, _embeddings(new, self.dimensions, base64=self.base64), strict=True))
        return [(index, kept[text]) for index, text in enumerate(self.texts)]

    def embedding(self, row: Row) -> bytes:
        """Write a vector in the format that this request asks for."""
        return _embedding(row, base64=self.base64)

    def body(self, items: Items, scenario: Scenario) -> bytes:
        """Return the answer's JSON, made of the items."""
        # Joined by hand, because a JSON writer would inspect each of 17 million characters.
        pieces = [b'{"object":"list","data":[']
        for index, embedding in items:
            if index is None or not scenario.index:
                pieces.append(b'{"object":"embedding","embedding":')
            else:
                pieces.append(b'{"object":"embedding","index":%d,"embedding":' % index)
            pieces += (embedding, b"},")
        if items:
            pieces[-1] = b"}"
        pieces.append(b'],"model":%b' % json.dumps(self.model).encode())
        if scenario.usage:
            total = sum(self.tokens)
            pieces.append(b',"usage":{"prompt_tokens":%d,"total_tokens":%d}' % (total, total))
        pieces.append(b"}")
        return b"".join(pieces)


def _embeddings(texts: Sequence[str], dimensions: int, *, base64: bool) -> list[bytes]:
    rows = vectors(texts, dimensions)
    return [_embedding(row, base64=base64) for row in rows]


def _embedding(row: Row, *, base64: bool) -> bytes:
    """Write a vector as base64 of little-endian float32, or as numbers that keep every bit."""
    if base64:
        data = row.astype("<f4", copy=False).tobytes()
        return b'"%b"' % binascii.b2a_base64(data, newline=False)
    # Providers write the numbers as doubles, with up to 17 digits.
    numbers = orjson.dumps(row.astype(np.float64), option=orjson.OPT_SERIALIZE_NUMPY)
    # JSON has no NaN, but some servers write it anyway, as Python's json module does.
    return numbers if np.isfinite(row).all() else numbers.replace(b"null", b"NaN")


def _read_input(
    value: Any, scenario: Scenario, cache: Cache | None
) -> tuple[Sequence[str], Sequence[int]]:
    """Return texts and token counts of a string, a list of strings, token ids, or lists of ids."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise errors.invalid_input()
    if not value:
        raise errors.invalid("Invalid 'input': input cannot be an empty array.")
    if all(type(item) is str for item in value):
        return value, _count(value, cache)
    if all(type(item) is int for item in value):
        value = [value]
    if not all(
        isinstance(item, list) and all(type(token) is int for token in item) for item in value
    ):
        raise errors.invalid_input()
    if not scenario.token_arrays:
        raise errors.unprocessable_tokens()
    # toktok has no public way to decode tokens.
    decode = toktok._encoding(_ENCODING).decode  # noqa: SLF001
    try:
        return [decode(item, errors="replace") for item in value], [len(item) for item in value]
    except (KeyError, ValueError, OverflowError):
        raise errors.invalid_input() from None


def count_tokens(texts: Sequence[str]) -> Sequence[int]:
    """Count the true tokens of each text; the first call loads the vocabulary."""
    tokens: list[int] = toktok.batch_count(texts, _ENCODING)
    return tokens


def _count(texts: Sequence[str], cache: Cache | None) -> Sequence[int]:
    if cache is None:
        return count_tokens(texts)
    new = list({text: None for text in texts if text not in cache.tokens})
    cache.tokens.update(zip(new, count_tokens(new), strict=True))
    return [cache.tokens[text] for text in texts]


def _read_dimensions(value: Any, model: str, scenario: Scenario) -> int:
    if value is None or not scenario.honour_dimensions:
        return scenario.dimensions
    if model == _NO_DIMENSIONS:
        raise errors.invalid("This model does not support specifying dimensions.", None)
    if type(value) is not int or not 1 <= value <= scenario.dimensions:
        raise errors.invalid(
            f"Invalid value for 'dimensions' = {value}. Must be between 1 and"
            f" {scenario.dimensions}.",
            "dimensions",
            "invalid_value",
        )
    return value
