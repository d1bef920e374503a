"""FSIM between all versions of one content, and the contrastive weights made of it.

FSIM and FSIMc: Zhang, Zhang, Mou, Zhang, "FSIM: A Feature Similarity Index for Image Quality Assessment" (IEEE TIP 2011), with
its authors' constants. Phase congruency: Kovesi, "Image Features from Phase Congruency" (Videre 1999), with log-Gabor filters.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
SCHARR = ((-3 / 16, 0.0, 3 / 16), (-10 / 16, 0.0, 10 / 16), (-3 / 16, 0.0, 3 / 16))
SCALES, ORIENTATIONS = 4, 4
SHORTEST, GROWTH = 6, 2
"""Wavelength of the finest filter in pixels, and by how much that of the next coarser one is longer."""
BANDWIDTH = 0.55
"""Ratio of a filter's radial deviation to its centre frequency."""
SPREAD = math.pi / (ORIENTATIONS * 1.2)
"""Angular deviation of a filter."""
NOISE_DEVIATIONS = 2.0
"""The energy of noise counts as its mean plus as many deviations."""
NOISE_RESCALING = 1.7
"""The estimate of noise is made for another measure of congruency, and too high for this one by about this factor."""
C_CONGRUENCY, C_GRADIENT, C_CHROMA, CHROMA_POWER = 0.85, 160.0, 200.0, 0.03
EPS = torch.finfo(torch.float32).eps


@torch.inference_mode()
def pairwise_fsim(versions: Tensor, chromatic: bool = False) -> Tensor:
    """FSIM between every two versions of one content.

    Computes the phase congruency, nearly all of the cost, once for each version and not once for each pair.

    Args:
        versions: ``(D, 3, H, W)`` float32 RGB in [0, 1].
        chromatic: FSIMc, which also compares the chroma channels.

    Returns:
        ``(D, D)`` symmetric similarities, 1 on the diagonal.

    Examples:
        >>> import torch
        >>> from grepq_metric.training.similarity import pairwise_fsim
        >>> photo = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
        >>> pairwise_fsim(torch.stack([photo, photo / 2, photo.square()])).shape
        torch.Size([3, 3])
    """
    x = versions * 255
    x = F.avg_pool2d(x, max(1, round(min(x.shape[-2:]) / 256)))
    yiq = torch.einsum("kc,dchw->dkhw", x.new_tensor(YIQ), x)
    scharr = x.new_tensor(SCHARR)
    slopes = F.conv2d(yiq[:, :1], torch.stack([scharr, scharr.mT]).unsqueeze(1), padding=1)
    gradient = (slopes.square().sum(1, keepdim=True) + EPS).sqrt()
    congruency = phase_congruency(yiq[:, :1])
    similarity = torch.ones(len(x), len(x), device=x.device)
    for k in range(len(x) - 1):
        rest = slice(k + 1, None)
        importance = torch.maximum(congruency[k : k + 1], congruency[rest])
        local = importance * _alike(congruency[k : k + 1], congruency[rest], C_CONGRUENCY)
        local = local * _alike(gradient[k : k + 1], gradient[rest], C_GRADIENT)
        if chromatic:
            chroma = _alike(yiq[k : k + 1, 1:], yiq[rest, 1:], C_CHROMA)
            local = local * chroma.prod(1, keepdim=True).abs() ** CHROMA_POWER
        value = local.sum((1, 2, 3)) / importance.sum((1, 2, 3))
        similarity[k, rest] = similarity[rest, k] = value
    return similarity


def phase_congruency(x: Tensor) -> Tensor:
    """How much the frequencies at each pixel agree in their phase, as they do at edges and lines, whatever their contrast.

    Args:
        x: ``(N, 1, H, W)`` brightness from 0 to 255.

    Returns:
        ``(N, 1, H, W)`` in [0, 1].
    """
    bank = _filter_bank(*x.shape[-2:])
    spectrum = torch.fft.fft2(x)
    energy, amplitude = torch.zeros_like(x), torch.zeros_like(x)
    for filters, noise_gain in zip(bank.filters.to(x.device), bank.noise_gain.tolist(), strict=True):
        # Real part: response of the even filter; imaginary part: of the odd one. (N, SCALES, H, W)
        response = torch.fft.ifft2(spectrum * filters)
        strength = response.abs()
        amplitude += strength.sum(1, keepdim=True)
        total = response.sum(1, keepdim=True)
        mean_phase = total / (total.abs() + EPS)
        turned = response * mean_phase.conj()
        in_phase = (turned.real - turned.imag.abs()).sum(1, keepdim=True)
        # The finest filter sees mostly noise, whose squared response has a Rayleigh distribution; the median is robust.
        noise = strength[:, :1].square().flatten(2).median(-1).values.sqrt().view(-1, 1, 1, 1)
        energy += (in_phase - noise_gain * noise).clamp_min(0)
    return (energy + EPS) / (amplitude + EPS)


class _FilterBank(NamedTuple):
    """Log-Gabor filters of one image size.

    Attributes:
        filters: ``(ORIENTATIONS, SCALES, H, W)`` in the frequency domain, zero frequency first.
        noise_gain: ``(ORIENTATIONS,)`` energy below which a response is taken for noise, by the noise's own strength.
    """

    filters: Tensor
    noise_gain: Tensor


@lru_cache(maxsize=4)
def _filter_bank(height: int, width: int) -> _FilterBank:
    # The authors' grid: of an odd number of frequencies, the outer ones are at half a cycle a pixel, too.
    rows, columns = (
        (torch.fft.ifftshift(torch.arange(n) - n // 2) / (n - n % 2 if n > 1 else 1)).view(shape)
        for n, shape in ((height, (-1, 1)), (width, (1, -1)))
    )
    radius = (rows.square() + columns.square()).sqrt()
    radius[0, 0] = 1  # the mean, which no filter lets through
    angle = torch.atan2(-columns.expand_as(radius), rows.expand_as(radius))
    corners = 1 / (1 + (radius / 0.45) ** 30)  # a Butterworth low-pass filter, which makes the corners no special direction
    radial = []
    for scale in range(SCALES):
        octaves = (radius * (SHORTEST * GROWTH**scale)).log()
        band = corners * torch.exp(-octaves.square() / (2 * math.log(BANDWIDTH) ** 2))
        band[0, 0] = 0
        radial.append(band)
    angular = []
    for orientation in range(ORIENTATIONS):
        away = (angle - orientation * math.pi / ORIENTATIONS + math.pi).remainder(2 * math.pi) - math.pi
        angular.append(torch.exp(-away.square() / (2 * SPREAD**2)))
    filters = torch.stack(angular).unsqueeze(1) * torch.stack(radial)

    # White noise of a given power has in the sum over scales the power of the even filters' sum, by Parseval's theorem, and at
    # the finest scale that of the filter. Mean and deviation of its amplitude are those of a Rayleigh distribution.
    summed = filters.double().sum(1)
    mirrored = summed.flip(1, 2).roll((1, 1), (1, 2))
    even = ((summed + mirrored) / 2).square().sum((1, 2))
    finest = filters[:, 0].double().square().sum((1, 2))
    amplitude = math.sqrt(math.pi / 2) + NOISE_DEVIATIONS * math.sqrt(2 - math.pi / 2)
    return _FilterBank(filters, (even / finest / math.log(2)).sqrt() * amplitude / NOISE_RESCALING)


def _alike(a: Tensor, b: Tensor, constant: float) -> Tensor:
    return (2 * a * b + constant) / (a.square() + b.square() + constant + EPS)


def contrastive_weights(similarity: Tensor, power: float = 1.0) -> Tensor:
    """Weights a = (2 - 2 / (1 + s^2))^power of FSIM values s, in [0, 1] for s in [0, 1].

    The paper's have a power of 1 (low-level pathway); a larger one tells apart versions that FSIM finds alike.
    """
    return (2 - 2 / (1 + similarity**2)) ** power
