"""Label maps on disk, read back by numpy and by the webdataset library, and what is refused."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import InputError
from curate.formats.label_maps import (
    INFO,
    MapsInfo,
    array_header,
    faults,
    map_dtype,
    member_bytes,
    open_shard,
    pack,
    parse_info,
    read_info,
    read_member,
    unpack,
)
from curate.relabel.maps import LabelMap, check, top_k_batch


def made(n: int = 3, k: int = 3, height: int = 4, width: int = 5, classes: int = 20, seed: int = 0) -> np.ndarray:
    logits = np.random.default_rng(seed).standard_normal((n, classes, height, width)).astype(np.float32) * 4
    best = top_k_batch(logits, k)
    assert best.lse is not None
    return pack(best.scores, best.classes, best.lse)


def info_of(records: np.ndarray, **given: Any) -> MapsInfo:
    k, height, width = records.dtype["scores"].shape
    return MapsInfo(k=k, height=height, width=width, classes=20, teachers=(), **given)


def test_a_record_of_five_classes_in_15_x_15_cells_has_5400_bytes_in_the_order_of_the_page() -> None:
    dtype = map_dtype(5, 15, 15, 1000)
    assert dtype.itemsize == 5400 == 0.6 * (2 * 5 * 15 * 15 * 4)
    assert {name: dtype.fields[name][1] for name in dtype.names or ()} == {"scores": 0, "classes": 2250, "lse": 4500}  # type: ignore[index]
    assert map_dtype(5, 15, 15, 1 << 16).itemsize == 5400
    assert map_dtype(5, 15, 15, (1 << 16) + 1).itemsize == 5400 + 2250


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 4),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_packing_and_unpacking_changes_nothing(
    n: int, k: int, height: int, width: int, wide: bool, exact: bool, lse: bool
) -> None:
    rng = np.random.default_rng(n + 10 * k)
    scores: Any = rng.standard_normal((n, k, height, width)).astype(np.float32 if exact else np.float16)
    classes: Any = rng.integers(0, 1000, scores.shape).astype(np.uint32 if wide else np.uint16)
    weigh = rng.standard_normal((n, height, width)).astype(np.float32) if lse else None
    records = pack(scores, classes, weigh)
    for given_, back in zip((scores, classes, weigh), unpack(records), strict=True):
        assert (given_ is None and back is None) or np.array_equal(given_, back)  # type: ignore[arg-type]
    one = unpack(read_member(member_bytes(records[0])))
    assert np.array_equal(one[0], scores[0])
    assert np.array_equal(one[1], classes[0])
    assert np.shares_memory(unpack(records)[0], records)


def test_a_shard_is_memory_mapped_by_numpy_and_by_us(tmp_path: Path) -> None:
    records = made()
    path = tmp_path / "00000.npy"
    path.write_bytes(array_header(records.dtype, len(records)) + b"".join(one.tobytes() for one in records))
    plain = io.BytesIO()
    np.save(plain, records, allow_pickle=False)
    assert path.read_bytes() == plain.getvalue()
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    assert isinstance(mapped, np.memmap)
    assert mapped.tobytes() == records.tobytes()
    ours = open_shard(path, info_of(records))
    assert ours.tobytes() == records.tobytes()
    assert not ours.flags.writeable
    for i, one in enumerate(ours):
        check(LabelMap(*unpack(one)), 20, f"map {i}")


def test_webdatasets_own_decoder_reads_the_member_without_pickle(tmp_path: Path) -> None:
    records = made()
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for i, one in enumerate(records):
            data = member_bytes(one)
            info = tarfile.TarInfo(f"{i:032x}.labelmap.npy")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    samples = list(webdataset.WebDataset(str(tmp_path / "0.tar"), shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == [f"{i:032x}" for i in range(3)]
    for one, sample in zip(records, samples, strict=True):
        scores, classes, lse = unpack(sample["labelmap.npy"])
        assert np.array_equal(scores, one["scores"])
        assert np.array_equal(classes, one["classes"])
        assert np.array_equal(lse, one["lse"])  # type: ignore[arg-type]


def test_what_is_no_label_map_is_refused_and_never_run(tmp_path: Path) -> None:
    records = made()
    objects = io.BytesIO()
    np.save(objects, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    plain = io.BytesIO()
    np.save(plain, np.zeros(3))
    for data in (b"", b"no numpy", member_bytes(records[0])[:-3], objects.getvalue(), plain.getvalue()):
        with pytest.raises(InputError, match=r"a\.labelmap\.npy is no label map"):
            read_member(data, "a.labelmap.npy")
        (tmp_path / "x.npy").write_bytes(data)
        with pytest.raises(InputError, match="is no array of label maps"):
            open_shard(tmp_path / "x.npy")
    np.save(tmp_path / "y.npy", records)
    with pytest.raises(InputError, match=r"holds 3 classes in 4 x 5 cells.*says 2 in 4 x 5"):
        open_shard(tmp_path / "y.npy", info_of(made(k=2)))
    with pytest.raises(InputError, match="cannot be stored"):
        pack(records["scores"].astype(np.float64), records["classes"], records["lse"])


@pytest.mark.parametrize(
    ("field", "at", "value", "what"),
    [
        ("scores", (0, 1, 1), np.inf, "a score that is not finite"),
        ("classes", (2, 0, 0), 20, "a class beyond the 20"),
        ("lse", (3, 3), np.nan, "an lse that is not finite"),
        ("lse", (0, 0), -9.0, "an lse below a score"),
    ],
)
def test_faults_are_found_where_check_finds_them(field: str, at: Any, value: float, what: str) -> None:
    records = made()
    assert faults(records, 20) == {}
    records[field][(1, *at)] = value
    found = faults(records, 20)
    assert found[what].tolist() == [False, True, False]
    with pytest.raises(InputError):
        check(LabelMap(*unpack(records[1])), 20)


def test_a_class_twice_in_a_cell_is_a_fault() -> None:
    records = made()
    records["classes"][2, 1, 0, 0] = records["classes"][2, 0, 0, 0]
    assert faults(records, 20)["a class twice in a cell"].tolist() == [False, False, True]


def test_what_label_maps_json_says_is_checked(tmp_path: Path) -> None:
    info = info_of(made())
    (tmp_path / INFO).write_text(info.model_dump_json())
    assert read_info(tmp_path) == info
    assert info.dtype == made().dtype
    with pytest.raises(InputError, match="cannot be read"):
        read_info(tmp_path / "none")
    told = json.loads(info.model_dump_json())
    for change, what in (({"layout": "wh"}, "layout"), ({"k": 0}, "k: "), ({"schema_version": 2}, "schema_version")):
        with pytest.raises(InputError, match=f"x.json: cannot be understood: {what}"):
            parse_info(json.dumps(told | change).encode(), "x.json")
