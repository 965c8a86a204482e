"""The page says what the data say, adds up or shouts, and lets nothing of the data act."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from curate.report.page import (
    BrokenSample,
    Concept,
    Duplicate,
    DuplicateGroup,
    Duplicates,
    FunnelStage,
    Keeper,
    Quarantine,
    Recall,
    Release,
    ReportData,
    Threshold,
    Totals,
    concepts_to_show,
    contradictions,
    duration,
    render,
    size,
    visible,
)

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
BLOCKS = {"td", "th", "li", "dt", "dd", "p", "h1", "h2", "h3", "figcaption", "title", "a"}
VOID = {"meta", "img", "wbr", "br", "link", "input"}
ATTACK = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7*7 }}{% raw %}</style></title>&amp;"


class Reader(HTMLParser):
    """Collects tags, attributes, ids and visible text, and checks that every tag is closed in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.extend(attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.extend(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag
        if tag in BLOCKS:
            self.words.append(" ")

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader._open == []
    return reader


def empty(**changes: Any) -> ReportData:
    nothing = {
        "title": "t",
        "command": "c",
        "created": "now",
        "totals": Totals(rows_in=0, alive=0, dropped=0, quarantined=0),
    }
    return ReportData(**{**nothing, **changes})


def test_where_the_line_is_drawn_and_what_may_be_missed() -> None:
    recall = Recall(audited=2000, with_duplicate=400, found=390, low=0.9546, high=0.9864)
    curve = ((0.0, 1000, 1.0), (0.07, 630, 0.63))
    nothing = recall.model_copy(update={"with_duplicate": 0})
    lines = (
        Threshold(step="near", epsilon=0.07, kept=630, of=1000, curve=curve, recall=recall),
        Threshold(step="all", epsilon=0.07, kept=620, of=1000, complete=True),
        Threshold(step="none", epsilon=0.07, kept=1000, of=1000, recall=nothing),
    )
    text = read(render(empty(duplicates=Duplicates(count=370, exact_count=0, thresholds=lines)))).text
    for said in (
        "How alike is too alike: near", "630 of 1,000 samples stay at epsilon 0.07", "above 0.93 is a duplicate",
        "Of 2,000 samples drawn for the audit 400 have an earlier duplicate in any concept; 390 of these were found, "
        "97.5 % (95 % interval 95.5 % to 98.6 %).", "Every pair was compared that can be that similar.",
        "Of 2,000 samples drawn for the audit none has an earlier duplicate.",
    ):  # fmt: skip
        assert said in text, said


def test_what_found_the_duplicates_is_said() -> None:
    pair = DuplicateGroup(keeper=Keeper(uid="a" * 32, key="a"), dropped=(Duplicate(uid="b" * 32, key="b", bits=3),))
    text = read(render(empty(duplicates=Duplicates(count=158, exact_count=25, hash_count=64, groups=(pair,))))).text
    assert (
        "158 samples went because a copy of them stayed: 25 with the same bytes, "
        "64 with nearly the same perceptual hash, 69 with nearly the same vector." in text
    )
    assert "3 of 64 bits differ" in text


def test_every_number_of_the_data_is_on_the_page(summary: ReportData) -> None:
    text = read(render(summary)).text
    t = summary.totals
    assert f"{t.rows_in:,} samples in = {t.alive:,} kept + {t.dropped:,} dropped, with a reason" in text
    assert f"+ {t.quarantined:,} quarantined, with an error" in text
    for stage in summary.funnel:
        row = f"{stage.rows_before:,} {'−' if stage.left else ''}{stage.left:,} {stage.rows_after:,}"
        assert row in text
        for reason, count in stage.reasons.items():
            assert f"{count:,} {reason}" in text
    for broken in summary.quarantine.rows:
        assert f"{broken.key} {broken.shard} {broken.status} {broken.detail}" in text
        assert broken.uid in text
    assert summary.duplicates is not None
    assert summary.duplicates.planted is not None
    for kind, planted in summary.duplicates.planted.items():
        assert f"{kind} {planted.planted} {planted.found}" in text
    assert summary.release is not None
    assert summary.release.sha256 in text
    assert "18.7 MB (18,734,080 bytes)" in text
    assert "not add up" not in text


def test_the_page_is_the_same_for_the_same_data(summary: ReportData) -> None:
    page = render(summary)
    assert page == render(summary.model_copy(deep=True))
    assert page.startswith("<!doctype html>\n")
    assert page.endswith("</html>\n")


def test_data_survive_json(summary: ReportData) -> None:
    assert ReportData.model_validate_json(summary.model_dump_json()) == summary


def test_the_page_stands_alone(summary: ReportData) -> None:
    page = render(summary)
    reader = read(page)
    assert not {"script", "link", "iframe", "object", "embed", "form", "base"} & set(reader.tags)
    assert "default-src 'none'" in page
    for name, value in reader.attributes:
        assert not name.startswith("on")
        if name in {"src", "href"}:
            assert (value or "").startswith(("data:image/", "#"))
    ids = [value for name, value in reader.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    linked = {(value or "")[1:] for name, value in reader.attributes if name == "href"}
    assert linked <= set(ids)
    assert "url(" not in page
    assert "@import" not in page


def test_every_picture_has_words_and_every_header_a_scope(summary: ReportData) -> None:
    page = render(summary)
    assert len(re.findall(r"<img ", page)) == len(re.findall(r'<img src="[^"]+" alt="[^"]+">', page)) > 10
    assert len(re.findall(r"<th[ >]", page)) == len(re.findall(r'<th[^>]* scope="', page)) > 10


def test_every_chart_is_well_formed(summary: ReportData) -> None:
    pictures = re.findall(r"<svg.*?</svg>", render(summary), flags=re.DOTALL)
    assert len(pictures) > 20
    for picture in pictures:
        ET.fromstring(picture)


def hostile(text: str) -> ReportData:
    """`text` wherever a string can come from data."""
    uid = "0" * 32
    return ReportData(
        title=text,
        command=text,
        created=text,
        totals=Totals(rows_in=3, alive=1, dropped=1, quarantined=1),
        funnel=(
            FunnelStage(stage=text, kind=text + "2", rows_before=3, rows_after=1, reasons={text: 2}, quarantined=1),
        ),
        quarantine=Quarantine(
            total=2, by_status={text: 1}, rows=(BrokenSample(uid=uid, key=text, shard=text, status=text, detail=text),)
        ),
        duplicates=Duplicates(
            count=1,
            exact_count=0,
            groups=(
                DuplicateGroup(
                    keeper=Keeper(uid=uid, key=text, thumb="data:image/png;base64,iVBORw0KGgo="),
                    dropped=(Duplicate(uid=uid, key=text, thumb="data:image/png;base64,iVBORw0KGgo=", similarity=0.9),),
                ),
            ),
            planted={text: {"found": 1, "planted": 1}},  # type: ignore[dict-item]
        ),
        release=Release(path=text, shards=1, samples=1, bytes=1, sha256=text),
        next_steps=(text, f"{text}  # {text}"),
    )


def test_names_from_the_data_cannot_inject() -> None:
    page = render(hostile(ATTACK))
    harmless = read(render(hostile("harmless")))
    reader = read(page)
    assert reader.tags == harmless.tags
    assert [name for name, _ in reader.attributes] == [name for name, _ in harmless.attributes]
    assert ATTACK in reader.text
    assert "<script" not in page


@given(st.text(min_size=1, max_size=30))
def test_no_text_changes_the_shape_of_the_page(text: str) -> None:
    harmless = read(render(hostile("harmless")))
    page = render(hostile(text))
    page.encode("utf-8")
    assert read(page).tags == harmless.tags


@given(st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp"]), min_size=1))
def test_misleading_characters_are_spelled_out(text: str) -> None:
    shown = visible("a" + text + "b")
    assert shown.isprintable()
    assert shown.isascii()


def test_visible_leaves_honest_text_alone() -> None:
    assert visible("Fotos/Straße 12 – Süd 写真 صورة 📷") == "Fotos/Straße 12 – Süd 写真 صورة 📷"
    assert visible("cat\u202egpj.exe") == r"cat\u202egpj.exe"
    assert visible("\x00\udcff\U000e0001") == r"\u0000\udcff\U000e0001"


@pytest.mark.parametrize(
    "uri",
    [
        "data:image/svg+xml;base64,PHN2Zz4=",
        "javascript:alert(1)",
        "data:text/html;base64,PHA+",
        'data:image/png;base64,AAAA" onload="x',
        "data:image/png;base64,AAAA\n",
        "photo.jpg",
    ],
)
def test_only_inline_photos_are_thumbnails(uri: str) -> None:
    with pytest.raises(ValidationError):
        Keeper(uid="0" * 32, key="k", thumb=uri)


def test_an_empty_run_has_a_page() -> None:
    text = read(render(empty())).text
    for sentence in (
        "0 samples in = 0 kept",
        "No stage has finished.",
        "This pipeline has no dedup stage.",
        "This run pruned nothing by concept.",
        "Every sample could be read.",
    ):
        assert sentence in text
    assert "Release" not in text
    assert "No duplicate was found." in read(render(empty(duplicates=Duplicates(count=0, exact_count=0)))).text


def test_concepts_without_complexity_have_one_chart() -> None:
    page = render(
        empty(concepts=(Concept(concept=1, size=9, quota=3, kept=3), Concept(concept=2, size=4, quota=0, kept=0)))
    )
    assert page.count('class="scatter"') == 1
    assert "complexity" not in read(page).text


def test_numbers_that_add_up_raise_no_alarm(summary: ReportData) -> None:
    assert contradictions(summary) == []


def test_numbers_that_do_not_add_up_are_shown_first() -> None:
    data = empty(
        totals=Totals(rows_in=100, alive=50, dropped=30, quarantined=15),
        funnel=(
            FunnelStage(stage="index", kind="index", rows_before=99, rows_after=90, reasons={"broken": 8}),
            FunnelStage(stage="prune", kind="prune", rows_before=89, rows_after=51, reasons={"over quota": 38}),
        ),
        release=Release(path="r", shards=1, samples=49, bytes=1, sha256="0"),
    )
    text = read(render(data)).text
    assert "100 samples in ≠ 50 kept" in text
    for sentence in (
        "100 rows came in, but kept, dropped and quarantined rows make 95.",
        "Stage index lost 9 rows, but its reasons count 8.",
        "Stage index left 90 rows, but stage prune started with 89.",
        "The first stage started with 99 rows of 100.",
        "The last stage left 51 rows, but 50 count as kept.",
        "The release holds 49 samples, but 50 rows were kept.",
    ):
        assert sentence in text
        assert text.index(sentence) < text.index("samples in ≠")
    assert len(contradictions(data)) == 6


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=20), st.integers(0, 6), st.randoms())
def test_the_concepts_shown_are_the_extremes(rows: list[tuple[int, int]], shown: int, rng: Any) -> None:
    found = [Concept(concept=i, size=a + b, quota=b, kept=b) for i, (a, b) in enumerate(rows)]
    largest, smallest = concepts_to_show(found, shown)
    assert len(largest) == min(shown, len(found))
    assert len(smallest) == min(shown, len(found) - len(largest))
    rest = [c for c in found if c not in largest and c not in smallest]
    assert not {c.concept for c in largest} & {c.concept for c in smallest}
    assert all(a.quota >= c.quota for a in largest for c in rest + smallest)
    assert all(a.quota <= c.quota for a in smallest for c in rest + largest)
    rng.shuffle(found)
    assert concepts_to_show(found, shown) == (largest, smallest)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (9600, "2 h 40 min"),
    ],
)
def test_durations_read_like_speech(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (999_600, "1.00 MB"),
        (18_734_080, "18.7 MB"),
        (5 * 10**15, "5,000 TB"),
    ],
)
def test_sizes_are_decimal(nbytes: int, text: str) -> None:
    assert size(nbytes) == text


def browse(page: str, folder: Path) -> tuple[str, list[str]]:
    """The DOM as Chromium has it after loading, and its console messages."""
    file = folder / "page.html"
    file.write_text(page, encoding="utf-8")
    assert CHROMIUM is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", "--enable-logging=stderr", "--dump-dom"]
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [CHROMIUM, *flags, f"--user-data-dir={profile}", file.as_uri()],
            capture_output=True,
            timeout=120,
            check=True,
        )
    log = done.stderr.decode("utf-8", "replace")
    return done.stdout.decode("utf-8"), [line for line in log.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_browser_has_nothing_to_complain_about(summary: ReportData, tmp_path: Path) -> None:
    attacked = summary.model_copy(update={"title": ATTACK, "next_steps": (ATTACK,)})
    dom, messages = browse(render(attacked), tmp_path)
    assert messages == []
    assert "<script" not in dom
    assert dom.count("<svg") == render(attacked).count("<svg")
    assert 'id="next-title"' in dom


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_page_forbids_scripts_and_downloads_even_if_one_got_in(summary: ReportData, tmp_path: Path) -> None:
    worst = '<script>document.title = "ran"</script><img src="other.png" alt=""></body>'
    dom, messages = browse(render(summary).replace("</body>", worst), tmp_path)
    assert "<title>ran</title>" not in dom
    assert sum("Content Security Policy" in line for line in messages) == 2
