"""What all quality models have in common: images in, a score out, weights on disk and on the Hub."""

from __future__ import annotations

import difflib
import logging
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from torch import Tensor, nn

from grepq_metric.catalog import AUTHORS_ORIGIN
from grepq_metric.errors import InputError, WeightsError
from grepq_metric.inputs import check_images, check_range, pad_to, reduce_to, result_type
from grepq_metric.pathways import FEATURE_KINDS, Pathway
from grepq_metric.pathways.base import as_plain, check_number
from grepq_metric.reference import Numbers, Reference, Scale
from grepq_metric.weights import HubOptions, check_name, load_tensors, read_weights, weights_id, write_folder
from grepq_metric.weights.card import TEMPLATE, card_facts, note_on

if TYPE_CHECKING:
    from typing_extensions import Self

PRECISIONS = ("fp32", "bf16")
LOGGER = logging.getLogger(__name__)
_Shape = TypeVar("_Shape")
_said: set[str] = set()


class QualityModel(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="grepq-metric",
    license="mit",
    tags=["image-quality-assessment", "no-reference"],
    model_card_template=TEMPLATE,
):
    """A no-reference quality score that is the sum of what pathways say, higher is better.

    A model that is only constructed has no weights and refuses to score. It is always in evaluation mode: `train` changes
    nothing.

    Args:
        precision: ``fp32``: in the type of the weights; ``bf16``: networks run under autocast in bfloat16, a cheaper mode.
        resolution: pixels of the longer side to which larger images are reduced before they are scored, another cheaper mode;
            None: every image is scored at its full size.
        name: name of the weights: letters, digits, dots, underscores and hyphens.
        storage: floating-point format of the weights on disk, ``float32`` or ``float16``.
        provenance: where the weights come from: what trained them, on what, when, hashes of sources.

    Attributes:
        provenance: as given.
        storage: as given.

    Raises:
        InputError: an argument is out of its range.
    """

    OPTIONS: ClassVar[tuple[str, ...]]
    """What may be changed when weights are loaded."""
    PARTS: ClassVar[tuple[str, ...]]
    """Pathways that a model of this kind may have, in the order in which they are joined."""
    COMPONENTS: ClassVar[tuple[str, ...]]
    """What `components` returns."""
    FACTS: ClassVar[tuple[str, ...]] = ("name", "storage", "provenance")
    """What else ``config.json`` holds for the constructor."""

    def __init__(
        self, precision: str, resolution: int | None, name: str, storage: str, provenance: Mapping[str, Any] | None
    ) -> None:
        super().__init__()
        if storage not in ("float32", "float16"):
            raise InputError(f"storage must be float32 or float16, got {storage!r}")
        if precision not in PRECISIONS:
            raise InputError(f"precision must be one of {PRECISIONS}, got {precision!r}")
        self._precision, self._resolution = precision, resolution
        self.name = name
        self.storage, self.provenance = storage, dict(provenance or {})
        self._ready = False

    def finish_init(self) -> None:
        """Called at the end of a constructor, when the pathways are there."""
        if self.resolution is not None:
            check_number("resolution", self.resolution, self.least_side, 1e6, whole=True)
        self.eval()

    @abstractmethod
    def joined(self) -> list[Pathway]:
        """The pathways whose qualities the score is the sum of, in order."""

    @property
    @abstractmethod
    def least_side(self) -> int:
        """Pixels of a side below which images are padded."""

    @property
    @abstractmethod
    def cell(self) -> int:
        """Pixels of the side of a cell of `quality_map`."""

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The content of ``config.json``."""

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
    def resolution(self) -> int | None:
        """Pixels of the longer side to which larger images are reduced, or None."""
        return self._resolution

    @property
    def pathways(self) -> tuple[str, ...]:
        """Names of the pathways that the score is made of."""
        return tuple(pathway.name for pathway in self.joined())

    @property
    def note(self) -> str:
        """What whoever quotes the scores must know of the weights, a sentence; empty: nothing.

        That of ``grepq`` and ``grepq-hl`` says that their high-level pathway is plain CLIP. The first model of such weights in
        a process logs it as a warning.
        """
        return note_on(self.pathways, self.provenance)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    @property
    def best(self) -> float:
        """Least upper bound of the score: the sum of those of the pathways."""
        return sum(pathway.best for pathway in self.joined())

    @property
    def weights_id(self) -> str:
        """Name of the weights, a hash of their values (as float32) and of the constants that enter a score, and cheaper modes.

        For example ``grepq-ll-8690ed2c``, and ``grepq-ll-8690ed2c+bf16+1024px`` in bfloat16 at 1,024 pixels. The dense mode
        adds a hash of its own values.
        """
        return weights_id(self.config, self.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        """Score of images.

        Args:
            x: ``(N, 3, H, W)`` RGB, or ``(N, 1, H, W)`` grey, in [0, 1]; any size. An image below `least_side` pixels on a
                side is mirrored (or, if it is too small for that, its edge repeated) to as many.

        Returns:
            ``(N, 1)``, higher is better, in (0, `best`): the sum of the qualities of the pathways, see `components`.

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
            ``score``: the sum of the other qualities, higher is better.
            ``low``: Q_L in (0, 0.5].
            ``semantic``: Q_S in (0, 1).
            ``high``: Q_H in (0, 1).
            ``decoder``: of `QFMIQM`, in (0, 1).
            ``distance``: of the low-level pathway, d >= 0, lower is better.
        """
        parts: dict[str, Tensor | None] = dict.fromkeys(self.COMPONENTS)
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
        found_of: dict[str, Tensor] = {}
        score = x.new_zeros(len(x), dtype=torch.float64)
        for pathway in self.joined():
            with self.autocast():
                found = pathway.parts(x, patches=patches, checkpoint=checkpoint)
            found_of[pathway.name] = found.pop("quality")
            found_of.update(found)
            score = score + found_of[pathway.name].double()
        return {"score": score, **found_of}

    def prepare(self, x: Tensor, *, values: bool = True) -> Tensor:
        """Images as the pathways take them: checked, reduced, three channels, padded, in the type of the weights.

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
        """Frozen features, for data-efficient prediction. `x` as for `forward`.

        Args:
            x: images.
            kind: names joined by ``+``, see `feature_kind`:

                - ``semantic``: mean and standard deviation of the maps of each stage of the semantic pathway, 1,120;
                - ``patches``: mean and standard deviation of the low-level features over the patches of the score, 256;
                - ``image``: low-level features of the whole image, 128, as in GRepQ's paper;
                - ``clip``: CLIP's embedding, 1,024; with any of the above it is always there, if the weights have it;
                - ``decoder``: what the decoder of `QFMIQM` gives its regression head;
                - ``score``: the score, as `forward` gives it.

        Returns:
            ``(N, C)``, in the order score, CLIP's, semantic, low-level ones.

        Raises:
            InputError: as `forward` and `feature_kind`.
        """
        kinds = self.feature_kind(kind).split("+")
        prepared = self.prepare(x)
        found: dict[str, Tensor] = {}
        score = prepared.new_zeros(len(prepared), dtype=torch.float64)
        for pathway in self.joined():
            with self.autocast():
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
                scores best, by ``python -m benchmarks.studies.few_labels``: all that there is of ``clip``, ``semantic``,
                ``patches`` and ``decoder``.

        Raises:
            InputError: a name is unknown or given twice, or needs a pathway that the weights lack.
        """
        if kind is None:
            kind = "+".join(pathway.kinds[0] for pathway in self.joined())
        names = kind.split("+")
        if len(set(names)) < len(names) or not set(names) <= set(FEATURE_KINDS):
            raise InputError(f"unknown kind of features {kind!r}, expected some of {', '.join(FEATURE_KINDS)} joined by +")
        needed = {
            **{"clip": "high-level", "semantic": "semantic", "decoder": "decoder"},
            **dict.fromkeys(("patches", "image"), "low-level"),
        }
        given = [name for pathway in self.joined() for name in pathway.kinds]
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
            found = [pathway for pathway in self.joined() if name in pathway.kinds]
            blocks += found[0].feature_blocks(name) if found else (1,)
        return tuple(blocks)

    @abstractmethod
    def quality_map(self, x: Tensor) -> Tensor:
        """Quality of each place of images. `x` as for `forward`.

        A cell is judged by its neighbourhood of 3 x 3 cells, as far as they lie in the image, and by what the network sees
        around them. The mean of the map is not the score.

        Returns:
            ``(N, 1, h, w)`` in (0, 1), higher is better. Element (i, j) belongs to the cell whose top left pixel is at
            (i, j) * `cell` of the image, or of what it was padded to; cells at the right and the bottom may reach beyond it.

        Raises:
            InputError: as `forward`, or the weights have no pathway with such a map.
        """

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: batch statistics would change what a score means. Gradients do not need it."""
        return super().train(False)

    def check(self) -> None:
        """Look at the values of the weights.

        Raises:
            InputError: there are none.
            WeightsError: they can't be right; the message names them.
        """
        for pathway in self.joined():
            pathway.check()
        self._ready = True

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
    ) -> Self:
        """Load weights.

        Args:
            weights: a built-in name (``grepq-sem``, ``grepq-lite``, ``grepq-ll`` and ``qfm-iqm``: in this package, no
                network; ``grepq-hl`` and ``grepq``: CLIP from the Hugging Face Hub; ``grepq-authors``: what ``grepq convert``
                made last on this machine), a tag such as ``grepq-ll.8690ed2c``, which means the same values for ever, a
                folder with ``config.json`` and ``model.safetensors``, such a safetensors file, or a Hub repository
                ``user/name``.
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
            InputError: `weights` is no name, path or repository, an option is unknown or out of its range, or the weights
                are those of another kind of model.
            WeightsError: the weights cannot be had or are not what they should be; the message says what to do.
        """
        check_options(options, cls.OPTIONS)
        hub = HubOptions(revision, token, cache_dir, force_download, local_files_only)
        config, tensors, file = read_weights(weights, hub)
        return cls.from_parts(config, tensors, source=file, **options)

    @classmethod
    def from_parts(
        cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor], *, source: str | Path, **options: Any
    ) -> Self:
        """A model of the content of a weights folder.

        Args:
            config: the content of ``config.json``; what it does not name has the default.
            tensors: by name, as in `state_dict`.
            source: where they are from, for messages.
            options: as in `from_pretrained`.

        Raises:
            InputError: an option is unknown or out of its range, or the weights are those of another kind of model.
            WeightsError: config and tensors are not those of weights, or do not fit each other; the message says why.
        """
        check_options(options, cls.OPTIONS)
        known = {key: value for key, value in config.items() if key in (*cls.OPTIONS, *cls.FACTS)}
        there = list(known["pathways"])
        if there and not set(there) & set(cls.PARTS):
            raise InputError(
                f"{source} has the pathways {there}, expected some of {list(cls.PARTS)}: load it with grepq_metric.load_model"
            )
        for name in cls.PARTS:
            if name in there or name not in _listed(options.get("pathways")):
                continue
            raise InputError(f"{source} has the pathways {there}, and not {name!r}")
        try:
            # Values come from the file, and memory only after its shapes are checked; float32 whatever torch's default is.
            settings = cls.settings_of(known, tensors, options)
            with torch.device("meta"):
                model = cls(**settings).float()
        except (InputError, TypeError) as error:
            if options and isinstance(error, InputError):
                raise
            raise WeightsError(f"{source} is not of {cls.__name__} weights: config.json: {error}") from error
        others = set(there) - set(model.pathways)
        with torch.inference_mode(False):  # or gradients could never flow through the weights
            load_tensors(model, {k: v for k, v in tensors.items() if k.split(".")[0] not in others}, source)
        try:
            model.check()  # now, since a graph of the model can't look at values
        except (InputError, WeightsError) as error:
            raise WeightsError(f"{source}: {error}") from error
        if model.note and model.note not in _said:  # once: a program may load weights for each photo
            _said.add(model.note)
            LOGGER.warning("%s: %s", model.name, model.note)
        return model

    @classmethod
    def settings_of(
        cls, known: Mapping[str, Any], tensors: Mapping[str, Tensor], options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Arguments of the constructor, of what is `known` from ``config.json``, and `options`, which go before.

        Raises:
            InputError: what is known does not fit the tensors.
        """
        return {**known, **options}

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
        write_folder(save_directory, config or self.config, self.stored_tensors(), str(card))
        if not push_to_hub:
            return None
        repo_id = repo_id or Path(save_directory).name
        return self.push_to_hub(repo_id, config=config, model_card_kwargs=model_card_kwargs, **push_to_hub_options)

    def stored_tensors(self) -> dict[str, Tensor]:
        """The tensors that a weights folder holds, by name."""
        return self.state_dict()

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The model card, filled with the weights' id and provenance."""
        facts = card_facts(type(self).__name__, self.weights_id, self.pathways, self.provenance)
        card = super().generate_model_card(*args, **facts, **kwargs)
        if self.provenance.get("origin") == AUTHORS_ORIGIN:
            card.data["license"] = "unknown"  # the authors' files carry no statement
        return card

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which networks run; in fp32 an autocast of the caller's stays in force."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()

    def common_config(self) -> dict[str, Any]:
        """What ``config.json`` holds of every model."""
        return {
            "pathways": list(self.pathways),
            "name": self.name,
            "storage": self.storage,
            "provenance": self.provenance,
            **({} if self.precision == "fp32" else {"precision": self.precision}),
            **({} if self.resolution is None else {"resolution": self.resolution}),
        }


def _listed(pathways: Any) -> Sequence[Any]:
    """The pathways that are asked for, if that is a list at all; the constructor looks at it."""
    return pathways if isinstance(pathways, (list, tuple)) else ()


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


def shape_of(kind: type[_Shape], given: Mapping[str, Any] | _Shape | None, key: str) -> _Shape:
    """The part of a config that describes networks, of what ``config.json`` has for it."""
    if given is None or isinstance(given, kind):
        return given or kind()
    known = as_plain(kind())
    if not isinstance(given, Mapping) or set(given) != set(known):
        raise InputError(f"{key} must be like {known}, got {given!r:.200}")
    return kind(**given)
