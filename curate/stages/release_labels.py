"""Label maps and label sets of a release: members, arrays beside the shards, and what a sample's json says.

What never lives here: how maps are made (relabel.py) or which labels count (label_sets.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.errors import InputError
from curate.formats.label_maps import FOLDER, INFO, MEMBER, MapsInfo, array_header, member_bytes
from curate.stages.base import Totals
from curate.stages.part import Part
from curate.stages.release_files import Files, put_json
from curate.store.artifacts import Artifact
from curate.store.workspace import Workspace

Where = Literal["both", "member", "array", "none"]
Maps = list[NDArray[np.void]]
"""Records of consecutive pieces of a shard, each a view or a memory map."""

FROM_SETS = ("labels", "best", "best_name", "outcome", "suspect")
_MAP_ROW = "map_row"
_CHUNK = 1024
"""Records that are gathered at once: 5.5 MB at 5,400 bytes each."""


@dataclass(frozen=True)
class Labels:
    """Which steps of a pipeline a release takes maps and label sets from (None: it has no such step), and where to."""

    maps: str | None
    sets: str | None
    where: Where

    @classmethod
    def of(cls, schema: Mapping[str, Mapping[str, pl.DataType]], where: Where) -> Labels:
        """The last steps that write them, known by their columns."""
        maps = [step for step, columns in schema.items() if _MAP_ROW in columns] if where != "none" else []
        sets = [step for step, columns in schema.items() if {"labels", "outcome"} <= set(columns)]
        return cls(maps[-1] if maps else None, sets[-1] if sets else None, where)

    def identity(self) -> dict[str, Any]:
        """Nothing for a release without labels."""
        told = {"label_maps": [self.maps, self.where] if self.maps else None, "label_sets": self.sets}
        return {name: value for name, value in told.items() if value is not None}

    @property
    def columns(self) -> dict[str, str]:
        """Column -> step, of what goes into the table of samples."""
        return {} if self.sets is None else dict.fromkeys(FROM_SETS, self.sets)

    # --- what is known of the whole release ---------------------------------------------------------------------------

    def artifacts(self, totals: Totals) -> dict[str, Artifact]:
        """`label_maps` as the relabel step told it, `label_names`: class number as text -> name."""
        made: dict[str, Artifact] = {}
        if self.maps is not None:
            info = MapsInfo.model_validate(totals.artifacts(self.maps)["label_maps"])
            made["label_maps"] = info.model_dump(mode="json")
        if self.sets is not None:
            told = totals.artifacts(self.sets)["label_sets"]
            assert isinstance(told, dict)
            made["label_names"] = told["names"]
        return made

    def finish(self, target: Workspace, artifacts: Mapping[str, Artifact]) -> Files:
        """label_maps.json, where the release has maps."""
        if self.maps is None:
            return {}
        info = artifacts["label_maps"]
        assert isinstance(info, dict)
        return put_json(target, INFO, info)

    # --- samples ------------------------------------------------------------------------------------------------------

    def records(self, part: Part, rows: NDArray[np.int64]) -> Picked | None:
        """The maps of these rows of a part, in their order; None for a release without maps.

        Raises InputError when an alive sample has none, which a relabel step does not leave.
        """
        if self.maps is None:
            return None
        places = part.columns(f"{self.maps}.{_MAP_ROW}")[f"{self.maps}.{_MAP_ROW}"][rows.tolist()]
        if places.null_count():
            raise InputError(
                f"stage {self.maps} left a sample of {part.source.label} without a label map; run again with "
                "--retry-failed, or release with label_maps: none"
            )
        held = part.vectors(self.maps, "maps") if len(places) else np.empty(0, np.void(b"").dtype)
        return Picked(held, places.to_numpy().astype(np.int64))

    def members(
        self,
        members: dict[str, bytes],
        record: NDArray[np.void] | None,
        table: pl.DataFrame,
        row: int,
        names: Mapping[str, str],
        where: str,
    ) -> dict[str, bytes]:
        """The members of a sample with its label map and, in its json, its labels.

        table, row: where the table of samples says its labels. A label map that came with the input is replaced.
        """
        if record is not None and self.where in ("both", "member"):
            members = members | {MEMBER: member_bytes(record)}
        if self.sets is not None and table["outcome"][row] is not None:
            sample = table.row(row, named=True)
            shown = [one for one in sample["labels"] or () if one["decision"] != "drop"]
            told = {"labels": [_label(one, names) for one in shown], "outcome": sample["outcome"]}
            members = members | {"json": with_labels(members.get("json"), told, where)}
        return members

    def write(self, target: Workspace, stem: str, pieces: Sequence[Picked], order: NDArray[np.int64] | None) -> Files:
        """`label_maps/<stem>.npy`: row i is the map of row i of the shard's table; nothing without maps.

        order: for each row of the table its place among the records of `pieces`; None: as they are. Memory: 1,024
        records beside the memory maps.
        """
        if self.maps is None or self.where not in ("both", "array"):
            return {}
        ends = np.cumsum([len(piece.rows) for piece in pieces])
        wanted = np.arange(ends[-1]) if order is None else order
        name = f"{FOLDER}/{stem}.npy"
        digest, nbytes = hashlib.sha256(), 0
        with target.create(name) as out:
            for data in self._bytes(pieces, ends, wanted):
                out.write(data)
                digest.update(data)
                nbytes += len(data)
        return {name: [nbytes, digest.hexdigest()]}

    @staticmethod
    def _bytes(pieces: Sequence[Picked], ends: NDArray[Any], wanted: NDArray[np.int64]) -> Iterator[bytes]:
        yield array_header(next(piece.held.dtype for piece in pieces if len(piece.rows)), len(wanted))
        for start in range(0, len(wanted), _CHUNK):
            for place in wanted[start : start + _CHUNK].tolist():
                piece = int(np.searchsorted(ends, place, side="right"))
                before = int(ends[piece - 1]) if piece else 0
                yield pieces[piece][place - before].tobytes()


@dataclass(frozen=True)
class Picked:
    """Records `held` of a part, of which `rows` are meant, in that order."""

    held: NDArray[np.void]
    rows: NDArray[np.int64]

    def __getitem__(self, place: int) -> NDArray[np.void]:
        at = int(self.rows[place])
        return self.held[at : at + 1]


def _label(one: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    number = one["class"]
    name = {"name": names[str(number)]} if str(number) in names else {}
    corners = [one[side] for side in ("y0", "x0", "y1", "x1")]
    return {
        "class": number,
        **name,
        "probability": _short(one["probability"]),
        "box": None if any(value is None for value in corners) else [_short(value) for value in corners],
        "decision": one["decision"],
    }


def _short(value: float) -> float:
    """The shortest number that is the same float32."""
    return float(str(np.float32(value)))


def with_labels(data: bytes | None, told: Mapping[str, Any], where: str) -> bytes:
    """A json member with the entries `told` as its last ones; all other bytes stay.

    One that has entries of these names is written anew: the old ones move to `source_<name>`. Raises InputError, which
    names `where`, for a json that is no object.
    """
    if data is None:
        return json.dumps(told).encode()
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InputError(
            f"{where}: its json member is no object, so it cannot hold the labels of the sample; drop such samples, or "
            "release without a stage label_sets"
        )
    if value.keys() & told.keys():
        kept = {f"source_{name}" if name in told else name: one for name, one in value.items()}
        return json.dumps({**kept, **told}).encode()
    end = data.rindex(b"}")
    entries = json.dumps(told)[1:].encode()
    return data[:end] + (b", " if value else b"") + entries + data[end + 1 :]
