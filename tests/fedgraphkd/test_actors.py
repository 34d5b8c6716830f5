"""Ray actors hold the graphs of their own clients and the public one, and no other."""

import pytest
import torch

from fedgraphkd import partition
from fedgraphkd.federated_graph import federate
from fedkd.algorithms import get
from fedkd.engines.batched import batched
from fedkd.rounds.synchronous import simulate
from kdcore.training.loop import TrainingConfig
from tests.fedgraphkd.graphs import fake

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def blocks_held(predict, params):
    """The blocks whose graphs a model knows where this runs."""
    union = predict.one.args[0]
    return {"blocks": torch.tensor(sorted(union.held)) + 0 * len(params)}


def test_an_actor_holds_its_own_blocks_and_a_round_is_the_same():
    from fedkd.engines.ray.engine import RayEngine

    federation = federate(fake(), 4, ["gcn-8", "sage-8"], 0, partition.greedy).federated
    task, clients = federation.task, federation.clients
    short = TrainingConfig("adam", 0.01, epochs=2, batch_size=0)
    algorithm = get("fedmd")(local=short, distill=short)
    with RayEngine(2, chunk=1) as engine:
        found = engine(blocks_held, task, clients, [()] * 4)
        assert [one["blocks"].tolist() for one in found] == [[k, 4] for k in range(4)]
        *_, last = simulate(algorithm, task, clients, rounds=2, engine=engine)
        params = [dict(client.params) for client in last.clients]
    *_, expected = simulate(algorithm, task, clients, rounds=2, engine=batched(1))
    assert last.failed == last.rejected == {}
    for one, other in zip(params, expected.clients, strict=True):
        for key, value in one.items():
            torch.testing.assert_close(value, other.params[key], rtol=1e-6, atol=1e-6)
