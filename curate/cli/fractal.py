"""`curate fractal`: draw images of a fractal specification, one by one or as a gallery.

What draws is imported where it is used: its kernels take a second to load, which other commands need not wait for.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from curate.cli.output import line, print_json, stdout
from curate.errors import SpecError, StorageError
from curate.fractal.specification import FORMATS

fractal = typer.Typer(
    no_args_is_help=True, help="Draw images of a fractal dataset from its specification.", add_completion=False
)

Spec = Annotated[
    str, typer.Argument(help="Folder of a fractal release, its specification.json, or a pipeline file (.yaml).")
]


@fractal.command("render")
def render(
    spec: Spec,
    index: Annotated[int, typer.Argument(help="Number of the image, from 0.")],
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", help="File to write; default: its number, in the working folder; - is stdout."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the labels and all that was drawn at random, not where the image is.")
    ] = False,
) -> int:
    """Make one image again, byte for byte as it stands in the shards."""
    from curate.fractal.image import members
    from curate.pipeline.fractals import open_specification

    opened = open_specification(spec)
    made = members(opened.specification, opened.family, index)
    kind = next(ext for ext in FORMATS if ext in made)
    if out == "-":
        if as_json:
            raise SpecError("--json and --out - both want stdout; give --out a file")
        sys.stdout.buffer.write(made[kind])
        return 0
    path = Path(out or f"{index:08d}.{kind}")
    _write(path, made[kind])
    if as_json:
        sys.stdout.write(made["json"].decode() + "\n")
    else:
        line(stdout(), f"{path}: image {index:,}, {len(made[kind]):,} bytes")
    return 0


@fractal.command("gallery")
def gallery(
    spec: Spec,
    out: Annotated[
        str, typer.Option("--out", "-o", help="File to write: .html, or .png for a contact sheet.")
    ] = "gallery.html",
    classes: Annotated[int, typer.Option("--classes", min=1, help="Classes to show, evenly spread.")] = 48,
    instances: Annotated[int, typer.Option("--instances", min=1, help="Images of each class.")] = 4,
    images: Annotated[int, typer.Option("--images", min=0, help="First images of the dataset to show.")] = 24,
    as_json: Annotated[bool, typer.Option("--json", help="Print a machine-readable answer on stdout.")] = False,
) -> int:
    """Draw some classes, some of each, and the first images with the boxes of their objects."""
    path = Path(out)
    if path.suffix not in (".html", ".png"):
        raise SpecError(f"{path} must end in .html or .png, which says what is drawn")
    from curate.fractal.encode import encode
    from curate.pipeline.fractal_gallery import contact_sheet, gallery_data
    from curate.pipeline.fractals import open_specification
    from curate.report.gallery import render as render_page

    opened = open_specification(spec)
    name = opened.specification.name
    if path.suffix == ".html":
        data = render_page(gallery_data(opened, name, classes, instances, images)).encode()
    else:
        data = encode(contact_sheet(opened, classes, instances, images), "png", 95)
    _write(path, data)
    if as_json:
        print_json({"file": str(path), "bytes": len(data)})
    else:
        line(stdout(), f"{path}: {name}, {len(data):,} bytes")
    return 0


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}; give another place with --out") from error
