"""The stages of a pipeline, one file each; `STAGES` names them, and other packages add theirs by entry point.

A package adds a stage with an entry point in the group `curate.stages`: name = "package.module:StageClass".
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import Any

from curate.errors import SpecError
from curate.stages.against import AgainstStage
from curate.stages.base import Stage
from curate.stages.caption import CaptionStage
from curate.stages.cluster import ClusterStage
from curate.stages.columns import ColumnsStage
from curate.stages.config import StageConfig
from curate.stages.dedup import DedupStage
from curate.stages.dedup_hash import DedupHashStage
from curate.stages.embed import EmbedStage
from curate.stages.filter import FilterStage
from curate.stages.fractal import FractalStage
from curate.stages.hash import HashStage
from curate.stages.heads import HeadsStage
from curate.stages.hierarchy import HierarchyStage
from curate.stages.index import IndexStage
from curate.stages.label_sets import LabelSetsStage
from curate.stages.lists import ListsStage
from curate.stages.near import NearStage
from curate.stages.prune import PruneStage
from curate.stages.read_embeddings import ReadEmbeddingsStage
from curate.stages.relabel import RelabelStage
from curate.stages.release import ReleaseStage
from curate.stages.sample import SampleStage
from curate.stages.score import ScoreStage
from curate.stages.write_embeddings import WriteEmbeddingsStage
from curate.stages.write_subset import WriteSubsetStage

STAGES: dict[str, type[Stage[Any]]] = {
    "index": IndexStage,
    "sample": SampleStage,
    "filter": FilterStage,
    "lists": ListsStage,
    "caption": CaptionStage,
    "columns": ColumnsStage,
    "hash": HashStage,
    "dedup_hash": DedupHashStage,
    "embed": EmbedStage,
    "read_embeddings": ReadEmbeddingsStage,
    "relabel": RelabelStage,
    "label_sets": LabelSetsStage,
    "heads": HeadsStage,
    "cluster": ClusterStage,
    "hierarchy": HierarchyStage,
    "near": NearStage,
    "dedup": DedupStage,
    "against": AgainstStage,
    "score": ScoreStage,
    "prune": PruneStage,
    "release": ReleaseStage,
    "write_embeddings": WriteEmbeddingsStage,
    "write_subset": WriteSubsetStage,
    "fractal": FractalStage,
}


def configs() -> dict[str, type[StageConfig]]:
    """The options of all stages by kind: what a pipeline file is checked against. Raises SpecError as `registry`."""
    return {kind: stage.Config for kind, stage in registry().items()}


@cache
def registry() -> dict[str, type[Stage[Any]]]:
    """All stages by kind: ours and those of installed packages. Raises SpecError for one that cannot be loaded."""
    known = dict(STAGES)
    for point in entry_points(group="curate.stages"):
        if point.name in known:
            raise SpecError(
                f"the package that provides {point.value} names its stage {point.name}, which exists already"
            )
        try:
            loaded = point.load()
        except Exception as error:
            raise SpecError(
                f"the stage {point.name} ({point.value}) cannot be loaded: {error}; uninstall its package"
            ) from error
        if not (isinstance(loaded, type) and issubclass(loaded, Stage)):
            raise SpecError(f"the stage {point.name} ({point.value}) is not a curate Stage")
        known[point.name] = loaded
    return known
