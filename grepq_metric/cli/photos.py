"""The photos that a command's arguments name."""

from __future__ import annotations

import glob
import os
import queue
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from grepq_metric.errors import InputError

_EXAMPLES = 3
_BLOCK = 1 << 16
_AHEAD, _MOMENT = 1000, 0.02


class PhotoArguments:
    """Photos behind paths, folders, archives, globs and ``-``, written as the user wrote them, each once.

    Args:
        arguments: as given on the command line.
        recursive: search folders with their subfolders.
        null: names on standard input end with a NUL byte, as ``find -print0`` writes them, and not with a line.

    Raises:
        InputError: standard input is closed or not asked for, and has to be read.

    Attributes:
        streamed: names come on standard input, and may still be in the making.
        problems: what is wrong with an argument that was passed on as it is, by the argument.
        repeated: second spellings of photos that were named before, with the first one; only `repeats` of them are kept.
        repeats: how many there were.
        skipped: files in the searched folders and archives that are no photos, by file name ending.
    """

    def __init__(self, arguments: Sequence[str], recursive: bool = True, null: bool = False) -> None:
        if null and "-" not in arguments:
            raise InputError("-0 is about names on standard input: it goes with -")
        if "-" in arguments and sys.stdin is None:
            raise InputError("standard input is closed: - has no names to read")
        self.arguments, self.recursive, self.null = list(arguments), recursive, null
        self.streamed = "-" in self.arguments
        self.problems: dict[str, str] = {}
        self.repeated: list[tuple[str, str]] = []
        self.repeats = 0
        self.skipped: Counter[str] = Counter()
        self._archives = False

    def __iter__(self) -> Iterator[str]:
        seen: dict[str, str] = {}
        for path in self._named():
            # Hard links are different photos: they are what copies of a data set are often made of.
            place = os.path.realpath(path)
            if place not in seen:
                seen[place] = path
                yield path
                continue
            self.repeats += 1
            if self.repeats <= _EXAMPLES:
                self.repeated.append((path, seen[place]))

    def all(self) -> list[str]:
        """All of them.

        Raises:
            InputError: there is none; the message says what was found instead.
        """
        photos = list(self)
        if not photos and self.streamed:
            raise InputError("no names of photos came on standard input")
        if all(path in self.problems for path in photos):
            raise InputError("; ".join(self.problems.values()))
        return photos

    def notes(self) -> list[str]:
        """What the user should know of what was left out, a line each."""
        lines = []
        if self.skipped:
            lines.append(f"skipped in folders{' and archives' if self._archives else ''}: {_kinds(self.skipped)}")
        if self.repeats:
            examples = ", ".join(f"{path} is {first}" for path, first in self.repeated)
            more = ", ..." if self.repeats > len(self.repeated) else ""
            lines.append(f"named more than once, scored once: {self.repeats} ({examples}{more})")
        return lines

    def _named(self) -> Iterator[str]:
        for given in self.arguments:
            if given == "-":
                yield from _from_standard_input(self.null)
            elif not os.path.lexists(given) and glob.has_magic(given):
                for found in sorted(glob.glob(given, recursive=True)) or [given]:
                    yield from self._behind(found)
            else:
                yield from self._behind(given)

    def _behind(self, given: str) -> Iterator[str]:
        from grepq_metric.archives import is_archive

        if os.path.isdir(given):
            yield from self._in_folder(given)
        elif is_archive(given):
            yield from self._in_archive(given)
        else:
            yield given

    def _in_archive(self, archive: str) -> Iterator[str]:
        """Photos in an archive, in its order, by the rules of folders."""
        from grepq_metric.archives import leads_out, members
        from grepq_metric.images import SEARCHED

        self._archives, empty, others = True, True, Counter[str]()
        try:
            for name in members(archive):
                *folders, base = name.split("/")
                if any(part.startswith(".") and part not in (".", "..") for part in (*folders, base)):
                    continue
                if folders and not self.recursive:
                    continue
                suffix = os.path.splitext(base)[1].lower()
                if suffix not in SEARCHED:
                    others[suffix] += 1
                    continue
                empty = False
                path = f"{archive}/{name}"
                if leads_out(name):
                    self.problems[path] = f"cannot read {path}: its name leads out of the archive"
                yield path
        except (InputError, OSError) as error:
            self.problems[archive] = str(error)
            yield archive
            return
        self.skipped += others
        if empty:
            self.problems[archive] = self._nothing_in(archive, others)
            yield archive

    def _in_folder(self, folder: str) -> Iterator[str]:
        from grepq_metric.images import find_images

        empty = True
        for found in find_images(folder, self.recursive):
            empty = False
            yield os.path.join(folder, found.relative_to(folder))
        skipped = _other_files(folder, self.recursive)
        self.skipped += skipped
        if empty:
            self.problems[folder] = self._nothing_in(folder, skipped)
            yield folder

    def _nothing_in(self, place: str, others: Counter[str]) -> str:
        found_instead = f", only {_kinds(others)}" if others else ""
        subfolders = "" if self.recursive else " itself; its subfolders were not searched"
        return f"no photos in {place}{subfolders}{found_instead}"


def _other_files(folder: str, recursive: bool) -> Counter[str]:
    """Files that a search for photos passes over, by name ending; hidden ones are not counted."""
    from grepq_metric.images import SEARCHED

    others: Counter[str] = Counter()
    for _, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        suffixes = (os.path.splitext(name)[1].lower() for name in files if not name.startswith("."))
        others.update(suffix for suffix in suffixes if suffix not in SEARCHED)
    return others


def _kinds(counts: Counter[str]) -> str:
    from grepq_metric.archives import SUFFIXES
    from grepq_metric.images import why_unreadable

    parts = []
    for suffix, count in sorted(counts.items(), key=lambda item: (-item[1], item[0] == "", item[0])):
        what = f"{suffix} file" if suffix else "file without an ending"
        plural = what if count == 1 else what.replace("file", "files", 1)
        why = "an archive: name it to score its photos" if suffix in SUFFIXES else why_unreadable(suffix)
        parts.append(f"{count} {plural}" + (f" ({why})" if why else ""))
    return ", ".join(parts)


def _from_standard_input(null: bool) -> Iterator[str]:
    for name in _until(b"\0") if null else _lines():
        if name:
            yield os.fsdecode(name)


def _lines() -> Iterator[bytes]:
    for line in _until(b"\n"):
        if b"\0" in line:
            raise InputError("names on standard input are separated by NUL bytes: add -0")
        yield line.rstrip(b"\r")


def _until(end: bytes) -> Iterator[bytes]:
    """What comes on standard input, cut at each `end`."""
    # What is there, and not a full block: who writes names may wait for scores. Raw, since a thread that waits in a buffer
    # holds its lock, without which Python can't exit.
    stream, rest = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer), b""
    while block := stream.read(_BLOCK):
        *names, rest = (rest + block).split(end)
        yield from names
    yield rest


def as_they_come(paths: Iterable[str]) -> Iterator[str | None]:
    """Paths that may be long in coming, drawn from in a thread, with a None whenever there was none for a moment."""
    ready: queue.Queue[tuple[str | None, BaseException | None]] = queue.Queue(_AHEAD)

    def draw() -> None:
        try:
            for path in paths:
                ready.put((path, None))
            ready.put((None, None))
        except BaseException as error:
            ready.put((None, error))

    threading.Thread(target=draw, daemon=True).start()
    while True:
        try:
            path, error = ready.get(timeout=_MOMENT)
        except queue.Empty:
            yield None
            continue
        if error is not None:
            raise error
        if path is None:
            return
        yield path


def identity(path: str | Path) -> tuple[int, int] | str:
    """What is equal for two names of one file, hard links as well; of a photo in an archive, what is of the archive."""
    try:
        found = os.stat(path)
    except OSError:
        from grepq_metric.archives import split

        within = split(path)
        return os.path.realpath(path) if within is None else identity(within[0])
    return (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(path)
