"""Promises of training from Python: one call gives a model and its weights folder; nothing is replaced or undone silently."""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg

from grepq_metric import GRepQ
from grepq_metric.devices import usable_device
from grepq_metric.errors import GRepQError, InputError, TrainingError
from grepq_metric.training import low, train_high, train_low
from grepq_metric.training.distributed import World
from grepq_metric.training.photos import PhotoList
from grepq_metric.training.run import Interrupted, weights_name
from grepq_metric.training.sanity import look
from grepq_metric.training.views import ContrastiveDataset
from tests.command import GREPQ, grepq
from tests.conftest import randomise
from tests.hostile import Payload
from tests.test_training import SMALL, contents, on_the_cpu  # noqa: F401

pytestmark = pytest.mark.filterwarnings("ignore:these weights hardly tell", "ignore:.* pristine patches for 128")
QUICK = {"recipe": SMALL, "batch": 2, "steps": 2, "workers": 0}


@pytest.fixture(autouse=True)
def a_short_look(monkeypatch):
    """The look at the weights after a training, which takes longer than two steps."""
    monkeypatch.setattr("grepq_metric.training.sanity.PHOTOS", 1)
    monkeypatch.setattr("grepq_metric.training.sanity.SIDE", 96)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("fsim")


@pytest.fixture(scope="module")
def whole_clip():
    """State dict of a small CLIP with a text tower, of random values."""
    vision = CLIPVisionCfg(layers=(1, 1, 1, 1), width=16, image_size=64)
    clip = open_clip.CLIP(64, vision, CLIPTextCfg(width=64, heads=1, layers=1), quick_gelu=True)
    randomise(clip, 7)
    return clip.state_dict()


def steps_in(out):
    return [json.loads(line)["step"] for line in (Path(out) / "training/log.jsonl").open()]


def test_one_call_trains_the_low_pathway_and_saves_it(contents, cache, photos, tmp_path, caplog):  # noqa: F811
    caplog.set_level(logging.INFO, "grepq_metric.training")
    model = train_low(str(contents), tmp_path / "my weights", cache=cache, about="scikit-image", **QUICK)
    assert isinstance(model, GRepQ)
    assert model.name == "my-weights"
    saved = GRepQ.from_pretrained(tmp_path / "my weights")
    assert saved.weights_id == model.weights_id
    assert torch.equal(saved(photos["cat"]), model(photos["cat"]))
    assert saved.provenance["steps"] == 2
    assert saved.provenance["about"] == "scikit-image"
    assert saved.provenance["pristine"]["photos"] == 4
    run = json.loads((tmp_path / "my weights/training/run.json").read_text())
    assert {key: saved.provenance[key] for key in run if key not in ("device", "threads", "processes")} == {
        key: value for key, value in run.items() if key not in ("device", "threads", "processes")
    }
    start = caplog.messages[0]
    for fact in ("low-level pathway, recipe of its own", "4 photos", "2 steps of 2 photos", "cpu", "1 process", "bf16"):
        assert fact in start


def test_one_call_trains_the_high_pathway_and_joins_a_low_one(photo_folder, whole_clip, photos, tmp_path):
    quick = {"batch": 4, "group": 2, "crop": 96, "steps": 2, "workers": 0, "precision": "fp32", "lr": 1e-4}
    clip = tmp_path / "clip.pt"
    torch.save(whole_clip, clip)
    model = train_high(photo_folder, clip, tmp_path / "mine", low="grepq-ll", **quick)
    saved = GRepQ.from_pretrained(tmp_path / "mine")
    assert saved.weights_id == model.weights_id
    assert saved.pathways == ("low", "high")
    assert saved.provenance["clip"] == str(clip)
    given = GRepQ.from_pretrained("grepq-ll")
    assert saved.components(photos["cat"])["low"].item() == pytest.approx(given(photos["cat"]).item(), abs=1e-6)
    alone = train_high(PhotoList(photo_folder), whole_clip, tmp_path / "alone", **quick)
    assert alone.pathways == ("high",)
    for key, value in alone.high.state_dict().items():
        assert torch.equal(value, model.high.state_dict()[key]), key


def test_a_run_that_stops_early_gives_no_model_and_goes_on(contents, cache, tmp_path, caplog):  # noqa: F811
    caplog.set_level(logging.INFO, "grepq_metric.training")
    out = tmp_path / "mine"
    assert train_low(contents, out, cache=cache, stop_after=1, **QUICK) is None
    assert not (out / "model.safetensors").exists()
    assert isinstance(train_low(contents, out, cache=cache, resume=True, **QUICK), GRepQ)
    assert "continues after step 1 of 2" in caplog.messages
    other = tmp_path / "other"
    train_low(contents, other, cache=cache, resume=True, **QUICK)
    assert any("no checkpoint" in line and "starts from step 0" in line for line in caplog.messages)


def test_a_process_that_does_not_lead_gets_no_model(contents, cache, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(World, "leads", property(lambda self: False))
    assert train_low(contents, tmp_path, cache=cache, **QUICK) is None
    assert not list(tmp_path.glob("*.safetensors"))


def test_nothing_is_replaced_without_being_asked(contents, cache, photo_folder, tmp_path):  # noqa: F811
    out = tmp_path / "mine"
    train_low(contents, out, cache=cache, **QUICK)
    (out / "training/checkpoint.pt").unlink()
    with pytest.raises(FileExistsError, match=r"log\.jsonl exists: continue that run with resume=True"):
        train_low(contents, out, cache=cache, **QUICK)
    (out / "training" / "log.jsonl").unlink()
    for resume in (False, True):
        with pytest.raises(FileExistsError, match=r"config\.json exists, of weights that no run in this folder has made"):
            train_low(contents, out, cache=cache, resume=resume, **QUICK)
    before = GRepQ.from_pretrained(out).weights_id
    after = train_low(contents, out, cache=cache, overwrite=True, **{**QUICK, "steps": 3})
    assert after.weights_id != before
    assert steps_in(out) == [1, 2, 3]
    train_low(contents, out, cache=cache, overwrite=True, **QUICK)
    assert steps_in(out) == [1, 2]


def test_resuming_a_finished_run_leaves_new_statistics(contents, cache, photo_folder, tmp_path, caplog):  # noqa: F811
    caplog.set_level(logging.INFO, "grepq_metric.training")
    out = tmp_path / "mine"
    trained = train_low(contents, out, cache=cache, **QUICK)
    grepq("pristine", "--photos", photo_folder, "--weights", out, "-o", out, "--overwrite", "--sharpness", 0.5)
    new = GRepQ.from_pretrained(out)
    assert new.weights_id != trained.weights_id
    again = train_low(contents, out, cache=cache, resume=True, **QUICK)
    assert again.weights_id == new.weights_id == GRepQ.from_pretrained(out).weights_id
    assert any(line.startswith("finished") for line in caplog.messages)
    anew = train_low(contents, out, cache=cache, resume=True, overwrite=True, **QUICK)
    assert anew.weights_id == trained.weights_id == GRepQ.from_pretrained(out).weights_id
    (out / "model.safetensors").unlink()  # as of a run that was killed before it wrote them
    assert train_low(contents, out, cache=cache, resume=True, **QUICK).weights_id == trained.weights_id


def test_settings_change_the_recipe(contents, tmp_path):  # noqa: F811
    settings = {"types": ["jpeg", "haze"], "types_per_content": 2, "levels_per_type": 1, "grid": 1}
    model = train_low(contents, tmp_path, recipe="paper", settings=settings, batch=2, steps=1, workers=0)
    assert model.provenance["recipe"]["types"] == ["jpeg", "haze"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": float("nan")}, "lr .* got nan"),
        ({"batch": 2.5}, r"batch .* got 2\.5"),
        ({"workers": -1}, "workers .* got -1"),
        ({"device": "gpu"}, "cannot use device 'gpu'"),
        ({"name": "../x"}, r"got '\.\./x'"),
        ({"recipe": "wilde"}, "'wilde'"),
        ({"settings": {"grit": 1}}, "'grit'"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_trained(contents, tmp_path, change, message):  # noqa: F811
    with pytest.raises(InputError, match=message):
        train_low(contents, tmp_path / "out", **{**QUICK, **change})
    assert not (tmp_path / "out/training/checkpoint.pt").exists()


def test_messages_name_arguments_in_python_and_flags_on_the_command_line(contents, cache, tmp_path):  # noqa: F811
    out = tmp_path / "mine"
    train_low(contents, out, cache=cache, stop_after=1, **QUICK)
    with pytest.raises(FileExistsError) as found:
        train_low(contents, out, cache=cache, **QUICK)
    assert "--" not in str(found.value)
    said = grepq("train", "low", "--photos", contents, "--out", out, "--steps", 2, "--batch", 2, status=2).stderr
    assert "--resume" in said
    assert "--overwrite" in said
    assert "--out" in said
    assert "resume=True" not in said


def test_no_message_of_the_training_package_names_a_flag():
    for file in (Path(__file__).parents[1] / "grepq_metric/training").glob("*.py"):
        assert not re.search(r"(?<![\w-])--[a-z]", file.read_text()), file.name


def test_a_built_in_name_is_no_folder_to_write(contents, photo_folder, tmp_path):  # noqa: F811
    for command in (
        ("train", "low", "--photos", contents, "--out"),
        ("pristine", "--photos", contents, "--weights", "grepq-ll", "-o"),
    ):
        said = grepq(*command, "grepq-ll", cwd=tmp_path, status=2).stderr
        assert "grepq-ll is the name of built-in weights" in said
    assert not list(tmp_path.iterdir())
    grepq("pristine", "--photos", photo_folder, "--weights", "grepq-ll", "-o", "own", cwd=tmp_path)
    own = GRepQ.from_pretrained(tmp_path / "own")
    assert own.name == "own"
    assert own.provenance["pristine"]["photos"] == 6
    absent = ("pristine", "--photos", photo_folder, "--weights", "./absent", "-o", "x")
    assert "no weights at absent" in grepq(*absent, cwd=tmp_path, status=2).stderr
    assert not (tmp_path / "x").exists()


def test_weights_that_tell_nothing_apart_are_called_so(contents, cache, photo_folder, tmp_path, monkeypatch):  # noqa: F811
    with pytest.warns(UserWarning, match="these weights hardly tell severely distorted photos"):
        poor = train_low(contents, tmp_path / "poor", cache=cache, **QUICK)
    assert poor.provenance["sanity"]["drop"] < 0.01
    assert GRepQ.from_pretrained(tmp_path / "poor").provenance["sanity"] == poor.provenance["sanity"]
    monkeypatch.undo()
    good = look(GRepQ.from_pretrained("grepq-ll"), PhotoList(photo_folder))
    assert good.doubt is None
    assert good.srcc > 0.5
    assert good.drop > 0.02
    train = ("train", "low", "--photos", contents, "--out", tmp_path / "cli", "--set", "grid=1")
    said = grepq(*train, "--steps", 1, "--batch", 1)
    assert "warning: these weights hardly tell" in said.stderr
    assert "low-level pathway" in said.stderr.splitlines()[0]


def test_a_damaged_checkpoint_is_named(contents, cache, tmp_path):  # noqa: F811
    train_low(contents, tmp_path, cache=cache, stop_after=1, **QUICK)
    checkpoint = tmp_path / "training/checkpoint.pt"
    whole = checkpoint.read_bytes()
    torch.save({"step": 1, "settings": Payload(tmp_path / "owned")}, checkpoint)
    hostile = checkpoint.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"x" * 1000, hostile):
        checkpoint.write_bytes(damaged)
        with pytest.raises(TrainingError, match=r"checkpoint\.pt is damaged") as caught:
            train_low(contents, tmp_path, cache=cache, resume=True, **QUICK)
        assert "weights_only" not in str(caught.value)  # torch's advice to run what is in it
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("during", ["step", "sample"])
def test_ctrl_c_keeps_the_last_whole_step(contents, cache, tmp_path, monkeypatch, during):  # noqa: F811
    whole = train_low(contents, tmp_path / "whole", cache=cache, **{**QUICK, "steps": 4})
    holder, attribute = (low, "quality_aware_contrastive_loss") if during == "step" else (ContrastiveDataset, "make")
    real, calls = getattr(holder, attribute), []

    def interrupted(*arguments):
        calls.append(None)
        if len(calls) == (3 if during == "step" else 5):  # in the third step, or while its first sample is made
            os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(holder, attribute, interrupted)
    before, done = signal.getsignal(signal.SIGINT), {"step": 3, "sample": 2}[during]
    with pytest.raises(KeyboardInterrupt, match=rf"interrupted after step {done} of 4; .*checkpoint\.pt holds step {done}"):
        train_low(contents, tmp_path / "mine", cache=cache, **{**QUICK, "steps": 4})
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.setattr(holder, attribute, real)
    model = train_low(contents, tmp_path / "mine", cache=cache, resume=True, **{**QUICK, "steps": 4})
    assert steps_in(tmp_path / "mine") == [1, 2, 3, 4]
    for key, value in model.state_dict().items():
        assert torch.equal(value, whole.state_dict()[key]), key


def test_ctrl_c_before_the_first_step_says_that_nothing_is_kept(contents, cache, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("grepq_metric.training.views.ContrastiveDataset.make", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match="interrupted after step 0 of 2; there is no checkpoint yet") as found:
        train_low(contents, tmp_path, cache=cache, **QUICK)
    assert found.value.number == signal.SIGTERM


def test_training_outside_of_the_main_thread_needs_no_signals(contents, cache, tmp_path):  # noqa: F811
    made = []
    thread = threading.Thread(target=lambda: made.append(train_low(contents, tmp_path, cache=cache, **QUICK)))
    thread.start()
    thread.join()
    assert isinstance(made[0], GRepQ)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_command_and_its_workers_keeps_what_is_done(contents, cache, tmp_path, number, status):  # noqa: F811
    out = tmp_path / "mine"
    train = ["train", "low", "--photos", contents, "--out", out, "--steps", "400", "--batch", "1", "--set", "grid=1"]
    train += ["--workers", "1", "--cache", cache, "--seed", "3"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(
        [*GREPQ, *map(str, train)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    log = out / "training/log.jsonl"
    bar = []  # steps are taken when the bar says so: the log is written with the checkpoint
    reader = threading.Thread(target=lambda: bar.extend(iter(lambda: process.stderr.read(1), "")))
    reader.start()
    deadline = time.monotonic() + 120
    while "loss=" not in "".join(bar):
        assert time.monotonic() < deadline, "".join(bar)
        assert process.poll() is None, "".join(bar)
        time.sleep(0.05)
    os.killpg(process.pid, number)  # as a terminal or a batch system does: to the workers, too
    assert process.wait(60) == status
    reader.join()
    said = "".join(bar)
    assert "Traceback" not in said
    kept = torch.load(out / "training/checkpoint.pt", weights_only=True)["step"]
    assert f"interrupted after step {kept} of 400; " in said
    assert f"checkpoint.pt holds step {kept}" in said
    assert log.exists()
    assert steps_in(out) == list(range(1, kept + 1))
    assert ("--resume continues" in said) == (number == signal.SIGINT)
    again = grepq(*train, status=2).stderr
    assert "--resume" in again
    assert f"continues after step {kept} of 400" in grepq(*train, "--resume", "--stop-after", kept + 1).stderr


def test_the_device_is_cuda_where_there_is_one(monkeypatch):
    assert usable_device(None) == torch.device("cpu")
    assert World().device == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", lambda *_, device, dtype: device)
    assert World().device == torch.device("cuda")
    monkeypatch.undo()
    with pytest.raises(GRepQError, match="cannot use device 'cuda:77'"):
        usable_device("cuda:77")


def test_pristine_statistics_run_on_the_device_of_the_model(photo_folder):
    from grepq_metric.training.pristine import Selection, set_pristine_statistics

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, seen = GRepQ.from_pretrained("grepq-ll").to(device), []
    model.low.encoder.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].device.type))
    set_pristine_statistics(model, PhotoList(photo_folder), Selection())
    assert set(seen) == {device.type}
    assert model.low.pristine_mean.device.type == device.type


def test_names_of_folders_become_names_of_weights():
    assert weights_name("/tmp/my photos (2)") == "my-photos-2"
    assert weights_name("/tmp/...") == "weights"
    assert weights_name("/tmp/" + "x" * 200) == "x" * 100


def test_a_folder_of_weights_can_be_moved(contents, cache, tmp_path):  # noqa: F811
    train_low(contents, tmp_path / "mine", cache=cache, **QUICK)
    shutil.move(tmp_path / "mine", tmp_path / "moved")
    assert train_low(contents, tmp_path / "moved", cache=cache, resume=True, **QUICK).name == "mine"


def test_a_run_that_failed_before_its_first_step_can_be_started_again(tmp_path, contents):  # noqa: F811
    out = tmp_path / "out"
    (out / "training").mkdir(parents=True)
    (out / "training" / "log.jsonl").touch()
    (out / "training" / "run.json").write_text("{}")
    assert train_low(contents, out, recipe=SMALL, batch=2, steps=2, stop_after=1, workers=0) is None
    assert (out / "training" / "checkpoint.pt").exists()


def test_a_folder_named_like_built_in_weights_is_refused(tmp_path, monkeypatch, contents):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="grepq-ll is the name of built-in weights"):
        train_low(contents, "grepq-ll", steps=1, workers=0)


def test_what_a_launcher_has_set_must_be_numbers(monkeypatch):
    monkeypatch.setenv("RANK", "x")
    with pytest.raises(ValueError, match="RANK must be a whole number, got 'x'"):
        World("cpu")
