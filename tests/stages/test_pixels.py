from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import pytest
import torch
from PIL import Image

import curate
from curate.errors import InputError
from curate.pipeline.api import Run
from curate.stages.part import Layer, Part
from curate.stages.pixels import Decoding, ahead
from curate.store.images import decode_rgb


def first_part(run: Run) -> Part:
    group = run.group("index")
    fingerprint = group.parts[0].fingerprint
    layer = Layer("index", "index", group.folder, fingerprint, tuple(group.columns), False)
    return Part(run.workspace, 0, run.sources[0], (layer,))


def two_sizes(data: bytes) -> tuple[torch.Tensor, ...]:
    image = decode_rgb(data, 10**8)
    return tuple(
        torch.from_numpy(np.asarray(image.resize((side, side), Image.Resampling.NEAREST), dtype=np.float32).copy())
        for side in (4, 6)
    )


@pytest.mark.parametrize("padded", [True, False])
def test_batches_hold_the_wanted_rows_in_order_a_tensor_a_network(tiny: dict[str, Any], padded: bool) -> None:
    first = min(Path(tiny["input"]["shards"]).parent.glob("*.tar"))
    members = [member for i in range(5) for member in corpus.sample(f"{i}", corpus.jpeg(i))]
    members[members.index(("3.jpg", corpus.jpeg(3)))] = ("3.jpg", corpus.truncated_jpeg(3))
    first.write_bytes(corpus.tar_bytes(members))
    part = first_part(curate.run(tiny, workers=0))
    failures: list[tuple[int, str]] = []
    wanted = np.asarray([0, 2, 3, 4])
    decoding = Decoding(two_sizes, 2, padded, gpu=False, threads=2)
    frame = part.columns("shard", "members", "ext")
    found = list(decoding.batches(part, frame, wanted, lambda row, why: failures.append((row, why))))
    assert [batch.rows.tolist() for batch in found] == [[0, 2], [4]]
    assert [row for row, _ in failures] == [3]
    assert [len(batch) for batch in found] == [2, 1]
    last = found[-1].pixels
    assert [tensor.shape for tensor in last] == [(2 if padded else 1, side, side, 3) for side in (4, 6)]
    truth = two_sizes(corpus.jpeg(4))
    for tensor, one in zip(last, truth, strict=True):
        assert torch.equal(tensor[0], one)
        assert not tensor[1:].any()


def test_batches_are_put_together_ahead_on_a_thread_in_order_and_errors_pass() -> None:
    threads, begun = set[int](), list[int]()

    def batches() -> Iterator[Any]:
        for number in range(5):
            threads.add(threading.get_ident())
            begun.append(number)
            yield np.full(3, number)
        raise InputError("the shard is gone")

    came = []
    pulled = ahead(batches())
    for number in range(5):
        came.append(int(next(pulled)[0]))
        assert len(begun) <= number + 2
    with pytest.raises(InputError, match="the shard is gone"):
        next(pulled)
    assert came == begun == [0, 1, 2, 3, 4]
    assert len(threads) == 1
    assert threads != {threading.get_ident()}
