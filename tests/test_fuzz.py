"""Promise: what is changed at random is read rightly, or is an error that this package raises on purpose, soon.

A sample of ``python -m tests.fuzz``, whose whole runs are recorded in fuzz.json; the page `docs/promises.md` shows them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests import fuzz
from tests.fuzz import TARGETS, mutated

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("target", TARGETS)
def test_changed_inputs_are_right_or_a_named_error(target: str):
    found = fuzz.fuzz(target, 200, seed=1)
    assert found.outcomes.total() >= 100  # some targets have no more cases that differ in this sample
    assert len(found.outcomes) > 1, "all cases end in one way: they are too harmless, or too much damaged"


def test_what_may_not_be_is_noticed(monkeypatch: pytest.MonkeyPatch):
    for name, run in {"ZeroDivisionError": lambda case: 1 / 0, "KeyError": lambda case: {}[1]}.items():
        monkeypatch.setitem(TARGETS, "labels", fuzz.Target(fuzz.SHEET, run))
        with pytest.raises(Exception) as caught:  # noqa: PT011
            fuzz.fuzz("labels", 10, seed=0)
        assert type(caught.value).__name__ == name
    monkeypatch.setattr(fuzz, "SECONDS", -1.0)
    monkeypatch.setitem(TARGETS, "labels", fuzz.Target(fuzz.SHEET, lambda case: "read"))
    with pytest.raises(AssertionError, match=" s for "):
        fuzz.fuzz("labels", 10, seed=0)


def test_each_change_does_what_it_says():
    data = bytes(range(10))
    for change, expected in {
        ("cut", 0.5): data[:5],
        ("flip", 0.0, 7): b"\x80" + data[1:],
        ("write", 0.5, b"ab"): data[:5] + b"ab" + data[7:],
        ("insert", 0.5, b"ab"): data[:5] + b"ab" + data[5:],
        ("remove", 0.5, 2): data[:5] + data[7:],
        ("repeat", 0.5, 2, 3): data[:5] + data[5:7] * 3 + data[7:],
        ("zero", 0.5, 2): data[:5] + b"\0\0" + data[7:],
        ("number", 2, "H", ">", 0xFFFF): data[:2] + b"\xff\xff" + data[4:],
        ("append", b"ab"): data + b"ab",
    }.items():
        assert mutated(data, [change]) == expected
        assert isinstance(mutated(b"", [change]), bytes)


def test_whole_runs_are_recorded():
    recorded = json.loads((ROOT / "tests" / "fuzz.json").read_text(encoding="utf-8"))
    assert {name.removesuffix(", guided") for name in recorded} == set(TARGETS)
    for name, figures in recorded.items():
        assert figures["cases"] == sum(figures["outcomes"].values()) >= 1000, name
        assert figures["worst_seconds"] < fuzz.SECONDS
        assert figures["worst_megabytes"] < fuzz.BYTES / 1e6


def test_tests_that_the_promises_name_exist():
    page = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", page)
    assert len(named) > 40
    for file, test in named:
        source = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert re.search(rf"^def {test}\(", source, re.MULTILINE), f"{file} has no {test}"
    for row in re.findall(r"^\| (?!promise|---)(.*) \|$", page.partition("## Changed at random")[0], re.MULTILINE):
        assert "::test_" in row.split(" | ")[1], row
