"""`dedup-similarity`: the highest similarity of every sample to an earlier one. Comes just before every `dedup`.

Within a concept all pairs are compared. A row is also sent to other concepts that can hold a duplicate of it (the
bisector rule, `curate.dedup.bisector`): to `probes` of them, or to all. Of a sample of the rows, drawn by uid, all
concepts that qualify are asked beside that; what only they find decides nothing, but tells how much the budget misses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from curate.dedup.forest import cross_forest, forest
from curate.dedup.semantic import cross_similarity, max_similarity, semantic_duplicates
from curate.engine.exchange import Bucket, Buckets, Records, Worked
from curate.engine.state import keep
from curate.errors import SpecError
from curate.stages.base import Columns, Stage, State, Totals
from curate.stages.config import Reference, StageConfig
from curate.stages.keepers import uid_texts
from curate.stages.order import PATTERN, Order
from curate.stages.part import Part
from curate.stages.probing import both_ways, drawn_rows, one_way
from curate.stages.vectors import alive_vectors
from curate.store.artifacts import Artifact

Rule = Literal["paper", "greedy", "components"]
Probes = Annotated[int, Field(ge=0)] | Literal["all"]

_PLACE = [("part", "u4"), ("row", "u4")]
_DTYPE = np.dtype([("key", "u4"), *_PLACE, ("uid_hi", "u8"), ("uid_lo", "u8"), ("first", "i8"), ("as", "u1")])
_OWN, _PROBE, _AUDIT = 0, 1, 2
"""What a record is in its bucket: of the concept, sent there to be compared, sent there for the audit only."""
_BACK = np.dtype(
    [*_PLACE, ("similarity", "f8"), ("of_part", "u4"), ("of_row", "u4"), ("of_hi", "u8"), ("of_lo", "u8"),
     ("of_first", "i8"), ("as", "u1")]
)  # fmt: skip
_FOUND, _AUDITED, _LINK = 0, 1, 2
"""What a record is on its way back: an earlier sample, one that only the audit found, a neighbour in the forest."""
_LINKED = pl.List(pl.Struct({"uid": pl.String(), "part": pl.UInt32(), "row": pl.UInt32(), "similarity": pl.Float64()}))
_SHARE_ROWS = 50_000
"""About so many rows are probed before the exchange, to see how many records each concept will get."""
_EMIT_BYTES = 64 << 20
"""Records and vectors of probes are handed over in pieces of this size."""


class SimilarityConfig(StageConfig):
    """What is compared; made by `dedup`."""

    within: Annotated[str | None, Reference({"cluster"})] = None
    embedding: Annotated[str | None, Reference({"embed", "read_embeddings"}, follow="within")] = None
    epsilon_max: float = Field(ge=0, le=1)
    rule: Rule = "paper"
    order: str = Field("hard", pattern=PATTERN)
    probes: Probes = 0
    audit: float = Field(0.0, ge=0)


class SimilarityStage(Stage[SimilarityConfig]):
    """Adds similarity, and which sample it is to. Drops nothing: `dedup` does, at any epsilon up to `epsilon_max`."""

    kind = "dedup-similarity"
    VERSION = 1
    Config = SimilarityConfig

    @property
    def uses_seed(self) -> bool:  # type: ignore[override]
        """Only the audit draws."""
        return self._audits

    def columns(self) -> dict[str, pl.DataType]:
        """similarity: null below 1 - epsilon_max. audited: over all concepts; 0 below, null where not drawn."""
        found: dict[str, pl.DataType] = {
            "similarity": pl.Float64(),
            "duplicate_of": pl.String(),
            "of_part": pl.UInt32(),
            "of_row": pl.UInt32(),
        }
        if self._audits:
            found["audited"] = pl.Float64()
        if self.config.rule == "components":
            found |= {"order_key": pl.Int64(), "links": _LINKED}
        return found

    def reads(self) -> tuple[str, ...]:
        """Concepts, vectors, uids, and the column of the order."""
        return tuple(dict.fromkeys((next(iter(self.context.schema)), self._within, self._embedding, self._order.step)))

    def check(self) -> None:
        """The column of the order must be there; concepts of other vectors say nothing of other concepts."""
        _ = self._order
        clustered = self.context.referred.get(self._within, {}).get("embedding", self._embedding)
        if clustered != self._embedding and (self.config.probes != 0 or self._audits):
            raise SpecError(
                f"stage {self.context.step.removesuffix('-similarity')} compares vectors of {self._embedding}, but "
                f"{self._within} clustered those of {clustered}, so its concepts do not tell which others can hold a "
                f"duplicate; cluster {self._embedding} and name that with within, or set probes: 0 and audit: 0"
            )

    @property
    def _within(self) -> str:
        return str(self.context.references["within"])

    @property
    def _embedding(self) -> str:
        return str(self.context.references["embedding"])

    @property
    def _audits(self) -> bool:
        """Whether rows are audited: not where nothing can be missed."""
        return self.config.probes != "all" and self.config.audit > 0

    def _audit(self, alive: int) -> float:
        """Share of the rows that are audited."""
        return (self.config.audit if self.config.audit <= 1 else self.config.audit / max(alive, 1)) * self._audits

    @property
    def _order(self) -> Order:
        dedup = self.context.step.removesuffix("-similarity")
        return Order.of(self.config.order, self._within, self.context.schema, f"stage {dedup}")

    # --- how many records each concept gets ---------------------------------------------------------------------------

    def summarise(self, part: Part, totals: Totals, state: State) -> dict[str, NDArray[Any]]:
        """Alive rows per concept, the probes of some of them, and the length of a vector."""
        concept = part.columns(f"{self._within}.concept").to_series()
        mine = concept.filter(pl.Series(part.alive)).drop_nulls().to_numpy()
        concepts, counts = np.unique(mine, return_counts=True)
        dim = np.asarray(part.vectors(self._embedding).shape[1])
        found = {"concepts": concepts, "counts": counts, "dim": dim}
        if self.config.probes == 0 and not self._audits:
            return found
        rows, vectors = self._rows(part)
        # the draw only decides how buckets are cut, never a result: any share of the uids' hash will do
        audit = self._audit(totals.alive)
        few = drawn_rows(rows["uid_hi"], rows["uid_lo"], self._share(totals.alive), 0, self.kind)
        asked, times = [np.zeros(0, dtype=np.int64)], 0
        for _, concept_of, kind in self._probed(rows[few], vectors[few], self._centroids(totals), audit):
            asked.append(concept_of)
            times += int((kind == _PROBE).sum())
        to, probes = np.unique(np.concatenate(asked), return_counts=True)
        return found | {"to": to, "probes": probes, "drawn": np.asarray([int(few.sum()), times])}

    def _centroids(self, totals: Totals) -> NDArray[np.float32]:
        """Of the cluster stage; kept by the worker."""

        def read() -> NDArray[np.float32]:
            centroids = totals.artifacts(self._within)["centroids"]
            assert isinstance(centroids, np.ndarray)
            return centroids

        step = next(layer for layer in totals.layers if layer.step == self._within)
        return keep(f"{totals.workspace.url}/{step.folder}/{step.artifacts}/centroids", read)

    @staticmethod
    def _share(alive: int) -> float:
        return min(1.0, _SHARE_ROWS / max(alive, 1))

    def reduce(self, summaries: Iterator[dict[str, NDArray[Any]]], totals: Totals, state: State) -> dict[str, Artifact]:
        """Records of each concept, about: how the exchange is cut. Memory: O(k), and the centroids."""
        centroids = self._centroids(totals)
        sizes, probes = np.zeros(len(centroids), dtype=np.int64), np.zeros(len(centroids), dtype=np.int64)
        drawn, dim = np.zeros(2, dtype=np.int64), 0
        for summary in summaries:
            sizes[summary["concepts"]] += summary["counts"]
            dim = int(summary["dim"])
            if "to" in summary:
                probes[summary["to"]] += summary["probes"]
                drawn += summary["drawn"]
        records = sizes + np.ceil(probes / self._share(totals.alive)).astype(np.int64)
        per_row = float(drawn[1] / drawn[0]) if drawn[0] else 0.0
        facts = {"dim": dim, "audit": self._audit(totals.alive), "probes_per_row": per_row}
        return {"sizes": sizes, "records": records, "work": facts, "centroids": centroids}

    def buckets(self, artifacts: Mapping[str, Artifact], totals: Totals) -> Buckets:
        """Neighbouring concepts together, by the bytes of their records and vectors."""
        records, facts = artifacts["records"], artifacts["work"]
        assert isinstance(records, np.ndarray)
        assert isinstance(facts, dict)
        return Buckets.by_weight(records * (_DTYPE.itemsize + 2 * facts["dim"]))

    # --- rows to their concept, and to others -------------------------------------------------------------------------

    def _rows(self, part: Part) -> tuple[NDArray[Any], NDArray[np.float16]]:
        """A record for each alive row that has a concept and a vector, and the vectors."""
        frame = part.columns("uid_hi", "uid_lo", f"{self._within}.concept")
        has = frame[f"{self._within}.concept"].is_not_null().to_numpy()
        index, vectors = alive_vectors(part, self._embedding, has)
        frame = frame[index.tolist()]
        rows = np.zeros(len(index), dtype=_DTYPE)
        rows["key"] = frame[f"{self._within}.concept"].to_numpy()
        rows["part"], rows["row"] = part.index, index
        rows["uid_hi"], rows["uid_lo"] = frame["uid_hi"].to_numpy(), frame["uid_lo"].to_numpy()
        rows["first"] = self._order.keys(part, index)
        return rows, vectors

    def emit(self, part: Part, artifacts: Mapping[str, Artifact]) -> Iterator[Records]:
        """Each row to its own concept, then the probes in pieces. Memory: the vectors of the part and a piece."""
        rows, vectors = self._rows(part)
        yield Records(rows, vectors)
        if self.config.probes == 0 and not self._audits:
            return
        centroids, facts = artifacts["centroids"], artifacts["work"]
        assert isinstance(centroids, np.ndarray)
        assert isinstance(facts, dict)
        step = max(1, _EMIT_BYTES // (_DTYPE.itemsize + 2 * vectors.shape[1]))
        for row, concept, kind in self._probed(rows, vectors, centroids, facts["audit"]):
            for at in range(0, len(row), step):
                sent = rows[row[at : at + step]]
                sent["key"], sent["as"] = concept[at : at + step], kind[at : at + step]
                yield Records(sent, vectors[row[at : at + step]])

    def _probed(
        self,
        rows: NDArray[Any],
        vectors: NDArray[np.float16],
        centroids: NDArray[np.float32],
        audit: float,
        block: int = 8192,
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]]:
        """(row, concept, what for) of all that is sent to another concept, for blocks of rows."""
        budget = None if self.config.probes == "all" else self.config.probes
        audited = drawn_rows(rows["uid_hi"], rows["uid_lo"], audit, self.context.seed, self.context.step)
        for start in range(0, len(rows), block):
            mine, x = rows["key"][start : start + block].astype(np.int32), vectors[start : start + block]
            row, concept = one_way(x, mine, centroids, self.config.epsilon_max, budget)
            kind = np.full(len(row), _PROBE, dtype=np.uint8)
            drawn = np.flatnonzero(audited[start : start + block])
            if len(drawn):
                others = both_ways(x[drawn], mine[drawn], centroids, self.config.epsilon_max)
                k = len(centroids)
                more = np.setdiff1d(drawn[others[0]] * k + others[1], row * k + concept)
                row, concept = np.concatenate([row, more // k]), np.concatenate([concept, more % k])
                kind = np.concatenate([kind, np.full(len(more), _AUDIT, dtype=np.uint8)])
            yield start + row, concept, kind

    # --- comparing ----------------------------------------------------------------------------------------------------

    def work(self, bucket: Bucket, artifacts: Mapping[str, Artifact]) -> Worked:
        """Each concept of the bucket in turn. Memory: a block of similarities; vectors on scratch disk when large."""
        rows = bucket.rows
        if not len(rows):
            return Worked(np.zeros(0, dtype=_BACK))
        order = np.lexsort((rows["uid_lo"], rows["uid_hi"], rows["first"], rows["as"], rows["key"]))
        rows, vectors = rows[order], bucket.vectors(order)
        ends = [*np.flatnonzero(np.diff(rows["key"].astype(np.int64), prepend=-1)).tolist(), len(rows)]
        back = [np.zeros(0, dtype=_BACK)]
        for start, stop in pairwise(ends):
            cuts = start + np.searchsorted(rows["as"][start:stop], [_OWN, _PROBE, _AUDIT, _AUDIT + 1])
            own, probe, audit = ((rows[a:b], vectors[a:b]) for a, b in pairwise(cuts.tolist()))
            back += self._concept(own, probe, audit)
        return Worked(np.concatenate(back))

    def _concept(self, own: _Side, probe: _Side, audit: _Side) -> Iterator[NDArray[Any]]:
        """What goes back from one concept."""
        epsilon = self.config.epsilon_max
        if self.config.rule == "greedy":
            found = semantic_duplicates(own[1], epsilon=epsilon, rule="greedy")
            gone = np.flatnonzero(~found.keep)
            yield _back(own[0][gone], own[0][found.duplicate_of[gone]], found.similarity[gone], _FOUND)
        else:
            inside = max_similarity(own[1], epsilon_max=epsilon)
            at = np.flatnonzero(inside.exact)
            yield _back(own[0][at], own[0][inside.duplicate_of[at]], inside.similarity[at], _FOUND)
        if len(probe[0]) and len(own[0]):
            for to, of, found_there in zip(
                (own, probe), (probe, own), cross_similarity(*_sides(own, probe), epsilon_max=epsilon), strict=True
            ):
                at = np.flatnonzero(found_there.exact)
                yield _back(to[0][at], of[0][found_there.duplicate_of[at]], found_there.similarity[at], _FOUND)
        if len(audit[0]) and len(own[0]):
            _, of_audit = cross_similarity(*_sides(own, audit), epsilon_max=epsilon)
            at = np.flatnonzero(of_audit.exact)
            yield _back(audit[0][at], own[0][of_audit.duplicate_of[at]], of_audit.similarity[at], _AUDITED)
        if self.config.rule == "components":
            edges = forest(own[1], epsilon=epsilon)
            yield from _linked(own, own, edges)
            if len(probe[0]) and len(own[0]):
                yield from _linked(own, probe, cross_forest(own[1], probe[1], epsilon=epsilon))

    # --- back to the rows ---------------------------------------------------------------------------------------------

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """Of all that was found for a row, the most similar one; of equals the first in the order."""
        assert back is not None
        found = _best(back[back["as"] == _FOUND])
        frame = pl.DataFrame(
            {
                "row": found["row"],
                "similarity": found["similarity"],
                "duplicate_of": uid_texts(found["of_hi"], found["of_lo"]),
                "of_part": found["of_part"],
                "of_row": found["of_row"],
            },
            schema_overrides={"row": pl.UInt32(), "duplicate_of": pl.String()},
        )
        everything = pl.DataFrame({"row": np.arange(part.rows, dtype=np.uint32)})
        frame = everything.join(frame, on="row", how="left", maintain_order="left")
        if self._audits:
            facts = artifacts["work"]
            assert isinstance(facts, dict)
            frame = frame.with_columns(audited=self._audited(part, back, facts["audit"]))
        if self.config.rule == "components":
            links = _best(back[back["as"] == _LINK], one_of_each=True)
            frame = frame.join(_neighbours(links), on="row", how="left", maintain_order="left")
            keys = self._order.keys(part, np.arange(part.rows))
            frame = frame.with_columns(order_key=pl.when(pl.col("links").is_not_null()).then(pl.Series(keys)))
        return Columns(frame.drop("row"))

    def _audited(self, part: Part, back: NDArray[Any], audit: float) -> pl.Series:
        uids = part.columns("uid_hi", "uid_lo", f"{self._within}.concept")
        hi, lo = uids["uid_hi"].to_numpy(), uids["uid_lo"].to_numpy()
        drawn = drawn_rows(hi, lo, audit, self.context.seed, self.context.step) & part.alive
        drawn &= uids[f"{self._within}.concept"].is_not_null().to_numpy()
        best = np.zeros(part.rows)
        any_way = back[back["as"] != _LINK]
        np.maximum.at(best, any_way["row"], any_way["similarity"])
        return pl.DataFrame({"best": best, "drawn": drawn}).select(pl.when("drawn").then("best")).to_series()


_Side = tuple[NDArray[Any], NDArray[np.float16]]
"""Records in the global order, and their vectors."""


def _sides(
    own: _Side, probe: _Side
) -> tuple[NDArray[np.float16], NDArray[np.float16], NDArray[np.int64], NDArray[np.int64]]:
    """What `cross_similarity` wants: vectors of both sides, and the places of their rows in one order."""
    both = np.concatenate([own[0], probe[0]])
    rank = np.empty(len(both), dtype=np.int64)
    rank[np.lexsort((both["uid_lo"], both["uid_hi"], both["first"]))] = np.arange(len(both))
    return own[1], probe[1], rank[: len(own[0])], rank[len(own[0]) :]


def _back(rows: NDArray[Any], of: NDArray[Any], similarity: NDArray[np.float64], kind: int) -> NDArray[Any]:
    back = np.zeros(len(rows), dtype=_BACK)
    back["part"], back["row"], back["similarity"], back["as"] = rows["part"], rows["row"], similarity, kind
    back["of_part"], back["of_row"], back["of_first"] = of["part"], of["row"], of["first"]
    back["of_hi"], back["of_lo"] = of["uid_hi"], of["uid_lo"]
    return back


def _linked(left: _Side, right: _Side, edges: NDArray[np.int64], block: int = 4096) -> Iterator[NDArray[Any]]:
    """Edges (left, right) for both of their ends, with the exact similarity: float64 sums of float16 products are."""
    for at in range(0, len(edges), block):
        a, b = edges[at : at + block].T
        x, y = np.asarray(left[1][a]).astype(np.float64), np.asarray(right[1][b]).astype(np.float64)
        norms = np.einsum("ij,ij->i", x, x) * np.einsum("ij,ij->i", y, y)
        similarity = np.minimum(np.einsum("ij,ij->i", x, y) / np.sqrt(norms), 1.0)
        yield _back(left[0][a], right[0][b], similarity, _LINK)
        yield _back(right[0][b], left[0][a], similarity, _LINK)


def _best(found: NDArray[Any], one_of_each: bool = False) -> NDArray[Any]:
    """The most similar record of each row, the first in the order among equals, by row; with one_of_each all of them,
    each neighbour once.
    """
    order = np.lexsort((found["of_lo"], found["of_hi"], found["of_first"], -found["similarity"], found["row"]))
    found = found[order]
    new = np.ones(len(found), dtype=bool)
    new[1:] = found["row"][1:] != found["row"][:-1]
    if one_of_each:
        new[1:] |= (found["of_part"][1:] != found["of_part"][:-1]) | (found["of_row"][1:] != found["of_row"][:-1])
    return found[new]


def _neighbours(links: NDArray[Any]) -> pl.DataFrame:
    frame = pl.DataFrame(
        {
            "row": links["row"],
            "uid": uid_texts(links["of_hi"], links["of_lo"]),
            "part": links["of_part"],
            "at": links["of_row"],
            "similarity": links["similarity"],
        },
        schema_overrides={"uid": pl.String()},
    )
    link = pl.struct("uid", "part", pl.col("at").alias("row"), "similarity")
    return frame.select("row", links=link).group_by("row", maintain_order=True).agg("links")
