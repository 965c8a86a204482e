from __future__ import annotations

import io

import numpy as np
import pytest

from curate.store.npy import header, read_header

SUBSET = np.dtype([("f0", "<u8"), ("f1", "<u8")])


@pytest.mark.parametrize(
    "array", [np.zeros((3, 4), np.float16), np.arange(5), np.zeros(2, SUBSET), np.zeros((0, 7), np.float32)]
)
def test_headers_are_those_of_numpy(array: np.ndarray) -> None:
    saved = io.BytesIO()
    np.save(saved, array)
    assert header(array.dtype, array.shape) + array.tobytes() == saved.getvalue()
    saved.seek(0)
    assert read_header(saved) == (array.shape, False, array.dtype)
    assert saved.read() == array.tobytes()


def test_fortran_order_and_the_second_version_are_read() -> None:
    saved = io.BytesIO()
    np.lib.format.write_array(saved, np.asfortranarray(np.zeros((2, 3))), version=(2, 0))
    saved.seek(0)
    assert read_header(saved) == ((2, 3), True, np.dtype(np.float64))


def test_what_is_no_npy_file_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="magic"):
        read_header(io.BytesIO(b"not an array"))
