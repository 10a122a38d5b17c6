"""What docs/ offers to build servers: each command in it is one that the parser takes."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from claudedo import task_file
from claudedo.cli.app import app

DOCS = Path(__file__).parents[2] / "docs"
WORKFLOW: dict[Any, Any] = yaml.safe_load((DOCS / "ci" / "claudedo.yml").read_text())
[JOB] = WORKFLOW["jobs"].values()

VALUES = {
    **{"JOBS": "2", "{JOBS:-2}": "2", "TASKS": "tasks.toml", "tasks": "tasks.toml", "@": ""},
    '{ALLOWED_TOOLS:+-- --allowedTools "$ALLOWED_TOOLS"}': "-- --allowedTools Bash",
}
"""What stands for the variables in a command; every other one is a word."""


CALL = re.compile(
    r"\$\((claudedo [^)\n]*)\)|(?:^|[;&|]|\bdo |\bthen )\s*(claudedo [^|;&\n]*)", re.MULTILINE
)


def blocks(file: Path, *kinds: str) -> Iterator[str]:
    """The fenced blocks of these kinds in a Markdown file."""
    for kind, text in re.findall(r"^```(\w*)\n(.*?)^```", file.read_text(), re.M | re.S):
        if kind in kinds:
            yield text


def commands(text: str) -> Iterator[str]:
    """Each call of claudedo in a shell script."""
    whole = re.sub(r"\\\n\s*", " ", text)
    for found in CALL.finditer(whole):
        yield found[1] or found[2]


def words(command: str) -> list[str]:
    """Its words, as a shell would give them to it."""
    filled = re.sub(r"\$(\w+|@|\{[^}]*\})", lambda found: VALUES.get(found[1], "w"), command)
    plain = re.sub(r"\s\d?>\S*|\s<\S*", " ", filled)
    return [word for word in shlex.split(plain, comments=True)[1:] if word]


def parse(given: list[str]) -> None:
    """Have the real parser read a command line; raises what it finds wrong."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[given[0]]
        given = given[1:]
    command.make_context("claudedo", [*given])


SCRIPTS = [step["run"] for step in JOB["steps"] if "run" in step]
TEXTS = {
    "claudedo.yml": "\n".join(SCRIPTS),
    "run.sh": (DOCS / "ci" / "run.sh").read_text(),
    "ci.md": "\n".join(blocks(DOCS / "ci.md", "sh", "groovy", "yaml")),
    "one-shots.md": "\n".join(blocks(DOCS / "one-shots.md", "sh")),
}
COMMANDS = [(name, command) for name, text in TEXTS.items() for command in commands(text)]


@pytest.mark.parametrize(("file", "command"), COMMANDS)
def test_the_parser_takes_a_command_that_the_docs_offer(file: str, command: str) -> None:
    parse(words(command))


def test_the_parser_refuses_what_it_does_not_know() -> None:
    with pytest.raises(Exception, match="--jubs"):
        parse(words("claudedo queue run --jubs 2"))


def test_the_files_do_what_they_are_offered_for() -> None:
    for file in ("claudedo.yml", "run.sh"):
        calls = [command for name, command in COMMANDS if name == file]
        [add] = [call for call in calls if "queue add" in call]
        [run] = [call for call in calls if "queue run" in call]
        assert "--file" in words(add)
        assert {"--trust", "--jobs", "--junit", "--artifacts"} <= set(words(run))
        assert calls.index(add) < calls.index(run)


def test_the_workflow_may_do_no_more_than_read() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert "permissions" not in JOB


def test_the_key_is_a_secret_that_only_the_run_is_given() -> None:
    knowing = [step for step in JOB["steps"] if "ANTHROPIC_API_KEY" in str(step)]

    assert [step["env"]["ANTHROPIC_API_KEY"] for step in knowing] == [
        "${{ secrets.ANTHROPIC_API_KEY }}"
    ]
    assert "claudedo queue run" in knowing[0]["run"]
    assert "ANTHROPIC_API_KEY" not in str({**WORKFLOW, "jobs": None})


def test_no_input_of_a_person_is_pasted_into_a_script() -> None:
    assert [script for script in SCRIPTS if "${{" in script] == []


def test_artifacts_are_kept_whatever_the_tasks_came_to() -> None:
    [upload] = [step for step in JOB["steps"] if "upload-artifact" in step.get("uses", "")]

    assert upload["if"] == "always()"


def test_the_cli_is_pinned_to_a_version_that_is_tested() -> None:
    makefile = (DOCS.parent / "Makefile").read_text()
    tested = re.search(r"^CLAUDE_VERSIONS := (.*)$", makefile, re.M)

    assert tested
    assert WORKFLOW["env"]["CLAUDE_CODE_VERSION"] in tested[1].split()
    assert any("@anthropic-ai/claude-code@$CLAUDE_CODE_VERSION" in script for script in SCRIPTS)


@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
def test_the_script_is_one_for_every_shell(shell: str) -> None:
    try:
        subprocess.run([shell, "-n", DOCS / "ci" / "run.sh"], check=True, timeout=60)
    except FileNotFoundError:
        pytest.skip(f"there is no {shell}")


@pytest.mark.parametrize("text", [*blocks(DOCS / "one-shots.md", "toml")])
def test_the_task_files_of_the_docs_are_taken(text: str) -> None:
    assert task_file.parse(text)
