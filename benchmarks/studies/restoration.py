"""What does GRepQ do as a loss term? A small denoiser, fine-tuned with it, without it, with another term, and with it alone.

    python -m benchmarks.studies.restoration --photos PHOTOS --out benchmarks/results/restoration

A DnCNN of deepinv (8 layers, 32 channels) first learns with L1 to remove Gaussian noise (sigma 25 of 255). From there it is
fine-tuned with L1 alone, with L1 and GRepQ, and with L1 and total variation, another term that needs no reference and no
download; each with three seeds, and with the same crops and noise. With the first seed, further weights of GRepQ show where it
helps and where the network begins to please the metric instead of people. Figures are of photos of the folder that the
denoiser does not train on, and of photos that scikit-image ships, which nothing here was trained on.

Needs a folder of clean photos, deepinv and the package brisque, and takes about half an hour on two cores. Every finished run
is kept in --out, its network as a ``.pt`` file, and a second call with the same settings continues; ``--report-only`` writes
the report anew from ``restoration.jsonl``, without the picture.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.harness.metrics import Metric, open_metric
from benchmarks.harness.toy import references, to_tensor
from benchmarks.studies.reporting import Report, Row, measured, parse, read_report, study_parser, table, write_report
from grepq_metric import GRepQLoss
from grepq_metric.files import whole_file
from grepq_metric.training.photos import PhotoList

STUDY = "restoration"

SIGMA = 25 / 255
CROP = 144
SIDE = 256
HELD_OUT = 12
PHOTOS = 240
BASE_LR, LR = 1e-3, 2e-4
WEIGHTS = "grepq-ll"
"""Of the loss."""
MAIN = {"GRepQ": 0.03, "TV": 0.01}
"""Weights of the runs of all seeds; `SWEEP` are those of the first seed alone."""
SWEEP = {"GRepQ": (0.01, 0.1, 0.3, 1.0), "TV": (0.003, 0.03, 0.1)}
ALONE = "GRepQ alone"
PICTURED, PICTURED_SIDE = ("coffee", "chelsea", "rocket"), 64
"""Photos and their pixels in the picture; noise does not compress, and a file of all would have a megabyte."""
REFERENCES = ("clean photo", "noisy input")
"""Rows of what the networks are given, in the order of `Pairs`."""
METRICS = {"psnr": "up", "ssim": "up", "fsim": "up", "grepq-ll": "up", "brisque-package": "down", "piqe": "down"}
"""Reported metrics, and where better is. Not NIQE: such squares are too small for it (noisy ones beat clean ones)."""

Pairs = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""Clean and noisy photos ``(N, 3, SIDE, SIDE)``, by the name of the set."""
Network = Callable[[torch.Tensor], torch.Tensor]
"""Noisy images -> restored ones."""
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Restored and clean images -> a loss."""


class Finished(TypedDict):
    """What is kept of a finished run, besides its settings.

    Attributes:
        loss: name of the loss.
        seed: of the run.
        seconds_per_step: None of a network that was read, and not trained.
        figures: mean of each metric over the photos, by set.
    """

    loss: str
    seed: int
    seconds_per_step: float | None
    figures: dict[str, dict[str, float]]


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
    shipped = torch.stack([centre(to_tensor(photo)[0]) for photo in references().values()])
    sets = {"photos of the folder": photos, "scikit-image": shipped}
    return {name: (clean, clean + SIGMA * torch.randn(clean.shape, generator=generator)) for name, clean in sets.items()}


def denoiser() -> torch.nn.Module:
    """The network before training."""
    from deepinv.models import DnCNN

    return DnCNN(in_channels=3, out_channels=3, depth=8, bias=True, nf=32, pretrained=None, device="cpu")


def train(
    network: torch.nn.Module, photos: torch.Tensor, loss: Loss, steps: int, batch: int, lr: float, seed: int
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


def total_variation(x: torch.Tensor) -> torch.Tensor:
    """Mean difference of neighbours in a column, and of those in a row: ``(N, C, H, W)`` -> a scalar."""
    return x.diff(dim=2).abs().mean() + x.diff(dim=3).abs().mean()


def with_term(term: Network, weight: float) -> Loss:
    """L1 and a weighted term of the restored image."""
    return lambda restored, clean: torch.nn.functional.l1_loss(restored, clean) + weight * term(restored)


def losses(grepq: GRepQLoss, first: bool) -> dict[str, Loss]:
    """Losses by name; more of them for the first seed."""
    terms: dict[str, Network] = {"TV": total_variation, "GRepQ": grepq}
    found: dict[str, Loss] = {"L1": torch.nn.functional.l1_loss}
    for name, term in terms.items():
        for weight in sorted((MAIN[name], *SWEEP[name])) if first else (MAIN[name],):
            found[f"L1 + {weight} {name}"] = with_term(term, weight)
    return found | ({ALONE: lambda restored, clean: grepq(restored)} if first else {})


@torch.inference_mode()
def restore(network: Network, noisy: torch.Tensor) -> torch.Tensor:
    """Restored photos in [0, 1]."""
    return torch.cat([network(x[None]) for x in noisy]).clamp(0, 1)


def measure(network: Network, pairs: Pairs, metrics: Mapping[str, Metric]) -> dict[str, dict[str, float]]:
    """Mean of each metric over the photos of each set."""
    found = {}
    for name, (clean, noisy) in pairs.items():
        restored = restore(network, noisy)
        found[name] = {key: _mean_score(metric, restored, clean) for key, metric in metrics.items()}
    return found


def _mean_score(metric: Metric, restored: torch.Tensor, clean: torch.Tensor) -> float:
    if metric.score is None:
        raise ValueError(f"{metric.id} has no score")
    return float(np.mean([metric.score(x[None], y[None], "") for x, y in zip(restored, clean, strict=True)]))


class Runs:
    """Finished runs of a folder: a line each in ``restoration.jsonl``, and the networks, with their settings.

    Raises:
        ValueError: the folder holds runs with other settings.
    """

    def __init__(self, folder: Path, settings: dict) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.settings, self.table = folder, settings, folder / "restoration.jsonl"
        text = self.table.read_text(encoding="utf-8") if self.table.exists() else ""
        lines = text[: text.rfind("\n") + 1]  # the last one may be cut off
        self.rows: list[Finished] = []
        for row in map(json.loads, lines.splitlines()):
            if found := {key: row[key] for key in settings if row[key] != settings[key]}:
                raise ValueError(f"{self.table} is of a run with {found}, expected {settings}: choose another --out")
            self.rows.append(row)
        if text != lines:
            with whole_file(self.table) as part:
                part.write_text(lines, encoding="utf-8")

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
        with whole_file(self._path(name, seed)) as part:
            torch.save({"network": network.state_dict(), "settings": self.settings}, part)

    def _path(self, name: str, seed: int) -> Path:
        return self.folder / f"{name.replace(' ', '_')}_{seed}.pt"

    def add(self, row: Finished) -> None:
        """Keep the figures of a run."""
        self.rows.append(row)
        with self.table.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**row, **self.settings}) + "\n")
        print(json.dumps(row), flush=True)


def run(runs: Runs, photos: torch.Tensor, pairs: Pairs, seeds: int) -> dict[str, torch.nn.Module]:
    """Train and measure what is not there yet; networks of the first seed, by loss."""
    metrics = {name: open_metric(name) for name in METRICS}
    grepq, shown = GRepQLoss(WEIGHTS), dict[str, torch.nn.Module]()
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


def summary(rows: Sequence[Finished]) -> list[Row]:
    """Mean and standard deviation over seeds of each metric: the report's rows, one for each set of photos and loss."""
    found: list[Row] = []
    for photos in rows[0]["figures"]:
        for loss in dict.fromkeys(row["loss"] for row in sorted(rows, key=lambda row: row["seed"])):
            part = [row for row in rows if row["loss"] == loss]
            one: Row = {"photos": photos, "loss": loss, "seeds": len(part)}
            if times := [row["seconds_per_step"] for row in part if row["seconds_per_step"]]:
                one["seconds_per_step"] = float(np.median(times))
            for metric in part[0]["figures"][photos]:
                values = [row["figures"][photos][metric] for row in part]
                one[metric] = float(np.mean(values))
                if len(values) > 1:
                    one[f"{metric}_std"] = float(np.std(values, ddof=1))
            found.append(one)
    return found


def markdown(report: Report) -> list[str]:
    """A table for each set of photos."""
    lines = []
    for photos in dict.fromkeys(row["photos"] for row in report.rows):
        part = [row for row in report.rows if row["photos"] == photos]
        metrics = [metric for metric in METRICS if metric in part[0]]
        header = ["loss", "seeds", "s/step", *(f"{metric} ({METRICS[metric]})" for metric in metrics)]
        seconds = [f"{row['seconds_per_step']:.2f}" if "seconds_per_step" in row else "" for row in part]
        cells = [
            [str(row["loss"]), str(row["seeds"]), s, *(_cell(row, m) for m in metrics)]
            for row, s in zip(part, seconds, strict=True)
        ]
        lines += [f"## {photos}", "", *table(header, cells), ""]
    return lines[:-1]


def _cell(row: Row, metric: str) -> str:
    return f"{row[metric]:.3f}" + (f" ± {row[f'{metric}_std']:.3f}" if f"{metric}_std" in row else "")


def picture(path: Path, columns: dict[str, torch.Tensor]) -> None:
    """Central crops of photos, a row each, a column each kind.

    Args:
        path: WebP file to write.
        columns: photos ``(N, 3, SIDE, SIDE)``, or smaller ones, by kind.
    """
    from matplotlib.figure import Figure

    rows = len(next(iter(columns.values())))
    figure = Figure(figsize=(1.9 * len(columns), 2 * rows), layout="constrained")
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for column, (name, images) in enumerate(columns.items()):
        axes[0, column].set_title(name, fontsize=9)
        for row, image in enumerate(images):
            at = (image.shape[-1] - PICTURED_SIDE) // 2
            crop = image[:, at : at + PICTURED_SIDE, at : at + PICTURED_SIDE].clamp(0, 1).permute(1, 2, 0).numpy()
            axes[row, column].imshow(crop, interpolation="nearest")
            axes[row, column].axis("off")
    with whole_file(path) as part:
        figure.savefig(part, dpi=100, pil_kwargs={"quality": 70, "method": 6})


def settings_of(listed: PhotoList, base_steps: int, steps: int, batch: int) -> dict:
    """What the results of a run depend on."""
    facts = {"base_steps": base_steps, "steps": steps, "batch": batch, "photos": listed.identity()["photos_sha256"]}
    facts |= {"weights": GRepQLoss(WEIGHTS).model.weights_id, "sigma": SIGMA, "crop": CROP, "side": SIDE}
    return facts | {"count": PHOTOS, "held_out": HELD_OUT, "lr": [BASE_LR, LR]}


def study(listed: PhotoList, settings: dict, seeds: int, out: Path) -> Report:
    """Train and measure what is not in `out` yet, and draw the picture."""
    runs = Runs(out, settings)
    photos = read(listed, PHOTOS + HELD_OUT, seed=0)
    pairs = held_out(photos[:HELD_OUT])
    networks = run(runs, photos[HELD_OUT:], pairs, seeds)
    clean, noisy = pairs["scikit-image"]
    most = f"L1 + {SWEEP['GRepQ'][-1]} GRepQ"
    shown = ("L1", *(f"L1 + {weight} {name}" for name, weight in MAIN.items()), most, ALONE)
    restored = {name: restore(networks[name], noisy) for name in shown}
    chosen = [place for place, name in enumerate(references()) if name in PICTURED]
    columns = {"clean": clean, "noisy": noisy, **restored}
    picture(out / "restoration.webp", {name: images[chosen] for name, images in columns.items()})
    notes = [
        f"Squares of {SIDE} pixels; mean over photos, and mean ± standard deviation over seeds. Rows of one seed are of",
        "the first one: compare them with each other, and with the first seed's L1 in restoration.jsonl.",
        f"{settings['base_steps']} steps with L1, then {settings['steps']} of fine-tuning.",
        "The photos of the folder were among the contents that the weights were trained on; scikit-image's were not.",
    ]
    data: Row = {"name": ", ".join(listed.sources), "images": len(listed), "id": settings["photos"]}
    kept = [row for row in runs.rows if row["loss"] in (*networks, *REFERENCES)]
    return measured(STUDY, settings["weights"], data, summary(kept), notes)


def again(out: Path) -> Report:
    """The report in `out` with its figures computed anew from the finished runs beside it."""
    with (out / "restoration.jsonl").open(encoding="utf-8") as lines:
        rows: list[Finished] = [json.loads(line) for line in lines]
    return replace(read_report(out, STUDY), rows=summary(rows))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and measure, or only report, and write the report and a picture to --out."""
    parser = study_parser(__doc__)
    parser.add_argument("--photos", type=Path, help="clean photos")
    parser.add_argument("--base-steps", type=int, default=800)
    parser.add_argument("--steps", type=int, default=200, help="of fine-tuning")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    given = parse(parser, arguments, needed=("photos",))
    if given.report_only:
        report = again(given.out)
    else:
        listed = PhotoList([given.photos])
        settings = settings_of(listed, given.base_steps, given.steps, given.batch)
        report = study(listed, settings, given.seeds, given.out)
    write_report(report, given.out, markdown)


if __name__ == "__main__":
    main()
