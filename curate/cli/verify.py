"""`curate verify`: recompute every checksum and count of a release."""

from __future__ import annotations

from typing import Annotated

import typer

from curate.cli.output import clean, count, line, print_json, size, stderr, stdout
from curate.engine.progress import Phase
from curate.errors import VerifyError
from curate.pipeline.verify import verify_release
from curate.store.manifest import read_manifest
from curate.store.workspace import Workspace

SHOWN = 200
"""Lines of violations for people; --json gives all."""


def verify(
    release: Annotated[str, typer.Argument(help="Folder or URL of a release (the one with manifest.json).")],
    workers: Annotated[int, typer.Option("--workers", min=1, help="Threads that read and hash.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="Print a machine-readable answer on stdout.")] = False,
) -> int:
    """Check every file, checksum, sample and count of a release; all that is wrong is named, not only the first."""
    place = Workspace(release)
    manifest = read_manifest(place)
    shards = sum(name.endswith(".tar") or name.startswith("dropped.") for name in manifest.files)
    with Phase(stderr(), "verify", shards, "file", 0, quiet=as_json) as progress:
        found = verify_release(place, workers=workers, advance=lambda n: progress.advance(n, 0))
    if as_json:
        print_json(found.as_dict())
    elif not found.ok:
        console = stdout()
        for violation in found.violations[:SHOWN]:
            line(console, clean(str(violation)))
        if len(found.violations) > SHOWN:
            line(console, f"... and {len(found.violations) - SHOWN:,} more; --json lists all")
    if not found.ok:
        raise VerifyError(
            f"{place.where()} is not as its manifest says: {count(len(found.violations), 'violation')} in "
            f"{count(len({v.file for v in found.violations}), 'file')}; get it again, or run the pipeline again"
        )
    if not as_json:
        what = f"{count(found.samples, 'sample')} in {count(found.shards, 'shard')}, {count(found.files, 'file')}"
        line(stdout(), f"ok: {what}, {size(found.nbytes)} verified in {found.seconds:.1f} s", "green")
    return 0
