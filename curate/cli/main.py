"""Entry point of the `curate` command: registers the commands, turns errors into sentences and exit codes."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from types import FrameType
from typing import Annotated

import typer

from curate import __version__
from curate.cli import (
    clean,
    evaluate,
    explain,
    fractal,
    init,
    inspect,
    labels,
    maps,
    output,
    plan,
    review,
    run,
    schema,
    status,
    submit,
    verify,
)
from curate.errors import CurateError, ExitCode, Terminated

app = typer.Typer(
    name="curate",
    help="Shards in, a smaller better training set out: index, embed, cluster, deduplicate, prune, release.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("init")(init.init)
app.command("run")(run.run)
app.command("plan")(plan.plan)
app.command("submit")(submit.submit)
app.command("status")(status.status)
app.command("explain")(explain.explain)
app.command("inspect")(inspect.inspect)
app.command("verify")(verify.verify)
app.command("review")(review.review)
app.command("clean")(clean.clean)
app.command("schema")(schema.schema)
app.add_typer(fractal.fractal, name="fractal")
app.add_typer(evaluate.evaluate, name="evaluate")
app.add_typer(maps.maps, name="maps")
app.add_typer(labels.labels, name="labels")


_STOPPED = "stopped; what is finished is kept, run the same command again to continue"


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"curate {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Shards in, a smaller better training set out."""


def main() -> None:
    """Run the command line; the process ends with an exit code of docs/exit-codes.md."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = app(standalone_mode=False) or 0
        if code == ExitCode.INTERRUPTED:  # typer turns a Ctrl-C into this
            _say(_STOPPED, ExitCode.INTERRUPTED)
    except CurateError as error:
        code = _say(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = _say(_STOPPED, ExitCode.INTERRUPTED)
    except Terminated:
        code = _say(_STOPPED, ExitCode.TERMINATED)
    except typer.Exit as leave:
        code = leave.exit_code
    except Exception as error:
        # click's usage errors know how to show themselves
        if hasattr(error, "show") and hasattr(error, "exit_code"):
            error.show()
            code = int(ExitCode.SPEC)
        else:
            traceback.print_exc()
            code = _say(f"internal error ({type(error).__name__}): {error}; please report it", ExitCode.INTERNAL)
    sys.stdout.flush()
    sys.stderr.flush()
    if code == ExitCode.ENGINE:
        # a dead Ray server would keep its exit hooks waiting
        os._exit(code)
    sys.exit(code)


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not disturb the way out
    raise Terminated


def _say(text: str, code: ExitCode) -> int:
    output.line(output.stderr(), f"error: {text}", "red")
    return int(code)


if __name__ == "__main__":
    main()
