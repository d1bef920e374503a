"""Facts about a photo that people ask for beside its score: they accompany it, and do not enter it."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from grepq_metric.errors import InputError
from grepq_metric.reference import STANDARD_SIDE, fact_distributions
from grepq_metric.tables import FACTS

LOW, HIGH = 10, 90
"""Percentiles among the reference photos up to which, and from which on, a fact is worth a word."""
WORDS = {
    "sharpness": ("blurred", "sharp"),
    "noise": (None, "noisy"),
    "exposure": ("dark", "bright"),
    "colourfulness": ("pale", "colourful"),
    "blocking": (None, "blocky"),
}
"""What a fact is called at the low end of the reference photos, and at the high one; None: it is called nothing."""
BLOCK = 8
"""Pixels between the borders of JPEG's blocks."""
SMALLEST = 2 * BLOCK
"""Pixels of a side that facts need."""
_WINDOW = 11
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_IMMERKAER = np.outer([1, -2, 1], [1, -2, 1]).astype(np.float32)
_SMOOTH, _SLOPE = np.array([1, 2, 1], np.float32) / 4, np.array([1, 0, -1], np.float32) / 2


def measure(image: np.ndarray) -> dict[str, float]:
    """Facts of a photo.

    All but ``blocking`` are those of the photo as it looks at `STANDARD_SIDE` pixels: larger ones are reduced first.

    Args:
        image: ``(3, H, W)`` RGB in [0, 1], 16 pixels or more on each side.

    Returns:
        ``sharpness``: 1 - blur, from 0 to 1, where blur is the share of the differences between neighbours that goes when the
        photo is blurred (Crete, Dolmiere, Ladret and Nicolas, 2007, as scikit-image's ``blur_effect`` computes it).

        ``noise``: standard deviation in grey levels of 255, from the mean response to a Laplacian of Laplacians (Immerkaer,
        1996); fine texture counts as noise.

        ``exposure``: mean luma (ITU-R BT.601), from 0 (black) to 1 (white).

        ``colourfulness``: of Hasler and Suesstrunk (2003), from 0 (grey) to above 100.

        ``blocking``: how much larger the differences of neighbours are across the borders of blocks of 8 pixels than
        elsewhere, from 1: at each of the 8 places where a grid of borders may begin, the mean difference is taken; it is the
        largest of the 8 divided by their median, and the mean of both directions.

    Raises:
        InputError: the image is smaller than 16 pixels on a side.

    Examples:
        >>> import numpy as np
        >>> from grepq_metric.facts import measure
        >>> facts = measure(np.full((3, 64, 64), 0.5, np.float32))
        >>> facts["exposure"], facts["noise"], facts["colourfulness"]
        (0.5, 0.0, 0.0)
    """
    height, width = image.shape[1:]
    if min(height, width) < SMALLEST:
        raise InputError(f"facts need {SMALLEST} pixels or more on a side, got {width} x {height}")
    picture: np.ndarray = np.ascontiguousarray(image.transpose(1, 2, 0), np.float32)
    found = {"blocking": _blocking(picture @ _LUMA)}
    if max(height, width) > STANDARD_SIDE:
        scale = STANDARD_SIDE / max(height, width)
        size = max(round(width * scale), SMALLEST), max(round(height * scale), SMALLEST)
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    luma = picture @ _LUMA
    found |= {
        "sharpness": 1 - max(_blur(luma), _blur(np.ascontiguousarray(luma.T))),
        "noise": 255 * float(np.abs(cv2.filter2D(luma, -1, _IMMERKAER)[1:-1, 1:-1]).mean()) * np.sqrt(np.pi / 2) / 6,
        "exposure": float(luma.mean()),
        "colourfulness": _colourfulness(255 * picture),
    }
    return {name: float(found[name]) for name in FACTS}


def words(facts: Mapping[str, float]) -> str | None:
    """By what a photo stands out from the packaged reference photos.

    Args:
        facts: what `measure` found.

    Returns:
        For example ``blurred (sharpness 3 %), dark (exposure 8 %)``: the percentage of reference photos with less of it, for
        facts among their lowest or highest tenth that have a word in `WORDS`; None where there is none.
    """
    found, distributions = [], fact_distributions()
    for name, value in facts.items():
        percentile = distributions[name].percentile(float(value))
        low, high = WORDS[name]
        word = low if percentile <= LOW else high if percentile >= HIGH else None
        if word:
            found.append(f"{word} ({name} {percentile:.0f} %)")
    return ", ".join(found) or None


def _blur(luma: np.ndarray) -> float:
    """Of rows: scikit-image's ``blur_effect`` along the first axis."""
    blurred = cv2.blur(luma, (1, _WINDOW), borderType=cv2.BORDER_REFLECT)
    sharp, soft = (np.abs(cv2.sepFilter2D(v, -1, _SMOOTH, _SLOPE, borderType=cv2.BORDER_REFLECT)) for v in (luma, blurred))
    inner = slice(2, -1)
    all_of_it = sharp[inner, inner].sum(dtype=float)
    lost = np.maximum(0, sharp - soft)[inner, inner].sum(dtype=float)
    return 1.0 if all_of_it == 0 else float(abs(all_of_it - lost) / all_of_it)


def _colourfulness(picture: np.ndarray) -> float:
    red, green, blue = (picture[..., i].astype(float) for i in range(3))
    first, second = red - green, (red + green) / 2 - blue
    return float(np.hypot(first.std(), second.std()) + 0.3 * np.hypot(first.mean(), second.mean()))


def _blocking(luma: np.ndarray) -> float:
    return (_borders(luma) + _borders(np.ascontiguousarray(luma.T))) / 2


def _borders(luma: np.ndarray) -> float:
    steps = np.abs(np.diff(luma, axis=0)).mean(1, dtype=float)
    means = np.array([steps[start::BLOCK].mean() for start in range(BLOCK)])
    middle = np.median(means)
    return float(means.max() / middle) if middle > 0 else 1.0
