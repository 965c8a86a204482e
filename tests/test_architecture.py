"""The house rules of docs/architecture.md, read off the syntax tree: who may import whom, and what no file may hold."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PURE_ROOMS = ("embed", "concepts", "dedup", "pruning", "filtering", "fractal", "relabel", "evaluate", "report")

# Files of more than 400 lines, each with its reason.
LONG_FILES: dict[str, str] = {
    "tests/stages/test_label_sets_stage.py": "one run of a small teacher serves all its tests",
}


@cache
def modules() -> dict[str, Path]:
    """Dotted name -> file of every module of the package."""
    found = {}
    for path in sorted((ROOT / "curate").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def is_type_checking(node: ast.If) -> bool:
    return ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def statements_at_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run when the module is imported: function bodies and TYPE_CHECKING blocks do not."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        yield node
        if isinstance(node, ast.If) and is_type_checking(node):
            yield from statements_at_import(node.orelse)
            continue
        for field in ("body", "orelse", "finalbody"):
            yield from statements_at_import(getattr(node, field, []))
        for handler in getattr(node, "handlers", []):
            yield from statements_at_import(handler.body)


def imported(node: ast.AST, names: dict[str, Path]) -> Iterator[str]:
    """Dotted names a statement imports; `from curate.formats import tar` gives the module curate.formats.tar."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"relative import in line {node.lineno}"
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            yield whole if whole in names else str(node.module)


def all_imports(path: Path) -> set[str]:
    return {name for node in ast.walk(tree_of(path)) for name in imported(node, modules())}


def room(module: str) -> str:
    """`curate.formats.tar` -> `formats`; `curate` -> ``."""
    return [*module.split("."), ""][1]


def breaches(of: str, allowed: set[str]) -> list[str]:
    """Imports of curate rooms by room `of` beyond itself and `allowed`, wherever in the file they stand."""
    return [
        f"{name} imports {target}"
        for name, path in modules().items()
        if room(name) == of
        for target in sorted(all_imports(path))
        if target.split(".")[0] == "curate" and room(target) not in allowed | {of}
    ]


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """One cycle of the graph as a path that ends where it starts, or an empty list (depth-first search)."""
    done: set[str] = set()

    def visit(node: str, trail: list[str]) -> list[str]:
        if node in trail:
            return [*trail[trail.index(node) :], node]
        if node in done:
            return []
        for after in sorted(graph.get(node, ())):
            if cycle := visit(after, [*trail, node]):
                return cycle
        done.add(node)
        return []

    return next((cycle for start in sorted(graph) if (cycle := visit(start, []))), [])


def sources() -> list[Path]:
    return [path for top in ("curate", "tests", "infra", "benchmarks") for path in sorted((ROOT / top).rglob("*.py"))]


def test_only_the_engine_imports_ray() -> None:
    offenders = [
        name
        for name, path in modules().items()
        if room(name) != "engine" and any(target.split(".")[0] == "ray" for target in all_imports(path))
    ]
    assert not offenders, f"`ray` is imported outside curate/engine by {offenders}"


@pytest.mark.parametrize("name", PURE_ROOMS)
def test_a_pure_room_imports_no_other_room(name: str) -> None:
    assert not breaches(name, {"errors"})


def test_the_store_imports_no_other_room() -> None:
    assert not breaches("store", {"errors"})


def test_formats_know_files_not_stages() -> None:
    assert not breaches("formats", {"errors", "store"})


def test_the_engine_knows_parts_not_images() -> None:
    assert not breaches("engine", {"errors", "store"})


@pytest.mark.parametrize(("name", "forbidden"), [("stages", {"pipeline", "cli"}), ("pipeline", {"cli"})])
def test_imports_point_inward(name: str, forbidden: set[str]) -> None:
    everything = {room(module) for module in modules()}
    assert not breaches(name, everything - forbidden)


def test_errors_import_nothing_of_ours() -> None:
    assert not breaches("errors", set())


def test_no_import_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for name, path in modules().items():
        targets = {t for node in statements_at_import(tree_of(path).body) for t in imported(node, modules())}
        graph[name] = {t for t in targets if t in modules() and t != name}
    cycle = find_cycle(graph)
    assert not cycle, "import cycle: " + " -> ".join(cycle)


def test_the_cycle_finder_finds_cycles() -> None:
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert find_cycle({"a": {"a"}}) == ["a", "a"]


def test_the_import_reader_reads_imports() -> None:
    names = {"curate.formats": Path(), "curate.formats.tar": Path()}
    code = (
        "from curate.formats import tar, Sample\nimport ray.util as u\n"
        "if TYPE_CHECKING:\n    import numpy\nelse:\n    import os\n"
        "try:\n    import a\nexcept ImportError:\n    import b\n"
        "class C:\n    import c\n"
        "def f():\n    import d\n"
    )
    tree = ast.parse(code)
    at_import = {t for node in statements_at_import(tree.body) for t in imported(node, names)}
    assert at_import == {"curate.formats.tar", "curate.formats", "ray.util", "os", "a", "b", "c"}
    anywhere = {t for node in ast.walk(tree) for t in imported(node, names)}
    assert anywhere == at_import | {"numpy", "d"}


def test_no_file_is_long_without_a_reason() -> None:
    lines = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in sources()}
    assert {name: count for name, count in lines.items() if count > 400 and name not in LONG_FILES} == {}
    assert [name for name in LONG_FILES if lines.get(name, 0) <= 400] == [], "these no longer need their exception"


def test_no_unfinished_work() -> None:
    marks = ["TO" + "DO", "FIX" + "ME", "X" + "XX", "NotImplemented" + "Error"]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sources()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if any(mark in line for mark in marks)
    ]
    assert found == []


def executes_data(node: ast.AST) -> str:
    """What a node does that could turn input into code, or an empty string."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        unsafe = {name.split(".")[0] for name in imported(node, modules())} & {"pickle", "dill", "shelve", "marshal"}
        return f"imports {', '.join(sorted(unsafe))}" if unsafe else ""
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id in {"eval", "exec"}:
            return f"calls {node.func.id}"
        for keyword in node.keywords:
            setting = f"{keyword.arg}={ast.unparse(keyword.value)}"
            if setting in {"shell=True", "allow_pickle=True", "weights_only=False"}:
                return f"passes {setting}"
    return ""


def test_input_is_never_executed() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)} {what}"
        for path in modules().values()
        for node in ast.walk(tree_of(path))
        if (what := executes_data(node))
    ]
    assert found == []
