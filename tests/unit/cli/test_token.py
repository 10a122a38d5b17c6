"""Which token a person means: rotate, revoke, ls."""

from __future__ import annotations

from typing import Any

import pytest

from claudedo.client import WorkerClient
from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_worker import STORED, FakeWorker


def token(identity: str, name: str, workspace: str = "shop", **changes: Any) -> dict[str, Any]:
    """One element of `token ls --json`."""
    return {
        "id": identity,
        "name": name,
        "workspace": workspace,
        "created_at": STORED,
        "expires_at": STORED,
        "last_used_at": None,
        "revoked_at": None,
        "valid": True,
        **changes,
    }


@pytest.fixture
def revoked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the tokens that were revoked."""
    found: list[str] = []

    def revoke(self: WorkerClient, identity: str) -> dict[str, Any]:
        found.append(identity)
        return token(identity, "laptop")

    monkeypatch.setattr(WorkerClient, "revoke_token", revoke)
    return found


def test_a_name_in_two_workspaces_is_told_with_them_and_chosen_by_one(
    run: Run, worker: FakeWorker, revoked: list[str]
) -> None:
    worker.tokens += [token("tok_1", "laptop"), token("tok_2", "laptop", "mill")]

    refused = run("token", "revoke", "laptop")
    done = run("token", "revoke", "laptop", "-w", "mill")

    assert refused.exit_code == 4
    assert "tok_1  shop/laptop" in refused.stderr
    assert "tok_2  mill/laptop" in refused.stderr
    assert (done.exit_code, revoked) == (0, ["tok_2"])


def test_a_token_that_was_revoked_is_no_unknown_one(
    run: Run, worker: FakeWorker, revoked: list[str]
) -> None:
    worker.tokens.append(token("tok_1", "laptop", revoked_at=STORED, valid=False))

    answer = run("token", "rotate", "laptop")

    assert answer.exit_code == 5
    assert "laptop is revoked; `claudedo token create --name laptop` makes another" in answer.stderr
    assert revoked == []


def test_there_may_be_no_such_token(run: Run, worker: FakeWorker) -> None:
    answer = run("token", "revoke", "laptop")

    assert answer.exit_code == 4
    assert "`claudedo token ls` lists them" in answer.stderr


@pytest.mark.parametrize("command", [("ls",), ("asks",), ("token", "ls")])
def test_a_workspace_that_there_is_not_is_not_taken_for_an_empty_one(
    run: Run, worker: FakeWorker, command: tuple[str, ...]
) -> None:
    worker.workspaces.append({"id": "w_1", "name": "shop", "root": "/src/shop", "counts": {}})

    assert run(*command, "-w", "shop").exit_code == 0
    refused = run(*command, "-w", "mill")

    assert (refused.exit_code, refused.stdout) == (4, "")
    assert "There is no workspace 'mill'; there are: shop." in refused.stderr
