"""The command line, one file per command; torch loads when a command runs, not for ``--help``."""

from __future__ import annotations

import os
import sys

import typer

from grepq_metric.cli import convert, fit, info, pristine, publish, score, train


def _version(value: bool) -> None:
    if value:
        from grepq_metric import __version__

        typer.echo(f"grepq {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="grepq",
    help="Rate how good photos look to people, without a reference image (GRepQ, WACV 2024).",
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


app.command("score")(score.score)
app.command("fit")(fit.fit)
app.command("info")(info.info)
app.command("convert")(convert.convert)
app.command("pristine")(pristine.pristine)
app.command("publish")(publish.publish)
app.add_typer(train.app, name="train")


def main() -> None:
    """Run the command line; an expected error is one line on stderr and exit status 2."""
    try:
        app()
    except BrokenPipeError:
        # The reader, for example `head`, has what it wanted. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, OSError, RuntimeError) as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(2)
