from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from curate.errors import StorageError
from curate.stages.base import State, Totals
from curate.stages.config import StageConfig
from curate.stages.part import Part
from curate.stages.sink import Sink, Unit
from curate.store.artifacts import Artifact
from curate.store.workspace import Workspace

written: list[str] = []
broken: set[str] = set()


class Lines(Sink[StageConfig]):
    """One text file a part."""

    kind = "lines"

    def reads(self) -> tuple[str, ...]:
        return ("index",)

    def target(self, workspace: Workspace, whole: str) -> Workspace:
        return workspace.sub(f"lines@{whole}")

    def summarise(self, part: Part, totals: Totals, state: State) -> dict[str, NDArray[Any]]:
        return {"rows": np.asarray(part.rows)}

    def reduce(self, summaries: Any, totals: Totals, state: State) -> dict[str, Artifact]:
        return {"rows": np.asarray([int(s["rows"]) for s in summaries])}

    def units(self, artifacts: Mapping[str, Artifact], parts: int) -> list[Unit]:
        return [Unit("file", part, (part,)) for part in range(parts)]

    def write(
        self, unit: Unit, parts: Sequence[Part], artifacts: Mapping[str, Artifact], target: Workspace
    ) -> dict[str, Any]:
        if unit.name in broken:
            raise StorageError(f"{unit.name} cannot be written")
        written.append(unit.name)
        target.put(f"{unit.name}.txt", "\n".join(parts[0].columns("key").to_series()).encode())
        return {"samples": parts[0].rows}

    def intact(self, report: dict[str, Any], target: Workspace) -> bool:
        return target.exists("end")

    def finish(
        self, results: Iterable[dict[str, Any]], artifacts: Mapping[str, Artifact], target: Workspace
    ) -> dict[str, Any]:
        total = sum(result["samples"] for result in results)
        assert total == int(np.sum(artifacts["rows"]))
        target.put("end", b"")
        return {"url": target.url, "shards": len(written), "samples": total}


@pytest.fixture(autouse=True)
def _clean() -> None:
    written.clear()
    broken.clear()


def sink(made: Any) -> Any:
    made._add("lines", Lines, StageConfig(name=None))
    return made.results["lines"]


def bench_of(bench: Callable[..., Any]) -> Any:
    made = bench(3)
    made.index([2, 1, 3])
    return made


def test_units_are_written_once_and_finish_sees_all(bench: Callable[..., Any]) -> None:
    made = bench_of(bench)
    result = sink(made)
    assert written == ["file-00000", "file-00001", "file-00002"]
    assert result.sink["samples"] == 6
    target = Path(result.sink["url"])
    assert (target / "file-00002.txt").read_text().split() == ["000003", "000004", "000005"]
    assert made.workspace.folders("scratch") == []
    again = made.executor.run(made.plan.step("lines"))
    assert again.sink == result.sink
    assert len(written) == 3


def test_finished_units_are_not_written_again(bench: Callable[..., Any]) -> None:
    made = bench_of(bench)
    broken.add("file-00001")
    with pytest.raises(StorageError, match="file-00001 cannot be written"):
        sink(made)
    broken.clear()
    result = made.executor.run(made.plan.step("lines"))
    assert written == ["file-00000", "file-00001", "file-00002"]
    assert result.sink["samples"] == 6
    assert result.reused_parts == 1


def test_it_adds_no_columns_and_later_steps_do_not_see_it(bench: Callable[..., Any]) -> None:
    made = bench_of(bench)
    sink(made)
    step = made.plan.step("lines")
    assert step.stage.schema() == {}
    assert [layer.step for layer in made.plan.part(0, "end").layers] == ["index"]
    assert step.folder.startswith("lines-work@")


def test_names_of_units_sort_as_they_are_numbered() -> None:
    assert [Unit("shard", n, ()).name for n in (0, 7, 12345)] == ["shard-00000", "shard-00007", "shard-12345"]
