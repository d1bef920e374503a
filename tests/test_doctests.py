"""Promise: every example in every docstring of the package does what it says.

Docstrings are read from the source: `doctest.testmod` passes over what a decorator has wrapped.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import io
import pkgutil
from pathlib import Path

import pytest

import grepq_metric
from tests.source import Module, docstrings, modules

NAMES = sorted(found.name for found in pkgutil.walk_packages(grepq_metric.__path__, "grepq_metric."))
EXAMPLES = {
    module.name: tests
    for module in modules()
    if (
        tests := [
            doctest.DocTestParser().get_doctest(inspect.cleandoc(text.value), {}, text.owner, str(module.path), text.lineno)
            for text in docstrings(module)
            if ">>>" in text.value
        ]
    )
}
"""Examples of each module that has some."""


def loaded(name: str) -> object:
    """Import a module; without its optional dependency the test is skipped, and says so."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        absent = error.name or getattr(error.__cause__, "name", None) or ""
        if absent.split(".")[0] in ("", "grepq_metric"):
            raise
        pytest.skip(f"{name} needs {absent}, which is not in this environment")


def test_the_source_and_the_package_are_the_same_modules() -> None:
    assert {"grepq_metric", *NAMES} == {module.name for module in modules()}


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith("__main__")])
def test_every_module_can_be_imported(name: str) -> None:
    loaded(name)


@pytest.mark.parametrize("name", EXAMPLES)
def test_documented_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = loaded(name)
    monkeypatch.chdir(tmp_path)  # so that an example that writes leaves nothing behind
    for example in EXAMPLES[name]:
        assert len(example.examples) == str(example.docstring).count(">>>"), (
            f"{example.name}: a prompt is not at a line's start"
        )
        example.globs.update(vars(module))
        report = io.StringIO()
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        result = runner.run(example, out=report.write)
        assert result.attempted == len(example.examples)
        assert result.failed == 0, report.getvalue()


def test_what_the_package_exports_shows_how_it_is_used() -> None:
    shown = {test.name for tests in EXAMPLES.values() for test in tests}
    errors = {name for name in grepq_metric.__all__ if name.endswith("Error")}
    assert {*grepq_metric.__all__, "GRepQMetric"} - errors <= shown


def test_examples_are_of_this_package() -> None:
    """A module's example says where its names are from, so that it can be copied."""
    for name, tests in EXAMPLES.items():
        for test in tests:
            code = "".join(line.source for line in test.examples)
            assert "grepq_metric" in code, f"{name}.{test.name} imports nothing of grepq_metric"


def test_a_wrong_example_is_found() -> None:
    """The test above can fail: this docstring's example gives another number, behind a decorator."""
    tree = '@wrapped\ndef f():\n    """Add.\n\n    >>> 1 + 1\n    3\n    """\n'
    module = Module("example", Path("example.py"), ast.parse(tree))
    (text,) = docstrings(module)
    test = doctest.DocTestParser().get_doctest(inspect.cleandoc(text.value), {}, text.owner, "example.py", text.lineno)
    assert doctest.DocTestRunner().run(test, out=lambda _: None).failed == 1
