"""Fine-tuning of the semantic pathway's backbone, taught by full-reference metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from grepq_metric.errors import InputError
from grepq_metric.models import GRepQ
from grepq_metric.pathways import SemanticPathway
from grepq_metric.pathways.base import check_number
from grepq_metric.pathways.efficientnet import ENDS
from grepq_metric.pathways.semantic import moments
from grepq_metric.training.distortions import jpeg
from grepq_metric.training.distributed import World
from grepq_metric.training.losses import agreement_loss, version_ranking_loss
from grepq_metric.training.photos import PhotoList, Source, photo_list
from grepq_metric.training.recipe import RECIPES, Recipe, make_recipe
from grepq_metric.training.run import Parts, Run, record, weights_name
from grepq_metric.training.sanity import examine
from grepq_metric.training.semantic import TaughtDataset, whether_undistorted
from grepq_metric.training.settings import RunOptions, Training, check_lr, cosine
from grepq_metric.training.views import network_input
from grepq_metric.weights import check_name, load_tensors, rounded

QUALITIES = (60, 95)
"""Range of the quality at which versions are JPEG-coded again, as a web site does with what it is sent."""


@dataclass(frozen=True)
class BackboneTraining(Training):
    """Hyper-parameters of a run, besides those of `Training`.

    Attributes:
        lr: highest learning rate, reached after `warmup` steps; it falls to `final_lr` along a cosine.
        recipe: which versions of a photo are made; see `Recipe`, whose views and losses have no meaning here.
        undistorted: weight of the target whether a version is undistorted, against that of how slight its distortion is.
        frozen: first stages of the backbone that keep their values, 0 to 4.
        crop: side of the square of a region that the network sees.
        recompressed: share of versions that are JPEG-coded again, which changes nothing of what is said of them.
        share: of the way from the values at the start to the trained ones, where the result lies. What is between the two
            keeps more of what ImageNet taught.
        final_lr: learning rate at the end.
        warmup: steps over which the learning rate grows linearly.
        weight_decay: of AdamW.
    """

    batch: int = 8
    lr: float = 1e-4
    recipe: Recipe = field(default_factory=lambda: RECIPES["varied"])
    undistorted: float = 1.0
    frozen: int = 3
    crop: int = 256
    recompressed: float = 0.5
    share: float = 0.4
    final_lr: float = 1e-6
    warmup: int = 20
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_lr(self.lr)
        for name in ("undistorted", "final_lr", "weight_decay"):
            check_number(name, getattr(self, name), 0, 1e6)
        for name in ("recompressed", "share"):
            check_number(name, getattr(self, name), 0, 1)
        check_number("frozen", self.frozen, 0, len(ENDS) - 1, whole=True)
        check_number("warmup", self.warmup, 0, 1e9, whole=True)
        check_number("crop", self.crop, 32, self.recipe.region or 1e6, whole=True)


class CroppedDataset(TaughtDataset):
    """As `TaughtDataset`: one crop of all versions of a content, mirrored at random, some of them JPEG-coded again.

    Args:
        photos: the contents.
        training: which versions, crops and codings.
    """

    def __init__(self, photos: PhotoList, training: BackboneTraining) -> None:
        super().__init__(photos, training.recipe, training.seed)
        self.training = training

    def make(self, index: int, position: int) -> tuple[Tensor, Tensor, Tensor]:
        """The sample at `position` of the run, of photo `index`."""
        versions, taught, source = super().make(index, position)
        rng, side = np.random.default_rng([self.seed, position]), self.training.crop
        top, left = (int(rng.integers(length - side + 1)) for length in versions.shape[-2:])
        cropped = versions[..., top : top + side, left : left + side].permute(0, 2, 3, 1).numpy()
        if rng.random() < 0.5:
            cropped = cropped[:, :, ::-1]
        seen = [
            jpeg(np.ascontiguousarray(image), float(rng.integers(*QUALITIES, endpoint=True)), rng)
            if rng.random() < self.training.recompressed
            else image
            for image in cropped
        ]
        return torch.from_numpy(np.stack(seen).transpose(0, 3, 1, 2).copy()), taught, source


def train_backbone(
    photos: PhotoList | Source | Sequence[Source],
    out: Source,
    *,
    init: Source = "grepq-sem",
    recipe: str | Recipe = "varied",
    settings: Mapping[str, object] | None = None,
    undistorted: float = 1.0,
    frozen: int = 3,
    crop: int = 256,
    recompressed: float = 0.5,
    share: float = 0.4,
    epochs: int = 3,
    steps: int | None = None,
    batch: int = 8,
    lr: float = 1e-4,
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
    """Fine-tune the backbone of the semantic pathway on photos without human scores, and save weights that score photos.

    Versions of photos are to be scored as full-reference metrics and the knowledge which of them are undistorted say: the
    loss is 1 minus the correlation of scores and targets, within sources, plus a ranking loss between the versions of each
    content. The head keeps its values: the backbone learns to give it better features.

    Args:
        photos: a folder, ``.txt`` list or ``.tar`` shard, or several, or a `PhotoList`. Photos of different origin are given
            as different sources, as for `train_semantic`.
        out: weights folder to write; the run's record and checkpoint go to ``out/training``, see `Run`.
        init: weights to start from, with a semantic pathway, as in `GRepQ.from_pretrained`.
        recipe: which versions are made: a name in `RECIPES` or a recipe.
        settings: changes of the recipe, see `make_recipe`.
        undistorted, frozen, crop, recompressed, share, epochs, steps, batch, lr, seed, precision: see `BackboneTraining`.
        device, workers, name, about, resume, overwrite, checkpoint_every, stop_after, tensorboard: as in `train_low`.

    Returns:
        The model or None, as `train_low`.

    Raises:
        WeightsError: `init` can't be had.
        FileExistsError, InputError, TrainingError, OSError, Interrupted: see `Run` and `PhotoList`.
    """
    training = BackboneTraining(
        *(batch, epochs, steps, precision, seed, lr, make_recipe(recipe, settings), undistorted),
        frozen=frozen,
        crop=crop,
        recompressed=recompressed,
        share=share,
    )
    options = RunOptions(resume, overwrite, checkpoint_every, stop_after, tensorboard)
    title = check_name(name or weights_name(out))  # an unusable one fails now
    contents, world = photo_list(photos), World(device)
    start = GRepQ.from_pretrained(init, pathways=["semantic"])
    if start.semantic is None:
        raise InputError(f"{init} has no semantic pathway to start from")
    before, origin = start.semantic, start.weights_id
    pathway, run = tune(contents, before, origin, Path(out), training, options, world=world, workers=workers)
    return run.weights(lambda: _finish(title, before, pathway, run, training, contents, about))


def tune(
    photos: PhotoList,
    start: SemanticPathway,
    origin: str,
    out: Path,
    training: BackboneTraining,
    options: RunOptions = RunOptions(),
    *,
    world: World | None = None,
    workers: int = 2,
) -> tuple[SemanticPathway, Run]:
    """Fine-tune a copy of a pathway; errors as in `train_backbone`.

    The batch normalisation keeps its running statistics, the ones that scoring uses.

    Args:
        photos: the contents.
        start: the pathway, with values.
        origin: of which weights it is, for the record.
        out: folder of the run.
        training: hyper-parameters.
        options: how the run is kept.
        world: the processes that share each batch; the loss is that of all of it.
        workers: processes that prepare samples.

    Returns:
        The trained pathway, and the run, whose ``finished`` tells whether all steps are taken.
    """
    world, steps = world or World(), training.steps_on(photos)
    dataset = CroppedDataset(photos, training)
    settings = {**training.identity(), "steps": steps, "init": origin, **dataset.identity()}
    pathway = deepcopy(start).to(world.device).to(memory_format=torch.channels_last).eval()
    tuned = _set_trainable(pathway, training.frozen)
    optimizer = torch.optim.AdamW(tuned, lr=training.lr, weight_decay=training.weight_decay)
    parts: Parts = {"pathway": pathway, "optimizer": optimizer}
    with world.joined(), Run(out, "semantic backbone", settings, parts, world, steps, options) as run:
        network = world.wrap(_Scorer(pathway))
        for versions, taught, source in run.batches(dataset, training.batch, workers):
            loss = _loss(network, versions, taught, source, training, world)
            run.learn(loss, optimizer, cosine(training.lr, training.final_lr, run.step, steps, training.warmup))
        world.barrier()
    return pathway, run


class _Scorer(nn.Module):
    """Logits of the quality of images: ``(N, 3, H, W)`` in [0, 1] -> ``(N,)``."""

    def __init__(self, pathway: SemanticPathway) -> None:
        super().__init__()
        self.pathway = pathway

    def forward(self, x: Tensor) -> Tensor:
        return self.pathway.logit(moments(self.pathway.maps(x)))


def _set_trainable(pathway: SemanticPathway, frozen: int) -> list[nn.Parameter]:
    """Let the stages after the first `frozen` ones be trained, and nothing else; returns their parameters."""
    pathway.requires_grad_(False)
    own = list(pathway.backbone.named_parameters())
    first = 0
    if frozen:
        first = 1 + max(i for i, (key, _) in enumerate(own) if key.startswith(f"blocks.{ENDS[frozen - 1]}."))
    tuned = [parameter for _, parameter in own[first:]]
    for parameter in tuned:
        parameter.requires_grad_()
    return tuned


def targets_of(taught: Tensor, undistorted: float) -> Tensor:
    """What scores are to follow: teachers' ``(B, D, T)``, the undistorted version first -> ``(B, D)`` of deviation 1.

    Each teacher is standardised over the batch, and so is their mean; then whether a version is undistorted is added.
    """
    slight = _standardised(_standardised(taught.flatten(0, 1)).mean(1, keepdim=True))
    mixed = slight + undistorted * _standardised(whether_undistorted(taught).flatten().unsqueeze(1))
    return _standardised(mixed).view(taught.shape[:2])


def _standardised(columns: Tensor) -> Tensor:
    deviation, mean = torch.std_mean(columns, 0, correction=0)
    return (columns - mean) / deviation.clamp_min(1e-6)


def _loss(
    network: nn.Module, versions: Tensor, taught: Tensor, source: Tensor, training: BackboneTraining, world: World
) -> Tensor:
    with training.autocast(world.device):
        logits = network(network_input(versions.flatten(0, 1)))
    scores = world.gather(logits.float().view(versions.shape[:2]))
    targets = targets_of(world.gather(taught), training.undistorted)
    sources = world.gather(source).repeat_interleave(versions.shape[1])
    return agreement_loss(scores.flatten(), targets.flatten(), sources) + version_ranking_loss(scores, targets)


def _finish(
    name: str,
    start: SemanticPathway,
    tuned: SemanticPathway,
    run: Run,
    training: BackboneTraining,
    photos: PhotoList,
    about: str | None,
) -> GRepQ:
    trained_by = "grepq train backbone: scores of synthetic distortions follow full-reference metrics"
    provenance = record(run.facts, trained_by, about)
    model = GRepQ(["semantic"], name=name, storage="float16", provenance=provenance, semantic=start.config)
    after = {key: value.cpu() for key, value in tuned.backbone.state_dict().items()}
    between = {
        key: torch.lerp(value, after[key], training.share) if value.is_floating_point() else value
        for key, value in start.backbone.state_dict().items()
    }
    if model.semantic is not None:
        load_tensors(model.semantic.backbone, rounded(between), "the trained backbone")
        load_tensors(model.semantic.head, start.head.state_dict(), "the head")
    model = model.to(run.world.device)
    examine(model, photos)
    return model
