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

from curate.stages.config import Reference, Slug, StageConfig, StrictModel

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


class InputSpec(StrictModel):
    """The samples to curate: WebDataset shards, or a folder of images with one folder for each class."""

    shards: Location | Annotated[list[Location], Field(min_length=1)] | None = Field(
        None, description="Tar shards: a path or URL with braces or globs, a text file of URLs, or a list of these."
    )
    folder: Location | None = Field(None, description="Folder of images; the folder an image lies in is its label.")
    name: Slug | None = Field(
        None, description="Name of the collection, part of uids that are derived; default: that of its folder."
    )
    image: Extensions = Field(
        "jpg;jpeg;png;webp;gif", description="Extensions of the image member, the preferred one first."
    )
    caption: Extensions | None = Field(None, description="Extension of the caption member, such as txt.")
    caption_required: bool = Field(True, description="Whether a sample without a caption is quarantined.")
    label: Extensions | None = Field("cls", description="Extension of the class label member.")
    shards_per_part: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="Consecutive shards in one part; auto closes a part at 128 MiB or 1,000 shards."
    )
    files_per_part: int = Field(5000, ge=1, description="Files of an image folder in one part.")
    max_pixels: int = Field(100_000_000, ge=1, description="Images that declare more pixels are not decoded.")
    max_bytes: int = Field(64 * 1024 * 1024, ge=1, description="Members with more bytes are not read.")

    @model_validator(mode="after")
    def _consistent(self) -> InputSpec:
        if (self.shards is None) == (self.folder is None):
            raise ValueError("give exactly one of shards and folder")
        given = self.model_fields_set
        if self.caption is None and "caption_required" in given:
            raise ValueError("caption_required has no meaning without caption; give caption: txt")
        if self.folder is not None and "shards_per_part" in given:
            raise ValueError("shards_per_part has no meaning with folder; use files_per_part")
        if self.shards is not None and "files_per_part" in given:
            raise ValueError("files_per_part has no meaning with shards; use shards_per_part")
        return self

    @property
    def image_extensions(self) -> tuple[str, ...]:
        """Extensions of the image member, the preferred one first."""
        return tuple(dict.fromkeys(self.image.split(";")))

    @property
    def shard_list(self) -> tuple[str, ...]:
        """The `shards` option as a tuple; empty for an image folder."""
        if self.shards is None:
            return ()
        return (self.shards,) if isinstance(self.shards, str) else tuple(self.shards)


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
    input: InputSpec
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
