"""Promises of README and documentation: figures are those of result files and runs, links lead somewhere, examples work."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted((ROOT / "docs").rglob("*.md"))
FIGURES = ROOT / "docs" / "figures.py"


def figures(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, FIGURES, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def prose(page: Path) -> str:
    """A page without blocks of code, and without what `docs/figures.py` writes."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"<!-- figures: \w+ -->.*?<!-- /figures -->", "", text, flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and Python-Markdown make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_figures_are_those_of_the_result_files():
    run = figures("--check", "--from-files")
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.slow
def test_examples_show_what_they_print_today():
    run = figures("--check")
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_typed_figure_is_noticed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(FIGURES.parent)
    import figures as script

    page = tmp_path / "page.md"
    right = script.fill(
        "<!-- figures: photos -->\n<!-- /figures -->, <!-- figures: photos --><!-- /figures -->", script.FROM_FILES
    )
    assert right.count(script.photos()) == 2
    page.write_text(right.replace(script.photos(), "999"), encoding="utf-8")
    monkeypatch.setattr(script, "PAGES", (page,))
    monkeypatch.setattr(script, "ROOT", tmp_path)
    assert script.main(["--check", "--from-files"]) == 1
    assert script.main(["--from-files"]) == 0
    assert page.read_text(encoding="utf-8") == right
    with pytest.raises(KeyError, match="no figure is called 'nonsense'"):
        script.fill("<!-- figures: nonsense -->1<!-- /figures -->", script.FROM_FILES)


def test_correlations_in_prose_are_written_by_the_script():
    """A number with three digits behind the point beside SRCC or PLCC is a result, and not to be typed."""
    typed = [
        f"{page.name}: {sentence.strip()}"
        for page in PAGES
        if page.name != "CHANGELOG.md"
        for sentence in re.split(r"(?<=[.:])\s", prose(page))
        if re.search(r"\b(SRCC|PLCC)\b", sentence) and re.search(r"\b0\.\d{3}\b", sentence)
    ]
    assert not typed


def test_no_line_of_prose_begins_with_a_comment():
    """Markdown would end the paragraph there."""
    for page in PAGES:
        inline = re.findall(r"^<!-- figures: \w+ -->.+", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert not inline, page


def test_the_readme_is_short():
    assert (ROOT / "README.md").stat().st_size <= 8000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        included = re.fullmatch(r'--8<-- "(\S+)"\s*', file.read_text(encoding="utf-8")) if file.suffix == ".md" else None
        source = ROOT / included[1] if included else file
        assert not anchor or anchor in anchors(source), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_are_wrapped(page):
    """But for tables, links and formulas, which can't be; what the script writes within a line counts as nothing."""
    long = [line for line in prose(page).splitlines() if len(line) > 120 and line[:1] not in "| " and "](" not in line]
    assert not long


def code_blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_distortion_of_the_contributing_guide_works(photos):
    from grepq_metric.training import distortions
    from grepq_metric.training.similarity import pairwise_fsim

    (code,) = (block for block in code_blocks("CONTRIBUTING.md") if "@distortion" in block)
    scope = dict(vars(distortions))
    try:
        exec(code, scope)
        vignetting = distortions.DISTORTIONS["vignetting"]
        image = (photos["coffee"][0, :, :256, :256] * 255).byte().permute(1, 2, 0).numpy()
        versions = [image, *(vignetting(image, level) for level in range(1, distortions.LEVELS + 1))]
    finally:
        distortions.DISTORTIONS.pop("vignetting", None)
    assert all(version.dtype == np.uint8 and version.shape == image.shape for version in versions)
    import torch

    similarity = pairwise_fsim(torch.tensor(np.stack(versions)).permute(0, 3, 1, 2).float() / 255)[0].tolist()
    assert similarity == sorted(similarity, reverse=True)


def test_the_head_of_the_contributing_guide_works(tmp_path, monkeypatch):
    """It passes scikit-learn's checks of an estimator."""
    from sklearn.utils.estimator_checks import check_estimator

    (code,) = (block for block in code_blocks("CONTRIBUTING.md") if "SupportVectorHead(" in block)
    imports = """
from __future__ import annotations
import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from sklearn.utils.validation import check_is_fitted, validate_data
"""
    (tmp_path / "support_vector.py").write_text(imports + code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    check_estimator(importlib.import_module("support_vector").SupportVectorHead())


def test_the_site_fetches_nothing_from_elsewhere():
    """No fonts, scripts or styles of another host."""
    settings = (ROOT / ".mkdocs.yml").read_text(encoding="utf-8")
    assert re.search(r"^\s+font: false", settings, re.MULTILINE)
    assert not re.search(r"^\s*(extra_javascript|extra_css|analytics)", settings, re.MULTILINE)


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path):
    pytest.importorskip("mkdocs", reason="the site needs mkdocs (group: docs)")
    command = [sys.executable, "-m", "mkdocs", "build", "-f", ".mkdocs.yml", "--strict", "--site-dir", tmp_path]
    run = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    page = (tmp_path / "api" / "model" / "index.html").read_text(encoding="utf-8")
    for name in ("from_pretrained", "components", "distance_map", "read_image"):
        assert name in page
    fetched = re.findall(r'(?:<script[^>]* src|<link[^>]* href)="(https?://[^"]+)', page)
    assert not fetched
