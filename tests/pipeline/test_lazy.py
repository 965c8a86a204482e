from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import made_groups
import numpy as np
import polars as pl
import pytest
from made_groups import Made
from polars.testing import assert_frame_equal

from curate.errors import StorageError
from curate.pipeline import lazy
from curate.pipeline.vectors import Vectors
from curate.store.workspace import Workspace

SIZES = (0, 7, 1, 0, 30, 4, 4, 4, 4, 4, 4, 4, 4)


@pytest.fixture(scope="module", params=["local", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    yield from made_groups.places(request.param, tmp_path_factory.mktemp("lazy"))


@pytest.fixture(scope="module")
def made(place: Workspace) -> Made:
    return made_groups.write(place, SIZES)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Every range that is fetched: name, start, stop."""
    seen: list[tuple[str, int, int]] = []
    original = Workspace.read_range

    def note(self: Workspace, name: str, start: int, stop: int) -> bytes:
        seen.append((name, start, stop))
        return original(self, name, start, stop)

    monkeypatch.setattr(Workspace, "read_range", note)
    return seen


@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
def test_queries_answer_as_the_whole_table_does(place: Workspace, made: Made, engine: pl._typing.EngineType) -> None:
    """Same rows, order and types, whatever part of the work polars hands to the scan."""
    queries = [
        lambda f: f,
        lambda f: f.select("score", "key"),
        lambda f: f.select(pl.len()),
        lambda f: f.head(9),
        lambda f: f.head(0),
        lambda f: f.slice(5, 10),
        lambda f: f.tail(3),
        lambda f: f.filter(pl.col("score") > 0.5).select("key"),
        lambda f: f.filter(pl.col("score") > 0.5).head(2),
        lambda f: f.filter(pl.col("vec_row").is_null()).select(pl.col("members").list.len().sum()),
        lambda f: f.with_row_index("row").filter(pl.col("row") % 5 == 3),
        lambda f: f.select(pl.col("big").max(), pl.col("score").mean()),
    ]
    for query in queries:
        got = query(lazy.scan(place, made.group)).collect(engine=engine)
        assert_frame_equal(got, query(made.frame.lazy()).collect())


def test_the_types_are_known_without_reading_rows(place: Workspace, made: Made) -> None:
    assert lazy.scan(place, made.group).collect_schema() == made_groups.SCHEMA


def test_rows_of_vectors(place: Workspace, made: Made) -> None:
    rows = lazy.vector_rows(place, made.group, "image").collect()["vector_row"]
    assert rows.dtype == pl.Int64
    assert rows.is_null().to_list() == made.frame["vec_row"].is_null().to_list()
    assert sorted(rows.drop_nulls()) == list(range(len(made.vectors)))
    # the same by hand, part by part
    packed, by_hand = Vectors(place, made.group), []
    start = 0
    for size, part in zip(SIZES, packed.parts(), strict=True):
        places = made.frame["vec_row"][start : start + size].drop_nulls()
        by_hand.append(part[places.to_list()])
        start += size
    np.testing.assert_array_equal(packed[rows.drop_nulls()], np.concatenate(by_hand))
    with pytest.raises(StorageError, match="has no vectors named text"):
        lazy.vector_rows(place, made.group, "text")


def test_elsewhere_only_what_is_needed_is_fetched(reads: list[tuple[str, int, int]]) -> None:
    """Making the frame reads nothing; a column costs its own bytes; a limit leaves later parts alone."""
    workspace = Workspace(f"memory://test-{uuid.uuid4().hex}")
    made = made_groups.write(workspace, [200] * 20, filler=4000)
    whole = sum(part.nbytes for part in made.group.parts)
    frame = lazy.scan(workspace, made.group)
    narrow = frame.filter(pl.col("score") > 0).select("score", "vec_row")
    assert reads == []
    assert narrow.collect().height == made.frame.filter(pl.col("score") > 0).height
    fetched = sum(stop - start for _, start, stop in reads)
    assert fetched < whole / 10  # footers are fetched in blocks of 64 KB
    reads.clear()
    assert frame.select("key").head(250).collect()["key"].to_list() == made.frame["key"][:250].to_list()
    assert {name for name, _, _ in reads} == {f"g/part-0000{i}.f{i}.parquet" for i in (0, 1)}
    workspace.remove("")


def test_what_is_gone_or_damaged_is_named(tmp_path: Path) -> None:
    workspace = Workspace(f"memory://test-{uuid.uuid4().hex}")
    made = made_groups.write(workspace, [5, 5, 5])
    name = "g/part-00001.f1.parquet"
    data = workspace.read(name)
    workspace.put(name, data[:-9] + b"damaged!!")
    with pytest.raises(StorageError, match=r"part-00001\.f1\.parquet is damaged .*; delete it and run the same"):
        lazy.scan(workspace, made.group).collect()
    workspace.remove(name)
    with pytest.raises(StorageError, match=r"part-00001\.f1\.parquet: no such file; it was removed"):
        lazy.scan(workspace, made.group).collect()
    workspace.remove("")
