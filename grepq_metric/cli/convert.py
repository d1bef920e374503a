"""``grepq convert``: the authors' released files to a weights folder."""

from __future__ import annotations

from pathlib import Path

import typer

from grepq_metric.cli.writers import refuse_weights_folder

EPILOG = """\
**Examples**

`grepq convert --low low_level_model_weights.tar --pristine pristine_patches_096_0.75_0.80.hdf5 -o authors-ll` makes weights
of the low-level pathway.

`grepq score photo.jpg --weights authors-ll` scores with them.
"""


def convert(
    low: Path = typer.Option(None, help="low_level_model_weights.tar of the authors."),
    high: Path = typer.Option(None, help="high_level_model_weights.pth of the authors."),
    pristine: Path = typer.Option(None, help="pristine_patches_096_0.75_0.80.hdf5 of the authors; goes with --low."),
    clip: str = typer.Option(
        None, help="A full CLIP RN50 checkpoint in open_clip's layout, a file or a Hub repository; goes with --high."
    ),
    output: Path = typer.Option(..., "--output", "-o", metavar="DIR", help="Weights folder to write."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace weights that are in --output."),
    name: str = typer.Option("grepq-authors", help="Name of the weights."),
) -> None:
    """Turn the files that GRepQ's authors released into a weights folder, which stands for the published method.

    Give all four for both pathways, --low and --pristine for the low-level one, or --high and --clip for the high-level one.
    """
    from grepq_metric.errors import InputError
    from grepq_metric.models import GRepQ
    from grepq_metric.weights.convert import convert

    refuse_weights_folder(output, "--output", overwrite)
    for one, other, names in ((low, pristine, ("--low", "--pristine")), (high, clip, ("--high", "--clip"))):
        if (one is None) != (other is None):
            given, missing = names if other is None else names[::-1]
            raise InputError(f"{given} needs {missing} too")
    model = GRepQ.from_parts(*convert(low, high, pristine, clip, name=name), source="the authors' files")
    model.save_pretrained(output)
    typer.echo(f"{model.weights_id} in {output}")
