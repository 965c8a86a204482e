from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.errors import InputError
from curate.formats.shards import expand_shards
from curate.formats.sources import AUTO_PART_BYTES, PartSource, ShardInfo, plan_parts


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def rels(shards: list[ShardInfo]) -> list[str]:
    return [s.rel for s in shards]


def test_appending_shards_changes_no_earlier_rel_identity_or_full_part(tmp_path: Path) -> None:
    make(tmp_path, *(f"{i}.tar" for i in range(7)))
    before = expand_shards(f"{tmp_path}/{{0..6}}.tar")
    make(tmp_path, "7.tar", "other/0.tar")
    after = expand_shards([f"{tmp_path}/{{0..7}}.tar", f"{tmp_path}/other/0.tar"])
    assert after[:7] == before
    old, new = plan_parts(before, 2), plan_parts(after, 2)
    assert [p.identity() for p in old[:3]] == [p.identity() for p in new[:3]]
    assert old[3].identity() != new[3].identity()


sizes = st.lists(st.integers(0, AUTO_PART_BYTES * 2), max_size=60)


@given(sizes, st.one_of(st.just("auto"), st.integers(1, 7)), st.lists(st.integers(0, AUTO_PART_BYTES), max_size=5))
def test_parts_cover_all_shards_in_order_and_are_stable(nbytes: list[int], per: int, more: list[int]) -> None:
    shards = [ShardInfo(f"u{i}", f"{i}.tar", n, "e") for i, n in enumerate(nbytes + more)]
    old, new = plan_parts(shards[: len(nbytes)], per), plan_parts(shards, per)
    assert [s for p in new for s in p.shards] == shards
    assert [p.part for p in new] == list(range(len(new)))
    assert old[:-1] == new[: max(len(old) - 1, 0)]
    for p in new[:-1]:
        assert p.nbytes >= AUTO_PART_BYTES if per == "auto" else len(p.shards) == per
        assert per != "auto" or p.nbytes - p.shards[-1].nbytes < AUTO_PART_BYTES


def test_many_empty_shards_and_bad_counts() -> None:
    shards = [ShardInfo("u", f"{i}.tar", 0, "e") for i in range(2500)]
    assert [len(p.shards) for p in plan_parts(shards)] == [1000, 1000, 500]
    with pytest.raises(InputError, match="at least 1"):
        plan_parts(shards, 0)


def test_identity_follows_content_not_place() -> None:
    shard = ShardInfo("s3://a/x.tar", "x.tar", 10, "e")
    part = PartSource(0, "tar", (shard,))
    assert part.identity() == PartSource(9, "tar", (dataclasses.replace(shard, url="/elsewhere/x.tar"),)).identity()
    for change in ({"rel": "y.tar"}, {"nbytes": 11}, {"etag": "f"}):
        assert PartSource(0, "tar", (dataclasses.replace(shard, **change),)).identity() != part.identity()  # type: ignore[arg-type]
    assert pickle.loads(pickle.dumps(part)) == part
