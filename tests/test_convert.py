"""Promise: the authors' released files become weights that give the numbers of their tensors; other files are refused."""

import math

import pytest
import torch

from grepq_metric import GRepQ, WeightsError
from grepq_metric.catalog import CLIP_RN50
from grepq_metric.files import sha256
from grepq_metric.weights import HubOptions
from grepq_metric.weights.convert import convert as parts_of
from tests.conftest import authors_files, patches_of
from tests.hostile import Payload
from tests.reference import reference, reference_encoder

h5py = pytest.importorskip("h5py", reason="reading the authors' patches needs h5py (extra: convert)")


def convert(*files, **named):
    return GRepQ.from_parts(*parts_of(*files, **named), source="the authors' files")


@pytest.fixture(scope="module")
def patches(photos):
    return torch.cat([patches_of(photo, 60) for photo in photos.values()])


@pytest.fixture(scope="module")
def released(model, patches, tmp_path_factory):
    return authors_files(tmp_path_factory.mktemp("released"), model, patches)


def test_all_files_give_the_numbers_of_the_formulas(released, clip_file, patches, photos, tmp_path):
    model = convert(**released, clip=str(clip_file))
    z = reference_encoder(patches.double(), {k: v.double() for k, v in model.low.encoder.state_dict().items()})
    assert torch.allclose(model.low.pristine_mean, z.mean(0), rtol=1e-4, atol=1e-5)
    assert torch.allclose(model.low.pristine_cov, torch.cov(z.T), rtol=1e-3, atol=1e-5)
    model.save_pretrained(tmp_path)
    loaded = GRepQ.from_pretrained(tmp_path)
    assert loaded.weights_id == model.weights_id
    assert loaded.note == ""  # nothing stands between these weights and the paper's name
    assert loaded.provenance["pristine_patches"] == len(patches)
    assert {"low_sha256", "high_sha256", "pristine_sha256", "clip_sha256"} <= set(loaded.provenance)
    expected = reference(loaded, photos["rocket"])
    assert loaded(photos["rocket"]).item() == pytest.approx(expected["score"].item(), abs=1e-5)


def test_the_prompt_vectors_come_from_clip(released, clip_file, clip_state):
    from grepq_metric.pathways.high import prompt_features

    model = convert(None, released["high"], None, str(clip_file))
    assert model.pathways == ("high",)
    halved = {k: v.half().float() if v.is_floating_point() else v for k, v in clip_state.items()}
    assert torch.allclose(model.high.text_features, prompt_features(halved), atol=1e-5)
    assert torch.allclose(model.high.text_features.norm(dim=1), torch.ones(2))


def test_clip_may_come_from_the_hub(released, hub, clip_file, tmp_path):
    hub.repositories[CLIP_RN50.repository] = {CLIP_RN50.name: clip_file}
    model = convert(None, released["high"], None, "timm/resnet50_clip.openai", hub=HubOptions(cache_dir=tmp_path))
    assert model.provenance["clip_sha256"] == sha256(clip_file)
    with pytest.raises(WeightsError, match="no repository tester/absent"):
        convert(None, released["high"], None, "tester/absent", hub=HubOptions(cache_dir=tmp_path))


def test_the_low_level_pathway_alone(released, photos):
    model = convert(released["low"], None, released["pristine"], None)
    assert model.pathways == ("low",)
    assert math.isfinite(model(photos["cat"]).item())


def test_files_that_belong_together_are_asked_for(released, clip_file):
    with pytest.raises(ValueError, match="low needs pristine too"):
        convert(released["low"], None, None, None)
    with pytest.raises(ValueError, match="clip needs high too"):
        convert(None, None, None, str(clip_file))
    with pytest.raises(ValueError, match="nothing to convert"):
        convert(None, None, None, None)
    with pytest.raises(FileNotFoundError, match="absent"):
        convert("absent.tar", None, released["pristine"], None)
    with pytest.raises(FileNotFoundError, match=r"absent\.pt"):
        convert(None, released["high"], None, "absent.pt")


def edit_low(state, kind):
    first = "encoder.base_model.conv1.weight"
    if kind == "missing":
        for key in (first, "encoder.resnet18.0.weight"):
            del state[key]
    elif kind == "foreign":
        state["projector.weight"] = torch.zeros(1)
    elif kind == "copies differ":
        state[first] = state[first] + 1
    elif kind == "NaN":
        state["head.2.bias"] = torch.full((128,), torch.nan)
    elif kind == "shape":
        state["head.2.bias"] = torch.zeros(64)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "missing .*conv1.weight"),
        ("foreign", "projector.weight"),
        ("copies differ", "encoder.resnet18.0.weight differs"),
        ("NaN", r"NaN or infinity \(head.2.bias"),
        ("shape", r"another shape \(head.2.bias"),
    ],
)
def test_low_level_tensors_that_do_not_fit_are_named(released, tmp_path, kind, message):
    archive = torch.load(released["low"], weights_only=True)
    edit_low(archive["model"]["state_dict"], kind)
    torch.save(archive, tmp_path / "low.tar")
    with pytest.raises(WeightsError, match=message):
        convert(tmp_path / "low.tar", None, released["pristine"], None)


def test_swapped_and_damaged_files_are_refused(released, clip_file, tmp_path):
    with pytest.raises(WeightsError, match="state_dict"):
        convert(released["high"], None, released["pristine"], None)
    with pytest.raises(WeightsError, match=r"no tensors \(visual.current_iteration, visual.model"):
        convert(None, released["low"], None, str(clip_file))
    with pytest.raises(WeightsError, match="not a full CLIP"):
        convert(None, released["high"], None, str(released["high"]))
    with pytest.raises(WeightsError, match="cannot read"):
        convert(released["low"], None, released["high"], None)
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds a list"):
        convert(None, tmp_path / "list.pth", None, str(clip_file))
    (tmp_path / "cut.tar").write_bytes(released["low"].read_bytes()[:5000])
    with pytest.raises(WeightsError, match=r"cut\.tar"):
        convert(tmp_path / "cut.tar", None, released["pristine"], None)
    with h5py.File(tmp_path / "small.hdf5", "w") as file:
        file["data"] = torch.rand(4, 3, 64, 64).numpy()
    with pytest.raises(WeightsError, match="expected"):
        convert(released["low"], None, tmp_path / "small.hdf5", None)
    with h5py.File(tmp_path / "bytes.hdf5", "w") as file:
        file["data"] = (255 * torch.rand(4, 3, 96, 96)).numpy()
    with pytest.raises(WeightsError, match="outside"):
        convert(released["low"], None, tmp_path / "bytes.hdf5", None)


def test_a_pickle_runs_no_code(released, tmp_path):
    torch.save({"model": {"state_dict": {}}, "extra": Payload(tmp_path / "owned")}, tmp_path / "evil.tar")
    with pytest.raises(WeightsError, match=r"evil\.tar"):
        convert(tmp_path / "evil.tar", None, released["pristine"], None)
    assert not (tmp_path / "owned").exists()
