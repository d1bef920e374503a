"""``grepq gallery``: scored photos as a page to sort, filter, compare and choose from."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from grepq_metric.cli.photos import PhotoArguments
from grepq_metric.cli.progress import Progress
from grepq_metric.cli.writers import one_line
from grepq_metric.errors import InputError

if TYPE_CHECKING:
    from grepq_metric.cli.scoring import PhotoScorer

EPILOG = """\
**Examples**

`grepq gallery holiday/ -o page` scores a folder; open page/index.html.

`grepq gallery scores.csv -o page` shows what `grepq score` wrote.

`grepq gallery holiday/ -o page --map --previews` also draws maps, and needs no originals.
"""


def gallery(
    sources: list[str] = typer.Argument(
        ...,
        metavar="SOURCE",
        help="Photos, folders and globs in quotes, which are scored; or one finished table of scores with a column path: "
        "CSV, JSON, JSON lines or Parquet.",
    ),
    output: Path = typer.Option(
        ..., "--output", "-o", metavar="DIR", help="The folder of the gallery, new or empty; open index.html in it."
    ),
    metric: str = typer.Option(None, help="As in `grepq score`, of photos that are scored here."),
    weights: str = typer.Option(None, help="As in `grepq score`."),
    head: Path = typer.Option(None, metavar="FILE", help="As in `grepq score`: predicted opinion scores, of a head."),
    device: str = typer.Option(None, help="Torch device, such as cpu or cuda:1. Default: cuda if there is one, else cpu."),
    precision: str = typer.Option(None, help="As in `grepq score`."),
    speed: str = typer.Option(None, help="As in `grepq score`."),
    resolution: int = typer.Option(
        None,
        metavar="PIXELS",
        help="As in `grepq score`, but by default 640, the standard viewing size, with --head what the head was fitted at.",
    ),
    recursive: bool = typer.Option(True, "--recursive/--no-recursive", help="Search folders with all their subfolders."),
    jobs: int = typer.Option(None, "--jobs", "-j", min=1, metavar="N", help="As in `grepq score`."),
    max_pixels: float = typer.Option(200, metavar="MEGAPIXELS", help="Refuse photos above this many million pixels."),
    root: Path = typer.Option(
        None, metavar="DIR", help="Of a table: the folder that its relative paths start from. Default: the current one."
    ),
    allow_truncated: bool = typer.Option(
        False, "--allow-truncated", help="As in grepq score. Pictures show what can be read of a photo in any case."
    ),
    map: bool = typer.Option(
        False, "--map", help="Also draw where photos are good and bad. A table brings its maps in a column map."
    ),
    previews: bool = typer.Option(
        False,
        "--previews",
        help="Also write pictures of 1,024 pixels. Without them the large view shows the originals, where they are in reach.",
    ),
    title: str = typer.Option(None, help="Of the page. Default: the name of the first source."),
    overwrite: bool = typer.Option(
        False, "--overwrite", help="Replace a gallery. Pictures of photos that have not changed are kept; other files stay."
    ),
) -> None:
    """Make a page of scored photos: sort, filter, compare and choose them in a browser, without a server.

    The folder holds all that the page needs. Photos that can't be scored are shown with their error, and the exit status is 1.
    """
    options = {"metric": metric, "weights": weights, "head": head, "device": device, "precision": precision}
    options |= {"speed": speed, "resolution": resolution, "jobs": jobs, "allow_truncated": allow_truncated or None}
    options = {name: value for name, value in options.items() if value is not None}
    table = _table(sources)
    if table is not None and (options or map):
        given = next(iter(options), "map")
        raise InputError(f"--{given.replace('_', '-')} is about photos that are scored here, and {table} holds scores already")
    if table is None and root is not None:
        raise InputError("--root is about paths in a table: name photos as they are to be found")
    if not (0 < max_pixels < math.inf):
        raise InputError(f"--max-pixels must be a positive number of megapixels, got {max_pixels:g}")
    with ExitStack() as stack:
        if table is None:
            photos = PhotoArguments(sources, recursive)
            listed = photos.all()
            _claim(output, overwrite, listed)
            _tell(photos.notes())
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="grepq-maps-"))) if map else None
            scorer = _scorer(options, int(max_pixels * 1e6), map)
            rows, about = _scored(scorer, photos, listed, folder, options.get("jobs"), device)
        else:
            rows, about = _read(table)
            base = Path() if root is None else root
            _claim(output, overwrite, [base / str(row["path"]) for row in rows if row.get("path")])
        _write(output, rows, root, title or _name(sources[0]), about, previews, scored=table is None)


def _table(sources: Sequence[str]) -> Path | None:
    """The one table that was named; None: photos were."""
    from grepq_metric.images import find_images
    from grepq_metric.tables import is_table

    tables = [source for source in sources if is_table(source) and not (os.path.isdir(source) and any(find_images(source)))]
    if tables and len(sources) > 1:
        raise InputError(f"expected photos, or one table alone, got the table {tables[0]} and {len(sources) - 1} more")
    return Path(tables[0]) if tables else None


def _read(table: Path) -> tuple[list[dict[str, Any]], str]:
    from grepq_metric.tables import read_table

    rows: list[dict[str, Any]] = [dict(row) for row in read_table(table, ["path"])]
    ids = {str(row.pop("weights_id")) for row in rows if row.get("weights_id")}
    return rows, ", ".join(sorted(ids))


def _claim(output: Path, overwrite: bool, photos: Sequence[str | Path]) -> None:
    from grepq_metric.pages.gallery import claim

    try:
        claim(output, overwrite, photos)
    except FileExistsError as error:
        raise FileExistsError(
            f"--output {error}" + ("" if overwrite else " (--overwrite replaces galleries alone)")
        ) from error


def _scorer(options: dict[str, Any], max_pixels: int, draws: bool) -> PhotoScorer:
    from grepq_metric import catalog
    from grepq_metric.cli.loading import chosen
    from grepq_metric.cli.scoring import PhotoScorer
    from grepq_metric.reference import STANDARD_SIDE

    head = options.get("head")
    name, more = chosen(options.get("metric"), options.get("weights"))
    more |= {mode: options[mode] for mode in ("precision", "speed", "resolution", "allow_truncated") if mode in options}
    if head is None:
        more.setdefault("resolution", STANDARD_SIDE)
    entry = catalog.find(name or catalog.DEFAULT) if head is None else None
    referenced = entry is not None and not entry.download and more["resolution"] >= STANDARD_SIDE
    more["extras"] = ("percentile", "points", "facts") if referenced else ("facts",)
    return PhotoScorer(
        draws=draws, replace=False, weights=name, head=head, device=options.get("device"), max_pixels=max_pixels, **more
    )


def _scored(
    scorer: PhotoScorer,
    photos: PhotoArguments,
    listed: list[str],
    maps: Path | None,
    jobs: int | None,
    device: str | None,
) -> tuple[list[dict[str, Any]], str]:
    """Rows of photos, and the weights' id. Maps are of full size, and go to a folder that is not kept."""
    from grepq_metric.cli.maps import MapFolder
    from grepq_metric.cli.record import state_of
    from grepq_metric.cli.scoring import PhotoItem, worth_starting
    from grepq_metric.scoring import Engine

    folder = None if maps is None else MapFolder(maps, overwrite=False)
    number = worth_starting(listed, device) if jobs is None else jobs

    def items() -> Iterator[PhotoItem]:
        for path in listed:
            target = None if folder is None else folder.path(path)
            yield PhotoItem(path, path, "path", state_of(path), photos.problems.get(path), target)

    rows: list[dict[str, Any]] = []
    with Engine(scorer, number) as engine:
        typer.echo(f"{engine.facts['weights_id']} on {engine.facts['device']}", err=True)
        progress = Progress(len(listed))
        try:
            for item, row in engine.stream(items()):
                rows.append({"path": item.name, **{name: value for name, value in row.items() if name != "weights_id"}})
                progress.advance(row["error"] is not None)
        finally:
            progress.close()
        return rows, str(engine.facts["weights_id"])


def _write(
    output: Path, rows: list[dict[str, Any]], root: Path | None, title: str, about: str, previews: bool, scored: bool
) -> None:
    from grepq_metric.pages.gallery import write_gallery

    progress = Progress(len(rows))
    try:
        made = write_gallery(
            output, rows, root=root, title=title, about=about, previews=previews, advance=lambda: progress.advance(False)
        )
    finally:
        progress.close()
    failed = {row["path"] for row in rows if row.get("error")}
    unseen = {path: why for path, why in made.unseen.items() if path not in failed}
    if unseen:
        path, why = next(iter(unseen.items()))
        hint = "" if scored or root is not None else "; --root says where a table's relative paths start"
        told = f"{len(unseen)} of {made.photos} photos can't be read, and have no picture, such as {path}: {why}{hint}"
        _tell([told], "yellow")
    text = f"{made.photos} {'photo' if made.photos == 1 else 'photos'} in {made.page}"
    if made.failed:
        text += f", {made.failed} of them without a score (see error)"
    _tell([text], "yellow" if made.failed else None)
    if scored and made.failed:
        raise typer.Exit(1)


def _name(source: str) -> str:
    path = Path(source)
    return (path.stem if path.is_file() else path.resolve().name) or "Photos"


def _tell(lines: Sequence[str], colour: str | None = None) -> None:
    for line in lines:
        typer.secho(one_line(line), fg=colour, err=True)
