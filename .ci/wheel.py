"""Lists what a wheel holds, and compares it with wheel.txt: ``python .ci/wheel.py dist/*.whl``."""

from __future__ import annotations

import sys
import zipfile
from fnmatch import fnmatchcase
from pathlib import Path

EXPECTED = Path(__file__).with_name("wheel.txt")


def differences(names: list[str]) -> list[str]:
    """Names that no pattern allows, and patterns that no name matches, a line each."""
    lines = EXPECTED.read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    foreign = [f"not expected: {name}" for name in names if not any(fnmatchcase(name, pattern) for pattern in patterns)]
    return foreign + [f"missing: {pattern}" for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]


def main(wheel: str) -> int:
    """Print the list, and what is wrong with it."""
    with zipfile.ZipFile(wheel) as archive:
        infos = sorted(archive.infolist(), key=lambda info: info.filename)
    for info in infos:
        print(f"{info.file_size:>10,}  {info.filename}")
    found = differences([info.filename for info in infos])
    print(*found, sep="\n", file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
