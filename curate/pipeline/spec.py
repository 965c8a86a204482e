"""The models of a pipeline file: what may stand in it, with which defaults. The options of stages are theirs."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    Field,
    SerializeAsAny,
    WithJsonSchema,
    model_validator,
)

from curate.formats.samples import INDEX_SCHEMA
from curate.stages.config import Reference, Slug, StageConfig, StrictModel
from curate.stages.release import FROM_STAGES

__all__ = ["InputSpec", "PipelineHead", "PipelineSpec", "Reference", "StageConfig", "StageEntry"]

SPEC_VERSION = 1

_EXTENSIONS = r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*(;[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*)*"


def check_location(text: str) -> str:
    """Return `text` when it is a path or URL that may be opened and written down: no password, command or newline."""
    if not text.strip():
        raise ValueError("must not be empty")
    if not text.isprintable():
        raise ValueError("must not hold control characters")
    if text.startswith("pipe:"):
        raise ValueError("must be a path or URL; commands (pipe:) are never run")
    for url in text.split("::"):
        try:
            userinfo = "@" in urlsplit(url).netloc
        except ValueError:
            raise ValueError("is not a well-formed URL") from None
        if userinfo:
            raise ValueError(
                "must not hold a user name or password; give credentials through the environment of the storage library"
            )
    return text


def check_extensions(text: str) -> str:
    """Return `text` when it is a list of member extensions such as `jpg;jpeg;png`."""
    if not re.fullmatch(_EXTENSIONS, text):
        raise ValueError("must be extensions without a leading dot, separated by ';', such as jpg;jpeg;png")
    return text


Location = Annotated[str, AfterValidator(check_location), WithJsonSchema({"type": "string", "minLength": 1})]
Extensions = Annotated[
    str, AfterValidator(check_extensions), WithJsonSchema({"type": "string", "pattern": f"^{_EXTENSIONS}$"})
]


def check_field(name: str) -> str:
    """Return `name` when no column of the index, of a stage or of a release has it."""
    if name in _TAKEN:
        raise ValueError(f"{name} is a column of its own already; a field needs another name")
    return name


_TAKEN = {*INDEX_SCHEMA, *FROM_STAGES, "uid", "source", "keep", "reason", "alive"}
FieldName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"), AfterValidator(check_field)]
FieldType = Literal["string", "int", "float", "bool"]
_LAYOUTS = ("shards", "folder", "archive", "parquet", "embeddings", "datacomp")


class InputSpec(StrictModel):
    """The samples to curate, in one of the layouts of docs/formats/inputs.md."""

    shards: Location | Annotated[list[Location], Field(min_length=1)] | None = Field(
        None, description="Tar shards: a path or URL with braces or globs, a text file of URLs, or a list of these."
    )
    folder: Location | None = Field(None, description="Folder of images; the folder an image lies in is its label.")
    archive: Location | None = Field(
        None, description="Tar of tars, such as ILSVRC2012_img_train.tar; an inner tar's name labels its samples."
    )
    parquet: Location | Annotated[list[Location], Field(min_length=1)] | None = Field(
        None, description="Parquet files with image bytes: a path or URL with braces or globs, or a list of these."
    )
    embeddings: Location | None = Field(
        None, description="Folder of ready embeddings in clip-retrieval's layout: img_emb/, text_emb/, metadata/."
    )
    datacomp: Location | None = Field(
        None, description="Folder of DataComp metadata: .parquet files, with .npz files of embeddings beside them."
    )
    name: Slug | None = Field(
        None, description="Name of the collection, part of uids that are derived; default: that of its folder."
    )
    image: Extensions = Field(
        "jpg;jpeg;png;webp;gif",
        description="Extensions of the image member, the preferred one first; for parquet the image column.",
    )
    caption: Extensions | None = Field(
        None, description="Extension of the caption member, such as txt; for tables the caption column."
    )
    caption_required: bool = Field(True, description="Whether a sample without a caption is quarantined.")
    label: Extensions | None = Field("cls", description="Extension of the class label member; for parquet the column.")
    labels: Location | None = Field(
        None, description="Table of labels for samples that carry none: key and label, or one label a line."
    )
    fields: dict[FieldName, FieldType] = Field(
        default_factory=dict,
        description="Further columns of the index, from the json member or the table, such as {similarity: float}.",
    )
    upstream: Literal["auto", "img2dataset", "none"] = Field(
        "auto", description="Whether downloader tables (NNNNN.parquet, NNNNN_stats.json) beside the shards are read."
    )
    shards_per_part: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="Consecutive shards in one part; auto closes a part at 128 MiB or 1,000 shards."
    )
    files_per_part: int = Field(5000, ge=1, description="Files of an image folder in one part.")
    max_pixels: int = Field(100_000_000, ge=1, description="Images that declare more pixels are not decoded.")
    max_bytes: int = Field(64 * 1024 * 1024, ge=1, description="Members with more bytes are not read.")

    @model_validator(mode="after")
    def _consistent(self) -> InputSpec:
        if sum(getattr(self, layout) is not None for layout in _LAYOUTS) != 1:
            raise ValueError(f"give exactly one of {', '.join(_LAYOUTS[:-1])} and {_LAYOUTS[-1]}")
        given = self.model_fields_set
        if self.caption is None and "caption_required" in given:
            raise ValueError("caption_required has no meaning without caption; give caption: txt")
        if self.folder is not None and "shards_per_part" in given:
            raise ValueError("shards_per_part has no meaning with folder; use files_per_part")
        if self.folder is None and "files_per_part" in given:
            raise ValueError(f"files_per_part has no meaning with {self.layout}; use shards_per_part")
        if self.shards is None and "upstream" in given:
            raise ValueError(f"upstream has no meaning with {self.layout}; it belongs to shards")
        return self

    @property
    def layout(self) -> str:
        """Which of the layouts is given."""
        return next(layout for layout in _LAYOUTS if getattr(self, layout) is not None)

    @property
    def image_extensions(self) -> tuple[str, ...]:
        """Extensions of the image member, the preferred one first."""
        return tuple(dict.fromkeys(self.image.split(";")))

    @property
    def shard_list(self) -> tuple[str, ...]:
        """The `shards` or `parquet` option as a tuple; empty for other layouts."""
        given = self.shards if self.shards is not None else self.parquet
        return () if given is None else (given,) if isinstance(given, str) else tuple(given)


class StageEntry(StrictModel):
    """One stage of the file: its kind, its name (given, or resolved by `stage_names`) and its options."""

    kind: str
    name: str
    config: SerializeAsAny[StageConfig]
    line: int | None = Field(None, description="Line of the file where the stage stands; None without a file.")


class PipelineHead(StrictModel):
    """Everything of a pipeline file but its stages."""

    version: Literal[1] = Field(1, description="Version of the pipeline file format.")
    name: Slug = Field(description="Name of the pipeline.")
    description: str | None = Field(None, description="What the pipeline is for.")
    input: InputSpec | None = Field(
        None, description="What to read; required, but not with a stage that makes its samples."
    )
    workspace: Location = Field(description="Folder of the run: a path or any fsspec URL.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of every random choice.")


class PipelineSpec(PipelineHead):
    """A pipeline file after validation. Stages run in the order of the tuple."""

    stages: tuple[StageEntry, ...]

    def stage(self, name: str) -> StageEntry:
        """Return the stage of that name; raise KeyError when there is none."""
        for entry in self.stages:
            if entry.name == name:
                return entry
        raise KeyError(name)


def stage_names(stages: Sequence[tuple[str, str | None]]) -> list[str]:
    """Return the name of each stage, given (kind, explicit name or None) in order.

    Without an explicit name a stage is called by its kind; the second unnamed `filter` is `filter_2`, and so on.
    """
    taken = {name for _, name in stages if name is not None}
    names: list[str] = []
    for kind, explicit in stages:
        name, number = explicit or kind, 1
        while explicit is None and name in taken:
            number += 1
            name = f"{kind}_{number}"
        taken.add(name)
        names.append(name)
    return names


def references_of(config: type[StageConfig]) -> dict[str, Reference]:
    """Return the reference fields of a Config by field name."""
    found: dict[str, Reference] = {}
    for name, info in config.model_fields.items():
        for item in (*info.metadata, *_metadata_within(info.annotation)):
            if isinstance(item, Reference):
                found[name] = item
    return found


def _metadata_within(annotation: Any) -> Iterator[Any]:
    if typing.get_origin(annotation) is Annotated:
        yield from annotation.__metadata__
    for inner in typing.get_args(annotation):
        yield from _metadata_within(inner)
