"""Several processes that train together, as torchrun and accelerate launch start them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as differentiable
from torch import Tensor, nn

from grepq_metric.devices import usable_device
from grepq_metric.errors import InputError


class World:
    """The processes of a run. One that nothing has launched is a world of its own.

    Args:
        device: torch device; ``cuda`` is each process's own; None: cuda if there is one, else the CPU.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        device: device of this process.

    Raises:
        InputError: the device is not there, or has no float64, which distances need, or what the launcher has set is no
            number.
    """

    def __init__(self, device: str | torch.device | None = None) -> None:
        self.rank, self.size = _launched("RANK", 0), _launched("WORLD_SIZE", 1)
        self.device = usable_device(device)
        if self.size > 1 and self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", _launched("LOCAL_RANK", 0))

    @property
    def leads(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    @contextmanager
    def joined(self, timeout: timedelta | None = None) -> Iterator[World]:
        """Hold the process group, NCCL on CUDA and Gloo elsewhere, for the time of a run.

        `timeout` is how long processes wait for each other, torch's default if it is None.
        """
        if self.size == 1 or dist.is_initialized():
            yield self
            return
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo", timeout=timeout)
        try:
            yield self
        finally:
            dist.destroy_process_group()

    def share(self, batch: int) -> int:
        """Samples of a step that are this process's.

        Raises:
            InputError: the batch can't be split evenly.
        """
        if batch % self.size:
            raise InputError(f"a batch of {batch} can't be split between {self.size} processes: choose a multiple of them")
        return batch // self.size

    def positions(self, start: int, end: int, batch: int) -> Iterable[int]:
        """Positions in the run of this process's samples of steps `start` to `end`."""
        return Positions(start, end, batch, self.rank * self.share(batch), self.share(batch))

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network with averaged gradients, and batch statistics over all processes."""
        if self.size == 1:
            return network
        convert = nn.SyncBatchNorm.convert_sync_batchnorm if self.device.type == "cuda" else _synchronised
        network = convert(network)
        return nn.parallel.DistributedDataParallel(network, broadcast_buffers=False)

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a tensor over the processes."""
        if self.size == 1:
            return value.detach()
        value = value.detach().clone()
        dist.all_reduce(value)
        return value / self.size

    def gather(self, value: Tensor) -> Tensor:
        """The tensors of all processes, of equal shapes, one after the other along the first axis; gradients flow back."""
        return value if self.size == 1 else torch.cat(differentiable.all_gather(value.contiguous()))

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()


@dataclass(frozen=True)
class Positions:
    """Positions of `share` samples of each step, from the one numbered `first` in its batch; not a list, runs are long."""

    start: int
    end: int
    batch: int
    first: int
    share: int

    def __iter__(self) -> Iterator[int]:
        for step in range(self.start, self.end):
            yield from range(step * self.batch + self.first, step * self.batch + self.first + self.share)

    def __len__(self) -> int:
        return max(self.end - self.start, 0) * self.share


def _launched(variable: str, default: int) -> int:
    """What torchrun or accelerate has set in the environment."""
    text = os.environ.get(variable, str(default))
    if not text.isdecimal():
        raise InputError(f"the environment's {variable} must be a whole number, got {text!r}")
    return int(text)


def _synchronised(module: nn.Module) -> nn.Module:
    """The network with the same tensors, in which each batch normalisation is one over all processes.

    It is changed in place but for a network that is itself one batch normalisation.
    """
    if type(module) is nn.BatchNorm2d:
        return _SyncBatchNorm.of(module)
    for name, child in module.named_children():
        module.add_module(name, _synchronised(child))
    return module


class _SyncBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over the samples of all processes. torch's own works on CUDA only."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> _SyncBatchNorm:
        """One with the very parameters and buffers of `norm`, an affine one with running statistics."""
        made = cls(norm.num_features, norm.eps, norm.momentum, device="meta").train(norm.training)
        made.weight, made.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            setattr(made, name, buffer)
        return made

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        size = dist.get_world_size()
        moments = torch.stack([x.float().mean((0, 2, 3)), x.float().square().mean((0, 2, 3))])
        mean, square = differentiable.all_reduce(moments) / size
        variance = square - mean.square()
        with torch.no_grad():
            count = size * x.numel() // x.shape[1]
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (x * scale.view(-1, 1, 1) + (self.bias - mean * scale).view(-1, 1, 1)).to(x.dtype)
