"""Registers the metrics with pyiqa when pyiqa is imported, without importing it.

pyiqa finds architectures through entry points but reads metric records from a table in ``pyiqa.default_model_configs``
alone. Two ways lead here, both by an import hook that waits for that module: ``grepq_metric_autoload.pth``, which the wheel
puts into site-packages (its hook is one line that imports nothing until then, since it runs in every interpreter of the
environment), and ``import grepq_metric``.
"""

import sys

TABLE = "pyiqa.default_model_configs"
RECORDS = {
    "grepq": (["low", "high"], "0, 1.5"),
    "grepq-hl": (["high"], "0, 1"),
    "grepq-ll": (["low"], "0, 0.5"),
}
"""Metric names, which are also names of built-in weights, with their pathways and score ranges."""


class Finder:
    """An import hook that calls `find_spec`."""

    @staticmethod
    def find_spec(fullname, path=None, target=None):
        """See `importlib.abc.MetaPathFinder`."""
        return find_spec(fullname, path, target) if fullname == TABLE else None


def install() -> None:
    """Add the metric records to pyiqa: now if it is imported, else when it will be. Twice is harmless."""
    if TABLE in sys.modules:
        add_records(sys.modules[TABLE])
    elif Finder not in sys.meta_path:
        sys.meta_path.insert(0, Finder)


def find_spec(fullname, path=None, target=None):
    """Find pyiqa's table as Python would, and have the records added after it is executed."""
    from importlib.machinery import PathFinder

    spec = PathFinder.find_spec(fullname, path, target)
    if spec is not None and spec.loader is not None:
        execute = spec.loader.exec_module

        def execute_and_add(module):
            execute(module)
            add_records(module)

        spec.loader.exec_module = execute_and_add
    return spec


def add_records(table) -> None:
    """Add a record for each metric to the module `table`; a pyiqa whose table has another form is left alone."""
    configs = getattr(table, "DEFAULT_CONFIGS", None)
    if not isinstance(configs, dict):
        return
    for name, (pathways, score_range) in RECORDS.items():
        options = {"type": "GRepQ", "weights": name, "pathways": pathways}
        configs.setdefault(name, {"metric_opts": options, "metric_mode": "NR", "score_range": score_range})
