"""The questions that a run has for people about its labels: which, in which order, and what to look at.

Each is of one image and one class of its `label_sets` step. What never lives here: what an answer is worth
(stages/label_sets_fit.py), the order itself (relabel/queue.py), and how questions are shown (review_server.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from curate.errors import CurateError, InputError, SpecError
from curate.formats.decisions import ANSWERS, Decisions, read_decisions
from curate.pipeline.api import Run
from curate.pipeline.load import load
from curate.pipeline.plan import input_sources
from curate.pipeline.samples import Sample
from curate.pipeline.write_labels import Known, known_of, steps_of
from curate.relabel.queue import mixed, priorities, ranked
from curate.stages import configs
from curate.stages.label_sets_fit import logit, updated, weigh_answers
from curate.store import urls
from curate.store.columns import read_columns
from curate.store.uids import format_uid

LEAST, MOST = 0.05, 0.95
"""Probabilities outside are settled."""
EXAMPLES = 6
"""Pictures of a class beside a question."""
_QUESTION = ("uid_hi", "uid_lo", "class")
_BOX = ("y0", "x0", "y1", "x1")


@dataclass(frozen=True, slots=True)
class Question:
    """Does this image show this class? ``box``: (top, left, bottom, right) as shares of the image, None = nowhere.

    ``known``: the answer, of a golden question.
    """

    sample: Sample
    number: int
    name: str
    probability: float | None
    kept: bool
    votes: int
    suspect: bool
    priority: float
    box: tuple[float, float, float, float] | None
    known: str | None = None

    @property
    def text(self) -> str:
        """The question in words."""
        return f"Does this image show: {self.name}?"

    def as_dict(self) -> dict[str, Any]:
        """For a line of `--list`."""
        return {
            "uid": self.sample.uid,
            "class": self.number,
            "question": self.text,
            "priority": self.priority,
            "probability": self.probability,
            "kept": self.kept,
            "votes": self.votes,
            "suspect": self.suspect,
            "key": self.sample.key,
            "box": self.box,
        }


@dataclass(frozen=True, slots=True)
class Asking:
    """What a rater wants to be asked."""

    rater: str
    questions: int = 200
    per_class: int | None = None
    balanced: bool = False
    golden: str | None = None
    golden_every: int = 10


class Review:
    """The questions of one rater about a finished run; ``questions`` are in the order in which they are asked.

    decisions: the file that answers are added to; what is in it, and in the files of the step's own `votes`, counts
    already: questions that the rater has answered, and those that answers have settled, are not asked.
    Memory: labels of one part; 150 bytes a label of all parts that is not settled.
    Raises SpecError for a run without label sets, InputError for files that are no decisions.
    """

    def __init__(self, run: Run, asking: Asking, decisions: Path) -> None:
        found = steps_of(run)[1]
        if found is None:
            raise SpecError(
                f"{run.workspace.url}: this run has no finished label_sets stage, so there is nothing to ask; "
                "add the stages relabel and label_sets to the pipeline and run it."
            )
        self.run, self.step, self.asking, self.decisions = _with_input(run), found, asking, decisions
        self._known = known_of(run, found)
        self._names = {number: label for label, number in self._known.numbers.items()} | self._known.classes.names
        self._keep = np.asarray(run.artifacts(found)["keep"], dtype=np.float64)
        self._before = _evidence(run.artifacts(found)["answers"], "before")
        self._answers = self._read()
        self.questions = self._mixed()
        self.examples = _examples(run, found, self._known, sorted({one.number for one in self.questions}))

    def settled(self) -> list[int]:
        """Places of the questions that answers, also of other raters meanwhile, have settled."""
        asked = pl.DataFrame(
            [(*_uid(one), one.number, one.probability, one.kept, one.votes) for one in self.questions],
            schema={
                "uid_hi": pl.UInt64, "uid_lo": pl.UInt64, "class": pl.UInt32, "probability": pl.Float64,
                "kept": pl.Boolean, "stood": pl.UInt32,
            },
            orient="row",
        )  # fmt: skip
        now = asked.join(
            _evidence(weigh_answers(self._files()), "now"), on=_QUESTION, how="left", maintain_order="left"
        )
        mine = _evidence(self._answers, "then")
        now = now.join(mine, on=_QUESTION, how="left", maintain_order="left").with_columns(
            pl.col("now", "then", "votes_now").fill_null(0)
        )
        p = _moved(now["probability"].fill_null(0.5).to_numpy(), now["then"].to_numpy(), now["now"].to_numpy())
        more = (now["votes_now"] > now["stood"]).to_numpy()
        golden = np.array([one.known is not None for one in self.questions], dtype=bool)
        return [int(i) for i in np.flatnonzero(more & ~golden & ((p < LEAST) | (p > MOST)))]

    # --- what is known ----------------------------------------------------------------------------------------------

    def _files(self) -> list[str]:
        """The step's own files of votes, and the decisions; each once."""
        given = self.run.group(self.step).config.get("votes") or []
        files = {str(urls.resolve(one)[1]): one for one in ([given] if isinstance(given, str) else given)}
        if self.decisions.exists():
            files.setdefault(str(urls.resolve(str(self.decisions))[1]), str(self.decisions))
        return list(files.values())

    def _read(self) -> pl.DataFrame:
        return weigh_answers(self._files())

    def _own(self) -> pl.DataFrame:
        """The questions that this rater has answered."""
        told = read_decisions(self._files())
        mine = np.array([name == self.asking.rater for name in told.names], dtype=bool)
        return _questions_of(told, mine[told.raters] if len(told) else np.zeros(0, dtype=bool))

    # --- questions --------------------------------------------------------------------------------------------------

    def _mixed(self) -> tuple[Question, ...]:
        own, asking = self._own(), self.asking
        golden = self._golden(own)
        taken = {(*_uid(one), one.number) for one in golden}
        table = self._open(own)
        taken_rows = pl.Series([key in taken for key in table.select(_QUESTION).iter_rows()], dtype=pl.Boolean)
        table = table.filter(~taken_rows)
        order = ranked(
            table["priority"].to_numpy(),
            table["class"].to_numpy().astype(np.int64),
            table["image"].to_numpy(),
            limit=asking.questions,
            per_class=asking.per_class,
        )
        plain = [self._question(row) for row in table[order].iter_rows(named=True)]
        seed = int.from_bytes(hashlib.blake2b(asking.rater.encode(), digest_size=4).digest(), "little")
        places = mixed(len(plain), len(golden), asking.golden_every, seed)
        return tuple(golden[i] if is_golden else plain[i] for is_golden, i in places)

    def _open(self, own: pl.DataFrame) -> pl.DataFrame:
        """Labels worth asking, with what answers say now: probability, kept, votes, priority, and image, a number."""
        tables, images = [], 0
        kept = np.zeros(len(self._keep), dtype=np.int64)
        now = _evidence(self._answers, "now")
        for part, table in _parts(self.run, self.step, ("uid_hi", "uid_lo", "key")):
            flat = _flat(table).with_columns(pl.col("row").cast(pl.Int64).add(images).alias("image"), part=pl.lit(part))
            images += table.height
            kept += np.bincount(
                flat.filter(pl.col("decision") == "keep")["class"].to_numpy().astype(np.int64), minlength=len(kept)
            )
            flat = flat.join(self._before, on=_QUESTION, how="left", maintain_order="left")
            flat = flat.join(now, on=_QUESTION, how="left", maintain_order="left")
            flat = flat.with_columns(pl.col("before", "now", "votes_now").fill_null(0))
            p = flat["probability"].cast(pl.Float64).to_numpy()
            before, after = flat["before"].to_numpy(), flat["now"].to_numpy()
            changed = np.abs(after - before) > 1e-9
            new = _moved(p, before, after)
            limit = self._keep[flat["class"].to_numpy().astype(np.int64)]
            holds = np.where(changed, new >= limit, (flat["decision"] == "keep").to_numpy())
            flat = flat.with_columns(
                probability=pl.Series(new),
                kept=pl.Series(holds),
                votes=pl.col("votes_now"),
                # one answer, and it is as settled as other questions are
                doubted=pl.col("suspect") & (pl.col("votes_now") == 0),
            )
            doubt = pl.col("doubted") & pl.col("kept")
            flat = flat.filter(pl.col("probability").is_between(LEAST, MOST) | doubt)
            tables.append(flat.join(own, on=_QUESTION, how="anti", maintain_order="left"))
        table = pl.concat(tables)
        priority = priorities(
            table["probability"].to_numpy(),
            table["kept"].to_numpy(),
            table["class"].to_numpy().astype(np.int64),
            suspect=table["doubted"].to_numpy(),
            weight=1 / np.maximum(kept, 1) if self.asking.balanced else None,
            least=LEAST,
            most=MOST,
        )
        return table.with_columns(priority=pl.Series(priority))

    def _golden(self, own: pl.DataFrame) -> list[Question]:
        """Questions with a known answer that are about images of this run, in an order that uids decide."""
        if self.asking.golden is None:
            return []
        told = read_decisions([self.asking.golden])
        asked = _questions_of(told, np.ones(len(told), dtype=bool)).with_columns(
            known=pl.Series([ANSWERS[answer] for answer in told.answers], dtype=pl.String)
        )
        asked = asked.unique(_QUESTION, keep="last", maintain_order=True)
        found = []
        for part, table in _parts(self.run, self.step, ("uid_hi", "uid_lo", "key")):
            here = table.join(asked, on=("uid_hi", "uid_lo"), how="inner", maintain_order="left")
            if here.height:
                labels = _flat(table).select(*_QUESTION, "probability", "decision", "votes", *_BOX)
                here = here.drop("labels").join(labels, on=_QUESTION, how="left", maintain_order="left")
                found.append(here.with_columns(part=pl.lit(part)))
        if not found:
            raise InputError(
                f"{self.asking.golden}: none of its {asked.height:,} questions is about an image of this run."
            )
        table = pl.concat(found).unique(_QUESTION, keep="first", maintain_order=True)
        table = table.join(own, on=_QUESTION, how="anti", maintain_order="left").with_columns(
            pl.col("votes", "suspect").fill_null(0),
            pl.col("probability").cast(pl.Float64),
            kept=(pl.col("decision") == "keep").fill_null(value=False),
            priority=0.0,
        )
        made = [self._question(row) for row in table.iter_rows(named=True)]
        return sorted(made, key=lambda one: hashlib.blake2b(f"{one.sample.uid}:{one.number}".encode()).digest())

    def _question(self, row: Mapping[str, Any]) -> Question:
        box = None if row["y0"] is None else (row["y0"], row["x0"], row["y1"], row["x1"])
        number = int(row["class"])
        return Question(
            sample=_sample(row),
            number=number,
            name=self._names.get(number, f"class {number}"),
            probability=row["probability"],
            kept=row["kept"],
            votes=int(row["votes"]),
            suspect=bool(row["suspect"]),
            priority=row["priority"],
            box=box,
            known=row.get("known"),
        )


def _with_input(run: Run) -> Run:
    """A run that was opened knows only its workspace; this finds its input again, if it is still there."""
    if run.sources:
        return run
    try:
        spec = load(run.record.spec, registry=configs()).spec
        sources, _ = input_sources(spec, run.record.limit_shards)
    except CurateError:
        return run
    same = len(sources) == len(run.group(run.record.steps[0].name).parts)
    return Run(run.workspace, run.record, sources) if same else run


def _examples(run: Run, step: str, known: Known, classes: Sequence[int]) -> dict[int, tuple[Sample, ...]]:
    """Images that are most probably of each class: those that came with this label first, then other kept ones."""
    numbers = pl.Series(classes, dtype=pl.UInt32)
    best = pl.DataFrame()
    for part, table in _parts(run, step, ("uid_hi", "uid_lo", "key", "label")):
        given = pl.Series([known.numbers.get(label, -1) for label in table["label"]], dtype=pl.Int64)
        flat = _flat(table.with_columns(given=given)).filter(pl.col("class").is_in(numbers.implode()))
        flat = flat.with_columns(same=pl.col("given") == pl.col("class").cast(pl.Int64), part=pl.lit(part))
        flat = flat.filter(pl.col("same") | (pl.col("decision") == "keep"))
        flat = flat.select(*_QUESTION, "key", "part", "row", "same", "probability")
        best = pl.concat([best, flat]) if best.width else flat
        best = best.sort(
            "class", "same", "probability", "uid_hi", "uid_lo", descending=[False, True, True, False, False]
        )
        best = best.group_by("class", maintain_order=True).head(EXAMPLES + 1)
    found: dict[int, tuple[Sample, ...]] = {}
    for row in best.iter_rows(named=True):
        found[row["class"]] = (*found.get(row["class"], ()), _sample(row))
    return found


def _parts(run: Run, step: str, columns: Sequence[str]) -> Iterator[tuple[int, pl.DataFrame]]:
    """Columns of the index, and labels and suspect, of the images of each part that have labels."""
    index = run.group(run.record.steps[0].name)
    sets = run.group(step)
    for number, part in enumerate(index.parts):
        frames = [
            read_columns(run.workspace, group.folder, part.part, group.parts[number].fingerprint, list(names))
            for group, names in ((index, columns), (sets, ("labels", "suspect", "outcome")))
        ]
        table = pl.concat(frames, how="horizontal").with_row_index("row")
        yield number, table.filter(pl.col("outcome").is_not_null())


def _flat(table: pl.DataFrame) -> pl.DataFrame:
    """One row a label."""
    return table.explode("labels").drop_nulls("labels").unnest("labels")


def _evidence(answers: pl.DataFrame, name: str) -> pl.DataFrame:
    """Evidence of each question as column `name`, and how many answers, as `votes_<name>`."""
    return answers.select(*_QUESTION, pl.col("evidence").alias(name), pl.col("votes").alias(f"votes_{name}"))


def _moved(p: Any, before: Any, after: Any) -> Any:
    """Probabilities that rest on evidence `before` (log odds, 0 = none), when it becomes `after`."""
    more = 1 / (1 + np.exp(-np.clip(logit(p) + after - before, -700, 700)))
    return np.where(np.abs(after - before) <= 1e-9, p, np.where(before == 0, updated(p, after), more))


def _questions_of(told: Decisions, rows: Any) -> pl.DataFrame:
    return pl.DataFrame(
        [told.uid_hi[rows], told.uid_lo[rows], told.classes[rows].astype(np.uint32)],
        schema={"uid_hi": pl.UInt64, "uid_lo": pl.UInt64, "class": pl.UInt32},
    )


def _sample(row: Mapping[str, Any]) -> Sample:
    return Sample(format_uid(row["uid_hi"], row["uid_lo"]), row["key"], row["part"], row["row"], {})


def _uid(one: Question) -> tuple[int, int]:
    uid = int(one.sample.uid, 16)
    return uid >> 64, uid & (1 << 64) - 1
