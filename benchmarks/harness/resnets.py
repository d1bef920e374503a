"""CONTRIQUE and Re-IQA: features of ResNet-50 encoders at two scales, from the checkpoints that their authors publish.

Both are for heads that are fitted to labels. What the authors do was read in their repositories; no code is from there.

- CONTRIQUE (Madhusudana et al., TIP 2022, https://github.com/pavancm/CONTRIQUE). ``modules/CONTRIQUE_model.py``: torchvision's
  ResNet-50 without its last two layers is the ``Sequential`` `encoder`; the mean over its map is scaled to length 1.
  ``demo_feat.py``: RGB in [0, 1], not normalised; the photo and the photo at half its width and height, 4096 values together.
- Re-IQA (Saha et al., CVPR 2023, https://github.com/avinabsaha/ReIQA). ``demo_content_aware_feats.py`` and
  ``demo_quality_aware_feats.py``: the entry ``model`` of each checkpoint is a network in ``DataParallel`` whose `encoder` is a
  ResNet-50 (``networks/resnet.py``: torchvision's, in its names, without the classifier). Both scales as above, and no length
  is changed. The content-aware encoder takes RGB normalised as ImageNet's, the quality-aware one RGB in [0, 1]; issue 15 says
  that this is meant. Both together are 8192 values (issue 8).

Both halve photos by Pillow's ``resize`` without a filter: that is bicubic, in the versions that their ``requirements.txt`` ask
for (8.4 and 9.4) as in today's. The authors' regressors are scikit-learn's ridge regression with a penalty of 0.1
(``train_regressor.py``) and its ElasticNet with parameters found for each data set (issue 14); here both get the head that all
features get, `benchmarks.harness.protocols.new_head`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchvision.transforms.functional as TF
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from grepq_metric.errors import WeightsError
from grepq_metric.files import sha256, whole_file
from grepq_metric.weights import load_tensors, read_tensors

FORMAT = "peer encoder 1"
SMALLEST = 2
"""Shortest side in pixels of which there is a half."""


@dataclass(frozen=True)
class Checkpoint:
    """One of the authors' files, and how its encoder is used.

    Attributes:
        file: its name where they publish it.
        page: where that is.
        prefix: of the names of the encoder's tensors.
        parts: torchvision's names of the encoder's parts, where the file has others.
        mean: of the channels, by which images are normalised.
        std: likewise.
        unit: whether the features of each scale are scaled to length 1.
    """

    file: str
    page: str
    prefix: str
    parts: Mapping[str, str] = field(default_factory=dict)
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    unit: bool = False


_NUMBERED = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_REIQA = "https://github.com/avinabsaha/ReIQA"
CHECKPOINTS = {
    "contrique": Checkpoint(
        "CONTRIQUE_checkpoint25.tar", "https://github.com/pavancm/CONTRIQUE", "encoder.", parts=_NUMBERED, unit=True
    ),
    "reiqa-content": Checkpoint(
        "content_aware_r50.pth", _REIQA, "module.encoder.", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    ),
    "reiqa-quality": Checkpoint("quality_aware_r50.pth", _REIQA, "module.encoder."),
}
"""By the name that ``python -m benchmarks convert-peer`` takes."""
METRICS = {"contrique": {"weights": "contrique"}, "reiqa": {"content": "reiqa-content", "quality": "reiqa-quality"}}
"""The options of each metric, and the checkpoint that each stands for."""


class Encoder(nn.Module):
    """A ResNet-50 that takes photos as its authors do: ``(N, 3, H, W)`` RGB in [0, 1] -> ``(N, 2048)``.

    Args:
        checkpoint: how it is used.
        tensors: by torchvision's names, without the classifier.
        source: where they are from, for messages.

    Raises:
        WeightsError: they are not those of a ResNet-50.
    """

    def __init__(self, checkpoint: Checkpoint, tensors: Mapping[str, Tensor], source: Path) -> None:
        from torchvision.models import resnet50

        super().__init__()
        self.checkpoint = checkpoint
        with torch.device("meta"):
            self.network = resnet50()
        self.network.fc = nn.Identity()
        load_tensors(self.network, tensors, source)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        features = self.network(TF.normalize(x, list(self.checkpoint.mean), list(self.checkpoint.std)))
        return nn.functional.normalize(features) if self.checkpoint.unit else features


class TwoScales(nn.Module):
    """Features of a photo and of the same photo at half its width and height, by one encoder after the other.

    Args:
        encoders: in the order of their features.
    """

    def __init__(self, encoders: list[Encoder]) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)

    def forward(self, x: Tensor) -> Tensor:
        """``(1, 3, H, W)`` RGB in [0, 1] -> ``(4096,)`` for each encoder, one after the other.

        Raises:
            ValueError: a side is below 2 pixels.
        """
        scales = (x, halved(x))
        return torch.cat([encoder(scale)[0] for encoder in self.encoders for scale in scales])


def halved(x: Tensor) -> Tensor:
    """A photo at half its size, as Pillow makes it of 8-bit values: ``(1, 3, H, W)`` in [0, 1] -> ``(1, 3, H // 2, W // 2)``.

    Raises:
        ValueError: a side is below 2 pixels.
    """
    height, width = x.shape[-2:]
    if min(height, width) < SMALLEST:
        raise ValueError(f"expected sides of {SMALLEST} pixels or more, got {width}x{height}")
    photo = TF.to_pil_image((x[0] * 255).round().byte().cpu())
    small = photo.resize((width // 2, height // 2), Image.Resampling.BICUBIC)
    return TF.pil_to_tensor(small)[None].to(x) / 255


def convert(name: str, source: Path, out: Path) -> None:
    """Write the encoder of one of the authors' checkpoints as safetensors; no code of their pickle is run.

    Args:
        name: one of `CHECKPOINTS`.
        source: the authors' file.
        out: the file to write, ``*.safetensors``, which `open_encoders` takes; one that exists is replaced.

    Raises:
        ValueError: `out` has another ending.
        FileNotFoundError: there is no such file.
        WeightsError: it is damaged, holds more than tensors, or its encoder is no ResNet-50.
        OSError: `out` can't be written.
    """
    checkpoint = CHECKPOINTS[name]
    if out.suffix != ".safetensors":
        raise ValueError(f"expected a name that ends in .safetensors to write to, got {out.name!r}")
    if not source.is_file():
        raise FileNotFoundError(f"no such file: {source}")
    found: dict[str, Any] = dict(read_tensors(source))
    state = found["model"] if isinstance(found.get("model"), dict) else found
    tensors = {}
    for key, value in state.items():
        if str(key).startswith(checkpoint.prefix):
            part, dot, rest = str(key).removeprefix(checkpoint.prefix).partition(".")
            tensors[checkpoint.parts.get(part, part) + dot + rest] = value
    if not tensors:
        raise WeightsError(
            f"{source} holds no tensor named {checkpoint.prefix}*: expected {checkpoint.file} of {checkpoint.page}, "
            f"got one with {', '.join(map(str, list(state)[:3])) or 'nothing'}"
        )
    network = Encoder(checkpoint, tensors, source).network
    metadata = {"format": FORMAT, "peer": name, "authors_file": source.name, "authors_sha256": sha256(source)}
    with whole_file(out) as part_file:
        save_file(network.state_dict(), part_file, metadata)
        part_file.chmod(0o644)  # safetensors makes it private


def open_encoders(name: str, files: Mapping[str, str]) -> tuple[TwoScales, dict[str, str]]:
    """The encoders of a metric from files that `convert` has written.

    Args:
        name: one of `METRICS`.
        files: by option.

    Returns:
        The network, and the SHA-256 of the authors' files by option.

    Raises:
        ValueError: an option is unknown.
        FileNotFoundError: a file is not there.
        WeightsError: an option is missing, with what to do; or a file is damaged or of another checkpoint.
    """
    wanted = METRICS[name]
    unknown = sorted(set(files) - set(wanted))
    if unknown:
        raise ValueError(f"unknown option {unknown[0]!r} of {name}, expected {' and '.join(wanted)}")
    if not all(files.get(option) for option in wanted):
        raise WeightsError(_advice(name))
    encoders, authors = [], {}
    for option, peer in wanted.items():
        path = Path(files[option]).expanduser()
        authors[option] = _metadata(path, peer)["authors_sha256"]
        encoders.append(Encoder(CHECKPOINTS[peer], read_tensors(path), path))
    return TwoScales(encoders), authors


def _advice(name: str) -> str:
    wanted = METRICS[name]
    steps = [
        f"fetch {CHECKPOINTS[peer].file} from {CHECKPOINTS[peer].page}, "
        f"run `python -m benchmarks convert-peer {peer} {CHECKPOINTS[peer].file} --out {peer}.safetensors`"
        for peer in wanted.values()
    ]
    spec = ",".join(f"{option}={peer}.safetensors" for option, peer in wanted.items())
    return f"{name} needs its authors' weights: {', '.join(steps)}, and ask for {name}:{spec}"


def _metadata(path: Path, peer: str) -> dict[str, str]:
    """What `convert` has written beside the tensors."""
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    stored: dict[str, str] = {}
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt") as file:
                stored = file.metadata() or {}
        except SafetensorError as error:
            raise WeightsError(f"{path} is damaged: {error}") from error
    if stored.get("format") != FORMAT or "authors_sha256" not in stored:
        raise WeightsError(f"{path} was not written by `python -m benchmarks convert-peer {peer}`")
    if stored.get("peer") != peer:
        raise WeightsError(f"{path} holds the encoder {stored.get('peer')!r}, expected {peer!r}")
    return stored
