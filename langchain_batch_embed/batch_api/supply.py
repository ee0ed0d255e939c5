"""Finds the texts of a part, uploads its file, and deletes the file at the end."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from langchain_batch_embed.batch_api.files import texts_in, written
from langchain_batch_embed.batch_api.packing import parted
from langchain_batch_embed.batch_api.records import Line, Part
from langchain_batch_embed.batch_api.service import is_gone
from langchain_batch_embed.batch_api.successors import Successors
from langchain_batch_embed.batch_api.tools import Tools, new_id

__all__ = ["Supply"]

logger = logging.getLogger(__name__)


class Supply:
    """Finds the texts of parts, and uploads their files.

    Args:
        tools: the store, the service and the other tools of a job.
        successors: moves lines into new parts.
        given: texts by their keys, for parts that have no file yet.
    """

    def __init__(self, tools: Tools, successors: Successors, given: Mapping[bytes, str]) -> None:
        self._tools = tools
        self._store = tools.store
        self._service = tools.service
        self._successors = successors
        self._given = given
        self._read: tuple[str, dict[bytes, str]] = "", {}  # id and texts of the last file read

    def upload(self, part: Part) -> Part | None:
        """Upload a part's file; return `None` if that is not possible.

        In that case either the part was closed and other parts have its lines, or its texts cannot
        be found.
        """
        if part.state == "uploading":
            file_id = self._service.find_file(part.file_name, part.octets)
            if file_id is not None:
                return self._store.save_part(replace(part, state="ready", file_id=file_id))
        lines = self._store.lines(part.id)
        texts = self.texts(part, lines)
        if texts is None:
            self._split_off(part, lines)
            return None
        content = b"".join(written(lines, texts, self._tools.body, empty=self._tools.empty))
        part = self._store.save_part(replace(part, state="uploading", octets=len(content)))
        file_id = self._service.upload(part.file_name, content)
        return self._store.save_part(replace(part, state="ready", file_id=file_id))

    def upload_again(self, part: Part) -> bool:
        """Move a part's lines into a new part without a file; return whether that is possible."""
        lines = self._store.lines(part.id)
        if self.texts(part, lines) is None:
            return False
        self._successors.renew(part, lines)
        return True

    def texts(self, part: Part, lines: Sequence[Line]) -> Mapping[bytes, str] | None:
        """Return the texts of a part's lines by their keys; `None` if some cannot be found."""
        wanted = {key for line in lines for key in line.keys}
        if wanted <= self._given.keys():
            return self._given
        file_id = part.file_id
        if file_id is None and part.source is not None:
            file_id = self._store.part(part.source).file_id
        if file_id is None:
            return None
        if self._read[0] != file_id or not wanted <= self._read[1].keys():
            try:
                rows = self._service.lines(file_id)
                found = dict(texts_in(rows, self._tools.space, wanted.__contains__))
            except Exception as error:
                if is_gone(error):
                    return None
                raise
            self._read = file_id, found
        return self._read[1] if wanted <= self._read[1].keys() else None

    def sweep(self) -> None:
        """Delete files that are no longer needed; a failure leaves the rest for a later sweep."""
        space = self._tools.space.digest
        self._store.release_files(space)
        for file_id in self._store.unneeded(space):
            try:
                self._service.delete(file_id)
            except Exception as error:  # noqa: BLE001  # whatever the SDK raises
                logger.debug("a file could not be deleted: %s", type(error).__name__)
                return
            self._store.forget_file(file_id)

    def _split_off(self, part: Part, lines: Sequence[Line]) -> None:
        """Split a part into the texts that the caller gave, if there are any, and the others."""
        here, missing = parted(lines, self._given.__contains__, name=new_id)
        if here:
            self._successors.succeed(part, [here, missing])
