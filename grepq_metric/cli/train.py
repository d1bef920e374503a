"""``grepq train``: train a pathway."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from grepq_metric.errors import InputError

app = typer.Typer(no_args_is_help=True, help="Train a pathway on photos, without human scores.")

PHOTOS = typer.Option(..., help="A folder, a .txt list of paths or a WebDataset .tar shard; may be given more than once.")
OUT = typer.Option(..., help="Weights folder to write; the run's record and checkpoint go to its training/.")
ABOUT = typer.Option(None, help="What the photos are and under which terms, for the record in config.json.")
NAME = typer.Option(None, help="Name of the weights. Default: the name of --out.")
EPOCHS = typer.Option(15, help="Passes over the photos.")
STEPS = typer.Option(None, help="Optimizer steps, instead of --epochs.")
PRECISION = typer.Option("bf16", help="bf16 or fp32.")
DEVICE = typer.Option("cpu", help="Torch device; under torchrun, `cuda` is each process's own.")
WORKERS = typer.Option(2, help="Processes that prepare photos.")
CHECKPOINT_EVERY = typer.Option(100, help="Steps between checkpoints.")
RESUME = typer.Option(False, help="Continue a stopped run, bit for bit.")
STOP_AFTER = typer.Option(None, help="Stop at this step with a checkpoint, to be resumed later.")
TENSORBOARD = typer.Option(False, help="Also log to training/tensorboard; needs the extra `train`.")


@app.callback()
def _train() -> None:
    pass


@app.command("low")
def low(
    photos: list[Path] = PHOTOS,
    out: Path = OUT,
    recipe: str = typer.Option(
        "paper", help="**paper**: 4 distortion types, 224-pixel views; **broad**, **wild**: see README."
    ),
    settings: list[str] = typer.Option(
        [], "--set", help="Change the recipe: `--set grid=4`, `--set types=jpeg,white_noise`, `--set chain=2`, ..."
    ),
    pristine: list[Path] = typer.Option(None, help="Photos for the pristine statistics. Default: those of --photos."),
    init: str = typer.Option(None, help="Weights to start from: a built-in name, a folder, a Hub repository."),
    about: str = ABOUT,
    name: str = NAME,
    epochs: int = EPOCHS,
    steps: int = STEPS,
    batch: int = typer.Option(8, help="Photos in a step; each comes in 9 versions and 2 views."),
    lr: float = typer.Option(1e-4, help="Learning rate at the start of the cosine."),
    seed: int = typer.Option(0, help="Seed of the initial weights and of the samples."),
    precision: str = PRECISION,
    device: str = DEVICE,
    workers: int = WORKERS,
    cache: Path = typer.Option(None, help="Folder for FSIM similarities, which runs may share. Default: in --out."),
    checkpoint_every: int = CHECKPOINT_EVERY,
    resume: bool = RESUME,
    stop_after: int = STOP_AFTER,
    tensorboard: bool = TENSORBOARD,
) -> None:
    """Train the low-level encoder with the quality-aware contrastive loss of GRepQ.

    Ends with a weights folder that scores photos: the encoder in float16 and the pristine statistics.
    """
    from grepq_metric.training.distributed import World
    from grepq_metric.training.low import LowLevelTraining, low_level_weights, train_low_level
    from grepq_metric.training.photos import PhotoList
    from grepq_metric.training.pristine import Selection
    from grepq_metric.training.views import recipe as make_recipe

    training = LowLevelTraining(
        recipe=make_recipe(recipe, dict(_pair(setting) for setting in settings)),
        batch=batch,
        epochs=epochs,
        steps=steps,
        lr=lr,
        precision=precision,
        seed=seed,
    )
    contents, world = PhotoList(photos), World(device)
    pristine_photos = PhotoList(pristine) if pristine else contents  # found missing now, and not after the training
    options = {"resume": resume, "checkpoint_every": checkpoint_every, "stop_after": stop_after, "tensorboard": tensorboard}
    encoder, finished = train_low_level(
        contents, out, training, world=world, workers=workers, cache=cache, init=init, **options
    )
    if not world.leads:
        return
    if not finished:
        typer.echo(f"stopped after step {stop_after}; --resume continues")
        return
    model, skipped = low_level_weights(encoder, out, pristine_photos, Selection(), name or out.resolve().name, about)
    for why in skipped:
        typer.echo(f"skipped: {why}", err=True)
    model.save_pretrained(out)
    typer.echo(f"{model.weights_id} in {out}")


@app.command("high")
def high(
    photos: list[Path] = PHOTOS,
    clip: str = typer.Option(..., help="CLIP RN50 in open_clip's layout: a file or a Hub repository."),
    out: Path = OUT,
    projection: str = typer.Option(
        "fixed", help="**fixed**: the layer before the loss stays random, as in the authors' code; **trained**."
    ),
    low: str = typer.Option(None, help="Weights whose low-level pathway joins the result: a built-in name or a folder."),
    about: str = ABOUT,
    name: str = NAME,
    epochs: int = EPOCHS,
    steps: int = STEPS,
    batch: int = typer.Option(128, help="Photos in a step, of which the two groups are chosen."),
    group: int = typer.Option(4, help="Photos in each of the two groups."),
    lr: float = typer.Option(1e-6, help="Learning rate after the warm-up."),
    warmup_epochs: float = typer.Option(2.5, help="Passes over which the learning rate grows."),
    chunk: int = typer.Option(16, help="Photos that are ranked at once; fewer take less memory."),
    seed: int = typer.Option(0, help="Seed of the projection and of the order of photos."),
    precision: str = PRECISION,
    device: str = DEVICE,
    workers: int = WORKERS,
    checkpoint_every: int = CHECKPOINT_EVERY,
    resume: bool = RESUME,
    stop_after: int = STOP_AFTER,
    tensorboard: bool = TENSORBOARD,
) -> None:
    """Fine-tune CLIP's image tower with the group contrastive loss of GRepQ.

    Ends with a weights folder that scores photos.
    """
    from grepq_metric.model import GRepQ
    from grepq_metric.training.distributed import World
    from grepq_metric.training.high import HighLevelTraining, high_level_weights, train_high_level
    from grepq_metric.training.photos import PhotoList
    from grepq_metric.weights import clip_checkpoint, high_level_tensors

    training = HighLevelTraining(
        batch=batch,
        group=group,
        epochs=epochs,
        steps=steps,
        lr=lr,
        warmup_epochs=warmup_epochs,
        projection=projection,
        precision=precision,
        chunk=chunk,
        seed=seed,
    )
    contents, world = PhotoList(photos), World(device)
    joined = GRepQ.from_pretrained(low, pathways=["low"]) if low else None
    state, clip_sha256 = clip_checkpoint(clip, {})
    options = {"resume": resume, "checkpoint_every": checkpoint_every, "stop_after": stop_after, "tensorboard": tensorboard}
    pathway, finished = train_high_level(
        contents, high_level_tensors(state, clip), out, training, world=world, workers=workers, **options
    )
    if not world.leads:
        return
    if not finished:
        typer.echo(f"stopped after step {stop_after}; --resume continues")
        return
    origin = {"clip": clip, "clip_sha256": clip_sha256}
    model = high_level_weights(pathway, out, name or out.resolve().name, origin, low=joined, about=about)
    model.save_pretrained(out)
    typer.echo(f"{model.weights_id} in {out}")


def _pair(setting: str) -> tuple[str, object]:
    key, equals, value = setting.partition("=")
    if not equals:
        raise InputError(f"--set {setting!r} must be NAME=VALUE")
    try:
        return key, json.loads(f"[{value}]" if "," in value else value)
    except json.JSONDecodeError:  # words, which need no quotes here
        return key, value.split(",") if "," in value else value
