"""``grepq pristine``: pristine statistics into a weights folder."""

from __future__ import annotations

from pathlib import Path

import typer


def pristine(
    photos: list[Path] = typer.Option(
        ..., help="Undistorted photos: a folder, a .txt list or a .tar shard; may be given more than once."
    ),
    weights: Path = typer.Option(..., help="Weights folder whose pristine statistics are replaced."),
    sharpness: float = typer.Option(0.75, help="Keep patches sharper than this share of their photo's sharpest,"),
    colourfulness: float = typer.Option(0.80, help="and, of those, more colourful than this share of the most colourful."),
) -> None:
    """Select pristine patches of photos and write their mean and covariance into weights."""
    from grepq_metric.model import GRepQ
    from grepq_metric.training.photos import PhotoList
    from grepq_metric.training.pristine import Selection, set_pristine_statistics

    model = GRepQ.from_pretrained(Path(weights))
    selection = Selection(sharpness=sharpness, colourfulness=colourfulness)
    for why in set_pristine_statistics(model, PhotoList(photos), selection):
        typer.echo(f"skipped: {why}", err=True)
    model.save_pretrained(weights)
    typer.echo(f"{model.weights_id} in {weights}: {model.provenance['pristine']['patches']} pristine patches")
