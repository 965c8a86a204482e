"""Every kind of pydantic error becomes one plain sentence about one value."""

from __future__ import annotations

import enum
import json
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from curate.pipeline.sentences import findings


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    layers: Annotated[int, Field(ge=1, le=9)] | None = None


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    whole: int = Field(1, gt=0, multiple_of=2)
    real: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    flag: bool = False
    text: str | list[str] = ""
    colour: Colour = Colour.RED
    mode: Literal["fast", "slow"] = "fast"
    slug: str = Field("a", pattern="^[a-z]$", max_length=3, min_length=1)
    many: list[int] = Field([], max_length=2, min_length=0)
    inner: Inner | None = None
    table: dict[str, Inner] = {}
    low: int = 0
    high: int = 1

    @model_validator(mode="after")
    def _ordered(self) -> Model:
        if self.low >= self.high:
            raise ValueError("low must be below high")
        return self


@pytest.mark.parametrize(
    ("tree", "path", "message", "suggestion"),
    [
        ({"whole": 3}, ("whole",), "must be > 0 and a multiple of 2", None),
        ({"whole": -2}, ("whole",), "must be > 0 and a multiple of 2", None),
        ({"whole": "x"}, ("whole",), "must be a whole number", None),
        ({"real": -1}, ("real",), "must be >= 0 or auto", None),
        ({"real": "aut"}, ("real",), "must be a number or auto", "auto"),
        ({"flag": "off"}, ("flag",), "must be true or false; write false", None),
        ({"text": 1.5}, ("text",), 'must be text or a list; put it in quotes: "1.5"', None),
        ({"text": ["a", 2]}, ("text", 1), 'must be text; put it in quotes: "2"', None),
        ({"colour": "rad"}, ("colour",), "must be one of red, blue", "red"),
        ({"mode": "fats"}, ("mode",), "must be one of fast, slow", "fast"),
        ({"mode": 3}, ("mode",), "must be one of fast, slow", None),
        ({"slug": "A"}, ("slug",), "must be text that matches ^[a-z]$", None),
        ({"slug": "abcd"}, ("slug",), "must be at most 3 characters long", None),
        ({"slug": ""}, ("slug",), "must be at least 1 characters long", None),
        ({"many": [1, 2, 3]}, ("many",), "must be at most 2 entries long", None),
        ({"inner": 3}, ("inner",), "must be a mapping of options", None),
        ({"inner": {"layers": 0}}, ("inner", "layers"), "must be >= 1 and <= 9", None),
        ({"inner": {"layrs": 1}}, ("inner", "layrs"), "unknown option", "layers"),
        ({"table": {"a": {"zzz": 1}}}, ("table", "a", "zzz"), "unknown option; the options here are layers", None),
        ({"low": 5}, (), "low must be below high", None),
    ],
)
def test_sentences(tree: dict[str, Any], path: tuple[str | int, ...], message: str, suggestion: str | None) -> None:
    with pytest.raises(ValidationError) as caught:
        Model.model_validate_json(json.dumps(tree), strict=True)
    (finding,) = findings(caught.value.errors(include_url=False), tree, Model)
    assert (finding.path, finding.message, finding.suggestion) == (path, message, suggestion)
