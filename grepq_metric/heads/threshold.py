"""The cut-off between photos to keep and photos to drop, from a few that somebody has accepted or rejected."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

from grepq_metric.errors import InputError
from grepq_metric.heads.evaluation import Estimate

FEW = 20
"""Labels of a kind below which the intervals are so wide that the cut-off is hardly more than a guess."""
_LEVEL = 0.95


@dataclass(frozen=True)
class Threshold:
    """A cut-off: photos whose score is above it are kept.

    Attributes:
        cutoff: half way between two neighbouring scores, with the 95 % interval of a bootstrap over photos.
        between: the two scores; every cut-off between them keeps the same photos.
        precision: share of acceptable photos among those kept, with a 95 % interval.
        recall: share of the acceptable photos that are kept, likewise.
        kept: share of all photos that are kept.
        auc: area under the ROC curve: how often an accepted photo has a higher score than a rejected one.
        accepted: labels of this kind.
        rejected: likewise.
        reached: whether the wanted precision or recall is reached; if not, this is the cut-off that comes nearest.
    """

    cutoff: Estimate
    between: tuple[float, float]
    precision: Estimate
    recall: Estimate
    kept: float
    auc: float
    accepted: int
    rejected: int
    reached: bool


def find_threshold(
    scores: ArrayLike,
    accepted: ArrayLike,
    *,
    precision: float | None = None,
    recall: float | None = None,
    prior: float | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> Threshold:
    """Find the cut-off of a wanted precision that keeps the most, or of a wanted recall that is the most precise.

    The cut-offs tried lie half way between neighbouring scores, and one is below them all. Precision is that of photos which
    are mixed as the labelled ones are; `prior` corrects it for a folder with another share of acceptable photos. Intervals of
    precision and recall are Clopper and Pearson's, exact for a cut-off that is given beforehand; this one is chosen on the
    same photos, so that the truth is on average a little lower. With a prior, the interval of the precision follows from those
    of the two shares of photos kept, and is wide rather than narrow. The interval of the cut-off is the percentiles' of a
    bootstrap that draws accepted and rejected photos apart.

    Args:
        scores: ``(N,)`` finite numbers, higher is better.
        accepted: ``(N,)`` of bool, or 0 and 1: whether somebody would keep the photo.
        precision: wanted, in (0, 1].
        recall: wanted, in (0, 1], in place of the precision.
        prior: share of acceptable photos where the cut-off is to be used, in (0, 1); None: as among the labels.
        draws: of the bootstrap, at least 1.
        seed: of its random numbers; the same one gives the same interval.

    Raises:
        ValueError: a number is out of its range, both or none of `precision` and `recall` are given, lengths differ, labels
            are of one kind, or all scores are equal.

    Examples:
        >>> from grepq_metric.heads.threshold import find_threshold
        >>> scores = [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
        >>> accepted = [False, False, False, True, False, True, True, True]
        >>> found = find_threshold(scores, accepted, precision=0.8)
        >>> round(found.cutoff.value, 3), found.precision.value, found.recall.value
        (0.45, 0.8, 1.0)
        >>> found = find_threshold(scores, accepted, precision=0.95)
        >>> round(found.cutoff.value, 3), found.precision.value, found.recall.value
        (0.65, 1.0, 0.75)
    """
    values, good = _checked(scores, accepted)
    if (precision is None) == (recall is None):
        raise InputError("give a precision or a recall, one of them")
    name, wanted = ("precision", precision) if precision is not None else ("recall", recall)
    if not 0 < (wanted or 0) <= 1:
        raise InputError(f"{name} must be above 0 and at most 1, got {wanted:g}")
    if prior is not None and not 0 < prior < 1:
        raise InputError(f"prior must be between 0 and 1, got {prior:g}")
    if draws < 1:
        raise InputError(f"draws must be 1 or more, got {draws}")
    order = np.argsort(values, kind="stable")
    values, good = values[order], good[order]
    found = _Cuts(values, good, prior)
    at, reached = found.choose(precision, recall)
    rng, kinds = np.random.default_rng(seed), (np.flatnonzero(good), np.flatnonzero(~good))
    cutoffs = []
    for _ in range(draws):
        drawn = np.sort(np.concatenate([rng.choice(kind, len(kind)) for kind in kinds]))
        cuts = _Cuts(values[drawn], good[drawn], prior)
        cutoffs.append(cuts.cutoffs[cuts.choose(precision, recall)[0]])
    low, high = np.percentile(cutoffs, (100 * (1 - _LEVEL) / 2, 100 * (1 + _LEVEL) / 2))
    ranks = scipy.stats.rankdata(values)
    count = len(kinds[0])
    auc = (ranks[good].sum() - count * (count + 1) / 2) / (count * len(kinds[1]))
    return Threshold(
        cutoff=Estimate(float(found.cutoffs[at]), float(low), float(high)),
        between=(float(found.below[at]), float(found.above[at])),
        precision=_precision(int(found.right[at]), count, int(found.wrong[at]), len(kinds[1]), prior),
        recall=_share(int(found.right[at]), count),
        kept=float(found.kept[at]),
        auc=float(auc),
        accepted=count,
        rejected=len(kinds[1]),
        reached=reached,
    )


class _Cuts:
    """All cut-offs of scores in rising order, from the lowest on, and what each keeps."""

    def __init__(self, values: np.ndarray, good: np.ndarray, prior: float | None) -> None:
        starts = np.flatnonzero(np.diff(values, prepend=-np.inf))  # of each run of equal scores
        self.above = values[starts]
        # The lowest one has no neighbour below: it keeps the distance that it has from its neighbour above.
        step = self.above[1] - self.above[0] if len(self.above) > 1 else max(abs(self.above[0]), 1.0) * 1e-3
        self.below = np.concatenate([[self.above[0] - step], self.above[:-1]])
        self.cutoffs = self.below + (self.above - self.below) / 2
        self.right, self.wrong = (np.cumsum(kind[::-1])[::-1][starts] for kind in (good, ~good))
        recall, fallout = self.right / good.sum(), self.wrong / (~good).sum()
        share = good.mean() if prior is None else prior
        self.recall, self.kept = recall, share * recall + (1 - share) * fallout
        self.precision = share * recall / self.kept

    def choose(self, precision: float | None, recall: float | None) -> tuple[int, bool]:
        """The position of the best cut-off, and whether it reaches what is wanted."""
        slack = 1e-12  # of sums that should be equal
        if recall is not None:
            wanted, there, other = recall, self.recall, self.precision
        else:
            wanted, there, other = precision or 0.0, self.precision, self.recall
        reach = there >= wanted - slack
        if not reach.any():
            reach, other = there >= there.max() - slack, self.recall
        return int(np.lexsort((there, np.where(reach, other, -1.0)))[-1]), bool((there >= wanted - slack).any())


def _checked(scores: ArrayLike, accepted: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    values, labels = np.asarray(scores, np.float64), np.asarray(accepted)
    if values.ndim != 1 or values.shape != labels.shape:
        raise InputError(f"expected a score and a label for each photo, got {values.shape} and {labels.shape}")
    if not np.isfinite(values).all():
        raise InputError("scores must be finite numbers")
    if labels.dtype != bool and not np.isin(labels, (0, 1)).all():
        raise InputError("labels must be True or False, or 1 and 0")
    good = labels.astype(bool)
    if good.all() or not good.any():
        kind = "rejected" if good.all() else "accepted"
        raise InputError(f"a cut-off needs photos of both kinds: none of the {len(good)} labelled ones is {kind}")
    if values.min() == values.max():
        raise InputError(f"a cut-off needs scores that differ: all {len(values)} are {values[0]:g}")
    return values, good


def _share(count: int, of: int) -> Estimate:
    """A share with Clopper and Pearson's interval."""
    found = scipy.stats.binomtest(count, of).proportion_ci(_LEVEL, "exact")
    return Estimate(count / of, float(found.low), float(found.high))


def _precision(right: int, accepted: int, wrong: int, rejected: int, prior: float | None) -> Estimate:
    if prior is None:
        return _share(right, right + wrong)
    # Two independent samples: both shares lie within intervals of the square root of the level with the level's probability.
    level = _LEVEL**0.5
    recall, fallout = (
        scipy.stats.binomtest(count, of).proportion_ci(level, "exact") for count, of in ((right, accepted), (wrong, rejected))
    )

    def share(good: float, bad: float) -> float:
        total = prior * good + (1 - prior) * bad
        return float(prior * good / total) if total else 1.0

    value = share(right / accepted, wrong / rejected)
    return Estimate(value, share(recall.low, fallout.high), share(recall.high, fallout.low))
