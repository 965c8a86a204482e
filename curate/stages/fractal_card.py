"""The card of a fractal dataset: README.md of its release."""

from __future__ import annotations

from curate.fractal.specification import Specification

_FAMILIES = {
    "ifs": (
        "iterated function systems of affine maps, drawn by the chaos game",
        "Anderson and Farrell, Improving Fractal Pre-training, WACV 2022, arXiv 2110.03091",
    ),
    "contours": (
        "nested radial contours",
        "Kataoka et al., Replacing Labeled Real-Image Datasets with Auto-Generated Contours, CVPR 2022",
    ),
    "sinusoids": (
        "sums of two sinusoidal waves around a circle",
        "Takashima et al., Visual Atoms: Pre-training Vision Transformers with Sinusoidal Waves, CVPR 2023",
    ),
}

_SAMPLERS = {
    "fractaldb": "Kataoka et al., Pre-training without Natural Images, ACCV 2020",
    "one_parameter": "Nakamura, Tadokoro et al., Scaling Backwards: Minimal Synthetic Pre-training?, ECCV 2024",
}
"""Of systems that are not drawn as the family's paper draws them."""


def card(specification: Specification, samples: int, shards: int, nbytes: int, metadata_license: str | None) -> str:
    """Markdown: what the dataset is, how to load it, how to make one image again. nbytes: of all other files."""
    options = specification.options
    family = next(name for name in _FAMILIES if getattr(options, name) is not None)
    what, paper = _FAMILIES[family]
    if options.ifs is not None:
        paper = _SAMPLERS.get(options.ifs.sampler, paper)
    last, part = f"{shards - 1:05d}", ""
    one = min(17, samples - 1)
    if samples < options.images:
        part = f"; the first of {options.images:,}"
    if options.scene is None:
        labels = "one class an image: its number as text in the member `cls`"
        members = f'"{options.format}", "cls"'
    else:
        low, high = options.scene.objects
        labels = (
            f"{low} to {high} objects an image: in the member `json`, `labels` are the classes that can be seen, and "
            "`objects` has box, mask and visible share of each"
        )
        members = f'"{options.format}", "json"'
    return f"""# {specification.name}

{samples:,} synthetic images of {options.classes:,} classes, drawn from a specification, to train models before any
photograph. No person, place or work of others is in them.

| | |
|---|---|
| images | {samples:,}, {options.size} x {options.size} pixels, {options.format}{part} |
| classes | {options.classes:,}: {what}; numbered from 0 |
| labels | {labels} |
| shards | {shards:,} in WebDataset form; {nbytes:,} bytes with their tables |
| paper | {paper} |
| seed, renderer | {specification.seed}, {specification.renderer} |
| licence of the tables | {metadata_license or "not stated"} |

## Files

| file | holds |
|---|---|
| `{last}.tar`{" and those before it" if shards > 1 else ""} | the images; a sample is named by its uid |
| `samples.parquet/` | a row an image: uid, index, labels, size, sha256 |
| `specification.json`, `systems.parquet` | all that decides an image: options and seed, parameters of the classes |
| `sizes.json`, `%05d_stats.json`, `manifest.json` | counts and checksums; `curate verify` compares them |

The member `json` of an image tells what was drawn at random: systems, jitter, colours, flips, places of objects.

## Loading

```python
import webdataset as wds

data = wds.WebDataset("{{00000..{last}}}.tar", shardshuffle={shards}).shuffle(1000)
for image, label in data.decode("pil").to_tuple({members}):
    ...
```

## One image again

Image {one}, byte for byte, without the shards, by the version of curate whose renderer is {specification.renderer}:

```sh
curate fractal render . {one}
```
"""
