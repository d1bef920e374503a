"""What GRepQ does as a loss term: a small denoiser, fine-tuned with it, without it, with another term, and with it alone.

    python -m benchmarks.restoration --photos DIR --out DIR

A DnCNN of deepinv (8 layers, 32 channels) first learns with L1 to remove Gaussian noise (sigma 25 of 255). From there it is
fine-tuned with L1 alone, with L1 and GRepQ, and with L1 and total variation, another term that needs no reference and no
download; each with three seeds, on the same crops. With the first seed, further weights of GRepQ show where it helps and where
the network begins to please the metric instead of people. Photos for training and for the figures do not overlap.

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
import pyiqa
import torch
from pyiqa.losses.losses import WeightedTVLoss
from tqdm import tqdm

from benchmarks.metrics import open_metric
from benchmarks.peers import PEERS
from grepq_metric import GRepQLoss
from grepq_metric.training.photos import PhotoList

SIGMA = 25 / 255
CROP = 96
HELD_OUT = 12
WEIGHTS = (0.003, 0.03, 0.1, 0.3)
MAIN = 0.01
"""Weight of the runs with three seeds; `WEIGHTS` are those of the first seed alone."""


def read(photos: PhotoList, side: int, count: int, seed: int) -> torch.Tensor:
    """Centre crops of photos at random places of the list: ``(count, 3, side, side)`` in [0, 1]."""
    crops = []
    for i in np.random.default_rng(seed).permutation(len(photos)):
        try:
            image = photos.image(int(i), side)
        except ValueError:  # smaller than a crop
            continue
        top, left = ((length - side) // 2 for length in image.shape[1:])
        crops.append(image[:, top : top + side, left : left + side])
        if len(crops) == count:
            return torch.stack(crops)
    raise ValueError(f"expected at least {count} photos of {side} pixels, got {len(crops)}")


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
        places = torch.randint(photos.shape[-1] - CROP + 1, (batch, 2), generator=generator)
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


def losses(all_weights: bool) -> dict[str, Callable]:
    """Loss functions of restored and clean images, by name."""
    l1, tv, grepq = torch.nn.functional.l1_loss, WeightedTVLoss(reduction="mean"), GRepQLoss()
    found = {
        "L1": l1,
        f"L1 + {MAIN} GRepQ": lambda x, y: l1(x, y) + MAIN * grepq(x),
        "L1 + 0.01 TV": lambda x, y: l1(x, y) + 0.01 * tv(x),
    }
    if all_weights:
        for weight in WEIGHTS:
            found[f"L1 + {weight} GRepQ"] = lambda x, y, weight=weight: l1(x, y) + weight * grepq(x)
        found["GRepQ alone"] = lambda x, y: grepq(x)
    return found


@torch.inference_mode()
def measure(network: Callable, clean: torch.Tensor, noisy: torch.Tensor) -> dict[str, float]:
    """Mean figures over photos: fidelity to the clean ones, and no-reference scores."""
    restored = torch.cat([network(x[None]) for x in noisy]).clamp(0, 1)
    found = {name: float(METRICS[name](restored, clean).mean()) for name in ("psnr", "ssim", "fsim")}
    found["grepq-ll"] = float(METRICS["grepq-ll"](restored).mean())
    found["piqe"] = float(np.mean([METRICS["piqe"](x[None]).item() for x in restored]))
    for name in PEERS:
        found[name] = float(np.mean([METRICS[name].score(x[None], None, None) for x in restored]))
    return found


METRICS = {name: pyiqa.create_metric(name, device="cpu") for name in ("psnr", "ssim", "fsim", "grepq-ll", "piqe")}
METRICS |= {name: open_metric(name) for name in PEERS}  # says now, and not after the training, what is not installed
ARROWS = {"psnr": "up", "ssim": "up", "fsim": "up", "grepq-ll": "up", "piqe": "down", **dict.fromkeys(PEERS, "down")}


def denoiser() -> torch.nn.Module:
    """The network before training."""
    from deepinv.models import DnCNN

    return DnCNN(in_channels=3, out_channels=3, depth=8, bias=True, nf=32, pretrained=None, device="cpu")


def _save(network: torch.nn.Module, path: Path) -> None:
    part = path.with_suffix(".part")
    torch.save(network.state_dict(), part)
    part.replace(path)


def picture(path: Path, columns: dict[str, torch.Tensor], rows: int = 3, side: int = 96) -> None:
    """Crops of the first photos, a column each kind, enlarged twice."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.9 * len(columns), 2 * rows), layout="constrained")
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for column, (name, images) in enumerate(columns.items()):
        axes[0, column].set_title(name, fontsize=9)
        for row in range(rows):
            crop = images[row, :, 60 : 60 + side, 60 : 60 + side].clamp(0, 1).permute(1, 2, 0).numpy()
            axes[row, column].imshow(crop, interpolation="nearest")
            axes[row, column].axis("off")
    figure.savefig(path, dpi=130)


def main() -> None:
    """Train, measure, and write a table, all figures and a picture to --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="clean photos")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base-steps", type=int, default=800)
    parser.add_argument("--steps", type=int, default=200, help="of fine-tuning")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()

    arguments.out.mkdir(parents=True, exist_ok=True)
    listed = PhotoList([arguments.photos])
    photos_id = listed.identity()["photos_sha256"]
    photos = read(listed, 256, 240 + HELD_OUT, seed=0)
    held, photos = photos[:HELD_OUT], photos[HELD_OUT:]
    noisy = held + SIGMA * torch.randn(held.shape, generator=torch.Generator().manual_seed(99))
    settings = {"base_steps": arguments.base_steps, "steps": arguments.steps, "batch": arguments.batch}
    settings |= {"photos": photos_id, "weights": GRepQLoss().model.weights_id}
    table, rows = arguments.out / "restoration.jsonl", []
    if table.exists():
        whole = [line for line in table.read_text().splitlines(keepends=True) if line.endswith("\n")]
        table.write_text("".join(whole))  # without a line that was cut off
        rows = [json.loads(line) for line in whole]
    for row in rows:
        if any(row[key] != value for key, value in settings.items()):
            raise ValueError(f"{table} is of a run with other settings, expected {settings}: choose another --out")
    done = {(row["loss"], row["seed"]) for row in rows}
    restored = {"clean": held, "noisy": noisy}
    with table.open("a") as file:
        for seed in range(arguments.seeds):
            base = arguments.out / f"base_{seed}.pt"
            network = denoiser()
            if base.exists():
                network.load_state_dict(torch.load(base, weights_only=True))
            else:
                torch.manual_seed(seed)
                network = train(
                    denoiser(), photos, torch.nn.functional.l1_loss, arguments.base_steps, arguments.batch, 1e-3, seed
                )
                _save(network, base)
            for name, loss in losses(seed == 0).items():
                state = arguments.out / f"{name.replace(' ', '_')}_{seed}.pt"
                tuned = denoiser()
                if (name, seed) not in done:
                    began = time.monotonic()
                    tuned.load_state_dict(network.state_dict())
                    torch.manual_seed(seed)
                    tuned = train(tuned, photos, loss, arguments.steps, arguments.batch, 2e-4, 100 + seed)
                    seconds = (time.monotonic() - began) / arguments.steps
                    _save(tuned, state)
                    row = {"loss": name, "seed": seed, **settings, "seconds_per_step": seconds, **measure(tuned, held, noisy)}
                    rows.append(row)
                    file.write(json.dumps(row) + "\n")
                    file.flush()
                    print(json.dumps(row), flush=True)
                if seed == 0:
                    tuned.load_state_dict(torch.load(state, weights_only=True))
                    with torch.inference_mode():
                        restored[name] = torch.cat([tuned.eval()(x[None]) for x in noisy[:3]])
    picture(arguments.out / "restoration.png", restored)
    reference = {"loss": "noisy input", "seed": 0, "seconds_per_step": None, **measure(lambda x: x, held, noisy)}
    keys = list(ARROWS)
    lines = [
        "| loss | seeds | s/step | " + " | ".join(f"{key} ({ARROWS[key]})" for key in keys) + " |",
        "|---" * (len(keys) + 3) + "|",
    ]
    for name in dict.fromkeys(row["loss"] for row in [reference, *rows]):
        part = [row for row in [reference, *rows] if row["loss"] == name]
        cells = [
            f"{np.mean([r[key] for r in part]):.3f}"
            + (f" ± {np.std([r[key] for r in part], ddof=1):.3f}" if len(part) > 1 else "")
            for key in keys
        ]
        speed = "" if part[0]["seconds_per_step"] is None else f"{np.median([r['seconds_per_step'] for r in part]):.2f}"
        lines.append(f"| {name} | {len(part)} | {speed} | " + " | ".join(cells) + " |")
    date = datetime.now(timezone.utc).date().isoformat()
    lines += [
        "",
        f"{HELD_OUT} held-out photos of 256x256; mean ± standard deviation over seeds. {date}, torch {torch.__version__},",
    ]
    lines.append(f"{torch.get_num_threads()} threads, {GRepQLoss().model.weights_id}; {arguments.base_steps} steps with L1,")
    lines.append(f"then {arguments.steps} of fine-tuning.")
    (arguments.out / "restoration.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
