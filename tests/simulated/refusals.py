"""Errors as an SDK raises them, worded like those of OpenAI, gateways and compatible servers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from langchain_batch_embed.simulator.quota import go_duration

__all__ = ["StatusError", "over_quota", "too_large_for_quota"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """The part of an HTTP response that an SDK's error carries."""

    status_code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    text: str = ""


class StatusError(Exception):
    """An answer with an error status, as an SDK raises it.

    Attributes:
        status_code: the HTTP status.
        message: the server's message.
        body: the error object of the answer, as the openai SDK keeps it.
        response: the response, with the headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        headers: Mapping[str, str] | None = None,
        **details: str | None,
    ) -> None:
        super().__init__(f"Error code: {status} - {message}")
        self.status_code = status
        self.message = message
        self.body: Mapping[str, Any] = {"message": message, **details}
        self.response = Response(status_code=status, headers=headers or {}, text=message)


def over_quota(
    kind: str, *, limit: float, used: float, requested: float, delay: float, headers: dict[str, str]
) -> StatusError:
    """Return OpenAI's refusal of a request that exceeds the quota at present."""
    message = (
        f"Rate limit reached {_place(kind)}: Limit {round(limit)}, Used {round(used)}, Requested"
        f" {round(requested)}. Please try again in {go_duration(delay)}. Visit"
        " https://platform.openai.com/account/rate-limits to learn more."
    )
    return StatusError(429, message, headers=headers, type=kind, code="rate_limit_exceeded")


def too_large_for_quota(
    kind: str, *, limit: float, requested: float, headers: dict[str, str]
) -> StatusError:
    """Return OpenAI's refusal of a request that is larger than the whole quota."""
    message = (
        f"Request too large {_place(kind)}: Limit {math.floor(limit)}, Requested"
        f" {round(requested)}. The input or output tokens must be reduced in order to run"
        " successfully."
    )
    return StatusError(429, message, headers=headers, type=kind, code="rate_limit_exceeded")


def _place(kind: str) -> str:
    unit = "requests per min (RPM)" if kind == "requests" else "tokens per min (TPM)"
    return f"for text-embedding-3-small in organization org-simulated on {unit}"
