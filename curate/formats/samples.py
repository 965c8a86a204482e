"""One row a sample, whatever the layout of the input: what is there, what it says, what is wrong with it.

What never lives here: decisions about samples (stages), decoding of pixels (curate.store.images does the header).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

import polars as pl

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
    "ok", "bad_name", "unsafe_name", "scattered_members", "duplicate_key", "cut_tar", "too_many_bytes",
    "missing_image", "empty_image", "not_an_image", "bad_image", "too_many_pixels", "bad_json", "missing_caption",
    "bad_caption", "bad_label",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class IndexOptions:
    """How members are read. Extensions are compared in lower case; ``image_exts`` are in order of preference.

    ``caption_ext`` None: no captions. Limits: pixels of an image, bytes of any member, bytes of a text member.
    """

    input_name: str
    image_exts: tuple[str, ...] = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
    caption_ext: str | None = None
    caption_required: bool = False
    label_ext: str | None = "cls"
    max_pixels: int = 100_000_000
    max_member_bytes: int = 256 << 20
    max_text_bytes: int = 16 << 20


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
    hidden, webdataset's ``__meta__``) with the first ten of their names.
    """

    rows: int
    problems: tuple[ShardProblem, ...] = ()
    skipped: dict[str, int] = field(default_factory=dict)
    ignored: int = 0
    ignored_names: tuple[str, ...] = ()

    def as_dicts(self) -> list[dict[str, Any]]:
        """What is worth a line in the report, as JSON objects with a ``kind``.

        ``shard``: a broken shard (the fields of ShardProblem, and ``lossy``). ``ignored``: members that belong to no
        sample. ``skipped``: members that are no regular files, by type; directories are normal and left out.
        """
        notes: list[dict[str, Any]] = [{"kind": "shard", **p.as_dict(), "lossy": p.lossy} for p in self.problems]
        if self.ignored:
            notes.append({"kind": "ignored", "members": self.ignored, "names": list(self.ignored_names)})
        odd = {kind: n for kind, n in sorted(self.skipped.items()) if kind != "directory"}
        if odd:
            notes.append({"kind": "skipped", "members": sum(odd.values()), "types": odd})
        return notes


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
        self.columns: dict[str, list[Any]] = {name: [] for name in INDEX_SCHEMA}

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

    def finish(self, draft: Draft, rel: str, shard: int, folder_label: str | None = None) -> None:
        """Write the row of a sample whose members are all there."""
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
        fields = self._json(draft, problems)
        caption = self._text(draft, self.caption, "bad_caption", problems)
        if caption is None and self.options.caption_required and self.caption not in draft.exts:
            problems.append(("missing_caption", f"no member ends in {self.caption or 'the caption extension'}"))
        label = self._text(draft, self.label, "bad_label", problems)
        label = label.strip() or None if label is not None else folder_label or _scalar(fields.get("label"))
        license_ = fields.get("license")
        hi, lo, source = make_uid(_json_uid(fields.get("uid")), self.options.input_name, rel, draft.key)
        status, detail = problems[0] if problems else ("ok", None)
        values = (
            hi, lo, printable(draft.key), shard, draft.members, ext, image and image.format, image and image.width,
            image and image.height, sha256, caption, label, _clean(license_) if isinstance(license_, str) else None,
            source and _clean(source), status, detail,
        )  # fmt: skip
        for column, value in zip(self.columns.values(), values, strict=True):
            column.append(value)

    def frame(self) -> pl.DataFrame:
        """All rows so far, as a frame of :data:`INDEX_SCHEMA`."""
        return _frame(self)

    def flag(self, row: int, status: str, detail: str) -> None:
        """Give a written row a status, unless its name is bad already."""
        if self.columns["status"][row] not in ("bad_name", "unsafe_name"):
            self.columns["status"][row], self.columns["detail"][row] = status, detail

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
    schema = {name: kind for name, kind in INDEX_SCHEMA.items() if name != "members"}
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
    return frame.with_columns(pl.col("members").fill_null([])).select(list(INDEX_SCHEMA))


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
