"""Metrics of a benchmark: any of pyiqa's, those of other packages, and scores computed elsewhere."""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness.datasets import Item, parse_spec, typed
from benchmarks.harness.peers import PEERS, brisque_features

OURS = ("grepq", "grepq-hl", "grepq-ll")


@dataclass(frozen=True)
class Metric:
    """A metric that is ready to run.

    Attributes:
        id: name and a hash of weights, options and versions.
        mode: ``NR`` or ``FR``.
        lower_better: whether a lower score is better.
        score: image ``(1, 3, H, W)``, reference or None, item -> score; or None if it only has features.
        features: image -> ``(C,)``, for regression on labels; or None.
        provenance: what the id stands for.
    """

    id: str
    mode: str
    lower_better: bool
    score: Callable[[torch.Tensor | None, torch.Tensor | None, Item], float] | None
    features: Callable[[torch.Tensor], np.ndarray] | None = None
    provenance: dict = field(default_factory=dict)

    @property
    def reads_images(self) -> bool:
        """Whether it looks at images, and not at a file of scores."""
        return "scores_sha256" not in self.provenance


def known_metrics() -> dict[str, str]:
    """Names of metrics that can be asked for, and their modes."""
    import pyiqa

    modes = {name: mode for mode in ("NR", "FR") for name in pyiqa.list_models(mode)}
    return {**modes, **dict.fromkeys([*PEERS, "brisque-features"], "NR")}


def open_metric(spec: str, device: str = "cpu") -> Metric:
    """A metric by its spec: ``name``, ``name:option=value,...`` for pyiqa, or ``scores.csv[:lower_better=true,name=...]``.

    Raises:
        ValueError: the name is unknown, an option is wrong, or its weights can't be had.
        FileNotFoundError: there is no such file of scores.
    """
    import pyiqa

    name, options = parse_spec(spec)
    if name.lower().endswith(".csv"):
        return _elsewhere(Path(name).expanduser(), typed(options, {"lower_better": False, "name": ""}, "a file of scores"))
    known = known_metrics()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise ValueError(f"unknown metric {name!r}{hint} `python -m benchmarks list` names all")
    if name in PEERS or name == "brisque-features":
        if options:
            raise ValueError(f"{name} takes no options, got {sorted(options)}")
        return _of_a_package(name)
    kind = options.pop("features", "image") if name in OURS else None
    try:
        network = pyiqa.create_metric(name, device=device, **options)
    except Exception as error:  # a download that fails, an option that is unknown: whatever pyiqa raises
        raise ValueError(f"pyiqa cannot create {spec!r}: {type(error).__name__}: {error}") from error
    provenance = {"metric": name, "options": {k: str(v) for k, v in options.items()}, "pyiqa": pyiqa.__version__}

    def score(image, reference, item):
        with torch.inference_mode():
            pair = (image.to(device), reference.to(device)) if known[name] == "FR" else (image.to(device),)
            return float(network(*pair))

    if name not in OURS:
        return Metric(f"{name}-{_digest(provenance, network)}", known[name], network.lower_better, score, None, provenance)
    model = network.net.model
    weights, head = model.weights_id, options.get("head")
    suffix = f"+head-{hashlib.sha256(Path(head).read_bytes()).hexdigest()[:8]}" if head else ""
    suffix += "" if kind == "image" else f"+{kind}"

    def features(image):
        with torch.inference_mode():
            return model.features(image.to(device), kind)[0].float().cpu().numpy()

    features(torch.zeros(1, 3, 96, 96))  # says now, and not after hours, that there are no such features
    return Metric(weights + suffix, "NR", False, score, features, {**provenance, "weights": weights, "features": kind})


def _of_a_package(name: str) -> Metric:
    from importlib.metadata import PackageNotFoundError, version

    package = {"brisque-package": "brisque", "niqe-package": "scikit-video", "brisque-features": "pyiqa"}[name]
    try:
        provenance = {"metric": name, package: version(package)}
    except PackageNotFoundError as error:
        raise ValueError(f'{name} needs the package {package}: pip install "grepq-metric[peers]"') from error
    features = (lambda image: brisque_features(image).float().numpy()) if name == "brisque-features" else None
    score = None if features else (lambda image, reference, item: PEERS[name](image))
    return Metric(f"{name}-{_digest(provenance)}", "NR", True, score, features, provenance)


def _elsewhere(path: Path, options: dict) -> Metric:
    if not path.is_file():
        raise FileNotFoundError(f"no file of scores at {path}")
    data = path.read_bytes()
    try:
        reader = csv.DictReader(data.decode("utf-8-sig").splitlines())
        if not {"image", "score"} <= set(reader.fieldnames or []):
            raise ValueError(f"{path} needs the columns image and score, it has {reader.fieldnames}")
        scores = {}
        for row in reader:
            if row["image"] in scores:
                raise ValueError(f"{path} names {row['image']} twice")
            scores[row["image"]] = row["score"]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no CSV file in UTF-8: {error}") from error

    def score(image, reference, item):
        if item.name not in scores:
            raise ValueError(f"{path.name} has no score of {item.name}")
        return float(scores[item.name])

    lower_better = options["lower_better"]
    provenance = {"file": path.name, "scores_sha256": hashlib.sha256(data).hexdigest(), "lower_better": lower_better}
    return Metric(f"{options['name'] or path.stem}-{_digest(provenance)}", "NR", lower_better, score, None, provenance)


def _digest(provenance: dict, network: torch.nn.Module | None = None) -> str:
    digest = hashlib.sha256(json.dumps(provenance, sort_keys=True).encode())
    for key, value in sorted(network.state_dict().items()) if network is not None else ():
        digest.update(key.encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]
