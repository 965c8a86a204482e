"""`relabel`: label maps, what one or several classifiers see in each cell of an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from curate.embed.classifiers import classifier_config
from curate.errors import SpecError
from curate.formats.label_maps import MapsInfo
from curate.stages.base import Columns, Resources, Stage, State, Totals
from curate.stages.config import StageConfig, StrictModel
from curate.stages.part import Part
from curate.stages.pixels import CPU_BATCH, CPU_DECODERS, GPU_BATCH, GPU_DECODERS, Decoding
from curate.stages.taken_over import KEY, Rows, content
from curate.stages.teachers import Teachers, Wanted, describe
from curate.store.artifacts import Artifact
from curate.store.images import decode_rgb

if TYPE_CHECKING:
    import torch

_Library = Literal["timm", "packaged"]


class TeacherOptions(StrictModel):
    """One classifier of several."""

    model: str = Field(description="Classifier: a timm model name, or packaged:efficientnet_lite0.")
    pretrained: str | None = Field(None, description="Weights tag of timm, such as ra4_e3600_r224_in1k.")
    library: _Library | None = Field(None, description="Where the model is from.")
    checkpoint: str | None = Field(None, description="Local file with the weights.")
    size: int | None = Field(None, ge=1, description="Side of its images in pixels; default: size of the stage.")
    temperature: float | None = Field(None, gt=0, description="Its temperature; default: that of the stage.")


class RelabelConfig(StageConfig):
    """Which classifiers, what is kept of their maps, and how they run."""

    model: str | None = Field(None, description="Classifier: a timm model name, or packaged:efficientnet_lite0.")
    pretrained: str | None = Field(None, description="Weights tag of timm, such as ra4_e3600_r224_in1k.")
    library: _Library | None = Field(None, description="Where the model is from.")
    checkpoint: str | None = Field(None, description="Local file with the weights.")
    teachers: Annotated[list[TeacherOptions], Field(min_length=1)] | None = Field(
        None, description="Several classifiers in place of model; the mean of their probabilities is stored."
    )
    k: int = Field(5, ge=1, description="Classes stored of each cell, the best ones.")
    temperature: float = Field(1.0, gt=0, description="Logits are divided by it before they are stored.")
    flip: bool = Field(False, description="Average with the map of the mirrored image.")
    scales: tuple[float, ...] = Field((1.0,), min_length=1, description="Average over the image at these sizes.")
    size: int | None = Field(None, ge=1, description="Side of the image in pixels; default: the model's own.")
    precision: Literal["fp32", "bf16", "fp16"] | None = Field(
        None, description="Arithmetic; default fp32 on a CPU and bf16 on a GPU."
    )
    batch_size: int | None = Field(None, ge=1, description="Images in one batch; default 32 on a CPU, 256 on a GPU.")
    threads: int = Field(1, ge=1, description="CPU threads of one worker for the network.")
    decode_threads: int | None = Field(None, ge=1, description="Threads that decode; default 1, or 8 beside a GPU.")

    @model_validator(mode="after")
    def _one_or_several(self) -> RelabelConfig:
        if (self.model is None) == (self.teachers is None):
            raise ValueError("needs either model, or teachers with a model each")
        if self.teachers is not None and (self.pretrained or self.library or self.checkpoint):
            raise ValueError("has pretrained, library or checkpoint beside teachers; they belong to each teacher")
        if min(self.scales) <= 0:
            raise ValueError("has a scale that is not above 0")
        return self

    @property
    def wanted(self) -> list[Wanted]:
        """The classifiers, one or several. Raises ModelError for a model that is none."""
        names = {"model", "pretrained", "library", "checkpoint"}
        given = self.teachers or [TeacherOptions(**self.model_dump(include=names))]
        return [
            Wanted(
                classifier_config(**one.model_dump(include=names)),
                one.size or self.size,
                one.temperature or self.temperature,
            )
            for one in given
        ]


class RelabelStage(Stage[RelabelConfig]):
    """Decodes each alive image, shows it whole to the classifiers, stores the best classes of each cell.

    The classifier's head is applied before its pooling (ReLabel, Yun et al. 2021, section 3): the mean over cells is
    what the classifier says of the image. Several are averaged as probabilities (MEAL V2, Shen and Savvides 2020).
    Batches never cross a part and the last one is padded, so a map depends on the image alone; what is stored for the
    same content, in this part or in another, is taken over. Images that do not decode are quarantined.
    """

    kind = "relabel"
    VERSION = 1
    Config = RelabelConfig
    drops = True
    quarantines = True
    depends = "part"
    not_hashed = frozenset({"batch_size", "threads", "decode_threads", "checkpoint", "teachers"})
    reuses_rows = True
    gpus: float = 0.0
    """GPUs of one worker, set by the run once the cluster is known."""

    def columns(self) -> dict[str, pl.DataType]:
        """map_row: row of the image's map in the records `maps`."""
        return {"map_row": pl.UInt32(), "detail": pl.String(), **dict.fromkeys(KEY, pl.UInt64())}

    def contents(self, part: Part) -> pl.DataFrame:
        """128 bits of the image's sha256; the classifiers are in the folder's name."""
        hashed = [content(sha256) for sha256 in part.columns("sha256")["sha256"]]
        return pl.DataFrame(hashed, schema=dict.fromkeys(KEY, pl.UInt64), orient="row")

    def reads(self) -> tuple[str, ...]:
        """The index: where the bytes are."""
        return (next(iter(self.context.schema)),)

    def check(self) -> None:
        """Models, tags and files exist, and every head may change places with its pooling."""
        if self.context.input.bare:
            raise SpecError(f"stage {self.context.step} needs images, the input has none; take it out")
        assert self.info  # describes the maps, or says why there can be none

    def identity(self) -> dict[str, Any]:
        """The weights, by hash, what the images are made before, and what several teachers become."""
        teachers = self._described[1]
        return {"teachers": teachers} | ({"ensemble": "log of the mean, centred"} if len(teachers) > 1 else {})

    @property
    def info(self) -> MapsInfo:
        """What all maps have in common."""
        return self._described[0]

    @cached_property
    def _described(self) -> tuple[MapsInfo, list[dict[str, Any]]]:
        config = self.config
        return describe(config.wanted, config.k, config.flip, config.scales)

    @property
    def batch_size(self) -> int:
        """Resolved once, recorded in run.json."""
        return self.config.batch_size or (GPU_BATCH if self.gpus else CPU_BATCH)

    def facts(self) -> dict[str, Any]:
        """Recorded, not hashed."""
        device = "cuda" if self.gpus else "cpu"
        return {"device": device, "batch_size": self.batch_size, "threads": self.config.threads}

    def resources(self) -> Resources:
        """One GPU if the cluster has any, else `threads` CPUs."""
        return Resources(cpus=self.config.threads, gpus=self.gpus, model=True)

    # --- what the maps are ------------------------------------------------------------------------------------------

    def summarise(self, part: Part, totals: Totals, state: State) -> dict[str, NDArray[Any]]:
        """Nothing: the artifact does not depend on the images."""
        return {}

    def reduce(self, summaries: Iterator[dict[str, NDArray[Any]]], totals: Totals, state: State) -> dict[str, Artifact]:
        """`label_maps`: shape, classes and teachers, for the stages that read the maps."""
        return {"label_maps": self.info.model_dump(mode="json")}

    # --- the maps ---------------------------------------------------------------------------------------------------

    @cached_property
    def loaded(self) -> Teachers:
        """Loaded once a worker, and only when a row must be computed."""
        device = "cuda" if self.gpus else "cpu"
        return Teachers(self.config.wanted, self.info, device, self.config.precision, self.config.threads)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "loaded"}

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """Annotate the alive rows whose content is stored nowhere.

        Memory: four batches of pixels, the maps of one batch for all classes, those of the part as they are stored.
        """
        frame = part.columns("shard", "members", "ext")
        rows = Rows(self.contents(part), part.alive, {"maps": "map_row"})
        rows.space(self.info.dtype)
        rows.take_over(part)
        todo = rows.unknown
        if len(todo):
            for batch in self._decoding().batches(part, frame, todo, rows.undecoded):
                records, good = self.loaded.records(batch.pixels)
                records, good = records[: len(batch)], good[: len(batch)]
                rows.arrays["maps"][batch.rows[good]] = records[good]
                rows.has["maps"][batch.rows[good]] = True
                for row in batch.rows[~good].tolist():
                    rows.fail(row, "bad_label_map", "the classifier returned NaN, infinity, or numbers beyond float16")
        return rows.columns({"rows_computed": len(todo), "rows_taken_over": int(part.alive.sum()) - len(todo)})

    def _decoding(self) -> Decoding:
        threads = self.config.decode_threads or (GPU_DECODERS if self.gpus else CPU_DECODERS)
        return Decoding(self._pixels, self.batch_size, self.loaded.chunk is None, bool(self.gpus), threads)

    def _pixels(self, data: bytes) -> tuple[torch.Tensor, ...]:
        return self.loaded.prepare(decode_rgb(data, self.context.input.max_pixels))
