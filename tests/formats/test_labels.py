from __future__ import annotations

from pathlib import Path

import corpus
import polars as pl
import pytest

from curate.errors import InputError
from curate.formats.index import index_part
from curate.formats.labels import LabelSource, is_number, labels_of, open_labels, parse_labels
from curate.formats.samples import IndexOptions
from curate.formats.shards import expand_shards
from curate.formats.sources import plan_parts

VAL = "ILSVRC2012_val_0000000"


@pytest.mark.parametrize(
    "text",
    [
        f"{VAL}1,n01\n{VAL}2,n02\n",
        f"{VAL}1.JPEG n01\n{VAL}2.JPEG n02\n",
        f"{VAL}1\tn01\r\n{VAL}2\tn02\r\n",
        f"\ufeffImageId,PredictionString\n{VAL}1,n01 85 1 499 272 \n{VAL}2,n02 1 2 3 4 n05 1 2 3 4 \n",
        f"split,label,filename\nval,n01,./val/{VAL}1.JPEG\nval,n02,val/{VAL}2.JPEG\n",
        f'key,label\n"{VAL}1","n01"\n\n{VAL}2, n02\n{VAL}2,n02\n',
    ],
)
def test_tables_with_keys_are_recognised(text: str) -> None:
    table = parse_labels(text.encode(), "t.csv")
    folder = "val/" if "val/" in text else ""
    assert [table.get(f"{folder}{VAL}{n}") for n in (1, 2, 3)] == ["n01", "n02", None]


def test_a_key_without_folder_finds_the_last_part_of_a_path() -> None:
    assert parse_labels(b"a,x\nb,y\n", "t").get("val/deep/b") == "y"


def test_one_label_a_line_goes_by_the_number_that_ends_the_key() -> None:
    numbers = parse_labels(b"490\n361\n171\n", "ILSVRC2012_validation_ground_truth.txt")
    synsets = parse_labels(b"n01751748\nn09193705", "val.txt")
    keys = [f"x/{VAL}{n}" for n in (1, 2, 3, 4, 0)]
    assert [numbers.get(key) for key in keys] == ["490", "361", "171", None, None]
    assert [synsets.get(key) for key in [*keys[:3], "nothing", "1a", "000002"]] == [
        "n01751748", "n09193705", None, None, None, "n09193705",
    ]  # fmt: skip


def test_parquet_tables(tmp_path: Path) -> None:
    frame = pl.DataFrame({"more": [0.1, 0.2, 0.3], "Label": [7, 8, None], "image_id": ["a.jpg", "b.jpg", "c.jpg"]})
    frame.write_parquet(tmp_path / "l.parquet")
    table = labels_of(open_labels(str(tmp_path / "l.parquet")))
    assert [table.get(key) for key in "abc"] == ["7", "8", None]
    frame.rename({"Label": "other"}).write_parquet(tmp_path / "m.parquet")
    with pytest.raises(InputError, match=r"m\.parquet: has the columns more, other, image_id; name one key and one"):
        open_labels(str(tmp_path / "m.parquet"))
    frame.with_columns(Label=pl.lit(0.5)).write_parquet(tmp_path / "n.parquet")
    with pytest.raises(InputError, match="column Label is Float64; keys and labels are text or whole numbers"):
        open_labels(str(tmp_path / "n.parquet"))
    (tmp_path / "o.parquet").write_bytes((tmp_path / "l.parquet").read_bytes()[:-20])
    with pytest.raises(InputError, match=r"o\.parquet: cannot be read as Parquet"):
        open_labels(str(tmp_path / "o.parquet"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "t: the table of labels is empty"),
        (b"\n  \n", "t: the table of labels is empty"),
        (b"a,x\nb,y\ncaf\xe9,z\n", "t, line 3: is not UTF-8 text .byte 0xe9."),
        (b"a,x\nb\n", "t, line 2: has 1 columns where the first line has 2"),
        (b"a x\nb y z\n", "t, line 2: has 3 columns where the first line has 2"),
        (b"a,b,c\n1,2,3\n", "t, line 1: has 3 columns and no heading that names key and label"),
        (b"a,x\nb,\n", "t, line 2: has no label"),
        (b"a,x\n,y\n", "t, line 2: has no key"),
        (b"a,x\nb,y\na,z\n", "t, line 3: gives a the label z, but line 1 gives x"),
        (b"a.jpg,x\na.png,y\n", "t, line 2: gives a the label y, but line 1 gives x"),
        (b"1\n2\n\n4\n", "t, line 3: is empty"),
        (b"1\n2 3\n", "t, line 2: has 2 columns where line 1 has one"),
        (b"label\n1\n2\n", "t, line 1: is a heading"),
        (b"a,x\n\0,y\n", "t, line 2: holds a zero byte"),
    ],
)
def test_bad_tables_are_refused_with_their_line(data: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_labels(data, "t")


def test_labels_go_to_samples_without_one_of_their_own(tmp_path: Path) -> None:
    members: list[tuple[str | bytes, bytes]] = [
        ("a1.jpg", corpus.jpeg(1)),
        ("a2.jpg", corpus.jpeg(2)), ("a2.cls", b"own"),
        ("a3.jpg", corpus.jpeg(3)), ("a3.json", b'{"label": "json"}'),
        ("a4.jpg", corpus.jpeg(4)),
    ]  # fmt: skip
    (tmp_path / "x.tar").write_bytes(corpus.tar_bytes(members))
    (tmp_path / "labels.csv").write_text("a1,one\na2,two\na3,three\n")
    (part,) = plan_parts(expand_shards(str(tmp_path / "x.tar")))
    source = open_labels(str(tmp_path / "labels.csv"))
    frame, notes = index_part(part, IndexOptions("t", labels=source))
    assert frame["label"].to_list() == ["one", "own", "json", None]
    assert set(frame["status"]) == {"ok"}
    assert notes.as_dicts() == [{"kind": "labels", "samples": 1, "keys": ["a4"]}]


def test_a_table_that_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("a,x\n")
    source = open_labels(str(path))
    path.write_text("a,y\n")
    assert labels_of(open_labels(str(path))).get("a") == "y"
    with pytest.raises(InputError, match="changed while the run was going on"):
        labels_of(LabelSource(source.url, "0" * 64))


def test_numbers_are_plain_ones() -> None:
    assert [is_number(text) for text in ("0", "10", "07", "-1", "1.0", "", "n1", "²", None)] == [True] * 2 + [False] * 7
