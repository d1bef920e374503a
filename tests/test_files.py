"""Promises of files: what is written is there as a whole or not at all, and a full disk names the file."""

import errno
import os

import pytest

from grepq_metric.files import sha256, whole_file, whole_folder


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_appears_when_its_block_ends(tmp_path):
    path = tmp_path / "a.csv"
    with whole_file(path) as part:
        part.write_text("new")
        assert part.suffix == ".csv"
        assert not path.exists()
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.csv"]


@pytest.mark.parametrize(
    "failure", [RuntimeError("no"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")]
)
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    path = tmp_path / "a.csv"
    path.write_text("old")
    with pytest.raises(type(failure)) as caught, whole_file(path) as part:  # noqa: PT012
        part.write_text("half")
        raise failure
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.csv"]
    if isinstance(failure, OSError):
        assert str(path) in str(caught.value)
        assert "free some space" in str(caught.value)


def test_an_absent_folder_is_named(tmp_path):
    with (
        pytest.raises(FileNotFoundError, match=r"cannot write .*absent/a\.csv"),
        whole_file(tmp_path / "absent" / "a.csv") as part,
    ):
        part.write_text("new")


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_is_filled_at_once_and_keeps_other_files(tmp_path, there):
    folder = tmp_path / "weights"
    if there:
        folder.mkdir()
        (folder / "a").write_text("old")
        (folder / "notes").write_text("mine")
    with whole_folder(folder) as staging:
        (staging / "a").write_text("new")
        assert not there or (folder / "a").read_text() == "old"
    assert (folder / "a").read_text() == "new"
    assert sorted(os.listdir(folder)) == (["a", "notes"] if there else ["a"])
    assert os.listdir(tmp_path) == ["weights"]


@pytest.mark.parametrize("there", [False, True])
def test_a_failure_leaves_the_old_folder(tmp_path, there, monkeypatch):
    folder = tmp_path / "weights"
    if there:
        folder.mkdir()
        (folder / "a").write_text("old")
    with pytest.raises(OSError, match=r"cannot write .*weights.*free some space"), whole_folder(folder) as staging:  # noqa: PT012
        (staging / "a").write_text("half")
        full()
    assert os.listdir(tmp_path) == (["weights"] if there else [])
    assert not there or (folder / "a").read_text() == "old"


def test_the_hash_is_that_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_folder_in_which_one_stands_and_long_names_can_be_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with whole_folder(".") as staging:
        (staging / "a").write_text("new")
    name = "n" * 240 + ".csv"
    with whole_file(name) as part:
        part.write_text("new")
    assert sorted(os.listdir(tmp_path)) == ["a", name]


def test_a_path_through_a_link_means_what_it_means_to_the_system(tmp_path, monkeypatch):
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    (tmp_path / "a.csv").write_text("old")
    monkeypatch.chdir(tmp_path)
    with whole_file("link/../a.csv") as part:
        part.write_text("new")
    with whole_folder("link/../weights") as staging:
        (staging / "a").write_text("new")
    assert (tmp_path / "a.csv").read_text() == "old"
    assert (tmp_path / "real" / "a.csv").read_text() == "new"
    assert (tmp_path / "real" / "weights" / "a").read_text() == "new"
