"""Promises of the wheel: it holds the weights, types and the hook, and leaves nothing behind when it is uninstalled."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import grepq_metric
from grepq_metric.catalog import HEADS

ROOT = Path(__file__).parents[1]
CI = ROOT / ".ci"
EXTRAS = {"convert", "heic", "onnx", "parquet", "plot", "raw", "ray", "torchmetrics", "train"}
"""What a user of the wheel can use. What a clone needs, tests, lint, documentation and benchmarks, are dependency groups."""
LARGEST = 100_000
"""Bytes of a committed file, as in .pre-commit-config.yaml."""
LARGER = {f"grepq_metric/assets/{name}/model.safetensors" for name in ("grepq-ll", "grepq-sem", "qfm-iqm")}
"""Weights, and a picture in which a reader is to see grain."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("build", reason="building the wheel needs the build package (group: test)")
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", out, ROOT]
    subprocess.run([*map(str, command)], check=True, capture_output=True)
    return next(out.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_what_users_need(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    weights = ("config.json", "model.safetensors", "README.md", "PHOTOS.md")
    folders = [f"assets/{name}/{file}" for name in ("grepq-ll", "grepq-sem", "qfm-iqm") for file in weights]
    heads = [f"assets/heads/{entry.name}{end}" for entry in HEADS for end in (".safetensors", ".md")]
    for name in (*folders, *heads, "assets/pages/rate.html", "integrations/pyiqa.py"):
        assert sizes[f"grepq_metric/{name}"] > 0
    assert "grepq_metric/py.typed" in sizes
    assert sum(size for name, size in sizes.items() if "/assets/" in name) <= 40e6
    assert [name for name in sizes if name.endswith(".pth")] == ["grepq_metric_autoload.pth"]
    assert f"grepq_metric-{grepq_metric.__version__}.dist-info/METADATA" in sizes
    listed = subprocess.run([sys.executable, CI / "wheel.py", wheel], capture_output=True, text=True)
    assert listed.returncode == 0, listed.stderr


def test_what_is_not_expected_in_a_wheel_is_named(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        for name in ("grepq_metric/model.py", "grepq_metric/secret.key", "other/x.py"):
            archive.writestr(name, "")
    listed = subprocess.run([sys.executable, CI / "wheel.py", tmp_path / "a.whl"], capture_output=True, text=True)
    assert listed.returncode == 1
    assert "not expected: grepq_metric/secret.key" in listed.stderr
    assert "not expected: other/x.py" in listed.stderr
    assert "not expected: grepq_metric/model.py" not in listed.stderr
    assert "missing: grepq_metric/py.typed" in listed.stderr


def test_an_audit_that_can_not_be_made_is_skipped_in_plain_sight_and_soon():
    code = f"import runpy, sys; sys.argv = ['audit']; module = runpy.run_path({str(CI / 'audit.py')!r}, run_name='audit')"
    code += "\nmodule['reachable'].__globals__['SERVICE'] = 'http://127.0.0.1:9/'; sys.exit(module['main']())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout.startswith("SKIPPED: no audit of packages")


@pytest.mark.slow
def test_the_wheel_has_the_extras_that_its_users_can_use(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    assert set(metadata.get_all("Provides-Extra", [])) == EXTRAS
    needed = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert not [line for line in needed if re.match(r"(pytest|ruff|mypy|mkdocs|matplotlib|pandas|scikit-image)\b", line)]


@pytest.mark.slow
def test_install_and_uninstall(wheel: Path, tmp_path: Path):
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
    assert result.stdout.splitlines()[0] == "grepq grepq-hl grepq-lite grepq-ll grepq-mos grepq-sem"
    assert str(tmp_path) in result.stdout.splitlines()[1]
    subprocess.run([python, "-m", "pip", "uninstall", "--yes", "--quiet", "grepq-metric"], check=True, cwd=tmp_path)
    assert not list(site.glob("*grepq*"))


@pytest.mark.slow
def test_the_source_distribution_is_a_folder_for_torch_hub(tmp_path: Path):
    pytest.importorskip("build", reason="building needs the build package (group: test)")
    command = [sys.executable, "-m", "build", "--sdist", "--outdir", tmp_path, ROOT]
    subprocess.run([*map(str, command)], check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"hubconf.py", "grepq_metric/__init__.py", "grepq_metric/assets/grepq-ll/model.safetensors"} <= names
    assert not [name for name in names if name.startswith("benchmarks/results")]


def section(name: str) -> str:
    """The text of a list in pyproject.toml, which Python 3.10 has no reader for."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return re.search(rf"^{name} = \[\n(.*?)^\]", text, re.DOTALL | re.MULTILINE)[1]


def test_the_requirements_without_pyiqa_are_all_but_pyiqa():
    lines = (ROOT / "docs" / "requirements-without-pyiqa.txt").read_text(encoding="utf-8").splitlines()
    listed = [line for line in lines if not line.startswith("#")]
    needed = re.findall(r'"([^"]+)"', section("dependencies"))
    assert [line for line in needed if not line.startswith("pyiqa")] == listed
    assert len(needed) == len(listed) + 1


def released():
    """The newest version in CHANGELOG.md, its date, and what it says of it."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## \[(.+?)\](?: - (.*))?\n((?:(?!## ).*\n)*)", changelog, re.MULTILINE)
    assert sections[0][0] == "Unreleased"
    return sections[1]


def test_the_citation_is_of_this_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == grepq_metric.__version__
    assert re.search(r"^date-released: (.*)$", citation, re.MULTILINE)[1] == released()[1]
    assert "preferred-citation:" in citation


def test_the_changelog_names_the_weights_of_this_version_and_what_became_of_scores():
    from grepq_metric import catalog

    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version, _, text = released()
    development = ".dev" in grepq_metric.__version__
    assert development or version == grepq_metric.__version__
    for entry in catalog.ENTRIES:
        if entry.clip is None:
            assert entry.tag in (changelog if development else text)
    assert re.search(r"\bscores\s+have\s+(not\s+)?moved\b", text)


def test_no_committed_file_is_large():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a clone")
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    large = {str(file.relative_to(ROOT)): file.stat().st_size for file in files if file.is_file()}
    assert {name for name, size in large.items() if size > LARGEST} <= LARGER
