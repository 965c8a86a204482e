from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import corpus
import pytest

from curate.errors import CurateError, InputError, SpecError
from curate.pipeline.api import prepare
from curate.pipeline.plan import Plan, resolve_references
from curate.stages.dedup import DedupConfig

STAGES: list[Any] = [
    "index",
    {"filter": {"where": "width >= 10"}},
    {"embed": {}},
    {"cluster": {"concepts": 2}},
    {"dedup": {"epsilon": 0.05}},
    {"prune": {"keep": 0.5}},
    {"release": {"samples_per_shard": 5}},
]
COMPARED = ["cluster", "dedup-exact", "dedup-similarity", "dedup"]
NAMES = ["index", "uids", "filter", "embed", *COMPARED, "prune", "release"]


@pytest.fixture
def full(tiny: dict[str, Any], tiny_clip: dict[str, Any]) -> dict[str, Any]:
    """Every kind of stage."""
    return tiny | {"stages": [{"embed": tiny_clip} if s == {"embed": {}} else s for s in STAGES]}


def plan(spec: dict[str, Any], **options: Any) -> Plan:
    return prepare(spec, **options)[1]


def prints(made: Plan) -> dict[str, tuple[str, str, list[str]]]:
    return {step.name: (step.folder, step.whole, step.parts) for step in made.steps}


def changed(one: Plan, other: Plan) -> list[str]:
    """Steps whose stored work would not be reused."""
    a, b = prints(one), prints(other)
    return [name for name in b if a.get(name) != b[name]]


def with_option(spec: dict[str, Any], kind: str, **options: Any) -> dict[str, Any]:
    stages = []
    for entry in spec["stages"]:
        name, given = (entry, {}) if isinstance(entry, str) else next(iter(entry.items()))
        stages.append({name: {**given, **options}} if name == kind else entry)
    return spec | {"stages": stages}


def test_the_steps_are_the_stages_and_their_companions(full: dict[str, Any]) -> None:
    made = plan(full)
    assert [step.name for step in made.steps] == NAMES
    assert len(made.sources) == 3
    assert all(len(step.parts) == 3 for step in made.steps)
    assert changed(made, plan(full)) == []
    assert made.fingerprint == plan(full).fingerprint


@pytest.mark.parametrize(
    ("kind", "options", "first"),
    [
        ("filter", {"where": "width >= 11"}, "filter"),
        ("embed", {"precision": "bf16"}, "embed"),
        ("cluster", {"concepts": 3}, "cluster"),
        ("dedup", {"epsilon": 0.06}, "dedup-similarity"),
        ("dedup", {"rule": "greedy"}, "dedup-similarity"),
        ("prune", {"temperature": 0.2}, "prune"),
        ("release", {"samples_per_shard": 6}, "release"),
    ],
)
def test_an_option_changes_its_step_and_those_that_follow(
    kind: str, options: dict[str, Any], first: str, full: dict[str, Any]
) -> None:
    """dedup-exact reads the index and what is alive: a new clustering alone does not touch it."""
    expected = NAMES[NAMES.index(first) :]
    if first == "cluster":
        expected.remove("dedup-exact")
    assert changed(plan(full), plan(with_option(full, kind, **options))) == expected


@pytest.mark.parametrize("options", [{"batch_size": 8}, {"threads": 2}, {"decode_threads": 3}])
def test_what_changes_speed_only_changes_nothing(options: dict[str, Any], full: dict[str, Any]) -> None:
    assert changed(plan(full), plan(with_option(full, "embed", **options))) == []


def test_a_name_is_not_part_of_what_a_step_computes(tiny: dict[str, Any]) -> None:
    one = plan(tiny | {"stages": ["index", {"filter": {"where": "width > 1"}}]})
    other = plan(tiny | {"stages": ["index", {"filter": {"where": "width > 1", "name": "wide"}}]})
    assert one.step("filter").parts == other.step("wide").parts
    assert other.step("wide").folder.startswith("wide@")


def test_weights_count_by_content_not_by_path(full: dict[str, Any], tiny_clip: dict[str, Any], tmp_path: Path) -> None:
    copy = tmp_path / "moved.pt"
    shutil.copy(tiny_clip["checkpoint"], copy)
    first = plan(full)
    assert changed(first, plan(with_option(full, "embed", checkpoint=str(copy)))) == []
    data = bytearray(copy.read_bytes())
    data[-100] ^= 1
    copy.write_bytes(data)
    assert changed(first, plan(with_option(full, "embed", checkpoint=str(copy)))) == NAMES[3:]


def test_the_seed_counts_where_it_is_drawn_from(full: dict[str, Any]) -> None:
    first, other = plan(full), plan(full | {"seed": 1})
    assert changed(first, other) == [name for name in NAMES[4:] if name != "dedup-exact"]
    drawn = with_option(full, "prune", metric="random")
    assert plan(drawn).step("prune").whole != plan(drawn | {"seed": 1}).step("prune").whole


def test_a_changed_shard_changes_its_part_only_where_rows_stand_alone(full: dict[str, Any], tmp_path: Path) -> None:
    first = plan(full)
    (tmp_path / "shards" / "00001.tar").write_bytes(corpus.tar_bytes(corpus.sample("new", corpus.jpeg(99))))
    other = plan(full)
    same = {s.name: [a == b for a, b in zip(s.parts, other.step(s.name).parts, strict=True)] for s in first.steps}
    assert same["index"] == [True, False, True]
    # of one uid the first stays: a part knows those before it, and so do steps that see what is alive
    assert all(same[name] == [True, False, False] for name in ("uids", "filter", "embed", "dedup-exact"))
    assert all(same[name] == [False] * 3 for name in ("cluster", "dedup-similarity", "dedup", "prune", "release"))
    assert [s.folder for s in first.steps] == [s.folder for s in other.steps]


def test_where_the_input_lies_does_not_matter_but_its_folder_name_is_in_uids(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    first = plan(tiny)
    shutil.copytree(tmp_path / "shards", tmp_path / "elsewhere" / "shards", copy_function=shutil.copy2)
    moved = tiny | {"input": {**tiny["input"], "shards": f"{tmp_path}/elsewhere/shards/*.tar"}}
    assert changed(first, plan(moved)) == []
    (tmp_path / "elsewhere" / "shards").rename(tmp_path / "elsewhere" / "other")
    renamed = tiny | {"input": {**tiny["input"], "shards": f"{tmp_path}/elsewhere/other/*.tar"}}
    assert changed(first, plan(renamed)) == ["index", "uids"]
    named = {**tiny["input"], "name": "mine"}
    assert (
        changed(
            plan(tiny | {"input": named}), plan(renamed | {"input": named | {"shards": renamed["input"]["shards"]}})
        )
        == []
    )


def test_pilots(full: dict[str, Any]) -> None:
    made = plan(full, limit_shards=2, sample=0.5)
    assert (len(made.sources), made.total_shards) == (2, 3)
    assert [step.name for step in made.steps] == [*NAMES[:2], "sample", *NAMES[2:]]
    assert made.step("sample").stage.config.fraction == 0.5
    assert plan(full, limit_shards=2).step("index").parts == plan(full).step("index").parts[:2]
    for name in ("uids", "filter", "embed", "dedup-exact"):
        assert plan(full, limit_shards=2).step(name).parts == plan(full).step(name).parts[:2]
    assert plan(full, limit_shards=2).step("uids").whole != plan(full).step("uids").whole  # its tables hold fewer uids
    assert plan(full, limit_shards=2).step("prune").parts != plan(full).step("prune").parts[:2]


def test_a_reference_left_out_is_the_nearest_before(full: dict[str, Any], tiny_clip: dict[str, Any]) -> None:
    stages = [
        "index",
        {"embed": tiny_clip | {"name": "first"}},
        {"cluster": {"concepts": 2, "name": "coarse"}},
        {"embed": tiny_clip | {"name": "second", "precision": "bf16"}},
        {"cluster": {"concepts": 3, "name": "fine", "embedding": "first"}},
        {"dedup": {"within": "coarse"}},
        {"prune": {"keep": 0.5}},
    ]
    made = plan(full | {"stages": stages})
    references = {step.name: dict(step.stage.context.references) for step in made.steps}
    assert references["coarse"] == {"embedding": "first"}
    assert references["fine"] == {"embedding": "first"}
    # `embedding` of a dedup follows what `within` clustered, not the nearest embed stage
    assert references["dedup"] == {"within": "coarse", "embedding": "first"}
    assert references["prune"] == {"within": "fine", "tree": None}
    assert resolve_references(made.steps, "d", DedupConfig(name=None, embedding="second")) == {
        "within": "fine", "embedding": "second",
    }  # fmt: skip


def test_naming_what_is_meant_anyway_changes_nothing_of_the_plan(full: dict[str, Any]) -> None:
    explicit = with_option(full, "prune", within="cluster")
    assert changed(plan(full), plan(explicit)) == []


def test_a_reference_to_nothing_is_a_sentence(full: dict[str, Any]) -> None:
    with pytest.raises(
        SpecError, match="stage p needs an earlier cluster stage for its option within; add one before it"
    ):
        resolve_references([], "p", DedupConfig(name=None, epsilon=0.1))
    with pytest.raises(SpecError, match="clustre"):
        plan(with_option(full, "prune", within="clustre"))


@pytest.mark.parametrize(
    "stages",
    [
        ["index", {"filter": {"where": "width > 1", "name": "uids"}}],
        ["index", {"filter": {"where": "width > 1", "name": "a"}}, {"filter": {"where": "width > 2", "name": "a"}}],
    ],
)
def test_two_steps_of_one_name_are_refused(stages: list[Any], tiny: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"(?i)(two|already|twice)"):
        plan(tiny | {"stages": stages})


def test_a_second_filter_gets_a_name_of_its_own(tiny: dict[str, Any]) -> None:
    stages = ["index", {"filter": {"where": "width > 1"}}, {"filter": {"where": "width > 2"}}]
    assert [s.name for s in plan(tiny | {"stages": stages}).steps] == ["index", "uids", "filter", "filter_2"]


def test_a_step_that_is_not_there_names_those_that_are(tiny: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="no step named prune; this pipeline has index, uids"):
        plan(tiny).step("prune")


def test_missing_input_is_found(tiny: dict[str, Any], tmp_path: Path) -> None:
    gone = tiny | {"input": {**tiny["input"], "shards": f"{tmp_path}/none/*.tar"}}
    with pytest.raises(InputError, match="none"):
        plan(gone)


def test_planning_writes_nothing_and_reads_no_sample(full: dict[str, Any], tmp_path: Path) -> None:
    for path in (tmp_path / "shards").glob("*.tar"):
        path.write_bytes(b"not a tar at all" * 1000)
    assert len(plan(full).steps) == len(NAMES)
    assert not Path(full["workspace"]).exists()


def test_a_part_sees_the_steps_before_it(full: dict[str, Any]) -> None:
    made = plan(full)
    assert [layer.step for layer in made.part(1, "cluster").layers] == NAMES[:4]
    assert [layer.step for layer in made.part(1, "release").layers] == NAMES[:-1]
    layers = {layer.step: layer for layer in made.part(2, "release").layers}
    assert layers["cluster"].artifacts == made.step("cluster").whole
    assert layers["embed"].artifacts is None
    assert layers["filter"].fingerprint == made.step("filter").parts[2]
    assert made.nbytes == sum(source.nbytes for source in made.sources)


def test_every_wrong_stage_is_told_at_once(tiny: dict[str, Any]) -> None:
    stages = ["index", {"filter": {"where": "wdith > 1"}}, {"embed": {"model": "ViT-B-33"}}]
    with pytest.raises(CurateError, match=r"(?s)wdith.*ViT-B-33"):
        plan(tiny | {"stages": stages})
