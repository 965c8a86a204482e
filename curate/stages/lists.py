"""`lists`: keep or drop the samples whose uid, or another text column, stands in a file; for opt-out and takedown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from curate.engine.state import keep
from curate.errors import InputError, SpecError
from curate.formats.datacomp import Subset, contains, positions, records
from curate.formats.value_lists import UID, ValueList, code_texts, kind_of, read_list, some_values
from curate.stages.base import Columns, Stage, State, Totals
from curate.stages.config import StageConfig
from curate.stages.part import Part
from curate.store import urls
from curate.store.artifacts import Artifact
from curate.store.fingerprint import fingerprint

SHOWN = 10
"""Entries that match no sample that are named."""
Files = str | Annotated[list[str], Field(min_length=1)] | None


class ListsConfig(StageConfig):
    """Which files, and what they list."""

    allow: Files = Field(None, description="Only samples in one of these lists stay: a path or URL, or several.")
    deny: Files = Field(None, description="Samples in one of these lists go, also when they are allowed.")
    column: str = Field(
        UID, min_length=1, description="What the lists hold: uid, or a text column of an earlier step, such as sha256."
    )

    @model_validator(mode="after")
    def _some(self) -> ListsConfig:
        if not self.files("allow") and not self.files("deny"):
            raise ValueError("give allow or deny, a file or several; without one the stage does nothing")
        return self

    def files(self, role: str) -> tuple[str, ...]:
        """The files of `allow` or `deny`, as they are given."""
        given = getattr(self, role)
        return () if given is None else (given,) if isinstance(given, str) else tuple(given)


class ListsStage(Stage[ListsConfig]):
    """`deny` wins over `allow`; a missing value is in no list. A list counts by its content, not by its name."""

    kind = "lists"
    VERSION = 1
    Config = ListsConfig
    drops = True
    depends = "part"
    not_hashed = frozenset({"allow", "deny"})

    lists: tuple[ValueList, ...] | None = None
    """In the order of `_named`; loaded once a worker and never sent to another."""
    _kinds: Sequence[str] = ()
    _urls: Sequence[str] = ()
    _sha256: Sequence[str] = ()

    def columns(self) -> dict[str, pl.DataType]:
        """Only bookkeeping."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "lists"}

    @property
    def _named(self) -> list[tuple[str, str]]:
        """(role, file as given) of every list."""
        return [(role, file) for role in ("allow", "deny") for file in self.config.files(role)]

    @property
    def _column(self) -> str:
        """The column without its step."""
        return self.config.column.rpartition(".")[2]

    def reads(self) -> tuple[str, ...]:
        """The step that has the column; none when there is no such column."""
        schema = self.context.schema
        if self.config.column == UID:
            return (next(iter(schema)),)
        step = self.config.column.rpartition(".")[0]
        owners = [name for name in reversed(list(schema)) if self._column in schema[name] and step in ("", name)]
        return tuple(owners[:1])

    def check(self) -> None:
        """Read every list once, so that a missing file or a bad line is found before work starts."""
        given = f"the option column of stage {self.context.step} is {self.config.column}"
        schema = self.context.schema
        if not self.reads():
            texts = {name for columns in schema.values() for name, dtype in columns.items() if dtype == pl.String}
            known = ", ".join(sorted(texts - {"reason"}))
            raise SpecError(f"{given}, which no earlier step writes; text columns so far are {known}, and {UID}")
        if self.config.column != UID and schema[self.reads()[0]][self._column] != pl.String:
            dtype = schema[self.reads()[0]][self._column]
            raise SpecError(f"{given}, which holds {dtype}; lists hold {UID} or a text column")
        self._kinds = [kind_of(file) for _, file in self._named]
        # workers may have another working folder
        self._urls = [str(urls.resolve(file)[1]) if _is_path(file) else file for _, file in self._named]
        self._sha256 = [read_list(url, self._column).sha256 for url in self._urls]

    def identity(self) -> dict[str, Any]:
        """What the lists hold."""
        told = [f"{kind} {sha}" for kind, sha in zip(self._kinds, self._sha256, strict=True)]
        split = len(self.config.files("allow"))
        return {"allow": told[:split], "deny": told[split:]}

    def setup(self) -> None:
        """Load the lists: 16 bytes an entry, none for a subset on local disk."""
        self.lists = self._loaded()

    def _loaded(self) -> tuple[ValueList, ...]:
        loaded = tuple(read_list(url, self._column) for url in self._urls)
        for (_, file), one, sha256 in zip(self._named, loaded, self._sha256, strict=True):
            if one.sha256 != sha256:
                raise InputError(f"{file}: the list changed while the run was at work; run the same command again")
        return loaded

    def _kept(self) -> tuple[ValueList, ...]:
        """The lists of the reduce, which knows no setup; freed when the worker turns to something else."""
        return keep(f"lists/{fingerprint(self._urls, self.config.column, self._sha256)}", self._loaded)

    # --- what matches nothing -----------------------------------------------------------------------------------------

    def summarise(self, part: Part, totals: Totals, state: State) -> dict[str, NDArray[Any]]:
        """Which entries of each list stand in this part, of dropped samples too. Memory: the column of the part."""
        codes, known = self._codes(part)
        codes = codes[known]
        found = {}
        for number, one in enumerate(self._kept()):
            at = np.unique(positions(one.codes, codes["f0"], codes["f1"]))
            found[str(number)] = at[at >= 0]
        return found

    def reduce(self, summaries: Iterator[dict[str, NDArray[Any]]], totals: Totals, state: State) -> dict[str, Artifact]:
        """How many entries of each list match a sample, and the first that match none. Memory: 1 byte an entry."""
        lists = self._kept()
        lost = [np.ones(len(one.codes), dtype=bool) for one in lists]
        for summary in summaries:
            for number, left in enumerate(lost):
                left[summary[str(number)]] = False
        told: list[dict[str, Any]] = []
        for (role, file), url, one, left in zip(self._named, self._urls, lists, lost, strict=True):
            told.append(
                {
                    "list": role,
                    "file": file,
                    "entries": len(left),
                    "unmatched": int(left.sum()),
                    "first_unmatched": some_values(url, self._column, one.codes, left, SHOWN),
                }
            )
        return {"matches": {"column": self.config.column, "lists": told}}

    # --- the decision -------------------------------------------------------------------------------------------------

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """Look every row up in every list. Memory: the column of the part, and 40 bytes a row."""
        assert self.lists is not None
        codes, known = self._codes(part)
        inside = {"allow": np.zeros(len(known), dtype=bool), "deny": np.zeros(len(known), dtype=bool)}
        for (role, _), one in zip(self._named, self.lists, strict=True):
            inside[role] |= contains(one.codes, codes["f0"], codes["f1"]) & known
        allowed = inside["allow"] if self.config.files("allow") else np.ones(len(known), dtype=bool)
        frame = pl.DataFrame({"allowed": allowed, "denied": inside["deny"]})
        return Columns(
            frame.select(
                keep=pl.col("allowed") & ~pl.col("denied"),
                reason=pl.when("denied").then(pl.lit("denied")).otherwise(pl.lit("not_allowed")),
            )
        )

    def _codes(self, part: Part) -> tuple[Subset, NDArray[np.bool_]]:
        """The code of every row, and whether it has a value at all."""
        if self.config.column == UID:
            index = next(iter(self.context.schema))
            frame = part.columns(f"{index}.uid_hi", f"{index}.uid_lo")
            return records(*(series.to_numpy() for series in frame)), np.ones(frame.height, dtype=bool)
        values = part.columns(f"{self.reads()[0]}.{self._column}").to_series()
        # read_list takes blanks off, too
        return code_texts([value.strip() for value in values.fill_null("")]), values.is_not_null().to_numpy()


def _is_path(url: str) -> bool:
    return urls.split_protocol(url)[0] == "file"
