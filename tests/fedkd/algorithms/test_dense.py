"""DENSE: its objective and its round by hand, what goes down, and what statistics do."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from fedkd.algorithms.dense import DENSE
from fedkd.components.data_free.ensemble import Ensemble
from fedkd.components.data_free.inputs import Inputs, generated
from fedkd.core import Model, Task, leaving
from fedkd.messages import Received
from fedkd.models import build
from fedkd.rounds.round import deploy_all
from fedkd.rounds.synchronous import simulate
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.training.loop import TrainingConfig

THREE = math.log(3)


def constant(params, x):
    """Logits that do not depend on x, though they have a slope in it."""
    return Outputs(params["z"] + 0 * x.flatten(1).sum(dim=1, keepdim=True))


MODEL = Model(lambda dice: {"z": torch.zeros(2)}, constant)
TASK = Task({"g": MODEL}, 2, shape=(1, 4, 4))
SHORT = TrainingConfig("adam", 0.01, epochs=2, batch_size=4)


def ensemble(*logits):
    modules = [MODEL.module({"z": torch.tensor(z)}) for z in logits]
    return Ensemble.of(modules, torch.device("cpu"))


def objective(algorithm, student, label=0):
    # D = (log 3, 0), so softmax is (3/4, 1/4).
    teacher, x = ensemble((2 * THREE, 0.0), (0.0, 0.0)), torch.rand(5, 1, 4, 4)
    y = torch.full((5,), label)
    return float(algorithm.objective(teacher, constant, {"z": torch.tensor(student)}, x, y))


def test_the_objective_by_hand():
    # KL of (3/4, 1/4) and (1/4, 3/4) is (3/4 - 1/4) log 3.
    alone = objective(DENSE(adversarial=0.0), (0.0, THREE))
    assert alone == pytest.approx(-math.log(3 / 4))
    assert objective(DENSE(adversarial=0.0), (0.0, THREE), 1) == pytest.approx(math.log(4))
    both = objective(DENSE(adversarial=2.0), (0.0, THREE))
    assert both == pytest.approx(-math.log(3 / 4) - THREE)
    # Where both say the same label, however surely, nothing is asked for.
    assert objective(DENSE(adversarial=2.0), (5.0, 0.0)) == pytest.approx(alone)


@pytest.mark.parametrize("inputs", ["generated", "noise"])
def test_a_round_by_hand(inputs):
    # Turn r passes over r mini-batches, so three turns are six steps of z <- z - lr (p - q), with
    # q = softmax(D) = (3/4, 1/4), and p = softmax(z); at T = 2, T^2 / T times those of z / 2.
    distill = TrainingConfig("sgd", 0.5, epochs=3, batch_size=4)
    uploads = [Received(k, "g", {"z": torch.tensor([2 * k * THREE, 0.0])}, 1.0) for k in (0, 1)]
    for temperature in (1.0, 2.0):
        algorithm = DENSE(
            distill=distill, generator=SHORT, inputs=inputs, temperature=temperature, width=2
        )
        server = algorithm.init(TASK, generator(0))
        assert algorithm.broadcast(server, 0, "g") == {}
        after = algorithm.server_update(TASK, server, iter(uploads), None)
        expected, q = torch.zeros(2), (torch.tensor([THREE, 0.0]) / temperature).softmax(dim=0)
        for _ in range(6):
            p = (expected / temperature).softmax(dim=0)
            expected = expected - 0.5 * temperature * (p - q)
        torch.testing.assert_close(algorithm.broadcast(after, 0, "g")["z"], expected)
        assert algorithm.deployment(after, 0, "g") == algorithm.broadcast(after, 0, "g")


def test_the_ensemble_is_asked_once_about_each_input():
    # Inputs stay and so does the ensemble, so what it says of them is what it says of all at once.
    asked = []

    class Watched(Ensemble):
        def logits(self, x):
            asked.append(len(x))
            return super().logits(x)

    class Kept(DENSE):
        def studied(self, ensemble, x, said, dice):
            found = super().studied(ensemble, x, said, dice)
            torch.testing.assert_close(found[1], Ensemble.logits(teacher, x))
            return found

    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    teacher = Watched.of([module], torch.device("cpu"))
    distill = TrainingConfig("sgd", 0.5, epochs=3, batch_size=4)
    algorithm = Kept(distill=distill, generator=SHORT, width=2)
    algorithm.taught(TASK, constant, {"z": torch.zeros(2)}, teacher, generator(0))
    assert asked == [4, 4, 4]


def test_a_round_goes_up_and_its_model_down_once(tiny):
    # 4 bytes for each parameter: up in the round, down when the model is wanted, and not before.
    federation = tiny(["mlp-8"])
    algorithm = DENSE(TrainingConfig(epochs=1), SHORT, SHORT)
    first, second = simulate(algorithm, federation.task, federation.clients, rounds=2)
    once = sum(4 * value.numel() for value in federation.clients[0].params.values()) * 5
    assert (first.ledger.bytes_up, first.ledger.bytes_down) == (once, 0)
    used = deploy_all(algorithm, federation.task, first)
    assert used.ledger.bytes_down == once
    assert len({float(client.params["layer0.weight"][0, 0]) for client in used.clients}) == 1
    assert (second.ledger.bytes_up, second.ledger.bytes_down) == (once, once)


def test_clients_begin_with_their_own_parameters_and_then_with_the_servers(tiny):
    federation = tiny(["mlp-8"], sizes=(4, 4))
    algorithm = DENSE(TrainingConfig(epochs=0), SHORT, SHORT)
    first, second = simulate(algorithm, federation.task, federation.clients, rounds=2)
    for before, after in zip(federation.clients, first.clients, strict=True):
        assert torch.equal(after.params["layer0.weight"], before.params["layer0.weight"])
    for client in second.clients:
        served = first.server["mlp-8/layer0.weight"]
        assert torch.equal(client.params["layer0.weight"], served)


def test_statistics_make_inputs_like_those_that_were_seen():
    # What the layer has seen is bright, 0.9 on average, and hardly varies.
    seen = nn.BatchNorm2d(1)
    seen.running_mean.fill_(0.9)
    seen.running_var.fill_(0.01)
    module = nn.Sequential(seen, nn.Flatten(), nn.Linear(16, 2)).eval()
    teacher = Ensemble.of([module], torch.device("cpu"))
    training = TrainingConfig("adam", 0.02, epochs=30, batch_size=8)
    wanted = Inputs((1, 4, 4), 2, torch.device("cpu"), training, 8, 4)

    def brightness(**how):
        objective = partial(DENSE(adversarial=0.0, **how).objective, teacher, constant)
        objective = partial(objective, {"z": torch.zeros(2)})
        return float(generated(wanted, objective, teacher.labels, generator(1))[0].mean())

    assert brightness(statistics=10.0) == pytest.approx(0.9, abs=0.1)
    assert brightness(statistics=0.0) < 0.75


def test_statistics_go_up():
    model = build("fedkd.models.batch_norm:CNN", (1, 8, 8), 3, torch.rand(4, 1, 8, 8))
    spec = DENSE().payload_spec(Task({"g": model}, 3, shape=(1, 8, 8)), "g")
    assert {name: spec[name].shape for name in spec if "running_var" in name} == {
        "~body.1.running_var": (16,),
        "~body.5.running_var": (32,),
    }
    assert {*spec} == {*leaving(model.init(generator(0)))}


@pytest.mark.parametrize("name", ["distill", "generator"])
def test_turns_are_whole(name):
    with pytest.raises(ValueError, match=f"dense.{name} takes whole epochs, and steps is 3"):
        DENSE(**{name: TrainingConfig(steps=3)})


def test_one_input_cannot_be_normalised():
    with pytest.raises(ValueError, match="generator.batch_size is 1, .* take 2 or more"):
        DENSE(generator=TrainingConfig(batch_size=1))
