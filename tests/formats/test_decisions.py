"""Decisions of people: what is written is read back, a later answer replaces an earlier one, damage is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from curate.errors import InputError, StorageError
from curate.formats.decisions import ANSWERS, append, decision_line, read_decisions
from curate.relabel.votes import PEOPLE

A, B = "0" * 31 + "a", "f" * 32


def test_answers_have_the_numbers_of_votes() -> None:
    assert ANSWERS == PEOPLE


def test_round_trip(tmp_path: Path) -> None:
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    one.write_bytes(decision_line(A, 3, "yes", "kim") + decision_line(B, 70_000, "maybe", "Zoë", golden=True))
    two.write_bytes(decision_line(A, 3, "no", "lee") + decision_line(A, 3, "no", "kim"))
    found = read_decisions([str(one), str(two)])
    assert found.names == ("Zoë", "kim", "lee")
    rows = zip(
        found.uid_lo.tolist(), found.classes.tolist(), found.raters.tolist(), found.answers.tolist(), strict=True
    )
    last = (1 << 64) - 1
    assert list(rows) == [(last, 70_000, 0, 1), (10, 3, 2, 0), (10, 3, 1, 0)]  # kim changed her mind
    assert found.golden.tolist() == [True, False, False]
    uids, classes, place = found.questions()
    assert uids.tolist() == [[0, 10], [last, last]]
    assert classes.tolist() == [3, 70_000]
    assert place.tolist() == [1, 0, 0]


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "cut.jsonl"
    line = decision_line(A, 3, "yes", "kim")
    file.write_bytes(line + line[:-9])
    assert len(read_decisions([str(file)])) == 1
    file.write_bytes(line[:-9] + b"\n" + line)
    with pytest.raises(InputError, match="line 1: is no JSON"):
        read_decisions([str(file)])


def test_none_at_all(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    found = read_decisions([str(tmp_path / "empty.jsonl")])
    assert len(found) == 0
    assert found.questions()[0].shape == (0, 2)
    np.testing.assert_array_equal(found.questions()[2], np.zeros(0, dtype=np.int64))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"uid": "12", "class": 1, "answer": "yes", "rater": "kim"}', "uid is '12'"),
        (f'{{"uid": "{A}", "class": -1, "answer": "yes", "rater": "kim"}}', "class is -1"),
        (f'{{"uid": "{A}", "class": true, "answer": "yes", "rater": "kim"}}', "class is True"),
        (
            f'{{"uid": "{A}", "class": 1, "answer": "sure", "rater": "kim"}}',
            "answer is 'sure'; wanted no, maybe or yes",
        ),
        (f'{{"uid": "{A}", "class": 1, "answer": "no", "rater": ""}}', "rater is ''"),
        ("[]", "uid is None"),
    ],
)
def test_what_is_no_decision_is_told_with_its_line(tmp_path: Path, line: str, words: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_bytes(decision_line(A, 3, "yes", "kim") + line.encode() + b"\n")
    with pytest.raises(InputError, match=words) as told:
        read_decisions([str(file)])
    assert "bad.jsonl, line 2" in str(told.value)


def test_appended_lines_are_whole_even_after_a_kill_and_by_several_processes(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "decisions.jsonl"
    append(file, decision_line(A, 1, "yes", "Zoë"))
    with file.open("ab") as out:  # killed within the two bytes of a letter
        out.write(decision_line(A, 2, "no", "Zoë").split(b"\xab")[0])
    assert read_decisions([str(file)]).classes.tolist() == [1]
    append(file, decision_line(A, 3, "no", "Zoë"))
    assert read_decisions([str(file)]).classes.tolist() == [1, 3]
    with file.open("ab") as out:  # somebody's editor left out the end of the last line
        out.write(decision_line(A, 4, "no", "Zoë").rstrip())
    append(file, decision_line(A, 5, "no", "Zoë"))
    assert read_decisions([str(file)]).classes.tolist() == [1, 3, 4, 5]
    code = (
        "import sys; from pathlib import Path; from curate.formats.decisions import append, decision_line\n"
        f"[append(Path({str(file)!r}), decision_line({B!r}, n, 'yes', sys.argv[1])) for n in range(40)]"
    )
    workers = [subprocess.Popen([sys.executable, "-c", code, name]) for name in ("kim", "lee")]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    found = read_decisions([str(file)])
    assert len(found) == 84
    with pytest.raises(StorageError, match="cannot add a decision"):
        append(file / "below", decision_line(A, 1, "yes", "kim"))
