"""How labels are drawn and heads are tested: the same for all features, in the runner and in the studies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import GroupShuffleSplit

from grepq_metric.heads import RidgeHead

BUDGETS = (50, 100, 200)
"""Numbers of labels of the few-label protocol."""
DRAWS = 20
TEST_SHARE = 0.2

Part = tuple[np.ndarray, np.ndarray]
"""Positions of images to train on, and of others to test on."""


@dataclass(frozen=True)
class Draw:
    """Labels drawn for a head, and the images that it is tested on.

    Attributes:
        labels: how many were asked for; None: all.
        number: of the draw, from 0.
        train: ``(labels,)`` positions of images whose labels are used.
        test: positions of images to test on.
    """

    labels: int | None
    number: int
    train: np.ndarray
    test: np.ndarray


def splits(official: Sequence[str | None], contents: Sequence[str], count: int, seed: int) -> Iterator[Part]:
    """Training and test images: `count` times the official split, or random ones of 80 % and 20 % that share no content.

    Args:
        official: ``train``, ``val`` or ``test`` of each image; without any ``test`` the splits are random.
        contents: what each image shows.
        count: how many splits.
        seed: of the random ones.
    """
    tested = np.array([part == "test" for part in official])
    if tested.any():
        for _ in range(count):
            yield np.flatnonzero(~tested), np.flatnonzero(tested)
        return
    yield from GroupShuffleSplit(count, test_size=TEST_SHARE, random_state=seed).split(contents, groups=contents)


def halves(count: int, seed: int) -> Part:
    """Positions of a random half of `count` photos, and of the other one."""
    order = np.random.default_rng(seed).permutation(count)
    return order[: count // 2], order[count // 2 :]


def few_labels(parts: Iterable[Part], labels: int | None, seed: Sequence[int] = ()) -> Iterator[Draw]:
    """One draw of `labels` training images from each part, or of all where it is None.

    A draw depends on `seed`, `labels` and its number alone, so that all features are tested on the same images. Parts with
    fewer training images than `labels` yield nothing.
    """
    for number, (pool, test) in enumerate(parts):
        if labels is None:
            yield Draw(None, number, pool, test)
        elif labels <= len(pool):
            chosen = np.random.default_rng([*seed, labels, number]).choice(pool, labels, replace=False)
            yield Draw(labels, number, chosen, test)


def new_head() -> RidgeHead:
    """The head that all comparisons of features use."""
    return RidgeHead()


def predictions(x: np.ndarray, mos: np.ndarray, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
    """Fit a head to the labels of a draw and predict its test images.

    Args:
        x: ``(N, C)`` features; images whose row is not finite are passed over.
        mos: ``(N,)`` opinion scores, higher is better.
        draw: positions in `x` and `mos`.

    Returns:
        Positions that were tested, and their predictions.

    Raises:
        ValueError: too few labels are left.
    """
    usable = np.isfinite(x).all(1)
    train, test = draw.train[usable[draw.train]], draw.test[usable[draw.test]]
    return test, new_head().fit(x[train], mos[train]).predict(x[test])
