"""Promise: no photo is silently left out, scored twice or misunderstood."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.command import GREPQ, grepq


@pytest.fixture
def folder(photo_folder, tmp_path):
    """A photo, and one in a subfolder."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.png").write_bytes((photo_folder / "stereo.png").read_bytes())
    (tmp_path / "sub/b.png").write_bytes((photo_folder / "rocket.png").read_bytes())
    return tmp_path


def rows_of(*args, **options):
    return [json.loads(line) for line in grepq("score", *args, "--format", "jsonl", **options).stdout.splitlines()]


def test_folders_are_searched_with_their_subfolders(folder):
    assert [row["path"] for row in rows_of(".", cwd=folder)] == ["./a.png", "./sub/b.png"]
    assert [row["path"] for row in rows_of(".", "--no-recursive", cwd=folder)] == ["./a.png"]


def test_one_photo_under_several_names_is_scored_once(folder):
    (folder / "link.png").symlink_to("a.png")
    result = grepq("score", "a.png", "./a.png", folder / "a.png", "link.png", "--format", "jsonl", cwd=folder)
    assert [json.loads(line)["path"] for line in result.stdout.splitlines()] == ["a.png"]
    assert "scored once: 3 (./a.png is a.png" in result.stderr


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (["x.raw"] * 12, "12 .raw files (camera raw needs rawpy: pip install"),
        (["y.zip"], "1 .zip file (an archive: name it to score its photos)"),
        (["z.txt", "notes"], "1 .txt file, 1 file without an ending"),
        ([], "no photos in"),
    ],
)
def test_a_folder_without_photos_is_an_error_that_says_what_is_there(tmp_path, files, says, monkeypatch):
    monkeypatch.setattr("grepq_metric.images._installed", lambda package: False)
    for i, name in enumerate(files):
        (tmp_path / f"{i}{os.path.splitext(name)[1]}" if len(files) > 2 else tmp_path / name).write_bytes(b"x")
    result = grepq("score", tmp_path, status=2)
    assert says in result.stderr
    assert result.stdout == ""


def test_a_folder_without_photos_among_others_is_a_row(folder):
    (folder / "empty").mkdir()
    (folder / "empty/x.txt").write_text("x")
    rows = rows_of("a.png", "empty", status=1, cwd=folder)
    assert [row["path"] for row in rows] == ["a.png", "empty"]
    assert "no photos in empty, only 1 .txt file" in rows[1]["error"]


def test_what_a_folder_search_skips_is_counted(folder):
    for name in ("a.tgz", "sub/b.txt", "c.txt", "scores.csv", ".hidden"):
        (folder / name).write_bytes(b"x")
    result = grepq("score", ".", cwd=folder)
    assert "skipped in folders: 2 .txt files, 1 .csv file, 1 .tgz file (an archive: name it" in result.stderr
    assert "hidden" not in result.stderr


def test_what_needs_a_package_is_a_row_that_names_it_and_is_not_skipped(folder, monkeypatch):
    monkeypatch.setattr("grepq_metric.images._installed", lambda package: False)
    for name in ("a.heic", "sub/b.CR2", "c.dng", "d.jxl"):
        (folder / name).write_bytes(b"x")
    result = grepq("score", ".", "--format", "jsonl", status=1, cwd=folder)
    errors = {row["path"]: row["error"] for row in map(json.loads, result.stdout.splitlines()) if row["error"]}
    assert sorted(errors) == ["./a.heic", "./c.dng", "./d.jxl", "./sub/b.CR2"]
    assert errors["./a.heic"].endswith('./a.heic as an image: HEIC needs pillow-heif: pip install "grepq-metric[heic]"')
    for name in ("./c.dng", "./sub/b.CR2"):
        assert errors[name].endswith(f'{name} as an image: camera raw needs rawpy: pip install "grepq-metric[raw]"')
    assert errors["./d.jxl"].endswith("JPEG XL needs pillow-jxl-plugin: pip install pillow-jxl-plugin")


def test_names_that_end_with_a_null_byte(folder):
    (folder / "odd\nname.png").write_bytes((folder / "a.png").read_bytes())
    rows = rows_of("-0", "-", stdin="a.png\0odd\nname.png\0", cwd=folder)
    assert [row["path"] for row in rows] == ["a.png", "odd\nname.png"]
    assert all(row["error"] is None for row in rows)
    assert "add -0" in grepq("score", "-", stdin="a.png\0sub/b.png\0", status=2, cwd=folder).stderr


def test_a_name_on_a_pipe_that_ends_with_a_null_byte_is_scored_at_once(folder):
    process = subprocess.Popen(
        [*GREPQ, "score", "-0", "-", "--format", "jsonl"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder
    )
    for name in (b"a.png", b"sub/b.png"):
        process.stdin.write(name + b"\0")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["error"] is None
    process.stdin.close()
    assert process.wait(60) == 0


def test_a_name_can_not_break_the_table_but_is_exact_elsewhere(folder):
    name = "odd\nname\x1b[31m\u2028.png"
    os.rename(folder / "a.png", folder / name)
    table = grepq("score", name, cwd=folder).stdout
    assert len(table.splitlines()) == 2
    assert r"odd\nname\x1b[31m\u2028.png" in table
    assert rows_of(name, cwd=folder)[0]["path"] == name


def test_a_name_that_is_no_text_comes_back_byte_for_byte(folder):
    name = b"caf\xe9.png"
    os.rename(folder / "a.png", os.fsencode(folder) + b"/" + name)
    command = [sys.executable, "-m", "grepq_metric", "score", ".", "--format", "csv", "--no-recursive"]
    done = subprocess.run(command, capture_output=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert b"./" + name in done.stdout


def test_a_name_that_starts_with_a_dash_gets_a_hint(folder):
    os.rename(folder / "a.png", folder / "-dash.png")
    result = grepq("score", "-dash.png", status=2, cwd=folder)
    assert "put -- before the names" in result.stderr
    assert grepq("score", "--format", "jsonl", "--", "-dash.png", cwd=folder).stdout.startswith('{"path": "-dash.png"')


def test_photos_whose_score_means_little_carry_a_warning(folder, photo_folder):
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    Image.new("RGB", (200, 150), (10, 90, 200)).save(folder / "flat.png")
    with Image.open(photo_folder / "cat.png") as cat:
        cat.crop((0, 0, 400, 40)).save(folder / "strip.png")
        cat.save(folder / "moving.gif", save_all=True, append_images=[cat.rotate(90)])
    rows = rows_of("dot.png", "flat.png", "strip.png", "moving.gif", "a.png", cwd=folder)
    dot, flat, strip, moving, plain = (row["warning"] for row in rows)
    assert "below 96 pixels" in dot
    assert "flat" in flat
    assert "below 96 pixels" in strip
    assert "flat" not in strip
    assert moving == "first of several frames or pages"
    assert plain is None
    assert "warning: flat" in grepq("score", "flat.png", cwd=folder).stdout


def test_a_limit_on_pixels_refuses_and_says_which_option(folder):
    (row,) = rows_of("sub/b.png", "--max-pixels", "0.01", status=1, cwd=folder)
    assert "megapixels, more than the limit of 0.01" in row["error"]
    assert "--max-pixels" in row["error"]


@pytest.mark.parametrize("name", ["a.heic", "photo.png"])
def test_messages_name_files_and_no_memory_addresses(folder, name, monkeypatch):
    monkeypatch.setattr("grepq_metric.images._installed", lambda package: False)
    (folder / name).write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" if name == "a.heic" else b"no picture")
    (row,) = rows_of(name, status=1, cwd=folder)
    assert name in row["error"]
    assert "0x" not in row["error"]
    assert ("grepq-metric[heic]" in row["error"]) == (name == "a.heic")


def test_progress_in_a_log_and_a_summary_at_the_end(folder, monkeypatch):
    monkeypatch.setattr("grepq_metric.cli.progress.SECONDS", 0.0)
    result = grepq("score", ".", "-o", "scores.csv", cwd=folder)
    assert "1 of 2 photos, " in result.stderr
    assert "left" in result.stderr
    assert result.stderr.splitlines()[-1] == "2 photos scored; written to scores.csv"


def test_sixteen_bits_and_eight_bits_of_one_photo_score_alike(folder):
    import cv2

    with Image.open(folder / "a.png") as image:
        deep = np.asarray(image.convert("RGB")).astype(np.uint16) * 257
    cv2.imwrite(str(folder / "deep.tif"), deep[..., ::-1])
    eight, sixteen = rows_of("a.png", "deep.tif", cwd=folder)
    assert sixteen["score"] == pytest.approx(eight["score"], abs=2e-6)


def test_a_quoted_glob_searches_folders_as_an_unquoted_one_does(tmp_path, photo_folder):
    (tmp_path / "d" / "deep").mkdir(parents=True)
    os.link(photo_folder / "stereo.png", tmp_path / "d" / "deep" / "a.png")
    rows = grepq("score", "d/*", "--format", "csv", cwd=tmp_path).stdout.splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == [os.path.join("d", "deep", "a.png")]
