"""`curate schema`: JSON schemas of the files that curate reads and writes, and of the options of each stage."""

from __future__ import annotations

from typing import Annotated

import typer

from curate.cli.output import columns, print_json, stdout
from curate.errors import SpecError
from curate.pipeline.problems import nearest
from curate.pipeline.published import published
from curate.pipeline.schemas import Schema, json_schema, pipeline_schema
from curate.stages import configs


def schema(
    name: Annotated[
        str, typer.Argument(help="Which: pipeline, a file such as manifest, or a kind of stage.")
    ] = "pipeline",
    list_: Annotated[bool, typer.Option("--list", help="List the names instead.")] = False,
) -> int:
    """Print a JSON schema (draft 2020-12), for editors that check pipeline files and for programs that read ours."""
    known = schemas()
    if list_:
        columns(
            stdout(),
            ("", ""),
            [(key, str(value.get("description", "")).split("\n")[0]) for key, value in known.items()],
            0,
        )
        return 0
    if name not in known:
        close = nearest(name, known)
        hint = f"did you mean {close}?" if close else f"there are {', '.join(known)}"
        raise SpecError(f"there is no schema named {name!r}; {hint}")
    print_json(known[name])
    return 0


def schemas() -> dict[str, Schema]:
    """All schemas by name: the pipeline file with every installed stage, files of a run and a release, each stage."""
    known = configs()
    stages = {kind: json_schema(config.model_json_schema(mode="validation")) for kind, config in known.items()}
    return {**published(), "pipeline": pipeline_schema(known), **stages}
