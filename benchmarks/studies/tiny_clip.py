"""Does the high-level training work? A small CLIP, trained here on captions, and then fine-tuned as ``grepq train high`` does.

    python -m benchmarks.studies.tiny_clip --photos PHOTOS --photos BIQ2021_UNLABELLED --opinions BIQ2021_DEV \
        --clip-steps 400 --steps 40 --out benchmarks/results/tiny_clip

OpenAI's CLIP can't be had where this project is built, so its place takes a CLIP of the same design with an image tower of
1 + 1 + 1 + 1 blocks. It learns to tell captions such as "a good photo" and "a blurry photo" of clean and distorted crops.
Then the group contrastive loss fine-tunes its image tower on undistorted photos alone, and Q_H is compared, before and after,
with opinion scores and with the severity of distortions of photos that neither training saw. This shows that the training does
what it should, and not how good the method is with OpenAI's CLIP.

Needs training photos and opinion scores, and takes about ten minutes on two cores. ``--report-only`` writes the Markdown anew
from the figures in --out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from tqdm import tqdm

from benchmarks.harness.agreement import srcc
from benchmarks.harness.duplicates import near_duplicates
from benchmarks.harness.toy import quick_severities
from benchmarks.studies.opinions import Opinions, read_opinions
from benchmarks.studies.reporting import Report, Row, measured, parse, read_report, study_parser, table, write_report
from grepq_metric import read_image
from grepq_metric.pathways.high import ARCHITECTURE, HighLevelConfig, HighLevelPathway, ImageTower
from grepq_metric.training import train_high
from grepq_metric.training.distortions import DISTORTIONS
from grepq_metric.training.photos import PhotoList
from grepq_metric.weights import high_level_tensors, load_tensors

STUDY = "tiny_clip"
TOWER = ImageTower(layers=(1, 1, 1, 1), width=16, output_dim=128)
GOOD = ("A good photo.", "a sharp photo", "a clear photo", "a beautiful photo")
BAD = {
    "a bad photo": tuple(DISTORTIONS),
    "A bad photo.": tuple(DISTORTIONS),
    "a blurry photo": ("gaussian_blur", "lens_blur", "motion_blur", "downsampling"),
    "a noisy photo": ("white_noise", "sensor_noise", "chroma_noise", "speckle_noise"),
    "a dark photo": ("low_light",),
    "a hazy photo": ("haze",),
    "a photo with compression artifacts": ("jpeg", "jpeg2000", "webp"),
}
CAPTIONS = (*GOOD, *BAD)
CROP = 96
CROPS_PER_PHOTO = 8
"""Decoding is what takes the time."""
BATCH = 32
"""Of the training on captions."""
CONTRASTED = 128
"""Photos of a batch of the group contrastive loss."""
WARM_UP = 0.5
"""Passes over the photos in which the learning rate of the group contrastive loss grows; there are few."""


def captioned(photos: PhotoList, rng: np.random.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Clean and distorted crops ``(count, 3, CROP, CROP)`` in [0, 1], and the positions of their captions in `CAPTIONS`."""
    crops: list[torch.Tensor] = []
    labels: list[int] = []
    while len(crops) < count:
        image = (photos.image(int(rng.integers(len(photos))), CROP) * 255).round().byte().permute(1, 2, 0).numpy()
        for _ in range(CROPS_PER_PHOTO):
            top, left = (rng.integers(side - CROP + 1) for side in image.shape[:2])
            crop = image[top : top + CROP, left : left + CROP]
            label = int(rng.integers(len(GOOD)))
            if rng.random() < 0.5:
                label = len(GOOD) + int(rng.integers(len(BAD)))
                kinds = BAD[CAPTIONS[label]]
                kind = DISTORTIONS[kinds[rng.integers(len(kinds))]]
                crop = kind(crop, int(rng.integers(2, 6)), int(rng.integers(1 << 30)))
            crops.append(torch.from_numpy(crop.copy()).permute(2, 0, 1))
            labels.append(label)
    return torch.stack(crops).float() / 255, torch.tensor(labels)


def train_clip(photos: PhotoList, steps: int, batch: int, seed: int) -> dict[str, torch.Tensor]:
    """Train a small CLIP: each crop is to be nearest to its caption among all captions.

    Returns:
        Its state dict in open_clip's layout.
    """
    torch.manual_seed(seed)
    vision = CLIPVisionCfg(layers=TOWER.layers, width=TOWER.width, image_size=CROP)
    text = CLIPTextCfg(context_length=77, vocab_size=49408, width=64, heads=1, layers=2)
    clip = open_clip.CLIP(TOWER.output_dim, vision, text, quick_gelu=True)
    pathway = HighLevelPathway(HighLevelConfig(image_tower=TOWER))
    pathway.visual.train()  # a pathway itself stays in evaluation mode
    tokens = open_clip.get_tokenizer(ARCHITECTURE)(list(CAPTIONS))
    optimizer = torch.optim.AdamW([*pathway.parameters(), *clip.parameters()], lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, steps)
    rng = np.random.default_rng(seed)
    for _ in (bar := tqdm(range(steps), desc="CLIP on captions", unit="step")):
        crops, labels = captioned(photos, rng, batch)
        with torch.autocast("cpu", torch.bfloat16):
            images = F.normalize(pathway(crops).float(), dim=-1)
            words = F.normalize(clip.encode_text(tokens).float(), dim=-1)
        loss = F.cross_entropy(images @ words.T * 20, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}")
    state = {key: value for key, value in clip.state_dict().items() if not key.startswith("visual.")}
    return state | {f"visual.{key}": value for key, value in pathway.visual.state_dict().items()}


def pathway_of(clip: Mapping[str, torch.Tensor]) -> HighLevelPathway:
    """The high-level pathway of a small CLIP, of `train_clip`."""
    pathway = HighLevelPathway(HighLevelConfig(image_tower=TOWER))
    load_tensors(pathway, high_level_tensors(clip, "the small CLIP"), "the small CLIP")
    return pathway


@torch.inference_mode()
def evaluate(pathway: HighLevelPathway, photos: list[Path], mos: np.ndarray) -> dict[str, float]:
    """SRCC of Q_H with opinion scores, and with the severity of distortions of photos that scikit-image ships."""
    pathway.eval()

    def score(x: torch.Tensor) -> float:
        return pathway.quality(pathway(x)).item()

    scores = np.array([score(read_image(path)[None]) for path in tqdm(photos, desc="opinions")])
    severities = list(quick_severities(score).values())
    return {
        f"SRCC with opinions, {len(mos)} photos": srcc(scores, mos),
        f"SRCC with severity, mean of {len(severities)} types on 5 photos": float(np.mean(severities)),
    }


def of_the_log(log: list[dict[str, float]]) -> list[Row]:
    """Means over the first and the last tenth of the steps of a training."""
    tenth = max(len(log) // 10, 1)
    rows: list[Row] = []
    for key in ("loss", "quality_poor", "quality_good"):
        before, after = (float(np.mean([entry[key] for entry in part])) for part in (log[:tenth], log[-tenth:]))
        rows.append({"figure": f"{key}, mean of the first and the last {tenth} steps", "before": before, "after": after})
    return rows


def markdown(report: Report) -> list[str]:
    """A table of all figures."""
    header = ["Q_H of the small CLIP", "before", "after the group contrastive loss"]
    return table(header, ([str(row["figure"]), f"{row['before']:.3f}", f"{row['after']:.3f}"] for row in report.rows))


def measure(photos: PhotoList, opinions: Opinions, clip_steps: int, steps: int, lr: float, out: Path) -> Report:
    """Train and measure; weights and log of the training go to a new folder ``run`` in `out`.

    Raises:
        FileExistsError: it is there.
    """
    files = list(opinions.files.values())
    seen = near_duplicates(files, photos)
    kept = [i for i in range(len(files)) if i not in seen]
    test, mos = [files[i] for i in kept], opinions.mos[kept]
    clip = train_clip(photos, clip_steps, BATCH, seed=0)
    before = evaluate(pathway_of(clip), test, mos)
    model = train_high(
        photos,
        clip,
        out / "run",
        steps=steps,
        batch=CONTRASTED,
        lr=lr,
        warmup_epochs=WARM_UP,
        device="cpu",
        name="tiny",
    )
    if model is None or model.high is None:
        raise RuntimeError("the training was stopped")
    after = evaluate(model.high, test, mos)
    with (out / "run" / "training" / "log.jsonl").open(encoding="utf-8") as lines:
        log = of_the_log([json.loads(line) for line in lines])
    agreement: list[Row] = [{"figure": key, "before": value, "after": after[key]} for key, value in before.items()]
    trained = f"{steps} of batch {CONTRASTED} at a learning rate of {lr:g}, on {len(photos)} photos."
    notes = [f"{clip_steps} steps on captions, then {trained}"]
    data: Row = {"name": opinions.name, "id": opinions.id, "images": len(kept)}
    return measured(STUDY, model.weights_id, data, [*agreement, *log], notes)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and measure, or only report, and write the report to --out."""
    parser = study_parser(__doc__)
    parser.add_argument("--photos", type=Path, action="append", help="training photos")
    parser.add_argument("--opinions", type=Path, help="folder with labels.csv")
    parser.add_argument("--clip-steps", type=int, default=600)
    parser.add_argument("--steps", type=int, default=100, help="of the group contrastive loss")
    parser.add_argument("--lr", type=float, default=1e-5, help="of the group contrastive loss; the tower is small")
    given = parse(parser, arguments, needed=("photos", "opinions"))
    if given.report_only:
        report = read_report(given.out, STUDY)
    else:
        photos, opinions = PhotoList(given.photos), read_opinions(given.opinions)
        report = measure(photos, opinions, given.clip_steps, given.steps, given.lr, given.out)
    write_report(report, given.out, markdown)


if __name__ == "__main__":
    main()
