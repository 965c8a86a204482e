"""The stage `fractal`: what its shards hold, and that they are the same however they come about."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import webdataset as wds
from PIL import Image

import curate
from curate.errors import SpecError, StorageError
from curate.fractal.families.choose import open_family
from curate.fractal.image import members
from curate.fractal.specification import Specification
from curate.pipeline.api import Run, prepare
from curate.pipeline.verify import verify_release
from curate.stages.fractal import TABLE
from curate.store.manifest import read_manifest
from curate.store.workspace import Workspace

CLASSES, IMAGES = 7, 40
SIZES = {"00000.tar": 13, "00001.tar": 13, "00002.tar": 14}
IFS = {"points": 200, "gates": {"fill": [0.0, 1.0]}}


def pipeline(work: Path, **options: Any) -> dict[str, Any]:
    """40 tiny images in three shards."""
    given = {"ifs": IFS, "classes": CLASSES, "images": IMAGES, "size": 32, "samples_per_shard": 16}
    return {"name": "few", "workspace": str(work), "seed": 3, "stages": [{"fractal": given | options}]}


def run(work: Path, limit_shards: int | None = None, **options: Any) -> Run:
    return curate.run(pipeline(work, **options), workers=0, limit_shards=limit_shards)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(tmp_path_factory.mktemp("fractal") / "work")


@pytest.fixture
def work(made: Run, tmp_path: Path) -> Path:
    """The finished run, to be damaged."""
    shutil.copytree(made.workspace.url, tmp_path / "work")
    return tmp_path / "work"


def folder(of: Run) -> Path:
    return Path(str(of.release))


def contents(of: Path) -> dict[str, str]:
    """sha256 of every file, hidden ones too."""
    files = sorted(path for path in of.rglob("*") if path.is_file())
    return {path.relative_to(of).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def samples(tar: Path) -> dict[str, dict[str, bytes]]:
    """uid -> extension -> bytes, in order."""
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(tar) as archive:
        for member in archive:
            key, _, ext = member.name.partition(".")
            handle = archive.extractfile(member)
            assert handle is not None
            found.setdefault(key, {})[ext] = handle.read()
    return found


def all_samples(of: Path) -> dict[str, dict[str, bytes]]:
    return {key: found for tar in sorted(of.glob("*.tar")) for key, found in samples(tar).items()}


def table(of: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(path) for path in sorted((of / "samples.parquet").iterdir())])


# --- what is in it ----------------------------------------------------------------------------------------------------


def test_webdataset_reads_images_and_classes_in_order(made: Run) -> None:
    shards = [str(tar) for tar in sorted(folder(made).glob("*.tar"))]
    data = list(wds.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("__key__", "jpg", "cls", "json"))
    assert [label for _, _, label, _ in data] == [i % CLASSES for i in range(IMAGES)]
    assert {(image.mode, image.size) for _, image, _, _ in data} == {("RGB", (32, 32))}
    assert [known["index"] for _, _, _, known in data] == list(range(IMAGES))
    assert all(key == known["uid"] for key, _, _, known in data)
    assert len({key for key, *_ in data}) == IMAGES


def test_the_tables_name_what_the_shards_hold(made: Run) -> None:
    here, rows = folder(made), table(folder(made))
    assert dict(rows.schema) == TABLE
    assert rows["uid"].to_list() == list(all_samples(here))
    assert rows["index"].to_list() == list(range(IMAGES))
    assert rows["key"].to_list() == [str(i) for i in range(IMAGES)]
    assert rows["label"].to_list() == [str(i % CLASSES) for i in range(IMAGES)]
    assert rows["labels"].to_list() == [[i % CLASSES] for i in range(IMAGES)]
    assert rows.group_by("shard", maintain_order=True).len().rows() == list(SIZES.items())
    assert json.loads((here / "sizes.json").read_text()) == SIZES
    for found, (sha256, *shape) in zip(
        all_samples(here).values(), rows.select("sha256", "format", "width", "height").iter_rows(), strict=True
    ):
        image = Image.open(io.BytesIO(found["jpg"]))
        assert hashlib.sha256(found["jpg"]).hexdigest() == sha256
        assert [str(image.format).lower(), *image.size] == shape


def test_each_image_is_made_again_from_the_specification_and_the_classes_beside_it(made: Run) -> None:
    here = folder(made)
    spec = Specification.model_validate_json((here / "specification.json").read_bytes(), strict=True)
    family = open_family(spec.options, pl.read_parquet(here / "systems.parquet"))
    # backwards: none depends on the one before
    again = {i: members(spec, family, i) for i in reversed(range(IMAGES))}
    assert [again[i] for i in range(IMAGES)] == list(all_samples(here).values())


def test_verify_passes_and_names_what_is_changed(work: Path, made: Run) -> None:
    assert verify_release(Workspace(str(folder(made)))).violations == []
    release = work / folder(made).name
    manifest = read_manifest(Workspace(str(release)))
    assert (manifest.samples, manifest.dropped_samples, manifest.shards) == (IMAGES, 0, 3)
    systems = pl.read_parquet(release / "systems.parquet")
    systems.head(6).write_parquet(release / "systems.parquet")
    (release / "README.md").write_text("other words")
    (release / "notes.txt").write_text("mine")
    found = verify_release(Workspace(str(release))).violations
    assert {violation.file for violation in found} == {"systems.parquet", "README.md", "notes.txt"}


def test_the_card_tells_counts_and_how_to_read_it(made: Run) -> None:
    card = (folder(made) / "README.md").read_text()
    assert "40 synthetic images of 7 classes" in card
    assert "{00000..00002}.tar" in card
    (code,) = (piece.split("```")[0] for piece in card.split("```python\n")[1:])
    compile(code, "card", "exec")


def test_a_second_pipeline_reads_the_shards(made: Run, tmp_path: Path) -> None:
    spec = {
        "name": "second",
        "input": {"shards": f"{folder(made)}/*.tar"},
        "workspace": str(tmp_path / "second"),
        "stages": ["index"],
    }
    rows = curate.run(spec, workers=0).columns("index").collect()
    assert rows["status"].unique().to_list() == ["ok"]
    assert rows["label"].to_list() == [str(i % CLASSES) for i in range(IMAGES)]
    first = f"{rows['uid_hi'][0]:016x}{rows['uid_lo'][0]:016x}"
    assert first == table(folder(made))["uid"][0]


def test_scenes_have_lists_of_classes_and_no_class_member(tmp_path: Path) -> None:
    here = folder(run(tmp_path / "work", scene={"objects": [1, 3]}, images=12, format="png"))
    found = list(all_samples(here).values())
    assert all(set(one) == {"png", "json"} for one in found)
    rows = table(here)
    assert rows["label"].null_count() == 12
    assert rows["labels"].to_list() == [json.loads(one["json"])["labels"] for one in found]
    assert verify_release(Workspace(str(here))).ok
    assert '"png", "json"' in (here / "README.md").read_text()


# --- the same however it comes about ----------------------------------------------------------------------------------


def test_cuts_change_no_image(made: Run, tmp_path: Path) -> None:
    here = folder(run(tmp_path / "work", samples_per_shard=9))
    assert sorted(json.loads((here / "sizes.json").read_text()).values()) == [8] * 5
    assert all_samples(here) == all_samples(folder(made))


def test_a_run_that_was_stopped_goes_on_shard_by_shard(made: Run, work: Path) -> None:
    release, (steps,) = work / folder(made).name, work.glob("fractal-work@*")
    whole = contents(release)
    for path in [*steps.glob("finished.*"), *steps.glob("shard-00001.*"), release / "manifest.json"]:
        path.unlink()
    (release / "00001.tar").unlink()
    (release / ".00001.tar.0123abcd.tmp").write_bytes(b"half a shard")
    kept = (release / "00000.tar").stat().st_mtime_ns
    again = run(work)
    assert contents(release) == whole
    assert (release / "00000.tar").stat().st_mtime_ns == kept
    assert again.record.steps[0].reused_parts == 2


def test_a_shard_that_is_gone_is_told_and_made_again(made: Run, work: Path) -> None:
    release, (steps,) = work / folder(made).name, work.glob("fractal-work@*")
    whole = contents(release)
    next(steps.glob("finished.*")).unlink()
    (release / "00002.tar").unlink()
    with pytest.raises(StorageError, match=r"lost 00002\.tar while the dataset was written; run again"):
        run(work)
    run(work)
    assert contents(release) == whole


def test_a_finished_dataset_is_taken_as_it_is(made: Run, work: Path) -> None:
    again = run(work)
    assert again.record.steps[0].reused_parts == 3
    assert again.record.rows == IMAGES


def test_what_decides_pixels_or_names_makes_another_dataset(made: Run, tmp_path: Path) -> None:
    def place(**changes: Any) -> str:
        _, plan = prepare(pipeline(tmp_path) | changes)
        return plan.steps[0].folder

    assert place() == made.record.steps[0].folder
    assert len({place(), place(seed=4), place(name="other"), place(stages=[{"fractal": {"ifs": {}}}])}) == 4


def test_runs_of_other_options_have_other_plans(tmp_path: Path) -> None:
    plans = {prepare(pipeline(tmp_path, images=n))[1].fingerprint for n in (10, 11)}
    assert len(plans) == 2


# --- pilots and places ------------------------------------------------------------------------------------------------


def test_a_pilot_makes_the_first_shards_and_is_not_in_the_way(made: Run, tmp_path: Path) -> None:
    to = str(tmp_path / "out")
    pilot = run(tmp_path / "work", limit_shards=2, to=to)
    assert not Path(to).exists()
    assert pilot.record.rows == 26
    here = folder(pilot)
    assert [(here / name).read_bytes() for name in list(SIZES)[:2]] == [
        (folder(made) / name).read_bytes() for name in list(SIZES)[:2]
    ]
    assert verify_release(Workspace(str(here))).ok
    assert "the first of 40" in (here / "README.md").read_text()
    whole = run(tmp_path / "work", to=to)
    assert whole.release == to
    assert all_samples(Path(to)) == all_samples(folder(made))
    # as many shards as there are is the whole
    assert run(tmp_path / "work", limit_shards=3, to=to).release == to


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"already holds mine\.txt; choose another folder with `to`"):
        run(tmp_path / "work", to=str(tmp_path / "out"))
    assert contents(tmp_path / "out").keys() == {"mine.txt"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sample": 0.5}, "--sample takes a share of an input, and fractal makes its samples"),
        ({"deny": ["x.txt"]}, "give them to a second pipeline that reads its shards"),
    ],
)
def test_options_of_a_run_that_have_no_meaning_are_refused(tmp_path: Path, given: Any, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        curate.run(pipeline(tmp_path), workers=0, **given)


def test_too_many_shards_are_refused_with_the_line_of_the_stage() -> None:
    text = "name: x\nworkspace: w\nstages:\n  - fractal: {ifs: {}, images: 1000001, samples_per_shard: 1}\n"
    with pytest.raises(SpecError, match=r"^<text>:4:5: .*would write 1,000,001 shards.*raise samples_per_shard"):
        prepare(text)


@pytest.mark.parametrize(
    ("ifs", "said"),
    [
        ("{maps: [2, 4], sigma: [5.5, 6.0]}", "a sigma-factor up to 6, and that of 2 maps lies below 6"),
        ("{gates: {fill: [0.5, 0.1]}}", "a fill of at least 0.5 and at most 0.1, which no class has"),
    ],
)
def test_classes_that_cannot_be_are_refused_before_work_starts(ifs: str, said: str) -> None:
    text = f"name: x\nworkspace: w\nstages:\n  - fractal: {{ifs: {ifs}}}\n"
    with pytest.raises(SpecError, match=rf"^<text>:4:5: .*{said}"):
        prepare(text)


def test_images_that_show_no_class_are_told(tmp_path: Path) -> None:
    outlook = prepare(pipeline(tmp_path, images=5))[1].steps[0].stage.outlook()  # type: ignore[attr-defined]
    assert outlook.warnings == ("fractal makes 5 images of 7 classes: some have none",)


@pytest.mark.parametrize("options", [{}, {"colour": "gray", "background": "black", "format": "png"}, {"scene": {}}])
def test_the_outlook_is_near_what_is_written(options: dict[str, Any], tmp_path: Path) -> None:
    given = {"ifs": {}, "size": 128, "images": 24} | options
    outlook = prepare(pipeline(tmp_path, **given))[1].steps[0].stage.outlook()  # type: ignore[attr-defined]
    done = run(tmp_path / "work", **given)
    assert (outlook.samples, outlook.shards) == (24, 2)
    tars = sum(path.stat().st_size for path in folder(done).glob("*.tar"))
    assert tars / 2 < outlook.nbytes < tars * 2
