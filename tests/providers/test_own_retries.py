"""Retries and slices of a wrapped class are turned off in a copy, so one layer does both."""

from typing import Any

import pytest
from langchain_core.embeddings import Embeddings
from pydantic import BaseModel, ConfigDict, PrivateAttr

from langchain_batch_embed import (
    BatchEmbeddings,
)
from langchain_batch_embed.limits import limits_of
from langchain_batch_embed.providers.wrapped import WrappedProvider
from tests.providers.fakes import Plain, ProviderError, Service, fake
from tests.support import FakeClock, assert_right


class Retrying(Plain):
    """An `Embeddings` that makes `max_retries` attempts, counting the first, as tenacity does."""

    max_retries: int | None

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Send a request, and repeat it after an error."""
        for _ in range((self.max_retries or 1) - 1):
            try:
                return super().embed_documents(texts)
            except ProviderError:
                continue
        return super().embed_documents(texts)


class Slicing(Plain):
    """An `Embeddings` that cuts a call into requests of its own."""

    batch_size: int

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Send a request for each slice."""
        size = self.batch_size
        slices = [texts[i : i + size] for i in range(0, len(texts), size)]
        return [vector for part in slices for vector in super(Slicing, self).embed_documents(part)]


class Modelled(BaseModel, Embeddings):
    """A frozen pydantic class with a private client, like the providers' own."""

    model_config = ConfigDict(frozen=True)
    model: str = "embed-english-v3.0"
    max_retries: int = 3
    _service: Service = PrivateAttr()

    def __init__(self, service: Service, **options: Any) -> None:
        super().__init__(**options)
        self._service = service

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Send a request, and repeat it after an error."""
        return Retrying(self._service, max_retries=self.max_retries).embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        """Send a request, and repeat it after an error."""
        return self.embed_documents([text])[0]


class TestOneLayerRetries:
    """A class's own retries and slices do not multiply those of `BatchEmbeddings`."""

    @pytest.mark.parametrize(
        ("name", "theirs"),
        [
            ("CohereEmbeddings", 3),
            ("MistralAIEmbeddings", 5),
            ("VertexAIEmbeddings", 6),
            ("VoyageEmbeddings", 6),
        ],
    )
    def test_the_classes_own_retries_are_turned_off(self, name: str, theirs: int) -> None:
        """The class's own retries are turned off, so three failures count as three retries here."""
        error = ProviderError("overloaded", status_code=503)
        service = Service(script=[error] * 3)
        wrapped = fake(name, service, Retrying, max_retries=theirs, model="m")
        embeddings = BatchEmbeddings(wrapped, hedge=False, _clock=FakeClock())
        assert_right(embeddings.embed_numpy(["a"]), ["a"])
        assert embeddings.last_report is not None
        assert embeddings.last_report.retries == 3

    @pytest.mark.parametrize("name", ["VoyageAIEmbeddings", "VoyageEmbeddings"])
    def test_the_classes_own_slices_are_as_large_as_a_request(self, name: str) -> None:
        """A small `batch_size` of the class does not split a call into several requests."""
        service = Service()
        wrapped = fake(name, service, Slicing, batch_size=7, model="voyage-4")
        embeddings = BatchEmbeddings(wrapped, max_workers=1, hedge=False, _clock=FakeClock())
        embeddings.embed_numpy([f"section {i}" for i in range(500)])
        assert service.sizes == [500]

    def test_nvidias_slices_are_as_large_as_the_user_says(self) -> None:
        """NVIDIA's class, which would cut at 50, uses the user's `max_batch_size=200`."""
        wrapped = fake("NVIDIAEmbeddings", Service(), max_batch_size=50)
        provider = WrappedProvider(wrapped, limits=limits_of(wrapped).override(max_batch_size=200))
        assert vars(provider._embeddings)["max_batch_size"] == 200

    def test_the_users_own_object_stays_as_it_is(self) -> None:
        """Options are changed only on a copy, which shares the user's object's client."""
        service = Service()
        wrapped = fake("CohereEmbeddings", service, Retrying, max_retries=3)
        embeddings = BatchEmbeddings(wrapped)
        embeddings.embed_numpy(["a"])
        embeddings.embed_query("b")
        assert vars(wrapped) == {"service": service, "max_retries": 3}
        assert embeddings.embeddings is wrapped
        assert service.answered == ["a", "b"]

    def test_pydantic_classes_are_copied_too_even_frozen_ones(self) -> None:
        """Pydantic classes are copied too, even frozen ones with private attributes."""
        service = Service(script=[ProviderError("overloaded", status_code=503)] * 3)
        wrapped = type("CohereEmbeddings", (Modelled,), {"__module__": __name__})(service)
        embeddings = BatchEmbeddings(wrapped, hedge=False, _clock=FakeClock())
        assert_right(embeddings.embed_numpy(["a"]), ["a"])
        assert embeddings.last_report is not None
        assert (embeddings.last_report.retries, wrapped.max_retries) == (3, 3)

    def test_a_version_without_the_option_is_used_as_it_is(self) -> None:
        """An object that lacks the option gets no new one."""
        wrapped = fake("CohereEmbeddings", Service())
        assert WrappedProvider(wrapped, limits=limits_of(wrapped))._embeddings is wrapped

    def test_options_of_unknown_classes_are_left_alone(self) -> None:
        """Options of unknown classes are left alone, as their meaning is not known."""
        wrapped = fake("MyEmbeddings", Service(), Retrying, max_retries=3)
        assert WrappedProvider(wrapped, limits=limits_of(wrapped))._embeddings is wrapped

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("BedrockEmbeddings", 'config=Config(retries={"total_max_attempts": 1}'),
            ("CohereEmbeddings", "cohere SDK"),
            ("GoogleGenerativeAIEmbeddings", "20,000 tokens"),
            ("MistralAIEmbeddings", "16,000 tokens"),
        ],
    )
    def test_what_cannot_be_turned_off_is_logged(
        self, name: str, said: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The log says what a class still does by itself, and how to stop it if possible."""
        caplog.set_level("INFO", logger="langchain_batch_embed")
        BatchEmbeddings(fake(name, Service()))
        assert f"{name}: " in caplog.text
        assert said in caplog.text

    def test_what_is_changed_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        """The log names the options that were changed on the copy."""
        caplog.set_level("INFO", logger="langchain_batch_embed")
        BatchEmbeddings(fake("VertexAIEmbeddings", Service(), max_retries=6))
        assert "using a copy of the object with {'max_retries': 1}" in caplog.text
