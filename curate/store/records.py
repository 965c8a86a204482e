"""Stored JSON records with a schema version: read back as their model, or refused in one sentence."""

from __future__ import annotations

import json
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from curate.errors import StorageError

Model = TypeVar("Model", bound=BaseModel)


def parse_record(model: type[Model], data: str | bytes, where: str, way_out: str) -> Model:
    """Parse a record whose model has a constant `schema_version`.

    where names the file, way_out says what to do about damage. Raises StorageError for another version or damage.
    """
    try:
        raw = json.loads(data)
        known = model.model_fields["schema_version"].default
        if isinstance(raw, dict) and raw.get("schema_version") != known:
            raise StorageError(
                f"{where} has schema version {raw.get('schema_version')}, this curate reads {known}; "
                "use the curate that wrote it, or start afresh elsewhere"
            )
        return model.model_validate(raw)
    except (ValueError, ValidationError) as error:
        raise StorageError(f"{where} is damaged ({first_reason(error)}); {way_out}") from error


def first_reason(error: Exception) -> str:
    """What is wrong, in one line: of a validation error its first finding."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(step) for step in first['loc'])}: {first['msg']}"
    return str(error)
