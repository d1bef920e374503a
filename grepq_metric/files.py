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
        os.replace(part, path)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """A staging folder whose files are moved into `folder` when the block ends; after an error `folder` is as it was.

    Where `folder` does not exist, it appears at once with all of its files; where it does, files of the same name are replaced
    one after the other, and others stay.

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
        if not folder.exists():
            with suppress(OSError):  # another process was first: its files are replaced by ours
                os.rename(staging, folder)
        if staging.exists():
            folder.mkdir(exist_ok=True)
            for file in sorted(staging.iterdir()):
                os.replace(file, folder / file.name)
    except OSError as error:
        raise disk_error(folder, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


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


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.stem[:40]}-{uuid.uuid4().hex[:8]}.part{path.suffix}")
