"""The life of a task: created, linked, started, stopped, started again, removed.

Everything that can be checked is checked before anything is made. Orders go down to the
supervisor; nothing here looks at a process.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from claudedo import claude_args
from claudedo.errors import (
    AmbiguousError,
    ClaudedoError,
    ConflictError,
    NotFoundError,
    RefusedError,
    UntrustedError,
    UsageError,
)
from claudedo.model import (
    Assignee,
    QueueStatus,
    Session,
    Task,
    TaskStatus,
    Workspace,
    check_name,
    new_id,
    now,
)
from claudedo.settings import Settings
from claudedo_worker import claude_binary, furnish, git, intent, launch, registry, worktree
from claudedo_worker.claude_binary import Claude
from claudedo_worker.dialogs import Kind
from claudedo_worker.furnish import Place
from claudedo_worker.intent import Intent
from claudedo_worker.mailbox import Mailbox
from claudedo_worker.ports import Ports
from claudedo_worker.store import Store
from claudedo_worker.supervisor import Order, Supervisor
from claudedo_worker.threads import Threads
from claudedo_worker.work import Work, work_in
from claudedo_worker.worktree import WorktreePlan


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One task of a `start`: its name, its own directory, and what to say to it first."""

    name: str
    dir: str | None = None
    prompt: str | None = None


@dataclass(frozen=True, kw_only=True)
class StartRequest:
    """A whole `start`, as the command line sends it."""

    cwd: str
    tasks: tuple[Wanted, ...]
    env: Mapping[str, str] = field(repr=False)
    base: str | None = None
    branch: str | None = None
    here: bool = False
    worktree: str | None = None
    links: tuple[str, ...] = ()
    no_link: bool = False
    trust: bool = False
    permission_mode: str | None = None
    model: str | None = None
    claude_args: tuple[str, ...] = ()
    workspace: str | None = None


@dataclass(frozen=True, kw_only=True)
class TakeOver(StartRequest):
    """The start of one task that goes on with, or forks, a conversation begun elsewhere.

    `cwd` is where that worked. `end` is called once nothing else can be in the way: it ends the
    process that has the conversation, or raises.
    """

    conversation: str | None = None
    fork_of: str | None = None  # a transcript
    end: Callable[[], Awaitable[None]]


_PLACE = (
    *("repo", "worktree", "branch", "base", "base_branch", "made_worktree", "made_branch"),
    *("launch", "recipe"),
)
"""What a task that was made without a place to work in gets when it is started."""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A task of a `start` that passed every check: existing, or about to be made."""

    wanted: Wanted
    task: Task
    plan: WorktreePlan | None
    exists: bool
    live: bool
    source: Path | None = None  # the checkout whose task file is used
    taken_on: bool = False  # made by somebody else, and never started

    def untrusted(self, environ: Mapping[str, str]) -> list[Path]:
        """The repositories, whose settings and files can run commands, that nobody trusted."""
        env = dict(environ)
        repo = Path(self.task.repo or ".")
        places = {repo, Path(self.task.worktree or ".")}
        missing = [] if any(registry.trusts(env, place) for place in places) else [repo]
        if self.source and self.source not in missing and not registry.trusts(env, self.source):
            missing.append(self.source)
        return missing


class Tasks:
    """What can be done with tasks."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        supervisor: Supervisor,
        mailbox: Mailbox,
        threads: Threads,
    ) -> None:
        self._settings = settings
        self._threads = threads
        self._store = store
        self._supervisor = supervisor
        self._mailbox = mailbox
        self._ports = Ports(settings, store)
        self._starting = asyncio.Lock()
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def resolve(
        self, target: str, *, cwd: str | None = None, workspace: str | None = None
    ) -> Task:
        """The task that a person means: name, workspace/name, or the beginning of an id.

        The workspace of `cwd` wins, then a unique match anywhere. Raises `NotFoundError`,
        `AmbiguousError` with the candidates.
        """
        tasks = await self._store.tasks()
        if workspace:
            await self._named_workspace(workspace)
            tasks = [task for task in tasks if task.workspace == workspace]
        found = [t for t in tasks if target in (t.id, t.name, f"{t.workspace}/{t.name}")]
        if len(found) > 1 and cwd and (here := await self._workspace_of(cwd)):
            found = [task for task in found if task.workspace_id == here.id] or found
        if not found and len(target) >= 4:
            found = [t for t in tasks if t.id.lower().startswith(target.lower())]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(f"{task.workspace}/{task.name}" for task in found)
            raise AmbiguousError(f"{target!r} could be: {names}.")
        known = ", ".join(sorted({task.name for task in tasks})) or "none yet"
        raise NotFoundError(f"There is no task {target!r}; there are: {known}.")

    async def start(self, request: StartRequest) -> list[Draft]:
        """Create what does not exist, link, and launch; returns once all is on its way."""
        async with self._starting:
            return await self._start(request)

    async def take_over(self, request: TakeOver) -> Task:
        """Make a task of a conversation; raises `ConflictError` if there is one of that name."""
        [draft] = await self.start(request)
        return draft.task

    async def _start(self, request: StartRequest) -> list[Draft]:
        _check_request(request)
        env = launch.anchored_environment(request.env, Path(request.cwd))
        request = replace(request, env=env)
        claude = await claude_binary.find(self._settings.claude, request.env)
        launch.split_arguments(request.claude_args, Path(request.cwd))
        extra = [
            await self.resolve(link, cwd=request.cwd, workspace=request.workspace)
            for link in request.links
        ]
        drafts = [await self._draft(request, wanted) for wanted in request.tasks]
        _check_names(request, drafts)
        _check_trust(request, drafts)
        await self._ports.check(sum(not d.live and d.task.port is None for d in drafts))
        drafts = [await self._placed(request, draft) for draft in drafts]
        if isinstance(request, TakeOver):
            drafts = [await _freed(request, draft) for draft in drafts]
        async with self._store.together():
            for draft in drafts:
                if not draft.exists:
                    await self._store.add_task(draft.task)
                elif draft.taken_on:
                    await self._begin(draft.task)
        await self._link(request, [draft.task for draft in drafts], extra)
        for draft in drafts:
            if draft.wanted.prompt:
                await self._say_first(draft, draft.wanted.prompt)
        for draft in drafts:
            if not draft.live:
                async with self._turn(draft.task):
                    await self._launch(draft.task, draft.plan, request, claude)
        return drafts

    async def _begin(self, task: Task) -> None:
        """Give a task that was made its place. Raises `ConflictError` if it was claimed lately."""
        _check_startable(await self._store.task(task.id))
        place = {name: getattr(task, name) for name in _PLACE}
        await self._threads.begin(await self._store.change_task(task, **place))

    async def _say_first(self, draft: Draft, prompt: str) -> None:
        """Store the prompt as a message; once, if a `start` that broke off is repeated."""
        key = None
        if await self._store.latest_session(draft.task.id) is None:
            key = f"start:{draft.task.id}:{hashlib.sha256(prompt.encode()).hexdigest()}"
        await self._mailbox.send(draft.task, prompt, sender=None, key=key)

    async def stop(self, task: Task) -> bool:
        """End a task's session; False if none runs."""
        return await self._supervisor.stop(task.id)

    async def restart(self, task: Task, environ: Mapping[str, str]) -> None:
        """Go on with the same conversation in a new process; a running one is ended first."""
        await self._check_not_queued(task)
        if task.worktree is None:
            _check_startable(task)
            raise ConflictError(
                f"{task.name} was never started; `claudedo start {task.name}` does."
            )
        environ = launch.anchored_environment(environ, None)
        claude = await claude_binary.find(self._settings.claude, environ)
        async with self._turn(task):
            await self._check_configuration(task, environ)
            plan = await self._lost_worktree(task)
            await self._supervisor.stop(task.id)
            request = StartRequest(
                cwd=task.repo or ".", tasks=(Wanted(name=task.name),), env=environ
            )
            await self._launch(task, plan, request, claude)

    async def begin(
        self, task: Task, *, base: str | None, environ: Mapping[str, str], trust: bool
    ) -> None:
        """Launch the session of a one-shot: in a worktree that begins at `base`, or in its own.

        Where it worked before it goes on with its conversation. Raises what `start` does, and
        `UntrustedError`.
        """
        repo = Path(task.repo or ".")
        request = StartRequest(
            cwd=str(repo), tasks=(Wanted(name=task.name),), env=environ, trust=trust
        )
        claude = await claude_binary.find(self._settings.claude, environ)
        async with self._starting, self._turn(task):
            task = await self._store.task(task.id)
            await self.check_trust([task], environ, trust=trust)
            if trust and not task.launch.trust:  # no dialog will ask, nor keep the answer
                task = await self._store.change_task(task, launch=replace(task.launch, trust=True))
            if task.worktree is None:
                plan, task = await self._first_place(task, base)
                await self._launch(task, plan, request, claude, one_shot=True)
                return
            await self._check_configuration(task, environ)
            lost = await self._lost_worktree(task)
            await self._launch(task, lost, request, claude, one_shot=True)

    async def check_trust(
        self, tasks: Sequence[Task], environ: Mapping[str, str], *, trust: bool
    ) -> None:
        """Raise `UntrustedError` naming the repositories of one-shots that nobody trusted.

        What was said for a task once holds for all its runs, and for the others of its repository:
        where no dialog asks, Claude Code keeps no answer.
        """
        said = {task.repo for task in await self._store.tasks() if task.launch.trust}
        request = StartRequest(cwd=".", tasks=(), env=environ, trust=trust)
        left = [task for task in tasks if not task.launch.trust and task.repo not in said]
        _check_trust(request, [_of_one_shot(task) for task in left])

    async def _first_place(self, task: Task, base: str | None) -> tuple[WorktreePlan, Task]:
        """A worktree and a branch for a one-shot that has none; kept in its record."""
        repository = await git.discover(Path(task.repo or "."))
        plan = await worktree.plan_worktree(
            repository, task.name, worktree_dir=self._settings.worktree_dir, base=base
        )
        return plan, await self._store.change_task(
            task,
            worktree=str(plan.path),
            branch=plan.branch,
            base=plan.base_commit,
            made_worktree=not plan.reuse,
            made_branch=plan.make_branch,
        )

    async def remove(
        self,
        task: Task,
        *,
        force: bool,
        environ: Mapping[str, str] | None = None,
        saved: str | None = None,
    ) -> str:
        """Remove a task with its worktree and branch; never work of its own unless `force`.

        `environ`: what its teardown runs with, the worker's own by omission. `saved`: a commit
        whose changes are elsewhere. Returns a sentence about what was done. Raises `RefusedError`
        naming what would be lost.
        """
        async with self._turn(task):
            if not force:
                await self._check_no_guest(task)
                await self.check_no_work(task, saved)
            await self._supervisor.stop(task.id)
            trouble = await self._tear_down(task, environ or os.environ, force=force)
            stays = f"; {task.worktree} stays as it is" if task.worktree else ""
            summary = f"Removed {task.name}{stays}."
            if task.made_worktree and task.worktree and task.repo:
                removal = await worktree.remove_worktree(
                    Path(task.worktree),
                    task.branch,
                    Path(task.repo),
                    force=force,
                    made_branch=task.made_branch,
                    base=task.base_branch,
                    saved=saved,
                )
                summary = removal.summary()
            await self._threads.forget(task)
            self._settings.task_log(task.id).unlink(missing_ok=True)
            await asyncio.to_thread(shutil.rmtree, self.run_dir(task), ignore_errors=True)
        self._turns.pop(task.id)
        return f"{summary}{trouble}"

    async def _tear_down(self, task: Task, environ: Mapping[str, str], *, force: bool) -> str:
        """Run the teardown in a worktree that is about to be removed.

        One that fails keeps the worktree (`RefusedError`), or with `force` is told of.
        """
        session = await self._store.latest_session(task.id)
        there = task.made_worktree and task.worktree and Path(task.worktree).is_dir()
        if not (there and task.recipe.teardown and session):
            return ""
        place = await self._place(task, environ, session.id)
        try:
            await furnish.run("teardown", task.recipe.teardown, place)
        except ClaudedoError as error:
            if not force:
                raise RefusedError(
                    f"{error}. Nothing was removed: put it right, or use --force."
                ) from error
            return f" But {error}."
        return ""

    def run_dir(self, task: Task) -> Path:
        """Where the processes of a one-shot leave what they say."""
        return self._settings.run_dir(task.id)

    def log_of(self, task: Task) -> str | None:
        """Where the output of a task's setup and teardown is; None if there is none."""
        log = self._settings.task_log(task.id)
        return str(log) if log.exists() else None

    async def _place(self, task: Task, environ: Mapping[str, str], session_id: str) -> Place:
        """Where setup and teardown of a task run, on behalf of its session."""
        peers = [peer.name for peer in await self._store.peers(task.id)]
        return Place(
            main=Path(task.repo or "."),
            worktree=Path(task.worktree or "."),
            log=self._settings.task_log(task.id),
            env=launch.environment(environ, task, session_id, peers),
            limit=self._settings.setup_timeout,
            name=task.name,
        )

    async def _check_no_guest(self, task: Task) -> None:
        """Refuse to remove a folder in which another task works."""
        if not task.made_worktree or not task.worktree:
            return
        for other in await self._store.tasks():
            there = other.id != task.id and other.worktree
            if there and Path(there).is_relative_to(task.worktree):
                raise ConflictError(
                    f"The task {other.name} works in {task.worktree}, too, which would be removed "
                    f"with {task.name}: `claudedo rm {other.name}` first, or use --force."
                )

    async def check_no_work(self, task: Task, saved: str | None = None) -> None:
        """Refuse what `remove` would refuse without `force`, before anything is stopped."""
        if not task.made_worktree or not task.worktree:
            return
        try:
            work = await work_in(
                Path(task.worktree),
                task.branch,
                keeps_branch=not task.made_branch,
                base=task.base_branch,
                saved=saved,
            )
        except NotFoundError:
            return  # the folder is gone, or was never made
        if work:
            raise RefusedError(
                f"{task.worktree} holds {work.summary()}, which would be lost; "
                f"{_way_to_merge(task, work)}save it, or use --force."
            )

    async def link(self, one: Task, other: Task) -> None:
        """Make two tasks peers."""
        if one.id == other.id:
            raise UsageError(f"{one.name} cannot be its own peer.")
        await self._store.link(one, other)

    async def unlink(self, one: Task, other: Task) -> None:
        """They are peers no more."""
        await self._store.unlink(one, other)

    # Starting

    async def _draft(self, request: StartRequest, wanted: Wanted) -> Draft:
        directory = claude_args.seen_from(Path(request.cwd), wanted.dir or ".")
        repository = await git.discover(directory)
        existing = await self._existing(request, repository, wanted.name)
        if existing and (existing.worktree or isinstance(request, TakeOver)):
            return await self._again(request, wanted, existing)
        if isinstance(request, TakeOver):
            return await self._anew(request, wanted, Intent(repository=repository))
        if existing:
            _check_startable(existing)
        wish = await intent.read(directory, wanted.name, chosen=wanted.dir is not None)
        existing = existing or await self._existing(request, wish.repository, wanted.name)
        if existing and existing.worktree:
            return await self._again(request, wanted, existing)
        if existing:
            return await self._take_on(request, wanted, wish, existing)
        wanted = replace(wanted, prompt=wanted.prompt or wish.section.prompt)
        return await self._anew(request, wanted, wish)

    async def _again(self, request: StartRequest, wanted: Wanted, task: Task) -> Draft:
        """A task that exists: what its task file said when it was made still counts."""
        session = await self._store.latest_session(task.id)
        if session and session.state.live:
            return Draft(wanted=wanted, task=task, plan=None, exists=True, live=True)
        await self._check_not_queued(task)
        if session is None and not await self._store.thread(task.id):
            # A `start` broke off before it could say what it was to say.
            wanted = replace(wanted, prompt=wanted.prompt or task.body or None)
        await self._check_configuration(task, request.env)
        plan = await self._lost_worktree(task)
        return Draft(wanted=wanted, task=task, plan=plan, exists=True, live=False)

    async def _check_not_queued(self, task: Task) -> None:
        """Refuse a second session to a one-shot whose own is still to come, or runs."""
        one_shot = await self._store.one_shot(task.id)
        if one_shot is None or one_shot.status.over:
            return
        how = "queue run" if one_shot.status is QueueStatus.QUEUED else "logs -f"
        raise ConflictError(
            f"{task.name} is a one-shot, {one_shot.status}: see `claudedo {how} {task.name}`. "
            f"After `claudedo queue cancel {task.name}` it can be had at a terminal."
        )

    async def _take_on(
        self, request: StartRequest, wanted: Wanted, wish: Intent, task: Task
    ) -> Draft:
        """A task that was made in so many words, whose thread begins with its body."""
        _check_startable(task)
        await self._check_not_queued(task)
        draft = await self._anew(request, wanted, wish)
        made = draft.task
        task = replace(task, **{name: getattr(made, name) for name in _PLACE})
        return replace(draft, task=task, exists=True, taken_on=True)

    async def _anew(self, request: StartRequest, wanted: Wanted, wish: Intent) -> Draft:
        repository = wish.repository
        base = request.base or wish.section.base
        plan = await self._plan(request, wanted, repository, base)
        given = claude_args.anchored(request.claude_args, Path(request.cwd))
        task = Task(
            id=new_id("t"),
            workspace_id="",  # see `_placed`
            workspace="",
            name=wanted.name,
            body=wanted.prompt or "",
            status=TaskStatus.ONGOING,
            assignee=Assignee.AGENT,
            repo=str(repository.main),
            worktree=str(plan.path if plan else repository.top),
            branch=plan.branch if plan else repository.branch,
            base=plan.base_commit if plan else repository.head,
            base_branch=await git.branch_of(repository.top, base or "HEAD"),
            made_worktree=plan is not None and not plan.reuse,
            made_branch=plan is not None and plan.make_branch,
            launch=wish.launch(request.model, request.permission_mode, given, trust=request.trust),
            recipe=wish.recipe,
            created_at=now(),
        )
        return Draft(
            wanted=wanted, task=task, plan=plan, exists=False, live=False, source=wish.source
        )

    async def _plan(
        self, request: StartRequest, wanted: Wanted, repository: git.Repository, base: str | None
    ) -> WorktreePlan | None:
        if request.here:
            return None
        chosen = request.worktree
        return await worktree.plan_worktree(
            repository,
            wanted.name,
            worktree_dir=self._settings.worktree_dir,
            branch=request.branch,
            base=base,
            path=claude_args.seen_from(Path(request.cwd), chosen) if chosen else None,
        )

    @contextlib.asynccontextmanager
    async def _turn(self, task: Task) -> AsyncIterator[None]:
        """One after the other for what ends or begins a task's session. Raises `NotFoundError`."""
        async with self._turns[task.id]:
            await self._store.task(task.id)
            yield

    async def _check_configuration(self, task: Task, environ: Mapping[str, str]) -> None:
        """Refuse to begin a conversation anew that stands in another configuration's folder."""
        session = await self._store.latest_session(task.id)
        config_dir = str(registry.config_dir(dict(environ)))
        if session is None or session.transcript is None or session.config_dir == config_dir:
            return
        if Path(session.transcript).exists():
            raise ConflictError(
                f"The conversation of {task.name} is kept in {session.config_dir}, this shell "
                f"uses {config_dir}: set CLAUDE_CONFIG_DIR as it was when the task was started."
            )

    async def _lost_worktree(self, task: Task) -> WorktreePlan | None:
        """How to make a task's worktree again if its folder was removed, or never made whole."""
        made = await self._was_made(task)
        if not task.worktree or (Path(task.worktree).is_dir() and made):
            return None
        if not task.made_worktree or not task.repo:
            raise ConflictError(f"The folder of {task.name}, {task.worktree}, is gone.")
        repository = await git.discover(Path(task.repo))
        base = None  # a branch that was there once is there, or was deleted by somebody
        if not made and task.base and await git.commit(repository.top, task.base):
            base = task.base
        return await worktree.plan_worktree(
            repository, task.name, branch=task.branch, base=base, path=Path(task.worktree)
        )

    async def _was_made(self, task: Task) -> bool:
        """False if no process ever ran in it: a killed worker may have left it half made."""
        session = await self._store.latest_session(task.id)
        return not task.made_worktree or (session is not None and session.pid is not None)

    async def _launch(
        self,
        task: Task,
        plan: WorktreePlan | None,
        request: StartRequest,
        claude: Claude,
        *,
        one_shot: bool = False,
    ) -> None:
        previous = await self._store.latest_session(task.id)
        unseen = previous is None or previous.pid is None  # the dialog never came up
        grants = {Kind.TRUST} if request.trust or (task.launch.trust and unseen) else set()
        if request.trust or task.launch.trust:
            grants.add(Kind.DIRECTORY)  # the answer holds for one start (19.7)
        if launch.asks_for_bypass(task):
            grants.add(Kind.BYPASS)
        task = await self._ports.give(task)
        conversation, fork_of = _begun(request, previous)

        async def prepare() -> Task:
            assert plan is not None
            made = await worktree.add_worktree(plan)
            return replace(task, worktree=str(made.path))

        async def fill(made: Task, session_id: str) -> None:
            place = await self._place(made, request.env, session_id)
            await furnish.furnish(made.recipe, place)

        wants = task.recipe.setup or task.recipe.copy or task.recipe.links
        order = Order(
            claude=claude,
            environ=request.env,
            peers=tuple(peer.name for peer in await self._store.peers(task.id)),
            grants=frozenset(grants),
            conversation=conversation,
            fork_of=fork_of,
            prepare=prepare if plan else None,
            furnish=fill if task.made_worktree and wants else None,
            one_shot=one_shot,
        )
        await self._supervisor.start(task, order)

    async def _link(
        self, request: StartRequest, started: Sequence[Task], extra: Sequence[Task]
    ) -> None:
        together = [*(() if request.no_link else started), *extra]
        for index, one in enumerate(started):
            for other in together:
                if other.id not in {task.id for task in started[: index + 1]}:
                    await self._store.link(one, other)

    # Workspaces

    async def _placed(self, request: StartRequest, draft: Draft) -> Draft:
        """The draft with its workspace, which is made if the repository has none."""
        if draft.exists:
            return draft
        root = Path(draft.task.repo or ".")
        workspace = await self._workspace(request, root)
        if workspace is None:
            name = check_name(request.workspace or name_from(root.name))
            workspace = await self._store.workspace_for(str(root), name)
        task = replace(draft.task, workspace_id=workspace.id, workspace=workspace.name)
        return replace(draft, task=task)

    async def _workspace(self, request: StartRequest, root: Path) -> Workspace | None:
        """The workspace that tasks of the repository `root` belong to, if there is one.

        Raises `NotFoundError` for another one that was named and is not there.
        """
        workspaces = await self._store.workspaces()
        named = [w for w in workspaces if w.name == request.workspace]
        own = [w for w in workspaces if w.root == str(root)]
        if request.workspace and own and not named:
            raise NotFoundError(
                f"There is no workspace {request.workspace!r}; the repository {root} belongs to "
                f"{own[0].name!r}: leave out -w."
            )
        return next(iter([*named, *own]), None)

    async def _named_workspace(self, name: str) -> Workspace:
        workspaces = {w.name: w for w in await self._store.workspaces()}
        if name not in workspaces:
            known = ", ".join(workspaces) or "none yet"
            raise NotFoundError(f"There is no workspace {name!r}; there are: {known}.")
        return workspaces[name]

    async def _workspace_of(self, cwd: str) -> Workspace | None:
        try:
            repository = await git.discover(Path(cwd))
        except (NotFoundError, RefusedError):
            return None
        roots = {w.root: w for w in await self._store.workspaces()}
        return roots.get(str(repository.main))

    async def _existing(
        self, request: StartRequest, repository: git.Repository, name: str
    ) -> Task | None:
        if (workspace := await self._workspace(request, repository.main)) is None:
            return None
        tasks = await self._store.tasks()
        return next((t for t in tasks if (t.workspace_id, t.name) == (workspace.id, name)), None)


def _check_request(request: StartRequest) -> None:
    names = [check_name(wanted.name) for wanted in request.tasks]
    if not names:
        raise UsageError("Name at least one task to start.")
    if request.workspace:
        check_name(request.workspace)
    if request.here and request.worktree:
        raise UsageError("--here and --worktree exclude each other.")
    if len(names) > 1 and (request.branch or request.worktree):
        raise UsageError("--branch and --worktree are for one task at a time.")


def _of_one_shot(task: Task) -> Draft:
    return Draft(wanted=Wanted(name=task.name), task=task, plan=None, exists=True, live=False)


def _check_startable(task: Task) -> None:
    """Raise what keeps a task without a worktree from getting a session."""
    if task.assignee is Assignee.HUMAN:
        raise RefusedError(
            f"{task.name} is a task for a person and gets no session: `claudedo answer {task.name}`"
        )
    if task.holder and (task.held_until or "") > now():
        raise ConflictError(
            f"{task.name} is being worked on: it was claimed. To take it away from who has it: "
            f"`claudedo status {task.name} notstarted`."
        )


def _check_names(request: StartRequest, drafts: Sequence[Draft]) -> None:
    """Two tasks may have one name, in two repositories."""
    places = [(request.workspace or draft.task.repo, draft.task.name) for draft in drafts]
    for place, name in places:
        if places.count((place, name)) > 1:
            raise UsageError(f"{name} is named twice in {place}: each task can be named only once.")


def _check_trust(request: StartRequest, drafts: Sequence[Draft]) -> None:
    folders = [str(folder) for draft in drafts for folder in draft.untrusted(request.env)]
    if folders and not request.trust:
        *most, last = dict.fromkeys(folders)
        named = f"{', '.join(most)} and {last}" if most else last
        raise UntrustedError(
            f"Claude Code was never told to trust {named}. Sessions there will read, edit and run "
            "files, and what settings, hooks and claudedo.toml there say will run (--trust says "
            "that you trust that)."
        )


async def _freed(request: TakeOver, draft: Draft) -> Draft:
    """The draft, once nobody else has its conversation; without a worktree it stays in its folder.

    Raises what `end` raises, and `ConflictError` if the task exists.
    """
    if draft.exists:
        raise ConflictError(
            f"There is a task {draft.task.name} already; choose another name with --name."
        )
    await request.end()
    place = draft.task.worktree if draft.plan else request.cwd
    return replace(draft, task=replace(draft.task, worktree=place))


def _begun(request: StartRequest, previous: Session | None) -> tuple[str | None, str | None]:
    """The conversation to go on with, and the transcript to fork if it has none of its own."""
    if isinstance(request, TakeOver):
        return request.conversation, request.fork_of
    return (previous.conversation, previous.fork_of) if previous else (None, None)


def name_from(folder: str) -> str:
    """A workspace's, or a task's, name from the name of a folder."""
    allowed = "abcdefghijklmnopqrstuvwxyz0123456789._-"
    kept = "".join(c if c in allowed else "-" for c in folder.lower())
    return kept.strip("._-")[:63] or "project"


def _way_to_merge(task: Task, work: Work) -> str:
    """How what a worktree holds is merged, where that is what keeps it."""
    if work.uncommitted or work.untracked:
        return f"`claudedo merge {task.name} --commit -m MESSAGE` merges it; else "
    return f"`claudedo merge {task.name}` merges it; else " if work.commits else ""
