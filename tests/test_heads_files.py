"""Promises of files: a head fits only its own weights, damage is named, a cache stays in its folder and mends itself."""

import errno
import pickle
from pathlib import Path

import numpy as np
import pyiqa
import pytest
import torch
from safetensors.torch import load_file, save_file

from grepq_metric import GRepQ, GRepQRegressor, WeightsError, catalog
from grepq_metric.errors import InputError
from grepq_metric.heads import describe, headfile
from grepq_metric.heads.features import folder_name, photo_features
from grepq_metric.heads.ridge import RidgeHead


@pytest.fixture(scope="module")
def packaged():
    return GRepQ.from_pretrained("grepq-ll").requires_grad_(False)


@pytest.fixture(scope="module")
def fitted(packaged):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 256))
    return GRepQRegressor(packaged, kind="ridge").fit(x, 3 + x[:, 0]), x


@pytest.fixture
def head(fitted, tmp_path):
    path = tmp_path / "head.safetensors"
    fitted[0].save(path)
    return path


@pytest.fixture
def full_disk(monkeypatch):
    """A disk with room for the first half of a file."""
    write = Path.write_bytes

    def write_half(self, data):
        write(self, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)


def test_a_head_that_was_saved_predicts_the_same(head, fitted):
    regressor, x = fitted
    loaded = GRepQRegressor.load(head)
    assert loaded.predict(x) == pytest.approx(regressor.predict(x), rel=1e-12)
    assert loaded.predict_interval(x, 0.9) == pytest.approx(regressor.predict_interval(x, 0.9), rel=1e-12)
    for name in ("kind_", "features_", "label_range_", "n_labels_", "weights_id_", "fitted_", "n_features_in_"):
        assert getattr(loaded, name) == getattr(regressor, name)
    assert loaded.head_.alpha_ == regressor.head_.alpha_
    loaded.save(head)
    assert GRepQRegressor.load(head).predict(x) == pytest.approx(regressor.predict(x), rel=1e-12)


def test_a_head_fits_only_its_own_weights(head, packaged, model):
    with pytest.raises(WeightsError, match=f"{packaged.weights_id}, .*{model.weights_id}"):
        GRepQRegressor.load(head, model)


def test_a_head_is_described_without_a_model(head, fitted, packaged):
    regressor = fitted[0]
    assert describe(head) == {
        "head": "ridge",
        "weights_id": packaged.weights_id,
        "features": "patches",
        "labels": 20,
        "mos_min": regressor.label_range_[0],
        "mos_max": regressor.label_range_[1],
        "alpha": regressor.head_.alpha_,
        "date": regressor.fitted_,
    }


def test_pyiqa_predicts_what_the_head_does(head, photos):
    metric = pyiqa.create_metric("grepq-mos", head=head, device="cpu")
    assert metric(photos["cat"]).item() == pytest.approx(GRepQRegressor.load(head).mos(photos["cat"]).item(), rel=1e-6)


def test_both_pathways_predict_together(model, photo_folder, tmp_path):
    paths = sorted(photo_folder.iterdir())
    regressor = GRepQRegressor(model, features="image", kind="ridge").fit(paths, range(len(paths)))
    assert regressor.n_features_in_ == 1152
    regressor.save(tmp_path / "head.safetensors")
    loaded = GRepQRegressor.load(tmp_path / "head.safetensors", model)
    assert loaded.predict(paths) == pytest.approx(regressor.predict(paths))


def test_what_is_no_head_is_named(head, tmp_path):
    with pytest.raises(FileNotFoundError, match="no head at"):
        GRepQRegressor.load(tmp_path / "absent.safetensors")
    cut, other = tmp_path / "cut.safetensors", tmp_path / "other.safetensors"
    cut.write_bytes(head.read_bytes()[:300])
    save_file({"x": torch.zeros(1)}, other)
    for read in (GRepQRegressor.load, describe):
        with pytest.raises(WeightsError, match="damaged or no head"):
            read(cut)
        with pytest.raises(WeightsError, match="damaged or no head"):
            read(tmp_path)
        with pytest.raises(WeightsError, match="is no head: its format is None"):
            read(other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("coef"), "lacks 'coef'"),
        (lambda t: t.pop("influence"), "lacks 'influence'"),
        (lambda t: t.update(influence=t["influence"].double()), "'influence' is F64, expected F32"),
        (lambda t: t.update(coef=t["coef"].bfloat16()), "'coef' is BF16, expected F64"),
        (lambda t: t.update(scale=t["scale"].float()), "'scale' is F32, expected F64"),
        (lambda t: t.update(mean=t["mean"] * float("nan")), "'mean' holds values that are not finite"),
        (lambda t: t.update(residuals=t["residuals"] / 0), "'residuals' holds values that are not finite"),
        (lambda t: t.update(scale=t["scale"] * 0), "'scale' holds 0, expected positive values"),
        (lambda t: t.update(mean=t["mean"][:5]), r"'mean' has the shape \(5,\), expected \(256,\)"),
        (lambda t: t.update(coef=t["coef"][None]), r"'coef' has the shape \(1, 256\), expected \(256,\)"),
        (lambda t: t.update(intercept=t["intercept"][0]), r"'intercept' has the shape \(\)"),
        (lambda t: t.update(influence=t["influence"][:, 1:]), r"'influence' has the shape \(20, 256\), expected \(20, 257\)"),
        (lambda t: t.update({k: t[k][:0] for k in ("coef", "mean", "scale")}), "of positive numbers"),
        (
            lambda t: t.update({k: t[k][:128] for k in ("coef", "mean", "scale")}, influence=t["influence"][:, :129]),
            "is for 128 features, expected 256",
        ),
        (
            lambda t: t.update(residuals=t["residuals"].tile(2), influence=t["influence"].tile(2, 1)),
            "40 residuals of 20 labels",
        ),
    ],
)
def test_damaged_arrays_of_a_head_are_named(head, change, message):
    tensors = load_file(head)
    facts = {"format": headfile.FORMAT} | {key: str(value) for key, value in describe(head).items()}
    change(tensors)
    save_file({key: value.contiguous() for key, value in tensors.items()}, head, facts)
    with pytest.raises(WeightsError, match=message):
        GRepQRegressor.load(head)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("labels", None, "lacks 'labels'"),
        ("labels", "many", "its 'labels' is 'many'"),
        ("labels", "0", "its 'labels' is '0'"),
        ("alpha", "1e999", "its 'alpha' is '1e999'"),
        ("alpha", "-1", "its 'alpha' is '-1'"),
        ("mos_min", "nan", "its 'mos_min' is 'nan'"),
        ("weights_id", "\x1b[2Jx", r"its 'weights_id' is '\\x1b\[2Jx'"),
        ("date", "yesterday", "its 'date' is 'yesterday'"),
    ],
)
def test_damaged_facts_of_a_head_are_named(head, name, value, message):
    facts = {"format": headfile.FORMAT} | {key: str(fact) for key, fact in describe(head).items()}
    facts.pop(name)
    if value is not None:
        facts[name] = value
    save_file(load_file(head), head, facts)
    for read in (GRepQRegressor.load, describe):
        with pytest.raises(WeightsError, match=message):
            read(head)


@pytest.mark.parametrize(("name", "value"), [("head", "forest"), ("features", "all")])
def test_a_head_of_another_kind_is_described_but_not_used(head, name, value):
    facts = {"format": headfile.FORMAT} | {key: str(fact) for key, fact in describe(head).items()} | {name: value}
    save_file(load_file(head), head, facts)
    assert describe(head)[name] == value
    with pytest.raises(WeightsError, match=f"'{value}'.* unknown here"):
        GRepQRegressor.load(head)


@pytest.mark.parametrize(("kind", "features"), [("monotone", "score"), ("shrunk", "score+patches"), ("ridge", "patches")])
def test_every_kind_of_head_is_saved_and_names_its_weights(packaged, photos, tmp_path, kind, features):
    rng = np.random.default_rng(0)
    path, width = tmp_path / "head.safetensors", sum(packaged.feature_blocks(features))
    x = rng.normal(size=(40, width))
    regressor = GRepQRegressor(packaged, kind=kind).fit(x, 3 + x[:, 0])
    regressor.save(path)
    loaded = GRepQRegressor.load(path)
    assert (describe(path)["head"], describe(path)["features"]) == (kind, features)
    assert (loaded.kind_, loaded.features_, loaded.weights_id_) == (kind, features, packaged.weights_id)
    assert loaded.predict_interval(x) == pytest.approx(regressor.predict_interval(x), rel=1e-9)
    assert loaded.mos(photos["cat"]).item() == pytest.approx(regressor.predict([photos["cat"][0]])[0], rel=1e-4)


def test_a_head_of_weights_that_are_not_built_in_asks_for_them(head):
    facts = {"format": headfile.FORMAT} | {key: str(fact) for key, fact in describe(head).items()}
    save_file(load_file(head), head, facts | {"weights_id": "mine-01234567"})
    with pytest.raises(WeightsError, match="features of mine-01234567, which are not built in: name their folder"):
        GRepQRegressor.load(head)


def test_a_head_of_a_thousand_labels_is_a_small_file(tmp_path):
    rng = np.random.default_rng(0)
    model = GRepQ.from_pretrained("grepq-sem")
    x = rng.normal(size=(1000, 1121))
    GRepQRegressor(model, kind="shrunk").fit(x, x[:, 0]).save(tmp_path / "head.safetensors")
    assert (tmp_path / "head.safetensors").stat().st_size < 50_000


@pytest.mark.parametrize("entry", catalog.HEADS, ids=lambda entry: entry.name)
def test_heads_of_the_package_fit_its_weights(entry, photos):
    regressor = GRepQRegressor.load(entry.name)
    facts = describe(entry.name)
    assert regressor.weights_id_ == facts["weights_id"] == GRepQ.from_pretrained(entry.metric).weights_id
    assert headfile.find(entry.name).stat().st_size < 100_000
    assert headfile.find(entry.name).with_suffix(".md").exists()
    metric = pyiqa.create_metric("grepq-mos", head=entry.name, device="cpu")
    good, bad = photos["coffee"], torch.nn.functional.avg_pool2d(photos["coffee"], 9, 1, 4)
    assert metric(good).item() == pytest.approx(regressor.mos(good).item(), rel=1e-6)
    assert facts["mos_min"] <= metric(bad).item() < metric(good).item() <= facts["mos_max"]
    low, high = regressor.predict_interval([good[0]], 0.9)[0]
    assert low < metric(good).item() < high


def test_a_head_that_does_not_fit_on_the_disk_leaves_nothing_and_keeps_the_last_one(head, fitted, full_disk):
    before = head.read_bytes()
    with pytest.raises(OSError, match=r"cannot write .*head\.safetensors: No space left on device; free some space"):
        fitted[0].save(head)
    assert head.read_bytes() == before
    assert [path.name for path in head.parent.iterdir()] == ["head.safetensors"]


def test_a_head_without_a_folder_is_refused(fitted, tmp_path):
    with pytest.raises(OSError, match="cannot write"):
        fitted[0].save(tmp_path / "absent" / "head.safetensors")


def test_arrays_make_the_same_head(fitted):
    head = fitted[0].head_
    copy = RidgeHead.from_arrays(head.arrays(), head.alpha_)
    assert copy.predict(fitted[1]) == pytest.approx(head.predict(fitted[1]), rel=1e-12)
    with pytest.raises(InputError, match="lacks 'coef', 'influence', 'intercept'"):
        RidgeHead.from_arrays({}, 1.0)


def test_features_are_kept_by_content_and_weights(packaged, model, photo_folder, tmp_path, monkeypatch):
    paths = [photo_folder / "cat.png", photo_folder / "rocket.png", tmp_path / "broken.png", tmp_path / "same.png"]
    paths[2].write_bytes(b"no photo")
    paths[3].write_bytes(paths[0].read_bytes())
    cache = tmp_path / "cache"
    x, problems = photo_features(packaged, paths, "image", cache)
    assert list(problems) == [2]
    assert "broken.png" in problems[2]
    assert np.isnan(x[2]).all()
    assert (x[0] == x[3]).all()
    assert len(list(cache.rglob("*.npy"))) == 2
    with monkeypatch.context() as patch:
        patch.setattr("grepq_metric.heads.features.decode_image", None)  # what is kept is not decoded
        assert (photo_features(packaged, paths[:2], "image", cache)[0] == x[:2]).all()
    assert photo_features(model, paths[:2], "image", cache)[0].shape == (2, 1152)
    assert photo_features(packaged, paths[:2], cache=cache)[0].shape == (2, 256)
    assert photo_features(packaged, [], cache=cache)[0].shape == (0, 256)
    assert photo_features(packaged, ["absent.png"], cache=cache)[0].shape == (1, 256)


DAMAGE = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:50]),
    "empty": lambda path: path.write_bytes(b""),
    "shape": lambda path: np.save(path, np.zeros((2, 64), np.float32)),
    "length": lambda path: np.save(path, np.zeros(5, np.float32)),
    "type": lambda path: np.save(path, np.zeros(128, np.float64)),
    "NaN": lambda path: np.save(path, np.full(128, np.nan, np.float32)),
    "objects": lambda path: np.save(path, np.array([{}] * 128, object), allow_pickle=True),
    "pickle": lambda path: path.write_bytes(pickle.dumps(np.zeros(128, np.float32))),
    "archive": lambda path: np.savez(path.open("wb"), np.zeros(128, np.float32)),
    "zip": lambda path: path.write_bytes(b"PK\x03\x04"),
    "folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_in_the_cache_is_made_anew(packaged, photo_folder, tmp_path, damage):
    x, _ = photo_features(packaged, [photo_folder / "stereo.png"], "image", tmp_path)
    (kept,) = tmp_path.rglob("*.npy")
    DAMAGE[damage](kept)
    if damage == "folder":  # which can't be replaced by a file
        with pytest.raises(OSError, match=f"cannot write .*{kept.name}"):
            photo_features(packaged, [photo_folder / "stereo.png"], "image", tmp_path)
        return
    again, problems = photo_features(packaged, [photo_folder / "stereo.png"], "image", tmp_path)
    assert not problems
    assert (again == x).all()
    assert (np.load(kept) == x[0]).all()


def test_a_full_disk_leaves_no_part_of_a_file_in_the_cache(packaged, photo_folder, tmp_path, full_disk):
    with pytest.raises(OSError, match=r"cannot write .*\.npy: No space left on device; free some space"):
        photo_features(packaged, [photo_folder / "stereo.png"], "image", tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_cache_that_is_a_file_is_named(packaged, photo_folder, tmp_path):
    (tmp_path / "cache").write_bytes(b"")
    with pytest.raises(OSError, match=r"cannot write .*cache"):
        photo_features(packaged, [photo_folder / "stereo.png"], "image", tmp_path / "cache")


@pytest.mark.parametrize("name", ["../../outside", "/outside", "..", "a\\..\\b", "a\nb", "\x1b[2J", "é" * 300])
def test_features_stay_in_the_cache_whatever_the_weights_are_called(photo_folder, tmp_path, monkeypatch, name):
    model = GRepQ.from_pretrained("grepq-ll").requires_grad_(False)
    monkeypatch.setattr(GRepQ, "weights_id", property(lambda self: f"{name}-8690ed2c"))  # a name that loading would refuse
    cache = tmp_path / "a" / "b" / "cache"
    photo_features(model, [photo_folder / "stereo.png"], "image", cache)
    (kept,) = tmp_path.rglob("*.npy")
    assert kept.parents[2] == cache
    assert kept.resolve().is_relative_to(cache.resolve())


def test_folders_of_weights_have_their_id_as_the_name_and_others_differ(packaged):
    assert folder_name(packaged.weights_id) == packaged.weights_id
    names = ["a/b", "a_b", "a\\b", "..", ".", "", "...x", "x"]
    assert len({folder_name(name) for name in names}) == len(names)
    assert all(folder_name(name) not in ("", ".", "..") for name in names)


def test_features_that_are_not_finite_are_a_problem_and_are_not_kept(photo_folder, tmp_path):
    model = GRepQ.from_pretrained("grepq-ll").requires_grad_(False)
    next(iter(model.low.encoder.parameters())).fill_(float("nan"))
    x, problems = photo_features(model, [photo_folder / "stereo.png"], "image", tmp_path)
    assert "the features of" in problems[0]
    assert np.isnan(x).all()
    assert not list(tmp_path.rglob("*.npy"))
