"""The package's own types for requests to a simulated server and its replies."""

from langchain_batch_embed.sending.rehearsal import Reply, Request

__all__ = ["Reply", "Request"]
