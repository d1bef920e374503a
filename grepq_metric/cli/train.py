"""``grepq train``: train a pathway."""

from __future__ import annotations

from pathlib import Path

import typer

app = typer.Typer(no_args_is_help=True, help="Train a pathway on photos, without human scores.")


@app.callback()
def _train() -> None:
    pass


@app.command("low")
def low(
    photos: list[Path] = typer.Option(..., help="Folder of undistorted photos; may be given more than once."),
    out: Path = typer.Option(..., help="Weights folder to write; the run's record and checkpoint go to its training/."),
    recipe: str = typer.Option("paper", help="**paper**: 4 distortion types, 224-pixel views; **broad**: 4 of all types."),
    types: str = typer.Option(None, help="Distortion types to draw 4 of, comma-separated, or `all`; overrides the recipe."),
    grid: int = typer.Option(None, help="Fragments of 32 pixels along each side of a view; overrides the recipe."),
    pristine: list[Path] = typer.Option(None, help="Folders for the pristine statistics. Default: those of --photos."),
    about: str = typer.Option(None, help="What the photos are and under which terms, for the record in config.json."),
    name: str = typer.Option(None, help="Name of the weights. Default: the name of --out."),
    epochs: int = typer.Option(15, help="Passes over the photos."),
    steps: int = typer.Option(None, help="Optimizer steps, instead of --epochs."),
    batch: int = typer.Option(8, help="Photos in a step; each comes in 9 versions and 2 views."),
    lr: float = typer.Option(1e-4, help="Learning rate at the start of the cosine."),
    seed: int = typer.Option(0, help="Seed of the initial weights and of the samples."),
    precision: str = typer.Option("bf16", help="bf16 or fp32."),
    device: str = typer.Option("cpu", help="Torch device."),
    workers: int = typer.Option(2, help="Processes that distort photos."),
    checkpoint_every: int = typer.Option(100, help="Steps between checkpoints."),
    cache: Path = typer.Option(None, help="Folder for FSIM similarities, which runs may share. Default: in --out."),
    resume: bool = typer.Option(False, help="Continue a stopped run, bit for bit."),
    stop_after: int = typer.Option(None, help="Stop at this step with a checkpoint, to be resumed later."),
) -> None:
    """Train the low-level encoder with the quality-aware contrastive loss of GRepQ.

    Ends with a weights folder that scores photos: the encoder in float16 and the pristine statistics.
    """
    from dataclasses import replace

    from grepq_metric.training.data import RECIPES, list_photos
    from grepq_metric.training.distortions import DISTORTIONS
    from grepq_metric.training.low import LowLevelTraining, low_level_weights, train_low_level
    from grepq_metric.training.pristine import Selection

    if recipe not in RECIPES:
        raise ValueError(f"unknown recipe {recipe!r}, expected one of {', '.join(RECIPES)}")
    changes = {}
    if types is not None:
        changes["types"] = tuple(DISTORTIONS) if types == "all" else tuple(types.split(","))
    if grid is not None:
        changes["grid"] = grid
    training = LowLevelTraining(
        recipe=replace(RECIPES[recipe], **changes),
        batch=batch,
        epochs=epochs,
        steps=steps,
        lr=lr,
        precision=precision,
        seed=seed,
    )
    pristine_photos = list_photos(pristine or photos)  # a missing folder is better found now than after the training
    encoder, finished = train_low_level(
        photos,
        out,
        training,
        resume=resume,
        device=device,
        workers=workers,
        checkpoint_every=checkpoint_every,
        cache=cache,
        stop_after=stop_after,
    )
    if not finished:
        typer.echo(f"stopped after step {stop_after}; --resume continues")
        return
    model = low_level_weights(encoder, out, pristine_photos, Selection(), name or out.resolve().name, about)
    model.save_pretrained(out)
    typer.echo(f"{model.weights_id} in {out}")
