"""Settings of a training run: what is learned, and how the run is kept."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch

from grepq_metric.errors import InputError
from grepq_metric.pathways.base import check_number
from grepq_metric.training.photos import PhotoList


@dataclass(frozen=True)
class Training:
    """What the hyper-parameters of all trainings have in common.

    Attributes:
        batch: photos in a step.
        epochs: passes over the photos; ignored where `steps` is given.
        steps: optimizer steps.
        precision: ``bf16`` (autocast) or ``fp32``.
        seed: of what is random.
    """

    batch: int
    epochs: int = 15
    steps: int | None = None
    precision: str = "bf16"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.precision not in ("bf16", "fp32"):
            raise InputError(f"precision must be bf16 or fp32, got {self.precision!r}")
        for name in ("batch", "epochs"):
            check_number(name, getattr(self, name), 1, 1e9, whole=True)
        if self.steps is not None:
            check_number("steps", self.steps, 1, 1e12, whole=True)
        check_number("seed", self.seed, 0, 2**63 - 1, whole=True)

    def steps_on(self, photos: PhotoList) -> int:
        """Steps of the whole run: `steps`, or those that `epochs` passes over the photos take."""
        return self.steps if self.steps is not None else math.ceil(self.epochs * len(photos) / self.batch)

    def identity(self) -> dict[str, object]:
        """What the steps depend on, for the run's record and for refusing to resume another run, but for passes and recipe."""
        return {key: value for key, value in asdict(self).items() if key not in ("epochs", "recipe")}

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context in which networks run."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16")


def check_lr(lr: float) -> None:
    """Check a learning rate.

    Raises:
        InputError: it is no number from 1e-15 to 1000.
    """
    check_number("lr", lr, 1e-15, 1e3)


def cosine(lr: float, final_lr: float, step: int, steps: int, warmup: int = 0) -> float:
    """Learning rate of a step, from 0: along a cosine from `lr` to `final_lr`, after a linear growth over `warmup` steps."""
    falling = final_lr + (lr - final_lr) * (1 + math.cos(math.pi * step / steps)) / 2
    return falling * min(1.0, (step + 1) / warmup) if warmup else falling


@dataclass(frozen=True)
class RunOptions:
    """How a run is kept on disk; nothing of it changes what is learned.

    Attributes:
        resume: continue from the checkpoint; without one, start.
        overwrite: start anew where the folder holds a run or weights, which are lost. With `resume`: only the weights are.
        checkpoint_every: steps between checkpoints.
        stop_after: stop at this step, with a checkpoint, to be resumed later.
        tensorboard: also log for TensorBoard.
    """

    resume: bool = False
    overwrite: bool = False
    checkpoint_every: int = 100
    stop_after: int | None = None
    tensorboard: bool = False

    def __post_init__(self) -> None:
        check_number("checkpoint_every", self.checkpoint_every, 1, 1e12, whole=True)
        if self.stop_after is not None:
            check_number("stop_after", self.stop_after, 1, 1e12, whole=True)
