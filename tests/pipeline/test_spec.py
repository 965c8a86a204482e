"""The models of a pipeline file: names of stages, references, the input."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from curate.pipeline.spec import InputSpec, PipelineSpec, StageEntry, check_location, references_of, stage_names
from curate.stages.config import Reference, StageConfig


def test_unnamed_stages_are_called_by_their_kind_and_counted() -> None:
    stages = [("filter", None), ("cluster", "fine"), ("filter", None), ("filter", "filter_3"), ("filter", None)]
    assert stage_names(stages) == ["filter", "fine", "filter_2", "filter_3", "filter_4"]
    assert stage_names([("cluster", None), ("embed", "cluster")]) == ["cluster_2", "cluster"]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.none() | st.sampled_from(["a", "a_2", "c"]))))
def test_names_that_are_not_given_are_unique(stages: list[tuple[str, str | None]]) -> None:
    names = stage_names(stages)
    for position, (_, given_name) in enumerate(stages):
        assert names[position] == given_name or (given_name is None and names.count(names[position]) == 1)


def test_reference_fields_are_found() -> None:
    class Config(StageConfig):
        within: Annotated[str | None, Reference({"cluster"})] = None
        vectors: Annotated[str, Reference({"embed"})] | None = None
        other: str | None = None

    assert {name: set(found.kinds) for name, found in references_of(Config).items()} == {
        "within": {"cluster"},
        "vectors": {"embed"},
    }


@pytest.mark.parametrize(
    "text", ["runs", "/a/b", "s3://bucket/a", "memory://x", "a@b/c.tar", "simplecache::s3://b/{0..9}.tar"]
)
def test_locations(text: str) -> None:
    assert check_location(text) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("s3://me:secret@bucket/a", "user name or password"),
        ("sftp://me@host/a", "user name or password"),
        ("simplecache::https://me:secret@host/a", "user name or password"),
        ("pipe:cat x", "commands"),
        ("a\nb", "control characters"),
        ("  ", "empty"),
        ("http://[1/a", "well-formed"),
    ],
)
def test_locations_that_are_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_location(text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "exactly one of shards, folder"),
        ({"shards": "a", "folder": "b"}, "exactly one of shards, folder"),
        ({"shards": "a", "caption_required": False}, "no meaning without caption"),
        ({"folder": "a", "shards_per_part": 2}, "no meaning with folder"),
        ({"shards": "a", "files_per_part": 2}, "no meaning with shards"),
        ({"shards": "a", "image": ".jpg"}, "without a leading dot"),
        ({"shards": "a", "image": "jpg, png"}, "separated by ';'"),
    ],
)
def test_inputs_that_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        InputSpec(**options)


def test_input_properties() -> None:
    assert InputSpec(shards="a", image="png;jpg;png").image_extensions == ("png", "jpg")
    assert InputSpec(shards=["a", "b"]).shard_list == ("a", "b")
    assert InputSpec(shards="a").shard_list == ("a",)
    assert InputSpec(folder="a").shard_list == ()


def test_stages_are_found_by_name() -> None:
    entry = StageEntry(kind="index", name="index", config=StageConfig())
    spec = PipelineSpec(name="photos", input=InputSpec(shards="a"), workspace="w", stages=(entry,))
    assert spec.stage("index") is spec.stages[0]
    with pytest.raises(KeyError):
        spec.stage("prune")
