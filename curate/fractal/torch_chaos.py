"""The chaos game of a batch of images at once, on any torch device: for training straight from a GPU's memory.

The symbols, the float32 arithmetic and its order are those of curate.fractal.chaos, operation by operation and none of
them fused, so that a GPU counts the same points in the same pixels. All lanes of all images take a step together, which
is three operations of torch; everything that does not depend on the step before (hashing words, looking up maps,
counting pixels) is done for a block of words at once. A GPU needs thousands of images a batch to be busy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from curate.errors import SpecError
from curate.fractal.chaos import BITS, LANES, MAX_SIDE, PER_WORD, RESOLUTION, PixelGame, words_drawn
from curate.fractal.kernels import GOLDEN, MUL_1, MUL_2

WORKSPACE = 256 << 20
_POINT_BYTES = 48
"""Of the workspace, for each point of a block (measured: 44.5)."""


def densities(
    games: Sequence[PixelGame], size: int, points: int, device: str | torch.device, workspace: int = WORKSPACE
) -> torch.Tensor:
    """Points in each pixel of each image, int32 [B, size, size] on the device: `chaos.density` of every game.

    games: of `chaos.pixel_game` for this size, in any mixture of systems. `points` an image is rounded up by
    `chaos.points_drawn`. Pixels equal the numba kernel's wherever the device rounds every float32 product and sum as
    IEEE 754 says and fuses none. Raises SpecError for a canvas outside 1..16,384 and for no games.
    Memory on the device, in bytes: B * (4 * size**2 + 16,640 + 24 * the most maps of a game), and the workspace or, if
    that is more, 7,680 * B.
    """
    if not 1 <= size <= MAX_SIDE:
        raise SpecError(f"a canvas has 1 to {MAX_SIDE} pixels a side, not {size}.")
    if not games:
        raise SpecError("a batch needs at least one game.")
    batch, most = len(games), max(len(game.table) for game in games)
    maps, symbols, starts, keys = _gathered(games, most, torch.device(device))
    # after the pixels of an image one bin a lane takes what falls outside: one bin for all would be fought over
    bins = size * size + LANES
    canvas = torch.zeros(batch * bins, dtype=torch.int32, device=device)
    first = torch.arange(batch, dtype=torch.int64, device=device)[:, None]
    outside = first * bins + size * size + torch.arange(LANES, device=device)
    words = words_drawn(points)
    block = max(1, min(words, workspace // (_POINT_BYTES * PER_WORD * LANES * batch)))
    at = starts
    for start in range(0, words, block):
        steps = _maps_of(keys, start, min(block, words - start), symbols, first * RESOLUTION)
        orbit = _walk(maps, steps, at)
        at = orbit[-1].clone()
        pixels = _bins_of(orbit, size, first * bins, outside).reshape(-1)
        canvas.scatter_add_(0, pixels, torch.ones(1, dtype=torch.int32, device=device).expand_as(pixels))
    return canvas.view(batch, bins)[:, : size * size].view(batch, size, size)


def tones(counts: torch.Tensor) -> torch.Tensor:
    """Counts [B, S, S] to what a network takes, float32 [B, 1, S, S]: each pixel's share of its image's largest count;
    an image without points is all 0. Memory: two such tensors.
    """
    most = counts.amax(dim=(1, 2), keepdim=True).clamp(min=1)
    return (counts.to(torch.float32) / most.to(torch.float32)).unsqueeze(1)


def _gathered(
    games: Sequence[PixelGame], most: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Maps float32 [B * most, 2, 3], for each share of each image the row of its map int32 [B * RESOLUTION], starts
    float32 [B, LANES, 2] and keys int64 [B, 1].
    """
    maps = np.zeros((len(games), most, 6), dtype=np.float32)
    rows = np.empty((len(games), RESOLUTION), dtype=np.int32)
    for i, game in enumerate(games):
        maps[i, : len(game.table)] = game.table
        np.add(game.symbols, np.int32(i * most), out=rows[i])
    starts = np.stack([game.starts for game in games])
    keys = np.array([game.key for game in games], dtype=np.uint64).view(np.int64)[:, None]
    at = [torch.from_numpy(made).to(device) for made in (maps.reshape(-1, 2, 3), rows.reshape(-1), starts, keys)]
    return at[0], at[1], at[2], at[3]


# the int64 of the same 64 bits: torch has no arithmetic of uint64, and multiplies int64 modulo 2**64
_GOLDEN, _MUL_1, _MUL_2 = (int(np.uint64(value).view(np.int64)) for value in (GOLDEN, MUL_1, MUL_2))


def _unsigned_shift(z: torch.Tensor, by: int) -> torch.Tensor:
    """torch shifts the sign in from the left; a mask takes it away."""
    return (z >> by) & ((1 << (64 - by)) - 1)


def _hashed(z: torch.Tensor) -> torch.Tensor:
    """SplitMix64's finaliser, as in curate.fractal.randomness."""
    z = (z ^ _unsigned_shift(z, 30)) * _MUL_1
    z = (z ^ _unsigned_shift(z, 27)) * _MUL_2
    return z ^ _unsigned_shift(z, 31)


def _maps_of(keys: torch.Tensor, start: int, words: int, symbols: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """The row of the map of each step, int32 [words * PER_WORD, B, LANES], of words start..start + words - 1."""
    device = keys.device
    counter = torch.arange(start * LANES + 1, (start + words) * LANES + 1, dtype=torch.int64, device=device)
    word = _hashed(keys + counter.view(words, 1, LANES) * _GOLDEN)
    # the sign that a shift brings in stays above the 12 bits that are kept: 4 * 12 + 12 <= 64
    shifts = torch.arange(0, PER_WORD * BITS, BITS, device=device).view(1, PER_WORD, 1, 1)
    share = ((word[:, None] >> shifts) & (RESOLUTION - 1)) + first
    return symbols.index_select(0, share.view(-1)).view(words * PER_WORD, -1, LANES)


def _walk(maps: torch.Tensor, steps: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Points float32 [steps, B, LANES, 2]: x' = (a x) + ((b y) + e), each operation rounded."""
    chosen = maps.index_select(0, steps.view(-1)).view(*steps.shape, 2, 3)
    linear, shift = chosen[..., :2], chosen[..., 2]
    orbit = torch.empty((*steps.shape, 2), dtype=torch.float32, device=maps.device)
    products, sums = torch.empty((*at.shape, 2), device=maps.device), torch.empty_like(at)
    for step in range(len(steps)):
        torch.mul(linear[step], at.unsqueeze(-2), out=products)
        torch.add(products[..., 1], shift[step], out=sums)
        at = torch.add(products[..., 0], sums, out=orbit[step])
    return orbit


def _bins_of(orbit: torch.Tensor, size: int, first: torch.Tensor, outside: torch.Tensor) -> torch.Tensor:
    """The bin of each point, int64 [steps, B, LANES]. Compared as floats: what is outside may be no integer at all."""
    inside = ((orbit >= 1.0) & (orbit < size + 1.0)).all(dim=-1)
    pixel = orbit.clamp(1.0, float(size)).nan_to_num_(1.0).to(torch.int64) - 1
    return torch.where(inside, pixel[..., 0] * size + pixel[..., 1] + first, outside)
