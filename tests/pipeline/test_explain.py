"""The story of a sample agrees with the run's own tables and with the release."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import polars as pl
import pytest
from small_run import TWICE, copy_of, small_run

import curate
from curate.errors import ExitCode, InputError
from curate.pipeline.explain import StepStory, Story, explain
from curate.store.uids import format_uid


def story(key: str) -> Story:
    (found,) = explain(small_run().run, key=key)
    return found


def step(of: Story, name: str) -> StepStory:
    return next(step for step in of.steps if step.step == name)


def test_every_sample_ends_as_the_run_says() -> None:
    run = small_run().run
    table = run.columns("index", "prune").collect()
    released = {}
    for shard in sorted(small_run().release.glob("*.tar")):
        with tarfile.open(shard) as tar:
            released |= {name.split(".")[0]: str(shard) for name in tar.getnames()}
    dropped = {
        row["uid"] + row["key"]: row for row in pl.read_parquet(small_run().release / "dropped.parquet").to_dicts()
    }
    assert table.height == 33
    for row in table.iter_rows(named=True):
        uid = format_uid(row["index.uid_hi"], row["index.uid_lo"])
        (told,) = [s for s in explain(run, uid=uid) if s.key == row["index.key"]]
        assert told.alive == row["prune.alive"]
        assert told.release == (released[uid] if told.alive else None)
        out = [s for s in told.steps if s.verdict == "dropped"]
        assert [(s.step, s.reason) for s in out] == (
            [] if told.alive else [(dropped[uid + told.key]["stage"], dropped[uid + told.key]["reason"])]
        )
        judged = [s.verdict for s in told.steps if s.verdict != "made"]
        assert judged == sorted(judged, key=["kept", "dropped", "not judged"].index)


@pytest.mark.parametrize(
    ("key", "shard", "where", "reason"),
    [
        ("page", "b.tar", "uids", "not_an_image"),
        ("wordy", "b.tar", "uids", "missing_image"),
        ("small", "c.tar", "filter", "false"),
        ("torn", "c.tar", "embed", "decode_error"),
        ("copy-of-a1", "b.tar", "dedup-exact", "same_bytes"),
    ],
)
def test_what_was_planted_is_told(key: str, shard: str, where: str, reason: str) -> None:
    told = story(key)
    assert (told.shard, told.alive, told.release) == (shard, False, None)
    assert (step(told, where).verdict, step(told, where).reason) == ("dropped", reason)


def test_a_copy_names_the_sample_that_stays() -> None:
    keeper = step(story("copy-of-a1"), "dedup-exact").evidence["keeper"]
    assert keeper == {"uid": small_run().uid_of("a1"), "key": "a1", "shard": "a.tar"}


def test_of_two_alike_the_dropped_one_names_the_other_with_its_similarity() -> None:
    pairs = [("a2", "like-a2"), ("b3", "like-b3")]
    for pair in pairs:
        (out,) = [told for told in map(story, pair) if step(told, "dedup").verdict == "dropped"]
        (kept,) = [told for told in map(story, pair) if told.key != out.key]
        dedup = step(out, "dedup")
        assert dedup.evidence["keeper"]["uid"] == dedup.evidence["duplicate_of"]["uid"] == kept.uid
        assert dedup.evidence["keeper"]["key"] == kept.key
        assert dedup.values["similarity"] == pytest.approx(1, abs=1e-3)


def test_rank_and_quota_agree_with_a_ranking_of_the_whole_concept() -> None:
    run = small_run().run
    table = run.columns("index", "cluster", "prune").collect().filter(pl.col("prune.score").is_not_null())
    order = [pl.col("prune.score"), pl.col("index.uid_hi"), pl.col("index.uid_lo")]
    quotas = dict(run.artifacts("prune")["concepts"].select("concept", "quota").iter_rows())
    for (concept,), rows in table.group_by("cluster.concept"):
        ranked = rows.sort(order, descending=[True, False, False])["index.key"].to_list()
        for rank, key in enumerate(ranked, 1):
            told = step(story(key), "prune")
            assert told.evidence == {
                "concept": concept, "quota": quotas[concept], "size": len(ranked), "which": "hard", "rank": rank,
            }  # fmt: skip
            assert told.verdict == ("kept" if rank <= quotas[concept] else "dropped")


def test_all_samples_of_one_uid_are_told() -> None:
    first, second = explain(small_run().run, uid=TWICE.upper())
    assert (first.key, second.key) == ("twin0", "twin1")
    assert step(first, "uids").verdict == "kept"
    assert (step(second, "uids").reason, step(second, "uids").evidence) == (
        "duplicate_uid", {"first": {"key": "twin0", "shard": "c.tar"}},
    )  # fmt: skip


def test_members_are_those_of_the_shard() -> None:
    with tarfile.open(small_run().root / "shards" / "a.tar") as tar:
        sizes = [{"ext": i.name.split(".")[1], "nbytes": i.size} for i in tar if i.name.startswith("a3.")]
    assert story("a3").members == sizes


def test_a_key_can_be_looked_for_in_one_shard() -> None:
    run = small_run().run
    assert [s.key for s in explain(run, key="a0", shard="a.tar")] == ["a0"]
    assert [s.key for s in explain(run, key="a0", shard=str(small_run().root / "shards" / "a.tar"))] == ["a0"]
    with pytest.raises(InputError, match="no sample of this run has the key 'a0' in shard b"):
        explain(run, key="a0", shard="b.tar")


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (
            {"uid": "0" * 32},
            "no sample of this run has the uid 00000000000000000000000000000000; the run read 33 samples",
        ),
        ({"uid": "photo7"}, "'photo7' is not a uid"),
        ({"key": "nobody"}, "no sample of this run has the key 'nobody'"),
        ({}, "name a sample"),
    ],
)
def test_what_is_not_there_is_said_in_a_sentence(question: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        explain(small_run().run, **question)
    assert caught.value.exit_code == ExitCode.INPUT == 3


def test_it_works_without_the_input_and_from_another_process_s_run() -> None:
    run = curate.open_run(str(small_run().workspace))
    assert run.sources == ()
    assert explain(run, key="b1") == explain(small_run().run, key="b1")


def test_shards_are_called_by_number_when_the_input_is_gone(tmp_path: Path) -> None:
    place, _ = copy_of(small_run(), tmp_path / "work")
    record = curate.open_run(place.url).record
    record.spec["input"]["shards"] = f"{tmp_path}/gone/*.tar"
    record.write(place)
    (told,) = explain(curate.open_run(place.url), key="b1")
    assert told.shard == "shard 0 of part 1"


def test_shards_that_changed_since_are_not_named(tmp_path: Path) -> None:
    place, _ = copy_of(small_run(), tmp_path / "work")
    shutil.copytree(small_run().root / "shards", tmp_path / "shards")
    (tmp_path / "shards" / "b.tar").write_bytes(b"another one")
    record = curate.open_run(place.url).record
    record.spec["input"]["shards"] = f"{tmp_path}/shards/*.tar"
    record.write(place)
    (told,) = explain(curate.open_run(place.url), key="b1")
    assert told.shard == "shard 0 of part 1"


def test_an_unfinished_run_is_told_as_far_as_it_came(tmp_path: Path) -> None:
    place, _ = copy_of(small_run(), tmp_path / "work")
    record = curate.open_run(place.url).record
    for late in record.steps[5:]:
        late.status = "waiting"
        late.facts = {}
    record.status = "running"
    record.write(place)
    (told,) = explain(curate.open_run(place.url), key="a0")
    assert told.alive
    assert told.release is None
    waiting = [step.step for step in told.steps if step.verdict == "not run yet"]
    assert waiting == ["dedup-exact", "dedup-similarity", "dedup", "prune"]
    for late in record.steps:
        late.status = "waiting"
    record.write(place)
    with pytest.raises(InputError, match="the index of this run is not finished"):
        explain(curate.open_run(place.url), key="a0")
