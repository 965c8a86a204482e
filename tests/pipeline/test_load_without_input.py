"""Pipelines whose only stage makes its samples: they have no input, and all others need one."""

from __future__ import annotations

from typing import ClassVar

import pytest

from curate.pipeline.load import SpecProblems, load
from curate.stages.config import StageConfig


class FilterConfig(StageConfig):
    where: str


class MakeConfig(StageConfig):
    makes_samples: ClassVar[bool] = True

    images: int = 10
    to: str | None = None


MAKES: dict[str, type[StageConfig]] = {"index": StageConfig, "filter": FilterConfig, "make": MakeConfig}


def test_a_stage_that_makes_its_samples_needs_no_input() -> None:
    loaded = load("name: x\nworkspace: w\nstages:\n  - make: {images: 3}\n", registry=MAKES, env={})
    assert loaded.spec.input is None
    assert [entry.kind for entry in loaded.spec.stages] == ["make"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "stages: [make]\ninput: {shards: a}\n",
            "p.yaml:4:8: input: make makes its samples and reads none; take input: out",
        ),
        (
            "stages:\n  - make: {to: /data/made}\n  - filter: {where: a}\n",
            "p.yaml:4:11: stages.make: make stands alone in its pipeline; other stages go into a second one, which "
            'reads what this one writes with input: {shards: "/data/made/*.tar"}',
        ),
        ("stages:\n  - index\n  - make\n", "p.yaml:5:5: stages.make: make stands alone in its pipeline"),
        ("stages: [index]\n", "input: this option is required and missing"),
        # one mistake is one sentence: without it there would be no input to miss
        ("stages: [mak]\n", "p.yaml:3:10: stages.mak: unknown stage; did you mean make?"),
        ("stages:\n  - make: 3\n", "p.yaml:4:11: stages.make: must be a mapping of options (value 3)"),
    ],
)
def test_a_stage_that_makes_its_samples_stands_alone(text: str, said: str) -> None:
    with pytest.raises(SpecProblems) as caught:
        load("name: x\nworkspace: w\n" + text, registry=MAKES, env={}, source_name="p.yaml")
    (problem,) = caught.value.problems
    assert said in str(problem)
