"""From one part to its index rows, whatever the layout of the input."""

from __future__ import annotations

import polars as pl

from curate.formats.clip_retrieval import index_embeddings
from curate.formats.datacomp_metadata import index_datacomp
from curate.formats.folder import index_folder
from curate.formats.parquet import index_parquet
from curate.formats.samples import IndexOptions, PartNotes, Reader
from curate.formats.sources import PartSource
from curate.formats.webdataset import index_tars


def index_part(source: PartSource, options: IndexOptions) -> tuple[pl.DataFrame, PartNotes]:
    """Read a part once, front to back, into a frame of :func:`index_schema`: one row a sample, in tar order.

    A damaged sample is a row whose ``status`` and ``detail`` say so; a cut shard gives its readable prefix, and what
    happened to shards is in the notes. Only a file that cannot be opened or read raises (:class:`InputError`).

    ``members`` offsets and sizes are bytes inside the shard; for folder inputs ``file`` is the path relative to the
    root and the offset 0. ``caption`` is the member's text unchanged; ``label`` is the ``.cls`` text, else the class
    of folder or inner tar, else the json "label", else that of the table of labels. Fragments of scattered keys and
    repeated keys keep the uid their key gives.

    Memory: one member (``max_member_bytes``), the text members of one sample, and the rows of the part.
    """
    if source.kind == "datacomp":
        return index_datacomp(source, options)
    reader = Reader(options)
    if source.kind == "parquet":
        reader, notes = index_parquet(source, options)
    elif source.kind == "embeddings":
        reader, notes = index_embeddings(source, options)
    elif source.kind == "folder":
        index_folder(source, reader)
        notes = PartNotes(reader.rows)
    else:
        notes = index_tars(source, reader)
    return reader.frame(), reader.notes(notes)
