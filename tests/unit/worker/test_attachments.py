"""Files that messages carry: kept once, whole, under harmless names, and no longer than needed."""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from claudedo.errors import TooLargeError, UsageError
from claudedo.model import MOST_FILES, USER, Attachment, Task
from claudedo_worker.attachments import LONGEST_NAME, Attachments, check_filename, check_type
from claudedo_worker.database import Database
from claudedo_worker.store import Store
from tests.support import services
from tests.support.records import a_message, a_task

pytestmark = pytest.mark.anyio


@dataclass
class Shelf:
    """A task, and the folder that its files are kept in."""

    store: Store
    task: Task
    files: Attachments
    folder: Path

    def kept(self) -> list[str]:
        """The names of all files in the folder."""
        return sorted(path.name for path in self.folder.glob("**/*") if path.is_file())

    async def give(self, data: bytes, name: str = "a.txt") -> Attachment:
        async with self.files.keep(at_once(data), filename=name, mime_type=None) as content:
            return await self.files.record(content, self.task, USER)

    async def send(self, *files: Attachment) -> str:
        message = a_message(self.task, "Look.")
        await self.store.add_message(message, message.id, [file.id for file in files])
        return message.id


async def at_once(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@pytest.fixture
async def shelf(tmp_path: Path) -> AsyncIterator[Shelf]:
    database = await Database.open(tmp_path / "db")
    store = Store(database, lambda event: None)
    task = await store.add_task(a_task(await store.workspace_for("/repository", "shop")))
    yield Shelf(store, task, services.attachments(store, tmp_path), tmp_path / "attachments")
    await database.close()


async def test_the_same_bytes_are_kept_once_and_read_back_for_each(shelf: Shelf) -> None:
    one, other = await shelf.give(b"\0\xff", "one.bin"), await shelf.give(b"\0\xff", "other.txt")

    assert [one.filename, one.mime_type, one.size] == ["one.bin", "application/octet-stream", 2]
    assert other.mime_type == "text/plain"
    assert await shelf.files.read(one) == await shelf.files.read(other) == b"\0\xff"
    assert shelf.kept() == [one.sha256]
    assert shelf.files.path(one).stat().st_mode & 0o777 == 0o600
    assert shelf.folder.stat().st_mode & 0o777 == 0o700


async def test_what_is_not_recorded_leaves_nothing(shelf: Shelf) -> None:
    with pytest.raises(RuntimeError):
        async with shelf.files.keep(at_once(b"x"), filename="a", mime_type=None):
            assert len(shelf.kept()) == 1
            raise RuntimeError
    with pytest.raises(TooLargeError, match="larger than"):
        await shelf.give(b"x" * (services.LIMIT + 1))
    for name, kind in (("..", None), ("a", "text")):
        with pytest.raises(UsageError):
            async with shelf.files.keep(at_once(b"x"), filename=name, mime_type=kind):
                raise AssertionError("it was kept")

    assert shelf.kept() == []


async def test_a_file_that_goes_on_without_end_is_cut_off(shelf: Shelf) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 100
            yield b"x" * 100

    with pytest.raises(TooLargeError):
        async with shelf.files.keep(endless(), filename="a", mime_type=None):
            raise AssertionError("it was kept")
    assert taken <= services.LIMIT + 100
    assert shelf.kept() == []


@pytest.mark.parametrize(
    "given",
    [
        "a file",
        {"data": "eA=="},
        {"filename": 1, "data": "eA=="},
        {"filename": "a", "data": None},
        {"filename": "a", "data": "eA"},
        {"filename": "a", "data": "e A=="},
        {"filename": "a", "data": "\ud800"},
        {"filename": "a", "mimeType": 5, "data": "eA=="},
        {"filename": "a", "mimeType": "text/html; charset=x\r\nSet-Cookie: a", "data": "eA=="},
        {"filename": "\ud800", "data": "eA=="},
        {"filename": "a", "data": base64.b64encode(b"x" * (services.LIMIT + 1)).decode()},
    ],
)
async def test_of_several_files_none_is_kept_if_one_is_bad(shelf: Shelf, given: Any) -> None:
    good = {"filename": "good.txt", "mimeType": "text/plain", "data": "eA=="}
    with pytest.raises(UsageError) as refused:
        async with shelf.files.keep_encoded([good, given]):
            raise AssertionError("it was kept")

    assert len(str(refused.value)) > 20
    assert shelf.kept() == []


async def test_a_message_carries_so_many_files_at_most(shelf: Shelf) -> None:
    good = {"filename": "good.txt", "data": ""}
    async with shelf.files.keep_encoded([good] * MOST_FILES) as contents:
        assert len(contents) == MOST_FILES
    with pytest.raises(UsageError, match="at most 20"):
        async with shelf.files.keep_encoded([good] * (MOST_FILES + 1)):
            raise AssertionError("it was kept")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("plan.pdf", "plan.pdf"),
        ("/etc/passwd", "passwd"),
        ("../../../claudedo.db", "claudedo.db"),
        ("..\\..\\evil.exe", "evil.exe"),
        ("C:\\temp\\x.txt", "x.txt"),
        ('<img src=x onerror="alert(1)">.png', '<img src=x onerror="alert(1)">.png'),
        ("a\r\nSet-Cookie: b=c.txt", "aSet-Cookie: b=c.txt"),
        ("photo\u202egpj.exe", "photogpj.exe"),
        ("nul\0byte", "nulbyte"),
        (" spaces around ", "spaces around"),
        ("Übersicht ✓.md", "Übersicht ✓.md"),
    ],
)
def test_a_name_is_its_last_part_without_what_could_do_harm(given: str, name: str) -> None:
    assert check_filename(given) == name


@pytest.mark.parametrize("given", ["", ".", "..", "a/", "a/..", "\0", "x" * (LONGEST_NAME + 1)])
def test_what_is_no_name_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match="no file name"):
        check_filename(given)


def test_a_type_is_as_given_else_as_the_name_tells() -> None:
    assert check_type("Text/HTML", "a.png") == "text/html"
    assert check_type(None, "a.png") == "image/png"
    assert check_type("", "a.unheard") == "application/octet-stream"


async def test_bytes_go_with_the_last_task_that_has_them(shelf: Shelf) -> None:
    workspace = await shelf.store.workspace(shelf.task.workspace_id)
    other = await shelf.store.add_task(a_task(workspace, "other"))
    file = await shelf.give(b"shared")
    await shelf.send(file)
    async with shelf.files.keep(at_once(b"shared"), filename="b", mime_type=None) as content:
        await shelf.files.record(content, other, USER)

    await shelf.files.forget(await shelf.store.remove_task(shelf.task))
    assert shelf.kept() == [file.sha256]
    await shelf.files.forget(await shelf.store.remove_task(other))
    assert shelf.kept() == []


async def test_bytes_that_somebody_is_about_to_record_are_not_removed(shelf: Shelf) -> None:
    file = await shelf.give(b"both")
    async with shelf.files.keep(at_once(b"both"), filename="b", mime_type=None) as content:
        await shelf.files.forget(await shelf.store.remove_task(shelf.task))
        assert shelf.kept() == [file.sha256]
        shelf.task = await shelf.store.add_task(shelf.task)
        again = await shelf.files.record(content, shelf.task, USER)

    assert await shelf.files.read(again) == b"both"


async def test_keeping_and_removing_at_once_never_loses_bytes_that_are_recorded(
    shelf: Shelf,
) -> None:
    workspace = await shelf.store.workspace(shelf.task.workspace_id)

    async def come_and_go(number: int) -> None:
        task = await shelf.store.add_task(a_task(workspace, f"task-{number}"))
        async with shelf.files.keep(at_once(b"same"), filename="a", mime_type=None) as content:
            file = await shelf.files.record(content, task, USER)
        assert await shelf.files.read(file) == b"same"
        await shelf.files.forget(await shelf.store.remove_task(task))

    for _ in range(10):
        await asyncio.gather(*(come_and_go(number) for number in range(8)))
    assert shelf.kept() == []


async def test_the_sweep_removes_what_nothing_refers_to_for_a_day(shelf: Shelf) -> None:
    sent, unsent = await shelf.give(b"sent"), await shelf.give(b"never sent")
    await shelf.send(sent)
    lost, fresh, draft = "ab" * 32, "cd" * 32, "draft-of-a-killed-worker"
    for name in (f"ab/{lost}", f"cd/{fresh}", draft):
        (shelf.folder / name).parent.mkdir(exist_ok=True)
        (shelf.folder / name).write_bytes(b"x")
    yesterday = time.time() - 86_400 - 60
    for path in (shelf.files.path(sent), shelf.folder / "ab" / lost, shelf.folder / draft):
        os.utime(path, (yesterday, yesterday))

    await shelf.files.sweep()
    assert shelf.kept() == sorted([sent.sha256, unsent.sha256, fresh])

    await shelf.store.forget_uncarried("9999")  # as if the upload were a day old
    os.utime(shelf.files.path(unsent), (yesterday, yesterday))
    await shelf.files.sweep()
    assert shelf.kept() == sorted([sent.sha256, fresh])
    assert await shelf.files.read(sent) == b"sent"


async def test_an_attachment_is_carried_once_and_only_by_who_gave_it(shelf: Shelf) -> None:
    file = await shelf.give(b"x")
    first = await shelf.send(file)

    message = await shelf.store.message(first)
    assert [carried.id for carried in message.attachments] == [file.id]
    for wrong in (file.id, "f_none"):
        again = a_message(shelf.task, "Look again.")
        with pytest.raises(Exception, match="no attachment"):
            await shelf.store.add_message(again, again.id, [wrong])
    assert len(await shelf.store.thread(shelf.task.id)) == 1
