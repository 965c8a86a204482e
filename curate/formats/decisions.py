"""What people answered about labels: JSON Lines, one decision a line, only ever appended to.

    {"uid": "0f...", "class": 620, "answer": "yes", "rater": "kim", "at": "2026-11-23T06:30:00Z"}

A later answer of a rater to the same question replaces the earlier one. What never lives here: which question comes
next, and what answers are worth.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError, StorageError
from curate.formats.row_orders import decoded, read_bytes

ANSWERS = ("no", "maybe", "yes")
"""By number, as curate.relabel.votes.PEOPLE."""
_LONGEST = 1 << 20
"""No decision has more bytes."""


@dataclass(frozen=True, slots=True)
class Decisions:
    """Answers in the order of the files, the last of each rater to each question.

    ``uid_hi``, ``uid_lo`` uint64, ``classes`` int64, ``raters`` int64 (place in ``names``) and ``answers`` int64 (place
    in ANSWERS), all [n]. ``golden`` bool [n]: questions whose answer is known, asked to rate the rater.
    """

    uid_hi: NDArray[np.uint64]
    uid_lo: NDArray[np.uint64]
    classes: NDArray[np.int64]
    raters: NDArray[np.int64]
    answers: NDArray[np.int64]
    names: tuple[str, ...]
    golden: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.classes)

    def questions(self) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
        """The distinct questions: uids uint64 [m, 2] and classes int64 [m], ascending; place of each answer's, [n]."""
        keys = np.stack([self.uid_hi, self.uid_lo, self.classes.astype(np.uint64)], axis=1)
        found, place = np.unique(keys, axis=0, return_inverse=True)
        return found[:, :2], found[:, 2].astype(np.int64), place.reshape(-1).astype(np.int64)


def decision_line(uid: str, number: int, answer: str, rater: str, golden: bool = False) -> bytes:
    """One line with its end, stamped with the time of now (UTC). Raises InputError for what would not be read back."""
    at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    value = {"uid": uid, "class": number, "answer": answer, "rater": rater, "at": at} | (
        {"golden": True} if golden else {}
    )
    _parsed(value, "this decision")
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def append(file: Path, line: bytes) -> None:
    """Add one line of `decision_line` to a local file, made with its folder if there is none; on disk when it returns.

    Several processes may append to one file. A rest of a line that was cut off by a kill, which `read_decisions` leaves
    out, is removed before. Raises StorageError.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a+b", buffering=0) as out:
            fcntl.flock(out, fcntl.LOCK_EX)
            end = out.seek(0, os.SEEK_END)
            begin = max(0, end - _LONGEST)
            out.seek(begin)
            tail = out.read(end - begin)
            rest = tail[tail.rfind(b"\n") + 1 :]
            if rest and _whole(rest):
                line = b"\n" + line
            elif rest:
                out.truncate(end - len(rest))
            out.write(line)
            os.fsync(out.fileno())
    except OSError as error:
        raise StorageError(
            f"{file}: cannot add a decision ({error.strerror or error}); free space or give another file."
        ) from error


def _whole(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def read_decisions(urls: Iterable[str]) -> Decisions:
    """All decisions of these files. A last line that was cut off, by a kill or a full disk, is left out.

    Raises InputError that names file and line for anything else that is no decision. Memory: 300 bytes a decision.
    """
    last: dict[tuple[int, int, str], tuple[int, bool]] = {}
    for url in urls:
        data = read_bytes(url)
        head, newline, tail = data.rpartition(b"\n")
        if not _whole(tail):
            data = head + newline
        for place, line in enumerate(decoded(data, url).split("\n")):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except ValueError as error:
                raise InputError(
                    f"{url}, line {place + 1}: is no JSON ({error}); wanted one decision a line."
                ) from error
            uid, number, answer, rater, golden = _parsed(value, f"{url}, line {place + 1}")
            last.pop((uid, number, rater), None)
            last[uid, number, rater] = answer, golden
    names = sorted({rater for _, _, rater in last})
    number_of = {name: place for place, name in enumerate(names)}
    return Decisions(
        np.array([uid >> 64 for uid, _, _ in last], dtype=np.uint64),
        np.array([uid & (1 << 64) - 1 for uid, _, _ in last], dtype=np.uint64),
        np.array([number for _, number, _ in last], dtype=np.int64),
        np.array([number_of[rater] for _, _, rater in last], dtype=np.int64),
        np.array([answer for answer, _ in last.values()], dtype=np.int64),
        tuple(names),
        np.array([golden for _, golden in last.values()], dtype=bool),
    )


def _parsed(value: object, where: str) -> tuple[int, int, int, str, bool]:
    """uid, class, answer, rater, golden of one decision."""
    given = value if isinstance(value, dict) else {}
    uid, number, answer, rater = (given.get(name) for name in ("uid", "class", "answer", "rater"))
    if not isinstance(uid, str) or len(uid) != 32 or not set(uid.lower()) <= set("0123456789abcdef"):
        raise InputError(f"{where}: uid is {uid!r}; wanted the 32 hex digits of a sample's uid.")
    if type(number) is not int or not 0 <= number < 1 << 32:
        raise InputError(f"{where}: class is {number!r}; wanted a number from 0.")
    if answer not in ANSWERS:
        raise InputError(f"{where}: answer is {answer!r}; wanted {', '.join(ANSWERS[:-1])} or {ANSWERS[-1]}.")
    if not isinstance(rater, str) or not rater:
        raise InputError(f"{where}: rater is {rater!r}; wanted who answered.")
    return int(uid, 16), number, ANSWERS.index(answer), rater, given.get("golden") is True
