"""Promises of the leaderboard page: what it shows for a URL, in a real browser, and that no text of the data can break it."""

import copy
import html
import json
import re
import shutil
import subprocess

import pytest

from benchmarks.harness.report.page import TEMPLATE, render

EVIL = "</script><img src=x onerror=document.title='hit'><!--<script>"
METRICS = {  # mode, SRCC, PLCC, seconds
    "grepq-ll-a6464fbe": ("NR", 0.653, 0.689, 0.31),
    "brisque": ("NR", 0.512, 0.744, 0.021),
    "psnr": ("FR", 0.601, 0.578, 0.0043),
    EVIL: ("NR", 0.402, 0.433, 1.9),
}
NAMES = {"grepq-ll-a6464fbe": "grepq-ll"}
PICTURE = "data:image/jpeg;base64,/9j/4AAQ"
HARNESS = """<!DOCTYPE html><meta charset="utf-8"><body><pre id="out"></pre><script>
const looks = {looks}, found = {{}};
function look(name, win) {{
  const doc = win.document, nodes = (what) => [...doc.querySelectorAll(what)];
  const all = (what) => nodes(what).map((node) => node.textContent);
  found[name] = {{
    title: doc.title, hash: win.location.hash, focus: doc.activeElement.id,
    measured: nodes("#measured tr.row").map((row) => row.dataset.metric),
    published: nodes("#published tr.row").map((row) => row.dataset.metric),
    files: doc.getElementById("files").hidden ? [] : nodes("#files tr.row").map((row) => row.dataset.metric),
    badges: all("#measured .badge"), shownNames: all("#measured button.name"), missing: all("#missing:not([hidden])"),
    filters: doc.getElementById("filters").open, pictures: nodes("#residuals img").map((node) => node.getAttribute("src")),
    cells: Object.fromEntries(nodes("#measured tr.row").map((row) => [row.dataset.metric,
      Object.fromEntries([...row.querySelectorAll("td[data-key]")].map((cell) =>
        [cell.dataset.key, [cell.textContent, cell.querySelector("[title]")?.title ?? null]]))])),
    sorted: nodes("#measured [aria-sort]").map((head) => [head.dataset.key, head.getAttribute("aria-sort")]),
    circles: all("#scatter svg circle").length, curves: all("#scatter .curve").length,
    scatter: all("#scatter")[0], residuals: all("#residuals tbody tr"), dataset: all("#dataset")[0],
    links: nodes("#residuals a").map((node) => node.getAttribute("href")),
    speed: all("#speed svg > text:not(.tick)").slice(2), marks: all("#speed svg > :is(circle, rect)").length,
    details: all("#measured tr:not([hidden]) > .details"), sources: all("#published td.text"),
    empty: all(".empty:not([hidden])"), caption: all("#measured caption")[0],
    shown: !doc.getElementById("main").hidden,
    images: all("img:not(#residuals img), iframe, object, link[rel=stylesheet]").length,
    width: [doc.documentElement.clientWidth, doc.documentElement.scrollWidth],
    sideways: nodes("#measured .scroll").map((box) => box.scrollWidth > box.clientWidth),
  }};
}}
addEventListener("unhandledrejection", (event) => {{ document.getElementById("out").textContent = event.reason.stack; }});
const pause = () => new Promise((done) => setTimeout(done, 20));
addEventListener("load", async () => {{
  for (const [name, [page, hash, width, act]] of Object.entries(looks)) {{
    const frame = document.createElement("iframe");
    frame.width = width; frame.height = 800; frame.src = page + hash;
    await new Promise((done) => {{ frame.onload = done; document.body.append(frame); }});
    for (const id of act) {{
      const node = frame.contentDocument.getElementById(id);
      node.focus(); node.click();
      await pause();
    }}
    look(name, frame.contentWindow);
    frame.remove();
  }}
  document.getElementById("out").textContent = "found " + JSON.stringify(found) + " end";
}});
</script>"""


def one_row(metric, dataset="photos", protocol="zero-shot", labels=0, **changes):
    mode, srcc, plcc, seconds = METRICS.get(metric, ("NR", 0.8, None, None))
    few = protocol != "zero-shot"
    row = {
        "metric": metric,
        "name": NAMES.get(metric, metric),
        "mode": mode,
        "dataset": dataset,
        "protocol": protocol,
        "labels": labels,
    }
    row |= {"split": "test" if few else "all", "images": 200 if few else 1000, "origin": "measured"}
    row |= {"srcc": srcc, "srcc_interval": [srcc - 0.04, srcc + 0.04], "plcc": plcc, "plcc_interval": None}
    row |= {"plcc_logistic4": 0.7, "plcc_logistic5": 0.71, "plcc_cubic": 0.7, "krcc": 0.46, "rmse": 0.12, "letters": "ab"}
    row |= {"seconds": seconds, "memory": 812.4, "failed": 0, "notes": [], "source": "python -m benchmarks run"}
    return row | {"provenance": {"weights": "a6464fbe", "threads": 2}} | changes


@pytest.fixture(scope="module")
def data():
    rows = [one_row(metric) for metric in METRICS]
    rows[1] |= {"plcc_logistic4": None, "notes": ["logistic4: did not converge", EVIL], "failed": 3}
    rows += [one_row("brisque", protocol="few-labels", labels=50), one_row("psnr", "kadis", srcc=-0.3, srcc_interval=None)]
    rows += [one_row("psnr", split="test", srcc=0.7, images=200), one_row("brisque", split="test", srcc=0.8, images=200)]
    rows[0]["provenance"]["plain_clip"] = "its high-level pathway is plain"
    rows[4] |= {"notes": ["the interval is that of quartiles"]}
    paper = {
        "origin": "published",
        "seconds": None,
        "provenance": {},
        "source": f"A paper, table 2 {EVIL}",
        "split": "as published",
    }
    rows += [one_row(name, srcc=0.9, **paper) for name in ("CONTRIQUE", "Re-IQA")]
    rows += [one_row("theirs-0a0b0c0d", srcc=0.55, split="test", origin="file", seconds=None, memory=None)]
    points = [[i / 10000, (i * 37 % 10000) / 10000, f"images/{i}.jpg"] for i in range(10000)]
    seen = [("images/9999.jpg", PICTURE), (None, None), ("javascript:alert(1)", "data:text/html;base64,AAAA")]
    facts = {"score": 1.0, "mos": 0.2, "residual": -0.4}
    far = [{"image": points[-1 - i][2], "href": h, "thumbnail": t, **facts} for i, (h, t) in enumerate(seen)]
    plot = {"dataset": "photos", "protocol": "zero-shot", "labels": 0}
    small = {"metric": "brisque", "points": points[:40], "curve": None, "residuals": []}
    large = {"metric": "psnr", "points": points, "curve": [[0, 0.1], [0.5, 0.5], [1, 0.9]], "residuals": far}
    photos = {"name": "photos", "id": "photos-1a2b3c4d", "kind": "authentic", "images": 1000, "mos_range": [0, 1]}
    kadis = {"name": "kadis", "id": "kadis-00ff00ff", "kind": "synthetic", "images": 500, "mos_range": [1, 5]}
    return {
        "created": "2026-11-22",
        "command": "python -m benchmarks report --results R --out O",
        "datasets": [photos | {"licence": "CC BY 4.0", "note": EVIL}, kadis | {"licence": "own", "note": ""}],
        "rows": rows,
        "scatter": [plot | small, plot | large],
        "missing": ["scores of KADID"],
    }


@pytest.fixture(scope="module")
def looks(data, tmp_path_factory):
    """What the page shows for some URLs and after some clicks: every look is a frame in one run of Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium here")
    folder = tmp_path_factory.mktemp("page")
    (folder / "page.html").write_text(render(data), encoding="utf-8")
    (folder / "empty.html").write_text(render(data | {"rows": [], "scatter": []}), encoding="utf-8")
    wanted = {
        "default": ("page.html", "", 1280, []),
        "plcc": ("page.html", "#sort=plcc&order=desc", 1280, []),
        "gap": ("page.html", "#sort=plcc_logistic4&order=asc", 1280, []),
        "clicked": ("page.html", "", 1280, ["sort-seconds", "sort-seconds"]),
        "picked": ("page.html", "", 1280, ["pick-1", "more-1"]),
        "large": ("page.html", "#metric=psnr", 1280, []),
        "full-reference": ("page.html", "#mode=FR", 1280, []),
        "test split": ("page.html", "#split=test&metric=psnr", 1280, []),
        "few": ("page.html", "#budget=few-labels-50", 1280, []),
        "kadis": ("page.html", "#dataset=kadis", 1280, []),
        "kadis few": ("page.html", "#dataset=kadis&budget=few-labels-50", 1280, []),
        "unknown": ("page.html", "#dataset=no&budget=no&sort=no&order=no&mode=no&metric=no", 1280, []),
        "phone": ("page.html", "#metric=psnr", 360, ["more-0"]),
        "nothing": ("empty.html", "", 360, []),
    }
    harness = folder / "harness.html"
    harness.write_text(HARNESS.format(looks=json.dumps(wanted)), encoding="utf-8")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--allow-file-access-from-files"]
    flags += ["--virtual-time-budget=20000", "--window-size=1300,900", f"--user-data-dir={folder / 'profile'}"]
    run = subprocess.run([chromium, *flags, "--dump-dom", harness.as_uri()], capture_output=True, timeout=35)
    text = re.search(r"found (\{.*\}) end</pre>", run.stdout.decode(), re.DOTALL)
    assert text, (re.search("<pre.*?</pre>", run.stdout.decode(), re.DOTALL), run.stderr.decode()[-1000:])
    return json.loads(html.unescape(text[1]))


def test_the_data_in_the_page_are_the_data_and_cannot_leave_their_script(data):
    text = render(data | {"created": EVIL + "\u2028\u2029\ud800@@DATA@@"})
    text.encode("utf-8")
    embedded = re.search(r'<script type="application/json" id="data">([^<]*)</script>', text)[1]
    assert json.loads(embedded) == data | {"created": EVIL + "\u2028\u2029\ud800@@DATA@@"}
    assert not {"\u2028", "\u2029"} & set(text)
    plain = TEMPLATE.read_text(encoding="utf-8")
    assert [text.count(tag) for tag in ("<script", "</script", "<!--")] == [
        plain.count(t) for t in ("<script", "</script", "<!--")
    ]


def test_a_value_that_json_cannot_say_is_refused(data):
    broken = copy.deepcopy(data)
    broken["rows"][0]["srcc"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        render(broken)


def test_the_page_asks_the_network_for_nothing():
    text = TEMPLATE.read_text(encoding="utf-8")
    assert not re.search(r"""(src|href|action)\s*=\s*["']?(https?:)?//""", text)
    assert not re.search(
        r"@import|url\((?!#)|fetch\(|XMLHttpRequest|import\(|innerHTML|insertAdjacentHTML|document\.write", text
    )
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in text
    assert re.search(r"<html lang=.en.>.*<title>[^<]+</title>", text, re.DOTALL)


def test_measured_rows_stand_by_srcc_and_published_rows_apart(looks):
    page = looks["default"]
    assert page["measured"] == ["grepq-ll-a6464fbe", "psnr", "brisque", EVIL]
    assert page["sorted"] == [["srcc", "descending"]]
    assert page["published"] == ["CONTRIQUE", "Re-IQA"]
    assert page["files"] == []
    assert page["shownNames"][:2] == ["grepq-ll", "psnr"]
    assert page["sources"] == [f"A paper, table 2 {EVIL}"] * 2
    assert page["cells"]["psnr"]["srcc"][0] == "0.601 [0.561, 0.641]"
    assert "Intervals: 95 %." in page["caption"]
    assert "quartiles" in looks["few"]["caption"]
    assert looks["unknown"]["measured"] == page["measured"]


def test_every_column_sorts_by_url_and_by_its_button(looks):
    assert looks["plcc"]["measured"] == ["brisque", "grepq-ll-a6464fbe", "psnr", EVIL]
    assert looks["plcc"]["sorted"] == [["plcc", "descending"]]
    assert looks["gap"]["measured"][-1] == "brisque"  # has no such fit: last in both orders
    page = looks["clicked"]
    assert page["measured"] == [EVIL, "grepq-ll-a6464fbe", "brisque", "psnr"]
    assert page["sorted"] == [["seconds", "descending"]]
    assert page["hash"] == "#sort=seconds&order=desc"
    assert page["focus"] == "sort-seconds"


def test_dataset_budget_and_type_filter_the_rows(looks):
    assert looks["few"]["measured"] == ["brisque"]
    assert looks["few"]["published"] == []
    assert any("2 with another label budget" in text for text in looks["few"]["empty"])
    assert looks["full-reference"]["measured"] == looks["full-reference"]["speed"] == ["psnr"]
    assert looks["kadis"]["measured"] == ["psnr"]
    assert looks["kadis"]["cells"]["psnr"]["srcc"][0] == "-0.300"
    assert looks["test split"]["measured"] == ["brisque", "psnr"]
    assert looks["test split"]["published"] == looks["default"]["published"]
    assert "The row in the table is of 200 images" in looks["test split"]["scatter"]
    assert "synthetic" in looks["kadis"]["title"]
    assert "synthetic" in looks["kadis"]["dataset"]
    assert "synthetic" not in looks["default"]["title"]


def test_a_filter_without_rows_and_a_report_without_rows_say_so(looks):
    assert looks["kadis few"]["measured"] == []
    assert any("No measured row for this filter. 1 with another" in text for text in looks["kadis few"]["empty"])
    assert len(looks["kadis few"]["empty"]) == 5
    assert not looks["nothing"]["shown"]
    assert "No results yet" in " ".join(looks["nothing"]["empty"])


def test_a_fit_that_did_not_converge_is_named(looks):
    cells = looks["default"]["cells"]
    assert cells["brisque"]["plcc_logistic4"] == ["no fit", "logistic4: did not converge"]
    assert cells["brisque"]["plcc_logistic5"] == ["0.710", None]
    assert cells["brisque"]["failed"][0] == "3"


def test_plain_clip_is_marked_beside_its_row(looks):
    assert looks["default"]["badges"] == ["plain CLIP"]
    assert looks["kadis"]["badges"] == []


def test_the_scatter_and_the_residuals_are_the_selected_metrics(looks):
    page = looks["large"]
    assert (page["circles"], page["curves"]) == (2000, 1)
    assert "2,000 of 10,000 images drawn" in page["scatter"]
    assert page["links"] == ["images/9999.jpg"]
    assert len(page["residuals"]) == 3
    assert page["residuals"][0] == "images/9999.jpg10.2-0.4"
    page = looks["picked"]
    assert (page["circles"], page["curves"]) == (40, 0)
    assert "No fitted curve" in page["scatter"]
    assert "metric=brisque" in page["hash"]
    assert looks["default"]["circles"] == looks["few"]["circles"] == 0  # theirs are not stored
    assert any("grepq-ll" in text for text in looks["default"]["empty"])


def test_details_tell_where_a_row_is_from(looks):
    assert looks["default"]["details"] == []
    (text,) = looks["picked"]["details"]
    for part in (
        "python -m benchmarks run",
        "grepq-ll-a6464fbe" if "grepq" in text else "brisque",
        "logistic4: did not converge",
        EVIL,
        "weights",
        "a6464fbe",
        "threads",
    ):
        assert part in text


def test_the_speed_plot_has_a_mark_for_every_timed_metric(looks):
    assert looks["default"]["marks"] == 4
    assert looks["default"]["speed"][:3] == ["grepq-ll", "psnr", "brisque"]


def test_text_of_the_data_never_becomes_markup(looks):
    for name, page in looks.items():
        assert page["images"] == 0, name
        assert "eaderboard" in page["title"], name
    assert EVIL in looks["default"]["dataset"]


def test_on_a_phone_the_table_scrolls_and_the_page_does_not(looks):
    for name in ("phone", "nothing"):
        inside, needed = looks[name]["width"]
        assert 330 < inside <= 360
        assert needed <= inside
    assert looks["phone"]["sideways"] == [True]
    assert looks["default"]["width"][1] <= 1280


def test_on_a_phone_the_filters_do_not_fill_the_first_screen(looks):
    assert not looks["phone"]["filters"]
    assert looks["default"]["filters"]


def test_scores_from_files_stand_apart_from_what_was_measured_here(looks):
    page = looks["test split"]
    assert page["files"] == ["theirs-0a0b0c0d"]
    assert "theirs-0a0b0c0d" not in page["measured"]
    assert "theirs-0a0b0c0d" not in page["speed"]


def test_thumbnails_are_pictures_within_the_page_and_nothing_else(looks):
    assert looks["large"]["pictures"] == [PICTURE]
    assert looks["picked"]["pictures"] == []


def test_what_could_not_be_reported_is_said(looks):
    assert looks["default"]["missing"] == ["Not reported: scores of KADID"]
