"""`against`: what resembles a reference set goes, and nothing else; every kind of set; any cut into parts."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import embedding_folder
import numpy as np
import polars as pl
import pytest
from bench import cut
from numpy.typing import NDArray
from small_run import small_run

import curate
from curate.errors import InputError, SpecError
from curate.stages.against import AgainstStage
from curate.stages.cluster import ClusterStage
from curate.store.artifacts import read_artifacts

DIM = 12


def unit(raw: NDArray[np.float64]) -> NDArray[np.float16]:
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float16)


def corpus_and_references() -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """300 rows and 80 references; rows 0, 10, 20, ... lie near one, every second of these is equal to it."""
    rng = np.random.default_rng(0)
    middles = rng.normal(size=(9, DIM))
    references = unit(middles[rng.integers(0, 9, 80)] + rng.normal(size=(80, DIM)) * 0.7)
    rows = unit(middles[rng.integers(0, 9, 300)] + rng.normal(size=(300, DIM)) * 0.7)
    rows[::10] = unit(references[:30].astype(np.float64) + rng.normal(size=(30, DIM)) * 0.03)
    rows[::20] = references[:30:2]
    return rows, references


def run(
    bench: Callable[..., Any],
    sizes: list[int],
    rows: NDArray[np.float16],
    *,
    concepts: int | None = 15,
    index: Mapping[str, Any] | None = None,
    **options: Any,
) -> tuple[pl.DataFrame, Any]:
    made = bench(len(sizes), 3)
    made.index(sizes, **(index or {}))
    made.embed(rows, sizes)
    keep = [row % 50 != 3 for row in range(sum(sizes))]
    made.given("out", cut(pl.DataFrame({"keep": keep, "reason": ["x"] * len(keep)}), sizes))
    if concepts is not None:
        made.stage(ClusterStage, concepts=concepts, iterations=5)
    return made.stage(AgainstStage, **options), made


def brute(rows: NDArray[np.float16], references: NDArray[np.float16]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    x, y = rows.astype(np.float64), references.astype(np.float64)
    norms = np.einsum("nd,nd->n", x, x)[:, None] * np.einsum("md,md->m", y, y)
    cosine = np.minimum(x @ y.T / np.sqrt(norms), 1.0)
    return cosine.max(axis=1), cosine.argmax(axis=1)


@pytest.mark.parametrize("concepts", [15, None])
def test_brute_force_drops_the_same(bench: Callable[..., Any], tmp_path: Path, concepts: int | None) -> None:
    rows, references = corpus_and_references()
    np.save(tmp_path / "evalset.npy", references)
    frame, _ = run(bench, [100, 0, 200], rows, concepts=concepts, references=[f"{tmp_path}/evalset.npy"], epsilon=0.05)
    best, which = brute(rows, references)
    alive = np.arange(300) % 50 != 3
    like = alive & (best > 0.95)
    assert like.sum() >= 30
    assert frame["keep"].to_list() == [bool(not near) if here else None for here, near in zip(alive, like, strict=True)]
    assert frame["alive"].to_list() == (alive & ~like).tolist()
    assert frame["similarity"].to_list() == [b if near else None for b, near in zip(best.tolist(), like, strict=True)]
    assert frame["reference"].to_list() == [
        f"evalset:{w:09d}" if near else None for w, near in zip(which, like, strict=True)
    ]
    assert set(frame["reason"].drop_nulls()) == {"in_reference"}


def test_concepts_of_other_vectors_spare_nothing(bench: Callable[..., Any], tmp_path: Path) -> None:
    rows, references = corpus_and_references()
    np.save(tmp_path / "e.npy", references)
    alone, _ = run(bench, [300], rows, concepts=None, references=[f"{tmp_path}/e.npy"], epsilon=0.01)
    made = bench(1, 3)
    made.index([300])
    made.embed(unit(np.random.default_rng(1).normal(size=(300, DIM))), [300])
    made.given("other", [pl.DataFrame({"vec_row": pl.Series(range(300), dtype=pl.UInt32)})], "embed", vectors=[rows])
    made.given("out", [pl.DataFrame({"keep": [row % 50 != 3 for row in range(300)], "reason": ["x"] * 300})])
    made.stage(ClusterStage, concepts=15, iterations=5, embedding="embed")
    options = {"references": [f"{tmp_path}/e.npy"], "epsilon": 0.01, "embedding": "other"}
    assert made.stage(AgainstStage, **options).equals(alone)


def test_any_cut_into_parts(bench: Callable[..., Any], tmp_path: Path) -> None:
    rows, references = corpus_and_references()
    np.save(tmp_path / "e.npy", references)
    one, _ = run(bench, [300], rows, references=[f"{tmp_path}/e.npy"])
    many, _ = run(bench, [1, 99, 0, 57, 143], rows, references=[f"{tmp_path}/e.npy"])
    assert one.equals(many)


def test_epsilon_zero_drops_equal_vectors_only(bench: Callable[..., Any], tmp_path: Path) -> None:
    rows, references = corpus_and_references()
    np.save(tmp_path / "e.npy", references)
    frame, _ = run(bench, [300], rows, references=[f"{tmp_path}/e.npy"], epsilon=0)
    assert np.flatnonzero(frame["similarity"].is_not_null()).tolist() == [*range(0, 300, 20)]
    assert set(frame["similarity"].drop_nulls()) == {1.0}


@pytest.mark.parametrize("form", ["npy16", "npy32", "npz", "npz_compressed", "folder"])
def test_every_form_of_vectors_gives_the_same_decisions(bench: Callable[..., Any], tmp_path: Path, form: str) -> None:
    rows, references = corpus_and_references()
    place = tmp_path / ("set" if form == "folder" else f"set.{form[:3]}")
    wide = references.astype(np.float32)
    if form == "folder":
        for number, some in enumerate(np.split(references, [30])):
            keys = [f"{number}/{i}" for i in range(len(some))]
            embedding_folder.write_number(place, str(number), some, {"image_path": keys})
    elif form.startswith("npy"):
        np.save(place, references if form == "npy16" else wide)
    else:
        save = np.savez_compressed if form == "npz_compressed" else np.savez
        save(place, vectors=references, labels=np.arange(80))
    frame, made = run(bench, [300], rows, references=[str(place)])
    best, which = brute(rows, references)
    like = (np.arange(300) % 50 != 3) & (best > 0.93)
    assert np.flatnonzero(frame["keep"].eq(False).fill_null(False)).tolist() == np.flatnonzero(like).tolist()
    first = int(np.flatnonzero(like)[1])
    row = int(which[first])
    key = f"{int(row >= 30)}/{row - 30 * (row >= 30)}" if form == "folder" else f"{row:09d}"
    assert frame["reference"][first] == f"set:{key}"
    step = made.plan.step("against")
    told: Any = read_artifacts(made.workspace, step.folder, step.whole)["references"]
    assert [(one["name"], one["vectors"], one["samples"]) for one in told["references"]] == [("set", 80, 0)]


def test_a_table_whose_batches_end_elsewhere_than_the_array(bench: Callable[..., Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    references = unit(rng.normal(size=(9000, DIM)))
    embedding_folder.write_number(tmp_path / "set", "0", references[:8500], {"key": [f"a{i}" for i in range(8500)]})
    embedding_folder.write_number(tmp_path / "set", "1", references[8500:], {"caption": ["x"] * 500})
    rows = references[[0, 8191, 8192, 8499, 8500, 8999]]
    frame, _ = run(bench, [6], rows, concepts=2, references=[f"{tmp_path}/set"], epsilon=0)
    expected = ["set:a0", "set:a8191", "set:a8192", None, "set:000008500", "set:000008999"]
    assert frame["reference"].to_list() == expected  # row 3 was out before


def test_bad_rows_of_a_set_match_nothing(bench: Callable[..., Any], tmp_path: Path) -> None:
    rows, references = corpus_and_references()
    spoiled = np.insert(references.astype(np.float32), [0, 5, 80], [[0], [np.nan], [np.inf]], axis=0)
    np.save(tmp_path / "e.npy", references)
    np.save(tmp_path / "s.npy", spoiled)
    clean, _ = run(bench, [300], rows, references=[f"{tmp_path}/e.npy"])
    frame, _ = run(bench, [300], rows, references=[f"{tmp_path}/s.npy"])
    assert frame["similarity"].equals(clean["similarity"])
    moved = [None if n is None else int(n[2:]) for n in frame["reference"]]
    was = [None if n is None else int(n[2:]) for n in clean["reference"]]
    assert moved == [None if n is None else n + 1 + (n >= 5) for n in was]


def test_more_concepts_than_groups(bench: Callable[..., Any], tmp_path: Path) -> None:
    rows, references = corpus_and_references()
    np.save(tmp_path / "e.npy", references)
    expected, _ = run(bench, [300], rows, concepts=None, references=[f"{tmp_path}/e.npy"])
    frame, _ = run(bench, [300], rows, concepts=290, references=[f"{tmp_path}/e.npy"])
    assert frame.equals(expected)


def test_the_content_of_a_set_counts_not_its_time(bench: Callable[..., Any], tmp_path: Path) -> None:
    rows, references = corpus_and_references()
    place = tmp_path / "e.npy"

    def folder() -> str:
        made = run(bench, [300], rows, references=[str(place)])[1]
        return str(made.plan.step("against").folder)

    np.save(place, references)
    before = folder()
    place.unlink()
    np.save(place, references)
    assert folder() == before
    references[3, 0] += np.float16(0.125)
    np.save(place, references)
    assert folder() != before


def test_what_changes_after_the_plan_is_found(bench: Callable[..., Any], tmp_path: Path) -> None:
    rows, references = corpus_and_references()
    np.save(tmp_path / "e.npy", references)
    made = run(bench, [300], rows, references=[f"{tmp_path}/e.npy"])[1]
    np.save(tmp_path / "e.npy", references[:70])
    with pytest.raises(InputError, match="the references changed while the run was at work"):
        made.plan.step("against").stage.setup()


# --- hashes and uids --------------------------------------------------------------------------------------------------


def test_an_earlier_release_goes_by_hash_and_by_uid(bench: Callable[..., Any], tmp_path: Path) -> None:
    release = tmp_path / "v1"
    shutil.copytree(small_run().release, release)
    there = pl.read_parquet(f"{release}/samples.parquet/*.parquet")
    uids = [(int(uid[:16], 16), int(uid[16:], 16)) for uid in there["uid"][:4]]
    other = hashlib.sha256(b"other").hexdigest()
    # the same bytes under another name; the same name and no hash; the same name and other bytes; both; nothing
    sha256 = [there["sha256"][0], None, other, there["sha256"][3], hashlib.sha256(b"new").hexdigest()]
    hi = [1, uids[1][0], uids[2][0], uids[3][0], 2]
    lo = [1, uids[1][1], uids[2][1], uids[3][1], 2]
    index = {
        "sha256": sha256,
        "uid_hi": pl.Series(hi, dtype=pl.UInt64),
        "uid_lo": pl.Series(lo, dtype=pl.UInt64),
    }
    made = bench(2, 0)
    made.index([2, 3], **index)
    frame = made.stage(AgainstStage, references=[str(release)])
    names = [f"v1:{uid}" for uid in there["uid"]]
    assert frame["reference"].to_list() == [names[0], names[1], None, names[3], None]
    assert frame["keep"].to_list() == [False, False, True, False, True]
    assert set(frame["reason"].drop_nulls()) == {"in_reference_exact"}
    assert frame["similarity"].null_count() == 5


def test_a_real_run_against_its_evaluation_set_its_workspace_and_its_release(tmp_path: Path) -> None:
    """New shards that hold two old images and a lossless copy in another format, against the run before."""
    old = small_run()
    shards = tmp_path / "shards"
    shards.mkdir()
    shutil.copy(old.root / "shards" / "b.tar", shards / "new.tar")  # the names differ, the bytes do not
    evaluation = tmp_path / "evaluation.npy"
    index = old.run.columns("index", "embed").select("index.key", "embed.vec_row").collect()
    vectors = np.asarray(old.run.vectors("embed"))
    row = index.filter(pl.col("index.key") == "b3")["embed.vec_row"].item()
    part_one = old.run.columns("embed").select(pl.col("vec_row").is_not_null().sum()).collect().item()
    assert part_one == len(vectors)
    first = int(index["embed.vec_row"].is_not_null().to_numpy()[: index["index.key"].to_list().index("b3")].sum())
    assert row is not None
    np.save(evaluation, vectors[first : first + 1])

    def pipeline(name: str, *stages: Any) -> Any:
        spec = {
            "name": "new",
            "input": {"shards": f"{shards}/*.tar", "caption": "txt"},
            "workspace": f"{tmp_path}/{name}",
            "stages": ["index", *stages],
        }
        return curate.run(spec, workers=0)

    embed = {"embed": {"model": "packaged:efficientnet_lite0"}}
    cluster = {"cluster": {"concepts": 3, "iterations": 5}}

    def dropped(run: Any) -> dict[str, tuple[str, str]]:
        frame = run.columns("index", "against").collect().filter(pl.col("against.keep") == False)  # noqa: E712
        return {
            key: (reason, reference)
            for key, reason, reference in frame.select("index.key", "against.reason", "against.reference").iter_rows()
        }

    # an evaluation set of one picture: it goes, the others stay (like-b3 is in another shard)
    found = dropped(pipeline("evaluated", embed, cluster, {"against": {"references": [str(evaluation)], "epsilon": 0}}))
    assert found == {"b3": ("in_reference", "evaluation:000000000")}
    # the release of the earlier run, by bytes alone, without any vector
    released = set(pl.read_parquet(f"{old.release}/samples.parquet/*.parquet")["sha256"])
    mine = pipeline("released", {"against": {"references": [str(old.release)]}})
    table = mine.columns("index", "against").collect().filter(pl.col("against.keep").is_not_null())
    assert table.height
    assert [sha in released for sha in table["index.sha256"]] == [not keep for keep in table["against.keep"]]
    assert mine.record.status == "done"
    # the workspace knows the vectors too: what the release holds in another format goes as well
    both = {"references": [str(old.workspace)], "epsilon": 0.001}
    near = dropped(pipeline("worked", embed, cluster, {"against": both}))
    exact = {key for key, (reason, _) in near.items() if reason == "in_reference_exact"}
    assert exact == set(table.filter(~pl.col("against.keep"))["index.key"])
    assert all(name.startswith("work:") for _, name in near.values())


# --- sentences --------------------------------------------------------------------------------------------------------


def test_another_length(bench: Callable[..., Any], tmp_path: Path) -> None:
    rows, references = corpus_and_references()
    np.save(tmp_path / "e.npy", references[:, :5])
    with pytest.raises(InputError, match="has vectors of 5 numbers, those of embed have 12; embed both with the same"):
        run(bench, [300], rows, references=[f"{tmp_path}/e.npy"])
    np.save(tmp_path / "f.npy", references)
    with pytest.raises(SpecError, match=r"f.npy has vectors of 12 numbers, .*e.npy of 5; they are of different models"):
        run(bench, [300], rows, references=[f"{tmp_path}/e.npy", f"{tmp_path}/f.npy"])


def test_another_encoder(bench: Callable[..., Any], tmp_path: Path) -> None:
    made = bench(1, 0)
    made.index([4])
    rows = unit(np.random.default_rng(0).normal(size=(4, 1280)))
    made.embed(rows, [4])
    made.stage(AgainstStage, references=[str(small_run().workspace)])  # where ours are from is not known: no complaint
    stage = made.plan.step("against").stage
    group = small_run().run.group("embed")
    stage._fits(group)
    other = group.model_copy(update={"config": group.config | {"model": "ViT-B-32", "pretrained": "openai"}})
    with pytest.raises(InputError, match=r"by packaged:efficientnet_lite0, those of embed by ViT-B-32/openai, which"):
        stage._fits(other)


@pytest.mark.parametrize(
    ("make", "options", "sentence"),
    [
        (lambda p: None, {}, "is no reference set|no such file|not there"),
        (lambda p: (p / "set").mkdir(), {}, "is no reference set; one is a .npy or .npz file"),
        (lambda p: np.save(p / "set.npy", np.zeros((3, 4), dtype=np.int64)), {}, "holds int64 of shape"),
        (lambda p: np.savez(p / "set.npz", a=np.zeros((2, 3)), b=np.zeros((2, 3))), {}, r"there are 2 \(a, b\)"),
        (lambda p: (p / "set.npz").write_bytes(b"PK no"), {}, "not a .npz file, or cut"),
        (lambda p: np.save(p / "set.npy", np.eye(3)), {"epsilon": None}, "holds vectors only, and epsilon: null"),
    ],
)
def test_sets_that_will_not_do(
    bench: Callable[..., Any], tmp_path: Path, make: Any, options: dict[str, Any], sentence: str
) -> None:
    make(tmp_path)
    place = next((str(path) for path in tmp_path.iterdir()), f"{tmp_path}/gone.npy")
    with pytest.raises(SpecError, match=sentence):
        run(bench, [2], unit(np.eye(2, DIM)), concepts=None, references=[place], **options)


def test_vectors_need_a_stage_that_makes_some(bench: Callable[..., Any], tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", np.eye(3))
    made = bench(1, 0)
    made.index([3])
    with pytest.raises(SpecError, match="compares vectors, but no stage before it makes any"):
        made.stage(AgainstStage, references=[f"{tmp_path}/e.npy"])


def test_a_run_that_is_not_finished(bench: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "ws").mkdir()
    (tmp_path / "ws" / "run.json").write_text('{"status": "running", "steps": []}')
    made = bench(1, 0)
    made.index([3])
    with pytest.raises(SpecError, match="the run is running, a reference set is a finished one"):
        made.stage(AgainstStage, references=[f"{tmp_path}/ws"])
