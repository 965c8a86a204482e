"""Scored pairs and votes in their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from reference_data import reference

from curate.errors import InputError
from curate.formats.scored_pairs import ScoredPairs, Votes, read_pairs


def test_published_scores_and_votes() -> None:
    scores = read_pairs(reference("imagenet/scores.npz"))
    assert isinstance(scores, ScoredPairs)
    assert (len(scores.images), len(set(scores.images))) == (184_962, 24_889)
    golden = read_pairs(reference("imagenet/golden.npz"))
    assert isinstance(golden, Votes)
    assert (golden.raters, golden.answers.shape, len(set(golden.images))) == (5, (1135, 3), 155)
    assert int((golden.answers[:, 2] >= 3).sum()) == 248


def test_tables_of_pairs_and_of_lists_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("image,class,score\na,1,0.5\na,2,0.25\nb,0,1\n")
    rows = {"name": ["a", "c", "b"], "classes": [[1, 2], [], [0]], "scores": [[0.5, 0.25], [], [1.0]]}
    pl.DataFrame(rows).write_parquet(tmp_path / "p.parquet")
    for name in ("p.csv", "p.parquet"):
        read = read_pairs(str(tmp_path / name))
        assert isinstance(read, ScoredPairs)
        assert (read.images, read.classes.tolist(), read.scores.tolist()) == (
            ["a", "a", "b"],
            [1, 2, 0],
            [0.5, 0.25, 1],
        )


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (
            {"info": np.array([["a", "1"], ["a", "1"]]), "tensor": np.array([0.1, 0.2])},
            "names the pair a and class 1 twice",
        ),
        ({"info": np.array([["a", "1"]]), "tensor": np.array([np.nan])}, "the score of a and class 1 is nan"),
        ({"info": np.array([["a", "x"]]), "tensor": np.array([0.1])}, "names a class that is no number"),
        ({"info": np.array([["a", "1"]]), "tensor": np.full((2, 1, 3), 1.0)}, "something else than one answer"),
        ({"info": np.array([["a", "1"]]), "tensor": np.zeros((2, 2, 3))}, "wanted"),
        ({"tensor": np.zeros(2)}, "wanted info"),
    ],
)
def test_what_is_doubtful_is_refused(tmp_path: Path, arrays: dict[str, object], said: str) -> None:
    np.savez(tmp_path / "p.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=said):
        read_pairs(str(tmp_path / "p.npz"))
