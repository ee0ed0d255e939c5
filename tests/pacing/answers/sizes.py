"""Refusals of requests that are too large, and of single texts."""

from langchain_batch_embed.pacing.diagnosis import Kind, Quota
from tests.pacing.errors import body, row, table

ABOVE_THE_QUOTA = (
    "Request too large for text-embedding-3-small in organization org-x on tokens per min (TPM): "
    "Limit 1000000, Requested 1003160. The input or output tokens must be reduced in order to run "
    "successfully."
)
TOO_MANY = "batch size 64 > maximum allowed batch size 32"

TOO_LARGE = table(
    Kind.TOO_LARGE,
    row(
        "request over 300k",
        400,
        body(
            "Requested 468160 tokens, max 300000 tokens per request",
            "max_tokens_per_request",
            code="max_tokens_per_request",
        ),
        measure="tokens",
        share=300_000 / 468_160,
    ),
    row(
        "request over 300k, newer",
        400,
        body("Invalid 'input': maximum request size is 300000 tokens per request.", param="input"),
        measure="tokens",
    ),
    row(
        "request over 300k, the code alone",
        400,
        body("…", "max_tokens_per_request"),
        measure="tokens",
    ),
    row(
        "nonsense figures",
        400,
        body("Requested 0 tokens, max 300000 tokens per request"),
        measure="tokens",
        share=1.0,
    ),
    row(
        "tokens, Mistral",
        400,
        {"message": "Too many tokens in batch. Max is 16384 got 20480"},
        measure="tokens",
        share=0.8,
    ),
    row(
        "tokens, Mistral, unnamed",
        400,
        {"message": "Too many tokens overall, split into more batches."},
        measure="tokens",
    ),
    row(
        "tokens, Voyage",
        400,
        {
            "detail": "Request to model 'voyage-3-large' failed. The max allowed tokens per "
            "submitted batch is 120000. Your batch has 150000 tokens after truncation."
        },
        measure="tokens",
        share=0.8,
    ),
    row(
        "tokens, Vertex AI",
        400,
        body(
            "400 Unable to submit request because the input token count is 25000 but the model "
            "supports up to 20000."
        ),
        measure="tokens",
        share=0.8,
    ),
    row(
        "over 2,048 inputs",
        400,
        body("Invalid 'input': array length must be 2048 or less.", param="input"),
        measure="items",
        max_items=2048,
    ),
    row(
        "inputs, Azure",
        400,
        body("Too many inputs. The max number of inputs is 16. We hope to increase the number."),
        measure="items",
        max_items=16,
    ),
    row(
        "inputs, TEI",
        413,
        {"error": TOO_MANY, "error_type": "Validation"},
        measure="items",
        max_items=32,
    ),
    row(
        "inputs, TEI as OpenAI",
        422,
        {"message": TOO_MANY, "type": "Validation", "code": 422},
        measure="items",
        max_items=32,
    ),
    row("inputs, plain text", 422, TOO_MANY, measure="items", max_items=32),
    row(
        "inputs, a limit of nothing",
        422,
        {"error": TOO_MANY.replace("32", "0")},
        measure="items",
        max_items=1,
    ),
    row(
        "inputs, Cohere",
        400,
        {"message": "invalid request: total number of texts must be at most 96 - received 97"},
        measure="items",
        max_items=96,
    ),
    row(
        "inputs, Gemini",
        400,
        body("* BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch\n"),
        measure="items",
        max_items=100,
    ),
    row(
        "inputs, Vertex AI",
        400,
        body("400 250 instance(s) is allowed per prediction. Actual: 300"),
        measure="items",
        max_items=250,
    ),
    row(
        "inputs, Voyage",
        400,
        {"detail": "The batch size limit is 1000. Your batch size is 1001."},
        measure="items",
        max_items=1000,
    ),
    row(
        "inputs, with a comma",
        400,
        {"detail": "The batch size limit is 1,000. Your batch size is 1,001."},
        measure="items",
        max_items=1000,
    ),
    row(
        "inputs, Alibaba",
        400,
        body("batch size is invalid, it should not be larger than 10.: input.contents"),
        measure="items",
        max_items=10,
    ),
    row(
        "inputs, Zhipu",
        400,
        body("input数组最大不得超过64条", code="1214"),
        measure="items",
        max_items=64,
    ),
    row(
        "inputs, Mistral",
        400,
        {"message": "Too many inputs in request, split into more batches."},
        measure="items",
    ),
    row(
        "inputs, pydantic",
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
        measure="items",
        max_items=2048,
    ),
    row(
        "inputs, Cohere at Bedrock",
        400,
        {"message": "Malformed input request: #/texts: expected maximum item count: 96"},
        measure="items",
        max_items=96,
    ),
    row("body", 413, "<html>413 Request Entity Too Large</html>", measure="bytes"),
    row("body, empty", 413, "", measure="bytes"),
    row("body, Starlette", 400, "Request body too large", measure="bytes"),
    row(
        "body, Gemini",
        400,
        body("Request payload size exceeds the limit: 36000 bytes."),
        measure="bytes",
    ),
    row(
        "the whole quota",
        429,
        body(ABOVE_THE_QUOTA, "tokens", code="rate_limit_exceeded"),
        measure="tokens",
        share=1_000_000 / 1_003_160,
        whole_quota=True,
        quota=Quota(kind="tokens", limit=1_000_000),
    ),
    row(
        "the whole quota, unnamed",
        429,
        body("Request too large for gateway.", "tokens", code="rate_limit_exceeded"),
        whole_quota=True,
    ),
    row(
        "the whole quota, Groq",
        413,
        body(
            "Request too large for model `x` in organization `org_x` service tier `on_demand` on "
            "tokens per minute (TPM): Limit 6000, Requested 12000, please reduce your message "
            "size and try again. Need more tokens? Upgrade to Dev Tier today at https://x",
            "tokens",
            code="rate_limit_exceeded",
        ),
        measure="tokens",
        share=0.5,
        whole_quota=True,
        quota=Quota(kind="tokens", limit=6000),
    ),
    row(
        "the whole quota of a day",
        429,
        body("Request too large on tokens per day (TPD): Limit 1000, Requested 2000, reduce"),
        measure="tokens",
        share=0.5,
        whole_quota=True,
    ),
    row(
        "the whole quota, where each text is a request",
        429,
        body("Rate limit reached on requests per min (RPM): Limit 100, Used 0, Requested 200."),
        measure="items",
        share=0.5,
        whole_quota=True,
        quota=Quota(kind="requests", limit=100, used=0),
    ),
)

# Refusals of one text, or for a reason that is not known.
REFUSALS = table(
    Kind.REFUSED,
    row(
        "too long",
        400,
        body(
            "Invalid 'input[3]': maximum input length is 8192 tokens.",
            param="input[3]",
            code="invalid_value",
        ),
        at=3,
    ),
    row(
        "too long, named in the text alone",
        400,
        body("Invalid 'input[3]': maximum input length is 8192 tokens."),
        at=3,
    ),
    row(
        "too long, before 2025",
        400,
        body(
            "This model's maximum context length is 8192 tokens, however you requested 9000 tokens "
            "(9000 in your prompt; 0 for the completion). Please reduce your prompt."
        ),
    ),
    row(
        "too long, vLLM",
        400,
        {
            "object": "error",
            "message": "This model's maximum context length is 8192 tokens, however you requested "
            "9000 tokens in the input for embedding generation.",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
    ),
    row(
        "too long, TEI",
        413,
        {"error": "Input validation error: `inputs` must have less than 512 tokens. Given: 534"},
    ),
    row(
        "too long, llama.cpp",
        500,
        body(
            "input (600 tokens) is too large to process. increase the physical batch size "
            "(current batch size: 512)",
            "server_error",
            code=500,
        ),
    ),
    row(
        "too long, Bedrock",
        400,
        {"message": "400 Bad Request: Too many input tokens. Max input tokens: 8192"},
    ),
    row(
        "an index that cannot be",
        400,
        body("Invalid 'input[8]': maximum input length is 8192 tokens.", param="input[8]"),
    ),
    row(
        "an empty string",
        400,
        body("Invalid 'input[0]': input cannot be an empty string.", param="input[0]"),
        at=0,
    ),
    row(
        "an empty array",
        400,
        body("Invalid 'input': input cannot be an empty array.", param="input"),
    ),
    row(
        "invalid, before 2025",
        400,
        body(
            "'$.input' is invalid. Please check the API reference: "
            "https://platform.openai.com/docs/api-reference."
        ),
    ),
    row(
        "FastAPI",
        422,
        {"detail": [{"loc": ["body", "input", 3], "msg": "str type expected"}]},
        at=3,
    ),
    row("LiteLLM's param", 400, body("bad text", param="None", code="400")),
    *(
        row(f"the param {param}", 400, body("bad text", param=param), at=at)
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
    ),
    row(
        "an input that talks about dimensions",
        400,
        body("The dimensions of the text are wrong", param="input[1]"),
        at=1,
    ),
    row(
        "content filter, Azure",
        400,
        body("The response was filtered due to the prompt", param="prompt", code="content_filter"),
    ),
    *(row(str(status), status, "") for status in (400, 406, 407, 410, 418, 422, 451)),
)
