"""Which questions a run has for people, against the columns counted by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from review_run import NAMES, asked, make, review

import curate
from curate.errors import InputError, SpecError
from curate.formats.decisions import append, decision_line
from curate.pipeline.api import Run
from curate.stages.label_sets_fit import weigh_answers


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with labels."""
    return make(tmp_path_factory.mktemp("review"))


def labels_of(run: Run) -> list[dict[str, Any]]:
    """One dict a label, from the columns."""
    frame = run.columns("index", "label_sets").collect()
    found = []
    for row in frame.iter_rows(named=True):
        row = {name.rpartition(".")[2]: value for name, value in row.items()}
        for label in row["labels"]:
            found.append(label | {"uid": f"{row['uid_hi']:016x}{row['uid_lo']:016x}", "suspect": row["suspect"]})
    return found


def change(label: dict[str, Any]) -> float:
    """Probability that a true answer changes the released sets, by hand."""
    p: float = label["probability"]
    kept: bool = label["decision"] == "keep"
    if label["suspect"] and kept:
        return max(1 - p, 0.05)
    return 0.0 if not 0.05 <= p <= 0.95 else 1 - p if kept else p


def test_questions_are_the_labels_whose_answer_changes_most(made: Run, tmp_path: Path) -> None:
    found = review(made, tmp_path / "none.jsonl")
    worth = {(label["uid"], label["class"]): change(label) for label in labels_of(made) if change(label) > 0}
    assert len(worth) > 20
    assert set(asked(found)) == set(worth)
    told = [one.priority for one in found.questions]
    assert told == sorted(told, reverse=True)
    for one in found.questions:
        assert one.priority == pytest.approx(worth[one.sample.uid, one.number], abs=1e-12)
        assert one.name == f"thing {one.number} <b>"
    assert asked(review(made, tmp_path / "none.jsonl", questions=5)) == asked(found)[:5]
    by_class = [one.number for one in review(made, tmp_path / "none.jsonl", per_class=2).questions]
    assert max(by_class.count(number) for number in by_class) == 2
    assert not (tmp_path / "none.jsonl").exists()


def test_balanced_counts_a_change_by_the_size_of_its_class(made: Run, tmp_path: Path) -> None:
    labels = labels_of(made)
    for one in review(made, tmp_path / "d", balanced=True).questions:
        kept = sum(label["class"] == one.number and label["decision"] == "keep" for label in labels)
        (label,) = [x for x in labels if (x["uid"], x["class"]) == (one.sample.uid, one.number)]
        assert one.priority == pytest.approx(change(label) / max(1, kept), abs=1e-12)


def test_what_a_rater_answered_is_not_asked_again_and_two_who_agree_settle_it(made: Run, tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    first = review(made, file)
    place, target = next((i, one) for i, one in enumerate(first.questions) if one.probability and one.probability > 0.3)
    key = (target.sample.uid, target.number)
    append(file, decision_line(*key, "maybe", "kim"))
    assert key not in asked(review(made, file))
    assert key in asked(review(made, file, rater="lee"))
    assert first.settled() == []  # an undecided answer settles nothing
    append(file, decision_line(*key, "yes", "lee"))
    append(file, decision_line(*key, "yes", "max"))
    assert key not in asked(review(made, file, rater="ann"))
    assert first.settled() == [place]
    doubtful = review(made, file, rater="ann")
    assert len(doubtful.questions) == len(first.questions) - 1


def test_answers_that_the_step_has_counted_are_not_counted_twice(made: Run, tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    target = max((q for q in review(made, file).questions if not q.suspect), key=lambda q: q.probability or 0)
    assert target.probability is not None
    append(file, decision_line(target.sample.uid, target.number, "no", "lee"))
    told = {(q.sample.uid, q.number): q for q in review(made, file).questions}[target.sample.uid, target.number]
    (evidence,) = weigh_answers([str(file)])["evidence"]
    odds = target.probability / (1 - target.probability) * math.exp(evidence)
    assert evidence == pytest.approx(-math.log(18), abs=0.1)
    assert told.probability == pytest.approx(odds / (1 + odds), abs=1e-6)
    spec = json.loads(json.dumps(made.record.spec))
    spec["stages"][2]["label_sets"]["votes"] = str(file)
    spec["workspace"] = f"{tmp_path}/again"
    with_votes = curate.run(spec, workers=0)
    again = {(q.sample.uid, q.number): q for q in review(with_votes, file).questions}[target.sample.uid, target.number]
    assert again.probability == pytest.approx(told.probability, abs=1e-6)
    assert again.votes == told.votes == 1


def test_examples_are_the_most_probable_images_with_this_given_label(made: Run, tmp_path: Path) -> None:
    found = review(made, tmp_path / "d")
    frame = made.columns("index", "label_sets").collect()
    rows = [{name.rpartition(".")[2]: value for name, value in row.items()} for row in frame.iter_rows(named=True)]
    for number, samples in found.examples.items():
        same, other = [], []
        for row in rows:
            for label in row["labels"]:
                if label["class"] == number:
                    uid = f"{row['uid_hi']:016x}{row['uid_lo']:016x}"
                    if row["label"] == NAMES[number]:
                        same.append((-label["probability"], uid))
                    elif label["decision"] == "keep":
                        other.append((-label["probability"], uid))
        assert [s.uid for s in samples] == [uid for _, uid in sorted(same) + sorted(other)][:7]


def test_golden_questions_are_mixed_in_and_marked(made: Run, tmp_path: Path) -> None:
    plain = asked(review(made, tmp_path / "d"))
    golden = tmp_path / "golden.jsonl"
    for (uid, number), answer in zip(plain[3:6], ("yes", "no", "maybe"), strict=True):
        append(golden, decision_line(uid, number, answer, "expert"))
    append(golden, decision_line("0" * 32, 1, "yes", "expert"))
    append(golden, decision_line(plain[0][0], 11, "no", "expert"))
    found = review(made, tmp_path / "d", golden=str(golden), golden_every=4)
    known = {(q.sample.uid, q.number): q.known for q in found.questions if q.known}
    assert known == {plain[3]: "yes", plain[4]: "no", plain[5]: "maybe", (plain[0][0], 11): "no"}
    assert sorted(asked(found)) == sorted({*plain, (plain[0][0], 11)})
    assert asked(review(made, tmp_path / "d", golden=str(golden), golden_every=4)) == asked(found)
    for start in range(0, 16, 4):
        assert sum(q.known is not None for q in found.questions[start : start + 4]) == 1
    golden.write_bytes(decision_line("0" * 32, 1, "yes", "expert"))
    with pytest.raises(InputError, match="none of its 1 questions"):
        review(made, tmp_path / "d", golden=str(golden))


def test_a_run_without_label_sets_has_no_questions(tiny: dict[str, Any], tmp_path: Path) -> None:
    run = curate.run(tiny | {"workspace": f"{tmp_path}/w", "stages": ["index"]}, workers=0)
    with pytest.raises(SpecError, match="no finished label_sets stage"):
        review(run, tmp_path / "d")
