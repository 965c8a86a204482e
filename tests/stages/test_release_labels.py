"""Label maps and label sets in a release: arrays, members and jsons say what the stages stored, byte for byte."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import webdataset
from labelled_run import JSONS, labelled_run, released

from curate.errors import InputError
from curate.formats.label_map_shards import LabelMapShards
from curate.formats.label_maps import unpack
from curate.pipeline.verify import verify_release
from curate.relabel.maps import LabelMap, check
from curate.stages.release_labels import Labels, Picked, with_labels
from curate.store.workspace import Workspace


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]


def again(folder: Path, label_maps: str = "both", layout: str = "webdataset") -> Path:
    """Another release of the same run, in a copy of its workspace."""
    made = labelled_run()
    shutil.copytree(made.root / "work", folder / "work")
    spec = made.spec | {"stages": made.spec["stages"][:-1], "workspace": f"{folder}/work"}
    return released(spec, label_maps=label_maps, layout=layout).release


def test_row_i_of_the_array_is_the_map_that_relabel_stored_for_sample_i() -> None:
    made = labelled_run()
    maps = LabelMapShards(made.release)
    frame = made.run.columns("index", "relabel").collect()
    held = list(made.run.vector_parts("relabel", "maps"))
    stored = {}
    for row, (hi, lo, place) in enumerate(frame.select("index.uid_hi", "index.uid_lo", "relabel.map_row").iter_rows()):
        stored[f"{hi:016x}{lo:016x}"] = held[row // 4][place].tobytes()
    assert len(maps) == 12 == len(stored)
    for stem in maps.shards:
        table = pl.read_parquet(made.release / f"samples.parquet/{stem}.parquet")
        mapped = np.load(made.release / f"label_maps/{stem}.npy", mmap_mode="r", allow_pickle=False)
        inside = members(made.release / f"{stem}.tar")
        for row, uid in enumerate(table["uid"]):
            member = np.load(io.BytesIO(inside[f"{uid}.labelmap.npy"]), allow_pickle=False)
            assert mapped[row].tobytes() == stored[uid] == maps[uid].tobytes() == member.tobytes()
            check(LabelMap(*unpack(maps[uid])), maps.info.classes)


def test_webdataset_gives_image_map_and_labels() -> None:
    release = labelled_run().release
    maps = LabelMapShards(release)
    urls = sorted(map(str, release.glob("*.tar")))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    table = pl.read_parquet(release / "samples.parquet")
    assert [sample["__key__"] for sample in samples] == table["uid"].to_list()
    outcomes = set()
    for sample, row in zip(samples, table.iter_rows(named=True), strict=True):
        assert sample["labelmap.npy"] == maps[sample["__key__"]]
        told = sample["json"]
        assert told["outcome"] == row["outcome"]
        outcomes.add(told["outcome"])
        shown = [one for one in row["labels"] if one["decision"] != "drop"]
        assert [one["class"] for one in told["labels"]] == [one["class"] for one in shown]
        for one, same in zip(told["labels"], shown, strict=True):
            assert np.float32(one["probability"]) == np.float32(same["probability"])
            assert one["decision"] == same["decision"]
            if one["box"] is not None:
                assert [np.float32(side) for side in one["box"]] == [same[side] for side in ("y0", "x0", "y1", "x1")]
        kept = [one["class"] for one in told["labels"] if one["decision"] == "keep"]
        assert row["best"] == (kept[0] if kept else None)
        if kept:
            assert told["labels"][0]["name"] == row["best_name"] == f"class {kept[0]}"
    assert outcomes <= {"labelled", "undecided", "nothing"}
    assert {"labels", "best", "best_name", "outcome", "suspect"} <= set(table.columns)


def test_jsons_that_were_there_keep_their_bytes() -> None:
    release = labelled_run().release
    inside = {name: data for path in sorted(release.glob("*.tar")) for name, data in members(path).items()}
    table = pl.read_parquet(release / "samples.parquet")
    for uid, key in table.select("uid", "key").iter_rows():
        given, now = JSONS[int(key[1:]) % 4], inside[f"{uid}.json"]
        value = json.loads(now)
        assert list(value)[-2:] == ["labels", "outcome"]
        if given is not None and b"labels" not in given:
            assert now.startswith(given.rstrip()[:-1])
            assert {name: value[name] for name in json.loads(given)} == json.loads(given)
        elif given is not None:
            assert (value["source_labels"], value["b"]) == (["mine"], 1.5)


@pytest.mark.parametrize(("where", "arrays", "inside"), [("member", 0, 12), ("array", 3, 0), ("none", 0, 0)])
def test_label_maps_says_where_they_go(where: str, arrays: int, inside: int, tmp_path: Path) -> None:
    release = again(tmp_path, where)
    assert len(list((release / "label_maps").glob("*.npy"))) == arrays
    names = [name for path in release.glob("*.tar") for name in members(path)]
    assert sum(name.endswith(".labelmap.npy") for name in names) == inside
    assert (release / "label_maps.json").exists() == (where != "none")
    assert verify_release(Workspace(str(release))).violations == []


def test_datacomps_layout_has_maps_and_labels_too(tmp_path: Path) -> None:
    release = again(tmp_path, layout="datacomp")
    maps = LabelMapShards(release)
    inside = members(release / "00000000.tar")
    for uid in maps.names("00000000"):
        told = json.loads(inside[f"{uid}-0.json"])
        assert (next(iter(told)), told["uid"]) == ("uid", uid)
        assert list(told)[-2:] == ["labels", "outcome"]
        assert np.load(io.BytesIO(inside[f"{uid}-0.labelmap.npy"])) == maps[uid]
    assert verify_release(Workspace(str(release))).violations == []


def test_repeated_samples_have_their_record_as_often(tmp_path: Path) -> None:
    """Rows 2, 0 of one part and 3 of another, the first of them twice; a part in between has none."""
    records = LabelMapShards(labelled_run().release).shard("00000")
    pieces = [Picked(records, np.array(rows, dtype=np.int64)) for rows in ([], [2, 0], [], [3])]
    labels = Labels("relabel", None, "array")
    files = labels.write(Workspace(str(tmp_path)), "00007", pieces, np.array([0, 0, 1, 2]))
    written = np.load(tmp_path / "label_maps/00007.npy")
    assert written.tobytes() == records[[2, 2, 0, 3]].tobytes()
    assert files["label_maps/00007.npy"][0] == (tmp_path / "label_maps/00007.npy").stat().st_size


def test_labels_come_last_in_a_json_and_all_else_stays() -> None:
    told = {"labels": [{"class": 3}], "outcome": "labelled"}
    assert with_labels(None, told, "x") == b'{"labels": [{"class": 3}], "outcome": "labelled"}'
    assert json.loads(with_labels(b" {} \n", told, "x")) == told
    odd = '\ufeff{"a":1e5,\n "b" : [1,2, {"c":"}"}] }\n'.encode()
    new = with_labels(odd, told, "x")
    assert new.startswith(odd.rstrip()[:-1])
    assert json.loads(new.decode("utf-8-sig")) == {"a": 1e5, "b": [1, 2, {"c": "}"}]} | told
    again = json.loads(with_labels(new, {"labels": [], "outcome": "nothing"}, "x"))
    assert (again["labels"], again["source_labels"]) == ([], told["labels"])
    assert (again["outcome"], again["source_outcome"], again["a"]) == ("nothing", "labelled", 1e5)
    for bad in (b"[1]", b"{", b"\xff\xfe{}"):
        with pytest.raises(InputError, match="shard 3: its json member is no object"):
            with_labels(bad, told, "shard 3")
