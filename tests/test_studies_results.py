"""Promises of the committed results: Markdown says what the data say, and nothing is in there that is not ours to give."""

from __future__ import annotations

import ast
import csv
import importlib
import json
import re
import shutil
from pathlib import Path

import pytest

from benchmarks.studies.reporting import footer, read_report

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
STUDIES = (
    "determinism",
    "few_labels",
    "fusion",
    "learning_curves",
    "loss_cost",
    "mdfs",
    "modes",
    "qfm",
    "restoration",
    "semantic_head",
    "sizes",
    "speed",
    "synthetic",
    "throughput",
    "tiny_clip",
    "training_gain",
)
FROM_FILES = ("few_labels", "learning_curves", "qfm", "restoration", "sizes", "synthetic")
"""Studies whose figures can be computed anew from what is committed alone."""
LARGEST = 100_000


@pytest.mark.parametrize("name", STUDIES)
def test_the_markdown_of_a_study_says_what_its_data_say(name):
    study, folder = importlib.import_module(f"benchmarks.studies.{name}"), RESULTS / name
    report = read_report(folder, name)
    assert report.rows
    lines = [*study.markdown(report), "", *footer(report)]
    assert (folder / f"{name}.md").read_text(encoding="utf-8").splitlines() == lines
    assert report.command.startswith(f"python -m benchmarks.studies.{name} ")


@pytest.mark.parametrize("name", FROM_FILES)
def test_a_study_reports_the_same_figures_again_from_the_committed_files(name, tmp_path):
    study, folder = importlib.import_module(f"benchmarks.studies.{name}"), tmp_path / name
    shutil.copytree(RESULTS / name, folder)
    study.main(["--report-only", "--out", str(folder)])
    old, new = (read_report(where, name) for where in (RESULTS / name, folder))
    assert len(new.rows) == len(old.rows)
    for one, other in zip(new.rows, old.rows, strict=True):
        assert one == pytest.approx(other, abs=1e-9)
    assert (folder / f"{name}.md").read_text() == (RESULTS / name / f"{name}.md").read_text()


def test_training_gain_reports_the_same_figures_again_with_the_users_copy_of_the_opinions(shared_data, tmp_path):
    from benchmarks.studies import training_gain

    folder = tmp_path / "training_gain"
    shutil.copytree(RESULTS / "training_gain", folder)
    training_gain.main(["--report-only", "--opinions", str(shared_data / "biq2021_dev"), "--out", str(folder)])
    for one, other in zip(*(read_report(f, "training_gain").rows for f in (folder, RESULTS / "training_gain")), strict=True):
        assert one == pytest.approx(other, abs=1e-9)


def test_every_study_has_results_and_a_line_on_how_to_rebuild_them():
    files = {path.stem for path in (ROOT / "benchmarks" / "studies").glob("*.py")} - {"__init__", "reporting", "opinions"}
    assert files == set(STUDIES)
    readme = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for name in STUDIES:
        assert re.search(
            rf"^python -m benchmarks\.studies\.{name} .*--out benchmarks/results/{name}$", readme, re.MULTILINE
        ), name


def committed() -> list[Path]:
    """Results, without what a run leaves and git ignores; those of the harness have tests of their own."""
    ours = (path for path in RESULTS.rglob("*") if path.is_file() and "biq2021_dev" not in path.relative_to(RESULTS).parts)
    return [path for path in ours if path.suffix != ".pt" and "run" not in path.relative_to(RESULTS).parts]


def test_no_result_names_a_folder_that_leads_upwards():
    for path in RESULTS.rglob("*.json"):
        assert "../" not in path.read_text(encoding="utf-8"), path


def test_committed_results_are_small():
    sizes = {path.relative_to(RESULTS).as_posix(): path.stat().st_size for path in committed()}
    assert sizes
    assert {name: size for name, size in sizes.items() if size > LARGEST} == {}


def test_committed_results_hold_no_opinion_scores_and_no_path_of_a_machine():
    absolute = re.compile(r"(?<![\w.>)/])(?:/|~/|[A-Z]:\\)(?:home|root|work|tmp|mnt|Users|usr|opt|data|shared)\b|\.\./shared")
    for path in committed():
        if path.suffix in (".png", ".webp"):
            continue
        text = path.read_text(encoding="utf-8")
        assert not absolute.search(text), path
        if path.suffix == ".csv":
            header = {column.lower() for column in next(csv.reader(text.splitlines()))}
            assert not header & {"mos", "dmos", "opinion", "label", "rating"}, path
        elif path.suffix == ".json":
            keys = {key for row in json.loads(text).get("rows", []) for key in row}
            assert not keys & {"mos", "dmos", "image"}, path


def test_studies_use_only_public_names_of_other_packages_and_of_each_other():
    for path in (ROOT / "benchmarks" / "studies").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not [
                    alias.name for alias in node.names if alias.name.startswith("_") and alias.name != "annotations"
                ], path
                assert not [
                    part for part in (node.module or "").split(".") if part.startswith("_") and part != "__future__"
                ], path
