"""Make the packaged distributions of scores and facts over reference photos, which percentiles and points rest on.

    python -m benchmarks.reference DATA --out grepq_metric/assets/reference.json

The photos, a third each, without labels: clean ones of ``photos``; others of ``photos``, each with one distortion of the
training's at a random level; and the authentic ones of ``biq2021_dev``. Every metric of the package is run in every mode,
which takes half an hour on two cores. What OUT has of these weights stays, and what is finished is in ``OUT.parts``, from
which a later run goes on. ``qfm-iqm`` has learned from the scores of the last third.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from grepq_metric import GRepQ, load_model, read_image
from grepq_metric.facts import measure
from grepq_metric.models import QualityModel
from grepq_metric.models.base import PRECISIONS
from grepq_metric.reference import LEVELS
from grepq_metric.tables import FACTS
from grepq_metric.training.distortions import DISTORTIONS, distort
from grepq_metric.training.distortions import LEVELS as STRENGTHS

NAME = "1,200 reference photos: a third clean, a third distorted, a third of BIQ2021"
EACH = 400
SEED = 20261125
METRICS = ("grepq-sem", "grepq-lite", "grepq-ll")
"""Scored in one pass."""
OTHERS = ("qfm-iqm",)
MODES: list[dict[str, Any]] = [{"precision": p, "speed": s} for s, p in product(("exact", "dense"), ("fp32", "bf16"))]


def photos(data: Path) -> Iterator[np.ndarray]:
    """The reference photos, ``(H, W, 3)`` uint8, always the same."""
    rng = np.random.default_rng(SEED)
    clean = rng.permutation(sorted((data / "photos").glob("*.jpg")))
    authentic = rng.permutation(sorted((data / "biq2021_dev" / "images").iterdir()))
    kinds, levels = rng.choice(sorted(DISTORTIONS), EACH), rng.integers(1, STRENGTHS + 1, EACH)
    for i, path in enumerate([*clean[: 2 * EACH], *authentic[:EACH]]):
        image = (read_image(path).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        if EACH <= i < 2 * EACH:
            image = distort(image, [(str(kinds[i - EACH]), int(levels[i - EACH]))], seed=i)
        yield image


def models_of(mode: dict[str, Any]) -> dict[str, GRepQ]:
    """The models of `METRICS` in a mode, as far as they have it."""
    models = {name: GRepQ.from_pretrained(name, **({} if name == "grepq-sem" else mode)) for name in METRICS}
    models["grepq-sem"] = GRepQ.from_pretrained("grepq-sem", precision=mode["precision"])
    return models


def scores(data: Path, mode: dict[str, Any]) -> dict[str, list[float]]:
    """Scores of the photos in a mode, by weights' id: one pass of the joined metric, whose parts are the others' scores."""
    models = models_of(mode)
    joined, low = models["grepq-lite"].requires_grad_(False), models["grepq-ll"].low
    assert low is not None
    found: dict[str, list[float]] = {model.weights_id: [] for model in models.values()}
    for i, image in enumerate(tqdm(photos(data), total=3 * EACH, desc=str(mode), unit="photo")):
        x = torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0).float() / 255
        with torch.inference_mode():
            parts = {name: value for name, value in joined.components(x).items() if value is not None}
            values = {
                "grepq-sem": parts["semantic"],
                "grepq-lite": parts["score"],
                "grepq-ll": torch.sigmoid(-parts["distance"] / low.config.distance_scale),
            }
            for name, model in models.items():
                found[model.weights_id].append(float(values[name]))
                if i < 2:  # the parts are indeed the scores
                    assert abs(float(model.requires_grad_(False)(x)) - float(values[name])) < 1e-5, (name, mode)
    return found


@torch.inference_mode()
def scores_of(model: QualityModel, data: Path) -> dict[str, list[float]]:
    """Scores of the photos by a model, by its weights' id."""
    shown = tqdm(photos(data), total=3 * EACH, desc=model.weights_id, unit="photo")
    found = [float(model(torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0).float() / 255)) for image in shown]
    return {model.weights_id: found}


def passes() -> Iterator[tuple[set[str], Callable[[Path], dict[str, list[float]]]]]:
    """What is to be measured: ids of weights, and how they are scored."""
    for mode in MODES:
        yield {model.weights_id for model in models_of(mode).values()}, partial(scores, mode=mode)
    for name in OTHERS:
        for precision in PRECISIONS:
            model = load_model(name, precision=precision).requires_grad_(False)
            yield {model.weights_id}, partial(scores_of, model)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with photos/ and biq2021_dev/images/")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    given = parser.parse_args()
    before = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else {"scores": {}, "facts": {}}
    parts = given.out.with_name(f"{given.out.name}.parts")
    done: dict[str, list[float]] = json.loads(parts.read_text()) if parts.exists() else {}
    columns: dict[str, list[float]] = {}
    for identities, measured in passes():
        if identities <= set(before["scores"]):
            columns |= {identity: before["scores"][identity] for identity in identities}
            continue
        if not identities <= set(done):
            done |= measured(given.data)
            parts.write_text(json.dumps(done))
        columns |= {identity: _quantiles(done[identity]) for identity in identities}
    sides, facts = before.get("largest_side", 0), before["facts"]
    if set(facts) != set(FACTS):
        sides, facts = _facts(given.data)
    text = {
        "name": NAME,
        "date": date.today().isoformat(),
        "made_by": "python -m benchmarks.reference",
        "count": 3 * EACH,
        "largest_side": sides,
        "scores": columns,
        "facts": facts,
    }
    given.out.write_text(json.dumps(text, indent=None, separators=(",", ":")).replace('],"', '],\n"') + "\n", encoding="utf-8")
    parts.unlink(missing_ok=True)


def _facts(data: Path) -> tuple[int, dict[str, list[float]]]:
    """The longest side of the photos in pixels, and the quantiles of each fact."""
    longest = 0
    found: dict[str, list[float]] = {name: [] for name in FACTS}
    for image in photos(data):
        longest = max(longest, *image.shape[:2])
        for name, value in measure(image.transpose(2, 0, 1).astype(np.float32) / 255).items():
            found[name].append(value)
    return longest, {name: _quantiles(values) for name, values in found.items()}


def _quantiles(values: list[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in np.quantile(values, LEVELS)]


if __name__ == "__main__":
    main()
