"""Files of a public folder of Google Drive: gdown's own downloads, with bounded waits, checks and messages that help."""

from __future__ import annotations

import errno
import re
import threading
import zipfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path, PurePath

from tqdm import tqdm

from grepq_metric.catalog import DriveFolder
from grepq_metric.errors import InputError, WeightsError
from grepq_metric.files import sha256
from grepq_metric.weights.hub import ANSWER, STALLED, bounded, bytes_in
from grepq_metric.weights.tensors import read_tensors

RETRIES = 2
"""Of a transfer that breaks off, within one call."""
_CONNECTION = re.compile(r"^HTTPS?Connection\w*\([^)]*\): ")


@dataclass(frozen=True)
class Fetched:
    """A file that was fetched.

    Attributes:
        path: where it lies.
        address: its page.
        size: in bytes.
        sha256: of its content.
        date: on which the download ended, as in ISO 8601.
    """

    path: Path
    address: str
    size: int
    sha256: str
    date: str


def fetch_folder(source: DriveFolder, keep: Path) -> dict[str, Fetched]:
    """Fetch the files of a folder, or find those that were fetched before.

    Args:
        source: the folder.
        keep: where they go, each into a folder that is named by its id. What is there stays: whole files are not fetched
            again, and cut ones are continued.

    Returns:
        The files by their keys in `source.files`.

    Raises:
        InputError: gdown or h5py is not installed.
        WeightsError: what went wrong, and what to do.
    """
    try:
        import gdown  # noqa: F401
        import h5py  # noqa: F401
        from filelock import FileLock, Timeout
    except ImportError as error:
        raise InputError('fetching the files needs gdown and h5py: pip install "grepq-metric[convert]"') from error
    try:
        keep.mkdir(parents=True, exist_ok=True)
        with FileLock(keep / ".lock", timeout=0):
            ids = _listed(source, keep)
            return {key: _fetched(source, name, ids[name], keep / ids[name]) for key, name in source.files.items()}
    except Timeout as error:
        raise WeightsError(f"another process is fetching files to {keep}: wait until it has ended") from error
    except OSError as error:
        raise _disk_error(keep, error) from error


def _listed(source: DriveFolder, keep: Path) -> dict[str, str]:
    """Ids of the wanted files by name."""
    import gdown

    what = f"the folder {source.address}"
    try:
        files = bounded(
            lambda: gdown.download_folder(
                id=source.id, output=str(keep), quiet=True, use_cookies=False, skip_download=True, timeout=(ANSWER, STALLED)
            ),
            lambda: 0,
        )
    except gdown.DownloadError as error:
        raise WeightsError(f"Google Drive does not show {what} ({_reason(error)}): it has moved, or is private now") from error
    except Exception as error:  # gdown reads a page, and one of another form raises what it likes
        raise _unreachable(what, source, error) from error
    ids = {PurePath(file.path).name: file.id for file in files if not isinstance(file, str)}
    if missing := [name for name in source.files.values() if name not in ids]:
        shown = f"it has {', '.join(sorted(ids)[:5])}" if ids else "it shows no files"
        raise WeightsError(
            f"{what} lacks {', '.join(missing)}; {shown}: the authors have moved them, or what answers is not Google Drive "
            "but the page of a hotel's network"
        )
    return ids


def _fetched(source: DriveFolder, name: str, id_: str, folder: Path) -> Fetched:
    folder.mkdir(exist_ok=True)
    path = folder / name
    if not path.is_file():
        _download(source, id_, path)
    problem = _problem(path)
    if problem is not None:
        path.unlink()
        raise WeightsError(f"{name} came from Google Drive as {problem}, and is removed. {_help(source)}")
    ended = date.fromtimestamp(path.stat().st_ctime).isoformat()  # its other time is that of the upload
    return Fetched(path, f"https://drive.google.com/file/d/{id_}/view", path.stat().st_size, sha256(path), ended)


def _download(source: DriveFolder, id_: str, path: Path) -> None:
    """Fetch a file; of one that is cut, what is missing."""
    import gdown

    came, stop = bytes_in(path.parent), threading.Event()
    with tqdm(desc=path.name, unit="B", unit_scale=True, disable=None) as bar:

        def progress(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        def download() -> object:
            return gdown.download(
                id=id_,
                output=str(path),
                quiet=True,
                use_cookies=False,  # of the user's own browser, for what is public
                resume=True,
                progress=progress,
                timeout=(ANSWER, STALLED),
                retries=RETRIES,
                cancel=stop,
            )

        try:
            bounded(download, lambda: bytes_in(path.parent))
        except gdown.FileURLRetrievalError as error:
            raise WeightsError(_no_file(path.name, error, source)) from error
        except gdown.DownloadError as error:
            now = bytes_in(path.parent)
            if error.__cause__ is None and now == came:  # what there is of it can't be continued
                for part in path.parent.glob("*.part"):
                    part.unlink()
                now = 0
            kept = f"{now:,} bytes of it are kept, and the next try goes on with them" if now else "nothing of it is kept"
            raise WeightsError(f"the download of {path.name} broke off ({_reason(error)}); {kept}. {_help(source)}") from error
        except Exception as error:  # of the network, the disk, or a page of another form
            if isinstance(error, OSError) and (error.filename or error.errno in (errno.ENOSPC, errno.EDQUOT)):
                raise _disk_error(path.parent, error) from error
            raise _unreachable(path.name, source, error) from error
        finally:
            stop.set()


def _no_file(name: str, error: Exception, source: DriveFolder) -> str:
    """What a page says that came in place of a file and leads to none."""
    if "too many users" in " ".join(str(error).lower().split()):
        return f"Google Drive's quota of downloads of {name} is used up: try again in a day. {_help(source)}"
    why = "it has moved, is private now, or is asked for too often"
    return f"Google Drive answers with a page in place of {name}: {why}. {_help(source)}"


def _problem(path: Path) -> str | None:
    """Why a file is not the one that was sent, or None. Whether it is one that can be converted, is not looked at."""
    with path.open("rb") as stream:
        if stream.read(512).lstrip().startswith(b"<"):
            return "a page"
    try:
        if path.suffix == ".hdf5":
            import h5py

            with h5py.File(path):  # which looks at its length
                return None
        if not zipfile.is_zipfile(path):  # of PyTorch before 1.6, or cut
            read_tensors(path)
            return None
        with zipfile.ZipFile(path) as archive:
            return None if archive.testzip() is None else "a damaged file"
    except Exception:  # a damaged archive raises what it likes
        return "a damaged file"


def _unreachable(what: str, source: DriveFolder, error: Exception) -> WeightsError:
    return WeightsError(f"cannot fetch {what} from Google Drive ({_reason(error)}). {_help(source)}")


def _disk_error(folder: Path, error: OSError) -> WeightsError:
    return WeightsError(f"cannot write {folder}: {error.strerror or error}; free some space, or set HF_HOME to another disk")


def _help(source: DriveFolder) -> str:
    return f"Try again later, or fetch {', '.join(source.files.values())} of {source.address} with a browser and convert those"


def _reason(error: BaseException) -> str:
    """An error's first sentence, without gdown's advice; of the network, what it was in the end."""
    last = getattr(error.args[0], "reason", None) if error.args else None
    text = " ".join(str(last or error).split()) or type(error).__name__
    return _CONNECTION.sub("", text).partition(". ")[0].removesuffix(".")[:300]
