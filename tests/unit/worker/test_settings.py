"""Where files live, what can be configured, and that nobody else can look into it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from claudedo.errors import RefusedError, UsageError
from claudedo.settings import MAX_SOCKET_PATH, Settings, load, make_private


def loaded(home: Path, config: str = "", **more: str) -> Settings:
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(config)
    return load({"CLAUDEDO_HOME": str(home), **more})


@pytest.mark.parametrize(
    ("environment", "home"),
    [
        ({"CLAUDEDO_HOME": "/a", "XDG_STATE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"XDG_STATE_HOME": "/b", "HOME": "/c"}, "/b/claudedo"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/c"}, "/c/.local/state/claudedo"),
        ({"CLAUDEDO_HOME": "", "XDG_STATE_HOME": "", "HOME": "/c"}, "/c/.local/state/claudedo"),
    ],
)
def test_the_state_directory_follows_the_environment(
    environment: dict[str, str], home: str
) -> None:
    assert load(environment).home == Path(home)


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    assert loaded(tmp_path).claude == "claude"
    assert loaded(tmp_path, 'claude = "/opt/claude"').claude == "/opt/claude"
    with_both = loaded(tmp_path, 'claude = "/opt/claude"', CLAUDEDO_CLAUDE="/my/claude")
    assert with_both.claude == "/my/claude"


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("port = ", "cannot be read"),
        ("colour = 1", "unknown key 'colour'; known: claude, port"),
        ('port = "80"', "port must be of type int"),
        ("port = true", "port must be of type int"),
        ("port = 0", "port must be between 1 and 65535"),
        ("port = 65536", "port must be between 1 and 65535"),
        ("limit_pause = 0", "limit_pause must be between 1 and 86400 seconds"),
    ],
)
def test_a_wrong_configuration_file_is_named_with_what_is_wrong(
    tmp_path: Path, config: str, told: str
) -> None:
    with pytest.raises(UsageError) as error:
        loaded(tmp_path, config)

    assert str(error.value).startswith(f"{tmp_path}/config.toml")
    assert told in str(error.value)


@pytest.mark.parametrize("length", [2, 40, 60, 62, 64, 66, 68, 90, 200, 3000])
def test_every_socket_path_is_short_enough_however_long_the_state_directory_is(
    length: int,
) -> None:
    settings = load({"CLAUDEDO_HOME": "/" + "h/" * (length // 2)})
    sockets = [
        settings.worker_socket,
        settings.session_socket,
        settings.holder_socket("s_01ARZ3NDEKTSV4RRFFQ69G5FAV"),
    ]

    assert max(len(os.fsencode(path)) for path in sockets) <= MAX_SOCKET_PATH


def test_a_long_state_directory_has_one_short_folder_of_its_own_whatever_tmpdir_is() -> None:
    one = {"CLAUDEDO_HOME": "/" + "a" * 200, "TMPDIR": "/somewhere"}
    other = {"CLAUDEDO_HOME": "/" + "a" * 199 + "b"}

    assert load(one).run == load({**one, "TMPDIR": "/elsewhere"}).run
    assert load(one).run != load(other).run


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_a_folder_is_made_private_under_any_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        made = make_private(tmp_path / "home")
    finally:
        os.umask(before)

    assert made.stat().st_mode & 0o777 == 0o700


def test_an_open_folder_of_ours_is_closed_to_others(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)

    assert make_private(tmp_path).stat().st_mode & 0o777 == 0o700


def test_a_folder_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)

    with pytest.raises(RefusedError, match="belongs to another user"):
        make_private(tmp_path)


def test_a_link_that_somebody_else_put_in_the_place_of_the_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "mine")
    assert make_private(link) == link
    theirs = os.stat_result([*link.lstat()[:4], 99999, *link.lstat()[5:]])
    monkeypatch.setattr(Path, "lstat", lambda path: theirs)

    with pytest.raises(RefusedError, match="belongs to another user"):
        make_private(link)
