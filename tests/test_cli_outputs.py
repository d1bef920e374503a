"""Promise: the command line destroys nothing. Outputs never replace inputs, and other files only when told to."""

import json
import os
import resource
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
        patch.setattr("grepq_metric.model.GRepQ.from_pretrained", None)
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
