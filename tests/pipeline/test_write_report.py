"""report.html is made of what the run decided, without contradictions."""

from __future__ import annotations

from small_run import small_run

from curate.pipeline.summary import summarise
from curate.pipeline.write_report import report_data, run_sample, write_report
from curate.report.page import contradictions


def test_the_report_contradicts_nothing_and_shows_the_planted_pairs() -> None:
    small = small_run()
    data = report_data(small.run, summarise(small.run))
    assert contradictions(data) == []
    assert data.totals.rows_in == small.run.record.rows
    assert data.duplicates is not None
    pairs = {frozenset([group.keeper.key, *(d.key for d in group.dropped)]) for group in data.duplicates.groups}
    assert {frozenset(pair) for pair in (("a1", "copy-of-a1"), ("a2", "like-a2"), ("b3", "like-b3"))} <= pairs
    for group in data.duplicates.groups:
        for dropped in group.dropped:
            assert dropped.thumb.startswith("data:image/jpeg;base64,")
            assert dropped.exact or dropped.similarity > 0.999
    assert sum(concept.quota for concept in data.concepts) == data.totals.alive
    assert all(len(concept.thumbnails) == min(6, concept.kept) for concept in data.concepts)
    assert {row.key for row in data.quarantine.rows} == {"page", "wordy", "torn", "twin1"}


def test_the_page_is_written_into_the_workspace() -> None:
    small = small_run()
    where = write_report(small.run, summarise(small.run))
    page = (small.workspace / "report.html").read_text()
    assert where.endswith("report.html")
    assert "not_an_image" in page
    assert "<script" not in page


def test_a_sample_is_found_by_its_uid() -> None:
    small = small_run()
    found = run_sample(small.run, small.uid_of("c4"))
    assert found is not None
    assert found.key == "c4"
    assert run_sample(small.run, "f" * 32) is None
