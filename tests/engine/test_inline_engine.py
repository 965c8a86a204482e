from __future__ import annotations

import pickle

import pytest

from curate.engine.base import Done, Failure, InlineEngine, Need, attempt
from curate.errors import CurateError, EngineError, InputError, ModelError, SpecError, StorageError, VerifyError


def test_items_run_in_order_and_lazily() -> None:
    started: list[int] = []

    def work(item: int) -> int:
        started.append(item)
        return item * item

    results = InlineEngine().map(work, iter([3, 1, 2]), Need())
    assert next(results) == Done(3, 9)
    assert started == [3]
    assert list(results) == [Done(1, 1), Done(2, 4)]


def test_an_error_ends_the_map_as_it_is() -> None:
    seen: list[int] = []

    def work(item: int) -> int:
        seen.append(item)
        if item == 1:
            raise InputError("shard x is gone")
        return item

    with pytest.raises(InputError, match="shard x is gone"):
        list(InlineEngine().map(work, range(5), Need()))
    assert seen == [0, 1]


def test_what_it_says_of_itself() -> None:
    engine = InlineEngine()
    assert engine.workers(Need(gpus=4)) == 1
    assert engine.describe() == {"engine": "inline", "workers": 0}
    engine.close()


@pytest.mark.parametrize("kind", [SpecError, InputError, StorageError, VerifyError, EngineError, ModelError])
def test_an_error_for_people_survives_the_way_back(kind: type[CurateError]) -> None:
    def work(item: int) -> int:
        raise kind("part 3: the disk is full")

    failure = pickle.loads(pickle.dumps(attempt(work, 1)))
    with pytest.raises(kind, match=r"^part 3: the disk is full$"):
        failure.throw("part 3")


def test_any_other_error_shows_item_and_trace() -> None:
    class Odd(Exception):
        """Cannot be pickled: local, and holds a function."""

        def __init__(self) -> None:
            super().__init__(lambda: 1)

    def explode(item: str) -> str:
        raise Odd

    failure = attempt(explode, "item")
    assert isinstance(failure, Failure)
    with pytest.raises(RuntimeError, match=r"(?s)Odd: .*while working on part 7.*in explode"):
        pickle.loads(pickle.dumps(failure)).throw("part 7")


def test_attempt_returns_the_result() -> None:
    assert attempt(len, "four") == 4
