"""``grepq fit``: opinion scores in, a head that predicts them out."""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path

import typer

from grepq_metric.errors import InputError


def fit(
    paths: list[Path] = typer.Argument(
        ..., metavar="LABELS.csv", help="A CSV file with a column of photos and one of their MOS; with --suggest, photos."
    ),
    output: Path = typer.Option(
        None, "--output", "-o", help="The head to write, a .safetensors file; with --suggest, a CSV file to fill in."
    ),
    metric: str = typer.Option(None, help="Whose features: **grepq-ll** (default), **grepq** or **grepq-hl**."),
    weights: str = typer.Option(None, help="A weights folder or a Hub repository user/name."),
    features: str = typer.Option(
        "image", help="**image**: of the whole photo, as in the paper; **patches**: mean and deviation over patches."
    ),
    image_column: str = typer.Option("image", help="Column of photos; relative paths start at --root."),
    mos_column: str = typer.Option("mos", help="Column of opinion scores, on any scale, higher is better."),
    weight_column: str = typer.Option(None, help="Column of weights, for example how many people rated the photo."),
    root: Path = typer.Option(None, help="Folder of the photos. Default: the folder of the CSV file."),
    suggest: int = typer.Option(None, metavar="N", help="Instead of fitting, name the N photos to have rated first."),
    plot: Path = typer.Option(None, metavar="FILE.png", help="Draw held-out predictions against given scores."),
    cache: Path = typer.Option(
        None, help="Folder for features, so that a second run is quick. Default: with the Hub's cache."
    ),
    no_cache: bool = typer.Option(False, "--no-cache", help="Keep no features."),
    device: str = typer.Option(None, help="Torch device. Default: cuda if there is one, else cpu."),
) -> None:
    """Fit a head that predicts MOS to photos that people have rated: ridge regression on frozen features.

    Prints how well it predicts photos that it was not fitted to, by cross-validation. `grepq score --head` uses it. Photos
    that can't be read are named and left out, and the exit status is then 1.
    """
    for option, path in (("--plot", plot), ("--output", output)):
        if path is not None and not path.resolve().parent.is_dir():
            raise FileNotFoundError(f"no such folder for {option}: {path.parent}")
    if suggest is not None and output is not None and output.exists():
        raise FileExistsError(f"{output} exists, and may hold ratings: choose another --output")
    if suggest is None and output is None:
        raise InputError("--output is missing: where is the head to be written?")
    if suggest is None and len(paths) != 1:
        raise InputError(f"expected one CSV file of labels, got {len(paths)} arguments")
    if plot is not None:
        _need_matplotlib()
    if suggest is None:
        rows = _read_labels(paths[0], root, image_column, mos_column, weight_column)
    else:
        photos = _find(paths, suggest)
    from grepq_metric.cli.loading import load_model
    from grepq_metric.heads.features import default_cache

    model = load_model(metric, weights, device)
    typer.echo(f"{model.weights_id} on {next(model.parameters()).device}", err=True)
    cache = None if no_cache else cache or default_cache()
    if suggest is not None:
        failed = _suggest(model, photos, suggest, features, cache, output)
    else:
        failed = _fit(model, rows, features, cache, output, plot)
    if failed:
        typer.secho(f"{failed} of the photos could not be read, and are left out", fg="yellow", err=True)
        raise typer.Exit(1)


def _fit(
    model, rows: list[tuple[Path, float, float]], features: str, cache: Path | None, output: Path, plot: Path | None
) -> int:
    from grepq_metric.heads.regressor import GRepQRegressor, held_out

    photos, mos, weights = zip(*rows, strict=True)
    x, usable = _features(model, photos, features, cache)
    mos, weights = ([values[i] for i in usable] for values in (mos, weights))
    regressor = GRepQRegressor(model, features=features).fit(x, mos, weights)
    regressor.save(output)
    typer.echo(f"{output}: {len(mos)} labels from {min(mos):g} to {max(mos):g}, {x.shape[1]} features")
    try:
        found = held_out(regressor, x, mos, weights)
    except ValueError as error:
        typer.secho(f"not cross-validated{' and not drawn' * (plot is not None)}: {error}", fg="yellow", err=True)
        return len(rows) - len(usable)
    typer.echo(f"Held out ({found.folds} folds, {found.repeats} partitions; 95 % interval over photos):")
    for name, (value, low, high) in found.table.items():
        typer.echo(f"  {name}  {value:.3f} ({low:.3f} to {high:.3f})")
    if plot is not None:
        _draw(plot, mos, found.predicted, found.table["SRCC"], regressor.weights_id_)
    return len(rows) - len(usable)


def _find(paths: list[Path], count: int) -> list[Path]:
    from grepq_metric.images import find_images

    photos = [photo for path in paths for photo in (find_images(path, recursive=True) if path.is_dir() else [path])]
    if not 1 <= count <= len(photos):
        raise InputError(f"--suggest must be from 1 to the number of photos, {len(photos)}, got {count}")
    return photos


def _suggest(model, photos: list[Path], count: int, features: str, cache: Path | None, output: Path | None) -> int:
    from grepq_metric.heads.regressor import suggest

    x, usable = _features(model, photos, features, cache)
    if count > len(usable):
        raise InputError(f"--suggest {count} photos of {len(usable)} that can be read")
    chosen = suggest(x, count)
    stream = output.open("x", newline="", encoding="utf-8") if output else sys.stdout
    try:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["image", "mos"])
        # Absolute: a CSV's relative paths start at its own folder, and where standard output goes is not known here.
        writer.writerows([photos[usable[i]].resolve(), ""] for i in chosen)
    finally:
        if output:
            stream.close()
    return len(photos) - len(usable)


def _features(model, photos, kind: str, cache: Path | None):
    """Features of the photos that can be read, and their positions."""
    from grepq_metric.heads.features import photo_features

    x, problems = photo_features(model, photos, kind, cache, progress=True)
    for why in problems.values():
        typer.echo(f"left out: {why}", err=True)
    usable = [i for i in range(len(photos)) if i not in problems]
    if not usable:
        raise InputError("there are no photos that can be used")
    return x[usable], usable


def _read_labels(
    path: Path, root: Path | None, image_column: str, mos_column: str, weight_column: str | None
) -> list[tuple[Path, float, float]]:
    """Rows (photo, MOS, weight) of a CSV file."""
    if not path.is_file():
        raise FileNotFoundError(f"no such file of labels: {path}")
    root = path.parent if root is None else root
    if not root.is_dir():
        raise FileNotFoundError(f"no such folder for --root: {root}")
    rows, lines = [], {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            for column in filter(None, (image_column, mos_column, weight_column)):
                if column not in (reader.fieldnames or []):
                    raise InputError(f"{path} has no column {column!r}, it has {reader.fieldnames}")
            for row in reader:
                numbers = [_number(row[c], path, reader.line_num, c) if c else 1.0 for c in (mos_column, weight_column)]
                if not row[image_column]:
                    raise InputError(f"{path}, line {reader.line_num}: no photo in column {image_column!r}")
                if row[image_column] in lines:
                    first, here = lines[row[image_column]], reader.line_num
                    raise InputError(f"{path} names {row[image_column]} in lines {first} and {here}, expected one MOS a photo")
                lines[row[image_column]] = reader.line_num
                rows.append((root / row[image_column], *numbers))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV file in UTF-8: {error}") from error
    if not rows:
        raise InputError(f"{path} has no rows")
    return rows


def _number(text: str | None, path: Path, line: int, column: str) -> float:
    try:
        value = float(text)
        if math.isfinite(value):
            return value
    except (TypeError, ValueError):
        pass
    raise InputError(f"{path}, line {line}: expected a finite number in column {column!r}, got {text!r}")


def _need_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError('--plot needs matplotlib: pip install "grepq-metric[plot]"') from error


def _draw(path: Path, mos, predicted, srcc: tuple[float, float, float], weights_id: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(predicted, mos, s=12, alpha=0.5, linewidths=0)
    ends = [min(*mos, *predicted), max(*mos, *predicted)]
    axes.plot(ends, ends, color="0.5", linewidth=1, zorder=0)
    axes.set(xlabel="predicted MOS, held out", ylabel="given MOS", aspect="equal")
    axes.set_title(f"{len(mos)} photos, SRCC {srcc[0]:.3f} ({srcc[1]:.3f} to {srcc[2]:.3f})\n{weights_id}", fontsize=10)
    figure.savefig(path, dpi=150)
