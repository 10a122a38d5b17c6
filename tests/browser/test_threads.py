"""Threads on the page: files both ways, status moves, tasks that are made and answered there."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Locator, Page, expect

from tests.browser.desk import FORBIDDEN, HOSTILE, Desk
from tests.browser.fake_worker import attachment, session

pytestmark = [pytest.mark.anyio, pytest.mark.browser]

DROP = """
(view) => {
  const data = new DataTransfer();
  data.items.add(new File(["dropped"], "<b>drop</b>.html", { type: "text/html" }));
  const how = { dataTransfer: data, bubbles: true, cancelable: true };
  return ["dragover", "drop"].map((type) => view.dispatchEvent(new DragEvent(type, how)));
}
"""


def box(page: Page) -> Locator:
    return page.locator("#composer-text")


async def choose(page: Page, *files: Any) -> None:
    async with page.expect_file_chooser() as chosen:
        await page.get_by_role("button", name="Attach", exact=True).click()
    await (await chosen.value).set_files(list(files))


def a_file(name: str, content: bytes) -> dict[str, Any]:
    return {"name": name, "mimeType": "text/plain", "buffer": content}


async def test_files_go_up_with_a_message_and_come_down_as_downloads(
    desk: Desk, tmp_path: Path
) -> None:
    task = desk.worker.add_task("api")
    page = await desk.open(task)
    await choose(page, a_file("notes.txt", b"notes"), a_file("other.txt", b"other"))
    await page.get_by_role("main").evaluate(DROP)
    listed = page.get_by_role("list", name="Files to send").get_by_role("listitem")
    await expect(listed).to_have_count(3)
    await expect(page.locator("progress")).to_have_count(0)
    await page.get_by_role("button", name="Do not attach other.txt").click()
    await page.reload()
    await expect(listed).to_have_count(2)
    await page.get_by_role("button", name="Send").click()
    await expect(listed).to_have_count(0)
    await expect(page.locator(".message .body")).to_have_text("notes.txt, <b>drop</b>.html")
    link = page.get_by_role("list", name="Attachments").get_by_role("link").nth(1)
    await expect(link).to_have_text("<b>drop</b>.html")
    async with page.expect_download() as download:
        await link.click()
    await (await download.value).save_as(tmp_path / "down")
    assert (tmp_path / "down").read_text() == "dropped"
    assert page.url.endswith(f"#{task}")
    assert len(desk.worker.sends[0]["attachments"]) == 2
    assert desk.complaints == []


async def test_a_file_that_is_too_large_is_refused_with_a_reason_and_the_rest_is_sent(
    desk: Desk,
) -> None:
    desk.worker.attachment_limit = 1000
    page = await desk.open(desk.worker.add_task("api"))
    await choose(page, a_file("small.txt", b"x"), a_file("large.bin", b"x" * 1001))
    await expect(page.get_by_role("alert")).to_have_text(
        "Not attached. It has 1001 B; at most 1000 B are possible."
    )
    desk.worker.attachment_limit = 10  # less than it told
    await choose(page, a_file("middle.txt", b"x" * 20))
    await expect(page.get_by_role("alert").last).to_have_text(
        "Not attached. The file is larger than this worker takes."
    )
    await box(page).fill("with one file")
    await box(page).press("Enter")
    await expect(page.get_by_role("list", name="Attachments")).to_have_text("small.txt1 B")
    assert [send["attachments"] for send in desk.worker.sends] == [["f_0001"]]


async def test_a_file_that_comes_while_a_message_is_sent_waits_for_the_next_one(
    desk: Desk,
) -> None:
    page = await desk.open(desk.worker.add_task("api"))
    for refusal in (None, {"code": "conflict", "detail": "Full."}):
        desk.worker.stores, desk.worker.refusal = asyncio.Event(), refusal
        await box(page).fill("first")
        await box(page).press("Enter")
        await expect(page.get_by_text("Sending…")).to_be_visible()
        await page.get_by_role("main").evaluate(DROP)
        files = page.get_by_role("list", name="Files to send")
        await expect(files).to_contain_text("7 B")
        desk.worker.stores.set()
        await expect(box(page)).to_have_value("first" if refusal else "")
        await expect(files).to_contain_text("drop")
        await page.get_by_role("button", name="Do not attach").click()


async def test_a_file_that_misses_its_place_does_not_replace_the_page(desk: Desk) -> None:
    desk.worker.add_workspace("shop")
    page = await desk.open("new")
    missed = await page.get_by_role("navigation").evaluate(f"(nav) => ({DROP})(nav)")
    assert missed == [False, False]  # nothing is left to the browser
    files = page.get_by_role("list", name="Files to send")
    await expect(files).to_have_count(0)
    await page.get_by_role("main").evaluate(DROP)
    await expect(files).to_contain_text("<b>drop</b>.html")


async def test_the_keyboard_stays_where_something_is_to_be_done(desk: Desk) -> None:
    task = desk.worker.add_task("api")
    size: Any = {"width": 390, "height": 800}
    page = await desk.open(viewport=size)
    await page.get_by_role("link", name="api").press("Enter")
    await expect(page.get_by_role("main")).to_be_focused()
    status = page.locator(".fact").filter(has_text="status").get_by_role("button")
    await status.press("Enter")
    await page.get_by_label("With words").press("Escape")
    await expect(status).to_be_focused()
    await box(page).fill("text")
    await page.get_by_role("button", name="Send").press("Enter")
    await expect(box(page)).to_have_value("")
    await expect(box(page)).to_be_focused()
    await page.get_by_role("link", name="All tasks").press("Enter")
    await expect(page.get_by_role("navigation")).to_be_focused()
    assert [send["task"] for send in desk.worker.sends] == [task]


async def test_only_legal_moves_are_offered_and_the_history_tells_who_made_them(
    desk: Desk,
) -> None:
    task = desk.worker.add_task("api")
    page = await desk.open(task)
    status = page.locator(".fact").filter(has_text="status").get_by_role("button")
    await expect(status).to_contain_text("ongoing")
    await status.press("Enter")
    moves = page.get_by_role("region", name="Status").get_by_role("button")
    await expect(moves).to_have_text(
        ["make it not started", "make it blocked", "make it completed", "make it rejected"]
    )
    await page.get_by_label("With words").fill("Wait for the schema.")
    await moves.nth(1).click()
    await expect(status).to_contain_text("blocked")
    await expect(page.locator(".message .body")).to_have_text("Wait for the schema.")
    await status.click()
    history = page.get_by_role("list", name="History")
    await expect(history).to_contain_text("ongoing → blocked")
    await expect(history).to_contain_text("by you")
    desk.worker.tasks[task]["status"] = "completed"  # meanwhile, and it was not heard of
    await page.get_by_role("button", name="make it rejected").click()
    await expect(page.get_by_role("alert")).to_contain_text("A task that is completed")
    await desk.worker.announce("status.updated", task, status="completed")
    await expect(moves).to_have_text(["make it not started", "make it ongoing"])


async def test_a_task_is_made_and_a_persons_task_is_a_thread_with_who_asked(desk: Desk) -> None:
    desk.worker.add_workspace("shop")
    api = desk.worker.add_task("api")
    mine = desk.worker.add_task(
        "sign-off", assignee="human", creator=f"task:{api}", session=None, title="Sign it off?"
    )
    page = await desk.open(mine)
    await expect(page.get_by_label("Message to api")).to_be_visible()
    await expect(page.get_by_text("Goes to api, who asked.")).to_be_visible()
    heard = {"sender": f"task:{api}", "sender_name": "api", "recipient": "user", "thread": mine}
    desk.worker.add_message(mine, "One more thing", **heard)
    await desk.worker.announce("reply.received", mine, thread=mine)
    await expect(page.locator(".message .body")).to_have_text("One more thing")
    await expect(page.locator(".who")).to_have_text("api → you")
    await page.get_by_role("link", name="new task").click()
    await page.get_by_label("Title").fill("Write the docs")
    await page.get_by_label("What is to be done").fill("All of them.")
    await choose(page, a_file("outline.txt", b"1. Start"), a_file("not-this.txt", b"x"))
    await page.get_by_role("button", name="Do not attach not-this.txt").click()
    # What the place asks for would be refused, too, and take the form away before the click.
    async with page.expect_response("**/api/tokens"):
        await page.get_by_role("link", name="manage").click()
    await page.get_by_role("link", name="new task").click()
    await page.get_by_role("button", name="Create").hover()
    desk.worker.signed_in = False
    await page.get_by_role("button", name="Create").click()
    await expect(page.locator("pre")).to_have_text("claudedo open")
    desk.worker.signed_in = True
    await page.evaluate("() => window.dispatchEvent(new Event('focus'))")
    await page.get_by_role("button", name="Create").click()
    await expect(page.get_by_role("heading", name="write-the-docs")).to_be_visible()
    await expect(page.locator(".message .body")).to_have_text("All of them.")
    await expect(page.get_by_role("list", name="Attachments")).to_contain_text("outline.txt8 B")
    assert desk.worker.files["f_0001"] == ("outline.txt", b"1. Start")
    await page.get_by_role("link", name="new task").click()
    await expect(page.get_by_label("Title")).to_have_value("")
    await expect(page.get_by_role("list", name="Files to send")).to_have_count(0)
    await page.go_back()
    await expect(page.get_by_text("claims it")).to_be_visible()


async def test_use_failures_and_other_sessions_are_told_and_hostile_names_are_inert(
    desk: Desk,
) -> None:
    used: dict[str, Any] = {
        "requests": 2,
        "input_tokens": 500,
        "output_tokens": 2500,
        "cache_read_tokens": 9500,
    }
    used |= {"cache_creation_tokens": 0, "context_tokens": 84_000, "model": "m"}
    resting = session("idle", usage=used | {"cost_usd": 0.5})
    payload = HOSTILE[0]
    task = desk.worker.add_task("api", session=resting)
    waiting = session("waiting", waiting_for=payload)
    desk.worker.add_task(payload, id="0b6f", supervised=False, workspace=payload, session=waiting)
    desk.worker.add_message(task, "hello", attachments=[attachment("f_1", payload, 3, payload)])
    page = await desk.open(task)
    await expect(page.locator(".facts")).to_contain_text("84k tokens")
    await expect(page.locator(".facts")).to_contain_text("10k in, 2.5k out, $0.50")
    failure = {"kind": "rate_limit", "text": payload, "tries": 1, "at": resting["since"]}
    failure |= {"continues_at": resting["since"]}
    await desk.worker.change_session(task, resting | {"failure": failure})
    await expect(page.locator("p.failure")).to_contain_text("rate limit, continues ")
    row = page.get_by_role("navigation").get_by_role("link", name="api")
    await expect(row).to_contain_text("rate limit, continues ")
    other = page.locator(".task.other")
    await expect(other).to_contain_text(payload)
    await expect(other.get_by_role("link")).to_have_count(0)
    await expect(page.locator(FORBIDDEN)).to_have_count(0)
    assert desk.complaints == []
