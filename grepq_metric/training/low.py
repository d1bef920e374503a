"""Training of the low-level encoder with the quality-aware contrastive loss (the paper's low-level pathway)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from grepq_metric.model import GRepQ
from grepq_metric.pathways.low import FEATURES, LowLevelEncoder
from grepq_metric.training.distributed import World
from grepq_metric.training.losses import UndistortedStatistics, distortion_order_loss, quality_aware_contrastive_loss
from grepq_metric.training.photos import PhotoList
from grepq_metric.training.pristine import Selection, set_pristine_statistics
from grepq_metric.training.run import Run, Training, record
from grepq_metric.training.similarity import contrastive_weights
from grepq_metric.training.views import ContrastiveDataset, Recipe
from grepq_metric.weights import load_tensors


@dataclass(frozen=True)
class LowLevelTraining(Training):
    """Hyper-parameters of a run, besides those of `Training`; the defaults are the paper's.

    The learning rate starts at `lr` and falls to `final_lr` along a cosine. The seed is that of the initial weights and of the
    samples.

    Attributes:
        recipe: what a sample is made of.
        final_lr: learning rate at the end.
        weight_decay: of AdamW.
    """

    batch: int = 8
    lr: float = 1e-4
    recipe: Recipe = field(default_factory=Recipe)
    final_lr: float = 1e-6
    weight_decay: float = 0.05


def train_low_level(
    photos: PhotoList,
    out: Path,
    training: LowLevelTraining,
    *,
    world: World | None = None,
    workers: int = 2,
    cache: Path | None = None,
    init: str | Path | None = None,
    **options,
) -> tuple[LowLevelEncoder, bool]:
    """Train an encoder on photos (paper: low-level pathway).

    Its files are those of `Run`. A resumed run sees the same samples and takes the same steps as one that was never stopped:
    bit for bit on one machine, device and thread count. Photos that can't be used are passed over, counted and named.

    Args:
        photos: the contents.
        out: folder of the run.
        training: hyper-parameters.
        world: the processes that share each batch; each compares the versions of its own contents, with the anchors of all.
        workers: processes that prepare samples.
        cache: folder for FSIM similarities; ``out/training/fsim`` by default. Runs may share it.
        init: weights to start from, as in `GRepQ.from_pretrained`; random ones by default.
        options: ``resume``, ``checkpoint_every``, ``stop_after`` and ``tensorboard`` of `Run`.

    Returns:
        The encoder, and whether the run is finished.

    Raises:
        FileExistsError: `out` already holds a run and `resume` is false.
        ValueError: the checkpoint belongs to a run with other hyper-parameters or photos, the loss is not finite, or too many
            photos in a row can't be used.
        OSError: files can't be written.
    """
    world = world or World()
    folder = Path(out) / "training"
    dataset = ContrastiveDataset(photos, training.recipe, training.seed, Path(cache or folder / "fsim").expanduser())
    training = training.on(photos)
    settings = {**{k: v for k, v in asdict(training).items() if k not in ("recipe", "epochs")}, **dataset.identity()}

    torch.manual_seed(training.seed)
    encoder = LowLevelEncoder().to(world.device, memory_format=torch.channels_last).train()
    if init is not None:
        start = GRepQ.from_pretrained(init, pathways=["low"])
        encoder.load_state_dict(start.low.encoder.state_dict())
        settings["init"] = start.weights_id
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=training.lr, weight_decay=training.weight_decay)
    undistorted = UndistortedStatistics(FEATURES).to(world.device)
    parts = {"encoder": encoder, "optimizer": optimizer, "undistorted": undistorted}
    with world.joined(), Run(out, settings, parts, world, training.steps, **options) as run:
        network = world.wrap(encoder)
        for views, similarity in run.batches(dataset, training.batch, workers):
            loss = _loss(network, undistorted, views, similarity, training, world)
            run.learn(loss, optimizer, _cosine(training, run.step))
        world.barrier()
    return encoder.eval(), run.finished


def low_level_weights(
    encoder: LowLevelEncoder, out: Path, photos: PhotoList, selection: Selection, name: str, about: str | None = None
) -> tuple[GRepQ, list[str]]:
    """A model of a trained encoder, with the statistics of pristine patches of `photos` and the record of the run in `out`.

    The encoder is rounded to float16, as it is stored, before the statistics are computed. `about` tells what the training
    photos are.

    Returns:
        The model, and why pristine photos were passed over, each with its name.
    """
    provenance = record(out, "grepq train low: quality-aware contrastive loss on synthetic distortions", about)
    model = GRepQ(pathways=["low"], name=name, storage="float16", provenance=provenance)
    rounded = {k: v.half().float() if v.is_floating_point() else v for k, v in encoder.state_dict().items()}
    load_tensors(model.low.encoder, rounded, "the trained encoder")
    return model, set_pristine_statistics(model, photos, selection)


def _loss(encoder, undistorted, views, similarity, training: LowLevelTraining, world: World):
    contents, recipe = len(views), training.recipe
    x = views.transpose(0, 1).flatten(0, 2).float().div(255).contiguous(memory_format=torch.channels_last)
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


def _cosine(training: LowLevelTraining, step: int) -> float:
    share = (1 + math.cos(math.pi * step / training.steps)) / 2
    return training.final_lr + (training.lr - training.final_lr) * share
