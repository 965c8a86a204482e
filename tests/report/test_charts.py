"""Charts are well-formed, to scale, and say in words what they show."""

from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.report import charts


def parse(svg: str) -> ET.Element:
    """Fails unless the SVG is well-formed XML with a role and a label."""
    root = ET.fromstring(svg)
    assert root.tag == "svg"
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"]
    return root


def width(element: ET.Element) -> float:
    return float(element.attrib["width"])


def points(root: ET.Element) -> list[tuple[float, float]]:
    """Centres of all marks, in drawing order."""
    found = []
    for mark in root:
        if mark.tag == "circle":
            found.append((float(mark.attrib["cx"]), float(mark.attrib["cy"])))
        elif mark.attrib.get("class") == "mark full":
            found.append((float(mark.attrib["x"]) + 3.5, float(mark.attrib["y"]) + 3.5))
    return found


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(0, 10**12))
def test_the_outcome_bar_is_filled_exactly(kept: int, dropped: int, quarantined: int) -> None:
    track, *segments = parse(charts.outcome_bar(kept, dropped, quarantined))
    assert width(track) == 1000
    assert len(segments) == sum(value > 0 for value in (kept, dropped, quarantined))
    if segments:
        assert sum(map(width, segments)) == pytest.approx(1000, abs=0.05)
    x = 0.0
    for segment in segments:
        assert float(segment.attrib["x"]) == pytest.approx(x, abs=0.05)
        x += width(segment)


def test_bar_segments_are_to_scale_and_rare_ones_stay_visible() -> None:
    _, kept, dropped = parse(charts.outcome_bar(750, 250, 0))
    assert (width(kept), width(dropped)) == (750, 250)
    *_, broken = parse(charts.outcome_bar(10**9, 0, 1))
    assert broken.attrib["class"] == "broken"
    assert width(broken) > 2.9


def test_a_stage_bar_is_on_the_scale_of_the_input() -> None:
    _, kept, dropped, broken, gone = parse(charts.stage_bar(400, 100, 50, 1000))
    assert [width(part) for part in (kept, dropped, broken, gone)] == [400, 100, 50, 450]


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "–"),
        (0.0, "0 %"),
        (1.0, "100 %"),
        (0.5, "50.0 %"),
        (1e-9, "<0.1 %"),
        (0.0005, "0.1 %"),
        (0.99949, "99.9 %"),
        (0.99999, ">99.9 %"),
    ],
)
def test_percent_rounds_nothing_away(share: float | None, text: str) -> None:
    assert charts.percent(share) == text


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_linear_ticks_cover_the_range_in_even_round_steps(low: float, span: float) -> None:
    high = low + span
    if high - low < 1e-9 * max(1.0, abs(low)):
        return
    ticks = charts.linear_ticks(low, high)
    slack = 1e-6 * (high - low) + 1e-9 * max(abs(low), abs(high))
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= 8
    steps = [after - before for before, after in itertools.pairwise(ticks)]
    assert max(steps) - min(steps) <= slack


@given(st.integers(1, 10**10), st.integers(1, 10**10))
def test_log_ticks_cover_the_range(a: int, b: int) -> None:
    low, high = min(a, b), max(a, b)
    ticks = charts.log_ticks(low, high)
    assert ticks[0] <= low * (1 + 1e-9)
    assert ticks[-1] >= high * (1 - 1e-9)
    assert 2 <= len(ticks) <= 12
    assert ticks == sorted(set(ticks))
    for tick in ticks:
        assert f"{tick:e}"[0] in "125"


@pytest.mark.parametrize(("low", "high", "ticks"), [(9, 48, [5, 10, 20, 50]), (1, 1, [1, 2]), (10, 10, [10, 20])])
def test_log_ticks_by_example(low: int, high: int, ticks: list[float]) -> None:
    assert charts.log_ticks(low, high) == ticks


def test_complexity_scatter_places_points_linearly() -> None:
    root = parse(charts.complexity_scatter([(0, 0.1, 0.0, False), (1, 0.2, 0.5, False), (2, 0.3, 1.0, True)]))
    (x0, y0), (x1, y1), (x2, y2) = points(root)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.11)
    assert x0 < x1
    assert y0 > y1
    assert "50.0 % kept" in ET.tostring(root, "unicode")


def test_quota_scatter_places_points_logarithmically() -> None:
    root = parse(charts.quota_scatter([(0, 10, 10, True), (1, 100, 1, False), (2, 1000, 100, False)]))
    by_x = sorted(points(root))
    assert by_x[1][0] - by_x[0][0] == pytest.approx(by_x[2][0] - by_x[1][0], abs=0.11)
    ys = sorted(y for _, y in by_x)
    assert ys[1] - ys[0] == pytest.approx(ys[2] - ys[1], abs=0.11)


def test_the_guide_runs_through_the_saturated_points() -> None:
    root = parse(charts.quota_scatter([(0, 7, 7, True), (1, 300, 300, True), (2, 2500, 12, False)]))
    (guide,) = [line for line in root if line.attrib.get("class") == "guide"]
    x1, y1, x2, y2 = (float(guide.attrib[name]) for name in ("x1", "y1", "x2", "y2"))
    for x, y in points(root)[:2]:
        assert y == pytest.approx(y1 + (x - x1) / (x2 - x1) * (y2 - y1), abs=0.2)


def test_zero_quotas_and_equal_values_can_be_drawn() -> None:
    parse(charts.quota_scatter([(0, 5, 0, False), (1, 5, 0, False)]))
    parse(charts.quota_scatter([(0, 0, 0, False), (1, 1, 1, True)]))
    parse(charts.complexity_scatter([(0, 0.0, 1.0, True)]))
    parse(charts.complexity_scatter([(0, -0.001, 0.2, False), (1, -0.001, 0.3, False)]))


def test_the_curve_falls_with_epsilon_and_marks_the_one_used() -> None:
    curve = [(0.0, 100, 1.0), (0.05, 80, 0.8), (0.1, 25, 0.25)]
    root = parse(charts.kept_curve(curve, 0.05))
    (line,) = [one for one in root if one.attrib.get("class") == "curve"]
    drawn = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
    assert sorted(drawn) == drawn
    assert [y for _, y in drawn] == sorted(y for _, y in drawn)  # down the page
    assert drawn[1][0] - drawn[0][0] == pytest.approx(drawn[2][0] - drawn[1][0], abs=0.11)
    text = ET.tostring(root, "unicode")
    assert "epsilon 0.05: 80 kept, 80.0 %, used here" in text
    assert text.count("used here") == 1


@pytest.mark.parametrize(("least", "first"), [(1.0, "95 %"), (0.945, "94 %"), (0.25, "20 %"), (0.0, "0 %")])
def test_the_axis_of_the_curve_begins_near_its_end(least: float, first: str) -> None:
    curve = [(0.0, 1000, 1.0), (0.1, round(1000 * least), least)]
    texts = [one.text for one in parse(charts.kept_curve(curve, 0.1)) if one.attrib.get("text-anchor") == "end"]
    assert (texts[0], texts[-1]) == (first, "100 %")


def test_nothing_to_draw_is_no_markup() -> None:
    assert charts.kept_curve([], 0.1) == charts.kept_curve([(0.1, 5, 1.0)], 0.1) == ""
    assert charts.complexity_scatter([]) == ""
    assert charts.quota_scatter([]) == ""
    assert charts.quota_scatter([(0, 0, 0, False)]) == ""


@pytest.mark.parametrize("count", [1, 1999, 2000, 2001, 50_000])
def test_a_scatter_is_bounded_and_independent_of_order(count: int) -> None:
    marks = [(float(number), math.sin(number), False, f"concept {number}") for number in range(count)]
    drawn = charts.thinned(marks)
    assert drawn == charts.thinned(marks[::-1])
    assert min(count, charts.MAX_POINTS) / 2 <= len(drawn) <= charts.MAX_POINTS
