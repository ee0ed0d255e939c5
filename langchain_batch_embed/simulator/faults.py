"""The faults that replace or spoil the answers of the server."""

import dataclasses
import math
import random
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from starlette.responses import Response

from . import errors
from .answers import Answer
from .errors import BARE_429, HTML, Refusal, error
from .question import Items, Question, Row
from .quota import Kind, OverQuota
from .scenario import Scenario, status_of

# HTTP status and body of the faults whose message never changes.
_FIXED: Final[Mapping[str, tuple[int, Mapping[str, Any] | str]]] = {
    "403": (
        403,
        error(
            "Country, region, or territory not supported",
            "request_forbidden",
            code="unsupported_country_region_territory",
        ),
    ),
    "403_html": (403, HTML.format(title="403 Forbidden")),
    "408": (408, error("Request timed out.", "server_error")),
    "409": (409, error("The resource was updated by another request. Please try again.")),
    "429_bare": (429, BARE_429),
    "500": (
        500,
        error(
            "The server had an error while processing your request. Sorry about that!",
            "server_error",
        ),
    ),
    "502_html": (502, HTML.format(title="502 Bad Gateway")),
    "503": (
        503,
        error(
            "The engine is currently overloaded, please try again later.",
            "service_unavailable_error",
            code="server_is_overloaded",
        ),
    ),
}


def injected(
    fault: str, question: Question, *, key: str, scenario: Scenario, dice: random.Random
) -> Refusal:
    """Return the refusal that a fault produces."""
    if fault in _FIXED:
        refusal = Refusal(*_FIXED[fault])
    elif status := status_of(fault):
        refusal = errors.plain(status)
    else:
        # The wait of an injected 429 is long enough to matter and short enough for a test.
        wait = dice.uniform(0.02, 0.2) if scenario.retry_after is None else scenario.retry_after
        refusal = _injected(fault, question, key, scenario, wait)
    refusal.fault = fault
    return refusal


def _injected(fault: str, question: Question, key: str, scenario: Scenario, wait: float) -> Refusal:
    requests, tokens = scenario.quotas
    model, charge = question.model, question.charge
    match fault:
        case "401":
            return errors.wrong_key(key)
        case "404":
            return errors.unknown_model(model)
        case "429":
            over = _spent("tokens", tokens or 1_000_000, charge, wait)
        case "429_requests":
            over = _spent("requests", requests or 3_000, 1, wait)
        case "429_azure":
            return errors.azure_over_quota(wait, scenario)
        case "too_large_for_quota":
            limit = min(tokens or charge, max(1, charge - 1))
            over = OverQuota(kind="tokens", limit=limit, used=0, requested=charge, wait=math.inf)
        case "insufficient_quota":
            return errors.no_money(scenario)
        case _:
            raise AssertionError(f"fault {fault!r} is not a refusal")
    return errors.over_quota(over, model, scenario, azure=False)


def _spent(kind: Kind, limit: int, requested: int, wait: float) -> OverQuota:
    """Return made-up numbers of a spent quota from which the limiter's formula gives this wait."""
    used = max(0, round(limit + wait * limit / 60 - requested))
    return OverQuota(kind=kind, limit=limit, used=used, requested=requested, wait=wait)


def replaced(fault: str | None, headers: Mapping[str, str]) -> Response | None:
    """Return the 200 response that replaces the answer; `None` if the fault does not replace it."""
    if fault == "html":
        html = HTML.format(title="Service temporarily unavailable")
        return Response(html, headers=headers, media_type="text/html")
    if fault == "error_200":
        body = b'{"error":{"message":"Provider returned error","code":502}}'
        return Answer(body, headers=headers)
    return None


def spoil(items: Items, question: Question, fault: str, dice: random.Random) -> Items:
    """Return the items of an answer after applying a fault to them.

    In an answer with one item, "shuffled" and "short_one" change nothing, and "wrong_width" gives
    an answer whose vectors all have the same width.
    """
    count = len(items)
    chosen = dice.randrange(count)
    match fault:
        case "empty_data":
            items = []
        case "short":
            items = items[:chosen] + items[chosen + 1 :]
        case "short_one":
            items = items[:1]
        case "doubled" if count == 1:
            items = items * 2
        case "doubled":
            other = (chosen + dice.randrange(1, count)) % count
            items = [*items[:other], items[chosen], *items[other + 1 :]]
        case "shuffled":
            mixed = dice.sample(items, count)
            items = mixed if mixed != items else items[::-1]
        case "no_index":
            items = [(None, embedding) for _, embedding in items]
        case "nulls":
            items = _replace(items, chosen, b"null")
        case "nan" | "zeros" | "wrong_width":
            items = _replace(items, chosen, question.embedding(_bad_row(fault, question)))
    return items


def _bad_row(fault: str, question: Question) -> Row:
    width, number = {
        "nan": (question.dimensions, np.nan),
        "zeros": (question.dimensions, 0.0),
        "wrong_width": (max(1, question.dimensions // 2), 0.5),
    }[fault]
    return np.full(width, number, dtype=np.float32)


def belied(question: Question, fault: str) -> Question:
    """Return the question with the wrong model or token count that the fault makes it report."""
    match fault:
        case "wrong_model":
            return dataclasses.replace(question, model=f"another-{question.model}")
        case "bad_usage":
            return dataclasses.replace(question, tokens=[-sum(question.tokens)])
        case _:
            return question


def _replace(items: Items, index: int, embedding: bytes) -> Items:
    return [*items[:index], (items[index][0], embedding), *items[index + 1 :]]
