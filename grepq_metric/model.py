"""GRepQ: the two pathways joined into one no-reference quality score.

Method: "Learning Generalizable Perceptual Representations for Data-Efficient No-Reference Image Quality Assessment"
(GRepQ, WACV 2024, https://arxiv.org/abs/2312.04838).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from torch import Tensor, nn

from grepq_metric import weights as weights_files
from grepq_metric.errors import InputError
from grepq_metric.pathways.high import RN50, HighLevelPathway
from grepq_metric.pathways.low import LowLevelPathway, pad_to

PATHWAYS = ("low", "high")
FEATURE_KINDS = ("image", "patches")
MODEL_CARD = """---
{{ card_data }}
---

{{ mark }}

# {{ weights_id }}

Weights of GRepQ, a no-reference image quality metric (WACV 2024, https://arxiv.org/abs/2312.04838), for the Python package
`grepq-metric`. Higher scores are better.

```python
from grepq_metric import GRepQ

model = GRepQ.from_pretrained("THIS_REPOSITORY_OR_FOLDER")
score = model(images)  # (N, 3, H, W) RGB in [0, 1] -> (N, 1)
```

Pathways: {{ pathways }}.

## Where these weights come from

{{ provenance }}
{% if terms %}
## Terms of the training photos, as their sources state them

{{ terms }}
{% endif %}
## Measured

{{ results or "Nothing that has been recorded here." }}

## Limits

{{ limits }}
"""
LIMITS = {
    "low": "- The low-level pathway knows distortions, not content: it can't tell a well composed photo from a dull one, and "
    "takes a smooth or blurred background for a loss of quality. Resizing a photo changes its score.",
    "high": "- The high-level pathway judges a photo as CLIP understands the words of two prompts, with CLIP's biases; it was "
    "not made to judge people or places.",
}


class GRepQ(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="grepq-metric",
    license="mit",
    tags=["image-quality-assessment", "no-reference"],
    paper_url="https://arxiv.org/abs/2312.04838",
    model_card_template=MODEL_CARD,
):
    """GRepQ's zero-shot quality of photos, higher is better.

    Load weights with `from_pretrained`; a model that is only constructed has none and refuses to score. It is always in
    evaluation mode: `train` changes nothing.

    Args:
        pathways: ``"low"``, ``"high"`` or both.
        patch_size: side of a patch of the low-level pathway in pixels.
        patch_stride: distance between neighbouring patches in pixels.
        ridge: multiple of the identity added to the covariance.
        distance_scale: the distance is divided by it before the sigmoid.
        logit_scale: multiple of the difference of cosines before the sigmoid of the high-level pathway.
        chunk_size: patches that are encoded at once; it bounds memory, not what is computed.
        name: name of the weights.
        storage: floating-point format of the weights on disk, ``float32`` or ``float16``.
        provenance: where the weights come from: what trained them, on what, when, hashes of sources.
        image_tower: shape of the image tower where it is not CLIP RN50's, see `HighLevelPathway`.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> import torch
        >>> from grepq_metric import GRepQ
        >>> model = GRepQ.from_pretrained("grepq-ll")
        >>> model(torch.rand(2, 3, 128, 160)).shape
        torch.Size([2, 1])
    """

    def __init__(
        self,
        pathways: Sequence[str] = PATHWAYS,
        patch_size: int = 96,
        patch_stride: int = 48,
        ridge: float = 1e-3,
        distance_scale: float = 100.0,
        logit_scale: float = 10.0,
        chunk_size: int = 64,
        name: str = "grepq",
        storage: str = "float32",
        provenance: dict | None = None,
        image_tower: dict | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(pathways, (list, tuple)) or not pathways or set(pathways) - set(PATHWAYS):
            raise InputError(f"pathways must be a list of some of {PATHWAYS}, got {pathways!r}")
        if storage not in ("float32", "float16"):
            raise InputError(f"storage must be float32 or float16, got {storage!r}")
        self.pathways = tuple(p for p in PATHWAYS if p in pathways)
        self.name, self.storage, self.provenance = name, storage, dict(provenance or {})
        self._constants = {
            "patch_size": patch_size,
            "patch_stride": patch_stride,
            "ridge": ridge,
            "distance_scale": distance_scale,
            "logit_scale": logit_scale,
            "chunk_size": chunk_size,
        }
        for key, value in self._constants.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise InputError(f"{key} must be a number, got {value!r}")
        self.low = (
            LowLevelPathway(patch_size, patch_stride, ridge, distance_scale, chunk_size) if "low" in self.pathways else None
        )
        self.high = HighLevelPathway(logit_scale, image_tower) if "high" in self.pathways else None
        self._ready = False
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Zero-shot score of images.

        Args:
            x: ``(N, 3, H, W)`` RGB, or ``(N, 1, H, W)`` grey, in [0, 1]; any size. An image below 96 pixels on a side is
                mirrored (or, if it is too small for that, its edge repeated) to 96.

        Returns:
            ``(N, 1)``, higher is better: Q_L + Q_H in (0, 1.5); with the low-level pathway alone Q_L in (0, 0.5]; with the
            high-level pathway alone Q_H in (0, 1).

        Raises:
            ValueError: `x` has another shape or type, holds NaN or is clearly not in [0, 1], or the model has no weights.
        """
        return self.components(x)["score"]

    def components(self, x: Tensor) -> dict[str, Tensor | None]:
        """The score and its parts, each ``(N, 1)``, or None where the weights lack the pathway. `x` as for `forward`.

        Returns:
            ``score``: the sum of ``low`` and ``high``, higher is better.
            ``low``: Q_L in (0, 0.5].
            ``high``: Q_H in (0, 1).
            ``distance``: of the low-level pathway, d >= 0, lower is better.
        """
        x, dtype = self._prepare(x)
        parts: dict[str, Tensor | None] = dict.fromkeys(("score", "low", "high", "distance"))
        if self.low is not None:
            distance = self.low(x)
            parts["distance"], parts["low"] = distance, self.low.quality(distance)
        if self.high is not None:
            parts["high"] = self.high.quality(self.high(x))
        parts["score"] = sum(parts[p].double() for p in self.pathways)
        return {key: None if value is None else value.to(dtype).unsqueeze(1) for key, value in parts.items()}

    def features(self, x: Tensor, kind: str = "image") -> Tensor:
        """Frozen features, for the paper's data-efficient prediction. `x` as for `forward`.

        Args:
            x: images.
            kind: ``image``: the encoder's features of the whole image, as in the paper. ``patches``, which is not in the
                paper: mean and standard deviation of its features over the patches of the zero-shot score.

        Returns:
            ``(N, 1152)``: CLIP's embedding (1024), then the low-level features (128; ``patches``: 256); one of the two where
            the weights hold one pathway.

        Raises:
            ValueError: as `forward`, or `kind` is unknown or needs a pathway that the weights lack.
        """
        if kind not in FEATURE_KINDS:
            raise InputError(f"unknown kind of features {kind!r}, expected one of {', '.join(FEATURE_KINDS)}")
        if kind == "patches" and self.low is None:
            raise InputError(f"{self.name} has no low-level pathway, and so no features of patches")
        x, dtype = self._prepare(x)
        parts = []
        if self.high is not None:
            parts.append(self.high(x))
        if self.low is not None:
            parts.append(self.low.encoder(x) if kind == "image" else self.low.patch_summary(x))
        return torch.cat(parts, dim=1).to(dtype)

    def quality_map(self, x: Tensor) -> Tensor:
        """Distance of each patch to the pristine statistics. `x` as for `forward`.

        A patch is compared as an image of one patch would be: its features are the mean and its covariance is zero. The map
        is therefore in the unit of ``components(x)["distance"]``, but its mean is not that distance.

        Returns:
            ``(N, 1, h, w)``, lower is better. Element (i, j) belongs to the patch whose top left pixel is at
            (i, j) * `patch_stride`.

        Raises:
            ValueError: the weights have no low-level pathway.
        """
        if self.low is None:
            raise InputError(f"{self.name} has no low-level pathway, and so no quality map")
        x, dtype = self._prepare(x)
        return self.low.quality_map(x).to(dtype)

    def train(self, mode: bool = True) -> GRepQ:
        """Stay in evaluation mode: batch statistics would change what a score means. Gradients do not need it."""
        return super().train(False)

    @property
    def config(self) -> dict[str, Any]:
        """The content of ``config.json``."""
        return {
            "pathways": list(self.pathways),
            "name": self.name,
            "storage": self.storage,
            "provenance": self.provenance,
            **self._constants,
            **({"image_tower": self.high.image_tower} if self.high is not None and self.high.image_tower != RN50 else {}),
        }

    @property
    def weights_id(self) -> str:
        """Name of the weights and a hash of their values (as float32) and of the constants that enter a score."""
        digest = hashlib.sha256()
        for key in ("patch_size", "patch_stride", "ridge", "distance_scale", "logit_scale"):
            digest.update(f"{key}={self._constants[key]:g};".encode())
        for key, value in sorted(self.state_dict().items()):
            if value.is_floating_point():
                digest.update(key.encode())
                digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().data)
        return f"{self.name}-{digest.hexdigest()[:8]}"

    @classmethod
    def from_pretrained(
        cls,
        weights: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        **options,
    ) -> GRepQ:
        """Load weights.

        Args:
            weights: a built-in name (``grepq-ll``: in this package, no network; ``grepq-hl`` and ``grepq``: CLIP from the
                Hugging Face Hub), a folder with ``config.json`` and ``model.safetensors``, such a safetensors file, or a
                Hub repository ``user/name``.
            revision: branch, tag or commit of the Hub repository; for built-in names, of CLIP's.
            token: access token for the Hub; by default what ``hf auth login`` or ``HF_TOKEN`` set.
            cache_dir: folder for downloads; by default the Hub client's.
            force_download: download even what is in the cache.
            local_files_only: use the cache alone.
            options: override constants of the weights, for example ``chunk_size=16``, or choose one of two ``pathways``.

        Raises:
            FileNotFoundError: a folder or file is not there.
            ValueError: `weights` is no name, path or repository, or an option is unknown.
            WeightsError: the weights cannot be had or are not what they should be; the message says what to do.
        """
        hub = {
            "revision": revision,
            "token": token,
            "cache_dir": cache_dir,
            "force_download": force_download,
            "local_files_only": local_files_only,
        }
        model = weights_files.load(cls, weights_files.locate(cls, weights, hub), options)
        model._check_ready()  # now, since a graph of the model can't look at values
        return model

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        config: dict | None = None,
        model_card_kwargs: dict | None = None,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **push_to_hub_options,
    ) -> str | None:
        """Write ``config.json``, ``model.safetensors`` and a model card, unless there is one that you have written.

        Arguments as in `PyTorchModelHubMixin`. What is in the folder is replaced only after all has been written.

        Raises:
            WeightsError: the folder can't be written, for example because the disk is full.
        """
        if push_to_hub_options and not push_to_hub:
            raise TypeError(f"unknown arguments without push_to_hub: {sorted(push_to_hub_options)}")

        def write(staging: Path) -> None:
            super(GRepQ, self).save_pretrained(staging, config=config or self.config, model_card_kwargs=model_card_kwargs)

        weights_files.save(write, save_directory)
        if not push_to_hub:
            return None
        repo_id = repo_id or Path(save_directory).name
        return self.push_to_hub(repo_id, config=config, model_card_kwargs=model_card_kwargs, **push_to_hub_options)

    def generate_model_card(self, *args, **kwargs) -> ModelCard:
        """The model card, filled with the weights' id and provenance."""
        facts = [f"- {key}: {_plain(value)}" for key, value in self.provenance.items()] or ["- not recorded"]
        limits = ["- Scores of different weights are not comparable; rank photos, or fit scores to your own ratings."]
        return super().generate_model_card(
            *args,
            mark=weights_files.CARD_MARK,
            weights_id=self.weights_id,
            pathways=", ".join(self.pathways),
            provenance="\n".join(facts),
            limits="\n".join([*limits, *(LIMITS[pathway] for pathway in self.pathways)]),
            **kwargs,
        )

    def _save_pretrained(self, save_directory: Path) -> None:
        weights_files.save_tensors(self, Path(save_directory) / weights_files.TENSORS)

    def _prepare(self, x: Tensor, check_values: bool = True) -> tuple[Tensor, torch.dtype]:
        """Check the input; return it padded, in the weights' type, and the type of results."""
        if not isinstance(x, Tensor):
            raise InputError(f"expected a tensor (N, 3, H, W), got {type(x).__name__}")
        if x.ndim != 4 or x.shape[1] not in (1, 3) or 0 in x.shape:
            raise InputError(f"expected a tensor (N, 3, H, W) or (N, 1, H, W), got {tuple(x.shape)}")
        if not x.is_floating_point():
            raise InputError(f"expected floating point values in [0, 1], got {x.dtype}: convert and divide by 255")
        if check_values and not torch.compiler.is_compiling():  # a graph has no errors that depend on values
            low, high = x.detach().aminmax()
            # Restoration networks overshoot a little; what is far outside is another scale or a broken network.
            if not (low >= -1 and high <= 2):
                raise InputError(f"expected values in [0, 1], got {low.item():g} to {high.item():g}")
        if not self._ready:
            self._check_ready()
        dtype = torch.promote_types(x.dtype, torch.float32)
        x = x.to(next(self.parameters()).dtype).expand(-1, 3, -1, -1)
        return pad_to(x, self._constants["patch_size"]), dtype

    def _check_ready(self) -> None:
        constants = [self.low.pristine_mean if self.low else None, self.high.text_features if self.high else None]
        if any(value is not None and value.isnan().any() for value in constants):
            raise InputError(
                "the model has no weights: load some with GRepQ.from_pretrained, or, after training, write the pristine "
                "statistics with `grepq pristine`"
            )
        self._ready = True


def _plain(value: Any) -> str:
    """A fact of the record as a person would write it."""
    if isinstance(value, dict):
        return "; ".join(f"{key} {_plain(v)}" for key, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
