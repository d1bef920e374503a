"""Promises of ``hubconf.py``: torch.hub knows the built-in names, and gives the models that the package gives."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from grepq_metric import catalog, load_model

ROOT = Path(__file__).parents[1]
OFFLINE = [entry.name for entry in catalog.ENTRIES if not entry.download]
CODE = f"""
import torch
image = torch.linspace(0, 1, 3 * 120 * 150).reshape(1, 3, 120, 150)
for name in {OFFLINE}:
    model = torch.hub.load({str(ROOT)!r}, name.replace("-", "_"), source="local")
    print(name, model.weights_id, *model(image).tolist()[0])
small = torch.hub.load({str(ROOT)!r}, "grepq_sem", source="local", resolution=512)
print("small", small.weights_id)
import grepq_metric
print("from", grepq_metric.__file__)
"""


def test_torch_hub_loads_the_built_in_metrics_in_a_process_of_its_own(tmp_path):
    run = subprocess.run([sys.executable, "-c", CODE], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    lines = dict(line.split(" ", 1) for line in run.stdout.splitlines())
    image = torch.linspace(0, 1, 3 * 120 * 150).reshape(1, 3, 120, 150)
    for name in OFFLINE:
        model = load_model(name)
        weights_id, score = lines[name].split()
        assert weights_id == model.weights_id
        assert float(score) == pytest.approx(model(image).item(), abs=1e-5)
    assert lines["small"].endswith("+512px")
    assert Path(lines["from"]).parents[1] == ROOT


def test_torch_hub_would_list_every_built_in_name_and_nothing_else():
    """`torch.hub.list` itself knows repositories of GitHub alone; it takes what is callable and begins with no underscore."""
    found = {k: v for k, v in runpy.run_path(str(ROOT / "hubconf.py")).items() if callable(v) and not k.startswith("_")}
    assert sorted(found) == sorted(name.replace("-", "_") for name in (*catalog.names(), catalog.AUTHORS.name))
    for name, function in found.items():
        assert f"``{name.replace('_', '-')}``" in function.__doc__


def test_torch_hub_says_what_is_unknown():
    with pytest.raises(ValueError, match="unknown option 'resolutoin'"):
        torch.hub.load(str(ROOT), "grepq_sem", source="local", resolutoin=512)
