"""What a report says (`ReportData`), and the one HTML page that says it (`render`).

The page stands alone: inline styles, inline SVG, thumbnails as data URIs, no script, nothing from the network (a
Content-Security-Policy in the page forbids the rest). Keys, paths and reasons come from untrusted data and are escaped;
characters that are invisible or change the reading direction are shown as `\\u202e`.

    totals = Totals(rows_in=1000, alive=300, dropped=690, quarantined=10)
    page = render(ReportData(title="laion-dbp", command="curate run laion.yaml", created="2025-01-31", totals=totals))
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Annotated

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from pydantic import Field

from curate.report import charts, heat
from curate.report.labels import Labels, tags
from curate.report.values import Count, DataUri, Model, Uid

SHOWN_CONCEPTS = 6
"""Concepts listed at either end of the quota table, and so the ones worth a thumbnail."""

_UNREADABLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories that a reader cannot see, or that reorder what he sees."""


class Totals(Model):
    """Where the rows of the input are now; `rows_in` should equal the sum of the other three."""

    rows_in: Count
    alive: Count
    dropped: Count
    quarantined: Count

    @property
    def unaccounted(self) -> int:
        """Rows that the three outcomes leave out (positive) or count twice (negative); 0 when the numbers add up."""
        return self.rows_in - self.alive - self.dropped - self.quarantined


class FunnelStage(Model):
    """One stage of the run. `reasons` counts what left here, rows in quarantine included; `seconds` is wall time."""

    stage: str
    kind: str
    rows_before: Count
    rows_after: Count
    reasons: dict[str, Count] = Field(default_factory=dict)
    quarantined: Count = 0
    seconds: Annotated[float, Field(ge=0)] = 0.0
    reused: bool = False

    @property
    def left(self) -> int:
        """Rows that left the run at this stage."""
        return self.rows_before - self.rows_after


class BrokenSample(Model):
    """A sample in quarantine: it could not be read, and `status` and `detail` say why."""

    uid: Uid
    key: str
    shard: str
    status: str
    detail: str = ""


class Quarantine(Model):
    """All broken samples by number, the first of them by name."""

    total: Count = 0
    by_status: dict[str, Count] = Field(default_factory=dict)
    rows: tuple[BrokenSample, ...] = ()


class Concept(Model):
    """A concept and its quota. `kept` counts what the quota let through; a saturated concept keeps everything it has.

    `complexity` = `d_intra` x `d_inter` (cosine distances); None where the metric has none.
    """

    concept: Count
    size: Count
    quota: Count
    kept: Count
    d_intra: float | None = None
    d_inter: float | None = None
    complexity: float | None = None
    saturated: bool = False
    thumbnails: tuple[DataUri, ...] = ()

    @property
    def share(self) -> float:
        """Kept over size, 0 to 1 (0 for an empty concept)."""
        return self.kept / self.size if self.size else 0.0


class Allocation(Model):
    """How freely the quotas could follow complexity.

    `saturated_share`: share of concepts at their upper bound, 0 to 1. `shift_over_mean_target`: what each free concept
    got on top of its target, in mean targets. `complexity_spread`: largest less smallest complexity. `target_ratio`:
    largest over smallest target. `at_floor_share`, `at_cap_share`: share stopped by a floor or a cap. `n`: samples to
    keep. `warnings`: whole sentences.
    """

    n: Count
    saturated_share: Annotated[float, Field(ge=0, le=1)]
    at_floor_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    at_cap_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    target_ratio: float | None = None
    warnings: tuple[str, ...] = ()
    shift_over_mean_target: float | None = None
    complexity_spread: float | None = None
    temperature: float | None = None


class Keeper(Model):
    """The sample of a duplicate group that stayed."""

    uid: Uid
    key: str
    thumb: DataUri | None = None


class Duplicate(Model):
    """A sample that went because of its keeper: `exact` means the same image bytes, `similarity` is the cosine of the
    vectors, `bits` how many bits of the perceptual hashes differ.
    """

    uid: Uid
    key: str
    thumb: DataUri | None = None
    similarity: Annotated[float, Field(ge=-1.01, le=1.01)] | None = None
    bits: Annotated[int, Field(ge=0, le=64)] | None = None
    exact: bool = False


class DuplicateGroup(Model):
    """A keeper and what it stands for."""

    keeper: Keeper
    dropped: tuple[Duplicate, ...]


class Planted(Model):
    """Duplicates planted for a demonstration, and how many of them were found."""

    found: Count
    planted: Count


class Recall(Model):
    """What the comparison across concepts may have missed. Of `audited` samples all concepts were asked, so
    `with_duplicate` of them have an earlier duplicate; `found` were seen to. `low` to `high` is a 95 % interval.
    """

    audited: Count
    with_duplicate: Count
    found: Count
    low: Annotated[float, Field(ge=0, le=1)]
    high: Annotated[float, Field(ge=0, le=1)]

    @property
    def share(self) -> float:
        """Found over with_duplicate."""
        return self.found / self.with_duplicate if self.with_duplicate else 0.0


class Threshold(Model):
    """Where a dedup stage drew the line: `kept` of `of` samples at `epsilon`, and at other values of it.

    `curve` holds (epsilon, kept, share kept), ascending. `recall` is None when nothing was audited, or nothing can be
    missed (`complete`).
    """

    step: str
    epsilon: Annotated[float, Field(ge=0, le=1)]
    kept: Count
    of: Count
    curve: tuple[tuple[float, int, float], ...] = ()
    recall: Recall | None = None
    complete: bool = False


class Duplicates(Model):
    """`count` samples dropped as duplicates: `exact_count` by their bytes, `hash_count` by their perceptual hash, the
    others by their vectors; a few groups to look at.
    """

    count: Count
    exact_count: Count
    hash_count: Count = 0
    thresholds: tuple[Threshold, ...] = ()
    groups: tuple[DuplicateGroup, ...] = ()
    planted: dict[str, Planted] | None = None


class Release(Model):
    """What was written. `sha256` is the manifest's, in hex; `bytes` counts all shards."""

    path: str
    shards: Count
    samples: Count
    bytes: Count
    sha256: str


class Made(Model):
    """A sample that the run made."""

    uid: Uid
    key: str
    labels: tuple[int, ...] = ()
    thumb: DataUri | None = None


class ReportData(Model):
    """Everything a report says. A part that is None or empty gets one plain sentence instead of its section.

    `created` is printed as given, so the same data make the same page. A next step is a command, optionally followed
    by two spaces, `#` and what it shows.
    """

    title: str
    command: str
    created: str
    totals: Totals
    funnel: tuple[FunnelStage, ...] = ()
    quarantine: Quarantine = Quarantine()
    concepts: tuple[Concept, ...] = ()
    allocation: Allocation | None = None
    duplicates: Duplicates | None = None
    labels: Labels | None = None
    """What the stages `relabel` and `label_sets` found; a run without them has no such section."""
    release: Release | None = None
    made: tuple[Made, ...] | None = None
    """The first samples of a run that made them all; None for a run that read an input."""
    next_steps: tuple[str, ...] = ()


def contradictions(data: ReportData) -> list[str]:
    """Each place where the numbers do not add up, as a sentence; the page shows them at its top."""
    found = []
    totals = data.totals
    if totals.unaccounted:
        found.append(
            f"{totals.rows_in:,} rows came in, but kept, dropped and quarantined rows make "
            f"{totals.rows_in - totals.unaccounted:,}."
        )
    for stage in data.funnel:
        named = sum(stage.reasons.values())
        if named != stage.left:
            found.append(f"Stage {visible(stage.stage)} lost {stage.left:,} rows, but its reasons count {named:,}.")
    for before, after in pairwise(data.funnel):
        if before.rows_after != after.rows_before:
            found.append(
                f"Stage {visible(before.stage)} left {before.rows_after:,} rows, "
                f"but stage {visible(after.stage)} started with {after.rows_before:,}."
            )
    if data.funnel and data.funnel[0].rows_before != totals.rows_in:
        found.append(f"The first stage started with {data.funnel[0].rows_before:,} rows of {totals.rows_in:,}.")
    if data.funnel and data.funnel[-1].rows_after != totals.alive:
        found.append(f"The last stage left {data.funnel[-1].rows_after:,} rows, but {totals.alive:,} count as kept.")
    if data.release and data.release.samples != totals.alive:
        found.append(f"The release holds {data.release.samples:,} samples, but {totals.alive:,} rows were kept.")
    return found


def concepts_to_show(concepts: Sequence[Concept], shown: int = SHOWN_CONCEPTS) -> tuple[list[Concept], list[Concept]]:
    """The concepts with the largest and with the smallest quotas, each largest first, none in both.

    Ties go to the larger concept, then to the smaller number, so the order given does not matter. O(k log k).
    """
    ranked = sorted(concepts, key=lambda c: (-c.quota, -c.size, c.concept))
    largest = ranked[:shown]
    return largest, ranked[len(largest) :][-shown:] if shown else []


def render(summary: ReportData) -> str:
    """The report as one HTML document (a str to be written as UTF-8).

    Pure: the same data give the same text. Memory: the data and the page; a chart has at most `charts.MAX_POINTS`
    points.
    """
    largest, smallest = concepts_to_show(summary.concepts)
    page = _template().render(
        data=summary,
        contradictions=contradictions(summary),
        largest=largest,
        smallest=smallest,
        outcome=charts.outcome_bar(summary.totals.alive, summary.totals.dropped, summary.totals.quarantined),
        complexity_chart=charts.complexity_scatter(
            [(c.concept, c.complexity, c.share, c.saturated) for c in summary.concepts if c.complexity is not None]
        ),
        quota_chart=charts.quota_scatter([(c.concept, c.size, c.quota, c.saturated) for c in summary.concepts]),
        max_points=charts.MAX_POINTS,
        stage_bar=charts.stage_bar,
        meter=charts.meter,
        kept_curve=charts.kept_curve,
        tags=tags,
        scale=heat.scale(),
    )
    return page.strip() + "\n"


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("curate.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    environment.filters.update(
        count=lambda value: f"{value:,}",
        percent=charts.percent,
        duration=duration,
        size=size,
        number=lambda value, digits=3: "–" if value is None else f"{value:.{digits}f}",
        step=lambda line: [part.strip() for part in line.partition("  #")][::2],
    )
    return environment.get_template("report.html.j2")


def visible(text: str) -> str:
    r"""Text with its control, formatting, separator and surrogate characters spelled out, as in `\u202e`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(char) if unicodedata.category(char) in _UNREADABLE else char for char in text)


def _escape(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


def duration(seconds: float) -> str:
    """Seconds as a person says them: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 40 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def size(nbytes: int) -> str:
    """Bytes in decimal units with three digits or so: `999 B`, `1.23 MB`, `45.6 GB`."""
    value = float(nbytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{nbytes:,} B" if unit == "B" else f"{value:,.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"
