"""Promise: what a cluster writes are the scores of this machine, each once, whatever happens to its workers."""

import errno
import os
import subprocess
import sys
import textwrap

import pytest

from grepq_metric import Scorer, score_files
from grepq_metric.errors import InputError
from tests.command import grepq

pyarrow = pytest.importorskip("pyarrow")

from grepq_metric.scoring.cluster import RECORD, Output, PartWriter, find_photos  # noqa: E402


@pytest.fixture
def folder(photo_folder, tmp_path):
    """Three photos, one of them in a subfolder, and what is none."""
    place = tmp_path / "photos"
    (place / "deep").mkdir(parents=True)
    for name, target in (("cat.png", "cat.png"), ("stereo.png", "deep/stereo.png"), ("rocket.png", "rocket.png")):
        (place / target).write_bytes((photo_folder / name).read_bytes())
    (place / "broken.jpg").write_bytes(b"no photo")
    (place / "notes.txt").write_text("no photo")
    (place / ".hidden.png").write_bytes((photo_folder / "cat.png").read_bytes())
    return place


@pytest.fixture
def memory(folder):
    """The same in a storage that is no disk."""
    import fsspec

    fs = fsspec.filesystem("memory")
    for path in folder.rglob("*"):
        if path.is_file():
            fs.pipe_file(f"/bucket/{path.relative_to(folder)}", path.read_bytes())
    yield "memory://bucket"
    fs.store.clear()


def names(photos, root):
    return [path.removeprefix(f"{root}/") for path in photos["path"].to_pylist()]


def test_photos_are_found_in_folders_globs_and_other_storages(folder, memory):
    every = ["broken.jpg", "cat.png", "deep/stereo.png", "rocket.png"]
    assert names(find_photos([str(folder)]), folder) == every
    assert names(find_photos([str(folder), str(folder / "cat.png")]), folder) == every
    assert names(find_photos([str(folder)], recursive=False), folder) == ["broken.jpg", "cat.png", "rocket.png"]
    assert names(find_photos([f"{folder}/*.png"]), folder) == ["cat.png", "rocket.png"]
    found = find_photos([memory])
    assert [path.rpartition("bucket/")[2] for path in found["path"].to_pylist()] == every
    assert found["size"].to_pylist()[1] == (folder / "cat.png").stat().st_size


def test_photos_are_named_from_the_root_of_this_machine(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert names(find_photos(["cat.png"]), folder) == ["cat.png"]


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("nowhere", FileNotFoundError, "no such file or folder: nowhere"),
        ("nowhere/*.jpg", InputError, "no photos in nowhere"),
        ("wrong://bucket", InputError, "cannot reach wrong://bucket"),
    ],
)
def test_what_is_not_there_is_named(source, kind, message):
    with pytest.raises(kind, match=message.replace("*", r"\*")):
        find_photos([source])


def batch(photos):
    return {name: photos[name].to_pylist() for name in photos.column_names}


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_a_part_holds_the_scores_of_this_machine(folder, memory, tmp_path, where):
    source, output = (str(folder), str(tmp_path / "out")) if where == "disk" else (memory, "memory://bucket/out")
    photos = find_photos([source])
    writer = PartWriter(Scorer("grepq-sem"), output)
    assert writer(batch(photos)) == {"done": [4], "failed": [1], "problem": [""]}
    assert writer(batch(photos)) == {"done": [4], "failed": [1], "problem": [""]}
    (part,) = Output(output).parts()
    table = Output(output).read(part)
    expected = [
        row["score"]
        for row in score_files([p for p in sorted(folder.rglob("*.*")) if p.suffix in (".png", ".jpg") and p.name[0] != "."])
    ]
    assert table["score"].to_pylist() == expected
    assert table["size"].to_pylist() == photos["size"].to_pylist()
    assert "cannot read" in table["error"].to_pylist()[0]
    if where == "disk":
        assert [path.name for path in (tmp_path / "out").iterdir()] == [part]


class Deadly(Scorer):
    """Dies of one photo."""

    def read(self, item):
        if item.name.endswith("rocket.png"):
            raise KeyboardInterrupt
        return super().read(item)


def test_a_photo_that_kills_its_workers_gets_an_error_and_the_others_their_scores(folder, tmp_path):
    photos, writer = batch(find_photos([str(folder)])), PartWriter(Deadly("grepq-sem"), str(tmp_path))
    deaths = 0
    while True:
        try:
            counts = writer(photos)
        except KeyboardInterrupt:
            deaths += 1
            continue
        break
    assert deaths == 3  # with the others, and twice alone
    assert counts == {"done": [4], "failed": [2], "problem": [""]}
    (part,) = Output(str(tmp_path)).parts()
    table = Output(str(tmp_path)).read(part)
    assert table["error"].to_pylist()[3] == "the process died 2 times while it scored this photo"
    assert [score is None for score in table["score"].to_pylist()] == [True, False, False, True]
    assert not list(tmp_path.glob("_trial*"))


def test_what_keeps_a_part_from_being_written_is_told(folder, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("grepq_metric.scoring.cluster.Output.write", full)
    counts = PartWriter(Scorer("grepq-ll"), str(tmp_path))(batch(find_photos([str(folder)])))
    assert (counts["done"], counts["failed"]) == ([0], [0])
    assert "No space left on device" in counts["problem"][0]


def test_only_photos_that_have_a_score_are_kept(folder, tmp_path):
    place = Output(str(tmp_path / "out"))
    PartWriter(Scorer("grepq-sem"), place.place)(batch(find_photos([str(folder)])))
    os.utime(folder / "cat.png", ns=(1, 1))
    (folder / "rocket.png").unlink()
    kept = place.keep(find_photos([str(folder)]))
    assert names({"path": pyarrow.array(sorted(kept))}, folder) == ["deep/stereo.png"]
    left = place.read(place.parts()[0])  # also the row of a photo that is gone
    assert sorted(names(left, folder)) == ["deep/stereo.png", "rocket.png"]


def test_a_damaged_part_is_named(folder, tmp_path):
    place = Output(str(tmp_path))
    (tmp_path / "part-1.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(InputError, match=r"part-1\.parquet is damaged"):
        place.keep(find_photos([str(folder)]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name it with --output"),
        (["-", "-o", "out"], "no names on standard input"),
        (["-o", "out.parquet"], "got the name of a file: out.parquet"),
        (["-o", "out", "--map", "maps"], "draws no maps"),
        (["-o", "out", "--format", "csv"], "writes Parquet alone"),
        (["-o", "out", "--resume", "--overwrite"], "give one of them"),
    ],
)
def test_what_the_engine_can_not_do_is_refused(folder, tmp_path, arguments, message):
    assert message in grepq("score", folder, *arguments, "--engine", "ray", status=2, cwd=tmp_path).stderr


CLUSTER = """
import os, signal, sys, threading, time
import psutil, ray
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
for _ in range(2):
    cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False)
killed, out = [], sys.argv[2]


def kill():
    while not killed:
        time.sleep(0.02)
        trials = [name for name in os.listdir(out) if name.startswith("_trial")] if os.path.isdir(out) else []
        if not trials:
            continue
        for process in psutil.process_iter(["cmdline"]):
            if any("PartWriter" in part and part.startswith("ray::") for part in process.info["cmdline"] or ()):
                os.kill(process.pid, signal.SIGKILL)
                killed.append(process.pid)
                break


if sys.argv[3] == "kill":
    threading.Thread(target=kill, daemon=True).start()
from grepq_metric.cli import main

sys.argv = ["grepq", "score", sys.argv[1], "--engine", "ray", "-o", sys.argv[2], "--device", "cpu", *sys.argv[4:]]
try:
    main()
finally:
    print("killed", len(killed))
    ray.shutdown()
    cluster.shutdown()
"""


def on_two_workers(*arguments, status=0):
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CLUSTER), *map(str, arguments)], capture_output=True, text=True, timeout=600
    )
    assert ended.returncode == status, ended.stderr
    return ended


@pytest.mark.slow
def test_a_cluster_gives_the_same_scores_also_where_a_worker_is_killed(photo_folder, tmp_path):
    pytest.importorskip("ray.data")
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for i in range(64):
        (folder / f"{i}.png").write_bytes((photo_folder / ("cat.png", "rocket.png")[i % 2]).read_bytes())
    (folder / "broken.jpg").write_bytes(b"no photo")
    ended = on_two_workers(folder, out, "kill", status=1)
    assert "killed 1" in ended.stdout
    assert "64 photos scored, 1 of the photos could not be scored" in ended.stderr
    table = pyarrow.parquet.read_table(out)  # as users read it
    assert sorted(table["path"].to_pylist()) == sorted(map(str, folder.iterdir()))
    expected = {row["path"]: row["score"] for row in score_files([folder / "0.png", folder / "1.png"])}
    for path, score in zip(table["path"].to_pylist(), table["score"].to_pylist(), strict=True):
        if path.endswith(".png"):
            assert score == pytest.approx(expected[str(folder / f"{int(path.split('/')[-1][:-4]) % 2}.png")], abs=1e-6)
    (folder / "broken.jpg").unlink()
    (folder / "new.png").write_bytes((photo_folder / "cat.png").read_bytes())
    assert "1 photo scored, 64 before" in on_two_workers(folder, out, "live", "--resume").stderr
    assert pyarrow.parquet.read_table(out).num_rows == 65 + 1  # of a photo that is gone the row stays
    assert (
        "its weights_id was grepq-sem-"
        in on_two_workers(folder, out, "live", "--resume", "--metric", "grepq-ll", status=2).stderr
    )
    assert "holds scores already" in on_two_workers(folder, out, "live", status=2).stderr
    assert (out / RECORD).exists()
