from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from bench import Bench
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curate.errors import InputError, SpecError
from curate.formats.datacomp import make_subset
from curate.formats.samples import IndexOptions
from curate.pipeline.plan import add_step
from curate.stages.lists import ListsConfig, ListsStage
from curate.store.artifacts import read_artifacts
from curate.store.uids import format_uid


def uids_of(frame: pl.DataFrame) -> list[str]:
    return [format_uid(hi, lo) for hi, lo in frame.select("uid_hi", "uid_lo").iter_rows()]


def write(path: Path, values: list[str]) -> str:
    path.write_text("\n".join(values))
    return str(path)


def decided(frame: pl.DataFrame) -> list[tuple[bool, str | None]]:
    return list(frame.select("keep", "reason").iter_rows())


def by_sets(values: list[str | None], allow: set[str] | None, deny: set[str]) -> list[tuple[bool, str | None]]:
    found: list[tuple[bool, str | None]] = []
    for value in values:
        if value is not None and value in deny:
            found.append((False, "denied"))
        elif allow is not None and (value is None or value not in allow):
            found.append((False, "not_allowed"))
        else:
            found.append((True, None))
    return found


# keys as text, some null; lists over the same few letters, so that they overlap
words = st.text(alphabet="abc", min_size=1, max_size=2)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.one_of(st.none(), words), min_size=3, max_size=12),
    st.one_of(st.none(), st.sets(words)),
    st.sets(words),
)
def test_decisions_equal_those_of_sets(
    bench: Callable[..., Bench], tmp_path: Path, keys: list[str | None], allow: set[str] | None, deny: set[str]
) -> None:
    table = bench(2)
    table.index([len(keys) // 2, len(keys) - len(keys) // 2], key=pl.Series(keys, dtype=pl.String))
    options: dict[str, Any] = {"deny": write(tmp_path / "deny.txt", sorted(deny)), "column": "key"}
    if allow is not None:
        options["allow"] = write(tmp_path / "allow.txt", sorted(allow))
    assert decided(table.stage(ListsStage, **options)) == by_sets(keys, allow, deny)
    assert unmatched(table, "deny") == (len(deny), len(deny - set(keys)))
    if allow is not None:
        assert unmatched(table, "allow") == (len(allow), len(allow - set(keys)))


def matches(table: Bench) -> list[dict[str, Any]]:
    """What the step says of its lists."""
    step = table.plan.step("lists")
    artifact = read_artifacts(table.workspace, step.folder, step.whole)["matches"]
    assert isinstance(artifact, dict)
    return list(artifact["lists"])


def unmatched(table: Bench, role: str) -> tuple[int, int]:
    (found,) = [one for one in matches(table) if one["list"] == role]
    return found["entries"], found["unmatched"]


def test_uids_from_several_files_of_every_kind(bench: Callable[..., Bench], tmp_path: Path) -> None:
    table = bench(3)
    frame = table.index([4, 0, 6])
    uids = uids_of(frame)
    stranger = "0" * 31 + "1"
    subset = frame[[7, 8]]
    np.save(tmp_path / "s.npy", make_subset(subset["uid_hi"].to_numpy(), subset["uid_lo"].to_numpy()))
    pl.DataFrame({"uid": [uids[2]]}).write_parquet(tmp_path / "p.parquet")
    files = [write(tmp_path / "a.txt", [uids[0].upper(), stranger]), f"{tmp_path}/s.npy", f"{tmp_path}/p.parquet"]
    allow = write(tmp_path / "b.csv", ["uid,why", *(f"{uid},x" for uid in uids[1:9])])
    found = table.stage(ListsStage, deny=files, allow=allow)
    assert decided(found) == by_sets(list(uids), set(uids[1:9]), {uids[n] for n in (0, 2, 7, 8)})
    told = [(one["list"], one["file"], one["entries"], one["unmatched"]) for one in matches(table)]
    assert told == [
        ("allow", allow, 8, 0),
        ("deny", files[0], 2, 1),
        ("deny", files[1], 2, 0),
        ("deny", files[2], 1, 0),
    ]
    assert [one["first_unmatched"] for one in matches(table)] == [[], [stranger], [], []]


def test_rows_that_were_out_are_not_judged_but_their_entries_match(bench: Callable[..., Bench], tmp_path: Path) -> None:
    table = bench(1)
    uids = uids_of(table.index([3]))
    table.given("before", [pl.DataFrame({"keep": [True, False, True], "reason": [None, "over_quota", None]})])
    found = table.stage(ListsStage, deny=write(tmp_path / "l.txt", uids[:2]))
    assert list(found.iter_rows()) == [(False, "denied", False), (None, None, False), (True, None, True)]
    assert unmatched(table, "deny") == (2, 0)


def test_a_list_counts_by_its_content(bench: Callable[..., Bench], tmp_path: Path) -> None:
    def folder(name: str, values: list[str]) -> tuple[str, list[str]]:
        table = bench(2)
        table.index([2, 2])
        table.stage(ListsStage, deny=write(tmp_path / name, values), column="key")
        return table.plan.step("lists").folder, table.plan.step("lists").parts

    assert folder("a.txt", ["000001"]) == folder("b.txt", ["000001"])
    assert folder("a.txt", ["000001"]) != folder("a.txt", ["000002"])


def test_more_parts_leave_the_earlier_ones_as_they_are(bench: Callable[..., Bench], tmp_path: Path) -> None:
    names = []
    for parts in (2, 3):
        table = bench(parts)
        table.index([2] * parts)
        # as an index over more shards has it: the folder stays, and so do the names of the first parts
        step = table.plan.step("index")
        step.folder, step.parts = "index@same", [f"part{n}" for n in range(parts)]
        config = ListsConfig(deny=write(tmp_path / "l.txt", ["000001", "000004"]), column="key")
        add_step(table.plan, "lists", ListsStage, config, IndexOptions("bench"))
        names.append(table.plan.step("lists"))
    two, three = names
    assert three.parts[:2] == two.parts
    assert three.whole != two.whole, "what matches is counted again"


def test_a_changed_list_stops_the_run(bench: Callable[..., Bench], tmp_path: Path) -> None:
    table = bench(1)
    table.index([2])
    path = tmp_path / "l.txt"
    stage = table.stage(ListsStage, deny=write(path, ["000001"]), column="key")
    assert stage["keep"].to_list() == [True, False]
    made = pickle.loads(pickle.dumps(table.plan.step("lists").stage))
    assert made.lists is None, "a worker reads the lists itself"
    made.setup()
    path.write_text("000000")
    with pytest.raises(InputError, match="the list changed while the run was at work"):
        made.setup()


def test_wrong_options_are_found_before_work(bench: Callable[..., Bench], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give allow or deny"):
        ListsConfig()
    with pytest.raises(ValueError, match="at least 1"):
        ListsConfig(deny=[])
    table = bench(1)
    table.index([2])
    table.given("more", [pl.DataFrame({"width": [1, 2], "url": ["a", "b"]})])
    listed = write(tmp_path / "l.txt", ["a"])
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"deny": str(tmp_path / "none.txt")}, InputError, "none.txt: there is no such file"),
        ({"deny": listed}, InputError, "l.txt: line 1: 'a' is not a uid"),
        (
            {"deny": listed, "column": "colour"},
            SpecError,
            "column .* is colour, which no earlier step writes; text .* url",
        ),
        ({"deny": listed, "column": "width"}, SpecError, "holds Int64"),
        ({"deny": listed, "column": "index.url"}, SpecError, "which no earlier step writes"),
        ({"deny": str(tmp_path)}, SpecError, "a list is a file named"),
    ]
    for number, (options, error, said) in enumerate(cases):
        with pytest.raises(error, match=said):
            table.stage(ListsStage, f"lists{number}", **options)


def test_a_column_of_a_certain_step(bench: Callable[..., Bench], tmp_path: Path) -> None:
    table = bench(1)
    table.index([2])
    table.given("one", [pl.DataFrame({"url": ["a", "b"]})])
    table.given("two", [pl.DataFrame({"url": ["b", " a\n"]})])
    listed = write(tmp_path / "l.txt", ["a"])
    assert table.stage(ListsStage, "l1", deny=listed, column="url")["keep"].to_list() == [True, False]
    assert table.stage(ListsStage, "l2", deny=listed, column="one.url")["keep"].to_list() == [False, None]
