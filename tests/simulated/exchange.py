"""What a driver hands to a simulated server, and what it gets back: the package's own."""

from langchain_batch_embed.sending.rehearsal import Reply, Request

__all__ = ["Reply", "Request"]
