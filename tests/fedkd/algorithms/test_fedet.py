"""FedET: its ensemble by hand, and what the server makes of it."""

import pytest
import torch

from fedkd.algorithms.fedavg import FedAvg, of_group
from fedkd.algorithms.fedet import FedET, ensemble
from fedkd.components.features import head_names
from fedkd.core import Task
from fedkd.messages import Received
from fedkd.models import mlp
from fedkd.rounds.evaluation import first_metric
from fedkd.rounds.round import check_federation, public_of
from fedkd.rounds.synchronous import simulate
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.training.loop import TrainingConfig

pytestmark = pytest.mark.usefixtures("double")
STILL = TrainingConfig(learning_rate=1e-300)


def test_an_ensemble_by_hand():
    # Two classes: weights are (2 p - 1)^2. First example: .64, .04 and .36 of those who say .9, .4
    # and .2 of class 0; the sum for class 0 is .64 x .9 + .04 x .4 + .36 x .2 = .664, for class 1
    # .064 + .024 + .288: class 0. The others' mean is (.04 x .4 + .36 x .2) / .4 = .22. All agree
    # on the second example.
    p = torch.tensor([[0.9, 0.8], [0.4, 0.7], [0.2, 0.6]])
    labels, others = ensemble(torch.stack([p, 1 - p], dim=-1))
    assert labels.tolist() == [0, 0]
    torch.testing.assert_close(others, torch.tensor([[0.22, 0.78], [0.0, 0.0]]))


def test_who_is_sure_outvotes_those_who_are_not():
    p = torch.tensor([[0.99], [0.45], [0.45]])
    labels, _ = ensemble(torch.stack([p, 1 - p], dim=-1))
    assert labels.tolist() == [0]


def test_the_loss_by_hand():
    # CE of (1/2, 1/2) is log 2, towards the label as towards others; of those there may be none.
    outputs = Outputs(torch.zeros(2, 2))
    y = torch.tensor([0, 1]), torch.tensor([[0.3, 0.7], [0.0, 0.0]])
    found = FedET(diversity=0.5).loss(outputs, y) / torch.log(torch.tensor(2.0))
    torch.testing.assert_close(found, torch.tensor([1.5, 1.0]))


def test_the_last_layer_goes_from_all_to_the_large_model_and_back():
    # Nobody learns: the large model has the mean of the heads, whatever the groups, and all groups
    # have that; the rest is the average by examples.
    models = {"a": mlp((4,), 3, (5,)), "b": mlp((4,), 3, (7, 5))}
    task = Task(models, 3, torch.randn(6, 4, generator=generator(1)), (4,))
    algorithm = FedET(STILL, STILL, large="mlp-9")
    server = algorithm.init(task, generator(0))
    sent = [
        Received(k, group, models[group].init(generator(k)), weight)
        for k, (group, weight) in enumerate([("a", 1.0), ("a", 3.0), ("b", 5.0)])
    ]
    after = algorithm.server_update(task, server, sent, public_of(algorithm, task, 0, 1))
    heads = [[one.payload[name] for name in head_names(one.payload)] for one in sent]
    mean = [torch.stack(parts).mean(dim=0) for parts in zip(*heads, strict=True)]
    for group in ("large", "a", "b"):
        params = of_group(after, group)
        for name, expected in zip(head_names(params), mean, strict=True):
            torch.testing.assert_close(params[name], expected)
    first = sent[0].payload["layer0.weight"] / 4 + 3 * sent[1].payload["layer0.weight"] / 4
    torch.testing.assert_close(after["a/layer0.weight"], first)
    body = [name for name in of_group(server, "large")][:-2]
    assert body
    assert all(torch.equal(after[f"large/{name}"], server[f"large/{name}"]) for name in body)


def test_who_is_not_heard_takes_the_last_layer_too():
    models = {"a": mlp((4,), 3, (5,)), "b": mlp((4,), 3, (7, 5))}
    task = Task(models, 3, torch.randn(6, 4, generator=generator(1)), (4,))
    algorithm = FedET(STILL, STILL, large="mlp-9")
    server = algorithm.init(task, generator(0))
    sent = [Received(0, "a", models["a"].init(generator(5)), 1.0)]
    after = algorithm.server_update(task, server, sent, public_of(algorithm, task, 0, 1))
    heads = [head_names(of_group(after, group)) for group in ("a", "b", "large")]
    mine, theirs, large = (
        [after[f"{group}/{name}"] for name in head]
        for group, head in zip(("a", "b", "large"), heads, strict=True)
    )
    assert all(map(torch.equal, mine, large))
    assert all(map(torch.equal, theirs, large))
    assert torch.equal(after["b/layer1.weight"], server["b/layer1.weight"])


def test_the_servers_model_is_scored_and_learns(tiny):
    given = tiny(sizes=(30, 30, 30), public=40)
    local = TrainingConfig("adam", 0.01, epochs=3, batch_size=10)
    algorithm = FedET(local, TrainingConfig("adam", 0.01, epochs=10, batch_size=10), large="mlp-32")
    assert FedAvg().server_model(given.task, {}) is None
    model, params = algorithm.server_model(given.task, algorithm.init(given.task, generator(0)))
    before = float(first_metric(given.task, model, params, given.test))
    *_, last = simulate(algorithm, given.task, given.clients, rounds=6)
    after = first_metric(given.task, *algorithm.server_model(given.task, last.server), given.test)
    assert float(after) > 0.8 > before


def test_the_large_model_is_as_wide_as_the_clients_features(tiny):
    given = tiny()
    model, _ = FedET(large="mlp-9").server_model(given.task, {})
    params = model.init(generator(0))
    assert tuple(params[head_names(params)[0]].shape) == (5, 8)
    with pytest.raises(ValueError, match="nonsense"):
        check_federation(FedET(large="nonsense"), given.task, given.clients)
