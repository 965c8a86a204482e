"""curate: shards in, a smaller better training set out, and for every sample the reason why it stayed or went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from curate.pipeline.api import Run, open_run, run

__all__ = ["Run", "__version__", "open_run", "run"]


def __getattr__(name: str) -> Any:
    """Load the API on first use, so that `import curate` costs nothing in a worker."""
    if name in {"Run", "open_run", "run"}:
        from curate.pipeline import api

        return getattr(api, name)
    raise AttributeError(f"module 'curate' has no attribute {name!r}")
