"""What is read in an error: every refusal that providers are known to send.

The exceptions are those that the OpenAI SDK makes of such an answer, or have the attributes
that another SDK gives its own.
"""

import enum
import html
import importlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from email.message import Message
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, NoReturn
from urllib.error import HTTPError

import aiohttp
import openai
import pytest
import requests
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from langchain_batch_embed.errors import (
    BatchEmbeddingsError,
    DimensionsError,
    ResponseError,
)
from langchain_batch_embed.pacing.diagnosis import Diagnosis, Kind, Quota, diagnose
from langchain_batch_embed.pacing.quotation import without_texts

# Version 2 of the SDK is built on httpx, version 3 on httpx2.
http: Any = importlib.import_module(openai.DefaultHttpxClient.__mro__[1].__module__.split(".")[0])

CLIENT = openai.OpenAI(api_key="sk-test", base_url="http://127.0.0.1:9/v1")
REQUEST = http.Request("POST", "http://127.0.0.1:9/v1/embeddings")
NOW = 1_700_000_000.0
HTML = "<!DOCTYPE html><html><head><title>Error</title></head><body>{}</body></html>"

SPENT = {"kind": Kind.SPENT}
THROTTLED = {"kind": Kind.THROTTLED}
ACCOUNT = {"kind": Kind.ACCOUNT}
OPTION = {"kind": Kind.OPTION}
REFUSED = {"kind": Kind.REFUSED}
FAILED = {"kind": Kind.FAILED}
OVERLOADED = {"kind": Kind.OVERLOADED}

Expected = dict[str, Any]
Case = tuple[int, object, Expected]

no_deadline = settings(deadline=None)


def refusal(
    status: int, body: object, headers: dict[str, str] | None = None
) -> openai.APIStatusError:
    """Return the exception that the SDK makes of an answer; `body` is JSON, or text as it is."""
    content = {"text": body} if isinstance(body, str) else {"json": body}
    response = http.Response(status, headers=headers, request=REQUEST, **content)
    return CLIENT._make_status_error_from_response(response)


def body(
    message: str, kind: str = "invalid_request_error", param: str | None = None, code: Any = None
) -> dict[str, object]:
    """Return an error as OpenAI writes it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def check(got: Diagnosis, expected: Expected, *, status: int | None = None) -> None:
    """Assert that a diagnosis says what is expected, and in all other fields nothing."""
    nothing = {field.name: field.default for field in fields(Diagnosis)} | {"status": status}
    found = {name: getattr(got, name) for name in nothing if name != "signature"}
    wanted = nothing | {"after": None} | expected
    wanted.pop("signature")
    for name in ("after", "share"):
        assert found.pop(name) == (None if wanted[name] is None else pytest.approx(wanted[name])), (
            name
        )
        wanted.pop(name)
    assert found == wanted


def cases(table: dict[str, Case]) -> pytest.MarkDecorator:
    """Parametrize a test by a table of status, answer and diagnosis."""
    return pytest.mark.parametrize(("status", "answer", "expected"), table.values(), ids=table)


def large(measure: str | None, **found: object) -> Expected:
    """Return what is expected of a request that is too large."""
    return {"kind": Kind.TOO_LARGE, "measure": measure, **found}


TOKENS_A_MINUTE = (
    "Rate limit reached for text-embedding-3-small in organization org-x on tokens per min (TPM): "
    "Limit 1000000, Used 976163, Requested 70716. Please try again in 2.812s. Visit "
    "https://platform.openai.com/account/rate-limits to learn more."
)
REQUESTS_A_MINUTE = (
    "Rate limit reached for text-embedding-3-small in organization org-x on requests per min "
    "(RPM): Limit 3000, Used 3000, Requested 1. Please try again in 20ms."
)
ABOVE_THE_QUOTA = (
    "Request too large for text-embedding-3-small in organization org-x on tokens per min (TPM): "
    "Limit 1000000, Requested 1003160. The input or output tokens must be reduced in order to run "
    "successfully."
)
NO_MONEY = "You exceeded your current quota, please check your plan and billing details."
TOO_MANY = "batch size 64 > maximum allowed batch size 32"


def gemini(*quotas: str, delay: str | None = "32s", limit: int = 100) -> dict[str, object]:
    """Return Google's refusal, which is the same for a minute and a day but for the details."""
    metric = "generativelanguage.googleapis.com/embed_content_free_tier_requests"
    details: list[dict[str, object]] = [
        {
            "@type": "type.googleapis.com/google.rpc.QuotaFailure",
            "violations": [
                {
                    "quotaMetric": metric,
                    "quotaId": quota,
                    "quotaDimensions": {"location": "global", "model": "gemini-embedding-001"},
                    "quotaValue": str(limit),
                }
                for quota in quotas
            ],
        },
        {"@type": "type.googleapis.com/google.rpc.Help", "links": [{"url": "https://ai.google"}]},
    ]
    if delay:
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay})
    return {
        "error": {
            "code": 429,
            "message": f"{NO_MONEY} For more information on this error, head to: "
            "https://ai.google.dev/gemini-api/docs/rate-limits.\n* Quota exceeded for metric: "
            f"{metric}, limit: {limit}\n",
            "status": "RESOURCE_EXHAUSTED",
            "details": details,
        }
    }


A_MINUTE = "EmbedContentRequestsPerMinutePerUserPerProjectPerModel-FreeTier"
A_DAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"

THROTTLES: dict[str, Case] = {
    "OpenAI, tokens a minute": (
        429,
        body(TOKENS_A_MINUTE, "tokens", code="rate_limit_exceeded"),
        {
            **THROTTLED,
            "after": 2.812,
            "quota": Quota(kind="tokens", limit=1_000_000, used=976_163),
        },
    ),
    "OpenAI, requests a minute": (
        429,
        body(REQUESTS_A_MINUTE, "requests", code="rate_limit_exceeded"),
        {**THROTTLED, "after": 0.02, "quota": Quota(kind="requests", limit=3000, used=3000)},
    ),
    "OpenAI, all of the quota": (
        429,
        body(TOKENS_A_MINUTE.replace("70716", "1000000"), "tokens"),
        {
            **THROTTLED,
            "after": 2.812,
            "quota": Quota(kind="tokens", limit=1_000_000, used=976_163),
        },
    ),
    "OpenAI, in 2023": (
        429,
        body(
            "Rate limit reached for default-text-embedding-ada-002 in organization org-x on "
            "requests per min. Limit: 60.000000 / min. Current: 70.000000 / min. Contact "
            "support@openai.com if you continue to have issues. Please add a payment method to "
            "your account to increase your rate limit."
        ),
        {**THROTTLED, "quota": Quota(kind="requests", limit=60, used=70)},
    ),
    "OpenAI, in 2023, without what is used": (
        429,
        body("Rate limit reached on requests per min. Limit: 3 / min. Please try again in 20s."),
        {**THROTTLED, "after": 20, "quota": Quota(kind="requests", limit=3)},
    ),
    "Groq": (
        429,
        body(
            "Rate limit reached for model `x` in organization `org_x` service tier `on_demand` on "
            "tokens per minute (TPM): Limit 6000, Used 5034, Requested 1443. Please try again in "
            "4.77s. Need more tokens? Upgrade to Dev Tier today at https://console.groq.com",
            "tokens",
            code="rate_limit_exceeded",
        ),
        {**THROTTLED, "after": 4.77, "quota": Quota(kind="tokens", limit=6000, used=5034)},
    ),
    "Azure": (
        429,
        body(
            "Requests to the Embeddings_Create Operation under Azure OpenAI API version 2024-02-01 "
            "have exceeded call rate limit of your current OpenAI S0 pricing tier. "
            "Please retry after 46 seconds.",
            "",
            code="429",
        ),
        {**THROTTLED, "after": 46},
    ),
    "Azure, one second": (
        429,
        body("Please retry after 1 second.", "", code="429"),
        {**THROTTLED, "after": 1},
    ),
    "Azure AI": (
        429,
        body("Your requests have exceeded the call rate limit.", code="RateLimitReached"),
        THROTTLED,
    ),
    "Gemini, a minute": (429, gemini(A_MINUTE), {**THROTTLED, "after": 32}),
    "Gemini, a minute, no delay": (429, gemini(A_MINUTE, delay=None), THROTTLED),
    "Gemini, without details": (
        429,
        {"error": {"message": NO_MONEY, "code": 429, "status": "RESOURCE_EXHAUSTED"}},
        THROTTLED,
    ),
    "Vertex AI": (
        429,
        body(
            "429 Quota exceeded for aiplatform.googleapis.com/"
            "generate_content_requests_per_minute_per_project_per_base_model with base model: "
            "gemini. Please submit a quota increase request. https://cloud.google.com/vertex-ai"
        ),
        THROTTLED,
    ),
    "Vertex AI, shared": (
        429,
        body("Resource exhausted. Please try again later.", code=429),
        THROTTLED,
    ),
    "Cohere, trial key a minute": (
        429,
        {
            "message": "You are using a Trial key, which is limited to 40 API calls / minute. You "
            "can continue to use the Trial key for free or upgrade to a Production key with "
            "higher rate limits at 'https://dashboard.cohere.com/api-keys'."
        },
        THROTTLED,
    ),
    "Voyage, without payment method": (
        429,
        {
            "detail": "You have not yet added your payment method in the billing page and will "
            "have reduced rate limits of 3 RPM and 10K TPM.  Please add your payment method in "
            "the billing page (https://dash.voyageai.com/billing/payment-methods) to unlock our "
            "standard rate limits."
        },
        THROTTLED,
    ),
    "Mistral": (
        429,
        {
            "object": "error",
            "message": "Rate limit exceeded",
            "type": "rate_limited",
            "param": None,
            "code": "1300",
            "raw_status_code": 429,
        },
        THROTTLED,
    ),
    "Mistral, capacity": (
        429,
        {"object": "error", "message": "Service tier capacity exceeded for this model."},
        THROTTLED,
    ),
    "OpenRouter, a minute": (
        429,
        body(
            "Rate limit exceeded: free-models-per-min. Add 10 credits to unlock 1000 free model "
            "requests per day",
            code=429,
        ),
        THROTTLED,
    ),
    "Anthropic's wording": (
        429,
        body(
            "This request would exceed your organization's rate limit of 30,000 input tokens per "
            "minute",
            "rate_limit_error",
        ),
        THROTTLED,
    ),
    "a limit a minute beside one a day": (
        429,
        {"detail": "Rate limit exceeded: 60 requests per minute (your plan: 10,000 per day)"},
        THROTTLED,
    ),
    "LiteLLM, too many at once": (
        429,
        body("Max parallel request limit reached. Hit limit for api_key", "None", "None", "429"),
        THROTTLED,
    ),
    "LiteLLM, cooling down": (
        429,
        body("No deployments available for selected model, Try again in 60 seconds.", code="429"),
        {**THROTTLED, "after": 60},
    ),
    "milliseconds": (
        429,
        body("Please retry after 500 milliseconds."),
        {**THROTTLED, "after": 0.5},
    ),
    "no time named": (429, "", THROTTLED),
    "nginx": (429, "<html><head><title>429 Too Many Requests</title></head></html>", THROTTLED),
    "a firewall's page": (429, HTML.format("This site's daily limit is used up"), THROTTLED),
    "a code of AWS under 400": (
        400,
        {"__type": "ThrottlingException", "message": "Rate exceeded"},
        THROTTLED,
    ),
    "a code of Google under 403": (
        403,
        body("Rate Limit Exceeded", code="rateLimitExceeded"),
        THROTTLED,
    ),
}

SPENDS: dict[str, Case] = {
    "OpenAI": (429, body(NO_MONEY, "insufficient_quota", code="insufficient_quota"), SPENT),
    "OpenAI, in the type alone": (429, body("…", "insufficient_quota"), SPENT),
    "OpenAI, in the text alone": (429, body(NO_MONEY), SPENT),
    **{
        code: (429, body("…", "invalid_request_error", code=code), SPENT)
        for code in (
            *("credit_balance_exhausted", "organization_spend_limit_exceeded"),
            *("project_spend_limit_exceeded", "organization_usage_limit_exceeded"),
            *("billing_hard_limit_reached", "billing_not_active", "access_terminated"),
        )
    },
    "a code under another status": (403, body("…", code="insufficient_user_quota"), SPENT),
    "OpenAI, requests a day": (
        429,
        body(
            "Rate limit reached on requests per day (RPD): Limit 200, Used 200, Requested 1. "
            "Please try again in 7m12s.",
            "requests",
            code="rate_limit_exceeded",
        ),
        {**SPENT, "after": 432},
    ),
    "Groq, tokens a day": (
        429,
        body(
            "Rate limit reached for model `x` in organization `org_x` service tier `on_demand` on "
            "tokens per day (TPD): Limit 500000, Used 499911, Requested 1234. Please try again in "
            "3m17.856s. Need more tokens? Upgrade to Dev Tier today at https://console.groq.com",
            "tokens",
            code="rate_limit_exceeded",
        ),
        {**SPENT, "after": 197.856},
    ),
    "LiteLLM around OpenAI": (
        429,
        body(
            f"litellm.RateLimitError: RateLimitError: OpenAIException - {NO_MONEY} For more "
            "information on this error, read the docs: https://platform.openai.com/docs/guides.",
            "throttling_error",
            "None",
            "429",
        ),
        SPENT,
    ),
    "LiteLLM around OpenAI, the code in the text": (
        429,
        body("OpenAIException - Error code: 429 - {'code': 'insufficient_quota'}", code="429"),
        SPENT,
    ),
    "a gateway's short form": (429, {"error": "insufficient_quota"}, SPENT),
    "LiteLLM, budget": (
        400,
        {"detail": "Budget has been exceeded! Current cost: 14.01, Max budget: 10.0"},
        SPENT,
    ),
    "LiteLLM, budget, type": (429, body("…", "budget_exceeded", code="429"), SPENT),
    "LiteLLM, budget, auth_error": (
        400,
        body("Budget has been exceeded! Current cost: 0.0010747, Max budget: 0.0", "auth_error"),
        SPENT,
    ),
    "LiteLLM, a team's": (
        400,
        body("Budget has been exceeded! Team=RP32A1 Current cost: 3000.17, Max budget: 3000.0"),
        SPENT,
    ),
    "LiteLLM, an end user's": (
        400,
        body("ExceededBudget: End User=x over budget. Spend=0.0008, Budget=0.0001", code=400),
        SPENT,
    ),
    "LiteLLM, a model's": (
        429,
        body("LiteLLM User: x, exceeded budget for model=text-embedding-3-small", code="429"),
        SPENT,
    ),
    "LiteLLM, a deployment's": (
        429,
        body("No deployments available - crossed budget: Exceeded budget for deployment", code=429),
        SPENT,
    ),
    "OpenRouter": (
        402,
        body(
            "Insufficient credits. Add more using https://openrouter.ai/settings/credits", code=402
        ),
        SPENT,
    ),
    "OpenRouter, fewer than needed": (
        402,
        body("This request requires more credits, or fewer max_tokens.", code=402),
        SPENT,
    ),
    "OpenRouter, a day": (
        429,
        body(
            "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model "
            "requests per day",
            code=429,
        ),
        SPENT,
    ),
    "a gateway's credits": (
        402,
        "You're out of credits: this request needs $0.03. Add credits to keep going.",
        SPENT,
    ),
    "DeepSeek": (402, body("Insufficient Balance", "unknown_error"), SPENT),
    "Moonshot": (
        429,
        body(
            "Your account org-x is suspended, please check your plan and billing details",
            "exceeded_current_quota_error",
        ),
        SPENT,
    ),
    "Moonshot, balance": (
        429,
        body("Your account is not active, current state: insufficient balance"),
        SPENT,
    ),
    "SiliconFlow": (
        403,
        {"code": 30001, "message": "Sorry, your account balance is insufficient"},
        SPENT,
    ),
    "Voyage and Jina": (402, {"detail": "Insufficient balance."}, SPENT),
    "Jina": (
        402,
        {"detail": "Account balance not enough to run this query, please recharge."},
        SPENT,
    ),
    "Anthropic's wording": (400, body("Your credit balance is too low to access the API."), SPENT),
    "Alibaba": (400, {"code": "Arrearage", "message": "Access denied."}, SPENT),
    "Zhipu": (429, body("您的账户已欠费,请充值后重试", code="1113"), SPENT),
    "Hugging Face": (
        402,
        {"error": "You have exceeded your monthly included credits for Inference Providers."},
        SPENT,
    ),
    "Cloudflare": (
        429,
        {"errors": [{"message": "you have used up your daily free allocation of 10,000 neurons"}]},
        SPENT,
    ),
    "Cohere, trial key a month": (
        429,
        {
            "message": "You are using a Trial key, which is limited to 1000 API calls / month. You "
            "can continue to use the Trial key for free or upgrade to a Production key with "
            "higher rate limits at 'https://dashboard.cohere.com/api-keys'."
        },
        SPENT,
    ),
    "Gemini, a day": (429, gemini(A_DAY), {**SPENT, "after": 32}),
    "Gemini, a day and a minute": (429, gemini(A_MINUTE, A_DAY), {**SPENT, "after": 32}),
    "Gemini, a day, in words": (
        429,
        body("Quota exceeded for quota metric 'Embed requests' and limit 'Requests per day'"),
        SPENT,
    ),
    "Gemini, none in this plan": (429, gemini(A_MINUTE, limit=0), {**SPENT, "after": 32}),
    "Mistral, a month": (429, {"message": "Monthly usage limit exceeded", "code": "1300"}, SPENT),
    "Mistral, tokens a month": (429, {"message": "Tokens per month limit exceeded"}, SPENT),
    "Bedrock": (
        429,
        {"message": "Too many tokens per day, please wait before trying again."},
        SPENT,
    ),
    "OpenAI's billing, in words": (429, body("Billing hard limit has been reached"), SPENT),
    "Google's spending cap": (
        429,
        body("Your project has exceeded its monthly spending cap.", code=429),
        SPENT,
    ),
}

TOO_LARGE: dict[str, Case] = {
    "request over 300k": (
        400,
        body(
            "Requested 468160 tokens, max 300000 tokens per request",
            "max_tokens_per_request",
            code="max_tokens_per_request",
        ),
        large("tokens", max_tokens=300_000, share=300_000 / 468_160),
    ),
    "request over 300k, newer": (
        400,
        body("Invalid 'input': maximum request size is 300000 tokens per request.", param="input"),
        large("tokens", max_tokens=300_000),
    ),
    "request over 300k, the code alone": (
        400,
        body("…", "max_tokens_per_request"),
        large("tokens"),
    ),
    "nonsense figures": (
        400,
        body("Requested 0 tokens, max 300000 tokens per request"),
        large("tokens", max_tokens=300_000, share=1.0),
    ),
    "tokens, Mistral": (
        400,
        {"message": "Too many tokens in batch. Max is 16384 got 20480"},
        large("tokens", max_tokens=16_384, share=0.8),
    ),
    "tokens, Mistral, unnamed": (
        400,
        {"message": "Too many tokens overall, split into more batches."},
        large("tokens"),
    ),
    "tokens, Voyage": (
        400,
        {
            "detail": "Request to model 'voyage-3-large' failed. The max allowed tokens per "
            "submitted batch is 120000. Your batch has 150000 tokens after truncation."
        },
        large("tokens", max_tokens=120_000, share=0.8),
    ),
    "tokens, Vertex AI": (
        400,
        body(
            "400 Unable to submit request because the input token count is 25000 but the model "
            "supports up to 20000."
        ),
        large("tokens", max_tokens=20_000, share=0.8),
    ),
    "over 2,048 inputs": (
        400,
        body("Invalid 'input': array length must be 2048 or less.", param="input"),
        large("items", max_items=2048),
    ),
    "inputs, Azure": (
        400,
        body("Too many inputs. The max number of inputs is 16. We hope to increase the number."),
        large("items", max_items=16),
    ),
    "inputs, TEI": (
        413,
        {"error": TOO_MANY, "error_type": "Validation"},
        large("items", max_items=32),
    ),
    "inputs, TEI as OpenAI": (
        422,
        {"message": TOO_MANY, "type": "Validation", "code": 422},
        large("items", max_items=32),
    ),
    "inputs, plain text": (422, TOO_MANY, large("items", max_items=32)),
    "inputs, a limit of nothing": (
        422,
        {"error": TOO_MANY.replace("32", "0")},
        large("items", max_items=1),
    ),
    "inputs, Cohere": (
        400,
        {"message": "invalid request: total number of texts must be at most 96 - received 97"},
        large("items", max_items=96),
    ),
    "inputs, Gemini": (
        400,
        body("* BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch\n"),
        large("items", max_items=100),
    ),
    "inputs, Vertex AI": (
        400,
        body("400 250 instance(s) is allowed per prediction. Actual: 300"),
        large("items", max_items=250),
    ),
    "inputs, Voyage": (
        400,
        {"detail": "The batch size limit is 1000. Your batch size is 1001."},
        large("items", max_items=1000),
    ),
    "inputs, with a comma": (
        400,
        {"detail": "The batch size limit is 1,000. Your batch size is 1,001."},
        large("items", max_items=1000),
    ),
    "inputs, Alibaba": (
        400,
        body("batch size is invalid, it should not be larger than 10.: input.contents"),
        large("items", max_items=10),
    ),
    "inputs, Zhipu": (
        400,
        body("input数组最大不得超过64条", code="1214"),
        large("items", max_items=64),
    ),
    "inputs, Mistral": (
        400,
        {"message": "Too many inputs in request, split into more batches."},
        large("items"),
    ),
    "inputs, pydantic": (
        422,
        {
            "detail": [
                {
                    "type": "too_long",
                    "loc": ["body", "input"],
                    "msg": "List should have at most 2048 items after validation, not 3000",
                    "input": ["x"] * 100,
                }
            ]
        },
        large("items", max_items=2048),
    ),
    "inputs, Cohere at Bedrock": (
        400,
        {"message": "Malformed input request: #/texts: expected maximum item count: 96"},
        large("items", max_items=96),
    ),
    "body": (413, "<html>413 Request Entity Too Large</html>", large("bytes")),
    "body, empty": (413, "", large("bytes")),
    "body, Starlette": (400, "Request body too large", large("bytes")),
    "body, Gemini": (
        400,
        body("Request payload size exceeds the limit: 36000 bytes."),
        large("bytes"),
    ),
    "the whole quota": (
        429,
        body(ABOVE_THE_QUOTA, "tokens", code="rate_limit_exceeded"),
        large(
            "tokens",
            share=1_000_000 / 1_003_160,
            whole_quota=True,
            quota=Quota(kind="tokens", limit=1_000_000),
        ),
    ),
    "the whole quota, unnamed": (
        429,
        body("Request too large for gateway.", "tokens", code="rate_limit_exceeded"),
        large(None, whole_quota=True),
    ),
    "the whole quota, Groq": (
        413,
        body(
            "Request too large for model `x` in organization `org_x` service tier `on_demand` on "
            "tokens per minute (TPM): Limit 6000, Requested 12000, please reduce your message "
            "size and try again. Need more tokens? Upgrade to Dev Tier today at https://x",
            "tokens",
            code="rate_limit_exceeded",
        ),
        large("tokens", share=0.5, whole_quota=True, quota=Quota(kind="tokens", limit=6000)),
    ),
    "the whole quota of a day": (
        429,
        body("Request too large on tokens per day (TPD): Limit 1000, Requested 2000, reduce"),
        large("tokens", share=0.5, whole_quota=True),
    ),
    "the whole quota, where each text is a request": (
        429,
        body("Rate limit reached on requests per min (RPM): Limit 100, Used 0, Requested 200."),
        large(
            "items",
            share=0.5,
            whole_quota=True,
            quota=Quota(kind="requests", limit=100, used=0),
        ),
    ),
}

# One text, or something that nobody knows.
REFUSALS: dict[str, Case] = {
    "too long": (
        400,
        body(
            "Invalid 'input[3]': maximum input length is 8192 tokens.",
            param="input[3]",
            code="invalid_value",
        ),
        {**REFUSED, "at": 3},
    ),
    "too long, named in the text alone": (
        400,
        body("Invalid 'input[3]': maximum input length is 8192 tokens."),
        {**REFUSED, "at": 3},
    ),
    "too long, before 2025": (
        400,
        body(
            "This model's maximum context length is 8192 tokens, however you requested 9000 tokens "
            "(9000 in your prompt; 0 for the completion). Please reduce your prompt."
        ),
        REFUSED,
    ),
    "too long, vLLM": (
        400,
        {
            "object": "error",
            "message": "This model's maximum context length is 8192 tokens, however you requested "
            "9000 tokens in the input for embedding generation.",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
        REFUSED,
    ),
    "too long, TEI": (
        413,
        {"error": "Input validation error: `inputs` must have less than 512 tokens. Given: 534"},
        REFUSED,
    ),
    "too long, llama.cpp": (
        500,
        body(
            "input (600 tokens) is too large to process. increase the physical batch size "
            "(current batch size: 512)",
            "server_error",
            code=500,
        ),
        REFUSED,
    ),
    "too long, Bedrock": (
        400,
        {"message": "400 Bad Request: Too many input tokens. Max input tokens: 8192"},
        REFUSED,
    ),
    "an index that cannot be": (
        400,
        body("Invalid 'input[8]': maximum input length is 8192 tokens.", param="input[8]"),
        REFUSED,
    ),
    "an empty string": (
        400,
        body("Invalid 'input[0]': input cannot be an empty string.", param="input[0]"),
        {**REFUSED, "at": 0},
    ),
    "an empty array": (
        400,
        body("Invalid 'input': input cannot be an empty array.", param="input"),
        REFUSED,
    ),
    "invalid, before 2025": (
        400,
        body(
            "'$.input' is invalid. Please check the API reference: "
            "https://platform.openai.com/docs/api-reference."
        ),
        REFUSED,
    ),
    "FastAPI": (
        422,
        {"detail": [{"loc": ["body", "input", 3], "msg": "str type expected"}]},
        {**REFUSED, "at": 3},
    ),
    "LiteLLM's param": (400, body("bad text", param="None", code="400"), REFUSED),
    **{
        f"the param {param}": (400, body("bad text", param=param), {**REFUSED, "at": at})
        for param, at in [
            ("prompt", None),
            ("contents[3]", 3),
            ("input[3]", 3),
            ("$.input[3]", 3),
            ("inputs.3", 3),
            ("requests[2].content", 2),
            ("body", None),
            ("max_tokens", None),
        ]
    },
    "an input that talks about dimensions": (
        400,
        body("The dimensions of the text are wrong", param="input[1]"),
        {**REFUSED, "at": 1},
    ),
    "content filter, Azure": (
        400,
        body("The response was filtered due to the prompt", param="prompt", code="content_filter"),
        REFUSED,
    ),
    **{str(status): (status, "", REFUSED) for status in (400, 406, 407, 410, 418, 422, 451)},
}

ACCOUNTS: dict[str, Case] = {
    "bad key": (401, body("Incorrect API key provided: sk-…", code="invalid_api_key"), ACCOUNT),
    "bad key, Gemini": (
        400,
        body("API key not valid. Please pass a valid API key.", code=400),
        ACCOUNT,
    ),
    "bad key, AWS": (400, {"__type": "UnrecognizedClientException", "message": "…"}, ACCOUNT),
    "unknown model": (
        404,
        body(
            "The model `x` does not exist or you do not have access to it.",
            code="model_not_found",
        ),
        ACCOUNT,
    ),
    "unknown model, Ollama": (404, {"error": 'model "x" not found, try pulling it'}, ACCOUNT),
    "unknown address": (404, {"detail": "Not Found"}, ACCOUNT),
    "unknown address, a page": (404, HTML.format("404 page not found"), ACCOUNT),
    "payment required": (402, "", ACCOUNT),
    "forbidden": (403, body("Country, region, or territory not supported"), ACCOUNT),
    "a firewall": (403, HTML.format("Access denied | Cloudflare"), ACCOUNT),
    "wrong address": (405, "Method Not Allowed", ACCOUNT),
}

OPTIONS: dict[str, Case] = {
    "dimensions": (400, body("This model does not support specifying dimensions."), OPTION),
    "dimensions, LiteLLM": (
        400,
        body(
            "litellm.UnsupportedParamsError: Setting dimensions is not supported for OpenAI",
            "None",
            "None",
            "400",
        ),
        OPTION,
    ),
    "dimensions, vLLM": (
        400,
        {
            "message": "Model does not support matryoshka representation, changing output "
            "dimensions will lead to poor results."
        },
        OPTION,
    ),
    "dimensions, FastAPI": (
        422,
        {"detail": [{"loc": ["body", "dimensions"], "msg": "Input should be greater than 0"}]},
        OPTION,
    ),
    **{
        f"the param {param}": (400, body("Invalid value: 'x'.", param=param), OPTION)
        for param in ("encoding_format", "dimensions", "model", "user", "$.dimensions")
    },
    "model, Mistral": (400, {"message": "Invalid model: x", "code": "1500"}, OPTION),
    "model, Voyage": (
        400,
        {"detail": "Model x is not supported. Supported models are ['voyage-4']."},
        OPTION,
    ),
    "model, Azure": (
        400,
        body("The embeddings operation does not work with the specified model, gpt-4."),
        OPTION,
    ),
}

SERVERS: dict[str, Case] = {
    "overloaded": (
        503,
        body("Overloaded", "service_unavailable_error", code="server_is_overloaded"),
        OVERLOADED,
    ),
    "overloaded, older": (503, body("Overloaded", "server_error"), OVERLOADED),
    "nginx limits": (503, HTML.format("503 Service Temporarily Unavailable"), OVERLOADED),
    "Anthropic's number": (529, "", OVERLOADED),
    "gateway timed out": (504, HTML.format("504 Gateway Time-out"), OVERLOADED),
    "server error": (500, body("The server had an error", "server_error"), FAILED),
    "bad gateway": (502, HTML.format("502 Bad Gateway"), FAILED),
    **{
        str(status): (status, "", FAILED)
        for status in (408, 409, 421, 423, 424, 425, 499, 500, 501, 502, 507, 520, 524, 599)
    },
}


class TestAnswers:
    """Each refusal that OpenAI, Azure, other providers, gateways and proxies send."""

    @cases(
        {
            f"{name}, {i}": case
            for i, table in enumerate(
                (THROTTLES, SPENDS, TOO_LARGE, REFUSALS, ACCOUNTS, OPTIONS, SERVERS)
            )
            for name, case in table.items()
        }
    )
    def test_a_refusal_is_understood(self, status: int, answer: object, expected: Expected) -> None:
        """Everything that it tells is read, and nothing else is made of it."""
        got = diagnose(refusal(status, answer), sent=["a"] * 8, now=NOW)
        check(got, expected, status=status)

    @cases({**THROTTLES, **SPENDS, **TOO_LARGE, **OPTIONS})
    def test_a_wrapping_class_hides_nothing(
        self, status: int, answer: object, expected: Expected
    ) -> None:
        """A `ValueError` that a LangChain class raises around it is seen through."""
        error = wrapped(wrapped(refusal(status, answer), how="careless"), how="from")
        check(diagnose(error, sent=["a"] * 8, now=NOW), expected, status=status)

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 502, 503])
    @pytest.mark.parametrize("answer", ["", " ", "null", "[]", "{}", '""', "0", HTML, "<html"])
    def test_without_words_the_status_decides(self, status: int, answer: str) -> None:
        """Empty bodies and pages of firewalls and proxies are no error of ours."""
        kinds = {400: REFUSED, 429: THROTTLED, 500: FAILED, 502: FAILED, 503: OVERLOADED}
        check(diagnose(refusal(status, answer)), kinds.get(status, ACCOUNT), status=status)

    def test_an_index_counts_without_the_texts_too(self) -> None:
        """Where the texts are not handed in, their number is no bound."""
        assert diagnose(refusal(400, body("…", param="input[8]"))).at == 8


class TestDelay:
    """How long the server asked to wait."""

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
            ({"Retry-After": "3"}, 3),
            ({"retry-after": "0.5"}, 0.5),
            ({"retry-after": "3600"}, 3600),
            ({"retry-after": "86400"}, 86_400),
            ({"retry-after-ms": "soon", "retry-after": "9"}, 9),
            ({"retry-after-ms": "0", "retry-after": "9"}, 9),
            ({"x-ms-retry-after-ms": "1500"}, 1.5),
            ({"llm_provider-retry-after": "7"}, 7),
            ({"retry-after": formatdate(NOW + 90, usegmt=True)}, 90),
            ({"retry-after": formatdate(NOW + 90)}, 90),
        ],
    )
    def test_a_header_goes_before_the_text(self, headers: dict[str, str], seconds: float) -> None:
        """Milliseconds go before seconds, and a date is compared with the clock."""
        error = refusal(429, body(TOKENS_A_MINUTE, "tokens"), headers)
        assert diagnose(error, now=NOW).after == pytest.approx(seconds)

    @pytest.mark.parametrize(
        "value",
        [
            *("", "soon", "nan", "inf", "-inf", "-3", "0", "0.0", "1e999", "86401", "9" * 400),
            *("Fri, 31 Dec 1999 23:59:59 GMT", "Fri, 31 Dec 2999 23:59:59 GMT"),
            *("Fri, 99 Foo 2024 23:59:59 GMT", "Fri, 31 Dec 99999 23:59:59 GMT", "\x00"),
        ],
    )
    def test_what_is_no_sensible_time_is_not_said(self, value: str) -> None:
        """Nonsense, the past, nothing and more than a day leave it to the text."""
        error = Failed(status_code=429, headers={"retry-after": value})
        assert diagnose(error, now=NOW).after is None
        error = Failed(status_code=429, headers={"retry-after": value}, body=TOKENS_A_MINUTE)
        assert diagnose(error, now=NOW).after == pytest.approx(2.812)

    def test_the_clock_is_the_default(self) -> None:
        """A date is compared with the time of day where none is handed in."""
        error = refusal(503, "", {"retry-after": formatdate(time.time() + 60, usegmt=True)})
        assert diagnose(error).after == pytest.approx(60, abs=5)

    def test_when_a_quota_refills_is_no_hint(self) -> None:
        """`x-ratelimit-reset-*` says when a bucket is full, not when a request fits."""
        headers = {"x-ratelimit-reset-tokens": "6m0s", "x-ratelimit-reset": "30"}
        assert diagnose(refusal(429, "", headers)).after is None

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("Please try again in 2.812s.", 2.812),
            ("try again in 1m30s", 90),
            ("try again in 1h2m3.5s", 3723.5),
            ("Please try again in 6m0s", 360),
            ("Please try again in 12ms.", 0.012),
            ("Please retry after 46 seconds.", 46),
            ("Please retry after 1 second", 1),
            ("Try again in 60 seconds. Passed model=x", 60),
            ("Please wait 42 seconds before retrying", 42),
            ("wait for at least 20s", 20),
            ("Please try again in 2 minutes", 120),
            ("The limit resets in 2 minutes", 120),
            ("Available again in about 1 minute and 30 seconds", 90),
            ("retry in 120 ms", 0.12),
            ("Please retry your request after 3 secs", 3),
            ("Please retry in 32.401s.", 32.401),
            ('"retryDelay": "30s"', 30),
            ("'retryDelay': '17.5s'", 17.5),
            ("retry_delay {\n  seconds: 46\n}", 46),
            ("retry_delay {\n  seconds: 1\n  nanos: 500000000\n}", 1.5),
            ("Retry-After: 30", 30),
            ('{"retry_after": 12.5}', 12.5),
            ("retry_after_ms=250", 0.25),
            ("try again in 24 hours", 86_400),
        ],
    )
    def test_a_time_in_the_text_is_read(self, text: str, seconds: float) -> None:
        """Every wording and unit that was seen is turned into seconds."""
        got = diagnose(Failed(status_code=429, body=text)).after
        assert got == pytest.approx(seconds)

    @pytest.mark.parametrize(
        "text",
        [
            "You made 60 requests in 1 minute",
            "Please try again in a moment",
            "try again in 0s",
            "try again in 25 hours",
            "try again in 3 days",
            "try again in 3 more steps",
            "try again in -5s",
            "retry after . seconds",
            "try again in 1.2.3s",
            "the request waited 30 seconds",
            "retry_delay { }",
        ],
    )
    def test_anything_else_in_the_text_is_no_time(self, text: str) -> None:
        """What is not asked for, and what is out of all bounds, is not waited for."""
        assert diagnose(Failed(status_code=429, body=text)).after is None

    def test_a_delay_counts_for_an_overloaded_server_too(self) -> None:
        """A 503 that names a time is read like a 429."""
        got = diagnose(refusal(503, "", {"retry-after": "5"}))
        check(got, {**OVERLOADED, "after": 5}, status=503)

    @no_deadline
    @given(st.floats() | st.integers().map(float))
    def test_a_time_is_never_out_of_bounds(self, seconds: float) -> None:
        """Whatever a header holds, a time that comes back can be waited for."""
        after = diagnose(Failed(status_code=429, headers={"retry-after": repr(seconds)})).after
        assert after == seconds if 0 < seconds <= 86_400 else after is None


def wrapped(error: Exception, *, how: str) -> Exception:
    """Return what a class raises that hides the provider's exception behind its own."""
    try:
        try:
            raise error
        except Exception as caught:
            if how == "from":
                raise ValueError("Error embedding content") from caught
            if how == "from none":
                raise ValueError("Error embedding content") from None
            raise ValueError("Error embedding content")  # noqa: B904  # as careless code does
    except ValueError as outer:
        return outer


class ClientError(Exception):
    """As botocore's: the answer is a mapping, and the status is deep inside."""

    def __init__(
        self, code: str, status: int, message: str = "…", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(f"An error occurred ({code}) when calling the InvokeModel: {message}")
        self.response = {
            "Error": {"Code": code, "Message": message},
            "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers or {}},
        }


class ResourceExhausted(Exception):  # noqa: N818  # the name that it has at Google's
    """As google-api-core's, which is made of gRPC's: the code is an HTTP status."""

    code = HTTPStatus.TOO_MANY_REQUESTS


class StatusCode(enum.Enum):
    """As gRPC's."""

    CANCELLED = (1, "cancelled")
    DEADLINE_EXCEEDED = (4, "deadline exceeded")
    INTERNAL = (13, "internal")
    INVALID_ARGUMENT = (3, "invalid argument")
    RESOURCE_EXHAUSTED = (8, "resource exhausted")
    UNAUTHENTICATED = (16, "unauthenticated")
    UNAVAILABLE = (14, "unavailable")


class _InactiveRpcError(Exception):
    """As gRPC's own: the code is a method."""

    def __init__(self, code: StatusCode, details: str = "…") -> None:
        super().__init__(f'<_InactiveRpcError with: status = {code}\n\tdetails = "{details}">')
        self._code = code
        self._details = details

    def code(self) -> StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


class Failed(Exception):  # noqa: N818  # stands for many
    """An exception with whatever attributes an SDK gives it."""

    def __init__(self, text: str = "…", /, **attributes: object) -> None:
        super().__init__(text)
        vars(self).update(attributes)


def named(name: str, text: str = "…") -> Exception:
    """Return an exception of a class of that name."""
    error: Exception = type(name, (Exception,), {})(text)
    return error


def fails() -> NoReturn:
    """Raise what a property or a method of an exception can raise."""
    raise RuntimeError("a stream cannot be read")


class TestOtherExceptions:
    """Exceptions of other SDKs, and of classes that wrap one."""

    @pytest.mark.parametrize("how", ["from", "from none", "careless"])
    @pytest.mark.parametrize(
        ("status", "answer", "expected"),
        [
            (429, "", THROTTLED),
            (401, "", ACCOUNT),
            (429, body(NO_MONEY, code="insufficient_quota"), SPENT),
            (400, body("Invalid 'input[2]': too long", param="input[2]"), {**REFUSED, "at": 2}),
        ],
    )
    def test_a_wrapped_exception_is_looked_into(
        self, status: int, answer: object, expected: Expected, how: str
    ) -> None:
        """A class that raises a `ValueError` over the provider's own is seen through."""
        error = wrapped(wrapped(refusal(status, answer), how=how), how=how)
        check(diagnose(error), expected, status=status)

    def test_exceptions_that_cause_one_another_are_no_endless_loop(self) -> None:
        """A chain of causes that bites its tail is read once."""
        first, second = ValueError("first"), refusal(429, "")
        first.__cause__, second.__cause__ = second, first
        check(diagnose(first), THROTTLED, status=429)

    @pytest.mark.parametrize(
        ("code", "status", "message", "expected"),
        [
            ("ThrottlingException", 429, "Too many requests, please wait", THROTTLED),
            ("ThrottlingException", 400, "Rate exceeded", THROTTLED),
            ("ThrottlingException", 429, "Too many tokens, please wait before trying", THROTTLED),
            ("ThrottlingException", 429, "Too many tokens per day, please wait before", SPENT),
            ("ServiceQuotaExceededException", 400, "Resubmit your request later", THROTTLED),
            ("ModelNotReadyException", 429, "…", THROTTLED),
            ("ServiceUnavailableException", 503, "…", OVERLOADED),
            ("ModelTimeoutException", 408, "…", FAILED),
            ("ModelErrorException", 424, "…", FAILED),
            ("InternalServerException", 500, "…", FAILED),
            ("AccessDeniedException", 403, "…", ACCOUNT),
            ("AccessDeniedException", 400, "…", ACCOUNT),
            ("ValidationException", 400, "…", REFUSED),
        ],
    )
    def test_botocore(self, code: str, status: int, message: str, expected: Expected) -> None:
        """The status is found in the answer's metadata, also through LangChain's `ValueError`."""
        error = ClientError(code, status, message)
        check(diagnose(error), expected, status=status)
        check(diagnose(wrapped(error, how="careless")), expected, status=status)
        assert diagnose(error).signature == f"{status} {code} ClientError"

    def test_headers_of_botocore(self) -> None:
        """They are a mapping in the answer's metadata."""
        error = ClientError("ThrottlingException", 429, headers={"Retry-After": "7"})
        check(diagnose(error), {**THROTTLED, "after": 7}, status=429)

    def test_google_api_core(self) -> None:
        """An HTTP status as the exception's code is understood, and printed details are read."""
        check(diagnose(ResourceExhausted()), THROTTLED, status=429)
        check(diagnose(wrapped(ResourceExhausted(), how="from")), THROTTLED, status=429)
        printed = (
            f'429 {NO_MONEY} [violations {{\n  quota_id: "%s"\n}}\n'
            ", retry_delay {\n  seconds: 46\n}\n]"
        )
        minute = ResourceExhausted(printed % A_MINUTE)
        check(diagnose(minute), {**THROTTLED, "after": 46}, status=429)
        day = ResourceExhausted(printed % A_DAY)
        check(diagnose(day), {**SPENT, "after": 46}, status=429)

    @pytest.mark.parametrize(
        ("quota", "expected"), [(A_MINUTE, THROTTLED), (A_DAY, SPENT)], ids=["minute", "day"]
    )
    def test_google_genai(self, quota: str, expected: Expected) -> None:
        """The body is called `details`, also behind LangChain's own exception."""
        error = Failed(
            NO_MONEY, code=429, status="RESOURCE_EXHAUSTED", message=NO_MONEY, details=gemini(quota)
        )
        check(diagnose(error), {**expected, "after": 32}, status=429)
        check(diagnose(wrapped(error, how="from")), {**expected, "after": 32}, status=429)

    @pytest.mark.parametrize(
        ("code", "status", "expected"),
        [
            (StatusCode.RESOURCE_EXHAUSTED, 429, THROTTLED),
            (StatusCode.UNAVAILABLE, 503, OVERLOADED),
            (StatusCode.DEADLINE_EXCEEDED, 504, OVERLOADED),
            (StatusCode.INTERNAL, 500, FAILED),
            (StatusCode.CANCELLED, 499, FAILED),
            (StatusCode.UNAUTHENTICATED, 401, ACCOUNT),
            (StatusCode.INVALID_ARGUMENT, 400, REFUSED),
        ],
    )
    def test_grpc(self, code: StatusCode, status: int, expected: Expected) -> None:
        """The code stands for a status where gRPC's own exceptions have no HTTP status."""
        check(diagnose(_InactiveRpcError(code)), expected, status=status)

    @pytest.mark.parametrize(
        "error",
        [
            Failed(status_code=429, headers={"retry-after": "7"}),  # Cohere
            Failed(http_status=429, headers={"retry-after": "7"}),  # Voyage
            Failed(code="429", headers={"retry-after": "7"}),
            Failed(status=429, headers={"Retry-After": "7"}),  # aiohttp
            Failed(response=http.Response(429, headers={"retry-after": "7"})),  # httpx, requests
            Failed(status_code=429, raw_response=http.Response(429, headers={"retry-after": "7"})),
        ],
    )
    def test_status_and_headers_are_found_where_sdks_put_them(self, error: Exception) -> None:
        """The status has many names, and the headers are the answer's or the exception's."""
        check(diagnose(error), {**THROTTLED, "after": 7}, status=429)

    @pytest.mark.parametrize(
        "error",
        [
            Failed(status_code=400, body={"message": TOO_MANY}),  # Cohere
            Failed(status_code=400, body=json.dumps({"message": TOO_MANY})),  # mistralai
            Failed(http_status=400, json_body={"detail": TOO_MANY}),  # Voyage
            Failed(http_status=400, http_body=f'{{"detail": "{TOO_MANY}"}}'),
            Failed(status_code=400, body=[{"error": {"message": TOO_MANY}}]),  # Gemini as OpenAI
            Failed(status_code=400, body=TOO_MANY.encode()),
            Failed(status_code=400, message=TOO_MANY),  # Azure
            Failed(TOO_MANY, status_code=400),  # Ollama
            Failed(response=http.Response(400, json={"error": TOO_MANY})),  # httpx, requests
            Failed(status_code=400, response=Failed(text=lambda: TOO_MANY)),  # Azure
            Failed(f"Client error '422': {TOO_MANY}", response=http.Response(400)),
        ],
    )
    def test_the_message_is_found_where_sdks_put_it(self, error: Exception) -> None:
        """Bodies are objects, JSON or text, and have many names."""
        check(diagnose(error), large("items", max_items=32), status=400)

    def test_requests(self) -> None:
        """What `raise_for_status` raises has the answer with it."""
        response = requests.Response()
        response.status_code, response._content = 429, b'{"detail": "Insufficient balance."}'
        with pytest.raises(requests.HTTPError) as caught:
            response.raise_for_status()
        check(diagnose(caught.value), SPENT, status=429)

    def test_azure(self) -> None:
        """The code is in an object of its own."""
        inner = Failed(code="insufficient_quota")
        error = Failed("(insufficient_quota) …", status_code=429, error=inner)
        check(diagnose(error), SPENT, status=429)

    def test_headers_that_give_none_for_what_is_absent_are_read(self) -> None:
        """As those of urllib, whose exceptions some classes let out."""
        error = HTTPError("http://localhost", 503, "Service Unavailable", Message(), None)
        check(diagnose(error), OVERLOADED, status=503)

    @pytest.mark.parametrize(
        "attributes",
        [
            *({"code": 7}, {"status": True}, {"code": "E429"}, {}, {"code": "9" * 5000}),
            *(
                {"status_code": 200},
                {"status_code": 600},
                {"code": "\uff14\uff12\uff19"},
                {"code": 429.0},
            ),
        ],
    )
    def test_a_number_that_is_no_error_status_is_none(self, attributes: dict[str, Any]) -> None:
        """Only 400 to 599 is a status; other numbers and names mean something else."""
        check(diagnose(Failed(**attributes)), REFUSED)

    @pytest.mark.parametrize(
        "name",
        ["RateLimitError", "ThrottlingError", "TooManyRequestsException", "ResourceExhausted"],
    )
    def test_a_telling_name_stands_for_a_missing_status(self, name: str) -> None:
        """An exception that is named after throttling is throttling."""
        check(diagnose(named(name)), THROTTLED)

    @pytest.mark.parametrize(
        ("text", "status", "expected"),
        [
            (
                "Infinity returned an unexpected response with status 503: overloaded",
                503,
                OVERLOADED,
            ),
            ("Infinity returned an unexpected response with status 422: too many", 422, REFUSED),
            ("[429] Too Many Requests\n", 429, THROTTLED),
            ("[422] batch size 64 is over 50", 422, REFUSED),
            (
                "[400] Bad Request\nInput length 548 exceeds maximum allowed token size",
                400,
                REFUSED,
            ),
            ("Error code: 401 - {'error': 'no'}", 401, ACCOUNT),
            ("Client error '429 Too Many Requests' for url 'http://x'", 429, THROTTLED),
            ("429 Client Error: Too Many Requests for url: http://x", 429, THROTTLED),
            ("500 Server Error: Internal Server Error for url: http://x", 500, FAILED),
            ("API error occurred: Status 429\nBody: {}", 429, THROTTLED),
            ("failed (status code: 503)", 503, OVERLOADED),
            ('HTTP 429: {"error":{"code":"RateLimitReached"}}', 429, THROTTLED),
            ("Rate limit exceeded", None, THROTTLED),  # Jina
            ("CUDA out of memory at 512 texts", None, REFUSED),
            ("512 is more than 500 texts", None, REFUSED),
            (TOO_MANY, None, large("items", max_items=32)),
        ],
    )
    def test_plain_exceptions_tell_it_in_their_text(
        self, text: str, status: int | None, expected: Expected
    ) -> None:
        """infinity, NVIDIA, Jina and others raise plain exceptions."""
        check(diagnose(Exception(text)), expected, status=status)
        check(diagnose(wrapped(Exception(text), how="from")), expected, status=status)

    @pytest.mark.parametrize(
        "error",
        [
            openai.APIConnectionError(request=REQUEST),
            http.ConnectError("…"),
            http.ReadError("…"),
            http.RemoteProtocolError(
                "peer closed connection without sending complete message body"
            ),
            http.ConnectTimeout("…"),
            ConnectionResetError("…"),
            ConnectionRefusedError("…"),
            BrokenPipeError("…"),
            requests.ConnectionError("…"),
            requests.exceptions.SSLError("…"),
            requests.ConnectTimeout("…"),
            requests.exceptions.ChunkedEncodingError("…"),
            aiohttp.ServerDisconnectedError("…"),
            named("EndpointConnectionError"),  # botocore
            named("ConnectTimeoutError"),
            named("TransportError"),  # google-auth
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_without_an_answer_the_server_is_unreachable(self, error: Exception) -> None:
        """Nothing is wrong with the texts; a request that was never sent is not too large."""
        check(diagnose(error), {"kind": Kind.UNREACHABLE})

    def test_a_connection_that_timed_out_is_unreachable_behind_the_sdk_too(self) -> None:
        """The SDK calls every time-out the same; its cause tells them apart."""
        error = openai.APITimeoutError(REQUEST)
        error.__cause__ = http.ConnectTimeout("…")
        check(diagnose(error), {"kind": Kind.UNREACHABLE})

    @pytest.mark.parametrize(
        "error",
        [
            openai.APITimeoutError(REQUEST),
            http.ReadTimeout("…"),
            http.WriteTimeout("…"),
            http.PoolTimeout("…"),
            TimeoutError("…"),
            requests.ReadTimeout("…"),
            aiohttp.ServerTimeoutError("…"),
            named("ReadTimeoutError"),  # botocore, urllib3
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_a_time_out_is_one(self, error: Exception) -> None:
        """No complete answer came in time."""
        check(diagnose(error), {"kind": Kind.TIMED_OUT})

    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            (named("AuthenticationError"), Kind.ACCOUNT),
            (named("NoCredentialsError"), Kind.ACCOUNT),
            (named("ServiceUnavailable"), Kind.OVERLOADED),
            (named("OverloadedError"), Kind.OVERLOADED),
            (named("InternalServerError"), Kind.FAILED),
            (http.DecodingError("incorrect header check"), Kind.FAILED),
            (requests.JSONDecodeError("Expecting value", "<html>", 0), Kind.FAILED),
        ],
    )
    def test_other_names_tell_too(self, error: Exception, kind: Kind) -> None:
        """Where there is no status, the class's name is all there is."""
        check(diagnose(error), {"kind": kind})

    def test_an_unknown_exception_is_perhaps_a_texts(self) -> None:
        """So it is found by trying fewer texts."""
        check(diagnose(KeyError("embedding")), REFUSED)
        check(diagnose(BaseException()), REFUSED)

    def test_an_answer_that_cannot_be_believed_can_be_asked_for_again(self) -> None:
        """A wrong answer is an error of the server."""
        check(diagnose(ResponseError("8 texts were sent, but 7 vectors came back")), FAILED)

    @pytest.mark.parametrize(
        ("answer", "status", "expected"),
        [
            (body(NO_MONEY, "insufficient_quota"), None, SPENT),
            (body("Overloaded", "server_error"), None, FAILED),
            (body("Rate limit reached"), None, THROTTLED),
            (body("Please retry after 2 seconds.", code=429), 429, {**THROTTLED, "after": 2}),
            (body("no such key", code="401"), 401, ACCOUNT),
        ],
    )
    def test_an_error_under_status_200_is_read(
        self, answer: dict[str, object], status: int | None, expected: Expected
    ) -> None:
        """Some gateways send every error under 200, and the status inside."""
        check(diagnose(ResponseError("…", body=answer)), expected, status=status)

    def test_vectors_of_another_width_end_everything(self) -> None:
        """A server that ignores `dimensions` ignores it each time."""
        check(diagnose(DimensionsError(expected=256, received=1536)), {"kind": Kind.MODEL})

    def test_only_our_own_error_of_the_model_ends_everything(self) -> None:
        """SageMaker has an exception of that name, which passes."""
        ours = type("ModelError", (BatchEmbeddingsError,), {})("…")
        check(diagnose(ours), {"kind": Kind.MODEL})
        sagemaker = type("ModelError", (ClientError,), {})("ModelError", 424)
        check(diagnose(sagemaker), FAILED, status=424)


LONG = (
    "The dimensions of the maximum number of inputs is 1, says my text; budget exceeded, rate "
    "limit: try again in 99s. You exceeded your current quota, insufficient_quota [503] "
)

TELLING = [
    *("the dimensions are", "encoding_format", "invalid model", "input[0]", "rate limit"),
    *("maximum number of inputs is 1", "array length must be 2 or less", "request too large"),
    *("Requested 5 tokens, max 3 tokens per request", "must have less than 512 tokens"),
    *("insufficient_quota", "Budget has been exceeded", "out of credits", "余额不足", "per day"),
    *("exceeded your current quota", "try again in 99s", "retryDelay: '30s'", "retry_after=5"),
    *("on tokens per min (TPM): Limit 5, Used 4, Requested 9.", "is too large to process"),
    *("'", '"', "\n", "\\", "\t", "&amp;", "<html>", "😀", "«", "...", "status 503"),
]

BYTES = large("bytes")

QUOTES: dict[str, Callable[[str], str]] = {
    "whole": lambda text: f"bad input: '{text}'",
    "without quotation marks": lambda text: f"bad input: {text}",
    "cut": lambda text: f"bad input: '{text[:25]}...'",
    "cut in the middle": lambda text: f"bad input: '{text[:25]}...{text[25:][-24:]}'",
    "cut at the front": lambda text: f"bad input: '...{text[7:]}'",
    "as JSON": lambda text: f"bad input: {json.dumps(text)}",
    "as JSON in JSON": lambda text: f"bad input: {json.dumps(json.dumps(text))}",
    "as Python": lambda text: f"bad input: {text!r}",
    "as Python in Python": lambda text: f"bad input: {[repr(text)]!r}",
    "as HTML": lambda text: f"bad input: {html.escape(repr(text))}",
    "on one line": lambda text: f"bad input: {text.replace(chr(10), ' ')}",
}


class TestQuotedTexts:
    """The words of a document never decide."""

    @pytest.mark.parametrize(
        "text",
        [
            "the dimensions of text 77",
            "maximum number of inputs is 1, says my text",
            "dimensions",
            "Budget has been exceeded! Current cost: 3",
            "insufficient balance",
            "request body too large",
            "invalid model",
            LONG,
            f"{LONG}\n“dimensions”\t'ça' \"encoding_format\" 维度 dimensions 😀 input[5]",
        ],
    )
    @pytest.mark.parametrize("quote", QUOTES.values(), ids=QUOTES)
    def test_a_quotation_is_no_reason(self, quote: Callable[[str], str], text: str) -> None:
        """However it is quoted, a text that talks about limits is only a refused text."""
        if text == "dimensions" and quote(text).endswith((text, ";")):
            pytest.skip("a single word without quotation marks can be the server's")
        message = quote(text)
        sent = ["something else entirely", text, "and more"]
        check(diagnose(refusal(400, body(message)), sent=sent), REFUSED, status=400)
        check(diagnose(ValueError(message), sent=sent), REFUSED)

    @settings(deadline=None, max_examples=200)
    @given(
        st.lists(
            st.lists(st.sampled_from(TELLING) | st.text(max_size=8), min_size=1, max_size=8)
            .map(" ".join)
            .filter(lambda text: len(text.strip()) >= 50),
            min_size=1,
            max_size=4,
        ),
        st.sampled_from(list(QUOTES)),
    )
    def test_no_quotation_is_a_reason(self, sent: list[str], quote: str) -> None:
        """Whatever the texts say about limits, options and money, they are only refused."""
        message = QUOTES[quote](sent[-1])
        for status, expected in ((400, REFUSED), (429, THROTTLED), (500, FAILED), (413, BYTES)):
            check(diagnose(refusal(status, body(message)), sent=sent), expected, status=status)

    def test_the_examples(self) -> None:
        """Without the texts, the same messages would say something else."""
        for message, text, kind in (
            ("bad input: 'the dimensions of text 77'", "the dimensions of text 77", Kind.OPTION),
            ("bad input: 'Request body too large'", "Request body too large", Kind.TOO_LARGE),
        ):
            assert diagnose(refusal(400, body(message))).kind is kind
            assert diagnose(refusal(400, body(message)), sent=[text]).kind is Kind.REFUSED

    def test_a_time_in_a_text_is_not_waited_for(self) -> None:
        """A 429 that quotes a text names no time."""
        got = diagnose(refusal(429, body(f"slow down: '{LONG}'")), sent=[LONG])
        check(got, THROTTLED, status=429)

    def test_what_pydantic_repeats_is_not_read(self) -> None:
        """FastAPI sends the whole input back."""
        answer = {
            "detail": [
                {
                    "loc": ["body", "input", "list[str]", 1],
                    "msg": "Input should be a valid string",
                    "input": [LONG] * 2048,
                }
            ]
        }
        check(diagnose(refusal(422, answer), sent=["x", LONG]), {**REFUSED, "at": 1}, status=422)

    @cases({**THROTTLES, **SPENDS, **TOO_LARGE, **OPTIONS})
    def test_documents_about_such_words_hide_none(
        self, status: int, answer: object, expected: Expected
    ) -> None:
        """Single words that stand in a text are still the server's in its own message."""
        sent = [
            "dimensions", "limit", "tokens", "input", "model", "quota", "seconds", "a",
            "The dimensions of a vector, the tokens per batch, a rate limit, a budget. Try again.",
            "On requests: per day, per minute and per month. Credits, balance and inputs are in.",
        ]  # fmt: skip
        check(diagnose(refusal(status, answer), sent=sent, now=NOW), expected, status=status)

    @no_deadline
    @given(st.lists(st.text(max_size=200), max_size=5), st.text(max_size=50), st.text(max_size=50))
    def test_what_is_long_enough_is_taken_out(
        self, texts: list[str], before: str, after: str
    ) -> None:
        """No text of ten characters and more is left whole, a single word not in quotes."""
        for text in texts:
            left = without_texts(f"{before} '{text}' {after}", texts)
            plain = " ".join(text.split())
            if len(plain) >= 10 and plain.isascii() and "\\" not in text and "&" not in text:
                quoted = text if " " in plain or len(text) >= 20 else f"'{text}'"
                assert quoted not in left

    def test_the_work_is_bounded(self) -> None:
        """A long message about many texts takes no longer than a slow request."""
        texts = [f"{i} {LONG}" * 8 for i in range(2048)]
        message = " ".join(f"w{i}ord{i * i} and so on \\ &" for i in range(5000))
        started = time.process_time()
        without_texts(message, texts)
        assert time.process_time() - started < 5

    def test_what_was_not_checked_is_not_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """When the bound on the work is reached, the rest of a message decides nothing."""
        monkeypatch.setattr("langchain_batch_embed.pacing.quotation._WORK", 1)
        message = "some words of the server, then quoted: dimensions dimensions"
        check(
            diagnose(refusal(400, body(message)), sent=["other words altogether"]),
            REFUSED,
            status=400,
        )


class TestSignature:
    """What tells equal errors from others."""

    @pytest.mark.parametrize(
        ("error", "signature"),
        [
            (refusal(400, body("…", code="invalid_value")), "400 invalid_value BadRequestError"),
            (refusal(429, body("…", "tokens")), "429 tokens RateLimitError"),
            (refusal(429, body("…", "", code="429")), "429 - RateLimitError"),
            (refusal(503, HTML), "503 - InternalServerError"),
            (wrapped(refusal(503, ""), how="from"), "503 - InternalServerError"),
            (KeyError("embedding"), "- - KeyError"),
            (
                refusal(400, body("…", code="sk-abc123")),
                "400 invalid_request_error BadRequestError",
            ),
            (refusal(400, body("…", "a b c", code="x" * 99)), "400 - BadRequestError"),
        ],
    )
    def test_it_is_status_code_and_class(self, error: Exception, signature: str) -> None:
        """A code that could be a key or a sentence is left out."""
        assert diagnose(error).signature == signature

    def test_it_does_not_depend_on_which_text_it_was(self) -> None:
        """Two refusals of the same kind are equal."""
        first, second = (refusal(400, body(f"bad: {i}", param=f"input[{i}]")) for i in (1, 2))
        assert diagnose(first).signature == diagnose(second).signature

    def test_a_text_as_code_is_left_out(self) -> None:
        """Not even a single word of a document gets into it."""
        got = diagnose(refusal(400, body("…", "secret", code="secret")), sent=["secret"])
        assert got.signature == "400 - BadRequestError"


PIECES = [
    *("on tokens per min", " Limit ", "Limit: ", "Used ", "Requested ", ", ", "."),
    *("try again in ", "retry after ", "5", "0", "1.5", "..", "s", "ms", "m", "retry_delay {"),
    *(" seconds", "input[", "]", " tokens, max ", " tokens per request", "per day", "\\u00", "\\"),
    *("array length must be ", " or less", "maximum allowed batch size ", "<html", "&#x", "9" * 30),
]


class Raising:
    """Whatever is asked of it fails."""

    def __getattribute__(self, name: str) -> Any:
        """Fail like a property."""
        if name.startswith("_"):
            return object.__getattribute__(self, name)
        raise RuntimeError

    def __str__(self) -> str:
        """Fail like a careless class."""
        raise ValueError

    def __call__(self) -> NoReturn:
        """Fail like a stream."""
        raise OSError


VALUES: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.binary(max_size=8)
    | st.sampled_from([429, "429", fails, Raising(), StatusCode.UNAVAILABLE, "insufficient_quota"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "type", "param", "code", "detail", "loc"]), inner
        )
    ),
    max_leaves=8,
)
ATTRIBUTES = (
    *("status_code", "status", "code", "http_status", "body", "details", "message", "param"),
    *("headers", "response", "error", "raw_response", "json_body", "text", "resp"),
)


def assert_sound(got: Diagnosis, sent: Sequence[str] = ()) -> None:
    """Assert what holds for every diagnosis."""
    assert isinstance(got.kind, Kind)
    assert got.status is None or 400 <= got.status < 600
    assert got.after is None or 0 < got.after <= 86_400
    assert got.max_items is None or got.max_items >= 1
    assert got.max_tokens is None or got.max_tokens >= 1
    assert got.share is None or 0 <= got.share <= 1
    assert got.at is None or got.at >= 0
    assert got.at is None or not sent or got.at < len(sent)
    assert got.measure is None or got.kind is Kind.TOO_LARGE
    assert got.quota is None or math.isfinite(got.quota.limit)
    assert len(got.signature) < 120


class TestAnything:
    """No answer, however odd, stops the reading: a request without a diagnosis would hang."""

    @settings(deadline=None, max_examples=200)
    @given(
        st.sampled_from([400, 404, 413, 418, 422, 429, 500, 503]),
        st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
        st.sampled_from([None, "input", "input[1]", "model"]),
        st.sampled_from([None, 429, "rate_limit_exceeded"]),
        st.lists(st.sampled_from(PIECES), max_size=5),
    )
    @example(429, "on tokens per min. Limit 1.., Requested ..", None, None, [])
    @example(429, "try again in 1.2.3s", None, None, [])
    @example(429, "retry after . seconds", None, None, [])
    def test_every_message_gets_a_diagnosis(
        self, status: int, message: str, param: str | None, code: Any, sent: list[str]
    ) -> None:
        """A time ends, and a figure is one that a request can have."""
        got = diagnose(refusal(status, body(message, param=param, code=code)), sent=sent)
        assert_sound(got, sent)

    @no_deadline
    @given(VALUES, st.sampled_from([400, 401, 429, 500]))
    def test_every_body_gets_a_diagnosis(self, answer: Any, status: int) -> None:
        """A body of any form leads to what its status asks for."""
        assume(not isinstance(answer, bytes))
        try:
            json.dumps(answer, allow_nan=False)
        except (TypeError, ValueError):
            answer = repr(type(answer))
        got = diagnose(refusal(status, answer))
        expected = {
            400: Kind.REFUSED,
            401: Kind.ACCOUNT,
            429: Kind.THROTTLED,
            500: Kind.FAILED,
        }
        assert got.kind in {expected[status], Kind.SPENT, Kind.OPTION}
        assert_sound(got)

    @settings(deadline=None, max_examples=300)
    @given(
        st.dictionaries(st.sampled_from(ATTRIBUTES), VALUES, max_size=5),
        st.text(max_size=30),
        st.lists(st.text(max_size=30) | st.sampled_from(PIECES), max_size=4),
    )
    def test_every_attribute_gets_a_diagnosis(
        self, attributes: dict[str, Any], text: str, sent: list[str]
    ) -> None:
        """Attributes that are something else, or raise, are no reason to fail."""
        assert_sound(diagnose(Failed(text, **attributes), sent=sent), sent)
        attributes = {"response": Failed(**attributes), "headers": attributes}
        assert_sound(diagnose(Failed(text, **attributes), sent=sent), sent)

    def test_an_exception_that_cannot_be_printed_is_read(self) -> None:
        """Its status still counts."""
        error = type("Odd", (Exception,), {"__str__": lambda _: fails(), "status_code": 429})()
        check(diagnose(error), THROTTLED, status=429)

    @settings(deadline=None, max_examples=200)
    @given(
        st.lists(st.text(min_size=4, max_size=60), min_size=1, max_size=4),
        st.sampled_from(["code", "type", "param", "message", "detail", "Code", "reason", "status"]),
        st.sampled_from([400, 422, 429, 500]),
        st.booleans(),
    )
    def test_a_diagnosis_holds_no_text(
        self, sent: list[str], field: str, status: int, plain: bool
    ) -> None:
        """Wherever a server puts a text, it does not come out again."""
        text = sent[0]
        words = {str(status), "Failed", "tokens", "items", "bytes", "None", "True", "False"}
        words |= {kind.name for kind in Kind} | {field.name for field in fields(Diagnosis)}
        assume(not any(text in word or word == text for word in words))
        answer: Any = text if plain else {"error": {field: text}}
        got = diagnose(Failed(text, status_code=status, body=answer, code=text), sent=sent)
        shown = " ".join(str(getattr(got, field.name)) for field in fields(Diagnosis))
        assert text not in shown

    def test_a_long_body_takes_no_time(self) -> None:
        """No wording is looked for in quadratic time."""
        for piece in (
            "on tokens per min ",
            "per day ",
            "model ",
            "1,000,000",
            "a" * 50,
            "exceeded ",
        ):
            message = piece * 20_000
            started = time.process_time()
            for status in (400, 429, 500):
                diagnose(Failed(message, status_code=status, body={"message": message}))
            assert time.process_time() - started < 3
