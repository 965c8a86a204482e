"""The 128-bit names of samples, and the random numbers that belong to them.

A uid is two uint64, ``uid_hi`` and ``uid_lo``; its text is 32 lower-case hex digits, hi then lo.
"""

from __future__ import annotations

import hashlib
import re

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError

_HEX32 = re.compile(r"[0-9a-fA-F]{32}\Z")
_MASK = (1 << 64) - 1


def make_uid(json_uid: str | None, input_name: str, rel: str, key: str | bytes) -> tuple[int, int, str | None]:
    """The uid of a sample as ``(hi, lo, source_uid)``.

    ``json_uid`` of 32 hex digits (any case) is the uid. Any other non-empty text is hashed (blake2b-128, personalised
    ``curate.uid.json``) and returned as ``source_uid``. Without one, the uid is blake2b-128 (personalised
    ``curate.uid.key``) of input name, shard path relative to the input root and key, each preceded by its length in
    bytes (8 bytes, little-endian) so that no two triples share an encoding. ``key`` may be bytes (a name that is not
    UTF-8).
    """
    if json_uid:
        if _HEX32.match(json_uid):
            return int(json_uid[:16], 16), int(json_uid[16:], 16), None
        hi, lo = _digest(_bytes(json_uid), b"curate.uid.json")
        return hi, lo, json_uid
    encoded = b"".join(len(field).to_bytes(8, "little") + field for field in map(_bytes, (input_name, rel, key)))
    hi, lo = _digest(encoded, b"curate.uid.key")
    return hi, lo, None


def format_uid(hi: int, lo: int) -> str:
    """The 32 lower-case hex digits of a uid."""
    return f"{int(hi):016x}{int(lo):016x}"


def parse_uid(text: str) -> tuple[int, int]:
    """``(hi, lo)`` of 32 hex digits (any case, surrounding blanks allowed); raises :class:`InputError` otherwise."""
    digits = text.strip()
    if not _HEX32.match(digits):
        raise InputError(f"{text!r} is not a uid: a uid is 32 hexadecimal digits, such as {format_uid(1 << 60, 255)}.")
    return int(digits[:16], 16), int(digits[16:], 16)


def hash64(hi: NDArray[np.uint64], lo: NDArray[np.uint64], seed: int, stage: str) -> NDArray[np.uint64]:
    """A uniform 64-bit number for each uid, fixed by (seed, stage, uid) alone: the source of all per-uid randomness.

    ``hi``, ``lo``: uint64 arrays of one shape; the result has that shape. Two keys come from blake2b-128 of (seed,
    stage); then ``mix(mix(mix(hi ^ k0) ^ lo) ^ k1)`` with SplitMix64's finaliser (Steele, Lea, Flood: Fast splittable
    pseudorandom number generators, OOPSLA 2014; constants of Stafford's Mix13). ``mix`` is a bijection, so uids that
    share ``hi`` (or ``lo``) never collide. Not for adversarial use. Memory: two temporary arrays.
    """
    material = (seed & _MASK).to_bytes(8, "little") + stage.encode()
    k0, k1 = _digest(material, b"curate.hash64")
    x = _mix(np.asarray(hi, dtype=np.uint64) ^ np.uint64(k0))
    x ^= np.asarray(lo, dtype=np.uint64)
    x = _mix(x)
    x ^= np.uint64(k1)
    return _mix(x)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x ^ (x >> np.uint64(30))
    x = x * np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x = x * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def _digest(data: bytes, person: bytes) -> tuple[int, int]:
    digest = hashlib.blake2b(data, digest_size=16, person=person).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")


def _bytes(text: str | bytes) -> bytes:
    # surrogatepass: json text may hold lone surrogates; they must hash, and differently from one another
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
