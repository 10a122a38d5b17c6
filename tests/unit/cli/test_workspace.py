"""Workspaces by command: ls, rename, rm."""

from __future__ import annotations

import json
from typing import Any

import pytest

from claudedo.cli import render
from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_worker import FakeWorker, problem_of, task


def shop(**changes: Any) -> dict[str, Any]:
    counts = {"tasks": 2, "sessions": 1}
    return {"id": "w_1", "name": "shop", "root": "/src/shop", "counts": counts, **changes}


@pytest.fixture
def filled(worker: FakeWorker) -> FakeWorker:
    """A workspace with two tasks and a token, and another one."""
    worker.workspaces += [shop(), shop(id="w_2", name="mill", root="/src/mill")]
    worker.add(task("backend"), task("ask-me", None, worktree=None))
    worker.tokens.append({"id": "tok_1", "name": "laptop", "workspace": "shop"})
    return worker


def test_ls_json_is_what_the_worker_says_and_of_nothing_an_empty_list(
    run: Run, worker: FakeWorker
) -> None:
    assert json.loads(run("workspace", "ls", "--json").stdout) == []

    worker.workspaces.append(shop())

    assert json.loads(run("workspace", "ls", "--json").stdout) == [shop()]
    assert run("workspace", "ls", "-q").stdout == "shop\n"


def test_ls_is_a_table_and_of_nothing_says_what_to_do(run: Run, worker: FakeWorker) -> None:
    assert "claudedo start" in run("workspace", "ls").stderr

    worker.workspaces.append(shop())
    heads, row = run("workspace", "ls").stdout.splitlines()

    assert heads.split() == ["NAME", "TASKS", "SESSIONS", "REPOSITORY", "ID"]
    assert row.split() == ["shop", "2", "1", "/src/shop", "w_1"]


@pytest.mark.parametrize("named", ["shop", "w_1"])
def test_rename_takes_a_name_or_an_id(run: Run, filled: FakeWorker, named: str) -> None:
    answer = run("workspace", "rename", named, "market")

    assert answer.stdout == "shop is now market\n"
    assert filled.requests("PATCH", "/api/workspaces/w_1") == [{"name": "market"}]


def test_a_name_that_the_worker_refuses_is_said(run: Run, filled: FakeWorker) -> None:
    detail = "There is a workspace 'mill' already."
    filled.failures["PATCH /api/workspaces/w_1"] = problem_of("conflict", detail, 409)

    answer = run("workspace", "rename", "shop", "mill")

    assert answer.exit_code != 0
    assert answer.stderr == f"claudedo: {detail}\n"


@pytest.mark.parametrize("command", [["rename", "none", "x"], ["rm", "none", "--yes"]])
def test_an_unknown_workspace_lists_those_there_are(
    run: Run, filled: FakeWorker, command: list[str]
) -> None:
    answer = run("workspace", *command)

    assert answer.exit_code == 4
    assert "there are: shop, mill" in answer.stderr
    assert [verb for verb, _, _ in filled.asked if verb in ("PATCH", "DELETE")] == []


def test_rm_without_a_terminal_wants_yes_and_removes_nothing(run: Run, filled: FakeWorker) -> None:
    answer = run("workspace", "rm", "shop", stdin="y\n")

    assert answer.exit_code == 5
    assert "--yes" in answer.stderr
    assert filled.requests("DELETE", "/api/workspaces/w_1") == []


def test_rm_with_yes_says_what_went(run: Run, filled: FakeWorker) -> None:
    answer = run("workspace", "rm", "shop", "--yes")

    assert answer.stdout.splitlines() == [
        "Removed backend.",
        "Removed ask-me.",
        "Removed the workspace shop and its token.",
    ]
    [asked] = filled.requests("DELETE", "/api/workspaces/w_1")
    assert "force" not in asked
    assert asked["env"]["CLAUDEDO_HOME"]
    assert [one["name"] for one in filled.workspaces] == ["mill"]


def test_rm_names_what_goes_before_it_asks_and_takes_only_yes(
    run: Run, filled: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "can_ask", lambda: True)

    refused = run("workspace", "rm", "shop", stdin="\n")

    assert refused.exit_code == 5
    assert refused.stderr.splitlines() == [
        "This goes with the workspace shop, and cannot be brought back:",
        "  the task backend (ongoing) with its thread, /src/shop.worktrees/backend if we made it",
        "  the task ask-me (ongoing) with its thread",
        "  the token laptop (tok_1)",
        "The repository /src/shop stays.",
        "Remove all of it? [y/N] claudedo: Nothing was removed.",
    ]
    assert filled.requests("DELETE", "/api/workspaces/w_1") == []

    assert run("workspace", "rm", "shop", "--force", stdin="y\n").exit_code == 0
    assert filled.requests("DELETE", "/api/workspaces/w_1")[0]["force"] == "true"
