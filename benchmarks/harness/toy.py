"""Photos that scikit-image ships and known distortions of them: a data set without a download and opinions of people."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import scipy.stats
import skimage
import torch
from PIL import Image

from grepq_metric.files import whole_file
from grepq_metric.images import find_images, read_image

PHOTOS = ("astronaut", "coffee", "chelsea", "rocket", "stereo_motorcycle")
LEVELS = range(1, 6)
SIDE = 256

Distortion = Callable[[np.ndarray, int], np.ndarray]
"""A photo ``(H, W, 3)`` uint8 and a level, 1 to 5 -> the distorted photo, of the same shape."""


def references(folder: Path | None = None) -> dict[str, np.ndarray]:
    """Undistorted photos ``(H, W, 3)`` uint8 by name: those of a folder, or, without one, some that scikit-image ships.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if folder is not None:
        return {path.name: (read_image(path) * 255).round().byte().permute(1, 2, 0).numpy() for path in find_images(folder)}
    photos = {name: getattr(skimage.data, name)() for name in PHOTOS}
    return {name: photo[0] if isinstance(photo, tuple) else photo for name, photo in photos.items()}


def to_tensor(photo: np.ndarray) -> torch.Tensor:
    """``(H, W, 3)`` uint8 -> ``(1, 3, H, W)`` float32 in [0, 1]."""
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None].float() / 255


def _to_uint8(image: np.ndarray) -> np.ndarray:
    return (255 * np.clip(image, 0, 1)).round().astype(np.uint8)


def _jpeg(photo: np.ndarray, level: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(photo).save(stream, "JPEG", quality=(60, 35, 20, 10, 5)[level - 1])
    return np.asarray(Image.open(stream))


def _resize(photo: np.ndarray, level: int) -> np.ndarray:
    small = skimage.transform.rescale(photo, 1 / (1.5, 2, 3, 4.5, 7)[level - 1], channel_axis=2, anti_aliasing=True)
    return _to_uint8(skimage.transform.resize(small, photo.shape))


SEVERITIES: dict[str, Distortion] = {
    "Gaussian blur": lambda p, i: _to_uint8(skimage.filters.gaussian(p, 0.7 * 1.6 ** (i - 1), channel_axis=2)),
    "white noise": lambda p, i: _to_uint8(skimage.util.random_noise(p, "gaussian", rng=i, var=(0.012 * 2**i) ** 2)),
    "salt and pepper": lambda p, i: _to_uint8(skimage.util.random_noise(p, "s&p", rng=i, amount=0.003 * 2.5 ** (i - 1))),
    "JPEG": _jpeg,
    "down- and up-sampling": _resize,
    "lower contrast": lambda p, i: _to_uint8(0.5 + (p / 255 - 0.5) * (0.8, 0.62, 0.48, 0.35, 0.22)[i - 1]),
    "darker": lambda p, i: _to_uint8(skimage.exposure.adjust_gamma(p / 255, 1 + 0.35 * i)),
    "brighter": lambda p, i: _to_uint8(skimage.exposure.adjust_gamma(p / 255, 1 / (1 + 0.35 * i))),
}
"""Eight types by scikit-image and Pillow, made by other code than the training's."""


def quick_severities(score: Callable[[torch.Tensor], float], side: int | None = None) -> dict[str, float]:
    """SRCC of score and severity for each of `SEVERITIES`, mean over the photos.

    Args:
        score: image ``(1, 3, H, W)`` in [0, 1] -> score, higher is better.
        side: take the centre of this many pixels of each version; by default the whole. The distortions see the whole photo.
    """
    found = {}
    for kind, distort in SEVERITIES.items():
        values = []
        for photo in references().values():
            window = tuple(slice((n - side) // 2, (n + side) // 2) for n in photo.shape[:2]) if side else ()
            versions = [photo, *(distort(photo, level) for level in LEVELS)]
            scores = [score(to_tensor(version[window])) for version in versions]
            values.append(scipy.stats.spearmanr(scores, range(0, -len(versions), -1)).statistic)
        found[kind] = float(np.mean(values))
    return found


def write_versions(folder: Path) -> Iterator[tuple[str, str, int]]:
    """The photos' centres of `SIDE` pixels, undistorted and at every type and level, as PNG files that are made once.

    Yields:
        The file below `folder`, the file of the undistorted photo, and the level, 0 for that photo itself.

    Raises:
        OSError: they can't be written.
    """
    for name, photo in references().items():
        original = f"{name}/original.png"
        if not (folder / original).exists():
            _write_centre(photo, folder / original)
        yield original, original, 0
        for kind, distort in SEVERITIES.items():
            for level in LEVELS:
                file = f"{name}/{kind.replace(' ', '_')}_{level}.png"
                if not (folder / file).exists():
                    _write_centre(distort(photo, level), folder / file)
                yield file, original, level


def _write_centre(image: np.ndarray, path: Path) -> None:
    top, left = ((length - SIDE) // 2 for length in image.shape[:2])
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        Image.fromarray(np.ascontiguousarray(image[top : top + SIDE, left : left + SIDE])).save(part, "PNG")
