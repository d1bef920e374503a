"""``grepq threshold``: photos that somebody has accepted or rejected in, a cut-off out."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from grepq_metric.cli.progress import Progress
from grepq_metric.cli.writers import one_line
from grepq_metric.errors import InputError

if TYPE_CHECKING:
    from grepq_metric.heads.evaluation import Estimate
    from grepq_metric.heads.threshold import Threshold

EPILOG = """\
**Examples**

`grepq threshold labels.csv` finds the cut-off above which 90 % of the photos are acceptable.

`grepq threshold labels.csv --recall 0.95` finds the one above which 95 % of the acceptable photos are.

`grepq threshold labels.csv --scores scores.csv` takes the scores of an earlier run.

`grepq threshold labels.csv --prior 0.3` knows that of all the photos only 30 % are acceptable.
"""
DEFAULT_PRECISION = 0.9
WORDS = {
    **dict.fromkeys(("1", "yes", "accept", "keep", "true"), True),
    **dict.fromkeys(("0", "no", "reject", "drop", "false"), False),
}
"""Labels, in lower case, and whether they accept the photo."""
_NAMED = 3


@dataclass(frozen=True)
class _Labelled:
    """A photo of the sheet, as it is written there, and whether it is accepted."""

    name: str
    accepted: bool
    row: dict[str, Any]


def threshold(
    labels: Path = typer.Argument(..., metavar="LABELS.csv", help="A table with a column of photos and one of labels."),
    label_column: str = typer.Option(
        "accept", help="Column of labels: 1/0, yes/no, accept/reject, keep/drop or true/false; empty ones are left out."
    ),
    image_column: str = typer.Option(None, help="Column of photos. Default: **image** or **path**."),
    score_column: str = typer.Option(None, help="Column of scores, higher is better. Default: **score**, if there is one."),
    scores: Path = typer.Option(
        None, metavar="TABLE", help="Take the scores from this table, which `grepq score -o` wrote, by its column path."
    ),
    root: Path = typer.Option(None, help="Folder of the photos. Default: the folder of LABELS.csv."),
    precision: float = typer.Option(
        None,
        metavar="SHARE",
        help=f"Wanted: share of acceptable photos among those kept. Default: {DEFAULT_PRECISION}. (It is no `bf16` here.)",
    ),
    recall: float = typer.Option(None, metavar="SHARE", help="Wanted instead: share of the acceptable photos that are kept."),
    prior: float = typer.Option(
        None,
        metavar="SHARE",
        help="Share of acceptable photos in the whole folder, if it is another one than among the labels: precision depends "
        "on it, recall does not.",
    ),
    metric: str = typer.Option(None, help="Without scores, the photos are scored here: see `grepq score`."),
    weights: str = typer.Option(None, help="Likewise."),
    head: Path = typer.Option(None, metavar="FILE", help="Likewise: the cut-off is then one of MOS."),
    speed: str = typer.Option(None, help="Likewise."),
    resolution: int = typer.Option(None, metavar="PIXELS", help="Likewise."),
    device: str = typer.Option(None, help="Likewise."),
    jobs: int = typer.Option(1, "--jobs", "-j", min=1, metavar="N", help="Likewise."),
) -> None:
    """Find the score above which photos are good enough, from a few that you have accepted or rejected.

    Fifty labels of each kind are a start; take photos that are like those to be sorted, chosen at random. The precision is
    that of the mix of good and bad photos among the labels: if the folder has another one, give its share of acceptable photos
    with --prior. Exit status 1: what is wanted can't be reached.
    """
    if precision is not None and recall is not None:
        raise InputError("--precision and --recall are two wishes for one cut-off: give one of them")
    if scores is not None and not scores.exists():
        raise FileNotFoundError(f"no such table for --scores: {scores}")
    if recall is None and precision is None:
        precision = DEFAULT_PRECISION
    for option, value in (("--precision", precision), ("--recall", recall)):
        if value is not None and not 0 < value <= 1:
            raise InputError(f"{option} must be above 0 and at most 1, got {value:g}")
    if prior is not None and not 0 < prior < 1:
        raise InputError(f"--prior must be between 0 and 1, got {prior:g}")
    photos, there = _read(labels, image_column, label_column)
    modes = {"speed": speed, "resolution": resolution}
    options = {"metric": metric, "weights": weights, "head": head, **modes, "device": device}
    given = {name: value for name, value in options.items() if value is not None}
    if scores is not None:
        column = score_column or ("score" if head is None else "mos")
        found = _joined(photos, scores, column, root or labels.parent)
    elif score_column is not None or ("score" in there and not given):
        column = score_column or "score"
        if column not in there:
            raise InputError(f"{labels} has no column {column!r}, it has {', '.join(map(repr, there)):.200}")
        found = [_as_score(photo.row.get(column), photo.name, column) for photo in photos]
    else:
        column = "score" if head is None else "mos"
        found = list(_scored(photos, root or labels.parent, given, column, jobs))
    known = [(photo, value) for photo, value in zip(photos, found, strict=True) if value is not None]
    _tell_of_unknown([photo.name for photo, value in zip(photos, found, strict=True) if value is None], column)
    if not known:
        raise InputError(f"none of the {len(photos)} labelled photos has a {column}")
    from grepq_metric.heads.threshold import find_threshold

    accepted = [photo.accepted for photo, _ in known]
    answer = find_threshold([value for _, value in known], accepted, precision=precision, recall=recall, prior=prior)
    given.pop("device", None)
    _show(answer, column, precision, recall, prior, [f"--{name} {shlex.quote(str(value))}" for name, value in given.items()])
    if not answer.reached:
        raise typer.Exit(1)


def _read(path: Path, image_column: str | None, label_column: str) -> tuple[list[_Labelled], list[str]]:
    """Photos that have a label, and the columns of their table."""
    from grepq_metric.tables import read_table

    rows = read_table(path, [label_column, *([] if image_column is None else [image_column])])
    there = list(dict.fromkeys(name for row in rows for name in row))
    column = image_column or next((name for name in ("image", "path") if name in there), None)
    if column is None:
        raise InputError(
            f"{path} has no column 'image' or 'path', it has {', '.join(map(repr, there)):.200}: name one with --image-column"
        )
    photos: list[_Labelled] = []
    seen: dict[str, bool] = {}
    for number, row in enumerate(rows, 1):
        name, label = row.get(column), row.get(label_column)
        if label is None or not str(label).strip():
            continue
        if name is None:
            raise InputError(f"{path}, row {number}: expected a photo in column {column!r}, got nothing")
        accepted = _as_label(label, f"{path}, row {number}", label_column)
        key = os.path.normpath(str(name))
        if key in seen:
            raise InputError(f"{path} names {name} twice; expected one label a photo")
        seen[key] = accepted
        photos.append(_Labelled(str(name), accepted, row))
    if not photos:
        raise InputError(f"none of the {len(rows)} rows of {path} has a label: fill in the column {label_column!r}")
    if len(photos) < len(rows):
        left_out = f"{len(rows) - len(photos)} of {len(rows)} photos"
        typer.echo(f"left out, since {path} has no {label_column!r} for them yet: {left_out}", err=True)
    return photos, there


def _as_label(value: Any, where: str, column: str) -> bool:
    text = str(value).strip().lower()
    text = text.removesuffix(".0")  # 1.0, as spreadsheets and Parquet make of a 1
    if text not in WORDS:
        raise InputError(
            f"{where}: expected 1 or 0, yes or no, accept or reject, keep or drop, true or false in column {column!r}, got "
            f"{str(value)[:80]!r}"
        )
    return WORDS[text]


def _as_score(value: Any, name: str, column: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"expected a number as the {column} of {name}, got {str(value)[:80]!r}")
    return float(value)


def _joined(photos: Sequence[_Labelled], table: Path, column: str, root: Path) -> list[float | None]:
    """Scores from a table: by the name as it is written, else by the file that it means."""
    from grepq_metric.tables import read_table

    written: dict[str, Any] = {}
    files: dict[str, Any] = {}
    for row in read_table(table, ["path", column]):
        name, value = str(row["path"]), row.get(column)
        for index, key in (
            (written, os.path.normpath(name)),
            (files, os.path.realpath(name)),
            (files, os.path.realpath((table if table.is_dir() else table.parent) / name)),
        ):
            index.setdefault(key, value)
    found = []
    for photo in photos:
        meant = os.path.realpath(root / photo.name)
        value = files[meant] if meant in files else written.get(os.path.normpath(photo.name))
        found.append(_as_score(value, photo.name, column))
    return found


def _scored(photos: Sequence[_Labelled], root: Path, given: dict[str, Any], column: str, jobs: int) -> Iterator[float | None]:
    """Scores of the photos, made here."""
    from grepq_metric.cli.loading import chosen
    from grepq_metric.scoring import score_files

    name, options = chosen(given.get("metric"), given.get("weights"))
    options |= {mode: given[mode] for mode in ("speed", "resolution") if mode in given}
    paths = [root / photo.name for photo in photos]
    rows = score_files(paths, weights=name, head=given.get("head"), device=given.get("device"), jobs=jobs, **options)
    progress = Progress(len(photos))
    try:
        for row in rows:
            if row["error"] is not None:
                with progress.paused():
                    typer.echo(one_line(f"left out: {row['error']}"), err=True)
            progress.advance(row["error"] is not None)
            yield _as_score(row[column], str(row["path"]), column)
    finally:
        progress.close()


def _tell_of_unknown(names: Sequence[str], column: str) -> None:
    if names:
        examples = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
        count = f"{len(names)} labelled {'photo has' if len(names) == 1 else 'photos have'}"
        typer.secho(one_line(f"left out, since {count} no {column}: {examples}"), fg="yellow", err=True)


def _show(
    found: Threshold, column: str, precision: float | None, recall: float | None, prior: float | None, options: Iterable[str]
) -> None:
    from grepq_metric.heads.threshold import FEW

    name, wanted = ("precision", precision) if precision is not None else ("recall", recall)
    cutoff = _short(found)
    if not found.reached:
        typer.secho(f"no cut-off reaches the {name} {wanted:g}; nearest to it is", fg="yellow", err=True)
    typer.echo(f"{column} above {cutoff} (95 % interval {found.cutoff.low:.4g} to {found.cutoff.high:.4g})")
    mix = "" if prior is None else f", where {prior:.3g} of the photos are acceptable"
    typer.echo(f"  precision  {_with_interval(found.precision)}: photos above it that are acceptable{mix}")
    typer.echo(f"  recall     {_with_interval(found.recall)}: acceptable photos that are above it")
    typer.echo(f"  kept       {found.kept:.3f} of all photos")
    typer.echo(f"  ROC AUC    {found.auc:.3f}: how often an accepted photo has the higher {column} of two")
    typer.echo(f"  labels     {found.accepted} accepted, {found.rejected} rejected")
    few = [f"{count} {kind}" for count, kind in ((found.accepted, "accepted"), (found.rejected, "rejected")) if count < FEW]
    if few:
        typer.secho(f"only {' and '.join(few)}: with fewer than {FEW} of a kind this is hardly more than a guess", fg="yellow")
    typer.echo(" ".join(["apply it: grepq score PHOTOS", *options, f"--keep-above {cutoff} --by {column}"]))


def _short(found: Threshold) -> str:
    """The cut-off with no more digits than it takes to lie well between its two neighbours."""
    (low, high), middle = found.between, found.cutoff.value
    for digits in range(3, 17):
        text = f"{middle:.{digits}g}"
        if abs(float(text) - middle) < 0.4 * (high - low):
            return text
    return repr(middle)


def _with_interval(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
