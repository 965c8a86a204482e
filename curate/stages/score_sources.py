"""From tables of a user to small records: what each row says of which sample. Helper of `score_table.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.errors import InputError, SpecError
from curate.formats import score_arrays
from curate.formats.datacomp import Subset, records
from curate.formats.score_tables import Batch, ScoreTable, numbers, open_table, read_table, truths, whole_numbers
from curate.formats.value_lists import code_texts
from curate.pruning import portable
from curate.pruning.metrics import predictions, training
from curate.store.uids import make_uid

UID, KEY, NAME = "uid", "key", "name"
KEYS = ("key", "keys", "image_path", "path", "file", "filename", "file_name", "image", "name", "sample", "image_id")
UIDS = ("uid", "uids")
SCORES = ("score", "scores", "value")
KNOWN = (*KEYS, *UIDS, *SCORES)
MASK, CORRECTNESS, TEST = "trainset_mask", "trainset_correctness", "testset_correctness"
LARGEST = training.NEVER_LEARNED
"""Scores lie in -2^30..2^30, so that they fit fixed point; infinity counts as the end."""
_IMAGES = (".jpeg", ".jpg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_SAMPLES = 1024
"""Samples of which the influence on all test samples is worked out together."""


def compared(value: str, on: str) -> str:
    """What of a text is compared: of a key all but the extension of an image, of a name no folder either."""
    value = value.strip()
    if on in (KEY, NAME):
        dot = value.rfind(".")
        if dot > 0 and value[dot:].lower() in _IMAGES:
            value = value[:dot]
        if on == NAME:
            value = value.rpartition("/")[2]
    return value


def codes(values: pl.Series, on: str) -> Subset:
    """128-bit codes of texts, as `compared`; of uids the uid."""
    texts = [compared("" if value is None else str(value), on) for value in values.to_list()]
    if on != UID:
        return code_texts(texts)
    pairs = [make_uid(text or "-", "", "", "")[:2] for text in texts]
    hi, lo = (np.asarray(side, dtype=np.uint64) for side in zip(*pairs, strict=True)) if pairs else ([], [])
    return records(np.asarray(hi, dtype=np.uint64), np.asarray(lo, dtype=np.uint64))


@dataclass(frozen=True)
class Source:
    """One table, and how its rows find samples."""

    table: ScoreTable
    model: int
    rows: int
    """Samples, or rows that each name one."""
    key: str | None
    """The column that names the sample; None: `order` does, row by row."""
    order: ScoreTable | None
    order_column: str

    def named(self, start: int, stop: int) -> pl.Series:
        """Texts of `order` for rows [start, stop)."""
        assert self.order is not None
        chunks = [batch[self.order_column] for _, batch in read_table(self.order, [self.order_column], start, stop)]
        return (
            pl.concat([chunk for chunk in chunks if isinstance(chunk, pl.Series)])
            if chunks
            else pl.Series([], dtype=pl.String)
        )

    @property
    def label(self) -> bool:
        """Whether the table gives the own class."""
        return "label" in self.table.fields

    @property
    def outputs(self) -> str:
        """The column of the model's outputs: probabilities or logits. Raises InputError when there is none."""
        for name in ("probabilities", "logits"):
            if name in self.table.fields and self.table.fields[name].kind == "vector":
                return name
        raise InputError(
            f"{self.table.url}: there is no column probabilities or logits with a list in every row; it has "
            f"{self.table.described()}"
        )

    def needs(self, *names: str) -> None:
        """Raise InputError unless the table has one of these columns."""
        if not any(name in self.table.fields for name in names):
            raise InputError(
                f"{self.table.url}: there is no column {' or '.join(names)}; it has {self.table.described()}"
            )


def open_source(
    table: ScoreTable, model: int, on: str, key: str | None, order: tuple[ScoreTable, str] | None
) -> Source:
    """How the rows of an opened table find samples. Raises InputError when nothing names them."""
    rows = table.arrays[MASK].shape[1] if MASK in table.arrays else table.rows
    column = key
    if key is None:
        wanted = UIDS if on == UID else (on, *KEYS)
        column = next((name for name in wanted if name in table.fields), None)
        texts = [name for name, one in table.fields.items() if one.kind == "text"]
        if column is None and len(texts) == 1:
            column = texts[0]
    elif key not in table.fields:
        raise InputError(f"{table.url}: there is no column {key}; it has {table.described()}")
    if column is None and order is None:
        raise InputError(
            f"{table.url}: no column names the samples (it has {table.described()}); name it with the option key, or "
            "give order: FILE, a list of the samples in the order of the rows"
        )
    if column is None and order is not None and order[0].rows != rows:
        more = order[0].rows - rows
        hint = "; perhaps a head line is taken for a value, or the other way round" if abs(more) == 1 else ""
        raise InputError(
            f"{order[0].url}: names {order[0].rows:,} samples but {table.url} has {rows:,} rows{hint}; give the list "
            "that belongs to it"
        )
    if (
        MASK not in table.arrays
        and column is not None
        and table.kind == "npz"
        and table.arrays[column].shape[0] != rows
    ):
        raise InputError(f"{table.url}: its arrays have different lengths; every one needs a row for each sample")
    return Source(table, model, rows, column, order[0] if column is None and order else None, order[1] if order else "")


def open_order(url: str) -> tuple[ScoreTable, str]:
    """A list of samples in row order, and its column: the only one, or the one with a known name."""
    table = open_table(url, KNOWN)
    texts = [name for name, one in table.fields.items() if one.kind == "text"] or list(table.fields)
    column = next((name for name in (*UIDS, *KEYS) if name in texts), texts[0])
    return table, column


def score_column(table: ScoreTable, key: str | None, given: str | None) -> str:
    """The column of ready scores. Raises InputError when it is not clear which."""
    if given is not None:
        if given not in table.fields:
            raise InputError(f"{table.url}: there is no column {given}; it has {table.described()}")
        return given
    number = [name for name, one in table.fields.items() if one.kind == "number" and name != key]
    named = [name for name in SCORES if name in number]
    if named or len(number) == 1:
        return (named or number)[0]
    raise InputError(
        f"{table.url}: has {len(number)} columns of numbers besides the key, so which is the score? Name it with the "
        f"option column; it has {table.described()}"
    )


# --- what a row says --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """How the tables of one metric are read; small and picklable."""

    metric: str
    mode: str
    """value: a score each row; vector: outputs of a model, to meet the label; look: right or wrong at an epoch;
    counts: models trained with and without the sample, right and all."""
    width: int = 0
    """Classes, in mode vector."""
    outputs: str = "<f8"
    column: str = ""
    sign: float = 1.0
    classes: Mapping[str, int] | None = None

    def payload(self) -> list[tuple[Any, ...]]:
        """Fields of a record beside its code and place."""
        if self.mode == "value":
            return [("value", "f8")]
        if self.mode == "vector":
            return [("norm", "f8"), ("values", self.outputs, (self.width,))]
        if self.mode == "look":
            return [("said", "i8")]
        return [("counts", "i4", (4,))]

    def columns(self, source: Source) -> list[str]:
        """Columns of the table that are read, the key apart."""
        fields = source.table.fields
        if self.metric == "imported":
            return [self.column]
        if self.mode == "look":
            return [name for name in ("epoch", "correct", "predicted", "label") if name in fields]
        if self.mode == "counts":
            return [name for name in ("model", "in_subset", "correct") if name in fields]
        extra = ["label"] if self.mode == "value" and self.metric != "entropy" else []
        norm = ["features" if "features" in fields else "feature_norm"] if self.metric == "grand" else []
        return [source.outputs, *extra, *norm]

    def read(self, source: Source, first: int, batch: Batch) -> dict[str, NDArray[Any]]:
        """Payload of a batch, and `model` (uint64), which must be one of a kind for each sample."""
        table, rows = source.table, len(next(iter(batch.values())))
        model = np.full(rows, source.model, dtype=np.uint64)
        if self.metric == "imported":
            return {"value": self._ready(table, first, batch[self.column]), "model": model}
        if self.mode == "look":
            return self._look(source, first, batch, model)
        if self.mode == "counts":
            if "model" in batch:
                texts = pl.Series(batch["model"]).cast(pl.String).fill_null("")
                model = code_texts(texts.to_list())["f1"].astype(np.uint64)
            right = truths(table, "correct", first, pl.Series(batch["correct"]))
            inside = (
                truths(table, "in_subset", first, pl.Series(batch["in_subset"]))
                if "in_subset" in batch
                else right | True
            )
            counts = np.stack([inside & right, inside, ~inside & right, ~inside], axis=1).astype(np.int32)
            return {"counts": counts, "model": model}
        values = np.asarray(batch[source.outputs])
        norm = self._norm(table, first, batch) if self.metric == "grand" else np.zeros(rows)
        logits = source.outputs == "logits"
        check_outputs(values, logits, table, first)
        if self.mode == "vector":
            return {"values": values, "norm": norm, "model": model}
        wide = outputs_of(values, logits)
        y = None if self.metric == "entropy" else self._labels(table, first, batch, wide.shape[1])
        return {"value": wide_score(self.metric, wide, y, norm), "model": model}

    def _ready(self, table: ScoreTable, first: int, column: Any) -> NDArray[np.float64]:
        values = self.sign * numbers(table, self.column, first, pl.Series(column))
        values = np.where(np.isinf(values), np.copysign(LARGEST, values), values)
        if (bad := np.abs(values) > LARGEST).any():
            row = int(bad.argmax())
            raise InputError(
                f"{table.url}: {table.place(first + row)}: the score {values[row]:g} is beyond 2^30; scale the scores"
            )
        return values

    def _look(self, source: Source, first: int, batch: Batch, model: NDArray[Any]) -> dict[str, NDArray[Any]]:
        table = source.table
        if "epoch" in batch:
            model = (whole_numbers(table, "epoch", first, pl.Series(batch["epoch"])) + 2**62).astype(np.uint64)
        if "correct" in batch:
            return {
                "said": -1 - truths(table, "correct", first, pl.Series(batch["correct"])).astype(np.int64),
                "model": model,
            }
        said = self._class_numbers(table, "predicted", first, pl.Series(batch["predicted"]))
        if "label" in batch:
            said = -1 - (said == self._class_numbers(table, "label", first, pl.Series(batch["label"]))).astype(np.int64)
        return {"said": said, "model": model}

    def _norm(self, table: ScoreTable, first: int, batch: Batch) -> NDArray[np.float64]:
        if "features" in batch:
            h = np.asarray(batch["features"]).astype(np.float64)
            return portable.row_sums(h * h)
        norm = numbers(table, "feature_norm", first, pl.Series(batch["feature_norm"]))
        return np.asarray(norm * norm)

    def _labels(self, table: ScoreTable, first: int, batch: Batch, classes: int) -> NDArray[np.int64]:
        y = self._class_numbers(table, "label", first, pl.Series(batch["label"]))
        if (bad := (y < 0) | (y >= classes)).any():
            row = int(bad.argmax())
            raise InputError(
                f"{table.url}: {table.place(first + row)}: the label is class {y[row]:,}, but there are {classes:,} "
                "outputs"
            )
        return y

    def _class_numbers(self, table: ScoreTable, name: str, first: int, column: pl.Series) -> NDArray[np.int64]:
        if self.classes is None:
            return whole_numbers(table, name, first, column)
        texts = column.cast(pl.String).str.strip_chars().to_list()
        unknown = next((i for i, text in enumerate(texts) if text not in self.classes), None)
        if unknown is not None:
            raise InputError(
                f"{table.url}: {table.place(first + unknown)}: the {name} {texts[unknown]!r} is not in the list classes"
            )
        return np.asarray([self.classes[text] for text in texts], dtype=np.int64)


def outputs_of(values: NDArray[Any], logits: bool) -> NDArray[np.float64]:
    """Probabilities, float64 [n, c], of the outputs as they stand in a table."""
    wide = values.astype(np.float64)
    return predictions.softmax(wide) if logits else wide


def check_outputs(values: NDArray[Any], logits: bool, table: ScoreTable, first: int) -> None:
    """Raise InputError with the place of an output that is not finite, or is no probability where it should be."""
    if (bad := ~np.isfinite(values).all(axis=1)).any():
        row = first + int(bad.argmax())
        raise InputError(f"{table.url}: {table.place(row)}: an output is NaN or infinite; mend it")
    if not logits:
        try:
            predictions.checked(values.astype(np.float64))
        except InputError as error:
            raise InputError(f"{table.url}: rows from {table.place(first)} on: {error}") from error


def wide_score(
    metric: str, p: NDArray[np.float64], y: NDArray[np.int64] | None, norm: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The score of outputs of one model by the metric's name."""
    if metric == "entropy" or y is None:
        return predictions.entropy(p)
    if metric == "el2n":
        return predictions.el2n(p, y)
    if metric == "grand":
        return predictions.grand_of_norm(p, y, norm)
    if metric == "margin":
        return predictions.margin(p, y)
    if metric == "ddd":
        return predictions.wrong(p, y).astype(np.float64)
    raise SpecError(f"{metric} is not made of a model's outputs")


def masks(source: Source, reading: Reading, start: int, stop: int) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
    """Payload of samples [start, stop) of masks [models, samples]. Memory: models x (samples + tests) bytes."""
    arrays, url = source.table.arrays, source.table.url
    inside = score_arrays.read_columns(url, arrays[MASK], start, stop) != 0
    if reading.metric == "memorization":
        right = score_arrays.read_columns(url, arrays[CORRECTNESS], start, stop) != 0
        counts = training.subset_counts(inside, right).T.astype(np.int32)
        yield start, {"counts": counts, "model": np.full(stop - start, source.model, dtype=np.uint64)}
        return
    tests = score_arrays.read_columns(url, arrays[TEST], 0, arrays[TEST].shape[1]) != 0
    rule: Any = "max" if reading.metric == "influence-max" else "sum_abs"
    for first in range(start, stop, _SAMPLES):
        block = inside[:, first - start : first - start + _SAMPLES]
        value = training.influence(block, tests, rule)
        yield first, {"value": value, "model": np.full(len(value), source.model, dtype=np.uint64)}
