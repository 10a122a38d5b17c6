"""Where claudedo keeps its files, and the limits it works within. Read once at the start.

Standard library only: every command imports this.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claudedo.errors import RefusedError, UsageError

# The shortest limit of the systems we run on (macOS: 104 bytes with the final NUL).
MAX_SOCKET_PATH = 103
LONGEST_SOCKET_NAME = "s_01ARZ3NDEKTSV4RRFFQ69G5FAV.sock"

OLDEST_CLAUDE = (2, 1, 197)
"""The oldest version of Claude Code that everything here was tried with."""

BLOCK = 10  # ports for each task


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that is configurable. `home` holds every file that claudedo makes for itself."""

    home: Path
    run: Path  # sockets; short enough for every system
    claude: str  # the `claude` to run: a path, or a name looked up in PATH
    port: int | None = None  # None: the port of the last run if free, else any
    channels: bool = True  # push into idle sessions through the channel where it is available
    continue_after_crash: int = 3  # how often a crashed session is resumed by itself
    worktree_dir: str | None = None  # default: beside the repository
    notify: str | None = None  # a shell command that runs on asks and failures
    continue_after_limit: bool = True  # go on by itself when a rate limit or overload is over
    limit_pause: int = 60  # seconds until it does so first, where nobody said when that is
    telemetry: bool = True  # have sessions report what they cost, where nobody else wants it told
    ports: str = "20000-29999"  # what tasks are given ports from, ten each
    setup_timeout: int = 1800  # seconds that a task file's setup or teardown may take
    attachment_limit: int = 25  # MiB of one file that a message carries

    @property
    def database(self) -> Path:
        return self.home / "claudedo.db"

    @property
    def lock(self) -> Path:
        return self.home / "worker.lock"

    @property
    def worker_file(self) -> Path:
        return self.home / "worker.json"

    @property
    def log(self) -> Path:
        return self.home / "worker.log"

    @property
    def config_file(self) -> Path:
        return self.home / "config.toml"

    @property
    def worker_socket(self) -> Path:
        """Where the person's commands reach the worker."""
        return self.run / "worker.sock"

    @property
    def session_socket(self) -> Path:
        """Where bridges, hooks and waiters of the sessions reach the worker."""
        return self.run / "session.sock"

    @property
    def attachments(self) -> Path:
        """What messages carry: each content once, named by its hash."""
        return self.home / "attachments"

    @property
    def largest_attachment(self) -> int:
        """Bytes of one file that a message carries, at most."""
        return self.attachment_limit * 2**20

    @property
    def port_range(self) -> range:
        """The first port of every block of ten that a task can be given."""
        first, last = map(int, self.ports.split("-"))
        return range(first, last - BLOCK + 2, BLOCK)

    def task_log(self, task_id: str) -> Path:
        """What the setup and the teardown of a task's worktree printed."""
        return self.home / "setup-logs" / f"{task_id}.log"

    def session_dir(self, session_id: str) -> Path:
        """The folder with the files that one session is started with."""
        return self.home / "sessions" / session_id

    def run_dir(self, task_id: str) -> Path:
        """What the processes of a one-shot task wrote; kept as long as the task."""
        return self.home / "runs" / task_id

    def holder_socket(self, session_id: str) -> Path:
        return self.run / f"{session_id}.sock"


def load(environ: dict[str, str] | None = None) -> Settings:
    """Read the settings from the environment and `config.toml`.

    Creates nothing. Raises `UsageError` for a configuration file that cannot be read, naming it.
    """
    env = dict(os.environ) if environ is None else environ
    home = _home(env)
    config = _config(home / "config.toml")
    if chosen := env.get("CLAUDEDO_CLAUDE"):
        config["claude"] = chosen
    return Settings(home=home, run=_run_dir(home), **{"claude": "claude", **config})


def make_private(directory: Path) -> Path:
    """Create `directory` with mode 0700 whatever the umask, or make an existing one ours alone.

    Raises `RefusedError` if it (or the link that stands in its place) belongs to somebody else,
    `OSError` if it cannot be made.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = directory.stat()
    if {status.st_uid, directory.lstat().st_uid} != {os.getuid()}:
        raise RefusedError(f"{directory} belongs to another user; set CLAUDEDO_HOME elsewhere.")
    if stat.S_IMODE(status.st_mode) != 0o700:
        directory.chmod(0o700)
    return directory


def _home(env: dict[str, str]) -> Path:
    if chosen := env.get("CLAUDEDO_HOME"):
        return Path(chosen).expanduser().absolute()
    state = Path(env.get("XDG_STATE_HOME") or ".")
    if state.is_absolute():  # a relative one is to be ignored (XDG Base Directory Specification)
        return state / "claudedo"
    return Path(env.get("HOME") or "~").expanduser() / ".local/state/claudedo"


def _run_dir(home: Path) -> Path:
    """`home`/run, or a short private folder named after `home` when that path is too long.

    Not below TMPDIR: every shell and session must come to the same folder, whatever its
    environment. `make_private` checks that nobody else made it.
    """
    run = home / "run"
    if len(os.fsencode(run)) + 1 + len(LONGEST_SOCKET_NAME) <= MAX_SOCKET_PATH:
        return run
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:12]
    return Path(f"/tmp/claudedo-{os.getuid()}-{digest}")


_KEYS: dict[str, type] = {
    "claude": str,
    "port": int,
    "channels": bool,
    "continue_after_crash": int,
    "worktree_dir": str,
    "notify": str,
    "continue_after_limit": bool,
    "limit_pause": int,
    "telemetry": bool,
    "ports": str,
    "setup_timeout": int,
    "attachment_limit": int,
}


def _config(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    for key, value in values.items():
        if key not in _KEYS:
            raise UsageError(f"{path}: unknown key {key!r}; known: {', '.join(_KEYS)}")
        if type(value) is not _KEYS[key]:
            raise UsageError(f"{path}: {key} must be of type {_KEYS[key].__name__}")
    if not 1 <= values.get("port", 1) <= 65_535:
        raise UsageError(f"{path}: port must be between 1 and 65535")
    if not 1 <= values.get("limit_pause", 1) <= 86_400:
        raise UsageError(f"{path}: limit_pause must be between 1 and 86400 seconds")
    if values.get("setup_timeout", 1) < 1:
        raise UsageError(f"{path}: setup_timeout must be at least 1 second")
    if not 1 <= values.get("attachment_limit", 1) <= 1024:
        raise UsageError(f"{path}: attachment_limit must be between 1 and 1024 MiB")
    if "ports" in values and not _is_range(values["ports"]):
        raise UsageError(
            f'{path}: ports must be a range of at least {BLOCK}, such as "20000-29999", '
            "between 1024 and 65535"
        )
    return values


def _is_range(text: str) -> bool:
    """True if `text` is a range of ports that holds a block at least."""
    if not (found := re.fullmatch(r"([0-9]{4,5})-([0-9]{4,5})", text)):
        return False
    first, last = int(found[1]), int(found[2])
    return 1024 <= first <= last - BLOCK + 1 and last <= 65_535
