from dataclasses import replace

import pytest
import torch

from fedgraphkd import partition
from fedgraphkd.federated_graph import federate
from fedgraphkd.node_split import drawn, split_of
from fedgraphkd.shares import NodeShares
from fedkd.algorithms import get
from fedkd.engines.batched import batched
from fedkd.engines.sequential import sequential
from fedkd.rounds.evaluation import evaluate
from fedkd.rounds.synchronous import simulate
from graphkd.graph import HIDDEN, TypedGraph
from kdcore.training.loop import Clipping, TrainingConfig
from tests.fedgraphkd.graphs import fake, rings

MODELS = ["gcn-8", "sage-8"]


def made(graph=None, clients=4, deal=partition.greedy, models=MODELS, seed=0, **shares):
    graph = fake() if graph is None else graph
    return federate(graph, clients, models, seed, deal, NodeShares(**shares))


def nodes_of(found, numbers):
    """By their features, which are nobody else's: ids in the graph of private nodes."""
    graph, places = found.union.found(found.union.table[numbers])
    return [int((found.private.x == row).all(dim=1).nonzero()) for row in graph.x[places]]


def roles(found):
    train = [nodes_of(found, c.private.rows) for c in found.federated.clients]
    fed = found.federated
    return train, *(nodes_of(found, e.rows) for e in (fed.validation, fed.test))


def test_each_node_has_one_role_whoever_holds_it():
    one, other = made(), made(clients=3, deal=partition.random)
    trained, validation, test = roles(one)
    assert sorted(sum(trained, []) + validation + test) == list(range(one.private.num_nodes))
    again, *rest = roles(other)
    assert sorted(sum(trained, [])) == sorted(sum(again, []))
    assert [sorted(validation), sorted(test)] == [sorted(nodes) for nodes in rest]
    for mine, part in zip(trained, one.parts, strict=True):
        assert set(mine) <= set(part.tolist())


def test_the_shares_are_of_each_class_and_public_nodes_are_nobodys():
    graph = fake(3, 50)
    split = drawn(graph, NodeShares(train=0.2, validation=0.4, public=0.1), seed=1)
    assert len(split.public) == 15
    assert torch.equal(torch.cat([split.private, split.public]).sort().values, torch.arange(150))
    for label in range(3):
        count = int((graph.y[split.private] == label).sum())
        held = [int((graph.y[nodes] == label).sum()) for nodes in split[2:]]
        assert held == [round(0.2 * count), round(0.6 * count) - round(0.2 * count),
                        count - round(0.6 * count)]  # fmt: skip


def test_test_nodes_among_all_private_ones_are_the_same_nodes_with_their_edges_back():
    found = made(deal=partition.random)
    fed = found.federated
    whole = fed.elsewhere["whole"]
    assert nodes_of(found, whole.rows) == nodes_of(found, fed.test.rows)
    back, _ = found.union.found(found.union.table[whole.rows])
    assert back.edge_index.shape[1] == found.private.edge_index.shape[1]
    kept = sum(found.union.block(k, torch.device("cpu")).edge_index.shape[1] for k in range(4))
    assert 1 - kept / found.private.edge_index.shape[1] == pytest.approx(found.cut)
    assert fed.measures == {"cut": found.cut}


@pytest.mark.parametrize("which", ["test", "validation"])
def test_clients_own_accuracy_is_on_their_own_nodes(which):
    fed = made().federated
    about = {"test": (fed.test, fed.kinds), "validation": (fed.validation, fed.validation_kinds)}
    examples, kinds = about[which]
    scores = evaluate(fed.task, fed.clients, examples, fed.kind_counts, kinds=kinds)
    for number, client in enumerate(fed.clients):
        mine = examples.rows[kinds == number]
        said = fed.task.models[client.group].predict(client.params, examples.x[mine]).logits
        right = said.argmax(dim=1) == examples.y[mine]
        assert float(scores.accuracy_local[number]) == pytest.approx(float(right.double().mean()))


def test_public_nodes_come_with_edges_or_without():
    shown = {}
    for edges in (True, False):
        found = made(public=0.3, public_edges=edges)
        fed = found.federated
        assert len(fed.task.public) == round(0.3 * 240)
        shown[edges], _ = found.union.found(fed.task.public)
    assert shown[True].edge_index.shape[1] > 0
    assert shown[False].edge_index.shape[1] == 0
    assert made(public=0.0).federated.task.public is None


def test_with_edges_kept_all_clients_see_the_whole_graph():
    found = made(edges="kept", deal=partition.random)
    blocks = {int(found.union.owner[n]) for c in found.federated.clients for n in c.private.rows}
    assert blocks == {0}
    assert torch.equal(found.federated.test.rows, found.federated.elsewhere["whole"].rows)
    cut = roles(made(deal=partition.random))
    assert roles(found) == cut


def test_hidden_labels_have_no_role():
    graph = fake()
    y = graph.y.clone()
    y[::5] = HIDDEN
    found = made(replace(graph, y=y))
    fed = found.federated
    rows = torch.cat([*(c.private.rows for c in fed.clients), fed.test.rows, fed.validation.rows])
    assert (found.union.y[rows] >= 0).all()
    assert fed.task.labels is None  # not all public nodes have one


def test_the_largest_component_is_taken_and_what_is_left_out_is_said():
    graph = rings(3, 30)
    found = federate(graph, 2, ["gcn-8"], 0, partition.greedy)
    assert found.private.num_nodes == 27
    assert found.federated.notes == (
        "rings: 60 nodes are outside of its largest component, and left out",
    )
    whole = federate(graph, 3, ["gcn-8"], 0, partition.natural, NodeShares(public=0), whole=True)
    assert (whole.private.num_nodes, whole.cut) == (90, 0)


def test_same_start_is_the_same_for_an_architecture():
    own = federate(fake(), 4, MODELS, 0, partition.greedy).federated.clients
    same = federate(fake(), 4, MODELS, 0, partition.greedy, same_start=True).federated.clients
    for clients, equal in ((own, False), (same, True)):
        one, other = clients[0].params["head.weight"], clients[2].params["head.weight"]
        assert torch.equal(one, other) == equal


def poisoned(found, spared):
    """The union in which all private blocks but one client's are no numbers."""
    for block in range(len(found.parts)):
        if block != spared:
            graph = found.union.block(block, torch.device("cpu"))
            graph.x.fill_(torch.nan)
    return found.federated


@pytest.mark.parametrize("engine", [sequential, batched()], ids=["sequential", "batched"])
@pytest.mark.parametrize("name", ["local", "fedmd", "fml"])
def test_no_private_node_reaches_another_client(name, engine):
    settings = {"meme": "gcn-8"} if name == "fml" else {}
    algorithm = get(name)(local=TrainingConfig("adam", 0.01, epochs=2, batch_size=0), **settings)
    clean = made(models=["gcn-8"]).federated
    (expected,) = simulate(algorithm, clean.task, clean.clients, rounds=1, engine=engine)
    dirty = poisoned(made(models=["gcn-8"]), 2)
    (found,) = simulate(algorithm, dirty.task, dirty.clients, rounds=1, engine=engine)
    for client, (one, other) in enumerate(zip(found.clients, expected.clients, strict=True)):
        for key, value in one.params.items():
            if client == 2:
                torch.testing.assert_close(value, other.params[key], rtol=0, atol=1e-6)
        assert client == 2 or one.params["layer0.weight"].isnan().any()
    assert torch.isfinite(found.uploads[2].payload.get("predictions", torch.zeros(1))).all()


@pytest.mark.parametrize(
    ("graph", "clients", "deal", "said"),
    [
        (replace(rings(), edge_index=torch.empty(2, 0).long()), 2, partition.greedy, "no edges"),
        (rings(2, 30), 61, partition.random, "61 clients for the 60 nodes of rings"),
        (rings(1, 30), 20, partition.random, "client 0 has [12] nodes and none with a label to be"),
        (rings(2, 30), 0, partition.random, "0 clients for the 60 nodes"),
    ],
    ids=["edges", "clients", "labels", "nobody"],
)
def test_what_cannot_be_is_refused_in_a_line(graph, clients, deal, said):
    with pytest.raises(ValueError, match=said) as refusal:
        federate(graph, clients, ["gcn-8"], 0, deal)
    assert "\n" not in str(refusal.value)


def test_real_targets_and_no_models_are_refused():
    graph = fake()
    with pytest.raises(ValueError, match="real targets; clients of a graph learn classes"):
        federate(replace(graph, y=graph.y.double(), classes=1), 2, MODELS, 0, partition.greedy)
    with pytest.raises(ValueError, match="name at least one network on graphs, such as gcn-64"):
        federate(graph, 2, [], 0, partition.greedy)
    with pytest.raises(
        ValueError, match=r"nodes.train 0.5 and nodes.validation 0.5 leave no nodes"
    ):
        NodeShares(train=0.5, validation=0.5)


def test_privacy_of_each_example_is_refused_since_a_node_is_in_its_neighbours_gradients():
    federated = made().federated
    private = get("local")(TrainingConfig(privacy=Clipping(1.0, 1.0)))
    with pytest.raises(ValueError, match="gcn-8 answers an example by others, as a node by its"):
        next(simulate(private, federated.task, federated.clients, rounds=1))


def with_parts(graph, **parts):
    return replace(graph, parts={part: torch.as_tensor(nodes) for part, nodes in parts.items()})


def test_a_split_that_a_graph_comes_with_is_the_split():
    graph = fake()  # 240 nodes
    order = torch.randperm(240, generator=torch.Generator().manual_seed(3))
    train, val, test = order[:80].sort().values, order[80:100], order[100:200]
    mask = torch.zeros(240, dtype=torch.bool).index_fill(0, test, True)
    found = made(with_parts(graph, train=train, val=val, test=mask), clients=2)
    kept = [(graph.x == row).all(dim=1).nonzero()[0, 0] for row in found.private.x]
    named = torch.stack(kept)
    trained, validation, tested = roles(found)
    assert sorted(named[sum(trained, [])].tolist()) == train.tolist()
    assert sorted(named[validation].tolist()) == val.sort().values.tolist()
    assert sorted(named[tested].tolist()) == test.sort().values.tolist()
    assert len(found.federated.task.public) == 24  # of the 40 that are in no part
    assert "comes with a split of its own, and no other is drawn" in found.federated.notes[-1]


def test_where_parts_take_all_nodes_public_ones_are_test_nodes():
    nodes = torch.arange(240)
    graph = with_parts(fake(), train=nodes[::3], val=nodes[1::3], test=nodes[2::3])
    split, _ = split_of(graph, graph, nodes, NodeShares(public=0.1), 0)
    assert torch.equal(split.train, nodes[::3])
    assert torch.equal(split.validation, nodes[1::3])
    assert sorted(split.public.tolist() + split.test.tolist()) == nodes[2::3].tolist()
    assert len(split.public) == 24
    with pytest.raises(ValueError, match="none is left to test on; take smaller shares"):
        split_of(graph, graph, nodes, NodeShares(public=0.4), 0)


def test_parts_that_cannot_be_are_refused_in_a_line():
    nodes = torch.arange(240)
    given = {"train": nodes[:80], "val": nodes[80:90], "test": nodes[90:]}
    with pytest.raises(ValueError, match="a client sees all that it holds; make them test nodes"):
        made(with_parts(fake(), **given, held_out=nodes[:1]))
    with pytest.raises(ValueError, match="are in two parts or twice in one"):
        made(with_parts(fake(), **given | {"val": nodes[:10]}))


def test_types_that_are_not_looked_at_are_spoken_of():
    plain = fake()
    typed = TypedGraph(
        plain.x,
        plain.edge_index,
        plain.y,
        plain.classes,
        "typed",
        kinds=torch.zeros_like(plain.y),
        typed_edges=torch.cat([plain.edge_index, torch.zeros_like(plain.edge_index[:1])]),
        type_names=("node",),
        relation_types=((0, 0),),
        target=0,
    )
    notes = made(typed).federated.notes
    assert "typed: clients do not look at the types of nodes and edges; all are alike" in notes
    assert made(plain).federated.notes == ()


def test_a_client_is_silent_about_public_nodes_that_are_unlike_its_own():
    """By the features that a network knows its nodes by, and not by their numbers."""
    graph = fake(3, 40)
    shares = NodeShares(public=0.2, train=0.5)
    named = replace(graph, x=graph.x + 5.0 * (graph.y == 0).unsqueeze(1))
    found = federate(named, 3, ["gcn-4"], 0, by_label, shares).federated
    still = TrainingConfig("adam", 0.01, epochs=1, batch_size=0)
    algorithm = get("selectivefd")(still, width=10.0, quantile=0.0)
    (last,) = simulate(algorithm, found.task, found.clients, rounds=1)
    shown = found.test.y[found.task.public[:, 0]]
    said = last.uploads[0].rows.bool()
    assert said[shown == 0].any()
    assert not said[shown != 0].any()


def by_label(graph, clients, generator):
    return [(graph.y == label).nonzero().flatten() for label in range(clients)]
