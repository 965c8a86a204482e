"""`index`: one row per sample, in the order of the shards. Where every run begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl
from numpy.typing import NDArray

from curate.formats.index import index_part
from curate.formats.samples import index_schema
from curate.stages.base import Columns, Stage
from curate.stages.config import StageConfig
from curate.stages.part import Part
from curate.stages.uids import UidsConfig, UidsStage
from curate.store.artifacts import Artifact


class IndexConfig(StageConfig):
    """The index has no options of its own: what to read stands under `input`."""


class IndexStage(Stage[IndexConfig]):
    """Reads every shard once: members with offsets, image header, sha256, caption, label, status."""

    kind = "index"
    VERSION = 1
    Config = IndexConfig
    first = True

    def columns(self) -> dict[str, pl.DataType]:
        """See docs/formats/index.md."""
        return index_schema(self.context.input)

    def reads(self) -> tuple[str, ...]:
        """Nothing: it is the first."""
        return ()

    def identity(self) -> dict[str, Any]:
        """How the input is read decides the rows."""
        options = self.context.input
        further: dict[str, Any] = {"fields": [list(pair) for pair in options.fields]} if options.fields else {}
        further |= {"labels": options.labels.sha256} if options.labels else {}
        return further | {
            "input_name": options.input_name,
            "image": list(options.image_exts),
            "caption": options.caption_ext,
            "caption_required": options.caption_required,
            "label": options.label_ext,
            "max_pixels": options.max_pixels,
            "max_bytes": options.max_member_bytes,
            "max_text_bytes": options.max_text_bytes,
        }

    @classmethod
    def companions_after(cls, name: str, config: StageConfig) -> list[tuple[type[Stage[Any]], StageConfig]]:
        """The uid table follows."""
        return [(UidsStage, UidsConfig(name=None))]

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """Index the shards of one part. Memory: one sample and the part's rows."""
        frame, notes = index_part(part.source, self.context.input)
        return Columns(frame, notes=notes.as_dicts())
