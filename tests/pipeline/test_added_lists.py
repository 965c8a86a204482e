"""A takedown: a run, then a list of uids; nothing but the release is made again."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from small_run import SmallRun, copy_of, small_run

import curate
from curate.errors import InputError, SpecError
from curate.pipeline.added_lists import with_lists
from curate.pipeline.api import prepare
from curate.pipeline.explain import explain
from curate.pipeline.load import load
from curate.pipeline.problems import SpecProblems
from curate.pipeline.summary import summarise, summary_lines
from curate.pipeline.verify import verify_release
from curate.stages import registry
from curate.store.workspace import Workspace


@pytest.fixture(scope="module")
def small() -> SmallRun:
    return small_run()


def keys_in_tars(release: Path) -> set[str]:
    names: set[str] = set()
    for path in release.glob("*.tar"):
        with tarfile.open(path) as tar:
            names |= {name.partition(".")[0] for name in tar.getnames()}
    return names


def state(run: curate.Run) -> dict[str, tuple[int, int]]:
    return {step.name: (step.reused_parts, step.parts) for step in run.record.steps}


def test_a_takedown_rebuilds_the_release_and_nothing_else(small: SmallRun, tmp_path: Path) -> None:
    workspace, _ = copy_of(small, tmp_path / "work")
    spec = small.spec | {"workspace": workspace.url}
    before = pl.read_parquet(small.release / "samples.parquet")
    gone = before["uid"].to_list()[:2]
    dropped = pl.read_parquet(small.release / "dropped.parquet").filter(pl.col("stage") == "prune")["uid"][0]
    stranger = "0" * 32
    deny = tmp_path / "optout.txt"
    deny.write_text("# asked on Monday\n" + "\n".join([gone[0].upper(), gone[1], dropped, stranger]))

    run = curate.run(spec, workers=0, deny=[str(deny)])
    done = state(run)
    assert list(done)[-2:] == ["lists", "release"]
    assert done.pop("lists") == (0, 3)
    assert done.pop("release")[0] == 0
    assert all(reused == parts for reused, parts in done.values()), done
    release = Path(str(run.release))
    assert release.name != small.release.name
    assert keys_in_tars(release) == set(before["uid"]) - set(gone)
    table = pl.read_parquet(release / "dropped.parquet")
    assert sorted(table.filter(pl.col("stage") == "lists").select("uid", "reason").rows()) == sorted(
        (uid, "denied") for uid in gone
    )
    assert json.loads((release / "manifest.json").read_text())["dropped"]["lists"] == {"denied": 2}
    assert verify_release(Workspace(str(release))).violations == []

    # a typo in a takedown list must be seen
    summary = summarise(run)
    (told,) = summary["lists"]
    assert (told["entries"], told["unmatched"], told["first_unmatched"]) == (4, 1, [stranger])
    assert f"deny list {deny}: 4 listed, 1 not among the samples ({stranger})" in list(summary_lines(summary))

    (story,) = explain(run, uid=gone[0])
    assert not story.alive
    assert (story.steps[-1].verdict, story.steps[-1].reason) == ("dropped", "denied")
    assert story.steps[-1].evidence == {"column": "uid", "allow": None, "deny": [str(deny)]}

    # the same list under another name is the same state, another list is not
    deny.rename(tmp_path / "moved.txt")
    again = curate.run(spec, workers=0, deny=[str(tmp_path / "moved.txt")])
    assert all(reused == parts for reused, parts in state(again).values())
    assert again.release == run.release
    # without the list the first release is back
    assert curate.run(spec, workers=0).release == str(tmp_path / "work" / small.release.name)


def test_only_what_is_allowed(small: SmallRun, tmp_path: Path) -> None:
    workspace, _ = copy_of(small, tmp_path / "work")
    spec = small.spec | {"workspace": workspace.url}
    kept = pl.read_parquet(small.release / "samples.parquet")["uid"].to_list()[3:8]
    (tmp_path / "allow.txt").write_text("\n".join(kept))
    (tmp_path / "deny.txt").write_text(kept[0])
    run = curate.run(spec, workers=0, allow=[f"{tmp_path}/allow.txt"], deny=[f"{tmp_path}/deny.txt"])
    assert keys_in_tars(Path(str(run.release))) == set(kept[1:])
    reasons = run.record.step("lists").reasons
    assert reasons == {"denied": 1, "not_allowed": small.run.record.alive - 5}
    uid = small.uid_of("torn")
    assert explain(run, uid=uid)[0].steps[-1].verdict == "not judged"
    # the pipeline is kept with its list, so that what reads it later sees it
    stages = run.record.spec["stages"]
    assert stages[-2] == {
        "lists": {"name": "lists", "allow": [f"{tmp_path}/allow.txt"], "deny": [f"{tmp_path}/deny.txt"]}
    }


def test_before_dedup_another_copy_takes_the_place(small: SmallRun, tmp_path: Path) -> None:
    keeper, copy = small.uid_of("a1"), small.uid_of("copy-of-a1")
    (tmp_path / "deny.txt").write_text(keeper)
    stages: list[Any] = [*small.spec["stages"][:-2]]
    released = []
    for name, order in (("early", [*stages[:1], "lists", *stages[1:]]), ("late", [*stages, "lists"])):
        given = [{"lists": {"deny": f"{tmp_path}/deny.txt"}} if stage == "lists" else stage for stage in order]
        workspace, _ = copy_of(small, tmp_path / name)
        run = curate.run(small.spec | {"workspace": workspace.url, "stages": [*given, "release"]}, workers=0)
        released.append(keys_in_tars(Path(str(run.release))))
    early, late = released
    assert (keeper in early, copy in early) == (False, True)
    assert (keeper in late, copy in late) == (False, False)


def loaded(stages: list[Any]) -> Any:
    configs = {kind: stage.Config for kind, stage in registry().items()}
    return load({"name": "x", "input": {"shards": "x.tar"}, "workspace": "w", "stages": stages}, registry=configs)


def test_where_the_stage_goes() -> None:
    found = with_lists(loaded(["index", {"lists": {"deny": "a.txt"}}, "release"]), ["b.txt"], ["c.txt"])
    assert [(entry.kind, entry.name) for entry in found.spec.stages] == [
        ("index", "index"),
        ("lists", "lists"),
        ("lists", "lists_2"),
        ("release", "release"),
    ]
    assert found.unexpanded["stages"][2] == {"lists": {"name": "lists_2", "allow": ["b.txt"], "deny": ["c.txt"]}}
    plain = loaded(["index", "release"])
    assert with_lists(plain, (), ()) is plain
    with pytest.raises(SpecError, match="writes none; add - release"):
        with_lists(loaded(["index"]), (), ["a.txt"])


def test_mistakes_are_found_before_work(tiny: dict[str, Any], tmp_path: Path) -> None:
    spec = tiny | {"stages": ["index", "release"]}
    with pytest.raises(InputError, match=r"none\.txt: there is no such file"):
        curate.run(spec, workers=0, deny=[str(tmp_path / "none.txt")])
    (tmp_path / "bad.txt").write_text("\n\nnothing\n")
    with pytest.raises(InputError, match=r"bad\.txt: line 3: 'nothing' is not a uid"):
        curate.run(spec, workers=0, deny=[str(tmp_path / "bad.txt")])
    assert not Path(tiny["workspace"]).exists()


def test_places_of_later_stages_stay_right(tmp_path: Path) -> None:
    (tmp_path / "deny.txt").write_text("0" * 32)
    (tmp_path / "a.tar").write_bytes(b"\0" * 10240)
    text = f"name: x\ninput: {{shards: {tmp_path}/a.tar}}\nworkspace: {tmp_path}/w\nstages:\n  - index\n  - release\n"
    (tmp_path / "p.yaml").write_text(text + "  - prune: {keep: 0.5}\n")
    with pytest.raises(SpecProblems) as error:
        prepare(str(tmp_path / "p.yaml"), deny=[str(tmp_path / "deny.txt")])
    (problem,) = error.value.problems
    assert problem.line == 7
