"""Published files that stay outside the tree: a test that needs one is skipped, with the reason, where it is absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_FOLDER = Path(os.environ.get("CURATE_REFERENCE_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


def reference(name: str) -> str:
    """Path of a file, such as imagenet/real.json."""
    path = _FOLDER / name
    if not path.exists():
        pytest.skip(f"needs {name} of the reference data (set CURATE_REFERENCE_DATA to its folder)")
    return str(path)
