"""``grepq score``: photos in, scores out."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from grepq_metric.cli.choosing import REJECTED, Choice, Choosing, Order
from grepq_metric.cli.photos import PhotoArguments, as_they_come
from grepq_metric.cli.progress import Progress
from grepq_metric.cli.record import Previous, Record, facts_of, recorded, state_of
from grepq_metric.cli.writers import (
    Format,
    Results,
    Row,
    format_for,
    input_identities,
    is_regular,
    refuse_existing,
    rows_file,
)
from grepq_metric.errors import InputError
from grepq_metric.tables import SUFFIXES

if TYPE_CHECKING:
    from grepq_metric.cli.maps import MapFolder
    from grepq_metric.cli.scoring import PhotoItem, PhotoScorer
    from grepq_metric.reference import Reference
    from grepq_metric.scoring import Engine


MEANING, CHOICE = "What a score means", "Find and choose"
"""Groups of options in the help."""


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

`grepq score holiday --percentile --facts --worst 10` shows the ten worst photos, and what stands out in them.

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
        "pictures and words, thinks of it. **grepq**: low-level and high-level. The latter two download CLIP once, 408 MB. "
        "**qfm-iqm**: another metric, QFM-IQM as we read it, which learned from ratings of people; no network. "
        "**grepq-authors**: the published method, once `grepq convert --download` has made it.",
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
    percentile: bool = typer.Option(
        False,
        "--percentile",
        help="Add the percentage of reference photos with a lower score, for example 83.",
        rich_help_panel=MEANING,
    ),
    points: bool = typer.Option(
        False,
        "--points",
        help="Add the score on a scale from 0 to 100, on which half of the reference photos are above 50.",
        rich_help_panel=MEANING,
    ),
    facts: bool = typer.Option(
        False,
        "--facts",
        help="Add sharpness, noise, exposure, colourfulness and blocking, and in words what stands out among reference "
        "photos. They accompany the score, and do not enter it.",
        rich_help_panel=MEANING,
    ),
    reference: Path = typer.Option(
        None,
        metavar="PATH",
        help="Reference photos of your own for --percentile: a folder, which is scored first, or a table of scores that grepq "
        "score has written. Default: 1,200 photos whose scores are in this package.",
        rich_help_panel=MEANING,
    ),
    sort: Order = typer.Option(
        None, help="Rows in this order, **best** or **worst** first, when all are known.", rich_help_panel=CHOICE
    ),
    worst: int = typer.Option(
        None,
        min=1,
        metavar="N",
        help="Show the N worst photos, the worst first; an --output still gets all rows.",
        rich_help_panel=CHOICE,
    ),
    best: int = typer.Option(
        None,
        min=1,
        metavar="N",
        help="Show the N best photos, the best first; an --output still gets all rows.",
        rich_help_panel=CHOICE,
    ),
    keep_above: float = typer.Option(
        None,
        metavar="VALUE",
        help="Keep photos with this many points or more, and say so in a column. The exit status is 3 if one is rejected.",
        rich_help_panel=CHOICE,
    ),
    by: str = typer.Option(
        None,
        metavar="COLUMN",
        help="What --keep-above, --sort, --worst and --best look at, for example percentile, score or sharpness. "
        "Default: points for --keep-above, mos with --head.",
        rich_help_panel=CHOICE,
    ),
    list_rejects: Path = typer.Option(
        None, metavar="FILE", help="Write the names of rejected photos to this file, one a line.", rich_help_panel=CHOICE
    ),
    move_rejects: Path = typer.Option(
        None,
        metavar="DIR",
        help="Say which rejected photos would be moved to this folder, and with --apply move them; none is ever deleted.",
        rich_help_panel=CHOICE,
    ),
    apply: bool = typer.Option(False, "--apply", help="Move what --move-rejects names.", rich_help_panel=CHOICE),
    xmp: bool = typer.Option(
        False,
        "--xmp",
        help="Write 1 to 5 stars, a fifth of the reference photos each, to PHOTO.xmp, which darktable and digiKam read, "
        "and of raw files to NAME.xmp for Lightroom.",
        rich_help_panel=CHOICE,
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
    allow_truncated: bool = typer.Option(
        False,
        "--allow-truncated",
        help="Score photos that lack a part of their picture as far as they can be read, with a warning. Default: an error.",
    ),
) -> None:
    """Score photos; higher is better.

    Results appear as they are computed. A photo that can't be read gets a row with the error; the others are still scored,
    and the exit status is 1.
    """
    file = None if output is None else Path(output)
    given = {"precision": precision, "speed": speed, "resolution": resolution}
    modes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    modes["allow_truncated"] = allow_truncated
    choice = Choice(sort, worst, best, keep_above, by, list_rejects, move_rejects, apply, overwrite)
    wanted = {"percentile": percentile or xmp, "points": points, "facts": facts}
    modes["extras"] = tuple({*(name for name, asked in wanted.items() if asked), *choice.extras(head)})
    if reference is not None and "percentile" not in modes["extras"]:
        raise InputError("--reference is about percentiles: it goes with --percentile or --xmp")
    if engine is EngineName.ray:
        _check(head, interval, max_pixels, overwrite, resume)
        if map is not None or format not in (None, Format.parquet):
            raise InputError("--engine ray draws no maps and writes Parquet alone: leave out --map and --format")
        if choice != Choice(overwrite=overwrite) or xmp:
            raise InputError("--engine ray scores alone: sort, choose and rate from its table")
        modes["reference"] = reference
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
    if reference is not None:
        modes["reference"] = _reference(reference, metric, weights, device, head, int(max_pixels * 1e6), modes)
    scorer = _scorer(metric, weights, device, head, interval, maps, int(max_pixels * 1e6), modes, xmp)
    if "percentile" in scorer.extras:
        _tell([f"percentile: of {_name_of(scorer.reference)}"])
    columns = _columns(scorer, choice)
    choosing = Choosing(choice, choice.column(head) or columns[1])
    choice.check(columns, listed or ())
    held = choice.sorts and file is None
    with _engine(scorer, jobs, todo, device) as running, Results(file, output_format, columns, overwrite) as results:
        record = _record(file, output_format, running.facts, columns, previous, results, todo, choosing)
        progress = Progress(None if todo is None else len(todo))
        try:
            for item, row in running.stream(_items(photos, todo, maps)):
                with progress.paused():
                    if record is not None:
                        record.note(item.name, item.state)
                    whole = choosing.add({**dict.fromkeys(columns), **row, "path": item.name})
                    if not held:
                        results.row(whole)
                progress.advance(row["error"] is not None)
        except KeyboardInterrupt:
            progress.close()
            if held:
                _all_rows(results, choosing.shown())
            kept = f", kept in {file}" if file is not None and progress.done else ""
            typer.echo(f"interrupted: {progress.done} photos are done{kept}", err=True)
            raise typer.Exit(130) from None
        finally:
            progress.close()
            if record is not None:
                record.close()
        if held:
            _all_rows(results, choosing.shown())
    if file is not None and choice.sorts:
        _put_in_order(file, output_format, columns, choosing)
    if listed is None:
        _tell(photos.notes())
        if not progress.done:
            raise InputError("no names of photos came on standard input")
    before = len(listed or ()) - len(todo or ())
    _tell([_summary(progress, before, file, map)], "yellow" if progress.failed else None)
    _tell(choosing.finish())
    if progress.failed:
        raise typer.Exit(1)
    if choosing.rejects:
        raise typer.Exit(REJECTED)


def _all_rows(results: Results, rows: Iterable[Row]) -> None:
    for row in rows:
        results.row(row)


def _put_in_order(file: Path, format: Format, columns: Sequence[str], choosing: Choosing) -> None:
    """After the run, which writes rows as they come so that none is lost."""
    if choosing.rows and is_regular(file):
        with Results(file, format, columns, overwrite=True) as results:
            results.take_over(choosing.ordered())
    if choosing.choice.order is None:
        with Results(None, Format.table, columns) as shown:
            _all_rows(shown, choosing.shown())


def _reference(
    given: Path,
    metric: str | None,
    weights: str | None,
    device: str | None,
    head: Path | None,
    max_pixels: int,
    modes: Mapping[str, Any],
) -> Path | Reference:
    """A table as it is, or the scores of a folder of photos."""
    from grepq_metric.cli.scoring import PhotoItem
    from grepq_metric.reference import Reference
    from grepq_metric.tables import is_table

    if given.exists() and not is_table(given) and not given.is_dir():
        raise InputError(f"--reference {given} is neither a folder of photos nor a table: expected {', '.join(SUFFIXES)}")
    if not given.is_dir() or is_table(given):
        return given
    plain = {name: value for name, value in modes.items() if name != "extras"}
    scorer = _scorer(metric, weights, device, head, None, None, max_pixels, plain)
    photos = PhotoArguments([str(given)]).all()
    with _engine(scorer, None, photos, device) as running:
        typer.echo(f"{len(photos)} reference photos of {given} come first", err=True)
        progress, scores = Progress(len(photos)), []
        for _, row in running.stream(PhotoItem(photo, photo) for photo in photos):
            scores.append(row[scorer.columns[0]])
            progress.advance(row["error"] is not None)
        progress.close()
    return Reference.of((score for score in scores if score is not None), str(given))


def _name_of(reference: str | Path | Reference | None) -> str:
    from grepq_metric.reference import Reference, packaged_photos

    if reference is None:
        return packaged_photos()
    if isinstance(reference, Reference):
        return f"the {reference.count:,} photos of {reference.name}"
    return f"the photos in {reference}"


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
    go_on = "--resume to go on after it, " if recorded(output, format) else ""
    instead = f"choose another name, {go_on}or --overwrite to replace it"
    if output is not None:
        for file in dict.fromkeys((output, rows_file(output, format))):
            refuse_existing(file, "--output", inputs, overwrite or resume, instead)
        if recorded(output, format):
            Record(output).refuse_foreign()
    if folder is None:
        return None
    maps = MapFolder(folder, overwrite or resume)
    maps.prepare(photos, inputs, instead)
    return maps


def _scorer(
    metric: str | None,
    weights: str | None,
    device: str | None,
    head: Path | None,
    interval: float | None,
    maps: MapFolder | None,
    max_pixels: int,
    modes: Mapping[str, Any],
    rates: bool = False,
) -> PhotoScorer:
    from grepq_metric.cli.loading import chosen
    from grepq_metric.cli.scoring import PhotoScorer

    name, options = chosen(metric, weights)
    return PhotoScorer(
        draws=maps is not None,
        replace=maps is not None and maps.overwrite,
        rates=rates,
        weights=name,
        head=head,
        device=device,
        interval=interval,
        max_pixels=max_pixels,
        **options,
        **modes,
    )


def _columns(scorer: PhotoScorer, choice: Choice) -> tuple[str, ...]:
    """Of the output, in order. The weights' id is the same in each row, and is told once."""
    columns = ["path", *(name for name in scorer.columns if name != "weights_id")]
    if scorer.draws:
        columns.insert(columns.index("warning"), "map")
    if choice.keep_above is not None:
        columns.insert(columns.index("width"), "kept")
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
    choosing: Choosing,
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
    results.take_over(map(choosing.add, previous.kept(todo or ())))
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
