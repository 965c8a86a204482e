"""`curate init`: look at a folder or bucket and write a pipeline file for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from curate.cli import output
from curate.errors import SpecError, StorageError
from curate.formats.recognise import recognise
from curate.pipeline.load import load
from curate.pipeline.starter import slug, starter
from curate.stages import configs


def init(
    source: Annotated[str, typer.Argument(help="Folder, bucket or file with the samples: a path or URL.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write; default: NAME.yaml here.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the pipeline; default: from the source.")] = None,
    workspace: Annotated[str | None, typer.Option("--workspace", help="Folder of the run; default: runs/NAME.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found on stdout as JSON.")] = False,
) -> int:
    """Recognise what SOURCE is and write a commented pipeline file that runs."""
    name = name or slug(source)
    out = out or Path(f"{name}.yaml")
    if out.exists() and not force:
        raise SpecError(f"{out} is there already; give another name with --out, or --force to replace it")
    found = recognise(source)
    text = starter(found, name=name, workspace=workspace or f"runs/{name}", file=str(out))
    load(text, registry=configs(), source_name=str(out))
    _write(text, out, force)
    if as_json:
        output.print_json({"file": str(out), "found": {**found.__dict__}})
        return 0
    console = output.stdout()
    many = f", about {found.samples:,} samples" if found.samples else ""
    size = f", {output.size(found.nbytes)}" if found.nbytes else ""
    what = {
        "folder": "images seen",
        "parquet": "tables",
        "embeddings": "arrays",
        "datacomp": "tables",
        "archive": "inner tars",
    }.get(found.layout, "shards")
    count = f" ({found.files:,} {what}{size}{many})" if found.files else ""
    output.line(console, output.clean(f"Found {found.what}{count}."))
    for note in found.notes:
        output.line(console, output.clean(f"  note: {note}"))
    output.line(console, output.clean(f"Wrote {out}. Next:"))
    output.line(console, output.clean(f"  curate plan {out}"))
    output.line(console, output.clean(f"  curate run {out} --limit-shards 1"))
    return 0


def _write(text: str, out: Path, force: bool) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("w" if force else "x", encoding="utf-8") as handle:
            handle.write(text)
    except OSError as error:
        raise StorageError(f"writing {out}: {error.strerror or error}; choose another place with --out") from error
