"""Models against label sets: the numbers of the published files, and wrong orders that are refused."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference_data import reference
from scipy.stats import binomtest

from curate.errors import InputError
from curate.evaluate.bootstrap import Resampling
from curate.pipeline.evaluate_predictions import Against, Options, evaluate_predictions

REAL, ORDER, CLASSES = "imagenet/real.json", "imagenet/imagenet-validation-original.json", "imagenet/class_info.json"
MISTAKES = ("imagenet/vit3b_mistakes.json", "imagenet/greedy_soups_mistakes.json")
MODELS = ("alexnet", "resnet50")


@cache
def published() -> dict[str, Any]:
    against = Against(
        reference(REAL),
        order=reference(ORDER),
        classes=reference(CLASSES),
        mistakes=tuple(reference(name) for name in MISTAKES),
    )
    files = [reference(f"imagenet/predictions/{name}.npy") for name in MODELS]
    return evaluate_predictions(files, against, Options(Resampling(200)))


def model(name: str) -> dict[str, Any]:
    found: dict[str, Any] = published()["models"][MODELS.index(name)]
    return found


def test_histogram_and_shares_of_real() -> None:
    labels = published()["labels"]
    assert labels["by_number"] == [3163, 39394, 5408, 1319, 411, 161, 88, 41, 13, 2]
    assert (labels["images"], labels["empty"], labels["labels"], labels["classes"]) == (50_000, 3163, 57_553, 1000)
    assert labels["mean"] == pytest.approx(1.22879, abs=5e-6)
    assert labels["several"] == pytest.approx(0.1589, abs=5e-5)


def test_real_against_the_original_labels() -> None:
    told = published()["disagreement"]
    counts = {"same": 35_716, "multi_with": 6448, "multi_without": 995, "other": 3678, "none": 3163}
    assert told["counts"] == counts
    assert told["agreement"] == 42_164 / 46_837
    first = told["confusions"][0]
    assert (first["first_name"], first["second_name"], first["images"]) == ("ram", "bighorn", 20)


@pytest.mark.parametrize(
    ("name", "percent"),
    [("alexnet", (56.518, 79.070, 63.061, 83.630)), ("resnet50", (76.130, 92.862, 82.958, 95.469))],
)
def test_accuracies_of_published_models(name: str, percent: tuple[float, ...]) -> None:
    metrics = model(name)["metrics"]
    for key, expected in zip(("top1", "top5", "real1", "real5"), percent, strict=True):
        found = metrics[key]
        assert round(100 * found["value"], 3) == expected
        assert found["low"] < found["value"] < found["high"]
        width = 1.96 * (found["value"] * (1 - found["value"]) / found["images"]) ** 0.5
        assert found["high"] - found["low"] == pytest.approx(2 * width, rel=0.25)


@pytest.mark.parametrize(
    ("name", "by_number", "uniform", "pooled", "exact"),
    [
        (
            "resnet50",
            (0.8515, 0.6121, 0.5107, 0.4787, 0.4907),
            0.5888,
            0.8096,
            (0.8515, 0.3737, 0.1410, 0.0535, 0.0248),
        ),
        ("alexnet", (0.6615, 0.4062, 0.3202, 0.2926, 0.3391), 0.4039, 0.6179, None),
    ],
)
def test_variable_top_k(
    name: str, by_number: tuple[float, ...], uniform: float, pooled: float, exact: tuple[float, ...] | None
) -> None:
    told = model(name)
    rows = told["subgroups"][:5]
    assert tuple(round(row["variable"]["value"], 4) for row in rows) == by_number
    assert told["metrics"]["variable_uniform"]["value"] == pytest.approx(uniform, abs=6e-5)
    assert told["metrics"]["variable_pooled"]["value"] == pytest.approx(pooled, abs=6e-5)
    if exact:
        assert tuple(round(row["exact"]["value"], 4) for row in rows) == exact
    assert told["beyond"] == 88 + 41 + 13 + 2
    assert told["subgroups"][5]["variable"] is None


def test_accuracy_by_number_of_labels() -> None:
    rows = model("resnet50")["subgroups"][:5]
    assert [round(row["top1"]["value"], 4) for row in rows] == [0.8497, 0.4778, 0.3715, 0.3212, 0.2733]
    assert [round(row["real1"]["value"], 4) for row in rows] == [0.8515, 0.7200, 0.6869, 0.6764, 0.6894]


def test_lists_of_mistakes() -> None:
    vit, soups = published()["mistakes"]
    totals = {name: sum(row.values()) for name, row in vit["by_category"].items()}
    assert totals == {
        "Fine-grained error": 241,
        "Fine-grained error with OOV": 54,
        "Spurious Correlation": 52,
        "Non-prototypical": 30,
        "Fine-grained with Multilabel Options": 1,
    }
    assert vit["by_severity"] == {"Major": 154, "Minor": 150, "Borderline": 74}
    assert vit["by_severity_folded"] == {"Major": 154, "Minor": 224}
    totals = {name: sum(row.values()) for name, row in soups["by_category"].items()}
    assert totals == {
        "Fine-grained error": 172,
        "Spurious Correlation": 32,
        "Fine-grained error with OOV": 26,
        "Non-prototypical": 19,
    }
    assert soups["by_severity"] == {"Major": 89, "Minor": 111, "Borderline": 49}
    assert vit["with_labels"] == {"images": 378, "right": 85, "without_labels": 64}
    assert soups["with_labels"] == {"images": 249, "right": 67, "without_labels": 52}
    assert list(vit["shared"].values()) == list(soups["shared"].values()) == [164]


def test_the_published_arrays_in_the_order_of_file_names_are_refused() -> None:
    against = Against(reference(REAL), order="by-name", original=reference(ORDER))
    with pytest.raises(InputError) as refused:
        evaluate_predictions([reference("imagenet/predictions/resnet50.npy")], against, Options(Resampling(0)))
    said = str(refused.value)
    assert "for 0.11% of the images, as predictions of other images would (0.10%)" in said
    assert "sorted by original class, then by file name they would agree for 76.13%" in said
    alone = Against(reference(REAL), order="by-name")
    with pytest.raises(InputError, match="the rows are not in the order that was said"):
        evaluate_predictions([reference("imagenet/predictions/resnet50.npy")], alone, Options(Resampling(0)))


# --- small files ------------------------------------------------------------------------------------------------------

N = 300


def small(folder: Path, *, seed: int = 0) -> tuple[Against, str, np.ndarray[Any, Any]]:
    """300 images of 10 classes, a model that is right for most, rows in the order of a list that is not sorted."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 10, N)
    names = [f"{number:04d}.jpg" for number in rng.permutation(N)]
    best = np.where(rng.random(N) < 0.8, truth, (truth + 1) % 10)
    np.save(folder / "p.npy", np.stack([best, (best + 5) % 10], axis=1))
    (folder / "order.json").write_text(json.dumps(names))
    lines = [f"{name},{label},{label},,,False" for name, label in sorted(zip(names, truth.tolist(), strict=True))]
    head = "id,original_label,proposed_labels,unclear_multi_labels,wrong_multi_labels,is_problematic"
    (folder / "labels.csv").write_text("\n".join([head, *lines]) + "\n")
    against = Against(str(folder / "labels.csv"), order=str(folder / "order.json"))
    return against, str(folder / "p.npy"), best == truth


def test_reviewed_labels_give_multi_label_accuracy(tmp_path: Path) -> None:
    against, file, right = small(tmp_path)
    told = evaluate_predictions([file], against, Options(Resampling(50)))["models"][0]
    assert told["order"]["verdict"] == "right"
    metrics = told["metrics"]
    for name in ("top1", "real1", "multi_label_by_image", "multi_label_by_image_strict", "variable_pooled"):
        assert metrics[name]["value"] == pytest.approx(right.mean()), name
    assert metrics["unreviewed"]["value"] == pytest.approx(1 - right.mean())
    assert "top5" not in metrics  # the file has two predictions an image
    json.dumps(told, allow_nan=False)


def test_shuffled_rows_are_refused_unless_trusted(tmp_path: Path) -> None:
    against, file, _ = small(tmp_path)
    wrong = Against(against.labels, order="by-name")
    with pytest.raises(InputError, match="the rows are not in the order that was said"):
        evaluate_predictions([file], wrong)
    told = evaluate_predictions([file], wrong, Options(Resampling(0), trust_order=True))
    assert told["models"][0]["order"]["verdict"] == "wrong"


def test_images_without_predictions_are_refused_unless_allowed(tmp_path: Path) -> None:
    against, file, right = small(tmp_path)
    names = json.loads((tmp_path / "order.json").read_text())
    np.save(file, np.load(file)[:200])
    (tmp_path / "order.json").write_text(json.dumps(names[:200]))
    with pytest.raises(InputError, match=r"has no predictions for 100 of 300 images \("):
        evaluate_predictions([file], against)
    told = evaluate_predictions([file], against, Options(Resampling(0), allow_missing=True))["models"][0]
    assert (told["images"], told["missing"], told["unused"]) == (200, 100, 0)
    assert told["metrics"]["top1"]["value"] == pytest.approx(right[:200].mean())
    (tmp_path / "order.json").write_text(json.dumps([f"other{number}" for number in range(200)]))
    with pytest.raises(InputError, match="predicts none of the images of"):
        evaluate_predictions([file], against)


def test_original_labels_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    against, file, _ = small(tmp_path)
    (tmp_path / "o.txt").write_text("".join(f"{number:04d}.jpg 3\n" for number in range(N)))
    other = Against(against.labels, order=against.order, original=str(tmp_path / "o.txt"))
    with pytest.raises(InputError, match=r"gives 2\d\d images another original label than .*labels\.csv, the first"):
        evaluate_predictions([file], other)


def test_ids_of_a_few_classes_cannot_number_all_classes(tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(4)]
    (tmp_path / "order.json").write_text(json.dumps([[name, f"n0000000{i % 2}"] for i, name in enumerate(names)]))
    (tmp_path / "labels.csv").write_text("id,proposed_labels\n" + "".join(f"{name},7\n" for name in names))
    np.save(tmp_path / "p.npy", np.full((4, 1), 7))
    against = Against(str(tmp_path / "labels.csv"), order=str(tmp_path / "order.json"))
    with pytest.raises(InputError, match=r"holds the class 7, but .*order\.json names only 2 classes"):
        evaluate_predictions([str(tmp_path / "p.npy")], against)


# --- two models -------------------------------------------------------------------------------------------------------


def comparison(files: Path, against: Against, other: str, **how: Any) -> dict[str, Any]:
    options = Options(Resampling(how.pop("resamples", 200)), **how)
    told = evaluate_predictions([str(files / "p.npy")], against, options, [other])["comparisons"]
    json.dumps(told, allow_nan=False)
    found: dict[str, Any] = told[0]
    return found


def test_published_models_compared_image_by_image() -> None:
    against = Against(reference(REAL), order=reference(ORDER), classes=reference(CLASSES))
    alexnet, resnet, densenet = (
        reference(f"imagenet/predictions/{name}.npy") for name in ("alexnet", "resnet50", "densenet161")
    )
    told = evaluate_predictions([resnet], against, Options(Resampling(300)), [alexnet, densenet])["comparisons"]
    assert [(one["file"], one["against"]) for one in told] == [(resnet, alexnet), (resnet, densenet)]
    top1 = told[0]["metrics"]["top1"]
    assert round(100 * top1["difference"]["value"], 3) == 19.612  # 76.130 - 56.518
    names = json.loads(Path(reference(ORDER)).read_text())["image_filenames"]
    classes = sorted({wnid for _, wnid in names})
    truth = np.array([classes.index(wnid) for _, wnid in names])
    one, two = (np.load(file)[:, 0] == truth for file in (resnet, densenet))
    found = told[1]["metrics"]["top1"]
    counts = found["counts"]
    assert [counts[key] for key in ("both", "only_this", "only_other", "neither")] == [
        (one & two).sum(), (one & ~two).sum(), (~one & two).sum(), (~one & ~two).sum(),
    ]  # fmt: skip
    assert counts["p"] == pytest.approx(binomtest(int((one & ~two).sum()), int((one != two).sum()), 0.5).pvalue)
    gap = one.astype(float) - two
    half = 1.96 * gap.std() / 50_000**0.5
    assert found["difference"]["low"] == pytest.approx(gap.mean() - half, abs=0.15 * half)
    assert found["difference"]["high"] == pytest.approx(gap.mean() + half, abs=0.15 * half)
    assert {one["verdict"] for one in told[0]["metrics"].values()} == {"better"}
    assert {one["verdict"] for one in told[1]["metrics"].values()} == {"worse"}


def test_a_file_against_itself_differs_in_nothing(tmp_path: Path) -> None:
    against, file, right = small(tmp_path)
    told = comparison(tmp_path, against, file)
    assert (told["images"], told["left_out"], told["same_best"], told["width"]) == (N, 0, N, 2)
    assert list(told["metrics"]) == list(evaluate_predictions([file], against)["models"][0]["metrics"])
    for name, found in told["metrics"].items():
        assert found["difference"] == {"value": 0, "low": 0, "high": 0, "images": found["difference"]["images"]}, name
        assert found["verdict"] == "no difference shown"
        if name in ("top1", "real1", "multi_label_by_image"):
            assert found["counts"] == {
                "both": right.sum(), "only_this": 0, "only_other": 0, "neither": N - right.sum(), "p": 1,
            }  # fmt: skip
    assert told["metrics"]["multi_label_by_class"]["counts"] is None
    assert evaluate_predictions([file], against)["comparisons"] == []


def test_models_are_compared_on_images_and_predictions_that_both_have(tmp_path: Path) -> None:
    against, _, right = small(tmp_path)
    names = json.loads((tmp_path / "order.json").read_text())
    first = np.load(tmp_path / "p.npy")
    truth = np.where(right, first[:, 0], (first[:, 0] - 1) % 10)
    rows = "".join(f"{names[row]},{truth[row]}\n" for row in range(N - 1, 49, -1))
    (tmp_path / "q.csv").write_text("name,top1\n" + rows)
    with pytest.raises(InputError, match=r"q\.csv: has no predictions for 50 of 300 images"):
        comparison(tmp_path, against, str(tmp_path / "q.csv"))
    told = comparison(tmp_path, against, str(tmp_path / "q.csv"), allow_missing=True)
    assert (told["images"], told["left_out"], told["width"]) == (250, 50, 1)
    found = told["metrics"]["top1"]
    assert (found["this"], found["other"]) == (pytest.approx(right[50:].mean()), 1)
    assert found["counts"]["only_other"] == (~right[50:]).sum() == told["images"] - told["same_best"]
    assert found["verdict"] == "worse"
    assert told["metrics"]["unreviewed"]["verdict"] == "more"
    assert told["metrics"]["variable_exact"]["verdict"] == "worse"
    bare = comparison(tmp_path, against, str(tmp_path / "q.csv"), allow_missing=True, resamples=0)["metrics"]
    assert (bare["top1"]["verdict"], bare["variable_pooled"]["verdict"]) == ("worse", None)


def test_models_of_different_images_are_refused(tmp_path: Path) -> None:
    against, _, _ = small(tmp_path)
    names = json.loads((tmp_path / "order.json").read_text())
    best = np.load(tmp_path / "p.npy")[:, 0]
    files = []
    for number, rows in enumerate((range(150), range(150, N))):
        files.append(str(tmp_path / f"half{number}.csv"))
        Path(files[-1]).write_text("name,top1\n" + "".join(f"{names[row]},{best[row]}\n" for row in rows))
    options = Options(Resampling(0), allow_missing=True)
    with pytest.raises(InputError, match=r"half0\.csv and .*half1\.csv predict none of the same images"):
        evaluate_predictions(files[:1], against, options, files[1:])
    np.save(tmp_path / "short.npy", np.load(tmp_path / "p.npy")[:-1])
    with pytest.raises(InputError, match=r"short\.npy: has 299 rows, .*order\.json lists 300 images"):
        comparison(tmp_path, against, str(tmp_path / "short.npy"))
    np.save(tmp_path / "mixed.npy", np.load(tmp_path / "p.npy")[::-1])
    with pytest.raises(InputError, match=r"mixed\.npy: .* the rows are not in the order that was said"):
        comparison(tmp_path, against, str(tmp_path / "mixed.npy"))


@pytest.mark.parametrize("classes", [8, 10, 12])
def test_classes_that_one_model_cannot_say_are_refused_where_images_have_them(tmp_path: Path, classes: int) -> None:
    against, file, _ = small(tmp_path)
    best = np.load(file)[:, 0]
    scores = np.random.default_rng(3).random((N, classes))
    scores[np.arange(N)[best < classes], best[best < classes]] = 2
    np.save(tmp_path / "q.npy", scores)
    if classes < 10:
        with pytest.raises(InputError, match=r"q\.npy: has scores of 8 classes, .*p\.npy predicts at least 10, .* 9,"):
            comparison(tmp_path, against, str(tmp_path / "q.npy"))
        with pytest.raises(InputError, match=r"q\.npy: has scores of 8 classes"):
            evaluate_predictions([str(tmp_path / "q.npy")], against, Options(Resampling(0)), [file])
    else:
        assert comparison(tmp_path, against, str(tmp_path / "q.npy"))["same_best"] == N
