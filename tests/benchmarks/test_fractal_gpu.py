from __future__ import annotations

import pytest
import torch

from benchmarks.fractal_gpu import main

SMALL = ["--size", "32", "--points", "1000", "--batch", "16", "--rounds", "1"]


def test_no_gpu_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert main(SMALL) == 0
    assert "torch sees no GPU here" in capsys.readouterr().out


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_both_sides_draw_the_same_images(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--device", device]) == 0  # 1 below 99.9 % of the pixels
    out = capsys.readouterr().out
    assert "to tars of JPEG" in out
    if device == "cpu":
        assert "agreement: 100.000000%" in out
