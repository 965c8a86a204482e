"""Samples are found by their columns, and their bytes are those of the input."""

from __future__ import annotations

import corpus
import polars as pl
from small_run import small_run

from curate.pipeline.samples import find_samples, sample_bytes


def test_samples_come_in_input_order_with_the_columns_asked_for() -> None:
    run = small_run().run
    found = find_samples(run, {"index": ["width"]}, pl.col("index.width") == 96, 5)
    assert [s.key for s in found] == ["a0", "a1", "a2", "a3", "a4"]
    assert {s.values["index.width"] for s in found} == {96}
    # beyond the first part
    found = find_samples(run, {"index": ["key"]}, pl.col("index.key").is_in(["b1", "c2"]), 5)
    assert [(s.key, s.part) for s in found] == [("b1", 1), ("c2", 2)]


def test_columns_of_several_steps_stand_side_by_side() -> None:
    run = small_run().run
    torn = find_samples(run, {"embed": ["reason"]}, pl.col("embed.reason") == "decode_error", 9)
    assert [s.key for s in torn] == ["torn"]


def test_the_bytes_are_those_of_the_input() -> None:
    run = small_run().run
    (sample,) = find_samples(run, {"index": ["key"]}, pl.col("index.key") == "a3", 1)
    assert sample_bytes(run, sample) == corpus.jpeg(3, (96, 80))
    (wordy,) = find_samples(run, {"index": ["key"]}, pl.col("index.key") == "wordy", 1)
    assert sample_bytes(run, wordy) is None
