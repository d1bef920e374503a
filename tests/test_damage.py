"""Promise: a file that lacks a part of its picture is never scored in silence, also where its decoder conceals the gap."""

from __future__ import annotations

import io
import re
import struct
import subprocess
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageFile

from grepq_metric import InputError, Scorer, read_image
from grepq_metric.images import decode_image, image_header
from tests.command import grepq

END = b"\xff\xd9"


@pytest.fixture(scope="module")
def pixels(photos: dict[str, torch.Tensor]) -> np.ndarray:
    return (photos["coffee"][0, :, :96, :121].permute(1, 2, 0) * 255).round().byte().numpy()


def saved(pixels: np.ndarray, kind: str, mode: str = "RGB", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


JPEGS = {
    "sequential": {},
    "progressive": {"progressive": True},
    "restarts by rows": {"restart_marker_rows": 1},
    "restarts by blocks": {"restart_marker_blocks": 3, "subsampling": 0},
    "progressive restarts": {"restart_marker_rows": 1, "progressive": True},
}


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_that_ends_early_in_proper_form_is_an_error(pixels: np.ndarray, name: str, mode: str):
    whole = saved(pixels, "JPEG", mode, **JPEGS[name])
    expected = decode_image(whole, "whole")
    assert torch.equal(decode_image(whole + b"what cameras add", "whole"), expected)
    begin = whole.rindex(b"\xff\xda") if "progressive" not in JPEGS[name] else whole.index(b"\xff\xda")
    for end in range(begin + 20, len(whole) - 6, max(1, len(whole) // 40)):
        with Image.open(io.BytesIO(whole[:end] + END)) as image:
            try:
                image.load()
            except OSError:  # Pillow notices this one
                continue
        with pytest.raises(InputError, match=r"truncated|is missing|are missing"):
            decode_image(whole[:end] + END, "cut")


def test_parts_between_restarts_are_missed(pixels: np.ndarray):
    whole = saved(pixels, "JPEG", restart_marker_rows=1)
    first, second, third = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", whole)][:3]
    for damaged in (
        whole[:first] + whole[second:],  # a part is not there
        whole[:first] + whole[second:third] + whole[first:second] + whole[third:],  # two of them changed places
        whole[: first + 20] + whole[second:],  # one ends early
        whole[: second - 8] + whole[second:],
    ):
        assert Image.open(io.BytesIO(damaged)).load() is not None  # Pillow sees nothing
        with pytest.raises(InputError, match=r"is missing|are missing"):
            decode_image(damaged, "damaged")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(pixels: np.ndarray, rows: int, interlaced: bool = False) -> bytes:
    """A PNG that has fewer rows than it states, in perfect order otherwise."""
    height, width = pixels.shape[:2]
    if interlaced:  # all pixels as those of the first pass, which is enough to end early
        lines = [b"\0" + pixels[y, ::8].tobytes() for y in range(0, height, 8)]
    else:
        lines = [b"\0" + line.tobytes() for line in pixels]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, int(interlaced))
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"".join(lines[:rows]))), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_a_png_that_ends_early_in_proper_form_is_an_error(pixels: np.ndarray):
    black = np.zeros_like(pixels)
    assert decode_image(png(black, 96), "black").max() == 0
    for photo in (pixels, black):
        for rows in (1, 45, 95):
            with pytest.raises(InputError, match=r"missing|truncated"):
                decode_image(png(photo, rows), "cut")
    with pytest.raises(InputError, match=r"missing|truncated"):
        decode_image(png(pixels, 96, interlaced=True), "cut")


def gif(pixels: np.ndarray, cut: int) -> bytes:
    """A GIF of which `cut` rows are missing although its codes end as they should."""
    height = pixels.shape[0]
    short = saved(pixels[: height - cut], "GIF", "P")
    at = short.index(b"\x2c\0\0\0\0")
    data = bytearray(short)
    data[8:10] = data[at + 7 : at + 9] = struct.pack("<H", height)
    return bytes(data)


def test_a_gif_that_ends_early_in_proper_form_is_an_error(pixels: np.ndarray):
    assert decode_image(gif(pixels, 0), "whole").shape == (3, 96, 121)
    one_colour = np.full_like(pixels, 204)
    assert decode_image(gif(one_colour, 0), "whole").std() < 1e-6
    for photo in (pixels, one_colour):
        for cut in (2, 40, 89):
            with pytest.raises(InputError, match="truncated"):
                decode_image(gif(photo, cut), "cut")


def test_an_animation_is_read_if_its_first_frame_is_whole(pixels: np.ndarray):
    others = [Image.fromarray(pixels[::-1]).convert("P"), Image.fromarray(pixels[:, ::-1]).convert("P")]
    whole = saved(pixels, "GIF", "P", save_all=True, append_images=others)
    expected, read = decode_image(whole, "whole"), 0
    for end in range(0, len(whole), 7):
        try:
            assert torch.equal(decode_image(whole[:end], "cut"), expected)
        except InputError:
            continue
        read += 1
        assert image_header(whole[:end], "cut").width == 121
    assert read > 100


@pytest.mark.parametrize("kind", ["raw", "packbits", "jpeg", "16 bits"])
def test_strips_that_are_not_there_are_missed(pixels: np.ndarray, kind: str):
    stream = io.BytesIO()
    if kind in ("raw", "16 bits"):
        tifffile.imwrite(stream, pixels * np.uint16(257) if kind == "16 bits" else pixels, photometric="rgb", rowsperstrip=30)
    else:
        Image.fromarray(pixels).save(stream, "TIFF", compression=kind, strip_size=9000)
    data = bytearray(stream.getvalue())
    assert decode_image(bytes(data), "whole").shape == (3, 96, 121)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tag = file.pages[0].tags["StripOffsets"]
        size = {3: 2, 4: 4}[int(tag.dtype)]
        at, last = tag.valueoffset + size * (tag.count - 1), tag.value[-1]
        count = file.pages[0].tags["StripByteCounts"].value[-1]
    gone = data[:at] + bytes(size) + data[at + size :]
    with pytest.raises(InputError, match="not there"):
        decode_image(bytes(gone), "gone")
    if kind == "jpeg":
        data[last + count - 2 : last + count] = bytes(2)
        with pytest.raises(InputError, match="has no end"):
            decode_image(bytes(data), "cut")


def test_a_jpeg_2000_without_an_end_is_an_error(pixels: np.ndarray):
    whole = saved(pixels, "JPEG2000", irreversible=True, quality_layers=[20, 10])
    begin = whole.index(b"\xff\x90")  # behind the marker of the first tile, OpenJPEG takes the end for a picture of nothing
    for end in range(begin, begin + 20):
        with pytest.raises(InputError):
            decode_image(whole[:end], "cut")
    assert decode_image(whole, "whole").std() > 0.1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF", "deep PNG"])
def test_a_file_that_is_cut_anywhere_is_whole_or_an_error(pixels: np.ndarray, kind: str):
    small = pixels[:40, :40]
    if kind == "deep PNG":
        whole = cv2.imencode(".png", small * np.uint16(257))[1].tobytes()
    else:
        whole = saved(small, kind, "P" if kind == "GIF" else "RGB")
    expected, errors = decode_image(whole, "whole"), 0
    for end in [*range(0, len(whole), 1 + len(whole) // 300), *range(len(whole) - 30, len(whole))]:
        try:
            assert torch.equal(decode_image(whole[:end], "cut"), expected)
        except InputError:
            errors += 1
    assert errors > 100


def test_what_is_left_is_read_if_one_says_so(pixels: np.ndarray, tmp_path: Path):
    for kind, options in (("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {})):
        whole = saved(pixels, kind, **options)
        expected = decode_image(whole, "whole")
        for name, damaged in (("cut", whole[: len(whole) * 2 // 3]), ("ended", whole[: len(whole) * 2 // 3] + END)):
            path = tmp_path / f"{name}.{kind}"
            path.write_bytes(damaged)
            with pytest.raises(InputError, match=str(path)):
                read_image(path)
            with pytest.warns(UserWarning, match=f"{path} is read as far as it goes"):
                found = read_image(path, allow_truncated=True)
            assert found.shape == expected.shape
            assert (found[:, :30] - expected[:, :30]).abs().mean() < 0.03
            assert not torch.equal(found, expected)
    (tmp_path / "none").write_bytes(b"no image")
    with pytest.raises(InputError):
        read_image(tmp_path / "none", allow_truncated=True)


def test_a_score_of_what_is_left_has_a_warning(pixels: np.ndarray, tmp_path: Path):
    whole = saved(pixels, "JPEG")
    damaged = whole[: len(whole) * 2 // 3] + END
    strict, lenient = (Scorer("grepq-sem", device="cpu", allow_truncated=allowed) for allowed in (False, True))
    rows, kept = strict({"bytes": [whole, damaged]}), lenient({"bytes": [whole, damaged]})
    assert rows["score"][1] is None
    assert "truncated" in rows["error"][1]
    assert kept["score"][0] == rows["score"][0] != kept["score"][1]
    assert kept["warning"][0] is None
    assert kept["warning"][1].startswith("damaged, scored as far as it can be read: ")
    assert strict.facts() != lenient.facts()  # so that a run of one is not resumed as the other

    (tmp_path / "cut.jpg").write_bytes(damaged)
    grepq("score", "cut.jpg", "-o", "scores.csv", cwd=tmp_path, status=1)
    grepq("score", "cut.jpg", "--allow-truncated", "-o", "scores.csv", "--overwrite", cwd=tmp_path)
    assert "damaged, scored as far as it can be read" in (tmp_path / "scores.csv").read_text()
    resumed = grepq("score", "cut.jpg", "-o", "scores.csv", "--resume", cwd=tmp_path, status=2)
    assert "its allow_truncated was True, and now is False" in resumed.stderr


def test_a_jpeg_of_very_many_scans_is_refused(pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch):
    """Each scan takes the time of the whole picture, and a few bytes."""
    whole = saved(pixels, "JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)  # it is not decoded
    with pytest.raises(InputError, match="more than 100 scans"):
        decode_image(whole[:-2] + last * 200 + END, "hostile")


def test_postscript_is_no_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Pillow has Ghostscript run it."""
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *arguments, **_: started.append(arguments))
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", "gs")
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "EPS")
    with pytest.raises(InputError, match=r"photo\.jpg"):
        decode_image(stream.getvalue(), "photo.jpg")
    assert not started
