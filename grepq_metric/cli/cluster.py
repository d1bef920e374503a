"""``grepq score --engine ray``: the same scores, on the machines of a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from grepq_metric.cli.progress import Progress
from grepq_metric.errors import InputError
from grepq_metric.images import is_url
from grepq_metric.scoring import Scorer


def score_on_cluster(
    paths: Sequence[str],
    output: str | None,
    scorer: Scorer,
    *,
    workers: int | None,
    recursive: bool,
    resume: bool,
    overwrite: bool,
) -> None:
    """Run the command; exit status 1 where a photo has no score.

    Raises:
        InputError, OSError, WeightsError: see `score_on_ray`.
    """
    from grepq_metric.scoring.cluster import score_on_ray

    if output is None:
        raise InputError("--engine ray writes a folder of Parquet files: name it with --output")
    if "-" in paths:
        raise InputError("--engine ray takes paths and URLs, and no names on standard input")
    if not is_url(output) and Path(output).suffix:
        raise InputError(f"--engine ray writes a folder of Parquet files, got the name of a file: {output}")
    if not is_url(output) and Path(output).is_file():
        raise NotADirectoryError(f"not a folder: {output}")
    progress: Progress | None = None

    def told(total: int, done: int, failed: int) -> None:
        nonlocal progress
        if progress is None:
            progress = Progress(total)
        for i in range(done):
            progress.advance(i < failed)

    try:
        outcome = score_on_ray(
            paths, output, scorer, workers=workers, recursive=recursive, resume=resume, overwrite=overwrite, told=told
        )
    except KeyboardInterrupt:
        done = progress.done if progress is not None else 0
        typer.echo(f"interrupted: {done} photos are done, kept in {output}; --resume goes on", err=True)
        raise typer.Exit(130) from None
    finally:
        if progress is not None:
            progress.close()
    scored = outcome.done - outcome.failed
    text = f"{scored} {'photo' if scored == 1 else 'photos'} scored"
    if outcome.before:
        text += f", {outcome.before} before"
    if outcome.failed:
        text += f", {outcome.failed} of the photos could not be scored (see error)"
    typer.secho(f"{text}; written to {output}", fg="yellow" if outcome.failed else None, err=True)
    if outcome.failed:
        raise typer.Exit(1)
