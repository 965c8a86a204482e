"""open_clip models: image and text towers with the library's own preprocessing and tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch

from curate.embed.encoder import Encoder, EncoderConfig, Precision, nearest
from curate.embed.weights import file_sha256, read_state_dict
from curate.errors import ModelError

_CHANNELS_LAST_FROM = 5  # convolutions; a plain ViT has one (its patches) and gains nothing


def check(config: EncoderConfig, name: str) -> None:
    """Verify the model's name, its pretrained tag and its JSON; downloads nothing. Raises ModelError."""
    if name.startswith("local-dir:"):
        raise ModelError(f"{name} is not supported; name the folder's files with checkpoint: and config: instead.")
    if name.startswith("hf-hub:"):
        return
    if config.config is not None:
        _check_json(config.config, name)
    elif name not in open_clip.list_models():
        import timm

        hint = f" timm has it: write timm/{config.model}." if timm.is_model(config.model.split(".")[0]) else ""
        raise ModelError(f"open_clip has no model {config.model!r}{nearest(name, open_clip.list_models())}{hint}")
    if config.checkpoint is not None:
        return
    tags = open_clip.list_pretrained_tags_by_model(name)
    way_out = f"pretrained: one of {', '.join(tags)}" if tags else "checkpoint: the path of a file"
    if config.pretrained is None:
        raise ModelError(f"The open_clip model {config.model!r} needs weights; set {way_out}.")
    if config.pretrained not in tags:
        raise ModelError(
            f"The open_clip model {config.model!r} has no pretrained tag {config.pretrained!r}"
            f"{nearest(config.pretrained, tags)} Set {way_out}."
        )


def _check_json(path: str, name: str) -> None:
    file = Path(path).expanduser()
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"The model config {path} is not a readable JSON file: {error}.") from error
    lacking = {"embed_dim", "vision_cfg", "text_cfg"} - (content.keys() if isinstance(content, dict) else set())
    if lacking:
        raise ModelError(f"The model config {path} lacks {', '.join(sorted(lacking))}.")
    if file.stem != name:
        raise ModelError(f"The model config {path} defines the model {file.stem!r}, but model: says {name!r}.")


def build(config: EncoderConfig, name: str, weights_id: str, device: str, precision: Precision) -> Encoder:
    """Load both towers. Raises ModelError when the weights are missing, unsafe or do not fit the model."""
    if config.config is not None:
        open_clip.add_model_config(Path(config.config).expanduser())
    pretrained, sha256 = config.pretrained, None
    if config.checkpoint is not None:
        sha256 = file_sha256(config.checkpoint)
        pretrained = str(Path(config.checkpoint).expanduser())
        # open_clip may retry without the weights-only reader on old torch, so an unsafe file must not get that far
        read_state_dict(pretrained)
    try:
        model, _, transform = open_clip.create_model_and_transforms(
            name, pretrained=pretrained, device=device, precision="fp32", weights_only=True
        )
    except (RuntimeError, OSError, ValueError, KeyError, TypeError, ImportError) as error:
        origin = config.checkpoint or config.pretrained or "the hub"
        lines = [line.strip() for line in str(error).splitlines() if line.strip()][:3]
        raise ModelError(
            f"The open_clip model {config.model!r} cannot be loaded from {origin}: {' '.join(lines)[:400]}"
        ) from error
    model.eval()
    size = model.visual.image_size
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    with torch.inference_mode():
        dim = int(model.encode_image(torch.zeros(1, 3, height, width, device=device)).shape[1])
    convolutions = sum(isinstance(module, torch.nn.Conv2d) for module in model.visual.modules())
    channels_last = convolutions >= _CHANNELS_LAST_FROM
    if channels_last:
        model.visual.to(memory_format=torch.channels_last)
    return Encoder(
        name=config.model,
        dim=dim,
        image_size=(height, width),
        weights_id=weights_id,
        weights_sha256=sha256,
        device=device,
        precision=precision,
        channels_last=channels_last,
        image_transform=transform,
        image_tower=model.encode_image,
        text_tower=_text_tower(model, name, device),
    )


def _text_tower(model: Any, name: str, device: str) -> Callable[[Sequence[str]], torch.Tensor]:
    """The tokenizer is made at the first caption: some download vocabularies, which image-only runs do not need."""
    tokenizer: Any = None

    def encode(texts: Sequence[str]) -> torch.Tensor:
        nonlocal tokenizer
        if tokenizer is None:
            try:
                tokenizer = open_clip.get_tokenizer(name)
            except (RuntimeError, OSError, ValueError, ImportError) as error:
                raise ModelError(f"The tokenizer of {name} cannot be loaded: {str(error)[:300]}") from error
        rows: torch.Tensor = model.encode_text(tokenizer(list(texts)).to(device))
        return rows

    return encode
