"""The Batch API over HTTP, called with the wrapped object's OpenAI SDK client."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

from langchain_batch_embed.batch_api.decisions import BatchView
from langchain_batch_embed.batch_api.faults import Fault
from langchain_batch_embed.batch_api.files import URL
from langchain_batch_embed.errors import OptionError, ResponseError
from langchain_batch_embed.pacing.error_reading import read_error

if TYPE_CHECKING:  # a wrapped OpenAIEmbeddings has imported the SDK; nothing else needs it
    import openai

__all__ = ["BatchService", "faults_of", "is_doubtful", "is_gone"]

INTENT = "langchain_batch_embed"
"""The key in a batch's metadata that holds the intent by which the batch is recognised."""

_TIMEOUT = 120.0
"""Timeout in seconds of a call, and of each chunk of a downloaded file."""

_NO_API = "the answer did not come from the Batch API; it may be the page of a proxy"

_PAGE = 100
_FILES_LOOKED_AT = 10_000
_NOT_FOUND = 404
_NO_SUCH_ADDRESS = frozenset({404, 405, 501})
_DOUBTFUL = frozenset({408, 409, 425, 499})


class BatchService:
    """The files and batches of one account.

    Every method raises what the SDK raises. Each request is sent once, because a batch that is
    created twice is paid for twice.

    Args:
        client: the SDK's client, set not to retry.
        address: the server's name in messages.
    """

    def __init__(self, client: "openai.OpenAI", address: str) -> None:
        self._client = client
        self._address = address

    def newest(self) -> str:
        """Return the id of the account's newest batch, or "" if there is none.

        Raises:
            OptionError: the server has no Batch API.
        """
        data: list[Any] | None
        try:
            with _understood():
                page: Any = self._client.batches.list(limit=1, timeout=_TIMEOUT)
                data = list(page.data)
        except ResponseError:  # some gateways answer any address with a web page
            data = None
        except Exception as error:
            if getattr(error, "status_code", None) in _NO_SUCH_ADDRESS:
                raise OptionError(self._has_none()) from error
            raise
        if data is None:
            # Raise outside the `except` block, so that the error has no cause that looks temporary.
            raise OptionError(self._has_none())
        return str(data[0].id) if data else ""

    def upload(self, name: str, content: bytes) -> str:
        """Upload a file, and return its id."""
        with _understood():
            made = self._client.files.create(
                file=(name, content, "application/jsonl"), purpose="batch", timeout=_TIMEOUT
            )
            return _id_of(made)

    def find_file(self, name: str, octets: int) -> str | None:
        """Return the id of the file with this name and size, or `None` if there is none."""
        with _understood():
            files = self._client.files.list(purpose="batch", order="desc", timeout=_TIMEOUT)
            for file in islice(files, _FILES_LOOKED_AT):
                if file.filename == name and file.bytes == octets:
                    return file.id
        return None

    def create(self, file_id: str, intent: str) -> BatchView:
        """Create a batch whose metadata holds this intent."""
        with _understood():
            batch = self._client.batches.create(
                input_file_id=file_id,
                endpoint=URL,
                completion_window="24h",
                metadata={INTENT: intent},
                timeout=_TIMEOUT,
            )
            return _view(batch)

    def find(self, intent: str, anchor: str | None) -> BatchView | None:
        """Return the batch with this intent, or `None` if there is none.

        Args:
            intent: the intent in the batch's metadata.
            anchor: a batch that is older; the search stops at the page that lists it.
        """
        with _understood():
            page: Any = self._client.batches.list(limit=_PAGE, timeout=_TIMEOUT)
            while True:
                for batch in page.data:
                    if isinstance(batch.metadata, Mapping) and batch.metadata.get(INTENT) == intent:
                        return _view(batch)
                if any(batch.id == anchor for batch in page.data) or not page.has_next_page():
                    return None
                page = page.get_next_page()

    def retrieve(self, batch_id: str) -> BatchView:
        """Return the current state of a batch."""
        with _understood():
            return _view(self._client.batches.retrieve(batch_id, timeout=_TIMEOUT))

    def cancel(self, batch_id: str) -> None:
        """Ask the server to cancel a batch; a batch that has ended stays as it is."""
        try:
            self._client.batches.cancel(batch_id, timeout=_TIMEOUT)
        except Exception as error:
            status = getattr(error, "status_code", None)
            if status not in (400, 409):  # the batch has ended already
                raise

    def lines(self, file_id: str) -> Iterator[bytes]:
        """Yield the lines of a file as it downloads, so that only one is in memory at a time.

        Raises:
            ResponseError: the answer is a web page, perhaps of a proxy. The file may still exist,
                so its texts are not paid for again.
        """
        pieces: list[bytes] = []
        content = self._client.files.with_streaming_response.content
        with content(file_id, timeout=_TIMEOUT) as response:
            beginning = b""
            for chunk in response.iter_bytes():
                beginning = beginning or chunk.lstrip()[:1]
                if beginning == b"<":
                    raise ResponseError(_NO_API)
                # Split at newlines only, because other line ends may be part of a string.
                *whole, rest = chunk.split(b"\n")
                for end in whole:
                    pieces.append(end)
                    line = b"".join(pieces)
                    pieces.clear()
                    if line.strip():
                        yield line
                pieces.append(rest)
        line = b"".join(pieces)
        if line.strip():
            yield line

    def delete(self, file_id: str) -> None:
        """Delete a file; a file that is already gone is not an error."""
        try:
            self._client.files.delete(file_id, timeout=_TIMEOUT)
        except Exception as error:
            if not is_gone(error):
                raise

    def _has_none(self) -> str:
        return (
            f"the server at {self._address} has no Batch API (GET /batches fails); nothing was "
            "uploaded. Use embed_documents, which needs none"
        )


def is_doubtful(error: BaseException) -> bool:
    """Return whether the server may have carried out a request that failed."""
    status = getattr(error, "status_code", None)
    return not (isinstance(status, int) and 400 <= status < 500 and status not in _DOUBTFUL)  # noqa: PLR2004


def is_gone(error: BaseException) -> bool:
    """Return whether the server no longer has the requested file or batch."""
    return getattr(error, "status_code", None) == _NOT_FOUND


def faults_of(error: BaseException) -> tuple[Fault, ...]:
    """Return the reasons for a refusal, in the form that a failed batch lists them."""
    evidence = read_error(error, ())
    code, param = next(iter(evidence.codes), None), next(iter(evidence.params), None)
    return (Fault(code=code, line=None, words=evidence.text, param=param),)


@contextmanager
def _understood() -> Iterator[None]:
    """Treat an answer of the wrong shape as a failed request, because the SDK accepts any shape.

    Raises:
        ResponseError: the answer does not have the shape of the Batch API's.
    """
    try:
        yield
    except (AttributeError, TypeError) as error:
        raise ResponseError(_NO_API) from error


def _id_of(made: Any) -> str:
    if not isinstance(made.id, str) or not made.id:
        raise ResponseError(_NO_API)
    return made.id


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _view(batch: Any) -> BatchView:
    counts = batch.request_counts
    total = getattr(counts, "total", 0) or 0
    completed = getattr(counts, "completed", 0) or 0
    done = completed + (getattr(counts, "failed", 0) or 0)
    data = getattr(batch.errors, "data", None) or []
    return BatchView(
        id=_id_of(batch),
        status=batch.status,
        answered=min(1.0, done / total) if total else 0.0,
        completed=completed,
        output_id=batch.output_file_id,
        error_id=batch.error_file_id,
        faults=tuple(
            Fault(
                code=_text(fault.code) or None,
                line=fault.line if isinstance(fault.line, int) else None,
                words=_text(fault.message),
                param=_text(fault.param) or None,
            )
            for fault in data
        ),
    )
