"""``grepq info``: what is installed, and what weights and heads are."""

from __future__ import annotations

import json
import platform

import typer

from grepq_metric import catalog
from grepq_metric.cli.writers import one_line

EPILOG = """\
**Examples**

`grepq info` lists what is built in.

`grepq info grepq-sem` tells where these weights come from.

`grepq info mos.safetensors` describes a head of `grepq fit`, `grepq info biq2021` the one that is built in.
"""


def info(
    weights: str = typer.Argument(
        None,
        metavar="[WHAT]",
        help="A built-in name or tag, a weights folder, a Hub repository, or a head: what `grepq fit` learned from ratings.",
    ),
) -> None:
    """Show versions and the built-in weights, or what given weights or a head are and where they come from.

    A tag names one set of values for ever; a name means its newest tag.
    """
    from grepq_metric.heads import describe, is_head

    if weights is None:
        _installed()
    elif is_head(weights):
        entry = catalog.find_head(weights)
        origin = {} if entry is None else {"source": entry.source, "licence": entry.licence}
        typer.echo(json.dumps({**describe(weights), **origin}, indent=2))
    else:
        from grepq_metric.models import load_model

        model = load_model(weights)
        typer.echo(model.weights_id)
        typer.echo(json.dumps({**({"note": model.note} if model.note else {}), **model.config}, indent=2))


def _range(entry: catalog.Entry) -> str:
    low, high = entry.score_range
    return f"{' + '.join(entry.pathways)} pathway, scores from {low:g} to {high:g}, higher is better"


def _installed() -> None:
    import torch

    from grepq_metric import __version__
    from grepq_metric.weights.authors import remembered

    devices = "cpu" + (f", {torch.cuda.device_count()} CUDA" if torch.cuda.is_available() else "")
    typer.echo(f"grepq {__version__}, torch {torch.__version__}, Python {platform.python_version()}, devices: {devices}")
    for entry in catalog.ENTRIES:
        download = f"downloads {entry.download / 1e6:.0f} MB at first use" if entry.download else "no download"
        older = "" if catalog.find(entry.name) is entry else " (there is a newer one)"
        typer.echo(f"\n{entry.name}, tag {entry.tag}{older}")
        typer.echo(f"    {entry.source}; {download}; licence {entry.licence}")
        typer.echo(f"    {_range(entry)}")
        if entry.note:
            typer.echo(f"    Note: {entry.note}")
    converted = remembered()
    if converted is not None:
        entry = catalog.AUTHORS
        typer.echo(f"\n{entry.name}, here {converted.weights_id}")
        gone = "" if converted.folder.is_dir() else ", which is not there any more: `grepq convert` makes it again"
        typer.echo(f"    {entry.source}, in {one_line(converted.folder)}{gone}; licence {entry.licence}")
        typer.echo(f"    {_range(entry)}")
    for head in catalog.HEADS:
        typer.echo(f"\n{head.name}, a head of {head.metric}, for --head")
        typer.echo(f"    {head.source}; licence {head.licence}")
    typer.echo(
        "\nThe low pathway sees how sharp and clean a photo is, the semantic one how what it shows has suffered, and the high "
        "one what CLIP thinks of it. The decoder of qfm-iqm, another metric, says what people would who rated other photos. "
        f"Where no metric is named, {catalog.DEFAULT} is meant."
    )
