"""``grepq train``: train a pathway."""

from __future__ import annotations

import json
import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from grepq_metric.cli.writers import refuse_weights_folder
from grepq_metric.errors import GRepQError, InputError

app = typer.Typer(
    no_args_is_help=True,
    help="Train a pathway on photos, without human scores. **low** teaches a network to see distortions; **semantic** "
    "teaches what ImageNet's network sees of them, and **backbone** fine-tunes that network; **high** is to make CLIP tell "
    "good photos from poor ones more clearly. **qfm** is another metric, QFM-IQM as we read it, and learns from your ratings.",
)

PHOTOS = typer.Option(..., help="A folder, a .txt list of paths or a WebDataset .tar shard; may be given more than once.")
PHOTOS_BY_ORIGIN = typer.Option(
    ...,
    help="A folder, a .txt list of paths or a WebDataset .tar shard. Give photos of another origin as one more: each origin "
    "is centred on its own.",
)
VARIED = typer.Option("varied", help="Which distortions teach: **varied**, 45 types; or one of `grepq train low`.")
SETTINGS = typer.Option([], "--set", help="Change the recipe: `--set region=256`, `--set chain=1`, ...")
UNDISTORTED = typer.Option(1.0, help="Weight of being undistorted, against how slight a distortion is.")
OUT = typer.Option(..., help="Weights folder to write; the run's record and checkpoint go to its training/.")
ABOUT = typer.Option(None, help="What the photos are and under which terms, for the record in config.json.")
NAME = typer.Option(None, help="Name of the weights. Default: the name of --out.")
EPOCHS = typer.Option(15, help="Passes over the photos.")
STEPS = typer.Option(None, help="Optimizer steps, instead of --epochs.")
PRECISION = typer.Option("bf16", help="bf16 or fp32.")
DEVICE = typer.Option(
    None, help="Torch device. Default: cuda if there is one, else cpu; under torchrun, `cuda` is each process's own."
)
WORKERS = typer.Option(2, help="Processes that prepare photos.")
CHECKPOINT_EVERY = typer.Option(100, help="Steps between checkpoints. Ctrl-C writes one, too.")
RESUME = typer.Option(False, "--resume", help="Continue a stopped run, bit for bit. Weights of a finished one stay.")
OVERWRITE = typer.Option(
    False, "--overwrite", help="Start anew where --out holds a run or weights; with --resume, only replace the weights."
)
STOP_AFTER = typer.Option(None, help="Stop at this step with a checkpoint, to be resumed later.")
TENSORBOARD = typer.Option(False, "--tensorboard", help="Also log to training/tensorboard; needs the extra `train`.")

LOW_EPILOG = """\
**Examples**

`grepq train low --photos photos --out mine --recipe wild --about "my own photos"` trains for 15 passes over a folder.

`grepq train low --photos photos --out mine --recipe wild --about "my own photos" --resume` goes on after Ctrl-C.

`grepq train low --photos photos --out short --init grepq-ll --steps 500` starts from the packaged weights.

`grepq score holiday --weights mine` scores with the result.
"""
HIGH_EPILOG = """\
**Examples**

`grepq train high --photos photos --clip timm/resnet50_clip.openai --out mine-hl` fine-tunes OpenAI's CLIP.

`grepq train high --photos photos --clip clip.safetensors --low grepq-ll --out mine` writes weights of both pathways.
"""
SEMANTIC_EPILOG = """\
**Examples**

`grepq train semantic --photos photos --out mine` learns from a folder of undistorted photos.

`grepq train semantic --photos studio --photos web --out mine` tells photos of two origins apart by nothing but distortions.
"""
BACKBONE_EPILOG = """\
**Examples**

`grepq train backbone --photos photos --out tuned --steps 500` fine-tunes the network of the packaged weights.

`grepq train semantic --photos photos --init ./tuned --out mine` then fits a head to it anew.
"""
QFM_EPILOG = """\
**Examples**

`grepq train qfm labels.csv --out mine` learns from photos and their ratings, columns `image` and `mos`.

`grepq train qfm labels.csv --unlabelled more --out mine` also learns from photos that a teacher rates.

`grepq train qfm labels.csv --init timm/deit3_small_patch16_224.fb_in22k_ft_in1k --tuned --out mine` tunes another network.

`grepq score holiday --weights mine` scores with the result.
"""
_FLAGS = {
    "resume=True": "--resume",
    "overwrite=True": "--overwrite",
    "precision='fp32'": "--precision fp32",
    "a lower lr": "a lower --lr",
    "choose another folder": "choose another --out",
}
"""What messages of the library call arguments, and what the command line calls them."""


@app.callback()
def _train() -> None:
    pass


@app.command("low", epilog=LOW_EPILOG)
def low(
    photos: list[Path] = PHOTOS,
    out: Path = OUT,
    recipe: str = typer.Option(
        "paper",
        help="Which distortions the network learns from: **paper**, 4 types at 2 levels; **broad**, 18 types at 5 levels; "
        "**wild**, 33 types, those of cameras more often and up to 3 at once, as for the packaged weights.",
    ),
    settings: list[str] = typer.Option(
        [], "--set", help="Change the recipe: `--set grid=4`, `--set types=jpeg,white_noise`, `--set chain=2`, ..."
    ),
    pristine: list[Path] = typer.Option(
        None, help="Undistorted photos whose sharpest patches say what scores compare with. Default: those of --photos."
    ),
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
    overwrite: bool = OVERWRITE,
    stop_after: int = STOP_AFTER,
    tensorboard: bool = TENSORBOARD,
) -> None:
    """Train the low-level pathway: versions of a photo that are distorted alike get like features, others do not.

    Ends with a weights folder that scores photos: the encoder in float16 and the pristine statistics.
    """
    chosen = dict(_pair(setting) for setting in settings)
    with _told(out):
        from grepq_metric.training import train_low

        model = train_low(
            photos,
            out,
            recipe=recipe,
            settings=chosen,
            pristine=pristine or None,
            init=init,
            epochs=epochs,
            steps=steps,
            batch=batch,
            lr=lr,
            seed=seed,
            precision=precision,
            device=device,
            workers=workers,
            cache=cache,
            name=name,
            about=about,
            resume=resume,
            overwrite=overwrite,
            checkpoint_every=checkpoint_every,
            stop_after=stop_after,
            tensorboard=tensorboard,
        )
    _say(None if model is None else model.weights_id, out, stop_after)


@app.command("semantic", epilog=SEMANTIC_EPILOG)
def semantic(
    photos: list[Path] = PHOTOS_BY_ORIGIN,
    out: Path = OUT,
    recipe: str = VARIED,
    settings: list[str] = SETTINGS,
    init: str = typer.Option(None, help="Weights whose backbone is used. Default: ImageNet's, of the extra `train`."),
    penalty: float = typer.Option(2.0, help="Of the ridge regression, for each image and feature."),
    undistorted: float = UNDISTORTED,
    about: str = ABOUT,
    name: str = NAME,
    epochs: int = typer.Option(1, help="Passes over the photos; each draws other distortions."),
    steps: int = typer.Option(None, help="Steps, instead of --epochs."),
    batch: int = typer.Option(4, help="Photos in a step; each comes in 5 versions."),
    seed: int = typer.Option(0, help="Seed of the distortions and of the order of photos."),
    precision: str = PRECISION,
    device: str = DEVICE,
    workers: int = WORKERS,
    checkpoint_every: int = CHECKPOINT_EVERY,
    resume: bool = RESUME,
    overwrite: bool = OVERWRITE,
    stop_after: int = STOP_AFTER,
    tensorboard: bool = TENSORBOARD,
) -> None:
    """Teach the semantic pathway what full-reference metrics say of distorted photos.

    The backbone, a network that knows the things of ImageNet, stays as it is; a linear head is fitted in closed form. Needs
    the extra `train`. Ends with a weights folder that scores photos.
    """
    chosen = dict(_pair(setting) for setting in settings)
    with _told(out):
        from grepq_metric.training import train_semantic

        model = train_semantic(
            photos,
            out,
            recipe=recipe,
            settings=chosen,
            init=init,
            penalty=penalty,
            undistorted=undistorted,
            epochs=epochs,
            steps=steps,
            batch=batch,
            seed=seed,
            precision=precision,
            device=device,
            workers=workers,
            name=name,
            about=about,
            resume=resume,
            overwrite=overwrite,
            checkpoint_every=checkpoint_every,
            stop_after=stop_after,
            tensorboard=tensorboard,
        )
    _say(None if model is None else model.weights_id, out, stop_after)


@app.command("backbone", epilog=BACKBONE_EPILOG)
def backbone(
    photos: list[Path] = PHOTOS_BY_ORIGIN,
    out: Path = OUT,
    init: str = typer.Option("grepq-sem", help="Weights to start from: a built-in name, a folder, a Hub repository."),
    recipe: str = VARIED,
    settings: list[str] = SETTINGS,
    undistorted: float = UNDISTORTED,
    frozen: int = typer.Option(3, help="First stages of the network that keep their values, 0 to 4."),
    crop: int = typer.Option(256, help="Side of the square of a region that the network sees."),
    recompressed: float = typer.Option(0.5, help="Share of versions that are JPEG-coded again before the network sees them."),
    share: float = typer.Option(0.4, help="How far the result goes from the values at the start to the trained ones."),
    about: str = ABOUT,
    name: str = NAME,
    epochs: int = typer.Option(3, help="Passes over the photos; each draws other distortions."),
    steps: int = STEPS,
    batch: int = typer.Option(8, help="Photos in a step; each comes in 5 versions."),
    lr: float = typer.Option(1e-4, help="Learning rate at the start of the cosine."),
    seed: int = typer.Option(0, help="Seed of the distortions and of the order of photos."),
    precision: str = PRECISION,
    device: str = DEVICE,
    workers: int = WORKERS,
    checkpoint_every: int = CHECKPOINT_EVERY,
    resume: bool = RESUME,
    overwrite: bool = OVERWRITE,
    stop_after: int = STOP_AFTER,
    tensorboard: bool = TENSORBOARD,
) -> None:
    """Fine-tune the network of the semantic pathway, so that its scores follow full-reference metrics.

    The head keeps its values, `grepq train semantic --init` fits it anew. Needs the extra `train`. Ends with a weights folder
    that scores photos.
    """
    chosen = dict(_pair(setting) for setting in settings)
    with _told(out):
        from grepq_metric.training import train_backbone

        model = train_backbone(
            photos,
            out,
            init=init,
            recipe=recipe,
            settings=chosen,
            undistorted=undistorted,
            frozen=frozen,
            crop=crop,
            recompressed=recompressed,
            share=share,
            epochs=epochs,
            steps=steps,
            batch=batch,
            lr=lr,
            seed=seed,
            precision=precision,
            device=device,
            workers=workers,
            name=name,
            about=about,
            resume=resume,
            overwrite=overwrite,
            checkpoint_every=checkpoint_every,
            stop_after=stop_after,
            tensorboard=tensorboard,
        )
    _say(None if model is None else model.weights_id, out, stop_after)


@app.command("high", epilog=HIGH_EPILOG)
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
    overwrite: bool = OVERWRITE,
    stop_after: int = STOP_AFTER,
    tensorboard: bool = TENSORBOARD,
) -> None:
    """Fine-tune CLIP's image tower with the group contrastive loss of GRepQ.

    In each step CLIP ranks the photos itself; those of the best group are then drawn together, and away from those of the
    poorest group. Ends with a weights folder that scores photos.
    """
    with _told(out):
        from grepq_metric.training import train_high

        model = train_high(
            photos,
            clip,
            out,
            low=low,
            projection=projection,
            group=group,
            warmup_epochs=warmup_epochs,
            chunk=chunk,
            epochs=epochs,
            steps=steps,
            batch=batch,
            lr=lr,
            seed=seed,
            precision=precision,
            device=device,
            workers=workers,
            name=name,
            about=about,
            resume=resume,
            overwrite=overwrite,
            checkpoint_every=checkpoint_every,
            stop_after=stop_after,
            tensorboard=tensorboard,
        )
    _say(None if model is None else model.weights_id, out, stop_after)


@app.command("qfm", epilog=QFM_EPILOG)
def qfm(
    labels: Path = typer.Argument(..., help="CSV file of photos and their ratings, as for `grepq fit`."),
    out: Path = OUT,
    unlabelled: list[Path] = typer.Option(
        None, help="Photos without ratings: a folder, a .txt list or a .tar shard; may be given more than once."
    ),
    root: Path = typer.Option(None, help="Folder at which relative paths of photos start. Default: that of the CSV file."),
    image_column: str = typer.Option("image", help="Column of photos."),
    mos_column: str = typer.Option("mos", help="Column of ratings, on any scale, higher is better."),
    init: str = typer.Option(
        None, help="Whose network is used: a built-in name, a weights folder, or timm/NAME. Default: grepq-sem's."
    ),
    settings: list[str] = typer.Option([], "--set", help="Change a setting: `--set strength=1`, `--set width=192`, ..."),
    noise: str = typer.Option(
        "matched",
        help="Features that disturb: **matched**, of photos with a like rating and other content; **random**; **none**.",
    ),
    teacher: str = typer.Option(
        "ridge", help="Who rates --unlabelled: **ridge**, an ensemble of regressions; **ema**, the student's own average."
    ),
    tuned: bool = typer.Option(False, "--tuned", help="Train the network, too, on crops. Slow without a GPU."),
    about: str = ABOUT,
    name: str = NAME,
    epochs: int = typer.Option(20, help="Passes over the rated photos."),
    steps: int = STEPS,
    batch: int = typer.Option(32, help="Rated photos in a step; as many unrated ones join them."),
    lr: float = typer.Option(1e-3, help="Learning rate after the warm-up."),
    seed: int = typer.Option(0, help="Seed of the initial weights and of all draws."),
    precision: str = PRECISION,
    device: str = DEVICE,
    workers: int = WORKERS,
    cache: Path = typer.Option(None, help="Folder for features, which runs may share. Default: in --out."),
    checkpoint_every: int = CHECKPOINT_EVERY,
    resume: bool = RESUME,
    overwrite: bool = OVERWRITE,
    stop_after: int = STOP_AFTER,
    tensorboard: bool = TENSORBOARD,
) -> None:
    """Train QFM-IQM, as we read it, on rated photos.

    A decoder learns to tell ratings from the features of a network, also where features of other photos are added as noise.
    Ends with a weights folder that scores photos.
    """
    with _told(out):
        from grepq_metric.training import train_qfm

        model = train_qfm(
            labels,
            out,
            unlabelled=unlabelled or None,
            root=root,
            image_column=image_column,
            mos_column=mos_column,
            init=init,
            settings=dict(map(_pair, settings)),
            noise=noise,
            teacher=teacher,
            tuned=tuned,
            epochs=epochs,
            steps=steps,
            batch=batch,
            lr=lr,
            seed=seed,
            precision=precision,
            device=device,
            workers=workers,
            cache=cache,
            name=name,
            about=about,
            resume=resume,
            overwrite=overwrite,
            checkpoint_every=checkpoint_every,
            stop_after=stop_after,
            tensorboard=tensorboard,
        )
    _say(None if model is None else model.weights_id, out, stop_after)


@contextmanager
def told() -> Iterator[None]:
    """Show what the training package logs and warns of, each as a line on stderr, in the words of the command line."""
    handler = _Lines()
    logger = logging.getLogger("grepq_metric.training")
    level, before = logger.level, warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: object, **more: object) -> None:
        if category is UserWarning:
            typer.secho(f"warning: {message}", fg="yellow", err=True)
        else:
            before(message, category, *where, **more)  # type: ignore[arg-type]

    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = show
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(_in_flags(record.getMessage()), err=True)


@contextmanager
def _told(out: Path) -> Iterator[None]:
    """As `told`; errors come in the words of the command line, too, and an interrupted run ends with a line."""
    refuse_weights_folder(out, "--out", overwrite=True)  # the run refuses weights by itself
    from grepq_metric.training.run import Interrupted

    try:
        with told():
            yield
    except Interrupted as end:
        typer.echo(f"{end}{'' if end.number == signal.SIGTERM else '; --resume continues'}", err=True)
        raise typer.Exit(128 + end.number) from None
    except (GRepQError, OSError) as error:
        if _in_flags(str(error)) == str(error):
            raise
        raise type(error)(_in_flags(str(error))) from error


def _in_flags(message: str) -> str:
    for argument, flag in _FLAGS.items():
        message = message.replace(argument, flag)
    return message


def _say(weights_id: str | None, out: Path, stop_after: int | None) -> None:
    from grepq_metric.training.distributed import World

    if not World("cpu").leads:
        return
    typer.echo(f"stopped after step {stop_after}; --resume continues" if weights_id is None else f"{weights_id} in {out}")


def _pair(setting: str) -> tuple[str, object]:
    key, equals, value = setting.partition("=")
    if not equals:
        raise InputError(f"--set {setting!r} must be NAME=VALUE")
    try:
        return key, json.loads(f"[{value}]" if "," in value else value)
    except json.JSONDecodeError:  # words, which need no quotes here
        return key, value.split(",") if "," in value else value
