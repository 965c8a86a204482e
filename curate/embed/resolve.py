"""From an encoder's configuration to a checked name, a stable identity and, last, a loaded encoder.

`check` and `weights_id` run before any work and load no weights; for packaged encoders they do not even import torch.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from curate.embed.encoder import Encoder, EncoderConfig, Library, Precision, nearest
from curate.embed.packaged import WEIGHTS, PackagedWeights
from curate.embed.packaged import build as build_packaged
from curate.embed.weights import file_sha256
from curate.errors import ModelError


def library_of(config: EncoderConfig) -> Library:
    """Which library builds the model: as named, else by `packaged:NAME`, a packaged name, `timm/NAME`, or open_clip."""
    if config.library is not None:
        return config.library
    if config.model.startswith("packaged:") or config.model in WEIGHTS:
        return "packaged"
    if config.model.startswith("timm/"):
        return "timm"
    return "open_clip"


def bare_name(config: EncoderConfig) -> str:
    """The model's name as its library spells it, without our prefix (`packaged:`, `timm/`)."""
    library = library_of(config)
    if library == "packaged":
        return config.model.removeprefix("packaged:")
    if library == "timm":
        return config.model.removeprefix("timm/")
    return config.model if ":" in config.model else config.model.replace("/", "-")


def packaged_weights(config: EncoderConfig) -> PackagedWeights | None:
    """The pinned package to fetch before `load`, or None when the encoder needs none."""
    if library_of(config) != "packaged" or config.checkpoint is not None:
        return None
    return WEIGHTS.get(bare_name(config))


def has_text(config: EncoderConfig) -> bool:
    """Whether the encoder has a text tower, known without loading it."""
    return library_of(config) == "open_clip"


def check(config: EncoderConfig) -> None:
    """Verify that model, tag and files exist; no weights are loaded and nothing is downloaded.

    Raises ModelError with the nearest valid names. Hub names (`hf-hub:`) cannot be verified without a network and pass.
    """
    library, name = library_of(config), bare_name(config)
    for label, path in (("checkpoint", config.checkpoint), ("model config", config.config)):
        if path is not None and not Path(path).expanduser().is_file():
            raise ModelError(f"The {label} {path} of encoder {config.model!r} is not a file.")
    if config.config is not None and library != "open_clip":
        raise ModelError(f"config: {config.config} is for open_clip models; encoder {config.model!r} is of {library}.")
    if config.checkpoint is not None and config.pretrained is not None:
        raise ModelError(
            f"Encoder {config.model!r} names both pretrained: {config.pretrained} and checkpoint: {config.checkpoint}; "
            "keep one."
        )
    if library == "packaged":
        _check_packaged(config, name)
    elif library == "timm":
        from curate.embed import timm_backbone

        timm_backbone.check(config, name)
    else:
        from curate.embed import openclip

        openclip.check(config, name)


def weights_id(config: EncoderConfig) -> str:
    """A stable text for fingerprints: it changes exactly when the weights or the architecture file do.

    Local and packaged files enter by their sha256 (never by their path); hub weights by library, model and tag, so the
    id is the same before and after they are downloaded. Raises ModelError when a named file cannot be read.
    """
    library, name = library_of(config), bare_name(config)
    if config.checkpoint is not None:
        weights = "sha256=" + file_sha256(config.checkpoint)
    elif library == "packaged":
        pin = WEIGHTS.get(name)
        weights = "sha256=" + (pin.weights_sha256 if pin else "")
    else:
        weights = config.pretrained or "default"
    if config.config is not None:
        # the architecture, not the file's spelling of it
        try:
            canonical = json.dumps(json.loads(Path(config.config).expanduser().read_text("utf-8")), sort_keys=True)
        except (OSError, ValueError) as error:
            raise ModelError(f"The model config {config.config} is not a readable JSON file: {error}.") from error
        weights += ":config=" + hashlib.sha256(canonical.encode()).hexdigest()
    return f"{library}:{name}:{weights}"


def load(
    config: EncoderConfig,
    device: str = "cpu",
    precision: Precision | None = None,
    threads: int | None = None,
    weights: Path | None = None,
) -> Encoder:
    """Load the encoder, ready to run on `device`.

    precision defaults to fp32 on a CPU and bf16 elsewhere. threads, when given, sets torch's thread count for the whole
    process. weights is the file of a packaged encoder (see `packaged_weights`); other encoders ignore it. Weights are
    read as safetensors or with torch's weights-only reader, never unpickled.
    Raises ModelError when the model is unknown, or its weights are missing, unsafe or do not fit.
    """
    check(config)
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    if precision is None:
        precision = "fp32" if torch.device(device).type == "cpu" else "bf16"
    library, name, identity = library_of(config), bare_name(config), weights_id(config)
    if library == "packaged":
        source = Path(config.checkpoint).expanduser() if config.checkpoint is not None else weights
        if source is None:
            raise ModelError(f"The packaged encoder {name} needs its weights file; fetch {WEIGHTS[name].name} first.")
        return build_packaged(name, source, identity, device, precision)
    if library == "timm":
        from curate.embed import timm_backbone

        return timm_backbone.build(config, name, identity, device, precision)
    from curate.embed import openclip

    return openclip.build(config, name, identity, device, precision)


def _check_packaged(config: EncoderConfig, name: str) -> None:
    if name not in WEIGHTS:
        raise ModelError(f"There is no packaged encoder {name!r}{nearest(name, WEIGHTS)} Known: {', '.join(WEIGHTS)}.")
    if config.pretrained is not None:
        raise ModelError(f"The packaged encoder {name} has one set of weights; remove pretrained: {config.pretrained}.")
