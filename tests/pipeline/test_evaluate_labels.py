"""Label sets against better ones: the published scores, experts and original labels, and small files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from reference_data import reference

from curate.errors import InputError, SpecError
from curate.evaluate.bootstrap import Resampling
from curate.pipeline.evaluate_labels import LabelFiles, evaluate_labels

NONE = Resampling(0)


def measured(report: dict[str, Any]) -> dict[str, float]:
    return {name: told["value"] for name, told in report["truth"]["measures"].items()}


def test_thresholding_published_scores_gives_real_json() -> None:
    files = LabelFiles(reference("imagenet/scores.npz"), reference("imagenet/real.json"))
    truth = evaluate_labels(files, threshold=0.8, how=NONE, allow_missing=True)["truth"]
    assert (truth["images"], truth["missing"], truth["proposed"]) == (24_889, 25_111, 184_962)
    assert (truth["wrongly_kept"], truth["wrongly_dropped"], truth["never_proposed"]) == (0, 0, 0)
    assert all(truth["measures"][name]["value"] == 1 for name in ("f1", "macro_f1", "jaccard", "exact_set", "ap"))


def test_another_threshold_gives_other_sets() -> None:
    files = LabelFiles(reference("imagenet/scores.npz"), reference("imagenet/real.json"))
    truth = evaluate_labels(files, threshold=0.5, how=NONE, allow_missing=True)["truth"]
    assert truth["wrongly_kept"] + truth["wrongly_dropped"] == 4951


def test_published_scores_against_experts() -> None:
    files = LabelFiles(reference("imagenet/scores.npz"), reference("imagenet/golden.npz"))
    report = evaluate_labels(files, threshold=0.8, how=Resampling(200))
    assert (report["truth"]["images"], report["truth"]["pairs"]) == (155, 1135)
    found = measured(report)
    expected = {"precision": 0.898, "recall": 0.778, "ap": 0.893, "ece": 0.064, "brier": 0.065}
    assert {name: round(found[name], 3) for name in expected} == expected
    for name in expected:
        told = report["truth"]["measures"][name]
        assert told["low"] < told["value"] < told["high"]
    found = measured(evaluate_labels(files, threshold=0.5, how=NONE))
    assert (round(found["precision"], 3), round(found["recall"], 3)) == (0.842, 0.819)


def test_original_labels_against_experts() -> None:
    files = LabelFiles(reference("imagenet/imagenet-validation-original.json"), reference("imagenet/golden.npz"))
    found = measured(evaluate_labels(files, how=NONE))
    assert (round(found["precision"], 3), round(found["recall"], 3)) == (0.787, 0.492)


HEAD = "id,original_label,proposed_labels,unclear_multi_labels,wrong_multi_labels,is_problematic\n"


def test_unclear_labels_and_problematic_images_of_the_truth_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text(HEAD + 'a,1,"1, 2",3,,False\nb,1,1,,2,False\nc,1,,,,True\n')
    (tmp_path / "mine.csv").write_text('id,proposed_labels\na,"1, 3"\nb,"1, 2"\nc,9\n')
    report = evaluate_labels(LabelFiles(str(tmp_path / "mine.csv"), str(tmp_path / "truth.csv")), how=NONE)
    truth, found = report["truth"], measured(report)
    assert (truth["images"], truth["wrongly_kept"], truth["never_proposed"]) == (2, 1, 1)
    assert (found["precision"], found["recall"]) == pytest.approx((2 / 3, 2 / 3))
    json.dumps(report, allow_nan=False)


def test_pairs_of_images_in_any_order_keep_their_scores(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("image,class,score\nb,1,0.9\na,0,0.2\nb,0,0.1\na,1,0.6\n")
    (tmp_path / "truth.csv").write_text("id,proposed_labels\na,1\nb,1\n")
    files = LabelFiles(str(tmp_path / "p.csv"), str(tmp_path / "truth.csv"))
    report = evaluate_labels(files, threshold=0.5, how=NONE)
    found = measured(report)
    assert (found["precision"], found["recall"], found["ap"]) == (1, 1, 1)
    assert found["brier"] == pytest.approx((0.1**2 + 0.2**2 + 0.1**2 + 0.4**2) / 4)
    assert report["labels"]["by_number"] == [0, 2]


def test_overlapping_reviews_count_as_right_first(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("id,proposed_labels\na,1\n")
    (tmp_path / "truth.csv").write_text(HEAD + "a,1,1,1,1,False\n")
    found = measured(evaluate_labels(LabelFiles(str(tmp_path / "mine.csv"), str(tmp_path / "truth.csv")), how=NONE))
    assert (found["precision"], found["recall"]) == (1, 1)


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    for name, text in {
        "p.csv": "image,class,score\na,1,0.9\n",
        "s.csv": "id,proposed_labels\na,1\n",
        "two.csv": "id,proposed_labels\na,1\nb,1\n",
        "other.csv": "id,proposed_labels\nx,1\n",
    }.items():
        (tmp_path / name).write_text(text)
    pairs, sets, two, other = (str(tmp_path / name) for name in ("p.csv", "s.csv", "two.csv", "other.csv"))
    with pytest.raises(SpecError, match="say with --threshold"):
        evaluate_labels(LabelFiles(pairs))
    with pytest.raises(SpecError, match="its labels have no scores"):
        evaluate_labels(LabelFiles(sets), threshold=0.5)
    with pytest.raises(SpecError, match="--truth takes label sets or votes, not scores"):
        evaluate_labels(LabelFiles(sets, pairs))
    with pytest.raises(InputError, match=r"says nothing of 1 of the 2 images of .*two\.csv \(b\)"):
        evaluate_labels(LabelFiles(sets, two))
    (tmp_path / "bad.csv").write_text(HEAD + "a,1,1,,,True\n")
    with pytest.raises(InputError, match="are problematic; nothing is left"):
        evaluate_labels(LabelFiles(sets, str(tmp_path / "bad.csv")))
    with pytest.raises(InputError, match="has none of the images of"):
        evaluate_labels(LabelFiles(sets, other))
    assert evaluate_labels(LabelFiles(sets, two), how=NONE, allow_missing=True)["truth"]["missing"] == 1
