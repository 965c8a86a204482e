"""The page of `curate fractal gallery`: classes and images of a fractal dataset, with boxes drawn.

The page stands alone: inline styles, pictures as data URIs, no script, nothing from the network.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from pydantic import Field

from curate.report.values import Count, DataUri, Model


class Box(Model):
    """What can be seen of one object: [left, top, width, height] in pixels."""

    number: Count
    box: tuple[int, int, int, int]
    visible: Annotated[float, Field(ge=0.0, le=1.0)]
    labelled: bool


class Picture(Model):
    """One image."""

    uri: DataUri
    width: Count
    height: Count
    index: Count | None = None
    label: Count | None = None
    boxes: tuple[Box, ...] = ()


class Class(Model):
    """One class: some of its images and what is known of it."""

    number: Count
    system: str
    facts: dict[str, str]
    pictures: tuple[Picture, ...]


class GalleryData(Model):
    """All that the page says."""

    title: str
    family: str
    classes: Count
    images: Count
    size: Count
    seed: Count
    several: bool
    shown: tuple[Class, ...]
    pictures: tuple[Picture, ...]


def render(data: GalleryData) -> str:
    """The page. Memory: the page."""
    return _template().render(data=data)


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("curate.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = lambda n: f"{n:,}"
    environment.filters["percent"] = lambda share: f"{100 * share:.0f} %"
    return environment.get_template("gallery.html.j2")
