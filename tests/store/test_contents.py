from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from curate.store.columns import PartEntry
from curate.store.contents import KEPT, alike, contents_file, read_contents, smallest, write_contents
from curate.store.workspace import Workspace

RNG = np.random.default_rng(1)


def hashes(n: int) -> pl.Series:
    return pl.Series(RNG.integers(0, 2**64, n, dtype=np.uint64))


def entry(part: int, fingerprint: str, contents: list[str]) -> PartEntry:
    facts: dict[str, Any] = {"step": "s", "rows": 1, "alive": 1, "nbytes": 1, "sha256": ""}
    return PartEntry(part=part, fingerprint=fingerprint, contents=contents, **facts)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(str(tmp_path))


def test_the_smallest_are_taken_exactly_and_once() -> None:
    rows = hashes(100)
    expected = sorted(set(rows.to_list()))[:KEPT]
    again = pl.concat([rows, rows, pl.Series([None], dtype=pl.UInt64)])
    assert [int(text, 16) for text in smallest(again)] == expected
    assert smallest(pl.Series([2**64 - 1], dtype=pl.UInt64)) == ["f" * 16]
    assert smallest(pl.Series([], dtype=pl.UInt64)) == []


def test_parts_that_share_content_are_found_those_that_share_most_first(workspace: Workspace) -> None:
    parts = [hashes(200) for _ in range(5)]
    entries = [entry(n, f"{n:012x}", smallest(rows)) for n, rows in enumerate(parts)]
    write_contents(workspace, "f", "a" * 12, entries)
    table = read_contents(workspace, "f", [contents_file("a" * 12)])
    for n, rows in enumerate(parts):
        assert alike(table, rows) == [(n, f"{n:012x}")]
    # a part cut anew from three quarters of part 3 and a tenth of part 1
    mixed = pl.concat([parts[3][:150], parts[1].sort()[:20]])
    assert alike(table, mixed)[:1] in ([(3, f"{3:012x}")], [(1, f"{1:012x}")])
    assert {part for part, _ in alike(table, mixed)} == {1, 3}
    assert alike(table, hashes(50)) == []
    assert alike(table, pl.Series([None], dtype=pl.UInt64)) == []


def test_tables_of_several_states_are_read_together(workspace: Workspace) -> None:
    one, other = hashes(20), hashes(20)
    write_contents(workspace, "f", "a" * 12, [entry(0, "1" * 12, smallest(one))])
    write_contents(workspace, "f", "b" * 12, [entry(0, "1" * 12, smallest(one)), entry(1, "2" * 12, smallest(other))])
    names = [contents_file("a" * 12), contents_file("b" * 12), contents_file("c" * 12)]
    table = read_contents(workspace, "f", names)  # the third was removed meanwhile
    assert table.height == 2 * KEPT
    assert alike(table, other) == [(1, "2" * 12)]


def test_a_damaged_table_is_as_good_as_none(workspace: Workspace) -> None:
    workspace.put(f"f/{contents_file('a' * 12)}", b"no parquet")
    table = read_contents(workspace, "f", [contents_file("a" * 12)])
    assert table.height == 0
    assert alike(table, hashes(5)) == []
