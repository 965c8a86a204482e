"""`--allow` and `--deny`: a `lists` stage right before what writes the release, so that a takedown is one option."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from curate.errors import SpecError
from curate.pipeline.load import Loaded
from curate.pipeline.problems import Path
from curate.pipeline.spec import StageEntry
from curate.stages import registry
from curate.stages.lists import ListsConfig, ListsStage
from curate.stages.sink import Sink


def with_lists(loaded: Loaded, allow: Sequence[str], deny: Sequence[str]) -> Loaded:
    """The pipeline with one more stage, before the first that writes files; as it is when there are no lists.

    A `lists` stage that the file has already keeps its own lists: a sample must pass both. Raises SpecError when no
    stage of the pipeline writes files.
    """
    if not allow and not deny:
        return loaded
    stages = loaded.spec.stages
    at = next((n for n, entry in enumerate(stages) if issubclass(registry()[entry.kind], Sink)), None)
    if at is None:
        raise SpecError("--allow and --deny rebuild a release, and this pipeline writes none; add - release at its end")
    if registry()[stages[at].kind].Config.makes_samples:
        raise SpecError(
            f"--allow and --deny leave samples out, and {stages[at].name} makes all of its own; give them to a second "
            "pipeline that reads its shards"
        )
    taken = {entry.name for entry in stages}
    name = next(n for n in (ListsStage.kind, *(f"{ListsStage.kind}_{i}" for i in range(2, 1000))) if n not in taken)
    options = {"name": name} | {role: list(files) for role, files in (("allow", allow), ("deny", deny)) if files}
    entry = StageEntry(kind=ListsStage.kind, name=name, config=ListsConfig.model_validate(options), line=None)
    tree = loaded.unexpanded | {"stages": list(loaded.unexpanded["stages"])}
    tree["stages"].insert(at, {ListsStage.kind: options})
    return replace(
        loaded,
        spec=loaded.spec.model_copy(update={"stages": (*stages[:at], entry, *stages[at:])}),
        unexpanded=tree,
        positions={_moved(path, at): place for path, place in loaded.positions.items()},
    )


def _moved(path: Path, at: int) -> Path:
    """Where a place of the file stands once a stage more comes before stage `at`."""
    if len(path) > 1 and path[0] == "stages" and isinstance(path[1], int) and path[1] >= at:
        return ("stages", path[1] + 1, *path[2:])
    return path
