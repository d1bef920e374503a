"""Promise: what is killed, or finds no room, leaves what is usable, and a rerun ends with the result of a run without a fault.

A sample of ``python -m tests.faults``, whose whole runs are recorded in faults.json; the page `docs/promises.md` shows them.
"""

import errno
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from grepq_metric import files
from grepq_metric.files import move_file, whole_file, whole_folder
from tests.faults import CACHED, FAULTS, JOBS, OF_CACHES, Bench, Ended, Fault, Inputs, Tally, check_whole, content

ROOT = Path(__file__).parents[1]
NO_MOUNT = "can't be mounted"
needs_forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forks, which this system lacks")


def sample(fault, points, *jobs):
    """Put faults into jobs, in a process that has no threads yet."""
    command = [sys.executable, "-m", "tests.faults", "--fault", fault, "--points", str(points), "--seed", "1"]
    done = subprocess.run(
        [*command, *(f"--job={job}" for job in jobs)], cwd=ROOT, capture_output=True, text=True, timeout=1500, check=False
    )
    if NO_MOUNT in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@needs_forks
def test_what_was_killed_is_continued_to_the_same_result():
    assert len(sample("kill", 2, "score, moves")) == 1


@needs_forks
@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_change_no_result(fault):
    jobs = CACHED if fault in OF_CACHES else ("score", "score, parquet", "train low", "train qfm", "bench", "gallery")
    assert len(sample(fault, 1, *jobs)) == len(jobs)


def test_a_run_that_hides_a_fault_is_noticed(tmp_path):
    (tmp_path / "half.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(Fault, match=r"half\.safetensors is damaged"):
        check_whole(tmp_path)
    (tmp_path / "half.safetensors").unlink()
    torch.save({"step": 1}, tmp_path / "checkpoint.pt")
    check_whole(tmp_path)
    os.truncate(tmp_path / "checkpoint.pt", 100)
    with pytest.raises(Fault, match=r"checkpoint\.pt is damaged"):
        check_whole(tmp_path)
    os.rename(tmp_path / "checkpoint.pt", tmp_path / ".checkpoint-0a1b2c3d.part.pt")  # still being written
    check_whole(tmp_path)


def test_a_result_is_the_same_whenever_and_wherever_it_was_made_and_else_another(tmp_path):
    found = []
    for name, date, score in (("one", "2026-01-01", 0.5), ("two", "2027-02-02", 0.5), ("three", "2026-01-01", 0.6)):
        out = tmp_path / name
        out.mkdir()
        (out / "facts.json").write_text(json.dumps({"date": date, "score": score, "file": str(out / "photo.jpg")}))
        (out / "scores.csv").write_text(f"path,score,seconds\n{out}/photo.jpg,{score},{random.random()}\n")
        found.append(content(JOBS["score"], out))
    assert found[0] == found[1] != found[2]


def test_a_rerun_with_another_result_and_one_that_is_refused_without_an_advice_are_faults(tmp_path, monkeypatch):
    monkeypatch.setattr(Bench, "__init__", lambda self: None)
    bench = Bench()
    bench.name, bench.job, bench.inputs, bench.expected = "score", JOBS["score"], Inputs(tmp_path), {"a.txt": "other"}
    monkeypatch.setattr(Bench, "run", lambda self, out, *more, **options: Ended(0, "", 1.0))
    with pytest.raises(Fault, match=r"another result than without a fault"):
        bench.rerun(tmp_path, Tally())
    monkeypatch.setattr(Bench, "run", lambda self, out, *more, **options: Ended(2, "error: no", 1.0))
    with pytest.raises(Fault, match=r"refused without an advice: error: no"):
        bench.rerun(tmp_path, Tally())
    monkeypatch.setattr(Bench, "run", lambda self, out, *more, **options: Ended(0 if more else 2, "use --resume", 1.0))
    bench.expected, tally = {}, Tally()
    bench.rerun(tmp_path, tally)
    assert tally.outcomes == {"continued by --resume": 1}


def test_whole_runs_are_recorded():
    recorded = json.loads((ROOT / "tests" / "faults.json").read_text(encoding="utf-8"))
    assert set(recorded) == set(FAULTS)
    for fault, jobs in recorded.items():
        assert set(jobs) == set(CACHED if fault in OF_CACHES else JOBS), fault
    assert all(one["points"] >= 20 for one in recorded["kill"].values())


@pytest.fixture
def calls(monkeypatch):
    """What is asked of the disk, in order: ``("fsync", name)`` and ``("replace", name)``."""
    made, real = [], {"fsync": os.fsync, "replace": os.replace, "rename": os.rename, "unlink": os.unlink}

    def fsync(descriptor):
        made.append(("fsync", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))
        real["fsync"](descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)
    for name in ("replace", "rename"):
        monkeypatch.setattr(
            files.os, name, lambda one, other, name=name: (made.append((name, Path(other).name)), real[name](one, other))[1]
        )

    def unlink(path, **options):
        if not Path(path).name.startswith("."):  # parts are gone already
            made.append(("unlink", Path(path).name))
        real["unlink"](path, **options)

    monkeypatch.setattr(files.os, "unlink", unlink)
    return made


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc tells which file a descriptor is of")


@needs_proc
def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_before_all_that_follows(tmp_path, calls):
    with whole_file(tmp_path / "a.csv") as part:
        part.write_text("new")
    name = part.name
    assert calls == [("fsync", name), ("replace", "a.csv"), ("fsync", tmp_path.name)]


@needs_proc
@pytest.mark.parametrize("there", [False, True])
def test_the_same_of_the_files_of_a_folder(tmp_path, calls, there):
    folder = tmp_path / "weights"
    names = ("config.json", "model.safetensors")
    if there:
        folder.mkdir()
        for name in names:
            (folder / name).write_text("old")
    with whole_folder(folder) as staging:
        for name in names:
            (staging / name).write_text("new")
    assert calls[:2] == [("fsync", "config.json"), ("fsync", "model.safetensors")]
    named = [call for call in calls if call[0] != "fsync"]
    replaced = [*(("unlink", name) for name in names), *(("replace", name) for name in names)]
    assert named == (replaced if there else [("rename", "weights")])
    assert calls[-2:] == [("fsync", "weights"), ("fsync", tmp_path.name)]


@needs_proc
def test_a_file_that_goes_to_another_disk_is_there_before_it_goes_here(tmp_path, calls, monkeypatch):
    source, target = tmp_path / "a.jpg", tmp_path / "b.jpg"
    source.write_text("photo")

    def other_disk(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(files.os, "rename", other_disk)
    move_file(source, target)
    assert [name for name, _ in calls] == ["fsync", "replace", "fsync", "unlink"]
    assert target.read_text() == "photo"
    assert not source.exists()


def test_a_file_that_can_not_go_to_another_disk_stays(tmp_path, monkeypatch):
    source, target = tmp_path / "a.jpg", tmp_path / "b.jpg"
    source.write_text("photo")

    def other_disk(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "rename", other_disk)
    monkeypatch.setattr(files.shutil, "copy2", full)
    with pytest.raises(OSError, match=r"cannot write .*b\.jpg: No space left"):
        move_file(source, target)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]
