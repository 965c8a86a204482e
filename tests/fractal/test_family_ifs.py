from __future__ import annotations

import copy
import io
import json
from typing import Any

import numpy as np
import polars as pl
import pytest
from known_sets import MCMULLEN

from curate.errors import SpecError
from curate.fractal.chaos import View, density, points_drawn, quantised
from curate.fractal.classes import SCHEMA, find, name_of
from curate.fractal.families.ifs import IfsFamily
from curate.fractal.jitter import replay
from curate.fractal.patch import stamp
from curate.fractal.pilot import view_of
from curate.fractal.randomness import Draws
from curate.fractal.specification import Contours, FractalOptions, Gates, Ifs, Jitter
from curate.fractal.systems import System, probabilities

TABLE = find(Ifs(), 12, 3).table
STILL: dict[str, Any] = {"jitter": Jitter(kind="none"), "zoom": (1.0, 1.0), "centre": 0.0, "patch": False}


def family(table: pl.DataFrame = TABLE, size: int = 64, **ifs: Any) -> IfsFamily:
    return IfsFamily(FractalOptions(ifs=Ifs(points=20_000, **ifs), classes=table.height, size=size), table)


def table_of(*systems: System) -> pl.DataFrame:
    rows = []
    for number, system in enumerate(systems):
        view = view_of(system, 100_000)
        assert view is not None
        rows.append(
            {
                **dict.fromkeys(SCHEMA),
                "class": number,
                "system": name_of(system),
                "n": system.n,
                "maps": system.maps.reshape(-1).tolist(),
                "p": system.p.tolist(),
                "low": list(view.low),
                "high": list(view.high),
            }
        )
    return pl.DataFrame(rows, schema=SCHEMA)


def test_the_address_decides_the_drawing() -> None:
    drawn = family()
    for number in (0, 7):
        a, b = drawn.draw(number, 64, Draws.of(1, number)), drawn.draw(number, 64, Draws.of(1, number))
        np.testing.assert_array_equal(a.counts, b.counts)
        assert a.facts == b.facts
        assert (a.counts != drawn.draw(number, 64, Draws.of(2, number)).counts).any()
    assert a.counts.dtype == np.uint32
    assert a.counts.shape == (64, 64)


@pytest.mark.parametrize("kind", ["none", "basic", "svd", "sval", "fractaldb", "one_parameter"])
def test_facts_draw_the_same_again(kind: Any) -> None:
    """From the table and the facts, read back from JSON, without the draws."""
    drawn = family(jitter=Jitter(kind=kind), probability="floor", floor=0.05)
    changed = 0
    for number in range(12):
        drawing = drawn.draw(number, 64, Draws.of(9, number))
        facts = json.loads(json.dumps(drawing.facts))
        system = drawn.system(number)
        if facts["jitter"] and "undone" not in facts["jitter"]:
            changed += 1
            maps = replay(system.maps, facts["jitter"])
            p = system.p if kind == "fractaldb" else quantised(probabilities(maps, "floor", 0.05))
            system = System(maps, p)
        low_x, low_y, high_x, high_y = facts["view"]
        counts = density(system, View((low_x, low_y), (high_x, high_y)), 64, facts["points"], int(facts["key"], 16))
        np.testing.assert_array_equal(stamp(counts, facts["patch"]), drawing.counts)
    assert changed >= 8 or kind == "none"


def test_without_jitter_and_window_it_is_the_canonical_view() -> None:
    drawn = family(**STILL)
    for number, row in enumerate(TABLE.iter_rows(named=True)):
        drawing = drawn.draw(number, 64, Draws.of(1, number))
        np.testing.assert_allclose(drawing.facts["view"], [*row["low"], *row["high"]], rtol=1e-12, atol=1e-12)
        assert drawing.facts["patch"] == 0
        inside = int(drawing.counts.sum())
        assert 0.995 * points_drawn(20_000) <= inside <= points_drawn(20_000)


def test_windows_follow_their_law() -> None:
    """Centres move by U(-.2, .2) of the extent and extents by U(.5, 2), on each axis independently."""
    drawn = family(jitter=Jitter(kind="none"))
    low, high = np.array(TABLE["low"][4].to_list()), np.array(TABLE["high"][4].to_list())
    moves, zooms = [], []
    for i in range(1500):
        view = np.array(drawn.draw(4, 8, Draws.of(5, i)).facts["view"]).reshape(2, 2)
        zooms.append((view[1] - view[0]) / (high - low))
        moves.append((view.mean(axis=0) - (low + high) / 2) / (high - low))
    for values, least, most in ((np.array(moves), -0.2, 0.2), (np.array(zooms), 0.5, 2.0)):
        assert values.min() >= least - 1e-9
        assert values.max() <= most + 1e-9
        deviation = (most - least) / np.sqrt(12)
        assert (np.abs(values.mean(axis=0) - (least + most) / 2) < 4.5 * deviation / np.sqrt(1500)).all()
        np.testing.assert_allclose(values.std(axis=0), deviation, rtol=0.06)
        assert abs(np.corrcoef(values.T)[0, 1]) < 0.12


def test_smaller_canvases_take_fewer_points() -> None:
    drawn = family(size=64, **STILL)
    points = {size: drawn.draw(0, size, Draws.of(1)).facts["points"] for size in (4, 32, 64, 128)}
    assert points == {4: 100, 32: 5000, 64: 20_000, 128: 80_000}
    counts = drawn.draw(0, 128, Draws.of(1)).counts
    assert 0.995 * 80_000 < int(counts.sum()) <= points_drawn(80_000)


def test_a_window_that_shows_nothing_is_drawn_again() -> None:
    """Two clusters in opposite corners: a narrow window near the middle of their box sees neither."""
    far = System(np.array([[[0.01, 0, 0], [0, 0.01, 0]], [[0.01, 0, 1], [0, 0.01, 1]]]), np.array([0.5, 0.5]))
    drawn = family(table_of(far), jitter=Jitter(kind="none"), zoom=(0.3, 0.3), centre=0.2, patch=False)
    row = drawn.table.row(0, named=True)
    for i in range(5):
        drawing = drawn.draw(0, 64, Draws.of(1, i))
        assert drawing.counts.any()
        assert drawing.facts["view"] == [*row["low"], *row["high"]]


def test_a_jitter_that_loses_the_system_is_undone() -> None:
    edge = System(
        np.array([[[0.99, 0, 0.1], [0, 0.99, 0.2]], [[0.98, 0, 0.5], [0, 0.97, -0.3]]]), quantised(np.array([0.5, 0.5]))
    )
    drawn = family(table_of(edge), **{**STILL, "jitter": Jitter(kind="one_parameter", strength=4.0)})
    undone = [drawn.draw(0, 32, Draws.of(1, i)) for i in range(30)]
    undone = [drawing for drawing in undone if "undone" in drawing.facts["jitter"]]
    assert undone
    plain = family(table_of(edge), **STILL)
    for drawing in undone:
        assert drawing.facts["view"] == plain.draw(0, 32, Draws.of(1)).facts["view"]
        assert drawing.counts.any()


def test_the_table_may_come_from_parquet_and_workers_may_copy() -> None:
    file = io.BytesIO()
    TABLE.write_parquet(file)
    mine = family()
    for theirs in (family(pl.read_parquet(io.BytesIO(file.getvalue()))), copy.deepcopy(mine)):
        for number in range(12):
            a, b = mine.draw(number, 48, Draws.of(3, number)), theirs.draw(number, 48, Draws.of(3, number))
            np.testing.assert_array_equal(a.counts, b.counts)
            assert a.facts == b.facts


def test_exact_masses_of_a_carpet() -> None:
    """Each level-2 piece of McMullen's carpet holds 1/9 of the points, in its own cell of a 9 x 4 grid."""
    drawn = family(table_of(System(MCMULLEN.maps, quantised(MCMULLEN.p))), size=36, **STILL)
    counts = drawn.draw(0, 36, Draws.of(4)).counts.reshape(9, 4, 4, 9).sum(axis=(1, 3))
    occupied = counts[counts > 100]
    assert len(occupied) == 9
    total = points_drawn(20_000)
    assert ((occupied - total / 9) ** 2 / (total / 9)).sum() < 30  # chi-squared, 8 degrees of freedom


def test_other_tables_are_refused() -> None:
    options = FractalOptions(ifs=Ifs(gates=Gates()), classes=12)
    with pytest.raises(SpecError, match="no maps, low"):
        IfsFamily(options, TABLE.drop("maps", "low"))
    with pytest.raises(SpecError, match="class 3 are not system"):
        IfsFamily(
            options,
            TABLE.with_columns(
                maps=pl.when(pl.col("class") == 3).then(pl.col("maps").list.reverse()).otherwise("maps")
            ),
        )
    with pytest.raises(SpecError, match="do not fit"):
        IfsFamily(options, TABLE.with_columns(n=pl.col("n") + 1))
    with pytest.raises(SpecError, match="no ifs"):
        IfsFamily(FractalOptions(contours=Contours(), classes=12), TABLE)
    with pytest.raises(SpecError, match="classes 0"):
        family().draw(12, 64, Draws.of(1))
