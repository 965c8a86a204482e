from __future__ import annotations

import pytest

from curate.engine.state import keep


def test_made_once_for_a_name() -> None:
    made = []

    def make() -> object:
        made.append(1)
        return object()

    assert keep("test-a", make) is keep("test-a", make)
    assert len(made) == 1


def test_a_new_name_frees_the_old_before_it_is_made() -> None:
    """A model of the next step must not lie in memory beside the one of the last."""
    freed = []

    class Model:
        def __del__(self) -> None:
            freed.append(True)

    keep("test-old", Model)
    assert not freed

    def next_model() -> bool:
        return bool(freed)

    assert keep("test-new", next_model) is True
    assert isinstance(keep("test-old", Model), Model)


def test_a_failed_make_keeps_nothing() -> None:
    def fail() -> int:
        raise ValueError("no weights")

    with pytest.raises(ValueError, match="no weights"):
        keep("test-b", fail)
    assert keep("test-b", lambda: 5) == 5
