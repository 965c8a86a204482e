from __future__ import annotations

import contextlib
import os
import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from curate.engine.base import Need
from curate.engine.ray_engine import RETRIES, RayEngine
from curate.engine.state import keep
from curate.errors import EngineError, StorageError

TASKS, ACTORS = Need(cpus=1), Need(cpus=1, state="model")


@pytest.fixture(scope="module")
def engine() -> Iterator[RayEngine]:
    made = RayEngine(workers=2)
    yield made
    made.close()


# Workers are other processes, which cannot import this file: what they run is defined inside functions, and travels
# by value.


@dataclass(frozen=True)
class Note:
    """Where work leaves a trace that all processes see."""

    folder: Path

    def lines(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


def squares() -> Callable[[int], tuple[int, int]]:
    def work(item: int) -> tuple[int, int]:
        return item * item, os.getpid()

    return work


@pytest.mark.parametrize("need", [TASKS, ACTORS])
def test_every_item_once_on_other_processes(engine: RayEngine, need: Need) -> None:
    done = list(engine.map(squares(), range(40), need))
    assert sorted(d.item for d in done) == list(range(40))
    assert all(d.result[0] == d.item**2 for d in done)
    pids = {d.result[1] for d in done}
    assert os.getpid() not in pids
    assert 1 <= len(pids) <= 2


def test_a_local_ray_carries_no_dashboard_and_hides_nothing_afterwards(engine: RayEngine) -> None:
    from ray.dashboard import optional_deps  # importable again

    assert optional_deps.aiohttp
    commands = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # workers of an earlier Ray end when they like
            commands.append(" ".join(child.cmdline()))
    assert any("gcs_server" in command for command in commands)
    raylet = next(command for command in commands if "raylet/raylet" in command)
    assert raylet.count("--minimal") >= 1  # in the command lines of its agents


def test_no_items(engine: RayEngine) -> None:
    assert list(engine.map(squares(), [], TASKS)) == []
    assert list(engine.map(squares(), [], ACTORS)) == []  # and no actor is started for it


def test_state_is_made_once_a_worker(engine: RayEngine, tmp_path: Path) -> None:
    name = uuid.uuid4().hex

    def work(item: int) -> int:
        def make() -> int:
            (tmp_path / f"{os.getpid()}-{time.monotonic_ns()}").touch()
            return os.getpid()

        time.sleep(0.02)
        return keep(name, make)

    pids = {d.result for d in engine.map(work, range(30), ACTORS)}
    assert len(pids) == 2
    assert sorted(int(line.split("-")[0]) for line in Note(tmp_path).lines()) == sorted(pids)


def test_task_workers_are_used_again_by_the_next_map(engine: RayEngine) -> None:
    def slow(item: int) -> int:
        time.sleep(0.05)
        return os.getpid()

    first = {d.result for d in engine.map(slow, range(6), TASKS)}
    second = {d.result for d in engine.map(slow, range(6), TASKS)}
    assert len(first) == 2
    assert first == second


@pytest.mark.parametrize("need", [TASKS, ACTORS])
def test_an_error_for_people_arrives_as_it_was(engine: RayEngine, need: Need) -> None:
    def work(item: int) -> int:
        if item == 3:
            raise StorageError("writing s3://x/part-3: no space left")
        return item

    with pytest.raises(StorageError, match=r"^writing s3://x/part-3: no space left$"):
        list(engine.map(work, range(6), need))


def test_any_other_error_shows_the_trace_of_the_worker(engine: RayEngine) -> None:
    def divide(item: int) -> float:
        return 1 / item

    with pytest.raises(RuntimeError, match=r"(?s)ZeroDivisionError.*while working on 0.*in divide"):
        list(engine.map(divide, [0], TASKS))


@pytest.mark.parametrize("need", [TASKS, ACTORS])
def test_a_worker_that_dies_once_is_replaced(engine: RayEngine, need: Need, tmp_path: Path) -> None:
    def work(item: int) -> int:
        mark = tmp_path / f"tried-{item}"
        if item == 2 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return item * 10

    assert sorted(d.result for d in engine.map(work, range(6), need)) == [0, 10, 20, 30, 40, 50]
    assert Note(tmp_path).lines() == ["tried-2"]


@pytest.mark.parametrize("need", [TASKS, ACTORS])
def test_an_item_that_always_kills_its_worker_ends_the_map(engine: RayEngine, need: Need, tmp_path: Path) -> None:
    class Item:
        def __str__(self) -> str:
            return "part 17 (bad.tar)"

    def work(item: Any) -> None:
        (tmp_path / f"{os.getpid()}-{time.monotonic_ns()}").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(EngineError, match=r"part 17 \(bad\.tar\) was lost 4 times .* run the same command again"):
        list(engine.map(work, [Item()], need))
    assert len(Note(tmp_path).lines()) == RETRIES + 1


def test_items_are_taken_only_as_workers_can_have_them(engine: RayEngine) -> None:
    """At most two items a worker are taken from the (possibly endless) stream ahead of the results."""
    taken = 0
    most = 0

    def stream() -> Iterator[int]:
        nonlocal taken
        for item in range(30):
            taken += 1
            yield item

    for returned, _ in enumerate(engine.map(squares(), stream(), TASKS)):
        most = max(most, taken - returned)
    assert taken == 30
    assert most <= 2 * engine.workers(TASKS)


def test_no_more_items_run_at_once_than_there_are_slots(engine: RayEngine) -> None:
    def span(item: int) -> tuple[float, float]:
        start = time.monotonic()
        time.sleep(0.1)
        return start, time.monotonic()

    spans = [d.result for d in engine.map(span, range(8), TASKS)]
    ends = sorted([(start, 1) for start, _ in spans] + [(stop, -1) for _, stop in spans])
    running = Counter[int]()
    level = 0
    for _, change in ends:
        level += change
        running[level] += 1
    assert max(running) == 2


def test_workers_that_fit(engine: RayEngine) -> None:
    assert engine.workers(Need(cpus=1)) == 2
    assert engine.workers(Need(cpus=2)) == 1
    assert engine.workers(Need(cpus=0.5)) == 4
    assert engine.workers(Need(cpus=1, gpus=1)) == 1  # never none


def test_what_it_says_of_itself(engine: RayEngine) -> None:
    said = engine.describe()
    assert (said["engine"], said["address"], said["nodes"], said["cpus"]) == ("ray", "local", 1, 2)


def test_a_second_ray_in_one_process_is_a_sentence(engine: RayEngine) -> None:
    with pytest.raises(EngineError, match=r"uses a Ray already.*call ray\.shutdown\(\) first"):
        RayEngine(workers=1)
    assert len(list(engine.map(squares(), range(2), TASKS))) == 2
