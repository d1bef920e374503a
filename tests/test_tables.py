"""Promises of finished tables: whatever `grepq score` writes is read again, and what is damaged is named."""

import json

import pytest

from grepq_metric.tables import is_table, read_table

ROWS = [
    {"path": "a b.jpg", "score": 0.5, "width": 640, "error": None},
    {"path": "1.jpg", "score": None, "width": None, "error": "cannot read, sorry"},
]


def written(folder, suffix):
    path = folder / f"scores{suffix}"
    if suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        import pyarrow

        parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    elif suffix == ".csv":
        path.write_text('\ufeffpath;score;width;error\na b.jpg;0.5;640;\n1.jpg;;;"cannot read, sorry"\n')
    else:
        path.write_text(json.dumps(ROWS) if suffix == ".json" else "\n".join(map(json.dumps, ROWS)) + "\n")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet"])
def test_each_kind_is_read(suffix, tmp_path):
    path = written(tmp_path, suffix)
    assert is_table(path)
    assert read_table(path, ["path", "score"]) == ROWS
    with pytest.raises(ValueError, match="no column 'mos', it has 'path', 'score'"):
        read_table(path, ["mos"])


def test_a_folder_of_parquet_files_is_a_table(tmp_path):
    written(tmp_path, ".parquet")
    assert is_table(tmp_path)
    assert read_table(tmp_path) == ROWS


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "path,score\nx.jpg,0.1,7\n", "line 2: expected 2 fields, got 3"),
        ("a.csv", "path,score\n", "has no rows"),
        ("a.json", "[{}", "damaged"),
        ("a.json", "{}", "an array of objects"),
        ("a.jsonl", "[1]\n", "an object a line"),
        ("a.parquet", "PAR1", "damaged or no Parquet"),
        ("a.txt", "x", "no table: expected a file that ends in"),
    ],
)
def test_what_is_no_table_is_named(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no such table"):
        read_table(tmp_path / "none.csv")


def test_names_stay_text_and_words_among_numbers_too(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("path,a,b\n001,7,x\n2,1e3,2\n")
    assert read_table(path) == [{"path": "001", "a": 7, "b": "x"}, {"path": "2", "a": 1000.0, "b": "2"}]
