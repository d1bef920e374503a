"""Promise: a photo file of any common kind is read upright, in RGB, in [0, 1]; what can't be read is named."""

import io
import struct
import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageFile

from grepq_metric.images import PixelLimitError, decode_image, find_images, image_header, read_ahead, read_image


@pytest.fixture
def pixels(photos):
    return (photos["coffee"][0, :, :90, :120].permute(1, 2, 0) * 255).round().byte().numpy()


def as_tensor(array):
    return torch.from_numpy(np.array(array)).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.webp", "a.ppm"])
def test_lossless_formats_are_exact(tmp_path, pixels, name):
    Image.fromarray(pixels).save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    assert torch.equal(read_image(tmp_path / name), as_tensor(pixels))


def test_jpeg_and_progressive_jpeg(tmp_path, pixels):
    for progressive in (False, True):
        Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95, progressive=progressive)
        assert (read_image(str(tmp_path / "a.jpg")) - as_tensor(pixels)).abs().mean() < 0.02


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, pixels, orientation):
    stored = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    assert torch.equal(read_image(tmp_path / "a.png"), as_tensor(pixels))


def test_grey_alpha_palette_and_bilevel(tmp_path, pixels):
    image = Image.fromarray(pixels)
    image.convert("L").save(tmp_path / "grey.png")
    grey = read_image(tmp_path / "grey.png")
    assert torch.equal(grey[0], grey[2])
    assert torch.equal(grey, as_tensor(np.asarray(image.convert("L").convert("RGB"))))
    rgba = image.copy()
    rgba.putalpha(Image.linear_gradient("L").resize(image.size))
    rgba.save(tmp_path / "rgba.png")
    assert torch.equal(read_image(tmp_path / "rgba.png"), as_tensor(pixels))
    image.convert("LA").save(tmp_path / "la.png")
    assert torch.equal(read_image(tmp_path / "la.png"), grey)
    image.quantize(64).save(tmp_path / "palette.png")
    assert torch.equal(read_image(tmp_path / "palette.png"), as_tensor(np.asarray(image.quantize(64).convert("RGB"))))
    image.convert("1").save(tmp_path / "bilevel.png")
    assert set(read_image(tmp_path / "bilevel.png").unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("shape", ["rgb", "grey", "rgba"])
def test_16_bit_png_keeps_its_precision(tmp_path, pixels, shape):
    deep = pixels.astype(np.uint16) * 257 - np.minimum(pixels, 100).astype(np.uint16)
    stored = {"rgb": deep[..., ::-1], "grey": deep[..., 0], "rgba": np.dstack([deep[..., ::-1], deep[..., :1]])}[shape]
    cv2.imwrite(str(tmp_path / "deep.png"), stored)
    expected = np.repeat(deep[..., :1], 3, 2) if shape == "grey" else deep
    expected = torch.from_numpy(expected.astype(np.float32) / 65535).permute(2, 0, 1)
    assert torch.allclose(read_image(tmp_path / "deep.png"), expected, atol=1e-7)


def test_an_odd_exif_tag_does_not_matter(tmp_path, pixels):
    """A negative value in a tag for positive ones, which Pillow reads but does not write."""
    entries = [struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0), struct.pack("<HHIhH", 0x0128, 8, 1, -1, 0)]
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)
    Image.fromarray(pixels).save(tmp_path / "odd.jpg", exif=exif)
    assert read_image(tmp_path / "odd.jpg").shape == (3, 120, 90)


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_16_bit_files_are_upright(tmp_path, pixels, name):
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    deep.save(tmp_path / name, exif=exif)
    expected = np.rot90(pixels[..., 0], -1).astype(np.float32) / 255
    assert torch.allclose(read_image(tmp_path / name)[0], torch.from_numpy(expected.copy()))


def test_16_bit_grey_tiff(tmp_path, pixels):
    deep = pixels[..., 0].astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.tif")
    assert torch.allclose(read_image(tmp_path / "deep.tif")[1], torch.from_numpy(deep.astype(np.float32) / 65535))


def test_the_file_name_ending_does_not_decide(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "no_ending")
    assert torch.equal(read_image(tmp_path / "no_ending"), as_tensor(pixels))


def test_what_can_not_be_read_is_named(tmp_path, pixels):
    with pytest.raises(FileNotFoundError, match=r"absent\.jpg"):
        read_image(tmp_path / "absent.jpg")
    with pytest.raises(ValueError, match="folder"):
        read_image(tmp_path)
    Image.fromarray(pixels).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    for name, content in {"empty.jpg": b"", "text.png": b"no picture", "cut.jpg": data[: len(data) // 2]}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            read_image(tmp_path / name)
    cv2.imwrite(str(tmp_path / "deep.png"), pixels.astype(np.uint16) * 257)
    (tmp_path / "cut16.png").write_bytes((tmp_path / "deep.png").read_bytes()[:40])
    with pytest.raises(ValueError, match="cut16"):
        read_image(tmp_path / "cut16.png")


def test_folders_are_searched_by_ending(tmp_path, pixels):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".trash").mkdir()
    for name in ("b.JPG", "a.png", ".hidden.png", "sub/c.jpeg", ".trash/d.png", "notes.txt"):
        if name.endswith("txt"):
            (tmp_path / name).write_text("x")
        else:
            Image.fromarray(pixels).save(tmp_path / name)
    assert [p.name for p in find_images(tmp_path)] == ["a.png", "b.JPG", "c.jpeg"]
    assert [p.name for p in find_images(tmp_path, recursive=False)] == ["a.png", "b.JPG"]
    with pytest.raises(FileNotFoundError, match="absent"):
        list(find_images(tmp_path / "absent"))
    with pytest.raises(NotADirectoryError, match=r"a\.png"):
        list(find_images(tmp_path / "a.png"))


def encoded(array, kind, **options):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **options)
    return stream.getvalue()


def with_size(data, width, height):
    """The file with another size in its header."""
    if data.startswith(b"\x89PNG"):
        import zlib

        chunk = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
        return data[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
    if data.startswith(b"GIF"):
        at = data.index(b"\x2c", 13 + 3 * 2 ** ((data[10] & 7) + 1))
        size = struct.pack("<HH", width, height)
        return data[:6] + size + data[10 : at + 5] + size + data[at + 9 :]
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


@pytest.mark.parametrize("kind", ["PNG", "deep PNG", "JPEG", "GIF"])
def test_a_photo_above_the_limit_is_refused_before_it_is_decoded(pixels, kind, monkeypatch):
    data = cv2.imencode(".png", pixels.astype(np.uint16) * 257)[1].tobytes() if "deep" in kind else encoded(pixels, kind)
    large = with_size(data, 15_000, 15_000)
    monkeypatch.setattr(cv2, "imdecode", None)
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    began = time.perf_counter()
    with pytest.raises(PixelLimitError, match=r"large.*15000 x 15000 = 225 megapixels, more than the limit of 200"):
        decode_image(large, "large")
    with pytest.raises(PixelLimitError, match=r"120 x 90 = 0\.0108 megapixels, more than the limit of 0\.01"):
        decode_image(data, "small", max_pixels=10_000)
    assert time.perf_counter() - began < 5


def test_the_limit_is_ours_and_not_pillows(pixels, monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert decode_image(encoded(pixels, "JPEG"), "a.jpg").shape == (3, 90, 120)
    assert not recwarn.list


MEMORY = """
import sys
from pathlib import Path
from grepq_metric.images import read_image

def memory(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))

for path in sys.argv[1:]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = memory("VmRSS")
    image = read_image(path)
    print((memory("VmHWM") - before) / image[0].numel())
    del image
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measured with Linux's /proc")
def test_reading_takes_at_most_16_bytes_a_pixel_and_the_file(tmp_path, pixels):
    large = np.tile(pixels, (35, 25, 1))
    for name in ("deep.png", "deep.tif"):
        cv2.imwrite(str(tmp_path / name), large.astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(large).save(tmp_path / "photo.jpg")
    Image.fromarray(large).save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(large).convert("RGBA").save(tmp_path / "alpha.png", compress_level=1)
    Image.fromarray(pixels).save(tmp_path / "first.png")
    names = ["first.png", "deep.png", "deep.tif", "photo.jpg", "turned.jpg", "alpha.png"]
    command = [sys.executable, "-c", MEMORY, *(str(tmp_path / name) for name in names)]
    taken = map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    next(taken)  # which loads what is used later
    for name, peak in zip(names[1:], taken, strict=True):
        file = (tmp_path / name).stat().st_size / large[..., 0].size
        assert 11.5 < peak <= 16 + file, name


def test_photos_are_read_ahead_only_while_they_are_small_together(tmp_path, pixels):
    paths = []
    for i in range(6):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(pixels).save(paths[-1])
    for limit, most in ((10 * pixels[..., 0].size, 3), (2 * pixels[..., 0].size, 2), (1, 1)):
        started = []

        def read(path, started=started):
            started.append(path)
            return path

        for done, (path, found) in enumerate(read_ahead(paths, 3, read, limit)):
            time.sleep(0.02)
            assert path == found == paths[done]
            assert len(started) - done <= most


def test_truncated_files_are_refused_where_other_code_lets_pillow_read_them(pixels, monkeypatch):
    cut = {
        kind: (data := encoded(pixels, kind, **options))[: len(data) * 2 // 3]
        for kind, options in {"JPEG": {}, "PNG": {}, "GIF": {}, "BMP": {}, "JPEG2000": {}, "PPM": {}}.items()
    }
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for kind, data in cut.items():
        with pytest.raises(ValueError, match=kind):
            decode_image(data, kind)
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_the_other_code_still_reads_its_truncated_files_in_its_threads(pixels, monkeypatch):
    data = encoded(np.tile(pixels, (4, 4, 1)), "JPEG")
    cut = data[: len(data) * 2 // 3]
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    theirs, ours, end = [], [], threading.Event()

    def other_code():
        while not end.is_set():
            try:
                Image.open(io.BytesIO(cut)).load()
                theirs.append(True)
            except OSError:
                theirs.append(False)

    thread = threading.Thread(target=other_code)
    thread.start()
    for _ in range(100):
        try:
            decode_image(cut, "cut")
            ours.append(True)
        except ValueError:
            ours.append(False)
    end.set()
    thread.join()
    assert theirs
    assert all(theirs)
    assert not any(ours)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("turn", [1, 6])
def test_16_bit_rgb_tiff_keeps_its_precision(tmp_path, pixels, order, compression, turn):
    deep = pixels.astype(np.uint16) * 257 - np.minimum(pixels, 100).astype(np.uint16)
    tags = [(0x0112, "H", 1, turn, True)]
    options = {"photometric": "rgb", "byteorder": order, "compression": compression, "extratags": tags}
    tifffile.imwrite(tmp_path / "deep.tif", deep, **options)
    expected = deep if turn == 1 else np.rot90(deep, -1)
    expected = torch.from_numpy(expected.astype(np.float32) / 65535).permute(2, 0, 1)
    assert torch.equal(read_image(tmp_path / "deep.tif"), expected)


def test_a_16_bit_tiff_in_separate_planes_is_refused_and_an_8_bit_one_read(tmp_path, pixels):
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    tifffile.imwrite(tmp_path / "deep.tif", planes.astype(np.uint16) * 257, photometric="rgb", planarconfig="separate")
    with pytest.raises(ValueError, match="separate planes"):
        read_image(tmp_path / "deep.tif")
    tifffile.imwrite(tmp_path / "plain.tif", planes, photometric="rgb", planarconfig="separate")
    assert torch.equal(read_image(tmp_path / "plain.tif"), as_tensor(pixels))


@pytest.mark.parametrize("kind", [np.int32, np.uint32, np.int16])
def test_integers_without_a_known_white_are_refused(tmp_path, pixels, kind):
    tifffile.imwrite(tmp_path / "grey.tif", pixels[..., 0].astype(kind))
    with pytest.raises(ValueError, match=r"grey\.tif.*whose white is not known"):
        read_image(tmp_path / "grey.tif")


def test_deep_grey_pgm_and_12_bit_tiff_are_white_where_they_should_be(tmp_path, pixels):
    grey = pixels[..., 0]
    expected = torch.from_numpy(grey.astype(np.float32) / 255)
    deep = (grey.astype(np.uint16) * 257).astype(">u2")
    (tmp_path / "deep.pgm").write_bytes(b"P5 120 90 65535 " + deep.tobytes())
    assert torch.allclose(read_image(tmp_path / "deep.pgm")[0], expected, atol=1e-6)
    twelve = np.round(grey / 255 * 4095).astype(np.uint16)
    pairs = twelve.reshape(90, 60, 2)
    packed = np.stack([pairs[..., 0] >> 4, (pairs[..., 0] & 15) << 4 | pairs[..., 1] >> 8, pairs[..., 1] & 255], -1)
    with tifffile.TiffWriter(tmp_path / "twelve.tif") as file:
        strip = packed.astype(np.uint8).tobytes()
        file.write(
            iter([strip]), shape=(90, 120), dtype=np.uint16, bitspersample=12, rowsperstrip=90, photometric="minisblack"
        )
    with Image.open(tmp_path / "twelve.tif") as image:
        assert image.tag_v2[258] == (12,)
    assert torch.allclose(read_image(tmp_path / "twelve.tif")[0], expected, atol=2e-4)


def test_floats_must_lie_in_0_to_1(tmp_path, pixels):
    grey = pixels[..., 0].astype(np.float32) / 255
    tifffile.imwrite(tmp_path / "good.tif", grey)
    assert torch.equal(read_image(tmp_path / "good.tif")[2], torch.from_numpy(grey))
    for scale in (255, np.nan, -1):
        tifffile.imwrite(tmp_path / "bad.tif", grey * np.float32(scale))
        with pytest.raises(ValueError, match="expected an 8- or 16-bit image or 0 to 1"):
            read_image(tmp_path / "bad.tif")


def test_a_header_says_what_a_file_is(pixels):
    plain = image_header(encoded(pixels, "JPEG"), "a")
    assert (plain.width, plain.height, plain.format, plain.animated) == (120, 90, "JPEG", False)
    moving = encoded(pixels, "GIF", save_all=True, append_images=[Image.fromarray(pixels[::-1])])
    assert image_header(moving, "a").animated
    with pytest.raises(ValueError, match="cannot read a as an image"):
        image_header(b"text", "a")
