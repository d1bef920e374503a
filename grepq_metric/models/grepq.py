"""GRepQ: the pathways joined into one no-reference quality score.

Method: "Learning Generalizable Perceptual Representations for Data-Efficient No-Reference Image Quality Assessment"
(GRepQ, WACV 2024, https://arxiv.org/abs/2312.04838).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from grepq_metric.errors import InputError
from grepq_metric.inputs import result_type
from grepq_metric.models.base import QualityModel, shape_of
from grepq_metric.pathways import (
    HighLevelConfig,
    HighLevelPathway,
    ImageTower,
    LowLevelConfig,
    LowLevelPathway,
    Pathway,
    SemanticConfig,
    SemanticPathway,
    image_tower_of,
)
from grepq_metric.pathways.base import as_plain
from grepq_metric.pathways.efficientnet import STRIDES

PATHWAYS = ("low", "semantic", "high")
"""Names of the pathways, in the order in which they are joined."""
OPTIONS = (
    *("pathways", "patch_size", "patch_stride", "ridge", "distance_scale", "logit_scale", "chunk_size"),
    *("precision", "speed", "resolution"),
)
"""What may be changed when weights are loaded; all but `chunk_size` change what a score means, and the id of the weights."""


class GRepQ(QualityModel, paper_url="https://arxiv.org/abs/2312.04838"):
    """GRepQ's zero-shot quality of photos, higher is better.

    Load weights with `from_pretrained`; a model that is only constructed has none and refuses to score. It is always in
    evaluation mode: `train` changes nothing.

    Args:
        pathways: some of `PATHWAYS`.
        patch_size: side of a patch of the low-level pathway in pixels.
        patch_stride: distance between neighbouring patches in pixels.
        ridge: multiple of the identity added to the covariance.
        distance_scale: the distance is divided by it before the sigmoid.
        logit_scale: multiple of the difference of cosines before the sigmoid of the high-level pathway.
        chunk_size: patches that are encoded at once; it bounds memory, not what is computed.
        precision: ``fp32``: in the type of the weights; ``bf16``: networks run under autocast in bfloat16, a cheaper mode.
        speed: ``exact``: each patch of the low-level pathway is encoded by itself, as in the paper; ``dense``: its encoder
            runs once over the whole image, another cheaper mode. The other pathways are the same in both.
        resolution: pixels of the longer side to which larger images are reduced before they are scored, another cheaper mode;
            None: every image is scored at its full size, as in the paper. All modes are part of `weights_id`.
        name: name of the weights: letters, digits, dots, underscores and hyphens.
        storage: floating-point format of the weights on disk, ``float32`` or ``float16``.
        provenance: where the weights come from: what trained them, on what, when, hashes of sources.
        image_tower: shape of the image tower where it is not CLIP RN50's, see `ImageTower`.
        semantic: the semantic pathway's constants, see `SemanticConfig`.
        dense: whether the weights hold what ``speed="dense"`` needs.

    Attributes:
        low: the low-level pathway, or None.
        semantic: the semantic pathway, or None.
        high: the high-level pathway, or None.

    Raises:
        InputError: an argument is out of its range.

    Examples:
        >>> import torch
        >>> from grepq_metric import GRepQ
        >>> model = GRepQ.from_pretrained("grepq-sem")
        >>> model(torch.rand(2, 3, 128, 160)).shape
        torch.Size([2, 1])
    """

    OPTIONS: ClassVar[tuple[str, ...]] = OPTIONS
    PARTS: ClassVar[tuple[str, ...]] = PATHWAYS
    COMPONENTS: ClassVar[tuple[str, ...]] = ("score", *PATHWAYS, "distance")
    FACTS: ClassVar[tuple[str, ...]] = (*QualityModel.FACTS, "image_tower", "semantic", "dense")
    low: LowLevelPathway | None
    semantic: SemanticPathway | None
    high: HighLevelPathway | None

    def __init__(
        self,
        pathways: Sequence[str] = ("low", "high"),
        patch_size: int = 96,
        patch_stride: int = 48,
        ridge: float = 1e-3,
        distance_scale: float = 100.0,
        logit_scale: float = 10.0,
        chunk_size: int = 64,
        precision: str = "fp32",
        speed: str = "exact",
        resolution: int | None = None,
        name: str = "grepq",
        storage: str = "float32",
        provenance: Mapping[str, Any] | None = None,
        image_tower: Mapping[str, Any] | ImageTower | None = None,
        semantic: Mapping[str, Any] | SemanticConfig | None = None,
        dense: bool = False,
    ) -> None:
        super().__init__(precision, resolution, name, storage, provenance)
        if not isinstance(pathways, (list, tuple)) or not pathways or any(name not in PATHWAYS for name in pathways):
            raise InputError(f"pathways must be a list of some of {PATHWAYS}, got {pathways!r}")
        self._spare_low = LowLevelConfig(patch_size, patch_stride, ridge, distance_scale)
        self._spare_high = HighLevelConfig(logit_scale, shape_of(ImageTower, image_tower, "image_tower"))
        if speed != "exact" and "low" not in pathways:
            raise InputError(f"speed={speed!r} is about the low-level pathway, and there is none in {list(pathways)}")
        self.low = LowLevelPathway(self._spare_low, chunk_size, speed, dense) if "low" in pathways else None
        shape = shape_of(SemanticConfig, semantic, "semantic")
        self.semantic = SemanticPathway(shape) if "semantic" in pathways else None
        self.high = HighLevelPathway(self._spare_high) if "high" in pathways else None
        self.finish_init()

    @property
    def speed(self) -> str:
        """How the low-level pathway encodes patches, ``exact`` or ``dense``."""
        return "exact" if self.low is None else self.low.speed

    @property
    def least_side(self) -> int:
        """See `QualityModel.least_side`: the side of a patch."""
        return self._low_config().patch_size

    @property
    def cell(self) -> int:
        """See `QualityModel.cell`."""
        return STRIDES[-1]

    def joined(self) -> list[Pathway]:
        """See `QualityModel.joined`."""
        return [pathway for pathway in (self.low, self.semantic, self.high) if pathway is not None]

    def distance_map(self, x: Tensor) -> Tensor:
        """Distance of each patch to the pristine statistics. `x` as for `forward`.

        A patch is compared as an image of one patch would be: its features are the mean and its covariance is zero. The map
        is therefore in the unit of ``components(x)["distance"]``, but its mean is not that distance.

        Returns:
            ``(N, 1, h, w)``, lower is better. Element (i, j) belongs to the patch whose top left pixel is at
            (i, j) * `patch_stride`.

        Raises:
            InputError: as `forward`, or the weights have no low-level pathway.
        """
        if self.low is None:
            raise InputError(f"{self.name} has no low-level pathway, and so no distance map")
        with self.autocast():
            return self.low.distance_map(self.prepare(x)).to(result_type(x))

    def quality_map(self, x: Tensor) -> Tensor:
        """Q_S of each place of images, see `QualityModel.quality_map`."""
        if self.semantic is None:
            raise InputError(f"{self.name} has no semantic pathway, and so no quality map")
        with self.autocast():
            return self.semantic.quality_map(self.prepare(x)).to(result_type(x))

    @property
    def config(self) -> dict[str, Any]:
        """The content of ``config.json``."""
        high = self._high_config()
        tower = {} if high.image_tower == ImageTower() else {"image_tower": as_plain(high.image_tower)}
        return {
            **self.common_config(),
            "chunk_size": 64 if self.low is None else self.low.chunk_size,
            "logit_scale": high.logit_scale,
            **({} if self.speed == "exact" else {"speed": self.speed}),
            **({} if self.low is None or self.low.dense is None else {"dense": True}),
            **as_plain(self._low_config()),
            **tower,
            **({} if self.semantic is None else {"semantic": as_plain(self.semantic.config)}),
        }

    @classmethod
    def settings_of(
        cls, known: Mapping[str, Any], tensors: Mapping[str, Tensor], options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """See `QualityModel.settings_of`."""
        if "high" in known["pathways"]:
            found = image_tower_of({k.removeprefix("high.visual."): v for k, v in tensors.items()})
            if shape_of(ImageTower, known.get("image_tower"), "image_tower") != found:
                raise InputError(f"its image_tower is not that of the tensors, {found}")
        settings = super().settings_of(known, tensors, options)
        if "low" not in settings["pathways"] and "speed" not in options:
            settings.pop("speed", None)  # of a pathway that is left out
        return settings

    def _low_config(self) -> LowLevelConfig:
        return self._spare_low if self.low is None else self.low.config

    def _high_config(self) -> HighLevelConfig:
        return self._spare_high if self.high is None else self.high.config
