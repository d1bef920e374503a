"""Near duplicates: photos whose thumbnails look the same."""

from __future__ import annotations

import numpy as np
from PIL import Image

DISTANCE = 4
"""Bits of the 64 in which two photos may differ and still count as alike."""
FLAT = 4
"""A thumbnail whose grey values at 9 x 8 pixels lie this close together has no pattern by which to compare it."""
_BLOCK = 1024


def difference_hash(image: Image.Image) -> np.ndarray | None:
    """A difference hash: whether each pixel is brighter than its left neighbour, of the photo in grey at 9 x 8 pixels.

    It hardly changes with size, compression, brightness or a slight blur; it does when the photo is cropped, turned or
    mirrored.

    Returns:
        ``(64,)`` bool, or None of a photo that is all but flat.

    Examples:
        >>> from PIL import Image
        >>> from grepq_metric.pages.alike import difference_hash
        >>> gradient = Image.linear_gradient("L").rotate(90)
        >>> difference_hash(gradient).all(), difference_hash(Image.new("L", (64, 64)))
        (np.True_, None)
    """
    values = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    return None if np.ptp(values) <= FLAT else (values[:, 1:] > values[:, :-1]).ravel()


def alike(hashes: list[np.ndarray | None]) -> list[int]:
    """Groups of near duplicates, by number; -1: alone.

    Two photos whose hashes differ in at most `DISTANCE` bits are of one group, and so are those that others link.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    groups = np.full(len(hashes), -1)
    where = np.array([i for i, bits in enumerate(hashes) if bits is not None], int)
    if not len(where):
        return groups.tolist()
    packed, index = np.unique(np.stack([bits for bits in hashes if bits is not None]), axis=0, return_inverse=True)
    # Of signs, a product of matrices counts the bits that agree less those that differ: quicker than to count them.
    signs = packed.astype(np.float32) * 2 - 1
    first, second = [], []
    for begin in range(0, len(signs), _BLOCK):
        near, other = np.nonzero(signs[begin : begin + _BLOCK] @ signs[begin:].T >= signs.shape[1] - 2 * DISTANCE)
        first.append(near + begin)
        second.append(other + begin)
    pairs = (np.concatenate(first), np.concatenate(second))
    graph = coo_array((np.ones(len(pairs[0]), bool), pairs), shape=(len(signs), len(signs)))
    _, labels = connected_components(graph, directed=False)
    labels = labels[index.ravel()]
    _, dense, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    several = sizes[dense] > 1
    _, groups[where[several]] = np.unique(dense[several], return_inverse=True)
    return groups.tolist()
