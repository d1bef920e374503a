"""Promise: a photo file of any common kind is read upright, in RGB, in [0, 1]; what can't be read is named."""

import struct

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from grepq_metric.images import find_images, read_image


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
