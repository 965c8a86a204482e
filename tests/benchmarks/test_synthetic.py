from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.synthetic import CONCEPTS, DIM, Numbers, NumbersConfig, There, checksums, executor, made, step
from curate.engine.base import InlineEngine
from curate.engine.exchange import Bucket, Worked
from curate.stages.config import StageConfig
from curate.store.columns import read_columns

ROOT = Path(__file__).resolve().parents[2]
PARTS, ROWS = 5, 400


def run(folder: Path, kind: type[There] = There) -> Any:
    runner, _ = executor(str(folder), PARTS, InlineEngine())
    step(runner, Numbers, NumbersConfig(name="numbers", rows=ROWS))
    step(runner, kind, StageConfig(name="there"))
    return runner


def test_what_comes_back_is_what_a_loop_over_all_rows_finds(tmp_path: Path) -> None:
    runner = run(tmp_path)
    numbers = [made(part, ROWS) for part in range(PARTS)]
    sizes = Counter(int(key) for keys, _ in numbers for key in keys)
    there = runner.plan.step("there")
    for part, (keys, _) in enumerate(numbers):
        frame = read_columns(runner.plan.workspace, there.folder, part, there.parts[part])
        assert frame["concept"].to_list() == keys.tolist()
        assert frame["size"].to_list() == [sizes[int(key)] for key in keys]
    assert runner.plan.workspace.listing("scratch") == {}


def test_rows_are_unit_vectors_and_one_concept_in_seven(tmp_path: Path) -> None:
    keys, vectors = made(3, 50_000)
    assert (vectors.dtype, vectors.shape) == (np.dtype(np.float16), (50_000, DIM))
    np.testing.assert_allclose(np.linalg.norm(vectors.astype(np.float64), axis=1), 1, atol=2e-3)
    harmonic = sum(rank**-1.1 for rank in range(1, CONCEPTS + 1))
    (_, most), (_, next_) = Counter(keys.tolist()).most_common(2)
    assert most / 50_000 == pytest.approx(1 / harmonic, rel=0.05)
    assert next_ / most == pytest.approx(2**-1.1, rel=0.05)
    np.testing.assert_array_equal(made(3, 50_000)[1], vectors)
    assert not np.array_equal(made(4, 50_000)[1], vectors)


@pytest.mark.parametrize("at", [0, 17, DIM - 1])
def test_a_checksum_feels_every_bit_of_vector_key_and_size(at: int) -> None:
    keys, vectors = made(0, 64)
    size = np.arange(64, dtype=np.uint32)
    plain = checksums(vectors, keys, size)
    for bit in range(16):
        other = vectors.copy()
        other.view(np.uint16)[:, at] ^= np.uint16(1 << bit)
        assert np.all(checksums(other, keys, size) != plain)
    assert np.all(checksums(vectors, keys + 1, size) != plain)
    assert np.all(checksums(vectors, keys, size + 1) != plain)


class Swapped(There):
    """The vectors of two rows of different content change places."""

    def work(self, bucket: Bucket, artifacts: Any) -> Worked:
        back = super().work(bucket, artifacts).back
        back["check"][[0, -1]] = back["check"][[-1, 0]]
        return Worked(back)


class Lossy(There):
    """One row does not come back."""

    def work(self, bucket: Bucket, artifacts: Any) -> Worked:
        return Worked(super().work(bucket, artifacts).back[:-1])


class Doubled(There):
    """One row comes back twice."""

    def work(self, bucket: Bucket, artifacts: Any) -> Worked:
        back = super().work(bucket, artifacts).back
        return Worked(np.concatenate([back, back[:1]]))


@pytest.mark.parametrize(("kind", "said"), [(Swapped, "other rows"), (Lossy, "399 rows"), (Doubled, "401 rows")])
def test_a_row_that_is_swapped_lost_or_doubled_ends_the_run(tmp_path: Path, kind: type[There], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        run(tmp_path, kind)


def test_the_command_prints_a_row_of_a_table_a_size() -> None:
    command = [
        sys.executable,
        "benchmarks/exchange.py",
        "--rows",
        "2e3",
        "4e3",
        "--part-rows",
        "1000",
        "--workers",
        "0",
    ]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in lines] == ["rows", "---", "2,000", "4,000"]
    assert len({line.count("|") for line in lines}) == 1
