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
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from claudedo.errors import StorageError, TooLargeError, UsageError
from claudedo.model import MOST_FILES, Attachment, Task, new_id, now, stamp
from claudedo.settings import make_private
from claudedo_worker.store import Store

LONGEST_NAME = 200  # bytes; file systems take 255
UNUSED = timedelta(days=1)
"""How long bytes are left alone that no message carries: what is on its way needs them."""

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
        self.limit = limit
        self._held: Counter[str] = Counter()  # contents that are kept, and perhaps not recorded yet
        self._changing = asyncio.Lock()

    @asynccontextmanager
    async def keep(
        self, chunks: AsyncIterable[bytes], *, filename: str, mime_type: str | None
    ) -> AsyncIterator[Content]:
        """Keep bytes as they come. They stay once `record` was called for them inside.

        Raises `UsageError` for a name or a type that is none, `TooLargeError`, and `StorageError`
        when they cannot be written.
        """
        name = check_filename(filename)
        kind = check_type(mime_type, name)
        try:
            digest, size = await self._keep(chunks)
        except OSError as error:
            raise StorageError(f"The file {name} cannot be kept: {error.strerror}.") from error
        try:
            yield Content(filename=name, mime_type=kind, size=size, sha256=digest)
        finally:
            self._held[digest] -= 1
            await self._tidy(digest)

    @asynccontextmanager
    async def keep_encoded(self, given: Sequence[Any]) -> AsyncIterator[list[Content]]:
        """The same for all of `{"filename", "mimeType", "data"}` of an MCP tool; base64."""
        if len(given) > MOST_FILES:
            raise UsageError(f"A message carries at most {MOST_FILES} files.")
        decoded = [self._decoded(one) for one in given]
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(
                    self.keep(_at_once(data), filename=name, mime_type=kind)
                )
                for name, kind, data in decoded
            ]

    def _decoded(self, given: Any) -> tuple[str, str | None, bytes]:
        if not isinstance(given, dict) or not isinstance(given.get("filename"), str):
            raise UsageError("Each attachment needs `filename`, `mimeType` and `data` (base64).")
        kind, text = given.get("mimeType"), given.get("data")
        name = check_filename(given["filename"])
        if not isinstance(kind, str | None) or not isinstance(text, str):
            raise UsageError(f"`mimeType` and `data` of {name!r} must be texts.")
        check_type(kind, name)
        if len(text) // 4 * 3 > self.limit + 3:
            raise self._too_large(name)
        try:
            return name, kind, base64.b64decode(text, validate=True)
        except (ValueError, binascii.Error) as error:
            raise UsageError(f"`data` of {name!r} is not base64: {error}.") from error

    def check_size(self, size: int, filename: str) -> None:
        """Raise `TooLargeError` for a size that is announced and will not be taken."""
        if size > self.limit:
            raise self._too_large(check_filename(filename))

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
        return self._place(attachment.sha256)

    async def read(self, attachment: Attachment) -> bytes:
        """All bytes. Raises `StorageError` if they are gone."""
        try:
            return await asyncio.to_thread(self.path(attachment).read_bytes)
        except OSError as error:
            raise StorageError(
                f"The bytes of {attachment.filename} cannot be read: {error.strerror}."
            ) from error

    async def forget(self, attachments: Iterable[Attachment]) -> None:
        """Remove the bytes of files that are gone, unless another file has the same."""
        for digest in {attachment.sha256 for attachment in attachments}:
            await self._tidy(digest)

    async def sweep(self) -> None:
        """Remove what nothing refers to any more: uploads never sent, drafts of a killed worker."""
        before = datetime.now(UTC) - UNUSED
        await self._store.forget_uncarried(stamp(before))
        for path in await asyncio.to_thread(_older, self._folder, before.timestamp()):
            if path.parent == self._folder:
                path.unlink(missing_ok=True)
            else:
                await self._tidy(path.name)

    async def _tidy(self, digest: str) -> None:
        """Remove bytes that no file has. Nobody can begin to keep the same meanwhile."""
        async with self._changing:
            if self._held[digest] > 0:
                return
            del self._held[digest]
            if not await self._store.content_used(digest):
                self._place(digest).unlink(missing_ok=True)

    def _place(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest

    async def _keep(self, chunks: AsyncIterable[bytes]) -> tuple[str, int]:
        make_private(self._folder)
        draft = self._folder / f"draft-{secrets.token_hex(8)}"
        digest, size = hashlib.sha256(), 0
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as f:
                async for chunk in chunks:
                    size += len(chunk)
                    if size > self.limit:
                        raise self._too_large()
                    digest.update(chunk)
                    await asyncio.to_thread(f.write, chunk)
                f.flush()
                await asyncio.to_thread(os.fsync, f.fileno())
            name = digest.hexdigest()
            async with self._changing:
                make_private(self._place(name).parent)
                draft.rename(self._place(name))
                self._held[name] += 1
        finally:
            draft.unlink(missing_ok=True)
        await asyncio.to_thread(_settle, self._place(name).parent)
        return name, size

    def _too_large(self, name: str = "The file") -> TooLargeError:
        return TooLargeError(
            f"{name} is larger than {self.limit / 2**20:g} MiB (`attachment_limit`)."
        )


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


def _older(folder: Path, moment: float) -> list[Path]:
    """The files in a folder, and in those in it, that were not changed since a moment."""
    found = [path for path in folder.glob("**/*") if path.is_file() and not path.is_symlink()]
    return [path for path in found if path.stat().st_mtime < moment]


def _settle(folder: Path) -> None:
    """Have the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def _at_once(data: bytes) -> AsyncIterator[bytes]:
    yield data
