"""Embeds Ray Data datasets; use `from langchain_batch_embed.ray import embed_dataset`."""

from langchain_batch_embed.ray.dataset import embed_dataset
from langchain_batch_embed.ray.totals import Totals

__all__ = ["Totals", "embed_dataset"]
