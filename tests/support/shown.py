"""What `queue run --json` and the report of a one-shot tell, for tests of what is made of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from claudedo.model import Assignee, Launch, OneShot, RunExit, Task, TaskStatus, Verdict, now
from claudedo.protocol import one_shot_json


def a_task(name: str) -> Task:
    """A task as the queue makes one."""
    return Task(
        id=f"t_{name}",
        workspace_id="w_1",
        workspace="shop",
        name=name,
        body=f"Build {name}.",
        status=TaskStatus.NOTSTARTED,
        assignee=Assignee.AGENT,
        repo=None,
        worktree=None,
        branch=f"claudedo/{name}",
        base=None,
        base_branch="main",
        made_worktree=False,
        made_branch=True,
        launch=Launch(),
        created_at=now(),
    )


def shown(name: str, verdict: Verdict | None, **more: Any) -> dict[str, Any]:
    """One element of `queue run --json`; `more` are fields of the `OneShot`."""
    ran = verdict is not None and verdict.exit is not RunExit.SKIPPED
    one = OneShot(task_id=f"t_{name}", attempts=int(ran), seconds=1.5 * ran, spent=0.25 * ran)
    if verdict is not None:
        one = replace(one, status=verdict.status, verdict=verdict)
    return one_shot_json(a_task(name), replace(one, **more), None, ())


def a_report(run: Path, name: str = "build", **more: Any) -> dict[str, Any]:
    """The answer of `GET /api/queue/{task}/report` for a task whose run folder is `run`."""
    done = Verdict(exit=RunExit.DONE, reason="its check passed", result="All is built.")
    return {
        **shown(name, done),
        "prompt": f"Build {name}.",
        "check": "make test",
        "folder": str(run),
        "transcript": str(run / "conversation.jsonl"),
        "repo": None,
        "base": None,
        "messages": [{"id": "m_1", "body": "hello"}],
        **more,
    }
