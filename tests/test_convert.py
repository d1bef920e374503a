"""Promise: the authors' released files become weights that give the numbers of their tensors; other files are refused."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch

from grepq_metric import GRepQ, GRepQLoss, GRepQRegressor, WeightsError, catalog, load_model
from grepq_metric.catalog import AUTHORS, CLIP_RN50
from grepq_metric.files import sha256
from grepq_metric.weights import HubOptions, authors
from grepq_metric.weights.convert import convert as parts_of
from tests.command import grepq
from tests.conftest import authors_files, patches_of
from tests.drive_server import DriveServer
from tests.hostile import Payload
from tests.hub_server import COMMIT
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


# The published method in one command, and its name


@pytest.fixture(scope="module")
def drive(released):
    """The authors' folder on a local Google Drive."""
    server = DriveServer()
    server.folder = AUTHORS.released.id
    server.files = {path.name: path for path in released.values()}
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def machine(drive, clip_file, pytestconfig, tmp_path_factory):
    """A machine whose network is the local Drive and the local Hub, and on which nothing was converted yet."""
    pytest.importorskip("gdown", reason="fetching from Google Drive needs gdown (extra: convert)")
    clip = replace(CLIP_RN50, revision=COMMIT, sha256=sha256(clip_file))  # the real one can't be had in tests
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_ASSETS_CACHE", str(tmp_path_factory.mktemp("assets")))
        patch.setattr(catalog, "AUTHORS", replace(AUTHORS, clip=clip))
        drive.lead_here(patch)
        pytestconfig.hub.repositories = {CLIP_RN50.repository: {CLIP_RN50.name: clip_file}}
        yield tmp_path_factory.mktemp("machine")
        pytestconfig.hub.reset()


@pytest.fixture(scope="module")
def converted(machine, photo_folder):
    """What the one command says, and the folder that it writes; the check is on a small photo, for speed."""
    result = grepq("convert", "--download", "-o", "grepq-authors", "--check", photo_folder / "rocket.png", cwd=machine)
    return SimpleNamespace(folder=machine / "grepq-authors", said=result.stdout)


def test_one_command_makes_the_published_method_and_says_what_of(converted, released, clip_file, photos, tmp_path):
    expected = convert(**released, clip=str(clip_file))
    model = GRepQ.from_pretrained(converted.folder)
    assert (model.weights_id, model.pathways, model.note) == (expected.weights_id, ("low", "high"), "")
    assert f"terms: {AUTHORS.released.terms}" in converted.said
    card = (converted.folder / "README.md").read_text()
    for key, path in released.items():
        line = next(line for line in converted.said.splitlines() if line.startswith(path.name))
        digest, size = sha256(path), path.stat().st_size
        assert line.endswith(f"SHA-256 {digest}")
        assert f"{size:,} bytes" in line
        assert (model.provenance[f"{key}_sha256"], model.provenance[f"{key}_bytes"]) == (digest, size)
        assert model.provenance[f"{key}_address"] in line
        assert model.provenance[f"{key}_downloaded"] in line
        assert digest in card
    assert model.provenance["downloaded_from"] == "https://drive.google.com/drive/folders/1wLpdN6TNezur_0_NF7XgmBMyWcSxH5eX"
    assert f"{CLIP_RN50.repository} at {COMMIT}" in model.provenance["clip"]
    assert AUTHORS.released.terms in card
    assert "license: unknown" in card  # and not that of this package
    checks = [line for line in converted.said.splitlines() if line.startswith("check: ")]
    assert [line.split()[:3] for line in checks] == [["check:", "rocket.png", "itself"]]


def test_every_door_knows_the_name_in_any_folder(converted, photos, photo_folder, tmp_path, monkeypatch):
    import pyiqa

    monkeypatch.chdir(tmp_path)
    x = photos["stereo"]
    model = GRepQ.from_pretrained(converted.folder)
    expected = model(x).item()
    assert GRepQ.from_pretrained("grepq-authors").weights_id == model.weights_id
    assert load_model("grepq-authors")(x).item() == expected
    assert GRepQLoss("grepq-authors", checkpoint=False)(x).item() == pytest.approx(1 - expected / 1.5, abs=1e-6)
    assert pyiqa.create_metric("grepq", weights="grepq-authors", device="cpu")(x).item() == pytest.approx(expected, abs=1e-6)
    hub = torch.hub.load(str(Path(catalog.__file__).parents[1]), "grepq_authors", source="local")
    assert hub(x).item() == expected
    images = [photo[0, :, :96, :96] for photo in photos.values()]
    GRepQRegressor("grepq-authors").fit(images, list(range(len(images)))).save("head.safetensors")
    mos = pyiqa.create_metric("grepq-mos", head="head.safetensors", device="cpu")
    assert mos.net.model.weights_id == model.weights_id  # a head knows whose it is
    for option in ("--metric", "--weights"):
        result = grepq("score", photo_folder / "stereo.png", option, "grepq-authors", "--format", "json")
        (row,) = json.loads(result.stdout)
        assert row["score"] == pytest.approx(expected, abs=1e-5)
        assert model.weights_id in result.stderr
        assert "CLIP" not in result.stderr
    grepq("gallery", photo_folder / "stereo.png", "--metric", "grepq-authors", "-o", "page")
    assert (tmp_path / "page" / "index.html").exists()


def test_info_lists_the_name_where_it_is_and_not_elsewhere(converted, monkeypatch, tmp_path):
    text = grepq("info").stdout
    (found,) = (part for part in text.split("\n\n") if part.startswith("grepq-authors"))
    assert GRepQ.from_pretrained(converted.folder).weights_id in found
    assert str(converted.folder) in found
    assert "the published method" in found
    assert grepq("info", "grepq-authors").stdout.startswith("grepq-authors-")
    monkeypatch.setattr(huggingface_hub.constants, "HF_ASSETS_CACHE", str(tmp_path))
    assert "\ngrepq-authors" not in grepq("info").stdout


def test_the_harness_shows_it_as_the_published_method(converted, tmp_path):
    from benchmarks.harness.metrics import PUBLISHED_METHOD, UnavailableError, known_metrics, open_metric

    metric = open_metric("grepq-authors")
    assert metric.name == "grepq-authors"
    assert metric.id == GRepQ.from_pretrained(converted.folder).weights_id
    assert metric.provenance["published_method"] == PUBLISHED_METHOD
    assert "plain_clip" not in metric.provenance
    assert open_metric(f"grepq:weights={converted.folder}").provenance["published_method"] == PUBLISHED_METHOD
    assert "published_method" not in open_metric(f"grepq-ll:weights={converted.folder}").provenance
    assert "published_method" not in open_metric("grepq-ll").provenance
    assert "grepq-authors" in known_metrics()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_ASSETS_CACHE", str(tmp_path))
        with pytest.raises(UnavailableError, match="grepq-authors is not on this machine yet"):
            open_metric("grepq-authors")


def test_the_name_without_weights_says_which_command_makes_them(monkeypatch, tmp_path, photo_folder):
    monkeypatch.setattr(huggingface_hub.constants, "HF_ASSETS_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"grepq-authors is not on this machine yet .*: `grepq convert` makes it"):
        GRepQ.from_pretrained("grepq-authors")
    told = grepq("score", photo_folder / "stereo.png", "--metric", "grepq-authors", status=2).stderr
    assert "`grepq convert` makes it" in told
    assert told.strip().count("\n") == 0


def test_weights_that_were_moved_or_replaced_are_not_taken_for_it(converted, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    folder = tmp_path / "copy"
    shutil.copytree(converted.folder, folder)
    identity = GRepQ.from_pretrained(folder).weights_id
    authors.remember(folder, identity)
    assert GRepQ.from_pretrained("grepq-authors").weights_id == identity
    GRepQ.from_pretrained("grepq-ll").save_pretrained(folder)
    with pytest.raises(WeightsError, match=rf"copy holds grepq-ll-8690ed2c, and not the {identity} .*makes it again"):
        GRepQ.from_pretrained("grepq-authors")
    shutil.rmtree(folder)
    with pytest.raises(WeightsError, match=r"converted to .*copy, and is not there any more: `grepq convert` makes it again"):
        GRepQ.from_pretrained("grepq-authors")
    assert "which is not there any more" in grepq("info").stdout
    authors.kept().with_suffix(".json").write_text("{")
    with pytest.raises(WeightsError, match=r"grepq-authors\.json is damaged"):
        GRepQ.from_pretrained("grepq-authors")


def test_own_files_get_the_name_and_one_pathway_alone_does_not(released, clip_file, photo_folder, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    low = ["--low", released["low"], "--pristine", released["pristine"], "--check", photo_folder / "rocket.png"]
    assert "their name" not in grepq("convert", *low, "-o", "low", cwd=tmp_path).stdout
    assert authors.remembered() is None
    grepq("convert", *low, "--high", released["high"], "--clip", clip_file, "-o", "both", cwd=tmp_path)
    assert authors.remembered().folder == tmp_path / "both"
    assert "downloaded_from" not in GRepQ.from_pretrained("grepq-authors").provenance


def test_a_name_that_cannot_be_recorded_says_where_the_weights_are(converted, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(huggingface_hub.constants, "HF_ASSETS_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match=r"the weights are in .*grepq-authors, but grepq-authors can't be made their name"):
        authors.remember(converted.folder, "grepq-authors-01234567")


def test_what_was_fetched_is_not_fetched_again_and_clip_may_be_a_file(
    converted, drive, clip_file, photo_folder, pytestconfig, tmp_path
):
    drive.requests.clear()
    pytestconfig.hub.requests.clear()
    assert "exists: choose another --output" in grepq("convert", "--download", "-o", converted.folder, status=2).stderr
    assert not drive.requests
    options = ["--clip", clip_file, "--check", photo_folder / "rocket.png", "--name", "mine"]
    grepq("convert", "--download", *options, "-o", tmp_path / "mine")
    assert [path.partition("?")[0] for _, path, _ in drive.requests] == ["/embeddedfolderview"]
    assert not pytestconfig.hub.requests
    assert "clip" not in GRepQ.from_pretrained(tmp_path / "mine").provenance
    assert authors.remembered().folder == converted.folder  # another name is another method


def test_options_that_cannot_be_meant_are_named_before_anything_is_fetched(machine, drive, released, tmp_path):
    drive.requests.clear()
    told = grepq("convert", "--download", "--low", released["low"], "-o", tmp_path / "x", status=2).stderr
    assert "--download fetches the authors' files, got --low too" in told
    assert "--low needs --pristine too" in grepq("convert", "--low", released["low"], "-o", "x", status=2, cwd=tmp_path).stderr
    missing = grepq("convert", "--download", "--check", "absent.jpg", "-o", "x", status=2, cwd=tmp_path).stderr
    assert "absent.jpg" in missing
    assert not drive.requests
    assert "give --download" in grepq("convert", "-o", "x", status=2, cwd=tmp_path).stderr


@pytest.mark.parametrize("fault", ["quota", "hotel", "cut"])
def test_a_failed_download_is_one_line_and_writes_no_weights(machine, drive, monkeypatch, tmp_path, fault):
    monkeypatch.setattr(huggingface_hub.constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setattr("grepq_metric.weights.drive.RETRIES", 0)
    monkeypatch.setattr(drive, "faults", {fault})
    told = grepq("convert", "--download", "-o", "grepq-authors", status=2, cwd=tmp_path).stderr
    assert told.startswith("error: ")
    assert told.strip().count("\n") == 0
    assert not (tmp_path / "grepq-authors").exists()
    assert authors.remembered() is None


def test_a_clip_that_cannot_be_had_leaves_what_was_fetched(machine, drive, pytestconfig, monkeypatch, tmp_path):
    monkeypatch.setattr(catalog, "AUTHORS", replace(AUTHORS, clip=replace(CLIP_RN50, repository="tester/absent")))
    told = grepq("convert", "--download", "-o", tmp_path / "x", status=2).stderr
    assert "no repository tester/absent" in told
    assert "give the file with --clip; the authors' files are kept" in told


class Numbers(torch.nn.Module):
    """A model that gives a photo and its distorted versions the scores that it is told."""

    best, device = 1.5, torch.device("cpu")

    def __init__(self, *scores):
        super().__init__()
        self.scores = scores

    def forward(self, x):
        return torch.tensor(self.scores).unsqueeze(1)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ((math.nan, 0.5, 0.5, 0.5), r"scores that are not from 0 to 1\.5"),
        ((1.4, 0.5, 1.6, 0.5), r"scores that are not from 0 to 1\.5"),
        ((0.5, 0.5, 0.5, 0.5), r"china\.jpg scores 0\.5000, no better than badly distorted: 0\.5000"),
        ((0.5, 0.2, 0.2, 0.6), None),  # of one kind of distortion little is seen
    ],
)
def test_weights_that_cannot_be_right_do_not_pass_the_check(scores, message, capsys):
    from grepq_metric.cli.convert import _check, _photos

    if message is None:
        _check(Numbers(*scores), _photos([]))
        assert capsys.readouterr().out.count("check: ") == 2
    else:
        with pytest.raises(WeightsError, match=message):
            _check(Numbers(*scores), _photos([]))


def test_the_check_takes_photos_of_the_user(photo_folder, capsys):
    from grepq_metric.cli.convert import _check, _photos

    _check(load_model("grepq-ll"), _photos([photo_folder / "coffee.png", photo_folder / "rocket.png"]))
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["coffee.png", "rocket.png"]
