"""Releases in DataComp's layout, read by a reader written from the format's description and by open_clip's loader."""

from __future__ import annotations

import bisect
import hashlib
import io
import json
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import corpus
import numpy as np
import polars as pl
import pytest

import curate
from curate.errors import InputError
from curate.formats import datacomp
from curate.formats.datacomp import make_subset, read_subset, write_subset
from curate.pipeline.inspect import inspect
from curate.pipeline.verify import verify_release
from curate.stages.release_layout import DatacompLayout
from curate.store.workspace import Workspace

SHARDS, SAMPLES = 3, 7


def uid_of(n: int) -> str:
    return hashlib.md5(str(n).encode()).hexdigest()


def write_pool(folder: Path) -> dict[str, dict[str, bytes]]:
    """Shards as img2dataset leaves them for DataComp: eight digits, uid in the json, statistics; uid -> members."""
    folder.mkdir(parents=True)
    samples: dict[str, dict[str, bytes]] = {}
    for s in range(SHARDS):
        members: list[tuple[str | bytes, bytes]] = []
        rows = []
        for i in range(SAMPLES):
            n, key = s * SAMPLES + i, f"{s:05d}{i:04d}"
            facts = {
                "uid": uid_of(n),
                "face_bboxes": [],
                "caption": f"picture {n}",
                "url": f"http://example.org/{n}.jpg",
                "key": key,
                "status": "success",
                "error_message": None,
                "width": 64,
                "height": 48,
            }
            data = {
                "jpg": corpus.jpeg(500 + n),
                "json": json.dumps(facts, indent=4).encode(),
                "txt": str(facts["caption"]).encode(),
            }
            samples[uid_of(n)] = data
            members += [(f"{key}.{ext}", data[ext]) for ext in ("jpg", "json", "txt")]
            rows.append(facts)
        (folder / f"{s:08d}.tar").write_bytes(corpus.tar_bytes(members))
        stats = {"count": SAMPLES + 1, "successes": SAMPLES, "failed_to_download": 1, "failed_to_resize": 0}
        (folder / f"{s:08d}_stats.json").write_text(json.dumps(stats))
        pl.DataFrame(rows).drop("face_bboxes").write_parquet(folder / f"{s:08d}.parquet")
    metadata = folder.parent / "metadata"
    metadata.mkdir()
    table = pl.DataFrame({"uid": list(samples), "text": [f"picture {n}" for n in range(len(samples))]})
    table.write_parquet(metadata / f"{'0' * 31}a.parquet")
    return samples


class Reader:
    """A folder of shards and a subset, read by nothing but the standard library and numpy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.subset = np.load(folder / "sample_ids.npy", mmap_mode="r", allow_pickle=False)
        assert self.subset.dtype == np.dtype("u8,u8")
        assert self.subset.ndim == 1
        pairs = self.subset.tolist()
        assert pairs == sorted(pairs)

    def shards(self) -> list[str]:
        """Names by doubling until one is missing, then bisection: a gap would hide what comes after."""
        there = 1
        while (self.folder / f"{there - 1:08d}.tar").exists():
            there *= 2
        numbers = range(there // 2, there)
        count = there // 2 + bisect.bisect_right(
            numbers, False, key=lambda n: not (self.folder / f"{n - 1:08d}.tar").exists()
        )
        return [f"{n:08d}" for n in range(count - 1)]

    def samples(self) -> list[tuple[str, dict[str, bytes]]]:
        """(key, members) of each shard, grouped as webdataset groups: neighbours of one name before the first dot."""
        found: list[tuple[str, dict[str, bytes]]] = []
        for shard in self.shards():
            before = len(found)
            with tarfile.open(self.folder / f"{shard}.tar") as tar:
                for info in tar:
                    key, _, ext = info.name.partition(".")
                    data = tar.extractfile(info)
                    assert data is not None
                    if len(found) == before or found[-1][0] != key:
                        found.append((key, {}))
                    found[-1][1][ext] = data.read()
            stats = json.loads((self.folder / f"{shard}_stats.json").read_text())
            assert stats["successes"] == len(found) - before
        return found

    def check(self) -> dict[str, dict[str, bytes]]:
        """uid -> members; every uid of the subset is there exactly as often as the subset asks for it."""
        by_uid: dict[str, dict[str, bytes]] = {}
        times = np.zeros(len(self.subset), dtype=int)
        for key, members in self.samples():
            uid = json.loads(members["json"])["uid"]
            assert key == f"{uid}-0"
            assert uid not in by_uid
            number = np.array([divmod(int(uid, 16), 2**64)], "u8,u8")[0]
            left, right = (int(np.searchsorted(self.subset, number, side)) for side in ("left", "right"))
            assert right - left == 1
            times[left] += 1
            by_uid[uid] = members
        assert times.tolist() == [1] * len(self.subset)
        return by_uid


def spec_of(root: Path, name: str, *stages: Any, **options: Any) -> dict[str, Any]:
    return {
        "name": "pool",
        "input": {"shards": f"{root}/pool/*.tar", "shards_per_part": 1, "caption": "txt"},
        "workspace": f"{root}/{name}",
        "seed": 3,
        "stages": ["index", *stages, {"release": {"layout": "datacomp", "samples_per_shard": 5, **options}}],
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("datacomp")


@pytest.fixture(scope="module")
def pool(root: Path) -> dict[str, dict[str, bytes]]:
    return write_pool(root / "pool")


@pytest.fixture(scope="module")
def release(root: Path, pool: dict[str, dict[str, bytes]]) -> Path:
    return Path(str(curate.run(spec_of(root, "work", {"sample": {"fraction": 0.6}}), workers=0).release))


def test_a_reader_of_the_format_finds_every_sample(release: Path, pool: dict[str, dict[str, bytes]]) -> None:
    by_uid = Reader(release).check()
    assert 5 < len(by_uid) < len(pool)
    assert all(members == pool[uid] for uid, members in by_uid.items()), "not a byte is changed"
    sizes = json.loads((release / "sizes.json").read_text())
    assert sum(sizes.values()) == len(by_uid)
    assert list(sizes) == [path.name for path in sorted(release.glob("*.tar"))]


def test_open_clip_trains_on_it(release: Path) -> None:
    data = pytest.importorskip("open_clip_train.data", reason="this open_clip comes without its training tools")
    names = sorted(path.stem for path in release.glob("*.tar"))
    braces = f"{release}/{{{names[0]}..{names[-1]}}}.tar"
    ids = np.load(release / "sample_ids.npy")
    assert data.get_dataset_size(braces) == (len(ids), len(names))
    args = SimpleNamespace(
        train_data=None, val_data=braces, val_num_samples=len(ids), batch_size=4, workers=0, seed=0, world_size=1
    )
    found = data.get_wds_dataset(args, lambda image: np.asarray(image).shape, False, tokenizer=lambda text: [text])
    texts = [text for _, batch in found.dataloader for text in batch]
    assert sorted(texts) == sorted(pl.read_parquet(release / "samples.parquet")["caption"])
    assert found.dataloader.num_samples == len(ids)


def test_it_verifies_and_says_what_it_is(release: Path, tmp_path: Path) -> None:
    found = verify_release(Workspace(str(release)), workers=1)
    assert found.violations == []
    assert found.samples == len(read_subset(str(release / "sample_ids.npy")))
    assert found.shards == len(list(release.glob("*.tar"))) > 1
    assert inspect(str(release))["samples"] == found.samples


def test_its_ids_as_an_allow_list_give_the_same_release(root: Path, release: Path) -> None:
    ids = str(release / "sample_ids.npy")
    again = Path(str(curate.run(spec_of(root, "again", {"lists": {"allow": ids}}), workers=0).release))
    assert again.parent != release.parent
    names = [path.name for path in sorted(release.iterdir()) if path.is_file() and path.name != "manifest.json"]
    assert [(again / name).read_bytes() for name in names] == [(release / name).read_bytes() for name in names]
    # and the release is an input itself
    spec = spec_of(root, "third", {"lists": {"allow": ids}})
    spec["input"]["shards"] = f"{release}/*.tar"
    third = Path(str(curate.run(spec, workers=0).release))
    tars = [path.name for path in sorted(release.glob("*.tar"))]
    assert [(third / name).read_bytes() for name in tars] == [(release / name).read_bytes() for name in tars]


def test_an_empty_release_is_whole(root: Path, pool: dict[str, dict[str, bytes]]) -> None:
    run = curate.run(spec_of(root, "none", {"filter": {"where": "width > 1000"}}), workers=0)
    folder = Path(str(run.release))
    assert len(np.load(folder / "sample_ids.npy")) == 0
    assert json.loads((folder / "sizes.json").read_text()) == {}
    assert verify_release(Workspace(str(folder))).violations == []


def test_the_layout_is_part_of_the_release_but_the_usual_one_is_as_before(root: Path, release: Path) -> None:
    usual = spec_of(root, "work", {"sample": {"fraction": 0.6}}, layout="webdataset")
    short = spec_of(root, "work", {"sample": {"fraction": 0.6}})
    del short["stages"][-1]["release"]["layout"]
    one, two = curate.run(usual, workers=0), curate.run(short, workers=0)
    assert one.release == two.release != str(release)
    assert not (Path(str(one.release)) / "sample_ids.npy").exists()


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("ids", "its 2 uids are not those of the samples in the shards"),
        ("unsorted", "are not those of the samples in the shards, in order"),
        ("shape", "a subset file holds one dimension"),
        ("key", "2 samples are not named by a uid"),
        ("number", "not numbered 00000000.tar, 00000001.tar, ... without a gap"),
    ],
)
def test_verify_finds_what_does_not_fit(
    broken: str, said: str, root: Path, pool: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    spec = spec_of(root, "unused", {"sample": {"fraction": 0.6}}, samples_per_shard=5) | {"workspace": str(tmp_path)}
    folder = Path(str(curate.run(spec, workers=0).release))
    manifest = json.loads((folder / "manifest.json").read_text())
    ids = folder / "sample_ids.npy"
    if broken == "ids":
        np.save(ids, np.load(ids)[:2])
    elif broken == "unsorted":
        np.save(ids, np.load(ids)[::-1])
    elif broken == "shape":
        np.save(ids, np.zeros((3, 2), dtype=np.uint64))
    elif broken == "key":
        tar = folder / "00000000.tar"
        with tarfile.open(tar) as archive:
            found = [(info.name, archive.extractfile(info).read()) for info in archive]  # type: ignore[union-attr]
        odd = set(pl.read_parquet(folder / "samples.parquet/00000000.parquet")["uid"][:2])
        renamed = [(name.replace("-0.", "-1.") if name[:32] in odd else name, data) for name, data in found]
        tar.write_bytes(corpus.tar_bytes(list(renamed)))
    else:
        for name in [name for name in manifest["files"] if "00000001" in name]:
            other = name.replace("00000001", "00000007")
            (folder / name).rename(folder / other)
            manifest["files"][other] = manifest["files"].pop(name)
    for name, entry in manifest["files"].items():
        data = (folder / name).read_bytes()
        entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    told = [str(violation) for violation in verify_release(Workspace(str(folder))).violations]
    assert any(said in text for text in told), told


# --- samples without a uid of their own -------------------------------------------------------------------------------


def json_of(text: str | None, uid: str = uid_of(1)) -> tuple[str | None, str | None]:
    members = {"jpg": b"x"} | ({} if text is None else {"json": text.encode()})
    found, what = DatacompLayout().members(uid, members, "here")
    assert found["jpg"] == b"x"
    return found["json"].decode(), what


def test_what_becomes_of_the_json() -> None:
    uid = uid_of(1)
    assert json_of(None) == (f'{{"uid": "{uid}"}}', "added")
    same = f'\n{{ "a" : 1.50, "uid":"{uid.upper()}" }}'
    assert json_of(same) == (same, None)
    assert json_of('{ "a" : 1.50, "b": "é"}\n') == (f'{{"uid": "{uid}",  "a" : 1.50, "b": "é"}}\n', "changed")
    assert json_of("{}") == (f'{{"uid": "{uid}"}}', "changed")
    assert json_of(" \ufeff{}"[1:]) == (f'{{"uid": "{uid}"}}', "changed")
    assert json_of('{"a": [1], "uid": "cat-7"}') == (f'{{"uid": "{uid}", "source_uid": "cat-7", "a": [1]}}', "changed")
    assert json_of('{"uid": null, "a": 1}') == (f'{{"uid": "{uid}", "a": 1}}', "changed")
    number = int("12345678901234567890123456789012")
    assert json_of(f'{{"uid": {number}}}', str(number)) == (
        f'{{"uid": "{number}", "source_uid": {number}}}',
        "changed",
    )
    for text, what in map(json_of, [None, "{}", '{"x": {"uid": 3}}', '{"uid": "x"}']):
        assert json.loads(str(text))["uid"] == uid, what
    with pytest.raises(InputError, match="here: its json member is no object"):
        json_of("[1]")


def test_a_pool_without_uids_gets_them(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    members: list[tuple[str | bytes, bytes]] = []
    for n in range(3):
        members += [(f"{n}.jpg", corpus.jpeg(n)), (f"{n}.txt", b"words")]
    members += corpus.sample("3", corpus.jpeg(3))
    (tmp_path / "pool" / "a.tar").write_bytes(corpus.tar_bytes(members))
    run = curate.run(spec_of(tmp_path, "work"), workers=0)
    by_uid = Reader(Path(str(run.release))).check()
    assert sorted(by_uid) == sorted(pl.read_parquet(Path(str(run.release)) / "samples.parquet")["uid"])
    assert run.record.step("release").facts["json_uids"] == {"added": 3, "changed": 1}
    assert verify_release(Workspace(str(run.release))).violations == []


def test_ids_of_many_shards_are_sorted_on_disk(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (release / "sample_ids.npy").read_bytes()
    monkeypatch.setattr(datacomp, "_BUCKET_ROWS", 3)
    sizes = json.loads((release / "sizes.json").read_text())
    files = DatacompLayout().finish(Workspace(str(release)), sizes)
    assert (release / "sample_ids.npy").read_bytes() == before
    assert files["sample_ids.npy"] == [len(before), hashlib.sha256(before).hexdigest()]


def test_inspect_knows_a_subset(tmp_path: Path) -> None:
    subset = make_subset(np.array([3, 1, 1], np.uint64), np.array([0, 5, 5], np.uint64))
    write_subset(Workspace(str(tmp_path)), "a.npy", [subset], 3)
    facts = inspect(str(tmp_path / "a.npy"), rows=2)
    assert (facts["kind"], facts["rows"], facts["distinct"], facts["first_unsorted"]) == ("uids", 3, 2, None)
    assert facts["first"] == ["00000000000000010000000000000005"] * 2
    np.save(tmp_path / "b.npy", subset[::-1])
    assert inspect(str(tmp_path / "b.npy"))["first_unsorted"] == 1
    assert inspect(str(tmp_path / "b.npy"))["distinct"] is None
    out = io.BytesIO()
    np.save(out, np.zeros((2, 2)))
    (tmp_path / "c.npy").write_bytes(out.getvalue())
    assert inspect(str(tmp_path / "c.npy"))["kind"] == "array"
