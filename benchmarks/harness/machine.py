"""What a measurement was made on: versions, processor, date, command, and the memory that it took."""

from __future__ import annotations

import os
import platform
import re
import resource
import shlex
import sys
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def versions(*packages: str) -> dict[str, str]:
    """Versions of those packages that are installed, and Python's."""
    found = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return {**found, "python": platform.python_version()}


def machine() -> str:
    """Processor, number of cores and system in a few words, and nothing that names this one machine."""
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {platform.system()}"


def today() -> str:
    """The date in UTC, ``YYYY-MM-DD``."""
    return datetime.now(timezone.utc).date().isoformat()


def command(module: str) -> str:
    """The command that is running, ``python -m MODULE ARGUMENTS``, without the folders above a path's last two parts."""
    return shlex.join(["python", "-m", module, *map(_short, sys.argv[1:])])


def _short(argument: str) -> str:
    """Absolute paths and those that lead upwards, also of options, name folders of this machine."""
    return "".join(_from_here(part) for part in re.split(r"([:,=])", argument))


def _from_here(part: str) -> str:
    names = Path(part).parts
    return "/".join(names[-2:]).removeprefix("../") if Path(part).is_absolute() or names[:1] == ("..",) else part


class PeakMemory:
    """Peak memory of this process from now on, in MiB; on Linux its mark can be set back, elsewhere it is of the whole run."""

    def __init__(self) -> None:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> float:
        """The peak so far."""
        with suppress(OSError, StopIteration):
            lines = Path("/proc/self/status").read_text().splitlines()
            return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
