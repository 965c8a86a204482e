"""`${NAME}` in the values of a pipeline file.

`${NAME}` is the variable of the environment, `${NAME:-text}` is `text` when the variable is unset or empty, and
`$${` is a literal `${`. Only values are expanded, never keys, and what a variable holds is not expanded again.
An unquoted value follows the typing rules of YAML after expansion, as if the text had been written there
(`keep: ${KEEP}` with KEEP=0.3 is a number); a quoted one stays text, and the loader types it only where the option
takes no text, because inside `{...}` YAML does not allow `${` without quotes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from curate.pipeline.locate import resolve_scalar
from curate.pipeline.problems import Finding, Path, nearest

_PART = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


@dataclass
class Expansion:
    """The tree with variables replaced; `unexpanded` is the tree as it was, the one that may be written down.

    `other` holds, for each expanded value, the reading that was not taken: its text, or its typed value.
    """

    tree: Any
    unexpanded: Any
    other: dict[Path, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def expand(tree: Any, env: Mapping[str, str], plain: Mapping[Path, str]) -> Expansion:
    """Return `tree` with variables replaced; `plain` names the unquoted scalars. The input tree is not changed."""
    result = Expansion(None, tree)
    result.tree = _expand(tree, (), env, plain, result)
    return result


def _expand(node: Any, path: Path, env: Mapping[str, str], plain: Mapping[Path, str], result: Expansion) -> Any:
    if isinstance(node, dict):
        return {key: _expand(value, (*path, key), env, plain, result) for key, value in node.items()}
    if isinstance(node, list):
        return [_expand(value, (*path, index), env, plain, result) for index, value in enumerate(node)]
    if not isinstance(node, str) or "${" not in node:
        return node
    found = len(result.findings)
    text = _PART.sub(lambda match: _value(match, path, env, result.findings), node)
    if len(result.findings) > found:
        return node
    typed = resolve_scalar(text)
    readings = (typed, text) if path in plain else (text, typed)
    result.other[path] = readings[1]
    return readings[0]


def _value(match: re.Match[str], path: Path, env: Mapping[str, str], findings: list[Finding]) -> str:
    if match[0] == "$${":
        return "${"
    named = _NAME.fullmatch(match[1])
    if named is None or not match[2]:
        message = "a variable is written ${NAME} or ${NAME:-default}; write $${ for the text ${"
        findings.append(Finding(path, message))
        return ""
    name, default = named[1], named[2]
    value = env.get(name)
    if value is None and default is None:
        message = f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}"
        findings.append(Finding(path, message, nearest(name, env)))
        return ""
    text = value if value or default is None else default
    assert text is not None
    if not text.isprintable():
        findings.append(Finding(path, f"the environment variable {name} holds control characters or is not UTF-8"))
        return ""
    return text
