from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.store.ranges import RangeFile

moves = st.one_of(
    st.tuples(st.just("read"), st.integers(-1, 40)),
    st.tuples(st.sampled_from(["set", "cur", "end"]), st.integers(-40, 40)),
)
WHENCE = {"set": io.SEEK_SET, "cur": io.SEEK_CUR, "end": io.SEEK_END}


@given(st.binary(max_size=30), st.lists(moves, max_size=20))
def test_it_is_a_file_in_memory_that_asks_for_what_is_read(data: bytes, steps: list[tuple[str, int]]) -> None:
    asked: list[tuple[int, int]] = []

    def fetch(start: int, stop: int) -> bytes:
        assert 0 <= start < stop <= len(data)
        asked.append((start, stop))
        return data[start:stop]

    ours, theirs = RangeFile(fetch, len(data)), io.BytesIO(data)
    for what, number in steps:
        if what == "read":
            before = ours.tell()
            got = ours.read(number)
            assert got == theirs.read(number)
            assert not got or asked[-1] == (before, before + len(got))
        else:
            # BytesIO refuses a place before the first byte only when it is given as such
            base = {"set": 0, "cur": theirs.tell(), "end": len(data)}[what]
            assert ours.seek(number, WHENCE[what]) == theirs.seek(max(0, base + number))
        assert ours.tell() == theirs.tell()


def test_errors_pass() -> None:
    def fetch(start: int, stop: int) -> bytes:
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone"):
        RangeFile(fetch, 1).read()
