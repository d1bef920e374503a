"""Files and folders that are there as a whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place when the block ends; after an error nothing is left.

    What takes its place is on the disk before it does, so that a machine that loses power has the old file or the new one.
    Several processes may write the same file at once: each writes its own, and the last one to end stays.

    Args:
        path: the file. Its folder must exist; the path in the block has its suffix, by which libraries tell formats.

    Raises:
        OSError: it can't be written; the message names it.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from grepq_metric.files import whole_file
        >>> path = Path(tempfile.mkdtemp()) / "scores.csv"
        >>> with whole_file(path) as part:
        ...     _ = part.write_text("image,score")
        ...     path.exists()
        False
        >>> path.read_text()
        'image,score'
    """
    path = Path(path).absolute()  # which names the folder in which one stands; links and ".." keep their meaning
    part = _beside(path)
    try:
        yield part
        _to_disk(part)
        os.replace(part, path)
        _to_disk(path.parent)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """A staging folder whose files are moved into `folder` when the block ends; after an error `folder` is as it was.

    Where `folder` does not exist, it appears at once with all of its files; where it does, those of the same name go, the new
    ones come one after the other, and others stay.

    Raises:
        OSError: it can't be written; the message names it.
    """
    folder = Path(folder).absolute()
    # Inside of a folder that exists, which may be another disk's.
    staging = folder / _beside(folder).name if folder.is_dir() else _beside(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging.mkdir()
        yield staging
        files = sorted(staging.iterdir())
        for file in files:
            _to_disk(file)
        if not folder.exists():
            with suppress(OSError):  # another process was first: its files are replaced by ours
                os.rename(staging, folder)
        if staging.exists():
            folder.mkdir(exist_ok=True)
            for file in files:  # a process that is killed in between leaves too few files, and no mixture of both
                (folder / file.name).unlink(missing_ok=True)
            for file in files:
                os.replace(file, folder / file.name)
        for changed in (folder, folder.parent):
            _to_disk(changed)
    except OSError as error:
        raise disk_error(folder, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def move_file(source: str | Path, target: str | Path) -> None:
    """Move a file, also to another disk, where it is a whole copy before the first one goes.

    Raises:
        OSError: it can't be read, or the target can't be written; the file is where it was.
    """
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with whole_file(target) as part:
            shutil.copy2(source, part)
        os.unlink(source)


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with Path(path).open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def disk_error(path: str | Path, error: OSError) -> OSError:
    """An error of the same kind that names `path` and says what helps."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    advice = "free some space" if full else "check that the folder exists and its permissions"
    return type(error)(error.errno, f"cannot write {path}: {error.strerror or error}; {advice}")


def _to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, would outlast a loss of power."""
    if os.name == "nt" and path.is_dir():  # where folders can't be opened
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that knows no such thing
            raise
    finally:
        os.close(descriptor)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.stem[:40]}-{uuid.uuid4().hex[:8]}.part{path.suffix}")
