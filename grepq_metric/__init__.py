"""GRepQ: no-reference image quality, as a PyTorch module, a pyiqa metric and a command line.

Importing this package is cheap, and registers its metrics with pyiqa: torch and pyiqa themselves load when a public name is
first used.
"""

from __future__ import annotations

from grepq_metric.integrations import hook

__version__ = "0.2.0"
__all__ = [
    "QFMIQM",
    "GRepQ",
    "GRepQError",
    "GRepQLoss",
    "GRepQRegressor",
    "InputError",
    "RidgeHead",
    "Scorer",
    "WeightsError",
    "grepq",
    "load_model",
    "read_image",
    "score_files",
]

_HOMES = {
    "GRepQ": "grepq_metric.models",
    "GRepQError": "grepq_metric.errors",
    "GRepQLoss": "grepq_metric.loss",
    "GRepQRegressor": "grepq_metric.heads",
    "InputError": "grepq_metric.errors",
    "QFMIQM": "grepq_metric.models",
    "RidgeHead": "grepq_metric.heads",
    "Scorer": "grepq_metric.scoring",
    "WeightsError": "grepq_metric.errors",
    "grepq": "grepq_metric.integrations.piq",
    "load_model": "grepq_metric.models",
    "read_image": "grepq_metric.images",
    "score_files": "grepq_metric.scoring",
}

TYPE_CHECKING = False  # as typing's, which would take time to import
if TYPE_CHECKING:
    from grepq_metric.errors import GRepQError, InputError, WeightsError
    from grepq_metric.heads import GRepQRegressor, RidgeHead
    from grepq_metric.images import read_image
    from grepq_metric.integrations.piq import grepq
    from grepq_metric.loss import GRepQLoss
    from grepq_metric.models import QFMIQM, GRepQ, load_model
    from grepq_metric.scoring import Scorer, score_files


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


hook.install()
