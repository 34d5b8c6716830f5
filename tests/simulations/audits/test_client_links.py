"""Links of clients that hold a graph: asked about fairly, and told by nobody else's block."""

from dataclasses import replace

import networkx as nx
import pytest
import torch

from kdattacks import REGISTRY
from kdattacks.attacks.links import FEATURES
from kdattacks.scoring import auc
from simulations.audits import client_links, federated, run
from simulations.audits.client_links import Held
from simulations.config import experiments
from simulations.config.resources import Resources
from simulations.execution import scheduler
from simulations.execution.scheduler import Job
from tests.contracts.test_graph_audits import GIVEN, ran


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """Two clients of a GCN of two mixings, who send what they predict for public nodes."""
    return federated.seen(ran(tmp_path_factory.mktemp("links"), "fedmd", "nodes"), None, 4, None, 1)


def fresh(seen, **changed):
    """The same audit, with nothing worked out yet."""
    return replace(seen, **changed)


def test_pairs_are_all_links_of_some_nodes_and_as_many_that_are_none(seen):
    held = Held(seen, seen.clients[0])
    edges, y = held.graph.edge_index, held.graph.y
    linked = {tuple(sorted(pair)) for pair in edges.T.tolist()}
    for kind in ("any", "same label"):
        asked, so = held.pairs(kind, 10**6)
        named = [tuple(sorted(pair)) for pair in asked.T.tolist()]
        assert len({*named}) == len(named)
        assert all(a != b for a, b in named)
        assert [pair in linked for pair in named] == so.tolist()
        assert int(so.sum()) == int((~so).sum())
        alike = {(a, b) for a, b in linked if kind == "any" or y[a] == y[b]}
        assert {pair for pair, is_so in zip(named, so.tolist(), strict=True) if is_so} == alike
    asked, so = held.pairs("any", 7)
    some = {*asked[0].tolist()}
    assert len(some) <= 7
    mine = {pair for pair in linked if some & {*pair}}
    assert int(so.sum()) == len(mine)


def test_what_a_client_answers_is_what_it_predicts_in_its_own_block(seen):
    held = Held(seen, seen.clients[1])
    torch.testing.assert_close(held.recorded.replies[1](held.graph.x), held.recorded.asked()[0])


def test_influence_ends_where_two_mixings_do(seen):
    held = Held(seen, seen.clients[0])
    asked, so = held.pairs("any", 15)
    attack = REGISTRY.get("links-influence")
    (found,) = attack(held.recorded, held.knowledge(asked), torch.Generator()).values
    graph = nx.Graph(held.graph.edge_index.T.tolist())
    graph.add_nodes_from(range(held.graph.num_nodes))
    steps = [dict(nx.single_source_shortest_path_length(graph, int(v), 2)) for v in asked[0]]
    near = torch.tensor([int(u) in reached for reached, u in zip(steps, asked[1], strict=True)])
    assert torch.equal(found > 0, near)
    assert 0 < int(near.sum()) < len(near)
    assert auc(found, so) > 0.75
    assert float(found.max()) == 1


def test_nothing_of_another_clients_block_is_looked_at(seen):
    """Neither by who asks a client, nor by models of the attacker's."""
    names = ("links", "links-sent", "links-influence", "yeom", "lira", "public-nearest")
    alone = fresh(seen, targets=(0,))
    before = {name: run.of_clients(alone, name) for name in names}
    union, kept = seen.federation.blocks, dict(seen.federation.blocks._blocks)
    try:
        for number in (1, len(union) - 1):  # the other client's, and that of all private nodes
            graph = kept[number]
            union._blocks[number] = replace(graph, x=torch.full_like(graph.x, torch.nan))
        union._known.clear()
        after = {name: run.of_clients(fresh(alone), name) for name in names}
    finally:
        union._blocks.update(kept)
        union._known.clear()
    for name in names:
        for one, other in zip(before[name], after[name], strict=True):
            assert torch.equal(one.decisions.values, other.decisions.values)


def test_who_is_no_member_is_the_clients_own_and_so_are_the_attackers_nodes_public(seen):
    owner = seen.federation.blocks.owner
    for case in seen.cases:
        asked = case.knowledge.asked.rows
        assert {*owner[asked].tolist()} == {case.client.id}
        outside = case.knowledge.candidates.rows[~case.member]
        assert not {*outside.tolist()} & {*case.client.private.rows.tolist()}
    assert {*owner[seen.population.rows].tolist()} == {2}  # the block of public nodes


def test_the_features_beside_are_no_networks(seen):
    found = client_links.outcomes(seen, "links", REGISTRY.get("links"))
    assert [(one.about["target"], one.about["pairs"]) for one in found] == [
        (who, kind) for kind in ("any", "same label") for who in ("who may ask", FEATURES)
    ]
    asked, so = Held(seen, seen.clients[0]).pairs("any", client_links.MOST)
    x = Held(seen, seen.clients[0]).graph.x.double()
    pairs = [torch.corrcoef(x[list(pair)])[0, 1] for pair in asked.T.tolist()]
    (features,) = [one for one in found if one.about["target"] == FEATURES][:1]
    values = features.decisions.values[: len(so)]
    torch.testing.assert_close(values, torch.stack(pairs))


@pytest.mark.parametrize("name", ["links", "links-sent", "links-influence"])
def test_kinds_of_pairs_are_told_apart_and_a_server_distils_once(seen, name):
    """Beside each kind asked about by itself; an influence is relative to those asked with it."""
    attack, calls = REGISTRY.get(name), []
    if name == "links-influence":  # a question for each node
        seen = fresh(seen, targets=seen.targets[:1])

    def counting(recorded, knowledge, generator):
        calls.append(recorded.targets)
        return attack(recorded, knowledge, generator)

    found = client_links.outcomes(seen, name, counting)
    assert len(calls) == len(seen.clients) * (2 if name == "links-influence" else 1)
    most = client_links.NODES.get(name, client_links.MOST)
    for outcome in found:
        kind, values = outcome.about["pairs"], []
        for held in (Held(seen, client) for client in seen.clients):
            alone = held.knowledge(held.pairs(kind, most)[0])
            if outcome.about["target"] == FEATURES:
                values.append(REGISTRY.get("links")(held.features_alone, alone, None).values)
            else:
                values.append(attack(held.recorded, alone, None).values)
        expected = torch.cat([value.flatten() for value in values])
        assert torch.equal(outcome.decisions.values, expected)


@pytest.mark.slow
def test_edges_that_clients_have_in_common_are_nobodys(tmp_path):
    given = {"clients": 2, "rounds": 1, **GIVEN["nodes"], "nodes.edges": "kept"}
    experiment = experiments.build("fed", "fedmd", given)
    job = Job(experiment, tmp_path / "run", None, Resources(weights=0))
    assert list(scheduler.attempt(job))
    kept = federated.seen(tmp_path / "run", None, 4, None, None)
    with pytest.raises(
        ValueError, match="edges are kept between clients, .* no link is a client's"
    ):
        run.of_clients(kept, "links")
    assert run.of_clients(kept, "yeom")[0].record["auc"] is not None
