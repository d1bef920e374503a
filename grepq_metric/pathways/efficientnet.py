"""EfficientNet-Lite as a function from images to the maps of its stages.

The networks, names of tensors and results are those of timm's ``tf_efficientnet_lite0`` to ``lite4``. It is not timm's code
because importing timm takes longer than importing PyTorch, and a first score would wait for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

SCALES = {
    "tf_efficientnet_lite0": (1.0, 1.0),
    "tf_efficientnet_lite1": (1.0, 1.1),
    "tf_efficientnet_lite2": (1.1, 1.2),
    "tf_efficientnet_lite3": (1.2, 1.4),
    "tf_efficientnet_lite4": (1.4, 1.8),
}
"""Multiples of the width and of the depth by architecture."""
STRIDES = (2, 4, 8, 16, 32)
"""Of the maps at the ends of the stages."""
ENDS = (0, 1, 2, 4, 6)
"""Groups of blocks that end a stage: those before each halving of the resolution, and the last one."""
_STEM = 32
# Kernel, stride, expansion, channels and blocks of each group, before scaling (Tan and Le, 2019, table 1).
_GROUPS = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_EPS = 1e-3


class EfficientNetLite(nn.Module):
    """The network up to its last block, without the layers that classify.

    Args:
        architecture: a key of `SCALES`.

    Attributes:
        channels: of the maps at the end of each stage.
    """

    def __init__(self, architecture: str) -> None:
        super().__init__()
        width, deeper = SCALES[architecture]
        self.conv_stem = _SameConv(3, _STEM, 3, 2)
        self.bn1 = nn.BatchNorm2d(_STEM, _EPS)
        groups, before, ends = [], _STEM, []
        for number, (kernel, stride, expansion, channels, depth) in enumerate(_GROUPS):
            after = _scaled(channels, width)
            repeats = depth if number in (0, len(_GROUPS) - 1) else math.ceil(depth * deeper)
            blocks = [_Block(before, after, kernel, stride, expansion)]
            blocks += [_Block(after, after, kernel, 1, expansion) for _ in range(repeats - 1)]
            groups.append(nn.Sequential(*blocks))
            before = after
            if number in ENDS:
                ends.append(after)
        self.blocks = nn.Sequential(*groups)
        self.channels = tuple(ends)

    def forward(self, x: Tensor, run: Callable[[Step, Tensor], Tensor] | None = None) -> list[Tensor]:
        """Maps at the ends of stages: ``(N, 3, H, W)`` in [-1, 1] -> ``(N, c, ceil(H / stride), ceil(W / stride))`` each.

        Args:
            x: the images.
            run: computes a step of the network from the map before, where `Step.run` alone is not to do so.
        """
        maps = []
        for group, steps in enumerate(self.steps()):
            for step in steps:
                x = run(step, x) if run else step.run(x)
            if group in ENDS:
                maps.append(x)
        return maps

    def steps(self) -> Iterator[list[Step]]:
        """What is computed one after the other to the end of each group of blocks."""
        for group, blocks in enumerate(self.blocks.children()):
            found = [
                Step(block, block.conv_dw.stride[0], _reach(block), block.conv_dw.in_channels)
                for block in blocks.children()
                if isinstance(block, _Block)
            ]
            if group == 0:  # joined: the map between is the largest
                stem = self.conv_stem
                found = [Step(self._begin, 2, _reach(stem) + 2 * found[0].reach, stem.out_channels // 4)]
            yield found

    def _begin(self, x: Tensor) -> Tensor:
        return self.blocks[0](F.relu6(self.bn1(self.conv_stem(x)), inplace=True))


@dataclass(frozen=True)
class Step:
    """A part of the network that has no map between that is worth keeping.

    Attributes:
        run: ``(N, C, H, W)`` -> ``(N, c, ceil(H / stride), ceil(W / stride))``.
        stride: 1 or 2.
        reach: rows of its input that an output sees on one side, at most.
        width: channels of its widest map, times the share of the input's pixels that the map has.
    """

    run: Callable[[Tensor], Tensor]
    stride: int
    reach: int
    width: int


class _SameConv(nn.Conv2d):
    """Convolution with TensorFlow's padding: outputs of ceil(side / stride), an odd pixel of padding at the far side."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels, out, kernel, stride, kernel // 2 if stride == 1 else 0, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] > 1:
            rows, columns = (self.kernel_size[0] - 2 + side % 2 for side in x.shape[-2:])
            x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        return super().forward(x)


class _Block(nn.Module):
    """A depthwise convolution between pointwise ones; without expansion there is none before it."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels * expansion
        depthwise, last = _SameConv(inner, inner, kernel, stride, groups=inner), _SameConv(inner, out, 1)
        if expansion == 1:
            self.conv_dw, self.bn1 = depthwise, nn.BatchNorm2d(inner, _EPS)
            self.conv_pw, self.bn2 = last, nn.BatchNorm2d(out, _EPS)
        else:
            self.conv_pw, self.bn1 = _SameConv(channels, inner, 1), nn.BatchNorm2d(inner, _EPS)
            self.conv_dw, self.bn2 = depthwise, nn.BatchNorm2d(inner, _EPS)
            self.conv_pwl, self.bn3 = last, nn.BatchNorm2d(out, _EPS)
        self.expanded = expansion > 1
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        if self.expanded:
            y = F.relu6(self.bn1(self.conv_pw(x)), inplace=True)
            y = F.relu6(self.bn2(self.conv_dw(y)), inplace=True)
            y = self.bn3(self.conv_pwl(y))
        else:
            y = F.relu6(self.bn1(self.conv_dw(x)), inplace=True)
            y = self.bn2(self.conv_pw(y))
        return x + y if self.residual else y


def _reach(layers: nn.Module) -> int:
    """Of convolutions of which at most one has a kernel above 1."""
    kernel, stride = max((layer.kernel_size[0], layer.stride[0]) for layer in layers.modules() if isinstance(layer, _SameConv))
    return kernel - 1 if stride > 1 else kernel // 2


def _scaled(channels: int, width: float) -> int:
    """Channels times a width, rounded to a multiple of 8 that is at least 0.9 of it."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded
