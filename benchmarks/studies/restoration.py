"""What GRepQ does as a loss term: a small denoiser, fine-tuned with it, without it, with another term, and with it alone.

    python -m benchmarks.studies.restoration --photos DIR --out DIR

A DnCNN of deepinv (8 layers, 32 channels) first learns with L1 to remove Gaussian noise (sigma 25 of 255). From there it is
fine-tuned with L1 alone, with L1 and GRepQ, and with L1 and total variation, another term that needs no reference and no
download; each with three seeds, and with the same crops and noise. With the first seed, further weights of GRepQ show where it
helps and where the network begins to please the metric instead of people. Figures are of photos of the folder that the
denoiser does not train on, and of photos that scikit-image ships, which nothing here was trained on.

Every finished run is kept in --out, and a second call with the same settings continues. Needs
``pip install "grepq-metric[restoration]"``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch
from pyiqa.losses.losses import WeightedTVLoss
from tqdm import tqdm

from benchmarks.harness.metrics import open_metric
from benchmarks.studies.synthetic import references, to_tensor
from grepq_metric import GRepQLoss
from grepq_metric.training.photos import PhotoList

SIGMA = 25 / 255
CROP = 144
SIDE = 256
HELD_OUT = 12
PHOTOS = 240
BASE_LR, LR = 1e-3, 2e-4
MAIN = {"GRepQ": 0.03, "TV": 0.01}
"""Weights of the runs of all seeds; `SWEEP` are those of the first seed alone."""
SWEEP = {"GRepQ": (0.01, 0.1, 0.3, 1.0), "TV": (0.003, 0.03, 0.1)}
ALONE = "GRepQ alone"
REFERENCES = ("clean photo", "noisy input")
"""Rows of what the networks are given, in the order of `Pairs`."""
METRICS = {"psnr": "up", "ssim": "up", "fsim": "up", "grepq-ll": "up", "brisque-package": "down", "piqe": "down"}
"""Reported metrics, and where better is. Not NIQE: such squares are too small for it (noisy ones beat clean ones)."""

Pairs = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""Clean and noisy photos ``(N, 3, SIDE, SIDE)``, by the name of the set."""


def centre(image: torch.Tensor) -> torch.Tensor:
    """The central square of ``(3, H, W)``."""
    top, left = ((length - SIDE) // 2 for length in image.shape[1:])
    return image[:, top : top + SIDE, left : left + SIDE]


def read(listed: PhotoList, count: int, seed: int) -> torch.Tensor:
    """Central squares of random photos of the list: ``(count, 3, SIDE, SIDE)`` in [0, 1].

    Raises:
        ValueError: fewer photos than that are large enough.
    """
    crops = []
    for i in np.random.default_rng(seed).permutation(len(listed)):
        try:
            crops.append(centre(listed.image(int(i), SIDE)))
        except ValueError:  # smaller than a crop
            continue
        if len(crops) == count:
            return torch.stack(crops)
    raise ValueError(f"expected at least {count} photos of {SIDE} pixels or more, got {len(crops)}")


def held_out(photos: torch.Tensor) -> Pairs:
    """What is measured: the given photos and those of scikit-image, with noise."""
    generator = torch.Generator().manual_seed(99)
    shipped = torch.stack([centre(to_tensor(photo)[0]) for photo in references(None).values()])
    sets = {"photos of the folder": photos, "scikit-image": shipped}
    return {name: (clean, clean + SIGMA * torch.randn(clean.shape, generator=generator)) for name, clean in sets.items()}


def denoiser() -> torch.nn.Module:
    """The network before training."""
    from deepinv.models import DnCNN

    return DnCNN(in_channels=3, out_channels=3, depth=8, bias=True, nf=32, pretrained=None, device="cpu")


def train(
    network: torch.nn.Module, photos: torch.Tensor, loss: Callable, steps: int, batch: int, lr: float, seed: int
) -> torch.nn.Module:
    """Minimise ``loss(restored, clean)`` on random noisy crops."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    network.train()
    for _ in (bar := tqdm(range(steps), unit="step", leave=False)):
        chosen = torch.randint(len(photos), (batch,), generator=generator)
        places = torch.randint(SIDE - CROP + 1, (batch, 2), generator=generator)
        clean = torch.stack(
            [photos[i, :, y : y + CROP, x : x + CROP] for i, (y, x) in zip(chosen, places.tolist(), strict=True)]
        )
        noisy = clean + SIGMA * torch.randn(clean.shape, generator=generator)
        value = loss(network(noisy), clean)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{value.item():.4f}")
    return network.eval()


def losses(grepq: GRepQLoss, first: bool) -> dict[str, Callable]:
    """Loss functions of restored and clean images, by name; more of them for the first seed."""
    l1, terms = torch.nn.functional.l1_loss, {"TV": WeightedTVLoss(reduction="mean"), "GRepQ": grepq}
    found = {"L1": l1}
    for name, term in terms.items():
        for weight in sorted((MAIN[name], *SWEEP[name])) if first else (MAIN[name],):
            found[f"L1 + {weight} {name}"] = lambda x, y, w=weight, term=term: l1(x, y) + w * term(x)
    return found | ({ALONE: lambda x, y: grepq(x)} if first else {})


@torch.inference_mode()
def restore(network: Callable, noisy: torch.Tensor) -> torch.Tensor:
    """Restored photos in [0, 1]."""
    return torch.cat([network(x[None]) for x in noisy]).clamp(0, 1)


def measure(network: Callable, pairs: Pairs, metrics: dict) -> dict[str, dict[str, float]]:
    """Mean of each metric over the photos of each set."""
    found = {}
    for name, (clean, noisy) in pairs.items():
        restored = restore(network, noisy)
        found[name] = {
            key: float(np.mean([metric.score(x[None], y[None], None) for x, y in zip(restored, clean, strict=True)]))
            for key, metric in metrics.items()
        }
    return found


class Runs:
    """Finished runs of a folder: a line each in ``restoration.jsonl``, and the networks, with their settings.

    Raises:
        ValueError: the folder holds runs with other settings.
    """

    def __init__(self, folder: Path, settings: dict) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.settings, self.table = folder, settings, folder / "restoration.jsonl"
        text = self.table.read_text() if self.table.exists() else ""
        whole = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]  # the last may be cut off
        self.rows = [json.loads(line) for line in whole]
        for row in self.rows:
            if found := {key: row[key] for key in settings if row[key] != settings[key]}:
                raise ValueError(f"{self.table} is of a run with {found}, expected {settings}: choose another --out")
        if text != "".join(whole):
            self.table.write_text("".join(whole))

    def load(self, name: str, seed: int) -> torch.nn.Module | None:
        """The trained network of this name, if it is there."""
        path = self._path(name, seed)
        if not path.exists():
            return None
        kept = torch.load(path, weights_only=True)
        if kept["settings"] != self.settings:
            raise ValueError(f"{path} is of a run with {kept['settings']}, expected {self.settings}: choose another --out")
        network = denoiser()
        network.load_state_dict(kept["network"])
        return network.eval()

    def keep(self, network: torch.nn.Module, name: str, seed: int) -> None:
        """Write a trained network."""
        part = self._path(name, seed).with_suffix(".part")
        torch.save({"network": network.state_dict(), "settings": self.settings}, part)
        part.replace(self._path(name, seed))

    def _path(self, name: str, seed: int) -> Path:
        return self.folder / f"{name.replace(' ', '_')}_{seed}.pt"

    def add(self, row: dict) -> None:
        """Keep the figures of a run."""
        self.rows.append({**row, **self.settings})
        with self.table.open("a") as file:
            file.write(json.dumps(self.rows[-1]) + "\n")
        print(json.dumps(row), flush=True)


def run(runs: Runs, photos: torch.Tensor, pairs: Pairs, seeds: int) -> dict[str, torch.nn.Module]:
    """Train and measure what is not there yet; networks of the first seed, by loss."""
    metrics = {name: open_metric(name) for name in METRICS}
    grepq, shown = GRepQLoss(), {}
    done = {(row["loss"], row["seed"]) for row in runs.rows}
    settings = runs.settings
    for place, name in enumerate(REFERENCES):
        if (name, 0) not in done:
            these = {key: (pair[0], pair[place]) for key, pair in pairs.items()}
            runs.add({"loss": name, "seed": 0, "seconds_per_step": None, "figures": measure(lambda x: x, these, metrics)})
    for seed in range(seeds):
        if (base := runs.load("base", seed)) is None:
            torch.manual_seed(seed)
            l1 = torch.nn.functional.l1_loss
            base = train(denoiser(), photos, l1, settings["base_steps"], settings["batch"], BASE_LR, seed)
            runs.keep(base, "base", seed)
        for name, loss in losses(grepq, first=seed == 0).items():
            seconds = None
            if (network := runs.load(name, seed)) is None:
                network = denoiser()
                network.load_state_dict(base.state_dict())
                began = time.monotonic()
                train(network, photos, loss, settings["steps"], settings["batch"], LR, 100 + seed)
                seconds = (time.monotonic() - began) / settings["steps"]
                runs.keep(network, name, seed)
            if (name, seed) not in done:
                figures = measure(network, pairs, metrics)
                runs.add({"loss": name, "seed": seed, "seconds_per_step": seconds, "figures": figures})
            if seed == 0:
                shown[name] = network
    return shown


def tables(rows: list[dict], sets: list[str]) -> list[str]:
    """A table of Markdown for each set of photos."""
    lines = []
    for name in sets:
        lines += [
            f"## {name}",
            "",
            "| loss | seeds | s/step | " + " | ".join(f"{m} ({up})" for m, up in METRICS.items()) + " |",
        ]
        lines.append("|---" * (len(METRICS) + 3) + "|")
        for loss in dict.fromkeys(row["loss"] for row in sorted(rows, key=lambda row: row["seed"])):
            part = [row for row in rows if row["loss"] == loss]
            cells = []
            for metric in METRICS:
                values = [row["figures"][name][metric] for row in part]
                spread = f" ± {np.std(values, ddof=1):.3f}" if len(part) > 1 else ""
                cells.append(f"{np.mean(values):.3f}{spread}")
            times = [row["seconds_per_step"] for row in part if row["seconds_per_step"]]
            lines.append(f"| {loss} | {len(part)} | {f'{np.median(times):.2f}' if times else ''} | {' | '.join(cells)} |")
        lines.append("")
    return lines


def picture(path: Path, columns: dict[str, torch.Tensor], side: int = 96) -> None:
    """Crops of photos, a row each, a column each kind."""
    from matplotlib.figure import Figure

    rows = len(next(iter(columns.values())))
    figure = Figure(figsize=(1.9 * len(columns), 2 * rows), layout="constrained")
    axes = figure.subplots(rows, len(columns), squeeze=False)
    at = (SIDE - side) // 2
    for column, (name, images) in enumerate(columns.items()):
        axes[0, column].set_title(name, fontsize=9)
        for row, image in enumerate(images):
            crop = image[:, at : at + side, at : at + side].clamp(0, 1).permute(1, 2, 0).numpy()
            axes[row, column].imshow(crop, interpolation="nearest")
            axes[row, column].axis("off")
    figure.savefig(path, dpi=130)


def main() -> None:
    """Train, measure, and write tables, all figures and a picture to --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="clean photos")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base-steps", type=int, default=800)
    parser.add_argument("--steps", type=int, default=200, help="of fine-tuning")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()

    listed = PhotoList([arguments.photos])
    settings = {"base_steps": arguments.base_steps, "steps": arguments.steps, "batch": arguments.batch}
    settings["photos"] = listed.identity()["photos_sha256"]
    settings["weights"] = GRepQLoss().model.weights_id
    settings |= {"sigma": SIGMA, "crop": CROP, "side": SIDE, "count": PHOTOS, "held_out": HELD_OUT, "lr": [BASE_LR, LR]}
    runs = Runs(arguments.out, settings)
    photos = read(listed, PHOTOS + HELD_OUT, seed=0)
    pairs = held_out(photos[:HELD_OUT])
    networks = run(runs, photos[HELD_OUT:], pairs, arguments.seeds)

    clean, noisy = pairs["scikit-image"]
    most = f"L1 + {SWEEP['GRepQ'][-1]} GRepQ"
    shown = ("L1", *(f"L1 + {weight} {name}" for name, weight in MAIN.items()), most, ALONE)
    restored = {name: restore(networks[name], noisy) for name in shown}
    picture(arguments.out / "restoration.png", {"clean": clean, "noisy": noisy, **restored})
    lines = [
        *tables([row for row in runs.rows if row["loss"] in (*networks, *REFERENCES)], list(pairs)),
        "Squares of 256 pixels; mean over photos, and mean ± standard deviation over seeds. Rows of one seed are of",
        "the first one: compare them with each other, and with the first seed's L1 in restoration.jsonl.",
        f"{datetime.now(timezone.utc).date().isoformat()}, {settings['weights']}, torch {torch.__version__},",
        f"{torch.get_num_threads()} threads; {settings['base_steps']} steps with L1, then {settings['steps']} of fine-tuning.",
        "The photos of the folder were among the contents that the weights were trained on; scikit-image's were not.",
    ]
    (arguments.out / "restoration.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
