"""Promises of the rooms: nothing imports upwards, no private name crosses a module, only the plugin needs pyiqa."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.source import Module, imports, is_private, modules

FLOORS = (
    ("archives", "catalog", "damage", "devices", "errors", "files", "tables"),
    ("facts", "images", "inputs", "pages", "pathways", "reference", "weights"),
    ("models",),
    ("heads", "loss", "scoring", "training"),
    ("cli", "integrations", "__init__", "__main__"),
)
"""Rooms of the package, lowest floor first. A room may use those below it, and those beside it that do not use it in turn."""
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
DOCUMENTED = ("_version",)
"""Of PyTorch's tensors, described in its notes on autograd; no public name counts changes in place."""
PROTECTED = {
    "_apply": "torch's nn.Module: its only place to keep a buffer's type under .half()",
    "_buffers": "torch's nn.Module: see _apply",
    "_plot": "torchmetrics' Metric: what its own metrics call in plot()",
}
"""Names of third parties that are meant for subclasses, and why we use them; on self and super() alone."""
ITSELF = ("self", "cls", "super()")
BY_NAME = ("getattr", "setattr", "hasattr", "delattr")


def room(module: str) -> str:
    """The room of a module: ``weights`` for ``grepq_metric.weights.hub``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def targets(module: Module) -> set[str]:
    """Modules of the package that a module imports."""
    known = {m.name for m in modules()}
    return {
        f"{i.module}.{i.name}" if i.name and f"{i.module}.{i.name}" in known else i.module
        for i in imports(module)
        if i.top == "grepq_metric"
    }


def test_every_room_has_a_floor() -> None:
    assert {room(m.name) for m in modules()} <= set(FLOOR)


@pytest.mark.parametrize("module", modules(), ids=lambda m: m.name)
def test_nothing_imports_upwards(module: Module) -> None:
    for target in targets(module):
        if module.name == "grepq_metric" or (target == "grepq_metric" and room(module.name) in FLOORS[-1]):
            continue
        assert FLOOR[room(target)] <= FLOOR[room(module.name)], f"{module.name} imports {target}, which is above it"


def test_no_two_rooms_import_each_other() -> None:
    graph: dict[str, set[str]] = {name: set() for name in FLOOR}
    for module in modules():
        if module.name != "grepq_metric":  # it names all rooms, and loads them when they are used
            graph[room(module.name)] |= {room(t) for t in targets(module) if t != "grepq_metric"} - {room(module.name)}
    done: list[str] = []
    while free := [name for name, uses in graph.items() if name not in done and uses <= set(done)]:
        done += free
    assert set(done) == set(graph), {name: graph[name] - set(done) for name in graph if name not in done}


def test_the_catalog_needs_the_standard_library_alone() -> None:
    (catalog,) = (m for m in modules() if m.name == "grepq_metric.catalog")
    assert {i.top for i in imports(catalog)} <= sys.stdlib_module_names


def defined(module: Module) -> set[str]:
    """Names that a module defines: functions, classes, variables, attributes of self and class, fields."""
    found = set()
    for node in ast.walk(module.tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) in ITSELF:
            found.add(node.attr)
    return found


@pytest.mark.parametrize("module", [*modules(), *modules("benchmarks"), *modules("tools")], ids=lambda m: m.name)
def test_no_private_name_crosses_a_module(module: Module) -> None:
    own, crossing = defined(module), []
    for node in ast.walk(module.tree):
        name, on_itself = None, False
        if isinstance(node, ast.Attribute):
            name, base = node.attr, ast.unparse(node.value)
            on_itself = base in ITSELF
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in BY_NAME and isinstance(node.args[1], ast.Constant):
            name = str(node.args[1].value)
        if name and is_private(name) and name not in own and name not in DOCUMENTED and not (on_itself and name in PROTECTED):
            crossing.append(f"{module.where(node)}: {ast.unparse(node)}")
    for found in imports(module):
        private = [part for part in [*found.module.split("."), found.name or ""] if is_private(part)]
        if private:
            crossing.append(f"{module.where(found.node)}: imports {ast.unparse(found.node)}")
    assert not crossing, "\n".join(crossing)


def test_protected_names_are_in_use() -> None:
    used = {node.attr for m in modules() for node in ast.walk(m.tree) if isinstance(node, ast.Attribute)}
    assert set(PROTECTED) <= used, "an exception that nothing needs any more"


def test_only_the_plugin_imports_pyiqa() -> None:
    users = {m.name for m in modules() for i in imports(m) if i.top == "pyiqa"}
    assert users == {"grepq_metric.integrations.pyiqa"}


def python(code: str, *arguments: str | Path, **environment: str) -> str:
    """What a fresh interpreter writes to standard output."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    result = subprocess.run(command, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ("torch", "timm", "pyiqa", "numpy", "sklearn", "huggingface_hub", "typer")
    code = f"import sys, grepq_metric, grepq_metric.catalog; print(*{set(heavy)!r} & set(sys.modules))"
    assert python(code).split() == []


WITHOUT_PYIQA = """
import importlib, sys

class Blocker:
    def find_spec(self, fullname, path=None, target=None):
        if fullname.split(".")[0] == "pyiqa":
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)

sys.meta_path.insert(0, Blocker())
photo, out, *names = sys.argv[1:]
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        print("missing", name, error.name or error.__cause__.name)

import torch
from grepq_metric import GRepQ, GRepQLoss, GRepQRegressor, catalog, grepq, read_image
x = read_image(photo).unsqueeze(0)
with torch.inference_mode():
    print("score", *(GRepQ.from_pretrained(name)(x).item() for name in ("grepq-ll", catalog.DEFAULT)), grepq(x).item())
x.requires_grad_()
GRepQLoss()(x).backward()
print("gradient", x.grad.isfinite().all().item() and x.grad.abs().max().item() > 0)
images = list(torch.rand(6, 3, 96, 96))
head = GRepQRegressor("grepq-ll", features="patches").fit(images, [1, 2, 3, 4, 5, 6])
print("mos", len(head.predict(images)))

from grepq_metric.cli import main
sys.argv = ["grepq", "score", photo, "-o", out, "--format", "csv"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("pyiqa" in sys.modules)
"""


@pytest.mark.slow
def test_all_but_the_plugin_runs_without_pyiqa(tmp_path: Path, photo_folder: Path) -> None:
    """Imports of every module, a score by Python and by the command line, the loss's gradient, a head: with pyiqa blocked."""
    optional = {"basicsr", "data_juicer", "h5py", "matplotlib", "pillow_heif", "rawpy", "tensorboard", "torchmetrics"}
    names = [m.name for m in modules() if m.name != "grepq_metric.__main__"]
    output = python(WITHOUT_PYIQA, photo_folder / "stereo.png", tmp_path / "scores.csv", *names)
    lines = [line.split() for line in output.splitlines()]
    missing = {line[1]: line[2].split(".")[0] for line in lines if line[0] == "missing"}
    assert set(missing.values()) <= optional, missing
    found = {line[0]: line[1:] for line in lines}
    score, default, function = found["score"]
    assert float(score) == pytest.approx(0.48157230, abs=1e-5)
    assert float(function) == pytest.approx(float(default), abs=1e-7)
    assert (found["gradient"], found["mos"]) == (["True"], ["6"])
    assert lines[-1] == ["False"]
    header, row = (line.split(",") for line in (tmp_path / "scores.csv").read_text().splitlines())
    assert float(dict(zip(header, row, strict=True))["score"]) == pytest.approx(float(default), abs=1e-5)
