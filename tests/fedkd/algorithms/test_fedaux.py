"""FedAUX: a round of the server worked by hand, how networks begin, and what crosses once."""

import math

import pytest
import torch

from fedkd.algorithms.fedaux import FedAUX
from fedkd.algorithms.feddf import FedDF
from fedkd.core import Model, Public, Task
from fedkd.encoders.autoencoder import Autoencoder
from fedkd.messages import Received
from fedkd.privacy.accounting import noise_multiplier
from fedkd.rounds.round import deployed
from fedkd.rounds.synchronous import simulate
from kdcore.outputs import Outputs
from kdcore.rng import generator as stream
from kdcore.training.loop import TrainingConfig

SHORT = TrainingConfig("adam", 0.01, epochs=2, batch_size=4)
STEP = TrainingConfig(learning_rate=1.0, batch_size=0)


def linear(params, x):
    return Outputs(torch.nn.functional.linear(x, params["weight"], params["bias"]), (x,))


def upload(client, bias, **more):
    payload = {"weight": torch.zeros(2, 1), "bias": torch.tensor(bias)} | more
    return Received(client, "linear", payload, 1.0)


def close(value, expected):
    torch.testing.assert_close(value, torch.as_tensor(expected), rtol=1e-6, atol=1e-6)


@pytest.fixture
def task(double):
    zeros = {"weight": torch.zeros(2, 1), "bias": torch.zeros(2)}
    model = Model(lambda generator: dict(zeros), linear)
    return Task({"linear": model}, 2, torch.tensor([[0.0], [0.0], [7.0]]), (1,))


def public(task):
    rows = torch.arange(3)
    return Public(task.public, rows, rows.unsqueeze(0), torch.ones(1, 3, dtype=torch.bool))


def test_the_ensemble_and_a_step_of_the_student_by_hand(task):
    # Three public examples, of which the last is set apart. Clients say (log 9, 0) and (-log 9, 0)
    # whatever the example; their average says (0, 0). Of the first only client 0 is certain: the
    # teacher says (0.9, 0.1). Of the second it is so three times as much as the other: log 9 / 2 is
    # log 3, (0.75, 0.25). The step is against (0.5 - 0.9 + 0.5 - 0.75) / 2 = -0.325.
    algorithm = FedAUX(distill=STEP, negatives=1 / 3, encoder="pixels")
    server = algorithm.init(task, stream(0))
    server["scores/0"] = torch.tensor([[1.0], [0.75]])
    server["scores/1"] = torch.tensor([[0.0], [0.25]])
    received = [upload(0, [math.log(9), 0.0]), upload(1, [-math.log(9), 0.0])]
    after = algorithm.server_update(task, server, received, public(task))
    close(after["linear/bias"], [0.325, -0.325])
    close(after["linear/weight"], [[0.0], [0.0]])  # 7 was not asked about
    # Who has told nothing of itself counts for next to nothing beside who has, ...
    del server["scores/1"]
    after = algorithm.server_update(task, server, received, public(task))
    close(after["linear/bias"], [0.4, -0.4])
    # ... and where nobody has, all count alike.
    del server["scores/0"]
    after = algorithm.server_update(task, server, received, public(task))
    close(after["linear/bias"], [0.0, 0.0])


def test_a_certainty_is_noted_once(task):
    algorithm = FedAUX(distill=STEP, negatives=1 / 3, encoder="pixels")
    server = algorithm.init(task, stream(0))
    # Rows are x / 7 and 1, over sqrt 2: of the examples asked about (0, 1 / sqrt 2).
    w = torch.tensor([5.0, math.log(3) * math.sqrt(2)])
    after = algorithm.server_update(
        task, server, [upload(0, [0.0, 0.0], certainty=w)], public(task)
    )
    close(after["scores/0"], [[0.75], [0.75]])
    again = [upload(0, [0.0, 0.0], certainty=-w)]
    assert torch.equal(
        algorithm.server_update(task, after, again, public(task))["scores/0"], after["scores/0"]
    )


def test_networks_begin_with_pretrained_features_and_the_head_of_feddf(tiny):
    federation = tiny(["mlp-8"])
    algorithm = FedAUX(pretraining=SHORT)
    server, plain = (one.init(federation.task, stream(0)) for one in (algorithm, FedDF()))
    name = next(iter(federation.task.models))
    model, dice = federation.task.models[name], stream(0)
    drawn = model.init(dice)
    expected = Autoencoder().pretrained(model, drawn, federation.task.public, SHORT, dice)
    for key, value in expected.items():
        assert torch.equal(server[f"{name}/{key}"], value)
        assert torch.equal(server[f"encoder/{name}/{key}"], value)
        assert torch.equal(plain[f"{name}/{key}"], value) == key.startswith("layer1")


def test_what_is_asked_once_crosses_once_and_who_comes_later_is_asked_then(tiny):
    federation = tiny(["mlp-8"], sizes=(6, 5, 4))
    cohorts = iter([[0, 1], [0, 1, 2], [1, 2]])
    first, second, third = simulate(
        FedAUX(SHORT, SHORT, pretraining=SHORT),
        *(federation.task, federation.clients),
        rounds=3,
        sample=lambda numbers, generator: next(cohorts),
    )
    asked = [[i for i in r.uploads if "certainty" in r.uploads[i].payload] for r in (first, second)]
    assert asked == [[0, 1], [2]]
    parameters = sum(
        v.nbytes for v in deployed(FedAUX(), federation.task, third)[0].params.values()
    )
    assert third.ledger.bytes_down == 2 * parameters
    assert second.ledger.bytes_down == 4 * parameters + 4  # once more for client 2, and the noise
    assert second.ledger.bytes_up - 3 * (parameters + 8) == 4 * (8 + 1)


def test_noise_on_the_certainty_alone(tiny):
    federation = tiny(["mlp-8"], sizes=(6, 5, 4))
    plain = FedAUX(SHORT, SHORT, pretraining=SHORT, encoder="untrained")
    private = FedAUX(SHORT, SHORT, pretraining=SHORT, encoder="untrained", certainty_epsilon=1.0)
    total = len(federation.task.public)
    apart = total - len(private._certainty.asked(federation.task.public))
    server = private.init(federation.task, stream(0))
    deviation = noise_multiplier(1.0, 1e-5) * 2 / (apart * 0.01)
    assert float(server["noise"]) == pytest.approx(deviation)
    one, other = (
        next(iter(simulate(a, federation.task, federation.clients, rounds=1)))
        for a in (plain, private)
    )
    gaps = []
    for number, upload in one.uploads.items():
        for key, value in upload.payload.items():
            gap = other.uploads[number].payload[key] - value
            if key == "certainty":
                gaps.append(gap)
            else:
                assert not gap.any()
    found = float(torch.cat(gaps).std())  # of 27 numbers
    assert 0.5 * deviation < found < 1.6 * deviation


def test_one_public_example_is_too_few(tiny):
    federation = tiny(["mlp-8"], public=1)
    with pytest.raises(ValueError, match="there is one alone; give 2 or more"):
        next(iter(simulate(FedAUX(), federation.task, federation.clients, rounds=1)))
