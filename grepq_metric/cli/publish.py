"""``grepq publish``: a weights folder to the Hugging Face Hub, with a model card."""

from __future__ import annotations

from pathlib import Path

import typer

EPILOG = """\
**Examples**

`grepq publish mine --repo me/grepq-mine --private` uploads the weights folder `mine`.

`grepq publish mine --repo me/grepq-mine --terms photos.csv --results results.md` also says in the model card what the
photos and the results were.
"""


def publish(
    folder: Path = typer.Argument(..., help="Weights folder."),
    repo: str = typer.Option(..., help="Repository on the Hub, user/name; created if it does not exist."),
    terms: list[Path] = typer.Option([], help="CSV of the training photos with columns `set` and `terms`, for the card."),
    results: list[Path] = typer.Option([], help="Markdown file with measured results and their commands, for the card."),
    private: bool = typer.Option(False, help="Make a new repository private."),
    revision: str = typer.Option(None, help="Branch to write to. Default: main."),
) -> None:
    """Upload weights with a model card: what they are, trained how and on what, terms of the data, results, limits.

    Prints where they are, and the catalog's entry: tag, commit and SHA-256. A tag that is in use for other files is refused.
    The token is that of `hf auth login` or HF_TOKEN. A README.md in the folder that you have written goes in the card's place.
    """
    from grepq_metric.models import load_model
    from grepq_metric.weights import CARD
    from grepq_metric.weights.publish import as_source, publish

    model = load_model(folder)
    card = folder / CARD if (folder / CARD).exists() else None
    found = publish(model, repo, card=card, terms=terms, results=results, private=private, revision=revision)
    typer.echo(found.address)
    typer.echo(f"    {as_source(found.entry, '    ')},")
    typer.echo(f"tag {found.entry.tag}; with this entry in ENTRIES of grepq_metric/catalog.py it is a built-in one", err=True)
