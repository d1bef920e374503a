"""Promise: the notebook of a first tour runs from top to bottom without a network, and shows what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from grepq_metric import GRepQ

ROOT = Path(__file__).parents[1]
TOUR = ROOT / "docs" / "tour.ipynb"


def read():
    return pytest.importorskip("nbformat", reason="notebooks need nbformat (group: test)").read(TOUR, as_version=4)


def test_the_tour_is_stored_without_outputs():
    for cell in read().cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None


def test_links_of_the_tour_lead_somewhere():
    text = "\n".join(cell.source for cell in read().cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert links
    for link in links:
        assert (TOUR.parent / link).is_file(), link


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What the cells print, run in a kernel of its own to which no Hub and no proxy answers."""
    client = pytest.importorskip("nbclient", reason="running a notebook needs nbclient and ipykernel (group: test)")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "HF_ENDPOINT"):
            patch.setenv(name, "http://127.0.0.1:9")
        patch.setenv("PYTHONPATH", str(ROOT))
        place = {"metadata": {"path": tmp_path_factory.mktemp("tour")}}
        done = client.NotebookClient(read(), timeout=300, resources=place).execute()
    outputs = (output for cell in done.cells if cell.cell_type == "code" for output in cell.outputs)
    return "".join(output.text for output in outputs if output.get("name") == "stdout")


def numbers(pattern, text):
    return [float(value) for value in re.search(pattern, text).groups()]


@pytest.mark.slow
def test_the_tour_runs_from_top_to_bottom_offline_and_shows_what_it_says(printed):
    score, weights_id = re.search(r"^(\S+) by (\S+)$", printed, re.MULTILINE).groups()
    assert weights_id == GRepQ.from_pretrained("grepq-sem").weights_id
    assert float(score) > 0.8
    assert numbers(r"better than (\d+) % of the reference photos", printed)[0] > 90
    left, right = numbers(r"mean quality: left (\S+), right (\S+)", printed)
    assert left > right + 0.1
    table = re.findall(r"^(\w+\.\w+) +\d+ x \d+ +(0\.\d+)", printed, re.MULTILINE)
    assert sorted(name for name, _ in table) == ["astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"]
    assert [value for _, value in table] == sorted((value for _, value in table), reverse=True)
    assert numbers(r"rank correlation \(SRCC\): (\S+)", printed)[0] >= 0.9
    before, after = numbers(r"loss (\S+), after one step (\S+)", printed)
    assert after < before
