"""The files of a training run: settings, log, skipped photos, checkpoints."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from grepq_metric.errors import InputError
from grepq_metric.training.distributed import World
from grepq_metric.training.photos import PhotoDataset, PhotoList, collate


@dataclass(frozen=True)
class Training:
    """What the hyper-parameters of both trainers have in common.

    Attributes:
        batch: photos in a step.
        epochs: passes over the photos; ignored where `steps` is given.
        steps: optimizer steps.
        lr: highest learning rate.
        precision: ``bf16`` (autocast) or ``fp32``.
        seed: of what is random.
    """

    batch: int
    lr: float
    epochs: int = 15
    steps: int | None = None
    precision: str = "bf16"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.precision not in ("bf16", "fp32"):
            raise InputError(f"precision must be bf16 or fp32, got {self.precision!r}")
        for name in ("batch", "epochs", "lr"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be positive, got {getattr(self, name)}")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"steps must be at least 1, got {self.steps}")

    def on(self, photos: PhotoList) -> Training:
        """The same with the number of steps that `epochs` passes over the photos take, unless it is given."""
        return self if self.steps is not None else replace(self, steps=math.ceil(self.epochs * len(photos) / self.batch))

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context in which networks run."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16")


def record(out: Path, trained_by: str, about: str | None, **facts: object) -> dict:
    """Provenance of weights from the run in `out`: who, when, `facts`, its settings, and what the photos are."""
    run = json.loads((Path(out) / "training" / "run.json").read_text())
    return {
        "trained_by": trained_by,
        "trained": datetime.now(timezone.utc).date().isoformat(),
        **facts,
        **{key: value for key, value in run.items() if key not in ("threads", "processes", "device")},
        **({"about": about} if about else {}),
    }


class Run:
    """A training run on disk, in ``out/training``, that can be stopped at any moment and continued.

    - ``run.json``: settings, photos, seed, versions;
    - ``log.jsonl``: a line a step with loss, learning rate and seconds;
    - ``skipped.txt``: photos that were passed over, and why;
    - ``checkpoint.pt``: the whole state, replaced at once, so that there is always an undamaged one;
    - ``tensorboard/``: the log once more, if asked for.

    Args:
        out: folder of the run.
        settings: what the steps depend on; a checkpoint of a run with other settings is refused.
        parts: modules and optimizers by name, the state.
        world: the processes; the first one writes.
        steps: steps of the whole run.
        resume: continue from the checkpoint; without one, start.
        checkpoint_every: steps between checkpoints.
        stop_after: stop at this step, with a checkpoint, to be resumed later.
        tensorboard: also log for TensorBoard.

    Attributes:
        step: steps taken so far.

    Raises:
        FileExistsError: `out` already holds a run and `resume` is false.
        ValueError: the checkpoint belongs to a run with other settings, or TensorBoard is asked for and not installed.
    """

    def __init__(
        self,
        out: Path,
        settings: dict,
        parts: dict,
        world: World,
        steps: int,
        *,
        resume: bool = False,
        checkpoint_every: int = 100,
        stop_after: int | None = None,
        tensorboard: bool = False,
    ) -> None:
        if stop_after is not None and stop_after < 1:
            raise InputError(f"stop_after must be at least 1, got {stop_after}")
        if checkpoint_every < 1:
            raise InputError(f"checkpoint_every must be at least 1, got {checkpoint_every}")
        self.folder = Path(out) / "training"
        self.checkpoint = self.folder / "checkpoint.pt"
        self.settings, self.parts, self.world = settings, parts, world
        self.checkpoint_every, self.step, self.skipped = checkpoint_every, 0, 0
        self.steps, self._end = steps, min(steps, stop_after or steps)
        if self.checkpoint.exists():
            if not resume:
                raise FileExistsError(f"{self.checkpoint} exists: continue that run with --resume, or choose another --out")
            self._restore()
        world.barrier()  # or another process might find the first checkpoint of this very run
        self._saved, self._began = self.step, time.monotonic()
        self._log, self._board, self._shown = None, None, {}
        if world.leads:
            if tensorboard:
                try:
                    from torch.utils.tensorboard import SummaryWriter
                except ModuleNotFoundError as error:
                    raise InputError('--tensorboard needs TensorBoard: pip install "grepq-metric[train]"') from error
                self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.step + 1)
            self.folder.mkdir(parents=True, exist_ok=True)
            machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "processes": world.size}
            record = {**settings, **machine, "device": str(world.device)}
            (self.folder / "run.json").write_text(json.dumps(record, indent=2) + "\n")
            self._drop_log_after(self.step)
            self._log = (self.folder / "log.jsonl").open("a")

    @property
    def finished(self) -> bool:
        """Whether all steps of the run are taken."""
        return self.step >= self.steps

    def batches(self, dataset: PhotoDataset, batch: int, workers: int) -> Iterator[tuple[Tensor, ...]]:
        """This process's share of the batches that are still to be learned from, on its device.

        Raises:
            ValueError: too many photos in a row can't be used, what the dataset caches can't be written, or the batch can't
                be split between the processes.
        """
        loader = DataLoader(
            dataset,
            sampler=self.world.positions(self.step, self._end, batch),
            batch_size=self.world.share(batch),
            collate_fn=collate,
            num_workers=workers,
            worker_init_fn=_one_thread,
            prefetch_factor=3 if workers else None,
        )
        with tqdm(initial=self.step, total=self.steps, unit="step", dynamic_ncols=True, disable=not self.world.leads) as bar:
            for sample in loader:
                self._skip(sample.skipped)
                if sample.error:
                    raise InputError(f"{sample.error}; {self._kept()}")
                yield tuple(tensor.to(self.world.device) for tensor in sample.tensors)
                bar.set_postfix({**self._shown, "skipped": self.skipped})
                bar.update()

    def learn(self, loss: Tensor, optimizer: torch.optim.Optimizer, lr: float, **values: float) -> None:
        """Take a step, record it with `values`, and write a checkpoint when one is due.

        Raises:
            ValueError: the mean loss over the processes is not finite; the network is as it was.
            OSError: the disk is full or the folder can't be written; the last checkpoint is whole.
        """
        value = self.world.mean(loss).item()
        if not math.isfinite(value):
            raise InputError(
                f"the loss is {value} at step {self.step + 1}; {self._kept()}. Try a lower --lr, or --precision fp32"
            )
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        self.step += 1
        self._shown = {"loss": f"{value:.4f}"}
        if not self.world.leads:
            return
        entry = {"step": self.step, "loss": value, "lr": lr, **values, "seconds": round(time.monotonic() - self._began, 2)}
        with self._writing():
            self._log.write(json.dumps(entry) + "\n")
            for key in ("loss", "lr", *values) if self._board else ():
                self._board.add_scalar(key, entry[key], self.step)
            if self.step == self._end or self.step % self.checkpoint_every == 0:
                self._log.flush()
                self._save()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_) -> None:
        for file in (self._log, self._board):
            if file is not None:
                with suppress(OSError):  # a full disk, which has been reported; what is lost lies after the checkpoint
                    file.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(f"cannot write to {self.folder}: {error}; {self._kept()}. Free some space and --resume") from error

    def _skip(self, skipped: list[str]) -> None:
        self.skipped += len(skipped)
        if skipped:
            with self._writing(), (self.folder / "skipped.txt").open("a") as file:
                file.writelines(f"{why}\n" for why in skipped)

    def _kept(self) -> str:
        return f"{self.checkpoint} holds step {self._saved}" if self._saved else "there is no checkpoint yet"

    def _save(self) -> None:
        part = self.checkpoint.with_suffix(".part")
        try:
            state = {name: module.state_dict() for name, module in self.parts.items()}
            torch.save({**state, "step": self.step, "settings": self.settings}, part)
            os.replace(part, self.checkpoint)
        except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
            part.unlink(missing_ok=True)
            raise OSError(f"the checkpoint could not be written ({error})") from error
        self._saved = self.step

    def _restore(self) -> None:
        state = torch.load(self.checkpoint, map_location=self.world.device, weights_only=True)
        there, here = state.get("settings", {}), json.loads(json.dumps(self.settings))
        different = sorted(key for key in {*there, *here} if there.get(key) != here.get(key))
        if different:
            there, here = ({key: values.get(key) for key in different} for values in (there, here))
            raise InputError(f"{self.checkpoint} belongs to another run: {there} there, {here} here")
        for name, module in self.parts.items():
            module.load_state_dict(state[name])
        self.step = state["step"]

    def _drop_log_after(self, step: int) -> None:
        """Remove log lines of steps that were taken after the checkpoint and are taken again."""
        path = self.folder / "log.jsonl"
        if path.exists():
            lines = [line for line in path.read_text().splitlines() if line.endswith("}") and json.loads(line)["step"] <= step]
            path.write_text("".join(f"{line}\n" for line in lines))


def _one_thread(_: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
