"""A Flower node builds the graphs of its own client and the public ones, and no other."""

from functools import partial

import pytest
import torch

from fedgraphkd import partition
from fedgraphkd.federated_collection import federate_graphs
from fedgraphkd.federated_graph import federate
from fedkd.algorithms import get
from fedkd.rounds.synchronous import simulate
from kdcore.training.loop import TrainingConfig
from tests.fedgraphkd.graphs import fake, trees

pytest.importorskip("flwr")
pytestmark = pytest.mark.flower

CLIENTS = 3


def nodes(held=None):
    deal = partition.greedy
    return federate(fake(), CLIENTS, ["gcn-8", "sage-8"], 0, deal, held=held).federated


def graphs(held=None):
    deal = partial(partition.partition, "dirichlet")
    return federate_graphs(trees(40), CLIENTS, ["gin-8", "gcn-8"], 0, deal, held=held)


def held_by(federation):
    """The numbers of the blocks, or graphs, that the models of a federation know."""
    (known,) = {model.predict.one.args[0] for model in federation.task.models.values()}
    return known.held


@pytest.mark.parametrize("name", ["fedmd", "fedavg"])
@pytest.mark.parametrize("made", [nodes, graphs], ids=["nodes", "graphs"])
def test_a_node_builds_its_own_and_a_round_is_the_same(made, name, double):
    from flwr.app import ArrayRecord

    from fedkd.flower import ClientRuntime, DistillationStrategy, LocalGrid, client_app, unpack

    short = TrainingConfig("adam", 0.01, epochs=2, batch_size=0)
    given = {"local": short} | ({"distill": short} if name == "fedmd" else {})
    algorithm, everybody, built = get(name)(**given), made(), {}

    def runtime(context):
        number = context.node_config["partition-id"]
        if number not in built:
            built[number] = made([number])
        (client,) = built[number].clients
        return ClientRuntime(algorithm, built[number].task, client)

    grid = LocalGrid(client_app(runtime), CLIENTS)
    server = made([])
    strategy = DistillationStrategy(algorithm, server.task, CLIENTS)
    strategy.start(grid, ArrayRecord(), 2)
    assert all(not record.failed and not record.rejected for record in strategy.records)
    *_, last = simulate(algorithm, everybody.task, everybody.clients, rounds=2)
    for context in grid.contexts.values():
        number = context.node_config["partition-id"]
        for key, value in unpack(context.state["params"]).items():
            expected = last.clients[number].params[key]
            torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
    assert not server.clients
    union = next(iter(everybody.task.models.values())).predict.one.args[0]
    public = held_by(server)
    for number, federation in built.items():
        mine = held_by(federation) - public
        private = everybody.clients[number].private.rows
        if made is nodes:
            assert mine == {number}
            assert public == {CLIENTS}
        else:
            tested = everybody.kinds == number
            assert {*private.tolist(), *everybody.test.rows[tested].tolist()} <= mine
            assert len(mine) < len(union.held - public)
        assert not mine & set().union(*(held_by(f) for n, f in built.items() if n != number))
        assert torch.equal(federation.test.rows, everybody.test.rows[everybody.kinds == number])
        assert torch.equal(federation.label_counts[0], everybody.label_counts[number])
        assert torch.equal(federation.kind_counts[0], everybody.kind_counts[number])
