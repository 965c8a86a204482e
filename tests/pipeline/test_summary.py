"""The summary of a run tells the planted facts and adds up."""

from __future__ import annotations

import json

from small_run import small_run

from curate.pipeline.api import line_of
from curate.pipeline.summary import summarise, summary_lines


def test_the_numbers_add_up_and_every_broken_sample_is_named() -> None:
    small = small_run()
    summary = summarise(small.run)
    assert summary["rows"] == summary["alive"] + summary["dropped"] + summary["quarantined"]
    dropped = sum(sum(s["reasons"].values()) for s in summary["steps"] if not s["quarantines"])
    quarantined = sum(sum(s["reasons"].values()) for s in summary["steps"] if s["quarantines"])
    assert (summary["dropped"], summary["quarantined"]) == (dropped, quarantined)
    assert {(row["key"], row["status"]) for row in summary["broken"]} == {
        ("page", "not_an_image"),
        ("wordy", "missing_image"),
        ("torn", "decode_error"),
        ("twin1", "duplicate_uid"),
    }
    shards = {row["key"]: row["shard"] for row in summary["broken"]}
    assert shards["page"] == "b.tar"
    assert shards["torn"] == "c.tar"
    assert summary["release"]["samples"] == summary["alive"]
    json.dumps(summary, allow_nan=False)


def test_concepts_are_those_of_the_quotas() -> None:
    small = small_run()
    concepts = summarise(small.run)["concepts"]
    table = small.run.artifacts("prune")["concepts"]
    assert concepts["diagnostics"]["budget"] == table["quota"].sum() == small.run.record.alive
    assert concepts["largest"][0]["quota"] == table["quota"].max()
    assert concepts["smallest"][-1]["quota"] == table.filter(table["size"] > 0)["quota"].min()


def test_the_text_holds_what_a_person_needs() -> None:
    small = small_run()
    summary = summarise(small.run)
    text = "\n".join(summary_lines(summary))
    equation = (
        f"{summary['rows']} samples in = {summary['alive']} kept + {summary['dropped']} dropped "
        f"+ {summary['quarantined']} quarantined"
    )
    for phrase in (
        equation,
        "largest quotas",
        "smallest quotas",
        "b.tar page: not_an_image",
        "curate verify",
        "release:",
    ):
        assert phrase in text


def test_the_columns_fit_the_longest_name_of_a_step() -> None:
    small = small_run()
    summary = summarise(small.run)
    summary["steps"][2]["name"] = "crops-and-mirrored-copies-similarity"
    lines = list(summary_lines(summary))[3 : 3 + len(summary["steps"])]
    ends = {len(line.split("   -")[0].rstrip()) for line in lines}
    assert ends == {2 + len("crops-and-mirrored-copies-similarity") + 10}
    told = [line_of(step, 40) for step in small.run.record.steps]
    assert {line.index(" alive") for line in told} == {2 + 40 + 10}
