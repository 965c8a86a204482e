"""`label_sets`: which labels an image has, by its label map: kept, unsure or dropped, where, and how sure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from curate.errors import InputError
from curate.formats.class_lists import SHIPPED, ClassList, from_wnids, read_classes, read_relations
from curate.formats.label_maps import MapsInfo, unpack
from curate.formats.label_sets import LabelSets, read_label_sets
from curate.formats.row_orders import RowOrder, read_bytes, read_order, stem
from curate.relabel.maps import LabelMap
from curate.relabel.relations import Relations
from curate.relabel.sets import decide
from curate.stages.base import Columns, Stage, State, Totals
from curate.stages.config import Reference, StageConfig
from curate.stages.label_sets_fit import CURVES, SURE, Pairs, calibrator_of, fit, updated, weigh_answers
from curate.stages.label_sets_rows import LABEL, candidates, label_frame
from curate.stages.part import Part
from curate.store import urls
from curate.store.artifacts import Artifact

KNOWN, NO_LABELS = "known", "the samples have no labels"
Files = str | Annotated[list[str], Field(min_length=1)]
_FILES = ("reviewed", "reviewed_order", "votes", "relations", "class_names")


class LabelSetsConfig(StageConfig):
    """Which labels count, and what is known of them."""

    maps: Annotated[str | None, Reference({"relabel"})] = Field(
        None, description="The relabel stage whose maps are read (default: the nearest before)."
    )
    score: Literal["top", "max", "mean"] = Field(
        "top", description="An image's score of a class: mean probability of its best cells, of its best, or of all."
    )
    share: float = Field(0.1, gt=0, le=1, description="Share of the cells that score: top takes the mean of.")
    candidates: int = Field(20, ge=1, description="At most this many classes of an image are looked at, the best ones.")
    least: float = Field(0.01, ge=0, le=1, description="Classes with a lower score are not looked at.")
    reviewed: str | None = Field(
        None, description="Known label sets (real.json, multi-label CSV, multi-hot npz) to fit probabilities on."
    )
    reviewed_order: str | None = Field(None, description="Names of the images of reviewed, where it names none.")
    votes: Files | None = Field(None, description="Files of decisions that people made with curate review.")
    precision: float = Field(0.9, gt=0, lt=1, description="Share of kept labels that shall be true.")
    keep: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Keep from this probability on; default: fitted to precision, or precision.",
    )
    drop: float = Field(0.05, ge=0, le=1, description="Drop below this probability; between drop and keep is unsure.")
    relations: str | None = Field(
        None, description="Table of related classes (a, b, relation): no conflict between them."
    )
    class_names: str | None = Field(
        None, description="List of the classes, numbers, WordNet ids and names: a file, or imagenet-1k (12k, 21k, 22k)."
    )

    @model_validator(mode="after")
    def _ordered(self) -> LabelSetsConfig:
        if self.keep is not None and self.drop > self.keep:
            raise ValueError(f"drops below {self.drop:g} what it keeps from {self.keep:g} on; wanted drop <= keep")
        if self.reviewed_order is not None and self.reviewed is None:
            raise ValueError("has reviewed_order but no reviewed")
        return self

    def files(self, option: str) -> tuple[str, ...]:
        """The files of an option as they are given."""
        given = getattr(self, option)
        return () if given is None else (given,) if isinstance(given, str) else tuple(given)


class LabelSetsStage(Stage[LabelSetsConfig]):
    """Scores the classes of each map, makes probabilities of the scores, decides, and finds where each label is.

    Known labels (reviewed files, and answers of people that are sure) calibrate scores: isotonic curves with shrinkage
    on one half of them, limits by target precision on the other; without any, scores count as probabilities. Answers of
    people move the probability of their own question. Nothing is dropped here: a `filter` on `outcome` or `suspect`
    does that. Memory: the maps of a part, known labels of all parts (about 300 bytes each).
    """

    kind = "label_sets"
    VERSION = 1
    Config = LabelSetsConfig
    not_hashed = frozenset(_FILES)

    _urls: Mapping[str, tuple[str, ...]] = {}
    _sha256: Mapping[str, list[str]] = {}

    def columns(self) -> dict[str, pl.DataType]:
        """labels: best first; best: the most probable kept one; null where there is no map."""
        return {
            "labels": pl.List(LABEL),
            "best": pl.UInt32(),
            "best_name": pl.String(),
            "n_labels": pl.UInt16(),
            "outcome": pl.String(),
            "nothing": pl.Float32(),
            "suspect": pl.Boolean(),
        }

    @property
    def _maps(self) -> str:
        maps = self.context.references["maps"]
        assert maps is not None  # the plan has resolved it
        return maps

    def reads(self) -> tuple[str, ...]:
        """The index (keys, given labels) and the maps."""
        return (next(iter(self.context.schema)), self._maps)

    def check(self) -> None:
        """Read every file once, so that a missing one or a bad line is found before work starts."""
        found: dict[str, tuple[str, ...]] = {}
        sha256: dict[str, list[str]] = {}
        for option in _FILES:
            given = self.config.files(option)
            if option == "class_names" and given and given[0] in SHIPPED:
                found[option], sha256[option] = given, list(given)
                continue
            # workers may have another working folder
            found[option] = tuple(
                str(urls.resolve(one)[1]) if urls.split_protocol(one)[0] == "file" else one for one in given
            )
            sha256[option] = [hashlib.sha256(read_bytes(one)).hexdigest() for one in found[option]]
        self._urls, self._sha256 = found, sha256
        try:
            assert (self._classes, self._relations, self._reviewed) is not None
        except InputError as error:  # the readers name options of `curate evaluate`
            said = str(error)
            for theirs, ours in (("--labels-order", "reviewed_order"), ("--classes", "class_names")):
                said = said.replace(theirs, ours)
            raise InputError(f"stage {self.context.step}: {said}") from error
        weigh_answers(found["votes"])

    def identity(self) -> dict[str, Any]:
        """What the files hold."""
        return dict(self._sha256)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_reviewed", "_relations")}

    # --- files ------------------------------------------------------------------------------------------------------

    def _file(self, option: str) -> str | None:
        return self._urls[option][0] if self._urls.get(option) else None

    @cached_property
    def _classes(self) -> ClassList:
        url = self._file("class_names")
        return ClassList({}) if url is None else read_classes(url)

    @cached_property
    def _relations(self) -> Relations | None:
        url = self._file("relations")
        return None if url is None else Relations.build(read_relations(url, self._classes))

    @cached_property
    def _reviewed(self) -> dict[str, tuple[set[int], set[int]]]:
        """Image -> (true classes, classes of which nothing is known); images that are problematic are left out."""
        url = self._file("reviewed")
        if url is None:
            return {}
        order: RowOrder | None = None
        if (named := self._file("reviewed_order")) is not None:
            order = read_order(named)
        sets: LabelSets = read_label_sets(url, order, self._classes)
        bad = sets.problematic or [False] * len(sets.names)
        unclear: list[list[int]] = sets.unclear or [[] for _ in sets.names]
        rows = zip(sets.names, sets.labels, unclear, bad, strict=True)
        return {stem(name): (set(labels), set(open_)) for name, labels, open_, wrong in rows if not wrong}

    # --- what is known of all images ----------------------------------------------------------------------------------

    def summarise(self, part: Part, totals: Totals, state: State) -> dict[str, NDArray[Any]]:
        """Labels that were given; scores and truths of the pairs that are known."""
        index = self.reads()[0]
        labels = part.columns(f"{index}.label")[f"{index}.label"].drop_nulls().unique().sort().to_list()
        found: dict[str, NDArray[Any]] = {"labels": np.asarray(labels, dtype=np.str_)}
        if self._file("reviewed") is None and not self._urls.get("votes"):
            return found
        frame = part.columns(*(f"{index}.{name}" for name in ("uid_hi", "uid_lo", "key")), f"{self._maps}.map_row")
        frame = frame.rename({c: c.rpartition(".")[2] for c in frame.columns}).with_row_index("row")
        pairs = self._candidates(self._held(part, frame), frame, weigh_answers(self._urls.get("votes", ())))
        pairs = pairs.join(frame.select("row", "key"), on="row", how="left", maintain_order="left")
        evidence = pairs["evidence"].to_numpy()
        truth = np.full(pairs.height, -1, dtype=np.int8)
        reviewed = 0
        for place, (key, number) in enumerate(pairs.select("key", "class").iter_rows()):
            known = self._reviewed.get(stem(key))
            if known is not None:
                reviewed += 1
                truth[place] = -1 if number in known[1] else number in known[0]
        sure = (np.abs(evidence) > SURE) & (truth < 0)
        truth[sure] = evidence[sure] > 0
        rows = truth >= 0
        told = pairs.filter(pl.Series(rows))
        return found | {
            "score": told["score"].to_numpy().astype(np.float32),
            "class": told["class"].to_numpy(),
            "truth": truth[rows].astype(bool),
            "half": (told["uid_lo"].to_numpy() & np.uint64(1)).astype(bool),
            "reviewed": np.asarray(reviewed),
        }

    def reduce(self, summaries: Iterator[dict[str, NDArray[Any]]], totals: Totals, state: State) -> dict[str, Artifact]:
        """Curves and limits, what people said, and the number of each given label."""
        info = MapsInfo.model_validate(totals.artifacts(self._maps)["label_maps"])
        labels: set[str] = set()
        pieces: list[dict[str, NDArray[Any]]] = []
        for summary in summaries:
            labels.update(summary["labels"].tolist())
            pieces.append(summary)
        step = self.context.step
        self._fitting(info.classes)
        curves, limits = pl.DataFrame(schema=CURVES), np.full(info.classes, self.config.precision)
        told = {"pairs": 0, "true": 0}
        known = [piece for piece in pieces if "score" in piece]
        if self._file("reviewed") is not None and not sum(int(piece["reviewed"]) for piece in known):
            raise InputError(
                f"stage {step}: none of the {len(self._reviewed):,} images of {self.config.reviewed} is in the input; "
                "its names must be those of the samples, such as ILSVRC2012_val_00000001"
            )
        if known:
            score, classes, truth, half = (
                np.concatenate([piece[name] for piece in known]) for name in ("score", "class", "truth", "half")
            )
            told = {"pairs": len(truth), "true": int(truth.sum())}
            if self._file("reviewed") is not None or self._enough(truth, half):
                pairs = Pairs(score.astype(np.float64), classes.astype(np.int64), truth, half)
                curves, limits = fit(pairs, info.classes, self.config.precision, step)
        if self.config.keep is not None:
            limits = np.full(info.classes, self.config.keep)
        numbers, said = self._numbers(labels, info.classes)
        names = {number: label for label, number in numbers.items()} | self._classes.names
        return {
            "curves": curves,
            "keep": limits,
            "answers": weigh_answers(self._urls.get("votes", ())),
            "label_sets": {
                "known": told,
                "calibrated": bool(curves.height),
                "given": said,
                "numbers": numbers,
                "names": {str(number): names[number] for number in sorted(names)},
            },
        }

    def _fitting(self, classes: int) -> None:
        """Raises InputError for a file that names classes which the maps do not know."""
        related = self._relations
        highest = {
            "reviewed": max((max(a | b, default=-1) for a, b in self._reviewed.values()), default=-1),
            "relations": -1 if related is None else len(related.same) - 1,
            "class_names": max(self._classes.names, default=-1),
        }
        answers = weigh_answers(self._urls.get("votes", ()))
        highest["votes"] = -1 if answers.is_empty() else int(answers["class"].to_numpy().max())
        for option, number in highest.items():
            if number >= classes:
                raise InputError(
                    f"stage {self.context.step}: {option} names class {number:,}, but stage {self._maps} knows "
                    f"{classes:,} classes, numbered from 0; give the file that belongs to its classifier"
                )
        if 0 < len(self._classes.names) < classes:
            raise InputError(
                f"stage {self.context.step}: class_names lists {len(self._classes.names):,} classes, but stage "
                f"{self._maps} knows {classes:,}; give the whole list"
            )

    @staticmethod
    def _enough(truth: NDArray[np.bool_], half: NDArray[np.bool_]) -> bool:
        """Whether both halves have 50 pairs of each kind: answers alone come one by one, and a few decide nothing."""
        return all(min(int((truth & h).sum()), int((~truth & h).sum())) >= 50 for h in (half, ~half))

    def _numbers(self, labels: set[str], classes: int) -> tuple[dict[str, int], str]:
        """Class number of each given label, and how it is known; none when it is not."""
        known = self._classes.numbers or from_wnids(labels, least=classes).numbers
        found = {label: int(label) if label.isascii() and label.isdigit() else known.get(label, -1) for label in labels}
        if not labels:
            return {}, NO_LABELS
        if lost := sorted(label for label, number in found.items() if not 0 <= number < classes):
            return {}, f"the label {lost[0]!r} is none of the {classes:,} classes; give class_names"
        return dict(sorted(found.items())), KNOWN

    # --- labels -----------------------------------------------------------------------------------------------------

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """Decide about the candidates of each image. Memory: the maps of the part, 200 bytes a candidate."""
        curves, limits, answers, told = (artifacts[name] for name in ("curves", "keep", "answers", "label_sets"))
        assert isinstance(curves, pl.DataFrame)
        assert isinstance(limits, np.ndarray)
        assert isinstance(answers, pl.DataFrame)
        assert isinstance(told, dict)
        index = self.reads()[0]
        frame = part.columns(*(f"{index}.{n}" for n in ("uid_hi", "uid_lo", "label")), f"{self._maps}.map_row")
        frame = frame.rename({c: c.rpartition(".")[2] for c in frame.columns}).with_row_index("row")
        numbers = told["numbers"]
        original = np.array([numbers.get(label, -1) for label in frame["label"]], dtype=np.int64)
        held = self._held(part, frame)
        pairs = self._candidates(held, frame, answers, original)
        p = pairs["score"].cast(pl.Float64).to_numpy()
        if curves.height:
            p = calibrator_of(curves)(p, pairs["class"].to_numpy())
        p = updated(p, pairs["evidence"].to_numpy())
        decided = decide(
            pairs["row"].to_numpy(),
            pairs["class"].to_numpy().astype(np.int64),
            p,
            frame.height,
            keep=limits,
            drop=np.minimum(self.config.drop, limits),
            relations=self._relations,
            original=original,
        )
        names = {number: label for label, number in numbers.items()} | self._classes.names
        made = label_frame(held, frame.height, pairs, decided, names).select(*self.columns())
        facts = {"images": len(held), "labels": pairs.height, "labels_asked": int((pairs["votes"] > 0).sum())}
        notes = [] if curves.height or not held else [{"kind": "uncalibrated", "images": len(held)}]
        return Columns(made, notes=notes, facts=facts)

    def _candidates(
        self,
        held: Mapping[int, LabelMap],
        frame: pl.DataFrame,
        answers: pl.DataFrame,
        original: NDArray[np.int64] | None = None,
    ) -> pl.DataFrame:
        rule, share, most, least = self.config.score, self.config.share, self.config.candidates, self.config.least
        return candidates(held, frame, answers, original, rule=rule, share=share, most=most, least=least)

    def _held(self, part: Part, frame: pl.DataFrame) -> dict[int, LabelMap]:
        """Label maps of the alive rows that have one, by row: views of what is stored."""
        places = frame["map_row"].to_list()
        rows = [row for row, place in enumerate(places) if place is not None and part.alive[row]]
        if not rows:
            return {}
        records = part.vectors(self._maps, "maps")
        return {row: LabelMap(*unpack(records[places[row]])) for row in rows}
