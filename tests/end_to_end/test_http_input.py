"""Shards from a real http server: the release is that of the same shards on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import corpus
import pytest
from http_server import site
from whole_runs import contents

import curate
from curate.errors import InputError


def spec(place: str, work: Path, stages: list[Any]) -> dict[str, Any]:
    return {
        "name": "web",
        "input": {"shards": f"{place}/{{00000..00002}}.tar", "shards_per_part": 1, "caption": "txt", "name": "web"},
        "workspace": str(work),
        "stages": ["index", {"filter": {"where": "key != '000003'"}}, *stages],
    }


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    corpus.write_good_shards(tmp_path / "shards", shards=3, samples=4)
    return tmp_path / "shards"


def test_the_release_is_that_of_the_same_shards_on_disk(shards: Path, tmp_path: Path) -> None:
    release = [{"release": {"samples_per_shard": 5}}]
    local = curate.run(spec(str(shards), tmp_path / "local", release), workers=0)
    with site(shards) as web:
        web.busy = 2  # 503, as busy servers answer
        web.break_after, web.breaks = 5_000, 3
        run = curate.run(spec(web.url, tmp_path / "work", release), workers=0)
        assert (web.busy, web.breaks) == (0, 0)
    assert contents(Path(str(run.release))) == contents(Path(str(local.release)))
    assert {ranged for method, _, ranged in web.asked if method == "GET"} - {"bytes=0-0"} != {None}


def test_a_server_without_ranges_is_enough_for_the_index_only(shards: Path, tmp_path: Path) -> None:
    with site(shards, ranges=False) as web:
        run = curate.run(spec(web.url, tmp_path / "work", []), workers=0)
        assert run.columns("index").collect().height == 12
        with pytest.raises(InputError, match="ignores range requests; copy the shards to a disk or an object store"):
            curate.run(spec(web.url, tmp_path / "work", ["release"]), workers=0)


def test_a_missing_shard_and_a_server_that_is_gone(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shards / "00001.tar").unlink()
    with site(shards) as web, pytest.raises(InputError, match=r"1 of 3 shards are missing: .*/00001\.tar"):
        curate.run(spec(web.url, tmp_path / "work", []), workers=0)
    monkeypatch.setenv("CURATE_RETRY_SECONDS", "0.3")
    with pytest.raises(InputError, match=r"without success, last error: Cannot connect to host .*CURATE_RETRY_SECONDS"):
        curate.run(spec(web.url, tmp_path / "work", []), workers=0)
