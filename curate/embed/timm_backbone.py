"""timm backbones: the pooled feature row before the classifier, with the model's own preprocessing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image

from curate.embed.encoder import Encoder, EncoderConfig, Precision, nearest
from curate.embed.weights import file_sha256, fill, read_state_dict
from curate.errors import ModelError

_CHANNELS_LAST_FROM = 5  # convolutions; a plain ViT has one (its patches) and gains nothing


def check(config: EncoderConfig, name: str) -> None:
    """Verify the model's name and tag; downloads nothing. Raises ModelError with the nearest valid names."""
    if name.startswith("hf-hub:"):
        return
    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        raise ModelError(f"timm has no model {base!r}{nearest(base, timm.list_models())}")
    if tag and config.pretrained is not None:
        raise ModelError(f"timm model {name!r} names a tag, and so does pretrained: {config.pretrained}; keep one.")
    if config.checkpoint is not None:
        return
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{base}.*")]
    wanted = tag or config.pretrained
    if not tags:
        raise ModelError(f"timm has no weights for {base!r}; set checkpoint: to the path of a file.")
    if wanted and wanted not in tags:
        raise ModelError(
            f"timm has no weights {wanted!r} for {base!r}{nearest(wanted, tags)} Known: {', '.join(tags)}."
        )


def build(config: EncoderConfig, name: str, weights_id: str, device: str, precision: Precision) -> Encoder:
    """Load the backbone without its classifier. Raises ModelError when the weights are missing or do not fit."""
    full = f"{name}.{config.pretrained}" if config.pretrained is not None else name
    sha256 = None
    try:
        model: Any = timm.create_model(full, pretrained=config.checkpoint is None, num_classes=0)
    except (RuntimeError, OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ModelError(f"The timm model {full!r} cannot be loaded: {str(error).strip()[:400]}") from error
    if config.checkpoint is not None:
        sha256 = file_sha256(config.checkpoint)
        state = read_state_dict(str(Path(config.checkpoint).expanduser()))
        fill(model, _without_classifier(model, state), f"The weights in {config.checkpoint} for timm's {name}")
    convolutions = sum(isinstance(module, torch.nn.Conv2d) for module in model.modules())
    channels_last = convolutions >= _CHANNELS_LAST_FROM
    layout = torch.channels_last if channels_last else torch.preserve_format
    model = model.eval().to(device=device, memory_format=layout)
    data = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**data, is_training=False)
    height, width = int(data["input_size"][1]), int(data["input_size"][2])
    with torch.inference_mode():
        dim = int(model(torch.zeros(1, 3, height, width, device=device)).shape[1])

    def to_input(image: Image.Image) -> torch.Tensor:
        pixels: torch.Tensor = transform(image.convert("RGB"))
        return pixels

    return Encoder(
        name=config.model,
        dim=dim,
        image_size=(height, width),
        weights_id=weights_id,
        weights_sha256=sha256,
        device=device,
        precision=precision,
        channels_last=channels_last,
        image_transform=to_input,
        image_tower=model,
    )


def _without_classifier(model: Any, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A full checkpoint holds the classifier that `num_classes=0` leaves out; anything else has to fit exactly."""
    heads = model.pretrained_cfg.get("classifier") or ()
    prefixes = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    own = model.state_dict().keys()
    return {key: value for key, value in state.items() if key in own or not key.startswith(prefixes)}
