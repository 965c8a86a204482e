"""A report of a plausible run, with pictures drawn from a seed."""

from __future__ import annotations

import base64
import colorsys
import hashlib
import io
import math
import random

import pytest
from PIL import Image, ImageDraw

from curate.report.page import (
    Allocation,
    BrokenSample,
    Concept,
    Duplicate,
    DuplicateGroup,
    Duplicates,
    FunnelStage,
    Keeper,
    Planted,
    Quarantine,
    Release,
    ReportData,
    Totals,
)


def uid(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def thumbnail(seed: int, quality: int = 80, width: int = 96, height: int = 72) -> str:
    """A JPEG data URI: sky, ground and a few shapes."""
    rng = random.Random(seed)

    def colour(low: float, high: float) -> tuple[int, int, int]:
        red, green, blue = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.3, 0.8), rng.uniform(low, high))
        return round(255 * red), round(255 * green), round(255 * blue)

    image = Image.new("RGB", (width, height), colour(0.7, 0.95))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, rng.randrange(30, 60), width, height), fill=colour(0.3, 0.7))
    for _ in range(rng.randrange(2, 6)):
        x, y, r = rng.randrange(width), rng.randrange(height), rng.randrange(6, 22)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=colour(0.4, 1.0))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def concepts(count: int, seed: int = 7) -> list[Concept]:
    rng = random.Random(seed)
    found = []
    for number in range(count):
        size = max(2, round(rng.paretovariate(1.1) * 9))
        d_intra, d_inter = rng.uniform(0.15, 0.42), rng.uniform(0.2, 0.55)
        quota = min(size, max(1, round(26 * math.exp((d_intra * d_inter - 0.1) / 0.1))))
        found.append(
            Concept(
                concept=number,
                size=size,
                quota=quota,
                kept=quota,
                d_intra=d_intra,
                d_inter=d_inter,
                complexity=d_intra * d_inter,
                saturated=quota == size,
                thumbnails=tuple(thumbnail(1000 + 10 * number + i) for i in range(4)) if count < 100 else (),
            )
        )
    return found


@pytest.fixture(scope="session")
def summary() -> ReportData:
    return build()


def build() -> ReportData:
    found = concepts(40)
    before, kept = sum(c.size for c in found), sum(c.kept for c in found)
    broken = [
        ("00003/000312", "00003.tar", "decode_error", "image file is truncated (1033 bytes not processed)"),
        ("00003/000317", "00003.tar", "empty_image", "the image has 0 bytes"),
        ("00004/000002", "00004.tar", "not_an_image", "begins with <!DOCTYPE html>"),
        (
            "00005/000041",
            "00005.tar",
            "too_many_pixels",
            "30000 x 30000 = 900,000,000 pixels, the limit is 100,000,000",
        ),
        ("Fotos/Straße 12 – Süd", "00006.tar", "missing_image", "members: txt, json"),
        ("00007/000199", "00007.tar", "shard_cut", "the tar ends inside this member"),
    ]
    duplicates, filtered = 214, 187
    rows_in = before + duplicates + filtered + len(broken)
    valid, deduplicated = rows_in - len(broken), before + duplicates
    return ReportData(
        title="quickstart",
        command="curate run pipelines/quickstart.yaml --ok-if-quarantined",
        created="2025-11-22 15:40 UTC",
        totals=Totals(rows_in=rows_in, alive=kept, dropped=rows_in - kept - len(broken), quarantined=len(broken)),
        funnel=(
            FunnelStage(
                stage="index",
                kind="index",
                rows_before=rows_in,
                rows_after=valid,
                reasons={"decode_error": 1, "empty_image": 1, "not_an_image": 1, "too_many_pixels": 1, "other": 2},
                quarantined=len(broken),
                seconds=3.42,
                reused=True,
            ),
            FunnelStage(
                stage="large enough",
                kind="filter",
                rows_before=valid,
                rows_after=valid - filtered,
                reasons={"where: width >= 64 AND height >= 64": filtered - 3, "null: caption": 3},
                seconds=0.21,
            ),
            FunnelStage(stage="embed", kind="embed", rows_before=deduplicated, rows_after=deduplicated, seconds=71.3),
            FunnelStage(stage="fine", kind="cluster", rows_before=deduplicated, rows_after=deduplicated, seconds=1.12),
            FunnelStage(
                stage="dedup",
                kind="dedup",
                rows_before=deduplicated,
                rows_after=before,
                reasons={"duplicate": 118, "exact duplicate": 96},
                seconds=0.94,
            ),
            FunnelStage(
                stage="prune",
                kind="prune",
                rows_before=before,
                rows_after=kept,
                reasons={"over quota": before - kept},
                seconds=0.38,
            ),
            FunnelStage(stage="release", kind="release", rows_before=kept, rows_after=kept, seconds=2.2),
        ),
        quarantine=Quarantine(
            total=len(broken),
            by_status={"decode_error": 1, "empty_image": 1, "not_an_image": 1, "too_many_pixels": 1, "other": 2},
            rows=tuple(BrokenSample(uid=uid(k), key=k, shard=s, status=w, detail=d) for k, s, w, d in broken),
        ),
        concepts=tuple(found),
        allocation=Allocation(
            n=kept,
            saturated_share=sum(c.saturated for c in found) / len(found),
            shift_over_mean_target=0.413,
            complexity_spread=max(c.complexity or 0 for c in found) - min(c.complexity or 0 for c in found),
            temperature=0.1,
        ),
        duplicates=Duplicates(
            count=duplicates,
            exact_count=96,
            groups=(
                DuplicateGroup(
                    keeper=Keeper(uid=uid("a"), key="00000/000017", thumb=thumbnail(1)),
                    dropped=(
                        Duplicate(uid=uid("b"), key="00002/000940", thumb=thumbnail(1, 20), similarity=0.98213),
                        Duplicate(uid=uid("c"), key="00004/000112", thumb=thumbnail(1), similarity=1.0, exact=True),
                    ),
                ),
                DuplicateGroup(
                    keeper=Keeper(uid=uid("d"), key="00001/000003", thumb=thumbnail(2)),
                    dropped=(
                        Duplicate(uid=uid("e"), key="00001/000861_crop", thumb=thumbnail(2, 60), similarity=0.9634),
                    ),
                ),
                DuplicateGroup(
                    keeper=Keeper(uid=uid("f"), key="00001/000377", thumb=thumbnail(3)),
                    dropped=(Duplicate(uid=uid("g"), key="a/very/long/key/" + "x" * 60, similarity=0.951),),
                ),
                DuplicateGroup(
                    keeper=Keeper(uid=uid("h"), key="00005/000400", thumb=thumbnail(4)),
                    dropped=(Duplicate(uid=uid("i"), key="00006/000018", thumb=thumbnail(4, 40), similarity=0.9481),),
                ),
            ),
            planted={
                "same bytes": Planted(found=40, planted=40),
                "recompressed (JPEG quality 40)": Planted(found=39, planted=40),
                "cropped by 8 %": Planted(found=31, planted=40),
            },
        ),
        release=Release(
            path="build/quickstart/run/release",
            shards=3,
            samples=kept,
            bytes=18_734_080,
            sha256=hashlib.sha256(b"manifest").hexdigest(),
        ),
        next_steps=(
            f"curate explain {uid('b')}  # the story of one sample, stage by stage",
            "curate inspect build/quickstart/run/release  # what the release holds",
            "curate verify build/quickstart/run/release  # recompute every checksum and count",
            "curate run pipelines/quickstart.yaml --set stages.prune.keep=0.3  # another keep ratio, reusing the rest",
        ),
    )
