"""GRepQ: no-reference image quality, as a PyTorch module, a pyiqa metric and a command line.

Importing this package is cheap, and registers its metrics with pyiqa: torch and pyiqa themselves load when a public name is
first used.
"""

from grepq_metric.integrations import hook

__version__ = "0.1.0"
__all__ = ["GRepQ", "GRepQLoss", "GRepQRegressor", "WeightsError", "grepq", "read_image"]

_HOMES = {
    "GRepQ": "grepq_metric.model",
    "GRepQLoss": "grepq_metric.loss",
    "GRepQRegressor": "grepq_metric.heads.regressor",
    "WeightsError": "grepq_metric.errors",
    "grepq": "grepq_metric.integrations.piq",
    "read_image": "grepq_metric.images",
}

TYPE_CHECKING = False  # as typing's, which would take time to import
if TYPE_CHECKING:
    from grepq_metric.errors import WeightsError
    from grepq_metric.heads.regressor import GRepQRegressor
    from grepq_metric.images import read_image
    from grepq_metric.integrations.piq import grepq
    from grepq_metric.loss import GRepQLoss
    from grepq_metric.model import GRepQ


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


hook.install()
