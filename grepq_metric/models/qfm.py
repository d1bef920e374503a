"""QFM-IQM, our reading: a student that must tell the quality of a photo although its features are disturbed.

After "Adaptive Feature Selection for No-Reference Image Quality Assessment by Mitigating Semantic Noise Sensitivity"
(QFM-IQM, ICML 2024, https://arxiv.org/abs/2312.06158). We know of no code and no weights of its authors. What the
paper's abstract leaves open is our choice, so take these scores for ours and not for theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from grepq_metric import catalog
from grepq_metric.errors import InputError, WeightsError
from grepq_metric.inputs import result_type
from grepq_metric.models.base import QualityModel, shape_of
from grepq_metric.pathways import DecoderConfig, DecoderPathway, Pathway
from grepq_metric.pathways.base import as_plain, check_number
from grepq_metric.weights import packaged_backbone

LEAST_SIDE = 96
"""Pixels of a side below which images are padded, as for GRepQ."""
_BACKBONE = "decoder.backbone."


class QFMIQM(QualityModel, paper_url="https://arxiv.org/abs/2312.06158"):
    """QFM-IQM, our reading: quality of photos as people rated others, higher is better.

    A backbone's maps become tokens, a decoder with learned queries reads them, and a regression head tells the quality. How it
    was trained, with features of other photos added as noise, is the matter of `grepq_metric.training.train_qfm`; a score adds
    nothing. Load weights with `from_pretrained`; a model that is only constructed has none and refuses to score. It is always
    in evaluation mode: `train` changes nothing.

    Args:
        pathways: ``["decoder"]``.
        decoder: the backbone and the decoder's shape, see `DecoderConfig`.
        backbone: tag of built-in weights, such as ``grepq-sem.9dee7f58``, whose semantic pathway has the backbone's values:
            weights folders then need not hold them. None: they are this model's own.
        labels: least and greatest opinion score on the scale of what it learned from, which are 0 and 1 of a score.
        precision: ``fp32``: in the type of the weights; ``bf16``: the backbone runs under autocast in bfloat16, a cheaper
            mode.
        resolution: pixels of the longer side to which larger images are reduced before they are scored, another cheaper mode;
            None: every image is scored at its full size.
        name: name of the weights: letters, digits, dots, underscores and hyphens.
        storage: floating-point format of the weights on disk, ``float32`` or ``float16``.
        provenance: where the weights come from: what trained them, on what, when, hashes of sources.

    Attributes:
        decoder: the pathway.
        backbone: as given.
        labels: as given.

    Raises:
        InputError: an argument is out of its range.

    Examples:
        >>> import torch
        >>> from grepq_metric import QFMIQM
        >>> model = QFMIQM.from_pretrained("qfm-iqm")
        >>> model(torch.rand(2, 3, 128, 160)).shape
        torch.Size([2, 1])
    """

    OPTIONS: ClassVar[tuple[str, ...]] = ("pathways", "precision", "resolution")
    PARTS: ClassVar[tuple[str, ...]] = ("decoder",)
    COMPONENTS: ClassVar[tuple[str, ...]] = ("score", "decoder")
    FACTS: ClassVar[tuple[str, ...]] = (*QualityModel.FACTS, "decoder", "backbone", "labels")
    decoder: DecoderPathway

    def __init__(
        self,
        pathways: Sequence[str] = ("decoder",),
        decoder: Mapping[str, Any] | DecoderConfig | None = None,
        backbone: str | None = None,
        labels: Sequence[float] = (0.0, 1.0),
        precision: str = "fp32",
        resolution: int | None = None,
        name: str = "qfm-iqm",
        storage: str = "float32",
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(precision, resolution, name, storage, provenance)
        if not isinstance(pathways, (list, tuple)) or list(pathways) != ["decoder"]:
            raise InputError(f"pathways must be ['decoder'], got {pathways!r:.200}")
        if not isinstance(labels, (list, tuple)) or len(labels) != 2:
            raise InputError(f"labels must be the least and the greatest opinion score, got {labels!r:.200}")
        for value in labels:
            check_number("a bound of labels", value, -1e9, 1e9)
        if not labels[0] < labels[1]:
            raise InputError(f"labels must be the least and the greatest opinion score, got {labels!r}")
        if backbone is not None and backbone not in catalog.backbones():
            raise InputError(f"backbone must be the tag of built-in weights with a semantic pathway, got {backbone!r:.80}")
        self.backbone, self.labels = backbone, (float(labels[0]), float(labels[1]))
        self.decoder = DecoderPathway(shape_of(DecoderConfig, decoder, "decoder"))
        self.finish_init()

    @property
    def least_side(self) -> int:
        """See `QualityModel.least_side`."""
        return LEAST_SIDE

    @property
    def cell(self) -> int:
        """See `QualityModel.cell`: the stride of the backbone's last map."""
        return self.decoder.stride

    def joined(self) -> list[Pathway]:
        """See `QualityModel.joined`."""
        return [self.decoder]

    def mos(self, x: Tensor) -> Tensor:
        """Mean opinion score on the scale of the labels that the model learned from, see `labels`: ``(N, 1)``.

        `x` and errors as for `forward`.
        """
        least, greatest = self.labels
        return least + (greatest - least) * self(x)

    def quality_map(self, x: Tensor) -> Tensor:
        """See `QualityModel.quality_map`."""
        with self.autocast():
            return self.decoder.quality_map(self.prepare(x)).to(result_type(x))

    @property
    def config(self) -> dict[str, Any]:
        """The content of ``config.json``."""
        return {
            **self.common_config(),
            "decoder": as_plain(self.decoder.config),
            "labels": list(self.labels),
            **({} if self.backbone is None else {"backbone": self.backbone}),
        }

    def stored_tensors(self) -> dict[str, Tensor]:
        """The tensors that a weights folder holds, by name: without those of a backbone that has a tag.

        Raises:
            WeightsError: the backbone is no longer the one of the tag.
        """
        tensors = self.state_dict()
        if self.backbone is None:
            return tensors
        for key, value in packaged_backbone(self.backbone).items():
            if not torch.equal(tensors.pop(_BACKBONE + key).float().cpu(), value.float()):
                raise WeightsError(f"the backbone is no longer that of {self.backbone} ({key} differs): set backbone to None")
        return tensors
