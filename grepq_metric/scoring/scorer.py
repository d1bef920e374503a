"""From photos to rows of scores: `Scorer` for batches of any engine, `score_files` for files of this machine."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from grepq_metric import catalog
from grepq_metric.devices import usable_device
from grepq_metric.errors import InputError
from grepq_metric.files import sha256
from grepq_metric.heads import headfile
from grepq_metric.images import (
    MAX_PIXELS,
    as_image,
    decode_image,
    file_pixels,
    image_header,
    read_ahead,
    read_bytes,
)
from grepq_metric.models import OPTIONS, QualityModel, check_options, load_model
from grepq_metric.models.grepq import PATHWAYS
from grepq_metric.reference import STANDARD_SIDE, Reference, Scale
from grepq_metric.scoring.processes import Processes
from grepq_metric.tables import FACTS

if TYPE_CHECKING:
    from grepq_metric.heads.regressor import GRepQRegressor

Row: TypeAlias = dict[str, "str | int | float | None"]
"""What is known of one photo, by column."""
CONTENT = ("image", "bytes", "path")
"""Columns of a batch that photos may come in; where there are several, the first of these counts."""
EXTRAS = ("percentile", "points", "facts")
"""What rows may hold beside scores."""
BATCH_ON_CUDA = 8
"""Photos of one size at once on a GPU. On a CPU it is one: ``python -m benchmarks.studies.speed`` shows no gain by more."""
PIXELS_ON_CUDA = 8_000_000
"""Of a batch on a GPU, together; a photo with more goes alone."""
_AHEAD = 3
_FLAT = 2 / 255


@dataclass(frozen=True)
class Item:
    """A photo that is to be scored.

    Attributes:
        name: for messages.
        content: a path, the bytes of an image file, or what `as_image` takes.
        kind: which of these, one of `CONTENT`.
    """

    name: str
    content: Any
    kind: str = "path"


@dataclass
class Photo:
    """A photo as read.

    Attributes:
        image: ``(3, H, W)`` in [0, 1].
        warnings: why its score may mean little.
        facts: columns of facts, where they are wanted and it is large enough.
    """

    image: Tensor
    warnings: list[str]
    facts: Row = field(default_factory=dict)


@dataclass(frozen=True)
class _Loaded:
    model: QualityModel
    regressor: GRepQRegressor | None
    weights_id: str
    reference: Reference | None
    scale: Scale | None


_loading = threading.Lock()


class Scorer:
    """Scores batches of photos: a function from columns to columns, which data engines send to their workers.

    It is light: weights load at the first call in each process, and are never pickled.

    Args:
        weights: as in `GRepQ.from_pretrained`; None: the head's, or the default.
        head: a file that `grepq fit` wrote or the name of a head in this package: rows then hold a predicted mean opinion
            score (MOS) in place of the scores.
        device: torch's name of it; None: cuda if there is one, else the CPU.
        interval: with a head: share of photos, in (0, 1), whose MOS is to lie between ``mos_low`` and ``mos_high``.
        max_pixels: photos with more are refused before they are decoded.
        extras: some of `EXTRAS`, further columns: ``percentile``, of the reference photos with a lower score; ``points``, the
            score on a scale from 0 to 100, see `grepq_metric.reference.Scale`; ``facts``, what `grepq_metric.facts` measures
            and says, a column each and one of words.
        reference: of the percentiles: a table of scores that `read_table` reads, or a `Reference`; None: the packaged one.
        batch_size: photos of one size that follow each other and go through the network at once; None: what is quickest,
            one on a CPU. Scores do not depend on it (1e-6).
        allow_truncated: score files that lack a part of their picture as far as they can be read, with a warning in their
            rows; they are errors otherwise.
        options: of `GRepQ.from_pretrained`, such as ``precision`` and ``resolution``.

    Raises:
        InputError: an option is unknown or out of its range.
        FileNotFoundError: there is no such head or reference.

    Examples:
        >>> import pickle, tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from grepq_metric import Scorer
        >>> image = Image.radial_gradient("L")
        >>> scorer = pickle.loads(pickle.dumps(Scorer("grepq-sem")))
        >>> scored = scorer({"image": [image, "no image"]})
        >>> scored["width"], scored["weights_id"][0].rpartition("-")[0]
        ([256, None], 'grepq-sem')
        >>> scored["error"][0], scored["error"][1][:27]
        (None, 'cannot read item 1 as an im')
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        head: str | Path | None = None,
        device: str | torch.device | None = None,
        *,
        interval: float | None = None,
        max_pixels: int = MAX_PIXELS,
        extras: Collection[str] = (),
        reference: str | Path | Reference | None = None,
        batch_size: int | None = None,
        allow_truncated: bool = False,
        **options: Any,
    ) -> None:
        if isinstance(extras, str) or any(name not in EXTRAS for name in extras):
            raise InputError(f"extras must be a list of some of {EXTRAS}, got {extras!r}")
        if head is not None and "points" in extras:
            raise InputError("points are a scale of scores, and a MOS has the scale of its ratings: leave them out")
        if reference is None and head is not None and "percentile" in extras:
            raise InputError("there is no packaged reference of predicted MOS: give a table of some as the reference")
        if isinstance(reference, (str, Path)) and not os.path.exists(reference):
            raise FileNotFoundError(f"no such table: {reference}")
        if head is not None and not headfile.find(head).is_file():
            raise FileNotFoundError(f"no such head: {head}")
        if interval is not None and head is None:
            raise InputError("an interval is about a predicted MOS: it needs a head")
        if interval is not None and not 0 < interval < 1:
            raise InputError(f"interval must be between 0 and 1, got {interval:g}")
        if not 0 < max_pixels < math.inf:
            raise InputError(f"max_pixels must be a positive number, got {max_pixels}")
        if batch_size is not None and batch_size < 1:
            raise InputError(f"batch_size must be 1 or more, got {batch_size}")
        check_options(options, OPTIONS)
        # Workers may stand in another folder.
        self.weights = os.path.abspath(weights) if weights and os.path.exists(weights) and not _built_in(weights) else weights
        self.head = head if head is None or catalog.find_head(str(head)) else os.path.abspath(head)
        self.device, self.interval, self.max_pixels, self.batch_size = device, interval, max_pixels, batch_size
        self.extras = tuple(name for name in EXTRAS if name in extras)
        self.reference = os.path.abspath(reference) if isinstance(reference, (str, Path)) else reference
        self.allow_truncated, self.options = allow_truncated, options
        self._loaded: _Loaded | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_loaded": None}

    @property
    def columns(self) -> tuple[str, ...]:
        """Of what comes out, in order."""
        scores: tuple[str, ...] = ("score", *PATHWAYS)
        if self.head is not None:
            scores = ("mos",) if self.interval is None else ("mos", "mos_low", "mos_high")
        meaning = [column for name in self.extras for column in ((*FACTS, "facts") if name == "facts" else (name,))]
        return (*scores, *meaning, "width", "height", "warning", "error", "weights_id")

    @property
    def types(self) -> dict[str, str]:
        """Of the `columns`, as Arrow names them: ``float64``, ``int32`` or ``string``, with nulls."""
        others = {"width": "int32", "height": "int32", "weights_id": "string"}
        others |= dict.fromkeys(("facts", "warning", "error"), "string")
        return {name: others.get(name, "float64") for name in self.columns}

    @property
    def model(self) -> QualityModel:
        """The model, which is loaded if it is not yet. Raises as `GRepQ.from_pretrained`."""
        return self._load().model

    def facts(self) -> dict[str, Any]:
        """All that a score depends on beside the photo, and the device; it can be written as JSON.

        Two scorers whose facts differ in the device alone give equal scores, but for its rounding. Loads the weights, and
        raises what that raises.
        """
        return {
            "device": str(self.model.device),
            "weights_id": self._load().weights_id,
            "head": None if self.head is None else sha256(headfile.find(self.head)),
            "interval": self.interval,
            "allow_truncated": self.allow_truncated,
            "reference": None if (reference := self._load().reference) is None else reference.digest,
            "options": {name: list(v) if isinstance(v, tuple) else v for name, v in sorted(self.options.items())},
        }

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Score a batch of photos.

        Args:
            batch: columns of equal length, lists or arrays, among them at least one of

                - ``image``: PIL images, arrays ``(H, W, 3)`` of uint8, or tensors ``(3, H, W)`` in [0, 1]; also the
                  ``{"bytes": ..., "path": ...}`` of Hugging Face datasets that are not decoded;
                - ``bytes``: contents of image files;
                - ``path``: image files.

                Where there are several, the first of these is scored, and ``path`` is its name in messages.

        Returns:
            The columns of `batch` but ``image`` and ``bytes``, and these, a value for each photo:

            - ``score``: higher is better;
            - ``low``, ``semantic``, ``high``: its parts, None where the weights lack the pathway;
            - ``mos`` in place of these with a head, and with an interval ``mos_low`` and ``mos_high``;
            - ``percentile``, ``points``, the facts, and their words in ``facts``, where ``extras`` asks for them;
            - ``width``, ``height``: in pixels, upright;
            - ``warning``: why the score may mean little, or None;
            - ``error``: why there is no score, or None: what is wrong with one photo is no matter of the others;
            - ``weights_id``: of the weights, as `GRepQ.weights_id`.

        Raises:
            InputError: the batch has none of these columns, or they differ in length.
            WeightsError: the weights can't be had, see `GRepQ.from_pretrained`.
        """
        kind = next((name for name in CONTENT if name in batch), None)
        if kind is None:
            raise InputError(
                f"expected a batch with a column {', '.join(CONTENT)}, got {', '.join(map(str, batch)) or 'none'}"
            )
        kept = {name: list(values) for name, values in batch.items() if name == "path" or name not in CONTENT}
        contents = list(batch[kind])
        for name, values in kept.items():
            if len(values) != len(contents):
                raise InputError(f"expected columns of one length, got {len(contents)} of {kind} and {len(values)} of {name}")
        named = "path" in kept and kind != "image"  # what an image was read from says nothing about how to read it
        names = [str(path) for path in kept["path"]] if named else [f"item {i}" for i in range(len(contents))]
        rows = [row for _, row in self.stream(map(Item, names, contents, [kind] * len(contents)))]
        return {**kept, **{name: [row[name] for row in rows] for name in self.columns}}

    def stream(self, items: Iterable[Item | None]) -> Iterator[tuple[Item, Row]]:
        """Items with their rows, in order; reading and decoding run ahead in threads, a few photos at most.

        Args:
            items: a None among them says that the next one may be long in coming: those before it do not wait.

        Raises:
            WeightsError: the weights can't be had, see `GRepQ.from_pretrained`.
        """
        loaded, idle = self._load(), False
        on_cuda = loaded.model.device.type == "cuda"
        most = self.batch_size or (BATCH_ON_CUDA if on_cuda else 1)
        pixels = self.max_pixels if self.batch_size else PIXELS_ON_CUDA

        def watched() -> Iterator[Item | None]:
            nonlocal idle
            for item in items:
                idle = item is None
                yield item

        threads = min(8, os.cpu_count() or 2) if on_cuda else 2
        together: list[tuple[Item, Photo]] = []
        for item, found in read_ahead(watched(), max(_AHEAD, 2 * most), self.read, self.max_pixels, threads, _pixels):
            if together and (isinstance(found, Exception) or found.image.shape != together[0][1].image.shape):
                yield from self._scored(together)
                together = []
            if isinstance(found, Exception):
                yield item, self.failed(_message(found), loaded.weights_id)
                continue
            together.append((item, found))
            full = len(together) == most or (len(together) + 1) * found.image[0].numel() > pixels
            if full or idle:
                yield from self._scored(together)
                together = []
        yield from self._scored(together)

    def read(self, item: Item) -> Photo:
        """Read a photo; called in threads.

        Raises:
            InputError: it can't be read.
            FileNotFoundError: it is not there.
        """
        kind, content, damages = item.kind, item.content, list[str]()
        if kind == "image" and isinstance(content, Mapping):
            kind = "bytes" if content.get("bytes") is not None else "path"
            content = content.get(kind)
        if kind == "image":
            image, animated = as_image(content, item.name, self.max_pixels), False
        else:
            if kind == "path" and not isinstance(content, (str, os.PathLike)):
                raise InputError(f"expected a path, got {type(content).__name__}")
            if kind == "bytes" and not isinstance(content, (bytes, bytearray, memoryview)):
                raise InputError(f"expected the bytes of an image file, got {type(content).__name__}")
            data = read_bytes(os.fspath(content)) if kind == "path" else bytes(content)
            image = decode_image(data, item.name, self.max_pixels, damages if self.allow_truncated else None)
            animated = image_header(data, item.name).animated
        warnings = [f"damaged, scored as far as it can be read: {told}" for told in damages]
        warnings += ["first of several frames or pages"] if animated else []
        if min(image.shape[1:]) < (least := self.model.least_side):
            warnings.append(f"below {least} pixels on a side, padded")
        # By NumPy: each thread in which torch computes gets threads of its own, which wait busily (a third of the rate).
        values = image.numpy()
        if (values.max((1, 2)) - values.min((1, 2))).max() <= _FLAT:
            warnings.append("flat: no texture to judge")
        return Photo(image, warnings, _facts(values) if "facts" in self.extras else {})

    def failed(self, error: str, weights_id: str) -> Row:
        """The row of a photo that could not be scored."""
        return {**dict.fromkeys(self.columns), "error": error, "weights_id": weights_id}

    def finish(self, item: Item, x: Tensor, row: Row) -> None:
        """Called with each photo ``(1, 3, H, W)`` and its row before it is handed out; for subclasses.

        What it raises becomes the row's error.
        """

    def _load(self) -> _Loaded:
        with _loading:
            if self._loaded is None:
                self._loaded = self._open()
            return self._loaded

    def _open(self) -> _Loaded:
        """The one place where options become a model."""
        where, weights = usable_device(self.device), self.weights
        if self.head is None:
            model = load_model(catalog.DEFAULT if weights is None else weights, **self.options)
            model = model.requires_grad_(False).to(where)
            return self._with_meaning(model, None)
        # Here, since scikit-learn takes a second that scores need not wait for.
        from grepq_metric.heads.regressor import GRepQRegressor, weights_of

        model = load_model(weights_of(self.head) if weights is None else weights, **self.options)
        model = model.requires_grad_(False).to(where)
        regressor = GRepQRegressor.load(self.head, model)
        if self.interval is not None:  # now, since a head of few labels has no wide ones
            regressor.predict_interval(torch.zeros(1, regressor.n_features_in_), self.interval)
        return self._with_meaning(model, regressor)

    def _with_meaning(self, model: QualityModel, regressor: GRepQRegressor | None) -> _Loaded:
        reference, identity = None, model.weights_id
        if isinstance(self.reference, Reference):
            reference = self.reference
        elif self.reference is not None:
            reference = Reference.read(self.reference, self.columns[0], identity)
        elif "percentile" in self.extras:
            reference = Reference.packaged(identity)
        scale = Scale.packaged(identity, model.best) if "points" in self.extras else None
        return _Loaded(model, regressor, identity, reference, scale)

    def _scored(self, photos: list[tuple[Item, Photo]]) -> Iterator[tuple[Item, Row]]:
        """Photos of one size with their rows; whatever goes wrong with one is in its row, and does not end the run."""
        if not photos:
            return
        try:
            rows = self._rows(photos)
        except Exception as error:  # too large for the device, or for OpenCV, a full disk: the other photos go on
            if len(photos) > 1:
                for one in photos:
                    yield from self._scored([one])
                return
            ((item, photo),) = photos
            yield item, {**self._described(photo), "error": _message(error)}
            return
        for (item, _), row in zip(photos, rows, strict=True):
            yield item, row

    @torch.inference_mode()
    def _rows(self, photos: list[tuple[Item, Photo]]) -> list[Row]:
        model = self._load().model
        images = [photo.image for _, photo in photos]
        x = (torch.stack(images) if len(images) > 1 else images[0].unsqueeze(0)).to(model.device)
        values = self._values(x)
        rows = []
        for i, (item, photo) in enumerate(photos):
            row = self._described(photo)
            scores = {name: None if column is None else float(column[i]) for name, column in values.items()}
            broken = {name: value for name, value in scores.items() if value is not None and not math.isfinite(value)}
            if broken:
                told = ", ".join(f"{name} {value}" for name, value in broken.items())
                row["error"] = f"no finite number came out ({told}): the weights or the head are damaged"
            else:
                row.update(scores)
                row.update(self._meaning(scores[self.columns[0]]))
                try:
                    self.finish(item, x[i : i + 1], row)
                except Exception as error:  # as in _scored; the score is known all the same
                    row["error"] = _message(error)
            rows.append(row)
        return rows

    def _values(self, x: Tensor) -> dict[str, Any]:
        """Columns of numbers for a batch of images."""
        loaded = self._load()
        if loaded.regressor is None:
            parts = loaded.model.components(x)
            return {name: None if (part := parts.get(name)) is None else part[:, 0].tolist() for name in ("score", *PATHWAYS)}
        features = loaded.model.features(x, loaded.regressor.features_).double().cpu().numpy()
        values = {"mos": loaded.regressor.predict(features)}
        if self.interval is not None:
            values["mos_low"], values["mos_high"] = loaded.regressor.predict_interval(features, self.interval).T
        return values

    def _meaning(self, score: float | None) -> Row:
        loaded, found = self._load(), Row()
        if score is not None and loaded.reference is not None and "percentile" in self.extras:
            found["percentile"] = loaded.reference.percentile(score)
        if score is not None and loaded.scale is not None:
            found["points"] = loaded.scale.points(score)
        return found

    def _described(self, photo: Photo) -> Row:
        row: Row = {**dict.fromkeys(self.columns), **photo.facts, "weights_id": self._load().weights_id}
        row["height"], row["width"] = photo.image.shape[1:]
        row["warning"] = "; ".join([*photo.warnings, *self._misleading(photo)]) or None
        return row

    def _misleading(self, photo: Photo) -> list[str]:
        """Why percentiles and points of a photo may mean little."""
        loaded, side = self._load(), max(photo.image.shape[1:])
        packaged = "percentile" in self.extras and self.reference is None
        if not (packaged or loaded.scale) or min(side, loaded.model.resolution or side) <= STANDARD_SIDE:
            return []
        return [f"larger than the reference photos: percentile and points are fair at a resolution of {STANDARD_SIDE}"]


def score_files(
    paths: Iterable[str | Path],
    *,
    weights: str | Path | None = None,
    head: str | Path | None = None,
    device: str | torch.device | None = None,
    interval: float | None = None,
    jobs: int = 1,
    max_pixels: int = MAX_PIXELS,
    extras: Collection[str] = (),
    reference: str | Path | Reference | None = None,
    batch_size: int | None = None,
    allow_truncated: bool = False,
    **options: Any,
) -> Iterator[Row]:
    """Rows of photo files, in the order of their paths, as they are computed; memory does not grow with their number.

    Args:
        paths: photo files; an iterator is drawn from as it is needed.
        weights, head, device, interval, max_pixels, extras, reference, batch_size, allow_truncated, options: see `Scorer`.
        jobs: processes that score; more than one need the ``if __name__ == "__main__":`` of Python's multiprocessing, and
            share the threads of this one.

    Returns:
        An iterator of dicts: ``path``, as given, and the columns of `Scorer`.

    Raises:
        InputError: an option is unknown or out of its range.
        WeightsError: the weights can't be had, at the first row.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from grepq_metric import score_files
        >>> path = Path(tempfile.mkdtemp()) / "photo.png"
        >>> Image.radial_gradient("L").save(path)
        >>> [(row["width"], row["error"]) for row in score_files([path])]
        [(256, None)]
    """
    if jobs < 1:
        raise InputError(f"jobs must be 1 or more, got {jobs}")
    if isinstance(paths, (str, os.PathLike)):
        raise InputError(f"expected a list of photos, got one path: [{os.fspath(paths)!r}]")
    limits: dict[str, Any] = {"interval": interval, "max_pixels": max_pixels, "batch_size": batch_size}
    limits["allow_truncated"] = allow_truncated
    scorer = Scorer(weights, head, device, extras=extras, reference=reference, **limits, **options)
    items = (Item(os.fspath(path), path) for path in paths)
    return ({"path": item.name, **row} for item, row in _streamed(scorer, items, jobs))


class Engine:
    """A scorer at work in this process, or in `jobs` others; to be used as a context.

    Raises:
        InputError: `jobs` is less than 1.
        GRepQError: processes can't be started.
        WeightsError: the weights can't be had.

    Attributes:
        facts: as `Scorer.facts`.
    """

    def __init__(self, scorer: Scorer, jobs: int = 1) -> None:
        if jobs < 1:
            raise InputError(f"jobs must be 1 or more, got {jobs}")
        self.scorer = scorer
        self._processes = None if jobs == 1 else Processes(scorer, jobs)
        self.facts = scorer.facts() if self._processes is None else self._processes.facts

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._processes is not None:
            self._processes.close()

    def stream(self, items: Iterable[Item | None]) -> Iterator[tuple[Any, Row]]:
        """Items with their rows in order, see `Scorer.stream`.

        Raises:
            GRepQError: processes keep dying.
        """
        if self._processes is None:
            return self.scorer.stream(items)
        return self._processes.stream(items, lambda error: self.scorer.failed(error, self.facts["weights_id"]))


def _streamed(scorer: Scorer, items: Iterable[Item | None], jobs: int) -> Iterator[tuple[Any, Row]]:
    with Engine(scorer, jobs) as engine:
        yield from engine.stream(items)


def _facts(image: np.ndarray) -> Row:
    from grepq_metric.facts import SMALLEST, measure, words  # OpenCV takes 0.1 s, which others need not wait for

    if min(image.shape[1:]) < SMALLEST:
        return {}
    found = measure(image)
    return {**found, "facts": words(found)}


def _pixels(item: Item) -> int:
    if item.kind == "path":
        return file_pixels(item.content) if isinstance(item.content, (str, os.PathLike)) else 0
    if item.kind == "bytes" and isinstance(item.content, bytes):
        try:
            header = image_header(item.content, item.name)
        except InputError:  # which is for the reading to say
            return 0
        return header.width * header.height
    return 0


def _built_in(weights: str | Path) -> bool:
    return catalog.find(str(weights)) is not None


def _message(error: Exception) -> str:
    return str(error).strip() or type(error).__name__
