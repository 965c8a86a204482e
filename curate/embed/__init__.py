"""Encoders: images and captions in, vectors out. Importing this room does not import torch."""

from curate.embed.encoder import Encoder, EncoderConfig, clip_scores, to_stored
from curate.embed.resolve import check, has_text, library_of, load, packaged_weights, weights_id

__all__ = [
    "Encoder",
    "EncoderConfig",
    "check",
    "clip_scores",
    "has_text",
    "library_of",
    "load",
    "packaged_weights",
    "to_stored",
    "weights_id",
]
