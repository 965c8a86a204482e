"""`--set path=value`: which value a path means, how values are read, what is said of wrong paths."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from curate.pipeline.overrides import apply_overrides
from curate.stages.config import StageConfig


class Backbone(BaseModel):
    layers: int = 1


class PruneConfig(StageConfig):
    keep: float = 1.0
    temperature: float = 0.1
    backbone: Backbone | None = None


class FilterConfig(StageConfig):
    where: str


REGISTRY: dict[str, type[StageConfig]] = {"index": StageConfig, "prune": PruneConfig, "filter": FilterConfig}


def tree() -> dict[str, Any]:
    return {
        "name": "x",
        "input": {"shards": ["a.tar", "b.tar"]},
        "stages": [
            "index",
            {"filter": {"where": "a"}},
            {"filter": {"where": "b"}},
            {"prune": {"name": "final"}},
            "prune",
        ],
    }


def changed(*overrides: str) -> dict[str, Any]:
    result = apply_overrides(tree(), overrides, REGISTRY)
    assert result.problems == []
    return dict(result.tree)


def options(changed_tree: dict[str, Any], index: int) -> Any:
    return next(iter(changed_tree["stages"][index].values()))


def test_a_stage_is_found_by_name_place_and_kind() -> None:
    assert options(changed("stages.final.keep=0.3"), 3) == {"name": "final", "keep": 0.3}
    assert options(changed("stages.3.keep=0.3"), 3)["keep"] == 0.3
    assert options(changed("stages.filter.where=c"), 1) == {"where": "c"}
    assert options(changed("stages.filter_2.where=c"), 2) == {"where": "c"}
    assert changed("stages.index.name=i")["stages"][0] == {"index": {"name": "i"}}
    one = {"stages": [{"prune": {"name": "final"}}]}
    assert apply_overrides(one, ["stages.prune.keep=1"], REGISTRY).tree == {
        "stages": [{"prune": {"name": "final", "keep": 1}}]
    }
    assert one == {"stages": [{"prune": {"name": "final"}}]}


def test_absent_options_and_whole_mappings_are_made() -> None:
    assert changed("seed=3", "input.caption=txt")["input"] == {"shards": ["a.tar", "b.tar"], "caption": "txt"}
    assert options(changed("stages.final.backbone.layers=2"), 3)["backbone"] == {"layers": 2}
    assert apply_overrides({}, ["input.shards=x"], REGISTRY).tree == {"input": {"shards": "x"}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.3", 0.3), ("1e-3", 0.001), ("true", True), ("null", None), ("", None), ("'3'", "3"), ('"a=b"', "a=b"),
        ("a > 1 AND b = 2", "a > 1 AND b = 2"), ("{0..9}.tar", "{0..9}.tar"), ("[a, 2]", ["a", 2]), ("no", "no"),
    ],
)  # fmt: skip
def test_values_are_read_like_yaml_scalars(text: str, value: Any) -> None:
    assert changed(f"description={text}")["description"] == value


def test_lists_are_changed_by_place_and_the_last_override_wins() -> None:
    assert changed("input.shards.1=c.tar", "input.shards.1=d.tar")["input"]["shards"] == ["a.tar", "d.tar"]


def test_names_are_those_of_the_file() -> None:
    assert options(changed("stages.final.name=last", "stages.final.keep=0.5"), 3) == {"name": "last", "keep": 0.5}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "stages.final.temprature=1",
            "--set: stages.final.temprature: unknown option (value 1); did you mean "
            "stages.final.temperature?",
        ),
        (
            "stages.finale.keep=1",
            "no stage is called finale; the stages are index, filter, filter_2, final, prune (value 1); did "
            "you mean final?",
        ),
        ("stages.9.keep=1", "no stage is called 9"),
        ("stages.final=1", "name a stage and an option, such as stages.prune.keep"),
        ("sed=1", "--set: sed: unknown option (value 1); did you mean seed?"),
        ("input=1", "name an option of the input"),
        ("input.shard=1", "did you mean input.shards?"),
        ("input.shards.7=1", "7 is not a place in a list of 2, counted from 0"),
        ("name.x=1", "name is not a mapping of options"),
        ("keep", "keep is not of the form path=value"),
        ("=3", "is not of the form path=value"),
        ("seed='3", "a quoted text is not closed"),
    ],
)  # fmt: skip
def test_wrong_overrides_are_problems_and_change_nothing(override: str, said: str) -> None:
    result = apply_overrides(tree(), [override], REGISTRY)
    (problem,) = result.problems
    assert said in str(problem)
    assert problem.file == "--set"
    assert result.tree == tree()


def test_a_kind_that_several_stages_have_is_ambiguous() -> None:
    stages = {"stages": [{"prune": {"name": "a"}}, {"prune": {"name": "b"}}]}
    (problem,) = apply_overrides(stages, ["stages.prune.keep=1"], REGISTRY).problems
    assert "several stages are called prune; say which by its place: one of 0, 1" in str(problem)
