"""`heads`: scores of a user's own head on stored embeddings, such as an aesthetic one, as columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from curate.embed.weights import file_sha256, read_state_dict
from curate.errors import ModelError, SpecError
from curate.pruning.heads import Head, apply_head, make_head
from curate.stages.base import Columns, Stage
from curate.stages.config import Reference, StageConfig
from curate.stages.new_columns import NewColumn
from curate.stages.part import Part
from curate.stages.vectors import alive_vectors
from curate.store.artifacts import Artifact


class HeadsConfig(StageConfig):
    """Which head, on which vectors, under which names."""

    head: str = Field(
        min_length=1, description="File of linear layers (weight, bias): .safetensors, .npz, or a torch state dict."
    )
    columns: NewColumn | Annotated[list[NewColumn], Field(min_length=1)] = Field(
        description="Name of the new column, or one for each number that the head gives."
    )
    embedding: Annotated[str | None, Reference({"embed", "read_embeddings"})] = Field(
        None, description="Stage whose vectors are scored; default: the nearest before."
    )
    activation: Literal["none", "relu"] = Field("none", description="What stands between two layers.")
    output: Literal["none", "sigmoid"] = Field("none", description="What is done to the numbers of the last layer.")

    @property
    def names(self) -> list[str]:
        """The names as a list."""
        return [self.columns] if isinstance(self.columns, str) else list(self.columns)


class HeadsStage(Stage[HeadsConfig]):
    """The vectors are taken as they are stored, unit rows of float16; rows without one, or dropped before, are null."""

    kind = "heads"
    VERSION = 1
    Config = HeadsConfig
    not_hashed = frozenset({"head"})

    _sha256 = ""
    loaded: Head | None = None
    """Loaded once a worker and never sent to another."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "loaded"}

    def columns(self) -> dict[str, pl.DataType]:
        """The scores."""
        return {name: pl.Float64() for name in self.config.names}

    def reads(self) -> tuple[str, ...]:
        """The vectors."""
        return (self._embedding,)

    @property
    def _embedding(self) -> str:
        return str(self.context.references["embedding"])

    def check(self) -> None:
        """The head can be read and gives as many numbers as there are names."""
        names = self.config.names
        if len(set(names)) < len(names):
            raise SpecError(f"stage {self.context.step} gives one name to two columns; each needs a name of its own")
        self._sha256 = file_sha256(self.config.head)
        outputs = self._load().outputs
        if outputs != len(names):
            raise SpecError(
                f"stage {self.context.step}: the head {self.config.head} gives {outputs} numbers for each sample, but "
                f"columns names {len(names)}; give {outputs} names"
            )

    def identity(self) -> dict[str, Any]:
        """What the head holds, not what it is called."""
        return {"head": self._sha256}

    def _load(self) -> Head:
        try:
            return make_head(_entries(self.config.head), self.config.activation, self.config.output)
        except ModelError as error:
            raise ModelError(f"the head {self.config.head} does not fit: {error}") from error

    def setup(self) -> None:
        """Load the head, if it is still the one that was planned with."""
        if file_sha256(self.config.head) != self._sha256:
            raise ModelError(
                f"the head {self.config.head} changed while the run was at work; run the same command again"
            )
        self.loaded = self._load()

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """Score the vectors of alive rows. Memory: the part's vectors, and a few thousand of them in float64."""
        assert self.loaded is not None
        rows, vectors = alive_vectors(part, self._embedding)
        scores = np.full((part.rows, len(self.config.names)), np.nan)
        scores[rows] = apply_head(self.loaded, vectors)
        frame = pl.DataFrame({name: scores[:, n] for n, name in enumerate(self.config.names)})
        return Columns(frame.with_columns(pl.all().fill_nan(None)))


def _entries(path: str) -> dict[str, NDArray[np.floating]]:
    """All arrays of a file. Nothing is unpickled but plain tensors, by torch's weights-only reader."""
    if not path.endswith(".npz"):
        state = read_state_dict(path)
        return {name: tensor.double().numpy() for name, tensor in state.items()}
    try:
        with np.load(Path(path).expanduser(), allow_pickle=False) as archive:
            entries = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError) as error:
        raise ModelError(f"it is not a .npz file of plain arrays ({error})") from error
    if odd := next((name for name, values in entries.items() if values.dtype.kind not in "fiu"), None):
        raise ModelError(f"entry {odd} holds {entries[odd].dtype}, not numbers")
    return {name: np.asarray(values, dtype=np.float64) for name, values in entries.items()}
