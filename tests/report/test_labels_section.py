"""The section "Labels": there with labels, no trace without; names that do not cover each other, nothing injected."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_page import ATTACK, read

from curate.report.labels import Disagreement, Gallery, Heat, Labels, Look, Mark, Pair, Sets, tags
from curate.report.page import ReportData, render

PIXEL = "data:image/jpeg;base64,/9j/4AAQSkZJRg=="


def look(marks: list[Mark], width: int = 250, height: int = 180, name: str = "photo") -> Look:
    heats = tuple(Heat(name=mark.name, peak=0.75, picture=PIXEL) for mark in marks[:3])
    return Look(
        uid="0" * 32, key=name, photo=PIXEL, width=width, height=height, given=name, marks=tuple(marks), heats=heats
    )


def section(name: str = "dog") -> Labels:
    marks = [
        Mark(name=name, probability=0.93, decision="keep", box=(0.1, 0.2, 0.3, 0.5)),
        Mark(name="ball", probability=0.6, decision="keep", box=(0.1, 0.2, 0.1, 0.1)),
        Mark(name="sofa", probability=0.3, decision="unsure"),
    ]
    disagreement = Disagreement(
        images=1000,
        same=700,
        other=111,
        multi_with=120,
        multi_without=33,
        none=36,
        confusions=(Pair(given=name, found="wolf", images=17, relation="co_occurring"),),
        companions=(Pair(given="cup", found=name, images=13),),
    )
    sets = Sets(
        step="label_sets", calibrated=False, images=1234, labelled=1100, undecided=80, nothing=54,
        per_image=(134, 900, 200), given=1000, added=397, extended=264, suspect=101, disagreement=disagreement,
    )  # fmt: skip
    return Labels(
        step="relabel", teachers=("a", name), maps=1234, rows=7, columns=9, k=5, sets=sets,
        galleries=(Gallery(title="Several labels", of=200, looks=(look(marks, name=name),)),),
    )  # fmt: skip


def test_a_report_without_labels_has_no_trace_of_them(summary: ReportData) -> None:
    page, with_labels = render(summary), render(summary.model_copy(update={"labels": section()}))
    for trace in ('id="labels"', "#labels", ".look", "label map"):
        assert trace not in page
        assert trace in with_labels
    before, after = (text.replace("}</style>", "}\n</style>").splitlines() for text in (page, with_labels))
    rest = iter(after)
    assert all(line in rest for line in before), "a section is added, and nothing else changes"


def test_the_numbers_are_told(summary: ReportData) -> None:
    told = " ".join(read(render(summary.model_copy(update={"labels": section()}))).text.split())
    assert "1,234 images have a label map: what a, dog see together in each of 7 x 9 cells" in told
    assert "labels kept 1,300" in told
    assert "added labels 397 in 264 images" in told
    assert "suspect given labels 101" in told
    assert "85.1 % have the given one among them" in told  # (700 + 120) / (1000 - 36)
    assert "several, without the given one 33 3.3 %" in told
    assert "dog wolf 17 co occurring" in told
    assert "cup dog 13 not known" in told
    assert "scores count as probabilities" in told


def test_names_of_classes_cannot_inject(summary: ReportData) -> None:
    attacked = read(render(summary.model_copy(update={"labels": section(ATTACK)})))
    harmless = read(render(summary.model_copy(update={"labels": section("harmless")})))
    assert attacked.tags == harmless.tags
    assert [name for name, _ in attacked.attributes] == [name for name, _ in harmless.attributes]


def test_maps_alone_and_photos_that_are_gone_have_a_section(summary: ReportData) -> None:
    gone = Look(uid="1" * 32, key="lost")
    labels = Labels(
        step="relabel", teachers=("a",), maps=2, rows=7, columns=7, k=5,
        galleries=(Gallery(title="Some images", of=2, looks=(gone,)),),
    )  # fmt: skip
    page = render(summary.model_copy(update={"labels": labels}))
    assert "no preview" in page
    assert "Labels an image" not in page


def test_the_drawing_on_a_photo_is_well_formed(summary: ReportData) -> None:
    page = render(summary.model_copy(update={"labels": section("cat & dog")}))
    drawing = page[page.index('<svg class="marks"') :].split("</svg>")[0] + "</svg>"
    root = ET.fromstring(drawing)
    boxes = [rect for rect in root.iter("rect") if rect.get("class") == "seen"]
    assert [(b.get("x"), b.get("y"), b.get("width"), b.get("height")) for b in boxes] == [
        ("25.0", "36.0", "75.0", "90.0"),
        ("25.0", "36.0", "25.0", "18.0"),
    ]
    assert [text.text for text in root.iter("text")] == ["cat & dog", "ball"]


marks = st.builds(
    lambda name, x, y: Mark(name=name, probability=0.9, decision="keep", box=(x, y, 1 - x, 1 - y)),
    st.text("abcdefgh ", min_size=1, max_size=60),
    st.floats(0, 1),
    st.floats(0, 1),
)


@given(st.lists(marks, max_size=8), st.integers(60, 250), st.integers(130, 250))
def test_names_lie_in_the_photo_and_on_no_other(found: list[Mark], width: int, height: int) -> None:
    placed = tags(look(found, width, height))
    assert [tag.place for tag in placed] == list(range(len(found)))
    for number, tag in enumerate(placed):
        assert tag.x >= 0
        assert tag.y >= 0
        assert tag.x + tag.width <= width + 1e-6
        assert tag.y + tag.line <= height + 1e-6
        for other in placed[:number]:
            apart = abs(tag.y - other.y) >= tag.line - 0.02 or tag.x >= other.x + other.width - 1e-6
            assert apart or other.x >= tag.x + tag.width - 1e-6 or len(found) * 2 > height // 16


@pytest.mark.parametrize("values", [{"peak": 1.01}, {"picture": "https://example.org/a.jpg"}])
def test_only_probabilities_and_inline_pictures(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Heat(**({"name": "a", "peak": 0.5, "picture": PIXEL} | values))
