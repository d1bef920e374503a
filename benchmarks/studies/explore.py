"""Short training runs of the low-level encoder that vary one thing, compared on opinion scores and synthetic distortions.

    python -m benchmarks.studies.explore --photos DIR --opinions DIR --pristine DIR --work DIR --out FILE [NAME ...]

Every run trains for a few hundred steps on the same contents, whose versions are made once, cut to 256x256 and kept in --work.
The evaluation is quick and so not exactly that of `benchmarks.studies.training_gain`: bfloat16, patches without overlap
for opinion scores, and 288x288 of five photos for the distortions. Rows are added to the table in --out as runs end.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import scipy.stats
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from benchmarks.studies.synthetic import quick_severities
from benchmarks.studies.training_gain import read_labels
from grepq_metric import read_image
from grepq_metric.pathways.low import LowLevelEncoder, LowLevelPathway
from grepq_metric.training.distortions import DISTORTIONS
from grepq_metric.training.losses import quality_aware_contrastive_loss
from grepq_metric.training.photos import PhotoList
from grepq_metric.training.pristine import Selection, write_statistics
from grepq_metric.training.similarity import contrastive_weights
from grepq_metric.training.views import RECIPES, ContrastiveDataset, Recipe

REGION = 256


@dataclass(frozen=True)
class Variant:
    """One run.

    Attributes:
        recipe: of the versions, which are made of whole photos, and of their views and loss.
        steps: optimizer steps.
        ranking: weight of a second loss: a linear layer on the features is to order versions, also of different photos, by
            their similarity to the undistorted one.
    """

    recipe: Recipe
    steps: int = 300
    ranking: float = 0.0


BROAD = replace(RECIPES["broad"], grid=3)
CHAINED = replace(BROAD, types=tuple(DISTORTIONS)[:30], chain=3)
ANCHORED = replace(CHAINED, grid=1, fragment=96, anchors=True, power=3.0, temperature=0.2)
VARIANTS = {
    "broad": Variant(BROAD, steps=400),
    "chained": Variant(CHAINED),
    "chained, temperature 0.1": Variant(replace(CHAINED, temperature=0.1)),
    "chained, ranking loss": Variant(CHAINED, ranking=1.0),
    "chained, patches, anchors, power 3, temperature 0.2": Variant(ANCHORED),
    "chained, patches, anchors, power 10, temperature 0.1": Variant(replace(ANCHORED, power=10.0, temperature=0.1), steps=250),
}


def prepare(photos: PhotoList, recipe: Recipe, folder: Path) -> tuple[np.ndarray, torch.Tensor]:
    """Versions ``(N, D, 3, 256, 256)`` uint8 of the photos that are large enough, on disk, and similarities ``(N, D, D)``."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "similarity.npy").exists():
        dataset = _Regions(photos, recipe, 0, folder / "fsim")
        loader = DataLoader(dataset, batch_size=None, num_workers=2)
        stacks = np.lib.format.open_memmap(
            folder / "versions.npy", "w+", np.uint8, (len(photos), recipe.versions, 3, REGION, REGION)
        )
        similarity = np.zeros((len(photos), recipe.versions, recipe.versions), np.float32)
        for i, (stack, values) in enumerate(tqdm(loader, desc="versions", total=len(photos))):
            stacks[i], similarity[i] = stack, values
        stacks.flush()
        np.save(folder / "similarity.npy", similarity)
    return np.load(folder / "versions.npy", mmap_mode="r"), torch.from_numpy(np.load(folder / "similarity.npy"))


class _Regions(ContrastiveDataset):
    """A random region of all versions of a photo, and the similarities of the whole ones; zeros for a small photo."""

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        stack, key = self.versions(index)
        similarity = self._similarity(stack, key)
        rng = np.random.default_rng(index)
        if min(stack.shape[-2:]) < REGION:
            return np.zeros((len(stack), 3, REGION, REGION), np.uint8), np.zeros((len(stack),) * 2, np.float32)
        top, left = (rng.integers(side - REGION + 1) for side in stack.shape[-2:])
        return stack[..., top : top + REGION, left : left + REGION], similarity.numpy()

    def __len__(self) -> int:
        return len(self.photos)


def train(
    variant: Variant, dataset: ContrastiveDataset, stacks: np.ndarray, similarity: torch.Tensor, batch: int = 8
) -> tuple[LowLevelEncoder, float]:
    """Train an encoder on views that `dataset` cuts from `stacks`; returns it and the mean loss of the last 100 steps."""
    torch.manual_seed(0)
    recipe, usable = variant.recipe, np.flatnonzero(similarity[:, 0, 0].numpy())
    encoder = LowLevelEncoder().to(memory_format=torch.channels_last).train()
    head = torch.nn.Linear(128, 1)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=1e-4, weight_decay=0.05)
    losses = []
    for step in tqdm(range(variant.steps), unit="step"):
        rng = np.random.default_rng([0, step])
        chosen = rng.choice(usable, batch, replace=False)
        views = torch.stack([dataset.views(stacks[i], rng) for i in chosen], 1)
        s = similarity[chosen]
        optimizer.param_groups[0]["lr"] = 1e-6 + (1e-4 - 1e-6) * (1 + math.cos(math.pi * step / variant.steps)) / 2
        with torch.autocast("cpu", torch.bfloat16):
            z = encoder(views.flatten(0, 2).float().div(255).contiguous(memory_format=torch.channels_last))
        z1, z2 = z.float().view(2, batch, recipe.versions, -1)
        anchors = torch.stack([z1[:, 0], z2[:, 0]]) if recipe.anchors else None
        loss = quality_aware_contrastive_loss(z1, z2, contrastive_weights(s, recipe.power), recipe.temperature, anchors)
        if variant.ranking:
            loss = loss + variant.ranking * _ranking(head(z.float()).view(-1), (1 - s[:, 0]).expand(2, -1, -1).reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return encoder.eval(), float(np.mean(losses[-100:]))


def _ranking(predicted: torch.Tensor, distortion: torch.Tensor) -> torch.Tensor:
    worse = distortion[:, None] - distortion[None] > 0.03
    return torch.nn.functional.softplus(-(predicted[:, None] - predicted[None])[worse]).mean()


@torch.inference_mode()
def evaluate(encoder: LowLevelEncoder, labels: list[dict], opinions: Path, pristine: list[torch.Tensor]) -> dict:
    """SRCC with opinion scores, of all and of each subset, and with the severity of distortions."""
    low = LowLevelPathway(patch_stride=96)
    low.encoder = encoder.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        write_statistics(low, pristine)
        distances = np.array([low(read_image(opinions / row["image"])[None]).item() for row in tqdm(labels)])
        mos = np.array([float(row["mos"]) for row in labels])
        subset = np.array([row.get("subset", "") for row in labels])
        found = {"opinions": scipy.stats.spearmanr(-distances, mos).statistic}
        for name in sorted(set(subset)):
            part = subset == name
            found[name] = scipy.stats.spearmanr(-distances[part], mos[part]).statistic
        low.patch_stride = 48
        found |= quick_severities(lambda x: -low(x).item(), side=288)
    return {key: round(float(value), 3) for key, value in found.items()}


def main() -> None:
    """Run the named variants, or all, and add their rows to the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"some of: {'; '.join(VARIANTS)}; default: all")
    parser.add_argument("--photos", type=Path, action="append", required=True, help="contents; up to 600 of each are taken")
    parser.add_argument("--opinions", type=Path, required=True, help="folder with labels.csv")
    parser.add_argument("--pristine", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for versions, which runs share")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, one for each run")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in VARIANTS:
            parser.error(f"unknown variant {name!r}, expected some of {list(VARIANTS)}")

    labels, seen = read_labels(arguments.opinions, PhotoList(arguments.photos))
    labels = [row for i, row in enumerate(labels) if i not in seen]
    listed = arguments.work / "contents.txt"
    arguments.work.mkdir(parents=True, exist_ok=True)
    rng, names = np.random.default_rng(0), []
    for source in arguments.photos:
        photos = PhotoList([source])
        # A content whose twin has an opinion score is no training photo.
        usable = [name for i in rng.permutation(len(photos)) if Path(name := photos.name(int(i))).name not in seen.values()]
        names += usable[:600]
    listed.write_text("".join(f"{Path(name).resolve()}\n" for name in names))
    selection, clean = Selection(), PhotoList([arguments.pristine])
    pristine = [selection(clean.image(i)) for i in tqdm(range(len(clean)), desc="pristine")]
    for name in arguments.names or VARIANTS:
        variant, began = VARIANTS[name], time.monotonic()
        folder = arguments.work / ("chained" if variant.recipe.chain > 1 else "broad")
        contents = PhotoList([listed])
        stacks, similarity = prepare(contents, variant.recipe, folder)
        dataset = ContrastiveDataset(contents, variant.recipe, 0, folder / "fsim")
        encoder, loss = train(variant, dataset, stacks, similarity)
        row = {"name": name, **evaluate(encoder, labels, arguments.opinions, pristine), "loss": round(loss, 4)}
        row |= {"settings": asdict(variant), "minutes": round((time.monotonic() - began) / 60, 1)}
        row["date"] = datetime.now(timezone.utc).date().isoformat()
        with arguments.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
