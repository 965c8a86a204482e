"""`prune`: keep exactly the number asked for, by quotas per concept or by one ranking with floors per group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from curate.errors import SpecError
from curate.pruning.hierarchical import split
from curate.pruning.search import Search, restored, start
from curate.stages.base import Again, Columns, Stage, State, Totals
from curate.stages.config import Reference, StageConfig
from curate.stages.part import Part
from curate.stages.prune_budget import Arrays, Sharing, bounds, check_budgets, number, shared, tables
from curate.stages.prune_cuts import cuts_table, searches_of
from curate.stages.prune_rows import ALL, LABEL, Reader, Rows
from curate.store.artifacts import Artifact

_SPARSE = ("at", "n")


class PruneConfig(StageConfig):
    """How much stays, and by which metric."""

    keep: float = Field(gt=0, description="Share of the base to keep (at most 1), or a number of samples (above 1).")
    of: Literal["input", "deduplicated", "alive"] = Field(
        "alive", description="Base of a share: all samples read, those alive after the last dedup, or those alive now."
    )
    nested: tuple[float, ...] | None = Field(
        None, description="Smaller budgets inside this one, each a share or a number as in keep."
    )
    metric: str = Field(
        "dbp",
        min_length=1,
        description="How samples are ranked: dbp, ssp, random, or an earlier score stage or column of numbers.",
    )
    within: Annotated[
        str | None, Reference({"cluster"}, optional=True, words=frozenset({LABEL, ALL}), named={"label_sets"})
    ] = Field(
        None,
        description="Groups: a cluster stage (default: the nearest before), a label_sets stage (its best labels), "
        "label (the classes) or all (one).",
    )
    which: Literal["hard", "easy", "middle", "random"] = Field(
        "hard",
        description="Samples kept of a ranking: the highest, the lowest, those around the median, or drawn ones.",
    )
    share: Literal["complexity", "global"] | None = Field(
        None, description="Quotas per concept, or one ranking with floors; default: complexity for dbp, else global."
    )
    complexity: Literal["product", "sum", "intra", "inter"] = Field(
        "product", description="Complexity of a concept: d_intra x d_inter (the paper), their sum, or one alone."
    )
    temperature: float = Field(0.1, gt=0, description="Softmax temperature of complexity; 0.1 in the paper.")
    neighbours: int = Field(20, ge=1, description="Nearest other centroids that d_inter averages over (l).")
    balance: float | None = Field(
        None, ge=0, le=1, description="Every group keeps this share of its fair share; default 0.5 for ssp, else 0."
    )
    cap: float | None = Field(
        None, gt=0, description="Most a group may keep: a share of the budget (at most 1), or a number (above 1)."
    )
    allocation: Literal["additive", "proportional", "hierarchical"] = Field(
        "additive",
        description="What full concepts leave over: spread equally (the paper), in proportion, or along a tree.",
    )
    tree: Annotated[str | None, Reference({"hierarchy"}, optional=True)] = Field(
        None, description="allocation: hierarchical: hierarchy stage that gives the tree; default: the nearest before."
    )
    repeats: int = Field(
        1, ge=1, le=1000, description="How often a sample may be seen where its concept is smaller than its quota."
    )


class PruneStage(Stage[PruneConfig]):
    """Writes the quotas (concepts.parquet) and, per row, keep and score. Exactly the number asked for is kept.

    The budgets are searched one after another, smallest first: `search` finds the cuts in a few passes over the parts,
    so memory is O(concepts), however large a concept is.
    """

    kind = "prune"
    VERSION = 3
    Config = PruneConfig
    drops = True

    # --- options ----------------------------------------------------------------------------------------------------

    @property
    def uses_seed(self) -> bool:  # type: ignore[override]
        """Only draws use it, and the hierarchical rule for what cannot be shared evenly."""
        return self.reader.draws or self._hierarchical

    @cached_property
    def reader(self) -> Reader:
        """What rows are read."""
        given = self.config.within
        within = given if given in (LABEL, ALL) else self.context.references.get("within")
        return Reader(self.context, self.config.metric, self.config.which, within or ALL)

    @property
    def _hierarchical(self) -> bool:
        return self.config.allocation == "hierarchical"

    @property
    def _tree(self) -> str | None:
        return self.context.references.get("tree") if self._hierarchical else None

    @property
    def sharing(self) -> Sharing:
        """The options that decide quotas, with the defaults of the metric where none is given."""
        config = self.config
        share = config.share or ("complexity" if config.metric == "dbp" or self._hierarchical else "global")
        balance = config.balance if config.balance is not None else 0.5 if config.metric == "ssp" else 0.0
        return Sharing(
            step=self.context.step,
            by_complexity=share == "complexity",
            allocation=config.allocation,
            mode=config.complexity,
            temperature=config.temperature,
            neighbours=config.neighbours,
            balance=0.0 if self._hierarchical else balance,
            cap=config.cap,
            repeats=config.repeats,
            seed=self.context.seed,
        )

    def identity(self) -> dict[str, Any]:
        """Groups that are no step."""
        return {} if self.reader.by_step else {"within": self.reader.within}

    def check(self) -> None:
        """What the columns and the options say together."""
        config, sharing, reader = self.config, self.sharing, self.reader
        _ = reader.column
        moving = config.which == "middle" and (sharing.balance > 0 or config.cap is not None)
        numbers = [config.keep, *(config.nested or ()), config.cap or 1]
        levelled = self.context.referred.get(self._tree or "", {}).get("within", reader.within)
        dedup = any("duplicate_of" in columns for columns in self.context.schema.values())
        for wrong, told in (
            (any(value > 1 and value != int(value) for value in numbers), (
                f"keep is {config.keep}; give a share up to 1 or a whole number of samples, also in nested and cap")),
            (config.of == "deduplicated" and not dedup, (
                "of: deduplicated needs a dedup stage before it; add one or use alive")),
            (sharing.by_complexity and not reader.by_concept, (
                "quotas by complexity need the concepts of an earlier cluster stage; add one, name it with within, or "
                "use share: global")),
            (self._hierarchical and self._tree is None, (
                "allocation: hierarchical needs an earlier hierarchy stage; add one before it")),
            (self._hierarchical and (config.share == "global" or bool(config.balance)), (
                "allocation: hierarchical shares the budget itself; leave share and balance out")),
            (self._tree is not None and reader.by_concept and levelled != reader.within, (
                f"the tree {self._tree} stands on the concepts of {levelled}, not on those of {reader.within}; name "
                "the same cluster stage in both")),
            (config.tree is not None and not self._hierarchical, (
                "tree is for allocation: hierarchical; set that too, or leave tree out")),
            (config.repeats > 1 and (not sharing.by_complexity or bool(config.nested)), (
                "repeats goes with quotas (share: complexity or allocation: hierarchical) and without nested")),
            (bool(config.nested) and moving and not sharing.by_complexity, (
                "nested with which: middle needs quotas (share: complexity), or no balance and no cap")),
        ):  # fmt: skip
            if wrong:
                raise SpecError(f"stage {self.context.step}: {told}")

    def needs_samples(self) -> int:
        """The number to keep, when it is given as a number."""
        return -(-int(self.config.keep) // self.config.repeats) if self.config.keep > 1 else 0

    def columns(self) -> dict[str, pl.DataType]:
        """score: what the metric ranks by, high = hard. budget: of nested ones, the smallest that keeps the row."""
        columns: dict[str, pl.DataType] = {"score": pl.Int64()}
        if self.config.repeats > 1:
            columns |= {"repeats": pl.UInt16(), "weight": pl.Float64()}
        if self.config.nested:
            columns["budget"] = pl.Float64()
        return columns

    def reads(self) -> tuple[str, ...]:
        """Groups, scores, uids; the tree."""
        return self.reader.reads() + (() if self._tree is None else (self._tree,))

    # --- budgets ----------------------------------------------------------------------------------------------------

    def _budgets(self, totals: Totals, there: int) -> tuple[list[int], list[float]]:
        """Samples of every budget and what it is called, smallest first."""
        dedups = [layer.step for layer in totals.layers if layer.kind in ("dedup", "dedup_hash")]
        bases = {
            "input": totals.rows,
            "alive": totals.alive,
            "deduplicated": totals.alive_after[dedups[-1]] if dedups else 0,
        }
        base = bases[self.config.of]
        values = [*(self.config.nested or ()), self.config.keep]
        budgets = check_budgets(
            self.context.step, values, base, self.config.of, there, self.config.repeats, totals.alive
        )
        names = sorted(values, key=lambda value: number(value, base))
        if names[-1] != self.config.keep:
            raise SpecError(
                f"stage {self.context.step}: nested has {names[-1]:g}, more than keep ({self.config.keep:g})"
            )
        return budgets, names

    def _groups(self, rows: Rows, labels: NDArray[Any] | None) -> NDArray[np.int32]:
        """Number of each row's group."""
        return rows.group if labels is None else np.searchsorted(labels, rows.group).astype(np.int32)

    def summarise(self, part: Part, totals: Totals, state: State) -> dict[str, NDArray[Any]]:
        """First pass: counts and sums per group. Later passes: counts inside the windows of the search."""
        rows = self.reader.rows(part)
        if not state:
            groups, first, inverse, counts = np.unique(
                rows.group, return_index=True, return_inverse=True, return_counts=True
            )
            sums = np.zeros(len(groups), dtype=np.int64)
            if rows.distance is not None:
                np.add.at(sums, inverse, rows.distance)
            ends = [rows.key.min(), rows.key.max()] if len(rows.key) else []
            found = {"groups": groups, "counts": counts, "sums": sums, "ends": np.asarray(ends, dtype=np.int64)}
            return found if rows.name is None else found | {"called": rows.name[first]}
        windows = restored(state, "search.").count(
            self._groups(rows, state.get("labels")), rows.key, rows.uid_hi, rows.uid_lo
        )
        return {f"{name}.{what}": a for name, pair in windows.items() for what, a in zip(_SPARSE, pair, strict=True)}

    def reduce(
        self, summaries: Iterator[dict[str, NDArray[Any]]], totals: Totals, state: State
    ) -> dict[str, Artifact] | Again:
        """Quotas and cuts. Memory: O(k x bins), 8 MiB a window with up to 2^19 concepts."""
        if not state:
            base = self._counted(summaries, totals)
            budgets, names = self._budgets(totals, int(base["counts"].sum()))
            cluster = self.reader.within if self.reader.by_concept else None
            base |= shared(self.sharing, totals, base, budgets, cluster, self._tree)
            base |= {"budgets": np.asarray(budgets), "names": np.asarray(names), "passes": np.asarray(1)}
            return self._onwards(base, None)
        search = restored(state, "search.")
        counts = {name: np.zeros(search.shape(name), dtype=np.int64) for name in search.open}
        for summary in summaries:
            for name, array in counts.items():
                array.reshape(-1)[summary[f"{name}.at"]] += summary[f"{name}.n"]
        kept = {name: array for name, array in state.items() if not name.startswith("search.")}
        kept["passes"] = np.asarray(int(kept["passes"]) + 1)
        return self._onwards(kept, search.narrowed(counts))

    def _counted(self, summaries: Iterator[dict[str, NDArray[Any]]], totals: Totals) -> Arrays:
        within, ends, called = self.reader.within, list[int](), dict[int, str]()
        known: NDArray[Any] = np.zeros(1, dtype=np.int32)
        if self.reader.by_concept:
            known = np.arange(len(totals.artifacts(within)["centroids"]))  # type: ignore[arg-type]
        elif self.reader.by_class:
            known = np.zeros(0, dtype=np.uint32 if self.reader.by_best else np.str_)
        counts, sums = np.zeros(len(known), dtype=np.int64), np.zeros(len(known), dtype=np.int64)
        for summary in summaries:
            groups = summary["groups"]
            if self.reader.by_class and (new := np.setdiff1d(groups, known)).size:
                larger = np.union1d(known, new)
                at = np.searchsorted(larger, known)
                known, old = larger, counts
                counts, sums = np.zeros(len(known), dtype=np.int64), np.zeros(len(known), dtype=np.int64)
                counts[at] = old  # classes have no sums of distances
            at = np.searchsorted(known, groups)
            counts[at] += summary["counts"]
            sums[at] += summary["sums"]
            ends += summary["ends"].tolist()
            ends = [min(ends), max(ends)] if ends else []
            if "called" in summary:
                called = dict(zip(groups.tolist(), summary["called"].tolist(), strict=True)) | called
        base = {"counts": counts, "sums": sums, "ends": np.asarray(ends, dtype=np.int64)}
        if self.reader.by_best:
            base["called"] = np.asarray([called[number] for number in known.tolist()], dtype=np.str_)
        return base | ({"labels": known} if self.reader.by_class else {})

    def _onwards(self, state: Arrays, search: Search | None) -> dict[str, Artifact] | Again:
        """The next pass of a search, the search of the next budget, or the end."""
        budgets = state["budgets"].tolist()
        done = [i for i in range(len(budgets)) if f"done.{i}.which" in state]
        while True:
            if search is not None and not search.done:
                return Again(state | search.arrays("search."))
            if search is not None:
                state = state | search.arrays(f"done.{len(done)}.") | {f"kept.{len(done)}": search.quotas()}
                done.append(len(done))
            if len(done) == len(budgets):
                return self._artifacts(state, budgets)
            i = len(done)
            floor, limit = bounds(self.sharing, state, i, budgets[i], state[f"kept.{i - 1}"] if i else None)
            total = int(floor.sum()) if f"quota.{i}" in state else budgets[i]
            low, high = state["ends"].tolist()
            search = start(state["counts"], low, high, total, floor=floor, limit=limit, which=self.config.which)

    def _artifacts(self, state: Arrays, budgets: list[int]) -> dict[str, Artifact]:
        quotas = [state.get(f"quota.{i}", state[f"kept.{i}"]) for i in range(len(budgets))]
        names = state["names"].tolist()
        table, facts = tables(self.sharing, state, budgets, names, quotas)
        given = {"metric": self.config.metric, "which": self.config.which, "within": self.reader.within}
        facts = given | facts | {"passes": int(state["passes"])}
        searches = [(name, restored(state, f"done.{i}.")) for i, name in enumerate(names)]
        return {"concepts": table, "diagnostics": facts, "cuts": cuts_table(searches)}

    # --- rows -------------------------------------------------------------------------------------------------------

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """Compare every row with the cuts of its concept, or of all."""
        rows = self.reader.rows(part)
        table = artifacts["concepts"]
        assert isinstance(table, pl.DataFrame)
        labels: NDArray[Any] | None = None
        if self.reader.by_class:
            labels = table["class"].to_numpy() if self.reader.by_best else np.asarray(table["label"], dtype=np.str_)
        group = self._groups(rows, labels)
        quota, size = table["quota"].to_numpy(), table["size"].to_numpy()
        repeats, budget = np.zeros(len(group), dtype=np.int64), np.zeros(len(group))
        cuts, facts = artifacts["cuts"], artifacts["diagnostics"]
        assert isinstance(cuts, pl.DataFrame)
        assert isinstance(facts, dict)
        names = [one["budget"] for one in facts.get("nested", [])] or [self.config.keep]
        for name, search in reversed(searches_of(cuts, names, self.config.which, len(size))):
            inside = search.keep(group, rows.key, rows.uid_hi, rows.uid_lo)
            repeats[inside] = 1
            budget[inside] = name
        if self.config.repeats > 1:
            repeats += split(quota, size)[0][group]
        return Columns(self._frame(part, rows, repeats, (quota / np.maximum(size, 1))[group], budget))

    def _frame(
        self,
        part: Part,
        rows: Rows,
        repeats: NDArray[np.int64],
        ratio: NDArray[np.float64],
        budget: NDArray[np.float64],
    ) -> pl.DataFrame:
        found = pl.DataFrame(
            {
                "row": rows.index.astype(np.int64),
                "score": rows.score,
                "keep": repeats > 0,
                "repeats": repeats.astype(np.uint16),
                "weight": np.maximum(ratio, 1.0),
                "budget": budget,
            }
        )
        kept = pl.when("keep")
        found = found.with_columns(kept.then(name).alias(name) for name in ("repeats", "weight", "budget"))
        frame = pl.DataFrame({"row": np.arange(part.rows, dtype=np.int64)}).join(found, on="row", how="left")
        return frame.with_columns(pl.col("keep").fill_null(False), rows.reason).drop("row")
