"""Which samples of a plan are dead letters, and a retry of them from its beginning to what is told of it.

A dead letter is a sample that a step set aside because something was wrong with it. Reasons that no second try can
change (a repeated uid) do not count. Broken shards are tried again with them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import polars as pl

from curate.engine.base import Engine, Need
from curate.errors import InputError, SpecError
from curate.formats.members import read_members
from curate.pipeline.jobs import Job, Parts
from curate.pipeline.plan import Plan, Step, name_states
from curate.pipeline.reporting import Reporter
from curate.pipeline.retries import Open, Retried, read_retries, write_retries
from curate.stages.sink import Sink
from curate.store.columns import read_columns
from curate.store.fingerprint import combine
from curate.store.groups import group_file, read_group


@dataclass
class Letters:
    """What is wrong with the stored state of a plan."""

    samples: int = 0
    shards: int = 0
    parts: dict[str, set[int]] = field(default_factory=dict)
    """Step -> parts of it that must be made again."""
    goes_on: bool = False
    """True when a retry that was stopped is to be continued as it is."""

    def __str__(self) -> str:
        told = [counted(self.samples, "dead letter")] + ([counted(self.shards, "broken shard")] if self.shards else [])
        return " and ".join(told)


def counted(n: int, what: str) -> str:
    """`1 dead letter`, `2 dead letters`."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def dead_letters(plan: Plan) -> Letters | None:
    """The dead letters of a plan's stored state, None when a step that could tell of some is not finished.

    Memory: the footers of one step.
    """
    found = Letters()
    for step in _telling(plan):
        if not plan.workspace.exists(f"{step.folder}/{group_file(step.group)}"):
            return None
        for part in read_group(plan.workspace, step.folder, step.group).parts:
            shards = sum(note.get("kind") == "shard" for note in part.notes)
            dead = 0
            if step.stage.quarantines:
                dead = sum(n for reason, n in part.counts.items() if reason not in step.stage.not_retried)
            found.samples, found.shards = found.samples + dead, found.shards + shards
            if dead:
                found.parts.setdefault(step.stage.retries(), set()).add(part.part)
            if shards:
                found.parts.setdefault(step.name, set()).add(part.part)
    return found


def _telling(plan: Plan) -> Iterator[Step]:
    """Steps that may set samples aside, and those that read shards."""
    return (s for s in plan.steps if (s.stage.quarantines or s.stage.first) and not isinstance(s.stage, Sink))


def _states(plan: Plan) -> str:
    return combine(step.group for step in _telling(plan))


def find(plan: Plan) -> Letters:
    """What a retry has to try again. Raises SpecError when a step that could tell of dead letters is not finished."""
    begun = plan.retries.open
    if begun is not None and begun.states == _states(plan):
        return Letters(begun.samples, begun.shards, goes_on=True)
    if (found := dead_letters(plan)) is not None:
        return found
    missing = next(s for s in _telling(plan) if not plan.workspace.exists(f"{s.folder}/{group_file(s.group)}"))
    raise SpecError(
        f"--retry-failed: step {missing.name} of this pipeline has not finished in {plan.workspace.where()}, so nobody "
        "knows yet which samples fail; run the same command without --retry-failed first, to its end"
    )


def begin(plan: Plan, found: Letters, engine: Engine, reporter: Reporter) -> None:
    """Give the parts that hold dead letters new names, in the plan and in `retries.json`, and say so.

    Where the bytes of a failed sample are no longer those that were indexed, the part is indexed anew as well.
    Raises StorageError.
    """
    if found.goes_on:
        reporter.say(f"  a retry that was stopped goes on: {found} before it")
        return
    if not found.parts:
        reporter.say("  no dead letters: nothing is tried again")
        return
    first = plan.steps[0].name
    for step in plan.steps:
        if (own := found.parts.get(step.name)) and step.name != first:
            todo = sorted(own - found.parts.get(first, set()))
            items = [Parts((replace(plan.part(i, step.name), fingerprint=step.parts[i]),)) for i in todo]
            job = Changed(plan.workspace, step.name, step.stage, step.folder, step.whole)
            with reporter.phase(step.name, "look at failed samples", len(items), "part", 0, False) as progress:
                for done in engine.map(job, items, Need(cpus=1.0)):
                    progress.advance(1, 0)
                    if done.result:
                        found.parts.setdefault(first, set()).add(done.item.parts[0].index)
    for step in plan.steps:
        name_states(plan, step, found.parts.get(step.name, ()))
    plan.retries.open = Open(states=_states(plan), samples=found.samples, shards=found.shards)
    write_retries(plan.workspace, plan.retries)
    parts = set().union(*found.parts.values())
    reporter.say(f"  trying again: {found}, in {counted(len(parts), 'part')} of {len(plan.sources):,}")


@dataclass(frozen=True)
class Changed(Job):
    """Whether failed samples of a part are other bytes now than when they were indexed."""

    def __call__(self, item: Parts) -> bool:
        """Read the images of the failed rows again. Memory: two blocks of a shard."""
        part = item.parts[0]
        failed = read_columns(self.workspace, self.folder, part.index, part.fingerprint, ["keep", "reason"])
        dead = ~pl.col("keep") & ~pl.col("reason").is_in(sorted(self.stage.not_retried))
        index = part.layers[0].step
        frame = part.columns(*(f"{index}.{name}" for name in ("shard", "members", "ext", "sha256")))
        rows = frame.rename(lambda name: name.rpartition(".")[2]).filter(failed.select(dead).to_series())
        exts = rows["ext"].to_list()
        try:
            for at, members in read_members(part.source, rows, {ext.lower() for ext in exts if ext is not None}):
                if hashlib.sha256(members[exts[at]]).hexdigest() != rows["sha256"][at]:
                    return True
        except InputError:
            return True  # shorter than it was, or gone: the index says how
        return False


def finish(plan: Plan) -> Retried | None:
    """What came of a retry, once the plan is done; None when none was begun. It is then told, and so closed."""
    begun = plan.retries.open
    if begun is None or begun.states != _states(plan) or (now := dead_letters(plan)) is None:
        return None
    record = read_retries(plan.workspace)
    if record.open == begun:  # else another driver has begun one of its own meanwhile
        record.open = None
        write_retries(plan.workspace, record)
    return Retried(
        samples=begun.samples,
        good=max(0, begun.samples - now.samples),
        shards=begun.shards,
        mended=max(0, begun.shards - now.shards),
    )


def sentence(retried: Retried) -> str:
    """What is told of a retry."""
    if not retried.samples and not retried.shards:
        return "no dead letters: nothing was tried again"
    told = []
    if retried.samples:
        told.append(f"{counted(retried.samples, 'dead letter')} tried again: {_now(retried.good, 'good')}")
    if retried.shards:
        told.append(f"{counted(retried.shards, 'broken shard')} read again: {_now(retried.mended, 'whole')}")
    return "; ".join(told)


def _now(n: int, what: str) -> str:
    return f"{n:,} {'is' if n == 1 else 'are'} {what} now"
