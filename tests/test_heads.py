"""Promises of `GRepQRegressor`: one head for files, images and features, intervals that hold, bad labels explained."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import BayesianRidge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from grepq_metric import GRepQ, GRepQRegressor, read_image
from grepq_metric.errors import InputError
from grepq_metric.heads.evaluation import held_out
from grepq_metric.heads.features import photo_features
from grepq_metric.heads.regressor import kind_for
from grepq_metric.heads.ridge import RidgeHead
from grepq_metric.heads.selection import suggest


@pytest.fixture(scope="module")
def packaged():
    return GRepQ.from_pretrained("grepq-ll").requires_grad_(False)


@pytest.fixture
def data():
    """Features, as many as those of patches with the score, and scores that depend on a few of them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 257)) * rng.uniform(0.1, 5, 257) + 3
    return x, 50 + 4 * (x[:, :4] - 3).sum(1) + rng.normal(size=80)


@pytest.fixture(scope="module")
def rated(photo_folder):
    """Six photos and scores."""
    paths = sorted(photo_folder.iterdir())
    return paths, np.arange(len(paths)) / 7


@pytest.mark.slow
def test_intervals_cover_real_opinion_scores(shared_data, packaged):
    with (shared_data / "biq2021_dev" / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))[:180]
    x, problems = photo_features(packaged, [shared_data / "biq2021_dev" / row["image"] for row in rows], "image")
    assert not problems
    mos, covered = np.array([float(row["mos"]) for row in rows]), []
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(rows))
        known, fresh = order[:60], order[60:]
        low, high = (
            GRepQRegressor(packaged, features="image", kind="ridge").fit(x[known], mos[known]).predict_interval(x[fresh]).T
        )
        covered.append(((low <= mos[fresh]) & (mos[fresh] <= high)).mean())
    assert 0.85 <= np.mean(covered) <= 0.97


@pytest.mark.parametrize("kind", ["monotone", "shrunk", "ridge"])
def test_paths_images_and_features_give_the_same(rated, packaged, kind, tmp_path):
    paths, mos = rated
    images = [read_image(path) for path in paths]
    whole = {"monotone": "score", "shrunk": "score+image", "ridge": "image"}[kind]
    features = torch.cat([packaged.features(image[None], whole) for image in images])
    heads = [GRepQRegressor(packaged, None, "image", kind, tmp_path).fit(given, mos) for given in (paths, images, features)]
    predicted = [head.predict(given) for head, given in zip(heads, (paths, images, features), strict=True)]
    assert predicted[1] == pytest.approx(predicted[0], abs=1e-5)
    assert predicted[2] == pytest.approx(predicted[0], abs=1e-5)
    assert heads[0].predict(images[0][None]) == pytest.approx(predicted[0][:1], abs=1e-5)


def test_mos_is_the_prediction_with_gradients(rated, packaged, tmp_path):
    paths, mos = rated
    head = GRepQRegressor(packaged, cache=tmp_path).fit(paths, mos)
    x = read_image(paths[0])[None].requires_grad_()
    value = head.mos(x)
    assert value.shape == (1, 1)
    assert value.item() == pytest.approx(head.predict(paths[:1])[0], abs=1e-4)
    value.sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.abs().max() > 0


def test_paths_come_in_any_container(rated, packaged, tmp_path):
    pd = pytest.importorskip("pandas")
    paths, mos = rated
    expected = GRepQRegressor(packaged, kind="ridge", cache=tmp_path).fit(paths, mos).predict(paths)
    names = [str(path) for path in paths]
    series = pd.Series(names, index=range(7, 13))
    for given in (names, tuple(names), np.array(names), np.array(paths, object), series, series.astype(object)):
        head = GRepQRegressor(packaged, kind="ridge", cache=tmp_path).fit(given, pd.Series(mos))
        assert head.predict(given) == pytest.approx(expected, rel=1e-12)
        assert head.predict_interval(given, 0.5).shape == (6, 2)
        assert head.score(given, mos) > 0.9


def test_names_of_features_are_compared_as_scikit_learn_does(data):
    pd = pytest.importorskip("pandas")
    x, y = data
    frame = pd.DataFrame(x, columns=[f"f{i}" for i in range(257)])
    head = GRepQRegressor(None).fit(frame, y)
    assert list(head.feature_names_in_) == list(frame.columns)
    assert head.predict(frame) == pytest.approx(GRepQRegressor(None).fit(x, y).predict(x), rel=1e-12)
    with pytest.raises(ValueError, match="feature names should match"):
        head.predict(frame[frame.columns[::-1]])
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        head.predict(x)
    rows = GRepQRegressor(None).fit(x.tolist(), y)
    assert rows.predict(x.tolist()) == pytest.approx(head.predict(frame), rel=1e-12)
    assert not hasattr(rows, "feature_names_in_")


@pytest.mark.parametrize("scale", ["[-1, 1]", "[0, 255]"])
def test_images_of_another_scale_are_refused_with_the_likely_one(rated, packaged, scale, tmp_path):
    paths, mos = rated
    images = [read_image(path)[:, :96, :96] for path in paths]
    wrong = [image * 2 - 1 if scale == "[-1, 1]" else image * 255 for image in images]
    fitted = GRepQRegressor(packaged, cache=tmp_path).fit(paths, mos)
    for use in (
        lambda: GRepQRegressor(packaged).fit(wrong, mos),
        lambda: fitted.predict(torch.stack(wrong)),
        lambda: fitted.predict_interval(torch.stack(wrong), 0.5),
        lambda: fitted.score(wrong, mos),
        lambda: fitted.mos(torch.stack(wrong)),
    ):
        with pytest.raises(InputError, match=f"they look like {scale}".replace("[", r"\[")):
            use()


def test_the_features_are_the_better_kind_unless_one_is_asked_for(packaged, model, rated, tmp_path):
    paths, mos = rated
    assert GRepQRegressor(packaged, kind="ridge", cache=tmp_path).fit(paths, mos).features_ == "patches"
    paper = GRepQRegressor(packaged, features="image", kind="ridge", cache=tmp_path).fit(paths, mos)
    assert (paper.features_, paper.n_features_in_) == ("image", 128)
    alone = GRepQ(pathways=["high"])
    alone.high.load_state_dict(model.high.state_dict())
    images = torch.rand(5, 3, 96, 96)
    assert GRepQRegressor(alone, kind="ridge").fit(images, mos[:5]).features_ == "clip"
    assert GRepQRegressor(model, kind="ridge").fit(images, mos[:5]).n_features_in_ == 1024 + 256


def test_the_kind_of_head_follows_from_the_number_of_labels(packaged, data):
    x, y = data
    few = GRepQRegressor(packaged).fit(x[:29, :1], y[:29])
    assert (few.kind_, few.features_, few.n_features_in_) == ("monotone", "score", 1)
    assert [kind_for(n, packaged) for n in (5, 799, 800)] == ["monotone", "monotone", "shrunk"]
    semantic = GRepQ.from_pretrained("grepq-sem")
    assert [kind_for(n, semantic) for n in (5, 49, 50, 1000)] == ["monotone", "monotone", "shrunk", "shrunk"]
    x, y = (np.concatenate([part] * 20)[:800] for part in (x, y))
    more = GRepQRegressor(packaged).fit(x, y)
    assert (more.kind_, more.features_, more.n_features_in_) == ("shrunk", "score+patches", 257)
    assert (more.head_.blocks, more.head_.scored) == ((256,), True)
    assert GRepQRegressor(None).fit(x, y).kind_ == "ridge"


def test_a_monotone_head_keeps_the_order_of_the_score(packaged, photo_folder):
    paths = sorted(photo_folder.iterdir())
    scores = packaged.features(torch.rand(1, 3, 96, 96), "score")
    assert scores.shape == (1, 1)
    zero_shot = [packaged(read_image(path)[None]).item() for path in paths]
    for mos in (np.arange(6.0), -np.arange(6.0)):
        predicted = GRepQRegressor(packaged, kind="monotone").fit(paths, mos).predict(paths)
        assert (np.argsort(predicted) == np.argsort(zero_shot)).all()


def test_it_can_be_fitted_again_and_to_other_features(data, tmp_path):
    x, y = data
    regressor = GRepQRegressor(None).fit(x, y)
    assert regressor.fit(x[:, :20], y).n_features_in_ == 20
    assert (regressor.features_, regressor.weights_id_) == (None, None)
    with pytest.raises(InputError, match="a head of no model can't be saved"):
        regressor.save(tmp_path / "head.safetensors")
    with pytest.raises(InputError, match=r"without a model, expected features \(N, C\)"):
        regressor.predict(["photo.jpg"])
    with pytest.raises(InputError, match="without a model"):
        regressor.mos(torch.rand(1, 3, 96, 96))


def test_weights_of_labels_count_in_proportion(data):
    x, y = data
    raters = np.random.default_rng(1).integers(3, 30, 80)
    expected = RidgeHead().fit(x, y, raters / raters.mean()).predict(x)
    assert GRepQRegressor(None).fit(x, y, raters).predict(x) == pytest.approx(expected, rel=1e-12)
    assert GRepQRegressor(None).fit(x, y, 100 * raters).predict(x) == pytest.approx(expected, rel=1e-9)


def test_it_is_an_estimator_of_scikit_learn(data):
    regressor = GRepQRegressor("grepq-ll", RidgeHead(alpha=3))
    copy = clone(regressor)
    assert copy.get_params(deep=False).keys() == {"model", "head", "features", "kind", "cache"}
    assert copy.get_params()["head__alpha"] == 3
    assert copy.head is not regressor.head
    x, y = data[0][:, :256], data[1]  # a head that is given is fitted to the features without the score
    copy.fit(x, y)
    assert copy.head_.alpha_ == 3
    assert not hasattr(copy.head, "alpha_")
    assert copy.score(x, y) > 0.6
    assert copy.weights_id_ == GRepQ.from_pretrained("grepq-ll").weights_id
    assert (copy.n_labels_, copy.n_features_in_) == (80, 256)
    assert copy.label_range_ == (data[1].min(), data[1].max())
    defaults = {"head": None, "features": None, "kind": "auto", "cache": None}
    assert clone(GRepQRegressor(None)).get_params() == {"model": None, **defaults}


def test_copies_share_the_model(packaged):
    assert clone(GRepQRegressor(packaged)).model is packaged


def test_settings_of_the_head_can_be_searched(rated, packaged, data, tmp_path):
    paths, mos = rated
    pipeline = Pipeline([("mos", GRepQRegressor(packaged, RidgeHead(), cache=tmp_path))])
    search = GridSearchCV(pipeline, {"mos__head__alpha": [1.0, 100.0]}, cv=2, error_score="raise")
    with pytest.raises(InputError, match="at least 5 labels, got 3"):
        search.fit(paths, mos)
    twice = [*paths, *paths]
    search.fit(twice, [*mos, *(mos + 0.1)])
    assert search.best_params_["mos__head__alpha"] in (1.0, 100.0)
    assert search.predict(paths).shape == (6,)
    x, y = data
    found = GridSearchCV(GRepQRegressor(None, RidgeHead()), {"head__alpha": [0.3, 1e9]}).fit(x, y)
    assert found.best_params_ == {"head__alpha": 0.3}


def test_any_regressor_can_be_a_head_and_what_it_lacks_is_said(data, packaged, tmp_path):
    x, y = data
    x = x[:, :256]
    regressor = GRepQRegressor(packaged, BayesianRidge()).fit(x, y)
    assert regressor.score(x, y) > 0.9
    for use in (
        lambda: regressor.predict_interval(x),
        lambda: regressor.mos(torch.rand(1, 3, 96, 96)),
        lambda: regressor.save(tmp_path / "head.safetensors"),
    ):
        with pytest.raises(InputError, match=r"a head of BayesianRidge .*, a RidgeHead"):
            use()


@pytest.mark.parametrize("use", ["predict", "predict_interval", "mos", "save", "score"])
def test_what_is_not_fitted_says_so_first(use):
    from sklearn.exceptions import NotFittedError

    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(GRepQRegressor(None), use)(*([None, None] if use == "score" else [None]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:4], y[:4]), "at least 5 labels, got 4"),
        (lambda x, y: (x, np.full(80, 3.5)), "all 80 MOS are 3.5"),
        (lambda x, y: (x, np.where(np.arange(80) == 7, np.nan, y)), r"finite MOS values up to 1e\+100, got nan at position 7"),
        (lambda x, y: (x, np.where(np.arange(80) == 7, 1e308, y)), r"up to 1e\+100, got 1e\+308 at position 7"),
        (lambda x, y: (np.where(x == x[3, 3], np.inf, x), y), "NaN or infinity in 1 row"),
        (lambda x, y: (x, y[:79]), "got 80 images and 79 MOS"),
        (lambda x, y: (x, y[:, None]), r"one MOS for each image, got an array \(80, 1\)"),
        (lambda x, y: (x, ["good"] * 80), "expected numbers as MOS"),
        (lambda x, y: (x, y, -np.ones(80)), "positive weight"),
        (lambda x, y: (x, y, np.ones(3)), "positive weight for each of 80 labels, got 3"),
        (lambda x, y: (np.zeros((80, 3, 2)), y), r"expected paths, images .* got ndarray \(80, 3, 2\)"),
        (lambda x, y: (torch.zeros(80, 3, 2), y), r"expected paths, images .* got Tensor \(80, 3, 2\)"),
        (lambda x, y: ([*x[:79].tolist(), [1.0]], y), "80 rows that differ in length"),
        (lambda x, y: (x.astype(str), y), r"features \(N, C\) of numbers"),
        (lambda x, y: ((path for path in "ab"), y), "expected a list of photos or a matrix of features, got generator"),
        (lambda x, y: (x[:, :128], y), r"expected the 257 features 'score\+patches' of grepq-ll-.*, got 128"),
        (lambda x, y: (["absent.png"] * 80, y), "80 of 80 photos can't be used: no such file: absent.png"),
    ],
)
def test_bad_labels_are_explained(data, packaged, change, message):
    with pytest.raises(InputError, match=message):
        GRepQRegressor(packaged, kind="shrunk").fit(*change(*data))


def test_bad_settings_are_explained(data, packaged):
    x, y = data
    with pytest.raises(InputError, match=r'alpha must be "cv" or a positive number, got -1'):
        GRepQRegressor(packaged, RidgeHead(alpha=-1)).fit(x[:, :256], y)
    with pytest.raises(InputError, match="unknown kind of features 'whole', expected some of score, clip"):
        GRepQRegressor(packaged, features="whole").fit(x, y)
    with pytest.raises(InputError, match="beside the score, which the kind of the head decides on, got 'score'"):
        GRepQRegressor(packaged, features="score").fit(x, y)
    with pytest.raises(InputError, match="kind must be one of auto, monotone, shrunk, ridge, got 'forest'"):
        GRepQRegressor(packaged, kind="forest").fit(x, y)
    with pytest.raises(InputError, match="'shrunk' needs the zero-shot score, which there is not without a model"):
        GRepQRegressor(None, kind="shrunk").fit(x, y)
    with pytest.raises(InputError, match="kind 'ridge' is of the default head: give it or a head, not both"):
        GRepQRegressor(packaged, RidgeHead(), kind="ridge").fit(x, y)
    with pytest.raises(ValueError, match="X has 5 features, but RidgeHead is expecting 257"):
        GRepQRegressor(packaged, kind="shrunk").fit(x, y).predict(np.zeros((2, 5)))
    with pytest.raises(InputError, match="a rank correlation has no sample weights"):
        GRepQRegressor(None).fit(x, y).score(x, y, sample_weight=np.ones(80))


def test_features_of_patches_are_mean_and_deviation(model, photos):
    x = photos["cat"]
    z = model.low.patch_features(x).flatten(1, 2)[0]
    expected = torch.cat([model.high(x)[0], z.mean(0), z.std(0, correction=0)])
    assert model.features(x, "patches")[0] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert model.features(x).shape == (1, 1024 + 256)
    assert model.features(x, "image").shape == (1, 1152)
    single = photos["cat"][..., :96, :96].clone().requires_grad_()
    model.features(single, "patches").sum().backward()
    assert single.grad.isfinite().all()
    with pytest.raises(InputError, match="unknown kind of features 'all', expected some of score, clip"):
        model.features(x, "all")
    with pytest.raises(InputError, match="grepq has no low-level pathway, and so no features 'patches'"):
        GRepQ(pathways=["high"]).features(x, "patches")
    with pytest.raises(InputError, match="no semantic pathway, and so no features 'semantic'"):
        model.features(x, "semantic+image")


def test_joined_kinds_have_one_order_and_blocks(photos):
    x, lite = photos["cat"], GRepQ.from_pretrained("grepq-lite")
    assert lite.feature_kind() == "semantic+patches"
    assert lite.feature_kind("image+semantic+score") == "score+semantic+image"
    joined = lite.features(x, "image+score+semantic")[0]
    parts = [lite(x)[0], lite.features(x, "semantic")[0], lite.features(x, "image")[0]]
    assert torch.allclose(joined, torch.cat(parts), atol=1e-6)
    blocks = lite.feature_blocks("score+semantic+image")
    assert (blocks[0], sum(blocks[1:-1]), blocks[-1]) == (1, 1120, 128)
    assert len(blocks) == 7


def test_held_out_estimates_are_of_photos_that_were_not_fitted():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 20))
    nothing = held_out(RidgeHead(), x, rng.normal(size=120)).table["SRCC"]
    assert nothing.low < 0 < nothing.high
    found = held_out(RidgeHead(), x, x[:, 0] + 0.5 * rng.normal(size=120), np.ones(120))
    srcc, low, high = found.table["SRCC"]
    assert 0.7 < low < srcc < high < 0.98
    assert found.table["RMSE"].value == pytest.approx(0.55, abs=0.1)
    assert found.predicted.shape == (120,)
    with pytest.raises(InputError, match="got 120 and 120 for 3"):
        held_out(RidgeHead(), x[:3], np.ones(120))


def test_suggested_photos_are_typical_of_different_clusters():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(centre, 0.1, size=(30, 2)) for centre in ((0, 0), (0, 9), (9, 0), (9, 9))])
    assert sorted(i // 30 for i in suggest(x, 4)) == [0, 1, 2, 3]
    assert len(set(suggest(x, 120))) == 120
    with pytest.raises(InputError, match="from 1 to the number of photos, 120, got 121"):
        suggest(x, 121)
    with pytest.raises(InputError, match="finite features"):
        suggest(np.full((3, 2), np.nan), 1)


def test_the_facts_of_a_head_need_neither_torch_nor_scikit_learn():
    code = "import sys, grepq_metric.heads as h; h.describe; print({'torch', 'sklearn'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[1].glob("grepq_metric/heads/*.py")), ids=lambda path: path.stem)
def test_examples_of_heads_run(path):
    import doctest
    import importlib

    name = "grepq_metric.heads" if path.stem == "__init__" else f"grepq_metric.heads.{path.stem}"
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_one_path_is_no_list_of_photos(photo_folder):
    regressor = GRepQRegressor("grepq-ll").fit([str(path) for path in sorted(photo_folder.iterdir())], [1, 2, 3, 4, 5, 6])
    for path in (str(photo_folder / "cat.png"), photo_folder / "cat.png"):
        with pytest.raises(ValueError, match=r"expected a list of photos, got one path: \[.*cat\.png"):
            regressor.predict(path)
