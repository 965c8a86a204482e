from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.errors import InputError
from curate.store.inputs import (
    AUTO_PART_BYTES,
    FileGroup,
    PartSource,
    ShardInfo,
    expand_shards,
    list_folder,
    plan_parts,
)


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def rels(shards: list[ShardInfo]) -> list[str]:
    return [s.rel for s in shards]


def test_braces_globs_folders_and_lists_name_the_same_shards(tmp_path: Path) -> None:
    make(tmp_path, *(f"s/{i:05d}.tar" for i in range(25)), "s/readme.md", "s/sub.tar/x.tar")
    braces = expand_shards(f"{tmp_path}/s/{{00000..00024}}.tar")
    assert rels(braces) == [f"{i:05d}.tar" for i in range(25)]
    assert [s.nbytes for s in braces] == [len(f"s/{i:05d}.tar") for i in range(25)]
    (tmp_path / "list.txt").write_text("# all shards\n\n" + "\n".join(f"s/{i:05d}.tar" for i in range(25)) + "\n")
    for spec in (
        f"{tmp_path}/s/*.tar",
        f"{tmp_path}/s",
        f"{tmp_path}/s/",
        f"{tmp_path}/list.txt",
        f"file://{tmp_path}/s/0*.tar",
        [f"{tmp_path}/s/{{00000..00009}}.tar", f"{tmp_path}/s/000{{10..24}}.tar"],
    ):
        assert [dataclasses.replace(s, url="") for s in expand_shards(spec)] == [
            dataclasses.replace(s, url="") for s in braces
        ], spec


def test_order_is_as_given_and_sorted_within_a_glob(tmp_path: Path) -> None:
    make(tmp_path, "b.tar", "a.tar", "c/1.tar", "c/0.tar")
    spec = [f"{tmp_path}/b.tar", f"{tmp_path}/c/*.tar", f"{tmp_path}/a.tar"]
    assert rels(expand_shards(spec)) == ["b.tar", "0.tar", "1.tar", "a.tar"]


def test_rel_starts_at_the_first_wildcard(tmp_path: Path) -> None:
    make(tmp_path, "x/a/0.tar", "x/b/0.tar", "x/b/1.tar")
    assert rels(expand_shards(f"{tmp_path}/x/{{a,b}}/0.tar")) == ["a/0.tar", "b/0.tar"]
    assert rels(expand_shards(f"{tmp_path}/x/*/*.tar")) == ["a/0.tar", "b/0.tar", "b/1.tar"]
    assert rels(expand_shards(f"{tmp_path}/*/a/0.tar")) == ["x/a/0.tar"]
    assert rels(expand_shards([f"{tmp_path}/x/a/0.tar", f"{tmp_path}/x/b/0.tar"])) == ["0.tar", "b/0.tar"]


def test_appending_shards_changes_no_earlier_rel_identity_or_full_part(tmp_path: Path) -> None:
    make(tmp_path, *(f"{i}.tar" for i in range(7)))
    before = expand_shards(f"{tmp_path}/{{0..6}}.tar")
    make(tmp_path, "7.tar", "other/0.tar")
    after = expand_shards([f"{tmp_path}/{{0..7}}.tar", f"{tmp_path}/other/0.tar"])
    assert after[:7] == before
    old, new = plan_parts(before, 2), plan_parts(after, 2)
    assert [p.identity() for p in old[:3]] == [p.identity() for p in new[:3]]
    assert old[3].identity() != new[3].identity()


def test_memory_and_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fs = fsspec.filesystem("memory")
    for i in range(20):
        fs.pipe_file(f"/inputs/{i:02d}.tar", b"x" * i)
    shards = expand_shards("memory://inputs/{00..19}.tar")
    assert [s.nbytes for s in shards] == list(range(20))
    assert expand_shards("memory://inputs/*.tar") == shards
    assert expand_shards("memory://inputs") == shards
    fs.pipe_file("/inputs/list.txt", b"memory://inputs/03.tar\n")
    assert expand_shards("memory://inputs/list.txt") == [shards[3]]
    monkeypatch.chdir(tmp_path)
    make(tmp_path, "a.tar")
    assert rels(expand_shards("a.tar")) == rels(expand_shards("*.tar")) == rels(expand_shards(".")) == ["a.tar"]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("{0..30}.tar", "28 of 31 shards are missing: .*/3.tar, .*/4.tar, .*/5.tar and 25 more"),
        ("{0..4}.tar", "2 of 5 .*/3.tar, .*/4.tar"),
        (["{0..1}.tar", "1.tar"], "listed twice"),
        ("*.zip", "matches no file"),
        ("empty", "holds no .tar"),
        ([], "names no shards"),
        ("list.txt", "names no shards"),
        ("gone.txt", "no such file"),
        ("pipe:cat x", "run commands"),
        (["0.tar", "pipe:x"], "run commands"),
    ],
)
def test_errors(tmp_path: Path, spec: str | list[str], words: str) -> None:
    make(tmp_path, "0.tar", "1.tar", "2.tar", "empty/x.md")
    (tmp_path / "list.txt").write_text("# nothing\n")
    under = [s if s.startswith("pipe") else f"{tmp_path}/{s}" for s in ([spec] if isinstance(spec, str) else spec)]
    with pytest.raises(InputError, match=words):
        expand_shards(under[0] if isinstance(spec, str) else under)


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


def groups(parts: tuple[PartSource, ...]) -> list[FileGroup]:
    return [g for p in parts for g in p.files]


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_folder_listing(tmp_path: Path, kind: str) -> None:
    names = [
        "b/2.jpg",
        "b/2.txt",
        "b/2.json",
        "b/2.cls.json",
        "a/x.JPG",
        "a/x.png",
        "a/x.txt",
        "a/x_png.jpg",
        "a/deep/y.v1.gif",
        "a/deep/y.txt",
        "top.jpg",
        "b/.DS_Store",
        ".git/c.jpg",
        "a/notes.md",
        "b/.jpg",
        "a/2.txt",
    ]
    root = str(tmp_path) if kind == "local" else "memory://folder"
    fs = fsspec.filesystem("file" if kind == "local" else "memory")
    for name in names:
        path = f"{tmp_path}/{name}" if kind == "local" else f"/folder/{name}"
        fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        fs.pipe_file(path, name.encode())
    listing = list_folder(root, ["jpg", "png", "gif"], files_per_part=4)
    assert [(g.key, g.label, [(f.rel, f.ext) for f in g.files]) for g in groups(listing.parts)] == [
        ("a/deep/y_v1", "a", [("a/deep/y.v1.gif", "gif")]),
        ("a/x", "a", [("a/x.JPG", "jpg"), ("a/x.txt", "txt")]),
        ("a/x_png_", "a", [("a/x.png", "png"), ("a/x.txt", "txt")]),
        ("a/x_png", "a", [("a/x_png.jpg", "jpg")]),
        ("b/2", "b", [("b/2.jpg", "jpg"), ("b/2.cls.json", "cls.json"), ("b/2.json", "json"), ("b/2.txt", "txt")]),
        ("top", None, [("top.jpg", "jpg")]),
    ]
    assert listing.ignored == ("a/2.txt", "a/deep/y.txt", "a/notes.md")
    assert [len(p.files) for p in listing.parts] == [4, 2]
    assert listing.parts[1].nbytes == sum(map(len, ["b/2.jpg", "b/2.cls.json", "b/2.json", "b/2.txt", "top.jpg"]))
    assert len({p.identity() for p in listing.parts}) == 2
    assert list_folder(root, ["jpg", "png", "gif"], files_per_part=4) == listing


def test_folder_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        list_folder(str(tmp_path / "gone"), ["jpg"])
    make(tmp_path, "a/x.txt")
    with pytest.raises(InputError, match="no file ends in jpg"):
        list_folder(str(tmp_path), ["jpg"])
