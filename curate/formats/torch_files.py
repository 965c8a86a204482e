"""Files of `torch.save`, read as plain tensors: no code of the file is ever run, nothing is made larger than the file.

What never lives here: what the tensors mean (label_trees.py, fkd.py).
"""

from __future__ import annotations

import io
import struct
import zipfile
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError
from curate.formats.arrow import one_line

if TYPE_CHECKING:
    import torch

Container = Literal["zip", "legacy"]

MAX_BYTES = 256 << 20
_TYPES = {"float16": np.float16, "float32": np.float32, "bool": np.bool_}


def container_of(data: bytes) -> Container:
    """How a file packs its tensors: as a zip archive (torch 1.6 and later), or as a stream of pickles (before)."""
    return "zip" if data[:4] == b"PK\x03\x04" else "legacy"


def load(data: bytes, url: str) -> Any:
    """What a file of torch.save holds: tensors, and lists and dicts of them, on the CPU.

    Read by torch's weights-only reader, which knows a short list of types and runs nothing. Memory: the file and its
    tensors. Raises InputError for anything else: code, other objects, damaged or compressed archives, tensors
    that claim more elements than the file has.
    """
    import torch  # heavy to import

    if len(data) > MAX_BYTES:
        raise InputError(f"{url}: has {len(data):,} bytes; label files have at most {MAX_BYTES:,}.")
    try:
        if container_of(data) == "zip":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise InputError(f"{url}: is a compressed archive, which torch.save does not write; save it again.")
                if sum(entry.file_size for entry in archive.infolist()) > len(data):
                    raise InputError(f"{url}: its archive claims more bytes than the file has; get it again.")
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # the readers raise kinds of their own; every one means the same to a user
        raise InputError(
            f"{url}: is not a file of plain tensors ({one_line(error)[:160]}); it is not opened in any other way, "
            "since a pickle can run code. Save its tensors with torch.save."
        ) from error


def array(value: Any, kinds: tuple[str, ...], shape: str, ndim: int, place: str) -> NDArray[Any]:
    """The values of a dense CPU tensor as an array of its own; `kinds` of float16, float32, bool.

    Raises InputError when it is no tensor, of another type or number of dimensions, or larger than its own storage.
    """
    import torch

    wanted = f"wanted {' or '.join(kinds)} {shape}"
    if not isinstance(value, torch.Tensor):
        raise InputError(f"{place} holds {_named(value)}; {wanted}.")
    kind = str(value.dtype).removeprefix("torch.")
    if kind not in kinds or value.layout != torch.strided or value.device.type != "cpu" or value.ndim != ndim:
        raise InputError(f"{place} holds {kind} {list(value.shape)}; {wanted}.")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise InputError(f"{place} claims the shape {list(value.shape)} but stores less; get the file again.")
    return np.array(value.detach().numpy(), dtype=_TYPES[kind])


def _named(value: Any) -> str:
    if isinstance(value, list | tuple | dict):
        return f"a {type(value).__name__} of {len(value)}"
    return f"an object of type {type(value).__name__}"


def save(value: list[torch.Tensor] | torch.Tensor, container: Container) -> bytes:
    """The bytes that torch.save writes to a stream for a dense tensor or a list of them; the same every time.

    In the legacy container torch names and orders storages by their addresses in memory; here they are numbered from 0.
    Memory: three times the tensors.
    """
    import torch

    out = io.BytesIO()
    given = value if isinstance(value, list) else [value]
    # copies: an axis of length 1 may have any stride, and strides stand in the file
    tensors = [torch.empty(one.shape, dtype=one.dtype).copy_(one) for one in given]
    if container == "zip":
        torch.save(tensors if isinstance(value, list) else tensors[0], out)
        return out.getvalue()
    storages: Any = torch.UntypedStorage
    fresh = [storages(0) for _ in tensors]
    fresh.sort(key=lambda storage: str(storage._cdata))
    copies = []
    for storage, one in zip(fresh, tensors, strict=True):
        storage.resize_(one.numel() * one.element_size())
        copies.append(torch.empty(0, dtype=one.dtype).set_(storage, 0, one.shape, one.stride()).copy_(one))
    torch.save(copies if isinstance(value, list) else copies[0], out, _use_new_zipfile_serialization=False)
    data, payload = out.getvalue(), sum(8 + storage.nbytes() for storage in fresh)
    head, tail = data[:-payload], data[-payload:]
    for number, storage in enumerate(fresh):
        head = head.replace(_text(str(storage._cdata)), _text(f"{number:04d}"))
    return head + tail


def _text(text: str) -> bytes:
    """A text as it stands in a pickle of protocol 2."""
    return b"X" + struct.pack("<I", len(text)) + text.encode()
