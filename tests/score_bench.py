"""A bench with an index on which score steps run, their companions included."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from bench import Bench

from curate.stages.score import ScoreConfig, ScoreStage
from curate.store.artifacts import Artifact, read_artifacts
from curate.store.uids import format_uid

SIZES = (7, 0, 12, 4)
N = sum(SIZES)


class Made:
    """A bench with an index, and what a score step makes of it."""

    def __init__(self, folder: Path, sizes: Sequence[int] = SIZES, **columns: Sequence[Any]) -> None:
        self.folder, self.sizes = folder, sizes
        self.bench = Bench(str(folder / "ws"), len(sizes), 5)
        labels = [f"n{i % 3}" for i in range(sum(sizes))]
        self.index = self.bench.index(sizes, **{"label": labels, **columns})
        self.keys = self.index["key"].to_list()
        self.uids = [format_uid(*row) for row in self.index.select("uid_hi", "uid_lo").rows()]

    def run(self, name: str = "score", **options: Any) -> list[float | None]:
        config = ScoreConfig.model_validate({"name": name, **options})
        for kind, companion in ScoreStage.companions_before(name, config):
            self.bench._add(str(companion.name), kind, companion)
        self.bench._add(name, ScoreStage, config)
        return self.bench.frame(name)["score"].to_list()

    def artifacts(self, name: str = "score") -> dict[str, Artifact]:
        step = self.bench.plan.step(name)
        return read_artifacts(self.bench.workspace, step.folder, step.whole)

    def notes(self, name: str) -> list[dict[str, Any]]:
        group = self.bench.results[name].group
        assert group is not None
        return [note for part in group.parts for note in part.notes]

    def parquet(self, name: str, **columns: Any) -> str:
        path = self.folder / name
        pl.DataFrame({k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in columns.items()}).write_parquet(
            path
        )
        return str(path)
