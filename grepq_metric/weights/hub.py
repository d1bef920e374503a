"""Files from the Hugging Face Hub: the client's own downloads and cache, with bounded waits, checks and messages that help."""

from __future__ import annotations

import errno
import hashlib
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import huggingface_hub.constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from grepq_metric.errors import InputError, WeightsError
from grepq_metric.files import sha256

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
ADVICE = "Set HF_ENDPOINT to a mirror, pass a weights folder, or use grepq-ll, which needs no network."
ANSWER = 10.0
"""Seconds to wait for the Hub's first answer."""
STALLED = 60.0
"""Seconds in which `LEAST` bytes must come, or a download is given up: the client would wait as long as it is told."""
LEAST = 60_000
_T = TypeVar("_T")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SAFE_ETAG = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]*")


@dataclass(frozen=True)
class HubOptions:
    """Options of the Hub client, as in `GRepQ.from_pretrained`."""

    revision: str | None = None
    token: str | bool | None = None
    cache_dir: str | Path | None = None
    force_download: bool = False
    local_files_only: bool = False


def fetch(repository: str, file: str, options: HubOptions, expected: str | None = None) -> Path:
    """Download one file with the Hub client, or find it in its cache, and check its content.

    Args:
        repository: ``user/name``.
        file: name in the repository.
        options: options of the client.
        expected: SHA-256 that the content must have; by default the hash that the Hub states.

    Returns:
        The file, in a folder that is named by its commit.

    Raises:
        InputError: `repository` is no name of a repository.
        WeightsError: what went wrong, with the Hub's status, and what to do.
    """
    what = f"{file} of {repository}"
    try:
        _ask(repository, file, options)
        path = Path(bounded(lambda: _download(repository, file, options), lambda: bytes_in(_blobs(repository, options))))
    except GatedRepoError as error:
        raise WeightsError(f"{repository} is gated: ask for access on its page and set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise WeightsError(
            f"no repository {repository} on the Hub (or it is private and HF_TOKEN is not set). {ADVICE}"
        ) from error
    except RevisionNotFoundError as error:
        raise WeightsError(f"{repository} has no revision {options.revision!r}") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise WeightsError(f"cannot reach the Hub for {what}, and it is not in the cache. {ADVICE}") from error
    except EntryNotFoundError as error:
        raise WeightsError(f"{repository} has no {file}: it is not a repository of such weights") from error
    except HFValidationError as error:
        raise InputError(f"{repository!r} is not a valid repository name: {error}") from error
    except (OSError, HTTPError, RuntimeError) as error:  # which of them, depends on the client's HTTP library
        if isinstance(error, WeightsError):
            raise
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            cache = huggingface_hub.constants.HF_HUB_CACHE
            raise WeightsError(f"cannot write {cache}: {error}; free some space, or set HF_HOME to another disk") from error
        raise WeightsError(f"the download of {what} failed ({_reason(error)}). Try again. {ADVICE}") from error
    return _verified(path, what, expected)


def remove_from_cache(path: Path) -> None:
    """Remove a file that is no good, so that the next try fetches it again."""
    for damaged in {path, path.resolve()}:
        damaged.unlink(missing_ok=True)


def _ask(repository: str, file: str, options: HubOptions) -> None:
    """Ask the Hub for the file once, without the client's retries, so that an error comes at once and with its status.

    Where the Hub can't be asked but the file is in the cache, the client will find it there.
    """
    if options.local_files_only or huggingface_hub.constants.HF_HUB_OFFLINE:
        return
    kept = huggingface_hub.try_to_load_from_cache(repository, file, cache_dir=options.cache_dir, revision=options.revision)
    if isinstance(kept, str) and not options.force_download and _COMMIT.fullmatch(options.revision or ""):
        return  # a commit never changes: the client does not ask either
    url = huggingface_hub.hf_hub_url(repository, file, revision=options.revision)
    try:
        # The client's timeout is for each byte, and headers may come one by one.
        found = bounded(lambda: huggingface_hub.get_hf_file_metadata(url, token=options.token, timeout=ANSWER), lambda: 0)
        if found.commit_hash is None or found.etag is None:
            raise FileMetadataError("what answers is no Hub: a captive portal, a proxy, or a wrong HF_ENDPOINT")
        # The client makes a file name of it.
        if not _SAFE_ETAG.fullmatch(found.etag) or not _SAFE_ETAG.fullmatch(found.commit_hash):
            raise WeightsError(
                f"the Hub names {file} of {repository} by {found.etag[:80]!r}, which is no hash: do not trust it"
            )
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError):
        raise
    except (OSError, HTTPError) as error:
        if not isinstance(kept, str):
            status = getattr(getattr(error, "response", None), "status_code", None)
            problem = f"the Hub answers {status}" if status else "cannot reach the Hub"
            advice = "Check HF_TOKEN" if status in (401, 403) else "Try again"
            raise WeightsError(
                f"{problem} for {file} of {repository} ({_reason(error)}), and it is not in the cache. {advice}. {ADVICE}"
            ) from error


def _download(repository: str, file: str, options: HubOptions) -> str:
    return huggingface_hub.hf_hub_download(
        repository,
        file,
        revision=options.revision,
        token=options.token,
        cache_dir=options.cache_dir,
        force_download=options.force_download,
        local_files_only=options.local_files_only,
        etag_timeout=ANSWER,
    )


def bounded(download: Callable[[], _T], progress: Callable[[], int]) -> _T:
    """The result of `download`, or a TimeoutError where `progress`, in bytes, was less than `LEAST` in `STALLED` seconds."""
    outcome: list[_T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            outcome.append(download())
        except BaseException as error:  # raised again in the thread that waits
            failure.append(error)

    thread = threading.Thread(target=work, daemon=True)  # one that sleeps must not keep the interpreter from its end
    thread.start()
    last, since = progress(), time.monotonic()
    while thread.is_alive():
        thread.join(0.2)
        now = progress()
        if not last <= now < last + LEAST:  # less: an unfinished file was moved or begun anew
            last, since = now, time.monotonic()
        elif time.monotonic() - since > STALLED:
            raise TimeoutError(f"{'nothing' if now == last else 'next to nothing'} has come for {STALLED:g} seconds")
    if failure:
        raise failure[0]
    return outcome[0]


def bytes_in(folder: Path) -> int:
    """How many bytes the files of a folder have, unfinished ones included; 0 where there is no such folder."""
    total = 0
    for path in folder.glob("*"):
        try:
            total += path.stat().st_size
        except OSError:  # renamed meanwhile
            continue
    return total


def _blobs(repository: str, options: HubOptions) -> Path:
    """The folder of the cache with the files of a repository."""
    root = Path(options.cache_dir or huggingface_hub.constants.HF_HUB_CACHE)
    return root / f"models--{repository.replace('/', '--')}" / "blobs"


def hash_like(stated: str, path: Path) -> str | None:
    """A file's hash of the kind by which the Hub names another: SHA-256, or Git's of small files; None: it is no hash."""
    if re.fullmatch(r"[0-9a-f]{64}", stated):
        return sha256(path)
    if re.fullmatch(r"[0-9a-f]{40}", stated):
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return None


def _verified(path: Path, what: str, expected: str | None) -> Path:
    """Compare a file with the hash by which the Hub names it, or with `expected`: the client compares only the size."""
    blob = path.resolve()
    if blob.parent != path.parent and blob.parent.name != "blobs":
        raise WeightsError(f"{what} lies outside of the Hub's cache, at {blob}: delete it, and do not trust its source")
    stated = expected or blob.name
    actual = hash_like(stated, blob)
    if actual is None:  # a cache without links, as on some Windows systems, has no such name: the file is taken as it is
        return path
    if actual != stated:
        remove_from_cache(path)
        other = "is another file than the one that this release pins" if expected else "was damaged"
        raise WeightsError(
            f"{what} {other} (hash {actual}, expected {stated}) and is removed from the cache: try again. {ADVICE}"
        )
    return path


def _reason(error: BaseException) -> str:
    """The first line of an error, without the client's advice."""
    lines = str(error).strip().splitlines()
    status = getattr(getattr(error, "response", None), "status_code", None)
    text = lines[0] if lines else type(error).__name__
    return (
        text if not isinstance(error, HfHubHTTPError) or status is None or str(status) in text else f"status {status}: {text}"
    )
