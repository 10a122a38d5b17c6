"""Workspaces and tokens on the page: switched, renamed, deleted after confirmation, revoked."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.browser.desk import HOSTILE, Desk
from tests.browser.fake_worker import ago, session

pytestmark = [pytest.mark.anyio, pytest.mark.browser]


async def test_the_switch_shows_one_workspace_and_its_asks_and_is_kept(desk: Desk) -> None:
    for name in ("shop", "billing"):
        desk.worker.add_workspace(name)
        desk.worker.add_ask(desk.worker.add_task(f"in-{name}", workspace=name), title=f"of {name}")
    page = await desk.open()
    await expect(page.locator(".ask")).to_have_count(2)
    await page.get_by_label("Workspace").select_option("billing")
    await expect(page.locator(".ask h2")).to_have_text("of billing")
    await expect(page.get_by_role("link", name="in-shop")).to_have_count(0)
    await page.reload()
    await expect(page.get_by_role("link", name="in-billing").first).to_be_visible()
    await expect(page.get_by_role("link", name="in-shop")).to_have_count(0)


async def test_a_workspace_is_renamed_and_deleted_only_when_its_name_was_typed(desk: Desk) -> None:
    for name in ("shop", "billing"):
        desk.worker.add_workspace(name)
        desk.worker.add_task(f"in-{name}", workspace=name, session=session("idle"))
    page = await desk.open("workspaces")
    await page.get_by_role("button", name="Rename shop").click()
    await page.get_by_label("New name").fill("billing")
    await page.get_by_label("New name").press("Enter")
    await expect(page.get_by_role("alert")).to_contain_text("There is a workspace")
    await page.get_by_label("New name").fill("store")
    await page.get_by_role("button", name="Rename", exact=True).click()
    await page.get_by_role("button", name="Delete billing").click()
    await page.get_by_role("button", name="End 1 session").click()
    delete = page.get_by_role("button", name="Delete all of it")
    await page.get_by_label("Type billing to confirm").fill("bill")
    await expect(delete).to_be_disabled()
    desk.worker.unsaved = "in-billing has work that is not merged."
    await page.get_by_label("Type billing to confirm").fill("billing")
    await delete.click()
    await expect(page.get_by_role("alert")).to_have_text("in-billing has work that is not merged.")
    assert [one["name"] for one in desk.worker.workspaces] == ["store", "billing"]
    await page.get_by_role("button", name="Delete it all the same").click()
    listed = page.get_by_role("list", name="Workspaces").get_by_role("listitem")
    await expect(listed).to_have_count(1)
    await expect(listed).to_contain_text("store")
    await expect(page.get_by_role("link", name="in-billing")).to_have_count(0)


async def test_tokens_are_listed_and_revoked_and_the_page_says_which_command_makes_one(
    desk: Desk,
) -> None:
    payload = HOSTILE[0]
    desk.worker.add_workspace(payload, root=payload)
    desk.worker.add_token("laptop", last_used_at=ago(120), sessions=2)
    desk.worker.add_token(payload, workspace=payload)
    desk.worker.add_token("old", revoked_at=ago(), valid=False)
    page = await desk.open("workspaces")
    rows = page.get_by_role("list", name="Tokens").get_by_role("listitem")
    await expect(rows).to_have_count(3)
    await expect(rows.nth(0)).to_contain_text("used 2m ago")
    await expect(rows.nth(0)).to_contain_text("2 sessions")
    await expect(rows.nth(1)).to_contain_text(payload)
    await expect(rows.nth(2)).to_contain_text("revoked")
    await expect(page.locator("pre")).to_have_text("claudedo token create --name laptop --mcp-json")
    await page.get_by_role("button", name="Revoke laptop").click()
    assert desk.worker.tokens[0]["valid"]
    await page.get_by_role("button", name="Revoke it").click()
    await expect(rows.nth(0)).to_contain_text("revoked")
    await expect(page.get_by_role("button", name="Revoke laptop")).to_have_count(0)
    await desk.worker.announce("token.updated", "t_none")
    desk.worker.add_token("new")
    await desk.worker.announce("token.updated", "t_none")
    await expect(rows).to_have_count(4)
    assert desk.complaints == []
