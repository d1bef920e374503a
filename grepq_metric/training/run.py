"""The files of a training run: settings, log, skipped photos, checkpoints; and how it is stopped and continued."""

from __future__ import annotations

import io
import json
import logging
import math
import pickle
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, TypeVar

import cv2
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from grepq_metric import catalog
from grepq_metric.errors import InputError, TrainingError
from grepq_metric.files import whole_file
from grepq_metric.models import QualityModel, load_model
from grepq_metric.pathways.base import check_number
from grepq_metric.training.distributed import World
from grepq_metric.training.photos import PhotoDataset, collate
from grepq_metric.training.settings import RunOptions
from grepq_metric.weights import CONFIG, TENSORS

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOGGER = logging.getLogger(__name__)
Model = TypeVar("Model", bound=QualityModel)
Parts = Mapping[str, nn.Module | torch.optim.Optimizer]
WEIGHTS = (CONFIG, TENSORS)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended a run after a whole step; the message says what is kept.

    Attributes:
        number: of the signal.
    """

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number


def weights_name(out: str | Path) -> str:
    """Name of weights that are given none: that of their folder, with a dash for what a name can't hold."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(out).resolve().name).strip("-._")[:100] or "weights"


def record(facts: Mapping[str, object], trained_by: str, about: str | None, **others: object) -> dict[str, Any]:
    """Provenance of the weights of a run: who, when, `others`, the run's `facts`, and what the photos are."""
    return {
        "trained_by": trained_by,
        "trained": datetime.now(timezone.utc).date().isoformat(),
        **others,
        **facts,
        **({"about": about} if about else {}),
    }


class Run:
    """A training run on disk, in ``out/training``, that can be stopped at any moment and continued.

    - ``run.json``: settings, photos, seed, versions;
    - ``log.jsonl``: a line a step with loss, learning rate and seconds;
    - ``skipped.txt``: photos that were passed over, and why;
    - ``checkpoint.pt``: the whole state, replaced at once, so that there is always an undamaged one;
    - ``tensorboard/``: the log once more, if asked for.

    In its ``with`` block, Ctrl-C and SIGTERM let the step in hand end, write a checkpoint and raise `Interrupted`; a second
    one ends the process at once. A line at the start and one about where it continues go to the log of this module.

    Args:
        out: folder of the run.
        what: name of what is trained, for the line at the start.
        settings: what the steps depend on; a checkpoint of a run with other settings is refused.
        parts: modules and optimizers by name, the state.
        world: the processes; the first one writes.
        steps: steps of the whole run.
        options: how it is kept.

    Attributes:
        step: steps taken so far.
        facts: `settings` and torch's version, for the record of weights.

    Raises:
        FileExistsError: `out` already holds a run or weights, and `options` allow neither to continue nor to replace them.
        InputError: the checkpoint belongs to a run with other settings, or TensorBoard is asked for and not installed.
    """

    def __init__(
        self,
        out: Path,
        what: str,
        settings: Mapping[str, object],
        parts: Parts,
        world: World,
        steps: int,
        options: RunOptions,
    ) -> None:
        self.out, self.folder = Path(out), Path(out) / "training"
        self.checkpoint = self.folder / "checkpoint.pt"
        self.settings, self.parts, self.world, self.options = dict(settings), parts, world, options
        self.facts = {**settings, "torch": torch.__version__}
        self.step = self.skipped = self._saved = 0
        self.steps, self._end = steps, min(steps, options.stop_after or steps)
        self._log: TextIO | None = None
        self._board: SummaryWriter | None = None
        self._shown: dict[str, str] = {}
        self._signal: int | None = None
        self._whole = True  # no step is half taken
        self._handlers: dict[int, Any] = {}
        self._refuse_what_is_there()
        if options.resume and self.checkpoint.exists():
            self._restore()
        self.finished_before = self.finished
        world.barrier()  # or another process might find the first checkpoint of this very run
        if world.leads:
            self._open()
            self._announce(what)
        self._began = time.monotonic()

    def _refuse_what_is_there(self) -> None:
        options, own = self.options, [self.checkpoint, self.folder / "log.jsonl"]
        if catalog.find(str(self.out)) is not None:
            raise InputError(f"{self.out} is the name of built-in weights: choose another folder")
        there = next((path for path in own if path.exists() and path.stat().st_size), None)
        if there and not options.resume and not options.overwrite:
            raise FileExistsError(
                f"{there} exists: continue that run with resume=True, replace it with overwrite=True, or choose another folder"
            )
        weights = next((self.out / name for name in WEIGHTS if (self.out / name).exists()), None)
        if weights and not there and not options.overwrite:
            raise FileExistsError(
                f"{weights} exists, of weights that no run in this folder has made: choose another folder, or replace them "
                "with overwrite=True"
            )

    def _open(self) -> None:
        if self.options.tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ModuleNotFoundError as error:
                raise InputError('TensorBoard is not installed: pip install "grepq-metric[train]"') from error
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob(".checkpoint-*.part.pt"):  # of a process that was killed while it wrote
            left.unlink()
        if self.options.overwrite and not self.options.resume:
            for path in (self.checkpoint, self.folder / "log.jsonl", self.folder / "skipped.txt"):
                path.unlink(missing_ok=True)
            shutil.rmtree(self.folder / "tensorboard", ignore_errors=True)
        if self.options.tensorboard:
            self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.step + 1)
        machine = {"threads": torch.get_num_threads(), "processes": self.world.size, "device": str(self.world.device)}
        with whole_file(self.folder / "run.json") as part:
            part.write_text(json.dumps({**self.facts, **machine}, indent=2) + "\n")
        self._drop_log_after(self.step)
        self._log = (self.folder / "log.jsonl").open("a")

    def _announce(self, what: str) -> None:
        processes = f"{self.world.size} processes" if self.world.size > 1 else "1 process"
        LOGGER.info(
            f"{what}: {self.settings.get('photos')} photos, {self.steps} steps of {self.settings.get('batch')} photos, "
            f"{self.world.device}, {processes}, {self.settings.get('precision')}"
        )
        if self.finished:
            LOGGER.info(f"finished: all {self.steps} steps have been taken")
        elif self.step:
            LOGGER.info(f"continues after step {self.step} of {self.steps}")
        elif self.options.resume:
            LOGGER.info(f"there is no checkpoint in {self.folder}: starts from step 0")

    @property
    def finished(self) -> bool:
        """Whether all steps of the run are taken."""
        return self.step >= self.steps

    def batches(self, dataset: PhotoDataset, batch: int, workers: int) -> Iterator[tuple[Tensor, ...]]:
        """This process's share of the batches that are still to be learned from, on its device.

        Raises:
            TrainingError: too many photos in a row can't be used, or what the dataset caches can't be written.
            InputError: the batch can't be split between the processes.
        """
        check_number("workers", workers, 0, 1024, whole=True)
        loader = DataLoader(
            dataset,
            sampler=self.world.positions(self.step, self._end, batch),
            batch_size=self.world.share(batch),
            collate_fn=collate,
            num_workers=workers,
            worker_init_fn=_set_up_worker,
            prefetch_factor=3 if workers else None,
        )
        with tqdm(initial=self.step, total=self.steps, unit="step", dynamic_ncols=True, disable=not self.world.leads) as bar:
            for sample in loader:
                self._skip(sample.skipped)
                if sample.error:
                    raise TrainingError(f"{sample.error}; {self._kept()}")
                tensors = tuple(tensor.to(self.world.device) for tensor in sample.tensors)
                self._whole = False
                yield tensors
                bar.set_postfix({**self._shown, "skipped": self.skipped})
                bar.update()

    def learn(self, loss: Tensor, optimizer: torch.optim.Optimizer, lr: float, **values: float) -> None:
        """Take a step of an optimizer; the log gets `loss`, `lr` and `values`. Errors as in `taking`."""
        with self.taking("loss", loss, lr=lr, **values):
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    @contextmanager
    def taking(self, name: str, measured: Tensor, **values: float) -> Iterator[None]:
        """The ``with`` block takes a step; then it is recorded, and a checkpoint is written when one is due.

        Args:
            name: of what is measured.
            measured: scalar; where its mean over the processes is not finite, the block is not entered.
            values: what else the log gets.

        Raises:
            TrainingError: `measured` is not finite; the state is as it was.
            OSError: the disk is full or the folder can't be written; the last checkpoint is whole.
            Interrupted: this or another process got a signal.
        """
        # All processes stop at one step: they would wait for each other for ever.
        signalled = measured.new_tensor(float(self._signal is not None))
        value, stop = self.world.mean(torch.stack([measured, signalled])).tolist()
        if not math.isfinite(value):
            raise TrainingError(
                f"the {name} is {value} at step {self.step + 1}; {self._kept()}. Try a lower lr, or precision='fp32'"
            )
        yield
        self.step += 1
        self._shown = {name: f"{value:.4f}"}
        if self._log is not None:
            entry = {"step": self.step, name: value, **values, "seconds": round(time.monotonic() - self._began, 2)}
            with self._writing():
                self._log.write(json.dumps(entry) + "\n")
                if self._board is not None:
                    for key in (name, *values):
                        self._board.add_scalar(key, entry[key], self.step)
                if self.step == self._end or self.step % self.options.checkpoint_every == 0:
                    self._save()
        self._whole = True
        if stop or (self._signal is not None and self.world.size == 1):
            raise KeyboardInterrupt

    def weights(self, finish: Callable[[], Model]) -> Model | None:
        """The weights that the run ends with.

        Args:
            finish: makes them; they are then saved.

        Returns:
            None in a process that does not lead and of a run that is not finished. Of one that was finished before, the
            weights as they are in its folder, unless `RunOptions.overwrite` is set: they may have got other statistics since.
        """
        if not self.world.leads or not self.finished:
            return None
        if self.finished_before and not self.options.overwrite and all((self.out / name).exists() for name in WEIGHTS):
            kept: Any = load_model(self.out)
            if all(kept.provenance.get(key) == value for key, value in self.settings.items()):  # not what was there before
                LOGGER.info(f"the weights in {self.out} stay as they are; overwrite=True makes them anew")
                return kept.to(self.world.device)
        model = finish()
        model.save_pretrained(self.out)
        return model

    def __enter__(self) -> Run:
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(ValueError):  # not the main thread, which alone gets signals
                self._handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._restore_handlers()
        # A worker that the signal reached, too, may end the loop by a RuntimeError of torch's loader.
        stopped = isinstance(error, KeyboardInterrupt) or (isinstance(error, RuntimeError) and self._signal is not None)
        try:
            if stopped and self._whole:
                self._interrupt(error)
        finally:
            for file in (self._log, self._board):
                if file is not None:
                    with suppress(OSError):  # a full disk, which has been reported; what is lost lies after the checkpoint
                        file.close()

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._signal = number
        self._restore_handlers()
        if self._whole and self.world.size == 1:
            raise KeyboardInterrupt
        LOGGER.warning("stopping after this step; a second signal ends at once, and loses what is after the last checkpoint")

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _interrupt(self, error: BaseException | None) -> NoReturn:
        if self._log is not None and self.step > self._saved:
            with self._writing():
                self._save()
        number = self._signal or signal.SIGINT
        kept = self._kept() if self.world.leads else "the first process keeps the checkpoint"
        raise Interrupted(f"interrupted after step {self.step} of {self.steps}; {kept}", number) from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(f"{error.strerror or error}; {self._kept()}. Then continue with resume=True") from error

    def _skip(self, skipped: list[str]) -> None:
        self.skipped += len(skipped)
        if skipped:
            with self._writing(), (self.folder / "skipped.txt").open("a") as file:
                file.writelines(f"{why}\n" for why in skipped)

    def _kept(self) -> str:
        return f"{self.checkpoint} holds step {self._saved}" if self._saved else "there is no checkpoint yet"

    def _save(self) -> None:
        if self._log is not None:
            self._log.flush()
        state = {name: part.state_dict() for name, part in self.parts.items()}
        content = io.BytesIO()  # of a file that can't be written, torch raises RuntimeError and does not say why
        torch.save({**state, "step": self.step, "settings": self.settings}, content)
        with whole_file(self.checkpoint) as part:
            part.write_bytes(content.getbuffer())
        self._saved = self.step

    def _restore(self) -> None:
        try:
            state = torch.load(self.checkpoint, map_location=self.world.device, weights_only=True)
            there, step = dict(state["settings"]), int(state["step"])
        except pickle.UnpicklingError as error:  # whose text advises to run the code
            raise TrainingError(f"{self.checkpoint} is damaged or holds more than tensors: restore or delete it") from error
        except (RuntimeError, ValueError, TypeError, KeyError, EOFError) as error:
            raise TrainingError(f"{self.checkpoint} is damaged ({error}): restore or delete it, or start anew") from error
        here = json.loads(json.dumps(self.settings))
        different = sorted(key for key in {*there, *here} if there.get(key) != here.get(key))
        if different:
            there, here = ({key: values.get(key) for key in different} for values in (there, here))
            raise InputError(f"{self.checkpoint} belongs to another run: {there} there, {here} here")
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.step = self._saved = step

    def _drop_log_after(self, step: int) -> None:
        """Remove log lines of steps that were taken after the checkpoint and are taken again."""
        path = self.folder / "log.jsonl"
        if path.exists():
            lines = [line for line in path.read_text().splitlines() if line.endswith("}") and json.loads(line)["step"] <= step]
            with whole_file(path) as part:
                part.write_text("".join(f"{line}\n" for line in lines))


def _set_up_worker(_: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):  # the main process stops the run, and then its workers
        signal.signal(number, signal.SIG_IGN)
