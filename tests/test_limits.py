"""Limits: a provider is recognised by its class's name, and options stay within reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings

from langchain_batch_embed import Limits, OptionError
from langchain_batch_embed.limits import (
    AZURE,
    LOCAL_WORKERS,
    OPENAI,
    REMOTE_WORKERS,
    UNKNOWN,
    common,
    is_hosted_by_openai,
    limits_of,
)


def instance_of(*names: str) -> Embeddings:
    """Return an object whose class has the first name, and its base classes the others."""
    kind: type[DeterministicFakeEmbedding] = DeterministicFakeEmbedding
    for name in reversed(names):
        kind = type(name, (kind,), {"__module__": __name__})
    return kind(size=3)


@pytest.mark.parametrize(
    ("name", "texts", "tokens", "tokens_per_text", "workers"),
    [
        ("OpenAIEmbeddings", 2048, 300_000, 8191, REMOTE_WORKERS),
        ("AzureOpenAIEmbeddings", 2048, 300_000, 8191, REMOTE_WORKERS),
        ("CohereEmbeddings", 96, None, None, REMOTE_WORKERS),
        ("VoyageAIEmbeddings", 1000, 60_000, None, REMOTE_WORKERS),
        ("MistralAIEmbeddings", 512, 8000, None, REMOTE_WORKERS),
        ("GoogleGenerativeAIEmbeddings", 100, 10_000, None, REMOTE_WORKERS),
        ("VertexAIEmbeddings", 250, 10_000, None, REMOTE_WORKERS),
        ("JinaEmbeddings", 2048, None, None, REMOTE_WORKERS),
        ("BedrockEmbeddings", 1, None, None, REMOTE_WORKERS),
        ("NVIDIAEmbeddings", 50, None, None, REMOTE_WORKERS),
        ("HuggingFaceEndpointEmbeddings", 32, 8192, None, REMOTE_WORKERS),
        ("InfinityEmbeddings", 128, None, None, REMOTE_WORKERS),
        ("OllamaEmbeddings", 512, None, None, LOCAL_WORKERS),
        ("HuggingFaceEmbeddings", 1024, None, None, LOCAL_WORKERS),
    ],
)
def test_a_provider_is_recognised_by_the_name_of_its_class(
    name: str, texts: int, tokens: int | None, tokens_per_text: int | None, workers: int
) -> None:
    """Each known class gets its provider's limits without importing the provider's package."""
    limits = limits_of(instance_of(name))
    assert (
        limits.max_batch_size,
        limits.max_tokens_per_request,
        limits.max_tokens_per_input,
        limits.max_workers,
    ) == (texts, tokens, tokens_per_text, workers)


def test_a_subclass_has_the_limits_of_its_base() -> None:
    """A user's subclass of a known class has its limits, whatever its name and depth."""
    assert limits_of(instance_of("Mine", "Ours", "CohereEmbeddings")).provider == "Cohere"


def test_the_nearest_known_class_counts() -> None:
    """The nearest known base class counts: Azure's class derives from OpenAI's."""
    limits = limits_of(instance_of("Mine", "AzureOpenAIEmbeddings", "OpenAIEmbeddings"))
    assert limits.provider == "Azure OpenAI"


def test_an_unknown_class_has_careful_limits() -> None:
    """An unknown class gets 100 texts a request, and an option may raise that."""
    limits = limits_of(DeterministicFakeEmbedding(size=3))
    assert (limits.provider, limits.max_batch_size, limits.max_tokens_per_request) == (
        "unknown",
        100,
        None,
    )
    assert limits.override(max_batch_size=5000).max_batch_size == 5000


def test_only_openai_refuses_empty_texts() -> None:
    """Empty texts are refused before sending only for providers known to refuse them."""
    refusing = {
        name: limits_of(instance_of(name)).refuses_empty
        for name in ("OpenAIEmbeddings", "AzureOpenAIEmbeddings", "CohereEmbeddings")
    }
    assert refusing == {
        "OpenAIEmbeddings": True,
        "AzureOpenAIEmbeddings": True,
        "CohereEmbeddings": False,
    }


def test_none_overrides_nothing() -> None:
    """An option of `None` leaves the provider's limit unchanged."""
    assert OPENAI.override(max_batch_size=None, max_workers=None) == OPENAI


def test_an_option_takes_the_place_of_a_limit() -> None:
    """An option replaces the provider's limit, and all other limits stay."""
    limits = OPENAI.override(max_batch_size=16, max_workers=64)
    assert (limits.max_batch_size, limits.max_workers) == (16, 64)
    assert limits.max_tokens_per_request == OPENAI.max_tokens_per_request


@pytest.mark.parametrize(
    ("option", "value", "most"),
    [
        ("max_batch_size", 5000, "2,048"),
        ("max_tokens_per_request", 300_001, "300,000"),
        ("max_tokens_per_input", 8192, "8,191"),
    ],
)
def test_more_than_a_strict_provider_takes_is_refused(option: str, value: int, most: str) -> None:
    """An option above OpenAI's limit is an error that names the limit and the way out.

    The provider would refuse every request otherwise.
    """
    with pytest.raises(OptionError) as caught:
        OPENAI.override(**{option: value})
    assert str(caught.value) == (
        f"{option}={value:,} is more than OpenAI accepts; use {most} or fewer, or describe a "
        "server that accepts more with limits=Limits(...)"
    )


@pytest.mark.parametrize("option", ["max_batch_size", "max_tokens_per_request"])
def test_the_providers_own_limit_may_be_asked_for(option: str) -> None:
    """An option may equal the provider's limit."""
    assert OPENAI.override(**{option: getattr(OPENAI, option)}) == OPENAI


def test_more_workers_than_the_default_may_be_asked_for() -> None:
    """More workers than the default are allowed, because no provider refuses them."""
    assert OPENAI.override(max_workers=500).max_workers == 500


def test_a_server_that_is_not_strict_may_get_more() -> None:
    """An option may exceed a limit that is only a default."""
    assert limits_of(instance_of("CohereEmbeddings")).override(max_batch_size=960)


def test_an_unknown_limit_is_refused() -> None:
    """An unknown limit is an error that lists the limits that exist."""
    with pytest.raises(OptionError, match=r"max_batches.*it has.*max_batch_size"):
        OPENAI.override(max_batches=3)


@pytest.mark.parametrize("value", [0, -1, 2.5, "3", True])
@pytest.mark.parametrize(
    "name", ["max_batch_size", "max_tokens_per_request", "max_tokens_per_input", "max_workers"]
)
def test_a_limit_is_a_whole_number_of_at_least_one(name: str, value: object) -> None:
    """A limit that is no whole number of at least 1 is an error when `Limits` is made."""
    with pytest.raises(OptionError, match=rf"{name} must be (a whole number|at least 1), not"):
        Limits(**{"provider": "mine", "max_batch_size": 1, name: value})  # type: ignore[arg-type]


def test_limits_cannot_be_changed() -> None:
    """Limits cannot be changed, because all objects of a provider share them."""
    with pytest.raises(AttributeError):
        OPENAI.max_batch_size = 1  # type: ignore[misc]


@given(
    st.none() | st.integers(1, 400_000),
    st.none() | st.integers(1, 400_000),
    st.none() | st.integers(1, 400_000),
    st.none() | st.integers(1, 400_000),
)
def test_a_text_always_fits_into_a_request(
    request: int | None, text: int | None, new_request: int | None, new_text: int | None
) -> None:
    """However limits are set and overridden, a text's limit never exceeds its request's limit."""
    limits = Limits(
        provider="mine",
        max_batch_size=1,
        max_tokens_per_request=request,
        max_tokens_per_input=text,
    ).override(max_tokens_per_request=new_request, max_tokens_per_input=new_text)
    if limits.max_tokens_per_request is not None and limits.max_tokens_per_input is not None:
        assert limits.max_tokens_per_input <= limits.max_tokens_per_request


def test_a_smaller_request_lowers_the_limit_of_a_text() -> None:
    """A limit of 4,096 tokens a request lowers the limit of a text to the same value."""
    limits = OPENAI.override(max_tokens_per_request=4096)
    assert limits.max_tokens_per_input == 4096


@pytest.mark.parametrize(
    ("url", "is_hosted"),
    [
        ("https://api.openai.com/v1", True),
        ("https://eu.api.openai.com/v1/", True),
        ("https://mine.openai.azure.com/openai/deployments/x", True),
        ("https://mine.services.ai.azure.com/openai/v1/", True),
        ("https://mine.openai.azure.us/openai/v1/", True),
        ("https://vm.westeurope.cloudapp.azure.com/v1", False),
        ("https://mine.azurewebsites.net/v1", False),
        ("https://api.openai.com.example.org/v1", False),
        ("https://notapi.openai.com.evil/v1", False),
        ("http://localhost:8000/v1", False),
        ("", False),
    ],
)
def test_a_server_on_a_rented_machine_is_not_openai(url: str, is_hosted: bool) -> None:
    """Only the hosts of OpenAI and Azure OpenAI count as hosted by OpenAI, not rented machines.

    These accept many requests from the start.
    """
    assert is_hosted_by_openai(url) is is_hosted


@pytest.mark.parametrize("turn", [1, -1])
def test_several_deployments_have_the_limits_that_hold_at_each(turn: int) -> None:
    """Several deployments share the strictest limits, whatever their order.

    That means few first requests, the larger charge, and no larger option.
    """
    small = Limits(provider="small", max_batch_size=10, bytes_per_token=2)
    limits = common([OPENAI, AZURE, small][::turn])
    assert limits.first_requests == min(AZURE.first_requests, small.first_requests)
    assert limits.max_batch_size == 10
    assert limits.bytes_per_token == 2
    assert limits.strict
    assert not common([small, UNKNOWN]).strict
