from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import ttest_1samp
from sklearn.metrics import average_precision_score

from benchmarks import fractal_pretraining as proof
from curate.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def real(test: bool) -> proof.Labelled:
    try:
        return proof.cifar(test)
    except InputError as error:
        if "cannot be reached" in str(error):
            pytest.skip(f"real data needs the package registry: {error}")
        raise


def test_the_loss_is_that_of_the_paper() -> None:
    """Positives weigh C / n in the mean over all scenes and classes; a scene of nothing is all negatives."""
    logits = torch.tensor([[0.3, -1.0, 2.0, 0.1], [0.5, 0.5, -0.5, 0.0]], dtype=torch.float64)
    target = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    p = 1 / (1 + np.exp(-logits.numpy()))
    weights = np.array([[4 / 2], [4 / 1]])
    plain = -(weights * target.numpy() * np.log(p) + (1 - target.numpy()) * np.log(1 - p)).mean()
    assert float(proof.weighted(logits, target)) == pytest.approx(plain, rel=1e-12)


def test_average_precision_is_that_of_scikit_learn() -> None:
    draws = torch.Generator().manual_seed(0)
    logits, target = torch.randn(50, 20, generator=draws), (torch.rand(50, 20, generator=draws) < 0.15).float()
    each = [average_precision_score(y, x) for x, y in zip(logits.numpy(), target.numpy(), strict=True) if y.any()]
    assert float(proof.average_precision(logits, target)) == pytest.approx(np.mean(each), abs=1e-6)


def test_intervals_are_those_of_the_t_test() -> None:
    values = [0.41, 0.45, 0.44]
    mean, half = proof.interval(values)
    other = ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((other.low, other.high))
    lines = proof.markdown({"a": [0.5, 0.6], "b": [0.6, 0.65]}, [1, 2]).splitlines()
    assert lines[-1].startswith("| difference | +10.00 | +5.00 | +7.50 | -24.27 to +39.27 |")


def test_pictures_are_moved_whole() -> None:
    """A moved picture is a window of the padded one, as it is or flipped, and all offsets come."""
    draws = torch.Generator().manual_seed(1)
    images = torch.rand(400, 3, 32, 32, generator=draws)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)), mode="reflect")
    seen = set()
    for whole, made in zip(padded, proof.moved(images, draws).numpy(), strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(whole, (32, 32), axis=(1, 2))  # [3, 9, 9, 32, 32]
        for flipped in (False, True):
            wanted = made[..., ::-1] if flipped else made
            hits = np.argwhere((windows == wanted[:, None, None]).all(axis=(0, 3, 4)))
            seen |= {(*map(int, hit), flipped) for hit in hits}
            if len(hits):
                break
        else:
            pytest.fail("no window")
    assert len(seen) > 120  # of 162, 400 draws


def test_splits_are_balanced_and_apart() -> None:
    images = torch.arange(6000).view(-1, 1, 1, 1)
    pictures = proof.Labelled(images, torch.arange(6000) % 10)
    learn, held = proof.split(pictures, 50, 3)
    assert torch.bincount(learn.classes).tolist() == [50] * 10
    assert len(held.classes) == proof.VALIDATION
    assert not set(learn.images.flatten().tolist()) & set(held.images.flatten().tolist())
    assert torch.equal(held.images.flatten() % 10, held.classes)


def test_cifar_is_whole() -> None:
    pictures = real(test=True)
    assert pictures.images.shape == (10_000, 3, 32, 32)
    assert torch.bincount(pictures.classes).tolist() == [1000] * 10


@pytest.mark.slow
def test_the_script_runs_end_to_end() -> None:
    real(test=True)
    command = [sys.executable, "-m", "benchmarks.fractal_pretraining", "--seeds", "1", "2", "--width", "8"]
    command += ["--scenes", "400", "--classes", "10", "--points", "500", "--each", "10", "--steps", "10"]
    command += ["--test", "500"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["from scratch", "pre-trained on fractals", "difference"]
    assert "400 scenes" in done.stdout
