from __future__ import annotations

import hashlib
import io

import numpy as np
import polars as pl
import pytest
from known_sets import KOCH, SIERPINSKI

from curate.errors import SpecError
from curate.fractal.chaos import RESOLUTION, orbit, quantised
from curate.fractal.classes import DROUGHT, MOST_COMPARED, SCHEMA, Judged, find, judge, name_of
from curate.fractal.invariants import moments
from curate.fractal.likeness import distance
from curate.fractal.pilot import survey
from curate.fractal.randomness import Draws, key
from curate.fractal.specification import Gates, Ifs
from curate.fractal.systems import System, probabilities, sample, sample_anderson2022, window

FOUND = find(Ifs(), 40, 5)


def systems(table: pl.DataFrame) -> list[System]:
    return [
        System(np.array(maps).reshape(-1, 2, 3), np.array(p))
        for maps, p in zip(table["maps"].to_list(), table["p"].to_list(), strict=True)
    ]


def test_a_row_says_what_its_system_is() -> None:
    table = FOUND.table
    assert table.schema == SCHEMA
    assert table["class"].to_list() == list(range(40))
    for row, system in zip(table.iter_rows(named=True), systems(table), strict=True):
        data = system.maps.tobytes() + system.p.tobytes()
        assert row["system"] == name_of(system) == hashlib.sha256(data).hexdigest()[:12]
        assert row["n"] == system.n
        exact, seen = moments(system), survey(system, moments(system))
        assert seen is not None
        assert row["mean"] == exact.mean.tolist()
        assert row["covariance"] == [exact.covariance[0, 0], exact.covariance[0, 1], exact.covariance[1, 1]]
        assert (row["low"], row["high"]) == (list(seen.view.low), list(seen.view.high))
        assert (row["fill"], row["box_dimension"]) == (seen.fill, seen.dimension)
        assert row["p_min"] == system.p.min()
        assert row["s1_max"] == system.singular_values.max()
        assert window(system.n)[0] <= row["sigma_factor"] <= window(system.n)[1]


def test_candidates_are_the_published_laws() -> None:
    """uniform: of (seed, number) alone; anderson2022: one numpy Generator; fractaldb: its first categories."""
    for number, system in zip(FOUND.table["candidate"].to_list(), systems(FOUND.table), strict=True):
        draws = Draws.of(5, "classes", number)
        maps = sample(2 + draws.below(3), draws)
        np.testing.assert_array_equal(system.maps, maps)
        np.testing.assert_array_equal(system.p, quantised(probabilities(maps)))
    rng = np.random.default_rng(7)
    for system in systems(find(Ifs(sampler="anderson2022", gates=Gates(fill=(0, 1), aspect=0)), 5, 7).table):
        np.testing.assert_array_equal(system.maps, sample_anderson2022((2, 3, 4), rng))
    free = Gates(fill=(0, 1), aspect=0, s1_max=100)
    published = find(Ifs(sampler="fractaldb", maps=(2, 7), gates=free), 3, 0).table
    assert published["candidate"].to_list() == [24, 29, 68]
    assert published["n"].to_list() == [5, 3, 2]


def test_one_parameter_classes_perturb_one_system() -> None:
    table = find(Ifs(sampler="one_parameter", maps=(2, 2), sigma=(3.4, 3.6), deviation=0.1), 30, 3).table
    maps = np.array(table["maps"].to_list())
    assert table["n"].unique().to_list() == [2]
    assert len(table["system"].unique()) == 30
    middle = (np.abs(maps).max(axis=0) + np.abs(maps).min(axis=0)) / 2
    assert (np.sign(maps) == np.sign(maps[0])).all()
    assert (np.abs(maps) <= middle * 1.1 / 0.9 + 1e-12).all()
    spread = np.abs(maps).max(axis=0) / np.abs(maps).min(axis=0)
    assert (spread <= 1.1 / 0.9).all()
    assert (spread > 1.1).all()


def test_the_same_seed_gives_the_same_table_and_more_classes_only_append() -> None:
    again = find(Ifs(), 15, 5)
    assert again.table.equals(FOUND.table.head(15))
    assert not find(Ifs(), 15, 6).table["system"].is_in(FOUND.table["system"].to_list()).any()


def test_a_table_comes_back_from_parquet_bit_for_bit() -> None:
    file = io.BytesIO()
    FOUND.table.write_parquet(file)
    back = pl.read_parquet(io.BytesIO(file.getvalue()))
    assert back.schema == SCHEMA
    for mine, theirs in zip(systems(FOUND.table), systems(back), strict=True):
        assert mine.maps.tobytes() == theirs.maps.tobytes()
        assert mine.p.tobytes() == theirs.p.tobytes()
    assert back.equals(FOUND.table)


def test_orbits_of_the_classes_have_the_rows_moments() -> None:
    """z^T (V / n)^-1 z of the sample mean is chi-squared(2): over 40 systems its mean is 2 (s.e. 0.32)."""
    values, errors = [], []
    for i, (row, system) in enumerate(zip(FOUND.table.iter_rows(named=True), systems(FOUND.table), strict=True)):
        points = orbit(system, 200_000, key("test", i))
        off = points.mean(axis=0) - row["mean"]
        values.append(float(off @ np.linalg.solve(moments(system).of_mean / len(points), off)))
        xx, xy, yy = row["covariance"]
        found = np.cov(points.T)
        errors.append(np.abs(found - [[xx, xy], [xy, yy]]).max() / max(xx, yy))
    assert 1.0 < np.mean(values) < 3.1
    assert np.mean(np.array(values) > 5.99) <= 0.175
    assert np.median(errors) < 0.01
    assert max(errors) < 0.06


def refusal(maps: np.ndarray, **gates: object) -> str:
    judged = judge(maps, Ifs(gates=Gates(**gates), probability="uniform"))  # type: ignore[arg-type]
    return "passes" if isinstance(judged, Judged) else judged


def test_gates_refuse_what_they_say() -> None:
    triangle, curve = SIERPINSKI.maps, KOCH.maps
    flat = np.array([[[0.5, 0, 0.0], [0, 0.5, 0.0]], [[0.5, 0, 0.5], [0, 0.5, 0.0]]])
    assert refusal(triangle) == "passes"
    # 3^8 small triangles of 256 x 256 pixels, each of one to two pixels
    assert refusal(triangle, fill=(0.3, 1.0)) == "fill"
    assert refusal(triangle, fill=(0.0, 0.05)) == "fill"
    assert refusal(triangle, aspect=0.99) == "passes"  # its covariance is a multiple of the identity
    assert refusal(curve, fill=(0.0, 1.0), aspect=0.3) == "passes"  # sqrt(15 / 135) = 1/3
    assert refusal(curve, fill=(0.0, 1.0), aspect=0.34) == "aspect"
    assert refusal(flat, fill=(0.0, 1.0)) == "aspect"
    assert refusal(flat, fill=(0.0, 1.0), aspect=0.0) == "passes"
    assert refusal(triangle, s1_max=0.5) == "passes"
    assert refusal(triangle, s1_max=0.499) == "s1_max"
    least = quantised(np.full(3, 1 / 3)).min()
    assert refusal(triangle, p_min=least) == "passes"
    assert refusal(triangle, p_min=1 / 3) == "p_min"  # 1365 of 4096 is less


def test_what_cannot_be_drawn_is_always_refused() -> None:
    free = {"fill": (0.0, 1.0), "aspect": 0.0, "s1_max": 1e9}
    point = np.tile(np.array([[[0.5, 0, 1.0], [0, 0.5, 2.0]]]), (2, 1, 1))
    away = np.tile(np.array([[[3.0, 0, 1.0], [0, 2.0, 1.0]]]), (2, 1, 1))
    broken = SIERPINSKI.maps.copy()
    broken[1, 0, 2] = np.nan
    assert [refusal(maps, **free) for maps in (point, away, broken)] == ["degenerate"] * 3


def test_what_does_not_contract_on_average_has_no_moments_and_nulls() -> None:
    """Expands in one of three steps by 1.9: squares grow on average (1.9^2 / 3 > 1), logarithms shrink."""
    maps = np.array([[[1.9, 0, 0.1], [0, -1.9, 0.2]], [[0.3, 0.1, 1], [-0.1, 0.3, 0]], [[0.2, 0, 0], [0.1, 0.3, -1]]])
    judged = judge(maps, Ifs(gates=Gates(fill=(0, 1), aspect=0.0, s1_max=10), probability="uniform"))
    assert isinstance(judged, Judged)
    assert judged.moments is None
    gates = Gates(fill=(0, 1), aspect=0, s1_max=100)
    table = find(Ifs(sampler="one_parameter", maps=(2, 2), sigma=(5.2, 5.6), deviation=0.8, gates=gates), 60, 0).table
    assert 0 < table["mean"].null_count() < 60
    for row, system in zip(table.iter_rows(named=True), systems(table), strict=True):
        squared = sum(w * np.kron(a, a) for w, a in zip(system.p, system.maps[:, :, :2], strict=True))
        assert (row["mean"] is None) == (row["covariance"] is None) == (np.abs(np.linalg.eigvals(squared)).max() >= 1)
    assert not any(table[name].is_nan().any() for name, kind in SCHEMA.items() if kind == pl.Float64)


def test_refusals_are_counted() -> None:
    found = find(Ifs(gates=Gates(fill=(0.2, 0.5), aspect=0.3, p_min=0.05)), 20, 1)
    assert found.tried == 20 + sum(found.refused.values())
    assert found.table["candidate"][-1] == found.tried - 1
    assert all(found.refused[gate] > 0 for gate in ("fill", "aspect", "p_min"))
    assert found.table["fill"].is_between(0.2, 0.5).all()
    assert (found.table["p_min"] >= 0.05).all()


def test_classes_keep_their_distance() -> None:
    options = Ifs(sampler="one_parameter", maps=(2, 2), gates=Gates(distance=0.15))
    found = find(options, 12, 0)
    assert found.refused["distance"] > 0
    cells = [judged.survey.cells for s in systems(found.table) if isinstance(judged := judge(s.maps, options), Judged)]
    assert len(cells) == 12
    assert min(distance(a, b) for i, a in enumerate(cells) for b in cells[:i]) >= 0.15


def test_gates_that_refuse_everything_are_named() -> None:
    with pytest.raises(
        SpecError, match=rf"0 of 3 classes.*{DROUGHT:,} tried, {DROUGHT:,} failed s1_max \(gates.s1_max: 0.1\)"
    ):
        find(Ifs(gates=Gates(s1_max=0.1)), 3, 0)
    with pytest.raises(SpecError, match=r"gates\.distance compares"):
        find(Ifs(gates=Gates(distance=0.1)), MOST_COMPARED + 1, 0)


def test_a_floor_is_what_is_drawn() -> None:
    table = find(Ifs(probability="floor", floor=0.1, maps=(4, 4)), 30, 0).table
    p = np.array(table["p"].to_list())
    assert (p >= 0.1 - 1 / RESOLUTION).all()
    assert (p * RESOLUTION == np.rint(p * RESOLUTION)).all()
    assert (p.sum(axis=1) == 1.0).all()
