"""Networks as they are scored fastest: batch normalisation folded into convolutions, channels last, one type throughout."""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Network = TypeVar("Network", bound=nn.Module)


class Folding:
    """Keeps the folded copy of a network, and makes another one when the network's values have changed."""

    def __init__(self) -> None:
        self._made: tuple[list[object], nn.Module] | None = None

    def __reduce__(self) -> tuple[type[Folding], tuple[()]]:
        return Folding, ()  # the copy is made again: it is no part of a model

    def __call__(self, network: Network, x: Tensor) -> tuple[Network, torch.dtype]:
        """The network by which images are scored fastest.

        Args:
            network: in evaluation mode.
            x: images, on its device.

        Returns:
            The network itself where gradients may flow or a graph is made, which is to hold its own values; else its folded
            copy. Also the type of the images that it is to be given: under autocast that of the latter, which would else cast
            all values in each call.
        """
        values = [*network.parameters(), *network.buffers()]
        learning = torch.is_grad_enabled() and (x.requires_grad or any(value.requires_grad for value in values))
        # Nobody counts the changes of inference tensors.
        if learning or in_graph() or any(value.is_inference() for value in values):
            return network, x.dtype
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        # A tensor that was changed in place has another version, and one that was replaced another address.
        state = [dtype, *((value.data_ptr(), value._version) for value in values)]
        if self._made is None or self._made[0] != state:
            with torch.inference_mode(False), torch.no_grad():
                self._made = state, folded(network, dtype)
        return self._made[1], dtype  # type: ignore[return-value]


def in_graph() -> bool:
    """Whether PyTorch is compiling, tracing or exporting."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def folded(network: Network, dtype: torch.dtype) -> Network:
    """A copy with each batch normalisation made part of the convolution before it: the same function but for rounding.

    Args:
        network: in which a batch normalisation stands after the convolution whose maps it normalises, as in torchvision's,
            timm's and open_clip's.
        dtype: of the copy. Values are multiplied in float32 at least, and rounded once.
    """
    copy = deepcopy(network).to(torch.promote_types(dtype, torch.float32)).eval()
    for parent in list(copy.modules()):
        for (name, layer), (follower, norm) in pairwise(list(parent.named_children())):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(layer, norm))
                setattr(parent, follower, nn.Identity())
    return copy.to(dtype=dtype, memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]
