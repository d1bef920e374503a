"""Does the high-level training work? A small CLIP, trained here on captions, and then fine-tuned by ``train_high_level``.

    python -m benchmarks.studies.tiny_clip --photos DIR --opinions DIR --out DIR

OpenAI's CLIP can't be had where this project is built, so its place takes a CLIP of the same design with an image tower of
1 + 1 + 1 + 1 blocks. It learns to tell captions such as "a good photo" and "a blurry photo" of clean and distorted crops.
Then the group contrastive loss fine-tunes its image tower on undistorted photos alone, and Q_H is compared, before and after,
with opinion scores and with the severity of distortions of photos that neither training saw. This shows that the training does
what it should, and not how good the method is with OpenAI's CLIP.
"""

from __future__ import annotations

import argparse
import json
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import open_clip
import scipy.stats
import torch
import torch.nn.functional as F
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from tqdm import tqdm

from benchmarks.studies.synthetic import quick_severities
from benchmarks.studies.training_gain import read_labels
from grepq_metric import read_image
from grepq_metric.pathways.high import ARCHITECTURE, HighLevelPathway
from grepq_metric.training.distortions import DISTORTIONS
from grepq_metric.training.high import HighLevelTraining, high_level_pathway, high_level_weights, train_high_level
from grepq_metric.training.photos import PhotoList
from grepq_metric.weights import high_level_tensors

TOWER = {"layers": [1, 1, 1, 1], "width": 16, "output_dim": 128}
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
CROP = 96


def train_clip(photos: PhotoList, steps: int, batch: int, seed: int) -> dict[str, torch.Tensor]:
    """State dict of a small CLIP in open_clip's layout: each crop is to be nearest to its caption among all captions."""
    torch.manual_seed(seed)
    vision = CLIPVisionCfg(layers=TOWER["layers"], width=TOWER["width"], image_size=CROP)
    text = CLIPTextCfg(context_length=77, vocab_size=49408, width=64, heads=1, layers=2)
    clip = open_clip.CLIP(TOWER["output_dim"], vision, text, quick_gelu=True)
    pathway = HighLevelPathway(image_tower=TOWER).train()
    captions = [*GOOD, *BAD]
    tokens = open_clip.get_tokenizer(ARCHITECTURE)(captions)
    optimizer = torch.optim.AdamW([*pathway.parameters(), *clip.parameters()], lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, steps)
    rng = np.random.default_rng(seed)
    for _ in (bar := tqdm(range(steps), desc="CLIP on captions", unit="step")):
        crops, labels = [], []
        while len(crops) < batch:
            image = (photos.image(int(rng.integers(len(photos))), CROP) * 255).round().byte().permute(1, 2, 0).numpy()
            for _ in range(8):  # several crops of one photo: decoding is what takes the time
                top, left = (rng.integers(side - CROP + 1) for side in image.shape[:2])
                crop = image[top : top + CROP, left : left + CROP]
                label = int(rng.integers(len(GOOD)))
                if rng.random() < 0.5:
                    label = len(GOOD) + int(rng.integers(len(BAD)))
                    kinds = BAD[captions[label]]
                    crop = DISTORTIONS[kinds[rng.integers(len(kinds))]](
                        crop, int(rng.integers(2, 6)), int(rng.integers(1 << 30))
                    )
                crops.append(torch.from_numpy(np.ascontiguousarray(crop)).permute(2, 0, 1))
                labels.append(label)
        with torch.autocast("cpu", torch.bfloat16):
            images = F.normalize(pathway(torch.stack(crops).float() / 255).float(), dim=-1)
            words = F.normalize(clip.encode_text(tokens).float(), dim=-1)
        loss = F.cross_entropy(images @ words.T * 20, torch.tensor(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}")
    state = {key: value for key, value in clip.state_dict().items() if not key.startswith("visual.")}
    return state | {f"visual.{key}": value for key, value in pathway.visual.state_dict().items()}


@torch.inference_mode()
def evaluate(pathway: HighLevelPathway, opinions: Path, keep: list[dict]) -> dict[str, float]:
    """SRCC of Q_H with opinion scores, and with the severity of distortions of photos that scikit-image ships."""
    pathway.eval()

    def score(x):
        return pathway.quality(pathway(x)).item()

    scores = [score(read_image(opinions / row["image"])[None]) for row in tqdm(keep, desc=opinions.name)]
    found = {
        f"SRCC with opinions, {len(keep)} photos": scipy.stats.spearmanr(scores, [float(row["mos"]) for row in keep]).statistic
    }
    return found | {"SRCC with severity, mean of 8 types on 5 photos": float(np.mean(list(quick_severities(score).values())))}


def main() -> None:
    """Train, measure, print a table and write it to --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, action="append", required=True, help="training photos")
    parser.add_argument("--opinions", type=Path, required=True, help="folder with labels.csv")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clip-steps", type=int, default=600)
    parser.add_argument("--steps", type=int, default=100, help="of the group contrastive loss")
    parser.add_argument("--lr", type=float, default=1e-5, help="of the group contrastive loss; the tower is small")
    arguments = parser.parse_args()

    photos = PhotoList(arguments.photos)
    labels, seen = read_labels(arguments.opinions, photos)
    keep = [row for i, row in enumerate(labels) if i not in seen]
    clip = train_clip(photos, arguments.clip_steps, batch=32, seed=0)
    tensors = high_level_tensors(clip, "the small CLIP")
    before = evaluate(high_level_pathway(tensors), arguments.opinions, keep)

    training = HighLevelTraining(steps=arguments.steps, lr=arguments.lr, warmup_epochs=0.5)
    pathway, _ = train_high_level(photos, tensors, arguments.out, training, workers=1)
    after = evaluate(pathway, arguments.opinions, keep)
    high_level_weights(pathway, arguments.out, "tiny", {"clip": "trained by benchmarks.studies.tiny_clip"}).save_pretrained(
        arguments.out
    )
    log = [json.loads(line) for line in (arguments.out / "training" / "log.jsonl").open()]
    first, last = log[: max(len(log) // 10, 1)], log[-max(len(log) // 10, 1) :]
    lines = ["| Q_H of the small CLIP | before | after the group contrastive loss |", "|---|---|---|"]
    lines += [f"| {key} | {value:.3f} | {after[key]:.3f} |" for key, value in before.items()]
    for key in ("loss", "quality_poor", "quality_good"):
        a, b = (float(np.mean([entry[key] for entry in part])) for part in (first, last))
        lines.append(f"| {key}, mean of the first and the last {len(first)} steps | {a:.3f} | {b:.3f} |")
    date = datetime.now(timezone.utc).date().isoformat()
    lines += [
        "",
        f"{date}, torch {torch.__version__}; {arguments.clip_steps} steps on captions, then {arguments.steps} of batch",
    ]
    lines += [f"{training.batch} at a learning rate of {arguments.lr:g}, on {len(photos)} photos."]
    (arguments.out / "tiny_clip.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
