"""How classes are related, so that two names of one thing, or a thing and its part, are not taken for a conflict.

    relations = Relations.build({(620, 681): "synonym", (657, 744): "synonym", (385, 101): "co-occurring"})
    relations.conflict(620, 681)      # False
    relations.relation(101, 385)      # "co_occurring"

Rules by which the given relations are closed:

- synonym: a and b name the same things. Symmetric and transitive; synonyms share all their other relations.
- subclass: every a is a b. Transitive. A class below itself is an error.
- part_of: an a belongs to a b. Transitive along the given pairs; what follows is also true of every subclass of a and
  of b (a wheel is part of a car and a taxi is a car, so a wheel is part of a taxi).
- co_occurring: a and b are seen together. Symmetric; true of their synonyms only.

Where several hold, the first in this order counts. What never lives here: files, and which classes are related.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError

SYNONYM, SUBCLASS, PART_OF, CO_OCCURRING = KINDS = ("synonym", "subclass", "part_of", "co_occurring")
INVERSE = {SUBCLASS: "superclass", PART_OF: "has_part"}
"""What b is to a where a is a subclass or part of b."""
_NAMES = (*KINDS, *INVERSE.values())
_CODE = {name: number for number, name in enumerate(_NAMES)}


@dataclass(frozen=True, slots=True)
class Relations:
    """Closed relations between classes; make one with `build`.

    ``same``: int64 [c], the lowest-numbered synonym of each class up to the highest related one. ``keys``: int64 [r],
    ascending, a * c + b of the related pairs of such representatives, both directions; ``codes``: uint8 [r].
    Memory: 9 bytes a related pair and 8 a class.
    """

    same: NDArray[np.int64]
    keys: NDArray[np.int64]
    codes: NDArray[np.uint8]

    @classmethod
    def build(cls, given: Mapping[tuple[int, int], str]) -> Relations:
        """Close the relations of a table, as curate.formats.class_lists reads it: (a, b) -> relation of a to b.

        Names may be written with blanks, hyphens or capitals, and as superclass or has-part from b's side.
        Memory and time: 300 bytes and about a microsecond a pair of the closure.
        Raises InputError for an unknown relation, a class below 0, a class related to itself by other than synonym,
        and circles of subclass or part_of, naming classes.
        """
        edges = _edges(given)
        width = 1 + max((max(a, b) for pairs in edges.values() for a, b in pairs), default=-1)
        same = _representatives(edges[SYNONYM], width)
        up = _reachable(_mapped(edges[SUBCLASS], same), SUBCLASS)
        whole = _reachable(_mapped(edges[PART_OF], same), PART_OF)
        down = _turned(up)
        table: dict[int, int] = {}

        def add(a: int, b: int, kind: str) -> None:
            if a != b:
                table.setdefault(a * width + b, _CODE[kind])
                table.setdefault(b * width + a, _CODE[INVERSE.get(kind, kind)])

        for a, above in up.items():
            for b in above:
                add(a, b, SUBCLASS)
        for a in sorted(whole):
            for part in (a, *sorted(down.get(a, ()))):
                for b in sorted(whole[a]):
                    for owner in (b, *sorted(down.get(b, ()))):
                        add(part, owner, PART_OF)
        for a, b in _mapped(edges[CO_OCCURRING], same):
            add(a, b, CO_OCCURRING)
        keys = np.fromiter(table, np.int64, len(table))
        order = np.argsort(keys)
        codes = np.fromiter(table.values(), np.uint8, len(table))
        return cls(same, keys[order], codes[order])

    def relation(self, a: int, b: int) -> str | None:
        """What a is to b: one of KINDS, "superclass" or "has_part"; None when nothing is known or a is b."""
        if a == b:
            return None
        code = int(self._codes(np.array([a]), np.array([b]))[0])
        return _NAMES[code] if code >= 0 else None

    def conflict(self, a: int, b: int) -> bool:
        """Whether a and b as labels of the same thing contradict each other: other classes, not related."""
        return bool(self.conflicts(np.array([a]), np.array([b]))[0])

    def conflicts(self, a: NDArray[np.integer], b: NDArray[np.integer]) -> NDArray[np.bool_]:
        """`conflict` of many pairs, any shape, the same for both. Symmetric. Memory: 40 bytes a pair."""
        return np.asarray((a != b) & (self._codes(a, b) < 0))

    def is_a(self, a: NDArray[np.integer], b: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Whether every a is a b: the same class, a synonym or a subclass. Any shape. Memory: 40 bytes a pair."""
        codes = self._codes(a, b)
        return np.asarray((a == b) | (codes == _CODE[SYNONYM]) | (codes == _CODE[SUBCLASS]))

    def representatives(self, classes: NDArray[np.integer]) -> NDArray[np.int64]:
        """The lowest-numbered synonym of each class, itself where it has none; int64, any shape."""
        if not len(self.same):
            return classes.astype(np.int64)
        inside = (classes >= 0) & (classes < len(self.same))
        return np.where(inside, self.same[np.where(inside, classes, 0)], classes).astype(np.int64)

    def _codes(self, a: NDArray[np.integer], b: NDArray[np.integer]) -> NDArray[np.int64]:
        """Place in _NAMES, -1 = not related. Synonyms and a class with itself are 0."""
        first, second = self.representatives(a), self.representatives(b)
        found = np.where(first == second, _CODE[SYNONYM], -1)
        if len(self.keys):
            width = len(self.same)
            inside = (np.minimum(first, second) >= 0) & (np.maximum(first, second) < width)
            asked = np.where(inside, first * width + second, -1)
            at = np.minimum(np.searchsorted(self.keys, asked), len(self.keys) - 1)
            found = np.where((self.keys[at] == asked) & inside, self.codes[at].astype(np.int64), found)
        return found


Pairs = list[tuple[int, int]]


def _edges(given: Mapping[tuple[int, int], str]) -> dict[str, Pairs]:
    turned = {name: kind for kind, name in INVERSE.items()}
    edges: dict[str, Pairs] = {kind: [] for kind in KINDS}
    for (a, b), text in given.items():
        name = text.strip().lower().replace("-", "_").replace(" ", "_")
        if name not in _CODE:
            raise InputError(f"relations: classes {a} and {b} are {text!r}; wanted one of {', '.join(_NAMES)}.")
        if min(a, b) < 0:
            raise InputError(f"relations: {text} of classes {a} and {b}; a class is a number from 0.")
        if a == b and name != SYNONYM:
            raise InputError(f"relations: class {a} is given as {text} of itself.")
        edges[turned.get(name, name)].append((b, a) if name in turned else (a, b))
    return edges


def _representatives(pairs: Pairs, width: int) -> NDArray[np.int64]:
    """Lowest class of each group of synonyms (union-find with path halving)."""
    parent = list(range(width))

    def root(a: int) -> int:
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        return a

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return np.array([root(a) for a in range(width)], dtype=np.int64)


def _mapped(pairs: Iterable[tuple[int, int]], same: NDArray[np.int64]) -> Pairs:
    return [(int(same[a]), int(same[b])) for a, b in pairs]


def _reachable(pairs: Pairs, kind: str) -> dict[int, set[int]]:
    """All b that a leads to. Raises InputError for a circle."""
    direct: dict[int, set[int]] = {}
    for a, b in pairs:
        direct.setdefault(a, set()).add(b)
    closed: dict[int, set[int]] = {}
    for start in direct:
        stack, open_ = [start], set[int]()
        while stack:
            a = stack[-1]
            if a in closed or a not in direct:
                stack.pop()
                continue
            open_.add(a)
            waiting = [b for b in direct[a] if b in direct and b not in closed]
            circle = next((b for b in waiting if b in open_), None)
            if circle is not None:
                raise InputError(f"relations: class {circle} is {kind} of itself by way of class {a} (or a synonym).")
            if waiting:
                stack.append(waiting[0])
            else:
                closed[a] = direct[a].union(*(closed.get(b, ()) for b in direct[a]))
                open_.discard(a)
                stack.pop()
    return closed


def _turned(above: dict[int, set[int]]) -> dict[int, set[int]]:
    below: dict[int, set[int]] = {}
    for a, held in above.items():
        for b in held:
            below.setdefault(b, set()).add(a)
    return below
