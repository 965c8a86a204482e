"""What is wrong with a pipeline file: one `Problem` for each mistake, all of them raised together as `SpecProblems`."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from curate.errors import SpecError

Path = tuple[str | int, ...]
"""Keys and list indices that lead from the top of a pipeline file to a value, e.g. `("stages", 5, "prune", "keep")`."""

_USERINFO = re.compile(r"://[^/@\s]*@")
_MAX_SHOWN = 80
MAX_PATH = 400
"""The end of a path is what tells files apart: paths are cut much later than other values."""


@dataclass(frozen=True)
class Finding:
    """A mistake at a path of the tree, before it is known where in which file that path stands."""

    path: Path
    message: str
    suggestion: str | None = None
    show_value: bool = True


@dataclass(frozen=True)
class Problem:
    """A mistake with its place. `line` and `column` count from 1 and are None where there is no file."""

    file: str
    line: int | None
    column: int | None
    path: str
    value: str | None
    message: str
    suggestion: str | None = None

    def __str__(self) -> str:
        """Return one line: `file:line:column: path: message (value v); did you mean x?`."""
        place = self.file if self.line is None else f"{self.file}:{self.line}:{self.column}"
        text = f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"
        if self.value is not None:
            text += f" (value {self.value})"
        if self.suggestion is not None:
            text += f"; did you mean {self.suggestion}?"
        return text


class SpecProblems(SpecError):
    """Every mistake of a pipeline file at once; `problems` holds them in the order of the file."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__("\n".join([*map(str, self.problems), f"{count} found; nothing was run."]))


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate most like `name` (letter case ignored), or None when none is close."""
    by_folded = {candidate.casefold(): candidate for candidate in sorted(candidates, reverse=True)}
    close = difflib.get_close_matches(name.casefold(), list(by_folded), n=1, cutoff=0.6)
    return by_folded[close[0]] if close else None


def mask(text: str) -> str:
    """Return `text` with the user and password of every URL replaced, for messages."""
    return _USERINFO.sub("://***@", text)


def shown(value: object, most: int = _MAX_SHOWN) -> str:
    """Return a one-line form of a value for a message, cut at `most`: no control characters, no passwords of URLs."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = mask(text)
    if not text.isprintable() or text != text.strip() or text == "":
        text = json.dumps(text)
    return text if len(text) <= most else text[: most - 3] + "..."


def at_path(tree: object, path: Path) -> tuple[bool, object]:
    """Return (True, value) when `path` leads to a value of `tree`, otherwise (False, None)."""
    node: Any = tree
    for step in path:
        in_list = isinstance(node, list) and isinstance(step, int) and 0 <= step < len(node)
        if not in_list and not (isinstance(node, dict) and step in node):
            return False, None
        node = node[step]
    return True, node
