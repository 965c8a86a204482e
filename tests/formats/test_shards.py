from __future__ import annotations

import dataclasses
from pathlib import Path

import fsspec
import pytest

from curate.errors import InputError
from curate.formats.shards import expand_shards
from curate.formats.sources import ShardInfo


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
