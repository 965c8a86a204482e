"""Pipeline files, good and bad: every mistake is reported at once, with its place, in plain words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, field_validator

from curate.errors import ExitCode, SpecError
from curate.pipeline.load import Loaded, Problem, SpecProblems, load
from curate.stages.config import Reference, StageConfig


class FilterConfig(StageConfig):
    where: str

    @field_validator("where")
    @classmethod
    def _has_no_semicolon(cls, text: str) -> str:
        if ";" in text:
            raise ValueError("must not hold a semicolon")
        return text


class EmbedConfig(StageConfig):
    model: str
    pretrained: str | None = None
    precision: Literal["fp32", "bf16", "auto"] = "auto"
    text: bool = False
    sizes: tuple[int, ...] = ()


class ClusterConfig(StageConfig):
    concepts: int = Field(ge=1)
    embedding: Annotated[str | None, Reference({"embed"})] = None


class PruneConfig(StageConfig):
    within: Annotated[str | None, Reference({"cluster"})] = None
    embedding: Annotated[str | None, Reference({"embed"}, follow="within")] = None
    metric: Literal["dbp", "ssp", "random"] = "dbp"
    keep: float = Field(gt=0, le=1)
    temperature: float = Field(0.1, gt=0)
    batch: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"


REGISTRY: dict[str, type[StageConfig]] = {
    "index": StageConfig,
    "filter": FilterConfig,
    "embed": EmbedConfig,
    "cluster": ClusterConfig,
    "prune": PruneConfig,
}

GOOD = """\
# A comment
name: laion-dbp
input: {shards: "s3://bucket/laion/{00000..41455}.tar", image: "jpg;jpeg;png;webp", caption: txt}
workspace: ${ROOT:-runs}/laion
stages:
  - index
  - filter: {where: "width >= 200"}
  - embed: {model: ViT-B-16, pretrained: openai, precision: bf16, text: true, sizes: [1, 2]}
  - filter: {where: "clip_score >= 0.28"}
  - cluster: {name: fine, concepts: 50_000}
  - cluster: {name: concepts, concepts: 500}
  - prune: {within: fine, keep: 0.4, temperature: 1e-1}
"""


def read(text: str = GOOD, *overrides: str, **env: str) -> Loaded:
    return load(text, registry=REGISTRY, overrides=overrides, env=env, source_name="p.yaml")


def problems(text: str, *overrides: str, **env: str) -> list[str]:
    with pytest.raises(SpecProblems) as caught:
        read(text, *overrides, **env)
    assert caught.value.exit_code == ExitCode.SPEC
    assert isinstance(caught.value, SpecError)
    *lines, count = str(caught.value).splitlines()
    number = len(caught.value.problems)
    assert len(lines) == number
    assert count == f"{number} problem{'s' if number > 1 else ''} found; nothing was run."
    assert "pydantic" not in str(caught.value)
    assert "https://errors" not in str(caught.value)
    assert "Input should" not in str(caught.value)
    return lines


def replaced(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def test_a_good_file() -> None:
    loaded = read()
    spec = loaded.spec
    assert [(entry.kind, entry.name, entry.line) for entry in spec.stages] == [
        ("index", "index", 6),
        ("filter", "filter", 7),
        ("embed", "embed", 8),
        ("filter", "filter_2", 9),
        ("cluster", "fine", 10),
        ("cluster", "concepts", 11),
        ("prune", "prune", 12),
    ]
    assert spec.workspace == "runs/laion"
    assert spec.stage("fine").config == ClusterConfig(name="fine", concepts=50_000)
    assert spec.stage("prune").config == PruneConfig(within="fine", keep=0.4, temperature=0.1)
    assert spec.stage("embed").config == EmbedConfig(
        model="ViT-B-16", pretrained="openai", precision="bf16", text=True, sizes=(1, 2)
    )
    assert loaded.positions[("stages", 6, "prune", "keep")].column == 27
    assert json.loads(json.dumps(loaded.unexpanded))["workspace"] == "${ROOT:-runs}/laion"


def test_the_same_from_a_path_a_url_a_mapping_and_its_own_unexpanded_tree(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(GOOD, encoding="utf-8")
    with fsspec.open("memory://specs/p.yaml", "wb") as file:
        file.write(GOOD.encode())
    first = read(ROOT="r").spec
    for source in (path, str(path), "memory://specs/p.yaml"):
        loaded = load(source, registry=REGISTRY, env={"ROOT": "r"})
        assert loaded.spec == first
        assert loaded.source_name == str(source)
    again = load(read(ROOT="r").unexpanded, registry=REGISTRY, env={"ROOT": "r"}).spec
    assert [(entry.name, entry.config) for entry in again.stages] == [(e.name, e.config) for e in first.stages]
    assert again.stages[0].line is None


def test_a_mapping_may_hold_paths_tuples_and_numpy_numbers() -> None:
    tree = {
        "name": "x",
        "input": {"folder": Path("images")},
        "workspace": Path("w"),
        "seed": np.int64(3),
        "stages": ("index", {"embed": {"model": "m", "sizes": (1, 2)}}, {"cluster": {"concepts": np.int32(4)}}),
    }
    spec = load(tree, registry=REGISTRY, env={}).spec
    assert (spec.seed, spec.input.folder, spec.stage("cluster").config) == (3, "images", ClusterConfig(concepts=4))
    with pytest.raises(SpecProblems, match="<mapping>: seed: a value of type object has no place in a pipeline"):
        load({**tree, "seed": object()}, registry=REGISTRY, env={})


def test_overrides_come_before_variables_and_are_kept_in_the_unexpanded_tree() -> None:
    loaded = read(GOOD, "stages.prune.keep=${K}", "workspace=${W}", K="0.25", W="elsewhere")
    assert loaded.spec.stage("prune").config.keep == 0.25  # type: ignore[attr-defined]
    assert loaded.unexpanded["workspace"] == "${W}"
    assert loaded.unexpanded["stages"][6]["prune"]["keep"] == "${K}"


@pytest.mark.parametrize("written", ["'${K}'", '"${K}"'])
def test_a_quoted_variable_is_typed_where_the_option_takes_no_text(written: str) -> None:
    config = read(replaced("keep: 0.4", f"keep: {written}"), K="0.25").spec.stage("prune").config
    assert config.keep == 0.25  # type: ignore[attr-defined]
    config = read(replaced("model: ViT-B-16", f"model: {written}"), K="0.25").spec.stage("embed").config
    assert config.model == "0.25"  # type: ignore[attr-defined]


def test_an_unquoted_variable_is_text_where_the_option_takes_text() -> None:
    assert read(replaced("workspace: ${ROOT:-runs}/laion", "workspace: ${W}"), W="0042").spec.workspace == "0042"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "temperature: 1e-1",
            "temprature: 0.1",
            "p.yaml:12:38: stages.prune.temprature: unknown option (value 0.1); did you mean temperature?",
        ),
        ("keep: 0.4", "keep: 3", "p.yaml:12:33: stages.prune.keep: must be > 0 and <= 1 (value 3)"),
        ("keep: 0.4", "keep: most", "p.yaml:12:33: stages.prune.keep: must be a number (value most)"),
        ("keep: 0.4", "keep: '0.4'", "stages.prune.keep: must be a number (value 0.4)"),
        ("keep: 0.4", "keep: .nan", "stages.prune.keep: must be a finite number (value NaN)"),
        ("keep: 0.4, ", "", "p.yaml:12:5: stages.prune.keep: this option is required and missing"),
        (
            "keep: 0.4",
            "keep: 0.4, metric: dpb",
            "p.yaml:12:46: stages.prune.metric: must be one of dbp, ssp, random (value dpb); did you mean "
            "dbp?",
        ),
        ("keep: 0.4", "keep: 0.4, batch: 0", "stages.prune.batch: must be >= 1 or auto (value 0)"),
        ("keep: 0.4", "keep: 0.4, batch: atuo", "must be a whole number or auto (value atuo); did you mean auto?"),
        ("text: true", "text: yes", "p.yaml:8:73: stages.embed.text: must be true or false; write true (value yes)"),
        ("text: true", "text: 1", "must be true or false (value 1)"),
        ("[1, 2]", "[1, two]", "p.yaml:8:90: stages.embed.sizes[1]: must be a whole number (value two)"),
        ("[1, 2]", "3", "stages.embed.sizes: must be a list (value 3)"),
        ("50_000", "5e4", "p.yaml:10:37: stages.fine.concepts: must be a whole number; write 50000 (value 50000.0)"),
        ("50_000", "true", "must be a whole number (value true)"),
        (
            "model: ViT-B-16",
            "model: 16",
            'p.yaml:8:20: stages.embed.model: must be text; put it in quotes: "16" (value 16)',
        ),
        ("width >= 200", "a;b", "p.yaml:7:21: stages.filter.where: must not hold a semicolon (value a;b)"),
        (
            "within: fine",
            "within: fien",
            "p.yaml:12:21: stages.prune.within: no cluster stage has this name; the earlier ones are fine, "
            "concepts (value fien); did you mean fine?",
        ),
        (
            "within: fine",
            "within: embed",
            "embed is not a cluster stage; the earlier ones are fine, concepts (value embed)",
        ),
        (
            "concepts: 50_000",
            "concepts: 5, embedding: prune",
            "stages.fine.embedding: a stage can only refer to an earlier one, and prune is not earlier; the "
            "earlier ones are embed (value prune)",
        ),
        (
            "name: concepts, concepts: 500",
            "name: fine, concepts: 500",
            "p.yaml:11:21: stages.cluster.name: two stages are named fine, the other one on line 10; rename "
            "one",
        ),
        (
            "name: concepts, concepts: 500",
            "name: My Ones, concepts: 500",
            "must begin with a small letter and hold only small letters, digits, - and _",
        ),
        ("- index", "- indexx", "p.yaml:6:5: stages.indexx: unknown stage; did you mean index?"),
        ("- index", "- {}", "p.yaml:6:5: stages[0]: must be the name of one stage, or one stage with its options"),
        ("- index", "- index: 3", "p.yaml:6:12: stages.index: must be a mapping of options (value 3)"),
        (
            "- index",
            "- index: {}\n    where: a",
            "stages[0]: must be the name of one stage, or one stage with its options; this item has index, "
            "where: indent options below their stage, begin each stage with -",
        ),
        ("name: laion-dbp\n", "", "p.yaml:2:1: name: this option is required and missing"),
        (
            "name: laion-dbp",
            "nmae: laion-dbp\nname: x",
            "p.yaml:2:1: nmae: unknown option (value laion-dbp); did you mean name?",
        ),
        ("caption: txt", "captoin: txt", "input.captoin: unknown option (value txt); did you mean caption?"),
        ("caption: txt", "folder: x", "p.yaml:3:8: input: give exactly one of shards, folder"),
        ("caption: txt", "shards_per_part: some", "input.shards_per_part: must be a whole number or auto (value some)"),
        ("caption: txt", "caption: [txt]", "input.caption: must be text (value [\"txt\"])"),
        ("${ROOT:-runs}/laion", "s3://me:secret@b", "p.yaml:4:12: workspace: must not hold a user name or password"),
        (
            "${ROOT:-runs}/laion",
            "${ROTO}/laion",
            "p.yaml:4:12: workspace: the environment variable ROTO is not set; set it, or write "
            "${ROTO:-default} (value ${ROTO}/laion); did you mean ROOT?",
        ),
        (
            "name: laion-dbp",
            "version: 2",
            "p.yaml:2:10: version: this file is version 2 and this curate reads version 1; install a newer "
            "one",
        ),
        ("# A comment", "seed: -1", "p.yaml:1:7: seed: must be >= 0 and < 9223372036854775808 (value -1)"),
        ("# A comment", "seed: 1\nseed: 2", "p.yaml:2:1: seed is given twice, first on line 1; remove one of the two"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_line(old: str, new: str, said: str) -> None:
    (line,) = problems(replaced(old, new), ROOT="r")
    assert said in line


def test_all_mistakes_come_at_once_in_the_order_of_the_file() -> None:
    text = """\
name: x
input: {shard: a, folder: b}
workspace: ${GONE}
sede: 3
stages:
  - filter: {were: a}
  - embed: {model: 3, precision: fp31}
  - prune: {keep: 2, metric: 7}
"""
    lines = problems(text, "stages.prune.tempo=1", "stages.embed.text=perhaps")
    assert [line.partition(": ")[2].partition(":")[0] for line in lines] == [
        "input.shard",
        "workspace",
        "sede",
        "stages.filter.where",
        "stages.filter.were",
        "stages.embed.model",
        "stages.embed.precision",
        "stages.prune.within",
        "stages.prune.keep",
        "stages.prune.metric",
        "stages.embed.text",
        "stages.prune.tempo",
    ]
    assert lines[7].endswith("needs an earlier stage of kind cluster; add one before this stage")
    assert lines[10] == "--set: stages.embed.text: must be true or false (value perhaps)"


def test_a_misspelt_stage_is_not_reported_again_by_what_refers_to_it() -> None:
    assert len(problems(replaced("- cluster: {name: fine", "- clutser: {name: fine"))) == 1
    text = "name: x\ninput: {shards: a}\nworkspace: w\nstages:\n  - clutser: {concepts: 3}\n  - prune: {keep: 1}\n"
    assert len(problems(text)) == 1


def test_a_default_reference_is_checked() -> None:
    text = "name: x\ninput: {shards: a}\nworkspace: w\nstages:\n  - cluster: {concepts: 3}\n"
    said = "needs an earlier stage of kind embed; add one before this stage"
    assert problems(text) == [f"p.yaml:5:5: stages.cluster.embedding: {said}"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n", "the pipeline is empty"),
        ("- a\n- b\n", "the pipeline is not a mapping of options"),
        ("name: x\ninput: {shards: a}\nworkspace: w\n", "stages: is required and missing"),
        ("name: x\ninput: {shards: a}\nworkspace: w\nstages: []\n", "stages: must be a list with at least one stage"),
        ("name: x\ninput: {shards: a}\nworkspace: w\nstages: {index: {}}\n", "must be a list with at least one stage"),
        ("name: x\ninput: a\nworkspace: w\nstages: [index]\n", "input: must be a mapping of options (value a)"),
        ("name: x\ninput:\nworkspace: w\nstages: [index]\n", "input: must be a mapping of options"),
    ],
)
def test_files_without_their_main_parts(text: str, said: str) -> None:
    (line,) = problems(text)
    assert said in line


def test_unreadable_sources_are_sentences(tmp_path: Path) -> None:
    for source in (tmp_path / "gone.yaml", tmp_path, "memory://gone.yaml", "nosuch://a/b.yaml"):
        with pytest.raises(SpecProblems) as caught:
            load(source, registry=REGISTRY, env={})
        assert str(caught.value).startswith(f"{source}: ")


def test_values_of_variables_and_passwords_are_never_shown() -> None:
    for text, env in (
        (replaced("${ROOT:-runs}/laion", "${W}"), {"W": "s3://me:hunter2@b"}),
        (replaced("keep: 0.4", 'keep: "${W}"'), {"W": "hunter2"}),
        (replaced("precision: bf16", 'precision: "${W}"'), {"W": "hunter2"}),
        (replaced("${ROOT:-runs}/laion", "s3://me:hunter2@b"), {}),
    ):
        assert "hunter2" not in "\n".join(problems(text, **env))


def test_messages_are_one_line_without_control_characters() -> None:
    (line,) = problems(replaced("precision: bf16", r'precision: "\e[31m\nx"'))
    assert line.isprintable()
    (line,) = problems(replaced("precision: bf16", r'"pre\e[31m": 1'))
    assert line.isprintable()


trees = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["${A}", "index", "auto"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["name", "input", "shards", "workspace", "stages", "prune", "keep", "within", "batch", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(
    tree=st.fixed_dictionaries(
        {}, optional={"name": trees, "input": trees, "stages": trees | st.lists(trees), "x": trees}
    )
)
def test_any_tree_is_loaded_or_refused_in_sentences(tree: dict[str, Any]) -> None:
    try:
        load(tree, registry=REGISTRY, env={"A": "1"})
        found: tuple[Problem, ...] = ()
    except SpecProblems as error:
        found = error.problems
    assert all(str(problem).isprintable() for problem in found)
