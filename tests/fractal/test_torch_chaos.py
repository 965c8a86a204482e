from __future__ import annotations

import numpy as np
import pytest
import torch

from curate.errors import SpecError
from curate.fractal.chaos import LANES, PER_WORD, PixelGame, View, bounds, density, pixel_game, points_drawn, quantised
from curate.fractal.randomness import Draws, key, words
from curate.fractal.systems import System, probabilities, sample
from curate.fractal.torch_chaos import _maps_of, densities, tones

SIZE, POINTS = 128, 20_000


def drawn(i: int) -> System:
    maps = sample(2 + i % 6, Draws.of(19, "torch", i))
    return System(maps, quantised(probabilities(maps)))


def batch(n: int, zoom: float, size: int = SIZE) -> tuple[list[PixelGame], list[tuple[System, View, int]]]:
    """Games of n systems of 2 to 7 maps, and what `density` needs to play them."""
    told = []
    for i in range(n):
        system = drawn(i)
        view = bounds(system, 1)
        low, high = np.array(view.low), np.array(view.high)
        middle, half = (low + high) / 2, (high - low) / 2 * zoom
        ends = (tuple((middle + sign * half).tolist()) for sign in (-1, 1))
        told.append((system, View(*ends), key(3, i)))
    return [pixel_game(system, view, size, number) for system, view, number in told], told


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("zoom", [1.0, 0.3])
def test_the_pixels_are_those_of_the_cpu_kernel(device: str, zoom: float) -> None:
    games, told = batch(24, zoom)
    plain = np.stack([density(system, view, SIZE, POINTS, number) for system, view, number in told])
    mine = densities(games, SIZE, POINTS, device)
    assert mine.dtype == torch.int32
    if device == "cpu":
        assert np.array_equal(mine.numpy(), plain)
        return
    assert (mine.cpu().numpy() == plain).mean() >= 0.999


def test_symbols_are_those_of_the_hash() -> None:
    """Against Python's integers: words past the first block, a key with the highest bit set."""
    number = 0xF123456789ABCDEF
    identity = torch.arange(4096, dtype=torch.int32)
    signed = torch.tensor([[number - 2**64]])
    found = _maps_of(signed, 7, 3, identity, torch.zeros(1, 1, dtype=torch.int64)).view(3, PER_WORD, LANES)
    stream = words(number, 10 * LANES).reshape(10, LANES)
    for word in range(3):
        for step in range(PER_WORD):
            expected = [(int(w) >> (12 * step)) & 4095 for w in stream[7 + word]]
            assert found[word, step].tolist() == expected


def test_blocks_and_neighbours_change_nothing() -> None:
    """Images are the same alone, in any batch and with any workspace."""
    games, _ = batch(5, 0.8, 32)
    together = densities(games, 32, 3000, "cpu")
    for workspace in (0, 500_000):
        assert torch.equal(densities(games, 32, 3000, "cpu", workspace), together)
    for game, image in zip(games, together, strict=True):
        assert torch.equal(densities([game], 32, 3000, "cpu")[0], image)


def test_what_lies_outside_is_not_counted() -> None:
    games, _ = batch(6, 1.0, 32)
    assert densities(games, 32, 3000, "cpu").sum(dim=(1, 2)).min() > 0.95 * points_drawn(3000)
    far = PixelGame(games[0].table, games[0].symbols, games[0].starts, games[0].key)
    for value in (np.nan, np.inf, -np.inf, 1e30):
        lost = PixelGame(np.full_like(far.table, value), far.symbols, far.starts, far.key)
        assert densities([lost, games[1]], 32, 3000, "cpu").sum(dim=(1, 2))[0] == 0


def test_tones() -> None:
    counts = torch.tensor([[[0, 2], [4, 1]], [[0, 0], [0, 0]]], dtype=torch.int32)
    assert tones(counts).tolist() == [[[[0.0, 0.5], [1.0, 0.25]]], [[[0.0, 0.0], [0.0, 0.0]]]]


def test_wrong_arguments_are_sentences() -> None:
    games, _ = batch(1, 1.0, 32)
    with pytest.raises(SpecError, match="canvas"):
        densities(games, 0, 100, "cpu")
    with pytest.raises(SpecError, match="at least one"):
        densities([], 32, 100, "cpu")


@pytest.mark.gpu
def test_memory_is_the_bound() -> None:
    games, _ = batch(64, 1.0)
    most, before = max(len(game.table) for game in games), torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    densities(games, SIZE, POINTS, "cuda", 64 << 20)
    bound = 64 * (4 * SIZE**2 + 16_640 + 24 * most) + (64 << 20)
    assert torch.cuda.max_memory_allocated() - before <= 1.05 * bound  # the allocator rounds up
