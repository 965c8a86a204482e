"""Names that users give to columns of their own: what they may be, and which are taken."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from curate.formats.samples import INDEX_SCHEMA
from curate.stages.release import FROM_STAGES

_TAKEN = {*INDEX_SCHEMA, *FROM_STAGES, "uid", "source", "keep", "reason", "alive", "vec_row", "text_row", "repeats"}


def check_new(name: str) -> str:
    """Return `name` when no column has it that other stages or a release look for by its name."""
    if name in _TAKEN:
        raise ValueError(f"{name} is a column of its own already; give the new one another name")
    return name


NewColumn = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"), AfterValidator(check_new)]
