"""From a photo file to a row of results: what the score command does for each of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from grepq_metric.cli.maps import MapFolder
from grepq_metric.cli.writers import Value
from grepq_metric.errors import InputError
from grepq_metric.heads.regressor import GRepQRegressor
from grepq_metric.images import PixelLimitError, decode_image, image_header, read_bytes
from grepq_metric.model import PATHWAYS, GRepQ

_FLAT = 2 / 255


@dataclass
class Photo:
    """A photo as read.

    Attributes:
        image: ``(3, H, W)`` in [0, 1].
        warnings: why its score may mean little.
    """

    image: Tensor
    warnings: list[str]


@dataclass
class Scorer:
    """Makes rows.

    Attributes:
        model: that scores.
        regressor: a head; rows then hold a MOS.
        interval: share of photos whose MOS is to lie between ``mos_low`` and ``mos_high``; None: no such columns.
        maps: where maps go; None: nowhere.
        max_pixels: a larger photo is refused.
        problems: arguments that are no photos, with what is wrong with them.
    """

    model: GRepQ
    regressor: GRepQRegressor | None
    interval: float | None
    maps: MapFolder | None
    max_pixels: int
    problems: dict[str, str]

    def read(self, path: str | Path) -> Photo:
        """Read a photo; called in threads.

        Raises:
            InputError: it can't be read.
            FileNotFoundError: it is not there.
        """
        if (problem := self.problems.get(str(path))) is not None:
            raise InputError(problem)
        data = read_bytes(path)
        try:
            image = decode_image(data, path, self.max_pixels)
        except PixelLimitError as error:
            raise InputError(f"{error} (--max-pixels)") from error
        height, width = image.shape[1:]
        warnings = []
        if image_header(data, path).animated:
            warnings.append("first of several frames or pages")
        if min(height, width) < (least := self.model.least_side):
            warnings.append(f"below {least} pixels on a side, padded")
        values = image.flatten(1)
        if (values.amax(1) - values.amin(1)).max() <= _FLAT:
            warnings.append("flat: no texture to judge")
        return Photo(image, warnings)

    def columns(self) -> tuple[str, ...]:
        """Of the rows, in order."""
        scores: tuple[str, ...] = ("score", *PATHWAYS)
        if self.regressor is not None:
            scores = ("mos",) if self.interval is None else ("mos", "mos_low", "mos_high")
        maps = () if self.maps is None else ("map",)
        return ("path", *scores, "width", "height", *maps, "warning", "error")

    def row(self, path: str, found: Photo | Exception) -> dict[str, Value]:
        """Score a photo; whatever goes wrong with it is in its row, and does not end the run."""
        row: dict[str, Value] = dict.fromkeys(self.columns())
        row["path"] = path
        if isinstance(found, Exception):
            row["error"] = _message(found)
            return row
        row["height"], row["width"] = found.image.shape[1:]
        row["warning"] = "; ".join(found.warnings) or None
        try:
            x = found.image.unsqueeze(0).to(self.model.device)
            scores = self._scores(x)
            broken = {name: value for name, value in scores.items() if value is not None and not math.isfinite(value)}
            if broken:
                values = ", ".join(f"{name} {value}" for name, value in broken.items())
                raise InputError(f"no finite number came out ({values}): the weights or the head are damaged")
            row.update(scores)
            if self.maps is not None:
                row["map"] = str(self.maps.write(self.model, x, path))
        except Exception as error:  # too large for the device or for OpenCV, a full disk: the other photos go on
            row["error"] = _message(error)
        return row

    def _scores(self, x: Tensor) -> dict[str, float | None]:
        if self.regressor is None:
            parts = self.model.components(x)
            return {name: None if (part := parts[name]) is None else part.item() for name in ("score", *PATHWAYS)}
        if (kind := self.regressor.features_) is None:
            raise InputError("the head was fitted to features of no model")
        features = self.model.features(x, kind).double().cpu().numpy()
        scores: dict[str, float | None] = {"mos": float(self.regressor.predict(features)[0])}
        if self.interval is not None:
            low, high = self.regressor.predict_interval(features, self.interval)[0]
            scores.update(mos_low=float(low), mos_high=float(high))
        return scores


def _message(error: Exception) -> str:
    return str(error).strip() or type(error).__name__
