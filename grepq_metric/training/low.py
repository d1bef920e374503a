"""Training of the low-level encoder with the quality-aware contrastive loss (the paper's low-level pathway)."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

import cv2
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from grepq_metric.low_level import LowLevelEncoder
from grepq_metric.model import GRepQ
from grepq_metric.training.data import ContrastiveDataset, Recipe, check_sizes, list_photos
from grepq_metric.training.losses import quality_aware_contrastive_loss
from grepq_metric.training.pristine import Selection, set_pristine_statistics
from grepq_metric.weights import load_tensors


@dataclass(frozen=True)
class LowLevelTraining:
    """Hyper-parameters of a run; the defaults are the paper's.

    Attributes:
        recipe: what a sample is made of.
        batch: contents in a step.
        epochs: passes over the photos; ignored where `steps` is given.
        steps: optimizer steps.
        lr: learning rate at the start; it falls to `final_lr` along a cosine.
        final_lr: learning rate at the end.
        weight_decay: of AdamW.
        temperature: of the contrastive loss.
        precision: ``bf16`` (autocast) or ``fp32``.
        seed: of the initial weights and of the samples.
    """

    recipe: Recipe = field(default_factory=Recipe)
    batch: int = 8
    epochs: int = 15
    steps: int | None = None
    lr: float = 1e-4
    final_lr: float = 1e-6
    weight_decay: float = 0.05
    temperature: float = 0.5
    precision: str = "bf16"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.precision not in ("bf16", "fp32"):
            raise ValueError(f"precision must be bf16 or fp32, got {self.precision!r}")
        for name in ("batch", "epochs", "lr", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")


def train_low_level(
    folders: list[Path],
    out: Path,
    training: LowLevelTraining,
    *,
    resume: bool = False,
    device: str = "cpu",
    workers: int = 2,
    checkpoint_every: int = 100,
    cache: Path | None = None,
    stop_after: int | None = None,
) -> tuple[LowLevelEncoder, bool]:
    """Train an encoder on the photos in `folders`.

    Writes into ``out/training``: ``run.json`` (hyper-parameters, photos, seed, versions), ``log.jsonl`` (a line a step) and
    ``checkpoint.pt``. A resumed run sees the same samples and takes the same steps as one that was never stopped: bit for
    bit on one machine, device and thread count.

    Args:
        folders: folders of photos, searched recursively.
        out: folder of the run.
        training: hyper-parameters.
        resume: continue from ``checkpoint.pt``; without one, start.
        device: torch device.
        workers: processes that prepare samples.
        checkpoint_every: steps between checkpoints.
        cache: folder for FSIM similarities; ``out/training/fsim`` by default. Runs may share it.
        stop_after: stop at this step, with a checkpoint; the learning rate still follows the whole run.

    Returns:
        The encoder, and whether the run is finished.

    Raises:
        FileExistsError: `out` already holds a run and `resume` is false.
        ValueError: the checkpoint belongs to a run with other hyper-parameters or photos, or the loss is not finite.
    """
    folder = Path(out) / "training"
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists() and not resume:
        raise FileExistsError(f"{checkpoint} exists: continue that run with --resume, or choose another --out")
    if stop_after is not None and stop_after < 1:
        raise ValueError(f"stop_after must be at least 1, got {stop_after}")
    photos = list_photos(folders)
    check_sizes(photos, training.recipe.view_size)
    folder.mkdir(parents=True, exist_ok=True)
    dataset = ContrastiveDataset(photos, training.recipe, training.seed, Path(cache or folder / "fsim").expanduser())
    if training.steps is None:
        training = replace(training, steps=math.ceil(training.epochs * len(dataset) / training.batch))
    run = {**{k: v for k, v in asdict(training).items() if k not in ("recipe", "epochs")}, **dataset.identity()}

    torch.manual_seed(training.seed)
    encoder = LowLevelEncoder().to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=training.lr, weight_decay=training.weight_decay)
    start = _restore(checkpoint, encoder, optimizer, run) if checkpoint.exists() else 0
    _drop_log_after(folder / "log.jsonl", start)
    names = [Path(name).resolve().name for name in folders]
    record = {**run, "folders": names, "torch": torch.__version__, "threads": torch.get_num_threads(), "device": str(device)}
    (folder / "run.json").write_text(json.dumps(record, indent=2) + "\n")

    end = min(training.steps, stop_after or training.steps)
    loader = DataLoader(
        dataset,
        sampler=range(start * training.batch, end * training.batch),
        batch_size=training.batch,
        num_workers=workers,
        worker_init_fn=_one_thread,
        prefetch_factor=3 if workers else None,
    )
    progress = tqdm(loader, desc="train low", unit="step", initial=start, total=training.steps, dynamic_ncols=True)
    began = time.monotonic()
    with (folder / "log.jsonl").open("a") as history:
        for step, (views, weights) in enumerate(progress, start + 1):
            lr = _cosine(training, step - 1)
            for group in optimizer.param_groups:
                group["lr"] = lr
            loss = _loss(encoder, views.to(device), weights.to(device), training)
            if not torch.isfinite(loss):
                raise ValueError(f"the loss is {loss.item()} at step {step}; the last checkpoint is {checkpoint}")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            value = loss.item()
            progress.set_postfix(loss=f"{value:.4f}")
            entry = {"step": step, "loss": value, "lr": lr, "seconds": round(time.monotonic() - began, 2)}
            history.write(json.dumps(entry) + "\n")
            if step % checkpoint_every == 0 or step == end:
                history.flush()
                _save(checkpoint, encoder, optimizer, step, run)
    return encoder.eval(), end == training.steps


def low_level_weights(
    encoder: LowLevelEncoder, out: Path, photos: list[Path], selection: Selection, name: str, about: str | None = None
) -> GRepQ:
    """A model of a trained encoder, with the statistics of pristine patches of `photos` and the record of the run in `out`.

    The encoder is rounded to float16, as it is stored, before the statistics are computed. `about` tells what the training
    photos are.
    """
    folder = Path(out) / "training"
    run = json.loads((folder / "run.json").read_text())
    keys = ("recipe", "folders", "contents", "contents_sha256", "seed", "batch", "steps", "lr", "weight_decay", "temperature")
    provenance = {
        "trained_by": "grepq train low: quality-aware contrastive loss on synthetic distortions",
        "trained": datetime.now(timezone.utc).date().isoformat(),
        **{key: run[key] for key in (*keys, "precision", "torch")},
        **({"about": about} if about else {}),
    }
    model = GRepQ(pathways=["low"], name=name, storage="float16", provenance=provenance)
    rounded = {k: v.half().float() if v.is_floating_point() else v for k, v in encoder.state_dict().items()}
    load_tensors(model.low.encoder, rounded, "the trained encoder")
    set_pristine_statistics(model, photos, selection)
    return model


def _loss(encoder, views, weights, training):
    contents, versions = len(views), training.recipe.versions
    x = views.transpose(0, 1).flatten(0, 2).float().div(255).contiguous(memory_format=torch.channels_last)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=training.precision == "bf16"):
        z = encoder(x)
    z1, z2 = z.view(2, contents, versions, -1)
    return quality_aware_contrastive_loss(z1, z2, weights, training.temperature)


def _cosine(training: LowLevelTraining, step: int) -> float:
    share = (1 + math.cos(math.pi * step / training.steps)) / 2
    return training.final_lr + (training.lr - training.final_lr) * share


def _one_thread(_: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _save(path: Path, encoder, optimizer, step: int, run: dict) -> None:
    part = path.with_suffix(".part")
    torch.save({"encoder": encoder.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "run": run}, part)
    os.replace(part, path)


def _restore(path: Path, encoder, optimizer, run: dict) -> int:
    """Load a checkpoint of the same run; returns its step."""
    state = torch.load(path, map_location=next(encoder.parameters()).device, weights_only=True)
    different = sorted(key for key in run if state["run"].get(key) != run[key])
    if different:
        there, here = ({key: values.get(key) for key in different} for values in (state["run"], run))
        raise ValueError(f"{path} belongs to another run: {there} there, {here} here")
    encoder.load_state_dict(state["encoder"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]


def _drop_log_after(path: Path, step: int) -> None:
    """Remove log lines of steps that were taken after the checkpoint and are taken again."""
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if line.endswith("}") and json.loads(line)["step"] <= step]
        path.write_text("".join(f"{line}\n" for line in lines))
