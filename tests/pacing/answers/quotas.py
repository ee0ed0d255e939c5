"""Refusals because of throttling, and because of spent money or a spent quota."""

from langchain_batch_embed.pacing.diagnosis import Kind, Quota
from tests.pacing.errors import HTML, body, row, table

TOKENS_A_MINUTE = (
    "Rate limit reached for text-embedding-3-small in organization org-x on tokens per min (TPM): "
    "Limit 1000000, Used 976163, Requested 70716. Please try again in 2.812s. Visit "
    "https://platform.openai.com/account/rate-limits to learn more."
)
REQUESTS_A_MINUTE = (
    "Rate limit reached for text-embedding-3-small in organization org-x on requests per min "
    "(RPM): Limit 3000, Used 3000, Requested 1. Please try again in 20ms."
)
NO_MONEY = "You exceeded your current quota, please check your plan and billing details."


def gemini(*quotas: str, delay: str | None = "32s", limit: int = 100) -> dict[str, object]:
    """Return Google's refusal, which differs between a minute and a day only in its details."""
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

THROTTLES = table(
    Kind.THROTTLED,
    row("an older status", 420, body("Enhance your calm")),
    row("only words, 400", 400, body("Rate limit exceeded")),
    row(
        "only words, 403",
        403,
        body("Request was throttled. Expected available in 2 seconds."),
        after=2.0,
    ),
    row("only words, 500", 500, body("rate limit exceeded, please slow down")),
    row("only words, 502", 502, "Too many requests"),
    row("a quota a second", 403, body("Quota exceeded for requests per second")),
    row(
        "OpenAI, tokens a minute",
        429,
        body(TOKENS_A_MINUTE, "tokens", code="rate_limit_exceeded"),
        after=2.812,
        quota=Quota(kind="tokens", limit=1_000_000, used=976_163),
    ),
    row(
        "OpenAI, requests a minute",
        429,
        body(REQUESTS_A_MINUTE, "requests", code="rate_limit_exceeded"),
        after=0.02,
        quota=Quota(kind="requests", limit=3000, used=3000),
    ),
    row(
        "OpenAI, all of the quota",
        429,
        body(TOKENS_A_MINUTE.replace("70716", "1000000"), "tokens"),
        after=2.812,
        quota=Quota(kind="tokens", limit=1_000_000, used=976_163),
    ),
    row(
        "OpenAI, in 2023",
        429,
        body(
            "Rate limit reached for default-text-embedding-ada-002 in organization org-x on "
            "requests per min. Limit: 60.000000 / min. Current: 70.000000 / min. Contact "
            "support@openai.com if you continue to have issues. Please add a payment method to "
            "your account to increase your rate limit."
        ),
        quota=Quota(kind="requests", limit=60, used=70),
    ),
    row(
        "OpenAI, in 2023, without what is used",
        429,
        body("Rate limit reached on requests per min. Limit: 3 / min. Please try again in 20s."),
        after=20,
        quota=Quota(kind="requests", limit=3),
    ),
    row(
        "slowapi",
        429,
        {"error": "Rate limit exceeded: 10 per 1 minute"},
        quota=Quota(kind="requests", limit=10),
    ),
    row(
        "flask-limiter",
        429,
        "<h1>Too Many Requests</h1><p>5 per 1 second</p>",
        quota=Quota(kind="requests", limit=300),
    ),
    row(
        "LiteLLM, a deployment's own limit",
        429,
        body("Deployment over user-defined ratelimit. RPM limit=20, current usage=20"),
        quota=Quota(kind="requests", limit=20),
    ),
    row(
        "slowapi, an hour",
        429,
        {"error": "Rate limit exceeded: 100 per 1 hour"},
    ),
    row(
        "Groq",
        429,
        body(
            "Rate limit reached for model `x` in organization `org_x` service tier `on_demand` on "
            "tokens per minute (TPM): Limit 6000, Used 5034, Requested 1443. Please try again in "
            "4.77s. Need more tokens? Upgrade to Dev Tier today at https://console.groq.com",
            "tokens",
            code="rate_limit_exceeded",
        ),
        after=4.77,
        quota=Quota(kind="tokens", limit=6000, used=5034),
    ),
    row(
        "Azure",
        429,
        body(
            "Requests to the Embeddings_Create Operation under Azure OpenAI API version 2024-02-01 "
            "have exceeded call rate limit of your current OpenAI S0 pricing tier. "
            "Please retry after 46 seconds.",
            "",
            code="429",
        ),
        after=46,
    ),
    row("Azure, one second", 429, body("Please retry after 1 second.", "", code="429"), after=1),
    row(
        "Azure AI",
        429,
        body("Your requests have exceeded the call rate limit.", code="RateLimitReached"),
    ),
    row("Gemini, a minute", 429, gemini(A_MINUTE), after=32),
    row("Gemini, a minute, no delay", 429, gemini(A_MINUTE, delay=None)),
    row(
        "Gemini, without details",
        429,
        {"error": {"message": NO_MONEY, "code": 429, "status": "RESOURCE_EXHAUSTED"}},
    ),
    row(
        "Vertex AI",
        429,
        body(
            "429 Quota exceeded for aiplatform.googleapis.com/"
            "generate_content_requests_per_minute_per_project_per_base_model with base model: "
            "gemini. Please submit a quota increase request. https://cloud.google.com/vertex-ai"
        ),
    ),
    row("Vertex AI, shared", 429, body("Resource exhausted. Please try again later.", code=429)),
    row(
        "Cohere, trial key a minute",
        429,
        {
            "message": "You are using a Trial key, which is limited to 40 API calls / minute. You "
            "can continue to use the Trial key for free or upgrade to a Production key with "
            "higher rate limits at 'https://dashboard.cohere.com/api-keys'."
        },
    ),
    row(
        "Voyage, without payment method",
        429,
        {
            "detail": "You have not yet added your payment method in the billing page and will "
            "have reduced rate limits of 3 RPM and 10K TPM.  Please add your payment method in "
            "the billing page (https://dash.voyageai.com/billing/payment-methods) to unlock our "
            "standard rate limits."
        },
    ),
    row(
        "Mistral",
        429,
        {
            "object": "error",
            "message": "Rate limit exceeded",
            "type": "rate_limited",
            "param": None,
            "code": "1300",
            "raw_status_code": 429,
        },
    ),
    row(
        "Mistral, capacity",
        429,
        {"object": "error", "message": "Service tier capacity exceeded for this model."},
    ),
    row(
        "OpenRouter, a minute",
        429,
        body(
            "Rate limit exceeded: free-models-per-min. Add 10 credits to unlock 1000 free model "
            "requests per day",
            code=429,
        ),
    ),
    row(
        "Anthropic's wording",
        429,
        body(
            "This request would exceed your organization's rate limit of 30,000 input tokens per "
            "minute",
            "rate_limit_error",
        ),
    ),
    row(
        "a limit a minute beside one a day",
        429,
        {"detail": "Rate limit exceeded: 60 requests per minute (your plan: 10,000 per day)"},
    ),
    row(
        "LiteLLM, too many at once",
        429,
        body("Max parallel request limit reached. Hit limit for api_key", "None", "None", "429"),
    ),
    row(
        "LiteLLM, cooling down",
        429,
        body("No deployments available for selected model, Try again in 60 seconds.", code="429"),
        after=60,
    ),
    row("milliseconds", 429, body("Please retry after 500 milliseconds."), after=0.5),
    row("no time named", 429, ""),
    row("nginx", 429, "<html><head><title>429 Too Many Requests</title></head></html>"),
    row("a firewall's page", 429, HTML.format("This site's daily limit is used up")),
    row(
        "a code of AWS under 400",
        400,
        {"__type": "ThrottlingException", "message": "Rate exceeded"},
    ),
    row(
        "GitHub, in words alone under 403",
        403,
        {"message": "You have exceeded a secondary rate limit. Please wait a few minutes."},
    ),
    row("a code of Google under 403", 403, body("Rate Limit Exceeded", code="rateLimitExceeded")),
)

SPENDS = table(
    Kind.SPENT,
    row(
        "Fireworks, suspended",
        412,
        {"error": "Account x is suspended, possibly due to reaching the monthly spending limit"},
    ),
    row("Portkey, a virtual key", 412, {"error": "Usage limit exceeded for the virtual key"}),
    row("OpenRouter, a key", 403, body("Key limit exceeded (total limit).", code=403)),
    row("Jina, free tokens", 402, {"detail": "You have run out of free tokens."}),
    row("a budget of a key", 429, body("API key budget limit exhausted", code="budget_limit")),
    row("a prepaid balance", 429, body("Your prepaid balance is $0.00. Top up.")),
    row("a cap", 429, body("Hard usage cap reached", code="usage_cap")),
    row("Volcengine", 403, body("overdue balance", code="AccountOverdueError")),
    row("OpenAI", 429, body(NO_MONEY, "insufficient_quota", code="insufficient_quota")),
    row("OpenAI, in the type alone", 429, body("…", "insufficient_quota")),
    row("OpenAI, in the text alone", 429, body(NO_MONEY)),
    *(
        row(code, 429, body("…", code=code))
        for code in (
            *("credit_balance_exhausted", "organization_spend_limit_exceeded"),
            *("project_spend_limit_exceeded", "organization_usage_limit_exceeded"),
            *("billing_hard_limit_reached", "billing_not_active", "access_terminated"),
        )
    ),
    row("a code under another status", 403, body("…", code="insufficient_user_quota")),
    row(
        "OpenAI, requests a day",
        429,
        body(
            "Rate limit reached on requests per day (RPD): Limit 200, Used 200, Requested 1. "
            "Please try again in 7m12s.",
            "requests",
            code="rate_limit_exceeded",
        ),
        after=432,
    ),
    row(
        "Groq, tokens a day",
        429,
        body(
            "Rate limit reached for model `x` in organization `org_x` service tier `on_demand` on "
            "tokens per day (TPD): Limit 500000, Used 499911, Requested 1234. Please try again in "
            "3m17.856s. Need more tokens? Upgrade to Dev Tier today at https://console.groq.com",
            "tokens",
            code="rate_limit_exceeded",
        ),
        after=197.856,
    ),
    row(
        "LiteLLM around OpenAI",
        429,
        body(
            f"litellm.RateLimitError: RateLimitError: OpenAIException - {NO_MONEY} For more "
            "information on this error, read the docs: https://platform.openai.com/docs/guides.",
            "throttling_error",
            "None",
            "429",
        ),
    ),
    row(
        "LiteLLM around OpenAI, the code in the text",
        429,
        body("OpenAIException - Error code: 429 - {'code': 'insufficient_quota'}", code="429"),
    ),
    row("a gateway's short form", 429, {"error": "insufficient_quota"}),
    row(
        "LiteLLM, budget",
        400,
        {"detail": "Budget has been exceeded! Current cost: 14.01, Max budget: 10.0"},
        by_words=True,
    ),
    row("LiteLLM, budget, type", 429, body("…", "budget_exceeded", code="429")),
    row(
        "LiteLLM, budget, auth_error",
        400,
        body("Budget has been exceeded! Current cost: 0.0010747, Max budget: 0.0", "auth_error"),
        by_words=True,
    ),
    row(
        "LiteLLM, a team's",
        400,
        body("Budget has been exceeded! Team=RP32A1 Current cost: 3000.17, Max budget: 3000.0"),
        by_words=True,
    ),
    row(
        "LiteLLM, an end user's",
        400,
        body("ExceededBudget: End User=x over budget. Spend=0.0008, Budget=0.0001", code=400),
        by_words=True,
    ),
    row(
        "LiteLLM, a model's",
        429,
        body("LiteLLM User: x, exceeded budget for model=text-embedding-3-small", code="429"),
    ),
    row(
        "LiteLLM, a deployment's",
        429,
        body("No deployments available - crossed budget: Exceeded budget for deployment", code=429),
    ),
    row(
        "OpenRouter",
        402,
        body(
            "Insufficient credits. Add more using https://openrouter.ai/settings/credits", code=402
        ),
    ),
    row(
        "OpenRouter, fewer than needed",
        402,
        body("This request requires more credits, or fewer max_tokens.", code=402),
    ),
    row(
        "OpenRouter, a day",
        429,
        body(
            "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model "
            "requests per day",
            code=429,
        ),
    ),
    row(
        "a gateway's credits",
        402,
        "You're out of credits: this request needs $0.03. Add credits to keep going.",
    ),
    row("DeepSeek", 402, body("Insufficient Balance", "unknown_error")),
    row(
        "Moonshot",
        429,
        body(
            "Your account org-x is suspended, please check your plan and billing details",
            "exceeded_current_quota_error",
        ),
    ),
    row(
        "Moonshot, balance",
        429,
        body("Your account is not active, current state: insufficient balance"),
    ),
    row(
        "SiliconFlow",
        403,
        {"code": 30001, "message": "Sorry, your account balance is insufficient"},
    ),
    row("Voyage and Jina", 402, {"detail": "Insufficient balance."}),
    row("Jina", 402, {"detail": "Account balance not enough to run this query, please recharge."}),
    row(
        "Anthropic's wording",
        400,
        body("Your credit balance is too low to access the API."),
        by_words=True,
    ),
    row("Alibaba", 400, {"code": "Arrearage", "message": "Access denied."}),
    row("Zhipu", 429, body("您的账户已欠费,请充值后重试", code="1113")),
    row(
        "Hugging Face",
        402,
        {"error": "You have exceeded your monthly included credits for Inference Providers."},
    ),
    row(
        "Cloudflare",
        429,
        {"errors": [{"message": "you have used up your daily free allocation of 10,000 neurons"}]},
    ),
    row(
        "Cohere, trial key a month",
        429,
        {
            "message": "You are using a Trial key, which is limited to 1000 API calls / month. You "
            "can continue to use the Trial key for free or upgrade to a Production key with "
            "higher rate limits at 'https://dashboard.cohere.com/api-keys'."
        },
    ),
    row("Gemini, a day", 429, gemini(A_DAY), after=32),
    row("Gemini, a day and a minute", 429, gemini(A_MINUTE, A_DAY), after=32),
    row(
        "Gemini, a day, in words",
        429,
        body("Quota exceeded for quota metric 'Embed requests' and limit 'Requests per day'"),
    ),
    row("Gemini, none in this plan", 429, gemini(A_MINUTE, limit=0), after=32),
    row("Mistral, a month", 429, {"message": "Monthly usage limit exceeded", "code": "1300"}),
    row("Mistral, tokens a month", 429, {"message": "Tokens per month limit exceeded"}),
    row("Bedrock", 429, {"message": "Too many tokens per day, please wait before trying again."}),
    row("OpenAI's billing, in words", 429, body("Billing hard limit has been reached")),
    row(
        "Google's spending cap",
        429,
        body("Your project has exceeded its monthly spending cap.", code=429),
    ),
)
