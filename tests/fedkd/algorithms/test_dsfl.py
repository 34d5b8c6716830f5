"""DS-FL: what its aggregation must not be taken for. A round is in `test_federation.py`."""

import pytest
import torch

from fedkd.algorithms.dsfl import DSFL
from fedkd.core import Received, Task
from fedkd.federation import public_of

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
    with pytest.raises(ValueError, match="aggregation must be era or sa, got 'mean'"):
        DSFL(aggregation="mean")


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
