"""What an encoder is: preprocessing, an image tower, perhaps a text tower, and the rounding of rows for storage.

Importing this module does not import torch: the driver of a run needs the configuration, not the network. The libraries
behind an encoder (open_clip, timm, packaged weights) live in modules of their own and only build an `Encoder`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, model_validator

from curate.errors import ModelError

if TYPE_CHECKING:
    import torch

Library = Literal["open_clip", "timm", "packaged"]
Precision = Literal["fp32", "bf16", "fp16"]

_CHECKPOINT_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")


class EncoderConfig(BaseModel):
    """Which encoder, with which weights. `library` may be left out; see `curate.embed.resolve.library_of`.

    `pretrained` is a tag of the library, or the path of a checkpoint file (then it means `checkpoint`). `config` is the
    path of an open_clip model JSON for architectures that open_clip does not ship; its file stem is the model's name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    pretrained: str | None = None
    library: Library | None = None
    checkpoint: str | None = None
    config: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _path_as_pretrained(cls, values: object) -> object:
        if isinstance(values, dict):
            tag = values.get("pretrained")
            if isinstance(tag, str) and tag.endswith(_CHECKPOINT_SUFFIXES) and not values.get("checkpoint"):
                return {**values, "pretrained": None, "checkpoint": tag}
        return values


@dataclass(frozen=True)
class Encoder:
    """A loaded encoder. Build one with `curate.embed.load`.

    name: how the model is called in reports. dim: length of a row. image_size: (height, width) of the input.
    weights_id: stable text for fingerprints. weights_sha256: of the weights file when it is known, else None.
    chunk: images that go through the network together whatever the batch (None: the whole batch). Small networks on a
    CPU are fastest when the activations of one image fit its cache; rows then do not depend on the batch at all.
    Memory: the weights plus the activations of one batch (of one chunk).
    """

    name: str
    dim: int
    image_size: tuple[int, int]
    weights_id: str
    weights_sha256: str | None
    device: str
    precision: Precision
    channels_last: bool
    image_transform: Callable[[Image.Image], torch.Tensor]
    image_tower: Callable[[torch.Tensor], torch.Tensor]
    text_tower: Callable[[Sequence[str]], torch.Tensor] | None = None
    chunk: int | None = None

    @property
    def has_text(self) -> bool:
        """Whether `encode_texts` works."""
        return self.text_tower is not None

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """The encoder's own preprocessing: any PIL image -> float32 [3, height, width] on the CPU.

        Only 16-bit and 32-bit single-channel images are touched before it (scaled to 8 bits, where the libraries would
        clip almost all of them to white). Decoding with JPEG draft mode would change pixels; do not.
        """
        return self.image_transform(eight_bit(image))

    def encode_images(self, batch: torch.Tensor) -> NDArray[np.float32]:
        """Embed a batch float32 [B, 3, height, width] -> float32 [B, dim], not normalised.

        Rows may hold zeros, NaN or infinities when the weights or the input are bad; `to_stored` flags them.
        """
        import torch

        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        with torch.inference_mode(), self._autocast():
            inputs = batch.to(self.device, non_blocking=True)
            pieces = torch.split(inputs, self.chunk or max(len(inputs), 1))
            rows = torch.cat([self.image_tower(piece.contiguous(memory_format=layout)) for piece in pieces])
        return self._rows(rows, len(batch))

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed captions with the encoder's own tokenizer -> float32 [B, dim], not normalised.

        Raises ModelError when the encoder has no text tower.
        """
        import torch

        if self.text_tower is None:
            raise ModelError(
                f"The encoder {self.name} has no text tower, so captions cannot be embedded; "
                "set text: false or use an open_clip model."
            )
        with torch.inference_mode(), self._autocast():
            rows = self.text_tower(texts)
        return self._rows(rows, len(texts))

    def _autocast(self) -> torch.autocast | nullcontext[None]:
        """Weights stay float32; the libraries' layers run in the low precision that torch considers safe."""
        import torch

        if self.precision == "fp32":
            return nullcontext()
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        return torch.autocast(torch.device(self.device).type, dtype=dtype)

    def _rows(self, rows: torch.Tensor, count: int) -> NDArray[np.float32]:
        if tuple(rows.shape) != (count, self.dim):
            raise ModelError(
                f"The encoder {self.name} returned shape {tuple(rows.shape)} where ({count}, {self.dim}) was due."
            )
        return cast(NDArray[np.float32], rows.float().cpu().numpy())


def nearest(value: str, valid: Iterable[str]) -> str:
    """The end of an error sentence: `; did you mean X, Y or Z?`, or a full stop when nothing is near."""
    names = list(valid)
    by_lower = {name.lower(): name for name in reversed(names)}
    close = [by_lower[match] for match in difflib.get_close_matches(value.lower(), by_lower, n=3, cutoff=0.5)]
    if not close:
        return "."
    return f"; did you mean {' or '.join(filter(None, [', '.join(close[:-1]), close[-1]]))}?"


def eight_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit ("I;16*"), 32-bit ("I") and float ("F") greyscale to 8-bit "L"; return anything else as it is.

    PIL decodes 16-bit PNG as "I;16" or "I" with values 0..65535; "F" is taken as 0..1 when nothing exceeds 1, else as
    0..65535. Non-finite values become 0.
    """
    if not (image.mode.startswith("I;16") or image.mode in ("I", "F")):
        return image
    values = np.nan_to_num(np.asarray(image).astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    unit = 255.0 if image.mode == "F" and values.size and float(values.max()) <= 1.0 else 1.0 / 257.0
    return Image.fromarray(np.clip(np.rint(values * unit), 0, 255).astype(np.uint8))


def to_stored(rows: NDArray[np.float32]) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
    """Normalise rows float32 [N, D] to unit length and round -> (float16 [N, D], good bool [N]).

    A row that is zero or holds NaN or infinity is not good (status `bad_embedding`) and comes back as zeros. The norm
    is taken in float64; the length of a stored row differs from 1 by less than 2^-10. Memory: three copies of `rows`.
    """
    unit, good = unit_rows(rows)
    return unit.astype(np.float16), good


def unit_rows(rows: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Rows float32 [N, D] -> (float64 [N, D] of length 1, good bool [N]); bad rows (see `to_stored`) become zeros."""
    wide = rows.astype(np.float64)
    finite = np.isfinite(wide).all(axis=1)
    wide[~finite] = 0.0
    norms = np.sqrt(np.einsum("nd,nd->n", wide, wide))
    good = finite & (norms > 0.0)
    return wide / np.where(good, norms, 1.0)[:, None], good


def clip_scores(
    images: NDArray[np.float32], texts: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Cosine of paired rows, both float32 [N, D], before any storage rounding -> (float32 [N], good bool [N]).

    The CLIP score of Radford et al. 2021 without its factor of 100. Where either row is bad the score is 0 and `good`
    is False; store null there.
    """
    left, left_good = unit_rows(images)
    right, right_good = unit_rows(texts)
    return np.einsum("nd,nd->n", left, right).astype(np.float32), left_good & right_good
