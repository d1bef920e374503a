"""Names of the installed packages that are there for pyiqa alone, itself included: not needed by a list of requirements."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ALSO_KEPT = ("packaging", "pip", "setuptools", "torchmetrics")


def needed_by(names: list[str]) -> set[str]:
    """Those packages and all that they require, as far as they are installed."""
    found: set[str] = set()
    while names:
        name = canonicalize_name(names.pop())
        if name in found:
            continue
        try:
            requirements = [Requirement(line) for line in requires(name) or []]
        except PackageNotFoundError:
            continue
        found.add(name)
        names += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def main() -> None:
    """Print them; the argument is a requirements file that pyiqa is not in."""
    lines = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
    kept = [Requirement(line).name for line in lines if line and not line.startswith("#")]
    print(*sorted(needed_by(["pyiqa"]) - needed_by([*kept, *ALSO_KEPT])))


if __name__ == "__main__":
    main()
