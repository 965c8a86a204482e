from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import pytest
import realdata
import tiny_teacher
import torch
from numpy.typing import NDArray
from PIL import Image

import curate
from curate.embed.lite0 import Lite0
from curate.embed.weights import fill, read_state_dict
from curate.errors import CurateError
from curate.formats.label_maps import MapsInfo, map_dtype, unpack
from curate.pipeline.api import Run, prepare
from curate.pipeline.explain import explain
from curate.relabel.annotate import Annotator, Ensemble, Preprocessing, preprocessing_of
from curate.relabel.maps import LabelMaps, top_k_batch
from curate.relabel.pooling import pool
from curate.stages.teachers import Teachers


def maps(run: Run) -> NDArray[np.void]:
    return np.concatenate(list(run.vector_parts("relabel", "maps")))


def by_key(run: Run) -> dict[str, bytes]:
    """Key -> bytes of its map, over all parts."""
    keys = run.columns("index").collect()["key"].to_list()
    rows = run.vector_rows("relabel", "maps").collect()["vector_row"].to_list()
    packed = maps(run)
    return {key: packed[row].tobytes() for key, row in zip(keys, rows, strict=True) if row is not None}


def with_relabel(spec: dict[str, Any], options: dict[str, Any], *more: Any) -> dict[str, Any]:
    return spec | {"stages": [*spec["stages"], *more, {"relabel": options}]}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return tiny_teacher.save(tmp_path_factory.mktemp("teacher") / "w.pth") | {"batch_size": 4}


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return tiny_teacher.save(tmp_path_factory.mktemp("other") / "w.pth", seed=1)


def pixels(model: Any, images: list[bytes], size: tuple[int, int] | None = None) -> torch.Tensor:
    facts = preprocessing_of(model, size)
    return torch.stack([facts(Image.open(io.BytesIO(data))) for data in images])


def test_the_mean_of_the_stored_map_is_what_the_classifier_says_of_real_photos(tmp_path: Path) -> None:
    photos = [realdata.coco() / f"{name:012d}.jpg" for name in (84477, 285, 39551)]
    members = [member for path in photos for member in corpus.sample(path.stem, path.read_bytes())]
    (tmp_path / "0.tar").write_bytes(corpus.tar_bytes(members))
    spec = {
        "name": "photos",
        "input": {"shards": f"{tmp_path}/0.tar"},
        "workspace": f"{tmp_path}/work",
        "stages": ["index", {"relabel": {"model": "packaged:efficientnet_lite0", "k": 1000}}],
    }
    scores, classes, lse = unpack(maps(curate.run(spec, workers=0)))
    assert scores.shape == (3, 1000, 7, 7)
    dense = np.zeros(scores.shape, dtype=np.float64)
    np.put_along_axis(dense, classes.astype(np.int64), scores.astype(np.float64), axis=1)
    network = Lite0().eval()
    fill(network, read_state_dict(str(realdata.lite0())), "The packaged weights")
    facts = Preprocessing((224, 224), (127 / 255,) * 3, (128 / 255,) * 3)
    with torch.inference_mode():
        own = network._fc(network(torch.stack([facts(Image.open(path)) for path in photos]))).numpy()
    assert np.abs(dense.mean(axis=(2, 3)) - own).max() < 1e-3
    np.testing.assert_allclose(np.exp(dense - lse[:, None]).sum(axis=1), 1, atol=0.02)  # float16 of scores up to 30
    best = dense.mean(axis=(2, 3)).argmax(axis=1).tolist()
    assert best == own.argmax(axis=1).tolist()
    assert best[1:] == [294, 752]  # a brown bear, a tennis racket


def test_maps_are_those_of_the_classifier_by_hand(tiny: dict[str, Any], teacher: dict[str, Any]) -> None:
    options = teacher | {"k": 3, "temperature": 2.0, "flip": True, "scales": [1.0, 0.6]}
    run = curate.run(with_relabel(tiny, options), workers=0)
    network = tiny_teacher.network(Path(teacher["checkpoint"]))
    annotator = Annotator(network, flip=True, scales=(1.0, 0.6))
    truth = top_k_batch(annotator.maps(pixels(network, [corpus.jpeg(i) for i in range(12)])).numpy(), 3, 2.0)
    found = maps(run)
    assert found.dtype == map_dtype(3, 5, 5, tiny_teacher.CLASSES)
    scores, classes, lse = unpack(found)
    assert scores.std() > 0.1
    np.testing.assert_allclose(scores.astype(np.float64), truth.scores.astype(np.float64), atol=2e-2)
    assert truth.lse is not None
    np.testing.assert_allclose(lse, truth.lse, atol=1e-3)
    assert (classes == truth.classes).mean() > 0.99
    assert run.columns("relabel").collect()["map_row"].to_list() == [0, 1, 2, 3] * 3


def test_several_teachers_are_averaged_as_probabilities(
    tiny: dict[str, Any], teacher: dict[str, Any], other: dict[str, Any]
) -> None:
    second = other | {"size": 96, "temperature": 3.0}
    first = {name: teacher[name] for name in ("model", "checkpoint")}
    run = curate.run(with_relabel(tiny, {"teachers": [first, second], "k": 2, "batch_size": 4}), workers=0)
    networks = [tiny_teacher.network(Path(one["checkpoint"])) for one in (first, second)]
    images = [corpus.jpeg(i) for i in range(12)]
    seen = [pixels(networks[0], images), pixels(networks[1], images, (96, 96))]
    both = Ensemble([Annotator(networks[0]), Annotator(networks[1], temperature=3.0)])
    truth = both.probabilities(seen).numpy()
    scores, classes, lse = unpack(maps(run))
    assert scores.shape == (12, 2, 5, 5)
    np.testing.assert_allclose(lse, -np.log(truth).mean(axis=1), rtol=1e-4)
    kept = np.take_along_axis(truth, classes.astype(np.int64), axis=1)
    np.testing.assert_allclose(np.exp(scores.astype(np.float64) - lse[:, None]), kept, rtol=1e-2, atol=1e-6)
    targets = pool(LabelMaps(scores, classes), [[0, 0, 1, 1]] * 12, tiny_teacher.CLASSES)
    centred = np.log(truth) - np.log(truth).mean(axis=1, keepdims=True)
    stored = np.where(centred >= np.sort(centred, axis=1)[:, -2:-1], centred, 0).mean(axis=(2, 3))
    np.testing.assert_allclose(targets, np.exp(stored) / np.exp(stored).sum(axis=1, keepdims=True), atol=1e-2)
    np.testing.assert_allclose(kept[:, 0], truth.max(axis=1), rtol=1e-4)
    info = MapsInfo.model_validate(run.artifacts("relabel")["label_maps"])
    assert [one.temperature for one in info.teachers] == [1.0, 3.0]
    assert [one.preparation.size for one in info.teachers] == [(160, 160), (96, 96)]
    assert len({one.weights for one in info.teachers}) == 2


def test_the_artifact_says_what_the_records_are(tiny: dict[str, Any], teacher: dict[str, Any]) -> None:
    run = curate.run(with_relabel(tiny, teacher | {"size": 224}), workers=0)
    info = MapsInfo.model_validate(run.artifacts("relabel")["label_maps"])
    assert (info.k, info.height, info.width, info.classes, info.flip, info.scales) == (5, 7, 7, 12, False, (1.0,))
    assert maps(run).dtype == info.dtype
    (one,) = info.teachers
    assert (one.name, one.preparation.size, one.preparation.interpolation) == (
        "timm/test_resnet",
        (224, 224),
        "bilinear",
    )
    assert len(one.weights) == 64
    facts = run.record.step("relabel").facts
    assert (facts["device"], facts["batch_size"], facts["rows_computed"]) == ("cpu", 4, 12)


def test_the_cut_into_parts_changes_no_map(tiny: dict[str, Any], teacher: dict[str, Any], tmp_path: Path) -> None:
    runs = []
    for size in (1, 2):
        given = {**tiny["input"], "shards_per_part": size}
        spec = with_relabel(tiny | {"input": given, "workspace": f"{tmp_path}/work-{size}"}, teacher)
        runs.append(by_key(curate.run(spec, workers=0)))
    assert runs[0] == runs[1]
    assert len(set(runs[0].values())) == 12


def test_stored_maps_are_taken_over_and_failures_are_quarantined(
    tiny: dict[str, Any], teacher: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After another filter only the missing rows are annotated, and the part is the one a fresh run writes."""
    torn = corpus.sample("t1", corpus.truncated_jpeg(1)) + corpus.sample("t2", corpus.cmyk_jpeg(77))
    (tmp_path / "shards" / "9.tar").write_bytes(corpus.tar_bytes(torn))
    keys = "key IN ('000001', '000002', '000005', '000009')"
    curate.run(with_relabel(tiny, teacher, {"filter": {"where": f"NOT ({keys})"}}), workers=0)
    counts = []
    real = Teachers.prepare
    monkeypatch.setattr(Teachers, "prepare", lambda self, image: counts.append(1) or real(self, image))
    second = with_relabel(tiny, teacher, {"filter": {"where": f"{keys} OR key > '000007'"}})
    again = curate.run(second, workers=0)
    assert len(counts) == 4
    fresh = curate.run(second | {"workspace": f"{tmp_path}/fresh"}, workers=0)
    frame = again.columns("relabel").collect()
    assert frame.equals(fresh.columns("relabel").collect())
    assert by_key(again) == by_key(fresh)
    assert again.group("relabel").counts == fresh.group("relabel").counts == {"decode_error": 1}
    bad = frame.row(12, named=True)
    assert (bad["map_row"], bad["keep"], bad["alive"]) == (None, False, False)
    assert "truncated" in bad["detail"]
    assert dict(frame.schema) == prepare(second)[1].step("relabel").stage.schema()
    (told,) = explain(again, key="t1")
    assert "decode_error" in str(told)


def test_numbers_beyond_float16_are_quarantined(tiny: dict[str, Any], tmp_path: Path) -> None:
    options = tiny_teacher.save(tmp_path / "w.pth")
    state = torch.load(tmp_path / "w.pth", weights_only=True)
    state["fc.weight"] *= 1e7
    torch.save(state, tmp_path / "w.pth")
    run = curate.run(with_relabel(tiny, options), workers=0)
    assert run.group("relabel").counts == {"bad_label_map": 12}
    assert maps(run).shape == (0,)
    assert curate.run(with_relabel(tiny, options | {"temperature": 1e7}), workers=0).record.alive == 12


def test_nothing_alive_is_no_maps_and_needs_no_weights(tiny: dict[str, Any]) -> None:
    run = curate.run(with_relabel(tiny, {"model": "resnet18"}, {"filter": {"where": "width < 0"}}), workers=0)
    assert maps(run).shape == (0,)
    assert maps(run).dtype == map_dtype(5, 7, 7, 1000)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"model": "convnext_atto"}, r"ConvNeXt cannot be a dense annotator: .* more than average pooling: head.norm"),
        ({"model": "timm/vit_tiny_patch16_224"}, "VisionTransformer cannot be a dense annotator: .* class token"),
        ({"model": "resnet19"}, "timm has no model 'resnet19'; did you mean resnet18"),
        ({"model": "resnet18", "k": 1001}, "k is 1,001, but resnet18 knows 1,000 classes; lower it"),
        ({"model": "resnet18", "checkpoint": "/none/x.pt"}, "/none/x.pt"),
        ({"model": "packaged:efficientnet_lite1"}, "did you mean efficientnet_lite0"),
        ({}, "needs either model, or teachers"),
        ({"model": "resnet18", "teachers": [{"model": "resnet18"}]}, "needs either model, or teachers"),
        ({"teachers": [{"model": "resnet18"}], "pretrained": "a1_in1k"}, "they belong to each teacher"),
        ({"model": "resnet18", "scales": [0]}, "a scale that is not above 0"),
    ],
)
def test_what_cannot_be_is_said_before_work_starts(options: dict[str, Any], text: str, tiny: dict[str, Any]) -> None:
    with pytest.raises(CurateError, match=text):
        prepare(with_relabel(tiny, options))


def test_teachers_must_know_the_same_classes(tiny: dict[str, Any], teacher: dict[str, Any]) -> None:
    first = {name: teacher[name] for name in ("model", "checkpoint")}
    with pytest.raises(CurateError, match="timm/test_resnet 12, packaged:efficientnet_lite0 1,000; they cannot be"):
        prepare(with_relabel(tiny, {"teachers": [first, {"model": "packaged:efficientnet_lite0"}]}))


def test_weights_and_preparation_decide_the_fingerprint_and_speed_does_not(
    tiny: dict[str, Any], teacher: dict[str, Any], other: dict[str, Any], tmp_path: Path
) -> None:
    def folder(**options: Any) -> str:
        return prepare(with_relabel(tiny, teacher | options))[1].step("relabel").folder

    moved = tmp_path / "moved.pth"
    moved.write_bytes(Path(teacher["checkpoint"]).read_bytes())
    same = {folder(), folder(batch_size=7, threads=2, decode_threads=3), folder(checkpoint=str(moved))}
    assert len(same) == 1
    changed = [
        {"checkpoint": other["checkpoint"]}, {"size": 192}, {"k": 4}, {"temperature": 2.0}, {"flip": True},
        {"scales": [1.0, 1.5]},
    ]  # fmt: skip
    assert len(same | {folder(**one) for one in changed}) == 7


def test_only_maps_of_several_teachers_say_how_they_are_averaged(
    tiny: dict[str, Any], teacher: dict[str, Any], other: dict[str, Any]
) -> None:
    first = {name: teacher[name] for name in ("model", "checkpoint")}
    for teachers, said in (([first], {"teachers"}), ([first, other], {"teachers", "ensemble"})):
        stage = prepare(with_relabel(tiny, {"teachers": teachers}))[1].step("relabel").stage
        assert stage.identity().keys() == said


def test_it_travels_without_the_loaded_networks(tiny: dict[str, Any], teacher: dict[str, Any]) -> None:
    stage = prepare(with_relabel(tiny, teacher))[1].step("relabel").stage
    assert stage.loaded.chunk is None
    data = pickle.dumps(stage)
    assert len(data) < 20_000
    assert "loaded" not in vars(pickle.loads(data))
    assert pickle.loads(data).info == stage.info
