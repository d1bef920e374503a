"""Promises: HEIC, AVIF and camera raw are read upright and in sRGB where their packages are, and named where they are not."""

import io
import json
import os

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms, features

from grepq_metric import images
from grepq_metric.images import (
    CAMERA_RAW,
    PixelLimitError,
    decode_image,
    file_pixels,
    find_images,
    image_header,
    read_image,
)
from tests.command import grepq

TURNS = {1: lambda a: a, 3: lambda a: a[::-1, ::-1], 6: lambda a: np.rot90(a, -1), 8: np.rot90}


@pytest.fixture
def pixels(photos):
    return (photos["coffee"][0, :, :90, :120].permute(1, 2, 0) * 255).round().byte().numpy()


@pytest.fixture
def heif():
    module = pytest.importorskip("pillow_heif", reason="HEIC needs pillow-heif (extra: heic)")
    module.register_heif_opener()
    return module


@pytest.fixture
def rawpy():
    return pytest.importorskip("rawpy", reason="camera raw needs rawpy (extra: raw)")


@pytest.fixture
def nothing_installed(monkeypatch):
    """As where neither package is: the reader of HEIC, which may be registered in this process, is taken away."""
    Image.init()
    monkeypatch.setattr(images, "_installed", lambda package: False)
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name not in ("HEIF", "JXL")])


def encoded(array, kind, turn=None, **options):
    stream = io.BytesIO()
    if turn is not None:
        exif = Image.Exif()
        exif[0x0112] = turn
        options["exif"] = exif.tobytes()
    Image.fromarray(array).save(stream, kind, **options)
    return stream.getvalue()


def as_tensor(array):
    return torch.from_numpy(np.array(array)).permute(2, 0, 1).float() / 255


def dng(pixels, turn=1, make="grepq"):
    """A DNG of an RGGB mosaic: a camera that sees sRGB's colours, without its gamma."""
    shown = pixels.astype(np.float64) / 255
    linear = np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4) * 65535
    mosaic = np.empty(pixels.shape[:2], np.uint16)
    for y, x, channel in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
        mosaic[y::2, x::2] = linear[y::2, x::2, channel]
    matrix = (3.2405, -1.5371, -0.4985, -0.9693, 1.8760, 0.0416, 0.0556, -0.2040, 1.0572)  # from XYZ, of D65
    tags = [
        (50706, "B", 4, (1, 4, 0, 0), True),
        (50708, "s", 0, "grepq test", True),
        (271, "s", 0, make, True),
        (272, "s", 0, "test", True),
        (274, "H", 1, turn, True),
        (33421, "H", 2, (2, 2), True),
        (33422, "B", 4, (0, 1, 1, 2), True),
        (50714, "H", 1, 0, True),
        (50717, "I", 1, 65535, True),
        (50721, "2i", 9, tuple(v for value in matrix for v in (round(value * 10000), 10000)), True),
        (50728, "2I", 3, (1, 1, 1, 1, 1, 1), True),
        (50778, "H", 1, 21, True),
    ]
    stream = io.BytesIO()
    tifffile.imwrite(stream, mosaic, photometric=32803, extratags=tags)
    return stream.getvalue()


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_heic_and_avif_are_read_upright(pixels, kind, turn, request):
    if kind == "HEIF":
        request.getfixturevalue("heif")
    elif not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    upright = as_tensor(np.ascontiguousarray(TURNS[turn](pixels)))
    data = encoded(pixels, kind, turn, quality=95)
    assert (decode_image(data, "a") - upright).abs().mean() < 0.03
    assert image_header(data, "a").format == kind


def test_heic_has_a_limit_of_pixels_before_it_is_decoded(pixels, heif, monkeypatch):
    data = encoded(pixels, "HEIF")
    from PIL import ImageFile

    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    with pytest.raises(PixelLimitError, match="120 x 90"):
        decode_image(data, "a.heic", max_pixels=1000)


def test_a_sequence_is_its_first_picture_and_says_so(pixels, heif, tmp_path):
    other = Image.fromarray(pixels[::-1].copy())
    for kind in ("HEIF", *(["AVIF"] if features.check("avif") else [])):
        data = encoded(pixels, kind, quality=95, save_all=True, append_images=[other])
        assert image_header(data, "a").animated
        assert (decode_image(data, "a") - as_tensor(pixels)).abs().mean() < 0.03
        assert not image_header(encoded(pixels, kind), "a").animated


def test_a_colour_profile_of_heic_is_dealt_with_as_that_of_jpeg(pixels, heif):
    """It is left alone, whatever it says: a profile that is no sRGB, in both kinds."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for kind in ("HEIF", "JPEG"):
        with_it, without = (
            decode_image(encoded(pixels, kind, quality=95, **options), "a") for options in ({"icc_profile": profile}, {})
        )
        assert torch.equal(with_it, without)


def test_damaged_heic_is_named(pixels, heif):
    data = encoded(pixels, "HEIF")
    for cut in (data[: len(data) // 3], data[: len(data) * 2 // 3], data[:40]):
        with pytest.raises(ValueError, match=r"cannot read a\.heic as an image") as caught:
            decode_image(cut, "a.heic")
        assert "0x" not in str(caught.value)


@pytest.mark.parametrize("turn", TURNS)
def test_camera_raw_is_developed_upright(pixels, rawpy, turn, tmp_path):
    (tmp_path / "a.DNG").write_bytes(dng(pixels, turn))
    image = read_image(tmp_path / "a.DNG")
    upright = as_tensor(np.ascontiguousarray(TURNS[turn](pixels)))
    assert image.shape == upright.shape
    # It is brightened; what lies where stays, and colours stay what they are.
    for ours, theirs in zip(image.flatten(1), upright.flatten(1), strict=True):
        assert np.corrcoef(ours, theirs)[0, 1] > 0.8
    balance = image.flatten(1).mean(1) / upright.flatten(1).mean(1)
    assert balance.max() / balance.min() < 1.25
    header = image_header((tmp_path / "a.DNG").read_bytes(), "a.DNG")
    assert (header.width, header.height, header.format, header.animated) == (120, 90, "RAW", False)
    assert file_pixels(tmp_path / "a.DNG") == 120 * 90
    assert list(find_images(tmp_path)) == [tmp_path / "a.DNG"]


def test_camera_raw_of_any_name_is_not_left_to_pillow(pixels, rawpy):
    """By its tags or first bytes: Pillow would find a thumbnail."""
    data = dng(pixels)
    assert torch.equal(decode_image(data, "item 3"), decode_image(data, "a.dng"))
    assert image_header(data, "item 3").format == "RAW"
    for start in (b"IIRO", b"IIU\0", b"FUJIFILMCCD-RAW 0201", b"II*\0\x10\0\0\0CR\x02\0", b"\0\0\0\x18ftypcrx "):
        with pytest.raises(ValueError, match="LibRaw"):
            decode_image(start + bytes(500), "item 3")


def test_camera_raw_has_a_limit_of_pixels_before_it_is_developed(pixels, rawpy):
    with pytest.raises(PixelLimitError, match="120 x 90"):
        decode_image(dng(pixels), "a.dng", max_pixels=1000)


@pytest.mark.parametrize("suffix", sorted(CAMERA_RAW - {".raw"}))
def test_damaged_camera_raw_is_named(tmp_path, pixels, rawpy, suffix):
    """Also where it is a picture that Pillow would read."""
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    os.rename(tmp_path / "a.tif", tmp_path / f"a{suffix}")
    with pytest.raises(ValueError, match=rf"a\{suffix} as an image: LibRaw says: \w+") as caught:
        read_image(tmp_path / f"a{suffix}")
    assert "0x" not in str(caught.value)
    assert "b'" not in str(caught.value)


def test_what_is_missing_is_named_with_what_to_install(tmp_path, pixels, nothing_installed):
    for name, content, message in (
        ("a.heic", b"\0\0\0\x18ftypheic" + bytes(100), r'HEIC needs pillow-heif: pip install "grepq-metric\[heic\]"'),
        ("phone.jpg", b"\0\0\0\x18ftypheic" + bytes(100), r'HEIC needs pillow-heif: pip install "grepq-metric\[heic\]"'),
        ("a.NEF", dng(pixels, make="NIKON"), r'camera raw needs rawpy: pip install "grepq-metric\[raw\]"'),
        ("a.tif", dng(pixels), r'camera raw needs rawpy: pip install "grepq-metric\[raw\]"'),
        ("a.jxl", b"\xff\x0a" + bytes(100), "JPEG XL needs pillow-jxl-plugin: pip install pillow-jxl-plugin"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message) as caught:
            read_image(tmp_path / name)
        assert name in str(caught.value)
        assert "0x" not in str(caught.value)
    assert {path.name for path in find_images(tmp_path)} == {"a.heic", "phone.jpg", "a.NEF", "a.tif", "a.jxl"}


def test_all_of_them_are_scored_in_a_folder(photo_folder, heif, rawpy, tmp_path):
    with Image.open(photo_folder / "cat.png") as image:
        array = np.asarray(image.convert("RGB"))[:300, :450]
    (tmp_path / "a.heic").write_bytes(encoded(array, "HEIF", quality=95))
    (tmp_path / "b.dng").write_bytes(dng(array))
    (tmp_path / "c.png").write_bytes(encoded(array, "PNG"))
    rows = [json.loads(line) for line in grepq("score", tmp_path, "--format", "jsonl").stdout.splitlines()]
    assert [os.path.basename(row["path"]) for row in rows] == ["a.heic", "b.dng", "c.png"]
    assert all((row["width"], row["height"], row["error"]) == (450, 300, None) for row in rows)
    assert abs(rows[0]["score"] - rows[2]["score"]) < 0.1
