"""Promises of the harness's rooms: it needs no study, and nothing in the benchmarks reaches into the package's insides."""

import ast
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def imports(path):
    """Modules and names that a file imports, wherever in it: ``(module, name or None)``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from ((node.module, alias.name) for alias in node.names)


def test_the_harness_imports_no_study():
    files = [BENCHMARKS / "__main__.py", *(BENCHMARKS / "harness").rglob("*.py")]
    assert len(files) > 15
    for path in files:
        for module, name in imports(path):
            assert not f"{module}.{name}".startswith("benchmarks.studies"), f"{path.name} imports {module}.{name}"


def test_no_private_name_of_the_package_is_used():
    for path in BENCHMARKS.rglob("*.py"):
        for module, name in imports(path):
            if module.startswith("grepq_metric"):
                parts = [*module.split("."), *([name] if name else [])]
                assert not any(part.startswith("_") for part in parts), f"{path.name} imports {module}.{name}"


def test_modules_and_functions_stay_short():
    for path in (BENCHMARKS / "harness").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 450, path.name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 70, f"{path.name}: {node.name}"
