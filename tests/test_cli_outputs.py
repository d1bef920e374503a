"""Promise: the command line destroys nothing. Outputs never replace inputs, and other files only when told to.

What was computed is kept, whatever ends a run, and a later run goes on after it.
"""

import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.command import GREPQ, grepq


@pytest.fixture
def folder(photo_folder, tmp_path):
    """A folder of two photos of a test's own."""
    for name in ("stereo.png", "rocket.png"):
        (tmp_path / name).write_bytes((photo_folder / name).read_bytes())
    return tmp_path


def unchanged(folder, photo_folder):
    return all((folder / name).read_bytes() == (photo_folder / name).read_bytes() for name in ("stereo.png", "rocket.png"))


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
@pytest.mark.parametrize("how", ["itself", "hard link", "symbolic link", "in a folder", "standard input"])
def test_an_output_that_is_an_input_is_refused(folder, photo_folder, how, overwrite):
    output, given, stdin = folder / "stereo.png", ["stereo.png"], ""
    if how == "hard link":
        output = folder / "link.csv"
        os.link(folder / "stereo.png", output)
    elif how == "symbolic link":
        output = folder / "link.csv"
        output.symlink_to("stereo.png")
    elif how == "in a folder":
        given = ["."]
    elif how == "standard input":
        given, stdin = ["-"], "rocket.png\nstereo.png\n"
    result = grepq("score", *given, "-o", output, "--format", "csv", *overwrite, status=2, stdin=stdin, cwd=folder)
    assert "one of the inputs" in result.stderr or (how == "standard input" and not overwrite and "exists" in result.stderr)
    assert unchanged(folder, photo_folder)


def test_a_head_is_no_output(folder):
    (folder / "head.safetensors").write_bytes(b"head")
    args = ["score", "stereo.png", "--head", "head.safetensors", "-o", "head.safetensors", "--format", "csv", "--overwrite"]
    assert "one of the inputs" in grepq(*args, status=2, cwd=folder).stderr
    assert (folder / "head.safetensors").read_bytes() == b"head"


def test_a_finished_file_is_kept_until_overwrite(folder, monkeypatch):
    grepq("score", "stereo.png", "-o", "scores.csv", cwd=folder)
    before = (folder / "scores.csv").read_bytes()
    with monkeypatch.context() as patch:  # refused before the model is loaded
        patch.setattr("grepq_metric.models.base.QualityModel.from_parts", None)
        result = grepq("score", "stereo.png", "-o", "scores.csv", status=2, cwd=folder)
    assert "exists" in result.stderr
    assert "--overwrite" in result.stderr
    assert (folder / "scores.csv").read_bytes() == before
    grepq("score", ".", "-o", "scores.csv", "--overwrite", cwd=folder)
    assert (folder / "scores.csv").read_text().count("\n") == 3


def test_a_run_that_fails_early_leaves_no_file(folder):
    grepq("score", "stereo.png", "-o", "scores.csv", "--weights", "./nowhere", status=2, cwd=folder)
    grepq("score", "-", "-o", "scores.csv", stdin="\n", status=2, cwd=folder)
    assert not (folder / "scores.csv").exists()


@pytest.mark.parametrize("stdin", [False, True])
def test_maps_replace_neither_inputs_nor_other_files(folder, photo_folder, stdin):
    (folder / "stereo.png.map.png").write_bytes((photo_folder / "cat.png").read_bytes())
    given = ["-"] if stdin else ["stereo.png"]
    names = "stereo.png\n" if stdin else ""
    status = 1 if stdin else 2  # the names are not known before
    result = grepq("score", *given, "--map", ".", stdin=names, status=status, cwd=folder)
    assert "exists" in result.stderr + result.stdout
    given = ["-"] if stdin else ["stereo.png", "stereo.png.map.png"]
    names = "stereo.png\nstereo.png.map.png\n" if stdin else ""
    result = grepq("score", *given, "--map", ".", "--overwrite", stdin=names, status=2, cwd=folder)
    assert "one of the inputs" in result.stderr
    assert (folder / "stereo.png.map.png").read_bytes() == (photo_folder / "cat.png").read_bytes()
    grepq("score", "stereo.png", "--map", ".", "--overwrite", cwd=folder)
    assert (folder / "stereo.png.map.png").read_bytes() != (photo_folder / "cat.png").read_bytes()


@pytest.mark.parametrize(
    ("name", "start"), [("a.csv", "path,score"), ("a.json", "["), ("a.jsonl", "{"), ("a.txt", "   score")]
)
def test_the_format_follows_the_name(folder, name, start):
    grepq("score", "stereo.png", "-o", name, cwd=folder)
    assert (folder / name).read_text().startswith(start)


def test_the_format_option_wins_and_an_odd_name_needs_it(folder):
    grepq("score", "stereo.png", "-o", "a.csv", "--format", "jsonl", cwd=folder)
    assert json.loads((folder / "a.csv").read_text())["error"] is None
    assert "--format" in grepq("score", "stereo.png", "-o", "a.jpg", status=2, cwd=folder).stderr
    assert not (folder / "a.jpg").exists()


@pytest.mark.parametrize("format", ["csv", "json", "jsonl", "table"])
def test_scores_have_six_digits(folder, format):
    text = grepq("score", "stereo.png", "--format", format, cwd=folder).stdout
    digits = [word for word in text.replace(",", " ").split() if word.startswith("0.")]
    assert digits
    assert all(len(word) <= 8 for word in digits)


@pytest.mark.parametrize("format", ["csv", "json", "jsonl", "table"])
def test_a_score_that_is_no_number_is_an_error_and_json_stays_valid(folder, monkeypatch, format):
    import torch

    from grepq_metric import GRepQ

    def broken(self, x):
        part = torch.tensor([[float("nan")]])
        return {"score": part, "low": part, "semantic": None, "high": None, "distance": part}

    monkeypatch.setattr(GRepQ, "components", broken)
    text = grepq("score", "stereo.png", "--format", format, status=1, cwd=folder).stdout
    assert "no finite number" in text
    assert "NaN" not in text
    if "json" in format:
        (row,) = json.loads(text) if format == "json" else [json.loads(text)]
        assert row["score"] is None


def test_ctrl_c_says_how_many_are_done_and_keeps_them(folder):
    for i in range(200):
        os.link(folder / "stereo.png", folder / f"{i:03}.png")
    out = folder / "scores.json"
    process = subprocess.Popen(
        [*GREPQ, "score", str(folder), "-o", str(out)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    for _ in range(600):
        if out.exists() and out.read_text().count("\n") >= 3:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    rows = json.loads(out.read_text())
    assert f"interrupted: {len(rows)} photos are done, kept in {out}" in told
    assert "Traceback" not in told


def test_a_full_disk_cuts_no_row_and_is_named(folder):
    """A limit on the size of files stands for the disk."""
    for i in range(20):
        os.link(folder / "stereo.png", folder / f"{i:03}.png")

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    out = folder / "scores.jsonl"
    command = [*GREPQ, "score", str(folder), "-o", str(out)]
    result = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    assert result.returncode == 2
    assert f"cannot write {out}" in result.stderr
    assert "Traceback" not in result.stderr
    rows = out.read_text()
    assert rows.endswith("\n")
    assert all(json.loads(row)["error"] is None for row in rows.splitlines())


def test_a_map_that_can_not_be_written_leaves_no_file(folder):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    command = [*GREPQ, "score", str(folder / "stereo.png"), "--map", str(folder / "maps"), "--format", "jsonl"]
    result = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    assert result.returncode == 1
    assert "stereo.png.map.png" in json.loads(result.stdout)["error"]
    assert list((folder / "maps").iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_full_standard_output_is_one_line(folder):
    command = f"{sys.executable} -m grepq_metric score {folder}/stereo.png > /dev/full"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert result.returncode == 2
    assert "cannot write standard output" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Exception" not in result.stderr


def test_devices_may_be_written_to(folder):
    assert "written to /dev/null" in grepq("score", "stereo.png", "-o", "/dev/null", cwd=folder).stderr


@pytest.mark.parametrize(
    ("closed", "args", "says"), [("<&-", "-", "standard input is closed"), (">&-", "x.png", "output is closed")]
)
def test_closed_streams_are_one_line(folder, closed, args, says):
    command = f"{sys.executable} -m grepq_metric score {args} {closed}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=folder)
    assert result.returncode == 2
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_closed_standard_error_does_not_matter(folder):
    command = f"{sys.executable} -m grepq_metric score {folder}/stereo.png --format jsonl 2>&-"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert result.returncode == 0
    assert json.loads(result.stdout)["error"] is None


def test_weights_are_written_over_by_no_command_that_was_not_asked_to(tmp_path, photo_folder):
    from grepq_metric import GRepQ

    weights = tmp_path / "mine"
    GRepQ.from_pretrained("grepq-ll").save_pretrained(weights)
    before = {path.name: path.read_bytes() for path in weights.iterdir()}
    (tmp_path / "l.csv").write_text(
        "image,mos\n" + "".join(f"{p},{i}\n" for i, p in enumerate(sorted(photo_folder.iterdir())))
    )
    fit = ["fit", "l.csv", "--weights", "mine", "-o", "mine/model.safetensors", "--overwrite", "--no-cache"]
    assert "one of the inputs" in grepq(*fit, status=2, cwd=tmp_path).stderr
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    for command in (["convert"], ["pristine", "--photos", photo_folder, "--weights", "grepq-ll"]):
        assert "config.json exists" in grepq(*command, "-o", "other", status=2, cwd=tmp_path).stderr
        assert "name of built-in weights" in grepq(*command, "-o", "grepq-ll", status=2, cwd=tmp_path).stderr
        assert "is a file, expected a folder" in grepq(*command, "-o", "l.csv", status=2, cwd=tmp_path).stderr
    assert {path.name: path.read_bytes() for path in weights.iterdir()} == before


def test_no_weights_named_are_not_the_default_ones(photo_folder):
    told = grepq("score", photo_folder / "stereo.png", "--weights", "", status=2).stderr
    assert "expected the name, folder or Hub repository of weights, got ''" in told


# Going on after an earlier run

FORMATS = ("csv", "json", "jsonl", "parquet")


def rows_in(path):
    """Rows of an output, by the readers that its users have."""
    format = path.suffix[1:]
    if format == "parquet":
        return pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
    if format == "csv":
        with path.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        return [
            {k: v and float(v) if k in ("score", "width", "height") else v or None for k, v in row.items()} for row in rows
        ]
    text = path.read_text()
    return json.loads(text) if format == "json" else [json.loads(line) for line in text.splitlines()]


def scored(monkeypatch):
    """Paths that are scored from now on."""
    from grepq_metric.cli.scoring import PhotoScorer

    paths, original = [], PhotoScorer.finish

    def watched(self, item, x, row):
        paths.append(item.name)
        original(self, item, x, row)

    monkeypatch.setattr(PhotoScorer, "finish", watched)
    return paths


@pytest.mark.parametrize("format", FORMATS)
def test_a_run_goes_on_after_what_the_output_holds(folder, photo_folder, monkeypatch, format):
    if format == "parquet":
        pytest.importorskip("pyarrow")
    out = folder / f"scores.{format}"
    (folder / "late.png").write_bytes(b"not yet a photo")
    grepq("score", ".", "-o", out, "--resume", status=1, cwd=folder)
    first = rows_in(out)
    assert [row["path"] for row in first] == ["./late.png", "./rocket.png", "./stereo.png"]
    paths = scored(monkeypatch)
    shutil.copy(photo_folder / "coffee.png", folder / "late.png")  # an error is tried again,
    shutil.copy(photo_folder / "cat.png", folder / "stereo.png")  # a photo that has changed as well,
    shutil.copy(photo_folder / "cat.png", folder / "new.png")  # and a new one is scored
    result = grepq("score", ".", "-o", out, "--resume", cwd=folder)
    assert paths == ["./late.png", "./new.png", "./stereo.png"]
    assert result.stderr.splitlines()[-1] == f"3 photos scored, 1 before; written to {out}"
    second = rows_in(out)
    assert [row["path"] for row in second] == ["./rocket.png", *paths]
    assert second[0] == first[1]
    assert all(row["error"] is None for row in second)
    assert second[2]["score"] == pytest.approx(second[3]["score"])
    assert second[3]["score"] != pytest.approx(first[2]["score"], abs=1e-3)
    before = out.read_bytes()
    paths.clear()
    assert "0 photos scored, 4 before" in grepq("score", ".", "-o", out, "--resume", cwd=folder).stderr
    assert paths == []
    if format != "parquet":
        assert out.read_bytes() == before
    assert sorted(p.name for p in folder.iterdir() if p.suffix != ".png") == [out.name, f"{out.name}.run.jsonl"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_killed_run_is_resumed_wherever_it_was_cut(folder, monkeypatch, format):
    """As if it had been killed within a write: each end of the file gives the whole result."""
    if format == "parquet":
        pytest.importorskip("pyarrow")
    for name in ('odd\nname, "x".png', "turned\rback.png", "z.png"):
        shutil.copy(folder / "stereo.png", folder / name)
    whole, cut = folder / f"whole.{format}", folder / f"cut.{format}"
    grepq("score", ".", "-o", whole, cwd=folder)
    expected = sorted(rows_in(whole), key=lambda row: row["path"])
    journal = folder / (f"cut.{format}.rows.jsonl" if format == "parquet" else cut.name)
    data = whole.read_bytes()
    if format == "parquet":
        data = "".join(json.dumps(row) + "\n" for row in rows_in(whole)).encode()
    record = (folder / f"whole.{format}.run.jsonl").read_bytes()
    line = data.index(b"odd")
    for end in (0, 1, 10, line + 2, data.index(b"name", line), len(data) - 40, len(data) - 2, len(data)):
        cut.unlink(missing_ok=True)
        journal.write_bytes(data[:end])
        (folder / f"cut.{format}.run.jsonl").write_bytes(record[:-5] if end == 10 else record)
        grepq("score", ".", "-o", cut, "--resume", cwd=folder)
        assert sorted(rows_in(cut), key=lambda row: row["path"]) == expected, end
        assert not (folder / f"{cut.name}.rows.jsonl").exists()


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_no_row_is_lost_when_a_run_is_killed(folder, format):
    if format == "parquet":
        pytest.importorskip("pyarrow")
    for i in range(300):
        os.link(folder / "stereo.png", folder / f"{i:03}.png")
    out = folder / f"scores.{format}"
    rows = folder / f"scores.{format}.rows.jsonl" if format == "parquet" else out
    process = subprocess.Popen([*GREPQ, "score", str(folder), "-o", str(out)], stderr=subprocess.DEVNULL)
    while not rows.exists() or rows.read_text().count("\n") < 20:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    done = rows.read_text().count("\n") - 2
    if format == "parquet":
        told = grepq("score", folder, "-o", out, status=2).stderr
        assert "--resume" in told
        assert not out.exists()
    told = grepq("score", folder, "-o", out, "--resume").stderr
    before = int(told.rpartition(" before")[0].rpartition(" ")[2])
    assert done <= before < 300
    assert len({row["path"] for row in rows_in(out)}) == len(rows_in(out)) == 302
    assert all(row["error"] is None for row in rows_in(out))


def test_only_a_run_of_the_same_weights_and_options_is_resumed(folder):
    grepq("score", "stereo.png", "-o", "scores.csv", "--metric", "grepq-ll", cwd=folder)
    before = (folder / "scores.csv").read_bytes()
    for arguments, message in (
        ([], "its weights_id was grepq-ll-8690ed2c, and now is grepq-sem-"),
        (["--metric", "grepq-ll", "--map", "maps"], "its columns was path,score,low,semantic,high,width,height,warning,error"),
        (["--head", "biq2021"], "its weights_id was grepq-ll-8690ed2c, and now is grepq-lite"),
    ):
        told = grepq("score", ".", "-o", "scores.csv", "--resume", *arguments, status=2, cwd=folder).stderr
        assert message in told
        assert (folder / "scores.csv").read_bytes() == before
    grepq("score", ".", "-o", "mos.csv", "--head", "biq2021", "--interval", "0.5", cwd=folder)
    arguments = ["score", ".", "-o", "mos.csv", "--resume", "--head", "biq2021", "--interval", "0.9"]
    assert "its interval was 0.5, and now is 0.9" in grepq(*arguments, status=2, cwd=folder).stderr
    (folder / "scores.csv.run.jsonl").unlink()
    told = grepq("score", ".", "-o", "scores.csv", "--resume", status=2, cwd=folder).stderr
    assert "scores.csv.run.jsonl, which says what it was scored with, is not beside it" in told
    assert (folder / "scores.csv").read_bytes() == before


def test_what_can_not_be_resumed_is_refused(folder):
    for arguments, message in (
        ([], "--resume goes on after an --output"),
        (["-o", "scores.txt"], "--resume goes on after an --output"),
        (["-o", "/dev/null"], "--resume goes on after an --output"),
        (["-o", "scores.csv", "--overwrite"], "give one of them"),
    ):
        assert message in grepq("score", ".", "--resume", *arguments, status=2, cwd=folder).stderr
    grepq("score", "stereo.png", "-o", "scores.csv", cwd=folder)
    text = (folder / "scores.csv").read_text()
    (folder / "scores.csv").write_text(text + "half,a,row\n" + text.splitlines()[1] + "\n")
    assert "is damaged before line 4" in grepq("score", ".", "-o", "scores.csv", "--resume", status=2, cwd=folder).stderr
    (folder / "b.csv.run.jsonl").write_text("mine")
    assert "holds something else" in grepq("score", ".", "-o", "b.csv", status=2, cwd=folder).stderr
    assert (folder / "b.csv.run.jsonl").read_text() == "mine"


def test_a_resumed_run_goes_on_with_its_maps(folder):
    grepq("score", "stereo.png", "-o", "scores.csv", "--map", "maps", cwd=folder)
    old = (folder / "maps" / "stereo.png.map.png").stat().st_mtime_ns
    grepq("score", "rocket.png", "stereo.png", "-o", "scores.csv", "--map", "maps", "--resume", cwd=folder)
    assert sorted(path.name for path in (folder / "maps").iterdir()) == ["rocket.png.map.png", "stereo.png.map.png"]
    assert (folder / "maps" / "stereo.png.map.png").stat().st_mtime_ns == old


def test_names_on_standard_input_are_resumed(folder, monkeypatch):
    grepq("score", "-", "-o", "scores.csv", stdin="stereo.png\n", cwd=folder)
    paths = scored(monkeypatch)
    grepq("score", "-", "-o", "scores.csv", "--resume", stdin="rocket.png\nstereo.png\n", cwd=folder)
    assert paths == ["rocket.png"]
    assert [row["path"] for row in rows_in(folder / "scores.csv")] == ["stereo.png", "rocket.png"]


def test_a_row_of_a_photo_that_is_not_asked_for_again_is_kept(folder):
    grepq("score", "stereo.png", "absent.png", "-o", "scores.csv", status=1, cwd=folder)
    (folder / "stereo.png").unlink()
    grepq("score", "rocket.png", "-o", "scores.csv", "--resume", cwd=folder)
    assert [row["path"] for row in rows_in(folder / "scores.csv")] == ["stereo.png", "absent.png", "rocket.png"]


# Parquet


def test_parquet_has_types_and_row_groups(folder, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("grepq_metric.cli.parquet.ROW_GROUP", 2)
    (folder / "broken.png").write_bytes(b"")
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes((folder / "stereo.png").read_bytes())
    grepq("score", ".", "-o", "scores.parquet", status=1, cwd=folder)
    file = parquet.ParquetFile(folder / "scores.parquet")
    assert file.num_row_groups == 2
    types = {field.name: str(field.type) for field in file.schema_arrow}
    assert types["score"] == types["low"] == "double"
    assert types["width"] == "int32"
    assert types["path"] == types["error"] == "string"
    rows = file.read().to_pylist()
    assert [row["path"] for row in rows] == ["./broken.png", "./caf\\udce9.png", "./rocket.png", "./stereo.png"]
    assert [row["score"] is None for row in rows] == [True, False, False, False]
    expected = json.loads(grepq("score", "stereo.png", "--format", "json", cwd=folder).stdout)[0]["score"]
    assert rows[-1]["score"] == expected


def test_parquet_is_resumed_with_names_that_are_no_text_and_not_with_other_columns(folder, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes((folder / "stereo.png").read_bytes())
    out = folder / "scores.parquet"
    grepq("score", ".", "-o", out, cwd=folder)
    first, paths = rows_in(out), scored(monkeypatch)
    grepq("score", ".", "-o", out, "--resume", cwd=folder)
    assert paths == []
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes((folder / "rocket.png").read_bytes())
    grepq("score", ".", "-o", out, "--resume", cwd=folder)
    assert paths == [os.fsdecode(b"./caf\xe9.png")]
    assert sorted(row["path"] for row in rows_in(out)) == [row["path"] for row in first]
    parquet.write_table(parquet.read_table(out).drop_columns(["low"]), out)
    told = grepq("score", ".", "-o", out, "--resume", status=2, cwd=folder).stderr
    assert "has the columns path,score,semantic,high" in told


def test_parquet_needs_a_file_and_pyarrow(folder, monkeypatch):
    assert "goes to a file alone" in grepq("score", ".", "--format", "parquet", status=2, cwd=folder).stderr
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    told = grepq("score", ".", "-o", "scores.parquet", status=2, cwd=folder).stderr
    assert told.strip() == 'error: Parquet needs pyarrow: pip install "grepq-metric[parquet]"'
    assert not (folder / "scores.parquet").exists()


def test_ctrl_c_leaves_a_readable_parquet_file(folder):
    parquet = pytest.importorskip("pyarrow.parquet")
    for i in range(200):
        os.link(folder / "stereo.png", folder / f"{i:03}.png")
    out, journal = folder / "scores.parquet", folder / "scores.parquet.rows.jsonl"
    process = subprocess.Popen([*GREPQ, "score", str(folder), "-o", str(out)], stderr=subprocess.PIPE, text=True)
    while not journal.exists() or journal.read_text().count("\n") < 3:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    count = parquet.ParquetFile(out).metadata.num_rows
    assert f"interrupted: {count} photos are done, kept in {out}" in told
    assert not journal.exists()


# Processes


def test_processes_give_the_output_of_one(folder, photo_folder):
    (folder / "broken.png").write_bytes(b"")
    given = ["score", ".", photo_folder, "--map", "maps", "--overwrite", "--format", "json"]
    one = json.loads(grepq(*given, "--jobs", 1, status=1, cwd=folder).stdout)
    maps = {path.name: path.read_bytes() for path in (folder / "maps").iterdir()}
    shutil.rmtree(folder / "maps")
    result = grepq(*given, "--jobs", 2, status=1, cwd=folder)
    assert "2 processes" in result.stderr
    for first, second in zip(one, json.loads(result.stdout), strict=True):
        assert {**first, "score": 0, "semantic": 0} == {**second, "score": 0, "semantic": 0}
        assert second["score"] == (first["score"] and pytest.approx(first["score"], abs=2e-6))
    assert {path.name for path in (folder / "maps").iterdir()} == set(maps)
    assert "--jobs" in grepq("score", ".", "--jobs", 0, status=2, cwd=folder).stderr


def test_a_name_on_a_pipe_is_answered_by_processes_at_once(folder):
    process = subprocess.Popen(
        [*GREPQ, "score", "-", "--format", "jsonl", "--jobs", "2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder
    )
    for name in (b"stereo.png", b"rocket.png"):
        process.stdin.write(name + b"\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["path"] == name.decode()
    process.stdin.close()
    assert process.wait(60) == 0


@pytest.mark.slow
def test_ctrl_c_and_deaths_among_processes(folder):
    psutil = pytest.importorskip("psutil")
    for i in range(2000):
        os.link(folder / "rocket.png", folder / f"{i:04}.png")
    out = folder / "scores.jsonl"
    process = subprocess.Popen(
        [*GREPQ, "score", str(folder), "-o", str(out), "--jobs", "2"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )

    def wait_for(rows):
        while not out.exists() or out.read_text().count("\n") < rows:
            assert process.poll() is None
            time.sleep(0.05)

    def workers():
        return [p for p in psutil.Process(process.pid).children() if "spawn_main" in " ".join(p.cmdline())]

    wait_for(10)
    first = workers()
    assert len(first) == 2
    first[0].kill()
    wait_for(out.read_text().count("\n") + 100)
    now = workers()
    assert len(now) == 2
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in told
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [os.path.basename(row["path"]) for row in rows] == [f"{i:04}.png" for i in range(len(rows))]
    assert all(row["error"] is None for row in rows)  # nothing is wrong with what the killed one had
    assert not psutil.wait_procs(now, timeout=10)[1]


def test_processes_are_started_where_they_pay(tmp_path, monkeypatch):
    import torch

    from grepq_metric.cli import scoring

    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(scoring, "_LIMITS", ())
    monkeypatch.setattr(scoring, "file_pixels", lambda path: 330_000)
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 32_000_000_000 // 4096}[name])
    many = ["x.png"] * scoring.LEAST_FOR_PROCESSES
    assert scoring.worth_starting(many, None) == scoring.worth_starting(many, "cpu") == 8
    assert scoring.worth_starting(many[1:], None) == scoring.worth_starting(None, None) == 1
    assert scoring.worth_starting(many, "cuda:1") == 1
    monkeypatch.setattr(scoring, "file_pixels", lambda path: 24_000_000)
    assert scoring.worth_starting(many, None) == 1  # two of 10 GB are more than half of the memory
    monkeypatch.setattr(scoring, "file_pixels", lambda path: 330_000)
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(scoring, "_LIMITS", (str(tmp_path / "absent"), str(limit)))
    for text, processes in (("max", 8), ("5000000000", 3), ("1000000000", 1)):
        limit.write_text(text + "\n")
        assert scoring.worth_starting(many, None) == processes
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert scoring.worth_starting(many, None) == 1


def test_scoring_loads_no_package_that_it_does_not_need(folder):
    heavy = ["pyiqa", "open_clip", "sklearn", "pyarrow", "pandas", "scipy", "matplotlib"]
    heavy += ["timm", "torchvision", "torch._dynamo", "sympy"]  # half a second or more each
    code = (
        "import sys; from grepq_metric.cli import main; sys.argv = ['grepq', 'score', 'stereo.png', '-o', 'a.csv']\n"
        f"try: main()\nexcept SystemExit as end: print(end.code, *(set({heavy!r}) & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert result.stdout.split() in (["0"], ["None"]), result.stdout + result.stderr


def test_modes_are_named_and_not_mixed(folder, tmp_path):
    out = tmp_path / "scores.csv"
    result = grepq("score", "stereo.png", "--precision", "bf16", "--resolution", 96, "-o", out, cwd=folder)
    assert "+bf16+96px on " in result.stderr
    again = grepq("score", "stereo.png", "-o", out, "--resume", status=2, cwd=folder)
    assert "weights_id" in again.stderr
    for wrong in (("--precision", "fp16"), ("--resolution", "5")):
        result = grepq("score", "stereo.png", *wrong, status=2, cwd=folder)
        assert wrong[0][2:] in result.stderr
        assert len(result.stderr.splitlines()) == 1


# Progress


def test_a_long_run_is_told_at_its_beginning(folder, monkeypatch):
    monkeypatch.setattr("grepq_metric.cli.progress.TRIAL", 0.0)
    assert "will take about" not in grepq("score", ".", cwd=folder).stderr
    monkeypatch.setattr("grepq_metric.cli.progress.LONG", 0.0)
    told = grepq("score", ".", cwd=folder).stderr
    assert told.count("2 photos will take about ") == 1


def test_progress_tells_rate_and_time_left(monkeypatch):
    from grepq_metric.cli import progress as module

    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    lines = []
    monkeypatch.setattr(module.typer, "echo", lambda text, err: lines.append((round(now - 100), text)))
    progress = module.Progress(100)
    for i in range(30):
        now += 1
        progress.advance(i == 3)
    assert lines == [
        (5, "100 photos will take about 2 min"),
        (10, "10 of 100 photos, 1 failed, 1 photos/s, about 2 min left"),
        (20, "20 of 100 photos, 1 failed, 1 photos/s, about 80 s left"),
        (30, "30 of 100 photos, 1 failed, 1 photos/s, about 70 s left"),
    ]
