"""Promises of folded networks: the same function, never of outdated values, and no part of a model."""

import pickle
from copy import deepcopy

import pytest
import torch
from torch import nn

from grepq_metric import GRepQ
from grepq_metric.pathways import LowLevelPathway, SemanticPathway
from grepq_metric.pathways.folding import Folding, folded
from tests.conftest import randomise


def norms(network):
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("pathway", ["low", "semantic", "high"])
def test_a_network_without_batch_normalisation_is_the_same_function(pathway, photos, model):
    if pathway == "high":
        network = model.high.visual
        call = lambda net, x: net.layer4(net.layer3(net.layer2(net.layer1(net.stem(x)))))  # noqa: E731
    else:
        made = LowLevelPathway() if pathway == "low" else SemanticPathway()
        randomise(made, 5)
        network = made.eval().encoder if pathway == "low" else made.eval().backbone
        call = lambda net, x: net(x)  # noqa: E731
    fast = folded(network, torch.float32)
    assert norms(network) > 10
    assert norms(fast) == 0
    with torch.inference_mode():
        x = photos["coffee"][..., :131, :160]
        got, expected = call(fast, x), call(network, x)
    for one, other in zip(*((v if isinstance(v, list) else [v]) for v in (got, expected)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5 * other.abs().max().item())


@pytest.mark.parametrize("name", ["grepq-sem", "grepq-ll"])
def test_new_values_are_seen_at_once(name, photos):
    model, x = GRepQ.from_pretrained(name), photos["coffee"]
    backbone = model.semantic.backbone if name == "grepq-sem" else model.low.encoder.backbone
    with torch.no_grad():
        before = model(x).item()
        next(backbone.parameters()).mul_(1.1)
        after = model(x).item()
        assert abs(after - before) > 1e-5
        backbone.bn1.running_var = backbone.bn1.running_var * 1.5
        later = model(x).item()
    assert abs(later - after) > 1e-5
    assert model(x).item() == pytest.approx(later, abs=1e-6)  # with gradients: the network as it is
    for other in (pickle.loads(pickle.dumps(model)), deepcopy(model)):
        with torch.no_grad():
            assert other(x).item() == pytest.approx(later, abs=1e-6)
    assert set(model.state_dict()) == set(GRepQ.from_pretrained(name).state_dict())


def test_a_network_is_folded_only_where_nobody_learns_from_it():
    network, x, folding = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval(), torch.rand(1, 3, 8, 8), Folding()
    assert folding(network, x)[0] is network  # its values may learn
    network.requires_grad_(False)
    assert folding(network, x.clone().requires_grad_())[0] is network  # the image may
    fast, dtype = folding(network, x)
    assert (norms(fast), dtype) == (0, torch.float32)
    assert folding(network, x)[0] is fast
    with torch.no_grad():
        assert folding(network.requires_grad_(), x.clone().requires_grad_())[0] is fast
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        half, dtype = folding(network, x)
    assert dtype == half[0].weight.dtype == torch.bfloat16
    with torch.inference_mode():
        counted = deepcopy(network)
        assert folding(counted, x)[0] is counted  # nobody counts the changes of its values
