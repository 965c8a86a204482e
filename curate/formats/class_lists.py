"""Lists of classes (number, WordNet id, names) and of relations between them; numbers for classes in other files."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from curate.errors import InputError
from curate.formats.row_orders import parse_json, pick, read_bytes, read_table, texts

SHIPPED = {
    "imagenet-1k": "imagenet_synsets.txt",
    "imagenet-12k": "imagenet12k_synsets.txt",
    "imagenet-21k": "imagenet21k_goog_synsets.txt",
    "imagenet-22k": "imagenet22k_synsets.txt",
}
"""Lists that come with timm, in the order of its models' outputs; their names may stand where a file may."""
_WNID = re.compile(r"n\d{8}\Z")


@dataclass(frozen=True, slots=True)
class ClassList:
    """Number of each WordNet id, and a name of each number where one is known."""

    numbers: dict[str, int]
    names: dict[int, str] = field(default_factory=dict)

    def number(self, text: str, url: str) -> int:
        """The class that a file calls `text`: a whole number, or a WordNet id of this list. Raises InputError."""
        if text.isascii() and text.isdigit():
            return int(text)
        if text in self.numbers:
            return self.numbers[text]
        if not self.numbers:
            raise InputError(f"{url}: names the class {text}; give a list of classes with --classes.")
        raise InputError(f"{url}: names the class {text}, which is not in the list of classes.")

    def name(self, number: int) -> str:
        """A name for people, the number where there is none."""
        return self.names.get(number, str(number))


def _shipped(name: str) -> ClassList:
    """One of timm's lists. Its files are read without importing it, which takes seconds."""
    found = importlib.util.find_spec("timm")
    assert found is not None
    assert found.submodule_search_locations is not None  # it is a package
    folder = Path(found.submodule_search_locations[0]) / "data" / "_info"
    lemmas = dict(line.split("\t", 1) for line in (folder / "imagenet_synset_to_lemma.txt").read_text().splitlines())
    wnids = (folder / SHIPPED[name]).read_text().split()
    names = {number: lemmas[wnid].split(",")[0].strip() for number, wnid in enumerate(wnids)}
    return ClassList({wnid: number for number, wnid in enumerate(wnids)}, names)


def read_classes(url: str) -> ClassList:
    """A list of classes: one of SHIPPED by its name, or a json file: a list of ids, or as ImageNetV2's class_info.json.

    The latter is a list of {cid, wnid, synset: [names]}. Raises InputError when a number or an id stands twice.
    """
    if url in SHIPPED:
        return _shipped(url)
    value = parse_json(read_bytes(url), url)
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        rows = [{"cid": number, "wnid": wnid} for number, wnid in enumerate(value)]
    elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        rows = value
    else:
        raise InputError(f"{url}: is no list of classes; wanted a list of ids or of objects with cid, wnid and synset.")
    numbers: dict[str, int] = {}
    names: dict[int, str] = {}
    for place, row in enumerate(rows):
        number, wnid, synset = row.get("cid"), row.get("wnid"), row.get("synset")
        if type(number) is not int or number < 0 or not isinstance(wnid, str):
            raise InputError(f"{url}, class {place}: has no number cid and id wnid.")
        if wnid in numbers or number in names:
            raise InputError(f"{url}, class {place}: {wnid} ({number}) stands twice, as an id or as a number.")
        numbers[wnid] = number
        names[number] = synset[0] if isinstance(synset, list) and synset and isinstance(synset[0], str) else wnid
    return ClassList(numbers, names)


def from_wnids(labels: Iterable[str], least: int = 2) -> ClassList:
    """Numbers by sorted WordNet id, as ImageNet's training folders are numbered; empty unless all labels are ids."""
    found = sorted(set(labels))
    if len(found) < least or not all(_WNID.match(one) for one in found):
        return ClassList({})
    return ClassList({wnid: number for number, wnid in enumerate(found)}, dict(enumerate(found)))


def read_relations(url: str, classes: ClassList) -> dict[tuple[int, int], str]:
    """Related classes from a csv or parquet file with columns a, b and relation (synonym, subclass, part-of, ...)."""
    table = read_table(read_bytes(url), url)
    first, second, relation = (
        texts(table, pick(table.columns, known, url, what), url)
        for known, what in (
            (("a", "first", "class_a"), "first classes"),
            (("b", "second", "class_b"), "second classes"),
            (("relation", "type", "kind"), "relations"),
        )
    )
    return {
        (classes.number(a, url), classes.number(b, url)): r for a, b, r in zip(first, second, relation, strict=True)
    }
