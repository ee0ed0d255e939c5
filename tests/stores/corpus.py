"""Documents such that each query names exactly one of them."""

import itertools
import uuid

from langchain_core.documents import Document

__all__ = ["PLACES", "PLANTS", "QUERIES", "corpus", "text_about"]

PLANTS = (
    *("agave", "bamboo", "chestnut", "dandelion", "eucalyptus", "fennel", "hyacinth", "magnolia"),
    *("peppermint", "quince", "sunflower", "tamarind"),
)
PLACES = (
    *("Antwerp", "Bergen", "Córdoba", "Göteborg", "Helsinki", "Jönköping", "Kraków", "Lisbon"),
    *("Marseille", "Oslo"),
)

QUERIES = tuple(f"{plant} in {place}" for plant, place in zip(PLANTS, itertools.cycle(PLACES)))


def text_about(plant: str, place: str) -> str:
    """Return the text that `corpus` holds about a plant in a place."""
    return f"In the gardens of {place} the {plant} is watered every morning; 水をやる 🌱\nOnce."


def corpus(copies: int = 1) -> list[Document]:
    """Return a document for each plant in each place, 120 a copy and all of them different.

    Each has an id that is always the same, and its place and number as metadata.
    """
    triples = itertools.product(range(copies), PLANTS, PLACES)
    return [
        Document(
            id=str(uuid.uuid5(uuid.NAMESPACE_OID, str(number))),
            page_content=text_about(plant, place) + (f" Copy {copy}." if copy else ""),
            metadata={"number": number, "place": place},
        )
        for number, (copy, plant, place) in enumerate(triples)
    ]
