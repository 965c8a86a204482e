from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.stages import keepers
from curate.stages.keepers import NODE, Groups, Links, Spool, links
from curate.store.artifacts import read_artifacts, write_artifacts
from curate.store.workspace import Workspace

SIZES = st.lists(st.integers(0, 12), min_size=1, max_size=5)


def stored(place: Path, artifacts: dict[str, Any]) -> dict[str, Any]:
    workspace = Workspace(str(place))
    write_artifacts(workspace, "step@0", "0" * 12, artifacts)
    return dict(read_artifacts(workspace, "step@0", "0" * 12))


def parts_of(sizes: list[int]) -> list[tuple[int, int]]:
    """(part, row) of every row."""
    return [(part, row) for part, size in enumerate(sizes) for row in range(size)]


@settings(deadline=None, max_examples=40)
@given(sizes=SIZES, seed=st.integers(0, 1000), block=st.sampled_from([1, 3, 1 << 18]))
def test_every_link_is_followed_to_its_end(
    sizes: list[int], seed: int, block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = np.random.default_rng(seed)
    places, n = parts_of(sizes), sum(sizes)
    rank, weight = rng.permutation(n), np.round(rng.random(n), 1)
    uids = rng.integers(0, 2**64, (n, 2), dtype=np.uint64)
    better = [np.flatnonzero(rank < rank[i]) for i in range(n)]
    target = [int(rng.choice(b)) if len(b) and rng.random() < 0.7 else -1 for b in better]

    def summaries() -> Iterator[dict[str, Any]]:
        for part, size in enumerate(sizes):
            mine = [i for i, (p, _) in enumerate(places) if p == part and target[i] >= 0]
            of = [target[i] for i in mine]
            yield links(
                size, [places[i][1] for i in mine], [places[j][0] for j in of], [places[j][1] for j in of],
                uids[of, 0] if of else [], uids[of, 1] if of else [], weight[mine] if mine else [],
            )  # fmt: skip

    patched = pytest.MonkeyPatch()
    patched.setattr(keepers, "_BLOCK", block)
    try:
        for above in (None, 0.5):
            found = stored(tmp_path_factory.mktemp("links"), Links(summaries()).keepers(above))
            for part in range(len(sizes)):
                kept = keepers.of_part(found, part)
                mine = [
                    i for i, (p, _) in enumerate(places)
                    if p == part and target[i] >= 0 and (above is None or weight[i] > above)
                ]  # fmt: skip
                ends = []
                for i in mine:
                    while target[i] >= 0 and (above is None or weight[i] > above):
                        i = target[i]
                    ends.append(uids[i].tolist())
                assert [list(uid) for uid in kept.tolist()] == ends
    finally:
        patched.undo()


@settings(deadline=None, max_examples=40)
@given(sizes=SIZES, seed=st.integers(0, 1000))
def test_of_every_group_the_first_stays(sizes: list[int], seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(seed)
    places, n = parts_of(sizes), sum(sizes)
    uids, key = rng.integers(0, 2**64, (n, 2), dtype=np.uint64), rng.integers(-2, 2, n)
    edges = rng.integers(0, n, (n // 2, 2)) if n else np.zeros((0, 2), dtype=int)
    group = list(range(n))
    for _ in range(n):
        for a, b in edges.tolist():
            group[a] = group[b] = min(group[a], group[b])
    touched = sorted(set(edges.reshape(-1).tolist()))
    first = {
        g: min((i for i in range(n) if group[i] == g), key=lambda i: (key[i], *uids[i].tolist())) for g in set(group)
    }

    def summaries() -> Iterator[dict[str, Any]]:
        for part, size in enumerate(sizes):
            mine = [i for i in touched if places[i][0] == part]
            nodes = np.zeros(len(mine), dtype=NODE)
            nodes["row"] = [places[i][1] for i in mine]
            nodes["key"], nodes["hi"], nodes["lo"] = key[mine], uids[mine, 0], uids[mine, 1]
            here = [(a, b) for a, b in edges.tolist() if places[a][0] == part]
            yield keepers.group(
                size, nodes, [places[a][1] for a, _ in here], [places[b][0] for _, b in here],
                [places[b][1] for _, b in here],
            )  # fmt: skip

    artifacts, gone = Groups(summaries()).keepers()
    found = stored(tmp_path_factory.mktemp("groups"), artifacts)
    assert gone == sum(first[group[i]] != i for i in touched)
    for part in range(len(sizes)):
        kept = [list(uid) for uid in keepers.of_part(found, part).tolist()]
        assert kept == [uids[first[group[i]]].tolist() for i in touched if places[i][0] == part]


def test_a_spool_gives_back_what_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepers, "_BLOCK", 4)
    spool, rng = Spool(np.dtype("i8")), np.random.default_rng(0)
    tables = [rng.integers(0, 99, size) for size in (3, 0, 9, 4)]
    for table in tables:
        spool.add(table)
    assert len(spool) == 16
    for _ in range(2):
        found = list(spool.tables())
        assert [len(t) for _, t in found] == [3, 4, 4, 1, 4]
        assert [p for p, _ in found] == [0, 2, 2, 2, 3]
        np.testing.assert_array_equal(np.concatenate([t for _, t in found]), np.concatenate(tables))


def test_uids_as_text() -> None:
    assert keepers.uid_texts(np.asarray([1, 2**64 - 1], dtype=np.uint64), np.asarray([255, 0], dtype=np.uint64)) == [
        "000000000000000100000000000000ff", "ffffffffffffffff0000000000000000",
    ]  # fmt: skip
    assert keepers.uid_texts(np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.uint64)) == []
