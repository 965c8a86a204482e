"""Records come back as written; another version and damage are each one sentence that names file and way out."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import BaseModel

from curate.errors import StorageError
from curate.store.records import parse_record


class Record(BaseModel):
    schema_version: Literal[3] = 3
    rows: int


def test_round_trip() -> None:
    assert parse_record(Record, Record(rows=7).model_dump_json(), "a/b.json", "x") == Record(rows=7)


def test_another_version_is_named_whatever_else_is_in_it() -> None:
    with pytest.raises(StorageError, match=r"^a/b\.json has schema version 4, this curate reads 3; use the curate"):
        parse_record(Record, b'{"schema_version": 4, "new": 1}', "a/b.json", "x")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "Expecting value"),
        (b'{"schema_version": 3', "Expecting"),
        (b"[]", "valid dictionary"),
        (b"\x80", "decode"),
        (b'{"schema_version": 3, "rows": "many"}', "rows: Input should be a valid integer"),
        (b'{"schema_version": 3}', "rows: Field required"),
    ],
)
def test_damage_says_what_and_what_to_do(data: bytes, reason: str) -> None:
    with pytest.raises(StorageError) as caught:
        parse_record(Record, data, "a/b.json", "delete it and run again")
    text = str(caught.value)
    assert text.startswith("a/b.json is damaged (")
    assert reason in text
    assert text.endswith("; delete it and run again")
    assert "\n" not in text
