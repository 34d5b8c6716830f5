"""FedBE: what it draws against moments, its mean prediction and its student by hand."""

import pytest
import torch

from fedkd.algorithms.fedavg import FedAvg
from fedkd.algorithms.fedbe import FedBE, said
from fedkd.core import Model, Task
from fedkd.messages import Received
from fedkd.rounds.round import public_of
from fedkd.rounds.synchronous import simulate
from kdcore.outputs import Outputs
from kdcore.rng import generator
from kdcore.training.loop import TrainingConfig

pytestmark = pytest.mark.usefixtures("double")
ONE = torch.zeros(1, 1, dtype=torch.float64)
MODEL = Model(
    lambda dice: {"z": torch.zeros(2)}, lambda params, x: Outputs(params["z"].expand(len(x), 2))
)
TASK = Task({"g": MODEL}, 2, ONE)


def sent(*pairs):
    """Uploads of clients with logits, and how many examples they have."""
    return [Received(k, "g", {"z": torch.tensor(z)}, weight) for k, (z, weight) in enumerate(pairs)]


def draws(received, mean, posterior="gaussian"):
    algorithm = FedBE(samples=4000, posterior=posterior)
    return torch.stack([m["z"] for m in algorithm.drawn(received, {"z": mean}, generator(0))])


def test_a_gaussian_has_the_mean_and_the_variance_of_the_clients():
    # By examples 1 and 3: means 3 and 0; variances (9 + 3 x 1) / 4 = 3, and 0.
    received, mean = sent(([0.0, 0.0], 1.0), ([4.0, 0.0], 3.0)), torch.tensor([3.0, 0.0])
    found = draws(received, mean)
    torch.testing.assert_close(found.mean(dim=0), mean, atol=0.15, rtol=0)  # 5 standard errors
    torch.testing.assert_close(found.var(dim=0), torch.tensor([3.0, 0.0]), atol=0.35, rtol=0)


def test_a_dirichlet_lies_between_the_clients():
    # Of two clients alike, g is uniform on 0 .. 1: mean 1/2, variance 1/12, of values 0 and 4.
    received, mean = sent(([0.0, 1.0], 2.0), ([4.0, 1.0], 2.0)), torch.tensor([2.0, 1.0])
    found = draws(received, mean, "dirichlet")
    assert 0 <= float(found.min()) <= float(found.max()) <= 4
    torch.testing.assert_close(found.mean(dim=0), mean, atol=0.1, rtol=0)
    torch.testing.assert_close(found.var(dim=0), torch.tensor([16 / 12, 0.0]), atol=0.1, rtol=0)


def test_statistics_are_the_means():
    received = [
        Received(0, "g", {"z": torch.ones(1), "~variance": torch.ones(1)}, 1.0),
        Received(1, "g", {"z": torch.ones(1), "~variance": 9 * torch.ones(1)}, 1.0),
    ]
    mean = {"z": torch.ones(1), "~variance": 5 * torch.ones(1)}
    (found,) = FedBE(samples=1).drawn(received, mean, generator(0))
    assert found["~variance"].tolist() == [5.0]


def test_teachers_are_clients_averages_and_samples():
    # Logits ln 3 and -ln 3 for class 0: odds 3 and 1/3, so 3/4 and 1/4; the average says 1/2.
    three = torch.log(torch.tensor(3.0))
    teachers = [("g", {"z": torch.stack([s * three, torch.tensor(0.0)])}) for s in (1.0, -1.0, 0.0)]
    found = said(TASK, teachers[:2], public_of(FedBE(), TASK, 0, 1))
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.5]]))
    found = said(TASK, [teachers[0], teachers[2]], public_of(FedBE(), TASK, 0, 1))
    torch.testing.assert_close(found, torch.tensor([[0.625, 0.375]]))


def test_the_student_is_the_mean_of_the_models_after_each_pass():
    # Without samples. Two clients are sure of class 0 and one, who has as many examples as they, of
    # class 1; their average says (1/2, 1/2), and so p = (2 + 1/2) / 4. From the average each pass
    # is one step of size 1, by p - softmax; what is kept is half way between both ends.
    big = 40.0
    received = sent(([big, -big], 1.0), ([big, -big], 1.0), ([-big, big], 2.0))
    algorithm = FedBE(distill=TrainingConfig(learning_rate=1.0, epochs=2), samples=0)
    server = algorithm.init(TASK, generator(0))
    public = public_of(algorithm, TASK, 0, 1)
    after = algorithm.server_update(TASK, server, received, public)
    p = (1 + 1 + 0 + 0.5) / 4
    first = p - 0.5
    second = first + p - torch.tensor([first, -first]).softmax(dim=0)[0]
    expected = (first + second) / 2
    torch.testing.assert_close(after["g/z"], torch.stack([expected, -expected]))
    assert after["round"].tolist() == [1]


def test_without_passes_it_is_fedavg(tiny):
    given, training = tiny(), TrainingConfig(learning_rate=0.05, epochs=1, batch_size=4)
    still = FedBE(training, TrainingConfig(epochs=0), samples=2)
    *_, one = simulate(still, given.task, given.clients, rounds=2)
    *_, other = simulate(FedAvg(training), given.task, given.clients, rounds=2)
    for key, value in other.server.items():
        torch.testing.assert_close(one.server[key], value)


def test_counted_steps_are_refused():
    with pytest.raises(ValueError, match="fedbe takes whole epochs, and steps is 3"):
        FedBE(distill=TrainingConfig(steps=3))
