from __future__ import annotations

import csv
import hashlib
import io
import random
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.errors import InputError, SpecError
from curate.formats import value_lists
from curate.formats.datacomp import contains, make_subset, uid_at
from curate.formats.value_lists import code_texts, read_list, some_values
from curate.store.workspace import Workspace

MANY = [hashlib.sha256(str(i).encode()).hexdigest()[:32] for i in range(1000)]
A, B = "00000000000000aa00000000000000bb", "ffffffffffffffffffffffffffffff01"


def texts(path: Path) -> list[str]:
    codes = read_list(str(path)).codes
    return [uid_at(codes, row) for row in range(len(codes))]


def test_uids_in_any_case_with_comments_and_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_bytes(
        f"# asked to go\n\n{B.upper()}\r\n  {A}  \n   # {B[::-1]}\n{A}\n".encode("utf-8-sig")
    )
    assert texts(tmp_path / "l.txt") == [A, B]
    assert read_list(str(tmp_path / "l.txt")).sha256 == hashlib.sha256((tmp_path / "l.txt").read_bytes()).hexdigest()
    (tmp_path / "m.txt").write_bytes(f"{A}\n{B}".encode())  # no end of line at the end
    assert texts(tmp_path / "m.txt") == [A, B]


@pytest.mark.parametrize("chunk", [1, 7, 33, 64, 1 << 20])
def test_every_kind_of_file_holds_the_same(chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_lists, "_CHUNK", chunk)
    monkeypatch.setattr(value_lists, "_BATCH", 100)
    shuffled = random.Random(chunk).sample(MANY, len(MANY))
    (tmp_path / "l.txt").write_text("\n".join(shuffled))
    rows = pl.DataFrame({"url": ['a,b\n"c"'] * 1000, "uid": shuffled})
    rows.write_csv(tmp_path / "l.csv")
    rows.write_parquet(tmp_path / "l.parquet", row_group_size=64)
    numbers = np.array([divmod(int(uid, 16), 2**64) for uid in shuffled], dtype=np.uint64)
    np.save(tmp_path / "l.npy", make_subset(numbers[:, 0], numbers[:, 1]))
    for name in ("l.txt", "l.csv", "l.parquet", "l.npy"):
        assert texts(tmp_path / name) == sorted(MANY), name


def test_lists_elsewhere_than_on_disk(tmp_path: Path) -> None:
    place = Workspace("memory://value-lists")
    place.put("l.txt", f"{A}\n{B}\n".encode())
    place.put("l.csv", f"uid\n{A}\n{B}\n".encode())
    out = io.BytesIO()
    pl.DataFrame({"uid": [A, B]}).write_parquet(out)
    place.put("l.parquet", out.getvalue())
    for name in ("l.txt", "l.csv", "l.parquet"):
        read = read_list(f"memory://value-lists/{name}")
        assert [uid_at(read.codes, n) for n in range(2)] == [A, B]
        assert read.sha256 == hashlib.sha256(place.read(name)).hexdigest()


@given(st.sets(st.text(max_size=6)), st.lists(st.text(max_size=6)))
def test_other_values_are_found_exactly(listed: set[str], asked: list[str]) -> None:
    codes = code_texts(sorted(listed))
    listed_codes = make_subset(codes["f0"], codes["f1"])
    found = code_texts(asked)
    assert contains(listed_codes, found["f0"], found["f1"]).tolist() == [text in listed for text in asked]


def test_other_values_of_a_csv(tmp_path: Path) -> None:
    urls = ["http://a/1?x=1,2", 'http://a/"q"', "http://a/#frag", "two\nlines"]
    with (tmp_path / "l.csv").open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["n", "url"])
        writer.writerows([[n, url] for n, url in enumerate(urls)])
        writer.writerow([9, ""])
    codes = read_list(str(tmp_path / "l.csv"), "url").codes
    wanted = code_texts(urls)
    assert codes.tolist() == make_subset(wanted["f0"], wanted["f1"]).tolist()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("l.txt", f"{A}\n# fine\n{A[:-1]}\n", r"l.txt: line 3: '0{14}aa0{14}b' is not a uid"),
        ("l.txt", f"{A}\n\n{A[:-1]}g\n", "l.txt: line 3: "),
        ("l.txt", f"{A}\n{A} gone\n", "l.txt: line 2: "),
        ("l.txt", f"{A[:-1]}ä\n", "line 1: .* is not a uid"),
        ("l.txt", A + "\n" + "x" * 500, "line 2: 'x{60}...' is not a uid"),
        ("l.csv", f"uid,why\n{A},x\nnone,y\n", "l.csv: line 3: 'none' is not a uid"),
        ("l.csv", f"why,uid\nx,{A}\ny\n", "l.csv: line 3 has fewer cells"),
        ("l.csv", f"id,why\n{A},x\n", "has no column named uid; it has id, why"),
        ("l.csv", "", "has no column named uid; it has none"),
        ("l.csv", 'uid\n"open', "line 2 is not CSV"),
        ("l.parquet", "no parquet", "cannot be read as Parquet"),
    ],
)
def test_bad_files_are_refused_with_the_place(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=said):
        read_list(str(tmp_path / name))


def test_bad_lines_are_counted_across_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_lists, "_CHUNK", 100)
    lines = [*MANY[:500], "bad", *MANY[500:]]
    (tmp_path / "l.txt").write_text("\n".join(lines))
    with pytest.raises(InputError, match="line 501: 'bad'"):
        read_list(str(tmp_path / "l.txt"))
    (tmp_path / "l.txt").write_bytes("\n".join(MANY[:500]).encode() + b"\n# caf\xe9\n")
    with pytest.raises(InputError, match="line 501 is not UTF-8"):
        read_list(str(tmp_path / "l.txt"))
    monkeypatch.setattr(value_lists, "_LONGEST", 1000)
    (tmp_path / "l.txt").write_bytes(f"{A}\n".encode() + b"0" * 2000)
    with pytest.raises(InputError, match="line 2 goes on for more"):
        read_list(str(tmp_path / "l.txt"))


def test_what_cannot_be_a_list(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_list(str(tmp_path / "none.txt"))
    with pytest.raises(SpecError, match=r"\.txt, \.csv, \.parquet or \.npy"):
        read_list(str(tmp_path / "list.json"))
    np.save(tmp_path / "ids.npy", make_subset(np.zeros(1, np.uint64), np.zeros(1, np.uint64)))
    with pytest.raises(SpecError, match="holds uids"):
        read_list(str(tmp_path / "ids.npy"), "key")
    pl.DataFrame({"uid": [1, 2]}).write_parquet(tmp_path / "l.parquet")
    with pytest.raises(InputError, match="holds Int64"):
        read_list(str(tmp_path / "l.parquet"))


def test_values_come_back_in_the_order_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("\n".join(["c", "b", "c", "a", "d"]))
    codes = read_list(str(tmp_path / "l.txt"), "key").codes
    wanted = code_texts(["c", "a", "d"])
    marked = contains(make_subset(wanted["f0"], wanted["f1"]), codes["f0"], codes["f1"])
    assert some_values(str(tmp_path / "l.txt"), "key", codes, marked, 10) == ["c", "a", "d"]
    assert some_values(str(tmp_path / "l.txt"), "key", codes, marked, 2) == ["c", "a"]
    assert some_values(str(tmp_path / "l.txt"), "key", codes, np.zeros(4, dtype=bool), 2) == []
