from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.errors import InputError
from curate.store.uids import format_uid, hash64, make_uid, parse_uid

u64 = st.integers(0, 2**64 - 1)


@given(u64, u64)
def test_text_round_trip(hi: int, lo: int) -> None:
    text = format_uid(hi, lo)
    assert len(text) == 32
    assert int(text, 16) == hi << 64 | lo
    assert parse_uid(text) == parse_uid(f" {text.upper()}\n") == (hi, lo)
    assert make_uid(text.upper(), "in", "rel", "key") == (hi, lo, None)


@pytest.mark.parametrize("text", ["", "0" * 31, "0" * 33, "g" * 32, "０" * 32, "0x" + "0" * 30])
def test_anything_else_is_hashed_or_refused(text: str) -> None:
    with pytest.raises(InputError, match="32 hexadecimal digits"):
        parse_uid(text)
    if text:
        hi, lo, source = make_uid(text, "in", "rel", "key")
        assert source == text
        digest = hashlib.blake2b(text.encode(), digest_size=16, person=b"curate.uid.json")
        assert format_uid(hi, lo) == digest.hexdigest()


def test_golden_uids() -> None:
    """Stored runs depend on these values: they never change."""
    hi, lo, source = make_uid(None, "laion", "a/00000.tar", "000000001")
    assert source is None
    fields = (b"laion", b"a/00000.tar", b"000000001")
    encoded = b"".join(len(f).to_bytes(8, "little") + f for f in fields)
    assert format_uid(hi, lo) == hashlib.blake2b(encoded, digest_size=16, person=b"curate.uid.key").hexdigest()
    assert format_uid(hi, lo) == "1cf8f649a9e5683c61d2c33d67351bc8"
    assert format_uid(*make_uid("sample 1", "", "", "")[:2]) == "a052cbe30601f8c005cacde98d761d23"


def test_the_encoding_is_unambiguous() -> None:
    parts = ["", "a", "ab", "b", "a\0b", "/", "a/b"]
    triples = list(itertools.product(parts, repeat=3))
    assert len({make_uid(None, *t)[:2] for t in triples}) == len(triples)
    assert make_uid(None, "a", "b", "é")[:2] == make_uid(None, "a", "b", "é".encode())[:2]


def test_golden_hashes() -> None:
    hi = np.array([0, 0, 2**64 - 1, 0x0123456789ABCDEF], np.uint64)
    lo = np.array([0, 1, 2**64 - 1, 0xFEDCBA9876543210], np.uint64)
    assert [f"{v:016x}" for v in hash64(hi, lo, 0, "prune")] == [
        "8f2513171567d586",
        "d69b2ab7b2ced0a6",
        "53e9e7134983c7e8",
        "b111d793875f607d",
    ]
    assert [f"{v:016x}" for v in hash64(hi[:1], lo[:1], 1, "prune")] != [
        f"{v:016x}" for v in hash64(hi[:1], lo[:1], 0, "prune")
    ]


@given(u64, u64, u64, st.text(max_size=5))
def test_hash_is_the_documented_formula(hi: int, lo: int, seed: int, stage: str) -> None:
    def mix(x: int) -> int:
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    key = hashlib.blake2b(seed.to_bytes(8, "little") + stage.encode(), digest_size=16, person=b"curate.hash64").digest()
    expected = mix(mix(mix(hi ^ int.from_bytes(key[:8], "big")) ^ lo) ^ int.from_bytes(key[8:], "big"))
    got = hash64(np.array([hi], np.uint64), np.array([lo], np.uint64), seed, stage)
    assert got.dtype == np.uint64
    assert int(got[0]) == expected


def test_hash_is_uniform_and_stages_are_independent() -> None:
    """Counters as uids, the hardest easy case: every bit is fair, every input bit flips half of the output."""
    n = 1 << 15
    lo, hi = np.arange(n, dtype=np.uint64), np.zeros(n, np.uint64)
    a, b = hash64(hi, lo, 7, "sample"), hash64(hi, lo, 7, "prune")
    bits = np.unpackbits(a.view(np.uint8).reshape(n, 8), axis=1)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 5 * 0.5 / n**0.5
    assert len(np.unique(a)) == n
    counts = np.bincount((a >> np.uint64(56)).astype(np.int64), minlength=256)
    chi2 = ((counts - n / 256) ** 2 / (n / 256)).sum()
    assert 255 - 5 * (2 * 255) ** 0.5 < chi2 < 255 + 5 * (2 * 255) ** 0.5
    assert abs(np.corrcoef(a.astype(np.float64), b.astype(np.float64))[0, 1]) < 5 / n**0.5
    for bit in (0, 17, 40, 63):
        flip = np.uint64(1 << bit)
        for changed in (hash64(hi, lo ^ flip, 7, "sample"), hash64(hi ^ flip, lo, 7, "sample")):
            moved = np.unpackbits((a ^ changed).view(np.uint8)).mean()
            assert abs(moved - 0.5) < 0.005
