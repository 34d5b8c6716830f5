import pytest
import torch
from torch import nn

from graphkd.data import datasets
from graphkd.models import layerwise_inference, networks
from graphkd.training.loop import predict, seeded

GRAPH = datasets.fake(size=20)


@pytest.mark.parametrize("size", [7, 1000])
@pytest.mark.parametrize("name", [n for n in networks.names() if n not in networks.TYPED])
def test_layer_by_layer_gives_the_logits_of_the_whole(name, size):
    with seeded(0, torch.device("cpu"), "test"):
        network = networks.build(name, GRAPH, 16, 3, 0.5)
    expected = predict(network, GRAPH).logits
    torch.testing.assert_close(layerwise_inference.logits(network.train(), GRAPH, size), expected)


def test_no_more_nodes_are_worked_on_at_a_time_than_asked_for(monkeypatch):
    with seeded(0, torch.device("cpu"), "test"):
        network = networks.build("gcn", GRAPH, 16, 2, 0.5)
    seen = []
    monkeypatch.setattr(
        layerwise_inference.F, "linear", lambda h, w: seen.append(len(h)) or torch.mm(h, w.T)
    )
    layerwise_inference.logits(network, GRAPH, 25)
    assert seen == [25, 25, 10] * 2


def test_errors_say_the_way_out():
    with pytest.raises(ValueError, match="size is 0.*1 node or more"):
        layerwise_inference.logits(networks.build("mlp", GRAPH, 8, 2, 0.0), GRAPH, 0)
    with pytest.raises(ValueError, match="Linear cannot be run layer by layer.*predict"):
        layerwise_inference.logits(nn.Linear(2, 2), GRAPH)
