from __future__ import annotations

import hashlib
import io
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from curate.errors import StorageError
from curate.store.columns import (
    PartMeta,
    parse_meta,
    part_file,
    read_columns,
    read_entry,
    read_meta,
    read_vectors,
    write_part,
)
from curate.store.workspace import Workspace

FRAME = pl.DataFrame({"concept": pl.Series([3, None, 1], dtype=pl.Int32), "text": ["ä", None, ""]})
META = PartMeta(step="cluster", part=7, fingerprint="abc", rows=3, alive=2, counts={"false": 1}, notes=[{"n": 1}])
VECTORS = np.arange(12, dtype=np.float16).reshape(3, 4)


@pytest.fixture(params=["local", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Workspace]:
    if request.param == "local":
        yield Workspace(str(tmp_path))
    else:
        workspace = Workspace(f"memory://test-{uuid.uuid4().hex}")
        yield workspace
        workspace.remove("")


def test_what_is_written_is_read_back(place: Workspace) -> None:
    entry = write_part(place, "g", META, FRAME, {"image": VECTORS})
    assert read_columns(place, "g", 7, "abc").equals(FRAME)
    assert read_columns(place, "g", 7, "abc", ["text"]).columns == ["text"]
    assert read_entry(place, "g", 7, "abc") == entry
    assert (entry.step, entry.part, entry.rows, entry.alive, entry.counts, entry.notes) == (
        "cluster", 7, 3, 2, {"false": 1}, [{"n": 1}],
    )  # fmt: skip
    vectors = read_vectors(place, "g", 7, "abc", "image")
    assert vectors.dtype == np.float16
    np.testing.assert_array_equal(vectors, VECTORS)
    assert isinstance(vectors, np.memmap) == place.is_local
    if place.is_local:
        assert not vectors.flags.writeable


def test_records_are_read_back_as_vectors_are(place: Workspace) -> None:
    dtype = np.dtype([("scores", "<f2", (2, 3)), ("classes", "<u2", (2, 3)), ("lse", "<f4")])
    records = np.frombuffer(np.random.default_rng(0).bytes(3 * dtype.itemsize), dtype)
    entry = write_part(place, "g", META, FRAME, {"maps": records, "none": records[:0]})
    assert (entry.vectors["maps"].rows, entry.vectors["maps"].dim, entry.vectors["none"].rows) == (3, 1, 0)
    for name, truth in (("maps", records), ("none", records[:0])):
        found = read_vectors(place, "g", 7, "abc", name)
        assert found.dtype == dtype
        assert found.tobytes() == truth.tobytes()
        assert isinstance(found, np.memmap) == place.is_local


@pytest.mark.parametrize("notes", [0, 1, 5_000])
def test_the_footer_is_read_without_the_part(place: Workspace, notes: int) -> None:
    """Small ones are the whole file; 5,000 notes make a footer of more than the 64 KiB that are read first."""
    meta = META.model_copy(update={"notes": [{"shard": f"{i:05d}.tar", "reason": "cut"} for i in range(notes)]})
    big = pl.DataFrame({"x": np.random.default_rng(0).random(20_000)})
    for frame in (FRAME, big):
        entry = write_part(place, "g", meta, frame, {"image": VECTORS})
        assert read_meta(place, "g", 7, "abc").model_dump() == entry.model_dump(exclude={"nbytes", "sha256"})
    data = place.read(f"g/{part_file(7, 'abc')}")
    place.put(f"g/{part_file(7, 'abc')}", data[:-1])
    with pytest.raises(StorageError, match="damaged"):
        read_meta(place, "g", 7, "abc")


def test_the_entry_names_size_and_hash_of_every_file(place: Workspace) -> None:
    entry = write_part(place, "g", META, FRAME, {"image": VECTORS, "text": VECTORS[:1]})
    parquet = place.read(f"g/{part_file(7, 'abc')}")
    assert (entry.nbytes, entry.sha256) == (len(parquet), hashlib.sha256(parquet).hexdigest())
    assert set(entry.vectors) == {"image", "text"}
    for vector in entry.vectors.values():
        data = place.read(f"g/{vector.file}")
        assert (vector.nbytes, vector.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert np.load(io.BytesIO(data)).shape == (vector.rows, vector.dim)
    assert set(place.listing("g")) == {part_file(7, "abc"), *(v.file for v in entry.vectors.values())}


def test_the_footer_can_be_read_by_any_parquet_reader(place: Workspace) -> None:
    write_part(place, "g", META, FRAME, {})
    footer = pl.read_parquet_metadata(io.BytesIO(place.read(f"g/{part_file(7, 'abc')}")))["curate"]
    assert json.loads(footer)["fingerprint"] == "abc"


def test_a_part_without_vectors_or_rows(place: Workspace) -> None:
    empty = np.zeros((0, 4), dtype=np.float16)
    write_part(place, "g", META.model_copy(update={"rows": 0}), FRAME[:0], {"image": empty})
    assert read_columns(place, "g", 7, "abc").schema == FRAME.schema
    assert read_vectors(place, "g", 7, "abc", "image").shape == (0, 4)


def test_two_attempts_at_a_part_never_mix(place: Workspace) -> None:
    """The later commit wins whole; the vectors of both attempts lie side by side."""
    first = write_part(place, "g", META, FRAME, {"image": VECTORS})
    second = write_part(place, "g", META, FRAME, {"image": VECTORS + 1})
    assert first.vectors["image"].file != second.vectors["image"].file
    np.testing.assert_array_equal(read_vectors(place, "g", 7, "abc", "image"), VECTORS + 1)
    np.testing.assert_array_equal(np.load(io.BytesIO(place.read(f"g/{first.vectors['image'].file}"))), VECTORS)


def test_vectors_written_without_the_parquet_file_are_no_part(place: Workspace) -> None:
    place.put("g/part-00007.0123.image.npy", b"whatever")
    with pytest.raises(StorageError, match="no such file"):
        read_entry(place, "g", 7, "abc")


def test_unknown_vectors_name_those_there_are(place: Workspace) -> None:
    write_part(place, "g", META, FRAME, {"image": VECTORS})
    with pytest.raises(StorageError, match=r"no vectors named text; it has \['image'\]"):
        read_vectors(place, "g", 7, "abc", "text")


@pytest.mark.parametrize("keep", [0, 3, 200, -1])
def test_a_damaged_part_is_a_sentence(place: Workspace, keep: int) -> None:
    write_part(place, "g", META, FRAME, {"image": VECTORS})
    name = f"g/{part_file(7, 'abc')}"
    place.put(name, place.read(name)[:keep])
    for read in (
        lambda: read_entry(place, "g", 7, "abc"),
        lambda: read_columns(place, "g", 7, "abc"),
        lambda: read_vectors(place, "g", 7, "abc", "image"),
    ):
        with pytest.raises(StorageError, match=r"part-00007\.abc\.parquet .*delete it and run again"):
            read()


@pytest.mark.parametrize("keep", [0, 4, 60, -1])
def test_damaged_vectors_are_a_sentence(place: Workspace, keep: int) -> None:
    entry = write_part(place, "g", META, FRAME, {"image": VECTORS})
    name = f"g/{entry.vectors['image'].file}"
    place.put(name, place.read(name)[:keep])
    with pytest.raises(StorageError, match=r"image\.npy is damaged .*; delete .*parquet and run again"):
        read_vectors(place, "g", 7, "abc", "image")


def test_vectors_of_another_shape_or_type_are_a_sentence(place: Workspace) -> None:
    entry = write_part(place, "g", META, FRAME, {"image": VECTORS})
    for other in (VECTORS[:2], VECTORS.astype(np.float32)):
        buffer = io.BytesIO()
        np.save(buffer, other)
        place.put(f"g/{entry.vectors['image'].file}", buffer.getvalue())
        with pytest.raises(StorageError, match=r"its part says float16 \(3, 4\)"):
            read_vectors(place, "g", 7, "abc", "image")


def test_pickled_vectors_are_refused(place: Workspace) -> None:
    entry = write_part(place, "g", META, FRAME, {"image": VECTORS})
    buffer = io.BytesIO()
    np.save(buffer, np.asarray([{"a": 1}], dtype=object), allow_pickle=True)
    place.put(f"g/{entry.vectors['image'].file}", buffer.getvalue())
    with pytest.raises(StorageError, match="damaged"):
        read_vectors(place, "g", 7, "abc", "image")


def test_a_schema_version_of_the_future_says_so() -> None:
    for raw, text in (
        ({**META.model_dump(), "schema_version": 99}, "schema version 99, this curate reads 1"),
        ({**META.model_dump(), "colour": 1}, "damaged"),
        ({"schema_version": 1}, "damaged"),
    ):
        buffer = io.BytesIO()
        FRAME.write_parquet(buffer, metadata={"curate": json.dumps(raw)})
        with pytest.raises(StorageError, match=text):
            parse_meta(buffer.getvalue(), "part")


def test_a_parquet_file_of_someone_else_says_so() -> None:
    buffer = io.BytesIO()
    FRAME.write_parquet(buffer)
    with pytest.raises(StorageError, match="was not written by curate"):
        parse_meta(buffer.getvalue(), "part")
