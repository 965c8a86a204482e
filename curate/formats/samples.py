"""One row a sample, whatever the layout of the input: what is there, what it says, what is wrong with it.

What never lives here: decisions about samples (stages), decoding of pixels (curate.store.images does the header).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import polars as pl

from curate.formats.fields import FIELD_TYPES, fit
from curate.formats.labels import LabelSource, labels_of
from curate.formats.tar import check_name, printable, split_name
from curate.store.images import ImageInfo, probe
from curate.store.uids import make_uid

MEMBER = pl.Struct({"ext": pl.String, "offset": pl.UInt64, "nbytes": pl.UInt64, "file": pl.String})
#: Columns of the index group, in order; the same for a part without rows.
INDEX_SCHEMA: dict[str, pl.DataType] = {
    "uid_hi": pl.UInt64(),
    "uid_lo": pl.UInt64(),
    "key": pl.String(),
    "shard": pl.UInt32(),
    "members": pl.List(MEMBER),
    "ext": pl.String(),
    "format": pl.String(),
    "width": pl.UInt32(),
    "height": pl.UInt32(),
    "sha256": pl.String(),
    "caption": pl.String(),
    "label": pl.String(),
    "license": pl.String(),
    "source_uid": pl.String(),
    "status": pl.String(),
    "detail": pl.String(),
}
#: Every value of ``status``. Where several apply, the earlier one in this order is given.
STATUSES = (
    "ok", "not_downloaded", "bad_name", "unsafe_name", "scattered_members", "duplicate_key", "cut_tar",
    "too_many_bytes", "missing_image", "empty_image", "not_an_image", "bad_image", "too_many_pixels", "bad_json",
    "missing_caption", "bad_caption", "bad_label", "bad_uid",
)  # fmt: skip
#: Statuses that say what an earlier tool left out: such samples are dropped, but nothing is wrong with the input.
UPSTREAM_STATUSES = ("not_downloaded",)


@dataclass(frozen=True, slots=True)
class IndexOptions:
    """How members are read. Extensions are compared in lower case; ``image_exts`` are in order of preference.

    ``caption_ext`` None: no captions. Limits: pixels of an image, bytes of any member, bytes of a text member.
    ``fields``: further columns as (name, type), see fields.py. ``labels``: a table for samples without a label.
    ``embeddings``: the folder, where the input is one of ready embeddings. ``datacomp``: the folder, where it is one of
    DataComp metadata. Either way samples have no members.
    """

    input_name: str
    image_exts: tuple[str, ...] = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
    caption_ext: str | None = None
    caption_required: bool = False
    label_ext: str | None = "cls"
    max_pixels: int = 100_000_000
    max_member_bytes: int = 256 << 20
    max_text_bytes: int = 16 << 20
    fields: tuple[tuple[str, str], ...] = ()
    labels: LabelSource | None = None
    embeddings: str | None = None
    datacomp: str | None = None

    @property
    def bare(self) -> bool:
        """Whether samples have no members, so that there are no bytes to embed or to copy."""
        return self.embeddings is not None or self.datacomp is not None


def index_schema(options: IndexOptions) -> dict[str, pl.DataType]:
    """Columns of the index group under these options: :data:`INDEX_SCHEMA`, then ``fields`` in their order."""
    return INDEX_SCHEMA | {name: FIELD_TYPES[kind] for name, kind in options.fields}


@dataclass(frozen=True, slots=True)
class ShardProblem:
    """A shard that did not end as it should: reason as in TarEnd, byte offset, a sentence, rows read before it."""

    shard: str
    reason: str
    offset: int
    detail: str
    rows: int

    @property
    def lossy(self) -> bool:
        """Whether samples may be missing (all reasons but a mere missing end mark)."""
        return self.reason != "no_end_mark"

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class PartNotes:
    """What rows cannot say: shards that broke, members that are no sample's.

    ``skipped``: members that are no regular files, by kind. ``ignored``: regular members without a key (no extension,
    hidden, webdataset's ``__meta__``) with the first ten of their names. ``misfits``: values of another type than
    their field has, by field. ``unlabelled``: samples without a label of their own that the table of labels does not
    name, with the first ten of their keys. ``more``: notes of a layout of its own, as JSON objects with a ``kind``.
    """

    rows: int
    problems: tuple[ShardProblem, ...] = ()
    skipped: dict[str, int] = field(default_factory=dict)
    ignored: int = 0
    ignored_names: tuple[str, ...] = ()
    misfits: dict[str, int] = field(default_factory=dict)
    unlabelled: int = 0
    unlabelled_keys: tuple[str, ...] = ()
    more: tuple[dict[str, Any], ...] = ()

    def as_dicts(self) -> list[dict[str, Any]]:
        """What is worth a line in the report, as JSON objects with a ``kind``.

        ``shard``: a broken shard (the fields of ShardProblem, and ``lossy``). ``ignored``: members that belong to no
        sample. ``skipped``: members that are no regular files, by type; directories are normal and left out.
        ``fields``: values that do not have the type of their field. ``labels``: samples that found no label.
        """
        notes: list[dict[str, Any]] = [{"kind": "shard", **p.as_dict(), "lossy": p.lossy} for p in self.problems]
        if self.ignored:
            notes.append({"kind": "ignored", "members": self.ignored, "names": list(self.ignored_names)})
        odd = {kind: n for kind, n in sorted(self.skipped.items()) if kind != "directory"}
        if odd:
            notes.append({"kind": "skipped", "members": sum(odd.values()), "types": odd})
        if self.misfits:
            notes.append({"kind": "fields", "values": dict(sorted(self.misfits.items()))})
        if self.unlabelled:
            notes.append({"kind": "labels", "samples": self.unlabelled, "keys": list(self.unlabelled_keys)})
        return notes + list(self.more)


class Draft:
    """One sample while its members arrive."""

    __slots__ = ("cut", "exts", "images", "key", "large", "members", "name_problem", "texts")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.members: list[dict[str, Any]] = []
        self.exts: set[str] = set()
        self.images: dict[str, tuple[ImageInfo, str]] = {}
        self.texts: dict[str, bytes] = {}
        self.name_problem: tuple[str, str] | None = None
        self.large: str | None = None
        self.cut: str | None = None


class Reader:
    """Collects rows under fixed options."""

    def __init__(self, options: IndexOptions) -> None:
        self.options = options
        self.images = {ext.lower(): rank for rank, ext in reversed(list(enumerate(options.image_exts)))}
        self.caption = options.caption_ext.lower() if options.caption_ext else None
        self.label = options.label_ext.lower() if options.label_ext else None
        self.wanted = {*self.images, "json", *(e for e in (self.caption, self.label) if e)}
        self.schema = index_schema(options)
        self.columns: dict[str, list[Any]] = {name: [] for name in self.schema}
        self.table = labels_of(options.labels) if options.labels else None
        self.misfits: Counter[str] = Counter()
        self.unlabelled: list[str] = []
        self.unlabelled_count = 0

    @property
    def rows(self) -> int:
        """Rows written so far."""
        return len(self.columns["status"])

    def is_wanted(self, raw: bytes) -> bool:
        """Whether a member of this name has to be read."""
        named = split_name(raw)
        return named is not None and named[1] in self.wanted

    def add(self, draft: Draft, raw: bytes, ext: str, offset: int, nbytes: int, data: bytes | None, file: str | None,
            ) -> None:  # fmt: skip
        """One more member of a sample."""
        draft.exts.add(ext)
        draft.members.append({"ext": ext, "offset": offset, "nbytes": nbytes, "file": file})
        draft.name_problem = draft.name_problem or check_name(raw)
        limit = self.options.max_member_bytes if ext in self.images else self.options.max_text_bytes
        if nbytes > self.options.max_member_bytes or (ext in self.wanted and nbytes > limit):
            limit = min(limit, self.options.max_member_bytes) if ext in self.wanted else self.options.max_member_bytes
            draft.large = draft.large or f"member {ext!r} has {nbytes:,} bytes, more than {limit:,}"
        elif data is not None and ext in self.images:
            draft.images[ext] = probe(data, self.options.max_pixels), hashlib.sha256(data).hexdigest()
        elif data is not None:
            draft.texts[ext] = data

    def finish(
        self,
        draft: Draft,
        rel: str,
        shard: int,
        folder_label: str | None = None,
        given: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the row of a sample whose members are all there.

        ``given``: what is known of the sample by name (uid, label, license, fields), in place of a json member.
        """
        problems: list[tuple[str, str | None]] = []
        if draft.name_problem:
            problems.append(draft.name_problem)
        if draft.cut:
            problems.append(("cut_tar", draft.cut))
        if draft.large:
            problems.append(("too_many_bytes", draft.large))
        ext = min((e for e in draft.exts if e in self.images), key=self.images.__getitem__, default=None)
        image, sha256 = draft.images.get(ext, (None, None)) if ext else (None, None)
        if ext is None:
            has = ", ".join(sorted(draft.exts)) or "nothing"
            wanted = "/".join(sorted(self.images, key=self.images.__getitem__))
            problems.append(("missing_image", f"no member ends in {wanted}; it has {has}"))
        elif image and image.status != "ok":
            problems.append((image.status, image.detail))
        fields = self._json(draft, problems) if given is None else given
        caption = self._text(draft, self.caption, "bad_caption", problems)
        if caption is None and self.options.caption_required and self.caption not in draft.exts:
            problems.append(("missing_caption", f"no member ends in {self.caption or 'the caption extension'}"))
        label = self._text(draft, self.label, "bad_label", problems)
        label = label.strip() or None if label is not None else folder_label or _scalar(fields.get("label"))
        if self.table is not None and label is None:
            label = self._look_up(printable(draft.key))
        license_ = fields.get("license")
        hi, lo, source = make_uid(_json_uid(fields.get("uid")), self.options.input_name, rel, draft.key)
        status, detail = problems[0] if problems else ("ok", None)
        values = (
            hi, lo, printable(draft.key), shard, draft.members, ext, image and image.format, image and image.width,
            image and image.height, sha256, caption, label, _clean(license_) if isinstance(license_, str) else None,
            source and _clean(source), status, detail, *self._fields(fields),
        )  # fmt: skip
        for column, value in zip(self.columns.values(), values, strict=True):
            column.append(value)

    def absent(
        self, key: bytes, rel: str, shard: int, status: str, detail: str | None, given: Mapping[str, Any]
    ) -> None:
        """Write the row of a sample that has no members: uid, caption, label, license and fields are as ``given``."""
        caption = given.get("caption") if self.caption else None
        license_ = given.get("license")
        hi, lo, source = make_uid(_json_uid(given.get("uid")), self.options.input_name, rel, key)
        values = (
            hi, lo, printable(key), shard, [], None, None, None, None, None,
            _clean(caption) if isinstance(caption, str) else None, _scalar(given.get("label")),
            _clean(license_) if isinstance(license_, str) else None, source and _clean(source), status, detail,
            *self._fields(given),
        )  # fmt: skip
        for column, value in zip(self.columns.values(), values, strict=True):
            column.append(value)

    def notes(self, notes: PartNotes) -> PartNotes:
        """The notes of a layout, with what every layout has to tell."""
        return replace(
            notes,
            misfits=dict(self.misfits),
            unlabelled=self.unlabelled_count,
            unlabelled_keys=tuple(self.unlabelled),
        )

    def frame(self) -> pl.DataFrame:
        """All rows so far, as a frame of :func:`index_schema`."""
        return _frame(self)

    def flag(self, row: int, status: str, detail: str) -> None:
        """Give a written row a status, unless its name is bad already."""
        if self.columns["status"][row] not in ("bad_name", "unsafe_name"):
            self.columns["status"][row], self.columns["detail"][row] = status, detail

    def _look_up(self, key: str) -> str | None:
        assert self.table is not None
        label = self.table.get(key)
        if label is None:
            self.unlabelled_count += 1
            if len(self.unlabelled) < 10:
                self.unlabelled.append(key)
        return label

    def _fields(self, found: Mapping[str, Any]) -> list[Any]:
        """Values of the further columns; one of another type is null and counted."""
        values = []
        for name, kind in self.options.fields:
            value, fits = fit(kind, found.get(name))
            if not fits:
                self.misfits[name] += 1
            values.append(value)
        return values

    def _json(self, draft: Draft, problems: list[tuple[str, str | None]]) -> dict[str, Any]:
        data = draft.texts.get("json")
        if data is None:
            return {}
        try:
            value = json.loads(data.decode("utf-8-sig"))
        except (ValueError, RecursionError) as err:
            reason = "nested too deeply" if isinstance(err, RecursionError) else str(err)[:200]
            problems.append(("bad_json", f"the json member is not JSON ({printable(reason.encode())})"))
            return {}
        return value if isinstance(value, dict) else {}

    def _text(self, draft: Draft, ext: str | None, status: str, problems: list[tuple[str, str | None]]) -> str | None:
        data = draft.texts.get(ext) if ext else None
        if data is None:
            return None
        try:
            return data.decode()
        except UnicodeDecodeError as err:
            problems.append((status, f"the {ext} member is not UTF-8 (byte {err.start} is 0x{data[err.start]:02x})"))
            return None


def _frame(reader: Reader) -> pl.DataFrame:
    """The rows as a frame. Members are built flat and grouped: a list of dicts a row would take half the time."""
    columns = {name: values for name, values in reader.columns.items() if name != "members"}
    schema = {name: kind for name, kind in reader.schema.items() if name != "members"}
    members = reader.columns["members"]
    flat = [m for row in members for m in row]
    lists = (
        pl.DataFrame(
            {"row": [n for n, row in enumerate(members) for _ in row]}
            | {f.name: [m[f.name] for m in flat] for f in MEMBER.fields},
            schema={"row": pl.UInt32} | {f.name: f.dtype for f in MEMBER.fields},
        )
        .select("row", members=pl.struct(pl.exclude("row")))
        .group_by("row", maintain_order=True)
        .agg("members")
    )
    rows = pl.DataFrame({"row": pl.int_range(len(members), dtype=pl.UInt32, eager=True)})
    joined = rows.join(lists, on="row", how="left", maintain_order="left")["members"]
    frame = pl.DataFrame(columns, schema=schema, strict=True).with_columns(members=joined)
    return frame.with_columns(pl.col("members").fill_null([])).select(list(reader.schema))


def _json_uid(value: Any) -> str | None:
    """The json "uid" as text; null and "" count as absent, other types as their JSON text."""
    if value is None or isinstance(value, str):
        return value or None
    return json.dumps(value, sort_keys=True)


def _scalar(value: Any) -> str | None:
    if isinstance(value, str):
        return _clean(value) or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _clean(text: str) -> str:
    """Lone surrogates, which no UTF-8 column can hold, replaced by question marks."""
    return text.encode("utf-8", "replace").decode()
