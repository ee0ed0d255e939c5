"""Writes the lines of a batch's file, and reads the texts back from it."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import jiter

from langchain_batch_embed.batch_api.records import Line
from langchain_batch_embed.journal import Space, content_keys

__all__ = ["URL", "octets_of", "texts_in", "written"]

URL: Final = "/v1/embeddings"
"""The endpoint that each line names; the Batch API uses this path for any server address."""

# Characters that `json.dumps` does not escape here, and that some programs take for line ends.
_LINE_ENDS = {"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def written(
    lines: Iterable[Line], texts: Mapping[bytes, str], body: Mapping[str, Any], *, empty: str = ""
) -> Iterator[bytes]:
    """Yield the lines of a file, each with its newline.

    Args:
        lines: the requests in the file.
        texts: the texts by their keys.
        body: the JSON of a request without its texts.
        empty: the string to send for an empty text.
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
    """Return how many bytes each text takes in a file, with its separator."""
    return [len(_json(text)) + 2 for text in texts]


def texts_in(
    lines: Iterable[bytes], space: Space, wanted: Callable[[bytes], bool]
) -> Iterator[tuple[bytes, str]]:
    """Yield the key and the text of each wanted text in a file.

    If the empty text is wanted, it is always yielded, because the file holds another string in its
    place.
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
