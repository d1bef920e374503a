"""Damaged and hostile inputs, drawn by Hypothesis: each gives what is right, or an error that this package raises on purpose.

    python -m tests.fuzz --cases 10000 --seed 0
    python -m tests.fuzz --cases 1000 --target images --seed 7
    python -m tests.fuzz --cases 10000 --seed 0 --record tests/fuzz.json

The same seed and version of Hypothesis give the same cases. A case that does something else ends the run, smaller.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import re
import struct
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from grepq_metric.errors import InputError, WeightsError
from grepq_metric.heads import GRepQRegressor
from grepq_metric.images import PixelLimitError, decode_image, image_header

MOST_PIXELS = 500_000
"""Above which photos are refused in this run, so that the bound on memory is small."""
SECONDS, BYTES = 20.0, 400_000_000
"""Of processor time and of memory beyond what there was, that no case may take."""
SCORED, LOADED = 19, 97
"""One in so many tensors is also scored, and one in so many configs and heads loaded with a model, which takes much longer."""

# ---------------------------------------------------------------------------------------------------------- mutations

_EXTREME = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_place = st.floats(0, 1, exclude_max=True)
_size = st.integers(1, 200)
MUTATION = st.one_of(
    st.tuples(st.just("cut"), _place),
    st.tuples(st.just("flip"), _place, st.integers(0, 7)),
    st.tuples(st.just("write"), _place, st.binary(min_size=1, max_size=20)),
    st.tuples(st.just("insert"), _place, st.binary(min_size=1, max_size=20)),
    st.tuples(st.just("remove"), _place, _size),
    st.tuples(st.just("repeat"), _place, _size, st.integers(1, 20)),
    st.tuples(st.just("zero"), _place, _size),
    st.tuples(
        st.just("number"), st.integers(0, 200), st.sampled_from("BHI"), st.sampled_from("<>"), st.sampled_from(_EXTREME)
    ),
    st.tuples(st.just("append"), st.sampled_from([b"\xff\xd9", b";", b"\0" * 50, b"IEND\xaeB`\x82"])),
)


def mutated(data: bytes, mutations: list[tuple[Any, ...]]) -> bytes:
    """Data after `mutations`, which are what `MUTATION` draws."""
    for name, *what in mutations:
        at = int(what[0] * len(data)) if isinstance(what[0], float) else what[0]
        if name == "cut":
            data = data[:at]
        elif name == "append":
            data += what[0]
        elif name == "flip" and data:
            data = data[:at] + bytes([data[at] ^ 1 << what[1]]) + data[at + 1 :]
        elif name == "write":
            data = data[:at] + what[1] + data[at + len(what[1]) :]
        elif name == "insert":
            data = data[:at] + what[1] + data[at:]
        elif name == "remove":
            data = data[:at] + data[at + what[1] :]
        elif name == "repeat":
            data = data[:at] + data[at : at + what[1]] * what[2] + data[at + what[1] :]
        elif name == "zero":
            data = data[:at] + bytes(min(what[1], len(data) - at)) + data[at + what[1] :]
        elif name == "number":
            kind, order, value = what[1:]
            packed = struct.pack(f"{order}{kind}", value & (1 << 8 * struct.calcsize(kind)) - 1)
            data = data[:at] + packed + data[at + len(packed) :]
    return data


def mutations(most: int = 4) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """Up to `most` changes."""
    return st.lists(MUTATION, min_size=1, max_size=most)


# -------------------------------------------------------------------------------------------------------------- images


def photo() -> np.ndarray:
    """``(48, 64, 3)`` of a real photo."""
    import skimage.data

    return np.ascontiguousarray(skimage.data.coffee()[100:148, 200:264])


def _exif(broken: bool) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a photo"
    data = exif.tobytes()
    return data[:-6] + b"\xff" * 6 if broken else data


@cache
def images() -> dict[str, bytes]:
    """Small files of every kind, by name."""
    import tifffile

    pixels = photo()
    rgb = Image.fromarray(pixels)
    deep, real = pixels * np.uint16(257), (pixels[..., 0] / 255).astype(np.float32)

    def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
        stream = io.BytesIO()
        image.copy().save(stream, kind, **options)
        return stream.getvalue()

    def tiff(array: np.ndarray, **options: Any) -> bytes:
        stream = io.BytesIO()
        tifffile.imwrite(stream, array, **options)
        return stream.getvalue()

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    def bomb(width: int, height: int, depth: int, colours: int) -> bytes:
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0))
        rows = zlib.compress(bytes(1_000_000), 9)
        return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")

    import cv2

    others = [rgb.rotate(90), rgb.rotate(180)]
    icc = b"\0\0\x02\x0cADBE\x02\x10\0\0mntrRGB XYZ " + bytes(500)
    found = {
        "jpeg": saved(rgb, "JPEG", quality=90),
        "jpeg progressive": saved(rgb, "JPEG", progressive=True),
        "jpeg restarts": saved(rgb, "JPEG", restart_marker_rows=1),
        "jpeg grey": saved(rgb.convert("L"), "JPEG"),
        "jpeg cmyk": saved(rgb.convert("CMYK"), "JPEG"),
        "jpeg icc exif": saved(rgb, "JPEG", icc_profile=icc, exif=_exif(broken=False)),
        "jpeg broken exif": saved(rgb, "JPEG", icc_profile=b"no profile", exif=_exif(broken=True)),
        "jpeg 1xN": saved(rgb.resize((1, 64)), "JPEG"),
        "mpo": saved(rgb, "MPO", save_all=True, append_images=[other.copy() for other in others]),
        "png": saved(rgb, "PNG"),
        "png palette": saved(rgb.quantize(16), "PNG", transparency=3),
        "png 1 bit": saved(rgb.convert("1"), "PNG"),
        "png alpha": saved(rgb.convert("RGBA"), "PNG"),
        "png icc exif": saved(rgb, "PNG", icc_profile=icc, exif=_exif(broken=True)),
        "png Nx1": saved(rgb.resize((64, 1)), "PNG"),
        "png animated": saved(rgb, "PNG", save_all=True, append_images=[other.copy() for other in others]),
        "png 16 bits": cv2.imencode(".png", deep)[1].tobytes(),
        "png bomb": bomb(14000, 14000, 16, 0),
        "png long bomb": bomb(1, 4_000_000_000, 8, 2),
        "gif": saved(rgb.quantize(32), "GIF"),
        "gif animated": saved(rgb.quantize(32), "GIF", save_all=True, append_images=[other.copy() for other in others]),
        "bmp": saved(rgb, "BMP"),
        "ppm": saved(rgb, "PPM"),
        "tiff": tiff(pixels, photometric="rgb", rowsperstrip=16),
        "tiff zlib": tiff(pixels, photometric="rgb", compression="zlib"),
        "tiff lzw": saved(rgb, "TIFF", compression="tiff_lzw"),
        "tiff jpeg": saved(rgb, "TIFF", compression="jpeg"),
        "tiff 16 bits": tiff(deep, photometric="rgb", rowsperstrip=16),
        "tiff 16 bits grey": tiff(deep[..., 0], byteorder=">"),
        "tiff float": tiff(real, rowsperstrip=16),
        "tiff integers": tiff(pixels[..., 0].astype(np.int32)),
        "tiff pages": saved(rgb, "TIFF", save_all=True, append_images=[other.copy() for other in others]),
        "webp": saved(rgb, "WEBP"),
        "webp lossless": saved(rgb, "WEBP", lossless=True),
        "webp animated": saved(rgb, "WEBP", save_all=True, append_images=[other.copy() for other in others]),
        "jpeg 2000": saved(rgb, "JPEG2000"),
        "avif": saved(rgb, "AVIF"),
        "ico": saved(rgb.resize((32, 32)), "ICO"),
        "tga": saved(rgb, "TGA", compression="tga_rle"),
        "eps": saved(rgb, "EPS"),
        "nothing": b"",
        "text": b"path,score\na.jpg,0.7\n" * 9,
    }
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
        found["heic"] = saved(rgb, "HEIF")
    return found


NAMES = st.sampled_from(["photo.jpg", "photo.PNG", "photo", "photo.webp", "photo.tif", "ü\n'.gif", "=1+1.jpg", "photo.heic"])


@cache
def expected(name: str) -> torch.Tensor | None:
    """What a whole file is read as; None: it is an error."""
    try:
        return decode_image(images()[name], name, MOST_PIXELS)
    except InputError:
        return None


def read_photo(case: tuple[str, str, list[tuple[Any, ...]]]) -> str:
    """An image file that was changed."""
    kind, name, changes = case
    data = mutated(images()[kind], changes)
    try:
        x = decode_image(data, name, MOST_PIXELS)
    except PixelLimitError:
        return "above the limit of pixels"
    except InputError as error:
        if name not in str(error):
            raise AssertionError(f"an error without a name: {error}") from error
        return "InputError"
    assert x.dtype == torch.float32
    assert x.ndim == 3
    assert x.shape[0] == 3
    assert x.min() >= 0
    assert x.max() <= 1
    header = image_header(data, name)
    assert sorted(x.shape[1:]) == sorted((header.width, header.height))
    whole = expected(kind)
    if whole is not None and x.shape == whole.shape and torch.equal(x, whole):
        return "read, as the whole file"
    if all(change[0] == "cut" for change in changes) and kind != "text":
        # A cut file is whole or an error; but for the end of what follows the picture.
        raise AssertionError(f"{kind} was cut, and read as something else")
    return "read, with values that were changed"


# ------------------------------------------------------------------------------------------------------------- tensors

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.int64, torch.bool, torch.complex64)
_SHAPE = st.tuples(st.integers(1, 2), st.sampled_from([1, 3, 3]), st.integers(1, 130), st.integers(1, 130)).map(list)
_VALUE = st.one_of(
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(-2, 300),
    st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e30, 1.0009]),
)


@cache
def model(name: str = "grepq-sem") -> Any:
    """Packaged weights."""
    from grepq_metric import GRepQ

    return GRepQ.from_pretrained(name).requires_grad_(False)


def score_tensor(case: tuple[list[int], torch.dtype, float, float, bool, int]) -> str:
    """A tensor in the place of images; some of those that are none of ours are scored too."""
    from grepq_metric.images import as_image
    from grepq_metric.inputs import check_images, check_range

    shape, dtype, low, high, batch, number = case
    x = torch.zeros(shape)
    if x.numel():
        x.view(-1)[::2] = low
        x.view(-1)[1::2] = high
    x = x.nan_to_num(0, 0, 0).to(dtype) if not dtype.is_floating_point and not dtype.is_complex else x.to(dtype)
    try:
        if not batch:
            image = as_image(x[0] if x.ndim == 4 and len(x) else x, "item 0", MOST_PIXELS)
            assert image.shape[0] == 3
            assert image.dtype == torch.float32
            return "taken"
        check_range(check_images(x))
        if number % SCORED or x.numel() > 100_000 or dtype is not torch.float32:
            return "taken"
        with torch.inference_mode():
            score = model()(x)
        assert score.shape == (x.shape[0], 1)
        assert score.isfinite().all()
        return "scored"
    except InputError:
        return "InputError"


# -------------------------------------------------------------------------------------------------------------- sheets

_CELL = st.one_of(
    st.sampled_from(
        ["a.jpg", "b.jpg", "./a.jpg", "3.5", "3,5", "1e999", "nan", "1_000", "", " ", '"', "=1+1", "\0", "ü", "-4", "5;"]
    ),
    st.text(max_size=8),
    st.floats().map(str),
)
_ROWS = st.lists(
    st.tuples(
        st.sampled_from(["a.jpg", "b.jpg", "./a.jpg", "=1+1.jpg", "-c.jpg"]), st.one_of(st.just("3"), st.just(""), _CELL)
    ).map(list),
    min_size=1,
    max_size=5,
    unique_by=lambda row: row[0],
)
SHEET = st.one_of(
    st.tuples(st.just("image,mos"), _ROWS, st.just(","), st.sampled_from(["\n", "\r\n"]), st.just([])),
    st.tuples(
        st.sampled_from(
            ["image,mos", "image;mos", "image\tmos", "\ufeffimage,mos", "mos,image,n", "image", "image,image,mos", ""]
        ),
        st.one_of(_ROWS, st.lists(st.lists(_CELL, max_size=4), max_size=8)),
        st.sampled_from([",", ";", "\t", ", "]),
        st.sampled_from(["\n", "\r\n", "\r"]),
        st.one_of(st.just([]), st.lists(MUTATION, max_size=2)),
    ),
)


def sheet(case: tuple[str, list[list[str]], str, str, list[tuple[Any, ...]]]) -> bytes:
    """A CSV file as `SHEET` draws it."""
    first, rows, delimiter, end, changes = case
    text = end.join([first, *(delimiter.join(row) for row in rows)])
    return mutated(text.encode("utf-8", "surrogatepass"), changes)


def read_sheet(case: tuple[str, list[list[str]], str, str, list[tuple[Any, ...]]]) -> str:
    """A CSV file of labels, which people fill in and `grepq rate` does; and the same as a table of scores."""
    from grepq_metric.heads.labels import LARGEST, RatingSheet, read_labels
    from grepq_metric.tables import read_table

    path, outcomes = scratch("labels.csv"), []
    path.write_bytes(sheet(case))
    try:
        labels = read_labels(path)
        assert len(labels.photos) == len(labels.mos) == len(set(labels.photos))
        assert (np.abs(labels.mos) <= LARGEST).all()
        outcomes.append("labels")
    except InputError:
        pass
    try:
        rows = read_table(path)
        assert rows
        outcomes.append("table")
    except InputError:
        pass
    try:
        rating = RatingSheet(path)
        before = [row for i, row in enumerate(rating.ratings) if i]
        rating.rate(0, 3)
        again = RatingSheet(path)
        assert again.photos == rating.photos
        assert again.ratings[0] == "3"
        assert again.ratings[1:] == before
        outcomes.append("ratings")
    except InputError:
        pass
    return " and ".join(outcomes) or "InputError"


# ------------------------------------------------------------------------------------------------------------- configs

_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)
_KEYS = ("pathways", "name", "storage", "provenance", "patch_size", "patch_stride", "ridge", "distance_scale", "semantic")
_KEYS += ("logit_scale", "precision", "speed", "resolution", "chunk_size", "image_tower", "projector", "unknown")
CONFIG = st.tuples(
    st.dictionaries(st.sampled_from(_KEYS), _JSON, max_size=3),
    st.lists(st.sampled_from(_KEYS), max_size=2),
    st.lists(MUTATION, max_size=2),
    st.integers(0, 10_000),
)


@cache
def weights() -> Path:
    """A copy of a folder of packaged weights."""
    from grepq_metric.weights import packaged_folder

    folder = scratch("weights")
    folder.mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((packaged_folder("grepq-sem") / name).read_bytes())
    return folder


def load_config(case: tuple[dict[str, Any], list[str], list[tuple[Any, ...]], int]) -> str:
    """A ``config.json`` beside whole tensors."""
    from grepq_metric import GRepQ
    from grepq_metric.weights import packaged_folder
    from grepq_metric.weights.folder import read_config

    changes, without, damage, number = case
    config = json.loads((packaged_folder("grepq-sem") / "config.json").read_text())
    config = {name: value for name, value in {**config, **changes}.items() if name not in without}
    data = mutated(json.dumps(config).encode(), damage)
    (weights() / "config.json").write_bytes(data)
    try:
        if number % LOADED:
            read_config(weights() / "config.json")
            return "read"
        loaded = GRepQ.from_pretrained(weights())
    except WeightsError:
        return "WeightsError"
    except InputError:
        return "InputError"
    assert re.fullmatch(r"[A-Za-z0-9._+-]+", loaded.weights_id)
    return "loaded"


# ------------------------------------------------------------------------------------------------ safetensors and heads

_DTYPE_NAMES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "I64", "I32", "U8", "BOOL", "X9")
HEADER = st.tuples(
    st.lists(
        st.tuples(
            st.sampled_from(["mean", "weight", "other", "__metadata__"]),
            st.sampled_from(_DTYPE_NAMES),
            st.lists(st.one_of(st.integers(0, 40), st.sampled_from([2**31, 2**40, 2**62, -1])), max_size=3),
            st.tuples(st.integers(-10, 4000), st.one_of(st.integers(0, 4000), st.just(2**60))),
        ),
        max_size=3,
    ),
    mutations(3),
    st.booleans(),
)


@cache
def small_tensors() -> bytes:
    from safetensors.torch import save

    return save({"mean": torch.arange(24.0).reshape(4, 6), "weight": torch.ones(5)})


def load_tensors_of_a_file(case: tuple[list[Any], list[tuple[Any, ...]], bool]) -> str:
    """A safetensors file with another header, or with damage anywhere."""
    from grepq_metric.weights import load_tensors, read_tensors

    entries, changes, crafted = case
    data = small_tensors()
    if crafted:
        size = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + size])
        for name, kind, shape, offsets in entries:
            header[name] = {"dtype": kind, "shape": shape, "data_offsets": list(offsets)}
        text = json.dumps(header).encode()
        data = struct.pack("<Q", len(text)) + text + data[8 + size :]
    else:
        data = mutated(data, changes)
    path = scratch("model.safetensors")
    path.write_bytes(data)
    module = torch.nn.Module()
    module.register_buffer("mean", torch.zeros(4, 6))
    module.register_buffer("weight", torch.zeros(5))
    try:
        load_tensors(module, read_tensors(path), path)
    except WeightsError:
        return "WeightsError"
    assert module.mean.isfinite().all()
    return "loaded"


_FACT = st.one_of(
    st.text(max_size=12), st.integers().map(str), st.floats().map(str), st.sampled_from(["ridge", "shrunk", "3"])
)
_ARRAY = st.tuples(st.sampled_from([np.float32, np.float64, np.int64]), st.lists(st.integers(0, 9), max_size=3), st.floats())
HEAD = st.tuples(
    st.dictionaries(
        st.sampled_from(["head", "weights_id", "features", "labels", "mos_min", "mos_max", "alpha", "date", "format", "more"]),
        _FACT,
        max_size=1,
    ),
    st.dictionaries(
        st.sampled_from(["coef", "intercept", "mean", "scale", "residuals", "influence", "more"]), _ARRAY, max_size=1
    ),
    st.one_of(st.just([]), st.lists(MUTATION, max_size=2)),
    st.integers(0, 10_000),
)


def load_head(case: tuple[dict[str, str], dict[str, Any], list[tuple[Any, ...]], int]) -> str:
    """A head whose facts, arrays or bytes were changed."""
    from safetensors import safe_open
    from safetensors.numpy import save

    from grepq_metric.heads import RidgeHead, headfile

    facts, arrays, changes, number = case
    path = scratch("head.safetensors")
    with safe_open(headfile.find("biq2021"), "numpy") as file:
        stored, tensors = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of floats that are no integers
        tensors |= {name: np.full(shape, value).astype(kind) for name, (kind, shape, value) in arrays.items()}
    texts = {name: text.encode("utf-8", "replace").decode() for name, text in facts.items()}
    path.write_bytes(mutated(save(tensors, stored | texts), changes))
    try:
        if number % LOADED:
            read, values = headfile.read(path)
            RidgeHead.from_arrays(values, read["alpha"])
            return "read"
        head = GRepQRegressor.load(path, model("grepq-lite"))
    except WeightsError:
        return "WeightsError"
    except InputError:
        return "InputError"
    mos = head.predict(torch.zeros(1, head.n_features_in_))
    return "loaded" if np.isfinite(mos).all() else "loaded, no finite MOS, which is an error in a row"


# ------------------------------------------------------------------------------------------------ results of the harness

RESULT = st.tuples(
    st.sampled_from(["scores", "features", "draws", "predictions", "dataset", "record"]), mutations(3), st.booleans()
)


@cache
def results() -> dict[str, bytes]:
    """Result files of the harness, by kind."""
    from benchmarks.harness import results as files

    folder = scratch("results")
    folder.mkdir(exist_ok=True)
    rows: dict[str, tuple[Any, list[Any]]] = {
        "scores": (
            files.ScoreRow,
            [files.ScoreRow("a.jpg", 0.5, 0.1), files.ScoreRow("b\n.jpg", None, None, 'no, it "fails"')],
        ),
        "features": (files.FeatureRow, [files.FeatureRow("a.jpg", np.arange(4, dtype=np.float32), 0.1)]),
        "draws": (files.DrawRow, [files.DrawRow(50, 0, 9, dict.fromkeys(files.FIGURES, 0.5), ("tied",))]),
        "predictions": (files.PredictionRow, [files.PredictionRow("all", 0, "a.jpg", 3.5)]),
    }
    for name, (kind, made) in rows.items():
        files.write_rows(folder / name, kind, made)
    dataset = files.DatasetFacts("toy-1", "toy", "Toy", "synthetic", 9, "0" * 64, "1" * 64, False, [0, 5], "free", "")
    record = files.ResultRecord(
        *("toy-1", "toy", "grepq-sem-1", "grepq-sem", "NR", False, True, "zero-shot", 9, ["c.jpg"], 0, 0.1, None, None),
        *({"50": 0.5}, {}, {"a": [1]}, "python -m benchmarks", "2026-01-01", {"torch": "2"}, "a machine", 1, 1),
    )
    files.write_facts(folder / "dataset", dataset)
    files.write_facts(folder / "record", record)
    return {name: (folder / name).read_bytes() for name in (*rows, "dataset", "record")}


def read_result(case: tuple[str, list[tuple[Any, ...]], bool]) -> str:
    """A result file that was changed."""
    from benchmarks.harness import results as files

    kind, changes, as_another = case
    path = scratch("result")
    path.write_bytes(mutated(results()[kind], changes))
    rows = {"scores": files.ScoreRow, "features": files.FeatureRow, "draws": files.DrawRow, "predictions": files.PredictionRow}
    facts = {"dataset": files.DatasetFacts, "record": files.ResultRecord}
    if as_another:
        kind = {"scores": "features", "features": "scores", "dataset": "record", "record": "dataset"}.get(kind, kind)
    try:
        if kind in rows:
            files.read_rows(path, rows[kind])
        else:
            files.read_facts(path, facts[kind])
    except ValueError as error:
        if str(path) not in str(error):
            raise AssertionError(f"an error without a name: {error}") from error
        return "ValueError"
    return "read"


# ------------------------------------------------------------------------------------------------------------ archives

ARCHIVE = st.tuples(st.sampled_from(["zip", "stored.zip", "tar", "tar.gz", "tar.xz"]), mutations(3))


@cache
def packed() -> dict[str, bytes]:
    """Archives of three photos, by ending."""
    import tarfile

    found, photos = {}, {name: images()[name] for name in ("jpeg", "png", "gif")}
    for ending in ("zip", "stored.zip", "tar", "tar.gz", "tar.xz"):
        stream = io.BytesIO()
        if ending.endswith("zip"):
            method = zipfile.ZIP_STORED if ending == "stored.zip" else zipfile.ZIP_DEFLATED
            with zipfile.ZipFile(stream, "w", method) as file:
                for name, data in photos.items():
                    file.writestr(f"folder/{name}", data)
        else:
            with tarfile.open(fileobj=stream, mode=f"w:{ending[4:]}") as file:  # type: ignore[call-overload]
                for name, data in photos.items():
                    info = tarfile.TarInfo(f"folder/{name}")
                    info.size = len(data)
                    file.addfile(info, io.BytesIO(data))
        found[ending] = stream.getvalue()
    return found


def read_archive(case: tuple[str, list[tuple[Any, ...]]]) -> str:
    """An archive that was changed."""
    from grepq_metric import archives

    ending, changes = case
    path = scratch(f"photos.{ending}")
    path.write_bytes(mutated(packed()[ending], changes))
    os.utime(path, ns=(0, next(_clock)))  # or it would be taken for the last one
    read, errors = 0, 0
    try:
        for name in archives.members(path):
            try:
                archives.read_member(path, name)
                read += 1
            except (InputError, FileNotFoundError):
                errors += 1
    except InputError:
        errors += 1
    return "read" if not errors else "InputError, and photos" if read else "InputError"


# ---------------------------------------------------------------------------------------------------------------- runs

_folder = tempfile.TemporaryDirectory(prefix="grepq-fuzz-")
_clock = iter(range(10**18))


def scratch(name: str) -> Path:
    """A path that goes with this process."""
    return Path(_folder.name) / name


@dataclass(frozen=True)
class Target:
    """What is fuzzed.

    Attributes:
        cases: how they are drawn.
        run: a case to its outcome, in words. Whatever else it raises is a defect.
        ready: what is loaded once, and is no matter of a case.
    """

    cases: st.SearchStrategy[Any]
    run: Callable[[Any], str]
    ready: Callable[[], Any] = dict


TARGETS: dict[str, Target] = {
    "images": Target(
        st.deferred(lambda: st.tuples(st.sampled_from(sorted(images())), NAMES, mutations())), read_photo, images
    ),
    "tensors": Target(
        st.tuples(
            st.one_of(_SHAPE, _SHAPE, st.lists(st.integers(0, 9), max_size=5)),
            st.one_of(st.just(torch.float32), st.just(torch.float32), st.sampled_from(_DTYPES)),
            _VALUE,
            _VALUE,
            st.booleans(),
            st.integers(0, 10_000),
        ),
        score_tensor,
        lambda: model()(torch.rand(1, 3, 96, 96)),
    ),
    "labels": Target(SHEET, read_sheet),
    "configs": Target(CONFIG, load_config, lambda: (weights(), model())),
    "safetensors": Target(HEADER, load_tensors_of_a_file),
    "heads": Target(HEAD, load_head, lambda: GRepQRegressor.load("biq2021", model("grepq-lite"))),
    "results": Target(RESULT, read_result, results),
    "archives": Target(ARCHIVE, read_archive, packed),
}


@dataclass
class Found:
    """What came of a run.

    Attributes:
        outcomes: how many cases, by outcome.
        seconds: of processor time that the slowest case took.
        megabytes: of memory that the largest case took beyond what there was.
        slowest: that case.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    megabytes: float = 0.0
    slowest: str = ""


def fuzz(name: str, cases: int, seed: int) -> Found:
    """Run a target.

    Args:
        name: of the target.
        cases: how many.
        seed: of their choice.

    Raises:
        Exception: what a case raised that it may not, with the smallest case that does.
        AssertionError: a case took more than `SECONDS` or `BYTES`.
    """
    run, found = test_of(name)
    run = settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )(hypothesis.seed(seed)(run))
    with quiet():
        run()
    return found


def test_of(name: str) -> tuple[Callable[[], None], Found]:
    """A target as a test of Hypothesis, which draws its cases, and what comes of them."""
    target, found = TARGETS[name], Found()
    target.ready()

    @given(target.cases)
    def run(case: Any) -> None:
        before, began = _memory(reset=True), time.process_time()
        outcome = target.run(case)
        seconds, taken = time.process_time() - began, _memory() - before
        assert seconds < SECONDS, f"{seconds:.1f} s for {case!r:.500}"
        assert taken < BYTES, f"{taken / 1e6:.0f} MB for {case!r:.500}"
        found.outcomes[outcome] += 1
        if seconds > found.seconds:
            found.seconds, found.slowest = seconds, f"{case!r:.300}"
        found.megabytes = max(found.megabytes, taken / 1e6)

    return run, found


def _memory(reset: bool = False) -> int:
    """Most bytes that this process has held since the last reset; 0 where that is not known."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmRSS:" if reset else "VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        return 0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without warnings, and without what libpng and libjpeg write to standard error, past Python."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def report(name: str, found: Found, seed: int, tools: dict[str, str], told: str, record: Path | None) -> None:
    """Print what came of a target, and add it to a JSON file."""
    figures = {
        "cases": found.outcomes.total(),
        "seed": seed,
        "outcomes": dict(found.outcomes.most_common()),
        "worst_seconds": round(found.seconds, 3),
        "worst_megabytes": round(found.megabytes),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "with": {**tools, "python": platform.python_version()},
    }
    print(name, json.dumps(figures), told, flush=True)
    if record is not None:
        kept = json.loads(record.read_text()) if record.exists() else {}
        record.write_text(json.dumps({**kept, name: figures}, indent=2, sort_keys=True) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """Run targets and print what came of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=1000, help="of each target")
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, metavar="FILE", help="add the figures to this JSON file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name in options.target or TARGETS:
        began = time.monotonic()
        found = fuzz(name, options.cases, options.seed)
        told = f"{time.monotonic() - began:.0f} s; slowest: {found.slowest}"
        report(name, found, options.seed, {"hypothesis": hypothesis.__version__}, told, options.record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
