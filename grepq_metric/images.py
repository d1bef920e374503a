"""Image files to tensors."""

from __future__ import annotations

import importlib
import importlib.util
import io
import mmap
import struct
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import cv2
import numpy as np
import torch
from PIL import Image, ImageFile, UnidentifiedImageError, features
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from grepq_metric import archives, damage
from grepq_metric.errors import InputError
from grepq_metric.inputs import check_range

EXTENSIONS = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "bmp", "dib", "gif", "tif", "tiff", "webp", "avif", "jp2", "j2k"),
        *("ppm", "pgm", "pbm", "pnm"),
    )
)
"""File name endings, in lower case, of photos that are read with what is always installed."""
CAMERA_RAW = frozenset(
    f".{name}"
    for name in (
        *("3fr", "arw", "cr2", "cr3", "crw", "dng", "erf", "iiq", "kdc", "nef", "nrw", "orf", "pef", "raf", "raw"),
        *("rw2", "sr2", "srf", "srw", "x3f"),
    )
)
"""File name endings of camera raw files, which are never left to Pillow: what it finds in one is often a thumbnail."""
PLUGINS = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "pillow-heif"),
    ".jxl": "pillow-jxl-plugin",
    **dict.fromkeys(sorted(CAMERA_RAW), "rawpy"),
}
"""File name endings that are read where a package is installed, with the package."""
SEARCHED = EXTENSIONS | frozenset(PLUGINS) - {".raw"}
"""Endings that a folder search takes for photos, also where the package is not installed; ``.raw`` is many other things."""
MAX_PIXELS = 200_000_000
"""Pixels above which a photo is refused before it is decoded; also how many are read ahead at once."""

_MODULES = {"pillow-heif": "pillow_heif", "pillow-jxl-plugin": "pillow_jxl", "rawpy": "rawpy"}
_INSTALL = {"pillow-heif": '"grepq-metric[heic]"', "pillow-jxl-plugin": "pillow-jxl-plugin", "rawpy": '"grepq-metric[raw]"'}
_RAW = (b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FUJIFILMCCD-RAW", b"FOVb")  # first bytes: ORF, RW2, RAF, X3F
_REFUSED = ("EPS", "IPTC")  # Pillow has Ghostscript run the programs that the former is made of and the latter may hold
_ANIMATED = ("GIF", "PNG", "WEBP", "AVIF", "TIFF", "HEIF")  # not MPO: the second picture of a phone's JPEG is no next frame
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # views: turning takes no memory
    2: lambda plane: plane[:, ::-1],
    3: lambda plane: plane[::-1, ::-1],
    4: lambda plane: plane[::-1],
    5: lambda plane: plane.T,
    6: lambda plane: np.rot90(plane, -1),
    7: lambda plane: plane[::-1, ::-1].T,
    8: lambda plane: np.rot90(plane),
}
_TURN, _BITS, _PLANES, _DNG = 0x0112, 258, 284, 50706  # tags of EXIF and TIFF
_SRGB = (2.4, 12.92)  # power and slope near black, as LibRaw takes them; its own are those of television
_Item = TypeVar("_Item")
_T = TypeVar("_T")


class PixelLimitError(InputError):
    """A photo has more pixels than are allowed."""


@dataclass(frozen=True)
class ImageHeader:
    """What the start of an image file says.

    Attributes:
        width: in pixels, as stored: before the EXIF orientation is applied.
        height: likewise.
        format: Pillow's name of it, for example ``JPEG``.
        animated: it holds several frames or pages.
    """

    width: int
    height: int
    format: str
    animated: bool


def find_images(folder: str | Path, recursive: bool = True, extensions: frozenset[str] | None = None) -> Iterator[Path]:
    """Photos in a folder by their file name ending, sorted by name, without hidden files and folders.

    Args:
        folder: where to look.
        recursive: search its subfolders as well; links to folders are not followed.
        extensions: endings in lower case; None: `SEARCHED`.

    Raises:
        FileNotFoundError: `folder` does not exist.
        NotADirectoryError: `folder` is not a folder.
    """
    folder = Path(folder)
    extensions = SEARCHED if extensions is None else extensions
    if not folder.exists():
        raise FileNotFoundError(f"no such folder: {folder}")
    if not folder.is_dir():
        raise NotADirectoryError(f"not a folder: {folder}")
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if recursive and path.is_dir() and not path.is_symlink():
            yield from find_images(path, recursive, extensions)
        elif path.suffix.lower() in extensions and path.is_file():
            yield path


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS, allow_truncated: bool = False) -> Tensor:
    """Read a photo as RGB, upright.

    The EXIF orientation is applied; grey becomes three equal channels; transparency is dropped, as pyiqa does; of an
    animation or a multi-page file the first image is read. 16-bit PNG and TIFF files keep their precision. 32-bit integers
    have no known white and are refused, as are 16-bit RGB TIFF files in separate planes, which no library here reads
    rightly; floats must lie in [0, 1]. A file that lacks a part of its picture is refused, whatever other code has told Pillow
    and also where decoders fill the gap with grey. Colour profiles are not applied.

    HEIC and camera raw are read with packages of their own (the extras ``heic`` and ``raw``), in 8 bits. Camera raw is
    developed as LibRaw does by itself: with the white balance of the camera, in sRGB, and brightened until 1 % of the pixels
    are white, so that its exposure is not that of the camera's JPEG.

    It takes at most 16 bytes a pixel, of which 12 are the result, and the file's own size.

    Args:
        path: the file; also one within a zip or tar archive, ``archive.zip/folder/photo.jpg``.
        max_pixels: a photo with more is refused before it is decoded. WebP and icons also have Pillow's limit, 179 million.
        allow_truncated: of a file that lacks a part of its picture, take what its decoder makes of the rest, with a warning
            that names it; what is missing is grey, black or transparent.

    Returns:
        ``(3, H, W)`` float32 in [0, 1].

    Raises:
        FileNotFoundError: there is no such file.
        PixelLimitError: it has more than `max_pixels`; an `InputError`.
        InputError: the file is not an image, is damaged or is in a format that is not read; the message names it.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from grepq_metric import read_image
        >>> path = Path(tempfile.mkdtemp()) / "photo.png"
        >>> Image.new("RGB", (320, 200), "white").save(path)
        >>> read_image(path).shape
        torch.Size([3, 200, 320])
    """
    data = read_bytes(path)
    damages: list[str] | None = [] if allow_truncated else None
    planes = _planes(data, path, max_pixels, damages)
    del data  # it may be half as large as the result
    for told in damages or ():
        warnings.warn(f"{path} is read as far as it goes: {told}", stacklevel=2)
    return _as_tensor(planes, path)


def decode_image(data: bytes, name: str | Path, max_pixels: int = MAX_PIXELS, damages: list[str] | None = None) -> Tensor:
    """The content of an image file as a tensor, as `read_image` returns it.

    Args:
        data: the content.
        name: for messages.
        max_pixels: as in `read_image`.
        damages: where it is given, a file that lacks a part of its picture is read as far as it goes, and what is wrong with
            it is added to this list.

    Raises:
        PixelLimitError: it has more than `max_pixels`; an `InputError`.
        InputError: it is not an image, is damaged or is in a format that is not read.
    """
    return _as_tensor(_planes(data, name, max_pixels, damages), name)


def as_image(image: Any, name: str | Path, max_pixels: int = MAX_PIXELS) -> Tensor:
    """An image in memory as a tensor, as `read_image` returns it.

    Args:
        image: a PIL image, upright after its EXIF orientation; one that lacks a part of its file is taken as Pillow has
            decoded it, which only `read_image` can tell; an array ``(H, W, 3)`` or ``(H, W)`` of uint8; or a tensor
            ``(3, H, W)`` or ``(1, H, W)`` in [0, 1].
        name: for messages.
        max_pixels: as in `read_image`.

    Returns:
        ``(3, H, W)`` float32 in [0, 1].

    Raises:
        PixelLimitError: it has more than `max_pixels`; an `InputError`.
        InputError: it is none of these, is damaged, or its values lie outside of [0, 1].
    """
    with _named(b"", name):
        if isinstance(image, Image.Image):
            _check_size(*image.size, max_pixels)
            with _whole_files_only():
                image.load()
            return _as_tensor(_pillow_planes(image), name)
        if isinstance(image, Tensor):
            if image.ndim != 3 or image.shape[0] not in (1, 3) or 0 in image.shape or not image.is_floating_point():
                raise InputError(f"expected a tensor (3, H, W) in [0, 1], got {tuple(image.shape)} of {image.dtype}")
            _check_size(image.shape[2], image.shape[1], max_pixels)
            check_range(image)
            return image.detach().float().cpu().expand(3, -1, -1)
        if not isinstance(image, np.ndarray):
            raise InputError(f"expected a PIL image, an array (H, W, 3) or a tensor (3, H, W), got {type(image).__name__}")
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (1,), (3,)) or 0 in image.shape:
            raise InputError(f"expected an array (H, W, 3) or (H, W) of uint8, got {image.shape} of {image.dtype}")
        _check_size(image.shape[1], image.shape[0], max_pixels)
        planes = np.atleast_3d(image)
        return _as_tensor(_Planes([planes[..., channel] for channel in range(planes.shape[2])], 255), name)


def image_header(data: bytes, name: str | Path) -> ImageHeader:
    """What the content of an image file says about itself; nothing is decoded.

    Raises:
        InputError: it is not an image or is in a format that is not read; `name` is in the message.
    """
    with _named(data, name):
        if _is_raw(data, name):
            return _raw_header(data)
        with _open(io.BytesIO(data)) as image:
            kind = image.format or "unknown"
            return ImageHeader(*image.size, kind, kind in _ANIMATED and _is_animated(image))


def _is_animated(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # the second frame is damaged, and the first one is what is read
        return True


def is_url(path: object) -> bool:
    """Whether a path is one of another storage, such as ``s3://bucket/photo.jpg``."""
    return isinstance(path, str) and "://" in path


def read_bytes(path: str | Path) -> bytes:
    """The bytes of an image file, also of one within an archive, or behind a URL that fsspec knows.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it can't be read, see also `grepq_metric.archives.read_member`.
    """
    if is_url(path):
        return _fetched(str(path))
    path = Path(path)
    if not path.exists():
        if (within := archives.split(path)) is not None:
            return archives.read_member(*within)
        raise FileNotFoundError(f"no such file: {path}")
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected an image file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _fetched(url: str) -> bytes:
    # Here, since most runs need none of it.
    import fsspec

    try:
        with fsspec.open(url, "rb") as stream:
            return stream.read()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no such file: {url}") from error
    except Exception as error:  # each storage has its own: credentials, networks, a package that is missing
        raise InputError(f"cannot read {url}: {error}") from error


def read_ahead(
    paths: Iterable[_Item | None],
    ahead: int,
    read: Callable[[_Item], _T],
    max_pixels: int = MAX_PIXELS,
    threads: int = 2,
    size: Callable[[_Item], int] | None = None,
) -> Iterator[tuple[_Item, _T | Exception]]:
    """Paths with what `read` makes of them, up to `ahead` in advance in threads; a failure comes as its exception.

    They may be anything that `read` takes and whose pixels `size` knows, by default `file_pixels`.

    Photos are read ahead only while they have no more than `max_pixels` together with the one that is in use; a single larger
    one comes alone. A None among the paths says that the next one may be long in coming: what is being read comes before it.
    """

    def attempt(path: _Item) -> _T | Exception:
        try:
            return read(path)
        except Exception as error:
            return error

    size = size or file_pixels
    is_ending = sys.is_finalizing  # by then, modules are empty
    pool = ThreadPoolExecutor(threads)
    try:
        waiting: deque[tuple[_Item, Future[_T | Exception], int]] = deque()
        for path in paths:
            pixels = 0 if path is None else size(path)
            while waiting and (path is None or pixels + sum(count for _, _, count in waiting) > max_pixels):
                earlier, future, _ = waiting.popleft()
                yield earlier, future.result()
                if path is None:
                    break  # perhaps there are more now
            if path is None:
                continue
            waiting.append((path, pool.submit(attempt, path), pixels))
            if len(waiting) == ahead:
                earlier, future, _ = waiting.popleft()
                yield earlier, future.result()
        while waiting:
            earlier, future, _ = waiting.popleft()
            yield earlier, future.result()
    finally:
        if not is_ending():
            pool.shutdown(cancel_futures=True)  # who stops early, for example with Ctrl-C, does not wait for photos


def why_unreadable(suffix: str) -> str | None:
    """Why files of a name ending (in lower case) are not read and what helps; None: nothing is known against them."""
    if suffix not in PLUGINS or _installed(PLUGINS[suffix]):
        return None
    kind = "camera raw" if suffix in CAMERA_RAW else "JPEG XL" if suffix == ".jxl" else "HEIC"
    return f"{kind} needs {PLUGINS[suffix]}: pip install {_INSTALL[PLUGINS[suffix]]}"


def file_pixels(path: Any) -> int:
    """Pixels of a photo by its header; 0 if there is none, which is for the reading to say."""
    with suppress(Exception):  # also a name that is too long, or in a folder that may not be read
        path = Path(path)
        within = None
        if path.is_file():  # a pipe can be read only once
            if path.suffix.lower() not in CAMERA_RAW:
                with path.open("rb") as stream, _open(stream) as image:
                    return image.size[0] * image.size[1]
        elif (within := archives.split(path)) is None:
            return 0
        elif path.suffix.lower() not in CAMERA_RAW:
            with archives.open_member(*within) as stream, _open(stream) as image:
                return image.size[0] * image.size[1]
        header = image_header(read_bytes(path), path)
        return header.width * header.height
    return 0


def _installed(package: str) -> bool:
    return importlib.util.find_spec(_MODULES[package]) is not None


@contextmanager
def _named(data: bytes, name: str | Path) -> Iterator[None]:
    """What decoders raise, from struct.error to cv2.error, as an `InputError` that names the file."""
    why = why_unreadable(Path(name).suffix.lower())
    try:
        yield
    except InputError as error:
        raise type(error)(f"cannot read {name} as an image: {error}") from error
    except MemoryError as error:
        raise InputError(f"cannot read {name}: not enough memory") from error
    except UnidentifiedImageError as error:
        if why is None:
            why = _what_it_is(data)
        raise InputError(f"cannot read {name} as an image: {why}") from error
    except Exception as error:
        raise InputError(f"cannot read {name} as an image: {error}") from error


def _what_it_is(data: bytes) -> str:
    if not data:
        return "it is empty"
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    if brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"):
        return why_unreadable(".heic") or "damaged HEIC"
    if brand in (b"avif", b"avis"):
        return "damaged AVIF" if features.check("avif") else "this Pillow reads no AVIF: pip install --upgrade pillow"
    if data.startswith(b"PK"):
        return "it is a zip archive, or a document: name an archive as .zip"
    return "it is damaged, or in no format that Pillow reads"


def _load_plugins() -> None:
    Image.preinit()  # the common formats first: the order in which they are tried
    Image.init()
    if "HEIF" not in Image.ID and _installed("pillow-heif"):
        importlib.import_module("pillow_heif").register_heif_opener()
    if "JXL" not in Image.ID and _installed("pillow-jxl-plugin"):
        importlib.import_module("pillow_jxl")  # registers itself


def _open(stream: BinaryIO) -> ImageFile.ImageFile:
    """As `Image.open`, without Pillow's own limit, which warns and raises at other numbers of pixels than ours."""
    _load_plugins()
    prefix = stream.read(16)
    for name in (name for name in list(Image.ID) if name not in _REFUSED):
        factory, accepts = Image.OPEN[name]
        with suppress(SyntaxError, IndexError, TypeError, struct.error):  # what plugins raise for what is not theirs
            answer = accepts is None or accepts(prefix)
            if answer and not isinstance(answer, str):  # a string says what is missing to read it
                stream.seek(0)
                # Never by name: Pillow maps an uncompressed TIFF of a given name into memory, and then mixes up the sides of
                # a turned one.
                return factory(stream, "")
    raise UnidentifiedImageError("no plugin knows it")


@dataclass
class _Planes:
    """One grey or three colour planes, as OpenCV or Pillow decoded them, the value that is white, and the EXIF orientation."""

    planes: list[np.ndarray | Image.Image]
    white: int
    turn: int = 1


def _planes(data: bytes, name: str | Path, max_pixels: int, damages: list[str] | None = None) -> _Planes:
    with _named(data, name):
        if _is_raw(data, name):
            return _developed(data, max_pixels)
        if data.startswith(b"\x89PNG") and data[24:25] == b"\x10":  # the bit depth in the IHDR chunk, which is always first
            width, height = struct.unpack(">II", data[16:24])
            _check_size(width, height, max_pixels)
            return _deep(data, "PNG")
        while True:
            if damages:
                damages.clear()  # of the last try
            with _whole_files_only():
                planes = _with_pillow(data, max_pixels, damages)
                if not ImageFile.LOAD_TRUNCATED_IMAGES:  # as it was: else other code has set it meanwhile
                    return planes


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        size = f"{width} x {height} = {width * height / 1e6:.4g} megapixels"
        raise PixelLimitError(f"it has {size}, more than the limit of {max_pixels / 1e6:g}")


def _deep(data: bytes, kind: str) -> _Planes:
    """A 16-bit PNG or TIFF: Pillow would cut RGB down to 8 bits."""
    # IMREAD_ANYDEPTH keeps 16 bits, IMREAD_COLOR makes three channels and applies the orientation.
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if array is None or array.dtype != np.uint16:
        raise InputError(f"damaged 16-bit {kind}")
    return _Planes([_plane(array, channel) for channel in (2, 1, 0)], 65535)


def _is_raw(data: bytes, name: str | Path) -> bool:
    """Whether it is camera raw, by its name, its first bytes, or the tag of a DNG."""
    cr2, cr3 = data.startswith(b"II*\0") and data[8:10] == b"CR", data[4:11] == b"ftypcrx"
    return Path(name).suffix.lower() in CAMERA_RAW or data.startswith(_RAW) or cr2 or cr3 or _is_dng(data)


def _is_dng(data: bytes) -> bool:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        return False
    try:
        (at,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, at)
        return any(struct.unpack_from(f"{order}H", data, at + 2 + 12 * i)[0] == _DNG for i in range(count))
    except struct.error:  # it ends there, which is for the reading to say
        return False


@contextmanager
def _raw_file(data: bytes) -> Iterator[Any]:
    """Camera raw, opened by rawpy; nothing is decoded."""
    if (why := why_unreadable(".dng")) is not None:
        raise InputError(why)
    rawpy = importlib.import_module("rawpy")
    try:
        with rawpy.imread(io.BytesIO(data)) as raw:
            yield raw
    except rawpy.LibRawError as error:
        told = error.args[0].decode(errors="replace") if error.args and isinstance(error.args[0], bytes) else str(error)
        raise InputError(f"LibRaw says: {told}") from error


def _raw_header(data: bytes) -> ImageHeader:
    with _raw_file(data) as raw:
        width, height = raw.sizes.width, raw.sizes.height
    return ImageHeader(width, height, "RAW", False)


def _developed(data: bytes, max_pixels: int) -> _Planes:
    """Camera raw as a picture; LibRaw turns it upright."""
    with _raw_file(data) as raw:
        _check_size(max(raw.sizes.width, raw.sizes.raw_width), max(raw.sizes.height, raw.sizes.raw_height), max_pixels)
        array = raw.postprocess(use_camera_wb=True, output_bps=8, gamma=_SRGB)
    return _Planes([_plane(array, channel) for channel in range(3)], 255)


def _plane(array: np.ndarray, channel: int) -> np.ndarray:
    """A copy of one channel, in memory of its own: what is merely allocated may stay with the process when it is let go."""
    height, width = array.shape[:2]
    plane: np.ndarray = np.ndarray((height, width), array.dtype, mmap.mmap(-1, height * width * array.itemsize))
    plane[...] = array[..., channel]
    return plane


def _with_pillow(data: bytes, max_pixels: int, damages: list[str] | None) -> _Planes:
    """As Pillow decodes it. What is missing in the picture is an error, or noted in `damages`."""
    try:
        return _whole_with_pillow(data, max_pixels)
    except PixelLimitError:
        raise
    except Exception as error:
        if damages is None:
            raise
        planes = _rest_with_pillow(data, max_pixels, error)
        damages.append(str(error))
        return planes


def _rest_with_pillow(data: bytes, max_pixels: int, error: Exception) -> _Planes:
    """What Pillow makes of a file that is damaged, or else `error`."""
    try:
        ending = b"\xff\xd9" if data.startswith(b"\xff\xd8") else b""  # by which libjpeg ends with what it has
        with _open(io.BytesIO(data + ending)) as image:
            _check_size(*image.size, max_pixels)
            if image.mode == "I;16" or isinstance(image, TiffImageFile):  # OpenCV reads all or nothing; libtiff not in order
                raise error
            try:
                image.load()
            except OSError:
                image.tile = []
                image.load()
            return _pillow_planes(image)
    except Exception:
        raise error from None


def _whole_with_pillow(data: bytes, max_pixels: int) -> _Planes:
    with _open(io.BytesIO(damage.without_end(data))) as image:
        _check_size(*image.size, max_pixels)
        tags = dict(image.tag_v2) if isinstance(image, TiffImageFile) else {}
        bits = tuple(tags.get(_BITS, ()))
        if isinstance(image, TiffImageFile):
            damage.check_strips(data, image)
        if image.mode in ("RGB", "RGBA", "RGBX") and bits[:3] == (16, 16, 16):
            if tags.get(_PLANES, 1) != 1:
                raise InputError("a 16-bit RGB TIFF in separate planes: store its channels interleaved")
            return _deep(data, "TIFF")
        image.load()  # turns a TIFF upright, and removes the tag
        _check_size(*image.size, max_pixels)  # an icon tells only now
        damage.check(data, image, lambda content: _open(io.BytesIO(content)))
        return _pillow_planes(image, bits)


def _pillow_planes(image: Image.Image, bits: tuple[int, ...] = ()) -> _Planes:
    """Of an image that is loaded; `bits`: of its channels, by the tags of a TIFF."""
    # Not ImageOps.exif_transpose: it rewrites the whole EXIF block, and fails on an odd tag that does not matter here.
    turn = image.getexif().get(_TURN, 1)
    if image.mode.startswith("I;16"):
        return _Planes([image], 4095 if bits == (12,) else 65535, turn)
    if image.mode == "I":
        if image.format != "PPM":  # which Pillow scales to 16 bits
            raise InputError(
                f"{image.format} of 32-bit or signed integers, whose white is not known: expected 8 or 16 bits, or floats"
            )
        return _Planes([image], 65535, turn)
    if image.mode == "F":
        return _Planes([image], 1, turn)
    if image.mode in ("1", "L", "LA"):
        return _Planes([image.convert("L")], 255, turn)
    colours = image if image.mode in ("RGB", "RGBA", "RGBX") else image.convert("RGB")
    return _Planes([colours.getchannel(channel) for channel in range(3)], 255, turn)


def _as_tensor(decoded: _Planes, name: str | Path) -> Tensor:
    """Plane by plane: each is let go before the next is converted, so that memory stays near that of the result."""
    planes, channel, upright = decoded.planes, 0, _UPRIGHT.get(decoded.turn, np.asarray)
    width, height = planes[0].size if isinstance(planes[0], Image.Image) else planes[0].shape[::-1]
    if decoded.turn in (5, 6, 7, 8):
        width, height = height, width
    try:
        out = torch.empty(3, height, width)
    except RuntimeError as error:  # torch's way of running out of memory
        raise InputError(f"cannot read {name}: not enough memory for {width} x {height} pixels") from error
    values = out.numpy()
    while planes:
        plane = upright(np.asarray(planes.pop(0)))
        np.divide(plane, np.float32(decoded.white), out=values[channel], casting="same_kind")
        channel += 1
    if decoded.white == 1 and not (values[0].min() >= 0 and values[0].max() <= 1):  # NaN is neither
        raise InputError(
            f"{name} holds values from {values[0].min():g} to {values[0].max():g}, expected an 8- or 16-bit image or 0 to 1"
        )
    if channel == 1:
        values[1:] = values[0]
    return out


_thread = threading.local()


class _TruncatedElsewhere(int):
    """Pillow's LOAD_TRUNCATED_IMAGES where other code has set it: true for them, false in a thread that reads for us."""

    def __bool__(self) -> bool:
        return not getattr(_thread, "reading", False)


@contextmanager
def _whole_files_only() -> Iterator[None]:
    """Have Pillow refuse truncated files in this thread. Other threads' reading stays as they want it, without a lock."""
    _thread.reading = True
    try:
        if ImageFile.LOAD_TRUNCATED_IMAGES:
            ImageFile.LOAD_TRUNCATED_IMAGES = _TruncatedElsewhere(1)  # type: ignore[assignment]
        yield
    finally:
        _thread.reading = False
