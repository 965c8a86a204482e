from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import corpus
import datasets
import fsspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curate.errors import InputError
from curate.formats.index import index_part
from curate.formats.members import read_members
from curate.formats.samples import INDEX_SCHEMA, IndexOptions
from curate.formats.shards import expand_shards
from curate.formats.sources import PartSource, ShardInfo, plan_parts
from curate.store import urls
from curate.store.uids import make_uid

OPTIONS = IndexOptions("test", image_exts=("jpg", "jpeg", "png", "webp", "gif"))


def part_of(*paths: Path | str) -> PartSource:
    (part,) = plan_parts(expand_shards([str(path) for path in paths], ".parquet"), 1000, "parquet")
    return part


def index(part: PartSource, options: IndexOptions = OPTIONS) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    frame, notes = index_part(part, options)
    return frame, notes.as_dicts()


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


def blobs(n: int, start: int = 0) -> list[bytes]:
    return [corpus.jpeg(start + i, (32, 24)) for i in range(n)]


# --- Hugging Face -----------------------------------------------------------------------------------------------------


def hf_file(path: Path) -> tuple[list[bytes], list[int]]:
    """A file as the library `datasets` writes it: Image as {bytes, path}, ClassLabel as a number."""
    images = [*blobs(3), corpus.encode(corpus.photo(7), "PNG")]
    labels = [2, 0, 1, -1]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog", "0bird"]),
            "text": datasets.Value("string"),
            "boxes": datasets.Sequence(datasets.Value("int32")),
        }
    )
    data = {
        "image": [{"bytes": data, "path": f"{i}.img"} for i, data in enumerate(images)],
        "label": labels,
        "text": ["one", "zwei ü", None, ""],
        "boxes": [[1, 2], [], [3], None],
    }
    datasets.Dataset.from_dict(data, features=features).to_parquet(str(path))
    return images, labels


def test_a_hugging_face_file(tmp_path: Path) -> None:
    images, labels = hf_file(tmp_path / "train-00000-of-00001.parquet")
    part = part_of(tmp_path / "*.parquet")
    options = IndexOptions("test", OPTIONS.image_exts, caption_ext="text", caption_required=True)
    frame, notes = index(part, options)
    assert notes == []
    assert dict(frame.schema) == INDEX_SCHEMA
    assert frame["key"].to_list() == [f"{i:09d}" for i in range(4)]
    assert frame["label"].to_list() == ["0bird", "cat", "dog", None]
    assert frame["caption"].to_list() == ["one", "zwei ü", None, ""]
    assert frame["status"].to_list() == ["ok", "ok", "missing_caption", "ok"]
    assert frame["detail"][2] == "column text is null in row 2"
    assert frame["ext"].to_list() == ["jpg", "jpg", "jpg", "png"]
    assert frame["sha256"].to_list() == [hashlib.sha256(data).hexdigest() for data in images]
    assert frame.select("width", "height").rows() == [Image.open(io.BytesIO(data)).size for data in images]
    found = list(read_members(part, frame))
    assert [i for i, _ in found] == [0, 1, 2, 3]
    for i, data in found:
        ext = frame["ext"][i]
        assert data[ext] == images[i]
        assert data["cls"] == str(labels[i]).encode()
        boxes = [[1, 2], [], [3], None][i]
        text = ["one", "zwei ü", None, ""][i]
        assert json.loads(data["json"]) == {
            "image": {"path": f"{i}.img"},
            "label": labels[i],
            "text": text,
            "boxes": boxes,
        }
        assert data.get("txt") == (None if text is None else text.encode())
        assert {m["ext"]: m["nbytes"] for m in frame["members"][i]} == {e: len(d) for e, d in data.items()}
    only = [data for _, data in read_members(part, frame[[0, 3]], {"jpg", "png"})]
    assert only == [{"jpg": images[0]}, {"png": images[3]}]


def test_a_dataset_names_its_image_column_itself(tmp_path: Path) -> None:
    """CIFAR-10 calls it img; without a note in the file the name has to be given."""
    features = datasets.Features({"img": datasets.Image(), "n": datasets.Value("int64")})
    data = {"img": [{"bytes": b, "path": None} for b in blobs(2)], "n": [1, 2]}
    datasets.Dataset.from_dict(data, features=features).to_parquet(str(tmp_path / "a.parquet"))
    frame, _ = index(part_of(tmp_path / "a.parquet"))
    assert frame["status"].to_list() == ["ok", "ok"]
    plain = write(tmp_path / "b.parquet", {"img": pa.array(blobs(2), pa.binary()), "n": [1, 2]})
    with pytest.raises(
        InputError, match=r"no column jpg, .* or image holds image bytes; its columns are img \(binary\), n"
    ):
        index(part_of(plain))
    frame, _ = index(part_of(plain), IndexOptions("test", ("img",)))
    assert frame["status"].to_list() == ["ok", "ok"]


def test_a_path_without_bytes_is_no_image(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.array([{"bytes": None, "path": "x.jpg"}, None, {"bytes": blobs(1)[0], "path": None}], kind)
    frame, _ = index(part_of(write(tmp_path / "a.parquet", {"image": rows})))
    assert frame["status"].to_list() == ["missing_image", "missing_image", "ok"]
    assert frame["detail"][0] == "column image is null in row 0"


# --- img2dataset ------------------------------------------------------------------------------------------------------


def img2dataset_file(path: Path) -> list[bytes | None]:
    """The columns and row groups that img2dataset's writer gives (output_format=parquet)."""
    images: list[bytes | None] = [*blobs(2), None, corpus.jpeg(5)]
    n = len(images)
    columns = {
        "uid": [f"{i:032x}" for i in range(n)],
        "similarity": [0.25, 0.5, 0.75, 0.125],
        "caption": [f"caption {i}" for i in range(n)],
        "url": [f"http://x/{i}" for i in range(n)],
        "key": [f"00000000{i}" for i in range(n)],
        "status": ["success", "success", "failed_to_download", "success"],
        "error_message": [None, None, "HTTP Error 404: Not Found", None],
        "width": pa.array([256, 256, None, 256], pa.int32()),
        "exif": ["{}", "{}", None, "{}"],
        "sha256": ["a", "b", None, "c"],
        "jpg": pa.array(images, pa.binary()),
    }
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return images


def test_an_img2dataset_file(tmp_path: Path) -> None:
    images = img2dataset_file(tmp_path / "00000.parquet")
    part = part_of(tmp_path)
    options = IndexOptions("test", OPTIONS.image_exts, caption_ext="caption", fields=(("similarity", "float"),))
    frame, notes = index(part, options)
    assert notes == []
    assert frame["status"].to_list() == ["ok", "ok", "not_downloaded", "ok"]
    assert frame["detail"][2] == "HTTP Error 404: Not Found"
    assert frame["key"].to_list() == [f"00000000{i}" for i in range(4)]
    assert frame["uid_lo"].to_list() == [0, 1, 2, 3]
    assert frame["similarity"].to_list() == [0.25, 0.5, 0.75, 0.125]
    assert frame["caption"].to_list() == [f"caption {i}" for i in range(4)]
    good = frame.filter(status="ok")
    for (_, data), row in zip(read_members(part, good), (0, 1, 3), strict=True):
        assert data["jpg"] == images[row]
        assert data["txt"] == f"caption {row}".encode()
        said = json.loads(data["json"])
        assert (said["url"], said["uid"], said["similarity"]) == (
            f"http://x/{row}",
            f"{row:032x}",
            [0.25, 0.5, 0, 0.125][row],
        )
        assert "jpg" not in said


# --- values -----------------------------------------------------------------------------------------------------------


def test_uids_and_keys(tmp_path: Path) -> None:
    columns = {
        "jpg": pa.array(blobs(3), pa.binary()),
        "key": ["/data/a.b.jpg", None, "x"],
        "uid": ["AB" * 16, "not hex", None],
    }
    frame, _ = index(part_of(write(tmp_path / "a.parquet", columns)))
    assert frame["key"].to_list() == ["/data/a.b.jpg", "000000001", "x"]
    assert frame["status"].to_list() == ["ok"] * 3  # a key of a table never becomes a path
    expected = [make_uid(u, "test", "a.parquet", k) for u, k in zip(columns["uid"], frame["key"], strict=True)]
    assert frame.select("uid_hi", "uid_lo", "source_uid").rows() == expected


def test_statuses_are_those_of_tars(tmp_path: Path) -> None:
    images = [
        corpus.html(),
        b"",
        corpus.jpeg(1),
        corpus.jpeg(1)[:60],
        corpus.encode(corpus.photo(1, (2000, 10)), "PNG"),
    ]
    part = part_of(write(tmp_path / "a.parquet", {"jpg": pa.array(images, pa.binary())}))
    frame, _ = index(part, IndexOptions("test", max_pixels=10_000, max_member_bytes=100_000))
    assert frame["status"].to_list() == ["not_an_image", "empty_image", "ok", "bad_image", "too_many_pixels"]
    assert frame["ext"].to_list() == ["bin", "bin", "jpg", "jpg", "png"]
    frame, _ = index(part, IndexOptions("test", max_member_bytes=50))
    assert frame["status"].to_list()[2] == "too_many_bytes"


# --- faults -----------------------------------------------------------------------------------------------------------


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def page(data: bytes) -> bytes:
    return b"<html>404</html>" + b" " * 100


def no_footer(data: bytes) -> bytes:
    return data[:-200] + bytes(192) + data[-8:]


@pytest.mark.parametrize(
    ("harm", "reason", "said"),
    [
        (cut, "cut", "without the footer"),
        (page, "not_a_parquet", "not with PAR1"),
        (no_footer, "garbage", "footer is damaged"),
        (lambda data: b"", "empty", "0 bytes"),
        (lambda data: b"PAR1", "cut", "without the footer"),
    ],
)
def test_a_file_that_is_no_parquet_is_told(
    tmp_path: Path, harm: Callable[[bytes], bytes], reason: str, said: str
) -> None:
    good = write(tmp_path / "a.parquet", {"jpg": pa.array(blobs(2), pa.binary())})
    (tmp_path / "b.parquet").write_bytes(harm(good.read_bytes()))
    write(tmp_path / "c.parquet", {"jpg": pa.array(blobs(2, 5), pa.binary())})
    frame, (note,) = index(part_of(tmp_path))
    assert frame["shard"].to_list() == [0, 0, 2, 2]
    assert (note["kind"], note["shard"], note["reason"], note["rows"], note["lossy"]) == (
        "shard",
        "b.parquet",
        reason,
        0,
        True,
    )
    assert said in note["detail"]


def test_no_rows_is_told(tmp_path: Path) -> None:
    frame, (note,) = index(part_of(write(tmp_path / "a.parquet", {"jpg": pa.array([], pa.binary())})))
    assert frame.height == 0
    assert (note["reason"], note["detail"]) == ("empty", "the file has no rows")


@pytest.mark.parametrize("compression", ["snappy", "zstd"])
def test_a_damaged_row_group_costs_its_own_rows_only(tmp_path: Path, compression: str) -> None:
    path = write(
        tmp_path / "a.parquet",
        {"jpg": pa.array(blobs(9), pa.binary()), "n": list(range(9))},
        row_group_size=3,
        compression=compression,
        use_dictionary=False,
        write_page_checksum=True,
    )
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    end = column.data_page_offset + column.total_compressed_size  # the page's values are last
    data[end - 60 : end - 20] = bytes(b ^ 0xFF for b in data[end - 60 : end - 20])
    path.write_bytes(bytes(data))
    part = part_of(path)
    frame, (note,) = index(part)
    assert [m[0]["offset"] for m in frame["members"]] == [0, 1, 2, 6, 7, 8]
    assert frame["key"].to_list() == [f"{i:09d}" for i in (0, 1, 2, 6, 7, 8)]
    assert (note["reason"], note["offset"], note["rows"], note["lossy"]) == ("damaged_rows", 3, 3, True)
    assert note["detail"].startswith("rows 3 to 5 (row group 1) cannot be read: ")
    assert [data["jpg"] for _, data in read_members(part, frame)] == [blobs(9)[i] for i in (0, 1, 2, 6, 7, 8)]


def test_wrong_columns_are_named(tmp_path: Path) -> None:
    part = part_of(write(tmp_path / "a.parquet", {"jpg": pa.array(blobs(1), pa.binary()), "texts": [["a", "b"]]}))
    with pytest.raises(InputError, match=r"there is no column txt; its columns are jpg \(binary\), texts \(list<"):
        index(part, IndexOptions("test", caption_ext="txt"))
    with pytest.raises(InputError, match=r"column texts holds list<.*>, not text"):
        index(part, IndexOptions("test", caption_ext="texts"))
    paths = part_of(write(tmp_path / "b.parquet", {"jpg": ["a.jpg"]}))
    with pytest.raises(InputError, match=r"holds image bytes; its columns are jpg \(string\)"):
        index(paths)
    two = pa.Table.from_arrays([pa.array(blobs(1), pa.binary()), pa.array([1]), pa.array([2])], ["jpg", "n", "n"])
    pq.write_table(two, tmp_path / "c.parquet")
    with pytest.raises(InputError, match="two columns are named n"):
        index(part_of(tmp_path / "c.parquet"))


def test_a_file_that_changed_since_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"jpg": pa.array(blobs(3), pa.binary()), "n": [1, 2, 3]})
    part = part_of(path)
    frame, _ = index(part)
    write(path, {"jpg": pa.array(blobs(2), pa.binary()), "n": [1, 2]})
    with pytest.raises(InputError, match="row 2 was indexed, it has 2 rows; the file has changed"):
        list(read_members(part, frame))
    write(path, {"jpg": pa.array(blobs(3), pa.binary()), "n": [100, 2, 3]})
    with pytest.raises(InputError, match="json of row 0 had 8 bytes, 10 bytes are there now"):
        list(read_members(part, frame))
    write(path, {"png": pa.array(blobs(3), pa.binary())})
    with pytest.raises(InputError, match="column jpg was indexed but is gone"):
        list(read_members(part, frame))
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        list(read_members(part, frame))


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["local", "memory"])
@pytest.mark.parametrize("group", [1, 7, 1000])
def test_any_rows_come_back_in_the_order_asked_for(tmp_path: Path, where: str, group: int) -> None:
    path = write(
        tmp_path / "a.parquet", {"jpg": pa.array(blobs(90), pa.binary()), "n": list(range(90))}, row_group_size=group
    )
    url = str(path)
    if where == "memory":
        url = f"memory://parquet-{group}/a.parquet"
        fsspec.filesystem("memory").pipe_file(url.removeprefix("memory:/"), path.read_bytes())
    part = part_of(url)
    frame, _ = index(part)
    assert frame.height == 90
    images = blobs(90)
    for rows in ([0], [89], list(range(90)), list(range(0, 90, 13)), [70, 3, 40]):
        found = list(read_members(part, frame[rows]))
        assert [i for i, _ in found] == list(range(len(rows)))
        assert [data["jpg"] for _, data in found] == [images[row] for row in rows]
        assert [json.loads(data["json"]) for _, data in found] == [{"n": row} for row in rows]
    assert list(read_members(part, frame[[1, 2]], {"absent"})) == [(0, {}), (1, {})]


def test_only_wanted_row_groups_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(
        tmp_path / "a.parquet",
        {"jpg": pa.array([corpus.jpeg(i, (640, 480)) for i in range(40)], pa.binary())},
        row_group_size=4,
    )
    url = "memory://ranges/a.parquet"
    fsspec.filesystem("memory").pipe_file("/ranges/a.parquet", path.read_bytes())
    part = part_of(url)
    frame, _ = index(part)
    read: list[int] = []
    true = urls.read_range
    monkeypatch.setattr(urls, "read_range", lambda url, start, n: (read.append(n), true(url, start, n))[1])
    assert [data["jpg"] for _, data in read_members(part, frame[[17]], {"jpg"})] == [corpus.jpeg(17, (640, 480))]
    group = pq.ParquetFile(path).metadata.row_group(4).total_byte_size
    footer = 64 << 10
    assert sum(read) < 1.1 * group + 3 * footer


def test_two_files_make_one_part_or_two(tmp_path: Path) -> None:
    for i in range(2):
        write(tmp_path / f"{i}.parquet", {"jpg": pa.array(blobs(3, 10 * i), pa.binary())})
    both, _ = index(part_of(tmp_path))
    shards: list[ShardInfo] = expand_shards(str(tmp_path), ".parquet")
    assert [s.rel for s in shards] == ["0.parquet", "1.parquet"]
    apart = pl.concat([index(part)[0] for part in plan_parts(shards, 1, "parquet")])
    assert both.drop("shard").equals(apart.drop("shard"))
    assert apart["uid_hi"].n_unique() == 6
