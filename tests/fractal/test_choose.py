from __future__ import annotations

import io
from typing import Any

import numpy as np
import polars as pl
import pytest

from curate.errors import SpecError
from curate.fractal.families.choose import find, open_family, search
from curate.fractal.families.ifs import IfsFamily
from curate.fractal.randomness import Draws
from curate.fractal.specification import FractalOptions, Gates, Ifs

FAMILIES: dict[str, Any] = {
    "ifs": {"points": 2000},
    "contours": {"vertices": (3, 40), "lines": (1, 20)},
    "sinusoids": {"vertices": (50, 90), "lines": (1, 20)},
}


def options(family: str, **more: Any) -> FractalOptions:
    return FractalOptions.model_validate({family: FAMILIES[family], "classes": 6, "size": 48, **more})


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_searches_and_draws(family: str) -> None:
    """The table decides the drawings, also when it comes back from Parquet; seeds and classes differ."""
    chosen = options(family)
    table = search(chosen, 4)
    assert table.equals(search(chosen, 4))
    assert not table.equals(search(chosen, 5))
    assert table["class"].to_list() == list(range(6))
    assert table.schema["class"] == pl.Int64
    assert table["system"].str.contains("^[0-9a-f]{12}$").all()
    assert table["system"].n_unique() == 6
    file = io.BytesIO()
    table.write_parquet(file)
    mine, theirs = open_family(chosen, table), open_family(chosen, pl.read_parquet(io.BytesIO(file.getvalue())))
    assert mine.table.equals(theirs.table)
    seen = []
    for number in range(6):
        a, b = mine.draw(number, 48, Draws.of(1, number)), theirs.draw(number, 48, Draws.of(1, number))
        np.testing.assert_array_equal(a.counts, b.counts)
        assert a.facts == b.facts
        assert a.counts.dtype == np.uint32
        assert a.counts.shape == (48, 48)
        assert a.counts.any()
        seen.append(a.counts.tobytes())
    assert len(set(seen)) == 6


def test_the_search_says_what_it_refused() -> None:
    chosen = FractalOptions(ifs=Ifs(gates=Gates(p_min=0.1)), classes=6)
    found = find(chosen, 4)
    assert found.tried == 6 + found.refused["p_min"] + found.refused["fill"] + found.refused["aspect"]
    assert found.refused["p_min"] > 0
    assert found.table.equals(search(chosen, 4))
    assert isinstance(open_family(chosen, found.table), IfsFamily)


def test_a_table_of_another_size_is_refused() -> None:
    table = search(options("ifs"), 4)
    with pytest.raises(SpecError, match="say 7 classes, the table of classes has 6"):
        open_family(options("ifs", classes=7), table)
