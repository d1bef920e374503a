"""Weights to the Hugging Face Hub, with a model card."""

from __future__ import annotations

import csv
import io
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError

from grepq_metric.errors import InputError, WeightsError
from grepq_metric.weights.folder import CARD
from grepq_metric.weights.hub import REPOSITORY

if TYPE_CHECKING:  # a floor above this one
    from grepq_metric.models import QualityModel


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
) -> str:
    """Upload weights with a model card.

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
        Address of the commit.

    Raises:
        FileNotFoundError: a file is not there.
        InputError: `repo` is no repository name, or a CSV file lacks a column.
        WeightsError: the Hub refuses the weights, or can't be reached; the message says what to do.
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
        with tempfile.TemporaryDirectory(prefix="grepq-publish-") as staging:
            if card is not None:  # saving replaces it, if this package wrote it
                shutil.copy(card, Path(staging) / CARD)
            model.save_pretrained(staging, model_card_kwargs=facts)
            hub.create_repo(repo, private=private or None, exist_ok=True)
            message = f"{model.weights_id}, by grepq publish"
            info = hub.upload_folder(repo_id=repo, folder_path=staging, revision=revision, commit_message=message)
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
    return str(info)


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
