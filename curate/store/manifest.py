"""The files that make a release complete in itself: manifest.json, sizes.json, `%05d_stats.json`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from curate.errors import StorageError
from curate.store.records import parse_record
from curate.store.workspace import Workspace

SCHEMA_VERSION: Literal[1] = 1


class ReleaseFile(BaseModel):
    """One file of the release."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class ShardStats(BaseModel):
    """`00000_stats.json` beside `00000.tar`; `successes` is what DataComp's tools read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = SCHEMA_VERSION
    successes: int = Field(ge=0, description="samples in the shard")
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of the tar")


class Upstream(BaseModel):
    """What the downloader of the input said of its work. attempted = successes + failed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    attempted: int = Field(ge=0, description="urls that were tried")
    successes: int = Field(ge=0)
    failed: int = Field(ge=0)
    reasons: dict[str, int] = Field(description="failures by reason, the most frequent ones; the rest as other")


class Manifest(BaseModel):
    """`manifest.json`, written last. input_samples = samples + dropped_samples."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str = Field(description="name of the pipeline")
    metadata_license: str | None = Field(description="licence of the tables, not of the images")
    input_samples: int = Field(ge=0)
    samples: int = Field(ge=0)
    copies: int | None = Field(
        default=None, ge=1, description="further copies of samples in the shards; left out without any"
    )
    dropped_samples: int = Field(ge=0)
    dropped: dict[str, dict[str, int]] = Field(description="step -> reason -> samples, in the order of the steps")
    shards: int = Field(ge=0)
    upstream: Upstream | None = Field(default=None, description="totals of a downloader's input; left out without any")
    files: dict[str, ReleaseFile] = Field(description="every file of the release but this one, by relative path")


def read_manifest(release: Workspace) -> Manifest:
    """The manifest of a release. Raises StorageError when there is none, or one that cannot be understood."""
    if not release.exists("manifest.json"):
        raise StorageError(f"{release.where()} has no manifest.json: it is no finished release; run its pipeline again")
    where = release.where("manifest.json")
    return parse_record(Manifest, release.read("manifest.json"), where, "get it again, or run its pipeline again")
