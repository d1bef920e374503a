"""``grepq convert``: the authors' released files, which it can fetch, to a weights folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from grepq_metric import catalog
from grepq_metric.cli.writers import one_line, refuse_weights_folder

if TYPE_CHECKING:
    from torch import Tensor

    from grepq_metric.models import QualityModel

EPILOG = """\
**Examples**

`grepq convert --download -o grepq-authors` fetches the authors' files and makes weights of the published method.

`grepq score photo.jpg --metric grepq-authors` scores with them, in any folder.

`grepq convert --low low_level_model_weights.tar --pristine pristine_patches_096_0.75_0.80.hdf5 -o authors-ll` makes weights
of the low-level pathway, of files that are here.
"""


def convert(
    download: bool = typer.Option(
        False, "--download", help="Fetch the authors' three files from their Google Drive, and CLIP from the Hub."
    ),
    low: Path = typer.Option(None, help="low_level_model_weights.tar of the authors."),
    high: Path = typer.Option(None, help="high_level_model_weights.pth of the authors."),
    pristine: Path = typer.Option(None, help="pristine_patches_096_0.75_0.80.hdf5 of the authors; goes with --low."),
    clip: str = typer.Option(
        None,
        help="A full CLIP RN50 checkpoint in open_clip's layout, a file or a Hub repository; goes with --high, and with "
        "--download where the Hub can't be reached.",
    ),
    check: list[Path] = typer.Option(
        [], metavar="PHOTO", help="A photo to check the weights on, again for more. Default: two of scikit-learn's."
    ),
    output: Path = typer.Option(..., "--output", "-o", metavar="DIR", help="Weights folder to write."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace weights that are in --output."),
    name: str = typer.Option(catalog.AUTHORS.name, help="Name of the weights."),
) -> None:
    """Turn the files that GRepQ's authors released into a weights folder, which stands for the published method.

    With --download they are fetched; a download that was cut is continued. Else give all four for both pathways, --low and
    --pristine for the low-level one, or --high and --clip for the high-level one.

    Weights of both pathways are `grepq-authors` from then on, for --metric and wherever else weights have a name; those with
    another --name are not.
    """
    from grepq_metric.models import GRepQ
    from grepq_metric.weights.authors import remember
    from grepq_metric.weights.convert import convert

    refuse_weights_folder(output, "--output", overwrite, own=catalog.AUTHORS.name)
    _refuse_odd_options(download, {"--low": low, "--high": high, "--pristine": pristine, "--clip": clip})
    photos = list(_photos(check))
    facts: dict[str, Any] = {}
    if download:
        files, facts = _downloaded()
        low, high, pristine = (files[key] for key in ("low", "high", "pristine"))
        if clip is None:
            clip, facts["clip"] = _pinned_clip()
    model = GRepQ.from_parts(*convert(low, high, pristine, clip, name=name, facts=facts), source="the authors' files")
    _check(model, photos)
    model.save_pretrained(output)
    typer.echo(f"{model.weights_id} in {output}")
    if (model.name, model.pathways) == (catalog.AUTHORS.name, catalog.AUTHORS.pathways):
        remember(output, model.weights_id)
        typer.echo(f"{name} is their name on this machine: grepq score photo.jpg --metric {name}")


def _refuse_odd_options(download: bool, files: Mapping[str, object]) -> None:
    """Check that the files given go together.

    Raises:
        InputError: they do not; the message names the options.
    """
    from grepq_metric.errors import InputError

    given = [option for option, file in files.items() if file is not None]
    if download:
        if unwanted := [option for option in given if option != "--clip"]:
            raise InputError(f"--download fetches the authors' files, got {', '.join(unwanted)} too")
        return
    if not given:
        raise InputError("nothing to convert: give --download, --low and --pristine, --high and --clip, or all four")
    for pair in (("--low", "--pristine"), ("--high", "--clip")):
        if len(missing := [option for option in pair if option not in given]) == 1:
            raise InputError(f"{next(option for option in pair if option in given)} needs {missing[0]} too")


def _downloaded() -> tuple[dict[str, Path], dict[str, Any]]:
    """The authors' files, and where they come from, for the record."""
    from grepq_metric.weights.authors import kept
    from grepq_metric.weights.drive import fetch_folder

    source = catalog.AUTHORS_FILES
    typer.echo(f"from {source.address}, kept in {one_line(kept())}")
    typer.echo(f"terms: {source.terms}")
    files = fetch_folder(source, kept())
    facts: dict[str, Any] = {"downloaded_from": source.address, "terms": source.terms}
    for key, file in files.items():
        typer.echo(f"{file.path.name}: {file.address}, {file.size:,} bytes, of {file.date}, SHA-256 {file.sha256}")
        facts |= {f"{key}_address": file.address, f"{key}_bytes": file.size, f"{key}_downloaded": file.date}
    return {key: file.path for key, file in files.items()}, facts


def _pinned_clip() -> tuple[str, str]:
    """The file of CLIP from the Hub, and where it comes from, for the record."""
    from grepq_metric.errors import WeightsError
    from grepq_metric.weights.clip import pinned_clip

    clip = catalog.AUTHORS.clip
    assert clip is not None  # for mypy
    try:
        path = pinned_clip(clip)
    except WeightsError as error:
        raise WeightsError(f"{error} Or give the file with --clip; the authors' files are kept.") from error
    origin = f"{clip.name} of {clip.repository} at {clip.revision}, {clip.licence}"
    typer.echo(f"{origin}: {path.stat().st_size:,} bytes, SHA-256 {clip.sha256}")
    return str(path), origin


def _check(model: QualityModel, photos: Iterable[tuple[str, Tensor]]) -> None:
    """Score photos and badly distorted versions of them, and refuse weights that can't be right.

    Raises:
        WeightsError: a score is out of its range, or a photo scores no better than what it is distorted to.
    """
    from statistics import mean

    from grepq_metric.errors import WeightsError
    from grepq_metric.training.sanity import severe_scores

    for name, photo in photos:
        scores = severe_scores(model, photo)
        typer.echo(f"check: {one_line(name)} " + ", ".join(f"{key} {score:.4f}" for key, score in scores.items()))
        itself, *others = scores.values()
        if not all(0 < score <= model.best for score in scores.values()):  # so is NaN
            raise WeightsError(f"{name} gives scores that are not from 0 to {model.best:g}: these weights can't be right")
        if itself <= mean(others):
            raise WeightsError(
                f"{name} scores {itself:.4f}, no better than badly distorted: {mean(others):.4f}, the mean of blur, noise and "
                "JPEG. These weights can't be right, or the photo is a bad one (--check takes others). Nothing is written"
            )


def _photos(photos: Sequence[Path]) -> Iterator[tuple[str, Tensor]]:
    """Photos by name, ``(3, H, W)``, of the standard viewing size at most."""
    from grepq_metric.images import read_image
    from grepq_metric.inputs import reduce_to
    from grepq_metric.reference import STANDARD_SIDE

    if not photos:
        from sklearn.datasets import load_sample_images

        photos = [Path(name) for name in load_sample_images().filenames]
    for path in photos:
        yield path.name, reduce_to(read_image(path).unsqueeze(0), STANDARD_SIDE)[0]
