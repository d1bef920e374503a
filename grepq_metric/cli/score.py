"""``grepq score``: photos in, scores out."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from grepq_metric.cli.photos import PhotoArguments
from grepq_metric.cli.progress import Progress
from grepq_metric.cli.writers import Format, Results, format_for, input_identities, refuse_existing
from grepq_metric.errors import InputError

if TYPE_CHECKING:
    from grepq_metric.cli.maps import MapFolder
    from grepq_metric.cli.scoring import Scorer

EPILOG = """\
**Examples**

`grepq score photo.jpg holiday/` scores a photo and those of a folder.

`grepq score holiday -o scores.csv` writes a table for a spreadsheet.

`grepq score holiday -o scores.jsonl --map maps` also draws where each photo is good and bad.

`grepq score holiday --head mos.safetensors --interval 0.9` predicts your raters' scores.

`find . -name '*.jpg' -print0 | grepq score -0 -` takes names from another program.
"""


def score(
    paths: list[str] = typer.Argument(
        ...,
        metavar="PATH",
        help="Photos, folders, globs in quotes, or - for names on standard input, one a line; -- before a name that starts "
        "with a dash.",
    ),
    metric: str = typer.Option(
        None,
        help="**grepq-sem** (default): semantic, how what a photo shows has suffered. **grepq-ll**: low-level, how sharp and "
        "clean it is. **grepq-lite**: the sum of both. These need no network. **grepq-hl**: high-level, what CLIP, knowing "
        "pictures and words, thinks of it. **grepq**: low-level and high-level. The latter two download CLIP once, 408 MB.",
    ),
    weights: str = typer.Option(
        None, help="Other weights: a folder or a Hub repository user/name; alone, they also decide the metric."
    ),
    head: Path = typer.Option(
        None,
        metavar="FILE",
        help="A head, what `grepq fit` learned from your own ratings, or **biq2021**, which is built in: instead of scores, "
        "print the mean opinion score (MOS) that it predicts, on the scale of the ratings. It brings its built-in metric.",
    ),
    interval: float = typer.Option(
        None, metavar="SHARE", help="With --head: bounds between which this share of MOS will lie, for example 0.9."
    ),
    device: str = typer.Option(None, help="Torch device, such as cpu or cuda:1. Default: cuda if there is one, else cpu."),
    recursive: bool = typer.Option(True, "--recursive/--no-recursive", help="Search folders with all their subfolders."),
    null: bool = typer.Option(False, "--null", "-0", help="Names on standard input end with a NUL byte: `find -print0`."),
    format: Format = typer.Option(
        None,
        help="Default: by the ending of --output, else a table. json is one array, which a killed run leaves open; jsonl, one "
        "object a line, is whole at any time.",
    ),
    output: Path = typer.Option(
        None, "--output", "-o", metavar="FILE", help="Write to this .csv, .json, .jsonl or .txt file, a row at once."
    ),
    map: Path = typer.Option(
        None,
        metavar="DIR",
        help="Also draw over each photo where it is good and bad, as a PNG in this folder: the semantic quality of its parts, "
        "or with **grepq-ll** their distance to pristine (undistorted) photos.",
    ),
    overwrite: bool = typer.Option(
        False,
        "--overwrite",
        help="Replace an existing --output and maps; inputs never. Names on standard input are then read to the end first.",
    ),
    max_pixels: float = typer.Option(
        200, metavar="MEGAPIXELS", help="Refuse photos above this many million pixels, each of which takes up to 16 bytes."
    ),
) -> None:
    """Score photos; higher is better.

    Results appear as they are computed. A photo that can't be read gets a row with the error; the others are still scored,
    and the exit status is 1.
    """
    output_format = format_for(output, format)
    _check(output, head, interval, max_pixels)
    photos = PhotoArguments(paths, recursive, null)
    listed = photos.all() if overwrite or not photos.streamed else None
    maps = _protect(listed or (), output, map, overwrite, head, weights)
    if listed is not None:
        _tell(photos.notes())
    scorer = _load(metric, weights, device, head, interval, maps, int(max_pixels * 1e6), photos)
    progress = Progress(None if listed is None else len(listed))
    with Results(output, output_format, scorer.columns(), overwrite) as results:
        try:
            _run(photos if listed is None else listed, 1 if listed is None else 3, scorer, results, progress)
        except KeyboardInterrupt:
            progress.close()
            kept = f", kept in {output}" if output is not None and progress.done else ""
            typer.echo(f"interrupted: {progress.done} photos are done{kept}", err=True)
            raise typer.Exit(130) from None
        finally:
            progress.close()
    if listed is None:
        _tell(photos.notes())
    if not progress.done:
        raise InputError("no names of photos came on standard input")
    _tell([_summary(progress, output, map)], "yellow" if progress.failed else None)
    if progress.failed:
        raise typer.Exit(1)


def _check(output: Path | None, head: Path | None, interval: float | None, max_pixels: float) -> None:
    if output is None and sys.stdout is None:
        raise InputError("standard output is closed: name a file with --output")
    if output is not None and not output.parent.is_dir():
        raise FileNotFoundError(f"no such folder: {output.parent}")
    if head is not None:
        from grepq_metric.heads import headfile

        if not headfile.find(head).is_file():
            raise FileNotFoundError(f"no such head: {head}")
    if interval is not None and head is None:
        raise InputError("--interval is about a predicted MOS: it needs --head")
    if interval is not None and not 0 < interval < 1:
        raise InputError(f"--interval must be between 0 and 1, got {interval:g}")
    if not (0 < max_pixels < math.inf):
        raise InputError(f"--max-pixels must be a positive number of megapixels, got {max_pixels:g}")


def _protect(
    photos: Iterable[str], output: Path | None, folder: Path | None, overwrite: bool, head: Path | None, weights: str | None
) -> MapFolder | None:
    """Refuse outputs that would destroy something, before anything is written or loaded."""
    from grepq_metric.cli.maps import MapFolder

    if output is None and folder is None:
        return None
    inputs = input_identities(photos, head, weights)
    if output is not None:
        refuse_existing(output, "--output", inputs, overwrite)
    if folder is None:
        return None
    maps = MapFolder(folder, overwrite)
    maps.prepare(photos, inputs)
    return maps


def _load(
    metric: str | None,
    weights: str | None,
    device: str | None,
    head: Path | None,
    interval: float | None,
    maps: MapFolder | None,
    max_pixels: int,
    photos: PhotoArguments,
) -> Scorer:
    from grepq_metric.cli.loading import load_model
    from grepq_metric.cli.scoring import Scorer
    from grepq_metric.heads.regressor import GRepQRegressor, weights_of

    if head is not None and metric is None and weights is None:
        metric = weights_of(head)
    model = load_model(metric, weights, device)
    if maps is not None and model.semantic is None and model.low is None:
        raise InputError(f"--map needs the semantic or the low-level pathway, and {model.weights_id} has neither")
    regressor = None if head is None else GRepQRegressor.load(head, model)
    typer.echo(f"{model.weights_id} on {model.device}", err=True)
    return Scorer(model, regressor, interval, maps, max_pixels, photos.problems)


def _run(photos: Iterable[str], ahead: int, scorer: Scorer, results: Results, progress: Progress) -> None:
    """Score photos one after the other. With a pipe, one is read at once: who writes names to it may wait for the score."""
    import torch

    from grepq_metric.images import read_ahead

    with torch.inference_mode():
        for path, found in read_ahead(photos, ahead, scorer.read, scorer.max_pixels):
            row = scorer.row(str(path), found)
            with progress.paused():
                results.row(row)
            progress.advance(row["error"] is not None)


def _summary(progress: Progress, output: Path | None, maps: Path | None) -> str:
    scored = progress.done - progress.failed
    text = f"{scored} {'photo' if scored == 1 else 'photos'} scored"
    if progress.failed:
        text += f", {progress.failed} of the photos could not be scored (see error)"
    if output is not None:
        text += f"; written to {output}"
    return text + (f"; maps in {maps}" if maps is not None else "")


def _tell(lines: Iterable[str], colour: str | None = None) -> None:
    from grepq_metric.cli.writers import one_line

    for line in lines:
        typer.secho(one_line(line), fg=colour, err=True)
