"""Limits: each provider is recognised by its class's name, and options stay within reason."""

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
    """Return an object whose class has the first name, and its bases the others."""
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
    """Each known class has its provider's limits, though no provider's package is imported."""
    limits = limits_of(instance_of(name))
    assert (
        limits.max_batch_size,
        limits.max_tokens_per_request,
        limits.max_tokens_per_input,
        limits.max_workers,
    ) == (texts, tokens, tokens_per_text, workers)


def test_a_subclass_has_the_limits_of_its_base() -> None:
    """A user's own subclass is recognised however deep it is, and whatever its name is."""
    assert limits_of(instance_of("Mine", "Ours", "CohereEmbeddings")).provider == "Cohere"


def test_the_nearest_known_class_counts() -> None:
    """Azure's class is a subclass of OpenAI's, and is still told apart."""
    limits = limits_of(instance_of("Mine", "AzureOpenAIEmbeddings", "OpenAIEmbeddings"))
    assert limits.provider == "Azure OpenAI"


def test_an_unknown_class_has_careful_limits() -> None:
    """A class that nobody knows gets 100 texts a request, and may be told to take more."""
    limits = limits_of(DeterministicFakeEmbedding(size=3))
    assert (limits.provider, limits.max_batch_size, limits.max_tokens_per_request) == (
        "unknown",
        100,
        None,
    )
    assert limits.override(max_batch_size=5000).max_batch_size == 5000


def test_only_openai_refuses_empty_texts() -> None:
    """Empty texts are refused before they are sent where the provider is known to refuse them."""
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
    """An option that was not given leaves the provider's limit as it is."""
    assert OPENAI.override(max_batch_size=None, max_workers=None) == OPENAI


def test_an_option_takes_the_place_of_a_limit() -> None:
    """What the user says counts, and all else stays."""
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
    """An option above what OpenAI takes is an error at once that names the limit and the way out.

    It would be refused with every request otherwise.
    """
    with pytest.raises(OptionError) as caught:
        OPENAI.override(**{option: value})
    assert str(caught.value) == (
        f"{option}={value:,} is more than OpenAI takes; use {most} or fewer, or describe a "
        "server that takes more with limits=Limits(...)"
    )


@pytest.mark.parametrize("option", ["max_batch_size", "max_tokens_per_request"])
def test_the_providers_own_limit_may_be_asked_for(option: str) -> None:
    """Exactly the provider's limit is no mistake."""
    assert OPENAI.override(**{option: getattr(OPENAI, option)}) == OPENAI


def test_more_workers_than_the_default_may_be_asked_for() -> None:
    """How many requests are in flight is the user's choice: no provider refuses it."""
    assert OPENAI.override(max_workers=500).max_workers == 500


def test_a_server_that_is_not_strict_may_get_more() -> None:
    """Where the limit is only a default, a larger option is taken."""
    assert limits_of(instance_of("CohereEmbeddings")).override(max_batch_size=960)


def test_an_unknown_limit_is_refused() -> None:
    """A limit that does not exist is an error that says which there are."""
    with pytest.raises(OptionError, match=r"max_batches.*it has.*max_batch_size"):
        OPENAI.override(max_batches=3)


@pytest.mark.parametrize("value", [0, -1, 2.5, "3", True])
@pytest.mark.parametrize(
    "name", ["max_batch_size", "max_tokens_per_request", "max_tokens_per_input", "max_workers"]
)
def test_a_limit_is_a_whole_number_of_at_least_one(name: str, value: object) -> None:
    """Limits under which nothing could be sent are refused when they are made."""
    with pytest.raises(OptionError, match=rf"{name} must be (a whole number|at least 1), not"):
        Limits(**{"provider": "mine", "max_batch_size": 1, name: value})  # type: ignore[arg-type]


def test_limits_cannot_be_changed() -> None:
    """The limits of a provider are shared by all objects, so nobody may write to them."""
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
    """However limits are set and overridden, a text's own limit is not above its request's."""
    limits = Limits(
        provider="mine",
        max_batch_size=1,
        max_tokens_per_request=request,
        max_tokens_per_input=text,
    ).override(max_tokens_per_request=new_request, max_tokens_per_input=new_text)
    if limits.max_tokens_per_request is not None and limits.max_tokens_per_input is not None:
        assert limits.max_tokens_per_input <= limits.max_tokens_per_request


def test_a_smaller_request_lowers_the_limit_of_a_text() -> None:
    """With a budget of 4,096 tokens a request, a text of 8,191 can no longer be sent whole."""
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
    """Only OpenAI's own hosts and those of Azure OpenAI take many requests from the start."""
    assert is_hosted_by_openai(url) is is_hosted


@pytest.mark.parametrize("turn", [1, -1])
def test_several_deployments_have_the_limits_that_hold_at_each(turn: int) -> None:
    """Whichever comes first: few first requests, the larger charge, and no larger option."""
    small = Limits(provider="small", max_batch_size=10, bytes_per_token=2)
    limits = common([OPENAI, AZURE, small][::turn])
    assert limits.first_requests == min(AZURE.first_requests, small.first_requests)
    assert limits.max_batch_size == 10
    assert limits.bytes_per_token == 2
    assert limits.strict
    assert not common([small, UNKNOWN]).strict
