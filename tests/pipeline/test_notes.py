from __future__ import annotations

from typing import Any

from curate.pipeline.notes import noted, noted_lines


def upstream(reasons: dict[str, int], details: tuple[str, ...] = ()) -> dict[str, Any]:
    failed = sum(reasons.values())
    counts = {"shards": 2, "without_table": 0, "attempted": failed + 10, "successes": 10, "failed": failed}
    return {"kind": "upstream", **counts, "reasons": reasons, "problems": len(details), "details": list(details)}


def test_parts_add_up() -> None:
    notes = [
        upstream({"HTTP Error 404: Not Found": 5, "other": 9}, ("a", "b")),
        {"kind": "shard", "shard": "x.tar"},
        upstream({"HTTP Error 404: Not Found": 1, "timed out": 7}, ("c",)),
        {"kind": "labels", "samples": 12, "keys": ["k1", "k2"]},
        {"kind": "labels", "samples": 1, "keys": ["k3"]},
        {"kind": "fields", "values": {"b": 2, "a": 1}},
        {"kind": "fields", "values": {"a": 4}},
    ]
    found = noted(notes)
    assert found["upstream"] == {
        "shards": 4, "without_table": 0, "attempted": 42, "successes": 20, "failed": 22, "problems": 3,
        "reasons": {"timed out": 7, "HTTP Error 404: Not Found": 6, "other": 9}, "details": ["a", "b", "c"],
    }  # fmt: skip
    assert list(noted_lines(found)) == [
        "downloaded before: 42 tried = 20 got + 22 failed (timed out 7, HTTP Error 404: Not Found 6, other 9)",
        "  a",
        "  b",
        "  c",
        "no label: 13 samples that input.labels does not name, such as k1, k2, k3",
        "null instead of a value of another type than input.fields says: a 5, b 2",
    ]


def test_much_is_told_briefly_and_still_adds_up() -> None:
    found = noted([upstream({f"e{i}": 10 - i for i in range(9)}, tuple("abcdefgh"))])
    lines = list(noted_lines(found))
    assert lines[0].endswith("(e0 10, e1 9, e2 8, e3 7, e4 6, others 14)")
    assert lines[-1] == "  and 3 more that do not add up; see notes in run.json"


def test_nothing_to_tell_is_no_line() -> None:
    assert list(noted_lines(noted([{"kind": "ignored", "members": 3, "names": ["a"]}]))) == []
