"""Training of CLIP's image tower with the group contrastive loss (the paper's high-level pathway)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save as serialise
from torch import Tensor, nn

from grepq_metric.errors import InputError
from grepq_metric.model import GRepQ
from grepq_metric.pathways import HighLevelConfig, HighLevelPathway, image_tower_of
from grepq_metric.training.distributed import World
from grepq_metric.training.losses import extreme_groups, group_contrastive_loss
from grepq_metric.training.photos import PhotoDataset, PhotoList
from grepq_metric.training.run import Run, Training, record
from grepq_metric.weights import load_tensors

PROJECTIONS = ("fixed", "trained")


@dataclass(frozen=True)
class HighLevelTraining(Training):
    """Hyper-parameters of a run, besides those of `Training`; the defaults are those of the authors' released code.

    The two groups are chosen among the photos of a batch. The learning rate is `lr` after the warm-up. The seed is that of the
    projection and of the order of photos (method.md, section 5).

    Attributes:
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
        if self.projection not in PROJECTIONS:
            raise InputError(f"projection must be one of {PROJECTIONS}, got {self.projection!r}")
        for name in ("temperature", "projected", "chunk"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be positive, got {getattr(self, name)}")
        if self.warmup_epochs < 0:
            raise InputError(f"warmup_epochs must be at least 0, got {self.warmup_epochs}")
        if self.group < 2 or self.batch < 2 * self.group:
            raise InputError(f"group must be at least 2 and at most half of the batch of {self.batch}, got {self.group}")
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


def train_high_level(
    photos: PhotoList,
    clip: Mapping[str, Tensor],
    out: Path,
    training: HighLevelTraining,
    *,
    world: World | None = None,
    workers: int = 2,
    **options,
) -> tuple[HighLevelPathway, bool]:
    """Fine-tune the image tower of a CLIP on undistorted photos (paper: high-level pathway).

    The whole batch is embedded without gradients to rank it; only the chosen groups are embedded again with them. Those are
    the gradients of the whole batch, since the other photos do not enter the loss and the batch normalisation keeps its
    running statistics, the ones that scoring uses. Memory is that of two groups, whatever the batch.

    Args:
        photos: undistorted photos of at least `training.crop` pixels a side; others are passed over, counted and named.
        clip: tensors of `HighLevelPathway`.
        out: folder of the run; its files are those of `Run`.
        training: hyper-parameters.
        world: the processes that share the ranking of each batch; all of them embed both groups.
        workers: processes that read photos.
        options: ``resume``, ``checkpoint_every``, ``stop_after`` and ``tensorboard`` of `Run`.

    Returns:
        The pathway, and whether the run is finished.

    Raises:
        FileExistsError: `out` already holds a run and `resume` is false.
        ValueError: the checkpoint belongs to a run with other hyper-parameters or photos, the loss is not finite, or too many
            photos in a row can't be used.
        WeightsError: `clip` does not fit.
        OSError: files can't be written.
    """
    world = world or World()
    dataset = CropDataset(photos, training.crop, training.seed)
    training = training.on(photos)
    pathway = high_level_pathway(clip).to(world.device, memory_format=torch.channels_last).eval()
    settings = {k: v for k, v in asdict(training).items() if k not in ("epochs", "chunk")}
    tensors = serialise({k: v.cpu().contiguous() for k, v in clip.items()})
    settings.update(photos.identity(), tensors_sha256=hashlib.sha256(tensors).hexdigest())

    torch.manual_seed(training.seed)
    projection = nn.Sequential(nn.Linear(pathway.config.image_tower.output_dim, training.projected), nn.ReLU()).to(
        world.device
    )
    projection.requires_grad_(training.projection == "trained")
    student = nn.Sequential(pathway, projection)
    optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], lr=training.lr)
    parts = {"visual": pathway.visual, "projection": projection, "optimizer": optimizer}
    with world.joined(), Run(out, settings, parts, world, training.steps, **options) as run:
        network = world.wrap(student)
        for (crops,) in run.batches(dataset, training.batch, workers):
            quality = world.gather(pseudo_scores(pathway, crops, training))
            chosen = extreme_groups(quality, training.group)
            images = world.gather(crops)[chosen.flatten()]
            with training.autocast(world.device):
                projected = network(images.float() / 255)
            loss = group_contrastive_loss(projected.unflatten(0, (2, training.group)), training.temperature)
            poor, good = quality[chosen].mean(1).tolist()
            lr = _warm_up(training, run.step * training.batch / len(photos))
            run.learn(loss, optimizer, lr, quality_poor=poor, quality_good=good)
        world.barrier()
    return pathway, run.finished


def high_level_pathway(tensors: Mapping[str, Tensor]) -> HighLevelPathway:
    """A pathway of the shape of its tensors.

    Raises:
        WeightsError: they do not fit.
    """
    pathway = HighLevelPathway(
        HighLevelConfig(
            image_tower=image_tower_of({k.removeprefix("visual."): v for k, v in tensors.items() if k.startswith("visual.")})
        )
    )
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
    pathway: HighLevelPathway, out: Path, name: str, clip: dict, low: GRepQ | None = None, about: str | None = None
) -> GRepQ:
    """A model of a trained pathway with the record of the run in `out`.

    Args:
        pathway: the trained one.
        out: folder of the run.
        name: name of the weights.
        clip: which CLIP the training started from, for the record.
        low: a model whose low-level pathway joins it.
        about: what the training photos are, for the record.
    """
    provenance = record(out, "grepq train high: group contrastive loss on undistorted photos", about, **clip)
    constants = {}
    if low is not None:
        provenance["low"] = {"weights": low.weights_id, **low.provenance}
        constants = {key: low.config[key] for key in ("patch_size", "patch_stride", "ridge", "distance_scale")}
    pathways = ["high"] if low is None else ["low", "high"]
    model = GRepQ(pathways, name=name, provenance=provenance, image_tower=pathway.config.image_tower, **constants)
    load_tensors(model.high, {key: value.cpu() for key, value in pathway.state_dict().items()}, "the trained image tower")
    if low is not None:
        model.low = low.low
    return model


def _warm_up(training: HighLevelTraining, epoch: float) -> float:
    return training.lr * min(1.0, epoch / training.warmup_epochs) if training.warmup_epochs else training.lr
