"""Decides when an ingest gives up: after a run of failures that the documents do not cause."""

__all__ = ["Stop", "Streak"]

FATAL = 8
"""After this many documents in a row are refused because of the account, the table or the vector
width, the cause is not a policy on individual rows."""

FATAL_AT_FIRST = 2
"""The same number while nothing has been stored yet."""

DOCUMENTS = 256
"""Fewer refused documents in a row than this may come from one bad file, for example one whose
every page holds a character that the store does not accept."""

BATCHES = 3
"""Give up after this many batches in a row with nothing stored and `DOCUMENTS` failures."""

MANY = 1024
"""Give up after this many refused documents in a row, in whichever batches they were. Finding each
one costs two calls to the store."""


class Stop(Exception):  # noqa: N818  # not an error, but how an ingest ends
    """Raised when nothing more can be written.

    Args:
        why: the reason, for the error message.
        cause: the error of the store or of the embedding.
    """

    def __init__(self, why: str, cause: BaseException) -> None:
        super().__init__(why)
        self.why = why
        self.cause = cause


class Streak:
    """Counts the documents that failed since a document was last stored."""

    def __init__(self) -> None:
        self.documents = 0
        self._batches = 0
        self._fatal = 0
        self._enough = FATAL_AT_FIRST

    def stored(self) -> None:
        """Record that documents were stored."""
        self.documents = self._batches = self._fatal = 0
        self._enough = FATAL

    def failed(self, *, fatal: bool = False) -> None:
        """Record one document that failed.

        Args:
            fatal: whether the reason should affect all documents.
        """
        self.documents += 1
        self._fatal = self._fatal + 1 if fatal else 0

    def batch_failed(self) -> None:
        """Record that no document of a whole batch was stored."""
        self._batches += 1

    @property
    def is_hopeless(self) -> bool:
        """Whether something other than the documents causes the failures."""
        if self._fatal >= self._enough or self.documents >= MANY:
            return True
        return self.documents >= DOCUMENTS and self._batches >= BATCHES
