"""Weights files: their identity, and reading them without running code."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from curate.errors import ModelError

if TYPE_CHECKING:
    import torch


def file_sha256(path: str) -> str:
    """Hex sha256 of a weights file; the result is kept for the life of the process by size and modification time."""
    resolved = Path(path).expanduser()
    try:
        stat = resolved.stat()
        return _sha256_of(str(resolved), stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise ModelError(f"The checkpoint {path} cannot be read: {error.strerror}.") from error


@functools.lru_cache(maxsize=64)
def _sha256_of(path: str, size: int, mtime_ns: int) -> str:
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_state_dict(path: str) -> dict[str, torch.Tensor]:
    """Read a checkpoint (safetensors, or torch's weights-only reader) to a flat dict of CPU tensors.

    A dict nested under `state_dict_ema`, `model_ema`, `state_dict` or `model` is taken out, and the prefix `module.`
    of data-parallel training is removed. Raises ModelError when the file is damaged or holds anything but tensors.
    """
    import torch
    from safetensors.torch import load_file

    resolved = Path(path).expanduser()
    try:
        if resolved.suffix == ".safetensors":
            content: object = load_file(resolved)
        else:
            content = torch.load(resolved, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise their own private kinds; every one means the same to a user
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"The checkpoint {path} is not a file of plain tensors ({reason[:200]}); save the model's state_dict() "
            "with torch.save, or as safetensors."
        ) from error
    for key in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content:
        raise ModelError(f"The checkpoint {path} holds no state dict.")
    tensors = {str(key).removeprefix("module."): value for key, value in content.items()}
    odd = [key for key, value in tensors.items() if not isinstance(value, torch.Tensor)]
    if odd:
        raise ModelError(f"The checkpoint {path} holds {odd[0]!r}, which is not a tensor.")
    return tensors


def fill(model: torch.nn.Module, state: dict[str, torch.Tensor], what: str) -> None:
    """Load `state` into `model`, every name and shape exactly; `what` opens the error sentence.

    Raises ModelError naming the first entries that are missing, unknown or of another shape.
    """
    own = model.state_dict()
    missing = sorted(own.keys() - state.keys())
    unknown = sorted(state.keys() - own.keys())
    shapes = [
        f"{key} is {list(state[key].shape)}, not {list(own[key].shape)}"
        for key in sorted(own.keys() & state.keys())
        if state[key].shape != own[key].shape
    ]
    parts = [
        f"{len(names)} {kind} ({', '.join(names[:2])}{', ...' if len(names) > 2 else ''})"
        for kind, names in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
        if names
    ]
    if parts:
        raise ModelError(f"{what} do not fit: entries {'; '.join(parts)}.")
    model.load_state_dict(state, strict=True)
