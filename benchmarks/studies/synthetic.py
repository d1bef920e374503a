"""How a metric follows synthetic distortions of photos that training never saw, made by other code than the training's.

    python -m benchmarks.studies.synthetic [--references DIR] [--weights NAME ...] --out DIR

Every photo is distorted in 26 ways at 5 levels by albumentations, and scored with its undistorted version. Reported are, for
each type, the mean over photos of the SRCC between severity and score, and, over all types, levels and photos pooled, the
SRCC between score and FSIM to the undistorted photo.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import scipy.stats
import skimage
import torch
from PIL import Image
from tqdm import tqdm

from grepq_metric import GRepQ, read_image

SKIMAGE = ("astronaut", "coffee", "chelsea", "rocket", "stereo_motorcycle")


def distortions() -> dict[str, Callable[[int], object]]:
    """Types: a function from a level (1 to 5) to a transform of albumentations."""
    import albumentations as A
    import cv2

    area = {"downscale": cv2.INTER_AREA, "upscale": cv2.INTER_LINEAR}

    def at(make, *values):
        return lambda level: make(values[level - 1])

    def shift(**limits):
        return A.HueSaturationValue(**{f"{k}_shift_limit": (limits.get(k, 0),) * 2 for k in ("hue", "sat", "val")}, p=1)

    def light(brightness, contrast):
        return A.RandomBrightnessContrast((brightness, brightness), (contrast, contrast), p=1)

    return {
        "Gaussian blur": at(lambda s: A.GaussianBlur(0, (s, s), p=1), 0.7, 1.2, 2, 3.2, 5),
        "defocus": at(lambda r: A.Defocus((r, r), (0.1, 0.1), p=1), 1, 2, 3, 5, 8),
        "motion blur": at(lambda k: A.MotionBlur((k, k), allow_shifted=False, p=1), 3, 5, 9, 15, 25),
        "glass blur": at(lambda d: A.GlassBlur(0.6, d, 1, p=1), 1, 2, 3, 5, 8),
        "zoom blur": at(lambda f: A.ZoomBlur((f, f), (0.01, 0.01), p=1), 1.02, 1.04, 1.07, 1.12, 1.2),
        "median filter": at(lambda k: A.MedianBlur((k, k), p=1), 3, 5, 9, 13, 19),
        "white noise": at(lambda s: A.GaussNoise((s, s), p=1), 0.02, 0.04, 0.08, 0.14, 0.25),
        "ISO noise": at(lambda s: A.ISONoise((0.05, 0.05), (s, s), p=1), 0.1, 0.2, 0.35, 0.6, 1.0),
        "shot noise": at(lambda s: A.ShotNoise((s, s), p=1), 0.002, 0.008, 0.03, 0.1, 0.3),
        "multiplicative noise": at(
            lambda s: A.MultiplicativeNoise((1 - s, 1 + s), per_channel=True, elementwise=True, p=1), 0.1, 0.2, 0.35, 0.55, 0.9
        ),
        "salt and pepper": at(lambda a: A.SaltAndPepper((a, a), (0.5, 0.5), p=1), 0.003, 0.01, 0.025, 0.06, 0.14),
        "lost pixels": at(lambda a: A.PixelDropout(a, p=1), 0.003, 0.01, 0.025, 0.06, 0.14),
        "JPEG": at(lambda q: A.ImageCompression("jpeg", (q, q), p=1), 60, 35, 20, 10, 5),
        "WebP": at(lambda q: A.ImageCompression("webp", (q, q), p=1), 60, 30, 15, 6, 1),
        "pixelation": at(lambda s: A.Downscale((s, s), p=1), 0.6, 0.45, 0.3, 0.2, 0.12),
        "down- and up-sampling": at(lambda s: A.Downscale((s, s), area, p=1), 0.6, 0.45, 0.3, 0.2, 0.12),
        "posterisation": at(lambda b: A.Posterize(b, p=1), 5, 4, 3, 2, 1),
        "darker": at(lambda b: light(-b, 0), 0.1, 0.2, 0.32, 0.45, 0.6),
        "brighter": at(lambda b: light(b, 0), 0.1, 0.2, 0.32, 0.45, 0.6),
        "lower contrast": at(lambda c: light(0, -c), 0.2, 0.4, 0.55, 0.7, 0.85),
        "higher contrast": at(lambda c: light(0, c), 0.3, 0.6, 1.0, 1.6, 2.5),
        "lower saturation": at(lambda s: shift(sat=-s), 30, 60, 100, 150, 255),
        "hue shift": at(lambda h: shift(hue=h), 6, 12, 22, 38, 60),
        "fog": at(lambda f: A.RandomFog(0.3, (f, f), p=1), 0.1, 0.25, 0.45, 0.7, 1.0),
        "oversharpening": at(lambda a: A.UnsharpMask((7, 7), (1.5, 1.5), (a, a), 0, p=1), 0.2, 0.4, 0.6, 0.8, 1.0),
        "ringing": at(lambda c: A.RingingOvershoot((15, 15), (c, c), p=1), 2.4, 1.8, 1.2, 0.8, 0.5),
    }


def references(folder: Path | None) -> dict[str, np.ndarray]:
    """Undistorted photos ``(H, W, 3)`` uint8: those of a folder, or some that scikit-image ships."""
    if folder is not None:
        paths = sorted(path for path in folder.iterdir() if path.is_file())
        return {path.name: (read_image(path) * 255).round().byte().permute(1, 2, 0).numpy() for path in paths}
    photos = {name: getattr(skimage.data, name)() for name in SKIMAGE}
    return {name: photo[0] if isinstance(photo, tuple) else photo for name, photo in photos.items()}


def to_tensor(photo: np.ndarray) -> torch.Tensor:
    """``(H, W, 3)`` uint8 -> ``(1, 3, H, W)`` in [0, 1]."""
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None].float() / 255


@torch.inference_mode()
def measure(metrics: dict[str, Callable], photos: dict[str, np.ndarray]) -> list[dict]:
    """One row for each photo, type and level (0: undistorted): FSIM to the undistorted one and all scores."""
    import albumentations as A
    from pyiqa.archs.fsim_arch import fsim

    rows = []
    for number, (name, photo) in enumerate(tqdm(photos.items(), desc="synthetic", unit="photo")):
        clean = to_tensor(photo)
        undistorted = {metric: score(clean) for metric, score in metrics.items()}
        for kind, make in distortions().items():
            rows.append({"photo": name, "type": kind, "level": 0, "FSIM": 1.0, **undistorted})
            for level in range(1, 6):
                x = to_tensor(A.Compose([make(level)], seed=100 * number + level)(image=photo)["image"])
                scores = {metric: score(x) for metric, score in metrics.items()}
                rows.append({"photo": name, "type": kind, "level": level, "FSIM": fsim(x, clean).item(), **scores})
    return rows


def report(rows: list[dict], metrics: list[str]) -> list[str]:
    """A table of the SRCC with severity for each type, their median and minimum, and the pooled SRCC with FSIM."""
    kinds = list(dict.fromkeys(row["type"] for row in rows))
    photos = list(dict.fromkeys(row["photo"] for row in rows))
    srcc = {metric: [] for metric in metrics}
    for kind in kinds:
        for metric in metrics:
            values = []
            for photo in photos:
                levels = [row for row in rows if row["type"] == kind and row["photo"] == photo]
                scores = [row[metric] for row in levels]
                # A metric that gives all levels the same score has not seen the distortion.
                constant = len(set(scores)) == 1
                severity = [-row["level"] for row in levels]
                values.append(0.0 if constant else scipy.stats.spearmanr(scores, severity).statistic)
            srcc[metric].append(float(np.mean(values)))
    # The undistorted photo counts once, not once for each type.
    pooled = [row for row in rows if row["level"] or row["type"] == kinds[0]]
    fsim = [row["FSIM"] for row in pooled]
    lines = [f"| distortion ({len(photos)} photos) | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 1) + "|"]
    lines += [f"| {kind} | " + " | ".join(f"{srcc[m][i]:.2f}" for m in metrics) + " |" for i, kind in enumerate(kinds)]
    for name, value in (
        (f"median of the {len(kinds)} types", np.median),
        ("lowest of the types", np.min),
    ):
        lines.append(f"| **{name}** | " + " | ".join(f"{value(srcc[m]):.2f}" for m in metrics) + " |")
    against = [scipy.stats.spearmanr([row[m] for row in pooled], fsim).statistic for m in metrics]
    lines.append(f"| **SRCC with FSIM, {len(pooled)} versions pooled** | " + " | ".join(f"{v:.2f}" for v in against) + " |")
    return lines


def _to_uint8(image: np.ndarray) -> np.ndarray:
    return (255 * np.clip(image, 0, 1)).round().astype(np.uint8)


def _jpeg(photo: np.ndarray, level: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(photo).save(stream, "JPEG", quality=(60, 35, 20, 10, 5)[level - 1])
    return np.asarray(Image.open(stream))


def _resize(photo: np.ndarray, level: int) -> np.ndarray:
    small = skimage.transform.rescale(photo, 1 / (1.5, 2, 3, 4.5, 7)[level - 1], channel_axis=2, anti_aliasing=True)
    return _to_uint8(skimage.transform.resize(small, photo.shape))


SEVERITIES = {
    "Gaussian blur": lambda p, i: _to_uint8(skimage.filters.gaussian(p, 0.7 * 1.6 ** (i - 1), channel_axis=2)),
    "white noise": lambda p, i: _to_uint8(skimage.util.random_noise(p, "gaussian", rng=i, var=(0.012 * 2**i) ** 2)),
    "salt and pepper": lambda p, i: _to_uint8(skimage.util.random_noise(p, "s&p", rng=i, amount=0.003 * 2.5 ** (i - 1))),
    "JPEG": _jpeg,
    "down- and up-sampling": _resize,
    "lower contrast": lambda p, i: _to_uint8(0.5 + (p / 255 - 0.5) * (0.8, 0.62, 0.48, 0.35, 0.22)[i - 1]),
    "darker": lambda p, i: _to_uint8(skimage.exposure.adjust_gamma(p / 255, 1 + 0.35 * i)),
    "brighter": lambda p, i: _to_uint8(skimage.exposure.adjust_gamma(p / 255, 1 / (1 + 0.35 * i))),
}
"""Eight types by scikit-image and Pillow, for quick comparisons: a function of a photo and a level (1 to 5)."""


def quick_severities(score: Callable[[torch.Tensor], float], side: int | None = None) -> dict[str, float]:
    """SRCC of score and severity for each of `SEVERITIES`, mean over photos of scikit-image or their centres of `side`."""
    found = {}
    for kind, distort in SEVERITIES.items():
        values = []
        for photo in references(None).values():
            # The distortions see the whole photo.
            window = tuple(slice((n - side) // 2, (n + side) // 2) for n in photo.shape[:2]) if side else ()
            versions = [photo, *(distort(photo, level) for level in range(1, 6))]
            scores = [score(to_tensor(version[window])) for version in versions]
            values.append(scipy.stats.spearmanr(scores, range(0, -6, -1)).statistic)
        found[kind] = float(np.mean(values))
    return found


def main() -> None:
    """Measure, print a table and write it, with all scores, to --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--references", type=Path, help="folder of undistorted photos; default: some of scikit-image")
    parser.add_argument("--weights", nargs="+", default=["grepq-ll"], help="as in GRepQ.from_pretrained")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    models = [GRepQ.from_pretrained(weights) for weights in arguments.weights]
    metrics = {model.weights_id: lambda x, model=model: model(x).item() for model in models}
    rows = measure(metrics, references(arguments.references))
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "synthetic.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    date = datetime.now(timezone.utc).date().isoformat()
    lines = [*report(rows, list(metrics)), "", f"{date}, torch {torch.__version__}, `python -m benchmarks.studies.synthetic`"]
    (arguments.out / "synthetic.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
