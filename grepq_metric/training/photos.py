"""Lists of training photos: folders, text files and WebDataset tar shards, read by position."""

from __future__ import annotations

import hashlib
import os
import tarfile
import tempfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from grepq_metric.errors import InputError
from grepq_metric.images import EXTENSIONS, decode_image, find_images

Source = str | Path
_ENTRY = np.dtype([("shard", "i4"), ("offset", "i8"), ("size", "i8"), ("name", "i8")])
_FILE = -1
_Found = tuple[str, int, int, int, str]
"""Of a photo: name, shard, offset, size, and the part of the name that does not depend on where the source lies."""


class PhotoList:
    """Photos of one or more sources, in a fixed order.

    A source is a folder (searched recursively; the tar files in it are shards), a text file with a path a line, relative to
    its own folder, or a WebDataset tar shard, whose images are read in place. Names and places lie in a temporary file that
    is mapped, not in memory, so that a million photos cost no more than a thousand.

    Args:
        sources: a folder, ``.txt`` file or ``.tar`` file, or a list of them.

    Attributes:
        sources: names of the sources, without the folders above them.
        sha256: of all names and sizes, in their order: two lists with the same photos have the same.

    Raises:
        FileNotFoundError: a source does not exist, or there is no photo in it.
        InputError: a source is of another kind, or is a damaged or compressed tar file.
    """

    def __init__(self, sources: Source | Sequence[Source]) -> None:
        given = [Path(sources)] if isinstance(sources, (str, Path)) else [Path(source) for source in sources]
        self._write([(source.resolve().name, str(source), self._scan(source)) for source in given])

    @classmethod
    def of_files(cls, files: Sequence[Path], source: str) -> PhotoList:
        """The list of some files, in their order, as one source of that name; a file may be missing."""
        self = cls.__new__(cls)
        sizes = (os.path.getsize(file) if os.path.exists(file) else 0 for file in files)
        found = ((str(file), _FILE, 0, size, file.name) for file, size in zip(files, sizes, strict=True))
        self._write([(source, source, found)])
        return self

    def _write(self, scans: Sequence[tuple[str, str, Iterator[_Found]]]) -> None:
        """Write down what sources hold: name of each, where it lies, and what is in it."""
        self._temporary = tempfile.TemporaryDirectory(prefix="grepq-photos-", ignore_cleanup_errors=True)
        self._folder = Path(self._temporary.name)
        self._shards: list[Path] = []
        self.sources = [name for name, _, _ in scans]
        self._ends: list[int] = []
        digest, total = hashlib.sha256(), 0
        with (self._folder / "entries").open("wb") as entries, (self._folder / "names").open("wb") as names:
            for _, source, scan in scans:
                count = 0
                for name, shard, offset, size, identity in scan:
                    entries.write(np.array((shard, offset, size, names.tell()), _ENTRY).tobytes())
                    names.write(f"{name}\n".encode())
                    digest.update(f"{identity}\n{size}\n".encode())
                    count += 1
                if not count:
                    raise FileNotFoundError(f"no photos in {source}")
                total += count
                self._ends.append(total)
        self.sha256 = digest.hexdigest()
        self._map()

    def _scan(self, source: Path) -> Iterator[_Found]:
        if source.is_dir():
            for path in find_images(source, recursive=True, extensions=EXTENSIONS | {".tar"}):
                if path.suffix.lower() == ".tar":
                    yield from self._scan(path)
                else:
                    yield str(path), _FILE, 0, path.stat().st_size, path.relative_to(source).as_posix()
        elif not source.exists():
            raise FileNotFoundError(f"no such folder, list or shard of photos: {source}")
        elif source.suffix.lower() == ".txt":
            with source.open(encoding="utf-8") as lines:
                for line in map(str.strip, lines):
                    if line:
                        full = os.path.join(source.parent, line)  # a Path would enter every part into the interpreter's table
                        yield full, _FILE, 0, os.path.getsize(full) if os.path.exists(full) else 0, line
        elif source.suffix.lower() == ".tar":
            shard = len(self._shards)
            self._shards.append(source.resolve())
            try:
                with tarfile.open(source, "r:") as tar:
                    for member in tar:
                        if member.isfile() and os.path.splitext(member.name)[1].lower() in EXTENSIONS:
                            identity = f"{source.name}/{member.name}"
                            yield f"{source}/{member.name}", shard, member.offset_data, member.size, identity
                        tar.members = []  # type: ignore[attr-defined]  # or it would remember them all
            except tarfile.TarError as error:
                raise InputError(f"{source} is damaged, or compressed, which allows no reading in place: {error}") from error
        else:
            raise InputError(f"{source} is no source of photos, expected a folder, a .txt list or a .tar shard")

    def _map(self) -> None:
        self._entries = np.memmap(self._folder / "entries", _ENTRY, "r")
        self._names = np.memmap(self._folder / "names", np.uint8, "r")

    def __len__(self) -> int:
        return len(self._entries)

    def name(self, i: int) -> str:
        """Where photo `i` lies: its path, or its shard's path and its name in there."""
        start = int(self._entries["name"][i])
        end = int(self._entries["name"][i + 1]) if i + 1 < len(self) else len(self._names)
        return self._names[start : end - 1].tobytes().decode()

    def source(self, i: int) -> int:
        """Position in `sources` of the one that photo `i` is of."""
        return bisect_right(self._ends, i)

    def read(self, i: int) -> bytes:
        """The file of photo `i`.

        Raises:
            InputError: it can't be read; the message names it.
        """
        shard, offset, size, _ = self._entries[i]
        try:
            if shard == _FILE:
                return Path(self.name(i)).read_bytes()
            with self._shards[shard].open("rb") as tar:
                tar.seek(offset)
                return tar.read(size)
        except OSError as error:
            raise InputError(f"cannot read {self.name(i)}: {error}") from error

    def image(self, i: int, least: int = 1) -> Tensor:
        """Photo `i` as ``(3, H, W)`` RGB in [0, 1].

        Raises:
            InputError: it can't be read, is no image or has a side below `least` pixels; the message names it.
        """
        return self.decode(i, self.read(i), least)

    def decode(self, i: int, data: bytes, least: int = 1) -> Tensor:
        """Photo `i` of its file, as for `image`."""
        image = decode_image(data, self.name(i))
        height, width = image.shape[1:]
        if min(height, width) < least:
            raise InputError(f"{self.name(i)} has {width}x{height} pixels, expected {least} or more on each side")
        return image

    def identity(self) -> dict[str, object]:
        """What the list holds, for the record of a run."""
        return {"sources": self.sources, "photos": len(self), "photos_sha256": self.sha256}

    def __getstate__(self) -> dict:
        # A worker process maps the same files; they go when the list in the main process goes.
        return {k: v for k, v in self.__dict__.items() if k not in ("_temporary", "_entries", "_names")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._map()


def photo_list(photos: PhotoList | Source | Sequence[Source]) -> PhotoList:
    """The list itself, or that of its sources; errors as in `PhotoList`."""
    return photos if isinstance(photos, PhotoList) else PhotoList(photos)


@dataclass
class Sample:
    """What a training step gets of one photo, or of a batch of them.

    Attributes:
        tensors: the sample, or None if there is an error.
        skipped: why photos were passed over for it, each with its name.
        error: why there is none. A worker process can't raise what a user would understand.
    """

    tensors: tuple[Tensor, ...] | None = None
    skipped: list[str] = field(default_factory=list)
    error: str | None = None


def collate(samples: list[Sample]) -> Sample:
    """Join samples to a batch; the first error becomes the batch's."""
    skipped = [why for sample in samples for why in sample.skipped]
    for sample in samples:
        if sample.error:
            return Sample(skipped=skipped, error=sample.error)
    return Sample(tuple(map(torch.stack, zip(*(s.tensors for s in samples), strict=True))), skipped)


class PhotoDataset(Dataset):
    """Samples of a whole training run, addressed by their position in it; each is a `Sample`.

    Sample i depends on i, the seed and the photos alone, so that a resumed run continues with the very samples that an
    uninterrupted one would have seen. In place of a photo that is damaged or too small comes the next usable one.

    Args:
        photos: the photos, in a new order for each pass.
        seed: of the orders.
    """

    tries = 20
    """Photos in a row that may be unusable."""

    def __init__(self, photos: PhotoList, seed: int) -> None:
        self.photos, self.seed = photos, seed
        self._epoch, self._order = -1, np.empty(0, int)

    def make(self, index: int, position: int) -> tuple[Tensor, ...]:
        """The sample at `position` of the run, of photo `index`.

        Raises:
            InputError: the photo can't be used; the message names it.
            OSError: the run can't go on.
        """
        raise NotImplementedError

    def __getitem__(self, position: int) -> Sample:
        epoch, rank = divmod(position, len(self.photos))
        if epoch != self._epoch:  # shuffling all photos for each sample would cost more than the sample, with many photos
            self._epoch, self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.photos))
        skipped: list[str] = []
        for step in range(min(self.tries, len(self.photos))):
            try:
                return Sample(self.make(int(self._order[(rank + step) % len(self.photos)]), position), skipped)
            except ValueError as error:
                skipped.append(str(error))
            except OSError as error:
                return Sample(skipped=skipped, error=str(error))
        return Sample(skipped=skipped, error=f"{len(skipped)} photos in a row can't be used, the last one: {skipped[-1]}")
