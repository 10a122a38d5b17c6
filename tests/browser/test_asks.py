"""What waits for a person, on the page: shown whole, decided once, closed everywhere."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Locator, Page, expect

from tests.browser.desk import FORBIDDEN, HOSTILE, Desk
from tests.browser.fake_worker import session

pytestmark = [pytest.mark.anyio, pytest.mark.browser]

RULE = {
    "type": "addRules",
    "behavior": "allow",
    "destination": "localSettings",
    "rules": [{"toolName": "Bash", "ruleContent": "make:*"}],
}
CLICK_AS_IT_MOVES = """
() => {
  const allow = document.querySelectorAll(".ask")[1].querySelector("button.send");
  new MutationObserver((_, observer) => {
    if (!document.querySelector('.ask[data-closed="true"]')) return;
    observer.disconnect();
    allow.click();
    document.body.dataset.clicked = "yes";
  }).observe(document.body, { subtree: true, attributes: true, childList: true });
}
"""


def card(page: Page, title: str) -> Locator:
    return page.locator(".ask").filter(has_text=title)


def button(place: Locator, name: str) -> Locator:
    return place.get_by_role("button", name=name, exact=True)


def choices(*questions: tuple[str, list[str], bool]) -> dict[str, Any]:
    """The input of an AskUserQuestion call."""
    return {
        "questions": [
            {
                "question": text,
                "header": text.split()[0],
                "multiSelect": several,
                "options": [{"label": label, "description": f"About {label}"} for label in labels],
            }
            for text, labels, several in questions
        ]
    }


async def test_permissions_are_shown_whole_and_allowed_always_allowed_and_denied(
    desk: Desk,
) -> None:
    task = desk.worker.add_task("api")
    first = desk.worker.add_ask(
        task, body="make one \\\n  --all\n\n# builds", title="Bash: make one"
    )
    second = desk.worker.add_ask(task, title="Bash: make two", suggestions=[RULE])
    third = desk.worker.add_ask(
        task, title="Edit: a.py", tool="Edit", body="--- a/a.py\n+++ b/a.py\n-old\n+new"
    )
    page = await desk.open()
    await expect(page).to_have_title("(3) claudedo")
    await expect(page.get_by_role("link", name="3 asks for you")).to_be_visible()
    await expect(card(page, "make one").locator("pre")).to_have_text(
        "make one \\\n  --all\n\n# builds"
    )
    await expect(card(page, "Edit: a.py").locator(".taken")).to_have_text("-old\n")
    await expect(page.get_by_role("button", name="Always allow")).to_have_text(
        ["Always allow Bash(make:*) in this session"]
    )
    await button(card(page, "make one"), "Allow").click()
    await expect(card(page, "make one")).to_contain_text("You allowed this")
    await expect(card(page, "make two")).to_be_focused()
    await page.get_by_role("button", name="Always allow").click()
    await expect(card(page, "make two")).to_contain_text("You allowed this")
    await button(card(page, "Edit: a.py"), "Deny…").press("Enter")
    await page.get_by_label("Why not?").fill("keep the old one")
    await page.keyboard.press("Control+Enter")
    await expect(card(page, "Edit: a.py")).to_contain_text("You denied this")
    await expect(page).to_have_title("claudedo")
    assert desk.worker.decisions == [
        {"ask": first, "decision": "allow"},
        {"ask": second, "decision": "allow", "always": True},
        {"ask": third, "decision": "deny", "reason": "keep the old one"},
    ]
    assert desk.complaints == []


async def test_a_call_is_edited_before_it_is_allowed(desk: Desk) -> None:
    task = desk.worker.add_task("api")
    whole = {"command": "rm -r out", "timeout": 5}
    shell = desk.worker.add_ask(task, title="Bash: rm", input=whole)
    other = desk.worker.add_ask(task, title="mcp__x__y", tool="mcp__x__y", input={"n": 1})
    desk.worker.add_ask(task, title="relayed", editable=False)
    page = await desk.open(task)
    await expect(button(card(page, "relayed"), "Edit…")).to_have_count(0)
    await button(card(page, "Bash: rm"), "Edit…").click()
    allow = button(card(page, "Bash: rm"), "Allow as edited")
    await expect(allow).to_be_disabled()
    await page.get_by_label("The command").fill("rm -r out/tmp")
    await allow.click()
    await expect(card(page, "Bash: rm")).to_contain_text("You allowed this")
    await button(card(page, "mcp__x__y"), "Edit…").click()
    await page.get_by_label("The tool's whole input").fill('{"n": ')
    allow = button(card(page, "mcp__x__y"), "Allow as edited")
    await allow.click()
    await expect(page.get_by_role("alert")).to_contain_text("not valid JSON")
    await page.get_by_label("The tool's whole input").fill('{"n": 2}')
    await allow.click()
    await expect(card(page, "mcp__x__y")).to_contain_text("You allowed this")
    assert desk.worker.decisions == [
        {"ask": shell, "decision": "allow", "input": {"command": "rm -r out/tmp", "timeout": 5}},
        {"ask": other, "decision": "allow", "input": {"n": 2}},
    ]


async def test_questions_plans_and_tasks_are_answered_by_choice_or_in_own_words(
    desk: Desk,
) -> None:
    task = desk.worker.add_task("api")
    mine = desk.worker.add_task("sign-off", assignee="human", creator=f"task:{task}", session=None)
    one = choices(("Which store?", ["SQLite", "Postgres"], False))
    two = choices(("Which sizes?", ["S", "M", "L"], True), ("Now?", ["yes", "no"], False))
    ids = [
        desk.worker.add_ask(task, "question", title="Which store?", input=one),
        desk.worker.add_ask(task, "question", title="Which sizes?", input=two),
        desk.worker.add_ask(task, "plan", title="The plan", body="# Steps\n\n1. **one**"),
        desk.worker.add_ask(mine, "task", title="Sign it off", body="Is it **good**?"),
    ]
    page = await desk.open("asks")
    await card(page, "Which store?").get_by_role("button", name="Postgres").click()
    await expect(card(page, "Which store?")).to_contain_text("You answered this")
    sizes = card(page, "Which sizes?")
    for label in ("S", "L"):
        await sizes.get_by_role("button", name=f"{label} About {label}").click()
    await expect(button(sizes, "Answer")).to_be_disabled()
    await sizes.get_by_label("Own words").last.fill("tomorrow")
    await button(sizes, "Answer").click()
    await expect(card(page, "Which sizes?")).to_contain_text("You answered this")
    await expect(card(page, "The plan").locator("strong")).to_have_text("one")
    await button(card(page, "The plan"), "It lacks something…").click()
    await page.get_by_label("What does the plan lack?").fill("tests")
    await button(card(page, "The plan"), "Send back").click()
    await expect(card(page, "The plan")).to_contain_text("You answered this")
    await expect(card(page, "Sign it off")).to_contain_text("from api")
    await button(card(page, "Sign it off"), "Answer…").click()
    await page.get_by_label("Your answer").fill("It is.")
    await button(card(page, "Sign it off"), "Answer").click()
    await expect(page.get_by_role("heading", name="Nothing waits for you")).to_be_visible()
    own = {"Which sizes?": ["S", "L"], "Now?": "tomorrow"}
    assert desk.worker.decisions == [
        {"ask": ids[0], "decision": "answer", "answers": {"Which store?": "Postgres"}},
        {"ask": ids[1], "decision": "answer", "answers": own},
        {"ask": ids[2], "decision": "answer", "text": "tests"},
        {"ask": ids[3], "decision": "answer", "text": "It is."},
    ]


async def test_an_ask_closes_at_once_wherever_it_is_decided_and_says_who_was_first(
    desk: Desk,
) -> None:
    task = desk.worker.add_task("api")
    page = await desk.open(task)
    seen = await desk.worker.open_ask(task, title="Bash: seen")
    missed = await desk.worker.open_ask(task, title="Bash: missed")
    await desk.worker.open_ask(task, title="Bash: raced")
    gone = await desk.worker.open_ask(task, title="Bash: gone")
    await button(card(page, "seen"), "Deny…").click()
    await desk.worker.close_ask(seen, "allowed", "terminal")
    await expect(card(page, "seen")).to_contain_text("Allowed in its terminal")
    await expect(card(page, "seen").get_by_role("button")).to_have_count(0)
    await desk.worker.close_ask(gone, "gone", "session")
    await expect(card(page, "gone")).to_contain_text("without an answer")
    await expect(page).to_have_title("(2) api · claudedo")
    await page.wait_for_timeout(500)  # a click right after the list moved would hit nothing
    await desk.worker.close_ask(missed, "denied", "user", tell=False)
    await button(card(page, "missed"), "Allow").click()
    await expect(card(page, "missed")).to_contain_text("Too late. Denied here or by command")
    await page.wait_for_timeout(500)
    desk.worker.verdict = {"outcome": "denied", "by": "terminal"}
    await button(card(page, "raced"), "Allow").click()
    await expect(card(page, "raced")).to_contain_text("Denied in its terminal")
    await expect(card(page, "raced")).not_to_contain_text("You")
    await expect(page).to_have_title("api · claudedo")


async def test_a_click_on_its_way_does_not_decide_the_ask_that_moved_under_it(desk: Desk) -> None:
    task = desk.worker.add_task("api")
    first = desk.worker.add_ask(task, title="Bash: first")
    desk.worker.add_ask(task, title="Bash: second")
    page = await desk.open()
    await expect(card(page, "second")).to_be_visible()
    await page.evaluate(CLICK_AS_IT_MOVES)
    await desk.worker.close_ask(first, "denied", "terminal")
    await expect(page.locator("[data-clicked]")).to_have_count(1)
    await page.wait_for_timeout(500)
    assert desk.worker.decisions == []
    await button(card(page, "second"), "Allow").click()
    await expect(card(page, "second")).to_contain_text("You allowed this")


async def test_what_was_asked_or_decided_while_away_is_there_after_reconnecting(
    desk: Desk,
) -> None:
    desk.worker.replays = False
    task = desk.worker.add_task("api")
    before = desk.worker.add_ask(task, title="Bash: before")
    forgotten = desk.worker.add_ask(task, title="Bash: forgotten")
    page = await desk.open()
    await expect(card(page, "before")).to_be_visible()
    await desk.worker.stop()
    await expect(page.get_by_text("reconnecting", exact=True)).to_be_visible()
    await button(card(page, "before"), "Allow").click()
    await expect(card(page, "before").get_by_role("alert")).to_contain_text("cannot be reached")
    await desk.worker.close_ask(before, "allowed", "terminal")
    desk.worker.add_ask(task, title="Bash: meanwhile")
    del desk.worker.asks[forgotten]
    await desk.worker.start()
    await expect(card(page, "meanwhile")).to_be_visible()
    await expect(card(page, "before")).to_contain_text("Allowed in its terminal")
    await expect(card(page, "forgotten")).to_contain_text("Gone")
    await expect(page).to_have_title("(1) claudedo")


async def test_the_very_same_call_in_several_sessions_is_one_decision(desk: Desk) -> None:
    api, web = desk.worker.add_task("api"), desk.worker.add_task("page")
    one, two = desk.worker.add_ask(api, title="Bash: one"), desk.worker.add_ask(web)
    desk.worker.asks[one]["same"], desk.worker.asks[two]["same"] = [two], [one]
    page = await desk.open()
    await page.get_by_role("button", name="Allow here and in 1 other session").first.click()
    await expect(page.get_by_text("You allowed this")).to_be_visible()
    await expect(page.get_by_role("heading", name="Nothing waits for you")).to_be_visible()
    assert [said["ask"] for said in desk.worker.decisions] == [one, two]


async def test_hostile_text_in_an_ask_is_inert(desk: Desk) -> None:
    payload, everything = HOSTILE[1], "\n".join(HOSTILE)
    rule = {**RULE, "rules": [{"toolName": payload, "ruleContent": payload}]}
    shown = {"title": payload, "said": everything, "agent": payload, "body": everything}
    failure = {"kind": payload, "text": payload, "at": "", "continues_at": None, "tries": 0}
    task = desk.worker.add_task(payload, title=payload, session=session("idle", failure=failure))
    asked = choices((payload, list(HOSTILE), True), ("Now?", [payload], False))
    desk.worker.add_ask(task, tool=payload, suggestions=[rule], **shown)
    desk.worker.add_ask(task, "question", input=asked, **shown)
    desk.worker.add_ask(task, "question", input={"questions": [None, {"question": 5}]}, **shown)
    desk.worker.add_ask(task, "plan", **shown)
    desk.worker.add_ask(task, "task", **shown)
    page = await desk.open(task)
    await expect(page.locator(".ask")).to_have_count(5)
    await expect(page.get_by_text(payload).first).to_be_visible()
    await expect(page.locator(".ask .said").first).to_be_visible()
    await expect(page.locator(FORBIDDEN)).to_have_count(0)
    assert desk.complaints == []


async def test_half_an_answer_survives_another_place_a_reload_and_a_new_sign_in(desk: Desk) -> None:
    task = desk.worker.add_task("api")
    desk.worker.add_ask(task, title="Bash: make one")
    desk.worker.add_ask(task, title="Bash: make two")
    page = await desk.open(task)
    await button(card(page, "make one"), "Deny…").click()
    reason = card(page, "make one").get_by_role("textbox")
    await page.keyboard.type("Not before")  # no letter is lost
    await expect(reason).to_have_value("Not before")
    await page.get_by_role("link", name="manage").click()
    await expect(reason).to_have_count(0)
    await page.goto(f"{desk.worker.url}/#asks")
    await expect(reason).to_have_value("Not before")
    desk.worker.signed_in = False
    await page.reload()
    await expect(page.locator("pre")).to_have_text("claudedo open")
    desk.worker.signed_in = True
    await page.evaluate("() => window.dispatchEvent(new Event('focus'))")
    await expect(reason).to_have_value("Not before")
    await reason.fill("Not before noon")
    await button(card(page, "make one"), "Deny").click()
    await expect(card(page, "make one")).to_contain_text("You denied this")
    assert [one["reason"] for one in desk.worker.decisions] == ["Not before noon"]
    kept = await page.evaluate("() => sessionStorage.getItem('claudedo.forms')")
    assert "Not before" not in kept
