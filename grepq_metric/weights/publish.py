"""Weights to the Hugging Face Hub, with a model card."""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError

from grepq_metric.errors import InputError, WeightsError
from grepq_metric.model import GRepQ
from grepq_metric.weights import CARD, REPOSITORY


def publish(
    folder: Path,
    repo: str,
    *,
    terms: list[Path] = (),
    results: list[Path] = (),
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """Upload a weights folder, after a check that it loads.

    Args:
        folder: weights folder. A README.md in it that this package did not write is uploaded in place of a new card.
        repo: ``user/name``.
        terms: CSV files of the training photos with the columns ``set`` and ``terms``, summed up in the card.
        results: Markdown files with measured results, put into the card.
        private: make a new repository private.
        revision: branch to write to.
        token: access token; by default what ``hf auth login`` or ``HF_TOKEN`` set.

    Returns:
        Address of the commit.

    Raises:
        FileNotFoundError: a file or the folder is not there.
        ValueError: `repo` is no repository name, or a CSV file lacks a column.
        WeightsError: the folder holds no weights, or the Hub refuses them; the message says what to do.
    """
    if not REPOSITORY.fullmatch(repo):
        raise InputError(f"{repo!r} is not a repository name, expected user/name")
    for path in (*terms, *results):
        if not Path(path).is_file():
            raise FileNotFoundError(f"no such file: {path}")
    facts = {
        "terms": _terms(terms),
        "results": "\n\n".join(Path(path).read_text(encoding="utf-8").strip() for path in results),
    }
    model = GRepQ.from_pretrained(Path(folder))
    own = Path(folder) / CARD
    hub = huggingface_hub.HfApi(token=token)
    try:
        with tempfile.TemporaryDirectory(prefix="grepq-publish-") as staging:
            if own.exists():  # saving replaces it, if this package wrote it
                shutil.copy(own, staging)
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


def _terms(files: list[Path]) -> str:
    """A table of the sets of photos, their number and terms."""
    count: Counter[tuple[str, str]] = Counter()
    for path in files:
        with Path(path).open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if not {"set", "terms"} <= set(reader.fieldnames or ()):
                raise InputError(f"{path} has the columns {reader.fieldnames}, expected `set` and `terms` among them")
            count.update((row["set"], row["terms"]) for row in reader)
    if not count:
        return ""
    rows = [f"| {name} | {photos} | {terms.replace('|', '/')} |" for (name, terms), photos in sorted(count.items())]
    return "\n".join(["| set | photos | terms |", "|---|---|---|", *rows])
