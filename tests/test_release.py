"""Promises of ``python -m tools.release``: every step is run and told, and what is wrong is found."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tools import release
from tools.release import FailedError, Release, SkippedError


@pytest.fixture
def fake(tmp_path: Path) -> Release:
    return Release(tmp_path)


def program(path: Path, text: str) -> Path:
    """An executable script of the shell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def fail(_: Release) -> str:
    raise FailedError("a bolt is loose")


def skip(_: Release) -> str:
    raise SkippedError("no spanner")


def stumble(_: Release) -> str:
    raise KeyError("a defect")


def pass_(_: Release) -> str:
    return "tight"


def test_all_steps_are_run_and_told_whatever_one_says(monkeypatch, capsys):
    steps = {"first": fail, "second": stumble, "third": skip, "fourth": pass_}
    monkeypatch.setattr(release, "STEPS", steps)
    assert release.main(["--check"]) == 1
    told = capsys.readouterr().out
    for text in ("a bolt is loose", "KeyError: 'a defect'", "no spanner", "tight"):
        assert text in told
    assert told.endswith("== all\nfailed  first\nfailed  second\nskipped third\nok      fourth\n")


def test_a_skipped_step_is_no_failure_and_some_steps_can_be_chosen(monkeypatch, capsys):
    monkeypatch.setattr(release, "STEPS", {"first": fail, "third": skip, "fourth": pass_})
    assert release.main(["--check", "--only", "third", "fourth"]) == 0
    assert "first" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        release.main(["--check", "--only", "fifth"])
    assert "choose from" in capsys.readouterr().err


def test_a_command_that_fails_tells_its_end():
    with pytest.raises(FailedError, match=r"exit status 3\nout\nno such thing"):
        release.run(["sh", "-c", "echo out; echo no such thing >&2; exit 3"])
    assert release.run(["sh", "-c", "echo out; exit 1"], fine=(0, 1)) == "out\n"


def test_a_version_that_is_not_a_release_fails(monkeypatch, fake):
    monkeypatch.setattr("grepq_metric.__version__", "1.2.3.dev0")
    with pytest.raises(FailedError, match=r"the version is '1\.2\.3\.dev0', expected that of a release"):
        release.release_version(fake)


def test_a_python_that_is_not_at_hand_is_skipped(monkeypatch, tmp_path, fake):
    monkeypatch.setattr(release, "PYENV", tmp_path / "pyenv")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    program(tmp_path / "bin" / "python3.77", "echo not installed >&2; exit 127")
    with pytest.raises(SkippedError, match=r"no Python 3\.77 in .*pyenv or on the path"):
        release.fresh_environment(fake, "3.77")
    found = program(tmp_path / "pyenv" / "3.77.1" / "bin" / "python", "echo 3.77")
    assert release.find_python("3.77") == found


def test_the_examples_of_the_readme_are_run_and_compared(monkeypatch, tmp_path):
    """By a command that prints what README.md says, and by one that does not."""
    blocks = {
        "text": ["$ grepq a\none\n$ cat b\ntwo\n"],
        "python": [">>> 1 + 1\n2\n", ">>> print('import pyiqa')\nimport pyiqa\n"],
    }
    monkeypatch.setattr(release, "blocks", blocks.__getitem__)
    grepq = program(tmp_path / "env" / "bin" / "grepq", "echo one; echo two > b")
    (grepq.parent / "python").symlink_to(sys.executable)
    assert release.run_examples(grepq.parent) == 3
    (tmp_path / "env" / "lib" / "python3" / "site-packages" / "pyiqa").mkdir(parents=True)
    assert release.run_examples(grepq.parent) == 4
    blocks["python"][0] = ">>> 1 + 1\n3\n"
    with pytest.raises(FailedError, match=r"Expected:\n\s+3\nGot:\n\s+2"):
        release.run_examples(grepq.parent)
    program(grepq, "echo other")
    with pytest.raises(FailedError, match="grepq a prints\nother\nand not\none"):
        release.run_examples(grepq.parent)


def test_all_examples_of_the_readme_are_found():
    commands = [line for block in release.blocks("text") for line in block.splitlines() if line.startswith("$ ")]
    assert len(commands) >= 3
    assert len(release.blocks("python")) >= 2
    assert (
        len([block for block in release.blocks("bash") if not release.reason_not_to_run(block.replace(release.CPU_INDEX, ""))])
        >= 3
    )


def test_no_setting_of_this_machine_reaches_a_fresh_environment(monkeypatch, tmp_path):
    for name in ("PYTHONPATH", "HF_ENDPOINT", "HF_HOME", "GREPQ_METRIC_AUTOLOAD"):
        monkeypatch.setenv(name, "leads astray")
    found = release.clean_environment(tmp_path)
    assert "leads astray" not in found.values()
    assert found["PATH"].split(os.pathsep)[0] == str(tmp_path)
    assert found["HF_HUB_OFFLINE"] == "1"


def distribution(site: Path, name: str, *lines: str) -> None:
    """The metadata of an installed package."""
    folder = site / f"{name.replace('-', '_')}-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("\n".join(["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", *lines]) + "\n")


@pytest.fixture
def needed(monkeypatch, tmp_path):
    """Packages that are installed, and that this one needs."""
    monkeypatch.syspath_prepend(tmp_path / "site")
    names = ["made-free", "pyiqa"]
    monkeypatch.setattr(release, "script", lambda path, name: lambda roots: set(names))
    distribution(tmp_path / "site", "made-free", "License: UNKNOWN", "Classifier: License :: OSI Approved :: MIT License")
    distribution(tmp_path / "site", "made-nc", "License-Expression: CC-BY-NC-4.0")
    distribution(tmp_path / "site", "made-silent")
    return names


def test_licences_are_listed_and_the_terms_of_pyiqa_called_out(needed, fake, capsys):
    told = release.licences(fake)
    assert "made-free 1.0: MIT License" in capsys.readouterr().out
    assert "pyiqa: PolyForm-Noncommercial-1.0.0: no commercial use" in told


@pytest.mark.parametrize(
    ("name", "message"),
    [("made-nc", "made-nc is under CC-BY-NC-4.0, expected free terms"), ("made-silent", "made-silent states no licence")],
)
def test_a_requirement_without_a_licence_or_against_commercial_use_fails(needed, fake, name, message):
    needed.append(name)
    with pytest.raises(FailedError, match=message):
        release.licences(fake)


def test_an_audit_that_could_not_be_made_is_skipped(monkeypatch, fake):
    monkeypatch.setattr(release, "python", lambda *arguments: "SKIPPED: no audit, since it rains\n")
    with pytest.raises(SkippedError, match="no audit, since it rains"):
        release.vulnerabilities(fake)
