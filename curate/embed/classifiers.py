"""Classifiers of images with their heads: timm models (their own weights, or a local file) and the packaged ones.

`probe` says before any work what a classifier is, without its weights; `load` gives the network. Importing this module
imports neither torch nor timm. What never lives here: what is made of the logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.embed.encoder import EncoderConfig, nearest
from curate.embed.packaged import WEIGHTS
from curate.embed.resolve import bare_name, library_of
from curate.embed.resolve import check as check_encoder
from curate.embed.weights import file_sha256, fill, read_state_dict
from curate.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

_CHANNELS_LAST_FROM = 5  # convolutions; a plain ViT has one (its patches) and gains nothing


@dataclass(frozen=True)
class Input:
    """What a classifier wants to see: size (height, width), then (pixel / 255 - mean) / std; a filter of Pillow."""

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str


@dataclass(frozen=True, eq=False)
class Classifier:
    """A network in eval mode, float32, whose `get_classifier` gives the last linear layer, and its preprocessing.

    images: how it wants them. classes: how many it tells apart. any_size: whether it takes images of other sizes.
    channels_last: the memory format it is fastest in. alone: whether one image at a time is fastest on a CPU.
    """

    network: nn.Module
    images: Input
    classes: int
    any_size: bool
    channels_last: bool
    alone: bool


def classifier_config(
    model: str, pretrained: str | None = None, library: str | None = None, checkpoint: str | None = None
) -> EncoderConfig:
    """The names as `curate.embed` reads them; a bare name is one of timm, which knows classifiers.

    Raises ModelError for a library whose models classify nothing.
    """
    if library not in (None, "timm", "packaged"):
        raise ModelError(f"{model}: models of {library} are no classifiers; use one of timm.")
    given: dict[str, Any] = {"model": model, "pretrained": pretrained, "library": library, "checkpoint": checkpoint}
    config = EncoderConfig(**given)
    return config if library_of(config) != "open_clip" else config.model_copy(update={"library": "timm"})


def weights_sha256(config: EncoderConfig) -> str | None:
    """sha256 of the weights file; None for weights that a hub will send. Raises ModelError when it cannot be read."""
    if config.checkpoint is not None:
        return file_sha256(config.checkpoint)
    return WEIGHTS[bare_name(config)].weights_sha256 if library_of(config) == "packaged" else None


def probe(config: EncoderConfig) -> Classifier:
    """The classifier with random weights: its shape, and its way from features to logits. Downloads nothing.

    Raises ModelError, with the nearest names, for a model, tag or file that is not there, and for a model without a
    classifier. Memory: the weights.
    """
    check_encoder(config)
    if library_of(config) == "packaged":
        return _packaged(None)
    return _timm(config, weights=False)


def load(config: EncoderConfig, weights: Path | None = None) -> Classifier:
    """The classifier with its weights, on the CPU. weights: the file of a packaged one.

    Weights are read as safetensors or with torch's weights-only reader, never unpickled. Raises ModelError when they
    are missing, unsafe, changed or do not fit.
    """
    check_encoder(config)
    if library_of(config) == "packaged":
        name = bare_name(config)
        source = Path(config.checkpoint).expanduser() if config.checkpoint is not None else weights
        if source is None:
            raise ModelError(
                f"The packaged classifier {name} needs its weights file; fetch {WEIGHTS[name].name} first."
            )
        actual = file_sha256(str(source))
        if actual != WEIGHTS[name].weights_sha256:
            raise ModelError(
                f"{source} has sha256 {actual}, the packaged weights of {name} have {WEIGHTS[name].weights_sha256}; "
                "delete the file and run again to fetch it anew."
            )
        return _packaged(source)
    return _timm(config, weights=True)


def _packaged(weights: Path | None) -> Classifier:
    from curate.embed.lite0 import Lite0Classifier, fuse

    network = Lite0Classifier()
    if weights is not None:
        fill(network.network, read_state_dict(str(weights)), f"The packaged weights {weights}")
    mean, std = 127 / 255, 128 / 255  # (x - 127) / 128
    images = Input((224, 224), (mean, mean, mean), (std, std, std), "bicubic")
    fuse(network.eval().network)
    return Classifier(network, images, 1000, any_size=True, channels_last=True, alone=True)


def _timm(config: EncoderConfig, weights: bool) -> Classifier:
    import timm
    import torch

    name = bare_name(config)
    full = f"{name}.{config.pretrained}" if config.pretrained is not None else name
    state = read_state_dict(config.checkpoint) if config.checkpoint is not None else None
    try:
        more = _classes(name, state, config) if state is not None else {}
        model: Any = timm.create_model(full, pretrained=weights and state is None, **more)
    except (RuntimeError, OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ModelError(f"The timm model {full!r} cannot be loaded: {str(error).strip()[:400]}") from error
    if weights and state is not None:
        fill(model, state, f"The weights in {config.checkpoint} for timm's {name}")
    classes = int(getattr(model, "num_classes", 0) or 0)
    if not classes:
        raise ModelError(f"The timm model {full!r} has no classifier, so it makes no label maps; choose another.")
    said: dict[str, Any] = dict(model.pretrained_cfg)
    height, width = (int(side) for side in said["input_size"][-2:])
    convolutions = sum(isinstance(module, torch.nn.Conv2d) for module in model.modules())
    return Classifier(
        model.eval(),
        Input((height, width), _three(said["mean"]), _three(said["std"]), str(said.get("interpolation") or "bicubic")),
        classes,
        any_size=not said.get("fixed_input_size"),
        channels_last=convolutions >= _CHANNELS_LAST_FROM,
        alone=False,
    )


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _classes(name: str, state: dict[str, Any], config: EncoderConfig) -> dict[str, int]:
    """num_classes of a checkpoint, by the rows of its classifier's weights."""
    import timm

    said = timm.get_pretrained_cfg(name)
    heads = (said.classifier if said is not None else None) or ()
    for head in (heads,) if isinstance(heads, str) else heads:
        if f"{head}.weight" in state:
            return {"num_classes": int(state[f"{head}.weight"].shape[0])}
    known = [key.removesuffix(".weight") for key in state if key.endswith(".weight")]
    wanted = heads if isinstance(heads, str) else "a classifier"
    raise ModelError(
        f"The weights in {config.checkpoint} have no {wanted}.weight, so they classify nothing{nearest(wanted, known)}"
    )
