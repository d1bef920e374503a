"""Training of the low-level encoder with the quality-aware contrastive loss (the paper's low-level pathway)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from grepq_metric.errors import InputError
from grepq_metric.models import GRepQ
from grepq_metric.pathways.base import check_number
from grepq_metric.pathways.low import FEATURES, LowLevelEncoder
from grepq_metric.training.distributed import World
from grepq_metric.training.losses import UndistortedStatistics, distortion_order_loss, quality_aware_contrastive_loss
from grepq_metric.training.photos import PhotoList, Source, photo_list
from grepq_metric.training.pristine import Selection, set_pristine_statistics
from grepq_metric.training.recipe import RECIPES, Recipe, make_recipe
from grepq_metric.training.run import Parts, Run, record, weights_name
from grepq_metric.training.sanity import examine
from grepq_metric.training.settings import RunOptions, Training, check_lr, cosine
from grepq_metric.training.similarity import contrastive_weights
from grepq_metric.training.views import ContrastiveDataset, network_input
from grepq_metric.weights import load_tensors, rounded

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class LowLevelTraining(Training):
    """Hyper-parameters of a run, besides those of `Training`; the defaults are the paper's.

    The learning rate starts at `lr` and falls to `final_lr` along a cosine. The seed is that of the initial weights and of the
    samples.

    Attributes:
        lr: highest learning rate.
        recipe: what a sample is made of.
        final_lr: learning rate at the end.
        weight_decay: of AdamW.
    """

    batch: int = 8
    lr: float = 1e-4
    recipe: Recipe = field(default_factory=Recipe)
    final_lr: float = 1e-6
    weight_decay: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        check_lr(self.lr)
        for name in ("final_lr", "weight_decay"):
            check_number(name, getattr(self, name), 0, 1e3)


def train_low(
    photos: PhotoList | Source | Sequence[Source],
    out: Source,
    *,
    recipe: str | Recipe = "paper",
    settings: Mapping[str, object] | None = None,
    pristine: PhotoList | Source | Sequence[Source] | None = None,
    init: Source | None = None,
    epochs: int = 15,
    steps: int | None = None,
    batch: int = 8,
    lr: float = 1e-4,
    seed: int = 0,
    precision: str = "bf16",
    device: str | torch.device | None = None,
    workers: int = 2,
    cache: Source | None = None,
    name: str | None = None,
    about: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    checkpoint_every: int = 100,
    stop_after: int | None = None,
    tensorboard: bool = False,
) -> GRepQ | None:
    """Train the low-level pathway on photos without human scores, and save weights that score photos.

    Args:
        photos: a folder, ``.txt`` list or ``.tar`` shard, or several, or a `PhotoList`.
        out: weights folder to write; the run's record and checkpoint go to ``out/training``, see `Run`.
        recipe: what a training sample is made of: a name in `RECIPES` or a recipe.
        settings: changes of the recipe, see `make_recipe`.
        pristine: undistorted photos for the pristine statistics; by default `photos`.
        init: weights to start from, as in `GRepQ.from_pretrained`; random ones by default.
        epochs, steps, batch, lr, seed, precision: see `Training` and `LowLevelTraining`.
        device: torch device; by default cuda if there is one, else the CPU.
        workers: processes that prepare samples.
        cache: folder for FSIM similarities, which runs may share; by default ``out/training/fsim``.
        name: of the weights; by default that of the folder.
        about: what the photos are and under which terms, for the record.
        resume, overwrite, checkpoint_every, stop_after, tensorboard: see `RunOptions`.

    Returns:
        The model, on the run's device. Of a resumed run that was finished before: the weights as they are in `out`, unless
        `overwrite` is set. None where `stop_after` ended the run early, and in processes other than the first one.

    Raises:
        FileExistsError, InputError, TrainingError, OSError, Interrupted: see `Run` and `PhotoList`.
    """
    training = LowLevelTraining(batch, epochs, steps, precision, seed, lr, make_recipe(recipe, settings))
    options = RunOptions(resume, overwrite, checkpoint_every, stop_after, tensorboard)
    empty = GRepQ(pathways=["low"], name=name or weights_name(out), storage="float16")  # an unusable name fails now
    contents, world = photo_list(photos), World(device)
    statistics = contents if pristine is None else photo_list(pristine)  # found missing now, and not after the training
    encoder, run = train_encoder(contents, Path(out), training, options, world=world, workers=workers, cache=cache, init=init)
    return run.weights(lambda: _finish(empty, encoder, run, contents, statistics, about))


def train_encoder(
    photos: PhotoList,
    out: Path,
    training: LowLevelTraining,
    options: RunOptions = RunOptions(),
    *,
    world: World | None = None,
    workers: int = 2,
    cache: Source | None = None,
    init: Source | None = None,
) -> tuple[LowLevelEncoder, Run]:
    """Train an encoder alone, without pristine statistics; arguments and errors as in `train_low`.

    A resumed run sees the same samples and takes the same steps as one that was never stopped: bit for bit on one machine,
    device and thread count. Photos that can't be used are passed over, counted and named.

    Args:
        photos: the contents.
        out: folder of the run.
        training: hyper-parameters.
        options: how the run is kept.
        world: the processes that share each batch; each compares the versions of its own contents, with the anchors of all.
        workers: processes that prepare samples.
        cache: folder for FSIM similarities.
        init: weights to start from.

    Returns:
        The encoder in evaluation mode, and the run, whose ``finished`` tells whether all steps are taken.
    """
    world, steps = world or World(), training.steps_on(photos)
    folder = Path(cache or Path(out) / "training" / "fsim").expanduser()
    dataset = ContrastiveDataset(photos, training.recipe, training.seed, folder)
    settings = {**training.identity(), "steps": steps, **dataset.identity()}

    torch.manual_seed(training.seed)
    encoder = LowLevelEncoder()
    encoder = encoder.to(world.device).to(memory_format=torch.channels_last).train()
    if init is not None:
        settings["init"] = _start_from(init, encoder)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=training.lr, weight_decay=training.weight_decay)
    undistorted = UndistortedStatistics(FEATURES).to(world.device)
    parts: Parts = {"encoder": encoder, "optimizer": optimizer, "undistorted": undistorted}
    what = f"low-level pathway, recipe {_name(training.recipe)}"
    with world.joined(), Run(out, what, settings, parts, world, steps, options) as run:
        network = world.wrap(encoder)
        for views, similarity in run.batches(dataset, training.batch, workers):
            loss = _loss(network, undistorted, views, similarity, training, world)
            run.learn(loss, optimizer, cosine(training.lr, training.final_lr, run.step, steps))
        world.barrier()
    return encoder.eval(), run


def low_level_weights(
    empty: GRepQ, encoder: LowLevelEncoder, run: Run, pristine: PhotoList, about: str | None = None
) -> tuple[GRepQ, list[str]]:
    """Fill a model with a trained encoder, statistics of pristine patches, and the record of the run.

    The encoder is rounded to float16, as it is stored, before the statistics are computed, on the run's device.

    Args:
        empty: a model with the low-level pathway.
        encoder: the trained one.
        run: that it comes from.
        pristine: undistorted photos.
        about: what the training photos are, for the record.

    Returns:
        The model, and why pristine photos were passed over, each with its name.
    """
    if empty.low is None:
        raise InputError(f"{empty.name} has no low-level pathway for the encoder")
    trained_by = "grepq train low: quality-aware contrastive loss on synthetic distortions"
    empty.provenance = record(run.facts, trained_by, about)
    load_tensors(empty.low.encoder, rounded(encoder.state_dict()), "the trained encoder")
    model = empty.to(run.world.device)
    return model, set_pristine_statistics(model, pristine, Selection())


def _finish(
    empty: GRepQ, encoder: LowLevelEncoder, run: Run, photos: PhotoList, pristine: PhotoList, about: str | None
) -> GRepQ:
    model, skipped = low_level_weights(empty, encoder, run, pristine, about)
    for why in skipped:
        LOGGER.warning(f"skipped for the pristine statistics: {why}")
    examine(model, photos)
    return model


def _start_from(init: Source, encoder: LowLevelEncoder) -> str:
    start = GRepQ.from_pretrained(init, pathways=["low"])
    if start.low is None:
        raise InputError(f"{init} has no low-level pathway to start from")
    encoder.load_state_dict(start.low.encoder.state_dict())
    return start.weights_id


def _name(recipe: Recipe) -> str:
    return next((name for name, named in RECIPES.items() if named == recipe), "of its own")


def _loss(
    encoder: nn.Module,
    undistorted: UndistortedStatistics,
    views: Tensor,
    similarity: Tensor,
    training: LowLevelTraining,
    world: World,
) -> Tensor:
    contents, recipe = len(views), training.recipe
    x = network_input(views.transpose(0, 1).flatten(0, 2))
    with training.autocast(x.device):
        z = encoder(x)
    z1, z2 = z.float().view(2, contents, recipe.versions, -1)
    clean = torch.stack([world.gather(z[:, 0]) for z in (z1, z2)])
    anchors, first = clean if recipe.anchors else None, world.rank * contents
    weights = contrastive_weights(similarity, recipe.power)
    loss = quality_aware_contrastive_loss(z1, z2, weights, recipe.temperature, anchors, first)
    if recipe.order:
        undistorted.update(clean.detach().flatten(0, 1))
        distance = world.gather(undistorted.distance(torch.stack([z1, z2], 1)))
        to_undistorted = world.gather(similarity[:, :1]).expand_as(distance)
        loss = loss + recipe.order * distortion_order_loss(distance.flatten(), to_undistorted.flatten())
    return loss
