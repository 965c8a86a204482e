"""Fingerprints: what a stored thing was made from, as a short hash. Nothing else decides whether work is reused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

LENGTH = 12
"""Hex digits kept of a fingerprint in file names: 48 bits; file names also carry the part."""


def fingerprint(*things: Any) -> str:
    """Hash JSON-able values into 12 hex digits; key order does not matter, types do (1 and "1" differ)."""
    text = json.dumps(things, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()[:LENGTH]


def combine(parts: Iterable[str]) -> str:
    """Hash an ordered stream of fingerprints in O(1) memory."""
    digest = hashlib.blake2b(digest_size=32)
    for part in parts:
        digest.update(part.encode())
        digest.update(b"\n")
    return digest.hexdigest()[:LENGTH]
