"""Which photos to have rated first."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from sklearn.cluster import KMeans
from sklearn.preprocessing import StandardScaler

from grepq_metric.errors import InputError


def suggest(x: ArrayLike, count: int) -> list[int]:
    """Positions of photos to have rated first: those nearest to the centres of as many clusters of features.

    Few labels should be of typical photos: on BIQ2021 this beat random choice for up to 50 labels, and farthest-point sampling
    did not (``python -m benchmarks.studies.few_labels``).

    Args:
        x: features ``(N, C)``.
        count: how many, from 1 to N.

    Raises:
        ValueError: `x` is no matrix of finite features, or has fewer rows than `count`.

    Examples:
        >>> from grepq_metric.heads.selection import suggest
        >>> sorted(suggest([[0.0], [0.1], [0.2], [8.0], [8.1], [8.2]], count=2))
        [1, 4]
    """
    features = np.asarray(x)
    if features.ndim != 2 or not np.isfinite(features).all():
        raise InputError(f"expected finite features (N, C), got an array {features.shape}")
    if not 1 <= count <= len(features):
        raise InputError(f"expected a count from 1 to the number of photos, {len(features)}, got {count}")
    z = StandardScaler().fit_transform(features)
    distance = KMeans(count, n_init=1, random_state=0).fit(z).transform(z)
    chosen: list[int] = []
    for centre in distance.T:
        centre = centre.copy()
        centre[chosen] = np.inf  # two centres may share their nearest photo
        chosen.append(int(centre.argmin()))
    return chosen
