"""Rows of results as a Parquet file. pyarrow loads here alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from grepq_metric.cli.writers import SCORES, SIZES, Row, as_text
from grepq_metric.errors import InputError
from grepq_metric.files import whole_file
from grepq_metric.tables import need_pyarrow

ROW_GROUP = 50_000
"""Rows in memory at once."""


def write_parquet(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Write rows, whole or not at all, in groups of `ROW_GROUP`.

    Scores are float64, sizes int32, all else is text; what a file name holds that is no text is written as an escape.

    Raises:
        OSError: it can't be written; the message names it.
    """
    parquet = need_pyarrow()
    import pyarrow

    types = {name: "float64" if name in SCORES else "int32" if name in SIZES else "string" for name in columns}
    schema = pyarrow.schema(list(types.items()))
    rows = iter(rows)
    with whole_file(path) as part, parquet.ParquetWriter(part, schema) as writer:
        while group := [
            {name: as_text(v) if isinstance(v := row[name], str) else v for name in columns} for row in islice(rows, ROW_GROUP)
        ]:
            writer.write_table(pyarrow.Table.from_pylist(group, schema))


def read_parquet(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Rows of a file, group by group.

    Raises:
        InputError: it is damaged, no Parquet file, or has other columns.
    """
    parquet = need_pyarrow()
    import pyarrow

    try:
        with parquet.ParquetFile(path) as file:
            if file.schema_arrow.names != list(columns):
                found = ",".join(file.schema_arrow.names)
                raise InputError(f"{path} has the columns {found:.200}, expected {','.join(columns)}")
            for batch in file.iter_batches(ROW_GROUP):
                yield from batch.to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise InputError(f"{path} is damaged or no Parquet file: {error}") from error
