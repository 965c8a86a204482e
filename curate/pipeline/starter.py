"""The pipeline file that `curate init` writes: commented, and complete enough to run."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import yaml

from curate.formats.recognise import Recognised
from curate.pipeline.spec import check_field

MAX_CONCEPTS = 5_000
_FIELDS = 8
"""Further columns that are offered."""
_VAGUE = {"data", "shards", "train", "images", "tars", "parquet", "default"}
"""Names of folders that say nothing of what is in them."""
_BY_SCORE = (
    '  # - filter: {where: "least(width, height) >= 200"}    # any column of the tables',
    "  - prune: {metric: clip_l14_similarity_score, keep: 0.3}    # the best 30 % by CLIP score",
)
_SUBSET = "  - write_subset                  # the uids that stay, as DataComp's tools read them"


def slug(source: str) -> str:
    """A name for the pipeline from the last folder of its source that says something."""
    for part in reversed(re.split(r"[/:]+", source)):
        part = re.sub(r"\.(tar|parquet|txt|npy)$", "", part)
        name = re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-")
        name = re.sub(r"^[0-9-]+", "", name)[:48].strip("-")
        if name and name not in _VAGUE:
            return name
    return "pipeline"


def starter(found: Recognised, *, name: str, workspace: str, file: str) -> str:
    """The text of a pipeline file for what was recognised. `file`: where it will stand, for the commands it shows.

    Concepts: the square root of the number of samples, at most 5,000.
    """
    many = f"about {found.samples:,} samples" if found.samples else "an unknown number of samples"
    concepts = max(1, min(MAX_CONCEPTS, math.isqrt(found.samples))) if found.samples else 100
    lines = [
        f"# Purpose   Curate {_plain(found.what)}: {_purpose(found)}.",
        f"# Command   curate plan {file}                    what it would do, and how long it may take",
        f"#           curate run {file} --limit-shards 1    a pilot on the first shard",
        f"#           curate run {file}",
        f"# Expected  {many} in; {_kept(found)} kept. `curate plan` estimates the time.",
    ]
    lines += [f"# Note      {_plain(note)}." for note in found.notes]
    lines += [f"name: {name}", "input:", f"  {found.layout}: {_value(found.location)}"]
    lines += [_option(option, value) for option, value in found.options.items()]
    lines += _fields(found.fields)
    lines += [
        f"workspace: {_value(workspace)}    # everything the run makes; any folder or URL, s3:// too",
        "stages:",
        "  - index",
    ]
    if found.layout == "datacomp" and not found.vectors:
        return "\n".join([*lines, *_BY_SCORE, _SUBSET]) + "\n"
    if found.vectors:
        lines += ["  - read_embeddings               # the vectors that are there; no image is needed"]
    else:
        lines += [
            '  # - filter: {where: "width >= 200 AND height >= 200"}    # any column of the index, and of `fields`',
            "  - hash                          # perceptual hashes: images that look the same have nearly the same",
            "  - dedup_hash: {distance: 4}     # re-encoded and resized copies go; at most 4 of the 64 bits differ",
            '  - embed: {model: "packaged:efficientnet_lite0"}    # or, with a hub, ViT-B-32, pretrained: openai',
        ]
    lines += [
        f"  - cluster: {{concepts: {concepts}}}",
        "  - dedup: {epsilon: 0.1}            # duplicates: cosine similarity above 0.9; raise it to drop more",
        "  - prune: {metric: dbp, keep: 0.6, of: deduplicated}",
        _SUBSET if found.layout == "datacomp" else "  - release: {samples_per_shard: 10000}",
    ]
    return "\n".join(lines) + "\n"


def _purpose(found: Recognised) -> str:
    if found.layout != "datacomp":
        return "drop duplicates, prune what is redundant, write a release"
    how = "drop duplicates, prune what is redundant" if found.vectors else "keep the best by CLIP score"
    return f"{how}, write a subset file"


def _kept(found: Recognised) -> str:
    return "30 %" if found.layout == "datacomp" and not found.vectors else "about 60 % of those without duplicates"


def _option(option: str, value: Any) -> str:
    comments = {
        "image": "image members, the preferred one first",
        "caption": "captions",
        "caption_required": "samples without a caption stay",
        "label": "class labels",
        "upstream": "failed downloads are counted too",
    }
    return f"  {option}: {_value(value)}    # {comments[option]}"


def _fields(fields: Mapping[str, str]) -> list[str]:
    fields = {name: kind for name, kind in fields.items() if _free(name)}
    if not fields:
        return []
    some = ", ".join(f"{name}: {kind}" for name, kind in list(fields.items())[:_FIELDS])
    more = f", and {len(fields) - _FIELDS} more" if len(fields) > _FIELDS else ""
    return [f"  # fields: {{{some}}}    # columns for filters{more}"]


def _free(name: str) -> bool:
    try:
        return bool(check_field(name))
    except ValueError:
        return False


def _value(value: Any) -> str:
    """A value as YAML on one line."""
    return str(yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)).split("\n")[0]


def _plain(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
