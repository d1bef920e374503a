"""Training of the low-level encoder with the quality-aware contrastive loss (the paper's low-level pathway)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from grepq_metric.features import store_array
from grepq_metric.low_level import FEATURES, LowLevelEncoder
from grepq_metric.model import GRepQ
from grepq_metric.training.data import ContrastiveDataset, Recipe
from grepq_metric.training.losses import PristineStatistics, distortion_order_loss, quality_aware_contrastive_loss
from grepq_metric.training.photos import PhotoList
from grepq_metric.training.pristine import Selection, select_patches, set_pristine_statistics
from grepq_metric.training.run import Run, Training, record
from grepq_metric.training.similarity import contrastive_weights
from grepq_metric.training.world import World
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
        pristine_batch: pristine patches in a step, where the recipe has an `order` loss; or the next multiple of the number of
            processes.
    """

    batch: int = 8
    lr: float = 1e-4
    recipe: Recipe = field(default_factory=Recipe)
    final_lr: float = 1e-6
    weight_decay: float = 0.05
    pristine_batch: int = 16


def train_low_level(
    photos: PhotoList,
    out: Path,
    training: LowLevelTraining,
    *,
    world: World | None = None,
    workers: int = 2,
    cache: Path | None = None,
    init: str | Path | None = None,
    pristine: PhotoList | None = None,
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
        pristine: photos whose pristine patches an `order` loss compares with; `photos` by default.
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
    left_out = {"recipe", "epochs", *(() if training.recipe.order else ("pristine_batch",))}
    settings = {**{k: v for k, v in asdict(training).items() if k not in left_out}, **dataset.identity()}
    pristine = pristine or photos
    if training.recipe.order:
        settings["pristine_sha256"] = pristine.sha256

    torch.manual_seed(training.seed)
    encoder = LowLevelEncoder().to(world.device, memory_format=torch.channels_last).train()
    if init is not None:
        start = GRepQ.from_pretrained(init, pathways=["low"])
        encoder.load_state_dict(start.low.encoder.state_dict())
        settings["init"] = start.weights_id
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=training.lr, weight_decay=training.weight_decay)
    statistics = PristineStatistics(FEATURES).to(world.device)
    parts = {"encoder": encoder, "optimizer": optimizer, "statistics": statistics}
    with world.joined(), Run(out, settings, parts, world, training.steps, **options) as run:
        network = world.wrap(encoder)
        draw = _pristine_patches(pristine, training, world, run) if training.recipe.order else lambda _: None
        for views, similarity in run.batches(dataset, training.batch, workers):
            loss = _loss(network, statistics, views, similarity, draw(run.step), training, world)
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


def _pristine_patches(photos: PhotoList, training: LowLevelTraining, world: World, run: Run) -> Callable[[int], Tensor]:
    """This process's share of a step's pristine patches, as large as views: step -> ``(P, 3, S, S)`` uint8.

    They are selected once and kept in the folder of the run: all processes, and a resumed run, have the same.
    """
    path = run.folder / f"pristine-{photos.sha256[:8]}-{training.recipe.view_size}-{training.seed}.npy"
    if world.leads and not path.exists():
        patches, skipped = select_patches(photos, Selection(patch_size=training.recipe.view_size), seed=training.seed)
        run.skip(skipped)
        store_array(path, patches.numpy())
    world.barrier()
    patches = torch.from_numpy(np.load(path))
    share = math.ceil(training.pristine_batch / world.size)

    def draw(step: int) -> Tensor:
        drawn = np.random.default_rng([training.seed, 1, step]).integers(len(patches), size=share * world.size)
        return patches[drawn[world.rank * share : (world.rank + 1) * share]].to(world.device)

    return draw


def _loss(encoder, statistics, views, similarity, pristine, training: LowLevelTraining, world: World):
    contents, recipe = len(views), training.recipe
    x = views.transpose(0, 1).flatten(0, 2)
    count = len(x)
    if pristine is not None:  # in one pass, since normalisation is over all of it
        x = torch.cat([x, pristine])
    x = x.float().div(255).contiguous(memory_format=torch.channels_last)
    with training.autocast(x.device):
        z = encoder(x).float()
    z1, z2 = z[:count].view(2, contents, recipe.versions, -1)
    anchors = torch.stack([world.gather(z[:, 0]) for z in (z1, z2)]) if recipe.anchors else None
    weights = contrastive_weights(similarity, recipe.power)
    loss = quality_aware_contrastive_loss(z1, z2, weights, recipe.temperature, anchors, world.rank * contents)
    if recipe.order:
        statistics.update(world.gather(z[count:].detach()))
        distance = world.gather(statistics.distance(torch.stack([z1, z2], 1)))
        to_undistorted = world.gather(similarity[:, :1]).expand_as(distance)
        loss = loss + recipe.order * distortion_order_loss(distance.flatten(), to_undistorted.flatten())
    return loss


def _cosine(training: LowLevelTraining, step: int) -> float:
    share = (1 + math.cos(math.pi * step / training.steps)) / 2
    return training.final_lr + (training.lr - training.final_lr) * share
