"""Planted duplicates are counted against a truth.json beside the shards, pair by pair."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_run import SmallRun, pipeline, write_shards

import curate
from curate.pipeline.truth import found_of_planted


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    root = tmp_path_factory.mktemp("truth")
    write_shards(root / "shards")
    pairs = [
        {"key": "copy-of-a1", "kind": "copy", "of": "a1"},
        {"key": "like-a2", "kind": "recode", "of": "a2"},
        {"key": "like-b3", "kind": "recode", "of": "b3"},
        {"key": "b5", "kind": "none", "of": "a5"},
        {"key": "torn", "kind": "none", "of": "a6"},
    ]
    (root / "shards" / "truth.json").write_text(json.dumps({"planted": pairs}))
    spec = pipeline(root)
    return SmallRun(root, spec, curate.run(spec, workers=0))


def test_found_pairs_are_counted_by_kind(planted: SmallRun) -> None:
    told = found_of_planted(planted.run)
    # the torn image never reached dedup, so it is not counted; b5 and a5 are different pictures
    assert told == {"found": 3, "planted": 4, "kinds": {"copy": [1, 1], "none": [0, 1], "recode": [2, 2]}}


def test_without_a_truth_there_is_nothing_to_tell(planted: SmallRun) -> None:
    planted.run.record.truth, kept = None, planted.run.record.truth
    assert kept is not None
    assert Path(kept).name == "truth.json"
    assert found_of_planted(planted.run) is None
    planted.run.record.truth = kept + ".gone"
    assert found_of_planted(planted.run) is None
    planted.run.record.truth = kept
