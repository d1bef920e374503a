"""Promises of percentiles, points and facts: what they say is so, and none is given that is not known."""

import json

import numpy as np
import pytest
import skimage.measure
import torch

from grepq_metric import GRepQ, Scorer, catalog, load_model
from grepq_metric.facts import WORDS, measure, words
from grepq_metric.reference import LEVELS, STANDARD_SIDE, Distribution, Reference, Scale, fact_distributions
from grepq_metric.tables import FACTS

NETWORKLESS = [entry.name for entry in catalog.ENTRIES if not entry.download]
MODES = [{}, {"precision": "bf16"}, {"speed": "dense"}, {"speed": "dense", "precision": "bf16"}, {"resolution": STANDARD_SIDE}]


def array(photo):
    return photo[0].numpy()


@pytest.mark.parametrize("name", NETWORKLESS)
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_every_packaged_metric_has_a_reference_in_every_mode(name, mode):
    if name in ("grepq-sem", "qfm-iqm") and "speed" in mode:
        pytest.skip(f"{name} has no dense mode")
    model = load_model(name, **mode)
    found = Reference.packaged(model.weights_id)
    assert found.count >= 1000
    quantiles = found.scores.quantiles
    assert len(quantiles) == len(LEVELS)
    assert (np.diff(quantiles) >= 0).all()
    assert 0 < quantiles[0] < quantiles[-1] < model.best
    assert model.percentile(float(quantiles[100])) == pytest.approx(50, abs=1)
    assert model.points(float(quantiles[100])) == pytest.approx(50, abs=0.5)


def test_a_mode_that_reduces_more_has_no_packaged_reference():
    model = GRepQ.from_pretrained("grepq-sem", resolution=512)
    for ask in (model.percentile, model.points):
        with pytest.raises(ValueError, match=r"no reference for grepq-sem-\w+\+512px"):
            ask(0.5)
    with pytest.raises(ValueError, match="no reference for mine-"):
        Reference.packaged("mine-12345678")


def test_percentiles_are_shares_of_lower_scores():
    scores = np.random.default_rng(0).beta(5, 2, 1500)
    reference = Reference.of(scores, "mine")
    asked = np.linspace(0, 1, 50)
    shares = np.array([100 * (scores < value).mean() for value in asked])
    assert np.abs(reference.percentile(asked) - shares).max() < 0.6
    assert reference.percentile(-1.0) == 0
    assert reference.percentile(2.0) == 100
    tensor = reference.percentile(torch.tensor([0.5, 0.9], dtype=torch.float32))
    assert tensor.dtype == torch.float32
    assert tensor.tolist() == pytest.approx([reference.percentile(0.5), reference.percentile(0.9)], rel=1e-6)


def test_of_equal_values_half_is_counted():
    distribution = Distribution.of([0.0] * 50 + [1.0] * 50)
    assert distribution.percentile(0.0) == pytest.approx(25, abs=1)
    assert distribution.percentile(1.0) == pytest.approx(75, abs=1)


@pytest.mark.parametrize("name", NETWORKLESS)
def test_points_rise_everywhere(name):
    model = load_model(name)
    quantiles = Reference.packaged(model.weights_id).scores.quantiles
    points = model.points(np.linspace(quantiles[0], quantiles[-1], 1000))
    assert (np.diff(points) > 0).all()
    assert model.points(0.0) == 0
    assert model.points(model.best) == 100
    low, high = (model.points(float(np.interp(level, LEVELS, quantiles))) for level in (0.16, 0.84))
    assert high - low == pytest.approx(68, abs=6)
    assert Scale.packaged(model.weights_id, model.best).best == model.best


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([0.5] * 5, "has 5 scores, expected 20"),
        ([0.5] * 30 + ["x"], "no number: 'x'"),
        ([0.5] * 30 + [np.nan], "no number: nan"),
    ],
)
def test_a_reference_of_too_little_is_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        Reference.of(scores, "mine")


def test_a_table_of_other_weights_is_refused(tmp_path):
    path = tmp_path / "ref.csv"
    path.write_text("path,score\n" + "".join(f"{i}.jpg,0.{i:02}\n" for i in range(10, 60)))
    reference = Reference.read(path, weights_id="grepq-sem-1")
    assert reference.count == 50
    (tmp_path / "ref.csv.run.jsonl").write_text(json.dumps({"grepq score": {"weights_id": "grepq-ll-2"}}) + "\n")
    with pytest.raises(ValueError, match="scores of grepq-ll-2, expected grepq-sem-1"):
        Reference.read(path, weights_id="grepq-sem-1")
    with pytest.raises(ValueError, match="no column 'mos'"):
        Reference.read(path, "mos")


@pytest.mark.parametrize("name", ["coffee", "cat", "rocket"])
def test_sharpness_is_scikit_images(name, photos):
    luma = np.tensordot(np.array([0.299, 0.587, 0.114], np.float32), array(photos[name]), 1)
    assert measure(array(photos[name]))["sharpness"] == pytest.approx(1 - skimage.measure.blur_effect(luma), abs=1e-5)


def test_noise_is_its_standard_deviation():
    rng = np.random.default_rng(0)
    for sigma in (2, 8):
        grey = np.repeat(0.5 + rng.normal(0, sigma / 255, (1, 400, 400)), 3, 0).astype(np.float32)
        assert measure(grey)["noise"] == pytest.approx(sigma, rel=0.03)


def test_each_fact_follows_what_it_is_named_after(photos, tmp_path):
    import cv2

    x = array(photos["cat"])
    picture = np.ascontiguousarray((x.transpose(1, 2, 0) * 255).round().astype(np.uint8))
    done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 10])
    blocky = cv2.imdecode(data, cv2.IMREAD_COLOR).transpose(2, 0, 1)[:, 3:, 5:].astype(np.float32) / 255
    blurred = cv2.GaussianBlur(picture, (0, 0), 3).transpose(2, 0, 1).astype(np.float32) / 255
    grey = np.repeat(x.mean(0, keepdims=True), 3, 0)
    before = measure(x)
    assert done
    assert measure(blurred)["sharpness"] < before["sharpness"] - 0.1
    assert measure(blocky)["blocking"] > 1.5 > 1.1 > before["blocking"] >= 1  # also where the grid is cut
    assert measure(x * 0.3)["exposure"] == pytest.approx(0.3 * before["exposure"], rel=1e-4)
    assert measure(grey)["colourfulness"] == pytest.approx(0, abs=1e-3)
    assert before["colourfulness"] > 20
    assert "blurred (sharpness " in words(measure(blurred))
    assert "blocky (blocking " in words(measure(blocky))
    assert "dark (exposure " in words(measure(x * 0.1))


def test_facts_are_those_at_the_standard_size(photos):
    import cv2

    x = array(photos["coffee"])
    large = cv2.resize(x.transpose(1, 2, 0), (2400, 1920), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    reduced = cv2.resize(large, (640, 512), interpolation=cv2.INTER_AREA)
    one, other = (measure(np.ascontiguousarray(v.transpose(2, 0, 1))) for v in (large, reduced))
    assert {**one, "blocking": 0} == pytest.approx({**other, "blocking": 0})
    with pytest.raises(ValueError, match="16 pixels or more on a side, got 20 x 15"):
        measure(x[:, :15, :20])


def test_words_and_distributions_are_of_the_same_facts():
    assert tuple(WORDS) == FACTS
    assert set(fact_distributions()) == set(FACTS)


def test_a_scorer_adds_what_is_asked_for(photos):
    batch = {"image": [photos["cat"][0], photos["cat"][0, :, :10, :10], "none"]}
    plain, asked = Scorer("grepq-sem"), Scorer("grepq-sem", extras=["facts", "points", "percentile"])
    assert asked.columns[4:12] == ("percentile", "points", *FACTS, "facts")
    rows = asked(batch)
    assert rows["score"] == plain(batch)["score"]
    assert rows["percentile"][0] == pytest.approx(asked.model.percentile(rows["score"][0]))
    assert rows["points"][0] == pytest.approx(asked.model.points(rows["score"][0]))
    assert rows["sharpness"][0] == pytest.approx(measure(array(photos["cat"]))["sharpness"])
    assert rows["sharpness"][1:] == [None, None]
    assert rows["points"][1] is not None  # it has a score, but is too small for facts
    assert rows["percentile"][2] is rows["points"][2] is None


def test_a_photo_larger_than_the_reference_is_told(photos):
    large = torch.nn.functional.interpolate(photos["cat"], size=(700, 1050), mode="bicubic").clamp(0, 1)
    batch = {"image": [large[0], photos["cat"][0]]}
    for extras in (["percentile"], ["points"]):
        warnings = Scorer("grepq-sem", extras=extras)(batch)["warning"]
        assert "larger than the reference photos" in warnings[0]
        assert warnings[1] is None
        assert Scorer("grepq-sem", extras=extras, resolution=STANDARD_SIDE)(batch)["warning"] == [None, None]
    assert Scorer("grepq-sem", extras=["facts"])(batch)["warning"] == [None, None]
    own = Reference.of(np.linspace(0, 1, 50), "mine")
    assert Scorer("grepq-sem", extras=["percentile"], reference=own)(batch)["warning"] == [None, None]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extras": ["stars"]}, "extras must be a list of some of"),
        ({"extras": "points"}, "extras must be a list"),
        ({"extras": ["points"], "head": "biq2021"}, "has the scale of its ratings"),
        ({"extras": ["percentile"], "head": "biq2021"}, "no packaged reference of predicted MOS"),
        ({"extras": ["percentile"], "reference": "none.csv"}, "no such table: none.csv"),
    ],
)
def test_what_has_no_meaning_is_refused(options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Scorer(**options)
