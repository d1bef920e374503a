"""Promises of what studies leave: reports that can be read again, and scores that survive a stopped run."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.studies import reporting
from benchmarks.studies.opinions import read_opinions, read_scores, score_all
from benchmarks.studies.reporting import Report, measured, read_report, read_rows, write_report, write_rows

REPORT = Report("study", "python -m x", "2026-11-22", "w-1", {"name": "photos", "images": 3}, [{"a": 1 / 3, "b": "ü", "c": 2}])


def test_a_report_reads_back_with_full_precision_and_keeps_the_agreed_keys(tmp_path, capsys):
    write_report(REPORT, tmp_path, lambda report: [f"a is {report.rows[0]['a']:.2f}"])
    assert read_report(tmp_path, "study") == REPORT
    content = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    assert list(content) == ["schema", "study", "command", "date", "weights", "data", "rows"]
    assert content["schema"] == reporting.SCHEMA
    assert content["rows"] == REPORT.rows
    text = (tmp_path / "study.md").read_text(encoding="utf-8")
    assert text == "a is 0.33\n\n2026-11-22; w-1; photos, 3 images.\n`python -m x`\n"
    assert capsys.readouterr().out == text


def test_a_report_says_what_measured_it_and_names_no_folder_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["x", "--opinions", str(tmp_path / "data" / "biq"), "--weights", "user/name"])
    report = measured("study", "w-1", {"name": "biq", "images": 1}, [])
    assert report.command == "python -m benchmarks.studies.study --opinions data/biq --weights user/name"
    assert report.torch == torch.__version__
    assert report.threads == torch.get_num_threads()
    assert str(tmp_path) not in repr(report)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), [1], {"a": 1}])
def test_figures_are_strings_and_finite_numbers(value):
    with pytest.raises(ValueError, match=r"study: 'srcc' is .*, expected a string or a finite number"):
        replace(REPORT, rows=[{"srcc": value}])


def test_a_report_of_another_schema_or_study_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no report at .*study\.json: measure first"):
        read_report(tmp_path, "study")
    write_report(REPORT, tmp_path, lambda report: [])
    (tmp_path / "other.json").write_text((tmp_path / "study.json").read_text())
    with pytest.raises(ValueError, match="holds 'study' in schema 1, expected 'other' in schema 1"):
        read_report(tmp_path, "other")
    (tmp_path / "study.json").write_text((tmp_path / "study.json").read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(ValueError, match="holds 'study' in schema 2, expected 'study' in schema 1"):
        read_report(tmp_path, "study")


def test_rows_read_back_as_they_were_written(tmp_path):
    rows: list[reporting.Row] = [{"name": "1, 2", "n": 3, "x": 0.1 + 0.2}, {"name": "ü", "n": -4, "x": -1e-30}]
    write_rows(tmp_path / "rows.csv", rows)
    assert read_rows(tmp_path / "rows.csv", text=("name",)) == rows
    write_rows(tmp_path / "none.csv", [], columns=("name", "n"))
    assert read_rows(tmp_path / "none.csv") == []


def metric(name: str, calls: list[str], stop_at: int = 99) -> Callable[[torch.Tensor], float]:
    def score(x: torch.Tensor) -> float:
        calls.append(name)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return x.mean().item() + len(name)

    return score


def test_scores_are_kept_when_a_run_is_stopped_and_when_a_metric_is_added(photo_folder, tmp_path):
    files, table, calls = {path.stem: path for path in sorted(photo_folder.iterdir())}, tmp_path / "scores.csv", list[str]()
    with pytest.raises(KeyboardInterrupt):
        score_all({"a": metric("a", calls, stop_at=4)}, files, table)
    assert len(read_scores(table)) == 3
    score_all({"a": metric("a", calls)}, files, table)
    assert len(calls) == 4 + len(files) - 3
    before = read_scores(table)
    calls.clear()
    score_all({"bb": metric("bb", calls), "a": metric("a", calls)}, files, table)
    assert calls == ["bb"] * len(files)
    after = read_scores(table)
    assert list(after) == list(files)
    assert all(after[name]["a"] == before[name]["a"] for name in files)
    assert all(row["bb"] == pytest.approx(row["a"] + 1) for row in after.values())
    assert table.read_text().splitlines()[0] == "image,bb,a"
    assert [path.name for path in tmp_path.iterdir()] == ["scores.csv"]


def test_a_second_stop_loses_no_score_and_a_line_that_was_cut_off_is_scored_again(photo_folder, tmp_path):
    files, table, calls = {path.stem: path for path in sorted(photo_folder.iterdir())}, tmp_path / "scores.csv", list[str]()
    score_all({"a": metric("a", calls)}, files, table)
    whole = read_scores(table)
    text = table.read_text()
    table.write_text(text[:-4])  # a number with fewer digits, which would pass for another
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        score_all({"a": metric("a", calls, stop_at=1)}, files, table)
    assert len(read_scores(table)) == len(files) - 1
    score_all({"a": metric("a", [])}, files, table)
    assert read_scores(table) == whole


def test_photos_of_one_name_in_two_folders_have_scores_of_their_own(photo_folder, tmp_path):
    files = {"x/photo.png": photo_folder / "cat.png", "y/photo.png": photo_folder / "coffee.png"}
    score_all({"a": metric("a", [])}, files, tmp_path / "scores.csv")
    scores = read_scores(tmp_path / "scores.csv")
    assert scores["x/photo.png"] != scores["y/photo.png"]


def test_opinions_keep_the_order_of_their_file_on_which_halves_depend(photo_folder, tmp_path):
    names = ["rocket.png", "cat.png", "coffee.png"]
    for name in names:
        (tmp_path / name).write_bytes((photo_folder / name).read_bytes())
    with (tmp_path / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("image", "mos"), *zip(names, (0.3, 0.1, 0.2), strict=True)])
    opinions = read_opinions(tmp_path)
    assert list(opinions.files.items()) == [(name, tmp_path / name) for name in names]
    assert np.array_equal(opinions.mos, [0.3, 0.1, 0.2])
    assert opinions.name == tmp_path.name
    assert opinions.id.startswith(f"{tmp_path.name}-")
    (tmp_path / "cat.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 3 images are missing, for example cat\.png"):
        read_opinions(tmp_path)


def test_what_measuring_needs_is_asked_for_and_reporting_needs_only_the_folder(tmp_path, capsys):
    parser = reporting.study_parser("")
    parser.add_argument("--opinions", type=Path)
    out = ["--out", str(tmp_path)]
    assert reporting.parse(parser, [*out, "--report-only"], needed=("opinions",)).opinions is None
    with pytest.raises(SystemExit):
        reporting.parse(parser, out, needed=("opinions",))
    assert "the following arguments are required: --opinions" in capsys.readouterr().err
