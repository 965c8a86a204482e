from __future__ import annotations

import pickle
from pathlib import Path

import corpus
import fsspec
import pytest

from curate.errors import InputError
from curate.formats.folder import list_folder
from curate.formats.index import index_part
from curate.formats.samples import IndexOptions
from curate.formats.sources import FileGroup, PartSource
from curate.store.uids import make_uid

OPTIONS = IndexOptions("test", caption_ext="txt", caption_required=True)


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


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


def test_image_folder(tmp_path: Path) -> None:
    for name, data in {
        "cat/1.jpg": corpus.jpeg(1),
        "cat/1.txt": b"a cat",
        "dog/sub/2.PNG": corpus.png16(),
        "dog/3.v2.jpg": corpus.html(),
        "root.gif": corpus.animated_gif(3),
        "cat/.hidden.jpg": b"",
        "notes.md": b"hello",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    listing = list_folder(str(tmp_path), OPTIONS.image_exts)
    assert listing.ignored == ("notes.md",)
    (part,) = listing.parts
    part = pickle.loads(pickle.dumps(part))
    assert isinstance(part, PartSource)
    frame, _ = index_part(part, IndexOptions("t", caption_ext="txt"))
    assert frame["key"].to_list() == ["cat/1", "dog/3_v2", "dog/sub/2", "root"]
    assert frame["label"].to_list() == ["cat", "dog", "dog", None]
    assert frame["status"].to_list() == ["ok", "not_an_image", "ok", "ok"]
    assert frame["caption"].to_list() == ["a cat", None, None, None]
    first = frame["members"].to_list()[0]
    assert first == [
        {"ext": "jpg", "offset": 0, "nbytes": len(corpus.jpeg(1)), "file": "cat/1.jpg"},
        {"ext": "txt", "offset": 0, "nbytes": 5, "file": "cat/1.txt"},
    ]
    assert frame["uid_hi"][0] == make_uid(None, "t", "", "cat/1")[0]
