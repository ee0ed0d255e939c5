"""Refusals that concern an account or an option, and errors of the server."""

from langchain_batch_embed.pacing.diagnosis import Kind
from tests.pacing.errors import HTML, body, row, table

ACCOUNTS = table(
    Kind.ACCOUNT,
    row("bad key", 401, body("Incorrect API key provided: sk-…", code="invalid_api_key")),
    row("bad key, Gemini", 400, body("API key not valid. Please pass a valid API key.", code=400)),
    row("bad key, AWS", 400, {"__type": "UnrecognizedClientException", "message": "…"}),
    row(
        "unknown model",
        404,
        body(
            "The model `x` does not exist or you do not have access to it.",
            code="model_not_found",
        ),
    ),
    row("unknown model, Ollama", 404, {"error": 'model "x" not found, try pulling it'}),
    row("unknown address", 404, {"detail": "Not Found"}),
    row("unknown address, a page", 404, HTML.format("404 page not found")),
    row("payment required", 402, ""),
    row("forbidden", 403, body("Country, region, or territory not supported")),
    row("a firewall", 403, HTML.format("Access denied | Cloudflare")),
    row("wrong address", 405, "Method Not Allowed"),
)

OPTIONS = table(
    Kind.OPTION,
    row(
        "dimensions", 400, body("This model does not support specifying dimensions."), by_words=True
    ),
    row(
        "dimensions, LiteLLM",
        400,
        body(
            "litellm.UnsupportedParamsError: Setting dimensions is not supported for OpenAI",
            "None",
            "None",
            "400",
        ),
        by_words=True,
    ),
    row(
        "dimensions, vLLM",
        400,
        {
            "message": "Model does not support matryoshka representation, changing output "
            "dimensions will lead to poor results."
        },
        by_words=True,
    ),
    row(
        "dimensions, FastAPI",
        422,
        {"detail": [{"loc": ["body", "dimensions"], "msg": "Input should be greater than 0"}]},
    ),
    *(
        row(f"the param {param}", 400, body("Invalid value: 'x'.", param=param))
        for param in ("encoding_format", "dimensions", "model", "user", "$.dimensions")
    ),
    row("model, Mistral", 400, {"message": "Invalid model: x", "code": "1500"}, by_words=True),
    row(
        "model, Voyage",
        400,
        {"detail": "Model x is not supported. Supported models are ['voyage-4']."},
        by_words=True,
    ),
    row(
        "model, Azure",
        400,
        body("The embeddings operation does not work with the specified model, gpt-4."),
        by_words=True,
    ),
)

OVERLOADS = table(
    Kind.OVERLOADED,
    row(
        "overloaded",
        503,
        body("Overloaded", "service_unavailable_error", code="server_is_overloaded"),
    ),
    row("overloaded, older", 503, body("Overloaded", "server_error")),
    row("nginx limits", 503, HTML.format("503 Service Temporarily Unavailable")),
    row("Anthropic's number", 529, ""),
    row("gateway timed out", 504, HTML.format("504 Gateway Time-out")),
)

FAILURES = table(
    Kind.FAILED,
    row("server error", 500, body("The server had an error", "server_error")),
    row("bad gateway", 502, HTML.format("502 Bad Gateway")),
    *(
        row(str(status), status, "")
        for status in (408, 409, 421, 423, 424, 425, 499, 500, 501, 502, 507, 520, 524, 599)
    ),
)
