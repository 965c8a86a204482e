"""What the section "Labels" of a report says (`Labels`): label sets by number, and photos with their label maps.

The section is labels.html.j2, its style labels.css; a report without label maps has neither. What never lives here: how
labels are decided, files.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from curate.report.values import Count, DataUri, Model, Share, Uid

_FONT = 12.0
"""Height of a name on a photo, in pixels of the photo."""
_LINE = 16.0
_CHARACTER = 0.6
"""Width of a character in heights, a wide one: names are set in whatever font the reader has."""


class Mark(Model):
    """A label of a photo. ``box``: (left, top, width, height) as shares of the photo; None = nowhere in particular."""

    name: str
    probability: Share
    decision: str
    box: tuple[Share, Share, Share, Share] | None = None
    given: bool = False


class Heat(Model):
    """Where a class is: its picture, and its probability in the best cell."""

    name: str
    peak: Share
    picture: DataUri
    given: bool = False


class Look(Model):
    """A photo with its labels. ``photo`` is `width` x `height` pixels; None when the image cannot be read any more."""

    uid: Uid
    key: str
    photo: DataUri | None = None
    width: Count = 0
    height: Count = 0
    given: str | None = None
    marks: tuple[Mark, ...] = ()
    heats: tuple[Heat, ...] = ()

    @property
    def kept(self) -> tuple[Mark, ...]:
        """The labels that the photo has now."""
        return tuple(mark for mark in self.marks if mark.decision == "keep")


class Gallery(Model):
    """Photos with something in common; `of` samples have it."""

    title: str
    of: Count
    looks: tuple[Look, ...]


class Pair(Model):
    """How many images came with `given` and now have `found`; `relation` of the first to the second, None = unknown."""

    given: str
    found: str
    images: Count
    relation: str | None = None


class Disagreement(Model):
    """Given labels against the new sets, of `images` with a given label.

    The set is the given label alone (`same`), one other label (`other`), several with the given one (`multi_with`) or
    without it (`multi_without`), or empty (`none`).
    """

    images: Count
    same: Count
    other: Count
    multi_with: Count
    multi_without: Count
    none: Count
    confusions: tuple[Pair, ...] = ()
    companions: tuple[Pair, ...] = ()

    @property
    def agreement(self) -> float | None:
        """Share of the images with labels that have the given one among them."""
        filled = self.images - self.none
        return (self.same + self.multi_with) / filled if filled else None


class Sets(Model):
    """Label sets by number. ``per_image``: place = how many labels, value = how many images have so many.

    ``added``: kept labels that are not the given one, of `given` images that came with one, in `extended` images;
    ``suspect``: images whose given label contradicts all kept ones. ``calibrated``: probabilities were fitted on labels
    that are known.
    """

    step: str
    calibrated: bool
    images: Count
    labelled: Count
    undecided: Count
    nothing: Count
    per_image: tuple[Count, ...]
    given: Count = 0
    added: Count = 0
    extended: Count = 0
    suspect: Count = 0
    disagreement: Disagreement | None = None

    @property
    def labels(self) -> int:
        """Kept labels of all images."""
        return sum(labels * images for labels, images in enumerate(self.per_image))


class Labels(Model):
    """The section. ``teachers``: names of the classifiers; `rows` x `columns` cells and `k` classes a cell."""

    step: str
    teachers: Annotated[tuple[str, ...], Field(min_length=1)]
    maps: Count
    rows: Count
    columns: Count
    k: Count
    sets: Sets | None = None
    galleries: tuple[Gallery, ...] = ()


class Tag(Model):
    """A name on a photo: left and top of its ground, and its width, in pixels of the photo; `line` is its height."""

    text: str
    x: float
    y: float
    width: float
    line: float = _LINE
    font: float = _FONT
    box: tuple[float, float, float, float]
    place: Count
    """Which of the photo's marks it is, from 0."""


def tags(look: Look) -> list[Tag]:
    """Names and boxes of the kept labels in pixels: each name at the top of its box, moved down (or, where there is no
    room below, up) until it covers no other name, cut where it is wider than the photo.
    """
    placed: list[Tag] = []
    for place, mark in enumerate(look.kept):
        if mark.box is None:
            continue
        left, top, wide, tall = mark.box
        longest = max(1, int((look.width - 6) / (_CHARACTER * _FONT)))
        text = mark.name if len(mark.name) <= longest else mark.name[: max(1, longest - 1)] + "…"
        width = min(float(look.width), len(text) * _CHARACTER * _FONT + 6)
        x = min(left * look.width, look.width - width)
        y = _free(x, top * look.height, width, look.height, placed)
        box = (left * look.width, top * look.height, wide * look.width, tall * look.height)
        placed.append(Tag(text=text, x=max(0.0, x), y=y, width=width, box=box, place=place))
    return placed


def _free(x: float, y: float, width: float, height: float, placed: list[Tag]) -> float:
    """The first line at y or below it, else above it, that no placed name covers; y where all are taken."""
    wanted = max(0.0, min(y, height - _LINE))
    down = [wanted + n * _LINE for n in range(int((height - _LINE - wanted) / _LINE) + 1)]
    up = [wanted - n * _LINE for n in range(1, int(wanted / _LINE) + 1)]
    for line in down + up:
        if not any(t.x < x + width and x < t.x + t.width and abs(t.y - line) < _LINE - 0.01 for t in placed):
            return line
    return wanted
