"""The documentation against the code: links, options with defaults, columns, reasons, exit codes, commands, fields."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

from curate.cli.main import app
from curate.engine.events import Event
from curate.errors import ExitCode
from curate.formats.samples import INDEX_SCHEMA, STATUSES, IndexOptions
from curate.fractal.specification import Contours, Gates, Ifs, Jitter, Scene, Sinusoids
from curate.pipeline.runfile import RunFile, StepRecord
from curate.pipeline.spec import InputSpec, PipelineHead
from curate.stages import STAGES
from curate.stages.base import Context
from curate.stages.caption import CaptionConfig
from curate.stages.columns import ColumnsConfig
from curate.stages.dedup_hash import HashPairsStage
from curate.stages.embed import EmbedConfig
from curate.stages.exact import ExactStage
from curate.stages.heads import HeadsConfig
from curate.stages.hierarchy import HierarchyConfig
from curate.stages.match_embeddings import MatchStage
from curate.stages.prune import PruneConfig
from curate.stages.read_embeddings import ReadEmbeddingsConfig
from curate.stages.similarity import SimilarityConfig, SimilarityStage
from curate.stages.uids import UidsStage
from curate.store.columns import PartEntry, PartMeta, VectorFile
from curate.store.groups import Group
from curate.store.manifest import Manifest, ShardStats

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
WORDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true` or `false`", "null": ""}
BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    """The text below a heading of the second level."""
    found = re.search(rf"^## `?{re.escape(title)}`?\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"no heading ## {title}"
    return found[1]


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


# --- links ------------------------------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", without_code(path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def broken_links(path: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(path.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists():
            yield f"{target}: no such file"
        elif anchor and anchor not in anchors(file):
            yield f"{target}: no such heading"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    assert list(broken_links(path)) == []


def test_every_page_is_reachable_from_the_readme() -> None:
    seen, todo = set(), [ROOT / "README.md"]
    while todo:
        path = todo.pop()
        if path in seen or not path.exists():  # a link to nowhere is the other test's
            continue
        seen.add(path)
        for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", path.read_text(encoding="utf-8")):
            file = (path.parent / target).resolve()
            todo += sorted(file.glob("*.md")) if file.is_dir() else [file] if file.suffix == ".md" else []
    assert [str(path.relative_to(ROOT)) for path in PAGES if path not in seen] == []


# --- options ----------------------------------------------------------------------------------------------------------


def values(schema: dict[str, Any]) -> str:
    """What may be given for an option, in words."""
    if "$ref" in schema:
        return "mapping of options"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(said for one in schema["anyOf"] if (said := values(one))))
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")])).replace("|", "\\|")
    if "prefixItems" in schema:
        return f"two values, each {values(schema['prefixItems'][0])}"
    if schema.get("type") == "array":
        return f"list of {values(schema['items'])}s".replace("mapping of optionss", "mappings of options")
    if schema.get("type") == "object":
        return f"mapping of names to {values(next(iter(schema['patternProperties'].values())))}"
    bounds = [f"{sign} {schema[key]:g}" for key, sign in BOUNDS.items() if schema.get(key, 1e18) < 1e15]
    return " ".join([WORDS[schema["type"]], *([", ".join(bounds)] if bounds else [])])


def rows_of(config: type[BaseModel]) -> Iterator[str]:
    """The rows of the table of options, one an option."""
    schema = config.model_json_schema()
    for name, option in schema["properties"].items():
        if "$ref" in option:
            continue
        default = option.get("default")
        if isinstance(default, bool):
            default = str(default).lower()
        said = "required" if name in schema.get("required", ()) else "none" if default in (None, {}) else f"`{default}`"
        yield f"| `{name}` | {values(option)} | {said} | {option.get('description', '')} |"


@pytest.mark.parametrize("kind", sorted(STAGES))
def test_every_option_of_every_stage_is_documented(kind: str) -> None:
    told = section(page("stages.md"), kind).splitlines()
    assert [row for row in rows_of(STAGES[kind].Config) if row not in told] == []


@pytest.mark.parametrize("model", [Ifs, Gates, Jitter, Contours, Sinusoids, Scene], ids=lambda model: model.__name__)
def test_every_option_of_a_fractal_is_documented(model: type[BaseModel]) -> None:
    told = page("fractal.md").splitlines()
    assert [row for row in rows_of(model) if row not in told] == []


@pytest.mark.parametrize(("title", "model"), [("Top level", PipelineHead), ("input", InputSpec)])
def test_every_option_of_the_pipeline_file_is_documented(title: str, model: type[BaseModel]) -> None:
    told = section(page("formats/pipeline-file.md"), title).splitlines()
    assert [row for row in rows_of(model) if row not in told] == []


# --- columns ----------------------------------------------------------------------------------------------------------


def columns_of(kind: str) -> set[str]:
    """Columns that a stage of the file adds, with those of its companions."""
    names: set[str] = set()
    full: dict[str, Any] = {
        "embed": EmbedConfig(model="any", text=True),
        "read_embeddings": ReadEmbeddingsConfig(text=True),
        "hierarchy": HierarchyConfig(levels=[2]),
        "prune": PruneConfig(keep=1, repeats=2, nested=(0.1,)),
        "dedup": SimilarityConfig(epsilon_max=0.1, rule="components", probes=1, audit=1),
    }
    full["caption"] = CaptionConfig(language=True)
    full |= {"columns": ColumnsConfig.model_construct(add={}), "heads": HeadsConfig.model_construct(columns=[])}
    config: Any = full.get(kind)
    dedup = [ExactStage, SimilarityStage]
    companions = {"index": [UidsStage], "dedup": dedup, "read_embeddings": [MatchStage]}.get(kind, [])
    companions = [ExactStage, HashPairsStage] if kind == "dedup_hash" else companions
    for stage in [STAGES[kind], *companions]:
        made = stage.__new__(stage)
        made.config = config
        made.context = Context("docs", 0, IndexOptions("docs"))
        names |= set(made.columns())
    return names


@pytest.mark.parametrize("kind", sorted(set(STAGES) - {"index"}))
def test_every_column_of_a_stage_is_documented(kind: str) -> None:
    told = section(page("stages.md"), kind)
    assert [name for name in sorted(columns_of(kind)) if f"`{name}`" not in told] == []


def test_every_column_of_the_index_is_documented() -> None:
    table = [line for line in page("formats/index.md").splitlines() if line.startswith("| `")]
    told = " ".join(line.split("|")[1] for line in table)
    assert [name for name in INDEX_SCHEMA if f"`{name}`" not in told] == []
    uids = section(page("stages.md"), "index")
    assert [name for name in columns_of("index") - set(INDEX_SCHEMA) if f"`{name}`" not in uids] == []


def test_bookkeeping_columns_are_documented() -> None:
    told = page("stages.md")
    assert all(f"| `{name}` |" in told for name in ("keep", "reason", "alive"))


# --- statuses, reasons, exit codes ------------------------------------------------------------------------------------


def reasons_in_the_code() -> set[str]:
    """Words that the stages write as a reason: literals of reason expressions, and statuses of rows that failed."""
    found: set[str] = set()
    for path in (ROOT / "curate" / "stages").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        for expression in re.findall(r"reason=((?:[^()]|\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\))*)", text):
            found |= set(re.findall(r'pl\.lit\("([a-z_]+)"\)', expression))
        found |= set(re.findall(r'\.fail\(row, "([a-z_]+)"', text))
    return found


def test_every_status_and_reason_is_documented() -> None:
    code = reasons_in_the_code()
    assert {"not_sampled", "over_quota", "no_concept", "semantic_duplicate", "same_bytes", "duplicate_uid"} <= code
    assert {"decode_error", "bad_embedding", "false"} <= code
    told = set(re.findall(r"^\| `([a-z_]+)` \|", page("reasons.md"), re.MULTILINE))
    assert told == (code | set(STATUSES)) - {"ok"}
    assert "`ok`" in page("reasons.md")


def test_every_status_is_in_the_page_of_the_index_in_order() -> None:
    told = re.findall(r"^\| `([a-z_]+)` \|", section(page("formats/index.md"), "status"), re.MULTILINE)
    assert tuple(told) == STATUSES


def test_every_exit_code_is_documented() -> None:
    told = re.findall(r"^\| (\d+) \| `([A-Z]+)` \|", page("exit-codes.md"), re.MULTILINE)
    assert told == [(str(int(code)), code.name) for code in ExitCode]


# --- fields of files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "models"),
    [
        ("formats/run-file.md", (RunFile, StepRecord)),
        ("formats/column-group.md", (PartMeta, PartEntry, VectorFile, Group)),
        ("formats/release.md", (Manifest, ShardStats)),
        ("formats/events.md", (Event,)),
    ],
)
def test_every_field_of_a_file_is_documented(name: str, models: tuple[type[BaseModel], ...]) -> None:
    told = page(name)
    fields = [field for model in models for field in model.model_fields]
    assert [field for field in fields if f"`{field}`" not in told] == []


def test_every_event_is_documented() -> None:
    kinds = Event.model_json_schema()["properties"]["event"]["enum"]
    told = re.findall(r"^\| `([a-z]+)` \|", page("formats/events.md"), re.MULTILINE)
    assert told == kinds


# --- commands ---------------------------------------------------------------------------------------------------------


def test_every_command_has_a_page_and_every_page_a_command() -> None:
    assert {path.stem for path in (DOCS / "commands").glob("*.md")} == set(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_of_a_command_is_documented(name: str) -> None:
    told = page(f"commands/{name}.md")
    for parameter in parameters_of(name):
        spelled = (
            [*parameter.opts, *parameter.secondary_opts] if parameter.opts[0].startswith("-") else [parameter.name]
        )
        for option in spelled:
            if option not in ("-h", "--help"):
                said = re.search(rf"`{re.escape(option)}[` ]", told) or f"`{option.upper()}`" in told
                assert said, f"{option} is not in docs/commands/{name}.md"


def parameters_of(command: str) -> list[Any]:
    """Of the command and of those below it, such as `curate fractal render`."""
    below = getattr(COMMANDS[command], "commands", {}).values()
    return [parameter for one in (COMMANDS[command], *below) for parameter in one.params]


def options_of(command: str) -> set[str]:
    return {option for p in parameters_of(command) for option in [*p.opts, *p.secondary_opts]} | {"-h", "--help"}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_that_are_shown_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    shown = re.findall(r"^(?:\$ |#? +)?(?:[A-Z_]+=\S+ )*curate ([a-z-]+)(.*)$", "\n".join(code_of(text)), re.MULTILINE)
    shown += [(name, rest) for name, rest in re.findall(r"`curate ([a-z]+)([^`\n]*)`", without_code(text))]
    for name, rest in shown:
        assert name in COMMANDS, f"curate {name}"
        rest = rest.partition(" #")[0]
        for option in re.findall(r"(?<=\s)--?[a-z][a-z-]*", rest):
            assert option in options_of(name), f"curate {name} {option}"


def code_of(text: str, language: str = r"\w*") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


# --- code and pipelines -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_snippets_compile_and_import_what_exists(path: Path) -> None:
    for code in code_of(path.read_text(encoding="utf-8"), "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("curate"):
                module = __import__(str(node.module), fromlist=[alias.name for alias in node.names])
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_pipelines_open_with_purpose_command_and_expectation(path: Path) -> None:
    head = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        head.append(line)
    words = [match[1] for line in head if (match := re.match(r"# (Purpose|Command|Expected)  +\S", line))]
    assert words == ["Purpose", "Command", "Expected"]
    assert any(f"pipelines/{path.name}" in line or "make " in line for line in head)


def test_shown_pipelines_are_valid() -> None:
    """Every pipeline that a page shows whole is accepted by the loader."""
    from curate.pipeline.load import load

    registry = {kind: stage.Config for kind, stage in STAGES.items()}
    shown = [code for path in PAGES for code in code_of(path.read_text(encoding="utf-8"), "yaml")]
    whole = [code for code in shown if "stages:" in code and "workspace:" in code]
    assert len(whole) >= 2
    for code in whole:
        assert load(code, registry=registry).spec.stages[0].kind in ("index", "fractal")
