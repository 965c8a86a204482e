"""All published JSON schemas: `python -m curate.pipeline.published schemas` writes them, `--check` compares."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from curate.engine.events import Event
from curate.formats.label_maps import MapsInfo
from curate.fractal.specification import Specification
from curate.pipeline.runfile import RunFile
from curate.pipeline.schemas import check_schemas, json_schema, pipeline_schema, write_schemas
from curate.stages import STAGES
from curate.store.columns import PartMeta
from curate.store.groups import Group
from curate.store.manifest import Manifest, ShardStats

_MODELS: dict[str, type[BaseModel]] = {
    "run": RunFile,
    "event": Event,
    "part": PartMeta,
    "group": Group,
    "manifest": Manifest,
    "shard-stats": ShardStats,
    "fractal-specification": Specification,
    "label-map": MapsInfo,
}


def published() -> dict[str, dict[str, Any]]:
    """Every schema by name: the pipeline file with the stages of this package, and the files a run writes."""
    pipeline = pipeline_schema({kind: stage.Config for kind, stage in STAGES.items()})
    return {"pipeline": pipeline, **{name: json_schema(model) for name, model in _MODELS.items()}}


def main() -> int:
    """Write or check the folder `schemas/`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true", help="exit with 1 when the files differ from the models")
    args = parser.parse_args()
    if not args.check:
        write_schemas(args.folder, published())
        return 0
    problems = check_schemas(args.folder, published())
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
