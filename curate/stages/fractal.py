"""`fractal`: a dataset of fractal images from a specification of a few kilobytes; see docs/fractal.md.

A shard is a pure function of the specification and its range of indices, so any worker may write it, or write it again.
What draws is imported where it is used: its kernels take a second to load, which other pipelines need not wait for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from curate.errors import SpecError
from curate.fractal.families.base import Family
from curate.fractal.specification import FORMATS, FractalOptions, Specification
from curate.stages.base import State, Totals
from curate.stages.config import StageConfig
from curate.stages.fractal_card import card
from curate.stages.fractal_cost import cost, search_seconds
from curate.stages.part import Part
from curate.stages.release_files import Files, TarOut, lost, put, put_json, put_table
from curate.stages.sink import Lost, Outlook, Source, Unit
from curate.store.artifacts import Artifact
from curate.store.manifest import Manifest, ReleaseFile, ShardStats
from curate.store.workspace import Workspace

MOST_SHARDS = 1_000_000
SPECIFICATION, SYSTEMS, CARD = "specification.json", "systems.parquet", "README.md"
TABLE: dict[str, pl.DataType] = {
    "uid": pl.String(),
    "key": pl.String(),
    "index": pl.Int64(),
    "label": pl.String(),
    "labels": pl.List(pl.Int64()),
    "format": pl.String(),
    "width": pl.Int32(),
    "height": pl.Int32(),
    "sha256": pl.String(),
    "shard": pl.String(),
}
"""Columns of `samples.parquet/`."""


class FractalConfig(FractalOptions, StageConfig):
    """Images to make, and the shape and place of the dataset."""

    makes_samples: ClassVar[bool] = True

    samples_per_shard: int = Field(10_000, ge=1, description="At most this many images in a shard; shards are even.")
    to: str | None = Field(None, description="Folder to write to; default: fractal@<fingerprint> in the workspace.")
    metadata_license: str | None = Field(None, description="Licence of the tables of the dataset, such as CC-BY-4.0.")

    @property
    def options(self) -> FractalOptions:
        """What is drawn, without what is the stage's own."""
        return FractalOptions.model_construct(**{name: getattr(self, name) for name in FractalOptions.model_fields})


class FractalStage(Source[FractalConfig]):
    """Classes are searched for once; then shards of consecutive images, each by itself.

    Memory of a worker: the table of classes, one image, and the rows of one shard (about 1 kB an image).
    """

    kind = "fractal"
    VERSION = 1
    Config = FractalConfig

    _family: tuple[pl.DataFrame, Family] | None = None

    def identity(self) -> dict[str, Any]:
        """The drawing, the name in the uids, and how many shards a pilot makes."""
        pilot = {"shards": self._shards} if self._pilot else {}
        return {"renderer": self.specification.renderer, "pipeline": self.context.pipeline} | pilot

    def check(self) -> None:
        """Classes that cannot be found, and more shards than a listing takes."""
        if (ifs := self.config.ifs) is not None:
            if ifs.sigma is not None and ifs.sigma[1] >= 3 * ifs.maps[0]:
                raise SpecError(
                    f"stage {self.context.step} asks for a sigma-factor up to {ifs.sigma[1]:g}, and that of "
                    f"{ifs.maps[0]} maps lies below {3 * ifs.maps[0]}; lower sigma, or ask for more maps"
                )
            if ifs.gates.fill[0] >= ifs.gates.fill[1]:
                raise SpecError(
                    f"stage {self.context.step} asks for a fill of at least {ifs.gates.fill[0]:g} and at most "
                    f"{ifs.gates.fill[1]:g}, which no class has; the smaller number comes first"
                )
        if self._all_shards > MOST_SHARDS:
            raise SpecError(
                f"stage {self.context.step} would write {self._all_shards:,} shards, and more than {MOST_SHARDS:,} are "
                "too many to list; raise samples_per_shard"
            )

    def facts(self) -> dict[str, Any]:
        """What run.json says of it."""
        return {"classes": self.config.classes}

    @property
    def specification(self) -> Specification:
        """All that decides an image."""
        from curate.fractal.image import RENDERER

        name, seed = self.context.pipeline, self.context.seed
        return Specification(renderer=RENDERER, name=name, seed=seed, options=self.config.options)

    # --- how much ---------------------------------------------------------------------------------------------------

    @property
    def _all_shards(self) -> int:
        return -(-self.config.images // self.config.samples_per_shard)

    @property
    def _shards(self) -> int:
        """Of this run."""
        return min(self._all_shards, self.context.limit_shards or self._all_shards)

    @property
    def _pilot(self) -> bool:
        return self._shards < self._all_shards

    def _images(self, shard: int) -> range:
        """The images of a shard, the same in a pilot as in the whole dataset."""
        n, images = self._all_shards, self.config.images
        return range(images * shard // n, images * (shard + 1) // n)

    def outlook(self) -> Outlook:
        """Images, time and bytes of this run."""
        options, shards = self.config.options, self._shards
        images = self._images(shards - 1).stop
        seconds, nbytes = cost(options)
        found = []
        if options.images < options.classes:
            found.append(
                f"{self.context.step} makes {options.images:,} images of {options.classes:,} classes: some have none"
            )
        if self._pilot and self.config.to:
            found.append(
                f"a run with --limit-shards writes into the workspace, not to {self.config.to}: "
                "that is for the whole dataset"
            )
        return Outlook(
            samples=images,
            shards=shards,
            seconds=images * seconds + search_seconds(options),
            nbytes=int(images * nbytes),
            what=f"images of {options.classes:,} classes",
            warnings=tuple(found),
        )

    # --- the work ---------------------------------------------------------------------------------------------------

    def target(self, workspace: Workspace, whole: str) -> Workspace:
        """`to`, or a folder of the workspace that carries the fingerprint; a pilot always takes the latter, so that it
        is never in the way of the whole dataset.
        """
        if self.config.to and not self._pilot:
            return Workspace(self.config.to)
        return workspace.sub(f"{self.context.step}@{whole}")

    def reduce(self, summaries: Iterator[dict[str, NDArray[Any]]], totals: Totals, state: State) -> dict[str, Artifact]:
        """The classes, and how they were found. Memory: O(classes)."""
        from curate.fractal.families.choose import find

        found = find(self.config.options, self.context.seed)
        return {"systems": found.table, "search": {"tried": found.tried, "refused": dict(found.refused)}}

    def units(self, artifacts: Mapping[str, Artifact], parts: int) -> list[Unit]:
        """One a shard."""
        return [Unit("shard", n, (), len(self._images(n))) for n in range(self._shards)]

    def write(
        self, unit: Unit, parts: Sequence[Part], artifacts: Mapping[str, Artifact], target: Workspace
    ) -> dict[str, Any]:
        """One shard with its table and statistics."""
        from curate.fractal.image import members, uid

        stem = f"{unit.index:05d}"
        name = f"{stem}.tar"
        specification, family = self.specification, self._open(artifacts)
        rows: list[dict[str, Any]] = []
        with target.create(name) as out:
            tar = TarOut(out)
            for index in self._images(unit.index):
                made = members(specification, family, index)
                key = uid(specification, index)
                for ext, data in made.items():
                    tar.add(f"{key}.{ext}", data)
                rows.append(self._row(key, index, made) | {"shard": name})
            tar.close()
        files: Files = {name: [tar.nbytes, tar.digest.hexdigest()]}
        files |= put_table(target, f"samples.parquet/{stem}.parquet", pl.DataFrame(rows, schema=TABLE))
        stats = ShardStats(successes=len(rows), bytes=tar.nbytes, sha256=tar.digest.hexdigest())
        files |= put_json(target, f"{stem}_stats.json", stats.model_dump())
        return {"shard": name, "samples": len(rows), "files": files}

    def _row(self, key: str, index: int, made: Mapping[str, bytes]) -> dict[str, Any]:
        image = made[self.config.format]
        label = made["cls"].decode() if "cls" in made else None
        return {
            "uid": key,
            "key": str(index),
            "index": index,
            "label": label,
            "labels": json.loads(made["json"])["labels"] if label is None else [int(label)],
            "format": FORMATS[self.config.format].lower(),
            "width": self.config.size,
            "height": self.config.size,
            "sha256": hashlib.sha256(image).hexdigest(),
        }

    def _open(self, artifacts: Mapping[str, Artifact]) -> Family:
        """The family of these artifacts, opened once a worker."""
        table = artifacts["systems"]
        assert isinstance(table, pl.DataFrame)
        if self._family is None or self._family[0] is not table:
            from curate.fractal.families.choose import open_family

            self._family = (table, open_family(self.config.options, table))
        return self._family[1]

    # --- all together -----------------------------------------------------------------------------------------------

    def intact(self, report: dict[str, Any], target: Workspace) -> bool:
        """The manifest is the one that was written."""
        if not target.exists("manifest.json"):
            return False
        return hashlib.sha256(target.read("manifest.json")).hexdigest() == str(report["manifest_sha256"])

    def finish(
        self, results: Iterable[dict[str, Any]], artifacts: Mapping[str, Artifact], target: Workspace
    ) -> dict[str, Any]:
        """sizes.json, the specification with its classes, the card and, last, manifest.json."""
        files: Files = {}
        sizes: dict[str, int] = {}
        for result in results:
            files |= result["files"]
            sizes[result["shard"]] = result["samples"]
        if missing := lost(target, files):
            raise Lost(f"{target.where()} lost {missing} while the dataset was written; run again")
        samples, shards = sum(sizes.values()), len(sizes)
        table = artifacts["systems"]
        assert isinstance(table, pl.DataFrame)
        files |= put_json(target, "sizes.json", sizes)
        files |= put_json(target, SPECIFICATION, self.specification.model_dump(mode="json"))
        files |= put_table(target, SYSTEMS, table)
        nbytes = sum(n for n, _ in files.values())
        text = card(self.specification, samples, shards, nbytes, self.config.metadata_license)
        files |= put(target, CARD, text.encode())
        manifest = Manifest(
            name=self.context.pipeline,
            metadata_license=self.config.metadata_license,
            input_samples=samples,
            samples=samples,
            dropped_samples=0,
            dropped={},
            shards=shards,
            files={name: ReleaseFile(bytes=n, sha256=digest) for name, (n, digest) in sorted(files.items())},
        )
        written = put_json(target, "manifest.json", manifest.model_dump(exclude={"upstream", "copies"}))
        return {
            "url": target.url,
            "shards": shards,
            "samples": samples,
            "bytes": sum(n for n, _ in files.values()),
            "manifest_sha256": written["manifest.json"][1],
        }
