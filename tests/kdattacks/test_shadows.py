"""Shadow models are clients: stacked or one by one, told what the targets were told."""

import pytest
import torch

from fedkd.algorithms.fedavg import FedAvg
from fedkd.algorithms.fedmd import FedMD
from fedkd.core import Client, Task
from fedkd.engines.batched import batched
from fedkd.engines.sequential import sequential
from fedkd.models import build
from fedkd.rounds.round import public_of
from fedkd.rounds.synchronous import simulate
from kdattacks import Knowledge, Recorded, ShadowConfig, Shadows
from kdattacks.shadows import halves
from kdcore.rng import generator
from kdcore.training.loop import Examples, TrainingConfig
from tests.contracts.test_attacks import CLASSES, SIDE, N, Z, table

LOCAL = TrainingConfig(learning_rate=0.1, epochs=2, batch_size=8)


def config(engine, algorithm=None, received=({}, {}), public=True):
    algorithm = algorithm or FedMD(local=LOCAL)
    task = Task({"m": build("mlp-16", (SIDE,), CLASSES)}, CLASSES, table()[0][-20:])
    asked = tuple(
        public_of(algorithm, task, 0, i) if public else None for i in range(len(received))
    )
    return ShadowConfig(algorithm, task, "m", received, asked, engine=engine)


@pytest.mark.parametrize("wanted", [2, 8])
@pytest.mark.parametrize("count", [10, 11])
def test_each_record_is_in_half_of_the_shadows_and_each_shadow_has_half(count, wanted):
    parts = halves(count, wanted, generator(0, "halves"))
    inside = torch.stack([torch.bincount(part, minlength=count) for part in parts])
    assert (inside.sum(0) == wanted // 2).all()
    assert all(abs(len(part) - count / 2) <= 0.5 for part in parts)


def test_shadows_are_the_same_stacked_and_one_by_one():
    received = ({}, {"consensus": torch.full((20, CLASSES), 1 / CLASSES)})
    _, _, candidates, population = table()
    parts = halves(N, 4, generator(0, "halves"))
    one, other = (
        config(engine, received=received).train(candidates, parts, population, 3)
        for engine in (sequential, batched())
    )
    torch.testing.assert_close(one.predictions, other.predictions, atol=1e-5, rtol=1e-4)
    assert torch.equal(one.member, other.member)
    for a, b in zip(one.sent, other.sent, strict=True):
        torch.testing.assert_close(a.payload, b.payload, atol=1e-5, rtol=1e-4)


def test_a_shadow_with_the_targets_own_records_sends_what_the_target_sent():
    """Whole batches leave nothing to chance, and averages say where a client starts."""
    _, _, candidates, population = table()
    algorithm = FedAvg(local=TrainingConfig(learning_rate=0.1, epochs=3, batch_size=N))
    task = config(sequential, algorithm, public=False).task
    client = Client(0, "m", task.models["m"].init(generator(5, "client")), candidates)
    first, second = simulate(algorithm, task, [client], rounds=2, seed=0)
    received = first.broadcasts[0], second.broadcasts[0]
    shadows = config(batched(), algorithm, received, public=False).train(
        candidates, [torch.arange(N), torch.arange(N // 2)], population, 0
    )
    same, other = (one.payload for one in shadows.sent)
    torch.testing.assert_close(same, second.uploads[0].payload, atol=1e-5, rtol=1e-4)
    assert all((other[key] - value).abs().max() > 1e-3 for key, value in same.items())
    assert [one.weight for one in shadows.sent] == [N, N // 2]


def test_what_a_shadow_sends_is_what_a_server_reads():
    _, _, candidates, population = table()
    found = config(batched()).train(candidates, halves(N, 2, generator(0, "h")), population, 0)
    assert isinstance(found, Shadows)
    assert found.predictions.shape == (2, Z, CLASSES)
    for one in found.sent:
        assert one.payload["probabilities"].shape == (20, CLASSES)
        torch.testing.assert_close(one.payload["probabilities"].sum(1), torch.ones(20))


@pytest.mark.parametrize("wanted", [1, 2, 5])
def test_too_few_shadows_or_an_odd_number_are_refused(wanted):
    with pytest.raises(ValueError, match=rf"shadows: {wanted}; .* even number from 4"):
        Knowledge(CLASSES, shadows_wanted=wanted).enough(4)


def test_what_the_attacker_does_not_know_is_said():
    with pytest.raises(ValueError, match="needs candidates in the attacker's knowledge"):
        _ = Knowledge(CLASSES).shadows
    with pytest.raises(ValueError, match="client 3 has sent nothing"):
        Recorded((3,), ({},), ({},)).uploads()
    with pytest.raises(ValueError, match="teacher answers no questions"):
        Recorded(("teacher",)).asked()
    _, _, candidates, population = table()
    asked = Knowledge(CLASSES, candidates, population).asked
    assert asked.rows.tolist() == list(range(N + Z))
    assert isinstance(asked, Examples)
