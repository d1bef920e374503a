"""Make the packaged distributions of scores and facts over reference photos, which percentiles and points rest on.

    python -m benchmarks.reference DATA --out grepq_metric/assets/reference.json

The photos, a third each, without labels: clean ones of ``photos``; others of ``photos``, each with one distortion of the
training's at a random level; and the authentic ones of ``biq2021_dev``. Every metric of the package is run in every mode,
which takes half an hour on two cores; what is finished is kept in ``OUT.parts``, from which a later run goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from grepq_metric import GRepQ, read_image
from grepq_metric.facts import measure
from grepq_metric.reference import LEVELS
from grepq_metric.tables import FACTS
from grepq_metric.training.distortions import DISTORTIONS, distort
from grepq_metric.training.distortions import LEVELS as STRENGTHS

NAME = "1,200 reference photos: a third clean, a third distorted, a third of BIQ2021"
EACH = 400
SEED = 20261125
METRICS = ("grepq-sem", "grepq-lite", "grepq-ll")
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


def scores(data: Path, mode: dict[str, Any]) -> dict[str, list[float]]:
    """Scores of the photos in a mode, by weights' id: one pass of the joined metric, whose parts are the others' scores."""
    models = {name: GRepQ.from_pretrained(name, **({} if name == "grepq-sem" else mode)) for name in METRICS}
    models["grepq-sem"] = GRepQ.from_pretrained("grepq-sem", precision=mode["precision"])
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


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with photos/ and biq2021_dev/images/")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    given = parser.parse_args()
    parts = given.out.with_name(f"{given.out.name}.parts")
    done = json.loads(parts.read_text()) if parts.exists() else {}
    for mode in MODES:
        key = json.dumps(mode)
        if key not in done:
            done[key] = scores(given.data, mode)
            parts.write_text(json.dumps(done))
    sides = 0
    facts: dict[str, list[float]] = {name: [] for name in FACTS}
    for image in photos(given.data):
        sides = max(sides, *image.shape[:2])
        for name, value in measure(image.transpose(2, 0, 1).astype(np.float32) / 255).items():
            facts[name].append(value)
    columns = {identity: values for found in done.values() for identity, values in found.items()}
    text = {
        "name": NAME,
        "date": date.today().isoformat(),
        "made_by": "python -m benchmarks.reference",
        "count": 3 * EACH,
        "largest_side": sides,
        "scores": {identity: _quantiles(values) for identity, values in columns.items()},
        "facts": {name: _quantiles(values) for name, values in facts.items()},
    }
    given.out.write_text(json.dumps(text, indent=None, separators=(",", ":")).replace('],"', '],\n"') + "\n", encoding="utf-8")
    parts.unlink()


def _quantiles(values: list[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in np.quantile(values, LEVELS)]


if __name__ == "__main__":
    main()
