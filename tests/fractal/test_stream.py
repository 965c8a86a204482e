from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from discs import Discs, specification
from PIL import Image
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.data import DataLoader

from curate.errors import SpecError
from curate.fractal.families.choose import search
from curate.fractal.image import members, render
from curate.fractal.stream import FractalImages

SCENE = {"objects": [1, 4]}


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(
    ("world", "workers", "start", "stop"), [(2, 2, 0, 1000), (3, 1, 5, 5), (3, 4, 17, 30), (1, 5, 8, 9)]
)
def test_every_image_comes_once(world: int, workers: int, start: int, stop: int, shuffle: bool) -> None:
    found = []
    for rank in range(world):
        data = FractalImages(
            specification(), Discs(10), start=start, stop=stop, rank=rank, world=world, shuffle=shuffle
        )
        shares = [list(data.indices(worker, workers)) for worker in range(workers)]
        mine = [index for share in shares for index in share]
        assert sorted(mine) == sorted(data.indices())
        assert abs(len(mine) - (stop - start) / world) < 1
        found += mine
    assert sorted(found) == list(range(start, stop))


def test_shuffled_orders() -> None:
    """An order of its own for each epoch, the same on every machine, with neighbours far apart."""
    data = FractalImages(specification(), Discs(10), shuffle=True)
    orders = []
    for epoch in range(3):
        data.set_epoch(epoch)
        orders.append(list(data.indices()))
        assert sorted(orders[-1]) == list(range(1000))
        assert abs(np.corrcoef(orders[-1], range(1000))[0, 1]) < 4.5 / np.sqrt(1000)
        assert abs(np.corrcoef(orders[-1][1:], orders[-1][:-1])[0, 1]) < 4.5 / np.sqrt(1000)
    assert orders[0] != orders[1] != orders[2]
    data.set_epoch(1)
    assert list(data.indices()) == orders[1]


def test_an_order_of_ten_billion_images_is_not_a_list() -> None:
    spec = specification(images=10**10, classes=10)
    data = FractalImages(spec, Discs(10), shuffle=True)
    walk = data.indices()
    assert all(0 <= next(walk) < 10**10 for _ in range(1000))


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_give_the_rendered_images(context: str) -> None:
    """Two ranks of two worker processes each; persistent workers learn of the next epoch."""
    spec = specification(size=16, images=40)
    family, met = Discs(10), []
    for rank in range(2):
        data = FractalImages(spec, family, shuffle=True, rank=rank, world=2, transform=torch.clone)
        loader = DataLoader(data, batch_size=5, num_workers=2, multiprocessing_context=context, persistent_workers=True)
        orders = []
        for epoch in range(2 if context == "fork" else 1):
            data.set_epoch(epoch)
            batches = list(loader)
            orders.append([image.numpy().tobytes() for images, _ in batches for image in images])
            met += list(zip(orders[-1], torch.cat([labels for _, labels in batches]).tolist(), strict=True))
        assert len(orders) == 1 or orders[0] != orders[1]
    expected = []
    for index in range(40):
        made = render(spec, family, index)
        expected.append((made.image.transpose(2, 0, 1).tobytes(), made.label))
    assert sorted(met) == sorted(expected * (2 if context == "fork" else 1))


def test_scenes_have_many_hot_targets() -> None:
    spec = specification(scene=SCENE)
    for index, (image, target) in zip(range(20), FractalImages(spec, Discs(10)), strict=False):
        made = render(spec, Discs(10), index)
        assert image.dtype == torch.uint8
        np.testing.assert_array_equal(image.numpy().transpose(1, 2, 0), made.image)
        assert target.dtype == torch.float32
        assert target.shape == (10,)
        assert set(target.unique().tolist()) <= {0.0, 1.0}
        assert tuple(target.nonzero().ravel().tolist()) == made.labels


def test_boxes_are_those_of_detectors() -> None:
    spec = specification(scene=SCENE, background="black")
    for index, (_, target) in zip(range(30), FractalImages(spec, Discs(10), boxes=True), strict=False):
        labelled = [entry for entry in render(spec, Discs(10), index).objects if entry["labelled"]]
        assert target["image_id"] == index
        assert target["labels"].tolist() == [entry["class"] + 1 for entry in labelled]
        assert target["boxes"].shape == (len(labelled), 4)
        assert target["masks"].shape == (len(labelled), 64, 64)
        assert target["iscrowd"].tolist() == [0] * len(labelled)
        for box, mask, area in zip(target["boxes"].tolist(), target["masks"], target["area"], strict=True):
            rows, columns = mask.nonzero(as_tuple=True)
            assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert mask.sum() == area
    (_, target) = next(iter(FractalImages(specification(), Discs(10), boxes=True, start=4)))
    assert target["labels"].tolist() == [5]


@pytest.mark.parametrize("fields", [{}, {"colour": "gray", "background": "black"}, {"format": "webp", "scene": SCENE}])
def test_images_as_stored(fields: dict[str, Any]) -> None:
    """Encoded and decoded as in the shards."""
    spec = specification(**fields)
    stored, rendered = (FractalImages(spec, Discs(10), as_stored=as_stored) for as_stored in (True, False))
    for index in range(3):
        kept = stored.sample(index)[0].numpy().transpose(1, 2, 0)
        assert kept.shape == (64, 64, 1 if "colour" in fields else 3)
        with Image.open(io.BytesIO(members(spec, Discs(10), index)[spec.options.format])) as image:
            np.testing.assert_array_equal(kept.squeeze(), np.array(image))
        assert (kept.transpose(2, 0, 1) != rendered.sample(index)[0].numpy()).any() == (spec.options.format == "jpg")


def test_the_table_of_a_real_family_is_enough() -> None:
    spec = specification(classes=4)
    data = pickle.loads(pickle.dumps(FractalImages(spec, search(spec.options, spec.seed), start=6)))
    image, label = next(iter(data))
    assert image.shape == (3, 64, 64)
    assert label == 2


def test_an_initialised_process_group_says_the_rank() -> None:
    """Also in a spawned worker, which gets a pickled copy and has no group."""
    data = FractalImages(specification(), Discs(10))
    assert list(data.indices()) == list(range(1000))
    torch.distributed.init_process_group("fake", rank=1, world_size=3, store=FakeStore())
    try:
        assert list(data.indices())[:3] == [1, 4, 7]
        copy = pickle.dumps(data)
        explicit = FractalImages(specification(), Discs(10), rank=0, world=1)
        assert list(explicit.indices()) == list(range(1000))
    finally:
        torch.distributed.destroy_process_group()
    assert list(pickle.loads(copy).indices())[:3] == [1, 4, 7]
    assert list(data.indices()) == list(range(1000))


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"start": -1}, "images -1 to 1000 are not within"),
        ({"stop": 1001}, "images 0 to 1001 are not within"),
        ({"start": 5, "stop": 4}, "images 5 to 4 are not within"),
        ({"rank": 1}, "rank and world are given together"),
        ({"rank": 2, "world": 2}, "rank from 0 to world - 1, not 2 and 2"),
    ],
)
def test_images_and_ranks_that_are_not_there(fields: dict[str, int], what: str) -> None:
    with pytest.raises(SpecError, match=what):
        FractalImages(specification(), Discs(10), **fields)
