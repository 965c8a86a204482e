"""When token authentication is turned on, and when it is left alone."""

from __future__ import annotations

from pathlib import Path

from curate.engine.auth import choose_auth


def test_a_local_ray_is_left_alone(tmp_path: Path) -> None:
    env = {"RAY_AUTH_TOKEN": "secret"}
    choose_auth(None, env, tmp_path)
    assert "RAY_AUTH_MODE" not in env


def test_a_cluster_with_a_token_gets_token_mode(tmp_path: Path) -> None:
    for env in ({"RAY_AUTH_TOKEN": "secret"}, {"RAY_AUTH_TOKEN_PATH": "/somewhere"}):
        choose_auth("10.0.0.1:6379", env, tmp_path)
        assert env["RAY_AUTH_MODE"] == "token"
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    env: dict[str, str] = {}
    choose_auth("auto", env, tmp_path)
    assert env == {"RAY_AUTH_MODE": "token"}


def test_without_a_token_or_with_a_choice_of_its_own_nothing_changes(tmp_path: Path) -> None:
    env: dict[str, str] = {}
    choose_auth("auto", env, tmp_path)
    assert env == {}
    env = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "secret"}
    choose_auth("auto", env, tmp_path)
    assert env["RAY_AUTH_MODE"] == "disabled"
