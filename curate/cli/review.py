"""`curate review`: questions about labels that a person answers on a local web page."""

from __future__ import annotations

import getpass
import json
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from curate.cli.output import clean, count, line, stderr
from curate.errors import SpecError


def review(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Workspace of a run with a label_sets stage.")],
    decisions: Annotated[
        str | None,
        typer.Option("--decisions", help="Local file that answers are added to; default: ./decisions.jsonl."),
    ] = None,
    rater: Annotated[
        str | None, typer.Option("--rater", help="Who answers; default: the name of your account.")
    ] = None,
    questions: Annotated[int, typer.Option("--questions", min=1, help="Ask at most this many.")] = 200,
    per_class: Annotated[
        int | None, typer.Option("--per-class", min=1, help="Ask at most this many about one class.")
    ] = None,
    balanced: Annotated[
        bool, typer.Option("--balanced", help="Count a change by the size of its class: rare classes come first.")
    ] = False,
    golden: Annotated[
        str | None, typer.Option("--golden", help="File of decisions that are known to be right, mixed in.")
    ] = None,
    golden_every: Annotated[
        int, typer.Option("--golden-every", min=2, help="One of this many questions is a known one.")
    ] = 10,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port of the page; 0 = any free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
    as_list: Annotated[
        bool, typer.Option("--list", help="Print the questions as JSON Lines and serve nothing.")
    ] = False,
) -> int:
    """Answer the questions about a run's labels that matter most, on a web page of this machine."""
    who = (rater if rater is not None else getpass.getuser()).strip()
    if not who:
        raise SpecError("--rater is empty; give the name of who answers")
    from curate.pipeline.api import open_run
    from curate.pipeline.review import Asking, Review
    from curate.pipeline.review_server import ReviewServer

    file = Path("decisions.jsonl" if decisions is None else decisions)
    asked = Asking(who, questions, per_class, balanced, golden, golden_every)
    made = Review(open_run(run), asked, file)
    if as_list:
        for one in made.questions:
            if one.known is None:
                sys.stdout.write(json.dumps(one.as_dict(), ensure_ascii=False) + "\n")
        return 0
    out = stderr()
    if not made.questions:
        line(out, "nothing to ask: every label is settled, or you have answered it", "green")
        return 0
    server = ReviewServer(made, port)
    line(out, f"{count(len(made.questions), 'question')} for {clean(who)}; answers go to {clean(str(file))}")
    line(out, f"open {server.url} on this machine; Ctrl-C ends", "bold")
    if browser:
        webbrowser.open(server.url)
    try:
        server.serve()
    except KeyboardInterrupt:
        line(out, "")
    finally:
        line(out, f"{count(server.answered, 'answer')} saved in {clean(str(file))}", "green")
    known, right = server.golden
    if known:
        line(out, f"of {count(known, 'question')} with a known answer {right:,} answered so")
    return 0
