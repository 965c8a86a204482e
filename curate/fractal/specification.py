"""What decides every byte of a fractal dataset: a few kilobytes from which any image can be made again, alone.

The options are those of the stage `fractal` and of `specification.json` in its release: docs/fractal.md.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Vertices = Annotated[int, Field(ge=3, le=10_000)]
Lines = Annotated[int, Field(ge=1, le=10_000)]
Cells = Annotated[int, Field(ge=1, le=10_000)]
FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


class Options(BaseModel):
    """Base: no unknown options, no changes, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Gates(Options):
    """What a class must meet; a candidate that does not is passed over and counted."""

    fill: tuple[Share, Share] = Field(
        (0.02, 0.9), description="Least and most of the pixels that 100,000 points cover at 256 x 256."
    )
    aspect: Share = Field(
        0.02, description="Least ratio of the smaller to the larger standard deviation; 0: lines too."
    )
    s1_max: float = Field(1.0, gt=0.0, description="Largest singular value of any map; above 1 maps may expand.")
    p_min: Share = Field(0.0, description="Least probability of any map.")
    distance: float = Field(
        0.0, ge=0.0, description="Least distance of two classes, as docs/fractal.md measures it; 0: near-copies may be."
    )


class Jitter(Options):
    """How the parameters of a class differ from image to image."""

    kind: Literal["none", "basic", "svd", "sval", "fractaldb", "one_parameter"] = Field(
        "basic",
        description="basic: one map scaled. svd: one rotation turned or one translation shifted. sval: singular values "
        "of one map, sigma-factor kept in its window. fractaldb: one entry of each map. one_parameter: all entries.",
    )
    strength: float = Field(
        1.0, ge=0.0, le=4.0, description="Factor of the published ranges: 0 changes nothing, 1 is as published."
    )


class Ifs(Options):
    """Classes are iterated function systems of affine maps, drawn by the chaos game."""

    sampler: Literal["uniform", "anderson2022", "fractaldb", "one_parameter"] = Field(
        "uniform",
        description="uniform: singular values uniform on a sigma-factor, maps exchangeable. anderson2022, fractaldb: "
        "the published laws, draw for draw. one_parameter: one system, and classes are perturbations of it.",
    )
    maps: tuple[Annotated[int, Field(ge=2, le=64)], Annotated[int, Field(ge=2, le=64)]] = Field(
        (2, 4), description="Least and most maps of a system, each number equally likely."
    )
    sigma: tuple[float, float] | None = Field(
        None, description="Range of the sigma-factor; default (5 + n) / 2 to (6 + n) / 2 for n maps."
    )
    reach: float = Field(1.0, gt=0.0, description="Translations are uniform in [-reach, reach] on both axes.")
    probability: Literal["determinant", "floor", "uniform"] = Field(
        "determinant", description="How often a map is drawn: by its area, by its area but never below floor, equally."
    )
    floor: Share = Field(0.0, description="Least probability of a map under probability: floor.")
    deviation: float = Field(
        0.1, gt=0.0, lt=1.0, description="one_parameter: entries are multiplied by U(1 - deviation, 1 + deviation)."
    )
    gates: Gates = Field(default_factory=Gates, description="What a class must meet.")  # type: ignore[arg-type]
    points: int = Field(
        100_000, ge=100, le=10**9, description="Points of an image of the full size; smaller objects take less."
    )
    patch: bool = Field(True, description="Whether each point is a random 3 x 3 pattern, one for each image.")
    jitter: Jitter = Field(default_factory=Jitter, description="Parameter jitter.")  # type: ignore[arg-type]
    zoom: tuple[float, float] = Field(
        (0.5, 2.0), description="Range of what is seen of the attractor on each axis; below 1 is nearer."
    )
    centre: float = Field(0.2, ge=0.0, le=1.0, description="Largest shift of the centre, as a share of the extent.")

    @model_validator(mode="after")
    def _consistent(self) -> Ifs:
        if self.maps[0] > self.maps[1]:
            raise ValueError(f"maps must go from the least to the most, not from {self.maps[0]} to {self.maps[1]}")
        if self.sigma is not None and not 0.0 < self.sigma[0] <= self.sigma[1]:
            raise ValueError("sigma must go from a positive number to one that is no smaller")
        if not 0.0 < self.zoom[0] <= self.zoom[1]:
            raise ValueError("zoom must go from a positive number to one that is no smaller")
        if self.floor * self.maps[1] > 1.0:
            raise ValueError(f"a floor of {self.floor:g} for {self.maps[1]} maps is more than the whole")
        if self.floor and self.probability != "floor":
            raise ValueError("floor has no meaning without probability: floor")
        if self.sigma is not None and self.sampler in ("anderson2022", "fractaldb"):
            raise ValueError(f"sigma has no meaning with sampler: {self.sampler}, which is a published law")
        if self.reach != 1.0 and self.sampler == "fractaldb":
            raise ValueError("reach has no meaning with sampler: fractaldb, where every entry is uniform in (-1, 1)")
        if self.deviation != 0.1 and self.sampler != "one_parameter":  # by value: what was dumped names every option
            raise ValueError("deviation has no meaning without sampler: one_parameter")
        return self


class Contours(Options):
    """Classes are nested radial contours (RCDB, Kataoka et al. 2022)."""

    vertices: tuple[Vertices, Vertices] = Field((3, 200), description="Range of the number of vertices.")
    mean: float = Field(100.0, gt=0.0, description="Vertices follow an exponential law of this mean, within the range.")
    lines: tuple[Lines, Lines] = Field((1, 200), description="Range of the number of nested lines.")
    oval: tuple[float, float] = Field((1.0, 2.0), description="Range of the stretch of each axis.")
    noise: float = Field(0.5, ge=0.0, lt=1.0, description="Most that noise moves a vertex, as a share of the radius.")
    cells: tuple[Cells, Cells] = Field((3, 60), description="Range of the steps of the noise around the contour.")

    @model_validator(mode="after")
    def _consistent(self) -> Contours:
        _ascending(self, "vertices", "lines", "oval", "cells")
        if self.oval[0] <= 0.0:
            raise ValueError(f"oval must be above 0, not {self.oval[0]:g}")
        return self


class Sinusoids(Options):
    """Classes are sums of two sinusoidal waves around a circle (VisualAtom, Takashima et al. 2023)."""

    frequencies: tuple[Annotated[int, Field(ge=0, le=1000)], Annotated[int, Field(ge=0, le=1000)]] = Field(
        (0, 20), description="Range of the two whole frequencies, which differ unless both are 0."
    )
    amplitude: tuple[Share, Share] = Field((0.05, 0.3), description="Range of the amplitudes, shares of the radius.")
    vertices: tuple[Vertices, Vertices] = Field((200, 1000), description="Range of the number of vertices.")
    lines: tuple[Lines, Lines] = Field((1, 200), description="Range of the number of nested lines.")
    noise: float = Field(0.3, ge=0.0, lt=1.0, description="Most that noise moves a vertex, as a share of the radius.")
    cells: tuple[Cells, Cells] = Field((3, 60), description="Range of the steps of the noise around the circle.")

    @model_validator(mode="after")
    def _consistent(self) -> Sinusoids:
        _ascending(self, "frequencies", "amplitude", "vertices", "lines", "cells")
        if self.frequencies[0] == self.frequencies[1] != 0:
            raise ValueError(f"frequencies from {self.frequencies[0]} to the same leave no two that differ")
        if 2.0 * self.amplitude[1] + self.noise >= 1.0:
            raise ValueError("twice the largest amplitude and the noise must stay below 1: the radius is never 0")
        return self


def _ascending(options: Options, *names: str) -> None:
    """Raises ValueError unless these ranges go from the least to the most."""
    for name in names:
        low, high = getattr(options, name)
        if low > high:
            raise ValueError(f"{name} must go from the least to the most, not from {low:g} to {high:g}")


class Scene(Options):
    """Several objects in one image, later ones in front."""

    objects: tuple[Annotated[int, Field(ge=1, le=255)], Annotated[int, Field(ge=1, le=255)]] = Field(
        (1, 5), description="Least and most objects, each number equally likely."
    )
    size: tuple[Share, Share] = Field((0.15, 0.6), description="Range of an object's side, as a share of the image's.")
    visible: Share = Field(0.1, description="An object of which less than this share of its area is seen has no label.")
    antialias: Literal[1, 2] = Field(2, description="2: objects are drawn at twice their side, with soft edges.")

    @model_validator(mode="after")
    def _consistent(self) -> Scene:
        if self.objects[0] > self.objects[1] or self.size[0] > self.size[1] or self.size[0] <= 0.0:
            raise ValueError("objects and size must go from the least, above 0, to the most")
        return self


class FractalOptions(Options):
    """What is drawn. Exactly one family of classes."""

    ifs: Ifs | None = Field(None, description="Iterated function systems.")
    contours: Contours | None = Field(None, description="Radial contours.")
    sinusoids: Sinusoids | None = Field(None, description="Sinusoidal waves around a circle.")
    classes: int = Field(1000, ge=1, le=10_000_000, description="Number of classes.")
    images: int = Field(1_000_000, ge=1, le=10**10, description="Number of images; image i shows class i mod classes.")
    size: int = Field(256, ge=8, le=4096, description="Side of an image in pixels.")
    scene: Scene | None = Field(None, description="Several objects in one image; left out: one that fills it.")
    tone: Literal["density", "log", "binary"] = Field(
        "density", description="What a pixel says of its points: their share of the most, on a log scale, or yes or no."
    )
    colour: Literal["random", "gray"] = Field("random", description="Random colours for each object, or white to gray.")
    background: Literal["diamond_square", "black"] = Field("diamond_square", description="What lies behind.")
    flips: bool = Field(True, description="Whether objects are flipped and transposed at random.")
    blur: Share = Field(0.5, description="Share of images that a Gaussian of sigma 0.5 to 1 softens.")
    format: Literal["jpg", "png", "webp"] = Field("jpg", description="Format of the images; png and webp lose nothing.")
    quality: int = Field(95, ge=1, le=100, description="Quality of jpg.")

    @model_validator(mode="after")
    def _one_family(self) -> FractalOptions:
        if sum(family is not None for family in (self.ifs, self.contours, self.sinusoids)) != 1:
            raise ValueError("give exactly one of ifs, contours and sinusoids, such as ifs: {}")
        return self


class Specification(Options):
    """`specification.json`: with the table of classes beside it, every image can be made again."""

    version: Literal[1] = Field(default=1, description="Version of this format.")
    renderer: int = Field(description="Version of the drawing; another version may draw other pixels.")
    name: str = Field(description="Name of the dataset, part of uids.")
    seed: int = Field(ge=0, lt=2**63, description="Seed of every random choice.")
    options: FractalOptions = Field(description="What is drawn.")
