"""What a `start` wants of a new task, once its task file and the command line are put together.

Finds the repository and the section that counts; the command line wins over the file. The copy of
the file that counts is the one in the main checkout, read when the task is created.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from claudedo import claude_args, task_file
from claudedo.errors import UsageError
from claudedo.model import Launch, Recipe
from claudedo.task_file import Section
from claudedo_worker import git
from claudedo_worker.git import Repository


@dataclass(frozen=True, kw_only=True)
class Intent:
    """A task as it is wanted. `source`: the checkout whose file was used, None without one."""

    repository: Repository
    section: Section = field(default_factory=Section)
    launch_args: tuple[str, ...] = ()
    source: Path | None = None

    @property
    def recipe(self) -> Recipe:
        """What is kept with the task of what the file says."""
        said = self.section
        return Recipe(
            setup=said.setup,
            teardown=said.teardown,
            copy=said.copy,
            links=said.links,
            env=said.env,
            dir=said.dir,
        )

    def launch(
        self,
        model: str | None,
        permission_mode: str | None,
        arguments: Sequence[str],
        *,
        trust: bool,
    ) -> Launch:
        """How its session is started; what the command line says comes last, and wins."""
        return Launch(
            model=model or self.section.model,
            permission_mode=permission_mode or self.section.permission_mode,
            claude_args=(*self.launch_args, *arguments),
            trust=trust,
        )


async def read(directory: Path, name: str, *, chosen: bool) -> Intent:
    """What the task `name`, started in `directory`, is to be.

    `chosen`: the person named that very directory, so that a `repo` in the file does not count.
    Raises `UsageError` for a task file that is wrong, and what `git.discover` raises.
    """
    here = await git.discover(directory)
    path = task_file.find(here.main, _below(here, directory))
    section = task_file.load(path).get(name) if path else None
    if path is None or section is None:
        return Intent(repository=here)
    if keys := section.one_shot_keys():
        raise UsageError(
            f"{path}: tasks.{name}.{keys[0]} is for one-shots (`claudedo queue add`); "
            "`claudedo start` opens a session that ends when you end it."
        )
    elsewhere = section.repo is not None and not chosen
    repository = await git.discover(path.parent / str(section.repo)) if elsewhere else here
    return Intent(
        repository=repository,
        section=section,
        launch_args=_settled(path, name, section, here.main),
        source=here.main,
    )


def _below(repository: Repository, directory: Path) -> Path:
    """Where in its checkout a directory is: there, and above it, a task file is looked for."""
    real = directory.resolve()
    return real.relative_to(repository.top) if real.is_relative_to(repository.top) else Path()


def _settled(path: Path, name: str, section: Section, root: Path) -> tuple[str, ...]:
    try:
        return claude_args.settled(section.args, path.parent, root)
    except UsageError as error:
        raise UsageError(f"{path}: tasks.{name}.args: {error}") from error
