"""A batch's file: how its lines are written, and how the texts are read back from it."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import jiter

from langchain_batch_embed.batch_api.records import Line
from langchain_batch_embed.journal import Space, content_keys

__all__ = ["URL", "octets_of", "texts_in", "written"]

URL: Final = "/v1/embeddings"
"""The endpoint of each line, as the Batch API names it for any server address."""

# Characters that JSON leaves as they are, and at which some programs cut lines.
_LINE_ENDS = {"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def written(
    lines: Iterable[Line], texts: Mapping[bytes, str], body: Mapping[str, Any], *, empty: str = ""
) -> Iterator[bytes]:
    """Yield the lines of a file, with their ends.

    Args:
        lines: what is in it.
        texts: the texts by their keys.
        body: the JSON of a request but for its texts.
        empty: what is sent for an empty text.
    """
    for line in lines:
        request = {
            "custom_id": line.id,
            "method": "POST",
            "url": URL,
            "body": {**body, "input": [texts[key] or empty for key in line.keys]},
        }
        yield _json(request) + b"\n"


def octets_of(texts: Sequence[str]) -> list[int]:
    """Return how many bytes each text takes in a file."""
    return [len(_json(text)) + 2 for text in texts]


def texts_in(
    lines: Iterable[bytes], space: Space, wanted: Callable[[bytes], bool]
) -> Iterator[tuple[bytes, str]]:
    """Yield the texts of a file that are wanted, by their keys.

    The empty text is always among them, because the file holds what was sent in its place.
    """
    (nothing,) = content_keys([""], space)
    if wanted(nothing):
        yield nothing, ""
    for line in lines:
        texts = jiter.from_json(line)["body"]["input"]
        for key, text in zip(content_keys(texts, space), texts, strict=True):
            if wanted(key):
                yield key, text


def _json(value: object) -> bytes:
    text = json.dumps(value, ensure_ascii=False)
    for end, escaped in _LINE_ENDS.items():
        text = text.replace(end, escaped)
    return text.encode()
