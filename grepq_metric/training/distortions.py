"""Synthetic distortions with five levels each, for training the low-level encoder.

A distortion takes an 8-bit RGB image ``(H, W, 3)`` and returns one of the same shape. Level 1 is barely visible, level 5 is
severe. `DISTORTIONS` is the registry; add to it with the `distortion` decorator.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

Array = np.ndarray
LEVELS = 5
DISTORTIONS: dict[str, Distortion] = {}


@dataclass(frozen=True)
class Distortion:
    """One entry of the registry: strengths for levels 1 to 5; a signed one goes either way (darker or brighter)."""

    name: str
    function: Callable[[Array, float, np.random.Generator], Array]
    strengths: tuple[float, ...]
    signed: bool = False

    def __call__(self, image: Array, level: int, seed: int = 0) -> Array:
        """Distort `image` at `level` (1 to 5). Equal seeds give equal results, and one direction at all levels."""
        if not 1 <= level <= LEVELS:
            raise ValueError(f"level of {self.name} must be 1 to {LEVELS}, got {level}")
        strength = self.strengths[level - 1]
        if self.signed and np.random.default_rng(seed).random() < 0.5:
            strength = -strength
        return self.function(image, strength, np.random.default_rng([seed, level]))


def distortion(*strengths: float, signed: bool = False):
    """Register a function ``(image, strength, rng) -> image`` under its own name, with one strength for each level."""
    if len(strengths) != LEVELS:
        raise ValueError(f"a distortion needs {LEVELS} strengths, got {len(strengths)}")

    def register(function):
        name = function.__name__
        DISTORTIONS[name] = Distortion(name, function, strengths, signed)
        return function

    return register


def _to_uint8(image: Array) -> Array:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _lookup(image: Array, curve: Callable[[Array], Array]) -> Array:
    """Apply a tone curve on [0, 1] to every value."""
    return _to_uint8(255 * curve(np.arange(256) / 255))[image]


def _recode(image: Array, **options) -> Array:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, **options)
    stream.seek(0)
    return np.asarray(Image.open(stream).convert("RGB"))


@distortion(0.8, 1.2, 1.8, 2.8, 4.5)
def gaussian_blur(image, sigma, rng):
    """Gaussian blur; strength: sigma in pixels."""
    return cv2.GaussianBlur(image, (0, 0), sigma)


@distortion(1.2, 2, 3, 4.5, 7)
def lens_blur(image, radius, rng):
    """Defocus, a disk; strength: radius in pixels."""
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1)
    return cv2.filter2D(image, -1, disk / disk.sum(), borderType=cv2.BORDER_REFLECT_101)


@distortion(4, 7, 11, 17, 26)
def motion_blur(image, length, rng):
    """A straight camera shake in a random direction; strength: length in pixels."""
    size = 2 * int(length / 2) + 3
    angle = rng.uniform(0, np.pi)
    kernel = np.zeros((size, size), np.float32)
    step = np.array([np.cos(angle), np.sin(angle)]) * (length - 1) / 2
    start, end = (tuple(int(v * 16) for v in size // 2 + sign * step) for sign in (-1, 1))
    cv2.line(kernel, start, end, 1.0, 1, cv2.LINE_AA, shift=4)
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)


@distortion(50, 30, 18, 10, 5)
def jpeg(image, quality, rng):
    """JPEG compression; strength: quality."""
    return _recode(image, format="JPEG", quality=int(quality))


@distortion(20, 40, 75, 130, 230)
def jpeg2000(image, ratio, rng):
    """JPEG 2000 compression; strength: compression ratio."""
    return _recode(image, format="JPEG2000", quality_mode="rates", quality_layers=[ratio])


@distortion(40, 20, 10, 4, 0)
def webp(image, quality, rng):
    """WebP compression; strength: quality."""
    return _recode(image, format="WEBP", quality=int(quality), method=2)


@distortion(5, 10, 17, 28, 45)
def white_noise(image, sigma, rng):
    """White Gaussian noise in each channel; strength: standard deviation of 255."""
    return _to_uint8(image + sigma * rng.standard_normal(image.shape, np.float32))


@distortion(8, 15, 25, 40, 60)
def chroma_noise(image, sigma, rng):
    """Blotchy colour noise of a sensor; strength: standard deviation of 255 in Cb and Cr."""
    ycc = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb).astype(np.float32)
    # Sensor colour noise is blotchy: demosaicing spreads it over a few pixels.
    noise = cv2.GaussianBlur(rng.standard_normal((*image.shape[:2], 2), np.float32), (0, 0), 1.0)
    ycc[..., 1:] += sigma * noise / noise.std()
    return cv2.cvtColor(_to_uint8(ycc), cv2.COLOR_YCrCb2RGB)


@distortion(0.003, 0.01, 0.025, 0.06, 0.14)
def impulse_noise(image, share, rng):
    """Salt-and-pepper noise in each channel; strength: share of values that are hit."""
    hit = rng.random(image.shape, np.float32)
    return np.where(hit < share / 2, 0, np.where(hit > 1 - share / 2, 255, image)).astype(np.uint8)


@distortion(0.06, 0.11, 0.19, 0.32, 0.5)
def speckle_noise(image, sigma, rng):
    """Noise in proportion to the signal; strength: standard deviation of the factor."""
    return _to_uint8(image * (1 + sigma * rng.standard_normal(image.shape, np.float32)))


@distortion(0.4, 0.8, 1.3, 1.9, 2.6, signed=True)
def exposure(image, stops, rng):
    """Gain in linear light, as a shutter would give it, with clipped highlights; strength: stops."""
    return _lookup(image, lambda v: np.minimum(v**2.2 * 2.0**stops, 1) ** (1 / 2.2))


@distortion(0.2, 0.35, 0.5, 0.65, 0.8, signed=True)
def contrast(image, strength, rng):
    """Gain about the mean; strength: how much of the contrast is taken, or put on top if negative."""
    gain = 1 - strength if strength > 0 else 1 / (1 + strength)
    mean = image.mean() / 255
    return _lookup(image, lambda v: mean + gain * (v - mean))


@distortion(0.3, 0.5, 0.7, 0.85, 1.0, signed=True)
def saturation(image, strength, rng):
    """Gain of the chroma; strength: how much of it is taken, or a third of what is put on top if negative."""
    gain = 1 - strength if strength > 0 else 1 - 3 * strength
    grey = image @ np.array([0.299, 0.587, 0.114], np.float32)
    return _to_uint8(grey[..., None] + gain * (image - grey[..., None]))


@distortion(0.08, 0.15, 0.25, 0.38, 0.55, signed=True)
def colour_cast(image, strength, rng):
    """A wrong white balance, red against blue; strength: relative gain."""
    return _to_uint8(image * np.array([1 + strength, 1, 1 - strength], np.float32))


@distortion(1.5, 2, 3, 4.5, 7)
def downsampling(image, factor, rng):
    """Down by area and up again bicubically; strength: factor."""
    height, width = image.shape[:2]
    small = (max(round(width / factor), 1), max(round(height / factor), 1))
    return cv2.resize(cv2.resize(image, small, interpolation=cv2.INTER_AREA), (width, height), interpolation=cv2.INTER_CUBIC)


@distortion(2, 3, 4, 6, 9)
def pixelation(image, block, rng):
    """Down by area and up again by repetition; strength: side of a block in pixels."""
    height, width = image.shape[:2]
    small = (max(round(width / block), 1), max(round(height / block), 1))
    return cv2.resize(cv2.resize(image, small, interpolation=cv2.INTER_AREA), (width, height), interpolation=cv2.INTER_NEAREST)


@distortion(24, 16, 11, 7, 4)
def quantisation(image, steps, rng):
    """Fewer tones; strength: how many are left in each channel."""
    return _lookup(image, lambda v: np.rint(v * (steps - 1)) / (steps - 1))


@distortion(1, 2, 3.5, 6, 10)
def oversharpening(image, amount, rng):
    """Unsharp masking beyond measure; strength: amount."""
    smooth = cv2.GaussianBlur(image, (0, 0), 1.5).astype(np.float32)
    return _to_uint8(image + amount * (image - smooth))
