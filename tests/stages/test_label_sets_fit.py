from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from curate.formats.decisions import decision_line
from curate.relabel.calibration import wilson_lower
from curate.stages.label_sets_fit import QUESTIONS, Pairs, fit, updated, weigh_answers


def test_what_is_kept_reaches_the_precision() -> None:
    rng = np.random.default_rng(0)
    n = 40_000
    score, classes = rng.random(n), rng.integers(0, 10, n)
    truth, half = rng.random(n) < score**2, rng.random(n) < 0.5
    curves, limits, shown = fit(Pairs(score, classes, truth, half), 10, 0.9, "x")
    assert shown
    assert curves["class"].to_list() == [-1, *range(10)]
    # (1 + t + t^2) / 3, the mean of s^2 above t, is 0.9 at t = 0.8964, whose probability is 0.804
    assert limits.min() > 0.79
    kept = half & (score**2 >= limits[classes])
    assert kept.sum() > 500
    assert wilson_lower(np.array(truth[kept].sum()), np.array(kept.sum())) >= 0.9


def test_one_answer_weighs_as_a_rater_who_is_right_18_times_of_20(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(decision_line("0" * 31 + "7", 3, "yes", "kim"))
    told = weigh_answers([str(path)])
    assert dict(told.schema) == QUESTIONS
    assert told.drop("evidence").rows() == [(0, 7, 3, 1)]
    assert told["evidence"][0] == pytest.approx(math.log(18), abs=0.1)
    path.write_bytes(decision_line("0" * 31 + "7", 3, "maybe", "kim"))
    assert weigh_answers([str(path)])["evidence"][0] == pytest.approx(0, abs=0.1)


def test_a_rater_who_contradicts_the_others_counts_less(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    rng = np.random.default_rng(1)
    lines = []
    for item in range(60):
        answer = ("no", "yes")[item % 2]
        lines += [decision_line(f"{item:032x}", 0, answer, rater) for rater in ("a", "b", "c")]
        lines.append(decision_line(f"{item:032x}", 0, ("no", "yes")[rng.integers(2)], "careless"))
    lines += [decision_line(f"{900:032x}", 0, "yes", "a"), decision_line(f"{901:032x}", 0, "yes", "careless")]
    path.write_bytes(b"".join(lines))
    told = weigh_answers([str(path)])
    careful, careless = told.filter(pl.col("uid_lo") >= 900).sort("uid_lo")["evidence"].to_list()
    assert careful > math.log(18) > 1.5 > careless > 0


def test_few_pairs_leave_the_calibrated_probability_itself() -> None:
    """23 true pairs and no false one above show 0.89 at most (Wilson, 95 %), so no limit is shown for 0.9."""
    score = np.array([0.9] * 46 + [0.1] * 10)
    truth, half = score > 0.5, np.arange(56) % 2 == 0
    assert wilson_lower(np.array(23), np.array(23)) < 0.9 <= wilson_lower(np.array(25), np.array(25))
    pairs = Pairs(score, np.zeros(56, dtype=np.int64), truth, half)
    _, limits, shown = fit(pairs, 2, 0.9, "x")
    assert (limits.tolist(), shown) == ([0.9, 0.9], False)


@pytest.mark.parametrize("answers", [1, 50, 300])
@pytest.mark.parametrize("yes", [0.0, 0.05, 0.5, 1.0])
def test_who_answers_alone_keeps_the_trust_of_a_new_rater(tmp_path: Path, answers: int, yes: float) -> None:
    """Nobody else answered these questions, so nothing is known of how good the answers are, however one-sided."""
    path = tmp_path / "d.jsonl"
    given = ["yes" if item < yes * answers else "no" for item in range(answers)]
    path.write_bytes(b"".join(decision_line(f"{item:032x}", 0, one, "kim") for item, one in enumerate(given)))
    evidence = weigh_answers([str(path)]).sort("uid_lo")["evidence"].to_numpy()
    np.testing.assert_allclose(evidence, [math.log(18) * (1 if one == "yes" else -1) for one in given])


def test_evidence_moves_log_odds() -> None:
    p = np.array([0.5, 0.2, 0.0, 1.0, 0.3])
    evidence = np.array([math.log(9), -math.log(4), math.log(19), -math.log(19), 0.0])
    np.testing.assert_allclose(updated(p, evidence), [0.9, 1 / 17, 0.5, 0.5, 0.3])
