"""The examples of README.md and docs/*.md, run: what they print stands there, see figures.py."""

from __future__ import annotations

import code
import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PHOTOS = ("coffee.png", "chelsea.png", "rocket.jpg")
"""Photos of scikit-image that examples score."""

Figure = Callable[[], str]
FROM_RUNS: dict[str, Figure] = {}
"""Figures that are made by running the package, by name; the slower ones."""


def figure(registry: dict[str, Figure]) -> Callable[[Figure], Figure]:
    """Register a function under its name."""

    def register(function: Figure) -> Figure:
        registry[function.__name__] = function
        return function

    return register


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|", *(f"| {' | '.join(cells)} |" for cells in rows)]
    return "\n".join(lines)


def fence(text: str, language: str = "text") -> str:
    """A block of code."""
    return f"```{language}\n{text.strip()}\n```"


@contextlib.contextmanager
def photo_folder() -> Iterator[Path]:
    """A folder with the photos of the examples, and one file that is none; the process works in it."""
    import skimage

    with tempfile.TemporaryDirectory() as name:
        folder, before = Path(name), Path.cwd()
        for photo in PHOTOS:
            shutil.copy(Path(skimage.__path__[0]) / "data" / photo, folder)
        (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no photo")
        os.chdir(folder)
        try:
            yield folder
        finally:
            os.chdir(before)


def session(lines: Sequence[str]) -> str:
    """What an interactive Python shows for lines that are typed in."""
    console, written = code.InteractiveInterpreter({}), io.StringIO()
    with photo_folder(), contextlib.redirect_stdout(written):
        for line in lines:
            print(">>>", line)
            if console.runsource(line):
                raise ValueError(f"not a whole statement: {line}")
    return fence(written.getvalue(), "python")


def command(arguments: Sequence[str], show: str | None = None) -> str:
    """What a command prints on standard output, or the file that it writes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "COLUMNS": "100", "OMP_NUM_THREADS": "2"}
    with photo_folder() as folder:
        start = [sys.executable, "-c", "from grepq_metric.cli import main; main()"]
        run = subprocess.run([*start, *arguments], env=environment, capture_output=True, text=True, check=False)
        if run.returncode not in (0, 1):
            raise RuntimeError(f"grepq {' '.join(arguments)}: {run.stderr}")
        return (folder / show).read_text(encoding="utf-8") if show else run.stdout


@figure(FROM_RUNS)
def example_scores() -> str:
    arguments = ["score", *PHOTOS, "--percentile"]
    return fence(f"$ grepq {' '.join(arguments)}\n{command(arguments).rstrip()}")


@figure(FROM_RUNS)
def example_meaning() -> str:
    arguments = ["score", *PHOTOS, "--points", "--percentile", "--facts", "--sort", "best"]
    return fence(f"$ grepq {' '.join(arguments)}\n{command(arguments).rstrip()}")


@figure(FROM_RUNS)
def example_csv() -> str:
    arguments = ["score", ".", "-o", "scores.csv"]
    return fence(f"$ grepq {' '.join(arguments)}\n$ cat scores.csv\n{command(arguments, 'scores.csv')}")


@figure(FROM_RUNS)
def example_pyiqa() -> str:
    lines = ["import pyiqa", 'metric = pyiqa.create_metric("grepq-sem")', 'round(metric("coffee.png").item(), 4)']
    return session(lines)


@figure(FROM_RUNS)
def example_python() -> str:
    return session(
        [
            "from grepq_metric import GRepQ, read_image",
            'model = GRepQ.from_pretrained("grepq-sem")  # a name, a tag, a folder or user/repo',
            'x = read_image("coffee.png").unsqueeze(0)  # (N, 3, H, W) RGB in [0, 1], any size',
            "round(model(x).item(), 4)",
            "tuple(model.features(x).shape)",
            "model.weights_id",
        ]
    )


@cache
def damaged() -> dict[str, list[float]]:
    """Scores of the coffee, undistorted and at each level, by distortion."""
    import torch

    from grepq_metric import GRepQ, read_image
    from grepq_metric.training.distortions import DISTORTIONS, LEVELS

    model, scores = GRepQ.from_pretrained("grepq-sem"), {}
    with photo_folder(), torch.inference_mode():
        photo = (read_image("coffee.png") * 255).round().byte().permute(1, 2, 0).numpy()
        for name in ("gaussian_blur", "jpeg", "white_noise", "low_light", "digital_zoom"):
            versions = [photo, *(DISTORTIONS[name](photo, level) for level in range(1, LEVELS + 1))]
            scores[name] = [model(torch.tensor(version).permute(2, 0, 1)[None] / 255).item() for version in versions]
    return scores


@figure(FROM_RUNS)
def damaged_coffee() -> str:
    header = ["damage", "none", *(f"level {level}" for level in range(1, 6))]
    return table(header, ([name.replace("_", " "), *(f"{v:.3f}" for v in values)] for name, values in damaged().items()))


@figure(FROM_RUNS)
def worst_coffee() -> str:
    return f"{min(map(min, damaged().values())):.3f}"
