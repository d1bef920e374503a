"""``grepq compare``: how far two tables of scores agree, and where they do not."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from grepq_metric.cli.photos import identity
from grepq_metric.cli.writers import one_line, refuse_existing
from grepq_metric.errors import InputError

if TYPE_CHECKING:
    from grepq_metric.pages.agreement import Agreement, Joined

EPILOG = """\
**Examples**

`grepq compare sem.csv lite.csv` says how far two metrics agree.

`grepq compare scores.csv raters.csv --column-b mos -o page.html` also draws it, with the photos that differ most.
"""


def compare(
    first: Path = typer.Argument(..., metavar="A", help="A finished table: CSV, JSON, JSON lines or Parquet."),
    second: Path = typer.Argument(..., metavar="B", help="Another one, of the same photos; they are joined by path."),
    column: str = typer.Option("score", metavar="NAME", help="The column to compare, one of numbers."),
    column_a: str = typer.Option(None, metavar="NAME", help="That of A, where it is another one."),
    column_b: str = typer.Option(None, metavar="NAME", help="That of B."),
    most: int = typer.Option(10, min=0, metavar="N", help="List so many photos whose ranks differ most."),
    output: Path = typer.Option(
        None, "--output", "-o", metavar="FILE", help="Also write a page: all ranks, and these photos. One .html file."
    ),
    root: Path = typer.Option(
        None, metavar="DIR", help="With --output: the folder that relative paths start from. Default: the current one."
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace an existing --output; the tables never."),
) -> None:
    """Compare two tables of scores of the same photos: rank correlation, and the photos that they judge most differently."""
    if output is not None:
        if output.suffix.lower() not in (".html", ".htm"):
            raise InputError(f"--output {output} is to be a page: expected a name that ends in .html")
        if not output.parent.is_dir():
            raise FileNotFoundError(f"no such folder: {output.parent}")
        refuse_existing(output, "--output", {identity(first), identity(second)}, overwrite)
    if output is None and root is not None:
        raise InputError("--root is about the photos of a page: it needs --output")
    from grepq_metric.pages.agreement import agreement, join
    from grepq_metric.tables import read_table

    columns = (column_a or column, column_b or column)
    tables = [read_table(path, ["path", name]) for path, name in zip((first, second), columns, strict=True)]
    names = _names(first, second, columns)
    joined = join(tables, columns, [str(first), str(second)])
    found = agreement(joined.first, joined.second)
    for line in _lines(joined, found, names, found.most(most)):
        typer.echo(one_line(line))
    if output is not None:
        _write(output, joined, found, names, found.most(most), Path() if root is None else root)
        typer.secho(one_line(f"page in {output}"), err=True)


def _names(first: Path, second: Path, columns: tuple[str, str]) -> tuple[str, str]:
    """Short names of both sides that differ."""
    names = (first.stem, second.stem)
    if names[0] == names[1]:
        names = (str(first), str(second))
    if columns[0] != columns[1] or names[0] == names[1]:
        names = (f"{names[0]}: {columns[0]}", f"{names[1]}: {columns[1]}")
    return names


def _lines(joined: Joined, found: Agreement, names: tuple[str, str], most: list[int]) -> list[str]:
    left = [f"{joined.only_first} only in A", f"{joined.only_second} only in B", f"{joined.unscored} without a number"]
    told = ", ".join(text for text in left if not text.startswith("0 "))
    lines = [
        f"A is {names[0]}, B is {names[1]}",
        f"photos in both     {len(joined.paths)}" + (f" ({told})" if told else ""),
        f"SRCC               {found.srcc:.4f}, 95 % of bootstrap samples from {found.low:.4f} to {found.high:.4f}",
        f"PLCC               {found.plcc:.4f}",
        f"Kendall's tau      {found.krcc:.4f}",
        f"pairs alike        {100 * found.alike:.1f} %",
    ]
    if most:
        lines += ["", "ranks that differ most; 1 is the highest score", "  rank A  rank B         A         B  path"]
    for i in most:
        ranks = f"{found.first[i]:>8g}{found.second[i]:>8g}"
        lines.append(f"{ranks}{joined.first[i]:>10.5g}{joined.second[i]:>10.5g}  {joined.paths[i]}")
    return lines


def _write(output: Path, joined: Joined, found: Agreement, names: tuple[str, str], most: list[int], root: Path) -> None:
    from grepq_metric.files import whole_file
    from grepq_metric.pages.pictures import THUMB, jpeg, small, unreadable
    from grepq_metric.pages.template import page

    pictures: list[str | None] = []
    problems: list[str | None] = []
    for i in most:
        try:
            picture, problem = jpeg(small(root / joined.paths[i], THUMB)), None
        except (InputError, OSError, ValueError) as error:  # the photo need not be here
            picture, problem = None, unreadable(error)
        pictures.append(None if picture is None else f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}")
        problems.append(problem)
    data: dict[str, Any] = {
        "names": names,
        "paths": joined.paths,
        "values": [joined.first.tolist(), joined.second.tolist()],
        "ranks": [found.first.tolist(), found.second.tolist()],
        "most": most,
        "pictures": pictures,
        "problems": problems,
        "left": [joined.only_first, joined.only_second, joined.unscored],
        "srcc": [found.srcc, found.low, found.high],
        "plcc": found.plcc,
        "krcc": found.krcc,
        "alike": None if found.alike != found.alike else found.alike,
    }
    with whole_file(output) as part:
        part.write_text(page("compare", f"{names[0]} and {names[1]}", data), encoding="utf-8")
