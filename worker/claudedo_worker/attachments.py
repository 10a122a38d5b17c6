"""Files that messages carry: bytes beside the database, each content once, named by its hash.

Takes bytes as they come and keeps them only when they are whole. Knows nothing of who may see
what; see `threads`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import mimetypes
import os
import re
import secrets
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claudedo.errors import StorageError, UsageError
from claudedo.model import Attachment, Task, new_id, now
from claudedo.settings import make_private
from claudedo_worker.store import Store

LONGEST_NAME = 200  # bytes; file systems take 255
_MIME = re.compile(r"[\w!#$&^.+-]{1,100}/[\w!#$&^.+-]{1,100}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


@dataclass(frozen=True, kw_only=True)
class Content:
    """Bytes that are kept, under the name and type that they were given with."""

    filename: str
    mime_type: str
    size: int
    sha256: str


class Attachments:
    """The files of one state directory."""

    def __init__(self, folder: Path, store: Store, limit: int) -> None:
        """`limit` is the largest size of one file, in bytes."""
        self._folder = folder
        self._store = store
        self._limit = limit

    async def keep(
        self, chunks: AsyncIterable[bytes], *, filename: str, mime_type: str | None
    ) -> Content:
        """Keep bytes as they come. They stay for good once `record` was called for them.

        Raises `UsageError` for a name or a type that is none and for a file that is too large,
        `StorageError` when it cannot be written.
        """
        name = check_filename(filename)
        kind = check_type(mime_type, name)
        try:
            digest, size = await self._keep(chunks)
        except OSError as error:
            raise StorageError(f"The file {name} cannot be kept: {error.strerror}.") from error
        return Content(filename=name, mime_type=kind, size=size, sha256=digest)

    async def keep_encoded(self, given: Any) -> Content:
        """The same for `{"filename", "mimeType", "data"}` of an MCP tool; `data` is base64."""
        if not isinstance(given, dict) or not isinstance(given.get("filename"), str):
            raise UsageError("Each attachment needs `filename`, `mimeType` and `data`.")
        mime_type, text = given.get("mimeType"), given.get("data")
        if not isinstance(mime_type, str | None) or not isinstance(text, str):
            raise UsageError(f"`mimeType` and `data` of {given['filename']!r} must be texts.")
        if len(text) * 3 // 4 > self._limit + 3:
            raise self._too_large(given["filename"])
        try:
            data = base64.b64decode(text, validate=True)
        except (ValueError, binascii.Error) as error:
            raise UsageError(f"`data` of {given['filename']!r} is not base64: {error}.") from error
        return await self.keep(_at_once(data), filename=given["filename"], mime_type=mime_type)

    async def record(self, content: Content, task: Task, party: str) -> Attachment:
        """Give kept bytes to the thread of `task`; a message of `party` is to carry them."""
        return await self._store.add_attachment(
            Attachment(
                id=new_id("f"),
                task_id=task.id,
                message_id=None,
                filename=content.filename,
                mime_type=content.mime_type,
                size=content.size,
                sha256=content.sha256,
                party=party,
                created_at=now(),
            )
        )

    def path(self, attachment: Attachment) -> Path:
        """Where the bytes lie."""
        return self._folder / attachment.sha256[:2] / attachment.sha256

    async def read(self, attachment: Attachment) -> bytes:
        """All bytes. Raises `StorageError` if they are gone."""
        try:
            return await asyncio.to_thread(self.path(attachment).read_bytes)
        except OSError as error:
            raise StorageError(
                f"The bytes of {attachment.filename} cannot be read: {error.strerror}."
            ) from error

    async def forget(self, attachments: list[Attachment]) -> None:
        """Remove the bytes of files that are gone, unless another file has the same."""
        for attachment in attachments:
            if not await self._store.content_used(attachment.sha256):
                await asyncio.to_thread(self.path(attachment).unlink, missing_ok=True)

    async def _keep(self, chunks: AsyncIterable[bytes]) -> tuple[str, int]:
        make_private(self._folder)
        draft = self._folder / f"draft-{secrets.token_hex(8)}"
        digest, size = hashlib.sha256(), 0
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as f:
                async for chunk in chunks:
                    size += len(chunk)
                    if size > self._limit:
                        raise self._too_large()
                    digest.update(chunk)
                    await asyncio.to_thread(f.write, chunk)
                f.flush()
                await asyncio.to_thread(os.fsync, f.fileno())
            name = digest.hexdigest()
            draft.rename(make_private(self._folder / name[:2]) / name)
        finally:
            draft.unlink(missing_ok=True)
        return name, size

    def _too_large(self, name: str = "The file") -> UsageError:
        return UsageError(f"{name} is larger than {self._limit / 2**20:g} MiB.")


def check_filename(name: str) -> str:
    """The last part of a name that a client gave, if it can be a file's name anywhere.

    Raises `UsageError` otherwise.
    """
    last = _CONTROL.sub("", name).replace("\\", "/").rpartition("/")[2].strip()
    try:
        size = len(last.encode())
    except UnicodeEncodeError as error:
        raise UsageError(f"{name!r} is no file name: it is not valid Unicode.") from error
    if last in ("", ".", "..") or size > LONGEST_NAME:
        raise UsageError(f"{name[:80]!r} is no file name.")
    return last


def check_type(mime_type: str | None, name: str) -> str:
    """A MIME type as it was given, else as the name tells. Raises `UsageError` for none."""
    if mime_type:
        if not _MIME.fullmatch(mime_type):
            raise UsageError(f"{mime_type[:80]!r} is no MIME type.")
        return mime_type.lower()
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


async def _at_once(data: bytes) -> AsyncIterator[bytes]:
    yield data
