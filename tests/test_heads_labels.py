"""Promises of `grepq fit` and its sheets: no number is misread, no photo counts twice, no file is lost."""

import csv
import json
import os

import numpy as np
import pytest
from PIL import Image

from grepq_metric import GRepQRegressor
from grepq_metric.errors import InputError
from grepq_metric.heads import describe
from grepq_metric.heads.labels import read_labels, write_sheet
from tests.command import grepq


@pytest.fixture(scope="module")
def labels(photo_folder, tmp_path_factory):
    """A CSV file of the test photos with made-up scores, elsewhere than they are."""
    path = tmp_path_factory.mktemp("labels") / "scores.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "opinion", "raters"])
        for i, photo in enumerate(sorted(photo_folder.iterdir())):
            writer.writerow([photo.name, 20 + 10 * i, 5 + i])
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


def arguments(labels, photo_folder):
    return [labels, "--image-column", "file", "--mos-column", "opinion", "--root", photo_folder]


def small_photos(photo_folder, folder):
    """Twelve photos in a folder, and a sheet of their names and scores in it."""
    lines = ["image,mos"]
    for i, photo in enumerate(sorted(photo_folder.iterdir())[:3]):
        for size in (120, 140, 160, 180):
            Image.open(photo).resize((size, size)).save(folder / f"{photo.stem}{size}.png")
            lines.append(f"{photo.stem}{size}.png,{i + size / 100}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return lines


def test_fit_on_the_command_line(labels, photo_folder, tmp_path, cache):
    head = tmp_path / "head.safetensors"
    first = grepq("fit", *arguments(labels, photo_folder), "-o", head, "--cache", cache, "--weight-column", "raters")
    assert "6 labels from 20 to 70, a head 'monotone' of 1 features, score" in first.stdout
    assert "not cross-validated: a held-out estimate needs at least 10 labels, got 6" in first.stderr
    assert len(list(cache.rglob("*.npy"))) == 6
    rows = json.loads(grepq("score", photo_folder, "--head", head, "--format", "json").stdout)
    expected = GRepQRegressor.load(head).predict(sorted(photo_folder.iterdir()))
    assert [row["mos"] for row in rows] == pytest.approx(expected, rel=1e-4)


def test_the_papers_features_can_be_chosen(labels, photo_folder, tmp_path, cache):
    head = tmp_path / "head.safetensors"
    paper = ["--metric", "grepq-ll", "--kind", "ridge", "--features", "image"]
    result = grepq("fit", *arguments(labels, photo_folder), "-o", head, "--cache", cache, *paper)
    assert "a head 'ridge' of 128 features, image" in result.stdout
    assert (describe(head)["head"], describe(head)["features"]) == ("ridge", "image")
    rest = [*arguments(labels, photo_folder), "-o", tmp_path / "other.safetensors", "--cache", cache]
    assert "unknown kind of features 'whole'" in grepq("fit", *rest, "--features", "whole", status=2).stderr
    assert "no low-level pathway" in grepq("fit", *rest, "--features", "semantic+patches", status=2).stderr
    assert "--kind" in grepq("fit", *rest, "--kind", "forest", status=2).stderr
    grepq("fit", *rest, "--kind", "shrunk")
    assert describe(tmp_path / "other.safetensors")["features"] == "score+semantic"


def test_fit_cross_validates_plots_and_leaves_out(photo_folder, tmp_path):
    pytest.importorskip("matplotlib")
    lines = small_photos(photo_folder, tmp_path)
    (tmp_path / "labels.csv").write_text("\n".join([*lines, "absent.png,1"]) + "\n")
    result = grepq("fit", "labels.csv", "-o", "head.safetensors", "--plot", "plot.png", "--no-cache", status=1, cwd=tmp_path)
    assert "left out: no such file: absent.png" in result.stderr
    assert "SRCC" in result.stdout
    assert Image.open(tmp_path / "plot.png").size == (750, 750)
    assert GRepQRegressor.load(tmp_path / "head.safetensors").n_labels_ == 12


def test_a_partly_filled_sheet_of_suggestions_is_fitted(photo_folder, tmp_path, cache):
    sheet, head = tmp_path / "rate.csv", tmp_path / "head.safetensors"
    result = grepq("fit", "--suggest", 6, photo_folder, "--cache", cache, "-o", sheet)
    assert result.stdout == ""
    rows = list(csv.DictReader(sheet.open()))
    assert len({row["image"] for row in rows}) == 6
    assert all(row["mos"] == "" for row in rows)
    assert not any(os.path.isabs(row["image"]) for row in rows)
    error = grepq("fit", sheet, "-o", head, status=2).stderr
    assert "none of the 6 rows of" in error
    assert "is rated: fill in the column 'mos'" in error
    filled = [f"{row['image']},{i}" for i, row in enumerate(rows[:5])]
    sheet.write_text("\n".join(["image,mos", *filled, f"{rows[5]['image']},"]) + "\n")
    result = grepq("fit", sheet, "-o", head, "--cache", cache)
    assert f"left out, since {sheet} has no 'mos' for them yet: 1 of 6 photos" in result.stderr
    assert describe(head)["labels"] == 5


def test_suggestions_search_subfolders_and_name_a_photo_once(photo_folder, tmp_path, cache):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("stereo", "rocket"):
        (tmp_path / "deep" / "er" / f"{name}.png").write_bytes((photo_folder / f"{name}.png").read_bytes())
    again = tmp_path / "deep" / "er" / "stereo.png"
    result = grepq("fit", "--suggest", 2, tmp_path, again, "--cache", cache)
    rows = list(csv.DictReader(result.stdout.splitlines()))
    assert sorted(row["image"] for row in rows) == [str(again.with_name("rocket.png")), str(again)]
    assert "number of photos, 2, got 3" in grepq("fit", "--suggest", 3, tmp_path, again, status=2).stderr
    (tmp_path / "empty").mkdir()
    assert "no photos in" in grepq("fit", "--suggest", 2, tmp_path / "empty", status=2).stderr


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"image,score\na.png,1\n", [], "has no column 'mos', it has 'image', 'score'"),
        (b"", [], "has no column 'image', it has none"),
        (b"image,mos,mos\na.png,1,2\n", [], "has two columns 'mos'"),
        (b"image,mos\na.png,good\n", [], "line 2: expected a finite number in column 'mos', got 'good'"),
        (b"image,mos\na.png,nan\n", [], "line 2: expected a finite number"),
        (b"image,mos\na.png,1e308\n", [], "line 2: expected a finite number in column 'mos', got '1e308'"),
        (b"image,mos\na.png,1_000\n", [], "line 2: expected a finite number in column 'mos', got '1_000'"),
        (b"image,mos\np1.png,1,692\n", [], "line 2: expected 2 fields, got 3: 'p1.png,1,692'. Numbers have a decimal point"),
        (b"image,mos,n\na.png,1,2\nb.png,3\n", [], "line 3: expected 3 fields, got 2: 'b.png,3'"),
        (b'image,mos\na.png,"1,692"\n', [], "in column 'mos', with a decimal point, got '1,692'"),
        (b"image;mos\na.png;1,692\n", [], "in column 'mos', with a decimal point, got '1,692'"),
        (b"image\tmos\na.png\t1\tx\n", [], "line 2: expected 2 fields, got 3"),
        (b"image,mos,n\na.png,1,0\n", ["--weight-column", "n"], "expected a positive number in column 'n', got '0'"),
        (b"image,mos\na.png,1\nb.png,1\na.png,2\n", [], "one photo twice, in line 2 as 'a.png' and in line 4 as 'a.png'"),
        (b"image,mos\na.png,1\n./a.png,2\n", [], "in line 2 as 'a.png' and in line 3 as './a.png'; expected one MOS a photo"),
        (b"image,mos\n,1\n", [], "line 2: expected a photo in column 'image', got ''"),
        (b"image,mos\na\0b,1\n", [], "labels.csv"),
        (b"\xff\xfe\x00", [], "is no CSV file in UTF-8"),
        (b"image,mos\n", [], "labels.csv has no rows"),
        (b"image,mos\n,\n", [], "labels.csv has no rows"),
        (b"image,mos\na.png, \n", [], "none of the 1 rows of labels.csv is rated"),
        (b"image,mos\n", ["--root", "absent"], "no such folder for --root"),
        (b"image,mos\n", ["--plot", "absent/p.png"], "no such folder for --plot"),
        (b"image,mos\n", ["--plot", "p.mp3"], "--plot must end in one of"),
        (b"image,mos\n", ["--plot", "head.safetensors"], "--plot must end in one of"),
        (b"image,mos\na.png,1\n", [], "there are no photos that can be used"),
    ],
)
def test_bad_label_files_are_explained(tmp_path, content, options, message):
    (tmp_path / "labels.csv").write_bytes(content)
    result = grepq("fit", "labels.csv", "-o", "head.safetensors", "--no-cache", *options, status=2, cwd=tmp_path)
    assert message in result.stderr
    assert not (tmp_path / "head.safetensors").exists()


def test_one_photo_under_an_absolute_path_and_a_link_is_one_photo(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "link.png").symlink_to("a.png")
    for other in (tmp_path / "a.png", "link.png", f"../{tmp_path.name}/a.png"):
        (tmp_path / "labels.csv").write_text(f"image,mos\na.png,1\n{other},2\n")
        with pytest.raises(InputError, match=r"one photo twice, in line 2 as 'a\.png' and in line 3"):
            read_labels(tmp_path / "labels.csv")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_sheets_of_spreadsheets_are_read(tmp_path, delimiter, end):
    rows = ['"a, b; c.png"|4.5|3', "d.png|2|1", "e.png||", "||"]
    text = end.join(["\ufeffimage|mos|n", *rows, ""]).replace("|", delimiter)
    (tmp_path / "labels.csv").write_bytes(text.encode())
    labels = read_labels(tmp_path / "labels.csv", weight_column="n")
    assert [photo.name for photo in labels.photos] == ["a, b; c.png", "d.png"]
    assert (labels.mos.tolist(), labels.weights.tolist()) == ([4.5, 2.0], [3.0, 1.0])
    assert (labels.unrated, labels.delimiter) == (1, delimiter)


def test_other_separators_are_said(photo_folder, labels, tmp_path, cache):
    (tmp_path / "labels.csv").write_text(labels.read_text().replace(",", ";"))
    options = arguments(tmp_path / "labels.csv", photo_folder)
    result = grepq("fit", *options, "-o", tmp_path / "head.safetensors", "--cache", cache)
    assert "is read as fields separated by semicolons" in result.stderr


def test_sheets_have_paths_that_start_at_their_folder(tmp_path):
    (tmp_path / "sheets").mkdir()
    (tmp_path / "photos").mkdir()
    names = ["café, night.jpg", "a\nb.png", "b\u2028c.png"]
    photos = [tmp_path / "photos" / name for name in names]
    write_sheet(tmp_path / "sheets" / "rate.csv", photos)
    with (tmp_path / "sheets" / "rate.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    assert rows == [["image", "mos"], *([os.path.join("..", "photos", name), ""] for name in names)]
    os.replace(tmp_path / "sheets" / "rate.csv", tmp_path / "sheets" / "filled.csv")
    filled = (tmp_path / "sheets" / "filled.csv").read_bytes().replace(b",\n", b",3\n")
    (tmp_path / "sheets" / "filled.csv").write_bytes(filled)
    assert [photo.resolve() for photo in read_labels(tmp_path / "sheets" / "filled.csv").photos] == photos
    with pytest.raises(InputError, match="no text in UTF-8"):
        write_sheet(tmp_path / "rate.csv", [tmp_path / "\udcff.png"])
    assert not (tmp_path / "rate.csv").exists()


def test_fit_overwrites_nothing_unless_asked_to(photo_folder, labels, tmp_path, cache):
    head = tmp_path / "head.safetensors"
    head.write_bytes(b"an earlier head")
    command = ["fit", *arguments(labels, photo_folder), "-o", head, "--cache", cache]
    assert "exists: choose another name, or --overwrite to replace it" in grepq(*command, status=2).stderr
    assert head.read_bytes() == b"an earlier head"
    grepq(*command, "--overwrite")
    assert describe(head)["labels"] == 6
    (tmp_path / "rate.csv").write_text("image,mos\na.png,3\n")
    suggest = ["fit", "--suggest", 3, photo_folder, "--cache", cache, "-o", tmp_path / "rate.csv"]
    assert "exists: choose another name, or --overwrite to replace it" in grepq(*suggest, status=2).stderr
    assert (tmp_path / "rate.csv").read_text() == "image,mos\na.png,3\n"
    grepq(*suggest, "--overwrite")
    assert len((tmp_path / "rate.csv").read_text().splitlines()) == 4


def test_fit_never_writes_onto_labels_or_photos(photo_folder, tmp_path):
    pytest.importorskip("matplotlib")
    small_photos(photo_folder, tmp_path)
    (tmp_path / "hard.png").hardlink_to(tmp_path / "cat120.png")
    (tmp_path / "soft.png").symlink_to("cat120.png")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    fit = ["fit", "labels.csv", "--overwrite", "--no-cache"]
    for target in ("labels.csv", "cat120.png", "./cat120.png", tmp_path / "cat120.png", "hard.png", "soft.png"):
        error = grepq(*fit, "-o", target, status=2, cwd=tmp_path).stderr
        assert "one of the inputs, which are never overwritten" in error
    for target in ("cat120.png", "hard.png", "soft.png"):
        error = grepq(*fit, "-o", "head.safetensors", "--plot", target, status=2, cwd=tmp_path).stderr
        assert "one of the inputs" in error
    error = grepq("fit", "--suggest", 2, ".", "--overwrite", "-o", "cat120.png", status=2, cwd=tmp_path).stderr
    assert "one of the inputs" in error
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_fit_says_what_is_missing(tmp_path):
    assert "no such file of labels" in grepq("fit", tmp_path / "no.csv", "-o", tmp_path / "h", status=2).stderr
    assert "--output is missing" in grepq("fit", tmp_path / "no.csv", status=2).stderr
    two = grepq("fit", tmp_path / "a.csv", tmp_path / "b.csv", "-o", tmp_path / "h", status=2).stderr
    assert "expected one CSV file of labels, got 2 arguments" in two
    (tmp_path / "a.csv").write_text("image,mos\na.png,3\n")
    assert "is a folder, expected a file" in grepq("fit", tmp_path / "a.csv", "-o", tmp_path, "--overwrite", status=2).stderr
    (tmp_path / "a.csv").write_text("image,mos\n")
    with pytest.raises(FileNotFoundError, match="no such folder of photos"):
        read_labels(tmp_path / "a.csv", root=tmp_path / "absent")


def test_a_cache_that_cannot_be_written_is_named_with_what_helps(labels, photo_folder, tmp_path):
    (tmp_path / "cache").write_bytes(b"")
    command = ["fit", *arguments(labels, photo_folder), "-o", tmp_path / "head.safetensors", "--cache", tmp_path / "cache"]
    error = " ".join(grepq(*command, status=2).stderr.split())
    assert "cannot write" in error
    assert "keep no features, with --no-cache" in error


def test_equal_labels_make_no_head(photo_folder, tmp_path):
    lines = small_photos(photo_folder, tmp_path)
    (tmp_path / "labels.csv").write_text(
        "\n".join(line.split(",")[0] + ",3" for line in lines).replace("image,3", "image,mos")
    )
    error = grepq("fit", "labels.csv", "-o", "head.safetensors", "--no-cache", status=2, cwd=tmp_path).stderr
    assert "all 12 MOS are 3: there is nothing to learn from" in error
    assert not (tmp_path / "head.safetensors").exists()


def test_numbers_of_a_sheet_reach_the_head_as_they_are(tmp_path):
    values = np.random.default_rng(0).normal(size=20)
    (tmp_path / "labels.csv").write_text("image,mos\n" + "".join(f"{i}.png,{float(v)!r}\n" for i, v in enumerate(values)))
    assert (read_labels(tmp_path / "labels.csv").mos == values).all()
