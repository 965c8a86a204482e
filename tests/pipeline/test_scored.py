from __future__ import annotations

from pathlib import Path
from typing import Any

import corpus

import curate
from curate.pipeline.scored import scored_lines
from curate.pipeline.summary import summarise, summary_lines


def made(root: Path, scores: str) -> dict[str, Any]:
    """Two shards of four samples, scores for six of them and for one that is not there."""
    (root / "shards").mkdir()
    for n, shard in enumerate("ab"):
        members: list[tuple[str | bytes, bytes]] = []
        for i in range(4):
            members += corpus.sample(f"{shard}{i}", corpus.jpeg(10 * n + i, (32, 24)))
        (root / "shards" / f"{shard}.tar").write_bytes(corpus.tar_bytes(members))
    (root / scores).write_text("file,score\nx/a0.jpg,5\nx/a1.jpg,1\nx/a3.jpg,4\nb1.jpg,9\nb2,0\nb3,2\nz9,7\n")
    return {
        "name": "scored",
        "input": {"shards": f"{root}/shards/*.tar", "shards_per_part": 1},
        "workspace": f"{root}/work",
        "stages": [
            "index",
            {"score": {"name": "hardness", "metric": "imported", "scores": f"{root}/{scores}", "match": "name"}},
            {"prune": {"metric": "hardness", "within": "all", "keep": 3}},
            {"release": {"samples_per_shard": 6}},
        ],
    }


def test_a_run_prunes_by_a_score_file_and_says_what_matched(tmp_path: Path) -> None:
    run = curate.run(made(tmp_path, "ImageNet-1K_DDD.csv"), workers=0)
    keys = run.columns("index").collect()["key"].to_list()
    kept = run.columns("prune").collect()["keep"].to_list()
    assert [key for key, keep in zip(keys, kept, strict=True) if keep] == ["a0", "a3", "b1"]
    lines = list(summary_lines(summarise(run)))
    at = lines.index(
        "hardness: 6 of 8 alive samples have a score by imported; 1 of 7 rows of its tables name no sample"
    )
    assert lines[at + 1] == "  ImageNet-1K_DDD.csv: has 7 rows, the published file has 1,281,167"


def test_nothing_is_said_of_what_is_not_there() -> None:
    assert list(scored_lines([])) == []
