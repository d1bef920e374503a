"""Promises of heads: the paper's regression, honest intervals, files that fit only their own weights, `grepq fit`."""

import csv
import json

import numpy as np
import pyiqa
import pytest
import torch
from safetensors.torch import save_file
from sklearn.base import clone
from sklearn.linear_model import Ridge

from grepq_metric import GRepQ, GRepQRegressor, WeightsError, read_image
from grepq_metric.heads.features import photo_features
from grepq_metric.heads.regressor import ALPHAS, held_out, suggest
from tests.command import grepq


@pytest.fixture(scope="module")
def packaged():
    return GRepQ.from_pretrained("grepq-ll").requires_grad_(False)


@pytest.fixture
def data():
    """Features and scores that depend on a few of them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 128)) * rng.uniform(0.1, 5, 128) + 3
    return x, 50 + 4 * (x[:, :4] - 3).sum(1) + rng.normal(size=80)


@pytest.fixture(scope="module")
def labels(photo_folder, tmp_path_factory):
    """A CSV file of the test photos with made-up scores, two levels up from them."""
    path = tmp_path_factory.mktemp("labels") / "scores.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "opinion", "raters"])
        for i, photo in enumerate(sorted(photo_folder.iterdir())):
            writer.writerow([photo.name, 20 + 10 * i, 5 + i])
    return path


def arguments(labels, photo_folder):
    return [labels, "--image-column", "file", "--mos-column", "opinion", "--root", photo_folder]


def reference(x, y, w, alpha):
    """Ridge on standardised features, by the normal equations."""
    w = w / w.mean()
    mean = (w[:, None] * x).sum(0) / w.sum()
    scale = np.sqrt((w[:, None] * (x - mean) ** 2).sum(0) / w.sum())
    z, offset = (x - mean) / scale, (w * y).sum() / w.sum()
    beta = np.linalg.solve(z.T @ (w[:, None] * z) + alpha * np.eye(z.shape[1]), z.T @ (w * (y - offset)))
    return lambda new: (new - mean) / scale @ beta + offset


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("count", [10, 80])
def test_it_is_the_papers_ridge_regression(data, packaged, weighted, count):
    x, y = data[0][:count], data[1][:count]
    w = np.random.default_rng(1).integers(3, 30, count).astype(float) if weighted else None
    regressor = GRepQRegressor(packaged).fit(x, y, w)
    errors = {}
    for alpha in ALPHAS:
        # The standardisation is that of all labels, as in the closed form.
        z = (x - regressor.mean_) / regressor.scale_
        weights = np.ones(count) if w is None else w / w.mean()
        left = []
        for i in range(count):
            others = np.arange(count) != i
            left.append(Ridge(alpha).fit(z[others], y[others], weights[others]).predict(z[i : i + 1])[0] - y[i])
        errors[alpha] = (weights * np.square(left)).sum()
        if alpha == regressor.alpha_:
            assert regressor.residuals_ == pytest.approx(-np.array(left), rel=1e-8, abs=1e-8)
    assert regressor.alpha_ == min(errors, key=errors.get)
    expected = reference(x, y, np.ones(count) if w is None else w, regressor.alpha_)
    assert regressor.predict(data[0]) == pytest.approx(expected(data[0]), rel=1e-9)


def test_intervals_are_the_jackknifes(data, packaged):
    x, y = data
    regressor = GRepQRegressor(packaged, alpha=10).fit(x[:60], y[:60])
    z = (x - regressor.mean_) / regressor.scale_
    low, high = [], []
    for i in range(60):
        others = np.arange(60) != i
        ridge = Ridge(10).fit(z[:60][others], y[:60][others])
        error, predicted = abs(y[i] - ridge.predict(z[i : i + 1])[0]), ridge.predict(z[60:])
        low.append(predicted - error)
        high.append(predicted + error)
    predicted, interval = regressor.predict(x[60:], interval=0.9)
    rank = 55  # ceil(0.9 * 61)
    assert interval[:, 0] == pytest.approx(np.sort(low, 0)[60 - rank], rel=1e-9)
    assert interval[:, 1] == pytest.approx(np.sort(high, 0)[rank - 1], rel=1e-9)
    assert (interval[:, 0] < predicted).all()
    assert (predicted < interval[:, 1]).all()
    with pytest.raises(ValueError, match="needs 99 labels or more, there are 60"):
        regressor.predict(x, interval=0.99)
    with pytest.raises(ValueError, match=r"in \(0, 1\), got 90"):
        regressor.predict(x, interval=90)


def test_many_labels_need_no_predictions_without_each(packaged):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1100, 6))
    y = x[:, 0] + 0.3 * rng.normal(size=1100)
    regressor = GRepQRegressor(packaged).fit(x, y)
    assert regressor.left_out_.shape == (0, 7)
    fresh = rng.normal(size=(2000, 6))
    truth = fresh[:, 0] + 0.3 * rng.normal(size=2000)
    _, interval = regressor.predict(fresh, interval=0.8)
    assert ((interval[:, 0] < truth) & (truth < interval[:, 1])).mean() == pytest.approx(0.8, abs=0.03)


def test_intervals_cover_real_opinion_scores(shared_data, packaged):
    with (shared_data / "biq2021_dev" / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))[:180]
    x, problems = photo_features(packaged, [shared_data / "biq2021_dev" / row["image"] for row in rows])
    assert not problems
    mos, covered = np.array([float(row["mos"]) for row in rows]), []
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(rows))
        rated, fresh = order[:60], order[60:]
        _, interval = GRepQRegressor(packaged).fit(x[rated], mos[rated]).predict(x[fresh], interval=0.9)
        covered.append(((interval[:, 0] <= mos[fresh]) & (mos[fresh] <= interval[:, 1])).mean())
    assert 0.85 <= np.mean(covered) <= 0.97


@pytest.mark.parametrize("kind", ["image", "patches"])
def test_paths_images_and_features_give_the_same(photo_folder, packaged, kind, tmp_path):
    paths = sorted(photo_folder.iterdir())
    mos = np.arange(len(paths)) / 7
    images = [read_image(path) for path in paths]
    features = torch.cat([packaged.features(image[None], kind) for image in images])
    heads = [GRepQRegressor(packaged, features=kind, cache=tmp_path).fit(given, mos) for given in (paths, images, features)]
    predicted = [head.predict(given) for head, given in zip(heads, (paths, images, features), strict=True)]
    assert predicted[1] == pytest.approx(predicted[0], abs=1e-5)
    assert predicted[2] == pytest.approx(predicted[0], abs=1e-5)
    assert heads[0].predict(images[0][None]) == pytest.approx(predicted[0][:1], abs=1e-5)
    x = images[0][None].clone().requires_grad_()
    value = heads[0].mos(x)
    assert value.shape == (1, 1)
    assert value.item() == pytest.approx(predicted[0][0], abs=1e-4)
    value.sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.abs().max() > 0


def test_features_of_patches_are_mean_and_deviation(model, photos):
    x = photos["cat"]
    z = model.low.patch_features(x).flatten(1, 2)[0]
    expected = torch.cat([model.high(x)[0], z.mean(0), z.std(0, correction=0)])
    assert model.features(x, "patches")[0] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert model.features(x).shape == (1, 1152)
    single = photos["cat"][..., :96, :96].clone().requires_grad_()
    model.features(single, "patches").sum().backward()
    assert single.grad.isfinite().all()
    with pytest.raises(ValueError, match=r"unknown kind of features 'all', expected one of image, patches"):
        model.features(x, "all")
    with pytest.raises(ValueError, match="no low-level pathway"):
        GRepQ(pathways=["high"]).features(x, "patches")


def test_it_can_be_fitted_again_and_to_other_features(data):
    x, y = data
    regressor = GRepQRegressor(None).fit(x, y)
    assert regressor.fit(x[:, :20], y).n_features_in_ == 20
    with pytest.raises(ValueError, match="a head of no model can't be saved"):
        regressor.save("head.safetensors")
    with pytest.raises(ValueError, match=r"without a model, expected features \(N, C\)"):
        regressor.predict(["photo.jpg"])
    assert GRepQRegressor(None, alpha=np.int64(10)).fit(x, y).alpha_ == 10


def test_it_is_an_estimator_of_scikit_learn(data):
    regressor = GRepQRegressor("grepq-ll", alpha=3)
    copy = clone(regressor)
    assert copy.get_params() == {"model": "grepq-ll", "alpha": 3, "features": "image", "cache": None}
    copy.fit(*data)
    assert copy.alpha_ == 3
    assert copy.score(*data) > 0.9
    assert copy.weights_id_ == GRepQ.from_pretrained("grepq-ll").weights_id
    assert (copy.n_labels_, copy.n_features_in_) == (80, 128)
    assert copy.label_range_ == (data[1].min(), data[1].max())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:4], y[:4]), "at least 5 labels, got 4"),
        (lambda x, y: (x, np.full(80, 3.5)), "all 80 MOS are 3.5"),
        (lambda x, y: (x, np.where(np.arange(80) == 7, np.nan, y)), "finite MOS values, got nan at position 7"),
        (lambda x, y: (np.where(x == x[3, 3], np.inf, x), y), "NaN or infinity in 1 row"),
        (lambda x, y: (x, y[:79]), "got 80 images and 79 MOS"),
        (lambda x, y: (x, y[:, None]), r"one MOS for each image, got an array \(80, 1\)"),
        (lambda x, y: (x, ["good"] * 80), "expected numbers as MOS"),
        (lambda x, y: (x, y, -np.ones(80)), "positive weight"),
        (lambda x, y: (x, y, np.ones(3)), "positive weight for each of 80 labels, got 3"),
        (lambda x, y: (np.zeros((80, 3, 2)), y), r"expected paths, images .* got ndarray \(80, 3, 2\)"),
        (lambda x, y: (["absent.png"] * 80, y), "80 of 80 photos can't be used: no such file: absent.png"),
    ],
)
def test_bad_labels_are_explained(data, packaged, change, message):
    with pytest.raises(ValueError, match=message):
        GRepQRegressor(packaged).fit(*change(*data))


def test_bad_settings_are_explained(data, packaged):
    with pytest.raises(ValueError, match=r'alpha must be "cv" or a positive number, got -1'):
        GRepQRegressor(packaged, alpha=-1).fit(*data)
    with pytest.raises(ValueError, match="features must be one of image, patches, got 'whole'"):
        GRepQRegressor(packaged, features="whole").fit(*data)
    with pytest.raises(ValueError, match="features of length 128, got 5"):
        GRepQRegressor(packaged).fit(*data).predict(np.zeros((2, 5)))


def test_a_head_is_one_file_that_fits_only_its_own_weights(data, packaged, model, tmp_path, photos):
    path = tmp_path / "head.safetensors"
    fitted = GRepQRegressor(packaged).fit(*data)
    fitted.save(path)
    loaded = GRepQRegressor.load(path)
    assert loaded.predict(data[0], interval=0.9)[1] == pytest.approx(fitted.predict(data[0], interval=0.9)[1], rel=1e-12)
    for name in ("alpha_", "label_range_", "n_labels_", "weights_id_", "fitted_", "intercept_", "n_features_in_"):
        assert getattr(loaded, name) == getattr(fitted, name)
    with pytest.raises(WeightsError, match=f"{packaged.weights_id}, .*{model.weights_id}"):
        GRepQRegressor.load(path, model)
    with pytest.raises(FileNotFoundError, match="no head at"):
        GRepQRegressor.load(tmp_path / "absent.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:300])
    with pytest.raises(WeightsError, match="damaged or no head"):
        GRepQRegressor.load(tmp_path / "cut.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="is no head: its format is None"):
        GRepQRegressor.load(tmp_path / "other.safetensors")
    with pytest.raises(OSError, match="cannot write"):
        fitted.save(tmp_path / "absent" / "head.safetensors")

    metric = pyiqa.create_metric("grepq-ll", head=path, device="cpu")
    assert metric(photos["cat"]).item() == pytest.approx(loaded.mos(photos["cat"]).item(), rel=1e-6)


def test_both_pathways_predict_together(model, photo_folder, tmp_path):
    paths = sorted(photo_folder.iterdir())
    fitted = GRepQRegressor(model).fit(paths, range(len(paths)))
    assert fitted.n_features_in_ == 1152
    fitted.save(tmp_path / "head.safetensors")
    assert GRepQRegressor.load(tmp_path / "head.safetensors", model).predict(paths) == pytest.approx(fitted.predict(paths))


def test_features_are_kept_by_content_and_weights(packaged, model, photo_folder, tmp_path, monkeypatch):
    paths = [photo_folder / "cat.png", photo_folder / "rocket.png", tmp_path / "broken.png", tmp_path / "same.png"]
    paths[2].write_bytes(b"no photo")
    paths[3].write_bytes(paths[0].read_bytes())
    cache = tmp_path / "cache"
    x, problems = photo_features(packaged, paths, cache=cache)
    assert list(problems) == [2]
    assert "broken.png" in problems[2]
    assert np.isnan(x[2]).all()
    assert (x[0] == x[3]).all()
    assert len(list(cache.rglob("*.npy"))) == 2
    kept = next(cache.rglob("*.npy"))
    kept.write_bytes(kept.read_bytes()[:50])
    assert (photo_features(packaged, paths, cache=cache)[0][[0, 1, 3]] == x[[0, 1, 3]]).all()
    with monkeypatch.context() as patch:
        patch.setattr("grepq_metric.heads.features.decode_image", None)  # what is kept is not decoded
        assert (photo_features(packaged, paths[:2], cache=cache)[0] == x[:2]).all()
    assert photo_features(model, paths[:2], cache=cache)[0].shape == (2, 1152)
    assert photo_features(packaged, paths[:2], "patches", cache)[0].shape == (2, 256)
    with pytest.raises(OSError, match=r"cannot keep features in .* use no cache"):
        photo_features(packaged, [photo_folder / "coffee.png"], cache=paths[2])


def test_held_out_estimates_are_of_photos_that_were_not_fitted(packaged):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 20))
    nothing = held_out(GRepQRegressor(packaged), x, rng.normal(size=120))
    assert nothing.table["SRCC"][1] < 0 < nothing.table["SRCC"][2]
    y = x[:, 0] + 0.5 * rng.normal(size=120)
    found = held_out(GRepQRegressor(packaged), x, y, np.ones(120))
    srcc, low, high = found.table["SRCC"]
    assert 0.7 < low < srcc < high < 0.98
    assert found.table["RMSE"][0] == pytest.approx(0.55, abs=0.1)
    assert found.predicted.shape == (120,)


def test_suggested_photos_are_typical_of_different_clusters():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(centre, 0.1, size=(30, 2)) for centre in ((0, 0), (0, 9), (9, 0), (9, 9))])
    assert sorted(i // 30 for i in suggest(x, 4)) == [0, 1, 2, 3]
    assert len(set(suggest(x, 120))) == 120


def test_fit_on_the_command_line(labels, photo_folder, tmp_path):
    head, cache = tmp_path / "head.safetensors", tmp_path / "cache"
    first = grepq("fit", *arguments(labels, photo_folder), "-o", head, "--cache", cache, "--weight-column", "raters")
    assert "6 labels from 20 to 70, 128 features" in first.stdout
    assert "not cross-validated: a held-out estimate needs at least 10 labels, got 6" in first.stderr
    assert len(list(cache.rglob("*.npy"))) == 6
    rows = json.loads(grepq("score", photo_folder, "--head", head, "--format", "json").stdout)
    expected = GRepQRegressor.load(head).predict(sorted(photo_folder.iterdir()))
    assert [row["score"] for row in rows] == pytest.approx(expected, rel=1e-4)
    assert rows[0]["low"] is None


def test_fit_cross_validates_plots_and_leaves_out(photo_folder, tmp_path):
    pytest.importorskip("matplotlib")
    from PIL import Image

    path = tmp_path / "labels.csv"
    lines = ["image,mos"]
    for i, photo in enumerate(sorted(photo_folder.iterdir())[:3]):
        for size in (120, 140, 160, 180):
            Image.open(photo).resize((size, size)).save(tmp_path / f"{photo.stem}{size}.png")
            lines.append(f"{photo.stem}{size}.png,{i + size / 100}")
    path.write_text("\n".join([*lines, "absent.png,1"]) + "\n")
    result = grepq("fit", "labels.csv", "-o", "head.safetensors", "--plot", "plot.png", "--no-cache", status=1, cwd=tmp_path)
    assert "left out: no such file: absent.png" in result.stderr
    assert "SRCC" in result.stdout
    assert Image.open(tmp_path / "plot.png").size == (750, 750)
    assert GRepQRegressor.load(tmp_path / "head.safetensors").n_labels_ == 12


def test_suggestions_are_a_list_to_fill_in(photo_folder, tmp_path):
    result = grepq("fit", "--suggest", 3, photo_folder, "--cache", tmp_path / "cache", "-o", tmp_path / "rate.csv")
    rows = list(csv.DictReader((tmp_path / "rate.csv").open()))
    assert len({row["image"] for row in rows}) == 3
    assert all(row["mos"] == "" for row in rows)
    assert result.stdout == ""
    again = grepq("fit", "--suggest", 3, photo_folder, "-o", tmp_path / "rate.csv", status=2).stderr
    assert "may hold ratings: choose another --output" in again
    error = grepq("fit", tmp_path / "rate.csv", "-o", tmp_path / "head.safetensors", status=2).stderr
    assert "line 2: expected a finite number in column 'mos', got ''" in error


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"image,score\na.png,1\n", [], "has no column 'mos', it has"),
        (b"image,mos\na.png,good\n", [], "line 2: expected a finite number in column 'mos', got 'good'"),
        (b"image,mos\na.png,nan\n", [], "line 2: expected a finite number"),
        (b"image,mos\na.png,1\nb.png,1\na.png,2\n", [], "names a.png in lines 2 and 4, expected one MOS a photo"),
        (b"image,mos\n,1\n", [], "line 2: no photo in column 'image'"),
        (b"\xff\xfe\x00", [], "is no CSV file in UTF-8"),
        (b"image,mos\n", [], "labels.csv has no rows"),
        (b"image,mos\n", ["--root", "absent"], "no such folder for --root"),
        (b"image,mos\n", ["--plot", "absent/p.png"], "no such folder for --plot"),
        (b"image,mos\na.png,1\n", [], "there are no photos that can be used"),
    ],
)
def test_bad_label_files_are_explained(tmp_path, content, options, message):
    (tmp_path / "labels.csv").write_bytes(content)
    result = grepq("fit", "labels.csv", "-o", "head.safetensors", "--no-cache", *options, status=2, cwd=tmp_path)
    assert message in result.stderr
    assert not (tmp_path / "head.safetensors").exists()


def test_fit_says_what_is_missing(tmp_path):
    assert "no such file of labels" in grepq("fit", tmp_path / "no.csv", "-o", tmp_path / "h", status=2).stderr
    assert "--output is missing" in grepq("fit", tmp_path / "no.csv", status=2).stderr
    assert "--suggest must be from 1 to the number of photos, 0" in grepq("fit", "--suggest", 2, tmp_path, status=2).stderr
