"""The generated schema accepts what the loader accepts, and files are written the same way twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import jsonschema
import pytest
import yaml
from pydantic import BaseModel, Field

from curate.errors import SpecError
from curate.pipeline.load import SpecProblems, load
from curate.pipeline.schemas import check_schemas, pipeline_schema, write_schemas
from curate.pipeline.spec import Reference, StageConfig


class IndexConfig(StageConfig):
    """Reads the input."""


class FilterConfig(StageConfig):
    where: str = Field(description="A condition over columns.")


class Backbone(BaseModel):
    model: str
    layers: int = Field(1, ge=1)


class EmbedConfig(StageConfig):
    backbone: Backbone
    precision: Literal["fp32", "bf16", "auto"] = "auto"


class PruneConfig(StageConfig):
    within: Annotated[str | None, Reference(frozenset({"embed"}))] = None
    keep: float = Field(gt=0, le=1)
    batch: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"


REGISTRY: dict[str, type[StageConfig]] = {
    "index": IndexConfig,
    "filter": FilterConfig,
    "embed": EmbedConfig,
    "prune": PruneConfig,
}

GOOD = """
name: laion-dbp
input: {shards: "s3://bucket/{000..999}.tar", caption: txt, shards_per_part: auto}
workspace: s3://bucket/runs
seed: 7
stages:
  - index
  - filter: {where: "width >= 200"}
  - embed: {name: dino, backbone: {model: vits14}, precision: bf16}
  - prune: {within: dino, keep: 0.4, batch: 3}
"""


def validator() -> jsonschema.Draft202012Validator:
    schema = pipeline_schema(REGISTRY)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def agree(text: str) -> bool:
    """Whether the schema accepts a text; asserts that the loader says the same."""
    accepted = validator().is_valid(yaml.safe_load(text))
    try:
        load(text, registry=REGISTRY, env={"KEEP": "0.4"})
        loaded = True
    except SpecProblems:
        loaded = False
    assert accepted == loaded
    return accepted


@pytest.mark.parametrize(
    "change",
    [
        ("", ""),
        ("- index", "- index: {}"),
        ("- index", "- index:"),
        ("keep: 0.4", 'keep: "${KEEP}"'),
        ("keep: 0.4", "keep: 1"),
        ("batch: 3", "batch: auto"),
        ("seed: 7", "version: 1"),
        ("seed: 7", "description: why"),
        ('shards: "s3://bucket/{000..999}.tar"', "shards: [a.tar, b.tar]"),
    ],
)
def test_what_the_loader_accepts_the_schema_accepts(change: tuple[str, str]) -> None:
    assert agree(GOOD.replace(*change))


@pytest.mark.parametrize(
    "change",
    [
        ("keep: 0.4", "keep: 1.5"),
        ("keep: 0.4", "keep: 0"),
        ("keep: 0.4, ", ""),
        ("keep: 0.4", 'keep: "0.4"'),
        ("batch: 3", "batch: many"),
        ("batch: 3", "batch: 0"),
        ("bf16", "bf61"),
        ("seed: 7", "sed: 7"),
        ("seed: 7", "seed: -1"),
        ("seed: 7", "version: 2"),
        ("- index", "- filter"),
        ("- index", "- indx"),
        ("- index", "- {index: {}, filter: {where: a}}"),
        ("- index", "- 3"),
        ("name: laion-dbp", "name: Laion DBP"),
        ("workspace: s3://bucket/runs\n", ""),
        ("caption: txt", "captions: txt"),
        ("caption: txt", "caption: .txt"),
        ("backbone: {model: vits14}", "backbone: {model: 3}"),
        ("backbone: {model: vits14}", "backbone: {model: x, layers: 0}"),
    ],
)
def test_what_the_loader_refuses_the_schema_refuses(change: tuple[str, str]) -> None:
    assert change[0] in GOOD
    assert not agree(GOOD.replace(*change))


def test_options_are_described() -> None:
    schema = pipeline_schema(REGISTRY)
    assert schema["$defs"]["stage.filter"]["properties"]["where"]["description"] == "A condition over columns."
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert "$id" not in json.dumps(schema)
    assert schema["properties"]["version"]["const"] == 1


class Manifest(BaseModel):
    version: Literal[2] = 2
    shards: list[str]


def test_files_are_written_checked_and_the_same_twice(tmp_path: Path) -> None:
    models: dict[str, Any] = {"pipeline": pipeline_schema(REGISTRY), "manifest": Manifest}
    paths = write_schemas(tmp_path, models)
    assert [path.name for path in paths] == ["manifest.schema.json", "pipeline.schema.json"]
    first = [path.read_bytes() for path in paths]
    assert check_schemas(tmp_path, models) == []
    write_schemas(tmp_path, {"manifest": Manifest, "pipeline": pipeline_schema(REGISTRY)})
    assert [path.read_bytes() for path in paths] == first
    paths[0].write_text("{}")
    paths[1].unlink()
    (tmp_path / "old.schema.json").write_text("{}")
    said = check_schemas(tmp_path, models)
    assert ["differs" in said[0], "missing" in said[1], "no model" in said[2]] == [True] * 3


def test_a_schema_without_a_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="the schema backbone has no constant version"):
        write_schemas(tmp_path, {"backbone": Backbone})


def test_two_nested_models_of_one_name_are_refused() -> None:
    other = type("Backbone", (BaseModel,), {"__annotations__": {"depth": int}})
    config = type("OtherConfig", (StageConfig,), {"__annotations__": {"backbone": other}})
    with pytest.raises(SpecError, match="called Backbone"):
        pipeline_schema({**REGISTRY, "other": config})


class MakeConfig(StageConfig):
    makes_samples: ClassVar[bool] = True


@pytest.mark.parametrize("stage", ["make", {"make": {}}])
def test_an_input_is_required_but_for_a_stage_that_makes_its_samples(stage: Any) -> None:
    schema = pipeline_schema({**REGISTRY, "make": MakeConfig})
    given = {"name": "x", "workspace": "w"}
    jsonschema.validate({**given, "stages": [stage]}, schema)
    jsonschema.validate({**given, "input": {"shards": "a"}, "stages": ["index"]}, schema)
    for wrong in ({"input": {"shards": "a"}, "stages": [stage]}, {"stages": ["index"]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**given, **wrong}, schema)
