from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import polars as pl
import pytest
import tiny_teacher

import curate
from curate.cli.main import main
from curate.errors import CurateError, ExitCode
from curate.evaluate.bootstrap import Resampling
from curate.formats.decisions import decision_line
from curate.formats.label_sets import read_label_sets
from curate.formats.row_orders import read_order
from curate.pipeline.api import Run
from curate.pipeline.evaluate_labels import LabelFiles, evaluate_labels
from curate.pipeline.label_export import Format, export_labels
from curate.store.uids import format_uid

PERFECT = {"precision": 1.0, "recall": 1.0, "f1": 1.0, "jaccard": 1.0, "exact_set": 1.0, "macro_f1": 1.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """12 samples, of which a filter drops some after label_sets."""
    folder = tmp_path_factory.mktemp("export")
    corpus.write_good_shards(folder / "shards", shards=3, samples=4)
    teacher = tiny_teacher.save(folder / "w.pth") | {"batch_size": 4, "temperature": 2.0}
    sets = {"keep": 0.35, "least": 0.0, "drop": 0.1}
    dropping = {"filter": {"where": "not suspect"}}
    return curate.run(
        {
            "name": "export",
            "input": {"shards": f"{folder}/shards/*.tar", "shards_per_part": 1},
            "workspace": str(folder / "work"),
            "stages": ["index", {"relabel": teacher}, {"label_sets": sets}, dropping, "release"],
        },
        workers=0,
    )  # fmt: skip


def truth(run: Run) -> pl.DataFrame:
    """key, uid, label and the kept classes of the samples that the run leaves alive."""
    frame = pl.concat([run.columns(name).collect() for name in ("index", "label_sets")], how="horizontal")
    frame = frame.filter(~pl.col("suspect"))
    kept = [[one["class"] for one in labels if one["decision"] == "keep"] for labels in frame["labels"]]
    uids = [format_uid(*row) for row in frame.select("uid_hi", "uid_lo").iter_rows()]
    return frame.select("key", "label", "labels", pl.Series("uid", uids), pl.Series("kept", kept))


def sources(run: Run) -> list[str]:
    assert run.release is not None
    return [run.workspace.url, run.release]


def test_what_is_exported_is_what_was_kept(run: Run, tmp_path: Path) -> None:
    frame = truth(run)
    assert 0 < len(frame) < 12
    wanted = dict(zip(frame["key"].to_list(), frame["kept"].to_list(), strict=True))
    for source in sources(run):
        for form, ending in (("real", "json"), ("csv", "csv"), ("npz", "npz")):
            path = f"{tmp_path}/sets.{ending}"
            told = export_labels(source, path, form)  # type: ignore[arg-type]
            order = None if told.order is None else read_order(told.order)
            read = read_label_sets(path, order)
            found = dict(zip(read.names, read.labels, strict=True))
            if form == "npz":
                assert found == {key: sorted(labels) for key, labels in wanted.items()}
                assert read.classes == tiny_teacher.CLASSES
            else:
                assert found == wanted
            if form != "real":
                assert read.original == [int(label) for label in _labels(frame, read.names)]
            assert (told.images, told.labels, told.unlabelled) == (len(frame), sum(map(len, wanted.values())), 0)
            if source == run.workspace.url:
                assert list(read.names) == frame["key"].to_list()


def _labels(frame: pl.DataFrame, names: tuple[str, ...]) -> list[str]:
    known = dict(frame.select("key", "label").iter_rows())
    return [known[name] for name in names]


@pytest.mark.parametrize(("form", "ending"), [("real", "json"), ("csv", "csv"), ("npz", "npz")])
def test_curate_evaluate_reads_it_back_with_perfect_scores(run: Run, tmp_path: Path, form: Format, ending: str) -> None:
    path = f"{tmp_path}/sets.{ending}"
    told = export_labels(run.workspace.url, path, form)
    report = evaluate_labels(LabelFiles(path, path, told.order), how=Resampling(0, 0), limit=5)
    measures = report["truth"]["measures"]
    assert report["labels"]["images"] == told.images
    assert report["labels"]["labels"] == told.labels
    known = {name: measures[name]["value"] for name in PERFECT}
    assert known == PERFECT


def test_json_lines_say_all_that_is_known(run: Run, tmp_path: Path) -> None:
    frame = truth(run)
    names = [{"cid": c, "wnid": f"n{c:08d}", "synset": [f"thing {c}"]} for c in range(12)]
    (tmp_path / "classes.json").write_text(json.dumps(names))
    for source in sources(run):
        export_labels(source, f"{tmp_path}/sets.jsonl", "jsonl", names="uid", classes=f"{tmp_path}/classes.json")
        told = [json.loads(line) for line in (tmp_path / "sets.jsonl").read_text().splitlines()]
        by_key = {one["key"]: one for one in told}
        assert set(by_key) == set(frame["key"])
        for row in frame.iter_rows(named=True):
            one = by_key[row["key"]]
            assert (one["name"], one["uid"], one["original"]) == (row["uid"], row["uid"], row["label"])
            assert (one["outcome"], one["empty"], one["calibrator"]) == ("labelled", False, None)
            assert [label["class"] for label in one["labels"]] == [label["class"] for label in row["labels"]]
            for label, stored in zip(one["labels"], row["labels"], strict=True):
                assert np.float32(label["probability"]) == np.float32(stored["probability"])
                assert label["name"] == f"thing {stored['class']}"
                assert (label["box"] is None) == (label["peak"] is None) == (stored["y0"] is None)


def test_rows_follow_the_order_that_is_given(run: Run, tmp_path: Path) -> None:
    frame = truth(run)
    keys = frame["key"].to_list()
    wanted = [f"val/{key}.JPEG" for key in keys[::-2]]
    (tmp_path / "order.json").write_text(json.dumps(wanted))
    for source in sources(run):
        told = export_labels(source, f"{tmp_path}/real.json", "real", order=f"{tmp_path}/order.json")
        assert json.loads((tmp_path / "real.json").read_text()) == frame["kept"].to_list()[::-2]
        assert json.loads((tmp_path / "real.json.order.json").read_text()) == wanted
        assert (told.left_out, told.missing) == (len(keys) - len(wanted), 0)
    (tmp_path / "order.json").write_text(json.dumps([*wanted, "val/elsewhere.JPEG"]))
    with pytest.raises(CurateError, match=r"lacks 1 of .* \(val/elsewhere.JPEG\); add --allow-missing"):
        export_labels(run.workspace.url, f"{tmp_path}/real.json", "real", order=f"{tmp_path}/order.json")
    told = export_labels(
        run.workspace.url, f"{tmp_path}/real.json", "real", order=f"{tmp_path}/order.json", allow_missing=True
    )
    assert json.loads((tmp_path / "real.json").read_text())[-1] == []
    assert (told.missing, told.unlabelled) == (1, 1)


def test_labels_that_people_refused_are_the_wrong_ones_of_the_csv(run: Run, tmp_path: Path) -> None:
    frame = truth(run)
    unsure = frame.explode("labels", empty_as_null=False).unnest("labels").filter(pl.col("decision") == "unsure")
    row = unsure.row(0, named=True)
    path = tmp_path / "votes.jsonl"
    path.write_bytes(b"".join(decision_line(row["uid"], row["class"], "no", rater) for rater in "abc"))
    spec: Any = run.record.spec
    stages = [*spec["stages"][:-2]]
    stages[-1] = {"label_sets": stages[-1]["label_sets"] | {"votes": str(path)}}
    voted = curate.run({**spec, "stages": stages, "workspace": f"{tmp_path}/work"}, workers=0)
    export_labels(voted.workspace.url, f"{tmp_path}/sets.csv", "csv")
    read = read_label_sets(f"{tmp_path}/sets.csv")
    at = read.names.index(row["key"])
    assert read.wrong is not None
    assert read.unclear is not None
    assert read.wrong[at] == [row["class"]]
    assert row["class"] not in read.unclear[at]
    assert sum(map(len, read.wrong)) == 1
    assert len(read.names) == 12  # without the filter all are alive


def test_what_cannot_be_exported_is_refused(run: Run, tiny: dict[str, Any], tmp_path: Path) -> None:
    to = f"{tmp_path}/x"
    with pytest.raises(CurateError, match=r"holds neither run\.json nor manifest\.json"):
        export_labels(str(tmp_path), to, "real")
    with pytest.raises(CurateError, match="--format xml is not known"):
        export_labels(run.workspace.url, to, "xml")  # type: ignore[arg-type]
    with pytest.raises(CurateError, match="no finished label_sets step named other; it has label_sets"):
        export_labels(run.workspace.url, to, "real", step="other")
    assert run.release is not None
    with pytest.raises(CurateError, match="is a release, whose labels are of one step"):
        export_labels(run.release, to, "real", step="label_sets")
    (tmp_path / "order.json").write_text('["a", "b"]')
    with pytest.raises(CurateError, match=r"lacks 2 of 2 images of .*; are they of the same set"):
        export_labels(run.workspace.url, to, "real", order=f"{tmp_path}/order.json", allow_missing=True)
    bare = curate.run(tiny | {"stages": ["index", "release"]}, workers=0)
    assert bare.release is not None
    with pytest.raises(CurateError, match="no finished label_sets step; add one"):
        export_labels(bare.workspace.url, to, "real")
    with pytest.raises(CurateError, match="has no labels; export from a release of a pipeline with label_sets"):
        export_labels(bare.release, to, "real")
    assert not Path(to).exists()


def test_the_command(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    command = ["curate", "labels", "export", run.workspace.url, f"{tmp_path}/real.json", "--format", "real"]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert f"{len(truth(run))} image" in out
    assert "real.json.order.json: the images of its rows" in out
    monkeypatch.setattr("sys.argv", [*command, "--names", "number"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == ExitCode.SPEC
    assert "--names number is not known; give key or uid" in capsys.readouterr().err
