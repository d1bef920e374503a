"""``grepq score``: photos in, scores out."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from grepq_metric.cli.photos import PhotoArguments, as_they_come
from grepq_metric.cli.progress import Progress
from grepq_metric.cli.record import Previous, Record, facts_of, recorded, state_of
from grepq_metric.cli.writers import Format, Results, format_for, input_identities, refuse_existing, rows_file
from grepq_metric.errors import InputError

if TYPE_CHECKING:
    from grepq_metric.cli.maps import MapFolder
    from grepq_metric.cli.scoring import PhotoItem, PhotoScorer
    from grepq_metric.scoring import Engine


class EngineName(str, Enum):
    """What runs the scorers."""

    local = "local"
    ray = "ray"


EPILOG = """\
**Examples**

`grepq score photo.jpg holiday/` scores a photo and those of a folder.

`grepq score holiday -o scores.csv` writes a table for a spreadsheet.

`grepq score holiday -o scores.jsonl --map maps` also draws where each photo is good and bad.

`grepq score holiday --head mos.safetensors --interval 0.9` predicts your raters' scores.

`grepq score archive -o scores.csv --resume` goes on where an earlier run was ended.

`grepq score s3://bucket/photos --engine ray -o s3://bucket/scores --resume` scores on the machines of a Ray cluster.

`find . -name '*.jpg' -print0 | grepq score -0 -` takes names from another program.
"""


def score(
    paths: list[str] = typer.Argument(
        ...,
        metavar="PATH",
        help="Photos, folders, archives (zip, tar), globs in quotes, or - for names on standard input, one a line; -- before "
        "a name that starts with a dash.",
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
    precision: str = typer.Option(
        None,
        help="**bf16** runs the networks in bfloat16: about twice as fast on CPUs with AVX512-BF16 and on GPUs, and a mode of "
        "its own, named in the weights' id. Default: fp32.",
    ),
    speed: str = typer.Option(
        None,
        help="**dense** encodes a photo once and not patch by patch, in the low-level pathway of **grepq-ll**, **grepq-lite** "
        "and **grepq**: three times as fast, and a mode of its own. Default: exact.",
    ),
    resolution: int = typer.Option(
        None,
        metavar="PIXELS",
        help="Reduce photos whose longer side is above this first, so that photos of all sizes are compared at one; also a "
        "mode of its own. Default: full size.",
    ),
    recursive: bool = typer.Option(True, "--recursive/--no-recursive", help="Search folders with all their subfolders."),
    null: bool = typer.Option(False, "--null", "-0", help="Names on standard input end with a NUL byte: `find -print0`."),
    format: Format = typer.Option(
        None,
        help="Default: by the ending of --output, else a table. json is one array, which a killed run leaves open; jsonl, one "
        "object a line, is whole at any time. parquet needs pyarrow, and is written at the end: until then "
        "rows are in FILE.rows.jsonl.",
    ),
    output: str = typer.Option(
        None,
        "--output",
        "-o",
        metavar="FILE",
        help="Write to this .csv, .json, .jsonl, .parquet or .txt file, a row at once; FILE.run.jsonl beside it, which "
        "--resume needs, records what was scored with what.",
    ),
    resume: bool = typer.Option(
        False,
        "--resume",
        help="Go on after what --output holds: photos that it has no score of, or whose files have changed, are scored. "
        "Refused where weights or options differ. Names on standard input are then read to the end first.",
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
    jobs: int = typer.Option(
        None,
        "--jobs",
        "-j",
        min=1,
        metavar="N",
        help="Score in this many processes, which share the threads; each takes the memory of a model and of its photo. "
        "Default: one, and on a CPU with 200 photos or more one for each core, as far as memory allows. With --engine ray: "
        "its workers, by default one for each GPU or core.",
    ),
    engine: EngineName = typer.Option(
        "local",
        help="**ray**: on the machines of a Ray cluster, or of this one if there is none; photos may be URLs (s3://...), "
        "and --output is a folder or URL of Parquet files. It needs `grepq-metric[ray]`.",
    ),
    max_pixels: float = typer.Option(
        200, metavar="MEGAPIXELS", help="Refuse photos above this many million pixels, each of which takes up to 16 bytes."
    ),
) -> None:
    """Score photos; higher is better.

    Results appear as they are computed. A photo that can't be read gets a row with the error; the others are still scored,
    and the exit status is 1.
    """
    file = None if output is None else Path(output)
    modes = {"precision": precision, "speed": speed, "resolution": resolution}
    modes = {name: value for name, value in modes.items() if value is not None}
    if engine is EngineName.ray:
        _check(head, interval, max_pixels, overwrite, resume)
        if map is not None or format not in (None, Format.parquet):
            raise InputError("--engine ray draws no maps and writes Parquet alone: leave out --map and --format")
        scorer = _scorer(metric, weights, device, head, interval, None, int(max_pixels * 1e6), modes)
        from grepq_metric.cli.cluster import score_on_cluster

        score_on_cluster(paths, output, scorer, workers=jobs, recursive=recursive, resume=resume, overwrite=overwrite)
        return
    output_format = format_for(file, format)
    _check(head, interval, max_pixels, overwrite, resume)
    _check_output(file, output_format, resume)
    photos = PhotoArguments(paths, recursive, null)
    listed = photos.all() if overwrite or resume or not photos.streamed else None
    previous = Previous.find(file, output_format) if resume and file is not None else None
    maps = _protect(listed or (), file, output_format, map, overwrite, resume, head, weights)
    todo = listed if listed is None or previous is None else [path for path in listed if path not in previous.done]
    if listed is not None:
        _tell(photos.notes())
    scorer = _scorer(metric, weights, device, head, interval, maps, int(max_pixels * 1e6), modes)
    columns = _columns(scorer)
    with _engine(scorer, jobs, todo, device) as running, Results(file, output_format, columns, overwrite) as results:
        record = _record(file, output_format, running.facts, columns, previous, results, todo)
        progress = Progress(None if todo is None else len(todo))
        try:
            for item, row in running.stream(_items(photos, todo, maps)):
                with progress.paused():
                    if record is not None:
                        record.note(item.name, item.state)
                    results.row({**dict.fromkeys(columns), **row, "path": item.name})
                progress.advance(row["error"] is not None)
        except KeyboardInterrupt:
            progress.close()
            kept = f", kept in {file}" if file is not None and progress.done else ""
            typer.echo(f"interrupted: {progress.done} photos are done{kept}", err=True)
            raise typer.Exit(130) from None
        finally:
            progress.close()
            if record is not None:
                record.close()
    if listed is None:
        _tell(photos.notes())
        if not progress.done:
            raise InputError("no names of photos came on standard input")
    before = len(listed or ()) - len(todo or ())
    _tell([_summary(progress, before, file, map)], "yellow" if progress.failed else None)
    if progress.failed:
        raise typer.Exit(1)


def _check_output(output: Path | None, format: Format, resume: bool) -> None:
    if output is None and sys.stdout is None:
        raise InputError("standard output is closed: name a file with --output")
    if output is not None and not output.parent.is_dir():
        raise FileNotFoundError(f"no such folder: {output.parent}")
    if resume and not recorded(output, format):
        raise InputError("--resume goes on after an --output of CSV, JSON, JSON lines or Parquet, which programs can read")
    if format is Format.parquet:
        from grepq_metric.tables import need_pyarrow

        need_pyarrow()


def _check(
    head: Path | None,
    interval: float | None,
    max_pixels: float,
    overwrite: bool,
    resume: bool,
) -> None:
    if resume and overwrite:
        raise InputError("--resume keeps what --overwrite replaces: give one of them")
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
    photos: Iterable[str],
    output: Path | None,
    format: Format,
    folder: Path | None,
    overwrite: bool,
    resume: bool,
    head: Path | None,
    weights: str | None,
) -> MapFolder | None:
    """Refuse outputs that would destroy something, before anything is written or loaded."""
    from grepq_metric.cli.maps import MapFolder

    if output is None and folder is None:
        return None
    inputs = input_identities(photos, head, weights)
    if output is not None:
        instead = "choose another name, --resume to go on after it, or --overwrite to replace it"
        for file in dict.fromkeys((output, rows_file(output, format))):
            refuse_existing(file, "--output", inputs, overwrite or resume, instead)
        if recorded(output, format):
            Record(output).refuse_foreign()
    if folder is None:
        return None
    maps = MapFolder(folder, overwrite or resume)
    maps.prepare(photos, inputs)
    return maps


def _scorer(
    metric: str | None,
    weights: str | None,
    device: str | None,
    head: Path | None,
    interval: float | None,
    maps: MapFolder | None,
    max_pixels: int,
    modes: dict[str, Any],
) -> PhotoScorer:
    from grepq_metric.cli.loading import chosen
    from grepq_metric.cli.scoring import PhotoScorer

    name, options = chosen(metric, weights)
    return PhotoScorer(
        draws=maps is not None,
        replace=maps is not None and maps.overwrite,
        weights=name,
        head=head,
        device=device,
        interval=interval,
        max_pixels=max_pixels,
        **options,
        **modes,
    )


def _columns(scorer: PhotoScorer) -> tuple[str, ...]:
    """Of the output, in order. The weights' id is the same in each row, and is told once."""
    columns = ["path", *(name for name in scorer.columns if name != "weights_id")]
    if scorer.draws:
        columns.insert(columns.index("warning"), "map")
    return tuple(columns)


def _engine(scorer: PhotoScorer, jobs: int | None, photos: list[str] | None, device: str | None) -> Engine:
    from grepq_metric.cli.scoring import worth_starting
    from grepq_metric.scoring import Engine

    number = worth_starting(photos, device) if jobs is None else jobs
    engine = Engine(scorer, number)
    by = f", {number} processes" if number > 1 else ""
    typer.echo(f"{engine.facts['weights_id']} on {engine.facts['device']}{by}", err=True)
    return engine


def _record(
    output: Path | None,
    format: Format,
    facts: Mapping[str, Any],
    columns: Sequence[str],
    previous: Previous | None,
    results: Results,
    todo: Iterable[str] | None,
) -> Record | None:
    """Begin to record the run, after what an earlier one left; None: it can't be resumed."""
    if output is None or not recorded(output, format):
        return None
    found = facts_of(facts, columns)
    record = Record(output)
    if previous is None:
        record.begin(found)
        return record
    previous.check(found)
    record.begin(found, previous.states)
    results.take_over(previous.kept(todo or ()))
    return record


def _items(photos: PhotoArguments, listed: list[str] | None, maps: MapFolder | None) -> Iterator[PhotoItem | None]:
    """Photos to score; names from a pipe as they come, since who writes them may wait for the score."""
    from grepq_metric.cli.scoring import PhotoItem

    for path in as_they_come(photos) if listed is None else listed:
        if path is None:
            yield None
        else:
            target = None if maps is None else maps.path(path)
            yield PhotoItem(path, path, "path", state_of(path), photos.problems.get(path), target)


def _summary(progress: Progress, before: int, output: Path | None, maps: Path | None) -> str:
    scored = progress.done - progress.failed
    text = f"{scored} {'photo' if scored == 1 else 'photos'} scored"
    if before:
        text += f", {before} before"
    if progress.failed:
        text += f", {progress.failed} of the photos could not be scored (see error)"
    if output is not None:
        text += f"; written to {output}"
    return text + (f"; maps in {maps}" if maps is not None else "")


def _tell(lines: Iterable[str], colour: str | None = None) -> None:
    from grepq_metric.cli.writers import one_line

    for line in lines:
        typer.secho(one_line(line), fg=colour, err=True)
