"""The page in a real browser against a worker that keeps the contract (see `fake_worker`).

Nothing here waits by `wait_for_function`: it evaluates strings, which the page's policy forbids.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import anyio
import pytest
from playwright.async_api import Page, expect

import claudedo_webui
from tests.browser.desk import FORBIDDEN, HOSTILE, Desk
from tests.browser.fake_worker import FakeWorker, session

pytestmark = [pytest.mark.anyio, pytest.mark.browser]


def bodies(page: Page) -> Any:
    return page.locator(".message .body")


def box(page: Page) -> Any:
    return page.locator("#composer-text")


async def until_sent(worker: FakeWorker, count: int) -> None:
    with anyio.fail_after(15):
        while len(worker.sends) < count:
            await anyio.sleep(0.02)


async def until_asked(worker: FakeWorker, path: str, times: int) -> None:
    with anyio.fail_after(15):
        while worker.asked.count(path) < times:
            await anyio.sleep(0.02)


# --- the list ---


async def test_tasks_are_grouped_by_workspace_with_their_live_state(desk: Desk) -> None:
    desk.worker.add_task("api", session=session("busy", seconds=130))
    waiting = session("waiting", waiting_for="permission: Bash(make)")
    desk.worker.add_task("page", session=waiting)
    desk.worker.add_task("ledger", workspace="billing", session=None)
    desk.worker.add_task("elsewhere", id=None, supervised=False, pending=0)
    page = await desk.open()
    tasks = page.get_by_role("navigation", name="Tasks")
    await expect(tasks.get_by_role("heading")).to_have_text(
        ["billing", "shop", "Not started by claudedo"]
    )
    await expect(tasks.get_by_role("link", name="api")).to_contain_text("busy")
    await expect(tasks.get_by_role("link", name="api")).to_contain_text("2m")
    await expect(tasks.get_by_role("link", name="page")).to_contain_text("permission: Bash(make)")
    await expect(tasks.get_by_role("link", name="ledger")).to_contain_text("not started")
    await expect(tasks.get_by_role("link", name="elsewhere")).to_have_count(0)
    await expect(page).to_have_title("(1) claudedo")
    assert desk.complaints == []


async def test_badge_state_and_new_tasks_appear_without_a_reload(desk: Desk) -> None:
    task = desk.worker.add_task("api")
    page = await desk.open()
    row = page.get_by_role("link", name="api")
    await expect(row).to_be_visible()
    await expect(row.locator(".badge")).to_have_count(0)
    message = await desk.worker.queue(task, "one")
    await expect(row.locator(".badge")).to_have_text("1 1 message not delivered yet")
    await desk.worker.queue(task, "two")
    await expect(row.locator(".badge")).to_contain_text("2 messages")
    await desk.worker.climb(message, "delivered")
    await expect(row.locator(".badge")).to_contain_text("1 message ")
    await desk.worker.change_session(task, session("waiting", waiting_for="a question"))
    await expect(row).to_contain_text("waiting")
    await expect(row).to_contain_text("a question")
    second = desk.worker.add_task("page")
    await desk.worker.announce("task.created", second)
    await expect(page.get_by_role("link", name="page")).to_be_visible()
    del desk.worker.tasks[second]
    await desk.worker.announce("task.removed", second)
    await expect(page.get_by_role("link", name="page")).to_have_count(0)


async def test_a_one_shot_says_how_it_stands_in_the_queue(desk: Desk) -> None:
    over = {"status": "failed", "exit": 16, "reason": "it had been denied Bash"}
    desk.worker.add_task("api", session=session("stopped"), queue=over)
    waits = {"status": "queued", "exit": None, "reason": None}
    desk.worker.add_task("page", session=None, queue=waits)
    page = await desk.open()
    await expect(page.get_by_role("link", name="page")).to_contain_text("queued")
    await expect(page.get_by_role("link", name="api")).to_contain_text("failed")
    await page.get_by_role("link", name="api").click()
    await expect(page.get_by_role("main")).to_contain_text("it had been denied Bash")
    await expect(page.get_by_role("main")).to_contain_text("Kept until claudedo queue run api.")
    done = {"status": "completed", "exit": 0, "reason": "done"}
    page = await desk.open(desk.worker.add_task("docs", session=session("stopped"), queue=done))
    await expect(page.locator(".heading .title")).to_contain_text("completed")
    loose = "e => [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.data.trim()).join('')"
    assert await page.locator(".heading").evaluate(loose) == ""


async def test_an_age_ticks(desk: Desk) -> None:
    desk.worker.add_task("api", session=session("idle", seconds=57))
    page = await desk.open()
    await expect(page.locator(".age")).to_have_text("1m")


async def test_without_tasks_the_page_says_what_to_type(desk: Desk) -> None:
    page = await desk.open()
    await expect(page.locator("code")).to_contain_text("claudedo start")
    await desk.worker.announce("task.created", desk.worker.add_task("api"))
    await expect(page.get_by_role("link", name="api")).to_be_visible()


async def test_arrow_keys_walk_through_the_tasks_and_enter_selects(desk: Desk) -> None:
    for name in ("api", "page"):
        desk.worker.add_task(name)
    page = await desk.open()
    await page.get_by_role("link", name="api").focus()
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="page", exact=True)).to_be_visible()


# --- the selected task ---


async def test_the_heading_says_what_the_task_is_and_copies_its_path(desk: Desk) -> None:
    failed = session("failed", reason="claude exited with status 1")
    task = desk.worker.add_task("api", peers=["page"], session=failed)
    desk.worker.add_task("page")
    page = await desk.open(task)
    heading = page.locator(".heading")
    await expect(heading).to_contain_text("claudedo/api")
    await expect(heading).to_contain_text("claude exited with status 1")
    await page.get_by_role("button", name="Copy the worktree path").click()
    await expect(heading).to_contain_text("copied")
    await desk.worker.change_task(task, branch="claudedo/renamed")
    await expect(heading).to_contain_text("claudedo/renamed")
    copied = await page.evaluate("() => navigator.clipboard.readText()")
    assert copied == "/home/me/shop.worktrees/api"
    await heading.get_by_role("link", name="page").click()
    await expect(page.get_by_role("heading", name="page", exact=True)).to_be_visible()


async def test_the_timeline_shows_both_directions_in_the_order_they_were_said(desk: Desk) -> None:
    api, web = desk.worker.add_task("api"), desk.worker.add_task("page")
    desk.worker.add_message(api, "third", seconds_ago=10)
    desk.worker.add_message(api, "first", seconds_ago=30, rung="read")
    own = {"sender": f"task:{api}", "sender_name": "api"}
    desk.worker.add_message(web, "second", seconds_ago=20, **own)
    page = await desk.open(api)
    await expect(bodies(page)).to_have_text(["first", "second", "third"])
    await expect(page.locator(".who")).to_have_text(["you → api", "api → page", "you → api"])
    await desk.worker.queue(web, "fourth", **own)
    await expect(bodies(page)).to_have_text(["first", "second", "third", "fourth"])


async def test_a_receipt_climbs_the_ladder_as_it_happens(desk: Desk) -> None:
    task = desk.worker.add_task("api")
    message = desk.worker.add_message(task, "hello")
    page = await desk.open(task)
    reached = page.locator(".rung[data-reached=true]")
    await expect(reached).to_have_text(["stored"])
    for count, rung in enumerate(("offered", "delivered", "read", "answered"), start=2):
        await desk.worker.climb(message, rung)
        await expect(reached).to_have_count(count)
    await expect(page.locator(".ladder")).to_contain_text("via hook")
    await expect(reached.nth(2)).to_have_attribute("title", re.compile("^delivered "))
    await page.get_by_role("button", name="Receipt: answered. Show the times").click()
    await expect(page.locator(".times dt")).to_have_count(5)


async def test_a_long_body_is_collapsed_until_asked_for(desk: Desk) -> None:
    task = desk.worker.add_task("api")
    desk.worker.add_message(task, "\n".join(f"line {n}." for n in range(400)))
    page = await desk.open(task)
    await expect(bodies(page)).not_to_contain_text("line 399.")
    await page.get_by_role("button", name="Show all 400 lines").click()
    await expect(bodies(page)).to_contain_text("line 399.")


async def test_a_body_is_shown_as_markdown(desk: Desk) -> None:
    task = desk.worker.add_task("api")
    desk.worker.add_message(task, "**bold** `code` [site](https://example.com/) <Cart>")
    page = await desk.open(task)
    await expect(bodies(page).locator("strong")).to_have_text("bold")
    await expect(bodies(page)).to_have_text("bold code site <Cart>")
    link = bodies(page).get_by_role("link")
    await expect(link).to_have_attribute("rel", "noopener noreferrer")
    await expect(link).to_have_attribute("href", "https://example.com/")


# --- sending ---


async def test_enter_sends_and_shift_enter_breaks_the_line(desk: Desk) -> None:
    task = desk.worker.add_task("api")
    page = await desk.open(task)
    await box(page).press_sequentially("one")
    await box(page).press("Shift+Enter")
    await box(page).press_sequentially("two")
    await expect(box(page)).to_have_value("one\ntwo")
    assert desk.worker.sends == []
    await box(page).press("Enter")
    await expect(box(page)).to_have_value("")
    await expect(bodies(page)).to_have_text(["onetwo"])  # two lines, a <br> between them
    assert [(s["task"], s["body"], s["priority"]) for s in desk.worker.sends] == [
        (task, "one\ntwo", "normal")
    ]


async def test_blank_text_is_not_sent(desk: Desk) -> None:
    page = await desk.open(desk.worker.add_task("api"))
    await box(page).fill("  \n ")
    await box(page).press("Enter")
    await expect(page.get_by_role("button", name="Send")).to_be_disabled()
    await box(page).fill("text")
    await box(page).press("Enter")
    await until_sent(desk.worker, 1)
    assert [s["body"] for s in desk.worker.sends] == ["text"]


async def test_a_refused_send_keeps_the_text_says_why_and_retries_with_its_key(desk: Desk) -> None:
    task = desk.worker.add_task("api")
    desk.worker.refusal = {"code": "conflict", "detail": "The inbox of api is full."}
    page = await desk.open(task)
    await box(page).fill("keep me")
    await box(page).press("Enter")
    await expect(page.get_by_role("alert")).to_have_text("Not sent. The inbox of api is full.")
    await expect(box(page)).to_have_value("keep me")
    await page.get_by_role("button", name="Retry").click()
    await expect(box(page)).to_have_value("")
    first, second = desk.worker.sends
    assert first["key"] == second["key"]


async def test_another_text_after_a_refusal_has_another_key(desk: Desk) -> None:
    task = desk.worker.add_task("api")
    desk.worker.refusal = {"code": "conflict", "detail": "no"}
    page = await desk.open(task)
    await box(page).fill("one")
    await box(page).press("Enter")
    await expect(page.get_by_role("alert")).to_be_visible()
    await box(page).fill("two")
    await box(page).press("Enter")
    await expect(box(page)).to_have_value("")
    first, second = desk.worker.sends
    assert first["key"] != second["key"]


async def test_a_send_whose_answer_was_lost_is_stored_once_after_a_retry(desk: Desk) -> None:
    task = desk.worker.add_task("api")
    page = await desk.open(task)
    desk.worker.lose_next_ack = True
    await box(page).fill("only once")
    await box(page).press("Enter")
    await expect(page.get_by_role("alert")).to_contain_text("did not confirm")
    await expect(box(page)).to_have_value("only once")
    await expect(page.get_by_text("live", exact=True)).to_be_visible()
    await page.get_by_role("button", name="Retry").click()
    await expect(box(page)).to_have_value("")
    await expect(bodies(page)).to_have_text(["only once"])
    assert len(desk.worker.sends) == 2
    assert len(desk.worker.messages) == 1


async def test_a_halt_asks_first(desk: Desk) -> None:
    page = await desk.open(desk.worker.add_task("api"))
    await page.get_by_label("Priority").select_option("halt")
    await box(page).fill("stop")
    await box(page).press("Enter")
    await box(page).press("Enter")
    await expect(page.get_by_role("alert")).to_contain_text("Really?")
    assert desk.worker.sends == []
    await box(page).press("Escape")
    await expect(page.get_by_role("alert")).to_have_count(0)
    await box(page).press("Enter")
    await page.get_by_role("button", name="Halt and send").click()
    await expect(page.locator(".priority")).to_have_text("halt")
    await expect(page.get_by_label("Priority")).to_have_value("normal")
    assert [s["priority"] for s in desk.worker.sends] == ["halt"]


async def test_a_reply_names_what_it_answers(desk: Desk) -> None:
    task = desk.worker.add_task("api")
    asked = desk.worker.add_message(task, "which one?", sender="task:t_9", sender_name="page")
    page = await desk.open(task)
    await page.get_by_role("button", name="reply", exact=True).click()
    await expect(box(page)).to_be_focused()
    await box(page).fill("the second")
    await box(page).press("Enter")
    await expect(page.locator(".in-reply")).to_contain_text("which one?")
    assert [s["reply_to"] for s in desk.worker.sends] == [asked]


async def test_too_long_a_text_is_not_sent_and_says_what_to_do(desk: Desk) -> None:
    page = await desk.open(desk.worker.add_task("api"))
    await box(page).fill("x" * (256 * 1024 + 1))
    await box(page).press("Enter")
    await expect(page.get_by_role("alert")).to_contain_text("at most 262,144 are possible")
    assert desk.worker.sends == []


# --- keeping and catching up ---


async def test_a_draft_survives_another_task_a_reload_and_a_lost_connection(desk: Desk) -> None:
    api, web = desk.worker.add_task("api"), desk.worker.add_task("page")
    page = await desk.open(api)
    await box(page).fill("half a thou")
    await page.get_by_label("Priority").select_option("high")
    await page.goto(f"{desk.worker.url}/#{web}")
    await expect(box(page)).to_have_value("")
    await page.goto(f"{desk.worker.url}/#{api}")
    await expect(box(page)).to_have_value("half a thou")
    await page.reload()
    await expect(box(page)).to_have_value("half a thou")
    await expect(page.get_by_label("Priority")).to_have_value("high")
    await desk.worker.stop()
    await expect(page.get_by_text("reconnecting", exact=True)).to_be_visible()
    await box(page).fill("half a thought")
    await box(page).press("Enter")
    await expect(page.get_by_role("alert")).to_contain_text("no connection")
    await desk.worker.start()
    await expect(page.get_by_text("live", exact=True)).to_be_visible()
    await expect(box(page)).to_have_value("half a thought")
    await page.get_by_role("button", name="Retry").click()
    await expect(bodies(page)).to_have_text(["half a thought"])


@pytest.mark.parametrize("replays", [True, False], ids=["told what it missed", "only fetching"])
async def test_after_a_lost_connection_nothing_is_missing_and_nothing_is_double(
    desk: Desk, replays: bool
) -> None:
    desk.worker.replays = replays
    task = desk.worker.add_task("api")
    early = desk.worker.add_message(task, "before")
    page = await desk.open(task)
    await desk.worker.queue(task, "heard live")
    await expect(bodies(page)).to_have_text(["before", "heard live"])
    await desk.worker.stop()
    await expect(page.get_by_text("reconnecting", exact=True)).to_be_visible()
    await desk.worker.queue(task, "while away")
    await desk.worker.climb(early, "delivered")
    await desk.worker.announce("task.created", desk.worker.add_task("born-meanwhile"))
    await desk.worker.start()
    await expect(page.get_by_text("live", exact=True)).to_be_visible()
    await expect(bodies(page)).to_have_text(["before", "heard live", "while away"])
    await expect(page.get_by_role("link", name="born-meanwhile")).to_be_visible()
    await expect(page.locator(".rung[data-last=true]").first).to_have_text("delivered")
    await desk.worker.queue(task, "after")
    await expect(bodies(page)).to_have_text(["before", "heard live", "while away", "after"])
    assert [auth.get("after") for auth in desk.worker.connects] == [None, 1]


async def test_reading_further_up_is_not_disturbed_by_new_messages(desk: Desk) -> None:
    task = desk.worker.add_task("api")
    for n in range(60):
        desk.worker.add_message(task, f"message {n}", seconds_ago=100 - n)
    page = await desk.open(task)
    log = page.get_by_role("log")
    await expect(page.get_by_text("message 59", exact=True)).to_be_in_viewport()
    await log.evaluate("(log) => { log.scrollTop = 0 }")
    await expect(page.get_by_role("button", name="Latest")).to_be_visible()
    await desk.worker.queue(task, "newest")
    await expect(bodies(page)).to_have_count(61)
    assert await log.evaluate("(log) => log.scrollTop") == 0
    await page.get_by_role("button", name="Latest").click()
    await expect(page.get_by_text("newest", exact=True)).to_be_in_viewport()


async def test_an_answer_that_is_older_than_an_event_takes_nothing_back(desk: Desk) -> None:
    task = desk.worker.add_task("api")
    page = await desk.open()
    row = page.get_by_role("link", name="api")
    held = desk.worker.held[f"/api/tasks/{task}"] = asyncio.Event()
    await desk.worker.change_task(task, status="blocked")
    await until_asked(desk.worker, f"/api/tasks/{task}", 1)
    await desk.worker.change_session(task, session("waiting", waiting_for="a question"))
    await expect(row).to_contain_text("a question")
    held.set()
    await until_asked(desk.worker, f"/api/tasks/{task}", 2)
    await expect(row).to_contain_text("a question")
    await desk.worker.change_task(task, session=session("waiting", waiting_for="the end"))
    await expect(row).to_contain_text("the end")


# --- long threads ---


async def test_a_long_thread_is_fetched_in_parts_and_a_message_costs_only_itself(
    desk: Desk,
) -> None:
    task = desk.worker.add_task("api")
    messages = f"/api/tasks/{task}/messages"
    said = [desk.worker.add_message(task, f"message {n}", seconds_ago=500 - n) for n in range(230)]
    page = await desk.open(task)
    await expect(bodies(page)).to_have_count(100)
    await desk.worker.queue(task, "newest")
    await expect(bodies(page)).to_have_count(100)
    await expect(bodies(page).last).to_have_text("newest")
    asked = [path for path in desk.worker.asked if path.startswith(messages)]
    assert asked[0] == f"{messages}?limit=100"
    assert asked[-1] == f"{messages}?limit=100&after={said[-1]}"
    await desk.worker.climb(said[200], "offered")
    await desk.worker.queue(desk.worker.add_task("other"), "elsewhere")
    earlier = page.get_by_role("button", name="Show earlier messages")
    await page.get_by_role("log").evaluate("(log) => { log.scrollTop = 0 }")
    await earlier.click()
    await expect(bodies(page)).to_have_count(200)
    await expect(bodies(page).first).to_have_text("message 31")
    await expect(page.get_by_text("message 131", exact=True)).to_be_in_viewport()
    await earlier.click()
    await expect(bodies(page)).to_have_count(231)
    await expect(bodies(page).first).to_have_text("message 0")
    await expect(earlier).to_have_count(0)
    assert [path for path in desk.worker.asked if path.startswith(messages)][len(asked) :] == [
        f"{messages}?limit=100&before={said[130]}",
        f"{messages}?limit=100&before={said[30]}",
    ]
    assert desk.complaints == []


async def test_a_receipt_told_while_its_message_is_on_its_way_is_not_lost(desk: Desk) -> None:
    task = desk.worker.add_task("api")
    message = desk.worker.add_message(task, "hello")
    held = desk.worker.held[f"/api/tasks/{task}/messages"] = asyncio.Event()
    page = await desk.open(task)
    await until_asked(desk.worker, f"/api/tasks/{task}/messages?limit=100", 1)
    desk.worker.held.clear()
    await desk.worker.climb(message, "offered")
    await desk.worker.change_task(task, title="heard")
    await expect(page.locator(".full-title")).to_have_text("heard")
    held.set()
    await expect(page.locator(".rung[data-last=true]")).to_have_text("offered")


async def test_when_more_was_said_than_one_part_holds_nothing_is_missing(desk: Desk) -> None:
    desk.worker.replays = False
    task = desk.worker.add_task("api")
    desk.worker.add_message(task, "before", seconds_ago=900)
    page = await desk.open(task)
    await expect(bodies(page)).to_have_text(["before"])
    await desk.worker.stop()
    await expect(page.get_by_text("reconnecting", exact=True)).to_be_visible()
    for n in range(150):
        desk.worker.add_message(task, f"while away {n}", seconds_ago=800 - n)
    await desk.worker.start()
    await expect(bodies(page).last).to_have_text("while away 149")
    await expect(bodies(page).first).to_have_text("while away 50")
    await page.get_by_role("button", name="Show earlier messages").click()
    await expect(bodies(page)).to_have_count(151)
    await expect(bodies(page).first).to_have_text("before")


async def test_a_thread_whose_last_message_went_with_its_task_is_read_anew(desk: Desk) -> None:
    task, other = desk.worker.add_task("api"), desk.worker.add_task("page")
    own = {"sender": f"task:{task}", "sender_name": "api"}
    desk.worker.add_message(task, "stays", seconds_ago=20)
    gone = desk.worker.add_message(other, "goes", seconds_ago=10, **own)
    page = await desk.open(task)
    await expect(bodies(page)).to_have_text(["stays", "goes"])
    desk.worker.messages[gone]["sender"] = "user"  # it stands in the other thread only
    await desk.worker.queue(task, "new")
    await expect(bodies(page).last).to_have_text("new")


async def test_without_a_cookie_the_page_says_how_to_get_one_and_recovers(desk: Desk) -> None:
    desk.worker.add_task("api")
    desk.worker.signed_in = False
    page = await desk.open(live=False)
    await expect(page.locator("pre")).to_have_text("claudedo open")
    await expect(page.get_by_role("navigation")).to_have_count(0)
    desk.worker.signed_in = True
    await page.evaluate("() => window.dispatchEvent(new Event('focus'))")
    await expect(page.get_by_role("link", name="api")).to_be_visible()
    await expect(page.get_by_text("live", exact=True)).to_be_visible()


# --- hostile text ---


async def test_hostile_text_is_inert_and_breaks_no_policy(desk: Desk) -> None:
    payload = HOSTILE[0]
    hostile = session("waiting", waiting_for=payload, reason=payload)
    shown = {"branch": payload, "worktree": payload, "session": hostile, "status": payload}
    task = desk.worker.add_task(payload, workspace=payload, peers=list(HOSTILE), **shown)
    for text in HOSTILE:
        desk.worker.add_message(task, text, sender="task:t_x", sender_name=text, via=text)
    page = await desk.open(task)
    await expect(page.locator(".message")).to_have_count(len(HOSTILE))
    await expect(bodies(page).nth(1)).to_have_text("<script>alert('script')</script>")
    await page.get_by_role("button", name="reply", exact=True).first.click()
    await expect(page.locator(".reply-to")).to_contain_text(payload)
    for link in await bodies(page).get_by_role("link").all():
        assert (await link.get_attribute("href") or "").startswith("https://")
    await expect(page.locator(FORBIDDEN)).to_have_count(0)
    assert desk.complaints == []


async def test_the_watch_for_policy_violations_notices_one(desk: Desk) -> None:
    page = await desk.open()
    await page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'alert(1)';"
        " document.body.append(s) }"
    )
    with anyio.fail_after(15):
        while not any("VIOLATION script-src" in said for said in desk.complaints):
            await anyio.sleep(0.02)
    assert not any(said.startswith("EXECUTED") for said in desk.complaints)


# --- widths and colours ---


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_on_a_phone_one_column_at_a_time_fits_the_width(
    desk: Desk, scheme: str, tmp_path: Path
) -> None:
    task = desk.worker.add_task("n" * 63, branch="claudedo/" + "b" * 90, worktree="/w" * 120)
    desk.worker.add_message(task, "x" * 500 + "\n\n```\n" + "y" * 500 + "\n```")
    size: Any = {"width": 375, "height": 720}
    page = await desk.open(viewport=size, is_mobile=True, has_touch=True, color_scheme=scheme)
    await expect(box(page)).to_have_count(0)
    await page.screenshot(path=tmp_path / "list.png")
    await page.get_by_role("link", name="n" * 63).tap()
    await expect(box(page)).to_be_in_viewport()
    await expect(page.get_by_role("navigation")).not_to_be_visible()
    await expect(bodies(page)).to_be_visible()
    await page.screenshot(path=tmp_path / "task.png")
    width = await page.evaluate("() => document.documentElement.scrollWidth")
    assert width == 375
    log_width = "(log) => log.scrollWidth - log.clientWidth"
    assert await page.get_by_role("log").evaluate(log_width) == 0
    await page.get_by_role("link", name="All tasks").tap()
    await expect(page.get_by_role("navigation")).to_be_visible()
    await desk.worker.stop()
    await expect(page.get_by_text("claudedo worker start")).to_be_in_viewport(ratio=1)


# --- what is shipped ---


async def test_every_vendored_file_is_the_one_in_the_manifest_and_has_its_licence() -> None:
    vendor = claudedo_webui.static_dir() / "vendor"
    manifest = json.loads((vendor / "manifest.json").read_text())
    assert {entry["file"] for entry in manifest} == {path.name for path in vendor.glob("*.js")}
    for entry in manifest:
        content = (vendor / entry["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"], entry["file"]
        for licence in (entry["license_file"], *entry.get("bundles", ())):
            assert (vendor / licence).stat().st_size > 500, licence


async def test_the_policy_allows_nothing_inline_but_the_import_map() -> None:
    policy = claudedo_webui.csp()
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; script-src 'self' 'sha256-")
    assert policy.count("sha256-") == 1
