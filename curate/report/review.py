"""The page of `curate review`: one question at a time, answered by keys.

The page has its style and script inline, allowed by a nonce, and loads questions and pictures from where it came from.
"""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def render(title: str, rater: str, file: str, nonce: str) -> str:
    """The page. title: name of the run. file: where answers go, for the foot of the page."""
    return _template().render(title=title, rater=rater, file=file, nonce=nonce)


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("curate.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("review.html.j2")
