"""Training of CLIP's image tower with the group contrastive loss (the paper's high-level pathway)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialise
from torch import Tensor, nn

from grepq_metric.errors import InputError
from grepq_metric.models import GRepQ
from grepq_metric.pathways import HighLevelConfig, HighLevelPathway, image_tower_of
from grepq_metric.pathways.base import check_number
from grepq_metric.training.distributed import World
from grepq_metric.training.losses import extreme_groups, group_contrastive_loss
from grepq_metric.training.photos import PhotoDataset, PhotoList, Source, photo_list
from grepq_metric.training.run import Parts, Run, record, weights_name
from grepq_metric.training.sanity import examine
from grepq_metric.training.settings import RunOptions, Training, check_lr
from grepq_metric.weights import check_name, clip_checkpoint, high_level_tensors, load_tensors

PROJECTIONS = ("fixed", "trained")


@dataclass(frozen=True)
class HighLevelTraining(Training):
    """Hyper-parameters of a run, besides those of `Training`; the defaults are those of the authors' released code.

    The two groups are chosen among the photos of a batch. The learning rate is `lr` after the warm-up. The seed is that of the
    projection and of the order of photos.

    Attributes:
        lr: highest learning rate.
        group: photos in each group.
        crop: side of the centre crop in pixels.
        warmup_epochs: passes over which the learning rate grows linearly from 0.
        temperature: of the loss.
        projection: ``fixed``: the linear layer before the loss keeps its random values, as in the released code;
            ``trained``: the optimizer gets them too.
        projected: length of a projected feature.
        chunk: photos that are embedded at once when the batch is ranked; it bounds memory, and changes no result but for
            rounding.
    """

    batch: int = 128
    lr: float = 1e-6
    group: int = 4
    crop: int = 224
    warmup_epochs: float = 2.5
    temperature: float = 0.5
    projection: str = "fixed"
    projected: int = 128
    chunk: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_lr(self.lr)
        if self.projection not in PROJECTIONS:
            raise InputError(f"projection must be one of {PROJECTIONS}, got {self.projection!r}")
        for name in ("projected", "chunk"):
            check_number(name, getattr(self, name), 1, 1e6, whole=True)
        check_number("temperature", self.temperature, 1e-6, 1e6)
        check_number("warmup_epochs", self.warmup_epochs, 0, 1e6)
        check_number("group", self.group, 2, self.batch // 2, whole=True)
        check_number("crop", self.crop, 1, 1e6, whole=True)
        if self.crop < 32:
            raise InputError(f"crop must be at least 32 pixels, got {self.crop}")


class CropDataset(PhotoDataset):
    """Centre crops of photos, ``(3, crop, crop)`` uint8."""

    def __init__(self, photos: PhotoList, crop: int, seed: int) -> None:
        super().__init__(photos, seed)
        self.crop = crop

    def make(self, index: int, position: int) -> tuple[Tensor]:
        """The crop of photo `index`."""
        image = self.photos.image(index, self.crop)
        top, left = ((side - self.crop) // 2 for side in image.shape[1:])
        return ((image[:, top : top + self.crop, left : left + self.crop] * 255).round().byte(),)


def train_high(
    photos: PhotoList | Source | Sequence[Source],
    clip: Source | Mapping[str, Tensor],
    out: Source,
    *,
    low: Source | GRepQ | None = None,
    projection: str = "fixed",
    epochs: int = 15,
    steps: int | None = None,
    batch: int = 128,
    group: int = 4,
    lr: float = 1e-6,
    warmup_epochs: float = 2.5,
    crop: int = 224,
    chunk: int = 16,
    seed: int = 0,
    precision: str = "bf16",
    device: str | torch.device | None = None,
    workers: int = 2,
    name: str | None = None,
    about: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    checkpoint_every: int = 100,
    stop_after: int | None = None,
    tensorboard: bool = False,
) -> GRepQ | None:
    """Fine-tune CLIP's image tower on photos without human scores, and save weights that score photos.

    Args:
        photos: a folder, ``.txt`` list or ``.tar`` shard, or several, or a `PhotoList`.
        clip: CLIP RN50 in open_clip's layout: a file, a Hub repository, or its state dict.
        out: weights folder to write; the run's record and checkpoint go to ``out/training``, see `Run`.
        low: weights whose low-level pathway joins the result, as in `GRepQ.from_pretrained`, or a model.
        projection, epochs, steps, batch, group, lr, warmup_epochs, crop, chunk, seed, precision: see `HighLevelTraining`.
        device, workers, name, about, resume, overwrite, checkpoint_every, stop_after, tensorboard: as in `train_low`.

    Returns:
        The model or None, as `train_low`.

    Raises:
        WeightsError: `clip` or `low` can't be had or does not fit.
        FileExistsError, InputError, TrainingError, OSError, Interrupted: see `Run` and `PhotoList`.
    """
    training = HighLevelTraining(
        batch, epochs, steps, precision, seed, lr, group, crop, warmup_epochs, projection=projection, chunk=chunk
    )
    options = RunOptions(resume, overwrite, checkpoint_every, stop_after, tensorboard)
    joined = GRepQ.from_pretrained(low, pathways=["low"]) if isinstance(low, (str, Path)) else low
    title = check_name(name or weights_name(out))  # an unusable one fails now, and not after the training
    contents, world = photo_list(photos), World(device)
    tensors, origin = _clip(clip)
    pathway, run = train_tower(contents, tensors, Path(out), training, options, world=world, workers=workers)
    return run.weights(lambda: _finish(pathway, run, title, origin, joined, contents, about))


def train_tower(
    photos: PhotoList,
    clip: Mapping[str, Tensor],
    out: Path,
    training: HighLevelTraining,
    options: RunOptions = RunOptions(),
    *,
    world: World | None = None,
    workers: int = 2,
) -> tuple[HighLevelPathway, Run]:
    """Fine-tune the image tower of a CLIP on undistorted photos (paper: high-level pathway); errors as in `train_high`.

    The whole batch is embedded without gradients to rank it; only the chosen groups are embedded again with them. Those are
    the gradients of the whole batch, since the other photos do not enter the loss and the batch normalisation keeps its
    running statistics, the ones that scoring uses. Memory is that of two groups, whatever the batch.

    Args:
        photos: undistorted photos of at least `training.crop` pixels a side; others are passed over, counted and named.
        clip: tensors of `HighLevelPathway`.
        out: folder of the run.
        training: hyper-parameters.
        options: how the run is kept.
        world: the processes that share the ranking of each batch; all of them embed both groups.
        workers: processes that read photos.

    Returns:
        The pathway, and the run, whose ``finished`` tells whether all steps are taken.
    """
    world, steps = world or World(), training.steps_on(photos)
    dataset = CropDataset(photos, training.crop, training.seed)
    pathway = high_level_pathway(clip)
    pathway = pathway.to(world.device).to(memory_format=torch.channels_last).eval()
    settings = {key: value for key, value in training.identity().items() if key != "chunk"}
    tensors = serialise({k: v.cpu().contiguous() for k, v in clip.items()})
    settings.update(photos.identity(), steps=steps, tensors_sha256=hashlib.sha256(tensors).hexdigest())

    torch.manual_seed(training.seed)
    width = pathway.config.image_tower.output_dim
    projection = nn.Sequential(nn.Linear(width, training.projected), nn.ReLU()).to(world.device)
    projection.requires_grad_(training.projection == "trained")
    student = nn.Sequential(pathway, projection)
    optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], lr=training.lr)
    parts: Parts = {"visual": pathway.visual, "projection": projection, "optimizer": optimizer}
    with world.joined(), Run(out, "high-level pathway", settings, parts, world, steps, options) as run:
        network = world.wrap(student)
        for (crops,) in run.batches(dataset, training.batch, workers):
            loss, poor, good = _step(network, pathway, crops, training, world)
            lr = _warm_up(training, run.step * training.batch / len(photos))
            run.learn(loss, optimizer, lr, quality_poor=poor, quality_good=good)
        world.barrier()
    return pathway, run


def _step(
    network: nn.Module, pathway: HighLevelPathway, crops: Tensor, training: HighLevelTraining, world: World
) -> tuple[Tensor, float, float]:
    """Loss of a batch, and the mean pseudo-scores of its two groups."""
    quality = world.gather(pseudo_scores(pathway, crops, training))
    chosen = extreme_groups(quality, training.group)
    images = world.gather(crops)[chosen.flatten()]
    with training.autocast(world.device):
        projected = network(images.float() / 255)
    poor, good = quality[chosen].mean(1).tolist()
    return group_contrastive_loss(projected.unflatten(0, (2, training.group)), training.temperature), poor, good


def high_level_pathway(tensors: Mapping[str, Tensor]) -> HighLevelPathway:
    """A pathway of the shape of its tensors.

    Raises:
        WeightsError: they do not fit.
    """
    visual = {key.removeprefix("visual."): value for key, value in tensors.items() if key.startswith("visual.")}
    with torch.device("meta"):
        pathway = HighLevelPathway(HighLevelConfig(image_tower=image_tower_of(visual)))
    load_tensors(pathway, tensors, "the CLIP weights")
    return pathway


@torch.no_grad()
def pseudo_scores(pathway: HighLevelPathway, crops: Tensor, training: HighLevelTraining) -> Tensor:
    """Q_H of crops ``(N, 3, S, S)`` uint8 by the network as it is: ``(N,)`` in (0, 1)."""
    scores = []
    for chunk in crops.split(training.chunk):
        with training.autocast(crops.device):
            embedding = pathway(chunk.float() / 255)
        scores.append(pathway.quality(embedding))
    return torch.cat(scores)


def high_level_weights(
    pathway: HighLevelPathway,
    run: Run,
    name: str,
    clip: Mapping[str, object],
    low: GRepQ | None = None,
    about: str | None = None,
) -> GRepQ:
    """A model of a trained pathway with the record of its run, on the run's device.

    Args:
        pathway: the trained one.
        run: that it comes from.
        name: name of the weights.
        clip: which CLIP the training started from, for the record.
        low: a model whose low-level pathway joins it.
        about: what the training photos are, for the record.
    """
    provenance = record(run.facts, "grepq train high: group contrastive loss on undistorted photos", about, **clip)
    constants: dict[str, Any] = {}
    if low is not None:
        provenance["low"] = {"weights": low.weights_id, **low.provenance}
        constants = {key: low.config[key] for key in ("patch_size", "patch_stride", "ridge", "distance_scale")}
    pathways = ["high"] if low is None else ["low", "high"]
    model = GRepQ(pathways, name=name, provenance=provenance, image_tower=pathway.config.image_tower, **constants)
    if model.high is not None:
        load_tensors(model.high, {key: value.cpu() for key, value in pathway.state_dict().items()}, "the trained image tower")
    if low is not None:
        model.low = low.low
    return model.to(run.world.device)


def _clip(clip: Source | Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Tensors of a CLIP's high-level pathway, and where they are from."""
    if isinstance(clip, Mapping):
        return high_level_tensors(clip, "the given CLIP"), {"clip": "a state dict"}
    state, sha256 = clip_checkpoint(str(clip))
    return high_level_tensors(state, clip), {"clip": str(clip), "clip_sha256": sha256}


def _finish(
    pathway: HighLevelPathway,
    run: Run,
    name: str,
    clip: Mapping[str, object],
    low: GRepQ | None,
    photos: PhotoList,
    about: str | None,
) -> GRepQ:
    model = high_level_weights(pathway, run, name, clip, low, about)
    examine(model, photos)
    return model


def _warm_up(training: HighLevelTraining, epoch: float) -> float:
    return training.lr * min(1.0, epoch / training.warmup_epochs) if training.warmup_epochs else training.lr
