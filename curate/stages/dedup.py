"""`dedup`: drops semantic duplicates (SemDeDup, Abbas et al. 2023) by the similarities of the step before it.

`dedup-similarity` has compared the samples; here the threshold is chosen (from `epsilon`, or from how many are to stay)
and every dropped sample gets its keeper. So another epsilon, up to `epsilon_max`, costs no second comparison.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Annotated, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from curate.dedup import curve
from curate.errors import SpecError
from curate.stages import keepers
from curate.stages.against import AgainstConfig, AgainstStage
from curate.stages.base import Columns, Stage, State, Totals
from curate.stages.config import Reference, StageConfig
from curate.stages.exact import ExactConfig, ExactStage
from curate.stages.keepers import Groups, Links, Spool, uid_texts
from curate.stages.order import PATTERN
from curate.stages.part import Part
from curate.stages.similarity import Probes, Rule, SimilarityConfig, SimilarityStage
from curate.store.artifacts import Artifact

EPSILON = 0.07
"""SemDeDup's at 63 % of LAION kept; used when neither epsilon nor keep is given."""
EPSILON_MAX = 0.3
"""How far the search goes with keep."""
PROBES = 2
AUDIT = 2000
_Z = 1.959963984540054  # normal quantile of a two-sided 95 % interval
_AUDITED = np.dtype([("audited", "f8"), ("found", "f8")])


class DedupConfig(StageConfig):
    """What counts as a duplicate, and which of a pair stays."""

    within: Annotated[str | None, Reference({"cluster"})] = Field(
        None, description="Cluster stage whose concepts say which pairs are compared; default: the nearest before."
    )
    embedding: Annotated[str | None, Reference({"embed", "read_embeddings"}, follow="within")] = Field(
        None, description="Embed stage whose vectors are compared; default: the one that `within` clustered."
    )
    epsilon: float | None = Field(
        None,
        ge=0,
        le=1,
        description=f"A pair of cosine similarity above 1 - epsilon is a duplicate; default {EPSILON}, without keep.",
    )
    keep: float | None = Field(
        None, gt=0, description="In place of epsilon: share of the samples to keep (at most 1), or a number (above 1)."
    )
    epsilon_max: float | None = Field(
        None,
        ge=0,
        le=1,
        description=f"Similarities are computed down to 1 - epsilon_max; default: epsilon, or {EPSILON_MAX} with keep.",
    )
    rule: Rule = Field(
        "paper",
        description="paper: drop for any earlier sample; greedy: for a kept one; components: all but one of a chain.",
    )
    order: str = Field(
        "hard",
        pattern=PATTERN,
        description="Which stays: hard = farthest from its centroid, easy, or a column and asc or desc (first stays).",
    )
    probes: Probes | None = Field(
        None,
        description=f"Other concepts a sample is compared with: a number or all; default {PROBES}, 0 with rule greedy.",
    )
    against: Annotated[list[str], Field(min_length=1)] | str | None = Field(
        None, description="Drop what is in these sets too: paths or URLs as in the stage against, which comes before."
    )
    audit: float = Field(
        AUDIT,
        ge=0,
        description="Samples that show the recall of the probes: a share (at most 1) or a number (above 1); 0 = off.",
    )

    @model_validator(mode="after")
    def _fits(self) -> DedupConfig:
        if self.epsilon is not None and self.keep is not None:
            raise ValueError("epsilon and keep are both given; leave one of them out")
        if self.keep is not None and self.keep > 1 and self.keep != int(self.keep):
            raise ValueError(f"keep is {self.keep}; give a share up to 1 or a whole number of samples")
        if self.epsilon_max is not None and self.keep is None and self.epsilon_max < self.threshold:
            raise ValueError(f"epsilon_max is {self.epsilon_max}, below epsilon {self.threshold}; raise it")
        if self.rule != "paper":
            if self.keep is not None:
                raise ValueError(
                    f"keep needs rule: paper; rule {self.rule} is worked out for one epsilon only, give it"
                )
            if self.epsilon_max not in (None, self.threshold):
                raise ValueError(f"rule {self.rule} is worked out for one epsilon only; leave epsilon_max out")
        if self.rule == "greedy" and self.probes:
            raise ValueError(
                "rule greedy compares within a concept only, because each decision waits for those before it; "
                "leave probes out, or use rule paper or components"
            )
        return self

    @property
    def threshold(self) -> float:
        """epsilon, or its default."""
        return EPSILON if self.epsilon is None else self.epsilon

    @property
    def search(self) -> SimilarityConfig:
        """What is to be compared: nothing here depends on epsilon or keep when epsilon_max is given."""
        limit = self.epsilon_max
        if limit is None:
            limit = self.threshold if self.keep is None else EPSILON_MAX
        greedy = self.rule == "greedy"
        return SimilarityConfig(
            name=None,
            within=self.within,
            embedding=self.embedding,
            epsilon_max=limit,
            rule=self.rule,
            order=self.order,
            probes=(0 if greedy else PROBES) if self.probes is None else self.probes,
            audit=0.0 if greedy else self.audit,
        )


class DedupStage(Stage[DedupConfig]):
    """Drops what is too similar to an earlier sample; names that sample and the surviving keeper."""

    kind = "dedup"
    VERSION = 2
    Config = DedupConfig
    drops = True
    not_hashed = frozenset({"against"})  # what it drops is no longer alive here

    @classmethod
    def companions_before(cls, name: str, config: StageConfig) -> list[tuple[type[Stage[Any]], StageConfig]]:
        """Byte-identical copies go first: they need no vectors. Then what other sets have. Then all is compared."""
        assert isinstance(config, DedupConfig)
        before: list[tuple[type[Stage[Any]], StageConfig]] = [(ExactStage, ExactConfig(name=f"{name}-exact"))]
        if config.against is not None:
            sets = AgainstConfig(
                name=f"{name}-against",
                references=[config.against] if isinstance(config.against, str) else config.against,
                epsilon=config.threshold,
                within=config.within,
                embedding=config.embedding,
            )
            before.append((AgainstStage, sets))
        return [*before, (SimilarityStage, config.search.model_copy(update={"name": f"{name}-similarity"}))]

    def columns(self) -> dict[str, pl.DataType]:
        """uids and the cosine similarity to duplicate_of; null for rows that stay."""
        return {"duplicate_of": pl.String(), "keeper": pl.String(), "similarity": pl.Float64()}

    def reads(self) -> tuple[str, ...]:
        """Similarities, uids."""
        return (next(iter(self.context.schema)), self._compared)

    def needs_samples(self) -> int:
        """The number to keep, when it is given as a number."""
        return int(self.config.keep) if self.config.keep is not None and self.config.keep > 1 else 0

    @property
    def _compared(self) -> str:
        return f"{self.context.step}-similarity"

    def _columns(self, part: Part, *names: str) -> pl.DataFrame:
        """Columns of the step before, by their short names."""
        return part.columns(*(f"{self._compared}.{name}" for name in names)).rename(
            {f"{self._compared}.{name}": name for name in names}
        )

    # --- the threshold, and who stays ---------------------------------------------------------------------------------

    def summarise(self, part: Part, totals: Totals, state: State) -> dict[str, NDArray[Any]]:
        """Links to earlier samples (components: edges), and what the audit found. Memory: the columns of the part."""
        if self.config.rule == "components":
            found = self._edges(part)
        else:
            frame = self._columns(part, "similarity", "duplicate_of", "of_part", "of_row")
            rows = np.flatnonzero(frame["similarity"].is_not_null().to_numpy())
            frame = frame[rows.tolist()]
            of = _uids(frame["duplicate_of"])
            found = keepers.links(
                part.rows, rows, frame["of_part"], frame["of_row"], of[:, 0], of[:, 1], frame["similarity"].to_numpy()
            )
        pairs = np.zeros(0, dtype=_AUDITED)
        drawn = 0
        if self._audited(totals):
            frame = self._columns(part, "audited", "similarity").filter(pl.col("audited").is_not_null())
            drawn, frame = frame.height, frame.filter(pl.col("audited") > 0)
            pairs = np.zeros(frame.height, dtype=_AUDITED)
            pairs["audited"], pairs["found"] = frame["audited"], frame["similarity"].fill_null(0.0)
        return found | {"pairs": pairs, "drawn": np.asarray(drawn)}

    def _edges(self, part: Part) -> dict[str, NDArray[Any]]:
        frame = self._columns(part, "order_key", "links")
        rows = np.flatnonzero(frame["order_key"].is_not_null().to_numpy())
        uids = part.columns("uid_hi", "uid_lo")[rows.tolist()]
        nodes = np.zeros(len(rows), dtype=keepers.NODE)
        nodes["row"], nodes["key"] = rows, frame["order_key"].to_numpy()[rows]
        nodes["hi"], nodes["lo"] = uids["uid_hi"], uids["uid_lo"]
        edges = frame.select(pl.int_range(pl.len()).alias("from"), "links")[rows.tolist()].explode("links")
        ends = edges["links"].struct.unnest()
        return keepers.group(
            part.rows, nodes, edges["from"].to_numpy(), ends["part"].to_numpy(), ends["row"].to_numpy()
        )

    def _audited(self, totals: Totals) -> bool:
        return any(layer.step == self._compared and "audited" in layer.columns for layer in totals.layers)

    def reduce(self, summaries: Iterator[dict[str, NDArray[Any]]], totals: Totals, state: State) -> dict[str, Artifact]:
        """The threshold, the curve, the recall and the keepers. Memory: a part and a block; see `keepers` for the local
        scratch disk that it needs.
        """
        pairs, drawn = Spool(_AUDITED), 0

        def others() -> Iterator[dict[str, NDArray[Any]]]:
            nonlocal drawn
            for summary in summaries:
                pairs.add(summary["pairs"])
                drawn += int(summary["drawn"])
                yield summary

        alive = totals.alive
        if self.config.rule == "components":
            found, gone = Groups(others()).keepers()
            epsilon, limit = self.config.threshold, self.config.threshold
            points, dropped = np.asarray([epsilon]), np.asarray([gone])
        else:
            links = Links(others())
            limit = self.config.search.epsilon_max
            epsilon = self._epsilon(links, alive)
            points = np.asarray([epsilon])
            if self.config.rule == "paper":
                points = np.union1d(curve.grid(limit), points)
            dropped = sum((curve.dropped(weights, points) for weights in links.weights()), np.zeros(len(points), int))
            gone = int(dropped[points == epsilon][0])
            found = links.keepers(above=1.0 - epsilon)
        kept = (alive - dropped).astype(np.int64)
        table = pl.DataFrame({"epsilon": points, "kept": kept, "share": kept / max(alive, 1)})
        decision = {"rule": self.config.rule, "order": self.config.order, "epsilon": epsilon, "epsilon_max": limit}
        decision |= {"keep": self.config.keep, "of": alive, "kept": alive - gone}
        return found | {"curve": table, "decision": decision, "recall": self._recall(pairs, drawn, 1.0 - epsilon)}

    def _epsilon(self, links: Links, alive: int) -> float:
        """The epsilon that is given, or the largest that keeps at least as many as are wanted."""
        if self.config.keep is None:
            return self.config.threshold
        limit, wanted = self.config.search.epsilon_max, self._wanted(alive)

        def dropped(epsilon: float) -> int:
            return int(sum(curve.dropped(weights, np.asarray([epsilon]))[0] for weights in links.weights()))

        most = dropped(limit)
        if alive - wanted > most:
            share = f" ({(alive - most) / alive:.4f} of them)" if alive else ""
            raise SpecError(
                f"stage {self.context.step} is to keep {wanted:,} of {alive:,} samples, but with epsilon_max {limit:g} "
                f"{alive - most:,} stay at the least{share}; raise epsilon_max, or keep"
            )
        found = curve.epsilon_for(links.weights, alive - wanted)
        epsilon = limit if found is None else min(found, limit)
        while dropped(epsilon) > alive - wanted:  # below 0.5 a similarity may not come back from 1 - epsilon
            epsilon = math.nextafter(epsilon, 0.0)
        return max(epsilon, 0.0)

    def _wanted(self, alive: int) -> int:
        keep = self.config.keep
        assert keep is not None
        # the share as the decimal it is written as: 0.3 of 10 is 3, not 2.999...
        wanted = int(keep) if keep > 1 else int(Fraction(repr(keep)) * alive)
        if wanted > alive:
            raise SpecError(
                f"stage {self.context.step} is to keep {wanted:,} samples but {alive:,} are alive there; lower keep"
            )
        return wanted

    def _recall(self, pairs: Spool, drawn: int, threshold: float) -> dict[str, Any]:
        """Of the audited samples that have a duplicate before them anywhere: how many were seen to have one."""
        probes = self.config.search.probes
        found = total = 0
        for _, table in pairs.tables():
            has = table["audited"] > threshold
            total += int(has.sum())
            found += int((has & (table["found"] > threshold)).sum())
        recall = 1.0 if probes == "all" else found / total if total else None
        low, high = (recall, recall) if probes == "all" else wilson(found, total)
        told = {"probes": probes, "audited": drawn, "with_duplicate": total, "found": found}
        return told | {"recall": recall, "low": low, "high": high}

    # --- the columns --------------------------------------------------------------------------------------------------

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """Mark the duplicates. Memory: the columns of the part."""
        if self.config.rule == "components":
            gone, frame, stays = self._of_groups(part, artifacts)
        else:
            decision = artifacts["decision"]
            assert isinstance(decision, dict)
            frame = self._columns(part, "similarity", "duplicate_of")
            gone = frame["similarity"].fill_null(0.0).to_numpy() > 1.0 - decision["epsilon"]
            stays = keepers.of_part(artifacts, part.index)
        texts = np.full(part.rows, None, dtype=object)
        texts[gone] = uid_texts(stays["hi"], stays["lo"])
        frame = frame.with_columns(keeper=pl.Series(texts.tolist(), dtype=pl.String), keep=pl.Series(~gone))
        return Columns(
            frame.with_columns(
                *(pl.when(~pl.col("keep")).then(name).alias(name) for name in ("duplicate_of", "similarity")),
                reason=pl.lit("semantic_duplicate"),
            )
        )

    def _of_groups(
        self, part: Part, artifacts: Mapping[str, Artifact]
    ) -> tuple[NDArray[np.bool_], pl.DataFrame, NDArray[Any]]:
        """All of a group but its first. One that has no earlier neighbour names the most similar later one."""
        frame = self._columns(part, "similarity", "duplicate_of", "links")
        first = pl.col("links").list.first().struct
        frame = frame.select(
            duplicate_of=pl.coalesce("duplicate_of", first.field("uid")),
            similarity=pl.coalesce("similarity", first.field("similarity")),
            node=pl.col("links").is_not_null(),
        )
        rows = np.flatnonzero(frame["node"].to_numpy())
        uids = part.columns("uid_hi", "uid_lo")[rows.tolist()]
        stays = keepers.of_part(artifacts, part.index)
        other = (stays["hi"] != uids["uid_hi"].to_numpy()) | (stays["lo"] != uids["uid_lo"].to_numpy())
        gone = np.zeros(part.rows, dtype=bool)
        gone[rows[other]] = True
        return gone, frame.drop("node"), stays[other]


def wilson(found: int, total: int) -> tuple[float | None, float | None]:
    """95 % interval of a share of which `found` of `total` were seen (Wilson 1927); (None, None) of nothing."""
    if not total:
        return None, None
    share, z2 = found / total, _Z * _Z
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    return (middle - half if found else 0.0), (middle + half if found < total else 1.0)


def _uids(texts: pl.Series) -> NDArray[np.uint64]:
    """uint64 [n, 2] of uids as text."""
    return np.frombuffer(bytes.fromhex("".join(texts)), dtype=">u8").astype(np.uint64).reshape(-1, 2)
