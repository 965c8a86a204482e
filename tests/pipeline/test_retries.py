from __future__ import annotations

from pathlib import Path

import pytest

from curate.errors import StorageError
from curate.pipeline.retries import FILE, Open, Retries, read_retries, write_retries
from curate.store.workspace import Workspace


def test_a_part_keeps_its_name_until_it_is_tried_again() -> None:
    record = Retries()
    assert record.state("embed@1", "a" * 12) == "a" * 12
    names = ["a" * 12]
    for number in range(1, 4):
        record.again("embed@1", "a" * 12)
        assert record.generation("embed@1", "a" * 12) == number
        names.append(record.state("embed@1", "a" * 12))
    assert len(set(names)) == 4
    assert record.states("embed@1", "a" * 12) == names
    # neither another part nor the same name in another folder has anything to do with it
    assert record.state("embed@1", "b" * 12) == "b" * 12
    assert record.state("embed@2", "a" * 12) == "a" * 12


def test_what_is_written_is_read(tmp_path: Path) -> None:
    workspace = Workspace(str(tmp_path / "work"))
    assert read_retries(workspace) == Retries()
    record = Retries(open=Open(states="c" * 12, samples=3, shards=1))
    record.again("index@1", "a" * 12)
    write_retries(workspace, record)
    assert read_retries(workspace) == record


def test_a_damaged_record_is_a_sentence_with_the_way_out(tmp_path: Path) -> None:
    workspace = Workspace(str(tmp_path))
    (tmp_path / FILE).write_text("{")
    with pytest.raises(StorageError, match=r"retries\.json is damaged .*delete it"):
        read_retries(workspace)
    (tmp_path / FILE).write_text('{"schema_version": 2}')
    with pytest.raises(StorageError, match="schema version 2"):
        read_retries(workspace)
