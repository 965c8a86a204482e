"""The outlook of a plan: what is stored, what is left, and warnings about orders that make no sense."""

from __future__ import annotations

from typing import Any

from small_run import SmallRun, small_run

from curate.pipeline import api
from curate.pipeline.estimate import estimate


def _plan(small: SmallRun, workspace: str, stages: list[Any]) -> dict[str, Any]:
    spec = {**small.spec, "workspace": workspace, "stages": stages}
    return estimate(api.prepare(spec)[1])


def test_a_finished_run_has_nothing_left_to_do_and_known_rows() -> None:
    small = small_run()
    outlook = estimate(api.prepare(small.spec)[1])
    assert outlook["input"]["rows"] == small.run.record.rows
    assert outlook["input"]["rows_known"]
    assert all(step["parts_stored"] == step["parts"] == 3 and step["time"] == "stored" for step in outlook["steps"])
    assert outlook["bytes"] == outlook["scratch_bytes"] == 0


def test_a_fresh_plan_guesses_rows_from_bytes_and_counts_every_step() -> None:
    small = small_run()
    outlook = _plan(small, f"{small.root}/elsewhere", small.spec["stages"])
    assert not outlook["input"]["rows_known"]
    assert outlook["input"]["bytes"] == sum(p.stat().st_size for p in (small.root / "shards").glob("*.tar"))
    assert [step["name"] for step in outlook["steps"]] == [step.name for step in small.run.record.steps]
    assert all(step["parts_stored"] == 0 for step in outlook["steps"])
    assert next(step for step in outlook["steps"] if step["name"] == "embed")["seconds"] > 0
    assert not (small.root / "elsewhere").exists(), "a plan writes nothing"


def test_the_rate_of_the_last_run_in_the_workspace_is_used() -> None:
    small = small_run()
    stages = [stage for stage in small.spec["stages"] if "filter" not in stage]
    record = small.run.record.step("embed")
    outlook = _plan(small, str(small.workspace), stages)
    step = next(s for s in outlook["steps"] if s["name"] == "embed")
    assert record.rows_before is not None
    assert record.seconds is not None
    rate = record.rows_before / record.seconds
    assert abs(step["seconds"] - outlook["input"]["rows"] / rate) <= 0.1


def test_orders_that_make_no_sense_are_told() -> None:
    small = small_run()
    filter_ = {"filter": {"where": "width > 1"}}
    embed = {"embed": {"model": "packaged:efficientnet_lite0"}}
    cluster, dedup = {"cluster": {"concepts": 2}}, {"dedup": {}}
    prune = {"prune": {"keep": 0.5}}
    place = f"{small.root}/elsewhere"

    def told(*stages: Any) -> str:
        return "\n".join(_plan(small, place, list(stages))["warnings"])

    assert told("index", filter_, embed, cluster, dedup, prune, "release") == ""
    assert "filter comes after dedup" in told("index", embed, cluster, dedup, filter_, "release")
    assert "dedup comes after prune" in told("index", embed, cluster, prune, dedup, "release")
    assert "prune has no dedup" in told("index", embed, cluster, prune, "release")
    assert "no later stage uses the vectors of embed" in told("index", embed, "release")
    assert "no release stage" in told("index", filter_)


def test_full_training_says_what_each_iteration_reads() -> None:
    small = small_run()
    embed = {"embed": {"model": "packaged:efficientnet_lite0"}}

    def planned(place: str, **options: Any) -> dict[str, Any]:
        outlook = _plan(small, place, ["index", embed, {"cluster": options}, {"dedup": {}}, "release"])
        step: dict[str, Any] = next(step for step in outlook["steps"] if step["name"] == "cluster")
        return step | {"rows": outlook["input"]["rows"]}

    sample = planned(f"{small.root}/elsewhere", concepts=3, iterations=7)
    assert (sample["read_bytes_per_iteration"], sample["notes"]) == (0, [])
    full = planned(f"{small.root}/elsewhere", concepts=3, iterations=7, train="full")
    assert full["read_bytes_per_iteration"] == full["rows"] * 1280 * 2
    (note,) = full["notes"]
    assert "in each of at most 7 iterations" in note
    assert "local disk" not in note
    (note,) = planned("memory://elsewhere", concepts=3, train="full")["notes"]
    assert "local disk" in note
    (note,) = planned(f"{small.root}/elsewhere", concepts="auto", purpose="dedup")["notes"]
    assert "assignment and pairs cost the same" in note
    (note,) = planned(f"{small.root}/elsewhere", concepts="auto")["notes"]
    assert "doubling gains little" in note
