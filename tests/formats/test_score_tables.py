from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from curate.errors import InputError, SpecError
from curate.formats import score_tables
from curate.formats.published_scores import ROWS, published_notes
from curate.formats.score_tables import numbers, open_table, read_table, truths, whole_numbers


def column(path: Path, name: str, start: int = 0, stop: int | None = None) -> list[Any]:
    table = open_table(str(path), ("key", "score"))
    chunks = read_table(table, [name], start, table.rows if stop is None else stop)
    return [value for _, batch in chunks for value in batch[name].to_list()]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("key,score\na,1\nb,2\n", ["key", "score"]),
        ("a,1\nb,2", ["column_1", "column_2"]),
        (",0\na,1\nb,2\n", ["column_1", "0"]),
        ("score\n1\n2\n", ["score"]),
        ("1\n2\n", ["column_1"]),
        ("a\nb\n", ["column_1"]),
        ("\ufeffkey,score\r\na,1\r\nb,2\r\n", ["key", "score"]),
        ('key,score\n"a, or\nso",1\n"b ""x""",2\n', ["key", "score"]),
    ],
)
def test_a_csv_may_have_a_head_line_or_none(tmp_path: Path, text: str, names: list[str]) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="utf-8", newline="")
    table = open_table(str(path), ("key", "score"))
    assert list(table.fields) == names
    assert table.rows == 2
    wanted = names[-1]
    assert [value.strip() for value in column(path, wanted)] == (["a", "b"] if text == "a\nb\n" else ["1", "2"])


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
def test_a_csv_cut_anywhere_gives_the_same_rows(tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_tables, "_CHUNK", chunk)
    keys = [f"k{i}{',' * (i % 3)}{chr(10) if i % 5 == 0 else ''}" for i in range(60)]
    pl.DataFrame({"key": keys, "score": [i / 7 for i in range(60)]}).write_csv(tmp_path / "t.csv")
    if chunk == 1:
        with pytest.raises(InputError, match="a line goes on"):
            open_table(str(tmp_path / "t.csv"))
        return
    table = open_table(str(tmp_path / "t.csv"))
    assert table.rows == 60
    for start, stop in ((0, 60), (13, 14), (5, 41), (60, 60)):
        got, firsts = [], []
        for first, batch in read_table(table, ["key", "score"], start, stop):
            firsts.append(first)
            got += list(zip(batch["key"].to_list(), numbers(table, "score", first, batch["score"]), strict=True))  # type: ignore[union-attr,arg-type]
        assert got == [(keys[i], i / 7) for i in range(start, stop)]
        assert firsts[:1] == ([start] if start < stop else [])


def test_parquet_and_npz_by_ranges(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    p = rng.random((3000, 5)).astype(np.float32)
    keys = [f"s{i:05d}" for i in range(3000)]
    frame = pl.DataFrame(
        {"key": keys, "probabilities": p.tolist()}, schema_overrides={"probabilities": pl.List(pl.Float32)}
    )
    frame.write_parquet(tmp_path / "a.parquet", row_group_size=700)
    frame.with_columns(pl.col("probabilities").list.to_array(5)).write_parquet(tmp_path / "b.parquet")
    np.savez(tmp_path / "a.npz", keys=np.array(keys), probabilities=p)
    np.savez_compressed(tmp_path / "b.npz", keys=np.array([k.encode() for k in keys]), probabilities=p)
    for name in ("a.parquet", "b.parquet", "a.npz", "b.npz"):
        table = open_table(str(tmp_path / name))
        key = "keys" if name.endswith("npz") else "key"
        assert (table.rows, table.fields["probabilities"].width) == (3000, 5)
        for start, stop in ((0, 3000), (650, 1500), (2999, 3000)):
            batches = [batch for _, batch in read_table(table, [key, "probabilities"], start, stop)]
            assert np.array_equal(np.concatenate([b["probabilities"] for b in batches]), p[start:stop])
            assert [k for b in batches for k in b[key].to_list()] == keys[start:stop]


def test_masks_are_read_by_columns(tmp_path: Path) -> None:
    from curate.formats.score_arrays import members, read_columns

    mask = np.random.default_rng(0).random((40, 500)) < 0.7
    np.savez(tmp_path / "a.npz", trainset_mask=mask)
    np.savez_compressed(tmp_path / "b.npz", trainset_mask=mask)
    for name in ("a.npz", "b.npz"):
        url = str(tmp_path / name)
        assert np.array_equal(read_columns(url, members(url)["trainset_mask"], 100, 333), mask[:, 100:333])


def test_cells_that_do_not_fit_are_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("key,score,epoch,correct\na,1.5,1,true\nb,,2,FALSE\nc,x,2.5,maybe\n")
    table = open_table(str(tmp_path / "t.csv"))
    ((first, batch),) = read_table(table, ["score", "epoch", "correct"], 0, 2)
    assert np.array_equal(numbers(table, "score", first, batch["score"]), [1.5, np.nan], equal_nan=True)  # type: ignore[arg-type]
    assert whole_numbers(table, "epoch", first, batch["epoch"]).tolist() == [1, 2]  # type: ignore[arg-type]
    assert truths(table, "correct", first, batch["correct"]).tolist() == [True, False]  # type: ignore[arg-type]
    ((first, batch),) = read_table(table, ["score", "epoch", "correct"], 2, 3)
    for read, name, said in (
        (numbers, "score", r"line 4: the column score holds 'x', no number"),
        (whole_numbers, "epoch", "line 4: the column epoch holds '2.5', no whole number"),
        (truths, "correct", "line 4: the column correct holds 'maybe', not true or false"),
    ):
        with pytest.raises(InputError, match=said):
            read(table, name, first, batch[name])  # type: ignore[operator]


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(SpecError, match=r"is a file named \.csv"):
        open_table(str(tmp_path / "t.json"))
    with pytest.raises(InputError, match="no such file"):
        open_table(str(tmp_path / "none.csv"))
    (tmp_path / "t.csv").write_text("")
    with pytest.raises(InputError, match="is empty"):
        open_table(str(tmp_path / "t.csv"))
    for name in ("t.parquet", "t.npz"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(InputError, match=name):
            open_table(str(tmp_path / name))
    np.savez(tmp_path / "o.npz", keys=np.array(["a", None], dtype=object))
    with pytest.raises(InputError, match="holds Python objects"):
        open_table(str(tmp_path / "o.npz"))
    (tmp_path / "ragged.csv").write_text("a,b\n1,2\n1,2,3\n")
    with pytest.raises(InputError, match=r"ragged\.csv: at or after row 0: cannot be read as CSV"):
        open_table(str(tmp_path / "ragged.csv"))
    pl.DataFrame({"p": [[1.0, 2.0], [1.0]]}).write_parquet(tmp_path / "r.parquet")
    table = open_table(str(tmp_path / "r.parquet"))
    with pytest.raises(InputError, match="row 1: the column p has 1 values or nulls, other rows 2"):
        list(read_table(table, ["p"], 0, 2))


def test_a_table_that_changes_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("key,score\na,1\n")
    table = open_table(str(path))
    path.write_text("key,score\na,12\n")
    with pytest.raises(InputError, match="changed while the run was at work"):
        list(read_table(table, ["score"], 0, 1))


def test_published_files_are_checked(tmp_path: Path) -> None:
    def notes(name: str, values: list[float]) -> list[str]:
        pl.DataFrame({"key": [f"k{i}" for i in range(len(values))], "score": values}).write_csv(tmp_path / name)
        return list(published_notes(open_table(str(tmp_path / name)), "score"))

    rows = f"has 10 rows, the published file has {ROWS:,}"
    assert notes("mine.csv", [0.1] * 10) == []
    assert notes("ImageNet-1K_DDD.csv", [3.0] * 10) == [f"ImageNet-1K_DDD.csv: {rows}"]
    assert "at most 1" in notes("ImageNet-1K_memorization.csv", [1.5] * 10)[1]
    assert notes("ImageNet-1K_active-learning.csv", [1.0] * 8 + [0.0] * 2)[1:] == []
    assert "has a mean of 0.500" in notes("ImageNet-1K_active-learning.csv", [1.0, 0.0])[1]
    assert "no published metric is named EL2N" in notes("ImageNet-1K_EL2N.csv", [1.0])[0]
