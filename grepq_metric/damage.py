"""What decoders conceal: image files that lack a part of their picture, and are decoded all the same."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from PIL import ImageChops
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from grepq_metric.errors import InputError

MOST_SCANS = 100
"""Of a JPEG, ten times what programs write; a hostile one of a few kilobytes would take hours."""
_END_OF_IMAGE = b"\xff\xd9"
_END_OF_SCAN = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2  # frames in Huffman codes
_FRAMES = frozenset(bytes([code]) for code in range(0xC0, 0xD0)) - {b"\xc4", b"\xc8", b"\xcc"}
_WITHOUT_SIZE = frozenset(bytes([code]) for code in (0x00, 0x01, *range(0xD0, 0xD9)))
_ONES = b"\xff\0" * 8  # what libjpeg reads ahead at most; no code is all ones, so that it ends no block
_OTHERS = bytes(range(1, 33))  # not zeros, which libjpeg takes itself where there is nothing
_PIECE = 1 << 20
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # a pixel of PNG, by its colour type
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_STRIPS, _TILES, _COMPRESSION, _JPEG = (273, 279), (324, 325), 259, 7  # tags of TIFF: places and sizes; one of its methods


class MissingPartError(InputError):
    """A part of the picture is missing in the file."""


@dataclass(frozen=True)
class _Scan:
    """A scan of a JPEG.

    Attributes:
        frame: kind of its frame.
        components: of the picture.
        parts: components and frequencies that it holds, with the number of bits that are left to later scans.
        restarts: markers that must be among its codes.
        start: of its codes in the file; `end` likewise.
    """

    frame: int
    components: int
    parts: dict[tuple[int, int], int]
    restarts: int
    start: int
    end: int


def without_end(data: bytes) -> bytes:
    """The content of an image file as Pillow notices where it lacks a part, which it does of a JPEG without an end marker.

    libjpeg takes an end marker for the end of the picture, wherever it comes, and makes the rest grey. Without the marker it
    asks for more, and Pillow says that there is none. Of a JPEG with several scans or restarts, and of other formats, the
    content comes back as it is: see `check`.

    Raises:
        InputError: it is a JPEG of more than `MOST_SCANS`.
    """
    scans = list(islice(_scans(data), MOST_SCANS + 1)) if data.startswith(b"\xff\xd8") else []
    if len(scans) > MOST_SCANS:
        raise InputError(f"a JPEG of more than {MOST_SCANS} scans, each of which takes the time of the whole picture")
    return data[: scans[0].end] + _ONES if scans and _is_plain(scans[0]) else data


def check(data: bytes, image: ImageFile, again: Callable[[bytes], ImageFile]) -> None:
    """Look for a part of the picture that is missing, and that its decoder did not miss.

    Args:
        data: content of the file.
        image: loaded from `without_end` of it.
        again: opens content as an image.

    Raises:
        MissingPartError: there is one.
    """
    if image.format in ("JPEG", "MPO"):
        _check_jpeg(data, image, again)
    elif image.format == "PNG":
        _check_png(data, image)
    elif image.format == "JPEG2000" and data.rfind(_END_OF_IMAGE) < max(data.rfind(b"\xff\x93"), 0):
        raise MissingPartError("its codestream has no end")


def check_strips(data: bytes, image: TiffImageFile) -> None:
    """Look for strips or tiles of a TIFF that are not there, before it is loaded.

    Raises:
        MissingPartError: there is one.
    """
    for offsets, sizes in (_STRIPS, _TILES):
        for at, size in zip(image.tag_v2.get(offsets, ()), image.tag_v2.get(sizes, ()), strict=False):
            if at < 8:  # within the header: other programs write 0 for what is not there
                raise MissingPartError("one of its strips or tiles is not there")
            if image.tag_v2.get(_COMPRESSION) == _JPEG and not data[at : at + size].rstrip(b"\0").endswith(_END_OF_IMAGE):
                raise MissingPartError("the JPEG of one of its strips or tiles has no end")


def _is_plain(scan: _Scan) -> bool:
    return scan.frame in _SEQUENTIAL and len(scan.parts) == 64 * scan.components and not scan.restarts


def _scans(data: bytes) -> Iterator[_Scan]:
    """Scans of a JPEG that have an end; nothing follows where it is damaged, which is for the decoder to say."""
    at, frame, interval = 2, b"", 0
    while (at := data.find(b"\xff", at)) >= 0:
        while data[at : at + 1] == b"\xff":
            at += 1
        code, size = data[at : at + 1], int.from_bytes(data[at + 1 : at + 3], "big")
        if code in (b"\xd9", b""):
            return
        if code in _WITHOUT_SIZE:
            continue
        segment = data[at : at + 1 + size]
        at += 1 + size
        if code in _FRAMES:
            frame = segment
        elif code == b"\xdd":
            interval = int.from_bytes(segment[3:5], "big")
        elif code == b"\xda":
            found = _END_OF_SCAN.search(data, at)
            if found is None or len(frame) < 9 or len(frame) < 9 + 3 * frame[8] or len(segment) < 7 + 2 * segment[3]:
                return
            if len(set(frame[9 : 9 + 3 * frame[8] : 3])) < frame[8]:
                return  # components of one name, which libjpeg gives names of its own
            components, (first, last, bits) = segment[4 : 4 + 2 * segment[3] : 2], segment[4 + 2 * segment[3] :][:3]
            if frame[0] != _PROGRESSIVE:
                first, last, bits = 0, 63, 0  # whatever it says: libjpeg does not mind
            parts = {(one, which): bits & 15 for one in components for which in range(first, min(last, 63) + 1)}
            restarts = max(0, -(-_units(frame, segment) // interval) - 1) if interval else 0
            yield _Scan(frame[0], frame[8], parts, restarts, at, found.start())
            at = found.start()


def _units(frame: bytes, scan: bytes) -> int:
    """Number of MCUs of a scan."""
    height, width = int.from_bytes(frame[4:6], "big"), int.from_bytes(frame[6:8], "big")
    samples = {frame[i]: (frame[i + 1] >> 4, frame[i + 1] & 15) for i in range(9, 9 + 3 * frame[8], 3)}
    most = [max(1, *(factor[i] for factor in samples.values()), 1) for i in (0, 1)]
    if scan[3] > 1:
        return -(-width // (8 * most[0])) * -(-height // (8 * most[1]))
    own = samples.get(scan[4], (1, 1))
    columns, rows = (-(-side * factor // largest) for side, factor, largest in zip((width, height), own, most, strict=True))
    return -(-columns // 8) * -(-rows // 8)


def _check_jpeg(data: bytes, image: ImageFile, again: Callable[[bytes], ImageFile]) -> None:
    """Decode it a second time with further codes at the end of each part: of a whole one they are passed over."""
    scans = list(_scans(data))
    if not scans or scans[0].frame not in (*_SEQUENTIAL, _PROGRESSIVE):
        return  # of arithmetic codes, the last ones may be left out
    left = {part: bits for scan in scans for part, bits in scan.parts.items()}
    if any(left.values()) or len(left) < 64 * scans[0].components:
        raise MissingPartError("its last scans are missing")
    parts, done = [], 0
    for scan in scans:
        codes = data[scan.start : scan.end]
        restarts = bytes(found[0][1] for found in _RESTART.finditer(codes))
        order = (bytes(range(0xD0, 0xD8)) * (len(restarts) // 8 + 1))[: len(restarts)]
        if restarts != order or len(restarts) not in (scan.restarts, scan.restarts + 1):  # some end with one
            raise MissingPartError("parts of its picture are missing, or lie in another order")
        parts += [data[done : scan.start], _RESTART.sub(lambda found: _OTHERS + found[0], codes), _OTHERS]
        done = scan.end
    if _is_plain(scans[0]):
        return
    with again(b"".join([*parts, data[done:]])) as other:
        other.load()
        if ImageChops.difference(image, other).getbbox(alpha_only=False) is not None:
            raise MissingPartError("the end of its picture, or of a part of it, is missing")


def _check_png(data: bytes, image: ImageFile) -> None:
    """Count its bytes, if its last pixel is as Pillow leaves what is not there."""
    width, height = image.size
    depth, colours, interlaced = data[24], data[25], data[28]
    corner = image.getpixel((width - 1, height - 1))
    if not interlaced and any(corner if isinstance(corner, tuple) else (corner,)):
        return
    bits = depth * _SAMPLES[colours]
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = ((-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes)
    missing = sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0 and rows > 0)
    inflate = zlib.decompressobj()
    for piece in _pieces(data):
        while piece and missing > 0:
            missing -= len(inflate.decompress(piece, _PIECE))
            piece = inflate.unconsumed_tail
    if missing > 0 and missing > len(inflate.flush()):
        raise MissingPartError("the last rows of its picture are missing")


def _pieces(data: bytes) -> Iterator[bytes]:
    """Contents of the chunks IDAT of a PNG."""
    at = 8
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IDAT":
            yield data[at + 8 : at + 8 + size]
        at += 12 + size
