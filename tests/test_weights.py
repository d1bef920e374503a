"""Promises: weights survive a round trip, carry an identity, and are refused with a reason when they are not right."""

import contextlib
import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from grepq_metric import GRepQ, WeightsError


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "weights")
    return tmp_path / "weights"


@torch.inference_mode()
def test_a_saved_model_scores_the_same(model, folder, photos):
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    for source in (folder, str(folder), folder / "model.safetensors"):
        loaded = GRepQ.from_pretrained(source)
        assert loaded.weights_id == model.weights_id
        assert torch.equal(loaded(photos["rocket"]), model(photos["rocket"]))


def test_the_config_records_constants_and_provenance(model, folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["pathways"] == ["low", "high"]
    assert (config["patch_size"], config["patch_stride"], config["ridge"]) == (96, 48, 0.001)
    assert (config["distance_scale"], config["logit_scale"]) == (100.0, 10.0)
    assert config == model.config
    card = (folder / "README.md").read_text()
    assert model.weights_id in card


def test_the_id_names_the_values_and_not_the_file(model, folder):
    name, _, digest = model.weights_id.rpartition("-")
    assert name == "random"
    assert len(digest) == 8
    loaded = GRepQ.from_pretrained(folder)
    loaded.low.pristine_mean[0] += 1
    assert loaded.weights_id != model.weights_id
    assert GRepQ.from_pretrained(folder, ridge=0.01).weights_id != model.weights_id
    assert GRepQ.from_pretrained(folder, chunk_size=8).weights_id == model.weights_id


@torch.inference_mode()
def test_one_of_two_pathways_can_be_chosen(model, folder, photos):
    low = GRepQ.from_pretrained(folder, pathways=["low"])
    parts, expected = low.components(photos["rocket"]), model.components(photos["rocket"])
    assert parts["high"] is None
    assert torch.equal(parts["score"], expected["low"])
    assert low.features(photos["rocket"]).shape == (1, 256)
    high = GRepQ.from_pretrained(folder, pathways=["high"])
    parts = high.components(photos["rocket"])
    assert parts["low"] is None
    assert parts["distance"] is None
    assert torch.equal(parts["score"], expected["high"])
    assert high.features(photos["rocket"]).shape == (1, 1024)
    with pytest.raises(ValueError, match="low"):
        GRepQ.from_pretrained("grepq-ll", pathways=["low", "high"])


def test_packaged_parts_are_joined_in_memory(photos, tmp_path):
    joined, parts = GRepQ.from_pretrained("grepq-lite"), [GRepQ.from_pretrained(name) for name in ("grepq-ll", "grepq-sem")]
    values = {key: value for part in parts for key, value in part.state_dict().items()}
    assert set(joined.state_dict()) == set(values)
    assert all(torch.equal(value, values[key]) for key, value in joined.state_dict().items())
    assert joined.provenance == {"low": parts[0].provenance, "semantic": parts[1].provenance}
    x = photos["rocket"]
    got = joined.components(x)
    scale = joined.low.config.distance_scale
    assert torch.equal(got["low"], GRepQ.from_pretrained("grepq-ll", distance_scale=scale)(x))
    assert torch.equal(got["semantic"], parts[1](x))
    assert got["score"].item() == pytest.approx((got["low"] + got["semantic"]).item(), abs=2e-7)
    assert torch.equal(joined.quality_map(x), parts[1].quality_map(x))
    assert torch.equal(joined.distance_map(x), parts[0].distance_map(x))
    joined.save_pretrained(tmp_path)
    again = GRepQ.from_pretrained(tmp_path)
    assert again.weights_id == joined.weights_id
    assert again.config == joined.config
    assert torch.equal(again(x), joined(x))
    for pathway, part in zip(("low", "semantic"), parts, strict=True):
        alone = GRepQ.from_pretrained("grepq-lite", pathways=[pathway])
        assert alone.pathways == part.pathways
        assert torch.equal(alone(x), got[pathway])


def test_the_constants_of_an_entry_come_before_those_of_its_parts(monkeypatch):
    from dataclasses import replace

    from grepq_metric import catalog

    lite = replace(catalog.find("grepq-lite"), constants={"distance_scale": 25.0})
    before = GRepQ.from_pretrained("grepq-lite")
    monkeypatch.setattr(catalog, "ENTRIES", (lite,))
    model = GRepQ.from_pretrained("grepq-lite")
    assert model.low.config.distance_scale == 25.0
    assert model.weights_id != before.weights_id
    assert GRepQ.from_pretrained("grepq-lite", distance_scale=50.0).low.config.distance_scale == 50.0


def test_the_semantic_pathway_survives_a_round_trip(photos, tmp_path):
    """With a hidden layer, too; nothing of it is outside of the state dict, since it is built without memory."""
    from tests.conftest import randomise

    model = GRepQ(pathways=["semantic"], name="hidden", semantic={"architecture": "tf_efficientnet_lite0", "hidden": 8})
    with pytest.raises(ValueError, match="no weights"):
        model(photos["stereo"])
    randomise(model.semantic, 7)
    assert {name for name, _ in model.named_buffers()} <= set(model.state_dict())
    for storage in ("float32", "float16"):
        model.storage = storage
        model.save_pretrained(tmp_path / storage)
        loaded = GRepQ.from_pretrained(tmp_path / storage)
        assert loaded.config == model.config
        assert loaded.semantic.config == model.semantic.config
        assert loaded(photos["rocket"]).item() == pytest.approx(model(photos["rocket"]).item(), abs=5e-3)
        assert not any(value.is_meta for value in [*loaded.parameters(), *loaded.buffers()])
    exact = GRepQ.from_pretrained(tmp_path / "float32")
    assert exact.weights_id == model.weights_id
    assert torch.equal(exact(photos["rocket"]), model(photos["rocket"]))
    stored = load_file(tmp_path / "float16" / "model.safetensors")
    assert stored["semantic.backbone.conv_stem.weight"].dtype == torch.float16
    assert stored["semantic.head.0.weight"].dtype == torch.float32  # or the id would change when weights are saved


@pytest.mark.parametrize(
    ("semantic", "message"),
    [
        ({"architecture": "resnet18"}, "semantic must be like"),
        ({"architecture": "no_such_net", "hidden": 0}, "architecture must be one of tf_.*, got 'no_such_net'"),
        ({"architecture": "tf_efficientnet_lite2", "hidden": -1}, "hidden must be a whole number"),
        ({"architecture": 3, "hidden": 0}, "architecture must be one of tf_.*, got 3"),
        ("large", "semantic must be like"),
    ],
)
def test_a_semantic_pathway_that_is_none_is_refused(semantic, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        GRepQ(pathways=["semantic"], semantic=semantic)
    folder = tmp_path / "weights"
    GRepQ.from_pretrained("grepq-sem").save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "semantic": semantic}))
    with pytest.raises(WeightsError, match=message):
        GRepQ.from_pretrained(folder)


def test_float16_storage_is_exact_for_rounded_weights(model, tmp_path, photos):
    rounded = GRepQ(pathways=["low"], name="half", storage="float16")
    rounded.low.load_state_dict(
        {k: v.half().to(v.dtype) if v.dtype == torch.float32 else v for k, v in model.low.state_dict().items()}
    )
    rounded.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < 25e6
    stored = load_file(tmp_path / "model.safetensors")
    assert stored["low.encoder.backbone.conv1.weight"].dtype == torch.float16
    assert stored["low.pristine_cov"].dtype == torch.float64
    loaded = GRepQ.from_pretrained(tmp_path)
    assert loaded.weights_id == rounded.weights_id
    assert torch.equal(loaded(photos["cat"]), rounded(photos["cat"]))


def test_the_packaged_weights_load_without_network_and_fit_the_wheel(monkeypatch):
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError("packaged weights opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    parts = {"grepq-ll": ("low",), "grepq-sem": ("semantic",), "grepq-lite": ("low", "semantic")}
    for name, pathways in parts.items():
        found = GRepQ.from_pretrained(name)
        assert found.pathways == pathways
        assert found.weights_id.startswith(f"{name}-")
        assert "trained_by" in (found.provenance if len(pathways) == 1 else found.provenance["semantic"])
    model = GRepQ.from_pretrained("grepq-ll")
    for key in ("trained_by", "trained", "photos_sha256", "steps", "seed", "recipe", "pristine"):
        assert key in model.provenance, key

    from grepq_metric.weights import packaged_folder

    assert sum(f.stat().st_size for name in ("grepq-ll", "grepq-sem") for f in packaged_folder(name).iterdir()) <= 35e6


def damage(tensors, kind):
    first = "low.encoder.backbone.conv1.weight"
    variance = "low.encoder.backbone.bn1.running_var"
    if kind == "integers":
        tensors[first] = tensors[first].int()
    elif kind == "float8":
        tensors[first] = tensors[first].to(torch.float8_e4m3fn)
    elif kind == "variance":
        tensors[variance][5] = -1
    elif kind == "asymmetric":
        tensors["low.pristine_cov"][0, 1] += 1
    elif kind == "negative":
        tensors["low.pristine_cov"] *= -1
    elif kind == "no prompt":
        tensors["high.text_features"][1] = 0
    elif kind == "missing":
        del tensors[first]
    elif kind == "foreign":
        tensors["other.weight"] = torch.zeros(1)
    elif kind == "shape":
        tensors[first] = torch.zeros(64, 3, 3, 3)
    elif kind == "NaN":
        tensors["low.pristine_mean"][3] = torch.nan
    return tensors


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"missing \(low.encoder.backbone.conv1.weight"),
        ("foreign", r"foreign \(other.weight"),
        ("shape", r"another shape \(low.encoder.backbone.conv1.weight"),
        ("NaN", r"NaN or infinity \(low.pristine_mean"),
        ("integers", r"another type \(low.encoder.backbone.conv1.weight torch.int32"),
        ("float8", r"another type \(low.encoder.backbone.conv1.weight torch.float8"),
        ("variance", r"negative variance \(low.encoder.backbone.bn1.running_var"),
        ("asymmetric", "low.pristine_cov is no covariance: it is not symmetric"),
        ("negative", "low.pristine_cov is no covariance: it has the eigenvalue -"),
        ("no prompt", "high.text_features holds a vector of length 0"),
    ],
)
def test_wrong_tensors_are_named(folder, kind, message):
    file = folder / "model.safetensors"
    save_file(damage(load_file(file), kind), file)
    with pytest.raises(WeightsError, match=message):
        GRepQ.from_pretrained(folder)


def test_a_truncated_file_is_named(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="truncated"):
        GRepQ.from_pretrained(folder)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"model_type": "clip"}',
        "[" * 100_000,
        '{"pathways": [["low"]]}',
        b"\xff\xfe".decode("latin-1") * 3,
        " " * 2**21,
    ],
    ids=["empty", "cut", "list", "foreign", "deep", "nested", "no text", "huge"],
)
def test_a_foreign_config_is_named(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(WeightsError, match=r"config\.json"):
        GRepQ.from_pretrained(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"pathways": None},
        {"pathways": "low"},
        {"patch_size": "96"},
        {"patch_size": 96.5},
        {"patch_size": 10**9},
        {"patch_stride": True},
        {"ridge": None},
        {"ridge": float("inf")},
        {"ridge": 0},
        {"distance_scale": float("nan")},
        {"chunk_size": 1.5},
        {"provenance": 5},
        {"storage": "int8"},
        {"name": "../../x"},
        {"name": "a\x1b[31m"},
        {"name": ""},
        {"image_tower": {"layers": [10_000_000, 4, 6, 3], "width": 64, "output_dim": 1024}},
        {"image_tower": {"layers": [3, 4, 6, 4], "width": 64, "output_dim": 1024}},
        {"image_tower": {"depth": 3}},
    ],
    ids=str,
)
def test_a_config_with_wrong_values_is_named(folder, change):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    key = {"image_tower": "(image_tower|layers)"}.get(next(iter(change)), next(iter(change)))
    with pytest.raises(WeightsError, match=rf"config\.json.*{key}"):
        GRepQ.from_pretrained(folder)


def test_a_name_can_be_no_path(tmp_path):
    with pytest.raises(ValueError, match="must be letters, digits"):
        GRepQ(pathways=["low"], name="../../x")
    model = GRepQ.from_pretrained("grepq-ll")
    with pytest.raises(ValueError, match="must be letters, digits"):
        model.name = "a/b"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("ridge", float("inf")),
        ("ridge", -1),
        ("chunk_size", 1.5),
        ("chunk_size", 0),
        ("patch_stride", 0),
        ("distance_scale", "100"),
    ],
)
def test_an_option_out_of_its_range_is_refused(option, value):
    with pytest.raises(ValueError, match=f"{option} must be a"):
        GRepQ.from_pretrained("grepq-ll", **{option: value})


def test_a_model_card_is_replaced_unless_someone_wrote_it(model, folder):
    card = folder / "README.md"
    for text, replaced in ((card.read_text().replace(model.weights_id, "old-id"), True), ("# Mine", False)):
        card.write_text(text)
        model.save_pretrained(folder)
        assert (model.weights_id in card.read_text()) is replaced
    with pytest.raises(TypeError, match="typo"):
        model.save_pretrained(folder, typo=1)


def test_absent_weights_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        GRepQ.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors"):
        GRepQ.from_pretrained(str(tmp_path / "nowhere.safetensors"))
    with pytest.raises(ValueError, match="did you mean 'grepq-ll'"):
        GRepQ.from_pretrained("grepq_ll")
    with pytest.raises(ValueError, match="unknown option 'chunks'"):
        GRepQ.from_pretrained(folder, chunks=3)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        GRepQ.from_pretrained(folder)


def test_a_full_disk_is_named_and_leaves_the_old_weights(model, folder, monkeypatch):
    from grepq_metric.weights import folder as weights_folder

    def full(tensors, path, **kwargs):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights_folder, "save_file", full)
    with pytest.raises(WeightsError, match="No space left"):
        model.save_pretrained(folder)
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert GRepQ.from_pretrained(folder).weights_id == model.weights_id


def test_tensors_of_another_shape_take_no_memory(tmp_path):
    """Names alone say how large a network is: 256 blocks of a width of 512 would take 15 GB."""
    import resource

    tensors = {f"high.visual.layer{stage}.{block}.x": torch.zeros(1) for stage in (1, 2, 3, 4) for block in range(64)}
    tensors |= {
        "high.visual.layer1.0.conv1.weight": torch.zeros(512, 1),
        "high.visual.attnpool.c_proj.weight": torch.zeros(8, 1),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    tower = {"layers": [64] * 4, "width": 512, "output_dim": 8}
    (tmp_path / "config.json").write_text(json.dumps({"pathways": ["high"], "image_tower": tower}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsError, match="does not fit"):
        GRepQ.from_pretrained(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


@pytest.mark.parametrize(
    ("key", "factor", "message"),
    [
        ("low.encoder.backbone.conv1.weight", 1e200, "NaN or infinity"),
        ("low.pristine_mean", 1e300, "beyond 1e\\+06"),
        ("low.pristine_cov", 1e300, "beyond 1e\\+06"),
    ],
)
def test_values_that_no_encoder_gives_are_refused(folder, key, factor, message):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, key: tensors[key].double() * factor}, file)
    with pytest.raises(WeightsError, match=message):
        GRepQ.from_pretrained(folder)


def test_a_number_larger_than_any_float_is_out_of_range(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "ridge": 10**400}))
    with pytest.raises(WeightsError, match="ridge must be a number from"):
        GRepQ.from_pretrained(folder)


def test_a_path_is_a_folder_whatever_its_name(tmp_path, monkeypatch, model):
    from pathlib import Path

    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no weights at grepq-ll"):
        GRepQ.from_pretrained(Path("grepq-ll"))
    model.save_pretrained("grepq-ll")
    assert GRepQ.from_pretrained(Path("grepq-ll")).weights_id == model.weights_id
    assert GRepQ.from_pretrained("grepq-ll").weights_id == "grepq-ll-8690ed2c"


@pytest.mark.parametrize("weights", ["", " ", None, 5])
def test_no_weights_are_not_the_default_ones(weights):
    with pytest.raises(ValueError, match="expected the name, folder or Hub repository of weights"):
        GRepQ.from_pretrained(weights)


def test_a_damaged_pickle_is_one_error_and_no_advice_to_run_it(tmp_path):
    from grepq_metric.weights import read_tensors

    torch.save({"a": torch.zeros(64)}, tmp_path / "a.pt")
    whole = bytearray((tmp_path / "a.pt").read_bytes())
    for at in range(0, len(whole), 29):
        damaged = whole.copy()
        damaged[at] ^= 0x5A
        (tmp_path / "b.pt").write_bytes(damaged)
        with contextlib.suppress(WeightsError):
            read_tensors(tmp_path / "b.pt")
    (tmp_path / "b.pt").write_bytes(whole[:300])
    with pytest.raises(WeightsError) as caught:
        read_tensors(tmp_path / "b.pt")
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("replaced", [0, 1, 2])
def test_weights_that_were_being_replaced_by_a_process_that_was_killed_are_no_mixture(folder, monkeypatch, replaced):
    class Killed(BaseException):
        pass

    done, replace = [], os.replace

    def replace_some(source, target):
        if len(done) == replaced:
            raise Killed
        done.append(target)
        replace(source, target)

    new = GRepQ.from_pretrained(folder, distance_scale=50.0)
    monkeypatch.setattr("grepq_metric.files.os.replace", replace_some)
    with pytest.raises(Killed):
        new.save_pretrained(folder)
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError, match=r"no (config\.json|model\.safetensors) in .*weights"):
        GRepQ.from_pretrained(folder)
    new.save_pretrained(folder)
    assert GRepQ.from_pretrained(folder).weights_id == new.weights_id
