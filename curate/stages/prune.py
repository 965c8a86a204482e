"""`prune`: keep exactly the number asked for, by quotas per concept (DBP) or one ranking with floors (SSP, random)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from curate.concepts.assign import DISTANCE_SCALE
from curate.engine.exchange import Bucket, Buckets, Records, Worked
from curate.errors import SpecError
from curate.pruning import thresholds
from curate.pruning.allocate import allocate, lower_bounds, targets
from curate.pruning.complexity import complexity, d_inter, d_intra
from curate.pruning.metrics import metric
from curate.pruning.select import Which, select
from curate.stages.base import Again, Columns, Stage, State, Totals
from curate.stages.config import Reference, StageConfig
from curate.stages.part import Part
from curate.store.artifacts import Artifact
from curate.store.uids import hash64

_DTYPE = np.dtype([("key", "u4"), ("part", "u4"), ("row", "u4"), ("uid_hi", "u8"), ("uid_lo", "u8"), ("score", "i8")])
_BACK = np.dtype([("part", "u4"), ("row", "u4")])


class PruneConfig(StageConfig):
    """How much stays, and by which metric."""

    keep: float = Field(gt=0, description="Share of the base to keep (at most 1), or a number of samples (above 1).")
    of: Literal["input", "deduplicated", "alive"] = Field(
        "alive", description="Base of a share: all samples read, those alive after the last dedup, or those alive now."
    )
    metric: Literal["dbp", "ssp", "random"] = Field(
        "dbp", description="How samples are ranked and the budget is shared."
    )
    within: Annotated[str | None, Reference({"cluster"})] = Field(
        None, description="Cluster stage that gives concepts and distances; default: the nearest before."
    )
    which: Literal["hard", "easy"] = Field(
        "hard", description="hard keeps samples far from their centroid (much data), easy those near it (little data)."
    )
    temperature: float = Field(0.1, gt=0, description="dbp: softmax temperature of complexity; 0.1 in the paper.")
    neighbours: int = Field(20, ge=1, description="dbp: nearest other centroids that d_inter averages over (l).")
    balance: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Every concept keeps this share of its fair share; default 0 for dbp and random, 0.5 for ssp.",
    )
    allocation: Literal["additive", "proportional"] = Field(
        "additive", description="dbp: what full concepts leave over is spread equally (the paper) or in proportion."
    )


class PruneStage(Stage[PruneConfig]):
    """Writes the quotas (concepts.parquet) and, per row, keep and score. Exactly the number asked for is kept."""

    kind = "prune"
    VERSION = 1
    Config = PruneConfig
    drops = True

    def __init__(self, config: PruneConfig, context: Any) -> None:
        super().__init__(config, context)
        self._metric = metric(config.metric)

    @property
    def uses_seed(self) -> bool:  # type: ignore[override]
        """Only the random metric draws."""
        return self._metric.needs == "draw"

    @property
    def _within(self) -> str:
        return str(self.context.references["within"])

    @property
    def balance(self) -> float:
        """Class balance ratio, the metric's default when not given."""
        return self.config.balance if self.config.balance is not None else (0.5 if self._metric.name == "ssp" else 0.0)

    def check(self) -> None:
        """A number of samples must be whole; a share of the deduplicated needs a dedup."""
        if self.config.keep > 1 and self.config.keep != int(self.config.keep):
            raise SpecError(
                f"stage {self.context.step}: keep is {self.config.keep}; "
                "give a share up to 1 or a whole number of samples"
            )
        if self.config.of == "deduplicated" and not any("duplicate_of" in s for s in self.context.schema.values()):
            raise SpecError(
                f"stage {self.context.step}: of: deduplicated needs a dedup stage before it; add one or use alive"
            )

    def needs_samples(self) -> int:
        """The number to keep, when it is given as a number."""
        return int(self.config.keep) if self.config.keep > 1 else 0

    def columns(self) -> dict[str, pl.DataType]:
        """score: what the metric ranks by, high = hard; in units of 2^-32 for dbp and ssp. Null when not alive."""
        return {"score": pl.Int64()}

    def reads(self) -> tuple[str, ...]:
        """Concepts, distances, uids."""
        return (next(iter(self.context.schema)), self._within)

    def _rows(self, part: Part) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]]]:
        frame = part.columns("uid_hi", "uid_lo", f"{self._within}.concept", f"{self._within}.distance")
        index = np.flatnonzero(part.alive & frame[f"{self._within}.concept"].is_not_null().to_numpy())
        frame = frame[index.tolist()]
        hi, lo = frame["uid_hi"].to_numpy(), frame["uid_lo"].to_numpy()
        distance = np.rint(frame[f"{self._within}.distance"].to_numpy() * DISTANCE_SCALE).astype(np.int64)
        needed = distance if self._metric.needs == "distance" else hash64(hi, lo, self.context.seed, self.context.step)
        return index, {
            "concept": frame[f"{self._within}.concept"].to_numpy(),
            "score": self._metric.score(needed),
            "uid_hi": hi,
            "uid_lo": lo,
            "distance": distance,
        }

    def _budget(self, totals: Totals, counts: NDArray[np.int64]) -> int:
        alive = int(counts.sum())
        if self.config.keep > 1:
            budget, base, name = int(self.config.keep), alive, "alive"
        else:
            dedups = [layer.step for layer in totals.layers if layer.kind == "dedup"]
            bases = {
                "input": totals.rows,
                "alive": alive,
                "deduplicated": totals.alive_after[dedups[-1]] if dedups else 0,
            }
            base, name = bases[self.config.of], self.config.of
            # the share as the decimal it is written as: 0.3 of 10 is 3, not 2.999...
            budget = int(Fraction(repr(self.config.keep)) * base)
        if not 0 < budget <= alive:
            raise SpecError(
                f"stage {self.context.step} is to keep {budget} samples (keep {self.config.keep:g} of {base} {name}) "
                f"but {alive} are alive there; lower keep, or choose another base with `of`"
            )
        return budget

    def summarise(self, part: Part, totals: Totals, state: State) -> dict[str, NDArray[Any]]:
        """First pass: counts and sums per concept. Later passes, for one ranking: counts inside the window."""
        _, rows = self._rows(part)
        if not state:
            concepts, inverse, counts = np.unique(rows["concept"], return_inverse=True, return_counts=True)
            sums = np.zeros(len(concepts), dtype=np.int64)
            np.add.at(sums, inverse, rows["distance"])
            score = rows["score"]
            ends = [score.min(), score.max()] if len(score) else [np.iinfo(np.int64).max, np.iinfo(np.int64).min]
            return {"concepts": concepts, "counts": counts, "sums": sums, "ends": np.asarray(ends, dtype=np.int64)}
        window = _window(state)
        inside = thresholds.count(window, rows["concept"], rows["score"], rows["uid_hi"], rows["uid_lo"])
        flat = inside.reshape(-1)
        return {"at": np.flatnonzero(flat), "n": flat[np.flatnonzero(flat)], "shape": np.asarray(inside.shape)}

    def reduce(
        self, summaries: Iterator[dict[str, NDArray[Any]]], totals: Totals, state: State
    ) -> dict[str, Artifact] | Again:
        """Quotas. Memory: O(k), or O(k x bins) for one ranking."""
        if state:
            return self._narrow(summaries, totals, state)
        centroids = totals.artifacts(self._within)["centroids"]
        assert isinstance(centroids, np.ndarray)
        counts, sums = np.zeros(len(centroids), dtype=np.int64), np.zeros(len(centroids), dtype=np.int64)
        low, high = np.iinfo(np.int64).max, np.iinfo(np.int64).min
        for summary in summaries:
            counts[summary["concepts"]] += summary["counts"]
            sums[summary["concepts"]] += summary["sums"]
            low, high = min(low, summary["ends"][0]), max(high, summary["ends"][1])
        budget = self._budget(totals, counts)
        floor = lower_bounds(counts, budget, self.balance)
        if self._metric.budget == "global":
            window = thresholds.whole(len(counts), int(low), int(high), per_concept=False, which=self.config.which)
            carried = {"counts": counts, "sums": sums, "floor": floor, "budget": np.asarray(budget)}
            if window.done:
                return self._artifacts(totals, carried, thresholds.quotas(window, floor))
            return Again(_state(window) | carried)
        return self._artifacts(
            totals, {"counts": counts, "sums": sums, "floor": floor, "budget": np.asarray(budget)}, None
        )

    def _narrow(
        self, summaries: Iterator[dict[str, NDArray[Any]]], totals: Totals, state: State
    ) -> dict[str, Artifact] | Again:
        window = _window(state)
        counts: NDArray[np.int64] | None = None
        for summary in summaries:
            if counts is None:
                counts = np.zeros(tuple(summary["shape"]), dtype=np.int64)
            counts.reshape(-1)[summary["at"]] += summary["n"]
        assert counts is not None
        window = thresholds.to_total(window, counts, int(state["budget"]), state["floor"])
        if window.done:
            return self._artifacts(totals, state, thresholds.quotas(window, state["floor"]))
        return Again({**state, **_state(window)})

    def _artifacts(self, totals: Totals, state: State, quota: NDArray[np.int64] | None) -> dict[str, Artifact]:
        counts, budget = state["counts"], int(state["budget"])
        centroids = totals.artifacts(self._within)["centroids"]
        assert isinstance(centroids, np.ndarray)
        intra, inter = d_intra(state["sums"], counts), d_inter(centroids, self.config.neighbours)
        score = complexity(intra, inter)
        share = targets(score, self.config.temperature, budget, counts)
        diagnostics: dict[str, Any] = {"metric": self._metric.name, "which": self.config.which, "budget": budget}
        if quota is None:
            allocation = allocate(share, state["floor"], counts, budget, rule=self.config.allocation)
            quota = allocation.quota
            diagnostics |= {
                "temperature": self.config.temperature,
                "at_lower_share": allocation.at_lower_share,
                "shift_over_mean_target": allocation.shift_over_mean_target,
            }
        members = counts > 0
        diagnostics |= {
            "concepts": int(members.sum()),
            "saturated_share": int(((quota == counts) & members).sum()) / int(members.sum()),
            "complexity_min": float(score[members].min()),
            "complexity_max": float(score[members].max()),
        }
        table = pl.DataFrame(
            {
                "concept": np.arange(len(counts), dtype=np.int32),
                "size": counts,
                "d_intra": intra,
                "d_inter": inter,
                "complexity": score,
                "target": share,
                "quota": quota,
                "saturated": (quota == counts) & members,
            }
        ).with_columns(pl.when(pl.col("size") > 0).then(name).alias(name) for name in ("d_intra", "complexity"))
        return {"concepts": table, "diagnostics": diagnostics}

    def buckets(self, artifacts: Mapping[str, Artifact], totals: Totals) -> Buckets:
        """Neighbouring concepts together."""
        table = artifacts["concepts"]
        assert isinstance(table, pl.DataFrame)
        return Buckets.by_weight(table["size"].to_numpy() * _DTYPE.itemsize)

    def emit(self, part: Part, artifacts: Mapping[str, Artifact]) -> Records:
        """One small record for each alive row."""
        index, values = self._rows(part)
        rows = np.zeros(len(index), dtype=_DTYPE)
        rows["key"], rows["part"], rows["row"] = values["concept"], part.index, index
        for name in ("uid_hi", "uid_lo", "score"):
            rows[name] = values[name]
        return Records(rows)

    def work(self, bucket: Bucket, artifacts: Mapping[str, Artifact]) -> Worked:
        """Exactly the quota of each concept; ties by uid."""
        table = artifacts["concepts"]
        assert isinstance(table, pl.DataFrame)
        rows = bucket.rows
        if not len(rows):
            return Worked(np.zeros(0, dtype=_BACK))
        keep = select(
            rows["key"].astype(np.int32),
            rows["score"],
            rows["uid_hi"],
            rows["uid_lo"],
            table["quota"].to_numpy(),
            self.config.which,
        )
        back = np.zeros(int(keep.sum()), dtype=_BACK)
        back["part"], back["row"] = rows["part"][keep], rows["row"][keep]
        return Worked(back)

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """Rows that came back stay."""
        assert back is not None
        index, values = self._rows(part)
        keep = np.zeros(part.rows, dtype=bool)
        keep[back["row"]] = True
        score = np.zeros(part.rows, dtype=np.int64)
        score[index] = values["score"]
        has = np.zeros(part.rows, dtype=bool)
        has[index] = True
        frame = pl.DataFrame({"score": score, "has": has, "keep": keep})
        return Columns(
            frame.select(
                pl.when("has").then("score").alias("score"),
                "keep",
                reason=pl.when("has").then(pl.lit("over_quota")).otherwise(pl.lit("no_concept")),
            )
        )


def _state(window: thresholds.Window) -> dict[str, NDArray[Any]]:
    numbers = np.asarray(
        [window.bits, window.word, window.width, window.which == "hard", window.passes], dtype=np.int64
    )
    arrays = {"low": window.low, "before": window.before, "settled": window.settled, "nothing": window.nothing}
    return {"numbers": numbers, **arrays}


def _window(state: State) -> thresholds.Window:
    bits, word, width, hard, passes = (int(value) for value in state["numbers"])
    which: Which = "hard" if hard else "easy"
    low, before, settled, nothing = (state[name] for name in ("low", "before", "settled", "nothing"))
    return thresholds.Window(which, bits, word, width, low, before, settled, nothing, passes)
