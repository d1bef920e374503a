"""Photos within zip and tar archives, which are read without unpacking: ``archive.zip/folder/photo.jpg``."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import posixpath
import re
import stat
import struct
import tarfile
import threading
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from grepq_metric.errors import InputError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
"""Endings of files that are taken for archives."""
LARGEST = 1_000_000_000
"""Bytes above which a photo within an archive is not read, by the size that the archive states; no more than that is read."""

_COMPRESSED: dict[bytes, Callable[[Any], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
    OverflowError,
    IndexError,
    struct.error,
)
_WITHIN = re.compile("|".join(re.escape(suffix) + r"[/\\]" for suffix in SUFFIXES), re.IGNORECASE)
_OPEN = 4  # archives at once
_PASSED, _PASSED_BYTES = 40, 256_000_000  # of a compressed tar: what other threads may ask for yet


def is_archive(path: str | Path) -> bool:
    """Whether a path is that of a file whose name ends with one of the `SUFFIXES`."""
    return str(path).lower().endswith(SUFFIXES) and os.path.isfile(path)


def split(path: str | Path) -> tuple[Path, str] | None:
    """The archive and the name within it, of a path that leads into one; None for others."""
    text = str(path)
    for found in _WITHIN.finditer(text):
        archive = text[: found.end() - 1]
        if os.path.isfile(archive):
            return Path(archive), _plain(text[found.end() :])
    return None


def members(archive: str | Path) -> Iterator[str]:
    """Names of the files in an archive, in its order; folders, links and devices are left out.

    Names that lead out of the archive, as ``../photo.jpg`` does, are among them, and can't be read.

    Raises:
        InputError: it is damaged; names before the damage have come by then.
        OSError: it can't be opened.

    Examples:
        >>> import tempfile, zipfile
        >>> from pathlib import Path
        >>> from grepq_metric.archives import members, read_member
        >>> path = Path(tempfile.mkdtemp()) / "photos.zip"
        >>> with zipfile.ZipFile(path, "w") as file:
        ...     file.writestr("holiday/beach.jpg", b"a photo")
        >>> list(members(path)), read_member(path, "holiday/beach.jpg")
        (['holiday/beach.jpg'], b'a photo')
    """
    archive, seen = Path(archive), set()
    with _named(archive):
        for name in _opened(archive).names():
            if name not in seen:
                seen.add(name)
                yield name


def leads_out(name: str) -> bool:
    """Whether the name of a member is no path below the archive."""
    return "\0" in name or _plain(name).split("/")[0] in ("", "..")


def read_member(archive: str | Path, name: str) -> bytes:
    """The content of a file in an archive.

    Raises:
        FileNotFoundError: there is none of this name.
        InputError: it is encrypted, larger than `LARGEST`, damaged, or its name leads out of the archive.
    """
    archive = Path(archive)
    with _named(archive, name):
        if leads_out(name):
            raise InputError("its name leads out of the archive")
        return _opened(archive).read(_plain(name))


@contextmanager
def open_member(archive: str | Path, name: str) -> Iterator[BinaryIO]:
    """A file in an archive as a stream, of which a header costs no more than itself where the archive allows it.

    Raises as `read_member`.
    """
    archive = Path(archive)
    with _named(archive, name):
        found = _opened(archive)
        direct = found.open(_plain(name)) if isinstance(found, _Zip) and not leads_out(name) else None
    with cast(BinaryIO, direct) if direct is not None else io.BytesIO(read_member(archive, name)) as stream:
        yield stream


def _plain(name: str) -> str:
    """A name as it is in rows; some programs write backslashes."""
    return posixpath.normpath(name.replace("\\", "/")) if name else name


@contextmanager
def _named(archive: Path, name: str | None = None) -> Iterator[None]:
    """What the readers raise, as an `InputError` that names archive and photo."""
    what = f"{archive}/{name}" if name is not None else str(archive)
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no such file: {what}") from error
    except InputError as error:
        raise InputError(f"cannot read {what}: {error}") from error
    except PermissionError as error:
        raise InputError(f"cannot read {archive}: {error.strerror}") from error
    except (*_DAMAGE, RuntimeError) as error:  # zipfile's RuntimeError: it is encrypted
        told = str(error) or type(error).__name__
        raise InputError(f"cannot read {what}: the archive is damaged, or of a kind that is not read ({told})") from error


def _check_size(size: int) -> None:
    if size > LARGEST:
        raise InputError(f"it has {size / 1e6:,.0f} MB by the archive, more than the limit of {LARGEST / 1e6:,.0f}")


class _Zip:
    """Random access by the directory at its end. Threads may share it."""

    def __init__(self, archive: Path) -> None:
        self._file = zipfile.ZipFile(archive)
        self._infos = {
            _plain(info.filename): info
            for info in self._file.infolist()
            if info.filename and not info.is_dir() and not stat.S_ISLNK(info.external_attr >> 16)
        }

    def names(self) -> Iterator[str]:
        yield from self._infos

    def open(self, name: str) -> IO[bytes]:
        info = self._infos.get(name)
        if info is None:
            raise FileNotFoundError(name)
        if info.flag_bits & 1:
            raise InputError("it is encrypted: unpack it")
        _check_size(info.file_size)
        return self._file.open(info)

    def read(self, name: str) -> bytes:
        with self.open(name) as stream:
            data = stream.read(self._infos[name].file_size)
            stream.read(1)  # the end, at which its checksum is compared
        if len(data) != self._infos[name].file_size:
            raise EOFError(f"{len(data)} of {self._infos[name].file_size} bytes")
        return data


class _Bounded:
    """A stream for tarfile, whose own headers state how much it reads at once."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.seek, self.tell, self.close = stream.seek, stream.tell, stream.close

    def read(self, size: int) -> bytes:
        if not 0 <= size <= LARGEST + tarfile.BLOCKSIZE:
            raise InputError(f"a header or a file in it states {size:,} bytes, more than the limit of {LARGEST:,}")
        return cast(bytes, self.stream.read(size))


class _TarPass:
    """One pass over a tar, from its beginning to its end."""

    def __init__(self, archive: Path) -> None:
        with archive.open("rb") as stream:
            start = stream.read(6)
        opener = next((opener for magic, opener in _COMPRESSED.items() if start.startswith(magic)), None)
        self._stream = _Bounded(archive.open("rb") if opener is None else opener(archive))
        self._tar: tarfile.TarFile | None = None

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        """Its files; each can be read until the next one comes."""
        self._tar = tarfile.TarFile(fileobj=cast(Any, self._stream))
        while (info := self._tar.next()) is not None:
            self._tar.members = []  # type: ignore[attr-defined]  # or it would remember them all
            if info.isreg() and not info.issparse():
                yield info
        # tarfile takes a header that is damaged for the end.
        self._stream.seek(self._tar.offset)
        if self._stream.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError("bad header")

    def read(self, info: tarfile.TarInfo) -> bytes:
        _check_size(info.size)
        self._stream.seek(info.offset_data)
        data = self._stream.read(info.size)
        if len(data) != info.size:
            raise EOFError(f"{len(data)} of {info.size} bytes")
        return data

    def close(self) -> None:
        self._stream.close()


class _Tar:
    """A tar as it is: the places of its files are found once."""

    def __init__(self, archive: Path) -> None:
        self._archive = archive
        self._places: dict[str, tuple[int, int]] = {}
        self._damage: Exception | None = None
        files = _TarPass(archive)
        try:
            for info in files:
                self._places.setdefault(_plain(info.name), (info.offset_data, info.size))
        except (*_DAMAGE, InputError) as error:
            self._damage = error
        finally:
            files.close()

    def names(self) -> Iterator[str]:
        yield from self._places
        if self._damage is not None:
            raise self._damage

    def read(self, name: str) -> bytes:
        if name not in self._places:
            raise FileNotFoundError(name)
        place, size = self._places[name]
        _check_size(size)
        with self._archive.open("rb") as stream:
            stream.seek(place)
            data = stream.read(size)
        if len(data) != size:
            raise EOFError(f"{len(data)} of {size} bytes")
        return data


class _CompressedTar:
    """A compressed tar, which can only be read from its beginning on.

    Who asks for its files in their order reads it once: a file is looked for from where the last one was found. Files that
    were passed on the way are kept a while, since threads do not ask in order; for one that was passed long ago it begins
    anew.
    """

    def __init__(self, archive: Path) -> None:
        self._archive, self._lock = archive, threading.Lock()
        self._kept: OrderedDict[str, bytes | Exception] = OrderedDict()
        self._begin()

    def names(self) -> Iterator[str]:
        files = _TarPass(self._archive)
        try:
            for info in files:
                yield _plain(info.name)
        finally:
            files.close()

    def read(self, name: str) -> bytes:
        with self._lock:
            if name not in self._kept:
                if name in self._passed:
                    self._files.close()
                    self._begin()
                self._advance(name)
            found = self._kept[name]
        if isinstance(found, Exception):
            raise found
        return found

    def _begin(self) -> None:
        self._files = _TarPass(self._archive)
        self._walk = iter(self._files)
        self._passed: set[str] = set()
        self._damage: Exception | None = None

    def _next(self) -> tarfile.TarInfo | None:
        try:
            return next(self._walk, None)
        except (*_DAMAGE, InputError) as error:  # what lies behind it can't be reached
            self._damage = error
            raise

    def _advance(self, wanted: str) -> None:
        while (info := self._next()) is not None:
            name = _plain(info.name)
            if name in self._passed:
                continue
            self._passed.add(name)
            try:
                if name == wanted or info.size <= _PASSED_BYTES // 4:
                    self._kept[name] = self._files.read(info)
            except InputError as error:
                self._kept[name] = error
            while len(self._kept) > 1 and (len(self._kept) > _PASSED or self._bytes() > _PASSED_BYTES):
                self._kept.popitem(last=False)
            if name == wanted:
                return
        if self._damage is not None:
            raise self._damage
        raise FileNotFoundError(wanted)

    def _bytes(self) -> int:
        return sum(len(data) for data in self._kept.values() if isinstance(data, bytes))


_archives: OrderedDict[tuple[str, int, int], _Zip | _Tar | _CompressedTar] = OrderedDict()
_opening = threading.Lock()


def _opened(archive: Path) -> _Zip | _Tar | _CompressedTar:
    """An archive with what is known of it; the last few stay open."""
    found = archive.stat()
    key = (str(archive.absolute()), found.st_size, found.st_mtime_ns)
    with _opening:
        if key not in _archives:
            _archives[key] = _open(archive)
        _archives.move_to_end(key)
        while len(_archives) > _OPEN:
            _archives.popitem(last=False)  # not closed: another thread may be reading it
        return _archives[key]


def _open(archive: Path) -> _Zip | _Tar | _CompressedTar:
    if str(archive).lower().endswith(".zip"):
        return _Zip(archive)
    with archive.open("rb") as stream:
        start = stream.read(6)
    return _CompressedTar(archive) if start.startswith(tuple(_COMPRESSED)) else _Tar(archive)
