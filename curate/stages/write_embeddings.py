"""`write_embeddings`: the alive rows as a folder of embeddings in clip-retrieval's layout."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Annotated, Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from curate.formats.clip_retrieval import IMAGES, METADATA, TEXTS
from curate.stages.base import State, Totals
from curate.stages.config import Reference, StageConfig
from curate.stages.part import Part
from curate.stages.sink import Lost, Sink, Unit
from curate.store.artifacts import Artifact
from curate.store.npy import header
from curate.store.uids import format_uid
from curate.store.workspace import Workspace

FINISHED = "embeddings.json"
"""Written last: rows, dim and every file with its size and sha256."""
_BLOCK_ROWS = 65_536
_COLUMNS = ("caption", "label", "license", "source_uid")
_VECTORS = {IMAGES: ("vec_row", "image"), TEXTS: ("text_row", "text")}


class WriteEmbeddingsConfig(StageConfig):
    """Which vectors, and shape and place of the folder."""

    embedding: Annotated[str | None, Reference({"embed", "read_embeddings"})] = Field(
        None, description="Stage whose vectors are written; default: the nearest before."
    )
    rows_per_file: int = Field(1_000_000, ge=1, description="Rows in a file; the last one has what is left.")
    to: str | None = Field(
        None, description="Folder to write to; default: write_embeddings@<fingerprint> in the workspace."
    )


class WriteEmbeddingsStage(Sink[WriteEmbeddingsConfig]):
    """Rows in input order, cut into files of equal length; the same bytes for any number of workers."""

    kind = "write_embeddings"
    VERSION = 1
    Config = WriteEmbeddingsConfig

    def reads(self) -> tuple[str, ...]:
        """The index and the vectors; which rows are alive is known besides."""
        return (next(iter(self.context.schema)), self._embedding)

    @property
    def _embedding(self) -> str:
        return str(self.context.references["embedding"])

    @property
    def _kinds(self) -> list[str]:
        """Arrays that are written: those of captions only if there are any."""
        has_text = "text_row" in self.context.schema[self._embedding]
        return [IMAGES, TEXTS] if has_text else [IMAGES]

    def target(self, workspace: Workspace, whole: str) -> Workspace:
        """`to`, or a folder of the workspace that carries the fingerprint."""
        return Workspace(self.config.to) if self.config.to else workspace.sub(f"{self.context.step}@{whole}")

    def summarise(self, part: Part, totals: Totals, state: State) -> dict[str, NDArray[Any]]:
        """Rows of the part that are written, and the length of a vector."""
        dim = part.vectors(self._embedding).shape[1]
        return {"rows": np.asarray(len(self._rows(part))), "dim": np.asarray(dim)}

    def reduce(self, summaries: Iterator[dict[str, NDArray[Any]]], totals: Totals, state: State) -> dict[str, Artifact]:
        """Rows of every part, which is how files are cut. Memory: O(parts)."""
        layout, dim = [], 0
        for summary in summaries:
            layout.append(int(summary["rows"]))
            dim = int(summary["dim"])
        return {"layout": np.asarray(layout, dtype=np.int64), "vectors": {"dim": dim}}

    def _rows(self, part: Part) -> NDArray[np.int64]:
        vec_row = part.columns(f"{self._embedding}.vec_row").to_series()
        return np.flatnonzero(part.alive & vec_row.is_not_null().to_numpy())

    def units(self, artifacts: Mapping[str, Artifact], parts: int) -> list[Unit]:
        """One unit a file number."""
        layout = artifacts["layout"]
        assert isinstance(layout, np.ndarray)
        ends = np.cumsum(layout)
        units = []
        for number, start in enumerate(range(0, int(ends[-1]), self.config.rows_per_file)):
            last_row = min(start + self.config.rows_per_file, int(ends[-1])) - 1
            first, last = np.searchsorted(ends, [start, last_row], side="right")
            units.append(Unit("embeddings", number, tuple(range(int(first), int(last) + 1))))
        return units

    def write(
        self, unit: Unit, parts: Sequence[Part], artifacts: Mapping[str, Artifact], target: Workspace
    ) -> dict[str, Any]:
        """The arrays and the table of one number. Memory: 65,536 vectors, the columns of one part."""
        layout, vectors = artifacts["layout"], artifacts["vectors"]
        assert isinstance(layout, np.ndarray)
        assert isinstance(vectors, dict)
        start = unit.index * self.config.rows_per_file
        total = min(self.config.rows_per_file, int(layout.sum()) - start)
        names = {kind: f"{kind}/{kind}_{unit.index:04d}.npy" for kind in self._kinds}
        table = f"{METADATA}/{METADATA}_{unit.index:04d}.parquet"
        with ExitStack() as stack:
            arrays = {kind: _Hashed(stack.enter_context(target.create(name))) for kind, name in names.items()}
            metadata = _Hashed(stack.enter_context(target.create(table)))
            for out in arrays.values():
                out.write(header(np.dtype("<f2"), (total, vectors["dim"])))
            writer = None
            for part in parts:
                before = int(layout[: part.index].sum())
                rows = self._rows(part)[max(0, start - before) : max(0, start + total - before)]
                for kind, out in arrays.items():
                    self._copy(part, rows, kind, out)
                frame = self._metadata(part, rows).to_arrow()
                if writer is None:
                    writer = pq.ParquetWriter(metadata, frame.schema, compression="zstd")
                writer.write_table(frame)
            if writer is not None:
                writer.close()
        files = {name: [arrays[kind].nbytes, arrays[kind].digest.hexdigest()] for kind, name in names.items()}
        files[table] = [metadata.nbytes, metadata.digest.hexdigest()]
        return {"samples": total, "files": files}

    def _copy(self, part: Part, rows: NDArray[np.int64], kind: str, out: _Hashed) -> None:
        column, which = _VECTORS[kind]
        places = part.columns(f"{self._embedding}.{column}").to_series().cast(pl.Int64).fill_null(-1).to_numpy()[rows]
        packed = part.vectors(self._embedding, which)
        for first in range(0, len(places), _BLOCK_ROWS):
            some = places[first : first + _BLOCK_ROWS]
            block = np.zeros((len(some), packed.shape[1]), dtype=np.float16)  # a caption without a vector: zeros
            block[some >= 0] = packed[some[some >= 0]]
            out.write(block.tobytes())

    def _metadata(self, part: Part, rows: NDArray[np.int64]) -> pl.DataFrame:
        index = next(iter(self.context.schema))
        further = [name for name, _ in self.context.input.fields]
        wanted = ["key", "uid_hi", "uid_lo", *_COLUMNS, *further]
        frame: pl.DataFrame = part.columns(*(f"{index}.{name}" for name in wanted))[rows.tolist()]
        frame = frame.rename({f"{index}.{name}": name for name in wanted})
        uids = [format_uid(hi, lo) for hi, lo in frame.select("uid_hi", "uid_lo").iter_rows()]
        # a field may be called as a column of ours is: then it is that column
        more = [name for name in (*_COLUMNS, *further) if name != "image_path"]
        return frame.select(pl.col("key").alias("image_path"), pl.Series("uid", uids, dtype=pl.String), *more)

    def intact(self, report: dict[str, Any], target: Workspace) -> bool:
        """The finishing file is the one that was written."""
        return target.exists(FINISHED) and hashlib.sha256(target.read(FINISHED)).hexdigest() == str(report["sha256"])

    def finish(
        self, results: Iterable[dict[str, Any]], artifacts: Mapping[str, Artifact], target: Workspace
    ) -> dict[str, Any]:
        """embeddings.json, last of all."""
        vectors = artifacts["vectors"]
        assert isinstance(vectors, dict)
        files: dict[str, list[Any]] = {}
        samples = 0
        for result in results:
            files |= result["files"]
            samples += result["samples"]
        for folder in (*self._kinds, METADATA):
            there = target.listing(folder)
            for name, (nbytes, _) in files.items():
                inside, _, file = name.partition("/")
                if inside == folder and there.get(file) != nbytes:
                    raise Lost(f"{target.where(name)} got lost while the embeddings were written; run again")
        listed = {name: {"bytes": n, "sha256": digest} for name, (n, digest) in sorted(files.items())}
        record = {"schema_version": 1, "rows": samples, "dim": vectors["dim"], "files": listed}
        data = json.dumps(record, indent=1).encode() + b"\n"
        target.put(FINISHED, data)
        return {
            "url": target.url,
            "rows": samples,
            "dim": vectors["dim"],
            "bytes": sum(n for n, _ in files.values()),
            "sha256": hashlib.sha256(data).hexdigest(),
        }


class _Hashed(io.RawIOBase):
    """A stream to write to, with the size and sha256 of what was written."""

    def __init__(self, out: Any) -> None:
        super().__init__()
        self._out = out
        self.digest = hashlib.sha256()
        self.nbytes = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.nbytes

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._out.write(view)
        self.digest.update(view)
        self.nbytes += len(view)
        return len(view)
