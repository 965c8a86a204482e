from __future__ import annotations

import itertools
from pathlib import Path

import corpus
import fsspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.errors import InputError
from curate.formats import members
from curate.formats.folder import list_folder
from curate.formats.index import index_part
from curate.formats.members import plan_ranges, read_members
from curate.formats.samples import IndexOptions
from curate.formats.shards import expand_shards
from curate.formats.sources import PartSource, plan_parts
from curate.store import urls

extent = st.tuples(st.integers(0, 1000), st.integers(0, 120))


@given(st.lists(extent, max_size=30), st.integers(0, 100), st.integers(1, 300))
def test_ranges_cover_every_extent_once_and_keep_the_bounds(
    extents: list[tuple[int, int]], max_gap: int, max_block: int
) -> None:
    blocks = plan_ranges(extents, max_gap, max_block)
    assert sorted(i for b in blocks for i in b.extents) == list(range(len(extents)))
    assert [b.offset for b in blocks] == sorted(b.offset for b in blocks)
    for b in blocks:
        inside = [extents[i] for i in b.extents]
        assert b.offset == min(o for o, _ in inside)
        assert b.offset + b.nbytes == max(o + n for o, n in inside)
        assert b.nbytes <= max_block or len(inside) == 1
        covered = b.offset
        for offset, nbytes in sorted(inside):
            assert offset - covered <= max_gap
            covered = max(covered, offset + nbytes)
    for left, right in itertools.pairwise(blocks):  # neighbours are apart because they must be
        joined = max(right.offset + right.nbytes, left.offset + left.nbytes) - left.offset
        first = extents[right.extents[0]]
        grown = max(first[0] + first[1], left.offset + left.nbytes) - left.offset
        assert right.offset - (left.offset + left.nbytes) > max_gap or grown > max_block or joined > max_block


@pytest.fixture(params=["local", "memory"])
def part(request: pytest.FixtureRequest, tmp_path: Path) -> PartSource:
    corpus.write_good_shards(tmp_path, shards=3, samples=12)
    if request.param == "local":
        return plan_parts(expand_shards(str(tmp_path)), 3)[0]
    fs = fsspec.filesystem("memory")
    for path in tmp_path.glob("*.tar"):
        fs.pipe_file(f"/members/{path.name}", path.read_bytes())
    return plan_parts(expand_shards("memory://members/*.tar"), 3)[0]


def expected(part: PartSource, frame: pl.DataFrame, exts: set[str] | None) -> list[tuple[int, dict[str, bytes]]]:
    tars = [urls.read_range(s.url, 0, s.nbytes) for s in part.shards]
    return [
        (
            i,
            {
                m["ext"]: tars[shard][m["offset"] : m["offset"] + m["nbytes"]]
                for m in row
                if exts is None or m["ext"] in exts
            },
        )
        for i, (shard, row) in enumerate(zip(frame["shard"], frame["members"].to_list(), strict=True))
    ]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("exts", [None, {"jpg"}, {"txt", "json"}, {"nothing"}])
def test_bytes_come_back_in_row_order(
    part: PartSource, share: float, exts: set[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, _ = index_part(part, IndexOptions("t"))
    keep = np.random.default_rng(0).random(frame.height) < share
    frame = frame.filter(pl.Series(keep))
    assert list(read_members(part, frame, exts)) == expected(part, frame, exts)
    for name, value in {"MAX_BLOCK": 1500, "LOCAL_BLOCK": 1500, "MAX_GAP": 100}.items():  # samples straddle blocks
        monkeypatch.setattr(members, name, value)
    assert list(read_members(part, frame, exts)) == expected(part, frame, exts)


def test_little_wanted_reads_little_and_much_wanted_reads_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [m for i in range(40) for m in corpus.sample(f"{i:03d}", bytes([i]) * 300_000)]
    (tmp_path / "0.tar").write_bytes(corpus.tar_bytes(samples))
    (part,) = plan_parts(expand_shards(str(tmp_path)))
    frame, _ = index_part(part, IndexOptions("t"))
    reads: list[tuple[int, int]] = []
    original = members._Opened._read

    def watched(self: members._Opened, offset: int, nbytes: int) -> bytes:
        reads.append((offset, nbytes))
        return original(self, offset, nbytes)

    monkeypatch.setattr(members._Opened, "_read", watched)
    few = frame[[0, 20, 39]]
    assert [data["jpg"][0] for _, data in read_members(part, few)] == [0, 20, 39]
    assert len(reads) == 3
    assert sum(n for _, n in reads) < 1_000_000
    reads.clear()
    assert len(list(read_members(part, frame))) == 40
    assert len(reads) == 2  # 12 MB in blocks of at most 8 MiB
    assert max(n for _, n in reads) <= members.LOCAL_BLOCK
    reads.clear()
    assert list(read_members(part, frame, {"absent"})) == [(i, {}) for i in range(40)]
    assert reads == []


def test_a_changed_shard_is_an_error(part: PartSource) -> None:
    frame, _ = index_part(part, IndexOptions("t"))
    fs, path = urls.resolve(part.shards[0].url)
    fs.pipe_file(path, fs.cat_file(path)[:3000])
    with pytest.raises(InputError, match="has changed"):
        list(read_members(part, frame))
    fs.rm(path)
    with pytest.raises(InputError, match="no such file"):
        list(read_members(part, frame))


def test_folder_inputs(tmp_path: Path) -> None:
    for i in range(5):
        (tmp_path / f"{i}.jpg").write_bytes(corpus.jpeg(i))
        (tmp_path / f"{i}.txt").write_bytes(str(i).encode())
    (part,) = list_folder(str(tmp_path), ["jpg"]).parts
    frame, _ = index_part(part, IndexOptions("t", caption_ext="txt"))
    rows = frame[[1, 4]]
    assert list(read_members(part, rows)) == [
        (0, {"jpg": corpus.jpeg(1), "txt": b"1"}),
        (1, {"jpg": corpus.jpeg(4), "txt": b"4"}),
    ]
    assert [set(data) for _, data in read_members(part, rows, {"txt"})] == [{"txt"}, {"txt"}]
    (tmp_path / "4.txt").write_bytes(b"longer")
    with pytest.raises(InputError, match="has changed"):
        list(read_members(part, rows))
