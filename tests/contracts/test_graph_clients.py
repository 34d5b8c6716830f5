"""What every federated algorithm promises to clients that hold graphs, whichever it is.

The algorithms are found by looking into their package. Networks are asked about nodes by number,
and each mini-batch is all that a client has; or about whole graphs, a few in each mini-batch.
"""

from dataclasses import fields, replace
from functools import partial

import pytest
import torch
from torch.utils._pytree import tree_leaves

from fedgraphkd import partition
from fedgraphkd.federated_collection import federate_graphs
from fedgraphkd.federated_graph import federate
from fedgraphkd.shares import NodeShares
from fedkd import algorithms
from fedkd.engines.batched import batched
from fedkd.engines.sequential import sequential
from fedkd.rounds.evaluation import evaluate
from fedkd.rounds.round import check_federation, deployed
from fedkd.rounds.synchronous import simulate
from kdcore.training.loop import TrainingConfig
from tests.fedgraphkd.graphs import fake, trees

# What makes inputs, where they are the numbers of nodes.
REFUSED = {"dense", "coboosting"}
KNOWN = sorted({*algorithms.names()} - REFUSED)
QUICK = ("fd", "fedavg", "fedmd", "fedproto")  # on whole graphs; the others there take a while
on_both = pytest.mark.parametrize(
    ("name", "whole"),
    [pytest.param(name, False, id=f"nodes-{name}") for name in KNOWN]
    + [
        pytest.param(
            name, True, id=f"graphs-{name}", marks=[] if name in QUICK else [pytest.mark.slow]
        )
        for name in KNOWN
    ],
)
GNN = {"fml": {"meme": "gcn-8"}, "fedkd": {"mentee": "sage-8"}, "fedcache": {"network": "gcn-8"}}


def small(name, batch_size=0):
    """An algorithm, all of whose training is short; on nodes it takes all of them at once."""
    short = TrainingConfig("adam", 0.01, epochs=2, batch_size=batch_size)
    kind = algorithms.get(name)
    own = {f.name: short for f in fields(kind) if f.name in ("local", "distill", "server")}
    return kind(**own, **GNN.get(name, {}))


def clients(*models):
    return federate(fake(3, 40), 4, models, 0, partition.greedy, NodeShares(public=0.2))


def holders(*models):
    """Clients that hold whole graphs."""
    return federate_graphs(trees(40), 4, models, 0, partial(partition.partition, "dirichlet"))


@on_both
def test_engines_agree_on_graph_clients(name, whole, double):
    models = "gcn-8", "gcn-8", "sage-8", "gcn-8"
    federation = holders(*models) if whole else clients(*models).federated
    task, algorithm = federation.task, small(name, 4 if whole else 0)
    check_federation(algorithm, task, federation.clients)
    scored = []
    for engine in (sequential, batched()):
        *_, last = simulate(algorithm, task, federation.clients, rounds=2, engine=engine)
        assert last.rejected == last.failed == {}
        used = deployed(algorithm, task, last, engine=engine)
        about = federation.test, federation.kind_counts, engine, federation.kinds
        scored.append([[c.params for c in used], last.server, dict(evaluate(task, used, *about))])
    one, other = map(tree_leaves, scored)
    assert len(one) == len(other)
    for expected, found in zip(one, other, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("whole", [False, True], ids=["nodes", "graphs"])
def test_engines_agree_on_where_the_examples_of_clients_lie(whole, double):
    federation = holders("gcn-8", "sage-8") if whole else clients("gcn-8", "sage-8").federated
    algorithm = replace(small("dsfl", 4 if whole else 0), aggregation="density-era")
    alone, together = (
        list(simulate(algorithm, federation.task, federation.clients, rounds=2, engine=engine))[-1]
        for engine in (sequential, batched())
    )
    assert alone.rejected == together.rejected == {}
    torch.testing.assert_close(together.server, alone.server, rtol=1e-6, atol=1e-6)


def test_pooled_weighs_features_and_edges_and_not_numbers():
    found = clients("gcn-8")
    task, members = found.federated.task, found.federated.clients
    (last,) = simulate(small("pooled"), task, members, rounds=1)
    private = found.private
    owner = torch.zeros(private.num_nodes, dtype=torch.long)
    for client, part in enumerate(found.parts):
        owner[part] = client
    source, target = owner[private.edge_index]
    once = private.edge_index[0] < private.edge_index[1]
    kept = int(((source == target) & once).sum())
    features = private.x.shape[1] * private.num_nodes
    assert last.ledger.up == {"x": 4 * features + 8 * kept, "y": 4 * task.private}


def test_pooled_weighs_whole_graphs():
    found, graphs = holders("gin-4"), trees(40)
    (last,) = simulate(small("pooled", 4), found.task, found.clients, rounds=1)
    held = torch.cat([client.private.rows for client in found.clients]) - 1
    nodes = int(torch.isin(graphs.owner, held).sum())
    assert last.ledger.up["x"] == 4 * 3 * nodes + 8 * (nodes - len(held))  # trees
    assert last.ledger.up["y"] == 4 * len(held)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_makes_inputs_is_refused(name):
    federation = clients("gcn-8").federated
    with pytest.raises(ValueError, match="those of a graph are the numbers of its nodes"):
        check_federation(small(name), federation.task, federation.clients)


@pytest.mark.parametrize("name", ["fml", "fedkd"])
def test_a_shared_network_is_one_on_graphs(name):
    for federation, features, classes in (
        (clients("gcn-8").federated, 12, 3),
        (holders("gcn-8"), 3, 2),
    ):
        (last,) = simulate(small(name), federation.task, federation.clients, rounds=1)
        shapes = {k: tuple(v.shape) for k, v in last.broadcasts[0].items() if "weight" in k}
        assert shapes["layer0.weight"] == (8, features)  # and not of numbers
        assert shapes["head.weight"] == (classes, 8)
