"""When an ingest gives up: after failures in a row that the documents do not cause."""

__all__ = ["Stop", "Streak"]

FATAL = 8
"""After this many documents in a row are refused for the account, the table or the width, the cause
is not a policy about single rows."""

FATAL_AT_FIRST = 2
"""The same, where nothing has been stored yet."""

DOCUMENTS = 256
"""Fewer refused documents in a row than this count as one bad file, whose pages all hold, say, a
character that the store does not take."""

BATCHES = 3
"""Whole batches in a row without a document that was stored, together at least `DOCUMENTS`."""

MANY = 1024
"""Documents refused in a row, in any batches; finding each one costs two calls of the store."""


class Stop(Exception):  # noqa: N818  # not an error: how the ingest ends
    """Nothing more can be written.

    Args:
        why: for the message of the error.
        cause: the error of the store.
    """

    def __init__(self, why: str, cause: BaseException) -> None:
        super().__init__(why)
        self.why = why
        self.cause = cause


class Streak:
    """Counts documents that failed since one was last stored."""

    def __init__(self) -> None:
        self.documents = 0
        self._batches = 0
        self._fatal = 0
        self._enough = FATAL_AT_FIRST

    def stored(self) -> None:
        """Note that documents were stored."""
        self.documents = self._batches = self._fatal = 0
        self._enough = FATAL

    def failed(self, *, fatal: bool = False) -> None:
        """Note one document that failed.

        Args:
            fatal: for a reason that should concern all documents.
        """
        self.documents += 1
        self._fatal = self._fatal + 1 if fatal else 0

    def batch_failed(self) -> None:
        """Note that no document of a whole batch was stored."""
        self._batches += 1

    @property
    def is_hopeless(self) -> bool:
        """Whether something other than the documents is the cause."""
        if self._fatal >= self._enough or self.documents >= MANY:
            return True
        return self.documents >= DOCUMENTS and self._batches >= BATCHES
