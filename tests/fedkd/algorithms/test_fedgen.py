"""FedGen: both halves worked by hand, and the generator against a naive loop."""

import math

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from fedkd.algorithms.fedavg import FedAvg
from fedkd.algorithms.fedgen import FedGen
from fedkd.components.feature_generator import generator_loss, label_batches, maker, seeds
from fedkd.core import Client, Task
from fedkd.messages import Received
from fedkd.models import mlp
from fedkd.rounds.round import check_federation, private_of
from fedkd.rounds.synchronous import simulate
from kdcore.outputs import Outputs
from kdcore.training.loop import Examples, TrainingConfig

pytestmark = pytest.mark.usefixtures("double")
ONE_STEP = TrainingConfig(learning_rate=1.0, batch_size=8)


def look_up(params, x):
    features = params["table"][x[:, 0].long()]
    logits = F.linear(features, params["head.weight"], params["head.bias"])
    return Outputs(logits, (features,))


def step(head, made, **weights):
    """One step of size 1 on one example of label 0 with feature 0; how far parameters moved."""
    params = {
        "table": torch.zeros(1, 1),
        "head.weight": torch.tensor(head),
        "head.bias": torch.zeros(2),
    }
    examples = Examples(torch.zeros(1, 1), torch.tensor([0]), torch.tensor([0]))
    algorithm = FedGen(ONE_STEP, **weights)
    private = private_of(algorithm, Client(0, "table", params, examples), 0, 1)
    after, upload = algorithm.client_update(look_up, params, params | made, private, None)
    assert upload.payload["label_counts"].tolist() == [1.0, 0.0]
    assert all(torch.equal(after[key], upload.payload[key]) for key in after)
    return {key: after[key] - params[key] for key in params}


def features(first, second, shares=(0.75, 0.25), strength=1.0):
    return {
        "features": torch.tensor([[[first]], [[second]]]),
        "shares": torch.tensor(shares),
        "strength": torch.tensor([strength]),
    }


def test_a_step_on_generated_features_by_hand():
    # Everything says (.5, .5). The own example moves the bias by (.5, -.5). Generated: label 0, of
    # which there are 3/4, has feature 1, and pulls the weights by 3/4 (.5, -.5); label 1 has
    # feature -1 and pulls by 1/4 (-.5, .5) (-1). The biases: 3/4 (.5, -.5) + 1/4 (-.5, .5).
    # All of this counts 2 x 0.5.
    moved = step([[0.0], [0.0]], features(1.0, -1.0, strength=0.5), generated_weight=2.0)
    torch.testing.assert_close(moved["head.weight"], torch.tensor([[0.5], [-0.5]]))
    torch.testing.assert_close(moved["head.bias"], torch.tensor([0.75, -0.75]))


def test_a_step_towards_the_generators_answer_by_hand():
    # The head says (3/4, 1/4) of feature 1, which stands for label 0. The own example, feature 0,
    # says (.5, .5): cross-entropy (-.5, .5), and 4 x 0.5 times (.5 - .75, .5 - .25).
    made = features(1.0, 0.0, strength=0.5)
    settings = {"generated_weight": 0.0, "answer_weight": 4.0}
    moved = step([[math.log(3)], [0.0]], made, **settings)
    torch.testing.assert_close(moved["head.bias"], torch.tensor([1.0, -1.0]))
    torch.testing.assert_close(moved["table"], torch.tensor([[1.0 * math.log(3)]]))
    # a label that nobody of the newest cohort held has no answer that is worth anything
    none = step([[math.log(3)], [0.0]], features(1.0, 0.0, (0.0, 1.0)), **settings)
    torch.testing.assert_close(none["head.bias"], torch.tensor([0.5, -0.5]))


def test_the_generators_answer_is_a_mean_of_probabilities():
    # Of the features 1 and 0 the head says (3/4, 1/4) and (1/2, 1/2): a mean of (5/8, 3/8); the
    # mean of their logits would say 0.634. The own example's (1/2, 1/2) moves the bias by
    # (1/2, -1/2), and by 2 (5/8 - 1/2, 3/8 - 1/2).
    made = features(1.0, 0.0) | {"features": torch.tensor([[[1.0], [0.0]], [[0.0], [0.0]]])}
    moved = step([[math.log(3)], [0.0]], made, generated_weight=0.0, answer_weight=2.0)
    torch.testing.assert_close(moved["head.bias"], torch.tensor([0.75, -0.75]))


def test_before_there_is_a_generator_it_is_fedavg(tiny):
    federation, training = tiny(), TrainingConfig(learning_rate=0.1, epochs=2, batch_size=4)
    (one,) = simulate(FedGen(training), federation.task, federation.clients, rounds=1)
    (other,) = simulate(FedAvg(training), federation.task, federation.clients, rounds=1)
    for key, value in other.server.items():
        assert torch.equal(one.server[key], value)


def test_without_weights_it_stays_fedavg(tiny):
    federation, training = tiny(), TrainingConfig(learning_rate=0.1, epochs=2, batch_size=4)
    free = FedGen(training, generated_weight=0.0, answer_weight=0.0)
    *_, one = simulate(free, federation.task, federation.clients, rounds=3)
    *_, other = simulate(FedAvg(training), federation.task, federation.clients, rounds=3)
    for key, value in other.server.items():
        torch.testing.assert_close(one.server[key], value)


def test_noise_is_normal():
    noise, x = seeds(torch.tensor([1, 0] * 5000), 4, 3, torch.Generator().manual_seed(0))
    assert x.shape == (10000, 7)
    assert torch.equal(x[:, :4], noise)
    assert x[:2, 4:].tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    assert abs(float(noise.mean())) < 0.02
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    assert float((noise.abs() < 1).double().mean()) == pytest.approx(0.6827, abs=0.01)


def test_the_generator_is_taught_labels_by_their_shares():
    shares, dice = torch.tensor([0.9, 0.1, 0.0]), torch.Generator().manual_seed(0)
    batches = label_batches(shares, 10000, 2, TrainingConfig(batch_size=100), dice)
    labels, noise = batches.y
    drawn = torch.bincount(labels, minlength=3) / 10000
    torch.testing.assert_close(drawn, shares, rtol=0, atol=0.015)  # 5 standard deviations
    assert drawn[2] == 0
    assert torch.equal(batches.x, torch.cat([noise, F.one_hot(labels, 3)], dim=1))


def test_the_generators_loss_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    made, noise = torch.randn(6, 3, generator=generator), torch.randn(6, 2, generator=generator)
    weights, biases = torch.randn(2, 4, 3, generator=generator), torch.randn(2, 4)
    labels = torch.tensor([0, 1, 2, 3, 1, 1])
    shares = torch.tensor([[1.0, 0.3, 0.5, 0.0], [0.0, 0.7, 0.5, 1.0]])
    found = generator_loss(
        Outputs(made), (labels, noise), weights, biases, shares, torch.tensor(0.5)
    )
    total = 0.0
    for i in range(6):
        for j in range(6):
            far = sum(float(a - b) ** 2 for a, b in zip(noise[i], noise[j], strict=True)) / 2
            unlike = sum(abs(float(a - b)) for a, b in zip(made[i], made[j], strict=True)) / 3
            total += far * unlike / 36
    for i, label in enumerate(labels.tolist()):
        expected = 0.5 * math.exp(-total)
        for k in range(2):
            logits = weights[k] @ made[i] + biases[k]
            expected -= float(shares[k, label] * logits.log_softmax(dim=0)[label])
        assert float(found[i]) == pytest.approx(expected)


def head(number, weight, counts, group="mlp-2"):
    """An upload of a model of two features, with a given head."""
    params = mlp((4,), 3, (2,)).init(torch.Generator().manual_seed(number))
    params |= {"layer1.weight": torch.tensor(weight), "layer1.bias": torch.zeros(3)}
    payload = params | {"label_counts": torch.tensor(counts)}
    return Received(number, group, payload, float(sum(counts)))


TRIANGLE = [[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]]


def two_groups():
    models = {"mlp-2": mlp((4,), 3, (2,)), "mlp-5-2": mlp((4,), 3, (5, 2))}
    return Task(models, 3, shape=(4,))


def test_the_generator_learns_what_the_heads_know():
    task, algorithm = two_groups(), FedGen(noise=4, hidden=32, samples=50)
    server = algorithm.init(task, torch.Generator().manual_seed(0))
    # The second client's head is turned, and believed only about label 1, which the first lacks.
    turned = [TRIANGLE[1], TRIANGLE[0], TRIANGLE[2]]
    uploads = [head(0, TRIANGLE, [5.0, 0.0, 5.0]), head(1, turned, [0.0, 10.0, 0.0])]
    for _ in range(40):
        server = algorithm.server_update(task, server, uploads, None)
    made = algorithm.broadcast(server, 0, "mlp-2")
    torch.testing.assert_close(made["shares"], torch.tensor([0.25, 0.5, 0.25]))
    assert float(made["strength"]) == pytest.approx(0.98**40)
    said = F.linear(made["features"], torch.tensor(TRIANGLE)).argmax(dim=-1)  # (C, M)
    assert (said[0] == 0).double().mean() > 0.9
    assert (said[2] == 2).double().mean() > 0.9
    assert (said[1] == 0).double().mean() > 0.9  # where the second client's label 1 lies
    spread = made["features"].std(dim=1)
    assert spread.min() > 0.05  # unlike features for unlike noise


def test_the_server_averages_and_counts_labels():
    task, algorithm = two_groups(), FedGen()
    server = algorithm.init(task, torch.Generator().manual_seed(0))
    uploads = [head(0, TRIANGLE, [1.0, 0.0, 0.0]), head(1, TRIANGLE, [1.0, 2.0, 0.0])]
    after = algorithm.server_update(task, server, uploads, None)
    expected = (uploads[0].payload["layer0.weight"] + 3 * uploads[1].payload["layer0.weight"]) / 4
    torch.testing.assert_close(after["mlp-2/layer0.weight"], expected)
    torch.testing.assert_close(after["made/shares"], torch.tensor([0.5, 0.5, 0.0]))
    assert after["made/features"].shape == (3, 16, 2)
    assert torch.equal(after["mlp-5-2/layer0.weight"], server["mlp-5-2/layer0.weight"])


def test_label_counts_that_are_lies_do_no_harm():
    task, algorithm = two_groups(), FedGen()
    server = algorithm.init(task, torch.Generator().manual_seed(0))
    after = algorithm.server_update(task, server, [head(0, TRIANGLE, [-5.0, -1.0, 0.0])], None)
    assert "made/features" not in after
    mixed = algorithm.server_update(task, server, [head(0, TRIANGLE, [-5.0, 1.0, 0.0])], None)
    assert mixed["made/shares"].tolist() == [0.0, 1.0, 0.0]


def test_every_example_is_counted_once_however_many_epochs(tiny):
    federation = tiny(sizes=(7, 9))
    algorithm = FedGen(TrainingConfig(epochs=3, batch_size=4))
    for client, counts in zip(federation.clients, federation.label_counts, strict=True):
        private = private_of(algorithm, client, 0, 1)
        model = federation.task.models[client.group]
        received = dict(client.params)
        _, upload = algorithm.client_update(model.predict, client.params, received, private, None)
        assert torch.equal(upload.payload["label_counts"], counts.double())


def test_the_generator_has_no_batch_statistics():
    model = maker(4, 3, 2, 8)
    params = model.init(torch.Generator().manual_seed(0))
    _, x = seeds(torch.tensor([0, 1, 2]), 4, 3, torch.Generator().manual_seed(0))
    together = model.predict(params, x).logits
    alone = torch.cat([model.predict(params, one.unsqueeze(0)).logits for one in x])
    torch.testing.assert_close(together, alone)


def test_features_of_different_widths_are_an_error(tiny):
    given = tiny(["mlp-8", "mlp-7"])
    with pytest.raises(ValueError, match="differ in width: mlp-8 8, mlp-7 7"):
        check_federation(FedGen(), given.task, given.clients)


def test_a_group_hears_of_labels_that_it_lacks_through_the_generator():
    # Two architectures; the first group holds labels 0 and 1, the second 2 alone. With generated
    # features the first group's head has heard of label 2; without, it never says it.
    generator = torch.Generator().manual_seed(0)
    y = torch.tensor([0, 1] * 20 + [2] * 20)
    x = 3 * torch.eye(4)[y] + 0.3 * torch.randn(60, 4, generator=generator)
    models = {"mlp-2": mlp((4,), 3, (2,)), "mlp-5-2": mlp((4,), 3, (5, 2))}
    clients = [
        Client(i, g, models[g].init(generator), Examples(x, y, rows))
        for i, (g, rows) in enumerate(zip(models, torch.arange(60).split([40, 20]), strict=True))
    ]

    def bias(**weights):
        algorithm = FedGen(TrainingConfig(learning_rate=0.1, epochs=2, batch_size=8), **weights)
        *_, last = simulate(algorithm, Task(models, 3, shape=(4,)), clients, rounds=15)
        head = {k: v for k, v in last.server.items() if k.startswith("mlp-2/layer1")}
        made = last.server["made/features"][2]
        logits = F.linear(made, head["mlp-2/layer1.weight"], head["mlp-2/layer1.bias"])
        return float(logits.softmax(dim=-1)[:, 2].mean())

    assert bias() > 0.5 > 0.2 > bias(generated_weight=0.0, answer_weight=0.0)


@pytest.mark.parametrize("name", ["noise", "hidden", "samples", "steps"])
def test_sizes_are_at_least_one(name):
    with pytest.raises(ValueError, match=f"{name} must be (>= 1|from 1 to 16384), got 0"):
        FedGen(**{name: 0})
