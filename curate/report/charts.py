"""Small SVG charts as text: numbers in, one well-formed `<svg>` out.

Colours and type come from the page's style sheet through class names, so that a chart follows light, dark and print.
Every chart carries a sentence for readers who do not see it. All text that goes in is made here from numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup, escape

MAX_POINTS = 2000
"""Above this many points a scatter draws every n-th of them, ordered along x, and says so."""

_WIDTH, _HEIGHT = 480.0, 330.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 14.0, 12.0, 46.0

Scale = Callable[[float], float]
Mark = tuple[float, float, bool, str]
"""x, y (data units), saturated, what the point is called."""


def percent(share: float | None) -> str:
    """A share (0 to 1) as a percentage that never claims 0 % or 100 % unless it is so: `<0.1 %`, `99.9 %`."""
    if share is None:
        return "–"
    if 0 < share < 0.0005:
        return "<0.1 %"
    if 0.9995 <= share < 1:
        return ">99.9 %"
    return f"{100 * share:.1f} %" if 0 < share < 1 else f"{100 * share:.0f} %"


def _share(part: int, whole: int) -> float:
    return part / whole if whole > 0 else 0.0


def _bar(segments: Sequence[tuple[int, str]], label: str, height: int, css: str) -> Markup:
    """A stacked bar 1000 units wide; a segment that is not empty is at least 3 units wide so that it can be seen."""
    total = sum(value for value, _ in segments)
    widths = [max(3.0, 1000 * value / total) if value else 0.0 for value, _ in segments]
    widths = [1000 * width / sum(widths) for width in widths] if total else widths
    rects, x = [], 0.0
    for width, (value, name) in zip(widths, segments, strict=True):
        if value:
            rects.append(f'<rect class="{name}" x="{x:.2f}" y="0" width="{width:.2f}" height="{height}"/>')
            x += width
    box = f'viewBox="0 0 1000 {height}" preserveAspectRatio="none"'
    return Markup(
        f'<svg class="{css}" role="img" aria-label="{escape(label)}" {box}>'
        f'<rect class="track" x="0" y="0" width="1000" height="{height}"/>{"".join(rects)}</svg>'
    )


def outcome_bar(kept: int, dropped: int, quarantined: int) -> Markup:
    """Kept, dropped and quarantined rows as parts of one bar."""
    total = kept + dropped + quarantined
    label = f"Of {total:,} samples {kept:,} were kept, {dropped:,} dropped and {quarantined:,} quarantined."
    return _bar([(kept, "kept"), (dropped, "dropped"), (quarantined, "broken")], label, 36, "bar outcome")


def stage_bar(rows_after: int, dropped: int, quarantined: int, rows_in: int) -> Markup:
    """What a stage left and took, on the scale of the whole input; what earlier stages took is the empty rest."""
    gone = max(0, rows_in - rows_after - dropped - quarantined)
    label = f"{rows_after:,} of {rows_in:,} left, {dropped:,} dropped and {quarantined:,} quarantined here."
    parts = [(rows_after, "kept"), (dropped, "dropped"), (quarantined, "broken"), (gone, "gone")]
    return _bar(parts, label, 14, "bar stage")


def meter(part: int, whole: int) -> Markup:
    """`part` of `whole` as a filled bar."""
    return _bar([(part, "kept"), (max(0, whole - part), "gone")], f"{part:,} of {whole:,}", 14, "bar stage")


def linear_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten that cover [low, high] in about `wanted` steps (low < high)."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """At least two ticks that cover [low, high] (0 < low <= high): powers of ten, on a short axis 2 and 5 times too."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    ticks = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    start = max(index for index, tick in enumerate(ticks) if tick <= low * (1 + 1e-9))
    stop = next(index for index, tick in enumerate(ticks) if tick >= high * (1 - 1e-9))
    return ticks[start : max(stop, start + 1) + 1]


def thinned(marks: Sequence[Mark]) -> list[Mark]:
    """At most `MAX_POINTS` of the marks: every n-th, ordered by (x, y)."""
    return sorted(marks)[:: max(1, math.ceil(len(marks) / MAX_POINTS))]


def complexity_scatter(concepts: Sequence[tuple[int, float, float, bool]]) -> Markup:
    """Kept share (y, 0 to 1) over complexity (x), one point a concept: (concept, complexity, share, saturated).

    Empty markup when there are no concepts.
    """
    if not concepts:
        return Markup()
    marks = [
        (complexity, share, saturated, f"concept {concept}: complexity {complexity:.4f}, {percent(share)} kept")
        for concept, complexity, share, saturated in concepts
    ]
    values = [complexity for _, complexity, _, _ in concepts]
    low, high = min(values), max(values)
    margin = (high - low) * 0.04 or abs(low) * 0.1 or 0.1
    x_ticks = linear_ticks(low - margin, high + margin)
    label = (
        f"Scatter chart of {len(concepts):,} concepts: share kept, {percent(min(s for *_, s, _ in concepts))} to "
        f"{percent(max(s for *_, s, _ in concepts))}, against complexity, {low:.3g} to {high:.3g}."
    )
    return _scatter(
        marks,
        label,
        ("complexity", "share kept"),
        ([(tick, f"{tick:g}") for tick in x_ticks], [(tick / 4, f"{25 * tick} %") for tick in range(5)]),
        (_linear(x_ticks[0], x_ticks[-1], _LEFT, _WIDTH - _RIGHT), _linear(0, 1, _HEIGHT - _BOTTOM, _TOP)),
    )


def quota_scatter(concepts: Sequence[tuple[int, int, int, bool]]) -> Markup:
    """Quota (y) over size (x) on logarithmic axes, one point a concept: (concept, size, quota, saturated).

    The dashed line is quota = size (everything kept). A quota of 0 is drawn on the axis line; empty concepts are
    left out. Empty markup when nothing can be drawn.
    """
    rows = [row for row in concepts if row[1] > 0]
    if not rows:
        return Markup()
    marks = [
        (float(size), float(quota), saturated, f"concept {concept}: size {size:,}, quota {quota:,}")
        for concept, size, quota, saturated in rows
    ]
    sizes, quotas = [row[1] for row in rows], [row[2] for row in rows]
    x_ticks = log_ticks(min(sizes), max(sizes))
    positive = [quota for quota in quotas if quota] or [1]
    y_ticks = log_ticks(min(positive), max(positive))
    x, y_log = (
        _log(x_ticks[0], x_ticks[-1], _LEFT, _WIDTH - _RIGHT),
        _log(y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, _TOP),
    )
    start, end = max(x_ticks[0], y_ticks[0]), min(x_ticks[-1], y_ticks[-1])
    guide = (
        f'<line class="guide" x1="{x(start):.1f}" y1="{y_log(start):.1f}" x2="{x(end):.1f}" y2="{y_log(end):.1f}"/>'
        if start < end
        else ""
    )
    label = (
        f"Scatter chart of {len(rows):,} concepts: quota, {min(quotas):,} to {max(quotas):,}, "
        f"against size, {min(sizes):,} to {max(sizes):,}, both on logarithmic axes."
    )
    return _scatter(
        marks,
        label,
        ("size (samples before pruning)", "quota (samples kept)"),
        ([(tick, _short(tick)) for tick in x_ticks], [(tick, _short(tick)) for tick in y_ticks]),
        (x, lambda quota: y_log(quota) if quota > 0 else _HEIGHT - _BOTTOM),
        guide,
    )


def kept_curve(points: Sequence[tuple[float, int, float]], chosen: float) -> Markup:
    """Share of the samples that stay (y) over epsilon (x): (epsilon, kept, share). A square marks `chosen`.

    The y axis ends at 100 % and begins near the smallest share: most curves fall by a few per cent. Empty markup for
    fewer than two points.
    """
    if len(points) < 2 or points[-1][0] <= 0:
        return Markup()
    x_ticks = linear_ticks(0.0, points[-1][0])
    y_ticks = linear_ticks(min(0.95, *(share for *_, share in points)), 1.0)
    x = _linear(x_ticks[0], x_ticks[-1], _LEFT, _WIDTH - _RIGHT)
    y = _linear(y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    marks = [
        (epsilon, share, epsilon == chosen, f"epsilon {epsilon:.6g}: {kept:,} kept, {percent(share)}")
        for epsilon, kept, share in points
    ]
    line = " ".join(f"{x(epsilon):.1f},{y(share):.1f}" for epsilon, _, share in points)
    label = (
        f"Samples that stay against epsilon: {percent(points[0][2])} at {points[0][0]:g}, "
        f"{percent(points[-1][2])} at {points[-1][0]:g}."
    )
    return _scatter(
        marks,
        label,
        ("epsilon", "share kept"),
        ([(tick, f"{tick:g}") for tick in x_ticks], [(tick, f"{100 * tick:.6g} %") for tick in y_ticks]),
        (x, y),
        f'<polyline class="curve" points="{line}"/>',
        ", used here",
        radius=2,
    )


def _linear(low: float, high: float, start: float, end: float) -> Scale:
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _log(low: float, high: float, start: float, end: float) -> Scale:
    inner = _linear(math.log10(low), math.log10(high), start, end)
    return lambda value: inner(math.log10(value))


def _short(tick: float) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if tick >= unit:
            return f"{tick / unit:g}{name}"
    return f"{tick:g}"


def _scatter(
    marks: Sequence[Mark],
    label: str,
    names: tuple[str, str],
    ticks: tuple[Sequence[tuple[float, str]], Sequence[tuple[float, str]]],
    scales: tuple[Scale, Scale],
    guide: str = "",
    full: str = ", saturated",
    radius: int = 4,
) -> Markup:
    """Axes, grid, guide and points. Saturated concepts are squares, the others circles, so that colour is not alone.

    full: what is said of a square.
    """
    x, y = scales
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    out = [f'<svg class="scatter" role="img" aria-label="{escape(label)}" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}">']
    for tick, text in ticks[0]:
        out.append(f'<line class="grid" x1="{x(tick):.1f}" y1="{_TOP:g}" x2="{x(tick):.1f}" y2="{bottom:g}"/>')
        out.append(
            f'<text class="tick" x="{x(tick):.1f}" y="{bottom + 17:g}" text-anchor="middle">{escape(text)}</text>'
        )
    for tick, text in ticks[1]:
        out.append(f'<line class="grid" x1="{_LEFT:g}" y1="{y(tick):.1f}" x2="{right:g}" y2="{y(tick):.1f}"/>')
        out.append(
            f'<text class="tick" x="{_LEFT - 8:g}" y="{y(tick) + 4:.1f}" text-anchor="end">{escape(text)}</text>'
        )
    out.append(f'<path class="axis" d="M{_LEFT:g} {_TOP:g}V{bottom:g}H{right:g}"/>{guide}')
    for at_x, at_y, saturated, name in thinned(marks):
        px, py = x(at_x), y(at_y)
        out.append(
            f'<rect class="mark full" x="{px - 3.5:.1f}" y="{py - 3.5:.1f}" width="7" height="7">'
            f"<title>{escape(name)}{full}</title></rect>"
            if saturated
            else f'<circle class="mark" cx="{px:.1f}" cy="{py:.1f}" r="{radius}"><title>{escape(name)}</title></circle>'
        )
    across, down = (_LEFT + right) / 2, (_TOP + bottom) / 2
    for place, text in (
        (f'x="{across:g}" y="{_HEIGHT - 8:g}"', names[0]),
        (f'x="14" y="{down:g}" transform="rotate(-90 14 {down:g})"', names[1]),
    ):
        out.append(f'<text class="name" text-anchor="middle" {place}>{escape(text)}</text>')
    out.append("</svg>")
    return Markup("".join(out))
