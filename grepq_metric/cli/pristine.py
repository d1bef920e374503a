"""``grepq pristine``: pristine statistics into a weights folder."""

from __future__ import annotations

from pathlib import Path

import typer


def pristine(
    photos: list[Path] = typer.Option(..., help="Folder of undistorted photos; may be given more than once."),
    weights: Path = typer.Option(..., help="Weights folder whose pristine statistics are replaced."),
    sharpness: float = typer.Option(0.75, help="Keep patches sharper than this share of their photo's sharpest,"),
    colourfulness: float = typer.Option(0.80, help="and, of those, more colourful than this share of the most colourful."),
) -> None:
    """Select pristine patches of photos and write their mean and covariance into weights."""
    from grepq_metric.model import GRepQ
    from grepq_metric.training.data import list_photos
    from grepq_metric.training.pristine import Selection, set_pristine_statistics

    model = GRepQ.from_pretrained(Path(weights))
    set_pristine_statistics(model, list_photos(photos), Selection(sharpness=sharpness, colourfulness=colourfulness))
    model.save_pretrained(weights)
    typer.echo(f"{model.weights_id} in {weights}: {model.provenance['pristine']['patches']} pristine patches")
