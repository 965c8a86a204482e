"""`curate explain`: the story of one sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from curate.cli.output import cell, clean, line, print_json, size, stdout
from curate.errors import SpecError
from curate.pipeline import api
from curate.pipeline.explain import StepStory, Story
from curate.pipeline.explain import explain as stories_of
from curate.pipeline.explain_labels import labels_sentence, map_sentence

_MOST_TEXT = 120


def explain(
    uid: Annotated[str, typer.Argument(metavar="[UID]", help="uid of the sample, 32 hex digits; left out with --key.")],
    workspace: Annotated[str | None, typer.Argument(help="Workspace of the run.", show_default=False)] = None,
    key: Annotated[str | None, typer.Option("--key", help="Look for this key instead of a uid.")] = None,
    shard: Annotated[str | None, typer.Option("--shard", help="Only in this shard of the input (with --key).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a machine-readable answer on stdout.")] = False,
) -> int:
    """Tell the story of a sample: where it is, what each step found, why it stayed or went, where it is released."""
    if key is None and workspace is None:
        raise SpecError("two things are needed: curate explain UID WORKSPACE, or curate explain WORKSPACE --key KEY")
    if key is not None and workspace is not None:
        raise SpecError("give a uid or --key, not both: curate explain WORKSPACE --key KEY")
    if shard is not None and key is None:
        raise SpecError("--shard goes with --key; a uid names one sample by itself")
    run = api.open_run(uid if workspace is None else workspace)
    stories = stories_of(run, uid=None if key is not None else uid, key=key, shard=shard)
    if as_json:
        print_json({"run": run.record.name, "plan": run.record.plan, "samples": [story.as_dict() for story in stories]})
        return 0
    console = stdout()
    if len(stories) > 1:
        line(console, f"{len(stories)} samples have this {'uid' if key is None else 'key'}; each is told by itself:")
    for number, story in enumerate(stories):
        if number or len(stories) > 1:
            line(console, "")
        for text, style in _lines(story):
            line(console, clean(text), style)
    return 0


def _lines(story: Story) -> Iterator[tuple[str, str]]:
    yield f"{story.uid}   key {story.key}   in {story.shard}", "bold"
    members = ", ".join(f".{m['ext']} {size(m['nbytes'])}" for m in story.members) or "no members"
    width = max(len(name) for name in ("at the end", *(step.step for step in story.steps)))
    yield f"  {'members':<{width}} {members}", ""
    for step in story.steps:
        style = "red" if step.verdict == "dropped" else "dim" if step.verdict.startswith("not") else ""
        yield f"  {step.step:<{width}} {_sentence(step, story)}", style
        if step.verdict == "dropped":
            later = story.steps[story.steps.index(step) + 1 :]
            if later:
                judges = ", ".join(s.step for s in later if s.verdict != "made")
                yield f"  {'':<{width}} so it was not judged by {judges}", "dim"
            return
    if not story.alive:
        return
    if story.release is not None:
        yield f"  {'release':<{width}} in {story.release} as {story.released_as}.*", "green"
    elif any(step.verdict == "not run yet" for step in story.steps):
        yield f"  {'so far':<{width}} still in; the run is not finished", ""
    else:
        yield f"  {'at the end':<{width}} still in; this run wrote no release", "green"


def _sentence(step: StepStory, story: Story) -> str:
    """What happened, in one line."""
    values, evidence = step.values, step.evidence
    if step.verdict == "not run yet":
        return "not run yet"
    if step.verdict == "not judged":
        return "not judged: an earlier step had dropped it"
    if step.kind == "index":
        return _index(values)
    if step.kind == "fractal":
        return _drawn(values, story)
    told = _told(step, story, values, evidence)
    if step.verdict == "made":
        return told or "nothing computed for it"
    verdict = "kept" if step.verdict == "kept" else f"dropped: {step.reason}"
    return f"{verdict}{'; ' if told else ''}{told}"


def _told(step: StepStory, story: Story, values: dict[str, Any], evidence: dict[str, Any]) -> str:
    if step.kind == "uids":
        if "first" in evidence:
            first = evidence["first"]
            return f"the sample {first['key']} in {first['shard']} has the same uid and comes first"
        return story.detail or ""
    if step.kind == "filter":
        return f"{evidence['where']}" + ("" if step.verdict == "kept" else " is not true for it")
    if step.kind == "lists" and step.verdict == "dropped":
        return _listed(evidence["column"], evidence["deny"] if step.reason == "denied" else evidence["allow"], step)
    if step.kind == "cluster" and "concept" in values:
        return f"concept {values['concept']}, cosine distance {values['distance']:.6f} to its centroid"
    if step.kind == "dedup-exact":
        return f"its image has the same bytes as {_other(evidence['keeper'])}" if "keeper" in evidence else ""
    if step.kind == "dedup-similarity":
        if "duplicate_of" not in evidence:
            return "no earlier sample is as similar"
        return f"cosine similarity {values['similarity']:.6f} to the earlier {_other(evidence['duplicate_of'])}"
    if step.kind in ("dedup", "dedup_hash") and "keeper" in evidence:
        told = f"cosine similarity {values['similarity']:.6f} to" if step.kind == "dedup" else _bits(values["distance"])
        told += f" {_other(evidence['duplicate_of'])}"
        if evidence["keeper"]["uid"] != evidence["duplicate_of"]["uid"]:
            told += f", for which {_other(evidence['keeper'])} stays"
        return told
    if step.kind == "dedup_hash-pairs":
        if "duplicate_of" not in evidence:
            return "no earlier sample has nearly the same hash"
        return f"{_bits(values['distance'])} the earlier {_other(evidence['duplicate_of'])}"
    if step.kind == "prune" and "quota" in evidence:
        rank = f"its score {values['score']} ranks {evidence['rank']:,} of" if "rank" in evidence else "one of"
        order = {"hard": "highest", "easy": "lowest", "middle": "around the median", "random": "drawn by the seed"}
        members, quota = evidence["size"], evidence["quota"]
        group = f"class {evidence['label']}" if "label" in evidence else f"concept {evidence['concept']}"
        return f"{rank} {members:,} in {group}, which keeps the {quota:,} {order[evidence['which']]}"
    if "map" in evidence:
        return map_sentence(evidence["map"])
    if "labels" in evidence:
        return labels_sentence(values, evidence)
    if step.kind == "hash":
        found = [f"{name} {values[name]:016x}" for name in ("phash", "dhash") if values.get(name) is not None]
        return ", ".join(found) or "no hash"
    return ", ".join(f"{name} {_short(value)}" for name, value in values.items())


def _bits(distance: int) -> str:
    return f"{distance} of 64 bits of its perceptual hash differ from"


def _listed(column: str, given: str | list[str], step: StepStory) -> str:
    files = [given] if isinstance(given, str) else given
    where = files[0] if len(files) == 1 else f"{'one' if step.reason == 'denied' else 'any'} of {', '.join(files)}"
    return f"its {column} stands {'' if step.reason == 'denied' else 'not '}in {where}"


def _index(values: dict[str, Any]) -> str:
    told = []
    if "width" in values:
        told.append(f"{values.get('format', 'image')} {values['width']} x {values['height']}")
    told += [f"{name} {_short(values[name])}" for name in ("caption", "label", "license") if name in values]
    if "sha256" in values:
        told.append(f"sha256 {values['sha256'][:16]}…")
    told.append(f"status {values['status']}")
    return ", ".join(told)


def _drawn(values: dict[str, Any], story: Story) -> str:
    numbers = ", ".join(map(str, values["labels"])) or "none with a label"
    what = f"{'class' if len(values['labels']) == 1 else 'classes'} {numbers}"
    made = f"image {values['index']:,} of {what}, {values['format']} {values['width']} x {values['height']}"
    folder = str(story.release).rpartition("/")[0]
    return f"{made}, sha256 {values['sha256'][:16]}…; again: curate fractal render {folder} {values['index']}"


def _other(other: dict[str, Any]) -> str:
    return f"{other['uid']} ({other['key']} in {other['shard']})" if other["key"] is not None else str(other["uid"])


def _short(value: Any) -> str:
    if isinstance(value, str):
        return repr(value if len(value) <= _MOST_TEXT else value[:_MOST_TEXT] + "…")
    return cell(value)
