"""What every stage's options share. Options are pydantic models: the single truth of a pipeline file.

class PruneConfig(StageConfig):
    within: Annotated[str | None, Reference({"cluster"})] = None   # None: the nearest earlier one
"""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

MAX_NAME = 64
_SLUG = r"[a-z][a-z0-9]*([_-][a-z0-9]+)*"


def check_slug(text: str) -> str:
    """Return `text` when it may name a pipeline, an input or a stage (and so become part of a path)."""
    if len(text) > MAX_NAME or not re.fullmatch(_SLUG, text):
        raise ValueError(
            f"must begin with a small letter and hold only small letters, digits, - and _ (at most {MAX_NAME})"
        )
    return text


Slug = Annotated[
    str,
    AfterValidator(check_slug),
    WithJsonSchema({"type": "string", "pattern": f"^{_SLUG}$", "maxLength": MAX_NAME}),
]


class StrictModel(BaseModel):
    """Base of everything that stands in a pipeline file: no unknown options, no changes, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class StageConfig(StrictModel):
    """Base of the options of a stage. A subclass adds fields; their types, bounds and descriptions are the contract."""

    makes_samples: ClassVar[bool] = False
    """True of a source (`curate.stages.sink.Source`): it stands alone in a pipeline without input."""

    name: Slug | None = Field(None, description="Name of this stage for references; default: its kind.")


@dataclass(frozen=True)
class Reference:
    """Marks a Config field (str or None) as the name of an earlier stage of one of `kinds`.

    When the option is left out, the nearest earlier stage of those kinds is meant; it must exist unless `optional`.
    `follow` names another option of the same stage: left out then means what that other step itself refers to.
    `words` may stand in place of a name and refer to no step; the stage says what they mean, also in its `identity`.
    `named` are further kinds, which are meant only when the option names them.
    """

    kinds: AbstractSet[str]
    follow: str | None = None
    optional: bool = False
    words: AbstractSet[str] = frozenset()
    named: AbstractSet[str] = frozenset()

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", frozenset(self.kinds))
        object.__setattr__(self, "words", frozenset(self.words))
        object.__setattr__(self, "named", frozenset(self.named))
