"""Weights to the Hugging Face Hub, with a model card."""

from __future__ import annotations

import csv
import io
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import huggingface_hub
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
)

from grepq_metric import catalog
from grepq_metric.catalog import Entry, HubFile
from grepq_metric.errors import InputError, WeightsError
from grepq_metric.files import sha256
from grepq_metric.weights.folder import CARD, CONFIG, TENSORS
from grepq_metric.weights.hub import REPOSITORY, HubOptions, hash_like
from grepq_metric.weights.identity import weights_id
from grepq_metric.weights.read import read_weights

if TYPE_CHECKING:  # a floor above this one
    from grepq_metric.models import QualityModel


@dataclass(frozen=True)
class Published:
    """Weights on the Hub.

    Attributes:
        address: of the commit.
        entry: of the catalog; `as_source` writes it as a maintainer pastes it.
    """

    address: str
    entry: Entry


def publish(
    model: QualityModel,
    repo: str,
    *,
    card: str | Path | None = None,
    terms: Sequence[str | Path] = (),
    results: Sequence[str | Path] = (),
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
) -> Published:
    """Upload weights with a model card, under a tag that means these files for ever.

    The tag is that of the catalog, for example ``mine.8690ed2c``. Where the Hub has it for the same config and tensors,
    nothing is uploaded.

    Args:
        model: the weights.
        repo: ``user/name``.
        card: a model card; one that this package did not write is uploaded in place of a new one.
        terms: CSV files of the training photos with the columns ``set`` and ``terms``, summed up in the card.
        results: Markdown files with measured results, put into the card.
        private: make a new repository private.
        revision: branch to write to.
        token: access token; by default what ``hf auth login`` or ``HF_TOKEN`` set.

    Returns:
        Where they are, and the entry of the catalog by which their tag loads them. The Hub has the tag, too, for the commit.

    Raises:
        FileNotFoundError: a file is not there.
        InputError: `repo` is no repository name, or a CSV file lacks a column.
        WeightsError: the tag is in use for other files, the Hub refuses the weights, or it can't be reached; the message says
            what to do.
    """
    if not REPOSITORY.fullmatch(repo):
        raise InputError(f"{repo!r} is not a repository name, expected user/name")
    for path in (*terms, *results, *([] if card is None else [card])):
        if not Path(path).is_file():
            raise FileNotFoundError(f"no such file: {path}")
    facts = {
        "terms": _terms(terms),
        "results": "\n\n".join(_text(path).strip() for path in results),
    }
    hub = huggingface_hub.HfApi(token=token)
    try:
        with tempfile.TemporaryDirectory(prefix="grepq-publish-") as name:
            staging = Path(name)
            if card is not None:  # saving replaces it, if this package wrote it
                shutil.copy(card, staging / CARD)
            model.save_pretrained(staging, model_card_kwargs=facts)
            tag = _tag(model, staging)
            _check_catalog(tag, staging)
            commit = _tagged(hub, repo, tag, staging)
            if commit is None:
                hub.create_repo(repo, private=private or None, exist_ok=True)
                message = f"{model.weights_id}, by grepq publish"
                info = hub.upload_folder(repo_id=repo, folder_path=staging, revision=revision, commit_message=message)
                commit = info.oid
                hub.create_tag(repo, tag=tag, revision=commit)
            return Published(f"{hub.endpoint}/{repo}/commit/{commit}", _entry(model, tag, staging, repo, commit))
    except LocalTokenNotFoundError as error:
        raise WeightsError(f"the Hub needs a token to write to {repo}: `hf auth login`, or set HF_TOKEN") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        advice = (
            " Log in with `hf auth login` or set HF_TOKEN to a token that may write there." if status in (401, 403) else ""
        )
        raise WeightsError(f"the Hub refused {repo}: {error}.{advice}") from error
    except (OSError, HTTPError) as error:
        raise WeightsError(f"the upload to {repo} failed ({error}). Try again; nothing is lost.") from error


def as_source(value: object, indent: str = "") -> str:
    """An entry of the catalog as Python source, a field a line, without the fields that are empty."""
    inner = indent + "    "
    if isinstance(value, (Entry, HubFile)):
        found = ((field.name, getattr(value, field.name)) for field in fields(value))
        lines = [f"{inner}{name}={as_source(one, inner)},\n" for name, one in found if one]
        return f"{type(value).__name__}(\n{''.join(lines)}{indent})"
    if isinstance(value, tuple) and isinstance(value[0], HubFile):
        lines = [f"{inner}{as_source(one, inner)},\n" for one in value]
        return f"(\n{''.join(lines)}{indent})"
    return repr(value)


def _tag(model: QualityModel, folder: Path) -> str:
    """The tag of what lies in a weights folder."""
    config, tensors, _ = read_weights(folder, HubOptions())
    stored = weights_id(config, tensors)
    if stored != model.weights_id:
        raise WeightsError(f"{model.weights_id} would be stored as {stored}, in {model.storage}: save and load it first")
    return f"{model.name}.{stored.removeprefix(f'{model.name}-')}"


def _check_catalog(tag: str, folder: Path) -> None:
    """Refuse a tag that this release has for other weights."""
    entry = catalog.find(tag)
    if entry is None:
        return
    known = {file.name: file.sha256 for file in entry.hub}
    if len(entry.packaged) == len(entry.pathways) == 1:  # not joined of several files
        known[TENSORS] = entry.packaged[0].sha256
    if not known or any(sha256(folder / name) != digest for name, digest in known.items()):
        raise WeightsError(f"{tag} is a tag of this release, for other files: give the weights another name")


def _tagged(hub: huggingface_hub.HfApi, repo: str, tag: str, folder: Path) -> str | None:
    """The commit that has a tag on the Hub; None: there is no such tag.

    Raises:
        WeightsError: its files are not those in `folder`.
    """
    try:
        if tag not in (ref.name for ref in hub.list_repo_refs(repo).tags):
            return None
    except RepositoryNotFoundError:
        return None
    commit = None
    for name in (CONFIG, TENSORS):
        try:
            found = hub.get_hf_file_metadata(url=huggingface_hub.hf_hub_url(repo, name, revision=tag))
            etag, commit = found.etag, found.commit_hash
        except EntryNotFoundError:
            etag = None
        if etag is None or hash_like(etag, folder / name) != etag:
            raise WeightsError(
                f"{repo} has the tag {tag} with another {name}, and a tag means the same files for ever: nothing was "
                "uploaded. Give the weights another name"
            )
    return commit


def _entry(model: QualityModel, tag: str, folder: Path, repo: str, commit: str) -> Entry:
    """The entry of a weights folder that is a commit on the Hub."""
    licence = str(
        huggingface_hub.ModelCard.load(folder / CARD, ignore_metadata_errors=True).data.get("license") or "not stated"
    )
    paths = [folder / name for name in (CONFIG, TENSORS)]
    return Entry(
        name=model.name,
        tag=tag,
        pathways=model.pathways,
        score_range=(0.0, model.best),
        source=f"{repo} on the Hub" + (f"; {catalog.PLAIN_CLIP}" if model.note else ""),
        licence=licence,
        date=datetime.now(timezone.utc).date().isoformat(),
        hub=tuple(HubFile(repo, path.name, commit, sha256(path), path.stat().st_size, licence) for path in paths),
    )


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8: {error}") from error


def _terms(files: Sequence[str | Path]) -> str:
    """A table of the sets of photos, their number and terms."""
    count: Counter[tuple[str, str]] = Counter()
    for path in files:
        reader = csv.DictReader(io.StringIO(_text(path), newline=""))
        if not {"set", "terms"} <= set(reader.fieldnames or ()):
            raise InputError(f"{path} has the columns {reader.fieldnames}, expected `set` and `terms` among them")
        count.update((row["set"] or "", row["terms"] or "") for row in reader)
    if not count:
        return ""
    rows = [f"| {name} | {photos} | {terms.replace('|', '/')} |" for (name, terms), photos in sorted(count.items())]
    return "\n".join(["| set | photos | terms |", "|---|---|---|", *rows])
