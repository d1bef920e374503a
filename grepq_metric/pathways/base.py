"""What the pathways of a metric have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from grepq_metric.errors import InputError

FEATURE_KINDS = ("score", "clip", "semantic", "patches", "image", "decoder")
"""Kinds of features, in the order in which they are joined: the zero-shot score; CLIP's embedding; moments of the semantic
pathway's maps; the low-level features summed up over patches, or of the whole image, as in the paper; and what the decoder
pathway gives its head."""


class Pathway(nn.Module, ABC):
    """One of the pathways of which a score is the sum.

    Its constants are a frozen dataclass, so that nothing that changes a score can change without the id of the weights.

    Attributes:
        name: ``low``, ``semantic``, ``high`` or ``decoder``; the key of its quality among the parts of a score.
        best: least upper bound of its quality.
        kinds: of features that it gives, some of `FEATURE_KINDS`, the best first; beside them, all give their part of the
            score.
    """

    name: ClassVar[str]
    best: ClassVar[float]
    kinds: ClassVar[tuple[str, ...]]

    def __init__(self, config: Any) -> None:
        super().__init__()
        self._config = config

    @property
    def config(self) -> Any:
        """The constants, which can't be changed: build another pathway for other ones."""
        return self._config

    def __setattr__(self, name: str, value: Any) -> None:
        config = self.__dict__.get("_config")
        if config is not None and (name in ("config", "_config") or name in {field.name for field in fields(config)}):
            raise AttributeError(
                f"{name} is frozen: load the weights with another one, GRepQ.from_pretrained(..., {name}=...)"
            )
        super().__setattr__(name, value)

    def train(self, mode: bool = True) -> Pathway:
        """Stay in evaluation mode: batch statistics would change what a score means, and in a graph nobody would notice."""
        return super().train(False)

    @abstractmethod
    def parts(self, x: Tensor, *, patches: int | None = None, checkpoint: bool = True) -> dict[str, Tensor]:
        """What this pathway adds to a score, for images ``(N, 3, H, W)`` in [0, 1].

        Args:
            x: the images.
            patches: take as many patches of each image at most, drawn at random, where the pathway has patches.
            checkpoint: where gradients flow, compute activations twice and keep few of them, where the pathway can.

        Returns:
            ``quality``: ``(N,)``, higher is better, below `best`; and whatever else the pathway measures, ``(N,)`` each.
        """

    @abstractmethod
    def features(self, x: Tensor, kinds: Collection[str]) -> dict[str, Tensor]:
        """Features of images ``(N, 3, H, W)`` in [0, 1], by kind: those of `kinds` that this pathway has.

        Returns:
            ``(N, C)`` for each of its own `kinds`; ``score``: ``(N,)``, its quality.
        """

    @abstractmethod
    def feature_blocks(self, kind: str) -> tuple[int, ...]:
        """Widths of the blocks of features of one of its `kinds`, whose sum is C: what a head weighs as one."""

    @abstractmethod
    def check(self) -> None:
        """Look at the values that were loaded.

        Raises:
            InputError: there are none: the pathway is only constructed.
            WeightsError: they can't be right; the message names them.
        """


def check_number(name: str, value: Any, least: float, most: float, *, whole: bool = False) -> None:
    """Check one constant.

    Raises:
        InputError: it is no finite number, no whole one where that is needed, or out of its range.
    """
    kind = "a whole number" if whole else "a number"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise InputError(f"{name} must be {kind}, got {value!r:.80}")
    if not least <= value <= most:  # which NaN is not, either
        raise InputError(f"{name} must be {kind} from {least:g} to {most:g}, got {value!r:.80}")


def as_plain(config: Any) -> Any:
    """A config as JSON knows it: dictionaries, lists and numbers."""
    if is_dataclass(config):
        return {field.name: as_plain(getattr(config, field.name)) for field in fields(config)}
    return list(config) if isinstance(config, tuple) else config


def wide(values: Tensor) -> Tensor:
    """Values in float32 at least: moments of numbers of 16 bits would be rounded, and their squares overflow."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
