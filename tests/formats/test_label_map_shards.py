from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from labelled_run import labelled_run

from curate.errors import InputError
from curate.formats.label_map_shards import LabelMapShards


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A copy of a release that may be broken."""
    return Path(shutil.copytree(labelled_run().release, tmp_path / "release"))


def test_by_uid_and_by_place_it_is_the_record_of_the_array() -> None:
    release = labelled_run().release
    maps = LabelMapShards(release)
    assert maps.shards == ("00000", "00001", "00002")
    assert len(maps) == 12
    for number, stem in enumerate(maps.shards):
        plain = np.load(release / "label_maps" / f"{stem}.npy")
        uids = pl.read_parquet(release / "samples.parquet" / f"{stem}.parquet")["uid"].to_list()
        assert maps.names(stem) == uids
        for row, uid in enumerate(uids):
            assert maps[uid].shape == ()
            assert uid in maps
            counted = maps[np.int64(number), np.uint8(row)]
            for found in (maps[uid], maps[stem, row], maps[number, row], maps[stem, row - len(uids)], counted):
                assert found.tobytes() == plain[row].tobytes()
                assert found.dtype == plain.dtype
    assert np.shares_memory(maps["00001", 0], maps.shard("00001"))
    assert not maps["00001", 0].flags.writeable


def test_names_and_rows_that_are_not_there() -> None:
    maps = LabelMapShards(labelled_run().release)
    for name in ("f" * 32, "g" * 32, "s01", ""):
        assert name not in maps
        with pytest.raises(KeyError):
            maps[name]
    for row in (4, -5):
        with pytest.raises(IndexError, match="00000 has 4 maps; there is no row"):
            maps["00000", row]
    with pytest.raises(InputError, match=r"00007\.npy: is no array of label maps"):
        maps["00007", 0]


def test_a_copy_for_another_process_carries_no_maps() -> None:
    maps = LabelMapShards(labelled_run().release)
    uid = maps.names("00002")[1]
    expected = maps[uid].tobytes()
    sent = pickle.dumps(maps)
    assert len(sent) < 1000
    assert pickle.loads(sent)[uid].tobytes() == expected


def test_a_release_without_arrays_or_with_damaged_ones_is_a_sentence(release: Path) -> None:
    table = release / "samples.parquet" / "00000.parquet"
    pl.read_parquet(table)[:3].write_parquet(table)
    with pytest.raises(InputError, match=r"00000\.npy: holds 4 maps, its table has 3 rows"):
        LabelMapShards(release)["f" * 32]
    table.unlink()
    with pytest.raises(InputError, match=r"00000\.parquet: cannot be read"):
        LabelMapShards(release)["f" * 32]
    told = json.loads((release / "label_maps.json").read_text())
    (release / "label_maps.json").write_text(json.dumps(told | {"k": 5}))
    with pytest.raises(InputError, match=r"00000\.npy: holds 3 classes in 5 x 5 cells"):
        LabelMapShards(release)["00000", 0]
    shutil.rmtree(release / "label_maps")
    with pytest.raises(InputError, match="holds no arrays of label maps; release them with label_maps: both or array"):
        LabelMapShards(release)
