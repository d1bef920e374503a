"""Faults in the middle of commands: what they leave must be usable, and a rerun must end with the result of a run without any.

    python -m tests.faults --fault kill --points 20 --seed 0
    python -m tests.faults --fault disk --job score --points 3
    python -m tests.faults --seed 0 --points 20 --record tests/faults.json

- ``kill``: SIGKILL to the command and all that it started. Half of the points lie before a change of its folder (a file is
  opened to be written, renamed or removed), which the seed draws, and half at moments that it draws. Then the same command is
  given once more as it was, and once more as its message says.
- ``disk``: a disk (a tmpfs, which needs root) that ends after a part of what the command writes, which the seed draws; then it
  grows, and the command is given again.
- ``clock``: killed as above; before the rerun all that is there comes from ten years ahead: the clock was set back.
- ``closed``: standard output that nobody reads.
- ``readonly``: the folder of a cache can't be written.
- ``crowd``: two and eight of the same command at once, on one cache.

Each run is a fork of this process, which has imported what takes long; Ray, which starts programs of its own, has a new one.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib
import json
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process with threads can't be forked; and each run has one

PARTS = re.compile(r"^\..*\.part(\.|$)")
"""Names of files that are being written."""
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree", "shutil.move")
"""Audit events, besides ``open`` for writing, before which a run may be killed."""
SECONDS = 600.0
"""After which a run is taken for hung."""


class Fault(Exception):  # noqa: N818
    """A run that did not keep a promise."""


@dataclass(frozen=True)
class Inputs:
    """What the commands read; made once."""

    folder: Path

    @property
    def photos(self) -> Path:
        """24 photos."""
        return self.folder / "photos"

    @property
    def large(self) -> Path:
        """8 photos of 224 x 224 pixels."""
        return self.folder / "large"

    @property
    def labels(self) -> Path:
        """Opinion scores of them."""
        return self.folder / "labels.csv"

    @property
    def released(self) -> dict[str, Path]:
        """Files in the layout of those of GRepQ's authors, and a CLIP, with random values."""
        names = ("low_level_model_weights.tar", "high_level_model_weights.pth", "pristine_patches_096_0.75_0.80.hdf5")
        paths = [self.folder / name for name in (*names, "clip.safetensors")]
        return dict(zip(("low", "high", "pristine", "clip"), paths, strict=True))


@dataclass(frozen=True)
class Job:
    """A command.

    Attributes:
        start: its arguments, of inputs and a folder that it may write to.
        again: what is added to continue it.
        entry: the program, ``grepq`` or ``benchmarks``.
        ready: what is put into the folder before.
        status: with which it ends.
        process: whether it must be a process of its own.
    """

    start: Callable[[Inputs, Path], list[str]]
    again: tuple[str, ...] = ()
    entry: str = "grepq"
    ready: Callable[[Inputs, Path], None] | None = None
    status: int = 0
    process: bool = False


def _training(*arguments: object) -> list[str]:
    return ["train", *map(str, arguments), "--checkpoint-every", "1", "--workers", "1", "--device", "cpu", "--name", "x"]


def _score(kind: str, inputs: Inputs, out: Path) -> list[str]:
    return ["score", str(inputs.photos), "--metric", "grepq-ll", "-o", str(out / f"scores.{kind}"), "--device", "cpu"]


def _photos_of_its_own(inputs: Inputs, out: Path) -> None:
    shutil.copytree(inputs.photos, out / "photos")


JOBS = {
    "score": Job(lambda i, o: [*_score("csv", i, o), "--map", str(o / "maps")], ("--resume",)),
    "score, parquet": Job(partial(_score, "parquet"), ("--resume",)),
    "score, two processes": Job(lambda i, o: [*_score("jsonl", i, o), "-j", "2"], ("--resume",)),
    "score, moves": Job(
        lambda i, o: [
            *("score", str(o / "photos"), "--metric", "grepq-ll", "-o", str(o / "scores.csv"), "--device", "cpu"),
            *("--keep-above", "0.2", "--move-rejects", str(o / "rejects"), "--apply"),
        ],
        ("--resume",),
        ready=_photos_of_its_own,
        status=3,
    ),
    "score, Ray": Job(
        lambda i, o: ["score", str(i.photos), "--metric", "grepq-ll", "--engine", "ray", "-o", str(o / "parts")],
        ("--resume",),
        process=True,
    ),
    "fit": Job(
        lambda i, o: ["fit", str(i.labels), "-o", str(o / "head.safetensors"), "--cache", str(o / "cache"), "--device", "cpu"],
        ("--overwrite",),
    ),
    "train low": Job(
        lambda i, o: [
            *_training("low", "--photos", i.photos, "--out", o / "mine", "--cache", o / "cache", "--steps", 4, "--batch", 2),
            *("--set", "types=gaussian_blur,jpeg", "--set", "grid=2", "--set", "types_per_content=2"),
        ],
        ("--resume",),
    ),
    "train high": Job(
        lambda i, o: [
            *_training("high", "--photos", i.large, "--clip", i.released["clip"], "--out", o / "mine", "--steps", 2),
            *("--batch", "8", "--group", "2", "--precision", "fp32"),
        ],
        ("--resume",),
    ),
    "train semantic": Job(
        lambda i, o: [
            *_training("semantic", "--photos", i.photos, "--out", o / "mine", "--steps", 4, "--batch", 2),
            *("--set", "region=96", "--set", "types=gaussian_blur,jpeg"),
        ],
        ("--resume",),
    ),
    "train qfm": Job(
        lambda i, o: [
            *_training("qfm", i.labels, "--out", o / "mine", "--cache", o / "cache", "--steps", 4, "--batch", 4),
            *("--set", "width=16", "--set", "heads=2", "--set", "queries=2", "--set", "members=2", "--set", "memory=16"),
        ],
        ("--resume",),
    ),
    "bench": Job(
        lambda i, o: ["run", "--dataset", str(i.labels), "--metrics", "grepq-ll", "--results", str(o / "results")],
        entry="benchmarks",
    ),
    "gallery": Job(
        lambda i, o: [
            *("gallery", str(i.photos), "-o", str(o / "page"), "--metric", "grepq-ll", "--map", "--previews"),
            *("--resolution", "160", "--device", "cpu"),
        ],
        ("--overwrite",),
    ),
    "convert": Job(
        lambda i, o: ["convert", *(f"--{key}={path}" for key, path in i.released.items()), "-o", str(o / "authors")],
        ("--overwrite",),
    ),
}


# ---------------------------------------------------------------------------------------------------------- one run


@dataclass
class Ended:
    """How a run ended.

    Attributes:
        status: exit status; negative: the signal.
        written: what went to standard output and standard error.
        seconds: how long it took.
        changes: of its folder, in order.
    """

    status: int
    written: str
    seconds: float
    changes: list[str] = field(default_factory=list)


class Command:
    """A run of a job: `start` it, perhaps `kill` it, `wait` for its end.

    Args:
        job: what is run.
        inputs: what it reads.
        out: folder that it may write to.
        more: arguments after its own.
        stop_at: number of the change of `out` before which it is killed.
        stdout: descriptor of standard output; by default a file, with standard error.
    """

    def __init__(
        self,
        job: Job,
        inputs: Inputs,
        out: Path,
        more: Sequence[str] = (),
        stop_at: int | None = None,
        stdout: int | None = None,
    ) -> None:
        self.job, self.out = job, out
        self.arguments = [*job.start(inputs, out), *more]
        self._notes = Path(tempfile.mkdtemp(prefix="grepq-faults-"))
        self._began = time.monotonic()
        if job.process:
            with (self._notes / "written").open("wb") as stream:
                command = [sys.executable, "-m", "grepq_metric", *self.arguments]
                started = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
            started.returncode = 0  # it is waited for here
            self.pid = started.pid
            return
        self.pid = os.fork()
        if not self.pid:
            self._run(stop_at, stdout)

    def _run(self, stop_at: int | None, stdout: int | None) -> None:
        """The child."""
        status = 70
        try:
            os.setsid()
            written = os.open(self._notes / "written", os.O_WRONLY | os.O_CREAT)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(written if stdout is None else stdout, 1)
            os.dup2(written, 2)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8") for number in (1, 2))
            self._watch(stop_at)
            status = _entry(self.job.entry, self.arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    def _watch(self, stop_at: int | None) -> None:
        own, under, count = os.getpid(), str(self.out), 0
        log = os.open(self._notes / "changes", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            if event == "open":
                path, _, flags = arguments
                changes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            else:
                path, changes = arguments[0] if arguments else None, event in CHANGES
            if not changes or os.getpid() != own or not isinstance(path, (str, os.PathLike)):
                return
            if str(os.fspath(path)).startswith(under):
                if count == stop_at:
                    os.killpg(0, signal.SIGKILL)
                count += 1
                os.write(log, f"{event} {path!s}\n".encode("utf-8", "replace"))

        sys.addaudithook(hook)

    def kill(self) -> None:
        """End it at once, with all that it started."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        if self.job.process:  # Ray's servers have sessions of their own
            subprocess.run(["ray", "stop", "--force"], capture_output=True, check=False)

    def wait(self, most: float = SECONDS) -> Ended:
        """Wait for its end.

        Raises:
            Fault: it takes more than `most` seconds.
        """
        while True:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                break
            if time.monotonic() - self._began > most:
                self.kill()
                os.waitpid(self.pid, 0)
                raise Fault(f"still runs after {most:.0f} s: {self.arguments}\n{self._read('written')[-2000:]}")
            time.sleep(0.005)
        ended = Ended(
            os.waitstatus_to_exitcode(status),
            self._read("written"),
            time.monotonic() - self._began,
            self._read("changes").splitlines(),
        )
        shutil.rmtree(self._notes)
        if "Traceback" in ended.written:
            raise Fault(f"a traceback: {ended.written[-3000:]}")
        return ended

    def _read(self, name: str) -> str:
        path = self._notes / name
        return path.read_text(errors="replace") if path.exists() else ""


def _entry(program: str, arguments: list[str]) -> int:
    import torch

    torch.set_num_threads(1)
    if program == "benchmarks":
        from benchmarks.__main__ import main as bench

        return bench(arguments)
    from grepq_metric.cli import main

    sys.argv = ["grepq", *arguments]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
    return 0


# ------------------------------------------------------------------------------------------------ what is in a folder


def content(job: Job, out: Path) -> dict[str, Any]:
    """What a finished run has made: for each file what matters of it. Times and places do not."""
    from safetensors import safe_open

    found: dict[str, Any] = {}
    unfinished = _left(out)
    for path in _files(out):
        # Pictures of a gallery are named after the time of the file that they show.
        name = _PICTURE.sub(lambda _, path=path: _hash(path), path.relative_to(out).as_posix())
        if path in unfinished or "/training/" in f"/{name}" or name.endswith(".run.jsonl"):  # which serve to go on
            continue
        if job.process:  # parts of a table, cut where it happened
            found.setdefault("rows", []).extend(_timeless(_rows(path), str(out)))
        elif path.suffix == ".json":
            found[name] = _timeless(json.loads(path.read_text()), str(out))
        elif path.suffix == ".safetensors":  # whose header is in no order
            with safe_open(path, "np") as file:
                found[name] = _timeless(file.metadata(), str(out))
                found[name] |= {key: hashlib.sha256(file.get_tensor(key).tobytes()).hexdigest() for key in sorted(file.keys())}
        elif path.suffix in (".csv", ".jsonl", ".parquet"):
            found[name] = _timeless(_rows(path), str(out))
        elif path.suffix in (".html", ".md"):
            text = _PICTURE.sub("", path.read_text().replace(str(out), ""))
            found[name] = re.sub(r"\d{4}-\d\d-\d\d(T[\d:.+Z]*)?|\d\d:\d\d", "", text)
        else:
            found[name] = _hash(path)
    if "rows" in found:
        found["rows"].sort(key=str)
    return found


_PICTURE = re.compile(r"\b[0-9a-f]{24}\b")


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _rows(path: Path) -> list[Any]:
    if path.suffix == ".parquet":
        from pyarrow import parquet

        rows = parquet.read_table(path).to_pylist()
    elif path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    elif path.suffix == ".csv":
        with path.open(newline="") as stream:
            rows = [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(stream)]
    else:
        return []
    return sorted(rows, key=str)


def _timeless(value: Any, out: str) -> Any:
    times = ("trained", "date", "seconds_per_image", "peak_memory_mib", "command")
    if isinstance(value, dict):
        return {key: _timeless(one, out) for key, one in value.items() if key not in times}
    if isinstance(value, list):
        return [_timeless(one, out) for one in value]
    return value.replace(out, "") if isinstance(value, str) else value


def check_whole(out: Path) -> None:
    """Read every file that has its own name: it must be whole; tables may end in a line that was cut.

    Raises:
        Fault: one is not.
    """
    import numpy as np
    import torch
    from PIL import Image
    from safetensors.torch import load_file

    unfinished = _left(out)
    for path in _files(out):
        if path in unfinished:
            continue
        try:
            if path.suffix == ".safetensors":
                load_file(path)
            elif path.suffix == ".pt":
                torch.load(path, weights_only=True)
            elif path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix in (".npy", ".npz"):
                np.load(path)
            elif path.suffix in (".png", ".jpg"):
                Image.open(path).load()
            elif path.suffix == ".html":
                assert re.search("</html>\\s*$|<!-- unfinished -->", path.read_text())
            elif path.suffix == ".parquet":
                _rows(path)
            elif path.suffix == ".jsonl":
                for line in path.read_text().splitlines(keepends=True):
                    assert not line.endswith("\n") or json.loads(line)
        except Exception as error:
            raise Fault(f"{path} is damaged: {type(error).__name__}: {error}") from error


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _left(out: Path) -> list[Path]:
    """Files that were being written, and those of folders that were."""
    return [path for path in _files(out) if any(PARTS.match(part) for part in path.relative_to(out).parts)]


def _difference(expected: dict[str, Any], found: dict[str, Any]) -> str:
    names = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    shown = [f"{name}: {str(expected.get(name))[:600]} | {str(found.get(name))[:600]}" for name in names[:3]]
    return "\n".join(shown)


# ------------------------------------------------------------------------------------------------------------- faults


@dataclass
class Tally:
    """What came of the points of a fault.

    Attributes:
        points: how many.
        outcomes: how the runs ended, counted.
        left: files with names of parts that stayed, at most.
        size: of these, in bytes.
    """

    points: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    left: int = 0
    size: int = 0

    def count(self, outcome: str) -> None:
        """One more."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1


class Bench:
    """Runs of one job in folders that last as long as they are needed.

    Args:
        name: of the job.
        inputs: what it reads.
        work: folder for its runs.
    """

    def __init__(self, name: str, inputs: Inputs, work: Path) -> None:
        self.name, self.job, self.inputs, self.work = name, JOBS[name], inputs, work
        with self.folder("whole") as out:
            self.given = _pages(out)
            self.whole = self.run(out)
            if self.whole.status != self.job.status:
                raise Fault(f"{name}: exit status {self.whole.status} without a fault: {self.whole.written[-2000:]}")
            self.expected = content(self.job, out)
            self.size = _pages(out) - self.given

    @contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """A folder with what the job needs in it."""
        out = self.work / name
        out.mkdir()
        self.fill(out)
        yield out
        shutil.rmtree(out)

    def fill(self, out: Path) -> None:
        """Put into a folder what the job needs there."""
        if self.job.ready is not None:
            self.job.ready(self.inputs, out)

    def command(self, out: Path, *more: str, **options: Any) -> Command:
        """A run that is started."""
        return Command(self.job, self.inputs, out, more, **options)

    def run(self, out: Path, *more: str, **options: Any) -> Ended:
        """A run until its end."""
        return self.command(out, *more, **options).wait()

    def rerun(self, out: Path, tally: Tally) -> None:
        """Give the command again, as it was and as its message says, and compare the result.

        Raises:
            Fault: it is refused without an advice, or ends with something else.
        """
        check_whole(out)
        plain = self.run(out)
        if plain.status != self.job.status:
            advice = next((option for option in self.job.again if option.strip("-") in plain.written), None)
            if advice is None:
                raise Fault(f"refused without an advice: {plain.written[-2000:]}")
            check_whole(out)
            ended = self.run(out, *self.job.again)
            if ended.status != self.job.status:
                raise Fault(f"exit status {ended.status} when given again with {self.job.again}: {ended.written[-2000:]}")
            tally.count(f"continued by {advice}")
        else:
            tally.count("begun again")
        found = content(self.job, out)
        if found != self.expected:
            raise Fault(f"another result than without a fault:\n{_difference(self.expected, found)}")
        left = _left(out)
        tally.left = max(tally.left, len(left))
        tally.size = max(tally.size, sum(path.stat().st_size for path in left))

    def killed(self, out: Path, rng: random.Random, number: int) -> bool:
        """Start the command and kill it at a point that `rng` draws; whether it was killed before its end."""
        if number % 2 == 0 and self.whole.changes:
            ended = self.run(out, stop_at=rng.randrange(len(self.whole.changes)))
            return ended.status == -signal.SIGKILL
        command = self.command(out)
        time.sleep(rng.random() * self.whole.seconds)
        command.kill()
        return command.wait().status == -signal.SIGKILL

    def kill(self, points: int, rng: random.Random, back: bool = False) -> Tally:
        """SIGKILL at `points`; with `back` the clock is set back before the rerun."""
        tally = Tally(points)
        for number in range(points):
            with self.folder(f"kill-{number}") as out:
                killed = self.killed(out, rng, number)
                tally.count("killed" if killed else "ended before")
                if back:
                    ahead = time.time() + 10 * 365 * 86400
                    for path in [*_files(out), *(path for path in out.rglob("*") if path.is_dir())]:
                        os.utime(path, (ahead, ahead))
                self.rerun(out, tally)
        return tally

    def disk(self, points: int, rng: random.Random) -> Tally:
        """A disk that ends after a part of what the command writes."""
        tally = Tally(points)
        for number in range(points):
            out = self.work / f"disk-{number}"
            out.mkdir()
            size = self.given + max(_PAGE, int(rng.random() * self.size))
            with mounted(out, size):
                self.fill(out)
                ended = self.run(out)
                if ended.status == self.job.status:
                    tally.count("had enough")
                elif "No space left" in ended.written:
                    tally.count("said that the disk is full")
                elif any("No space left" in path.read_text(errors="replace") for path in out.glob("scores.*")):
                    tally.count("said so in rows")
                else:
                    raise Fault(f"a disk of {size} bytes: exit status {ended.status}, {ended.written[-2000:]}")
                subprocess.run(["mount", "-o", "remount,size=4g", str(out)], check=True)
                self.rerun(out, tally)
            out.rmdir()
        return tally

    def clock(self, points: int, rng: random.Random) -> Tally:
        """SIGKILL, and a clock that is set back before the rerun."""
        return self.kill(points, rng, back=True)

    def readonly(self, points: int, rng: random.Random) -> Tally:
        """A cache that can't be written: the command does without, or says so."""
        tally = Tally(1)
        with self.folder("readonly") as out:
            (out / "cache").mkdir()
            with mounted(out / "cache", 1 << 20):
                subprocess.run(["mount", "-o", "remount,ro", str(out / "cache")], check=True)
                ended = self.run(out)
                if ended.status == self.job.status:
                    tally.count("did without")
                elif "Read-only file system" in ended.written:
                    tally.count("said that it can't be written")
                else:
                    raise Fault(f"caches that can't be written: exit status {ended.status}, {ended.written[-2000:]}")
            self.rerun(out, tally)
        return tally

    def closed(self, points: int, rng: random.Random) -> Tally:
        """Standard output that nobody reads."""
        tally = Tally(1)
        reader, writer = os.pipe()
        os.close(reader)
        with self.folder("closed") as out:
            ended = self.run(out, stdout=writer)
            tally.count(f"exit status {ended.status}")
            os.close(writer)
            self.rerun(out, tally)
        return tally

    def crowd(self, points: int, rng: random.Random) -> Tally:
        """Two and eight at once on one cache."""
        tally = Tally(2)
        for count in (2, 8):
            with self.folder(f"crowd-{count}") as out:
                (out / "cache").mkdir()
                folders = [out / f"{number}" for number in range(count)]
                for folder in folders:
                    folder.mkdir()
                    (folder / "cache").symlink_to(out / "cache")
                running = [self.command(folder) for folder in folders]
                for command in running:
                    ended = command.wait()
                    if ended.status != self.job.status:
                        raise Fault(f"one of {count}: exit status {ended.status}, {ended.written[-2000:]}")
                check_whole(out)
                cached = {f"cache/{name}": value for name, value in content(self.job, out / "cache").items()}
                for folder in folders:
                    found = {**content(self.job, folder), **cached}
                    if found != self.expected:
                        raise Fault(f"one of {count} has another result:\n{_difference(self.expected, found)}")
                tally.count(f"{count} at once")
        return tally


_PAGE = 4096


def _pages(folder: Path) -> int:
    """Bytes that a folder takes on a small disk, which holds whole pages."""
    return sum(-(-path.stat().st_size // _PAGE) * _PAGE for path in _files(folder))


@contextmanager
def mounted(folder: Path, size: int) -> Iterator[None]:
    """A disk of its own for a folder.

    Raises:
        PermissionError: that takes root.
    """
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise PermissionError(f"a small disk can't be mounted: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


# ---------------------------------------------------------------------------------------------------------------- runs


def make_inputs(folder: Path) -> Inputs:
    """Photos, labels and the authors' files, of real photos and random values."""
    import torch
    from torchvision.utils import save_image

    from tests.conftest import authors_files, patches_of, random_clip, random_model, real_photos, save_half

    inputs = Inputs(folder)
    inputs.photos.mkdir(parents=True)
    photos, rows = real_photos(), []
    generator = torch.Generator().manual_seed(0)
    for name in ("astronaut", "coffee", "cat", "retina"):
        for corner in range(2):
            crop = photos[name][..., corner * 30 :, :][..., :120, :130]
            for level, sigma in enumerate((0.0, 0.05, 0.2)):
                noisy = (crop + sigma * torch.randn(crop.shape, generator=generator)).clamp(0, 1)
                save_image(noisy, inputs.photos / f"{name}{corner}{level}.png")
                rows.append(f"photos/{name}{corner}{level}.png,{4 - level - 0.1 * corner}")
    inputs.large.mkdir()
    for name in ("astronaut", "cat"):
        for corner in range(4):
            save_image(photos[name][..., 10 * corner :, 10 * corner :][..., :224, :224], inputs.large / f"{name}{corner}.png")
    inputs.labels.write_text("\n".join(["image,mos", *rows]) + "\n")
    authors_files(folder, random_model(photos), torch.cat([patches_of(photo, 60) for photo in photos.values()]))
    save_half(random_clip(), inputs.released["clip"])
    return inputs


MODULES = (
    *("cv2", "h5py", "open_clip", "pandas", "piq", "pyarrow.parquet", "pyiqa", "sklearn.linear_model", "torchvision"),
    *("benchmarks.__main__", "grepq_metric.cli", "grepq_metric.training", "grepq_metric.weights.convert"),
)
"""What the commands import, and a fork then has."""


def import_all() -> None:
    """Import `MODULES`, those that are installed."""
    for name in MODULES:
        with suppress(ModuleNotFoundError):
            importlib.import_module(name)


FAULTS = ("kill", "disk", "clock", "closed", "readonly", "crowd")
OF_CACHES, CACHED = ("readonly", "crowd"), ("fit", "train low", "train qfm")
"""Faults that are about caches, and jobs that have one."""


def run(faults: Sequence[str], names: Sequence[str], points: int, seed: int, work: Path) -> dict[str, dict[str, Tally]]:
    """Put `points` of each fault into each job.

    Raises:
        Fault: a promise was not kept; the folder stays as it was.
    """
    inputs = Inputs(work / "inputs")
    if not os.fork():  # what makes them has threads
        try:
            make_inputs(inputs.folder)
        finally:
            os._exit(not inputs.released["clip"].exists())
    if os.wait()[1]:
        raise Fault("the inputs can't be made")
    os.environ.update(HF_HOME=str(work / "home"), XDG_CACHE_HOME=str(work / "home"))  # read where they are imported
    import_all()
    tallies: dict[str, dict[str, Tally]] = {fault: {} for fault in faults}
    for name in names:
        bench = Bench(name, inputs, work)
        for fault in faults:
            if fault in OF_CACHES and name not in CACHED:
                continue
            tally = getattr(bench, fault)(points, random.Random(f"{seed} {fault} {name}"))
            tallies[fault][name] = tally
            shown = ", ".join(f"{what}: {count}" for what, count in sorted(tally.outcomes.items()))
            print(f"{fault}, {name}: {tally.points} points; {shown}; left {tally.left} files, {tally.size} bytes", flush=True)
    return tallies


def main(arguments: list[str] | None = None) -> int:
    """The command line; exit status 1 where a promise was not kept."""
    parser = argparse.ArgumentParser("python -m tests.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--fault", action="append", choices=FAULTS, help="default: all")
    parser.add_argument("--job", action="append", choices=tuple(JOBS), help="default: all")
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, help="a JSON file that gets the figures; others in it stay")
    given = parser.parse_args(arguments)
    work = Path(tempfile.mkdtemp(prefix="grepq-faults-"))
    try:
        tallies = run(given.fault or FAULTS, given.job or list(JOBS), given.points, given.seed, work)
    except Fault as fault:
        print(f"{fault}\nsee {work}", file=sys.stderr)
        return 1
    except PermissionError as error:  # disks are root's
        print(error, file=sys.stderr)
        return 2
    shutil.rmtree(work)
    if given.record is not None:
        record(given.record, tallies, given.seed)
    return 0


def record(path: Path, tallies: dict[str, dict[str, Tally]], seed: int) -> None:
    """Put figures into a JSON file."""
    import torch

    kept = json.loads(path.read_text()) if path.exists() else {}
    facts = {
        "seed": seed,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    for fault, jobs in tallies.items():
        for name, tally in jobs.items():
            kept.setdefault(fault, {})[name] = {**asdict(tally), **facts}
    path.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    sys.exit(main())
