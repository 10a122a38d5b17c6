"""The page in a real browser, on the real worker, with real sessions behind it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from claudedo.demo.model import Rules, Sequence, Text, ToolUse
from tests.support.browser import ARGUMENTS, require_chromium
from tests.support.claude_home import claude_params, require_claude
from tests.support.world import World

pytestmark = [pytest.mark.acceptance, pytest.mark.browser, pytest.mark.one_claude]

BOUND = 60_000  # milliseconds

QUESTION = ToolUse(
    "mcp__claudedo__createTask",
    {"title": "Drop the old table?", "body": "It has **9** rows.", "assignee": "human"},
)


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The newest CLI is enough: the page does not know which one runs."""
    with World(require_claude(claude_params()[-1]), tmp_path_factory.mktemp("w")) as made:
        yield made


@pytest.fixture
def page() -> Iterator[Page]:
    expect.set_options(timeout=BOUND)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=require_chromium(), args=list(ARGUMENTS)
        )
        yield browser.new_page(viewport={"width": 1280, "height": 800})
        browser.close()


def test_what_is_typed_and_answered_on_the_page_reaches_its_session(
    world: World, page: Page
) -> None:
    world.model.script(
        "SHAPE",
        Sequence(
            [
                ToolUse("mcp__claudedo__send_to_peer", {"body": "What does GET /orders return?"}),
                Text("I asked the backend."),
            ]
        ),
    )
    world.start("backend", "frontend=SHAPE: ask backend, then show the orders")

    page.goto(world.run("open", "--print").stdout.strip().splitlines()[-1])
    assert "/open/" not in page.url
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    page.get_by_role("link", name="backend").first.click()
    expect(page.get_by_text("What does GET /orders return?")).to_be_visible()

    page.get_by_role("textbox").fill("Use **cursor** pagination")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Use cursor pagination")).to_be_visible()
    expect(page.get_by_role("textbox")).to_have_value("")

    thread = world.wait_for(
        lambda: (t := world.json("thread", "backend")) and t[-1]["receipts"]["read_at"] and t,
        "the page's message is not read",
    )
    assert thread[-1]["sender"] == "user"
    assert len(world.requests_with("Use **cursor** pagination")) == 1

    world.model.otherwise(Rules([("ASK-ME", QUESTION)], default=Text("ok")))
    page.get_by_role("textbox").fill("ASK-ME before you go on")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="1 ask for you").click()
    card = page.get_by_role("article", name="task: Drop the old table?")
    expect(card).to_contain_text("It has 9 rows.")
    expect(card).to_contain_text("from backend")
    card.get_by_role("button", name="Answer…").click()
    page.keyboard.type("Yes, but keep a dump.")
    card.get_by_role("button", name="Answer", exact=True).click()
    expect(card).to_contain_text("You answered this")
    heard = world.wait_for(
        lambda: world.requests_with("Yes, but keep a dump."), "the answer does not arrive"
    )
    question = next(task for task in world.json("ls") if task["title"] == "Drop the old table?")
    assert f"[Response to task {question['id']}]\n\nYes, but keep a dump." in heard[0].latest
    assert question["status"] == "completed"
    if shot := os.environ.get("CLAUDEDO_TEST_SCREENSHOT"):
        page.screenshot(path=Path(shot))
