"""Promises of the score command about order and choice: nothing is lost, nothing is moved unasked, nothing is replaced."""

import csv
import json
import shutil

import pytest
import skimage.data
from PIL import Image, ImageFilter

from grepq_metric.cli.choosing import MOVED
from grepq_metric.cli.sidecars import stars, write_sidecars
from tests.command import grepq


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A good photo, worse ones, and what is none; their names say the order."""
    folder = tmp_path_factory.mktemp("made")
    photo = Image.fromarray(skimage.data.coffee())
    (folder / "sub").mkdir()
    photo.save(folder / "sub" / "b-good.png")
    photo.filter(ImageFilter.GaussianBlur(3)).save(folder / "c-blurred.png")
    photo.filter(ImageFilter.GaussianBlur(8)).save(folder / "a-ruined.png")
    (folder / "broken.jpg").write_text("no photo")
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "photos")


def names(rows):
    return [row["path"].rpartition("/")[2] for row in rows]


def scored(*arguments, status=1):
    return json.loads(grepq("score", *arguments, "--format", "json", status=status).stdout)


WORST_FIRST = ["a-ruined.png", "c-blurred.png", "b-good.png", "broken.jpg"]


def test_rows_come_in_the_order_that_is_asked_for(folder):
    assert names(scored(folder, "--sort", "worst")) == WORST_FIRST
    assert names(scored(folder, "--sort", "best")) == [*WORST_FIRST[2::-1], "broken.jpg"]
    assert names(scored(folder, "--worst", 2)) == WORST_FIRST[:2]
    assert names(scored(folder, "--best", 1)) == ["b-good.png"]
    darkest = scored(folder, "--sort", "worst", "--by", "sharpness", "--facts")
    assert [row["sharpness"] for row in darkest[:3]] == sorted(row["sharpness"] for row in darkest[:3])


def test_a_file_keeps_all_rows(folder, tmp_path):
    for suffix in ("csv", "jsonl", "parquet"):
        output = tmp_path / f"scores.{suffix}"
        shown = grepq("score", folder, "--worst", 1, "-o", output, status=1)
        assert "a-ruined.png" in shown.stdout
        assert "b-good.png" not in shown.stdout
    with (tmp_path / "scores.csv").open() as stream:
        assert names(csv.DictReader(stream)) == WORST_FIRST
    again = grepq("score", folder, "-o", tmp_path / "scores.csv", "--resume", status=1)
    assert "0 photos scored, 3 before" in again.stderr or "3 before" in again.stderr


def test_photos_are_kept_above_a_number_of_points(folder):
    rows = scored(folder, "--keep-above", 10)
    assert {name: row["kept"] for name, row in zip(names(rows), rows, strict=True)} == {
        "a-ruined.png": "no",
        "b-good.png": "yes",
        "c-blurred.png": "yes",
        "broken.jpg": None,
    }
    assert all("points" in row for row in rows)
    (folder / "broken.jpg").unlink()
    rejecting = grepq("score", folder, "--keep-above", 10, status=3)
    assert "2 kept, 1 rejected: points below 10" in rejecting.stderr
    grepq("score", folder / "sub", "--keep-above", 10)
    by_score = scored(folder, "--keep-above", 0.8, "--by", "score", status=3)
    assert [row["kept"] for row in by_score] == ["yes" if row["score"] >= 0.8 else "no" for row in by_score]


def test_rejects_are_listed_and_moved_only_with_apply(folder, tmp_path):
    (folder / "broken.jpg").unlink()
    listed, bin_ = tmp_path / "rejects.txt", tmp_path / "rejects"
    before = sorted(folder.rglob("*"))
    choice = ("--keep-above", 99.99, "--list-rejects", listed, "--move-rejects", bin_)
    shown = grepq("score", folder, *choice, status=3)
    assert "--apply would move 3 photos" in shown.stderr
    assert sorted(folder.rglob("*")) == before
    assert not bin_.exists()
    assert sorted(listed.read_text().splitlines()) == sorted(str(p) for p in before if p.is_file())
    assert "exists" in grepq("score", folder, *choice, status=2).stderr
    bin_.mkdir()
    (bin_ / "a-ruined.png").write_text("somebody's")
    moved = grepq("score", folder, *choice, "--overwrite", "--apply", status=3)
    assert "3 photos moved" in moved.stderr
    assert [p for p in folder.rglob("*") if p.is_file()] == []
    assert (bin_ / "a-ruined.png").read_text() == "somebody's"
    assert Image.open(bin_ / "a-ruined-2.png").size == (600, 400)
    assert (bin_ / "sub" / "b-good.png").is_file()
    with (bin_ / MOVED).open() as stream:
        records = list(csv.DictReader(stream))
    assert len(records) == 3
    for record in records:  # enough to undo it
        shutil.move(record["to"], record["from"])
    assert sorted(folder.rglob("*")) == before


def test_percentiles_of_ones_own_reference(folder, tmp_path, photo_folder):
    reference = tmp_path / "reference"
    reference.mkdir()
    photo = Image.fromarray(skimage.data.coffee()[:200, :200])
    for i in range(20):
        photo.filter(ImageFilter.GaussianBlur(i / 2)).save(reference / f"{i}.png")
    found = grepq("score", folder / "sub", "--percentile", "--reference", reference, "--format", "json")
    assert f"percentile: of the 20 photos of {reference}" in found.stderr
    assert "percentile: of 1,200 reference photos" in grepq("score", folder / "sub", "--percentile").stderr
    (row,) = json.loads(found.stdout)
    assert row["percentile"] > 50
    table = tmp_path / "reference.csv"
    grepq("score", reference, "-o", table)
    (same,) = scored(folder / "sub", "--percentile", "--reference", table, status=0)
    assert same["percentile"] == pytest.approx(row["percentile"], abs=0.01)  # six digits of scores
    refused = grepq("score", folder, "--metric", "grepq-ll", "--percentile", "--reference", table, status=2)
    assert "holds scores of grepq-sem-" in refused.stderr


def test_stars_go_to_sidecars_that_are_ours(folder):
    other = folder / "c-blurred.png.xmp"
    other.write_text("<x:xmpmeta>somebody's work</x:xmpmeta>")
    rows = scored(folder, "--xmp")
    assert other.read_text() == "<x:xmpmeta>somebody's work</x:xmpmeta>"
    for row in rows:
        if row["error"] is None and "c-blurred" not in row["path"]:
            text = (folder.parent / f"{row['path']}.xmp").read_text()
            assert f'xmp:Rating="{stars(row["percentile"])}"' in text
    assert "sidecar of another program" in next(row for row in rows if "c-blurred" in row["path"])["warning"]
    assert len(list(folder.rglob("*.xmp"))) == 3
    scored(folder, "--xmp")  # ours are replaced
    assert [stars(p) for p in (0, 19, 20.1, 50, 99, 100)] == [1, 1, 2, 3, 5, 5]


def test_raw_files_have_a_sidecar_for_lightroom_too(tmp_path):
    raw = tmp_path / "IMG_1.CR2"
    raw.write_text("raw")
    assert [path.name for path in write_sidecars(str(raw), 85)] == ["IMG_1.CR2.xmp", "IMG_1.xmp"]
    assert 'xmp:Rating="5"' in (tmp_path / "IMG_1.xmp").read_text()
    (tmp_path / "IMG_1.xmp").write_text("edits")
    (tmp_path / "IMG_1.CR2.xmp").unlink()
    with pytest.raises(ValueError, match="sidecar of another program"):
        write_sidecars(str(raw), 85)
    assert not (tmp_path / "IMG_1.CR2.xmp").exists()
    with pytest.raises(ValueError, match="no file that a sidecar"):
        write_sidecars("archive.zip/a.jpg", 50)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--best", 1, "--worst", 1], "give one of them"),
        (["--sort", "best", "--worst", 1], "leave out --sort"),
        (["--list-rejects", "x"], "--keep-above rejects: give it"),
        (["--keep-above", 50, "--apply"], "goes with --move-rejects"),
        (["--keep-above", "nan"], "finite"),
        (["--by", "width", "--sort", "best"], "--by must be one of score"),
        (["--by", "mos", "--sort", "best"], "--by mos: rows have the columns score"),
        (["--reference", "x.csv"], "goes with --percentile"),
        (["--percentile", "--reference", "none.csv"], "no such table: none.csv"),
        (["--points", "--head", "biq2021"], "scale of its ratings"),
        (["--points", "--resolution", 300], r"no reference for grepq-sem-"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(folder, arguments, message):
    result = grepq("score", folder, *arguments, status=2)
    assert message in result.stderr
    assert result.stdout == ""
