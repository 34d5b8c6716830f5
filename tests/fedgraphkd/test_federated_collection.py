from dataclasses import replace
from functools import partial

import pytest
import torch

from fedgraphkd import partition
from fedgraphkd.collection import Collection, side_by_side
from fedgraphkd.federated_collection import federate_graphs
from fedgraphkd.shares import GraphShares
from fedkd.algorithms import get
from fedkd.engines.batched import batched
from fedkd.rounds.synchronous import simulate
from graphkd.graph import HIDDEN
from kdcore.training.loop import TrainingConfig
from tests.fedgraphkd.graphs import trees

deal = partial(partition.partition, "dirichlet")


def roles(found):
    """Graphs to train on, client by client, then public, to select on and to be tested on."""
    own = [client.private.rows.tolist() for client in found.clients]
    return [
        *own,
        found.task.public.flatten().tolist(),
        found.validation.rows.tolist(),
        found.test.rows.tolist(),
    ]


def test_each_graph_has_one_role():
    found = federate_graphs(trees(60), 4, ["gin-4", "gcn-4"], 0, deal)
    held = roles(found)
    assert sorted(sum(held, [])) == list(range(1, 61))
    assert len(held[-3]) == 12  # a fifth is public
    assert [client.group for client in found.clients] == ["gin-4", "gcn-4"] * 2
    tested = found.kinds.bincount(minlength=4)
    for client, own in enumerate(held[:4]):  # half, a fifth, and the rest
        whole = len(own) / 0.5
        assert tested[client] == pytest.approx(0.3 * whole, abs=2)
    assert found.label_counts.sum() == sum(map(len, held[:4])) == found.task.private
    assert torch.equal(found.kind_counts, torch.diag(found.label_counts.sum(1)))


@pytest.mark.parametrize("seed", range(5))
def test_a_client_has_some_graphs_for_each_purpose(seed):
    strongly = partial(partition.partition, "dirichlet", alpha=0.05)
    found = federate_graphs(trees(60), 6, ["gcn-4"], seed, strongly)
    assert (found.kinds.bincount(minlength=6) > 0).all()
    assert (found.label_counts.sum(1) > 0).all()


def test_graphs_without_a_label_are_public_or_have_no_role():
    graphs = trees(60)
    hidden = torch.arange(0, 60, 3)
    found = federate_graphs(
        replace(graphs, y=graphs.y.index_fill(0, hidden, HIDDEN)), 3, ["gin-4"], 0, deal
    )
    own, public = sum((r for r in roles(found)[:3] + roles(found)[-2:]), []), roles(found)[-3]
    assert not {*own} & {*(1 + hidden).tolist()}
    assert {*(1 + hidden).tolist()} & {*public}
    assert found.task.labels is None


def test_by_size_the_first_client_has_the_smallest():
    graphs = trees(60)
    sizes = graphs.owner.bincount()
    parts = partition.partition("size", graphs, 3, torch.Generator())
    assert [len(part) for part in parts] == [20, 20, 20]
    assert sizes[parts[0]].max() <= sizes[parts[1]].min()
    assert sizes[parts[1]].max() <= sizes[parts[2]].min()


def test_a_domain_is_a_client_or_shared_by_some():
    joint = side_by_side([trees(30), trees(40)])
    parts = partition.partition("natural", joint, 3, torch.Generator())
    assert [joint.domains[part].unique().tolist() for part in parts] == [[0], [1], [0]]
    assert [len(part) for part in parts] == [15, 40, 15]
    found = federate_graphs(joint, 2, ["gin-4"], 0, partial(partition.partition, "natural"))
    assert "neither features nor classes in common" in found.notes[0]
    assert found.label_counts[0, 2:].tolist() == found.label_counts[1, :2].tolist() == [0, 0]


def test_a_private_graph_reaches_no_other_client():
    graphs = trees(60)
    short = TrainingConfig("adam", 0.01, epochs=2, batch_size=4)
    algorithm = get("fedmd")(local=short, distill=short)
    found = federate_graphs(graphs, 3, ["gin-4"], 0, deal)
    (clean,) = simulate(get("local")(local=short), found.task, found.clients, rounds=1)
    others = torch.cat([c.private.rows for c in found.clients[1:]]) - 1
    x = graphs.x.clone()
    x[torch.isin(graphs.owner, others)] = torch.nan
    poisoned = federate_graphs(replace(graphs, x=x), 3, ["gin-4"], 0, deal)
    for engine in (batched(1), batched()):
        (last,) = simulate(
            get("local")(local=short), poisoned.task, poisoned.clients, rounds=1, engine=engine
        )
        for name, value in clean.clients[0].params.items():
            torch.testing.assert_close(last.clients[0].params[name], value)
        assert last.clients[1].params["head.weight"].isnan().any()
    (last,) = simulate(algorithm, poisoned.task, poisoned.clients[:1], rounds=1)
    assert last.clients[0].params["head.weight"].isfinite().all()


def test_a_model_that_is_sent_away_knows_no_more_than_it_needs():
    found = federate_graphs(trees(60), 3, ["gin-4"], 0, deal)
    own, public = found.clients[1].private.rows, found.task.public.flatten()
    x = torch.cat([own, public]).unsqueeze(1)
    model = found.task.models["gin-4"].held(x)
    collection = model.predict.one.args[0]
    assert isinstance(collection, Collection)
    assert collection.held == {*own.tolist(), *public.tolist()}
    params = found.clients[1].params
    expected = found.task.models["gin-4"].predict(params, x).logits
    torch.testing.assert_close(model.predict(params, x).logits, expected)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"clients": 99}, "99 clients for the 60 graphs of coloured-trees; each needs some"),
        ({"clients": 30}, "client . has 1 graphs with a label, and needs two"),
        ({"models": []}, "name at least one network on graphs, such as gin-64"),
        ({"models": ["cnn"]}, "unknown model 'cnn' on a graph"),
        ({"deal": "natural"}, "natural: coloured-trees is one data set; give several"),
        ({"deal": "louvain"}, "louvain goes by edges between nodes, and whole graphs have none"),
        ({"deal": "quantity"}, "unknown partition of whole graphs 'quantity'"),
        ({"graphs": replace(trees(60), y=torch.rand(60), classes=1)}, "real targets"),
    ],
    ids=["clients", "few", "none", "cnn", "natural", "louvain", "quantity", "real"],
)
def test_what_cannot_be_is_refused_in_a_line(change, said):
    given = {"graphs": trees(60), "clients": 3, "models": ["gin-4"], "deal": "dirichlet"} | change
    given["deal"] = partial(partition.partition, given["deal"])
    with pytest.raises(ValueError, match=said) as refusal:
        federate_graphs(**given, seed=0, shares=GraphShares())
    assert "\n" not in str(refusal.value)
