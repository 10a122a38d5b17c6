"""diff, exec, merge and rm: the commands, a real worker and the real git; no session runs."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pexpect
import pytest
from typer.testing import CliRunner, Result

from claudedo.cli.app import app
from claudedo.demo.repository import make_repository
from claudedo.model import Recipe
from claudedo_worker.store import Store
from tests.support.own_worker import OwnWorker
from tests.support.records import a_task

COMMAND = [sys.executable, "-P", "-m", "claudedo.cli.app"]

GH = """#!/bin/sh
echo "gh $*" >> "$GH_LOG"
case "$1 $2" in
  "pr list") [ -n "$GH_BROKEN" ] && exit 4; cat "$GH_KNOWN" 2>/dev/null ;;
  "pr create") echo https://github.example/pull/7 ;;
esac
exit 0
"""


PLACES = 40


class Finish:
    """A repository of its own with the task `backend` in a worktree, of a worker for all tests."""

    def __init__(self, place: Path, worker: OwnWorker) -> None:
        self.root = place
        self.main = place / "shop"
        self.tree = place / "shop.worktrees" / "backend"
        self.worker = worker
        make_repository(self.main)
        self.git("worktree", "add", "-q", "-b", "claudedo/backend", str(self.tree))
        self.base = self.git("rev-parse", "HEAD")
        self.bin = place / "bin"
        self.bin.mkdir()
        self.environment = {
            key: value
            for key, value in os.environ.items()
            if "CLAUDE" not in key and not key.startswith("GIT_")
        } | {
            "CLAUDEDO_HOME": str(worker.home),
            "HOME": str(place),
            "GIT_CONFIG_NOSYSTEM": "1",
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "GH_LOG": str(place / "gh.log"),
            "GH_KNOWN": str(place / "gh.known"),
        }

    def git(self, *arguments: str, at: Path | None = None) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=at or self.main, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def commit(self, message: str, at: Path | None = None, /, **files: str) -> str:
        """Commit files in the worktree, or `at` another place; `_` stands for the dot."""
        place = at or self.tree
        for name, text in files.items():
            (place / name.replace("_", ".")).write_text(text)
        self.git("add", "--all", at=place)
        self.git("commit", "-q", "-m", message, at=place)
        return self.git("rev-parse", "HEAD", at=place)

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command as a process of its own, whose children write where it writes."""
        return subprocess.run(
            [*COMMAND, *arguments],
            cwd=self.main,
            env=self.environment | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def done(self, *arguments: str, **variables: str) -> str:
        answer = self.run(*arguments, **variables)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    def ask(self, *arguments: str) -> Result:
        """Run a command that starts no program, without the cost of a process."""
        with contextlib.chdir(self.main):
            return CliRunner(env=self.environment).invoke(app, arguments, prog_name="claudedo")

    def asked(self, *arguments: str) -> str:
        answer = self.ask(*arguments)
        assert answer.exit_code == 0, answer.stderr
        return answer.stdout

    def program(self, name: str, script: str) -> None:
        (self.bin / name).write_text(script)
        (self.bin / name).chmod(0o755)

    def tasks(self) -> set[str]:
        workspace = f"shop-{self.root.name}"
        return {task["name"] for task in json.loads(self.asked("ls", "--json", "-w", workspace))}


async def fill(store: Store, root: Path) -> None:
    """The same three tasks in many repositories, of which each test makes one."""
    for number in range(PLACES):
        place = root / str(number)
        main = place / "shop"
        shop = await store.workspace_for(str(main), f"shop-{number}")
        # The commit is found by its branch: a repository that is still to come has no id for it.
        known = {"repo": str(main), "base": "HEAD", "base_branch": "main"}
        tree = str(place / "shop.worktrees" / "backend")
        recipe = Recipe(env={"COLOUR": "blue"})
        backend = a_task(shop, "backend", worktree=tree, recipe=recipe, **known)
        made = {"made_worktree": False, "made_branch": False}
        here = a_task(shop, "in-place", worktree=str(main), branch="main", **known, **made)
        gone = a_task(shop, "gone", worktree=str(place / "gone"), **known)
        for task in (backend, here, gone):
            await store.add_task(task)
        await store.link(backend, gone)


@pytest.fixture(scope="module")
def worker() -> Iterator[OwnWorker]:
    with TemporaryDirectory(prefix="cdo") as folder:
        root = Path(folder).resolve()
        made = OwnWorker(root / "home", {"HOME": folder, "GIT_CONFIG_NOSYSTEM": "1"})
        made.seed(lambda store: fill(store, root))
        made.start()
        try:
            yield made
        finally:
            made.close()


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    return iter(range(PLACES))


@pytest.fixture
def finish(worker: OwnWorker, numbers: Iterator[int]) -> Finish:
    return Finish(worker.home.parent / str(next(numbers)), worker)


def test_diff_shows_committed_uncommitted_and_untracked_and_leaves_the_index_alone(
    finish: Finish,
) -> None:
    finish.commit("One", one="1\n")
    (finish.tree / "README.md").write_text("# Changed\n")
    (finish.tree / ":(glob)*\nx").write_text("odd\n")
    (finish.tree / "two").write_text("2\n")
    (finish.main / ".git/info/exclude").write_text("*.log\n")
    (finish.tree / "build.log").write_text("ignored\n")
    finish.commit("Ours", finish.main, ours="ours\n")
    before = finish.git("status", "--porcelain", at=finish.tree)

    patch = finish.done("diff", "backend")
    assert {line for line in patch.splitlines() if line.startswith(("+", "-"))} == {
        "+1",
        "+2",
        "+odd",
        "+# Changed",
        "-# Scripted",
        "--- /dev/null",
        "--- a/README.md",
        "+++ b/README.md",
        "+++ b/one",
        "+++ b/two",
        '+++ "b/:(glob)*\\nx"',
    }
    assert finish.git("status", "--porcelain", at=finish.tree) == before
    assert "4 files changed" in finish.done("diff", "backend", "--stat")
    assert json.loads(finish.asked("diff", "backend", "--json")) == [
        {"path": ":(glob)*\nx", "added": 1, "deleted": 0},
        {"path": "README.md", "added": 1, "deleted": 1},
        {"path": "one", "added": 1, "deleted": 0},
        {"path": "two", "added": 1, "deleted": 0},
    ]
    assert "+++ b/one" in finish.done("diff", "backend", "--", "one")
    assert "two" not in finish.done("diff", "backend", "--", "one")
    # What is shown can be applied.
    finish.git("switch", "-q", "-c", "copy", finish.base)
    subprocess.run(["git", "apply"], cwd=finish.main, input=patch.encode(), check=True)
    assert (finish.main / "two").read_text() == "2\n"


def test_diff_is_plain_when_no_terminal_reads_it_and_never_asks_a_pager(finish: Finish) -> None:
    finish.commit("One", one="1\n")
    for key, value in {
        "color.ui": "always",
        "diff.external": "false",
        "core.pager": "false",
    }.items():
        finish.git("config", key, value)
    assert "\x1b" not in finish.done("diff", "backend")


def test_diff_at_a_terminal_looks_as_the_persons_git(finish: Finish) -> None:
    finish.commit("One", one="1\n")
    finish.git("config", "core.pager", "sed s/^/paged:/")
    shown = pexpect.run(
        f"{shlex.join(COMMAND)} diff backend",
        cwd=str(finish.main),
        env={**finish.environment, "TERM": "xterm-256color"},
        timeout=60,
    )
    assert isinstance(shown, bytes)
    assert b"paged:" in shown
    assert b"\x1b[32m" in shown


def test_diff_of_nothing_says_so_and_in_a_git_hook_looks_at_the_task(finish: Finish) -> None:
    answer = finish.run("diff", "backend")
    assert (answer.returncode, answer.stdout) == (0, "")
    assert answer.stderr == "backend changed nothing since it left main.\n"
    assert finish.asked("diff", "backend", "--json") == "[]\n"

    finish.commit("One", one="1\n")
    hooked = {"GIT_DIR": str(finish.root / "nowhere"), "GIT_INDEX_FILE": "nothing"}
    assert "+++ b/one" in finish.done("diff", "backend", **hooked)


def test_diff_of_a_folder_that_is_gone_shows_the_branch(finish: Finish) -> None:
    finish.commit("One", one="1\n")
    shutil.rmtree(finish.tree)
    assert "+++ b/one" in finish.done("diff", "backend")
    answer = finish.run("diff", "gone")
    assert answer.returncode == 5
    assert "gone" in answer.stderr


def test_a_diff_that_git_cannot_make_is_a_failure_like_any_other(finish: Finish) -> None:
    finish.commit("New", new_txt="new")
    for options in ([], ["--stat"], ["--json"]):
        done = finish.run("diff", "backend", *options, "--", ":(nonsense)x")
        assert done.returncode == 1
        assert done.stderr.count("fatal: ") == 1
        assert "claudedo: " in done.stderr


def test_exec_runs_in_the_folder_with_the_tasks_variables_and_no_mark_of_a_session(
    finish: Finish,
) -> None:
    shown = finish.done(
        "exec", "backend", "--", "sh", "-c", "pwd; echo $PWD; env", COLOUR="red", MINE="kept"
    )
    lines = shown.splitlines()
    variables = dict(line.split("=", 1) for line in lines[2:] if "=" in line)
    assert lines[:2] == [str(finish.tree)] * 2
    assert variables["CLAUDEDO_TASK_NAME"] == "backend"
    assert variables["CLAUDEDO_PEERS"] == "gone"
    assert variables["CLAUDEDO_WORKTREE"] == str(finish.tree)
    assert variables["CLAUDEDO_REPO"] == str(finish.main)
    assert (variables["COLOUR"], variables["MINE"]) == ("blue", "kept")
    assert "CLAUDEDO_SESSION" not in variables
    # So what is run there is still the person.
    assert finish.done("exec", "backend", "--", *COMMAND, "path", "backend") == f"{finish.tree}\n"


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (("sh", "-c", "exit 7"), 7),
        (("sh", "-c", "kill -TERM $$"), -15),
        (("no-such-command",), 127),
        (("./not-there",), 127),
        (("./README.md",), 126),
        (("sh", "-c", "yes | head -1 > /dev/null; exit 3"), 3),
    ],
    ids=str,
)
def test_exec_ends_as_its_command_ends(
    finish: Finish, command: tuple[str, ...], status: int
) -> None:
    answer = finish.run("exec", "backend", "--", *command)
    assert answer.returncode == status
    if status in (126, 127):
        assert answer.stderr.startswith(f"claudedo: {command[0]}: ")


def test_exec_needs_a_command_and_a_folder(finish: Finish) -> None:
    assert finish.ask("exec", "backend").exit_code == 2
    assert finish.ask("exec", "backend", "--").exit_code == 2
    assert finish.ask("exec", "backend", "--", "").exit_code == 2
    assert finish.ask("exec", "nobody", "--", "true").exit_code == 4
    answer = finish.ask("exec", "gone", "--", "true")
    assert answer.exit_code == 4
    assert "claudedo restart gone" in answer.stderr
    assert finish.done("exec", "backend", "pwd") == f"{finish.tree}\n"


def test_merge_goes_from_refused_to_done_to_removed(finish: Finish) -> None:
    (finish.main / "README.md").write_text("in work\n")
    (finish.tree / "one").write_text("1\n")

    refused = finish.ask("merge", "backend")
    assert refused.exit_code == 5
    assert "--commit" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1

    said = finish.asked("merge", "backend", "--commit", "-m", "Add one", "--rm")
    assert "Committed what was uncommitted" in said
    assert "Merged 1 commit of backend into main" in said
    assert "deleted the branch claudedo/backend" in said
    assert finish.git("log", "-1", "--format=%s %an") == "Add one Demo"
    assert (finish.main / "one").read_text() == "1\n"
    assert (finish.main / "README.md").read_text() == "in work\n"
    assert not finish.tree.exists()
    assert finish.git("branch", "--list", "claudedo/*") == ""
    assert finish.tasks() == {"in-place", "gone"}


def test_squash_and_rm_need_no_force_and_a_squash_alone_can_be_removed_later(
    finish: Finish,
) -> None:
    finish.commit("One", one="1\n")
    finish.commit("Two", two="2\n")
    finish.commit("Ours", finish.main, ours="ours\n")
    said = finish.asked("merge", "backend", "--squash")
    assert "as one commit" in said
    assert finish.git("log", "-1", "--format=%s") == "Squash branch 'claudedo/backend' into main"
    assert "Nothing to merge" in finish.asked("merge", "backend", "--squash")
    finish.commit("Three", three="3\n")
    assert finish.ask("rm", "backend").exit_code == 5
    assert "Removed" in finish.asked("merge", "backend", "--squash", "--rm", "-m", "The rest")
    assert finish.git("log", "-1", "--format=%s") == "The rest"
    assert not finish.tree.exists()


@pytest.mark.parametrize("how", [(), ("--squash",)], ids=str)
def test_merge_and_rm_of_work_that_was_taken_back_keeps_its_commits(
    finish: Finish, how: tuple[str, ...]
) -> None:
    finish.commit("One", one="1\n")
    finish.git("revert", "--no-edit", "HEAD", at=finish.tree)
    answer = finish.ask("merge", "backend", "--rm", *how)
    assert answer.exit_code == 5
    assert "Nothing to merge" in answer.stderr
    assert "2 unmerged commits" in answer.stderr
    assert finish.tree.exists()


def test_rm_after_a_merge_needs_no_force_and_says_what_stays(finish: Finish) -> None:
    head = finish.commit("One", one="1\n")
    finish.asked("merge", "backend", "--squash")
    said = finish.ask("rm", "backend", "in-place", "gone")
    assert said.stdout.splitlines()[0] == (
        f"Removed {finish.tree} and deleted the branch claudedo/backend (was {head[:10]})."
    )
    assert f"Removed in-place; {finish.main} stays as it is." in said.stdout
    assert said.exit_code == 0
    assert finish.tasks() == set()
    assert finish.git("status", "--porcelain") == ""


def test_a_merge_that_succeeds_while_its_rm_does_not_says_both(finish: Finish) -> None:
    finish.commit("One", one="1\n")
    finish.git("worktree", "lock", "--reason", "on a stick", str(finish.tree))
    answer = finish.ask("merge", "backend", "--rm")
    assert answer.exit_code == 5
    assert "Merged 1 commit" in answer.stderr
    assert "not removed" in answer.stderr
    assert "on a stick" in answer.stderr
    assert finish.tasks() == {"backend", "in-place", "gone"}


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--commit",), 2, "-m MESSAGE"),
        (("-m", "x"), 2, "--squash"),
        (("--squash", "-m", " "), 2, "empty"),
        (("--pr", "--squash"), 2, "--squash"),
        (("--into", "nope"), 4, "nope"),
        (("--into", "claudedo/backend"), 5, "itself"),
        (("-w", "elsewhere"), 4, "elsewhere"),
    ],
    ids=str,
)
def test_merge_says_what_is_wrong_with_the_request(
    finish: Finish, arguments: tuple[str, ...], status: int, words: str
) -> None:
    finish.commit("One", one="1\n")
    answer = finish.ask("merge", "backend", *arguments)
    assert answer.exit_code == status, answer.stderr
    assert words in answer.stderr
    assert finish.git("rev-parse", "main") == finish.base


def test_merge_of_a_task_in_place_or_without_anything_is_refused(finish: Finish) -> None:
    answer = finish.ask("merge", "in-place")
    assert (answer.exit_code, "works on main itself" in answer.stderr) == (5, True)
    assert finish.ask("merge", "nobody").exit_code == 4


def test_work_that_can_be_merged_is_not_removed_and_the_way_to_merge_it_is_named(
    finish: Finish,
) -> None:
    finish.commit("One", one="1\n")
    answer = finish.ask("rm", "backend")
    assert "`claudedo merge backend` merges it" in answer.stderr
    (finish.tree / "more").write_text("more\n")
    answer = finish.ask("rm", "backend")
    assert answer.exit_code == 5
    assert "`claudedo merge backend --commit -m MESSAGE` merges it" in answer.stderr


def test_conflicts_end_with_5_and_change_nothing(finish: Finish) -> None:
    finish.commit("Theirs", README_md="theirs\n")
    ours = finish.commit("Ours", finish.main, README_md="ours\n")
    answer = finish.ask("merge", "backend", "--rm")
    assert answer.exit_code == 5
    assert "'README.md'" in answer.stderr
    assert finish.git("rev-parse", "main") == ours
    assert finish.git("status", "--porcelain") == ""
    assert finish.tree.exists()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"env": {}, "commit": True},
        {"env": {}, "commit": "yes"},
        {"env": {}, "into": 7},
        {"env": {}, "colour": "red"},
        {"env": {"A": 1}},
        {"env": {}, "message": "a\0b"},
    ],
    ids=str,
)
def test_a_malformed_merge_is_refused(finish: Finish, body: dict[str, Any]) -> None:
    task = json.loads(finish.asked("show", "backend", "--json"))["id"]
    for verb in ("merge", "proposal"):
        answer = finish.worker.ask("POST", f"/api/tasks/{task}/{verb}", body)
        assert (answer.status, answer.json["code"]) == (400, "usage")


# A pull request


@pytest.fixture
def remote(finish: Finish) -> Path:
    bare = finish.root / "remote.git"
    finish.git("clone", "-q", "--bare", str(finish.main), str(bare))
    finish.git("remote", "add", "upstream", str(bare))
    return bare


def calls(finish: Finish) -> list[str]:
    log = Path(finish.environment["GH_LOG"])
    return log.read_text().splitlines() if log.exists() else []


def pushed(finish: Finish, remote: Path) -> str:
    return finish.git("for-each-ref", "--format=%(refname:short) %(objectname)", at=remote)


def test_pr_pushes_the_branch_opens_a_pull_request_and_finds_it_again(
    finish: Finish, remote: Path
) -> None:
    finish.program("gh", GH)
    (finish.tree / "one").write_text("1\n")
    assert finish.run("merge", "backend", "--pr").returncode == 5
    assert calls(finish) == []

    answer = finish.run("merge", "backend", "--pr", "--commit", "-m", "Add one")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == "https://github.example/pull/7\n"
    head = finish.git("rev-parse", "claudedo/backend")
    assert f"claudedo/backend {head}" in pushed(finish, remote)
    assert calls(finish)[-1] == "gh pr create --head claudedo/backend --base main --fill"
    assert finish.git("rev-parse", "main") == finish.base

    Path(finish.environment["GH_KNOWN"]).write_text("https://github.example/pull/7\n")
    head = finish.commit("Two", two="2\n")
    assert "Removed" in finish.done("merge", "backend", "--pr", "--rm")
    assert [call for call in calls(finish) if "create" in call] == calls(finish)[1:2]
    assert f"claudedo/backend {head}" in pushed(finish, remote)
    assert not finish.tree.exists()


def test_without_gh_a_login_or_a_remote_nothing_is_pushed(finish: Finish, remote: Path) -> None:
    finish.commit("One", one="1\n")
    before = pushed(finish, remote)
    narrow = finish.root / "narrow"
    narrow.mkdir()
    (narrow / "git").symlink_to(str(shutil.which("git")))
    answer = finish.run("merge", "backend", "--pr", PATH=str(narrow))
    assert answer.returncode == 5
    assert "gh" in answer.stderr

    finish.program("gh", GH)
    assert finish.run("merge", "backend", "--pr", GH_BROKEN="1").returncode == 1
    finish.git("remote", "add", "other", str(remote))
    answer = finish.run("merge", "backend", "--pr")
    assert (answer.returncode, "remote.pushDefault" in answer.stderr) == (5, True)
    finish.git("config", "remote.pushDefault", "nobody")
    assert finish.run("merge", "backend", "--pr").returncode == 1  # git finds nobody there
    finish.git("config", "--unset", "remote.pushDefault")
    finish.git("remote", "remove", "other")
    finish.git("remote", "remove", "upstream")
    answer = finish.run("merge", "backend", "--pr")
    assert (answer.returncode, "no remote" in answer.stderr) == (5, True)
    assert pushed(finish, remote) == before
    assert not any("create" in call for call in calls(finish))


def test_merge_never_pushes(finish: Finish, remote: Path) -> None:
    before = pushed(finish, remote)
    finish.commit("One", one="1\n")
    finish.asked("merge", "backend", "--rm")
    assert pushed(finish, remote) == before
