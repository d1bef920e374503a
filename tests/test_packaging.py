"""Promises of the wheel: it holds the weights, types and the hook, and leaves nothing behind when it is uninstalled."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("build", reason="building the wheel needs the build package (extra: test)")
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", out, ROOT]
    subprocess.run([*map(str, command)], check=True, capture_output=True)
    return next(out.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_what_users_need(wheel):
    with zipfile.ZipFile(wheel) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    for name in ("assets/grepq-ll/model.safetensors", "assets/grepq-ll/config.json", "py.typed", "plugins/pyiqa.py"):
        assert sizes[f"grepq_metric/{name}"] >= 0
    assert sum(size for name, size in sizes.items() if "/assets/" in name) <= 25e6
    assert [name for name in sizes if name.endswith(".pth")] == ["grepq_metric_autoload.pth"]
    assert not [name for name in sizes if name.startswith(("tests", "benchmarks"))]


@pytest.mark.slow
def test_install_and_uninstall(wheel, tmp_path):
    """In an environment of its own that sees this one's dependencies."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    (site / "outer.pth").write_text(next(p for p in sys.path if p.endswith("site-packages")) + "\n")
    clean = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    pip = [python, "-m", "pip", "install", "--no-deps", "--quiet", "--force-reinstall", wheel]
    subprocess.run([*map(str, pip)], check=True, cwd=tmp_path)
    code = "import pyiqa; print(*pyiqa.list_models(filter='grepq*')); import grepq_metric; print(grepq_metric.__file__)"
    result = subprocess.run([python, "-c", code], env=clean, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[0] == "grepq grepq-hl grepq-ll"
    assert str(tmp_path) in result.stdout.splitlines()[1]
    subprocess.run([python, "-m", "pip", "uninstall", "--yes", "--quiet", "grepq-metric"], check=True, cwd=tmp_path)
    assert not list(site.glob("*grepq*"))
