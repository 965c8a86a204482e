"""JSON Schemas (draft 2020-12) from the models: one of a pipeline file, and the files of `schemas/`."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from curate.errors import SpecError
from curate.pipeline.spec import PipelineHead, StageConfig

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SUFFIX = ".schema.json"
_VARIABLE = {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}"}
_PLACEHOLDER = "variable"

Schema = dict[str, Any]


def pipeline_schema(registry: Mapping[str, type[StageConfig]]) -> Schema:
    """Return the JSON Schema of a pipeline file with these stages (kind -> Config).

    A stage is a mapping of one key, or only its name when it has no required options. Where an option is not free text,
    `${NAME}` is accepted too, because variables are replaced before the file is checked.
    """
    definitions: Schema = {}
    head = _model(PipelineHead, definitions)
    forms: list[Schema] = []
    bare = [kind for kind, config in registry.items() if not _required(config)]
    if bare:
        forms.append({"enum": bare})
    for kind, config in registry.items():
        options = _model(config, definitions)
        options.setdefault("title", kind)
        definitions[f"stage.{kind}"] = options
        reference: Schema = {"$ref": f"#/$defs/stage.{kind}"}
        forms.append(
            {
                "type": "object",
                "description": options.get("description", f"Options of the stage {kind}."),
                "properties": {kind: reference if _required(config) else {"anyOf": [reference, {"type": "null"}]}},
                "required": [kind],
                "additionalProperties": False,
            }
        )
    head["properties"]["stages"] = {
        "type": "array",
        "minItems": 1,
        "items": {"oneOf": forms},
        "description": "The stages, in the order in which they run.",
    }
    sources = [kind for kind, config in registry.items() if config.makes_samples]
    head["required"] = [*head.get("required", []), *([] if sources else ["input"]), "stages"]
    if sources:
        head |= _with_or_without_input(sources, bare)
    for schema in [head, *definitions.values()]:
        _allow_variables(schema)
    definitions[_PLACEHOLDER] = {**_VARIABLE, "description": "The variable NAME of the environment, or a default."}
    return {"$schema": DIALECT, "title": "curate pipeline", **_without(head, "title"), "$defs": definitions}


def json_schema(model: Schema | type[BaseModel]) -> Schema:
    """Return the schema of a model, or a copy of a schema given as a dict, with `$schema` first and without `$id`."""
    schema = copy.deepcopy(model) if isinstance(model, dict) else model.model_json_schema(mode="serialization")
    return {"$schema": DIALECT, **_without(schema, "$schema", "$id")}


def write_schemas(folder: str | Path, models: Mapping[str, Schema | type[BaseModel]]) -> list[Path]:
    """Write `<folder>/<name>.schema.json` for each model and return the paths. The same models give the same bytes.

    Raises SpecError when a schema does not say which version of its format it describes (a property `version` that is
    a constant), since a reader could then not tell that a file is newer than itself.
    """
    written = []
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, text in _texts(models).items():
        path = Path(folder) / name
        path.write_text(text, encoding="utf-8", newline="\n")
        written.append(path)
    return written


def check_schemas(folder: str | Path, models: Mapping[str, Schema | type[BaseModel]]) -> list[str]:
    """Return a sentence for each schema file that is missing, differs from its model, or belongs to no model."""
    texts = _texts(models)
    found = []
    for name, text in texts.items():
        path = Path(folder) / name
        if not path.is_file():
            found.append(f"{path} is missing; run make schemas")
        elif path.read_bytes() != text.encode("utf-8"):
            found.append(f"{path} differs from its model; run make schemas and commit the result")
    for path in sorted(Path(folder).glob(f"*{SUFFIX}")):
        if path.name not in texts:
            found.append(f"{path} belongs to no model; remove it")
    return found


def _texts(models: Mapping[str, Schema | type[BaseModel]]) -> dict[str, str]:
    texts = {}
    for name in sorted(models):
        schema = json_schema(models[name])
        properties = schema.get("properties", {})
        if not any("const" in properties.get(version, {}) for version in ("version", "schema_version")):
            raise SpecError(f"the schema {name} has no constant version; add schema_version: Literal[1] = 1 to it")
        texts[name + SUFFIX] = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
    return texts


def _model(model: type[BaseModel], definitions: Schema) -> Schema:
    schema = model.model_json_schema(mode="validation")
    for name, definition in schema.pop("$defs", {}).items():
        if definitions.setdefault(name, definition) != definition:
            raise SpecError(f"two models in the options of stages are called {name}; rename one of them")
    return schema


def _with_or_without_input(sources: list[str], bare: list[str]) -> Schema:
    """An input is required, but there is none where the first stage makes its samples."""
    made: list[Schema] = [{"type": "object", "required": [kind]} for kind in sources]
    if names := [kind for kind in sources if kind in bare]:
        made.append({"enum": names})
    return {
        "if": {"properties": {"stages": {"prefixItems": [{"anyOf": made}]}}, "required": ["stages"]},
        "then": {"properties": {"input": {"type": "null"}}},
        "else": {"required": ["input"]},
    }


def _required(config: type[StageConfig]) -> bool:
    return any(field.is_required() for field in config.model_fields.values())


def _without(schema: Schema, *names: str) -> Schema:
    return {name: value for name, value in schema.items() if name not in names}


def _allow_variables(schema: Schema) -> None:
    for name, option in schema.get("properties", {}).items():
        if name in ("version", "stages") or "$ref" in option or _is_free_text(option):
            continue
        kept = {key: option[key] for key in ("title", "description", "default") if key in option}
        rest = _without(option, *kept)
        branches = rest["anyOf"] if set(rest) == {"anyOf"} else [rest]
        schema["properties"][name] = {**kept, "anyOf": [*branches, {"$ref": f"#/$defs/{_PLACEHOLDER}"}]}


def _is_free_text(option: Schema) -> bool:
    branches = option.get("anyOf", [option])
    return any(branch.get("type") == "string" and not {"pattern", "enum", "const"} & set(branch) for branch in branches)
