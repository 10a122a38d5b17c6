"""Task files: what they say, and what a file that somebody else wrote must not say."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from claudedo import task_file
from claudedo.errors import UsageError
from claudedo.task_file import Section

WHOLE = """
[tasks.api]
prompt = "Build the API."
dir = "services/api"
repo = "../api"
base = "main"
setup = "npm ci"
teardown = "docker compose down"
copy = [".env", "config/*.local"]
links = ["node_modules"]
model = "opus"
permission_mode = "acceptEdits"
env = { PORT = "$CLAUDEDO_PORT", EMPTY = "" }
args = ["--append-system-prompt", "Be brief."]

[tasks.batch]
needs = ["api"]
check = "make test"
timeout = 600
budget = 2.5
retries = 1
priority = 3
"""


def test_a_file_says_everything_that_the_contract_knows() -> None:
    read = task_file.parse(WHOLE)
    assert read == {
        "api": Section(
            prompt="Build the API.",
            dir="services/api",
            repo="../api",
            base="main",
            setup="npm ci",
            teardown="docker compose down",
            copy=(".env", "config/*.local"),
            links=("node_modules",),
            model="opus",
            permission_mode="acceptEdits",
            env={"PORT": "$CLAUDEDO_PORT", "EMPTY": ""},
            args=("--append-system-prompt", "Be brief."),
        ),
        "batch": Section(
            needs=("api",), check="make test", timeout=600, budget=2.5, retries=1, priority=3
        ),
    }
    assert read["api"].one_shot_keys() == []
    assert read["batch"].one_shot_keys() == list(task_file.ONE_SHOT)


def test_the_same_can_be_said_in_json_and_nothing_at_all() -> None:
    text = json.dumps({"tasks": {"api": {"prompt": "Go", "retries": 0}}})
    assert task_file.parse(text, as_json=True) == {"api": Section(prompt="Go", retries=0)}
    assert task_file.parse("") == {}


WRONG: dict[str, tuple[str, str]] = {
    "an unknown key": ("[tasks.api]\nsteup = 'x'", "tasks.api: unknown key 'steup'; known: prompt"),
    "an unknown table": ("[task.api]", "unknown key 'task'"),
    "tasks as a list": ("[[tasks]]", "tasks must be a table"),
    "a task as a text": ("tasks.api = 'x'", "tasks.api must be a table"),
    "a name that is none": ("[tasks.'../x']", "cannot be a name"),
    "a name in capitals": ("[tasks.API]", "cannot be a name"),
    "no TOML": ("[tasks", "no TOML"),
    "nested without end": ("a = " + "[" * 100_000, "no TOML"),
}


@pytest.mark.parametrize(("text", "sentence"), WRONG.values(), ids=WRONG)
def test_a_file_that_is_wrong_as_a_whole_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        task_file.parse(text)
    assert sentence in str(refused.value)


CHAINS = {
    "bare": "a." * 65_000 + "a = 1",
    "quoted": '\'a\'."\\"" . ' * 20_000 + "a = 1",
    "header": "[" + "a." * 65_000 + "a]",
    "inside": "[tasks.api]\nenv = {" + "a." * 65_000 + "a = '1'}",
    "never closed": "a = '" + '"\\"' * 65_000,
    "broken": ("a." * 99 + " ") * 1_300,
}


@pytest.mark.parametrize("text", CHAINS.values(), ids=CHAINS)
def test_no_file_keeps_its_reader_busy(text: str) -> None:
    """A key of 32,000 parts took the parser of the standard library 42 seconds."""
    began = time.process_time()
    with pytest.raises(UsageError, match="it is no TOML"):
        task_file.parse(text)
    assert time.process_time() - began < 5


def test_dots_in_a_prompt_are_no_key() -> None:
    words = "a.b " * 500 + "." * 500 + "see docs. Then go. " * 100
    assert task_file.parse(f"[tasks.api]\nprompt = '{words}'")["api"].prompt == words


VALUES: dict[str, list[Any]] = {
    "prompt": [1, "", " ", "a\0b", ["x"], "x" * 300_000, "\ud800"],
    "dir": ["/etc", "..", "a/../../b", "~/x", "", "a\0b", 1],
    "repo": ["", 1, "a\0b"],
    "base": ["--upload-pack=x", "", 1],
    "setup": ["", 1, ["make"], "a\0b"],
    "teardown": [True],
    "copy": [".env", [1], ["/etc/passwd"], ["../x"], ["a/../../x"], ["."], [".git"], ["a/.GIT/x"],
             [""], ["~/x"], ["a\0b"]],
    "links": ["node_modules", ["../other/node_modules"], [".git/hooks"]],
    "model": ["--dangerously-skip-permissions", 1],
    "permission_mode": ["bypassPermissions", "auto", "BypassPermissions", "yolo", 1],
    "env": [[], {"A": 1}, {"A": "a\0b"}, {"A=B": "x"}, {"BASH_FUNC_x%%": "x"}, {"": "x"},
            {"PATH": "x"}, {"path": "x"}, {"LD_PRELOAD": "x"}, {"DYLD_INSERT_LIBRARIES": "x"},
            {"CLAUDEDO_TASK": "x"}, {"CLAUDEDO_HOME": "x"}, {"CLAUDE_CONFIG_DIR": "x"},
            {"CLAUDECODE": "1"}, {"ANTHROPIC_BASE_URL": "x"}, {"ANTHROPIC_API_KEY": "x"},
            {"NODE_OPTIONS": "x"}, {"GIT_SSH_COMMAND": "x"}, {"https_proxy": "x"}, {"HOME": "/"},
            {"BASH_ENV": "x"}, {"PYTHONPATH": "x"}, {"SSH_AUTH_SOCK": "x"}, {"MCP_TIMEOUT": "1"},
            {"GCONV_PATH": "x"}, {"HOSTALIASES": "x"}, {"SSLKEYLOGFILE": "x"}, {"LESSOPEN": "x"},
            {"CLOUDSDK_CONFIG": "x"}, {"GCE_METADATA_HOST": "x"}, {"CURL_CA_BUNDLE": "x"},
            {"REQUESTS_CA_BUNDLE": "x"}, {"_JAVA_OPTIONS": "x"}, {"JDK_JAVA_OPTIONS": "x"}],
    "args": ["--verbose", [1], ["a\0b"], ["--dangerously-skip-permissions"], ["-p"], ["--"],
             ["--permission-mode", "plan"], ["--allowedTools", "Bash"], ["go"]],
    "needs": ["api", [1], ["../x"]],
    "check": ["", 1],
    "timeout": ["10m", 0, -1, True, float("inf"), float("nan")],
    "budget": ["1", 0],
    "retries": [-1, 1.5, True, 10**9],
    "priority": ["high"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in VALUES.items() for value in values]
)
def test_a_value_that_must_not_be_is_refused_with_its_key(key: str, value: Any) -> None:
    text = json.dumps({"tasks": {"api": {key: value}}})
    with pytest.raises(UsageError, match=f"^tasks.api.{key}: ") as refused:
        task_file.parse(text, as_json=True)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\xff\xfe[\x00", "not UTF-8 text"),
        (b"#" * (task_file.MAX_BYTES + 1), "larger than 256 KiB"),
        (b"[tasks.api]\nnope = 1", "unknown key 'nope'"),
    ],
    ids=["UTF-16", "huge", "an unknown key"],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / task_file.NAME
    path.write_bytes(content)
    with pytest.raises(UsageError, match=sentence) as refused:
        task_file.load(path)
    assert str(refused.value).startswith(str(path))


def test_what_is_no_file_is_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ".", "missing"):
        with pytest.raises(UsageError, match=r"no file|cannot be read"):
            task_file.load(tmp_path / name)


def test_the_nearest_file_from_a_folder_up_to_the_root_counts(tmp_path: Path) -> None:
    (tmp_path / "root/a/b").mkdir(parents=True)
    (tmp_path / task_file.NAME).touch()  # above the root: not asked
    root = tmp_path / "root"
    assert task_file.find(root, Path("a/b")) is None
    (root / task_file.NAME).touch()
    assert task_file.find(root, Path("a/b")) == root / task_file.NAME
    (root / "a" / task_file.NAME).touch()
    assert task_file.find(root, Path("a/b")) == root / "a" / task_file.NAME
    assert task_file.find(root) == root / task_file.NAME


def test_a_file_that_is_a_link_out_of_the_repository_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "other.toml").touch()
    (tmp_path / "root" / task_file.NAME).symlink_to("../other.toml")
    with pytest.raises(UsageError, match="leads out of the repository"):
        task_file.find(tmp_path / "root")
