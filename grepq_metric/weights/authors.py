"""The name ``grepq-authors``: weights of the authors' files that were converted last on this machine, and where they lie."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub.constants
from torch import Tensor

from grepq_metric.catalog import AUTHORS
from grepq_metric.errors import WeightsError
from grepq_metric.files import whole_file
from grepq_metric.weights.folder import read_folder
from grepq_metric.weights.identity import weights_id

AGAIN = "`grepq convert` makes it again"


@dataclass(frozen=True)
class Converted:
    """Where the weights lie.

    Attributes:
        folder: their folder, absolute.
        weights_id: their id.
    """

    folder: Path
    weights_id: str


def kept() -> Path:
    """The folder, among the Hub client's assets, for the authors' files; it need not exist."""
    return Path(huggingface_hub.constants.HF_ASSETS_CACHE) / "grepq-metric" / AUTHORS.name


def remember(folder: str | Path, identity: str) -> None:
    """Let the name mean the weights in `folder` from now on.

    Raises:
        WeightsError: the record can't be written; the weights are not touched.
    """
    folder = Path(folder).absolute()
    try:
        _record().parent.mkdir(parents=True, exist_ok=True)
        with whole_file(_record()) as part:
            part.write_text(json.dumps({"folder": str(folder), "weights_id": identity}), encoding="utf-8")
    except OSError as error:
        raise WeightsError(f"the weights are in {folder}, but {AUTHORS.name} can't be made their name: {error}") from error


def remembered() -> Converted | None:
    """What the name means; None: nothing was converted.

    Raises:
        WeightsError: the record is damaged.
    """
    try:
        found = json.loads(_record().read_text(encoding="utf-8"))
        return Converted(Path(found["folder"]), str(found["weights_id"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{_record()} is damaged, and so nobody knows where {AUTHORS.name} lies: {AGAIN}") from error


def read_converted() -> tuple[dict[str, Any], dict[str, Tensor], Path]:
    """The weights that the name means, as `read_folder` gives them.

    Raises:
        WeightsError: nothing was converted, or the weights have been moved or replaced since then.
    """
    known = remembered()
    if known is None:
        raise WeightsError(
            f"{AUTHORS.name} is not on this machine yet (no {_record()}): `grepq convert` makes it of the files that GRepQ's "
            f"authors released, which it can fetch. A folder of that name is given as ./{AUTHORS.name}"
        )
    try:
        config, tensors, file = read_folder(known.folder)
    except FileNotFoundError as error:
        raise WeightsError(f"{AUTHORS.name} was converted to {known.folder}, and is not there any more: {AGAIN}") from error
    identity = weights_id(config, tensors)
    if identity != known.weights_id:
        raise WeightsError(f"{known.folder} holds {identity}, and not the {known.weights_id} converted to it: {AGAIN}")
    return config, tensors, file


def _record() -> Path:
    return kept().with_suffix(".json")  # beside it, since the files may be deleted
