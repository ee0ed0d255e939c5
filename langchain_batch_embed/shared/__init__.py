"""A quota that many processes and machines share, kept on a Redis or Valkey server."""

from langchain_batch_embed.shared.lease import Lease
from langchain_batch_embed.shared.leaser import Leaser
from langchain_batch_embed.shared.quota import SharedQuota, open_ledger

__all__ = ["Lease", "Leaser", "SharedQuota", "open_ledger"]
