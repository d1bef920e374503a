"""Promises: photos in archives are scored without unpacking, and no archive can take more memory than it is allowed."""

import csv
import io
import json
import os
import struct
import tarfile
import zipfile

import pytest
from PIL import Image

from grepq_metric import Scorer, archives, read_image
from grepq_metric.archives import is_archive, members, open_member, read_member, split
from grepq_metric.cli.record import state_of
from grepq_metric.errors import InputError
from grepq_metric.images import file_pixels
from tests.command import grepq

KINDS = ("zip", "tar", "tar.gz", "tgz", "tar.bz2", "tar.xz")
MODES = {"tar": "w", "tar.gz": "w:gz", "tgz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}


def packed(path, files, kind):
    """An archive of these files, by name; a number in place of the content is a type of tarfile."""
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, MODES[kind]) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def small(photo_folder):
    """Photos of a patch, since most of these tests score some."""
    found = {}
    for name, box in (("stereo", (0, 0, 96, 96)), ("rocket", (60, 30, 160, 128)), ("cat", (150, 100, 250, 196))):
        stream = io.BytesIO()
        with Image.open(photo_folder / f"{name}.png") as image:
            image.crop(box).save(stream, "PNG")
        found[name] = stream.getvalue()
    return found


@pytest.fixture
def files(small):
    return {"stereo.png": small["stereo"], "deep/er/rocket.png": small["rocket"], "./cat.PNG": small["cat"]}


@pytest.fixture(params=KINDS)
def archive(request, files, tmp_path):
    others = {"notes.txt": b"x", ".hidden.png": b"x", "__MACOSX/._cat.png": b"x", "broken.png": b"no photo"}
    return packed(tmp_path / f"photos.{request.param}", {**files, **others}, request.param)


def rows_of(*args, **options):
    return [json.loads(line) for line in grepq("score", *args, "--format", "jsonl", **options).stdout.splitlines()]


def test_photos_in_an_archive_are_scored_as_those_of_a_folder(archive, small, tmp_path):
    for name, content in small.items():
        (tmp_path / f"{name}.png").write_bytes(content)
    result = grepq("score", archive.name, "--format", "jsonl", status=1, cwd=archive.parent)
    rows = {row["path"]: row for row in map(json.loads, result.stdout.splitlines())}
    names = {"stereo": "stereo.png", "rocket": "deep/er/rocket.png", "cat": "cat.PNG"}
    assert list(rows) == [f"{archive.name}/{name}" for name in (*names.values(), "broken.png")]
    for row in rows_of(*(tmp_path / f"{name}.png" for name in names)):
        name = os.path.basename(row["path"]).removesuffix(".png")
        assert rows[f"{archive.name}/{names[name]}"] == {**row, "path": f"{archive.name}/{names[name]}"}
    assert f"cannot read {archive.name}/broken.png as an image" in rows[f"{archive.name}/broken.png"]["error"]
    assert "skipped in folders and archives: 1 .txt file" in result.stderr
    top = rows_of(archive.name, "--no-recursive", status=1, cwd=archive.parent)
    assert [row["path"] for row in top] == [f"{archive.name}/{name}" for name in ("stereo.png", "cat.PNG", "broken.png")]


def test_a_photo_in_an_archive_is_a_path(archive, files):
    path = f"{archive}/deep/er/rocket.png"
    assert read_image(path).shape == (3, 98, 100)
    assert file_pixels(path) == 98 * 100
    assert split(path) == (archive, "deep/er/rocket.png")
    assert split(archive) is None
    assert read_member(archive, "./cat.PNG") == read_member(archive, "cat.PNG") == files["./cat.PNG"]
    with open_member(archive, "stereo.png") as stream:
        assert stream.read(8) == files["stereo.png"][:8]
    scored = Scorer()({"path": [path, f"{archive}/absent.png", f"{archive}/deep"]})
    assert scored["error"][0] is None
    assert scored["width"][0] == 100
    assert scored["error"][1:] == [f"no such file: {archive}/absent.png", f"no such file: {archive}/deep"]
    assert state_of(path) == state_of(str(archive))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_processes_share_an_archive(files, tmp_path, kind):
    many = {f"{i:02}/{name}": content for i in range(8) for name, content in files.items()}
    path = packed(tmp_path / f"photos.{kind}", many, kind)
    one, two = (rows_of(path, "--jobs", jobs) for jobs in (1, 2))
    assert [row["path"] for row in one] == [row["path"] for row in two]
    assert [row["error"] for row in two] == [None] * 24
    assert [row["score"] for row in one] == pytest.approx([row["score"] for row in two], abs=1e-6)


def test_a_run_is_resumed_by_the_state_of_the_archive(files, tmp_path):
    path = packed(tmp_path / "photos.zip", files, "zip")
    arguments = ["score", "photos.zip", "-o", "scores.csv", "--map", "maps", "--resume"]
    grepq(*arguments, cwd=tmp_path)
    maps = [f"photos.zip__{name}.map.png" for name in ("cat.PNG", "deep__er__rocket.png", "stereo.png")]
    assert sorted(found.name for found in (tmp_path / "maps").iterdir()) == maps
    assert "0 photos scored, 3 before" in grepq(*arguments, cwd=tmp_path).stderr
    packed(path, {**files, "new.png": files["stereo.png"]}, "zip")
    assert "4 photos scored" in grepq(*arguments, cwd=tmp_path).stderr
    with (tmp_path / "scores.csv").open(newline="") as stream:
        assert {row["path"] for row in csv.DictReader(stream)} == {f"photos.zip/{n}" for n in archives.members(path)}


def test_an_archive_is_never_written_over(files, tmp_path):
    path = packed(tmp_path / "photos.zip", files, "zip")
    before = path.read_bytes()
    for photo in ("photos.zip", "photos.zip/stereo.png"):
        arguments = ["score", photo, "-o", "photos.zip", "--format", "csv", "--overwrite"]
        assert "is one of the inputs" in grepq(*arguments, status=2, cwd=tmp_path).stderr
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_archive_is_a_row_and_what_is_whole_is_scored(files, tmp_path, kind):
    data = packed(tmp_path / f"photos.{kind}", files, kind).read_bytes()
    (tmp_path / f"cut.{kind}").write_bytes(data[: len(data) * 3 // 5])
    (tmp_path / f"empty.{kind}").write_bytes(b"")
    (tmp_path / f"text.{kind}").write_bytes(b"no archive " * 100)
    rows = rows_of(f"cut.{kind}", f"empty.{kind}", f"text.{kind}", f"photos.{kind}", status=1, cwd=tmp_path)
    errors = {row["path"]: row["error"] for row in rows if row["error"]}
    for name in ("cut", "empty", "text"):
        assert f"cannot read {name}.{kind}" in errors[f"{name}.{kind}"], errors
    assert sum(row["path"].startswith("photos.") and row["error"] is None for row in rows) == 3
    if kind == "tar":
        assert any(row["path"] == "cut.tar/stereo.png" and row["error"] is None for row in rows)


def test_damage_in_the_middle_of_a_tar_is_told(files, tmp_path):
    path = packed(tmp_path / "photos.tar", files, "tar")
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        at = tar.getmember("deep/er/rocket.png").offset
    data[at : at + 512] = b"\xff" * 512
    path.write_bytes(data)
    rows = rows_of("photos.tar", status=1, cwd=tmp_path)
    assert [(row["path"], row["error"] is None) for row in rows] == [("photos.tar/stereo.png", True), ("photos.tar", False)]
    assert "the archive is damaged" in rows[1]["error"]


def test_damage_within_a_photo_is_that_photos(files, tmp_path):
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    data = bytearray(path.read_bytes())
    data[data.index(files["stereo.png"]) + 5000] ^= 255
    path.write_bytes(data)
    rows = rows_of("photos.zip", status=1, cwd=tmp_path)
    assert [row["error"] is None for row in rows] == [False, True, True]
    assert "Bad CRC-32" in rows[0]["error"]


def test_encrypted_photos_are_told(files, tmp_path):
    path = packed(tmp_path / "photos.zip", files, "zip")
    data = bytearray(path.read_bytes())
    at = 0
    for magic, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # the bit in both headers: what is encrypted does not matter here
        at = data.index(magic)
        data[at + flags] |= 1
    path.write_bytes(data)
    rows = rows_of("photos.zip", status=1, cwd=tmp_path)
    assert rows[0]["error"] == "cannot read photos.zip/stereo.png: it is encrypted: unpack it"
    assert [row["error"] for row in rows[1:]] == [None, None]


def test_a_file_without_a_name_is_left_out(files, tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("NAMELESS", b"no photo")
        archive.writestr("a.png", files["stereo.png"])
    (tmp_path / "photos.zip").write_bytes((tmp_path / "photos.zip").read_bytes().replace(b"NAMELESS", bytes(8)))
    assert list(members(tmp_path / "photos.zip")) == ["a.png"]


def test_links_and_devices_are_left_out(files, tmp_path):
    (tmp_path / "secret.png").write_bytes(files["stereo.png"])
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            info = tarfile.TarInfo(f"{kind.decode()}.png")
            info.type, info.linkname = kind, str(tmp_path / "secret.png")
            archive.addfile(info)
        info = tarfile.TarInfo("a.png")
        info.size = len(files["stereo.png"])
        archive.addfile(info, io.BytesIO(files["stereo.png"]))
    assert list(members(tmp_path / "photos.tar")) == ["a.png"]
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        link = zipfile.ZipInfo("link.png")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, str(tmp_path / "secret.png"))
        archive.writestr("folder.png/", b"")
        archive.writestr("a.png", files["stereo.png"])
    assert list(members(tmp_path / "photos.zip")) == ["a.png"]


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
def test_a_name_that_leads_out_is_an_error(files, tmp_path, kind):
    (tmp_path / "secret.png").write_bytes(files["stereo.png"])
    names = ("../secret.png", str(tmp_path / "secret.png"), "a/../../secret.png")
    path = packed(tmp_path / f"photos.{kind}", {**dict.fromkeys(names, files["stereo.png"]), "a.png": b"x"}, kind)
    rows = rows_of(path, status=1)
    assert len(rows) >= 2
    for row in rows:
        assert row["score"] is None
    assert "leads out of the archive" in rows[0]["error"]
    with pytest.raises(InputError, match="leads out"):
        read_member(path, "../secret.png")


@pytest.mark.parametrize("kind", KINDS)
def test_a_bomb_is_refused_by_the_size_that_it_states(files, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(archives, "LARGEST", 200_000)
    path = packed(tmp_path / f"bomb.{kind}", {"bomb.png": bytes(5_000_000), "a.png": files["stereo.png"]}, kind)
    rows = rows_of(path, status=1)
    assert [row["error"] is None for row in rows] == [False, True]
    assert "it has 5 MB by the archive, more than the limit of 0" in rows[0]["error"]


def test_no_more_is_read_than_a_zip_states(files, tmp_path):
    """Its directory says 1,000 bytes of what are five million."""
    path = packed(tmp_path / "bomb.zip", {"bomb.png": bytes(5_000_000)}, "zip")
    data = path.read_bytes().replace(struct.pack("<I", 5_000_000), struct.pack("<I", 1000))
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        read_member(path, "bomb.png")
    assert file_pixels(f"{path}/bomb.png") == 0


def test_a_header_of_a_tar_that_is_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "LARGEST", 200_000)
    with tarfile.open(tmp_path / "bomb.tgz", "w:gz", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a.png")
        info.pax_headers = {"comment": "x" * 1_000_000}
        archive.addfile(info)
    with pytest.raises(InputError, match="a header or a file in it states"):
        list(members(tmp_path / "bomb.tgz"))


def test_a_compressed_tar_is_read_once_by_who_asks_in_order(files, tmp_path, monkeypatch):
    many = {f"{i:03}.png": bytes([i]) * 100 for i in range(100)}
    path = packed(tmp_path / "photos.tgz", many, "tgz")
    begun = []
    began = archives._TarPass.__init__
    monkeypatch.setattr(archives._TarPass, "__init__", lambda self, path: (begun.append(path), began(self, path))[1])
    names = list(members(path))
    swapped = [name for pair in zip(names[1::2], names[::2], strict=True) for name in pair]  # as by two threads
    for name in swapped:
        assert read_member(path, name) == many[name]
    assert len(begun) == 2
    assert read_member(path, "000.png") == many["000.png"]  # passed long ago
    assert len(begun) == 3


def test_what_is_an_archive(tmp_path):
    for name in ("a.zip", "b.TAR", "c.tar.gz", "d.tgz", "e.tar.bz2", "f.tar.xz"):
        (tmp_path / name).write_bytes(b"")
        assert is_archive(tmp_path / name)
        assert split(tmp_path / name / "x.png") == (tmp_path / name, "x.png")
    (tmp_path / "folder.zip").mkdir()
    (tmp_path / "folder.zip" / "x.png").write_bytes(b"")
    assert not is_archive(tmp_path / "folder.zip")
    assert split(tmp_path / "folder.zip" / "x.png") is None
    assert not is_archive(tmp_path / "absent.zip")


def test_names_with_backslashes_are_paths(files, tmp_path):
    """As some programs of Windows write them."""
    path = packed(tmp_path / "photos.zip", {"holiday\\beach.png": files["stereo.png"], "..\\x.png": b"x"}, "zip")
    assert list(members(path)) == ["holiday/beach.png", "../x.png"]
    assert read_member(path, "holiday/beach.png") == read_member(path, "holiday\\beach.png") == files["stereo.png"]
    with pytest.raises(InputError, match="leads out"):
        read_member(path, "..\\x.png")


def test_an_archive_without_photos_says_what_is_in_it(tmp_path):
    packed(tmp_path / "notes.zip", {"a.txt": b"x", "b.txt": b"x"}, "zip")
    assert "no photos in notes.zip, only 2 .txt files" in grepq("score", "notes.zip", status=2, cwd=tmp_path).stderr
