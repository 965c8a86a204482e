from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import datacomp_folder
import numpy as np
import polars as pl
import pytest
from PIL import Image

from curate.errors import InputError
from curate.formats.recognise import recognise


def image(kind: str = "JPEG", colour: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(buffer, kind)
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def sample(key: str, **fields: Any) -> dict[str, bytes]:
    found = {f"{key}.jpg": image(), f"{key}.txt": b"a caption"}
    return found | ({f"{key}.json": json.dumps(fields).encode()} if fields else {})


def test_plain_shards(tmp_path: Path) -> None:
    for shard in range(3):
        members: dict[str, bytes] = {}
        for i in range(40):
            members |= {f"{shard}{i:03d}.png": image("PNG"), f"{shard}{i:03d}.cls": b"1"}
        write_tar(tmp_path / f"{shard:05d}.tar", members)
    found = recognise(str(tmp_path))
    assert (found.layout, found.location, found.files) == ("shards", f"{tmp_path}/*.tar", 3)
    assert found.options == {"image": "png"}
    assert found.samples == 120
    assert found.nbytes == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_captions_some_of_which_are_missing(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", sample("1") | sample("2") | {"3.webp": image()})
    found = recognise(str(tmp_path / "a.tar"))
    assert found.options == {"image": "jpg;webp", "caption": "txt", "caption_required": False}
    assert found.notes == ("1 of the first 3 samples have no caption",)


def test_downloader_output_with_and_without_uids(tmp_path: Path) -> None:
    plain, datacomp = tmp_path / "plain", tmp_path / "datacomp"
    members = sample("000000000", similarity=0.3, url="u", width=3, hits=1)
    members |= sample("000000001", similarity=1, url=None, width=3, hits="many", **{"no name": 1})
    write_tar(plain / "00000.tar", members)
    (plain / "00000_stats.json").write_text("{}")
    found = recognise(str(plain))
    assert found.what.startswith("img2dataset")
    assert found.options["upstream"] == "img2dataset"
    assert found.fields == {"similarity": "float", "url": "string"}
    write_tar(datacomp / "00000000.tar", sample("000000000", uid="0" * 32))
    pl.DataFrame({"key": ["000000000"]}).write_parquet(datacomp / "00000000.parquet")
    assert recognise(str(datacomp)).what.startswith("DataComp")


def test_shards_one_level_down(tmp_path: Path) -> None:
    for part in ("part_0", "part_1"):
        write_tar(tmp_path / part / "00000.tar", sample("1"))
    found = recognise(str(tmp_path))
    assert (found.location, found.files) == (f"{tmp_path}/*/*.tar", 2)


def test_imagenet_as_distributed(tmp_path: Path) -> None:
    write_tar(tmp_path / "n01440764.tar", {"n01440764_1.JPEG": image()})
    inner = (tmp_path / "n01440764.tar").read_bytes()
    (tmp_path / "n01440764.tar").unlink()
    write_tar(tmp_path / "ILSVRC2012_img_train.tar", {"n01440764.tar": inner})
    write_tar(tmp_path / "ILSVRC2012_img_val.tar", {"ILSVRC2012_val_00000001.JPEG": image()})
    found = recognise(str(tmp_path))
    assert (found.layout, found.location) == ("archive", f"{tmp_path}/ILSVRC2012_img_train.tar")
    assert "ILSVRC2012_img_val.tar" in found.notes[0]
    assert (found.files, found.samples) == (1, 1)
    val = recognise(str(tmp_path / "ILSVRC2012_img_val.tar"))
    assert (val.layout, dict(val.options)) == ("shards", {"image": "jpeg"})


@pytest.mark.parametrize("split", ["", "train/"])
def test_image_folders(tmp_path: Path, split: str) -> None:
    for name in ("cats", "dogs"):
        folder = tmp_path / f"{split}{name}"
        folder.mkdir(parents=True)
        (folder / "1.JPG").write_bytes(image())
        (folder / "2.png").write_bytes(image("PNG"))
        (folder / "3.jpg").write_bytes(image())
    if split:
        (tmp_path / "val" / "cats").mkdir(parents=True)
    found = recognise(str(tmp_path))
    assert (found.layout, found.location) == ("folder", str(tmp_path / split).rstrip("/"))
    assert (found.files, dict(found.options)) == (6, {"image": "jpg;png"})
    assert any("val" in note for note in found.notes) == bool(split)


def test_flat_image_folder(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(image())
    assert recognise(str(tmp_path)).what == "a folder of images"


def test_parquet_as_hugging_face_and_as_img2dataset_write_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    frame = pl.DataFrame({"image": [{"bytes": image(), "path": "a.jpg"}] * 3, "text": ["x"] * 3, "score": [0.5] * 3})
    frame.write_parquet(data / "train-00000-of-00002.parquet")
    frame.write_parquet(data / "train-00001-of-00002.parquet")
    frame.write_parquet(data / "test-00000-of-00001.parquet")
    found = recognise(str(tmp_path))
    assert (found.layout, found.files, found.samples) == ("parquet", 2, 6)
    assert found.location in (f"{data}/train*.parquet", f"{tmp_path}/*/train*.parquet")
    assert found.options == {"image": "image", "caption": "text"}
    assert found.fields == {"score": "float"}
    assert "other splits" in found.notes[0]
    flat = tmp_path / "flat"
    flat.mkdir()
    pl.DataFrame({"thumb": [b""], "jpg": [image()], "caption": ["x"]}).write_parquet(flat / "00000.parquet")
    assert recognise(str(flat)).options == {"image": "jpg", "caption": "caption"}


def test_embeddings(tmp_path: Path) -> None:
    for name in ("img_emb", "text_emb", "metadata"):
        (tmp_path / name).mkdir()
    for n in range(2):
        np.save(tmp_path / "img_emb" / f"img_emb_{n}.npy", np.zeros((5, 4), dtype=np.float16))
        table = pl.DataFrame({"image_path": ["a"] * 5, "caption": ["b"] * 5, "similarity": [0.1] * 5})
        table.write_parquet(tmp_path / "metadata" / f"metadata_{n}.parquet")
    found = recognise(str(tmp_path))
    assert (found.layout, found.location, found.files, found.samples) == ("embeddings", str(tmp_path), 2, 10)
    assert found.what.endswith("images and texts")
    assert found.fields == {"similarity": "float"}


@pytest.mark.parametrize("where", [".", "part_0", "deep/part_0"])
@pytest.mark.parametrize("arrays", [False, True])
def test_datacomp_metadata(tmp_path: Path, where: str, arrays: bool) -> None:
    for n in range(2):
        beside = datacomp_folder.arrays(30, 8, n) if arrays else None
        datacomp_folder.write(tmp_path / where, f"{n}", datacomp_folder.table(30, n), beside)
    found = recognise(str(tmp_path))
    assert (found.layout, found.files, found.vectors) == ("datacomp", 2, arrays)
    assert Path(found.location) in (tmp_path, tmp_path / "deep")
    assert abs((found.samples or 0) - 60) < 6
    assert found.what == "DataComp metadata" + (" with embeddings" if arrays else "")
    table = recognise(str(tmp_path / where / "0.parquet"))
    assert (table.layout, Path(table.location)) == ("datacomp", tmp_path / where)


def test_a_list_of_shards(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_tar(tmp_path / f"{name}.tar", sample("1") | sample("2"))
    (tmp_path / "shards.txt").write_text("a.tar\nb.tar\n")
    found = recognise(str(tmp_path / "shards.txt"))
    assert (found.layout, found.location) == ("shards", str(tmp_path / "shards.txt"))
    assert (found.files, found.samples, found.options["caption"]) == (2, 4, "txt")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: (p / "notes.md").write_text("x"), "holds notes.md"),
        (lambda p: None, "holds nothing"),
        (lambda p: write_tar(p / "a.tar", {}), "holds no samples"),
        (lambda p: (p / "a.tar").write_bytes(b"no tar at all" * 1000), "holds no samples"),
        (lambda p: write_tar(p / "a.tar", {"1.mp4": b"x"}), "samples with mp4, but no image"),
        (lambda p: pl.DataFrame({"url": ["x"], "text": ["y"]}).write_parquet(p / "a.parquet"), "img2dataset first"),
        (lambda p: (p / "a.parquet").write_bytes(b"PAR1 and nothing else"), "not a Parquet file"),
        (lambda p: (p / "img_emb").mkdir(), "no .npy files"),
    ],
)
def test_what_is_not_recognised_is_named(tmp_path: Path, make: Any, said: str) -> None:
    make(tmp_path)
    with pytest.raises(InputError, match=said):
        recognise(str(tmp_path))


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        recognise(str(tmp_path / "gone"))
