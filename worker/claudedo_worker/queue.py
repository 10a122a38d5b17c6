"""The queue: one-shot tasks added, begun in their order, judged, taken up again.

Who runs the queue calls `next` until nothing is left: the environment that sessions need is theirs,
and is kept nowhere. What a session of a one-shot does while it runs is `one_shot`'s; here it is
begun, and here its facts become a verdict.
"""

from __future__ import annotations

import asyncio
import graphlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from claudedo import claude_args, moves
from claudedo.errors import ClaudedoError, ConflictError, NotFoundError, UsageError
from claudedo.model import (
    Assignee,
    OneShot,
    QueueStatus,
    Rules,
    RunExit,
    Task,
    TaskStatus,
    Verdict,
    Workspace,
    check_name,
    new_id,
    now,
)
from claudedo.settings import Settings
from claudedo.task_file import Section
from claudedo_worker import claude_binary, git, launch
from claudedo_worker.intent import Intent
from claudedo_worker.joined import Work, join
from claudedo_worker.judge import Facts, judge
from claudedo_worker.mailbox import Mailbox
from claudedo_worker.merge import Job, keep, newest
from claudedo_worker.store import Store
from claudedo_worker.supervisor import Supervisor
from claudedo_worker.tasks import Tasks, name_from

log = logging.getLogger(__name__)

CLAUDEDO = "claudedo"
"""The party that moves a task by a verdict."""

RETRIES = 2

_MOVED = {
    QueueStatus.COMPLETED: TaskStatus.COMPLETED,
    QueueStatus.REJECTED: TaskStatus.REJECTED,
    QueueStatus.FAILED: TaskStatus.BLOCKED,
}
"""What a verdict makes of the task. One that was skipped or cancelled stays as it is."""


@dataclass(frozen=True, kw_only=True)
class Addition:
    """Tasks that are to join the queue together, as a task file or the command line tells them.

    `source`: the folder that paths in `tasks` are seen from. The rest holds for all of them.
    """

    cwd: str
    tasks: Mapping[str, Section]
    source: str | None = None
    workspace: str | None = None
    permission_mode: str | None = None
    model: str | None = None
    claude_args: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What whoever runs the queue wants of it now."""

    env: Mapping[str, str] = field(repr=False)
    jobs: int = 1
    workspace_id: str | None = None  # None: all
    tasks: frozenset[str] | None = None  # ids; None: all
    trust: bool = False
    rules: Rules = field(default_factory=Rules)


class Queue:
    """The one-shot tasks of this worker."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        tasks: Tasks,
        mailbox: Mailbox,
        supervisor: Supervisor,
    ) -> None:
        self._settings = settings
        self._store = store
        self._tasks = tasks
        self._mailbox = mailbox
        self._supervisor = supervisor
        self._choosing = asyncio.Lock()
        # What is being ended: for good, or for now, to be queued again.
        self._cancelled: set[str] = set()
        self._coming_back: set[str] = set()

    # Adding

    async def add(self, addition: Addition) -> list[Task]:
        """Put tasks into the queue: all, or none.

        Raises `UsageError` for what is wrong in one of them, naming it, and `ConflictError` for a
        name that is taken.
        """
        if not addition.tasks:
            raise UsageError("There is no task in it: each is a table [tasks.NAME].")
        _check_prompts(addition.tasks)
        async with self._choosing:
            drafts = [await self._draft(addition, name) for name in addition.tasks]
            places = {task.workspace_id for task in drafts}
            near = [task for task in await self._store.tasks() if task.workspace_id in places]
            queued = {one_shot.task_id for one_shot in await self._store.one_shots()}
            known = {task.name: task.id for task in near if task.id in queued}
            _check_free(drafts, near, known)
            needs = _resolved(addition.tasks, drafts, known)
            async with self._store.together():
                return [
                    await self._add(await self._placed(task), addition.tasks[task.name], needs)
                    for task in drafts
                ]

    async def _draft(self, addition: Addition, name: str) -> Task:
        check_name(name)
        section = addition.tasks[name]
        source = Path(addition.source or addition.cwd)
        try:
            directory = source / section.repo if section.repo else Path(addition.cwd)
            repository = await git.discover(directory)
            if section.base and await git.commit(repository.top, section.base) is None:
                raise UsageError(f"base: there is no commit {section.base!r} in {repository.main}.")
            claude_args.check_for_one_shot(section.args)
            args = claude_args.settled(section.args, source, repository.main)
        except ClaudedoError as error:
            raise UsageError(f"tasks.{name}: {error}") from error
        intent = Intent(repository=repository, section=section, launch_args=args)
        claude_args.check_for_one_shot(addition.claude_args)
        given = claude_args.anchored(addition.claude_args, Path(addition.cwd))
        launch.split_arguments(given, Path(addition.cwd))
        own = await self._workspace_of(repository.main)
        return Task(
            id=new_id("t"),
            workspace_id=own.id if own else "",  # see `_placed`
            workspace=check_name(addition.workspace or name_from(repository.main.name)),
            name=name,
            body=section.prompt or "",
            status=TaskStatus.NOTSTARTED,
            assignee=Assignee.AGENT,
            repo=str(repository.main),
            worktree=None,
            branch=None,
            base=None,
            base_branch=await git.branch_of(repository.top, section.base or "HEAD"),
            made_worktree=False,
            made_branch=False,
            launch=intent.launch(addition.model, addition.permission_mode, given, trust=False),
            recipe=intent.recipe,
            created_at=now(),
        )

    async def _workspace_of(self, root: Path) -> Workspace | None:
        return next((w for w in await self._store.workspaces() if w.root == str(root)), None)

    async def _placed(self, task: Task) -> Task:
        """The task with its workspace, which is made if its repository has none."""
        workspace = await self._store.workspace_for(str(task.repo), task.workspace)
        return replace(task, workspace_id=workspace.id, workspace=workspace.name)

    async def _add(
        self, task: Task, section: Section, needs: Mapping[str, tuple[str, ...]]
    ) -> Task:
        await self._store.add_task(task)
        one_shot = OneShot(
            task_id=task.id,
            needs=needs[task.name],
            base=section.base,
            check=section.check,
            timeout=section.timeout,
            budget=section.budget,
            retries=RETRIES if section.retries is None else section.retries,
            priority=section.priority or 0,
        )
        await self._store.add_one_shot(one_shot, task)
        await self._mailbox.send(task, task.body, sender=None, key=f"prompt:{task.id}")
        return task

    # Running

    async def next(self, turn: Turn) -> list[str]:
        """Begin as many of the tasks that are ready as `turn.jobs` allows; returns their ids.

        Raises what keeps all of them from being begun: no `claude`, or a repository that nobody
        trusted. What keeps one of them from it becomes its verdict.
        """
        env = launch.anchored_environment(turn.env, None)
        async with self._choosing:
            await self.recover()
            chosen = await self._chosen(turn)
            waiting = [task for task, one_shot in chosen if one_shot.status is QueueStatus.QUEUED]
            if waiting:
                await claude_binary.find(self._settings.claude, env)
                await self._tasks.check_trust(waiting, env, trust=turn.trust)
            await self._skip_hopeless()
            running = sum(one_shot.status is QueueStatus.RUNNING for _, one_shot in chosen)
            ready = await self._ready(await self._chosen(turn))
            begun = ready[: max(0, turn.jobs - running)]
            for task, one_shot in begun:
                await self._begin(task, one_shot, replace(turn, env=env))
        return [task.id for task, _ in begun]

    async def _chosen(self, turn: Turn) -> list[tuple[Task, OneShot]]:
        tasks = {task.id: task for task in await self._store.tasks()}
        return [
            (tasks[one_shot.task_id], one_shot)
            for one_shot in await self._store.one_shots()
            if one_shot.task_id in tasks
            and (turn.tasks is None or one_shot.task_id in turn.tasks)
            and turn.workspace_id in (None, tasks[one_shot.task_id].workspace_id)
        ]

    async def _ready(self, chosen: Sequence[tuple[Task, OneShot]]) -> list[tuple[Task, OneShot]]:
        """Those that may begin now: the most urgent first, then the oldest."""
        done = {
            one_shot.task_id
            for one_shot in await self._store.one_shots()
            if one_shot.status is QueueStatus.COMPLETED
        }
        ready = [
            (task, one_shot)
            for task, one_shot in chosen
            if one_shot.status is QueueStatus.QUEUED and done.issuperset(one_shot.needs)
        ]
        return sorted(ready, key=lambda pair: -pair[1].priority)

    async def _begin(self, task: Task, one_shot: OneShot, turn: Turn) -> None:
        self._cancelled.discard(task.id)
        self._coming_back.discard(task.id)
        try:
            await self._supervisor.settled(task.id)  # it was judged, and may still be ending
            one_shot = await self._store.change_one_shot(
                one_shot,
                status=QueueStatus.RUNNING,
                rules=turn.rules,
                started_at=one_shot.started_at or now(),
                not_before=None,
            )
            base = one_shot.base
            if task.worktree is None and one_shot.needs:
                base = await self._base_of(task, one_shot, turn.env)
            if task.status is not TaskStatus.ONGOING:
                await self._move(task, TaskStatus.ONGOING)
            await self._tasks.begin(task, base=base, environ=turn.env, trust=turn.trust)
        except (ClaudedoError, OSError) as error:
            await self.verdict(task, Facts(trouble=str(error)))

    async def _base_of(self, task: Task, one_shot: OneShot, environ: Mapping[str, str]) -> str:
        """A commit that has the work of all that the task needs."""
        works = []
        for need in one_shot.needs:
            needed = await self._store.task(need)
            if needed.repo == task.repo:  # another repository's work is no base for it
                works.append(Work(needed.name, await self._work_of(needed)))
        base = one_shot.base or "HEAD"
        return await join(Path(task.repo or "."), works, environ) if works else base

    async def _work_of(self, needed: Task) -> str:
        """The commit with all that a task did, also where its session chose another branch."""
        try:
            return await newest(_job(needed))
        except ClaudedoError as error:
            reason = f"The branch of {needed.name}, which it needs, is gone: {error}"
            raise ConflictError(reason) from error

    # Ending

    async def verdict(self, task: Task, facts: Facts) -> None:
        """Judge a one-shot whose last process has ended, and skip what needed it in vain.

        All of it is one transaction. For one that is over already this does nothing.
        """
        one_shot = await self._store.one_shot(task.id)
        if one_shot is None or one_shot.status.over:
            return
        if facts.cancelled and task.id in self._coming_back - self._cancelled:
            # Cut off by a person, it has not failed: its retries stay what they were. The one
            # before a pause has.
            cut_off = 0 if one_shot.not_before else 1
            await self._store.change_one_shot(
                one_shot, attempts=max(0, one_shot.attempts - cut_off)
            )
            await self.requeue(task)
            return
        verdict = judge(await self._completed(task, one_shot, facts))
        # With a check it was committed before that: what is committed is what was checked.
        if verdict.exit is RunExit.DONE and one_shot.check is None:
            trouble = await self.keep(task)
            verdict = replace(verdict, exit=RunExit.FAILED, reason=trouble) if trouble else verdict
        async with self._store.together():
            there = await self._store.one_shot(task.id)
            if there is None or there.status.over:
                return
            await self._store.change_one_shot(
                there, status=verdict.status, verdict=verdict, ended_at=now(), checking=False
            )
            if verdict.status in _MOVED:
                await self._move(task, _MOVED[verdict.status])
            await self._skip_hopeless()
        log.info("judged", extra={"action": "judged", "task": task.name, "exit": verdict.exit})

    async def _completed(self, task: Task, one_shot: OneShot, facts: Facts) -> Facts:
        """The facts with what the session and its correspondents left in the store."""
        thread = await self._store.thread(task.id)
        own = [message for message in thread if message.sender == f"task:{task.id}"]
        return replace(
            facts,
            status=(await self._store.task(task.id)).status,
            words=own[-1].body if own else None,
            unread=tuple(message.id for message in await self._store.unread(task.id)),
            rules=one_shot.rules,
        )

    async def keep(self, task: Task) -> str | None:
        """Commit what a task left, so that what needs it finds it; returns why that cannot be."""
        try:
            await keep(_job(await self._store.task(task.id)))  # the record with its worktree
        except ClaudedoError as error:
            return f"it is done, but its work cannot be committed: {error}"
        return None

    async def _move(self, task: Task, status: TaskStatus) -> None:
        """Change how far the task is, as the one table allows: at need through `ongoing`."""
        task = await self._store.task(task.id)
        if task.status is status:
            return
        direct = status in moves.onward(task.assignee, task.status)
        for step in (status,) if direct else (TaskStatus.ONGOING, status):
            task = await self._store.task(task.id)
            if step in moves.onward(task.assignee, task.status):
                await self._store.move_task(task, step, CLAUDEDO, CLAUDEDO)

    async def _skip_hopeless(self) -> None:
        """Skip what needs a task that did not complete, and what needs that in turn."""
        names = {task.id: task.name for task in await self._store.tasks()}
        there = {one_shot.task_id: one_shot for one_shot in await self._store.one_shots()}
        while pair := next(_hopeless(there), None):
            one_shot, need = pair
            what = there[need].status if need in there else "was removed"
            reason = f"{names.get(need, 'a task')}, which it needs, {_is(what)}"
            verdict = Verdict(exit=RunExit.SKIPPED, reason=reason)
            there[one_shot.task_id] = await self._store.change_one_shot(
                one_shot, status=verdict.status, verdict=verdict, ended_at=now()
            )

    async def requeue(self, task: Task) -> None:
        """It did not come to its end: it waits for its turn again, and goes on where it was."""
        one_shot = await self._store.one_shot(task.id)
        if one_shot is not None and not one_shot.status.over:
            await self._store.change_one_shot(
                one_shot, status=QueueStatus.QUEUED, checking=False, not_before=None
            )

    async def recover(self) -> None:
        """Put back what was begun and no session works on: a worker was killed, a disk full."""
        for one_shot in await self._store.one_shots():
            running = one_shot.status is QueueStatus.RUNNING
            if running and not await self._supervisor.attends(one_shot.task_id):
                await self.requeue(await self._store.task(one_shot.task_id))

    # What a person wants

    async def cancel(self, tasks: Sequence[Task], *, requeue: bool) -> None:
        """End what runs of these tasks, cleanly; take out what waits, unless they come back."""
        async with self._choosing:  # what is being begun has a session afterwards
            for task in tasks:
                one_shot = await self._one_shot(task)
                if one_shot.status is QueueStatus.QUEUED and not requeue:
                    await self.verdict(task, Facts(cancelled=True))
            running = [t for t in tasks if (await self._one_shot(t)).status is QueueStatus.RUNNING]
        ends = self._coming_back if requeue else self._cancelled
        ends |= {task.id for task in running}
        await asyncio.gather(*(self._supervisor.stop(task.id) for task in running))
        ends -= {task.id for task in running}
        if requeue:
            await self.recover()
            return
        for task in running:  # nothing where it was judged; else its session was lost
            await self.verdict(task, Facts(cancelled=True))

    async def again(self, tasks: Sequence[Task]) -> None:
        """Let ended tasks go on: with the mail that came for them, or where they did not finish.

        Raises `ConflictError` for one that has nothing to go on with.
        """
        for task in tasks:
            one_shot = await self._one_shot(task)
            judged = one_shot.status in (QueueStatus.COMPLETED, QueueStatus.REJECTED)
            if judged and not await self._store.pending(task.id):
                raise ConflictError(
                    f"{task.name} is {one_shot.status}. To go on with it, say what is to be "
                    f"done: `claudedo send {task.name} TEXT`, then run it again."
                )
        async with self._store.together():
            for task in tasks:
                one_shot = await self._one_shot(task)
                if one_shot.status.over:
                    await self._store.change_one_shot(
                        one_shot,
                        status=QueueStatus.QUEUED,
                        verdict=None,
                        attempts=0,
                        seconds=0.0,
                        spent=0.0,
                        started_at=None,
                        ended_at=None,
                    )

    async def _one_shot(self, task: Task) -> OneShot:
        one_shot = await self._store.one_shot(task.id)
        if one_shot is None:
            raise NotFoundError(f"{task.name} is no one-shot: `claudedo queue ls` lists those.")
        return one_shot


def _job(task: Task) -> Job:
    return Job(
        name=task.name,
        main=Path(task.repo or "."),
        worktree=Path(task.worktree) if task.worktree else None,
        branch=task.branch,
        base=task.base,
        base_branch=task.base_branch,
        made_branch=task.made_branch,
        message=_subject(task),
        environ=os.environ,
    )


def _check_prompts(tasks: Mapping[str, Section]) -> None:
    if silent := [name for name, section in tasks.items() if not section.prompt]:
        raise UsageError(f"tasks.{silent[0]}: a one-shot needs a `prompt`.")


def _check_free(drafts: Sequence[Task], near: Sequence[Task], known: Mapping[str, str]) -> None:
    taken = {(task.workspace_id, task.name) for task in near}
    names = [task.name for task in drafts if (task.workspace_id, task.name) in taken]
    if not names:
        return
    one, listed = len(names) == 1, ", ".join(names)
    if set(names) <= known.keys():
        raise ConflictError(
            f"{listed} {'is' if one else 'are'} in the queue already: `claudedo rm "
            f"{' '.join(names)}` removes {'it' if one else 'them'}, or choose other names."
        )
    raise ConflictError(f"There is a task {names[0]} already; choose another name.")


def _resolved(
    sections: Mapping[str, Section], drafts: Sequence[Task], known: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """The ids of what each task needs. Raises `UsageError` for unknown ones and for a cycle."""
    ids = {**known, **{task.name: task.id for task in drafts}}
    for name, section in sections.items():
        if unknown := [need for need in section.needs if need not in ids]:
            there = ", ".join(sorted(ids.keys() - {name})) or "none"
            raise UsageError(
                f"tasks.{name}.needs: there is no one-shot {unknown[0]!r}; there are: {there}."
            )
    try:
        graphlib.TopologicalSorter({n: set(s.needs) for n, s in sections.items()}).prepare()
    except graphlib.CycleError as error:
        circle = " needs ".join(reversed(error.args[1]))
        raise UsageError(f"The tasks wait for each other: {circle}.") from error
    return {
        name: tuple(dict.fromkeys(ids[need] for need in section.needs))
        for name, section in sections.items()
    }


def _hopeless(there: Mapping[str, OneShot]) -> Iterator[tuple[OneShot, str]]:
    """Those that wait for a task that did not complete, or is gone, and for which."""
    for one_shot in there.values():
        if one_shot.status is not QueueStatus.QUEUED:
            continue
        for need in one_shot.needs:
            needed = there.get(need)
            failed = needed is not None and needed.status.over
            if needed is None or (failed and needed.status is not QueueStatus.COMPLETED):
                yield one_shot, need


def _is(what: str) -> str:
    return what if " " in what else f"is {what}"


def _subject(task: Task) -> str:
    """The message of the commit of what a task left uncommitted."""
    line = next((line for line in task.body.splitlines() if line.strip()), task.name).strip()
    return f"{task.name}: {line}"[:72]
