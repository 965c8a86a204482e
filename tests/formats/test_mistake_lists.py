"""Published lists of mistakes, and what is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from reference_data import reference

from curate.errors import InputError
from curate.formats.mistake_lists import ListedMistake, read_mistakes


def test_published_lists_are_read() -> None:
    vit = read_mistakes(reference("imagenet/vit3b_mistakes.json"))
    assert len(vit) == 378
    assert vit[0] == ListedMistake("ILSVRC2012_val_00000612.JPEG", 192, "Fine-grained error", "Minor")
    soups = read_mistakes(reference("imagenet/greedy_soups_mistakes.json"))
    assert len(soups) == 249
    assert sum(m.category == "Fine-grained with OOV" for m in soups) == 9  # spelled as the file spells it


@pytest.mark.parametrize("value", [[], {}, {"a": {"top_prediction": 1}}, {"a": 3}])
def test_what_is_no_list_is_refused(tmp_path: Path, value: object) -> None:
    (tmp_path / "m.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match=r"is no list of mistakes|the entry of a lacks"):
        read_mistakes(str(tmp_path / "m.json"))
