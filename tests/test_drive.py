"""Promises of downloads from Google Drive: the real client fetches from a copy of it here, and every fault is one message."""

import errno
import io
import sys
import zipfile

import pytest
import torch

from grepq_metric.catalog import DriveFolder
from grepq_metric.errors import InputError, WeightsError
from grepq_metric.files import sha256
from grepq_metric.weights import drive as weights_drive
from grepq_metric.weights import hub
from grepq_metric.weights.drive import fetch_folder
from tests.drive_server import DriveServer

gdown = pytest.importorskip("gdown", reason="fetching from Google Drive needs gdown (extra: convert)")
h5py = pytest.importorskip("h5py", reason="reading the authors' patches needs h5py (extra: convert)")
SOURCE = DriveFolder(id="1testtesttesttesttesttesttest", files={"low": "low.tar", "patches": "patches.hdf5"}, terms="none")

KEPT = 2 * 512 * 1024
"""Bytes of half of the larger file: gdown writes whole blocks."""


@pytest.fixture(scope="module")
def server():
    server = DriveServer()
    server.start()
    yield server
    server.stop()


def tensors_of(count):
    """A file of that many random numbers, as torch saves it."""
    stream = io.BytesIO()
    torch.save({"a": torch.rand(count)}, stream)
    return stream.getvalue()


@pytest.fixture
def drive(server, monkeypatch):
    """A folder of two small files, and a third that nobody asked for."""
    patches = io.BytesIO()
    with h5py.File(patches, "w") as file:
        file["data"] = torch.rand(2, 3, 96, 96).numpy()
    server.folder, server.faults = SOURCE.id, set()
    server.files = {"notes & terms.txt": b"hello", "low.tar": tensors_of(600_000), "patches.hdf5": patches.getvalue()}
    server.requests.clear()
    server.lead_here(monkeypatch)
    monkeypatch.setattr(weights_drive, "RETRIES", 0)
    return server


def test_the_files_of_a_folder_are_fetched_past_the_warning_and_once(drive, tmp_path):
    found = fetch_folder(SOURCE, tmp_path / "keep")
    assert list(found) == ["low", "patches"]
    for file in found.values():
        assert file.path.read_bytes() == drive.files[file.path.name]
        assert (file.size, file.sha256) == (file.path.stat().st_size, sha256(file.path))
        assert file.address == f"https://drive.google.com/file/d/{drive.id_of(file.path.name)}/view"
        assert file.date != "2024-02-05"  # which is the day of the upload
    assert not [path for _, path, _ in drive.requests if drive.id_of("notes & terms.txt") in path]
    drive.requests.clear()
    assert fetch_folder(SOURCE, tmp_path / "keep") == found
    assert [path.partition("?")[0] for _, path, _ in drive.requests] == ["/embeddedfolderview"]


def test_cookies_of_the_user_are_neither_sent_nor_changed(drive, tmp_path, monkeypatch):
    cookies = tmp_path / "cookies.txt"
    cookies.write_text("# Netscape HTTP Cookie File\n.google.com\tTRUE\t/\tTRUE\t4102444800\tSID\tsecret\n")
    before = cookies.read_text()
    monkeypatch.setattr(sys.modules["gdown.download"], "DEFAULT_COOKIES_FILE", str(cookies))
    fetch_folder(SOURCE, tmp_path / "keep")
    assert not drive.cookies
    assert cookies.read_text() == before


def test_a_download_that_is_cut_is_continued(drive, tmp_path):
    drive.faults.add("cut")
    with pytest.raises(WeightsError, match=rf"low\.tar broke off .*; {KEPT:,} bytes of it are kept"):
        fetch_folder(SOURCE, tmp_path)
    drive.faults.clear()
    drive.requests.clear()
    found = fetch_folder(SOURCE, tmp_path)
    assert found["low"].path.read_bytes() == drive.files["low.tar"]
    assert [range_ for _, _, range_ in drive.requests if range_] == [f"bytes={KEPT}-"]


def test_a_download_that_is_cut_once_is_continued_at_once(drive, tmp_path, monkeypatch):
    monkeypatch.setattr(weights_drive, "RETRIES", 1)
    drive.faults.add("cut-once")
    assert fetch_folder(SOURCE, tmp_path)["low"].path.read_bytes() == drive.files["low.tar"]
    assert not drive.faults


@pytest.mark.parametrize(
    ("fault", "content", "message"),
    [
        ("no-ranges", None, "byte range; .*nothing of it is kept"),
        (None, 1000, "byte range; .*nothing of it is kept"),  # a shorter file under the same id
        (None, 600_000, "came from Google Drive as a damaged file"),  # other values: half of each file
    ],
)
def test_a_part_that_cannot_be_continued_does_not_stay_in_the_way(drive, tmp_path, fault, content, message):
    drive.faults.add("cut")
    with pytest.raises(WeightsError, match="are kept"):
        fetch_folder(SOURCE, tmp_path)
    drive.faults = {fault}
    if content is not None:
        drive.files["low.tar"] = tensors_of(content)
    with pytest.raises(WeightsError, match=message):
        fetch_folder(SOURCE, tmp_path)
    assert fetch_folder(SOURCE, tmp_path)["low"].path.read_bytes() == drive.files["low.tar"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no-folder", r"does not show the folder https://drive\.google\.com/.*404.*: it has moved, or is private now"),
        ("hotel", r"lacks low\.tar, patches\.hdf5; it shows no files: .*hotel"),
        ("quota", r"quota of downloads of low\.tar is used up: try again in a day"),
        ("moved", r"a page in place of low\.tar: it has moved, is private now, or is asked for too often"),
        ("private", r"a page in place of low\.tar: it has moved, is private now, or is asked for too often"),
        ("page", r"low\.tar came from Google Drive as a page, and is removed"),
    ],
)
def test_what_drive_says_instead_is_one_message_and_the_next_try_is_not_hindered(drive, tmp_path, fault, message):
    drive.faults.add(fault)
    with pytest.raises(WeightsError, match=message) as told:
        fetch_folder(SOURCE, tmp_path)
    assert "\n" not in str(told.value)
    if fault not in ("no-folder", "hotel"):
        assert f"fetch low.tar, patches.hdf5 of {SOURCE.address} with a browser" in str(told.value)
    drive.faults.clear()
    assert fetch_folder(SOURCE, tmp_path)["low"].path.read_bytes() == drive.files["low.tar"]


def test_a_folder_without_the_files_is_named(drive, tmp_path):
    del drive.files["patches.hdf5"]
    with pytest.raises(WeightsError, match=r"lacks patches\.hdf5; it has low\.tar, notes & terms\.txt: the authors"):
        fetch_folder(SOURCE, tmp_path)


def damaged(content):
    """A zip file with a byte of its longest member changed, as after a crash of the machine."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        longest = max(archive.infolist(), key=lambda info: info.file_size)
    at = longest.header_offset + longest.file_size // 2
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("name", ["low.tar", "patches.hdf5"])
def test_a_damaged_file_is_removed_and_fetched_again(drive, tmp_path, name):
    whole = drive.files[name]
    drive.files[name] = damaged(whole) if name == "low.tar" else whole[: len(whole) // 2]
    with pytest.raises(WeightsError, match=rf"{name} came from Google Drive as a damaged file, and is removed"):
        fetch_folder(SOURCE, tmp_path)
    drive.files[name] = whole
    found = fetch_folder(SOURCE, tmp_path)
    assert sorted(file.path.read_bytes() for file in found.values()) == sorted(
        drive.files[n] for n in ("low.tar", "patches.hdf5")
    )


@pytest.mark.parametrize(("fault", "seconds"), [("hang", 0.5), ("loop", 1.0)])
def test_no_answer_and_one_that_leads_nowhere_have_a_bound(drive, tmp_path, monkeypatch, fault, seconds):
    monkeypatch.setattr(weights_drive, "ANSWER", seconds)
    monkeypatch.setattr(weights_drive, "STALLED", seconds)
    monkeypatch.setattr(hub, "STALLED", seconds)
    drive.faults.add(fault)
    with pytest.raises(WeightsError, match=r"cannot fetch .* from Google Drive \(.*(nothing has come|timed out)"):
        fetch_folder(SOURCE, tmp_path)


def test_no_network_is_one_message(drive, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.drive_server.HOSTS", ())
    with pytest.raises(WeightsError, match=r"cannot fetch the folder .* Drive \(Failed to .*refused\)\. Try again later"):
        fetch_folder(SOURCE, tmp_path)


def test_a_full_disk_is_one_message_and_what_came_is_kept(drive, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(gdown, "download", full)
        with pytest.raises(WeightsError, match=r"cannot write .*: No space left on device; free some space, or set HF_HOME"):
            fetch_folder(SOURCE, tmp_path)
    assert len(fetch_folder(SOURCE, tmp_path)) == 2


def test_a_folder_that_cannot_be_written_is_one_message(drive, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match=r"cannot write .*file/keep: Not a directory"):
        fetch_folder(SOURCE, tmp_path / "file" / "keep")


def test_two_downloads_at_once_do_not_write_the_same_file(drive, tmp_path):
    from filelock import FileLock

    with FileLock(tmp_path / ".lock"), pytest.raises(WeightsError, match="another process is fetching files"):
        fetch_folder(SOURCE, tmp_path)


def test_without_the_client_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(InputError, match=r'pip install "grepq-metric\[convert\]"'):
        fetch_folder(SOURCE, tmp_path)
