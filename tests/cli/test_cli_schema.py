"""`curate schema`: the schemas are valid and accept what they describe."""

from __future__ import annotations

import json

import jsonschema
from commands import Cli
from small_run import SmallRun

from curate.cli.schema import schemas
from curate.errors import ExitCode


def test_every_schema_is_valid() -> None:
    for schema in schemas().values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_the_pipeline_schema_is_the_default_and_accepts_the_small_pipeline(cli: Cli, small: SmallRun) -> None:
    answer = cli("schema")
    assert answer.code == 0
    assert answer.json == cli("schema", "pipeline").json
    jsonschema.validate(small.spec, answer.json)


def test_files_of_a_run_fit_their_schemas(cli: Cli, small: SmallRun) -> None:
    for name, path in (("run", small.workspace / "run.json"), ("manifest", small.release / "manifest.json")):
        jsonschema.validate(json.loads(path.read_text()), cli("schema", name).json)
    group = next((small.workspace / small.run.record.step("prune").folder).glob("group.*.json"))
    jsonschema.validate(json.loads(group.read_text()), cli("schema", "group").json)


def test_a_stage_has_its_options(cli: Cli) -> None:
    options = cli("schema", "prune").json["properties"]
    assert options["which"]["enum"] == ["hard", "easy", "middle", "random"]


def test_the_list_names_all(cli: Cli) -> None:
    names = [line.split()[0] for line in cli("schema", "--list").out.splitlines()]
    assert names == list(schemas())
    assert {"pipeline", "run", "manifest", "embed", "release"} <= set(names)


def test_a_wrong_name_gets_a_hint(cli: Cli) -> None:
    answer = cli("schema", "manifset")
    assert (answer.code, answer.out) == (ExitCode.SPEC, "")
    assert "did you mean manifest?" in answer.err
