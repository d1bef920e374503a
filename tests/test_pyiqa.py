"""Promises of the plugin: pyiqa knows the metrics without an import of ours, cheaply, and gives the model's own scores."""

import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pyiqa
import pytest
import torch

from grepq_metric import GRepQ, GRepQRegressor, catalog, load_model
from grepq_metric.integrations import hook

PTH = Path(__file__).parents[1] / "grepq_metric" / "integrations" / "grepq_metric_autoload.pth"


def python(code, **environment):
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout.split()


LIST = "import sys, pyiqa; print(*pyiqa.list_models(filter='grepq*'), 'grepq_metric.models' in sys.modules)"


def test_a_fresh_interpreter_lists_the_metrics():
    assert python(LIST) == ["grepq", "grepq-hl", "grepq-lite", "grepq-ll", "grepq-mos", "grepq-sem", "False"]


RECORDS = ["psnr", *reversed(catalog.names()), "grepq-mos"]
"""What the stand-in knows after it is imported."""


@pytest.fixture
def stand_in(tmp_path):
    """A folder with a pyiqa of the same layout, which is imported in a moment."""
    (tmp_path / "pyiqa").mkdir()
    (tmp_path / "pyiqa" / "__init__.py").write_text("from pyiqa.default_model_configs import DEFAULT_CONFIGS")
    (tmp_path / "pyiqa" / "default_model_configs.py").write_text("DEFAULT_CONFIGS = {'psnr': {}}")
    return tmp_path


def bare(code, folder, **environment):
    """What an interpreter without site-packages writes."""
    command = [sys.executable, "-S", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    return result.stdout.strip(), result.stderr


def test_the_hook_can_be_switched_off(stand_in):
    code = f"exec(open({str(PTH)!r}).read()); import pyiqa; print(*pyiqa.DEFAULT_CONFIGS)"
    for setting, found in (("0", 1), ("false", 1), ("No", 1), ("off", 1), ("", len(RECORDS)), ("1", len(RECORDS))):
        out, err = bare(code, stand_in, PYTHONPATH=str(PTH.parents[2]), GREPQ_METRIC_AUTOLOAD=setting)
        assert (len(out.split()), err) == (found, "")


def test_an_import_registers_as_well_and_twice_is_harmless(stand_in):
    for code in (
        "import grepq_metric, pyiqa",
        "import pyiqa, grepq_metric",
        "from grepq_metric.integrations import hook; hook.install(); import pyiqa",
    ):
        out, err = bare(f"{code}; print(*pyiqa.DEFAULT_CONFIGS)", stand_in, PYTHONPATH=str(PTH.parents[2]))
        assert (out, err) == (" ".join(RECORDS), "")


def test_the_hook_costs_under_a_millisecond_at_start():
    line = PTH.read_text()
    before, seconds = list(sys.meta_path), []
    try:
        for _ in range(20):
            start = time.perf_counter()
            exec(line)
            seconds.append(time.perf_counter() - start)
    finally:
        sys.meta_path[:] = before
    assert statistics.median(seconds) < 1e-3
    # It imports nothing that the interpreter has not loaded before.
    loaded = "import os, sys; before = set(sys.modules); exec(open(sys.argv[0]).read()); print(*set(sys.modules) - before)"
    code = loaded.replace("sys.argv[0]", repr(str(PTH)))
    assert subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True).stdout.split() == []


def test_the_hook_never_raises_without_the_package(stand_in):
    """As after a broken uninstall: the interpreter starts, and pyiqa (here one of the same layout) is imported as ever."""
    code = f"exec(open({str(PTH)!r}).read()); import pyiqa; print(*pyiqa.DEFAULT_CONFIGS)"
    for path, expected in (("", "psnr"), (str(PTH.parents[2]), " ".join(RECORDS))):
        assert bare(code, stand_in, PYTHONPATH=path) == (expected, "")


@pytest.mark.parametrize("failure", ["raise SystemExit(3)", "raise RuntimeError", "1 / 0"])
def test_a_broken_package_does_not_end_the_import_of_pyiqa(tmp_path, failure):
    for package in ("pyiqa", "grepq_metric"):
        (tmp_path / package).mkdir()
    (tmp_path / "pyiqa" / "__init__.py").write_text("")
    (tmp_path / "pyiqa" / "default_model_configs.py").write_text("DEFAULT_CONFIGS = {}")
    (tmp_path / "grepq_metric" / "__init__.py").write_text(failure)
    code = f"exec(open({str(PTH)!r}).read()); import pyiqa.default_model_configs; print('ok')"
    result = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (result.stdout.strip(), result.stderr) == ("ok", "")


def test_the_finders_take_keywords_as_importlib_passes_them():
    scope = {}
    before = list(sys.meta_path)
    try:
        exec(PTH.read_text(), scope)
        assert scope["GRepQFinder"].find_spec("json", path=None, target=None) is None
    finally:
        sys.meta_path[:] = before
    assert hook.Finder.find_spec(fullname="json", path=None, target=None) is None


def test_the_records_are_those_of_the_catalog():
    records = hook.records()
    assert records["grepq-ll"]["score_range"] == "0, 0.5"
    assert records["grepq"]["metric_opts"] == {"type": "GRepQ", "weights": "grepq", "pathways": ["low", "high"]}
    assert list(records) == [*reversed(catalog.names()), "grepq-mos"]


@pytest.mark.parametrize("table", ["", "DEFAULT_CONFIGS = []"])
def test_a_pyiqa_with_another_table_is_left_alone(tmp_path, table):
    (tmp_path / "pyiqa").mkdir()
    (tmp_path / "pyiqa" / "__init__.py").write_text("")
    (tmp_path / "pyiqa" / "default_model_configs.py").write_text(table)
    code = "import grepq_metric, pyiqa.default_model_configs; grepq_metric.integrations.hook.install(); print('ok')"
    env = {"PYTHONPATH": str(PTH.parents[2])}
    result = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert (result.stdout.strip(), result.stderr) == ("ok", "")


WAYS = (f"exec(open({str(PTH)!r}).read()); import pyiqa", "import grepq_metric, pyiqa", "import pyiqa, grepq_metric")
"""The ways in which our records come into pyiqa's table."""


def block(path, opening):
    """The code between a line `opening` and the end of its block, or the next empty line of a TOML file."""
    text = path.read_text(encoding="utf-8").partition(f"{opening}\n")[2]
    return text.partition("```" if path.suffix == ".md" else "\n\n")[0]


def test_the_hook_steps_aside_where_pyiqa_reads_records_from_entry_points(stand_in):
    root = PTH.parents[2]
    proposed = block(root / "docs" / "pyiqa_proposal.md", "```python")
    table = stand_in / "pyiqa" / "default_model_configs.py"
    table.write_text(f"DEFAULT_CONFIGS = {{'psnr': {{}}}}\n{proposed}")
    for way in WAYS:  # without our entry point, so that a name could only come from the hook
        assert bare(f"{way}; print(*pyiqa.DEFAULT_CONFIGS)", stand_in, PYTHONPATH=str(root)) == ("psnr", "")
    entry_point = block(root / "pyproject.toml", '[project.entry-points."pyiqa.configs"]').replace('"', "")
    info = stand_in / "grepq_metric-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: grepq-metric\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[pyiqa.configs]\n{entry_point}\n")
    for way in WAYS:
        code = f"{way}; print(*pyiqa.DEFAULT_CONFIGS)"
        assert bare(code, stand_in, PYTHONPATH=str(root)) == (" ".join(RECORDS), "")
    table.write_text(table.read_text().replace('"pyiqa.configs"', '"pyiqa.others"'))  # the sign is the group, not the constant
    for way in WAYS:
        code = f"{way}; print(*pyiqa.DEFAULT_CONFIGS)"
        assert bare(code, stand_in, PYTHONPATH=str(root)) == (" ".join(RECORDS), "")


def test_a_table_that_has_our_names_keeps_its_own_records(stand_in):
    theirs = dict.fromkeys(RECORDS, "theirs")
    (stand_in / "pyiqa" / "default_model_configs.py").write_text(f"DEFAULT_CONFIGS = {theirs}")
    for way in WAYS:
        out, err = bare(f"{way}; print(pyiqa.DEFAULT_CONFIGS)", stand_in, PYTHONPATH=str(PTH.parents[2]))
        assert (out, err) == (str(theirs), "")


OFFLINE = [entry.name for entry in catalog.ENTRIES if not entry.download]


@pytest.mark.parametrize("name", OFFLINE)
def test_pyiqa_gives_the_scores_of_the_model(photos, name):
    metric = pyiqa.create_metric(name, device="cpu")
    assert metric.lower_better is False
    assert metric.metric_mode == "NR"
    model = load_model(name)
    assert metric.score_range == f"0, {model.best:g}"
    for photo in photos.values():
        with torch.inference_mode():
            assert torch.equal(metric(photo), model(photo))


def test_pyiqa_reads_files(photo_folder, photos):
    metric = pyiqa.create_metric("grepq-ll", device="cpu")
    expected = GRepQ.from_pretrained("grepq-ll")(photos["cat"])
    assert metric(str(photo_folder / "cat.png")).item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("name", OFFLINE)
def test_as_loss_back_propagates_to_the_image(photos, name):
    loss = pyiqa.create_metric(name, as_loss=True, device="cpu")
    x = photos["rocket"].repeat(2, 1, 1, 1).requires_grad_()
    value = loss(x)
    assert value.ndim == 0
    value.backward()
    assert x.grad.isfinite().all()
    assert x.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in loss.net.parameters())


def test_weights_pass_through(model, tmp_path, photos):
    model.save_pretrained(tmp_path)
    both = pyiqa.create_metric("grepq", weights=str(tmp_path), device="cpu")
    assert torch.equal(both(photos["rocket"]), model(photos["rocket"]))
    low = pyiqa.create_metric("grepq-ll", weights=tmp_path, device="cpu")
    assert torch.equal(low(photos["rocket"]), model.components(photos["rocket"])["low"])


def test_a_head_is_the_metric_grepq_mos_and_no_other(tmp_path, photo_folder):
    paths = [str(path) for path in sorted(photo_folder.iterdir())]
    regressor = GRepQRegressor("grepq-ll").fit(paths, [1.0, 2.0, 3.0, 2.5, 4.0, 3.5])
    regressor.save(tmp_path / "head.safetensors")
    metric = pyiqa.create_metric("grepq-mos", head=str(tmp_path / "head.safetensors"), weights="grepq-ll", device="cpu")
    assert metric.score_range == "of the head"
    assert metric(paths[0]).item() == pytest.approx(regressor.predict(paths[:1])[0], abs=1e-4)
    with pytest.raises(ValueError, match="the metric grepq-mos"):
        pyiqa.create_metric("grepq-ll", head=str(tmp_path / "head.safetensors"), device="cpu")
    with pytest.raises(ValueError, match="head="):
        pyiqa.create_metric("grepq-mos", device="cpu")


def test_a_metric_name_never_scores_with_other_pathways():
    with pytest.raises(ValueError, match="high"):
        pyiqa.create_metric("grepq", weights="grepq-ll", device="cpu")


def test_the_command_line_of_pyiqa(photo_folder):
    command = [sys.executable, "-m", "pyiqa.pyiqa_cmd", "grepq-ll", "-t", str(photo_folder / "cat.png"), "--device", "cpu"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    score = GRepQ.from_pretrained("grepq-ll")
    from grepq_metric import read_image

    expected = score(read_image(photo_folder / "cat.png").unsqueeze(0)).item()
    printed = float(re.search(r"'mean': (?:np\.float64\()?([\d.]+)", result.stdout)[1])
    assert printed == pytest.approx(expected, abs=1e-6)
