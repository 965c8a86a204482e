from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from score_bench import SIZES, Made, N

from curate.errors import InputError, SpecError
from curate.pruning.metrics import METRICS, predictions, training
from curate.stages.score import ScoreConfig


def outputs(n: int, c: int, seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(n, c)) * 3


# --- options ----------------------------------------------------------------------------------------------------------


def test_the_step_makes_every_metric_that_prune_does_not() -> None:
    named = set(ScoreConfig.model_json_schema()["properties"]["metric"]["enum"])
    assert named == {m.name for m in METRICS.values() if not m.in_prune} | {"random"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"metric": "el2n"}, "made of tables; give predictions: FILE"),
        ({"metric": "imported", "predictions": "a.csv"}, "does not know predictions"),
        ({"metric": "knn", "match": "uid"}, "does not know match"),
        ({"metric": "imported"}, "give scores: FILE"),
        ({"metric": "el2n", "predictions": "a.csv", "orientation": "low"}, "does not know orientation"),
    ],
)
def test_options_that_a_metric_does_not_know_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ScoreConfig.model_validate(options)


def test_what_is_missing_is_said_before_work_starts(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="knn needs vectors; put an embed stage before it"):
        Made(tmp_path / "a").run(metric="knn")
    with pytest.raises(SpecError, match="clip needs the column clip_score; no earlier step writes it"):
        Made(tmp_path / "b").run(metric="clip")
    made = Made(tmp_path / "c")
    file = made.parquet("p.parquet", key=made.keys, probabilities=np.full((N, 2), 0.5))
    with pytest.raises(SpecError, match="no earlier step writes a column kind"):
        made.run(metric="el2n", predictions=file, label="kind")
    with pytest.raises(SpecError, match="match is shape, a column that no earlier step writes"):
        made.run("b", metric="entropy", predictions=file, match="shape")


# --- models' outputs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["parquet", "npz"])
@pytest.mark.parametrize("name", ["el2n", "margin", "grand", "ddd", "entropy"])
def test_scores_of_several_models_are_those_of_the_functions(tmp_path: Path, name: str, form: str) -> None:
    """Rows in any order, rows that no sample has, samples without a row; labels from the index."""
    made = Made(tmp_path)
    rng = np.random.default_rng(1)
    y = np.asarray([i % 3 for i in range(N)])
    there = np.asarray([i for i in range(N) if i not in (4, 9)])
    files, each = [], []
    for model in range(3):
        z, h = outputs(N, 3, model).astype(np.float32), outputs(N, 6, model + 9)
        order = rng.permutation(there)
        names = [*(made.keys[i] for i in order), "foreign.jpg"]
        columns: dict[str, Any] = {"logits": np.concatenate([z[order], z[:1]])}
        if name == "grand":
            columns["features"] = np.concatenate([h[order], h[:1]])
        if form == "npz":
            files.append(str(tmp_path / f"m{model}.npz"))
            np.savez(files[-1], keys=np.asarray(names), **columns)
        else:
            files.append(made.parquet(f"m{model}.parquet", image_path=[f"{n}.JPEG" for n in names], **columns))
        p = predictions.softmax(z.astype(np.float64))
        each.append(
            {
                "el2n": lambda p=p: predictions.el2n(p, y),
                "margin": lambda p=p: predictions.margin(p, y),
                "grand": lambda p=p, h=h: predictions.grand(p, y, h),
                "ddd": lambda p=p: predictions.wrong(p, y).astype(float),
                "entropy": lambda p=p: predictions.entropy(p),
            }[name]()
        )
    expected = predictions.mean(each) * (3 if name == "ddd" else 1)
    got = made.run(metric=name, predictions=files)
    assert [v is None for v in got] == [i in (4, 9) for i in range(N)]
    np.testing.assert_allclose([v for v in got if v is not None], expected[there], rtol=1e-14)
    assert made.artifacts()["summary"] == {
        "metric": name, "alive": N, "scored": N - 2, "rows": 3 * (N - 1), "unmatched": 3,
    }  # fmt: skip
    assert sum(note["samples"] for note in made.notes("score")) == 2


def test_a_label_in_the_table_needs_none_of_the_sample(tmp_path: Path) -> None:
    made = Made(tmp_path, label=[None] * N)
    p, y = predictions.softmax(outputs(N, 4, 0)), np.arange(N) % 4
    file = made.parquet("p.parquet", uid=made.uids, probabilities=p, label=y)
    assert made.run(metric="el2n", predictions=file, match="uid") == predictions.el2n(p, y).tolist()
    texts = made.parquet("t.parquet", uid=made.uids, probabilities=p, label=["dcba"[k] for k in y])
    (tmp_path / "classes.txt").write_text("d\nc\nb\na\n")
    options = {"metric": "el2n", "predictions": texts, "match": "uid", "classes": str(tmp_path / "classes.txt")}
    assert made.run("again", **options) == predictions.el2n(p, y).tolist()


def test_labels_find_their_outputs_by_the_list_of_classes(tmp_path: Path) -> None:
    made = Made(tmp_path)
    p = predictions.softmax(outputs(N, 5, 0))
    file = made.parquet("p.parquet", key=made.keys, probabilities=p)
    with pytest.raises(InputError, match="the samples have 3 labels but the predictions 5 classes, so which is which"):
        made.run("a", metric="el2n", predictions=file)
    (tmp_path / "classes.txt").write_text("n2\nother\nn0\nn1\nmore\n")
    got = made.run("b", metric="el2n", predictions=file, classes=str(tmp_path / "classes.txt"))
    assert got == predictions.el2n(p, np.asarray([[2, 3, 0][i % 3] for i in range(N)])).tolist()
    (tmp_path / "few.txt").write_text("n2\nn0\n")
    with pytest.raises(InputError, match="the label 'n1' is not in the list classes"):
        made.run("c", metric="el2n", predictions=file, classes=str(tmp_path / "few.txt"))


def test_outputs_that_are_no_probabilities_are_refused_with_their_file(tmp_path: Path) -> None:
    made = Made(tmp_path)
    file = made.parquet("p.parquet", key=made.keys, probabilities=outputs(N, 3, 0))
    with pytest.raises(
        InputError, match=r"p\.parquet: rows from row 0 on: row 0 of the probabilities .* name the column logits"
    ):
        made.run(metric="el2n", predictions=file)


# --- training runs ----------------------------------------------------------------------------------------------------


def test_forgetting_from_a_long_table_and_from_one_file_an_epoch(tmp_path: Path) -> None:
    made = Made(tmp_path)
    rng = np.random.default_rng(0)
    predicted = rng.integers(0, 3, (6, N))
    right = predicted == np.arange(N) % 3
    expected = training.forgetting(np.tile(np.arange(N), 6), np.repeat(np.arange(6), N), right.ravel(), N).tolist()
    rows = [(made.keys[i], e - 2, bool(right[e, i])) for e in range(6) for i in range(N)]
    shuffled = [rows[i] for i in rng.permutation(len(rows))]
    pl.DataFrame(shuffled, schema=["sample", "epoch", "correct"], orient="row").write_csv(tmp_path / "long.csv")
    assert made.run("a", metric="forgetting", predictions=str(tmp_path / "long.csv")) == expected
    files = [made.parquet(f"e{e}.parquet", key=made.keys, predicted=predicted[e]) for e in range(6)]
    assert made.run("b", metric="forgetting", predictions=files) == expected
    assert made.artifacts("b")["summary"]["unmatched"] == 0  # type: ignore[index]
    # labels are numbered by their place among all: a new shard may renumber those of stored parts, unless a list says
    (tmp_path / "classes.txt").write_text("n0\nn1\nn2\n")
    listed = str(tmp_path / "classes.txt")
    said = [made.parquet(f"n{e}.parquet", key=made.keys, predicted=[f"n{p}" for p in predicted[e]]) for e in range(6)]
    assert made.run("listed", metric="forgetting", predictions=said, classes=listed) == expected
    assert [made.bench.plan.step(f"{name}-table").stage.depends for name in ("a", "b", "listed")] == [
        "part", "all", "part",
    ]  # fmt: skip
    twice = pl.DataFrame([*rows, rows[0]], schema=["sample", "epoch", "correct"], orient="row")
    twice.write_csv(tmp_path / "twice.csv")
    with pytest.raises(
        InputError,
        match=rf"twice\.csv line 2 and .*twice\.csv line {len(rows) + 2} name the same sample at the same epoch",
    ):
        made.run("c", metric="forgetting", predictions=str(tmp_path / "twice.csv"))


@pytest.mark.parametrize("form", ["long", "keys", "order"])
def test_memorization_from_a_long_table_and_from_published_masks(tmp_path: Path, form: str) -> None:
    made = Made(tmp_path)
    rng = np.random.default_rng(0)
    mask, right = rng.random((15, N)) < 0.7, rng.random((15, N)) < 0.6
    mask[:, 3] = True
    expected = training.memorization(training.subset_counts(mask, right))
    options: dict[str, Any] = {}
    file = str(tmp_path / "masks.npz")
    if form == "long":
        rows = [(made.keys[i], f"m{m}", bool(mask[m, i]), int(right[m, i])) for m in range(15) for i in range(N)]
        file = str(tmp_path / "long.parquet")
        pl.DataFrame(rows, schema=["key", "model", "in_subset", "correct"], orient="row").write_parquet(file)
    elif form == "keys":
        np.savez(file, trainset_mask=mask, trainset_correctness=right, keys=np.asarray(made.keys))
    else:
        np.savez_compressed(file, trainset_mask=mask, trainset_correctness=right)
        (tmp_path / "order.txt").write_text("\n".join(made.keys))
        options["order"] = str(tmp_path / "order.txt")
    got = made.run(metric="memorization", predictions=file, **options)
    assert got[3] is None
    assert got == [None if np.isnan(v) else v for v in expected]


@pytest.mark.parametrize("rule", ["max", "sum-abs"])
def test_influence_from_published_masks(tmp_path: Path, rule: str) -> None:
    made = Made(tmp_path)
    rng = np.random.default_rng(0)
    mask, test = rng.random((15, N)) < 0.7, rng.random((15, 8)) < 0.6
    file = str(tmp_path / "masks.npz")
    np.savez(file, trainset_mask=mask, testset_correctness=test, keys=np.asarray(made.keys))
    got = made.run(metric=f"influence-{rule}", predictions=file)
    assert got == training.influence(mask, test, rule.replace("-", "_")).tolist()  # type: ignore[arg-type]


def test_ddd_from_a_long_table(tmp_path: Path) -> None:
    made = Made(tmp_path)
    right = np.random.default_rng(0).random((5, N)) < 0.5
    file = made.parquet("d.parquet", key=made.keys * 5, model=np.repeat(np.arange(5), N), correct=right.ravel())
    assert made.run(metric="ddd", predictions=file) == (~right).sum(0).tolist()


# --- ready scores -----------------------------------------------------------------------------------------------------


IMAGES = [f"n0144{i % 3}_{1000 + i}" for i in range(N)]


@pytest.mark.parametrize(
    ("layout", "options"),
    [
        ("head", {"match": "key"}),
        ("bare", {"match": "key"}),
        ("pandas", {"match": "key"}),
        ("folder", {"match": "name"}),
        ("stem", {"match": "name"}),
        ("order", {"match": "key", "order": "order.txt"}),
        ("several", {"match": "key", "column": "second"}),
    ],
)
def test_published_scores_in_every_layout(tmp_path: Path, layout: str, options: dict[str, Any]) -> None:
    made = Made(tmp_path, key=IMAGES)
    rng = np.random.default_rng(0)
    score = np.round(rng.random(N), 12)
    order = rng.permutation(N).tolist()
    rows = [(f"{IMAGES[i]}.JPEG", score[i]) for i in order]
    text = {
        "head": "filename,memorization\n" + "".join(f"{k},{s}\n" for k, s in rows),
        "bare": "".join(f"{k},{s}\n" for k, s in rows),
        "pandas": ",0\n" + "".join(f"{k},{s}\n" for k, s in rows),
        "folder": "path,score\n" + "".join(f"/data/train/{k[:5]}/{k},{s}\n" for k, s in rows),
        "stem": "image,score\n" + "".join(f"{k[:-5]},{s}\n" for k, s in rows),
        "order": "".join(f"{s}\n" for _, s in rows),
        "several": "key,first,second\n" + "".join(f"{k},1,{s}\n" for k, s in rows),
    }[layout]
    file = tmp_path / "ImageNet-1K_memorization.csv"
    file.write_text(text)
    (tmp_path / "order.txt").write_text("".join(f"{k}\n" for k, _ in rows))
    if "order" in options:
        options = {**options, "order": str(tmp_path / options["order"])}
    got = made.run(metric="imported", scores=str(file), **options)
    assert got == score.tolist()
    assert [note["said"] for note in made.notes("score-table")] == [
        f"{file.name}: has {N} rows, the published file has 1,281,167"
    ]


def test_low_scores_may_be_the_hard_ones_and_empty_cells_are_null(tmp_path: Path) -> None:
    made = Made(tmp_path)
    cells = [str(i) for i in range(N)]
    cells[2], cells[5] = "", "inf"
    (tmp_path / "s.csv").write_text(
        "key,score\n" + "".join(f"{k},{c}\n" for k, c in zip(made.keys, cells, strict=True))
    )
    got = made.run(metric="imported", scores=str(tmp_path / "s.csv"), orientation="low")
    assert got == [None if i == 2 else -(2.0**30) if i == 5 else -float(i) for i in range(N)]


def test_a_text_column_may_name_the_samples_and_copies_share_a_score(tmp_path: Path) -> None:
    """Two samples of one hash get one row's score; the row counts once."""
    made = Made(tmp_path, sha256=[f"h{i // 2}" for i in range(N)])
    file = made.parquet("s.parquet", sha256=[f"h{i}" for i in range(N)], score=np.arange(N) * 0.5)
    assert made.run(metric="imported", scores=file, match="sha256") == [(i // 2) * 0.5 for i in range(N)]
    assert made.artifacts()["summary"]["unmatched"] == N - (N + 1) // 2  # type: ignore[index]


def test_what_is_wrong_with_a_table_is_a_sentence(tmp_path: Path) -> None:
    made = Made(tmp_path)
    twice = made.parquet("twice.parquet", key=[*made.keys, made.keys[3]], score=np.arange(N + 1) * 1.0)
    with pytest.raises(InputError, match=rf"row 3 and .* row {N} name the same sample \(key\)"):
        made.run("a", metric="imported", scores=twice)
    foreign = made.parquet("foreign.parquet", key=["x/a.jpg", "x/b.jpg"], score=[1.0, 2.0])
    with pytest.raises(
        InputError, match=r"names a sample by key \(its first is 'x/a.jpg', the first sample's is '000000'\)"
    ):
        made.run("b", metric="imported", scores=foreign)
    plain = made.parquet("plain.parquet", score=[1.0, 2.0])
    with pytest.raises(InputError, match=r"no column names the samples .* name it with the option key, or give order"):
        made.run("c", metric="imported", scores=plain)
    (tmp_path / "order.txt").write_text("a\nb\nc\n")
    with pytest.raises(InputError, match=r"order\.txt: names 3 samples but .* has 2 rows; perhaps a head line"):
        made.run("d", metric="imported", scores=plain, order=str(tmp_path / "order.txt"))
    two = made.parquet("two.parquet", key=["a"], one=[1.0], two=[2.0])
    with pytest.raises(InputError, match="2 columns of numbers besides the key, so which is the score"):
        made.run("e", metric="imported", scores=two)
    huge = made.parquet("huge.parquet", key=made.keys, score=np.full(N, 1e12))
    with pytest.raises(InputError, match=r"row 0: the score 1e\+12 is beyond 2\^30"):
        made.run("f", metric="imported", scores=huge)


def test_a_changed_file_is_a_new_state_and_a_moved_one_is_not(tmp_path: Path) -> None:
    made = Made(tmp_path)
    file = made.parquet("a.parquet", key=made.keys, score=np.arange(N) * 1.0)
    made.run("a", metric="imported", scores=file)
    Path(file).rename(tmp_path / "b.parquet")
    made.run("b", metric="imported", scores=str(tmp_path / "b.parquet"))
    other = made.parquet("c.parquet", key=made.keys, score=np.arange(N) * 2.0)
    made.run("c", metric="imported", scores=other)
    folders = [made.bench.plan.step(name).folder.partition("@")[2] for name in ("a-table", "b-table", "c-table")]
    assert folders[0] == folders[1] != folders[2]


def test_the_cut_into_parts_decides_nothing(tmp_path: Path) -> None:
    found = []
    for number, sizes in enumerate([(N,), SIZES, (1,) * N]):
        made = Made(tmp_path / str(number), sizes)
        files = [made.parquet(f"m{m}.parquet", key=made.keys[::-1], logits=outputs(N, 3, m)[::-1]) for m in range(3)]
        found.append(made.run(metric="el2n", predictions=files))
    assert found[0] == found[1] == found[2]


def test_the_table_step_travels_to_workers(tmp_path: Path) -> None:
    """What `check` found is all that a worker needs; nothing stays open."""
    made = Made(tmp_path)
    made.run(metric="imported", scores=made.parquet("s.parquet", key=made.keys, score=np.arange(N) * 1.0))
    stage = made.bench.plan.step("score-table").stage
    again = pickle.loads(pickle.dumps(stage))
    assert again.identity() == stage.identity()
    assert [source.table.rows for source in again._sources] == [N]
