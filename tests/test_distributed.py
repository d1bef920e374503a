"""Promise: several processes take the steps of one process on the same batch, under torchrun and accelerate launch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import sys
import torch
torch.set_num_threads(1)
from pathlib import Path
from grepq_metric.training.photos import PhotoList
from grepq_metric.training.distributed import World
kind, source, out = sys.argv[1:4]
photos = PhotoList([source])
if kind == "low":
    from grepq_metric.training.recipe import Recipe
    from grepq_metric.training.low import LowLevelTraining, train_encoder
    types = ("gaussian_blur", "white_noise")
    recipe = Recipe(types=types, types_per_content=2, levels=(1, 5), grid=2, anchors=True, order=0.5)
    training = LowLevelTraining(recipe=recipe, batch=4, steps=3, lr=1e-5, precision="fp32")
    train_encoder(photos, out, training, world=World("cpu"), workers=0)
elif kind in ("semantic", "backbone"):
    from grepq_metric import GRepQ
    from grepq_metric.training.recipe import make_recipe
    small = make_recipe("varied", {"region": 96, "types_per_content": 1})
    start = GRepQ.from_pretrained("grepq-sem")
    if kind == "semantic":
        from grepq_metric.training.semantic import SemanticTraining, sum_up
        training = SemanticTraining(4, steps=3, recipe=small, precision="fp32")
        sum_up(photos, start.semantic, start.weights_id, out, training, world=World("cpu"), workers=0)
    else:
        from grepq_metric.training.backbone import BackboneTraining, tune
        training = BackboneTraining(4, steps=3, recipe=small, crop=64, precision="fp32")
        tune(photos, start.semantic, start.weights_id, out, training, world=World("cpu"), workers=0)
elif kind == "qfm":
    from grepq_metric.heads import read_labels
    from grepq_metric.training.qfm import QFMTraining, make_training, start_of, teach
    plain = QFMTraining(4, steps=3, precision="fp32", dropout=0.0, noise="random", cells=8, memory=8, warmup=0, lr=1e-4)
    training = make_training({"width": 16, "heads": 2, "queries": 2}, plain)
    labels = read_labels(Path(source).parent / "labels.csv")
    teach(*start_of(None, training, "x"), labels, None, Path(out), training, world=World("cpu"), workers=0)
else:
    from tests.test_train_high import SMALL
    tensors = torch.load(Path(source).parent / "tiny.pt", weights_only=True)
    from grepq_metric.training.high import train_tower
    train_tower(photos, tensors, out, SMALL, world=World("cpu"), workers=0)
"""
MEASURED = {"semantic": "slightness"}
PARTS = {"low": "encoder", "high": "visual", "semantic": "sums", "backbone": "pathway", "qfm": "student"}
LAUNCHERS = {
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    "accelerate": [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"],
}


@pytest.fixture(scope="module")
def contents(tmp_path_factory, photos, tiny_clip):
    from torchvision.utils import save_image

    folder = tmp_path_factory.mktemp("distributed") / "photos"
    folder.mkdir()
    for name in ("astronaut", "coffee", "cat", "rocket"):
        save_image(photos[name][..., :128, :144], folder / f"{name}.png")
    rows = [f"photos/{path.name},{i}" for i, path in enumerate(sorted(folder.iterdir()))]
    (folder.parent / "labels.csv").write_text("\n".join(["image,mos", *rows]))
    torch.save(tiny_clip, folder.parent / "tiny.pt")
    return folder


def run(command, script, arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    result = subprocess.run(
        [*command, str(script), *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=300
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.mark.parametrize(
    ("kind", "launcher"),
    [
        pytest.param("low", "torchrun", marks=pytest.mark.slow),
        pytest.param("high", "torchrun", marks=pytest.mark.slow),
        pytest.param("semantic", "torchrun", marks=pytest.mark.slow),
        pytest.param("backbone", "torchrun", marks=pytest.mark.slow),
        pytest.param("qfm", "torchrun", marks=pytest.mark.slow),
        pytest.param("low", "accelerate", marks=pytest.mark.slow),
    ],
)
def test_two_processes_take_the_steps_of_one(contents, tmp_path, kind, launcher):
    if launcher == "accelerate":
        pytest.importorskip("accelerate")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    run([sys.executable], script, [kind, contents, tmp_path / "one"])
    run(LAUNCHERS[launcher], script, [kind, contents, tmp_path / "two"])
    one, two = (
        [json.loads(line)[MEASURED.get(kind, "loss")] for line in (tmp_path / name / "training/log.jsonl").open()]
        for name in ("one", "two")
    )
    assert two == pytest.approx(one, rel=1e-4)
    assert json.loads((tmp_path / "two/training/run.json").read_text())["processes"] == 2
    states = [torch.load(tmp_path / n / "training/checkpoint.pt", weights_only=True) for n in ("one", "two")]
    for key, value in states[0][PARTS[kind]].items():
        assert torch.allclose(value.double(), states[1][PARTS[kind]][key].double(), rtol=1e-2, atol=2e-4), key


LOSS = """
import json, sys
import torch
torch.set_num_threads(1)
from grepq_metric import GRepQLoss
from grepq_metric.integrations.torchmetrics import GRepQMetric
from grepq_metric.training.distributed import World
world = World()
images = torch.load(sys.argv[1], weights_only=True)
with world.joined():
    mine = images[world.rank :: world.size]
    torch.manual_seed(0)
    network = torch.nn.ModuleDict({"net": torch.nn.Conv2d(3, 3, 3, padding=1), "loss": GRepQLoss()}).train()
    forward = network["net"]
    if world.size > 1:
        forward = torch.nn.parallel.DistributedDataParallel(forward)
    network["loss"](forward(mine)).backward()
    metric = GRepQMetric()
    each = GRepQMetric(reduction="none")
    for image in mine:
        metric.update(image[None])
        each.update(image[None])
    grad = network["net"].weight.grad.flatten().tolist()
    found = {"grad": grad, "mean": metric.compute().item(), "each": sorted(each.compute().tolist())}
if world.leads:
    print(json.dumps(found))
"""


@pytest.mark.slow
def test_the_loss_and_the_torchmetrics_metric_are_those_of_one_process(photos, tmp_path):
    pytest.importorskip("torchmetrics")
    names = ("astronaut", "coffee", "cat", "rocket")
    torch.save(torch.cat([photos[name][..., :128, :144] for name in names]), tmp_path / "images.pt")
    script = tmp_path / "script.py"
    script.write_text(LOSS)
    one, two = (
        json.loads(run(command, script, [tmp_path / "images.pt"]).splitlines()[-1])
        for command in ([sys.executable], LAUNCHERS["torchrun"])
    )
    assert len(two["each"]) == 4
    for key, tolerance in (("grad", 1e-7), ("mean", 1e-6), ("each", 1e-6)):
        assert two[key] == pytest.approx(one[key], abs=tolerance, rel=1e-3)
