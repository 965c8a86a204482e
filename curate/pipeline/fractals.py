"""Open a fractal specification, wherever it stands: a release, its specification.json, or a pipeline file."""

from __future__ import annotations

import io
from dataclasses import dataclass

import polars as pl
from pydantic import ValidationError

from curate.errors import InputError, SpecError
from curate.fractal.families.base import Family
from curate.fractal.families.choose import open_family, search
from curate.fractal.image import RENDERER
from curate.fractal.specification import FractalOptions, Specification
from curate.pipeline.load import load
from curate.stages import configs
from curate.store.workspace import Workspace

SPECIFICATION = "specification.json"
TABLE = "systems.parquet"


@dataclass(frozen=True)
class Opened:
    """A specification with its classes, ready to draw from."""

    specification: Specification
    family: Family


def open_specification(location: str) -> Opened:
    """The specification at a folder with specification.json, at such a file, or in a pipeline file (.yaml or .yml).

    The classes come from systems.parquet beside it; a pipeline file has none, so they are searched for once more.
    Raises InputError or SpecError in a sentence. Memory: O(classes).
    """
    if location.endswith((".yaml", ".yml")):
        return _from_pipeline(location)
    folder = location.removesuffix(SPECIFICATION) if location.endswith(f"/{SPECIFICATION}") else location
    place = Workspace("." if folder == SPECIFICATION else folder)
    if not place.exists(SPECIFICATION):
        raise InputError(
            f"{place.where()} has no {SPECIFICATION}; give the folder of a fractal release, its {SPECIFICATION}, or a "
            "pipeline file (.yaml) with a stage fractal"
        )
    specification = _parsed(place.read(SPECIFICATION), place.where(SPECIFICATION))
    if specification.renderer != RENDERER:
        raise SpecError(
            f"{place.where(SPECIFICATION)} was drawn by renderer {specification.renderer}, and this curate has "
            f"{RENDERER}: the pixels would differ; use the version that wrote it"
        )
    if not place.exists(TABLE):
        raise InputError(f"{place.where()} has no {TABLE}, which holds the classes; get the release again")
    try:
        table = pl.read_parquet(io.BytesIO(place.read(TABLE)))
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{place.where(TABLE)} is no table of classes: {error}; get the release again") from error
    return Opened(specification, open_family(specification.options, table))


def _from_pipeline(location: str) -> Opened:
    spec = load(location, registry=configs()).spec
    entry = next((entry for entry in spec.stages if isinstance(entry.config, FractalOptions)), None)
    if entry is None:
        raise SpecError(f"{location} has no stage fractal, so there is nothing to draw")
    assert isinstance(entry.config, FractalOptions)
    options = FractalOptions.model_validate(entry.config.model_dump(include=set(FractalOptions.model_fields)))
    specification = Specification(renderer=RENDERER, name=spec.name, seed=spec.seed, options=options)
    return Opened(specification, open_family(options, search(options, spec.seed)))


def _parsed(data: bytes, where: str) -> Specification:
    try:
        return Specification.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(str(step) for step in first["loc"]) or "its text"
        raise InputError(f"{where} is no fractal specification: {at}: {first['msg']}; get it again") from error
