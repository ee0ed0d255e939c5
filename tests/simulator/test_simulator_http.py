"""The server's answers over HTTP, with vectors, limits and quotas."""

import asyncio
import base64
import math
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest
import toktok

from langchain_batch_embed.simulator import Scenario, Simulator, vectors

from .simulated import Reply, Server, simulate

Ask = Callable[..., httpx.Response]
Configure = Callable[..., None]

IRE = "invalid_request_error"


def decoded(response: httpx.Response) -> list[bytes]:
    """Return the embeddings of an answer as bytes of float32."""
    assert response.status_code == 200, response.text
    return [
        base64.b64decode(item["embedding"])
        if isinstance(item["embedding"], str)
        else struct.pack(f"<{len(item['embedding'])}f", *item["embedding"])
        for item in response.json()["data"]
    ]


def expected(texts: list[str], dimensions: int = 8) -> list[bytes]:
    """Return the right embeddings of texts as bytes."""
    return [row.astype("<f4").tobytes() for row in vectors(texts, dimensions)]


def error(response: httpx.Response, status: int) -> dict[str, Any]:
    """Return the error object of an answer with this status."""
    assert response.status_code == status
    body: dict[str, Any] = response.json()["error"]
    return body


class TestAnswers:
    """Valid requests are answered."""

    @pytest.mark.parametrize("encoding", ["base64", "float", None])
    def test_vectors_arrive_bit_for_bit(
        self, ask: Ask, configure: Configure, encoding: str | None
    ) -> None:
        """Base64 and numbers both carry exactly the computed float32."""
        configure()
        texts = ["Hello world", "naïve 🧠", " "]

        assert decoded(ask(texts, encoding_format=encoding)) == expected(texts)

    def test_base64_is_answered_only_where_it_was_asked_for(
        self, ask: Ask, configure: Configure
    ) -> None:
        """Base64 is sent only on request, and numbers are the default."""
        configure()

        kinds = [
            type(ask("x", encoding_format=encoding).json()["data"][0]["embedding"])
            for encoding in ("base64", "float", None)
        ]

        assert kinds == [str, list, list]

    def test_an_answer_has_every_field(self, ask: Ask, configure: Configure) -> None:
        """An answer has OpenAI's object, model, indices and true tokens."""
        configure()

        body = ask(["Hello world", "one two three"], encoding_format="base64").json()

        assert body["object"] == "list"
        assert body["model"] == "text-embedding-3-small"
        assert [item["index"] for item in body["data"]] == [0, 1]
        assert {item["object"] for item in body["data"]} == {"embedding"}
        assert body["usage"] == {"prompt_tokens": 5, "total_tokens": 5}

    def test_the_width_is_the_scenarios_where_none_is_asked(
        self, ask: Ask, configure: Configure
    ) -> None:
        """Without `dimensions` a vector has the scenario's width."""
        configure(dimensions=96)

        assert decoded(ask("x", dimensions=None)) == expected(["x"], 96)

    @pytest.mark.parametrize("as_list", [True, False])
    def test_token_arrays_are_the_texts_they_stand_for(
        self, ask: Ask, configure: Configure, *, as_list: bool
    ) -> None:
        """Token ids, of one input or several, get the vectors and the usage of their text."""
        configure()
        ids = list(toktok._encoding("cl100k_base").encode_ordinary("Hello world, naïve"))

        response = ask([ids, ids] if as_list else ids, encoding_format="base64")

        count = 2 if as_list else 1
        assert decoded(response) == expected(["Hello world, naïve"]) * count
        assert response.json()["usage"]["prompt_tokens"] == len(ids) * count

    def test_a_server_that_only_looks_like_openais(self, ask: Ask, configure: Configure) -> None:
        """A server can ignore base64, index, usage and dimensions, each as configured."""
        configure(dimensions=4, base64=False, index=False, usage=False, honour_dimensions=False)

        body = ask(["a", "b"], encoding_format="base64").json()

        assert "usage" not in body
        assert [sorted(item) for item in body["data"]] == [["embedding", "object"]] * 2
        assert [len(item["embedding"]) for item in body["data"]] == [4, 4]

    def test_a_full_request_is_answered(self, ask: Ask, configure: Configure) -> None:
        """A full request, 2,048 inputs of 1,536 dimensions, is answered completely, in order."""
        configure()
        texts = [f"section {i}" for i in range(2048)]

        response = ask(texts, encoding_format="base64", dimensions=None)

        assert decoded(response) == expected(texts, 1536)

    @pytest.mark.parametrize("encoding", ["base64", "float"])
    def test_a_cache_changes_no_answer(self, ask: Ask, configure: Configure, encoding: str) -> None:
        """With a cache, a repeated answer, even for another width, is the same as without."""
        configure(vector_cache=True)
        texts = ["a", "b", "a"]

        for dimensions in (8, 8, 4):
            response = ask(texts, encoding_format=encoding, dimensions=dimensions)
            assert decoded(response) == expected(texts, dimensions)
            assert response.json()["usage"]["prompt_tokens"] == 3

    def test_64_clients_get_what_they_asked_for(
        self, simulator: Simulator, configure: Configure
    ) -> None:
        """Answers to concurrent requests of 64 clients are not mixed up."""
        configure()
        batches = [[f"text {n} {i}" for i in range(40)] for n in range(128)]

        def embed(texts: list[str]) -> list[bytes]:
            body = {"model": "text-embedding-3-small", "input": texts, "dimensions": 8}
            return decoded(client.post(f"{simulator.url}/embeddings", json=body))

        limits = httpx.Limits(max_connections=64)
        with (
            httpx.Client(limits=limits, timeout=20, trust_env=False) as client,
            ThreadPoolExecutor(64) as threads,
        ):
            results = list(threads.map(embed, batches))

        assert results == [expected(texts) for texts in batches]
        assert simulator.stats()["inputs_billed"] == 128 * 40

    def test_azures_deployments_are_models(
        self, simulator: Simulator, client: httpx.Client, configure: Configure
    ) -> None:
        """An Azure deployment in the path is the model, and the key comes in `api-key`."""
        configure(api_key="secret", tier=1)
        path = "/openai/deployments/text-embedding-3-large/embeddings?api-version=2024-10-21"
        body = {"input": ["x"], "dimensions": 8}

        response = client.post(
            simulator.azure_endpoint + path, json=body, headers={"api-key": "secret"}
        )

        assert decoded(response) == expected(["x"])
        assert response.json()["model"] == "text-embedding-3-large"
        told = [name for name in response.headers if name.startswith("x-ratelimit")]
        assert sorted(told) == ["x-ratelimit-remaining-requests", "x-ratelimit-remaining-tokens"]

    def test_the_models_are_listed(
        self, simulator: Simulator, client: httpx.Client, configure: Configure
    ) -> None:
        """GET /v1/models lists the scenario's models."""
        configure(models=("a", "b"))

        models = client.get(f"{simulator.url}/models").json()["data"]

        assert [model["id"] for model in models] == ["a", "b"]


class TestLimits:
    """Invalid requests are refused in the provider's words."""

    @pytest.mark.parametrize(
        ("scenario", "inputs", "body"),
        [
            (
                {"max_inputs": 2},
                ["a", "b", "c"],
                {
                    "message": "Invalid 'input': array length must be 2 or less.",
                    "type": IRE,
                    "param": "input",
                    "code": None,
                },
            ),
            (
                {},
                [],
                {
                    "message": "Invalid 'input': input cannot be an empty array.",
                    "type": IRE,
                    "param": "input",
                    "code": None,
                },
            ),
            (
                {},
                ["a", "", ""],
                {
                    "message": "Invalid 'input[1]': input cannot be an empty string.",
                    "type": IRE,
                    "param": "input[1]",
                    "code": "invalid_value",
                },
            ),
            (
                {"max_tokens_per_input": 3},
                ["one two three", "one two three four"],
                {
                    "message": "Invalid 'input[1]': maximum input length is 3 tokens.",
                    "type": IRE,
                    "param": "input[1]",
                    "code": "invalid_value",
                },
            ),
            (
                {"max_tokens_per_request": 4},
                ["one two three", "one two"],
                {
                    "message": "Requested 5 tokens, max 4 tokens per request",
                    "type": "max_tokens_per_request",
                    "param": None,
                    "code": "max_tokens_per_request",
                },
            ),
            (
                {"max_tokens_per_request": 4, "request_tokens_by": "bytes"},
                ["x" * 16, "x"],
                {
                    "message": "Requested 5 tokens, max 4 tokens per request",
                    "type": "max_tokens_per_request",
                    "param": None,
                    "code": "max_tokens_per_request",
                },
            ),
            (
                {"refuse_marker": "forbidden"},
                ["fine", "quite forbidden here"],
                {
                    "message": "Your request was rejected as a result of our safety system.",
                    "type": IRE,
                    "param": None,
                    "code": "content_policy_violation",
                },
            ),
        ],
    )
    def test_a_request_over_a_limit_is_refused(
        self,
        ask: Ask,
        configure: Configure,
        scenario: dict[str, Any],
        inputs: list[str],
        body: dict[str, Any],
    ) -> None:
        """A request over a limit gets the provider's message, type, param and code."""
        configure(**scenario)

        assert error(ask(inputs), 400) == body

    def test_requests_at_the_limits_pass(self, ask: Ask, configure: Configure) -> None:
        """A request exactly at the limits is answered."""
        configure(max_inputs=2, max_tokens_per_input=3, max_tokens_per_request=5)

        assert ask(["one two three", "one two"]).status_code == 200

    def test_a_limit_can_be_told_in_words_nobody_knows(
        self, ask: Ask, configure: Configure
    ) -> None:
        """A limit's message can be any text that the scenario gives."""
        configure(max_inputs=1, text_limit_words="input should not be larger than 1")

        assert error(ask(["a", "b"]), 400)["message"] == "input should not be larger than 1"
        assert ask(["a"]).status_code == 200

    def test_a_text_can_crash_the_server_each_time(self, ask: Ask, configure: Configure) -> None:
        """A marked text fails with the scenario's status each time, and is not quoted."""
        configure(refuse_marker="poison", marker_status=500)

        for _ in range(2):
            assert error(ask(["a", "some poison"]), 500) == {"message": "Internal Server Error"}
        assert ask(["a"]).status_code == 200

    def test_a_firewall_stands_before_the_provider(self, ask: Ask, configure: Configure) -> None:
        """A firewall's 403 is a page without the provider's headers or a word about the text."""
        configure(firewall_marker="<script>", max_inputs=1, tier=1)

        response = ask(["fine", "a <script> here"])

        assert response.status_code == 403
        assert response.headers["content-type"].startswith("text/html")
        assert "script" not in response.text
        assert "x-request-id" not in response.headers
        assert ask(["fine"]).status_code == 200

    @pytest.mark.parametrize("inputs", [None, 5, [1.5], ["a", 1], [["a"]], [None], [[-1]], [True]])
    def test_an_input_that_is_neither_text_nor_tokens_is_refused(
        self, ask: Ask, configure: Configure, inputs: Any
    ) -> None:
        """An input that is neither text nor tokens gets the older wording of compatible servers."""
        configure()

        assert error(ask(inputs), 400)["message"].startswith("'$.input' is invalid.")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"encoding_format": "hex"}, "Invalid value: 'hex'"),
            ({"dimensions": 0}, "Invalid value for 'dimensions' = 0"),
            ({"dimensions": 1537}, "Invalid value for 'dimensions' = 1537"),
            ({"model": None}, "you must provide a model parameter"),
            ({"model": "text-embedding-ada-002"}, "does not support specifying dimensions"),
        ],
    )
    def test_a_wrong_option_is_refused(
        self, ask: Ask, configure: Configure, options: dict[str, Any], message: str
    ) -> None:
        """A wrong option is refused with a 400 that names it."""
        configure()

        assert message in error(ask("x", **options), 400)["message"]

    def test_a_body_that_is_no_json_is_refused(
        self, simulator: Simulator, client: httpx.Client, configure: Configure
    ) -> None:
        """Broken JSON is refused with a 400."""
        configure()

        response = client.post(f"{simulator.url}/embeddings", content=b'{"input": [')

        assert "could not parse the JSON" in error(response, 400)["message"]

    def test_a_body_that_is_too_long_is_refused_by_the_proxy(
        self, ask: Ask, configure: Configure
    ) -> None:
        """A body that is too long is refused by the proxy, with a 413 in HTML."""
        configure(max_body_bytes=500_000)

        response = ask("x" * 500_000)

        assert response.status_code == 413
        assert response.headers["content-type"].startswith("text/html")
        assert ask("x" * 1_000).status_code == 200

    def test_an_unknown_model_is_not_found(self, ask: Ask, configure: Configure) -> None:
        """An unknown model is a 404 that names it, unless the scenario accepts any model."""
        configure()
        assert error(ask("x", model="gpt-9"), 404) == {
            "message": "The model `gpt-9` does not exist or you do not have access to it.",
            "type": IRE,
            "param": None,
            "code": "model_not_found",
        }

        configure(models=())
        assert ask("x", model="gpt-9").json()["model"] == "gpt-9"

    def test_a_wrong_key_is_refused_and_not_repeated(self, ask: Ask, configure: Configure) -> None:
        """A wrong key is a 401 that shows only the ends of the key, as OpenAI does."""
        configure(api_key="right")
        key = "sk-proj-abcdefghijklmnop1234"

        body = error(ask("x", headers={"authorization": f"Bearer {key}"}), 401)

        assert body["message"].startswith(
            "Incorrect API key provided: sk-proj-****************1234."
        )
        assert (body["type"], body["param"], body["code"]) == (IRE, None, "invalid_api_key")
        assert ask("x", headers={"authorization": "Bearer right"}).status_code == 200

    def test_token_arrays_can_be_refused(self, ask: Ask, configure: Configure) -> None:
        """A server that accepts only texts refuses token arrays with 422."""
        configure(token_arrays=False)

        assert ask([[1, 2]]).status_code == 422
        assert ask(["x"]).status_code == 200

    @pytest.mark.parametrize(
        ("path", "scenario", "status", "code"),
        [
            ("no-such-deployment", {}, 404, "DeploymentNotFound"),
            ("text-embedding-3-small", {"api_key": "k"}, 401, "401"),
            ("text-embedding-3-small", {"max_inputs": 1}, 400, None),
        ],
    )
    def test_azure_has_words_of_its_own(
        self,
        simulator: Simulator,
        client: httpx.Client,
        configure: Configure,
        path: str,
        scenario: dict[str, Any],
        status: int,
        code: str | None,
    ) -> None:
        """Azure refuses a deployment, a key or a limit with its own codes."""
        configure(**scenario)
        url = f"{simulator.azure_endpoint}/openai/deployments/{path}/embeddings"

        assert error(client.post(url, json={"input": ["a", "b"]}), status)["code"] == code


class TestQuotas:
    """Quotas of requests and tokens a minute."""

    def test_an_answer_tells_what_is_left(self) -> None:
        """Headers show the remaining quota, of which a request takes bytes / 4, rounded up."""
        reply = simulate(
            lambda: Server(requests_per_minute=1, tokens_per_minute=1000).ask(["x" * 99, "y" * 102])
        )

        headers = reply.headers
        assert headers["x-ratelimit-limit-requests"] == "1"
        assert headers["x-ratelimit-limit-tokens"] == "1000"
        assert headers["x-ratelimit-remaining-requests"] == "0"
        assert headers["x-ratelimit-remaining-tokens"] == "949"
        assert headers["x-ratelimit-reset-requests"] == "1m0s"
        assert headers["x-ratelimit-reset-tokens"] == "3.06s"
        assert headers["x-request-id"].startswith("req_")
        assert headers["openai-processing-ms"] == "0"

    def test_tokens_over_the_quota_are_refused(self, ask: Ask, configure: Configure) -> None:
        """A 429 for tokens has its numbers in the text and its delay in the headers."""
        configure(tokens_per_minute=100)
        ask("x" * 400)

        response = ask("x" * 200)

        body = error(response, 429)
        assert (body["type"], body["param"], body["code"]) == (
            "tokens",
            None,
            "rate_limit_exceeded",
        )
        assert body["message"].startswith(
            "Rate limit reached for text-embedding-3-small in organization org-"
        )
        assert "on tokens per min (TPM): Limit 100, Used 100, Requested 50." in body["message"]
        assert response.headers["retry-after"] == "30"
        assert response.headers["x-ratelimit-remaining-tokens"] == "0"

    def test_requests_over_the_quota_are_refused(self, ask: Ask, configure: Configure) -> None:
        """A 429 for requests has its own type and text."""
        configure(requests_per_minute=2)
        statuses = [ask("x").status_code for _ in range(2)]

        body = error(ask("x"), 429)

        assert statuses == [200, 200]
        assert body["type"] == "requests"
        assert "on requests per min (RPM): Limit 2, Used 2, Requested 1." in body["message"]

    def test_a_request_above_the_whole_quota_is_told_so(
        self, ask: Ask, configure: Configure
    ) -> None:
        """A request above the whole quota gets no delay, because no wait would help."""
        configure(tokens_per_minute=100)

        response = ask("x" * 404)

        body = error(response, 429)
        assert body["message"].startswith("Request too large for text-embedding-3-small")
        assert "(TPM): Limit 100, Requested 101." in body["message"]
        assert body["type"] == "tokens"
        assert "retry-after" not in response.headers

    @pytest.mark.parametrize("share", [0.0, 1.0])
    def test_refused_requests_count_as_told(
        self, ask: Ask, configure: Configure, share: float
    ) -> None:
        """A refused request is charged the scenario's share."""
        configure(tokens_per_minute=100, refused_share=share)
        ask("x" * 200)
        ask("x" * 300)

        status = ask("x" * 120).status_code

        assert status == (200 if share == 0 else 429)

    def test_headers_and_details_can_be_missing(self, ask: Ask, configure: Configure) -> None:
        """A gateway's 429 can have no numbers and no delay, in its body or its headers."""
        configure(
            requests_per_minute=1,
            rate_limit_headers=False,
            refusal_hint="none",
            error_details=False,
        )
        answers = [ask("x"), ask("x")]

        assert [answer.status_code for answer in answers] == [200, 429]
        assert answers[1].json() == {"error": {"message": "Too many requests"}}
        for answer in answers:
            assert not [n for n in answer.headers if n.startswith(("x-ratelimit", "retry"))]

    @pytest.mark.parametrize(
        ("hint", "retry_after", "says_when"),
        [("exact", "30", True), ("text", None, True), ("zero", "0", False), ("none", None, False)],
    )
    def test_a_refusal_says_when_as_the_scenario_wants(
        self,
        ask: Ask,
        configure: Configure,
        hint: str,
        retry_after: str | None,
        *,
        says_when: bool,
    ) -> None:
        """A refusal's delay is in headers and text, in the text alone, wrong, or missing."""
        configure(requests_per_minute=2, bucket_seconds=30, refusal_hint=hint)
        ask("x")

        response = ask("x")

        assert response.headers.get("retry-after") == retry_after
        assert ("retry-after-ms" in response.headers) == (hint == "exact")
        message = error(response, 429)["message"]
        assert ("Please try again in" in message) == says_when
        assert "Limit 2, Used 2, Requested 1. " in message

    def test_a_delay_can_be_a_date(self, ask: Ask, configure: Configure) -> None:
        """A delay can be a date in GMT, the first whole second not before the true time."""
        configure(requests_per_minute=2, bucket_seconds=30, refusal_hint="date")
        ask("x")
        before = time.time()
        response = ask("x")
        after = time.time()

        told = parsedate_to_datetime(response.headers["retry-after"]).timestamp()
        assert response.headers["retry-after"].endswith(" GMT")
        assert math.ceil(before + 30) <= told <= math.ceil(after + 30)
        assert "retry-after-ms" not in response.headers
        assert "try again in" not in response.text

    @pytest.mark.parametrize(
        ("hint", "says_when"), [("exact", True), ("text", True), ("date", False), ("none", False)]
    )
    def test_azure_says_when_as_the_scenario_wants(
        self, ask: Ask, configure: Configure, hint: str, *, says_when: bool
    ) -> None:
        """Azure's text follows the same option for the delay."""
        configure(script=("429_azure",), refusal_hint=hint, retry_after=46)

        message = error(ask("x"), 429)["message"]

        assert ("Please retry after 46 seconds." in message) == says_when

    def test_a_quota_can_be_counted_in_fixed_windows(self) -> None:
        """With fixed windows, a refused request is admitted in the next window.

        The refusal announces when that window begins.
        """

        async def clients() -> list[Reply]:
            server = Server(requests_per_minute=240, fixed_window_seconds=0.5)
            replies = [await server.ask(), await server.ask()]
            await asyncio.sleep(0.2)
            replies.append(await server.ask())
            await asyncio.sleep(int(replies[-1].headers["retry-after-ms"]) / 1000)
            return [*replies, await server.ask(), await server.ask()]

        replies = simulate(clients)
        assert [reply.status for reply in replies] == [200, 200, 429, 200, 200]
        assert replies[2].headers["retry-after-ms"] == "300"

    def test_used_can_hide_why_a_request_was_refused(self) -> None:
        """Used and requested tokens can be those of a small bucket, far below the limit."""

        async def clients() -> Reply:
            server = Server(tokens_per_minute=6000, bucket_seconds=1, used_of="bucket")
            await server.ask("x" * 400)
            await asyncio.sleep(0.1)
            return await server.ask("x" * 200)

        reply = simulate(clients)
        assert reply.status == 429
        # Of the 100 in use 10 have flowed back, but the refused request is charged too.
        assert b"Limit 6000, Used 100, Requested 50." in reply.body

    def test_the_delay_that_is_told_can_be_another(self, ask: Ask, configure: Configure) -> None:
        """The announced delay can be set, such as to an hour."""
        configure(requests_per_minute=1, retry_after=3600)
        ask("x")

        response = ask("x")

        assert response.headers["retry-after"] == "3600"
        assert response.headers["retry-after-ms"] == "3600000"
        assert "Please try again in 1h0m0s." in response.text

    def test_azure_tells_whole_seconds(
        self, simulator: Simulator, client: httpx.Client, configure: Configure
    ) -> None:
        """Azure's 429 has its code as a string and its delay, in whole seconds, in the text."""
        configure(requests_per_minute=2, bucket_seconds=30)
        deployment = "/openai/deployments/text-embedding-3-small/embeddings"
        url = simulator.azure_endpoint + deployment
        client.post(url, json={"input": "x"})

        body = error(client.post(url, json={"input": "x"}), 429)

        assert body["code"] == "429"
        assert "Please retry after 30 seconds." in body["message"]

    def test_a_new_scenario_fills_the_buckets(
        self, ask: Ask, simulator: Simulator, configure: Configure
    ) -> None:
        """Configuring and resetting both begin with a full quota."""
        configure(requests_per_minute=1)
        first = [ask("x").status_code for _ in range(2)]
        simulator.reset()
        second = [ask("x").status_code for _ in range(2)]
        simulator.configure(Scenario(latency=0))

        assert first == second == [200, 429]
        assert [ask("x").status_code for _ in range(3)] == [200, 200, 200]
