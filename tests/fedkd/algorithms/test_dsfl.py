"""DS-FL: what its aggregation must not be taken for. A round is in `test_federation.py`."""

import math

import pytest
import torch

from fedkd.algorithms.cfd import CFD
from fedkd.algorithms.dsfl import DSFL
from fedkd.algorithms.fedmd import FedMD
from fedkd.core import Client, Task
from fedkd.messages import Received
from fedkd.rounds.round import private_of, public_of
from kdcore.outputs import Outputs
from kdcore.training.loop import Examples, TrainingConfig

pytestmark = pytest.mark.usefixtures("double")
PUBLIC = torch.zeros(1, 1, dtype=torch.float64)


def consensus(*probabilities, **settings):
    algorithm, task = DSFL(**settings), Task({}, len(probabilities[0]), PUBLIC)
    uploads = (
        Received(k, "g", {"probabilities": torch.tensor([p])}, 1.0)
        for k, p in enumerate(probabilities)
    )
    server = algorithm.server_update(task, {}, uploads, public_of(algorithm, task, 0, 1))
    return server["consensus"][0]


def test_probabilities_are_averaged_first_and_sharpened_then():
    # (0.9, 0.1) and (0.3, 0.7): the mean (0.6, 0.4) over T = 0.2 has logits (3, 2), a share of
    # 1 / (1 + e^-1) = 0.7311. Sharpened first, and averaged then, it were
    # (1 / (1 + e^-4) + 1 / (1 + e^2)) / 2 = 0.5506; a mean of logits would be another thing again.
    share = 1 / (1 + torch.exp(torch.tensor(-1.0)))
    found = consensus([0.9, 0.1], [0.3, 0.7], temperature=0.2)
    torch.testing.assert_close(found, torch.stack([share, 1 - share]))
    assert float(share) == pytest.approx(0.7311, abs=1e-4)


def test_the_temperature_divides_probabilities_and_not_logits():
    # Of logits log p, T = 0.5 would square the odds: (0.8, 0.2) -> 16 : 1. Of probabilities, it
    # doubles their difference: e^1.2 : 1.
    found = consensus([0.8, 0.2], temperature=0.5)
    assert float(found[0] / found[1]) == pytest.approx(torch.exp(torch.tensor(1.2)).item())


def test_it_sharpens_below_and_flattens_above():
    entropies = []
    for temperature in (0.01, 0.1, 0.3, 1.0):
        found = consensus([0.6, 0.3, 0.1], temperature=temperature)
        entropies.append(float(-torch.special.xlogy(found, found).sum()))
    plain = torch.tensor([0.6, 0.3, 0.1])
    mine = float(-torch.special.xlogy(plain, plain).sum())
    assert entropies == sorted(entropies)
    assert entropies[1] < mine < entropies[3]


def test_simple_aggregation_is_the_mean_and_knows_no_temperature():
    found = consensus([0.9, 0.1], [0.3, 0.7], aggregation="sa", temperature=0.01)
    torch.testing.assert_close(found, torch.tensor([0.6, 0.4]))
    with pytest.raises(ValueError, match="unknown aggregation 'mean'; choose one of"):
        DSFL(aggregation="mean")


@pytest.mark.parametrize("kind", [DSFL, FedMD, CFD])
def test_a_client_digests_then_trains_then_predicts(kind):
    # All examples have the logits (z, -z), from z = 0. A step of 4 towards (3/4, 1/4) is one of
    # 4 (3/4 - 1/2): z = 1. Then one of 1 towards label 0 is one of 1 - s(2), s the logistic
    # function: z = 2 - s(2) = 1.1192. Without the digest z were 1/2, with the digest last
    # 1/2 + 4 (3/4 - s(1)) = 0.5757, with both steps from the start 3/2.
    one = torch.zeros(1, 1)
    client = Client(0, "g", {"z": torch.zeros(1)}, Examples(one, one[0].long(), torch.tensor([0])))
    algorithm = kind(
        TrainingConfig(learning_rate=0.5), TrainingConfig(learning_rate=2.0)
    )  # z stands twice
    public = public_of(algorithm, Task({}, 2, one), 0, 2)
    private = private_of(algorithm, client, 0, 2)
    told = {"consensus": torch.tensor([[0.75, 0.25]])}
    params, upload = algorithm.client_update(opposite, client.params, told, private, public)
    z = 2 - 1 / (1 + math.exp(-2))
    assert params["z"].item() == pytest.approx(z, rel=1e-12)
    said = 1 / (1 + math.exp(-2 * z))
    assert upload.payload["probabilities"][0].tolist() == pytest.approx([said, 1 - said])
    untold, _ = algorithm.client_update(opposite, client.params, {}, private, public)
    assert untold["z"].item() == pytest.approx(1 / 2)


def opposite(params, x):
    z = params["z"].expand(len(x))
    return Outputs(torch.stack([z, -z], dim=-1))


def test_each_client_counts_once_whatever_it_weighs():
    algorithm, task = DSFL(), Task({}, 2, PUBLIC)
    public = public_of(algorithm, task, 0, 1)

    def server(*weights):
        rows = ([0.9, 0.1], [0.3, 0.7])
        uploads = [
            Received(k, "g", {"probabilities": torch.tensor([p])}, w)
            for k, (p, w) in enumerate(zip(rows, weights, strict=True))
        ]
        return algorithm.server_update(task, {}, uploads, public)["consensus"]

    assert torch.equal(server(1.0, 1.0), server(0.0, 500.0))
