"""Training of QFM-IQM, our reading: rated photos, features of others as noise, and what a teacher says of unrated photos.

From the paper (arXiv 2312.06158): a student on rated photos, which learns from a teacher's ratings of others, too; features
and ratings of recent photos in a memory; semantic noise matching, which picks from there the features of photos with a similar
score and other content; these are added to the student's features at the input of its decoder. Our choices: the loss (smooth
L1 of scores in (0, 1), of the disturbed and of the undisturbed features, half each), what similar and other mean, how the
noise grows, the teachers, and all sizes, see `QFMTraining`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grepq_metric import catalog
from grepq_metric.errors import InputError
from grepq_metric.files import sha256
from grepq_metric.heads.labels import Labels, read_labels
from grepq_metric.heads.ridge import RidgeHead
from grepq_metric.inputs import pad_to
from grepq_metric.models import QFMIQM, GRepQ, load_model
from grepq_metric.models.qfm import LEAST_SIDE
from grepq_metric.pathways import DecoderConfig, DecoderPathway, SemanticPathway
from grepq_metric.pathways.base import as_plain, check_number
from grepq_metric.pathways.timm_backbone import PREFIX, TimmBackbone
from grepq_metric.training.distributed import World
from grepq_metric.training.photos import PhotoDataset, PhotoList, Sample, Source, photo_list
from grepq_metric.training.run import Parts, Run, record, weights_name
from grepq_metric.training.sanity import examine
from grepq_metric.training.settings import RunOptions, Training, check_lr, cosine
from grepq_metric.training.tokens import Tokens, chosen_cells
from grepq_metric.weights import load_tensors, rounded

NOISES = ("matched", "random", "none")
"""What is added to features: those of matched photos, of random ones as a control, or nothing."""
TEACHERS = ("ridge", "ema")
Disturb = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Content of photos -> features that are added to theirs, and which photos get some."""
Draw = Callable[[int], Tensor]
"""Number of columns -> random numbers in [0, 1), a row for each photo of a step."""
BETA = 0.1
"""Difference of scores from which on the smooth L1 loss is linear."""
LEAST_SCALE = 1e-4
RIDGES = 8
"""Heads of the ensemble of ridge regressions, each fitted to a bootstrap sample of the rated photos."""


@dataclass(frozen=True)
class QFMTraining(Training):
    """What the student depends on, besides `Training`.

    Attributes:
        batch: rated photos in a step; with a teacher as many unrated ones join them.
        shape: of the decoder.
        lr: learning rate of the decoder after the warm-up.
        final_lr: at the end of the cosine.
        warmup: steps over which it grows.
        weight_decay: of AdamW, for matrices.
        dropout: in the decoder.
        cells: tokens of a photo that a step sees, drawn at random.
        noise: one of `NOISES`.
        strength: what features of noise are multiplied by, once it has grown.
        growth: share of the steps over which it grows from 0.
        memory: recent photos that are remembered.
        window: by which the scores of matched photos differ at most, of the range of labels.
        candidates: of photos within the window, so many with the most distant content are drawn from.
        teacher: one of `TEACHERS`, if there are unrated photos: an ensemble of ridge regressions on moments of the tokens, or
            the student's own exponential moving average.
        decay: of that average.
        distilled: weight of the loss on unrated photos.
        tuned: whether the backbone is trained, too, on crops.
        crop: their side in pixels.
        backbone_lr: of a backbone that is trained, as a multiple of `lr`.
    """

    batch: int = 32
    epochs: int = 20
    shape: DecoderConfig = field(default_factory=DecoderConfig)
    lr: float = 1e-3
    final_lr: float = 1e-5
    warmup: int = 50
    weight_decay: float = 0.05
    dropout: float = 0.1
    cells: int = 64
    noise: str = "matched"
    strength: float = 0.5
    growth: float = 0.5
    memory: int = 512
    window: float = 0.05
    candidates: int = 8
    teacher: str = "ridge"
    decay: float = 0.99
    distilled: float = 1.0
    tuned: bool = False
    crop: int = 320
    backbone_lr: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_lr(self.lr)
        if self.noise not in NOISES:
            raise InputError(f"noise must be one of {', '.join(NOISES)}, got {self.noise!r:.80}")
        if self.teacher not in TEACHERS:
            raise InputError(f"teacher must be one of {', '.join(TEACHERS)}, got {self.teacher!r:.80}")
        for name in ("final_lr", "weight_decay", "strength", "distilled", "backbone_lr"):
            check_number(name, getattr(self, name), 0, 1e6)
        for name in ("growth", "window", "decay"):
            check_number(name, getattr(self, name), 0, 1)
        check_number("dropout", self.dropout, 0, 0.99)
        check_number("warmup", self.warmup, 0, 1e9, whole=True)
        for name in ("cells", "memory", "candidates"):
            check_number(name, getattr(self, name), 1, 1e9, whole=True)
        check_number("crop", self.crop, LEAST_SIDE, 1e6, whole=True)


@dataclass(frozen=True)
class Rated:
    """Photos with scores in [0, 1].

    Attributes:
        photos: the photos.
        scores: ``(N,)`` float32.
        tokens: of the photos, where the backbone stays as it is.
    """

    photos: PhotoList
    scores: Tensor
    tokens: Tokens | None


class RatedDataset(PhotoDataset):
    """Photos with their scores: tokens ``(cells, C)``, or crops ``(3, crop, crop)`` of a photo; the score; the position.

    Args:
        rated: the photos.
        training: how many tokens, and which crops.
        salt: tells the draws of rated photos from those of unrated ones.
    """

    def __init__(self, rated: Rated, training: QFMTraining, salt: int) -> None:
        super().__init__(rated.photos, training.seed)
        self.rated, self.training, self.salt = rated, training, salt

    def make(self, index: int, position: int) -> tuple[Tensor, Tensor, Tensor]:
        """The sample at `position` of the run, of photo `index`."""
        score = self.rated.scores[index]
        if not score.isfinite():
            raise InputError(f"{self.photos.name(index)} can't be used")
        rng = np.random.default_rng([self.seed, self.salt, position])
        if self.rated.tokens is not None:
            seen = chosen_cells(self.rated.tokens.load(index), self.training.cells, rng)
        else:
            seen = _crop(self.photos.image(index), self.training.crop, rng)
        return seen, score, torch.tensor(index + self.salt * (1 << 40))


class JoinedDataset(RatedDataset):
    """As `RatedDataset`, with a sample of unrated photos beside each: six tensors."""

    def __init__(self, rated: Rated, unrated: Rated, training: QFMTraining) -> None:
        super().__init__(rated, training, 0)
        self.unrated = RatedDataset(unrated, training, 1)

    def __getitem__(self, position: int) -> Sample:
        one, other = super().__getitem__(position), self.unrated[position]
        skipped, error = [*one.skipped, *other.skipped], one.error or other.error
        if one.tensors is None or other.tensors is None:
            return Sample(skipped=skipped, error=error)
        return Sample((*one.tensors, *other.tensors), skipped)


class Memory(nn.Module):
    """Features, scores and content of recent photos.

    Args:
        size: photos that are remembered.
        cells: tokens of each.
        width: of all decoders together.
        content: numbers that tell the content of a photo.
    """

    features: Tensor
    scores: Tensor
    content: Tensor
    photos: Tensor
    taken: Tensor

    def __init__(self, size: int, cells: int, width: int, content: int) -> None:
        super().__init__()
        self.register_buffer("features", torch.zeros(size, cells, width, dtype=torch.float16))
        self.register_buffer("scores", torch.full((size,), torch.nan))
        self.register_buffer("content", torch.zeros(size, content))
        self.register_buffer("photos", torch.full((size,), -1, dtype=torch.int64))
        self.register_buffer("taken", torch.tensor(0))

    @torch.no_grad()
    def keep(self, features: Tensor, scores: Tensor, content: Tensor, photos: Tensor) -> None:
        """Remember photos in place of the oldest ones: ``(B, cells, width)``, ``(B,)``, ``(B, content)``, ``(B,)``."""
        places = (int(self.taken) + torch.arange(len(scores), device=scores.device)) % len(self.scores)
        self.features[places] = features.to(self.features.dtype)
        self.scores[places], self.content[places], self.photos[places] = scores, content, photos
        self.taken += len(scores)

    @torch.no_grad()
    def match(
        self, scores: Tensor, content: Tensor, photos: Tensor, training: QFMTraining, draw: Draw
    ) -> tuple[Tensor, Tensor]:
        """Semantic noise matching: for each photo one that scores alike and shows something else.

        Args:
            scores: ``(B,)``.
            content: ``(B, content)``, of length 1 each.
            photos: ``(B,)``; no photo is matched with itself.
            training: how.
            draw: random numbers in [0, 1), a row for each photo.

        Returns:
            Features ``(B, cells, width)``, and whether there is such a photo, ``(B,)``; where there is none, features are 0.
        """
        usable = (self.photos >= 0) & (self.photos.unsqueeze(0) != photos.unsqueeze(1))
        if training.noise == "matched":
            usable &= (scores.unsqueeze(1) - self.scores).abs() <= training.window
            order = content @ self.content.mT
        else:
            order = draw(usable.shape[1])
        count = min(training.candidates if training.noise == "matched" else 1, usable.shape[1])
        found = order.masked_fill(~usable, torch.inf).topk(count, largest=False)
        there = found.values.isfinite().sum(1)
        drawn = (draw(1) * there.unsqueeze(1)).long().clamp_max(count - 1)
        picked = found.indices.gather(1, drawn).squeeze(1)
        has = there > 0
        return self.features[picked].float() * has.view(-1, 1, 1), has


def train_qfm(
    labels: str | Path | Labels,
    out: Source,
    *,
    unlabelled: PhotoList | Source | Sequence[Source] | None = None,
    root: str | Path | None = None,
    image_column: str = "image",
    mos_column: str = "mos",
    init: Source | None = None,
    settings: Mapping[str, object] | None = None,
    noise: str = "matched",
    teacher: str = "ridge",
    tuned: bool = False,
    epochs: int = 20,
    steps: int | None = None,
    batch: int = 32,
    lr: float = 1e-3,
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
) -> QFMIQM | None:
    """Train QFM-IQM, our reading, on rated photos, and save weights that score photos.

    Args:
        labels: CSV file of photos and their MOS, higher is better, or what `read_labels` made of one.
        out: weights folder to write; the run's record and checkpoint go to ``out/training``, see `Run`.
        unlabelled: photos without ratings, which a teacher rates: a folder, ``.txt`` list or ``.tar`` shard, or several.
        root, image_column, mos_column: see `read_labels`.
        init: whose backbone is used: built-in weights with a semantic pathway (default: the newest ``grepq-sem``), a weights
            folder of `QFMIQM`, or ``timm/NAME``, a network of timm whose values come from the Hub.
        settings: changes of `QFMTraining`, and of its ``shape`` (`DecoderConfig`): ``{"strength": 1.0, "width": 192}``.
        noise, teacher, tuned, epochs, steps, batch, lr, seed, precision: see `QFMTraining`.
        cache: folder for tokens, which runs may share; default: ``out/training/tokens``. A photo of 512 x 512 pixels takes
            0.4 MB.
        device, workers, name, about, resume, overwrite, checkpoint_every, stop_after, tensorboard: as in `train_low`.

    Returns:
        The model or None, as `train_low`.

    Raises:
        WeightsError: `init` can't be had.
        FileNotFoundError: there is no such file of labels, or no photos.
        FileExistsError, InputError, TrainingError, OSError, Interrupted: see `Run` and `PhotoList`.
    """
    training = make_training(
        settings,
        QFMTraining(batch, epochs, steps, precision, seed, lr=lr, noise=noise, teacher=teacher, tuned=tuned),
    )
    options = RunOptions(resume, overwrite, checkpoint_every, stop_after, tensorboard)
    name = name or weights_name(out)
    if not isinstance(labels, Labels):
        sheet = labels
        labels = read_labels(sheet, image_column, mos_column, root=root)
        source = {"labels_sha256": sha256(sheet)}
    else:
        source = {}
    start, origin = start_of(init, training, name)
    world = World(device)
    others = None if unlabelled is None else photo_list(unlabelled)
    model, run = teach(start, origin, labels, others, Path(out), training, options, world=world, workers=workers, cache=cache)
    return run.weights(lambda: _finish(model, PhotoList.of_files(labels.photos, "labels"), run, about, source))


def make_training(settings: Mapping[str, object] | None, training: QFMTraining) -> QFMTraining:
    """A training with some settings changed, those of its decoder's shape among them.

    Raises:
        InputError: a setting is unknown or out of its range.
    """
    given, of_shape = dict(settings or {}), set(as_plain(training.shape)) - {"architecture"}
    shape = {key: value for key, value in given.items() if key in of_shape}
    rest = {key: value for key, value in given.items() if key not in of_shape}
    known = sorted({*as_plain(training), *of_shape} - {"shape"})
    for key in rest:
        if key not in known:
            raise InputError(f"unknown setting {key!r}, expected some of {', '.join(known)}")
    changed = replace(training.shape, **shape)  # type: ignore[arg-type]
    return replace(training, shape=changed, **rest)  # type: ignore[arg-type]


def start_of(init: Source | None, training: QFMTraining, name: str) -> tuple[QFMIQM, str]:
    """A model with a backbone and an untrained decoder, and the name of what the backbone is from.

    Raises:
        InputError: there is no such backbone.
        WeightsError: it can't be had.
    """
    shape, text = training.shape, str(init or "grepq-sem")
    if text.startswith(PREFIX):
        network = TimmBackbone(text, pretrained=True)
        shape = replace(shape, architecture=text, stages=min(shape.stages, len(network.channels)))
        return _new(shape, network.state_dict(), text, None, name), text
    before, entry = load_model(text), catalog.find(text)
    pathway: DecoderPathway | SemanticPathway
    if isinstance(before, QFMIQM):
        pathway, tag, origin = before.decoder, before.backbone, before.weights_id
    elif isinstance(before, GRepQ) and before.semantic is not None:
        pathway, tag = before.semantic, None if entry is None else entry.tag
        origin = tag or before.weights_id
    else:
        raise InputError(f"{text} has no semantic pathway and no decoder, and so no backbone")
    shape = replace(shape, architecture=pathway.config.architecture)
    return _new(shape, pathway.backbone.state_dict(), origin, None if training.tuned else tag, name), origin


def teach(
    model: QFMIQM,
    origin: str,
    labels: Labels,
    unlabelled: PhotoList | None,
    out: Path,
    training: QFMTraining,
    options: RunOptions = RunOptions(),
    *,
    world: World | None = None,
    workers: int = 2,
    cache: Source | None = None,
) -> tuple[QFMIQM, Run]:
    """Train the decoder of a model, and its backbone if that is to be tuned; errors as in `train_qfm`.

    Args:
        model: with a backbone.
        origin: what the backbone is from, for the record.
        labels: photos and their MOS.
        unlabelled: photos without.
        out: folder of the run.
        training: hyper-parameters.
        options: how the run is kept.
        world: the processes that share each batch.
        workers: processes that prepare samples.
        cache: folder for tokens.

    Returns:
        The model, and the run, whose ``finished`` tells whether all steps are taken.
    """
    world = world or World()
    photos = PhotoList.of_files(labels.photos, "labels")
    steps = training.steps_on(photos)
    least, greatest = float(labels.mos.min()), float(labels.mos.max())
    if not least < greatest:
        raise InputError(f"all {len(photos)} labels are {least:g}: there is nothing to learn")
    scores = torch.from_numpy((labels.mos - least) / (greatest - least)).float()
    model.labels = (least, greatest)
    pathway = model.decoder.to(world.device)
    torch.manual_seed(training.seed)
    pathway.renew(training.dropout)
    pathway.to(world.device)
    settings: dict[str, object] = {
        **training.identity(),
        "shape": as_plain(pathway.config),
        "steps": steps,
        "backbone": origin,
        **photos.identity(),
        "scores_sha256": _digest(labels.mos),
        **({} if unlabelled is None else {"unlabelled": unlabelled.identity()}),
    }
    folder = Path(cache) if cache is not None else out / "training" / "tokens"
    with world.joined():
        rated, unrated = _prepared(photos, scores, unlabelled, pathway, folder, _key(origin, pathway), training, world)
        student = _Student(pathway, training)
        teacher = deepcopy(student).requires_grad_(False) if unrated is not None and training.teacher == "ema" else None
        width = pathway.config.members * pathway.config.width
        memory = Memory(training.memory, training.cells, width, pathway.backbone.channels[-1]).to(world.device)
        optimizer = torch.optim.AdamW(_groups(student, training), lr=training.lr)
        parts: Parts = {"student": student, "memory": memory, "optimizer": optimizer}
        parts = {**parts, **({} if teacher is None else {"teacher": teacher})}
        dataset = RatedDataset(rated, training, 0) if unrated is None else JoinedDataset(rated, unrated, training)
        with Run(out, "QFM-IQM", settings, parts, world, steps, options) as run:
            network = world.wrap(student)
            pathway.decoders.train()
            for tensors in run.batches(dataset, training.batch, workers):
                loss = _loss(network, teacher, memory, tensors, run, training)
                rate = cosine(training.lr, training.final_lr, run.step, steps, training.warmup)
                with run.taking("loss", loss, lr=rate):
                    for group in optimizer.param_groups:
                        group["lr"] = rate * group["share"]
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
                    if teacher is not None:  # before the checkpoint that the block ends with
                        _follow(teacher, student, training.decay)
            world.barrier()
    pathway.decoders.eval()
    return model, run


def tokens_of(photos: PhotoList, cache: Source, training: QFMTraining, init: Source | None = None) -> list[Tensor]:
    """Tokens of photos, ``(T, C)`` float16 each, as `teach` computes and keeps them. Arguments and errors as there.

    Raises:
        InputError: a photo can't be used.
    """
    model, origin = start_of(init, training, "tokens")
    found = Tokens(photos, Path(cache), _key(origin, model.decoder))
    found.compute(model.decoder, World("cpu"), LEAST_SIDE)
    return [torch.from_numpy(found.load(i).copy()) for i in range(len(photos))]


def _key(origin: str, pathway: DecoderPathway) -> str:
    return f"{origin} {pathway.config.architecture} {pathway.config.stages}"


class _Student(nn.Module):
    """The pathway as it learns: each member's logits of undisturbed and disturbed features, these features, and the content.

    Args:
        pathway: what is trained.
        training: how.
    """

    def __init__(self, pathway: DecoderPathway, training: QFMTraining) -> None:
        super().__init__()
        self.pathway, self.cells, self.tuned = pathway, training.cells, training.tuned
        pathway.requires_grad_(False)
        pathway.decoders.requires_grad_()
        if training.tuned:
            pathway.backbone.requires_grad_()

    def forward(self, seen: Tensor, disturb: Disturb) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        pathway, members = self.pathway, self.pathway.members()
        tokens = pathway.standardised(self._some(pathway.tokens(seen).flatten(2).mT) if self.tuned else seen)
        content = content_of(tokens, pathway.backbone.channels[-1])
        features = [decoder.project(tokens) for decoder in members]
        plain = torch.stack([decoder.judge(decoder.read(own)) for decoder, own in zip(members, features, strict=True)])
        noise, has = disturb(content)
        disturbed = plain
        if bool(has.any()):  # features of noise come from other places: which is added to which means nothing
            parts = noise.chunk(len(members), -1)
            added = [own + part for own, part in zip(features, parts, strict=True)]
            disturbed = torch.stack([decoder.judge(decoder.read(one)) for decoder, one in zip(members, added, strict=True)])
        return plain, disturbed, torch.cat(features, -1).detach(), content

    def _some(self, tokens: Tensor) -> Tensor:
        count = tokens.shape[1]
        chosen = torch.randperm(count, device=tokens.device)
        return tokens[:, chosen.repeat(-(-self.cells // count))[: self.cells]]


@torch.no_grad()
def content_of(tokens: Tensor, channels: int) -> Tensor:
    """What photos show, by the pooled last map: standardised tokens ``(B, T, C)`` -> ``(B, channels)`` of length 1."""
    return F.normalize(tokens[..., -channels:].mean(1).float(), dim=1)


def _prepared(
    photos: PhotoList,
    scores: Tensor,
    unlabelled: PhotoList | None,
    pathway: DecoderPathway,
    folder: Path,
    key: str,
    training: QFMTraining,
    world: World,
) -> tuple[Rated, Rated | None]:
    """Photos with their tokens and scores, of unrated ones the teacher's; sets what the decoder knows of tokens and scores."""
    tokens = Tokens(photos, folder, key)
    moments = tokens.compute(pathway, world, LEAST_SIDE)
    usable = moments.isfinite().all(1)
    width = moments.shape[1] // 2
    mean, deviation = moments[usable, :width], moments[usable, width:]
    pathway.mean.copy_(mean.mean(0))
    pathway.scale.copy_((deviation.square().mean(0) + mean.var(0, correction=0)).sqrt().clamp_min(LEAST_SCALE))
    with torch.no_grad():
        for decoder in pathway.members():
            decoder.head.bias.copy_(torch.logit(scores[usable].mean().clamp(0.01, 0.99)))
    rated = Rated(photos, torch.where(usable, scores, torch.nan), None if training.tuned else tokens)
    if unlabelled is None:
        return rated, None
    others = Tokens(unlabelled, folder, key)
    features = others.compute(pathway, world, LEAST_SIDE)
    told = torch.where(features.isfinite().all(1), 0.5, torch.nan)  # what the moving average says, comes later
    if training.teacher == "ridge":
        there = told.isfinite()
        told[there] = _ridges(moments[usable], scores[usable], features[there], training.seed)
    return rated, Rated(unlabelled, told, None if training.tuned else others)


def _ridges(moments: Tensor, scores: Tensor, unrated: Tensor, seed: int) -> Tensor:
    """What an ensemble of ridge regressions says of unrated photos, ``(N,)`` in [0, 1]."""
    rng, told = np.random.default_rng([seed, len(scores)]), []
    for _ in range(RIDGES):
        times = np.bincount(rng.integers(len(scores), size=len(scores)), minlength=len(scores))
        head = RidgeHead().fit(moments.numpy(), scores.numpy(), sample_weight=times)
        told.append(head.predict(unrated.numpy()))
    return torch.from_numpy(np.mean(told, 0)).float().clamp(0, 1)


def _loss(
    network: nn.Module,
    teacher: nn.Module | None,
    memory: Memory,
    tensors: tuple[Tensor, ...],
    run: Run,
    training: QFMTraining,
) -> Tensor:
    world, step = run.world, run.step
    seed = int.from_bytes(hashlib.sha256(f"{training.seed} {step}".encode()).digest()[:7], "big")
    torch.manual_seed(seed + world.rank)  # of dropout
    generator = torch.Generator().manual_seed(seed)
    rated = len(tensors[1])
    seen, scores, photos = (torch.cat(pair) for pair in zip(tensors[:3], tensors[3:], strict=True)) if tensors[3:] else tensors
    if teacher is not None:
        with torch.no_grad(), training.autocast(world.device):
            plain = teacher(seen[rated:], lambda content: (content, content.new_zeros(1, dtype=torch.bool)))[0].mean(0)
        scores = torch.cat([scores[:rated], torch.sigmoid(plain)])
    grown = training.strength * min(1.0, (step + 1) / max(training.growth * run.steps, 1))
    has = scores.new_zeros(len(scores), dtype=torch.bool)

    def draw(columns: int) -> Tensor:  # all processes draw for all, so that their number does not matter
        drawn = torch.rand(world.size * len(scores), columns, generator=generator)
        return drawn.chunk(world.size)[world.rank].to(scores.device)

    def disturb(content: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal has
        if training.noise != "none":
            noise, has = memory.match(scores, content, photos, training, draw)
            return grown * noise, has
        return content, has

    with training.autocast(world.device):
        plain, disturbed, features, content = network(seen, disturb)
    memory.keep(*(world.gather(value) for value in (features, scores, content, photos)))
    losses = [_distance(logits, scores) for logits in (plain, disturbed)]
    each = torch.where(has, (losses[0] + losses[1]) / 2, losses[0])
    return each[:rated].mean() + (training.distilled * each[rated:].mean() if len(each) > rated else 0)


def _distance(logits: Tensor, scores: Tensor) -> Tensor:
    """Smooth L1 loss of each photo, mean over the members: ``(M, B)``, ``(B,)`` -> ``(B,)``."""
    told = torch.sigmoid(logits)
    return F.smooth_l1_loss(told, scores.expand_as(told), reduction="none", beta=BETA).mean(0)


def _groups(student: _Student, training: QFMTraining) -> list[dict[str, object]]:
    """Parameters for the optimizer: matrices shrink, and a backbone learns slower."""
    found: list[dict[str, object]] = []
    for module, share in ((student.pathway.decoders, 1.0), (student.pathway.backbone, training.backbone_lr)):
        for decayed in (True, False):
            some = [value for value in module.parameters() if value.requires_grad and (value.ndim > 1) == decayed]
            if some:
                found.append({"params": some, "weight_decay": training.weight_decay if decayed else 0.0, "share": share})
    return found


@torch.no_grad()
def _follow(teacher: _Student, student: _Student, decay: float) -> None:
    for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
        old.lerp_(new, 1 - decay)


def _crop(image: Tensor, side: int, rng: np.random.Generator) -> Tensor:
    """A random part ``(3, side, side)`` of a photo, mirrored at random; a smaller photo is padded first."""
    x = pad_to(image.unsqueeze(0), side)[0]
    top, left = (int(rng.integers(length - side + 1)) for length in x.shape[1:])
    part = x[:, top : top + side, left : left + side]
    return (part.flip(2) if rng.random() < 0.5 else part).contiguous()


def _new(shape: DecoderConfig, backbone: Mapping[str, Tensor], source: str, tag: str | None, name: str) -> QFMIQM:
    model = QFMIQM(decoder=shape, backbone=tag, name=name, storage="float16")
    load_tensors(model.decoder.backbone, rounded(backbone), source)
    return model


def _digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, np.float64).tobytes()).hexdigest()


def _finish(model: QFMIQM, photos: PhotoList, run: Run, about: str | None, source: Mapping[str, object]) -> QFMIQM:
    trained_by = "grepq train qfm: QFM-IQM, our reading: opinion scores, with features of other photos as noise"
    model.provenance = record(run.facts, trained_by, about, **source)
    state = model.decoder.state_dict()
    exact = {key: state[key] for key in ("mean", "scale")}  # as a weights folder keeps them
    load_tensors(model.decoder, {**rounded(state), **exact}, "the student")
    examine(model, photos)
    return model
