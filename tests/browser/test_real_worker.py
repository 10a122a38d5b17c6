"""The page on the real worker, with a stand-in for `claude` behind it: the whole way, once."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect, sync_playwright

from tests.support.browser import ARGUMENTS, require_chromium
from tests.support.fake_program import make_fake_claude
from tests.support.world import World

pytestmark = pytest.mark.browser

BOUND = 20_000  # milliseconds


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("w")
    with World(make_fake_claude(root), root) as made:
        made.environment |= {"FAKE_CLAUDE_TRUTH": str(root), "FAKE_CLAUDE_SEED": "1"}
        made.start("backend")
        yield made


@pytest.fixture
def page() -> Iterator[Page]:
    expect.set_options(timeout=BOUND)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=require_chromium(), args=list(ARGUMENTS)
        )
        made = browser.new_page(viewport={"width": 1280, "height": 800})
        made.set_default_timeout(BOUND)
        yield made
        browser.close()


def card(page: Page, title: str) -> Locator:
    return page.locator(".ask").filter(has_text=title)


def say(page: Page, text: str) -> None:
    page.locator("#composer-text").fill(text)
    page.keyboard.press("Enter")
    expect(page.locator("#composer-text")).to_have_value("")


def test_asks_files_moves_tasks_tokens_and_workspaces_on_the_real_worker(
    world: World, page: Page, tmp_path: Path
) -> None:
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(world.run("open", "--print").stdout.strip().splitlines()[-1])
    page.get_by_role("link", name="backend").first.click()

    # A permission is given here, the next one is refused in the session's terminal.
    say(page, 'ask Bash {"command": "make <b>one</b>"}')
    page.get_by_role("button", name="Allow", exact=True).click()
    expect(card(page, "make <b>one</b>")).to_contain_text("You allowed this")
    say(page, 'ask Bash {"command": "make two"}')
    expect(card(page, "make two").get_by_role("button", name="Edit…")).to_be_visible()
    world.keys("backend", "\x1b")
    expect(card(page, "make two")).to_contain_text("Denied in its terminal")

    # A file goes up, and comes down as a download; one that is too large does not go at all.
    huge = tmp_path / "huge.bin"
    with huge.open("wb") as file:
        os.truncate(file.fileno(), 25 * 2**20 + 1)
    (tmp_path / "plan.html").write_text("<script>alert(1)</script>")
    with page.expect_file_chooser() as chosen:
        page.get_by_role("button", name="Attach", exact=True).click()
    chosen.value.set_files([tmp_path / "plan.html", huge])
    expect(page.get_by_role("alert")).to_contain_text("at most 25 MB are possible")
    expect(page.locator("progress")).to_have_count(0)
    say(page, "The plan")
    with page.expect_download() as download:
        page.get_by_role("list", name="Attachments").get_by_role("link").click()
    download.value.save_as(tmp_path / "down")
    assert (tmp_path / "down").read_text() == "<script>alert(1)</script>"

    # Only what the table allows is offered; a person's own task is an ask until it is done.
    page.locator(".fact").filter(has_text="status").get_by_role("button").click()
    page.get_by_role("button", name="make it blocked").click()
    expect(page.locator(".fact").filter(has_text="status")).to_contain_text("blocked")
    page.get_by_role("link", name="new task").click()
    page.get_by_label("Title").fill("Look at the plan")
    page.get_by_label("What is to be done").fill("Is it **good**?")
    page.get_by_role("combobox", name="For", exact=True).select_option("human")
    page.get_by_role("button", name="Create").click()
    card(page, "Is it good?").get_by_role("button", name="Done").click()
    expect(card(page, "Look at the plan")).to_contain_text("You completed this")
    expect(page.locator(".fact").filter(has_text="status")).to_contain_text("completed")

    # Tokens are told in the terminal only, and revoked here; a workspace goes with all of it.
    text = world.json("token", "create", "--name", "laptop")["text"]
    page.get_by_role("link", name="manage").click()
    page.get_by_role("button", name="Revoke laptop").click()
    page.get_by_role("button", name="Revoke it").click()
    expect(page.get_by_role("list", name="Tokens")).to_contain_text("revoked")
    assert text not in page.content()
    name = world.json("ls")[0]["workspace"]
    page.get_by_role("button", name=f"Rename {name}").click()
    page.get_by_label("New name").fill("renamed")
    page.get_by_role("button", name="Rename", exact=True).click()
    page.get_by_role("button", name="Delete renamed").click()
    page.get_by_role("button", name="End 1 session").click()
    page.get_by_label("Type renamed to confirm").fill("renamed")
    page.get_by_role("button", name="Delete all of it").click()
    expect(page.get_by_role("button", name=re.compile("^Delete "))).to_have_count(0)
    assert world.json("ls") == []
    assert complaints == []
