from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import InputError
from curate.formats.arrow import NotReadable, Table, is_plain, json_text, rows_of, text_column


def table_of(path: Path, columns: dict[str, Any], **options: Any) -> Table:
    pq.write_table(pa.table(columns), path, **options)
    return Table(str(path), path.stat().st_size)


def remote(path: Path) -> Table:
    fsspec.filesystem("memory").pipe_file("/arrow/a.parquet", path.read_bytes())
    return Table("memory://arrow/a.parquet", path.stat().st_size)


def json_rows(table: Table, leaves: list[str] | None = None) -> list[Any]:
    wanted = table.plain_leaves() if leaves is None else leaves
    groups = range(len(table.group_rows))
    return [json.loads(json_text(row)) for g in groups for batch in table.batches(g, wanted) for row in rows_of(batch)]


def test_every_kind_of_value_becomes_json(tmp_path: Path) -> None:
    columns = {
        "nan": [float("nan")],
        "inf": pa.array([[float("inf"), 1.5]], pa.list_(pa.float64())),
        "when": pa.array([datetime(2024, 5, 6, 7, 8, 9)], pa.timestamp("ns")),
        "price": pa.array([Decimal("1.10")], pa.decimal128(10, 2)),
        "raw": pa.array([b"\xff"], pa.binary()),
        "fixed": pa.array([b"12345678"], pa.binary(8)),
        "nested": pa.array([{"a": {"blob": b"x", "n": 1}, "b": [{"c": "d", "raw": b"y"}]}]),
        "tag": pa.array(["t"]).dictionary_encode(),
        "none": pa.nulls(1),
        "a.b": [7],
    }
    with table_of(tmp_path / "a.parquet", columns) as table:
        assert json_rows(table) == [
            {
                "nan": None,
                "inf": [None, 1.5],
                "when": "2024-05-06 07:08:09.000000000",
                "price": "1.10",
                "nested": {"a": {"n": 1}, "b": [{"c": "d"}]},
                "tag": "t",
                "none": None,
                "a.b": 7,
            }
        ]
        assert "a.b" not in table.plain_leaves(["a.b"])
        assert table.plain_leaves(["nested", "tag", "a.b"]) == ["nan", "inf.list.element", "when", "price", "none"]


def test_plain_rows_need_no_json_to_be_json() -> None:
    plain = {"s": ["a"], "i": [1], "f": [1.5], "b": [True], "l": pa.array(["x"], pa.large_string())}
    assert is_plain(pa.table(plain).schema)
    assert not is_plain(pa.table(plain | {"t": [datetime(2024, 1, 1)]}).schema)
    assert not is_plain(pa.table(plain | {"n": [[1]]}).schema)


def test_text_that_is_not_utf8_is_marked_and_the_rest_of_it_kept(tmp_path: Path) -> None:
    raw = pa.array([b"fine", b"\xff\xfe!", None], pa.binary())
    text = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2], raw.buffers()[0])
    with table_of(tmp_path / "a.parquet", {"caption": text, "n": [1, 2, 3]}) as table:
        assert json_rows(table) == [
            {"caption": "fine", "n": 1},
            {"caption": "\ufffd\ufffd!", "n": 2},
            {"caption": None, "n": 3},
        ]


def test_the_first_column_of_text_that_is_asked_for(tmp_path: Path) -> None:
    with table_of(tmp_path / "a.parquet", {"b": ["x"], "a": [b"y"], "n": [1]}) as table:
        assert text_column(table, "zz;a;b", "caption") == "a"
        with pytest.raises(
            InputError,
            match=r"no column q or r; its columns are b \(string\), a \(binary\), n \(int64\)\. Name .*input\.caption",
        ):
            text_column(table, "q;r", "caption")
        with pytest.raises(InputError, match="column n holds int64, not text"):
            text_column(table, "n", "caption")


def test_memory_does_not_grow_with_the_row_group(tmp_path: Path) -> None:
    rows = 1500
    blobs = [bytes([i % 251]) * 20_000 + i.to_bytes(4, "little") for i in range(rows)]
    columns = {"jpg": pa.array(blobs, pa.binary())}
    table = table_of(
        tmp_path / "a.parquet",
        columns,
        row_group_size=rows,
        write_batch_size=16,
        use_dictionary=False,
        compression="none",
    )
    del columns
    with table:
        before, peak, seen = pa.total_allocated_bytes(), 0, 0
        for batch in table.batches(0, ["jpg"]):
            peak = max(peak, pa.total_allocated_bytes() - before)
            assert [value.as_py() for value in batch["jpg"]] == blobs[seen : seen + batch.num_rows]
            seen += batch.num_rows
    assert seen == rows
    assert peak < 10 << 20 < 30_000_000


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def no_footer(data: bytes) -> bytes:
    return data[:-200] + bytes(192) + data[-8:]


@pytest.mark.parametrize("where", ["local", "memory"])
@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (cut, "cut"),
        (no_footer, "garbage"),
        (lambda data: b"<html></html>", "not_a_parquet"),
        (lambda data: b"", "empty"),
    ],
)
def test_what_is_no_parquet_file(tmp_path: Path, where: str, harm: Callable[[bytes], bytes], reason: str) -> None:
    path = tmp_path / "a.parquet"
    table_of(path, {"a": list(range(100))}).close()
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(NotReadable) as error:
        Table(str(path), path.stat().st_size) if where == "local" else remote(path)
    assert error.value.reason == reason


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    for url in (str(tmp_path / "a.parquet"), "memory://arrow/none.parquet"):
        with pytest.raises(InputError, match="there is no such file"):
            Table(url, 1000)


def test_a_remote_file_that_goes_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table_of(path, {"a": list(range(10_000))}).close()
    with remote(path) as table:
        fsspec.filesystem("memory").rm("/arrow/a.parquet")
        with pytest.raises(InputError, match="there is no such file"):
            list(table.batches(0, ["a"]))


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["n", "n"]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="two columns are named n"):
        Table(str(tmp_path / "a.parquet"), (tmp_path / "a.parquet").stat().st_size)
