"""The command line, one file per command; torch loads when a command runs, not for ``--help``."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import NoReturn

import typer

from grepq_metric.cli import compare, convert, fit, gallery, info, pristine, publish, rate, score, threshold, train
from grepq_metric.cli.writers import one_line
from grepq_metric.errors import GRepQError

EPILOG = """\
**Examples**

`grepq score photo.jpg` scores a photo.

`grepq score holiday -o scores.csv` scores a folder.

`grepq info` shows what can be scored with.

`GREPQ_DEBUG=1 grepq ...` shows the traceback of an error.
"""


def _version(value: bool) -> None:
    if value:
        from grepq_metric import __version__

        typer.echo(f"grepq {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="grepq",
    help="Rate how good photos look to people, without a reference image (GRepQ, WACV 2024).",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version and exit."),
) -> None:
    pass


app.command("score", epilog=score.EPILOG)(score.score)
app.command("gallery", epilog=gallery.EPILOG)(gallery.gallery)
app.command("compare", epilog=compare.EPILOG)(compare.compare)
app.command("fit", epilog=fit.EPILOG)(fit.fit)
app.command("rate", epilog=rate.EPILOG)(rate.rate)
app.command("threshold", epilog=threshold.EPILOG)(threshold.threshold)
app.command("info", epilog=info.EPILOG)(info.info)
app.command("convert", epilog=convert.EPILOG)(convert.convert)
app.command("pristine", epilog=pristine.EPILOG)(pristine.pristine)
app.command("publish", epilog=publish.EPILOG)(publish.publish)
app.add_typer(train.app, name="train")


def main() -> None:
    """Run the command line.

    An expected error (`GRepQError` or OSError) is one line on stderr and exit status 2; with ``GREPQ_DEBUG=1`` in the
    environment it comes as a traceback. Anything else is a defect, and always does. Ctrl-C is exit status 130.
    """
    try:
        app(prog_name="grepq")
    except SystemExit as end:
        # Typer turns Ctrl-C into an exit of its own, silently or with another status, depending on its version.
        if end.__context__ is not None and isinstance(end.__context__.__cause__, KeyboardInterrupt):
            _interrupted()
        if end.code == 2:
            _hint_at_dashes()
        raise
    except KeyboardInterrupt:
        _interrupted()
    except BrokenPipeError:
        # The reader, for example `head`, has what it wanted.
        _forget_stdout()
        sys.exit(1)
    except (GRepQError, OSError) as error:
        if os.environ.get("GREPQ_DEBUG", "0") not in ("", "0"):
            raise
        typer.secho(f"error: {one_line(_in_one_line(error))}", fg="red", err=True)
        _forget_stdout(only_if_broken=True)
        sys.exit(2)


def _in_one_line(error: Exception) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:  # without the number, which helps nobody
        text = error.strerror + (f": {error.filename}" if error.filename is not None else "")
    return " ".join(text.split()) or type(error).__name__


def _hint_at_dashes() -> None:
    """After an error of usage: what was taken for an option may have been a file."""
    for argument in sys.argv[1:]:
        if argument.startswith("-") and argument != "-" and os.path.lexists(argument):
            typer.echo(
                f"for the file {one_line(argument)}, put -- before the names, or write ./{one_line(argument)}", err=True
            )


def _interrupted() -> NoReturn:
    typer.echo("interrupted", err=True)
    sys.exit(130)


def _forget_stdout(only_if_broken: bool = False) -> None:
    """Let standard output lead nowhere: Python would complain again when it flushes at exit."""
    if sys.stdout is None:
        return
    if only_if_broken:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            return
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
