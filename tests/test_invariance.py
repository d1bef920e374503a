"""Promises: a score depends on the image alone (not on its batch, chunk, history or mode), and is the same every time."""

import pytest
import torch

from grepq_metric.pathways.low import LowLevelEncoder


@pytest.fixture(scope="module")
def batch(photos):
    return torch.cat([photo[..., :160, :200] for name, photo in photos.items() if name not in ("stereo",)])


def test_a_batch_has_the_semantic_scores_and_maps_of_its_images(batch):
    from grepq_metric import GRepQ

    model = GRepQ.from_pretrained("grepq-sem")
    together, maps = model(batch), model.quality_map(batch)
    for i in range(len(batch)):
        assert together[i].item() == pytest.approx(model(batch[i : i + 1]).item(), abs=1e-6)
        assert torch.allclose(maps[i], model.quality_map(batch[i : i + 1])[0], atol=1e-5)


@pytest.mark.parametrize("size", [2, 5])
def test_a_batch_scores_as_its_images_do(model, batch, size):
    together = model.components(batch[:size])
    features, maps = model.features(batch[:size]), model.distance_map(batch[:size])
    for i in range(size):
        alone = model.components(batch[i : i + 1])
        for part in ("score", "low", "high"):
            assert together[part][i].item() == pytest.approx(alone[part].item(), abs=1e-6)
        assert torch.allclose(features[i], model.features(batch[i : i + 1])[0], rtol=1e-4, atol=1e-5)
        assert torch.allclose(maps[i], model.distance_map(batch[i : i + 1])[0], rtol=1e-4)


def test_neighbours_of_another_kind_do_not_matter(model, batch):
    noisy = torch.cat([batch[:1], torch.zeros_like(batch[:1]), torch.rand_like(batch[:1])])
    assert model(noisy)[0].item() == pytest.approx(model(batch[:1]).item(), abs=1e-6)


@pytest.mark.parametrize("chunk_size", [1, 3, 1000])
def test_the_chunk_size_does_not_matter(model, batch, chunk_size, monkeypatch):
    expected = model(batch[:2])
    monkeypatch.setattr(model.low, "chunk_size", chunk_size)
    assert torch.allclose(model(batch[:2]), expected, atol=1e-6)


def test_no_more_patches_than_the_chunk_size_are_encoded_at_once(model, photos, monkeypatch):
    seen, forward = [], LowLevelEncoder.forward

    def counted(encoder, x):
        seen.append(len(x))
        return forward(encoder, x)

    monkeypatch.setattr(LowLevelEncoder, "forward", counted)  # also of a folded copy
    monkeypatch.setattr(model.low, "chunk_size", 7)
    model.components(torch.cat([photos["cat"], photos["cat"]]))
    assert max(seen) == 7
    assert sum(seen) == 2 * ((300 - 96) // 48 + 1) * ((451 - 96) // 48 + 1)


def test_the_map_factorises_one_matrix_for_all_patches(model, photos, monkeypatch):
    shapes = []
    plain = torch.linalg.cholesky_ex
    monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda m: shapes.append(m.shape) or plain(m))
    model.distance_map(photos["cat"])
    assert shapes == [(128, 128)]


def test_scores_are_deterministic(model, photos):
    assert torch.equal(model(photos["cat"]), model(photos["cat"]))


def test_train_mode_and_scoring_change_nothing(model, photos):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    expected = model(photos["rocket"])
    model.train()
    assert not any(module.training for module in model.modules())
    assert torch.equal(model(photos["rocket"]), expected)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_remainder_at_the_edges_is_dropped(model, photos):
    photo = photos["cat"][..., :240, :288]
    padded = torch.rand(1, 3, 240 + 47, 288 + 47)
    padded[..., :240, :288] = photo
    assert model.low(padded).item() == pytest.approx(model.low(photo).item(), rel=1e-5)


def test_a_pathway_in_training_mode_scores_as_ever(model, photos):
    expected = model(photos["rocket"])
    model.low.train()
    assert torch.equal(model(photos["rocket"]), expected)
    assert not model.low.encoder.training


@pytest.mark.parametrize("name", ["grepq-ll", "grepq-lite"])
def test_weights_do_not_depend_on_the_state_of_torch_in_which_they_load(photos, name):
    from grepq_metric import GRepQ

    expected = GRepQ.from_pretrained(name)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)
        loaded = GRepQ.from_pretrained(name)
    finally:
        torch.set_default_dtype(before)
    assert loaded.weights_id == expected.weights_id
    assert torch.equal(loaded(photos["stereo"]), expected(photos["stereo"]))
    with torch.inference_mode():
        loaded = GRepQ.from_pretrained(name)
    x = photos["stereo"].clone().requires_grad_()
    loaded(x).sum().backward()
    assert x.grad.abs().max() > 0
    assert loaded.low.pristine_cov.dtype == torch.float64


def test_a_graph_of_a_pathway_in_training_mode_is_the_one_in_evaluation_mode(photos):
    from grepq_metric import GRepQ

    model = GRepQ.from_pretrained("grepq-ll").requires_grad_(False)
    x = photos["rocket"]
    expected = model(x)
    model.low.train()
    assert not any(module.training for module in model.modules())
    assert torch.export.export(model, (x,)).module()(x).item() == pytest.approx(expected.item(), abs=1e-6)
