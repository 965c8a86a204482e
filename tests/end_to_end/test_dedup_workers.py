"""Duplicates under all rules, over parts and concepts: any number of workers, and any cut into parts, say the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import embedding_folder
import numpy as np
import polars as pl
import pytest
from whole_runs import run, write_pipeline

import curate
from curate.pipeline.summary import summarise, summary_lines
from curate.pipeline.write_report import report_data
from curate.report.page import render

SIZES = [60, 90, 30, 50]
STEPS = ("one", "two", "three")
COLUMNS = ("keep", "duplicate_of", "keeper", "similarity")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows around a few directions, many close to another, and a set of vectors that some of them come from."""
    root = tmp_path_factory.mktemp("near") / "rows"
    embedding_folder.made(root, SIZES, dim=6)
    rng, everything = np.random.default_rng(1), np.zeros((0, 6))
    for path in sorted((root / "img_emb").iterdir()):
        mine = rng.normal(size=(len(np.load(path)), 6))
        everything = np.concatenate([everything, mine])
        mine[::2] = everything[rng.integers(0, len(everything), len(mine[::2]))] + 0.1 * rng.normal(
            size=mine[::2].shape
        )
        np.save(path, embedding_folder.unit(mine))
    np.save(root.parent / "set.npy", embedding_folder.unit(everything[5:8]).astype(np.float32))
    return root


def pipeline(rows: Path, work: Path, cut: int = 1) -> dict[str, Any]:
    columns = {"similarity": "float"}
    return {
        "name": "near",
        "input": {"embeddings": str(rows), "caption": "caption", "fields": columns, "shards_per_part": cut},
        "workspace": str(work),
        "stages": [
            "index",
            "read_embeddings",
            {"cluster": {"concepts": 8}},
            {"dedup": {"name": "one", "keep": 0.95, "epsilon_max": 0.1, "against": str(rows.parent / "set.npy")}},
            {"dedup": {"name": "two", "rule": "greedy", "epsilon": 0.02}},
            {"dedup": {"name": "three", "rule": "components", "epsilon": 0.02, "order": "index.similarity desc"}},
            {"prune": {"keep": 0.5, "of": "deduplicated"}},
        ],
    }


def said(run: curate.Run) -> list[pl.DataFrame]:
    return [
        run.columns("index", step).select("index.key", *(f"{step}.{name}" for name in COLUMNS)).collect()
        for step in STEPS
    ]


def test_parts_decide_nothing_and_the_run_tells_where_the_line_is(rows: Path, tmp_path: Path) -> None:
    one = curate.run(pipeline(rows, tmp_path / "a"), workers=0)
    other = curate.run(pipeline(rows, tmp_path / "b", cut=3), workers=0)
    for x, y in zip(said(one), said(other), strict=True):
        assert x.equals(y)
        assert 0 < x[x.columns[1]].sum() < sum(SIZES)
    alive = one.record.step("one-against").rows_after or 0
    assert 0 < alive < sum(SIZES)
    assert one.record.step("one").rows_after == int(0.95 * alive)
    summary = summarise(one)
    told = "\n".join(summary_lines(summary))
    found = one.artifacts("one")["decision"]["epsilon"]
    assert f"one: {int(0.95 * alive)} of {alive} stay at epsilon {found:.6g}" in told
    assert "  recall " in told
    page = render(report_data(one, summary))
    assert page.count("How alike is too alike") == len(STEPS)
    assert "Share of the samples that stay, by epsilon" in page


@pytest.mark.slow
def test_workers_decide_nothing(rows: Path, tmp_path: Path, ray_folder: str) -> None:
    expected = said(curate.run(pipeline(rows, tmp_path / "0"), workers=0))
    for workers in ("1", "2"):
        file = write_pipeline(tmp_path / f"{workers}.yaml", pipeline(rows, tmp_path / workers))
        done = run(file, "--workers", workers, RAY_TMPDIR=ray_folder)
        assert done.returncode == 0, done.stderr
        for x, y in zip(expected, said(curate.open_run(str(tmp_path / workers))), strict=True):
            assert x.equals(y)
