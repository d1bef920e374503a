"""``grepq fit``: opinion scores in, a head that predicts them out."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from grepq_metric import catalog
from grepq_metric.cli.photos import PhotoArguments
from grepq_metric.cli.writers import input_identities, refuse_existing
from grepq_metric.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from grepq_metric.heads.evaluation import HeldOut
    from grepq_metric.heads.labels import Labels
    from grepq_metric.models import QualityModel


EPILOG = """\
**Examples**

`grepq fit --suggest 50 photos -o labels.csv` names the 50 photos to have rated first; fill in its column `mos`.

`grepq fit labels.csv -o head.safetensors` fits a head to them.

`grepq fit votes.csv --image-column file --mos-column mean --root photos -o head.safetensors` reads a table of your own.

`grepq score photos --head head.safetensors` predicts.
"""


class Kind(str, Enum):
    """What a head does with score and features."""

    auto = "auto"
    monotone = "monotone"
    shrunk = "shrunk"
    ridge = "ridge"


def fit(
    paths: list[Path] = typer.Argument(
        ...,
        metavar="LABELS.csv",
        help="A CSV file with a column of photos and one of their MOS; with --suggest, photos and folders of photos.",
    ),
    output: Path = typer.Option(
        None, "--output", "-o", help="The head to write, a .safetensors file; with --suggest, a CSV file to fill in."
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace files that --output and --plot name."),
    metric: str = typer.Option(None, help=f"Whose features: {', '.join(catalog.names())}. Default: {catalog.DEFAULT}."),
    weights: str = typer.Option(None, help="A weights folder or a Hub repository user/name."),
    kind: Kind = typer.Option(
        Kind.auto,
        help="**monotone**: a rising line of the score; **shrunk**: the line, and features as far as the ratings bear them "
        "out; **ridge**: features alone, as in the paper. **auto**: monotone with fewer than 50 ratings (with grepq-ll, 800), "
        "else shrunk.",
    ),
    features: str = typer.Option(
        None,
        metavar="KIND[+KIND]",
        help="**semantic**; low-level of **patches** or of the whole **image**, as in the paper; **clip**, which is always "
        "there if the weights have it. Default: all that the metric has, of patches.",
    ),
    image_column: str = typer.Option("image", help="Column of photos; relative paths start at --root."),
    mos_column: str = typer.Option("mos", help="Column of opinion scores, on any scale, higher is better."),
    weight_column: str = typer.Option(None, help="Column of weights, for example how many people rated the photo."),
    root: Path = typer.Option(None, help="Folder of the photos. Default: the folder of the CSV file."),
    suggest: int = typer.Option(
        None, metavar="N", help="Instead of fitting, name the N photos to have rated first; folders with their subfolders."
    ),
    plot: Path = typer.Option(None, metavar="FILE.png", help="Draw held-out predictions against given scores."),
    cache: Path = typer.Option(
        None, help="Folder for features, so that a second run is quick. Default: with the Hub's cache."
    ),
    no_cache: bool = typer.Option(False, "--no-cache", help="Keep no features."),
    device: str = typer.Option(None, help="Torch device. Default: cuda if there is one, else cpu."),
) -> None:
    """Fit a head to photos that people have rated: it predicts what they think of others, on their scale.

    A **MOS** is a mean opinion score: what several people give a photo, averaged. A **head** is a small file: a regression
    from a model's features of a photo to its MOS. 50 to 200 rated photos of your own kind are enough for one.

    Prints how well it predicts photos that it was not fitted to, by cross-validation. Rows without a MOS are left out. So are
    photos that can't be read; they are named, and the exit status is then 1.
    """
    _check_outputs(output, plot, suggest is not None)
    labels = _read(paths, image_column, mos_column, weight_column, root) if suggest is None else None
    photos = _find(paths, suggest) if labels is None else labels.photos
    read = input_identities(map(str, [*photos, *([] if labels is None else paths)]), None, weights)
    for option, path in (("--output", output), ("--plot", plot)):
        if path is not None:
            refuse_existing(path, option, read, overwrite)
    from grepq_metric.cli.loading import load_model
    from grepq_metric.heads.regressor import whole_kind

    model = load_model(metric, weights, device)
    typer.echo(f"{model.weights_id} on {model.device}", err=True)
    wanted = whole_kind(model, "ridge" if labels is None or kind is Kind.ridge else "shrunk", features)
    x, usable = _features(model, photos, wanted, cache, no_cache)
    if labels is None:
        _suggest(x, [photos[i] for i in usable], suggest, output)
    else:
        _fit(model, x, labels, usable, kind, features, output, plot)
    if failed := len(photos) - len(usable):
        typer.secho(f"{failed} of the photos could not be read, and are left out", fg="yellow", err=True)
        raise typer.Exit(1)


def _check_outputs(output: Path | None, plot: Path | None, suggesting: bool) -> None:
    """Refuse, before any work, files that can't be written."""
    if output is None and not suggesting:
        raise InputError("--output is missing: where is the head to be written?")
    if plot is not None and suggesting:
        raise InputError("--plot draws a head, and --suggest fits none")
    for option, path in (("--output", output), ("--plot", plot)):
        if path is not None and not path.resolve().parent.is_dir():
            raise FileNotFoundError(f"no such folder for {option}: {path.parent}")
    if plot is not None:
        _check_plot(plot)
        if output is not None and plot.resolve() == output.resolve():
            raise InputError(f"--output and --plot are the same file: {plot}")


def _check_plot(plot: Path) -> None:
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ModuleNotFoundError as error:
        raise InputError('--plot needs matplotlib: pip install "grepq-metric[plot]"') from error
    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if plot.suffix.lower().lstrip(".") not in known:
        raise InputError(f"--plot must end in one of {', '.join(known)}, got {plot}")


def _read(paths: list[Path], image_column: str, mos_column: str, weight_column: str | None, root: Path | None) -> Labels:
    from grepq_metric.heads.labels import read_labels
    from grepq_metric.tables import DELIMITERS

    if len(paths) != 1:
        raise InputError(f"expected one CSV file of labels, got {len(paths)} arguments")
    if root is not None and not root.is_dir():
        raise FileNotFoundError(f"no such folder for --root: {root}")
    labels = read_labels(paths[0], image_column, mos_column, weight_column, root)
    if labels.delimiter != ",":
        typer.echo(f"{paths[0]} is read as fields separated by {DELIMITERS[labels.delimiter]}", err=True)
    if labels.unrated:
        count = labels.unrated + len(labels.photos)
        left_out = f"{labels.unrated} of {count} photos"
        typer.echo(f"left out, since {paths[0]} has no {mos_column!r} for them yet: {left_out}", err=True)
    return labels


def _find(paths: list[Path], count: int) -> list[Path]:
    arguments = PhotoArguments([str(path) for path in paths])
    photos = [Path(path) for path in arguments.all() if path not in arguments.problems]
    for note in arguments.notes():
        typer.echo(note, err=True)
    if not 1 <= count <= len(photos):
        raise InputError(f"--suggest must be from 1 to the number of photos, {len(photos)}, got {count}")
    return photos


def _features(
    model: QualityModel, photos: list[Path], kind: str, cache: Path | None, no_cache: bool
) -> tuple[np.ndarray, list[int]]:
    """Features of the photos that can be read, and their positions."""
    from grepq_metric.heads.features import default_cache, photo_features

    try:
        x, problems = photo_features(model, photos, kind, None if no_cache else cache or default_cache(), progress=True)
    except OSError as error:  # of the cache: photos that can't be read are problems
        raise OSError(f"{error}; or keep no features, with --no-cache") from error
    for why in problems.values():
        typer.echo(f"left out: {why}", err=True)
    usable = [i for i in range(len(photos)) if i not in problems]
    if not usable:
        raise InputError("there are no photos that can be used")
    return x[usable], usable


def _fit(
    model: QualityModel,
    x: np.ndarray,
    labels: Labels,
    usable: list[int],
    kind: Kind,
    features: str | None,
    output: Path | None,
    plot: Path | None,
) -> None:
    from grepq_metric.heads.evaluation import held_out
    from grepq_metric.heads.regressor import GRepQRegressor, kind_for

    mos, weights = labels.mos[usable], None if labels.weights is None else labels.weights[usable]
    chosen = kind_for(len(mos), model) if kind is Kind.auto else kind.value
    if chosen == "monotone":
        x = x[:, :1]  # the score
    regressor = GRepQRegressor(model, features=features, kind=chosen).fit(x, mos, weights)
    if output is not None:
        regressor.save(output)
        what = f"a head {chosen!r} of {x.shape[1]} features, {regressor.features_}"
        typer.echo(f"{output}: {len(mos)} labels from {mos.min():g} to {mos.max():g}, {what}")
    try:
        found = held_out(regressor.head_, x, mos, weights)
    except InputError as error:
        lost = "not cross-validated" if plot is None else "not cross-validated and not drawn"
        typer.secho(f"{lost}: {error}", fg="yellow", err=True)
        return
    typer.echo(f"Held out ({found.folds} folds, {found.repeats} partitions; 95 % interval over photos):")
    for name, (value, low, high) in found.table.items():
        typer.echo(f"  {name}  {value:.3f} ({low:.3f} to {high:.3f})")
    if plot is not None:
        _draw(plot, mos, found, model.weights_id)


def _suggest(x: np.ndarray, photos: list[Path], count: int, output: Path | None) -> None:
    from grepq_metric.heads.labels import write_sheet
    from grepq_metric.heads.selection import suggest

    if count > len(photos):
        raise InputError(f"--suggest {count} photos of {len(photos)} that can be read")
    if output is None and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8")  # as the file would be
    write_sheet(output or sys.stdout, [photos[i] for i in suggest(x, count)])


def _draw(path: Path, mos: np.ndarray, found: HeldOut, weights_id: str) -> None:
    from matplotlib.figure import Figure

    from grepq_metric.files import whole_file

    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(found.predicted, mos, s=12, alpha=0.5, linewidths=0)
    ends = [min(*mos, *found.predicted), max(*mos, *found.predicted)]
    axes.plot(ends, ends, color="0.5", linewidth=1, zorder=0)
    axes.set(xlabel="predicted MOS, held out", ylabel="given MOS", aspect="equal")
    srcc = found.table["SRCC"]
    title = f"{len(mos)} photos, SRCC {srcc.value:.3f} ({srcc.low:.3f} to {srcc.high:.3f})\n{weights_id}"
    axes.set_title(title, fontsize=10)
    with whole_file(path) as part:
        figure.savefig(part, dpi=150)
