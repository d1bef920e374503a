"""GRepQ: the pathways joined into one no-reference quality score.

Method: "Learning Generalizable Perceptual Representations for Data-Efficient No-Reference Image Quality Assessment"
(GRepQ, WACV 2024, https://arxiv.org/abs/2312.04838).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from torch import Tensor, nn

from grepq_metric.errors import InputError, WeightsError
from grepq_metric.inputs import check_images, check_range, pad_to, reduce_to, result_type
from grepq_metric.pathways import (
    FEATURE_KINDS,
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
from grepq_metric.pathways.base import as_plain, check_number
from grepq_metric.reference import Numbers, Reference, Scale
from grepq_metric.weights import HubOptions, check_name, load_tensors, read_weights, weights_id, write_folder
from grepq_metric.weights.card import TEMPLATE, card_facts

PATHWAYS = ("low", "semantic", "high")
"""Names of the pathways, in the order in which they are joined."""
OPTIONS = (
    *("pathways", "patch_size", "patch_stride", "ridge", "distance_scale", "logit_scale", "chunk_size"),
    *("precision", "speed", "resolution"),
)
"""What may be changed when weights are loaded; all but `chunk_size` change what a score means, and the id of the weights."""
PRECISIONS = ("fp32", "bf16")
_Shape = TypeVar("_Shape", ImageTower, SemanticConfig)
_FACTS = ("name", "storage", "provenance", "image_tower", "semantic", "dense")


class GRepQ(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="grepq-metric",
    license="mit",
    tags=["image-quality-assessment", "no-reference"],
    paper_url="https://arxiv.org/abs/2312.04838",
    model_card_template=TEMPLATE,
):
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
        super().__init__()
        if not isinstance(pathways, (list, tuple)) or not pathways or any(name not in PATHWAYS for name in pathways):
            raise InputError(f"pathways must be a list of some of {PATHWAYS}, got {pathways!r}")
        if storage not in ("float32", "float16"):
            raise InputError(f"storage must be float32 or float16, got {storage!r}")
        if precision not in PRECISIONS:
            raise InputError(f"precision must be one of {PRECISIONS}, got {precision!r}")
        if resolution is not None:
            check_number("resolution", resolution, patch_size, 1e6, whole=True)
        self._precision, self._resolution = precision, resolution
        self.name = name
        self.storage, self.provenance = storage, dict(provenance or {})
        self._spare_low = LowLevelConfig(patch_size, patch_stride, ridge, distance_scale)
        self._spare_high = HighLevelConfig(logit_scale, _shape(ImageTower, image_tower, "image_tower"))
        if speed != "exact" and "low" not in pathways:
            raise InputError(f"speed={speed!r} is about the low-level pathway, and there is none in {list(pathways)}")
        self.low = LowLevelPathway(self._spare_low, chunk_size, speed, dense) if "low" in pathways else None
        shape = _shape(SemanticConfig, semantic, "semantic")
        self.semantic = SemanticPathway(shape) if "semantic" in pathways else None
        self.high = HighLevelPathway(self._spare_high) if "high" in pathways else None
        self._ready = False
        self.eval()

    @property
    def name(self) -> str:
        """Name of the weights."""
        return self._name

    @name.setter
    def name(self, value: str) -> None:
        self._name = check_name(value)

    @property
    def precision(self) -> str:
        """In which networks run, ``fp32`` or ``bf16``."""
        return self._precision

    @property
    def speed(self) -> str:
        """How the low-level pathway encodes patches, ``exact`` or ``dense``."""
        return "exact" if self.low is None else self.low.speed

    @property
    def resolution(self) -> int | None:
        """Pixels of the longer side to which larger images are reduced, or None."""
        return self._resolution

    @property
    def pathways(self) -> tuple[str, ...]:
        """Names of the pathways that the score is made of."""
        return tuple(pathway.name for pathway in self._joined())

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    @property
    def best(self) -> float:
        """Least upper bound of the score: the sum of 0.5 of the low-level pathway, 1 of the semantic and 1 of the high one."""
        return sum(pathway.best for pathway in self._joined())

    @property
    def least_side(self) -> int:
        """Pixels of a side below which images are padded."""
        return self._low_config().patch_size

    def forward(self, x: Tensor) -> Tensor:
        """Zero-shot score of images.

        Args:
            x: ``(N, 3, H, W)`` RGB, or ``(N, 1, H, W)`` grey, in [0, 1]; any size. An image below 96 pixels on a side is
                mirrored (or, if it is too small for that, its edge repeated) to 96.

        Returns:
            ``(N, 1)``, higher is better, in (0, `best`): the sum of Q_L in (0, 0.5] of the low-level pathway, Q_S in (0, 1)
            of the semantic one and Q_H in (0, 1) of the high-level one, as far as the weights have them.

        Raises:
            InputError: `x` has another shape or type, holds NaN, lies outside of [0, 1] by more than 0.001 (the message names
                the likely scale), or the model has no weights. In a compiled graph, values are not looked at.
        """
        return self.parts(self.prepare(x))["score"].to(result_type(x)).unsqueeze(1)

    def percentile(self, scores: Numbers) -> Numbers:
        """Percentage of the packaged reference photos that score lower, from 0 to 100, see `Reference.percentile`.

        Args:
            scores: of this model: a number, an array or a tensor; so is what comes back.

        Raises:
            InputError: the package has no reference for these weights in this mode.

        Examples:
            >>> from grepq_metric import GRepQ
            >>> model = GRepQ.from_pretrained("grepq-sem")
            >>> model.percentile(0.3) < 50 < model.percentile(0.8)
            True
        """
        return Reference.packaged(self.weights_id).percentile(scores)

    def points(self, scores: Numbers) -> Numbers:
        """Scores on a scale from 0 to 100 for people, which rises with the score everywhere, see `Scale`.

        Args:
            scores: of this model: a number, an array or a tensor; so is what comes back.

        Raises:
            InputError: the package has no reference for these weights in this mode.
        """
        return Scale.packaged(self.weights_id, self.best).points(scores)

    def components(self, x: Tensor) -> dict[str, Tensor | None]:
        """The score and its parts, each ``(N, 1)``, or None where the weights lack the pathway. `x` as for `forward`.

        Returns:
            ``score``: the sum of ``low``, ``semantic`` and ``high``, higher is better.
            ``low``: Q_L in (0, 0.5].
            ``semantic``: Q_S in (0, 1).
            ``high``: Q_H in (0, 1).
            ``distance``: of the low-level pathway, d >= 0, lower is better.
        """
        parts: dict[str, Tensor | None] = dict.fromkeys(("score", *PATHWAYS, "distance"))
        parts.update(self.parts(self.prepare(x)))
        return {key: None if value is None else value.to(result_type(x)).unsqueeze(1) for key, value in parts.items()}

    def parts(self, x: Tensor, *, patches: int | None = None, checkpoint: bool = True) -> dict[str, Tensor]:
        """The score and its parts, ``(N,)`` each, of images as `prepare` returns them: the one place where scores are joined.

        Args:
            x: the images.
            patches: take as many patches of each image at most, drawn at random, instead of all.
            checkpoint: where gradients flow, compute activations of the low-level pathway twice and keep few of them.

        Returns:
            ``score`` in float64, and the parts of the pathways that there are, as for `components`.
        """
        joined: dict[str, Tensor] = {}
        score = x.new_zeros(len(x), dtype=torch.float64)
        for pathway in self._joined():
            with self._autocast():
                found = pathway.parts(x, patches=patches, checkpoint=checkpoint)
            joined[pathway.name] = found.pop("quality")
            joined.update(found)
            score = score + joined[pathway.name].double()
        return {"score": score, **joined}

    def prepare(self, x: Tensor, *, values: bool = True) -> Tensor:
        """Images as the pathways take them: checked, reduced, three channels, padded to a patch, in the type of the weights.

        Args:
            x: as for `forward`.
            values: whether to check their range.

        Raises:
            InputError: as for `forward`.
        """
        check_images(x)
        if values and not torch.compiler.is_compiling():  # a graph has no errors that depend on values
            check_range(x)
        if not self._ready:
            self.check()
        if not torch.compiler.is_compiling():
            self.train(False)  # also what somebody has put into training mode by itself
        if self.resolution is not None:
            x = reduce_to(x, self.resolution)
        x = x.to(next(self.parameters()).dtype).expand(-1, 3, -1, -1)
        return pad_to(x, self.least_side)

    def features(self, x: Tensor, kind: str | None = None) -> Tensor:
        """Frozen features, for the paper's data-efficient prediction. `x` as for `forward`.

        Args:
            x: images.
            kind: names joined by ``+``, see `feature_kind`:

                - ``semantic``: mean and standard deviation of the maps of each stage of the semantic pathway, 1,120;
                - ``patches``: mean and standard deviation of the low-level features over the patches of the score, 256;
                - ``image``: low-level features of the whole image, 128, as in the paper;
                - ``clip``: CLIP's embedding, 1,024; with any of the above it is always there, if the weights have it;
                - ``score``: the zero-shot score, as `forward` gives it.

        Returns:
            ``(N, C)``, in the order score, CLIP's, semantic, low-level ones.

        Raises:
            InputError: as `forward` and `feature_kind`.
        """
        kinds = self.feature_kind(kind).split("+")
        prepared = self.prepare(x)
        found: dict[str, Tensor] = {}
        score = prepared.new_zeros(len(prepared), dtype=torch.float64)
        for pathway in self._joined():
            with self._autocast():
                found.update(pathway.features(prepared, kinds))
            if "score" in kinds:
                score = score + found["score"].double()
        if "score" in kinds:
            found["score"] = score.unsqueeze(1)
        return torch.cat([found[name].to(result_type(x)) for name in kinds], dim=1)

    def feature_kind(self, kind: str | None = None) -> str:
        """The whole name of a kind of features: in order, CLIP's with the others.

        Args:
            kind: some of `FEATURE_KINDS` joined by ``+``, for example ``semantic+patches``; None: what predicts opinion
                scores best, by ``python -m benchmarks.studies.few_labels``: all that there is of ``clip``, ``semantic`` and
                ``patches``.

        Raises:
            InputError: a name is unknown or given twice, or needs a pathway that the weights lack.
        """
        if kind is None:
            kind = "+".join(pathway.kinds[0] for pathway in self._joined())
        names = kind.split("+")
        if len(set(names)) < len(names) or not set(names) <= set(FEATURE_KINDS):
            raise InputError(f"unknown kind of features {kind!r}, expected some of {', '.join(FEATURE_KINDS)} joined by +")
        needed = {"clip": "high-level", "semantic": "semantic", "patches": "low-level", "image": "low-level"}
        given = [name for pathway in self._joined() for name in pathway.kinds]
        for name in names:
            if name in needed and name not in given:
                raise InputError(f"{self.name} has no {needed[name]} pathway, and so no features {name!r}")
        clip = ["clip"] if "clip" in given and names != ["score"] else []
        return "+".join(name for name in FEATURE_KINDS if name in [*names, *clip])

    def feature_blocks(self, kind: str | None = None) -> tuple[int, ...]:
        """Widths of the blocks that a kind of features is made of, in order; their sum is C. `kind` as for `feature_kind`.

        The semantic pathway has a block for each stage, all others have one; the score is a block of 1.
        """
        blocks: list[int] = []
        for name in self.feature_kind(kind).split("+"):
            found = [pathway for pathway in self._joined() if name in pathway.kinds]
            blocks += found[0].feature_blocks(name) if found else (1,)
        return tuple(blocks)

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
        with self._autocast():
            return self.low.distance_map(self.prepare(x)).to(result_type(x))

    def quality_map(self, x: Tensor) -> Tensor:
        """Q_S of each place of images. `x` as for `forward`.

        A cell of 32 pixels is judged by its neighbourhood of 3 x 3 cells, as far as they lie in the image, and by what the
        network sees around them. The mean of the map is not ``components(x)["semantic"]``.

        Returns:
            ``(N, 1, h, w)`` in (0, 1), higher is better. Element (i, j) belongs to the cell whose top left pixel is at
            (32 i, 32 j) of the image, or of what it was padded to; cells at the right and the bottom may reach beyond it.

        Raises:
            InputError: as `forward`, or the weights have no semantic pathway.
        """
        if self.semantic is None:
            raise InputError(f"{self.name} has no semantic pathway, and so no quality map")
        with self._autocast():
            return self.semantic.quality_map(self.prepare(x)).to(result_type(x))

    def train(self, mode: bool = True) -> GRepQ:
        """Stay in evaluation mode: batch statistics would change what a score means. Gradients do not need it."""
        return super().train(False)

    def check(self) -> None:
        """Look at the values of the weights.

        Raises:
            InputError: there are none.
            WeightsError: they can't be right; the message names them.
        """
        for pathway in self._joined():
            pathway.check()
        self._ready = True

    @property
    def config(self) -> dict[str, Any]:
        """The content of ``config.json``."""
        high = self._high_config()
        tower = {} if high.image_tower == ImageTower() else {"image_tower": as_plain(high.image_tower)}
        return {
            "pathways": list(self.pathways),
            "name": self.name,
            "storage": self.storage,
            "provenance": self.provenance,
            "chunk_size": 64 if self.low is None else self.low.chunk_size,
            "logit_scale": high.logit_scale,
            **({} if self.precision == "fp32" else {"precision": self.precision}),
            **({} if self.speed == "exact" else {"speed": self.speed}),
            **({} if self.resolution is None else {"resolution": self.resolution}),
            **({} if self.low is None or self.low.dense is None else {"dense": True}),
            **as_plain(self._low_config()),
            **tower,
            **({} if self.semantic is None else {"semantic": as_plain(self.semantic.config)}),
        }

    @property
    def weights_id(self) -> str:
        """Name of the weights, a hash of their values (as float32) and of the constants that enter a score, and cheaper modes.

        For example ``grepq-ll-8690ed2c``, and ``grepq-ll-8690ed2c+bf16+1024px`` in bfloat16 at 1,024 pixels. The dense mode
        adds a hash of its own values.
        """
        return weights_id(self.config, self.state_dict())

    @classmethod
    def from_pretrained(  # type: ignore[override]  # no proxies and resumption, which the client no longer has
        cls,
        weights: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        **options: Any,
    ) -> GRepQ:
        """Load weights.

        Args:
            weights: a built-in name (``grepq-sem``, ``grepq-lite`` and ``grepq-ll``: in this package, no network;
                ``grepq-hl`` and ``grepq``: CLIP from the Hugging Face Hub), a tag such as ``grepq-ll.8690ed2c``, which means
                the same values for ever, a folder with ``config.json`` and ``model.safetensors``, such a safetensors file,
                or a Hub repository ``user/name``.
            revision: branch, tag or commit of the Hub repository; for ``grepq-hl`` and ``grepq``, of CLIP's in place of the
                pinned one.
            token: access token for the Hub; by default what ``hf auth login`` or ``HF_TOKEN`` set.
            cache_dir: folder for downloads; by default the Hub client's.
            force_download: download even what is in the cache.
            local_files_only: use the cache alone.
            options: override some of `OPTIONS`, for example ``chunk_size=16``, choose some of the ``pathways``, or a cheaper
                mode: ``precision="bf16"``, ``speed="dense"`` or ``resolution=1024``.

        Raises:
            FileNotFoundError: a folder or file is not there.
            InputError: `weights` is no name, path or repository, or an option is unknown or out of its range.
            WeightsError: the weights cannot be had or are not what they should be; the message says what to do.
        """
        check_options(options, OPTIONS)
        hub = HubOptions(revision, token, cache_dir, force_download, local_files_only)
        config, tensors, file = read_weights(weights, hub)
        return cls.from_parts(config, tensors, source=file, **options)

    @classmethod
    def from_parts(
        cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor], *, source: str | Path, **options: Any
    ) -> GRepQ:
        """A model of the content of a weights folder.

        Args:
            config: the content of ``config.json``; what it does not name has the default.
            tensors: by name, as in `state_dict`.
            source: where they are from, for messages.
            options: as in `from_pretrained`.

        Raises:
            InputError: an option is unknown or out of its range.
            WeightsError: config and tensors are not those of weights, or do not fit each other; the message says why.
        """
        check_options(options, OPTIONS)
        known = {key: value for key, value in config.items() if key in (*OPTIONS, *_FACTS)}
        try:
            if "high" in known["pathways"]:
                found = image_tower_of({k.removeprefix("high.visual."): v for k, v in tensors.items()})
                if _shape(ImageTower, known.get("image_tower"), "image_tower") != found:
                    raise InputError(f"its image_tower is not that of the tensors, {found}")
            # Values come from the file, and memory only after its shapes are checked; float32 whatever torch's default is.
            settings = {**known, **options}
            if "low" not in settings["pathways"] and "speed" not in options:
                settings.pop("speed", None)  # of a pathway that is left out
            with torch.device("meta"):
                model = cls(**settings).float()
        except (InputError, TypeError) as error:
            if options and isinstance(error, InputError):
                raise
            raise WeightsError(f"{source} is not of GRepQ weights: config.json: {error}") from error
        absent = sorted(set(model.pathways) - set(known["pathways"]))
        if absent:
            raise InputError(f"{source} has the pathways {known['pathways']}, and not {absent[0]!r}")
        others = set(PATHWAYS) - set(model.pathways)
        with torch.inference_mode(False):  # or gradients could never flow through the weights
            load_tensors(model, {k: v for k, v in tensors.items() if k.split(".")[0] not in others}, source)
        try:
            model.check()  # now, since a graph of the model can't look at values
        except (InputError, WeightsError) as error:
            raise WeightsError(f"{source}: {error}") from error
        return model

    def save_pretrained(  # type: ignore[override]  # the config is this model's own
        self,
        save_directory: str | Path,
        *,
        config: dict[str, Any] | None = None,
        model_card_kwargs: dict[str, Any] | None = None,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **push_to_hub_options: Any,
    ) -> str | None:
        """Write ``config.json``, ``model.safetensors`` and a model card, unless there is one that you have written.

        Arguments as in `PyTorchModelHubMixin`. What is in the folder is replaced only after all has been written.

        Raises:
            WeightsError: the folder can't be written, for example because the disk is full.
        """
        if push_to_hub_options and not push_to_hub:
            raise TypeError(f"unknown arguments without push_to_hub: {sorted(push_to_hub_options)}")
        card = self.generate_model_card(**(model_card_kwargs or {}))
        write_folder(save_directory, config or self.config, self.state_dict(), str(card))
        if not push_to_hub:
            return None
        repo_id = repo_id or Path(save_directory).name
        return self.push_to_hub(repo_id, config=config, model_card_kwargs=model_card_kwargs, **push_to_hub_options)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The model card, filled with the weights' id and provenance."""
        return super().generate_model_card(*args, **card_facts(self.weights_id, self.pathways, self.provenance), **kwargs)

    def _autocast(self) -> AbstractContextManager[object]:
        # In fp32 an autocast of the caller's stays in force.
        return torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()

    def _joined(self) -> list[Pathway]:
        return [pathway for pathway in (self.low, self.semantic, self.high) if pathway is not None]

    def _low_config(self) -> LowLevelConfig:
        return self._spare_low if self.low is None else self.low.config

    def _high_config(self) -> HighLevelConfig:
        return self._spare_high if self.high is None else self.high.config


def check_options(options: Iterable[str], known: Sequence[str]) -> None:
    """Refuse options that nobody takes.

    Raises:
        InputError: one is not among `known`; the message lists these and names the nearest.
    """
    for option in options:
        if option not in known:
            close = difflib.get_close_matches(option, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise InputError(f"unknown option {option!r}, expected some of {', '.join(known)}{hint}")


def _shape(kind: type[_Shape], given: Mapping[str, Any] | _Shape | None, key: str) -> _Shape:
    """The part of a config that describes networks, of what ``config.json`` has for it."""
    if given is None or isinstance(given, kind):
        return given or kind()
    known = as_plain(kind())
    if not isinstance(given, Mapping) or set(given) != set(known):
        raise InputError(f"{key} must be like {known}, got {given!r:.200}")
    return kind(**given)
