"""Checks a release: ``python -m tools.release --check``, all of it, or ``--only STEP ...``.

Each step is ok, failed, or skipped with a reason, and whatever becomes of one, the others are run; the exit status is 1 where
one failed. Fresh environments take several GB of disk and minutes each, one at a time. Needs the dependency groups ``test``
and ``release``.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import metadata, version
from pathlib import Path
from typing import Any

import grepq_metric

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
"""Versions that the package is for, as far as PyTorch has been released for them."""
PYENV = Path.home() / ".pyenv" / "versions"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
NONCOMMERCIAL = re.compile(r"non-?commercial|\bNC\b", re.IGNORECASE)
WITH_TERMS = {
    "pyiqa": "no commercial use, and parts are under NTU's S-Lab licence, which forbids it, too; all but the plugin works "
    "without it, see docs/requirements-without-pyiqa.txt"
}
"""Requirements whose licences are not free, and what we tell of them, as README.md and docs/releasing.md do."""
UNSTATED = {
    "cuda-toolkit": "no files of its own; what it requires is NVIDIA's",
    "openai-clip": "not stated in the package; MIT in OpenAI's repository; a requirement of pyiqa alone",
}
"""Requirements whose metadata name no licence, and what is known of it."""


class FailedError(Exception):
    """A step found something wrong."""


class SkippedError(Exception):
    """A step could not be made here."""


@dataclass
class Release:
    """What the steps have in common.

    Attributes:
        work: a folder for what they write.
    """

    work: Path

    @cached_property
    def dist(self) -> Path:
        """The folder with the wheel and the source distribution, which are built once."""
        python("-m", "build", "--quiet", "--outdir", self.work / "dist", ROOT)
        return self.work / "dist"

    @property
    def wheel(self) -> Path:
        """The wheel."""
        return next(self.dist.glob("*.whl"))


Step = Callable[[Release], str]
STEPS: dict[str, Step] = {}
"""All steps by name, in order. A step returns what it found, or raises `FailedError` or `SkippedError`."""


def step(function: Step) -> Step:
    """Register a step under the name of its function."""
    STEPS[function.__name__] = function
    return function


def run(command: Sequence[str | Path], cwd: Path = ROOT, env: dict[str, str] | None = None, fine: Sequence[int] = (0,)) -> str:
    """What a command writes to standard output.

    Raises:
        FailedError: its exit status is none of `fine`; the message has the end of what it wrote.
    """
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode not in fine:
        lines = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
        raise FailedError("\n".join([f"{' '.join(words)}: exit status {done.returncode}", *lines[-15:]]))
    return done.stdout


def python(*arguments: str | Path) -> str:
    """`run` this interpreter in the clone."""
    return run([sys.executable, *arguments])


def pytest(*arguments: str) -> str:
    """`run` some tests, and give pytest's last line."""
    return python("-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", *arguments).strip().splitlines()[-1]


def script(path: str, name: str) -> Any:
    """A function of a script of this repository that is no module."""
    return runpy.run_path(str(ROOT / path))[name]


@step
def release_version(release: Release) -> str:
    """One version in package, citation and CHANGELOG, and its section names the weights and what became of scores."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", grepq_metric.__version__):
        raise FailedError(f"the version is {grepq_metric.__version__!r}, expected that of a release, like 1.2.3")
    return f"{grepq_metric.__version__}: {pytest('tests/test_packaging.py', '-k', 'citation or changelog')}"


@step
def scores(release: Release) -> str:
    """Scores of the packaged weights are the frozen ones."""
    return pytest("tests/test_frozen.py")


@step
def sizes(release: Release) -> str:
    """No committed file is above its limit, nor is the README."""
    return pytest("tests/test_packaging.py", "tests/test_docs.py", "-k", "large or short")


@step
def figures(release: Release) -> str:
    """Figures of README and documentation are those of the result files, and of the examples, which are run."""
    python("docs/figures.py", "--check")
    return "no page differs"


@step
def documentation(release: Release) -> str:
    """The site builds without a warning."""
    site = str(release.work / "site")
    command = [sys.executable, "-m", "mkdocs", "build", "-f", ".mkdocs.yml", "--strict", "--site-dir", site]
    run(command, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    return "built"


@step
def citation(release: Release) -> str:
    """CITATION.cff is valid by its schema: cffconvert, in an environment of its own, since it pins old packages."""
    folder = release.work / "cffconvert"
    run([sys.executable, "-m", "venv", folder])
    run([folder / "bin" / "pip", "install", "--quiet", "cffconvert"])
    return run([folder / "bin" / "cffconvert", "--validate", "-i", ROOT / "CITATION.cff"]).strip()


@step
def build(release: Release) -> str:
    """Wheel and source distribution build, and the wheel holds what `.ci/wheel.txt` expects and nothing else."""
    python(".ci/wheel.py", release.wheel)
    return ", ".join(f"{path.name} ({path.stat().st_size / 1e6:.1f} MB)" for path in sorted(release.dist.iterdir()))


@step
def upload(release: Release) -> str:
    """PyPI would take them, by twine."""
    python("-m", "twine", "check", "--strict", *sorted(release.dist.iterdir()))
    return "twine finds nothing"


@step
def vulnerabilities(release: Release) -> str:
    """No requirement that is installed here has a known vulnerability."""
    told = python(".ci/audit.py").strip()
    if told.startswith("SKIPPED: "):
        raise SkippedError(told.removeprefix("SKIPPED: "))
    return "none is known"


def licence_of(name: str) -> str:
    """The licence of an installed package, as its metadata state it; empty: they do not."""
    facts = metadata(name)
    classifiers = [line.rpartition(" :: ")[2] for line in facts.get_all("Classifier") or [] if line.startswith("License ::")]
    expression, text = (str(facts[key] or "").strip().partition("\n")[0] for key in ("License-Expression", "License"))
    return expression or "; ".join(classifiers) or text or UNSTATED.get(name, "")


@step
def licences(release: Release) -> str:
    """Each requirement states its licence, and none forbids commercial use but those of which we say so."""
    found = {name: licence_of(name) for name in sorted(script(".ci/only_pyiqa.py", "needed_by")(["grepq-metric"]))}
    wrong = []
    for name, licence in found.items():
        print(f"    {name} {version(name)}: {licence or 'not stated'}")
        if not licence:
            wrong.append(f"{name} states no licence")
        elif bool(NONCOMMERCIAL.search(licence)) != (name in WITH_TERMS):
            wrong.append(f"{name} is under {licence}, expected {'other' if name in WITH_TERMS else 'free'} terms")
    if wrong:
        raise FailedError("\n".join(wrong))
    terms = (f"{name}: {found[name]}: {text}" for name, text in WITH_TERMS.items())
    return "\n".join([f"{len(found)} packages", *terms])


def blocks(language: str) -> list[str]:
    """The blocks of code of README.md in a language."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def clean_environment(bin: Path | None = None) -> dict[str, str]:
    """This process's environment without what leads to the clone or to the Hub, and `bin` first on the path."""
    gone = ("PYTHONPATH", "VIRTUAL_ENV", "GREPQ_METRIC_AUTOLOAD")
    kept = {key: value for key, value in os.environ.items() if key not in gone and not key.startswith("HF_")}
    path = os.pathsep.join([*([] if bin is None else [str(bin)]), kept["PATH"]])
    return {**kept, "PATH": path, "HF_HUB_OFFLINE": "1", "COLUMNS": "100"}


def run_examples(bin: Path) -> int:
    """Run the examples of README.md by the commands in `bin`, next to the photos, those of pyiqa where it is installed.

    Returns:
        How many were run.

    Raises:
        FailedError: one prints something else than what stands there.
    """
    env, count = clean_environment(bin), 0
    with script("docs/examples.py", "photo_folder")() as folder:
        for block in blocks("text"):
            for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
                count += 1
                printed = run(["bash", "-c", command], folder, env, fine=(0, 1))
                if printed.strip() != expected.strip():
                    raise FailedError(f"{command} prints\n{printed.strip()}\nand not\n{expected.strip()}")
        with_pyiqa = bool(list(bin.parent.glob("lib/*/site-packages/pyiqa")))
        sessions = [block for block in blocks("python") if with_pyiqa or "import pyiqa" not in block]
        (folder / "sessions.txt").write_text("\n".join(sessions), encoding="utf-8")
        run([bin / "python", "-m", "doctest", "sessions.txt"], folder, env)
    return count + len(sessions)


def reason_not_to_run(block: str) -> str:
    """Why a block of commands of README.md can't be run from the built artefacts here; empty: it can."""
    if "pytest" in block:
        return "the tests, which .ci/run runs in a clone"
    if CPU_INDEX in block:
        try:
            urllib.request.urlopen(f"{CPU_INDEX}/torch/", timeout=10).close()
        except OSError as error:
            return f"{CPU_INDEX} is not in reach: {error}"
    return ""


@step
def readme(release: Release) -> str:
    """The commands of README.md work word for word in the unpacked source distribution, and print what stands there."""
    with tarfile.open(next(release.dist.glob("*.tar.gz"))) as archive:
        archive.extractall(release.work / "unpacked", filter="data")
    (clone,) = (release.work / "unpacked").iterdir()
    told = []
    for block in blocks("bash"):
        first = block.strip().partition("\n")[0].removesuffix(" \\")
        reason = reason_not_to_run(block)
        if reason:
            told.append(f"not run: {first}: {reason}")
            continue
        own = "" if "-m venv" in block else "python3 -m venv .venv && . .venv/bin/activate && "
        run(["bash", "-euo", "pipefail", "-c", own + block], clone, clean_environment())
        told.append(f"ran: {first}; then {run_examples(clone / '.venv' / 'bin')} examples")
        shutil.rmtree(clone / ".venv")
    return "\n".join(told)


def find_python(wanted: str) -> Path:
    """An interpreter of a version, of pyenv or on the path.

    Raises:
        SkippedError: there is none.
    """
    on_path = shutil.which(f"python{wanted}")
    for candidate in [*sorted(PYENV.glob(f"{wanted}.*/bin/python")), *([] if on_path is None else [Path(on_path)])]:
        code = "import sys; print('{}.{}'.format(*sys.version_info))"
        done = subprocess.run([candidate, "-c", code], capture_output=True, text=True, check=False)
        if done.stdout.strip() == wanted:  # what pyenv puts on the path may lead nowhere
            return candidate
    raise SkippedError(f"no Python {wanted} in {PYENV} or on the path")


def fresh_environment(release: Release, wanted: str) -> str:
    """The wheel works in a fresh environment of a version of Python, outside of the clone."""
    interpreter = find_python(wanted)
    folder = release.work / f"python-{wanted}"
    try:
        run([interpreter, "-m", "venv", folder], release.work)
        run([folder / "bin" / "pip", "install", "--quiet", release.wheel], release.work, clean_environment())
        count = run_examples(folder / "bin")
        code = "import platform, torch; print(f'Python {platform.python_version()}, torch {torch.__version__}')"
        return f"{run([folder / 'bin' / 'python', '-c', code], release.work).strip()}: {count} examples of README.md"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


for one in PYTHONS:
    STEPS[f"python-{one}"] = functools.partial(fresh_environment, wanted=one)


def outcome(function: Step, release: Release) -> tuple[str, str]:
    """What became of a step, and what there is to say of it."""
    try:
        return "ok", function(release)
    except SkippedError as reason:
        return "skipped", str(reason)
    except FailedError as reason:
        return "failed", str(reason)
    except Exception:  # a defect of the step must not hide what the others find
        return "failed", traceback.format_exc()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.release", description=__doc__)
    parser.add_argument("--check", action="store_true", required=True, help="run the steps")
    parser.add_argument("--only", nargs="+", choices=list(STEPS), metavar="STEP", help=f"some of {', '.join(STEPS)}")
    chosen = parser.parse_args(arguments).only or list(STEPS)
    states = {}
    with tempfile.TemporaryDirectory(prefix="grepq-release-") as work:
        release = Release(Path(work))
        for name in chosen:
            print(f"== {name}", flush=True)
            start = time.monotonic()
            states[name], text = outcome(STEPS[name], release)
            print(f"{states[name]} ({time.monotonic() - start:.0f} s): {text}", flush=True)
    print("== all", *(f"{state:8}{name}" for name, state in states.items()), sep="\n")
    return int("failed" in states.values())


if __name__ == "__main__":
    sys.exit(main())
