"""What can be done with a whole workspace: renamed, removed with all that is in it.

A task is removed by the rules of `tasks`; here it is only seen to that either all of them may go,
or nothing is touched. The repository itself is never touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from claudedo.errors import ClaudedoError, NotFoundError, RefusedError
from claudedo.model import Task, Workspace, check_name
from claudedo_worker.store import Store
from claudedo_worker.tasks import Tasks


@dataclass(frozen=True, kw_only=True)
class Removed:
    """What went with a workspace."""

    name: str
    tasks: tuple[str, ...]  # a sentence about each
    tokens: int


class Workspaces:
    """The workspaces of one state directory."""

    def __init__(self, store: Store, tasks: Tasks) -> None:
        self._store = store
        self._tasks = tasks

    async def rename(self, workspace: Workspace, name: str) -> Workspace:
        """Give it another name; its id, its tasks and its tokens stay what they are.

        Raises `UsageError` for what cannot be a name, `ConflictError` for one that is taken.
        """
        return await self._store.rename_workspace(workspace, check_name(name))

    async def remove(
        self, workspace: Workspace, *, force: bool, environ: Mapping[str, str] | None = None
    ) -> Removed:
        """Remove it with its tasks, their worktrees, threads and files, and its tokens.

        `environ`: what the tasks' teardown runs with. Raises `RefusedError`, with nothing removed,
        while a session runs there, and without `force` where a worktree holds work of its own.
        """
        tasks = await self._tasks_of(workspace)
        await self._check_ended(workspace, tasks)
        if not force:
            await self._check_no_work(tasks)
        gone: list[str] = []
        for task in tasks:
            try:
                # As it is now: removing one changes what those know that it made.
                current = await self._store.task(task.id)
                gone.append(await self._tasks.remove(current, force=force, environ=environ))
            except NotFoundError:
                continue  # somebody else removed it
            except ClaudedoError as error:
                before = f" Before that: {' '.join(gone)}" if gone else ""
                raise type(error)(f"{workspace.name} stays. {error}{before}") from error
        tokens = [t for t in await self._store.tokens() if t.workspace_id == workspace.id]
        await self._store.remove_workspace(workspace)
        return Removed(name=workspace.name, tasks=tuple(gone), tokens=len(tokens))

    async def _tasks_of(self, workspace: Workspace) -> list[Task]:
        return [t for t in await self._store.tasks() if t.workspace_id == workspace.id]

    async def _check_ended(self, workspace: Workspace, tasks: Sequence[Task]) -> None:
        live = {session.task_id for session in await self._store.live_sessions()}
        running = [task.name for task in tasks if task.id in live]
        if running:
            raise RefusedError(
                f"Nothing was removed: sessions run in {workspace.name} ({', '.join(running)}). "
                f"`claudedo stop --all -w {workspace.name}` ends them."
            )

    async def _check_no_work(self, tasks: Sequence[Task]) -> None:
        """Raise one error for all worktrees that hold work of their own."""
        refusals = []
        for task in tasks:
            try:
                await self._tasks.check_no_work(task)
            except RefusedError as error:
                refusals.append(str(error))
        if refusals:
            raise RefusedError(f"Nothing was removed. {' '.join(refusals)}")
