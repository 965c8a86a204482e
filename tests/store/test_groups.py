from __future__ import annotations

from pathlib import Path

import pytest

from curate.errors import StorageError
from curate.store.columns import PartEntry
from curate.store.groups import Group, group_file, read_group, write_group
from curate.store.workspace import Workspace


def entry(part: int, rows: int, alive: int | None, **counts: int) -> PartEntry:
    return PartEntry(
        step="s", part=part, fingerprint=f"f{part}", rows=rows, alive=alive, counts=counts, nbytes=1, sha256="0" * 64
    )


def group(*parts: PartEntry, drops: bool = True) -> Group:
    return Group(
        step="s", kind="filter", folder="s@1", fingerprint="abc", config={"where": "a > 1"},
        columns={"keep": "Boolean"}, drops=drops, quarantines=False, parts=list(parts),
    )  # fmt: skip


def test_round_trip(tmp_path: Path) -> None:
    workspace, made = Workspace(str(tmp_path)), group(entry(0, 5, 3, false=2), entry(1, 4, 4))
    write_group(workspace, made)
    assert read_group(workspace, "s@1", "abc") == made


def test_sums_over_parts() -> None:
    made = group(entry(0, 9, 3, zebra=2, false=4), entry(1, 11, 4, zebra=2, null=5))
    assert (made.rows, made.alive) == (20, 7)
    assert list(made.counts.items()) == [("null", 5), ("false", 4), ("zebra", 4)]  # most first, then by name
    assert sum(made.counts.values()) == made.rows - made.alive
    assert group(entry(0, 9, None), drops=False).alive is None


@pytest.mark.parametrize("text", [b"", b"[]", b'{"schema_version": 1}', b'{"schema_version": 1, "step', b"\xff\xfe"])
def test_a_damaged_group_is_a_sentence(tmp_path: Path, text: bytes) -> None:
    workspace = Workspace(str(tmp_path))
    workspace.put(f"s@1/{group_file('abc')}", text)
    with pytest.raises(StorageError, match=r"group\.abc\.json is damaged .*; delete it and run again"):
        read_group(workspace, "s@1", "abc")


def test_another_schema_version_says_so(tmp_path: Path) -> None:
    workspace = Workspace(str(tmp_path))
    workspace.put(f"s@1/{group_file('abc')}", b'{"schema_version": 2}')
    with pytest.raises(StorageError, match="schema version 2, this curate reads 1"):
        read_group(workspace, "s@1", "abc")


def test_a_group_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such file"):
        read_group(Workspace(str(tmp_path)), "s@1", "abc")
