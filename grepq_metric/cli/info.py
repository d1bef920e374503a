"""``grepq info``: what is installed, and what weights are."""

from __future__ import annotations

import json
import platform

import typer


def info(
    weights: str = typer.Argument(None, help="A built-in name, a weights folder or a Hub repository to describe."),
) -> None:
    """Show versions and the built-in weights, or what given weights are and where they come from."""
    import torch
    from rich.console import Console
    from rich.table import Table

    from grepq_metric import __version__
    from grepq_metric.model import GRepQ
    from grepq_metric.weights import BUILT_IN

    if weights is not None:
        model = GRepQ.from_pretrained(weights)
        typer.echo(model.weights_id)
        typer.echo(json.dumps(model.config, indent=2))
        return
    devices = "cpu" + (f", {torch.cuda.device_count()} CUDA" if torch.cuda.is_available() else "")
    typer.echo(f"grepq {__version__}, torch {torch.__version__}, Python {platform.python_version()}, devices: {devices}")
    table = Table("weights", "pathways", "network", "what", "licence", box=None)
    for entry in BUILT_IN.values():
        needs = "first use" if entry.needs_hub else "never"
        table.add_row(entry.name, " + ".join(entry.pathways), needs, entry.source, entry.licence)
    Console().print(table)
