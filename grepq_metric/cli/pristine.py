"""``grepq pristine``: pristine statistics into a weights folder."""

from __future__ import annotations

from pathlib import Path

import typer

from grepq_metric.cli.train import told
from grepq_metric.cli.writers import refuse_weights_folder

EPILOG = """\
**Examples**

`grepq pristine --photos good --weights grepq-ll -o mine` makes weights that compare with your own good photos.

`grepq pristine --photos good --weights mine -o mine --overwrite` replaces what is in a folder.
"""


def pristine(
    photos: list[Path] = typer.Option(
        ..., help="Undistorted photos: a folder, a .txt list or a .tar shard; may be given more than once."
    ),
    weights: str = typer.Option(..., help="Weights to take the encoder from: a built-in name, a folder, a Hub repository."),
    output: Path = typer.Option(..., "--output", "-o", metavar="DIR", help="Weights folder to write."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace the weights that --output holds."),
    device: str = typer.Option(None, help="Torch device. Default: cuda if there is one, else cpu."),
    sharpness: float = typer.Option(0.75, help="Keep patches sharper than this share of their photo's sharpest,"),
    colourfulness: float = typer.Option(0.80, help="and, of those, more colourful than this share of the most colourful."),
) -> None:
    """Choose which photos count as perfect: scores measure the distance to the patches of undistorted, pristine photos.

    Selects sharp and colourful patches of the photos and writes weights with the mean and covariance of their features.
    """
    refuse_weights_folder(output, "--output", overwrite)
    from grepq_metric.devices import usable_device
    from grepq_metric.models import GRepQ
    from grepq_metric.training.photos import PhotoList
    from grepq_metric.training.pristine import Selection, set_pristine_statistics
    from grepq_metric.training.run import weights_name

    selection, where = Selection(sharpness=sharpness, colourfulness=colourfulness), usable_device(device)
    contents = PhotoList(photos)
    model = GRepQ.from_pretrained(weights).to(where)
    if Path(weights).expanduser().resolve() != output.resolve():
        model.name = weights_name(output)
    with told():
        for why in set_pristine_statistics(model, contents, selection):
            typer.echo(f"skipped: {why}", err=True)
    model.save_pretrained(output)
    typer.echo(f"{model.weights_id} in {output}: {model.provenance['pristine']['patches']} pristine patches")
