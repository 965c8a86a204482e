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
from curate.formats.row_orders import RowOrder, read_bytes, read_order
from curate.relabel.maps import LabelMap
from curate.relabel.relations import Relations
from curate.relabel.sets import decide
from curate.stages.base import Columns, Stage, State, Totals
from curate.stages.config import Reference, StageConfig
from curate.stages.label_sets_fit import CURVES, Pairs, calibrator_of, fit, updated, weigh_answers
from curate.stages.label_sets_reviewed import Reviewed, by_whole_names
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


def _absolute(url: str) -> str:
    return str(urls.resolve(url)[1]) if urls.split_protocol(url)[0] == "file" else url


class LabelSetsStage(Stage[LabelSetsConfig]):
    """Scores the classes of each map, makes probabilities of the scores, decides, and finds where each label is.

    Known labels (the reviewed file) calibrate scores: isotonic curves with shrinkage on one half of them, limits by
    target precision on the other; without any, scores count as probabilities. Answers of people move the probability of
    their own question alone: people are asked what is doubtful, which says nothing of the rest. Nothing is dropped
    here: a `filter` on `outcome` or `suspect` does that. Memory: the maps of a part, known labels of all parts (about
    300 bytes each).
    """

    kind = "label_sets"
    VERSION = 2
    Config = LabelSetsConfig
    not_hashed = frozenset(_FILES)

    _urls: Mapping[str, tuple[str, ...]] = {}
    _sha256: Mapping[str, list[str]] = {}
    _answers = weigh_answers(())

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
        # workers may have another working folder
        self._urls = {option: tuple(map(_absolute, self.config.files(option))) for option in _FILES}
        if self._urls["class_names"] and self.config.class_names in SHIPPED:
            self._urls = {**self._urls, "class_names": self.config.files("class_names")}
        self._sha256 = {option: self._hashed(option) for option in _FILES}
        try:
            assert (self._classes, self._relations, self._reviewed) is not None
        except InputError as error:  # the readers name options of `curate evaluate`
            said = str(error)
            for theirs, ours in (("--labels-order", "reviewed_order"), ("--classes", "class_names")):
                said = said.replace(theirs, ours)
            raise InputError(f"stage {self.context.step}: {said}") from error
        while True:  # people may be answering right now: what is read once is what the whole run knows
            self._answers = weigh_answers(self._urls["votes"])
            if (now := self._hashed("votes")) == self._sha256["votes"]:
                return
            self._sha256 = {**self._sha256, "votes": now}

    def _hashed(self, option: str) -> list[str]:
        urls_ = self._urls[option]
        if option == "class_names" and urls_ and urls_[0] in SHIPPED:
            return list(urls_)
        return [hashlib.sha256(read_bytes(one)).hexdigest() for one in urls_]

    def identity(self) -> dict[str, Any]:
        """What the files hold."""
        return dict(self._sha256)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_reviewed", "_relations")}

    # --- files ------------------------------------------------------------------------------------------------------

    def _has(self, option: str) -> bool:
        return bool(self._urls.get(option))

    def _file(self, option: str) -> str | None:
        """The file of an option, which must be as it was when the run began: its content names what is stored."""
        if not self._has(option):
            return None
        if self._hashed(option) != self._sha256[option]:
            raise InputError(
                f"stage {self.context.step}: {option} {self._urls[option][0]} has changed since this run began; run "
                "again with files that stay as they are."
            )
        return self._urls[option][0]

    @cached_property
    def _classes(self) -> ClassList:
        url = self._file("class_names")
        return ClassList({}) if url is None else read_classes(url)

    @cached_property
    def _relations(self) -> Relations | None:
        url = self._file("relations")
        return None if url is None else Relations.build(read_relations(url, self._classes))

    @cached_property
    def _reviewed(self) -> Reviewed:
        """Truths of the reviewed images; those that are problematic are left out."""
        url = self._file("reviewed")
        if url is None:
            return Reviewed({})
        order: RowOrder | None = None
        if (named := self._file("reviewed_order")) is not None:
            order = read_order(named)
        sets: LabelSets = read_label_sets(url, order, self._classes)
        bad = sets.problematic or [False] * len(sets.names)
        unclear: list[list[int]] = sets.unclear or [[] for _ in sets.names]
        rows = zip(sets.names, sets.labels, unclear, bad, strict=True)
        return Reviewed({name: (set(labels), set(open_)) for name, labels, open_, wrong in rows if not wrong}, url)

    # --- what is known of all images ----------------------------------------------------------------------------------

    def summarise(self, part: Part, totals: Totals, state: State) -> dict[str, NDArray[Any]]:
        """Labels that were given; scores and truths of the pairs that are known."""
        index = self.reads()[0]
        labels = part.columns(f"{index}.label")[f"{index}.label"].drop_nulls().unique().sort().to_list()
        found: dict[str, NDArray[Any]] = {"labels": np.asarray(labels, dtype=np.str_)}
        if self._has("votes"):
            uids = part.columns(f"{index}.uid_hi", f"{index}.uid_lo").rename(lambda name: name.rpartition(".")[2])
            questions = self._answers.join(uids.unique(), on=["uid_hi", "uid_lo"], how="semi")
            found["asked"] = np.asarray(questions.height)
        if not self._has("reviewed"):
            return found
        frame = part.columns(*(f"{index}.{name}" for name in ("uid_hi", "uid_lo", "key")), f"{self._maps}.map_row")
        frame = frame.rename({c: c.rpartition(".")[2] for c in frame.columns}).with_row_index("row")
        held = self._held(part, frame)
        keys = {row: key for row, key in frame.select("row", "key").iter_rows() if row in held}
        names = {row: self._reviewed.whole(key) for row, key in keys.items()}
        ends = {row: self._reviewed.last(key) for row, key in keys.items()}
        pairs = self._candidates(held, frame, self._answers)
        either = [(row, names[row] or next(iter(ends[row]), None)) for row in pairs["row"]]
        truth = np.full(pairs.height, -1, dtype=np.int8)
        for place, ((_, name), number) in enumerate(zip(either, pairs["class"], strict=True)):
            true, open_ = self._reviewed.truths[name] if name is not None else (set(), {number})
            truth[place] = -1 if number in open_ else number in true
        rows = truth >= 0
        told = pairs.filter(pl.Series(rows))
        return found | {
            "score": told["score"].to_numpy().astype(np.float32),
            "class": told["class"].to_numpy(),
            "truth": truth[rows].astype(bool),
            "half": (told["uid_lo"].to_numpy() & np.uint64(1)).astype(bool),
            "by_name": np.array([names[row] is not None for row, _ in either], dtype=bool)[rows],
            "names": np.array([name for name in names.values() if name is not None], dtype=np.str_),
            "ends": np.array([name for some in ends.values() for name in some], dtype=np.str_),
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
        told, shown = {"images": 0, "pairs": 0, "true": 0}, False
        if self._has("reviewed"):
            by_name = by_whole_names(
                (piece["names"] for piece in pieces),
                (piece["ends"] for piece in pieces),
                str(self.config.reviewed),
                step,
            )
            images = sum(len(piece["names" if by_name else "ends"]) for piece in pieces)
            if not images:
                raise InputError(
                    f"stage {step}: none of the {len(self._reviewed):,} images of {self.config.reviewed} is in the "
                    "input; its names must be those of the samples, such as ILSVRC2012_val_00000001"
                )
            score, classes, truth, half, whole = (
                np.concatenate([piece[name] for piece in pieces])
                for name in ("score", "class", "truth", "half", "by_name")
            )
            pairs = Pairs(score.astype(np.float64), classes.astype(np.int64), truth, half).where(whole == by_name)
            told = {"images": images, "pairs": len(pairs.truth), "true": int(pairs.truth.sum())}
            curves, limits, shown = fit(pairs, info.classes, self.config.precision, step)
        if self.config.keep is not None:
            limits = np.full(info.classes, self.config.keep)
        numbers, said = self._numbers(labels, info.classes)
        names = {number: label for label, number in numbers.items()} | self._classes.names
        return {
            "curves": curves,
            "keep": limits,
            "answers": self._answers,
            "label_sets": {
                "known": told,
                "calibrated": bool(curves.height),
                "precision_shown": shown,
                "questions": {
                    "answered": self._answers.height,
                    "of_this_input": sum(int(piece.get("asked", 0)) for piece in pieces),
                },
                "given": said,
                "numbers": numbers,
                "names": {str(number): names[number] for number in sorted(names)},
            },
        }

    def _fitting(self, classes: int) -> None:
        """Raises InputError for a file that names classes which the maps do not know."""
        related = self._relations
        highest = {
            "reviewed": self._reviewed.highest,
            "relations": -1 if related is None else len(related.same) - 1,
            "class_names": max(self._classes.names, default=-1),
        }
        highest["votes"] = -1 if self._answers.is_empty() else int(self._answers["class"].to_numpy().max())
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

    def _numbers(self, labels: set[str], classes: int) -> tuple[dict[str, int], str]:
        """Class number of each given label, and how it is known; none when it is not."""
        known = self._classes.numbers or from_wnids(labels, least=classes).numbers
        found = {label: int(label) if label.isascii() and label.isdigit() else known.get(label, -1) for label in labels}
        if not labels:
            return {}, NO_LABELS
        lost = sorted(label for label, number in found.items() if not 0 <= number < classes)
        known_ = {label: found[label] for label in sorted(set(found) - set(lost))}
        if not lost:
            return known_, KNOWN
        if not known_:
            return {}, f"the label {lost[0]!r} is none of the {classes:,} classes; give class_names"
        more = f" and {len(lost) - 1:,} more are" if len(lost) > 1 else " is"
        return known_, f"the label {lost[0]!r}{more} none of the {classes:,} classes; their images are not compared"

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
        evidence = pairs["evidence"].to_numpy()
        p = updated(p, evidence)
        decided = decide(
            pairs["row"].to_numpy(),
            pairs["class"].to_numpy().astype(np.int64),
            p,
            frame.height,
            keep=limits,
            drop=np.minimum(self.config.drop, limits),
            relations=self._relations,
            original=original,
            # what people said makes a probability of its own, whatever the scores of a class are worth
            own=np.where(evidence != 0, self.config.precision if self.config.keep is None else np.inf, np.inf),
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
