from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import polars as pl
import pytest
import realdata
import tiny_teacher
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.isotonic import IsotonicRegression

import curate
from curate.errors import CurateError, InputError
from curate.formats.decisions import decision_line
from curate.formats.label_maps import unpack
from curate.pipeline.api import Run, prepare
from curate.stages.label_sets import LabelSetsStage
from curate.store.uids import format_uid

IMAGES = 48
Made = Callable[..., Run]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """48 samples with labels 0 to 2, and a teacher of 12 classes; maps are computed by the first run only."""
    folder = tmp_path_factory.mktemp("label-sets")
    corpus.write_good_shards(folder / "shards", shards=3, samples=IMAGES // 3)
    teacher = tiny_teacher.save(folder / "w.pth") | {"batch_size": 16, "temperature": 2.0}
    return {
        "name": "sets",
        "input": {"shards": f"{folder}/shards/*.tar", "shards_per_part": 1},
        "workspace": str(folder / "work"),
        "stages": ["index", {"relabel": teacher}],
    }


def labelled(spec: dict[str, Any], options: dict[str, Any], *before: Any) -> Run:
    return curate.run(spec | {"stages": [*spec["stages"], *before, {"label_sets": options}]}, workers=0)


def rows(run: Run) -> pl.DataFrame:
    return run.columns("label_sets").collect()


def pairs(run: Run) -> pl.DataFrame:
    """One row a label, with the key and uid of its image."""
    index = run.columns("index").collect().select("uid_hi", "uid_lo", "key")
    return pl.concat([index, rows(run)], how="horizontal").explode("labels", empty_as_null=False).unnest("labels")


@pytest.fixture(scope="module")
def plain(spec: dict[str, Any]) -> Run:
    return labelled(spec, {"keep": 0.3, "least": 0.0})


@pytest.fixture(scope="module")
def probabilities(plain: Run) -> NDArray[np.float64]:
    """Of every image, class and cell, 0 where it is not stored: [images, classes, 5, 5]."""
    scores, classes, lse = unpack(np.concatenate(list(plain.vector_parts("relabel", "maps"))))
    dense = np.zeros((len(scores), tiny_teacher.CLASSES, 5, 5))
    assert lse is not None
    p = np.minimum(np.exp(scores.astype(np.float64) - lse[:, None]), 1)
    np.put_along_axis(dense, classes.astype(np.int64), p, axis=1)
    return dense


def test_labels_are_the_classes_of_the_map_by_score(plain: Run, probabilities: NDArray[np.float64]) -> None:
    cells = np.sort(probabilities.reshape(IMAGES, tiny_teacher.CLASSES, 25), axis=2)
    best = cells[:, :, -3:].mean(axis=2)  # a tenth of 25 cells, rounded up
    found = rows(plain)
    assert len(found) == IMAGES
    for image, labels in enumerate(found["labels"]):
        told = {one["class"]: one for one in labels}
        assert set(told) == set(np.flatnonzero(best[image] > 0).tolist()) | {image % 3}  # and the label it came with
        np.testing.assert_allclose([told[c]["score"] for c in told], best[image][list(told)], atol=1e-6)
        assert [one["probability"] for one in labels] == sorted((one["score"] for one in labels), reverse=True)
        for one in labels:
            decision = "keep" if one["score"] >= 0.3 else "drop" if one["score"] < 0.05 else "unsure"
            assert (one["decision"], one["votes"]) == (decision, 0)


def test_boxes_are_the_pieces_above_half_of_the_peak(plain: Run, probabilities: NDArray[np.float64]) -> None:
    checked = 0
    for image, labels in enumerate(rows(plain)["labels"]):
        for one in labels:
            if one["decision"] == "drop":
                assert one["peak"] is one["y0"] is one["x1"] is None
                continue
            grid = probabilities[image, one["class"]]
            pieces, _ = ndimage.label(grid >= grid.max() / 2, structure=np.ones((3, 3)))
            held = pieces == pieces.flat[grid.argmax()]
            inside = np.argwhere(held)
            corners = [*(inside.min(axis=0) / 5), *((inside.max(axis=0) + 1) / 5)]
            np.testing.assert_allclose([one[side] for side in ("y0", "x0", "y1", "x1")], corners, atol=1e-6)
            assert one["peak"] == pytest.approx(grid.max(), abs=1e-6)
            checked += 1
    assert checked > IMAGES


def test_columns_sum_up_the_labels(plain: Run) -> None:
    given = plain.columns("index").collect()["label"].cast(pl.Int64).to_list()
    seen = set()
    for row, label in zip(rows(plain).iter_rows(named=True), given, strict=True):
        kept = [one["class"] for one in row["labels"] if one["decision"] == "keep"]
        unsure = any(one["decision"] == "unsure" for one in row["labels"])
        assert row["n_labels"] == len(kept)
        assert row["best"] == (kept[0] if kept else None)
        assert row["best_name"] == (str(kept[0]) if kept else None)
        assert row["outcome"] == ("labelled" if kept else "undecided" if unsure else "nothing")
        assert row["nothing"] == pytest.approx(1 - max(one["probability"] for one in row["labels"]), abs=1e-6)
        assert row["suspect"] == (bool(kept) and label not in kept)
        seen.add(row["suspect"])
    assert seen == {True, False}


def test_high_limits_leave_images_undecided_or_without_a_label(
    spec: dict[str, Any], probabilities: NDArray[np.float64]
) -> None:
    best = probabilities.mean(axis=(2, 3)).max(axis=1)
    middle = float(np.median(best))
    strict = {"keep": 1.0, "drop": middle, "score": "mean"}
    run = labelled(spec, strict)
    found = rows(run)
    assert found["outcome"].to_list() == np.where(best >= middle, "undecided", "nothing").tolist()
    assert found["best"].null_count() == run.record.alive == IMAGES  # nothing is dropped
    assert not found["suspect"].any()
    before = [{"label_sets": {"name": "first", **strict}}, {"filter": {"where": "outcome = 'undecided'"}}]
    after = rows(labelled(spec, {"keep": 0.5}, *before))
    assert after["outcome"].is_not_null().to_list() == (best >= middle).tolist()


def test_at_most_so_many_candidates_and_none_below_the_least(spec: dict[str, Any], plain: Run) -> None:
    few = rows(labelled(spec, {"candidates": 2, "keep": 0.3}))["labels"].list.len()
    assert few.max() == 3  # the given label is always looked at
    for labels in rows(labelled(spec, {"least": 0.2, "keep": 0.3}))["labels"]:
        assert sum(one["score"] < 0.2 for one in labels) <= 1


# --- calibration ------------------------------------------------------------------------------------------------------


def reviewed(plain: Run, path: Path, power: float = 0.5) -> dict[str, set[int]]:
    """A multi-label CSV: each class of an image is true with probability score ** power, drawn with a seed."""
    rng = np.random.default_rng(3)
    truth: dict[str, set[int]] = {}
    for key, number, score in pairs(plain).select("key", "class", "score").iter_rows():
        truth.setdefault(key, set())
        if rng.random() < score**power:
            truth[key].add(number)
    lines = [f'{key}.JPEG,"{", ".join(map(str, sorted(labels)))}"' for key, labels in truth.items()]
    path.write_text("\n".join(["id,proposed_labels", *lines]))
    return truth


def test_known_labels_calibrate_scores(spec: dict[str, Any], plain: Run, tmp_path: Path) -> None:
    truth = reviewed(plain, tmp_path / "known.csv")
    options = {"reviewed": str(tmp_path / "known.csv"), "least": 0.0, "precision": 0.6, "drop": 0.2}
    run = labelled(spec, options)
    found = pairs(run)
    score, number = found["score"].to_numpy().astype(np.float64), found["class"].to_numpy()
    right = np.array([c in truth[key] for key, c in found.select("key", "class").iter_rows()])
    second = (found["uid_lo"].to_numpy() & np.uint64(1)) == 1
    first = ~second
    curve = IsotonicRegression(out_of_bounds="clip").fit(score[first], right[first])
    p = curve.predict(score)
    for c in np.unique(number[first]):
        mine = first & (number == c)
        n = min(right[mine].sum(), (~right[mine]).sum())
        if n:
            own = IsotonicRegression(out_of_bounds="clip").fit(score[mine], right[mine])
            at = number == c
            p[at] = p[at] + n / (n + 20) * (own.predict(score[at]) - p[at])
    np.testing.assert_allclose(found["probability"].to_numpy(), p, atol=1e-6)
    limits = run.artifacts("label_sets")["keep"][number]
    assert found["decision"].to_list() == np.where(
        p >= limits, "keep", np.where(p < np.minimum(0.2, limits), "drop", "unsure")
    ).tolist()  # fmt: skip
    told = run.artifacts("label_sets")["label_sets"]
    assert told["known"] == {"images": 48, "pairs": len(found), "true": int(right.sum())}
    assert told["calibrated"]
    assert told["precision_shown"]
    assert not [note for note in run.record.notes if note["step"] == "label_sets"]
    raw = np.abs(right.mean() - score.mean())
    assert np.abs(right[second].mean() - p[second].mean()) < raw / 3


def test_few_reviewed_images_calibrate_and_leave_labels_that_are_kept(
    spec: dict[str, Any], plain: Run, tmp_path: Path
) -> None:
    reviewed(plain, tmp_path / "known.csv")
    head, *lines = (tmp_path / "known.csv").read_text().splitlines()
    (tmp_path / "few.csv").write_text("\n".join([head, *lines[:12]]))
    run = labelled(spec, {"reviewed": str(tmp_path / "few.csv"), "least": 0.0, "precision": 0.9})
    told = run.artifacts("label_sets")["label_sets"]
    assert (told["calibrated"], told["precision_shown"], told["known"]["images"]) == (True, False, 12)
    found = pairs(run)
    assert found.filter(pl.col("decision") == "keep")["probability"].min() >= 0.9 - 1e-6
    assert found.filter(pl.col("probability") >= 0.9 + 1e-6)["decision"].unique().to_list() == ["keep"]


def test_without_known_labels_scores_count_and_a_note_says_so(plain: Run) -> None:
    assert plain.artifacts("label_sets")["curves"].is_empty()
    assert not plain.artifacts("label_sets")["label_sets"]["calibrated"]
    notes = [note for note in plain.record.notes if note["step"] == "label_sets"]
    assert [(note["kind"], note["part"], note["images"]) for note in notes] == [
        ("uncalibrated", p, 16) for p in range(3)
    ]


# --- answers of people ------------------------------------------------------------------------------------------------


def question(run: Run, key: str) -> tuple[str, dict[str, Any]]:
    """uid of an image, and one of its labels that is neither sure nor dropped."""
    mine = pairs(run).filter(pl.col("key") == key).sort("probability")
    open_ = mine.filter(pl.col("probability").is_between(0.06, 0.6)).row(0, named=True)
    return format_uid(open_["uid_hi"], open_["uid_lo"]), open_


def test_answers_move_their_question_alone_and_recompute_this_step_alone(
    spec: dict[str, Any], plain: Run, tmp_path: Path
) -> None:
    key = pairs(plain)["key"][0]
    uid, asked = question(plain, key)
    path = tmp_path / "decisions.jsonl"
    path.write_bytes(b"")
    options = {"keep": 0.3, "least": 0.0, "votes": str(path)}
    none = labelled(spec, options)
    assert rows(none).equals(rows(plain))
    assert none.record.step("relabel").reused_parts == none.record.step("relabel").parts == 3
    path.write_bytes(
        decision_line(uid, asked["class"], "yes", "kim") + decision_line(uid, asked["class"], "yes", "lee")
    )
    voted = labelled(spec, options)
    assert (voted.record.step("relabel").reused_parts, voted.record.step("label_sets").reused_parts) == (3, 0)
    assert voted.record.step("index").reused_parts == 3
    before, after = pairs(plain), pairs(voted)
    join = before.join(after, on=["uid_hi", "uid_lo", "class"], suffix="_after")
    assert len(join) == len(before) == len(after)
    moved = join.filter(pl.col("probability") != pl.col("probability_after"))
    assert moved.select("key", "class").rows() == [(key, asked["class"])]
    # two raters, each right 18 times of 20 as known, and then a little better for agreeing
    odds = asked["probability"] / (1 - asked["probability"])
    p = moved["probability_after"][0]
    assert p / (1 - p) > odds * 18**2 * 0.99
    assert moved.select("votes_after", "decision_after").row(0) == (2, "keep")
    again = labelled(spec, options)
    assert again.record.step("label_sets").reused_parts == 3
    with path.open("ab") as out:
        out.write(decision_line(uid, asked["class"], "no", "kim") + decision_line(uid, asked["class"], "no", "lee"))
    denied = pairs(labelled(spec, options)).filter(pl.col("key") == key, pl.col("class") == asked["class"])
    assert denied.select("votes", "decision").row(0) == (2, "drop")


def test_answers_decide_what_no_limit_keeps_and_no_other_question(
    spec: dict[str, Any], plain: Run, tmp_path: Path
) -> None:
    """Every doubtful question is answered by two, as people that curate review asks would; the sure ones stay."""
    path = tmp_path / "decisions.jsonl"
    rng = np.random.default_rng(5)
    asked = pairs(plain).filter(pl.col("probability").is_between(0.05, 0.95))
    lines, said = [], {}
    for row in asked.iter_rows(named=True):
        answer = "yes" if rng.random() < row["probability"] else "no"
        said[row["key"], row["class"]] = answer
        uid = format_uid(row["uid_hi"], row["uid_lo"])
        lines += [decision_line(uid, row["class"], answer, rater) for rater in ("kim", "lee")]
    lines.append(decision_line("f" * 32, 1, "yes", "kim"))
    path.write_bytes(b"".join(lines))
    done = labelled(spec, {"least": 0.0, "votes": str(path)})
    answered = {
        (row["key"], row["class"]): row["decision"]
        for row in pairs(done).filter(pl.col("votes") > 0).iter_rows(named=True)
    }
    assert answered == {at: "keep" if answer == "yes" else "drop" for at, answer in said.items()}
    both = pairs(plain).join(pairs(done).filter(pl.col("votes") == 0), on=["key", "class"], suffix="_after")
    assert both["probability"].equals(both["probability_after"].rename("probability"))
    told = done.artifacts("label_sets")["label_sets"]
    assert not told["calibrated"]
    assert told["questions"] == {"answered": len(said) + 1, "of_this_input": len(said)}


def test_what_a_file_said_when_the_run_began_counts(
    spec: dict[str, Any], plain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that come in while the stage works are for the next run: the state is named by what was there before."""
    key = pairs(plain)["key"][0]
    uid, asked = question(plain, key)
    path = tmp_path / "decisions.jsonl"
    path.write_bytes(decision_line(uid, asked["class"], "yes", "kim"))
    summarise = LabelSetsStage.summarise

    def meanwhile(self: LabelSetsStage, *given: Any) -> Any:
        path.write_bytes(b"".join(decision_line(uid, asked["class"], "no", rater) for rater in ("kim", "lee", "max")))
        return summarise(self, *given)

    options = {"keep": 0.3, "least": 0.0, "votes": str(path)}
    with monkeypatch.context() as patched:
        patched.setattr(LabelSetsStage, "summarise", meanwhile)
        first = pairs(labelled(spec, options))
    later = pairs(labelled(spec, options))
    mine = (pl.col("key") == key) & (pl.col("class") == asked["class"])
    assert first.filter(mine).select("votes", "decision").row(0) == (1, "keep")
    assert later.filter(mine).select("votes", "decision").row(0) == (3, "drop")


def test_a_known_file_that_changes_meanwhile_is_refused(
    spec: dict[str, Any], plain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reviewed(plain, tmp_path / "known.csv")
    summarise = LabelSetsStage.summarise

    def meanwhile(self: LabelSetsStage, *given: Any) -> Any:
        self.__dict__.pop("_reviewed", None)  # as on another process
        with (tmp_path / "known.csv").open("a") as out:
            out.write("\n")
        return summarise(self, *given)

    monkeypatch.setattr(LabelSetsStage, "summarise", meanwhile)
    with pytest.raises(InputError, match=r"reviewed .*known\.csv has changed since this run began"):
        labelled(spec, {"reviewed": str(tmp_path / "known.csv")})


def test_a_class_that_people_name_is_looked_at_though_no_cell_stores_it(
    spec: dict[str, Any], plain: Run, tmp_path: Path
) -> None:
    mine = pairs(plain).filter(pl.col("key") == pairs(plain)["key"][0])
    missing = next(c for c in range(tiny_teacher.CLASSES) if c not in mine["class"])
    uid = format_uid(mine["uid_hi"][0], mine["uid_lo"][0])
    lines = [decision_line(uid, missing, "yes", rater) for rater in ("kim", "lee", "max")]
    (tmp_path / "d.jsonl").write_bytes(b"".join(lines))
    found = pairs(labelled(spec, {"keep": 0.5, "votes": [str(tmp_path / "d.jsonl")]}))
    row = found.filter(pl.col("key") == mine["key"][0], pl.col("class") == missing).row(0, named=True)
    assert (row["score"], row["votes"], row["decision"], row["y0"]) == (0, 3, "keep", None)


# --- names and relations ----------------------------------------------------------------------------------------------


def names_file(path: Path, n: int = tiny_teacher.CLASSES) -> str:
    listed = [{"cid": c, "wnid": f"n{c:08d}", "synset": [f"thing {c}"]} for c in range(n)]
    path.write_text(json.dumps(listed))
    return str(path)


def test_names_and_synonyms(spec: dict[str, Any], plain: Run, tmp_path: Path) -> None:
    before = rows(plain)
    at = before["suspect"].to_list().index(True)
    given = int(plain.columns("index").collect()["label"][at])
    best = before["best"][at]
    (tmp_path / "related.csv").write_text(f"a,b,relation\nn{given:08d},{best},synonym\n")
    options = {"class_names": names_file(tmp_path / "names.json"), "relations": str(tmp_path / "related.csv")}
    after = rows(labelled(spec, options | {"keep": 0.3, "least": 0.0}))
    assert not after["suspect"][at]
    assert after["best_name"][at] == f"thing {after['best'][at]}"
    own = {one["class"]: one["probability"] for one in after["labels"][at]}
    assert own[given] == own[best]  # two names of one thing are equally probable


# --- bad input --------------------------------------------------------------------------------------------------------


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"reviewed": "gone.json"}, "no such file"),
        ({"reviewed": "short.json"}, "has 2 lists and names no images.*reviewed_order"),
        ({"reviewed": "short.json", "reviewed_order": "order.json"}, "has 2 lists,.* lists 3 images"),
        ({"reviewed": "other.csv"}, "none of the 1 images of .* is in the input"),
        ({"reviewed": "beyond.csv"}, "reviewed names class 12, but stage relabel knows 12 classes"),
        ({"relations": "beyond-relations.csv"}, "relations names class 40"),
        ({"relations": "unknown.csv"}, "'akin'; wanted one of synonym"),
        ({"relations": "wnids.csv"}, "give a list of classes with class_names"),
        ({"class_names": "names.json"}, "class_names lists 3 classes, but stage relabel knows 12"),
        ({"class_names": "order.csv"}, "no JSON"),
        ({"votes": "votes.jsonl"}, "votes names class 77"),
        ({"votes": "broken.jsonl"}, "line 1: answer is 'perhaps'"),
        ({"keep": 0.2, "drop": 0.4}, "wanted drop <= keep"),
        ({"reviewed_order": "order.json"}, "reviewed_order but no reviewed"),
    ],
)
def test_bad_files_are_refused(
    spec: dict[str, Any], plain: Run, tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    uid = "0" * 32
    written(tmp_path / "short.json", "[[1], [2]]")
    written(tmp_path / "order.json", '["a", "b", "c"]')
    written(tmp_path / "order.csv", "a\n")
    written(tmp_path / "other.csv", "id,proposed_labels\nsomewhere,1\n")
    written(tmp_path / "beyond.csv", f"id,proposed_labels\n{pairs(plain)['key'][0]},12\n")
    written(tmp_path / "beyond-relations.csv", "a,b,relation\n1,40,synonym\n")
    written(tmp_path / "unknown.csv", "a,b,relation\n1,2,akin\n")
    written(tmp_path / "wnids.csv", "a,b,relation\nn00000001,n00000002,synonym\n")
    names_file(tmp_path / "names.json", 3)
    (tmp_path / "votes.jsonl").write_bytes(decision_line(uid, 77, "yes", "kim"))
    written(tmp_path / "broken.jsonl", f'{{"uid": "{uid}", "class": 1, "answer": "perhaps", "rater": "kim"}}\n{{}}\n')
    given = {name: f"{tmp_path}/{value}" if isinstance(value, str) else value for name, value in options.items()}
    with pytest.raises(CurateError, match=sentence):
        labelled(spec, given)


def test_too_few_known_labels_to_fit_are_refused(spec: dict[str, Any], plain: Run, tmp_path: Path) -> None:
    path = written(tmp_path / "one.csv", f"id,proposed_labels\n{pairs(plain)['key'][0]},\n")
    with pytest.raises(InputError, match=r"labels of this input are known .* 0 of them true; too few to fit"):
        labelled(spec, {"reviewed": path})


def test_it_needs_a_relabel_stage(spec: dict[str, Any]) -> None:
    with pytest.raises(CurateError, match="relabel"):
        prepare(spec | {"stages": ["index", "label_sets"]})


def test_dead_rows_have_no_labels(spec: dict[str, Any]) -> None:
    run = labelled(spec, {"keep": 0.3}, {"filter": {"where": "width > 100000"}})
    found = rows(run)
    assert run.record.alive == 0
    assert all(found[name].null_count() == IMAGES for name in found.columns)


def test_labels_of_real_photos(tmp_path: Path) -> None:
    photos = [realdata.coco() / f"{name:012d}.jpg" for name in (285, 39551)]
    members = [member for path in photos for member in corpus.sample(path.stem, path.read_bytes())]
    (tmp_path / "0.tar").write_bytes(corpus.tar_bytes(members))
    run = curate.run(
        {
            "name": "photos",
            "input": {"shards": f"{tmp_path}/0.tar"},
            "workspace": f"{tmp_path}/work",
            "stages": ["index", {"relabel": {"model": "packaged:efficientnet_lite0"}}, "label_sets"],
        },
        workers=0,
    )
    found = rows(run)
    bear, racket = (found["labels"][row] for row in (0, 1))
    assert found["best"].to_list() == [294, 752]  # a brown bear, a tennis racket
    assert found["outcome"].to_list() == ["labelled", "labelled"]
    for labels, least in ((bear, 0.2), (racket, 0.0)):
        best = labels[0]
        area = (best["y1"] - best["y0"]) * (best["x1"] - best["x0"])
        assert least < area < 1
