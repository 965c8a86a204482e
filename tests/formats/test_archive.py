from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import corpus
import fsspec
import polars as pl
import pytest

from curate.errors import InputError
from curate.formats.archive import HEADER_AHEAD, list_archive, open_window
from curate.formats.index import index_part
from curate.formats.members import read_members
from curate.formats.samples import IndexOptions, PartNotes
from curate.formats.sources import ShardInfo, plan_parts

OPTIONS = IndexOptions("imagenet")
Members = list[tuple[str | bytes, bytes]]


def inner(synset: str, images: int, seed: int = 0, size: tuple[int, int] = (64, 48)) -> bytes:
    """One class as ImageNet packs it: the images, named <synset>_<number>.JPEG."""
    return corpus.tar_bytes([(f"{synset}_{i * 7 + 3}.JPEG", corpus.jpeg(seed + i, size)) for i in range(images)])


def outer(classes: int = 4, images: int = 3) -> bytes:
    members: Members = []
    for c in range(classes):
        members.append((f"n0144{c:04d}.tar", inner(f"n0144{c:04d}", images, 100 * c)))
    return corpus.tar_bytes(members)


def index(shards: list[ShardInfo], per_part: int = 2) -> tuple[pl.DataFrame, list[PartNotes]]:
    frames, notes = zip(*(index_part(part, OPTIONS) for part in plan_parts(shards, per_part)), strict=True)
    return pl.concat(frames), list(notes)


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()


def test_listing_agrees_with_tarfile_and_rows_with_the_inner_tars(tmp_path: Path) -> None:
    path = tmp_path / "ILSVRC2012_img_train.tar"
    path.write_bytes(outer())
    shards = list_archive(str(path))
    with tarfile.open(path) as tar:
        infos = tar.getmembers()
        assert [(s.rel, s.start, s.nbytes) for s in shards] == [(i.name, i.offset_data, i.size) for i in infos]
        assert [s.label for s in shards] == [i.name.removesuffix(".tar") for i in infos]
        wanted: dict[str, bytes] = {}
        for info in infos:
            member = tar.extractfile(info)
            assert member is not None
            with tarfile.open(fileobj=member) as one:
                wanted |= {i.name.removesuffix(".JPEG"): one.extractfile(i).read() for i in one}  # type: ignore[union-attr]
    parts = plan_parts(shards, 3)
    assert [len(part.shards) for part in parts] == [3, 1]
    for part in parts:
        frame, notes = index_part(part, OPTIONS)
        assert notes == PartNotes(frame.height)
        assert set(frame["status"]) == {"ok"}
        assert frame["label"].to_list() == [key.split("_")[0] for key in frame["key"]]
        for row, members in read_members(part, frame):
            assert members == {"jpeg": wanted.pop(frame["key"][row])}
    assert not wanted


def test_range_reads_give_the_same_as_a_local_file(tmp_path: Path, memory: fsspec.AbstractFileSystem) -> None:
    data = outer(5)
    (tmp_path / "train.tar").write_bytes(data)
    memory.pipe_file("/in/train.tar", data)
    local, remote = list_archive(str(tmp_path / "train.tar")), list_archive("memory://in/train.tar")
    same = [replace(s, url="", etag="") for s in local]
    assert [replace(s, url="", etag="") for s in remote] == same
    (a, _), (b, _) = index(local), index(remote)
    assert a.equals(b)
    for mine, theirs in zip(plan_parts(local, 2), plan_parts(remote, 2), strict=True):
        frame, _ = index_part(mine, OPTIONS)
        assert list(read_members(mine, frame)) == list(read_members(theirs, frame))


def test_only_headers_of_the_outer_tar_are_read(memory: fsspec.AbstractFileSystem) -> None:
    big = [(f"n{c}.tar", inner(f"n{c}", 2) + bytes(3 << 20)) for c in range(3)]
    memory.pipe_file("/in/big.tar", corpus.tar_bytes(list(big)))
    read = 0
    window = open_window("memory://in/big.tar", 0, memory.size("/in/big.tar"), HEADER_AHEAD)
    fetch = type(memory).cat_file
    try:

        def counting(fs: fsspec.AbstractFileSystem, path: str, **kw: int) -> bytes:
            nonlocal read
            data: bytes = fetch(fs, path, **kw)
            read += len(data)
            return data

        type(memory).cat_file = counting
        shards = list_archive("memory://in/big.tar")
    finally:
        type(memory).cat_file = fetch
        window.close()
    etag = memory.size("/in/big.tar")  # of files in memory the etag is a hash of all bytes
    assert len(shards) == 3
    assert read - etag <= 6 * HEADER_AHEAD


def test_identity_is_that_of_the_content_not_of_the_place(tmp_path: Path, memory: fsspec.AbstractFileSystem) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "train.tar").write_bytes(outer())
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    here, there = list_archive(f"{tmp_path}/a/train.tar"), list_archive(f"{tmp_path}/b/train.tar")
    assert [p.identity() for p in plan_parts(here, 1)] == [p.identity() for p in plan_parts(there, 1)]
    (tmp_path / "b" / "train.tar").write_bytes(outer(images=2))
    other = list_archive(f"{tmp_path}/b/train.tar")
    assert all(a.identity() != b.identity() for a, b in zip(plan_parts(here, 1), plan_parts(other, 1), strict=True))


@pytest.mark.parametrize("share", [0.35, 0.6, 0.9])
@pytest.mark.parametrize("place", ["local", "memory"])
def test_a_cut_archive_gives_what_is_readable_and_says_so(
    tmp_path: Path, memory: fsspec.AbstractFileSystem, share: float, place: str
) -> None:
    data = outer(4, 6)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        end = max(i.offset_data + i.size for i in tar)
        starts = [i.offset_data for i in tar]
    cut = int(end * share)
    url = f"{tmp_path}/cut.tar" if place == "local" else "memory://in/cut.tar"
    (tmp_path / "cut.tar").write_bytes(data[:cut])
    memory.pipe_file("/in/cut.tar", data[:cut])
    shards = list_archive(url)
    assert len(shards) == sum(start < cut for start in starts)
    frame, notes = index(shards, 10)
    whole, _ = index(_whole(tmp_path, data), 10)
    good = frame.filter(pl.col("status") == "ok")
    assert good.height < whole.height
    # every sample whose bytes are there whole is there, but for the last one, which may lack members
    there = sum(
        shards[row["shard"]].start + row["members"][0]["offset"] + row["members"][0]["nbytes"] <= cut
        for row in whole.filter(pl.col("shard") < len(shards)).iter_rows(named=True)
    )
    assert there - 1 <= good.height <= there
    assert good.select("key", "uid_hi", "uid_lo").equals(whole.head(good.height).select("key", "uid_hi", "uid_lo"))
    (note,) = notes
    assert ("cut.tar", "cut") in [(p.shard, p.reason) for p in note.problems]
    assert all(p.lossy for p in note.problems if p.shard == "cut.tar")


def _whole(folder: Path, data: bytes) -> list[ShardInfo]:
    (folder / "whole.tar").write_bytes(data)
    return list_archive(str(folder / "whole.tar"))


def test_a_cut_between_inner_tars_is_told_of_too(tmp_path: Path) -> None:
    data = outer(3)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        second = tar.getmembers()[1].offset
    (tmp_path / "cut.tar").write_bytes(data[: second + 100])
    frame, (note,) = index(list_archive(f"{tmp_path}/cut.tar"), 10)
    assert frame.height == 3
    assert [(p.shard, p.reason) for p in note.problems] == [("cut.tar", "cut")]


def test_what_is_no_tar_inside_is_told_of(tmp_path: Path) -> None:
    members: Members = [
        ("n1.tar", inner("n1", 2)),
        ("README", b"words"),
        ("n2.tar", corpus.html()),
        ("n3.tar", b""),
        ("n4.tar", inner("n4", 1, 50)),
    ]
    (tmp_path / "odd.tar").write_bytes(corpus.tar_bytes(members))
    frame, (note,) = index(list_archive(f"{tmp_path}/odd.tar"), 10)
    assert frame["key"].to_list() == ["n1_3", "n1_10", "n4_3"]
    assert [(p.shard, p.reason) for p in note.problems] == [("n2.tar", "not_a_tar"), ("n3.tar", "empty")]
    assert (note.ignored, note.ignored_names) == (1, ("README",))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (corpus.tar_bytes([]), "no inner tar can be read: the tar has no members"),
        (b"", "no inner tar can be read: the file has 0 bytes"),
        (corpus.html() * 20, "no inner tar can be read.*HTML page"),
        (b"\x1f\x8b" + bytes(600), "compressed tar .gzip."),
        (corpus.tar_bytes([("a.JPEG", b"x"), ("b.JPEG", b"y")]), "no inner tars but 2 other files.*a.JPEG.*.shards"),
        (corpus.tar_bytes([("n1.tar", inner("n1", 1))] * 2), "two inner tars are called n1.tar"),
        (corpus.tar_bytes([("train.tar", outer(1))]), "nested twice.*train.tar.*n01440000.tar"),
    ],
)  # fmt: skip
def test_what_is_no_archive_is_refused_with_a_sentence(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(InputError, match=rf"x\.tar: .*{said}"):
        list_archive(str(tmp_path / "x.tar"))


def test_an_archive_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        list_archive(str(tmp_path / "none.tar"))
