"""Token authentication of Ray clusters, which must be chosen before ray is imported."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path


def choose_auth(address: str | None, env: MutableMapping[str, str] | None = None, home: Path | None = None) -> None:
    """Turn token authentication on for a cluster when a token is there: clusters of `ray start` want it.

    A RAY_AUTH_MODE that is set already is left alone. A token is in RAY_AUTH_TOKEN, in the file RAY_AUTH_TOKEN_PATH, or
    in ~/.ray/auth_token, where `ray start` leaves it.
    """
    env = os.environ if env is None else env
    if address is None or "RAY_AUTH_MODE" in env:
        return
    file = (home or Path.home()) / ".ray" / "auth_token"
    if env.get("RAY_AUTH_TOKEN") or env.get("RAY_AUTH_TOKEN_PATH") or file.is_file():
        env["RAY_AUTH_MODE"] = "token"
