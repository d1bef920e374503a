"""A filter for Data-Juicer, which takes the path of this file as ``--custom-operator-paths``."""

from __future__ import annotations

import math
from typing import Any

from data_juicer.ops.base_op import OPERATORS, Filter
from data_juicer.utils.constant import Fields

from grepq_metric import Scorer
from grepq_metric.errors import InputError

NAME = "image_grepq_filter"
SCORES = "image_grepq_scores"
"""Key of the scores in a sample's statistics, one for each image; NaN for one that can't be read."""


@OPERATORS.register_module(NAME)
class ImageGrepqFilter(Filter):
    """Keeps samples whose images have scores within bounds, both included; samples without images are kept.

    An image that can't be read has no score, and is within no bounds.

    Args:
        weights: as in `Scorer`.
        head: as in `Scorer`; bounds are then of the predicted mean opinion score.
        min_score: lower bound; None: none.
        max_score: upper bound; None: none.
        any_or_all: whether ``any`` image is enough, or ``all`` must be within the bounds.
        precision, speed, resolution: cheaper modes, see `GRepQ`.
        device: as in `Scorer`.
        settings: of Data-Juicer's operators, such as ``image_key`` and ``num_proc``.

    Raises:
        InputError: an option is unknown or out of its range.
    """

    _batched_op = True

    def __init__(
        self,
        weights: str | None = None,
        head: str | None = None,
        min_score: float | None = None,
        max_score: float | None = None,
        any_or_all: str = "any",
        precision: str | None = None,
        speed: str | None = None,
        resolution: int | None = None,
        device: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if any_or_all not in ("any", "all"):
            raise InputError(f"any_or_all must be any or all, got {any_or_all!r}")
        self.min_score, self.max_score, self.any_or_all = min_score, max_score, any_or_all
        modes = {"precision": precision, "speed": speed, "resolution": resolution}
        options: dict[str, Any] = {name: value for name, value in modes.items() if value is not None}
        self.scorer = Scorer(weights, head, device, **options)
        self.score_column = "score" if head is None else "mos"

    def compute_stats_batched(self, samples: dict[str, list[Any]], *_: Any, **__: Any) -> dict[str, list[Any]]:
        """Add the scores of all images to the statistics of their samples."""
        stats = samples[Fields.stats]
        todo = [i for i, found in enumerate(stats) if SCORES not in found]
        paths, contents = (self._images(samples, key) for key in (self.image_key, self.image_bytes_key))
        images: list[Any] = []
        for i in todo:
            images += [{"bytes": data} for data in contents[i]] if contents[i] else [{"path": path} for path in paths[i]]
        scored = iter(self.scorer({"image": images})[self.score_column])
        for i in todo:
            count = len(contents[i] or paths[i])
            scores = (next(scored) for _ in range(count))
            stats[i][SCORES] = [math.nan if score is None else score for score in scores]
        return samples

    def process_single(self, sample: dict[str, Any]) -> bool:
        """Whether to keep a sample."""
        scores = sample[Fields.stats][SCORES]
        if not len(scores):
            return True
        # Stored, NaN may have become None.
        known = [score is not None and not math.isnan(score) for score in scores]
        kept = [k and self.get_keep_boolean(s, self.min_score, self.max_score) for k, s in zip(known, scores, strict=True)]
        return any(kept) if self.any_or_all == "any" else all(kept)

    @staticmethod
    def _images(samples: dict[str, list[Any]], key: str) -> list[list[Any]]:
        column = samples[key] if key in samples else [None] * len(samples[Fields.stats])
        return [list(found or ()) for found in column]
