"""Promises of `grepq compare`: numbers of a slow and plain computation, and a page of its own."""

import itertools
import json
import re

import numpy as np
import pytest
from scipy.stats import kendalltau, pearsonr, spearmanr

from grepq_metric.errors import InputError
from grepq_metric.pages.agreement import agreement, join
from tests.browser import chromium, complaints, needs_browser, requests, resize
from tests.command import grepq

DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


@pytest.fixture
def tables(tmp_path):
    """Two tables of 40 photos, of which 38 are common; in the second one 03.png has fallen from the top to the bottom."""
    generator = np.random.default_rng(0)
    first = np.sort(generator.random(40))[::-1]
    second = first * 10 + generator.normal(0, 0.3, 40)
    second[3] = -5
    names = [f"{i:02d}.png" for i in range(40)]
    lines = [f"./{name},{value},1\n" for name, value in zip(names, first, strict=True)]
    (tmp_path / "a.csv").write_text("path,score,other\n" + "".join(lines))
    rows = [{"path": name, "mos": value} for name, value in zip(names[:38], second[:38], strict=True)]
    rows.append({"path": "x.png", "mos": 1.0})
    rows[7]["mos"] = None
    (tmp_path / "b.json").write_text(json.dumps(rows))
    kept = [i for i in range(38) if i != 7]
    return tmp_path / "a.csv", tmp_path / "b.json", first[kept], second[kept]


def test_numbers_are_those_of_scipy_and_of_counting(tables):
    a, b, first, second = tables
    text = grepq("compare", a, b, "--column-b", "mos", "--most", 3).stdout
    found = dict(re.findall(r"^(SRCC|PLCC|Kendall's tau|pairs alike) +([\d.]+)", text, re.MULTILINE))
    pairs = list(itertools.combinations(range(len(first)), 2))
    share = np.mean([(first[i] - first[j]) * (second[i] - second[j]) > 0 for i, j in pairs])
    expected = (spearmanr(first, second)[0], pearsonr(first, second)[0], kendalltau(first, second)[0])
    assert [float(found[name]) for name in ("SRCC", "PLCC", "Kendall's tau")] == pytest.approx(expected, abs=1e-4)
    assert float(found["pairs alike"]) == pytest.approx(100 * share, abs=0.06)
    assert "photos in both     37 (2 only in A, 1 only in B, 1 without a number)" in text
    listed = text.partition("differ most")[2].splitlines()[2:]
    assert len(listed) == 3
    assert listed[0].split()[:2] == ["4", "37"]
    assert listed[0].endswith("./03.png")


def test_ties_belong_to_no_order():
    first, second = np.array([1.0, 1, 2, 3, 3]), np.array([1.0, 2, 2, 1, 4])
    told = [np.sign(a - b) * np.sign(c - d) for (a, c), (b, d) in itertools.combinations(zip(first, second, strict=True), 2)]
    assert agreement(first, second).alike == pytest.approx(told.count(1) / (told.count(1) + told.count(-1)))


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    generator, hits = np.random.default_rng(1), 0
    for _ in range(60):
        first = generator.normal(size=80)
        found = agreement(first, 0.8 * first + 0.6 * generator.normal(size=80))
        assert found.low < found.srcc < found.high
        hits += found.low <= 6 / np.pi * np.arcsin(0.4) <= found.high  # Spearman's of a normal pair with Pearson's 0.8
    assert hits >= 52


def test_a_share_of_pairs_of_ten_thousand_is_no_matter_of_minutes():
    generator = np.random.default_rng(0)
    first = generator.random(10_000)
    found = agreement(first, -first)
    assert (found.srcc, found.krcc, found.alike) == pytest.approx((-1, -1, 0))


def test_what_can_not_be_compared_is_a_line(tables, tmp_path):
    a, b, *_ = tables
    (tmp_path / "c.csv").write_text("path,score\nq/1.png,1\nq/2.png,2\nq/3.png,3\n")
    error = grepq("compare", a, tmp_path / "c.csv", status=2).stderr
    assert "no photo in common" in error
    assert "'./00.png'" in error
    assert "'q/1.png'" in error
    assert "no column 'score'" in grepq("compare", a, b, status=2).stderr
    assert "all 37 values of the first table are 1" in (
        grepq("compare", a, b, "--column-a", "other", "--column-b", "mos", status=2).stderr
    )
    assert "expected numbers" in grepq("compare", a, a, "--column", "path", status=2).stderr
    assert "ends in .html" in grepq("compare", a, b, "--column-b", "mos", "-o", tmp_path / "x.pdf", status=2).stderr
    with pytest.raises(InputError, match="more than once"):
        join([[{"path": "a", "s": 1}, {"path": "./a", "s": 2}], [{"path": "a", "s": 1}]], ["s", "s"], ["A", "B"])
    with pytest.raises(InputError, match="expected 3 photos or more"):
        join([[{"path": "a", "s": 1}]] * 2, ["s", "s"], ["A", "B"])


@pytest.fixture
def page(tables, photos, tmp_path):
    from torchvision.utils import save_image

    a, b, *_ = tables
    save_image(photos["stereo"], tmp_path / "03.png")
    out = tmp_path / "page.html"
    grepq("compare", a, b, "--column-b", "mos", "-o", out, "--root", tmp_path, "--most", 4)
    return out


def test_a_page_holds_its_pictures(page, tables):
    data = json.loads(DATA.search(page.read_text(encoding="utf-8"))[1])
    assert data["names"] == ["a: score", "b: mos"]
    assert data["pictures"][0].startswith("data:image/jpeg;base64,")
    assert data["pictures"][1:] == [None] * 3
    assert "no such file" in data["problems"][1]
    a, b, *_ = tables
    before = page.read_bytes()
    assert "exists" in grepq("compare", a, b, "--column-b", "mos", "-o", page, status=2).stderr
    assert page.read_bytes() == before
    grepq("compare", a, b, "--column-b", "mos", "-o", page, "--overwrite")
    assert page.read_bytes() != before


@needs_browser
def test_points_have_names_and_nothing_is_fetched(page, tmp_path):
    from selenium.webdriver import ActionChains

    with chromium(tmp_path) as browser:
        resize(browser, 1280, 900)
        browser.get(page.as_uri())
        assert browser.find_element("css selector", "#tiles b").text == "37"
        assert len(browser.find_elements("css selector", "#most li")) == 4
        canvas = browser.find_element("id", "scatter")
        x, y = browser.execute_script("const [x, y] = place(data.most[0]); return [x - side / 2, y - side / 2]")
        ActionChains(browser).move_to_element_with_offset(canvas, round(x), round(y)).perform()
        assert browser.find_element("id", "hovered").text == "./03.png: rank 4 in A, 37 in B"
        assert browser.find_element("css selector", "#most li.lit .name").text == "03.png"
        resize(browser, 390, 844)
        browser.refresh()
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
        assert {address.partition(":")[0] for address in requests(browser)} <= {"file", "data"}
        assert complaints(browser) == []
