from __future__ import annotations

import hashlib

import numpy as np
import polars as pl
import pytest

from curate.stages.taken_over import KEY, Rows, content


def contents(*texts: str | None) -> pl.DataFrame:
    hashed = [content(None if text is None else hashlib.sha256(text.encode()).hexdigest()) for text in texts]
    return pl.DataFrame(hashed, schema=dict.fromkeys(KEY, pl.UInt64), orient="row")


def test_the_hash_tells_images_and_captions_apart() -> None:
    image = hashlib.sha256(b"image").hexdigest()
    different = {
        content(image),
        content(image, ""),
        content(image, "a"),
        content(image, "\udc80"),
        content(image[::-1]),
    }
    assert len(different) == 5
    assert content(image, "a") == content(image, "a")
    assert content(None, "a") == (None, None)


@pytest.mark.parametrize("dtype", [np.dtype("<f2"), np.dtype([("scores", "<f2", (2, 3)), ("lse", "<f4")])])
def test_what_is_known_becomes_columns_and_packed_arrays(dtype: np.dtype[np.void]) -> None:
    alive = np.asarray([True, False, True, True])
    rows = Rows(contents("a", "b", "c", None), alive, {"maps": "map_row"})
    rows.space(dtype, () if dtype.names else (3,))
    assert rows.unknown.tolist() == [0, 2, 3]
    pieces = np.frombuffer(np.arange(40, dtype=np.uint8).tobytes()[: 2 * rows.arrays["maps"][:1].nbytes], dtype)
    pieces = pieces if dtype.names else pieces.reshape(2, 3)
    rows.arrays["maps"][[3, 0]] = pieces
    rows.has["maps"][[0, 3]] = True
    rows.undecoded(2, "it is torn")
    assert not len(rows.unknown)
    made = rows.columns({"rows_computed": 2})
    assert made.frame["map_row"].to_list() == [0, None, None, 1]
    assert made.frame["reason"].to_list() == [None, None, "decode_error", None]
    assert made.frame["detail"].to_list() == [None, None, "it is torn", None]
    assert made.frame["keep"].to_list() == [True, True, False, True]
    assert made.frame["content_hi"].is_null().to_list() == [False, False, False, True]
    assert made.vectors["maps"].tobytes() == pieces[::-1].tobytes()
    assert made.facts == {"rows_computed": 2}
