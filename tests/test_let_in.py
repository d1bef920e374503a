"""Promise: nothing that is read runs code, leads out of its folder, or is markup, a formula or a command where it is shown."""

from __future__ import annotations

import ast
import csv
import json
import pickle
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.harness import results
from benchmarks.harness.report.page import PLACE, TEMPLATE, render
from grepq_metric import GRepQ, GRepQRegressor, InputError, WeightsError
from grepq_metric.heads import headfile
from grepq_metric.heads.features import photo_features
from grepq_metric.heads.labels import RatingSheet, read_labels, write_sheet
from grepq_metric.pages.gallery import write_gallery
from grepq_metric.tables import path_cell, read_table, text_cell
from grepq_metric.weights import packaged_folder
from tests.command import grepq
from tests.hostile import ENDING, FORMULA, MARKUP, TERMINAL, Payload
from tests.source import modules

PTH = Path(__file__).parents[1] / "grepq_metric" / "integrations" / "grepq_metric_autoload.pth"
DANGEROUS = {"eval", "exec", "compile", "pickle.load", "pickle.loads", "os.system", "yaml.load", "joblib.load", "shelve.open"}


@pytest.fixture
def owned(tmp_path: Path) -> Path:
    """The file that a payload would write."""
    return tmp_path / "owned"


# --------------------------------------------------------------------------------------------------------------- pickles


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "weights.bin", "model.safetensors"])
def test_a_pickle_in_the_place_of_weights_runs_no_code(name: str, tmp_path: Path, owned: Path):
    shutil.copy(packaged_folder("grepq-ll") / "config.json", tmp_path)
    for write in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))):
        write({"low": Payload(owned)}, tmp_path / name)
        with pytest.raises(WeightsError, match=name):
            GRepQ.from_pretrained(tmp_path / name)
        if name == "model.safetensors":
            with pytest.raises(WeightsError, match=name):
                GRepQ.from_pretrained(tmp_path)
    assert not owned.exists()


def test_a_pickle_in_the_place_of_a_head_runs_no_code(tmp_path: Path, owned: Path):
    path = tmp_path / "head.safetensors"
    path.write_bytes(pickle.dumps(Payload(owned)))
    assert not headfile.is_head(path)
    with pytest.raises(WeightsError, match="damaged or no head"):
        GRepQRegressor.load(path)
    grepq("info", path, status=2)
    assert not owned.exists()


def test_a_pickle_in_the_cache_of_features_runs_no_code(photo_folder: Path, tmp_path: Path, owned: Path):
    model = GRepQ.from_pretrained("grepq-ll", pathways=["low"])
    photo, cache = photo_folder / "stereo.png", tmp_path / "cache"
    expected, problems = photo_features(model, [photo], "patches", cache)
    assert not problems
    (kept,) = cache.rglob("*.npy")
    for hostile in (np.array([Payload(owned)] * 9, object), Payload(owned)):
        with kept.open("wb") as stream:
            if isinstance(hostile, np.ndarray):
                np.save(stream, hostile, allow_pickle=True)
            else:
                pickle.dump(hostile, stream)
        found, _ = photo_features(model, [photo], "patches", cache)
        assert np.array_equal(found, expected)
    assert not owned.exists()


def test_a_pickle_among_results_runs_no_code(tmp_path: Path, owned: Path):
    path = tmp_path / "zero-shot.csv"
    path.write_bytes(pickle.dumps(Payload(owned)) + b"\n")
    with pytest.raises(ValueError, match=r"damaged|columns"):
        results.read_rows(path, results.ScoreRow)
    with pytest.raises(ValueError, match="damaged"):
        results.read_facts(path, results.DatasetFacts)
    with pytest.raises(InputError):
        read_table(path)
    assert not owned.exists()


@pytest.mark.parametrize("module", [*modules(), *modules("benchmarks")], ids=lambda module: module.name)
def test_no_source_loads_what_can_run(module):
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        called, options = ast.unparse(node.func), {option.arg: ast.unparse(option.value) for option in node.keywords}
        assert called not in DANGEROUS, module.where(node)
        assert options.get("shell", "False") == "False", module.where(node)
        assert options.get("allow_pickle", "False") == "False", module.where(node)
        assert called != "torch.load" or options.get("weights_only") == "True", module.where(node)


# ----------------------------------------------------------------------------------------------------------------- pages


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attributes)))


def tags(page: str) -> list[tuple[str, tuple[str, ...]]]:
    """Elements of a page, and names of their attributes."""
    parser = _Tags()
    parser.feed(page)
    return parser.found


def test_names_are_no_markup_in_a_gallery(tmp_path: Path):
    pages = []
    for name in ("harmless.jpg", MARKUP, ENDING):
        rows = [{"path": name, "score": 0.5, "warning": name, name: name, "error": None}]
        made = write_gallery(tmp_path / str(len(pages)), rows, title=name, about=name)
        pages.append(tags(Path(made.page).read_text(encoding="utf-8")))
    assert pages[0] == pages[1] == pages[2]


def test_names_are_no_markup_in_a_comparison(tmp_path: Path):
    pages = []
    for name in ("harmless", MARKUP, ENDING):
        rows = [{"path": f"{i}{name}", "score": i} for i in range(4)]
        (tmp_path / "a.json").write_text(json.dumps(rows))
        grepq("compare", "a.json", "a.json", "-o", "page.html", "--overwrite", cwd=tmp_path)
        pages.append(tags((tmp_path / "page.html").read_text(encoding="utf-8")))
    assert pages[0] == pages[1] == pages[2]


def test_names_are_no_markup_in_the_report():
    pages = []
    for name in ("harmless", MARKUP, ENDING, "<!--"):
        row = {"metric": name, "image": name, "residuals": [{"image": name, "href": name}]}
        data = {"created": name, "command": name, "datasets": [{"name": name}], "rows": [row], "scatter": [row]}
        page = render(data)
        before, after = TEMPLATE.read_text(encoding="utf-8").split(PLACE)
        assert json.loads(page.removeprefix(before).removesuffix(after)) == data
        pages.append(tags(page))
    assert len({str(page) for page in pages}) == 1


def test_no_page_makes_markup_of_its_data():
    """Pages build elements and set their text: no script writes markup."""
    pages = [*PTH.parents[1].glob("assets/pages/*"), Path(results.__file__).with_name("report") / "page.html"]
    assert len(pages) > 5
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "srcdoc"):
            assert way not in text, page


def test_names_drive_no_terminal(tmp_path: Path):
    (tmp_path / "labels.csv").write_text(f"path,score,accept\n{TERMINAL},0.5,maybe\n")
    (tmp_path / TERMINAL).write_bytes(b"no photo")
    for arguments in (("score", TERMINAL), ("threshold", "labels.csv", "--precision", "0.9"), ("compare", TERMINAL, TERMINAL)):
        told = grepq(*arguments, cwd=tmp_path, status=1 if arguments[0] == "score" else 2)
        assert "\x1b" not in told.stdout + told.stderr
        assert "\x07" not in told.stdout + told.stderr


# ---------------------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_a_cell_is_no_formula(start: str):
    assert path_cell(f"{start}a.jpg") == f"./{start}a.jpg"
    assert text_cell(f"{start}a") == f"'{start}a"
    for other in ("a.jpg", "./=a.jpg", "/=a", "", "1+1"):
        assert path_cell(other) == text_cell(other) == other


def cells(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as stream:
        return [cell for row in list(csv.reader(stream))[1:] for cell in row]


def test_a_table_of_scores_holds_no_formula_and_is_resumed(photo_folder: Path, tmp_path: Path):
    names = [FORMULA, "-1.png", "@a.png", "+b.png", "plain.png"]
    for name in names:
        shutil.copy(photo_folder / "stereo.png", tmp_path / name)
    given = ("score", "--", *names)
    grepq("score", "-o", "scores.csv", "--", *names, cwd=tmp_path)
    written = [row["path"] for row in read_table(tmp_path / "scores.csv", ["path", "score"])]
    assert written == [*(f"./{name}" for name in names[:-1]), "plain.png"]
    assert all((tmp_path / path).samefile(tmp_path / name) for path, name in zip(written, names, strict=True))
    assert not [cell for cell in cells(tmp_path / "scores.csv") if cell[:1] in ("=", "+", "-", "@")]
    before = (tmp_path / "scores.csv").read_bytes()
    told = grepq("score", "-o", "scores.csv", "--resume", "--", *names, cwd=tmp_path).stderr
    assert "0 photos scored, 5 before" in told
    assert (tmp_path / "scores.csv").read_bytes() == before
    (tmp_path / FORMULA).touch()
    told = grepq("score", "-o", "scores.csv", "--resume", "--", *names, cwd=tmp_path).stderr
    assert "1 photo scored, 4 before" in told
    assert len(cells(tmp_path / "scores.csv")) == len(names) * len(before.splitlines()[0].split(b","))
    rejects = ("--keep-above", "100", "--list-rejects", "rejects.txt", "--overwrite")
    grepq(*given[:1], *rejects, *given[1:], cwd=tmp_path, status=3)
    assert sorted((tmp_path / "rejects.txt").read_text().splitlines()) == sorted(written)


def test_a_sheet_of_labels_holds_no_formula_and_names_the_same_photos(tmp_path: Path):
    photos = [tmp_path / FORMULA, tmp_path / "a.jpg"]
    write_sheet(tmp_path / "labels.csv", photos)
    assert not [cell for cell in cells(tmp_path / "labels.csv") if cell[:1] in ("=", "+", "-", "@")]
    sheet = RatingSheet(tmp_path / "labels.csv")
    sheet.rate(0, 3)
    sheet.rate(1, 4)
    assert [photo.resolve() for photo in read_labels(tmp_path / "labels.csv").photos] == photos


def test_a_leaderboard_holds_no_formula(tmp_path: Path):
    from types import SimpleNamespace

    from benchmarks.harness.report.tables import comma_separated

    flat = {"metric": "=cmd", "letters": ["+a", "b"], "srcc": -0.5, "srcc_interval": [-0.6, -0.4], "provenance": {}}
    report = SimpleNamespace(rows=[SimpleNamespace(flat=lambda: flat)])
    assert comma_separated(report).splitlines()[1] == "'=cmd,'+a b,-0.5,-0.6 -0.4"


# ------------------------------------------------------------------------------------------------------------- the hook

AUDITED = """
import os, sys
events = []
def look(event, arguments):
    written = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if written or event.split(".")[0] in ("socket", "subprocess", "shutil", "ftplib", "http", "urllib", "ctypes") or event in (
        "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.remove", "os.rename", "os.mkdir", "os.putenv", "os.chmod"
    ):
        events.append((event, arguments))
sys.addaudithook(look)
before = set(sys.modules)
exec(open({pth!r}).read())
for name in ("os", "json", "no_such_module_of_this_name"):
    try:
        __import__(name)
    except ImportError:
        pass
ours = {{name for name in set(sys.modules) - before if name.split(".")[0] not in sys.stdlib_module_names}}
print(events, ours)
"""


@pytest.mark.parametrize("setting", [None, "0", "1", "\udcff", "x" * 100_000])
def test_the_hook_writes_nothing_connects_to_nothing_and_loads_the_standard_library_alone(setting: str | None, tmp_path: Path):
    environment = {"PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {} if setting is None else {"GREPQ_METRIC_AUTOLOAD": setting}
    command = [sys.executable, "-S", "-c", AUDITED.format(pth=str(PTH))]
    found = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (found.stdout.strip(), found.stderr) == ("[] set()", "")
    assert not list(tmp_path.iterdir())


def test_the_hook_is_one_line_that_site_runs():
    (line,) = PTH.read_text(encoding="ascii").splitlines()
    assert line.startswith("import os, sys; exec(")  # site passes over lines that do not begin with an import
    assert {name.name for name in ast.parse(line).body[0].names} <= sys.stdlib_module_names
    assert "except (Exception, SystemExit)" in line


@pytest.mark.parametrize("broken", ["find_spec", "add_records"])
def test_no_failure_of_ours_ends_the_import_of_pyiqa(broken: str, tmp_path: Path):
    """By the hook that site runs, here with a pyiqa of the same layout."""
    ours, code = PTH.parents[2], f"exec(open({str(PTH)!r}).read())\nimport pyiqa; print(*pyiqa.DEFAULT_CONFIGS)"
    files = {
        "pyiqa/__init__.py": "from pyiqa.default_model_configs import DEFAULT_CONFIGS",
        "pyiqa/default_model_configs.py": "DEFAULT_CONFIGS = {'psnr': {}}",
    }
    if broken == "find_spec":
        ours = tmp_path
        files |= {"grepq_metric/integrations/hook.py": "def find_spec(*_): raise RuntimeError"}
    else:  # where a name is looked up that the table does not bear
        files["pyiqa/default_model_configs.py"] += (
            "\nclass Odd(dict):\n    def setdefault(self, *_): raise RuntimeError\nDEFAULT_CONFIGS = Odd(DEFAULT_CONFIGS)"
        )
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-S", "-c", code]
    found = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ours)}, capture_output=True, text=True)
    assert found.stdout.strip() == "psnr", found.stderr
    assert ("could not be added to pyiqa" in found.stderr) == (broken == "add_records")
