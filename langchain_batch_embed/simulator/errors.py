"""Refusals in the words of OpenAI, Azure and gateways.

Sources: OpenAI's error code guide and API reference, Azure's quota documentation, and response
bodies quoted in public issues of openai-python, litellm and pgai.
"""

import json
import math
import time
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final

from .quota import OverQuota, go_duration
from .scenario import Scenario

_INVALID: Final = "invalid_request_error"
_ORGANIZATION: Final = "org-simulator"

# The body of a gateway's 429 that gives neither a number nor a reason.
BARE_429: Final = {"error": {"message": "Too many requests"}}

HTML: Final = (
    "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n"
    "<center><h1>{title}</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)


class Refusal(Exception):  # noqa: N818 - an answer, not an error of this program
    """An answer without embeddings, which any function may raise and which is sent as it is.

    Attributes:
        status: the HTTP status.
        body: the response body, in bytes.
        headers: headers in addition to those of every answer.
        is_page: whether the answer is a proxy's page, which has none of the provider's headers.
        tells_quota: whether the answer carries x-ratelimit-* headers.
        fault: the name of the fault that caused the refusal; `None` if the request itself did.

    """

    def __init__(
        self,
        status: int,
        body: Mapping[str, Any] | str,
        *,
        headers: Mapping[str, str] | None = None,
        tells_quota: bool = False,
    ) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.is_page = isinstance(body, str)
        self.tells_quota = tells_quota
        self.body = (body if isinstance(body, str) else json.dumps(body)).encode()
        kind = "text/html" if self.is_page else "application/json"
        self.headers = {"content-type": kind, **(headers or {})}
        self.fault: str | None = None


def error(
    message: str, type_: str | None = _INVALID, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """Return OpenAI's error object."""
    return {"error": {"message": message, "type": type_, "param": param, "code": code}}


def invalid(message: str, param: str | None = "input", code: str | None = None) -> Refusal:
    """Refuse a request that is malformed or over a limit, with 400."""
    return Refusal(400, error(message, param=param, code=code))


def invalid_input() -> Refusal:
    """Refuse an `input` that consists of neither texts nor tokens."""
    return invalid(
        "'$.input' is invalid. Please check the API reference: "
        "https://platform.openai.com/docs/api-reference.",
        param=None,
    )


def plain(status: int) -> Refusal:
    """Refuse with a status and a message that is only the name of the status."""
    try:
        message = HTTPStatus(status).phrase
    except ValueError:
        message = f"Error {status}"
    return Refusal(status, {"error": {"message": message}})


def page(status: int, name: str) -> Refusal:
    """Refuse with an HTML page, as a proxy does."""
    return Refusal(status, HTML.format(title=f"{status} {name}"))


def unavailable() -> Refusal:
    """Refuse as a proxy does when its server does not answer."""
    return page(503, "Service Temporarily Unavailable")


def busy(status: int) -> Refusal:
    """Refuse a request beyond the limit of concurrent requests, as nginx's limit_conn does."""
    return (
        page(429, "Too Many Requests") if status == HTTPStatus.TOO_MANY_REQUESTS else unavailable()
    )


def firewalled() -> Refusal:
    """Refuse a request because of a text in it, as a web application firewall does."""
    return page(403, "Forbidden")


def too_many_inputs(scenario: Scenario, *, azure: bool) -> Refusal:
    """Refuse a request with too many inputs."""
    limit = scenario.max_inputs
    if scenario.text_limit_words is not None:
        return invalid(scenario.text_limit_words, None)
    if azure:
        return invalid(f"Too many inputs. The max number of inputs is {limit}.", param=None)
    return invalid(f"Invalid 'input': array length must be {limit} or less.")


def empty_input(index: int) -> Refusal:
    """Refuse a request because of its first empty text."""
    return invalid(
        f"Invalid 'input[{index}]': input cannot be an empty string.",
        f"input[{index}]",
        "invalid_value",
    )


def input_too_long(index: int, limit: int) -> Refusal:
    """Refuse a request because of its first text with too many tokens."""
    return invalid(
        f"Invalid 'input[{index}]': maximum input length is {limit} tokens.",
        f"input[{index}]",
        "invalid_value",
    )


def request_too_long(requested: int, limit: int) -> Refusal:
    """Refuse a request whose texts have too many tokens in total."""
    name = "max_tokens_per_request"
    message = f"Requested {requested} tokens, max {limit} tokens per request"
    return Refusal(400, error(message, name, None, name))


def body_too_long() -> Refusal:
    """Refuse a body that is too long, as a reverse proxy does."""
    return page(413, "Request Entity Too Large")


def flagged_content() -> Refusal:
    """Refuse a request because of the content of a text, without saying which text."""
    return invalid(
        "Your request was rejected as a result of our safety system.",
        None,
        "content_policy_violation",
    )


def wrong_key(key: str, *, azure: bool = False) -> Refusal:
    """Refuse an API key; OpenAI's message repeats its first and last characters."""
    if azure:
        message = (
            "Access denied due to invalid subscription key or wrong API endpoint. Make sure to"
            " provide a valid key for an active subscription and use a correct regional API"
            " endpoint for your resource."
        )
        return Refusal(401, {"error": {"code": "401", "message": message}})
    hidden = max(0, len(key) - 12)
    masked = f"{key[:8]}{'*' * hidden}{key[-4:]}" if hidden else "*" * len(key)
    message = (
        f"Incorrect API key provided: {masked}. You can find your API key at"
        " https://platform.openai.com/account/api-keys."
    )
    return Refusal(401, error(message, code="invalid_api_key"))


def unknown_model(model: str, *, azure: bool = False) -> Refusal:
    """Refuse a model, or on Azure a deployment, that does not exist."""
    if azure:
        message = (
            "The API deployment for this resource does not exist. If you created the deployment"
            " within the last 5 minutes, please wait a moment and try again."
        )
        return Refusal(404, {"error": {"code": "DeploymentNotFound", "message": message}})
    message = f"The model `{model}` does not exist or you do not have access to it."
    return Refusal(404, error(message, code="model_not_found"))


def unprocessable_tokens() -> Refusal:
    """Refuse token arrays, as servers built with FastAPI do."""
    detail = {
        "type": "string_type",
        "loc": ["body", "input"],
        "msg": "Input should be a valid string",
    }
    return Refusal(422, {"detail": [detail]})


def over_quota(over: OverQuota, model: str, scenario: Scenario, *, azure: bool) -> Refusal:
    """Refuse a request beyond the quota, with the time to wait unless no wait will help."""
    if azure:
        return azure_over_quota(over.wait, scenario)
    unit = "requests per min (RPM)" if over.kind == "requests" else "tokens per min (TPM)"
    place = f"for {model} in organization {_ORGANIZATION} on {unit}"
    if over.wait == math.inf:
        message = (
            f"Request too large {place}: Limit {over.limit}, Requested {over.requested}."
            " The input or output tokens must be reduced in order to run successfully."
            " Visit https://platform.openai.com/account/rate-limits to learn more."
        )
        return _too_many_requests(message, over.kind, "rate_limit_exceeded", scenario)
    wait = _told(over.wait, scenario)
    hint = f" Please try again in {go_duration(wait)}." if _tells_in_text(scenario) else ""
    message = (
        f"Rate limit reached {place}: Limit {over.limit}, Used {over.used},"
        f" Requested {over.requested}.{hint}"
        " Visit https://platform.openai.com/account/rate-limits to learn more."
    )
    return _too_many_requests(message, over.kind, "rate_limit_exceeded", scenario, wait)


def azure_over_quota(wait: float, scenario: Scenario) -> Refusal:
    """Refuse a request beyond the quota as Azure does, with whole seconds in the message."""
    wait = _told(wait, scenario)
    if wait == math.inf:
        wait = 60.0  # Azure has no message for a request larger than the whole quota
    hint = f" Please retry after {math.ceil(wait)} seconds." if _tells_in_text(scenario) else ""
    message = (
        "Requests to the Embeddings_Create Operation under Azure OpenAI API version 2024-10-21"
        " have exceeded call rate limit of your current OpenAI S0 pricing tier."
        f"{hint} Please go here: https://aka.ms/oai/quotaincrease if"
        " you would like to further increase the default rate limit."
    )
    body = {"error": {"code": "429", "message": message}} if scenario.error_details else BARE_429
    return Refusal(429, body, headers=_retry_headers(wait, scenario), tells_quota=True)


def no_money(scenario: Scenario) -> Refusal:
    """Refuse a request because the account has no credit; no wait is given, as none would help."""
    name = "insufficient_quota"
    message = (
        "You exceeded your current quota, please check your plan and billing details. For more"
        " information on this error, read the docs:"
        " https://platform.openai.com/docs/guides/error-codes/api-errors."
    )
    return _too_many_requests(message, name, name, scenario)


def _too_many_requests(
    message: str, type_: str, code: str, scenario: Scenario, wait: float | None = None
) -> Refusal:
    """Return a 429; without a wait it has no retry headers, like OpenAI's insufficient_quota."""
    headers = {} if wait is None else _retry_headers(wait, scenario)
    body = error(message, type_, None, code) if scenario.error_details else BARE_429
    return Refusal(429, body, headers=headers, tells_quota=True)


def _told(wait: float, scenario: Scenario) -> float:
    return wait if scenario.retry_after is None else scenario.retry_after


def _tells_in_text(scenario: Scenario) -> bool:
    return scenario.refusal_hint in ("exact", "text")


def _retry_headers(wait: float, scenario: Scenario) -> dict[str, str]:
    # Rounded up, so that a client that waits exactly this long does not come too early.
    match scenario.refusal_hint:
        case "exact":
            return {
                "retry-after-ms": str(math.ceil(wait * 1000)),
                "retry-after": str(math.ceil(wait)),
            }
        case "zero":
            return {"retry-after": "0"}
        case "date":
            return {"retry-after": formatdate(math.ceil(time.time() + wait), usegmt=True)}
        case "text" | "none":
            return {}
