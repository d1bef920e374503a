"""Promises of the command line: every format, every kind of path, errors as rows, nothing lost."""

import csv
import io
import json
import os
import subprocess
import sys

import pytest
from PIL import Image

import grepq_metric
from grepq_metric import GRepQ, catalog, read_image
from grepq_metric.cli.overlay import LEGEND
from tests.command import GREPQ, grepq


@pytest.fixture(scope="module")
def scores(photo_folder):
    model = GRepQ.from_pretrained(catalog.DEFAULT)
    return {p.name: model(read_image(p).unsqueeze(0)).item() for p in photo_folder.iterdir()}


def test_help_names_every_command_and_loads_no_torch():
    text = grepq("--help").stdout
    commands = ("score", "gallery", "compare", "fit", "rate", "threshold", "info", "convert", "train", "pristine", "publish")
    for command in commands:
        assert command in text
        assert "--help" in grepq(command, "--help").stdout
    assert "--resume" in grepq("train", "low", "--help").stdout
    code = "import sys; from grepq_metric import cli; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_version_and_info():
    assert grepq("--version").stdout.strip() == f"grepq {grepq_metric.__version__}"
    text = grepq("info").stdout
    for name in catalog.names():
        assert name in text
    described = grepq("info", "grepq-ll").stdout
    assert described.startswith(GRepQ.from_pretrained("grepq-ll").weights_id)
    assert json.loads(described.partition("\n")[2])["provenance"]["photos_sha256"]


def test_json_of_a_folder(photo_folder, scores):
    result = grepq("score", photo_folder, "--format", "json")
    assert result.stdout == grepq("score", photo_folder, "--format", "json", "--metric", catalog.DEFAULT).stdout
    rows = json.loads(result.stdout)
    assert [os.path.basename(r["path"]) for r in rows] == sorted(scores)
    for row in rows:
        assert row["score"] == pytest.approx(scores[os.path.basename(row["path"])], abs=1e-6)
        assert row["semantic"] == row["score"]
        assert row["low"] is row["high"] is None
        assert row["error"] is None
    sizes = {os.path.basename(r["path"]): (r["width"], r["height"]) for r in rows}
    assert sizes["cat.png"] == (451, 300)
    assert GRepQ.from_pretrained(catalog.DEFAULT).weights_id in result.stderr


def test_each_pathway_has_its_column(photo_folder):
    def score(metric):
        (row,) = json.loads(grepq("score", photo_folder / "cat.png", "--metric", metric, "--format", "json").stdout)
        assert row["error"] is row["high"] is None
        return row

    low, semantic, both = map(score, ("grepq-ll", "grepq-sem", "grepq-lite"))
    assert low["low"] == low["score"]
    assert low["semantic"] is semantic["low"] is None
    assert both["semantic"] == semantic["score"]
    assert both["score"] == pytest.approx(both["low"] + both["semantic"], abs=1e-5)
    assert list(both)[:5] == ["path", "score", "low", "semantic", "high"]


def test_paths_come_back_as_given(photo_folder, scores):
    for path in ("cat.png", "./cat.png", "../" + photo_folder.name + "/cat.png", str(photo_folder / "cat.png")):
        (row,) = map(json.loads, grepq("score", path, "--format", "jsonl", cwd=photo_folder).stdout.splitlines())
        assert row["path"] == path
    names = ["cat.png", "./coffee.png"]
    listed = grepq("score", "-", "--format", "csv", stdin="\n".join(names), cwd=photo_folder).stdout
    rows = list(csv.DictReader(io.StringIO(listed)))
    assert [r["path"] for r in rows] == names
    assert float(rows[0]["score"]) == pytest.approx(scores["cat.png"], abs=1e-6)
    rows = json.loads(grepq("score", "./c*.png", "--format", "json", cwd=photo_folder).stdout)
    assert [r["path"] for r in rows] == ["./cat.png", "./coffee.png"]


def test_what_can_not_be_read_is_a_row_and_the_rest_is_scored(photo_folder, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no photo")
    args = [tmp_path / "broken.jpg", photo_folder / "stereo.png", tmp_path / "absent.png", tmp_path / "no*.png"]
    for format in ("json", "jsonl", "csv", "table"):
        result = grepq("score", *args, "--format", format, status=1)
        assert "3 of the photos could not be scored" in result.stderr
        assert all(os.path.basename(path) in result.stdout for path in args)
    result = grepq("score", *args, "--format", "json", status=1)
    rows = json.loads(result.stdout)
    assert [r["score"] is None for r in rows] == [True, False, True, True]
    assert "cannot read" in rows[0]["error"]
    assert "no such file" in rows[2]["error"]


def test_output_goes_to_a_file_as_it_is_computed(photo_folder, scores, tmp_path):
    out = tmp_path / "scores.jsonl"
    process = subprocess.Popen(
        [*GREPQ, "score", "-", "--format", "jsonl", "--output", str(out)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for name in sorted(scores)[:4]:
        process.stdin.write(f"{photo_folder / name}\n")
    process.stdin.flush()
    for _ in range(600):
        if out.exists() and out.read_text().count("\n") >= 1:
            break
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1)
    process.kill()
    process.wait()
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) >= 1
    assert rows[0]["score"] == pytest.approx(scores[sorted(scores)[0]], abs=1e-6)


def test_a_path_on_a_pipe_is_scored_before_the_next_one_comes(photo_folder, scores):
    process = subprocess.Popen(
        [*GREPQ, "score", "-", "--format", "jsonl"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    for name in ("stereo.png", "rocket.png"):
        process.stdin.write(f"{photo_folder / name}\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["score"] == pytest.approx(scores[name], abs=1e-6)
    process.stdin.close()
    assert process.wait(60) == 0


def test_a_photo_that_breaks_the_map_does_not_end_the_run(photo_folder, tmp_path):
    """OpenCV draws no picture with a side of 32,768 pixels or more."""
    Image.new("RGB", (33000, 97)).save(tmp_path / "wide.png")
    result = grepq(
        "score", tmp_path / "wide.png", photo_folder / "stereo.png", "--format", "json", "--map", tmp_path, status=1
    )
    rows = json.loads(result.stdout)
    assert [r["error"] is None for r in rows] == [False, True]
    assert all(r["score"] > 0 for r in rows)


def test_a_closed_pipe_is_no_error(photo_folder):
    command = f"{sys.executable} -c 'from grepq_metric.cli import main; main()' score {photo_folder} --format csv | head -n 1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert result.stdout == "path,score,low,semantic,high,width,height,warning,error\n"
    assert "Traceback" not in result.stderr
    assert "BrokenPipe" not in result.stderr


def test_maps_are_drawn(photo_folder, tmp_path):
    args = ["score", "cat.png", "stereo.png", "--map", tmp_path / "maps", "--format", "json"]
    rows = json.loads(grepq(*args, cwd=photo_folder).stdout)
    for row, name, size in zip(rows, ("cat", "stereo"), ((451, 300), (96, 96)), strict=True):
        assert row["map"] == str(tmp_path / "maps" / f"{name}.png.map.png")
        with Image.open(row["map"]) as image:
            assert image.size == (size[0], size[1] + LEGEND)


def test_maps_have_readable_names_which_do_not_collide(photo_folder, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").write_bytes((photo_folder / "stereo.png").read_bytes())
    (tmp_path / "a__x.png").write_bytes((photo_folder / "stereo.png").read_bytes())
    rows = json.loads(
        grepq("score", "a/x.png", "./b/x.png", "a__x.png", "--map", "maps", "--format", "json", cwd=tmp_path).stdout
    )
    names = ["a__x.png.map.png", "b__x.png.map.png", "a__x.png-2.map.png"]
    assert [os.path.basename(row["map"]) for row in rows] == names
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == sorted(names)


def test_a_map_needs_a_pathway_that_has_one(model, photo_folder, tmp_path):
    model.save_pretrained(tmp_path / "weights")
    arguments = ["--weights", tmp_path / "weights", "--metric", "grepq-hl", "--map", tmp_path / "maps"]
    told = grepq("score", photo_folder / "cat.png", *arguments, status=2).stderr
    assert "--map needs the semantic or the low-level pathway" in told


@pytest.mark.parametrize("name", ["grepq-ll", "grepq-sem", "grepq-lite"])
def test_a_map_shows_where_a_photo_is_blurred(photos, name):
    import torch
    import torchvision.transforms.v2.functional as TF

    from grepq_metric.cli.overlay import draw

    model = GRepQ.from_pretrained(name)
    x = photos["astronaut"][..., :192, :256].clone()
    blurred = x.clone()
    blurred[..., 128:] = TF.gaussian_blur(x[..., 128:], 31, 6.0)
    tints = []
    for photo in (x, blurred):
        with torch.inference_mode():
            drawn = draw(model, photo)[:-LEGEND].astype(float)
        tints.append(abs(drawn - (photo[0].flip(0).permute(1, 2, 0) * 255).numpy()).mean(2))
    rise = tints[1] - tints[0]
    near, far = rise[:, 160:].mean(), abs(rise[:, :48]).mean()
    assert near > 20
    assert far < (1 if name == "grepq-ll" else near / 2)  # the semantic network sees farther than a patch


def test_weights_decide_the_pathways_alone_and_the_metric_chooses(model, photo_folder, tmp_path):
    model.save_pretrained(tmp_path)
    photo = photo_folder / "stereo.png"
    (row,) = json.loads(grepq("score", photo, "--weights", tmp_path, "--format", "json").stdout)
    assert row["high"] is not None
    assert row["score"] == pytest.approx(row["low"] + row["high"], abs=1e-5)
    (low,) = json.loads(grepq("score", photo, "--weights", tmp_path, "--metric", "grepq-ll", "--format", "json").stdout)
    assert low["high"] is None
    assert low["score"] == row["low"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["score", "x.png", "--metric", "niqe"], "unknown metric 'niqe'"),
        (["score", "x.png", "--weights", "grepq-xx"], "unknown weights 'grepq-xx'"),
        (["score", "x.png", "--weights", "./nowhere"], "no weights at nowhere"),
        (["score", "x.png", "--device", "tpu9"], "cannot use device 'tpu9'"),
        (["score", "x.png", "--output", "/nowhere/out.csv"], "no such folder: /nowhere"),
        (["info", "grepq_ll"], "did you mean 'grepq-ll'"),
        (["convert", "-o", "x"], "nothing to convert"),
        (["train", "low", "--photos", "/nowhere", "--out", "x"], "/nowhere"),
        (["train", "low", "--photos", ".", "--out", "x", "--set", "grid"], "NAME=VALUE"),
        (
            ["train", "high", "--photos", "tests", "--clip", "absent.pt", "--out", "x", "--batch", "4"],
            "group must be a whole number from 2 to 2, got 4",
        ),
        (["publish", "/nowhere", "--repo", "user/name"], "/nowhere"),
        (["train", "low", "--photos", ".", "--out", "x", "--recipe", "none"], "unknown recipe 'none'"),
        (["train", "low", "--photos", ".", "--out", "x", "--set", "types=fog"], "unknown distortion types"),
        (
            ["pristine", "--photos", "/nowhere", "--weights", "/nowhere", "-o", "x"],
            "no such folder, list or shard of photos: /nowhere",
        ),
    ],
)
def test_expected_errors_are_one_line(args, message, tmp_path):
    result = grepq(*args, status=2, cwd=tmp_path)
    assert message in result.stderr
    assert result.stderr.strip().count("\n") == 0


def test_an_expected_error_is_one_line_in_a_process_of_its_own():
    result = subprocess.run([*GREPQ, "score", "x.png", "--metric", "niqe"], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("error: unknown metric 'niqe'")
    assert result.stderr.count("\n") == 1


def test_an_error_shows_its_traceback_when_asked_to_and_a_defect_always(monkeypatch):
    args = [*GREPQ, "score", "x.png", "--metric", "niqe"]
    result = subprocess.run(args, capture_output=True, text=True, env={**os.environ, "GREPQ_DEBUG": "1"})
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "InputError: unknown metric 'niqe'" in result.stderr

    def defect(*args, **options):
        raise ValueError("a defect")

    monkeypatch.setattr("grepq_metric.models.base.QualityModel.from_parts", defect)
    with pytest.raises(ValueError, match="a defect"):
        grepq("score", "x.png")


def test_errors_are_one_line_whatever_a_message_holds(monkeypatch):
    def fail(*args, **options):
        raise OSError("two\nlines \x1b[31m")

    monkeypatch.setattr("grepq_metric.models.base.QualityModel.from_parts", fail)
    assert grepq("score", "x.png", status=2).stderr == "error: two lines \\x1b[31m\n"


def test_ctrl_c_is_one_word(monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("grepq_metric.models.base.QualityModel.from_parts", stop)
    result = grepq("score", "x.png", status=130)
    assert result.stderr.splitlines()[-1] == "interrupted"


def test_the_package_runs_as_a_module():
    result = subprocess.run([sys.executable, "-m", "grepq_metric", "--version"], capture_output=True, text=True)
    assert result.stdout.strip() == f"grepq {grepq_metric.__version__}"


def test_help_shows_examples():
    for command in ("score", "info"):
        text = grepq(command, "--help").stdout
        assert "Examples" in text
        assert "README" not in text


def test_info_lists_tags():
    text = grepq("info").stdout
    for entry in catalog.ENTRIES:
        assert entry.tag in text


@pytest.fixture(scope="module")
def head(photo_folder, tmp_path_factory):
    """A head that was fitted to made-up opinion scores of the photos."""
    from grepq_metric import GRepQRegressor

    path = tmp_path_factory.mktemp("head") / "mos.safetensors"
    photos = sorted(photo_folder.iterdir())
    GRepQRegressor("grepq-ll", features="image").fit(photos, [10 + 13 * i for i in range(len(photos))]).save(path)
    return path


def test_with_a_head_the_columns_are_of_mos(photo_folder, head):
    from grepq_metric import GRepQRegressor

    photo = photo_folder / "cat.png"
    expected = GRepQRegressor.load(head, "grepq-ll").predict([photo])[0]
    (row,) = json.loads(grepq("score", photo, "--metric", "grepq-ll", "--head", head, "--format", "json").stdout)
    assert list(row) == ["path", "mos", "width", "height", "warning", "error"]
    assert row["mos"] == pytest.approx(expected, rel=1e-4)
    arguments = ["--metric", "grepq-ll", "--head", head, "--interval", "0.5", "--format", "json"]
    (row,) = json.loads(grepq("score", photo, *arguments).stdout)
    assert list(row)[1:4] == ["mos", "mos_low", "mos_high"]
    assert row["mos_low"] < row["mos"] < row["mos_high"]
    assert "--head" in grepq("score", photo, "--interval", "0.9", status=2).stderr
    assert "between 0 and 1" in grepq("score", photo, "--head", head, "--interval", "90", status=2).stderr


def test_info_describes_a_head(head):
    facts = json.loads(grepq("info", head).stdout)
    assert facts["labels"] == 6
    assert facts["weights_id"] == GRepQ.from_pretrained("grepq-ll").weights_id


def test_info_needs_nothing_that_another_command_has_loaded():
    done = subprocess.run([*GREPQ, "info"], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "grepq-sem, tag grepq-sem." in done.stdout
