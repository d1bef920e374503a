"""Write statistics of pristine photos for `benchmarks.harness.mdfs`, so that a run need not fit them again.

    python -m benchmarks.pristine mdfs-lite PHOTOS --every 3 --out benchmarks/harness/mdfs-lite.safetensors
    python -m benchmarks.pristine mdfs --weights B7.pth PHOTOS --out b7.safetensors

The first line is for those that ``mdfs-lite`` has of its own, of 348 undistorted photos. The harness reads such files by
``--metrics mdfs-lite:pristine=FILE`` and ``mdfs:pristine=FILE,weights=B7.pth``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.mdfs import backbone_of, fit_folder, write_statistics


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("metric", choices=("mdfs", "mdfs-lite"))
    parser.add_argument("photos", type=Path, help="folder of undistorted photos")
    parser.add_argument("--weights", type=Path, help="of mdfs: file of EfficientNet-B7's values")
    parser.add_argument("--every", type=int, default=1, help="use one photo in so many")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    given = parser.parse_args(arguments)
    write_statistics(fit_folder(given.photos, backbone_of(given.metric, given.weights), every=given.every), given.out)


if __name__ == "__main__":
    main()
