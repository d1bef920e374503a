"""Registers the metrics with pyiqa when pyiqa is imported, without importing it.

pyiqa finds architectures through entry points but reads metric records from a table in ``pyiqa.default_model_configs``
alone. Two ways lead here, both by an import hook that waits for that module: ``grepq_metric_autoload.pth``, which the wheel
puts into site-packages (its hook is one line that imports nothing until then, since it runs in every interpreter of the
environment), and ``import grepq_metric``.

A pyiqa that reads records from entry points, as ``docs/pyiqa_proposal.md`` proposes, says so by a constant of that module, and
is left alone: it calls `records` through the entry point of this package.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from grepq_metric import catalog

TABLE = "pyiqa.default_model_configs"
GROUP = "pyiqa.configs"
"""The group of entry points from which pyiqa may read metric records; its constant ``CONFIG_ENTRY_POINT_GROUP`` names it."""


class Finder:
    """An import hook that calls `find_spec`."""

    @staticmethod
    def find_spec(fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        return find_spec(fullname, path, target) if fullname == TABLE else None


def install() -> None:
    """Add the metric records to pyiqa: now if it is imported, else when it will be. Twice is harmless."""
    if TABLE in sys.modules:
        add_records(sys.modules[TABLE])
    elif Finder not in sys.meta_path:
        sys.meta_path.insert(0, Finder)


def find_spec(fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
    """Find pyiqa's table as Python would, and have the records added after it is executed."""
    spec = PathFinder.find_spec(fullname, path, target)
    if spec is not None and spec.loader is not None:
        execute = spec.loader.exec_module

        def execute_and_add(module: ModuleType) -> None:
            execute(module)
            try:
                add_records(module)
            except Exception as error:  # pyiqa is to be imported all the same
                warnings.warn(f"the metrics of grepq-metric could not be added to pyiqa: {error!r}", stacklevel=2)

        spec.loader.exec_module = execute_and_add  # type: ignore[method-assign]
    return spec


def records() -> dict[str, dict[str, Any]]:
    """pyiqa's record of each metric: those of the catalog, and ``grepq-mos``, which needs a head and has its scale."""
    found: dict[str, dict[str, Any]] = {}
    for entry in reversed(catalog.ENTRIES):  # the newest tag of a name comes last, and stays
        least, best = entry.score_range
        options: dict[str, Any] = {"type": "GRepQ", "weights": entry.name, "pathways": list(entry.pathways)}
        found[entry.name] = {"metric_opts": options, "metric_mode": "NR", "score_range": f"{least:g}, {best:g}"}
    with_head: dict[str, Any] = {"type": "GRepQ", "predicts_mos": True}
    return {**found, "grepq-mos": {"metric_opts": with_head, "metric_mode": "NR", "score_range": "of the head"}}


def add_records(table: ModuleType) -> None:
    """Add a record for each metric to the module `table`, but for names that are there.

    A pyiqa whose table has another form, or that reads entry points of `GROUP` by itself, is left alone.
    """
    if getattr(table, "CONFIG_ENTRY_POINT_GROUP", None) == GROUP:
        return
    configs = getattr(table, "DEFAULT_CONFIGS", None)
    if isinstance(configs, dict):
        for name, record in records().items():
            configs.setdefault(name, record)
