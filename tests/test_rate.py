"""Promises of `grepq rate`: this machine alone, no photo but the sheet's, each rating in the sheet at once, nothing lost."""

import csv
import http.client
import json
import os
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest
from PIL import Image

from grepq_metric.cli.rate import RatingServer
from grepq_metric.heads.labels import RatingSheet, read_labels
from tests.command import GREPQ, grepq

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


@pytest.fixture
def folder(photo_folder, tmp_path):
    """Three photos, one of them a TIFF, which browsers do not show, and a sheet of a spreadsheet's kind."""
    for name in ("cat", "stereo"):
        os.link(photo_folder / f"{name}.png", tmp_path / f"{name}.png")
    with Image.open(photo_folder / "rocket.png") as rocket:
        rocket.save(tmp_path / "rocket.tif")
    (tmp_path / "secret.png").write_bytes((photo_folder / "coffee.png").read_bytes())
    lines = ["\ufeffcamera;image;mos", "phone;cat.png;", '"a; b";rocket.tif;4', "phone;./stereo.png;", ""]
    (tmp_path / "labels.csv").write_bytes("\r\n".join(lines).encode())
    return tmp_path


@pytest.fixture
def server(folder):
    server = RatingServer(RatingSheet(folder / "labels.csv"))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def ask(server, place, content=None, token=None, path=None, method=None, **headers):
    """Status, headers and content of an answer."""
    data = None if content is None else json.dumps(content).encode()
    given = {"X-Token": server.token} if data and token is None else {"X-Token": token} if token else {}
    url = path or f"/{server.token}/{place}"
    request = urllib.request.Request(f"http://127.0.0.1:{server.server_port}{url}", data, {**given, **headers}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def status(*args, **options):
    return ask(*args, **options)[0]


def test_the_page_is_served_to_this_machine_alone(server):
    code, headers, page = ask(server, "")
    assert code == 200
    assert server.server_address[0] == "127.0.0.1"
    assert len(server.token) >= 32
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'nonce-")
    assert "unsafe" not in policy
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert not [name for name in headers if name.startswith("Access-Control")]
    assert b"{{" not in page
    assert b"http" not in page.replace(b"https", b"http")  # nothing of elsewhere
    assert ask(server, "")[1]["Content-Security-Policy"] != policy


def test_without_the_secret_all_is_refused(server):
    wrong = "x" * len(server.token)
    for path in ("/", "/state", f"/{wrong}/", f"/{wrong}/photo/0", f"/{server.token[:-1]}/state", "//", "/../"):
        code, _, content = ask(server, "", path=path)
        assert code == 403, path
        assert server.token.encode() not in content
    for method in ("HEAD", "OPTIONS", "PUT", "DELETE"):
        assert status(server, "", path=f"/{wrong}/", method=method) == 403
        assert status(server, "", method=method) == 405
    rating = {"photo": 0, "rating": 1}
    assert status(server, "rate", rating, token=wrong) == 403
    assert status(server, "rate", rating, path=f"/{wrong}/rate") == 403
    data = json.dumps(rating).encode()
    request = urllib.request.Request(f"{server.url}rate", data)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request)
    assert server.sheet.ratings == ["", "4", ""]


def test_other_hosts_and_pages_are_refused(server):
    port, rating = server.server_port, {"photo": 0, "rating": 1}
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}", f"[::1]:{port}", ""):
        assert status(server, "", Host=host) == 403, host
        assert status(server, "rate", rating, Host=host) == 403, host
    for origin in (
        "http://evil.example",
        "null",
        f"https://127.0.0.1:{port}",
        "http://127.0.0.1",
        f"http://127.0.0.1:{port}/",
    ):
        assert status(server, "state", Origin=origin) == 403, origin
        assert status(server, "rate", rating, Origin=origin) == 403, origin
    assert server.sheet.ratings == ["", "4", ""]
    for name in ("localhost", "127.0.0.1"):
        assert status(server, "state", Host=f"{name}:{port}", Origin=f"http://{name}:{port}") == 200


def test_photos_are_those_of_the_sheet_by_number(server, folder):
    code, headers, content = ask(server, "photo/0")
    assert (code, headers["Content-Type"], headers["X-Content-Type-Options"]) == (200, "image/png", "nosniff")
    assert content == (folder / "cat.png").read_bytes()
    for place in (
        *("photo/3", "photo/-1", "photo/", "photo/0/", "photo/00000000000", "photo/secret.png", "photo/../secret.png"),
        *("secret.png", "photo/..%2fsecret.png", "photo/%2e%2e/secret.png", "../secret.png", "labels.csv", "photo/0?x"),
    ):
        assert status(server, place) == 404, place


def test_what_browsers_do_not_show_comes_as_jpeg_and_what_can_not_be_read_as_its_error(server, folder):
    code, headers, content = ask(server, "photo/1")
    assert (code, headers["Content-Type"], content[:2]) == (200, "image/jpeg", b"\xff\xd8")
    (folder / "cat.png").unlink()
    (folder / "stereo.png").unlink()
    (folder / "stereo.png").write_bytes(b"no photo")
    for number, name in ((0, "cat.png"), (2, "stereo.png")):
        code, _, content = ask(server, f"photo/{number}")
        assert code == 422
        assert name in json.loads(content)["error"]


def test_each_rating_is_in_the_sheet_at_once_and_all_else_stays(server, folder):
    def lines():
        return (folder / "labels.csv").read_bytes().decode().split("\r\n")

    before = lines()
    assert status(server, "rate", {"photo": 2, "rating": 5}) == 200
    assert lines() == [*before[:3], "phone;./stereo.png;5", ""]
    assert status(server, "rate", {"photo": 0, "rating": 1}) == 200
    assert status(server, "rate", {"photo": 2, "rating": None}) == 200
    assert lines() == [before[0], "phone;cat.png;1", before[2], "phone;./stereo.png;", ""]
    assert json.loads(ask(server, "state")[2])["ratings"] == ["1", "4", ""]
    assert [path.name for path in folder.iterdir() if path.name.endswith(".csv")] == ["labels.csv"]
    labels = read_labels(folder / "labels.csv")  # which `grepq fit` reads: partly filled
    assert (labels.mos.tolist(), labels.unrated) == ([1, 4], 1)


@pytest.mark.parametrize(
    "content",
    [
        {"photo": 0, "rating": 6},
        {"photo": 0, "rating": 0},
        {"photo": 0, "rating": 1.5},
        {"photo": 0, "rating": True},
        {"photo": 0, "rating": "=1+1"},
        {"photo": 3, "rating": 1},
        {"photo": -1, "rating": 1},
        {"photo": True, "rating": 1},
        {"photo": 0},
        [1],
        "x",
    ],
)
def test_what_is_no_rating_is_refused(server, content):
    assert status(server, "rate", content) == 400
    assert server.sheet.ratings == ["", "4", ""]


def test_a_body_is_not_read_without_end(server):
    assert status(server, "rate", {"photo": 0, "rating": "x" * 2000}) == 413
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.putrequest("POST", f"/{server.token}/rate")
    connection.putheader("X-Token", server.token)
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    assert connection.getresponse().status == 413


def test_a_sheet_that_another_program_has_changed_is_left_alone(server, folder):
    changed = (folder / "labels.csv").read_bytes().replace(b"phone", b"telephone")
    (folder / "labels.csv").write_bytes(changed)
    code, _, content = ask(server, "rate", {"photo": 0, "rating": 1})
    assert code == 500
    assert "changed by another program" in json.loads(content)["error"]
    assert (folder / "labels.csv").read_bytes() == changed


def test_a_link_to_a_sheet_and_its_permissions_stay(folder):
    (folder / "link.csv").symlink_to("labels.csv")
    (folder / "labels.csv").chmod(0o640)
    RatingSheet(folder / "link.csv").rate(0, 3)
    assert (folder / "link.csv").is_symlink()
    assert (folder / "labels.csv").stat().st_mode & 0o777 == 0o640
    assert RatingSheet(folder / "labels.csv").ratings == ["3", "4", ""]


def test_the_order_is_random_and_the_same_for_a_seed(folder):
    (folder / "many.csv").write_text("image,mos\n" + "".join(f"{i}.png,\n" for i in range(30)))
    orders = []
    for seed in (0, 0, 1):
        server = RatingServer(RatingSheet(folder / "many.csv"), seed=seed)
        orders.append(server.order)
        server.server_close()
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(30)) != orders[0]


@pytest.mark.parametrize(
    ("lines", "arguments", "message"),
    [
        (["image,mos", "a.png,", "./a.png,"], [], "one photo twice"),
        (["image,mos", "a.png"], [], "expected 2 fields, got 1"),
        (["image,mos", ",3"], [], "expected a photo in column 'image'"),
        (["image,mos"], [], "has no rows"),
        (["image", "a.png"], [], "no column 'mos'"),
        (["image,mos", "a.png,"], ["--scale", "5", "1"], "--scale must be two rising whole numbers"),
        (["image,mos", "a.png,"], ["--scale", "0", "10"], "at most 10 steps"),
        (["image,mos", "a.png,"], ["--root", "absent"], "no such folder of photos"),
    ],
)
def test_what_is_wrong_with_a_sheet_is_one_line(tmp_path, lines, arguments, message):
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    told = grepq("rate", tmp_path / "labels.csv", "--no-open", *arguments, status=2).stderr
    assert message in told
    assert told.strip().count("\n") == 0


def started(sheet, *arguments):
    """`grepq rate` in a process of its own, and the address that it prints."""
    command = [*GREPQ, "rate", str(sheet), "--no-open", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return process, process.stdout.readline().strip()


def test_ctrl_c_tells_what_is_rated_and_what_comes_next(folder):
    process, url = started(folder / "labels.csv")
    with urllib.request.urlopen(f"{url}state") as answer:
        assert json.loads(answer.read())["scale"] == [1, 5]
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 0, told
    assert "3 photos, 1 rated; end with Ctrl-C" in told
    assert f"1 of 3 photos are rated, in {folder / 'labels.csv'}" in told
    assert f"next: grepq fit {folder / 'labels.csv'} -o head.safetensors" in told


@pytest.fixture
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="a browser is driven by selenium (group: test)")
    if not (CHROMIUM and DRIVER):
        pytest.skip("needs Chromium and its driver (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1000,760"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.05)


def test_keys_fill_the_sheet_in_a_browser(browser, folder):
    from selenium.webdriver.common.keys import Keys

    def mos():
        with (folder / "labels.csv").open(encoding="utf-8-sig", newline="") as stream:
            return {row["image"]: row["mos"] for row in csv.DictReader(stream, delimiter=";")}

    def press(key):
        browser.switch_to.active_element.send_keys(key)

    def text(name):
        return browser.find_element("id", name).text

    def shown():
        """The number of the photo, once it is there and its factor is told."""
        return browser.execute_script(
            "const image = document.querySelector('#stage img');"
            "return image && document.querySelector('#factor').textContent ? image.src.split('/').pop() : null"
        )

    process, url = started(folder / "labels.csv")
    browser.get(url)
    until(lambda: shown() in ("0", "2"))
    first = shown()
    assert text("count") == "1 of 3 rated"
    press(Keys.ARROW_RIGHT)  # skipped
    until(lambda: shown() not in (None, first))
    second = shown()
    press("6")  # not on the scale
    press("2")
    names = {"0": "cat.png", "2": "./stereo.png"}
    until(lambda: mos()[names[second]] == "2")
    until(lambda: shown() == first)  # what was skipped comes again
    press(Keys.ARROW_LEFT)
    until(lambda: shown() == second)
    assert browser.find_element("css selector", "[aria-pressed=true]").get_attribute("data-value") == "2"
    press("3")
    until(lambda: mos()[names[second]] == "3")
    until(lambda: shown() == first)
    assert "100 %" in text("factor")
    browser.refresh()  # and goes on where it was
    until(lambda: shown() == first)
    assert not browser.find_element("id", "finish").is_displayed()
    browser.find_element("css selector", "#steps button:last-child").click()
    until(lambda: mos() == {names[first]: "5", names[second]: "3", "rocket.tif": "4"})
    until(lambda: browser.find_element("id", "finish").is_displayed())
    browser.find_element("id", "finish").click()
    until(lambda: "Finished" in text("stage"))
    assert "3 of 3 photos are rated" in process.communicate(timeout=60)[1]
    assert process.returncode == 0
    told = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not told


def test_the_page_works_on_a_phone_and_reduces_large_photos(browser, folder, photo_folder):
    with Image.open(photo_folder / "coffee.png") as photo:
        photo.resize((3000, 2000)).save(folder / "large.jpg")
    (folder / "labels.csv").write_text("image,mos\nlarge.jpg,\nabsent.png,\n")
    process, url = started(folder / "labels.csv", "--scale", 0, 9)
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 640, "deviceScaleFactor": 2, "mobile": True}
    )
    browser.get(url)
    stage = browser.find_element("id", "stage")
    seen = set()
    for _ in range(2):
        until(lambda: (stage.text and "Loading" not in stage.text) or browser.find_element("id", "factor").text)
        if stage.text:
            assert "no such file" in stage.text
            seen.add("absent")
        else:
            # 360 points of two pixels each, for 3,000
            assert browser.find_element("id", "factor").text == "reduced to 24 %"
            browser.find_element("id", "zoom").click()
            until(lambda: browser.find_element("id", "factor").text == "100 %")
            assert browser.execute_script("return document.querySelector('#stage').scrollWidth") == 1500
            browser.find_element("id", "zoom").click()
            seen.add("large")
        width = browser.execute_script("return document.documentElement.scrollWidth")
        assert width <= 360
        buttons = browser.find_elements("css selector", "#steps button")
        assert len(buttons) == 10
        assert all(b.size["height"] >= 40 and b.location["x"] + b.size["width"] <= 360 for b in buttons)
        before = stage.get_attribute("innerHTML")
        browser.find_element("id", "skip").click()
        until(lambda before=before: stage.get_attribute("innerHTML") != before)
    assert seen == {"absent", "large"}
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
