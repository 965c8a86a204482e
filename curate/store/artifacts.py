"""Small whole-dataset results of a stage (centroids, quotas, curves), each one file in the stage's folder."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.errors import StorageError
from curate.store.rows import Rows, StoredRows, write_rows
from curate.store.workspace import Workspace

Artifact = NDArray[Any] | pl.DataFrame | dict[str, Any] | Rows | StoredRows
"""`Rows` goes in, `StoredRows` comes out: what is as long as the dataset is never read whole."""

_ROWS = ".rows.npy"


def write_artifacts(workspace: Workspace, folder: str, fingerprint: str, artifacts: Mapping[str, Artifact]) -> None:
    """Write each artifact as `<name>.<fingerprint>.{npy,parquet,json}` and, last, the marker that lists them."""
    files = {}
    for name, value in artifacts.items():
        if isinstance(value, Rows):
            files[name] = f"{name}.{fingerprint}{_ROWS}"
            write_rows(workspace, f"{folder}/{files[name]}", value)
            continue
        if isinstance(value, StoredRows):
            raise TypeError(f"artifact {name} is stored already")
        if isinstance(value, pl.DataFrame):
            extension, buffer = "parquet", io.BytesIO()
            value.write_parquet(buffer)
            data = buffer.getvalue()
        elif isinstance(value, np.ndarray):
            extension, buffer = "npy", io.BytesIO()
            np.lib.format.write_array(buffer, value, allow_pickle=False)
            data = buffer.getvalue()
        else:
            extension, data = "json", json.dumps(value, indent=1, allow_nan=False).encode()
        files[name] = f"{name}.{fingerprint}.{extension}"
        workspace.put(f"{folder}/{files[name]}", data)
    workspace.put(f"{folder}/{marker(fingerprint)}", json.dumps(files, indent=1).encode())


def marker(fingerprint: str) -> str:
    """File that says all artifacts of a step are there."""
    return f"artifacts.{fingerprint}.json"


def read_artifacts(workspace: Workspace, folder: str, fingerprint: str) -> dict[str, Artifact]:
    """All artifacts of a step by name. Raises StorageError when one is missing or damaged. Memory: their size, but
    nothing for `StoredRows`.
    """
    name = f"{folder}/{marker(fingerprint)}"
    try:
        files = json.loads(workspace.read(name))
        return {artifact: _read(workspace, name := f"{folder}/{file}") for artifact, file in files.items()}
    except (ValueError, AttributeError, EOFError, pl.exceptions.PolarsError) as error:
        raise StorageError(
            f"{workspace.where(name)} is damaged ({error}); delete {workspace.where(folder)} and run again"
        ) from error


def _read(workspace: Workspace, name: str) -> Artifact:
    if name.endswith(_ROWS):
        return StoredRows(workspace, name)
    data = workspace.read(name)
    if name.endswith(".json"):
        return json.loads(data)  # type: ignore[no-any-return]
    if name.endswith(".npy"):
        return np.load(io.BytesIO(data), allow_pickle=False)  # type: ignore[no-any-return]
    if name.endswith(".parquet"):
        return pl.read_parquet(io.BytesIO(data))
    raise StorageError(f"{workspace.where(name)}: unknown kind of artifact")
