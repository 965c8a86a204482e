"""The gallery page: pictures and boxes where the data say, nothing that acts, and a look through a real browser."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curate.report.gallery import Box, Class, GalleryData, Picture, render

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


def picture(colour: tuple[int, int, int], side: int = 64, **more: object) -> Picture:
    out = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), colour, dtype=np.uint8)).save(out, "PNG")
    uri = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
    return Picture.model_validate({"uri": uri, "width": side, "height": side} | more)


def data(**changed: object) -> GalleryData:
    boxes = (Box(number=3, box=(8, 16, 32, 16), visible=0.5, labelled=True),)
    hidden = (Box(number=4, box=(40, 40, 8, 8), visible=0.02, labelled=False),)
    given = {
        "title": "a <b>bold</b> name",
        "family": "ifs",
        "classes": 1000,
        "images": 1_000_000,
        "size": 64,
        "seed": 7,
        "several": True,
        "shown": (Class(number=3, system="0123456789ab", facts={"fill": "0.2"}, pictures=(picture((0, 0, 255)),)),),
        "pictures": (picture((255, 0, 255), index=0, boxes=boxes + hidden), picture((9, 9, 9), index=1)),
    }
    return GalleryData.model_validate(given | changed)


def test_the_page_says_what_the_data_say() -> None:
    page = render(data())
    assert "a &lt;b&gt;bold&lt;/b&gt; name" in page
    assert "1,000 classes" in page
    assert "class 3 <code>0123456789ab</code>" in page
    assert re.findall(r'<rect class="([^"]+)" x="(\d+)" y="(\d+)" width="(\d+)" height="(\d+)"', page) == [
        ("seen b0", "8", "16", "32", "16"),
        ("seen b1 unlabelled", "40", "40", "8", "8"),
    ]
    assert "3, 50 %" in page
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_single_images_say_their_class() -> None:
    page = render(data(several=False, pictures=(picture((9, 9, 9), index=5, label=3),)))
    assert "image 5, class 3" in page
    assert "Dashed" not in page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_shows_pictures_square_and_boxes_on_them(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(render(data()), encoding="utf-8")
    shot = tmp_path / "shot.png"
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1000,1300"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}", f"file://{tmp_path / 'page.html'}"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    seen = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    magenta = np.abs(seen - (255, 0, 255)).sum(axis=2) < 30
    rows, columns = np.flatnonzero(magenta.any(axis=1)), np.flatnonzero(magenta.any(axis=0))
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    assert width > 150
    assert abs(height - width) <= 2
    # the box of the first object begins an eighth from the left and a quarter from the top
    x, y = columns[0] + width // 8, rows[0] + height // 4
    edge = seen[y - 2 : y + 3, x + width // 4].reshape(-1, 3)
    assert edge[:, 1].max() > 100  # amber, maybe mixed with the magenta below
    assert edge[[0, -1], 1].max() < 20
