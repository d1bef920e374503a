"""Synthetic distortions with five levels each, for training the low-level encoder.

A distortion takes an 8-bit RGB image ``(H, W, 3)`` and returns one of the same shape. Level 1 is barely visible, level 5 is
severe. `DISTORTIONS` is the registry; add to it with the `distortion` decorator.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from PIL import Image

from grepq_metric.errors import InputError

Array = np.ndarray
Function = Callable[[Array, float, Generator], Array]
LEVELS = 5
STAGES = ("optics", "light", "sensor", "processing", "coding")
DISTORTIONS: dict[str, Distortion] = {}


@dataclass(frozen=True)
class Distortion:
    """One entry of the registry: strengths for levels 1 to 5; a signed one goes either way (darker or brighter).

    The stage is where the distortion arises in a camera (`STAGES`), the order in which several of them are applied.
    """

    name: str
    function: Function
    strengths: tuple[float, ...]
    stage: str
    signed: bool = False

    def __call__(self, image: Array, level: int, seed: int = 0) -> Array:
        """Distort `image` at `level` (1 to 5). Equal seeds give equal results, and one direction at all levels."""
        if level not in range(1, LEVELS + 1):
            raise InputError(f"level of {self.name} must be 1 to {LEVELS}, got {level}")
        strength = self.strengths[level - 1]
        if self.signed and np.random.default_rng(seed).random() < 0.5:
            strength = -strength
        return self.function(image, strength, np.random.default_rng([seed, level]))


def distortion(*strengths: float, stage: str, signed: bool = False) -> Callable[[Function], Function]:
    """Register a function ``(image, strength, rng) -> image`` under its own name, with one strength for each level."""
    if len(strengths) != LEVELS:
        raise InputError(f"a distortion needs {LEVELS} strengths, got {len(strengths)}")
    if stage not in STAGES:
        raise InputError(f"stage must be one of {STAGES}, got {stage!r}")

    def register(function: Function) -> Function:
        name = function.__name__
        DISTORTIONS[name] = Distortion(name, function, strengths, stage, signed)
        return function

    return register


def _to_uint8(image: Array) -> Array:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _lookup(image: Array, curve: Callable[[Array], Array]) -> Array:
    """Apply a tone curve on [0, 1] to every value."""
    return _to_uint8(255 * curve(np.arange(256) / 255))[image]


def _recode(image: Array, **options: Any) -> Array:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, **options)
    stream.seek(0)
    return np.asarray(Image.open(stream).convert("RGB"))


@distortion(0.8, 1.2, 1.8, 2.8, 4.5, stage="optics")
def gaussian_blur(image: Array, sigma: float, rng: Generator) -> Array:
    """Gaussian blur; strength: sigma in pixels."""
    return cv2.GaussianBlur(image, (0, 0), sigma)


@distortion(1.2, 2, 3, 4.5, 7, stage="optics")
def lens_blur(image: Array, radius: float, rng: Generator) -> Array:
    """Defocus, a disk; strength: radius in pixels."""
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1)
    return cv2.filter2D(image, -1, disk / disk.sum(), borderType=cv2.BORDER_REFLECT_101)


@distortion(4, 7, 11, 17, 26, stage="optics")
def motion_blur(image: Array, length: float, rng: Generator) -> Array:
    """A straight camera shake in a random direction; strength: length in pixels."""
    size = 2 * int(length / 2) + 3
    angle = rng.uniform(0, np.pi)
    kernel = np.zeros((size, size), np.float32)
    step = np.array([np.cos(angle), np.sin(angle)]) * (length - 1) / 2
    start, end = (tuple(int(v * 16) for v in size // 2 + sign * step) for sign in (-1, 1))
    cv2.line(kernel, start, end, 1.0, 1, cv2.LINE_AA, shift=4)
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)


@distortion(50, 30, 18, 10, 5, stage="coding")
def jpeg(image: Array, quality: float, rng: Generator) -> Array:
    """JPEG compression; strength: quality."""
    return _recode(image, format="JPEG", quality=int(quality))


@distortion(20, 40, 75, 130, 230, stage="coding")
def jpeg2000(image: Array, ratio: float, rng: Generator) -> Array:
    """JPEG 2000 compression; strength: compression ratio."""
    return _recode(image, format="JPEG2000", quality_mode="rates", quality_layers=[ratio])


@distortion(40, 20, 10, 4, 0, stage="coding")
def webp(image: Array, quality: float, rng: Generator) -> Array:
    """WebP compression; strength: quality."""
    return _recode(image, format="WEBP", quality=int(quality), method=2)


@distortion(5, 10, 17, 28, 45, stage="sensor")
def white_noise(image: Array, sigma: float, rng: Generator) -> Array:
    """White Gaussian noise in each channel; strength: standard deviation of 255."""
    return _to_uint8(image + sigma * rng.standard_normal(image.shape, np.float32))


@distortion(8, 15, 25, 40, 60, stage="sensor")
def chroma_noise(image: Array, sigma: float, rng: Generator) -> Array:
    """Blotchy colour noise of a sensor; strength: standard deviation of 255 in Cb and Cr."""
    ycc = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb).astype(np.float32)
    # Sensor colour noise is blotchy: demosaicing spreads it over a few pixels.
    noise = cv2.GaussianBlur(rng.standard_normal((*image.shape[:2], 2), np.float32), (0, 0), 1.0)
    ycc[..., 1:] += sigma * noise / noise.std()
    return cv2.cvtColor(_to_uint8(ycc), cv2.COLOR_YCrCb2RGB)


@distortion(0.003, 0.01, 0.025, 0.06, 0.14, stage="sensor")
def impulse_noise(image: Array, share: float, rng: Generator) -> Array:
    """Salt-and-pepper noise in each channel; strength: share of values that are hit."""
    hit = rng.random(image.shape, np.float32)
    return np.where(hit < share / 2, 0, np.where(hit > 1 - share / 2, 255, image)).astype(np.uint8)


@distortion(0.06, 0.11, 0.19, 0.32, 0.5, stage="sensor")
def speckle_noise(image: Array, sigma: float, rng: Generator) -> Array:
    """Noise in proportion to the signal; strength: standard deviation of the factor."""
    return _to_uint8(image * (1 + sigma * rng.standard_normal(image.shape, np.float32)))


@distortion(0.4, 0.8, 1.3, 1.9, 2.6, stage="light", signed=True)
def exposure(image: Array, stops: float, rng: Generator) -> Array:
    """Gain in linear light, as a shutter would give it, with clipped highlights; strength: stops."""
    return _lookup(image, lambda v: np.minimum(v**2.2 * 2.0**stops, 1) ** (1 / 2.2))


@distortion(0.2, 0.35, 0.5, 0.65, 0.8, stage="processing", signed=True)
def contrast(image: Array, strength: float, rng: Generator) -> Array:
    """Gain about the mean; strength: how much of the contrast is taken, or put on top if negative."""
    gain = 1 - strength if strength > 0 else 1 / (1 + strength)
    mean = image.mean() / 255
    return _lookup(image, lambda v: mean + gain * (v - mean))


@distortion(0.3, 0.5, 0.7, 0.85, 1.0, stage="processing", signed=True)
def saturation(image: Array, strength: float, rng: Generator) -> Array:
    """Gain of the chroma; strength: how much of it is taken, or a third of what is put on top if negative."""
    gain = 1 - strength if strength > 0 else 1 - 3 * strength
    grey = image @ np.array([0.299, 0.587, 0.114], np.float32)
    return _to_uint8(grey[..., None] + gain * (image - grey[..., None]))


@distortion(0.08, 0.15, 0.25, 0.38, 0.55, stage="processing", signed=True)
def colour_cast(image: Array, strength: float, rng: Generator) -> Array:
    """A wrong white balance, red against blue; strength: relative gain."""
    return _to_uint8(image * np.array([1 + strength, 1, 1 - strength], np.float32))


@distortion(1.5, 2, 3, 4.5, 7, stage="coding")
def downsampling(image: Array, factor: float, rng: Generator) -> Array:
    """Down by area and up again bicubically; strength: factor."""
    height, width = image.shape[:2]
    small = (max(round(width / factor), 1), max(round(height / factor), 1))
    return cv2.resize(cv2.resize(image, small, interpolation=cv2.INTER_AREA), (width, height), interpolation=cv2.INTER_CUBIC)


@distortion(2, 3, 4, 6, 9, stage="coding")
def pixelation(image: Array, block: float, rng: Generator) -> Array:
    """Down by area and up again by repetition; strength: side of a block in pixels."""
    height, width = image.shape[:2]
    small = (max(round(width / block), 1), max(round(height / block), 1))
    return cv2.resize(cv2.resize(image, small, interpolation=cv2.INTER_AREA), (width, height), interpolation=cv2.INTER_NEAREST)


@distortion(24, 16, 11, 7, 4, stage="coding")
def quantisation(image: Array, steps: float, rng: Generator) -> Array:
    """Fewer tones; strength: how many are left in each channel."""
    return _lookup(image, lambda v: np.rint(v * (steps - 1)) / (steps - 1))


@distortion(0.4, 0.8, 1.5, 3, 7, stage="processing")
def oversharpening(image: Array, amount: float, rng: Generator) -> Array:
    """Unsharp masking beyond measure; strength: amount."""
    smooth = cv2.GaussianBlur(image, (0, 0), 1.5).astype(np.float32)
    return _to_uint8(image + amount * (image - smooth))


def _linear(image: Array) -> Array:
    """Linear light in [0, 1] of gamma-coded values."""
    return (np.float32(1 / 255) * image) ** 2.2


def _sensor(light: Array, electrons: float, rng: Generator) -> Array:
    """Shot and read noise of a sensor whose full well holds `electrons`, spread by demosaicing."""
    noise = rng.standard_normal(light.shape, np.float32) * np.sqrt((light + 4 / electrons) / electrons)
    return light + 1.5 * cv2.GaussianBlur(noise, (0, 0), 0.6)


@distortion(1200, 400, 150, 60, 25, stage="sensor")
def sensor_noise(image: Array, electrons: float, rng: Generator) -> Array:
    """Shot and read noise in linear light, as a high ISO shows it; strength: electrons at full scale."""
    return _to_uint8(255 * np.maximum(_sensor(_linear(image), electrons, rng), 0) ** np.float32(1 / 2.2))


@distortion(1.5, 2.5, 3.5, 4.5, 5.5, stage="light")
def low_light(image: Array, stops: float, rng: Generator) -> Array:
    """Too little light, of which amplification brings half the stops back, and the noise with it; strength: stops."""
    light = _sensor(_linear(image) / 2**stops, 6000, rng) * 2 ** (stops / 2)
    return _to_uint8(255 * np.clip(light, 0, 1) ** np.float32(1 / 2.2))


@distortion(20, 40, 70, 110, 160, stage="processing")
def smearing(image: Array, sigma: float, rng: Generator) -> Array:
    """Denoising that takes texture along, on a noisy photo; strength: tonal sigma of a bilateral filter."""
    noisy = _to_uint8(image + 0.15 * sigma * rng.standard_normal(image.shape, np.float32))
    return cv2.bilateralFilter(noisy, 9, sigma, 4)


@distortion(0.12, 0.25, 0.4, 0.55, 0.7, stage="optics")
def haze(image: Array, share: float, rng: Generator) -> Array:
    """Light scattered before the scene: blacks turn grey; strength: share of a light, bluish veil."""
    return _to_uint8(image * (1 - share) + 255 * share * np.array([0.82, 0.85, 0.88], np.float32))


@distortion(0.25, 0.5, 0.8, 1.1, 1.5, stage="processing", signed=True)
def gamma(image: Array, strength: float, rng: Generator) -> Array:
    """A wrong tone curve that keeps black and white; strength: logarithm to base 2 of the exponent."""
    return _lookup(image, lambda v: v**2.0**strength)


@distortion(12, 25, 40, 60, 85, stage="processing", signed=True)
def mean_shift(image: Array, shift: float, rng: Generator) -> Array:
    """The same amount added to all values; strength: of 255."""
    return _to_uint8(image.astype(np.float32) + shift)


@distortion(0.04, 0.08, 0.14, 0.22, 0.35, stage="processing", signed=True)
def hue_shift(image: Array, turn: float, rng: Generator) -> Array:
    """Hues rotated; strength: share of half a turn."""
    y, x = np.cos(np.pi * turn), np.sin(np.pi * turn)
    # Rotation about the grey axis (Rodrigues' formula): it keeps grey and nearly keeps brightness.
    third = (1 - y) / 3
    root = x / np.sqrt(3)
    matrix = np.full((3, 3), third) + np.diag([y] * 3) + root * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    return _to_uint8(image @ matrix.T.astype(np.float32))


@distortion(2, 4, 7, 11, 17, stage="processing")
def chroma_blur(image: Array, sigma: float, rng: Generator) -> Array:
    """Colours that run; strength: sigma in pixels of a Gaussian blur of Cb and Cr."""
    ycc = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)
    ycc[..., 1:] = cv2.GaussianBlur(ycc[..., 1:], (0, 0), sigma)
    return cv2.cvtColor(ycc, cv2.COLOR_YCrCb2RGB)


@distortion(0.8, 1.6, 2.6, 4, 6, stage="optics")
def fringing(image: Array, shift: float, rng: Generator) -> Array:
    """Lateral chromatic aberration; strength: pixels by which red and blue move apart, in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    move = np.array([np.cos(angle), np.sin(angle)]) * shift / 2
    out = image.copy()
    for channel, sign in ((0, 1), (2, -1)):
        matrix = np.array([[1, 0, sign * move[0]], [0, 1, sign * move[1]]], np.float32)
        out[..., channel] = cv2.warpAffine(image[..., channel], matrix, image.shape[1::-1], borderMode=cv2.BORDER_REFLECT_101)
    return out


@distortion(0.6, 1.1, 1.8, 2.8, 4.2, stage="optics")
def jitter(image: Array, reach: float, rng: Generator) -> Array:
    """Every pixel from a random place nearby, as through rough glass; strength: standard deviation in pixels."""
    height, width = image.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    dx, dy = (reach * rng.standard_normal((height, width), np.float32) for _ in range(2))
    return cv2.remap(image, x + dx, y + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


@distortion(0.02, 0.05, 0.1, 0.18, 0.3, stage="coding")
def lost_blocks(image: Array, share: float, rng: Generator) -> Array:
    """Transmission errors: blocks show another place of the image or one colour; strength: share of blocks."""
    side, out = 24, image.copy()
    for top in range(0, image.shape[0] - side + 1, side):
        for left in range(0, image.shape[1] - side + 1, side):
            if rng.random() < share:
                y, x = rng.integers(0, image.shape[0] - side + 1), rng.integers(0, image.shape[1] - side + 1)
                block = image[y : y + side, x : x + side]
                out[top : top + side, left : left + side] = block if rng.random() < 0.5 else block[0, 0]
    return out


@distortion(4, 8, 14, 22, 32, stage="coding")
def banding(image: Array, steps: float, rng: Generator) -> Array:
    """Few tones with smooth edges, as of a strongly compressed sky; strength: width of a tone of 255."""
    smooth = cv2.GaussianBlur(image, (0, 0), 0.8).astype(np.float32)
    return _to_uint8(np.rint(smooth / steps) * steps)


@distortion(1.02, 1.04, 1.07, 1.12, 1.2, stage="optics")
def zoom_blur(image: Array, factor: float, rng: Generator) -> Array:
    """A zoom or a move forward while the shutter is open; strength: magnification at its end."""
    height, width = image.shape[:2]
    total = np.zeros(image.shape, np.float32)
    factors = np.linspace(1, factor, 9)
    for scale in factors:
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 0, float(scale))
        total += cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    return _to_uint8(total / len(factors))


@distortion(1, 2, 3, 5, 8, stage="optics")
def glass_blur(image: Array, reach: float, rng: Generator) -> Array:
    """Frosted glass: pixels change places with near ones, softened before and after; strength: reach in pixels."""
    image = cv2.GaussianBlur(image, (0, 0), 0.6)
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width]
    dy, dx = rng.integers(-int(reach), int(reach) + 1, (2, height, width))
    return cv2.GaussianBlur(image[np.clip(y + dy, 0, height - 1), np.clip(x + dx, 0, width - 1)], (0, 0), 0.6)


@distortion(3, 5, 7, 11, 17, stage="processing")
def median_filter(image: Array, size: float, rng: Generator) -> Array:
    """Median of a square neighbourhood, which takes texture and keeps edges; strength: its side in pixels."""
    return cv2.medianBlur(image, int(size))


@distortion(0.003, 0.01, 0.025, 0.06, 0.14, stage="sensor")
def lost_pixels(image: Array, share: float, rng: Generator) -> Array:
    """Dead pixels, black in all channels; strength: share of pixels."""
    return image * (rng.random((*image.shape[:2], 1), np.float32) >= share).astype(np.uint8)


@distortion(2.4, 1.8, 1.3, 0.9, 0.6, stage="processing")
def ringing(image: Array, cutoff: float, rng: Generator) -> Array:
    """An ideal low-pass filter, whose edges swing; strength: cut-off in radians a pixel, lower is worse."""
    y, x = np.mgrid[-10:11, -10:11]
    kernel = np.sinc(cutoff * x / np.pi) * np.sinc(cutoff * y / np.pi)
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)


@distortion(1.3, 1.7, 2.3, 3.2, 4.5, stage="coding")
def aliasing(image: Array, factor: float, rng: Generator) -> Array:
    """Made smaller without a filter, so that edges become stairs, and enlarged again; strength: factor."""
    height, width = image.shape[:2]
    small = cv2.resize(image, (max(round(width / factor), 1), max(round(height / factor), 1)), interpolation=cv2.INTER_NEAREST)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


@distortion(0.4, 0.8, 1.4, 2.2, 3.5, stage="processing")
def halos(image: Array, amount: float, rng: Generator) -> Array:
    """Local contrast beyond measure, as of a careless HDR: bright seams along dark edges; strength: amount."""
    smooth = cv2.GaussianBlur(image, (0, 0), 12).astype(np.float32)
    return _to_uint8(image + amount * (image - smooth))


@distortion(1.5, 3, 6, 12, 25, stage="processing")
def equalisation(image: Array, limit: float, rng: Generator) -> Array:
    """Tones equalised tile by tile, with the noise and the blocks that this brings out; strength: limit of the gain."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(limit, (6, 6)).apply(np.ascontiguousarray(lab[..., 0]))
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


@distortion(0.1, 0.18, 0.3, 0.45, 0.7, stage="processing")
def painting(image: Array, tones: float, rng: Generator) -> Array:
    """Texture replaced by flat strokes, as by strong noise reduction or a generator; strength: tones that are merged."""
    return cv2.edgePreservingFilter(image, flags=cv2.RECURS_FILTER, sigma_s=20, sigma_r=tones)


@distortion(6, 12, 20, 32, 50, stage="coding")
def checkerboard(image: Array, amplitude: float, rng: Generator) -> Array:
    """The pattern of transposed convolutions, stronger where there is texture; strength: amplitude of 255."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    period = int(rng.choice([2, 4, 8]))
    pattern = (((x // (period // 2)) + (y // (period // 2))) % 2 * 2 - 1).astype(np.float32)
    grey = image.mean(2, dtype=np.float32)
    texture = cv2.GaussianBlur(np.abs(grey - cv2.GaussianBlur(grey, (0, 0), 3)), (0, 0), 4)
    weight = 0.3 + 0.7 * texture / (texture.max() + 1e-6)
    return _to_uint8(image + (amplitude * weight * pattern)[..., None])


@distortion(1.5, 3, 5, 8, 12, stage="optics")
def melting(image: Array, reach: float, rng: Generator) -> Array:
    """Shapes bent at random, as generated pictures get them wrong; strength: standard deviation of the shift in pixels."""
    height, width = image.shape[:2]
    shifts = []
    for _ in range(2):
        field = cv2.GaussianBlur(rng.standard_normal((height, width), np.float32), (0, 0), 9)
        shifts.append(reach * field / (field.std() + 1e-6))
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(image, x + shifts[0], y + shifts[1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)


@distortion(70, 50, 35, 24, 15, stage="coding")
def recompression(image: Array, quality: float, rng: Generator) -> Array:
    """JPEG four times over, each on another grid, as photos that are passed around; strength: quality of the last."""
    for extra in (20, 12, 6, 0):
        top, left = (int(shift) for shift in rng.integers(0, 8, 2))
        padded = cv2.copyMakeBorder(image, top, 8 - top, left, 8 - left, cv2.BORDER_REFLECT_101)
        height, width = image.shape[:2]
        image = _recode(padded, format="JPEG", quality=int(quality + extra))[top : top + height, left : left + width]
    return np.ascontiguousarray(image)


def _camera(
    light: Array, blur: float, electrons: float, denoise: float, sharpen: float, quality: int, rng: Generator
) -> Array:
    """What a small camera makes of light: soft optics, sensor noise, denoising that smears, sharpening, JPEG."""
    light = _sensor(np.maximum(cv2.GaussianBlur(light, (0, 0), blur), 0), electrons, rng)
    image = _to_uint8(255 * np.clip(light, 0, 1) ** np.float32(1 / 2.2))
    image = cv2.bilateralFilter(image, 7, denoise, 2.5)
    smooth = cv2.GaussianBlur(image, (0, 0), 1.2).astype(np.float32)
    return _recode(_to_uint8(image + sharpen * (image - smooth)), format="JPEG", quality=quality)


@distortion(1, 2, 3, 4, 5, stage="optics")
def phone_camera(image: Array, grade: float, rng: Generator) -> Array:
    """A small camera in daylight; strength: 1 (a good phone) to 5 (a cheap webcam)."""
    blur, electrons = 0.35 * 1.5**grade, 8000 / 2.2**grade
    return _camera(_linear(image), blur, electrons, 6 * 1.6**grade, 0.3 + 0.2 * grade, int(94 - 11 * grade), rng)


@distortion(1, 2, 3, 4, 5, stage="light")
def night_camera(image: Array, grade: float, rng: Generator) -> Array:
    """A small camera by night: amplified noise, strong denoising, dark or washed-out tones; strength: 1 to 5."""
    light = _linear(image)
    # Half of the missing light is made up for by exposure time, the photo stays darker by the rest.
    light = light * 2.0 ** (-0.35 * grade) + 0.004 * grade
    return _camera(
        light, 0.35 * 1.45**grade, 2000 / 1.9**grade, 18 * 1.65**grade, 0.2 + 0.15 * grade, int(92 - 10 * grade), rng
    )


@distortion(1.25, 1.6, 2.2, 3.2, 5, stage="coding")
def digital_zoom(image: Array, factor: float, rng: Generator) -> Array:
    """Fewer pixels, enlarged, sharpened and compressed again; strength: factor."""
    height, width = image.shape[:2]
    small = (max(round(width / factor), 1), max(round(height / factor), 1))
    image = cv2.resize(
        cv2.resize(image, small, interpolation=cv2.INTER_AREA), (width, height), interpolation=cv2.INTER_LANCZOS4
    )
    smooth = cv2.GaussianBlur(image, (0, 0), 0.6 * factor).astype(np.float32)
    return _recode(_to_uint8(image + 0.7 * (image - smooth)), format="JPEG", quality=int(90 - 10 * factor))


def distort(image: Array, chain: list[tuple[str, int]], seed: int = 0) -> Array:
    """Apply several distortions, each a name in the registry and a level, one after the other."""
    for name, level in chain:
        image = DISTORTIONS[name](image, level, seed)
    return image
